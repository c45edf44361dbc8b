"""Which labels of which model families mean the same: a CSV that maps labels to common statements.

`config/labels/crosswalk.csv` is the one that ecgpipe ships. A row says that a label of a family means the same as a
statement, something narrower (wherever the label is right, the statement is too) or something broader (wherever the
statement is right, the label is too). Only labels that mean the same can be compared as they are.
"""

import csv
import difflib
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple, get_args

from ecgpipe.core.errors import EcgpipeError
from ecgpipe.models import labels

Relation = Literal["same", "narrower", "broader"]

# The crosswalk that ecgpipe ships, as `models.labels.locate` finds it.
SHIPPED = f"config/labels/{labels.CROSSWALK}"

# Columns that each row fills. Beside these, `NOTES` may be there; further columns are ignored.
NEEDED = ("statement", "family", "outputs", "label", "relation")
NOTES = ("snomed_ct", "scp", "note", "source")


class Mapped(NamedTuple):
    """One label of a classifier, and a statement that it is mapped to."""

    statement: str  # e.g. Atrial fibrillation
    family: (
        str  # as the setting `model` has it; several with a space between, if their classifiers have the same labels
    )
    outputs: int  # of the classifier, which tells apart those of one family
    label: str  # as in its label CSV
    relation: Relation  # of the label to the statement
    snomed_ct: str = ""  # code of the statement, "" where it is not certain
    scp: str = ""  # code of the statement in PTB-XL
    note: str = ""
    source: str = ""  # where the label's meaning is from

    @property
    def classifier(self) -> tuple[str, int]:
        """What tells the list of labels: family and number of outputs."""
        return self.family, self.outputs


def read_crosswalk(path: Path) -> tuple[Mapped, ...]:
    """Read a crosswalk.

    Commas, semicolons or tabs separate its columns.

    Args:
        path: The CSV file.

    Returns:
        Its rows, in the order of the file.

    Raises:
        EcgpipeError: The file cannot be read, lacks a column or has no rows; a row lacks a value, has an unknown
            relation, occurs twice, or says that one label means the same as two statements.
    """
    try:
        columns, rows = labels.read_rows(path)
    except (OSError, ValueError, csv.Error) as error:
        raise EcgpipeError(f"crosswalk: cannot read {path}: {error}") from error
    missing = [column for column in NEEDED if column not in columns]
    if missing:
        raise EcgpipeError(
            f"crosswalk: {path} has no column {', '.join(missing)}; its first row must name {', '.join(NEEDED)}"
        )
    mapped = tuple(_parse_row(row, f"{path}, row {number}") for number, row in enumerate(rows, start=1))
    if not mapped:
        raise EcgpipeError(f"crosswalk: {path} has no rows; {SHIPPED} shows the form")
    _refuse_contradictions(mapped, path)
    return mapped


def refuse_unknown_labels(
    mapped: Iterable[Mapped], known: Mapping[tuple[str, int], Collection[str]], path: Path
) -> None:
    """Refuse a label that its classifier does not have.

    Args:
        mapped: Rows of a crosswalk.
        known: The labels of each classifier, by `Mapped.classifier`. Rows of other classifiers are not checked.
        path: The crosswalk, for the message.

    Raises:
        EcgpipeError: A label is not there.
    """
    for number, row in enumerate(mapped, start=1):
        if row.label not in known.get(row.classifier, [row.label]):
            near = difflib.get_close_matches(row.label, known[row.classifier], n=1)
            fix = f"did you mean {near[0]!r}?" if near else "give one of its labels, or remove the row"
            raise EcgpipeError(f"crosswalk: {path}, row {number}: {_name(row)} has no label {row.label!r}; {fix}")


def select_rows(mapped: Sequence[Mapped], family: str, model_labels: Collection[str]) -> list[Mapped]:
    """The rows that hold for the labels of one run.

    A family can have several classifiers whose labels have names in common, such as "Sinus rhythm", and need not mean
    the same. The rows of the classifier that fits the run's labels best are taken: a run's heads add labels, so that
    their number does not tell.

    Args:
        mapped: Rows of a crosswalk.
        family: The run's.
        model_labels: The run's.

    Returns:
        Rows of one classifier, those whose label the run has; empty where the crosswalk has none.
    """
    by_outputs: dict[int, list[Mapped]] = {}
    for row in mapped:
        if family in row.family.split():
            by_outputs.setdefault(row.outputs, []).append(row)

    def share(rows: list[Mapped]) -> float:
        names = {row.label for row in rows}
        return len(names & set(model_labels)) / len(names)

    return [row for row in max(by_outputs.values(), key=share, default=[]) if row.label in model_labels]


def find_shared(
    mapped: Sequence[Mapped], runs: Mapping[str, tuple[str, Collection[str]]], least: int = 2
) -> dict[str, dict[str, str]]:
    """The statements that labels of several runs mean, and these labels.

    Args:
        mapped: Rows of a crosswalk.
        runs: Family and labels of each run, by any name for the run.
        least: In how many runs a statement needs a label of the same meaning.

    Returns:
        By statement, in the order of the file, the label of each run that has one, by the run's name.

    Raises:
        EcgpipeError: Two labels of one run mean the same statement.
    """
    shared: dict[str, dict[str, str]] = {row.statement: {} for row in mapped}
    for run, (family, model_labels) in runs.items():
        for row in select_rows(mapped, family, model_labels):
            if row.relation != "same":
                continue
            other = shared[row.statement].setdefault(run, row.label)
            if other != row.label:
                raise EcgpipeError(
                    f"crosswalk: {other!r} and {row.label!r} of {family} both mean {row.statement!r}; "
                    "give one of them as narrower"
                )
    return {statement: by_run for statement, by_run in shared.items() if len(by_run) >= least}


def _parse_row(row: Mapping[str, str | None], where: str) -> Mapped:
    values = {column: (row.get(column) or "").strip() for column in (*NEEDED, *NOTES)}
    empty = [column for column in NEEDED if not values[column]]
    if empty:
        raise EcgpipeError(f"crosswalk: {where}: {', '.join(empty)} is empty; fill it in, or remove the row")
    if values["relation"] not in get_args(Relation):
        raise EcgpipeError(
            f"crosswalk: {where}: relation is {values['relation']!r}; give one of {', '.join(get_args(Relation))}"
        )
    if not (values["outputs"].isdecimal() and int(values["outputs"]) > 0):
        raise EcgpipeError(
            f"crosswalk: {where}: outputs is {values['outputs']!r}; give the classifier's number of labels, e.g. 17"
        )
    return Mapped(**{**values, "outputs": int(values["outputs"])})  # type: ignore[arg-type]  # they were checked


def _name(row: Mapped) -> str:
    return f"the classifier of {row.family} with {row.outputs} outputs"


def _refuse_contradictions(mapped: Sequence[Mapped], path: Path) -> None:
    """Refuse a label that is mapped to one statement twice, or that means the same as two."""
    seen: dict[tuple[tuple[str, int], str, str], int] = {}
    meanings: dict[tuple[tuple[str, int], str], str] = {}
    for number, row in enumerate(mapped, start=1):
        label = (row.classifier, row.label)
        first = seen.setdefault((*label, row.statement), number)
        if first != number:
            raise EcgpipeError(
                f"crosswalk: {path}, row {number}: {row.label!r} of {_name(row)} is mapped to "
                f"{row.statement!r} in row {first} too; remove one of them"
            )
        if row.relation == "same" and meanings.setdefault(label, row.statement) != row.statement:
            raise EcgpipeError(
                f"crosswalk: {path}, row {number}: {row.label!r} of {_name(row)} means the same as "
                f"both {meanings[label]!r} and {row.statement!r}; give one of them as narrower or broader"
            )
