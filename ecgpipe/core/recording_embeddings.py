"""The embedding of each recording, the mean over its segments, from a run's files and in bounded memory."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ecgpipe.core import parquet


def read_means(embeddings: Sequence[Path]) -> Iterator[tuple[pa.Array, np.ndarray]]:
    """Yield the embeddings of all recordings, batch by batch: the mean over the segments of each.

    Args:
        embeddings: All `embeddings/part-*.parquet`, in order; the segments of a recording follow one another from 0.

    Yields:
        Ids of a batch of recordings, and (recordings, width) float64.
    """
    held_ids, held = pa.array([], pa.string()), np.empty((0, 0))  # of a recording that may go on in the next batch
    for batch in parquet.batches(embeddings):
        ids = batch["record_id"]
        vectors = batch["embedding"].flatten().to_numpy().reshape(len(ids), -1)  # (segments, width)
        if len(held_ids):
            ids, vectors = pa.concat_arrays([held_ids, ids]), np.concatenate([held, vectors])
        starts = np.flatnonzero(_find_starts(ids))
        yield ids.take(pa.array(starts[:-1])), _compute_means(vectors[: starts[-1]], starts[:-1])
        held_ids, held = ids[starts[-1] :], vectors[starts[-1] :]
    if len(held_ids):
        yield held_ids[:1], _compute_means(held, np.zeros(1, int))


def read_means_of(embeddings: Sequence[Path], ids: pa.Array) -> np.ndarray:
    """Read the embeddings of some recordings, each the mean over its segments, in one pass over the files.

    Args:
        embeddings: All `embeddings/part-*.parquet`.
        ids: (recordings,) each once.

    Returns:
        (recordings, width) float32; NaN for a recording that the files do not have.
    """
    width = pq.read_schema(embeddings[0]).field("embedding").type.list_size
    sums, counts = np.zeros((len(ids), width)), np.zeros(len(ids))
    for batch in parquet.batches(embeddings):
        place = pc.index_in(batch["record_id"], ids)
        chosen = batch["embedding"].filter(place.is_valid())
        rows = place.drop_null().to_numpy()
        if len(rows):
            starts = np.flatnonzero(np.diff(rows, prepend=-1))  # a recording's segments follow one another
            vectors = chosen.flatten().to_numpy().reshape(len(rows), width)
            np.add.at(sums, rows[starts], np.add.reduceat(vectors, starts, axis=0, dtype=np.float64))
            np.add.at(counts, rows, 1)
    with np.errstate(invalid="ignore"):
        means: np.ndarray = (sums / counts[:, None]).astype(np.float32)
    return means


def iterate_ids(embeddings: Sequence[Path]) -> Iterator[pa.Array]:
    """Yield the ids of the recordings, in the order of `read_means`: each recording has one segment 0."""
    for batch in parquet.batches(embeddings, ["record_id", "segment"]):
        yield batch.filter(pc.equal(batch["segment"], 0))["record_id"]


def read_ids(embeddings: Sequence[Path]) -> pa.Array:
    """Return all ids of `iterate_ids`, (recordings,) strings."""
    return pa.concat_arrays([pa.array([], pa.string()), *iterate_ids(embeddings)])


def read_rows(embeddings: Sequence[Path], rows: np.ndarray) -> np.ndarray:
    """Read the embeddings of the recordings with given row numbers.

    Args:
        embeddings: All `embeddings/part-*.parquet`, in order.
        rows: (recordings,) row numbers in the order of `read_means`; at least one.

    Returns:
        (recordings, width) float64, in the order of `rows`.
    """
    order = np.argsort(rows, kind="stable")
    wanted, seen, pieces = rows[order], 0, []
    for path in embeddings:
        segment = pq.read_table(path, columns=["segment"])["segment"].to_numpy()
        starts = np.flatnonzero(segment == 0)
        here = wanted[slice(*np.searchsorted(wanted, [seen, seen + len(starts)]))] - seen
        if len(here):
            counts = np.diff(np.append(starts, len(segment)))[here]
            firsts = np.cumsum(counts) - counts  # of each among the segments that are read
            segments = np.repeat(starts[here] - firsts, counts) + np.arange(counts.sum())
            pieces.append(_compute_means(_read_segments(path, segments), firsts))
        seen += len(starts)
    embeddings_by_rank = np.concatenate(pieces)
    embeddings_by_row = np.empty_like(embeddings_by_rank)
    embeddings_by_row[order] = embeddings_by_rank
    return embeddings_by_row


def _read_segments(path: Path, segments: np.ndarray) -> np.ndarray:
    """Read some rows of a part, from the row groups that have one.

    Args:
        path: `embeddings/part-*.parquet`.
        segments: (segments,) their numbers, which do not fall.

    Returns:
        (segments, width) float32.
    """
    pieces, done = [], 0
    with pq.ParquetFile(path) as file:
        sizes = np.array([file.metadata.row_group(number).num_rows for number in range(file.num_row_groups)])
        ends = np.cumsum(sizes)
        group_of = np.searchsorted(ends, segments, side="right")
        groups, nth = np.unique(group_of, return_inverse=True)
        before = np.cumsum(sizes[groups]) - sizes[groups]  # rows of the groups that are read before each of them
        places = segments - (ends - sizes)[group_of] + before[nth]
        for batch in file.iter_batches(parquet.BATCH_ROWS, row_groups=groups.tolist(), columns=["embedding"]):
            here = places[slice(*np.searchsorted(places, [done, done + len(batch)]))] - done
            vectors = batch["embedding"].take(pa.array(here))
            pieces.append(vectors.flatten().to_numpy().reshape(len(here), vectors.type.list_size))
            done += len(batch)
    return np.concatenate(pieces)


def read_ids_by_row(embeddings: Sequence[Path], rows: np.ndarray) -> dict[int, str]:
    """Read the ids of the recordings with given row numbers, by row number."""
    wanted, seen = np.unique(rows), 0
    names: dict[int, str] = {}
    for ids in iterate_ids(embeddings):
        here = wanted[slice(*np.searchsorted(wanted, [seen, seen + len(ids)]))]
        names.update(zip(here.tolist(), ids.take(pa.array(here - seen)).to_pylist(), strict=True))
        seen += len(ids)
    return names


def _find_starts(ids: pa.Array) -> np.ndarray:
    """Mark the rows whose id differs from that of the row before."""
    codes = ids.dictionary_encode().indices.to_numpy()
    return np.concatenate([[True], codes[1:] != codes[:-1]])


def _compute_means(vectors: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """The means (recordings, width) float64 of segments (segments, width) float32, of which each recording's begin."""
    if not len(starts):
        return np.empty((0, vectors.shape[1]))
    counts = np.diff(np.append(starts, len(vectors)))
    # The second of all, the third, ...: a third of the time of `np.add.reduceat`, and the same to the bit.
    sums = vectors[starts].astype(np.float64)
    for number in range(1, counts.max()):
        longer = np.flatnonzero(counts > number)
        sums[longer] += vectors[starts[longer] + number]
    means: np.ndarray = sums / counts[:, None]
    return means
