"""Any one recording of a run: a page or a picture of it, with its own numbers."""

import json
import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import small_run
from report_page import Page
from small_run import HOSTILE, LABELS

from ecgpipe.cli import main
from ecgpipe.core import parquet, schemas
from ecgpipe.core.leads import LEADS
from ecgpipe.report import recording_view
from ecgpipe.report import show as show_stage
from ecgpipe.report.waveform import interpolate_attention

IDS = ("a/0", "a/1", HOSTILE, "-odd one")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    small_run.write(folder, IDS, unusable=1, attributed=[("a/1", LABELS[1])])
    return folder


def show(folder: Path, record_id: str, output: Path, *options: str) -> int:
    before = (str(folder), "--output", str(output), *options)
    return main(["show", *before, "--", record_id])


@pytest.mark.parametrize("record_id", IDS)
def test_the_page_has_the_recordings_own_leads_and_numbers(record_id: str, folder: Path, tmp_path: Path) -> None:
    assert show(folder, record_id, tmp_path / "x.html") == 0
    page = Page(tmp_path / "x.html")
    shown = page.get("shown")
    assert shown["name"] == record_id
    assert record_id in page.text
    number = IDS.index(record_id)
    rows = [row for path in sorted(folder.glob("predictions/*")) for row in pq.read_table(path).to_pylist()]
    [row] = [row for row in rows if row["record_id"] == record_id]
    assert {one["name"]: one["probability"] for one in shown["probabilities"]} == {name: row[name] for name in LABELS}
    assert [one["probability"] for one in shown["probabilities"]] == sorted((row[n] for n in LABELS), reverse=True)
    assert {one["name"]: one["threshold"] for one in shown["probabilities"]}["Tachycardia"] == 0.7
    view = shown["view"]
    steps = np.cumsum(view["leads"].reshape(12, -1), axis=1, dtype=np.int16) * view["step"]
    signal = small_run.signal(number)
    np.testing.assert_allclose(steps, signal - np.median(signal, axis=1, keepdims=True), atol=0.003)
    attention = pa.concat_tables([pq.read_table(path) for path in sorted(folder.glob("attention/*"))])
    mine = [row["attention"] for row in attention.to_pylist() if row["record_id"] == record_id]
    expected = interpolate_attention(np.array(mine), np.array([0, 2500]), 2500, 16, 16, 5000)
    np.testing.assert_allclose(view["attention"], 255 * expected.reshape(-1, 4).mean(axis=1), atol=0.51)
    assert len(shown["neighbors"]) == len(IDS) - 1
    assert record_id not in [neighbor["name"] for neighbor in shown["neighbors"]]
    facts = {column: value for _, value, column in shown["facts"]}
    assert (facts["duration_s"], facts["age"]) == ("10", str(20 + number))


def test_it_names_the_checkpoint_the_version_the_date_and_the_settings(folder: Path, tmp_path: Path) -> None:
    show(folder, "a/1", tmp_path / "x.html")
    page = Page(tmp_path / "x.html")
    told = "22 November 2026, 12:38 UTC · checkpoint hf://wanglab/ecg-fm/tiny.pt, revision abc, sha256 0123456789ab"
    assert f"{told} · ecgpipe 0.1.0" in page.words
    assert '"input": "recordings"' in page.words


def test_it_has_the_true_labels_and_what_the_device_measured(tmp_path: Path) -> None:
    small_run.write(tmp_path, IDS)
    (tmp_path / "truth.csv").write_text(f"record_id,{LABELS[0]},{LABELS[1]}\na/0,1,\na/1,0,1\n")
    small_run.evaluate(tmp_path)
    records = pq.read_table(tmp_path / "records/shard-00000.parquet").to_pylist()
    device = {"device_qt_ms": 402.0, "device_t_axis": 0.0, "device_statements": ["Sinus rhythm", "Dr. Who was here"]}
    schema = pq.read_schema(tmp_path / "records/shard-00000.parquet")
    rows = [row | device if row["record_id"] == "a/0" else row for row in records]
    parquet.write(tmp_path / "records/shard-00000.parquet", pa.Table.from_pylist(rows, schema=schema))
    run = json.loads((tmp_path / "run.json").read_text())
    for paths in (True, False):
        run["config"] |= {"evaluation": {"truth": "truth.csv"}, "report": {"paths": paths}}
        (tmp_path / "run.json").write_text(json.dumps(run))
        show(tmp_path, "a/0", tmp_path / "x.html")
        shown = Page(tmp_path / "x.html").get("shown")
        assert {label["name"]: label["truth"] for label in shown["probabilities"]} == dict(
            zip(LABELS, ("yes", "", ""), strict=True)
        )
        facts = {column: value for _, value, column in shown["facts"]}
        assert (facts["device_qt_ms"], facts["device_t_axis"]) == ("402", "0")
        assert shown["statements"] == (device["device_statements"] if paths else [])
    # Records that an older version wrote.
    old = pq.read_table(tmp_path / "records/shard-00000.parquet")
    parquet.write(
        tmp_path / "records/shard-00000.parquet",
        old.drop_columns([name for name in old.column_names if name.startswith("device_")]),
    )
    assert show(tmp_path, "a/0", tmp_path / "x.html") == 0


def test_hostile_texts_stay_texts(folder: Path, tmp_path: Path) -> None:
    show(folder, HOSTILE, tmp_path / "x.html")
    assert HOSTILE not in (tmp_path / "x.html").read_text()


def test_an_attribution_of_the_run_is_there(folder: Path, tmp_path: Path) -> None:
    show(folder, "a/1", tmp_path / "x.html")
    [given] = Page(tmp_path / "x.html").get("shown")["view"]["attributions"]
    assert given["label"] == LABELS[1]
    assert "Completeness error 0.010 (logit \N{MINUS SIGN} baseline = 1.00)" in given["judged"]
    assert given["judged"].endswith("Most comes from V2 100%, I 0%, II 0%.")


@pytest.mark.parametrize("suffix", ["png", "pdf", "svg"])
@pytest.mark.parametrize(
    "options", [(), ("--layout", "long", "--colour", "none", "--from-s", "5"), ("--colour", LABELS[1])]
)
def test_pictures_are_of_the_true_size_and_the_same_each_time(
    suffix: str, options: tuple[str, ...], folder: Path, tmp_path: Path
) -> None:
    for name in ("x", "y"):
        assert show(folder, "a/1", tmp_path / f"{name}.{suffix}", *options) == 0
    content = (tmp_path / f"x.{suffix}").read_bytes()
    assert content == (tmp_path / f"y.{suffix}").read_bytes()
    assert content.startswith({"png": b"\x89PNG", "pdf": b"%PDF", "svg": b"<?xml"}[suffix])
    if suffix == "svg":
        width = float(re.findall(r'<svg[^>]* width="([\d.]+)pt"', content.decode())[0]) / 72 * 25.4
        assert width == pytest.approx(12 + 25 * (5 if "5" in options else 10) + 3, abs=0.1)


def test_without_an_output_the_page_is_named_after_the_recording(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["show", str(folder), "--", HOSTILE]) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["script_alert_1_script.html"]


def test_a_recording_that_was_not_used_says_why(folder: Path, tmp_path: Path) -> None:
    assert show(folder, "short/0", tmp_path / "x.html") == 0
    shown = Page(tmp_path / "x.html").get("shown")
    assert shown["note"].startswith("This recording was skipped: too short (0 s).")
    assert shown["view"] is None
    assert shown["probabilities"] == shown["neighbors"] == []


def test_random_weights_are_said(tmp_path: Path) -> None:
    small_run.write(tmp_path, IDS, random_weights=True)
    show(tmp_path, "a/0", tmp_path / "x.html")
    assert "RANDOM WEIGHTS" in Page(tmp_path / "x.html").text
    show(tmp_path, "a/0", tmp_path / "x.svg")
    show(tmp_path, "a/0", tmp_path / "y.svg", "--colour", "none")
    assert len((tmp_path / "x.svg").read_text()) > len((tmp_path / "y.svg").read_text())


def test_the_demos_model_is_named(tmp_path: Path) -> None:
    small_run.write(tmp_path, IDS, demo_model=True)
    show(tmp_path, "a/0", tmp_path / "x.html")
    assert "Demo model, trained on simulated hearts. Not ECG-FM." in Page(tmp_path / "x.html").text
    show(tmp_path, "a/0", tmp_path / "x.svg")
    show(tmp_path, "a/0", tmp_path / "y.svg", "--colour", "none")
    assert len((tmp_path / "x.svg").read_text()) > len((tmp_path / "y.svg").read_text())


def test_a_run_without_attention_or_labels_can_be_shown(tmp_path: Path) -> None:
    small_run.write(tmp_path, IDS, labels=[])
    for path in (tmp_path / "attention").iterdir():
        path.unlink()
    (tmp_path / "attention").rmdir()
    assert show(tmp_path, "a/0", tmp_path / "x.html") == 0
    shown = Page(tmp_path / "x.html").get("shown")
    assert shown["view"]["attention"] is None
    assert shown["probabilities"] == []


@pytest.mark.parametrize(
    ("record_id", "output", "options", "says"),
    [
        ("nobody", "x.html", [], "RECORD_ID: 'nobody' is no recording of"),
        ("a/0", "x.gif", [], "ends in '.gif'; give .html, .png, .pdf, .svg"),
        ("a/0", "x", [], "ends in 'nothing'"),
        ("a/0", "x.png", ["--colour", LABELS[0]], "--colour: 'Sinus rhythm' is not there; give one of none, attention"),
        ("a/0", "x.png", ["--from-s", "12"], "--from-s: 12 s is not within the 10 s drawn"),
        ("a/0", "x.html", ["--label", "Flutter"], "--label: 'Flutter' is no label; the model has Sinus rhythm, Tachy"),
        ("short/0", "x.png", [], "RECORD_ID: 'short/0' cannot be drawn: This recording was skipped"),
    ],
)
def test_mistakes_are_said(
    record_id: str,
    output: str,
    options: list[str],
    says: str,
    folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert show(folder, record_id, tmp_path / output, *options) == 2
    assert says in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_folder_without_a_finished_run_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert show(tmp_path, "a/0", tmp_path / "x.html") == 2
    assert "run.json; give the folder of a finished run's results" in capsys.readouterr().err


def test_it_is_read_as_the_run_has_read_it(tmp_path: Path) -> None:
    """The settings are those of run.json: with others it would be another signal, or none."""
    small_run.write(tmp_path, IDS)
    run = json.loads((tmp_path / "run.json").read_text())
    signal = small_run.signal(0)[:, :1000]  # 2 s
    np.save(tmp_path / "recordings/0.npy", signal)
    row = dict.fromkeys(schemas.MANIFEST.names) | {"path": str(tmp_path / "recordings/0.npy"), "format": "numpy"}
    from ecgpipe.preprocessing import preprocess
    from ecgpipe.preprocessing.segments import Windows
    from ecgpipe.readers import Assumed

    windows, assumed = Windows(short="pad"), Assumed(500.0, LEADS, "mV")
    account, _ = preprocess.process_recording(row | {"record_id": "a/0"}, windows, assumed)
    for kind, schema, content in (("records", schemas.RECORDS, account), ("manifest", schemas.MANIFEST, row)):
        table = pa.Table.from_pylist([content | {"record_id": "a/0"}], schema=schema)
        parquet.write(tmp_path / kind / "shard-00000.parquet", table)
    run["config"]["preprocess"] = {
        "short": "pad",
        "assume_sample_rate": 500.0,
        "assume_leads": list(LEADS),
        "assume_unit": "mV",
    }
    (tmp_path / "run.json").write_text(json.dumps(run))
    assert show(tmp_path, "a/0", tmp_path / "x.html") == 0
    view = Page(tmp_path / "x.html").get("shown")["view"]
    assert (view["seconds"], view["end"], view["millivolts"]) == (2, 2, True)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ([], "attribution to Tachycardia: blue positive"),
        (["--colour", "Infarction"], "attribution to Infarction: blue positive"),
        (["--colour", "attention"], "colour: attention"),
        (["--colour", "none"], "25 mm/s"),
    ],
)
def test_a_picture_has_the_colour_of_the_label_that_was_asked_for(
    options: list[str], says: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = [{"label": label, "attribution": np.ones((2, 12, 2500)), "judged": ""} for label in LABELS[1:]]
    monkeypatch.setattr(show_stage, "attribute_labels", lambda *_: asked)  # which takes a network
    given = [str(folder), "--output", str(tmp_path / "x.svg"), *options]
    assert main(["show", *given, "a/0", "--label", *LABELS[1:]]) == 0
    assert f"<!-- {says}" in (tmp_path / "x.svg").read_text()


def test_an_attribution_is_found_by_recording_and_label_however_its_rows_are_grouped(
    folder: Path, tmp_path: Path
) -> None:
    small_run.write(tmp_path, IDS, attributed=[("a/1", LABELS[1]), ("a/0", LABELS[0]), ("a/1", LABELS[2])])
    path = tmp_path / "attribution/attribution.parquet"
    expected = recording_view.read_attributions(path, ["a/1"], LEADS)
    table = pq.read_table(path)
    values = table["attribution"].combine_chunks().flatten().to_numpy().reshape(len(table), -1)
    values = values * (1 + np.arange(len(table))[:, None])  # each row is another one
    column = pa.FixedSizeListArray.from_arrays(pa.array(values.astype(np.float32).ravel()), values.shape[1])
    table = table.set_column(table.column_names.index("attribution"), "attribution", column)
    for rows in (1, 3, 100):  # a group for each row, two recordings in one, all in one
        pq.write_table(table, path, row_group_size=rows)
        found = recording_view.read_attributions(path, ["a/1"], LEADS)["a/1"]
        assert [one["label"] for one in found] == [one["label"] for one in expected["a/1"]] == [LABELS[1], LABELS[2]]
        for one, first in zip(found, (0, 4), strict=True):
            np.testing.assert_array_equal(
                one["attribution"].reshape(2, -1), values[first : first + 2].astype(np.float32)
            )
    assert recording_view.read_attributions(path, ["nobody"], LEADS) == {}
