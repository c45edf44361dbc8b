"""Inputs and downloads that break off: nothing of it is recorded, and the same command works when they are back."""

import itertools
import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import checkpoints
import pyarrow.parquet as pq
import pytest
import torch
from crashing import REST, RESULTS, Start, advance, again, assert_equal, assert_no_file_is_torn, final, resume, until
from hub_server import Hub
from run_workflow import snakemake
from safetensors.torch import load_file

pytestmark = pytest.mark.slow  # minutes in all


class Away:
    """A file or folder that is moved away while the `with` block runs."""

    def __init__(self, path: Path) -> None:
        self.path, self.elsewhere = path, path.parent.parent / f"{path.name}.elsewhere"

    def __enter__(self) -> None:
        self.path.rename(self.elsewhere)

    def __exit__(self, *_: object) -> None:
        self.elsewhere.rename(self.path)


@pytest.mark.parametrize("how", ["renamed", "unmounted"])
def test_the_input_folder_goes_while_recordings_are_read_and_comes_back(
    how: str, folder: Path, given: dict[str, str], start: Start, undisturbed: Path
) -> None:
    inputs = Path(given["input"])
    run = start(*RESULTS)
    job = run.job("preprocess")
    with Away(inputs):
        if how == "unmounted":  # the place where it was is there, and empty
            inputs.mkdir()
        resume(job)
        assert run.ends() != 0
        what = "is empty now" if how == "unmounted" else "cannot be looked into now (No such file or directory)"
        says = f"was there when the inputs were scanned, and the folder {inputs} {what}; bring it back"
        assert says in run.output
        assert f"[preprocess] error: input: {inputs}/recording" in run.output
        assert "Traceback" not in run.output
        assert not list(folder.glob("out/records/*"))
        assert_no_file_is_torn(folder / "out")

        without = start(*RESULTS)
        assert without.ends() != 0
        says = f"no recordings in '{inputs}', no files at all" if how == "unmounted" else f"'{inputs}' does not exist"
        assert f"input: {says}" in without.output
        assert "rule preprocess:" not in without.output
        if how == "unmounted":
            inputs.rmdir()
    again(folder, given, *RESULTS)
    assert_equal(folder / "out", undisturbed, *REST)


def test_a_recording_that_was_not_there_for_a_while_is_not_recorded_as_one_that_cannot_be_read(
    folder: Path, given: dict[str, str], start: Start, undisturbed: Path
) -> None:
    run = start(*RESULTS, "--cores", "1")
    # Well before a job reads recordings. With one core there is only one job at a time.
    until(lambda: "(Rule: manifest)" in run.output)
    shards = sorted(folder.glob("out/manifest/shard-*.parquet"))
    with ExitStack() as away:
        for shard in shards:
            away.enter_context(Away(Path(pq.read_table(shard)["path"][0].as_py())))
        job = run.job("preprocess")
        advance(job, folder / "out", "segments/shard-*.arrow", 500_000)  # those after it are being read
    resume(job)
    assert run.ends() != 0
    assert "was not there for a while (1 files in all); run again" in run.output
    assert_no_file_is_torn(folder / "out")
    again(folder, given, *RESULTS)
    assert_equal(folder / "out", undisturbed, *REST)


def test_a_recording_that_is_removed_during_the_run_is_said_to_have_failed_and_the_next_run_knows_it_no_more(
    folder: Path, given: dict[str, str], start: Start, tmp_path: Path
) -> None:
    inputs = shutil.copytree(given["input"], tmp_path / "input")
    given = given | {"input": str(inputs)}
    records = ("out/records/shard-00000.parquet",)
    run = start(*records, input=str(inputs))
    job = run.job("preprocess")
    [path] = pq.read_table(folder / "out" / "manifest" / "shard-00000.parquet").slice(0, 1)["path"].to_pylist()
    Path(path).unlink()
    resume(job)
    assert run.ends() == 0, run.output
    table = pq.read_table(folder / records[0]).to_pylist()
    assert [(row["status"], row["reason"]) for row in table[:2]] == [
        ("failed", f"a file is not there ({Path(path).name})"),
        ("ok", None),
    ]
    again(folder, given, *records)
    assert pq.read_table(folder / records[0])["record_id"].to_pylist() == [row["record_id"] for row in table[1:]]


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub on loopback, and an empty cache."""
    for name in [name for name in os.environ if name.startswith("HF_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("NO_PROXY", "*")
    with Hub() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.endpoint)
        yield server


def test_the_download_of_the_checkpoint_breaks_off(
    hub: Hub, tmp_path: Path, given: dict[str, Any], undisturbed: Path
) -> None:
    content = checkpoints.saved(checkpoints.classifier(stride=4))
    hub.publish("wanglab/ecg-fm", "tiny.pt", content)
    given = given | {"checkpoint": "hf://wanglab/ecg-fm/tiny.pt"}
    target = "out/checkpoint/model.json"

    hub.cuts, hub.resets = itertools.repeat(len(content) // 2), True
    ran = snakemake(tmp_path, target, **given)
    assert ran.status != 0
    assert "error: checkpoint: cannot fetch tiny.pt of wanglab/ecg-fm from 127.0.0.1: " in ran.output
    assert "check the connection and HF_ENDPOINT and run again" in ran.output
    assert "Traceback" not in ran.output
    assert not list(tmp_path.glob("out/checkpoint/*"))

    hub.cuts, hub.resets = itertools.repeat(None), False
    again(tmp_path, given, target)
    assert_no_file_is_torn(tmp_path / "out")
    assert [path.name for path in final(tmp_path / "out" / "checkpoint")] == ["model.json", "model.safetensors"]
    # Not the bytes: the file also names its settings, and the checkpoint is named by another address here.
    weights, expected = (load_file(out / "checkpoint" / "model.safetensors") for out in (tmp_path / "out", undisturbed))
    assert weights.keys() == expected.keys()
    for name, tensor in weights.items():
        assert torch.equal(tensor, expected[name]), name
