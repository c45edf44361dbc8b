"""What a run says at its end: what became of the recordings, what failed, or how to resume."""

import atexit
import os
import signal
import sys
import threading
from pathlib import Path
from types import FrameType

from ecgpipe.core import results

# The signals by which this run was told to stop.
_received: list[int] = []


def closing_words(outdir: Path) -> str:
    """The last lines of a run: what became of the recordings, and where the report is.

    Args:
        outdir: The folder of results.

    Returns:
        An empty text where there is no report, as after a run of some rules only.
    """
    page, summary = outdir / results.path_of("report"), outdir / results.path_of("run")
    if not (page.exists() and summary.exists()):
        return ""
    from ecgpipe.core.run import read_info  # here, because PyArrow takes half a second of every job
    from ecgpipe.report.summary import closing_lines

    return "\n".join([*closing_lines(read_info(summary)), f"Report: {page.resolve()}"])


def mistakes(outdir: Path, since: float) -> str:
    """The error messages of the jobs that failed, to repeat them at the end of the output, where a person looks.

    Args:
        outdir: The folder of results.
        since: When the run started, in seconds since 1970; older logs are of earlier runs.
    """
    logs = (path for path in (outdir / "logs").rglob("*.log") if path.stat().st_mtime >= since)
    return "\n".join(line for path in sorted(logs) for line in path.read_text().splitlines() if "] error: " in line)


def is_stopping() -> bool:
    """Whether this run was told to stop."""
    return bool(_received)


def say_how_to_resume() -> None:
    """Print, after Snakemake's own last lines, that a run which was told to stop resumes with the same command.

    The first Ctrl-C or SIGTERM ends the run as Snakemake does. Further ones only print that the run waits for its jobs:
    otherwise they would leave a traceback, and jobs at work.
    """
    if threading.current_thread() is not threading.main_thread():
        return
    usual = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def stop(number: int, frame: FrameType | None) -> None:
        if _received:
            os.write(2, b"still stopping: the jobs at work have to end first\n")
            return
        _received.append(number)
        atexit.register(print, "stopped; the same command resumes", file=sys.stderr, flush=True)
        handler = usual[signal.Signals(number)]
        assert callable(handler)  # noqa: S101
        handler(number, frame)

    for number, handler in usual.items():
        if callable(handler):  # not ignored, as it is for a process in the background
            signal.signal(number, stop)
