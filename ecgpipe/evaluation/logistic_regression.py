"""Logistic regression with an L2 penalty for many labels at once, each with a strength and missing values of its own.

It minimises what scikit-learn's LogisticRegression does, label by label, by Newton's method. Each step is solved by
conjugate gradients, of which a step costs two matrix products whatever the number of labels; that is what makes
17 labels of 100,000 recordings a matter of seconds. The features of a network are far from independent of one another.
So the steps are taken in the metric of their covariance, in which the problem is nearly round.
"""

from typing import NamedTuple

import numpy as np
from scipy.special import expit

# A label is done after a Newton step that promises to lower its loss, a sum over recordings, by less than half of this.
PRECISION = 1e-5

# Below this, the loss is too flat for float32 to tell whether a step lowered it, and a whole step is right. If the next
# one does not promise far less, what it promises is what was rounded off.
FLAT = 1e-2

MOST_STEPS = 100
MOST_CONJUGATE_STEPS = 200

# Rows whose products are summed in float32, before they are summed in float64.
BLOCK_ROWS = 8192


class Linear(NamedTuple):
    """A linear function of the features for each label, whose sigmoid is a probability."""

    weight: np.ndarray  # (width, labels) float64
    bias: np.ndarray  # (labels,) float64


class Curvature(NamedTuple):
    """The covariance of the features in its own axes, to take steps by."""

    axes: np.ndarray  # (width, width) float64, one axis per column
    variances: np.ndarray  # (width,) float64, summed over the recordings and not divided


def curvature(features: np.ndarray) -> Curvature:
    """The axes along which features vary independently, which all fits to them share.

    Args:
        features: (recordings, width) float32, each of mean 0.

    Returns:
        The eigenvectors and eigenvalues of their product with themselves.
    """
    variances, axes = np.linalg.eigh(_transposed(features, features))
    return Curvature(axes, np.maximum(variances, 0))


def fit(
    features: np.ndarray, true: np.ndarray, strength: np.ndarray, shape: Curvature, start: Linear | None = None
) -> Linear:
    """Minimise, for each label, the sum of its log losses and of |weight|^2 / (2 strength); the bias is free.

    Args:
        features: (recordings, width) float32, best of mean 0 and variance 1.
        true: (recordings, labels) float32: 1, 0, or NaN where unknown. Each label has both.
        strength: (labels,) scikit-learn's C: the larger, the weaker the penalty.
        shape: As of `curvature` for these features.
        start: Where to begin, e.g. the result for another strength; zero if None.

    Returns:
        The minimum of each label, which depends on no other label.
    """
    weight = (~np.isnan(true)).astype(np.float32)  # (recordings, labels)
    positive = np.nan_to_num(true)
    width, labels = features.shape[1], true.shape[1]
    penalty = np.vstack([np.tile(1 / strength, (width, 1)), np.zeros(labels)])  # (width + 1, labels), the bias is last
    coefficients = np.zeros((width + 1, labels)) if start is None else np.vstack([start.weight, start.bias])
    active, before = np.arange(labels), np.full(labels, np.inf)
    for _ in range(MOST_STEPS):
        here, y, counted = coefficients[:, active], positive[:, active], weight[:, active]
        margin = _margin(features, here)  # (recordings, active)
        probability = expit(margin)
        gradient = _gradient(features, counted * (probability - y)) + penalty[:, active] * here
        bend = counted * probability * (1 - probability)  # (recordings, active), of the loss by its margin
        step = -_solve(features, bend, penalty[:, active], gradient, shape)
        promised = -(gradient * step).sum(axis=0)  # (active,) twice what a whole step would lower the loss by
        size = _size(margin, _margin(features, step), y, counted, here, step, penalty[:, active], promised)
        coefficients[:, active] = here + size * step
        going = (promised > PRECISION) & ((promised > FLAT) | (promised < before / 2))
        active, before = active[going], promised[going]
        if not len(active):
            break
    return Linear(coefficients[:-1], coefficients[-1])


def probability(features: np.ndarray, linear: Linear) -> np.ndarray:
    """Compute the sigmoid of a linear function of the features, (recordings, labels) float64."""
    margin = features @ linear.weight.astype(np.float32) + linear.bias.astype(np.float32)
    sigmoid: np.ndarray = expit(margin.astype(np.float64))
    return sigmoid


def _size(
    margin: np.ndarray,
    change: np.ndarray,
    y: np.ndarray,
    counted: np.ndarray,
    here: np.ndarray,
    step: np.ndarray,
    penalty: np.ndarray,
    promised: np.ndarray,
) -> np.ndarray:
    """(labels,) how much of a step to take: all of it, or half as often as it takes to lower the loss enough."""

    def loss(size: np.ndarray) -> np.ndarray:
        there = margin + size.astype(np.float32) * change
        losses = counted * (np.logaddexp(np.float32(0), there) - y * there)
        total: np.ndarray = losses.sum(axis=0, dtype=np.float64) + (penalty * (here + size * step) ** 2).sum(axis=0) / 2
        return total

    size = np.ones(len(promised))
    if (promised > FLAT).any():
        unmoved = loss(np.zeros(len(promised)))
        for _ in range(30):
            short = (promised > FLAT) & (loss(size) > unmoved - 1e-4 * size * promised)
            if not short.any():
                break
            size[short] /= 2
    return size


def _solve(
    features: np.ndarray, bend: np.ndarray, penalty: np.ndarray, gradient: np.ndarray, shape: Curvature
) -> np.ndarray:
    """Newton's steps by preconditioned conjugate gradients, (width + 1, labels).

    As if every recording bent the loss alike, the matrix would be that of the features' covariance, which is inverted
    in its own axes. That is the metric; what is left to find takes few iterations.
    """
    mean_bend = bend.mean(axis=0, dtype=np.float64)  # (labels,)
    in_axes = 1 / (np.outer(shape.variances, mean_bend) + penalty[:-1])  # (width, labels)
    of_bias = 1 / np.maximum(bend.sum(axis=0, dtype=np.float64), np.finfo(np.float32).tiny)

    def times(vectors: np.ndarray) -> np.ndarray:
        product: np.ndarray = _gradient(features, bend * _margin(features, vectors)) + penalty * vectors
        return product

    def metric(vectors: np.ndarray) -> np.ndarray:
        return np.vstack([shape.axes @ (in_axes * (shape.axes.T @ vectors[:-1])), of_bias * vectors[-1]])

    solution = np.zeros_like(gradient)
    rest = gradient.copy()
    direction = near = metric(rest)
    left = (rest * near).sum(axis=0)  # (labels,)
    # The nearer the minimum, the more exact the step.
    enough = left * np.minimum(0.1, np.sqrt(left)) ** 2
    for _ in range(MOST_CONJUGATE_STEPS):
        open_ = (left > enough) & (left > PRECISION / 100)
        if not open_.any():
            break
        product = times(direction)
        size = np.where(open_, left / np.maximum((direction * product).sum(axis=0), np.finfo(float).tiny), 0)
        solution += size * direction
        rest -= size * product
        near = metric(rest)
        now = (rest * near).sum(axis=0)
        direction = near + now / np.maximum(left, np.finfo(float).tiny) * direction
        left = np.where(open_, now, left)
    return solution


def _margin(features: np.ndarray, coefficients: np.ndarray) -> np.ndarray:
    """(recordings, labels) float32 of coefficients (width + 1, labels)."""
    margin: np.ndarray = features @ coefficients[:-1].astype(np.float32) + coefficients[-1].astype(np.float32)
    return margin


def _gradient(features: np.ndarray, residual: np.ndarray) -> np.ndarray:
    """(width + 1, labels) float64 of what each recording adds, (recordings, labels)."""
    return np.vstack([_transposed(features, residual), residual.sum(axis=0, dtype=np.float64)])


def _transposed(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """left.T @ right in float64, of float32 sums over blocks."""
    total = np.zeros((left.shape[1], right.shape[1]))
    for first in range(0, len(left), BLOCK_ROWS):
        total += left[first : first + BLOCK_ROWS].T @ right[first : first + BLOCK_ROWS]
    return total
