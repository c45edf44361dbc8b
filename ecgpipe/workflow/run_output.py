"""What a run prints: what it found, how far it has come, what went wrong. Its length does not grow with the run.

Snakemake hands its messages to `RunOutput` through its logger plugin interface (`snakemake_logger_plugin_ecgpipe`).
Everything else that Snakemake says stands in its own log file.
"""

import json
import logging
import re
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from ecgpipe.workflow.snakemake_compat import explain_error

# The attribute of a log record by which the Snakefile tells who runs, and where.
FACTS = "ecgpipe"

# Seconds that a job of each rule takes on two cores in a small run: the weights of the first percentages. What jobs
# really take replaces them as soon as one has ended.
FIRST_GUESS_S: Mapping[str, float] = {
    **{"checkpoint": 10, "manifest": 5, "preprocess": 5, "sample": 2, "precision": 5, "infer": 60, "aggregate": 3},
    **{
        "umap": 15,
        "examples": 5,
        "attribute": 20,
        "evaluate": 10,
        "summary": 3,
        "figures": 10,
        "report": 6,
        "verdict": 1,
    },
}

# Rules of which a run has many jobs: the progress line counts them.
COUNTED = ("preprocess", "infer")

# A log file gets a line for each tenth of the run, a terminal redraws one line.
TENTHS = 10

# Lines of a failed job's log that are shown if it says nothing plainer.
LAST_LINES = 8

# How a command says how far it has come, see `core.logs.Progress`.
_METER = re.compile(r"(?P<done>\d+)/(?P<total>\d+) \[(?P<elapsed>[\d:]+)<")

# What Snakemake says of itself at the end of a failed run; the failed jobs have been shown by then.
_REPEATED = ("Exiting because a job execution failed", "At least one job did not complete successfully")


@dataclass
class Job:
    """A job at work."""

    rule: str
    name: str  # e.g. "infer part 3"
    logs: list[str]
    started: float


@dataclass
class Progress:
    """How many jobs of each rule there are, and how long they take."""

    total: Counter[str] = field(default_factory=Counter)
    done: Counter[str] = field(default_factory=Counter)
    seconds: Counter[str] = field(default_factory=Counter)  # of the jobs that are done
    at_once: Counter[str] = field(default_factory=Counter)  # the most jobs that were at work together

    def mean_s(self, rule: str) -> float:
        """What a job of a rule takes."""
        if self.done[rule]:
            return max(self.seconds[rule] / self.done[rule], 0.01)
        return FIRST_GUESS_S.get(rule, 5)

    def fraction(self, running: Mapping[str, float]) -> float:
        """The share of the work that is done, from 0 to 1.

        Args:
            running: By rule, the sum of the fractions of its jobs at work that are done.
        """
        work = sum(self.mean_s(rule) * n for rule, n in self.total.items())
        done = sum(self.mean_s(rule) * min(self.done[rule] + running.get(rule, 0), n) for rule, n in self.total.items())
        return done / work if work else 0

    def left_s(self, running: Mapping[str, float]) -> float | None:
        """Seconds until the run ends; None while no job of the rules that take longest has told how long they take.

        Preprocessing and inference go on at the same time, and what comes after them does not.
        """
        if self.total["infer"] and not self.done["infer"] and not running.get("infer"):
            return None
        left = {
            rule: self.mean_s(rule) * max(n - self.done[rule] - running.get(rule, 0), 0) / max(self.at_once[rule], 1)
            for rule, n in self.total.items()
        }
        together = max((left.pop(rule, 0.0) for rule in COUNTED), default=0.0)
        return together + sum(left.values())


class RunOutput:
    """The lines of one run, from the messages of Snakemake.

    Args:
        stream: Where they go.
        is_terminal: Whether a line there can be redrawn.
        clock: Seconds, for tests.
    """

    def __init__(self, stream: TextIO, is_terminal: bool, clock: Callable[[], float] = time.monotonic) -> None:
        self.stream, self.is_terminal, self.clock = stream, is_terminal, clock
        self.progress = Progress()
        self.jobs: dict[int, Job] = {}
        self.count_jobs: Callable[[], Counter[str]] | None = None
        self.outdir: Path | None = None
        self.tenths = 0
        self.drawn = ""
        self.failed: set[int] = set()

    def handle(self, record: logging.LogRecord) -> None:
        """Take a message of Snakemake."""
        event = str(getattr(record, "event", None) or "")
        facts = getattr(record, FACTS, None)
        if facts is not None:
            self.count_jobs, self.outdir = facts.get("count_jobs", self.count_jobs), facts.get("outdir", self.outdir)
            self.say(record.getMessage())
        elif event == "run_info":
            self.plan(record.stats)  # type: ignore[attr-defined]
        elif event == "job_info":
            self.begin(record)
        elif event == "job_finished":
            self.end(record.job_id)  # type: ignore[attr-defined]
        elif event in ("job_error", "group_error"):
            self.fail(record)
        elif record.levelno >= logging.WARNING and not str(record.msg).startswith(_REPEATED):
            self.say(explain_error(str(record.msg), sys.argv[1:]))
        elif not event and str(record.msg).startswith("Nothing to be done"):
            self.say("Nothing to be done: all results are there, and of these inputs and settings.")

    def plan(self, stats: Mapping[str, int]) -> None:
        """Take the number of jobs by rule."""
        self.progress.total = Counter({rule: n for rule, n in stats.items() if rule not in ("total", "all")})

    def begin(self, record: logging.LogRecord) -> None:
        """A job begins."""
        told: dict[str, Any] = record.__dict__
        rule = told["rule_name"]
        if rule == "all":
            return
        self.recount()
        wildcards = " ".join(f"{name} {int(value)}" for name, value in told["wildcards"].items() if value.isdigit())
        self.jobs[told["jobid"]] = Job(rule, f"{rule} {wildcards}".strip(), list(told["log"]), self.clock())
        at_work = Counter(job.rule for job in self.jobs.values())
        self.progress.at_once[rule] = max(self.progress.at_once[rule], at_work[rule])
        self.draw()

    def recount(self) -> None:
        """Ask for the number of jobs once the scan of the inputs has told it."""
        if self.count_jobs and self.progress.done["manifest"] and not self.progress.total["preprocess"]:
            still, self.count_jobs = self.count_jobs(), None
            self.progress.total = self.progress.done + still

    def end(self, jobid: int) -> None:
        """A job has ended well."""
        job = self.jobs.pop(jobid, None)
        if job is None:
            return
        self.progress.done[job.rule] += 1
        self.progress.seconds[job.rule] += self.clock() - job.started  # type: ignore[assignment]
        if job.rule == "manifest" and self.outdir:
            for line in scan_lines(self.outdir):
                self.say(line)
        self.draw()

    def fail(self, record: logging.LogRecord) -> None:
        """A job has failed: what its log says last, and where that is."""
        told: dict[str, Any] = record.__dict__
        logs = [Path(path) for path in told.get("log") or told.get("aux_logs") or []]
        job = self.jobs.pop(told.get("jobid", -1), None)
        name = job.name if job else told.get("rule_name", "a group of jobs")
        self.say(f"{name} failed:")
        for line in failure_lines(logs):
            self.say(f"    {line}")
        for log in logs[:1]:
            self.say(f"    log: {log}")

    def draw(self) -> None:
        """Show how far the run has come, if there is something new to show."""
        if not self.progress.total:
            return
        at_work = list(self.jobs.values())
        running: Counter[str] = Counter()
        for job in at_work:
            fraction = fraction_done(job.logs)
            running[job.rule] += fraction  # type: ignore[assignment]
        share = min(self.progress.fraction(running), 1.0)
        line = self.line(share, running)
        if self.is_terminal:
            self.redraw(line)
        elif int(share * TENTHS) > self.tenths:
            self.tenths = int(share * TENTHS)
            self.stream.write(f"{line}\n")
            self.stream.flush()

    def line(self, share: float, running: Mapping[str, float]) -> str:
        """The line of progress."""
        pieces = [f"{share:4.0%}"]
        for rule in COUNTED:
            if self.progress.total[rule] > 1:
                pieces.append(f"{rule} {self.progress.done[rule]:,} of {self.progress.total[rule]:,}")
        now = list(dict.fromkeys(job.rule for job in self.jobs.values()))
        if now:
            pieces.append(", ".join(now))
        left = self.progress.left_s(running)
        if left is not None and share < 1:
            pieces.append(f"about {duration(left)} left")
        return " · ".join(pieces)

    def redraw(self, line: str) -> None:
        """Put a line in place of the last one of a terminal."""
        self.stream.write(f"\r\x1b[K{line}")
        self.stream.flush()
        self.drawn = line

    def say(self, text: str) -> None:
        """Print a line above that of the progress."""
        if self.drawn:
            self.stream.write("\r\x1b[K")
        self.stream.write(f"{text}\n")
        if self.drawn:
            self.stream.write(self.drawn)
        self.stream.flush()

    def close(self) -> None:
        """Remove the line of the progress."""
        if self.drawn:
            self.stream.write("\r\x1b[K")
            self.stream.flush()
            self.drawn = ""


def fraction_done(logs: list[str]) -> float:
    """How much of a job its log says is done, from 0 to 1."""
    for path in logs[:1]:
        try:
            with Path(path).open("rb") as file:
                file.seek(max(file.seek(0, 2) - 2000, 0))
                told = list(_METER.finditer(file.read().decode("utf-8", "replace")))
        except OSError:
            return 0.0
        if told:
            return min(int(told[-1]["done"]) / max(int(told[-1]["total"]), 1), 1.0)
    return 0.0


def failure_lines(logs: list[Path]) -> Iterator[str]:
    """What a failed job's logs say of the failure: the errors that a command names, else the last lines."""
    for path in logs:
        try:
            lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:
            continue
        errors = [line.partition("] error: ")[2] for line in lines if "] error: " in line]
        yield from errors or lines[-LAST_LINES:]


def scan_lines(outdir: Path) -> Iterator[str]:
    """What the scan of the inputs found."""
    try:
        manifest = json.loads((outdir / "manifest" / "manifest.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return
    recordings, shards = manifest["n_recordings"], manifest["n_shards"]
    yield f"{recordings:,} recording{'' if recordings == 1 else 's'} in {shards:,} shard{'' if shards == 1 else 's'}"


def duration(seconds: float) -> str:
    """A time left, as exactly as it is known."""
    if seconds < 90:
        return f"{max(5, 5 * round(seconds / 5))} s"
    if seconds < 90 * 60:
        return f"{round(seconds / 60)} min"
    return f"{seconds / 3600:.1f} h"
