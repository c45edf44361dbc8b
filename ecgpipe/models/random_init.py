"""Write a checkpoint of random weights with the architecture of another one, as fairseq-signals initialises it.

Its embeddings are the baseline of a probe: a linear probe finds much in random networks of this kind already
(arXiv:2602.17531), so that the gain over them is the effect of pre-training.
"""

import argparse
import logging
import math
import os
from pathlib import Path

import torch
from torch import Tensor, nn

from ecgpipe.core import options
from ecgpipe.core.atomic import whole
from ecgpipe.core.errors import EcgpipeError
from ecgpipe.models import fairseq_checkpoint, hub
from ecgpipe.models.description import Architecture

logger = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `ecgpipe untrained`."""
    parser.add_argument(
        "--like",
        type=os.path.expanduser,
        required=True,
        help="hf://OWNER/REPO@REVISION/FILE or a .pt file: the architecture",
    )
    options.add(parser, "seed", default=0, help="seed of the weights (default %(default)s)")
    options.add(parser, "output", required=True, help="the .pt file to write, for the setting `checkpoint`")


def run(args: argparse.Namespace) -> None:
    """Write the checkpoint."""
    if not 0 <= args.seed < 2**63:
        raise EcgpipeError(f"untrained: --seed is {args.seed}; give a whole number from 0 on")
    write_untrained(args.like, args.seed, args.output)


def write_untrained(like: str, seed: int, output: Path) -> None:
    """Write a checkpoint of random weights.

    Args:
        like: hf://OWNER/REPO@REVISION/FILE or a .pt file, whose architecture it gets.
        seed: Of the weights.
        output: The .pt file to write.
    """
    source = hub.fetch(like, None)
    cfg = fairseq_checkpoint.read_checkpoint(source.path)["cfg"]["model"]
    arch = fairseq_checkpoint.read_architecture(cfg)
    kept = {key: value for key, value in cfg.items() if isinstance(value, bool | int | float | str)}
    tensors = draw_weights(arch, seed)
    content = {
        "args": None,
        "cfg": {"model": kept},
        "model": tensors,
        "ecgpipe": {"random_weights": True, "seed": seed, "like": source.sha256},
    }
    # To an open file: given a path, torch.save writes the name of the temporary file into the archive.
    with whole(output) as path, path.open("wb") as file:
        torch.save(content, file)
    logger.info("%s: %d RANDOM tensors like those of %s", output, len(tensors), like)


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
