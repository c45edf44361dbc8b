"""The benchmark of the models' inputs compares two ways that compute the same."""

import pytest

from benchmarks import model_input


@pytest.mark.parametrize("name", list(model_input.SIDES))
def test_both_sides_compute_the_same(name: str) -> None:
    theirs, ours, ratio, apart = model_input.compare(name, model_input.simulate(20.5), repeats=1)
    assert min(theirs, ours, ratio) > 0
    assert apart < 2e-5
