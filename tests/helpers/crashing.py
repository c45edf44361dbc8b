"""Runs of the real workflow whose processes are held, killed and let go at a given moment, and what they leave."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar
from xml.etree import ElementTree

import forked_python
import psutil  # type: ignore[import-untyped]
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image
from run_workflow import ROOT, Ran, snakemake
from safetensors.numpy import load_file

Found = TypeVar("Found")
Start = Callable[..., "Run"]  # as the fixture `start`

# Nothing here waits for longer than this.
PATIENCE_S = 300.0

# What most runs are asked for: one inference, which takes both shards. The rest of a whole run takes longer than that.
RESULTS = ("out/logits/part-00000.parquet",)
REST = ("predictions/", "umap/", "attribution/", "run.json", "duplicates.parquet", "examples.parquet")

# What a stage says before it begins to write. Until then it loads PyTorch, and the steps of `advance` are longer.
SAYS_BEFORE_IT_WRITES = {"infer": " on CPU"}

# Facts of a run that its results do not depend on.
OF_THE_RUN = {"finished", "throughput", "hardware"}


def settings(dataset: Path) -> dict[str, str]:
    """14 recordings of 20 s in two shards and one part: 1,400 segments, which are more than one row group."""
    return {
        "input": str(dataset / "input"),
        "checkpoint": str(dataset / "x.pt"),
        "labels": str(dataset / "labels.csv"),
        "outdir": "out",
        "manifest": "{shard_size: 7}",
        "preprocess": "{segment_s: 0.2}",
        "inference": "{device: cpu}",
        "attribution": "{recordings: 1, steps: 4}",
    }


class Run:
    """A run of Snakemake that goes on by itself, with all processes that it starts.

    Snakemake's process is forked from one that has loaded it, and leads a session; its jobs are started as ever.
    """

    def __init__(self, folder: Path, given: dict[str, str], *targets: str) -> None:
        command = [str(forked_python.program()), "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile")]
        command += ["--cores", "2", "--logger-ecgpipe-all", *targets]
        command += ["--config", *(f"{key}={value}" for key, value in given.items())]
        started = time.monotonic_ns()
        self._says = folder / f"said-{started}.txt"
        leads = folder / f"snakemake-{started}.txt"
        with self._says.open("w") as says:
            self._waits = subprocess.Popen(
                command,
                cwd=folder,
                env=os.environ | {forked_python.LEADS: str(leads), forked_python.STAND_IN: sys.executable},
                stdout=says,
                stderr=subprocess.STDOUT,
            )
        self._snakemake = psutil.Process(int(until(lambda: leads.read_text() if leads.exists() else None)))

    @property
    def output(self) -> str:
        """What it has said so far."""
        return self._says.read_text()

    def ends(self) -> int:
        """Wait until Snakemake ends, and return its exit status."""
        return self._waits.wait(PATIENCE_S)

    def says(self, words: str) -> None:
        """Wait until Snakemake has said something."""
        until(lambda: words in self.output, 0.01)

    def kill(self) -> None:
        """Kill Snakemake alone: what it has started goes on."""
        self._snakemake.kill()
        self._waits.wait(PATIENCE_S)

    def send(self, number: signal.Signals) -> None:
        """Send a signal to Snakemake alone."""
        self._snakemake.send_signal(number)

    def interrupt(self) -> None:
        """Send what a terminal sends with Ctrl-C, to Snakemake and all that it has started."""
        os.killpg(self._snakemake.pid, signal.SIGINT)

    def end(self) -> None:
        """End whatever is left of it."""
        with suppress(ProcessLookupError):
            os.killpg(self._snakemake.pid, signal.SIGKILL)
        self._waits.wait(PATIENCE_S)

    def job(self, stage: str) -> psutil.Process:
        """Wait for the first job of a stage, and hold it as early as possible."""

        def begun() -> psutil.Process | None:
            assert self._waits.poll() is None, self.output
            for process in descendants(self._snakemake):
                with suppress(psutil.Error):
                    if process.cmdline()[1:4] == ["-m", "ecgpipe", stage]:
                        hold(process)
                        return process
            return None

        return until(begun, 0.01)  # it loads what it needs for longer


def until(look: Callable[[], Found | None], pause_s: float = 0.001) -> Found:
    """What `look` finds, once it does."""
    last = time.monotonic() + PATIENCE_S
    while not (found := look()):
        assert time.monotonic() < last, "it did not happen"
        time.sleep(pause_s)
    return found


def children(process: psutil.Process) -> list[psutil.Process]:
    """The processes that a process has started. psutil would look at every process of the machine for them."""
    found = []
    with suppress(OSError):  # it has ended
        for path in Path(f"/proc/{process.pid}/task").glob("*/children"):
            for pid in path.read_text().split():
                with suppress(psutil.NoSuchProcess):
                    found.append(psutil.Process(int(pid)))
    return found


def descendants(process: psutil.Process) -> Iterator[psutil.Process]:
    """The processes that a process has started, and what those have started."""
    for child in children(process):
        yield child
        yield from descendants(child)


def hold(job: psutil.Process) -> None:
    """Stop a job, and the process that it works in."""
    job.suspend()
    until(lambda: job.status() in {psutil.STATUS_STOPPED, psutil.STATUS_ZOMBIE}, 0)
    for child in children(job):
        hold(child)


def resume(job: psutil.Process) -> None:
    """Let a job that is held go on, with the process that it works in."""
    for process in [*children(job), job]:
        process.resume()


def advance(job: psutil.Process, outdir: Path, writing: str, size: int = 0) -> Path:
    """Let a job that is held go on in small steps, until it has written so much of a file. It is held again then.

    Args:
        job: The process.
        outdir: The results.
        writing: Of the file, the final name below `outdir`, or a pattern.
        size: In bytes.

    Returns:
        The unfinished file.
    """
    folder, _, name = writing.rpartition("/")

    _, _, _, stage, *arguments = job.cmdline()
    words = SAYS_BEFORE_IT_WRITES.get(stage, "")
    log = Path(job.cwd(), arguments[arguments.index("--log") + 1])

    def step() -> Path | None:
        begins = not words or (log.exists() and words in log.read_text())
        resume(job)
        time.sleep(0.001 if begins else 0.02)
        hold(job)
        found = (outdir / folder).glob(f".{name}.*.{job.pid}.tmp")
        return next((path for path in found if path.stat().st_size >= size), None)

    return until(step, 0)


def again(folder: Path, given: dict[str, Any], *targets: str) -> Ran:
    """Run the same command, and see that it ends well and leaves nothing unfinished behind."""
    ran = snakemake(folder, *targets, **given)
    assert ran.status == 0, ran.output
    assert not unfinished(folder / "out")
    return ran


def unfinished(outdir: Path) -> list[Path]:
    """The files that nobody finished."""
    return list(outdir.rglob(".*.tmp"))


def final(outdir: Path) -> Iterator[Path]:
    """Every file that has its final name."""
    return (path for path in sorted(outdir.rglob("*")) if path.is_file() and not path.name.startswith("."))


def assert_no_file_is_torn(outdir: Path) -> None:
    """Read each file that has its final name from beginning to end."""
    for path in final(outdir):
        if path.suffix == ".parquet":
            pq.read_table(path).validate(full=True)
        elif path.suffix == ".arrow":
            with pa.ipc.open_file(path) as file:
                file.read_all().validate(full=True)
        elif path.suffix == ".json":
            json.loads(path.read_text())
        elif path.suffix == ".safetensors":
            load_file(path)
        elif path.suffix == ".png":
            with Image.open(path) as image:
                image.load()
        elif path.suffix == ".svg":
            ElementTree.parse(path)  # noqa: S314, our own
        elif path.suffix == ".html":
            assert path.read_text().rstrip().endswith("</html>")
        elif path.name == "choice.txt":
            assert path.read_text() == "float32\n"
        else:
            # What else there is, and what nothing is computed from.
            assert path.suffix in {".log", ".tsv"} or path.name in {"verdict.txt", "found.txt"}, path


def assert_equal(outdir: Path, undisturbed: Path, *but_for: str) -> None:
    """See that two runs have the same results: Parquet and weights byte for byte, JSON by content.

    Args:
        outdir: The results that are to be as they should.
        undisturbed: Results of a run that nothing happened to.
        but_for: Folders and files that only the undisturbed run has been asked for.
    """
    expected = contents(undisturbed)
    for name in [name for name in expected if name.startswith(but_for)] if but_for else []:
        del expected[name]
    actual = contents(outdir)
    assert actual.keys() == expected.keys()
    assert [name for name in expected if actual[name] != expected[name]] == []
    assert not list((outdir / "segments").glob("*"))


def contents(outdir: Path) -> dict[str, Any]:
    """What there is to compare of each file: of Parquet and weights the sha256, of JSON what it holds."""
    found: dict[str, Any] = {}
    for path in final(outdir):
        name = path.relative_to(outdir).as_posix()
        if path.suffix in {".parquet", ".safetensors"}:
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
        elif path.suffix == ".json" and not name.startswith("timing/") and name != "settings/written.json":
            content = json.loads(path.read_text())
            if isinstance(content, dict):
                content = {key: value for key, value in content.items() if key not in OF_THE_RUN}
            found[name] = content
    return found
