"""The curves behind the metrics: ROC, precision and recall, calibration."""

from typing import NamedTuple

import numpy as np
from scipy.special import ndtri

from ecgpipe.evaluation import metrics

# Of a curve, about evenly along it: between two of them an area changes by less than 1 / POINTS squared.
POINTS = 500


class Curve(NamedTuple):
    """Points of one label's curve, (points,) float64 each."""

    x: np.ndarray
    y: np.ndarray
    threshold: (
        np.ndarray
    )  # a recording is called positive from here on; infinite where none is. Of a bin, its lower edge


class Calibration(NamedTuple):
    """How many of the recordings in a bin of probabilities are positive: (bins,) each, without empty bins."""

    mean: np.ndarray  # probability
    share: np.ndarray  # of positives
    edge: np.ndarray  # the bin's lower one
    recordings: np.ndarray  # int64, in it
    low: np.ndarray  # of Wilson's 95 % interval of the share
    high: np.ndarray


def roc(true: np.ndarray, score: np.ndarray) -> Curve:
    """1 - specificity (x) and sensitivity (y) at each threshold, scikit-learn's `roc_curve`, as points of the curve.

    Args:
        true: (recordings,) 1 or 0, both there.
        score: (recordings,) probabilities.

    Returns:
        At most `POINTS` of its points, from (0, 0) to (1, 1).
    """
    hits, alarms, thresholds = _counted(true, score)
    x = np.append(0, alarms / alarms[-1])
    y = np.append(0, hits / hits[-1])
    return _thinned(Curve(x, y, np.append(np.inf, thresholds)), x + y)


def precision_recall(true: np.ndarray, score: np.ndarray) -> Curve:
    """Recall (x) and precision (y) at each threshold, scikit-learn's `precision_recall_curve`, by rising recall.

    Args:
        true: As for `roc`, and so is `score`.
        score: The same.

    Returns:
        At most `POINTS` of its points, up to a recall of 1. They are steps: up to a point's recall its precision holds.
    """
    hits, alarms, thresholds = _counted(true, score)
    gains = np.diff(hits, prepend=0) > 0  # elsewhere precision only falls
    hits, alarms, thresholds = hits[gains], alarms[gains], thresholds[gains]
    recall = hits / hits[-1]
    return _thinned(Curve(recall, hits / (hits + alarms), thresholds), recall)


def calibration(true: np.ndarray, score: np.ndarray) -> Calibration:
    """The share of positives in each bin of probabilities, those of the calibration error.

    The interval is Wilson's (1927), which holds for shares near 0 and 1 too. It takes the recordings for independent.

    Args:
        true: (recordings,) 1 or 0.
        score: (recordings,) probabilities.

    Returns:
        The bins with recordings.
    """
    place = metrics.bins(score)  # (recordings,)
    count, positive, total = (np.bincount(place, weights, metrics.BINS) for weights in (None, true, score))
    some = count > 0
    count, positive, total = count[some], positive[some], total[some]  # (bins,)
    share, z = positive / count, ndtri((1 + metrics.LEVEL) / 2)
    middle = (share + z**2 / (2 * count)) / (1 + z**2 / count)
    reach = z / (1 + z**2 / count) * np.sqrt(share * (1 - share) / count + z**2 / (4 * count**2))
    low, high = np.minimum(middle - reach, share).clip(0), np.maximum(middle + reach, share).clip(max=1)  # rounding
    return Calibration(total / count, share, metrics.EDGES[:-1][some], count, low, high)


def _counted(true: np.ndarray, score: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Positives and negatives at or above each score, and the scores, falling; (scores,) each."""
    order = np.argsort(-score, kind="stable")
    last = np.append(np.flatnonzero(np.diff(score[order])), len(score) - 1)  # (scores,) the last of each
    hits = np.cumsum(true[order], dtype=np.float64)[last]
    return hits, last + 1 - hits, score[order][last]


def _thinned(curve: Curve, along: np.ndarray) -> Curve:
    """The points nearest to even steps of `along` (points,), which rises; the first and the last stay."""
    if len(along) <= POINTS:
        return curve
    steps = np.linspace(along[0], along[-1], POINTS)
    kept = np.unique(np.append(np.searchsorted(along, steps[:-1]), len(along) - 1))
    return Curve(*(values[kept] for values in curve))
