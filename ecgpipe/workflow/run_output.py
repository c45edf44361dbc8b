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

from ecgpipe.core.logs import WARNING_MARK, describe_duration
from ecgpipe.workflow import last_words
from ecgpipe.workflow.snakemake_compat import FACTS, explain_error

# Seconds that a job of each rule takes on two cores in a small run: the weights of the first percentages. What jobs
# really take replaces them as soon as one has ended.
FIRST_GUESS_S: Mapping[str, float] = {
    **{"checkpoint": 10, "manifest": 5, "preprocess": 5, "sample": 2, "precision": 5, "infer": 60, "aggregate": 3},
    **{
        "umap": 15,
        "umap_fit": 60,
        "umap_place": 10,
        "examples": 5,
        "attribute": 20,
        "evaluate": 10,
        "summary": 3,
        "figures": 10,
        "report": 6,
        "verdict": 1,
        "study": 20,
    },
}

# Rules of which a run has many jobs: the progress line counts them.
COUNTED = ("preprocess", "infer")

# Rules after which more jobs are known.
CHECKPOINTS = ("manifest", "precision")

# A log file gets a line for each tenth of the run, a terminal redraws one line.
TENTHS = 10

# Lines of a failed job's log that are shown if it says nothing plainer.
LAST_LINES = 8

# Characters of a reason in a dry run.
REASON = 90

# Failed jobs that are shown, and kinds of warnings of jobs.
MOST_FAILURES, MOST_WARNINGS = 5, 10

# Bytes at the end of a job's log in which its warnings are looked for.
LOG_BYTES = 65_536

# How a command says how far it has come, see `core.logs.Progress`.
_METER = re.compile(r"(?P<done>\d+)/(?P<total>\d+) \[(?P<elapsed>[\d:]+)<")

# What Snakemake says of itself at the end of a failed run; the failed jobs have been shown by then.
_REPEATED = (
    "Exiting because a job execution failed",
    "At least one job did not complete successfully",
    "WorkflowError:\nAt least one job did not complete successfully",
    "RuleException:\nCalledProcessError",  # a job's exit status, and its whole shell line
)


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
        is_dry_run: Whether no job will run.
        clock: Seconds, for tests.
        is_stopping: Whether the run was told to stop, so that the jobs which end by that are no failures.
    """

    def __init__(
        self,
        stream: TextIO,
        is_terminal: bool,
        is_dry_run: bool = False,
        clock: Callable[[], float] = time.monotonic,
        is_stopping: Callable[[], bool] = last_words.is_stopping,
    ) -> None:
        self.stream, self.is_terminal, self.is_dry_run = stream, is_terminal, is_dry_run
        self.clock, self.is_stopping = clock, is_stopping
        self.progress = Progress()
        self.jobs: dict[int, Job] = {}
        self.reasons: dict[str, str] = {}  # of a dry run, by rule
        self.count_jobs: Callable[[], Counter[str]] | None = None
        self.plan: Callable[[], str] | None = None
        self.outdir: Path | None = None
        self.is_recount_due = False
        self.is_scan_counted = False  # whether the jobs that the scan of the inputs has made known are counted
        self.share, self.tenths = 0.0, 0
        self.drawn = ""
        self.failures = 0
        self.warnings: Counter[str] = Counter()  # by text without its numbers

    def handle(self, record: logging.LogRecord) -> None:
        """Take a message of Snakemake."""
        event = str(getattr(record, "event", None) or "")
        facts = getattr(record, FACTS, None)
        if facts is not None:
            self.take_facts(record.getMessage(), facts)
        elif event == "run_info":
            self.take_stats(record.stats)  # type: ignore[attr-defined]
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
        elif not event and str(record.msg).startswith("This was a dry-run"):
            self.show_dry_run()

    def take_facts(self, text: str, facts: Mapping[str, Any]) -> None:
        """Take what the run says of itself; the last words come after the progress."""
        self.count_jobs, self.plan = facts.get("count_jobs", self.count_jobs), facts.get("plan", self.plan)
        self.outdir = facts.get("outdir", self.outdir)
        if facts.get("ended"):
            self.close()
            if self.is_stopping():
                return
            if self.failures > MOST_FAILURES:
                self.say(f"{self.failures - MOST_FAILURES:,} more jobs failed")
            hidden = sum(self.warnings.values()) - min(len(self.warnings), MOST_WARNINGS)
            if hidden:
                self.say(f"{hidden:,} more warnings of these kinds in {self.outdir}/logs")
        if text:
            self.say(text)

    def take_stats(self, stats: Mapping[str, int]) -> None:
        """Take the number of jobs by rule."""
        self.progress.total = count_by_rule({rule: n for rule, n in stats.items() if rule != "total"})

    def show_dry_run(self) -> None:
        """Say which jobs would run, a line for each rule, and why the first of them would."""
        total = self.progress.total
        if not total:
            self.say("Dry run: nothing would be done but the scan of the inputs.")
            return
        self.say("Dry run: these jobs would run, and those that the scan of the inputs makes known.")
        for rule, n in total.items():
            self.say(f"    {n:>7,} {rule:<11} {self.reasons.get(rule, '')}".rstrip())

    def begin(self, record: logging.LogRecord) -> None:
        """A job begins."""
        told: dict[str, Any] = record.__dict__
        rule = name_rule(told["rule_name"])
        if rule == "all":
            return
        if self.is_dry_run:
            self.reasons.setdefault(rule, shorten_reason(str(told.get("reason") or "")))
            return
        self.recount()
        given = told["wildcards"]
        numbers = (f"{name} {int(value)}" for name, value in given.items() if value.isdigit() and name != "model")
        wildcards = " ".join([*([given["model"]] if "model" in given else []), *numbers])
        self.jobs[told["jobid"]] = Job(rule, f"{rule} {wildcards}".strip(), list(told["log"]), self.clock())
        at_work = Counter(job.rule for job in self.jobs.values())
        self.progress.at_once[rule] = max(self.progress.at_once[rule], at_work[rule])
        self.draw()

    def recount(self) -> None:
        """Count the jobs again after one that made more of them known."""
        if self.count_jobs and self.is_recount_due:
            try:
                still = self.count_jobs()
            except RuntimeError:  # Snakemake, in its own thread, changes the jobs right now: at the next one again
                return
            self.is_recount_due = False
            still = count_by_rule(still)
            self.progress.total = self.progress.done + still
            self.is_scan_counted = not still["manifest"]
            if self.plan and (still["preprocess"] or still["infer"]):
                self.say(self.plan())
                self.plan = None

    def end(self, jobid: int) -> None:
        """A job has ended well."""
        job = self.jobs.pop(jobid, None)
        if job is None:
            return
        self.progress.done[job.rule] += 1
        self.is_recount_due |= job.rule in CHECKPOINTS
        self.progress.seconds[job.rule] += self.clock() - job.started  # type: ignore[assignment]
        for text in read_warnings(job.logs):
            self.warn(text)
        if job.rule == "manifest" and self.outdir:
            for line in scan_lines(self.outdir):
                self.say(line)
        self.draw()

    def warn(self, text: str) -> None:
        """Say a warning of a job, unless one that differs in its numbers alone has been said."""
        kind = re.sub(r"\d+", "#", text)
        self.warnings[kind] += 1
        if self.warnings[kind] == 1 and len(self.warnings) <= MOST_WARNINGS:
            self.say(f"warning: {text}")

    def fail(self, record: logging.LogRecord) -> None:
        """A job has failed: what its log says last, and where that is."""
        if self.is_stopping():
            return
        self.failures += 1
        if self.failures > MOST_FAILURES:
            return
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
        if self.progress.total["manifest"] and self.count_jobs and not self.is_scan_counted:
            # Of the work to come, nearly all is unknown yet.
            if self.is_terminal:
                self.redraw(", ".join(self.rules_at_work()))
            return
        running: Counter[str] = Counter()
        for job in list(self.jobs.values()):
            fraction = fraction_done(job.logs)
            running[job.rule] += fraction  # type: ignore[assignment]
        # It never goes back, also where a recount makes more jobs known.
        self.share = share = max(self.share, min(self.progress.fraction(running), 1.0))
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
            if self.progress.total[rule] > max(1, self.progress.done[rule]):
                pieces.append(f"{rule} {self.progress.done[rule]:,} of {self.progress.total[rule]:,}")
        if now := self.rules_at_work():
            pieces.append(", ".join(now))
        left = self.progress.left_s(running)
        if left is not None and share < 1:
            pieces.append(f"about {describe_duration(left)} left")
        return " · ".join(pieces)

    def rules_at_work(self) -> list[str]:
        """The rules whose jobs are at work, each once."""
        return list(dict.fromkeys(job.rule for job in self.jobs.values()))

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


def name_rule(name: str) -> str:
    """What a rule is called: in a study, `preprocess_2` reads recordings for other models than `preprocess`."""
    return name.partition("_")[0] if name.startswith("preprocess_") else name


def count_by_rule(counts: Mapping[str, int]) -> Counter[str]:
    """The number of jobs by what their rules are called, without the one that asks for all results."""
    total: Counter[str] = Counter()
    for rule, n in counts.items():
        total[name_rule(rule)] += n
    total.pop("all", None)
    return total


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


def shorten_reason(reason: str) -> str:
    """The first of Snakemake's reasons for a job, in one line of a dry run."""
    first = re.sub(r"\S*/ecgpipe-settings-[^/]+/(\w+)\.json", r"settings of \1", reason.partition("; ")[0])
    return first if len(first) <= REASON else f"{first[: REASON - 3]}..."


def read_warnings(logs: list[str]) -> Iterator[str]:
    """The warnings in the log of a job, without the name of its stage."""
    for path in logs[:1]:
        try:
            with Path(path).open("rb") as file:
                file.seek(max(file.seek(0, 2) - LOG_BYTES, 0))
                lines = file.read().decode("utf-8", "replace").splitlines()
        except OSError:
            return
        for line in lines:
            _, mark, text = line.partition(f"] {WARNING_MARK}")
            if mark:
                yield text


def scan_lines(outdir: Path) -> Iterator[str]:
    """What the scan of the inputs found."""
    try:
        manifest = json.loads((outdir / "manifest" / "manifest.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return
    recordings, ignored = manifest["n_recordings"], manifest["ignored"]
    line = f"{recordings:,} recording{'' if recordings == 1 else 's'} found"
    if ignored:
        kinds = [f"{n:,} {reason}" for reason, n in ignored.items()]
        line += f"; other files: {', '.join(kinds[:3])}{', ...' if len(kinds) > 3 else ''}"
    yield line
