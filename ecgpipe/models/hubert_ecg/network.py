"""HuBERT-ECG's network: transformers' HubertModel with a linear head, as ECG-FM's parts compute it.

Both descend from wav2vec 2.0 and have the same parts: strided convolutions, a group norm after the first of them, a
convolution over the tokens that adds where they stand, transformer layers with the norms after each half. What differs
is in this file. The input is one channel, twelve leads laid end to end; its 6,000 samples become 93 tokens. The
projection is there whatever the widths. The mean over all tokens of the last layer is the embedding, and the attention
is that of the last layer, mean over heads, max over keys, as ECG-FM's.

A window has no padding: upstream's mask does not work (it counts padding that lies between the leads as if it were at
the end), and all validation and test code of the authors passes `attention_mask=None`. Nothing is masked here either.

The sizes are read from `config.json` and held against the tensors' shapes. Code and weights are CC BY-NC 4.0.

Upstream: hubert_ecg.py and finetune.py of https://github.com/Edoar-do/HuBERT-ECG at commit affe1f9, and
models/hubert/modeling_hubert.py of https://github.com/huggingface/transformers (4.46). Paper: medRxiv
2024.11.14.24317328. Weight norm: Salimans and Kingma, NeurIPS 2016.
"""

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ecgpipe.core.errors import EcgpipeError
from ecgpipe.models.description import Architecture as Architecture
from ecgpipe.models.ecg_fm import network as ecg_fm
from ecgpipe.models.ecg_fm.tuning import Tuning
from ecgpipe.models.hubert_ecg.family import MARKERS as MARKERS
from ecgpipe.models.hubert_ecg.family import recognise as recognise
from ecgpipe.models.output import Output
from ecgpipe.models.tensors import (
    check_tensors,
    find_prefix,
    find_tensors,
    load_pickled,
    load_safetensors,
    most_common_size,
)

# Our modules and upstream's; # is a layer's number. Several upstream tensors are stacked to one of ours, in this order.
UPSTREAM = {
    "convolutions.layers.#": ("feature_extractor.conv_layers.#.conv",),
    "convolutions.norm": ("feature_extractor.conv_layers.0.layer_norm",),
    "feature_norm": ("feature_projection.layer_norm",),
    "project": ("feature_projection.projection",),
    "position.conv": ("encoder.pos_conv_embed.conv",),
    "norm": ("encoder.layer_norm",),
    "layers.#.qkv": (
        "encoder.layers.#.attention.q_proj",
        "encoder.layers.#.attention.k_proj",
        "encoder.layers.#.attention.v_proj",
    ),
    "layers.#.out": ("encoder.layers.#.attention.out_proj",),
    "layers.#.attention_norm": ("encoder.layers.#.layer_norm",),
    "layers.#.fc1": ("encoder.layers.#.feed_forward.intermediate_dense",),
    "layers.#.fc2": ("encoder.layers.#.feed_forward.output_dense",),
    "layers.#.final_norm": ("encoder.layers.#.final_layer_norm",),
    "head": ("classifier",),
}

# The positional convolution's weight is a length and a direction, under names that depend on the transformers' version.
POSITION_WEIGHT = "position.conv.weight"
WEIGHT_NORMS = (("parametrizations.weight.original0", "parametrizations.weight.original1"), ("weight_g", "weight_v"))

# What only pretraining uses: the vector of masked tokens, and the projections to each codebook's clusters.
UNUSED = re.compile(r"masked_spec_embed|final_proj(\.\d+)?\.(weight|bias)|label_embedding(\.\d+)?\.weight")

# What config.json must say of the parts that have no size. Its dropout and masking are of training only.
NEEDED = {
    "feat_extract_norm": "group",
    "feat_extract_activation": "gelu",
    "hidden_act": "gelu",
    "feat_proj_layer_norm": True,
    "do_stable_layer_norm": False,
    "conv_pos_batch_norm": False,
    "layer_norm_eps": 1e-5,
}

MAX_LAYERS = 256
MAX_SIZE = 65_536  # far above any real network, and far below what a number can do harm with

SAFE_WAY = (
    "give the folder with config.json and model.safetensors of hf://Edoardo-BS/hubert-ecg-{small,base,large} or "
    "hf://Edoardo-BS/HuBERT-ECG-SFT-CardioLearning-{small,base,large}"
)


class Network(ecg_fm.Network):
    """The whole network, from a row of leads to logits, embedding and attention."""

    def __init__(self, arch: Architecture) -> None:
        super().__init__(arch)
        self.project = ecg_fm.Linear(arch.conv_layers[-1][0], arch.width)  # also where the widths are equal

    def forward(self, signal: Tensor, samples: Tensor | None = None, with_attention: bool = True) -> Output:
        """Run a batch of windows.

        Args:
            signal: (batch, 6000), or the same as (batch, 1, 6000) or (batch, 12, 500): 5 s at 100 Hz of twelve leads
                laid end to end.
            samples: Not used: no window has padding, see the top of this file.
            with_attention: Whether to return the last layer's attention, mean over heads, max over keys.

        Returns:
            Logits, embedding (the mean over all tokens) and attention.

        Raises:
            ValueError: The windows are too short for one token.
        """
        row = signal.flatten(1)[:, None]  # (batch, 1, 6000)
        if not self.arch.tokens(row.shape[2]):
            raise ValueError(f"a window needs {self.arch.token_samples[1]} samples for one token")
        return super().forward(row, None, with_attention)


def read_architecture(
    config: Mapping[str, Any], tensors: Mapping[str, Any], where: str = "config.json"
) -> Architecture:
    """Read the sizes of the network from its configuration, and its number of outputs from the head's tensors.

    Args:
        config: The content of `config.json`.
        tensors: Tensors by upstream's names, behind any prefix.
        where: The configuration's path, for the message.

    Returns:
        The sizes under ecgpipe's names.

    Raises:
        EcgpipeError: The configuration is not valid, or describes a network that ecgpipe does not compute.
    """
    for key, needed in NEEDED.items():
        if config.get(key, needed) != needed:
            raise EcgpipeError(
                f"checkpoint: {key} in {where} is {config[key]!r}; ecgpipe runs HuBERT-ECG networks with {needed!r} "
                "only"
            )
    bias = config.get("conv_bias", False)
    if not isinstance(bias, bool):
        raise EcgpipeError(f"checkpoint: conv_bias in {where} is {bias!r}; it must be true or false")
    arch = Architecture(
        in_leads=1,
        conv_layers=_read_convolutions(config, where),
        conv_bias=bias,
        width=_read_size(config, "hidden_size", where),
        layers=_read_size(config, "num_hidden_layers", where, MAX_LAYERS),
        heads=_read_size(config, "num_attention_heads", where),
        hidden=_read_size(config, "intermediate_size", where),
        layer_norm_first=False,
        position_kernel=_read_size(config, "num_conv_pos_embeddings", where),
        position_groups=_read_size(config, "num_conv_pos_embedding_groups", where),
        labels=_count_labels(config, tensors),
    )
    for key, parts in (("num_attention_heads", arch.heads), ("num_conv_pos_embedding_groups", arch.position_groups)):
        if arch.width % parts:
            raise EcgpipeError(
                f"checkpoint: hidden_size in {where} is {arch.width}, which is not a multiple of {key} ({parts})"
            )
    return arch


def _read_convolutions(config: Mapping[str, Any], where: str) -> tuple[tuple[int, int, int], ...]:
    """(channels, kernel, stride) of each convolution."""
    channels, kernels, strides = (_read_sizes(config, f"conv_{what}", where) for what in ("dim", "kernel", "stride"))
    if not len(channels) == len(kernels) == len(strides):
        raise EcgpipeError(
            f"checkpoint: conv_dim, conv_kernel and conv_stride in {where} have {len(channels)}, {len(kernels)} and "
            f"{len(strides)} entries instead of one for each convolution; download it again"
        )
    return tuple(zip(channels, kernels, strides, strict=True))


def _read_size(config: Mapping[str, Any], key: str, where: str, most: int = MAX_SIZE) -> int:
    [size] = _read_sizes({key: [config.get(key)]}, key, where, most)
    return size


def _read_sizes(config: Mapping[str, Any], key: str, where: str, most: int = MAX_SIZE) -> list[int]:
    sizes = config.get(key)
    if (
        isinstance(sizes, list)
        and 1 <= len(sizes) <= MAX_LAYERS
        and all(type(size) is int and 1 <= size <= most for size in sizes)
    ):
        return sizes
    raise EcgpipeError(
        f"checkpoint: {key} in {where} is {sizes!r}; it must be made of whole numbers from 1 to {most}: "
        "give a config.json as HuBERT-ECG's repositories have it"
    )


def _outer_prefixes(prefix: str) -> list[str]:
    """The prefix and those it begins with: "module.hubert_ecg." also gives "module." and "", where heads stand."""
    parts = prefix.split(".")[:-1]
    return ["".join(f"{part}." for part in parts[:count]) for count in range(len(parts), -1, -1)]


def _find_head(tensors: Mapping[str, Any], prefix: str) -> str | None:
    """The prefix of the head's tensors; None without a head."""
    for outer in _outer_prefixes(prefix):
        if any(f"{outer}classifier.{kind}" in tensors for kind in ("weight", "bias")):
            return outer
    return None


def _count_labels(config: Mapping[str, Any], tensors: Mapping[str, Any]) -> int:
    """How many outputs the head has; 0 without a head, whatever `num_labels` says."""
    outer = _find_head(tensors, find_prefix(tensors, MARKERS) or "")
    if outer is None:
        return 0
    places = [(f"{outer}classifier.{kind}", 0) for kind in ("weight", "bias")]
    sizes = {most_common_size(tensors, [place]) for place in places}
    declared = config.get("num_labels")
    return declared if declared in sizes and type(declared) is int else most_common_size(tensors, places) or 1


def map_tensors(tensors: Mapping[str, Any], arch: Architecture, where: str = "the checkpoint") -> dict[str, Tensor]:
    """Map the tensors of a checkpoint to those of `Network`, strictly.

    Args:
        tensors: Tensors by upstream's names, behind any prefix such as "hubert_ecg.".
        arch: The network that the configuration describes.
        where: The file, for the message.

    Returns:
        The network's state dict: float32, copied out of the file.

    Raises:
        EcgpipeError: Tensors are missing, unknown or of another shape; the message names all of them.
    """
    prefix = find_prefix(tensors, MARKERS)
    if prefix is None:
        raise EcgpipeError(
            f"checkpoint: the tensors of {where} are not those of HuBERT-ECG, which has {', '.join(MARKERS)}; "
            f"{SAFE_WAY}, or the model family that the file is of"
        )
    sources = _list_sources(tensors, arch, prefix)
    check_tensors(
        tensors,
        {name: shape for parts in sources.values() for name, shape in parts.items()},
        {outer + name for outer in _outer_prefixes(prefix) for name in _list_unused(tensors, outer)},
        f"checkpoint: the tensors of {where} are not those of the HuBERT-ECG network in its config.json",
        SAFE_WAY,
    )
    mapped = {}
    for ours, upstream in sources.items():
        parts = [tensors[name].float() for name in upstream]
        if ours == POSITION_WEIGHT:
            length, direction = parts
            # In double precision: the order of the sum depends on the number of threads, and rounding to float32
            # removes the difference.
            mapped[ours] = torch._weight_norm(direction.double(), length.double(), 2).float()
        else:
            mapped[ours] = torch.cat(parts)  # also for a single part: this copies it out of the file
    return mapped


def _list_unused(tensors: Iterable[str], outer: str) -> list[str]:
    """The names, without this prefix, of tensors that only pretraining uses."""
    names = [name.removeprefix(outer) for name in tensors if name.startswith(outer)]
    return [name for name in names if UNUSED.fullmatch(name)]


def _list_sources(tensors: Mapping[str, Any], arch: Architecture, prefix: str) -> dict[str, dict[str, tuple[int, ...]]]:
    """For each of the network's tensors, the names and shapes of the upstream tensors that make it."""
    with torch.device("meta"):
        expected = {name: tuple(tensor.shape) for name, tensor in Network(arch).state_dict().items()}
    head_prefix = _find_head(tensors, prefix) or ""
    sources = {}
    for ours, shape in expected.items():
        module, _, kind = ours.rpartition(".")
        number = "".join(re.findall(r"\.(\d+)", module))
        at = head_prefix if module == "head" else prefix
        names = [at + name.replace("#", number) for name in UPSTREAM[re.sub(r"\.\d+", ".#", module)]]
        if ours == POSITION_WEIGHT:
            spellings = [[f"{names[0]}.{part}" for part in pair] for pair in WEIGHT_NORMS]
            length, direction = next((pair for pair in spellings if set(pair) & tensors.keys()), spellings[0])
            sources[ours] = {length: (1, 1, shape[2]), direction: shape}
        else:
            each = (shape[0] // len(names), *shape[1:])
            sources[ours] = {f"{name}.{kind}": each for name in names}
    return sources


def read_checkpoint(path: Path) -> tuple[Architecture, dict[str, Tensor]]:
    """Read a released folder, without executing anything of it.

    Args:
        path: The folder with `config.json` and `model.safetensors`, or either of these files.

    Returns:
        The sizes and the tensors of its network.

    Raises:
        EcgpipeError: A file is missing or damaged, is one of the older .pt files, which hold code, or does not have
            HuBERT-ECG's tensors.
    """
    folder = path if path.is_dir() else path.parent
    weights = folder / "model.safetensors" if path.is_dir() or path.suffix == ".json" else path
    if weights.suffix == ".safetensors":
        tensors = load_safetensors(weights)
    else:
        tensors = find_tensors(load_pickled(weights, SAFE_WAY))
    arch = read_architecture(_read_config(folder / "config.json"), tensors, str(folder / "config.json"))
    return arch, map_tensors(tensors, arch, str(weights))


def _read_config(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise EcgpipeError(f"checkpoint: cannot read {path}: {error.strerror}; {SAFE_WAY}") from error
    except ValueError as error:
        raise EcgpipeError(f"checkpoint: {path} is not valid JSON ({error}); download it again") from error
    if not isinstance(config, dict):
        raise EcgpipeError(f"checkpoint: {path} is not a configuration of transformers; {SAFE_WAY}")
    return config


def from_tensors(
    arch: Architecture,
    tensors: Mapping[str, Tensor],
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    packed: bool = True,
    tuning: Tuning | None = None,
) -> Network:
    """The network with weights, by the names of `Network`, ready for inference.

    The arguments, and what stays float32 whatever `dtype` is, are those of ECG-FM's: the first convolution and its norm
    (its variance is over all samples), the positions by spectra, the scores where attention is kept, the mean over the
    tokens and the head.
    """
    with torch.device("meta"):
        network = Network(arch)  # no memory is filled with numbers that the weights replace
    ecg_fm.fill_network(network, tensors, device, dtype, packed, tuning)
    return network
