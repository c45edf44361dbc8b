"""One module per input format, each behind the same small interface.

A format's module has `read(path, assumed, row)`, which returns a `Recording` or raises an `UnreadableError` whose text
says why not. If the format's files may hold many recordings, it also has `contents(path)`, which names them. To add a
format, write such a module, list it in `FORMATS`, and let `detect` recognise its files.
"""

import importlib
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

from ecgpipe.core.leads import LEADS, spell_leads
from ecgpipe.readers.filling import without_filling
from ecgpipe.readers.packages import is_installed, missing
from ecgpipe.readers.recording import MIXED, MOST_VALUES, Assumed, Content, Recording, UnreadableError
from ecgpipe.readers.temporary_errors import UnavailableError, patiently

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
    "spell_leads",
    "without_filling",
]


class Format(NamedTuple):
    """The module that reads a format, and the packages that it needs."""

    module: str  # below ecgpipe.readers
    needs: str | None = None  # a package that ecgpipe does not install by default
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
        assumed: What is assumed of files that do not state it.
        row: Which recording, if the file holds many.

    Returns:
        The recording without filling at its ends (`without_filling`), its leads named as in the file.

    Raises:
        UnreadableError: The file is not of this format, does not state enough, or its package is not installed.
        UnavailableError: It cannot be read at the moment, also after some pauses.
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
        The recordings of a file that can hold many, in order; None for a single recording.

    Raises:
        UnreadableError, UnavailableError: As `read`.
    """
    if not FORMATS[format_name].many:
        return None
    module = _module(format_name)
    try:
        recordings: list[Content] | None = patiently(lambda: module.contents(path), path)
    except FileNotFoundError as error:
        raise UnreadableError(f"a file is not there ({path.name})") from error
    except PermissionError as error:
        raise UnreadableError(f"no permission to read a file ({path.name})") from error
    return recordings


def missing_package(format_name: str) -> str | None:
    """Why no file of a format can be read if its package is not installed; None if it is installed."""
    form = FORMATS[format_name]
    if form.needs is None or form.extra is None or is_installed(form.needs):
        return None
    return missing(format_name, form.needs, form.extra)


def _module(format_name: str) -> ModuleType:
    """The format's module, imported when its first file is read."""
    module, needs, extra, _ = FORMATS[format_name]
    try:
        return importlib.import_module(f"ecgpipe.readers.{module}")
    except ModuleNotFoundError as error:
        if needs is None or extra is None or error.name != needs:
            raise
        raise UnreadableError(missing(format_name, needs, extra)) from error
