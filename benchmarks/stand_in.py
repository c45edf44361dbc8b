"""A stand-in for ECG-FM's tutorial: fairseq-signals' forward pass and the loop of the notebook, written anew.

The network computes as upstream's does: three projections, attention by an explicit softmax whose weights are returned
as their mean over the heads, the positional convolution done directly with its weight norm computed at each call. It is
checked against ecgpipe's network on the same weights before it is measured, in a process of its own.

Upstream: fairseq_signals/modules/{multi_head_attention,transformer_encoder,conv_positional_encoding}.py of
https://github.com/Jwoo5/fairseq-signals, and notebooks/infer_quickstart.ipynb of https://github.com/bowang-lab/ECG-FM.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812, the name that PyTorch code uses
from torch.utils.data import DataLoader, Dataset

from benchmarks.ecg_fm import SAMPLES
from benchmarks.preprocess import tutorial as prepared
from benchmarks.sides import Setup, Work
from ecgpipe.models.description import Architecture, describe
from ecgpipe.models.ecg_fm import network as ecg_fm_network
from ecgpipe.models.ecg_fm.network import Network

BATCH = 16  # recordings
AGREE = 1e-4


class Attention(nn.Module):
    """Self-attention as fairseq-signals has it: PyTorch's function for it, asked for the weights too."""

    def __init__(self, arch: Architecture) -> None:
        super().__init__()
        self.heads = arch.heads
        self.q, self.k, self.v, self.out = (nn.Linear(arch.width, arch.width) for _ in range(4))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """(tokens, batch, width) to the same, and the weights (batch, tokens, tokens)."""
        # Upstream's call, without the arguments that change nothing here; asked for the weights, it takes no short cut.
        return F.multi_head_attention_forward(
            x, x, x, x.shape[-1], self.heads,
            in_proj_weight=torch.empty(0), in_proj_bias=torch.cat((self.q.bias, self.k.bias, self.v.bias)),
            bias_k=None, bias_v=None, add_zero_attn=False, dropout_p=0.0,
            out_proj_weight=self.out.weight, out_proj_bias=self.out.bias,
            training=False, need_weights=True, use_separate_proj_weight=True,
            q_proj_weight=self.q.weight, k_proj_weight=self.k.weight, v_proj_weight=self.v.weight,
        )  # fmt: skip


class Layer(nn.Module):
    """A transformer layer with its norms after each half, as ECG-FM has them."""

    def __init__(self, arch: Architecture) -> None:
        super().__init__()
        self.attention = Attention(arch)
        self.attention_norm = nn.LayerNorm(arch.width)
        self.fc1 = nn.Linear(arch.width, arch.hidden)
        self.fc2 = nn.Linear(arch.hidden, arch.width)
        self.final_norm = nn.LayerNorm(arch.width)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """(tokens, batch, width) to the same, and the attention (batch, tokens, tokens)."""
        mixed, weights = self.attention(x)
        x = self.attention_norm(x + mixed)
        return self.final_norm(x + self.fc2(F.gelu(self.fc1(x)))), weights


class StandIn(nn.Module):
    """The classifier of fairseq-signals in plain modules, for ECG-FM's kind of architecture.

    Args:
        arch: Its sizes.
        state: The content of a model.safetensors.
    """

    layer: type[nn.Module] = Layer

    def __init__(self, arch: Architecture, state: Mapping[str, Tensor]) -> None:
        super().__init__()
        if arch.layer_norm_first or not arch.labels or arch.position_kernel % 2:
            raise ValueError("the stand-in has ECG-FM's norms, head and even kernel only")
        convolutions: list[nn.Module] = []
        channels = arch.in_leads
        for i, (out, kernel, stride) in enumerate(arch.conv_layers):
            convolutions.append(nn.Conv1d(channels, out, kernel, stride, bias=arch.conv_bias))
            convolutions += [nn.GroupNorm(out, out)] if i == 0 else []
            convolutions.append(nn.GELU())
            channels = out
        self.convolutions = nn.Sequential(*convolutions)
        self.feature_norm = nn.LayerNorm(channels)
        self.project = nn.Linear(channels, arch.width)
        width, kernel = arch.width, arch.position_kernel
        position = nn.Conv1d(width, width, kernel, padding=kernel // 2, groups=arch.position_groups)
        self.position = nn.utils.parametrizations.weight_norm(position, dim=2)
        self.norm = nn.LayerNorm(arch.width)
        self.layers = nn.ModuleList(self.layer(arch) for _ in range(arch.layers))
        self.head = nn.Linear(arch.width, arch.labels)
        self._take(state)

    def _take(self, state: Mapping[str, Tensor]) -> None:
        """Take the weights under the names of model.safetensors."""
        mine = {}
        convolutions = [i for i, module in enumerate(self.convolutions) if isinstance(module, nn.Conv1d)]
        for name, tensor in state.items():
            start, _, kind = name.rpartition(".")
            if start.startswith("convolutions.layers."):
                mine[f"convolutions.{convolutions[int(start.rpartition('.')[2])]}.{kind}"] = tensor
            elif start == "convolutions.norm":
                mine[f"convolutions.1.{kind}"] = tensor
            elif start == "position.conv":
                if kind == "weight":  # weight norm: its length over the kernel axis, and its direction
                    mine["position.parametrizations.weight.original0"] = tensor.norm(dim=(0, 1), keepdim=True)
                mine["position.parametrizations.weight.original1" if kind == "weight" else "position.bias"] = tensor
            elif start.endswith(".qkv"):
                for part, values in zip("qkv", tensor.chunk(3), strict=True):
                    mine[f"{start.removesuffix('qkv')}attention.{part}.{kind}"] = values
            else:
                mine[name.replace(".out.", ".attention.out.")] = tensor
        self.load_state_dict(mine)

    def forward(self, signal: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(batch, leads, samples) to logits (batch, labels), tokens (batch, tokens, width), all attention.

        The attention is (batch, layers, tokens, tokens), the mean over the heads.
        """
        x = self.embed(signal).transpose(0, 1)  # (tokens, batch, width)
        attention = []
        for layer in self.layers:
            x, weights = layer(x)
            attention.append(weights)
        x = x.transpose(0, 1)  # (batch, tokens, width)
        return self.head(pooled(x)), x, torch.stack(attention).transpose(0, 1)

    def embed(self, signal: Tensor) -> Tensor:
        """What the first layer gets: (batch, leads, samples) to tokens (batch, tokens, width)."""
        x = self.feature_norm(self.convolutions(signal).transpose(1, 2))  # (batch, tokens, channels)
        x = self.project(x)
        x = x + F.gelu(self.position(x.transpose(1, 2))[..., :-1]).transpose(1, 2)  # (batch, tokens, width)
        normed: Tensor = self.norm(x)
        return normed


def pooled(x: Tensor) -> Tensor:
    """The mean over the tokens as upstream writes it, which counts what is not zero."""
    return x.sum(dim=1) / (x != 0).sum(dim=1)


def apart(ours: Network, stand_in: StandIn) -> float:
    """The largest difference between what both say of the same segments: logits, embedding, attention; float32, CPU."""
    generator = torch.Generator().manual_seed(1)
    signal = torch.randn(2, ours.arch.in_leads, SAMPLES, generator=generator)
    with torch.no_grad():
        found = ours(signal)
        logits, tokens, attention = stand_in(signal)
    assert found.logits is not None  # noqa: S101
    assert found.attention is not None  # noqa: S101
    pairs = [
        (found.logits, logits), (found.embedding, pooled(tokens)), (found.attention, attention[:, -1].amax(dim=-1)),
    ]  # fmt: skip
    return max(float((a - b).abs().max()) for a, b in pairs)


class Recordings(Dataset[Tensor]):
    """A recording's segments, read and transformed when they are asked for."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = paths

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Tensor:
        return torch.from_numpy(prepared(self.paths[index])).float()  # (segments, leads, samples)


def infer(stand_in: StandIn, paths: Sequence[Path], device: str) -> dict[str, object]:
    """The notebook's loop over some files."""
    loader = DataLoader(Recordings(paths), BATCH, collate_fn=torch.cat, pin_memory=device == "cuda")
    sources, logits, embeddings, saliency = [], [], [], []
    with torch.no_grad():
        for source in loader:
            source = source.to(device)
            said, tokens, attention = stand_in(source)
            sources.append(source)
            logits.append(said)
            embeddings.append(pooled(tokens))
            saliency.append(attention)
        last = torch.cat(saliency)[:, -1]  # (segments, tokens, tokens)
        return {
            "predictions": torch.sigmoid(torch.cat(logits)).cpu().numpy(),
            "sources": torch.cat(sources).cpu().numpy(),
            "embeddings": torch.cat(embeddings).cpu().numpy(),
            "attention": last.max(dim=2).values.cpu().numpy(),
        }


def check(folder: Path) -> float:
    """How far the stand-in is from ecgpipe's network on the weights of a folder, float32 on the CPU.

    Raises:
        RuntimeError: It is further than `AGREE`, so that it would be no stand-in.
    """
    arch = describe(folder / "model.json").architecture
    difference = apart(ecg_fm_network.load(arch, folder / "model.safetensors"), load(folder))
    if not difference <= AGREE:
        raise RuntimeError(f"the stand-in differs from ecgpipe's network by {difference:.1e} ({AGREE:.0e} allowed)")
    return difference


def load(folder: Path) -> StandIn:
    """The stand-in with the weights of a folder."""
    arch = describe(folder / "model.json").architecture
    return StandIn(arch, safetensors.torch.load_file(folder / "model.safetensors")).eval()


def works(setup: Setup, recordings: Sequence[Path]) -> dict[str, Work]:
    """The loop over all recordings, in segments."""
    torch.set_num_threads(setup.threads)
    stand_in = load(setup.folder).to(setup.device)
    segments = sum(len(prepared(path)) for path in recordings)
    return {"": Work(lambda: infer(stand_in, recordings, setup.device), segments)}
