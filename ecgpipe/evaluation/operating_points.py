"""What each decision threshold does to some recordings: counted once, for curves and for the choice of thresholds."""

from typing import NamedTuple

import numpy as np


class Points(NamedTuple):
    """True and false positives at each threshold, as scikit-learn counts them for `roc_curve`."""

    threshold: np.ndarray  # (points,) float64, falling: infinity, then each distinct score; positive from it on
    tp: np.ndarray  # (points,) int64, true positives
    fp: np.ndarray  # (points,) int64, false positives
    positives: int  # recordings with the label
    negatives: int  # recordings without it


def count(true: np.ndarray, score: np.ndarray) -> Points:
    """Count true and false positives at each threshold.

    Args:
        true: (recordings,) 1, 0 or NaN for unknown.
        score: (recordings,) probabilities. Recordings where either is NaN are left out.

    Returns:
        One point per distinct score, after the one at which no recording is positive.
    """
    is_known = ~(np.isnan(true) | np.isnan(score))
    is_true, score = true[is_known] == 1, np.asarray(score[is_known], np.float64)
    order = np.argsort(-score, kind="stable")
    is_true, score = is_true[order], score[order]
    last = np.flatnonzero(np.append(score[1:] != score[:-1], True)) if len(score) else np.empty(0, int)
    tp = np.append(0, np.cumsum(is_true)[last])  # (1 + distinct scores,)
    fp = np.append(0, last + 1) - tp
    return Points(np.append(np.inf, score[last]), tp, fp, int(is_true.sum()), int((~is_true).sum()))
