"""Train the same linear probe on the embeddings of several models, on the same recordings, and compare them.

The probe is that of `ecgpipe probe`: logistic regression, its penalty chosen on the validation recordings, measured
once on the test recordings.
"""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

from ecgpipe.core import settings
from ecgpipe.evaluation import ground_truth, head_training, metrics, model_scores, probe
from ecgpipe.evaluation.ground_truth import Truth
from ecgpipe.evaluation.head_training import Examples
from ecgpipe.evaluation.model_scores import Row, Scores
from ecgpipe.evaluation.splits import NONE, SPLITS, TEST
from ecgpipe.models import labels

# Recordings that are probed at most, drawn at random: a page is not to wait for the training.
MOST_PROBED = 10_000


class Probed(NamedTuple):
    """The probes of all models."""

    rows: list[Row]  # as of `model_scores.compare_scores`, on the test recordings
    counts: dict[str, int]  # recordings of each of `SPLITS`
    recordings: int  # with a true label, of which these are a sample


def choose_examples(truth: Truth, asked: settings.Probe) -> tuple[Examples, np.ndarray, int]:
    """Choose the recordings of the three splits, and the labels that can be probed.

    Args:
        truth: Recordings that every model has, with the columns of the split and the patient.
        asked: The settings.

    Returns:
        The recordings; (recordings,) integers, the patient of each; and of how many they are a sample.

    Raises:
        EcgpipeError: As of `probe.split_recordings` and `probe.find_usable`.
    """
    split = probe.split_recordings(truth, asked)
    used = np.flatnonzero(split != NONE)
    if len(used) > MOST_PROBED:
        used = np.sort(np.random.default_rng(asked.seed).choice(used, MOST_PROBED, replace=False))
    chosen = np.zeros(len(split), bool)
    chosen[used] = True
    total = int((split != NONE).sum())
    truth, split = ground_truth.select_rows(truth, chosen), split[chosen]
    usable = probe.find_usable(truth.names, truth.true, split)
    names = [truth.names[column] for column in usable]
    groups = ground_truth.number_patients(truth.columns[asked.patient]) if asked.patient else np.arange(len(split))
    return Examples(truth.record_ids, names, truth.true[:, usable], split), groups, total


def probe_models(
    features: Mapping[str, np.ndarray],
    examples: Examples,
    groups: np.ndarray,
    total: int,
    asked: settings.Probe,
) -> Probed:
    """Probe each model.

    Args:
        features: By model (recordings, width) float32, which are standardised in place.
        examples: The recordings.
        groups: (recordings,) integers, the patient of each.
        total: Of how many recordings these are a sample.
        asked: The settings.

    Returns:
        The probes.
    """
    test = examples.split == TEST

    def train(values: np.ndarray) -> np.ndarray:
        """(labels, test recordings) probabilities."""
        probability: np.ndarray = head_training.train_on(values, examples, {}).probability[test].T
        return probability

    with ThreadPoolExecutor(metrics.THREADS) as pool:
        scores = list(pool.map(train, features.values()))
    measured = Scores(
        examples.names,
        list(features),
        examples.true[test],
        np.stack(scores),
        np.full((len(features), len(examples.names)), labels.DEFAULT_THRESHOLD),
    )
    counts = {name: int((examples.split == number).sum()) for number, name in enumerate(SPLITS)}
    return Probed(model_scores.compare_scores(measured, groups[test], asked.resamples, asked.seed), counts, total)
