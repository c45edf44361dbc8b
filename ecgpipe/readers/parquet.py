"""Parquet files of one recording: a row per sample, a column per lead, and perhaps a column of times.

The schema's metadata may state `sample_rate` and `unit`, as may the `attrs` of a pandas data frame, which pandas writes
there as JSON under `PANDAS_ATTRS`.
"""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet

from ecgpipe.readers import columns
from ecgpipe.readers.arrays import rate_of
from ecgpipe.readers.files import brief, size_of
from ecgpipe.readers.recording import Assumed, Recording, UnreadableError, check_size

_MOST_METADATA_BYTES = 10_000_000


def read(path: Path, assumed: Assumed, row: int | None = None) -> Recording:
    """Read a Parquet file; see `readers.read`."""
    size_of(path)
    try:
        with pyarrow.parquet.ParquetFile(
            path, thrift_string_size_limit=_MOST_METADATA_BYTES, thrift_container_size_limit=_MOST_METADATA_BYTES
        ) as file:
            schema = file.schema_arrow
            chosen = columns.columns_to_read(schema.names)
            check_size(len(chosen), file.metadata.num_rows)
            table = file.read(columns=chosen, use_threads=False)
    except (FileNotFoundError, PermissionError, UnreadableError):
        raise
    except (pa.ArrowException, OSError, UnicodeError) as error:
        raise UnreadableError(f"not a readable Parquet file ({brief(error)})") from error
    stated = _stated(schema)
    unit = stated.get("unit")
    return columns.make_recording(
        table, rate_of(stated.get("sample_rate")), unit if isinstance(unit, str) else None, assumed
    )


def _stated(schema: pa.Schema) -> dict[str, object]:
    """The facts that the metadata states; the schema's own take precedence over those of pandas."""
    metadata = {key.decode(errors="replace"): value for key, value in (schema.metadata or {}).items()}
    try:
        attributes = json.loads(metadata.get("PANDAS_ATTRS", b"{}"))
    except (ValueError, RecursionError):
        attributes = {}
    own = {key: metadata[key].decode(errors="replace") for key in ("sample_rate", "unit") if key in metadata}
    return (attributes if isinstance(attributes, dict) else {}) | own
