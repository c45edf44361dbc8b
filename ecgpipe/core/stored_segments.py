"""Read segments as the stage `preprocess` stores them: as values, or as whole numbers that make values."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from ecgpipe.core import provenance
from ecgpipe.core.digital import decode
from ecgpipe.core.errors import EcgpipeError

_SIGNALS = ("signal", "numbers", "steps", "constants")


def read_segments(path: str | Path) -> tuple[pa.Table, np.ndarray]:
    """Read a file of segments, such as `segments/shard-00000.arrow` of a run with `preprocess.keep_segments`.

    Args:
        path: The file, also of an older ecgpipe.

    Returns:
        What is known of each segment (`record_id`, `segment`, `start_s`, `samples`), and their values, (segments,
        leads, samples) float32: exactly those that the network gets.

    Raises:
        EcgpipeError: It is not there, or is no whole file of segments.
    """
    try:
        with pa.memory_map(str(path)) as mapped, pa.ipc.open_file(mapped) as reader:
            facts: dict[str, Any] = provenance.read_origin(reader.schema)["preprocess"]
            shape = (len(facts["leads"]), facts["segment_samples"])
            batches = [reader.get_batch(number) for number in range(reader.num_record_batches)]
            table = pa.Table.from_batches(batches, reader.schema)
            values = np.empty((len(table), *shape), np.float32)
            done = 0
            for batch in batches:
                values[done : done + batch.num_rows] = decode_rows(batch, *shape)
                done += batch.num_rows
            # A copy, since the file is closed. The columns of an older file are fewer.
            keys = table.select([name for name in table.column_names if name not in _SIGNALS])
            return pa.Table.from_pydict(keys.to_pydict(), keys.schema.remove_metadata()), values
    except FileNotFoundError as error:
        raise EcgpipeError(f"{path} is missing; keep segments with preprocess.keep_segments") from error
    except (OSError, pa.ArrowInvalid, KeyError) as error:
        raise EcgpipeError(f"{path} is not a whole file of segments ({error})") from error


def decode_rows(batch: pa.RecordBatch, leads: int, samples: int) -> np.ndarray:
    """The values of a record batch's segments.

    Args:
        batch: Rows of `schemas.SEGMENTS`, or of an older ecgpipe, which had values alone.
        leads: Of a segment.
        samples: Of each lead.

    Returns:
        (rows, leads, samples) float32, a copy.
    """
    values = np.empty((batch.num_rows, leads, samples), np.float32)
    has_numbers = "numbers" in batch.schema.names
    for row, signal in enumerate(batch["signal"]):
        if signal.is_valid:
            values[row] = signal.values.to_numpy().reshape(leads, samples)
        elif has_numbers:
            numbers = batch["numbers"][row].values.to_numpy().reshape(leads, samples)
            constants = batch["constants"][row].values.to_numpy().reshape(-1, leads)
            values[row] = decode(numbers, batch["steps"][row].as_py(), constants)
    return values
