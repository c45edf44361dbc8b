"""Run a network over the recordings that a method of `ECGFM` was given."""

import logging
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from ecgpipe.api import tables
from ecgpipe.api.progress import show_progress
from ecgpipe.api.sources import Entry, Signal, open_source
from ecgpipe.core.errors import EcgpipeError
from ecgpipe.inference import engine, non_finite_outputs
from ecgpipe.inference.segment_files import Contents
from ecgpipe.models.description import Description
from ecgpipe.models.output import AnyNetwork
from ecgpipe.preprocessing.segments import Windows
from ecgpipe.readers import Assumed

if TYPE_CHECKING:
    import pandas as pd

logger = logging.getLogger(__name__)

# Batches of segments that are gathered before they are computed: only the last one is filled up.
BATCHES_GATHERED = 8


class Given(NamedTuple):
    """What the user gave to a method, by the names of its arguments."""

    signal: Signal
    sample_rate: float | Sequence[float] | None
    leads: Sequence[str] | None
    windows: Windows | None
    unit: str | None
    ids: Sequence[str] | None
    errors: str
    progress: bool | None


class Runner(NamedTuple):
    """A network, and how it is run."""

    network: AnyNetwork
    exact: non_finite_outputs.InFloat32 | None  # the same in float32, where it is in half precision
    description: Description
    device: torch.device
    batch_size: int  # segments at a time
    with_attention: bool


def iterate_usable(given: Given, windows: Windows, assumed: Assumed, skipped: list[Entry]) -> Iterator[Entry]:
    """Yield the recordings that can be used.

    Args:
        given: By the user.
        windows: How they are cut.
        assumed: What is assumed of files where the user says nothing.
        skipped: Receives the others, if they are to be skipped.

    Yields:
        One after the other; a progress bar counts them.

    Raises:
        EcgpipeError: An argument is not valid, or a recording cannot be used and is not to be skipped.
    """
    if given.errors not in ("raise", "skip"):
        raise EcgpipeError(f"errors: {given.errors!r} is not valid; give 'raise' or 'skip'")
    source = open_source(given.signal, given.sample_rate, given.leads, given.unit, given.ids, assumed)
    with show_progress(source.total, given.progress) as bar:
        for entry in source.entries(windows):
            if entry.prepared is not None:
                yield entry
            elif given.errors == "raise":
                many = ", or errors='skip' to leave out such recordings" if source.total > 1 else ""
                raise EcgpipeError(f"{entry.error}{many}")
            else:
                skipped.append(entry)
            bar.update(1)
    if skipped:
        logger.warning("%d of %d recordings left out; `.skipped` says why", len(skipped), source.total)


def run_network(runner: Runner, entries: Iterable[Entry], windows: Windows) -> "tuple[pd.MultiIndex, engine.Results]":
    """Run the network over the segments of recordings.

    Args:
        runner: The network.
        entries: Recordings that can be used.
        windows: How they are cut.

    Returns:
        The index of a table with a row per segment, and the network's outputs.

    Raises:
        EcgpipeError: The network cannot take such segments, or its outputs are not finite.
    """
    description = runner.description
    contents = Contents({}, len(windows.model_input.leads), windows.segment_samples, 0, {})
    engine.check(description, contents)
    used: list[tables.Key] = []
    results: list[engine.Results] = []
    for group in _gather(entries, BATCHES_GATHERED * runner.batch_size):
        used += map(tables.make_key, group)
        results.append(_forward(runner, group))
    tokens = description.tokens(windows.segment_samples) if runner.with_attention else None
    widths = (len(description.labels), description.architecture.width, tokens)
    return tables.make_index(used), tables.join_results(results, *widths)


def _gather(entries: Iterable[Entry], segments: int) -> Iterator[list[Entry]]:
    """Groups of recordings with at least so many segments together; the last one may have fewer."""
    group: list[Entry] = []
    total = 0
    for entry in entries:
        group.append(entry)
        total += tables.count_segments(entry)
        if total >= segments:
            yield group
            group, total = [], 0
    if group:
        yield group


def _forward(runner: Runner, entries: Sequence[Entry]) -> engine.Results:
    """Run the network over the segments of some recordings."""
    segments, samples, names = tables.stack_segments(entries)
    size, exact = runner.batch_size, runner.exact
    results = engine.forward(runner.network, segments, samples, runner.device, size, runner.with_attention)

    def recompute(rows: np.ndarray) -> engine.Results:
        assert exact is not None  # noqa: S101
        return exact(segments[rows], samples[rows], size, runner.with_attention)

    return non_finite_outputs.ensure_finite(
        results, recompute if exact else None, names.__getitem__, runner.description.uri
    )
