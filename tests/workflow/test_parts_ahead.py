"""Preprocessing runs ahead of inference by a few parts only, so that segments take a bounded part of the disk."""

from pathlib import Path

import checkpoints
import pytest
from run_workflow import Ran, snakemake, write_recordings

pytestmark = pytest.mark.slow  # half a minute

PARTS = 4
LOGITS = [f"out/logits/part-{part:05d}.parquet" for part in range(PARTS)]


def run(folder: Path, parts_ahead: int, *options: str) -> Ran:
    """Run in `folder` up to the logits: a part for each recording."""
    settings = {"input": "input", "checkpoint": "x.pt", "labels": "labels.csv", "outdir": "out"}
    settings |= {"manifest": "{shard_size: 1}", "inference": "{shards_per_part: 1, device: cpu, attention: false}"}
    return snakemake(folder, *LOGITS, *options, **settings, preprocess=f"{{parts_ahead: {parts_ahead}}}")


@pytest.fixture(scope="module")
def inferred(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    write_recordings(folder / "input", PARTS)
    (folder / "labels.csv").write_text("name,aggregation,threshold\nFirst,max,0.5\nSecond,mean,\nThird,mean,\n")
    (folder / "x.pt").write_bytes(checkpoints.saved(checkpoints.classifier(stride=4)))
    ran = run(folder, 2, "--cores", "4")
    assert ran.status == 0, ran.output
    return folder


def test_a_shard_waits_until_the_part_before_those_that_may_wait_is_inferred(inferred: Path) -> None:
    for part in range(2, PARTS):
        prepared = (inferred / f"out/records/shard-{part:05d}.parquet").stat().st_mtime_ns
        assert prepared > (inferred / LOGITS[part - 2]).stat().st_mtime_ns
    assert not list((inferred / "out/segments").glob("*"))


def test_another_number_of_parts_repeats_nothing(inferred: Path) -> None:
    assert not run(inferred, 1, "--dry-run").jobs
    assert not run(inferred, 100, "--dry-run").jobs


def test_a_part_that_is_inferred_again_is_no_reason_to_prepare_the_shards_that_waited_for_it(inferred: Path) -> None:
    (inferred / LOGITS[0]).unlink()
    assert run(inferred, 2, "--dry-run").jobs == {"preprocess": 1, "infer": 1}
