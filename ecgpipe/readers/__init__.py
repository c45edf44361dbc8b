"""One module per input format, each behind the same small interface.

A format module has `SUFFIXES`, the lower-case endings of the files that stand for a recording, and
`read(path, assumed)`, which returns a `Recording` or raises an `UnreadableError` whose text tells a person why not. To
add a format, write such a module and name it in `FORMATS`.
"""

from pathlib import Path
from types import ModuleType

from ecgpipe.readers import mat, numpy, wfdb
from ecgpipe.readers.recording import LEADS, Assumed, Recording, UnreadableError, spelled

__all__ = ["FORMATS", "LEADS", "SUFFIXES", "Assumed", "Recording", "UnreadableError", "read", "spelled"]

FORMATS: dict[str, ModuleType] = {"mat": mat, "numpy": numpy, "wfdb": wfdb}

# ending -> name of the format
SUFFIXES: dict[str, str] = {suffix: name for name, module in FORMATS.items() for suffix in module.SUFFIXES}


def read(path: Path, format_name: str, assumed: Assumed) -> Recording:
    """Read one recording.

    Args:
        path: The file that stands for it.
        format_name: A key of `FORMATS`.
        assumed: What holds for files that do not say it themselves.

    Returns:
        The recording, its leads named as the file names them.

    Raises:
        UnreadableError: The file is not what its ending promises, or does not say enough.
    """
    try:
        recording: Recording = FORMATS[format_name].read(path, assumed)
    except FileNotFoundError as error:
        raise UnreadableError(f"a file is not there ({Path(error.filename or path).name})") from error
    except PermissionError as error:
        raise UnreadableError(f"no permission to read a file ({Path(error.filename or path).name})") from error
    return recording
