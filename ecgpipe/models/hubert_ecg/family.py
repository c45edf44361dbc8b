"""HuBERT-ECG's input: five seconds at 100 Hz of twelve leads laid end to end.

Source: https://github.com/Edoar-do/HuBERT-ECG at affe1f9, `utils.py` and `dataset.py`. Until 26 December 2025 that code
resampled before it filtered ("2024"); the released models were trained so, and the authors advise the present order
("head"). At 500 Hz both are equal. The filter of the decimation runs across the joins between leads, as the authors'
does. There is no padding: the authors' mask for it does not work.
"""

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from ecgpipe.core.leads import LEADS
from ecgpipe.core.model_input import Cut, Decimate, Fir, Fourier, JoinLeads, MinMax, ModelInput, ReplaceNan
from ecgpipe.models.description import Architecture as Architecture
from ecgpipe.models.peek import find_prefix

_FILTER = Fir(0.3, (0.05, 47))
_SCALE_AND_CUT = (
    MinMax(over="lead", low=-1, high=1, epsilon=1e-8),
    Cut(),
    ReplaceNan("mean"),
    JoinLeads(),
    Decimate(5),
)

INPUT = ModelInput(
    leads=LEADS,
    rate=100,
    window_s=5,
    steps=(_FILTER, Fourier(500), *_SCALE_AND_CUT),
)

VARIANTS: Mapping[str, ModelInput] = MappingProxyType(
    {"head": INPUT, "2024": replace(INPUT, steps=(Fourier(500), _FILTER, *_SCALE_AND_CUT))}
)
OPTION = "order"

HAS_ATTENTION = True
FILES = ("model.safetensors", "config.json")
LABELS: Mapping[int, str] = MappingProxyType({164: "labels.csv"})

# Tensors by which a HuBERT-ECG checkpoint is recognised; more than half of them must be there.
MARKERS = (
    "feature_extractor.conv_layers.0.conv.weight",
    "feature_projection.projection.weight",
    "encoder.pos_conv_embed.conv.bias",
    "encoder.layers.0.attention.k_proj.weight",
    "encoder.layers.0.feed_forward.intermediate_dense.weight",
)


def recognise(tensors: Mapping[str, Any], content: Mapping[str, Any] | None = None) -> bool:
    """Whether these are the tensors of a HuBERT-ECG checkpoint, by names alone.

    Speech models of transformers (HuBERT, wav2vec 2.0) have the same names, and seven convolutions instead of five.
    """
    prefix = find_prefix(tensors, MARKERS)
    if prefix is None:
        return False
    return f"{prefix}feature_extractor.conv_layers.5.conv.weight" not in tensors


def count_outputs(tensors: Mapping[str, Any]) -> int:
    """How many outputs the head has; 0 where there is none."""
    heads = [tensor for name, tensor in tensors.items() if name.split(".")[-2:] == ["classifier", "weight"]]
    return heads[0].shape[0] if len(heads) == 1 and len(heads[0].shape) == 2 else 0
