"""Extend a manifest: recordings of an earlier scan keep their shard and their place in it.

Their results therefore stay valid. New recordings form new shards after the others.
"""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ecgpipe.core import provenance, results, schemas
from ecgpipe.readers.temporary_errors import patiently

# Asking a file server about a file is waiting for the most part.
_THREADS = 16
_FILES_AT_A_TIME = 1000

# What may belong to the recording of a WFDB header that only a table names.
_BESIDE = (".dat", ".mat")


class Cut(NamedTuple):
    """Recordings in shards, and how they differ from those of the scan before."""

    shards: list[pa.Table | None]  # None where the shard is as it was
    changes: pa.Table  # schemas.CHANGES


def add_stamps(recordings: pa.Table, files: pa.Table) -> pa.Table:
    """Add the size of each recording's files and the time of their last change.

    Args:
        recordings: The columns of `schemas.MANIFEST`, and metadata.
        files: `schemas.FILES`, with the parts of recordings.

    Returns:
        The same rows with `bytes`, `modified` and `stamp`, a checksum of the sizes and times of all; null where there
        is no file.

    Raises:
        UnavailableError: A file is not available at the moment; it must not count as changed.
    """
    # A file of many recordings is asked about once.
    coded = recordings["path"].combine_chunks().dictionary_encode(null_encoding="encode")
    sizes, times = _read_sizes_and_times(coded.dictionary)
    rows = coded.indices.to_numpy()
    sizes, times = sizes[rows], times[rows]  # (recordings,)
    checks = _compute_checks(sizes, times)

    parts = files.filter(pc.equal(files["role"], "part"))
    owners = pc.index_in(parts["record_id"], value_set=recordings["record_id"].combine_chunks())
    with_parts = owners.drop_null().to_numpy()
    _add_files(sizes, times, checks, with_parts, parts["path"].filter(owners.is_valid()).combine_chunks())
    alone = pc.fill_null(pc.equal(recordings["format"], "wfdb"), fill_value=False).to_numpy()
    alone[with_parts] = False
    stems = pc.replace_substring_regex(recordings["path"].filter(pa.array(alone)), r"\.hea$", "")
    for ending in _BESIDE:
        beside = pc.binary_join_element_wise(stems, ending, "").combine_chunks()
        _add_files(sizes, times, checks, np.flatnonzero(alone), beside)

    unknown = sizes < 0
    for name, values in {"bytes": sizes, "modified": times // 1000, "stamp": checks}.items():
        field = schemas.MANIFEST.field(name)
        column = pa.array(values, field.type, mask=unknown)
        recordings = recordings.set_column(recordings.column_names.index(name), field, column)
    return recordings


def read_shard_size(folder: Path) -> int | None:
    """The size of the shards of an earlier scan; None if there are none.

    Args:
        folder: `manifest/`.
    """
    path = folder / "shard-00000.parquet"
    if not results.is_written_here(path, "manifest"):
        return None
    size: int | None = provenance.read_origin(pq.read_schema(path)).get("shard_size")
    return size


def read_shards(folder: Path, size: int) -> list[pa.Table]:
    """Read the shards of an earlier scan.

    Args:
        folder: `manifest/`.
        size: Recordings per shard.

    Returns:
        The shards up to the first gap; none if they have another size.
    """
    shards: list[pa.Table] = []
    while results.is_written_here(path := folder / f"shard-{len(shards):05d}.parquet", "manifest"):
        table = pq.read_table(path)
        if provenance.read_origin(table.schema).get("shard_size") != size:
            return []
        shards.append(table.replace_schema_metadata(None))
    return shards


def cut_into_shards(recordings: pa.Table, before: Sequence[pa.Table], size: int) -> Cut:
    """Cut recordings into shards; recordings of the earlier scan keep their places.

    Args:
        recordings: The recordings of this scan.
        before: The shards of the earlier scan.
        size: Recordings per new shard.

    Returns:
        The shards, and the changes of the recordings of the earlier scan.
    """
    recordings = recordings.combine_chunks()  # each `take` of one in pieces would go through all of it
    none = schemas.CHANGES.empty_table()  # where nothing is known
    known = pa.concat_tables(table.select(["record_id", "path"]) for table in (none, *before)).combine_chunks()
    ids = recordings["record_id"].combine_chunks()
    places = pc.index_in(known["record_id"], value_set=ids).combine_chunks()  # (known,) rows of `recordings`
    shards: list[pa.Table | None] = []
    changes: list[np.ndarray] = []
    start = 0
    for table in before:
        here = places.slice(start, len(table))
        start += len(table)
        now = recordings.take(here.drop_null())
        there = here.is_valid().to_numpy(zero_copy_only=False)
        change = np.full(len(table), None, object)
        change[~there] = "removed"
        change[np.flatnonzero(there)[_find_changed_rows(table.filter(pa.array(there)), now)]] = "changed"
        changes.append(change)
        as_it_was = table.schema.equals(now.schema) and not any(change)
        shards.append(None if as_it_was else now)
    is_new = np.ones(len(recordings), bool)
    is_new[places.drop_null().to_numpy()] = False
    new = recordings.filter(pa.array(is_new))
    shards += [new.slice(start, size) for start in range(0, len(new), size)]

    what = pa.array(np.concatenate([np.empty(0, object), *changes]), pa.string())
    table = pa.table([what, known["record_id"], known["path"]], schema=schemas.CHANGES)
    return Cut(shards, table.filter(what.is_valid()))


def _add_files(sizes: np.ndarray, times: np.ndarray, checks: np.ndarray, rows: np.ndarray, paths: pa.Array) -> None:
    """Add files to the recordings that they are parts of."""
    more, later = _read_sizes_and_times(paths)
    there = more >= 0
    np.add.at(sizes, rows[there], more[there])
    np.maximum.at(times, rows[there], later[there])
    np.add.at(checks, rows[there], _compute_checks(more, later)[there])


def _compute_checks(sizes: np.ndarray, times: np.ndarray) -> np.ndarray:
    """A number for each file, to be added up; it overflows."""
    numbers: np.ndarray = times * 31 + sizes
    return numbers


def _read_sizes_and_times(paths: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """Read the sizes of files in bytes and the times of their last change in ns; -1 for missing files."""
    pieces = [paths.slice(start, _FILES_AT_A_TIME) for start in range(0, len(paths), _FILES_AT_A_TIME)]
    with ThreadPoolExecutor(_THREADS) as threads:
        stamps = np.concatenate([np.empty((0, 2), np.int64), *threads.map(_read_stamps, pieces)])  # (files, 2)
    return stamps[:, 0], stamps[:, 1]


def _read_stamps(paths: pa.Array) -> np.ndarray:
    return np.array([_read_stamp(path) for path in paths.to_pylist()], np.int64)


def _read_stamp(path: str | None) -> tuple[int, int]:
    if path is None:
        return -1, -1
    try:
        status = patiently(lambda: os.stat(path), path)  # noqa: PTH116, a million times
    except (OSError, ValueError):  # not there, or no path at all
        return -1, -1
    return status.st_size, status.st_mtime_ns


def _find_changed_rows(before: pa.Table, now: pa.Table) -> np.ndarray:
    """Mark the rows in which a column of both tables has another value than before."""
    differs = np.zeros(len(now), bool)
    for name in before.column_names:
        if name in now.column_names:
            differs |= _find_differences(before[name].combine_chunks(), now[name].combine_chunks())
    return differs


def _find_differences(before: pa.Array, now: pa.Array) -> np.ndarray:
    """Mark the rows in which two arrays differ. Nulls are equal to one another, and so are NaN."""
    try:
        same = pc.fill_null(pc.equal(before.cast(now.type), now), fill_value=False)
    except pa.ArrowException:  # nested types cannot be compared, nor texts cast that are no numbers
        return np.array([a != b for a, b in zip(before.to_pylist(), now.to_pylist(), strict=True)], bool)
    neither = pc.and_(before.is_null(nan_is_null=True), now.is_null(nan_is_null=True))
    differ: np.ndarray = ~pc.or_(same, neither).to_numpy(zero_copy_only=False)
    return differ
