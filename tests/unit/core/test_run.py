"""`ecgpipe.Run`: a finished run's paths, run.json and tables."""

import json
from pathlib import Path
from typing import Any, get_args

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import ecgpipe
from ecgpipe import EcgpipeError, Run
from ecgpipe.core import results, schemas
from ecgpipe.core.run import Counts, Folder, read_info

CONTENT: dict[str, Any] = {
    "ecgpipe": "0.1.0",
    "finished": "2026-11-27T09:54:03+00:00",
    "shards": 2,
    "parts": 1,
    "counts": {"recordings": 4, "ok": 3, "skipped": 1, "failed": 0, "segments": 6, "hours": 0.01},
    "checkpoint": {"uri": "x.pt", "revision": None, "sha256": "00", "random_weights": True, "labels": ["A", "B"]},
    "throughput": {"segments": 6, "seconds": 1.0, "segments_per_s": 6.0},
    "precision": {"used": "float32"},
    "hardware": {"inference": ["CPU"]},
    "config": {"input": "x", "umap": {"neighbors": 7, "gone": 1}, "gone": 2},
}


@pytest.fixture
def outdir(tmp_path: Path) -> Path:
    """A run of two shards; an earlier run left a third."""
    (tmp_path / "run.json").write_text(json.dumps(CONTENT))
    (tmp_path / "records").mkdir()
    tables: list[dict[str, list[Any]]] = [{"age": [50, 60]}, {"age": [None, None], "site": ["a", "b"]}, {}]
    for number, columns in enumerate(tables):
        ids = {"record_id": [f"{number}-{row}" for row in range(2)]}
        pq.write_table(pa.table({**ids, **columns}), tmp_path / "records" / f"shard-{number:05d}.parquet")
    return tmp_path


def test_it_is_public_and_takes_a_text_or_a_path(outdir: Path) -> None:
    assert ecgpipe.Run is Run
    assert Run(str(outdir)) == Run(outdir)


def test_run_json_is_typed_and_what_an_older_version_did_not_write_has_a_default(outdir: Path) -> None:
    info = Run(outdir).info
    assert (info.counts.ok, info.counts.duplicates, info.precision.parts) == (3, 0, {})
    assert info.checkpoint.labels == ("A", "B")


def test_what_a_later_version_adds_to_run_json_is_kept(outdir: Path) -> None:
    (outdir / "run.json").write_text(json.dumps({**CONTENT, "news": {"a": 1}}))
    assert Run(outdir).info.model_dump(exclude_unset=True)["news"] == {"a": 1}


def test_the_settings_are_typed_and_keys_of_other_versions_are_left_out(outdir: Path) -> None:
    config = Run(outdir).config
    assert (config.umap.neighbors, config.umap.min_dist) == (7, 0.1)


def test_the_folders_that_it_takes_are_those_of_numbered_files() -> None:
    assert set(get_args(Folder)) == set(results.NUMBERED)


def test_every_flag_of_the_records_is_counted() -> None:
    assert set(schemas.FLAGS) <= set(Counts.model_fields)


def test_a_table_has_the_shards_that_run_json_counts_in_order_and_all_their_columns(outdir: Path) -> None:
    table = Run(outdir).records.to_table()
    assert table["record_id"].to_pylist() == ["0-0", "0-1", "1-0", "1-1"]
    assert table["age"].to_pylist() == [50, 60, None, None]
    assert table["site"].to_pylist() == [None, None, "a", "b"]


def test_without_a_run_json_all_files_that_are_there_are_the_runs(outdir: Path) -> None:
    (outdir / "run.json").unlink()
    assert [path.name for path in Run(outdir).files("records")] == [f"shard-{n:05d}.parquet" for n in range(3)]


def test_a_missing_shard_is_named(outdir: Path) -> None:
    (outdir / "records" / "shard-00000.parquet").unlink()
    with pytest.raises(EcgpipeError, match=r"records/shard-00000\.parquet is not there"):
        Run(outdir).files("records")


def test_a_folder_that_is_not_there_or_no_run_is_said(outdir: Path, tmp_path: Path) -> None:
    with pytest.raises(EcgpipeError, match=r"there is no folder .*typo; give the folder of a finished run"):
        Run(tmp_path / "typo")
    with pytest.raises(EcgpipeError, match=r"there is no .*run\.json; give the folder of a finished run"):
        _ = Run(outdir / "records").info
    with pytest.raises(EcgpipeError, match=r"there is no .*umap\.parquet"):
        _ = Run(outdir).umap


@pytest.mark.parametrize(
    ("text", "words"),
    [("{", "damaged"), ("[]", "not what ecgpipe writes"), (json.dumps({**CONTENT, "counts": {}}), "counts.recordings")],
)
def test_a_damaged_run_json_is_named(text: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(EcgpipeError, match=words) as raised:
        read_info(tmp_path / "run.json")
    assert str(tmp_path / "run.json") in str(raised.value)
