"""Errors of the moment: a file server that does not answer now says nothing of the file.

They are tried again after a pause. Where they persist, nothing may be recorded of the file: the run has to be given
again. A file that is not there, or that nobody may read, is of another kind, and so is what is wrong in a file.
"""

import errno
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from ecgpipe.readers.recording import UnreadableError

_T = TypeVar("_T")

# What a network, a file server, a disk or the limits of this machine answer; some systems lack some of the names.
_NAMES = (
    "EIO", "ESTALE", "ETIMEDOUT", "EHOSTDOWN", "EHOSTUNREACH", "ENETDOWN", "ENETUNREACH", "ENETRESET", "ECONNABORTED",
    "ECONNREFUSED", "ECONNRESET", "ENOTCONN", "ESHUTDOWN", "EPIPE", "EREMOTEIO", "ENOLINK", "ECOMM", "EKEYEXPIRED",
    "EAGAIN", "EINTR", "EBUSY", "EMFILE", "ENFILE", "ENOBUFS", "ENOLCK",
)  # fmt: skip
MOMENTARY = frozenset(getattr(errno, name) for name in _NAMES if hasattr(errno, name))

# How long is waited before each further try, in s.
PAUSES_S = (0.5, 2.0, 5.0)


class UnavailableError(UnreadableError):
    """A file that cannot be read now, though nothing may be wrong with it."""


def momentary(error: BaseException) -> OSError | None:
    """The error of the moment that another one was caused by, or is; None where there is none."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, OSError) and (seen.errno in MOMENTARY or isinstance(seen, TimeoutError)):
            return seen
        seen = seen.__cause__ or (None if seen.__suppress_context__ else seen.__context__)
    return None


def patiently(work: Callable[[], _T], path: str | Path) -> _T:
    """Do something with a file, again after a pause where an error of the moment came in between.

    Args:
        work: What to do; it may be done several times.
        path: Of the file, for the message.

    Returns:
        What `work` returns.

    Raises:
        UnavailableError: An error of the moment persists.
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
