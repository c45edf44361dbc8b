"""The recordings of several runs side by side, matched by record id and never by their place."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ecgpipe.core.errors import EcgpipeError


class Aligned(NamedTuple):
    """The recordings that at least one of some runs has."""

    ids: pa.Array  # (recordings,) those of the first run in its order, then further ones of the second, and so on
    rows: np.ndarray  # (runs, recordings) int64: where each run has it, -1 where it does not

    @property
    def is_in_all(self) -> np.ndarray:
        """(recordings,) bool: which recordings every run has."""
        return np.asarray((self.rows >= 0).all(axis=0))

    @property
    def missing(self) -> list[int]:
        """Of each run, how many of the recordings it does not have."""
        return [int((rows < 0).sum()) for rows in self.rows]

    def place(self, run: int, values: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
        """Put a run's numbers, which are in its own order, into the common order.

        Args:
            run: Its number.
            values: (its recordings,).
            out: (recordings,) to write to; None for a new array of float64.

        Returns:
            (recordings,), NaN where the run does not have the recording.
        """
        placed: np.ndarray = np.empty(len(self.ids)) if out is None else out
        is_there = self.rows[run] >= 0
        placed[:] = np.nan
        placed[is_there] = values[self.rows[run][is_there]]
        return placed


def align(ids_by_run: Sequence[pa.Array]) -> Aligned:
    """Match the recordings of several runs.

    Args:
        ids_by_run: Of each run its record ids, each once.

    Returns:
        The recordings, each once.

    Raises:
        EcgpipeError: A run has an id twice.
    """
    for ids in ids_by_run:
        if len(ids.unique()) != len(ids):
            counts = pc.value_counts(ids)
            twice = counts.filter(pc.greater(counts.field("counts"), 1)).field("values")[0]
            raise EcgpipeError(f"RUN: the recording {twice.as_py()!r} is there twice; run the workflow to its end")
    every = pa.concat_arrays([pa.array([], pa.string()), *ids_by_run]).unique()
    places = [pc.fill_null(pc.index_in(every, ids), -1).to_numpy().astype(np.int64) for ids in ids_by_run]
    return Aligned(every, np.stack(places) if places else np.empty((0, 0), np.int64))
