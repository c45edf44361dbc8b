"""Read files of preprocessed segments: their contents in numbers, and their signals batch by batch."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

import numpy as np
import pyarrow as pa
from torch import Tensor

from ecgpipe.core import provenance
from ecgpipe.core.errors import EcgpipeError

if TYPE_CHECKING:
    from ecgpipe.models.description import Description


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


def read_batches(paths: Sequence[Path], buffers: Sequence[Tensor]) -> Iterator[tuple[Keys, Tensor]]:
    """Yield the segments of some shards in order, as many at a time as a buffer holds.

    The keys are mapped, but the signals, where the bytes are, are read straight into the buffers: one copy, an error
    rather than a signal when the disk fails, and no mapped page that counts as the process's memory.

    Args:
        paths: The shards.
        buffers: (batch, leads, samples) float32 each, used in turn; what was yielded is overwritten in its turn.

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
            for keys, offset in _iterate_record_batches(mapped, reader):
                rows, row_bytes = len(keys.record_ids), buffer[0].nbytes
                done = 0
                while done < rows:
                    n = min(size - filled, rows - done)
                    _fill(buffer[filled : filled + n], file, offset + done * row_bytes)
                    held.append(keys.rows(done, done + n))
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
            leads = len(provenance.read_origin(reader.schema)["preprocess"]["leads"])
            for i in range(reader.num_record_batches):
                batch = reader.get_batch(i)
                wanted = rows[slice(*np.searchsorted(rows, [seen, seen + batch.num_rows]))] - seen
                if len(wanted):
                    values = batch["signal"].take(pa.array(wanted)).flatten().to_numpy()  # a copy: the file is closed
                    signals.append(values.reshape(len(wanted), leads, -1))
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


def _iterate_record_batches(
    mapped: pa.MemoryMappedFile, reader: pa.ipc.RecordBatchFileReader
) -> Iterator[tuple[Keys, int]]:
    """The keys of each record batch, and at which byte of the file its signals begin."""
    start = mapped.read_buffer(1).address
    for i in range(reader.num_record_batches):
        batch = reader.get_batch(i)
        signals = batch["signal"].flatten()  # (n * leads * samples,)
        offset = signals.buffers()[1].address + 4 * signals.offset - start
        numbers, starts, counts = (batch[name].to_numpy() for name in ("segment", "start_s", "samples"))
        yield Keys(batch["record_id"].to_pylist(), numbers, starts, counts), offset


def _fill(buffer: Tensor, file: BinaryIO, offset: int) -> None:
    """Read a contiguous buffer's bytes from a place in a file."""
    file.seek(offset)
    view = memoryview(buffer.numpy()).cast("B")  # type: ignore[arg-type]
    if file.readinto(view) != len(view):  # type: ignore[attr-defined]
        raise EcgpipeError(f"{file.name} ends in the middle of its signals; delete it and run again")
