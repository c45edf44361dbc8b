"""A finished run of a few recordings, written table by table without a model, for the tests of the report."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from ecgpipe import preprocess, tables
from ecgpipe.__main__ import main
from ecgpipe.prepare import Windows
from ecgpipe.readers import LEADS, Assumed

TOKENS = 156
LABELS = ("Sinus rhythm", "Tachycardia", "Infarction")
HOSTILE = "<script>alert(1)</script>"


def write(
    folder: Path,
    ids: Sequence[str],
    labels: Sequence[str] = LABELS,
    thresholds: Sequence[str] = ("", "0.7", ""),
    random_weights: bool = False,
    unusable: int = 0,
) -> None:
    """Write everything that the report stage reads: two segments per recording, in two parts, 10 s at 500 Hz.

    Args:
        folder: Where to.
        ids: The recordings that were used.
        labels: Of the model; none for a model without a head.
        thresholds: Of each label in the label CSV.
        random_weights: What the run says of its checkpoint.
        unusable: How many recordings were skipped besides.
    """
    random = np.random.default_rng(7)
    (folder / "recordings").mkdir(parents=True)
    found: list[dict[str, Any]] = []
    records: list[dict[str, Any]] = []
    for number, record_id in enumerate(ids):
        path = folder / "recordings" / f"{number}.npz"
        np.savez(path, signal=signal(number), sample_rate=500, leads=LEADS, unit="mV")
        found.append({"record_id": record_id, "path": str(path), "format": "numpy"})
        row = dict.fromkeys(tables.MANIFEST.names) | found[-1]
        records.append(preprocess.account(row, Windows(), Assumed())[0])
    records += [
        {"record_id": f"short/{i}", "path": f"{i}.npz", "status": "skipped", "reason": f"too short ({i} s)"}
        for i in range(unusable)
    ]
    tables.write(folder / "manifest/shard-00000.parquet", pa.Table.from_pylist(found, schema=tables.MANIFEST))
    tables.write(folder / "records/shard-00000.parquet", pa.Table.from_pylist(records, schema=tables.RECORDS))

    half = len(ids) // 2
    for part, some in enumerate([ids[:half], ids[half:]]):
        columns = [pa.array(some, pa.string()), pa.array([2] * len(some), pa.int32())]
        columns += [pa.array(random.random(len(some))) for _ in labels]
        schema = tables.predictions_schema(labels)
        tables.write(folder / f"predictions/part-{part:05d}.parquet", pa.table(columns, schema=schema))
        values = pa.array(random.random(len(some) * 2 * TOKENS), pa.float32())
        columns = [*_segments(some), pa.FixedSizeListArray.from_arrays(values, TOKENS)]
        schema = tables.attention_schema(TOKENS)
        tables.write(folder / f"attention/part-{part:05d}.parquet", pa.table(columns, schema=schema))
    places = [pa.array(random.random(2 * len(ids)), pa.float32()) for _ in "xy"]
    tables.write(folder / "umap/umap.parquet", pa.table([*_segments(ids), *places], schema=tables.UMAP))

    rows = [f'"{name}",mean,{threshold}' for name, threshold in zip(labels, thresholds, strict=False)]
    (folder / "labels.csv").write_text("\n".join(["name,aggregation,threshold", *rows]) + "\n", encoding="utf-8")
    source = {"uri": "hf://wanglab/ecg-fm/tiny.pt", "revision": "abc", "sha256": "0123456789abcdef" * 4}
    sizes = {"width": 8, "layers": 1, "heads": 1, "hidden": 8, "position_kernel": 4, "position_groups": 1}
    layers = {"in_leads": 12, "conv_layers": [[8, 2, 2]] * 4, "conv_bias": False, "layer_norm_first": False}
    description = {"architecture": {**sizes, **layers, "labels": len(labels)}, "labels": labels, "source": source}
    (folder / "checkpoint").mkdir()
    made = {"random_weights": random_weights, "ecgpipe": "0.1.0", "meaning": 1}
    (folder / "checkpoint/model.json").write_text(json.dumps({**description, **made}))
    counts = {"recordings": len(records), "ok": len(ids), "skipped": unusable, "failed": 0, "segments": 2 * len(ids)}
    run = {
        "ecgpipe": "0.1.0",
        "code": {"version": "0.1.0", "source_sha256": "fedcba9876543210" * 4, "commit": "c0ffee" + "0" * 34},
        "inputs": {
            "sha256": "89abcdef01234567" * 4,
            "scans": [{"recordings": len(records), "added": len(records), "changed": 0, "removed": 0}],
        },
        "made_by": {"preprocess": {"0.1.0": 1}, "infer": {"0.1.0": 2}, "aggregate": {"0.1.0": 2}, "umap": {"0.1.0": 1}},
        "finished": "2026-11-22T12:38:13+00:00",
        "counts": {**counts, "hours": round(len(ids) * 10 / 3600, 3), "other_files": 1},
        "reasons": [{"status": "skipped", "reason": "too short", "count": unusable}] if unusable else [],
        "warnings": [],
        "other_files": {"table without a column for each lead": 1},
        "checkpoint": {**source, "random_weights": random_weights, "labels": labels},
        "throughput": {"segments": 2 * len(ids), "seconds": 2.0, "segments_per_s": float(len(ids))},
        "precision": {"used": "float32", "drift": None},
        "hardware": {"inference": ["CPU (x86_64)"], "system": "Linux", "cpus": 2, "memory_gb": 25.3},
        "versions": {"python": "3.11.7"},
        "config": {"input": "recordings", "report": {"title": "ECG-FM results"}},
    }
    (folder / "run.json").write_text(json.dumps(run))


def signal(number: int) -> np.ndarray:
    """(12, 5000) in mV; every recording and every lead of its own."""
    time = np.arange(5000) / 500
    return np.stack([np.sin(2 * np.pi * (1 + number / 10) * time) * (lead + 1) / 12 for lead in range(12)])


def report(folder: Path, *options: str, attention: bool = True) -> Path:
    """Run the report stage on what `write` wrote, and return the page's path."""
    page = folder / "report.html"
    given = ["--attention", str(folder / "attention")] if attention else []
    status = main(
        [
            *("report", "--run", str(folder / "run.json"), "--description", str(folder / "checkpoint/model.json")),
            *("--labels", str(folder / "labels.csv"), "--records", str(folder / "records")),
            *("--manifest", str(folder / "manifest")),
            *("--predictions", str(folder / "predictions"), *given, "--umap", str(folder / "umap/umap.parquet")),
            *("--output", str(page), *options),
        ]
    )
    assert status == 0
    return page


def _segments(ids: Sequence[str]) -> list[pa.Array]:
    """The columns `record_id` and `segment`."""
    return [
        pa.array([record_id for record_id in ids for _ in range(2)], pa.string()),
        pa.array([0, 1] * len(ids), pa.int32()),
    ]
