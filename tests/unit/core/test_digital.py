"""Whole numbers and their steps: the values have the bits of Python's own floating point."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ecgpipe.core.digital import DIVIDE, MULTIPLY, SUBTRACT, Digital, decode, find_digital

INT16 = st.one_of(st.integers(-32768, 32767), st.sampled_from([-32768, 0, 32767]))
FACTOR = st.floats(1e-6, 1e6).flatmap(lambda value: st.sampled_from([value, -value]))
SHIFT = st.one_of(st.integers(-40_000, 40_000).map(float), st.floats(-1e3, 1e3), st.sampled_from([0.0, -0.0]))
STEP = st.one_of(
    st.tuples(st.just(SUBTRACT), SHIFT), st.tuples(st.just(DIVIDE), FACTOR), st.tuples(st.just(MULTIPLY), FACTOR)
)


def by_hand(number: int, steps: list[tuple[str, float]]) -> float:
    """One number after another, in Python's float64."""
    value = float(number)
    for kind, other in steps:
        value = value - other if kind == SUBTRACT else value / other if kind == DIVIDE else value * other
    return value


def bits(values: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(values).view(np.int64)


@given(st.lists(INT16, min_size=1, max_size=20), st.lists(STEP, max_size=5))
@settings(deadline=None)
def test_values_have_the_bits_of_pythons_own_arithmetic(numbers: list[int], steps: list[tuple[str, float]]) -> None:
    leads = np.array([numbers, numbers[::-1]], np.int16)
    digital = Digital(leads, tuple((kind, np.array([value, value])) for kind, value in steps))
    expected = np.array([[by_hand(number, steps) for number in row] for row in leads.tolist()])
    made = decode(digital.numbers, digital.kinds, digital.constants)
    np.testing.assert_array_equal(bits(made), bits(expected))
    into = np.empty(leads.shape)
    assert decode(digital.numbers, digital.kinds, digital.constants, out=into) is into
    np.testing.assert_array_equal(bits(into), bits(expected))
    np.testing.assert_array_equal(found_numbers(leads, digital, expected), leads)


def found_numbers(leads: np.ndarray, digital: Digital, signal: np.ndarray) -> np.ndarray:
    found = find_digital(leads, digital.steps, signal)
    assert found is not None
    return found.numbers


def test_leads_keep_their_own_numbers_in_another_order() -> None:
    digital = Digital(
        np.arange(6, dtype=np.int16).reshape(3, 2), ((DIVIDE, np.array([1.0, 2.0, 4.0])), (MULTIPLY, np.array([3.0])))
    )
    values = decode(digital.numbers, digital.kinds, digital.constants)
    chosen = digital.of_leads([2, 0]).between(1, 2)
    np.testing.assert_array_equal(decode(chosen.numbers, chosen.kinds, chosen.constants), values[[2, 0], 1:])


@pytest.mark.parametrize(
    ("numbers", "signal"),
    [
        (np.array([[1, 40_000]]), np.array([[1.0, 40_000.0]])),  # beyond 16 bits
        (np.array([[1, 65_535]], np.uint16), np.array([[1.0, 65_535.0]])),
        (np.array([[1.0, 1.5]]), np.array([[1.0, 1.5]])),  # no whole number
        (np.array([[1, -32_768]]), np.array([[1.0, np.nan]])),  # a sample that is none
        (np.array([[1.0, np.nan]]), np.array([[1.0, np.nan]])),
        (np.array([[1, 0]]), np.array([[1.0, -0.0]])),  # another bit
        (np.array([[1, 2]]), np.array([[1.0, np.nextafter(2, 3)]])),
        (np.array([[1, 2]]), np.array([[1.0, 2.0], [1.0, 2.0]])),  # another shape
        (np.empty((1, 0)), np.empty((1, 0))),
    ],
)
def test_numbers_that_do_not_make_the_signal_are_not_taken(numbers: np.ndarray, signal: np.ndarray) -> None:
    assert find_digital(numbers, (), signal) is None
