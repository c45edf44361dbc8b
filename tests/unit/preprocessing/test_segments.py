"""One recording becomes segments: leads by name, derived or zeros, windows, and what was changed is said."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ecgpipe.core.model_input import DEFAULT_INPUT, Standardize
from ecgpipe.preprocessing.scaling import standardize
from ecgpipe.preprocessing.segments import (
    SHORTEST_PADDED_S,
    Prepared,
    UnusableError,
    Windows,
    choose_leads,
    count_resampled,
    locate_segments,
    prepare,
    resample_linearly,
)
from ecgpipe.readers import LEADS, MIXED, MOST_VALUES, Recording

EIGHT = ("I", "II", "V1", "V2", "V3", "V4", "V5", "V6")
CHEST = LEADS[6:]
ZERO = Windows(missing_leads="zero")


def noise(samples: int, seed: int = 0) -> np.ndarray:
    """(12, samples), each lead with a mean and a spread of its own."""
    random = np.random.default_rng(seed)
    signal: np.ndarray = random.standard_normal((12, samples)) * random.uniform(0.1, 3, (12, 1)) + random.normal(
        0, 1, (12, 1)
    )
    return signal


def recorded(signal: np.ndarray, leads: Sequence[str] = LEADS, rate: float = 500, unit: str | None = None) -> Recording:
    return Recording(signal, rate, tuple(leads), unit)


def only(leads: Sequence[str], signal: np.ndarray, unit: str | None = None) -> Recording:
    """A recording that has these of the twelve leads, in this order."""
    return recorded(signal[[LEADS.index(lead) for lead in leads]], leads, unit=unit)


def heart(samples: int) -> np.ndarray:
    """(12, samples) whose limb leads obey Einthoven's and Goldberger's equations."""
    signal = noise(samples)
    one, two = signal[0], signal[1]
    signal[2:6] = two - one, -(one + two) / 2, one - two / 2, two - one / 2
    return signal


def made_of(recording: Recording, windows: Windows = Windows()) -> Prepared:  # noqa: B008, it does not change
    return prepare(recording, windows, {})


def refusal(recording: Recording, windows: Windows = Windows()) -> str:  # noqa: B008
    with pytest.raises(UnusableError) as error:
        prepare(recording, windows, {})
    return str(error.value)


# Leads by name


def test_leads_are_known_in_many_spellings_and_others_are_left_out() -> None:
    signal = noise(2500)
    names = ("i", " II ", "ECG III", "AVR", "avl", "MDC_ECG_LEAD_aVF", "v1", "V2", "v3", "V4", "v5", "Lead V6")
    extra = np.full((1, 2500), np.nan)
    made = made_of(recorded(np.concatenate([extra, signal, extra]), ("Pleth", *names, "X")))
    np.testing.assert_array_equal(made.segments, made_of(recorded(signal)).segments)
    assert made.changes["leads_reordered"]
    assert (made.changes["derived_leads"], made.changes["missing_leads"]) == ([], [])


@pytest.mark.parametrize(
    ("leads", "reordered"),
    [(LEADS, False), (EIGHT, False), (LEADS[::-1], True), (("II", "I", *CHEST), True), (("X", *EIGHT), True)],
)
def test_a_recording_states_whether_its_leads_were_put_in_order(leads: tuple[str, ...], reordered: bool) -> None:
    assert made_of(recorded(noise(2500)[: len(leads)], leads)).changes["leads_reordered"] is reordered


def test_a_lead_that_is_there_twice_is_refused() -> None:
    assert refusal(recorded(noise(2500), (*LEADS[:11], "v1"))) == "a lead is there twice (V1)"


# Leads that follow from others


@pytest.mark.parametrize("two", [("I", "II"), ("I", "III"), ("II", "III")])
def test_limb_leads_are_derived_exactly(two: tuple[str, str]) -> None:
    signal = noise(600)
    twelve = choose_leads(only((*two, *CHEST), signal), Windows())
    given = {lead: signal[LEADS.index(lead)] for lead in two}
    one = given["I"] if "I" in given else given["II"] - given["III"]
    other = given["II"] if "II" in given else given["I"] + given["III"]
    for lead, expected in {
        "I": one,
        "II": other,
        "III": given.get("III", other - one),
        "aVR": -0.5 * one - 0.5 * other,
        "aVL": one - 0.5 * other,
        "aVF": other - 0.5 * one,
    }.items():
        np.testing.assert_array_equal(twelve.signal[LEADS.index(lead)], expected, err_msg=lead)
    np.testing.assert_array_equal(twelve.signal[6:], signal[6:])
    assert twelve.derived == [lead for lead in LEADS[:6] if lead not in two]
    assert twelve.missing == []


@pytest.mark.parametrize("leads", [EIGHT, ("III", "I", *CHEST), ("aVF", "III", "II", *CHEST[::-1])])
def test_eight_leads_give_the_segments_of_the_twelve_that_they_stand_for(leads: tuple[str, ...]) -> None:
    whole = made_of(recorded(heart(5000)))
    made = made_of(only(leads, heart(5000)))
    np.testing.assert_allclose(made.segments, whole.segments, rtol=0, atol=1e-6)
    assert made.changes["derived_leads"] == [lead for lead in LEADS[:6] if lead not in leads]


def test_a_recorded_lead_is_never_replaced_by_a_derived_one() -> None:
    signal = noise(600)  # obeys no equation
    twelve = choose_leads(only([lead for lead in LEADS if lead != "aVR"], signal), Windows())
    assert twelve.derived == ["aVR"]
    rest = [i for i, lead in enumerate(LEADS) if lead != "aVR"]
    np.testing.assert_array_equal(twelve.signal[rest], signal[rest])


def test_nothing_is_derived_from_leads_that_may_differ_in_their_units() -> None:
    assert refusal(only(EIGHT, noise(2500), unit=MIXED)) == "leads missing (III aVR aVL aVF)"
    made = made_of(only(EIGHT, noise(2500), unit=MIXED), ZERO)
    assert (made.changes["derived_leads"], made.changes["missing_leads"]) == ([], ["III", "aVR", "aVL", "aVF"])


def test_nothing_is_derived_from_the_augmented_leads() -> None:
    assert refusal(only(("aVR", "aVL", "aVF", *CHEST), noise(2500))) == "leads missing (I II III)"


# Leads that are missing


def test_missing_leads_are_refused_or_zeros() -> None:
    some = ("II", "V5", "aVF")
    assert refusal(only(some, noise(2500))) == "leads missing (I III aVR aVL V1 V2 V3 V4 V6)"
    made = made_of(only(some, noise(2500)), ZERO)
    whole = made_of(recorded(noise(2500)))
    for i, lead in enumerate(LEADS):
        expected = whole.segments[:, i] if lead in some else np.zeros((1, 2500))
        np.testing.assert_array_equal(made.segments[:, i], expected, err_msg=lead)
    assert made.changes["missing_leads"] == [lead for lead in LEADS if lead not in some]
    assert made.changes["derived_leads"] == []


def test_a_single_lead_is_taken_only_when_asked_for_twice() -> None:
    single = recorded(noise(2500)[:1], ["I"])
    rest = " ".join(LEADS[1:])
    asks = f"a single lead, preprocess.min_leads asks for more (missing {rest})"
    assert refusal(single) == asks
    assert refusal(single, ZERO) == asks
    assert refusal(single, Windows(min_leads=1)) == f"leads missing ({rest})"
    made = made_of(single, Windows(min_leads=1, missing_leads="zero"))
    assert [lead for lead, row in zip(LEADS, made.segments[0], strict=True) if row.any()] == ["I"]


def test_fewer_leads_than_asked_for_are_refused() -> None:
    three = only(("I", "II", "V1"), noise(2500))
    assert refusal(three, ZERO._replace(min_leads=4)).startswith("too few leads, preprocess.min_leads asks for more")
    assert made_of(three, ZERO._replace(min_leads=3)).changes["derived_leads"] == ["III", "aVR", "aVL", "aVF"]


def test_a_wearables_own_lead_is_none_of_the_twelve() -> None:
    for name in ("MLII", "ECG", "ch1", "V3R"):
        windows = Windows(min_leads=1, missing_leads="zero")
        assert refusal(recorded(noise(2500)[:1], [name]), windows) == f"none of its leads is known by name ({name})"


# Signals that cannot be used


def test_a_recording_without_samples_is_refused() -> None:
    assert refusal(recorded(np.empty((12, 0)))) == "the recording has no samples"


@pytest.mark.parametrize("rate", [0, -500, 3, 1e6, float("nan"), float("inf")])
def test_a_rate_that_is_not_valid_is_refused(rate: float) -> None:
    assert refusal(recorded(noise(2500), rate=rate)) == f"the sampling rate is out of range ({rate:g} Hz)"


@pytest.mark.parametrize("hole", [np.nan, np.inf, -np.inf])
def test_samples_that_are_no_numbers_are_refused_and_their_leads_named(hole: float) -> None:
    signal = noise(2500)
    signal[7, 1200] = hole
    facts: dict[str, Any] = {}
    with pytest.raises(UnusableError, match=r"^NaN or infinite samples \(V2\)$"):
        prepare(recorded(signal), Windows(), facts)
    assert facts["nan_share"] == pytest.approx(1 / (12 * 2500))


@pytest.mark.parametrize("leads", [LEADS, EIGHT, ("II", "V1")])
def test_a_recording_of_constant_leads_is_refused(leads: tuple[str, ...]) -> None:
    flat = recorded(np.ones((len(leads), 2500)), leads)
    assert refusal(flat, ZERO) == "no signal, every lead is constant"


@pytest.mark.parametrize("value", [0.0, 0.1, -32768.0, 1e9])
def test_a_constant_lead_becomes_zero_and_is_named(value: float) -> None:
    signal = noise(2500)
    signal[6] = value
    facts: dict[str, Any] = {}
    made = prepare(recorded(signal), Windows(), facts)
    assert facts["constant_leads"] == ["V1"]
    np.testing.assert_allclose(made.segments[:, 6], 0, atol=1e-6)


# The numbers


def test_the_scale_of_a_recording_does_not_matter() -> None:
    made = made_of(recorded(noise(2500))).segments
    np.testing.assert_allclose(made_of(recorded(noise(2500) * 1000 + 5)).segments, made, atol=1e-5)
    np.testing.assert_allclose(made.mean(axis=2), 0, atol=1e-6)
    np.testing.assert_allclose(made.std(axis=2), 1, atol=1e-6)


def test_how_an_array_lies_in_memory_does_not_matter() -> None:
    signal = noise(2500)
    made = made_of(recorded(np.asfortranarray(signal), rate=400)).segments
    np.testing.assert_array_equal(made, made_of(recorded(signal, rate=400)).segments)


def test_the_recording_stays_as_it_was() -> None:
    for rate in (400, 500):
        signal = noise(2500)
        made_of(recorded(signal, rate=rate))
        np.testing.assert_array_equal(signal, noise(2500))


@pytest.mark.parametrize(("old", "new"), [(1000, 2500), (2500, 1000), (4096, 5120), (2, 7), (150_000, 150_100)])
def test_resampling_goes_from_end_to_end(old: int, new: int) -> None:
    signal = noise(old)[:2]
    made = resample_linearly(signal, new)
    expected = [np.interp(np.linspace(0, old - 1, new), np.arange(old), lead) for lead in signal]
    np.testing.assert_allclose(made, expected, rtol=0, atol=1e-9)
    np.testing.assert_allclose(made[:, [0, -1]], signal[:, [0, -1]], rtol=0, atol=1e-9)


@pytest.mark.parametrize("rate", [400, 500])
def test_the_signal_is_left_alone_unless_it_may_be_overwritten(rate: int) -> None:
    signal = noise(6200)
    kept = prepare(recorded(signal, rate=rate), Windows(), {})
    np.testing.assert_array_equal(signal, noise(6200))
    overwritten = prepare(recorded(signal, rate=rate), Windows(), {}, overwrite=True)
    np.testing.assert_array_equal(overwritten.segments, kept.segments)
    fixed = noise(6200)
    fixed.flags.writeable = False
    np.testing.assert_array_equal(
        prepare(recorded(fixed, rate=rate), Windows(), {}, overwrite=True).segments, kept.segments
    )


# Windows


def standard_of(signal: np.ndarray) -> np.ndarray:
    """(12, samples) standardised over all of it."""
    return standardize(signal.copy(), Standardize("lead"), LEADS, is_centred=False)[0]


def counted(samples: int, rate: float) -> int:
    """How many samples at 500 Hz a recording of so many has."""
    return count_resampled(recorded(np.empty((1, samples)), ("I",), rate), Windows())


def test_at_no_rate_from_50_to_2000_hz_a_sample_is_lost_to_rounding() -> None:
    for rate in range(50, 2001):
        some = [*(seconds * rate for seconds in (1, 5, 10, 30, 60)), rate - 1, rate + 1, 10 * rate + 7]
        expected = [samples * 500 // rate for samples in some]  # in whole numbers, which are not rounded
        assert [counted(samples, rate) for samples in some] == expected, rate


@pytest.mark.parametrize("rate", [121, 227, 242, 454])
def test_ten_seconds_are_two_segments_where_ecg_transform_loses_one(rate: int) -> None:
    assert int(10 * rate * (500 / rate)) == 4999  # what ecg-transform 0.2.1 computes
    prepared = prepare(recorded(noise(10 * rate), rate=rate), Windows(), {})
    assert len(prepared.segments) == 2
    assert prepared.changes["discarded_s"] == 0


def test_what_fills_no_segment_is_dropped() -> None:
    made = made_of(recorded(noise(6200)))
    standard = standard_of(noise(6200))
    np.testing.assert_allclose(made.segments, [standard[:, :2500], standard[:, 2500:5000]], rtol=0, atol=1e-6)
    assert (made.changes["discarded_s"], made.changes["overlap_s"]) == (2.4, 0)


def test_or_a_last_segment_ends_where_the_recording_ends() -> None:
    made = made_of(recorded(noise(6200)), Windows(tail="overlap"))
    standard = standard_of(noise(6200))
    np.testing.assert_array_equal(made.segments[-1], standard[:, -2500:].astype(np.float32))
    np.testing.assert_array_equal(made.segments[:-1], made_of(recorded(noise(6200))).segments)
    np.testing.assert_array_equal(made.starts_s, np.array([0, 5, 7.4], np.float32))
    assert (made.changes["discarded_s"], made.changes["overlap_s"]) == (0, 2.6)
    assert (made.changes["n_segments"], made.samples) == (3, 2500)


def test_a_recording_of_whole_segments_has_no_tail() -> None:
    dropped, overlapping = (made_of(recorded(noise(5000)), Windows(tail=tail)) for tail in ("drop", "overlap"))
    np.testing.assert_array_equal(dropped.segments, overlapping.segments)
    assert dropped.changes == overlapping.changes


def test_a_short_recording_is_refused() -> None:
    assert refusal(recorded(noise(2499))) == "shorter than one segment of 5 s (4.998 s)"
    assert refusal(recorded(noise(2499)), Windows(tail="overlap")) == "shorter than one segment of 5 s (4.998 s)"
    assert len(made_of(recorded(noise(2500))).segments) == 1


def test_or_it_is_standardised_by_itself_and_padded_with_zeros() -> None:
    made = made_of(recorded(noise(900)), Windows(short="pad"))
    assert made.segments.shape == (1, 12, 2500)
    np.testing.assert_array_equal(made.segments[0, :, :900], standard_of(noise(900)).astype(np.float32))
    assert not made.segments[0, :, 900:].any()
    assert (made.samples, made.changes["padded_s"], made.changes["discarded_s"]) == (900, 3.2, 0)


def test_what_would_be_too_long_at_500_hz_is_refused() -> None:
    signal = np.zeros((12, MOST_VALUES // 12 // 25))
    assert refusal(recorded(signal, rate=20)) == "no signal, every lead is constant"
    assert refusal(recorded(np.zeros((12, signal.shape[1] + 1)), rate=20)) == "too long to be prepared at once (4167 s)"


def test_what_hardly_holds_a_heartbeat_is_not_padded() -> None:
    windows = Windows(short="pad")
    least = int(SHORTEST_PADDED_S * 500)
    assert refusal(recorded(noise(least - 1)), windows) == "too short to be padded to a segment (0.998 s)"
    assert made_of(recorded(noise(least)), windows).samples == least


@pytest.mark.parametrize("seconds", [1, 2.5, 10])
def test_segments_have_any_length(seconds: float) -> None:
    made = made_of(recorded(noise(6200)), Windows(segment_s=seconds, tail="overlap"))
    length = int(500 * seconds)
    standard = standard_of(noise(6200)).astype(np.float32)
    assert made.segments.shape[1:] == (12, length)
    for segment, start in zip(made.segments, made.starts_s, strict=True):
        at = round(float(start) * 500)
        np.testing.assert_array_equal(segment, standard[:, at : at + length])
    assert round(float(made.starts_s[-1]) * 500) + length == 6200


windows_of_all_kinds = st.builds(
    Windows,
    segment_s=st.sampled_from([0.5, 1.0, 2.5, 5.0, 10.0, 3.333]),
    tail=st.sampled_from(["drop", "overlap"]),
    short=st.sampled_from(["skip", "pad"]),
    model_input=st.just(DEFAULT_INPUT),
)


@given(samples=st.one_of(st.integers(1, 20_000), st.sampled_from([499, 500, 2499, 2500, 2501, 5000])),
       windows=windows_of_all_kinds)  # fmt: skip
@settings(deadline=None, max_examples=200)
def test_every_sample_is_counted(samples: int, windows: Windows) -> None:
    length = windows.segment_samples
    try:
        cut = locate_segments(recorded(np.zeros((12, samples)), LEADS, 500, "mV"), windows)
    except UnusableError:
        assert samples < length
        assert windows.short == "skip" or samples < 500
        return
    assert len(cut.starts) * length - cut.overlap - cut.padded + cut.discarded == samples
    covered = {s for start in cut.starts for s in range(start, min(start + length, samples))}
    assert covered == set(range(samples - cut.discarded))
    assert 0 <= cut.overlap < length
    assert 0 <= cut.discarded < length
    assert not cut.discarded or windows.tail == "drop"


@given(
    rate=st.one_of(st.sampled_from([100, 250, 257, 360, 400, 500, 1000]), st.floats(20, 2000)),
    seconds=st.floats(0.1, 16),
    magnitude=st.sampled_from([0, 1e-300, 1e-12, 1.0, 1e6, 1e150, 1e200, 1e308]),
    windows=windows_of_all_kinds,
    leads=st.sampled_from([LEADS, EIGHT, LEADS[::-1]]),
)
@settings(deadline=None, max_examples=60)
@pytest.mark.filterwarnings("error")
def test_segments_are_finite_and_account_for_the_whole_duration(
    rate: float, seconds: float, magnitude: float, windows: Windows, leads: tuple[str, ...]
) -> None:
    signal = np.random.default_rng(0).uniform(-1, 1, (len(leads), max(1, int(seconds * rate)))) * magnitude
    try:
        made = made_of(recorded(signal, leads, rate, "mV"), windows)
    except UnusableError:
        assert signal.shape[1] / rate < windows.segment_s + 0.06 or magnitude == 0 or magnitude > 1e150
        return
    assert np.isfinite(made.segments).all()
    assert made.segments.shape == (made.changes["n_segments"], 12, windows.segment_samples)
    total = made.segments.shape[0] * windows.segment_samples / 500 - made.changes["overlap_s"]
    total += made.changes["discarded_s"] - made.changes["padded_s"]
    assert total == pytest.approx(signal.shape[1] / rate, abs=1 / 500)
