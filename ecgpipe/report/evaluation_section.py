"""An evaluation as the report shows it."""

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ecgpipe.evaluation import metrics, notes
from ecgpipe.report import deidentify


def read_evaluation(folder: Path, columns: Collection[str] | None = None) -> dict[str, Any]:
    """Read the numbers of an evaluation.

    Args:
        folder: `evaluation/`.
        columns: Columns of the inputs' tables that may be named; None for all.

    Returns:
        `account` as the stage wrote it, less what it may not name, `hidden`, how many columns of subgroups are left out
        therefore, `notes` on it in sentences, `rows` (of each label and average `name`, `average` and by metric its row
        of `metrics.parquet`), `bins` of the calibration error, `confusion` (of `count_confusion`), whether recordings
        have their true labels in the page (`listed`), and by column `subgroups`: their `values` and `rows` of the same
        form, but by value and of AUROC alone.
    """
    account = json.loads((folder / "account.json").read_text(encoding="utf-8"))
    n_columns = len(account["subgroups"])
    account = account if columns is None else deidentify.deidentify_evaluation(account, columns)
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    subgroups: dict[str, dict[str, Any]] = {}
    for row in pq.read_table(folder / "metrics.parquet").to_pylist():
        key = row["label"], row["average"]
        if not row["subgroup"]:
            rows.setdefault(key, {})[row["metric"]] = row
        elif row["metric"] == "auroc" and row["subgroup"] in account["subgroups"]:
            inside = subgroups.setdefault(row["subgroup"], {"values": [], "rows": {}})
            if row["subgroup_value"] not in inside["values"]:
                inside["values"].append(row["subgroup_value"])
            inside["rows"].setdefault(key, {})[row["subgroup_value"]] = row
    return {
        "account": account,
        "hidden": n_columns - len(account["subgroups"]),
        "notes": notes.describe(account),
        "rows": _name_rows(rows),
        "bins": metrics.BINS,
        "confusion": count_confusion(rows, account["labels"]),
        "listed": (folder / "true_labels.parquet").is_file(),
        "subgroups": {column: {**inside, "rows": _name_rows(inside["rows"])} for column, inside in subgroups.items()},
    }


def count_confusion(
    rows: Mapping[tuple[str, str], Mapping[str, Mapping[str, Any]]], of_labels: Mapping[str, Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Count for each label how many evaluated recordings are right and wrong at its threshold.

    Args:
        rows: By label and average, by metric a row of `metrics.parquet`.
        of_labels: By label its `threshold`, of the account.

    Returns:
        `name`, `threshold`, and the numbers `tp`, `fp`, `fn` and `tn`, of each label.
    """
    counted = []
    for name, label in of_labels.items():
        measured = rows[name, "label"]
        n, positive = measured["auroc"]["n"], measured["auroc"]["n_positive"]
        # Shares of whole numbers of recordings: null where there are none.
        tp = round((measured["sensitivity"]["value"] or 0) * positive)
        tn = round((measured["specificity"]["value"] or 0) * (n - positive))
        wrong = {"fp": n - positive - tn, "fn": positive - tp}
        counted.append({"name": name, "threshold": label["threshold"], "tp": tp, "tn": tn, **wrong})
    return counted


def read_curves(folder: Path) -> list[dict[str, Any]]:
    """Read the curves of an evaluation for the page's plots.

    Args:
        folder: `evaluation/`.

    Returns:
        For each label with curves its `name`, what is `said` of each curve, where its threshold lies on them (`at`),
        its `prevalence`, and `roc`, `pr` and `calibration` with their columns as float32.
    """
    measured: dict[str, dict[str, dict[str, Any]]] = {}
    for row in pq.read_table(folder / "metrics.parquet").to_pylist():
        if row["label"] and not row["subgroup"]:
            measured.setdefault(row["label"], {})[row["metric"]] = row
    table = pq.read_table(folder / "curves.parquet")
    curves = []
    for name, numbers in measured.items():
        label_rows = table.filter(pc.equal(table["label"], name))
        if not len(label_rows):
            continue
        drawn: dict[str, Any] = {"name": name, "prevalence": numbers["prevalence"]["value"]}
        for curve, columns in (("roc", "xy"), ("pr", "xy"), ("calibration", ["x", "y", "n", "low", "high"])):
            points = label_rows.filter(pc.equal(label_rows["curve"], curve))
            drawn[curve] = {column: points[column].to_numpy().astype(np.float32) for column in columns}
        drawn["at"] = {metric: numbers[metric]["value"] for metric in ("sensitivity", "specificity", "ppv")}
        drawn["said"] = {
            "roc": f"AUROC {notes.format_with_interval(numbers['auroc'])}",
            "pr": f"AUPRC {notes.format_with_interval(numbers['auprc'])}",
            "calibration": f"Expected calibration error {notes.format_with_interval(numbers['ece'])}",
        }
        curves.append(drawn)
    return curves


def _name_rows(rows: dict[tuple[str, str], dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        {"name": label or average, "average": average, "found": measured} for (label, average), measured in rows.items()
    ]
