"""Evaluate a run's predictions against true labels: metrics with intervals, for all recordings and for subgroups."""

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ecgpipe.core import normalized_text, options, parquet, provenance, schemas, settings
from ecgpipe.core.atomic import write_json
from ecgpipe.core.errors import EcgpipeError
from ecgpipe.evaluation import curves, ground_truth, leakage, metrics, notes, subgroups, truth_tables
from ecgpipe.evaluation.ground_truth import Truth
from ecgpipe.evaluation.subgroups import Subgroup
from ecgpipe.evaluation.truth_tables import Source
from ecgpipe.models import calibration, labels
from ecgpipe.models.labels import Label

logger = logging.getLogger(__name__)


class Inputs(NamedTuple):
    """The files to read."""

    predictions: Sequence[Path]  # all `predictions/part-*.parquet`, in order
    records: Sequence[Path]  # all `records/shard-*.parquet`, in order
    label_csv: Path
    source: Source  # of the true labels
    calibration: Path | None  # of the predictions, if they were calibrated
    heads: Sequence[Path]  # whose labels are predicted


class Outputs(NamedTuple):
    """The files to write."""

    metrics: Path
    curves: Path
    account: Path
    true_labels: Path | None = None


class Matched(NamedTuple):
    """A run's recordings with their true labels."""

    everything: Truth  # all that were predicted
    truth: Truth  # those to evaluate
    label_rows: list[Label]  # (labels,) of `truth`
    not_predicted: np.ndarray  # (labels,) recordings with a true label and without a finite prediction


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `ecgpipe evaluate`."""
    settings.add_arguments(parser, settings.Evaluate)
    options.add(parser, "predictions", "records", required=True)
    options.add(parser, "parts", "shards", "labels", "calibration", "heads")
    truth_tables.add_arguments(parser, "the columns of the inputs' tables, in records/")
    # As thresholds and calibrate call it.
    options.add(parser, "on", dest=f"{settings.PREFIX}split_value", help="the same as --split-value")
    parser.add_argument("--metrics", type=Path, required=True, help="Parquet file to write")
    parser.add_argument("--curves", type=Path, required=True, help="Parquet file to write")
    parser.add_argument("--account", type=Path, required=True, help="JSON file to write: what was counted, and how")
    options.add(parser, "true-labels", help="Parquet file to write: the true labels of each recording")


def run(args: argparse.Namespace) -> None:
    """Evaluate a run."""
    asked = settings.parse_arguments("evaluate", settings.Evaluate, args)
    table = args.truth or (Path(asked.truth) if asked.truth else None)
    inputs = Inputs(
        predictions=parquet.numbered(args.predictions, "part", args.parts),
        records=parquet.numbered(args.records, "shard", args.shards),
        label_csv=args.labels or settings.require_path("labels", asked.labels),
        source=Source(table, truth_tables.parse_mapping(args.map) or asked.mapping),
        calibration=args.calibration or (Path(asked.calibration) if asked.calibration else None),
        heads=args.heads or [Path(path) for path in asked.heads],
    )
    evaluate(asked, inputs, Outputs(args.metrics, args.curves, args.account, args.true_labels))


def evaluate(asked: settings.Evaluate, inputs: Inputs, outputs: Outputs) -> None:
    """Evaluate a run, and write metrics, curves and what was counted.

    Args:
        asked: The settings.
        inputs: The files to read.
        outputs: The files to write.

    Raises:
        EcgpipeError: As of `ground_truth.read_truth`, or something was fitted on the recordings to evaluate.
    """
    matched = match(asked, inputs)
    truth, source = matched.truth, inputs.source
    fitted = refuse_leakage(asked, inputs, matched)
    patients = ground_truth.number_patients(truth.columns[asked.patient]) if asked.patient else None
    groups = [Subgroup("", "", np.ones(len(truth.true), bool))]
    groups += subgroups.split_columns(truth.columns, asked.subgroups)

    measured = measure(matched, patients, groups, asked.resamples, asked.seed)
    summary = {
        "recordings": count_recordings(matched.everything, truth, inputs.records),
        "split": {"column": asked.split, "value": asked.split_value} if asked.split else None,
        "intervals": describe_intervals(asked, truth),
        "labels": count_labels(matched),
        "labels_without_truth": list(truth.left_out),
        "labels_with_one_class": [
            name for name, true in zip(truth.names, truth.true.T, strict=True) if not _has_both_classes(true)
        ],
        "fitted": fitted,
        "subgroups": subgroups.count_recordings(groups, len(truth.true)),
        "truth": {"path": str(source.table), "sha256": provenance.hash_file(source.table)} if source.table else None,
        "mapping": source.mapping,
    }
    facts = settings.add_sha256("evaluate", asked, provenance.inherit_facts([pq.read_schema(inputs.predictions[0])]))
    facts |= {"split": summary["split"], "intervals": summary["intervals"]}
    parquet.write(outputs.metrics, measured.cast(provenance.add_origin(schemas.METRICS, "evaluate", **facts)))
    curve_table = draw_curves(truth)
    parquet.write(outputs.curves, curve_table.cast(provenance.add_origin(schemas.CURVES, "evaluate", **facts)))
    if outputs.true_labels:
        listed = list_true_labels(matched)
        parquet.write(outputs.true_labels, listed.cast(provenance.add_origin(listed.schema, "evaluate", **facts)))
    write_json(outputs.account, {**summary, settings.KEY: facts[settings.KEY]})
    for line in notes.format_summary(measured, summary):
        logger.info("%s", line)


def match(asked: settings.Evaluate, inputs: Inputs) -> Matched:
    """Match the true labels to the predictions, and select the recordings to evaluate.

    Raises:
        EcgpipeError: As of `ground_truth.read_truth`, or one of the two settings of the split is missing.
    """
    if (asked.split is None) != (asked.split_value is None):
        raise EcgpipeError("split, split_value: one says which column, the other which value; give both or neither")
    names = pq.read_schema(inputs.predictions[0]).names
    by_name = {label.name: label for label in labels.read_for(inputs.label_csv, names, inputs.predictions[0])}
    subgroup_columns = [subgroups.parse(text)[0] for text in asked.subgroups]
    columns = [name for name in dict.fromkeys([asked.patient, asked.split, *subgroup_columns]) if name]
    everything = ground_truth.read_truth(inputs.predictions, inputs.records, inputs.source, columns)
    in_split = ground_truth.select_split(everything, asked.split, asked.split_value)
    truth = ground_truth.mask_unpredicted(in_split)
    not_predicted = np.isnan(truth.true).sum(axis=0) - np.isnan(in_split.true).sum(axis=0)
    everything = everything._replace(probability=np.empty((len(everything.true), 0)))
    return Matched(everything, truth, [by_name[name] for name in truth.names], not_predicted)


def refuse_leakage(asked: settings.Evaluate, inputs: Inputs, matched: Matched) -> list[str]:
    """Refuse to evaluate recordings that thresholds, the calibration or heads were fitted on.

    Args:
        asked: The settings.
        inputs: The files.
        matched: The recordings.

    Returns:
        What was fitted, in sentences.

    Raises:
        EcgpipeError: As of `leakage.refuse_overlap`.
    """
    origin = provenance.read_origin(pq.read_schema(inputs.predictions[0]))
    truth, calibrated = matched.truth, origin.get("calibration")
    fits = leakage.read_fits(inputs.label_csv, inputs.calibration, calibrated)
    head_fits = leakage.read_head_fits(origin.get("heads") or {}, truth.names, inputs.heads)
    sentences = labels.describe_choices(matched.label_rows)
    sentences += [calibration.describe_facts(calibrated)] if calibrated else []
    sentences += [f"{fit.what[0].upper()}{fit.what[1:]} were trained on {fit.on}." for fit in head_fits]
    if not fits and not head_fits:
        return sentences

    def read_column(name: str) -> pa.Array | None:
        if name in truth.columns:
            return truth.columns[name]
        return ground_truth.read_column(name, truth.record_ids, inputs.records, inputs.source.table)

    scored, run_recordings = (
        _identify(recordings, inputs.records, asked.patient) for recordings in (truth, matched.everything)
    )
    leakage.refuse_overlap(fits + head_fits, scored, run_recordings, read_column)
    return [*sentences, notes.NO_OVERLAP]


def measure(
    matched: Matched,
    patients: np.ndarray | None,
    groups: Sequence[Subgroup],
    resamples: int,
    seed: int,
) -> pa.Table:
    """Compute the metrics of each subgroup.

    Args:
        matched: The recordings and their labels, with thresholds.
        patients: (recordings,) as of `ground_truth.number_patients`, or None.
        groups: The subgroups.
        resamples: Of the bootstrap.
        seed: Of the resamples.

    Returns:
        A table of `schemas.METRICS`.
    """
    truth = matched.truth
    thresholds = list(labels.thresholds_by_name(matched.label_rows).values())
    rows: list[dict[str, Any]] = []
    for subgroup in groups:
        true = ground_truth.take_rows(truth.true, subgroup.rows)  # (some, labels)
        probability = ground_truth.take_rows(truth.probability, subgroup.rows)
        of_patient = None if patients is None else patients[subgroup.rows]
        is_known = ~np.isnan(true)
        n, n_positive = is_known.sum(axis=0), (true == 1).sum(axis=0)  # (labels,)
        units = np.arange(len(true)) if of_patient is None else of_patient
        n_units = [len(np.unique(units[column])) for column in is_known.T]
        in_all = (int(n.sum()), int(n_positive.sum()), len(np.unique(units)))
        for result in metrics.measure(true, probability, thresholds, of_patient, resamples, seed):
            label = result.label
            counts = in_all if label is None else (int(n[label]), int(n_positive[label]), n_units[label])
            rows.append(
                {
                    "subgroup": subgroup.column,
                    "subgroup_value": subgroup.value,
                    "label": "" if label is None else truth.names[label],
                    "average": result.average,
                    "metric": result.metric,
                    **{key: _null_if_nan(getattr(result, key)) for key in ("value", "low", "high")},
                    **dict(zip(("n", "n_positive", "n_patients"), counts, strict=True)),
                    "resamples_used": result.resamples,
                }
            )
    return pa.Table.from_pylist(rows, schema=schemas.METRICS)


def list_true_labels(matched: Matched) -> pa.Table:
    """List the true labels of all recordings with a prediction, and which were evaluated: `true_labels_schema`."""
    everything = matched.everything
    columns = [
        everything.record_ids,
        pc.is_in(everything.record_ids, value_set=matched.truth.record_ids),
        *(pa.array(true == 1, pa.bool_(), mask=np.isnan(true)) for true in everything.true.T),
    ]
    return pa.table(columns, schema=schemas.true_labels_schema(everything.names))


def draw_curves(truth: Truth) -> pa.Table:
    """Compute the curves of all labels that have both classes, a table of `schemas.CURVES`."""
    pieces = []
    for number, name in enumerate(truth.names):
        rows = ~np.isnan(truth.true[:, number])
        true, score = truth.true[rows, number], truth.probability[rows, number]
        if not _has_both_classes(true):
            continue
        for kind, curve in (("roc", curves.roc(true, score)), ("pr", curves.precision_recall(true, score))):
            threshold = np.where(np.isinf(curve.threshold), np.nan, curve.threshold)
            pieces.append(_curve_rows(name, kind, x=curve.x, y=curve.y, threshold=threshold))
        bins = curves.calibration(true, score)
        columns = {"threshold": bins.edge, "n": bins.recordings, "low": bins.low, "high": bins.high}
        pieces.append(_curve_rows(name, "calibration", x=bins.mean, y=bins.share, **columns))
    return pa.concat_tables([schemas.CURVES.empty_table(), *pieces])


def count_recordings(everything: Truth, truth: Truth, records: Sequence[Path]) -> dict[str, Any]:
    """Count the recordings of each kind: predicted, with a true label, evaluated, ..."""
    lost = dict.fromkeys(("skipped", "failed"), 0)
    found = 0
    for path in records if len(everything.unpredicted) else ():
        table = pq.read_table(path, columns=["record_id", "status"]).combine_chunks()
        place = pc.index_in(everything.unpredicted, normalized_text.as_text(table["record_id"]))
        status = table["status"].combine_chunks().take(place.drop_null())
        found += len(status) - status.null_count
        lost = {name: count + int(pc.sum(pc.equal(status, name)).as_py() or 0) for name, count in lost.items()}
    with_truth = everything.counts["with_truth"]
    return {
        "predicted": everything.counts["predicted"],
        "without_truth": everything.counts["without_truth"],
        "with_truth": with_truth,
        "outside_split": with_truth - len(truth.record_ids),
        "evaluated": len(truth.record_ids),
        "truth_without_prediction": {**lost, "not_in_the_run": len(everything.unpredicted) - found},
    }


def describe_intervals(asked: settings.Evaluate, truth: Truth) -> dict[str, Any]:
    """Describe how the intervals came about: resamples, seed, level, and what is resampled."""
    facts = {"resamples": asked.resamples, "seed": asked.seed, "level": metrics.LEVEL, "unit": "recording"}
    if asked.patient is None:
        return facts
    patients = truth.columns[asked.patient]
    return facts | {
        "unit": "patient",
        "patient_column": asked.patient,
        "patients": len(np.unique(ground_truth.number_patients(patients))),
        "without_patient": normalized_text.as_ids(patients).null_count,
    }


def count_labels(matched: Matched) -> dict[str, dict[str, Any]]:
    """Count by label the recordings with a known label and a prediction, and say where its threshold is from."""
    return {
        label.name: {
            "known": int((~np.isnan(true)).sum()),
            "unknown": int(np.isnan(true).sum() - not_predicted),
            "not_predicted": int(not_predicted),
            "positive": int((true == 1).sum()),
            "threshold": labels.thresholds_by_name([label])[label.name],
            "threshold_from": "the default" if label.threshold is None else "the label file",
        }
        for label, true, not_predicted in zip(
            matched.label_rows, matched.truth.true.T, matched.not_predicted, strict=True
        )
    }


def _identify(truth: Truth, records: Sequence[Path], patient: str | None) -> leakage.Recordings:
    """Recordings by all that they are recognised by; `patient` is the column of the patient, if one is named."""
    signals = parquet.column_of(records, "signal_hash", truth.record_ids)
    patients = None if patient in (None, leakage.EACH) else truth.columns[str(patient)]
    return leakage.Recordings(truth.record_ids, signals, patients)


def _has_both_classes(true: np.ndarray) -> bool:
    """Whether there are positive and negative recordings; `true` is (recordings,)."""
    return bool((true == 1).any() and (true == 0).any())


def _null_if_nan(value: float) -> float | None:
    return None if np.isnan(value) else value


def _curve_rows(label: str, curve: str, **columns: np.ndarray) -> pa.Table:
    """Some rows of `schemas.CURVES`; columns that are not given are null."""
    length = len(columns["x"])
    values: dict[str, Any] = {"label": [label] * length, "curve": [curve] * length}
    values |= {name: pa.array(numbers, from_pandas=True) for name, numbers in columns.items()}
    return pa.table(
        [
            pa.array(values[field.name], field.type) if field.name in values else pa.nulls(length, field.type)
            for field in schemas.CURVES
        ],
        schema=schemas.CURVES,
    )
