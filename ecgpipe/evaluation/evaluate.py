"""Hold a run's predictions against true labels: metrics with intervals, over all recordings and over subgroups."""

import argparse
import logging
import re
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ecgpipe.core import identity, parquet, provenance, schemas, settings
from ecgpipe.core.atomic import write_json
from ecgpipe.core.errors import EcgpipeError
from ecgpipe.evaluation import curves, ground_truth, leakage, metrics
from ecgpipe.evaluation.ground_truth import Truth
from ecgpipe.models import calibration, labels
from ecgpipe.models.labels import Label

logger = logging.getLogger(__name__)

# Values of a column that are a subgroup each; a column of more wants edges.
MOST_VALUES = 30

# What the table at the end says of each label.
SAID = ("auroc", "auprc", "sensitivity", "specificity", "brier", "ece")


# Said where thresholds, a calibration or heads were fitted: `leakage.refuse_overlap` has seen to it.
APART = "None of the recordings evaluated here was among those."


class Subgroup(NamedTuple):
    """Some of the recordings."""

    column: str  # empty: all of them
    value: str
    rows: np.ndarray  # (recordings,) bool


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `python -m ecgpipe evaluate`."""
    settings.add_arguments(parser, settings.Evaluate)
    parser.add_argument("--predictions", type=Path, required=True, help="the folder predictions/")
    parser.add_argument("--parts", type=int, help="how many parts the run has (default: all in the folder)")
    parser.add_argument("--records", type=Path, required=True, help="the folder records/")
    parser.add_argument("--shards", type=int, help="how many shards the run has (default: all in the folder)")
    parser.add_argument("--labels", type=Path, help="the label CSV, which may give thresholds")
    parser.add_argument("--calibration", type=Path, help="what the predictions were calibrated by, if they were")
    parser.add_argument(
        "--heads", type=Path, nargs="*", default=[], help="the heads whose labels are predicted, if any"
    )
    ground_truth.add_arguments(parser)
    # As thresholds, calibrate and probe call it.
    parser.add_argument("--on", dest=f"{settings.PREFIX}split_value", metavar="VALUE", help="the same as --split-value")
    parser.add_argument("--metrics", type=Path, required=True, help="Parquet file to write")
    parser.add_argument("--curves", type=Path, required=True, help="Parquet file to write")
    parser.add_argument("--account", type=Path, required=True, help="JSON file to write: what was counted, and how")


def run(args: argparse.Namespace) -> None:
    """Evaluate a run."""
    asked = settings.of_arguments("evaluate", settings.Evaluate, args)
    if (asked.split is None) != (asked.split_value is None):
        raise EcgpipeError("split, split_value: one says which column, the other which value; give both or neither")
    label_csv = args.labels or settings.path("labels", asked.labels)
    calibrated_by = args.calibration or (Path(asked.calibration) if asked.calibration else None)
    table = args.truth or (Path(asked.truth) if asked.truth else None)
    mapping = ground_truth.mapping(args.map) or asked.mapping
    head_files = args.heads or [Path(path) for path in asked.heads]
    predictions = parquet.numbered(args.predictions, "part", args.parts)
    records = parquet.numbered(args.records, "shard", args.shards)
    schema = pq.read_schema(predictions[0])
    by_name = {label.name: label for label in labels.read_for(label_csv, schema.names, predictions[0])}
    columns = dict(map(bands, asked.subgroups))
    beside = [name for name in dict.fromkeys([asked.patient, asked.split, *columns]) if name]
    everything = ground_truth.read(predictions, records, table, mapping, beside)
    with_truth = ground_truth.in_split(everything, asked.split, asked.split_value)
    found = ground_truth.where_predicted(with_truth)
    not_predicted = np.isnan(found.true).sum(axis=0) - np.isnan(with_truth.true).sum(axis=0)  # (labels,)
    given = [by_name[name] for name in found.names]
    calibrated = provenance.origin(schema).get("calibration")
    fits = leakage.behind(label_csv, calibrated_by, calibrated)
    made = labels.describe_choices(given) + ([calibration.describe_facts(calibrated)] if calibrated else [])
    trained = leakage.of_heads(provenance.origin(schema).get("heads") or {}, found.names, head_files)
    made += [f"{fit.what[0].upper()}{fit.what[1:]} were trained on {fit.on}." for fit in trained]
    fits += trained
    if fits:
        made.append(APART)
        scored, run = (known_again(some, records, asked.patient) for some in (found, everything))
        leakage.refuse_overlap(fits, scored, run, lambda name: column_of(name, found, records, table))
    patients = ground_truth.units(found.columns[asked.patient]) if asked.patient else None
    subgroups = [Subgroup("", "", np.ones(len(found.true), bool))]
    for column, edges in columns.items():
        subgroups += split_up(column, found.columns[column], edges)

    measured = measure(found, given, patients, subgroups, asked.resamples, asked.seed)
    account = {
        "recordings": counts(everything, found, records),
        "split": {"column": asked.split, "value": asked.split_value} if asked.split else None,
        "intervals": intervals(asked.patient, found, asked.resamples, asked.seed),
        "labels": of_labels(found, given, not_predicted),
        "labels_without_truth": list(found.left_out),
        "labels_with_one_class": [name for name, both in zip(found.names, has_both(found), strict=True) if not both],
        "fitted": made,
        "subgroups": accounted(subgroups, found),
        "truth": {"path": str(table), "sha256": provenance.file_sha256(table)} if table else None,
        "mapping": mapping,
    }
    facts = settings.marked("evaluate", asked, provenance.inherited([schema]))
    facts |= {"split": account["split"], "intervals": account["intervals"]}
    parquet.write(args.metrics, measured.cast(provenance.with_origin(schemas.METRICS, "evaluate", **facts)))
    drawn = points(found)
    parquet.write(args.curves, drawn.cast(provenance.with_origin(schemas.CURVES, "evaluate", **facts)))
    write_json(args.account, {**account, settings.KEY: facts[settings.KEY]})
    for line in lines(measured, account):
        logger.info("%s", line)


def known_again(some: Truth, records: Sequence[Path], patient: str | None) -> leakage.Recordings:
    """Recordings by all that they are known again by; `patient` is the column of theirs, if it is named."""
    signals = parquet.column_of(records, "signal_hash", some.record_ids)
    patients = None if patient in (None, leakage.EACH) else some.columns[str(patient)]
    return leakage.Recordings(some.record_ids, signals, patients)


def column_of(name: str, found: Truth, records: Sequence[Path], table: Path | None) -> pa.Array | None:
    """A column for the recordings, which the settings need not name; None where there is no such column."""
    if name in found.columns:
        return found.columns[name]
    return ground_truth.column(name, found.record_ids, records, table)


def bands(asked: str) -> tuple[str, list[float] | None]:
    """Read one of `--subgroups`: a column, and the edges of its bands if it has them.

    Raises:
        EcgpipeError: The edges do not rise.
    """
    column, _, listed = asked.rpartition(":")
    if not column or not re.fullmatch(r"[-+.\deE]+(,[-+.\deE]+)*", listed):
        return asked, None
    try:
        edges = [float(edge) for edge in listed.split(",")]
    except ValueError:
        return asked, None
    if sorted(set(edges)) != edges:
        raise EcgpipeError(f"subgroups: the edges of {asked!r} do not rise; give e.g. age:18,40,65,80")
    return column, edges


def split_up(column: str, values: pa.Array, edges: Sequence[float] | None) -> list[Subgroup]:
    """The subgroups of a column: its values, or the bands that they lie in. Where nothing is known is none.

    Args:
        column: Its name.
        values: (recordings,) of it.
        edges: Where a band begins and the one before ends; None for the values themselves.

    Returns:
        Those with recordings, in order.

    Raises:
        EcgpipeError: A column with edges has a value that is no number, or one without has too many.
    """
    texts = identity.as_text(values)
    if edges is None:
        names = sorted(filter(None, texts.unique().to_pylist()))
        if len(names) > MOST_VALUES:
            raise EcgpipeError(
                f"subgroups: {column!r} has {len(names):,} values, more than {MOST_VALUES}; of a number give the edges "
                f"of bands, e.g. {column}:18,40,65,80"
            )
        place = pc.index_in(texts, pa.array(names, pa.string())).to_numpy(zero_copy_only=False)  # NaN: none
    else:
        try:
            numbers = pc.cast(pc.if_else(pc.equal(texts, ""), None, texts), pa.float64()).to_numpy(zero_copy_only=False)
        except pa.ArrowInvalid as error:
            raise EcgpipeError(f"subgroups: {column!r} is to be cut at edges, but is no number: {error}") from error
        names = [f"below {edges[0]:g}"]
        names += [f"{low:g} to below {high:g}" for low, high in pairwise(edges)]
        names += [f"{edges[-1]:g} and above"]
        place = np.where(np.isnan(numbers), -1, np.searchsorted(edges, numbers, side="right"))
    found = [Subgroup(column, name, place == number) for number, name in enumerate(names)]
    return [one for one in found if one.rows.any()]


def measure(
    found: Truth,
    given: Sequence[Label],
    patients: np.ndarray | None,
    subgroups: Sequence[Subgroup],
    resamples: int,
    seed: int,
) -> pa.Table:
    """Measure each subgroup.

    Args:
        found: The recordings.
        given: Their labels, with thresholds.
        patients: (recordings,) as `units` gives them, or None.
        subgroups: What to measure.
        resamples: Of the bootstrap.
        seed: Of the resamples.

    Returns:
        A table of `schemas.METRICS`.
    """
    thresholds = list(labels.thresholds_by_name(given).values())
    rows: list[dict[str, Any]] = []
    for subgroup in subgroups:
        true = found.true[subgroup.rows]  # (some, labels)
        groups = None if patients is None else patients[subgroup.rows]
        known = ~np.isnan(true)
        n, positive = known.sum(axis=0), (true == 1).sum(axis=0)  # (labels,)
        of_whom = np.arange(len(true)) if groups is None else groups
        many = [len(np.unique(of_whom[column])) for column in known.T]
        together = (int(n.sum()), int(positive.sum()), len(np.unique(of_whom)))
        for one in metrics.measure(true, found.probability[subgroup.rows], thresholds, groups, resamples, seed):
            label = one.label
            counted = together if label is None else (int(n[label]), int(positive[label]), many[label])
            rows.append(
                {
                    "subgroup": subgroup.column,
                    "subgroup_value": subgroup.value,
                    "label": "" if label is None else found.names[label],
                    "average": one.average,
                    "metric": one.metric,
                    **{key: _defined(getattr(one, key)) for key in ("value", "low", "high")},
                    **dict(zip(("n", "n_positive", "n_patients"), counted, strict=True)),
                    "resamples_used": one.resamples,
                }
            )
    return pa.Table.from_pylist(rows, schema=schemas.METRICS)


def points(found: Truth) -> pa.Table:
    """The curves of all labels that have both classes, a table of `schemas.CURVES`."""
    pieces = []
    for number, name in enumerate(found.names):
        known = ~np.isnan(found.true[:, number])
        true, score = found.true[known, number], found.probability[known, number]
        if not 0 < true.sum() < len(true):
            continue
        for curve, drawn in (("roc", curves.roc(true, score)), ("pr", curves.precision_recall(true, score))):
            ends = np.where(np.isinf(drawn.threshold), np.nan, drawn.threshold)
            pieces.append(_piece(name, curve, x=drawn.x, y=drawn.y, threshold=ends))
        bars = curves.calibration(true, score)
        of_bins = {"threshold": bars.edge, "n": bars.recordings, "low": bars.low, "high": bars.high}
        pieces.append(_piece(name, "calibration", x=bars.mean, y=bars.share, **of_bins))
    return pa.concat_tables([schemas.CURVES.empty_table(), *pieces])


def counts(everything: Truth, found: Truth, records: Sequence[Path]) -> dict[str, Any]:
    """How many recordings there are of which kind."""
    table = pa.concat_tables(
        pq.read_table(path, columns=["record_id", "status"]).replace_schema_metadata(None) for path in records
    ).combine_chunks()
    place = pc.index_in(everything.unpredicted, identity.as_text(table["record_id"]))
    status = pc.fill_null(table["status"].combine_chunks().take(place), "not_in_the_run")
    known = everything.account["with_truth"]
    return {
        "predicted": everything.account["predicted"],
        "without_truth": everything.account["without_truth"],
        "with_truth": known,
        "outside_split": known - len(found.record_ids),
        "evaluated": len(found.record_ids),
        "truth_without_prediction": {
            name: int(pc.sum(pc.equal(status, name)).as_py() or 0) for name in ("skipped", "failed", "not_in_the_run")
        },
    }


def intervals(column: str | None, found: Truth, resamples: int, seed: int) -> dict[str, Any]:
    """How the intervals came about."""
    told: dict[str, Any] = {"resamples": resamples, "seed": seed, "level": metrics.LEVEL, "unit": "recording"}
    if column is None:
        return told
    patients = found.columns[column]
    return told | {
        "unit": "patient",
        "patient_column": column,
        "patients": len(np.unique(ground_truth.units(patients))),
        "without_patient": identity.as_ids(patients).null_count,
    }


def of_labels(found: Truth, given: Sequence[Label], not_predicted: np.ndarray) -> dict[str, dict[str, Any]]:
    """What is known of each label; `not_predicted` (labels,) recordings have a true label and no finite prediction."""
    return {
        label.name: {
            "known": int((~np.isnan(true)).sum()),
            "unknown": int(np.isnan(true).sum() - missing),
            "not_predicted": int(missing),
            "positive": int((true == 1).sum()),
            "threshold": labels.thresholds_by_name([label])[label.name],
            "threshold_from": "the default" if label.threshold is None else "the label file",
        }
        for label, true, missing in zip(given, found.true.T, not_predicted, strict=True)
    }


def has_both(found: Truth) -> list[bool]:
    """Of each label, whether there are positive and negative recordings."""
    return [bool((true == 1).any() and (true == 0).any()) for true in found.true.T]


def accounted(subgroups: Sequence[Subgroup], found: Truth) -> dict[str, dict[str, int]]:
    """By column, how many recordings are in each of its subgroups, and of how many nothing is known."""
    counted: dict[str, dict[str, int]] = {}
    for one in subgroups:
        if one.column:
            counted.setdefault(one.column, {})[one.value] = int(one.rows.sum())
    for inside in counted.values():
        inside["unknown"] = len(found.true) - sum(inside.values())
    return counted


def lines(measured: pa.Table, account: Mapping[str, Any]) -> list[str]:
    """What a person wants to know at the end: the numbers of each label, and what was not counted."""
    names = [*account["labels"], "macro", "micro"]
    table: dict[str, dict[str, Any]] = {name: {} for name in names}
    for row in measured.to_pylist():
        if not row["subgroup"]:
            table[row["label"] or row["average"]][row["metric"]] = row
    width = max(map(len, names))
    others = "".join(f"{metric:>12}" for metric in SAID[1:])
    told = [f"{'':<{width}}  {'n':>8} {'positive':>8}  {'auroc':<21}{others}"]
    for name, found in table.items():
        auroc = found["auroc"]
        others = "".join(f"{said(found[metric]['value']):>12}" for metric in SAID[1:])
        told.append(f"{name:<{width}}  {auroc['n']:>8,} {auroc['n_positive']:>8,}  {with_interval(auroc):<21}{others}")
    return told + notes(account)


def notes(account: Mapping[str, Any]) -> list[str]:
    """What was not counted, and how numbers came about, in sentences."""
    counts, by = account["recordings"], account["intervals"]
    without, split = counts["truth_without_prediction"], account["split"]
    told = [
        f"{counts['evaluated']:,} recordings evaluated"
        + (f", those {_of_split(split)}; {counts['outside_split']:,} others" if split else "")
        + f"; {counts['without_truth']:,} predicted without a true label; true labels without a prediction: "
        f"{without['skipped']:,} skipped, {without['failed']:,} failed, {without['not_in_the_run']:,} not in the run."
    ]
    unknown = [f"{name} {one['unknown']:,}" for name, one in account["labels"].items() if one["unknown"]]
    if unknown:
        told.append(f"Recordings of which the label is not known, and which do not count for it: {', '.join(unknown)}.")
    missing = [
        f"{name} {one['not_predicted']:,}" for name, one in account["labels"].items() if one.get("not_predicted")
    ]
    if missing:
        told.append(
            f"Recordings whose prediction is not a finite number, and which do not count for it: {', '.join(missing)}."
        )
    if account["labels_without_truth"]:
        told.append(f"Without true labels: {', '.join(account['labels_without_truth'])}.")
    if account["labels_with_one_class"]:
        told.append(
            f"One class only, so no AUROC, and not in the macro average: {', '.join(account['labels_with_one_class'])}."
        )
    default = [name for name, one in account["labels"].items() if one["threshold_from"] == "the default"]
    if default:
        told.append(
            f"Threshold {labels.DEFAULT_THRESHOLD}, which is not calibrated, for {len(default)} of "
            f"{len(account['labels'])} labels: the label file gives none."
        )
    if account["fitted"]:
        told.append(" ".join(account["fitted"]))
    if by["unit"] == "patient":
        alone = f", {by['without_patient']:,} recordings without one each by itself" if by["without_patient"] else ""
        column = f" ({by['patient_column']})" if by["patient_column"] else ""
        told.append(f"Intervals by patient{column}: {by['patients']:,}{alone}.")
    else:
        told.append("Intervals take each recording for a patient of its own, as no column of the patient is named.")
    for column, values in account["subgroups"].items():
        if values["unknown"]:
            told.append(f"In no subgroup of {column}, as nothing is known: {values['unknown']:,} recordings.")
    return told


def _of_split(split: Mapping[str, Any]) -> str:
    """Which recordings, in words; a page without names says neither the column nor its value."""
    return f"with {split['column']} = {split['value']}" if split["column"] else "of the split"


def with_interval(row: Mapping[str, Any]) -> str:
    """A value as people read it, with its interval where it has one."""
    ends = f" ({said(row['low'])}-{said(row['high'])})" if row["low"] is not None else ""
    return said(row["value"]) + ends


def said(value: float | None) -> str:
    """A number to three places, a dash where it is not defined."""
    return "-" if value is None else f"{value:.3f}"


def _defined(value: float) -> float | None:
    return None if np.isnan(value) else value


def _piece(label: str, curve: str, **columns: np.ndarray) -> pa.Table:
    """Some rows of `schemas.CURVES`; columns that are not given are null."""
    length = len(columns["x"])
    given: dict[str, Any] = {"label": [label] * length, "curve": [curve] * length}
    given |= {name: pa.array(values, from_pandas=True) for name, values in columns.items()}
    return pa.table(
        [
            pa.array(given[field.name], field.type) if field.name in given else pa.nulls(length, field.type)
            for field in schemas.CURVES
        ],
        schema=schemas.CURVES,
    )
