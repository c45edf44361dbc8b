"""The two sides of a comparison: a process for each, measured in turn, so that neither's memory counts as the other's.

The process that compares imports nothing large, because Linux counts what a parent held when it started a child as the
child's.
"""

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib import import_module
from math import ceil
from multiprocessing import get_context
from multiprocessing.context import BaseContext
from pathlib import Path
from typing import Any, NamedTuple

CONTEXT = get_context("spawn")
LOADED = get_context("forkserver")
CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
MAXRSS_PER_MB = 2**20 if sys.platform == "darwin" else 2**10  # macOS counts bytes, Linux kB


class Work(NamedTuple):
    """What a side does again and again."""

    call: Callable[[], object]
    units: float  # how much one call does, e.g. segments
    finish: Callable[[], object] = lambda: None  # waits for what calls have only begun, as on a GPU


class Round(NamedTuple):
    """What one measurement of a side gave."""

    rate: float  # units per second
    peak_mb: float  # the process's largest resident memory so far
    device_peak_mb: float | None  # the largest that tensors took on the GPU during this round; None without one


class Finished(NamedTuple):
    """What a command took."""

    seconds: float  # from its start to its end
    peak_mb: float  # resident memory


class Setup(NamedTuple):
    """What the measurements of one device share."""

    folder: Path  # has model.safetensors and model.json, and gets what else is written
    device: str  # cpu or cuda
    threads: int
    repeats: int  # pairs
    round_s: float  # about how long one measurement takes, in seconds
    tiny: bool = False  # to try the benchmarks themselves


@dataclass(frozen=True)
class Row:
    """One line of the table and of the JSON."""

    what: str
    device: str
    precision: str
    size: int | None  # how many of `per`
    per: str  # batch, segments, recordings
    value: float  # a median
    unit: str
    ratio: float | None = None  # the median of the ratios of pairs that were measured in turn
    of: str = ""  # the other side of the pairs
    peak_mb: float | None = None  # resident memory
    device_peak_mb: float | None = None  # tensors on the GPU
    pairs: int = 0


Measure = Callable[[str], Round | None]

_for_calls: list[ProcessPoolExecutor] = []
_context: list[BaseContext] = [CONTEXT]


@contextmanager
def side(
    module: str, function: str, round_s: float, environment: Mapping[str, str] | None = None, **arguments: object
) -> Iterator[Measure]:
    """Start a process with some work, and measure it when asked.

    Args:
        module: Where the function is, by name, so that only the new process imports it.
        function: Takes `arguments` and returns its works by name, a dict of `Work`.
        round_s: A round repeats the call until it takes about so many seconds.
        environment: Variables that the new process sets before it imports.
        arguments: What the function is called with.

    Yields:
        A function that measures the work of a name: its `Round`, or None where the GPU has too little memory for it.
    """
    with ProcessPoolExecutor(1, mp_context=CONTEXT if environment else _context[-1]) as pool:
        pool.submit(_prepare, module, function, dict(environment or {}), arguments).result()
        yield lambda name: pool.submit(_round, name, round_s).result()


def call(module: str, function: str, **arguments: object) -> Any:  # noqa: ANN401, whatever the function returns
    """What a function returns, called in a process of its own."""
    if _for_calls:
        return _for_calls[-1].submit(_call, module, function, arguments).result()
    with one_process_for_calls():
        return call(module, function, **arguments)


@contextmanager
def one_process_for_calls() -> Iterator[None]:
    """Have one process do every `call` meanwhile: a new one takes seconds to load PyTorch each time.

    It has nothing to do while a side is measured. For calls that take nothing of a GPU, which it would keep.
    """
    with ProcessPoolExecutor(1, mp_context=_context[-1]) as pool:
        _for_calls.append(pool)
        try:
            yield
        finally:
            _for_calls.pop()


@contextmanager
def loaded_once(wanted: bool = True) -> Iterator[None]:
    """Have calls and sides meanwhile be copies of one process that has loaded PyTorch, to try benchmarks quickly.

    Not to measure: a copy counts memory as its own that it shares, and not what loading takes. Sides with variables of
    their own are new processes even so.
    """
    if not wanted:
        yield
        return
    LOADED.set_forkserver_preload(["benchmarks.machine"])
    _context.append(LOADED)
    try:
        yield
    finally:
        _context.pop()


def run(command: Sequence[str | Path]) -> Finished:
    """Run a command to its end, and take its time and its largest resident memory.

    Raises:
        RuntimeError: It failed; with what it said last.
    """
    with tempfile.TemporaryFile() as said:
        started = time.perf_counter()
        process = subprocess.Popen([*map(str, command)], stdout=said, stderr=subprocess.STDOUT)
        _, status, usage = os.wait4(process.pid, 0)
        took = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            said.seek(0)
            last = said.read().decode(errors="replace")[-2000:]
            raise RuntimeError(f"{' '.join(map(str, command))} ended with {process.returncode}: {last}")
    return Finished(took, usage.ru_maxrss / MAXRSS_PER_MB)


def setups(threads: int, repeats: int, round_s: float) -> Iterator[tuple[Setup, dict[str, int]]]:
    """What each device that is there is measured with, and its precisions with the stage's batch sizes."""
    with tempfile.TemporaryDirectory() as name:
        call("benchmarks.ecg_fm", "write", folder=Path(name))
        for device, batches in call("benchmarks.machine", "devices").items():
            yield Setup(Path(name), device, threads, repeats, round_s), batches


def seconds(work: Callable[[], object]) -> float:
    """How long the work takes, once."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def show(rows: Sequence[Row]) -> None:
    """Print rows as one table."""
    heads = ("", "device", "precision", "size", "", "", "ratio", "of", "MB", "GPU MB")
    lines = [heads] + [
        (
            row.what,
            row.device,
            row.precision,
            f"{row.size:,} {row.per}" if row.size is not None else row.per,
            f"{row.value:,.2f}" if row.value < 100 else f"{row.value:,.0f}",
            row.unit,
            "" if row.ratio is None else f"{row.ratio:.2f}",
            row.of,
            "" if row.peak_mb is None else f"{row.peak_mb:,.0f}",
            "" if row.device_peak_mb is None else f"{row.device_peak_mb:,.0f}",
        )
        for row in rows
    ]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    to_the_right = {4, 6, 8, 9}
    for line in lines:
        cells = (
            cell.rjust(width) if i in to_the_right else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        print("  ".join(cells).rstrip())


def save(path: Path, rows: Sequence[Row], **facts: object) -> None:
    """Write rows and what they belong to as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {**facts, "rows": [asdict(row) for row in rows]}
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


# In the side's process.

_works: dict[str, Work] = {}
_times: dict[str, int] = {}


def _prepare(module: str, function: str, environment: dict[str, str], arguments: dict[str, Any]) -> None:
    os.environ.update(environment)
    _works.update(_call(module, function, arguments))


def _call(module: str, function: str, arguments: dict[str, Any]) -> Any:  # noqa: ANN401
    return getattr(import_module(module), function)(**arguments)


def _round(name: str, round_s: float) -> Round | None:
    """Repeat a work until it takes about `round_s`, having once found out how often that is."""
    try:
        if name not in _times:
            took = _seconds(_works[name], 1)  # warms up, and tells enough of what takes long
            if took < 2 * round_s:
                took = _seconds(_works[name], 1)
            _times[name] = max(1, ceil(round_s / took))
        _reset_device_peak()
        rate = _times[name] * _works[name].units / _seconds(_works[name], _times[name])
    except RuntimeError as error:
        if type(error).__name__ != "OutOfMemoryError":
            raise
        return None
    return Round(rate, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / MAXRSS_PER_MB, _device_peak_mb())


def _seconds(work: Work, times: int) -> float:
    started = time.perf_counter()
    for _ in range(times):
        work.call()
    work.finish()
    return time.perf_counter() - started


def _reset_device_peak() -> None:
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.reset_peak_memory_stats()


def _device_peak_mb() -> float | None:
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return None
    peak: float = torch.cuda.max_memory_allocated() / 2**20
    return peak
