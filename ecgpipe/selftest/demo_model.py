"""The demo's model: a small network of ECG-FM's architecture, trained on simulated hearts.

benchmarks/demo_weights.py trains it. It knows the rhythms of `simulator.RHYTHMS` and nothing of real hearts.
"""

from pathlib import Path
from typing import Any

import safetensors.torch

from ecgpipe.readers import LEADS
from ecgpipe.selftest import simulator, synthetic_checkpoint

FOLDER = Path(__file__).parent / "demo_weights"
WEIGHTS, LABELS = "model.safetensors", "labels.csv"  # in the folder

# How segments become a recording's probability, as of ECG-FM: what may be in one segment alone counts by the largest.
AGGREGATION = {
    name: "max"
    if name in ("Poor data quality", "Premature ventricular contraction", "Electronic pacemaker")
    else "mean"
    for name in simulator.LABELS
}

# As fairseq-signals has it: what ECG-FM has, but smaller.
CFG: dict[str, Any] = {
    "task": {"_name": "ecg_classification", "normalize": False},
    "model": {
        "_name": "ecg_transformer_classifier",
        "normalize": False,
        "filter": False,
        "apply_mask": False,
        "extractor_mode": "default",
        "in_d": len(LEADS),
        "conv_feature_layers": "[(16, 2, 2), (32, 2, 2), (48, 2, 2), (64, 2, 2), (64, 2, 2)]",
        "conv_bias": False,
        "conv_pos": 32,
        "conv_pos_groups": 4,
        "encoder_layers": 4,
        "encoder_embed_dim": 64,
        "encoder_ffn_embed_dim": 128,
        "encoder_attention_heads": 4,
        "layer_norm_first": False,
        "no_pretrained_weights": True,
        "num_labels": len(simulator.LABELS),
    },
}


def read_content() -> dict[str, Any]:
    """The content of the demo's checkpoint, as fairseq-signals would save it. `ecgpipe.demo_model` says what it is."""
    state = safetensors.torch.load_file(FOLDER / WEIGHTS)
    return synthetic_checkpoint.make_content(CFG, state, {"demo_model": True})
