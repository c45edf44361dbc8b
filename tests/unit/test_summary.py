"""The summary: every recording is counted once, the same signal twice is told, and the verdict comes of the counts."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ecgpipe import summary, tables
from ecgpipe.__main__ import main


def row(record_id: str, status: str = "ok", reason: str | None = None, **columns: object) -> dict[str, Any]:
    """A row of the records."""
    seen = {"n_segments": 2, "duration_s": 10.0} if status == "ok" else {"n_segments": 0}
    return {"record_id": record_id, "status": status, "reason": reason, **seen, **columns}


def write(folder: Path, *shards: list[dict[str, Any]]) -> list[Path]:
    """Write shards of records."""
    paths = [folder / f"shard-{number:05d}.parquet" for number in range(len(shards))]
    for path, rows in zip(paths, shards, strict=True):
        tables.write(path, pa.Table.from_pylist(rows, schema=tables.RECORDS))
    return paths


def test_each_recording_is_counted_once_and_reasons_without_their_particulars(tmp_path: Path) -> None:
    shards = [
        [row("a"), row("b", "skipped", "leads missing (V1)"), row("c", "skipped", "leads missing (V2 V3)")],
        [row("d", "failed", "a file is not there (d.hea)"), row("e")],
    ]
    counts, reasons = summary.account(write(tmp_path, *shards))
    assert {name: counts[name] for name in ("recordings", "ok", "skipped", "failed", "segments", "hours")} == {
        "recordings": 5, "ok": 2, "skipped": 2, "failed": 1, "segments": 4, "hours": 0.006,
    }  # fmt: skip
    assert reasons == [
        {"status": "skipped", "reason": "leads missing", "count": 2},
        {"status": "failed", "reason": "a file is not there", "count": 1},
    ]


def test_what_is_worth_a_look_is_counted_among_the_recordings_that_were_used(tmp_path: Path) -> None:
    none: dict[str, Any] = {"constant_leads": [], "clipped_leads": [], "derived_leads": [], "missing_leads": []}
    shards = [
        row("a", **none),
        row("b", **(none | {"clipped_leads": ["V1"]}), lead_suspicion="III inverted"),
        row("c", **(none | {"constant_leads": ["V1", "V2"], "clipped_leads": ["V3"]})),
        row("d", "skipped", "too short", **(none | {"constant_leads": ["V1"]})),
    ]
    counts, _ = summary.account(write(tmp_path, shards))
    assert {name: counts[name] for name in summary.FLAGS if counts[name]} == {
        "constant_leads": 1, "clipped_leads": 2, "lead_suspicion": 1,
    }  # fmt: skip
    assert summary.warnings({**counts, "duplicates": 3}) == [
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
    assert summary.write_duplicates(write(tmp_path, *shards), tmp_path / "duplicates.parquet") == 3
    assert pq.read_table(tmp_path / "duplicates.parquet").to_pylist() == [
        {"record_id": "d", "duplicate_of": "b"},
        {"record_id": "g", "duplicate_of": "b"},
        {"record_id": "h", "duplicate_of": "a"},
    ]


@pytest.mark.parametrize(("most", "status"), [("0.05", 2), ("0.24", 2), ("0.25", 0), ("1", 0)])
def test_the_run_ends_with_an_error_when_more_failed_than_allowed(
    most: str, status: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = {
        "counts": {"recordings": 8, "failed": 2},
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


def test_no_failure_is_never_an_error(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text(json.dumps({"counts": {"recordings": 1, "failed": 0}, "reasons": []}))
    options = ["--max-failed-fraction", "0", "--output", str(tmp_path / "verdict.txt")]
    assert main(["verdict", "--run", str(tmp_path / "run.json"), *options]) == 0
