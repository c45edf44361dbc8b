"""Calibration: parameters as other implementations find them, probabilities that are truer on another split."""

import json
from pathlib import Path
from typing import Any

import labelled
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import sklearn.calibration
from labelled import LABELS
from scipy.optimize import minimize, minimize_scalar
from scipy.special import expit
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import brier_score_loss
from sklearn.metrics import log_loss as log_loss_of_sklearn

from ecgpipe.cli import main
from ecgpipe.core import parquet, provenance, schemas
from ecgpipe.core.errors import EcgpipeError
from ecgpipe.evaluation import calibrate
from ecgpipe.inference import aggregate
from ecgpipe.models import calibration
from ecgpipe.models.labels import Label


def sample(seed: int, recordings: int = 2000, slope: float = 0.4, shift: float = -1.0) -> tuple[np.ndarray, np.ndarray]:
    """True labels, and logits that are too large: expit(slope logit + shift) is right."""
    random = np.random.default_rng(seed)
    score = random.normal(0, 3, recordings)
    return (random.random(recordings) < expit(slope * score + shift)).astype(float), score


@pytest.mark.parametrize("seed", range(5))
def test_platt_as_scikit_learn_fits_it(seed: int) -> None:
    true, score = sample(seed)
    slope, intercept = calibrate.platt(true, score)
    theirs = sklearn.calibration._sigmoid_calibration(score, true)
    assert (-slope, -intercept) == pytest.approx(theirs, abs=2e-4)
    # The same as a logistic regression on each recording as a positive and a negative, weighed by Platt's targets.
    n1, n0 = true.sum(), (1 - true).sum()
    target = np.where(true == 1, (n1 + 1) / (n1 + 2), 1 / (n0 + 2))
    regression = LogisticRegression(C=np.inf, tol=1e-12, max_iter=1000)
    both = np.repeat([1, 0], len(true))
    regression.fit(np.tile(score, 2)[:, None], both, np.concatenate([target, 1 - target]))
    assert (slope, intercept) == pytest.approx((regression.coef_[0, 0], regression.intercept_[0]), abs=1e-5)


def test_platt_stays_finite_if_the_score_separates_the_classes_or_is_constant() -> None:
    true = np.repeat([0.0, 1.0], 50)
    slope, intercept = calibrate.platt(true, np.where(true == 1, 36.0, -36.0))
    assert expit([36 * slope + intercept, -36 * slope + intercept]) == pytest.approx([51 / 52, 1 / 52])
    slope, intercept = calibrate.platt(true, np.full(100, 2.0))
    assert expit(2 * slope + intercept) == pytest.approx(0.5)


@pytest.mark.parametrize("seed", range(5))
def test_the_temperature_as_a_search_finds_it(seed: int) -> None:
    true, score = sample(seed, shift=0)
    found = calibrate.temperature(true, score)
    searched = minimize_scalar(
        lambda value: log_loss_of_sklearn(true, expit(score / value)), bounds=(0.1, 20), options={"xatol": 1e-9}
    )
    assert found == pytest.approx(searched.x, abs=1e-4)
    assert found == pytest.approx(1 / 0.4, rel=0.2)


def test_there_is_no_temperature_of_a_score_that_errs_never_or_is_upside_down() -> None:
    true, score = sample(0, shift=0)
    assert calibrate.temperature(true, -score) == "the label is not more frequent where its probability is higher"
    assert "without an error" in str(calibrate.temperature(true, np.where(true == 1, 1.0, -1.0)))


def test_isotonic_as_scikit_learn_fits_it_also_where_nothing_was_fitted(tmp_path: Path) -> None:
    true, score = sample(1)
    probability = np.round(expit(score), 3)  # with ties
    theirs = IsotonicRegression(out_of_bounds="clip").fit(probability, true)
    made = written(tmp_path, "isotonic", {"A": calibrate.isotonic(true, probability)})
    anything = np.linspace(0, 1, 1001)
    np.testing.assert_allclose(
        calibration.calibrate_probability(made, "A", anything), theirs.predict(anything), atol=1e-12
    )


@pytest.mark.parametrize("method", ["platt", "isotonic", "temperature"])
def test_probabilities_are_truer_on_another_split(method: str, tmp_path: Path) -> None:
    shift = 0.0 if method == "temperature" else -1.0
    true, score = sample(3, recordings=5000, shift=shift)
    parameters = calibrate.fit(method, true, expit(score))
    assert isinstance(parameters, dict)
    made = written(tmp_path, method, {"A": parameters})
    true, score = sample(4, recordings=5000, shift=shift)
    before, after = expit(score), calibration.calibrate_probability(made, "A", expit(score))
    right = expit(0.4 * score + shift)
    assert brier_score_loss(true, after) < brier_score_loss(true, before)
    if method != "isotonic":  # which gives 0 and 1, of which the log loss makes much
        assert log_loss_of_sklearn(true, after) < log_loss_of_sklearn(true, before)
    assert np.abs(after - right).mean() < 0.03 < 0.1 < np.abs(before - right).mean()


def written(
    folder: Path, method: str, parameters: dict[str, dict[str, Any]], fitted: bool = True
) -> calibration.Calibration:
    """A calibration of labels as the command writes it."""
    fit = {"on": "fold = 9", "recordings": 10, "sha256": "0" * 64} if fitted else None
    scores = {"checkpoint_sha256": "a" * 64, "aggregation": dict.fromkeys(parameters, "mean")}
    content = {"method": method, "fitted": fit, "scores": scores, "left": {}, "labels": parameters}
    (folder / "calibration.json").write_text(json.dumps(content))
    return calibration.read_calibration(folder / "calibration.json")


def test_the_weight_of_positives_comes_off_the_logits(tmp_path: Path) -> None:
    """A logistic regression that is trained with pos_weight, on data whose true probabilities are known."""
    random, weight = np.random.default_rng(5), 20.0
    features = random.normal(size=(200_000, 2))
    right = expit(features @ [1.5, -1.0] - 3)
    true = (random.random(len(right)) < right).astype(float)
    weights = np.where(true == 1, weight, 1.0)

    def loss(at: np.ndarray) -> tuple[float, np.ndarray]:
        z = features @ at[:2] + at[2]
        slope = weights * (expit(z) - true)
        return float((weights * (np.logaddexp(0, z) - true * z)).mean()), np.append(
            slope @ features, slope.sum()
        ) / len(z)

    fit = minimize(loss, np.zeros(3), jac=True).x
    logits = features @ fit[:2] + fit[2]
    made = written(tmp_path, "pos-weight", {"A": {"shift": np.log(weight)}}, fitted=False)
    corrected = expit(calibration.shift_logits(made, "A", logits))
    assert np.abs(expit(logits) - right).mean() > 0.2
    assert np.abs(corrected - right).mean() < 0.005
    assert corrected.mean() == pytest.approx(true.mean(), rel=0.03)


def logits(counts: list[int]) -> pa.Table:
    """A part with one label of each aggregation."""
    random = np.random.default_rng(0)
    ids = [f"r{i}" for i, count in enumerate(counts) for _ in range(count)]
    columns = {"record_id": ids, "Mean": random.normal(0, 3, len(ids)), "Max": random.normal(0, 3, len(ids))}
    return pa.table(columns)


WANTED = [Label("Mean", "mean", None), Label("Max", "max", None)]


def test_pos_weight_acts_on_segments_and_the_others_on_recordings(tmp_path: Path) -> None:
    table = logits([1, 2, 3, 5])
    frame = table.to_pandas()
    of_recordings = {
        (shift, name): expit(frame[name] - shift).groupby(frame["record_id"], sort=False).agg(how).to_numpy()
        for shift in (0, 1.2)
        for name, how in (("Mean", "mean"), ("Max", "max"))
    }
    made = written(tmp_path, "pos-weight", {name: {"shift": 1.2} for name in ("Mean", "Max")}, fitted=False)
    predicted = aggregate.predict(table, WANTED, made)
    for name in ("Mean", "Max"):
        np.testing.assert_allclose(predicted[name].to_numpy(), of_recordings[1.2, name], rtol=1e-12)

    made = written(tmp_path, "platt", {"Mean": {"slope": 0.5, "intercept": -2.0}})
    predicted = aggregate.predict(table, WANTED, made)
    odds = of_recordings[0, "Mean"] / (1 - of_recordings[0, "Mean"])
    np.testing.assert_allclose(predicted["Mean"].to_numpy(), odds**0.5 / (odds**0.5 + np.exp(2)), rtol=1e-9)
    np.testing.assert_array_equal(predicted["Max"].to_numpy(), of_recordings[0, "Max"])  # not calibrated: as it was

    made = written(tmp_path, "temperature", {"Max": {"temperature": 2.0}})
    predicted = aggregate.predict(table, WANTED, made)
    odds = np.sqrt(of_recordings[0, "Max"] / (1 - of_recordings[0, "Max"]))
    np.testing.assert_allclose(predicted["Max"].to_numpy(), odds / (1 + odds), rtol=1e-9)


def test_probabilities_of_0_and_1_stay_finite(tmp_path: Path) -> None:
    made = written(tmp_path, "platt", {"A": {"slope": 2.0, "intercept": 1.0}})
    calibrated = calibration.calibrate_probability(made, "A", np.array([0.0, 1e-320, 0.5, 1.0]))
    assert np.isfinite(calibrated).all()
    assert calibrated[0] == calibrated[1] < 1e-20
    assert calibrated[-1] == 1


def run(folder: Path, *options: str, output: str = "calibration.json") -> int:
    return main(["calibrate", str(folder), "--output", str(folder / output), *options])


def test_the_command_fits_on_its_split_and_binds_by_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = labelled.write(tmp_path)
    assert run(tmp_path, "--split", "fold", "--on", "9", "--method", "platt") == 0
    read = calibration.read_calibration(tmp_path / "calibration.json")
    fold = made["fold"] == 9
    assert read.labels.keys() == {"Sinus rhythm", "Atrial fibrillation"}
    for name, parameters in read.labels.items():
        score = np.log(made["probability"][name] / (1 - made["probability"][name]))[fold]
        slope, intercept = calibrate.platt(made["true"][name][fold], score)
        assert parameters == {"slope": pytest.approx(slope), "intercept": pytest.approx(intercept)}
    assert read.left == {"Flutter, rare": "no recording of the split is positive"}
    said = capsys.readouterr()
    assert "Flutter, rare: left as it is: no recording of the split is positive" in said.err
    assert "On the recordings that it was fitted on (fold = 9), so optimistic:" in said.out
    lines = said.out.splitlines()
    above, heads = next((lines[i - 1], line) for i, line in enumerate(lines) if line.startswith("label "))
    assert above.split() == ["Brier", "score", "log", "loss"]
    assert heads.split() == ["label", "positive", "recordings", "before", "after", "before", "after"]
    for name in read.labels:
        true, probability = made["true"][name][fold], made["probability"][name][fold]
        after = calibration.calibrate_probability(read, name, probability)
        four = [of(true, p) for of in (brier_score_loss, log_loss_of_sklearn) for p in (probability, after)]
        (row,) = [line for line in lines if line.startswith(name)]
        assert row.removeprefix(name).split()[2:] == [f"{value:.4f}" for value in four]
        assert row.index(f"{four[2]:.4f}") == heads.rindex("before")  # a number stands below its head
    assert read.fitted is not None
    assert {key: read.fitted[key] for key in ("on", "recordings", "patient", "truth_sha256")} == {
        "on": "fold = 9", "recordings": 40, "patient": None, "truth_sha256": None,
    }  # fmt: skip
    assert read.fitted["sha256"] == provenance.hash_file(tmp_path / "calibration.json.fitted.parquet")
    assert read.scores["checkpoint_sha256"] == labelled.CHECKPOINT
    assert read.facts == {
        "method": "platt",
        "sha256": provenance.hash_file(tmp_path / "calibration.json"),
        "fitted": {"on": "fold = 9", "recordings": 40},
        "left": ["Flutter, rare"],
    }


def test_pos_weight_needs_no_labels_and_states_that_it_is_an_assumption(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    labelled.write(tmp_path)
    assert run(tmp_path, "--method", "pos-weight") == 2
    assert "gives no pos_weight for any label of the run" in capsys.readouterr().err
    csv = labelled.csv().replace(",note", ",pos_weight").replace("a note", "8.9", 1).replace("a note", "")
    (tmp_path / "labels.csv").write_text(csv)  # of the first row alone
    assert run(tmp_path, "--method", "pos-weight") == 0
    read = calibration.read_calibration(tmp_path / "calibration.json")
    assert read.labels == {"Atrial fibrillation": {"shift": pytest.approx(np.log(8.9))}}
    assert read.fitted is None
    said = calibration.describe_facts(read.facts)
    assert "an assumption" in said
    assert "not fitted to any label" in said
    assert "Left as they were: Flutter, rare, Sinus rhythm." in said


def test_what_is_calibrated_is_not_calibrated_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    labelled.write(tmp_path, calibration={"sha256": "c" * 64})
    for method in ("platt", "pos-weight"):
        assert run(tmp_path, "--method", method) == 2
        assert "these predictions are calibrated already" in capsys.readouterr().err


def test_parts_of_two_kinds_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    labelled.write(tmp_path / "one")
    labelled.write(tmp_path / "other", checkpoint_sha256="b" * 64)
    part = "predictions/part-00001.parquet"
    (tmp_path / "other" / part).replace(tmp_path / "one" / part)
    assert run(tmp_path / "one", "--method", "platt") == 2
    assert "another checkpoint (0123456789ab, here bbbbbbbbbbbb)" in capsys.readouterr().err


# What the predictions of a part say, and what a calibration or thresholds that do not fit them were made for.
HERE = {
    "checkpoint_sha256": "a" * 64,
    "preprocess": {"segment_samples": 2500},
    "meaning": {"infer": 1},
    "calibration": None,
}


@pytest.mark.parametrize(
    ("other", "says"),
    [
        ({"checkpoint_sha256": "b" * 64}, "another checkpoint (aaaaaaaaaaaa, here bbbbbbbbbbbb)"),
        (
            {"preprocess": {"segment_samples": 5000}},
            "another preprocessing (segment_samples 2500, here segment_samples 5000)",
        ),
        ({"meaning": {"infer": 2}}, "another version of the computation (infer 1, here infer 2)"),
    ],
)
def test_a_calibration_of_other_predictions_is_refused(tmp_path: Path, other: dict[str, Any], says: str) -> None:
    parameters = {"A": {"slope": 1.0, "intercept": 0.0}}
    made = written(tmp_path, "platt", parameters)._replace(scores={**HERE, "aggregation": {"A": "mean"}})
    calibration.refuse_foreign(made, [Label("A", "mean", None)], HERE)
    with pytest.raises(EcgpipeError) as caught:
        calibration.refuse_foreign(made, [Label("A", "mean", None)], {**HERE, **other})
    assert f"was made for predictions of 'A' with {says}; make one" in str(caught.value)


def test_a_calibration_of_another_aggregation_or_of_unknown_labels_is_refused(tmp_path: Path) -> None:
    made = written(tmp_path, "platt", {"A": {"slope": 1.0, "intercept": 0.0}})
    with pytest.raises(EcgpipeError, match=r"'A' with another aggregation \(mean, here max\)"):
        calibration.refuse_foreign(made, [Label("A", "max", None)])
    with pytest.raises(EcgpipeError, match=r"has parameters for unknown labels \(A\); the labels are B"):
        calibration.refuse_foreign(made, [Label("B", "mean", None)])
    # What is done to logits does not ask how they are put together afterwards.
    made = written(tmp_path, "pos-weight", {"A": {"shift": 1.0}}, fitted=False)
    calibration.refuse_foreign(made, [Label("A", "max", None)])


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"method": "platt"}', '{"labels": {"A": 3}, "method": "platt"}'])
def test_a_file_that_is_no_calibration(tmp_path: Path, content: str) -> None:
    (tmp_path / "x.json").write_text(content)
    with pytest.raises(EcgpipeError, match=r"^calibration: cannot read .*x\.json: .*write it again"):
        calibration.read_calibration(tmp_path / "x.json")
    with pytest.raises(EcgpipeError, match=r"^calibration: 'no\.json' is not a file"):
        calibration.read_calibration(Path("no.json"))


def aggregated(folder: Path, *options: str, labels: str = "labels.csv") -> int:
    """Aggregate the logits that lie in a folder."""
    files = {"--logits": "logits.parquet", "--labels": labels, "--predictions": "predictions/part-00000.parquet"}
    paths = [text for option, name in files.items() for text in (option, str(folder / name))]
    return main(["aggregate", *paths, *options])


def test_from_logits_to_thresholds_on_calibrated_predictions(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Aggregate, calibrate, aggregate again, choose thresholds: each says what it was made of, and none is mixed up."""
    made = labelled.write(tmp_path)
    facts = {"checkpoint_sha256": labelled.CHECKPOINT, "preprocess": {"segment_samples": 2500}}
    rows = {
        "record_id": made["ids"],
        "segment": pa.array([0] * 400, pa.int32()),
        "start_s": pa.array([0.0] * 400, pa.float32()),
    }
    columns = {name: pa.array(calibration.compute_logit(made["probability"][name]), pa.float32()) for name in LABELS}
    schema = provenance.add_origin(schemas.logits_schema(LABELS), "infer", {"preprocess": 1}, **facts)
    parquet.write(tmp_path / "logits.parquet", pa.table({**rows, **columns}, schema=schema))
    (tmp_path / "predictions/part-00001.parquet").unlink()
    assert aggregated(tmp_path) == 0
    plain = pq.read_table(tmp_path / "predictions/part-00000.parquet")
    fold8 = ["--split", "fold", "--on", "8"]
    assert run(tmp_path, *fold8, "--method", "platt") == 0
    chosen = ["thresholds", str(tmp_path), *fold8, "--method", "youden", "--output"]
    assert main([*chosen, str(tmp_path / "plain.csv")]) == 0

    given = ["--calibration", str(tmp_path / "calibration.json")]
    assert aggregated(tmp_path, *given) == 0
    calibrated = pq.read_table(tmp_path / "predictions/part-00000.parquet")
    assert calibrated["record_id"].equals(plain["record_id"])
    read = calibration.read_calibration(tmp_path / "calibration.json")
    assert provenance.read_origin(calibrated.schema)["calibration"] == read.facts
    assert "calibration" not in provenance.read_origin(plain.schema)
    for name in LABELS:
        expected = calibration.calibrate_probability(read, name, plain[name].to_numpy())
        np.testing.assert_allclose(calibrated[name].to_numpy(), expected, rtol=1e-12)
    assert main([*chosen, str(tmp_path / "calibrated.csv")]) == 0

    capsys.readouterr()
    assert aggregated(tmp_path, *given, labels="plain.csv") == 2
    assert "was chosen on predictions with another calibration (none, here " in capsys.readouterr().err
    assert aggregated(tmp_path, labels="calibrated.csv") == 2
    assert f"another calibration ({read.sha256[:12]}, here none)" in capsys.readouterr().err
    assert aggregated(tmp_path, *given, labels="calibrated.csv") == aggregated(tmp_path, labels="plain.csv") == 0
