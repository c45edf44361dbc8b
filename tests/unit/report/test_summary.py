"""The summary: every recording is counted once, the same signal twice is told, and the verdict comes of the counts."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import small_run

from ecgpipe import __version__
from ecgpipe.cli import main
from ecgpipe.core import parquet, provenance, schemas
from ecgpipe.core.errors import EcgpipeError
from ecgpipe.core.run import Counts, Precision, Reason, RunInfo
from ecgpipe.models import labels
from ecgpipe.readers import packages
from ecgpipe.report import summary, verdict


def row(record_id: str, status: str = "ok", reason: str | None = None, **columns: object) -> dict[str, Any]:
    """A row of the records."""
    seen = {"n_segments": 2, "duration_s": 10.0} if status == "ok" else {"n_segments": 0}
    return {"record_id": record_id, "status": status, "reason": reason, **seen, **columns}


def write(folder: Path, *shards: list[dict[str, Any]]) -> list[Path]:
    """Write shards of records."""
    paths = [folder / f"shard-{number:05d}.parquet" for number in range(len(shards))]
    for path, rows in zip(paths, shards, strict=True):
        parquet.write(path, pa.Table.from_pylist(rows, schema=schemas.RECORDS))
    return paths


def test_each_recording_is_counted_once_and_reasons_without_their_particulars(tmp_path: Path) -> None:
    shards = [
        [row("a"), row("b", "skipped", "leads missing (V1)"), row("c", "skipped", "leads missing (V2 V3)")],
        [row("d", "failed", "a file is not there (d.hea)"), row("e")],
    ]
    counts, reasons = summary.count_recordings(write(tmp_path, *shards))
    assert {name: counts[name] for name in ("recordings", "ok", "skipped", "failed", "segments", "hours")} == {
        "recordings": 5, "ok": 2, "skipped": 2, "failed": 1, "segments": 4, "hours": 0.006,
    }  # fmt: skip
    assert reasons == (
        Reason(status="skipped", reason="leads missing", count=2),
        Reason(status="failed", reason="a file is not there", count=1),
    )


def test_what_is_worth_a_look_is_counted_among_the_recordings_that_were_used(tmp_path: Path) -> None:
    none: dict[str, Any] = {"constant_leads": [], "clipped_leads": [], "derived_leads": [], "missing_leads": []}
    shards = [
        row("a", **none),
        row("b", **(none | {"clipped_leads": ["V1"]}), lead_suspicion="III inverted"),
        row("c", **(none | {"constant_leads": ["V1", "V2"], "clipped_leads": ["V3"]})),
        row("d", "skipped", "too short", **(none | {"constant_leads": ["V1"]})),
    ]
    counts, _ = summary.count_recordings(write(tmp_path, shards))
    assert {name: counts[name] for name in schemas.FLAGS if counts[name]} == {
        "constant_leads": 1, "clipped_leads": 2, "lead_suspicion": 1,
    }  # fmt: skip
    assert summary.warn_of_counts(Counts(**counts, duplicates=3)) == [
        "1 recording with leads that are probably swapped or inverted (column lead_suspicion of records/)",
        "1 recording with a lead that is constant (constant_leads)",
        "2 recordings with a clipped lead (clipped_leads)",
        "3 recordings with the same signal as another one (duplicates.parquet)",
    ]


def test_the_same_signal_under_another_name_is_told_across_shards(tmp_path: Path) -> None:
    shards = [
        [row("a", signal_hash="1"), row("b", signal_hash="2"), row("c", "failed", "gone")],
        [row("d", signal_hash="2"), row("e", signal_hash="3"), row("f", "failed", "gone")],
        [row("g", "skipped", "too short", signal_hash="2"), row("h", signal_hash="1")],
    ]
    assert summary.write_duplicates(write(tmp_path, *shards), tmp_path / "duplicates.parquet", {}) == 3
    assert pq.read_table(tmp_path / "duplicates.parquet").to_pylist() == [
        {"record_id": "d", "duplicate_of": "b"},
        {"record_id": "g", "duplicate_of": "b"},
        {"record_id": "h", "duplicate_of": "a"},
    ]


@pytest.mark.parametrize("per_file", [10_000, 100, 7])
def test_signals_are_found_again_whichever_file_their_hashes_are_put_into(
    per_file: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(summary, "HASHES_PER_FILE", per_file)
    random = np.random.default_rng(0)
    drawn = [f"{number:03x}" for number in random.integers(400, size=1000)]
    signals = [text.ljust(32, "f") if i % 2 else text.rjust(32, "0") for i, text in enumerate(drawn)]
    rows = [row(f"r{number}", signal_hash=signal) for number, signal in enumerate(signals)]
    shards = [rows[:1], rows[1:600], [], rows[600:]]
    found = summary.write_duplicates(write(tmp_path, *shards), tmp_path / "duplicates.parquet", {})
    expected = [
        {"record_id": f"r{number}", "duplicate_of": f"r{signals.index(signal)}"}
        for number, signal in enumerate(signals)
        if signals.index(signal) < number
    ]
    assert pq.read_table(tmp_path / "duplicates.parquet").to_pylist() == expected
    assert found == len(expected) > 200
    assert {path.suffix for path in tmp_path.iterdir() if path.is_file()} == {".parquet"}


def drift(asked: str, used: str, **found: object) -> dict[str, Any]:
    """What the precision stage found."""
    return {"asked": asked, "used": used, "device": "some GPU", **found}


SCANS = [{"recordings": 1, "added": 1, "changed": 0, "removed": 0}]
BEYOND = "float16 differs from float32 by up to 0.02, more than inference.max_drift = 0.01"


def compared(largest: float | None, segments: int = 256) -> dict[str, Any]:
    return {"compared": "float16", "bound": 0.01, "segments": segments, "largest": largest}


@pytest.mark.parametrize(
    ("used", "found", "says"),
    [
        ({"float32": 3}, None, []),
        ({"float32": 3}, drift("auto", "float32"), []),
        ({"float16": 3}, drift("auto", "float16", **compared(0.01)), []),
        (
            {"float32": 3},
            drift("auto", "float32", **compared(0.02)),
            [f"{BEYOND}, so that float32 was chosen"],
        ),
        (
            {"float16": 3},
            drift("float16", "float16", **compared(0.02)),
            [f"{BEYOND}, but was asked for"],
        ),
        (
            {"float32": 3},
            drift("auto", "float32", **compared(None)),
            ["float16 gives numbers that are not finite, so that float32 was chosen"],
        ),
        (
            {"float32": 3},
            drift("auto", "float32", **compared(0.0, segments=0)),
            ["float16 could not be compared with float32 for want of segments, so that float32 was chosen"],
        ),
        (
            {"float32": 3},
            drift("float16", "float32"),
            ["float16 was asked for, but some GPU cannot, so that float32 was chosen"],
        ),
        (
            {"float16": 2, "float32": 1},
            drift("auto", "float16", **compared(0.001)),
            ["1 of 3 parts was inferred in float32 instead of float16 (timing/)"],
        ),
        ({"float16": 3}, None, ["3 of 3 parts were inferred in float16 instead of float32 (timing/)"]),
    ],
)
def test_a_precision_that_is_not_as_it_should_be_is_told(
    used: dict[str, int], found: dict[str, Any] | None, says: list[str]
) -> None:
    assert summary.warn_of_precision(Precision(used="float32", parts=used, drift=found)) == says


def test_segments_that_half_precision_could_not_compute_are_counted_over_all_parts_and_told_once(
    tmp_path: Path,
) -> None:
    found = drift("auto", "float16", **compared(0.001))
    content = summarise(tmp_path, ["float16"] * 3, found, recomputed=[2, None, 1])  # None: of an older version
    expected = {"used": "float16", "parts": {"float16": 3}, "recomputed_segments": 3, "drift": found}
    assert content["precision"] == expected
    (warning,) = content["warnings"]
    assert warning == (
        "3 segments were computed in float32, because half precision gave numbers that are not finite (timing/)"
    )


def test_names_that_are_numbers_are_warned_of() -> None:
    assert summary.warn_of_labels(["output_00", "output_01"]) == [labels.explain_numbers(2)]
    assert summary.warn_of_labels(["output_00", "Sinus rhythm"]) == []
    assert summary.warn_of_labels([]) == []


def summarise(
    folder: Path,
    precisions: list[str],
    found: dict[str, Any] | None,
    version: str = __version__,
    calibration: object = None,
    failed: Sequence[str] = (),
    recomputed: Sequence[int | None] = (),
) -> dict[str, Any]:
    """Run the stage over a recording, and parts of those precisions inferred by a version, and read what it writes."""
    lost = [row(f"b{i}", status="failed", reason=reason) for i, reason in enumerate(failed)]
    records = pa.Table.from_pylist([row("a", signal_hash="1"), *lost], schema=schemas.RECORDS)
    schema = provenance.add_origin(schemas.RECORDS, "preprocess", inputs_sha256="5" * 64)
    parquet.write(folder / "records" / "shard-00000.parquet", records.cast(schema))
    timing = {"ecgpipe": version, "segments": 2, "seconds": 1.0, "device": "CPU"}
    files: dict[str, object] = {
        f"timing/part-{i:05d}.json": {**timing, "precision": name} for i, name in enumerate(precisions)
    }
    for i, count in enumerate(recomputed):
        if count is not None:
            part = f"timing/part-{i:05d}.json"
            files[part] = {**timing, "precision": precisions[i], "recomputed_segments": count}
    predictions = provenance.add_origin(schemas.predictions_schema(["A"]), "aggregate", calibration=calibration)
    for i in range(len(precisions)):
        parquet.write(folder / "predictions" / f"part-{i:05d}.parquet", predictions.empty_table())
    parquet.write(folder / "umap.parquet", provenance.add_origin(schemas.UMAP, "umap").empty_table())
    roles = {"recording": 1, "part": 0, "ignored": 0}
    files["manifest.json"] = {"files": roles, "ignored": {}, "layouts": [], "scans": SCANS}
    sizes = {"width": 8, "layers": 1, "heads": 1, "hidden": 8, "position_kernel": 4, "position_groups": 1}
    layers = {"in_leads": 12, "conv_layers": [[8, 2, 2]], "conv_bias": False, "layer_norm_first": False, "labels": 1}
    source = {"uri": "x.pt", "revision": None, "sha256": "0" * 64}
    files["model.json"] = {
        "architecture": sizes | layers, "labels": ["A"], "source": source, "random_weights": False,
        "ecgpipe": __version__, "meaning": 1,
    }  # fmt: skip
    if found:
        files["drift.json"] = found
    (folder / "timing").mkdir()
    for name, value in files.items():
        (folder / name).write_text(json.dumps(value))
    options = {"manifest": "manifest.json", "description": "model.json", "records": "records", "timings": "timing"}
    options |= {"predictions": "predictions", "umap": "umap.parquet"}
    options |= {"duplicates": "duplicates.parquet", "output": "run.json"} | ({"drift": "drift.json"} if found else {})
    given = [text for name, path in options.items() for text in (f"--{name}", str(folder / path))]
    assert main(["summary", *given]) == 0
    content: dict[str, Any] = json.loads((folder / "run.json").read_text())
    return content


def test_run_json_has_the_precision_of_all_parts_and_what_was_found(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = drift("auto", "float16", **compared(0.001))
    content = summarise(tmp_path, ["float16", "float32", "float16"], found)
    parts = {"float16": 2, "float32": 1}
    expected = {"used": ["float16", "float32"], "parts": parts, "recomputed_segments": 0, "drift": found}
    assert content["precision"] == expected
    (warning,) = content["warnings"]
    assert warning == "1 of 3 parts was inferred in float32 instead of float16 (timing/)"
    assert warning in capsys.readouterr().err


def test_run_json_has_its_keys_in_their_order(tmp_path: Path) -> None:
    content = summarise(tmp_path, ["float32"], None)
    assert list(content) == [
        *("ecgpipe", "finished", "code", "made_by", "inputs", "shards", "parts", "counts", "reasons", "other_files"),
        *("layouts", "checkpoint", "throughput", "calibration", "precision", "hardware", "versions", "config"),
        *("settings", "warnings"),
    ]
    assert list(content["counts"]) == [
        *("recordings", "ok", "skipped", "failed", "segments"),
        *(*schemas.FLAGS, "hours", "duplicates", "files", "other_files"),
    ]
    assert list(content["precision"]) == ["used", "parts", "recomputed_segments", "drift"]


def test_run_json_and_the_last_lines_say_of_a_calibration(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fitted = {"on": "fold = 9", "recordings": 2183}
    facts = {"method": "platt", "sha256": "c" * 64, "fitted": fitted, "left": ["A"]}
    content = summarise(tmp_path, ["float32"], None, calibration=facts)
    assert content["calibration"] == facts
    said = "Probabilities are calibrated by Platt scaling, fitted on 2,183 recordings (fold = 9). Left as they were: A."
    assert said in capsys.readouterr().err


def test_a_package_that_is_missing_is_said_once_with_how_many_recordings_it_costs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def lacks(what: str, package: str, extra: str) -> str:
        return packages.missing(what, package, extra)

    failed = [lacks("edf", "edfio", "edf"), *[lacks("muse-xml", "ecgdatakit", "vendor")] * 2]
    failed += [lacks("scp-ecg", "ecgdatakit", "vendor"), "a file is not there (x.edf)"]
    content = summarise(tmp_path, ["float32"], None, failed=failed)
    warning = (
        "4 recordings could not be read for want of a package: ecgdatakit (3), edfio (1); install it with: "
        "pip install 'ecgpipe[edf,vendor]', and give the same command again"
    )
    assert content["warnings"] == [warning]
    assert capsys.readouterr().err.count(warning) == 1
    assert packages.counted({lacks("a file of MATLAB 7.3", "h5py", "hdf5"): 1}) == [
        "1 recording could not be read for want of a package: h5py (1); install it with: pip install 'ecgpipe[hdf5]', "
        "and give the same command again"
    ]
    assert packages.counted({"not a readable EDF file": 3}) == []


def test_run_json_without_a_choice_says_float32(tmp_path: Path) -> None:
    content = summarise(tmp_path, ["float32", "float32"], None)
    expected = {"used": "float32", "parts": {"float32": 2}, "recomputed_segments": 0, "drift": None}
    assert content["precision"] == expected
    assert content["calibration"] is None
    assert content["warnings"] == []


def test_run_json_says_which_code_and_which_inputs_made_the_numbers(tmp_path: Path) -> None:
    content = summarise(tmp_path, ["float32", "float32"], None)
    code = content["code"]
    assert (code["version"], code["source_sha256"]) == (__version__, provenance.hash_source())
    assert content["inputs"] == {"sha256": "5" * 64, "scans": SCANS}
    assert content["made_by"] == {
        stage: {__version__: n}
        for stage, n in {"checkpoint": 1, "preprocess": 1, "infer": 2, "aggregate": 2, "umap": 1}.items()
    }


def test_results_of_another_version_are_told(tmp_path: Path) -> None:
    content = summarise(tmp_path, ["float32", "float32"], None, version="0.0.9")
    assert content["made_by"]["infer"] == {"0.0.9": 2}
    assert content["warnings"] == [
        "2 of 2 results of infer were made by another version of ecgpipe (2 by 0.0.9) and kept: infer computes the "
        f"same in {__version__}"
    ]


@pytest.mark.parametrize(("most", "status"), [("0.05", 2), ("0.24", 2), ("0.25", 0), ("1", 0)])
def test_the_run_ends_with_an_error_when_more_failed_than_allowed(
    most: str, status: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = small_run.run_json()
    content = run | {
        "counts": {**run["counts"], "recordings": 8, "failed": 2},
        "reasons": [
            {"status": "skipped", "reason": "too short", "count": 1},
            {"status": "failed", "reason": "not a readable NumPy file", "count": 2},
        ],
    }
    (tmp_path / "run.json").write_text(json.dumps(content))
    output = tmp_path / "verdict.txt"
    options = ["--run", str(tmp_path / "run.json"), "--max-failed-fraction", most, "--output", str(output)]
    assert main(["verdict", *options]) == status
    assert output.exists() == (status == 0)
    if status:
        says = capsys.readouterr().err
        assert "2 of 8 recordings could not be read (25.0%), more than" in says
        assert "2 not a readable NumPy file" in says
        assert "too short" not in says
        assert f"{tmp_path}/report.html" in says
        assert says.endswith("or allow as many: --config max_failed_fraction=0.25\n")


@pytest.mark.parametrize(("failed", "total", "enough"), [(1, 19, 0.06), (1, 9, 0.12), (29, 100, 0.29), (3, 3, 1.0)])
def test_the_share_that_the_verdict_names_is_enough_and_no_hundredth_more(
    failed: int, total: int, enough: float, tmp_path: Path
) -> None:
    run = small_run.run_json()
    content = RunInfo.model_validate(run | {"counts": {**run["counts"], "recordings": total, "failed": failed}})
    with pytest.raises(EcgpipeError, match=f"max_failed_fraction={enough:g}$"):
        verdict.judge(content, 0.0, tmp_path / "run.json")
    verdict.judge(content, enough, tmp_path / "run.json")
    with pytest.raises(EcgpipeError):
        verdict.judge(content, enough - 0.01, tmp_path / "run.json")


def test_run_json_has_the_machines_and_versions_of_inference_and_not_those_of_this_process() -> None:
    node = {"system": "Linux-6", "cpu": "Xeon", "cpus": 8, "memory_gb": 64}
    timings: list[dict[str, Any]] = [
        {"device": "H100", "machine": node, "versions": {"python": "3.11.7", "torch": "2.13.0"}},
        {"device": "A100", "machine": {**node, "cpus": 4}, "versions": {"python": "3.11.7", "torch": "2.12.0"}},
        {"device": "H100", "machine": node, "versions": {"python": "3.11.7", "torch": "2.13.0"}},
        {"device": "CPU"},  # of an older ecgpipe
    ]
    assert summary.list_machines(timings) == [
        {**node, "device": "H100", "parts": 2},
        {**node, "cpus": 4, "device": "A100", "parts": 1},
    ]
    assert summary.collect_versions(timings) == {"python": "3.11.7", "torch": "2.13.0, 2.12.0"}


def test_no_failure_is_never_an_error(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text(json.dumps(small_run.run_json()))
    options = ["--max-failed-fraction", "0", "--output", str(tmp_path / "verdict.txt")]
    assert main(["verdict", "--run", str(tmp_path / "run.json"), *options]) == 0
