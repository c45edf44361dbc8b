"""The curves behind the metrics: ROC, precision and recall, calibration."""

from typing import NamedTuple

import numpy as np
from scipy.special import ndtri

from ecgpipe.evaluation import metrics, operating_points

# Of a curve, about evenly along it: between two of them an area changes by less than 1 / POINTS squared.
POINTS = 500


class Curve(NamedTuple):
    """Points of one label's curve, (points,) float64 each."""

    x: np.ndarray
    y: np.ndarray
    threshold: np.ndarray  # a recording is called positive from here on; infinite where none is


class Calibration(NamedTuple):
    """The share of positive recordings in each bin of probabilities: (bins,) each, without empty bins."""

    mean: np.ndarray  # probability
    share: np.ndarray  # of positives
    edge: np.ndarray  # the bin's lower one
    recordings: np.ndarray  # int64, in it
    low: np.ndarray  # of Wilson's 95 % interval of the share
    high: np.ndarray


def roc(true: np.ndarray, score: np.ndarray) -> Curve:
    """1 - specificity (x) and sensitivity (y) at each threshold, scikit-learn's `roc_curve`, thinned.

    Args:
        true: (recordings,) 1 or 0, both there.
        score: (recordings,) probabilities.

    Returns:
        At most `POINTS` of its points, from (0, 0) to (1, 1).
    """
    points = operating_points.count(true, score)
    x, y = points.fp / points.negatives, points.tp / points.positives
    return _thin(Curve(x, y, points.threshold), x + y)


def precision_recall(true: np.ndarray, score: np.ndarray) -> Curve:
    """Recall (x) and precision (y) at each threshold, scikit-learn's `precision_recall_curve`, by rising recall.

    Args:
        true: As for `roc`.
        score: As for `roc`.

    Returns:
        At most `POINTS` of its points, up to a recall of 1. They are steps: up to a point's recall its precision holds.
    """
    points = operating_points.count(true, score)
    gains = np.diff(points.tp, prepend=0) > 0  # elsewhere precision only falls
    tp, fp, thresholds = points.tp[gains], points.fp[gains], points.threshold[gains]
    recall = tp / points.positives
    return _thin(Curve(recall, tp / (tp + fp), thresholds), recall)


def calibration(true: np.ndarray, score: np.ndarray) -> Calibration:
    """The share of positives in each bin of probabilities, those of the calibration error.

    The interval is Wilson's (1927), which holds for shares near 0 and 1 too. It assumes independent recordings.

    Args:
        true: (recordings,) 1 or 0.
        score: (recordings,) probabilities.

    Returns:
        The bins with recordings.
    """
    place = metrics.bins(score)  # (recordings,)
    count, positive, total = (np.bincount(place, weights, metrics.BINS) for weights in (None, true, score))
    is_filled = count > 0
    count, positive, total = count[is_filled], positive[is_filled], total[is_filled]  # (bins,)
    share, z = positive / count, ndtri((1 + metrics.LEVEL) / 2)
    middle = (share + z**2 / (2 * count)) / (1 + z**2 / count)
    reach = z / (1 + z**2 / count) * np.sqrt(share * (1 - share) / count + z**2 / (4 * count**2))
    low, high = np.minimum(middle - reach, share).clip(0), np.maximum(middle + reach, share).clip(max=1)  # rounding
    return Calibration(total / count, share, metrics.EDGES[:-1][is_filled], count, low, high)


def _thin(curve: Curve, along: np.ndarray) -> Curve:
    """Keep the points nearest to even steps of `along` (points,), which rises; the first and the last stay."""
    if len(along) <= POINTS:
        return curve
    steps = np.linspace(along[0], along[-1], POINTS)
    kept = np.unique(np.append(np.searchsorted(along, steps[:-1]), len(along) - 1))
    return Curve(*(values[kept] for values in curve))
