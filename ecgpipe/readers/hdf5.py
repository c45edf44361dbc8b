"""HDF5 files: CODE-15%'s parts, other arrays of many recordings, and single recordings. Read by h5py.

CODE-15% (https://doi.org/10.5281/zenodo.4916206) has `tracings` (n, 4096, 12) and `exam_id` (n,) in 18 files.

The HDF5 library crashes on some damaged files, never comes back from others, and inflates a chunk to whatever it
holds. So another process reads, by `reading_process`.
"""

import contextlib
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from ecgpipe.core.leads import LEADS
from ecgpipe.readers import reading_process
from ecgpipe.readers.arrays import LEAD_COUNTS, RATE_NAMES, from_array, recording_axes
from ecgpipe.readers.files import brief
from ecgpipe.readers.hdf5_file import MOST_RECORDINGS, Source, close_kept, open_kept, open_source
from ecgpipe.readers.recording import MIXED, Assumed, Content, Recording, UnreadableError, check_size
from ecgpipe.readers.temporary_errors import momentary

# "The third dimension to the 12 different leads of the ECG exams in the following order [...] sampled at 400 Hz":
# the description of Zenodo 4916206. It states no unit.
CODE_LEADS = ("DI", "DII", "DIII", "AVR", "AVL", "AVF", "V1", "V2", "V3", "V4", "V5", "V6")
CODE_RATE = 400.0

# What files call the particulars of their arrays, whatever the capitals: as an attribute, or as a dataset beside them.
_LEADS = ("leads", "lead_names")
_UNIT = ("unit", "units")
_IDS = ("exam_id", "record_id", "ecg_id", "ids", "id")

_MOST_FACT_BYTES = 8 * MOST_RECORDINGS  # a sampling rate of each
_MOST_ID_BYTES = 1_000


def read(path: Path, assumed: Assumed, row: int | None = None) -> Recording:
    """Read a recording of an HDF5 file; see `readers.read`.

    Args:
        path: The file. It stays open for the next call, since opening takes longer than reading.
        assumed: For facts that neither attributes nor datasets of the file state.
        row: On the array's first axis; None for a file with one recording.

    Raises:
        UnreadableError: Not exactly one array can be the signal, its data lie in other files, or as `from_array`.
    """
    return reading_process.ask(_read, path.absolute(), assumed, row)


def contents(path: Path) -> list[Content] | None:
    """Name the recordings of an HDF5 file by its ids, or by their rows where it has none; see `readers.contents`."""
    return reading_process.ask(_contents, path.absolute())


def read_matlab(path: Path, assumed: Assumed) -> Recording:
    """Read a MATLAB 7.3 file, which is HDF5 with its arrays transposed; see `readers.mat`.

    Args:
        path: The file.
        assumed: For the sampling rate where the file has none, and for the leads of an array that is not `feats`.

    Returns:
        The recording: of `feats` (12, samples), its rows in fairseq-signals' order, else of the one matrix there is.

    Raises:
        UnreadableError: There are several matrices and none is `feats`, or as `from_array`.
    """
    return reading_process.ask(_read_matlab, path.absolute(), assumed)


def _read(path: Path, assumed: Assumed, row: int | None) -> Recording:
    """`read`, in the process that reads."""
    with _reasons():
        source = open_kept(path)
        n = source.shape[0] if source.many else 1
        if row is None and n > 1:
            raise UnreadableError(f"the HDF5 file holds many recordings and none was asked for ({n})")
        row = row or 0
        if not 0 <= row < n:
            raise UnreadableError(f"the HDF5 file has no such row ({row} of {n})")
        stated_rate = _rate(source, row)
        leads, unit = _leads(source), _unit(source)
        if _is_code15(source):
            stated_rate, leads = stated_rate or CODE_RATE, leads or CODE_LEADS
        shape = source.shape[-2:]
        axis = _lead_axis(shape, leads or assumed.leads)
        check_size(*shape)
        signal = _read_row(source, row if source.many else None)
        signal = signal.T if axis == 1 else signal  # (leads, samples)
        return from_array(signal, stated_rate, leads, unit, assumed)


def _contents(path: Path) -> list[Content] | None:
    """`contents`, in the process that reads."""
    with _reasons():
        source = open_source(path)
        with source.file:
            if not source.many:
                return None
            n = source.shape[0]
            ids = _ids(source, n)
            # CODE-15%'s parts end in a row that is no exam.
            if _is_code15(source) and ids and ids[-1] == "0" and not _read_row(source, n - 1).any():
                ids.pop()
            return [Content(row, name) for row, name in enumerate(ids)]


def _read_matlab(path: Path, assumed: Assumed) -> Recording:
    """`read_matlab`, in the process that reads."""
    with _reasons():
        source = open_source(path, "feats")
        with source.file:
            shape = [source.array.shape[axis] for axis in recording_axes(source.array.shape, many=False)]
            if len(shape) != 2:
                raise UnreadableError(f"the MATLAB array is no matrix ({source.array.name} {source.array.shape})")
            check_size(*shape)
            leads = LEADS if source.array.name == "/feats" else _leads(source)
            return from_array(source.array[()].reshape(shape).T, _rate(source, 0), leads, None, assumed)


@contextlib.contextmanager
def _reasons() -> Iterator[None]:
    """Close the file when an error is raised, and say why it cannot be read."""
    try:
        yield
    except (FileNotFoundError, PermissionError):
        close_kept()
        raise
    except Exception as error:  # h5py raises many kinds on a broken file
        close_kept()
        if cause := momentary(error):
            raise cause from None  # an error that is sent to another process loses its cause
        if isinstance(error, UnreadableError):
            raise
        raise UnreadableError(f"not a readable HDF5 file ({brief(error)})") from error


def _read_row(source: Source, row: int | None) -> np.ndarray:
    """A row of the array, or all of it, (leads, samples) or (samples, leads)."""
    check_size(*source.shape[-2:])
    values: np.ndarray = source.array[()] if row is None else source.array[row]
    return values.reshape(source.shape[-2:])


def _is_code15(source: Source) -> bool:
    """Whether the file has the layout of CODE-15%."""
    ids = source.beside.get("exam_id")
    return (
        source.many
        and source.array.name == "/tracings"
        and source.shape[2] == len(CODE_LEADS)
        and ids is not None
        and ids.name == "/exam_id"
        and ids.shape == source.shape[:1]
    )


def _lead_axis(shape: tuple[int, ...], leads: tuple[str, ...] | None) -> int:
    """Which of the two axes the leads are on."""
    counts = {len(leads)} if leads else LEAD_COUNTS
    fitting = [axis for axis in (0, 1) if shape[axis] in counts]
    if len(fitting) == 2:
        raise UnreadableError(f"the HDF5 array's shape does not tell which axis the leads are on ({shape})")
    if not fitting:
        what = f"{len(leads)} leads" if leads else "12 or 8 leads"
        raise UnreadableError(f"the array's shape does not fit the number of leads ({shape}, {what})")
    return fitting[0]


def _ids(source: Source, n: int) -> list[str]:
    """The ids of the rows that the file states, or else their numbers."""
    column = next((source.beside[name] for name in _IDS if name in source.beside), None)
    if column is None or column.shape not in ((n,), (n, 1)):
        return [str(row) for row in range(n)]
    if column.dtype.itemsize > _MOST_ID_BYTES:
        raise UnreadableError(f"the HDF5 file's ids are too long ({column.dtype.itemsize} bytes each)")
    ids = []
    for start in range(0, n, 10_000):
        names = [_name_of(value) for value in column[start : start + 10_000].ravel().tolist()]
        if max(map(len, names)) > _MOST_ID_BYTES:
            raise UnreadableError(f"the HDF5 file's ids are too long ({max(map(len, names))} characters)")
        ids += names
    return ids


def _name_of(value: object) -> str:
    if isinstance(value, bytes):
        return value.decode("utf-8", errors="replace")
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)


def _rate(source: Source, row: int) -> float | None:
    """The sampling rate that the file states; that of the row if it states one for each."""
    for value in _facts(source, RATE_NAMES):
        try:
            numbers = np.ravel(value).astype(np.float64)
        except ValueError as error:
            raise UnreadableError(f"the HDF5 file's sampling rate is not a number ({str(value)[:40]!r})") from error
        if source.many and numbers.size == source.shape[0]:
            numbers = numbers[row : row + 1]
        # MATLAB keeps zeros of an empty array.
        if numbers.size == 0 or not numbers.any():
            continue
        if (numbers != numbers[0]).any():
            raise UnreadableError("the HDF5 file does not state one sampling rate")
        return float(numbers[0])
    return None


def _leads(source: Source) -> tuple[str, ...] | None:
    """The lead names that the file states: a text for each, or a single text with commas or spaces between them."""
    for value in _facts(source, _LEADS):
        names = [_name_of(name) for name in np.ravel(value).tolist()]
        if len(names) == 1:
            separator = r"[,;]" if re.search("[,;]", names[0]) else r"\s+"
            names = re.split(separator, names[0].strip("[]() "))
        return tuple(name.strip(" '\"") for name in names)
    return None


def _unit(source: Source) -> str | None:
    """The unit that the file states for all leads."""
    for value in _facts(source, _UNIT):
        units = {_name_of(unit) for unit in np.ravel(value).tolist()}
        return units.pop() if len(units) == 1 else MIXED
    return None


def _facts(source: Source, names: tuple[str, ...]) -> Iterator[Any]:
    """The values that the file states under some names: attributes of the array or the file, or datasets beside it."""
    for attributes in (source.array.attrs, source.file.attrs):
        present = {name.lower(): name for name in attributes}
        for name in names:
            if name in present:
                _check_fact(attributes.get_id(present[name]))
                yield attributes[present[name]]
    for name in names:
        dataset = source.beside.get(name)
        if dataset is not None and dataset.name != source.array.name:
            _check_fact(dataset)
            yield dataset[()]


def _check_fact(fact: h5py.Dataset | h5py.h5a.AttrID) -> None:
    """Refuse an attribute or a dataset that is too large for what it states."""
    count = math.prod(fact.shape or ())
    if count * fact.dtype.itemsize > _MOST_FACT_BYTES:
        raise UnreadableError(f"the HDF5 file states its particulars at too great a length ({fact.shape})")
