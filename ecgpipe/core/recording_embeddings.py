"""The embedding of each recording, the mean over its segments, from a run's files and in bounded memory."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ecgpipe.core import parquet


def of_recordings(embeddings: Sequence[Path]) -> Iterator[tuple[pa.Array, np.ndarray]]:
    """The embedding of each recording: the mean over its segments.

    Args:
        embeddings: All `embeddings/part-*.parquet`, in order; the segments of a recording follow one another from 0.

    Yields:
        Some recordings' ids, and (recordings, width) float64.
    """
    held_ids, held = pa.array([], pa.string()), np.empty((0, 0))  # of a recording whose end has not been seen yet
    for batch in parquet.batches(embeddings):
        ids = batch["record_id"]
        vectors = batch["embedding"].flatten().to_numpy().reshape(len(ids), -1).astype(np.float64)  # (segments, width)
        if len(held_ids):
            ids, vectors = pa.concat_arrays([held_ids, ids]), np.concatenate([held, vectors])
        starts = np.flatnonzero(_begins(ids))
        yield ids.take(pa.array(starts[:-1])), _means(vectors[: starts[-1]], starts[:-1])
        held_ids, held = ids[starts[-1] :], vectors[starts[-1] :]
    if len(held_ids):
        yield held_ids[:1], held.mean(axis=0, keepdims=True)


def ids_of(embeddings: Sequence[Path]) -> Iterator[pa.Array]:
    """The ids of the recordings, in the order of `of_recordings`: each has one segment 0."""
    for batch in parquet.batches(embeddings, ["record_id", "segment"]):
        yield batch.filter(pc.equal(batch["segment"], 0))["record_id"]


def ids(embeddings: Sequence[Path]) -> pa.Array:
    """All of `ids_of`, (recordings,) strings."""
    return pa.concat_arrays([pa.array([], pa.string()), *ids_of(embeddings)])


def picked(embeddings: Sequence[Path], rows: np.ndarray) -> np.ndarray:
    """The embeddings of some recordings.

    Args:
        embeddings: All `embeddings/part-*.parquet`, in order.
        rows: (recordings,) their numbers, in the order of `of_recordings`; at least one.

    Returns:
        (recordings, width) float64, in the order of `rows`.
    """
    order = np.argsort(rows, kind="stable")
    wanted, seen, pieces = rows[order], 0, []
    for _, vectors in of_recordings(embeddings):
        here = slice(*np.searchsorted(wanted, [seen, seen + len(vectors)]))
        pieces.append(vectors[wanted[here] - seen])
        seen += len(vectors)
        if seen > wanted[-1]:
            break
    found = np.concatenate(pieces)
    picked = np.empty_like(found)
    picked[order] = found
    return picked


def names_of(embeddings: Sequence[Path], rows: np.ndarray) -> dict[int, str]:
    """The ids of some recordings by their row."""
    wanted, seen = np.unique(rows), 0
    names: dict[int, str] = {}
    for ids in ids_of(embeddings):
        here = wanted[slice(*np.searchsorted(wanted, [seen, seen + len(ids)]))]
        names.update(zip(here.tolist(), ids.take(pa.array(here - seen)).to_pylist(), strict=True))
        seen += len(ids)
    return names


def _begins(ids: pa.Array) -> np.ndarray:
    """Where the id is another than that of the row before."""
    codes = ids.dictionary_encode().indices.to_numpy()
    return np.concatenate([[True], codes[1:] != codes[:-1]])


def _means(vectors: np.ndarray, starts: np.ndarray) -> np.ndarray:
    if not len(starts):
        return np.empty((0, vectors.shape[1]))
    counts = np.diff(np.append(starts, len(vectors)))
    means: np.ndarray = np.add.reduceat(vectors, starts, axis=0) / counts[:, None]
    return means
