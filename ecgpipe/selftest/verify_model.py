"""Show what a model is fed and what it gives: its declaration executed step by step on recordings that look real.

`ecgpipe verify --model NAME|PATH [--checkpoint FILE]`. The recordings are simulated (sinus rhythm, ten seconds
at 400 Hz, in mV), so that they are the same everywhere. For an own model without a checkpoint the network has the
weights that `Network()` draws.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from ecgpipe.core.describe_input import describe_input
from ecgpipe.core.errors import EcgpipeError
from ecgpipe.core.model_input import ModelInput
from ecgpipe.models import registry
from ecgpipe.models.registry import Family
from ecgpipe.preprocessing.transform import Stage, trace, transform
from ecgpipe.preprocessing.unusable import UnusableError
from ecgpipe.selftest.simulator import RHYTHMS, simulate

if TYPE_CHECKING:
    from ecgpipe.models.output import Output

RATE = 400  # Hz
SHORT_S = 6.5  # of a recording that is shorter than most windows

# How much of the largest value a difference may be that is rounding.
ROUNDING = 1e-4


def verify_model(model: str, checkpoint: str | None, options: Mapping[str, str]) -> list[str]:
    """Execute a model's declaration, and its network if there are weights.

    Args:
        model: A family's name, or the path of the user's own file, whose code is run.
        checkpoint: Its weights; None: none, or of an own model those that `Network()` draws.
        options: The family's variants, as the setting `model_options`.

    Returns:
        Lines to print.

    Raises:
        EcgpipeError: The model, its options or the checkpoint is refused, or the network does not take its input.
    """
    family = registry.find_family(model)
    declared = family.choose_input(options)
    signal = simulate(RHYTHMS["sinus"], RATE, np.random.default_rng(3))
    lines = [f"{family.title}: what goes in", *(f"  {line}" for line in describe_input(declared)), ""]
    lines += list(_tabulate_steps(signal, declared))
    lines += ["", *_check_input(signal, declared), ""]
    windows = transform(signal[list(declared.lead_rows)], RATE, declared).windows
    return lines + _run_network(family, model, checkpoint, options, windows)


def _tabulate_steps(signal: np.ndarray, declared: ModelInput) -> Iterator[str]:
    """A line for the recording and for each step, as it is after it."""
    yield f"{'':<52} {'shape':>12} {'Hz':>6} {'lowest':>9} {'highest':>9} {'mean':>9} {'sd':>9}"
    for stage in trace(signal[list(declared.lead_rows)], RATE, declared):
        words = "the recording, in mV" if stage.step is None else repr(stage.step)
        yield _describe_stage(words, stage)


def _describe_stage(words: str, stage: Stage) -> str:
    words = words if len(words) <= 52 else words[:49] + "..."
    shape = " x ".join(map(str, stage.signal.shape))
    return f"{words:<52} {shape:>12} {stage.rate:>6g} {_describe_numbers(stage.signal)}"


def _describe_numbers(values: np.ndarray) -> str:
    numbers = (values.min(), values.max(), values.mean(), values.std())
    return " ".join(f"{number:>9.4g}" for number in numbers)


def _check_input(signal: np.ndarray, declared: ModelInput) -> list[str]:
    """What becomes of the same recording in another unit, and of a short one."""
    chosen = signal[list(declared.lead_rows)]
    here = transform(chosen, RATE, declared).windows
    other = transform(1000 * chosen, RATE, declared).windows
    is_same = float(np.abs(other - here).max()) <= ROUNDING * max(1.0, float(np.abs(here).max()))
    lines = ["in microvolts: the same" if is_same else "in microvolts: other values"]
    if not is_same and declared.unit is None:
        lines[0] += (
            '; INPUT says nothing of a unit, so that a recording\'s own decides: give unit="mV" if that is wrong'
        )
    if declared.unit is not None:
        lines[0] += f"; a recording whose unit is not known is skipped, all others are converted to {declared.unit}"
    short = chosen[:, : round(SHORT_S * RATE)]
    choices: tuple[Literal["skip", "pad"], ...] = ("skip", "pad") if declared.padding else ("skip",)
    for choice in choices:
        try:
            transformed = transform(short, RATE, replace(declared, short=choice))
            what = f"{len(transformed.windows)} window{'s' * (len(transformed.windows) > 1)}"
            what += f", {transformed.padded_s:g} s of it zeros" if transformed.padded_s else ""
        except UnusableError as error:
            what = f"skipped: {error}"
        lines.append(f"a recording of {SHORT_S:g} s, preprocess.short={choice}: {what}")
    return lines


def _run_network(
    family: Family, model: str, checkpoint: str | None, options: Mapping[str, str], windows: np.ndarray
) -> list[str]:
    """The network's outputs for the windows, alone and beside another one."""
    names: tuple[str, ...] = ()
    if checkpoint is None and not family.path:
        return [f"what comes out: give --checkpoint to run the network of {family.title}"]
    if checkpoint is None:
        network, of = _draw_network(family), "weights as Network() draws them"
    else:
        from ecgpipe import ECGFM

        ecgfm: ECGFM = ECGFM.from_checkpoint(checkpoint, model=model, model_options=options)
        network, of = ecgfm.network, f"weights of {checkpoint}"
        names = tuple(label.name for label in ecgfm.labels)
    batch = torch.from_numpy(np.concatenate([windows[:1], -windows[:1]]))  # (2, leads, samples)
    with torch.inference_mode():
        alone: Output = network(batch[:1])
        beside: Output = network(batch)
    lines = [
        f"what comes out, {of}",
        f"{'':<52} {'shape':>12} {'':>6} {'lowest':>9} {'highest':>9} {'mean':>9} {'sd':>9}",
    ]
    for kind in ("logits", "embedding", "attention"):
        values = getattr(alone, kind)
        if values is None or not values.shape[1]:
            lines.append(f"{kind:<52} {'none':>12}")
            continue
        if not torch.isfinite(values).all():
            raise EcgpipeError(f"model: {kind} of {family.title} is not finite; its network does not suit its input")
        lines.append(f"{kind:<52} {values.shape[1]!s:>12} {'':>6} {_describe_numbers(values.numpy())}")
        apart = float((getattr(beside, kind)[:1] - values).abs().max())
        if apart > ROUNDING * max(1.0, float(values.abs().max())):
            raise EcgpipeError(
                f"model: {kind} of {family.title} depends on the other windows of the batch (by {apart:.3g}); each "
                "window must be computed by itself, as BatchNorm does in eval mode"
            )
    lines.append("the same for a window alone and beside another one")
    if names and alone.logits is not None:
        best = torch.argsort(alone.logits[0], descending=True)[:3].tolist()
        lines.append("highest logits: " + ", ".join(f"{names[i]} {float(alone.logits[0, i]):.2f}" for i in best))
    return lines


def _draw_network(family: Family) -> Any:  # noqa: ANN401, as `networks.find_network`
    from ecgpipe.models.own_network import OwnNetwork

    return OwnNetwork(family.declaration, Path(str(family.path))).draw()
