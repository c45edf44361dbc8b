"""Label sets: the name of each output of the model, and how the segments of a recording are aggregated."""

import csv
import json
import math
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args

from ecgpipe.core import installation, provenance, results
from ecgpipe.core.errors import EcgpipeError
from ecgpipe.core.separators import separator_of

if TYPE_CHECKING:
    from ecgpipe.core.run import Run  # which needs pyarrow

Aggregation = Literal["mean", "max"]

# Columns of the result files: a label of that name would hide one of them.
RESERVED = frozenset({"record_id", "segment", "start_s", "n_segments"})


# In place of a label CSV where the meaning of a model's outputs is unknown: they are named by their number.
BY_INDEX = "index"

# Beside the label CSVs, the table of which labels mean the same; `evaluation/crosswalk.py` reads it.
CROSSWALK = "crosswalk.csv"

# What the column threshold_from holds, a JSON object: the choice, and the predictions that it holds for.
THRESHOLD_FROM = frozenset({"threshold", "method", "recordings", "on", "fitted", "scores"})

# So much of a label CSV tells its separator.
_HEAD_CHARACTERS = 4096

# The decision threshold where the CSV gives none.
DEFAULT_THRESHOLD = 0.5

# Labels that a sentence names, at most but for one.
MOST_NAMED = 5


class Label(NamedTuple):
    """One output of the model."""

    name: str
    aggregation: Aggregation  # over the probabilities of a recording's segments
    threshold: float | None  # decision threshold; None: 0.5, which is not calibrated
    reference_share: float | None = None  # of positives in the training data, for comparison
    pos_weight: float | None = None  # that the training gave to positives
    threshold_from: dict[str, Any] | None = None  # what `thresholds` chose it on; None where a person wrote it


def read(path: Path) -> tuple[Label, ...]:
    """Read a label CSV: columns `name`, `aggregation` (mean or max), and optionally those of `Label` besides.

    Commas, semicolons or tabs separate; beside the latter two, a number may have a decimal comma.

    Args:
        path: The file. Its rows stand in the order of the model's outputs.

    Returns:
        The labels in that order.

    Raises:
        EcgpipeError: The file is missing, or a row of it is not valid.
    """
    try:
        columns, rows = read_rows(path)
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


def read_rows(path: Path) -> tuple[list[str], list[dict[str, str | None]]]:
    """The columns of a label CSV and its rows, as they stand there.

    Raises:
        OSError: It cannot be read.
        ValueError: It is no text.
        csv.Error: It is no CSV.
    """
    with path.open(newline="", encoding="utf-8-sig") as file:
        separator = separator_of(file.read(_HEAD_CHARACTERS))
        file.seek(0)
        reader = csv.DictReader(file, delimiter=separator)
        return list(reader.fieldnames or []), list(reader)


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
    names = label_columns(results)
    heads = {name: Label(name, "mean", None) for name in read_head_labels(file)}
    model = read_named(path, [name for name in names if name not in heads], file)
    by_name = {label.name: label for label in model} | heads
    return [by_name[name] for name in names]


def read_named(path: Path, names: Sequence[str], file: Path) -> list[Label]:
    """The rows of a label CSV that have some names; no names need no CSV.

    Args:
        path: The label CSV.
        names: Of the labels.
        file: Which says them.

    Returns:
        One for each name.

    Raises:
        EcgpipeError: As of `read`, or it lacks one.
    """
    if not names:
        return []
    by_name = {label.name: label for label in read(path)}
    unknown = [name for name in names if name not in by_name]
    if unknown:
        raise EcgpipeError(f"labels: {path} has no row for {', '.join(unknown)}, which {file} has")
    return [by_name[name] for name in names]


def locate(path: str, root: Path | None = None) -> Path:
    """Find a label CSV by its path: below the current folder, else below `root`; as it was given if it is nowhere.

    Args:
        path: Of the file, e.g. config/labels/mimic_iv_ecg.csv.
        root: None for the folder of the label CSVs that ecgpipe ships.
    """
    candidates = [Path(path), (root or installation.root()) / path]
    # os.path, not pathlib: a text that the system takes for no path at all is not there either.
    return next((candidate for candidate in candidates if os.path.isfile(candidate)), candidates[0])  # noqa: PTH113


def locate_of_run(run: "Run") -> Path:
    """Find the label CSV of a finished run, from any folder, also if its results were moved.

    Args:
        run: The run.

    Returns:
        The CSV that its checkpoint stage wrote if its outputs are named by number; else as of `locate`.
    """
    if run.config.labels_by_index:
        return run.outdir / results.path_of("index_labels")
    return locate(run.config.labels)


def list_shipped() -> list[Path]:
    """The label CSVs that ecgpipe ships: ECG-FM's in config/labels, and those in the folders of the other families."""
    of_ecg_fm = (installation.root() / "config" / "labels").glob("*.csv")
    return sorted(path for path in of_ecg_fm if path.name != CROSSWALK) + sorted(Path(__file__).parent.glob("*/*.csv"))


def number_outputs(outputs: int) -> tuple[Label, ...]:
    """Labels of a model whose outputs have no names: output_00, output_01, ..., each the mean over the segments.

    Args:
        outputs: Of the model.

    Returns:
        As many, in the model's order. Sorted by name they keep it: there are as many digits as the last one needs.
    """
    digits = max(2, len(str(outputs - 1)))
    return tuple(Label(f"output_{number:0{digits}d}", "mean", None) for number in range(outputs))


def are_numbered(names: Sequence[str]) -> bool:
    """Whether these are the names that `by_index` gives; False where there are none."""
    return bool(names) and list(names) == [label.name for label in number_outputs(len(names))]


def explain_numbers(outputs: int) -> str:
    """The warning to whoever sees such names."""
    first, last = number_outputs(outputs)[0].name, number_outputs(outputs)[-1].name
    return (
        f"the model's outputs are named by their number, {first} to {last}: no label file says what they are; give one "
        "as the setting `labels` before anybody reads them as diagnoses"
    )


def label_columns(results: Sequence[str]) -> list[str]:
    """The columns of a logits or predictions file that are labels, in the model's order."""
    return [name for name in results if name not in RESERVED]


def read_head_labels(file: Path) -> list[str]:
    """The labels of a predictions file that come from heads and not from the model."""
    import pyarrow.parquet as pq  # here, because it takes half a second, of every job that reads the Snakefile

    from ecgpipe.core import provenance

    return list(provenance.read_origin(pq.read_schema(file)).get("heads", {}))


def thresholds_by_name(model_labels: Sequence[Label]) -> dict[str, float]:
    """The decision threshold of each label: the CSV's, or `DEFAULT_THRESHOLD`."""
    return {label.name: DEFAULT_THRESHOLD if label.threshold is None else label.threshold for label in model_labels}


def describe_choices(model_labels: Sequence[Label]) -> list[str]:
    """Describe how decision thresholds were chosen.

    Args:
        model_labels: The labels.

    Returns:
        Sentences; none where a person wrote all thresholds.
    """
    counted = Counter(
        (choice["method"], choice["recordings"], choice["on"])
        for choice in (label.threshold_from for label in model_labels)
        if choice
    )
    return [
        f"{n:,} threshold{'' if n == 1 else 's'} chosen by {method} on {recordings:,} recordings"
        + (f" ({on})." if on else ".")
        for (method, recordings, on), n in counted.items()
    ]


def name_some(names: Sequence[str], most: int = MOST_NAMED) -> str:
    """Name the first of some labels, and say how many more there are: none of a page's sentences lists a hundred."""
    if len(names) <= most + 1:
        return ", ".join(names)
    return f"{', '.join(names[:most])} and {len(names) - most} more"


def refuse_foreign(path: Path, model_labels: Sequence[Label], scores: Mapping[str, Any]) -> None:
    """Refuse thresholds that were chosen on predictions of another kind, where the same number means another thing.

    Args:
        path: The label CSV.
        model_labels: Its labels. A threshold that a person wrote is used as it is.
        scores: What `provenance.select_scores` says of the predictions at hand, or as much of it as is known yet.

    Raises:
        EcgpipeError: One was.
    """
    for label in model_labels:
        if label.threshold_from is None:
            continue
        chosen_on = label.threshold_from["scores"]
        different = provenance.describe_difference(chosen_on, {**scores, "aggregation": label.aggregation})
        if different:
            raise EcgpipeError(
                f"labels: {path}: the threshold of {label.name!r} was chosen on predictions with {different}; choose "
                "thresholds for these predictions by `ecgpipe thresholds`, or use the label file without"
            )


def _label(row: dict[str, str | None], where: str) -> Label:
    name = (row["name"] or "").strip()
    aggregation = (row["aggregation"] or "").strip()
    if not name or name in RESERVED:
        raise EcgpipeError(f"labels: {where}: {name!r} cannot be a label's name; give another")
    if aggregation not in get_args(Aggregation):
        raise EcgpipeError(f"labels: {where}: aggregation is {aggregation!r}; give mean or max")
    threshold = _number(row, "threshold", "a probability from 0 to 1", where)
    return Label(
        name=name,
        aggregation="max" if aggregation == "max" else "mean",
        threshold=threshold,
        reference_share=_number(row, "reference_share", "a share from 0 to 1", where),
        pos_weight=_number(row, "pos_weight", "a weight above 0", where, above=0, most=math.inf),
        threshold_from=_threshold_from(row, threshold, where),
    )


def _number(
    row: dict[str, str | None], column: str, what: str, where: str, above: float = -math.inf, most: float = 1
) -> float | None:
    """A number from 0 (or above `above`) to `most`, finite; None where the column is missing or empty."""
    text = (row.get(column) or "").strip()
    try:
        value = float(text.replace(",", ".")) if text else None
    except ValueError:
        value = math.nan
    if value is not None and not (0 <= value <= most and above < value < math.inf):
        raise EcgpipeError(f"labels: {where}: {column} is {text!r}; give {what}, or leave it empty")
    return value


def _threshold_from(row: dict[str, str | None], threshold: float | None, where: str) -> dict[str, Any] | None:
    """The choice that the stage `thresholds` wrote; None where the column is missing or empty."""
    text = (row.get("threshold_from") or "").strip()
    if not text:
        return None
    try:
        choice = json.loads(text)
    except ValueError:
        choice = None
    if not (isinstance(choice, dict) and choice.keys() >= THRESHOLD_FROM):
        raise EcgpipeError(
            f"labels: {where}: threshold_from is {text[:40]!r}, not what `ecgpipe thresholds` writes; leave it empty"
        )
    if choice["threshold"] != threshold:
        raise EcgpipeError(
            f"labels: {where}: the threshold is {threshold}, but threshold_from says that {choice['threshold']} was "
            "chosen; empty threshold_from if you mean your own"
        )
    return choice
