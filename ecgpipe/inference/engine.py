"""Run the network over a stream of batches, while the batches to come are read and on their way to the device."""

import logging
import os
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ecgpipe.core.errors import EcgpipeError
from ecgpipe.inference import segment_files
from ecgpipe.inference.background import AHEAD, read_ahead
from ecgpipe.inference.batch import BatchRunner
from ecgpipe.inference.memory import keep_memory
from ecgpipe.inference.segment_files import Contents, Keys, Staging
from ecgpipe.models.description import Description
from ecgpipe.models.ecg_fm import network as ecg_fm_network
from ecgpipe.models.ecg_fm.tuning import Tuning, for_device
from ecgpipe.models.output import AnyNetwork

logger = logging.getLogger(__name__)

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}

FIVE_SECONDS = 2500  # samples


class Results(NamedTuple):
    """The network's outputs for the segments of a batch, float32."""

    logits: np.ndarray  # (n, labels), with 0 labels where the network has no head
    embedding: np.ndarray  # (n, width)
    attention: np.ndarray | None  # (n, tokens)


def check(description: Description, contents: Contents) -> None:
    """Refuse segments that the network cannot take.

    Raises:
        EcgpipeError: They have another number of leads, or are too short for one token.
    """
    arch = description.architecture
    rows = 1 if description.model_input.is_joined else contents.leads
    if rows != arch.in_leads:
        raise EcgpipeError(
            f"checkpoint: {description.uri} takes {arch.in_leads} leads, but a segment has {contents.leads}; "
            "only checkpoints of ECG-FM's kind can be run"
        )
    if contents.samples < arch.token_samples[1] and not description.tokens(contents.samples):
        raise EcgpipeError(
            f"checkpoint: {description.uri} needs {arch.token_samples[1]} samples for one token, but a segment has "
            f"{contents.samples}; make the segments longer"
        )


def has_bfloat16() -> bool:
    """Whether the CPU multiplies matrices in bfloat16: AVX-512 or newer on x86. It takes AMX to be fast."""
    return ecg_fm_network.ONEDNN and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def usable(precision: str, device: torch.device) -> str:
    """The precision, or float32 where the device cannot compute in it; then a line in the log says so."""
    reason = None
    if device.type == "cpu" and precision == "float16":
        reason = "a CPU computes in float32 or bfloat16"
    elif device.type == "cpu" and precision == "bfloat16" and not has_bfloat16():
        reason = "this CPU has no instructions for it"
    elif device.type == "cuda" and precision == "bfloat16" and not torch.cuda.is_bf16_supported(False):
        reason = "the GPU is older than bfloat16; it could float16"
    if reason is None:
        return precision
    logger.warning("inference.precision: %s becomes float32: %s", precision, reason)
    return "float32"


def configure(threads: int, deterministic: bool) -> None:
    """Set up PyTorch for this process, before it touches a device.

    Args:
        threads: Of the CPU, for one operation.
        deterministic: Whether a run is to give the same bits again, on the same kind of machine with as many threads.
    """
    keep_memory()
    torch.set_num_threads(threads)
    # TF32 would round float32 products to ten bits.
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    if deterministic:
        # cuBLAS needs it, https://docs.nvidia.com/cuda/cublas/#results-reproducibility
        os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"
        # As torch.use_deterministic_algorithms(True), which takes 2.6 s to load torch.compile's compiler and switch it.
        # A user's own model may load that later.
        torch.set_deterministic_debug_mode("error")
        os.environ["TORCHINDUCTOR_DETERMINISTIC"] = "1"
        # It costs time, and nothing here reads such memory.
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


def least_bytes(weights: Path) -> int:
    """The memory that a GPU needs at least: the weights, once more while they are converted, and 0.2 GB to work in."""
    return 2 * weights.stat().st_size + 200_000_000


Stream = Iterator[tuple[Keys, Results]]  # batch by batch, in the order of the segments


def default_batch_size(device: torch.device, samples: int, tuning: Tuning | None = None) -> int:
    """How many segments of `samples` samples to run at a time: fewer of longer ones, which need more memory."""
    return max(1, (tuning or for_device(device)).batch_size * FIVE_SECONDS // max(FIVE_SECONDS, samples))


def run(
    network: AnyNetwork,
    paths: Sequence[Path],
    contents: Contents,
    device: torch.device,
    batch_size: int,
    with_attention: bool,
    deterministic: bool = False,
    tuning: Tuning | None = None,
) -> Stream:
    """Run the network over all segments of some shards, in order.

    Args:
        network: On `device`.
        paths: The shards.
        contents: What they hold, by `segment_files.inspect_shards`.
        device: Where the network is.
        batch_size: Segments at a time. Where memory runs out they are halved, for this batch and all that follow.
        with_attention: Whether to compute the attention.
        deterministic: Whether to give up rather than to halve: other products round otherwise.
        tuning: Whether to compile, and to record CUDA graphs. None: as is best on the device.

    Yields:
        The keys of a batch, and the network's outputs for it.

    Raises:
        EcgpipeError: A segment is too short for one token, or a single one needs more memory than there is.
    """
    shape, segments = (contents.leads, contents.samples), max(1, contents.segments)
    on_gpu = device.type == "cuda"
    size = min(batch_size, segments)
    reading: Iterator[tuple[Keys, Tensor | Staging]]
    try:
        if on_gpu:
            reading = segment_files.read_batches(paths, [Staging(size, *shape, pinned=True) for _ in range(AHEAD + 2)])
        else:
            reading = segment_files.read_batches(paths, [torch.empty(size, *shape) for _ in range(AHEAD + 2)])
    except RuntimeError as error:
        raise EcgpipeError(
            f"inference.batch_size: there is no memory to read {size} segments at a time; give fewer"
        ) from error
    batches = _checked(read_ahead(reading), network.arch.token_samples[1])
    compute = BatchRunner(network, batch_size, with_attention, deterministic, tuning or for_device(device))
    with closing(batches):  # and what reads ahead with it, also where an error is kept and holds on to all this
        yield from _on_gpu(compute, batches, device) if on_gpu else _in_turn(compute, batches, device)


def forward(
    network: AnyNetwork,
    segments: np.ndarray,
    samples: np.ndarray,
    device: torch.device,
    batch_size: int,
    with_attention: bool,
    tuning: Tuning | None = None,
) -> Results:
    """Run the network over segments in memory; they get the outputs that `run` gives them.

    Args:
        network: On `device`.
        segments: (n, leads, samples) float32, at least one.
        samples: (n,) how many of each segment's from its beginning are signal.
        device: Where the network is.
        batch_size: Segments at a time, as for `run`.
        with_attention: Whether to compute the attention.
        tuning: As for `run`.

    Returns:
        The network's outputs, in their order.
    """
    compute = BatchRunner(network, batch_size, with_attention, False, tuning or for_device(device))
    batches = []
    for first in range(0, len(segments), batch_size):
        signals = torch.from_numpy(segments[first : first + batch_size]).to(device)
        tensors = compute(signals, samples[first : first + batch_size])
        batches.append([tensor.cpu().numpy() for tensor in tensors])
    return _results([np.concatenate(arrays) for arrays in zip(*batches, strict=True)])


def _in_turn(compute: BatchRunner, batches: Iterator[tuple[Keys, Tensor | Staging]], device: torch.device) -> Stream:
    """On the CPU, or on a device that is waited for."""
    for keys, signals in batches:
        tensors = compute(signals.to(device), keys.samples)
        yield keys, _results([tensor.cpu().numpy() for tensor in tensors])


def _on_gpu(compute: BatchRunner, batches: Iterator[tuple[Keys, Tensor | Staging]], device: torch.device) -> Stream:
    """While the GPU computes a batch, the results before it are handed on and the next one is copied."""
    copying = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    computing = torch.cuda.current_stream(device)
    under_way: tuple[Keys, list[Tensor], torch.cuda.Event] | None = None
    for keys, staged in batches:
        with torch.cuda.stream(copying):
            signals = staged.to(device, non_blocking=True)
        computing.wait_stream(copying)
        signals.record_stream(computing)
        tensors = [_to_host(tensor) for tensor in compute(signals, keys.samples)]
        done = computing.record_event()
        if under_way is not None:
            yield _arrived(*under_way)
        under_way = keys, tensors, done
    if under_way is not None:
        yield _arrived(*under_way)


def _to_host(tensor: Tensor) -> Tensor:
    return torch.empty_like(tensor, device="cpu", pin_memory=True).copy_(tensor, non_blocking=True)


def _arrived(keys: Keys, tensors: list[Tensor], done: torch.cuda.Event) -> tuple[Keys, Results]:
    done.synchronize()
    return keys, _results([tensor.numpy() for tensor in tensors])


def _results(arrays: list[np.ndarray]) -> Results:
    # Copies: small tensors that stay between large ones that go leave the heap in pieces, and it grows and grows.
    logits, embedding, *attention = (array.copy() for array in arrays)
    return Results(logits, embedding, attention[0] if attention else None)


def _checked(batches: Iterator[tuple[Keys, Tensor | Staging]], least: int) -> Generator[tuple[Keys, Tensor | Staging]]:
    """Refuse segments with too little signal for one token."""
    for keys, signals in batches:
        shortest = int(keys.samples.argmin())
        if keys.samples[shortest] < least:
            raise EcgpipeError(
                f"segment {keys.numbers[shortest]} of {keys.record_ids[shortest]} has {keys.samples[shortest]} samples "
                f"of signal, but the network needs {least} for one token; leave out recordings that short"
            )
        yield keys, signals
