"""Reading and writing Parquet files, those of a run by their numbers too."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ecgpipe.core import results
from ecgpipe.core.atomic import whole
from ecgpipe.core.errors import EcgpipeError
from ecgpipe.core.provenance import add_file_name

# Rows that `batches` reads at a time: 31 MB of ECG-FM's embeddings.
BATCH_ROWS = 10_000


def batches(paths: Sequence[Path], columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
    """The rows of some Parquet files in order, so many at a time that memory stays bounded."""
    for path in paths:
        with pq.ParquetFile(path) as file:
            yield from file.iter_batches(batch_size=BATCH_ROWS, columns=columns)


def column(paths: Sequence[Path], name: str) -> pa.Array:
    """A column of all parts or shards.

    Args:
        paths: All `predictions/part-*.parquet`, or another folder's, in order.
        name: Of the column.

    Returns:
        Its rows in order.
    """
    return pa.chunked_array(
        [chunk for path in paths for chunk in pq.read_table(path, columns=[name])[name].chunks],
        type=pq.read_schema(paths[0]).field(name).type,
    ).combine_chunks()


def column_of(paths: Sequence[Path], name: str, ids: pa.Array) -> pa.Array:
    """A column for some recordings.

    Args:
        paths: All `records/shard-*.parquet`, or another folder's, in order.
        name: Of the column.
        ids: Record ids, (recordings,).

    Returns:
        (recordings,); null for those that the files do not know.
    """
    import pyarrow.compute as pc  # here and below, because it takes a job that has no use for it longer to begin

    return column(paths, name).take(pc.index_in(ids, column(paths, "record_id")))


def rows_of(paths: Sequence[Path], record_ids: Sequence[str]) -> Iterator[pa.Table]:
    """The rows of some recordings, row group by row group. Only those that hold one are read beyond the ids."""
    import pyarrow.compute as pc

    wanted = pa.array(record_ids, pa.string())
    for path in paths:
        with pq.ParquetFile(path) as file:
            for group in range(file.num_row_groups):
                known = pc.is_in(file.read_row_group(group, columns=["record_id"])["record_id"], wanted)
                if pc.any(known).as_py():
                    yield file.read_row_group(group).filter(known)


@contextmanager
def parquet_writer(path: Path, schema: pa.Schema) -> Iterator[pq.ParquetWriter]:
    """A Parquet writer whose file appears under `path` only when the block ends well."""
    # A dictionary of measured numbers saves nothing and costs a megabyte per column while the file is open.
    texts = [field.name for field in schema if pa.types.is_string(field.type)]
    with (
        whole(path) as temporary,
        pq.ParquetWriter(temporary, add_file_name(schema, path), compression="zstd", use_dictionary=texts) as writer,
    ):
        yield writer


def write(path: Path, table: pa.Table) -> None:
    """Write a whole table as Parquet."""
    with parquet_writer(path, table.schema) as writer:
        writer.write_table(table)


def numbered(folder: Path, name: str, count: int | None, suffix: str = "parquet") -> list[Path]:
    """The files of a result folder in order, e.g. part-00000.parquet, part-00001.parquet, ...

    A folder is named on the command line rather than its files, whose names would outgrow the line in a large run.

    Args:
        folder: Where they lie.
        name: "part" or "shard".
        count: How many belong to the run, since an earlier one may have left more; None for all that are there.
        suffix: Their file extension, without the dot.

    Returns:
        Their paths.

    Raises:
        EcgpipeError: One is not there.
    """
    if count is None:
        files = [path.name for path in folder.glob(f"{name}-*.{suffix}") if results.is_shard_or_part(path.name)]
        count = 1 + max((int(file[len(name) + 1 :].partition(".")[0]) for file in files), default=0)
    paths = [folder / f"{name}-{number:05d}.{suffix}" for number in range(max(count, 1))]
    missing = [path for path in paths if not path.is_file()]
    if missing:
        raise EcgpipeError(f"{missing[0]} is not there; run the stage that writes it first")
    return paths


SEED = 42


def sample(umap: Path, most: int) -> tuple[pa.Table, int]:
    """The points of the map, or a random sample of them.

    Args:
        umap: `umap/umap.parquet`.
        most: Points at most.

    Returns:
        The points in order, and how many segments there are.
    """
    total = pq.read_metadata(umap).num_rows
    if total > most:
        taken = np.sort(np.random.default_rng(SEED).choice(total, most, replace=False))
    else:
        taken = np.arange(total)
    pieces, done = [], 0
    for batch in batches([umap]):
        first, last = np.searchsorted(taken, [done, done + batch.num_rows])
        pieces.append(batch.take(pa.array(taken[first:last] - done)))
        done += batch.num_rows
    return pa.Table.from_batches(pieces, pq.read_schema(umap)), total
