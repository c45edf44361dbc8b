"""Shards of segments as the preprocess stage writes them, and how infer is called on them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from ecgpipe.core import provenance, schemas
from ecgpipe.core.digital import Digital
from ecgpipe.readers import LEADS

SAMPLES = 400
SETTINGS: dict[str, Any] = {"leads": list(LEADS), "segment_samples": SAMPLES, "sample_rate": 500}


def signals(count: int, seed: int = 0, samples: int = SAMPLES) -> np.ndarray:
    """(count, 12, samples) float32 noise."""
    return np.random.default_rng(seed).standard_normal((count, 12, samples), dtype=np.float32)


def write_shard(
    path: Path,
    rows: Sequence[tuple[str, int]],
    values: np.ndarray,
    batch: int = 4,
    counts: Sequence[int] | None = None,
    digital: Sequence[Digital | None] | None = None,
    **settings: Any,  # noqa: ANN401, goes into JSON
) -> Path:
    """Write a shard in record batches of `batch` rows.

    Args:
        path: The file to write.
        rows: Record id and number of each segment.
        values: Their signals, (n, leads, samples) float32.
        batch: Rows of a record batch.
        counts: How many of each segment's samples are signal; None: all are.
        digital: Each segment as whole numbers, which are then written instead of its signal; None: none is.
        settings: Of the preprocessing, where they differ from SETTINGS.

    Returns:
        The path.
    """
    samples = values.shape[2]
    counts = [samples] * len(rows) if counts is None else counts
    schema = provenance.add_origin(
        schemas.SEGMENTS, "preprocess", preprocess=SETTINGS | {"segment_samples": samples} | settings
    )
    with pa.ipc.new_file(str(path), schema) as writer:
        for first in range(0, len(rows), batch):
            some = rows[first : first + batch]
            whole = [None] * len(rows) if digital is None else digital
            whole = whole[first : first + batch]
            flat = [None if d else value.ravel() for d, value in zip(whole, values[first : first + batch], strict=True)]
            columns = [
                pa.array([name for name, _ in some], pa.string()),
                pa.array([number for _, number in some], pa.int32()),
                pa.array([5.0 * number for _, number in some], pa.float32()),
                pa.array(counts[first : first + batch], pa.int32()),
                pa.array(flat, pa.large_list(pa.float32())),
                pa.array([d and d.numbers.ravel() for d in whole], pa.large_list(pa.int16())),
                pa.array([d and d.kinds for d in whole], pa.string()),
                pa.array([d and d.constants.ravel() for d in whole], pa.large_list(pa.float64())),
            ]
            writer.write_batch(pa.record_batch(columns, schema=schema))
    return path


def infer_options(converted: Path, shards: Sequence[Path], out: Path, *more: str, attention: bool = True) -> list[str]:
    """The options of the infer stage on the CPU, with results in `out`; a later option overrides an earlier one."""
    return [
        *("--weights", str(converted / "model.safetensors"), "--description", str(converted / "model.json")),
        *("--segments", *map(str, shards), "--logits", str(out / "logits.parquet")),
        *("--embeddings", str(out / "embeddings.parquet")),
        *(["--attention", str(out / "attention.parquet")] if attention else []),
        *("--timing", str(out / "timing.json"), "--device", "cpu", *more),
    ]
