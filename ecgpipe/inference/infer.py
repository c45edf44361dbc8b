"""Run the model over one part, shard by shard: logits, embeddings, and the last layer's attention."""

import argparse
import json
import logging
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import torch

from ecgpipe import __version__
from ecgpipe.core import options, parquet, provenance, schemas, settings
from ecgpipe.core.atomic import whole
from ecgpipe.core.errors import EcgpipeError
from ecgpipe.core.logs import Progress
from ecgpipe.inference import background, devices, engine, fairseq_backend, non_finite_outputs, segment_files
from ecgpipe.inference.engine import Results
from ecgpipe.inference.segment_files import Keys
from ecgpipe.models import networks
from ecgpipe.models.description import Description, describe

logger = logging.getLogger(__name__)

# Rows per row group: 3 MB of embeddings, which wait in memory until they are written.
ROW_GROUP = 1024


class Files(NamedTuple):
    """What the stage reads and writes."""

    weights: Path
    description: Path
    segments: Sequence[Path]  # the part's shards, in order
    logits: Path
    embeddings: Path
    attention: Path | None  # None: no attention is computed
    timing: Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `ecgpipe infer`."""
    settings.add_arguments(parser, settings.Infer)
    options.add(parser, "weights", "description", required=True)
    options.add(
        parser,
        "segments",
        nargs="+",
        required=True,
        help="the part's shards, in order; or with --shards the folder",
    )
    options.add(
        parser, "shards", nargs=2, metavar=("FIRST", "LAST"), help="the numbers of the part's shards in --segments"
    )
    parser.add_argument("--choice", type=Path, help="the file in which the precision stage names its choice")
    options.add(parser, "logits", "embeddings", required=True, help="Parquet file to write")
    options.add(parser, "attention", help="Parquet file to write; without it no attention is computed")
    parser.add_argument("--timing", type=Path, required=True, help="JSON file to write: segments, seconds, device")
    options.add(parser, "threads")


def run(args: argparse.Namespace) -> None:
    """Infer one part."""
    infer_settings = settings.parse_arguments("infer", settings.Infer, args)
    segments = shard_paths(args.segments, args.shards)
    files = Files(args.weights, args.description, segments, args.logits, args.embeddings, args.attention, args.timing)
    infer_part(files, infer_settings, infer_settings.precision or chosen_precision(args.choice), args.threads)


def shard_paths(segments: Sequence[Path], shards: tuple[int, int] | None) -> list[Path]:
    """The files of `--segments`, or those of `--shards` FIRST to LAST in its folder."""
    if not shards:
        return list(segments)
    if len(segments) != 1:
        raise EcgpipeError("--shards: counts the files of one folder; give that alone as --segments")
    first, last = shards
    return [segments[0] / f"shard-{number:05d}.arrow" for number in range(first, last + 1)]


def chosen_precision(choice: Path | None) -> str:
    """The precision that the precision stage chose; float32 without its file."""
    precision = choice.read_text(encoding="utf-8").strip() if choice else "float32"
    if precision not in engine.DTYPES:
        raise EcgpipeError(f"--choice: {choice} names {precision!r}, no precision; delete it and run again")
    return precision


def infer_part(files: Files, infer_settings: settings.Infer, precision: str, threads: int = 1) -> dict[str, Any]:
    """Run the model over one part and write its files.

    Args:
        files: What to read and write.
        infer_settings: The settings. Their precision is not used: it may be the precision stage's to choose.
        precision: One of `engine.DTYPES`. Where the device does not have it, float32 is used.
        threads: CPU threads.

    Returns:
        The content of `files.timing`.

    Raises:
        EcgpipeError: Segments, checkpoint, device and settings do not fit one another, or an output is not finite.
    """
    description = describe(files.description)
    contents = segment_files.inspect_shards(files.segments)
    engine.check(description, contents)
    _check_backend(files, infer_settings, precision, description)
    engine.configure(threads, infer_settings.deterministic)
    with devices.claim(infer_settings.device, engine.least_bytes(files.weights)) as device:
        precision = engine.usable(precision, device)
        logger.info("%s in %s on %s, %d threads", description.uri, precision, devices.describe(device), threads)
        batch_size = infer_settings.batch_size or engine.default_batch_size(device, contents.samples)
        exact = None
        if precision != "float32":
            exact = non_finite_outputs.InFloat32(
                lambda: networks.load_network(description, files.weights, device, model=infer_settings.model), device
            )
        results = non_finite_outputs.check_stream(
            _compute(files, infer_settings, description, contents, device, precision, batch_size, threads),
            description.uri,
            lambda rows: segment_files.read_signals(files.segments, rows),
            exact,
            batch_size,
        )
        progress = Progress(files.logits.stem, contents.segments, "segments")
        write_results(files, infer_settings, description, contents, precision, _counted(results, progress))
        progress.say()
        facts = settings.add_sha256("infer", infer_settings, segment_files.collect_facts(description, contents))
        timing = {
            "ecgpipe": __version__,
            "stage": "infer",
            "file": files.timing.name,
            "segments": progress.done,
            "seconds": round(progress.elapsed_s, 3),
            "device": devices.describe(device),
            "precision": precision,
            "recomputed_segments": exact.segments if exact else 0,
            "threads": threads,
            "batch_size": batch_size,
            "backend": description.backend,
            "machine": provenance.describe_machine(),
            "versions": provenance.list_versions(),
            settings.KEY: facts[settings.KEY],
        }
        del results, exact  # the networks, before another job may take the device
    with whole(files.timing) as temporary:
        temporary.write_text(json.dumps(timing, indent=2) + "\n")
    return timing


def _compute(
    files: Files,
    infer_settings: settings.Infer,
    description: Description,
    contents: segment_files.Contents,
    device: torch.device,
    precision: str,
    batch_size: int,
    threads: int,
) -> engine.Stream:
    """The results of the part's segments, by ecgpipe's own network or by fairseq-signals."""
    with_attention = files.attention is not None
    if infer_settings.fairseq_python:
        python = Path(infer_settings.fairseq_python)
        return fairseq_backend.compute_results(
            python, description, files.segments, contents, device, batch_size, with_attention, threads
        )
    dtype = engine.DTYPES[precision]
    network = networks.load_network(description, files.weights, device, dtype, model=infer_settings.model)
    deterministic = infer_settings.deterministic
    return engine.run(network, files.segments, contents, device, batch_size, with_attention, deterministic)


def _check_backend(files: Files, infer_settings: settings.Infer, precision: str, description: Description) -> None:
    """Refuse settings that the backend of the checkpoint does not have."""
    if (description.backend == "fairseq") != (infer_settings.fairseq_python is not None):
        raise EcgpipeError(
            f"inference.backend: {files.description} is for the backend {description.backend}; fairseq_python "
            "goes with fairseq, and with nothing else"
        )
    if description.backend == "fairseq" and (precision != "float32" or infer_settings.deterministic):
        raise EcgpipeError("inference.backend: fairseq computes in float32 alone, and is not told to be deterministic")
    if files.attention and not description.tokens(description.model_input.window_samples):
        raise EcgpipeError(f"inference.attention: {description.uri} has convolutions and no attention; set it to false")


def write_results(
    files: Files,
    infer_settings: settings.Infer,
    description: Description,
    contents: segment_files.Contents,
    precision: str,
    results: engine.Stream,
) -> None:
    """Write the Parquet files of a part, in a thread beside the computation.

    Args:
        files: Which to write.
        infer_settings: The settings, for the files' metadata.
        description: The checkpoint.
        contents: What the part's shards hold.
        precision: In which the results were computed.
        results: Batch by batch, in the order of the segments.
    """
    facts = settings.add_sha256("infer", infer_settings, segment_files.collect_facts(description, contents))
    facts |= {"precision": precision, "deterministic": infer_settings.deterministic, "backend": description.backend}
    schema_of = {
        files.logits: schemas.logits_schema(description.labels),
        files.embeddings: schemas.embeddings_schema(description.architecture.width),
        files.attention: schemas.attention_schema(description.tokens(contents.samples)),
    }
    with ExitStack() as opened:
        writers = [
            opened.enter_context(parquet.parquet_writer(path, provenance.add_origin(schema, "infer", **facts)))
            for path, schema in schema_of.items()
            if path is not None
        ]

        def write_row_group(batches: list[tuple[Keys, Results]]) -> None:
            for writer, columns in zip(writers, _columns(batches), strict=True):
                writer.write_batch(pa.record_batch(columns, schema=writer.schema))

        with background.write_behind(write_row_group) as write:
            for batches in _row_groups(results):
                write(batches)


def _counted(results: engine.Stream, progress: Progress) -> engine.Stream:
    """The same results, reported to `progress` as they pass."""
    for keys, result in results:
        progress.add(len(keys.record_ids))
        yield keys, result


def _row_groups(results: engine.Stream) -> Iterator[list[tuple[Keys, Results]]]:
    """Gather batches into row groups."""
    batches: list[tuple[Keys, Results]] = []
    rows = 0
    for keys, result in results:
        batches.append((keys, result))
        rows += len(keys.record_ids)
        if rows >= ROW_GROUP:
            yield batches
            batches, rows = [], 0
    if batches:
        yield batches


def _columns(batches: list[tuple[Keys, Results]]) -> list[list[pa.Array]]:
    """For each file its columns, in the order of its schema."""
    keys = Keys.joined([keys for keys, _ in batches])
    ids = pa.array(keys.record_ids, pa.string())
    numbers, starts = pa.array(keys.numbers, pa.int32()), pa.array(keys.starts_s, pa.float32())
    logits, *vectors = (
        np.concatenate(arrays)
        for arrays in zip(*(results for _, results in batches), strict=True)
        if arrays[0] is not None
    )
    return [
        [ids, numbers, starts, *(pa.array(column) for column in logits.T)],
        *([ids, numbers, pa.FixedSizeListArray.from_arrays(pa.array(rows.ravel()), rows.shape[1])] for rows in vectors),
    ]
