"""A process that reads files for this one, with little memory and little time, and is replaced when it breaks down.

For libraries that crash on some damaged files, never return from others, or allocate whatever a file tells them to
(HDF5). `isolation` protects a whole stage; this protects one call, so that the scan and the report can use it too. The
process stays: what it keeps in memory between calls, such as an open file, is there at the next one.
"""

import atexit
import contextlib
import errno
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple, ParamSpec, TypeVar

from ecgpipe.readers.isolation import limit_memory
from ecgpipe.readers.recording import UnreadableError

_P = ParamSpec("_P")
_T = TypeVar("_T")

# What the process may take. The longest recording is 200 MB; a row takes a millisecond.
MOST_BYTES = 3 * 2**30
MOST_CPU_S = 10.0

# How long a call may take in all. One that computes less than MOST_CPU_S in this time waits for a file server.
MOST_S = 60.0

# How long the process may take to start: importing from a cluster's file system may be slow.
START_S = 120.0


class _Helper(NamedTuple):
    """The process that reads."""

    process: subprocess.Popen[bytes]
    connection: Connection


_helpers: dict[int, _Helper] = {}  # by the id of the process that it reads for: after a fork there is none yet


def ask(function: Callable[_P, _T], *arguments: _P.args, **options: _P.kwargs) -> _T:
    """Call a function in the other process; an UnreadableError or OSError that it raises is raised here.

    Args:
        function: A function of a module, by whose name the other process finds it.
        arguments: Its arguments, which are pickled, as is what it returns.
        options: Its keyword arguments.

    Raises:
        UnreadableError: It computes for too long, or breaks down.
        TimeoutError: It waits for too long.
    """
    for _ in range(2):  # the process may have died for a reason other than this file
        helper = _helpers.get(os.getpid()) or _start(function.__module__)
        try:
            helper.connection.send((function, arguments, options, MOST_CPU_S))
            if not helper.connection.poll(MOST_S):
                stop()
                raise TimeoutError(errno.ETIMEDOUT, f"no answer within {MOST_S:g} s")
            answer: _T | Exception = helper.connection.recv()
        except (EOFError, ConnectionError):
            if stop() == -signal.SIGPROF:
                raise UnreadableError(
                    f"the HDF5 file takes too long to read, as damaged ones do (over {MOST_CPU_S:g} s of computing)"
                ) from None
            continue
        except KeyboardInterrupt:  # an answer may still come, which would be taken for that of the next call
            stop()
            raise
        if isinstance(answer, Exception):
            raise answer
        return answer
    raise UnreadableError("the HDF5 library breaks down over the file, which must be damaged")


def _start(module: str) -> _Helper:
    """Start the process, which imports a module first."""
    ours, theirs = Pipe()
    command = (
        f"import {module}; from ecgpipe.readers import reading_process; "
        f"reading_process._serve({theirs.fileno()}, {MOST_BYTES})"
    )
    # No filters beyond HDF5's own: they are libraries, which a file would have loaded. One thread, since further ones
    # only take memory.
    environment = {**os.environ, "HDF5_PLUGIN_PRELOAD": "::", "OPENBLAS_NUM_THREADS": "1"}
    environment["PYTHONPATH"] = os.pathsep.join(folder or str(Path.cwd()) for folder in sys.path)
    process = subprocess.Popen(
        [sys.executable, "-P", "-c", command],
        pass_fds=[theirs.fileno()],
        env=environment,
        stdin=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    theirs.close()
    helper = _helpers[os.getpid()] = _Helper(process, ours)
    try:
        if ours.poll(START_S):
            ours.recv()
            return helper
    except (EOFError, ConnectionError):
        pass
    stop()
    # The machine or its file system is too busy, which says nothing about the file.
    raise TimeoutError(errno.ETIMEDOUT, "the process that reads HDF5 files does not start")


@atexit.register
def stop() -> int | None:
    """End the process, and return its exit status; None if there is no process."""
    helper = _helpers.pop(os.getpid(), None)
    if helper is None:
        return None
    helper.process.kill()  # no effect on a process that has ended
    status = helper.process.wait()
    helper.connection.close()
    return status


def _serve(descriptor: int, most_bytes: int) -> None:
    """Answer the calls of `ask`, in the process that reads."""
    connection = Connection(descriptor)
    limit_memory(most_bytes)
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    connection.send("ready")
    with contextlib.suppress(EOFError, ConnectionError):
        while True:
            function, arguments, options, most_cpu_s = connection.recv()
            # The system ends the process when this time is used up, also amid compiled code.
            signal.setitimer(signal.ITIMER_PROF, most_cpu_s)
            try:
                answer = function(*arguments, **options)
            except (UnreadableError, OSError) as error:
                answer = error
            signal.setitimer(signal.ITIMER_PROF, 0)
            connection.send(answer)
