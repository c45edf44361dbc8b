"""Check that all outputs are finite: a segment whose outputs are not is computed again in float32, or ends the stage.

Half precision overflows beyond 65,504 (float16), and then gives infinity or NaN. The comparison that chooses
the precision sees the first segments of a run; here every segment is checked before results are written.
"""

import logging
from collections.abc import Callable

import numpy as np
import torch

from ecgpipe.core.errors import EcgpipeError
from ecgpipe.inference import engine
from ecgpipe.inference.engine import Results
from ecgpipe.models.output import AnyNetwork

logger = logging.getLogger(__name__)


class InFloat32:
    """The network of a half-precision stage in float32, for the segments that half precision cannot compute.

    Attributes:
        segments: How many were computed so far.
    """

    def __init__(self, load: Callable[[], AnyNetwork], device: torch.device) -> None:
        self.load, self.device = load, device
        self.network: AnyNetwork | None = (
            None  # loaded when it is first needed: it takes the memory of a second network
        )
        self.segments = 0

    def __call__(self, signals: np.ndarray, samples: np.ndarray, batch_size: int, with_attention: bool) -> Results:
        """The results of some segments, (n, leads, samples) float32, of which `samples` (n,) are signal."""
        if self.network is None:
            logger.warning("half precision gave numbers that are not finite; such segments are computed in float32")
            self.network = self.load()
        self.segments += len(signals)
        return engine.forward(self.network, signals, samples, self.device, batch_size, with_attention)


def check_stream(
    stream: engine.Stream,
    uri: str,
    signals: Callable[[np.ndarray], np.ndarray],
    exact: InFloat32 | None,
    batch_size: int,
) -> engine.Stream:
    """Yield the same results, all of them finite.

    Args:
        stream: Results batch by batch, in the order of the segments.
        uri: Of the checkpoint, for the message.
        signals: Gives segments by their numbers in that order, (n,) to (n, leads, samples) float32.
        exact: Computes them in float32; None where the results are in float32 already.
        batch_size: Segments at a time, there too.

    Yields:
        The same keys, and finite results.

    Raises:
        EcgpipeError: As of `ensure_finite`.
    """
    before = 0

    def recompute(rows: np.ndarray) -> Results:
        assert exact is not None  # noqa: S101
        with_attention = results.attention is not None
        return exact(signals(before + rows), keys.samples[rows], batch_size, with_attention)

    def name(row: int) -> str:
        return f"segment {keys.numbers[row]} of {keys.record_ids[row]!r}"

    for keys, results in stream:
        yield keys, ensure_finite(results, None if exact is None else recompute, name, uri)
        before += len(keys.record_ids)


def ensure_finite(
    results: Results, recompute: Callable[[np.ndarray], Results] | None, name: Callable[[int], str], uri: str
) -> Results:
    """Return results of which every number is finite.

    Only the segments that are not finite are computed again: those beside them in a batch keep their numbers.

    Args:
        results: Of some segments.
        recompute: Gives the results of some rows, (n,), in float32; None where they are in float32 already.
        name: Of a row's segment, for the message.
        uri: Of the checkpoint, for the message.

    Returns:
        The same results, in which those of other rows may have been replaced.

    Raises:
        EcgpipeError: A segment has no finite results in float32. Segments are finite and standardised, so float32
            suffices for any trained network: the weights are damaged.
    """
    rows = _find_not_finite(results)
    if len(rows) and recompute is not None:
        for output, exact in zip(results, recompute(rows), strict=True):
            if output is not None:
                output[rows] = exact
        rows = _find_not_finite(results)
    if len(rows):
        raise EcgpipeError(
            f"checkpoint: {uri} gives numbers that are not finite for {name(int(rows[0]))}, in float32 too: its "
            "weights are damaged, or its training diverged. Check the file's SHA-256 (setting sha256), or give another "
            "checkpoint; if all other recordings come out well, take this one out of the input and report it"
        )
    return results


def _find_not_finite(results: Results) -> np.ndarray:
    """The rows (n,) of the segments of which one of the outputs is NaN or infinite."""
    finite = [np.isfinite(output).all(axis=1) for output in results if output is not None]
    return np.flatnonzero(~np.logical_and.reduce(finite))
