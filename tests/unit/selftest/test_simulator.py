"""The simulated hearts show what their names say, measured on the drawing alone and not asked of the simulator."""

import functools
import itertools
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
import scipy.signal

from ecgpipe.readers import LEADS
from ecgpipe.selftest import dipole, simulator
from ecgpipe.selftest.simulator import RHYTHMS, Simulated

RATE = 500
HEARTS = 6
Signal = npt.NDArray[np.float64]
SINUS = ("sinus", "bradycardia", "tachycardia", "first_degree_block")


@functools.cache
def hearts(rhythm: str) -> tuple[Simulated, ...]:
    def one(number: int) -> Simulated:
        rng = np.random.default_rng([71, number, list(RHYTHMS).index(rhythm)])
        return simulator.record(RHYTHMS[rhythm], dipole.draw_body(rng), RATE, rng)

    return tuple(one(number) for number in range(HEARTS))


def medians(measure: Callable[[Simulated], float]) -> dict[str, float]:
    """By rhythm, over its hearts."""
    return {rhythm: float(np.median([measure(heart) for heart in hearts(rhythm)])) for rhythm in RHYTHMS}


def lead(heart: Simulated, name: str) -> Signal:
    signal: Signal = heart.signal[LEADS.index(name)]
    return signal


def find_beats(heart: Simulated) -> Signal:
    """The samples of the QRS, by the size of the signal's slope in all leads; pacemakers' pulses are smoothed away."""
    slope = np.abs(np.diff(scipy.signal.savgol_filter(heart.signal, 21, 2, axis=1), axis=1)).sum(axis=0)
    strength = np.convolve(slope, np.ones(40) / 40, "same")
    peaks, _ = scipy.signal.find_peaks(strength, height=0.4 * np.percentile(strength, 98), distance=int(0.28 * RATE))
    return np.asarray(peaks)


def average(heart: Simulated, name: str) -> tuple[Signal, Signal]:
    """A lead around its own (not premature) beats, the median over them, and the seconds after the QRS."""
    window = np.arange(int(-0.45 * RATE), int(0.45 * RATE))
    at = np.round(heart.beats.times_s[~heart.beats.premature] * RATE).astype(int)
    at = at[(at + window[0] >= 0) & (at + window[-1] < heart.signal.shape[1])]
    high = scipy.signal.sosfiltfilt(scipy.signal.butter(2, 0.5, "highpass", fs=RATE, output="sos"), lead(heart, name))
    return np.median(high[at[:, None] + window], axis=0), window / RATE


def measure_p(heart: Simulated) -> float:
    """How far the median beat's lead II rises in mV, before the QRS, above a straight line."""
    beat, at_s = average(heart, "II")
    before = (at_s > -0.28) & (at_s < -0.08)
    part = beat[before]
    return float((part - np.linspace(part[:5].mean(), part[-5:].mean(), part.size)).max())


def measure_pr(heart: Simulated) -> float:
    """Seconds from the top of P to the middle of the QRS."""
    beat, at_s = average(heart, "II")
    before = (at_s > -0.40) & (at_s < -0.08)
    return float(-at_s[before][beat[before].argmax()])


def measure_irregularity(heart: Simulated) -> float:
    """The standard deviation of the intervals as a share of their mean."""
    intervals = np.diff(find_beats(heart))
    return float(intervals.std() / intervals.mean())


def measure_width(heart: Simulated) -> float:
    """Seconds for which the median beat's leads together are above a seventh of their most, around the QRS."""
    beats = np.array([average(heart, name)[0] for name in LEADS])
    at_s = average(heart, "II")[1]
    size = np.sqrt(np.square(beats - np.median(beats[:, at_s < -0.3], axis=1, keepdims=True)).sum(axis=0))
    near = (at_s > -0.12) & (at_s < 0.10)
    return float((size[near] > size[near].max() / 7).sum() / RATE)


def measure_trembling(heart: Simulated) -> float:
    """mV, the standard deviation of V1 between T and QRS: what lies there has no place in the beat."""
    signal = scipy.signal.sosfiltfilt(
        scipy.signal.butter(2, [3, 25], "bandpass", fs=RATE, output="sos"), lead(heart, "V1")
    )
    at = np.round(heart.beats.times_s * RATE).astype(int)
    quiet = np.zeros(signal.size, bool)
    for now, after in itertools.pairwise(at):
        quiet[now + int(0.42 * (after - now) + 0.1 * RATE) : after - int(0.07 * RATE)] = True
    beat, at_s = average(heart, "V1")
    for now in at:  # less what is the same in every beat, P among it
        places = now + np.round(at_s * RATE).astype(int)
        kept = (places >= 0) & (places < signal.size) & (at_s < -0.07)
        signal[places[kept]] -= beat[kept]
    return float(signal[quiet].std()) if quiet.any() else 0.0


def measure_sawtooth(heart: Simulated) -> float:
    """How far lead II between the QRS repeats itself after one wave of a flutter, 240 to 330 a minute: -1 to 1."""
    at = np.round(heart.beats.times_s * RATE).astype(int)
    signal = scipy.signal.sosfiltfilt(
        scipy.signal.butter(2, [3, 20], "bandpass", fs=RATE, output="sos"), lead(heart, "II")
    )
    weight = np.ones(signal.size)
    for now in at:
        weight[max(0, now - int(0.08 * RATE)) : now + int(0.09 * RATE)] = 0
    lags = range(int(60 / 330 * RATE), int(60 / 240 * RATE))

    def repeats(lag: int) -> float:
        both = (weight[lag:] * weight[:-lag]).astype(bool)
        return float(np.corrcoef(signal[lag:][both], signal[:-lag][both])[0, 1])

    return max(map(repeats, lags))


def test_einthoven_and_goldberger_hold_to_the_microvolt() -> None:
    for rhythm in RHYTHMS:
        for heart in hearts(rhythm):
            one, two, three, avr, avl, avf = heart.signal[:6]
            for law in (one + three - two, avr + (one + two) / 2, avl - (one - two / 2), avf - (two - one / 2)):
                assert np.abs(law).max() < 1e-9
            assert heart.signal.shape == (12, 5000)
            assert 0.3 < np.ptp(heart.signal, axis=1).max() < 9


def test_p_waves_stand_before_the_qrs_of_a_sinus_rhythm_and_of_no_fibrillation() -> None:
    heights = medians(measure_p)
    for rhythm in ("sinus", "bradycardia", "tachycardia", "right_bundle_branch_block"):
        assert heights[rhythm] > 0.08, rhythm
    assert heights["fibrillation"] < 0.07


def test_atria_that_fibrillate_tremble_and_leave_no_order() -> None:
    trembling, irregularity = medians(measure_trembling), medians(measure_irregularity)
    assert trembling["fibrillation"] > 2 * max(trembling[rhythm] for rhythm in SINUS)
    assert irregularity["fibrillation"] > 0.11
    assert max(irregularity[rhythm] for rhythm in SINUS) < 0.06


def test_flutter_is_a_sawtooth() -> None:
    repeats = medians(measure_sawtooth)
    assert repeats["flutter"] > 0.75
    assert max(value for rhythm, value in repeats.items() if rhythm != "flutter") < 0.6


def test_a_flutters_saw_falls_slowly_in_lead_ii() -> None:
    falls = [float((np.diff(scipy.signal.savgol_filter(wave, 15, 2)) < 0).mean()) for wave in sawtooths()]
    assert float(np.median(falls)) > 0.55


def sawtooths() -> list[Signal]:
    times = np.arange(5000) / RATE
    rng = np.random.default_rng(1)
    return [dipole.DOWER[1] @ simulator._sawtooth(times, 0.2, rng) for _ in range(3)]


def test_the_rate_is_as_named() -> None:
    def bpm(heart: Simulated) -> float:
        return float(60 * RATE / np.diff(find_beats(heart)).mean())

    for rhythm, (low, high) in {"bradycardia": (35, 60), "sinus": (60, 100), "tachycardia": (100, 155)}.items():
        assert all(low < bpm(heart) < high for heart in hearts(rhythm)), rhythm


def test_blocks_and_paced_beats_are_wide() -> None:
    widths = medians(measure_width)
    narrow = max(widths[rhythm] for rhythm in (*SINUS, "fibrillation"))
    assert narrow < 0.11
    for rhythm in ("left_bundle_branch_block", "right_bundle_branch_block", "paced"):
        assert widths[rhythm] > max(0.12, 1.25 * narrow), rhythm


def test_blocks_have_their_shapes() -> None:
    def extremes(rhythm: str, name: str, from_s: float, to_s: float) -> tuple[float, float]:
        found = []
        for heart in hearts(rhythm):
            beat, at_s = average(heart, name)
            part = beat[(at_s > from_s) & (at_s < to_s)] - np.median(beat[at_s < -0.3])
            found.append((part.min(), part.max()))
        low, high = np.median(found, axis=0)
        return float(low), float(high)

    left, right = "left_bundle_branch_block", "right_bundle_branch_block"
    assert extremes(left, "V1", -0.08, 0.08)[0] < -0.7  # a deep S or QS
    assert extremes(left, "V6", -0.08, -0.03)[0] > -0.05  # no q
    assert extremes(left, "V6", -0.08, 0.08)[1] > 0.5
    assert extremes(left, "V6", 0.2, 0.42)[0] < -0.08  # T against the QRS
    assert extremes(right, "V1", 0.035, 0.09)[1] > 0.4  # R'
    assert extremes(right, "I", 0.035, 0.09)[0] < -0.1  # a broad S
    assert extremes(right, "V6", 0.035, 0.09)[0] < -0.2
    assert extremes("sinus", "V1", 0.035, 0.09)[1] < 0.1


def test_a_first_degree_block_has_a_long_pr() -> None:
    seconds = medians(measure_pr)
    assert seconds["first_degree_block"] > 0.21
    assert max(seconds[rhythm] for rhythm in ("sinus", "bradycardia", "right_bundle_branch_block")) < 0.2


def test_premature_beats_are_early_wide_and_followed_by_a_pause() -> None:
    for heart in hearts("premature"):
        times, premature = heart.beats.times_s, heart.beats.premature
        assert premature.any()
        usual = np.median(np.diff(times))
        for i in np.flatnonzero(premature):
            if 0 < i < len(times) - 1:
                assert times[i] - times[i - 1] < 0.85 * usual
                assert times[i + 1] - times[i] > 1.15 * usual
                wide = [width_at(heart, times[i]), width_at(heart, times[i - 1])]
                assert premature[i - 1] or wide[0] > 1.3 * wide[1]


def width_at(heart: Simulated, at_s: float) -> float:
    """Seconds for which the leads' size is above a quarter of its most, around a beat."""
    first = max(0, int((at_s - 0.11) * RATE))
    part = heart.signal[:, first : int((at_s + 0.11) * RATE)]
    size = np.sqrt(np.square(part - np.median(heart.signal, axis=1, keepdims=True)).sum(axis=0))
    return float((size > size.max() / 4).sum() / RATE)


def test_pulses_of_a_pacemaker_are_seen() -> None:
    def jump(heart: Simulated) -> float:
        return float(np.percentile(np.abs(np.diff(lead(heart, "II"), n=2)), 99.7))

    jumps = medians(jump)
    assert jumps["paced"] > 3 * max(jumps[rhythm] for rhythm in (*SINUS, "left_bundle_branch_block"))


def test_noise_is_noise() -> None:
    def rough(heart: Simulated) -> float:
        return float(np.median(np.abs(np.diff(heart.signal, n=2))))

    roughness = medians(rough)
    assert roughness.pop("noise") > 2.5 * max(roughness.values())


def test_patients_differ_and_stay_themselves() -> None:
    beats = [average(heart, "I")[0] + 1j * average(heart, "aVF")[0] for heart in hearts("sinus")]
    axes = np.degrees([np.angle(beat[np.abs(beat).argmax()]) for beat in beats])
    heights = [np.ptp(lead(heart, "V5")) for heart in hearts("sinus")]
    assert axes.std() > 8
    assert np.std(heights) > 0.15 * np.mean(heights)
    body = dipole.draw_body(np.random.default_rng(5))
    first, second = (
        average(simulator.record(RHYTHMS["sinus"], body, RATE, np.random.default_rng(seed)), "V5")[0] for seed in (1, 2)
    )
    assert np.corrcoef(first[175:300], second[175:300])[0, 1] > 0.95


def test_truth_follows_from_the_beats() -> None:
    for rhythm, label in {
        "noise": "Poor data quality",
        "sinus": "Sinus rhythm",
        "bradycardia": "Bradycardia",
        "tachycardia": "Tachycardia",
        "fibrillation": "Atrial fibrillation",
        "flutter": "Atrial flutter",
        "premature": "Premature ventricular contraction",
        "first_degree_block": "1st degree atrioventricular block",
        "left_bundle_branch_block": "Left bundle branch block",
        "right_bundle_branch_block": "Right bundle branch block",
        "paced": "Electronic pacemaker",
    }.items():
        for heart in hearts(rhythm):
            assert heart.labels()[label], rhythm
            assert heart.labels()["Sinus rhythm"] == (rhythm not in ("fibrillation", "flutter", "paced"))
    heart = next(heart for heart in hearts("premature") if heart.beats.premature.sum() == 1)
    at_s = float(heart.beats.times_s[heart.beats.premature][0])
    assert not heart.labels(0, at_s)["Premature ventricular contraction"]
    assert not heart.labels(at_s + 0.01)["Premature ventricular contraction"]


@pytest.mark.parametrize("rate", [250, 400, 1000])
def test_another_sampling_rate_is_the_same_length(rate: int) -> None:
    for rhythm in RHYTHMS.values():
        assert simulator.simulate(rhythm, rate, np.random.default_rng(1)).shape == (12, 10 * rate)
