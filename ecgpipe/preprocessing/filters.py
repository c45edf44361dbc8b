"""Filter a signal along its last axis as scipy does: Butterworth, notch and FIR filters, the running median.

Zero-phase filters run forward and backward over the signal and an odd extension of its ends, as
scipy.signal.filtfilt and sosfiltfilt do with their defaults (Gustafsson's method is not used). Their coefficients and
settled states are kept for the next signal of the same sampling rate.

scipy.signal takes a second to be imported. The functions that need it import it: not every model has a filter.
"""

from functools import lru_cache
from typing import NamedTuple

import numpy as np

from ecgpipe.core.model_input import Band, Butterworth, Filtering, Fir, Notch
from ecgpipe.preprocessing.unusable import UnusableError

# scipy.signal.decimate's anti-aliasing filter: Chebyshev I, of this order, ripple in dB and edge in new Nyquist rates.
DECIMATION = (8, 0.05, 0.8)


class Recursive(NamedTuple):
    """An infinite impulse response."""

    coefficients: tuple[np.ndarray, ...]  # (numerator, denominator), or (sections,)
    settled: np.ndarray  # its state after a long input of ones: (order,), or (sections, 2)
    edge: int  # samples by which zero-phase filtering extends each end


class Taps(NamedTuple):
    """A finite impulse response."""

    taps: np.ndarray  # (taps,)
    both_ways: np.ndarray  # (2 * taps - 1,) of the filter run forward and backward
    edge: int


def apply_filter(signal: np.ndarray, step: Filtering, rate: float) -> np.ndarray:
    """Filter each row of a signal.

    Args:
        signal: (leads, samples) float64.
        step: The filter.
        rate: Sampling rate in Hz.

    Returns:
        (leads, samples).

    Raises:
        UnusableError: The sampling rate is too low for the filter, or the signal too short for its extension.
    """
    design = design_filter(step, rate)
    name = _name(step)
    if isinstance(design, Taps):
        return _convolve_both_ways(signal, design, name) if step.zero_phase else _convolve(signal, design.taps)
    return filter_both_ways(signal, design, name) if step.zero_phase else _filter(signal, design, None)


@lru_cache(maxsize=64)
def design_filter(step: Filtering, rate: float) -> Recursive | Taps:
    """Compute a filter's coefficients.

    Args:
        step: The filter.
        rate: Sampling rate in Hz.

    Returns:
        The coefficients, and how far zero-phase filtering extends the ends.

    Raises:
        UnusableError: The sampling rate is too low for the filter.
    """
    import scipy.signal

    highest = step.frequency if isinstance(step, Notch) else max(limit for limit in step.band if limit is not None)
    if highest >= rate / 2:
        raise UnusableError(f"the sampling rate is too low for {_name(step)} ({rate:g} Hz)")
    match step:
        case Butterworth():
            kind, edges = _kind_and_edges(step.band)
            form = "sos" if step.sections else "ba"
            made = scipy.signal.butter(step.order, edges, kind, output=form, fs=rate)
            return _settle_sections(made) if step.sections else _settle(*made)
        case Notch():
            return _settle(*scipy.signal.iirnotch(step.frequency, step.q, fs=rate))
        case Fir():
            kind, edges = _kind_and_edges(step.band)
            count = int(step.seconds * rate)
            taps = scipy.signal.firwin(count + (count % 2 == 0), edges, pass_zero=kind, fs=rate)  # Hamming
            return Taps(taps, np.convolve(taps, taps[::-1]), 3 * len(taps))


@lru_cache(maxsize=8)
def design_decimation(factor: int) -> Recursive:
    """Compute the anti-aliasing filter of scipy.signal.decimate."""
    import scipy.signal

    order, ripple, edge = DECIMATION
    return _settle_sections(scipy.signal.cheby1(order, ripple, edge / factor, output="sos"))


def _kind_and_edges(band: Band) -> tuple[str, float | list[float]]:
    """The kind of a filter in scipy's words, and its limits in Hz."""
    low, high = band
    if low is not None and high is not None:
        return "bandpass", [low, high]
    if high is not None:
        return "lowpass", high
    if low is not None:
        return "highpass", low
    raise ValueError("a band without limits")  # which ModelInput refuses


def _settle(numerator: np.ndarray, denominator: np.ndarray) -> Recursive:
    import scipy.signal

    settled = scipy.signal.lfilter_zi(numerator, denominator)
    return Recursive((numerator, denominator), settled, 3 * max(len(numerator), len(denominator)))


def _settle_sections(sections: np.ndarray) -> Recursive:
    import scipy.signal

    # The order of the whole filter + 1, as sosfiltfilt counts it: sections of first order have two zero coefficients.
    terms = 2 * len(sections) + 1 - min((sections[:, 2] == 0).sum(), (sections[:, 5] == 0).sum())
    return Recursive((sections,), scipy.signal.sosfilt_zi(sections), 3 * int(terms))


def filter_both_ways(signal: np.ndarray, design: Recursive, name: str) -> np.ndarray:
    """Filter each row forward and backward, each time from the state that is settled for its first value.

    Args:
        signal: (leads, samples) float64.
        design: The filter.
        name: What it is called, for the error.

    Returns:
        (leads, samples).

    Raises:
        UnusableError: The signal is too short to be extended.
    """
    _refuse_short(signal, design.edge, name)
    extended = _extend(signal, design.edge)  # (leads, samples + 2 edge)
    forward = _filter(extended, design, extended[:, :1])
    backward = _filter(forward[:, ::-1], design, forward[:, -1:])
    return backward[:, ::-1][:, design.edge : -design.edge]


def _filter(signal: np.ndarray, design: Recursive, first: np.ndarray | None) -> np.ndarray:
    """Filter each row forward, from the state settled for `first`, (leads, 1), or from rest."""
    import scipy.signal

    filtered: np.ndarray
    if len(design.coefficients) == 1:
        start = None if first is None else design.settled[:, None, :] * first  # (sections, leads, 2)
        result = scipy.signal.sosfilt(*design.coefficients, signal, zi=start)
    else:
        start = None if first is None else design.settled * first  # (leads, order)
        result = scipy.signal.lfilter(*design.coefficients, signal, zi=start)
    filtered = result if start is None else result[0]
    return filtered


def _convolve_both_ways(signal: np.ndarray, design: Taps, name: str) -> np.ndarray:
    """Filter each row forward and backward, in one convolution.

    filtfilt extends by three times the taps. Of that, the inner third is all that reaches the result: the states from
    which it starts do not.
    """
    _refuse_short(signal, design.edge, name)
    edge = len(design.taps) - 1
    return _convolve(_extend(signal, edge), design.both_ways)[:, 2 * edge :]


def _convolve(signal: np.ndarray, taps: np.ndarray) -> np.ndarray:
    """Filter each row forward, from rest, by the Fourier transform."""
    import scipy.fft

    samples = signal.shape[1]
    length = scipy.fft.next_fast_len(samples + len(taps) - 1, real=True)
    response = scipy.fft.rfft(taps, length)
    filtered = np.empty((len(signal), samples))
    for row, lead in zip(filtered, signal, strict=True):  # one lead at a time stays in the processor's cache
        row[:] = scipy.fft.irfft(scipy.fft.rfft(lead, length) * response, length)[:samples]
    return filtered


def _extend(signal: np.ndarray, edge: int) -> np.ndarray:
    """Extend each row at both ends by its point reflection there."""
    extended = np.empty((len(signal), signal.shape[1] + 2 * edge))
    extended[:, edge : extended.shape[1] - edge] = signal
    np.subtract(2 * signal[:, :1], signal[:, edge:0:-1], out=extended[:, :edge])
    np.subtract(2 * signal[:, -1:], signal[:, -2 : -edge - 2 : -1], out=extended[:, extended.shape[1] - edge :])
    return extended


def _refuse_short(signal: np.ndarray, edge: int, name: str) -> None:
    if signal.shape[1] <= edge:
        raise UnusableError(f"too short for {name}, which needs more than {edge} samples ({signal.shape[1]} samples)")


def subtract_median(signal: np.ndarray, seconds: float, rate: float) -> np.ndarray:
    """Subtract the running median, with zeros beyond the ends.

    Args:
        signal: (leads, samples) float64.
        seconds: Over which it is taken.
        rate: Sampling rate in Hz.

    Returns:
        (leads, samples).
    """
    import scipy.ndimage

    size = int(seconds * rate) + 1
    size += size % 2 == 0
    joined = np.zeros((len(signal), signal.shape[1] + size // 2))  # the zeros between two leads are those of both
    joined[:, : signal.shape[1]] = signal
    median = scipy.ndimage.rank_filter(joined.ravel(), size // 2, size=size, mode="constant")
    detrended: np.ndarray = signal - median.reshape(joined.shape)[:, : signal.shape[1]]
    return detrended


def _name(step: Filtering) -> str:
    """A filter's name in messages."""
    if isinstance(step, Notch):
        return f"the notch filter at {step.frequency:g} Hz"
    kind, edges = _kind_and_edges(step.band)
    words = {"bandpass": "band-pass", "lowpass": "low-pass", "highpass": "high-pass"}
    limits = edges if isinstance(edges, list) else [edges]
    return f"the {words[kind]} filter of {' to '.join(f'{limit:g}' for limit in limits)} Hz"
