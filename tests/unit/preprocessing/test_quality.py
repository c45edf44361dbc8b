"""What the account says of a signal: holes, flat stretches, clipping, amplitudes, and limb leads that contradict."""

from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io
from hypothesis import given, settings
from hypothesis import strategies as st

from ecgpipe.preprocessing.quality import LIMBS, fingerprint, in_single_precision, measure, measure_agreement, nan_share
from ecgpipe.readers import LEADS, MIXED

RATE = 400


@pytest.fixture(scope="module")
def real(reference: Path) -> dict[str, np.ndarray]:
    """Ten recordings, (12, samples) at 400 Hz, in tenths of a millivolt."""
    files = sorted((reference / "code15").glob("*.mat"))
    assert len(files) == 10
    return {path.stem: scipy.io.loadmat(path)["feats"].astype(np.float64) for path in files}


def heart(samples: int = 4000, seed: int = 0) -> np.ndarray:
    """(12, samples) that never stands still, its limb leads as Einthoven and Goldberger have them."""
    signal = np.random.default_rng(seed).standard_normal((12, samples))
    one, two = signal[0], signal[1]
    signal[2:6] = two - one, -(one + two) / 2, one - two / 2, two - one / 2
    return signal


def look_at(signal: np.ndarray, unit: str | None = None, made: tuple[str, ...] = ()) -> dict[str, Any]:
    return measure(centred(signal), in_single_precision(signal), RATE, unit, made)


def centred(signal: np.ndarray) -> np.ndarray:
    """The signal, the mean taken off each lead."""
    with np.errstate(over="ignore", invalid="ignore"):
        return np.asarray(signal - signal.mean(axis=1, keepdims=True))


def hashed(signal: np.ndarray, made: tuple[str, ...] = ()) -> str:
    return fingerprint(in_single_precision(signal), made)


# Holes and constant leads


def test_a_good_recording_has_nothing_to_be_said_of() -> None:
    facts = look_at(heart())
    assert facts["nan_share"] == facts["flat_s"] == 0
    assert facts["constant_leads"] == facts["clipped_leads"] == facts["flat_leads"] == []
    assert facts["lead_suspicion"] is None


def test_the_share_of_samples_that_are_no_numbers() -> None:
    signal = heart()
    signal[0, :100], signal[5, 7], signal[11, 8] = np.nan, np.inf, -np.inf
    assert nan_share(signal, ()) == pytest.approx(102 / signal.size)
    assert nan_share(signal, ("I", "aVF")) == pytest.approx(1 / 10 / signal.shape[1])
    assert nan_share(np.full((12, 100), np.nan), ()) == 1


def test_constant_leads_are_named_and_not_called_flat_or_clipped_too() -> None:
    signal = heart()
    signal[[3, 8]] = [[0.0], [-2.5]]
    facts = look_at(signal)
    assert facts["constant_leads"] == ["aVR", "V3"]
    assert (facts["flat_leads"], facts["flat_s"], facts["clipped_leads"]) == ([], 0, [])


def test_leads_that_were_derived_or_are_zeros_are_not_judged() -> None:
    signal = heart()
    made = ("III", "aVR", "aVL", "aVF", "V6")
    signal[11] = 0
    facts = look_at(signal, "mV", made)
    assert facts["constant_leads"] == []
    assert [name for name in facts if name.startswith("amplitude")] == [
        f"amplitude_mv_{lead}" for lead in ("I", "II", "V1", "V2", "V3", "V4", "V5")
    ]
    assert "einthoven_residual" not in facts


# Clipping


def test_real_recordings_are_not_clipped(real: dict[str, np.ndarray]) -> None:
    for name, signal in real.items():
        assert look_at(signal)["clipped_leads"] == [], name


@pytest.mark.parametrize("microvolts", [1, 5, 10])
def test_coarse_steps_are_no_clipping(microvolts: int, real: dict[str, np.ndarray]) -> None:
    step = microvolts / 100  # a tenth of a millivolt is 1
    for name, signal in real.items():
        assert look_at(np.round(signal / step) * step)["clipped_leads"] == [], name


def test_clipping_is_seen_in_coarse_steps_too(real: dict[str, np.ndarray]) -> None:
    for name, signal in real.items():
        stepped = np.round(signal / 0.05)
        limit = np.round(0.4 * stepped.max())
        assert look_at(np.minimum(stepped, limit))["clipped_leads"], name


@pytest.mark.parametrize("side", [1, -1])
def test_a_recording_that_meets_its_amplifiers_limit_is_clipped(real: dict[str, np.ndarray], side: int) -> None:
    for name, signal in real.items():
        limited = side * signal
        limit = np.quantile(limited[6:], 0.98, axis=1, keepdims=True)
        limited[6:] = np.minimum(limited[6:], limit)
        assert look_at(side * limited)["clipped_leads"] == list(LEADS[6:]), name


def test_one_long_stay_at_the_limit_is_clipping_too() -> None:
    signal = heart()
    signal[4, 1000:1100] = signal[4].max() + 1  # 0.25 s
    assert look_at(signal)["clipped_leads"] == ["aVL"]
    signal = heart()
    signal[4, 1000:1020] = signal[4].max() + 1  # 0.05 s
    assert look_at(signal)["clipped_leads"] == []


# Flat stretches


def test_real_recordings_have_no_flat_stretch(real: dict[str, np.ndarray]) -> None:
    for name, signal in real.items():
        facts = look_at(signal)
        assert (facts["flat_leads"], facts["flat_s"]) == ([], 0), name


def test_the_longest_flat_stretch_is_reported() -> None:
    signal = heart()
    signal[2, 50:290] = 0.25
    signal[2, 300:310] = 0.25
    signal[9, -600:] = signal[9, -601]  # and so is the sample before
    signal[10, 100:250] = 0.5  # too short: 0.375 s
    facts = look_at(signal)
    assert facts["flat_leads"] == ["III", "V4"]
    assert facts["flat_s"] == 601 / RATE


@given(
    rate=st.one_of(st.floats(20, 2000), st.sampled_from([100.0, 250.0, 257.0, 500.0, 1000.0])),
    seconds=st.floats(0.5, 3),
    start=st.floats(0, 1),
    lead=st.integers(0, 11),
)
@settings(deadline=None, max_examples=100)
def test_any_stretch_of_half_a_second_is_found(rate: float, seconds: float, start: float, lead: int) -> None:
    signal = np.random.default_rng(0).standard_normal((12, int(4 * rate)))
    length = int(np.ceil(seconds * rate))
    first = int(start * (signal.shape[1] - length))
    signal[lead, first : first + length] = 0.125
    facts = measure(centred(signal), in_single_precision(signal), rate, None, [])
    assert facts["flat_leads"] == [LEADS[lead]]
    assert facts["flat_s"] == pytest.approx(length / rate)


# Amplitudes


def test_amplitudes_are_reported_where_the_unit_is_known() -> None:
    facts = look_at(heart(), "mV")
    for i, lead in enumerate(LEADS):
        assert facts[f"amplitude_mv_{lead}"] == pytest.approx(np.ptp(heart()[i]))
    for unit in (None, MIXED):
        assert not any(name.startswith("amplitude") for name in look_at(heart(), unit))


# Limb leads that obey Einthoven and Goldberger, or not


def test_real_recordings_obey_the_equations(real: dict[str, np.ndarray]) -> None:
    for name, signal in real.items():
        facts = look_at(signal)
        assert facts["einthoven_residual"] < 0.03, name
        assert facts["goldberger_residual"] < 0.06, name
        assert facts["lead_suspicion"] is None, name


def test_a_residual_is_the_equations_size_over_that_of_the_leads() -> None:
    limbs = centred(heart())[:6]
    assert measure_agreement(limbs)["einthoven_residual"] == pytest.approx(0, abs=1e-7)
    assert measure_agreement(limbs)["goldberger_residual"] == pytest.approx(0, abs=1e-7)
    limbs[2] += np.random.default_rng(1).standard_normal(limbs.shape[1])
    limbs = centred(limbs)
    one, two, three, avr, avl, avf = limbs
    size = np.sqrt((limbs**2).mean())
    found = measure_agreement(limbs)
    assert found["einthoven_residual"] == pytest.approx(np.sqrt(((one - two + three) ** 2).mean()) / size)
    goldberger = [avr + (one + two) / 2, avl - (one - three) / 2, avf - (two + three) / 2]
    worst = max(np.sqrt((each**2).mean()) for each in goldberger)
    assert found["goldberger_residual"] == pytest.approx(worst / size)


def test_an_offset_or_the_scale_is_no_contradiction() -> None:
    moved = 1e-3 * heart() + np.arange(12)[:, None]
    assert look_at(moved)["einthoven_residual"] == pytest.approx(0, abs=1e-6)
    assert look_at(moved)["lead_suspicion"] is None


@pytest.mark.parametrize(("one", "other"), [*combinations(LIMBS, 2)])
def test_two_swapped_leads_are_named(one: str, other: str, real: dict[str, np.ndarray]) -> None:
    i, j = LIMBS.index(one), LIMBS.index(other)
    for name, signal in real.items():
        swapped = signal.copy()
        swapped[[i, j]] = signal[[j, i]]
        assert look_at(swapped)["lead_suspicion"] == f"{one} and {other} swapped", name


@pytest.mark.parametrize("lead", LIMBS)
def test_an_inverted_lead_is_named(lead: str, real: dict[str, np.ndarray]) -> None:
    for name, signal in real.items():
        inverted = signal.copy()
        inverted[LIMBS.index(lead)] *= -1
        assert look_at(inverted)["lead_suspicion"] == f"{lead} inverted", name


def test_swapped_electrodes_obey_the_equations_and_are_not_seen(real: dict[str, np.ndarray]) -> None:
    for signal in real.values():  # right arm and left arm
        i, ii, iii, avr, avl, avf = signal[:6]
        reversed_arms = np.concatenate([[-i, iii, ii, avl, avr, avf], signal[6:]])
        facts = look_at(reversed_arms)
        assert facts["lead_suspicion"] is None
        assert facts["einthoven_residual"] == pytest.approx(look_at(signal)["einthoven_residual"], abs=1e-6)


def test_chest_leads_obey_no_equation(real: dict[str, np.ndarray]) -> None:
    for signal in real.values():
        swapped = signal.copy()
        swapped[[6, 7]] = signal[[7, 6]]
        swapped[9] *= -1
        assert look_at(swapped)["lead_suspicion"] is None


@pytest.mark.parametrize("seed", range(20))
def test_noise_contradicts_and_nothing_is_named(seed: int) -> None:
    signal = np.random.default_rng(seed).standard_normal((12, 4000))
    assert look_at(signal)["lead_suspicion"] == "limb leads contradict one another"


def test_limb_leads_in_unlike_units_are_not_held_against_one_another() -> None:
    assert "einthoven_residual" in look_at(heart(), None)
    assert "einthoven_residual" not in look_at(heart(), MIXED)
    assert "lead_suspicion" not in look_at(heart(), MIXED)


@pytest.mark.parametrize("magnitude", [0.0, 1e-320, 1e-200, 1e160, 1e308])
@pytest.mark.filterwarnings("error")
def test_what_is_too_small_or_too_large_to_be_squared_has_no_residual(magnitude: float) -> None:
    signal = np.clip(heart() / 10, -1, 1) * magnitude
    facts = look_at(signal, "mV")
    assert "einthoven_residual" not in facts
    assert facts["nan_share"] == 0


# The fingerprint


def test_the_same_signal_has_the_same_fingerprint_however_it_lies_in_memory() -> None:
    signal = heart().astype(np.float32)
    first = hashed(signal)
    assert len(first) == 32
    assert int(first, 16) >= 0
    for same in (signal.copy(), signal.astype(np.float64), np.asfortranarray(signal), signal[::-1][::-1]):
        assert hashed(same) == first


def test_a_fingerprint_knows_no_negative_zero() -> None:
    assert hashed(np.tile([0.0, -0.0], (12, 1))) == hashed(np.tile([-0.0, 0.0], (12, 1)))


@given(lead=st.integers(0, 11), sample=st.integers(0, 3999))
@settings(deadline=None, max_examples=30)
def test_another_sample_is_another_fingerprint(lead: int, sample: int) -> None:
    signal = heart()
    signal[lead, sample] = np.nextafter(np.float32(signal[lead, sample]), np.float32(9))
    assert hashed(signal) != hashed(heart())


def test_other_leads_are_another_fingerprint() -> None:
    swapped = heart()
    swapped[[0, 1]] = swapped[[1, 0]]
    assert hashed(swapped) != hashed(heart())
    assert len({hashed(np.ones((12, 9)), made) for made in ((), ("III",), ("aVR",), ("III", "aVR"))}) == 4
