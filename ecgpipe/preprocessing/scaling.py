"""Shift and scale a signal: NaN, mean, standard deviation, minimum and maximum, of each lead or of all together.

All functions but `replace_nan` overwrite the signal that they are given, and return the result.
"""

from collections.abc import Sequence

import numpy as np

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


def subtract_means(signal: np.ndarray) -> np.ndarray:
    """Subtract the mean of each lead.

    Args:
        signal: (leads, samples) float64, overwritten.

    Returns:
        (leads, samples).
    """
    with np.errstate(over="ignore", invalid="ignore"):  # values that are too large are reported later
        signal -= np.add.reduce(signal, axis=1, keepdims=True) / signal.shape[1]
    return signal


def standardize(signal: np.ndarray, step: Standardize, leads: Sequence[str], is_centred: bool) -> np.ndarray:
    """Subtract the mean and divide by the standard deviation + epsilon, of each lead or of all.

    Args:
        signal: (leads, samples) float64, overwritten.
        step: Over what, and with which epsilon.
        leads: The names of the leads, for the error.
        is_centred: Whether the mean of each lead is zero already.

    Returns:
        (leads, samples).

    Raises:
        UnusableError: A standard deviation overflows.
    """
    rows = signal.reshape(1, -1) if step.over == "all" else signal  # (1, leads * samples) or (leads, samples)
    if not is_centred:
        rows = subtract_means(rows)
    with np.errstate(over="ignore", invalid="ignore"):
        spread = np.sqrt(np.vecdot(rows, rows) / (rows.shape[1] - step.ddof))  # (1,) or (leads,)
    if not np.isfinite(spread).all():
        names = leads if len(leads) == len(spread) else ["all leads"]
        overflowing = [lead for lead, value in zip(names, spread, strict=True) if not np.isfinite(value)]
        raise UnusableError(f"samples too large to be meant ({' '.join(overflowing)})")
    divisor = spread + step.epsilon
    rows *= np.divide(1.0, divisor, out=np.zeros_like(divisor), where=divisor > 0)[:, None]  # constant: zero
    return rows.reshape(signal.shape)


def map_range(signal: np.ndarray, step: MinMax) -> np.ndarray:
    """Map minimum and maximum, of each lead or of all, to two values.

    Args:
        signal: (leads, samples) float64, overwritten.
        step: Over what, and to which values.

    Returns:
        (leads, samples).
    """
    rows = signal.reshape(1, -1) if step.over == "all" else signal
    with np.errstate(over="ignore", invalid="ignore"):
        lowest, highest = rows.min(axis=1, keepdims=True), rows.max(axis=1, keepdims=True)  # (leads, 1)
        rows -= lowest
        rows *= (step.high - step.low) / (highest - lowest + step.epsilon)
        rows += step.low
    return rows.reshape(signal.shape)
