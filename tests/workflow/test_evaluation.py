"""Predictions against true labels in a whole run: CODE-15%'s layout by a mapping, and a table of one's own."""

import json
import re
from pathlib import Path

import checkpoints
import h5py
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from report_page import Page
from run_workflow import Ran, snakemake, table
from sklearn.metrics import brier_score_loss, roc_auc_score

pytestmark = pytest.mark.slow  # a minute and a half

AV_BLOCK, AF, OTHER = "1st degree atrioventricular block", "Atrial fibrillation", "Other"
EXAMS = 24


def write_code15(root: Path) -> None:
    """Exams of noise, two of each patient; one is not in exams.csv, and one cannot be used."""
    root.mkdir()
    random = np.random.default_rng(5)
    ids = 1000 + random.permutation(EXAMS)
    tracings = random.standard_normal((EXAMS, 4096, 12)).astype(np.float32)
    tracings[3, :, :] = np.nan  # skipped, though its truth is known
    with h5py.File(root / "exams_part0.hdf5", "w") as file:
        file["tracings"], file["exam_id"] = tracings, ids
    exams = pd.DataFrame({"exam_id": ids, "age": 20 + 3 * np.arange(EXAMS), "is_male": np.arange(EXAMS) % 2 == 0})
    for column in ("1dAVb", "RBBB", "LBBB", "SB", "ST", "AF"):
        exams[column] = random.random(EXAMS) < 0.5
    exams = exams.assign(patient_id=500 + np.arange(EXAMS) // 2, trace_file="exams_part0.hdf5")
    exams = exams.assign(nn_predicted_age=50.0, death=False, timey=1.0, normal_ecg=False)
    exams.drop(index=7).sample(frac=1, random_state=1).to_csv(root / "exams.csv", index=False)


def run(folder: Path, *options: str, **settings: object) -> Ran:
    given = {"input": "code15", "checkpoint": "x.pt", "labels": "labels.csv", "outdir": "out"}
    given |= {"attribution": "{recordings: 0}", "manifest": "{shard_size: 10}", "inference": "{shards_per_part: 1}"}
    return snakemake(folder, *options, **(given | settings))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    write_code15(folder / "code15")
    (folder / "labels.csv").write_text(f"name,aggregation,threshold\n{OTHER},max,\n{AV_BLOCK},mean,0.4\n{AF},mean,\n")
    (folder / "x.pt").write_bytes(checkpoints.saved(checkpoints.classifier(stride=4)))
    mapping = f"{{1dAVb: {AV_BLOCK}, AF: {AF}}}"
    evaluation = f"{{mapping: {mapping}, patient: patient_id, subgroups: ['is_male', 'age:45,70'], resamples: 30}}"
    ran = run(folder, evaluation=evaluation)
    assert ran.status == 0, ran.output
    assert ran.jobs["evaluate"] == 1
    return folder


def truth_beside_predictions(folder: Path) -> pd.DataFrame:
    exams = pd.read_csv(folder / "code15/exams.csv").assign(
        record_id=lambda exams: [f"exams_part0/{exam}" for exam in exams["exam_id"]]
    )
    return exams.merge(table(folder / "out/predictions"), on="record_id")


def test_metrics_are_of_the_exams_own_labels_whatever_shard_they_are_in(finished: Path) -> None:
    frame = truth_beside_predictions(finished)
    found = pq.read_table(finished / "out/evaluation/metrics.parquet").to_pandas()
    everyone = found[found.subgroup == ""].set_index(["label", "metric", "average"])
    for column, label in (("1dAVb", AV_BLOCK), ("AF", AF)):
        auroc = everyone.loc[(label, "auroc", "label")]
        assert auroc.value == pytest.approx(roc_auc_score(frame[column], frame[label]))
        assert everyone.loc[(label, "brier", "label")].value == pytest.approx(
            brier_score_loss(frame[column], frame[label])
        )
        assert (auroc.n, auroc.n_patients) == (len(frame), frame.patient_id.nunique())
    men = found[(found.subgroup == "is_male") & (found.subgroup_value == "true") & (found.label == AF)]
    assert men.set_index("metric").loc["auroc"].value == pytest.approx(
        roc_auc_score(frame[frame.is_male].AF, frame[frame.is_male][AF])
    )
    assert set(found.label) == {"", AV_BLOCK, AF}


def test_the_account_says_what_has_no_prediction_or_no_truth(finished: Path) -> None:
    account = json.loads((finished / "out/evaluation/account.json").read_text())
    frame = truth_beside_predictions(finished)
    assert account["recordings"]["evaluated"] == len(frame) == EXAMS - 2
    assert account["recordings"]["without_truth"] == 1
    assert account["recordings"]["truth_without_prediction"] == {"skipped": 1, "failed": 0, "not_in_the_run": 0}
    assert account["labels_without_truth"] == [OTHER]
    assert account["labels"][AV_BLOCK]["threshold"] == 0.4


def test_the_report_has_the_numbers_and_the_curves(finished: Path) -> None:
    page = Page(finished / "out/report.html")
    assert "Against true labels" in page.text
    assert [one["name"] for one in page.get("evaluation")] == [AV_BLOCK, AF]
    found = pq.read_table(finished / "out/evaluation/metrics.parquet").to_pandas()
    [auroc] = found[(found.label == AF) & (found.metric == "auroc") & (found.subgroup == "")].value
    assert f"{auroc:.3f}" in page.text
    assert re.search(r'<a href="evaluation">', page.source)


def test_the_true_labels_reach_the_page_and_the_choice_of_examples(finished: Path) -> None:
    frame = truth_beside_predictions(finished).set_index("record_id")
    true = pq.read_table(finished / "out/evaluation/true_labels.parquet").to_pandas().set_index("record_id")
    known = true[true.is_evaluated]
    assert known[AF].astype(bool).to_dict() == frame.AF.astype(bool).to_dict()
    assert Page(finished / "out/report.html").source.count("least certain</button>") == 2
    chosen = pq.read_table(finished / "out/examples.parquet").to_pylist()
    wrong = [(row["record_id"], why) for row in chosen for why in row["why"] if why["kind"].startswith("false_")]
    assert all(bool(known[why["what"]][name]) == (why["kind"] == "false_negative") for name, why in wrong)


def test_a_table_of_ones_own_evaluates_anew_and_infers_nothing(finished: Path) -> None:
    predicted = table(finished / "out/predictions")
    own = pd.DataFrame({"record_id": predicted.record_id[::-1], OTHER: np.arange(len(predicted)) % 2})
    own.to_csv(finished / "own.csv", index=False)
    ran = run(finished, evaluation="{truth: own.csv, resamples: 10}")
    assert ran.status == 0, ran.output
    assert ran.jobs.keys() - {"manifest", "all"} == {"evaluate", "examples", "summary", "report", "figures", "verdict"}
    found = pq.read_table(finished / "out/evaluation/metrics.parquet").to_pandas()
    joined = own.merge(predicted, on="record_id", suffixes=("", "_p"))
    expected = roc_auc_score(joined[OTHER], joined[f"{OTHER}_p"])
    assert found[(found.label == OTHER) & (found.metric == "auroc")].value.item() == pytest.approx(expected)


def test_after_an_evaluation_that_fails_at_its_own_stage_no_report_shows_the_one_before(finished: Path) -> None:
    """Only the predictions tell that the one recording of the split has none."""
    records = table(finished / "out/records")
    own = pd.DataFrame({"record_id": records.record_id, OTHER: np.arange(len(records)) % 2})
    own["fold"] = np.where(records.status == "skipped", "test", "train")
    own.to_csv(finished / "folds.csv", index=False)
    evaluation = "truth: folds.csv, resamples: 10, split: fold, split_value"
    ran = run(finished, "out/report.html", evaluation=f"{{{evaluation}: train}}")
    assert ran.status == 0, ran.output
    report = finished / "out/report.html"
    assert "fold = train" in Page(report).text

    ran = run(finished, "out/report.html", evaluation=f"{{{evaluation}: test}}")
    assert ran.status != 0
    assert ran.jobs["evaluate"] == 1
    assert "[evaluate] error: split: no recording has 'test'" in ran.output
    assert not report.exists()
    assert not (finished / "out/evaluation/metrics.parquet").exists()
    assert "report.html: it showed an outdated evaluation; the next run writes it again" in ran.output

    ran = run(finished, "out/report.html", evaluation=f"{{{evaluation}: train}}")
    assert ran.status == 0, ran.output
    assert "fold = train" in Page(report).text


def test_without_true_labels_nothing_is_evaluated(finished: Path) -> None:
    assert "evaluate" not in run(finished, "--dry-run").jobs


@pytest.mark.parametrize(
    ("evaluation", "says"),
    [
        ("{truth: nowhere.csv}", "evaluation.truth: 'nowhere.csv' is not a file; check the path"),
        ("{mapping: {AF: Atrial fibrilation}}", "'Atrial fibrilation' is not a label of the label file; did you mean"),
        ("{patient: patient_id}", "evaluation: neither truth nor mapping is given"),
        ("{mapping: {AF: Atrial fibrillation}, split: fold}", "give both or neither"),
    ],
)
def test_a_mistake_in_the_settings_is_told_before_any_job(evaluation: str, says: str, finished: Path) -> None:
    ran = run(finished, evaluation=evaluation)
    assert ran.status != 0
    assert says in ran.output
    assert not ran.jobs
    assert "Traceback" not in ran.output
