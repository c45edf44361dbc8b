"""Collect what the page's map and tables hold: a row for each recording, and a point for each segment.

A run up to a bound is shown completely. Of a larger one the page holds a random sample of the segments with their
recordings, the first of the recordings that were not used, and the recordings that are shown with their leads; behind
the sample a density of all segments is drawn.
"""

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ecgpipe.core import parquet, schemas
from ecgpipe.core.parquet import sample
from ecgpipe.readers import LEADS
from ecgpipe.report import deidentify
from ecgpipe.report.column_titles import TITLES

# Skipped and failed recordings that have a row in the page, at most.
MOST_UNUSED = 5_000

# The step of probabilities, which have 16 bits; and what a recording that was not used has instead.
PROBABILITY_STEP = 1e-4
NO_PROBABILITY = 65_535

# A text column of the inputs with more values than this is a description, not a category.
MOST_VALUES = 200

# Columns of the inputs' tables in the page, at most: the first ones.
MOST_COLUMNS = 40

# Squares of the density along each axis.
SQUARES = 256

# The columns of true labels, by label, and whether a recording was evaluated.
TRUE_PREFIX = "true: "
EVALUATED = "evaluated"

# Columns of the records in the page, if they have values, by the group that the table shows.
ACCOUNT = ("status", "reason", "format", "sample_rate", "duration_s", "n_segments", "discarded_s")
QUALITY = (
    *("lead_suspicion", "clipped_leads", "flat_leads", "flat_s", "constant_leads", "missing_leads", "derived_leads"),
    *("einthoven_residual", "goldberger_residual", *(f"amplitude_mv_{lead}" for lead in LEADS)),
)


class Atlas(NamedTuple):
    """Rows and points, for `page_data.pack`."""

    rows: dict[str, Any]  # names, columns, labels, probabilities
    points: dict[str, Any]  # row, segment, x, y, density
    n_points: int  # of all segments
    row_of: dict[str, int]  # by record id


def collect(
    umap: Path,
    predictions: Sequence[Path],
    records: Sequence[Path],
    labels: Sequence[str],
    shown: Collection[str],
    most: int,
    paths: bool,
    columns: Sequence[str] | None = None,
    true_labels: Path | None = None,
) -> Atlas:
    """Collect the rows and points of the page.

    Args:
        umap: `umap/umap.parquet`.
        predictions: All `predictions/part-*.parquet`, in order.
        records: All `records/shard-*.parquet`, in order.
        labels: Of the model, in its order.
        shown: The recordings that are shown with their leads, which have a row in any case.
        most: Points at most.
        paths: Whether recordings are called by their ids.
        columns: Of the inputs' tables, which to take along; None for all that are numbers or categories.
        true_labels: `evaluation/true_labels.parquet`, if there is one.

    Returns:
        Rows in the order of the records, points in the order of the map.
    """
    points, total = sample(umap, most)
    wanted = pa.array([*dict.fromkeys([*points["record_id"].unique().to_pylist(), *shown])], pa.string())
    table, names = _read_rows(records, wanted, paths)
    ids = table["record_id"].combine_chunks()
    table_columns = [name for name in table.column_names if name not in schemas.RECORDS.names]
    taken = table_columns[:MOST_COLUMNS] if columns is None else [name for name in table_columns if name in columns]
    groups = {"account": ACCOUNT, "quality": QUALITY, "device": schemas.DEVICE, "metadata": taken}
    columns_of_page = [
        encode_column(table, name, group)
        for group, names_of_group in groups.items()
        for name in names_of_group
        if name in table.column_names
    ]
    columns_of_page += encode_true_labels(true_labels, ids, labels) if true_labels else []
    row = pc.index_in(points["record_id"], ids).to_numpy().astype(np.uint32)  # (points,)
    return Atlas(
        rows={
            "names": names,
            "columns": [encoded for encoded in columns_of_page if encoded is not None],
            "labels": list(labels),
            "probabilities": list(read_probabilities(predictions, ids, labels)),
        },
        points={
            "row": row,
            "segment": points["segment"].to_numpy().astype(np.uint16),
            "x": points["x"].to_numpy().astype(np.float32),
            "y": points["y"].to_numpy().astype(np.float32),
            "density": _count_density(umap) if total > most else None,
        },
        n_points=total,
        row_of={record_id: number for number, record_id in enumerate(ids.to_pylist())},
    )


def _count_density(umap: Path) -> dict[str, Any]:
    """Count all segments in each square of the map, row by row; with the squares' edges."""
    least, greatest = np.full(2, np.inf), np.full(2, -np.inf)
    for places in _read_places(umap):
        least, greatest = np.minimum(least, places.min(axis=0)), np.maximum(greatest, places.max(axis=0))
    counts = np.zeros((SQUARES, SQUARES))
    edges = [np.linspace(low, high, SQUARES + 1) for low, high in zip(least, greatest, strict=True)]
    for places in _read_places(umap):
        counts += np.histogram2d(places[:, 0], places[:, 1], edges)[0]
    return {"counts": counts.T.astype(np.float32).ravel(), "x": edges[0], "y": edges[1]}  # (y, x)


def _read_places(umap: Path) -> Iterator[np.ndarray]:
    for batch in parquet.batches([umap], ["x", "y"]):
        yield np.stack([batch["x"].to_numpy(), batch["y"].to_numpy()], axis=1)  # (points, 2)


def _read_rows(records: Sequence[Path], wanted: pa.Array, paths: bool) -> tuple[pa.Table, list[str]]:
    """Read the records' rows of the wanted recordings and of the first unused ones, and name each."""
    tables: list[pa.Table] = []
    names: list[str] = []
    unused = done = 0
    in_page = {"record_id", *ACCOUNT, *QUALITY, *schemas.DEVICE}
    for path in records:
        there = pq.read_schema(path).names
        table = pq.read_table(path, columns=[n for n in there if n in in_page or n not in schemas.RECORDS.names])
        not_used = pc.not_equal(table["status"], "ok").to_numpy()
        counted = unused + np.cumsum(not_used)
        keep = pc.is_in(table["record_id"], wanted).to_numpy() | (not_used & (counted <= MOST_UNUSED))
        unused += int(not_used.sum())
        kept = table.filter(pa.array(keep))
        if paths:
            names += kept["record_id"].to_pylist()
        else:
            names += [deidentify.name_by_row(done + place + 1) for place in np.flatnonzero(keep).tolist()]
            reasons = [reason and deidentify.generalise(reason) for reason in kept["reason"].to_pylist()]
            kept = kept.set_column(kept.column_names.index("reason"), "reason", pa.array(reasons, pa.string()))
        done += len(table)
        tables.append(kept.replace_schema_metadata(None))
    return pa.concat_tables(tables, promote_options="permissive").combine_chunks(), names


def read_probabilities(predictions: Sequence[Path], ids: pa.Array, labels: Sequence[str]) -> Iterator[np.ndarray]:
    """Read for each label the probability of some recordings, in steps of PROBABILITY_STEP.

    Args:
        predictions: All `predictions/part-*.parquet`, in order.
        ids: Record ids, each once.
        labels: The labels.

    Yields:
        (recordings,) uint16; NO_PROBABILITY if there is none.
    """
    steps = np.full((len(labels), len(ids)), NO_PROBABILITY, np.uint16)
    for batch in parquet.batches(predictions, ["record_id", *labels]) if labels else ():
        rows = pc.index_in(batch["record_id"], ids)
        is_wanted = rows.is_valid()
        for values, label in zip(steps, labels, strict=True):
            numbers = np.nan_to_num(batch[label].filter(is_wanted).to_numpy(), nan=NO_PROBABILITY * PROBABILITY_STEP)
            values[rows.drop_null().to_numpy()] = np.round(numbers / PROBABILITY_STEP)
    yield from steps


def encode_true_labels(true_labels: Path, ids: pa.Array, labels: Sequence[str]) -> list[dict[str, Any]]:
    """Encode the true labels of some recordings, and whether each was evaluated, as columns of yes and no.

    Args:
        true_labels: `evaluation/true_labels.parquet`.
        ids: Record ids, each once.
        labels: Of the model.

    Returns:
        Of each label that has a column in the file, and of the evaluation, what `encode_column` gives, in the group
        `truth`.
    """
    known = [name for name in labels if name in pq.read_schema(true_labels).names]
    kept = [
        batch.filter(pc.is_in(batch["record_id"], value_set=ids))
        for batch in parquet.batches([true_labels], ["record_id", "is_evaluated", *known])
    ]
    table = pa.Table.from_batches(kept).combine_chunks()
    place = pc.index_in(ids, table["record_id"].combine_chunks())
    encoded = []
    for name, title in {"is_evaluated": EVALUATED, **{name: f"{TRUE_PREFIX}{name}" for name in known}}.items():
        has_label = pc.cast(table[name].combine_chunks().take(place), pa.uint8())  # (recordings,) null: unknown
        codes = pc.fill_null(pc.add(has_label, pa.scalar(1, pa.uint8())), 0).to_numpy()
        encoded.append({"name": title, "group": "truth", "codes": codes.astype(np.uint8), "values": ["no", "yes"]})
    return encoded


def encode_column(table: pa.Table, name: str, group: str) -> dict[str, Any] | None:
    """Encode a column for the page: numbers as float32 or float64, anything else as a code for each of its values.

    Args:
        table: Rows of the records.
        name: Of the column.
        group: Of the page's table, in which it is shown.

    Returns:
        `name`, `group`, `title` if it has one, and either `numbers`, NaN if there is none, or `codes` with `values`,
        where code 0 is none. None for a column without a value, or with texts that are no categories.
    """
    values = table[name].combine_chunks()
    kind = values.type
    if values.null_count == len(values):
        return None
    head = {"name": name, "group": group, **({"title": TITLES[name]} if name in TITLES else {})}
    if pa.types.is_integer(kind) or pa.types.is_floating(kind):
        numbers = pc.cast(values, pa.float64()).to_numpy(zero_copy_only=False)
        return {**head, "numbers": numbers.astype(np.float64 if _is_large(values) else np.float32)}
    if pa.types.is_list(kind):
        if not pa.types.is_string(kind.value_type):
            return None
        joined = pc.binary_join(values, " ")
        values = pc.if_else(pc.equal(joined, ""), pa.scalar(None, pa.string()), joined)
        if values.null_count == len(values):
            return None
    try:
        values = pc.cast(values, pa.string())
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        return None
    dictionary = values.dictionary_encode()
    if len(dictionary.dictionary) > MOST_VALUES and group == "metadata":
        return None
    codes = pc.fill_null(pc.add(pc.cast(dictionary.indices, pa.int64()), 1), 0).to_numpy()
    smallest = np.uint8 if len(dictionary.dictionary) < 2**8 else np.uint32
    return {**head, "codes": codes.astype(smallest), "values": dictionary.dictionary.to_pylist()}


def _is_large(values: pa.Array) -> bool:
    """Whether there are integers, such as a patient's number, that float32 would round."""
    return pa.types.is_integer(values.type) and (pc.max(pc.abs(pc.cast(values, pa.float64()))).as_py() or 0) > 2**24
