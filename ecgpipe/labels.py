"""Label sets: what each output of the model is called, and how a recording's segments are put together."""

import csv
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple, get_args

from ecgpipe.errors import EcgpipeError

Aggregation = Literal["mean", "max"]

# Columns of the result files: a label of that name would hide one of them.
RESERVED = frozenset({"record_id", "segment", "start_s", "n_segments"})


# What counts as positive where the CSV gives no threshold.
DEFAULT_THRESHOLD = 0.5


class Label(NamedTuple):
    """One output of the model."""

    name: str
    aggregation: Aggregation  # over the probabilities of a recording's segments
    threshold: float | None  # a recording counts as positive from here on; None: 0.5, which is not calibrated
    reference_share: float | None = None  # of positives in the data that the model was trained on, to compare with


def read(path: Path) -> tuple[Label, ...]:
    """Read a label CSV: columns `name`, `aggregation` (mean or max), and optionally `threshold`, `reference_share`.

    Args:
        path: The file. Its rows stand in the order of the model's outputs.

    Returns:
        The labels in that order.

    Raises:
        EcgpipeError: The file is missing, or a row of it cannot be meant.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            columns = reader.fieldnames or []
            rows = list(reader)
    except (OSError, ValueError, csv.Error) as error:
        raise EcgpipeError(f"labels: cannot read {path}: {error}") from error
    missing = {"name", "aggregation"} - set(columns)
    if missing:
        raise EcgpipeError(
            f"labels: {path} has the columns {', '.join(columns) or '(none)'} but needs {', '.join(sorted(missing))} "
            "too; config/labels/mimic_iv_ecg.csv shows the form"
        )
    labels = tuple(_label(row, f"{path}, row {number}") for number, row in enumerate(rows, start=1))
    seen: set[str] = set()
    for number, label in enumerate(labels, start=1):
        if label.name in seen:
            raise EcgpipeError(
                f"labels: {path}, row {number}: {label.name!r} stands there twice; each output needs a name"
            )
        seen.add(label.name)
    if not labels:
        raise EcgpipeError(
            f"labels: {path} has no rows; it needs one for each output of the model, in the model's order"
        )
    return labels


def read_for(path: Path, results: Sequence[str], file: Path) -> list[Label]:
    """Read a label CSV for results: their labels, in the model's order. A model without a head needs no CSV.

    Labels of heads that `probe` trained follow those of the model. They are in no CSV; predictions say themselves which
    of theirs these are.

    Args:
        path: The label CSV; rows that the results do not have may be among its.
        results: The names of the columns of logits or predictions.
        file: Whose columns these are.

    Returns:
        One for each label of the results.

    Raises:
        EcgpipeError: As of `read`, or it lacks one.
    """
    names = columns(results)
    if not names:
        return []
    by_name = {name: Label(name, "mean", None) for name in of_heads(file)}
    if set(names) - by_name.keys():
        by_name = {label.name: label for label in read(path)} | by_name
    unknown = [name for name in names if name not in by_name]
    if unknown:
        raise EcgpipeError(f"labels: {path} has no row for {', '.join(unknown)}, which {file} has")
    return [by_name[name] for name in names]


def columns(results: Sequence[str]) -> list[str]:
    """Those of the columns of a logits or predictions file that are labels, in the model's order."""
    return [name for name in results if name not in RESERVED]


def of_heads(file: Path) -> list[str]:
    """Those of the labels of a predictions file that are heads' and not the model's."""
    import pyarrow.parquet as pq  # here, because it takes half a second, of every job that reads the Snakefile

    from ecgpipe import tables

    return list(tables.origin(pq.read_schema(file)).get("heads", {}))


def thresholds(given: Sequence[Label]) -> dict[str, float]:
    """By name, from where on a recording counts as positive: what the CSV says, or `DEFAULT_THRESHOLD`."""
    return {label.name: DEFAULT_THRESHOLD if label.threshold is None else label.threshold for label in given}


def _label(row: dict[str, str | None], where: str) -> Label:
    name = (row["name"] or "").strip()
    aggregation = (row["aggregation"] or "").strip()
    if not name or name in RESERVED:
        raise EcgpipeError(f"labels: {where}: {name!r} cannot be a label's name; give another")
    if aggregation not in get_args(Aggregation):
        raise EcgpipeError(f"labels: {where}: aggregation is {aggregation!r}; give mean or max")
    threshold = _share(row, "threshold", "a probability", where)
    reference_share = _share(row, "reference_share", "a share", where)
    return Label(name, "max" if aggregation == "max" else "mean", threshold, reference_share)


def _share(row: dict[str, str | None], column: str, what: str, where: str) -> float | None:
    """A number from 0 to 1; None where the column is missing or empty."""
    text = (row.get(column) or "").strip()
    try:
        value = float(text) if text else None
    except ValueError:
        value = math.nan
    if value is not None and not 0 <= value <= 1:
        raise EcgpipeError(f"labels: {where}: {column} is {text!r}; give {what} from 0 to 1, or leave it empty")
    return value
