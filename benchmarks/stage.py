"""How close the infer stage, end to end, comes to the model alone, by the number of segments.

    python -m benchmarks.stage [--threads N] [--segments 64 256 1024] [--repeats N]

The stage is its command, `python -m ecgpipe infer`, over shards as the preprocess stage writes them, with logits,
embeddings and attention asked for. Its rate is told from the first segment to the last, by its own timing file, and as
a whole command, the start of Python and the loading of PyTorch and the model included. The model alone, its signals on
the device already, is measured before each run of the stage.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from benchmarks.forward import alone
from benchmarks.sides import CORES, Row, Setup, call, run, setups, show

SEGMENTS = {"cpu": (32, 128, 256), "cuda": (1024, 8192, 32768)}
SHARD_SEGMENTS = 2048  # about a thousand recordings of ten seconds

# Runs the command and prints what its tensors took on the GPU at most, which no one else can tell.
ON_GPU = """
import sys, torch
from ecgpipe.__main__ import main
status = main(sys.argv[2:])
open(sys.argv[1], "w").write(str(torch.cuda.max_memory_allocated() / 2**20))
sys.exit(status)
"""


def write_shards(folder: Path, segments: int) -> list[Path]:
    """Write so many segments of noise in shards, in the schema and the record batches of the preprocess stage."""
    import numpy as np
    import pyarrow as pa

    from benchmarks.ecg_fm import SAMPLES
    from ecgpipe.core import provenance, schemas
    from ecgpipe.preprocessing.segment_writer import BATCH_SEGMENTS
    from ecgpipe.readers import LEADS

    settings = {"leads": list(LEADS), "segment_samples": SAMPLES, "sample_rate": 500}
    schema = schemas.SEGMENTS
    noise = np.random.default_rng(0).standard_normal((BATCH_SEGMENTS, len(LEADS) * SAMPLES), dtype=np.float32)
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for number, first in enumerate(range(0, segments, SHARD_SEGMENTS)):
        paths.append(folder / f"shard-{number:05d}.arrow")
        last = min(segments, first + SHARD_SEGMENTS)
        with pa.ipc.new_file(
            str(paths[-1]), provenance.add_origin(schema, "preprocess", preprocess=settings)
        ) as writer:
            for start in range(first, last, BATCH_SEGMENTS):
                rows = range(start, min(last, start + BATCH_SEGMENTS))
                columns = [
                    pa.array([f"r{row // 2:07d}" for row in rows], pa.string()),
                    pa.array([row % 2 for row in rows], pa.int32()),
                    pa.array([5.0 * (row % 2) for row in rows], pa.float32()),
                    pa.array([SAMPLES] * len(rows), pa.int32()),
                    pa.array(list(noise[: len(rows)]), schema.field("signal").type),
                    *(pa.nulls(len(rows), schema.field(name).type) for name in ("numbers", "steps", "constants")),
                ]
                writer.write_batch(pa.record_batch(columns, schema=schema))
    return paths


def arguments(setup: Setup, precision: str, shards: Sequence[Path]) -> list[str | Path]:
    """The stage's arguments; its results go to the folder's out/."""
    folder, out = setup.folder, setup.folder / "out"
    return [
        "infer", "--weights", folder / "model.safetensors", "--description", folder / "model.json",
        "--segments", *shards, "--logits", out / "logits.parquet", "--embeddings", out / "embeddings.parquet",
        "--attention", out / "attention.parquet", "--timing", out / "timing.json",
        "--device", setup.device, "--precision", precision, "--threads", str(setup.threads),
    ]  # fmt: skip


def device_peak_mb(folder: Path, argv: Sequence[str | Path]) -> float:
    """What the stage's tensors take on the GPU at most, in a run of its own."""
    peak_file = folder / "device_peak_mb"
    run([sys.executable, "-c", ON_GPU, peak_file, *argv])
    return float(peak_file.read_text())


def measure(setup: Setup, precision: str, batch: int, sizes: Sequence[int]) -> list[Row]:
    """The stage against the model alone, for each number of segments; fewer pairs where they are many."""
    rows, folder, device = [], setup.folder, setup.device
    with alone(setup, precision, [batch]) as model:
        for size in sizes:
            shards = call("benchmarks.stage", "write_shards", folder=folder / f"segments-{size}", segments=size)
            argv = arguments(setup, precision, shards)
            pairs, peaks = [], []
            for _ in range(max(1, setup.repeats * sizes[0] // size)):
                found = model(str(batch))
                if found is None:
                    raise RuntimeError(f"{device} has too little memory for a batch of {batch}")
                finished = run([sys.executable, "-m", "ecgpipe", *argv])
                timing = json.loads((folder / "out" / "timing.json").read_text())
                pairs.append((size / timing["seconds"], size / finished.seconds, found.rate))
                peaks.append(finished.peak_mb)
            on_device = device_peak_mb(folder, argv) if device == "cuda" else None
            for i, what in enumerate(("infer, first to last", "infer, whole command")):
                value, ratio = median(pair[i] for pair in pairs), median(pair[i] / pair[2] for pair in pairs)
                name = (what, device, precision, size, "segments", value, "segments/s")
                rows.append(Row(*name, ratio, "model alone", max(peaks), on_device, len(pairs)))
            for shard in shards:
                shard.unlink()
    return rows


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=CORES)
    parser.add_argument("--segments", type=int, nargs="+", help=f"(default: {SEGMENTS})")
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    rows = []
    for setup, batches in setups(args.threads, args.repeats, 3.0):
        for precision, batch in batches.items():
            rows += measure(setup, precision, batch, sorted(args.segments or SEGMENTS[setup.device]))
    show(rows)


if __name__ == "__main__":
    main()
