"""What Snakemake says of a command, for a run that no Snakemake runs."""

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import pytest

from ecgpipe.core import atomic


class Planner:
    """What Snakemake says: the main process or a job's, and whether jobs run."""

    def __init__(self, *, is_main_process: bool = True, runs_jobs: bool = True) -> None:
        self.is_main_process, self.runs_jobs, self.ignores = is_main_process, runs_jobs, 0
        self.shows_progress, self.cores, self.says = False, 2, list[str]()
        self.forgotten: list[Path] = []

    def forget(self, paths: Iterable[Path]) -> None:
        self.forgotten += paths

    def say(self, text: str, **facts: object) -> None:
        self.says.append(text)

    def count_jobs(self) -> Counter[str]:
        return Counter()

    def places(self) -> dict[str, str]:
        return {}

    def limit(self, resource: str) -> int | None:
        return {"gpu": 1}.get(resource)

    def lost_settings(self) -> None:
        return None

    def ignore_checksums(self) -> None:
        self.ignores += 1


@pytest.fixture
def of_no_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment variable that a run sets for its jobs is taken away after a test."""
    monkeypatch.setenv(atomic.RUN, "")
