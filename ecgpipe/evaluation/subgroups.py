"""Subgroups of recordings: by the values of a column, or by bands of a number."""

import re
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ecgpipe.core import normalized_text
from ecgpipe.core.errors import EcgpipeError

# A column without edges has at most so many values, each of which is a subgroup.
MOST_VALUES = 30


class Subgroup(NamedTuple):
    """Some of the recordings."""

    column: str  # empty: all recordings
    value: str
    rows: np.ndarray  # (recordings,) bool


def parse(text: str) -> tuple[str, list[float] | None]:
    """Read one of `--subgroups`: a column, and the edges of its bands if it has them.

    Raises:
        EcgpipeError: The edges do not rise.
    """
    column, _, listed = text.rpartition(":")
    if not column or not re.fullmatch(r"[-+.\deE]+(,[-+.\deE]+)*", listed):
        return text, None
    try:
        edges = [float(edge) for edge in listed.split(",")]
    except ValueError:
        return text, None
    if sorted(set(edges)) != edges:
        raise EcgpipeError(f"subgroups: the edges of {text!r} do not rise; give e.g. age:18,40,65,80")
    return column, edges


def split_column(column: str, values: pa.Array, edges: Sequence[float] | None) -> list[Subgroup]:
    """Split recordings by a column: by its values, or by bands. Recordings without a value are in no subgroup.

    Args:
        column: Its name.
        values: (recordings,) of it.
        edges: Where a band begins and the one before ends; None for the values themselves.

    Returns:
        The subgroups with recordings, in order.

    Raises:
        EcgpipeError: A column with edges has a value that is not a number, or one without edges has too many values.
    """
    texts = normalized_text.as_text(values)
    if edges is None:
        names = sorted(filter(None, texts.unique().to_pylist()))
        if len(names) > MOST_VALUES:
            raise EcgpipeError(
                f"subgroups: {column!r} has {len(names):,} values, more than {MOST_VALUES}; of a number give the edges "
                f"of bands, e.g. {column}:18,40,65,80"
            )
        place = pc.index_in(texts, pa.array(names, pa.string())).to_numpy(zero_copy_only=False)  # NaN: none
    else:
        try:
            numbers = pc.cast(pc.if_else(pc.equal(texts, ""), None, texts), pa.float64()).to_numpy(zero_copy_only=False)
        except pa.ArrowInvalid as error:
            raise EcgpipeError(
                f"subgroups: {column!r} has edges, but not only numbers: {error}; leave out the edges, or correct the "
                "value"
            ) from error
        names = [f"below {edges[0]:g}"]
        names += [f"{low:g} to below {high:g}" for low, high in pairwise(edges)]
        names += [f"{edges[-1]:g} and above"]
        place = np.where(np.isnan(numbers), -1, np.searchsorted(edges, numbers, side="right"))
    subgroups = [Subgroup(column, name, place == number) for number, name in enumerate(names)]
    return [subgroup for subgroup in subgroups if subgroup.rows.any()]


def split_columns(columns: Mapping[str, pa.Array], asked: Sequence[str]) -> list[Subgroup]:
    """Split recordings by each of the columns asked for.

    Args:
        columns: (recordings,) by name; columns that are not there are left out.
        asked: As `parse` reads them.

    Returns:
        All subgroups.

    Raises:
        EcgpipeError: As of `parse` and `split_column`.
    """
    subgroups = []
    for column, edges in dict(map(parse, asked)).items():
        if column in columns:
            subgroups += split_column(column, columns[column], edges)
    return subgroups


def count_recordings(subgroups: Sequence[Subgroup], recordings: int) -> dict[str, dict[str, int]]:
    """Count by column the recordings of each of its subgroups, and those without a value as `unknown`."""
    counts: dict[str, dict[str, int]] = {}
    for subgroup in subgroups:
        if subgroup.column:
            counts.setdefault(subgroup.column, {})[subgroup.value] = int(subgroup.rows.sum())
    for by_value in counts.values():
        by_value["unknown"] = recordings - sum(by_value.values())
    return counts
