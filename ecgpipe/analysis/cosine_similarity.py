"""Search by the cosine of vectors: the exact nearest in bounded memory, and what an approximate search misses."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

# Directions that all targets are compared with at a time: 30 MB of similarities for 4,096 targets; and the targets that
# are looked at together.
OTHERS = 2048
TARGETS = 1024

# Pairs whose similarity is computed once more in double precision at a time: 50 MB of ECG-FM's embeddings.
PAIRS = 4096

# Similarities that differ by less are the same where vectors are kept in single precision.
TIE = 1e-6


class Nearest(NamedTuple):
    """The nearest of some recordings, the nearest first; if there are fewer, -1 and -inf follow."""

    rows: np.ndarray  # (recordings, count) int64, among those that were searched
    similarity: np.ndarray  # (recordings, count) float64


def normalise(vectors: np.ndarray) -> np.ndarray:
    """Bring vectors to length 1; to 0, similar to nothing, if one has no direction or is not finite.

    Args:
        vectors: (recordings, width) float64.

    Returns:
        The same shape and type.
    """
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    with np.errstate(invalid="ignore"):
        directions: np.ndarray = vectors / np.maximum(lengths, np.finfo(float).tiny)
    directions[~np.isfinite(lengths[:, 0])] = 0
    return directions


def search(
    targets: np.ndarray,
    others: Iterable[np.ndarray],
    count: int,
    own: np.ndarray | None = None,
    groups: tuple[np.ndarray, np.ndarray] | None = None,
) -> Nearest:
    """Find the nearest of some directions among others, exactly.

    Single precision picks the pairs that could matter, with room for its rounding; double precision ranks them.

    Args:
        targets: (targets, width) float64, of length 1 or 0.
        others: All (recordings, width) of them, piece by piece, of length 1 or 0.
        count: Number of nearest of each.
        own: (targets,) the number among the others that is left out for each.
        groups: (targets,) and (recordings,) numbers; those with the same are left out.

    Returns:
        The nearest of each; of equally near ones the first.
    """
    single = targets.astype(np.float32)
    nearest = Nearest(np.full((len(targets), count), -1, np.int64), np.full((len(targets), count), -np.inf))
    seen = 0
    for chunk in (piece[start : start + OTHERS] for piece in others for start in range(0, len(piece), OTHERS)):
        similarity = single @ chunk.astype(np.float32).T  # (targets, chunk)
        if own is not None:
            inside = np.flatnonzero((own >= seen) & (own < seen + len(chunk)))
            similarity[inside, own[inside] - seen] = -np.inf
        for start in range(0, len(targets), TARGETS):
            block = slice(start, start + TARGETS)
            if groups is not None:
                similarity[block][groups[0][block, None] == groups[1][None, seen : seen + len(chunk)]] = -np.inf
            held = Nearest(nearest.rows[block], nearest.similarity[block])
            _improve(held, targets[block], chunk, similarity[block], seen)
        seen += len(chunk)
    return Nearest(nearest.rows, np.where(nearest.rows >= 0, np.clip(nearest.similarity, -1, 1), -np.inf))


def _improve(held: Nearest, targets: np.ndarray, chunk: np.ndarray, similarity: np.ndarray, seen: int) -> None:
    """Replace the nearest so far by nearer ones among further directions.

    Args:
        held: The nearest so far, which change.
        targets: (targets, width) float64.
        chunk: (chunk, width), which follow the first `seen` directions.
        similarity: (targets, chunk) float32, -inf for those that are left out.
        seen: Number of directions before them.
    """
    rows, best = held
    count = best.shape[1]
    bar = best[:, -1].astype(np.float32)
    short = np.flatnonzero(np.isneginf(bar))
    if len(short) and len(chunk) >= count:  # the last that could be among the nearest of this piece alone
        place = len(chunk) - count
        bar[short] = np.partition(similarity[short], place, axis=1)[:, place]
    # Six standard deviations of what single precision rounds in a product of vectors of length 1, if each rounding goes
    # its own way (Higham and Mary, SIAM J. Scientific Computing 2019).
    room = np.float32(6 * np.sqrt(targets.shape[1]) * 2.0**-24)
    near, which = np.nonzero((similarity >= (bar - room)[:, None]) & (similarity > -np.inf))  # (pairs,) each
    values = np.empty(len(near))
    for start in range(0, len(near), PAIRS):
        block = slice(start, start + PAIRS)
        # Pair by pair, so that the last bit does not depend on what else is computed at the same time.
        values[block] = np.einsum("ij,ij->i", targets[near[block]], chunk[which[block]].astype(np.float64))
    touched, target_of = np.unique(near, return_inverse=True)
    target_of = np.concatenate([np.repeat(np.arange(len(touched)), count), target_of])
    values = np.concatenate([best[touched].ravel(), values])
    places = np.concatenate([rows[touched].ravel(), seen + which])
    order = np.lexsort((places, -values, target_of))
    begins = np.searchsorted(target_of[order], np.arange(len(touched)))
    first = order[begins[:, None] + np.arange(count)]  # (touched, count)
    best[touched], rows[touched] = values[first], places[first]


def rank_candidates(
    targets: np.ndarray, base: np.ndarray, candidates: np.ndarray, mask: np.ndarray, count: int
) -> Nearest:
    """Find the nearest of some directions among candidates.

    Args:
        targets: (targets, width) float32, of length 1 or 0.
        base: (recordings, width) float32, the same.
        candidates: (targets, candidates) rows of the base.
        mask: (targets, candidates) bool, true for those that are left out.
        count: Number of nearest of each.

    Returns:
        The nearest of each, with similarities to within `TIE`.
    """
    similarity = np.empty(candidates.shape)
    step = max(PAIRS // candidates.shape[1], 1)
    for start in range(0, len(targets), step):
        block = slice(start, start + step)
        similarity[block] = np.einsum("tw,tcw->tc", targets[block], base[candidates[block]])
    similarity[mask] = -np.inf
    order = np.argsort(-similarity, axis=1, kind="stable")[:, :count]
    best = np.take_along_axis(similarity, order, axis=1)
    rows = np.where(np.isfinite(best), np.take_along_axis(candidates, order, axis=1), -1)
    return Nearest(rows, np.where(np.isfinite(best), np.clip(best, -1, 1), best))


def measure_recall(approximate: Nearest, exact: Nearest) -> float:
    """Measure the mean share of the nearest that were found; one as near as the last of them counts as one of them.

    So do Aumüller et al., ANN-Benchmarks (Information Systems 2020): which of several equals is found is chance.

    Args:
        approximate: Of an approximate search.
        exact: Of an exact search, for the same recordings.

    Returns:
        From 0 to 1; 1 if there is nothing to find.
    """
    counts = np.isfinite(exact.similarity).sum(axis=1)  # (recordings,)
    last = np.where(counts, exact.similarity[np.arange(len(counts)), np.maximum(counts, 1) - 1], np.inf)
    hits = np.minimum((approximate.similarity >= last[:, None] - TIE).sum(axis=1), counts)
    return float((hits[counts > 0] / counts[counts > 0]).mean()) if counts.any() else 1.0
