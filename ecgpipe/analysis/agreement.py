"""How far several models agree about the same recordings, and on which recordings they disagree most."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from ecgpipe.analysis import distribution_shift


class Agreement(NamedTuple):
    """How the probabilities of two models agree over the recordings for which both have one."""

    n: int
    mean_difference: float  # first minus second
    pearson: float | None  # None where not defined
    spearman: float | None
    both: int  # recordings that both call positive, by their own thresholds
    only_first: int
    only_second: int
    neither: int
    kappa: float | None  # Cohen's, of these four numbers

    @property
    def agreeing(self) -> float:
        """The share of recordings that both call the same."""
        return (self.both + self.neither) / self.n


class Disagreement(NamedTuple):
    """Of each recording the statement on which the models are furthest apart."""

    spread: np.ndarray  # (recordings,) float64, the highest probability minus the lowest; NaN with fewer than two
    statement: np.ndarray  # (recordings,) int32 its number; -1 for none
    highest: np.ndarray  # (recordings,) int32 the model with the highest probability; -1 for none
    lowest: np.ndarray  # (recordings,) int32


def compare_probabilities(first: np.ndarray, second: np.ndarray, thresholds: tuple[float, float]) -> Agreement | None:
    """Compare two models' probabilities of one statement.

    Args:
        first: (recordings,) NaN where there is none.
        second: The same recordings.
        thresholds: Decision thresholds of the two.

    Returns:
        Their agreement; None where no recording has both.
    """
    usable = np.isfinite(first) & np.isfinite(second)
    if not usable.any():
        return None
    first, second = first[usable], second[usable]
    pairs = distribution_shift.compare_pairs(second, first, (thresholds[1], thresholds[0]))
    called = first >= thresholds[0], second >= thresholds[1]
    n, both = len(first), int((called[0] & called[1]).sum())
    neither = n - both - pairs.up - pairs.down
    return Agreement(
        n=n,
        mean_difference=pairs.mean,
        pearson=pairs.pearson,
        spearman=pairs.spearman,
        both=both,
        only_first=pairs.up,
        only_second=pairs.down,
        neither=neither,
        kappa=_compute_kappa(both, pairs.up, pairs.down, neither),
    )


def _compute_kappa(both: int, only_first: int, only_second: int, neither: int) -> float | None:
    """Cohen's kappa (Educational and Psychological Measurement 1960); None where both call all recordings alike."""
    n = both + only_first + only_second + neither
    first, second = (both + only_first) / n, (both + only_second) / n
    expected = first * second + (1 - first) * (1 - second)
    return None if expected == 1 else ((both + neither) / n - expected) / (1 - expected)


def find_spread(probability: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """How far the models are apart on one statement.

    Args:
        probability: (models, recordings), NaN where a model has none.

    Returns:
        (recordings,) each: the highest minus the lowest probability, NaN where fewer than two models have one; the
        number of the model with the highest, and of the one with the lowest; the first of equals.
    """
    finite = np.isfinite(probability)
    highest = np.where(finite, probability, -np.inf).argmax(axis=0)
    lowest = np.where(finite, probability, np.inf).argmin(axis=0)
    each = np.arange(probability.shape[1])
    spread = probability[highest, each] - probability[lowest, each]
    return np.where(finite.sum(axis=0) > 1, spread, np.nan), highest, lowest


def find_disagreement(probabilities: Iterable[np.ndarray], recordings: int) -> Disagreement:
    """Find the statement on which the models are furthest apart, for each recording.

    Args:
        probabilities: Of each statement (models, recordings), NaN where a model has none.
        recordings: Their number.

    Returns:
        The first of equal ones.
    """
    found = Disagreement(np.full(recordings, np.nan), *(np.full(recordings, -1, np.int32) for _ in range(3)))
    for number, probability in enumerate(probabilities):
        spread, highest, lowest = find_spread(probability)
        larger = ~np.isnan(spread) & ~(spread <= found.spread)  # than none, too
        for values, new in zip(found, (spread, number, highest, lowest), strict=True):
            values[larger] = new[larger] if isinstance(new, np.ndarray) else new
    return found


def rank_largest(values: np.ndarray, count: int) -> np.ndarray:
    """The places of the largest numbers, the largest first; of equal ones the first. Those that are NaN are left out.

    Args:
        values: (recordings,).
        count: At most so many.
    """
    places = np.flatnonzero(~np.isnan(values))
    if len(places) > count:
        bar = np.partition(values[places], len(places) - count)[len(places) - count]
        places = places[values[places] >= bar]
    return np.asarray(places[np.argsort(-values[places], kind="stable")][:count])
