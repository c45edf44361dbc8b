"""Predictions against true labels: what is measured, over whom, and what is counted beside it."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sklearn import metrics as sklearn_metrics
from sklearn.calibration import calibration_curve

from ecgpipe.cli import main
from ecgpipe.core import parquet, provenance, schemas
from ecgpipe.evaluation import curves, ground_truth, metrics

AF, LBBB, PACED = "Atrial fibrillation", "Left bundle branch block", "Electronic pacemaker"
RECORDINGS = 240


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A run of 240 recordings of 80 patients in two parts, and true labels in another order, some of others."""
    random = np.random.default_rng(1)
    ids = [f"r{i:03d}" for i in range(RECORDINGS)]
    names = [PACED, AF, LBBB]
    predictions = pd.DataFrame({"record_id": ids, "n_segments": np.int32(2)})
    truth = pd.DataFrame({"record_id": ids})
    for name, share in zip(names, (0, 0.3, 0.5), strict=True):
        true = random.random(RECORDINGS) < share
        predictions[name] = np.round(np.clip(random.normal(0.4, 0.2, RECORDINGS) + 0.25 * true, 0, 1), 2)
        truth[name] = true.astype(float)
    truth.loc[:9, [*names]] = np.nan  # of ten nothing is known
    truth.loc[10:29, AF] = np.nan
    beside: dict[str, Any] = {
        "patient": [f"p{i % 80}" for i in range(RECORDINGS)],
        "sex": ["F" if i % 3 else "M" for i in range(RECORDINGS)],
        "age": [float(20 + i % 70) if i % 7 else np.nan for i in range(RECORDINGS)],
        "fold": [float(i % 10) for i in range(RECORDINGS)],
    }
    truth = truth.assign(**beside)
    others = pd.DataFrame({"record_id": ["gone", "short", "broken"], AF: [1.0, 0.0, 1.0], "patient": "p900"})
    shuffled = pd.concat([truth, others]).sample(frac=1, random_state=3)
    shuffled.to_csv(tmp_path / "truth.csv", index=False)
    for part, rows in enumerate([predictions[:100], predictions[100:]]):
        table = pa.Table.from_pandas(rows, schema=schemas.predictions_schema(names), preserve_index=False)
        parquet.write(tmp_path / f"predictions/part-{part:05d}.parquet", table)
    records = [{"record_id": name, "status": "ok", "site": "here"} for name in ids]
    records += [{"record_id": "short", "status": "skipped"}, {"record_id": "broken", "status": "failed"}]
    parquet.write(tmp_path / "records/shard-00000.parquet", pa.Table.from_pylist(records))
    (tmp_path / "labels.csv").write_text(f"name,aggregation,threshold\n{PACED},max,\n{AF},mean,0.55\n{LBBB},mean,\n")
    return tmp_path


def evaluated(folder: Path, *options: str, truth: bool = True, status: int = 0) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Run the stage, and return its metrics, one row each, and its account."""
    paths = {"predictions": "predictions", "records": "records", "labels": "labels.csv"}
    paths |= {"metrics": "out/metrics.parquet", "curves": "out/curves.parquet", "account": "out/account.json"}
    paths["true-labels"] = "out/true_labels.parquet"
    paths |= {"truth": "truth.csv"} if truth else {}
    given = [text for option, path in paths.items() for text in (f"--{option}", str(folder / path))]
    assert main(["evaluate", *given, "--resamples", "40", *options]) == status
    if status:
        return pd.DataFrame(), {}
    account = json.loads((folder / "out/account.json").read_text())
    return pq.read_table(folder / "out/metrics.parquet").to_pandas(), account


def value(
    table: pd.DataFrame, metric: str, label: str = "", average: str = "label", subgroup: str = "", of: str = ""
) -> Any:  # noqa: ANN401, a row
    [row] = table[
        (table.metric == metric)
        & (table.label == label)
        & (table.average == average)
        & (table.subgroup == subgroup)
        & (table.subgroup_value == of)
    ].itertuples()
    return row


def joined(folder: Path) -> pd.DataFrame:
    """Predictions beside the truth by record id, as pandas joins them: columns LABEL (truth) and LABEL_p."""
    truth = pd.read_csv(folder / "truth.csv")
    return truth.merge(pd.read_parquet(folder / "predictions"), on="record_id", suffixes=("", "_p"))


def test_each_label_is_held_against_the_truth_of_its_own_name_and_recordings(folder: Path) -> None:
    table, _ = evaluated(folder)
    frame = joined(folder)
    for label, threshold in ((AF, 0.55), (LBBB, 0.5)):
        known = frame[frame[label].notna()]
        row = value(table, "auroc", label)
        assert row.value == pytest.approx(sklearn_metrics.roc_auc_score(known[label], known[f"{label}_p"]))
        assert row.low < row.value < row.high
        assert (row.n, row.n_positive) == (len(known), known[label].sum())
        ppv = sklearn_metrics.precision_score(known[label], known[f"{label}_p"] >= threshold)
        assert value(table, "ppv", label).value == pytest.approx(ppv)
    both = [value(table, "auroc", label).value for label in (AF, LBBB)]
    assert value(table, "auroc", average="macro").value == pytest.approx(np.mean(both))


def test_what_was_not_counted_is_counted(folder: Path) -> None:
    _, account = evaluated(folder)
    assert account["recordings"] == {
        "predicted": 240,
        "without_truth": 10,
        "with_truth": 230,
        "outside_split": 0,
        "evaluated": 230,
        "truth_without_prediction": {"skipped": 1, "failed": 1, "not_in_the_run": 1},
    }
    assert account["labels_with_one_class"] == [PACED]
    assert account["labels"][AF]["unknown"] == 20
    assert account["labels"][AF]["threshold_from"] == "the label file"
    assert account["labels"][LBBB]["threshold_from"] == "the default"
    assert account["intervals"]["unit"] == "recording"


def test_a_label_of_one_class_has_no_auroc_and_reports_it(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table, _ = evaluated(folder)
    assert np.isnan(value(table, "auroc", PACED).value)
    assert value(table, "specificity", PACED).value > 0
    assert pq.read_table(folder / "out/metrics.parquet")["value"].null_count > 0  # not NaN, which averages to NaN
    told = capsys.readouterr().err
    assert f"One class only, so no AUROC, and not in the macro average: {PACED}.\n" in told
    assert "230 recordings evaluated; 10 predicted without a true label" in told
    assert f"which do not count for it: {AF} 20.\n" in told
    assert set(pq.read_table(folder / "out/curves.parquet")["label"].to_pylist()) == {AF, LBBB}


def test_the_true_labels_of_each_recording_and_whether_it_was_evaluated(folder: Path) -> None:
    evaluated(folder, "--split", "fold", "--split-value", "3")
    table = pq.read_table(folder / "out/true_labels.parquet").to_pandas().set_index("record_id")
    assert list(table.columns) == ["is_evaluated", PACED, AF, LBBB]
    predicted = pd.read_parquet(folder / "predictions")["record_id"]
    assert list(table.index) == list(predicted)
    truth = pd.read_csv(folder / "truth.csv").set_index("record_id").reindex(table.index)
    for label in (PACED, AF, LBBB):
        assert [None if v is None else float(v) for v in table[label]] == truth[label].replace({np.nan: None}).tolist()
    known = truth[[PACED, AF, LBBB]].notna().any(axis=1)
    assert table["is_evaluated"].tolist() == ((truth["fold"] == 3) & known).tolist()


def test_a_label_without_a_column_is_named(folder: Path) -> None:
    frame = pd.read_csv(folder / "truth.csv").drop(columns=LBBB)
    frame.rename(columns={AF: "AF"}).to_csv(folder / "truth.csv", index=False)
    table, account = evaluated(folder, "--map", f"AF={AF}")
    assert account["labels_without_truth"] == [LBBB]
    assert set(table.label) == {PACED, AF, ""}


def test_patients_are_what_is_resampled(folder: Path) -> None:
    alone, _ = evaluated(folder)
    table, account = evaluated(folder, "--patient", "patient")
    assert account["intervals"]["patients"] == 80
    assert account["intervals"]["unit"] == "patient"
    row = value(table, "auroc", AF)
    assert (row.n, row.n_patients) == (210, 80)
    assert row.value == value(alone, "auroc", AF).value
    assert row.low != value(alone, "auroc", AF).low
    origin = provenance.read_origin(pq.read_schema(folder / "out/metrics.parquet"))
    assert origin["intervals"]["patient_column"] == "patient"


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_patients_that_are_not_a_number_are_nobody_and_not_one_patient(folder: Path, suffix: str) -> None:
    frame = pd.read_csv(folder / "truth.csv")
    frame["patient"] = [np.nan if i % 4 == 0 else i // 2 for i in range(len(frame))]
    table = pa.table({name: pa.array(frame[name], from_pandas=name != "patient") for name in frame})
    if suffix == "parquet":
        parquet.write(folder / "truth.parquet", table)
    else:
        frame.to_csv(folder / "truth.csv", index=False, na_rep="NaN")
    _, account = evaluated(folder, "--patient", "patient", "--truth", str(folder / f"truth.{suffix}"))
    predicted = frame[frame.record_id.str.startswith("r") & frame[[PACED, AF, LBBB]].notna().any(axis=1)]
    alone = predicted["patient"].isna().sum()
    assert account["intervals"]["without_patient"] == alone > 0
    assert account["intervals"]["patients"] == alone + predicted["patient"].nunique()


def test_a_prediction_that_is_not_a_number_counts_in_no_metric_and_no_curve_and_that_is_said(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = folder / "predictions/part-00000.parquet"
    table = pq.read_table(path)
    values = table[AF].to_numpy().copy()
    values[40:60] = np.nan
    parquet.write(path, table.set_column(table.column_names.index(AF), table.schema.field(AF), pa.array(values)))
    measured, account = evaluated(folder)
    frame = joined(folder)
    usable = frame[frame[AF].notna() & frame[f"{AF}_p"].notna()]
    left = frame[AF].notna().sum() - len(usable)
    assert left == 20
    assert account["labels"][AF]["not_predicted"] == left
    assert account["labels"][AF]["known"] == len(usable)
    assert account["labels"][LBBB]["not_predicted"] == 0
    for metric in metrics.METRICS:
        assert value(measured, metric, AF).n == len(usable)
        assert value(measured, metric, AF).n_positive == usable[AF].sum()
    assert value(measured, "auroc", AF).value == pytest.approx(
        sklearn_metrics.roc_auc_score(usable[AF], usable[f"{AF}_p"])
    )
    curves = pq.read_table(folder / "out/curves.parquet").to_pandas()
    roc = curves[(curves.label == AF) & (curves.curve == "roc")]
    assert np.trapezoid(roc.y, roc.x) == pytest.approx(value(measured, "auroc", AF).value)
    bins = curves[(curves.label == AF) & (curves.curve == "calibration")]
    assert bins.n.sum() == len(usable)
    assert f"which do not count for it: {AF} 20." in capsys.readouterr().err


def test_a_recording_without_a_patient_is_one_of_its_own() -> None:
    assert len(set(ground_truth.number_patients(pa.array(["a", None, "b", None, "a"])).tolist())) == 4
    numbers = ground_truth.number_patients(pa.array([7.0, None, 7.0]))
    assert numbers[0] == numbers[2] != numbers[1]


def test_only_the_recordings_of_a_split_are_measured(folder: Path) -> None:
    table, account = evaluated(folder, "--split", "fold", "--split-value", "9")
    frame = joined(folder)
    known = frame[(frame.fold == 9) & frame[LBBB].notna()]
    assert account["recordings"]["evaluated"] == len(known) == 23
    expected = sklearn_metrics.roc_auc_score(known[LBBB], known[f"{LBBB}_p"])
    assert value(table, "auroc", LBBB).value == pytest.approx(expected)


def test_subgroups_are_measured_by_value_and_by_band(folder: Path) -> None:
    table, account = evaluated(folder, "--subgroups", "sex", "age:40,65")
    frame = joined(folder)
    groups = {
        ("sex", "F"): frame.sex == "F",
        ("sex", "M"): frame.sex == "M",
        ("age", "below 40"): frame.age < 40,
        ("age", "40 to below 65"): (frame.age >= 40) & (frame.age < 65),
        ("age", "65 and above"): frame.age >= 65,
    }
    assert set(zip(table.subgroup, table.subgroup_value, strict=True)) == {("", ""), *groups}
    for (column, of), rows in groups.items():
        known = frame[rows & frame[AF].notna()]
        row = value(table, "auroc", AF, subgroup=column, of=of)
        assert row.n == len(known)
        assert row.value == pytest.approx(sklearn_metrics.roc_auc_score(known[AF], known[f"{AF}_p"]))
    assert account["subgroups"]["age"]["unknown"] == frame[frame[LBBB].notna()].age.isna().sum()
    assert sum(account["subgroups"]["sex"].values()) == 230


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--subgroups", "patient"], "'patient' has 80 values, more than 30; of a number give the edges"),
        (["--subgroups", "age:65,40"], "the edges of 'age:65,40' do not rise"),
        (["--subgroups", "sex:1,2"], "'sex' has edges, but not only numbers"),
        (["--subgroups", "sec"], "'sec' is no column of"),
        (["--split", "fold"], "give both or neither"),
        (["--split", "fold", "--split-value", "77"], "no recording has '77'"),
        (["--map", f"AFib={AF}"], "'AFib' is no column of"),
    ],
)
def test_mistakes_are_reported_with_their_fix(
    options: list[str], said: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    evaluated(folder, *options, status=2)
    assert said in capsys.readouterr().err
    assert not (folder / "out").exists()


def test_the_columns_of_the_inputs_do_without_a_table(folder: Path) -> None:
    frame = pd.read_csv(folder / "truth.csv")
    records = pd.read_parquet(folder / "records").merge(
        frame[["record_id", LBBB, "sex"]].rename(columns={LBBB: "lbbb"}), on="record_id", how="left"
    )
    table = pa.Table.from_pandas(records, preserve_index=False)
    parquet.write(folder / "records/shard-00000.parquet", table)
    found, account = evaluated(folder, "--map", f"lbbb={LBBB}", "--subgroups", "sex", truth=False)
    known = joined(folder)
    known = known[known[LBBB].notna()]
    expected = sklearn_metrics.roc_auc_score(known[LBBB], known[f"{LBBB}_p"])
    assert value(found, "auroc", LBBB).value == pytest.approx(expected)
    assert account["recordings"]["truth_without_prediction"] == {"skipped": 0, "failed": 0, "not_in_the_run": 0}


# Curves


@pytest.mark.parametrize("recordings", [50, 20_000])
def test_curves_are_those_of_scikit_learn_and_thinning_keeps_their_areas(recordings: int) -> None:
    random = np.random.default_rng(2)
    true = (random.random(recordings) < 0.3).astype(np.float32)
    score = np.clip(random.normal(0.4, 0.15, recordings) + 0.2 * true, 0, 1)
    roc, pr = curves.roc(true, score), curves.precision_recall(true, score)
    assert max(len(roc.x), len(pr.x)) <= curves.POINTS
    assert sklearn_metrics.auc(roc.x, roc.y) == pytest.approx(sklearn_metrics.roc_auc_score(true, score), abs=1e-3)
    area = (np.diff(pr.x, prepend=0) * pr.y).sum()
    assert area == pytest.approx(sklearn_metrics.average_precision_score(true, score), abs=1e-3)
    x, y, thresholds = sklearn_metrics.roc_curve(true, score, drop_intermediate=False)
    theirs = {t: (a, b) for a, b, t in zip(x, y, thresholds, strict=True)}
    for a, b, t in zip(*roc, strict=True):
        assert theirs[t] == pytest.approx((a, b))
    precision, recall, thresholds = sklearn_metrics.precision_recall_curve(true, score)
    theirs = {t: (a, b) for a, b, t in zip(recall, precision, thresholds, strict=False)}
    for a, b, t in zip(*pr, strict=True):
        assert theirs[t] == pytest.approx((a, b))


def test_calibration_is_scikit_learns_curve_with_wilsons_intervals() -> None:
    random = np.random.default_rng(3)
    score = random.random(2000)
    true = (random.random(2000) < score).astype(float)
    found = curves.calibration(true, score)
    share, mean = calibration_curve(true, score, n_bins=15)
    np.testing.assert_allclose(found.share, share)
    np.testing.assert_allclose(found.mean, mean)
    assert found.recordings.sum() == 2000
    # Newcombe 1998, table I: 81 of 263 and 0 of 20, by Wilson's method.
    for positive, of, low, high in ((81, 263, 0.2553, 0.3662), (0, 20, 0.0, 0.1611)):
        one = curves.calibration(np.arange(of) < positive, np.full(of, 0.5))
        assert (one.low[0], one.high[0]) == pytest.approx((low, high), abs=5e-5)


def test_the_files_of_curves_say_which_is_which(folder: Path) -> None:
    evaluated(folder)
    table = pq.read_table(folder / "out/curves.parquet").to_pandas()
    frame = joined(folder)
    known = frame[frame[AF].notna()]
    roc = table[(table.label == AF) & (table.curve == "roc")]
    assert sklearn_metrics.auc(roc.x, roc.y) == pytest.approx(
        sklearn_metrics.roc_auc_score(known[AF], known[f"{AF}_p"])
    )
    bars = table[(table.label == AF) & (table.curve == "calibration")]
    assert bars.n.sum() == len(known)
    assert ((bars.low <= bars.y) & (bars.y <= bars.high)).all()
