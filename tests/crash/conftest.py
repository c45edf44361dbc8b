"""What the crash tests share: a small dataset, results of a run that nothing happened to, and runs to crash."""

import functools
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import checkpoints
import pytest
from crashing import Run, Start, again, settings
from run_workflow import snakemake, write_recordings

# What a run that is to crash in its first jobs of preprocessing has behind it.
BEGINNING = ("out/checkpoint/model.json", "out/manifest/manifest.json", "out/precision/chosen.json")
SEGMENTS = [f"out/segments/shard-{shard:05d}.arrow" for shard in range(2)]


@pytest.fixture(scope="session", autouse=True)
def _linux() -> None:
    if sys.platform != "linux":
        pytest.skip("processes are held and watched as Linux does it")


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the recordings, the labels and the checkpoint."""
    folder = tmp_path_factory.mktemp("dataset")
    write_recordings(folder / "input", 14, seconds=20)
    (folder / "labels.csv").write_text("name,aggregation\nFirst,max\nSecond,mean\nThird,mean\n")
    (folder / "x.pt").write_bytes(checkpoints.saved(checkpoints.classifier(stride=4)))
    return folder


@pytest.fixture(scope="session")
def given(dataset: Path) -> dict[str, str]:
    """The settings of every run."""
    return settings(dataset)


@pytest.fixture(scope="session")
def undisturbed(given: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results of a run that nothing happened to."""
    folder = tmp_path_factory.mktemp("undisturbed")
    again(folder, given)
    return folder / "out"


@pytest.fixture(scope="session")
def begun(given: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that has come to the first jobs of preprocessing."""
    folder = tmp_path_factory.mktemp("begun")
    ran = snakemake(folder, *BEGINNING, **given)
    assert ran.status == 0, ran.output
    return folder


@pytest.fixture(scope="session")
def preprocess(begun: Path, given: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Callable[..., None]:
    """Have a copy of that run come to its first job of inference, with some settings changed; it is done once.

    A run that is to crash in inference then starts no real processes to preprocess the recordings.
    """

    @functools.cache
    def preprocessed(**changed: str) -> Path:
        folder = shutil.copytree(begun, tmp_path_factory.mktemp("preprocessed") / "run")
        ran = snakemake(folder, *SEGMENTS, "--notemp", **(given | changed))
        assert ran.status == 0, ran.output
        return folder

    def bring(folder: Path, **changed: str) -> None:
        shutil.copytree(preprocessed(**changed), folder, dirs_exist_ok=True)

    return bring


@pytest.fixture
def folder(begun: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return shutil.copytree(begun, tmp_path / "run")


@pytest.fixture
def start(folder: Path, given: dict[str, str]) -> Iterator[Start]:
    """Start a run in `folder` whose processes are ended when the test is over, whatever becomes of it."""
    runs: list[Run] = []

    def started(*targets: str, **changed: str) -> Run:
        runs.append(Run(folder, given | changed, *targets))
        return runs[-1]

    yield started
    for run in runs:
        run.end()
