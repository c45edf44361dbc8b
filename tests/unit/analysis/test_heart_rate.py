"""The heart rate is that of the beats which the leads have together, and none where they have none."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import scipy.io
from wfdb.processing import xqrs_detect

from ecgpipe.analysis.heart_rate import measure_heart_rate
from ecgpipe.selftest import dipole, simulator


def read(path: Path) -> tuple[np.ndarray, float]:
    content = scipy.io.loadmat(path)
    return content["feats"].astype(np.float64), float(content["curr_sample_rate"].squeeze())


def draw_beats(times_s: np.ndarray, seconds: float, rate: float = 500.0) -> np.ndarray:
    """One lead of narrow complexes, each with a P wave before and a T wave after it."""
    time = np.arange(round(seconds * rate)) / rate
    lead = np.zeros_like(time)
    for at, height, width in ((0.0, 1.0, 0.012), (0.03, -0.3, 0.012), (-0.16, 0.12, 0.03), (0.28, 0.35, 0.06)):
        lead += sum(height * np.exp(-0.5 * ((time - beat - at) / width) ** 2) for beat in times_s)
    return lead


@pytest.mark.parametrize("number", range(10))
def test_of_real_recordings_it_is_that_of_an_independent_detector(number: int, reference: Path) -> None:
    signal, rate = read(sorted((reference / "code15").glob("*.mat"))[number])
    rates = []
    for lead in signal[[0, 1, 6, 7, 10]]:
        peaks = xqrs_detect(lead, rate, verbose=False)
        rates.append(60 * rate * (len(peaks) - 1) / (peaks[-1] - peaks[0]))
    measured = measure_heart_rate(signal, rate)
    assert measured
    assert measured.per_minute == pytest.approx(np.median(rates), rel=0.02)
    assert len(measured.peaks_s) == pytest.approx(measured.per_minute * signal.shape[1] / rate / 60, abs=1.5)


@pytest.mark.parametrize("per_minute", [25, 40, 60, 100, 150, 200, 250])
@pytest.mark.parametrize("rate", [100, 250, 500, 1000])
def test_it_is_that_of_the_beats_at_any_rate_and_sampling_rate(per_minute: float, rate: float) -> None:
    interval = 60 / per_minute
    beats = np.arange(0.4, 13.5, interval)
    lead = draw_beats(beats, 14, rate) if per_minute < 150 else draw_beats(beats, 14, rate).clip(min=0.2)
    signal = np.stack([lead, -0.5 * lead, 1.4 * lead]) + 0.01 * np.random.default_rng(0).standard_normal((3, len(lead)))
    measured = measure_heart_rate(signal, rate)
    assert measured
    assert measured.per_minute == pytest.approx(per_minute, rel=0.01)
    inside = beats[(beats > 0.2) & (beats < 13.8)]
    np.testing.assert_allclose(measured.peaks_s, inside, atol=0.04)


def test_irregular_beats_have_the_rate_of_their_mean_interval() -> None:
    beats = 0.5 + np.cumsum(np.random.default_rng(1).uniform(0.4, 1.2, 12))
    lead = draw_beats(beats, beats[-1] + 0.5)
    measured = measure_heart_rate(np.stack([lead, 0.6 * lead]), 500)
    assert measured
    assert measured.per_minute == pytest.approx(60 / np.diff(beats).mean(), rel=0.01)


@pytest.mark.parametrize("leads", [1, 2, 12])
@pytest.mark.parametrize("kind", ["white", "wandering"])
def test_noise_has_none(kind: str, leads: int) -> None:
    for seed in range(30):
        signal = np.random.default_rng(seed).standard_normal((leads, 5000))
        assert measure_heart_rate(signal if kind == "white" else np.cumsum(signal, axis=1), 500) is None


def test_leads_of_different_hearts_have_none() -> None:
    leads = [draw_beats(np.arange(0.3, 10, interval), 10) for interval in (0.5, 0.63, 0.77, 0.91, 1.13, 1.31)]
    assert measure_heart_rate(np.stack(leads), 500) is None


def test_a_loose_electrode_of_one_lead_adds_no_beat() -> None:
    lead = draw_beats(np.arange(0.4, 10, 0.8), 10)
    signal = np.stack([lead, 0.7 * lead, 1.2 * lead, -lead])
    expected = measure_heart_rate(signal, 500)
    signal[3, 300:350] += 20
    measured = measure_heart_rate(signal, 500)
    assert expected
    assert measured
    np.testing.assert_allclose(measured.peaks_s, expected.peaks_s, atol=0.01)


def test_without_a_signal_or_with_a_few_beats_there_is_none() -> None:
    lead = draw_beats(np.array([0.5, 1.5, 2.5]), 4)
    assert measure_heart_rate(np.zeros((12, 5000)), 500) is None
    assert measure_heart_rate(np.stack([lead, lead]), 500) is None
    assert measure_heart_rate(lead[None, :600], 500) is None
    assert measure_heart_rate(np.full((2, 5000), np.pi), 500) is None


def test_flat_leads_are_left_out() -> None:
    lead = draw_beats(np.arange(0.4, 10, 0.8), 10)
    signal = np.zeros((12, len(lead)))
    signal[[0, 1]] = lead, 0.5 * lead
    measured = measure_heart_rate(signal, 500)
    assert measured
    assert measured.per_minute == pytest.approx(75, rel=0.01)


@pytest.mark.parametrize("name", simulator.RHYTHMS)
def test_it_is_that_of_the_ventricles_whatever_the_rhythm(name: str) -> None:
    for seed in range(8):
        rng = np.random.default_rng([7, seed])
        heart = simulator.record(simulator.RHYTHMS[name], dipole.draw_body(rng), 500, rng)
        measured = measure_heart_rate(heart.signal, 500)
        if measured is None:  # a wide complex may be doubtful; another rhythm is not
            assert name == "paced"
            continue
        assert measured.per_minute == pytest.approx(60 / np.diff(heart.beats.times_s).mean(), rel=0.05)


@pytest.mark.parametrize("share", [0.2, 0.4, 0.5])
def test_premature_wide_beats_are_beats(share: float) -> None:
    rhythm = replace(simulator.RHYTHMS["premature"], ectopics=(share, share))
    told = 0
    for seed in range(10):
        rng = np.random.default_rng([9, seed])
        heart = simulator.record(rhythm, dipole.draw_body(rng), 250, rng)
        measured = measure_heart_rate(heart.signal, 250)
        if measured:
            told += 1
            assert measured.per_minute == pytest.approx(60 / np.diff(heart.beats.times_s).mean(), rel=0.05)
    assert told >= 8
