"""Temporary errors: a file server that does not answer says nothing about the file.

Reading is tried again after a pause. If the error persists, nothing may be recorded about the file, and the run has to
be started again. A file that is missing, that may not be read, or that is damaged is another kind of error.
"""

import errno
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from ecgpipe.readers.recording import UnreadableError

_T = TypeVar("_T")

# The answers of a network, a file server, a disk or the limits of this machine; some systems lack some of the names.
_NAMES = (
    "EIO", "ESTALE", "ETIMEDOUT", "EHOSTDOWN", "EHOSTUNREACH", "ENETDOWN", "ENETUNREACH", "ENETRESET", "ECONNABORTED",
    "ECONNREFUSED", "ECONNRESET", "ENOTCONN", "ESHUTDOWN", "EPIPE", "EREMOTEIO", "ENOLINK", "ECOMM", "EKEYEXPIRED",
    "EAGAIN", "EINTR", "EBUSY", "EMFILE", "ENFILE", "ENOBUFS", "ENOLCK",
)  # fmt: skip
MOMENTARY = frozenset(getattr(errno, name) for name in _NAMES if hasattr(errno, name))

# The pause before each further try, in s.
PAUSES_S = (0.5, 2.0, 5.0)


class UnavailableError(UnreadableError):
    """A file that cannot be read at the moment, though it may be valid."""


def momentary(error: BaseException) -> OSError | None:
    """The temporary error that an error is, or was caused by; None if there is none."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and (cause.errno in MOMENTARY or isinstance(cause, TimeoutError)):
            return cause
        cause = cause.__cause__ or (None if cause.__suppress_context__ else cause.__context__)
    return None


def patiently(work: Callable[[], _T], path: str | Path) -> _T:
    """Do something with a file, and try again after a pause if a temporary error is raised.

    Args:
        work: What to do; it may be done several times.
        path: The file, for the message.

    Returns:
        What `work` returns.

    Raises:
        UnavailableError: A temporary error persists.
        Exception: Any other that `work` raises.
    """
    for pause in (*PAUSES_S, None):
        try:
            return work()
        except (OSError, UnreadableError) as error:
            cause = momentary(error)
            if cause is None:
                raise
            if pause is None:
                why = cause.strerror or str(cause) or type(cause).__name__
                raise UnavailableError(f"a file cannot be read at the moment ({path}: {why})") from error
        time.sleep(pause)
    raise AssertionError("the last pause is none")
