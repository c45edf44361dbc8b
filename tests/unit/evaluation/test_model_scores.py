"""Several models on the same recordings: scikit-learn's numbers, and differences in the same resamples of patients."""

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from ecgpipe.evaluation import metrics, model_scores
from ecgpipe.evaluation.metrics import METRICS
from ecgpipe.evaluation.model_scores import Row, Scores

STATEMENTS, MODELS = ("Atrial fibrillation", "Pacing", "Rare"), ("a", "b", "c")


def made(seed: int = 1, recordings: int = 240) -> Scores:
    """Three models; the second has no score for the second statement, the third lacks some recordings."""
    random = np.random.default_rng(seed)
    true = (random.random((recordings, 3)) < [0.3, 0.2, 0.0]).astype(float)
    true[random.random(true.shape) < 0.1] = np.nan
    noise = random.normal(0.4, 0.25, (3, 3, recordings))
    score = np.clip(0.2 * np.nan_to_num(true.T)[None] * np.array([3, 2, 1])[:, None, None] + noise, 0, 1)
    score[1, 1] = np.nan
    score[2, 0, :20] = np.nan
    return Scores(STATEMENTS, MODELS, true, score, np.full((3, 3), 0.5))


def find(rows: list[Row], statement: str | None, model: str, against: str | None, metric: str = "auroc") -> Row:
    [row] = [row for row in rows if row[:4] == (statement, model, against, metric)]
    return row


def test_numbers_are_scikit_learns_on_the_recordings_that_all_models_have() -> None:
    scores = made()
    rows = model_scores.compare_scores(scores, None, 0, 1)
    known = ~np.isnan(scores.true[:, 0]) & np.isfinite(scores.score[2, 0])
    for number, model in enumerate(MODELS):
        row = find(rows, STATEMENTS[0], model, None)
        assert row.value == pytest.approx(roc_auc_score(scores.true[known, 0], scores.score[number, 0, known]))
        assert (row.n, row.n_positive) == (known.sum(), scores.true[known, 0].sum())
        precision = find(rows, STATEMENTS[0], model, None, "auprc").value
        assert precision == pytest.approx(
            average_precision_score(scores.true[known, 0], scores.score[number, 0, known])
        )
        assert np.isnan(row.low)
    known = ~np.isnan(scores.true[:, 1])
    assert find(rows, STATEMENTS[1], "c", None).n == known.sum()


def test_a_statement_with_one_class_and_a_model_without_the_statement_have_no_numbers() -> None:
    rows = model_scores.compare_scores(made(), None, 0, 1)
    assert {row.statement for row in rows} == {*STATEMENTS[:2]}
    assert {row.model for row in rows if row.statement == STATEMENTS[1]} == {"a", "c"}
    assert {(row.model, row.against) for row in rows if row.statement == STATEMENTS[0]} == {
        *((model, None) for model in MODELS),
        *(("a", "b"), ("a", "c"), ("b", "c")),
    }


def test_a_difference_is_that_of_the_two_numbers_and_its_interval_of_the_same_patients() -> None:
    scores, groups = made(), np.arange(240) // 3
    rows = model_scores.compare_scores(scores, groups, 200, 5)
    first, second = (find(rows, STATEMENTS[0], model, None) for model in "ab")
    row = find(rows, STATEMENTS[0], "a", "b")
    assert row.value == pytest.approx(first.value - second.value)
    # Put together from the patients that were drawn, recording by recording.
    true = model_scores.mask_unscored(scores)[:, 0]
    differences = []
    for stream in np.random.SeedSequence(5).spawn(200):
        patients = np.random.default_rng(stream).integers(0, 80, 80)
        drawn = np.concatenate([np.flatnonzero(groups == patient) for patient in patients])
        drawn = drawn[~np.isnan(true[drawn])]
        both = [roc_auc_score(true[drawn], scores.score[model, 0, drawn]) for model in (0, 1)]
        differences.append(both[0] - both[1])
    assert (row.low, row.high) == pytest.approx(tuple(np.quantile(differences, [0.025, 0.975])))
    assert row.resamples == 200
    assert row.high - row.low < np.hypot(first.high - first.low, second.high - second.low)


def test_a_model_does_not_differ_from_itself() -> None:
    scores = made()
    score = np.stack([scores.score[0], scores.score[0]])
    rows = model_scores.compare_scores(scores._replace(models=("a", "b"), score=score), None, 50, 1)
    row = find(rows, STATEMENTS[0], "a", "b")
    assert (row.value, row.low, row.high) == (0, 0, 0)


def test_the_mean_is_over_the_statements_that_every_model_has() -> None:
    scores = made()
    scores.score[1, 1] = 1 - scores.score[0, 1]
    rows = model_scores.compare_scores(scores, None, 40, 1)
    for model in MODELS:
        own = [find(rows, statement, model, None).value for statement in STATEMENTS[:2]]
        assert find(rows, None, model, None).value == pytest.approx(np.mean(own))
    only_one = model_scores.compare_scores(made(), None, 0, 1)
    assert None not in {row.statement for row in only_one}


def test_statements_beyond_one_block_are_drawn_in_the_same_way(monkeypatch: pytest.MonkeyPatch) -> None:
    scores, groups = made(), np.arange(240) // 2
    expected = model_scores.compare_scores(scores, groups, 30, 2)
    monkeypatch.setattr(model_scores, "STATEMENTS", 1)
    assert repr(model_scores.compare_scores(scores, groups, 30, 2)) == repr(expected)


def test_columns_that_are_not_pooled_are_the_labels_of_a_measure() -> None:
    scores = made()
    true, score = scores.true[:, :2], scores.score[0, :2].T
    groups = np.arange(240) // 4
    values, drawn = metrics.draw_columns(true, score, [0.5, 0.4], groups, 60, 9)
    low, high, _ = metrics.intervals(drawn)
    for one in metrics.measure(true, score, [0.5, 0.4], groups, 60, 9):
        if one.label is not None:
            place = one.label, METRICS.index(one.metric)
            np.testing.assert_allclose((values[place], low[place], high[place]), (one.value, one.low, one.high))


def test_very_many_recordings_get_fewer_resamples() -> None:
    assert model_scores.choose_resamples(1000, 20, 1000) == 1000
    assert model_scores.choose_resamples(100_000, 100, 1000) == 250
    assert model_scores.choose_resamples(10_000_000, 100, 1000) == 200
    assert model_scores.choose_resamples(10_000_000, 100, 50) == 50
