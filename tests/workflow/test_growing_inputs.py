"""Inputs that change after a run: what is new is computed, what was known keeps its numbers, what is gone is said."""

import json
import os
from pathlib import Path

import checkpoints
import numpy as np
import pandas as pd
import pytest
from run_workflow import Ran, snakemake, table, write_recordings

pytestmark = pytest.mark.slow  # two minutes in all

# Of three parts, each of which is placed on the map by a job of its own.
CHEAP = {"umap_place": 3} | dict.fromkeys(
    ("umap_fit", "umap", "examples", "attribute", "summary", "figures", "report", "verdict", "all"), 1
)
RESULTS = ("logits", "embeddings", "attention", "predictions")


def run(folder: Path, *options: str, **settings: object) -> Ran:
    """Run in `folder`, two recordings to a shard and two shards to a part; the segments are kept."""
    given = {"input": "input", "checkpoint": "x.pt", "labels": "labels.csv", "outdir": "out"}
    given |= {"manifest": "{shard_size: 2}", "inference": "{shards_per_part: 2, device: cpu}"}
    given |= {"preprocess": "{keep_segments: true}", "attribution": "{recordings: 1, steps: 4}"}
    given |= {"umap": "{fit_segments: 5}"}
    ran = snakemake(folder, *options, **(given | settings))
    assert ran.status == 0, ran.output
    return ran


def write(folder: Path, name: str, seed: int) -> None:
    """One recording; the seed decides what is in it."""
    write_recordings(folder / "other", seed + 1)
    (folder / "other" / f"recording{seed:03d}.mat").replace(folder / "input" / name)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of six recordings: shards 0 and 1 in part 0, 2 in part 1. The tests follow on one another."""
    folder = tmp_path_factory.mktemp("run")
    write_recordings(folder / "input" / "deep" / "deeper", 6)
    (folder / "labels.csv").write_text("name,aggregation,threshold\nFirst,max,0.5\nSecond,mean,\nThird,mean,\n")
    (folder / "x.pt").write_bytes(checkpoints.saved(checkpoints.classifier(stride=4)))
    run(folder)
    return folder


def results(folder: Path) -> dict[str, pd.DataFrame]:
    return {name: table(folder / "out" / name) for name in RESULTS}


def times(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.glob("out/*/part-00000.parquet")}


def rows_of(frame: pd.DataFrame, record_ids: pd.Series) -> pd.DataFrame:
    rows: pd.DataFrame = frame[frame["record_id"].isin(record_ids)].reset_index(drop=True)
    return rows


def assert_same_numbers(before: dict[str, pd.DataFrame], after: dict[str, pd.DataFrame], ids: pd.Series) -> None:
    """To the bit, for the recordings that are named."""
    assert len(ids)
    for name in RESULTS:
        pd.testing.assert_frame_equal(rows_of(before[name], ids), rows_of(after[name], ids), check_exact=True)


def run_json(folder: Path) -> dict[str, object]:
    content: dict[str, object] = json.loads((folder / "out" / "run.json").read_text())
    return content


def test_nothing_new_computes_nothing(folder: Path) -> None:
    before = times(folder)
    # The verdict is planned before the inputs were looked at; it reads one file.
    assert run(folder).jobs == {"manifest": 1, "verdict": 1, "all": 1}
    assert times(folder) == before
    assert "Nothing to be done" in run(folder, "--dry-run").output


def test_new_recordings_make_new_shards_and_complete_the_last_part(folder: Path) -> None:
    before, untouched = results(folder), times(folder)
    write_recordings(folder / "input" / "a", 3)  # their names come before those of the others
    assert run(folder).jobs == {"manifest": 1, "preprocess": 2, "infer": 2, "aggregate": 2, **CHEAP}
    assert times(folder) == untouched
    after = results(folder)
    assert_same_numbers(before, after, before["predictions"]["record_id"])
    assert list(table(folder / "out" / "umap")["record_id"]) == list(after["embeddings"]["record_id"])
    ids = list(after["predictions"]["record_id"])
    assert ids == [f"deep/deeper/recording{i:03d}" for i in range(6)] + [f"a/recording{i:03d}" for i in range(3)]
    inputs = run_json(folder)["inputs"]
    assert isinstance(inputs, dict)
    assert inputs["scans"] == [
        {"recordings": 6, "added": 6, "changed": 0, "removed": 0},
        {"recordings": 9, "added": 3, "changed": 0, "removed": 0},
    ]


def test_a_changed_recording_is_said_and_computed_again_with_its_part_alone(folder: Path) -> None:
    before, untouched = results(folder), times(folder)
    changed = "deep/deeper/recording004"
    write(folder, f"{changed}.mat", seed=20)
    ran = run(folder)
    assert f"changed since the last run: 1 ({changed})" in ran.output
    assert ran.jobs == {"manifest": 1, "preprocess": 1, "infer": 1, "aggregate": 1, **CHEAP}
    assert times(folder) == untouched
    after = results(folder)
    ids = before["predictions"]["record_id"]
    assert_same_numbers(before, after, ids[ids != changed])
    old, new = (rows_of(each["predictions"], pd.Series([changed])) for each in (before, after))
    assert not np.allclose(old[["First", "Second", "Third"]], new[["First", "Second", "Third"]])


def test_removed_recordings_are_said_and_their_rows_are_gone_while_all_others_stay(folder: Path) -> None:
    before, untouched = results(folder), times(folder)
    for name in ("deep/deeper/recording004.mat", "deep/deeper/recording005.mat"):  # the whole of shard 2
        (folder / "input" / name).unlink()
    ran = run(folder)
    said = "removed since the last run: 2 (deep/deeper/recording004, deep/deeper/recording005)"
    assert said in ran.output
    assert ran.jobs == {"manifest": 1, "preprocess": 1, "infer": 1, "aggregate": 1, **CHEAP}
    assert times(folder) == untouched
    after, ids = results(folder), before["predictions"]["record_id"]
    gone = ids.isin(["deep/deeper/recording004", "deep/deeper/recording005"])
    assert list(after["predictions"]["record_id"]) == list(ids[~gone])
    assert_same_numbers(before, after, ids[~gone])
    changes = pd.read_parquet(folder / "out" / "manifest" / "changes.parquet")
    assert list(changes["change"]) == ["removed", "removed"]
    assert list(changes["path"]) == [f"{folder}/input/deep/deeper/recording00{i}.mat" for i in (4, 5)]


def test_a_table_of_inputs_may_grow_too(folder: Path, tmp_path: Path) -> None:
    """The same workflow over a table, whose new row leaves those before it alone, with what they state."""
    for name in ("labels.csv", "x.pt"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    write_recordings(tmp_path / "input", 3)
    rows = ["path,age", "input/recording000.mat,61", "input/recording001.mat,"]
    (tmp_path / "t.csv").write_text("\n".join(rows) + "\n")
    run(tmp_path, "out/predictions/part-00000.parquet", input="t.csv")
    os.utime(tmp_path / "t.csv", ns=(0, 0))
    (tmp_path / "t.csv").write_text("\n".join([*rows, "input/recording002.mat,58"]) + "\n")
    ran = run(tmp_path, "out/predictions/part-00000.parquet", input="t.csv")
    assert ran.jobs == {"manifest": 1, "preprocess": 1, "infer": 1, "aggregate": 1}
    records = table(tmp_path / "out" / "records")
    assert list(records["age"]) == pytest.approx([61, np.nan, 58], nan_ok=True)
