"""How far models agree: as SciPy and scikit-learn say, and the recordings on which they are furthest apart."""

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import cohen_kappa_score

from ecgpipe.analysis import agreement


def test_probabilities_agree_as_scipy_and_scikit_learn_say() -> None:
    random = np.random.default_rng(3)
    first = np.round(random.random(300), 2)
    second = np.clip(first + random.normal(0, 0.3, 300), 0, 1)
    first[:5], second[3:9] = np.nan, np.nan
    found = agreement.compare_probabilities(first, second, (0.5, 0.4))
    assert found is not None
    first, second = first[9:], second[9:]
    assert found.n == 291
    assert found.mean_difference == pytest.approx((first - second).mean())
    assert found.pearson == pytest.approx(stats.pearsonr(first, second).statistic)
    assert found.spearman == pytest.approx(stats.spearmanr(first, second).statistic)
    called = first >= 0.5, second >= 0.4
    assert found.kappa == pytest.approx(cohen_kappa_score(*called))
    assert found.agreeing == pytest.approx((called[0] == called[1]).mean())
    assert found.only_first == (called[0] & ~called[1]).sum()
    assert found.only_second == (~called[0] & called[1]).sum()
    assert found.both == (called[0] & called[1]).sum()


def test_what_is_not_defined_is_none() -> None:
    assert agreement.compare_probabilities(np.array([np.nan, 0.2]), np.array([0.1, np.nan]), (0.5, 0.5)) is None
    found = agreement.compare_probabilities(np.full(4, 0.1), np.linspace(0, 0.3, 4), (0.5, 0.5))
    assert found is not None
    assert (found.kappa, found.pearson, found.agreeing) == (None, None, 1)


def test_recordings_are_furthest_apart_on_the_statement_with_the_largest_spread() -> None:
    first = np.array([[0.1, 0.5, np.nan, np.nan], [0.9, 0.5, np.nan, 0.2]])
    second = np.array([[0.2, 0.0, 0.4, np.nan], [0.3, np.nan, np.nan, np.nan]])
    found = agreement.find_disagreement([first, second], 4)
    np.testing.assert_allclose(found.spread, [0.8, 0, np.nan, np.nan])
    assert found.statement.tolist() == [0, 0, -1, -1]
    assert (found.highest.tolist()[0], found.lowest.tolist()[0]) == (1, 0)
    assert found.highest.tolist()[2:] == [-1, -1]


def test_a_spread_is_that_of_the_models_that_have_a_probability() -> None:
    random = np.random.default_rng(4)
    values = random.random((4, 50))
    values[random.random(values.shape) < 0.4] = np.nan
    spread, highest, lowest = agreement.find_spread(values)
    for place, column in enumerate(values.T):
        usable = np.isfinite(column)
        if usable.sum() < 2:
            assert np.isnan(spread[place])
        else:
            assert spread[place] == pytest.approx(np.nanmax(column) - np.nanmin(column))
            assert (highest[place], lowest[place]) == (np.nanargmax(column), np.nanargmin(column))


def test_the_largest_are_ranked_and_of_equal_ones_the_first_comes_first() -> None:
    values = np.array([0.5, np.nan, 0.9, 0.5, 0.1, 0.5])
    assert agreement.rank_largest(values, 3).tolist() == [2, 0, 3]
    assert agreement.rank_largest(values, 10).tolist() == [2, 0, 3, 5, 4]
    assert agreement.rank_largest(values[:0], 3).tolist() == []
