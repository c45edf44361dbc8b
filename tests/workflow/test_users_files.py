"""Results beside a user's own files: no run removes or overwrites one, and no run takes its own results for inputs."""

import json
import os
import shutil
from pathlib import Path

import checkpoints
import pyarrow.parquet as pq
import pytest
from run_workflow import Ran, snakemake, write_recordings

pytestmark = pytest.mark.slow  # two minutes in all

# What once was deleted, and what lies beside it: some is called as results are.
MINE = (
    "ecg_parquet/part-00007.parquet",
    "notes/part-12.csv",
    "figures/part-2.png",
    "mine/.draft.tmp",
    ".draft.tmp",
    "logits/part-00007.parquet",
    "logits/.part-00000.parquet.4711.tmp",
    "records/shard-00009.parquet",
    "records/notes.csv",
    "report.md",
)


def run(folder: Path, *targets: str, **settings: object) -> Ran:
    """Run in `folder`, whose results lie in the folder of the inputs, reached by another name.

    Up to inference, or other targets: the rest of a run writes files of fixed names, and takes longer.
    """
    given = {"input": "study", "outdir": "by-link", "checkpoint": "x.pt", "labels": "labels.csv"}
    given |= {"inference": "{device: cpu, shards_per_part: 1}", "attribution": "{recordings: 0}"}
    return snakemake(folder, *targets, **(given | settings))


def logits(parts: int) -> list[str]:
    return [f"by-link/logits/part-{part:05d}.parquet" for part in range(parts)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    write_recordings(folder / "study", 2)
    (folder / "labels.csv").write_text("name,aggregation\nFirst,max\nSecond,mean\nThird,mean\n")
    (folder / "x.pt").write_bytes(checkpoints.saved(checkpoints.classifier(stride=4)))
    out = folder / "study" / "results"
    for name in MINE:
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_text(f"mine: {name}")
    outside = folder / "outside"
    outside.mkdir()
    (outside / "part-00003.parquet").write_text("mine")
    (out / "elsewhere").symlink_to(outside)
    (out / "embeddings").mkdir()
    (out / "embeddings" / "part-00001.parquet").symlink_to(outside / "part-00003.parquet")
    (folder / "by-link").symlink_to(out)
    return folder


def test_surplus_results_are_removed_and_a_users_files_are_not(folder: Path) -> None:
    out = folder / "study" / "results"
    refused = run(folder, *logits(2), manifest="{shard_size: 1}")
    assert refused.status != 0
    assert "outdir: by-link has embeddings/part-00001.parquet, which this run would overwrite" in refused.output
    assert "preprocess" not in refused.jobs
    (out / "embeddings/part-00001.parquet").rename(out / "embeddings/part-00006.parquet")
    ran = run(folder, *logits(2), manifest="{shard_size: 1}")
    assert ran.status == 0, ran.output
    assert len(list((out / "records").glob("shard-0000[0-8]*"))) == 2

    again = run(folder, *logits(1), manifest="{shard_size: 2}")
    assert again.status == 0, again.output
    for kind in ("records", "manifest"):
        assert sorted(path.name for path in (out / kind).glob("shard-0000[0-8]*")) == ["shard-00000.parquet"]
    assert "results of an earlier run beyond the last shard or part of this one" in again.output
    for name in MINE:
        assert (out / name).read_text() == f"mine: {name}"
    assert (out / "embeddings/part-00006.parquet").is_symlink()
    assert (folder / "outside" / "part-00003.parquet").read_text() == "mine"
    assert "by-link has embeddings/part-00006.parquet, logits/part-00007.parquet, records/notes.csv" in again.output


def test_results_in_the_inputs_are_no_inputs(folder: Path) -> None:
    shutil.copytree(folder / "study" / "results", folder / "study" / "results-old", symlinks=True)
    for path in (folder / "study" / "results-old").glob(".[eol]*"):
        path.unlink()  # as `cp -r results/* results-old` leaves them out
    ran = run(folder, "by-link/manifest/manifest.json", manifest="{shard_size: 2}")
    assert ran.status == 0, ran.output
    content = json.loads((folder / "study" / "results" / "manifest" / "manifest.json").read_text())
    assert content["n_recordings"] == 2
    assert content["ignored"]["folder of ecgpipe's results"] == 2
    study = os.path.realpath(folder / "study")
    assert f"left out ecgpipe's own results in {study}/results, {study}/results-old" in ran.output
    files = pq.read_table(folder / "study" / "results" / "manifest" / "files.parquet")["path"].to_pylist()
    assert not [path for path in files if path.endswith(("run.json", "shard-00000.parquet", "map.png", ".safetensors"))]
    assert [path for path in files if path.endswith("/mine/.draft.tmp")]  # a user's files are accounted for as ever


def test_inputs_in_the_folder_of_results_are_inputs(folder: Path) -> None:
    shutil.copytree(folder / "study", folder / "both" / "ecgs", ignore=shutil.ignore_patterns("results*"))
    for _ in range(2):
        ran = run(folder, "both/manifest/manifest.json", input="both/ecgs", outdir="both")
        assert ran.status == 0, ran.output
        assert json.loads((folder / "both" / "manifest" / "manifest.json").read_text())["n_recordings"] == 2
    ran = run(folder, "both/manifest/manifest.json", input="both", outdir="both")
    assert ran.status == 0, ran.output
    found = json.loads((folder / "both" / "manifest" / "manifest.json").read_text())
    assert (found["n_recordings"], found["ignored"]) == (2, {"folder of ecgpipe's results": 1})
