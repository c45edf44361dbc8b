"""What a run prints, from the messages of Snakemake."""

import io
import json
import logging
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from ecgpipe.workflow.run_output import RunOutput
from ecgpipe.workflow.snakemake_compat import FACTS


class Clock:
    """Seconds that pass when a test says so."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


class Said:
    """An output, and what it has written."""

    def __init__(self, is_terminal: bool = False, is_dry_run: bool = False, is_stopping: bool = False) -> None:
        self.stream, self.clock = io.StringIO(), Clock()
        self.output = RunOutput(self.stream, is_terminal, is_dry_run, self.clock, lambda: is_stopping)
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


def test_a_run_with_nothing_to_do_reports_it() -> None:
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
    (tmp_path / "manifest" / "manifest.json").write_text(
        json.dumps({"n_recordings": 2400, "ignored": {"no known format, .txt": 12}})
    )
    count = lambda: Counter({"preprocess": 3, "infer": 1, "all": 1})  # noqa: E731
    facts = {"count_jobs": count, "outdir": tmp_path, "plan": lambda: "Plan: 3 min"}
    said.message("ecgpipe: in -> out", **dict[str, Any]({FACTS: facts}))
    said.message(**stats(manifest=1, umap=1))
    said.run("manifest")
    said.begin("preprocess", shard="00000")
    assert said.lines[:3] == [
        "ecgpipe: in -> out",
        "2,400 recordings found; other files: 12 no known format, .txt",
        "Plan: 3 min",
    ]
    assert said.output.progress.total == {"manifest": 1, "preprocess": 3, "infer": 1}


def test_the_time_left_is_reported_once_the_speed_of_inference_is_known(tmp_path: Path) -> None:
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


def test_the_message_of_a_failed_job_is_shown_with_its_log(tmp_path: Path) -> None:
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


def test_jobs_that_change_while_they_are_counted_are_counted_at_the_next_one() -> None:
    said, asked = Said(), []

    def count() -> Counter[str]:
        asked.append(said.jobs)
        if len(asked) == 1:
            raise RuntimeError("dictionary changed size during iteration")
        return Counter({"preprocess": 3})

    said.message("begun", **dict[str, Any]({FACTS: {"count_jobs": count}}))
    said.message(**stats(manifest=1))
    said.run("manifest")
    said.begin("checkpoint")
    assert said.output.progress.total["preprocess"] == 0
    said.begin("preprocess", shard="00000")
    assert said.output.progress.total["preprocess"] == 3


def test_progress_never_goes_back_when_more_jobs_become_known() -> None:
    said = Said()
    said.message("begun", **dict[str, Any]({FACTS: {"count_jobs": lambda: Counter({"infer": 1000})}}))
    said.message(**stats(manifest=1, precision=1))
    said.run("manifest", 60)
    said.run("precision", 60)
    said.run("infer", part="00000")
    shares = [int(line.partition("%")[0]) for line in said.lines if "%" in line]
    assert shares == sorted(shares)


def test_percentages_begin_when_the_scan_of_the_inputs_has_made_the_jobs_known() -> None:
    """Those of the few jobs before would be near the end, and stand there for most of a large run."""
    said, screen = Said(), Said(is_terminal=True)
    count = lambda: Counter({"preprocess": 200})  # noqa: E731
    for one in (said, screen):
        one.message("begun", **dict[str, Any]({FACTS: {"count_jobs": count}}))
        one.message(**stats(manifest=1, checkpoint=1, report=1))
        one.run("checkpoint", 60)
        one.begin("manifest")
    assert said.lines == ["begun"]
    assert screen.output.drawn == "manifest"
    said.message(event="job_finished", job_id=said.jobs)
    for shard in range(200):
        said.run("preprocess", shard=f"{shard:05d}")
    shares = [int(line.partition("%")[0]) for line in said.lines[1:]]
    assert shares[0] < 40
    assert shares[-1] >= 90
    assert len(shares) > 5


def test_a_warning_of_many_jobs_is_shown_once_and_the_others_are_counted(tmp_path: Path) -> None:
    said = Said()
    (tmp_path / "manifest").mkdir()
    for shard in range(3):
        log = tmp_path / f"{shard}.log"
        log.write_text(
            f"[preprocess] begun\n[preprocess] warning: shard-{shard:05d}: {shard} of 12 recordings failed\n"
        )
        job = said.begin("preprocess", log, shard=f"{shard:05d}")
        said.message(event="job_finished", job_id=job)
    said.message("9 recordings", **dict[str, Any]({FACTS: {"ended": True, "outdir": tmp_path}}))
    assert said.lines == [
        "warning: shard-00000: 0 of 12 recordings failed",
        f"2 more warnings of these kinds in {tmp_path}/logs",
        "9 recordings",
    ]


def test_a_thousand_failed_jobs_are_five_and_a_number() -> None:
    said = Said()
    for part in range(1000):
        job = said.begin("infer", part=f"{part:05d}")
        said.message("x", logging.ERROR, event="job_error", jobid=job, rule_name="infer", log=[])
    said.message("", **dict[str, Any]({FACTS: {"ended": True}}))
    assert said.lines == [*(f"infer part {part} failed:" for part in range(5)), "995 more jobs failed"]


def test_jobs_that_end_because_the_run_was_told_to_stop_are_no_failures() -> None:
    said = Said(is_stopping=True)
    job = said.begin("umap")
    said.message("x", logging.ERROR, event="job_error", jobid=job, rule_name="umap", log=[])
    said.message("all that Snakemake said: x.log", **dict[str, Any]({FACTS: {"ended": True}}))
    assert said.lines == []


def test_a_dry_run_is_a_line_for_each_rule_with_its_first_reason() -> None:
    said = Said(is_dry_run=True)
    said.message(**stats(manifest=1, preprocess=20))
    for shard in range(20):
        reason = f"Missing output files: out/records/shard-{shard:05d}.parquet; Input files updated by another job: x"
        said.message(
            event="job_info",
            jobid=shard,
            rule_name="preprocess",
            log=[],
            wildcards={"shard": f"{shard:05d}"},
            reason=reason,
        )
    changed = "Updated input files: /tmp/ecgpipe-settings-ab12/manifest.json"
    said.message(event="job_info", jobid=20, rule_name="manifest", log=[], wildcards={}, reason=changed)
    said.message("This was a dry-run (flag -n). The order of jobs does not reflect the order of execution.")
    assert said.lines == [
        "Dry run: these jobs would run, and those that the scan of the inputs makes known.",
        "          1 manifest    Updated input files: settings of manifest",
        "         20 preprocess  Missing output files: out/records/shard-00000.parquet",
    ]


def test_of_an_error_that_ecgpipe_raises_only_the_message_is_shown() -> None:
    said = Said()
    raised = """WorkflowError in file "/clone/workflow/rules/common.smk", line 13:
umap.neighbours: no such setting; did you mean 'neighbors'?
  File "/clone/workflow/rules/common.smk", line 13, in <module>
  File "/clone/ecgpipe/workflow/snakemake_compat.py", line 31, in errors_of_workflow"""
    said.message(raised, logging.ERROR, event="error")
    other = "NameError in file 'Snakefile', line 1:\nname 'x' is not defined"
    said.message(other, logging.ERROR, event="error")
    assert said.lines == ["error: umap.neighbours: no such setting; did you mean 'neighbors'?", *other.splitlines()]
