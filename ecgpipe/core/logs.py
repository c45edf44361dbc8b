"""What a command says: to the terminal, to its log file, and how far long work has come."""

import copy
import logging
import os
import re
import sys
import time
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

logger = logging.getLogger("ecgpipe")

# Environment variable of the jobs of a run that shows their progress itself: they write to their log files alone.
TO_LOG_ONLY = "ECGPIPE_TO_LOG_ONLY"

# What stands before a warning in a log file: by it the run's output finds the warnings.
WARNING_MARK = "warning: "


def start(stage: str, log_file: Path | None) -> None:
    """Send the messages of this process to stderr, and to `log_file` (made anew) where one is given.

    With the environment variable `TO_LOG_ONLY`, all that this process and its libraries write goes to the file alone.
    """
    handlers: list[logging.Handler] = [logging.StreamHandler(sys.stderr)]
    if log_file:
        log_file.parent.mkdir(parents=True, exist_ok=True)
        if os.environ.get(TO_LOG_ONLY):
            _redirect(log_file)  # stderr, with the tracebacks and warnings of libraries, is the file from here on
            handlers[0].addFilter(_mark_warning)
        else:
            handlers.append(logging.FileHandler(log_file, mode="w", encoding="utf-8"))
    for handler in handlers:
        handler.setFormatter(Visible(f"[{stage}] %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=handlers, force=True)
    # The transport underneath the hub client says one line per request at INFO.
    for chatty in ("httpx", "httpx2", "httpcore", "httpcore2"):
        logging.getLogger(chatty).setLevel(logging.WARNING)


@contextmanager
def limit(sayer: logging.Logger, level: int) -> Iterator[None]:
    """Keep back what a logger says below a level."""
    before = sayer.level
    sayer.setLevel(level)
    try:
        yield
    finally:
        sayer.setLevel(before)


def _redirect(path: Path) -> None:
    """Make a file, made anew, the standard output and error of this process and of those that it starts."""
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o666)
    sys.stdout.flush()
    sys.stderr.flush()
    os.dup2(file, sys.stdout.fileno())
    os.dup2(file, sys.stderr.fileno())
    os.close(file)


def _mark_warning(record: logging.LogRecord) -> bool:
    if record.levelno == logging.WARNING:
        record.msg, record.args = f"{WARNING_MARK}{record.getMessage()}", ()
    return True


class Visible(logging.Formatter):
    """A message is one line, whatever names of files it has in it: they forge no line, nor do they steer a terminal.

    Addresses lose the name and password that may stand before their host.
    """

    def format(self, record: logging.LogRecord) -> str:
        """The line, and those of a traceback, with an escape for each character that does not print."""
        record = copy.copy(record)
        record.msg, record.args = visible(record.getMessage()), ()
        return "\n".join(map(visible, super().format(record).split("\n")))


def visible(text: str) -> str:
    """A text in one line that does not steer a terminal, without passwords in addresses."""
    text = re.sub(r"(?<=://)[^/\s@]*@", "", text)
    return "".join(c if c.isprintable() or unicodedata.category(c) == "Zs" else ascii(c)[1:-1] for c in text)


class Progress:
    """Says now and then how much is done, how fast, and how long it will still take.

    Whole lines rather than a bar that redraws itself: several jobs share one terminal, and a log file has no cursor.

    Args:
        what: What the line speaks of, e.g. "part-00003".
        total: How many units there are, where that is known.
        unit: The plural of the unit, e.g. "segments".
        every_s: Seconds between two lines.
    """

    def __init__(self, what: str, total: int | None, unit: str, every_s: float = 10.0) -> None:
        self.what, self.total, self.unit, self.every_s = what, total, unit, every_s
        self.done = 0
        self.started = time.monotonic()
        self.next_line = self.started + min(2.0, every_s)

    @property
    def elapsed_s(self) -> float:
        """Seconds since the work began."""
        return time.monotonic() - self.started

    def add(self, n: int) -> None:
        """Count `n` more units as done, and say so if the last line is long enough ago."""
        self.done += n
        if time.monotonic() >= self.next_line:
            self.say()

    def say(self) -> None:
        """Log the line now: done, total, rate, time left."""
        self.next_line = time.monotonic() + self.every_s
        from tqdm import tqdm  # not for Snakemake and its jobs on a cluster, which load this module

        meter = tqdm.format_meter(self.done, self.total or 0, self.elapsed_s, unit=f" {self.unit}", ncols=0)
        logger.info("%s: %s", self.what, meter.strip())


def describe_duration(seconds: float) -> str:
    """Say a duration as exactly as it is known."""
    if seconds < 90:
        return f"{max(5, 5 * round(seconds / 5))} s"
    if seconds < 90 * 60:
        return f"{round(seconds / 60)} min"
    return f"{seconds / 3600:.1f} h"
