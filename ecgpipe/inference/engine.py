"""Run the network over a stream of batches, while the batches to come are read and on their way to the device."""

import ctypes
import logging
import os
import sys
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from ecgpipe.core.errors import EcgpipeError
from ecgpipe.inference import segment_files
from ecgpipe.inference.segment_files import Contents, Keys
from ecgpipe.models.description import Description
from ecgpipe.models.ecg_fm import network as ecg_fm_network
from ecgpipe.models.ecg_fm.network import Network, Output
from ecgpipe.models.ecg_fm.tuning import Tuning, for_device

logger = logging.getLogger(__name__)

T = TypeVar("T")

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}

FIVE_SECONDS = 2500  # samples

# Batches that are read before their turn. A buffer each, and one for the batch being computed and for the one before,
# whose results may still be on their way.
AHEAD = 2

# Full batches that are run before one is recorded as a CUDA graph: a call with few segments is over sooner without.
BEFORE_GRAPH = 2

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
    return ecg_fm_network.ONEDNN and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


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


def default_batch_size(device: torch.device, samples: int, tuning: Tuning | None = None) -> int:
    """How many segments of so many samples to run at a time: fewer of longer ones, which need more memory."""
    return max(1, (tuning or for_device(device)).batch_size * FIVE_SECONDS // max(FIVE_SECONDS, samples))


def run(
    network: Network,
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
        contents: What they hold, by `segment_files.look_at`.
        device: Where the network is.
        batch_size: Segments at a time. Where memory runs out they are halved, for this batch and all that follow.
        with_attention: Whether to compute the attention.
        deterministic: Whether to give up rather than to halve: other products round otherwise.
        tuning: Whether to compile, and to record CUDA graphs. None: as is best on the device.

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
    batches = _checked(_ahead(segment_files.read(paths, buffers)), network.arch.token_samples[1])
    compute = Halving(network, batch_size, with_attention, deterministic, tuning or for_device(device))
    with closing(batches):  # and what reads ahead with it, also where an error is kept and holds on to all this
        yield from _on_gpu(compute, batches, device) if on_gpu else _on_cpu(compute, batches)


def forward(
    network: Network,
    segments: np.ndarray,
    samples: np.ndarray,
    device: torch.device,
    batch_size: int,
    with_attention: bool,
    tuning: Tuning | None = None,
) -> Results:
    """Run the network over segments in memory; they get what `run` gives them.

    Args:
        network: On `device`.
        segments: (n, leads, samples) float32, at least one.
        samples: (n,) how many of each segment's from its beginning are signal.
        device: Where the network is.
        batch_size: Segments at a time, as for `run`.
        with_attention: Whether to compute the attention.
        tuning: As for `run`.

    Returns:
        What the network said of them, in their order.
    """
    compute = Halving(network, batch_size, with_attention, False, tuning or for_device(device))
    batches = []
    for first in range(0, len(segments), batch_size):
        signals = torch.from_numpy(segments[first : first + batch_size]).to(device)
        tensors = compute(signals, samples[first : first + batch_size])
        batches.append([tensor.cpu().numpy() for tensor in tensors])
    return _results([np.concatenate(arrays) for arrays in zip(*batches, strict=True)])


class Halving:
    """The network, run on as many segments at a time as memory turned out to allow, in the way that `tuning` says.

    Where that way turns out not to be there, a line in the log says so, and `tuning` from then on what is done instead.
    """

    def __init__(self, network: Network, limit: int, with_attention: bool, deterministic: bool, tuning: Tuning) -> None:
        self.network, self.limit, self.tuning = network, limit, tuning
        self.with_attention, self.deterministic = with_attention, deterministic
        self.said = ""  # by what ran out of memory last
        self.seen = 0  # full batches without padding
        self.compiled: Callable[..., Output] | None = None
        self.replay: Callable[[Tensor], Output] | None = None  # of a CUDA graph, for `limit` segments

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
                output = self._output(signals, samples)
        except (RuntimeError, MemoryError) as error:
            if out_of_memory(error):
                self.said = str(error).partition("\n")[0]
                return None
            raise
        logits = output.logits if output.logits is not None else output.embedding[:, :0]  # (n, 0) without a head
        tensors = [logits, output.embedding, *([output.attention] if output.attention is not None else [])]
        return [tensor[:segments] for tensor in tensors]

    def _output(self, signals: Tensor, samples: np.ndarray) -> Output:
        """What the network says of `limit` segments.

        Padding is read by Python and differs from batch to batch: such a batch is neither compiled nor recorded.
        """
        tokens = self.network.arch.tokens
        if tokens(int(samples.min())) < tokens(signals.shape[2]):
            padded: Output = self.network(signals, torch.from_numpy(samples), self.with_attention)
            return padded
        self.seen += 1
        recording = self.tuning.graphs and self.seen > BEFORE_GRAPH
        try:
            if recording and self.replay is None:
                self.replay = captured(self._step, signals)
            return self.replay(signals) if self.replay is not None else self._step(signals)
        except Exception as error:
            if out_of_memory(error) or not (recording or self.tuning.compiled):
                raise
            what, self.tuning = (
                ("CUDA graphs", replace(self.tuning, graphs=False))
                if recording
                else ("torch.compile", replace(self.tuning, compiled=False))
            )
            self.compiled = self.replay = None
            logger.warning("going on without %s: %s", what, str(error).partition("\n")[0] or type(error).__name__)
        return self._output(signals, samples)

    def _step(self, signals: Tensor) -> Output:
        """The network on segments without padding, compiled where that is wanted."""
        if self.tuning.compiled and self.compiled is None:
            self.network(signals[:1], None, self.with_attention)  # what is made once and kept is not to be compiled
            self.compiled = torch.compile(self.network, dynamic=False)
        step = self.network if self.compiled is None else self.compiled
        output: Output = step(signals, None, self.with_attention)
        return output

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
        self.limit, self.replay = tried // 2, None
        logger.warning("out of memory with %d segments at a time; going on with %d", tried, self.limit)
        if signals.device.type == "cuda":
            torch.cuda.empty_cache()
        else:
            return_memory()


def captured(step: Callable[[Tensor], Output], signals: Tensor) -> Callable[[Tensor], Output]:
    """A step recorded as a CUDA graph, which launches all its kernels at once: they need no Python in between.

    Args:
        step: Runs on the current stream and never waits for the GPU. It has run before, so that all is there that is
            made once, and its memory is known to suffice.
        signals: A batch of the shape that all will have.

    Returns:
        A function that does what the step did, on the current stream. Its outputs are the caller's own.

    Raises:
        RuntimeError: The step cannot be recorded, or not here.
    """
    if signals.device.type != "cuda":
        raise RuntimeError(f"a {signals.device.type} has none")
    given = signals.clone()
    usual, aside = torch.cuda.current_stream(signals.device), torch.cuda.Stream(signals.device)  # type: ignore[no-untyped-call]
    aside.wait_stream(usual)
    with torch.cuda.stream(aside):
        step(given)  # once on that stream, where libraries make their working memory
    graph = torch.cuda.CUDAGraph()
    # Only this thread is watched for what a graph cannot hold: others may read and write files meanwhile.
    with torch.cuda.graph(graph, stream=aside, capture_error_mode="thread_local"):
        made = step(given)
    usual.wait_stream(aside)

    def replay(signals: Tensor) -> Output:
        given.copy_(signals)
        graph.replay()
        return Output._make(None if tensor is None else tensor.clone() for tensor in made)

    return replay


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


def _checked(batches: Iterator[tuple[Keys, Tensor]], least: int) -> Generator[tuple[Keys, Tensor]]:
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
