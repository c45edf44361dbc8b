"""What a run that was killed left in a cluster's queue: jobs that would write what the next run's jobs write."""

import os
import re
import shutil
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from ecgpipe.core.errors import EcgpipeError

# Within a folder of results: the name that SLURM has for all jobs of the run that was last at work there.
NOTE = ".slurm-run"

# Cancelled jobs end within SLURM's KillWait, usually 30 s, unless their node does not answer.
_PATIENCE_S = 300

# The plugin's names end like this. No other job is ever cancelled, whatever a file called as the note holds.
_NAME = re.compile(r"\S*[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def cancel_left(outdir: Path, logs: Sequence[Path]) -> int:
    """Cancel the SLURM jobs of the run before, if that was killed, wait for their end, and note the name of this run.

    Args:
        outdir: The folder of the results, which this run has alone.
        logs: Snakemake's logs of this run: its SLURM plugin says there how it names the jobs. Other runs have none.

    Returns:
        How many jobs there were.

    Raises:
        EcgpipeError: SLURM does not answer, the jobs do not end, or a user's file has the note's name.
    """
    note = outdir / NOTE
    before = _noted(note)
    left = _jobs(before) if before else []
    if left:
        _slurm("scancel", f"--name={before}", name=before)
        end = time.monotonic() + _PATIENCE_S
        while _jobs(before):
            if time.monotonic() > end:
                raise EcgpipeError(
                    f"outdir: jobs of a run that was killed are still at work for {outdir} and do not end: "
                    f"see `squeue --name={before}`; try again when there are none"
                )
            time.sleep(2)
    said = "\n".join(log.read_text(encoding="utf-8", errors="replace") for log in logs)
    found = re.search(r"SLURM run ID: (\S+)", said)
    if found:
        if os.path.lexists(note) and not _noted(note):
            raise EcgpipeError(
                f"outdir: {note} was not written by ecgpipe, which notes there how SLURM names its jobs; move it away"
            )
        note.write_text(found[1] + "\n", encoding="utf-8")
    else:
        forget(outdir)
    return len(left)


def forget(outdir: Path) -> None:
    """For a run that ends by itself: Snakemake has waited for its jobs, or cancelled them."""
    if _noted(outdir / NOTE):
        (outdir / NOTE).unlink()


def _noted(note: Path) -> str:
    """The name of a run's jobs; an empty text where the file is not there, or is no such note."""
    if note.is_symlink() or not note.is_file():
        return ""
    name = note.read_text(encoding="utf-8", errors="replace").strip()
    return name if _NAME.fullmatch(name) else ""


def _jobs(name: str) -> list[str]:
    """The jobs of a run that wait, run or are ending."""
    return _slurm("squeue", "--noheader", "--format=%i", f"--name={name}", name=name).split()


def _slurm(command: str, *options: str, name: str) -> str:
    try:
        if not shutil.which(command):
            raise OSError(f"there is no {command} on this machine")
        done = subprocess.run([command, *options], capture_output=True, text=True, check=True, timeout=60)
    except (OSError, subprocess.SubprocessError) as error:
        says = error.stderr.strip() if isinstance(error, subprocess.CalledProcessError) else str(error)
        raise EcgpipeError(
            f"outdir: a run on SLURM was killed here, and its jobs cannot be asked about: {says}; try again where "
            f"SLURM answers, or see to it that `squeue --name={name}` lists none and delete {NOTE} in outdir"
        ) from error
    return done.stdout
