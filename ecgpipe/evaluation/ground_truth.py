"""True labels, and what else is known of recordings, beside a run's predictions: joined by record id, never by row."""

import argparse
import difflib
import logging
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ecgpipe.core import identity, provenance, schemas
from ecgpipe.core.errors import EcgpipeError
from ecgpipe.inputs import input_tables
from ecgpipe.models import labels

logger = logging.getLogger(__name__)

# How tables write that a label is there or not, in lower case.
POSITIVE = ("1", "1.0", "true", "t", "yes", "y")
NEGATIVE = ("0", "0.0", "false", "f", "no", "n")

# Where true labels are without options that say it.
OF_RECORDS = "the columns of the inputs' tables, in records/"
OF_RUN = "what the run's settings say, evaluation.truth and mapping, or else the columns of records/"

# Ids that a message names.
NAMED = 3


class Truth(NamedTuple):
    """Recordings and what is known of them; those that have a prediction, in the order of the predictions."""

    record_ids: pa.Array  # (recordings,) strings, each once
    names: tuple[str, ...]  # labels that a column was found for, in the model's order
    true: np.ndarray  # (recordings, names) float32: 1 there, 0 not there, NaN where nothing is known
    probability: np.ndarray  # (recordings, names) float64, what the run predicted; (recordings, 0) if not asked for
    columns: dict[str, pa.Array]  # what was asked for besides, (recordings,) strings each, null where nothing is known
    account: dict[str, int]  # `predicted`, `with_truth`, `without_truth`, `without_prediction`
    left_out: tuple[str, ...]  # labels of the model without a column
    unpredicted: pa.Array  # strings, the ids of those that have a true label and no prediction


def add_arguments(parser: argparse.ArgumentParser, default: str = OF_RECORDS) -> None:
    """The options that say where the true labels are, and what holds without any."""
    parser.add_argument(
        "--truth",
        type=Path,
        help=f"CSV or Parquet table with a record_id and a column of 0 and 1 per label (default: {default})",
    )
    parser.add_argument(
        "--map",
        nargs="+",
        default=[],
        metavar="COLUMN=LABEL",
        help="what a column is called as a label; COLUMN:CODE=LABEL where the column lists codes. Columns that are "
        "called as a label need none",
    )


def mapping(pairs: Sequence[str]) -> dict[str, str]:
    """Read `--map`.

    Args:
        pairs: Texts COLUMN=LABEL.

    Returns:
        Label by column.

    Raises:
        EcgpipeError: One has no column or no label.
    """
    found = {}
    for pair in pairs:
        column, _, label = pair.rpartition("=")
        if not column or not label:
            raise EcgpipeError(f"--map: {pair!r} is not COLUMN=LABEL; give e.g. 'AF=Atrial fibrillation'")
        found[column] = label
    return found


def of_run(args: argparse.Namespace, settings: Mapping[str, Any]) -> tuple[Path | None, dict[str, str]]:
    """The table of true labels and the mapping: what the options say, or else what the run's own settings say.

    Args:
        args: With the options of `add_arguments`.
        settings: Of a run, as in its `run.json`.

    Returns:
        The table, or None for the columns of the inputs' tables; and label by column.
    """
    if args.truth or args.map:
        return args.truth, mapping(args.map)
    evaluation = settings.get("evaluation") or {}
    table = evaluation.get("truth")
    if table or evaluation.get("mapping"):
        logger.info("true labels as in the run's settings, evaluation")
    return Path(table) if table else None, dict(evaluation.get("mapping") or {})


def read(
    predictions: Sequence[Path],
    records: Sequence[Path],
    table: Path | None = None,
    mapped: Mapping[str, str] | None = None,
    columns: Sequence[str] = (),
) -> Truth:
    """Read the true labels of a run's recordings.

    Args:
        predictions: All `predictions/part-*.parquet`, in order.
        records: All `records/shard-*.parquet`, in order, with the columns of the inputs' tables.
        table: CSV or Parquet with the column `record_id`; None to take the labels from `records`.
        mapped: Label by column, or by COLUMN:CODE for a column that lists codes, as PTB-XL's `scp_codes` or the `dx` of
            the PhysioNet Challenges: there is the label whose code is among them. Where several are one label, it is
            there if one of them is. Columns that are called as a label are taken too.
        columns: What is wanted besides, of `table` or else of `records`, e.g. the patient.

    Returns:
        The recordings that have a prediction.

    Raises:
        EcgpipeError: A table cannot be read, has no `record_id` or one twice, a column or label is unknown, no column
            is a label, a value is neither 0 nor 1, or no recording has both a prediction and a true label.
    """
    model = labels.label_columns(pq.read_schema(predictions[0]).names)
    if not model:
        raise EcgpipeError("truth: this run's checkpoint has no head: it predicted no labels to hold the truth against")
    predicted = pa.concat_tables(pq.read_table(path, columns=["record_id", *model]) for path in predictions)
    heads = provenance.origin(pq.read_schema(predictions[0])).get("heads", {})
    alias = {name: told.get("label", name) for name, told in heads.items()}
    found = of_recordings(predicted["record_id"].combine_chunks(), model, records, table, mapped, columns, alias)
    probability = np.stack([predicted[name].to_numpy().astype(np.float64) for name in found.names], axis=1)
    return found._replace(probability=probability)


def of_recordings(
    record_ids: pa.Array,
    model: Sequence[str] | None,
    records: Sequence[Path],
    table: Path | None = None,
    mapped: Mapping[str, str] | None = None,
    columns: Sequence[str] = (),
    alias: Mapping[str, str] = MappingProxyType({}),
) -> Truth:
    """Read the true labels of some recordings, whether or not the model knows these labels.

    Args:
        record_ids: (recordings,) strings, each once.
        model: The labels that there are; None: those of `mapped`, in its order.
        records: As for `read`, and so are the others.
        table: The same.
        mapped: The same.
        columns: The same.
        alias: By label another one that has the same true labels, where no column is its own: a head's label that the
            model has too.

    Returns:
        The recordings of `record_ids`, with `probability` (recordings, 0).

    Raises:
        EcgpipeError: As of `read`.
    """
    mapped = mapped or {}
    model = list(dict.fromkeys(mapped.values())) if model is None else model
    return joined(record_ids, model, _own(records), table, mapped, columns, alias)


def joined(
    record_ids: pa.Array,
    model: Sequence[str],
    own: pa.Table,
    table: Path | None,
    mapped: Mapping[str, str],
    columns: Sequence[str] = (),
    alias: Mapping[str, str] = MappingProxyType({}),
    inputs: str = "records/, which has the columns of the inputs' tables,",
) -> Truth:
    """The same of recordings whose own columns are at hand.

    Args:
        record_ids: As for `of_recordings`, and so are the others.
        model: The same.
        own: `record_id`, and the columns of the inputs' tables.
        table: The same.
        mapped: The same.
        columns: The same.
        alias: The same.
        inputs: What a message calls the inputs' columns.

    Returns:
        The recordings.

    Raises:
        EcgpipeError: As of `read`.
    """
    given = read_table(table) if table else own
    where = str(table) if table else inputs
    known_as = identity.as_text(record_ids)  # as `given` writes them
    first = _twice(known_as)
    if first is not None:
        raise EcgpipeError(
            f"truth: several of the run's recordings are called {first!r}, with .0 or without; rename one"
        )
    place = pc.index_in(known_as, given["record_id"].combine_chunks(), skip_nulls=True)  # (recordings,) rows, or null

    sources = _sources(given.column_names, model, mapped, where)
    sources = {name: sources[label] for name, label in alias.items() if label in sources} | sources
    names = tuple(name for name in model if name in sources)
    true = np.full((len(record_ids), len(names)), np.nan, np.float32)
    anything = np.zeros(len(given), bool)  # (rows,) of which something is known
    for number, name in enumerate(names):
        values = np.stack([_values(given, source, where) for source in sources[name]])  # (sources, rows)
        one = _either(values)  # (rows,)
        anything |= ~np.isnan(one)
        rows = place.is_valid().to_numpy(zero_copy_only=False)
        true[rows, number] = one[place.drop_null().to_numpy()]
    known = ~np.isnan(true).all(axis=1)
    if not known.any():
        raise EcgpipeError(_nothing_in_common(record_ids, given["record_id"], where))
    beside = {name: _beside(name, record_ids, given, own, place, where) for name in columns}
    unpredicted = pc.and_(pa.array(anything), pc.invert(pc.is_in(given["record_id"].combine_chunks(), known_as)))
    return Truth(
        record_ids=record_ids,
        names=names,
        true=true,
        probability=np.empty((len(record_ids), 0)),
        columns=beside,
        account={
            "predicted": len(record_ids),
            "with_truth": int(known.sum()),
            "without_truth": int((~known).sum()),
            "without_prediction": int(anything.sum() - known.sum()),
        },
        left_out=tuple(name for name in model if name not in sources),
        unpredicted=given["record_id"].combine_chunks().filter(unpredicted),
    )


def chosen(truth: Truth, rows: np.ndarray) -> Truth:
    """Some of the recordings.

    Args:
        truth: Recordings.
        rows: (recordings,) bool.

    Returns:
        Those for which it is true; the account stays that of all.
    """
    mask = pa.array(rows)
    return truth._replace(
        record_ids=truth.record_ids.filter(mask),
        true=truth.true[rows],
        probability=truth.probability[rows],
        columns={name: values.filter(mask) for name, values in truth.columns.items()},
    )


def equal(values: pa.Array, value: str) -> np.ndarray:
    """Where a column says a value, written as text: 9 finds 9 and 9.0, true finds True.

    Args:
        values: (recordings,) of a table.
        value: What to look for.

    Returns:
        (recordings,) bool.

    Raises:
        EcgpipeError: It is not among them.
    """
    texts = identity.as_text(values)
    found = pc.fill_null(pc.equal(texts, identity.as_text(pa.array([value]))[0]), False).to_numpy(zero_copy_only=False)
    if not found.any():
        there = sorted(filter(None, texts.unique().to_pylist()))[:10]
        raise EcgpipeError(f"split: no recording has {value!r}; there are {', '.join(there) or 'no values'}")
    return np.asarray(found, bool)


def in_split(found: Truth, column: str | None, value: str | None) -> Truth:
    """The recordings of a split, or all, of which some label is known.

    Args:
        found: Recordings, with `column` among their columns.
        column: Which says the split; None for all.
        value: What it says of those that are wanted.

    Returns:
        Those.

    Raises:
        EcgpipeError: There is none.
    """
    rows = ~np.isnan(found.true).all(axis=1)
    if column is not None and value is not None:
        rows &= equal(found.columns[column], value)
        if not rows.any():
            raise EcgpipeError(
                f"split: of no recording with {column} = {value} any true label is known; choose another value"
            )
    return chosen(found, rows)


def without(found: Truth, names: Collection[str]) -> Truth:
    """The same recordings without some labels."""
    kept = [number for number, name in enumerate(found.names) if name not in names]
    return found._replace(
        names=tuple(found.names[number] for number in kept),
        true=found.true[:, kept],
        probability=found.probability[:, kept],
        left_out=tuple(name for name in found.left_out if name not in names),
    )


def where_predicted(found: Truth) -> Truth:
    """The same recordings, their truth unknown where the prediction is not finite: one mask for all measures."""
    return found._replace(true=np.where(np.isfinite(found.probability), found.true, np.float32(np.nan)))


def units(patients: pa.Array) -> np.ndarray:
    """Number the patients.

    Args:
        patients: (recordings,) whose each is. Who has none is a patient of their own.

    Returns:
        (recordings,) int64, the same for the same patient.
    """
    codes = identity.as_ids(patients).dictionary_encode().indices.to_numpy(zero_copy_only=False)
    alone = np.isnan(codes.astype(np.float64))
    numbers = np.arange(len(codes)) + len(codes)
    return np.where(alone, numbers, np.nan_to_num(codes)).astype(np.int64)


def column(name: str, record_ids: pa.Array, records: Sequence[Path], table: Path | None = None) -> pa.Array | None:
    """A column of the table of true labels, or else of the records.

    Args:
        name: Of the column.
        record_ids: (recordings,) of the run.
        records: As for `read`, and so is `table`.
        table: The same.

    Returns:
        (recordings,) strings, null where nothing is known; None where there is no such column.
    """
    own = _own(records)
    given = read_table(table) if table else own
    if name not in given.column_names and name not in own.column_names:
        return None
    place = pc.index_in(identity.as_text(record_ids), given["record_id"].combine_chunks(), skip_nulls=True)
    return _beside(name, record_ids, given, own, place, "")


def _own(records: Sequence[Path]) -> pa.Table:
    """The columns of the inputs' tables, as the records carry them."""
    pieces = []
    for path in records:
        names = pq.read_schema(path).names
        own = ["record_id", *(name for name in names if name not in schemas.RECORDS.names)]
        pieces.append(pq.read_table(path, columns=own).replace_schema_metadata(None))
    return pa.concat_tables(pieces, promote_options="permissive").combine_chunks()


def read_table(path: Path) -> pa.Table:
    """A table of true labels, its `record_id` as texts, of which each is there once.

    Raises:
        EcgpipeError: It is no table, or has no column `record_id` or one twice.
    """
    try:
        table = input_tables.read(path, texts=("record_id",)).combine_chunks()
    except ValueError as error:
        raise EcgpipeError(f"truth: {path}: {error}") from error
    if "record_id" not in table.column_names:
        raise EcgpipeError(
            f"truth: {path} has no column record_id, but {', '.join(table.column_names)}; rename the one that has "
            "the ids of records/"
        )
    named = identity.as_ids(table["record_id"], "record_id")
    if named.null_count:
        logger.warning("truth: %s: %s rows have no record_id, and do not count", path, f"{named.null_count:,}")
    table = table.set_column(table.column_names.index("record_id"), "record_id", named).filter(named.is_valid())
    first = _twice(table["record_id"])
    if first is not None:
        raise EcgpipeError(f"truth: {path}: {first!r} stands there twice; each recording has one row")
    return table


def check_labels(table: pa.Table, model: Sequence[str], mapped: Mapping[str, str], where: str) -> None:
    """Refuse a table without labels, a mapping that it cannot fulfil, and values that are neither 0 nor 1.

    Raises:
        EcgpipeError: As of `read`.
    """
    for sources in _sources(table.column_names, model, mapped, where).values():
        for source in sources:
            _values(table, source, where)


def _twice(record_ids: pa.Array | pa.ChunkedArray) -> str | None:
    """An id that is there more than once; None where there is none."""
    counts = pc.value_counts(record_ids)
    twice = counts.filter(pc.greater(counts.field("counts"), 1))
    return str(twice.field("values")[0]) if len(twice) else None


def _sources(there: Sequence[str], model: Sequence[str], mapped: Mapping[str, str], where: str) -> dict[str, list[str]]:
    """By label, the columns (or COLUMN:CODE) that say whether it is there."""
    found: dict[str, list[str]] = {name: [name] for name in model if name in there}
    for source, label in mapped.items():
        if label not in model:
            raise EcgpipeError(f"mapping: {label!r} is no label of this run's; {_close(label, model)}")
        if _column(source, there) is None:
            raise EcgpipeError(f"mapping: {source!r} is no column of {where.rstrip(',')}; {_close(source, there)}")
        if source not in found.get(label, []):
            found.setdefault(label, []).append(source)
    if not found:
        raise EcgpipeError(
            f"truth: no column of {where} is called as a label of the model; say which is which, in the settings by "
            "evaluation: {mapping: {1dAVb: 1st degree atrioventricular block}}, in a command by --map '1dAVb=1st "
            "degree atrioventricular block'. Columns: " + (", ".join(there[1:]) or "none")
        )
    return found


def _column(source: str, there: Sequence[str]) -> tuple[str, str | None] | None:
    """A column, and the code to look for in it."""
    if source in there:
        return source, None
    column, _, code = source.rpartition(":")
    return (column, code) if column in there and code else None


def _values(table: pa.Table, source: str, where: str) -> np.ndarray:
    """(rows,) float64: 1, 0 or NaN."""
    found = _column(source, table.column_names)
    assert found is not None  # noqa: S101, `_sources` has looked
    name, code = found
    values = table[name].combine_chunks()
    if code is not None:
        there = pc.match_substring_regex(_listing(values), rf"(?:^|[^\w.\-]){re.escape(code)}(?:[^\w.\-]|$)")
        return np.asarray(pc.cast(there, pa.float64()).to_numpy(zero_copy_only=False), float)
    texts = pc.utf8_lower(pc.utf8_trim_whitespace(identity.as_text(values, name)))
    positive = pc.is_in(texts, pa.array(POSITIVE)).to_numpy(zero_copy_only=False)
    negative = pc.is_in(texts, pa.array(NEGATIVE)).to_numpy(zero_copy_only=False)
    empty = pc.fill_null(pc.equal(texts, ""), True).to_numpy(zero_copy_only=False)
    odd = np.flatnonzero(~(positive | negative | empty))
    if len(odd):
        row = int(odd[0])
        raise EcgpipeError(
            f"truth: {table['record_id'][row].as_py()!r} has {values[row].as_py()!r} in the column {name!r} of {where} "
            "but a true label is 1, 0 or empty"
        )
    return np.where(positive, 1.0, np.where(negative, 0.0, np.nan))


def _either(values: np.ndarray) -> np.ndarray:
    """(sources, rows) to (rows,): there if in one of the sources, not there if in none, unknown if some are silent."""
    there = (values == 1).any(axis=0)
    silent = np.isnan(values).any(axis=0)
    return np.where(there, 1.0, np.where(silent, np.nan, 0.0))


def _beside(name: str, record_ids: pa.Array, given: pa.Table, own: pa.Table, place: pa.Array, where: str) -> pa.Array:
    """A column of the table, or else of the records, for each recording."""
    if name in given.column_names:
        return identity.as_text(given[name], name).take(place)
    if name in own.column_names:
        return identity.as_text(own[name], name).take(pc.index_in(record_ids, own["record_id"].combine_chunks()))
    there = [*given.column_names[1:], *own.column_names[1:]]
    raise EcgpipeError(f"{name!r} is no column of {where.rstrip(',')}; {_close(name, there)}")


def _listing(values: pa.Array) -> pa.Array:
    """Lists of codes as text."""
    if pa.types.is_list(values.type) or pa.types.is_large_list(values.type):
        return pc.binary_join(pc.cast(values, pa.list_(pa.string())), " ")
    return identity.as_text(values)


def _close(name: str, there: Sequence[str]) -> str:
    folded = {one.casefold(): one for one in there}
    close = [folded[one] for one in difflib.get_close_matches(name.casefold(), folded, n=1)]
    return f"did you mean {close[0]!r}?" if close else f"there are {', '.join(there) or 'none'}"


def _nothing_in_common(record_ids: pa.Array, given: pa.ChunkedArray, where: str) -> str:
    ours = ", ".join(map(repr, record_ids[:NAMED].to_pylist()))
    theirs = ", ".join(map(repr, given[:NAMED].to_pylist()))
    return (
        f"truth: no recording has both a prediction and a true label: the run's are called {ours}, those of {where} "
        f"{theirs}; write the ids as in records/"
    )
