"""True and false positives at each threshold, as scikit-learn counts them."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import precision_recall_curve, roc_curve

from ecgpipe.evaluation import operating_points

# With ties, extremes, and neighbours in float64.
scored = st.lists(
    st.tuples(st.booleans(), st.sampled_from([0.0, 1e-300, 0.1, 0.3, np.nextafter(0.3, 1), 0.7, 1.0])),
    min_size=2,
    max_size=40,
).filter(lambda rows: len({true for true, _ in rows}) == 2)


@given(rows=scored)
@settings(deadline=None)
def test_points_are_those_of_scikit_learns_curves(rows: list[tuple[bool, float]]) -> None:
    true, score = (np.array(column, float) for column in zip(*rows, strict=True))
    points = operating_points.count(true, score)
    fpr, tpr, thresholds = roc_curve(true, score, drop_intermediate=False)
    np.testing.assert_array_equal(points.threshold, thresholds)
    np.testing.assert_array_equal(points.fp / points.negatives, fpr)
    np.testing.assert_array_equal(points.tp / points.positives, tpr)
    precision, recall, thresholds = precision_recall_curve(true, score)
    with np.errstate(invalid="ignore"):
        ours = (points.tp / (points.tp + points.fp))[1:]
    np.testing.assert_array_equal(points.threshold[1:], thresholds[::-1])
    np.testing.assert_array_equal(ours, precision[:-1][::-1])
    np.testing.assert_array_equal((points.tp / points.positives)[1:], recall[:-1][::-1])


def test_what_is_unknown_counts_nowhere() -> None:
    true, score = np.array([1, np.nan, 0, 1]), np.array([0.9, 0.8, 0.2, np.nan])
    points = operating_points.count(true, score)
    assert (points.positives, points.negatives) == (1, 1)
    assert points.threshold.tolist() == [np.inf, 0.9, 0.2]
    assert points.tp.tolist() == [0, 1, 1]
    assert points.fp.tolist() == [0, 0, 1]


@pytest.mark.parametrize("count", [0, 3])
def test_without_known_recordings_there_is_the_point_of_none_alone(count: int) -> None:
    points = operating_points.count(np.full(count, np.nan), np.zeros(count))
    assert points.tp.tolist() == points.fp.tolist() == [0]
