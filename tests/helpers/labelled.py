"""A finished run whose recordings have true labels, folds and patients, without a model: to fit on, and to score."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from scipy.special import expit

from ecgpipe.core import parquet, provenance, schemas

LABELS = ("Sinus rhythm", "Atrial fibrillation", "Flutter, rare")
AGGREGATION = {"Sinus rhythm": "mean", "Atrial fibrillation": "mean", "Flutter, rare": "max"}
CHECKPOINT = "0123456789abcdef" * 4


def write(folder: Path, recordings: int = 400, name: str = "r", seed: int = 0, **origin: object) -> dict[str, Any]:
    """Write predictions in two parts, records and a label file; the columns of the truth are in the records.

    The logits of each label are what they should be, times two and plus one: miscalibrated. Fold is 0 to 9, patients
    have two recordings each. "Flutter, rare" is nowhere positive in fold 9.

    Args:
        folder: The run's.
        recordings: How many.
        name: What ids and patients begin with.
        seed: Of all numbers.
        origin: What the predictions' metadata says besides, or instead.

    Returns:
        `ids`, and by label `true` and `probability`, (recordings,) each; `fold` and `patient`.
    """
    random = np.random.default_rng(seed)
    ids = [f"{name}/{i}" for i in range(recordings)]
    fold = np.arange(recordings) // 2 % 10  # both of a patient are in one
    logits = {label: random.normal(shift, 2, recordings) for label, shift in zip(LABELS, (1, -1, -2), strict=True)}
    true = {label: (random.random(recordings) < expit(values)).astype(float) for label, values in logits.items()}
    true["Flutter, rare"][fold == 9] = 0
    probability = {label: expit(2 * values + 1) for label, values in logits.items()}

    facts: dict[str, Any] = {
        "checkpoint_sha256": CHECKPOINT,
        "preprocess": {"sample_rate": 500, "segment_samples": 2500},
        "meaning": {"preprocess": 1, "infer": 1},
        "inputs_sha256": "f" * 64,
        "aggregation": AGGREGATION,
    }
    schema = provenance.add_origin(schemas.predictions_schema(LABELS), "aggregate", **(facts | origin))
    columns = [
        pa.array(ids),
        pa.array([2] * recordings, pa.int32()),
        *(pa.array(probability[label]) for label in LABELS),
    ]
    table = pa.table(columns, schema=schema)
    half = recordings // 2
    for part, some in enumerate([table[:half], table[half:]]):
        parquet.write(folder / f"predictions/part-{part:05d}.parquet", some)

    patient = [f"{name}{i // 2}" for i in range(recordings)]
    of_records = {
        "record_id": ids,
        "status": ["ok"] * recordings,
        "signal_hash": [f"signal of {record_id}" for record_id in ids],
        "fold": fold,
        "patient": patient,
        **true,
    }
    order = pa.array(random.permutation(recordings))  # nothing may rely on the order of two files
    parquet.write(folder / "records/shard-00000.parquet", pa.table(of_records).take(order))
    (folder / "labels.csv").write_text(csv(), encoding="utf-8")
    (folder / "run.json").write_text(json.dumps(run_json(folder, recordings)))
    return {"ids": ids, "true": true, "probability": probability, "fold": fold, "patient": patient}


def run_json(folder: Path, recordings: int) -> dict[str, Any]:
    """What such a run would say of itself, as far as it is needed."""
    counts = {"recordings": recordings, "ok": recordings, "skipped": 0, "failed": 0, "segments": 2 * recordings}
    return {
        "ecgpipe": "0.1.0",
        "finished": "2026-11-22T12:38:13+00:00",
        "counts": {**counts, "hours": 1.0},
        "checkpoint": {
            "uri": "x.pt",
            "revision": None,
            "sha256": CHECKPOINT,
            "random_weights": False,
            "labels": LABELS,
        },
        "throughput": {"segments": 2 * recordings, "seconds": 1.0, "segments_per_s": 1.0},
        "precision": {"used": "float32"},
        "hardware": {"inference": ["CPU"]},
        "config": {"input": "recordings", "labels": str(folder / "labels.csv")},
    }


def csv() -> str:
    """A label file, its rows in another order than the predictions' columns."""
    rows = [f"{name!r},{AGGREGATION[name]},0.5,a note" for name in sorted(LABELS)]
    return "\n".join(["name,aggregation,threshold,note", *rows]).replace("'", '"') + "\n"
