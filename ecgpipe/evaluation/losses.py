"""How far probabilities are from what is true: the log loss and the Brier score, by label."""

import numpy as np

# A probability of 0 or 1 is taken to be this far from it, as scikit-learn does.
EPSILON = float(np.finfo(np.float64).eps)


def log_loss(true: np.ndarray, probability: np.ndarray) -> np.ndarray:
    """The mean of the log losses of each label, over the recordings whose true label is known.

    Args:
        true: (recordings, labels): 1, 0 or NaN.
        probability: (recordings, labels).

    Returns:
        (labels,) float64; NaN for a label without known recordings.
    """
    of_truth = np.where(true == 1, probability, 1 - probability)
    losses = np.where(np.isnan(true), 0, -np.log(np.maximum(of_truth, EPSILON)))
    counts = (~np.isnan(true)).sum(axis=0)
    means: np.ndarray = np.where(counts > 0, losses.sum(axis=0) / np.maximum(counts, 1), np.nan)
    return means


def brier(true: np.ndarray, probability: np.ndarray) -> float:
    """The mean square error of one label, all known (Brier, Monthly Weather Review 78, 1950)."""
    return float(((probability - true) ** 2).mean())
