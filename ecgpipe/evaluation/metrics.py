"""How well scores tell recordings with a label from those without, as scikit-learn defines it, with intervals.

The intervals are percentile intervals of the bootstrap (Efron and Tibshirani 1993, chapter 13). A resample of the
patients is a weight for each recording: how many times its patient was drawn. So the scores are sorted once, and what
a resample costs is sums of weights.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from scipy.sparse import csr_matrix

METRICS = ("auroc", "auprc", "brier", "ece", "sensitivity", "specificity", "ppv", "f1", "prevalence")

# The probabilities from 0 to 1 in bins of one width, as many as Guo et al. 2017 take, who name the calibration error of
# Naeini et al. 2015. A probability between two bins is the lower one's.
BINS = 15
EDGES = np.linspace(0, 1, BINS + 1)

LEVEL = 0.95

# Resamples at a time, and strata: their intermediate results fit in a core's cache. A thread holds the weights of so
# many resamples for all recordings.
BLOCK = 16
PIECE = 4096

# Up to so many pairs what is summed is kept from one block of resamples to the next: 26 bytes each.
MOST_KEPT = 2_000_000

THREADS = 2

# Resamples of a gain at a time.
GAIN_BLOCK = 100


class Measure(NamedTuple):
    """One number, of one label or of all together."""

    label: int | None  # which column; None: all together
    average: str  # label, macro (the mean over the labels that have both classes) or micro (all pairs pooled)
    metric: str  # one of METRICS
    value: float  # NaN where it is not defined
    low: float  # of the 95 % interval, NaN where there is none
    high: float
    resamples: int  # that it was defined in


# Pairs of a recording and a label in strata of falling score: one of each score with a positive pair, and one of all
# between two such, which count alike for both areas, so that a rare label has few. In pieces, each of two matrices
# (strata, recordings): how many pairs of a recording are in a stratum, and how many of them are positive.
_Strata = list[tuple[csr_matrix, csr_matrix]]

# Rows of what is summed of a label with weights, (BINS + 3, recordings): score minus truth in each bin of the score,
# its square, whether the score is at the threshold or above, and whether it is so and positive.
SQUARED, CALLED, HIT = BINS, BINS + 1, BINS + 2


class _Prepared(NamedTuple):
    """What is the same in all resamples. The ranks take 4 bytes a pair, and the pairs themselves what they were."""

    true: np.ndarray  # (recordings, labels)
    score: np.ndarray  # (recordings, labels)
    thresholds: np.ndarray  # (labels,)
    ranked: list[_Strata]  # one for each label, and then one for all pairs, if they are pooled
    sums: list[csr_matrix]  # one for each label; none where there are so many pairs that they are made when needed


def measure(
    true: np.ndarray,
    score: np.ndarray,
    thresholds: Sequence[float] | np.ndarray,
    groups: np.ndarray | None = None,
    resamples: int = 1000,
    seed: int = 42,
) -> list[Measure]:
    """Measure each label, and all together.

    AUROC, AUPRC (the average precision), Brier score, sensitivity, specificity, PPV and F1 are scikit-learn's
    `roc_auc_score`, `average_precision_score`, `brier_score_loss`, `recall_score`, `precision_score` and `f1_score`
    with `zero_division=nan`: a metric that divides by zero is not defined. AUROC, AUPRC and sensitivity need a positive
    recording, AUROC and specificity a negative one, PPV one that is called positive. `ece` is the expected calibration
    error: the mean over `BINS` bins, weighted by their recordings, of how far the mean probability is from the share of
    positives.

    Resamples in which a metric is not defined are ignored; if more than half are undefined there is no interval.

    Args:
        true: (recordings, labels) 1, 0, or NaN where unknown. Such pairs count nowhere.
        score: (recordings, labels) probabilities.
        thresholds: (labels,) a recording is called positive from here on.
        groups: (recordings,) integers, the patient of each: what is resampled. None: each recording by itself.
        resamples: Of the bootstrap; 0 for no intervals.
        seed: Of what is drawn.

    Returns:
        The `METRICS` in order, first of each label, then their `macro` and their `micro` average.
    """
    true, score = np.asarray(true), np.asarray(score, np.float64)
    prepared = _prepare(true, score, np.asarray(thresholds, np.float64))
    recordings, labels = true.shape
    each = _values(prepared, np.ones((recordings, 1)))  # (labels + 1, METRICS, 1)
    counted = _counted(each[:labels, :, 0])  # (labels, METRICS)
    values = _with_macro(each, counted)[..., 0]  # (labels + 2, METRICS)

    drawn = np.full((*values.shape, resamples), np.nan)  # (labels + 2, METRICS, resamples)
    if recordings and resamples:
        groups = np.arange(recordings) if groups is None else groups
        _draw(drawn, groups, seed, lambda weights: _with_macro(_values(prepared, weights), counted))
    return _rows(values, drawn)


def draw_columns(
    true: np.ndarray,
    score: np.ndarray,
    thresholds: Sequence[float] | np.ndarray,
    groups: np.ndarray | None,
    resamples: int,
    seed: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Measure columns that are not pooled, and again in each resample of the bootstrap.

    Resample r of the same recordings, groups and seed is the same in every call. So the difference of two columns in
    each resample is that of the same patients, and its quantiles are a paired interval.

    Args:
        true: As for `measure`; a column for each score, e.g. one label for several models.
        score: As for `measure`.
        thresholds: As for `measure`.
        groups: As for `measure`.
        resamples: As for `measure`.
        seed: As for `measure`.

    Returns:
        (columns, METRICS), and (columns, METRICS, resamples); NaN where not defined.
    """
    true, score = np.asarray(true), np.asarray(score, np.float64)
    prepared = _prepare(true, score, np.asarray(thresholds, np.float64), is_pooled=False)
    recordings = len(true)
    values = _values(prepared, np.ones((recordings, 1)))[..., 0]  # (columns, METRICS)
    drawn = np.full((*values.shape, resamples), np.nan)
    if recordings and resamples:
        groups = np.arange(recordings) if groups is None else groups
        _draw(drawn, groups, seed, lambda weights: _values(prepared, weights))
    return values, drawn


def _draw(drawn: np.ndarray, groups: np.ndarray, seed: int, compute: Callable[[np.ndarray], np.ndarray]) -> None:
    """Fill (..., resamples) with what `compute` gives for the weights (recordings, BLOCK or less) of the resamples."""
    resamples = drawn.shape[-1]
    names, units = np.unique(groups, return_inverse=True)
    patients = len(names)
    streams = np.random.SeedSequence(seed).spawn(resamples)

    def fill(first: int) -> None:
        block = streams[first : first + BLOCK]
        weights = np.empty((len(units), len(block)))
        for column, stream in enumerate(block):
            weights[:, column] = _count_draws(stream, patients)[units]
        drawn[..., first : first + BLOCK] = compute(weights)

    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(fill, range(0, resamples, BLOCK)))


def weighted(
    true: np.ndarray, score: np.ndarray, thresholds: Sequence[float] | np.ndarray, weights: np.ndarray
) -> np.ndarray:
    """Measure with weights.

    Args:
        true: As for `measure`.
        score: As for `measure`.
        thresholds: As for `measure`.
        weights: (recordings, times) how much each recording counts.

    Returns:
        (labels + 2, METRICS, times) each label, then macro (of the labels that have both classes where all weights are
        one) and micro; NaN where not defined.
    """
    prepared = _prepare(np.asarray(true), np.asarray(score, np.float64), np.asarray(thresholds, np.float64))
    counted = _counted(_values(prepared, np.ones((len(true), 1)))[:-1, :, 0])
    return _with_macro(_values(prepared, weights), counted)


def measure_gain(
    true: np.ndarray,
    scores: tuple[np.ndarray, np.ndarray],
    thresholds: Sequence[float] | np.ndarray,
    groups: np.ndarray,
    resamples: int,
    seed: int,
) -> list[Measure]:
    """Measure how much better one score is than another, with intervals by resamples that both are measured in.

    Args:
        true: As for `measure`.
        scores: The score, and the one to compare with; (recordings, labels) each.
        thresholds: As for `measure`.
        groups: (recordings,) integers, the patient of each: what is resampled.
        resamples: Of the bootstrap; 0 for no intervals.
        seed: Of the resamples.

    Returns:
        The differences, in the order of `measure`.
    """
    units = np.unique(groups, return_inverse=True)[1]
    patients = int(units.max()) + 1
    random = np.random.default_rng(seed)

    def difference(weights: np.ndarray) -> np.ndarray:
        """(labels + 2, METRICS, resamples) for weights (recordings, resamples)."""
        ours, theirs = (weighted(true, score, thresholds, weights) for score in scores)
        return np.asarray(ours - theirs)

    values = difference(np.ones((len(true), 1)))[..., 0]
    drawn = np.full((*values.shape, resamples), np.nan)
    for first in range(0, resamples, GAIN_BLOCK):
        counts = [
            np.bincount(random.integers(0, patients, patients), minlength=patients)[units]
            for _ in range(min(GAIN_BLOCK, resamples - first))
        ]
        drawn[..., first : first + GAIN_BLOCK] = difference(np.stack(counts, axis=1).astype(np.float64))
    return _rows(values, drawn)


def bins(score: np.ndarray) -> np.ndarray:
    """Which bin of `EDGES` each probability is in, 0 to `BINS` - 1."""
    return np.searchsorted(EDGES[1:-1], score)


def _prepare(true: np.ndarray, score: np.ndarray, thresholds: np.ndarray, is_pooled: bool = True) -> _Prepared:
    labels = range(true.shape[1])
    # Weights of whole numbers are summed exactly, so that the order of the pairs in a stratum does not matter.
    ranked = [_rank([true[:, label]], [score[:, label]]) for label in labels]
    if is_pooled:
        ranked.append(_rank([true[:, label] for label in labels], [score[:, label] for label in labels]))
    prepared = _Prepared(true, score, thresholds, ranked, [])
    kept = [_list_sums(prepared, label) for label in labels] if true.size <= MOST_KEPT else []
    return prepared._replace(sums=kept)


def _rank(true: Sequence[np.ndarray], score: Sequence[np.ndarray]) -> _Strata:
    """Cut the pairs into strata.

    Args:
        true: Of each label (recordings,), as for `measure`.
        score: The same.

    Returns:
        The strata of all labels together.
    """
    positive = [scores[(truths == 1) & ~np.isnan(scores)] for truths, scores in zip(true, score, strict=True)]
    borders = np.unique(np.concatenate(positive)) if positive else np.empty(0)  # (borders,) rising
    # Stratum 2 k + 1 has the score of the border k from above, 2 k + 2 those below it down to the next.
    counts = np.zeros((2, 2 * len(borders) + 1), np.int64)  # pairs, and positive ones
    for truths, scores in zip(true, score, strict=True):
        _, stratum, is_positive = _place(truths, scores, borders)
        counts[0] += np.bincount(stratum, minlength=counts.shape[1])
        counts[1] += np.bincount(stratum[is_positive], minlength=counts.shape[1])
    rows = [np.empty(total, np.int32) for total in counts.sum(axis=1)]  # the recordings, stratum by stratum
    free = np.cumsum(counts, axis=1) - counts  # (2, strata) where the next of each stratum goes
    for truths, scores in zip(true, score, strict=True):
        row, stratum, is_positive = _place(truths, scores, borders)
        for which, (of_row, of_stratum) in enumerate([(row, stratum), (row[is_positive], stratum[is_positive])]):
            some = np.bincount(of_stratum, minlength=counts.shape[1])
            begins = np.cumsum(some) - some
            rows[which][(free[which] - begins)[of_stratum] + np.arange(len(of_row))] = of_row
            free[which] += some
    counts = counts[:, counts[0] > 0]
    ends = np.concatenate([np.zeros((2, 1), np.int64), np.cumsum(counts, axis=1)], axis=1)  # (2, strata + 1)
    pieces = [slice(start, start + PIECE + 1) for start in range(0, counts.shape[1], PIECE)]
    longest = max((int(ends[0, piece][-1] - ends[0, piece][0]) for piece in pieces), default=0)
    ones = np.ones(longest)
    sizes = len(true[0]) if true else 0
    return [
        (_counts(rows[0], ends[0, piece], sizes, ones), _counts(rows[1], ends[1, piece], sizes, ones))
        for piece in pieces
    ]


def _place(true: np.ndarray, score: np.ndarray, borders: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Sort a label's known pairs by falling score: the recording, the stratum and whether it is positive, of each."""
    row = np.flatnonzero(~(np.isnan(true) | np.isnan(score))).astype(np.int32)
    row = row[np.argsort(-score[row], kind="stable")]
    scores = score[row]
    above = len(borders) - np.searchsorted(borders, scores, side="right")  # borders above each score
    is_border = np.zeros(len(row), bool)
    if len(borders):
        is_border = borders[np.minimum(len(borders) - 1 - above, len(borders) - 1)] == scores
    return row, 2 * above + is_border, true[row] == 1


def _counts(row: np.ndarray, ends: np.ndarray, recordings: int, ones: np.ndarray) -> csr_matrix:
    """(strata, recordings) of pairs that follow one another, `ends` (strata + 1,) between them."""
    columns = row[ends[0] : ends[-1]]
    matrix = csr_matrix((ones[: len(columns)], columns, ends - ends[0]), (len(ends) - 1, recordings))
    matrix.data = ones[: len(columns)]  # one array for all pieces, of which csr_matrix made a copy
    return matrix


def _list_sums(prepared: _Prepared, label: int) -> csr_matrix:
    """List what is summed of a label, in each row by recording."""
    true, score = prepared.true[:, label], prepared.score[:, label]
    row = np.flatnonzero(~(np.isnan(true) | np.isnan(score))).astype(np.int32)
    score = score[row]
    positive = true[row] == 1
    excess = score - positive
    place = bins(score).astype(np.uint8)
    order = np.argsort(place, kind="stable")
    called = score >= prepared.thresholds[label]
    columns = [row[order], row, row[called], row[called & positive]]
    lengths = [*np.bincount(place, minlength=BINS), *map(len, columns[1:])]
    values = [excess[order], excess**2, np.ones(len(columns[2]) + len(columns[3]))]
    parts = np.concatenate(values), np.concatenate(columns), np.append(0, np.cumsum(lengths))
    return csr_matrix(parts, (BINS + 3, len(true)))


def _count_draws(stream: np.random.SeedSequence, patients: int) -> np.ndarray:
    """(patients,) how many times each is drawn, with replacement, in one resample."""
    return np.bincount(np.random.default_rng(stream).integers(0, patients, patients), minlength=patients)


def _values(prepared: _Prepared, weights: np.ndarray) -> np.ndarray:
    """Measure some resamples.

    Args:
        prepared: The pairs.
        weights: (recordings, resamples) how many times each recording counts.

    Returns:
        (labels + 1, METRICS, resamples), the last row all pairs pooled, if they are; NaN where a metric is not defined.
    """
    labels, rows = prepared.true.shape[1], len(prepared.ranked)
    areas = [_areas(ranked, weights) for ranked in prepared.ranked]
    auroc, auprc, positive, negative = np.stack(areas, axis=1)  # (labels + 1, resamples) each
    sums = np.empty((labels, BINS + 3, weights.shape[1]))
    for label in range(labels):
        sums[label] = (prepared.sums[label] if prepared.sums else _list_sums(prepared, label)) @ weights
    squared, called, hit = (_pooled(sums[:, which])[:rows] for which in (SQUARED, CALLED, HIT))
    off = np.abs(_pooled(sums[:, :BINS])[:rows]).sum(axis=1)
    total = positive + negative
    with np.errstate(invalid="ignore", divide="ignore"):
        by_metric = {
            "auroc": auroc,
            "auprc": auprc,
            "brier": squared / total,
            "ece": off / total,
            "sensitivity": hit / positive,
            "specificity": (negative - called + hit) / negative,
            "ppv": hit / called,
            "f1": 2 * hit / (positive + called),
            "prevalence": positive / total,
        }
    return np.stack([by_metric[metric] for metric in METRICS], axis=1)


def _areas(strata: _Strata, weights: np.ndarray) -> np.ndarray:
    """AUROC, AUPRC and the weights of the positive and of the negative pairs, (4, resamples)."""
    above = np.zeros((2, weights.shape[1]))  # all pairs, and the positive ones, of the pieces before
    wrong, precision = np.zeros_like(above)
    for pairs, positive in strata:
        here, hit = pairs @ weights, positive @ weights  # (strata, resamples) each
        until = np.cumsum(here, axis=0)  # with the stratum itself
        until += above[0]
        hit_until = np.cumsum(hit, axis=0)
        hit_until += above[1]
        above = np.stack([until[-1], hit_until[-1]])
        share = np.divide(hit_until, until, out=np.zeros_like(until), where=until > 0)
        precision += np.einsum("sr,sr->r", hit, share)
        # A positive pair is wrongly below the negative ones of higher scores, and below half of those of its own score.
        until -= hit_until
        here -= hit
        here /= 2
        until -= here
        wrong += np.einsum("sr,sr->r", hit, until)
    positives, negatives = above[1], above[0] - above[1]
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.stack([1 - wrong / (positives * negatives), precision / positives, positives, negatives])


def _counted(each: np.ndarray) -> np.ndarray:
    """(labels, METRICS) which of the values the macro average is of: labels with both classes, where it is defined."""
    prevalence = each[:, METRICS.index("prevalence")]
    both = (prevalence > 0) & (prevalence < 1)  # (labels,) NaN is neither
    counted: np.ndarray = both[:, None] & ~np.isnan(each)
    return counted


def _pooled(sums: np.ndarray) -> np.ndarray:
    """(labels, ..., resamples) to (labels + 1, ..., resamples): with the sum of all."""
    sums = np.ascontiguousarray(sums)
    return np.concatenate([sums, sums.sum(axis=0, keepdims=True)])


def _with_macro(each: np.ndarray, counted: np.ndarray) -> np.ndarray:
    """(labels + 1, METRICS, resamples) to (labels + 2, METRICS, resamples): the macro average before the last row.

    It is of the same labels in all resamples: where one of them is not defined, the average is not.
    """
    labels = len(counted)
    sums = np.where(counted[..., None], each[:labels], 0).sum(axis=0, keepdims=True)  # (1, METRICS, resamples)
    with np.errstate(invalid="ignore"):
        macro = sums / counted.sum(axis=0)[:, None]
    return np.concatenate([each[:labels], macro, each[labels:]])


def _rows(values: np.ndarray, drawn: np.ndarray) -> list[Measure]:
    """Values (labels + 2, METRICS), and what they are in resamples (labels + 2, METRICS, resamples), as rows."""
    low, high, defined = intervals(drawn)
    averages = [*((label, "label") for label in range(len(values) - 2)), (None, "macro"), (None, "micro")]
    return [
        Measure(
            label,
            average,
            metric,
            float(values[row, column]),
            float(low[row, column]),
            float(high[row, column]),
            int(defined[row, column]),
        )
        for row, (label, average) in enumerate(averages)
        for column, metric in enumerate(METRICS)
    ]


def intervals(drawn: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The percentile interval of what resamples gave.

    Args:
        drawn: (..., resamples), NaN where not defined.

    Returns:
        Low, high and the number of resamples that define it, (...) each; low and high are NaN where most do not.
    """
    defined = (~np.isnan(drawn)).sum(axis=-1)
    ends = np.full((2, *drawn.shape[:-1]), np.nan)
    enough = (defined > 0) & (2 * defined >= drawn.shape[-1])
    if enough.any():
        tails = [(1 - LEVEL) / 2, (1 + LEVEL) / 2]
        ends[:, enough] = np.nanquantile(drawn[enough], tails, axis=-1)
    return ends[0], ends[1], defined
