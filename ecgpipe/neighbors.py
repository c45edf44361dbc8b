"""Which recordings are most alike to the model: by the cosine of their embeddings, over all of a run."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ecgpipe import tables


class Neighbor(NamedTuple):
    """A recording that is like another one."""

    record_id: str
    similarity: float  # cosine of the two embeddings, -1 to 1


def of_recordings(embeddings: Sequence[Path]) -> Iterator[tuple[pa.Array, np.ndarray]]:
    """The embedding of each recording: the mean over its segments.

    Args:
        embeddings: All `embeddings/part-*.parquet`, in order; the segments of a recording follow one another from 0.

    Yields:
        Some recordings' ids, and (recordings, width) float64.
    """
    held_ids, held = pa.array([], pa.string()), np.empty((0, 0))  # of a recording whose end has not been seen yet
    for batch in tables.batches(embeddings):
        ids = batch["record_id"]
        vectors = batch["embedding"].flatten().to_numpy().reshape(len(ids), -1).astype(np.float64)  # (segments, width)
        if len(held_ids):
            ids, vectors = pa.concat_arrays([held_ids, ids]), np.concatenate([held, vectors])
        starts = np.flatnonzero(_begins(ids))
        yield ids.take(pa.array(starts[:-1])), _means(vectors[: starts[-1]], starts[:-1])
        held_ids, held = ids[starts[-1] :], vectors[starts[-1] :]
    if len(held_ids):
        yield held_ids[:1], held.mean(axis=0, keepdims=True)


def nearest(embeddings: Sequence[Path], record_ids: Sequence[str], count: int) -> list[list[Neighbor]]:
    """Find the recordings most alike, exactly, in two passes over the embeddings.

    Args:
        embeddings: All `embeddings/part-*.parquet`, in order.
        record_ids: Whose neighbours are wanted.
        count: How many of each.

    Returns:
        For each of `record_ids` its neighbours, the nearest first, without itself; none for an unknown id.
    """
    wanted = pa.array(record_ids, pa.string())
    unknown = -1
    rows = np.full(len(wanted), unknown)
    found: list[np.ndarray] = []
    for ids, vectors in of_recordings(embeddings):
        places = pc.index_in(wanted, ids)
        here = np.flatnonzero(places.is_valid())
        rows[here] = len(found) + np.arange(len(here))
        found += list(vectors[places.drop_null().to_numpy()])
    if not found:
        return [[] for _ in record_ids]
    known = np.flatnonzero(rows != unknown)
    targets = _directions(np.stack(found)[rows[known]])  # (known, width)

    best = np.full((len(known), count), -np.inf)
    names = np.full((len(known), count), None, object)
    for ids, vectors in of_recordings(embeddings):
        similarity = targets @ _directions(vectors).T  # (known, recordings)
        own = pc.index_in(wanted, ids).take(pa.array(known))
        similarity[np.flatnonzero(own.is_valid()), own.drop_null().to_numpy()] = -np.inf
        most = min(count, similarity.shape[1])
        places = np.argpartition(-similarity, most - 1, axis=1)[:, :most]  # (known, most)
        both = np.concatenate([best, np.take_along_axis(similarity, places, axis=1)], axis=1)
        both_names = np.concatenate([names, np.array(ids.to_pylist(), object)[places]], axis=1)
        order = np.argsort(-both, axis=1, kind="stable")[:, :count]
        best, names = np.take_along_axis(both, order, axis=1), np.take_along_axis(both_names, order, axis=1)
    neighbors: list[list[Neighbor]] = [[] for _ in record_ids]
    for place, some, values in zip(known, names, best, strict=True):
        neighbors[place] = [Neighbor(name, float(v)) for name, v in zip(some, values, strict=True) if np.isfinite(v)]
    return neighbors


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


def _directions(vectors: np.ndarray) -> np.ndarray:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    directions: np.ndarray = vectors / np.maximum(lengths, np.finfo(float).tiny)
    return directions
