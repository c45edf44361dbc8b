"""A process that runs steps of `benchmarks.gpu`, and is replaced where one breaks it or takes too long."""

import multiprocessing
import os
import signal
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path

CONTEXT = multiprocessing.get_context("spawn")  # a forked process cannot use CUDA

Report = Callable[[str, object], None]


@dataclass(frozen=True)
class Setup:
    """What every step knows."""

    folder: Path  # for what the steps write
    device: str  # cpu or cuda
    tiny: bool
    reference: Path | None  # real recordings and the reference numbers, where they are
    cores: int
    ends_at: float  # of the budget, by time.time()


class SkippedError(Exception):
    """A step cannot be done on this machine, and why."""


class Worker:
    """The process that runs the steps."""

    def __init__(self, said: Path) -> None:
        self.connection, other = CONTEXT.Pipe()
        self.process: BaseProcess = CONTEXT.Process(target=serve, args=(other, str(said)))
        self.process.start()
        other.close()

    def end(self) -> None:
        """End it and the commands that it has started, whatever they do."""
        assert self.process.pid is not None  # noqa: S101, it was started
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.kill()  # it may not have come as far as a group of its own
        self.process.join()
        self.connection.close()


def serve(connection: Connection, said: str) -> None:
    """Run the steps that are asked for; what they print goes to a file."""
    os.setsid()  # a group with the commands that it starts, which end with it
    with Path(said).open("a", buffering=1) as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    while True:
        try:
            name, setup = connection.recv()
        except EOFError:
            return
        print(f"\n== {name}", flush=True)
        try:
            from benchmarks import gpu_steps

            gpu_steps.STEPS[name](setup, lambda key, value: connection.send(("part", key, value)))
            connection.send(("end", "done", ""))
        except SkippedError as reason:
            connection.send(("end", "skipped", str(reason)))
        except BaseException:  # whatever a step raises is its result
            traceback.print_exc()
            connection.send(("end", "failed", traceback.format_exc()))


def run_step(worker: Worker, name: str, setup: Setup, most_s: float, report: Report) -> tuple[str, str]:
    """Have the worker run a step.

    Args:
        worker: That waits for work.
        name: One of `STEPS`.
        setup: What every step knows.
        most_s: After which it is given up.
        report: What to do with each measurement.

    Returns:
        `done`, `skipped`, `failed` or `cut`, and why.
    """
    ends = time.monotonic() + most_s
    worker.connection.send((name, setup))
    while True:
        try:
            if not worker.connection.poll(max(0.0, ends - time.monotonic())):
                return "cut", f"not done after {most_s:.0f} s"
            kind, one, other = worker.connection.recv()
        except (EOFError, OSError):
            worker.process.join(5)
            return "failed", f"the process ended with {worker.process.exitcode}"
        if kind == "end":
            return one, other
        report(one, other)
