"""A study: several models' runs side by side, in study.parquet, study.json and study.html."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import small_study
from report_page import Page
from safetensors.numpy import save_file
from sklearn.metrics import roc_auc_score
from small_study import LABELS, MISSING, SHARED

from ecgpipe.analysis.heart_rate import measure_heart_rate
from ecgpipe.core import parquet, schemas
from ecgpipe.core.run import Run
from ecgpipe.evaluation.crosswalk import read_crosswalk
from ecgpipe.models.labels import locate
from ecgpipe.preprocessing import preprocess
from ecgpipe.report import show, study_page, study_runs, waveform
from ecgpipe.report.study_attribution import Machine, attribute_disputed

N = 60


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three runs, with a random baseline of the first, and the study of them."""
    folder = tmp_path_factory.mktemp("study")
    small_study.write(folder, N)
    weights = {"a.weight": np.zeros((3, 4), np.float32), "norm.running_mean": np.zeros(3, np.float32)}
    save_file(weights, folder / "ecg-fm/checkpoint/model.safetensors")
    shutil.copytree(folder / "ecg-fm", folder / "untrained")
    info = json.loads((folder / "untrained/run.json").read_text())
    info["checkpoint"]["random_weights"] = True
    (folder / "untrained/run.json").write_text(json.dumps(info))
    options = ["--truth", str(folder / "truth.csv"), "--patient", "patient", "--baseline", str(folder / "untrained")]
    assert small_study.run(folder / "out", *(str(folder / model) for model in LABELS), *options) == 0
    return folder


@pytest.fixture(scope="module")
def account(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "out/study.json").read_text())
    return content


@pytest.fixture(scope="module")
def predictions(folder: Path) -> dict[str, pd.DataFrame]:
    return {model: pd.read_parquet(folder / model / "predictions").set_index("record_id") for model in LABELS}


def expected_score(predictions: dict[str, pd.DataFrame], model: str, statement: str, names: list[str]) -> np.ndarray:
    by_lower = {label.lower(): label for label in LABELS[model]}
    return predictions[model].loc[names, by_lower[statement.lower()]].to_numpy()


def test_the_table_has_each_models_own_probabilities_by_record_id(
    folder: Path, predictions: dict[str, pd.DataFrame]
) -> None:
    table = pd.read_parquet(folder / "out/study.parquet").set_index("record_id")
    assert list(table.index) == small_study.ids(N)
    both = [model for model in LABELS if LABELS[model]]
    columns = [schemas.study_column(model, statement) for model in both for statement in SHARED]
    assert sorted(table.columns[5:]) == sorted(columns)
    missing = [small_study.ids(N)[place] for place in MISSING]
    for model in both:
        there = [name for name in small_study.ids(N) if model == "ecg-fm" or name not in missing]
        for statement in SHARED:
            column = table[schemas.study_column(model, statement)]
            np.testing.assert_array_equal(column.loc[there], expected_score(predictions, model, statement, there))
            assert column.isna().sum() == N - len(there)
    assert table.loc[missing, "n_models"].tolist() == [2, 2]
    assert table.loc[missing, "disagreement"].isna().all()


def test_the_disagreement_is_of_the_statement_on_which_models_are_furthest_apart(folder: Path) -> None:
    table = pd.read_parquet(folder / "out/study.parquet").dropna(subset="disagreement")
    spreads = pd.DataFrame({name: (table[f"ecg-fm: {name}"] - table[f"ecgfounder: {name}"]).abs() for name in SHARED})
    np.testing.assert_allclose(table["disagreement"], spreads.max(axis=1))
    assert (table["statement"] == spreads.idxmax(axis=1)).all()
    for row in table.to_dict("records"):
        first, second = (row[f"{model}: {row['statement']}"] for model in ("ecg-fm", "ecgfounder"))
        expected = ("ecg-fm", "ecgfounder") if first > second else ("ecgfounder", "ecg-fm")
        assert (row["highest"], row["lowest"]) == expected


def test_the_schema_is_that_of_the_docs(folder: Path) -> None:
    schema = pq.read_schema(folder / "out/study.parquet")
    columns = [tuple(name.split(": ")) for name in schema.names[len(schemas.STUDY) :]]
    assert schema.equals(schemas.study_schema(columns))
    assert json.loads(schema.metadata[b"ecgpipe"])["models"]["pretrained"] == "p" * 64


def test_recordings_that_a_model_lacks_are_counted_with_the_reason(account: dict[str, Any]) -> None:
    counts = account["recordings"]
    assert (counts["all"], counts["in_all_models"]) == (N, N - len(MISSING))
    assert counts["models"]["ecgfounder"] == {
        "used": N - 2,
        "missing": 2,
        "reasons": [{"status": "skipped", "reason": "too short", "count": 2}],
    }
    assert counts["models"]["ecg-fm"]["missing"] == 0


def test_models_are_described_by_their_runs_and_families(account: dict[str, Any]) -> None:
    models = account["models"]
    assert list(models) == list(LABELS)
    first = models["ecg-fm"]
    assert (first["input"], first["labels"], first["width"]) == ("12 leads, 500 Hz, 5 s", 4, 8)
    assert first["parameters"] == 12  # without what batch normalisation counted
    assert models["pretrained"]["parameters"] is None
    assert (models["ecgfounder"]["title"], models["ecgfounder"]["width"]) == ("ECGFounder", 12)
    assert models["ecgfounder"]["input"] == "12 leads, 500 Hz, 10 s"
    assert first["segments_per_s"] == N


def test_labels_are_mapped_by_the_crosswalk_and_related_ones_only_stated(account: dict[str, Any]) -> None:
    assert account["labels"]["shared"] == {
        "Atrial fibrillation": {"ecg-fm": "Atrial fibrillation", "ecgfounder": "ATRIAL FIBRILLATION"},
        "Atrial flutter": {"ecg-fm": "Atrial flutter", "ecgfounder": "ATRIAL FLUTTER"},
    }
    related = account["labels"]["related"]["Tachycardia"]
    assert {model: [row["relation"] for row in rows] for model, rows in related.items()} == {
        "ecg-fm": ["broader"],
        "ecgfounder": ["narrower"],
    }


def find(account: dict[str, Any], part: str, **wanted: object) -> dict[str, Any]:
    [row] = [row for row in account[part]["rows"] if all(row[key] == value for key, value in wanted.items())]
    return dict(row)


def test_the_evaluation_is_scikit_learns_on_the_recordings_of_both(
    folder: Path, account: dict[str, Any], predictions: dict[str, pd.DataFrame]
) -> None:
    truth = pd.read_csv(folder / "truth.csv").set_index("record_id")
    names = [name for place, name in enumerate(small_study.ids(N)) if place not in MISSING]
    for statement in SHARED:
        values = {}
        for model in ("ecg-fm", "ecgfounder"):
            score = expected_score(predictions, model, statement, names)
            values[model] = roc_auc_score(truth.loc[names, statement], score)
            row = find(account, "evaluation", statement=statement, model=model, against=None, metric="auroc")
            assert row["value"] == pytest.approx(values[model])
            assert row["n"] == len(names)
            assert row["low"] <= row["value"] <= row["high"]
        difference = find(
            account, "evaluation", statement=statement, model="ecg-fm", against="ecgfounder", metric="auroc"
        )
        assert difference["value"] == pytest.approx(values["ecg-fm"] - values["ecgfounder"])
    assert (account["evaluation"]["units"], account["evaluation"]["patient"]) == (N // 2, "patient")


def test_thresholds_are_each_models_own(account: dict[str, Any], predictions: dict[str, pd.DataFrame]) -> None:
    """ECG-FM's run has 0.6 for atrial flutter, ECGFounder's 0.5."""
    [row] = [row for row in account["agreement"] if row["statement"] == "Atrial flutter"]
    names = [name for place, name in enumerate(small_study.ids(N)) if place not in MISSING]
    first, second = (expected_score(predictions, model, "Atrial flutter", names) for model in ("ecg-fm", "ecgfounder"))
    assert row["both"] == ((first >= 0.6) & (second >= 0.5)).sum()
    assert row["only_second"] == ((first < 0.6) & (second >= 0.5)).sum()


def test_embeddings_are_compared_on_the_recordings_of_all(folder: Path, account: dict[str, Any]) -> None:
    found = account["embeddings"]
    assert found["models"] == list(LABELS)
    assert (found["recordings"], found["common"]) == (N - 2, N - 2)
    means = []
    for model in LABELS:
        rows = pd.read_parquet(folder / model / "embeddings")
        values = np.stack(rows["embedding"].tolist())
        means.append({name: values[rows["record_id"] == name].mean(axis=0) for name in rows["record_id"].unique()})
    names = sorted(means[0].keys() & means[1].keys())
    x, y = (np.stack([some[name] for name in names]) for some in means[:2])
    x, y = x - x.mean(axis=0), y - y.mean(axis=0)
    cka = np.linalg.norm(x.T @ y) ** 2 / np.linalg.norm(x.T @ x) / np.linalg.norm(y.T @ y)
    assert found["cka"][0][1] == pytest.approx(cka, rel=1e-5)
    assert np.allclose(np.diag(found["overlap"]), 1)


def test_each_model_is_probed_alike_and_beside_its_random_baseline(account: dict[str, Any]) -> None:
    probe = account["probe"]
    models = {row["model"] for row in probe["rows"] if row["against"] is None}
    assert models == {*LABELS, "ecg-fm (random weights)"}
    assert sum(probe["counts"].values()) == N - len(MISSING)
    gain = find(
        account, "probe", statement=SHARED[0], model="ecg-fm", against="ecg-fm (random weights)", metric="auroc"
    )
    assert gain["value"] == 0  # its embeddings are a copy


def test_the_page_fetches_nothing_and_names_the_models(folder: Path) -> None:
    page = (folder / "out/study.html").read_text(encoding="utf-8")
    assert not re.findall(r'(?:src|href)="(?!#)', page)
    for title in ("ECG-FM", "ECGFounder", "pretrained"):
        assert title in page


def test_names_are_given_by_the_user_or_the_folder(tmp_path: Path) -> None:
    assert study_runs.parse_run(f"mine={tmp_path}") == ("mine", tmp_path)
    assert study_runs.parse_run(f"{tmp_path}/") == (tmp_path.name, tmp_path)
    odd = tmp_path / "a=b"
    odd.mkdir()
    assert study_runs.parse_run(str(odd)) == ("a=b", odd)


def test_one_run_and_two_of_one_name_are_refused(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = str(folder / "ecg-fm")
    assert small_study.run(tmp_path, run) == 2
    assert "at least two runs" in capsys.readouterr().err
    assert small_study.run(tmp_path, run, run) == 2
    assert "NAME=FOLDER" in capsys.readouterr().err
    assert small_study.run(tmp_path, run, f"b={folder / 'ecgfounder'}", "--baseline", str(folder / "pretrained")) == 2
    assert "are not random" in capsys.readouterr().err


def test_two_runs_of_one_model_are_compared_on_all_labels(folder: Path, tmp_path: Path) -> None:
    """Labels of the same name of one family are the same, also where the crosswalk calls them broader."""
    runs = [read(folder / "ecg-fm", name) for name in ("a", "b")]
    mapped = study_runs.map_labels(runs, read_crosswalk(locate("config/labels/crosswalk.csv")))
    assert sorted(label for by_run in mapped.shared.values() for label in {*by_run.values()}) == sorted(
        LABELS["ecg-fm"]
    )
    assert mapped.shared["Pacemaker"] == {"a": "Electronic pacemaker", "b": "Electronic pacemaker"}
    assert mapped.shared["Tachycardia (ecg-fm)"] == {"a": "Tachycardia", "b": "Tachycardia"}


def test_a_misspelt_label_of_a_users_crosswalk_is_refused_and_an_unknown_family_named(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "mine.csv"
    rows = ["Afib,ecg-fm,4,Atrial fibrillation,same", "Afib,ecgfounde,3,x,same", "Afib,ecgfounder,3,ATRIAL FIB,same"]
    path.write_text("\n".join(["statement,family,outputs,label,relation", *rows]))
    runs = [str(folder / model) for model in ("ecg-fm", "ecgfounder")]
    assert small_study.run(tmp_path / "out", *runs, "--crosswalk", str(path)) == 2
    said = capsys.readouterr().err
    assert "row 3: the classifier of ecgfounder with 3 outputs has no label 'ATRIAL FIB'; did you mean" in said
    path.write_text(path.read_text().replace("ATRIAL FIB,", "ATRIAL FIBRILLATION,"))
    assert small_study.run(tmp_path / "out", *runs, "--crosswalk", str(path)) == 0
    assert "'ecgfounde' is no model family and no model here" in capsys.readouterr().err
    assert list(json.loads((tmp_path / "out/study.json").read_text())["labels"]["shared"]) == ["Afib"]


def read(folder: Path, name: str) -> study_runs.StudyRun:
    return study_runs.read_run(name, Run(folder))


def test_without_true_labels_and_shared_labels_embeddings_are_compared(folder: Path, tmp_path: Path) -> None:
    runs = [str(folder / "ecg-fm"), str(folder / "pretrained")]
    assert small_study.run(tmp_path / "out", *runs) == 0
    account = json.loads((tmp_path / "out/study.json").read_text())
    assert (account["evaluation"], account["agreement"], account["probe"]) == (None, [], None)
    assert account["embeddings"]["recordings"] == N
    assert pq.read_schema(tmp_path / "out/study.parquet").names == schemas.STUDY.names
    assert "No label of one model means the same" in (tmp_path / "out/study.html").read_text()


def test_runs_without_a_recording_in_common_are_stated(folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(folder / "ecgfounder", other)
    for part in sorted(other.glob("*/part-*.parquet")):
        table = pq.read_table(part)
        names = pa.array([f"x/{name}" for name in table["record_id"].to_pylist()], pa.string())
        parquet.write(part, table.set_column(0, table.schema.field("record_id"), names))
    assert small_study.run(tmp_path / "out", str(folder / "ecg-fm"), str(other)) == 0
    account = json.loads((tmp_path / "out/study.json").read_text())
    assert account["recordings"]["in_all_models"] == 0
    assert account["embeddings"] is None
    reasons = account["recordings"]["models"]["ecg-fm"]["reasons"]
    assert reasons == [{"status": "not in the run", "reason": "", "count": N - 2}]


def test_a_study_of_runs_that_name_no_files_names_none(tmp_path: Path) -> None:
    runs = small_study.write(tmp_path / "in", 12, ("ecg-fm", "ecgfounder"), paths=False)
    moved = runs[1].rename(runs[1].with_name("ward-7"))
    assert small_study.run(tmp_path / "out", str(runs[0]), str(moved)) == 0
    page = (tmp_path / "out/study.html").read_text()
    assert "ward-7" not in page
    assert "model 2" in page
    assert "r/000" not in page
    assert re.search(r"<button type=\"button\">recording \d+</button>", page)


def test_numbers_are_written_with_a_minus_and_three_digits() -> None:
    assert study_page.format_signed(-0.0612) == "\N{MINUS SIGN}0.061"
    assert study_page.format_signed(0.2) == "+0.200"
    assert study_page.format_signed(-0.0001) == "0.000"
    assert study_page.format_three(-0.5) == "\N{MINUS SIGN}0.500"


def test_fitted_thresholds_on_the_recordings_to_evaluate_are_refused(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from ecgpipe.cli import main

    run = tmp_path / "ecg-fm"
    shutil.copytree(folder / "ecg-fm", run)
    truth = str(folder / "truth.csv")
    assert (
        main(["thresholds", str(run), "--truth", truth, "--method", "youden", "--output", str(run / "chosen.csv")]) == 0
    )
    info = json.loads((run / "run.json").read_text())
    info["config"]["labels"] = str(run / "chosen.csv")
    (run / "run.json").write_text(json.dumps(info))
    assert small_study.run(tmp_path / "out", str(run), str(folder / "ecgfounder"), "--truth", truth) == 2
    assert "were fitted on" in capsys.readouterr().err


def test_the_disputed_statement_is_attributed_by_each_model_that_has_it(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, str, str]] = []

    def attribute_labels(finished: Run, record_id: str, names: list[str], *_: object) -> list[dict[str, Any]]:
        """As `show.attribute_labels`, which takes a network."""
        asked.append((finished.outdir.name, record_id, names[0]))
        return [{"label": names[0], "attribution": np.ones((2, 12, 2500)), "judged": ""}]

    monkeypatch.setattr(show, "find_recording", lambda _, record_id: record_id)
    monkeypatch.setattr(show, "attribute_labels", attribute_labels)
    runs = [str(folder / model) for model in LABELS]
    assert small_study.run(tmp_path / "out", *runs, "--attributions", "3") == 0
    table = pd.read_parquet(tmp_path / "out/study.parquet").nlargest(3, "disagreement")
    expected = [
        (model, row["record_id"], label)
        for model in ("ecg-fm", "ecgfounder")
        for row in table.to_dict("records")
        for label in LABELS[model]
        if label.lower() == row["statement"].lower()
    ]
    assert asked == [one for one in expected if one != ("ecg-fm", "r/000", LABELS["ecg-fm"][0])]


def test_what_a_run_of_one_lead_has_attributed_is_not_computed_again(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, label = tmp_path / "ecgfounder-lead1", LABELS["ecgfounder"][0]
    shutil.copytree(folder / "ecgfounder", run)
    schema = schemas.attribution_schema(1, 5000)
    row = dict.fromkeys(schema.names, 0.0) | {"record_id": "r/000", "segment": 0, "label": label}
    row["attribution"] = [0.0] * 5000
    parquet.write(run / "attribution/attribution.parquet", pa.Table.from_pylist([row], schema=schema))
    monkeypatch.setattr(show, "find_recording", lambda _, record_id: record_id)
    monkeypatch.setattr(show, "attribute_labels", lambda _, record_id, *__: [record_id])
    disputed = [("r/000", "Atrial flutter"), ("r/001", "Atrial flutter")]
    one = study_runs.read_run("lead1", Run(run))
    found = attribute_disputed(one, disputed, {"Atrial flutter": {"lead1": label}}, Machine("cpu", 1))
    assert list(found) == ["r/001"]


def test_a_run_whose_description_is_not_understood_is_compared_without_its_leads(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "later"
    shutil.copytree(folder / "ecgfounder", run)
    content = json.loads((run / "checkpoint/model.json").read_text())
    (run / "checkpoint/model.json").write_text(json.dumps(content | {"architecture": {"blocks": 3}}))
    assert small_study.run(tmp_path / "out", str(folder / "ecg-fm"), str(run)) == 0
    assert "later: its recordings cannot be drawn" in capsys.readouterr().err
    account = json.loads((tmp_path / "out/study.json").read_text())
    assert account["models"]["later"]["width"] == 12
    assert len(account["agreement"]) == 2


def test_a_recording_is_read_once_for_all_models_of_one_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, *others = small_study.write(tmp_path / "in", 8)
    for other in others:
        shutil.copytree(first / "manifest", other / "manifest", dirs_exist_ok=True)
    counted = {"read": 0, "rate": 0}

    def count(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def counting(*args: object) -> Any:  # noqa: ANN401, as the function
            counted[name] += 1
            return function(*args)

        return counting

    monkeypatch.setattr(preprocess, "read_recording", count("read", preprocess.read_recording))
    monkeypatch.setattr(waveform, "measure_heart_rate", count("rate", measure_heart_rate))
    assert small_study.run(tmp_path / "out", *map(str, (first, *others))) == 0
    views = Page(tmp_path / "out/study.html").get("data-views")
    assert counted == {"read": len(views), "rate": len(views)}
    assert all(view["view"] for view in views)
    drawn = [view for view in views if all(view["overlays"])]
    assert len(drawn) == 8 - len(MISSING)  # of each model its own segments


def test_a_statement_with_one_class_is_named_and_not_measured(folder: Path, tmp_path: Path) -> None:
    truth = small_study.truth(N)
    truth[SHARED[1]] = 0
    truth.to_csv(tmp_path / "truth.csv", index=False)
    runs = [str(folder / "ecg-fm"), str(folder / "ecgfounder")]
    assert small_study.run(tmp_path / "out", *runs, "--truth", str(tmp_path / "truth.csv")) == 0
    rows = json.loads((tmp_path / "out/study.json").read_text())["evaluation"]["rows"]
    assert {row["statement"] for row in rows} == {SHARED[0]}
    page = (tmp_path / "out/study.html").read_text()
    assert f"all positive or all negative: {SHARED[1]}." in page
    assert "no patient column is named" in page
