"""Run the network over a stream of batches, while the batches to come are read and on their way to the device."""

import ctypes
import logging
import os
import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from ecgpipe import model, shards
from ecgpipe.checkpoint import Description
from ecgpipe.errors import EcgpipeError
from ecgpipe.model import Network
from ecgpipe.shards import Contents, Keys

logger = logging.getLogger(__name__)

T = TypeVar("T")

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}

# Segments of five seconds at a time. On a CPU what was fastest in benchmarks/forward.py, more leave its caches. A GPU
# wants many at once; by the arithmetic twice as many are no faster there, though none has been measured.
BATCH_SIZES = {"cpu": 16, "cuda": 256}
FIVE_SECONDS = 2500  # samples

# Batches that are read before their turn. A buffer each, and one for the batch being computed and for the one before,
# whose results may still be on their way.
AHEAD = 2

# Names of what can be set, in glibc's malloc.h.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3

# What PyTorch's allocator and oneDNN say on a CPU when memory has run out; the latter cannot even make its code then.
EXHAUSTED = ("can't allocate memory", "not enough memory", "bad_alloc", "memory object", "could not create a primitive")


class Results(NamedTuple):
    """What the network said of the segments of a batch, float32."""

    logits: np.ndarray  # (n, labels), with 0 labels where the network has no head
    embedding: np.ndarray  # (n, width)
    attention: np.ndarray | None  # (n, tokens)


def check(description: Description, contents: Contents) -> None:
    """Refuse segments that the network cannot take.

    Raises:
        EcgpipeError: They have another number of leads, or are too short for one token.
    """
    arch = description.architecture
    if contents.leads != arch.in_leads:
        raise EcgpipeError(
            f"checkpoint: {description.uri} takes {arch.in_leads} leads, but a segment has {contents.leads}; "
            "only checkpoints of ECG-FM's kind can be run"
        )
    if not arch.tokens(contents.samples):
        raise EcgpipeError(
            f"checkpoint: {description.uri} needs {arch.token_samples[1]} samples for one token, but a segment has "
            f"{contents.samples}; make the segments longer"
        )


def has_bfloat16() -> bool:
    """Whether the CPU multiplies matrices in bfloat16: AVX-512 or newer on x86. It takes AMX to be fast."""
    return model.ONEDNN and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def usable(precision: str, device: torch.device) -> str:
    """That precision, or float32 where the device cannot compute in it, and then a line in the log says so."""
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
        # What cuBLAS wants for it, https://docs.nvidia.com/cuda/cublas/#results-reproducibility
        os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"
        torch.use_deterministic_algorithms(True)
        # Costs time, and nothing here reads such memory.
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


def least_bytes(weights: Path) -> int:
    """How much memory a GPU needs at least: the weights, once more while they are converted, and 0.2 GB to work in."""
    return 2 * weights.stat().st_size + 200_000_000


Stream = Iterator[tuple[Keys, Results]]  # batch by batch, in the order of the segments


def default_batch_size(device: torch.device, samples: int) -> int:
    """How many segments of so many samples to run at a time: fewer of longer ones, which need more memory."""
    return max(1, BATCH_SIZES[device.type] * FIVE_SECONDS // max(FIVE_SECONDS, samples))


def run(
    network: Network,
    paths: Sequence[Path],
    contents: Contents,
    device: torch.device,
    batch_size: int,
    with_attention: bool,
    deterministic: bool = False,
) -> Stream:
    """Run the network over all segments of some shards, in order.

    Args:
        network: On `device`.
        paths: The shards.
        contents: What they hold, by `shards.look_at`.
        device: Where the network is.
        batch_size: Segments at a time. Where memory runs out they are halved, for this batch and all that follow.
        with_attention: Whether to compute the attention.
        deterministic: Whether to give up rather than to halve: other products round otherwise.

    Yields:
        The keys of a batch, and what the network said of it.

    Raises:
        EcgpipeError: A segment is too short for one token, or a single one needs more memory than there is.
    """
    shape, segments = (contents.leads, contents.samples), max(1, contents.segments)
    on_gpu = device.type == "cuda"
    size = min(batch_size, segments)
    try:
        buffers = [torch.empty(size, *shape, pin_memory=on_gpu) for _ in range(AHEAD + 2)]
    except RuntimeError as error:
        raise EcgpipeError(
            f"inference.batch_size: there is no memory to read {size} segments at a time; give fewer"
        ) from error
    batches = _checked(_ahead(shards.read(paths, buffers)), network.arch.token_samples[1])
    compute = Halving(network, batch_size, with_attention, deterministic)
    yield from _on_gpu(compute, batches, device) if on_gpu else _on_cpu(compute, batches)


def forward(
    network: Network,
    segments: np.ndarray,
    samples: np.ndarray,
    device: torch.device,
    batch_size: int,
    with_attention: bool,
) -> Results:
    """Run the network over segments in memory; they get what `run` gives them.

    Args:
        network: On `device`.
        segments: (n, leads, samples) float32, at least one.
        samples: (n,) how many of each segment's from its beginning are signal.
        device: Where the network is.
        batch_size: Segments at a time, as for `run`.
        with_attention: Whether to compute the attention.

    Returns:
        What the network said of them, in their order.
    """
    compute = Halving(network, batch_size, with_attention, deterministic=False)
    batches = []
    for first in range(0, len(segments), batch_size):
        signals = torch.from_numpy(segments[first : first + batch_size]).to(device)
        tensors = compute(signals, samples[first : first + batch_size])
        batches.append([tensor.cpu().numpy() for tensor in tensors])
    return _results([np.concatenate(arrays) for arrays in zip(*batches, strict=True)])


class Halving:
    """The network, run on as many segments at a time as memory turned out to allow."""

    def __init__(self, network: Network, limit: int, with_attention: bool, deterministic: bool) -> None:
        self.network, self.limit = network, limit
        self.with_attention, self.deterministic = with_attention, deterministic
        self.said = ""  # by what ran out of memory last

    def __call__(self, signals: Tensor, samples: np.ndarray) -> list[Tensor]:
        """Logits, embedding and, where asked for, attention of a batch, on its device."""
        pieces, first = [], 0
        while first < len(signals):
            last = first + self.limit
            tensors = self._try(signals[first:last], samples[first:last])
            # Not where the error is caught: as long as it is, it holds on to the arrays that filled the memory.
            if tensors is None:
                self._halve(signals)
            else:
                pieces.append(tensors)
                first = last
        return [torch.cat(parts) for parts in zip(*pieces, strict=True)] if len(pieces) > 1 else pieces[0]

    def _try(self, signals: Tensor, samples: np.ndarray) -> list[Tensor] | None:
        """The outputs, or None where memory ran out.

        A batch is filled up: one of another size rounds otherwise, and the numbers of the last ones in a part must not
        depend on whether others follow them.
        """
        segments, missing = len(signals), self.limit - len(signals)
        try:
            with torch.inference_mode():
                if missing:
                    signals = torch.cat([signals, signals.new_zeros(missing, *signals.shape[1:])])
                    samples = np.append(samples, np.full(missing, signals.shape[2], samples.dtype))
                output = self.network(signals, torch.from_numpy(samples), self.with_attention)
        except (RuntimeError, MemoryError) as error:
            if out_of_memory(error):
                self.said = str(error).partition("\n")[0]
                return None
            raise
        logits = output.logits if output.logits is not None else output.embedding[:, :0]  # (n, 0) without a head
        tensors = [logits, output.embedding, *([output.attention] if output.attention is not None else [])]
        return [tensor[:segments] for tensor in tensors]

    def _halve(self, signals: Tensor) -> None:
        tried = self.limit
        if tried == 1:
            raise EcgpipeError(
                f"inference.device: {signals.device} has too little memory for one segment of {signals.shape[2]} "
                f"samples ({self.said}); free some, or give another device or shorter segments"
            )
        if self.deterministic:
            raise EcgpipeError(
                f"inference.batch_size: {signals.device} has too little memory for {tried} segments at a time, and "
                f"with inference.deterministic their number is not changed during a run; give {tried // 2} or fewer"
            )
        self.limit = tried // 2
        logger.warning("out of memory with %d segments at a time; going on with %d", tried, self.limit)
        if signals.device.type == "cuda":
            torch.cuda.empty_cache()
        else:
            return_memory()


def out_of_memory(error: BaseException) -> bool:
    """Whether an error means that memory ran out: CUDA has a class for it, the code for CPUs only texts."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or any(text in str(error) for text in EXHAUSTED)


def _on_cpu(compute: Halving, batches: Iterator[tuple[Keys, Tensor]]) -> Stream:
    for keys, signals in batches:
        yield keys, _results([tensor.numpy() for tensor in compute(signals, keys.samples)])


def _on_gpu(compute: Halving, batches: Iterator[tuple[Keys, Tensor]], device: torch.device) -> Stream:
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


def _checked(batches: Iterator[tuple[Keys, Tensor]], least: int) -> Iterator[tuple[Keys, Tensor]]:
    """Refuse segments with too little signal for one token."""
    for keys, signals in batches:
        shortest = int(keys.samples.argmin())
        if keys.samples[shortest] < least:
            raise EcgpipeError(
                f"segment {keys.numbers[shortest]} of {keys.record_ids[shortest]} has {keys.samples[shortest]} samples "
                f"of signal, but the network needs {least} for one token; leave out recordings that short"
            )
        yield keys, signals


def _ahead(items: Iterator[T]) -> Iterator[T]:
    """The same items, of which the next AHEAD are made in a thread meanwhile."""
    end: Any = object()
    with ThreadPoolExecutor(1, "read") as thread:
        coming = deque(thread.submit(next, items, end) for _ in range(AHEAD))
        while (item := coming.popleft().result()) is not end:
            coming.append(thread.submit(next, items, end))
            yield item


@contextmanager
def behind(work: Callable[[T], None]) -> Iterator[Callable[[T], None]]:
    """A function that has `work` done in a thread, and waits only when more than AHEAD are not done yet.

    What `work` raises is raised by one of the next calls, or at the end of the block, which waits for all.
    """
    waiting: deque[Future[None]] = deque()

    def later(item: T) -> None:
        waiting.append(thread.submit(work, item))
        while len(waiting) > AHEAD:
            waiting.popleft().result()

    with ThreadPoolExecutor(1, "write") as thread:
        yield later
        for future in waiting:
            future.result()


def keep_memory() -> None:
    """Let the process keep the memory that it frees: given back after each layer, it would be cleared for the next.

    Costs 9 % of the time of a forward pass in float32 otherwise. Only glibc has this; elsewhere nothing happens.
    """
    if mallopt := _glibc("mallopt"):
        # Arrays below this size are not mapped one by one. An older glibc takes no more than the second.
        _ = mallopt(M_MMAP_THRESHOLD, 2**30) or mallopt(M_MMAP_THRESHOLD, 2**25)
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)  # what is free at the end of the heap stays


def return_memory() -> None:
    """Give back to the system what is free, from now on too: others than the heap need memory, oneDNN for its code."""
    if (mallopt := _glibc("mallopt")) and (malloc_trim := _glibc("malloc_trim")):
        mallopt(M_MMAP_THRESHOLD, 2**17)
        mallopt(M_TRIM_THRESHOLD, 2**17)
        malloc_trim(0)


def _glibc(name: str) -> Callable[..., int] | None:
    """A function of glibc, where there is one."""
    return getattr(ctypes.CDLL(None), name, None) if sys.platform == "linux" else None
