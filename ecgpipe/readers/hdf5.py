"""HDF5 files: CODE-15%'s parts, other arrays of many recordings, and single recordings. Read by h5py.

CODE-15% (https://doi.org/10.5281/zenodo.4916206) has `tracings` (n, 4096, 12) and `exam_id` (n,) in 18 files.

The HDF5 library crashes on some damaged files, never comes back from others, and inflates a chunk to whatever it
holds. So a second process reads, with little memory and little time, and is replaced when it breaks down.
"""

import atexit
import contextlib
import errno
import math
import os
import posixpath
import re
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple, ParamSpec, TypeVar

import h5py
import numpy as np

from ecgpipe.core.leads import LEADS
from ecgpipe.readers.files import brief, size_of
from ecgpipe.readers.moment import momentary
from ecgpipe.readers.recording import (
    MIXED,
    Assumed,
    Content,
    Recording,
    UnreadableError,
    check_size,
    from_array,
    recording_axes,
)

_P = ParamSpec("_P")
_T = TypeVar("_T")

# "The third dimension to the 12 different leads of the ECG exams in the following order [...] sampled at 400 Hz":
# the description of Zenodo 4916206. It states no unit.
CODE_LEADS = ("DI", "DII", "DIII", "AVR", "AVL", "AVF", "V1", "V2", "V3", "V4", "V5", "V6")
CODE_RATE = 400.0

# What files call what they state of their arrays, in capitals or not: as an attribute, or as a dataset beside them.
# A current rate goes before an original one, as in readers.mat.
_RATE = ("sample_rate", "sampling_rate", "sampling_frequency", "curr_sample_rate", "org_sample_rate", "fs", "frequency")
_LEADS = ("leads", "lead_names")
_UNIT = ("unit", "units")
_IDS = ("exam_id", "record_id", "ecg_id", "ids", "id")

# Nobody's file has more; a hostile one can declare any number in a few bytes.
_MOST_OBJECTS = 1_000
_MOST_RECORDINGS = 3_000_000
_MOST_FACT_BYTES = 8 * _MOST_RECORDINGS  # a sample rate of each
_MOST_ID_BYTES = 1_000

# An array that declares more bytes than so many times what the file stores of it holds no recordings. Deflate, the
# best of HDF5's own compressions, reaches 1,032 on zeros; the rest is room for an array that is not full yet.
_MOST_SPARSE = 5_000

# Compressed chunks that several rows share stay in memory between them. h5py chunks (n, 4096, 12) into pieces of some
# hundred rows each; without this, each row would inflate as many chunks again.
_CACHE_BYTES = 128 * 2**20

# What the process that reads may take. The longest recording is 200 MB; a row takes a millisecond.
_MOST_BYTES = 3 * 2**30
_MOST_CPU_S = 10.0
# How long it may take in all. Who computes no more than the above in so long waits for a file server.
_MOST_S = 60.0
_START_S = 120.0  # importing from a cluster's file system may be slow


class _Source(NamedTuple):
    """An open file and the array of it that is read."""

    file: h5py.File
    array: h5py.Dataset
    shape: tuple[int, ...]  # (n, samples, 12), (n, leads, samples), ... or, of a single recording, two axes
    beside: dict[str, h5py.Dataset]  # the file's datasets by name, from its root and from the array's group

    @property
    def many(self) -> bool:
        return len(self.shape) == 3


def read(path: Path, assumed: Assumed, row: int | None = None) -> Recording:
    """Read a recording of an HDF5 file; see `readers.read`.

    Args:
        path: The file. It stays open for the next call, since opening takes longer than reading.
        assumed: For what neither attributes nor datasets of the file state.
        row: On the array's first axis; None for a file with one recording.

    Raises:
        UnreadableError: There is not just one array that can be meant, its data lie in other files, or as `from_array`.
    """
    return _asked(_read, path.absolute(), assumed, row)


def contents(path: Path) -> list[Content] | None:
    """Name the recordings of an HDF5 file by its ids, or by their rows where it has none; see `readers.contents`."""
    return _asked(_contents, path.absolute())


def read_matlab(path: Path, assumed: Assumed) -> Recording:
    """Read a MATLAB 7.3 file, which is HDF5 with its arrays transposed; see `readers.mat`.

    Args:
        path: The file.
        assumed: For the sample rate where the file has none, and for the leads of an array that is not `feats`.

    Returns:
        The recording: of `feats` (12, samples), its rows in fairseq-signals' order, else of the one matrix there is.

    Raises:
        UnreadableError: There are several matrices and none is `feats`, or as `from_array`.
    """
    return _asked(_read_matlab, path.absolute(), assumed)


class _Helper(NamedTuple):
    """The process that reads."""

    process: subprocess.Popen[bytes]
    connection: Connection


_helpers: dict[int, _Helper] = {}  # by the process that it reads for: a fork has none yet


def _asked(function: Callable[_P, _T], *arguments: _P.args, **options: _P.kwargs) -> _T:
    """What the other process answers; its UnreadableError or OSError is raised here.

    Raises:
        UnreadableError: It computes for too long, or breaks down.
        TimeoutError: It waits for too long.
    """
    for _ in range(2):  # the process may have died of something else than this file
        helper = _helpers.get(os.getpid()) or _started()
        try:
            helper.connection.send((function, arguments, options, _MOST_CPU_S))
            if not helper.connection.poll(_MOST_S):
                _stop()
                raise TimeoutError(errno.ETIMEDOUT, f"no answer within {_MOST_S:g} s")
            answer: _T | Exception = helper.connection.recv()
        except (EOFError, ConnectionError):
            if _stop() == -signal.SIGPROF:
                raise UnreadableError(
                    f"the HDF5 file takes too long to read, as damaged ones do (over {_MOST_CPU_S:g} s of computing)"
                ) from None
            continue
        except KeyboardInterrupt:  # an answer may still come, which would be taken for the next one's
            _stop()
            raise
        if isinstance(answer, Exception):
            raise answer
        return answer
    raise UnreadableError("the HDF5 library breaks down over the file, which must be damaged")


def _started() -> _Helper:
    ours, theirs = Pipe()
    command = f"from ecgpipe.readers import hdf5; hdf5._serve({theirs.fileno()}, {_MOST_BYTES})"
    # No filters beyond HDF5's own: they are libraries, which a file would have loaded. One thread, since others only
    # take address space.
    environment = {**os.environ, "HDF5_PLUGIN_PRELOAD": "::", "OPENBLAS_NUM_THREADS": "1"}
    environment["PYTHONPATH"] = os.pathsep.join(folder or str(Path.cwd()) for folder in sys.path)
    process = subprocess.Popen(
        [sys.executable, "-P", "-c", command],
        pass_fds=[theirs.fileno()],
        env=environment,
        stdin=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    theirs.close()
    helper = _helpers[os.getpid()] = _Helper(process, ours)
    try:
        if ours.poll(_START_S):
            ours.recv()
            return helper
    except (EOFError, ConnectionError):
        pass
    _stop()
    # Of a machine or a file system that is too busy, whatever the file is.
    raise TimeoutError(errno.ETIMEDOUT, "the process that reads HDF5 files does not start")


@atexit.register
def _stop() -> int | None:
    """End the process that reads, and say how it ended; None where there is none."""
    helper = _helpers.pop(os.getpid(), None)
    if helper is None:
        return None
    helper.process.kill()  # no more than a formality for one that has ended
    status = helper.process.wait()
    helper.connection.close()
    return status


def _serve(descriptor: int, most_bytes: int) -> None:
    """Answer what `_asked` sends, in the process that reads."""
    connection = Connection(descriptor)
    statm = Path("/proc/self/statm")
    if statm.exists():
        most = int(statm.read_text().split()[0]) * resource.getpagesize() + most_bytes
        limits = [limit for limit in resource.getrlimit(resource.RLIMIT_AS) if limit != resource.RLIM_INFINITY]
        resource.setrlimit(resource.RLIMIT_AS, (min([most, *limits]), resource.getrlimit(resource.RLIMIT_AS)[1]))
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    connection.send("ready")
    with contextlib.suppress(EOFError, ConnectionError):
        while True:
            function, arguments, options, most_cpu_s = connection.recv()
            # The system ends the process when this runs out, also amid compiled code.
            signal.setitimer(signal.ITIMER_PROF, most_cpu_s)
            try:
                answer = function(*arguments, **options)
            except (UnreadableError, OSError) as error:
                answer = error
            signal.setitimer(signal.ITIMER_PROF, 0)
            connection.send(answer)


def _read(path: Path, assumed: Assumed, row: int | None) -> Recording:
    with _reasons():
        source = _opened(path)
        n = source.shape[0] if source.many else 1
        if row is None and n > 1:
            raise UnreadableError(f"the HDF5 file holds many recordings and none was asked for ({n})")
        row = row or 0
        if not 0 <= row < n:
            raise UnreadableError(f"the HDF5 file has no such row ({row} of {n})")
        stated_rate = _rate(source, row)
        leads, unit = _leads(source), _unit(source)
        if _is_code(source):
            stated_rate, leads = stated_rate or CODE_RATE, leads or CODE_LEADS
        shape = source.shape[-2:]
        axis = _lead_axis(shape, leads or assumed.leads)
        check_size(*shape)
        signal = _row(source, row) if source.many else _row(source, None)
        signal = signal.T if axis == 1 else signal  # (leads, samples)
        return from_array(signal, stated_rate, leads, unit, assumed)


def _contents(path: Path) -> list[Content] | None:
    with _reasons():
        source = _open(path)
        with source.file:
            if not source.many:
                return None
            n = source.shape[0]
            ids = _ids(source, n)
            # CODE-15%'s parts end in a row that is no exam.
            if _is_code(source) and ids and ids[-1] == "0" and not _row(source, n - 1).any():
                ids.pop()
            return [Content(row, name) for row, name in enumerate(ids)]


def _read_matlab(path: Path, assumed: Assumed) -> Recording:
    with _reasons():
        source = _open(path, "feats")
        with source.file:
            shape = [source.array.shape[axis] for axis in recording_axes(source.array.shape, many=False)]
            if len(shape) != 2:
                raise UnreadableError(f"the MATLAB array is no matrix ({source.array.name} {source.array.shape})")
            check_size(*shape)
            leads = LEADS if source.array.name == "/feats" else _leads(source)
            return from_array(source.array[()].reshape(shape).T, _rate(source, 0), leads, None, assumed)


@contextlib.contextmanager
def _reasons() -> Iterator[None]:
    try:
        yield
    except (FileNotFoundError, PermissionError):
        _close()
        raise
    except Exception as error:  # h5py raises many kinds on a broken file
        _close()
        if cause := momentary(error):
            raise cause from None  # an error that is sent to another process loses what it was caused by
        if isinstance(error, UnreadableError):
            raise
        raise UnreadableError(f"not a readable HDF5 file ({brief(error)})") from error


_last: dict[tuple[object, ...], _Source] = {}  # the file that was read last, at most one


def _opened(path: Path) -> _Source:
    """The open file, opened anew where it changed or another came in between."""
    stat = path.stat()
    key = (str(path), stat.st_mtime_ns, stat.st_size, stat.st_ino)
    if key not in _last:
        _close()
        source = _open(path)
        _last[key] = source
    return _last[key]


def _close() -> None:
    for source in _last.values():
        source.file.close()
    _last.clear()


def _open(path: Path, preferred: str | None = None) -> _Source:
    """Open a file and find its array; closes it again where there is none."""
    size_of(path)
    # Locks are of no use to readers and fail on many network file systems.
    file = h5py.File(path, "r", locking=False, rdcc_nbytes=_CACHE_BYTES, rdcc_nslots=100_003)
    try:
        datasets, outside = _datasets(file)
        array = _array(datasets, outside, preferred)
        shape = _shape(array)
        if len(shape) == 3 and shape[0] > _MOST_RECORDINGS:
            raise UnreadableError(f"the HDF5 file declares more recordings than are read of one ({shape[0]})")
        if array.size * array.dtype.itemsize > _MOST_SPARSE * array.id.get_storage_size():
            raise UnreadableError(f"the HDF5 array is empty or almost (shape {array.shape})")
        beside = {name.lower(): dataset for name, dataset in datasets.items()}
        beside |= {
            posixpath.relpath(name, posixpath.dirname(array.name[1:]) or ".").lower(): dataset
            for name, dataset in datasets.items()
        }
        return _Source(file, array, shape, beside)
    except BaseException:
        file.close()
        raise


def _datasets(file: h5py.File) -> tuple[dict[str, h5py.Dataset], list[str]]:
    """The datasets of a file whose data lie in it, by name, and the names of what points out of it."""
    datasets: dict[str, h5py.Dataset] = {}
    outside = []
    seen = 0

    def visit(name: str, link: object) -> bool | None:
        nonlocal seen
        seen += 1
        if seen > _MOST_OBJECTS:
            return True  # ends the visit
        if isinstance(link, h5py.ExternalLink):
            outside.append(name)
        # A soft link's target in this file is met by its own name. MATLAB keeps what cells hold below #refs#.
        if not isinstance(link, h5py.HardLink) or name.startswith("#"):
            return None
        found = file[name]
        if isinstance(found, h5py.Dataset):
            # Asking a virtual dataset for its shape already opens the files that it is put together from.
            if found.is_virtual or found.external:
                outside.append(name)
            elif found.shape is not None:
                datasets[name] = found
        return None

    file.visititems_links(visit)
    if seen > _MOST_OBJECTS:
        raise UnreadableError(f"the HDF5 file has too many objects to be one of recordings (over {_MOST_OBJECTS})")
    return datasets, outside


def _array(datasets: dict[str, h5py.Dataset], outside: list[str], preferred: str | None) -> h5py.Dataset:
    """The one array that can be the signal: of three axes, or, where there is none, of two."""
    if preferred in datasets:
        return datasets[preferred]
    numbers = {name: dataset for name, dataset in datasets.items() if dataset.size and _is_numbers(dataset)}
    for axes in (3, 2):
        found = {name: dataset for name, dataset in numbers.items() if len(_shape(dataset)) == axes}
        if axes == 2:
            # Scalars and strings of MATLAB have two axes too, as have columns of labels.
            found = {name: dataset for name, dataset in found.items() if min(_shape(dataset)) > 1}
        if len(found) > 1:
            shapes = ", ".join(f"{name} {dataset.shape}" for name, dataset in sorted(found.items())[:10])
            raise UnreadableError(f"the HDF5 file has several arrays that can be the signal ({shapes})")
        if found:
            return next(iter(found.values()))
    if outside:
        raise UnreadableError(f"the HDF5 file's data lie in other files, which are not followed ({outside[0]})")
    names = ", ".join(sorted(datasets)[:10]) or "nothing"
    raise UnreadableError(f"the HDF5 file has no array of recordings (only {names})")


def _is_numbers(dataset: h5py.Dataset) -> bool:
    try:
        return dataset.dtype.kind in "iuf"
    except TypeError:  # NumPy has no such type
        return False


def _shape(array: h5py.Dataset) -> tuple[int, ...]:
    """Of an array without the axes that say nothing; as it is where two or three are left, or more."""
    return tuple(array.shape[axis] for axis in recording_axes(array.shape))


def _row(source: _Source, row: int | None) -> np.ndarray:
    """A row of the array, or all of it, (leads, samples) or (samples, leads)."""
    check_size(*source.shape[-2:])
    values: np.ndarray = source.array[()] if row is None else source.array[row]
    return values.reshape(source.shape[-2:])


def _is_code(source: _Source) -> bool:
    """Whether the file is made like CODE-15%'s."""
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
    counts = {len(leads)} if leads else {len(LEADS), 8}
    fitting = [axis for axis in (0, 1) if shape[axis] in counts]
    if len(fitting) == 2:
        raise UnreadableError(f"the HDF5 array's shape does not tell which axis the leads are on ({shape})")
    if not fitting:
        what = f"{len(leads)} leads" if leads else "12 or 8 leads"
        raise UnreadableError(f"the array's shape does not fit the number of leads ({shape}, {what})")
    return fitting[0]


def _ids(source: _Source, n: int) -> list[str]:
    """What the file calls its rows, else their numbers."""
    found = next((source.beside[name] for name in _IDS if name in source.beside), None)
    if found is None or found.shape not in ((n,), (n, 1)):
        return [str(row) for row in range(n)]
    if found.dtype.itemsize > _MOST_ID_BYTES:
        raise UnreadableError(f"the HDF5 file's ids are too long ({found.dtype.itemsize} bytes each)")
    ids = []
    for start in range(0, n, 10_000):
        names = [_name_of(value) for value in found[start : start + 10_000].ravel().tolist()]
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


def _rate(source: _Source, row: int) -> float | None:
    """The sample rate that the file states; of one for each row that of the row."""
    for value in _facts(source, _RATE):
        try:
            numbers = np.ravel(value).astype(np.float64)
        except ValueError as error:
            raise UnreadableError(f"the HDF5 file's sample rate is no number ({str(value)[:40]!r})") from error
        if source.many and numbers.size == source.shape[0]:
            numbers = numbers[row : row + 1]
        # What MATLAB keeps of an empty array are zeros.
        if numbers.size == 0 or not numbers.any():
            continue
        if (numbers != numbers[0]).any():
            raise UnreadableError("the HDF5 file does not state one sample rate")
        return float(numbers[0])
    return None


def _leads(source: _Source) -> tuple[str, ...] | None:
    """The names of the leads that the file states: one text for each, or one with commas or spaces between them."""
    for value in _facts(source, _LEADS):
        names = [_name_of(name) for name in np.ravel(value).tolist()]
        if len(names) == 1:
            separator = r"[,;]" if re.search("[,;]", names[0]) else r"\s+"
            names = re.split(separator, names[0].strip("[]() "))
        return tuple(name.strip(" '\"") for name in names)
    return None


def _unit(source: _Source) -> str | None:
    """The unit that the file states of all leads."""
    for value in _facts(source, _UNIT):
        units = {_name_of(unit) for unit in np.ravel(value).tolist()}
        return units.pop() if len(units) == 1 else MIXED
    return None


def _facts(source: _Source, names: tuple[str, ...]) -> Iterator[Any]:
    """What the file states under some names: of the array, of the file, or in a dataset beside it."""
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
    """Refuse a statement, an attribute or a dataset, that is longer than one can be."""
    count = math.prod(fact.shape or ())
    if count * fact.dtype.itemsize > _MOST_FACT_BYTES:
        raise UnreadableError(f"the HDF5 file states its particulars at too great a length ({fact.shape})")
