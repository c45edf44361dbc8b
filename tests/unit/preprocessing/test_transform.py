"""A declaration is executed: windows, their places, padding and what is refused; ECG-FM's segments to the last bit."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import pytest
import scipy.signal
from hypothesis import given, settings
from hypothesis import strategies as st

from ecgpipe.core.leads import LEADS
from ecgpipe.core.model_input import (
    Butterworth,
    Center,
    Cut,
    Decimate,
    Fourier,
    JoinLeads,
    Linear,
    MedianBaseline,
    MinMax,
    ModelInput,
    Pad,
    ReplaceNan,
    Scale,
    Standardize,
    Step,
    TakeEvery,
)
from ecgpipe.models.deepecg_ssl import family as deepecg_ssl
from ecgpipe.models.ecg_fm import family as ecg_fm
from ecgpipe.models.ecgfounder import family as ecgfounder
from ecgpipe.models.hubert_ecg import family as hubert_ecg
from ecgpipe.preprocessing.segments import Windows, prepare
from ecgpipe.preprocessing.transform import Transformed, refuse_unit, transform
from ecgpipe.preprocessing.unusable import UnusableError
from ecgpipe.readers import Recording

RATES = st.one_of(st.sampled_from([121.0, 250.0, 257.33, 360.0, 400.0, 500.0, 1000.0]), st.floats(100, 1100))


def noise(samples: int, leads: int = 12, seed: int = 0) -> np.ndarray:
    random = np.random.default_rng(seed)
    signal: np.ndarray = random.standard_normal((leads, samples)) * random.uniform(0.1, 3, (leads, 1)) + 1
    return signal


def declare(steps: Sequence[Step], **changes: Any) -> ModelInput:  # noqa: ANN401, any field
    values = {"leads": ("I", "II"), "rate": 500, "window_s": 2, "steps": tuple(steps)}
    return ModelInput(**{**values, **changes})


def refusal(signal: np.ndarray, rate: float, model_input: ModelInput) -> str:
    with pytest.raises(UnusableError) as error:
        transform(signal, rate, model_input)
    return str(error.value)


def refusal_or_none(call: Callable[[], object]) -> str | None:
    try:
        call()
    except UnusableError as error:
        return str(error)
    return None


# ECG-FM


@settings(max_examples=80)
@given(RATES, st.floats(0.5, 17), st.sampled_from(["drop", "overlap"]), st.sampled_from(["skip", "pad"]), st.booleans())
def test_ecg_fms_declaration_gives_its_segments_to_the_last_bit(
    rate: float, seconds: float, tail: Literal["drop", "overlap"], short: Literal["skip", "pad"], is_flat: bool
) -> None:
    signal = noise(int(seconds * rate))
    if is_flat:
        signal[3] = 0.1
    model_input = replace(ecg_fm.INPUT, tail=tail, short=short)
    recording = Recording(signal, rate, LEADS, "mV")
    windows = Windows(tail=tail, short=short)
    if seconds < (5 + 2 / rate if short == "skip" else 1 + 2 / rate):  # perhaps too short
        reason = refusal_or_none(lambda: prepare(recording, windows, {}))
        assert refusal_or_none(lambda: transform(signal, rate, model_input)) == reason
        if reason:
            return
    expected = prepare(recording, windows, {})
    made = transform(signal, rate, model_input)
    np.testing.assert_array_equal(made.windows, expected.segments)
    np.testing.assert_array_equal(made.starts_s, expected.starts_s)
    assert {made.windows.dtype, made.starts_s.dtype} == {np.dtype(np.float32)}
    assert made.samples == expected.samples
    told = {"padded_s": made.padded_s, "overlap_s": made.overlap_s, "discarded_s": made.discarded_s}
    assert told == {name: expected.changes[name] for name in told}


def test_a_recording_that_was_centred_already_and_may_be_overwritten_gives_the_same_bits() -> None:
    signal = noise(4000)
    expected = transform(signal, 400, ecg_fm.INPUT).windows
    centred = signal - np.add.reduce(signal, axis=1, keepdims=True) / signal.shape[1]
    made = transform(centred, 400, ecg_fm.INPUT, is_centred=True, overwrite=True)
    np.testing.assert_array_equal(made.windows, expected)


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.int16])
def test_the_signal_is_not_changed(dtype: type) -> None:
    signal: np.ndarray = (noise(5000) * 100).astype(dtype)
    before = signal.copy()
    made = transform(signal, 500, ecgfounder.INPUT)
    np.testing.assert_array_equal(signal, before)
    np.testing.assert_array_equal(made.windows, transform(before.astype(np.float64), 500, ecgfounder.INPUT).windows)


# Windows


@pytest.mark.parametrize("name", ["filtered", "plain"])
def test_each_window_that_is_cut_first_is_what_it_is_alone(name: str) -> None:
    signal, model_input = noise(13_000), ecgfounder.VARIANTS[name]
    whole = transform(signal, 400, model_input)
    assert list(whole.starts_s) == [0, 10, 20]
    assert whole.discarded_s == 2.5
    for i, window in enumerate(whole.windows):
        alone = transform(signal[:, i * 4000 : (i + 1) * 4000], 400, model_input).windows
        np.testing.assert_array_equal(alone[0], window)


def test_an_overlapping_window_ends_with_the_recording_and_leaves_the_others_alone() -> None:
    signal = noise(11_000)
    whole = transform(signal, 400, ecgfounder.INPUT)
    over = transform(signal, 400, replace(ecgfounder.INPUT, tail="overlap"))
    assert list(over.starts_s) == [0, 10, 17.5]
    assert (over.overlap_s, over.discarded_s) == (2.5, 0)
    np.testing.assert_array_equal(over.windows[:2], whole.windows)
    np.testing.assert_array_equal(over.windows[2:], transform(signal[:, 7000:], 400, ecgfounder.INPUT).windows)


@settings(max_examples=40)
@given(RATES, st.integers(1, 3), st.sampled_from(["aligned", "grid", "fourier"]))
def test_a_window_is_a_window_at_any_sampling_rate(rate: float, windows: int, how: str) -> None:
    step: Step = Fourier(500) if how == "fourier" else Linear(500, "grid" if how == "grid" else "aligned")
    signal = noise(int(windows * 2 * rate + 1e-6) + 1, 2)
    made = transform(signal, rate, declare([Cut(), step]))
    assert made.windows.shape == (windows, 2, 1000)
    assert made.samples == 1000
    np.testing.assert_allclose(made.starts_s, 2.0 * np.arange(windows), atol=0.51 / rate)


def test_the_last_value_is_held_where_a_whole_window_ends_between_two_samples() -> None:
    made = transform(noise(1000), 100, deepecg_ssl.INPUT)
    last = noise(1000)[:, -1].astype(np.float32)  # at 9.990 s; the last two new samples lie at 9.992 s and 9.996 s
    np.testing.assert_array_equal(made.windows[0, :, -2:], np.stack([last, last], axis=1))
    assert (made.windows[0, :, -3] != last).all()


def test_every_kth_sample_is_taken_and_other_rates_are_refused() -> None:
    model_input = declare([TakeEvery(250), Cut()], rate=250)
    signal = noise(1000, 2)
    np.testing.assert_array_equal(transform(signal, 500, model_input).windows[0], signal[:, ::2].astype(np.float32))
    assert refusal(signal, 400, model_input) == "the sampling rate is not a multiple of 250 Hz (400 Hz)"


def test_joined_leads_are_filtered_across_their_joins() -> None:
    signal = noise(1000, 2)
    made = transform(signal, 500, declare([Linear(500), Cut(), JoinLeads(), Decimate(5)], rate=100))
    assert made.windows.shape == (1, 1, 400)
    assert made.samples == 200
    np.testing.assert_allclose(made.windows[0, 0], scipy.signal.decimate(signal.ravel(), 5), rtol=0, atol=1e-6)


# Scaling


@pytest.mark.parametrize("over", ["lead", "all"])
def test_standardisation_and_range_are_over_each_lead_or_over_all(over: Literal["lead", "all"]) -> None:
    signal, axis = noise(1000, 2), 1 if over == "lead" else None
    made = transform(signal, 500, declare([Linear(500), Cut(), Standardize(over, 0.1, ddof=1)])).windows[0]
    mean, deviation = signal.mean(axis, keepdims=True), signal.std(axis, keepdims=True, ddof=1)
    np.testing.assert_allclose(made, (signal - mean) / (deviation + 0.1), rtol=0, atol=1e-6)
    made = transform(signal, 500, declare([Linear(500), Cut(), MinMax(over, 0, 5, 0.1)])).windows[0]
    lowest, highest = signal.min(axis, keepdims=True), signal.max(axis, keepdims=True)
    np.testing.assert_allclose(made, 5 * (signal - lowest) / (highest - lowest + 0.1), rtol=0, atol=1e-6)


def test_the_place_of_the_cut_states_whether_the_recording_or_the_window_is_scaled() -> None:
    signal = noise(2000, 2)
    signal[:, 1000:] *= 10
    first, second = transform(signal, 500, declare([Linear(500), Cut(), Standardize()])).windows
    np.testing.assert_allclose([first.std(), second.std()], 1, atol=1e-5)
    first, second = transform(signal, 500, declare([Linear(500), Standardize(), Cut()])).windows
    assert first.std() < second.std() / 5


def test_a_constant_lead_becomes_zero_or_the_lowest_value() -> None:
    signal = np.full((2, 1000), 0.25)
    for epsilon in (0, 1e-8):
        made = transform(signal, 500, declare([Linear(500), Cut(), Standardize("all", epsilon)]))
        np.testing.assert_array_equal(made.windows, 0)
    np.testing.assert_array_equal(transform(signal, 500, declare([Linear(500), Cut(), MinMax()])).windows, -1)


def test_values_are_centred_and_multiplied() -> None:
    signal = noise(1000, 2)
    made = transform(signal, 500, declare([Center(), Linear(500), Cut(), Scale(1000)])).windows[0]
    np.testing.assert_allclose(made, 1000 * (signal - signal.mean(1, keepdims=True)), rtol=1e-5, atol=1e-3)


# Padding


def test_zeros_count_or_not_by_where_they_are_added() -> None:
    signal = noise(600, 2)
    late = declare([Cut(), Linear(500), Standardize("all"), Pad()], short="pad")
    early = declare([Cut(), Linear(500), Pad(), Standardize("all")], short="pad")
    made = transform(signal, 500, late)
    assert (made.samples, made.padded_s) == (600, 0.8)
    np.testing.assert_array_equal(made.windows[:, :, 600:], 0)
    padded = np.concatenate([signal, np.zeros((2, 400))], axis=1)
    np.testing.assert_allclose(
        transform(signal, 500, early).windows[0], (padded - padded.mean()) / (padded.std() + 1e-8), rtol=0, atol=1e-6
    )


def test_padding_before_the_resampling_pads_at_the_recordings_own_rate() -> None:
    signal = noise(600, 2)
    made = transform(signal, 400, declare([Pad(), Fourier(500), Cut()], short="pad"))
    padded = np.concatenate([signal, np.zeros((2, 200))], axis=1)
    np.testing.assert_allclose(made.windows[0], scipy.signal.resample(padded, 1000, axis=1), rtol=0, atol=1e-6)
    assert (made.samples, made.padded_s, made.discarded_s) == (750, 0.5, 0)


@settings(max_examples=40)
@given(RATES, st.floats(1.01, 1.99), st.booleans())
def test_a_padded_recording_is_one_window_at_any_sampling_rate(rate: float, seconds: float, is_early: bool) -> None:
    steps: list[Step] = [Pad(), Linear(500), Cut()] if is_early else [Linear(500), Cut(), Pad()]
    signal = noise(int(seconds * rate), 2)
    made = transform(signal, rate, declare(steps, short="pad"))
    assert made.windows.shape == (1, 2, 1000)
    assert abs(made.samples - signal.shape[1] / rate * 500) <= 1
    assert abs(made.padded_s + signal.shape[1] / rate - 2) < 0.01


# What is refused


def test_short_recordings_are_refused_in_words() -> None:
    skip, pad = declare([Linear(500), Cut(), Pad()]), declare([Linear(500), Cut(), Pad()], short="pad")
    assert refusal(noise(500, 2), 500, skip) == "shorter than one segment of 2 s (1.000 s)"
    assert refusal(noise(499, 2), 500, pad) == "too short to be padded to a segment (0.998 s)"
    assert refusal(np.zeros((2, 0)), 500, skip) == "the recording has no samples"
    assert "shorter than one segment of 5 s" in refusal(noise(2400), 500, hubert_ecg.INPUT)
    assert "which needs more than 453 samples" in refusal(noise(453), 500, hubert_ecg.INPUT)
    assert "too low for the band-pass filter of 0.05 to 47 Hz (90 Hz)" in refusal(noise(900), 90, hubert_ecg.INPUT)


def test_enormous_values_and_lengths_are_refused() -> None:
    signal = noise(1000, 2)
    signal[1, 5] = 1e300
    assert refusal(signal, 500, declare([Linear(500), Cut(), Standardize()])) == "samples too large to be meant (II)"
    plain = declare([Linear(500), Cut(), Standardize("all")])
    assert refusal(signal, 500, plain) == "samples too large to be meant (all leads)"
    assert refusal(signal, 500, declare([Linear(500), Cut()])) == "samples too large to be meant"
    long = declare([Linear(5e8), Cut()], rate=5e8)
    assert refusal(noise(1000, 2), 500, long) == "too long to be prepared at once (2 s)"


def test_nan_is_refused_or_replaced_as_declared() -> None:
    signal = noise(1000, 2)
    signal[1, 7] = np.nan
    assert refusal(signal, 500, declare([Linear(500), Cut()])) == "NaN or infinite samples (II)"
    zero = transform(signal, 500, declare([ReplaceNan("zero"), Linear(500), Cut()])).windows[0]
    assert zero[1, 7] == 0
    mean = transform(signal, 500, declare([Linear(500), Cut(), ReplaceNan("mean")])).windows[0]
    assert mean[1, 7] == pytest.approx(np.nanmean(signal))
    signal[0, 3] = np.inf
    assert refusal(signal, 500, declare([ReplaceNan(), Linear(500), Cut()])) == "infinite samples (I)"
    assert (
        refusal(np.full((2, 1000), np.nan), 500, declare([ReplaceNan(), Linear(500), Cut()])) == "every sample is NaN"
    )


@pytest.mark.parametrize("rate", [400, 500])
def test_a_lead_with_nan_becomes_the_mean_of_the_others_for_hubert_ecg(rate: int) -> None:
    signal = noise(10 * rate)
    signal[4, 100] = np.nan
    made = transform(signal, rate, hubert_ecg.INPUT)
    assert np.isfinite(made.windows).all()
    fifth = made.windows[:, 0].reshape(-1, 12, 500)[:, 4, 100:400]  # away from the joins
    assert np.ptp(fifth, axis=1).max() < 1e-3


def test_a_model_that_needs_millivolts_refuses_other_units() -> None:
    needs = declare([Linear(500), Cut()], unit="mV")
    refuse_unit("mV", needs)
    refuse_unit(None, declare([Linear(500), Cut()]))
    with pytest.raises(UnusableError, match="the file states no unit, and the model needs mV; set preprocess"):
        refuse_unit(None, needs)
    with pytest.raises(UnusableError, match="units of the leads differ, and the model needs mV"):
        refuse_unit("mixed", needs)


def test_another_number_of_leads_is_an_error_of_the_caller() -> None:
    with pytest.raises(ValueError, match="3 leads, and the model takes 2"):
        transform(noise(1000, 3), 500, declare([Linear(500), Cut()]))


# Families of other people


def compute_st_mem(signal: np.ndarray, rate: int) -> np.ndarray:
    """ST-MEM's validation transforms (https://github.com/bakqui/ST-MEM, util/transforms.py), in scipy's words."""
    resampled = scipy.signal.resample(signal, int(signal.shape[1] * 250 / rate), axis=1)[:, :2250]
    for cutoff, kind in ((0.67, "highpass"), (40, "lowpass")):
        resampled = scipy.signal.sosfiltfilt(scipy.signal.butter(5, cutoff, kind, fs=250, output="sos"), resampled)
    standard: np.ndarray = (resampled - resampled.mean()) / resampled.std()
    return standard


def test_st_mem_is_declared_without_new_code() -> None:
    model_input = ModelInput(
        leads=LEADS, rate=250, window_s=9,
        steps=(
            Fourier(250), Cut(), Butterworth(5, (0.67, None), sections=True),
            Butterworth(5, (None, 40), sections=True), Standardize("all", epsilon=0),
        ),
    )  # fmt: skip
    signal = noise(5000)
    np.testing.assert_allclose(
        transform(signal, 500, model_input).windows[0], compute_st_mem(signal, 500), rtol=0, atol=1e-6
    )


def test_a_residual_network_of_one_lead_is_declared_without_new_code() -> None:
    steps = (TakeEvery(250), MedianBaseline(0.2), Cut(), MinMax(low=0), Pad(masked=True))
    model_input = declare(steps, rate=250, window_s=4, leads=("II",), short="pad")
    made: Transformed = transform(noise(1600, 1), 500, model_input)
    assert (made.windows.shape, made.samples) == ((1, 1, 1000), 800)
