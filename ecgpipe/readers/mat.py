"""MATLAB files: fairseq-signals' layout, `feats` (12, samples) and a sampling rate, or one array with its rate.

Upstream: scripts/preprocess/ecg of https://github.com/Jwoo5/fairseq-signals, whose README fixes the order of the rows.
"""

import io
import math
import struct
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ecgpipe.core.leads import LEADS
from ecgpipe.readers.arrays import (
    LEAD_COUNTS,
    MOST_BYTES,
    RATE_NAMES,
    check_matrix,
    from_array,
    rate_of,
    recording_axes,
)
from ecgpipe.readers.files import brief, read_bytes, size_of
from ecgpipe.readers.packages import missing
from ecgpipe.readers.recording import Assumed, Recording, UnreadableError, check_size

_Listed = dict[str, tuple[tuple[int, ...], str]]  # by name: an array's shape, and the kind of its values

# Without the names that end in `frequency`: a file that states several rates is refused, and such a variable may be the
# frequency of something else.
_RATES = tuple(name for name in RATE_NAMES if not name.endswith("frequency"))

# Names of the array that is the ECG if several arrays could be, whatever the capitals.
_ARRAYS = ("val", "ecg", "data", "signal")

_DEEPEST = 3  # levels of nested structs that are searched

_NUMERIC = {"double", "single"} | {f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)}

_HEADER_BYTES = 128
# The format's numbers for the types of values: level 5, table 1-1.
_NUMBERS = {1: "i1", 2: "u1", 3: "<i2", 4: "<u2", 5: "<i4", 6: "<u4", 7: "<f4", 9: "<f8", 12: "<i8", 13: "<u8"}
_COMPRESSED = 15  # miCOMPRESSED, the type of an element that holds another one compressed


def read(path: Path, assumed: Assumed, row: int | None = None) -> Recording:
    """Read a MAT file; see `readers.read`.

    The leads of `feats` are in fairseq-signals' order; those of any other array are taken from `assumed`.
    """
    data = read_bytes(path, 0, MOST_BYTES + 1)
    if len(data) > MOST_BYTES:
        raise UnreadableError(f"too long to read at once ({size_of(path)} bytes)")
    if data.startswith(b"MATLAB 7.3"):
        return _read_7_3(path, assumed)
    arrays = _plain(data)
    if arrays and "feats" in arrays:
        stated = {name.lower(): rate_of(array) for name, array in arrays.items() if array.shape == (1, 1)}
        rate = _rate({name: stated[name] for name in _RATES if name in stated})
        return from_array(arrays["feats"], rate, LEADS, None, assumed)
    # The file is compressed or has another layout: list what it holds.
    import scipy.io  # takes a third of a second, which a job over plain files saves

    try:
        plain = _inflated(data)
        listed = {name: (shape, kind) for name, shape, kind in scipy.io.whosmat(io.BytesIO(plain))}
    except UnreadableError:
        raise
    except Exception as error:  # scipy and zlib raise many kinds on a broken file
        raise UnreadableError(f"not a readable MATLAB file ({brief(error)})") from error
    structs = [name for name, (shape, kind) in listed.items() if kind == "struct" and math.prod(shape) == 1]
    if structs and "feats" not in listed and not _fitting(listed, assumed):
        return _of_struct(plain, structs, listed, assumed)
    name = "feats" if "feats" in listed else _choose(listed, assumed)
    shape, kind = listed[name]
    check_matrix(shape, kind in _NUMERIC, kind)
    rates = [name for name, (shape, kind) in listed.items() if kind in _NUMERIC and shape == (1, 1)]
    rates = [name for name in rates if name.lower() in _RATES]
    content = _loaded(plain, (name, *rates))
    rate = _rate({name.lower(): rate_of(content.get(name)) for name in rates})
    return from_array(content.get(name), rate, LEADS if name == "feats" else None, None, assumed)


def _loaded(plain: bytes, names: Sequence[str]) -> dict[str, Any]:
    """Some variables of a file, as scipy has them."""
    import scipy.io

    try:
        content: dict[str, Any] = scipy.io.loadmat(io.BytesIO(plain), variable_names=names)
    except Exception as error:
        raise UnreadableError(f"not a readable MATLAB file ({brief(error)})") from error
    return content


def _of_struct(plain: bytes, structs: Sequence[str], listed: _Listed, assumed: Assumed) -> Recording:
    """The recording of a file whose structs have it, as CPSC 2018 was published: `ECG` with sex, age and data."""
    content = _loaded(plain, structs)
    fields = dict(field for name in structs for field in _fields(name, content.get(name), _DEEPEST))
    shapes = {name: (array.shape, "double") for name, array in fields.items()}
    name = _choose(shapes | {name: array for name, array in listed.items() if name not in structs}, assumed)
    check_size(1, fields[name].size)
    stated = {name.rpartition(".")[2].lower(): rate_of(array) for name, array in fields.items() if array.size == 1}
    rate = _rate({name: stated[name] for name in _RATES if name in stated})
    return from_array(fields[name], rate, None, None, assumed)


def _fields(name: str, value: object, depth: int) -> Iterator[tuple[str, np.ndarray]]:
    """The numeric arrays in a struct and in structs within it, by their names joined with dots."""
    if not isinstance(value, np.ndarray):
        return
    if value.dtype.names is None:
        if value.dtype.kind in "iuf":
            yield name, value
    elif value.size == 1 and depth:
        for field in value.dtype.names:
            yield from _fields(f"{name}.{field}", value.reshape(-1)[0][field], depth - 1)


def _plain(data: bytes) -> dict[str, np.ndarray] | None:
    """The arrays of a file of uncompressed matrices of real numbers, as fairseq-signals writes them; else None.

    Level 5 of the format: https://www.mathworks.com/help/pdf_doc/matlab/matfile_format.pdf. scipy takes three times as
    long, and reads every file that differs in the least.
    """
    if data[124:128] != b"\0\1IM":
        return None
    arrays: dict[str, np.ndarray] = {}
    at = _HEADER_BYTES
    try:
        while at < len(data):
            kind, size = struct.unpack_from("<2I", data, at)
            flags_kind, flags_at, flags_size, shape_tag = _part(data, at + 8)
            shape_kind, shape_at, shape_size, name_tag = _part(data, shape_tag)
            name_kind, name_at, name_size, values_tag = _part(data, name_tag)
            values_kind, values_at, values_size, _ = _part(data, values_tag)
            at += 8 + size
            (flags,) = struct.unpack_from("<I", data, flags_at)
            rows, columns = struct.unpack_from("<2i", data, shape_at)
            tags = (kind, flags_kind, flags_size, shape_kind, shape_size, name_kind)
            if tags != (14, 6, 8, 5, 8, 1) or not 6 <= flags <= 15 or values_kind not in _NUMBERS:
                return None
            dtype = np.dtype(_NUMBERS[values_kind])
            name = data[name_at : name_at + name_size].decode("ascii")
            fits = min(rows, columns) >= 0 and values_size == rows * columns * dtype.itemsize
            if not fits or values_at + values_size > at or at > len(data) or name in arrays:
                return None
            values = np.frombuffer(data, dtype, rows * columns, values_at)
            arrays[name] = values.reshape(columns, rows).T  # (rows, columns), stored column by column
    except (struct.error, UnicodeDecodeError):
        return None
    return arrays


def _part(data: bytes, at: int) -> tuple[int, int, int, int]:
    """The kind, beginning and size of a part, and where the next one begins. A small one stands in its own tag."""
    kind, size = struct.unpack_from("<2I", data, at)
    if kind >> 16:
        return kind & 0xFFFF, at + 4, kind >> 16, at + 8
    return kind, at + 8, size, at + 8 + -(-size // 8) * 8


def _fitting(listed: _Listed, assumed: Assumed) -> list[str]:
    """The arrays that can be an ECG by their shape."""
    counts = LEAD_COUNTS if assumed.leads is None else {len(assumed.leads)}
    fitting = []
    for name, (whole, kind) in listed.items():
        shape = [whole[axis] for axis in recording_axes(whole, many=False)]
        if kind in _NUMERIC and len(shape) == 2 and min(shape) > 0 and not counts.isdisjoint(shape):
            fitting.append(name)
    return fitting


def _choose(listed: _Listed, assumed: Assumed) -> str:
    """The one array that can be an ECG by its shape."""
    fitting = _fitting(listed, assumed)
    named = [name for name in fitting if name.rpartition(".")[2].lower() in _ARRAYS]
    if len(fitting) == 1 or len(named) == 1:
        return (named or fitting)[0]
    names = ", ".join(listed)[:200] or "nothing"
    if not fitting:
        raise UnreadableError(f"the MATLAB file has no array `feats`, nor one with a row for each lead (only {names})")
    raise UnreadableError(f"the MATLAB file has several arrays that could be the ECG ({', '.join(fitting)[:200]})")


def _rate(stated: dict[str, float | None]) -> float | None:
    rates = {name: rate for name, rate in stated.items() if rate}
    if "curr_sample_rate" in rates:
        rates.pop("org_sample_rate", None)
    if len(set(rates.values())) > 1:
        raise UnreadableError(f"the file states several sampling rates ({', '.join(f'{r:g}' for r in rates.values())})")
    return next(iter(rates.values()), None)


def _inflated(data: bytes) -> bytes:
    """Decompress the file up to a limit; scipy would decompress any size.

    Level 5 of the format: https://www.mathworks.com/help/pdf_doc/matlab/matfile_format.pdf.
    """
    order = {b"IM": "<", b"MI": ">"}.get(data[126:128])
    if order is None:  # level 4, which knows no compression
        return data
    pieces, at, inflated = [data[:_HEADER_BYTES]], _HEADER_BYTES, 0
    while at + 8 <= len(data):
        kind, size = struct.unpack_from(f"{order}2I", data, at)
        end = at + 8 + size
        if kind == _COMPRESSED:
            pieces.append(zlib.decompressobj().decompress(data[at + 8 : end], MOST_BYTES - inflated + 1))
            inflated += len(pieces[-1])
            if inflated > MOST_BYTES:
                raise UnreadableError(f"too long to read at once (more than {MOST_BYTES} bytes)")
        else:
            pieces.append(data[at:end])
        at = end
    return b"".join(pieces) if inflated else data


def _read_7_3(path: Path, assumed: Assumed) -> Recording:
    try:
        from ecgpipe.readers.hdf5 import read_matlab
    except ModuleNotFoundError as error:
        if error.name != "h5py":
            raise
        raise UnreadableError(missing("a file of MATLAB 7.3", "h5py", "hdf5")) from error
    recording: Recording = read_matlab(path, assumed)
    return recording
