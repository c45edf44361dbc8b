"""The scan of a run by itself becomes that of the study into whose folder the run was moved."""

import os
from pathlib import Path

import pytest

from ecgpipe.core.errors import EcgpipeError
from ecgpipe.workflow import moved_run

NAMES = ("manifest.json", "shard-00000.parquet", "files.parquet", "found.txt")


def write_scan(outdir: Path, shard: str, time: int) -> None:
    (outdir / "manifest").mkdir(parents=True)
    for name in (*NAMES, ".asked"):
        path = outdir / "manifest" / name
        path.write_text(shard if name.startswith("shard") else "{}")
        os.utime(path, (time, time))


def test_a_study_without_a_scan_gets_that_of_the_run_with_its_times(tmp_path: Path) -> None:
    write_scan(tmp_path / "a", "of the same", 1000)
    assert moved_run.has_own_scan(tmp_path / "a")
    moved_run.refuse_other_recordings(tmp_path, [tmp_path / "a"])
    moved_run.take_scan(tmp_path, tmp_path / "a")
    assert not (tmp_path / "a" / "manifest").exists()
    assert {path.name: path.stat().st_mtime for path in (tmp_path / "manifest").iterdir()} == dict.fromkeys(NAMES, 1000)
    assert not moved_run.has_own_scan(tmp_path / "a")


def test_a_second_run_over_the_same_recordings_makes_the_scan_no_newer_than_its_results(tmp_path: Path) -> None:
    write_scan(tmp_path, "of the same", 2000)
    write_scan(tmp_path / "b", "of the same", 1000)
    moved_run.refuse_other_recordings(tmp_path, [tmp_path / "b"])
    moved_run.take_scan(tmp_path, tmp_path / "b")
    assert not (tmp_path / "b" / "manifest").exists()
    assert (tmp_path / "manifest" / "shard-00000.parquet").stat().st_mtime == 1000


def test_a_run_over_other_recordings_is_refused_and_stays_as_it_is(tmp_path: Path) -> None:
    write_scan(tmp_path, "of the same", 2000)
    write_scan(tmp_path / "b", "of others", 1000)
    with pytest.raises(EcgpipeError, match=r"holds a run by itself, over other recordings .* move it away"):
        moved_run.refuse_other_recordings(tmp_path, [tmp_path / "b"])
    assert (tmp_path / "b" / "manifest" / "shard-00000.parquet").read_text() == "of others"
    assert (tmp_path / "manifest" / "shard-00000.parquet").stat().st_mtime == 2000


def test_of_two_runs_that_are_moved_at_once_the_second_is_refused_if_it_has_other_recordings(tmp_path: Path) -> None:
    write_scan(tmp_path / "a", "of the first", 1000)
    write_scan(tmp_path / "b", "of others", 1000)
    both = [tmp_path / "a", tmp_path / "b"]
    with pytest.raises(EcgpipeError, match=r"b holds a run by itself, over other recordings"):
        moved_run.refuse_other_recordings(tmp_path, both)
    # Also after a study was killed while it took the first one's scan.
    (tmp_path / "manifest").mkdir()
    (tmp_path / "a" / "manifest" / NAMES[1]).replace(tmp_path / "manifest" / NAMES[1])
    with pytest.raises(EcgpipeError, match=r"b holds a run by itself, over other recordings"):
        moved_run.refuse_other_recordings(tmp_path, both)
    (tmp_path / "b" / "manifest" / NAMES[1]).write_text("of the first")
    moved_run.refuse_other_recordings(tmp_path, both)


def test_a_dry_run_plans_with_the_oldest_scan_of_those_that_were_moved(tmp_path: Path) -> None:
    for name, time in {"a": 3000, "b": 1000, "c": 2000}.items():
        write_scan(tmp_path / name, "of the same", time)
    (tmp_path / "d").mkdir()
    folders = [tmp_path / name for name in "abcd"]
    assert moved_run.foresee_scan(folders) == tmp_path / "b"
    assert moved_run.foresee_scan(folders[3:]) is None


@pytest.mark.parametrize("kept", ["manifest.json", "shard-00000.parquet"])
def test_a_study_that_was_killed_in_the_middle_takes_the_rest(tmp_path: Path, kept: str) -> None:
    write_scan(tmp_path / "a", "of the same", 1000)
    (tmp_path / "manifest").mkdir()
    (tmp_path / "a" / "manifest" / "found.txt").replace(tmp_path / "manifest" / "found.txt")
    moved_run.take_scan(tmp_path, tmp_path / "a")
    assert (tmp_path / "manifest" / kept).is_file()
