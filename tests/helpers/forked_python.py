"""Processes of Python that start without loading what this project's processes need: for tests of whole runs.

Snakemake starts two processes for each job, and loading PyTorch alone takes one of them two seconds. A server, one for
each process of tests, loads everything once and is forked for each. It loads this clone's ecgpipe too, and a process
that works with another one loads that anew. What a program prints, computes and exits with is as ever. What the kernel
says of its process is not, such as its parent and its memory: tests of these start real ones, and so does every test
that uses `sys.executable`.
"""

import atexit
import ctypes
import functools
import gc
import importlib
import importlib.machinery
import io
import os
import runpy
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import compiled

ROOT = Path(__file__).parents[2]

# What these run; where the environment differs in what is read as Python or a library starts, the real Python does.
RUN_JOBS = ("snakemake", "ecgpipe.workflow.snakemake_compat")
MODULES = (*RUN_JOBS, "ecgpipe")
READ_AT_START = ("PYTHON", "LC_", "LANG", "TZ", "MKL_", "KMP_", "OMP_", "NUMBA_", "MPL")
BUT_FOR = {"PYTHONPATH", "OMP_NUM_THREADS", "MKL_NUM_THREADS"}

# Of ecgpipe too, and found by Snakemake.
PLUGIN = "snakemake_logger_plugin_ecgpipe"

# A variable that names another program to stand for `python` in what Snakemake starts.
STAND_IN = "FORKED_PYTHON_STAND_IN"

# A variable that names a file to write the process to, which leads a session of its own.
LEADS = "FORKED_PYTHON_LEADS"

LOADED = ["snakemake.cli", "snakemake.api", "snakemake.workflow", "snakemake.dag", "snakemake.scheduling", "pulp"]
LOADED += ["yaml", "pydantic", "jinja2", "numpy", "pandas", "pyarrow.parquet", "pyarrow.dataset", "scipy.signal"]
LOADED += ["snakemake.report.html_reporter", "snakemake.storage", "snakemake.profiles", "smart_open", "dpath"]
LOADED += ["docutils.core", "docutils.parsers.rst", "pygments.formatters", "pygments.lexers"]
LOADED += ["snakemake.benchmark", "argparse_dataclass", "httpx2", "httpcore2", "h11", "anyio.to_thread"]
LOADED += ["scipy.io", "torch", "safetensors.torch", "captum.attr", "matplotlib.figure", "plotly.offline"]

# Of ecgpipe, with what these import: the modules of every run's jobs, and what the Snakefile imports.
OWN = ["cli", "preprocessing.preprocess", "inference.infer", "inference.precision", "inference.aggregate"]
OWN += ["models.checkpoint", "analysis.umap", "analysis.examples", "analysis.attribute", "evaluation.evaluate"]
OWN += ["report.summary", "report.figures", "report.report", "report.verdict", "workflow.manifest_command"]
OWN += ["workflow.validate", "workflow.shards", "workflow.run_at_work", "workflow.study_at_work"]
OWN += ["workflow.snakemake_compat"]
OWN += [f"models.{name}.family" for name in ("deepecg_ssl", "ecg_jepa", "ecgfounder", "hubert_ecg")]


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
    """Fork a process for each request, which returns from here with it; the server itself ends after its parent.

    Args:
        listening: Where clients connect.
        parent: The process that started the server.
        own: The environment that it was started with.
    """
    waiting: dict[int, socket.socket] = {}  # for each forked process that has not ended, its client
    ended, wake = socket.socketpair()
    wake.setblocking(False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wake.fileno())
    selector = selectors.DefaultSelector()
    for always in (listening, ended):
        selector.register(always, selectors.EVENT_READ)
    while waiting or os.getppid() == parent:
        for key, _ in selector.select(2):
            source = key.fileobj
            assert isinstance(source, socket.socket)
            if source is listening:
                selector.register(listening.accept()[0], selectors.EVENT_READ)
            elif source is ended:
                ended.recv(100)
                _tell_statuses(selector, waiting)
            elif source in waiting.values():  # which says nothing more, but that it has ended
                selector.unregister(source)
                os.kill(next(process for process, client in waiting.items() if client is source), signal.SIGKILL)
            elif source.fileno() == -1:
                pass  # its process ended at the same time
            elif (request := _receive(source, own)) is None:
                selector.unregister(source)
                source.close()
            elif process := os.fork():
                waiting[process] = source
                for descriptor in request.descriptors:
                    os.close(descriptor)
                with suppress(OSError):  # it was killed, which the selector sees too
                    source.sendall(b"%d\n" % process)
            else:
                signal.set_wakeup_fd(-1)
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                for opened in (listening, ended, wake, source, *waiting.values()):
                    opened.close()
                selector.close()
                return request
    os._exit(0)


def _receive(client: socket.socket, own: Mapping[str, str]) -> Request | None:
    """What a client wants, if the server does that; else it is told so."""
    try:
        size, descriptors, _, _ = socket.recv_fds(client, 8, 3)
        content = client.recv(int.from_bytes(size, "big"), socket.MSG_WAITALL).decode(errors="surrogateescape")
    except ConnectionError:
        content = ""
    if not content:  # it was killed
        return None
    folder, umask, count, *rest = content.split("\0")
    arguments, pairs = rest[: int(count)], rest[int(count) :]
    request = Request(folder, int(umask), arguments, dict(pair.split("=", 1) for pair in pairs), descriptors)
    if arguments[1] in MODULES and _read_at_start(request.environment) == _read_at_start(own):
        return request
    for descriptor in descriptors:
        os.close(descriptor)
    with suppress(OSError):
        client.sendall(b"0\n")
    return None


def _tell_statuses(selector: selectors.BaseSelector, waiting: dict[int, socket.socket]) -> None:
    """Tell the clients of the processes that have ended what they ended with."""
    with suppress(ChildProcessError):
        while waiting:
            process, status = os.waitpid(-1, os.WNOHANG)
            if not process:
                break
            client = waiting.pop(process)
            if client in selector.get_map():
                selector.unregister(client)
            with suppress(OSError):  # it was killed
                client.sendall(b"%d\n" % os.waitstatus_to_exitcode(status))
            client.close()


def _read_at_start(environment: Mapping[str, str]) -> dict[str, str]:
    return {
        name: value for name, value in environment.items() if name.startswith(READ_AT_START) and name not in BUT_FOR
    }


def become(request: Request, path: Sequence[str], stand_in: str, set_threads: Callable[[int], object]) -> None:
    """Be as a new process is when Python has started, but for the modules that are loaded.

    Args:
        request: The process.
        path: Where Python looks for modules, without what the process adds.
        stand_in: What stands for `python`.
        set_threads: Sets how many threads the loaded libraries compute with.
    """
    import numpy as np
    import torch
    from snakemake_interface_logger_plugins.registry import LoggerPluginRegistry

    for number, descriptor in enumerate(request.descriptors):
        os.dup2(descriptor, number)
        os.close(descriptor)
    os.chdir(request.folder)
    os.umask(request.umask)
    os.environ.clear()
    os.environ.update(request.environment)
    if leads := os.environ.pop(LEADS, None):
        os.setsid()
        Path(leads).write_text(str(os.getpid()))
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.argv = ["-m", *request.arguments[2:]]
    sys.orig_argv = [sys.executable, *request.arguments]
    more = request.environment.get("PYTHONPATH", "")
    sys.path[:] = [request.folder, *(path for path in more.split(os.pathsep) if path), *path]
    importlib.invalidate_caches()
    if not works_with_ours(request.arguments):
        for name in [name for name in sys.modules if name.partition(".")[0] in ("ecgpipe", PLUGIN)]:
            del sys.modules[name]
        LoggerPluginRegistry._instance = None  # type: ignore[misc]
    if request.arguments[1] in RUN_JOBS or request.arguments[1:3] == ["ecgpipe", "run"]:
        sys.executable = request.environment.get(STAND_IN, stand_in)  # what these start is started as they were
    tempfile.tempdir = None
    np.random.seed()
    if threads := request.environment.get("OMP_NUM_THREADS"):
        set_threads(int(threads))
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


def load() -> None:
    """Load the modules, and do once what every process would do.

    That is Snakemake's search for plugins, compiling the pages' templates, and matplotlib's loading of its fonts and of
    what writes PNG and SVG.
    """
    for name in [*LOADED, *(f"ecgpipe.{name}" for name in OWN)]:
        importlib.import_module(name)
    compiled.compile_umap()  # each worker's server would compile it
    importlib.import_module("umap")
    import matplotlib as mpl
    from matplotlib.figure import Figure
    from snakemake.cli import get_argument_parser

    from ecgpipe.report import ecg_paper, report

    get_argument_parser()
    for name in ("report", "study"):
        report.make_environment().get_template(f"{name}.html.j2")
    with mpl.rc_context(ecg_paper.STYLE):
        figure = Figure(layout="constrained")
        axes = figure.subplots()
        axes.set_title("a").set_fontweight("bold")
        axes.imshow([[0]])
        axes.bar_label(axes.barh(["a"], [1]))
        ecg_paper.lay_out(figure)
        for suffix in ("png", "svg"):
            figure.savefig(io.BytesIO(), format=suffix)


def keep_as_it_is() -> None:
    """Have forked processes leave alone what is loaded, which copies it: collecting garbage, and ending.

    What was loaded with finalizers, thousands of compiled functions, takes 60 ms of the end of each process.
    """
    of_python: Any = weakref.finalize
    atexit.unregister(of_python._exitfunc)
    of_python._registry, of_python._registered_with_atexit = {}, False
    gc.collect()
    gc.freeze()
    _use_large_pages()


def _use_large_pages() -> None:
    """Have Linux keep what is loaded in pages of 2 MB, of which forking copies the table in half the time."""
    if sys.platform != "linux":
        return
    libc = ctypes.CDLL(None)
    size, collapse = 2**21, 25  # MADV_COLLAPSE of Linux 6.1; where it is not known, nothing happens
    for line in Path("/proc/self/maps").read_text().splitlines():
        addresses, permissions, *_ = line.split()
        if permissions == "rw-p":
            first, end = (int(text, 16) for text in addresses.split("-"))
            for start in range(-(-first // size) * size, end // size * size, size):
                libc.madvise(ctypes.c_void_p(start), ctypes.c_size_t(size), collapse)


if __name__ == "__main__":
    sys.path.pop(0)  # the folder of this file
    # What is loaded adds to both.
    path = list(sys.path)
    started_with = dict(os.environ)
    load()
    assert "huggingface_hub" not in sys.modules  # it reads its variables when it is imported
    import threadpoolctl  # type: ignore[import-untyped]

    libraries = threadpoolctl.ThreadpoolController()  # looking for them takes 25 ms
    keep_as_it_is()
    with socket.socket(fileno=int(sys.argv[1])) as server:
        request = serve(server, int(sys.argv[2]), started_with)
    become(request, path, sys.argv[3], lambda threads: libraries.limit(limits=threads))
    end(lambda: runpy._run_module_as_main(request.arguments[1]))  # type: ignore[attr-defined]
