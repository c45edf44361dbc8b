"""Read files of preprocessed segments: their contents in numbers, and their signals batch by batch."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import cycle, groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple, TypeVar

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from ecgpipe.core import provenance
from ecgpipe.core.digital import MOST_STEPS, carry_out, decode
from ecgpipe.core.errors import EcgpipeError
from ecgpipe.core.stored_segments import decode_rows

if TYPE_CHECKING:
    from ecgpipe.models.description import Description

# Values that a GPU decodes at a time, 16 MB of float64.
DECODED_VALUES = 2**21


class Contents(NamedTuple):
    """The contents of some shards together."""

    preprocess: dict[str, object]  # the settings that made all of them
    leads: int
    samples: int  # of each segment
    segments: int
    origin: dict[str, Any]  # what they say of their making, as `provenance.inherit_facts`


class Keys(NamedTuple):
    """Which segments the rows of a batch are, and how much of each is signal."""

    record_ids: list[str]
    numbers: np.ndarray  # (n,) int32
    starts_s: np.ndarray  # (n,) float32
    samples: np.ndarray  # (n,) int32, how many from the beginning are signal, not padding

    def rows(self, first: int, last: int) -> "Keys":
        """The keys of some rows; views, so that they hold on to all the others."""
        ids, *columns = self
        return Keys(ids[first:last], *(column[first:last] for column in columns))

    @classmethod
    def joined(cls, batches: Sequence["Keys"]) -> "Keys":
        """The keys of all of them, in order, copied."""
        ids, *columns = zip(*batches, strict=True)
        return cls([name for names in ids for name in names], *(np.concatenate(arrays) for arrays in columns))


class Stored(NamedTuple):
    """Segments in a file."""

    keys: Keys
    offsets: np.ndarray  # (n,) int64, the byte at which each begins
    kinds: list[str | None]  # what is done to its whole numbers, see `core.digital`; None: it is stored as values
    constants: list[np.ndarray | None]  # (steps * leads,) float64, with what

    def rows(self, first: int, last: int) -> "Stored":
        """Some of them."""
        return Stored(
            self.keys.rows(first, last), self.offsets[first:last], self.kinds[first:last], self.constants[first:last]
        )

    def runs(self) -> Iterator[tuple[int, int, str | None]]:
        """Stretches of rows of one kind: the first, the one after the last, the kind. In the file they lie in a row."""
        return find_runs(self.kinds)

    def constants_of(self, row: int, leads: int) -> np.ndarray:
        """(steps, leads) of a row of whole numbers."""
        constants = self.constants[row]
        assert constants is not None  # noqa: S101, where kinds has something
        return constants.reshape(-1, leads)


def find_runs(kinds: Sequence[str | None]) -> Iterator[tuple[int, int, str | None]]:
    """Stretches of one kind: the first, the one after the last, the kind."""
    first = 0
    for kind, run in groupby(kinds):
        last = first + len(list(run))
        yield first, last, kind
        first = last


class Staging:
    """A buffer of segments on their way to a GPU, which makes the values of those that are stored as whole numbers."""

    def __init__(self, size: int, leads: int, samples: int, pinned: bool) -> None:
        """For up to `size` segments; pinned memory is copied while the host goes on."""
        self._signals = torch.empty(size, leads, samples, pin_memory=pinned)
        self._numbers = torch.empty(size, leads, samples, dtype=torch.int16, pin_memory=pinned)
        self._constants = torch.empty(size, MOST_STEPS, leads, dtype=torch.float64, pin_memory=pinned)
        self._constants.zero_()  # those beyond a row's own steps are copied with them
        self._kinds: list[str | None] = []  # of the rows that are filled

    def __len__(self) -> int:
        return len(self._signals)

    def __getitem__(self, rows: slice) -> "Staging":
        """The first rows: itself, since it knows how many are filled."""
        if rows != slice(len(self._kinds)):
            raise IndexError("a staging buffer is taken from its first row to the last one filled")
        return self

    def fill(self, at: int, stored: Stored, file: BinaryIO) -> None:
        """Read segments into the rows from `at` on, the next ones."""
        self._kinds = [*self._kinds[:at], *stored.kinds]
        for first, last, kinds in stored.runs():
            into = self._signals if kinds is None else self._numbers
            _read_into(into[at + first : at + last].numpy(), file, int(stored.offsets[first]))
            for row in range(first, last) if kinds is not None else ():
                constants = stored.constants_of(row, into.shape[1])
                self._constants[at + row, : len(constants)] = torch.from_numpy(constants)

    def to(self, device: torch.device, non_blocking: bool = False) -> Tensor:
        """The values on a device, (n, leads, samples) float32, with the bits that `digital.decode` gives.

        Args:
            device: Where they are made.
            non_blocking: Whether the host may go on before pinned memory is copied.
        """
        runs = list(find_runs(self._kinds))
        if [kinds for _, _, kinds in runs] == [None]:
            return self._signals[: len(self._kinds)].to(device, non_blocking=non_blocking)
        signals = torch.empty(len(self._kinds), *self._signals.shape[1:], device=device)
        for first, last, kinds in runs:
            if kinds is None:
                signals[first:last] = self._signals[first:last].to(device, non_blocking=non_blocking)
                continue
            numbers = self._numbers[first:last].to(device, non_blocking=non_blocking)
            constants = self._constants[first:last].to(device, non_blocking=non_blocking)
            decode_tensors(numbers, kinds, constants, out=signals[first:last])
        return signals


# What segments are read into: for the CPU their values, for a GPU what makes them there.
Into = TypeVar("Into", Tensor, Staging)


def decode_tensors(numbers: Tensor, kinds: str, constants: Tensor, out: Tensor) -> None:
    """As `digital.decode`, on any device.

    Args:
        numbers: (n, leads, samples) int16.
        kinds: What each step does.
        constants: (n, steps or more, leads) float64.
        out: (n, leads, samples) float32, receives the values.
    """
    # So many at a time, because float64 takes twice the memory that a batch of values takes.
    some = max(1, DECODED_VALUES // max(1, numbers[0].numel()))
    for first in range(0, len(numbers), some):
        values = numbers[first : first + some].to(torch.float64)
        carry_out(values, kinds, constants[first : first + some])
        out[first : first + some].copy_(values)


def inspect_shards(paths: Sequence[Path]) -> Contents:
    """Read how the shards were made, and how many leads, samples and segments they have.

    Raises:
        EcgpipeError: A shard is missing, cut short or of an older ecgpipe, or two were preprocessed differently.
    """
    total, preprocess = 0, None
    schemas = []
    for path in paths:
        with _open_shard(path) as (_, reader):
            if "samples" not in reader.schema.names:
                raise EcgpipeError(
                    f"{path} is of an older ecgpipe, without the column samples; delete it and run again"
                )
            made_by = provenance.read_origin(reader.schema)["preprocess"]
            if preprocess not in (None, made_by):
                raise EcgpipeError(f"{path} and {paths[0]} were preprocessed differently; delete one and run again")
            preprocess = made_by
            schemas.append(reader.schema)
            total += sum(reader.get_batch(i).num_rows for i in range(reader.num_record_batches))
    assert preprocess is not None  # noqa: S101, argparse asks for at least one shard
    return Contents(
        preprocess, len(preprocess["leads"]), preprocess["segment_samples"], total, provenance.inherit_facts(schemas)
    )


def collect_facts(description: "Description", contents: Contents) -> dict[str, Any]:
    """The provenance that results of some shards state: that of the shards, and the checkpoint."""
    facts = {**contents.origin, "checkpoint_sha256": description.sha256, "checkpoint": description.uri}
    facts["meaning"] = {"checkpoint": description.meaning, **contents.origin["meaning"]}
    facts["settings"] = {**description.settings, **contents.origin.get("settings", {})}
    return facts


def read_batches(paths: Sequence[Path], buffers: Sequence[Into]) -> Iterator[tuple[Keys, Into]]:
    """Yield the segments of some shards in order, as many at a time as a buffer holds.

    The keys are mapped, but the signals, where the bytes are, are read straight into the buffers: one copy, an error
    rather than a signal when the disk fails, and no mapped page that counts as the process's memory.

    Args:
        paths: The shards.
        buffers: (batch, leads, samples) float32 each, or for a GPU what takes the bytes as they are; used in turn, and
            what was yielded is overwritten in its turn.

    Yields:
        The keys of a batch, and the part of a buffer that holds its signals, (n, leads, samples) float32.

    Raises:
        EcgpipeError: A shard is missing or ends before it should.
    """
    size = len(buffers[0])
    turns = cycle(buffers)
    buffer, held, filled = next(turns), [], 0
    for path in paths:
        with _open_shard(path) as (mapped, reader), path.open("rb") as file:
            for stored in _iterate_record_batches(mapped, reader):
                rows = len(stored.offsets)
                done = 0
                while done < rows:
                    n = min(size - filled, rows - done)
                    fill = buffer.fill if isinstance(buffer, Staging) else partial(_fill, buffer)
                    fill(filled, stored.rows(done, done + n), file)
                    held.append(stored.keys.rows(done, done + n))
                    done, filled = done + n, filled + n
                    if filled == size:
                        yield Keys.joined(held), buffer
                        buffer, held, filled = next(turns), [], 0
    if filled:
        yield Keys.joined(held), buffer[:filled]


def read_signals(paths: Sequence[Path], rows: np.ndarray) -> np.ndarray:
    """The signals of a few segments.

    Args:
        paths: The shards.
        rows: (n,) numbers of the segments in the order of `read_batches`, rising.

    Returns:
        (n, leads, samples) float32.

    Raises:
        EcgpipeError: As of `read_batches`.
    """
    signals: list[np.ndarray] = []
    seen = 0
    for path in paths:
        with _open_shard(path) as (_, reader):
            facts = provenance.read_origin(reader.schema)["preprocess"]
            for i in range(reader.num_record_batches):
                batch = reader.get_batch(i)
                wanted = rows[slice(*np.searchsorted(rows, [seen, seen + batch.num_rows]))] - seen
                if len(wanted):
                    some = batch.take(pa.array(wanted))
                    signals.append(decode_rows(some, len(facts["leads"]), facts["segment_samples"]))
                seen += batch.num_rows
    return np.concatenate(signals)


@contextmanager
def _open_shard(path: Path) -> Iterator[tuple[pa.MemoryMappedFile, pa.ipc.RecordBatchFileReader]]:
    """Open a shard, memory-mapped, with its reader; errors name the shard."""
    try:
        with pa.memory_map(str(path)) as mapped, pa.ipc.open_file(mapped) as reader:
            yield mapped, reader
    except FileNotFoundError as error:
        raise EcgpipeError(f"{path} is missing; run again") from error
    except (OSError, pa.ArrowInvalid) as error:  # Arrow's table of contents is at a file's end
        raise EcgpipeError(f"{path} is not a whole file of segments ({error}); delete it and run again") from error


def _iterate_record_batches(mapped: pa.MemoryMappedFile, reader: pa.ipc.RecordBatchFileReader) -> Iterator[Stored]:
    """The keys of each record batch, and where in the file its segments are."""
    start = mapped.read_buffer(1).address
    for i in range(reader.num_record_batches):
        batch = reader.get_batch(i)
        numbers, starts, counts = (batch[name].to_numpy() for name in ("segment", "start_s", "samples"))
        keys = Keys(batch["record_id"].to_pylist(), numbers, starts, counts)
        offsets = _find_offsets(batch["signal"], start)
        if "numbers" not in batch.schema.names:  # of an older ecgpipe
            yield Stored(keys, offsets, [None] * len(offsets), [None] * len(offsets))
            continue
        kinds = batch["steps"].to_pylist()
        constants = [each.values.to_numpy().copy() if each.is_valid else None for each in batch["constants"]]
        is_digital = np.array([kind is not None for kind in kinds], bool)
        yield Stored(keys, np.where(is_digital, _find_offsets(batch["numbers"], start), offsets), kinds, constants)


def _find_offsets(lists: pa.Array, start: int) -> np.ndarray:
    """(rows,) at which byte of the file the values of each list begin, which is mapped from `start` on."""
    if pa.types.is_fixed_size_list(lists.type):
        values = lists.flatten()
        first = lists.type.list_size * np.arange(len(lists))
    else:
        values, first = lists.values, lists.offsets.to_numpy()[:-1]
    bytes_each = lists.type.value_type.bit_width // 8
    buffer = values.buffers()[1]
    address = buffer.address if buffer is not None else start
    offsets: np.ndarray = address - start + bytes_each * (values.offset + first)
    return offsets


def _fill(buffer: Tensor, at: int, stored: Stored, file: BinaryIO) -> None:
    """Read segments into the rows of a contiguous buffer from `at` on, and decode those stored as whole numbers."""
    numbers, values = np.empty(buffer.shape[1:], np.int16), np.empty(buffer.shape[1:])
    for first, last, kinds in stored.runs():
        rows = buffer[at + first : at + last].numpy()  # (rows, leads, samples)
        if kinds is None:
            _read_into(rows, file, int(stored.offsets[first]))
            continue
        # One at a time, because a segment's float64 values fit the processor's cache.
        for row, number in zip(rows, range(first, last), strict=True):
            _read_into(numbers, file, int(stored.offsets[number]))
            row[...] = decode(numbers, kinds, stored.constants_of(number, len(numbers)), out=values)


def _read_into(array: np.ndarray, file: BinaryIO, offset: int) -> None:
    """Read a contiguous array's bytes from a place in a file."""
    file.seek(offset)
    view = memoryview(array).cast("B")  # type: ignore[arg-type]
    if file.readinto(view) != len(view):  # type: ignore[attr-defined]
        raise EcgpipeError(f"{file.name} ends in the middle of its signals; delete it and run again")
