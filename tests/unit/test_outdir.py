"""A folder of results: one run at a time, and nothing in it that is unfinished or of no run."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ecgpipe import atomic, outdir
from ecgpipe.errors import EcgpipeError


@pytest.fixture(autouse=True)
def _no_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """`take` tells the jobs of this process by its environment whose they are."""
    monkeypatch.setenv(atomic.RUN, "")


def other_process(folder: Path) -> subprocess.CompletedProcess[str]:
    code = f"""
import os
from pathlib import Path
from ecgpipe import atomic, outdir
lock = outdir.take(Path({str(folder)!r}))
print(os.environ[atomic.RUN], end="")
"""
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


def test_a_second_process_is_refused_as_long_as_the_first_one_has_the_folder(tmp_path: Path) -> None:
    folder = tmp_path / "out" / "deep"
    lock = outdir.take(folder)
    assert lock is not None
    refused = other_process(folder)
    assert refused.returncode != 0
    assert f"outdir: another run is at work in {folder}" in refused.stderr
    lock.release()
    assert other_process(folder).returncode == 0


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written_to_is_said(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir(mode=0o500)
    with pytest.raises(EcgpipeError, match="outdir: cannot write to"):
        outdir.take(tmp_path / "out")


def test_a_job_of_a_run_that_another_has_followed_finishes_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = outdir.take(tmp_path)
    assert first is not None
    of_the_first = os.environ[atomic.RUN]
    with atomic.whole(tmp_path / "a") as path:
        path.write_text("by the first")
    first.release()
    second = outdir.take(tmp_path)
    with atomic.whole(tmp_path / "a") as path:
        path.write_text("by the second")
    monkeypatch.setenv(atomic.RUN, of_the_first)
    with (
        pytest.raises(EcgpipeError, match="belongs to a run that was killed"),
        atomic.whole(tmp_path / "a") as path,
    ):
        path.write_text("late, by the first")
    assert (tmp_path / "a").read_text() == "by the second"
    assert not list(tmp_path.glob("*.tmp"))
    assert second is not None


def test_a_job_whose_run_lives_no_more_finishes_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(atomic.RUN, other_process(tmp_path).stdout)
    with (
        pytest.raises(EcgpipeError, match="belongs to a run that was killed"),
        atomic.whole(tmp_path / "a") as path,
    ):
        path.write_text("by nobody's job")
    assert not list(tmp_path.glob("*a*"))


def test_whether_a_run_on_another_machine_lives_is_not_guessed_from_its_process_id(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, process, _, owner = other_process(tmp_path).stdout.split(" ", 3)
    monkeypatch.setenv(atomic.RUN, f"{name} {process} another {owner}")
    with atomic.whole(tmp_path / "a") as path:
        path.write_text("by a job on a node of a cluster")
    assert (tmp_path / "a").exists()


def test_what_killed_jobs_left_unfinished_is_removed_and_nothing_else(tmp_path: Path) -> None:
    kept = ["run.json", ".lock", "logits/part-00000.parquet", "logs/x.tmp", "logs/infer/.x.log"]
    left = [".run.json.17.tmp", "logits/.part-00000.parquet.4711.tmp"]
    for name in kept + left:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert outdir.clear_up(tmp_path) == 2
    assert {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()} == set(kept)


def test_shards_and_parts_beyond_those_of_the_run_are_removed_and_nothing_else(tmp_path: Path) -> None:
    kept = ["records/shard-00002.parquet", "logits/part-00000.parquet", "timing/part-00000.json", "run.json"]
    kept += ["manifest/files.parquet", "logits/part-of-mine.parquet", "logits/other-00009.parquet", "x/shard-.parquet"]
    left = ["records/shard-00003.parquet", "logits/part-00001.parquet", "timing/part-00012.json"]
    left += ["segments/shard-100000.arrow"]
    for name in kept + left:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert outdir.remove_surplus(tmp_path, shards=3, parts=1) == len(left)
    assert {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()} == set(kept)
