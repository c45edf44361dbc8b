"""Every filter and resampler gives what scipy gives, for any sampling rate, length and number of leads."""

import warnings
from collections.abc import Callable

import numpy as np
import pytest
import scipy.interpolate
import scipy.signal
from hypothesis import given, settings
from hypothesis import strategies as st

from ecgpipe.core.model_input import Band, Butterworth, Filtering, Fir, Notch
from ecgpipe.preprocessing import filters, resampling
from ecgpipe.preprocessing.unusable import UnusableError

RATES = st.one_of(st.sampled_from([100.0, 125.0, 250.0, 257.33, 360.0, 400.0, 500.0, 1000.0]), st.floats(100, 1200))
LENGTHS = st.integers(2, 3000)
LEADS = st.integers(1, 12)
BANDS = st.sampled_from([(0.67, 40.0), (0.05, 47.0), (None, 40.0), (0.5, None), (5.0, 15.0)])


def noise(leads: int, samples: int, seed: int = 0) -> np.ndarray:
    """(leads, samples) with an offset and a drift, which show at the ends."""
    random = np.random.default_rng(seed)
    drift = np.cumsum(random.standard_normal((leads, samples)), axis=1) / 10
    signal: np.ndarray = random.standard_normal((leads, samples)) + drift + random.normal(0, 5, (leads, 1))
    return signal


def in_scipys_words(band: Band) -> tuple[str, float | list[float]]:
    low, high = band
    if low is None:
        return "lowpass", float(high or 0)
    return ("highpass", low) if high is None else ("bandpass", [low, high])


def assert_as_scipy(
    signal: np.ndarray, step: Filtering, rate: float, expected: Callable[[np.ndarray], np.ndarray]
) -> None:
    """Both give the same, or both refuse the length."""
    try:
        reference = expected(signal)
    except ValueError as error:
        assert "padlen" in str(error)  # noqa: PT017, of scipy; ours is tested right below
        with pytest.raises(UnusableError, match=r"too short for the .* filter"):
            filters.apply_filter(signal, step, rate)
        return
    before = signal.copy()
    filtered = filters.apply_filter(signal, step, rate)
    np.testing.assert_array_equal(signal, before)
    np.testing.assert_allclose(filtered, reference, rtol=0, atol=1e-9 * max(1.0, float(np.abs(reference).max())))


@settings(max_examples=60)
@given(RATES, LENGTHS, LEADS, BANDS, st.integers(1, 5), st.booleans())
def test_butterworth_in_sections(
    rate: float, samples: int, leads: int, band: Band, order: int, zero_phase: bool
) -> None:
    kind, edges = in_scipys_words(band)
    sections = scipy.signal.butter(order, edges, kind, fs=rate, output="sos")
    assert_as_scipy(
        noise(leads, samples),
        Butterworth(order, band, zero_phase, sections=True),
        rate,
        lambda x: scipy.signal.sosfiltfilt(sections, x) if zero_phase else scipy.signal.sosfilt(sections, x),
    )


@settings(max_examples=60)
@given(RATES, LENGTHS, LEADS, BANDS, st.integers(1, 4), st.booleans())
def test_butterworth_as_one_fraction(
    rate: float, samples: int, leads: int, band: Band, order: int, zero_phase: bool
) -> None:
    kind, edges = in_scipys_words(band)
    fraction = scipy.signal.butter(order, edges, kind, fs=rate)
    assert_as_scipy(
        noise(leads, samples),
        Butterworth(order, band, zero_phase),
        rate,
        lambda x: scipy.signal.filtfilt(*fraction, x) if zero_phase else scipy.signal.lfilter(*fraction, x),
    )


@settings(max_examples=30)
@given(st.floats(130, 1200), LENGTHS, LEADS, st.sampled_from([50.0, 60.0]), st.floats(5, 50), st.booleans())
def test_notch(rate: float, samples: int, leads: int, frequency: float, q: float, zero_phase: bool) -> None:
    fraction = scipy.signal.iirnotch(frequency, q, fs=rate)
    assert_as_scipy(
        noise(leads, samples),
        Notch(frequency, q, zero_phase),
        rate,
        lambda x: scipy.signal.filtfilt(*fraction, x) if zero_phase else scipy.signal.lfilter(*fraction, x),
    )


@settings(max_examples=60)
@given(RATES, LENGTHS, LEADS, BANDS, st.floats(0.1, 0.5), st.booleans())
def test_fir(rate: float, samples: int, leads: int, band: Band, seconds: float, zero_phase: bool) -> None:
    kind, edges = in_scipys_words(band)
    count = int(seconds * rate)
    taps = scipy.signal.firwin(count if count % 2 else count + 1, edges, pass_zero=kind, fs=rate)
    assert_as_scipy(
        noise(leads, samples),
        Fir(seconds, band, zero_phase),
        rate,
        lambda x: scipy.signal.filtfilt(taps, 1, x) if zero_phase else scipy.signal.lfilter(taps, 1, x),
    )


@settings(max_examples=40)
@given(RATES, st.integers(1, 2000), LEADS, st.floats(0.05, 0.6))
def test_median_baseline(rate: float, samples: int, leads: int, seconds: float) -> None:
    signal = noise(leads, samples)
    size = int(seconds * rate) + 1
    size += 1 - size % 2
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a median over more samples than there are
        expected = np.stack([lead - scipy.signal.medfilt(lead, size) for lead in signal])
    np.testing.assert_array_equal(filters.subtract_median(signal, seconds, rate), expected)


@settings(max_examples=40)
@given(st.integers(1, 3000), LEADS, st.integers(2, 13))
def test_decimation(samples: int, leads: int, factor: int) -> None:
    signal = noise(leads, samples)
    try:
        expected = scipy.signal.decimate(signal, factor)
    except ValueError:
        with pytest.raises(UnusableError, match="too short for the filter of the decimation"):
            resampling.decimate(signal, factor)
        return
    np.testing.assert_allclose(resampling.decimate(signal, factor), expected, rtol=0, atol=1e-10)


@settings(max_examples=40)
@given(LENGTHS, LEADS, RATES, st.sampled_from([100.0, 250.0, 500.0]))
def test_fourier(samples: int, leads: int, old: float, new: float) -> None:
    signal, count = noise(leads, samples), max(1, resampling.count_samples(samples, old, new))
    expected = np.stack([scipy.signal.resample(lead, count) for lead in signal])
    np.testing.assert_allclose(resampling.resample_by_fourier(signal, count), expected, rtol=0, atol=1e-12)


@settings(max_examples=60)
@given(LENGTHS, LEADS, RATES, st.sampled_from([100.0, 250.0, 500.0]))
def test_linear_interpolation(samples: int, leads: int, old: float, new: float) -> None:
    signal = noise(leads, samples)
    count = max(1, resampling.count_samples(samples, old, new))
    ends = scipy.interpolate.interp1d(np.linspace(0, 1, samples), signal)(np.linspace(0, 1, count))
    np.testing.assert_allclose(resampling.resample_linearly(signal, count), ends, rtol=0, atol=1e-10)
    on_grid = resampling.count_on_grid(samples, old, new)
    times = np.arange(on_grid + 3) / new  # the last three lie beyond the last sample
    expected = np.stack([np.interp(times, np.arange(samples) / old, lead) for lead in signal])
    assert times[on_grid - 1] <= (samples - 1) / old * (1 + 1e-9) < times[on_grid] * (1 + 2e-9)
    grid = resampling.resample_on_grid(signal, old, new, on_grid + 3)
    np.testing.assert_allclose(grid, expected, rtol=0, atol=1e-8)


@pytest.mark.parametrize("factor", [2, 4])
def test_on_the_grid_of_a_multiple_every_kth_sample_is_taken_exactly(factor: int) -> None:
    signal = noise(3, 1000)
    count = resampling.count_on_grid(1000, 250 * factor, 250)
    np.testing.assert_array_equal(resampling.resample_on_grid(signal, 250 * factor, 250, count), signal[:, ::factor])


@pytest.mark.parametrize(
    ("step", "name"),
    [
        (Notch(50, 30), "the notch filter at 50 Hz"),
        (Butterworth(4, (0.67, 40)), "the band-pass filter of 0.67 to 40 Hz"),
        (Butterworth(4, (None, 40)), "the low-pass filter of 40 Hz"),
        (Butterworth(4, (40, None)), "the high-pass filter of 40 Hz"),
        (Fir(0.3, (0.05, 47)), "the band-pass filter of 0.05 to 47 Hz"),
    ],
)
def test_a_sampling_rate_that_is_too_low_for_a_filter_is_refused_in_words(step: Filtering, name: str) -> None:
    with pytest.raises(UnusableError) as error:
        filters.apply_filter(noise(2, 1000), step, 80.0)
    assert str(error.value) == f"the sampling rate is too low for {name} (80 Hz)"


def test_a_signal_that_is_too_short_for_a_filter_is_refused_in_words() -> None:
    with pytest.raises(UnusableError) as error:
        filters.apply_filter(noise(2, 27), Butterworth(4, (0.67, 40)), 500.0)
    assert str(error.value) == (
        "too short for the band-pass filter of 0.67 to 40 Hz, which needs more than 27 samples (27 samples)"
    )
    assert filters.apply_filter(noise(2, 28), Butterworth(4, (0.67, 40)), 500.0).shape == (2, 28)


def test_a_filter_is_designed_once_per_sampling_rate() -> None:
    assert filters.design_filter(Notch(50, 30), 500.0) is filters.design_filter(Notch(50, 30), 500.0)
