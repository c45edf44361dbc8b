"""Losses as scikit-learn computes them."""

import numpy as np
import pytest
from scipy.special import expit
from sklearn.metrics import brier_score_loss, log_loss

from ecgpipe.evaluation import losses


def test_the_log_loss_is_scikit_learns_also_at_0_and_1_and_where_labels_are_unknown() -> None:
    random = np.random.default_rng(0)
    true = (random.random((200, 2)) < 0.3).astype(np.float32)
    true[:50, 1] = np.nan
    probability = expit(random.standard_normal((200, 2)))
    probability[50:54] = 0, 1
    ours = losses.log_loss(true, probability)
    for label, rows in enumerate([slice(None), slice(50, None)]):
        assert ours[label] == pytest.approx(log_loss(true[rows, label], probability[rows, label]))
    assert np.isnan(losses.log_loss(np.full_like(true, np.nan), probability)).all()


def test_the_brier_score_is_scikit_learns() -> None:
    random = np.random.default_rng(1)
    true, probability = (random.random(200) < 0.3).astype(float), random.random(200)
    assert losses.brier(true, probability) == pytest.approx(brier_score_loss(true, probability))
