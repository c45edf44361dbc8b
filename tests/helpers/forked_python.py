"""Processes of Python that start without loading what this project's processes need: for tests of whole runs.

Snakemake starts two processes for each job, and loading PyTorch alone takes one of them two seconds. A server, one for
each process of tests, loads everything once and is forked for each. It loads this clone's ecgpipe too, and a process
that works with another one loads that anew. What a program prints, computes and exits with is as ever. What the kernel
says of its process is not, such as its parent and its memory: tests of these start real ones, and so does every test
that uses `sys.executable`.
"""

import atexit
import functools
import gc
import importlib
import importlib.machinery
import os
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple, NoReturn

import compiled

ROOT = Path(__file__).parents[2]

# What these run; where the environment differs in what is read as Python or a library starts, the real Python does.
RUN_JOBS = ("snakemake", "ecgpipe.workflow.snakemake_compat")
MODULES = (*RUN_JOBS, "ecgpipe")
READ_AT_START = ("PYTHON", "LC_", "LANG", "TZ", "MKL_", "KMP_", "OMP_", "NUMBA_", "MPL")
BUT_FOR = {"PYTHONPATH", "OMP_NUM_THREADS", "MKL_NUM_THREADS"}

# A variable that names another program to stand for `python` in what Snakemake starts.
STAND_IN = "FORKED_PYTHON_STAND_IN"

LOADED = ["snakemake.cli", "snakemake.api", "snakemake.workflow", "snakemake.dag", "snakemake.scheduling", "pulp"]
LOADED += ["yaml", "pydantic", "jinja2", "numpy", "pandas", "pyarrow.parquet", "pyarrow.dataset", "scipy.signal"]
LOADED += ["snakemake.report.html_reporter", "snakemake.storage", "snakemake.profiles", "smart_open", "dpath"]
LOADED += ["docutils.core", "docutils.parsers.rst", "pygments.formatters", "pygments.lexers"]
LOADED += ["scipy.io", "torch", "safetensors.torch", "captum.attr", "matplotlib.figure", "plotly.offline"]

# Of ecgpipe, with what these import: the modules of every run's jobs, and what the Snakefile imports.
OWN = ["cli", "preprocessing.preprocess", "inference.infer", "inference.precision", "inference.aggregate"]
OWN += ["models.checkpoint", "analysis.umap", "analysis.examples", "analysis.attribute", "evaluation.evaluate"]
OWN += ["report.summary", "report.figures", "report.report", "report.verdict", "workflow.manifest_command"]
OWN += ["workflow.validate", "workflow.shards", "workflow.run_at_work", "workflow.study_at_work"]


def run(arguments: Sequence[str], folder: Path, timeout_s: float) -> tuple[int, str]:
    """Run `python` with these arguments in `folder`, with this process's environment.

    Args:
        arguments: From `-m` on.
        folder: The current one of the process.
        timeout_s: After which it is ended.

    Returns:
        The exit status, and what it and what it started wrote to standard output and error.

    Raises:
        subprocess.TimeoutExpired: It took longer than that, and was ended.
    """
    with tempfile.NamedTemporaryFile("w+b") as output:
        started = subprocess.Popen([program(), *arguments], cwd=folder, stdout=output, stderr=subprocess.STDOUT)
        try:
            status = started.wait(timeout_s)
        finally:
            started.terminate()
            started.wait()
        return status, Path(output.name).read_text(encoding="utf-8", errors="replace")


@functools.cache
def program() -> Path:
    """Start the server, which ends with this process, and return what stands for `python`.

    Beside it lies what stands for the commands `snakemake` and `ecgpipe`.
    """
    folder = Path(tempfile.mkdtemp(prefix="forked-python-"))
    atexit.register(subprocess.run, ["rm", "-r", str(folder)], check=False)
    address = folder / "server"
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(address))
        listening.listen(100)
        left_out = {"PYTHONPATH"} | {name for name in os.environ if name.endswith("_NUM_THREADS")}
        subprocess.Popen(
            [sys.executable, __file__, str(listening.fileno()), str(os.getpid()), folder / "python3"],
            env={name: value for name, value in os.environ.items() if name not in left_out},
            pass_fds=[listening.fileno()],
            start_new_session=True,
        )
    client = Path(__file__).with_name("forked_client.py").read_text()
    for name in ("python", "python3", "snakemake", "ecgpipe"):
        (folder / name).write_text(f"#!{sys.executable} -IS\n{client}")
        (folder / name).chmod(0o755)
    return folder / "python3"


class Request(NamedTuple):
    """A process to become."""

    folder: str
    umask: int
    arguments: list[str]
    environment: dict[str, str]
    descriptors: list[int]


def serve(listening: socket.socket, parent: int, own: Mapping[str, str]) -> Request:
    """Fork a process for each request, which returns from here with it; the server itself ends with its parent.

    Args:
        listening: Where clients connect.
        parent: The process that started the server.
        own: The environment that it was started with.
    """
    listening.settimeout(2)
    while os.getppid() == parent:
        try:
            connection, _ = listening.accept()
        except TimeoutError:
            pass
        else:
            if os.fork() == 0:
                listening.close()
                return _watched(connection, own)
            connection.close()
        _reap()
    os._exit(0)


def _reap() -> None:
    """Let go of the processes that have ended."""
    with suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def _watched(connection: socket.socket, own: Mapping[str, str]) -> Request:
    """Fork again: one process returns with the request, the other waits for it and tells the client its status."""
    connection.setblocking(True)
    size, descriptors, _, _ = socket.recv_fds(connection, 8, 3)
    content = connection.recv(int.from_bytes(size, "big"), socket.MSG_WAITALL).decode(errors="surrogateescape")
    folder, umask, count, *rest = content.split("\0")
    arguments, pairs = rest[: int(count)], rest[int(count) :]
    request = Request(folder, int(umask), arguments, dict(pair.split("=", 1) for pair in pairs), descriptors)
    if arguments[1] not in MODULES or _read_at_start(request.environment) != _read_at_start(own):
        connection.sendall(b"0\n")
        os._exit(0)
    process = os.fork()
    if process == 0:
        connection.close()
        return request
    for descriptor in descriptors:
        os.close(descriptor)
    connection.sendall(b"%d\n" % process)
    threading.Thread(target=_kill_when_closed, args=(connection, process), daemon=True).start()
    status = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    with suppress(OSError):  # the client was killed
        connection.sendall(b"%d\n" % status)
    os._exit(0)


def _kill_when_closed(connection: socket.socket, process: int) -> None:
    """The client says nothing more: what comes is that it has ended."""
    with suppress(ConnectionError):
        connection.recv(1)
    with suppress(ProcessLookupError):
        os.kill(process, signal.SIGKILL)


def _read_at_start(environment: Mapping[str, str]) -> dict[str, str]:
    return {
        name: value for name, value in environment.items() if name.startswith(READ_AT_START) and name not in BUT_FOR
    }


def become(request: Request, path: Sequence[str], stand_in: str) -> None:
    """Be as a new process is when Python has started, but for the modules that are loaded.

    Args:
        request: The process.
        path: Where Python looks for modules, without what the process adds.
        stand_in: What stands for `python`.
    """
    import numpy as np
    import threadpoolctl  # type: ignore[import-untyped]
    import torch

    for number, descriptor in enumerate(request.descriptors):
        os.dup2(descriptor, number)
        os.close(descriptor)
    os.chdir(request.folder)
    os.umask(request.umask)
    os.environ.clear()
    os.environ.update(request.environment)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.argv = ["-m", *request.arguments[2:]]
    sys.orig_argv = [sys.executable, *request.arguments]
    more = request.environment.get("PYTHONPATH", "")
    sys.path[:] = [request.folder, *(path for path in more.split(os.pathsep) if path), *path]
    importlib.invalidate_caches()
    if not works_with_ours(request.arguments):
        for name in [name for name in sys.modules if name.partition(".")[0] == "ecgpipe"]:
            del sys.modules[name]
    if request.arguments[1] in RUN_JOBS or request.arguments[1:3] == ["ecgpipe", "run"]:
        sys.executable = request.environment.get(STAND_IN, stand_in)  # what these start is started as they were
    tempfile.tempdir = None
    np.random.seed()
    if threads := request.environment.get("OMP_NUM_THREADS"):
        threadpoolctl.threadpool_limits(int(threads))
        torch.set_num_threads(int(threads))


def works_with_ours(arguments: Sequence[str]) -> bool:
    """Whether the process, with its path of modules set, uses the ecgpipe that the server has loaded."""
    if arguments[1] in RUN_JOBS:
        # A Snakefile finds the package beside it.
        return any(text.startswith(f"{ROOT}/") and text.endswith("/Snakefile") for text in arguments)
    found = importlib.machinery.PathFinder.find_spec("ecgpipe", sys.path)
    return found is not None and found.origin == sys.modules["ecgpipe"].__file__


def end(work: Callable[[], object]) -> NoReturn:
    """Do the work and end as Python does, but for taking everything down that it has loaded, which takes a second."""
    status = 1
    try:
        work()
        status = 0
    except SystemExit as error:
        if isinstance(error.code, str):
            print(error.code, file=sys.stderr)
        else:
            status = error.code or 0
    except KeyboardInterrupt:
        sys.excepthook(*sys.exc_info())
        status = -signal.SIGINT
    except BaseException:
        sys.excepthook(*sys.exc_info())
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    if status == -signal.SIGINT:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    os._exit(status & 0xFF)


if __name__ == "__main__":
    sys.path.pop(0)  # the folder of this file
    # What is loaded adds to both.
    path = list(sys.path)
    started_with = dict(os.environ)
    for name in [*LOADED, *(f"ecgpipe.{name}" for name in OWN)]:
        importlib.import_module(name)
    compiled.compile_umap()  # every worker has a server, and each would compile it
    importlib.import_module("umap")
    assert "huggingface_hub" not in sys.modules  # it reads its variables when it is imported
    gc.collect()
    gc.freeze()  # a collection in a forked process would copy what is loaded
    with socket.socket(fileno=int(sys.argv[1])) as server:
        request = serve(server, int(sys.argv[2]), started_with)
    become(request, path, sys.argv[3])
    end(lambda: runpy._run_module_as_main(request.arguments[1]))  # type: ignore[attr-defined]
