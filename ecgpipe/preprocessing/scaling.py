"""Shift and scale a signal: NaN, mean, standard deviation, minimum and maximum, of each lead or of all together.

All functions but `replace_nan` overwrite the signal that they are given, and return the result with the steps that they
did: what `digital.decode` does to a sample's number to get the same bits.
"""

from collections.abc import Sequence

import numpy as np

from ecgpipe.core.digital import MULTIPLY, SUBTRACT, Step
from ecgpipe.core.model_input import MinMax, ReplaceNan, Standardize
from ecgpipe.preprocessing.unusable import UnusableError


def replace_nan(signal: np.ndarray, step: ReplaceNan) -> np.ndarray:
    """Replace NaN by zero or by the mean of all other values.

    Args:
        signal: (leads, samples) float64.
        step: What replaces it.

    Returns:
        (leads, samples), the signal itself if nothing is NaN.

    Raises:
        UnusableError: Every value is NaN.
    """
    if not np.isnan(np.add.reduce(signal, axis=None)):
        return signal
    missing = np.isnan(signal)
    if missing.all():
        raise UnusableError("every sample is NaN")
    return np.where(missing, 0.0 if step.by == "zero" else signal[~missing].mean(), signal)


def subtract_means(signal: np.ndarray) -> tuple[np.ndarray, tuple[Step, ...]]:
    """Subtract the mean of each lead.

    Args:
        signal: (leads, samples) float64, overwritten.

    Returns:
        (leads, samples), and the steps.
    """
    with np.errstate(over="ignore", invalid="ignore"):  # values that are too large are reported later
        means = np.add.reduce(signal, axis=1, keepdims=True) / signal.shape[1]
        signal -= means
    return signal, ((SUBTRACT, means[:, 0]),)


def standardize(
    signal: np.ndarray, step: Standardize, leads: Sequence[str], is_centred: bool
) -> tuple[np.ndarray, tuple[Step, ...]]:
    """Subtract the mean and divide by the standard deviation + epsilon, of each lead or of all.

    Args:
        signal: (leads, samples) float64, overwritten.
        step: Over what, and with which epsilon.
        leads: The names of the leads, for the error.
        is_centred: Whether the mean of each lead is zero already.

    Returns:
        (leads, samples), and the steps.

    Raises:
        UnusableError: A standard deviation overflows.
    """
    rows = signal.reshape(1, -1) if step.over == "all" else signal  # (1, leads * samples) or (leads, samples)
    steps: tuple[Step, ...] = ()
    if not is_centred:
        rows, steps = subtract_means(rows)
    with np.errstate(over="ignore", invalid="ignore"):
        spread = np.sqrt(np.vecdot(rows, rows) / (rows.shape[1] - step.ddof))  # (1,) or (leads,)
    if not np.isfinite(spread).all():
        names = leads if len(leads) == len(spread) else ["all leads"]
        overflowing = [lead for lead, value in zip(names, spread, strict=True) if not np.isfinite(value)]
        raise UnusableError(f"samples too large to be meant ({' '.join(overflowing)})")
    divisor = spread + step.epsilon
    if not step.epsilon:
        divisor[divisor == 0] = np.inf  # constant: zero
    factors = 1.0 / divisor
    rows *= factors[:, None]
    return rows.reshape(signal.shape), (*steps, (MULTIPLY, factors))


def map_range(signal: np.ndarray, step: MinMax) -> tuple[np.ndarray, tuple[Step, ...]]:
    """Map minimum and maximum, of each lead or of all, to two values.

    Args:
        signal: (leads, samples) float64, overwritten.
        step: Over what, and to which values.

    Returns:
        (leads, samples), and the steps.
    """
    rows = signal.reshape(1, -1) if step.over == "all" else signal
    with np.errstate(over="ignore", invalid="ignore"):
        lowest, highest = rows.min(axis=1, keepdims=True), rows.max(axis=1, keepdims=True)  # (leads, 1)
        rows -= lowest
        factors = (step.high - step.low) / (highest - lowest + step.epsilon)
        rows *= factors
        rows += step.low
    steps = ((SUBTRACT, lowest[:, 0]), (MULTIPLY, factors[:, 0]), (SUBTRACT, np.array([-float(step.low)])))
    return rows.reshape(signal.shape), steps
