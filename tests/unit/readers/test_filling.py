"""What stands at a recording's ends and is no signal is left out, whatever the format; what a heart can do stays."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ecgpipe.api.arrays import from_array
from ecgpipe.readers import LEADS, Recording, without_filling

RATE = 500
LOWEST, HIGHEST = -32.768, 32.767  # mV, of 16 bits at 1 uV
LIMITS = np.tile([LOWEST, HIGHEST], (12, 1))


def ecg(samples: int = 5000, leads: int = 12, seed: int = 0) -> np.ndarray:
    """(leads, samples) in mV: noise of some steps of 1 uV, and a beat each second."""
    random = np.random.default_rng(seed)
    signal = random.normal(0, 0.02, (leads, samples))
    signal[:, 100::RATE] += np.linspace(-1, 1.5, leads)[:, None]
    return np.round(signal, 3)


def recorded(signal: np.ndarray, limits: np.ndarray | None = None, leads: tuple[str, ...] = LEADS) -> Recording:
    return Recording(signal, float(RATE), leads[: len(signal)], "mV", limits=limits)


def around(signal: np.ndarray, before: int, after: int, value: float | np.ndarray) -> np.ndarray:
    """The signal with so many samples of a value, (leads,) or one, at its ends."""
    values = np.broadcast_to(np.asarray(value, float), len(signal))[:, None]
    return np.hstack([np.repeat(values, before, 1), signal, np.repeat(values, after, 1)])


def assert_left_out(filled: Recording, signal: np.ndarray) -> None:
    found = without_filling(filled)
    np.testing.assert_array_equal(found.signal, signal)
    assert found.stripped_s == pytest.approx((filled.signal.shape[1] - signal.shape[1]) / RATE)
    assert (found.sample_rate, found.leads, found.unit) == (filled.sample_rate, filled.leads, filled.unit)
    assert without_filling(found) is found


def assert_stays(recording: Recording) -> None:
    assert without_filling(recording) is recording


@pytest.mark.parametrize(("before", "after"), [(0, 250), (250, 0), (300, 700), (60, 60), (8, 9), (2, 2), (4000, 1)])
def test_zeros_in_all_leads(before: int, after: int) -> None:
    if after == 1:
        before, after = 4000, 0
    assert_left_out(recorded(around(ecg(), before, after, 0.0)), ecg())


@pytest.mark.parametrize(("before", "after"), [(0, 1), (1, 0), (1, 1), (0, 100), (100, 0), (20, 60), (0, 249)])
def test_fewer_zeros_may_be_signal(before: int, after: int) -> None:
    assert_stays(recorded(around(ecg(), before, after, 0.0)))


@pytest.mark.parametrize("value", [LOWEST, HIGHEST, np.where(np.arange(12) % 2, LOWEST, HIGHEST), LOWEST - 1])
@pytest.mark.parametrize(("before", "after"), [(0, 1), (1, 0), (0, 300), (40, 3)])
def test_the_limits_of_a_formats_numbers(before: int, after: int, value: float | np.ndarray) -> None:
    assert_left_out(recorded(around(ecg(), before, after, value), LIMITS), ecg())


def test_each_lead_has_limits_of_its_own() -> None:
    gains = np.linspace(1, 3, 12)
    assert_left_out(recorded(around(ecg(), 0, 9, gains * LOWEST), LIMITS * gains[:, None]), ecg())
    assert_stays(recorded(around(ecg(), 0, 9, gains * LOWEST)))  # limits that nobody knows, and not for long
    assert_left_out(recorded(around(ecg(), 0, 500, gains * LOWEST)), ecg())


@pytest.mark.parametrize("value", [-999.0, LOWEST, 1e9, np.inf, -np.inf])
@pytest.mark.parametrize("after", [1, 3, 600])
def test_a_common_value_beyond_all_others(value: float, after: int) -> None:
    assert_left_out(recorded(around(ecg(), 0, after, value)), ecg())


@pytest.mark.parametrize(("before", "after"), [(1, 0), (0, 1), (700, 3), (0, 5000)])
def test_no_number_in_any_lead(before: int, after: int) -> None:
    signal = ecg()
    signal[3, 1000] = np.nan  # one within a lead is for others to judge
    assert_left_out(recorded(around(signal, before, after, np.nan)), signal)


def test_the_last_values_held() -> None:
    signal = ecg()
    assert_left_out(recorded(around(signal, 0, 600, signal[:, -1])), signal[:, :-1])
    assert_left_out(recorded(around(signal, 600, 0, signal[:, 0])), signal[:, 1:])
    assert_stays(recorded(around(signal, 0, 400, signal[:, -1])))


def test_filling_around_filling() -> None:
    inner = around(ecg(), 0, 40, LOWEST)
    assert_left_out(recorded(around(inner, 500, 500, 0.0), LIMITS), ecg())
    assert_left_out(recorded(around(around(inner, 300, 300, 0.0), 5, 7, np.nan), LIMITS), ecg())


def flat(leads: slice, samples: slice, value: float = 0.0) -> Callable[[np.ndarray], None]:
    def change(signal: np.ndarray) -> None:
        signal[leads, samples] = value

    return change


@pytest.mark.parametrize(
    "change",
    [
        flat(slice(5, 6), slice(0, 4000)),  # one lead flat, then on
        flat(slice(0, 11), slice(4000, None)),  # all but one
        flat(slice(5, 6), slice(4000, None), LOWEST),  # one lead at a limit
        flat(slice(0, 12), slice(1000, 3000)),  # within
        flat(slice(0, 12), slice(1000, 1010), LOWEST),
        flat(slice(0, 12), slice(0, 40)),  # a short flat beginning
        flat(slice(0, 6), slice(4000, None), np.nan),
    ],
)
def test_what_is_not_in_all_leads_or_not_at_an_end_stays(change: Callable[[np.ndarray], None]) -> None:
    signal = ecg()
    change(signal)
    assert_stays(recorded(signal, LIMITS))


def test_asystole_has_the_noise_of_its_electrodes() -> None:
    signal = ecg()
    signal[:, 2000:] = np.round(np.random.default_rng(1).normal(0, 0.002, (12, 3000)), 3)
    assert_stays(recorded(signal, LIMITS))


@pytest.mark.parametrize("period", [500, 700, 900])
def test_a_computed_signal_is_flat_between_its_beats(period: int) -> None:
    time = np.arange(5000) % period / RATE
    beat = np.round(np.exp(-(((time - 0.2) / 0.02) ** 2)), 3)
    signal = np.linspace(-1, 1.4, 12)[:, None] * beat
    for start in range(0, period, 50):
        assert_stays(recorded(signal[:, start:]))


def test_leads_that_were_off_say_nothing() -> None:
    signal = ecg()
    signal[6:] = 0
    assert_left_out(recorded(around(signal, 0, 300, 0.0)), signal)
    signal = ecg()
    signal[11] = np.nan
    assert_left_out(recorded(around(signal, 2, 0, np.nan)), signal)
    filled = around(ecg(), 0, 300, 0.0)
    filled[11] = 0.7
    assert without_filling(recorded(filled)).signal.shape == (12, 5000)


def test_channels_that_are_no_leads_say_nothing() -> None:
    names = (*LEADS, "RESP")
    signal = np.vstack([around(ecg(), 0, 300, 0.0), np.arange(5300.0)])
    found = without_filling(Recording(signal, float(RATE), names, "mV"))
    np.testing.assert_array_equal(found.signal, signal[:, :5000])
    assert_stays(Recording(signal[:, :5000], float(RATE), names, "mV"))


def test_a_single_lead_may_be_clipped() -> None:
    one = recorded(around(ecg(leads=1), 0, 20, LOWEST), LIMITS[:1])
    assert_stays(one)
    assert_left_out(recorded(around(ecg(leads=1), 0, 100, LOWEST), LIMITS[:1]), ecg(leads=1))


@pytest.mark.parametrize(
    "signal", [np.zeros((12, 5000)), np.full((12, 5000), np.nan), np.zeros((12, 0)), np.zeros((12, 3)), np.eye(12)]
)
def test_what_is_nothing_else_stays(signal: np.ndarray) -> None:
    assert_stays(recorded(signal, LIMITS))


def test_limits_that_the_signal_exceeds_are_none() -> None:
    assert_stays(recorded(ecg(), np.tile([-0.001, 0.001], (12, 1))))
    assert_stays(recorded(np.sort(ecg(), axis=1), None))


def test_arrays_of_a_notebook_lose_the_same() -> None:
    filled = from_array(around(ecg(), 300, 700, 0.0), RATE, LEADS, None)
    np.testing.assert_array_equal(filled.signal, from_array(ecg(), RATE, LEADS, None).signal)


VALUES = st.sampled_from([0.0, np.nan, LOWEST, HIGHEST, 0.005, np.inf])


@given(
    seed=st.integers(0, 1000),
    samples=st.integers(1, 600),
    leads=st.integers(1, 12),
    ends=st.lists(st.tuples(st.integers(0, 700), st.integers(0, 700), VALUES), max_size=4),
    stated=st.booleans(),
)
@settings(deadline=None, max_examples=150)
def test_whatever_stands_around_it_only_ends_are_left_out(
    seed: int, samples: int, leads: int, ends: list[tuple[int, int, float]], stated: bool
) -> None:
    signal = ecg(samples, leads, seed)
    for before, after, value in ends:
        signal = around(signal, before, after, value)
    place = np.arange(signal.shape[1], dtype=float)[None]  # a channel that is no lead tells what is left
    limits = np.vstack([LIMITS[:leads], [[-np.inf, np.inf]]]) if stated else None
    recording = Recording(np.vstack([signal, place]), float(RATE), (*LEADS[:leads], "RESP"), "mV", limits=limits)
    found = without_filling(recording)
    left = round(found.stripped_s * RATE)
    assert found.signal.shape[1] == signal.shape[1] - left > 0
    start = int(found.signal[-1, 0])
    np.testing.assert_array_equal(found.signal, recording.signal[:, start : start + found.signal.shape[1]])
