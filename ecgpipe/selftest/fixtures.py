"""Three recordings and a small checkpoint made of whole numbers, the same on every machine: what `verify` runs.

All of it follows from `scattered`, integer arithmetic that no library, processor or random generator can round
otherwise. The weights are random and the recordings are no hearts: what comes out are numbers to compare, and no
diagnoses. What fairseq-signals and ecg-transform make of them is in reference/outputs.npz, which
tests/helpers/reference_numbers.py had computed.
"""

import zlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import scipy.io
import torch

from ecgpipe.readers import LEADS
from ecgpipe.selftest.demo import MIMIC_LEADS, write_wfdb

# The outputs of the checkpoint, in order, and how each is aggregated. Not in the order of the alphabet.
LABELS = {"Rhythm E": "mean", "Rhythm A": "max", "Rhythm D": "mean", "Rhythm B": "max", "Rhythm C": "mean"}


class Signal(NamedTuple):
    """A recording as its file states it."""

    microvolts: np.ndarray  # (12, samples) int64, in the order of `leads`
    leads: tuple[str, ...]
    rate: int  # Hz


def scattered(name: str, count: int) -> np.ndarray:
    """Numbers without visible order that follow from a name.

    Args:
        name: What they are for; another name gives others.
        count: How many.

    Returns:
        (count,) uint32: of the place plus the name's CRC-32, the permutation lowbias32 of C. Wellons, "Prospecting for
        hash functions", 2018.
    """
    x = np.arange(count, dtype=np.uint32) + np.uint32(zlib.crc32(name.encode()))  # arrays of uint32 wrap around
    x ^= x >> np.uint32(16)
    x *= np.uint32(0x7FEB352D)
    x ^= x >> np.uint32(15)
    x *= np.uint32(0x846CA68B)
    x ^= x >> np.uint32(16)
    return x


# The recordings


def signals() -> dict[str, Signal]:
    """By record id: leads in another order, and two other rates, one of them with a lead that is constant."""
    constant = _microvolts("constant lead", 1_400, 250)
    constant[LEADS.index("V3")] = 123
    return {
        "constant_lead": Signal(constant, LEADS, 250),
        "other_order": Signal(_microvolts("other order", 5_300, 500), MIMIC_LEADS, 500),
        "other_rate": Signal(_microvolts("other rate", 2_934, 400), LEADS, 400),
    }


def write_recordings(folder: Path) -> None:
    """Write the recordings, each in a format and a unit of its own."""
    made = signals()
    named, mat, npz = made["other_order"], made["other_rate"], made["constant_lead"]
    write_wfdb(folder / "other_order", named.microvolts / 1000, named.rate, named.leads)
    content = {"feats": mat.microvolts / 1000, "org_sample_rate": [[mat.rate]], "curr_sample_rate": [[mat.rate]]}
    scipy.io.savemat(folder / "other_rate.mat", content)
    np.savez(folder / "constant_lead.npz", signal=npz.microvolts, sample_rate=npz.rate, leads=npz.leads, unit="uV")


def _microvolts(name: str, samples: int, rate: int) -> np.ndarray:
    """(12, samples) int64: in each lead a beat of its own height every 0.8 s, on a wander, with noise."""
    times = np.arange(samples)
    heights = 300 + scattered(f"{name}, heights", 12).astype(np.int64) % 1_200  # (12,)
    signs = 1 - 2 * (scattered(f"{name}, signs", 12).astype(np.int64) % 2)
    away = np.abs(times % (rate * 4 // 5) - rate // 3)  # samples from the middle of the beat
    width = rate // 20
    beats = (signs * heights)[:, None] * np.maximum(width - away, 0) // width  # (12, samples)
    knot, within = np.divmod(times, rate // 5)
    knots = scattered(f"{name}, wander", 12 * (int(knot[-1]) + 2)).astype(np.int64).reshape(12, -1) % 400
    wander = (knots[:, knot] * (rate // 5 - within) + knots[:, knot + 1] * within) // (rate // 5)
    noise = scattered(f"{name}, noise", 12 * samples).astype(np.int64).reshape(12, samples) % 41 - 20
    microvolts: np.ndarray = beats + wander + noise
    return microvolts


# The checkpoint


def checkpoint() -> dict[str, Any]:
    """A checkpoint of ECG-FM's kind as fairseq-signals saves it, 57 thousand weights.

    Returns:
        What goes into the file. fairseq-signals builds its own network from `cfg.model` and takes every tensor.
    """
    width, hidden, layers, channels, kernel, groups = 48, 96, 2, 32, 16, 4
    state: dict[str, torch.Tensor] = {}

    def linear(name: str, outputs: int, inputs: int, gain: float = 1.0) -> None:
        state[f"{name}.weight"] = _spread(f"{name}.weight", outputs, inputs, spread=gain * inputs**-0.5)
        state[f"{name}.bias"] = _spread(f"{name}.bias", outputs, spread=0.05)

    def norm(name: str, size: int) -> None:
        state[f"{name}.weight"] = 1 + _spread(f"{name}.weight", size, spread=0.05)
        state[f"{name}.bias"] = _spread(f"{name}.bias", size, spread=0.05)

    for i in range(4):
        inputs = channels if i else len(LEADS)
        name = f"encoder.feature_extractor.conv_layers.{i}.0.weight"
        state[name] = _spread(name, channels, inputs, 2, spread=inputs**-0.5)
    norm("encoder.feature_extractor.conv_layers.0.2", channels)
    norm("encoder.layer_norm", channels)
    linear("encoder.post_extract_proj", width, channels)
    place = "encoder.conv_pos.pos_conv.0"
    state[f"{place}.bias"] = _spread(f"{place}.bias", width, spread=0.05)
    # Under weight norm: the length of each direction, about what the direction's own is.
    state[f"{place}.parametrizations.weight.original0"] = (4 * width / (groups * kernel)) ** 0.5 * (
        1 + _spread(f"{place}.length", 1, 1, kernel, spread=0.1)
    )
    state[f"{place}.parametrizations.weight.original1"] = _spread(
        f"{place}.direction", width, width // groups, kernel, spread=(4 / (kernel * width)) ** 0.5
    )
    norm("encoder.encoder.layer_norm", width)
    for i in range(layers):
        layer = f"encoder.encoder.layers.{i}"
        # Sharper queries and keys than usual, so that the attention has something to compare.
        for name, gain in (("k", 2.0), ("v", 1.0), ("q", 2.0), ("out", 0.5)):
            linear(f"{layer}.self_attn.{name}_proj", width, width, gain)
        norm(f"{layer}.self_attn_layer_norm", width)
        linear(f"{layer}.fc1", hidden, width)
        linear(f"{layer}.fc2", width, hidden)
        norm(f"{layer}.final_layer_norm", width)
    linear("proj", len(LABELS), width, 2.0)
    model = {
        "_name": "ecg_transformer_classifier",
        "apply_mask": False,
        "extractor_mode": "default",
        "in_d": len(LEADS),
        "conv_feature_layers": f"[({channels}, 2, 2)] * 4",
        "conv_bias": False,
        "conv_pos": kernel,
        "conv_pos_groups": groups,
        "encoder_layers": layers,
        "encoder_embed_dim": width,
        "encoder_ffn_embed_dim": hidden,
        "encoder_attention_heads": 4,
        "layer_norm_first": False,
        "no_pretrained_weights": True,
        "num_labels": len(LABELS),
    }
    return {
        "args": None,
        "cfg": {"model": model},
        "model": state,
        # fairseq-signals wants to find these too.
        "optimizer_history": [{"criterion_name": "", "optimizer_name": "", "lr_scheduler_state": {}, "num_updates": 0}],
        "task_state": {},
        "extra_state": {"metrics": {}, "previous_training_time": 0, "train_iterator": {"epoch": 1}},
        "ecgpipe": {"random_weights": True},
    }


def _spread(name: str, *shape: int, spread: float) -> torch.Tensor:
    """Numbers evenly spread about 0 with this standard deviation: 24 bits each, which float32 holds exactly."""
    whole = (scattered(name, int(np.prod(shape))) >> np.uint32(8)).astype(np.float32) / np.float32(2**23) - 1
    return torch.from_numpy((whole * np.float32(3**0.5 * spread)).reshape(shape))
