"""Check the true labels before anything is computed, so that a mistake is reported at once and not hours later.

`check_before_run` checks the settings and the table, before any job starts. `check_after_scan` compares them with the
recordings that the scan found, before the first is preprocessed.
"""

import csv
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ecgpipe.core import normalized_text, schemas
from ecgpipe.core.errors import EcgpipeError
from ecgpipe.core.typed import write_setting
from ecgpipe.evaluation import ground_truth, subgroups, truth_tables
from ecgpipe.evaluation.truth_tables import Source
from ecgpipe.models import labels

if TYPE_CHECKING:
    from ecgpipe.core.user_settings import Config, Evaluation

logger = logging.getLogger(__name__)

# Ignored tables that are searched for true labels.
MOST_TABLES = 20


def check_before_run(settings: "Config") -> None:
    """Refuse settings of the evaluation that its table of true labels cannot fulfil.

    Args:
        settings: Of the run.

    Raises:
        EcgpipeError: The table cannot be read, has no `record_id` or one twice, lacks a column of the mapping or all
            labels, has a value that is neither 0 nor 1, no row of the split, or a subgroup with too many values.
    """
    asked = settings.evaluation
    if asked.truth is None:
        return
    path = Path(asked.truth)
    try:
        table = truth_tables.read_table(path)
        predicted = _predicted_labels(settings)
        model = [*dict.fromkeys([*(predicted or []), *asked.mapping.values()])]
        if predicted is not None or asked.mapping:
            truth_tables.check_labels(table, model, asked.mapping, str(path))
        if asked.split in table.column_names and asked.split_value is not None:
            ground_truth.find_value(table[asked.split], asked.split_value)
        _check_subgroups(asked.subgroups, table)
    except EcgpipeError as error:
        raise _name_setting(error) from error


def _predicted_labels(settings: "Config") -> list[str] | None:
    """The labels that the run will predict; None where only the checkpoint says them."""
    if settings.labels_by_index:
        return None
    names = [label.name for label in labels.read(Path(settings.labels))]
    if not settings.heads:
        return names
    from ecgpipe.models import heads

    files = [Path(path) for path in settings.heads]
    head_labels = heads.name_labels(files, list(map(heads.load_head, files)), names)
    return names + [name for of_head in head_labels for name in of_head]


def check_after_scan(asked: "Evaluation", label_csv: str | None, recordings: pa.Table, files: pa.Table) -> None:
    """Refuse true labels of other recordings, and columns that neither the table nor the inputs have.

    Args:
        asked: The settings of the evaluation.
        label_csv: The labels to check; None: those of the mapping.
        recordings: `schemas.MANIFEST`, then the inputs' own columns.
        files: `schemas.FILES`. If no true labels are given, a table among them that looks like some is named.

    Raises:
        EcgpipeError: No recording has a true label, none of the split has, a column or label is unknown, or a value is
            neither 0 nor 1.
    """
    if not asked.asked:
        _suggest_tables(files)
        return
    predicted = [label.name for label in labels.read(Path(label_csv))] if label_csv else []
    model = list(dict.fromkeys([*predicted, *asked.mapping.values()]))
    if not model:
        return
    own = recordings.select(["record_id", *recordings.column_names[len(schemas.MANIFEST) :]])
    subgroup_columns = [subgroups.parse(text)[0] for text in asked.subgroups]
    columns = [name for name in dict.fromkeys([asked.patient, asked.split, *subgroup_columns]) if name]
    source = Source(Path(asked.truth) if asked.truth else None, asked.mapping)
    try:
        ids = pc.cast(recordings["record_id"], pa.string()).combine_chunks()
        truth = ground_truth.match(ids, model, own, source, columns, inputs="the inputs' tables")
        truth = ground_truth.select_split(truth, asked.split, asked.split_value)
        subgroups.split_columns(truth.columns, asked.subgroups)
    except EcgpipeError as error:
        raise _name_setting(error) from error


def _check_subgroups(asked: Sequence[str], table: pa.Table) -> None:
    """Split the columns that are in the table, as the evaluation will."""
    names = [subgroups.parse(text)[0] for text in asked]
    columns = {name: normalized_text.as_text(table[name], name) for name in names if name in table.column_names}
    subgroups.split_columns(columns, asked)


def _suggest_tables(files: pa.Table) -> None:
    """Name the ignored tables that have a `record_id`, as tables of true labels have."""
    ignored = files.filter(pc.equal(files["role"], "ignored"))
    tables_ignored = ignored.filter(pc.match_substring(ignored["reason"], "table without"))["path"].to_pylist()
    for path in tables_ignored[:MOST_TABLES]:
        if "record_id" in _read_column_names(Path(path)):
            logger.warning(
                "%s is ignored: it is not a recording, but has a column record_id. If it has true labels, did you mean "
                "%s?",
                path,
                write_setting("evaluation.truth", path),
            )


def _read_column_names(path: Path) -> Sequence[str]:
    """Read the names of a table's columns; none where they cannot be read."""
    try:
        if path.suffix.lower() == ".parquet":
            return list(pq.read_schema(path).names)
        with path.open(newline="", encoding="utf-8-sig", errors="replace") as file:
            line = file.readline()
        return [name.strip() for name in next(csv.reader([line], delimiter=max(",;\t", key=line.count)), [])]
    except (OSError, ValueError, csv.Error, pa.ArrowException):
        return []


def _name_setting(error: EcgpipeError) -> EcgpipeError:
    """Put the name of the setting before an error."""
    text = str(error)
    names = ("truth:", "mapping:", "split:", "subgroups:")
    return EcgpipeError(f"evaluation.{text}" if text.startswith(names) else f"evaluation: {text}")
