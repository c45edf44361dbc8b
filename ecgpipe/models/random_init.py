"""Write a checkpoint of random weights with the architecture of another one, in that one's own layout.

ECG-FM's and DeepECG-SSL's are drawn as fairseq-signals initialises them; those of other families as is usual: variance
1 / fan-in, norms one, biases zero; a user's own network as its `Network()` draws them.

Its embeddings are the baseline of a probe: a linear probe finds much in random networks of this kind already
(arXiv:2602.17531), so that the gain over them is the effect of pre-training.
"""

import argparse
import json
import logging
import math
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from ecgpipe.core import options
from ecgpipe.core.atomic import whole
from ecgpipe.core.errors import EcgpipeError
from ecgpipe.models import checkpoint, fairseq_checkpoint, peek, registry
from ecgpipe.models.description import Architecture
from ecgpipe.models.tensors import find_tensors, load_pickled, load_safetensors

logger = logging.getLogger(__name__)

# Tensors that a formula gives and training does not change: ECG-JEPA's positions.
FIXED = ("pos_embed",)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `ecgpipe untrained`."""
    parser.add_argument(
        "--like",
        type=os.path.expanduser,
        required=True,
        help="hf://OWNER/REPO@REVISION/FILE, a file or a folder: the architecture",
    )
    options.add(parser, "model")
    options.add(parser, "seed", default=0, help="seed of the weights (default %(default)s)")
    options.add(
        parser, "output", required=True, help="the file to write, for the setting `checkpoint`; for HuBERT-ECG a folder"
    )


def run(args: argparse.Namespace) -> None:
    """Write the checkpoint."""
    if not 0 <= args.seed < 2**63:
        raise EcgpipeError(f"untrained: --seed is {args.seed}; give a whole number from 0 on")
    write_untrained(args.like, args.seed, args.output, args.model)


def write_untrained(like: str, seed: int, output: Path, model: str | None = None) -> None:
    """Write a checkpoint of random weights.

    Args:
        like: hf://OWNER/REPO@REVISION/FILE or a file or folder, whose architecture it gets.
        seed: Of the weights.
        output: The file to write; a folder where the family's release is one.
        model: The family, or the path of the user's own model; None: what the checkpoint tells.

    Raises:
        EcgpipeError: The checkpoint is refused.
    """
    opened = checkpoint.open_source(like, model=model)
    marks = {"random_weights": True, "seed": seed, "like": opened.source.sha256}
    path = opened.source.path
    if opened.family.path:
        torch.manual_seed(seed)
        tensors = dict(opened.family.declaration.Network().state_dict())
        content: dict[str, Any] = {"state_dict": tensors, "ecgpipe": marks}
    elif path.suffix == ".safetensors":
        tensors = draw_like(load_safetensors(path), seed)
        output.mkdir(parents=True, exist_ok=True)
        for name in opened.family.files[1:]:
            shutil.copyfile(path.with_name(name), output / name)
        with whole(output / path.name) as temporary:
            safetensors.torch.save_file(tensors, temporary, {"format": "pt", "ecgpipe": json.dumps(marks)})
        logger.info("%s: %d RANDOM tensors like those of %s", output, len(tensors), like)
        return
    elif "cfg" in (peek.peek(path) or {}):
        cfg = fairseq_checkpoint.read_checkpoint(path)["cfg"]
        tensors = draw_weights(fairseq_checkpoint.read_architecture(cfg["model"]), seed)
        content = {"args": None, "cfg": {"model": _plain_values(cfg["model"])}, "model": tensors, "ecgpipe": marks}
        if opened.family.name != registry.DEFAULT and isinstance(cfg.get("task"), Mapping):
            content["cfg"]["task"] = _plain_values(cfg["task"])  # which tells the family
    else:
        tensors = draw_like(find_tensors(load_pickled(path)), seed)
        content = {"state_dict": tensors, "ecgpipe": marks}
    # To an open file: given a path, torch.save writes the name of the temporary file into the archive.
    with whole(output) as temporary, temporary.open("wb") as file:
        torch.save(content, file)
    logger.info("%s: %d RANDOM tensors like those of %s", output, len(tensors), like)


def _plain_values(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if isinstance(value, bool | int | float | str)}


def draw_like(tensors: Mapping[str, Tensor], seed: int) -> dict[str, Tensor]:
    """Draw weights of the shapes of others.

    Matrices and kernels are normal with variance 1 / fan-in, other parameters normal with standard deviation 0.02,
    norms' weights and variances are one, biases and means zero. Positions that a formula gives and counters stay.

    Args:
        tensors: By name.
        seed: Of the weights.

    Returns:
        As many tensors, by the same names.
    """
    draw = torch.Generator().manual_seed(seed)
    drawn: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        kind = name.rpartition(".")[2]
        if not tensor.is_floating_point() or kind in FIXED:
            drawn[name] = tensor.clone()
        elif kind in ("bias", "running_mean"):
            drawn[name] = torch.zeros_like(tensor)
        elif kind == "running_var" or (kind == "weight" and tensor.ndim == 1):
            drawn[name] = torch.ones_like(tensor)
        else:
            std = 1 / math.sqrt(math.prod(tensor.shape[1:])) if tensor.ndim > 1 else 0.02
            drawn[name] = torch.empty_like(tensor).normal_(0, std, generator=draw)
    for length, direction in (("weight_g", "weight_v"), ("original0", "original1")):
        for name in [name for name in tensors if name.endswith(f".{length}")]:
            along = [dim for dim, size in enumerate(tensors[name].shape) if size == 1]
            drawn[name] = drawn[name.removesuffix(length) + direction].norm(dim=along, keepdim=True)
    return drawn


def draw_weights(arch: Architecture, seed: int) -> dict[str, Tensor]:
    """Draw a network's weights as fairseq-signals does before training.

    Linear layers of the transformer are normal with standard deviation 0.02 and no bias (`init_bert_params`), strided
    convolutions He-normal, the positions' convolution normal with variance 4 / (kernel * width), the head
    Xavier-uniform, norms one and zero. The projection to the width, and a convolution's bias, are as PyTorch has them.
    Upstream: fairseq_signals/modules/{transformer_encoder,conv_feature_extraction,conv_positional_encoding}.py and
    models/classification/ecg_transformer_classifier.py of https://github.com/Jwoo5/fairseq-signals.

    Args:
        arch: The network.
        seed: Of the weights.

    Returns:
        Its tensors under upstream's names, float32.
    """
    draw = torch.Generator().manual_seed(seed)
    shapes = fairseq_checkpoint.list_tensor_shapes(arch)
    tensors: dict[str, Tensor] = {}
    for name, shape in shapes.items():
        module, _, kind = name.rpartition(".")
        tensor = torch.zeros(shape)
        if ".self_attn." in name or ".fc" in name:
            tensors[name] = tensor.normal_(0, 0.02, generator=draw) if kind == "weight" else tensor
        elif "layer_norm" in name or module.endswith("conv_layers.0.2"):
            tensors[name] = tensor + (kind == "weight")
        elif "conv_layers" in name and kind == "weight":
            tensors[name] = nn.init.kaiming_normal_(tensor, generator=draw)
        elif name.startswith("proj."):
            tensors[name] = nn.init.xavier_uniform_(tensor, generator=draw) if kind == "weight" else tensor
        elif "post_extract_proj" in name or "conv_layers" in name:
            bound = 1 / math.sqrt(math.prod(shapes[f"{module}.weight"][1:]))
            tensors[name] = tensor.uniform_(-bound, bound, generator=draw)
        elif kind == "original1":
            std = math.sqrt(4 / (arch.position_kernel * arch.width))
            tensors[name] = tensor.normal_(0, std, generator=draw)
        else:
            tensors[name] = tensor  # the positions' bias, and their length, which their direction gives
    for name in [name for name in shapes if name.endswith("original0")]:
        direction = tensors[name.replace("original0", "original1")]
        tensors[name] = direction.norm(dim=(0, 1), keepdim=True)
    return tensors
