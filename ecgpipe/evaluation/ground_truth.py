"""Match true labels, and other columns, to the recordings of a run: by record id, never by row."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ecgpipe.core import normalized_text, parquet, provenance
from ecgpipe.core.errors import EcgpipeError
from ecgpipe.evaluation import truth_tables
from ecgpipe.evaluation.truth_tables import OwnColumns, Source
from ecgpipe.models import labels

# Ids that a message names.
NAMED = 3

# How a message calls the columns of the inputs' tables.
RECORDS_COLUMNS = "records/, which has the columns of the inputs' tables,"


class Truth(NamedTuple):
    """Recordings and their true labels; recordings with a prediction, in the order of the predictions."""

    record_ids: pa.Array  # (recordings,) strings, each once
    names: tuple[str, ...]  # labels that have a column, in the model's order
    true: np.ndarray  # (recordings, names) float32: 1 present, 0 absent, NaN unknown
    probability: np.ndarray  # (recordings, names) float64, what the run predicted; (recordings, 0) if not asked for
    columns: dict[str, pa.Array]  # the other columns asked for, (recordings,) strings each, null where unknown
    counts: dict[str, int]  # `predicted`, `with_truth`, `without_truth`, `without_prediction`
    left_out: tuple[str, ...]  # labels of the model without a column
    unpredicted: pa.Array  # strings, the ids of recordings that have a true label and no prediction


def read_truth(
    predictions: Sequence[Path], records: Sequence[Path], source: Source, columns: Sequence[str] = ()
) -> Truth:
    """Read the true labels of a run's recordings.

    Args:
        predictions: All `predictions/part-*.parquet`, in order.
        records: All `records/shard-*.parquet`, in order, with the columns of the inputs' tables.
        source: Of the labels. A mapping of COLUMN:CODE is for a column that lists codes, as PTB-XL's `scp_codes` or the
            `dx` of the PhysioNet Challenges: the label is present if its code is among them. Where several columns are
            one label, it is present if one of them says so. Columns with the name of a label need no mapping.
        columns: Others to read, of the table or else of `records`, e.g. the patient.

    Returns:
        The recordings that have a prediction.

    Raises:
        EcgpipeError: A table cannot be read, has no `record_id` or one twice, a column or label is unknown, no column
            is a label, a value is neither 0 nor 1, or no recording has both a prediction and a true label.
    """
    model = labels.label_columns(pq.read_schema(predictions[0]).names)
    if not model:
        raise EcgpipeError(
            "truth: this run's checkpoint has no head, so it predicted no labels to evaluate; use a checkpoint with a "
            "head, or train one by `ecgpipe probe`"
        )
    heads = provenance.read_origin(pq.read_schema(predictions[0])).get("heads", {})
    alias = {name: facts.get("label", name) for name, facts in heads.items()}
    truth = read_truth_of(parquet.column(predictions, "record_id"), model, records, source, columns, alias)
    # Last, when the tables that the true labels are from have gone.
    return truth._replace(probability=_read_probabilities(predictions, truth.names, len(truth.record_ids)))


def _read_probabilities(predictions: Sequence[Path], names: Sequence[str], recordings: int) -> np.ndarray:
    """(recordings, names) float64, each label in one piece of memory."""
    probability = np.empty((recordings, len(names)), order="F")
    done = 0
    for batch in parquet.batches(predictions, names):
        for number, name in enumerate(names):
            probability[done : done + len(batch), number] = batch[name].to_numpy(zero_copy_only=False)
        done += len(batch)
    return probability


def read_truth_of(
    record_ids: pa.Array,
    model: Sequence[str] | None,
    records: Sequence[Path],
    source: Source,
    columns: Sequence[str] = (),
    alias: Mapping[str, str] = MappingProxyType({}),
) -> Truth:
    """Read the true labels of some recordings, whether or not the model knows these labels.

    Args:
        record_ids: (recordings,) strings, each once.
        model: The labels; None: those of the mapping, in its order.
        records: As for `read_truth`.
        source: As for `read_truth`.
        columns: As for `read_truth`.
        alias: By label another one that has the same true labels, where no column has its own name: a head's label that
            the model has too.

    Returns:
        The recordings of `record_ids`, with `probability` (recordings, 0).

    Raises:
        EcgpipeError: As of `read_truth`.
    """
    model = list(dict.fromkeys(source.mapping.values())) if model is None else model
    return match(record_ids, model, OwnColumns(records), source, columns, alias)


def match(
    record_ids: pa.Array,
    model: Sequence[str],
    own: pa.Table | OwnColumns,
    source: Source,
    columns: Sequence[str] = (),
    alias: Mapping[str, str] = MappingProxyType({}),
    inputs: str = RECORDS_COLUMNS,
) -> Truth:
    """Match true labels to recordings whose own columns are at hand.

    Args:
        record_ids: (recordings,) strings, each once.
        model: The labels.
        own: `record_id`, and the columns of the inputs' tables.
        source: As for `read_truth`.
        columns: As for `read_truth`.
        alias: As for `read_truth_of`.
        inputs: What a message calls the inputs' columns.

    Returns:
        The recordings.

    Raises:
        EcgpipeError: As of `read_truth`.
    """
    given = truth_tables.read_table(source.table) if source.table else own
    where = str(source.table) if source.table else inputs
    ids_as_text = normalized_text.as_text(record_ids)  # as `table` writes them
    repeated = truth_tables.find_repeated(ids_as_text)
    if repeated is not None:
        raise EcgpipeError(
            f"truth: several of the run's recordings are called {repeated!r}, with .0 or without; rename one"
        )
    sources = truth_tables.find_sources(given.column_names, model, source.mapping, where)
    sources = {name: sources[label] for name, label in alias.items() if label in sources} | sources
    used = ["record_id", *truth_tables.name_columns(sources, given.column_names), *columns]
    table = given.select([name for name in dict.fromkeys(used) if name in given.column_names])
    table_ids = table["record_id"].combine_chunks()
    row = pc.index_in(ids_as_text, table_ids, skip_nulls=True)  # (recordings,) of the table, or null
    names = tuple(name for name in model if name in sources)
    true = np.full((len(record_ids), len(names)), np.nan, np.float32, order="F")
    has_label = np.zeros(len(table), bool)  # (rows,) whether any label is known
    has_row = row.is_valid().to_numpy(zero_copy_only=False)  # (recordings,)
    for number, name in enumerate(names):
        values = truth_tables.read_values(table, sources[name], where)  # (rows,)
        has_label |= ~np.isnan(values)
        true[has_row, number] = values[row.drop_null().to_numpy()]
    with_truth = ~np.isnan(true).all(axis=1)
    if not with_truth.any():
        raise EcgpipeError(_nothing_in_common(record_ids, table_ids, where))
    is_unpredicted = pc.and_(pa.array(has_label), pc.invert(pc.is_in(table_ids, ids_as_text)))
    return Truth(
        record_ids=record_ids,
        names=names,
        true=true,
        probability=np.empty((len(record_ids), 0)),
        columns=_match_columns(columns, record_ids, table, own, row, where, given.column_names),
        counts={
            "predicted": len(record_ids),
            "with_truth": int(with_truth.sum()),
            "without_truth": int((~with_truth).sum()),
            "without_prediction": int(has_label.sum() - with_truth.sum()),
        },
        left_out=tuple(name for name in model if name not in sources),
        unpredicted=table_ids.filter(is_unpredicted),
    )


def select_rows(truth: Truth, rows: np.ndarray) -> Truth:
    """Select some of the recordings.

    Args:
        truth: Recordings.
        rows: (recordings,) bool.

    Returns:
        The recordings for which it is true; `counts` stays as of all.
    """
    if rows.all():
        return truth
    mask = pa.array(rows)
    return truth._replace(
        record_ids=truth.record_ids.filter(mask),
        true=take_rows(truth.true, rows),
        probability=take_rows(truth.probability, rows),
        columns={name: values.filter(mask) for name, values in truth.columns.items()},
    )


def take_rows(values: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Take some rows of (recordings, names), each column in one piece of memory; `values` itself where it is all."""
    if rows.all():
        return values
    taken = np.empty((int(rows.sum()), values.shape[1]), values.dtype, order="F")
    for column in range(values.shape[1]):
        taken[:, column] = values[rows, column]
    return taken


def find_value(values: pa.Array, value: str) -> np.ndarray:
    """Find where a column has a value, written as text: 9 finds 9 and 9.0, true finds True.

    Args:
        values: (recordings,) of a table.
        value: What to look for.

    Returns:
        (recordings,) bool.

    Raises:
        EcgpipeError: No recording has it.
    """
    texts = normalized_text.as_text(values)
    is_equal = pc.fill_null(pc.equal(texts, normalized_text.as_text(pa.array([value]))[0]), False)
    rows = is_equal.to_numpy(zero_copy_only=False)
    if not rows.any():
        values_there = sorted(filter(None, texts.unique().to_pylist()))[:10]
        raise EcgpipeError(f"split: no recording has {value!r}; there are {', '.join(values_there) or 'no values'}")
    return np.asarray(rows, bool)


def select_split(truth: Truth, column: str | None, value: str | None) -> Truth:
    """Select the recordings of a split, or all, that have at least one known label.

    Args:
        truth: Recordings, with `column` among their columns.
        column: The column of the split; None for all recordings.
        value: Its value.

    Returns:
        The recordings.

    Raises:
        EcgpipeError: There is none.
    """
    rows = ~np.isnan(truth.true).all(axis=1)
    if column is not None and value is not None:
        rows &= find_value(truth.columns[column], value)
        if not rows.any():
            raise EcgpipeError(
                f"split: no recording with {column} = {value} has a known true label; choose another value"
            )
    return select_rows(truth, rows)


def drop_labels(truth: Truth, names: Collection[str]) -> Truth:
    """Leave out some labels."""
    kept = [number for number, name in enumerate(truth.names) if name not in names]
    return truth._replace(
        names=tuple(truth.names[number] for number in kept),
        true=truth.true[:, kept],
        probability=truth.probability[:, kept],
        left_out=tuple(name for name in truth.left_out if name not in names),
    )


def mask_unpredicted(truth: Truth) -> Truth:
    """Make true labels unknown where the prediction is not finite: one mask for all metrics."""
    if all(np.isfinite(column).all() for column in truth.probability.T):
        return truth
    true = truth.true.copy(order="F")
    true[~np.isfinite(truth.probability)] = np.nan
    return truth._replace(true=true)


def number_patients(patients: pa.Array) -> np.ndarray:
    """Number the patients.

    Args:
        patients: (recordings,) their ids. A recording without one is a patient of its own.

    Returns:
        (recordings,) int64, the same for the same patient.
    """
    codes = normalized_text.as_ids(patients).dictionary_encode().indices.to_numpy(zero_copy_only=False)
    is_unknown = np.isnan(codes.astype(np.float64))
    own_numbers = np.arange(len(codes)) + len(codes)
    return np.where(is_unknown, own_numbers, np.nan_to_num(codes)).astype(np.int64)


def read_column(name: str, record_ids: pa.Array, records: Sequence[Path], table_path: Path | None) -> pa.Array | None:
    """Read a column of the table of true labels, or else of the records.

    Args:
        name: Of the column.
        record_ids: (recordings,) of the run.
        records: As for `read_truth`.
        table_path: The table of true labels, if there is one.

    Returns:
        (recordings,) strings, null where unknown; None where there is no such column.
    """
    own = OwnColumns(records)
    given = truth_tables.read_table(table_path) if table_path else own
    if name not in given.column_names and name not in own.column_names:
        return None
    table = given.select([used for used in dict.fromkeys(["record_id", name]) if used in given.column_names])
    row = pc.index_in(normalized_text.as_text(record_ids), table["record_id"].combine_chunks(), skip_nulls=True)
    return _match_columns([name], record_ids, table, own, row, "", given.column_names)[name]


def _match_columns(
    names: Sequence[str],
    record_ids: pa.Array,
    table: pa.Table,
    own: pa.Table | OwnColumns,
    row: pa.Array,
    where: str,
    given: Sequence[str],
) -> dict[str, pa.Array]:
    """Columns of the table, of which `row` has the row of each recording and `given` all names, or of the records."""
    for name in names:
        if name not in given and name not in own.column_names:
            there = [*given[1:], *own.column_names[1:]]
            raise EcgpipeError(
                f"{name!r} is no column of {where.rstrip(',')}; {truth_tables.suggest_name(name, there)}"
            )
    matched = {name: normalized_text.as_text(table[name], name).take(row) for name in names if name in given}
    elsewhere = [name for name in names if name not in given]
    if elsewhere:
        others = own.select(["record_id", *elsewhere])
        place = pc.index_in(record_ids, others["record_id"].combine_chunks())
        matched |= {name: normalized_text.as_text(others[name], name).take(place) for name in elsewhere}
    return {name: matched[name] for name in names}


def _nothing_in_common(record_ids: pa.Array, table_ids: pa.Array, where: str) -> str:
    ours = ", ".join(map(repr, record_ids[:NAMED].to_pylist()))
    theirs = ", ".join(map(repr, table_ids[:NAMED].to_pylist()))
    return (
        f"truth: no recording has both a prediction and a true label: the run's are called {ours}, those of {where} "
        f"{theirs}; write the ids as in records/"
    )
