"""ECGFounder's network in plain PyTorch: Net1D, a residual network of convolutions, as it was trained and released.

Read from top to bottom: one strided convolution, then stages of blocks. A block narrows nothing: a convolution of
kernel 1, a grouped one of kernel 16, another of kernel 1, a gate per channel (squeeze and excitation), and the shortcut
around all of it. The first block of each stage halves the length. The mean over time is the embedding, and a linear
head gives the logits. There is no attention. Every size is read from the shapes of the checkpoint's tensors.

The released file holds BatchNorm layers that its network never applies (`use_bn=False` in every script of the authors);
their tensors are on the list of the unused.

Upstream: net1d.py of https://github.com/PKUDigitalHealth/ECGFounder at commit 04edac7 (MIT). Paper: NEJM AI 2(7),
AIoa2401033, arXiv 2410.04133. The gate: Hu et al., Squeeze-and-Excitation Networks, CVPR 2018.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812, the name that PyTorch code uses

from ecgpipe.core.errors import EcgpipeError
from ecgpipe.models.ecg_fm.network import ONEDNN
from ecgpipe.models.ecgfounder.family import MARKERS as MARKERS
from ecgpipe.models.ecgfounder.family import Architecture as Architecture
from ecgpipe.models.ecgfounder.family import recognise as recognise
from ecgpipe.models.output import Output
from ecgpipe.models.tensors import (
    check_tensors,
    find_prefix,
    find_tensors,
    load_pickled,
    most_common_size,
    place_weights,
    release_file,
)

STRIDE = 2  # of the first convolution and of each stage's first block: the only sizes that no shape tells

BLOCK_NORMS = ("bn1", "bn2", "bn3")  # in the file, never applied
NORM_TENSORS = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")

# Our modules of a block and upstream's.
BLOCK_MODULES = {
    "conv1": "conv1.conv",
    "conv2": "conv2.conv",
    "conv3": "conv3.conv",
    "squeeze": "se_fc1",
    "excite": "se_fc2",
}


def pad_same(x: Tensor, kernel: int, stride: int) -> Tensor:
    """Pad (..., n) with zeros so that a convolution gives ceil(n / stride) steps; the smaller half is on the left."""
    more = _count_padding(x.shape[-1], kernel, stride)
    return F.pad(x, (more // 2, more - more // 2))


def _count_padding(length: int, kernel: int, stride: int) -> int:
    """How many zeros "same" padding adds in all."""
    return max(0, (-(-length // stride) - 1) * stride + kernel - length)


class Convolution(nn.Conv1d):
    """A convolution with "same" padding and, where asked for, the Swish of it.

    Once packed, it is one call of oneDNN without gradients. The tensors then lie in memory as (batch, n, channels),
    under the same shape, so that a kernel of 1 is a linear layer.
    """

    _packed: tuple[Tensor, Tensor] | None = None

    def forward(self, x: Tensor, swish: bool = False) -> Tensor:
        """(batch, in, n) to (batch, out, ceil(n / stride))."""
        kernel, stride = self.kernel_size[0], self.stride[0]
        if self._packed is None:
            x = super().forward(pad_same(x, kernel, stride))
            return F.silu(x) if swish else x
        attr, weights = "swish" if swish else "none", self._packed
        x = x.transpose(1, 2).contiguous()  # (batch, n, in)
        if kernel == 1:
            linear: Tensor = torch.ops.mkldnn._linear_pointwise(x, weights[0], self.bias, attr, [], "none")
            return linear.transpose(1, 2)
        more = _count_padding(x.shape[1], kernel, stride)
        image = x.transpose(1, 2)[:, :, None]  # (batch, in, 1, n), channels last
        padding, strides, one = [0, -(-more // 2)], [1, stride], [1, 1]
        out: Tensor = torch.ops.mkldnn._convolution_pointwise(
            image, weights[more % 2], self.bias, padding, strides, one, self.groups, attr, [], "none"
        )
        return out[:, :, 0]

    def pack(self) -> None:
        """Lay the weights out as oneDNN reads them best; `forward` alone can use them then."""
        if self.kernel_size[0] == 1:
            weight = torch.ops.mkldnn._reorder_linear_weight(self.weight[..., 0].contiguous())
            self._packed = weight, weight
        else:
            # oneDNN's padding has two equal halves. Where one more is needed on the right, one more is on the left too,
            # and a weight of 0 sees it.
            weights = self.weight[:, :, None], F.pad(self.weight, (1, 0))[:, :, None]  # (out, in, 1, kernel)
            even, odd = (weight.contiguous(memory_format=torch.channels_last) for weight in weights)
            self._packed = even, odd
        self.weight = nn.Parameter(self.weight.new_empty(0), requires_grad=False)


class Block(nn.Module):
    """One residual block."""

    def __init__(self, channels: int, out: int, arch: Architecture, stride: int, swish_first: bool) -> None:
        super().__init__()
        self.conv1 = Convolution(channels, out, 1)
        self.conv2 = Convolution(out, out, arch.kernel, stride, groups=out // arch.group_width)
        self.conv3 = Convolution(out, out, 1)
        self.squeeze = nn.Linear(out, out // 2)
        self.excite = nn.Linear(out // 2, out)
        self.stride, self.swish_first = stride, swish_first

    def forward(self, x: Tensor) -> Tensor:
        """(batch, channels, n) to (batch, out, ceil(n / stride)), both float32."""
        shortcut = x
        x = (F.silu(x) if self.swish_first else x).to(self.conv1.bias.dtype)  # type: ignore[union-attr]
        x = self.conv1(x, swish=True)  # (batch, out, n)
        x = self.conv2(x, swish=True)  # (batch, out, ceil(n / stride))
        x = self.conv3(x).float()
        gate = self.excite(F.silu(self.squeeze(x.mean(dim=2))))  # (batch, out)
        x = x * torch.sigmoid(gate)[..., None]
        if self.stride == STRIDE:
            # A max-pool of 2. An odd length is padded with a zero, so that its last value becomes max(x, 0).
            shortcut = F.pad(shortcut, (0, 1)) if shortcut.shape[2] % 2 else shortcut
            shortcut = torch.maximum(shortcut[..., ::2], shortcut[..., 1::2])  # (batch, channels, ceil(n / 2))
        below = (x.shape[1] - shortcut.shape[1]) // 2  # where the width grows, the outer channels get no shortcut
        x[:, below : below + shortcut.shape[1]] += shortcut
        return x


class Network(nn.Module):
    """The whole network, from standardised windows to logits and embedding."""

    def __init__(self, arch: Architecture) -> None:
        super().__init__()
        self.arch = arch
        self.first = Convolution(arch.in_leads, arch.first_width, arch.kernel, STRIDE)
        self.stages = nn.ModuleList()
        channels = arch.first_width
        for stage, (out, blocks) in enumerate(arch.stages):
            made = []
            for block in range(blocks):
                made.append(Block(channels, out, arch, 1 if block else STRIDE, swish_first=bool(stage or block)))
                channels = out
            self.stages.append(nn.ModuleList(made))
        self.head = nn.Linear(channels, arch.labels)

    def forward(self, signal: Tensor, samples: Tensor | None = None, with_attention: bool = True) -> Output:
        """Run a batch of windows.

        Args:
            signal: (batch, leads, n), 500 Hz, standardised over all leads together; n is 5000 in all that was trained.
            samples: Not used: zeros that pad a window are signal to this network, as they were in training.
            with_attention: Not used: the network has none.

        Returns:
            Logits and embedding, the mean over time of the last block's channels.
        """
        x = self.first(signal.float(), swish=True)  # (batch, first width, n / 2)
        for stage in self.stages:
            for block in cast(list[Block], stage):
                x = block(x)  # (batch, stage's width, half as long after each stage's first block)
        embedding = x.mean(dim=2)  # (batch, width)
        return Output(self.head(embedding), embedding, None)


def read_architecture(tensors: Mapping[str, Any], where: str = "the checkpoint") -> Architecture:
    """Read the sizes of the network off the shapes of a checkpoint's tensors.

    Where tensors disagree, the size that most of them have is taken: `map_tensors` then names the others.

    Args:
        tensors: Tensors by upstream's names, behind any prefix.
        where: The file, for the message.

    Returns:
        The sizes.

    Raises:
        EcgpipeError: They are not the tensors of ECGFounder.
    """
    prefix = find_prefix(tensors, MARKERS)
    stages = [] if prefix is None else _list_blocks(tensors, prefix)
    if prefix is None or not stages:
        raise EcgpipeError(
            f"checkpoint: the tensors of {where} are not those of ECGFounder, which has {', '.join(MARKERS)}; "
            "give 12_lead_ECGFounder.pth or 1_lead_ECGFounder.pth, or the model family that the file is of"
        )

    def size(default: int, names: list[str], dim: int) -> int:
        """The default only where all of these tensors are missing, which `map_tensors` reports."""
        return most_common_size(tensors, [(prefix + name, dim) for name in names]) or default

    grouped = [f"{block}.conv2.conv.weight" for blocks in stages for block in blocks]
    group_width = size(1, grouped, 1)
    by_width = ("conv1.conv.bias", "conv2.conv.bias", "conv3.conv.bias", "conv3.conv.weight", "se_fc2.bias")
    widths = [size(group_width, [f"{block}.{part}" for block in blocks for part in by_width], 0) for blocks in stages]
    arch = Architecture(
        in_leads=size(12, ["first_conv.conv.weight"], 1),
        first_width=size(1, ["first_conv.conv.bias", "first_conv.conv.weight"], 0),
        kernel=size(1, ["first_conv.conv.weight", *grouped], 2),
        group_width=group_width,
        stages=tuple(zip(widths, map(len, stages), strict=True)),
        labels=size(1, ["dense.bias", "dense.weight"], 0),
    )
    for stage, (out, _) in enumerate(arch.stages):
        if out % group_width:
            raise EcgpipeError(
                f"checkpoint: in {where} the {out} channels of stage_list.{stage} are not a multiple of the "
                f"{group_width} of a group (second dimension of conv2.conv.weight); give a file as ECGFounder's "
                "authors released it"
            )
    return arch


def _list_blocks(tensors: Mapping[str, Any], prefix: str) -> list[list[str]]:
    """For each stage upstream's names of its blocks, without prefix; a gap in the numbers is filled."""
    pattern = re.compile(re.escape(prefix) + r"stage_list\.(\d\d?)\.block_list\.(\d\d?)\.(?:conv\d|se_fc\d)\..+")
    numbers = [(int(match[1]), int(match[2])) for match in map(pattern.fullmatch, tensors) if match]
    stages = []
    for stage in range(max((number for number, _ in numbers), default=-1) + 1):
        blocks = max((block + 1 for number, block in numbers if number == stage), default=1)
        stages.append([f"stage_list.{stage}.block_list.{block}" for block in range(blocks)])
    return stages


def map_tensors(tensors: Mapping[str, Any], where: str = "the checkpoint") -> dict[str, Tensor]:
    """Map the tensors of a checkpoint to those of `Network`, strictly.

    Args:
        tensors: Tensors by upstream's names, behind any prefix such as "module.".
        where: The file, for the message.

    Returns:
        The network's state dict: float32, copied out of the file.

    Raises:
        EcgpipeError: Tensors are missing, unknown or of another shape; the message names all of them.
    """
    arch = read_architecture(tensors, where)
    prefix = find_prefix(tensors, MARKERS) or ""
    with torch.device("meta"):
        shapes = {name: tuple(tensor.shape) for name, tensor in Network(arch).state_dict().items()}
    upstream = {name: prefix + _upstream_name(name) for name in shapes}
    check_tensors(
        tensors,
        {upstream[name]: shape for name, shape in shapes.items()},
        {prefix + name for name in _list_unused(arch)},
        f"checkpoint: the tensors of {where} are not those of an ECGFounder network",
        "give a file as ECGFounder's authors released it, such as 12_lead_ECGFounder.pth",
    )
    return {name: tensors[upstream[name]].to(torch.float32, copy=True).contiguous() for name in shapes}


def _upstream_name(name: str) -> str:
    """Upstream's name of one of our tensors."""
    module, _, kind = name.rpartition(".")
    if module.startswith("stages."):
        _, stage, block, part = module.split(".")
        return f"stage_list.{stage}.block_list.{block}.{BLOCK_MODULES[part]}.{kind}"
    return f"{ {'first': 'first_conv.conv', 'head': 'dense'}[module] }.{kind}"


def _list_unused(arch: Architecture) -> set[str]:
    """The tensors of BatchNorm that a released file has and its network never applies."""
    norms = ["first_bn"]
    for stage, (_, blocks) in enumerate(arch.stages):
        norms += [f"stage_list.{stage}.block_list.{block}.{norm}" for block in range(blocks) for norm in BLOCK_NORMS]
    return {f"{norm}.{kind}" for norm in norms for kind in NORM_TENSORS}


def read_checkpoint(path: Path) -> tuple[Architecture, dict[str, Tensor]]:
    """Read a released file, without executing anything of it.

    Args:
        path: The .pth file.

    Returns:
        The sizes and the tensors of its network.

    Raises:
        EcgpipeError: The file is damaged, asks for code, or does not have ECGFounder's tensors.
    """
    tensors = find_tensors(load_pickled(path))
    return read_architecture(tensors, str(path)), map_tensors(tensors, str(path))


def from_tensors(
    arch: Architecture,
    tensors: Mapping[str, Tensor],
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    packed: bool = True,
) -> Network:
    """The network with weights, ready for inference.

    Args:
        arch: What `model.json` says of it.
        tensors: By the names of `Network`.
        device: Where the weights go.
        dtype: Of the arithmetic of the blocks' convolutions, nearly all there is. float32 in any case: the first
            convolution, whose inputs are far larger than what follows (15 standard deviations and more); the sums of
            the shortcuts, where twenty roundings would add up; the means over time with what the gates make of them;
            and the head. With bfloat16 throughout, probabilities move by 0.0067 instead of 0.0023.
        packed: Whether a CPU's float32 convolutions are laid out for speed; they give no gradients then.

    Returns:
        The network in evaluation mode, its weights without gradients.
    """
    with torch.device("meta"):
        network = Network(arch)  # no memory is filled with numbers that the weights replace
    place_weights(network, tensors, device)
    for module in network.stages.modules():
        if isinstance(module, Convolution):
            module.to(dtype)
    packs = packed and ONEDNN and torch.device(device).type == "cpu" and dtype == torch.float32
    for module in network.modules():
        if packs and isinstance(module, Convolution):
            module.pack()
    release_file(network, device)
    return network
