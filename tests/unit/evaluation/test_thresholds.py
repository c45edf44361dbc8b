"""Operating points: thresholds that are the best by their rule on the split that they were chosen on."""

from pathlib import Path
from typing import Any

import labelled
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from labelled import LABELS
from sklearn.metrics import confusion_matrix, f1_score, precision_recall_curve, roc_curve

from ecgpipe.cli import main
from ecgpipe.core import provenance
from ecgpipe.core.errors import EcgpipeError
from ecgpipe.evaluation import thresholds
from ecgpipe.evaluation.thresholds import Choice, Method, choose, count_points
from ecgpipe.models import labels


def sample(seed: int, recordings: int = 300, steps: int = 20) -> tuple[np.ndarray, np.ndarray]:
    """True labels and scores, with ties among them."""
    random = np.random.default_rng(seed)
    score = np.round(random.random(recordings) * steps) / steps
    true = (random.random(recordings) < 0.1 + 0.6 * score).astype(float)
    return true, score


def chosen_on(true: np.ndarray, score: np.ndarray, method: str, least: float = 0) -> Choice:
    return choose(count_points(true, score), Method(method, least))


def test_youden_as_the_roc_curve_of_scikit_learn_has_it() -> None:
    for seed in range(50):
        true, score = sample(seed)
        fpr, tpr, _ = roc_curve(true, score, drop_intermediate=False)
        chosen = chosen_on(true, score, "youden")
        assert chosen.sensitivity + chosen.specificity - 1 == pytest.approx((tpr - fpr).max(), abs=1e-12)


def test_f1_as_the_precision_recall_curve_of_scikit_learn_has_it() -> None:
    for seed in range(50):
        true, score = sample(seed)
        precision, recall, _ = precision_recall_curve(true, score)
        with np.errstate(invalid="ignore"):
            best = np.nanmax(2 * precision * recall / (precision + recall))
        assert chosen_on(true, score, "f1").f1 == pytest.approx(best, abs=1e-12)


def test_the_numbers_are_those_that_the_threshold_gives() -> None:
    for seed in range(20):
        true, score = sample(seed)
        for method, least in (("youden", 0), ("f1", 0), ("sensitivity", 0.9), ("specificity", 0.9)):
            chosen = chosen_on(true, score, method, least)
            positive = score >= chosen.threshold
            tn, fp, fn, tp = confusion_matrix(true, positive).ravel()
            assert chosen.sensitivity == pytest.approx(tp / (tp + fn))
            assert chosen.specificity == pytest.approx(tn / (tn + fp))
            assert chosen.ppv == pytest.approx(tp / (tp + fp))
            assert chosen.f1 == pytest.approx(f1_score(true, positive))
            assert (chosen.positives, chosen.recordings) == (true.sum(), len(true))


scored = st.lists(
    st.tuples(st.booleans(), st.sampled_from([0.0, 1e-300, 0.1, 0.3, 0.5, 0.7, 1.0])), min_size=2, max_size=40
)


@given(rows=scored, least=st.floats(0.01, 1))
@settings(deadline=None)
def test_a_sensitivity_is_reached_and_by_no_higher_threshold(rows: list[tuple[bool, float]], least: float) -> None:
    true, score = (np.array(column, float) for column in zip(*rows, strict=True))
    chosen = chosen_on(true, score, "sensitivity", least)
    if chosen.threshold is None:
        assert not 0 < true.sum() < len(true)
        return
    assert (score[true == 1] >= chosen.threshold).mean() >= least
    for higher in np.unique(score[score > chosen.threshold]):
        if (score >= higher).sum() < (score >= chosen.threshold).sum():
            assert (score[true == 1] >= higher).mean() < least


@given(rows=scored, least=st.floats(0.01, 1))
@settings(deadline=None)
def test_a_specificity_is_reached_and_by_no_lower_threshold(rows: list[tuple[bool, float]], least: float) -> None:
    true, score = (np.array(column, float) for column in zip(*rows, strict=True))
    chosen = chosen_on(true, score, "specificity", least)
    if chosen.threshold is None:
        one_class = not 0 < true.sum() < len(true)
        assert one_class or (score[true == 0] < 1).mean() < least
        return
    assert (score[true == 0] < chosen.threshold).mean() >= least
    for lower in np.unique(score[score < chosen.threshold]):
        assert (score[true == 0] < lower).mean() < least


def test_a_threshold_stands_between_scores_so_that_small_differences_change_nothing() -> None:
    chosen = chosen_on(np.array([0, 0, 1, 1.0]), np.array([0.1, 0.2, 0.6, 0.9]), "youden")
    assert chosen.threshold == pytest.approx(0.4)
    one = 0.3
    another = np.nextafter(one, 1)  # with no number in between
    assert chosen_on(np.array([0, 1.0]), np.array([one, another]), "youden").threshold == another
    assert chosen_on(np.array([0, 1.0]), np.array([0.5, 0.0]), "sensitivity", 1.0).threshold == 0


def test_what_is_unknown_does_not_count() -> None:
    true, score = sample(3)
    more = np.append(true, [np.nan] * 50), np.append(score, np.full(50, 0.99))
    assert chosen_on(*more, "f1") == chosen_on(true, score, "f1")


def run(folder: Path, *options: str) -> int:
    output = ["--output", str(folder / "chosen.csv")]
    return main(["thresholds", str(folder), *output, *options])


@pytest.fixture
def made(tmp_path: Path) -> dict[str, Any]:
    return labelled.write(tmp_path)


def test_the_command_chooses_on_its_split_and_binds_by_name(
    tmp_path: Path, made: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tmp_path, "--split", "fold", "--on", "8", "--method", "sensitivity=0.9") == 0
    fold = made["fold"] == 8
    by_name = {label.name: label for label in labels.read(tmp_path / "chosen.csv")}
    assert list(by_name) == sorted(LABELS)  # the rows of the given file
    printed = capsys.readouterr().out
    assert "so optimistic" in printed
    for name in LABELS:
        expected = chosen_on(made["true"][name][fold], made["probability"][name][fold], "sensitivity", 0.9)
        assert by_name[name].threshold == expected.threshold
        line = next(line for line in printed.splitlines() if line.startswith(f"{name} "))
        numbers = [f"{value:.3f}" for value in (expected.sensitivity, expected.specificity, expected.ppv, expected.f1)]
        assert line.removeprefix(name).split() == [f"{expected.threshold:.4g}", *numbers, str(expected.positives), "40"]


def test_the_label_file_keeps_its_columns_and_states_where_its_thresholds_come_from(
    tmp_path: Path, made: dict[str, Any]
) -> None:
    truth = tmp_path / "truth.csv"
    pd.DataFrame({"record_id": made["ids"], "AF": made["true"][LABELS[1]], "fold": made["fold"]}).to_csv(
        truth, index=False
    )
    options = ["--truth", str(truth), "--map", f"AF={LABELS[1]}"]
    assert run(tmp_path, *options, "--split", "fold", "--on", "8", "--method", "youden") == 0
    frame = pd.read_csv(tmp_path / "chosen.csv").set_index("name")
    assert list(frame.columns) == ["aggregation", "threshold", "note", "threshold_from"]
    assert set(frame["note"]) == {"a note"}
    assert frame["threshold"].notna().to_dict() == {name: name == LABELS[1] for name in sorted(LABELS)}
    found = {label.name: label for label in labels.read(tmp_path / "chosen.csv")}[LABELS[1]].threshold_from
    assert found is not None
    assert (found["method"], found["recordings"], found["on"]) == ("youden", 40, "fold = 8")
    assert found["truth_sha256"] == provenance.hash_file(truth)
    assert found["scores"] == {
        "checkpoint_sha256": labelled.CHECKPOINT,
        "preprocess": {"sample_rate": 500, "segment_samples": 2500},
        "meaning": {"preprocess": 1, "infer": 1, "aggregate": provenance.MEANING["aggregate"]},
        "calibration": None,
        "aggregation": "mean",
    }
    beside = tmp_path / "chosen.csv.fitted.parquet"
    assert found["fitted"] == provenance.hash_file(beside)
    assert pq.read_schema(beside).names == ["what", "hash"]
    assert provenance.read_origin(pq.read_schema(beside))["recordings"] == 40
    assert b"r/16" not in beside.read_bytes()  # a recording of fold 8


def test_a_label_with_one_class_only_has_no_threshold_and_it_is_said(
    tmp_path: Path, made: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tmp_path, "--split", "fold", "--on", "9", "--method", "f1") == 0
    by_name = {label.name: label for label in labels.read(tmp_path / "chosen.csv")}
    assert by_name["Flutter, rare"].threshold is None
    assert by_name["Flutter, rare"].threshold_from is None
    assert by_name["Sinus rhythm"].threshold is not None
    assert "Flutter, rare: no threshold: no recording of the split is positive" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--method", "roc"], "--method: 'roc' is not valid; give youden"),
        (["--method", "sensitivity"], "--method: 'sensitivity' is not valid"),
        (["--method", "sensitivity=90"], "--method: 'sensitivity=90' is not valid"),
        (["--method", "f1=0.5"], "--method: 'f1=0.5' is not valid"),
        (["--method", "f1", "--split", "fold"], "--split, --on: "),
        (["--method", "f1", "--split", "fold", "--on", "12"], "no recording has '12'; there are 0, 1, 2"),
        (["--method", "f1", "--split", "folds", "--on", "1"], "did you mean 'fold'?"),
        (["--method", "f1", "--outdir", "nowhere"], "and --outdir nowhere are given; leave out --outdir"),
    ],
)
def test_mistakes(
    tmp_path: Path, made: dict[str, Any], options: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tmp_path, *options) == 2
    assert says in capsys.readouterr().err
    assert not (tmp_path / "chosen.csv").exists()


def test_a_run_that_is_not_there_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["thresholds", "nowhere", "--method", "f1", "--output", "x.csv"]) == 2
    assert "outdir: there is no folder nowhere; give the folder of a finished run" in capsys.readouterr().err


def test_a_label_file_that_aggregates_otherwise_than_the_run_is_refused(
    tmp_path: Path, made: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "labels.csv").write_text(labelled.csv().replace("max", "mean"))
    assert run(tmp_path, "--method", "f1") == 2
    assert "'Flutter, rare' is aggregated by mean, but by max in the run" in capsys.readouterr().err


def test_thresholds_that_were_edited_afterwards_are_noticed(tmp_path: Path, made: dict[str, Any]) -> None:
    assert run(tmp_path, "--method", "f1") == 0
    path = tmp_path / "chosen.csv"
    threshold = labels.read(path)[0].threshold
    path.write_text(path.read_text().replace(f"mean,{threshold},", "mean,0.25,"))
    with pytest.raises(EcgpipeError, match=r"the threshold is 0.25, but threshold_from says that .* was chosen"):
        labels.read(path)


def test_the_table_has_a_dash_where_there_is_no_number() -> None:
    lines = thresholds.format_table(
        {"A": Choice(None, np.nan, np.nan, np.nan, np.nan, 0, 10), "B": Choice(0.5, 1, 1, 1, 1, 2, 3)}, "Head"
    )
    assert lines[3].split() == ["A", *"-----", "0", "10"]
    assert lines[4].split() == ["B", "0.5", *["1.000"] * 4, "2", "3"]
