"""Reading true labels: from a table of their own or from the columns of the inputs' tables, by name or by a mapping."""

import argparse
import difflib
import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ecgpipe.core import normalized_text, options, schemas
from ecgpipe.core.errors import EcgpipeError
from ecgpipe.core.user_settings import Evaluation
from ecgpipe.inputs import input_tables

logger = logging.getLogger(__name__)

# How tables write that a label is present or absent, in lower case.
POSITIVE = ("1", "1.0", "true", "t", "yes", "y")
NEGATIVE = ("0", "0.0", "false", "f", "no", "n")


class Source(NamedTuple):
    """Where true labels come from."""

    table: Path | None  # CSV or Parquet with the column `record_id`; None: the columns of the inputs' tables
    mapping: Mapping[str, str]  # label by column, or by COLUMN:CODE


def add_arguments(parser: argparse.ArgumentParser, default: str) -> None:
    """Add the options that say where the true labels are.

    Args:
        parser: Of the command.
        default: Where they are without these options, for the help.
    """
    help_text = f"CSV or Parquet table with a record_id and a column of 0 and 1 per label (default: {default})"
    options.add(parser, "truth", help=help_text)
    options.add(parser, "map")


def parse_mapping(pairs: Sequence[str]) -> dict[str, str]:
    """Read `--map`.

    Args:
        pairs: Texts COLUMN=LABEL.

    Returns:
        Label by column.

    Raises:
        EcgpipeError: One has no column or no label.
    """
    mapping = {}
    for pair in pairs:
        column, _, label = pair.rpartition("=")
        if not column or not label:
            raise EcgpipeError(f"--map: {pair!r} is not COLUMN=LABEL; give e.g. 'AF=Atrial fibrillation'")
        mapping[column] = label
    return mapping


def choose_source(table: Path | None, pairs: Sequence[str], evaluation: Evaluation) -> Source:
    """Choose where the true labels come from: what the options say, or else what a run's own settings say.

    Args:
        table: `--truth`.
        pairs: `--map`.
        evaluation: The settings of the run.
    """
    if table or pairs:
        return Source(table, parse_mapping(pairs))
    if evaluation.asked:
        logger.info("true labels as in the run's settings, evaluation")
    return Source(Path(evaluation.truth) if evaluation.truth else None, dict(evaluation.mapping))


class OwnColumns:
    """`record_id` and the columns of the inputs' tables, as the records carry them: read when they are selected."""

    def __init__(self, records: Sequence[Path]) -> None:
        """Read the names.

        Args:
            records: All `records/shard-*.parquet`, in order.
        """
        self._names = {path: pq.read_schema(path).names for path in records}
        found = dict.fromkeys(name for names in self._names.values() for name in names)
        self.column_names = ["record_id", *(name for name in found if name not in schemas.RECORDS.names)]

    def select(self, names: Sequence[str]) -> pa.Table:
        """Read some of the columns, in one pass over the files; null where a file has not got one."""
        pieces = [
            pq.read_table(path, columns=[name for name in names if name in there]).replace_schema_metadata(None)
            for path, there in self._names.items()
        ]
        return pa.concat_tables(pieces, promote_options="permissive").select(names)


def read_table(path: Path) -> pa.Table:
    """Read a table of true labels, its `record_id` as texts, each of them once.

    Raises:
        EcgpipeError: It cannot be read as a table, or `record_id` is missing or has a value twice.
    """
    try:
        table = input_tables.read_table(path, texts=("record_id",)).combine_chunks()
    except ValueError as error:
        raise EcgpipeError(f"truth: {path}: {error}") from error
    if "record_id" not in table.column_names:
        raise EcgpipeError(
            f"truth: {path} has no column record_id, but {', '.join(table.column_names)}; rename the one that has "
            "the ids of records/"
        )
    record_ids = normalized_text.as_ids(table["record_id"], "record_id")
    if record_ids.null_count:
        logger.warning("truth: %s: %s rows without a record_id are ignored", path, f"{record_ids.null_count:,}")
    table = table.set_column(table.column_names.index("record_id"), "record_id", record_ids)
    table = table.filter(record_ids.is_valid())
    repeated = find_repeated(table["record_id"])
    if repeated is not None:
        raise EcgpipeError(f"truth: {path}: the record_id {repeated!r} occurs twice; keep one row per recording")
    return table


def find_repeated(record_ids: pa.Array | pa.ChunkedArray) -> str | None:
    """Find an id that occurs more than once; None where there is none."""
    counts = pc.value_counts(record_ids)
    repeated = counts.filter(pc.greater(counts.field("counts"), 1))
    return str(repeated.field("values")[0]) if len(repeated) else None


def check_labels(table: pa.Table, model: Sequence[str], mapping: Mapping[str, str], where: str) -> None:
    """Refuse a table without labels, a mapping to unknown columns or labels, and values that are neither 0 nor 1.

    Raises:
        EcgpipeError: As of `ground_truth.read_truth`.
    """
    for sources in find_sources(table.column_names, model, mapping, where).values():
        read_values(table, sources, where)


def find_sources(
    columns: Sequence[str], model: Sequence[str], mapping: Mapping[str, str], where: str
) -> dict[str, list[str]]:
    """Find the columns that say whether a label is present.

    Args:
        columns: Of the table.
        model: The labels.
        mapping: Label by column, or by COLUMN:CODE.
        where: What a message calls the table.

    Returns:
        By label, its columns or COLUMN:CODE; labels without any are left out.

    Raises:
        EcgpipeError: The mapping names an unknown column or label, or no label has a column.
    """
    sources: dict[str, list[str]] = {name: [name] for name in model if name in columns}
    for source, label in mapping.items():
        if label not in model:
            raise EcgpipeError(f"mapping: {label!r} is no label of this run's; {suggest_name(label, model)}")
        if _split_code(source, columns) is None:
            raise EcgpipeError(
                f"mapping: {source!r} is no column of {where.rstrip(',')}; {suggest_name(source, columns)}"
            )
        if source not in sources.get(label, []):
            sources.setdefault(label, []).append(source)
    if not sources:
        raise EcgpipeError(
            f"truth: no column of {where} has the name of a label of the model; map them, in the settings by "
            "evaluation: {mapping: {1dAVb: 1st degree atrioventricular block}}, in a command by --map '1dAVb=1st "
            "degree atrioventricular block'. Columns: " + (", ".join(columns[1:]) or "none")
        )
    return sources


def name_columns(sources: Mapping[str, Sequence[str]], columns: Sequence[str]) -> list[str]:
    """Name the columns that some sources, as of `find_sources`, are in; `columns` are those of the table."""
    split = (_split_code(source, columns) for of_label in sources.values() for source in of_label)
    return list(dict.fromkeys(column for column, _ in filter(None, split)))


def read_values(table: pa.Table, sources: Sequence[str], where: str) -> np.ndarray:
    """Read a label from its columns: present if in one of them, absent if in none, unknown if some are empty.

    Args:
        table: With `record_id`.
        sources: Columns or COLUMN:CODE.
        where: What a message calls the table.

    Returns:
        (rows,) float64: 1, 0 or NaN.

    Raises:
        EcgpipeError: A value is neither 0 nor 1.
    """
    values = np.stack([_read_source(table, source, where) for source in sources])  # (sources, rows)
    is_present = (values == 1).any(axis=0)
    is_unknown = np.isnan(values).any(axis=0)
    return np.where(is_present, 1.0, np.where(is_unknown, np.nan, 0.0))


def suggest_name(name: str, names: Sequence[str]) -> str:
    """Say which of some names was probably meant, or all of them."""
    folded = {known_name.casefold(): known_name for known_name in names}
    close = [folded[match] for match in difflib.get_close_matches(name.casefold(), folded, n=1)]
    return f"did you mean {close[0]!r}?" if close else f"there are {', '.join(names) or 'none'}"


def _split_code(source: str, columns: Sequence[str]) -> tuple[str, str | None] | None:
    """Split COLUMN:CODE in a column and the code to look for in it; None where there is no such column."""
    if source in columns:
        return source, None
    column, _, code = source.rpartition(":")
    return (column, code) if column in columns and code else None


def _read_source(table: pa.Table, source: str, where: str) -> np.ndarray:
    """(rows,) float64: 1, 0 or NaN."""
    column_and_code = _split_code(source, table.column_names)
    assert column_and_code is not None  # noqa: S101, `find_sources` has checked it
    name, code = column_and_code
    values = table[name].combine_chunks()
    if code is not None:
        pattern = rf"(?:^|[^\w.\-]){re.escape(code)}(?:[^\w.\-]|$)"
        has_code = pc.match_substring_regex(_lists_as_text(values), pattern)
        return np.asarray(pc.cast(has_code, pa.float64()).to_numpy(zero_copy_only=False), float)
    texts = pc.utf8_lower(pc.utf8_trim_whitespace(normalized_text.as_text(values, name)))
    is_positive = pc.is_in(texts, pa.array(POSITIVE)).to_numpy(zero_copy_only=False)
    is_negative = pc.is_in(texts, pa.array(NEGATIVE)).to_numpy(zero_copy_only=False)
    is_empty = pc.fill_null(pc.equal(texts, ""), True).to_numpy(zero_copy_only=False)
    invalid = np.flatnonzero(~(is_positive | is_negative | is_empty))
    if len(invalid):
        row = int(invalid[0])
        raise EcgpipeError(
            f"truth: {table['record_id'][row].as_py()!r} has {values[row].as_py()!r} in the column {name!r} of {where} "
            "but a true label is 1, 0 or empty"
        )
    return np.where(is_positive, 1.0, np.where(is_negative, 0.0, np.nan))


def _lists_as_text(values: pa.Array) -> pa.Array:
    """Lists of codes as text."""
    if pa.types.is_list(values.type) or pa.types.is_large_list(values.type):
        return pc.binary_join(pc.cast(values, pa.list_(pa.string())), " ")
    return normalized_text.as_text(values)
