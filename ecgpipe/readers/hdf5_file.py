"""Open HDF5 files, and find the one array in each that holds the signal; runs in the process of `reading_process`."""

import posixpath
from pathlib import Path
from typing import NamedTuple

import h5py

from ecgpipe.readers.arrays import recording_axes
from ecgpipe.readers.files import size_of
from ecgpipe.readers.recording import UnreadableError

# No real file has more; a hostile file can declare any number in a few bytes.
_MOST_OBJECTS = 1_000
MOST_RECORDINGS = 3_000_000

# An array that declares this many times the bytes that the file stores of it holds no recordings. Deflate, the
# best of HDF5's own compressions, reaches 1,032 on zeros; the rest is room for an array that is not full yet.
_MOST_SPARSE = 5_000

# Compressed chunks that several rows share stay in memory between them. h5py chunks (n, 4096, 12) into pieces of some
# hundred rows each; without this, each row would inflate as many chunks again.
_CACHE_BYTES = 128 * 2**20


class Source(NamedTuple):
    """An open file, and its array that is read."""

    file: h5py.File
    array: h5py.Dataset
    shape: tuple[int, ...]  # (n, samples, 12), (n, leads, samples), ... or, of a single recording, two axes
    beside: dict[str, h5py.Dataset]  # the file's datasets by name, from its root and from the array's group

    @property
    def many(self) -> bool:
        """Whether it can hold several recordings."""
        return len(self.shape) == 3


_kept: dict[tuple[object, ...], Source] = {}  # the file that was read last; at most one


def open_kept(path: Path) -> Source:
    """The open file: kept from the last call, or opened if it changed or another file was read since."""
    stat = path.stat()
    key = (str(path), stat.st_mtime_ns, stat.st_size, stat.st_ino)
    if key not in _kept:
        close_kept()
        source = open_source(path)
        _kept[key] = source
    return _kept[key]


def close_kept() -> None:
    """Close the file that was kept open."""
    for source in _kept.values():
        source.file.close()
    _kept.clear()


def open_source(path: Path, preferred: str | None = None) -> Source:
    """Open a file, and find its array.

    Args:
        path: The file.
        preferred: The name of an array that is taken if the file has it.

    Raises:
        UnreadableError: The file has no array of recordings, several, or one that is mostly declared; it is closed.
    """
    size_of(path)
    # Readers need no locks, which fail on many network file systems.
    file = h5py.File(path, "r", locking=False, rdcc_nbytes=_CACHE_BYTES, rdcc_nslots=100_003)
    try:
        datasets, outside = _list_datasets(file)
        array = _find_array(datasets, outside, preferred)
        shape = _recording_shape(array)
        if len(shape) == 3 and shape[0] > MOST_RECORDINGS:
            raise UnreadableError(f"the HDF5 file declares more recordings than are read of one ({shape[0]})")
        if array.size * array.dtype.itemsize > _MOST_SPARSE * array.id.get_storage_size():
            raise UnreadableError(f"the HDF5 array is empty or almost (shape {array.shape})")
        beside = {name.lower(): dataset for name, dataset in datasets.items()}
        beside |= {
            posixpath.relpath(name, posixpath.dirname(array.name[1:]) or ".").lower(): dataset
            for name, dataset in datasets.items()
        }
        return Source(file, array, shape, beside)
    except BaseException:
        file.close()
        raise


def _list_datasets(file: h5py.File) -> tuple[dict[str, h5py.Dataset], list[str]]:
    """The datasets whose data lie in the file itself, by name, and the names of links out of the file."""
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
        # A soft link's target in this file has a name of its own. MATLAB keeps the contents of cells below #refs#.
        if not isinstance(link, h5py.HardLink) or name.startswith("#"):
            return None
        item = file[name]
        if isinstance(item, h5py.Dataset):
            # Reading the shape of a virtual dataset would already open the files that it consists of.
            if item.is_virtual or item.external:
                outside.append(name)
            elif item.shape is not None:
                datasets[name] = item
        return None

    file.visititems_links(visit)
    if seen > _MOST_OBJECTS:
        raise UnreadableError(f"the HDF5 file has too many objects to be one of recordings (over {_MOST_OBJECTS})")
    return datasets, outside


def _find_array(datasets: dict[str, h5py.Dataset], outside: list[str], preferred: str | None) -> h5py.Dataset:
    """The one array that can be the signal: with three axes, or, if there is none, with two."""
    if preferred in datasets:
        return datasets[preferred]
    numbers = {name: dataset for name, dataset in datasets.items() if dataset.size and _is_numbers(dataset)}
    for axes in (3, 2):
        candidates = {name: dataset for name, dataset in numbers.items() if len(_recording_shape(dataset)) == axes}
        if axes == 2:
            # MATLAB's scalars and strings have two axes too, as have columns of labels.
            candidates = {name: dataset for name, dataset in candidates.items() if min(_recording_shape(dataset)) > 1}
        if len(candidates) > 1:
            shapes = ", ".join(f"{name} {dataset.shape}" for name, dataset in sorted(candidates.items())[:10])
            raise UnreadableError(f"the HDF5 file has several arrays that can be the signal ({shapes})")
        if candidates:
            return next(iter(candidates.values()))
    if outside:
        raise UnreadableError(f"the HDF5 file's data lie in other files, which are not followed ({outside[0]})")
    names = ", ".join(sorted(datasets)[:10]) or "nothing"
    raise UnreadableError(f"the HDF5 file has no array of recordings (only {names})")


def _is_numbers(dataset: h5py.Dataset) -> bool:
    try:
        return dataset.dtype.kind in "iuf"
    except TypeError:  # NumPy has no such type
        return False


def _recording_shape(array: h5py.Dataset) -> tuple[int, ...]:
    """The shape of an array without axes of length 1 beside recordings, leads and samples."""
    return tuple(array.shape[axis] for axis in recording_axes(array.shape))
