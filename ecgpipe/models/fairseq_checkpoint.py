"""fairseq-signals' checkpoints: opened without executing anything, and turned into the tensors of ecg_fm/network.py.

The one place that knows upstream's names: fairseq_signals/models/{ecg_transformer,wav2vec2/wav2vec2_cmsc,
classification/ecg_transformer_classifier}.py of https://github.com/Jwoo5/fairseq-signals.
"""

import ast
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ecgpipe.core.errors import EcgpipeError
from ecgpipe.models.description import Architecture
from ecgpipe.models.ecg_fm.network import Network
from ecgpipe.models.tensors import check_tensors, load_pickled
from ecgpipe.readers import LEADS

# Upstream's names (`_name` in the configuration) of the networks that ecg_fm/network.py computes.
CLASSIFIERS = frozenset({"ecg_transformer_classifier"})  # the network below `encoder.`, and a head
PRETRAINED = frozenset({"ecg_transformer", "wav2vec2", "wav2vec2_cmsc"})  # the network alone

# Classifiers that fairseq-signals alone computes, see `described`: convolutions, without tokens and attention.
CONVOLUTIONAL = frozenset({"nejedly2021resnet_classifier", "se_wrn_classifier"})

# Our modules and upstream's, as a classifier names them; # is a layer's number. In a pretrained checkpoint the first
# `encoder.` is not there. Several upstream tensors are stacked to one of ours in the order given.
UPSTREAM = {
    "convolutions.layers.#": ("encoder.feature_extractor.conv_layers.#.0",),
    "convolutions.norm": ("encoder.feature_extractor.conv_layers.0.2",),
    "feature_norm": ("encoder.layer_norm",),
    "project": ("encoder.post_extract_proj",),
    "position.conv": ("encoder.conv_pos.pos_conv.0",),
    "norm": ("encoder.encoder.layer_norm",),
    "layers.#.qkv": (
        "encoder.encoder.layers.#.self_attn.q_proj",
        "encoder.encoder.layers.#.self_attn.k_proj",
        "encoder.encoder.layers.#.self_attn.v_proj",
    ),
    "layers.#.out": ("encoder.encoder.layers.#.self_attn.out_proj",),
    "layers.#.attention_norm": ("encoder.encoder.layers.#.self_attn_layer_norm",),
    "layers.#.fc1": ("encoder.encoder.layers.#.fc1",),
    "layers.#.fc2": ("encoder.encoder.layers.#.fc2",),
    "layers.#.final_norm": ("encoder.encoder.layers.#.final_layer_norm",),
    "head": ("proj",),
}

# The positional convolution's weight is stored as a length and a direction, under names that depend on PyTorch's age.
POSITION_WEIGHT = "position.conv.weight"
WEIGHT_NORM = ("parametrizations.weight.original0", "parametrizations.weight.original1")
OLD_WEIGHT_NORM = ("weight_g", "weight_v")

# Parts that only pretraining uses.
UNUSED = ("final_proj", "mask_emb", "project_q", "quantizer", "target_glu")

MAX_CONVOLUTIONS = 64
MAX_LAYERS = 256
MAX_SIZE = (
    65_536  # of channels, heads, samples: far above any real network, and far below what a number can do harm with
)


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Open a checkpoint of fairseq-signals without executing anything of it.

    Its tensors stay in the file until they are used, so that the optimizer's state, half of it, costs no memory. Only
    PyTorch's format from before 1.6 has to be read whole.

    Args:
        path: The .pt file.

    Returns:
        Its content; `content["cfg"]["model"]` is the configuration and `content["model"]` the tensors.

    Raises:
        EcgpipeError: The file is not such a checkpoint, or names code that is not in `tensors.SAFE_GLOBALS`.
    """
    content = load_pickled(path)
    match content:
        case {"cfg": {"model": dict()}, "model": dict()}:
            return dict(content)
    raise EcgpipeError(
        f"checkpoint: {path} is not a checkpoint of fairseq-signals: it has no cfg.model or no model; "
        "give one as fairseq-signals saves it, such as those of hf://wanglab/ecg-fm"
    )


def describe_for_fairseq(cfg: Mapping[str, Any], state: Mapping[str, Any]) -> Architecture:
    """The sizes of a network that fairseq-signals itself will compute, as far as other stages need them.

    Args:
        cfg: Upstream's `cfg.model`.
        state: Upstream's state dict.

    Returns:
        All sizes of a transformer. Of a convolutional network `in_leads`, `width` and `labels`; `layers` is 0 and
        `conv_layers` is empty.

    Raises:
        EcgpipeError: fairseq_forward.py does not compute such a network.
    """
    kind = cfg.get("_name")
    if kind in CLASSIFIERS | PRETRAINED:
        return read_architecture(cfg, native=False)
    if kind not in CONVOLUTIONAL:
        known = ", ".join(sorted(CLASSIFIERS | PRETRAINED | CONVOLUTIONAL))
        raise EcgpipeError(f"checkpoint: cfg.model._name is {kind!r}; with inference.backend fairseq, give {known}")
    head = state.get("proj.weight")
    if not isinstance(head, Tensor) or head.ndim != 2:
        raise EcgpipeError(
            "checkpoint: proj.weight is missing or not a matrix; give a checkpoint as fairseq-signals saved it"
        )
    return Architecture(
        in_leads=len(LEADS) if cfg.get("leadwise") is True else _read_size(cfg, "in_d"),
        conv_layers=(),
        conv_bias=False,
        width=head.shape[1],
        layers=0,
        heads=0,
        hidden=0,
        layer_norm_first=False,
        position_kernel=0,
        position_groups=0,
        labels=head.shape[0],
    )


def read_architecture(cfg: Mapping[str, Any], native: bool = True) -> Architecture:
    """The sizes of the transformer that a checkpoint's configuration describes.

    Args:
        cfg: Upstream's `cfg.model`.
        native: Whether ecg_fm/network.py will compute it.

    Returns:
        The sizes under ecgpipe's names.

    Raises:
        EcgpipeError: The configuration is not valid, or describes a network that ecg_fm/network.py does not compute.
    """
    kind = cfg.get("_name")
    if kind not in CLASSIFIERS | PRETRAINED:
        known = ", ".join(sorted(CLASSIFIERS | PRETRAINED))
        more = f"; for {', '.join(sorted(CONVOLUTIONAL))} set inference.backend to fairseq"
        raise EcgpipeError(f"checkpoint: cfg.model._name is {kind!r}; ecgpipe runs {known}{more}")
    for key, needed in (("extractor_mode", "default"), ("quantize_input", False)):
        if native and cfg.get(key, needed) != needed:
            raise EcgpipeError(
                f"checkpoint: cfg.model.{key} is {cfg[key]!r}; ecgpipe runs networks with {needed!r} only"
            )
    arch = Architecture(
        in_leads=_read_size(cfg, "in_d"),
        conv_layers=_parse_conv_layers(cfg.get("conv_feature_layers")),
        conv_bias=_read_switch(cfg, "conv_bias"),
        width=_read_size(cfg, "encoder_embed_dim"),
        layers=_read_size(cfg, "encoder_layers", MAX_LAYERS),
        heads=_read_size(cfg, "encoder_attention_heads"),
        hidden=_read_size(cfg, "encoder_ffn_embed_dim"),
        layer_norm_first=_read_switch(cfg, "layer_norm_first"),
        position_kernel=_read_size(cfg, "conv_pos"),
        position_groups=_read_size(cfg, "conv_pos_groups"),
        labels=_read_size(cfg, "num_labels") if kind in CLASSIFIERS else 0,
    )
    for key, parts in (("encoder_attention_heads", arch.heads), ("conv_pos_groups", arch.position_groups)):
        if arch.width % parts:
            raise EcgpipeError(
                f"checkpoint: cfg.model.{key} is {parts}, which does not divide encoder_embed_dim, {arch.width}; "
                "the checkpoint's configuration is not valid: give another checkpoint"
            )
    return arch


def _read_size(cfg: Mapping[str, Any], key: str, most: int = MAX_SIZE) -> int:
    value = cfg.get(key)
    if type(value) is not int or not 1 <= value <= most:
        raise EcgpipeError(f"checkpoint: cfg.model.{key} is {value!r}; it must be a whole number from 1 to {most}")
    return value


def _read_switch(cfg: Mapping[str, Any], key: str) -> bool:
    value = cfg.get(key)
    if not isinstance(value, bool):
        raise EcgpipeError(f"checkpoint: cfg.model.{key} is {value!r}; it must be True or False")
    return value


def _parse_conv_layers(expression: object) -> tuple[tuple[int, int, int], ...]:
    """The layers of a Python expression such as "[(256, 2, 2)] * 4", which is parsed and never evaluated."""
    try:
        if not isinstance(expression, str) or len(expression) > 10_000:
            raise ValueError("not a short text")
        layers = _parse_layers(ast.parse(expression.strip(), mode="eval").body)
        if not layers:
            raise ValueError("no layers")
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        shown = repr(expression) if len(repr(expression)) <= 80 else repr(expression)[:80] + "..."
        raise EcgpipeError(
            f"checkpoint: cfg.model.conv_feature_layers is {shown}; it must list 1 to {MAX_CONVOLUTIONS} layers "
            f"(channels, kernel, stride) of whole numbers from 1 to {MAX_SIZE}, such as [(256, 2, 2)] * 4"
        ) from error
    return layers


def _parse_layers(node: ast.expr) -> tuple[tuple[int, int, int], ...]:
    """The layers that a list, a sum of lists, or a list times a number stands for."""
    match node:
        case ast.List(elts=elements):
            layers = tuple(_parse_layer(element) for element in elements)
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            layers = _parse_layers(left) + _parse_layers(right)
        case (
            ast.BinOp(left=ast.Constant(value=times), op=ast.Mult(), right=repeated)
            | ast.BinOp(left=repeated, op=ast.Mult(), right=ast.Constant(value=times))
        ):
            if type(times) is not int or not 0 <= times <= MAX_CONVOLUTIONS:
                raise ValueError("not a number of times")
            layers = _parse_layers(repeated) * times
        case _:
            raise ValueError(f"{type(node).__name__} is not read")
    if len(layers) > MAX_CONVOLUTIONS:
        raise ValueError("too many layers")
    return layers


def _parse_layer(node: ast.expr) -> tuple[int, int, int]:
    numbers = [element.value for element in getattr(node, "elts", []) if isinstance(element, ast.Constant)]
    sizes = [number for number in numbers if type(number) is int and 1 <= number <= MAX_SIZE]
    if not isinstance(node, ast.Tuple | ast.List) or not len(node.elts) == len(sizes) == 3:
        raise ValueError("not a layer")
    return sizes[0], sizes[1], sizes[2]


def convert_tensors(state: Mapping[str, Any], arch: Architecture, where: str) -> dict[str, Tensor]:
    """Convert upstream's tensors to those of `network.Network`, and refuse missing or unknown tensors.

    Args:
        state: Upstream's state dict.
        arch: The network that its configuration describes.
        where: The file, for the message.

    Returns:
        The network's state dict: float32, contiguous, nothing shared.

    Raises:
        EcgpipeError: Tensors are missing, unknown or of another shape; the message names all of them.
    """
    sources = _map_tensors(state, arch)
    _check_tensors(state, {name: shape for parts in sources.values() for name, shape in parts.items()}, where)
    tensors = {}
    for ours, upstream in sources.items():
        parts = [state[name].float() for name in upstream]
        if ours == POSITION_WEIGHT:
            length, direction = parts
            # In double precision: the order of the sum depends on the number of threads, and rounding to float32
            # removes the difference.
            tensors[ours] = torch._weight_norm(direction.double(), length.double(), 2).float()
        else:
            tensors[ours] = torch.cat(parts)  # also for a single part: this copies it out of the file
    return tensors


def list_tensor_shapes(arch: Architecture) -> dict[str, tuple[int, ...]]:
    """The tensors that a checkpoint of a network has under upstream's names, as current PyTorch saves them."""
    return {name: shape for parts in _map_tensors({}, arch).values() for name, shape in parts.items()}


def _map_tensors(state: Mapping[str, Any], arch: Architecture) -> dict[str, dict[str, tuple[int, ...]]]:
    """For each of the network's tensors, the names and shapes of the upstream tensors that make it."""
    with torch.device("meta"):
        expected = Network(arch).state_dict()
    sources = {}
    for ours, tensor in expected.items():
        module, _, kind = ours.rpartition(".")
        number = "".join(re.findall(r"\.(\d+)", module))
        upstream = [name.replace("#", number) for name in UPSTREAM[re.sub(r"\.\d+", ".#", module)]]
        if not arch.labels:
            upstream = [name.removeprefix("encoder.") for name in upstream]
        shape = tuple(tensor.shape)
        if ours == POSITION_WEIGHT:
            old = any(f"{upstream[0]}.{kind}" in state for kind in OLD_WEIGHT_NORM)
            length, direction = OLD_WEIGHT_NORM if old else WEIGHT_NORM
            sources[ours] = {f"{upstream[0]}.{length}": (1, 1, shape[2]), f"{upstream[0]}.{direction}": shape}
        else:
            each = (shape[0] // len(upstream), *shape[1:])
            sources[ours] = {f"{name}.{kind}": each for name in upstream}
    return sources


def _check_tensors(state: Mapping[str, Any], expected: Mapping[str, tuple[int, ...]], where: str) -> None:
    """Raise one error that names every tensor that is missing, unknown, or not as expected."""
    check_tensors(
        state,
        expected,
        [name for name in state if _is_unused(str(name))],
        f"checkpoint: the tensors of {where} are not those of the network in its cfg.model",
        "give a checkpoint as fairseq-signals saved it",
    )


def _is_unused(name: str) -> bool:
    part = name.removeprefix("encoder.")
    return any(part == unused or part.startswith(f"{unused}.") for unused in UNUSED)
