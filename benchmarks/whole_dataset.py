"""What the stages that read all results take: processor time and memory over few and over many recordings.

    python -m benchmarks.whole_dataset [--recordings 100000 400000] [--stages evaluate ...] [--labels N] [--resamples N]

A made-up run with the real columns, written by the real writers: shards of 5,000 recordings, parts of 20,000, two
segments each, ECG-FM's width and tokens, ids as long as those of MIMIC-IV-ECG, true labels as columns of the inputs'
tables, three recordings of a patient. The recordings are 20 files again and again, which the report reads again. Each
stage is a process of its own, whose seconds and peak the operating system counted. A recording takes 7 kB of disk, of
which 6 kB are embeddings, written for `examples` alone.
"""

import argparse
import json
import multiprocessing
import tempfile
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from benchmarks import made_up
from benchmarks.neighbors import measure

STAGES = ("evaluate", "examples", "figures", "report")
SHARD, PART, ROW_GROUP = 5_000, 20_000, 1_024
WIDTH, TOKENS, FILES = 768, 156, 20


def write(folder: Path, recordings: int, labels: int, with_embeddings: bool) -> None:
    """Write what the stages read of a run.

    Args:
        folder: Where to.
        recordings: Of the run.
        labels: Of the model.
        with_embeddings: Whether to write embeddings and attention.
    """
    import numpy as np
    import pyarrow as pa

    from ecgpipe import __version__
    from ecgpipe.core import parquet, provenance, schemas

    random = np.random.default_rng(0)
    names = [f"label {i}" for i in range(labels)]
    facts: dict[str, Any] = {"checkpoint": "made up", "checkpoint_sha256": "0" * 64}
    accounts = _write_recordings(folder / "recordings")
    own = pa.schema([*schemas.RECORDS, ("age", pa.int64()), ("sex", pa.string()), ("patient", pa.string())])
    own = pa.schema([*own, *((name, pa.int64()) for name in names)])
    for shard, start in enumerate(range(0, recordings, SHARD)):
        numbers = np.arange(start, min(start + SHARD, recordings))
        ids = pa.array([f"p{i // 1000:04d}/p{i:08d}/s{40_000_000 + i}" for i in numbers])
        table = pa.Table.from_pylist(accounts, schema=schemas.RECORDS).take(pa.array(numbers % FILES))
        table = table.set_column(0, "record_id", ids)
        for name, values in {
            "age": pa.array(20 + numbers % 70),
            "sex": pa.array(np.where(numbers % 3, "F", "M")),
            "patient": pa.array([f"{10_000_000 + i // 3}" for i in numbers]),
            **{name: pa.array((random.random(len(numbers)) < 0.1).astype(np.int64)) for name in names},
        }.items():
            table = table.append_column(name, values)
        schema = provenance.add_origin(own, "preprocess", inputs_sha256="5" * 64, **facts)
        parquet.write(folder / f"records/shard-{shard:05d}.parquet", table.cast(schema))
        listed = [table[n] if n in table.column_names else pa.nulls(len(ids), t) for n, t in _fields(schemas.MANIFEST)]
        manifest = pa.table(listed, schema=schemas.MANIFEST)
        parquet.write(folder / f"manifest/shard-{shard:05d}.parquet", manifest)
    for part, start in enumerate(range(0, recordings, PART)):
        n = min(PART, recordings - start)
        ids = [f"p{i // 1000:04d}/p{i:08d}/s{40_000_000 + i}" for i in range(start, start + n)]
        schema = provenance.add_origin(schemas.predictions_schema(names), "aggregate", **facts)
        columns = [pa.array(ids), pa.array([2] * n, pa.int32()), *(pa.array(random.random(n)) for _ in names)]
        parquet.write(folder / f"predictions/part-{part:05d}.parquet", pa.table(columns, schema=schema))
        widths = {"attention": (TOKENS, schemas.attention_schema), "embeddings": (WIDTH, schemas.embeddings_schema)}
        for kind, (width, schema_of) in widths.items() if with_embeddings else ():
            schema = provenance.add_origin(schema_of(width), "infer", **facts)
            with parquet.parquet_writer(folder / f"{kind}/part-{part:05d}.parquet", schema) as writer:
                for first in range(0, n, ROW_GROUP // 2):
                    some = np.repeat(ids[first : first + ROW_GROUP // 2], 2)
                    values = pa.array(random.random(len(some) * width, np.float32))
                    segments = [pa.array(some), pa.array(np.arange(len(some)) % 2, pa.int32())]
                    segments.append(pa.FixedSizeListArray.from_arrays(values, width))
                    writer.write_batch(pa.record_batch(segments, schema=schema))
    with parquet.parquet_writer(
        folder / "umap.parquet", provenance.add_origin(schemas.UMAP, "umap", **facts)
    ) as writer:
        for start in range(0, recordings, ROW_GROUP // 2):
            numbers = np.arange(start, min(start + ROW_GROUP // 2, recordings))
            some = np.repeat([f"p{i // 1000:04d}/p{i:08d}/s{40_000_000 + i}" for i in numbers], 2)
            places = [pa.array(random.normal(size=len(some)).astype(np.float32)) for _ in "xy"]
            columns = [pa.array(some), pa.array(np.arange(len(some)) % 2, pa.int32()), *places]
            writer.write_batch(pa.record_batch(columns, schema=writer.schema))
    sizes: dict[str, Any] = {"width": WIDTH, "layers": 1, "heads": 1, "hidden": 8, "position_kernel": 4}
    sizes |= {"position_groups": 1, "in_leads": 12, "conv_layers": [[8, 2, 2]] * 4, "conv_bias": False}
    sizes |= {"layer_norm_first": False, "labels": labels}
    model = {"ecgpipe": __version__, "meaning": 1, "source": made_up.SOURCE, "labels": names, "random_weights": False}
    (folder / "model.json").write_text(json.dumps({**model, "architecture": sizes}))
    made_up.describe_run(folder, recordings, names)


def _fields(schema: Any) -> list[tuple[str, Any]]:  # noqa: ANN401, loaded in the functions
    return [(field.name, field.type) for field in schema]


def _write_recordings(folder: Path) -> list[dict[str, Any]]:
    """Write the files, and return what `records/` says of each."""
    import numpy as np

    from ecgpipe.core import schemas
    from ecgpipe.preprocessing import preprocess
    from ecgpipe.preprocessing.segments import Windows
    from ecgpipe.readers import LEADS, Assumed

    folder.mkdir(parents=True)
    accounts = []
    for number in range(FILES):
        path, time = folder / f"{number}.npz", np.arange(5000) / 500
        signal = np.stack([np.sin(2 * np.pi * (1 + number / 10) * time) * (lead + 1) / 12 for lead in range(12)])
        np.savez(path, signal=signal, sample_rate=500, leads=LEADS, unit="mV")
        row = dict.fromkeys(schemas.MANIFEST.names) | {"record_id": "", "path": str(path), "format": "numpy"}
        accounts.append(preprocess.process_recording(row, Windows(), Assumed())[0])
    return accounts


def command(stage: str, folder: Path, resamples: int) -> list[str]:
    """The command of a stage; `examples` comes before `figures` and `report`, which read what it writes."""
    given = {name: name for name in ("records", "predictions")} | {"labels": "labels.csv"}
    if stage == "evaluate":
        given |= {name: f"evaluation/{name}.parquet" for name in ("metrics", "curves")}
        given |= {"account": "evaluation/account.json", "true-labels": "evaluation/true_labels.parquet"}
    else:
        given |= {"umap": "umap.parquet"}
    if stage == "examples":
        given |= {"true-labels": "evaluation/true_labels.parquet", "embeddings": "embeddings"}
    if stage in ("figures", "report"):
        given |= {"run": "run.json", "description": "model.json", "manifest": "manifest", "attention": "attention"}
        given |= {"examples": "examples.parquet"}
    if stage == "report":
        given |= {"evaluation": "evaluation"}
    given |= {"examples": {"output": "examples.parquet"}, "report": {"output": "report.html"}}.get(stage, {})
    given |= {"outdir": "figures"} if stage == "figures" else {}
    there = {name: folder / path for name, path in given.items()}
    if not (folder / "evaluation").is_dir() and stage != "evaluate":
        there = {name: path for name, path in there.items() if name not in ("evaluation", "true-labels")}
    options = [text for name, path in there.items() for text in (f"--{name}", str(path))]
    counted = ["--patient", "patient", "--subgroups", "sex", "--resamples", str(resamples)]
    return [stage, *options, *(counted if stage == "evaluate" else [])]


def measure_stages(folder: Path, stages: Sequence[str], resamples: int) -> dict[str, tuple[float, float]]:
    """Seconds of processor time and the peak in MB of each stage, by its name."""
    return {stage: measure(*command(stage, folder, resamples)) for stage in stages}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recordings", type=int, nargs="+", default=[100_000, 400_000])
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=list(STAGES))
    parser.add_argument("--labels", type=int, default=17, help="of the model (default %(default)s)")
    parser.add_argument("--resamples", type=int, default=20, help="of the evaluation (default %(default)s)")
    args = parser.parse_args()
    stages = [stage for stage in STAGES if stage in args.stages]
    found = []
    for recordings in args.recordings:
        with tempfile.TemporaryDirectory() as name:
            # In a process of its own: Linux counts what the parent held when it started a child as the child's.
            what = (Path(name), recordings, args.labels, stages != ["evaluate"])
            writing = multiprocessing.get_context("spawn").Process(target=write, args=what)
            writing.start()
            writing.join()
            found.append(measure_stages(Path(name), stages, args.resamples))
        for stage, (seconds, peak) in found[-1].items():
            print(f"{recordings:>10,} recordings, {stage:<8} {seconds:>7.1f} s {peak:>7.0f} MB", flush=True)
    for few, many in pairwise(range(len(found))):
        more = args.recordings[many] - args.recordings[few]
        for stage in stages:
            seconds, peak = (b - a for a, b in zip(found[few][stage], found[many][stage], strict=True))
            print(f"{stage:<8} {1e6 * seconds / more:.1f} us and {1e3 * peak / more:.2f} kB per recording more")


if __name__ == "__main__":
    main()
