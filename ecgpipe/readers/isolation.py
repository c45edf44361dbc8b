"""Work row by row in a process of its own, so that a row whose file crashes it is named instead of ending the run.

Readers call compiled libraries, and some of these crash on damaged files: scipy.io.loadmat 1.17 with a segmentation
fault on flipped bits of a MATLAB file. No check in Python comes before that.
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

# A row that computes for longer never ends: the longest that `readers.recording.MOST_VALUES` allows takes a second.
CPU_S_PER_ROW = 60.0

# One that takes longer in all, and does not compute for the above, waits for a disk or a file server. That says nothing
# of the row. The ratio is for machines on which many processes share a core.
WALL_S_PER_ROW = 300.0

# How often such a row is waited for.
WAITS = 2

# Memory that the working process may fill besides what it begins with, which Arrow and the threads of many cores make
# a gigabyte and more on paper. Whatever a file makes a library ask for ends there, as a MemoryError.
MOST_BYTES = 4 * 2**30

# What ends a process that a library crashed, by the signal's number; abort is what C++ and allocators do.
CRASHES = {signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGABRT}

# What ends one from outside.
KILLED = {signal.SIGKILL, signal.SIGTERM}

# What is said where memory has run out that the surroundings limit.
TOO_LITTLE = "does not fit into what a process may have here (ulimit -v, -d); allow more"

# The rows that are not to be touched, each with the reason; a function to be called with the number of the row that
# comes next, and with -1 when none does.
Work = Callable[[dict[int, str], Callable[[int], None]], None]


class Row(Protocol):
    """A number that two processes share."""

    value: int


def crashes(
    work: Work,
    cpu_s: float = CPU_S_PER_ROW,
    wall_s: float = WALL_S_PER_ROW,
    called: Callable[[int], str] = "row {}".format,
) -> None:
    """Run `work` in a process of its own, again from the beginning when a row crashed it.

    Args:
        work: What to do.
        cpu_s: How long a row may compute.
        wall_s: How long it may take in all.
        called: What a row is called in messages.

    Raises:
        EcgpipeError: Its process was killed, or a row was waited for in vain.
        Exception: What `work` raised, or a RuntimeError if its process ended without a word.
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
            _ends(process, ours)
        finally:
            process.kill()  # no more than a formality for one that has ended
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
        # A bus error is what comes of a file in memory (mmap) whose pages cannot be read, now or at all.
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

    That it runs out then says nothing of a row.
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
    """What the process does: `work`, and send what it raises."""

    def begin(number: int) -> None:
        if os.getppid() != parent:
            os._exit(1)  # nobody waits for this any more
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
    except MemoryError:  # not of a row, which is told by its work
        errors.send(EcgpipeError(f"memory: the work {TOO_LITTLE}"))
    except Exception as error:
        logger.exception("in the process that reads the recordings")
        errors.send(error)


def _ends(process: ForkProcess, errors: Connection) -> None:
    """Wait for the process to end and raise what it sends."""
    if errors in multiprocessing.connection.wait([process.sentinel, errors]):
        try:
            error = errors.recv()
        except EOFError:  # it ended and said nothing
            process.join()
        else:
            raise error
