"""Simulated 12-lead ECGs: when a heart beats, what its beats look like, and what disturbs the recording.

`dipole.py` has the waves. The hearts are drawings, good enough that the rhythms differ as in textbooks and that
patients differ from one another; they are no substitute for real recordings.
"""

from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import numpy as np
import scipy.signal

from ecgpipe.selftest import dipole
from ecgpipe.selftest.dipole import Array, Body

DURATION_S = 10
_BEFORE_S = 3.0  # the heart beats before the recording begins, and after it ends

# In the order of the demo model's outputs, named as ECG-FM's are. What `Rhythm` and the beats say decides which are
# true.
LABELS = (
    "Poor data quality",
    "Sinus rhythm",
    "Bradycardia",
    "Tachycardia",
    "Atrial fibrillation",
    "Atrial flutter",
    "Premature ventricular contraction",
    "1st degree atrioventricular block",
    "Left bundle branch block",
    "Right bundle branch block",
    "Electronic pacemaker",
)
SLOW, FAST = 60.0, 100.0  # beats per minute: below is bradycardia, above is tachycardia


Conduction = Literal["normal", "left block", "right block", "paced"]


@dataclass(frozen=True)
class Rhythm:
    """What a recording shows; each range is drawn from evenly."""

    rates: tuple[float, float]  # beats per minute
    atria: Literal["sinus", "fibrillation", "flutter"] = "sinus"
    conduction: Conduction = "normal"
    severity: tuple[float, float] = (1.0, 1.0)  # of a block: 0 is normal conduction; no label speaks of those below 0.5
    pr_s: tuple[float, float] = (0.12, 0.195)  # from the beginning of P to the beginning of the QRS
    ectopics: tuple[float, float] = (0.0, 0.0)  # share of the beats that are premature and ventricular
    early: float = 0.0  # share of the beats that are premature and come from the atria; no label says so
    noisy: bool = False


BEFORE_R_S = {"normal": 0.045, "left block": 0.075, "right block": 0.045, "paced": 0.085}  # of the QRS

RHYTHMS = {
    "sinus": Rhythm((61, 98)),
    "bradycardia": Rhythm((36, 59)),
    "tachycardia": Rhythm((102, 150), pr_s=(0.11, 0.15)),
    "fibrillation": Rhythm((52, 145), atria="fibrillation"),
    "flutter": Rhythm((65, 155), atria="flutter"),
    "premature": Rhythm((58, 98), ectopics=(0.10, 0.30)),
    "first_degree_block": Rhythm((48, 92), pr_s=(0.21, 0.33)),
    "left_bundle_branch_block": Rhythm((55, 98), conduction="left block", severity=(0.65, 1.0)),
    "right_bundle_branch_block": Rhythm((55, 98), conduction="right block", severity=(0.65, 1.0)),
    "paced": Rhythm((55, 85), conduction="paced"),
    "noise": Rhythm((55, 105), noisy=True),
}


class Beats(NamedTuple):
    """When the ventricles and the atria beat."""

    times_s: Array  # (beats,) the middle of each QRS
    premature: np.ndarray  # (beats,) bool: from the ventricles
    p_times_s: Array  # (P waves,) the middle of each P wave; empty without


class Simulated(NamedTuple):
    """A recording and what is true of it."""

    signal: Array  # (12, samples) in mV, in the order of `readers.LEADS`, in whole microvolts, which every format holds
    beats: Beats
    rhythm: Rhythm

    def labels(self, start_s: float = 0.0, end_s: float = DURATION_S) -> dict[str, bool]:
        """Which of `LABELS` are true of a part of the recording."""
        inside = (self.beats.times_s >= start_s) & (self.beats.times_s < end_s)
        rhythm, bpm = self.rhythm, 60 / float(np.diff(self.beats.times_s).mean())
        paced = rhythm.conduction == "paced"
        sinus = rhythm.atria == "sinus" and not paced
        true = (
            rhythm.noisy,
            sinus,
            bpm < SLOW,
            bpm > FAST,
            rhythm.atria == "fibrillation",
            rhythm.atria == "flutter",
            bool((self.beats.premature & inside).any()),
            sinus and rhythm.pr_s[0] > 0.2,
            rhythm.conduction == "left block" and rhythm.severity[0] > 0.5,
            rhythm.conduction == "right block" and rhythm.severity[0] > 0.5,
            paced,
        )
        return dict(zip(LABELS, true, strict=True))


def vary(rhythm: Rhythm, rng: np.random.Generator) -> Rhythm:
    """Let a heart have, now and then, what does not come from its rhythm: a block, premature beats, noise."""
    if rhythm.conduction == "normal" and rng.random() < 0.25:
        severity = (0.65, 1.0) if rng.random() < 0.5 else (0.1, 0.4)
        block: Conduction = "left block" if rng.random() < 0.5 else "right block"
        rhythm = replace(rhythm, conduction=block, severity=severity)
    if rhythm.atria == "sinus" and rhythm.conduction != "paced" and rhythm.rates[1] < FAST and rng.random() < 0.06:
        rhythm = replace(rhythm, pr_s=RHYTHMS["first_degree_block"].pr_s)
    if not rhythm.ectopics[1] and rhythm.atria != "flutter" and rng.random() < 0.08:
        rhythm = replace(rhythm, ectopics=RHYTHMS["premature"].ectopics)
    if rhythm.atria == "sinus" and rhythm.conduction != "paced" and rng.random() < 0.15:
        rhythm = replace(rhythm, early=0.12)
    if rng.random() < 0.05:
        rhythm = replace(rhythm, noisy=True)
    return rhythm


def simulate(rhythm: Rhythm, rate: int, rng: np.random.Generator) -> Array:
    """One recording of a patient whom nobody has seen before.

    Args:
        rhythm: What it shows.
        rate: Samples per second.
        rng: Where it differs from others.

    Returns:
        (12, samples) in mV, in the order of `readers.LEADS`, in whole microvolts.
    """
    return record(rhythm, dipole.draw_body(rng), rate, rng).signal


def record(rhythm: Rhythm, body: Body, rate: int, rng: np.random.Generator) -> Simulated:
    """One recording of a patient.

    Args:
        rhythm: What it shows.
        body: The patient's, the same in each recording.
        rate: Samples per second.
        rng: Where it differs from other recordings of the patient.

    Returns:
        Ten seconds, and when the heart beat in them.
    """
    times = np.arange(DURATION_S * rate) / rate
    bpm = rng.uniform(*rhythm.rates)
    flutter_s, phase_s = 60 / rng.uniform(255, 320), 0.0  # from one wave of the atria to the next
    if rhythm.atria == "flutter":
        at_s, phase_s = _flutter_beats(bpm, flutter_s, rng)
    elif rhythm.atria == "fibrillation" and rhythm.conduction != "paced":
        at_s = _irregular_beats(bpm, rng)
    else:
        at_s = _regular_beats(bpm, 0.3 if rhythm.conduction == "paced" else 1.0, rng)
        at_s = _let_atria_be_early(at_s, rhythm.early, rng)
    beats = _place_premature(at_s, rng.uniform(*rhythm.pr_s), rhythm, rng)
    source = _draw_ventricles(times, beats, rhythm, body, rng)  # (3, samples)
    if rhythm.atria == "sinus":
        heights = rng.normal(1, 0.04, beats.p_times_s.size)
        atria = dipole.draw_bells(times, beats.p_times_s, dipole.P_WAVE, np.ones_like(heights), heights)
    elif rhythm.atria == "flutter":
        atria = _sawtooth(times - phase_s, flutter_s, rng)
    else:
        atria = _tremble(times, rate, rng)
    if rhythm.conduction == "paced":
        source += _spikes(times, beats, rate, rng)
    leads = body.leads @ source + dipole.ATRIA[:, None] * (body.leads @ body.p @ atria)  # (8, samples)
    leads *= 1 + rng.uniform(0.0, 0.06) * np.sin(2 * np.pi * rng.uniform(0.2, 0.35) * times + rng.uniform(0, 6.3))
    leads += _disturb(leads.shape, times, rate, rhythm.noisy, rng)
    if rhythm.noisy and rng.random() < 0.6:
        leads[rng.integers(2, 8)] = 0  # an electrode of the chest that fell off
    inside = (beats.times_s >= 0) & (beats.times_s < DURATION_S)
    p_inside = (beats.p_times_s >= 0) & (beats.p_times_s < DURATION_S)
    kept = Beats(beats.times_s[inside], beats.premature[inside], beats.p_times_s[p_inside])
    return Simulated(dipole.project_on_twelve(leads), kept, rhythm)


# When the heart beats


def _regular_beats(bpm: float, sway: float, rng: np.random.Generator) -> Array:
    """The times of the beats of a sinus node: breathing, slower waves and chance move them by some per cent."""
    breath_hz, slow_hz, phases = rng.uniform(0.2, 0.33), rng.uniform(0.07, 0.12), rng.uniform(0, 2 * np.pi, 2)
    breath, slow = sway * rng.uniform(0.005, 0.07), sway * rng.uniform(0.005, 0.02)
    times, now = [], -_BEFORE_S - rng.uniform(0, 60 / bpm)
    while now < DURATION_S + 2:
        times.append(now)
        change = breath * np.sin(2 * np.pi * breath_hz * now + phases[0])
        change += slow * np.sin(2 * np.pi * slow_hz * now + phases[1]) + sway * rng.normal(0, 0.006)
        now += 60 / bpm * (1 + change)
    return np.array(times)


def _irregular_beats(bpm: float, rng: np.random.Generator) -> Array:
    """The same in atrial fibrillation: intervals without any order."""
    intervals = 60 / bpm * rng.lognormal(-0.03, rng.uniform(0.11, 0.26), int(3 * DURATION_S * bpm / 60))
    times: Array = np.cumsum(np.clip(intervals, 0.30, 2.0)) - _BEFORE_S - 1
    return times[times < DURATION_S + 2]


def _flutter_beats(bpm: float, cycle_s: float, rng: np.random.Generator) -> tuple[Array, float]:
    """Every second, third or fourth wave of the atria is conducted, or two of these in turn.

    Returns:
        The times of the beats, and one of the times at which a wave of the atria begins.
    """
    ratio = int(np.clip(round(60 / bpm / cycle_s), 2, 4))
    varies = ratio > 2 and rng.random() < 0.35
    start = -_BEFORE_S - rng.uniform(0, cycle_s)
    waves, now = [], 0
    while start + now * cycle_s < DURATION_S + 2:
        waves.append(now)
        now += int(rng.integers(2, 5)) if varies else ratio
    return start + cycle_s * np.array(waves), start - rng.uniform(0.35, 0.65) * cycle_s


def _let_atria_be_early(at_s: Array, share: float, rng: np.random.Generator) -> Array:
    """Let some beats come early from the atria: the sinus node is reset, so that all beats after them are early too."""
    if not share:
        return at_s
    cycles, lost = np.diff(at_s), rng.uniform(0.15, 0.35)
    cycles[rng.random(cycles.size) < share] *= 1 - lost
    times: Array = np.concatenate([at_s[:1], at_s[0] + np.cumsum(cycles)])
    # Beats that are early pull all others forward; what is missing at the end comes at the usual pace.
    missing = np.arange(1, 1 + int(max(0.0, DURATION_S + 2 - times[-1]) / np.median(cycles)))
    return np.concatenate([times, times[-1] + missing * np.median(cycles)])


def _place_premature(at_s: Array, pr_s: float, rhythm: Rhythm, rng: np.random.Generator) -> Beats:
    """Let some beats come early from the ventricles, with a full pause after: the sinus node goes on as ever."""
    times, premature = at_s.copy(), np.zeros(at_s.size, bool)
    share = rng.uniform(*rhythm.ectopics)
    coupling = rng.uniform(0.52, 0.78)
    if share:
        candidates = np.flatnonzero((at_s > 0.5) & (at_s < DURATION_S - 0.6)).tolist()
        chosen = [i for i in candidates if rng.random() < share] or [int(rng.choice(candidates))]
        for i in chosen:
            if i and not premature[i - 1]:
                premature[i] = True
                times[i] = at_s[i - 1] + (coupling + rng.normal(0, 0.015)) * (at_s[i] - at_s[i - 1])
    # From the middle of P to the middle of the QRS: half a P wave less than PR, and what the QRS has before its middle
    # more.
    before_r_s = BEFORE_R_S[rhythm.conduction if rhythm.severity[0] > 0.5 else "normal"]
    p_times = at_s - (pr_s - 0.045 + before_r_s) if rhythm.atria == "sinus" else np.empty(0)
    return Beats(times, premature, p_times)


# What its beats look like


def _draw_ventricles(times: Array, beats: Beats, rhythm: Rhythm, body: Body, rng: np.random.Generator) -> Array:
    """(3, samples): QRS and T of every beat."""
    kind = {
        "normal": dipole.NORMAL,
        "left block": dipole.LEFT_BUNDLE_BRANCH_BLOCK,
        "right block": dipole.RIGHT_BUNDLE_BRANCH_BLOCK,
        "paced": dipole.PACED,
    }[rhythm.conduction]
    cycles = np.diff(beats.times_s, prepend=2 * beats.times_s[0] - beats.times_s[1])
    typical = np.where(beats.premature, np.median(cycles), cycles)
    # After a short cycle the heart recovers faster, Fridericia (1920), and in part only within a beat.
    stretch = np.clip(0.5 * typical + 0.5 * np.median(cycles), 0.34, 1.6) ** (1 / 3)
    wide, tall, late = rng.uniform(0.93, 1.12), rng.lognormal(0, 0.1), rng.normal(0, 0.012)
    other, size = dipole.PREMATURE[int(rng.integers(2))], rng.uniform(0.4, 1.0)
    block = rng.uniform(*rhythm.severity)
    other_turn = size * body.qrs @ np.diag(rng.lognormal(0, 0.2, 3))
    varied = rng.normal(1, 0.02, beats.times_s.size)
    source = np.zeros((3, times.size))
    for shape, share, which, turn, width, t_size in (
        (dipole.NORMAL, 1 - block, ~beats.premature, body.qrs, wide, tall),
        (kind, block, ~beats.premature, body.qrs, wide, tall),
        (other, 1.0, beats.premature, other_turn, 1.1 * wide, size),
    ):
        if share and which.any():
            tops, heights = beats.times_s[which], share * varied[which]
            source += turn @ dipole.draw_bells(times, tops, shape.qrs, np.full(tops.size, width), heights)
            t_tops = tops + 0.275 * stretch[which] + shape.t_late_s + late
            source += body.t @ dipole.draw_bells(times, t_tops, shape.t, stretch[which], t_size * heights)
    return source


def _sawtooth(times: Array, cycle_s: float, rng: np.random.Generator) -> Array:
    """(3, samples): the atria in flutter, a slow fall and a fast rise without a pause between."""
    phase = 2 * np.pi * times / cycle_s
    wave = sum((np.sin(k * phase) / k * np.exp(-0.12 * (k - 1) ** 2) for k in range(1, 6)), np.zeros(times.size))
    source: Array = rng.uniform(0.22, 1.05) * dipole.FLUTTER[:, None] * wave
    return source


def _tremble(times: Array, rate: int, rng: np.random.Generator) -> Array:
    """(3, samples): the atria in fibrillation, 5 to 8 waves a second that change in size, rate and direction."""
    height = rng.uniform(0.018, 0.11)
    source = np.zeros((3, times.size))
    for share in (1.0, 0.7, 0.5):
        knots = np.interp(times, np.linspace(0, DURATION_S, 40), rng.uniform(3.5, 9.0, 40))
        swell = np.interp(times, np.linspace(0, DURATION_S, 30), rng.uniform(0.2, 1.0, 30))
        direction = dipole.FIBRILLATION + rng.normal(0, 0.25, 3)
        phase = 2 * np.pi * np.cumsum(knots) / rate + rng.uniform(0, 2 * np.pi)
        wave = np.sin(phase) + 0.35 * np.sin(2 * phase + 1)
        source += height * share * direction[:, None] * swell * wave
    return source


def _spikes(times: Array, beats: Beats, rate: int, rng: np.random.Generator) -> Array:
    """(3, samples): the pacemaker's pulses, each a short time before the QRS that it makes."""
    before = rng.uniform(0.085, 0.10)
    tops = beats.times_s[~beats.premature] - before
    width = max(0.0012, 0.45 / rate)  # of a pulse that falls between two samples, both see some
    bell = (dipole.Bell(0.0, width, width, *dipole.SPIKE),)
    return rng.lognormal(-0.4, 0.5) * dipole.draw_bells(times, tops, bell, np.ones(tops.size), np.ones(tops.size))


# What disturbs the recording


def _disturb(shape: tuple[int, ...], times: Array, rate: int, noisy: bool, rng: np.random.Generator) -> Array:
    """(8, samples) in mV: wander of the baseline, muscles, mains, and the recorder's own noise."""
    wander, muscle = (rng.uniform(0.12, 0.6), rng.uniform(0.035, 0.14)) if noisy else (rng.uniform(0.01, 0.2), 0.0)
    if not noisy:
        muscle = float(np.clip(rng.lognormal(np.log(0.010), 0.8), 0.002, 0.05))
    disturbance = _wander(times, wander, rng) + _muscle(shape, rate, muscle, rng)
    mains = rng.uniform(0.01, 0.06) if noisy and rng.random() < 0.4 else rng.uniform(0.0, 0.004)
    disturbance += mains * rng.uniform(0.3, 1, (shape[0], 1)) * np.sin(2 * np.pi * 50 * times + rng.uniform(0, 6.3))
    if noisy:
        for _ in range(int(rng.integers(1, 4))):  # an electrode is moved: its lead jumps, and comes back slowly
            since = times - rng.uniform(0, DURATION_S)
            jump = np.where(since > 0, np.exp(-np.maximum(since, 0) / rng.uniform(0.15, 0.6)), 0.0)
            disturbance[rng.integers(0, shape[0])] += rng.choice([-1, 1]) * rng.uniform(0.4, 1.2) * jump
    return disturbance + rng.normal(0, 0.003, shape)


def _wander(times: Array, height: float, rng: np.random.Generator) -> Array:
    """Breathing and moving electrodes: (8, samples), up to about `height` mV."""
    drift = np.zeros((8, times.size))
    for hertz in rng.uniform(0.08, 0.4, 3):
        phases = rng.uniform(0, 2 * np.pi, (8, 1))
        drift += height / 2 * rng.uniform(0.2, 1, (8, 1)) * np.sin(2 * np.pi * hertz * times + phases)
    return drift


def _muscle(shape: tuple[int, ...], rate: int, height: float, rng: np.random.Generator) -> Array:
    """A patient who cannot keep still: noise from 20 to 100 Hz that comes and goes, of about `height` mV."""
    band = scipy.signal.butter(2, [20, 100], "bandpass", fs=rate, output="sos")
    noise: Array = scipy.signal.sosfilt(band, rng.normal(size=shape), axis=1)
    swell = np.interp(np.arange(shape[1]), np.linspace(0, shape[1], 8), rng.uniform(0.2, 1, 8))
    return noise * (swell * (height / float(noise.std())))
