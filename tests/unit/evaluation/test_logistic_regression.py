"""Logistic regression for many labels at once: the minimum that scikit-learn finds, label by label."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from ecgpipe.evaluation import logistic_regression

STRENGTHS = (1e-4, 1e-2, 1.0, 10.0)


def problem(recordings: int, width: int, labels: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Features far from independent of one another, and labels common and rare, some of them unknown."""
    random = np.random.default_rng(seed)
    mix = random.standard_normal((width, width)) * np.exp(-np.arange(width) / (width / 6))[:, None]
    features = random.standard_normal((recordings, width)) @ mix + 0.05 * random.standard_normal((recordings, width))
    features = ((features - features.mean(axis=0)) / features.std(axis=0)).astype(np.float32)
    margin = features @ random.standard_normal((width, labels)) / width**0.5 - np.linspace(0, 4, labels)
    true = (margin + random.logistic(size=margin.shape) > 0).astype(np.float32)
    true[random.random(true.shape) < 0.1] = np.nan
    return features, true


@pytest.mark.parametrize("strength", STRENGTHS)
def test_each_label_has_the_minimum_that_scikit_learn_finds(strength: float) -> None:
    features, true = problem(2000, 40, 4)
    found = logistic_regression.fit(features, true, np.full(4, strength), logistic_regression.curvature(features))
    for label in range(4):
        known = ~np.isnan(true[:, label])
        theirs = LogisticRegression(C=strength, tol=1e-10, max_iter=100_000)
        theirs.fit(features[known].astype(np.float64), true[known, label])
        np.testing.assert_allclose(found.weight[:, label], theirs.coef_[0], atol=1e-3)
        np.testing.assert_allclose(found.bias[label], theirs.intercept_[0], atol=1e-3)
        ours = logistic_regression.probability(features, found)[:, label]
        np.testing.assert_allclose(ours, theirs.predict_proba(features.astype(np.float64))[:, 1], atol=1e-4)


def test_a_label_that_can_be_separated_has_its_minimum_too() -> None:
    features, true = problem(300, 20, 2)
    true = np.stack([features[:, 0] > 0, features[:, 1] > 1.5], axis=1).astype(np.float32)
    found = logistic_regression.fit(features, true, np.full(2, 10.0), logistic_regression.curvature(features))
    for label in range(2):
        theirs = LogisticRegression(C=10, tol=1e-10, max_iter=100_000).fit(features.astype(float), true[:, label])
        np.testing.assert_allclose(found.weight[:, label], theirs.coef_[0], atol=5e-3)


def test_what_a_label_gets_does_not_depend_on_its_neighbours_or_on_the_start() -> None:
    features, true = problem(1000, 30, 5)
    shape = logistic_regression.curvature(features)
    together = logistic_regression.fit(features, true, np.array([0.01, 0.1, 1, 0.01, 0.1]), shape)
    alone = logistic_regression.fit(features, true[:, [1]], np.array([0.1]), shape)
    np.testing.assert_allclose(together.weight[:, [1]], alone.weight, atol=1e-4)
    far = logistic_regression.Linear(np.full((30, 1), 3.0), np.array([-5.0]))
    np.testing.assert_allclose(
        logistic_regression.fit(features, true[:, [1]], np.array([0.1]), shape, far).weight, alone.weight, atol=1e-4
    )


def test_unknown_labels_count_nowhere() -> None:
    features, true = problem(800, 10, 1)
    known = ~np.isnan(true[:, 0])
    some = features[known]
    whole = logistic_regression.fit(features, true, np.ones(1), logistic_regression.curvature(features))
    alone = logistic_regression.fit(some, true[known], np.ones(1), logistic_regression.curvature(some))
    np.testing.assert_allclose(whole.weight, alone.weight, atol=1e-4)


def test_features_that_say_the_same_or_nothing_do_no_harm() -> None:
    features, true = problem(500, 10, 1)
    doubled = np.hstack([features, features, np.zeros((500, 3), np.float32)])
    found = logistic_regression.fit(doubled, true, np.ones(1), logistic_regression.curvature(doubled))
    np.testing.assert_allclose(found.weight[:10], found.weight[10:20], atol=1e-4)
    np.testing.assert_allclose(found.weight[20:], 0, atol=1e-6)
