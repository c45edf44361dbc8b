"""Run the model over one part, shard by shard: logits, embeddings, and the last layer's attention."""

import argparse
import json
import logging
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pyarrow as pa

from ecgpipe import __version__
from ecgpipe.core import parquet, provenance, schemas, settings
from ecgpipe.core.atomic import whole
from ecgpipe.core.errors import EcgpipeError
from ecgpipe.core.logs import Progress
from ecgpipe.inference import devices, engine, fairseq_backend, finite, segment_files
from ecgpipe.inference.engine import Results
from ecgpipe.inference.segment_files import Keys
from ecgpipe.models.description import Description, describe
from ecgpipe.models.ecg_fm import network as ecg_fm_network

logger = logging.getLogger(__name__)

# Rows per row group: 3 MB of embeddings, what is held back before it is written.
ROW_GROUP = 1024


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `python -m ecgpipe infer`."""
    settings.add_arguments(parser, settings.Infer)
    parser.add_argument("--weights", type=Path, required=True, help="checkpoint/model.safetensors")
    parser.add_argument("--description", type=Path, required=True, help="checkpoint/model.json")
    parser.add_argument(
        "--segments",
        type=Path,
        nargs="+",
        required=True,
        help="the part's shards, in order, or with --shards the folder",
    )
    parser.add_argument(
        "--shards", type=int, nargs=2, metavar=("FIRST", "LAST"), help="the numbers of the part's shards in --segments"
    )
    parser.add_argument("--choice", type=Path, help="the file in which the precision stage names its choice")
    parser.add_argument("--logits", type=Path, required=True, help="Parquet file to write")
    parser.add_argument("--embeddings", type=Path, required=True, help="Parquet file to write")
    parser.add_argument("--attention", type=Path, help="Parquet file to write; left out, no attention is computed")
    parser.add_argument("--timing", type=Path, required=True, help="JSON file to write: segments, seconds, device")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default %(default)s)")


def run(args: argparse.Namespace) -> None:
    """Infer one part."""
    given = settings.of_arguments("infer", settings.Infer, args)
    paths = _shards(args)
    precision = given.precision or (args.choice.read_text(encoding="utf-8").strip() if args.choice else "float32")
    if precision not in engine.DTYPES:
        raise EcgpipeError(f"--choice: {args.choice} names {precision!r}, no precision; delete it and run again")
    description = describe(args.description)
    contents = segment_files.look_at(paths)
    engine.check(description, contents)
    _check_backend(given, precision, args, description)
    engine.configure(args.threads, given.deterministic)
    with devices.claim(given.device, engine.least_bytes(args.weights)) as device:
        name = engine.usable(precision, device)
        logger.info("%s in %s on %s, %d threads", description.uri, name, devices.describe(device), args.threads)
        size = given.batch_size or engine.default_batch_size(device, contents.samples)
        with_attention = args.attention is not None
        network, exact = None, None
        if given.fairseq_python:
            results = fairseq_backend.results(
                Path(given.fairseq_python), description, paths, contents, device, size, with_attention, args.threads
            )
        else:
            network = ecg_fm_network.load(description.architecture, args.weights, device, engine.DTYPES[name])
            results = engine.run(network, paths, contents, device, size, with_attention, given.deterministic)
        if name != "float32":
            exact = finite.InFloat32(
                lambda: ecg_fm_network.load(description.architecture, args.weights, device), device
            )
        results = finite.checked(results, description.uri, lambda rows: segment_files.signals(paths, rows), exact, size)
        progress = Progress(args.logits.stem, contents.segments, "segments")
        write(args, given, description, contents, name, _counted(results, progress))
        progress.say()
        timing = {
            "ecgpipe": __version__,
            "stage": "infer",
            "file": args.timing.name,
            "segments": progress.done,
            "seconds": round(progress.elapsed_s, 3),
            "device": devices.describe(device),
            "precision": name,
            "recomputed_segments": exact.segments if exact else 0,
            "threads": args.threads,
            "batch_size": size,
            "backend": description.backend,
            "machine": provenance.machine(),
            "versions": provenance.versions(),
            settings.KEY: settings.marked("infer", given, segment_files.facts(description, contents))[settings.KEY],
        }
        del network, exact  # before another job may take the device
    with whole(args.timing) as temporary:
        temporary.write_text(json.dumps(timing, indent=2) + "\n")


def _shards(args: argparse.Namespace) -> list[Path]:
    """The files that `--segments` and `--shards` mean."""
    if not args.shards:
        return list(args.segments)
    if len(args.segments) != 1:
        raise EcgpipeError("--shards: counts the files of one folder; give that alone as --segments")
    first, last = args.shards
    return [args.segments[0] / f"shard-{number:05d}.arrow" for number in range(first, last + 1)]


def _check_backend(given: settings.Infer, precision: str, args: argparse.Namespace, description: Description) -> None:
    """Refuse options that what computes cannot follow."""
    if (description.backend == "fairseq") != (given.fairseq_python is not None):
        raise EcgpipeError(
            f"inference.backend: {args.description} is for the backend {description.backend}; fairseq_python "
            "goes with fairseq, and with nothing else"
        )
    if description.backend == "fairseq" and (precision != "float32" or given.deterministic):
        raise EcgpipeError("inference.backend: fairseq computes in float32 alone, and is not told to be deterministic")
    if args.attention and not description.architecture.layers:
        raise EcgpipeError(f"inference.attention: {description.uri} has convolutions and no attention; set it to false")


def write(
    args: argparse.Namespace,
    given: settings.Infer,
    description: Description,
    contents: segment_files.Contents,
    precision_name: str,
    results: engine.Stream,
) -> None:
    """Write the files of a part, in a thread beside the computation."""
    facts = settings.marked("infer", given, segment_files.facts(description, contents))
    facts |= {"precision": precision_name, "deterministic": given.deterministic, "backend": description.backend}
    schema_of = {
        args.logits: schemas.logits_schema(description.labels),
        args.embeddings: schemas.embeddings_schema(description.architecture.width),
        args.attention: schemas.attention_schema(description.architecture.tokens(contents.samples)),
    }
    with ExitStack() as files:
        writers = [
            files.enter_context(parquet.parquet_writer(path, provenance.with_origin(schema, "infer", **facts)))
            for path, schema in schema_of.items()
            if path is not None
        ]

        def write_row_group(held: list[tuple[Keys, Results]]) -> None:
            for writer, columns in zip(writers, _columns(held), strict=True):
                writer.write_batch(pa.record_batch(columns, schema=writer.schema))

        with engine.behind(write_row_group) as later:
            for held in _row_groups(results):
                later(held)


def _counted(results: engine.Stream, progress: Progress) -> engine.Stream:
    for keys, result in results:
        progress.add(len(keys.record_ids))
        yield keys, result


def _row_groups(results: engine.Stream) -> Iterator[list[tuple[Keys, Results]]]:
    """Gather batches into row groups."""
    held: list[tuple[Keys, Results]] = []
    rows = 0
    for result in results:
        held.append(result)
        rows += len(result[0].record_ids)
        if rows >= ROW_GROUP:
            yield held
            held, rows = [], 0
    if held:
        yield held


def _columns(held: list[tuple[Keys, Results]]) -> list[list[pa.Array]]:
    """For each file its columns, in the order of its schema."""
    keys = Keys.joined([keys for keys, _ in held])
    ids = pa.array(keys.record_ids, pa.string())
    numbers, starts = pa.array(keys.numbers, pa.int32()), pa.array(keys.starts_s, pa.float32())
    logits, *vectors = (
        np.concatenate(arrays)
        for arrays in zip(*(results for _, results in held), strict=True)
        if arrays[0] is not None
    )
    return [
        [ids, numbers, starts, *(pa.array(column) for column in logits.T)],
        *([ids, numbers, pa.FixedSizeListArray.from_arrays(pa.array(rows.ravel()), rows.shape[1])] for rows in vectors),
    ]
