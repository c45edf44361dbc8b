"""Measure how two sets of numbers or vectors differ: of the same recordings, or of two datasets."""

from typing import NamedTuple

import numpy as np
from scipy.stats import rankdata

# Of each label's probabilities.
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


class Paired(NamedTuple):
    """How the numbers of the same recordings differ, second minus first; None if that is not defined."""

    mean: float
    sd: float | None  # of the differences, with n - 1
    pearson: float | None
    spearman: float | None
    up: int  # recordings below the threshold in the first and at or above it in the second
    down: int  # the reverse


class Moments(NamedTuple):
    """Of vectors."""

    n: int
    mean: np.ndarray  # (width,) float64
    scatter: np.ndarray  # (width, width) float64, the sum of the products of deviations from the mean

    @property
    def covariance(self) -> np.ndarray:
        """With n - 1, (width, width) float64."""
        return self.scatter / max(self.n - 1, 1)


def compare_pairs(first: np.ndarray, second: np.ndarray, thresholds: tuple[float, float]) -> Paired:
    """Compare numbers of the same recordings.

    Args:
        first: (recordings,) float64, at least one.
        second: The same recordings.
        thresholds: Decision thresholds of the two.

    Returns:
        Their differences. Correlations are undefined if all numbers of one side are equal.
    """
    difference = second - first
    before, after = first >= thresholds[0], second >= thresholds[1]
    return Paired(
        mean=float(difference.mean()),
        sd=float(difference.std(ddof=1)) if len(difference) > 1 else None,
        pearson=_correlate(first, second),
        spearman=_correlate(rankdata(first), rankdata(second)),
        up=int((~before & after).sum()),
        down=int((before & ~after).sum()),
    )


def compare_distributions(first: np.ndarray, second: np.ndarray) -> tuple[float, float]:
    """Compare the distributions of two samples, by one sort of each (docs/decisions.md says why not by SciPy).

    Args:
        first: (n,) float64, at least one.
        second: (m,) the same.

    Returns:
        The Kolmogorov-Smirnov statistic, the largest difference of the two empirical distribution functions; and the
        first Wasserstein distance, the area between them, in the unit of the numbers (Vallender, Theory of Probability
        and its Applications 1974).
    """
    first, second = np.sort(first), np.sort(second)
    places = np.sort(np.concatenate([first, second]))
    difference = np.abs(
        np.searchsorted(first, places, side="right") / len(first)
        - np.searchsorted(second, places, side="right") / len(second)
    )
    return float(difference.max()), float(difference[:-1] @ np.diff(places))


def compute_moments(vectors: np.ndarray) -> Moments:
    """Compute count, mean and scatter of vectors.

    Args:
        vectors: (n, width) float64; n may be 0.

    Returns:
        Their moments.
    """
    mean = vectors.mean(axis=0) if len(vectors) else np.zeros(vectors.shape[1])
    return Moments(len(vectors), mean, (vectors - mean).T @ (vectors - mean))


def merge_moments(first: Moments, second: Moments) -> Moments:
    """Merge the moments of two sets of vectors (Chan, Golub and LeVeque, COMPSTAT 1982).

    Args:
        first: Of one set.
        second: Of the other set, of the same width.

    Returns:
        Of both.
    """
    n = first.n + second.n
    if not n:
        return first
    step = second.mean - first.mean
    scatter = first.scatter + second.scatter + np.outer(step, step) * (first.n * second.n / n)
    return Moments(n, first.mean + step * (second.n / n), scatter)


def compute_frechet(first: Moments, second: Moments) -> float:
    """Compute the squared Fréchet distance of two normal distributions.

    By Dowson and Landau (J. Multivariate Analysis 1982). The FID of generated images is the same (Heusel et al.,
    NeurIPS 2017): it sees means and covariances only, and grows if there are few vectors for their width.

    Args:
        first: Of at least two vectors.
        second: The same.

    Returns:
        |mean difference|² + trace(C1 + C2 - 2 (C1 C2)^½), in the squared unit of the vectors.
    """
    values, axes = np.linalg.eigh(first.covariance)
    root = (axes * np.sqrt(np.maximum(values, 0))) @ axes.T
    between = np.sqrt(np.maximum(np.linalg.eigvalsh(root @ second.covariance @ root), 0)).sum()
    traces = np.trace(first.covariance) + np.trace(second.covariance)
    return float(max(((first.mean - second.mean) ** 2).sum() + traces - 2 * between, 0))


def compute_linear_cka(first: np.ndarray, second: np.ndarray) -> tuple[float | None, float | None]:
    """Compute the linear centred kernel alignment of two representations of the same recordings.

    It does not change when one is rotated or scaled, and their widths may differ (Kornblith et al., ICML 2019).

    Args:
        first: (recordings, width) float64.
        second: (recordings, another width) float64.

    Returns:
        As in the paper; and with the unbiased estimate of HSIC (Song et al., JMLR 2012), since the former is too high
        when there are few recordings for the widths. None if it is not defined: all vectors of one are the same, or
        there are fewer than four.
    """
    n = len(first)
    if not (np.ptp(first, axis=0).any() and np.ptp(second, axis=0).any()):
        return None, None
    x, y = (vectors - vectors.mean(axis=0) for vectors in (first, second))
    products = [float(np.linalg.norm(a.T @ b)) ** 2 for a, b in ((x, y), (x, x), (y, y))]
    plain = _normalise_hsic(*products)
    if n < 4:
        return plain, None
    rows = [np.einsum("ij,ij->i", vectors, vectors) for vectors in (x, y)]
    unbiased = [
        product - n / (n - 2) * (a @ b) + a.sum() * b.sum() / ((n - 1) * (n - 2))
        for product, (a, b) in zip(products, ((rows[0], rows[1]), (rows[0], rows[0]), (rows[1], rows[1])), strict=True)
    ]
    return plain, _normalise_hsic(*unbiased)


def _normalise_hsic(both: float, first: float, second: float) -> float | None:
    return float(both / np.sqrt(first * second)) if first > 0 and second > 0 else None


def _correlate(first: np.ndarray, second: np.ndarray) -> float | None:
    """The correlation; None if all numbers of one side are equal, or nearly so."""
    if not np.ptp(first) or not np.ptp(second):
        return None
    with np.errstate(invalid="ignore", divide="ignore"):
        correlation = float(np.corrcoef(first, second)[0, 1])
    return correlation if np.isfinite(correlation) else None
