"""How often a run's labels are positive, alone and together, and how their probabilities spread."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow.parquet as pq

from ecgpipe.core import parquet
from ecgpipe.models import labels

# Bins in which the probabilities of all recordings are counted rather than kept: quartiles are right to one bin.
BINS = 1000
BARS = 40  # of a label's histogram, each of BINS / BARS bins


class Summary(NamedTuple):
    """One label over all recordings."""

    name: str
    threshold: float
    positive: int  # recordings at or above the threshold
    mean: float
    spread: float  # standard deviation
    quartiles: tuple[float, float, float]
    histogram: list[int]  # BARS counts, from probability 0 to 1
    together: list[int]  # for each label, the recordings that reach the thresholds of both


def summarise(predictions: Sequence[Path], thresholds: Mapping[str, float]) -> list[Summary]:
    """Count each label's probabilities over all recordings, part by part.

    Args:
        predictions: All `predictions/part-*.parquet`, in order.
        thresholds: By label.

    Returns:
        One summary per label in the model's order; none for a model without a head.
    """
    names = labels.label_columns(pq.read_schema(predictions[0]).names)
    if not names:
        return []
    limits = np.array([thresholds[name] for name in names])
    sums, squares = np.zeros(len(names)), np.zeros(len(names))
    bins = np.zeros((len(names), BINS), int)
    together = np.zeros((len(names), len(names)), int)
    total = 0
    for batch in parquet.batches(predictions, names):
        values = np.stack([batch[name].to_numpy() for name in names])  # (labels, recordings)
        positive = values >= limits[:, None]
        # Counts up to 2^24 are exact in float32, and float32 products are much faster than those of integers.
        together += (positive.astype(np.float32) @ positive.astype(np.float32).T).astype(int)
        sums += values.sum(axis=1)
        squares += (values**2).sum(axis=1)
        numbers = np.minimum((np.nan_to_num(values) * BINS).astype(int), BINS - 1)
        for counts, row in zip(bins, numbers, strict=True):
            counts += np.bincount(row, minlength=BINS)
        total += batch.num_rows
    means = sums / max(total, 1)
    spreads = np.sqrt(np.maximum(squares / max(total, 1) - means**2, 0))
    return [
        Summary(
            name=name,
            threshold=float(limits[i]),
            positive=int(together[i, i]),
            mean=float(means[i]),
            spread=float(spreads[i]),
            quartiles=_estimate_quartiles(bins[i]),
            histogram=bins[i].reshape(BARS, -1).sum(axis=1).tolist(),
            together=together[i].tolist(),
        )
        for i, name in enumerate(names)
    ]


def _estimate_quartiles(counts: np.ndarray) -> tuple[float, float, float]:
    """The middles of the bins that a quarter, a half and three quarters of the values reach."""
    reached = np.cumsum(counts)
    first, second, third = (np.searchsorted(reached, share * reached[-1]) for share in (0.25, 0.5, 0.75))
    return (first + 0.5) / BINS, (second + 0.5) / BINS, (third + 0.5) / BINS
