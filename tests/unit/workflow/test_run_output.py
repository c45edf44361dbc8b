"""What a run prints, from the messages of Snakemake."""

import io
import json
import logging
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from ecgpipe.workflow.run_output import FACTS, RunOutput, duration


class Clock:
    """Seconds that pass when a test says so."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


class Said:
    """An output, and what it has written."""

    def __init__(self, is_terminal: bool = False) -> None:
        self.stream, self.clock = io.StringIO(), Clock()
        self.output = RunOutput(self.stream, is_terminal, self.clock)
        self.jobs = 0

    def message(self, text: str = "", level: int = logging.INFO, **facts: Any) -> None:  # noqa: ANN401
        """Snakemake says something."""
        record = logging.LogRecord("snakemake", level, "", 0, text, None, None)
        record.__dict__.update(facts)
        self.output.handle(record)

    def begin(self, rule: str, *logs: Path, **wildcards: str) -> int:
        """A job begins."""
        self.jobs += 1
        job: dict[str, Any] = {
            "jobid": self.jobs,
            "rule_name": rule,
            "log": list(map(str, logs)),
            "wildcards": wildcards,
        }
        self.message(event="job_info", **job)
        return self.jobs

    def run(self, rule: str, seconds: float = 1, **wildcards: str) -> None:
        """A job begins and ends."""
        job = self.begin(rule, **wildcards)
        self.clock.now += seconds
        self.message(event="job_finished", job_id=job)

    @property
    def lines(self) -> list[str]:
        return self.stream.getvalue().splitlines()


def stats(**jobs: int) -> dict[str, Any]:
    return {"event": "run_info", "stats": {**jobs, "all": 1, "total": sum(jobs.values()) + 1}}


def test_snakemakes_own_words_are_left_out_but_for_warnings_and_errors() -> None:
    said = Said()
    said.message("Building DAG of jobs...")
    said.message("Select jobs to execute...")
    said.message("a warning", logging.WARNING)
    said.message("WorkflowError: input: nowhere is not there", logging.ERROR)
    said.message("Exiting because a job execution failed. Look below for error messages", logging.ERROR)
    assert said.lines == ["a warning", "WorkflowError: input: nowhere is not there"]


def test_a_run_with_nothing_to_do_says_so() -> None:
    said = Said()
    said.message("Nothing to be done (all requested files are present and up to date).")
    assert said.lines == ["Nothing to be done: all results are there, and of these inputs and settings."]


@pytest.mark.parametrize("parts", [1, 7, 1000])
def test_a_log_file_gets_ten_lines_at_most_however_many_jobs_there_are(parts: int) -> None:
    said = Said()
    said.message(**stats(checkpoint=1, preprocess=20 * parts, infer=parts, umap=1))
    said.run("checkpoint")
    for part in range(parts):
        for shard in range(20):
            said.run("preprocess", shard=f"{20 * part + shard:05d}")
        said.run("infer", part=f"{part:05d}")
    said.run("umap")
    assert len(said.lines) <= 10
    assert said.lines[-1].startswith("100%")
    shares = [int(line.partition("%")[0]) for line in said.lines]
    assert shares == sorted(shares)


def test_the_jobs_that_the_scan_makes_known_are_counted_then(tmp_path: Path) -> None:
    said = Said()
    (tmp_path / "manifest").mkdir()
    (tmp_path / "manifest" / "manifest.json").write_text(json.dumps({"n_recordings": 2400, "n_shards": 3}))
    count = lambda: Counter({"preprocess": 3, "infer": 1})  # noqa: E731
    said.message("ecgpipe: in -> out", **dict[str, Any]({FACTS: {"count_jobs": count, "outdir": tmp_path}}))
    said.message(**stats(manifest=1, umap=1))
    said.run("manifest")
    said.begin("preprocess", shard="00000")
    assert said.lines[:2] == ["ecgpipe: in -> out", "2,400 recordings in 3 shards"]
    assert said.output.progress.total == {"manifest": 1, "preprocess": 3, "infer": 1}


def test_the_time_left_is_told_once_inference_says_how_fast_it_is(tmp_path: Path) -> None:
    said = Said(is_terminal=True)
    said.message(**stats(preprocess=2, infer=2))
    said.run("preprocess", 10)
    assert "left" not in said.output.drawn
    log = tmp_path / "infer.log"
    said.begin("infer", log, part="00000")
    assert "left" not in said.output.drawn
    log.write_text("[infer] part-00000: 10% 10/100 [00:10<01:30, 1.00 segments/s]\n")
    said.output.draw()
    assert said.output.drawn.endswith("about 2 min left")  # 1.9 jobs of a minute, as was guessed


def test_what_a_failed_job_says_is_shown_with_its_log(tmp_path: Path) -> None:
    said = Said()
    log = tmp_path / "infer.log"
    log.write_text("[infer] begun\n[infer] error: inference.batch_size: 7 is too much; give less\n")
    job = said.begin("infer", log, part="00003")
    said.message("x", logging.ERROR, event="job_error", jobid=job, rule_name="infer", log=[str(log)])
    assert said.lines == [
        "infer part 3 failed:",
        "    inference.batch_size: 7 is too much; give less",
        f"    log: {log}",
    ]


def test_a_job_that_fails_without_an_error_of_ours_shows_its_last_lines(tmp_path: Path) -> None:
    said = Said()
    log = tmp_path / "umap.log"
    log.write_text("".join(f"line {number}\n" for number in range(20)))
    job = said.begin("umap", log)
    said.message("x", logging.ERROR, event="job_error", jobid=job, rule_name="umap", log=[str(log)])
    assert said.lines[1:-1] == [f"    line {number}" for number in range(12, 20)]


def test_a_terminal_has_one_line_that_is_redrawn_and_gone_in_the_end() -> None:
    said = Said(is_terminal=True)
    said.message(**stats(checkpoint=1, umap=1))
    said.run("checkpoint")
    said.message("a warning", logging.WARNING)
    said.output.close()
    screen = [line.rpartition("\x1b[K")[2] for line in said.stream.getvalue().split("\n")]
    assert screen == ["a warning", ""]


@pytest.mark.parametrize(
    ("seconds", "words"), [(1, "5 s"), (62, "60 s"), (100, "2 min"), (3000, "50 min"), (9000, "2.5 h")]
)
def test_a_time_is_told_as_exactly_as_it_is_known(seconds: float, words: str) -> None:
    assert duration(seconds) == words
