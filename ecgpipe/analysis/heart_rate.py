"""Measure the heart rate of a recording from the R peaks of several leads."""

from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple

import numpy as np

# Hz. Most of the energy of a QRS complex; P and T waves, wander and the mains lie outside (Pan and Tompkins, "A
# real-time QRS detection algorithm", IEEE Trans Biomed Eng 1985, 32:230-236, take 5 to 15).
BAND_HZ = (5.0, 20.0)

# Seconds over which the slopes are averaged: about one QRS complex, so that each has one peak. A pacemaker's spike and
# the complex that it starts are one as well.
COMPLEX_S = 0.12

# No two beats are nearer than this: 300 beats a minute.
REFRACTORY_S = 0.2

# A beat reaches this share of the usual beat. Premature beats, taller and smaller ones are beats too, T waves are not.
LEAST_HEIGHT = 0.35

# The usual height of a beat is the median of the highest point of each stretch of so many seconds. At 40 beats a minute
# each has one.
STRETCH_S = 1.5

# Two leads mean the same beat if their peaks are so near, in seconds.
SAME_BEAT_S = 0.1

# Share of beats that a lead and all leads together have in common (F1) if the lead agrees, and share of the leads that
# have to.
AGREES = 0.85
LEADS_AGREE = 0.5

# Median correlation of a lead's beats with their mean, within so many seconds on either side of the peak. Peaks of
# noise have no common shape.
ALIKE, BEAT_S = 0.7, 0.15

# A wide complex, as of a premature ventricular beat, is less steep than a usual beat. It is looked for in the pauses,
# intervals of so many usual ones: within WIDE_S seconds the leads together reach so many times the height of the
# heart's own T waves, and TALL of the usual complex. Nearer than APART_S seconds to a beat is that beat.
WIDE_S, WIDE_BAND_HZ, ABOVE_T, TALL, PAUSE, APART_S = 0.28, (1.0, 20.0), 1.25, 0.4, 1.3, 0.25

# Where most intervals have something as tall as the usual complex, it may be a tall T wave or every second beat.
DOUBTFUL = 1.0

# A rate is that of this many intervals at least, and lies in this range of beats a minute.
LEAST_INTERVALS = 3
LIMITS = (20.0, 300.0)


class HeartRate(NamedTuple):
    """Beats of a recording."""

    per_minute: float
    peaks_s: np.ndarray  # (beats,) the time of each R peak, in seconds from the start


def measure_heart_rate(signal: np.ndarray, sample_rate: float) -> HeartRate | None:
    """Measure the ventricular rate over the whole recording: 60 over the mean interval from one R peak to the next.

    Args:
        signal: (leads, samples) in any unit; finite. Constant leads are left out.
        sample_rate: In Hz, 100 or more.

    Returns:
        The rate and the peaks; None where it cannot be told: fewer than four beats, noise, leads of which less than
        half have the beats that all of them have together, or something as tall as a beat in most intervals.
    """
    signal = signal[np.ptp(signal, axis=1) > 0].astype(np.float64)  # (leads, samples)
    if not len(signal) or sample_rate < 100 or signal.shape[1] < 2 * sample_rate:
        return None
    slopes = _measure_slopes(signal, sample_rate)  # (leads, samples)
    heights = _find_usual_heights(slopes, sample_rate)  # (leads,)
    if not heights.all():
        return None
    slopes /= heights[:, None]
    together = np.median(slopes, axis=0)[
        None
    ]  # (1, samples), without an electrode that one lead alone shows to be loose
    beats = _find_beats(together[0] / _find_usual_heights(together, sample_rate)[0], sample_rate)  # (beats,)
    if len(beats) <= LEAST_INTERVALS:
        return None
    agreeing = [
        _share_in_common(_find_beats(slope, sample_rate), beats, sample_rate) >= AGREES
        and _measure_likeness(lead, beats, sample_rate) >= ALIKE
        for lead, slope in zip(signal, slopes, strict=True)
    ]
    wide = _find_wide_beats(signal, beats, sample_rate)
    if wide is None:
        return None
    beats = np.sort(np.concatenate([beats, wide]))
    per_minute = 60 * sample_rate * (len(beats) - 1) / (beats[-1] - beats[0])
    if np.mean(agreeing) < LEADS_AGREE or not LIMITS[0] <= per_minute <= LIMITS[1]:
        return None
    return HeartRate(float(per_minute), beats / sample_rate)


def _measure_slopes(signal: np.ndarray, sample_rate: float) -> np.ndarray:
    """How steep each lead is, on average over the length of a complex: (leads, samples)."""
    from scipy.ndimage import uniform_filter1d
    from scipy.signal import sosfiltfilt  # takes a second, which `show --help` would wait for

    filtered = sosfiltfilt(_design_filter(BAND_HZ, sample_rate), signal, axis=1)  # (leads, samples)
    slopes = np.abs(np.gradient(filtered, axis=1))
    smooth: np.ndarray = uniform_filter1d(slopes, max(round(COMPLEX_S * sample_rate), 1), axis=1)
    return smooth


@lru_cache(maxsize=8)
def _design_filter(band_hz: tuple[float, float], sample_rate: float) -> np.ndarray:
    """A bandpass as second-order sections, (sections, 6). Designing it takes a sixth of a recording's time."""
    from scipy.signal import butter

    sections: np.ndarray = butter(2, band_hz, "bandpass", fs=sample_rate, output="sos")
    return sections


def _find_usual_heights(slopes: np.ndarray, sample_rate: float) -> np.ndarray:
    """The usual height of a beat in each lead: (leads,)."""
    stretch = min(round(STRETCH_S * sample_rate), slopes.shape[1])
    whole = slopes[:, : slopes.shape[1] // stretch * stretch].reshape(len(slopes), -1, stretch)
    heights: np.ndarray = np.median(whole.max(axis=2), axis=1)
    return heights


def _find_beats(slope: np.ndarray, sample_rate: float) -> np.ndarray:
    """The samples at which a slope, as a share of the usual beat's, has its beats: (beats,)."""
    from scipy.signal import find_peaks

    distance = max(round(REFRACTORY_S * sample_rate), 1)
    peaks: np.ndarray = find_peaks(slope, height=LEAST_HEIGHT, prominence=LEAST_HEIGHT, distance=distance)[0]
    return peaks


def _find_wide_beats(signal: np.ndarray, beats: np.ndarray, sample_rate: float) -> np.ndarray | None:
    """The samples of wide beats in pauses; None where most intervals may have one."""
    from scipy.ndimage import maximum_filter1d, minimum_filter1d
    from scipy.signal import sosfiltfilt

    filtered = sosfiltfilt(_design_filter(WIDE_BAND_HZ, sample_rate), signal, axis=1)  # (leads, samples)
    width = round(WIDE_S * sample_rate)
    heights = maximum_filter1d(filtered, width, axis=1) - minimum_filter1d(filtered, width, axis=1)  # (leads, samples)
    height = np.linalg.norm(heights, axis=0)  # (samples,)
    height /= max(float(np.median(height[beats])), np.finfo(float).tiny)
    apart = round(APART_S * sample_rate)
    between = [(start + apart, end - apart) for start, end in pairwise(beats)]
    between = [(start, end) for start, end in between if end > start]  # (intervals,)
    if not between:
        return np.array([], int)
    tallest = np.array([height[start:end].max() for start, end in between])
    if np.median(tallest) >= DOUBTFUL:
        return None
    lengths = np.array([end - start + 2 * apart for start, end in between])
    is_pause = lengths >= PAUSE * np.quantile(np.diff(beats), 0.25)  # there may be as many pauses as other intervals
    usual = np.median(tallest[~is_pause]) if not is_pause.all() else np.inf
    found = np.flatnonzero(is_pause & (tallest >= max(TALL, ABOVE_T * usual)))
    return np.array([between[number][0] + int(height[slice(*between[number])].argmax()) for number in found], int)


def _share_in_common(some: np.ndarray, others: np.ndarray, sample_rate: float) -> float:
    """F1 of the beats of one against those of the other."""
    if not len(some) or not len(others):
        return 0.0
    near = np.abs(some[:, None] - others) <= SAME_BEAT_S * sample_rate  # (some, others)
    return float(2 * min(near.any(axis=1).sum(), near.any(axis=0).sum()) / (len(some) + len(others)))


def _measure_likeness(lead: np.ndarray, beats: np.ndarray, sample_rate: float) -> float:
    """The median correlation of a lead's beats with the mean of the others."""
    half = round(BEAT_S * sample_rate)
    inside = beats[(beats >= half) & (beats + half < len(lead))]
    if len(inside) < LEAST_INTERVALS:
        return 0.0
    shapes = lead[inside[:, None] + np.arange(-half, half + 1)]  # (beats, samples)
    shapes = shapes - shapes.mean(axis=1, keepdims=True)
    others = shapes.sum(axis=0) - shapes
    norms = np.linalg.norm(shapes, axis=1) * np.linalg.norm(others, axis=1)
    return float(np.median((shapes * others).sum(axis=1) / np.maximum(norms, np.finfo(float).tiny)))
