"""Simulated 12-lead ECGs for the demo.

When the hearts beat is neurokit2's ECGSYN (McSharry et al., 2003). The waves P, Q, R, S and T are bells around each
beat as in that model, but drawn here, with the heights of the tables below: neurokit2's own 12 leads are each scaled
for themselves, which breaks Einthoven's law, its lead II has a T wave of several times its QRS, and the solver under
it takes steps that miss a QRS of normal width now and then.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import scipy.signal

Array = npt.NDArray[np.float64]

DURATION_S = 10

# The height in mV of each wave in the eight leads that are measured; the other four follow from I and II.
NORMAL = np.array(
    [  # P, Q, R, S, T
        [0.08, -0.05, 0.75, -0.08, 0.20],  # I
        [0.14, -0.08, 1.00, -0.15, 0.28],  # II
        [0.05, 0.00, 0.22, -0.80, -0.06],  # V1
        [0.06, 0.00, 0.40, -1.20, 0.30],  # V2
        [0.06, 0.00, 0.70, -0.80, 0.36],  # V3
        [0.06, -0.05, 1.10, -0.45, 0.34],  # V4
        [0.06, -0.08, 1.15, -0.20, 0.27],  # V5
        [0.06, -0.08, 0.90, -0.08, 0.20],  # V6
    ]
)
# As in a left bundle branch block: broad and notched in I, V5 and V6, a deep S in V1 and V2, T against the QRS.
LEFT_BUNDLE_BRANCH_BLOCK = np.array(
    [  # P, Q, R, S, T
        [0.08, 0.35, 0.50, 0.60, -0.20],  # I
        [0.14, 0.35, 0.80, 0.70, -0.15],  # II
        [0.05, 0.08, -0.80, -0.90, 0.40],  # V1
        [0.06, 0.10, -1.10, -1.30, 0.55],  # V2
        [0.06, 0.12, -0.80, -0.90, 0.50],  # V3
        [0.06, 0.15, 0.20, -0.30, 0.20],  # V4
        [0.06, 0.35, 0.70, 0.55, -0.20],  # V5
        [0.06, 0.40, 0.70, 0.75, -0.25],  # V6
    ]
)
FIBRILLATION = np.array([0.5, 1.0, 1.6, 0.9, 0.6, 0.5, 0.5, 0.5])  # how well each lead sees the trembling atria


class Rhythm(NamedTuple):
    """What the hearts of one folder have in common."""

    rates: tuple[float, float]  # beats per minute, from and to
    heights: Array = NORMAL
    qrs_ms: tuple[float, float] = (24, 10)  # from R to Q and to S; the width (standard deviation) of each
    fibrillation: bool = False
    noise: bool = False


RHYTHMS = {
    "sinus": Rhythm((62, 88)),
    "bradycardia": Rhythm((38, 52)),
    "tachycardia": Rhythm((112, 145)),
    "irregular": Rhythm((78, 105), fibrillation=True),
    "wide_qrs": Rhythm((60, 85), LEFT_BUNDLE_BRANCH_BLOCK, (42, 20)),
    "noisy": Rhythm((62, 92), noise=True),
}


def simulate(rhythm: Rhythm, rate: int, rng: np.random.Generator) -> Array:
    """One recording of a heart of this rhythm.

    Args:
        rhythm: What it has in common with others.
        rate: Samples per second.
        rng: Where it differs from others.

    Returns:
        (12, samples) in mV, in the order of `readers.LEADS`, in whole microvolts: every format holds it exactly.
    """
    times = np.arange(DURATION_S * rate) / rate
    bpm = rng.uniform(*rhythm.rates)
    beats = _irregular_beats(bpm, rng) if rhythm.fibrillation else _regular_beats(bpm, rng)
    heights = rhythm.heights * rng.lognormal(0, 0.12, rhythm.heights.shape) * rng.uniform(0.85, 1.2)
    if rhythm.fibrillation:
        heights[:, 0] = 0  # the atria do not beat: no P wave
    leads = heights @ _waves(times, beats, rhythm.qrs_ms, rng)  # (8, samples)
    if rhythm.fibrillation:
        hertz = rng.uniform(5.5, 7.5) + 0.6 * np.sin(2 * np.pi * rng.uniform(0.2, 0.5) * times)
        phase = 2 * np.pi * np.cumsum(hertz) / rate
        trembling = np.sin(phase) + 0.4 * np.sin(1.7 * phase + 1) + 0.3 * rng.normal(size=times.size)
        leads += rng.uniform(0.03, 0.06) * FIBRILLATION[:, None] * trembling
    leads += _baseline(times, 0.4 if rhythm.noise else 0.03, rng) + rng.normal(0, 0.004, leads.shape)
    if rhythm.noise:
        leads += _muscle(leads.shape, rate, rng)
        leads[rng.integers(2, 8)] = 0  # an electrode of the chest that fell off
    return _twelve(leads)


def _regular_beats(bpm: float, rng: np.random.Generator) -> Array:
    """The times in seconds of the R waves, from before the recording to after it, with the sway of breathing."""
    import neurokit2

    # One broad hill per beat, at the place of its R wave: the solver cannot step over that.
    signal = neurokit2.ecg_simulate(
        DURATION_S + 4,
        sampling_rate=1000,
        noise=0,
        heart_rate=bpm,
        heart_rate_std=rng.uniform(1.0, 2.5),
        random_state=int(rng.integers(2**31)),
        ai=(0, 0, 1000, 0, 0),
        bi=(0.6,) * 5,
    )
    peaks, _ = scipy.signal.find_peaks(signal, prominence=0.3 * np.ptp(signal))
    times: Array = peaks / 1000 - rng.uniform(1.6, 2.4)
    return times


def _irregular_beats(bpm: float, rng: np.random.Generator) -> Array:
    """The same for atrial fibrillation: intervals without any order, which ECGSYN's smooth sway cannot give."""
    intervals = 60 / bpm * rng.lognormal(0, 0.28, int(2 * DURATION_S * bpm / 60))
    times: Array = np.cumsum(np.clip(intervals, 0.36, 1.6)) - 2
    return times


def _waves(times: Array, beats: Array, qrs_ms: tuple[float, float], rng: np.random.Generator) -> Array:
    """(5, samples): P, Q, R, S and T of every beat, each about 1 high."""
    q, width = qrs_ms[0] / 1000, qrs_ms[1] / 1000
    cycles = np.diff(beats, prepend=2 * beats[0] - beats[1])
    stretch = np.sqrt(np.clip(cycles, 0.4, 1.4))[:, None]  # Bazett: after a short cycle the heart recovers faster
    strength = rng.normal(1, 0.02, stretch.shape)
    since = times - beats[:, None]  # (beats, samples), seconds after R

    def bell(middle: Array | float, before: Array | float, after: Array | float) -> Array:
        away = since - middle
        wave: Array = (strength * np.exp(-0.5 * (away / np.where(away < 0, before, after)) ** 2)).sum(axis=0)
        return wave

    return np.array(
        [
            bell(-0.16 * np.sqrt(stretch), 0.022, 0.022),
            bell(-q, width, width),
            bell(0.0, width, width),
            bell(q, width, width),
            bell((0.31 + q / 2) * stretch, 0.06 * stretch, 0.04 * stretch),  # T rises slowly and falls fast
        ]
    )


def _baseline(times: Array, height: float, rng: np.random.Generator) -> Array:
    """Breathing and moving electrodes: (8, samples), up to about `height` mV."""
    drift = np.zeros((8, times.size))
    for hertz in rng.uniform(0.08, 0.4, 3):
        phases = rng.uniform(0, 2 * np.pi, (8, 1))
        drift += height / 2 * rng.uniform(0.2, 1, (8, 1)) * np.sin(2 * np.pi * hertz * times + phases)
    return drift


def _muscle(shape: tuple[int, ...], rate: int, rng: np.random.Generator) -> Array:
    """A patient who cannot keep still: noise from 20 to 100 Hz that comes and goes."""
    band = scipy.signal.butter(2, [20, 100], "bandpass", fs=rate, output="sos")
    noise: Array = scipy.signal.sosfilt(band, rng.normal(size=shape), axis=1)
    swell = np.interp(np.arange(shape[1]), np.linspace(0, shape[1], 8), rng.uniform(0.2, 1, 8))
    return noise * (swell * (rng.uniform(0.06, 0.12) / float(noise.std())))


def _twelve(leads: Array) -> Array:
    """(8, samples) to (12, samples): III by Einthoven's law, the augmented leads by Goldberger's."""
    one, two = 2 * np.round(leads[:2] * 500)  # microvolts, even, so that their halves are whole too
    limbs = [one, two, two - one, -(one + two) / 2, one - two / 2, two - one / 2]
    microvolts: Array = np.concatenate([limbs, np.round(leads[2:] * 1000)])
    return microvolts / 1000
