"""ECG-FM's input, and how its files are recognised. The declaration itself is in core, as the default of the settings.

Source of the input: notebooks/infer_quickstart.ipynb of https://github.com/bowang-lab/ECG-FM, which calls
ecg-transform's ReorderLeads, LinearResample, HandleConstantLeads, Standardize and SegmentNonoverlapping.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from ecgpipe.core.model_input import DEFAULT_INPUT, ModelInput
from ecgpipe.models.description import Architecture as Architecture
from ecgpipe.models.peek import find_prefix

INPUT = DEFAULT_INPUT
VARIANTS: Mapping[str, ModelInput] = MappingProxyType({"default": INPUT})
TAKES_ANY_LENGTH = True  # of a window, which preprocess.segment_s sets
HAS_ATTENTION = True
FILES = ("mimic_iv_ecg_finetuned.pt",)

# Upstream's names, behind "encoder." in a classifier, by which such a checkpoint is recognised.
MARKERS = (
    "feature_extractor.conv_layers.0.0.weight",
    "feature_extractor.conv_layers.0.2.weight",
    "conv_pos.pos_conv.0.bias",
    "encoder.layers.0.self_attn.k_proj.weight",
    "encoder.layers.0.final_layer_norm.weight",
)


def recognise(tensors: Mapping[str, Any], content: Mapping[str, Any] | None = None) -> bool:
    """Whether these are the tensors of fairseq-signals' ECG transformer, by their names."""
    return find_prefix(tensors, MARKERS) is not None
