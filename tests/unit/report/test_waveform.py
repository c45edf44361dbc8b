"""What is drawn of a recording: each value at its time, in its lead, and nothing lost that matters."""

from typing import Any

import numpy as np
import pytest

from ecgpipe.core import settings
from ecgpipe.preprocessing.segments import Windows, choose_leads, locate_segments
from ecgpipe.readers import LEADS, Recording
from ecgpipe.report import waveform
from ecgpipe.report.waveform import Layout

STRIDE = Layout().stride
TOKENS = 156
STEP, SPAN = 16, 16  # of ECG-FM
WINDOWS = Windows()


def recording(samples: int = 5000, rate: float = 500.0) -> Recording:
    signal = np.sin(np.arange(12)[:, None] + np.arange(samples) / rate * 7)
    return Recording(signal, rate, LEADS, "mV")


def spread(attention: np.ndarray, most: int) -> np.ndarray:
    """The attention over the samples of segments of 2,500 samples that follow one another."""
    starts = 2500 * np.arange(len(attention))
    return waveform.interpolate_attention(attention, starts, 2500, STEP, SPAN, most)


def code(
    shown: Recording,
    attention: np.ndarray | None = None,
    windows: Windows = WINDOWS,
    attributions: list[dict[str, Any]] | None = None,
) -> dict[str, Any]:
    """What the page draws of a recording that was cut as the settings say."""
    cut = locate_segments(shown, windows)
    twelve = choose_leads(shown, windows)
    samples = windows.segment_samples
    own = waveform.encode_leads(twelve, shown.sample_rate, shown.unit)
    return own | waveform.encode_model(own["seconds"], cut, samples, attention, attributions or [], (STEP, SPAN))


def leads(view: dict[str, Any]) -> np.ndarray:
    """(12, samples) of a view, in its unit, as the page puts them together."""
    steps = np.cumsum(view["leads"].reshape(12, -1), axis=1, dtype=np.int16)
    values: np.ndarray = steps * view["step"]
    return values


def test_token_t_lies_at_sample_16t_plus_7_5() -> None:
    ramp = np.arange(float(TOKENS))[None]  # token t has the value t
    values = spread(ramp, 2500)
    samples = np.arange(8, 2488)  # from the first token's middle, 7.5, to the last one's, 2487.5
    np.testing.assert_allclose(values[samples], (samples - 7.5) / 16 / (TOKENS - 1), rtol=1e-12)
    assert (values[:8] == 0).all()
    assert (values[2488:] == 1).all()


def test_a_segment_starts_anew_at_2500() -> None:
    spikes = np.zeros((3, TOKENS))
    spikes[1, 10] = 1
    values = spread(spikes, 10_000)
    assert values.shape == (7500,)
    peak = 2500 + 16 * 10 + 7.5
    np.testing.assert_allclose(values[[int(peak - 0.5), int(peak + 0.5)]], 1 - 0.5 / 16)
    assert set(np.flatnonzero(values)) == set(range(int(peak) - 15, int(peak) + 17))


def test_attention_is_scaled_over_the_recording() -> None:
    attention = np.stack([np.linspace(2, 3, TOKENS), np.linspace(3, 6, TOKENS)])
    values = spread(attention, 5000)
    assert values[:2500].min() == 0
    assert values[:2500].max() == pytest.approx(0.25)
    assert values[2500:].min() == pytest.approx(0.25)
    assert values[2500:].max() == 1
    # What lies beyond the drawn part counts too.
    np.testing.assert_array_equal(spread(attention, 100), values[:100])
    assert (spread(np.full((1, TOKENS), 0.3), 2500) == 0).all()


def test_the_page_gets_the_mean_of_each_stretch_of_four_samples() -> None:
    attention = np.random.default_rng(1).random((2, TOKENS))
    view = code(recording(), attention)
    assert view["stride_s"] == STRIDE / 500
    np.testing.assert_allclose(
        view["attention"], 255 * spread(attention, 5000).reshape(-1, STRIDE).mean(axis=1), atol=0.5
    )


def test_what_the_model_did_not_see_has_no_attention() -> None:
    attention = np.random.default_rng(1).random((1, TOKENS))
    view = code(recording(3500), attention)
    assert (view["seconds"], view["end"], view["borders"]) == (7, 5, [])
    assert len(view["attention"]) == 2500 / STRIDE


def test_an_overlapping_last_segment_goes_over_the_one_before() -> None:
    attention = np.stack([np.full(TOKENS, 0.0), np.full(TOKENS, 1.0), np.full(TOKENS, 0.5)])
    view = code(recording(6000), attention, Windows(tail="overlap"))
    times = np.arange(len(view["attention"])) * STRIDE
    np.testing.assert_array_equal(view["attention"], np.select([times < 2500, times < 3500], [0, 255], 128))
    assert view["borders"] == [5, 7]


def test_padding_is_neither_drawn_nor_part_of_the_scale() -> None:
    attention = np.concatenate([np.linspace(0.2, 0.4, 93), np.zeros(TOKENS - 93)])[None]
    view = code(recording(1500), attention, Windows(short="pad"))
    assert len(view["attention"]) * STRIDE == 1500
    assert (view["attention"].min(), view["attention"].max()) == (0, 255)
    assert view["end"] == view["seconds"] == 3


def test_leads_are_found_by_name_and_drawn_around_their_median() -> None:
    plain = recording()
    order = np.random.default_rng(2).permutation(12)
    mixed = Recording(plain.signal[order] + 3.0, 500.0, tuple(f" {LEADS[i].upper()}" for i in order), "mV")
    view = code(mixed)
    assert view["lead_names"] == list(LEADS)
    expected = plain.signal - np.median(plain.signal, axis=1, keepdims=True)
    np.testing.assert_allclose(leads(view), expected, atol=0.5 * waveform.STEP_MV + 1e-9)
    assert view["millivolts"]
    assert view["rate"] == 500


def test_a_jump_from_end_to_end_of_the_scale_comes_back() -> None:
    # Its difference does not fit into 16 bits, and comes back as it went.
    square = np.where(np.arange(5000) % 100 < 50, -160.0, 160.0)
    view = code(recording()._replace(signal=np.tile(square, (12, 1))))
    np.testing.assert_allclose(leads(view), np.tile(square - np.median(square), (12, 1)), atol=view["step"])


def test_an_unknown_unit_is_drawn_in_steps_of_its_own_range_and_says_so() -> None:
    view = code(recording()._replace(signal=1e6 * recording().signal, unit=None))
    assert not view["millivolts"]
    around = 1e6 * recording().signal
    around -= np.median(around, axis=1, keepdims=True)
    np.testing.assert_allclose(leads(view), around, atol=1e6 / 1000)


@pytest.mark.parametrize("value", [0.0, 5.0, np.nan])
def test_constant_leads_and_what_is_not_finite_are_drawn_as_a_line(value: float) -> None:
    flat = Recording(np.full((12, 5000), value), 500.0, LEADS, "mV")
    assert not leads(code(flat)).any()


def test_a_long_recording_is_drawn_in_part_and_a_fast_one_thinned_without_losing_peaks() -> None:
    long = recording(1000 * 60, 1000.0)
    long.signal[3, 12_345] = 40.0
    view = code(long)
    assert (view["seconds"], view["of_seconds"]) == (settings.DRAWN_S, 60)
    values = leads(view)
    assert view["rate"] <= waveform.MOST_RATE
    assert values.shape == (12, settings.DRAWN_S * view["rate"])
    assert values[3].argmax() / view["rate"] == pytest.approx(12.345, abs=1 / view["rate"])
    assert values[3].max() == pytest.approx(40, abs=1)


@pytest.mark.parametrize(("samples", "rate"), [(10_000, 1000.0), (10_001, 997.0), (50_003, 5000.0), (1, 2000.0)])
def test_thinning_keeps_the_extremes_and_the_time(samples: int, rate: float) -> None:
    signal = np.random.default_rng(samples).standard_normal((12, samples))
    thin, slower = waveform.thin(signal, rate)
    assert slower <= waveform.MOST_RATE
    assert thin.shape[1] / slower == pytest.approx(samples / rate, abs=0.02)
    np.testing.assert_array_equal(thin.max(axis=1), signal.max(axis=1))
    np.testing.assert_array_equal(thin.min(axis=1), signal.min(axis=1))


def attribution(lead: str, start: int, stop: int, value: float = 1.0) -> np.ndarray:
    """(2, 12, 2500): nothing but in one lead of the second segment."""
    values = np.zeros((2, 12, 2500), np.float32)
    values[1, LEADS.index(lead), start:stop] = value
    return values


def test_an_attribution_is_drawn_in_its_lead_at_its_time() -> None:
    given = {"label": "A", "judged": "...", "attribution": attribution("V3", 1000, 1100)}
    [drawn] = code(recording(), None, WINDOWS, [given])["attributions"]
    values = drawn["values"].reshape(12, -1)
    assert drawn["label"] == "A"
    assert values.shape[1] == 5000 / STRIDE
    rows, stretches = np.nonzero(values)
    assert set(rows) == {LEADS.index("V3")}
    # As fine as a token of 16 samples: the edges are blurred by half of one.
    assert 3500 - 8 <= stretches.min() * STRIDE <= 3500
    assert 3600 <= (stretches.max() + 1) * STRIDE <= 3600 + 8
    assert values.max() == 127


def test_what_speaks_for_a_label_and_what_against_it_have_different_signs_and_one_scale() -> None:
    both = attribution("I", 0, 1000, 2.0) + attribution("II", 0, 1000, -1.0)
    [drawn] = code(recording(), None, WINDOWS, [{"label": "A", "attribution": both}])["attributions"]
    values = drawn["values"].reshape(12, -1).astype(int)
    assert values[0].max() == 127
    assert values[1].min() == pytest.approx(-63.5, abs=1)


def test_the_sums_of_the_stretches_are_those_of_the_samples_and_a_later_segment_goes_over() -> None:
    values = np.random.default_rng(3).standard_normal((2, 12, 2500))
    sums = waveform.sum_attribution(values, np.array([0, 1000]), 2500, 3500)
    np.testing.assert_allclose(sums.sum(axis=1), values[0, :, :1000].sum(axis=1) + values[1].sum(axis=1))
    np.testing.assert_allclose(sums[:, 250], values[1, :, :4].sum(axis=1))
    cut = waveform.sum_attribution(values, np.array([0, 1000]), 2500, 1500)
    np.testing.assert_allclose(cut, sums[:, : 1500 // STRIDE])
