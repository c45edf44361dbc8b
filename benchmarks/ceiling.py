"""How many segments the infer stage gets through with a network that costs nothing, and where the time goes.

    python -m benchmarks.ceiling [--batch-sizes 16 256] [--repeats N] [--tiny]

The stage is its command over shards in the page cache, in one process on one core; its network gives the same noise for
each batch, of the shapes of ECG-FM's results, with attention. Beside it, in turn: its parts by themselves, and the
least that reading takes, the copy of the signals' bytes out of the page cache. A rate is of processor time, user's and
system's of all threads: what the clock says on a core that has nothing else to do. A part's share is its time, of the
stage's in the same turn.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import cycle
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from benchmarks.sides import Row, call, loaded_once, one_process_for_calls, show
from ecgpipe.models.description import describe

if TYPE_CHECKING:
    from ecgpipe.inference import engine

STAGE, COPY, READ, COMPUTE, WRITE = "stage", "copying the bytes", "reading", "computing nothing", "writing"
SEGMENTS, TIMES = 2048, 8  # of a shard; how many times it is gone over: more than fits into a processor's cache


def parts(folder: Path, shard: Path, times: int, batch: int) -> dict[str, Callable[[], object]]:
    """The stage and what it consists of, each over all segments."""
    import numpy as np
    import torch

    from benchmarks.ecg_fm import SAMPLES
    from benchmarks.sides import Setup
    from benchmarks.stage import arguments
    from ecgpipe import cli
    from ecgpipe.core import settings
    from ecgpipe.inference import background, engine, infer, segment_files
    from ecgpipe.inference.batch import BatchRunner
    from ecgpipe.inference.segment_files import Keys
    from ecgpipe.models import networks
    from ecgpipe.models.description import Architecture
    from ecgpipe.models.ecg_fm.tuning import for_device
    from ecgpipe.models.output import Output

    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})

    class Free(torch.nn.Module):
        """Says the same of every batch."""

        def __init__(self, arch: Architecture) -> None:
            super().__init__()
            self.arch = arch
            noise = np.random.default_rng(0).standard_normal
            shapes = (arch.labels, arch.width, arch.tokens(SAMPLES))
            self.output = Output(*(torch.from_numpy(noise((batch, size), np.float32)) for size in shapes))

        def forward(self, *_: object) -> Output:
            return self.output

    paths = [shard] * times
    contents = segment_files.inspect_shards(paths)
    description = describe(folder / "model.json")
    free = Free(description.architecture)
    networks.load_network = lambda *_, **__: free
    setup = Setup(folder, "cpu", 1, 1, 1.0)
    argv = [*map(str, arguments(setup, "float32", paths)), "--batch-size", str(batch)]
    buffers = [torch.empty(batch, contents.leads, contents.samples) for _ in range(background.AHEAD + 2)]
    kept = [keys for keys, _ in segment_files.read_batches([shard], buffers)]
    results = engine._results([tensor.numpy() for tensor in free.output if tensor is not None])

    def stage() -> None:
        if cli.main([*argv, "--log", str(folder / "log")]):
            raise RuntimeError((folder / "log").read_text())

    def copy() -> None:
        views = cycle([memoryview(buffer.numpy()).cast("B") for buffer in buffers])  # type: ignore[arg-type]
        for _ in range(times):
            with shard.open("rb", buffering=0) as file:
                while file.readinto(next(views)):
                    pass

    def read() -> None:
        for _ in background.read_ahead(segment_files.read_batches(paths, buffers)):
            pass

    def compute() -> None:
        halving = BatchRunner(free, batch, True, False, for_device("cpu"))
        for keys in kept * times:
            engine._results([tensor.numpy() for tensor in halving(buffers[0][: len(keys.samples)], keys.samples)])

    def said() -> Iterator[tuple[Keys, "engine.Results"]]:
        for keys in kept * times:
            yield keys, results._replace(**{
                name: array[: len(keys.samples)] for name, array in results._asdict().items()
            })  # fmt: skip

    def write() -> None:
        logits, embeddings, attention = (folder / f"{name}.parquet" for name in ("logits", "embeddings", "attention"))
        weights, description_json, timing = (folder / n for n in ("model.safetensors", "model.json", "timing.json"))
        files = infer.Files(weights, description_json, paths, logits, embeddings, attention, timing)
        infer.write_results(files, settings.Infer(), description, contents, "float32", said())

    return {STAGE: stage, COPY: copy, READ: read, COMPUTE: compute, WRITE: write}


def seconds(folder: Path, shard: Path, times: int, batch: int, repeats: int) -> dict[str, list[float]]:
    """The processor time of each, turn after turn."""
    works = parts(folder, shard, times, batch)
    took: dict[str, list[float]] = {name: [] for name in works}
    for turn in range(repeats + 1):
        for name, work in works.items():
            started = time.process_time()
            work()
            if turn:  # the first warms up
                took[name].append(time.process_time() - started)
    return took


def measure(folder: Path, shard: Path, times: int, batch: int, repeats: int, segments: int) -> list[Row]:
    """The rates, and each part's share of the stage."""
    took = call(
        "benchmarks.ceiling", "seconds", folder=folder, shard=shard, times=times, batch=batch, repeats=repeats
    )  # fmt: skip
    rows = []
    for name, several in took.items():
        share = median(one / whole for one, whole in zip(several, took[STAGE], strict=True))
        rate = median(segments * times / one for one in several)
        rows.append(Row(name, "cpu", "float32", batch, "a batch", rate, "segments/s", share, STAGE, pairs=repeats))
    return rows


def rows(batches: Sequence[int], repeats: int, tiny: bool) -> list[Row]:
    """All measurements."""
    segments, times = (64, 2) if tiny else (SEGMENTS, TIMES)
    found = []
    memory = "/dev/shm" if Path("/dev/shm").is_dir() else None  # noqa: S108
    with tempfile.TemporaryDirectory(dir=memory) as name, loaded_once(tiny):
        folder = Path(name)
        with one_process_for_calls():  # another one than measures
            call("benchmarks.ecg_fm", "write", folder=folder, tiny=tiny)
            (shard,) = call("benchmarks.stage", "write_shards", folder=folder / "segments", segments=segments)
        for batch in batches:
            found += measure(folder, shard, times, batch, repeats, segments)
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[16, 256])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--tiny", action="store_true", help="little of everything, to try the benchmark itself")
    args = parser.parse_args()
    show(rows(args.batch_sizes, args.repeats, args.tiny))


if __name__ == "__main__":
    main()
