"""NumPy files: a bare array in .npy, or `signal`, `sample_rate`, `leads` and `unit` in .npz. Never with pickles.

A .npy with three axes holds many recordings: (recordings, leads, samples) or (recordings, samples, leads). Further axes
of length 1 are ignored.
"""

import math
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import numpy as np

from ecgpipe.readers.arrays import check_matrix, from_array, rate_of, recording_axes
from ecgpipe.readers.files import brief, read_bytes
from ecgpipe.readers.recording import Assumed, Content, Recording, UnreadableError
from ecgpipe.readers.temporary_errors import momentary

_NPZ = b"PK\x03\x04"

# The largest size of `leads`, `unit` and `sample_rate`.
_MOST_TEXT_BYTES = 100_000


def read(path: Path, assumed: Assumed, row: int | None = None) -> Recording:
    """Read an NPY or NPZ file; see `readers.read`."""
    if _is_npz(path):
        return _read_npz(path, assumed)
    array = _mapped(path)
    if row is not None:
        if array.ndim != 3 or not 0 <= row < len(array):
            raise UnreadableError(f"the file has no such recording ({row}, the array's shape is {array.shape})")
        array = array[row]
    elif array.ndim == 3 and len(array) == 1:
        array = array[0]
    elif array.ndim == 3:
        raise UnreadableError(f"the file holds many recordings and none was asked for ({len(array)})")
    return from_array(np.asarray(array), None, None, None, assumed)


def contents(path: Path) -> list[Content] | None:
    """Name the recordings of a .npy file with three axes by their rows; see `readers.contents`."""
    if _is_npz(path):
        return None
    if _axes(path) == 2:  # most files are; mapping takes longer
        return None
    array = _mapped(path)
    if array.ndim != 3 or 0 in array.shape:  # rows without values could be any number
        return None
    return [Content(row, str(row)) for row in range(len(array))]


def _is_npz(path: Path) -> bool:
    return read_bytes(path, 0, len(_NPZ)) == _NPZ


def _axes(path: Path) -> int | None:
    """The number of axes of a .npy file's array; None if that cannot be found out quickly."""
    try:
        with path.open("rb") as file:
            if np.lib.format.read_magic(file) != (1, 0):
                return None
            return len(np.lib.format.read_array_header_1_0(file)[0])
    except (OSError, ValueError) as error:
        if momentary(error):
            raise
        return None


def _mapped(path: Path) -> np.ndarray:
    """The array of a .npy file, mapped into memory: values are read when they are used."""
    try:
        # This mode refuses pickles, and arrays that are larger than the file.
        with np.errstate(over="ignore"):  # of a shape that is too large by far
            array: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
        return array.reshape([array.shape[axis] for axis in recording_axes(array.shape)])
    except (FileNotFoundError, PermissionError):
        raise
    except Exception as error:  # numpy raises many kinds on a broken file
        raise UnreadableError(f"not a readable NumPy file ({brief(error)})") from error


def _read_npz(path: Path, assumed: Assumed) -> Recording:
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")]
            if "signal" not in names:
                raise UnreadableError(
                    f"the NPZ file has no array `signal` (only {', '.join(names)[:200] or 'nothing'})"
                )
            signal = _member(archive, "signal", None)
            rate, leads, unit = (
                _member(archive, name, _MOST_TEXT_BYTES) if name in names else None
                for name in ("sample_rate", "leads", "unit")
            )
    except (FileNotFoundError, PermissionError, UnreadableError):
        raise
    except Exception as error:  # numpy, zipfile and zlib raise many kinds on a broken file
        raise UnreadableError(f"not a readable NumPy file ({brief(error)})") from error
    return from_array(signal, rate_of(rate) or None, tuple(_texts(leads)) or None, next(_texts(unit), None), assumed)


def _member(archive: zipfile.ZipFile, name: str, most_bytes: int | None) -> np.ndarray:
    """One array, whose size is checked before it is decompressed."""
    info = archive.getinfo(f"{name}.npy")
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):  # Python inflates others without bounds
        raise UnreadableError(f"the NPZ file is compressed in a way that NumPy does not write ({info.compress_type})")
    with archive.open(info) as file:
        shape, dtype = _shape(file)
    if most_bytes is None:
        check_matrix(shape, np.issubdtype(dtype, np.number), dtype)
    elif math.prod(shape) * dtype.itemsize > most_bytes:
        raise UnreadableError(f"the NPZ file's `{name}` is too long (shape {shape})")
    with archive.open(info) as file:
        array: np.ndarray = np.lib.format.read_array(file, allow_pickle=False)
    return array


def _shape(file: IO[bytes]) -> tuple[tuple[int, ...], np.dtype]:
    """The shape and type of an array, by its .npy header."""
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(file)
    if dtype.hasobject:
        raise ValueError("Object arrays cannot be loaded when allow_pickle=False")
    return shape, dtype


def _texts(array: np.ndarray | None) -> Iterator[str]:
    for value in np.ravel(array) if array is not None else ():
        yield value.decode(errors="replace") if isinstance(value, bytes) else str(value)
