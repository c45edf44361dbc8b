"""Map the embeddings to two dimensions: fitted on a bounded sample, on which the others are placed."""

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from ecgpipe.analysis import umap_fit, umap_place
from ecgpipe.core import options, parquet, provenance, schemas, settings
from ecgpipe.core.errors import EcgpipeError
from ecgpipe.core.logs import Progress


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `ecgpipe umap`."""
    options.add(parser, "embeddings", required=True)
    options.add(parser, "parts")
    parser.add_argument("--places", type=Path, help="the folder places/: join what umap_place wrote there")
    options.add(parser, "output", required=True, help="Parquet file to write")
    settings.add_arguments(parser, settings.Umap)


def run(args: argparse.Namespace) -> None:
    """Map all embeddings, or join the places of all parts."""
    if args.places:
        join_map(parquet.numbered(args.places, "part", args.parts), args.output)
        return
    umap_settings = settings.parse_arguments("umap", settings.Umap, args)
    write_map(parquet.numbered(args.embeddings, "part", args.parts), umap_settings, args.output)


def write_map(paths: Sequence[Path], umap_settings: settings.Umap, output: Path) -> None:
    """Map all embeddings, and write their places.

    Args:
        paths: All `embeddings/part-*.parquet`, in order.
        umap_settings: How they are mapped.
        output: The Parquet file.
    """
    fitted = umap_fit.fit_map(paths, umap_settings)
    facts = umap_fit.collect_facts(paths, umap_settings)
    schema = provenance.add_origin(schemas.UMAP, "umap", umap=umap_place.describe_mapping(fitted), **facts)
    placer = umap_place.prepare(fitted)
    batches = (batch for part, path in enumerate(paths) for batch in umap_place.place_part(placer, path, part))
    _write(batches, schema, fitted.total, output)


def join_map(paths: Sequence[Path], output: Path) -> None:
    """Join the places of all parts: the same file as `write_map` writes.

    Args:
        paths: All `places/part-*.parquet`, in order.
        output: The Parquet file.

    Raises:
        EcgpipeError: They are places on different maps.
    """
    of_parts = [pq.read_schema(path) for path in paths]
    mappings = [provenance.read_origin(schema)["umap"] for schema in of_parts]
    for path, mapping in zip(paths, mappings, strict=True):
        if mapping != mappings[0]:
            raise EcgpipeError(f"{path} has places on another map than {paths[0]}; run umap_place for all parts again")
    schema = provenance.add_origin(schemas.UMAP, "umap", umap=mappings[0], **provenance.inherit_facts(of_parts))
    _write(parquet.batches(paths), schema, sum(pq.read_metadata(path).num_rows for path in paths), output)


def _write(batches: Iterator[pa.RecordBatch], schema: pa.Schema, total: int, output: Path) -> None:
    progress = Progress("umap", total, "segments")
    with parquet.parquet_writer(output, schema) as writer:
        for batch in batches:
            writer.write_batch(batch)
            progress.add(len(batch))
    progress.say()
