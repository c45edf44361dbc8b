"""The run at work: when it locks, what it writes, and that a dry run and a job do neither."""

import os
from pathlib import Path

import checkpoints
import pytest
from planner import Planner, of_no_run  # noqa: F401, a fixture
from run_workflow import write_recordings

from ecgpipe.core import atomic
from ecgpipe.core.errors import EcgpipeError
from ecgpipe.workflow import run_lock
from ecgpipe.workflow.run_at_work import load_run

ROOT = Path(__file__).parents[3]

pytestmark = pytest.mark.usefixtures("of_no_run")


@pytest.fixture
def given(tmp_path: Path) -> dict[str, object]:
    """The settings of a run of one recording."""
    write_recordings(tmp_path / "input", 1)
    (tmp_path / "labels.csv").write_text("name,aggregation,threshold\nFirst,max,0.5\nSecond,mean,\nThird,mean,\n")
    (tmp_path / "x.pt").write_bytes(checkpoints.saved(checkpoints.classifier()))
    paths = {"input": "input", "checkpoint": "x.pt", "labels": "labels.csv", "outdir": "out"}
    return {key: str(tmp_path / name) for key, name in paths.items()} | {"inference": {"device": "cpu"}}


def test_a_run_locks_and_writes_its_settings_when_the_first_job_is_planned(given: dict[str, object]) -> None:
    planner, out = Planner(), Path(str(given["outdir"]))
    run = load_run(given, ROOT, planner)
    assert not out.exists()
    assert run.settings_file("infer", {"part": "00000"}) == f"{out}/settings/infer.json"
    assert (out / "settings" / "infer.json").is_file()
    assert run.asked() == [f"{out}/manifest/.asked"]
    assert planner.ignores == 1
    with pytest.raises(EcgpipeError, match="another run is at work"):
        load_run(given, ROOT, Planner()).plan()


def test_a_dry_run_writes_elsewhere_and_takes_the_settings_of_results_that_stay(given: dict[str, object]) -> None:
    out = Path(str(given["outdir"]))
    run = load_run(given, ROOT, Planner(runs_jobs=False))
    path = Path(run.settings_file("infer", {"part": "00000"}))
    assert path.is_file()
    assert not out.exists()
    assert run.asked() == []


def test_a_job_neither_locks_nor_writes(given: dict[str, object]) -> None:
    planner, out = Planner(is_main_process=False), Path(str(given["outdir"]))
    run = load_run(given, ROOT, planner)
    assert run.settings_file("umap", {}) == f"{out}/settings/umap.json"
    assert not out.exists()
    assert planner.ignores == 0


def test_a_job_of_a_run_that_was_killed_stops(given: dict[str, object], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(atomic.RUN, f"{'0' * 16} {2**22 + 1} {atomic._machine()} /nowhere")
    with pytest.raises(EcgpipeError, match="belongs to a run that was killed"):
        load_run(given, ROOT, Planner(is_main_process=False))


def test_a_users_file_that_would_be_overwritten_stops_the_run_once_the_shards_are_known(
    given: dict[str, object],
) -> None:
    out = Path(str(given["outdir"]))
    run = load_run(given, ROOT, Planner())
    run.plan()
    (out / "manifest" / "manifest.json").write_text('{"n_shards": 1, "n_recordings": 1, "settings": {}}')
    assert (run.n_shards(), run.n_recordings()) == (1, 1)
    run.refuse_foreign()
    (out / "logits").mkdir()
    (out / "logits" / "part-00000.parquet").write_text("mine")
    run.refuse_foreign()  # looked already
    other = load_run(given, ROOT, Planner())
    with pytest.raises(EcgpipeError, match=r"logits/part-00000\.parquet"):
        other.refuse_foreign()


def test_results_beyond_the_last_shard_go_only_for_a_run_that_has_the_folder(
    given: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[int, int]] = []

    def remove_surplus(_: Path, shards: int, parts: int) -> int:
        seen.append((shards, parts))
        return 3

    monkeypatch.setattr(run_lock, "remove_surplus", remove_surplus)
    out = Path(str(given["outdir"]))
    planner = Planner()
    run = load_run(given, ROOT, planner)
    run.plan()
    (out / "manifest" / "manifest.json").write_text('{"n_shards": 21, "settings": {}}')
    run.succeed()
    assert seen == [(21, 2)]
    assert planner.says[0].startswith("removed 3 results")
    load_run(given, ROOT, Planner(runs_jobs=False)).succeed()
    assert len(seen) == 1


def test_a_folder_that_cannot_be_written_to_is_named(given: dict[str, object], tmp_path: Path) -> None:
    if os.getuid() == 0:
        (tmp_path / "out").write_text("a file")
    else:
        tmp_path.chmod(0o555)
    with pytest.raises(EcgpipeError, match="outdir: cannot write to"):
        load_run(given, ROOT, Planner()).plan()
