"""Work through rows in a separate process, so that a file that crashes it fails one row instead of ending the run.

Readers call compiled libraries, some of which crash on damaged files: scipy.io.loadmat 1.17 ends with a segmentation
fault if bits of a MATLAB file are flipped, which no check in Python can prevent.
"""

import logging
import multiprocessing
import multiprocessing.connection
import os
import resource
import signal
import sys
from collections import Counter
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.context import ForkProcess
from pathlib import Path
from typing import Protocol

from ecgpipe.core.errors import EcgpipeError

logger = logging.getLogger(__name__)

# A row that computes for longer than this is taken never to end. The longest recording (MOST_VALUES) takes a second.
CPU_S_PER_ROW = 60.0

# A row that takes longer than this in all, without computing for as long as above, waits for a disk or a file server,
# which says nothing about the row. The ratio of the two allows for machines where many processes share a core.
WALL_S_PER_ROW = 300.0

# How often such a row is waited for.
WAITS = 2

# Memory that the process may fill besides what it starts with, which can be over a gigabyte of address space for Arrow
# and the threads of many cores. A library that a file makes ask for more gets a MemoryError.
MOST_BYTES = 4 * 2**30

# The signals that end a process that a library crashed; C++ and allocators abort.
CRASHES = {signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGABRT}

# The signals that end a process from outside.
KILLED = {signal.SIGKILL, signal.SIGTERM}

# The message's end if memory has run out under a limit of the user's environment.
TOO_LITTLE = "does not fit into what a process may have here (ulimit -v, -d); allow more"

# The work takes the rows to leave out, each with the reason, and a function that it calls with the number of each row
# before it begins, and with -1 after the last.
Work = Callable[[dict[int, str], Callable[[int], None]], None]


class Row(Protocol):
    """A number in memory that two processes share."""

    value: int


def crashes(
    work: Work,
    cpu_s: float = CPU_S_PER_ROW,
    wall_s: float = WALL_S_PER_ROW,
    called: Callable[[int], str] = "row {}".format,
) -> None:
    """Run `work` in a separate process, and from the beginning again without a row that crashed it.

    Args:
        work: The work.
        cpu_s: How long a row may compute.
        wall_s: How long a row may take in all.
        called: Names a row in messages.

    Raises:
        EcgpipeError: The process was killed, or waited for a row for too long.
        Exception: What `work` raised, or a RuntimeError if the process ended without an error.
    """
    context = multiprocessing.get_context("fork")
    row = context.Value("q", -1, lock=False)
    crashed: dict[int, str] = {}
    waits: Counter[int] = Counter()
    while True:
        ours, theirs = context.Pipe(duplex=False)
        process = context.Process(target=_run, args=(work, crashed, row, (cpu_s, wall_s), theirs, os.getpid()))
        row.value = -1
        process.start()
        theirs.close()
        try:
            _await_end(process, ours)
        finally:
            process.kill()  # no effect on a process that has ended
            process.join()
        if process.exitcode == 0:
            return
        died_of = -(process.exitcode or 0)
        if row.value < 0 or row.value in crashed or died_of not in {*CRASHES, signal.SIGPROF, signal.SIGALRM}:
            if died_of in KILLED:
                raise EcgpipeError(
                    f"the process that reads the recordings was killed ({signal.Signals(died_of).name}), as the system "
                    "does when memory runs out; run again, with more memory (mem_mb) or fewer jobs at a time (--cores)"
                )
            raise RuntimeError(f"the process that reads the recordings ended with {process.exitcode}")
        # A bus error comes of a file in memory (mmap) whose pages cannot be read, now or at all.
        if died_of in {signal.SIGALRM, signal.SIGBUS}:
            waits[row.value] += 1
            if waits[row.value] < WAITS:
                logger.warning("%s: %s; beginning again", called(row.value), signal.Signals(died_of).name)
                continue
            if died_of == signal.SIGALRM:
                raise EcgpipeError(
                    f"input: {called(row.value)} was waited for {WAITS} times for {wall_s:g} s: its disk or file "
                    "server does not answer. Nothing is recorded of it; give the same command again when it does, or "
                    "leave it out of `input`"
                )
        why = f"reading it took longer than {cpu_s:g} s of computing"
        if died_of in CRASHES:
            why = f"so damaged that reading it crashed ({signal.Signals(died_of).name})"
        logger.warning("row %d: %s; beginning again without it", row.value, why)
        crashed[row.value] = why


def is_confined() -> bool:
    """Whether the surroundings (`ulimit`) give this process less memory than MOST_BYTES.

    If memory runs out then, that says nothing about a row.
    """
    limit, most = resource.getrlimit(resource.RLIMIT_DATA)
    addresses = resource.getrlimit(resource.RLIMIT_AS)[0]
    infinite = resource.RLIM_INFINITY
    return limit == most != infinite or (addresses != infinite and (limit == infinite or addresses <= limit))


def limit_memory(most_bytes: int) -> None:
    """Limit how much more memory this process may fill; only on Linux, since other systems have no such limit.

    Args:
        most_bytes: How much more it may fill; what goes beyond ends in a MemoryError.
    """
    if sys.platform != "linux":
        return
    allowed = resource.getrlimit(resource.RLIMIT_DATA)[1]
    most = most_bytes + int(Path("/proc/self/statm").read_text().split()[5]) * resource.getpagesize()
    most = most if allowed == resource.RLIM_INFINITY else min(most, allowed)
    resource.setrlimit(resource.RLIMIT_DATA, (most, allowed))


def _run(
    work: Work, crashed: dict[int, str], row: Row, limits_s: tuple[float, float], errors: Connection, parent: int
) -> None:
    """Run in the process: do `work`, and send the error that it raises."""

    def begin(number: int) -> None:
        if os.getppid() != parent:
            os._exit(1)  # no process waits for this one any more
        row.value = number
        # The system ends the process when this runs out, also amid compiled code and when the parent is gone.
        cpu_s, wall_s = limits_s if number >= 0 else (0, 0)
        signal.setitimer(signal.ITIMER_PROF, cpu_s)
        signal.setitimer(signal.ITIMER_REAL, wall_s)

    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    limit_memory(MOST_BYTES)
    try:
        work(crashed, begin)
    except (EcgpipeError, OSError, KeyboardInterrupt) as error:
        errors.send(error)
    except MemoryError:  # not a row's, which `work` handles itself
        errors.send(EcgpipeError(f"memory: the work {TOO_LITTLE}"))
    except Exception as error:
        logger.exception("in the process that reads the recordings")
        errors.send(error)


def _await_end(process: ForkProcess, errors: Connection) -> None:
    """Wait for the process to end and raise what it sends."""
    if errors in multiprocessing.connection.wait([process.sentinel, errors]):
        try:
            error = errors.recv()
        except EOFError:  # it ended without an error
            process.join()
        else:
            raise error
