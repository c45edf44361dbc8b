"""ECGFounder's input, for twelve leads and for lead I alone, and how its files are recognised.

Source: https://github.com/PKUDigitalHealth/ECGFounder at 04edac7, `dataset.py` ("filtered", which its README and its
author say is to be followed) and `ptbxl_eval.py` ("plain"). The authors' functions know ten seconds at 500 Hz; other
sampling rates are resampled linearly, as the paper says. A window is cut before it is filtered, because the filter's
edges are part of what the network saw in training.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

from ecgpipe.core.leads import LEADS
from ecgpipe.core.model_input import (
    Butterworth,
    Cut,
    Linear,
    MedianBaseline,
    ModelInput,
    Notch,
    Pad,
    ReplaceNan,
    Standardize,
)
from ecgpipe.models.peek import find_prefix

_NORMALIZE = Standardize(over="all", epsilon=1e-8)  # one mean and one standard deviation for all leads

INPUT = ModelInput(
    leads=LEADS,
    rate=500,
    window_s=10,
    steps=(
        ReplaceNan("zero"),
        Cut(),
        Linear(500),
        Notch(50, q=30),
        Butterworth(4, (0.67, 40)),
        MedianBaseline(0.4),
        Pad(),  # before the z-score, so that zeros count
        _NORMALIZE,
    ),
)
_PLAIN = replace(INPUT, steps=(ReplaceNan("zero"), Cut(), _NORMALIZE, Linear(500), Pad()))

VARIANTS: Mapping[str, ModelInput] = MappingProxyType({"filtered": INPUT, "plain": _PLAIN})

# The one-lead network takes lead I.
LEAD1_INPUT = replace(INPUT, leads=("I",))
LEAD1_VARIANTS: Mapping[str, ModelInput] = MappingProxyType(
    {name: replace(variant, leads=("I",)) for name, variant in VARIANTS.items()}
)

OPTION = "preprocessing"
HAS_ATTENTION = False
FILES = ("12_lead_ECGFounder.pth",)
LABELS: Mapping[int, str] = MappingProxyType({150: "labels.csv"})

# Tensors by which an ECGFounder checkpoint is recognised; more than half of them must be there.
MARKERS = (
    "first_conv.conv.weight",
    "stage_list.0.block_list.0.conv1.conv.weight",
    "stage_list.0.block_list.0.conv2.conv.weight",
    "stage_list.0.block_list.0.se_fc1.weight",
    "dense.weight",
)


@dataclass(frozen=True)
class Architecture:
    """The sizes that make one network."""

    in_leads: int
    first_width: int  # channels of the first convolution
    kernel: int  # of the first convolution and of each block's second
    group_width: int  # channels of a group in each block's second convolution
    stages: tuple[tuple[int, int], ...]  # (channels, blocks) of each
    labels: int

    @property
    def width(self) -> int:
        """Of the embedding."""
        return self.stages[-1][0]

    @property
    def token_samples(self) -> tuple[int, int]:
        """(step, span) of the pieces of 32 ms by which attributions are judged: there are no tokens."""
        return 16, 16

    def tokens(self, samples: int) -> int:
        """0, however many samples there are: the network has no attention."""
        return 0


def recognise(tensors: Mapping[str, Any], content: Mapping[str, Any] | None = None) -> bool:
    """Whether these are the tensors of an ECGFounder checkpoint, by names and numbers of dimensions alone."""
    prefix = find_prefix(tensors, MARKERS)
    if prefix is None:
        return False
    shapes = [tensors[prefix + name].shape for name in MARKERS if prefix + name in tensors]
    return [len(shape) for shape in shapes].count(3) >= 2


def count_leads(tensors: Mapping[str, Any]) -> int | None:
    """How many leads the network takes; None where its first convolution is missing."""
    first = tensors.get(f"{find_prefix(tensors, MARKERS) or ''}first_conv.conv.weight")
    return first.shape[1] if first is not None and len(first.shape) == 3 else None


def count_outputs(tensors: Mapping[str, Any]) -> int:
    """How many outputs the head has; 0 where it is missing."""
    head = tensors.get(f"{find_prefix(tensors, MARKERS) or ''}dense.weight")
    return head.shape[0] if head is not None and len(head.shape) == 2 else 0
