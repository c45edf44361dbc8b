"""The memory of `summary`: its peak over few and over many recordings, whose results are made up.

    python -m benchmarks.summary [--recordings 100000 1000000] [--shard-size 5000]

One recording in two hundred is a copy of an earlier one. The peak is what the operating system counted for the process.
"""

import argparse
import hashlib
import json
import multiprocessing
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.memory import peak_mb


def write(folder: Path, recordings: int, shard_size: int) -> None:
    """Write what the command reads of a run."""
    import pyarrow as pa

    from ecgpipe import __version__
    from ecgpipe.core import parquet, provenance, schemas

    facts: dict[str, Any] = {"checkpoint": "made up", "checkpoint_sha256": "0" * 64}
    for shard, start in enumerate(range(0, recordings, shard_size)):
        numbers = range(start, min(start + shard_size, recordings))
        rows = [
            {
                "record_id": f"p{i // 1000:04d}/p{i:08d}/s{i}",
                "path": f"/data/mimic/files/p{i // 1000:04d}/p{i:08d}/s{i}",
                "status": "ok",
                "duration_s": 10.0,
                "n_segments": 2,
                "signal_hash": hashlib.sha256(b"%d" % (i - 7 if i % 200 == 199 else i)).hexdigest()[:32],
            }
            for i in numbers
        ]
        schema = provenance.add_origin(schemas.RECORDS, "preprocess", inputs_sha256=f"{shard:064d}", **facts)
        parquet.write(folder / f"records/shard-{shard:05d}.parquet", pa.Table.from_pylist(rows, schema=schema))
    predictions = provenance.add_origin(schemas.predictions_schema(["A"]), "aggregate", **facts)
    parquet.write(folder / "predictions/part-00000.parquet", predictions.empty_table())
    parquet.write(folder / "umap.parquet", provenance.add_origin(schemas.UMAP, "umap", **facts).empty_table())
    (folder / "timing").mkdir()
    timing = {"ecgpipe": "made up", "segments": 2, "seconds": 1.0, "device": "CPU", "precision": "float32"}
    (folder / "timing/part-00000.json").write_text(json.dumps(timing))
    scans = [{"recordings": recordings, "added": recordings, "changed": 0, "removed": 0}]
    roles = {"recording": recordings, "part": 0, "ignored": 0}
    manifest = {"files": roles, "ignored": {}, "layouts": [], "scans": scans}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    source = {"uri": "made up", "revision": None, "sha256": "0" * 64}
    sizes: dict[str, Any] = {"width": 8, "layers": 1, "heads": 1, "hidden": 8, "position_kernel": 4}
    sizes["position_groups"] = 1
    sizes |= {"in_leads": 12, "conv_layers": [[8, 2, 2]], "conv_bias": False, "layer_norm_first": False, "labels": 1}
    model: dict[str, Any] = {"ecgpipe": __version__, "meaning": 1, "source": source, "labels": ["A"]}
    model["random_weights"] = False
    model["architecture"] = sizes
    (folder / "model.json").write_text(json.dumps(model))


def measure(folder: Path, recordings: int, shard_size: int) -> tuple[float, float]:
    """The seconds of the command, and the peak of its memory in MB."""
    # In a process of its own: Linux counts what the parent held when it started a child as the child's.
    writing = multiprocessing.get_context("spawn").Process(target=write, args=(folder, recordings, shard_size))
    writing.start()
    writing.join()
    began = time.monotonic()
    peak = peak_mb(
        "summary", "--manifest", folder / "manifest.json", "--description", folder / "model.json",
        "--records", folder / "records", "--timings", folder / "timing", "--predictions", folder / "predictions",
        "--umap", folder / "umap.parquet", "--duplicates", folder / "duplicates.parquet",
        "--output", folder / "run.json",
    )  # fmt: skip
    return time.monotonic() - began, peak


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recordings", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--shard-size", type=int, default=5_000)
    args = parser.parse_args()
    for recordings in args.recordings:
        with tempfile.TemporaryDirectory() as folder:
            seconds, peak = measure(Path(folder), recordings, args.shard_size)
            found = json.loads(Path(folder, "run.json").read_text())["counts"]["duplicates"]
        print(f"{recordings:>10,} recordings, {found:,} duplicates: {seconds:.1f} s, {peak:.0f} MB", flush=True)


if __name__ == "__main__":
    main()
