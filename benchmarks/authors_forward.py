"""Stand-ins for the forward passes of the model families' authors: plain PyTorch, written anew from descriptions.

Each computes its family's network with the operations that its authors' code uses for it, none of which is fused,
packed or replaced: ECGFounder's with padding, convolution and Swish as steps of their own; ECG-JEPA's with an explicit
softmax over all 400 keys; HuBERT-ECG's as transformers does, with PyTorch's fused attention and the weight norm
computed at each call; ECG-FM's and DeepECG-SSL's, one network, as fairseq-signals does (stand_in.py). They take the
weights of ecgpipe's networks by name, and are checked against these networks before anything is measured.

Upstream: net1d.py of https://github.com/PKUDigitalHealth/ECGFounder (with `use_bn=False`, `use_do=False`), models.py of
https://github.com/sehunfromdaegu/ECG_JEPA, models/hubert/modeling_hubert.py of
https://github.com/huggingface/transformers (4.46).
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812, the name that PyTorch code uses

from benchmarks import stand_in
from benchmarks.families import BATCH
from benchmarks.model_speed import Family, draw_weights, list_families
from benchmarks.sides import Setup, Work
from ecgpipe.models.description import Architecture
from ecgpipe.models.ecg_jepa import network as ecg_jepa
from ecgpipe.models.ecgfounder import network as ecgfounder
from ecgpipe.models.output import Output

AGREE = 1e-4


class Fairseq(stand_in.StandIn):
    """ECG-FM's and DeepECG-SSL's, with the attention of every layer."""

    def forward(self, signal: Tensor) -> Output:  # type: ignore[override]
        """(batch, leads, samples) to logits, embedding and the last layer's attention."""
        logits, tokens, attention = super().forward(signal)
        return Output(logits, stand_in.pooled(tokens), attention[:, -1].amax(dim=-1))


class HubertLayer(nn.Module):
    """A layer of transformers' HuBERT: three projections, fused attention, norms after each half."""

    def __init__(self, arch: Architecture) -> None:
        super().__init__()
        self.attention = stand_in.Attention(arch)  # its projections alone
        self.attention_norm = nn.LayerNorm(arch.width)
        self.fc1 = nn.Linear(arch.width, arch.hidden)
        self.fc2 = nn.Linear(arch.hidden, arch.width)
        self.final_norm = nn.LayerNorm(arch.width)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, tokens, width) to the same."""
        parts = self.attention
        shape = (*x.shape[:2], parts.heads, x.shape[2] // parts.heads)
        q, k, v = (project(x).view(shape).transpose(1, 2) for project in (parts.q, parts.k, parts.v))
        mixed = F.scaled_dot_product_attention(q, k, v)  # (batch, heads, tokens, width of a head)
        x = self.attention_norm(x + parts.out(mixed.transpose(1, 2).reshape(x.shape)))
        normed: Tensor = self.final_norm(x + self.fc2(F.gelu(self.fc1(x))))
        return normed


class Hubert(stand_in.StandIn):
    """HuBERT-ECG's, without the attention."""

    layer = HubertLayer

    def forward(self, signal: Tensor) -> Output:  # type: ignore[override]
        """(batch, 1, samples) to logits and embedding."""
        x = self.embed(signal)
        for layer in self.layers:
            x = layer(x)
        embedding = x.mean(dim=1)
        return Output(self.head(embedding), embedding, None)


def swish(x: Tensor) -> Tensor:
    """Swish as a product."""
    return x * torch.sigmoid(x)


class SameConvolution(nn.Conv1d):
    """A convolution of n steps to ceil(n / stride), padded in a step of its own."""

    def forward(self, x: Tensor) -> Tensor:
        """(batch, in, n) to (batch, out, ceil(n / stride))."""
        return super().forward(ecgfounder.pad_same(x, self.kernel_size[0], self.stride[0]))


class FounderBlock(nn.Module):
    """A residual block of Net1D."""

    def __init__(self, channels: int, out: int, arch: ecgfounder.Architecture, stride: int, swish_first: bool) -> None:
        super().__init__()
        self.conv1 = SameConvolution(channels, out, 1)
        self.conv2 = SameConvolution(out, out, arch.kernel, stride, groups=out // arch.group_width)
        self.conv3 = SameConvolution(out, out, 1)
        self.squeeze = nn.Linear(out, out // 2)
        self.excite = nn.Linear(out // 2, out)
        self.pool = nn.MaxPool1d(stride) if stride > 1 else None
        self.swish_first = swish_first

    def forward(self, x: Tensor) -> Tensor:
        """(batch, channels, n) to (batch, out, ceil(n / stride))."""
        inner = self.conv1(swish(x) if self.swish_first else x)
        inner = self.conv3(swish(self.conv2(swish(inner))))
        gate = torch.sigmoid(self.excite(swish(self.squeeze(inner.mean(dim=-1)))))  # (batch, out)
        inner = torch.einsum("bcn,bc->bcn", inner, gate)
        shortcut = x if self.pool is None else self.pool(F.pad(x, (0, 1)))  # of an even length the zero is not reached
        wider = inner.shape[1] - shortcut.shape[1]
        if wider:
            shortcut = F.pad(shortcut.transpose(1, 2), (wider // 2, wider - wider // 2)).transpose(1, 2)
        inner += shortcut
        return inner


class Founder(nn.Module):
    """ECGFounder's: Net1D without norms and dropout."""

    def __init__(self, arch: ecgfounder.Architecture, state: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.first = SameConvolution(arch.in_leads, arch.first_width, arch.kernel, 2)
        self.stages = nn.ModuleList()
        channels, is_first = arch.first_width, True
        for out, blocks in arch.stages:
            stage = nn.ModuleList()
            for stride in (2, *[1] * (blocks - 1)):
                stage.append(FounderBlock(channels, out, arch, stride, swish_first=not is_first))
                channels, is_first = out, False
            self.stages.append(stage)
        self.head = nn.Linear(channels, arch.labels)
        self.load_state_dict(dict(state))

    def forward(self, signal: Tensor) -> Output:
        """(batch, leads, samples) to logits and embedding."""
        x = swish(self.first(signal))
        for stage in self.stages:
            assert isinstance(stage, nn.ModuleList)  # noqa: S101
            for block in stage:
                x = block(x)
        embedding = x.mean(dim=-1)
        return Output(self.head(embedding), embedding, None)


class JepaBlock(nn.Module):
    """A block of ECG-JEPA's encoder: norms before each half, attention by an explicit softmax under a mask."""

    def __init__(self, arch: ecg_jepa.Architecture) -> None:
        super().__init__()
        self.heads = arch.heads
        self.attention_norm = nn.LayerNorm(arch.width)
        self.qkv = nn.Linear(arch.width, 3 * arch.width, bias=False)
        self.out = nn.Linear(arch.width, arch.width)
        self.hidden_norm = nn.LayerNorm(arch.width)
        self.fc1 = nn.Linear(arch.width, arch.hidden)
        self.fc2 = nn.Linear(arch.hidden, arch.width)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """(batch, tokens, width) to the same; `mask`, (tokens, keys), is 1 where a token attends to another."""
        batch, tokens, width = x.shape
        qkv = self.qkv(self.attention_norm(x)).reshape(batch, tokens, 3, self.heads, width // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # each (batch, heads, tokens, width of a head)
        scores = q @ k.transpose(-2, -1) * (width // self.heads) ** -0.5
        weights = scores.masked_fill(mask == 0, -torch.inf).softmax(dim=-1)  # (batch, heads, tokens, keys)
        x = x + self.out((weights @ v).transpose(1, 2).reshape(batch, tokens, width))
        hidden: Tensor = self.fc2(F.gelu(self.fc1(self.hidden_norm(x))))
        return x + hidden


class Jepa(nn.Module):
    """ECG-JEPA's context encoder over all eight leads, without the attention."""

    def __init__(self, arch: ecg_jepa.Architecture, state: Mapping[str, Tensor]) -> None:
        super().__init__()
        leads, patches = arch.in_leads, ecg_jepa.PATCHES
        self.embed = nn.Linear(ecg_jepa.PATCH_SAMPLES, arch.width)
        self.positions = nn.Parameter(torch.zeros(leads * patches, arch.width))
        self.blocks = nn.ModuleList(JepaBlock(arch) for _ in range(arch.layers))
        self.norm = nn.LayerNorm(arch.width)
        # Tokens stand lead by lead: blocks of a lead's patches, and diagonals of the same time.
        same_lead = torch.kron(torch.eye(leads), torch.ones(patches, patches))
        self.register_buffer("mask", (same_lead + torch.eye(patches).repeat(leads, leads)).clamp(max=1), False)
        self.load_state_dict(dict(state))

    def forward(self, signal: Tensor) -> Output:
        """(batch, leads, samples) to the embedding."""
        assert isinstance(self.mask, Tensor)  # noqa: S101
        x = self.embed(signal.reshape(len(signal), -1, self.embed.in_features))  # (batch, tokens, width)
        for block in self.blocks:
            x = block(x + self.positions, self.mask)
        return Output(None, self.norm(x).mean(dim=1), None)


FORWARD: dict[str, Callable[[Any, Mapping[str, Tensor]], nn.Module]] = {
    "ecg-fm": Fairseq,
    "deepecg-ssl": Fairseq,
    "ecg-jepa": Jepa,
    "ecgfounder": Founder,
    "hubert-ecg": Hubert,
}


def apart(network: nn.Module, authors: nn.Module, window: tuple[int, int]) -> float:
    """The largest difference between what both say of the same windows; float32, CPU.

    Args:
        network: A family's network.
        authors: The stand-in for its authors' forward pass.
        window: The shape of a window, leads and samples.

    Returns:
        Over logits, embedding and, where the stand-in gives it, attention.
    """
    signal = torch.randn(2, *window, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        ours, theirs = network(signal), authors(signal)
    pairs = [(a, b) for a, b in zip(ours, theirs, strict=True) if b is not None]
    return max(float((a - b).abs().max()) for a, b in pairs)


def build(name: str, family: Family) -> nn.Module:
    """The stand-in of a family, with the weights of the family's network."""
    return FORWARD[name](family.arch, draw_weights(family)).eval()


def check(tiny: bool = False) -> dict[str, float]:
    """How far each stand-in is from ecgpipe's network on the same weights.

    Raises:
        RuntimeError: One is further than `AGREE`, so that it would be no stand-in.
    """
    found = {}
    for name, family in list_families(tiny).items():
        found[name] = apart(family.build(), build(name, family), family.window)
        if not found[name] <= AGREE:
            raise RuntimeError(
                f"the stand-in for the forward pass of {name}'s authors differs from ecgpipe's network by "
                f"{found[name]:.1e} ({AGREE:.0e} allowed)"
            )
    return found


def works(setup: Setup, tiny: bool = False) -> dict[str, Work]:
    """The stand-ins, each on a batch of `BATCH` windows in float32."""
    torch.set_num_threads(setup.threads)
    finish = torch.cuda.synchronize if setup.device == "cuda" else lambda: None

    def work(authors: nn.Module, window: tuple[int, int]) -> Work:
        signal = torch.randn(BATCH, *window, device=setup.device)

        def forward() -> None:
            with torch.inference_mode():
                authors(signal)

        return Work(forward, BATCH, finish)

    return {
        name: work(build(name, family).to(setup.device), family.window) for name, family in list_families(tiny).items()
    }
