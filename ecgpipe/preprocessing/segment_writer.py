"""Write segments to a shard's file, as values or, in half the bytes, as whole numbers."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np
import pyarrow as pa

from ecgpipe.core.digital import Digital

# Segments per record batch of a shard file: 15 MB, which preprocess and infer hold in memory at a time.
BATCH_SEGMENTS = 128


class Segment(NamedTuple):
    """A segment and what is known of it."""

    record_id: str
    number: int
    start_s: float
    samples: int  # that are signal
    digital: Digital | None  # whole numbers and steps that give the same bits
    signal: np.ndarray  # (leads, segment samples) float32


class SegmentWriter:
    """Writes segments to an Arrow IPC file, in record batches of bounded size.

    A segment whose whole numbers are known is written as these, in half the bytes.
    """

    def __init__(self, path: Path, schema: pa.Schema, leads: int, samples: int) -> None:
        """Create the file, which `close` makes whole, for segments of (leads, samples)."""
        self._schema = schema
        self._writer = pa.ipc.new_file(path, schema)
        self._keys: list[tuple[str, int, float, int]] = []
        self._digital: list[Digital | None] = []
        self._n_digital = 0
        self._signals = np.empty((BATCH_SEGMENTS, leads * samples), np.float32)  # of those without whole numbers
        self._numbers = np.empty((BATCH_SEGMENTS, leads, samples), np.int16)  # of the others

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None and self._keys:
            self._write()
        self._writer.close()

    def add(self, segments: Sequence[Segment]) -> None:
        """Add segments, and write the batches that they fill."""
        for segment in segments:
            if segment.digital is None:
                self._signals[len(self._keys) - self._n_digital] = segment.signal.ravel()
            else:
                self._numbers[self._n_digital] = segment.digital.numbers
                self._n_digital += 1
            self._keys.append(segment[:4])
            self._digital.append(segment.digital)
            if len(self._keys) == BATCH_SEGMENTS:
                self._write()

    def _write(self) -> None:
        count = self._n_digital
        is_digital = np.array([digital is not None for digital in self._digital])
        constants = [digital.constants.ravel() for digital in self._digital if digital is not None]
        lengths = np.zeros(len(is_digital), int)
        lengths[is_digital] = [len(each) for each in constants]
        signals, numbers = self._signals[: len(is_digital) - count], self._numbers[:count]
        columns = zip(zip(*self._keys, strict=True), self._schema, strict=False)
        arrays = [
            *(pa.array(values, field.type) for values, field in columns),
            _make_lists(signals, np.where(is_digital, 0, signals[0].size if len(signals) else 0), ~is_digital),
            _make_lists(numbers, np.where(is_digital, numbers[0].size if count else 0, 0), is_digital),
            pa.array([digital and digital.kinds for digital in self._digital], pa.string()),
            _make_lists(np.concatenate([np.empty(0), *constants]), lengths, is_digital),
        ]
        self._writer.write_batch(pa.record_batch(arrays, schema=self._schema))
        self._keys, self._digital, self._n_digital = [], [], 0


def _make_lists(values: np.ndarray, lengths: np.ndarray, is_filled: np.ndarray) -> pa.LargeListArray:
    """A column of lists of some lengths, which stand in `values` one after the other; null where none is filled in."""
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    held = pa.array(values.ravel())
    # `LargeListArray.from_arrays` with a mask loads pyarrow.compute, which takes each job a tenth of a second.
    filled = np.packbits(is_filled, bitorder="little")
    buffers = [pa.py_buffer(filled), pa.py_buffer(offsets)]
    return pa.LargeListArray.from_buffers(pa.large_list(held.type), len(is_filled), buffers, children=[held])
