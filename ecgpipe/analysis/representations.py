"""Compare what several models make of the same recordings: linear CKA, and whether the nearest recordings are the same.

Neither depends on the axes of the embeddings, and their widths may differ.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ecgpipe.analysis import cosine_similarity

# Recordings at a time.
ROWS = 4096

# Recordings whose neighbours are searched, among all of them.
QUERIES = 2000


class Alignment(NamedTuple):
    """Linear centred kernel alignment of each pair of models, (models, models); NaN where not defined."""

    plain: np.ndarray
    unbiased: np.ndarray


def compute_cka(embeddings: Sequence[np.ndarray]) -> Alignment:
    """Compute the linear centred kernel alignment of each pair of models (Kornblith et al., ICML 2019).

    It is computed from the products of features, (width, width), block after block of recordings: no matrix of all
    pairs of recordings is made. `unbiased` has the estimate of HSIC of Song et al. (JMLR 2012), since the other is too
    high unless there are many more recordings than numbers in an embedding.

    Args:
        embeddings: Of each model (recordings, width), the same recordings in the same order, finite.

    Returns:
        1 where one representation is the other rotated and scaled. NaN where all embeddings of a model are the same;
        `unbiased` also with fewer than four recordings.
    """
    n, models = len(embeddings[0]), len(embeddings)
    means = [values.mean(axis=0, dtype=np.float64) for values in embeddings]
    products: dict[tuple[int, int], np.ndarray] = {}  # by models (width, other width)
    lengths = np.empty((models, n))  # squared, of the centred embeddings
    for start in range(0, n, ROWS):
        block = slice(start, start + ROWS)
        centred = [values[block] - mean for values, mean in zip(embeddings, means, strict=True)]
        for one in range(models):
            lengths[one, block] = np.einsum("ij,ij->i", centred[one], centred[one])
            for other in range(one, models):
                product = centred[one].T @ centred[other]
                products[one, other] = products[one, other] + product if start else product
    plain, unbiased = np.full((models, models), np.nan), np.full((models, models), np.nan)
    for (one, other), product in products.items():
        plain[one, other] = plain[other, one] = (product**2).sum()
        if n > 3:
            correction = lengths[one].sum() * lengths[other].sum() / ((n - 1) * (n - 2))
            value = plain[one, other] - n / (n - 2) * (lengths[one] @ lengths[other]) + correction
            unbiased[one, other] = unbiased[other, one] = value
    is_constant = [not np.ptp(values, axis=0).any() for values in embeddings]
    return Alignment(_normalise(plain, is_constant), _normalise(unbiased, is_constant))


def _normalise(hsic: np.ndarray, is_constant: Sequence[bool]) -> np.ndarray:
    """Divide (models, models) by the geometric mean of the two models' own."""
    own = np.where(is_constant, np.nan, np.diag(hsic))
    scale = np.sqrt(np.where(own > 0, own, np.nan))
    values: np.ndarray = hsic / scale[:, None] / scale[None, :]
    return values


class Overlap(NamedTuple):
    """How many of the nearest recordings two models have in common."""

    share: np.ndarray  # (models, models) mean over the queries, of `nearest`
    nearest: int  # recordings of each model
    queries: int  # recordings whose nearest were searched
    recordings: int  # among which they were searched
    chance: float  # the share that neighbours drawn at random have in common


def measure_overlap(
    embeddings: Sequence[np.ndarray], count: int = 10, groups: np.ndarray | None = None, seed: int = 42
) -> Overlap:
    """Measure the share of the nearest recordings, by cosine, that are the same for each pair of models.

    Args:
        embeddings: As for `compute_cka`.
        count: Of the nearest.
        groups: (recordings,) integers, the patient of each: recordings of the same one are no neighbours.
        seed: Of the sample of queries.

    Returns:
        The overlap. A query with fewer than `count` neighbours counts with those that it has.
    """
    n = len(embeddings[0])
    queries = np.sort(np.random.default_rng(seed).choice(n, min(QUERIES, n), replace=False))
    nearest = np.stack([_search(values, queries, count, groups) for values in embeddings])  # (models, queries, count)
    available = (nearest[0] >= 0).sum(axis=1)  # (queries,) the same for every model
    share = np.eye(len(embeddings))
    for one in range(len(embeddings)):
        for other in range(one):
            same = (nearest[one][:, :, None] == nearest[other][:, None, :]) & (nearest[one] >= 0)[:, :, None]
            shares = same.sum(axis=(1, 2))[available > 0] / available[available > 0]
            share[one, other] = share[other, one] = shares.mean() if len(shares) else np.nan
    chance = min(count, n - 1) / (n - 1) if n > 1 else np.nan
    return Overlap(share, count, len(queries), n, chance)


def _search(vectors: np.ndarray, queries: np.ndarray, count: int, groups: np.ndarray | None) -> np.ndarray:
    """(queries, count) the nearest recordings of some, -1 where there are fewer."""
    directions = cosine_similarity.normalise(vectors.astype(np.float64))
    pairs = None if groups is None else (groups[queries], groups)
    rows: np.ndarray = cosine_similarity.search(directions[queries], [directions], count, queries, pairs).rows
    return rows
