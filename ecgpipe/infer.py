"""Run the model over one part, shard by shard: logits, embeddings, and the last layer's attention."""

import argparse
import json
import logging
import platform
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import torch

from ecgpipe import checkpoint, model, tables
from ecgpipe.atomic import whole
from ecgpipe.errors import EcgpipeError
from ecgpipe.log import Progress

logger = logging.getLogger(__name__)

# Segments of five seconds at a time. What was fastest in benchmarks/forward.py on a CPU, whose caches a larger batch
# leaves; a GPU wants many at once.
BATCH_SIZES = {"cpu": 8, "cuda": 128}
FIVE_SECONDS = 2500  # samples

# Rows per row group: 3 MB of embeddings, what is held back before it is written.
ROW_GROUP = 1024


class Keys(NamedTuple):
    """Which segments the rows of a batch are, and how much of each is signal."""

    record_ids: list[str]
    numbers: np.ndarray  # (n,) int32
    starts_s: np.ndarray  # (n,) float32
    samples: np.ndarray  # (n,) int32, how many from the beginning are signal, not padding


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `python -m ecgpipe infer`."""
    parser.add_argument("--weights", type=Path, required=True, help="checkpoint/model.safetensors")
    parser.add_argument("--description", type=Path, required=True, help="checkpoint/model.json")
    parser.add_argument("--segments", type=Path, nargs="+", required=True, help="the part's shards, in order")
    parser.add_argument("--logits", type=Path, required=True, help="Parquet file to write")
    parser.add_argument("--embeddings", type=Path, required=True, help="Parquet file to write")
    parser.add_argument("--attention", type=Path, help="Parquet file to write; left out, no attention is computed")
    parser.add_argument("--timing", type=Path, required=True, help="JSON file to write: segments, seconds, device")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (default %(default)s)")
    parser.add_argument(
        "--batch-size",
        type=int,
        help="segments at a time (default: 8 on a CPU, 128 on a GPU, fewer if longer than 5 s)",
    )
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default %(default)s)")


def run(args: argparse.Namespace) -> None:
    """Infer one part."""
    torch.set_num_threads(args.threads)
    # TF32 would round float32 products to ten bits.
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    description = checkpoint.describe(args.description)
    device = choose_device(args.device)
    network = model.load(description.architecture, args.weights, device)
    logger.info("%s on %s, %d threads", description.uri, device_name(device), args.threads)

    arch = description.architecture
    preprocess, leads, samples, total = _look_at(args.segments)
    if leads != arch.in_leads:
        raise EcgpipeError(
            f"checkpoint: {description.uri} takes {arch.in_leads} leads, but a segment has {leads}; "
            "only checkpoints of ECG-FM's kind can be run"
        )
    if not arch.tokens(samples):
        raise EcgpipeError(
            f"checkpoint: {description.uri} needs {arch.token_samples[1]} samples for one token, but a segment has "
            f"{samples}; make the segments longer"
        )
    facts = {"checkpoint_sha256": description.sha256, "checkpoint": description.uri, "preprocess": preprocess}
    schemas = {
        args.logits: tables.logits_schema(description.labels),
        args.embeddings: tables.embeddings_schema(arch.width),
        args.attention: tables.attention_schema(arch.tokens(samples)),
    }
    progress = Progress(args.logits.stem, total, "segments")
    with ExitStack() as files:
        writers = [
            files.enter_context(
                tables.parquet_writer(path, tables.with_origin(schema, "infer", precision="float32", **facts))
            )
            for path, schema in schemas.items()
            if path is not None
        ]
        batch_size = args.batch_size or default_batch_size(device, samples)
        batches = read_segments(args.segments, leads, batch_size)
        for rows in _row_groups(_infer(network, batches, device, args.attention is not None, progress)):
            for writer, row_group in zip(writers, rows, strict=True):
                writer.write_batch(pa.record_batch(row_group, schema=writer.schema))
    progress.say()
    timing = {
        "segments": progress.done,
        "seconds": round(progress.elapsed_s, 3),
        "device": device_name(device),
        "threads": args.threads,
        "batch_size": batch_size,
    }
    with whole(args.timing) as temporary:
        temporary.write_text(json.dumps(timing, indent=2) + "\n")


def choose_device(name: str) -> torch.device:
    """The device of that name; `auto` is a GPU where there is one.

    Raises:
        EcgpipeError: The device is not there.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        device = torch.device("meta")
    if device.type not in BATCH_SIZES:
        raise EcgpipeError(f"inference.device: {name!r} is no device; give auto, cpu, cuda or cuda:N")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        sees = f"PyTorch {torch.__version__} sees {torch.cuda.device_count()} GPUs"
        raise EcgpipeError(
            f"inference.device: {name!r} is not there, {sees}; "
            "give auto or cpu, or install a PyTorch that fits the driver"
        )
    return device


def default_batch_size(device: torch.device, samples: int) -> int:
    """How many segments of so many samples to run at a time: fewer of longer ones, which need more memory."""
    return max(1, BATCH_SIZES[device.type] * FIVE_SECONDS // max(FIVE_SECONDS, samples))


def device_name(device: torch.device) -> str:
    """The device as a person knows it, e.g. "NVIDIA H100 80GB HBM3" or "CPU (x86_64)"."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"CPU ({platform.processor() or platform.machine()})"


def read_segments(paths: Sequence[Path], leads: int, batch_size: int) -> Iterator[tuple[Keys, np.ndarray]]:
    """Yield the segments of some shards in order, a batch at a time, and their signals (n, leads, samples) float32.

    One record batch is in memory at a time. It is read rather than mapped: pages of a mapped file count as the
    process's memory until it ends, so that a job would seem to need as much as its shards are large.
    """
    pool = pa.system_memory_pool()  # Arrow's own keeps for itself what was freed
    for path in paths:
        with (
            pa.OSFile(str(path), memory_pool=pool) as file,
            pa.ipc.open_file(file, memory_pool=pool) as reader,
        ):
            for i in range(reader.num_record_batches):
                batch = reader.get_batch(i)
                signals = batch["signal"].flatten().to_numpy().reshape(batch.num_rows, leads, -1)  # (n, leads, samples)
                ids = batch["record_id"].to_pylist()
                # Copies: a view would keep the whole batch, signals and all, for as long as the keys are held.
                numbers, starts, counts = (batch[name].to_numpy().copy() for name in ("segment", "start_s", "samples"))
                for first in range(0, batch.num_rows, batch_size):
                    rows = slice(first, first + batch_size)
                    yield Keys(ids[rows], numbers[rows], starts[rows], counts[rows]), signals[rows]
                del batch, signals  # before the next one is read


def _look_at(paths: Sequence[Path]) -> tuple[dict[str, object], int, int, int]:
    """What made the shards, and how many leads, samples and segments they have."""
    total, preprocess = 0, None
    for path in paths:
        with pa.memory_map(str(path)) as file, pa.ipc.open_file(file) as reader:
            if "samples" not in reader.schema.names:
                raise EcgpipeError(
                    f"{path} is of an older ecgpipe, without the column samples; delete it and run again"
                )
            made_by = tables.origin(reader.schema)["preprocess"]
            if preprocess not in (None, made_by):
                raise EcgpipeError(f"{path} and {paths[0]} were preprocessed differently; delete one and run again")
            preprocess = made_by
            total += sum(reader.get_batch(i).num_rows for i in range(reader.num_record_batches))
    assert preprocess is not None  # noqa: S101, argparse asks for at least one shard
    return preprocess, len(preprocess["leads"]), preprocess["segment_samples"], total


def _infer(
    network: model.Network,
    batches: Iterator[tuple[Keys, np.ndarray]],
    device: torch.device,
    with_attention: bool,
    progress: Progress,
) -> Iterator[tuple[Keys, list[np.ndarray]]]:
    """Yield each batch with the logits (n, labels), embeddings (n, width) and attention (n, tokens) where asked for."""
    least = network.arch.token_samples[1]
    for keys, signals in batches:
        shortest = int(keys.samples.argmin())
        if keys.samples[shortest] < least:
            raise EcgpipeError(
                f"segment {keys.numbers[shortest]} of {keys.record_ids[shortest]} has {keys.samples[shortest]} samples "
                f"of signal, but the network needs {least} for one token; leave out recordings that short"
            )
        with torch.inference_mode():
            output = network(torch.tensor(signals, device=device), torch.from_numpy(keys.samples), with_attention)
        del signals  # a view of the whole record batch, which may now be replaced by the next
        logits = output.logits if output.logits is not None else output.embedding[:, :0]  # (n, 0) without a head
        tensors = [logits, output.embedding] + ([output.attention] if output.attention is not None else [])
        # Copies: small tensors that stay between large ones that go leave the heap in pieces, and it grows and grows.
        arrays = [tensor.cpu().numpy().copy() for tensor in tensors]
        progress.add(len(keys.record_ids))
        yield keys, arrays


def _row_groups(results: Iterator[tuple[Keys, list[np.ndarray]]]) -> Iterator[list[list[pa.Array]]]:
    """Gather batches into row groups: for each file its columns, in the order of its schema."""
    held: list[tuple[Keys, list[np.ndarray]]] = []
    rows = 0
    for result in results:
        held.append(result)
        rows += len(result[0].record_ids)
        if rows >= ROW_GROUP:
            yield _columns(held)
            held, rows = [], 0
    if held:
        yield _columns(held)


def _columns(held: list[tuple[Keys, list[np.ndarray]]]) -> list[list[pa.Array]]:
    ids = pa.array([record_id for keys, _ in held for record_id in keys.record_ids], pa.string())
    numbers = pa.array(np.concatenate([keys.numbers for keys, _ in held]), pa.int32())
    starts = pa.array(np.concatenate([keys.starts_s for keys, _ in held]), pa.float32())
    logits, *vectors = (np.concatenate(arrays) for arrays in zip(*(arrays for _, arrays in held), strict=True))
    return [
        [ids, numbers, starts, *(pa.array(column) for column in logits.T)],
        *([ids, numbers, pa.FixedSizeListArray.from_arrays(pa.array(rows.ravel()), rows.shape[1])] for rows in vectors),
    ]
