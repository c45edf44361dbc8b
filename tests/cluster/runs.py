"""A run of the workflow on the tests' SLURM, what may happen to its jobs, and what SLURM says of them."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

import forked_python
from cluster.slurm import Slurm, processes_of
from run_workflow import ROOT, Ran

from ecgpipe.workflow.slurm import minutes_of as minutes_of_clock

# The profile waits a minute, which is right for jobs of half an hour. Afterwards see ./Snakefile.
POLLING = ["--slurm-init-seconds-before-status-checks", "1", "--max-status-checks-per-second", "1"]


class Run:
    """A run on the SLURM that is under way; leaving the context kills what is left of it."""

    def __init__(self, folder: Path, settings: dict[str, Any], *targets: str, real: str = "-") -> None:
        """Start it.

        Args:
            folder: Its working folder.
            settings: Of `--config`.
            targets: Files to make, and further options.
            real: A rule whose first job has real processes, from SLURM's down to what computes: otherwise SLURM sees
                those that wait for what computes (`forked_python`), which have no memory to speak of.
        """
        self.log = folder / f"run-{time.monotonic_ns()}.log"
        python = folder / "python" / "python3"
        python.parent.mkdir(exist_ok=True)
        python.write_text(
            f'#!/bin/sh\ncase "$*" in *--target-jobs\\ {real}:*) exec {sys.executable} "$@";; esac\n'
            f'exec {forked_python.program()} "$@"\n'
        )
        python.chmod(0o755)
        command = [str(python), "-m", "snakemake", "--snakefile", str(Path(__file__).with_name("Snakefile"))]
        command += ["--workflow-profile", str(ROOT / "profiles" / "slurm"), *POLLING]
        command += ["--logger-ecgpipe-all", *(targets or ["all"])]
        command += ["--config", *(f"{key}={value}" for key, value in settings.items())]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                command,
                cwd=folder,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env={**os.environ, forked_python.STAND_IN: str(python)},
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def until(self, condition: Callable[[], bool]) -> None:
        """Wait until something is so, as long as the run goes on."""
        while not condition():
            assert self.process.poll() is None, f"the run ended too early\n{self.log.read_text()}"
            time.sleep(0.3)

    def end(self) -> Ran:
        """Wait for its end."""
        return Ran(self.process.wait(600), self.log.read_text())

    def kill(self) -> None:
        """Kill Snakemake and what it started on this machine; what is in SLURM's queue stays there."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


def make_way(machine: Slurm, job: str) -> None:
    """Have a job of somebody else, whose partition comes first, take the GPU of a job."""
    node = machine.job(job)["NodeList"]
    options = ["--partition=urgent", "--gres=gpu:1", f"--nodelist={node}", "--comment=urgent", "--output=/dev/null"]
    machine.control("sbatch", *options, "--wrap=sleep 1")


def stop(job: str) -> None:
    """Have a job make no headway any more. SLURM would wait a minute for its own `srun`."""
    for pid in processes_of(job):
        with suppress(OSError):
            if not Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"srun\0"):
                os.kill(pid, signal.SIGSTOP)


def kill_stage(job: str, stage: str) -> bool:
    """Kill the command of a job that computes, as the kernel does when memory runs out, if it is there yet."""
    for pid in processes_of(job):
        with suppress(OSError):
            if f"\0-m\0ecgpipe\0{stage}\0".encode() in Path(f"/proc/{pid}/cmdline").read_bytes():
                os.kill(pid, signal.SIGKILL)
                return True
    return False


def megabytes_of(job: dict[str, str]) -> int:
    """The memory that a job asked for; SLURM says 2000M or 8G."""
    amount = job["MinMemoryNode"]
    return int(amount[:-1]) * {"M": 1, "G": 1024}[amount[-1]]


def minutes_of(job: dict[str, str]) -> int:
    """The time that a job asked for; SLURM says 1-04:10:00, or 00:10:00 below a day."""
    return minutes_of_clock(job["TimeLimit"])
