"""Metrics are scikit-learn's, on any weights; intervals hold what they promise, by patient."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit
from scipy.stats import norm
from sklearn import metrics as sklearn_metrics

from ecgpipe.evaluation import metrics
from ecgpipe.evaluation.metrics import METRICS, Measure


def drawn(
    seed: int, recordings: int = 300, labels: int = 4, steps: int = 12
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """True labels with unknown ones, scores with ties, thresholds of which some are a score."""
    random = np.random.default_rng(seed)
    true = (random.random((recordings, labels)) < random.uniform(0.05, 0.6, labels)).astype(np.float32)
    score = np.round(np.clip(0.3 * true + random.normal(0.35, 0.25, true.shape), 0, 1) * steps) / steps
    true[random.random(true.shape) < 0.15] = np.nan
    return true, score, np.round(random.uniform(0.3, 0.7, labels) * steps) / steps


def scikit_learn(
    true: np.ndarray, score: np.ndarray, threshold: float | np.ndarray, weight: np.ndarray
) -> dict[str, float]:
    """The same numbers from scikit-learn, of pairs (pairs,) whose truth is known."""
    called = score >= threshold
    given = {"sample_weight": weight}
    by = {"zero_division": np.nan, **given}
    return {
        "auroc": sklearn_metrics.roc_auc_score(true, score, **given),
        "auprc": sklearn_metrics.average_precision_score(true, score, **given),
        "brier": sklearn_metrics.brier_score_loss(true, score, **given),
        "ece": calibration_error(true, score, weight),
        "sensitivity": sklearn_metrics.recall_score(true, called, **by),
        "specificity": sklearn_metrics.recall_score(1 - true, ~called, **by),
        "ppv": sklearn_metrics.precision_score(true, called, **by),
        "f1": sklearn_metrics.f1_score(true, called, **by),
        "prevalence": np.average(true, weights=weight),
    }


def calibration_error(true: np.ndarray, score: np.ndarray, weight: np.ndarray) -> float:
    """As Guo et al. 2017 write it: bins ((m - 1) / M, m / M], equation 3."""
    off = 0.0
    for number in range(15):
        lower = score > number / 15 if number else score >= 0
        inside = lower & (score <= (number + 1) / 15)
        if weight[inside].sum():
            gap = np.average(true[inside], weights=weight[inside]) - np.average(score[inside], weights=weight[inside])
            off += weight[inside].sum() / weight.sum() * abs(gap)
    return off


def found(measures: list[Measure], average: str, label: int | None = None) -> dict[str, Measure]:
    return {one.metric: one for one in measures if one.average == average and one.label == label}


@pytest.mark.parametrize("seed", range(5))
def test_each_label_is_measured_as_by_scikit_learn(seed: int) -> None:
    true, score, thresholds = drawn(seed)
    measures = metrics.measure(true, score, thresholds, resamples=0)
    for label, threshold in enumerate(thresholds):
        known = ~np.isnan(true[:, label])
        expected = scikit_learn(true[known, label], score[known, label], threshold, np.ones(known.sum()))
        assert {name: one.value for name, one in found(measures, "label", label).items()} == pytest.approx(expected)


@pytest.mark.parametrize("seed", range(5))
def test_a_resample_is_measured_as_by_scikit_learn_with_its_weights(seed: int) -> None:
    true, score, thresholds = drawn(seed)
    weights = np.random.default_rng(seed).poisson(1, (len(true), 3)).astype(np.float64)
    values = metrics.weighted(true, score, thresholds, weights)
    for time in range(3):
        for label, threshold in enumerate(thresholds):
            known = ~np.isnan(true[:, label])
            expected = scikit_learn(true[known, label], score[known, label], threshold, weights[known, time])
            assert dict(zip(METRICS, values[label, :, time], strict=True)) == pytest.approx(expected)


def test_micro_pools_all_pairs_and_macro_is_the_mean_of_the_labels() -> None:
    true, score, thresholds = drawn(7)
    known = ~np.isnan(true)
    weight = np.random.default_rng(1).poisson(1, len(true)).astype(np.float64)
    spread = np.broadcast_to(weight[:, None], true.shape)[known]
    values = metrics.weighted(true, score, thresholds, weight[:, None])[..., 0]
    expected = scikit_learn(true[known], score[known], np.broadcast_to(thresholds, true.shape)[known], spread)
    assert dict(zip(METRICS, values[-1], strict=True)) == pytest.approx(expected)
    assert values[-2] == pytest.approx(values[:-2].mean(axis=0))


def test_micro_and_macro_are_those_of_scikit_learn_on_a_full_matrix() -> None:
    true, score, thresholds = drawn(3)
    true = np.nan_to_num(true)
    measures = metrics.measure(true, score, thresholds, resamples=0)
    for average in ("micro", "macro"):
        ours = found(measures, average)
        called = score >= thresholds
        assert ours["auroc"].value == pytest.approx(sklearn_metrics.roc_auc_score(true, score, average=average))
        assert ours["auprc"].value == pytest.approx(
            sklearn_metrics.average_precision_score(true, score, average=average)
        )
        assert ours["ppv"].value == pytest.approx(sklearn_metrics.precision_score(true, called, average=average))
        assert ours["sensitivity"].value == pytest.approx(sklearn_metrics.recall_score(true, called, average=average))
        assert ours["f1"].value == pytest.approx(sklearn_metrics.f1_score(true, called, average=average))


@given(
    st.lists(st.tuples(st.sampled_from([0, 1]), st.integers(0, 4), st.integers(0, 3)), min_size=1, max_size=30),
)
@settings(max_examples=150, deadline=None)
def test_areas_with_many_ties_and_recordings_that_are_not_drawn(rows: list[tuple[int, int, int]]) -> None:
    true, score, weight = (np.array(column, np.float64) for column in zip(*rows, strict=True))
    values = metrics.weighted(true[:, None], score[:, None] / 4, [0.5], weight[:, None])[0, :, 0]
    ours = dict(zip(METRICS, values, strict=True))
    kept = weight > 0
    if len(set(true[kept])) < 2:
        assert np.isnan(ours["auroc"])
        return
    expected = scikit_learn(true[kept], score[kept] / 4, 0.5, weight[kept])
    assert ours == pytest.approx(expected, nan_ok=True)


def test_strata_in_several_pieces_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    true, score, thresholds = drawn(2, steps=10**6)
    at_once = metrics.measure(true, score, thresholds, resamples=20)
    monkeypatch.setattr(metrics, "PIECE", 7)
    in_pieces = metrics.measure(true, score, thresholds, resamples=20)
    assert [one.value for one in in_pieces] == pytest.approx([one.value for one in at_once])
    assert [one.high for one in in_pieces] == pytest.approx([one.high for one in at_once])


def test_a_label_with_one_class_has_no_areas_and_is_not_in_the_macro_average() -> None:
    true, score, thresholds = drawn(4)
    true[:, 2] = 0
    measures = metrics.measure(true, score, thresholds, resamples=50)
    none = found(measures, "label", 2)
    assert np.isnan([none[name].value for name in ("auroc", "auprc", "sensitivity")]).all()
    assert np.isnan([none["auroc"].low, none["auroc"].high]).all()
    assert none["auroc"].resamples == 0
    assert none["prevalence"].value == 0
    assert none["specificity"].value == np.mean(score[:, 2] < thresholds[2])
    others = [found(measures, "label", label)["auroc"].value for label in (0, 1, 3)]
    assert found(measures, "macro")["auroc"].value == pytest.approx(np.mean(others))


def test_what_is_divided_by_zero_is_not_defined() -> None:
    true = np.array([[1.0], [0.0], [0.0]])
    measures = found(metrics.measure(true, np.array([[0.2], [0.1], [0.3]]), [0.9], resamples=0), "label", 0)
    assert np.isnan(measures["ppv"].value)  # nobody is called positive
    assert measures["sensitivity"].value == 0
    assert measures["f1"].value == 0
    assert np.isnan(measures["auroc"].low)


def test_nothing_known_is_nothing_defined() -> None:
    for true in (np.full((5, 2), np.nan), np.zeros((0, 2))):
        measures = metrics.measure(true, np.full(true.shape, 0.5), [0.5, 0.5], resamples=10)
        assert len(measures) == 4 * len(METRICS)
        assert np.isnan([one.value for one in measures]).all()


def test_an_interval_states_in_how_many_resamples_its_number_is_defined() -> None:
    true = np.zeros((200, 1))
    true[0] = 1  # the one positive is drawn in 63 % of the resamples
    score = np.random.default_rng(0).random((200, 1))
    one = found(metrics.measure(true, score, [0.5], resamples=1000), "label", 0)["auroc"]
    assert 560 < one.resamples < 700
    assert one.low <= one.value <= one.high
    groups = np.repeat(np.arange(4), 50)
    true[50:] = np.nan  # one patient of four: known in 68 % of the resamples, both classes each time
    by_patient = found(metrics.measure(true, score, [0.5], groups, resamples=1000), "label", 0)["auroc"]
    assert by_patient.low == by_patient.high == pytest.approx(by_patient.value)


def test_the_same_seed_gives_the_same_intervals_and_another_one_others() -> None:
    true, score, thresholds = drawn(5)
    first, again, other = (
        [one.low for one in metrics.measure(true, score, thresholds, resamples=64, seed=seed)] for seed in (1, 1, 2)
    )
    assert first == again
    assert first != other


def test_patients_are_drawn_whole() -> None:
    true, score, thresholds = drawn(6)
    alone = metrics.measure(true, score, thresholds, resamples=100)
    groups = np.arange(len(true)) * 17  # any integers
    assert [one.low for one in metrics.measure(true, score, thresholds, groups, resamples=100)] == [
        one.low for one in alone
    ]
    # Each recording five times over is known no better where the five are one patient's.
    true, score = np.repeat(true, 5, axis=0), np.repeat(score, 5, axis=0)
    by_patient = metrics.measure(true, score, thresholds, np.repeat(np.arange(len(true) // 5), 5), resamples=100)
    assert [one.low for one in by_patient] == pytest.approx([one.low for one in alone])


def test_intervals_are_those_of_patients_drawn_and_their_recordings_put_together() -> None:
    true, score, thresholds = drawn(8, recordings=400)
    true = np.nan_to_num(true)
    patients = np.random.default_rng(2).integers(0, 100, len(true))
    units = np.unique(patients)
    measures = metrics.measure(true, score, thresholds, patients, resamples=60, seed=7)
    plain = []
    for stream in np.random.SeedSequence(7).spawn(60):
        chosen = units[np.random.default_rng(stream).integers(0, len(units), len(units))]
        rows = np.concatenate([np.flatnonzero(patients == patient) for patient in chosen])
        micro = sklearn_metrics.average_precision_score(true[rows], score[rows], average="micro")
        plain.append((sklearn_metrics.roc_auc_score(true[rows, 1], score[rows, 1]), micro))
    ends = np.quantile(plain, [0.025, 0.975], axis=0).T  # (2 numbers, low and high)
    auroc, auprc = found(measures, "label", 1)["auroc"], found(measures, "micro")["auprc"]
    assert [(auroc.low, auroc.high), (auprc.low, auprc.high)] == [pytest.approx(tuple(pair)) for pair in ends]


def covered(recordings_each: int, by_patient: bool, studies: int = 200) -> float:
    """In which share of studies of 80 patients the interval holds the AUROC that all patients of the world have.

    A patient's recordings share their truth and most of their score, so that eight say little more than one.
    """
    random = np.random.default_rng(11)
    apart, within = 1.2, 0.3
    expected = norm.cdf(apart / np.sqrt(2 * (1 + within**2)))
    patients = np.repeat(np.arange(80), recordings_each)
    inside = 0
    for study in range(studies):
        true = (random.random(80) < 0.4)[patients]
        score = expit(random.normal(size=80)[patients] + within * random.normal(size=len(patients)) + apart * true)
        groups = patients if by_patient else None
        measures = metrics.measure(true[:, None].astype(np.float32), score[:, None], [0.5], groups, 400, study)
        auroc = found(measures, "label", 0)["auroc"]
        inside += auroc.low <= expected <= auroc.high
    return inside / studies


@pytest.mark.slow
def test_intervals_cover_the_true_auroc_at_about_their_level() -> None:
    assert 0.9 <= covered(1, by_patient=False) <= 0.99


@pytest.mark.slow
def test_where_patients_have_many_recordings_only_patients_as_the_unit_cover_it() -> None:
    assert 0.9 <= covered(8, by_patient=True) <= 0.99
    assert covered(8, by_patient=False) < 0.7


def test_what_is_summed_is_the_same_whether_it_is_kept_or_made_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    true, score, thresholds = drawn(11)
    kept = metrics.measure(true, score, thresholds, resamples=20)
    monkeypatch.setattr(metrics, "MOST_KEPT", 0)
    assert metrics.measure(true, score, thresholds, resamples=20) == kept


def test_a_pair_more_takes_little_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Besides its score and truth: its rank, and what is in work of one label."""
    monkeypatch.setattr(metrics, "MOST_KEPT", 0, raising=False)
    labels, sizes = 16, (5_000, 15_000)
    peaks = []
    for recordings in sizes:
        random = np.random.default_rng(3)
        true = np.asfortranarray(random.random((recordings, labels)) < 0.15, np.float32)
        score = np.asfortranarray(expit(2 * true - 2 + random.normal(size=true.shape)))
        tracemalloc.start()
        metrics.measure(true, score, np.full(labels, 0.5), random.integers(0, recordings // 3, recordings), 16)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert (peaks[1] - peaks[0]) / (sizes[1] - sizes[0]) / labels < 60  # bytes; 105 with all matrices kept
