"""Run the network on one batch: on fewer segments at a time where memory runs out, compiled or as a CUDA graph."""

import logging
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from ecgpipe.core.errors import EcgpipeError
from ecgpipe.inference.memory import is_out_of_memory, return_memory
from ecgpipe.models.ecg_fm.tuning import Tuning
from ecgpipe.models.output import AnyNetwork, Output

logger = logging.getLogger(__name__)

# Full batches that are run before one is recorded as a CUDA graph: a call with few segments is faster without.
BEFORE_GRAPH = 2


class BatchRunner:
    """The network, run on as many segments at a time as memory allows, compiled or recorded as `tuning` says.

    Where compiling or recording fails, a line in the log says so, `tuning` is changed, and the network runs without.

    Attributes:
        limit: Segments at a time; halved each time that memory runs out.
        tuning: The way in which the network runs from now on.
    """

    def __init__(
        self, network: AnyNetwork, limit: int, with_attention: bool, deterministic: bool, tuning: Tuning
    ) -> None:
        self.network, self.limit, self.tuning = network, limit, tuning
        self.with_attention, self.deterministic = with_attention, deterministic
        self.memory_error = ""  # the message when memory ran out last
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
            if is_out_of_memory(error):
                self.memory_error = str(error).partition("\n")[0]
                return None
            raise
        logits = output.logits if output.logits is not None else output.embedding[:, :0]  # (n, 0) without a head
        tensors = [logits, output.embedding, *([output.attention] if output.attention is not None else [])]
        return [tensor[:segments] for tensor in tensors]

    def _output(self, signals: Tensor, samples: np.ndarray) -> Output:
        """The network's outputs for `limit` segments.

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
                self.replay = capture_graph(self._step, signals)
            return self.replay(signals) if self.replay is not None else self._step(signals)
        except Exception as error:
            if is_out_of_memory(error) or not (recording or self.tuning.compiled):
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
        """The network on segments without padding, compiled where `tuning` says so."""
        if self.tuning.compiled and self.compiled is None:
            self.network(signals[:1], None, self.with_attention)  # what is computed once and kept must not be compiled
            self.compiled = torch.compile(self.network, dynamic=False)
        step = self.network if self.compiled is None else self.compiled
        output: Output = step(signals, None, self.with_attention)
        return output

    def _halve(self, signals: Tensor) -> None:
        tried = self.limit
        if tried == 1:
            raise EcgpipeError(
                f"inference.device: {signals.device} has too little memory for one segment of {signals.shape[2]} "
                f"samples ({self.memory_error}); free some, or give another device or shorter segments"
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


def capture_graph(step: Callable[[Tensor], Output], signals: Tensor) -> Callable[[Tensor], Output]:
    """Record a step as a CUDA graph, which launches all its kernels at once: no Python runs between them.

    Args:
        step: Runs on the current stream and never waits for the GPU. It has run before, so that what is allocated once
            exists, and its memory is known to suffice.
        signals: A batch of the shape that all will have.

    Returns:
        A function that does what the step did, on the current stream. Its outputs are the caller's own.

    Raises:
        RuntimeError: The step cannot be recorded, or not here.
    """
    if signals.device.type != "cuda":
        raise RuntimeError(f"a {signals.device.type} has none")
    input_signals = signals.clone()
    usual, aside = torch.cuda.current_stream(signals.device), torch.cuda.Stream(signals.device)  # type: ignore[no-untyped-call]
    aside.wait_stream(usual)
    with torch.cuda.stream(aside):
        step(input_signals)  # once on that stream, where libraries make their working memory
    graph = torch.cuda.CUDAGraph()
    # Only this thread is watched for what a graph cannot hold: others may read and write files meanwhile.
    with torch.cuda.graph(graph, stream=aside, capture_error_mode="thread_local"):
        outputs = step(input_signals)
    usual.wait_stream(aside)

    def replay(signals: Tensor) -> Output:
        input_signals.copy_(signals)
        graph.replay()
        return Output._make(None if tensor is None else tensor.clone() for tensor in outputs)

    return replay
