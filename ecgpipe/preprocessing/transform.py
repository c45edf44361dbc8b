"""Execute the declaration of a model's input: a recording's leads become the windows that the network takes.

What is done, and in which order, is in the declaration (`ecgpipe/core/model_input.py`); no model is named here. Steps
before the cut see the whole recording, steps after it one window at a time, all leads at once: a window of twelve
leads fits the processor's cache, several do not.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from math import ceil
from typing import NamedTuple

import numpy as np

from ecgpipe.core.digital import MOST_STEPS, MULTIPLY, Digital
from ecgpipe.core.digital import Step as DigitalStep
from ecgpipe.core.model_input import (
    ROUNDING,
    Butterworth,
    Center,
    Cut,
    Decimate,
    Fir,
    Fourier,
    JoinLeads,
    Linear,
    MedianBaseline,
    MinMax,
    ModelInput,
    Notch,
    Pad,
    ReplaceNan,
    Resampling,
    Scale,
    Standardize,
    Step,
    TakeEvery,
)
from ecgpipe.preprocessing import filters, resampling, scaling
from ecgpipe.preprocessing.unusable import UnusableError
from ecgpipe.readers.recording import MOST_VALUES

# Recordings shorter than this are not padded: they hardly hold one heartbeat.
SHORTEST_PADDED_S = 1.0


class Transformed(NamedTuple):
    """A recording, ready for the network."""

    windows: np.ndarray  # (windows, leads, samples) float32, or (windows, 1, leads * samples) if the leads are joined
    starts_s: np.ndarray  # (windows,) float32
    samples: int  # of each lead of a window that are signal, from its beginning; the others are padding
    padded_s: float  # what the only window lacks
    overlap_s: float  # what the last window shares with the one before
    discarded_s: float  # what is in no window, at the end
    # Of each window the whole numbers and steps that give the same bits; None if there are none.
    digital: tuple[Digital, ...] | None = None


class Stage(NamedTuple):
    """A signal after one step, to be looked at."""

    step: Step | None  # None: before the first one
    signal: np.ndarray  # (leads, samples), of the recording before `Cut`, of its first window after it
    rate: float  # Hz


class Places(NamedTuple):
    """Where a recording's windows lie, in samples at the sampling rate at which it is cut."""

    starts: np.ndarray  # (windows,) the first sample of each
    length: int  # of each
    lacking: int  # samples that the only window lacks
    overlap: int
    discarded: int


@dataclass
class _Piece:
    """A recording or a window, between two steps."""

    signal: np.ndarray  # (leads, samples) float64, or (1, leads * samples) after `JoinLeads`
    rate: float  # Hz
    is_own: bool  # whether the signal may be overwritten
    is_whole: bool = False  # whether it is exactly one window
    is_centred: bool = False  # whether the mean of each lead is zero, but for rounding
    padded_from: int | None = None  # samples of each lead before padding
    # The whole numbers and steps that make the signal; None if something was done to it that is no such step. Its leads
    # are never joined.
    digital: Digital | None = None


def transform(
    signal: np.ndarray,
    rate: float,
    model_input: ModelInput,
    is_centred: bool = False,
    overwrite: bool = False,
    digital: Digital | None = None,
) -> Transformed:
    """Turn a recording's leads into a model's windows.

    Args:
        signal: (leads, samples), the leads of `model_input.leads` in that order; in mV if the model needs it.
        rate: Sampling rate in Hz.
        model_input: The declaration.
        is_centred: Whether the mean of each lead has been subtracted already, and so no sample is NaN or infinite but
            by overflow.
        overwrite: Whether `signal` may be overwritten, which takes less time.
        digital: The whole numbers and steps that make the signal as it is here, if there are any.

    Returns:
        The windows, also as whole numbers if all that is done to a sample is to shift and scale it.

    Raises:
        UnusableError: The model cannot take this recording: it is too short or too long, a filter needs a higher
            sampling rate, or there are NaN, infinite or enormous samples.
    """
    if signal.shape[0] != len(model_input.leads):
        raise ValueError(f"{signal.shape[0]} leads, and the model takes {len(model_input.leads)}")
    if signal.shape[1] == 0:
        raise UnusableError("the recording has no samples")
    if not is_centred:
        _refuse_not_finite(signal, model_input)
    # Some files' arrays are stored column by column; everything below would take twice as long on them.
    prepared = np.asarray(signal, np.float64, order="C")
    is_own = prepared is not signal or (overwrite and signal.flags.writeable)
    whole = _Piece(prepared, rate, is_own, is_centred=is_centred, digital=digital)
    before, after = model_input.split_steps
    for step in before:
        _apply(step, whole, model_input)
    places = place_windows(whole.signal.shape[1], whole.rate, model_input)
    windows = np.empty((len(places.starts), *model_input.shape), np.float32)
    of_windows: list[Digital | None] = []
    samples = model_input.window_samples
    lacking_s = places.lacking / whole.rate
    if whole.padded_from is not None:  # before the cut
        lacking_s = model_input.window_s - whole.padded_from / whole.rate
    if not places.lacking:
        after = tuple(step for step in after if not isinstance(step, Pad))
    with np.errstate(over="ignore", invalid="ignore"):
        for window, start in zip(windows, places.starts, strict=True):
            view = whole.signal[:, start : start + places.length]
            cut = whole.digital and whole.digital.between(start, start + places.length)
            if not after and whole.padded_from is None:
                window[:] = view
                of_windows.append(cut)
                continue
            # Windows can overlap: the signal is not a window's own.
            piece = _Piece(view, whole.rate, False, not places.lacking, padded_from=whole.padded_from, digital=cut)
            for step in after:
                _apply(step, piece, model_input)
            window[:] = piece.signal
            of_windows.append(piece.digital)
            samples = samples if piece.padded_from is None else min(samples, piece.padded_from)
    if not model_input.ends_standardized:
        _refuse_overflow(windows)
    starts_s = (places.starts / whole.rate).astype(np.float32)
    discarded_s = 0.0 if whole.padded_from is not None else places.discarded / whole.rate
    shape = (len(model_input.leads), model_input.window_samples)
    found = tuple(each for each in of_windows if each and each.numbers.shape == shape and len(each.steps) <= MOST_STEPS)
    return Transformed(
        windows,
        starts_s,
        samples,
        lacking_s,
        places.overlap / whole.rate,
        discarded_s,
        found if len(found) == len(windows) else None,
    )


def trace(signal: np.ndarray, rate: float, model_input: ModelInput) -> Iterator[Stage]:
    """Execute a declaration step by step, on a recording and its first window, as `transform` does.

    Args:
        signal: (leads, samples), the leads of `model_input.leads` in that order.
        rate: Sampling rate in Hz.
        model_input: The declaration.

    Yields:
        The signal before the first step, and after each.

    Raises:
        UnusableError: The model cannot take this recording.
    """
    piece = _Piece(np.array(signal, np.float64, order="C"), rate, True)
    yield Stage(None, piece.signal.copy(), rate)
    for step in model_input.steps:
        if isinstance(step, Cut):
            places = place_windows(piece.signal.shape[1], piece.rate, model_input)
            piece.signal = piece.signal[:, places.starts[0] : places.starts[0] + places.length].copy()
            piece.is_whole = not places.lacking
        else:
            _apply(step, piece, model_input)
        yield Stage(step, piece.signal.copy(), piece.rate)


def refuse_unit(unit: str | None, model_input: ModelInput) -> None:
    """Refuse a recording of unknown unit for a model that needs millivolts.

    Args:
        unit: Of the recording, as `readers.Recording` has it.
        model_input: The declaration.

    Raises:
        UnusableError: The unit is not known.
    """
    if model_input.unit is not None and unit != model_input.unit:
        known = "units of the leads differ" if unit else "the file states no unit"
        fix = "" if unit else "; set preprocess.assume_unit if you know it"
        raise UnusableError(f"{known}, and the model needs {model_input.unit}{fix}")


@lru_cache(maxsize=32)  # most recordings of a dataset are equally long
def place_windows(samples: int, rate: float, model_input: ModelInput) -> Places:
    """Find where the consecutive windows of a recording lie.

    Args:
        samples: Of the recording.
        rate: Its sampling rate in Hz where it is cut.
        model_input: How long a window is, and what happens to the tail and to short recordings.

    Returns:
        The windows' places. Where a window is no whole number of samples at that rate, each starts at the nearest one.

    Raises:
        UnusableError: The recording is too short.
    """
    span = model_input.window_s * rate
    length = int(span + ROUNDING)
    if samples < length:
        _refuse_short(samples, rate, model_input)
        return Places(np.zeros(1, int), length, length - samples, 0, 0)
    count = int((samples - length) / span + ROUNDING) + 1
    starts = np.rint(np.arange(count) * span).astype(int)  # (windows,)
    rest = samples - length - int(starts[-1])
    overlaps = rest > 0 and model_input.tail == "overlap"
    starts = np.append(starts, samples - length) if overlaps else starts
    starts.flags.writeable = False  # the next recording gets the same array
    if overlaps:
        return Places(starts, length, 0, length - rest, 0)
    return Places(starts, length, 0, 0, rest)


def find_windows(samples: int, rate: float, model_input: ModelInput) -> tuple[Places, float, float]:
    """Find where the windows of a recording lie as it is read, without its signal.

    Args:
        samples: Of the recording.
        rate: Its sampling rate in Hz.
        model_input: The declaration.

    Returns:
        The windows' places, the sampling rate at which they are counted, and the seconds that the only one lacks.

    Raises:
        UnusableError: The recording is too short.
    """
    padded_from: float | None = None  # s
    for step in model_input.split_steps[0]:
        if isinstance(step, Pad):
            length = ceil(model_input.window_s * rate - ROUNDING)
            if samples < length:
                _refuse_short(samples, rate, model_input)
                padded_from, samples = samples / rate, length
        elif isinstance(step, Linear | Fourier | TakeEvery | Decimate):
            new = rate / step.factor if isinstance(step, Decimate) else step.rate
            count = resampling.count_on_grid if _is_on_grid(step) else resampling.count_samples
            samples, rate = count(samples, rate, new) if new != rate else samples, new
    places = place_windows(samples, rate, model_input)
    if padded_from is not None:
        return places._replace(discarded=0), rate, model_input.window_s - padded_from
    return places, rate, places.lacking / rate


def _refuse_short(samples: int, rate: float, model_input: ModelInput) -> None:
    """Raise an `UnusableError` for a recording shorter than one window, unless it can be padded."""
    if model_input.short == "skip":
        raise UnusableError(f"shorter than one segment of {model_input.window_s:g} s ({samples / rate:.3f} s)")
    if samples < SHORTEST_PADDED_S * rate:
        raise UnusableError(f"too short to be padded to a segment ({samples / rate:.3f} s)")


def _refuse_not_finite(signal: np.ndarray, model_input: ModelInput) -> None:
    """Raise an `UnusableError` for infinite samples, and for NaN if no step replaces it."""
    with np.errstate(over="ignore", invalid="ignore"):
        if np.isfinite(np.add.reduce(signal, axis=None)):
            return
    bad = np.isinf(signal) if model_input.accepts_nan else ~np.isfinite(signal)  # (leads, samples)
    affected = [lead for lead, is_bad in zip(model_input.leads, bad.any(axis=1), strict=True) if is_bad]
    if affected:
        what = "infinite samples" if model_input.accepts_nan else "NaN or infinite samples"
        raise UnusableError(f"{what} ({' '.join(affected)})")


def _refuse_overflow(windows: np.ndarray) -> None:
    """Raise an `UnusableError` for windows with samples that are not finite."""
    with np.errstate(over="ignore", invalid="ignore"):
        if not np.isfinite(np.add.reduce(windows, axis=None)) and not np.isfinite(windows).all():
            raise UnusableError("samples too large to be meant")


def _apply(step: Step, piece: _Piece, model_input: ModelInput) -> None:
    """Execute one step, but the cut."""
    was_centred, piece.is_centred = piece.is_centred, False
    digital, piece.digital = piece.digital, None
    steps: tuple[DigitalStep, ...] | None = None  # what it did to each sample; None: something else
    match step:
        case ReplaceNan():
            replaced = scaling.replace_nan(piece.signal, step)
            piece.signal, steps = replaced, () if replaced is piece.signal else None
        case Linear() | Fourier() | TakeEvery() | Decimate():
            is_changed = _resample(step, piece, model_input)
            piece.is_centred = was_centred and not is_changed
            steps = None if is_changed else ()
        case Butterworth() | Notch() | Fir():
            piece.signal, piece.is_own = filters.apply_filter(piece.signal, step, piece.rate), True
        case MedianBaseline():
            piece.signal, piece.is_own = filters.subtract_median(piece.signal, step.seconds, piece.rate), True
        case Center():
            piece.signal, steps = (piece.signal, ()) if was_centred else scaling.subtract_means(_own(piece))
            piece.is_centred = True
        case Standardize():
            piece.signal, steps = scaling.standardize(_own(piece), step, model_input.leads, was_centred)
        case MinMax():
            piece.signal, steps = scaling.map_range(_own(piece), step)
        case Scale():
            piece.signal, piece.is_own = piece.signal * step.factor, True
            steps = ((MULTIPLY, np.array([float(step.factor)])),)
        case Pad():
            steps = None if _pad(piece, model_input) else ()
        case JoinLeads():
            piece.signal, steps = piece.signal.reshape(1, -1), ()
        case Cut():
            raise ValueError("Cut is executed by transform")
    if digital is not None and steps is not None:
        piece.digital = digital.then(*steps)


def _own(piece: _Piece) -> np.ndarray:
    """The signal of a piece, copied if it must not be overwritten."""
    if not piece.is_own:
        piece.signal, piece.is_own = piece.signal.copy(), True
    return piece.signal


def _resample(step: Resampling, piece: _Piece, model_input: ModelInput) -> bool:
    """Bring a piece to another sampling rate; whether that changed it."""
    old, signal = piece.rate, piece.signal
    new = old / step.factor if isinstance(step, Decimate) else step.rate
    if new == old:
        return False
    count = resampling.count_on_grid if _is_on_grid(step) else resampling.count_samples
    # A window has to become a window, also if it is no whole number of samples at the old rate.
    samples = round(model_input.window_s * new) if piece.is_whole else count(signal.shape[1], old, new)
    if len(signal) * samples > MOST_VALUES:
        raise UnusableError(f"too long to be prepared at once ({signal.shape[1] / old:.0f} s)")
    match step:
        case Linear(ends="aligned"):
            piece.signal = resampling.resample_linearly(signal, samples)
        case Linear():
            piece.signal = resampling.resample_on_grid(signal, old, new, samples)
        case Fourier():
            piece.signal = resampling.resample_by_fourier(signal, samples)
        case TakeEvery():
            factor = round(old / new)
            if abs(old / new - factor) > ROUNDING:
                raise UnusableError(f"the sampling rate is not a multiple of {new:g} Hz ({old:g} Hz)")
            piece.signal = np.ascontiguousarray(signal[:, ::factor])
        case Decimate():
            piece.signal = resampling.decimate(signal, step.factor)
    piece.rate, piece.is_own = new, piece.is_own or piece.signal is not signal
    if piece.padded_from is not None:
        piece.padded_from = count(piece.padded_from, old, new)
    return True


def _is_on_grid(step: Resampling) -> bool:
    """Whether new samples lie at multiples of the new interval, so that the last old one need not be hit."""
    return not isinstance(step, Fourier) and not (isinstance(step, Linear) and step.ends == "aligned")


def _pad(piece: _Piece, model_input: ModelInput) -> bool:
    """Add zeros up to one window, if the piece is shorter; whether it was."""
    length = ceil(model_input.window_s * piece.rate - ROUNDING)
    samples = piece.signal.shape[1]
    if piece.is_whole or samples >= length:
        return False
    _refuse_short(samples, piece.rate, model_input)
    padded = np.zeros((len(piece.signal), length))
    padded[:, :samples] = piece.signal
    piece.signal, piece.is_own, piece.padded_from = padded, True, samples
    return True
