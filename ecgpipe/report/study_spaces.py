"""Compare the embeddings of the models of a study, and train the same probe on each."""

import logging
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ecgpipe.analysis import representations
from ecgpipe.core import recording_embeddings
from ecgpipe.core.aligned_recordings import Aligned
from ecgpipe.core.run import Run
from ecgpipe.core.user_settings import StudySettings
from ecgpipe.evaluation import model_probes
from ecgpipe.evaluation.ground_truth import Truth
from ecgpipe.evaluation.model_probes import Probed
from ecgpipe.report import study_truth
from ecgpipe.report.study_runs import StudyRun

logger = logging.getLogger(__name__)

# Recordings whose embeddings are compared at most, drawn at random from those that every model has.
MOST_COMPARED = 10_000

# Nearest recordings that are compared.
NEIGHBORS = 10

# How the probe on the embeddings of a model's network with random weights is called.
RANDOM = " (random weights)"


class Embedded(NamedTuple):
    """What the embeddings of several models have in common."""

    models: tuple[str, ...]  # those that wrote embeddings
    recordings: int  # that were compared
    common: int  # that all of them have
    cka: representations.Alignment
    overlap: representations.Overlap


def choose_common(runs: Sequence[StudyRun], aligned: Aligned, most: int, seed: int) -> tuple[pa.Array, int]:
    """Choose recordings that several runs have, at random.

    Args:
        runs: All runs of the study.
        aligned: Their recordings.
        most: At most.
        seed: Of the draw.

    Returns:
        Their ids, and of how many they are a sample.
    """
    is_embedded = [has_embeddings(run.run) for run in runs]
    common = np.flatnonzero((aligned.rows[is_embedded] >= 0).all(axis=0))
    chosen = common
    if len(common) > most:
        chosen = np.sort(np.random.default_rng(seed).choice(common, most, replace=False))
    return aligned.ids.take(pa.array(chosen)), len(common)


def has_embeddings(run: Run) -> bool:
    """Whether a run wrote embeddings."""
    return (run.outdir / "embeddings").is_dir()


def compare_embeddings(
    names: Sequence[str], embeddings: Sequence[np.ndarray], common: int, patients: np.ndarray | None, seed: int
) -> Embedded | None:
    """Compare the embeddings of several models.

    Args:
        names: The models.
        embeddings: Of each (recordings, width) float32, the same recordings; those with a value that is not finite in
            one of them are left out.
        common: Of how many recordings these are a sample.
        patients: (recordings,) integers, the patient of each, whose other recordings are no neighbours; or None.
        seed: Of the sample of recordings whose neighbours are searched.

    Returns:
        The comparison; None of fewer than two models or recordings.
    """
    finite = np.logical_and.reduce([np.isfinite(values).all(axis=1) for values in embeddings]) if embeddings else None
    if finite is None or len(embeddings) < 2 or finite.sum() < 2:
        return None
    kept = list(embeddings) if finite.all() else [values[finite] for values in embeddings]
    groups = None if patients is None else patients[finite]
    overlap = representations.measure_overlap(kept, NEIGHBORS, groups, seed)
    return Embedded(tuple(names), int(finite.sum()), common, representations.compute_cka(kept), overlap)


def read_embeddings(run: StudyRun, ids: pa.Array) -> np.ndarray:
    """The embeddings of some recordings of a run, (recordings, width) float32, NaN where it has none."""
    logger.info("%s: reading the embeddings of %s recordings", run.name, f"{len(ids):,}")
    return recording_embeddings.read_means_of(run.run.files("embeddings"), ids)


class Spaces(NamedTuple):
    """What was found of the models' embeddings."""

    embedded: Embedded | None  # None of fewer than two models or recordings
    probed: Probed | None
    not_probed: str | None  # why there is no probe, in a sentence; None where there is one, or no true label


def compare_spaces(
    runs: Sequence[StudyRun],
    baselines: Mapping[str, StudyRun],
    aligned: Aligned,
    truth: Truth | None,
    patients: np.ndarray | None,
    asked: StudySettings,
) -> Spaces:
    """Compare the embeddings of the models that have any, and probe them. Each run's are read once.

    Args:
        runs: The runs.
        baselines: By model, a run of its network with random weights.
        aligned: The recordings of the runs.
        truth: Of all of them; None without true labels.
        patients: (recordings,) integers, or None where no column is named.
        asked: The settings.

    Returns:
        The comparison.
    """
    embedding = [number for number, run in enumerate(runs) if has_embeddings(run.run)]
    ids, common = choose_common(runs, aligned, MOST_COMPARED, asked.seed)
    if not embedding or not len(ids):
        return Spaces(None, None, None)
    is_common = np.asarray((aligned.rows[embedding] >= 0).all(axis=0))
    chosen = study_truth.choose_examples(truth, is_common, asked) if truth else None
    examples = None if chosen is None or isinstance(chosen, str) else chosen[0]
    wanted = ids if examples is None else pa.concat_arrays([ids, examples.record_ids]).unique()
    compared, features = [], {}
    for run in (runs[number] for number in embedding):
        vectors = read_embeddings(run, wanted)
        compared.append(vectors[: len(ids)])
        if examples is not None:
            features[run.name] = vectors[pc.index_in(examples.record_ids, wanted).to_numpy()]
            if run.name in baselines:
                features[run.name + RANDOM] = read_embeddings(baselines[run.name], examples.record_ids)
    of_patient = None if patients is None else patients[pc.index_in(ids, aligned.ids).to_numpy()]
    names = [runs[number].name for number in embedding]
    embedded = compare_embeddings(names, compared, common, of_patient, asked.seed)
    if chosen is None or isinstance(chosen, str):
        return Spaces(embedded, None, chosen)
    usable = {name: values for name, values in features.items() if np.isfinite(values).all()}
    for name in features.keys() - usable.keys():
        logger.warning("%s is not probed: a recording has no embedding, or one that is not finite", name)
    return Spaces(embedded, model_probes.probe_models(usable, *chosen) if usable else None, None)
