"""Train a linear head on the embeddings of some recordings, and choose the strength of its penalty on others."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ecgpipe.core import recording_embeddings
from ecgpipe.core.errors import EcgpipeError
from ecgpipe.evaluation import logistic_regression, losses
from ecgpipe.evaluation.splits import TRAIN, VALID
from ecgpipe.models import heads
from ecgpipe.models.heads import Head

# What scikit-learn calls C: the larger, the weaker the penalty.
STRENGTHS = tuple(10.0**power for power in range(-5, 2))


class Trained(NamedTuple):
    """A head, and the probabilities that it gives."""

    head: Head
    strength: np.ndarray  # (labels,) that was chosen
    probability: np.ndarray  # (recordings, labels) float64, of all recordings


class Examples(NamedTuple):
    """Recordings to train with, to choose with and to measure with."""

    record_ids: pa.Array  # (recordings,) each once
    names: Sequence[str]  # the labels
    true: np.ndarray  # (recordings, labels) float32: 1, 0 or NaN
    split: np.ndarray  # (recordings,) index in `splits.SPLITS`


def train(embeddings: Sequence[Path], examples: Examples, facts: Mapping[str, object]) -> Trained:
    """Train a head. Of the test recordings only the embedding is used, to compute their probabilities.

    Args:
        embeddings: All `embeddings/part-*.parquet` of a run.
        examples: The recordings.
        facts: Further metadata of the head's file.

    Returns:
        The head, with the strength of each label's penalty that has the least log loss on the validation recordings.

    Raises:
        EcgpipeError: A recording has no embedding.
    """
    features = read_features(embeddings, examples.record_ids)  # (recordings, width) float32
    return train_on(features, examples, {**facts, "space": heads.describe_space(pq.read_schema(embeddings[0]))})


def train_on(features: np.ndarray, examples: Examples, facts: Mapping[str, object]) -> Trained:
    """Train a head on features that are at hand; as `train` otherwise.

    Args:
        features: (recordings, width) float32, which are standardised in place.
        examples: As for `train`.
        facts: As for `train`.

    Returns:
        As `train`.
    """
    names, true, split = examples.names, examples.true, examples.split
    mean, scale = compute_moments(features[split == TRAIN])
    features -= mean
    features /= scale
    train_features, valid_features = (features[split == number] for number in (TRAIN, VALID))
    shape = logistic_regression.curvature(train_features)
    best = np.full(len(names), np.inf)
    chosen = np.zeros(len(names))  # strengths
    weight, bias = np.zeros((len(mean), len(names))), np.zeros(len(names))
    linear = None
    for strength in STRENGTHS:
        strengths = np.full(len(names), strength)
        linear = logistic_regression.fit(train_features, true[split == TRAIN], strengths, shape, linear)
        loss = losses.log_loss(true[split == VALID], logistic_regression.probability(valid_features, linear))
        is_better = loss < best
        best[is_better], chosen[is_better] = loss[is_better], strength
        weight[:, is_better], bias[is_better] = linear.weight[:, is_better], linear.bias[is_better]
    facts = {**facts, "strength": chosen.tolist()}
    head = Head(tuple(names), mean, scale, weight.T.astype(np.float32), bias.astype(np.float32), facts)
    # From the weights as they are saved.
    probability = logistic_regression.probability(features, logistic_regression.Linear(head.weight.T, head.bias))
    return Trained(head, chosen, probability)


def read_features(embeddings: Sequence[Path], ids: pa.Array) -> np.ndarray:
    """Read the embeddings of some recordings, each the mean over its segments.

    Args:
        embeddings: All `embeddings/part-*.parquet`, in order.
        ids: (recordings,) each once.

    Returns:
        (recordings, width) float32.

    Raises:
        EcgpipeError: A recording is not among them.
    """
    width = pq.read_schema(embeddings[0]).field("embedding").type.list_size
    features = np.empty((len(ids), width), np.float32)
    is_read = np.zeros(len(ids), bool)
    for batch_ids, vectors in recording_embeddings.read_means(embeddings):
        place = pc.index_in(batch_ids, ids)
        rows = place.drop_null().to_numpy()
        features[rows] = vectors[place.is_valid().to_numpy(zero_copy_only=False)]
        is_read[rows] = True
    if not is_read.all():
        missing = ids[int(np.argmin(is_read))].as_py()
        raise EcgpipeError(
            f"probe: {int((~is_read).sum())} recordings are not in {embeddings[0].parent}, such as {missing!r}; run "
            "it over the same recordings"
        )
    return features


def compute_moments(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and population standard deviation of each feature, (width,) float32; 1 for one that does not vary."""
    mean = features.mean(axis=0, dtype=np.float64)
    scale = features.std(axis=0, dtype=np.float64)
    is_constant = (scale <= 1e-6 * np.abs(mean)) | (scale == 0)
    return mean.astype(np.float32), np.where(is_constant, 1, scale).astype(np.float32)
