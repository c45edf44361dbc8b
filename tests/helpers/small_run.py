"""A finished run of as many recordings as wanted, written table by table without a model, to test the report."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from ecgpipe.cli import main
from ecgpipe.core import parquet, schemas
from ecgpipe.preprocessing import preprocess
from ecgpipe.preprocessing.segments import Windows
from ecgpipe.readers import LEADS, Assumed

TOKENS = 156
WIDTH = 8
LABELS = ("Sinus rhythm", "Tachycardia", "Infarction")
HOSTILE = "<script>alert(1)</script>"


def write(
    folder: Path,
    ids: Sequence[str],
    labels: Sequence[str] = LABELS,
    thresholds: Sequence[str] = ("", "0.7", ""),
    references: Sequence[str] = ("0.8", "", ""),
    random_weights: bool = False,
    unusable: int = 0,
    n_signals: int | None = None,
    attributed: Sequence[tuple[str, str]] = (),
    demo_model: bool = False,
) -> None:
    """Write everything that the report stage reads: two segments per recording, in two parts, 10 s at 500 Hz.

    Args:
        folder: Where to.
        ids: The recordings that were used.
        labels: Of the model; none for a model without a head.
        thresholds: Of each label in the label CSV.
        references: The same.
        random_weights: What the run says of its checkpoint.
        unusable: How many recordings were skipped besides.
        n_signals: Of how many files the recordings are; None for one each.
        attributed: Recordings and labels that have an attribution.
        demo_model: What the run says of its checkpoint.
    """
    random = np.random.default_rng(7)
    (folder / "recordings").mkdir(parents=True)
    accounts: list[dict[str, Any]] = []
    for number in range(min(n_signals or len(ids), len(ids))):
        path = folder / "recordings" / f"{number}.npz"
        np.savez(path, signal=signal(number), sample_rate=500, leads=LEADS, unit="mV")
        row = dict.fromkeys(schemas.MANIFEST.names) | {"record_id": "", "path": str(path), "format": "numpy"}
        accounts.append(preprocess.process_recording(row, Windows(), Assumed())[0])
    records = [{**accounts[i % len(accounts)], "record_id": record_id} for i, record_id in enumerate(ids)]
    found = [{name: record[name] for name in ("record_id", "path", "format")} for record in records]
    used = len(ids)
    records += [
        {"record_id": f"short/{i}", "path": f"{i}.npz", "status": "skipped", "reason": f"too short ({i} s)"}
        for i in range(unusable)
    ]
    table = pa.Table.from_pylist(records, schema=schemas.RECORDS)
    table = table.append_column("age", pa.array([20 + i % 70 for i in range(len(records))], pa.int64()))
    table = table.append_column("sex", pa.array(["F" if i % 3 else "M" for i in range(len(records))], pa.string()))
    parquet.write(folder / "manifest/shard-00000.parquet", pa.Table.from_pylist(found, schema=schemas.MANIFEST))
    parquet.write(folder / "records/shard-00000.parquet", table)

    half = used // 2
    for part, some in enumerate([ids[:half], ids[half:]]):
        columns = [pa.array(some, pa.string()), pa.array([2] * len(some), pa.int32())]
        columns += [pa.array(random.random(len(some))) for _ in labels]
        schema = schemas.predictions_schema(labels)
        parquet.write(folder / f"predictions/part-{part:05d}.parquet", pa.table(columns, schema=schema))
        kinds = {"attention": (TOKENS, schemas.attention_schema), "embeddings": (WIDTH, schemas.embeddings_schema)}
        for kind, (width, schema_of) in kinds.items():
            values = pa.array(random.random(len(some) * 2 * width, np.float32))
            columns = [*_segments(some), pa.FixedSizeListArray.from_arrays(values, width)]
            parquet.write(folder / f"{kind}/part-{part:05d}.parquet", pa.table(columns, schema=schema_of(width)))
    places = [pa.array(random.random(2 * used), pa.float32()) for _ in "xy"]
    parquet.write(folder / "umap/umap.parquet", pa.table([*_segments(ids), *places], schema=schemas.UMAP))
    if attributed:
        _write_attribution(folder / "attribution/attribution.parquet", attributed)

    rows = [
        f'"{name}",mean,{threshold},{reference}'
        for name, threshold, reference in zip(labels, thresholds, references, strict=False)
    ]
    head = "name,aggregation,threshold,reference_share"
    (folder / "labels.csv").write_text("\n".join([head, *rows]) + "\n", encoding="utf-8")
    source = {"uri": "hf://wanglab/ecg-fm/tiny.pt", "revision": "abc", "sha256": "0123456789abcdef" * 4}
    sizes = {"width": WIDTH, "layers": 1, "heads": 1, "hidden": 8, "position_kernel": 4, "position_groups": 1}
    layers = {"in_leads": 12, "conv_layers": [[8, 2, 2]] * 4, "conv_bias": False, "layer_norm_first": False}
    description = {"architecture": {**sizes, **layers, "labels": len(labels)}, "labels": labels, "source": source}
    (folder / "checkpoint").mkdir()
    made = {"random_weights": random_weights, "demo_model": demo_model, "ecgpipe": "0.1.0", "meaning": 1}
    (folder / "checkpoint/model.json").write_text(json.dumps({**description, **made}))
    for rule, seconds in {"preprocess/shard-00000": 2.5, "infer/part-00000": 3.0, "infer/part-00001": 5.0}.items():
        path = folder / f"benchmarks/{rule}.tsv"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"s\th:m:s\tmax_rss\tmean_load\n{seconds}\t0:00:02\t{100 * seconds}\tNA\n")
    counts = {"recordings": len(records), "ok": used, "skipped": unusable, "failed": 0, "segments": 2 * used}
    run = run_json() | {
        "code": {"version": "0.1.0", "source_sha256": "fedcba9876543210" * 4, "commit": "c0ffee" + "0" * 34},
        "inputs": {
            "sha256": "89abcdef01234567" * 4,
            "scans": [{"recordings": len(records), "added": len(records), "changed": 0, "removed": 0}],
        },
        "made_by": {"preprocess": {"0.1.0": 1}, "infer": {"0.1.0": 2}, "aggregate": {"0.1.0": 2}, "umap": {"0.1.0": 1}},
        "counts": {**counts, "hours": round(used * 10 / 3600, 3), "other_files": 1},
        "reasons": [{"status": "skipped", "reason": "too short", "count": unusable}] if unusable else [],
        "other_files": {"table without a column for each lead": 1},
        "checkpoint": {**source, "random_weights": random_weights, "labels": labels, "demo_model": demo_model},
        "throughput": {"segments": 2 * used, "seconds": 2.0, "segments_per_s": float(used)},
        "precision": {"used": "float32", "drift": None},
        "hardware": {"inference": ["CPU (x86_64)"], "system": "Linux", "cpus": 2, "memory_gb": 25.3},
        "versions": {"python": "3.11.7"},
        "config": {
            "input": "recordings",
            "labels": str(folder / "labels.csv"),
            "preprocess": {},
            "report": {"title": "ECG-FM results"},
        },
    }
    (folder / "run.json").write_text(json.dumps(run))


def run_json() -> dict[str, Any]:
    """What run.json says of a run at least, in a run without recordings."""
    return {
        "ecgpipe": "0.1.0",
        "finished": "2026-11-22T12:38:13+00:00",
        "counts": {"recordings": 0, "ok": 0, "skipped": 0, "failed": 0, "segments": 0, "hours": 0.0},
        "checkpoint": {"uri": "x.pt", "revision": None, "sha256": "0" * 64, "random_weights": False, "labels": []},
        "throughput": {"segments": 0, "seconds": 0.0, "segments_per_s": None},
        "precision": {"used": "float32"},
        "hardware": {"inference": ["CPU (x86_64)"]},
        "config": {"input": "recordings"},
    }


def signal(number: int) -> np.ndarray:
    """(12, 5000) in mV; every recording and every lead of its own."""
    time = np.arange(5000) / 500
    return np.stack([np.sin(2 * np.pi * (1 + number / 10) * time) * (lead + 1) / 12 for lead in range(12)])


def examples(folder: Path, *options: str) -> Path:
    """Run the stage that chooses the recordings to show, and return its file."""
    output = folder / "examples.parquet"
    names = {"labels": "labels.csv", "umap": "umap/umap.parquet"}
    names |= {kind: kind for kind in ("records", "predictions", "embeddings")}
    paths = [text for option, name in names.items() for text in (f"--{option}", str(folder / name))]
    true_labels = folder / "evaluation/true_labels.parquet"
    known = ["--true-labels", str(true_labels)] if true_labels.is_file() else []
    assert main(["examples", *paths, *known, "--output", str(output), *options]) == 0
    return output


def evaluate(folder: Path, *options: str) -> Path:
    """Run the stage that holds predictions against `truth.csv`, and return its folder."""
    given = ["--predictions", "predictions", "--records", "records", "--labels", "labels.csv", "--truth", "truth.csv"]
    paths = [text if text.startswith("--") else str(folder / text) for text in given]
    outputs = {"metrics": "metrics.parquet", "curves": "curves.parquet", "account": "account.json"}
    outputs["true-labels"] = "true_labels.parquet"
    paths += [text for key, name in outputs.items() for text in (f"--{key}", str(folder / "evaluation" / name))]
    assert main(["evaluate", *paths, "--resamples", "50", *options]) == 0
    return folder / "evaluation"


def report(folder: Path, *options: str, attention: bool = True, recordings: int = 80, stage: str = "report") -> Path:
    """Run the report stage on what `write` wrote, and return the page's path; or the figures stage, and its folder."""
    page = folder / ("report.html" if stage == "report" else "figures")
    chosen = examples(folder, "--recordings", str(recordings))
    optional = {"--attention": folder / "attention"} if attention else {}
    if (folder / "attribution").is_dir():
        optional["--attribution"] = folder / "attribution/attribution.parquet"
    if stage == "report" and (folder / "evaluation").is_dir():
        optional["--evaluation"] = folder / "evaluation"
    if stage == "report":
        optional["--benchmarks"] = folder / "benchmarks"
    status = main(
        [
            *(stage, "--run", str(folder / "run.json"), "--description", str(folder / "checkpoint/model.json")),
            *("--labels", str(folder / "labels.csv"), "--records", str(folder / "records")),
            *("--manifest", str(folder / "manifest"), "--examples", str(chosen)),
            *("--predictions", str(folder / "predictions"), "--umap", str(folder / "umap/umap.parquet")),
            *(text for option, path in optional.items() for text in (option, str(path))),
            *("--output" if stage == "report" else "--outdir", str(page), *options),
        ]
    )
    assert status == 0
    return page


def _write_attribution(path: Path, attributed: Sequence[tuple[str, str]]) -> None:
    """Attributions that speak for the label in one tenth of a second of each segment, in lead V2 alone."""
    schema = schemas.attribution_schema(len(LEADS), 2500)
    with parquet.parquet_writer(path, schema) as writer:
        for record_id, label in attributed:
            values = np.zeros((2, len(LEADS), 2500), np.float32)
            values[:, LEADS.index("V2"), 1000:1050] = 0.02
            numbers = [[2.0, 2.0], [1.0, 1.0], [0.01, -0.01], [0.5, 0.7], [0.1, 0.1]]
            columns = [*_segments([record_id]), pa.array([0, 5], pa.float32()), pa.array([label] * 2)]
            columns += [pa.array(column, pa.float64()) for column in numbers]
            columns.append(pa.array([11, 14], pa.int32()))
            flat = pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), len(LEADS) * 2500)
            writer.write_table(pa.table([*columns, flat], schema=schema))


def _segments(ids: Sequence[str]) -> list[pa.Array]:
    """The columns `record_id` and `segment`."""
    return [
        pa.array([record_id for record_id in ids for _ in range(2)], pa.string()),
        pa.array([0, 1] * len(ids), pa.int32()),
    ]
