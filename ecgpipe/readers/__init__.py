"""One module per input format, each behind the same small interface.

A format module has `read(path, assumed, row)`, which returns a `Recording` or raises an `UnreadableError` whose text
tells a person why not. One whose files may hold many recordings also has `contents(path)`, which names them. To add a
format, write such a module, name it in `FORMATS`, and say in `detect` how its files are told.
"""

import importlib
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

from ecgpipe.core.leads import LEADS, spelled
from ecgpipe.readers.filling import without_filling
from ecgpipe.readers.moment import UnavailableError, patiently
from ecgpipe.readers.packages import is_installed, missing
from ecgpipe.readers.recording import MIXED, MOST_VALUES, Assumed, Content, Recording, UnreadableError

__all__ = [
    "FORMATS",
    "LEADS",
    "MIXED",
    "MOST_VALUES",
    "Assumed",
    "Content",
    "Recording",
    "UnavailableError",
    "UnreadableError",
    "contents",
    "missing_package",
    "read",
    "spelled",
    "without_filling",
]


class Format(NamedTuple):
    """Where a format is read, and what that takes."""

    module: str  # below ecgpipe.readers
    needs: str | None = None  # the package that ecgpipe does not install by itself
    extra: str | None = None  # ecgpipe's extra that installs it
    many: bool = False  # a file may hold several recordings


FORMATS = {
    "wfdb": Format("wfdb"),
    "mat": Format("mat"),
    "numpy": Format("numpy", many=True),
    "csv": Format("csv"),
    "parquet": Format("parquet"),
    "hdf5": Format("hdf5", "h5py", "hdf5", many=True),
    "edf": Format("edf", "edfio", "edf"),
    "dicom": Format("dicom", "pydicom", "dicom"),
    "muse-xml": Format("ecgdatakit", "ecgdatakit", "vendor"),
    "sierra-xml": Format("ecgdatakit", "ecgdatakit", "vendor"),
    "hl7-aecg": Format("ecgdatakit", "ecgdatakit", "vendor"),
    "scp-ecg": Format("ecgdatakit", "ecgdatakit", "vendor"),
    "cardiosoft-xml": Format("cardiosoft", "ecgdatakit", "vendor"),
    "mortara-xml": Format("ecgdatakit", "ecgdatakit", "vendor"),
    "kardia-json": Format("ecgdatakit", "ecgdatakit", "vendor"),
    "mfer": Format("ecgdatakit", "ecgdatakit", "vendor"),
    "ishne": Format("ishne"),
}


def read(path: Path, format_name: str, assumed: Assumed, row: int | None = None) -> Recording:
    """Read one recording.

    Args:
        path: The file that stands for it.
        format_name: A key of `FORMATS`.
        assumed: What holds for files that do not say it themselves.
        row: Which recording of a file that holds many.

    Returns:
        The recording without what fills up its ends (`without_filling`), its leads named as the file names them.

    Raises:
        UnreadableError: The file is not what it seemed to be, does not say enough, or its package is not installed.
        UnavailableError: It cannot be read now, and could not after some pauses.
    """
    module = _module(format_name)
    try:
        recording: Recording = patiently(lambda: module.read(path, assumed, row), path)
    except FileNotFoundError as error:
        raise UnreadableError(f"a file is not there ({Path(error.filename or path).name})") from error
    except PermissionError as error:
        raise UnreadableError(f"no permission to read a file ({Path(error.filename or path).name})") from error
    return without_filling(recording)


def contents(path: Path, format_name: str) -> list[Content] | None:
    """Name the recordings of a file.

    Args:
        path: The file.
        format_name: A key of `FORMATS`.

    Returns:
        The recordings of a file that holds many, in order; None for one that is a single recording.

    Raises:
        UnreadableError, UnavailableError: As `read`.
    """
    if not FORMATS[format_name].many:
        return None
    module = _module(format_name)
    try:
        found: list[Content] | None = patiently(lambda: module.contents(path), path)
    except FileNotFoundError as error:
        raise UnreadableError(f"a file is not there ({path.name})") from error
    except PermissionError as error:
        raise UnreadableError(f"no permission to read a file ({path.name})") from error
    return found


def missing_package(format_name: str) -> str | None:
    """Why no file of a format can be read, where its package is not installed; else None."""
    form = FORMATS[format_name]
    if form.needs is None or form.extra is None or is_installed(form.needs):
        return None
    return missing(format_name, form.needs, form.extra)


def _module(format_name: str) -> ModuleType:
    """The format's module, imported only when a file asks for it."""
    module, needs, extra, _ = FORMATS[format_name]
    try:
        return importlib.import_module(f"ecgpipe.readers.{module}")
    except ModuleNotFoundError as error:
        if needs is None or extra is None or error.name != needs:
            raise
        raise UnreadableError(missing(format_name, needs, extra)) from error
