"""What can be known to be wrong with the true labels before anything is computed: said then, and not hours later.

`before_a_run` looks at the settings and the table alone, before any job starts. `after_the_scan` holds them against the
recordings that the scan found, before the first is preprocessed.
"""

import csv
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ecgpipe.core import identity, schemas
from ecgpipe.core.errors import EcgpipeError
from ecgpipe.evaluation import ground_truth
from ecgpipe.models import labels

if TYPE_CHECKING:
    from ecgpipe.core.config import Config, Evaluation

logger = logging.getLogger(__name__)

# Ignored tables that are looked into for true labels.
MOST_TABLES = 20


def before_a_run(settings: "Config") -> None:
    """Refuse settings of the evaluation that its table of true labels cannot fulfil.

    Args:
        settings: Of the run.

    Raises:
        EcgpipeError: The table cannot be read, has no `record_id` or one twice, lacks a column of the mapping or any
            label, has a value that is neither 0 nor 1, no row of the split, or a subgroup of too many values.
    """
    given = settings.evaluation
    if given.truth is None:
        return
    path = Path(given.truth)
    try:
        table = ground_truth.read_table(path)
        known = _names(settings)
        model = [*dict.fromkeys([*(known or []), *given.mapping.values()])]
        if known is not None or given.mapping:
            ground_truth.check_labels(table, model, given.mapping, str(path))
        if given.split in table.column_names and given.split_value is not None:
            ground_truth.equal(table[given.split], given.split_value)
        _check_subgroups(given.subgroups, {name: table[name] for name in table.column_names})
    except EcgpipeError as error:
        raise _of_settings(error) from error


def _names(settings: "Config") -> list[str] | None:
    """The labels that the run will predict; None where only the checkpoint knows them."""
    if settings.labels_by_index:
        return None
    names = [label.name for label in labels.read(Path(settings.labels))]
    if not settings.heads:
        return names
    from ecgpipe.models import heads

    files = [Path(path) for path in settings.heads]
    return names + [name for some in heads.name_labels(files, list(map(heads.load, files)), names) for name in some]


def after_the_scan(asked: "Evaluation", label_csv: str | None, recordings: pa.Table, files: pa.Table) -> None:
    """Refuse true labels of other recordings, and columns that neither the table nor the inputs have.

    Args:
        asked: The settings of the evaluation.
        label_csv: Whose labels it is about; None: those of the mapping.
        recordings: `schemas.MANIFEST`, then the inputs' own columns.
        files: `schemas.FILES`, of which a table that looks like true labels is named where none are given.

    Raises:
        EcgpipeError: No recording has a true label, none of the split has, a column or label is unknown, or a value is
            neither 0 nor 1.
    """
    if not asked.asked:
        _hint(files)
        return
    known = [label.name for label in labels.read(Path(label_csv))] if label_csv else []
    model = list(dict.fromkeys([*known, *asked.mapping.values()]))
    if not model:
        return
    own = recordings.select(["record_id", *recordings.column_names[len(schemas.MANIFEST) :]])
    subgroups = [_column(text) for text in asked.subgroups]
    beside = [name for name in dict.fromkeys([asked.patient, asked.split, *subgroups]) if name]
    table = Path(asked.truth) if asked.truth else None
    try:
        ids = pc.cast(recordings["record_id"], pa.string()).combine_chunks()
        found = ground_truth.joined(ids, model, own, table, asked.mapping, beside, inputs="the inputs' tables")
        found = ground_truth.in_split(found, asked.split, asked.split_value)
        _check_subgroups(asked.subgroups, found.columns)
    except EcgpipeError as error:
        raise _of_settings(error) from error


def _check_subgroups(asked: Sequence[str], columns: Mapping[str, pa.Array]) -> None:
    """Cut those columns up that are there, as the evaluation will."""
    if asked:
        from ecgpipe.evaluation import evaluate  # here, because what it measures with takes a second to load

        for column, edges in map(evaluate.bands, asked):
            if column in columns:
                evaluate.split_up(column, identity.as_text(columns[column], column), edges)


def _column(asked: str) -> str:
    """The column of one of the subgroups."""
    from ecgpipe.evaluation import evaluate

    return evaluate.bands(asked)[0]


def _hint(files: pa.Table) -> None:
    """Say which ignored tables have a `record_id`, as tables of true labels have."""
    ignored = files.filter(pc.equal(files["role"], "ignored"))
    tables_ignored = ignored.filter(pc.match_substring(ignored["reason"], "table without"))["path"].to_pylist()
    for path in tables_ignored[:MOST_TABLES]:
        if "record_id" in _columns(Path(path)):
            logger.warning(
                "%s is ignored: it is no recording, but has a column record_id. If it holds true labels, did you mean "
                "--config evaluation='{truth: %s}'?",
                path,
                path,
            )


def _columns(path: Path) -> Sequence[str]:
    """The names of a table's columns; none where they cannot be read."""
    try:
        if path.suffix.lower() == ".parquet":
            return list(pq.read_schema(path).names)
        with path.open(newline="", encoding="utf-8-sig", errors="replace") as file:
            line = file.readline()
        return [name.strip() for name in next(csv.reader([line], delimiter=max(",;\t", key=line.count)), [])]
    except (OSError, ValueError, csv.Error, pa.ArrowException):
        return []


def _of_settings(error: EcgpipeError) -> EcgpipeError:
    """The same error under the name of the setting."""
    text = str(error)
    names = ("truth:", "mapping:", "split:", "subgroups:")
    return EcgpipeError(f"evaluation.{text}" if text.startswith(names) else f"evaluation: {text}")
