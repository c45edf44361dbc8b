"""What a run asks of SLURM itself: to cancel the jobs that a killed run left in the queue, and how long jobs may take.

Jobs of a killed run would write the same files as the next run.
"""

import os
import re
import shutil
import subprocess
import time
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from ecgpipe.core.errors import EcgpipeError

# File in a folder of results: SLURM's name for all jobs of the last run there.
NOTE = ".slurm-run"

# Cancelled jobs end within SLURM's KillWait, usually 30 s, unless their node does not answer.
_PATIENCE_S = 300

# The plugin's job names end like this. Jobs of other names are never cancelled, whatever the note holds.
_NAME = re.compile(r"\S*[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def cancel_left_jobs(outdir: Path, logs: Sequence[Path]) -> int:
    """Cancel the SLURM jobs of a killed run, wait for their end, and note the job name of this run.

    Args:
        outdir: The folder of the results, which this run has locked.
        logs: Snakemake's logs of this run, in which its SLURM plugin states the job name; none for other runs.

    Returns:
        Number of jobs cancelled.

    Raises:
        EcgpipeError: SLURM does not answer, the jobs do not end, or a user's file has the note's name.
    """
    note = outdir / NOTE
    before = _read_note(note)
    left_jobs = _list_jobs(before) if before else []
    if left_jobs:
        _run_slurm("scancel", f"--name={before}", name=before)
        end = time.monotonic() + _PATIENCE_S
        while _list_jobs(before):
            if time.monotonic() > end:
                raise EcgpipeError(
                    f"outdir: SLURM jobs of a killed run still write to {outdir} and do not end: "
                    f"see `squeue --name={before}`; try again when it lists none"
                )
            time.sleep(2)
    log_text = "\n".join(log.read_text(encoding="utf-8", errors="replace") for log in logs)
    match = re.search(r"SLURM run ID: (\S+)", log_text)
    if match:
        if os.path.lexists(note) and not _read_note(note):
            raise EcgpipeError(
                f"outdir: {note} was not written by ecgpipe, which keeps SLURM's name of its jobs there; move it away"
            )
        note.write_text(match[1] + "\n", encoding="utf-8")
    else:
        forget(outdir)
    return len(left_jobs)


def forget(outdir: Path) -> None:
    """Delete the note of a run that ends by itself: Snakemake has waited for its jobs, or cancelled them."""
    if _read_note(outdir / NOTE):
        (outdir / NOTE).unlink()


def time_limit(partition: str | None) -> int | None:
    """The minutes that a job in a partition may take at most.

    Args:
        partition: Its name; of several with commas between them, the one that allows most counts. None: none is named.

    Returns:
        None where there is no limit, or SLURM does not tell.
    """
    limits = [_time_limits().get(name.strip()) for name in partition.split(",")] if partition else [None]
    known = [limit for limit in limits if limit is not None]
    return max(known) if len(known) == len(limits) else None


@cache
def _time_limits() -> dict[str, int]:
    """The limits of the partitions that have one, in minutes."""
    command = ["sinfo", "--all", "--noheader", "--format=%R|%l"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    except (OSError, subprocess.SubprocessError):
        return {}
    lines = [line.strip().rpartition("|") for line in done.stdout.splitlines()]
    return {name: minutes_of(clock) for name, _, clock in lines if clock[-1:].isdigit()}


def minutes_of(clock: str) -> int:
    """Whole minutes of a time as SLURM writes it: 30:00, 4:00:00 or 2-12:00:00."""
    days, _, rest = clock.rpartition("-")
    hours, minutes, _ = ([0] + [int(number) for number in rest.split(":")])[-3:]
    return (int(days or 0) * 24 + hours) * 60 + minutes


def _read_note(note: Path) -> str:
    """The name of a run's jobs; an empty text if the file is missing or not such a note."""
    if note.is_symlink() or not note.is_file():
        return ""
    name = note.read_text(encoding="utf-8", errors="replace").strip()
    return name if _NAME.fullmatch(name) else ""


def _list_jobs(name: str) -> list[str]:
    """The ids of a run's jobs that wait, run or are ending."""
    return _run_slurm("squeue", "--noheader", "--format=%i", f"--name={name}", name=name).split()


def _run_slurm(command: str, *options: str, name: str) -> str:
    try:
        if not shutil.which(command):
            raise OSError(f"{command} is not installed on this machine")
        done = subprocess.run([command, *options], capture_output=True, text=True, check=True, timeout=60)
    except (OSError, subprocess.SubprocessError) as error:
        answer = error.stderr.strip() if isinstance(error, subprocess.CalledProcessError) else str(error)
        raise EcgpipeError(
            f"outdir: a run on SLURM was killed here, and SLURM does not list its jobs: {answer}; try again where "
            f"SLURM answers, or make sure that `squeue --name={name}` lists none and delete {NOTE} in outdir"
        ) from error
    return done.stdout
