"""A run that is given several GPUs has as many inference jobs at once, which share its cores."""

import re
from pathlib import Path

import checkpoints
import pytest
from run_workflow import Ran, snakemake, write_recordings

pytestmark = pytest.mark.slow  # a quarter of a minute


PARTS = ["out/logits/part-00000.parquet", "out/logits/part-00001.parquet"]
SHARDS = ["out/segments/shard-00000.arrow", "out/segments/shard-00001.arrow"]


def run(folder: Path, *options: str) -> Ran:
    """Run in `folder` on four cores: two recordings in two shards and two parts."""
    settings = {"input": "input", "checkpoint": "x.pt", "labels": "labels.csv", "outdir": "out"}
    settings |= {"manifest": "{shard_size: 1}", "inference": "{shards_per_part: 1, device: cpu}"}
    return snakemake(folder, "--cores", "4", *options, **settings)


@pytest.fixture(scope="module")
def preprocessed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of which only the inference is left."""
    folder = tmp_path_factory.mktemp("run")
    write_recordings(folder / "input", 2)
    (folder / "labels.csv").write_text("name,aggregation,threshold\nFirst,max,0.5\nSecond,mean,\nThird,mean,\n")
    (folder / "x.pt").write_bytes(checkpoints.saved(checkpoints.classifier(stride=4)))
    ran = run(folder, "out/checkpoint/model.json", "out/precision/chosen.json", *SHARDS, "--notemp")
    assert ran.status == 0, ran.output
    return folder


@pytest.mark.parametrize(
    ("options", "threads"),
    [
        ([], "4"),  # the default profile's one GPU
        (["--resources", "gpu=2"], "2"),
        (["--resources", "gpu=3"], "1"),
        (["--resources", "gpu=8"], "1"),
        (["--resources", "gpu=2", "--set-threads", "infer=3"], "3"),
    ],
)
def test_the_cores_are_shared_between_as_many_jobs_as_there_are_gpus(
    preprocessed: Path, options: list[str], threads: str
) -> None:
    ran = run(preprocessed, *PARTS, "--dry-run", "--printshellcmds", *options)
    assert re.findall(r"ecgpipe infer .* --threads (\d+)", ran.output) == [threads, threads], ran.output


def test_two_gpus_take_two_jobs_at_once_and_another_number_of_gpus_repeats_nothing(preprocessed: Path) -> None:
    ran = run(preprocessed, *PARTS, "--resources", "gpu=2")
    assert ran.status == 0, ran.output
    from_the_first_on = ran.output[ran.output.index("rule infer:") :]
    assert from_the_first_on.partition("Finished jobid")[0].count("rule infer:") == 2
    again = run(preprocessed, *PARTS, "--dry-run")
    assert not again.jobs, again.output
