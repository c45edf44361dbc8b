"""Benchmarks that write a made-up run, or files, and then measure commands: the commands take what was written."""

from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks import made_up, neighbors, scan, whole_dataset
from ecgpipe.cli import main
from ecgpipe.core.run import Run


def test_what_a_made_up_run_says_of_itself_is_read_as_a_run(tmp_path: Path) -> None:
    made_up.describe_run(tmp_path, 5, ["first", "second"])
    info = Run(tmp_path).info
    assert (info.counts.ok, info.counts.segments, info.checkpoint.labels) == (5, 10, ("first", "second"))


def test_neighbors_searches_and_compares_its_made_up_embeddings(tmp_path: Path) -> None:
    neighbors.write(tmp_path, recordings=30, dimensions=4)
    output = tmp_path / "neighbors.parquet"
    assert main(["neighbors", str(tmp_path), "--method", "exact", "--output", str(output)]) == 0
    labels = ["--labels", str(tmp_path / "labels.csv")]
    assert main(["compare", str(tmp_path), str(tmp_path), *labels, "--output", str(tmp_path / "out")]) == 0


def test_each_stage_takes_the_made_up_dataset(tmp_path: Path) -> None:
    whole_dataset.write(tmp_path, recordings=40, labels=3, with_embeddings=True)
    for stage in whole_dataset.STAGES:
        assert main(whole_dataset.command(stage, tmp_path, resamples=2)) == 0, stage


@pytest.mark.parametrize(("make", "recordings"), [(scan.wfdb, 2), (scan.npy, 4), (scan.table, 20)])
def test_each_kind_of_input_is_scanned(
    make: Callable[[Path, int], None], recordings: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scan.measure("four files", make, 4, tmp_path)
    assert f" {recordings} recordings, " in capsys.readouterr().out
