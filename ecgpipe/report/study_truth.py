"""Evaluate the models of a study against true labels: the shared statements, and the same probe on each embedding."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ecgpipe.core import parquet, provenance, settings
from ecgpipe.core.aligned_recordings import Aligned
from ecgpipe.core.errors import EcgpipeError
from ecgpipe.core.user_settings import StudySettings
from ecgpipe.evaluation import ground_truth, leakage, model_probes, model_scores, truth_tables
from ecgpipe.evaluation.ground_truth import Truth
from ecgpipe.evaluation.head_training import Examples
from ecgpipe.evaluation.model_scores import Row, Scores
from ecgpipe.evaluation.truth_tables import Source
from ecgpipe.models.labels import locate_of_run
from ecgpipe.report.study_results import Side
from ecgpipe.report.study_runs import Labels, StudyRun

logger = logging.getLogger(__name__)


class Evaluated(NamedTuple):
    """The models against true labels."""

    rows: list[Row]
    statements: tuple[str, ...]  # that have true labels, and of which two models have a probability
    recordings: int  # with a known true label of one of these
    units: int  # that were resampled
    patient: str | None  # the column of the patient
    split: tuple[str, str] | None  # column and value
    resamples: int
    asked: int  # resamples that were asked for


def choose_source(
    runs: Sequence[StudyRun], table: Path | None, pairs: Sequence[str], mapped: Mapping[str, str] | None = None
) -> Source | None:
    """Where the true labels come from: what the options say, or else what the runs' own settings say together.

    Args:
        runs: The runs.
        table: The option --truth.
        pairs: The option --map.
        mapped: Statement or label by column, as the settings of a study have it.

    Returns:
        The source; None where neither says anything, and the columns of records/ may have true labels or not.
    """
    if table or pairs or mapped:
        return Source(table, {**(mapped or {}), **truth_tables.parse_mapping(pairs)})
    evaluations = [run.run.config.evaluation for run in runs if run.run.config.evaluation.asked]
    if not evaluations:
        return None
    path = next((one.truth for one in evaluations if one.truth), None)
    mapping: dict[str, str] = {}
    for one in reversed(evaluations):
        mapping |= one.mapping
    return Source(Path(path) if path else None, mapping)


def read_truth(
    runs: Sequence[StudyRun], aligned: Aligned, labels: Labels, source: Source | None, columns: Sequence[str]
) -> Truth | None:
    """Read the true labels of a study's recordings, by statement.

    A column counts for a statement if it has its name, or the name of a label of some model that means the same; so
    does what a mapping names. Other names of a mapping are labels for the probe alone.

    Args:
        runs: The runs.
        aligned: Their recordings.
        labels: How their labels correspond.
        source: Of the true labels; None for the columns of records/, which need not have any.
        columns: Others to read, e.g. the patient.

    Returns:
        All recordings; None where no true labels were asked for and there are none.

    Raises:
        EcgpipeError: As of `ground_truth.match`.
    """
    own = truth_tables.OwnColumns(runs[0].records)
    table = source.table if source else None
    mapping = {column: labels.find_statement(label) for column, label in (source.mapping if source else {}).items()}
    names = list(dict.fromkeys([*labels.shared, *labels.statements, *mapping.values()]))
    found = (truth_tables.read_table(table) if table else own).column_names
    mapping |= {
        column: labels.find_statement(column)
        for column in found
        if column in labels.by_label and column not in labels.shared and column not in mapping
    }
    if source is None and not mapping and not set(found) & set(names):
        return None
    return ground_truth.match(aligned.ids, names, own, Source(table, mapping), [*dict.fromkeys(columns)])


def evaluate(
    runs: Sequence[StudyRun], aligned: Aligned, labels: Labels, side: Side, truth: Truth, asked: StudySettings
) -> Evaluated | None:
    """Evaluate the shared statements that have true labels.

    Args:
        runs: The runs.
        aligned: Their recordings.
        labels: How their labels correspond.
        side: The probabilities.
        truth: Of all recordings, with the columns of patient and split.
        asked: The settings.

    Returns:
        The evaluation; None where no shared statement has a true label.

    Raises:
        EcgpipeError: Thresholds, a calibration or heads of a run were fitted on recordings to evaluate; or one of the
            two settings of the split is missing.
    """
    if (asked.split is None) != (asked.split_value is None):
        raise EcgpipeError("split, split_value: one says which column, the other which value; give both or neither")
    statements = [name for name in truth.names if name in side.statements]
    if not statements:
        return None
    columns = [truth.names.index(name) for name in statements]
    places = [side.statements.index(name) for name in statements]
    used = ~np.isnan(truth.true[:, columns]).all(axis=1)
    if asked.split is not None and asked.split_value is not None:
        used &= ground_truth.find_value(truth.columns[asked.split], asked.split_value)
    rows = np.flatnonzero(used)
    if not len(rows):
        return None
    scored = ground_truth.select_rows(truth, used)
    for number, run in enumerate(runs):
        refuse_leakage(run, scored, aligned.rows[number, rows] >= 0, labels, asked.patient)
    score = np.stack([np.asarray(side.probability[:, place][:, rows]) for place in places], axis=1)
    has_label = np.asarray(side.has[:, places].any(axis=1))  # (models,) of those evaluated
    scores = Scores(
        statements,
        [name for name, has in zip(side.models, has_label, strict=True) if has],
        scored.true[:, columns],
        score[has_label],
        side.thresholds[has_label][:, places],
    )
    groups = ground_truth.number_patients(scored.columns[asked.patient]) if asked.patient else None
    resamples = model_scores.choose_resamples(len(rows), int(side.has[:, places].sum()), asked.resamples)
    logger.info("evaluating %d statements on %s recordings, %d resamples", len(statements), f"{len(rows):,}", resamples)
    found = model_scores.compare_scores(scores, groups, resamples, asked.seed)
    units = len(rows) if groups is None else len(np.unique(groups))
    split = (asked.split, asked.split_value) if asked.split and asked.split_value else None
    return Evaluated(found, tuple(statements), len(rows), units, asked.patient, split, resamples, asked.resamples)


def refuse_leakage(run: StudyRun, scored: Truth, is_there: np.ndarray, labels: Labels, patient: str | None) -> None:
    """Refuse to evaluate recordings that a run's thresholds, calibration or heads were fitted on.

    Args:
        run: The run.
        scored: The recordings to evaluate.
        is_there: (recordings,) bool, which of them the run has.
        labels: How labels correspond.
        patient: The column of the patient.

    Raises:
        EcgpipeError: As of `leakage.refuse_overlap`.
    """
    names = [labels_of[run.name] for labels_of in labels.shared.values() if run.name in labels_of]
    if not names:
        return
    config, origin = run.run.config, provenance.read_origin(pq.read_schema(run.predictions[0]))
    label_csv = locate_of_run(run.run)
    calibrated_by = Path(config.calibration) if config.calibration else None
    fits = leakage.read_fits(label_csv, calibrated_by, origin.get("calibration")) if label_csv.is_file() else []
    heads = [Path(path) for path in config.heads]
    fits += leakage.read_head_fits(origin.get("heads") or {}, names, heads)
    if not fits:
        return
    chosen = ground_truth.select_rows(scored, is_there)

    def identify(ids: pa.Array, patients: pa.Array | None) -> leakage.Recordings:
        return leakage.Recordings(ids, parquet.column_of(run.records, "signal_hash", ids), patients)

    def read_column(name: str) -> pa.Array | None:
        if name in chosen.columns:
            return chosen.columns[name]
        return ground_truth.read_column(name, chosen.record_ids, run.records, None)

    patients = chosen.columns.get(patient) if patient and patient != leakage.EACH else None
    every = ground_truth.read_column(patient, run.ids, run.records, None) if patients is not None and patient else None
    leakage.refuse_overlap(fits, identify(chosen.record_ids, patients), identify(run.ids, every), read_column)


def choose_examples(
    truth: Truth, is_common: np.ndarray, asked: StudySettings
) -> tuple[Examples, np.ndarray, int, settings.Probe] | str:
    """Choose the recordings for the probes.

    Args:
        truth: Of all recordings.
        is_common: (recordings,) bool, those that every model has an embedding of.
        asked: The settings.

    Returns:
        As `model_probes.choose_examples`, with the probe's settings; or why there are none, in a sentence.
    """
    if asked.patient is None:
        return "No column of the patient is named, so the recordings cannot be split by patient."
    probe_settings = settings.Probe(patient=asked.patient, seed=asked.seed, resamples=asked.resamples)
    try:
        common = ground_truth.select_rows(truth, is_common)
        return (*model_probes.choose_examples(common, probe_settings), probe_settings)
    except EcgpipeError as error:
        return f"The recordings with true labels are not enough: {error}."


def find_baselines(runs: Sequence[StudyRun], baselines: Sequence[StudyRun]) -> dict[str, StudyRun]:
    """Find the run of random weights for each model: the one with the same family and the same sizes.

    Args:
        runs: The runs of the study.
        baselines: Runs of random weights over the same recordings.

    Returns:
        By the model's name.

    Raises:
        EcgpipeError: A baseline fits no model, or its weights are not random.
    """
    found: dict[str, StudyRun] = {}
    for baseline in baselines:
        if not baseline.random_weights:
            raise EcgpipeError(
                f"--baseline: the weights of {baseline.run.outdir} are not random; see ecgpipe untrained"
            )
        sizes = _sizes(baseline)
        fitting = [run.name for run in runs if _sizes(run) == sizes and run.family == baseline.family]
        if not fitting:
            raise EcgpipeError(f"--baseline: {baseline.run.outdir} has the network of no model of the study")
        found |= dict.fromkeys(fitting, baseline)
    return found


def _sizes(run: StudyRun) -> dict[str, Any]:
    """The sizes of the network without its head."""
    return {key: value for key, value in run.description.get("architecture", {}).items() if key != "labels"}
