"""Snakemake in a process that has imported it already: a test's run starts in a tenth of the time.

Python's own fork server imports Snakemake once for all runs of a process of tests. It does not import ecgpipe: each
run imports that of its own clone.
"""

import atexit
import multiprocessing
import os
import signal
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

# What Snakemake imports only as it begins to run, and what a Snakefile of ours needs.
PRELOADED = ["snakemake.cli", "snakemake.api", "snakemake.workflow", "snakemake.dag", "snakemake.scheduling"]
PRELOADED += ["pandas", "pyarrow.parquet", "pydantic", "pulp", "yaml"]


def run(arguments: Sequence[str], folder: Path, timeout_s: float) -> tuple[int, str]:
    """Run Snakemake in `folder` with this process's environment.

    Returns:
        The exit status, and what it and its jobs wrote to standard output and error.

    Raises:
        TimeoutError: It took longer than that, and was ended.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    with tempfile.NamedTemporaryFile("w+", encoding="utf-8", errors="replace") as output:
        started = context.Process(target=_snakemake, args=(list(arguments), folder, dict(os.environ), output.name))
        started.start()
        started.join(timeout_s)
        if started.is_alive():
            started.terminate()
            started.join()
            raise TimeoutError(f"snakemake {' '.join(arguments)} took longer than {timeout_s} s")
        assert started.exitcode is not None
        return started.exitcode, Path(output.name).read_text(encoding="utf-8", errors="replace")


def _snakemake(arguments: Sequence[str], folder: Path, environment: Mapping[str, str], output: str) -> None:
    """Become a process as `python -m snakemake` in `folder` is one."""
    file = os.open(output, os.O_WRONLY | os.O_APPEND)
    os.dup2(file, 1)
    os.dup2(file, 2)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # the fork server ignores it, and so would every job
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(line_buffering=True)  # type: ignore[union-attr]

    from snakemake import cli

    sys.argv = [str(Path(cli.__file__).with_name("__main__.py")), *arguments]
    try:
        cli.main()
    finally:
        atexit._run_exitfuncs()  # a process of multiprocessing leaves them out
        sys.stdout.flush()
        sys.stderr.flush()
