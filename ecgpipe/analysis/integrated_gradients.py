"""Integrate the gradients of a label's logit along the straight way from a flat line to a segment.

The way is spread by a variable u from 0 to 1: at u the signal is u^POWER of itself (`ecgpipe.analysis.attribute` says
why). The integral is the sum of trapezoids between points of u. At each point the network gives the logit with its
gradient, so that each trapezoid can be held against the difference of the logits at its two ends: its completeness
error. Where that is large the trapezoid is halved; what was evaluated before is used again.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from captum.attr import IntegratedGradients
from torch import Tensor

from ecgpipe.models.output import AnyNetwork

# The power by which steps are spread, and Captum's name of the rule by which a fixed number of them is summed up: the
# most exact of those that benchmarks/attribution.py compares.
POWER = 8
RULE = "riemann_middle"

# Steps of a segment at first, and at most.
FIRST_STEPS = 8
MOST_STEPS = 128

# A step this small is not halved: the logit jumps there, or its float32 has no more to say.
LEAST_STEP = 2.0**-16

# Errors of single steps have signs, and few coarse steps may add up to little by chance: the sum of their sizes may be
# this many times the tolerance.
WITHOUT_SIGNS = 4

# A difference of the logit below this is taken for this: the tolerance is a share of it, and a share of nothing would
# never be reached.
LEAST_DIFFERENCE = 0.1


class Integral(NamedTuple):
    """Integrated gradients of some segments."""

    attribution: np.ndarray  # (segments, leads, samples) float32
    logit: np.ndarray  # (segments,) float64
    baseline_logit: np.ndarray  # (segments,) of a flat line
    steps: np.ndarray  # (segments,) int32, gradients that were computed


@dataclass
class _Way:
    """What is known of the way to one segment: by place, from 0 to 1, the logit and its gradient by the place."""

    signal: Tensor  # (leads, samples)
    samples: int
    logits: dict[float, float] = field(default_factory=dict)
    gradients: dict[float, np.ndarray] = field(default_factory=dict)  # (leads, samples) float32
    slopes: dict[float, float] = field(default_factory=dict)  # the sum of the gradient


def integrate(
    network: AnyNetwork,
    signal: Tensor,
    samples: Tensor,
    target: int,
    tolerance: float,
    batch_size: int,
    count: Callable[[int], None],
) -> Integral:
    """Integrate in as many steps as the completeness error takes.

    Args:
        network: Loaded with `packed=False`.
        signal: (segments, leads, samples), on the network's device.
        samples: (segments,) of each that are signal.
        target: The label's number among the outputs.
        tolerance: By what share of the logit's difference from the flat line the attributions' sum may miss it. A
            segment whose error is still larger after MOST_STEPS keeps it.
        batch_size: Steps at a time, of whichever segments.
        count: Called with the number of steps when they are done.

    Returns:
        The integral; what a segment gets does not depend on the others.
    """
    ways = [_Way(one, int(n)) for one, n in zip(signal, samples, strict=True)]
    _begin(network, ways, target)
    wanted = [(way, step / FIRST_STEPS) for way in ways for step in range(1, FIRST_STEPS + 1)]
    while wanted:
        for first in range(0, len(wanted), batch_size):
            some = wanted[first : first + batch_size]
            _evaluate(network, some, target)
            count(len(some))
        wanted = [(way, place) for way in ways for place in choose_places(way.logits, way.slopes, tolerance)]
    return Integral(
        np.stack([_sum_up(way) for way in ways]),
        np.array([way.logits[1.0] for way in ways]),
        np.array([way.logits[0.0] for way in ways]),
        np.array([len(way.gradients) for way in ways], np.int32),
    )


def integrate_equally(
    network: AnyNetwork,
    signal: Tensor,
    samples: Tensor,
    target: int,
    steps: int,
    batch_size: int,
    count: Callable[[int], None],
) -> Integral:
    """Integrate in a fixed number of equal steps of u, `steps`, by Captum; the other arguments as of `integrate`."""

    def logits(z: Tensor, samples: Tensor) -> Tensor:
        x = z.sign() * z.abs().pow(POWER)
        values = compute_logits(network, x, samples)
        count(len(z))
        return values

    z = signal.sign() * signal.abs().pow(1 / POWER)
    attribution = IntegratedGradients(logits).attribute(
        z,
        target=target,
        additional_forward_args=(samples,),
        n_steps=steps,
        method=RULE,
        internal_batch_size=max(batch_size, len(signal)),
    )
    return Integral(
        attribution.detach().float().cpu().numpy(),
        compute_logit(network, signal, samples, target),
        compute_logit(network, torch.zeros_like(signal), samples, target),
        np.full(len(signal), steps, np.int32),
    )


def choose_places(logits: dict[float, float], slopes: dict[float, float], tolerance: float) -> list[float]:
    """Choose where the way of a segment is to be evaluated next.

    Args:
        logits: By place, 0 and 1 among them.
        slopes: By place, the logit's derivative.
        tolerance: As of `integrate`.

    Returns:
        The middles of the steps whose completeness error is too large, in order; none if the steps are fine enough, or
        as many as there may be.
    """
    places = sorted(logits)
    errors = np.array(
        [
            (high - low) * (slopes[low] + slopes[high]) / 2 - (logits[high] - logits[low])
            for low, high in pairwise(places)
        ]
    )
    allowed = tolerance * max(abs(logits[1.0] - logits[0.0]), LEAST_DIFFERENCE)
    sizes = np.abs(errors)
    if not np.isfinite(sizes).all():
        return []
    if abs(errors.sum()) <= allowed and sizes.sum() <= WITHOUT_SIGNS * allowed:
        return []
    share = min(WITHOUT_SIGNS * allowed, sizes.sum() / 2) / len(sizes)
    large = (sizes > share) & (np.diff(places) > LEAST_STEP)
    largest_first = [step for step in np.argsort(-sizes, kind="stable") if large[step]]
    chosen = largest_first[: MOST_STEPS - len(sizes)]
    return sorted((places[step] + places[step + 1]) / 2 for step in chosen)


def compute_logits(network: AnyNetwork, signal: Tensor, samples: Tensor) -> Tensor:
    """All logits of some segments, (segments, labels); attention is not computed.

    Args:
        network: The network.
        signal: (segments, leads, samples).
        samples: (segments,) of each that are signal.
    """
    logits = network(signal, samples, with_attention=False).logits
    assert logits is not None  # noqa: S101, there are labels
    return logits


def compute_logit(network: AnyNetwork, signal: Tensor, samples: Tensor, target: int) -> np.ndarray:
    """One label's logits of some segments, (segments,) float64, without gradients; arguments as of `integrate`."""
    with torch.inference_mode():
        logits = compute_logits(network, signal, samples)
    values: np.ndarray = logits[:, target].cpu().double().numpy()  # as MPS has no float64
    return values


def _begin(network: AnyNetwork, ways: Sequence[_Way], target: int) -> None:
    """Evaluate the flat line. There the signal does not change with u, so that the gradient by u is nothing."""
    lengths = {way.samples: way.signal for way in ways}  # flat lines of one length are the same
    flat = {
        samples: float(compute_logit(network, torch.zeros_like(signal)[None], torch.tensor([samples]), target)[0])
        for samples, signal in lengths.items()
    }
    for way in ways:
        way.logits[0.0], way.slopes[0.0] = flat[way.samples], 0.0


def _evaluate(network: AnyNetwork, wanted: Sequence[tuple[_Way, float]], target: int) -> None:
    """Evaluate ways at places, all in one batch."""
    signal = torch.stack([way.signal for way, _ in wanted])
    places = torch.tensor([place for _, place in wanted], dtype=signal.dtype, device=signal.device)[:, None, None]
    x = (places**POWER * signal).requires_grad_()  # (steps, leads, samples)
    logits = compute_logits(network, x, torch.tensor([way.samples for way, _ in wanted]))[:, target]
    [gradient] = torch.autograd.grad(logits.sum(), x)
    by_place = (gradient * signal * (POWER * places ** (POWER - 1))).float().cpu().numpy()
    for (way, place), logit, values in zip(wanted, logits.detach().cpu().tolist(), by_place, strict=True):
        way.logits[place], way.gradients[place] = logit, values
        way.slopes[place] = float(values.sum(dtype=np.float64))


def _sum_up(way: _Way) -> np.ndarray:
    """(leads, samples) float32, the sum of the trapezoids."""
    places = sorted(way.logits)
    total = np.zeros(way.signal.shape, np.float64)
    for low, high in pairwise(places):
        for place in (low, high):
            if place > 0:
                total += (high - low) / 2 * way.gradients[place]
    return total.astype(np.float32)
