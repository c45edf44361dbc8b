"""An evaluation in words: a table of its main metrics, and sentences on what was counted and how."""

from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from ecgpipe.models import labels

# The metrics in the table, of each label.
SHOWN = ("auroc", "auprc", "sensitivity", "specificity", "brier", "ece")

# Written where thresholds, a calibration or heads were fitted: `leakage.refuse_overlap` has checked it.
NO_OVERLAP = "None of the recordings evaluated here was among those."


def format_summary(metrics: pa.Table, summary: Mapping[str, Any]) -> list[str]:
    """Format what a person wants to know at the end: the metrics of each label, and what was not counted.

    Args:
        metrics: A table of `schemas.METRICS`.
        summary: The content of `account.json`.

    Returns:
        Lines of text.
    """
    names = [*summary["labels"], "macro", "micro"]
    rows: dict[str, dict[str, Any]] = {name: {} for name in names}
    for row in metrics.to_pylist():
        if not row["subgroup"]:
            rows[row["label"] or row["average"]][row["metric"]] = row
    width = max(map(len, names))
    others = "".join(f"{metric:>12}" for metric in SHOWN[1:])
    lines = [f"{'':<{width}}  {'n':>8} {'positive':>8}  {'auroc':<21}{others}"]
    for name, by_metric in rows.items():
        auroc = by_metric["auroc"]
        others = "".join(f"{format_number(by_metric[metric]['value']):>12}" for metric in SHOWN[1:])
        counts = f"{auroc['n']:>8,} {auroc['n_positive']:>8,}"
        lines.append(f"{name:<{width}}  {counts}  {format_with_interval(auroc):<21}{others}")
    return lines + describe(summary)


def describe(summary: Mapping[str, Any]) -> list[str]:
    """Say in sentences what was not counted, and how the metrics came about.

    Args:
        summary: The content of `account.json`, or what a page without names may show of it.
    """
    sentences = [_describe_recordings(summary), *_describe_labels(summary)]
    if summary["fitted"]:
        sentences.append(" ".join(summary["fitted"]))
    intervals = summary["intervals"]
    if intervals["unit"] == "patient":
        without = intervals["without_patient"]
        alone = f"; {without:,} recordings without a patient count as one each" if without else ""
        column = f" ({intervals['patient_column']})" if intervals["patient_column"] else ""
        sentences.append(f"Intervals by patient{column}: {intervals['patients']:,}{alone}.")
    else:
        sentences.append("Intervals by recording: no patient column is set.")
    for column, counts in summary["subgroups"].items():
        if counts["unknown"]:
            sentences.append(f"In no subgroup of {column}, because it has no value: {counts['unknown']:,} recordings.")
    return sentences


def format_with_interval(row: Mapping[str, Any]) -> str:
    """Format a value, with its interval where it has one."""
    ends = f" ({format_number(row['low'])}-{format_number(row['high'])})" if row["low"] is not None else ""
    return format_number(row["value"]) + ends


def format_number(value: float | None) -> str:
    """Format a number to three places; a dash where it is not defined."""
    return "-" if value is None else f"{value:.3f}"


def _describe_recordings(summary: Mapping[str, Any]) -> str:
    counts, split = summary["recordings"], summary["split"]
    unpredicted = counts["truth_without_prediction"]
    return (
        f"{counts['evaluated']:,} recordings evaluated"
        + (f", those {_describe_split(split)}; {counts['outside_split']:,} others" if split else "")
        + f"; {counts['without_truth']:,} predicted without a true label; true labels without a prediction: "
        f"{unpredicted['skipped']:,} skipped, {unpredicted['failed']:,} failed, "
        f"{unpredicted['not_in_the_run']:,} not in the run."
    )


def _describe_split(split: Mapping[str, Any]) -> str:
    """Which recordings, in words; a page without names says neither the column nor its value."""
    return f"with {split['column']} = {split['value']}" if split["column"] else "of the split"


def _describe_labels(summary: Mapping[str, Any]) -> list[str]:
    """Sentences on labels that were not counted for all recordings, or not in all metrics."""
    sentences = []
    by_label = summary["labels"]
    unknown = [f"{name} {counts['unknown']:,}" for name, counts in by_label.items() if counts["unknown"]]
    if unknown:
        sentences.append(f"Recordings whose true label is unknown, which do not count for it: {', '.join(unknown)}.")
    not_predicted = [
        f"{name} {counts['not_predicted']:,}" for name, counts in by_label.items() if counts.get("not_predicted")
    ]
    if not_predicted:
        sentences.append(
            "Recordings whose prediction is not a finite number, which do not count for it: "
            f"{', '.join(not_predicted)}."
        )
    if summary["labels_without_truth"]:
        sentences.append(f"Without true labels: {labels.name_some(summary['labels_without_truth'])}.")
    if summary["labels_with_one_class"]:
        sentences.append(
            "One class only, so no AUROC, and not in the macro average: "
            f"{labels.name_some(summary['labels_with_one_class'])}."
        )
    default = [name for name, counts in by_label.items() if counts["threshold_from"] == "the default"]
    if default:
        sentences.append(
            f"Decision threshold {labels.DEFAULT_THRESHOLD}, which is not calibrated, for {len(default)} of "
            f"{len(by_label)} labels: the label file gives none."
        )
    return sentences
