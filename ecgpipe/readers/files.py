"""Read files of unknown kind: never waits for a pipe, never reads a device."""

import os
import stat
from pathlib import Path

from ecgpipe.readers.recording import UnreadableError


def size_of(path: Path) -> int:
    """The size of a regular file in bytes.

    Raises:
        UnreadableError: It is not a regular file, or cannot be accessed.
        FileNotFoundError, PermissionError: `readers.read` turns them into reasons.
    """
    try:
        status = path.stat()
    except (FileNotFoundError, PermissionError):
        raise
    except (OSError, ValueError) as error:  # links in a loop, a name too long or with a null character
        raise UnreadableError(f"not a file that can be opened ({brief(error)})") from error
    if not stat.S_ISREG(status.st_mode):
        raise UnreadableError(f"not a file that holds anything ({path.name})")
    return status.st_size


def read_bytes(path: Path, start: int, size: int) -> bytes:
    """Read up to `size` bytes of a regular file.

    Raises:
        UnreadableError: It is not a regular file, or reading it fails.
        FileNotFoundError, PermissionError: `readers.read` turns them into reasons.
    """
    try:
        with open(path, "rb", buffering=0, opener=_open) as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise UnreadableError(f"not a file that holds anything ({path.name})")
            if start:
                file.seek(start)
            # Memory is allocated for all bytes asked for, so no more than the file has.
            return file.read(max(0, min(size, status.st_size - start))) or b""
    except (FileNotFoundError, PermissionError):
        raise
    except IsADirectoryError as error:
        raise UnreadableError(f"not a file that holds anything ({path.name})") from error
    except (OSError, ValueError) as error:
        raise UnreadableError(f"not a file that can be opened ({brief(error)})") from error


def brief(message: object, path: Path | None = None) -> str:
    """A library's error or message in one line, for the brackets of a reason.

    Args:
        message: The error or message.
        path: A file whose folder is left out of it.
    """
    text = str(message)
    if path is not None:
        text = text.replace(str(path), path.name)
    return " ".join(text.split())[:200]


def unreadable(name: str, error: Exception, path: Path | None = None) -> UnreadableError:
    """The reason for an error of a library that reads a format.

    Args:
        name: Of the format.
        error: What the library raised.
        path: As of `brief`.
    """
    return UnreadableError(f"not a readable {name} file ({brief(str(error) or type(error).__name__, path)})")


def _open(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))
