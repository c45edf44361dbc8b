"""The report: numbers that are those of the tables, recordings that are their own, and no text that becomes markup."""

import csv
import gzip
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import small_run
from markupsafe import escape
from report_page import Page
from small_run import HOSTILE, LABELS

from ecgpipe.core import parquet, schemas
from ecgpipe.readers import LEADS
from ecgpipe.report import report
from ecgpipe.report.map_data import NO_PROBABILITY, PROBABILITY_STEP

IDS = tuple(f"a/{i}" for i in range(10))


def predictions(folder: Path) -> pa.Table:
    return pa.concat_tables([pq.read_table(path) for path in sorted((folder / "predictions").glob("*.parquet"))])


def probability(page: Page, name: str, label: str) -> float:
    """What the page's rows say of a recording."""
    rows = page.get("rows")
    step = rows["probabilities"][rows["labels"].index(label)][rows["names"].index(name)]
    return float(step * PROBABILITY_STEP)


def test_numbers_are_those_of_the_tables(tmp_path: Path) -> None:
    small_run.write(tmp_path, IDS, unusable=3)
    page = Page(small_run.report(tmp_path))
    table = predictions(tmp_path)
    for label, threshold in zip(LABELS, (0.5, 0.7, 0.5), strict=True):
        row = re.search(rf'<tr data-label="{label}".*?</tr>', page.source, re.DOTALL)
        assert row
        values = table[label].to_numpy()
        assert f'<strong class="positive">{(values >= threshold).sum()}</strong>' in row[0]
        assert f"threshold {threshold}" in row[0]
        for record_id, value in zip(table["record_id"].to_pylist(), values.tolist(), strict=True):
            assert probability(page, record_id, label) == pytest.approx(value, abs=0.5e-4)
    assert "recordings in 13 used 10 skipped 3 failed 0 segments 20" in page.words
    assert "not calibrated. Do not read these counts as prevalences." in page.words
    assert "skipped too short 3" in page.words
    assert "22 November 2026, 12:38 UTC" in page.words
    assert "0123456789ab " in page.words
    assert "RANDOM WEIGHTS" not in page.words
    facts = page.get("facts")
    # The map's default is the label that varies most.
    assert facts["colour"] == max(LABELS, key=lambda label: table[label].to_numpy().std())
    assert facts["thresholds"] == [0.5, 0.7, 0.5]
    umap, points = pq.read_table(tmp_path / "umap/umap.parquet"), page.get("points")
    names = page.get("rows")["names"]
    assert [names[row] for row in points["row"]] == umap["record_id"].to_pylist()
    np.testing.assert_array_equal(points["x"], umap["x"].to_numpy())


def test_a_label_stands_beside_its_share_in_the_reference_data(tmp_path: Path) -> None:
    small_run.write(tmp_path, IDS, references=("0.81163", "", "0.00091"))
    page = Page(small_run.report(tmp_path))
    rows = {label: re.search(rf'<tr data-label="{label}".*?</tr>', page.source, re.DOTALL) for label in LABELS}
    for label, share, mark in zip(LABELS, ("81%", "\N{EN DASH}", "0.1%"), ("81.16", None, "0.09"), strict=True):
        row = rows[label]
        assert row
        assert f'reference">{share}</td>' in row[0]
        assert re.findall(r'<i style="left: ([\d.]+)%">', row[0]) == ([mark] if mark else [])
    small_run.write(tmp_path / "none", IDS, references=("", "", ""))
    assert "MIMIC-IV-ECG" not in Page(small_run.report(tmp_path / "none")).text


def test_labels_that_occur_together_are_counted_by_name(tmp_path: Path) -> None:
    small_run.write(tmp_path, IDS)
    source = Page(small_run.report(tmp_path)).source
    table = re.search(r'<table class="together">.*?</table>', source, re.DOTALL)
    assert table
    heads = re.findall(r'<th scope="col">([^<]*)</th>', table[0])
    assert heads == list(LABELS)
    positive = {
        label: predictions(tmp_path)[label].to_numpy() >= t for label, t in zip(LABELS, (0.5, 0.7, 0.5), strict=True)
    }
    for label in LABELS:
        [row] = re.findall(rf'<th scope="row">{label} .*?</tr>', table[0], re.DOTALL)
        counts = [int(n) for n in re.findall(r'title="(\d+) recordings"', row)]
        assert counts == [(positive[label] & positive[other]).sum() for other in heads]


def test_the_recordings_with_their_leads_are_the_chosen_ones_with_their_own_signal(tmp_path: Path) -> None:
    small_run.write(tmp_path, IDS, attributed=[("a/3", LABELS[2])])
    page = Page(small_run.report(tmp_path))
    chosen = pq.read_table(tmp_path / "examples.parquet").to_pylist()
    views, names = page.get("views"), page.get("rows")["names"]
    assert [view["name"] for view in views] == [row["record_id"] for row in chosen]
    for view, row in zip(views, chosen, strict=True):
        assert names[view["row"]] == view["name"]
        number = int(view["name"].removeprefix("a/"))
        drawn = view["view"]
        steps = np.cumsum(drawn["leads"].reshape(12, -1), axis=1, dtype=np.int16) * drawn["step"]
        signal = small_run.signal(number)
        np.testing.assert_allclose(steps, signal - np.median(signal, axis=1, keepdims=True), atol=0.003)
        assert [(n["name"], names[n["row"]], n["similarity"]) for n in view["neighbors"]] == [
            (n["record_id"], n["record_id"], n["similarity"]) for n in row["neighbors"]
        ]
        assert [given["label"] for given in drawn["attributions"]] == ([LABELS[2]] if view["name"] == "a/3" else [])
        assert len(view["why"]) == len(row["why"])
    assert sum("highest probability of Tachycardia" in why for view in views for why in view["why"]) == 3


def test_the_recordings_are_listed_by_why_they_were_chosen(tmp_path: Path) -> None:
    small_run.write(tmp_path, IDS)
    page = Page(small_run.report(tmp_path, recordings=8))
    groups = re.findall(r'<optgroup label="([^"]*)">(.*?)</optgroup>', page.source, re.DOTALL)
    listed = {name: re.findall(r'<option value="(\d+)">([^<]*)</option>', options) for name, options in groups}
    assert {"Highest probability", "At random"} <= listed.keys()
    names = page.get("rows")["names"]
    for options in listed.values():
        for row, text in options:
            assert text.endswith(names[int(row)])
    table = predictions(tmp_path)
    best = table["record_id"][int(np.argmax(table["Infarction"].to_numpy()))].as_py()
    assert f"Infarction: {best}" in [text for _, text in listed["Highest probability"]]
    assert "The page holds the leads of 8 of the 10 recordings, chosen by rule" in page.words


def test_text_from_the_data_stays_text(tmp_path: Path) -> None:
    name = "A'><img src=x onerror=alert(1)> %{x}</script><!--"
    ids = [HOSTILE, "</script><!-- & <b>bold</b>", "plain", "one\"more'"]
    small_run.write(tmp_path, ids, labels=[name], thresholds=["0.3"], references=["0.1"])
    page = Page(small_run.report(tmp_path, "--title", f"<i>{HOSTILE}</i>"))
    assert HOSTILE not in page.source
    assert "<img src=x" not in page.source
    assert page.scripts == 5 + 6  # data and ours
    assert f"<i>{HOSTILE}</i>" in page.text
    assert name in page.text
    assert page.get("rows")["names"] == ids
    assert page.get("rows")["labels"] == [name]
    filters = re.findall(r'data-filter="([^"]*)"', page.source)
    assert not [text for text in filters if "<" in text]


def test_a_calibration_and_chosen_thresholds_are_told(tmp_path: Path) -> None:
    made = {"threshold": 0.25, "method": "f1", "recordings": 2183, "on": "fold = 9", "fitted": "a" * 64, "scores": {}}
    small_run.write(tmp_path, IDS)
    run = json.loads((tmp_path / "run.json").read_text())
    fitted = {"on": "fold = 8", "recordings": 2190}
    run["calibration"] = {"method": "isotonic", "sha256": "c" * 64, "fitted": fitted, "left": []}
    run["config"]["calibration"] = str(tmp_path / "secret.json")
    (tmp_path / "run.json").write_text(json.dumps(run))
    with (tmp_path / "labels.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["name", "aggregation", "threshold", "threshold_from"])
        writer.writerows([name, "mean", "0.25", json.dumps(made)] for name in LABELS)
    page = Page(small_run.report(tmp_path))
    assert "calibrated by isotonic regression, fitted on 2,190 recordings (fold = 8)." in page.words
    assert "3 thresholds chosen by f1 on 2,183 recordings (fold = 9)." in page.words
    page = Page(small_run.report(tmp_path, "--no-paths"))
    assert "calibrated by isotonic regression, fitted on 2,190 recordings." in page.words
    assert "3 thresholds chosen by f1 on 2,183 recordings." in page.words
    assert "not calibrated" not in page.words
    assert "secret" not in page.source
    assert "fold" not in page.source  # a column of the inputs' tables
    assert page.get("facts")["thresholds"] == [0.25] * 3
    for label in LABELS:
        row = re.search(rf'<tr data-label="{label}".*?</tr>', page.source, re.DOTALL)
        assert row
        assert f'<strong class="positive">{(predictions(tmp_path)[label].to_numpy() >= 0.25).sum()}</strong>' in row[0]


def test_a_weight_of_positives_is_named_where_the_label_file_has_one(tmp_path: Path) -> None:
    small_run.write(tmp_path, IDS)
    with (tmp_path / "labels.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["name", "aggregation", "threshold", "pos_weight"])
        writer.writerows([name, "mean", "", "3.5"] for name in LABELS)
    words = Page(small_run.report(tmp_path)).words
    assert "not calibrated: the model was trained with pos_weight, which raises the probabilities of rare" in words


def test_a_model_without_a_head(tmp_path: Path) -> None:
    small_run.write(tmp_path, IDS, labels=[])
    page = Page(small_run.report(tmp_path))
    assert "a pretrained model without a head" in page.words
    assert "not calibrated" not in page.words
    assert page.get("facts")["colour"] is None
    assert page.get("rows")["labels"] == page.get("rows")["probabilities"] == []
    assert len(page.get("views")) == 10


def test_attention_switched_off(tmp_path: Path) -> None:
    small_run.write(tmp_path, IDS)
    page = Page(small_run.report(tmp_path, attention=False))
    assert "This run kept no attention" in page.text
    for view in page.get("views"):
        assert view["view"]["attention"] is None
        assert view["view"]["borders"] == [5]  # the segments are marked all the same


DRIFT: dict[str, Any] = {
    "asked": "auto",
    "used": "float16",
    "device": "NVIDIA H100 80GB HBM3",
    "compared": "float16",
    "bound": 0.01,
    "segments": 1256,
    "probability": {name: {"largest": 0.0025, "mean": 3e-05} for name in LABELS},
    "embedding": {"largest": 2.5e-06, "mean": 1e-07},
    "largest": 0.0025,
}


def with_precision(folder: Path, used: object, drift: dict[str, Any] | None) -> str:
    """The source of the page where the run says so of its precision."""
    small_run.write(folder, IDS)
    path = folder / "run.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"precision": {"used": used, "drift": drift}}))
    return Page(small_run.report(folder, recordings=0)).source.partition('id="making"')[2]


def test_what_a_precision_changed_is_shown_for_each_label(tmp_path: Path) -> None:
    source = with_precision(tmp_path, "float16", DRIFT)
    text = " ".join(re.sub("<[^>]*>", " ", source).split())
    assert "precision float16 throughput" in text
    assert (
        "Inferred in float16. On NVIDIA H100 80GB HBM3, the first 1,256 segments were computed in float32 and in "
        "float16: the largest difference is 0.0025, within the bound of 0.01 ( inference.max_drift )."
    ) in text
    assert "Sinus rhythm 0.0025 3e-05 Tachycardia 0.0025 3e-05 Infarction 0.0025 3e-05" in text
    assert "Embedding, 1 \N{MINUS SIGN} cosine 2.5e-06 1e-07" in text
    assert 'class="number warn"' not in source


def test_what_is_beyond_the_bound_is_marked(tmp_path: Path) -> None:
    probability = DRIFT["probability"] | {LABELS[1]: {"largest": None, "mean": None}}
    drift = DRIFT | {"used": "float32", "probability": probability, "largest": None}
    source = with_precision(tmp_path, "float32", drift)
    assert '<strong class="warn">the largest difference is not finite</strong>, beyond the bound of 0.01' in source
    assert source.count('<td class="number warn">not finite</td>') == 2


def test_where_nothing_was_compared_it_says_so(tmp_path: Path) -> None:
    asked = {"asked": "auto", "used": "float32", "device": "CPU"}
    for number, drift in enumerate([None, asked, DRIFT | {"used": "float32", "segments": 0, "probability": {}}]):
        source = with_precision(tmp_path / str(number), "float32", drift)
        assert "<dd>float32, nothing to compare</dd>" in source
        assert "max_drift" not in source


def test_parts_of_different_precision_name_both(tmp_path: Path) -> None:
    assert "<dd>float16 and float32</dd>" in with_precision(tmp_path, ["float16", "float32"], DRIFT)


def test_a_file_that_is_gone_or_changed_gives_a_note(tmp_path: Path) -> None:
    small_run.write(tmp_path, IDS)
    (tmp_path / "recordings/3.npz").unlink()
    np.savez(tmp_path / "recordings/4.npz", signal=small_run.signal(9), sample_rate=500, leads=LEADS)
    (tmp_path / "recordings/5.npz").write_bytes(b"not an archive")
    views = {view["name"]: view for view in Page(small_run.report(tmp_path)).get("views")}
    assert len(views) == 10
    notes = {name: view["note"] for name, view in views.items() if view["note"]}
    assert notes == {
        "a/3": "No leads: the file could not be read again: a file is not there (3.npz).",
        "a/4": "No leads: the file could not be read again: the file has changed since the run.",
        "a/5": notes["a/5"],
    }
    assert "not a readable NumPy file" in notes["a/5"]
    assert all((view["view"] is None) == bool(view["note"]) for view in views.values())


# Without paths: what may name a patient is nowhere in the page.

PATIENTS = ("Müller-Anna/b19610517", "o'neil <b>/mrn0017", "zz")


def with_patients(folder: Path) -> tuple[Path, list[str]]:
    """A run in a folder, with ids, file names and messages that name patients, and all the names to look for."""
    folder = folder / "clinic-of-dr-who"
    small_run.write(folder, PATIENTS, unusable=1)
    records = pq.read_table(folder / "records/shard-00000.parquet").to_pylist()
    # Between the used ones lies one that failed, so that numbers are those of all recordings.
    failed = {"status": "failed", "reason": "not a WFDB record (Kowalski.hea: bad line) at line 7 of Kowalski.hea"}
    failed |= {"record_id": "Kowalski/3", "path": f"{folder}/recordings/Kowalski.hea"}
    records.insert(1, dict.fromkeys(schemas.RECORDS.names) | failed)
    half = pa.Table.from_pylist(records[:2], schema=schemas.RECORDS)
    parquet.write(folder / "records/shard-00000.parquet", half)
    rest = pa.Table.from_pylist(records[2:], schema=schemas.RECORDS)
    parquet.write(folder / "records/shard-00001.parquet", rest)
    manifest = pq.read_table(folder / "manifest/shard-00000.parquet")
    parquet.write(folder / "manifest/shard-00000.parquet", manifest.slice(0, 1))
    parquet.write(folder / "manifest/shard-00001.parquet", manifest.slice(1))
    (folder / "recordings/2.npz").rename(folder / "recordings/2.npz.gone")  # so that there is a note
    run = json.loads((folder / "run.json").read_text())
    run["reasons"] += [{"status": "failed", "reason": "not a WFDB record (Kowalski.hea) at line 7", "count": 1}]
    run["other_files"] = {"no known format, .nowak": 2, "no known format, .jpg": 1, "a link to nothing": 1}
    run["warnings"] = ["1 recording is gone (Nowak/9.hea)"]
    run["counts"]["duplicates"] = 2
    run["checkpoint"]["uri"] = f"{folder}/secret-weights.pt"
    run["config"] = {"input": [f"{folder}/recordings"], "outdir": f"{folder}/out", "labels": f"{folder}/mine.csv"} | {
        "checkpoint": f"{folder}/secret-weights.pt",
        "umap": {"min_dist": 0.125},
        "report": {"paths": False},
    }
    (folder / "run.json").write_text(json.dumps(run))
    names = [part for record_id in PATIENTS[:2] for part in (record_id, *record_id.split("/"))]
    names += [str(folder), "clinic", "Kowalski", "Nowak", "nowak", "secret-weights", "mine.csv", "short/", ".npz"]
    return folder, [*names, run["inputs"]["sha256"]]


def spellings(name: str) -> set[str]:
    """How a name can stand in a page: as text, as HTML, and in JSON."""
    return {name, str(escape(name)), json.dumps(name)[1:-1]}


def everything(page: Page) -> str:
    """The page's source with all that is packed into it."""
    return page.source + "".join(
        json.dumps(page.get(name), default=str, ensure_ascii=False) for name in page.data if name != "plotly"
    )


def test_without_paths_no_name_of_a_recording_file_or_folder_is_in_the_page(tmp_path: Path) -> None:
    folder, names = with_patients(tmp_path)
    plain = everything(Page(small_run.report(folder)))
    page = Page(small_run.report(folder, "--no-paths"))
    hidden = everything(page)
    for name in names:
        assert any(spelling in plain for spelling in spellings(name)), name  # it is looked for in the right way
        assert not [spelling for spelling in spellings(name) if spelling in hidden], name
    rows = page.get("rows")
    assert rows["names"] == [f"recording {i}" for i in range(1, 6)]
    columns = {column["name"]: column for column in rows["columns"]}
    assert not columns.keys() & {"age", "sex"}  # of the inputs' tables
    values = [None, *columns["reason"]["values"]]
    assert [values[code] for code in columns["reason"]["codes"]] == [None, "not a WFDB record", None, None, "too short"]
    assert "A recording is called by its row in records/, from 1" in page.words
    notes = [view["note"] for view in page.get("views") if view["note"]]
    assert notes == ["No leads: the file could not be read again: a file is not there."]
    assert "3 no known format, 1 a link to nothing" in page.words
    assert "1 recording is gone" not in page.words
    assert "2 recordings with the same signal as another one" in page.words  # said from the counts
    assert "a local file" in page.words
    assert '"min_dist": 0.125' in page.words  # the other settings stay


def test_without_paths_columns_of_the_inputs_tables_come_along_only_where_they_are_named(tmp_path: Path) -> None:
    small_run.write(tmp_path, IDS)
    page = Page(small_run.report(tmp_path, "--no-paths", "--columns", "sex"))
    assert [column["name"] for column in page.get("rows")["columns"] if column["group"] == "metadata"] == ["sex"]


def test_without_paths_each_recording_has_the_number_of_its_row(tmp_path: Path) -> None:
    folder, _ = with_patients(tmp_path)
    page = Page(small_run.report(folder, "--no-paths"))
    records = [row for path in sorted(folder.glob("records/*")) for row in pq.read_table(path)["record_id"].to_pylist()]
    by_id = {row["record_id"]: row for row in predictions(folder).to_pylist()}
    rows = page.get("rows")
    for number, record_id in enumerate(records, start=1):
        for label in LABELS:
            shown = probability(page, f"recording {number}", label)
            expected = by_id[record_id][label] if record_id in by_id else NO_PROBABILITY * PROBABILITY_STEP
            assert shown == pytest.approx(expected, abs=0.5e-4)
    for view in page.get("views"):
        assert view["name"] == rows["names"][view["row"]]
        for neighbor in view["neighbors"]:
            assert neighbor["name"] == rows["names"][neighbor["row"]]


def test_without_paths_an_address_on_the_hub_stays(tmp_path: Path) -> None:
    small_run.write(tmp_path, IDS)
    text = Page(small_run.report(tmp_path, "--no-paths")).text
    assert text.count("hf://wanglab/ecg-fm/tiny.pt") == 2
    assert "a local file" not in text


# Where the numbers came from


def provenance(folder: Path, **facts: object) -> str:
    """The words of the page's last section where run.json says so."""
    small_run.write(folder, IDS)
    path = folder / "run.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | facts))
    return Page(small_run.report(folder, recordings=0)).words.rpartition("Provenance")[2]


def test_the_code_and_the_inputs_that_made_the_numbers_are_named(tmp_path: Path) -> None:
    text = provenance(tmp_path)
    assert f"Code ecgpipe 0.1.0 commit c0ffee{'0' * 34} source sha256 {'fedcba9876543210' * 4}" in text
    assert f"10 recordings in 1 scan of the inputs. The list of them has the sha256 {'89abcdef01234567' * 4}." in text
    assert "All results were written by ecgpipe 0.1.0." in text
    assert "Added" not in text


def test_results_of_several_versions_are_told_apart_by_stage(tmp_path: Path) -> None:
    made_by = {"preprocess": {"0.1.0": 3}, "infer": {"0.1.0": 1, "0.2.0": 1200}}
    code = {"version": "0.2.0", "source_sha256": "ab" * 32, "commit": None}
    text = provenance(tmp_path, made_by=made_by, code=code)
    assert "commit none, not run from a repository" in text
    assert "2 versions of ecgpipe wrote these results." in text
    assert "Stage 0.1.0 0.2.0 preprocess 3 \N{EN DASH} infer 1 1,200" in text


def test_scans_that_found_something_new_are_listed_with_their_numbers(tmp_path: Path) -> None:
    scans = [{"recordings": 6, "added": 6, "changed": 0, "removed": 0}]
    scans += [{"recordings": 6, "added": 0, "changed": 0, "removed": 0}] * 30
    scans += [{"recordings": 7, "added": 3, "changed": 1, "removed": 2}]
    text = provenance(tmp_path / "some", inputs={"sha256": "ab" * 32, "scans": scans})
    assert "7 recordings in 32 scans of the inputs." in text
    assert "Scan Recordings Added Changed Removed 1 6 6 0 0 32 7 3 1 2" in text
    text = provenance(tmp_path / "many", inputs={"sha256": "ab" * 32, "scans": scans[-1:] * 50})
    assert "Removed 41 7 3 1 2 42 7" in text


def test_the_times_of_the_rules_and_the_workflow_are_shown(tmp_path: Path) -> None:
    text = provenance(tmp_path)
    assert "infer 2 8.0 s 4.0 s 5.0 s 500 MB" in text
    assert "preprocess 1 2.5 s 2.5 s 2.5 s 250 MB" in text
    source = (tmp_path / "report.html").read_text()
    assert "infer reads preprocess" in source


def test_every_unused_recording_has_a_row_with_its_reason(tmp_path: Path) -> None:
    small_run.write(tmp_path, IDS, unusable=250)
    page = Page(small_run.report(tmp_path))
    rows = page.get("rows")
    assert len(rows["names"]) == 260
    columns = {column["name"]: column for column in rows["columns"]}
    reasons = [None, *columns["reason"]["values"]]
    assert reasons[columns["reason"]["codes"][rows["names"].index("short/249")]] == "too short (249 s)"
    assert "skipped too short 250" in page.words
    assert "All 260 recordings." in page.words


def test_a_large_map_is_sampled_and_says_so(tmp_path: Path) -> None:
    small_run.write(tmp_path, IDS)
    first = Page(small_run.report(tmp_path, "--map-points", "7", recordings=0))
    assert "A random sample of 7 of the 20 segments is drawn; the grey behind it is the density of all" in first.words
    assert len(first.get("points")["x"]) == 7
    assert "of 10 recordings: those on the map" in first.words
    again = Page(small_run.report(tmp_path, "--map-points", "7", recordings=0))
    assert again.source == first.source
    assert "random sample" not in Page(small_run.report(tmp_path)).text


def test_random_weights_are_said_first_and_beside_the_predictions(tmp_path: Path) -> None:
    small_run.write(tmp_path, IDS, random_weights=True)
    page = Page(small_run.report(tmp_path))
    body = re.sub(r"\s*<[^>]*>\s*", "", page.source.partition("<body>")[2])
    assert body.startswith("RANDOM WEIGHTS — the predictions in this report mean nothing")
    assert page.text.count("these predictions mean nothing") == 3  # labels, map, and the recording


def test_the_demos_model_is_named_calmly(tmp_path: Path) -> None:
    small_run.write(tmp_path, IDS, demo_model=True)
    page = Page(small_run.report(tmp_path))
    body = re.sub(r"\s*<[^>]*>\s*", "", page.source.partition("<body>")[2])
    assert body.startswith("Demo model, trained on simulated hearts. Not ECG-FM.")
    assert "RANDOM WEIGHTS" not in page.text
    assert "these predictions mean nothing" not in page.text
    assert "trained on simulated hearts" in page.text


def test_no_recordings_asked_for(tmp_path: Path) -> None:
    small_run.write(tmp_path, IDS)
    page = Page(small_run.report(tmp_path, recordings=0))
    assert "The page holds no leads: none were asked for" in page.words
    assert page.get("views") == []


@pytest.mark.parametrize("name", report.SNIPPETS)
def test_the_lines_of_code_that_the_page_shows_work(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip(name.lower())
    small_run.write(tmp_path, IDS, unusable=2)
    page = Page(small_run.report(tmp_path))
    code = report.SNIPPETS[name]
    assert " ".join(code.split()) in page.words
    monkeypatch.chdir(tmp_path)
    found: dict[str, Any] = {}
    exec(code, found)  # noqa: S102, what a user would type
    table = found["table"]
    frame = table if name == "pandas" else table.df() if name == "DuckDB" else table.to_pandas()
    assert sorted(frame["record_id"]) == sorted(IDS)
    values = frame.set_index("record_id")
    for row in predictions(tmp_path).to_pylist():
        assert values.loc[row["record_id"], "Tachycardia"] == row["Tachycardia"]
        assert values.loc[row["record_id"], "n_segments"] == 2


def links(folder: Path, **asked: Any) -> list[str]:  # noqa: ANN401, as small_run.report has them
    return re.findall(r'<a href="([^#"]+)">', small_run.report(folder, **asked).read_text(encoding="utf-8"))


def test_the_links_are_those_of_the_run_whether_or_not_the_figures_are_there_already(tmp_path: Path) -> None:
    small_run.write(tmp_path, IDS)
    before = links(tmp_path)
    small_run.report(tmp_path, stage="figures")
    assert links(tmp_path) == before
    assert {"records", "predictions", "embeddings", "umap/umap.parquet", "examples.parquet", "figures"} <= set(before)
    assert not {"attribution", "evaluation"} & set(before)  # what the run was not asked for
    assert set(before) - set(links(tmp_path, attention=False)) == {"attention"}


def test_leads_that_would_make_the_page_too_large_are_left_out_the_last_ones_chosen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_run.write(tmp_path, IDS)
    sizes = [
        len(gzip.compress(view["view"]["leads"].tobytes(), 1)) for view in Page(small_run.report(tmp_path)).get("views")
    ]
    monkeypatch.setattr(report, "MOST_LEADS_BYTES", sum(sizes[:6]))
    page = Page(small_run.report(tmp_path))
    assert [view["view"] is not None for view in page.get("views")] == [True] * 6 + [False] * 4
    assert all(view["note"] is None and view["neighbors"] for view in page.get("views"))
    assert "The page holds the leads of 6 of the 10 recordings" in page.words


def test_without_an_evaluation_no_recording_is_called_wrong() -> None:
    wrong, high = ({"kind": kind, "what": "Sinus rhythm", "rank": 1} for kind in ("false_positive", "strongest"))
    rows = [{"record_id": "a", "why": [wrong, high]}, {"record_id": "b", "why": [wrong]}]
    assert report.leave_out_wrong(rows) == [{"record_id": "a", "why": [high]}]
