"""What a run costs besides its work, by the number of shards: Snakemake's time and memory, and what stands idle.

    python -m benchmarks.scale [--shards 100 250 500] [--cores 16] [--gpus 4]
    python -m benchmarks.scale --shards 200 --seconds preprocess=2 infer=4
    python -m benchmarks.scale --shards 60 --per-part 10 --real --device cpu --cores 2 --gpus 1

Snakemake's time is that of its main process, since a shared machine says little of what passes meanwhile.

The workflow as it is, on a copy of its rules, with a stand-in for the stages: after the scan of the inputs, which is
the real one, a stage only waits for its --seconds and writes files without rows. So 16 cores and 4 GPUs can be had
anywhere.
With --real the stages are the real ones, over one recording of five seconds per shard, with a small model.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import NamedTuple

import psutil  # type: ignore[import-untyped]

from benchmarks.sides import call
from ecgpipe.core.results import FIGURES

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "results"

# The package that jobs find first: what is not in it is found in the real one.
INIT = f"__path__.append({str(ROOT / 'ecgpipe')!r})\n__version__ = 'stand-in'\n"
MAIN = f"""
import json, os, runpy, sys, time
from pathlib import Path

def empty(stage, path):
    # Results without rows that name the settings and the stage that made them, as a run asks before it takes them over.
    import pyarrow as pa
    import pyarrow.parquet as pq
    from ecgpipe.core import settings

    section = settings.read_section(stage, settings.STAGES[stage], Path(path))
    made_by = {{stage: settings.hash_section(stage, section)}}

    def write(path, **more):
        path.parent.mkdir(parents=True, exist_ok=True)
        told = {{"stage": stage, "file": path.name, "settings": made_by, "ecgpipe": "0", "segments": 0, "seconds": 0}}
        schema = pa.schema([], metadata={{"ecgpipe": json.dumps(told)}})
        if path.suffix == ".parquet":
            pq.write_table(schema.empty_table(), path)
        elif path.suffix == ".arrow":
            pa.ipc.new_file(str(path), schema).close()
        elif path.suffix == ".json":
            path.write_text(json.dumps(told | more))
        elif path.suffix == ".safetensors":
            head = json.dumps({{"__metadata__": {{"ecgpipe": json.dumps({{"settings": made_by}})}}}}).encode()
            path.write_bytes(len(head).to_bytes(8, "little") + head)
        else:
            path.write_text(settings.format_mark(made_by))

    return write

started = time.time()
stage, options = sys.argv[1], sys.argv[2:]
named = {{options[i]: options[i + 1] for i in range(len(options) - 1) if options[i].startswith("--")}}
seconds = json.loads(os.environ["SCALE_SECONDS"])
outputs = {{
    "checkpoint": ["--weights", "--description"],
    "preprocess": ["--segments", "--records"],
    "precision": ["--chosen", "--drift"],
    "infer": ["--logits", "--embeddings", "--attention", "--timing"],
    "aggregate": ["--predictions"],
    "summary": ["--duplicates"],
    "umap_fit": ["--output"],
    "umap_place": ["--output"],
    "umap": ["--output"],
    "examples": ["--output"],
    "attribute": ["--output", "--leads"],
    "report": ["--output"],
    "verdict": ["--output"],
}}
status = 0
if stage == "manifest" or os.environ["SCALE_REAL"]:
    try:
        runpy.run_path({str(ROOT / "ecgpipe" / "__main__.py")!r}, run_name="__main__")
    except SystemExit as error:
        status = error.code
else:
    time.sleep(seconds.get(stage, 0))
    write = empty(stage.partition("_")[0], named["--settings"])
    for name in outputs.get(stage, ()):
        if name in named:
            write(Path(named[name]))
            if name == "--chosen":
                Path(named[name]).with_name("choice.txt").write_text("float32")
    for name in {FIGURES!r} if stage == "figures" else ():
        for suffix in ("png", "svg"):
            write(Path(named["--outdir"], name + "." + suffix))
    if stage == "summary":
        counts = dict.fromkeys(("recordings", "ok", "skipped", "failed", "segments", "hours", "other_files"), 0)
        checkpoint = {{"uri": "x.pt", "revision": None, "sha256": "0", "random_weights": False, "labels": []}}
        write(
            Path(named["--output"]),
            finished=time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime()),
            counts=counts,
            checkpoint=checkpoint,
            throughput={{"segments": 0, "seconds": 0, "segments_per_s": None}},
            precision={{"used": "float32"}},
            hardware={{"inference": []}},
            config={{"input": "input.csv"}},
        )
number = os.path.basename(named.get("--records") or named.get("--timing") or "").rpartition("-")[2].partition(".")[0]
stage = "sample" if number == "sample" else stage
with open(os.environ["SCALE_EVENTS"], "a") as events:
    events.write(json.dumps([stage, int(number) if number.isdecimal() else 0, started, time.time()]) + "\\n")
sys.exit(status)
"""


class Event(NamedTuple):
    """A job, as it saw itself."""

    stage: str
    number: int  # of the shard or part
    start: float
    end: float


class Ran(NamedTuple):
    """One call of Snakemake."""

    start: float
    end: float
    cpu_s: float  # of its main process
    peak_mb: float  # the same
    clock: list[tuple[float, float]]  # when it had taken how much
    most_segments: int  # files in segments/ at a time
    events: list[Event]

    def spent(self, until: float) -> float:
        """The main process's time by then."""
        return max((cpu for when, cpu in self.clock if when <= until), default=0.0)


@dataclass(frozen=True)
class Row:
    """A run over so many shards, and what came after it."""

    shards: int
    parts: int
    jobs: int
    run_s: float
    cpu_s: float  # of Snakemake's main process
    peak_mb: float  # the same
    begin_s: float  # until the first job
    after_manifest_s: float  # from the end of the scan to the first shard
    ms_per_job: float  # of the main process's time, from the first shard to the last prediction
    end_s: float  # from the end of the last job to that of the run
    first_infer: float  # how much of the run was over, of the time from the first shard to the last part
    idle_gpus: float | None  # of the GPUs' time from the first shard to the last part; None where nothing takes time
    part_waits_s: float  # from its last shard to its beginning, the median
    most_segments: float  # of all segment files, on disk at a time
    again_s: float  # a second run, which only looks for new recordings
    again_cpu_s: float
    dry_s: float  # a dry run over all jobs
    dry_mb: float


def write(folder: Path, shards: int, real: bool) -> None:
    """The inputs, and the copy of the workflow with the stand-in for the stages."""
    for name in ("workflow", "config", "profiles"):
        shutil.copytree(ROOT / name, folder / "copy" / name)
    shutil.copy(ROOT / "Snakefile", folder / "copy")
    (folder / "copy" / "ecgpipe").mkdir()
    (folder / "copy" / "ecgpipe" / "__init__.py").write_text(INIT)
    (folder / "copy" / "ecgpipe" / "__main__.py").write_text(MAIN)
    if real:
        call("benchmarks.scale", "write_recordings", folder=folder, recordings=shards)
    else:
        (folder / "x.pt").touch()
        (folder / "input.csv").write_text("\n".join(["path", *(f"{i}.npy" for i in range(shards)), ""]))


def write_recordings(folder: Path, recordings: int) -> None:
    """Real ones, and a small model's checkpoint."""
    import numpy as np
    import torch

    from ecgpipe.readers import LEADS
    from ecgpipe.selftest import synthetic_checkpoint

    (folder / "input").mkdir()
    for i in range(recordings):
        np.save(folder / "input" / f"{i:06d}.npy", np.random.default_rng(i).standard_normal((12, 2500), np.float32))
    torch.save(synthetic_checkpoint.demo(seed=1), folder / "x.pt")
    leads = ", ".join(LEADS)
    (folder / "real.yaml").write_text(f"preprocess: {{assume_sample_rate: 500, assume_leads: [{leads}]}}\n")


def snakemake(folder: Path, args: argparse.Namespace, *options: str) -> Ran:
    """Run it once, and watch its main process.

    Raises:
        RuntimeError: It failed; with what it said last.
    """
    events, said = folder / "events", folder / "said"
    events.write_text("")
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(folder / "copy" / "Snakefile")]
    command += [*options, "--cores", str(args.cores), "--resources", f"gpu={args.gpus}", *args.options]
    if args.real:
        command += ["--configfile", "real.yaml"]
    inference = f"{{shards_per_part: {args.per_part}, device: {args.device}}}"
    given = {"input": "input" if args.real else "input.csv", "outdir": "out", "checkpoint": "x.pt"}
    given |= {"manifest": "{shard_size: 1}", "inference": inference}
    command += ["--config", *(f"{key}={value}" for key, value in given.items())]
    environment = {"SCALE_EVENTS": str(events), "SCALE_SECONDS": json.dumps(dict(args.seconds))}
    environment["SCALE_REAL"] = "1" if args.real else ""
    peak = 0.0
    most = 0
    clock = [(0.0, 0.0)]
    start = time.time()
    with said.open("w") as output:
        process = subprocess.Popen(
            command, cwd=folder, env=os.environ | environment, stdout=output, stderr=subprocess.STDOUT
        )
        watched = psutil.Process(process.pid)
        while process.poll() is None:
            try:
                peak = max(peak, watched.memory_info().rss / 2**20)
                times = watched.cpu_times()
                clock.append((time.time(), times.user + times.system))
                most = max(most, len(os.listdir(folder / "out" / "segments")))  # noqa: PTH208
            except (psutil.Error, OSError):  # not there yet, or no more
                pass
            time.sleep(0.2)
    end = time.time()
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}: {said.read_text()[-3000:]}")
    found = [Event(*json.loads(line)) for line in events.read_text().splitlines()]
    return Ran(start, end, clock[-1][1], peak, clock, most, sorted(found, key=lambda event: event.start))


def measure(shards: int, args: argparse.Namespace) -> Row:
    """A run, a second one, and a dry run over all jobs."""
    with tempfile.TemporaryDirectory(dir=args.folder) as name:
        folder = Path(name)
        write(folder, shards, args.real)
        ran = snakemake(folder, args)
        again = snakemake(folder, args)
        shutil.rmtree(folder / "out" / "records")  # so that everything after the scan is to be done again
        dry = snakemake(folder, args, "--dry-run", "--quiet", "all")
    by_stage: dict[str, list[Event]] = {}
    for event in ran.events:
        by_stage.setdefault(event.stage, []).append(event)
    shard_jobs, part_jobs = by_stage["preprocess"], by_stage["infer"]
    first, last = shard_jobs[0].start, max(event.end for event in part_jobs)
    ready = [0.0] * len(part_jobs)
    for event in shard_jobs:
        part = event.number // args.per_part
        ready[part] = max(ready[part], event.end)
    counted = shard_jobs + part_jobs + by_stage["aggregate"]
    over = max(event.end for event in counted)
    busy = sum(event.end - event.start for event in part_jobs)
    return Row(
        shards=shards,
        parts=len(part_jobs),
        jobs=len(ran.events) + 1,
        run_s=ran.end - ran.start,
        cpu_s=ran.cpu_s,
        peak_mb=ran.peak_mb,
        begin_s=ran.events[0].start - ran.start,
        after_manifest_s=first - by_stage["manifest"][0].end,
        ms_per_job=1000 * (ran.spent(over) - ran.spent(first)) / len(counted),
        end_s=ran.end - max(event.end for event in ran.events),
        first_infer=(part_jobs[0].start - first) / (last - first),
        idle_gpus=1 - busy / (args.gpus * (last - first)) if args.real or dict(args.seconds).get("infer") else None,
        part_waits_s=median(event.start - ready[event.number] for event in part_jobs),
        most_segments=ran.most_segments / shards,
        again_s=again.end - again.start,
        again_cpu_s=again.cpu_s,
        dry_s=dry.end - dry.start,
        dry_mb=dry.peak_mb,
    )


def show(rows: Sequence[Row]) -> None:
    """Print a line per figure, and a column per size."""
    for name in Row.__dataclass_fields__:
        values = ["-" if value is None else round(value, 2) for value in (getattr(row, name) for row in rows)]
        print(f"{name:<18}", *(f"{value if value == '-' else f'{value:,}':>10}" for value in values))


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards", type=int, nargs="+", default=[100, 250, 500], help="(default %(default)s)")
    parser.add_argument("--per-part", type=int, default=20, help="shards (default %(default)s)")
    parser.add_argument("--cores", type=int, default=16, help="(default %(default)s)")
    parser.add_argument("--gpus", type=int, default=4, help="(default %(default)s)")
    parser.add_argument("--device", choices=["cpu", "auto"], default="auto", help="auto chooses the precision first")
    parser.add_argument(
        "--seconds",
        type=lambda text: (text.partition("=")[0], float(text.partition("=")[2])),
        nargs="+",
        default=[],
        metavar="STAGE=SECONDS",
        help="how long a stage waits (default: none does)",
    )
    parser.add_argument("--real", action="store_true", help="the real stages, with a small model")
    parser.add_argument(
        "--options",
        nargs="+",
        default=[],
        metavar="OPTION",
        help="of Snakemake, without its dashes, e.g. scheduler=greedy",
    )
    parser.add_argument("--folder", type=Path, help="where to run (default: the system's temporary folder)")
    parser.add_argument("--json", type=Path, help="(default: benchmarks/results/scale-MACHINE.json)")
    args = parser.parse_args()
    args.options = [f"--{option}" for option in args.options]
    started = time.monotonic()
    rows = []
    for shards in args.shards:
        rows.append(measure(shards, args))
        print(f"{time.monotonic() - started:5.0f} s  {shards} shards", flush=True)
    show(rows)
    machine = call("benchmarks.machine", "facts")
    path = args.json or RESULTS / f"scale-{call('benchmarks.machine', 'name', known=machine)}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    settings = {key: str(value) if isinstance(value, Path) else value for key, value in vars(args).items()}
    when = datetime.now(UTC).isoformat(timespec="seconds")
    content = {"made": when, "machine": machine, "settings": settings, "rows": [asdict(row) for row in rows]}
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    print(f"written to {path}")


if __name__ == "__main__":
    main()
