"""What finding all neighbours takes, exactly and approximately, and what the approximate search misses.

    python -m benchmarks.neighbors [--recordings 5000 20000 100000] [--dimensions 24] [--no-exact-above N]

Made-up embeddings as wide as ECG-FM's, two segments to a recording. How hard they are to search is a matter of how many
directions they really vary in: `--dimensions` of them, bent into 768, with a little noise around. Each command is a
process of its own; seconds of processor time and the peak of its memory are what the operating system counted for it.
The ratio is exact to approximate.
"""

import argparse
import multiprocessing
import os
import sys
import tempfile
from pathlib import Path

from benchmarks import made_up

WIDTH = 768
LABELS = 17
PART = 2_000  # recordings; small files, since inference writes small row groups


def write(folder: Path, recordings: int, dimensions: int) -> None:
    """Write what the commands read of a run."""
    import numpy as np
    import pyarrow as pa

    from ecgpipe.core import parquet, provenance, schemas

    random = np.random.default_rng(0)
    bend = random.standard_normal((dimensions, 256)) / np.sqrt(dimensions)
    spread = random.standard_normal((256, WIDTH)) / 16
    names = [f"label {i}" for i in range(LABELS)]
    facts = {"checkpoint": made_up.SOURCE["uri"], "checkpoint_sha256": made_up.SOURCE["sha256"]}
    for part, start in enumerate(range(0, recordings, PART)):
        n = min(PART, recordings - start)
        ids = [f"p{i // 1000:04d}/p{i:08d}/s{i}" for i in range(start, start + n)]
        means = np.tanh(random.standard_normal((n, dimensions)) @ bend) @ spread + 1  # (recordings, width)
        both = means[:, None] + 0.05 * random.standard_normal((n, 2, WIDTH))
        flat = pa.FixedSizeListArray.from_arrays(pa.array(both.astype(np.float32).ravel()), WIDTH)
        segments = [pa.array(np.repeat(ids, 2)), pa.array([0, 1] * n, pa.int32()), flat]
        schema = provenance.add_origin(schemas.embeddings_schema(WIDTH), "infer", {}, **facts)
        parquet.write(folder / f"embeddings/part-{part:05d}.parquet", pa.table(segments, schema=schema))
        columns = [pa.array(ids), pa.array([2] * n, pa.int32()), *(pa.array(random.random(n)) for _ in names)]
        predictions = pa.table(columns, schema=schemas.predictions_schema(names))
        parquet.write(folder / f"predictions/part-{part:05d}.parquet", predictions)
        records = pa.Table.from_pylist([{"record_id": name, "status": "ok"} for name in ids], schema=schemas.RECORDS)
        parquet.write(folder / f"records/shard-{part:05d}.parquet", records)
    made_up.describe_run(folder, recordings, names)


def measure(*command: str | Path) -> tuple[float, float]:
    """Run a command; its seconds of processor time, and the peak of its memory in MB."""
    argv = [sys.executable, "-m", "ecgpipe", *map(str, command)]
    _, status, usage = os.wait4(os.posix_spawn(sys.executable, argv, os.environ), 0)
    if status:
        sys.exit(f"failed: {' '.join(argv)}")
    return usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


def recall(path: Path) -> tuple[float, int]:
    """What the file's metadata says."""
    import pyarrow.parquet as pq

    from ecgpipe.core import provenance

    facts = provenance.read_origin(pq.read_schema(path))["neighbors"]
    return facts["recall"], facts["recall_queries"]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recordings", type=int, nargs="+", default=[5_000, 20_000, 100_000])
    parser.add_argument("--dimensions", type=int, default=24, help="(default %(default)s)")
    parser.add_argument("--no-exact-above", type=int, default=100_000, help="recordings (default %(default)s)")
    args = parser.parse_args()
    head = ("recordings", "MB", "exact s", "MB", "approx. s", "MB", "ratio", "recall@10", "compare s", "MB")
    print(" ".join(f"{name:>10}" for name in head), flush=True)
    for recordings in args.recordings:
        with tempfile.TemporaryDirectory() as name:
            folder, output = Path(name, "run"), Path(name, "neighbors.parquet")
            # In a process of its own: Linux counts what the parent held when it started a child as the child's.
            context = multiprocessing.get_context("spawn")
            writing = context.Process(target=write, args=(folder, recordings, args.dimensions))
            writing.start()
            writing.join()
            all_of = ("neighbors", folder, "--output", output, "--method")
            exact = measure(*all_of, "exact") if recordings <= args.no_exact_above else (float("nan"),) * 2
            approximate = measure(*all_of, "approximate")
            with context.Pool(1) as pool:
                share, _ = pool.apply(recall, (output,))
            labels = ("--labels", folder / "labels.csv")
            compared = measure("compare", folder, folder, *labels, "--output", Path(name, "out"))
            numbers = [*exact, *approximate, exact[0] / approximate[0], share, *compared]
            forms = ("10.1f", "10.0f", "10.1f", "10.0f", "10.2f", "10.4f", "10.1f", "10.0f")
            size = recordings * WIDTH * 4 / 1e6
            line = " ".join(format(value, form) for value, form in zip(numbers, forms, strict=True))
            print(f"{recordings:>10,} {size:>10.0f} {line}", flush=True)


if __name__ == "__main__":
    main()
