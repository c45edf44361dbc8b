"""ECG-JEPA's context encoder in plain PyTorch, and the mapping of its checkpoints.

Read from top to bottom: 10 s of eight leads are cut into patches of 0.2 s, 50 a lead; each patch becomes a token by one
linear layer; transformer blocks mix the tokens; their mean is the embedding. There is no head, so there are no logits.
Two things are unusual:

- The positional embedding, a tensor of the file, is added before every block, not once.
- A token attends to the tokens of its own lead and to those of the same 0.2 s in other leads, 57 of 400.

Neither depends on how many leads there are: a network for fewer leads has the same tensors and uses the rows of the
positional embedding that belong to its leads.

A recording that ends before the window does is followed by zeros, which the network takes for signal: there is no
padding mask. The authors leave out such recordings.

Upstream: models.py, ecg_jepa.py and pos_encoding.py of https://github.com/sehunfromdaegu/ECG_JEPA at commit d937ad2
(MIT). Paper: Kim, Learning General Representation of 12-Lead ECG with a Joint-Embedding Predictive Architecture,
arXiv 2410.08559.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812, the name that PyTorch code uses

from ecgpipe.core.errors import EcgpipeError
from ecgpipe.models.ecg_fm.network import Linear
from ecgpipe.models.ecg_jepa.family import HEAD_WIDTH as HEAD_WIDTH
from ecgpipe.models.ecg_jepa.family import LEADS as LEADS
from ecgpipe.models.ecg_jepa.family import MARKERS as MARKERS
from ecgpipe.models.ecg_jepa.family import PATCH_SAMPLES as PATCH_SAMPLES
from ecgpipe.models.ecg_jepa.family import PATCHES as PATCHES
from ecgpipe.models.ecg_jepa.family import POSITIONS as POSITIONS
from ecgpipe.models.ecg_jepa.family import Architecture as Architecture
from ecgpipe.models.ecg_jepa.family import recognise as recognise
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

MAX_BLOCKS = 256  # far above any real network, and far below what a number in a name can do harm with

# Upstream's modules and ours; # is a block's number.
MODULES = {
    "W_P": "embed",
    "encoder_blocks.blocks.#.norm1": "blocks.#.attention_norm",
    "encoder_blocks.blocks.#.attn.qkv": "blocks.#.qkv",
    "encoder_blocks.blocks.#.attn.proj": "blocks.#.out",
    "encoder_blocks.blocks.#.norm2": "blocks.#.hidden_norm",
    "encoder_blocks.blocks.#.mlp.fc1": "blocks.#.fc1",
    "encoder_blocks.blocks.#.mlp.fc2": "blocks.#.fc2",
    "norm": "norm",
}


class Block(nn.Module):
    """One transformer block, norms before each half."""

    def __init__(self, arch: Architecture) -> None:
        super().__init__()
        self.heads = arch.heads
        self.attention_norm = nn.LayerNorm(arch.width)  # epsilon 1e-5, PyTorch's default
        self.qkv = Linear(arch.width, 3 * arch.width, bias=False)
        self.out = Linear(arch.width, arch.width)
        self.hidden_norm = nn.LayerNorm(arch.width)
        self.fc1 = Linear(arch.width, arch.hidden)
        self.fc2 = Linear(arch.hidden, arch.width)

    def forward(self, x: Tensor, seen: Tensor, with_attention: bool) -> tuple[Tensor, Tensor | None]:
        """(batch, tokens, width) to the same, and the attention (batch, tokens) where it is asked for.

        `seen`, (tokens, keys) bool, says which tokens each token attends to.
        """
        mixed, attention = self._mix(self.attention_norm(x), seen, with_attention)
        x = mixed.add_(x)
        x = self.fc2(self.fc1(self.hidden_norm(x), gelu=True)).add_(x)
        return x, attention

    def _mix(self, x: Tensor, seen: Tensor, with_attention: bool) -> tuple[Tensor, Tensor | None]:
        batch, tokens, width = x.shape
        qkv = self.qkv(x).view(batch, tokens, 3, self.heads, width // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # each (batch, heads, tokens, width of a head)
        # Scores of 400 keys, 343 of them masked. To compute the other 57 alone, in one product by lead and one by time,
        # was measured to save a quarter of this call's time on a CPU in float32, which is 3 % of a block's.
        mixed = F.scaled_dot_product_attention(q, k, v, seen)  # (batch, heads, tokens, width of a head)
        attention = None
        if with_attention:
            # In float32: the softmax of rounded scores would be far off.
            scores = (q.float() @ k.float().transpose(-2, -1)) * (width // self.heads) ** -0.5
            weights = torch.softmax(scores.masked_fill_(~seen, -torch.inf), dim=-1)  # (batch, heads, tokens, keys)
            attention = weights.mean(dim=1).amax(dim=-1)  # (batch, tokens): mean over heads, max over keys
        return self.out(mixed.transpose(1, 2).reshape(batch, tokens, width)), attention


class Network(nn.Module):
    """The whole network, from windows in mV to embedding and attention.

    Args:
        arch: The sizes.
        leads: The leads of the input, in the order of `LEADS`. Fewer than eight need no other weights.

    Raises:
        EcgpipeError: A lead is not one of `LEADS`, or they are not in their order.
    """

    def __init__(self, arch: Architecture, leads: Sequence[str] = LEADS) -> None:
        super().__init__()
        if not leads or list(leads) != [lead for lead in LEADS if lead in leads]:
            raise EcgpipeError(
                f"leads: ECG-JEPA was given {' '.join(leads) or 'none'}; it takes one or more of {' '.join(LEADS)}, in "
                "this order"
            )
        self.arch = arch
        self.lead_numbers = [LEADS.index(lead) for lead in leads]
        self.embed = nn.Linear(PATCH_SAMPLES, arch.width)
        self.positions = nn.Parameter(torch.empty(len(LEADS) * PATCHES, arch.width))  # lead by lead
        self.blocks = nn.ModuleList(Block(arch) for _ in range(arch.layers))
        self.norm = nn.LayerNorm(arch.width)

    def forward(self, signal: Tensor, samples: Tensor | None = None, with_attention: bool = True) -> Output:
        """Run a batch of windows.

        Args:
            signal: (batch, leads, 2500), 10 s at 250 Hz in mV: not filtered, not standardised.
            samples: Not used: the network has no padding mask, and zeros at a window's end are signal to it.
            with_attention: Whether to return the last block's attention, mean over heads, max over keys.

        Returns:
            No logits, the embedding (the mean over all tokens, those of zeros at the end too) and the attention,
            (batch, 50 * leads), lead by lead.

        Raises:
            ValueError: The windows have another shape.
        """
        leads = len(self.lead_numbers)
        if signal.shape[1:] != (leads, PATCHES * PATCH_SAMPLES):
            raise ValueError(f"the windows are {tuple(signal.shape)}, not (batch, {leads}, {PATCHES * PATCH_SAMPLES})")
        patches = signal.reshape(-1, leads * PATCHES, PATCH_SAMPLES)  # (batch, tokens, samples): lead by lead
        x = self.embed(patches.to(self.embed.weight.dtype)).to(self.norm.weight.dtype)  # (batch, tokens, width)
        by_lead = self.positions.view(len(LEADS), PATCHES, -1)  # (8, 50, width)
        positions = torch.cat([by_lead[number] for number in self.lead_numbers])  # (tokens, width)
        seen, attention = find_seen(leads, x.device), None
        for number, block in enumerate(self.blocks):
            x, attention = block(x + positions, seen, with_attention and number == len(self.blocks) - 1)
        return Output(None, self.norm(x).float().mean(dim=1), attention)


def find_seen(leads: int, device: torch.device | str = "cpu") -> Tensor:
    """Which tokens each token attends to, (tokens, tokens) bool: its own lead's, and those of its own time."""
    token = torch.arange(leads * PATCHES, device=device)
    lead, time = token // PATCHES, token % PATCHES
    return (lead[:, None] == lead) | (time[:, None] == time)


def read_checkpoint(path: Path) -> tuple[Architecture, dict[str, Tensor]]:
    """Read a checkpoint as the authors saved it, without executing anything of it.

    Args:
        path: The .pth file, such as multiblock_epoch100.pth.

    Returns:
        The sizes and the tensors of its network.

    Raises:
        EcgpipeError: The file is missing, damaged, names code, or does not have ECG-JEPA's tensors.
    """
    content = load_pickled(path)
    # The context encoder, where a file has the target encoder too, which has the same tensors.
    content = content["encoder"] if isinstance(content, dict) and "encoder" in content else content
    tensors = find_tensors(content)
    arch = read_architecture(tensors, str(path))
    return arch, map_tensors(tensors, arch, str(path))


def read_architecture(tensors: Mapping[str, Tensor], where: str = "the checkpoint") -> Architecture:
    """The sizes of the network that a checkpoint's tensors make.

    Args:
        tensors: By upstream's names, with or without a prefix.
        where: The file, for the message.

    Returns:
        The sizes; each is the one that most of the tensors concerned agree on.

    Raises:
        EcgpipeError: The tensors are not an ECG-JEPA encoder's, or their width is not a multiple of `HEAD_WIDTH`.
    """
    tensors = _strip_prefix(tensors, where)
    numbers = {int(found[1]) for name in tensors if (found := re.match(r"encoder_blocks\.blocks\.(\d{1,6})\.", name))}
    layers = max(numbers, default=-1) + 1
    blocks = [f"encoder_blocks.blocks.{number}" for number in sorted(numbers)]
    norms = [f"{block}.{norm}.{kind}" for block in blocks for norm in ("norm1", "norm2") for kind in ("weight", "bias")]
    width = most_common_size(tensors, [(name, 0) for name in ["norm.weight", "W_P.weight", *norms]])
    hidden = most_common_size(
        tensors,
        [place for block in blocks for place in ((f"{block}.mlp.fc1.weight", 0), (f"{block}.mlp.fc2.weight", 1))],
    )
    if not 1 <= layers <= MAX_BLOCKS or not width or not hidden or width % HEAD_WIDTH:
        raise EcgpipeError(
            f"checkpoint: {where} has {layers} transformer blocks of width {width}, with {hidden} channels inside; "
            f"ECG-JEPA has 1 to {MAX_BLOCKS} blocks, and a width that is a multiple of {HEAD_WIDTH}: give a checkpoint "
            "as the authors of ECG-JEPA saved it"
        )
    return Architecture(width, layers, width // HEAD_WIDTH, hidden)


def map_tensors(tensors: Mapping[str, Tensor], arch: Architecture, where: str = "the checkpoint") -> dict[str, Tensor]:
    """Give a checkpoint's tensors our names, and refuse missing, unknown and misshapen ones.

    Args:
        tensors: By upstream's names, with or without a prefix.
        arch: What `read_architecture` says of them.
        where: The file, for the message.

    Returns:
        The state dict of `Network`: float32, contiguous, nothing shared.

    Raises:
        EcgpipeError: Tensors are missing, left over or of another shape; the message names all of them, sorted.
    """
    tensors = _strip_prefix(tensors, where)
    names = _name_tensors(arch)
    with torch.device("meta"):
        shapes = {name: tuple(tensor.shape) for name, tensor in Network(arch).state_dict().items()}
    check_tensors(
        tensors,
        {upstream: shapes[ours] for upstream, ours in names.items()},
        (),
        f"checkpoint: the tensors of {where} are not those of an ECG-JEPA encoder",
        "give a checkpoint as the authors of ECG-JEPA saved it",
    )
    return {ours: tensors[upstream].float().clone().contiguous() for upstream, ours in names.items()}


def _name_tensors(arch: Architecture) -> dict[str, str]:
    """Upstream's name of every tensor, and ours."""
    names = {POSITIONS: "positions"}
    for upstream, ours in MODULES.items():
        for number in range(arch.layers) if "#" in upstream else [0]:
            for kind in ("weight", "bias"):
                if not (ours.endswith("qkv") and kind == "bias"):
                    names[f"{upstream}.{kind}".replace("#", str(number))] = f"{ours}.{kind}".replace("#", str(number))
    return names


def _strip_prefix(tensors: Mapping[str, Tensor], where: str) -> dict[str, Tensor]:
    """The tensors without what stands before all their names; a tensor without it keeps its name, and is left over."""
    prefix = find_prefix(tensors, MARKERS)
    if prefix is None:
        raise EcgpipeError(
            f"checkpoint: {where} is not an ECG-JEPA checkpoint: it has no {', '.join(MARKERS[:3])}; give "
            "multiblock_epoch100.pth or randomblock_epoch100.pth of https://github.com/sehunfromdaegu/ECG_JEPA, or "
            "name the family that the file belongs to by `model`"
        )
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}


def from_tensors(
    arch: Architecture,
    tensors: Mapping[str, Tensor],
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    packed: bool = True,
    leads: Sequence[str] = LEADS,
) -> Network:
    """The network with weights, ready for inference.

    Args:
        arch: The sizes.
        tensors: What `map_tensors` returned.
        device: Where the weights go.
        dtype: Of the blocks' arithmetic. The patches' linear layer, the softmax of the attention that is returned and
            the mean over the tokens are float32 in any case.
        packed: Whether a CPU's linear layers are laid out for speed; they give no gradients of their inputs then.
        leads: The leads of the input, in the order of `LEADS`.

    Returns:
        The network in evaluation mode, its weights without gradients.
    """
    with torch.device("meta"):
        network = Network(arch, leads)
    place_weights(network, tensors, device)
    for part in (network.blocks, network.norm):
        part.to(dtype)
    network.positions.data = network.positions.data.to(dtype)
    for module in network.modules():
        if packed and isinstance(module, Linear):
            module.pack()
    release_file(network, device)
    return network
