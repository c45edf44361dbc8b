"""How long SLURM lets jobs of a partition run, as `sinfo` says it."""

from pathlib import Path

import pytest

from ecgpipe.workflow import slurm


@pytest.fixture(autouse=True)
def asked_anew() -> None:
    slurm._time_limits.cache_clear()


def sinfo(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """Put a `sinfo` of this text on the PATH."""
    (folder / "sinfo").write_text(f"#!/bin/sh\n{script}\n")
    (folder / "sinfo").chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=":")


def test_limits_are_those_of_the_partitions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sinfo(tmp_path, monkeypatch, "printf 'cpu|2:30:00\\nlong|2-12:00:00\\nall|infinite\\nodd|name|10:00\\nno|n/a\\n'")
    limits = {name: slurm.time_limit(name) for name in ("cpu", "long", "all", "odd|name", "no", "unknown")}
    assert limits == {"cpu": 150, "long": 3600, "all": None, "odd|name": 10, "no": None, "unknown": None}
    assert slurm.time_limit(None) is None


def test_of_several_partitions_the_longest_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sinfo(tmp_path, monkeypatch, "printf 'cpu|30:00\\nlong|4:00:00\\nall|infinite\\n'")
    assert [slurm.time_limit(names) for names in ("cpu,long", "cpu,all")] == [240, None]


@pytest.mark.parametrize("script", ["exit 1", "echo slurm_load_partitions: no answer >&2; exit 1"])
def test_a_slurm_that_does_not_answer_sets_no_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str
) -> None:
    sinfo(tmp_path, monkeypatch, script)
    assert slurm.time_limit("cpu") is None


def test_without_slurm_there_is_no_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert slurm.time_limit("cpu") is None
