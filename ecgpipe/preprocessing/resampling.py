"""Change the sampling rate of a signal, along its last axis: linearly, by the Fourier transform, by taking samples.

Each function gives what scipy or NumPy gives (numpy.interp, scipy.signal.resample, scipy.signal.decimate), which the
tests hold it to.
"""

from functools import lru_cache

import numpy as np

from ecgpipe.core.model_input import ROUNDING
from ecgpipe.preprocessing import filters

# Up to this many samples, the places of a resampling are cached for the next recording of the same length.
_KEPT_SAMPLES = 100_000

# Where each new sample lies: the old sample before it, the one after it, and the weight of the one after.
Places = tuple[np.ndarray, np.ndarray, np.ndarray]


def count_samples(samples: int, old_rate: float, new_rate: float) -> int:
    """Count the whole samples that a signal has at another sampling rate.

    A product within `ROUNDING` of a whole number is that number. ecg-transform's LinearResample takes the integer part,
    and so loses a sample to the rounding of the factor, and with it a segment: it makes 4,999 of ten seconds at 121 Hz.

    Args:
        samples: Of the signal.
        old_rate: Its sampling rate in Hz.
        new_rate: The other sampling rate in Hz.

    Returns:
        The number of samples.
    """
    exact = samples * (new_rate / old_rate)
    nearest = round(exact)
    return nearest if abs(exact - nearest) < ROUNDING else int(exact)


def count_on_grid(samples: int, old_rate: float, new_rate: float) -> int:
    """Count the multiples of 1 / `new_rate` seconds from the first sample to the last.

    Args:
        samples: Of the signal, at least one.
        old_rate: Its sampling rate in Hz.
        new_rate: The other sampling rate in Hz.

    Returns:
        The number of samples.
    """
    return int((samples - 1) * new_rate / old_rate + ROUNDING) + 1


def resample_linearly(signal: np.ndarray, samples: int) -> np.ndarray:
    """Interpolate linearly from end to end, as ecg-transform's LinearResample does.

    Args:
        signal: (leads, samples).
        samples: Of the result.

    Returns:
        (leads, `samples`).
    """
    places = _aligned if max(samples, signal.shape[1]) <= _KEPT_SAMPLES else _aligned.__wrapped__
    return _interpolate(signal, places(signal.shape[1], samples))


def resample_on_grid(signal: np.ndarray, old_rate: float, new_rate: float, samples: int) -> np.ndarray:
    """Interpolate linearly at the times k / `new_rate` seconds; after the last sample its value is held.

    Args:
        signal: (leads, samples).
        old_rate: Its sampling rate in Hz.
        new_rate: That of the result in Hz.
        samples: Of the result.

    Returns:
        (leads, `samples`).
    """
    places = _on_grid if max(samples, signal.shape[1]) <= _KEPT_SAMPLES else _on_grid.__wrapped__
    return _interpolate(signal, places(signal.shape[1], old_rate, new_rate, samples))


def resample_by_fourier(signal: np.ndarray, samples: int) -> np.ndarray:
    """Resample by the Fourier transform of the whole signal, without a window.

    Args:
        signal: (leads, samples).
        samples: Of the result.

    Returns:
        (leads, `samples`).
    """
    import scipy.signal  # takes a second, see filters.py

    resampled: np.ndarray = scipy.signal.resample(signal, samples, axis=-1)
    return resampled


def decimate(signal: np.ndarray, factor: int) -> np.ndarray:
    """Filter below the new Nyquist frequency, forward and backward, and take every `factor`-th sample.

    Args:
        signal: (leads, samples).
        factor: At least 2.

    Returns:
        (leads, samples / factor, rounded up).

    Raises:
        UnusableError: The signal is too short for the filter.
    """
    filtered = filters.filter_both_ways(signal, filters.design_decimation(factor), "the filter of the decimation")
    return filtered[..., ::factor]


def _interpolate(signal: np.ndarray, places: Places) -> np.ndarray:
    """Interpolate linearly between the samples of each lead."""
    before, after, weight = places
    resampled, earlier = np.empty((len(signal), len(weight))), np.empty(len(weight))
    with np.errstate(over="ignore", invalid="ignore"):
        for lead, row in zip(signal, resampled, strict=True):  # one lead at a time stays in the processor's cache
            lead.take(before, out=earlier, mode="clip")  # the usual mode writes to a copy first
            lead.take(after, out=row, mode="clip")
            row -= earlier
            row *= weight
            row += earlier
    return resampled


@lru_cache(maxsize=8)
def _aligned(old: int, new: int) -> Places:
    """The places of `new` samples from the first to the last of `old` ones."""
    position = np.arange(new) * ((old - 1) / (new - 1) if new > 1 else 0.0)
    before = np.minimum(position.astype(np.intp), max(old - 2, 0))
    return before, np.minimum(before + 1, old - 1), position - before


@lru_cache(maxsize=8)
def _on_grid(old: int, old_rate: float, new_rate: float, new: int) -> Places:
    """The places of `new` samples that are 1 / `new_rate` seconds apart, among `old` ones."""
    position = np.arange(new) * old_rate / new_rate
    before = np.minimum((position + ROUNDING).astype(np.intp), max(old - 2, 0))
    return before, np.minimum(before + 1, old - 1), np.clip(position - before, 0.0, 1.0)
