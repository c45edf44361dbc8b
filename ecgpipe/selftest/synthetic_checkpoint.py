"""Small checkpoints of ECG-FM's kind with random weights, in the layout that fairseq-signals saves.

`demo` has as many outputs as ECG-FM's classifier. `reference` is what `verify` runs: its weights follow from integer
arithmetic and are the same on every machine.
"""

import zlib
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ecgpipe.readers import LEADS

# The outputs of the reference checkpoint, in order, and how each is aggregated. Not in the order of the alphabet.
LABELS = {"Rhythm E": "mean", "Rhythm A": "max", "Rhythm D": "mean", "Rhythm B": "max", "Rhythm C": "mean"}

POSITION = "encoder.conv_pos.pos_conv.0"


class Sizes(NamedTuple):
    """The sizes of a network: four convolutions of kernel 2 and stride 2, then transformer layers of four heads."""

    width: int
    hidden: int
    layers: int
    channels: int
    kernel: int  # of the positional convolution, and its groups
    groups: int
    labels: int


# Draws the tensor of a name: its shape, and the standard deviation of its numbers, whose mean is 0.
Draw = Callable[[str, tuple[int, ...], float], Tensor]


def demo(seed: int) -> dict[str, Any]:
    """The checkpoint of the demo: 17 outputs, as ECG-FM's released classifier has them.

    Args:
        seed: Of the weights.

    Returns:
        The content of the file. `ecgpipe.random_weights` marks it: its predictions have no meaning.
    """
    generator = torch.Generator().manual_seed(seed)

    def draw(_: str, shape: tuple[int, ...], std: float) -> Tensor:
        return torch.randn(shape, generator=generator) * std

    def direction_norm(direction: Tensor) -> Tensor:
        length: Tensor = direction.norm(dim=(0, 1), keepdim=True)
        return length

    sizes = Sizes(width=96, hidden=192, layers=3, channels=64, kernel=32, groups=4, labels=17)
    model = {"_name": "ecg_transformer_classifier", "normalize": False, "filter": False, **_model_settings(sizes)}
    cfg = {"task": {"_name": "ecg_classification", "normalize": False}, "model": model}
    return make_content(cfg, _state(sizes, draw, direction_norm), {"random_weights": True})


def reference() -> dict[str, Any]:
    """The checkpoint that `verify` runs, 57 thousand weights, one output for each of `LABELS`.

    Returns:
        The content of the file. fairseq-signals builds its own network from `cfg.model` and takes every tensor.
    """
    sizes = Sizes(width=48, hidden=96, layers=2, channels=32, kernel=16, groups=4, labels=len(LABELS))

    def position_length(_: Tensor) -> Tensor:
        # Of integers too, where the norm of the direction would be rounded: about as long as the direction is.
        mean = (4 * sizes.width / (sizes.groups * sizes.kernel)) ** 0.5
        length: Tensor = mean * (1 + _spread(f"{POSITION}.length", (1, 1, sizes.kernel), 0.1))
        return length

    cfg = {"model": {"_name": "ecg_transformer_classifier", **_model_settings(sizes)}}
    return make_content(cfg, _state(sizes, _spread, position_length), {"random_weights": True})


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


def _spread(name: str, shape: tuple[int, ...], std: float) -> Tensor:
    """Numbers evenly spread about 0 with this standard deviation: 24 bits each, which float32 holds exactly."""
    even = (scattered(name, int(np.prod(shape))) >> np.uint32(8)).astype(np.float32) / np.float32(2**23) - 1
    return torch.from_numpy((even * np.float32(3**0.5 * std)).reshape(shape))


def _state(sizes: Sizes, draw: Draw, position_length: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
    """The tensors under fairseq-signals' names.

    Args:
        sizes: Of the network.
        draw: Called in the order of the tensors, which the numbers of a generator follow.
        position_length: Gives the lengths (1, 1, kernel) of the positional convolution's direction, for weight norm.
    """
    state: dict[str, Tensor] = {}
    width, channels = sizes.width, sizes.channels

    def linear(name: str, outputs: int, inputs: int, gain: float = 1.0) -> None:
        state[f"{name}.weight"] = draw(f"{name}.weight", (outputs, inputs), gain * inputs**-0.5)
        state[f"{name}.bias"] = draw(f"{name}.bias", (outputs,), 0.05)

    def norm(name: str, size: int) -> None:
        state[f"{name}.weight"] = 1 + draw(f"{name}.weight", (size,), 0.05)
        state[f"{name}.bias"] = draw(f"{name}.bias", (size,), 0.05)

    for i in range(4):
        inputs = channels if i else len(LEADS)
        name = f"encoder.feature_extractor.conv_layers.{i}.0.weight"
        state[name] = draw(name, (channels, inputs, 2), inputs**-0.5)
    norm("encoder.feature_extractor.conv_layers.0.2", channels)
    norm("encoder.layer_norm", channels)
    linear("encoder.post_extract_proj", width, channels)
    shape = (width, width // sizes.groups, sizes.kernel)
    direction = draw(f"{POSITION}.direction", shape, (4 / (sizes.kernel * width)) ** 0.5)
    state[f"{POSITION}.bias"] = draw(f"{POSITION}.bias", (width,), 0.05)
    state[f"{POSITION}.parametrizations.weight.original0"] = position_length(direction)
    state[f"{POSITION}.parametrizations.weight.original1"] = direction
    norm("encoder.encoder.layer_norm", width)
    for i in range(sizes.layers):
        layer = f"encoder.encoder.layers.{i}"
        # Sharper queries and keys than usual, so that the attention differs from token to token.
        for part, gain in (("k", 2.0), ("v", 1.0), ("q", 2.0), ("out", 0.5)):
            linear(f"{layer}.self_attn.{part}_proj", width, width, gain)
        norm(f"{layer}.self_attn_layer_norm", width)
        linear(f"{layer}.fc1", sizes.hidden, width)
        linear(f"{layer}.fc2", width, sizes.hidden)
        norm(f"{layer}.final_layer_norm", width)
    linear("proj", sizes.labels, width, 2.0)
    return state


def _model_settings(sizes: Sizes) -> dict[str, Any]:
    """`cfg.model` but for its name."""
    return {
        "apply_mask": False,
        "extractor_mode": "default",
        "in_d": len(LEADS),
        "conv_feature_layers": f"[({sizes.channels}, 2, 2)] * 4",
        "conv_bias": False,
        "conv_pos": sizes.kernel,
        "conv_pos_groups": sizes.groups,
        "encoder_layers": sizes.layers,
        "encoder_embed_dim": sizes.width,
        "encoder_ffn_embed_dim": sizes.hidden,
        "encoder_attention_heads": 4,
        "layer_norm_first": False,
        "no_pretrained_weights": True,
        "num_labels": sizes.labels,
    }


def make_content(cfg: dict[str, Any], state: dict[str, Tensor], marks: dict[str, bool]) -> dict[str, Any]:
    """The content of a checkpoint's file.

    Args:
        cfg: The configuration, with `model`.
        state: The tensors under fairseq-signals' names.
        marks: What it says of itself to ecgpipe.
    """
    return {
        "args": None,
        "cfg": cfg,
        "model": state,
        # fairseq-signals, which `verify --against` asks, does not load a file without these.
        "optimizer_history": [{"criterion_name": "", "optimizer_name": "", "lr_scheduler_state": {}, "num_updates": 0}],
        "task_state": {},
        "extra_state": {"metrics": {}, "previous_training_time": 0, "train_iterator": {"epoch": 1}},
        "ecgpipe": marks,
    }
