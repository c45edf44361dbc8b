"""ECG-FM's network in plain PyTorch, the inference half of fairseq-signals' ECG transformer.

Read from top to bottom: four strided convolutions turn 2,500 samples of 12 leads into 156 tokens, a convolution over
the tokens adds where they stand, twelve transformer layers mix them, their mean is the embedding, and a linear head
gives the logits. Everything that has a size is read from the checkpoint; the tensor names here are those of
`model.safetensors`, and `models/fairseq_checkpoint.py` is the one place that knows fairseq-signals' own names.

A segment may end in zeros that only fill it up. Its tokens that lie wholly in the signal are its own, and nothing
attends to the others; but the group norm takes its mean and variance over the whole segment and the convolution over
the tokens sees what the zeros gave, so that the outputs are not those of the shorter segment by itself. All this is as
upstream has it, where such a segment is one that its data loader padded.

Upstream: fairseq_signals/models/ecg_transformer.py, models/classification/ecg_transformer_classifier.py,
modules/{conv_feature_extraction,conv_positional_encoding,transformer_encoder,transformer_encoder_layer}.py of
https://github.com/Jwoo5/fairseq-signals.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal, cast

import safetensors.torch
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812, the name that PyTorch code uses

from ecgpipe.models.description import Architecture
from ecgpipe.models.ecg_fm.family import MARKERS as MARKERS
from ecgpipe.models.ecg_fm.family import recognise as recognise
from ecgpipe.models.ecg_fm.tuning import Tuning, for_device
from ecgpipe.models.output import Output as Output
from ecgpipe.models.tensors import place_weights, release_file

# oneDNN's linear layer, which PyTorch has for what torch.compile makes of a network. PyTorch's usual way takes MKL for
# float32, slower on AMD's processors, and makes a pass over memory of its own for the GELU.
ONEDNN = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")  # type: ignore[no-untyped-call]

# On a CPU, bfloat16 attention is a third faster where the tokens fill its registers: 160 instead of 156 of them.
EVEN_TOKENS = 32


class Linear(nn.Linear):
    """A linear layer and, where asked for, the exact GELU of it; once packed, one call of oneDNN without gradients."""

    _packed: Tensor | None = None

    def forward(self, x: Tensor, gelu: bool = False) -> Tensor:
        """(..., in) to (..., out)."""
        if self._packed is None:
            return F.gelu(super().forward(x)) if gelu else super().forward(x)
        attr = "gelu" if gelu else "none"
        out: Tensor = torch.ops.mkldnn._linear_pointwise(x, self._packed, self.bias, attr, [], "none")
        return out

    def pack(self) -> None:
        """On a CPU, lay the weights out as oneDNN reads them best; `forward` alone can use them then."""
        if ONEDNN and self.weight.device.type == "cpu":
            self._packed = torch.ops.mkldnn._reorder_linear_weight(self.weight)
            self.weight = nn.Parameter(self.weight.new_empty(0), requires_grad=False)


class Convolutions(nn.Module):
    """Strided convolutions over time; a group norm with one channel per group follows the first."""

    def __init__(self, arch: Architecture) -> None:
        super().__init__()
        self.layers = nn.ModuleList()
        channels = arch.in_leads
        for out, kernel, stride in arch.conv_layers:
            self.layers.append(nn.Conv1d(channels, out, kernel, stride, bias=arch.conv_bias))
            channels = out
        first = arch.conv_layers[0][0]
        self.norm = nn.GroupNorm(first, first)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, leads, samples) to (batch, tokens, channels)."""
        x = x.transpose(1, 2)  # (batch, samples, leads)
        for i, conv in enumerate(cast(list[nn.Conv1d], self.layers)):
            weight = conv.weight.permute(0, 2, 1).flatten(1)  # (out, kernel * in)
            x = F.linear(_windows(x.to(weight.dtype), conv.kernel_size[0], conv.stride[0]), weight, conv.bias)
            if i == 0:
                x = self._normalise(x)
            x = F.gelu(x)  # (batch, about half as long, out)
        return x

    def _normalise(self, x: Tensor) -> Tensor:
        """The group norm, (batch, samples, channels) to the same."""
        x = x - x.mean(dim=1, keepdim=True)
        variance = x.square().mean(dim=1, keepdim=True)  # (batch, 1, channels)
        return torch.addcmul(self.norm.bias, x, self.norm.weight * torch.rsqrt(variance + self.norm.eps))


def _windows(x: Tensor, kernel: int, stride: int) -> Tensor:
    """What each step of a convolution sees, (batch, samples, channels) to (batch, steps, kernel * channels)."""
    if kernel == stride:  # no sample twice: another view of the same numbers
        return x[:, : x.shape[1] // stride * stride].reshape(x.shape[0], -1, stride * x.shape[2])
    return x.unfold(1, kernel, stride).transpose(2, 3).flatten(2)


class Position(nn.Module):
    """A wide grouped convolution over the tokens, whose GELU is added to them. Its weight norm is already folded."""

    def __init__(self, arch: Architecture) -> None:
        super().__init__()
        kernel = arch.position_kernel
        self.conv = nn.Conv1d(arch.width, arch.width, kernel, padding=kernel // 2, groups=arch.position_groups)
        self.way: Literal["fourier", "direct"] = "fourier"
        self._spectrum: tuple[int, Tensor] | None = None

    def forward(self, x: Tensor) -> Tensor:
        """(batch, tokens, width) to the same.

        An even kernel gives one token too many: the last is dropped, as upstream's SamePad does.
        """
        positions = self._by_fourier(x).to(x.dtype) if self.way == "fourier" else self._directly(x)
        return x + F.gelu(positions)  # (batch, tokens, width)

    def _directly(self, x: Tensor) -> Tensor:
        """The convolution as PyTorch has it, in the type of its weights."""
        wide: Tensor = self.conv(x.to(self.conv.weight.dtype).transpose(1, 2))[..., : x.shape[1]]
        return wide.transpose(1, 2).to(x.dtype)  # (batch, tokens, width)

    def _by_fourier(self, x: Tensor) -> Tensor:
        """The convolution as a product of spectra, float32: on a CPU a seventh of the time for a kernel this wide."""
        batch, tokens, width = x.shape
        conv, groups = self.conv, self.conv.groups
        length = 32 * -(-(tokens + conv.kernel_size[0]) // 32)  # long enough not to wrap around, and quick to transform
        if self._spectrum is None or self._spectrum[0] != length:
            # It is kept, and may be needed for gradients of the inputs later, whatever mode this call is in.
            with torch.inference_mode(False), torch.no_grad():
                kernel = torch.fft.rfft(conv.weight.float(), n=length).conj()  # (width, width of a group, frequencies)
                kernel = kernel.view(groups, width // groups, width // groups, -1).permute(0, 3, 2, 1)
                self._spectrum = length, kernel.contiguous()  # (groups, frequencies, in, out)
        left = conv.kernel_size[0] // 2
        padded = F.pad(x.float(), (0, 0, left, length - tokens - left))  # (batch, length, width)
        spectrum = torch.fft.rfft(padded, dim=1)  # (batch, frequencies, width)
        spectrum = spectrum.view(batch, -1, groups, width // groups).permute(2, 1, 0, 3)
        product = (spectrum @ self._spectrum[1]).permute(2, 1, 0, 3).reshape(batch, -1, width)
        positions: Tensor = torch.fft.irfft(product, n=length, dim=1)[:, :tokens] + conv.bias
        return positions  # (batch, tokens, width)


class Layer(nn.Module):
    """One transformer layer, norms after (ECG-FM) or before each half."""

    def __init__(self, arch: Architecture) -> None:
        super().__init__()
        self.heads = arch.heads
        self.norm_first = arch.layer_norm_first
        self.qkv = Linear(arch.width, 3 * arch.width)  # upstream's three projections, stacked
        self.out = Linear(arch.width, arch.width)
        self.attention_norm = nn.LayerNorm(arch.width)
        self.fc1 = Linear(arch.width, arch.hidden)
        self.fc2 = Linear(arch.hidden, arch.width)
        self.final_norm = nn.LayerNorm(arch.width)

    def forward(
        self, x: Tensor, with_attention: bool = False, padding: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """(batch, tokens, width) to the same, and the attention (batch, tokens) where it is asked for.

        No token attends to those that `padding`, (batch, tokens) bool, marks. What these get themselves is of no use.
        """
        mixed, attention = self._mix(self.attention_norm(x) if self.norm_first else x, with_attention, padding)
        x = mixed.add_(x)
        if not self.norm_first:
            x = self.attention_norm(x)
        transformed = self.fc2(self.fc1(self.final_norm(x) if self.norm_first else x, gelu=True))
        x = transformed.add_(x)
        if not self.norm_first:
            x = self.final_norm(x)
        return x, attention

    def _mix(self, x: Tensor, with_attention: bool, padding: Tensor | None) -> tuple[Tensor, Tensor | None]:
        batch, tokens, width = x.shape
        masked = None if padding is None else padding[:, None, None]  # (batch or 1, 1, 1, keys)
        qkv = self.qkv(x).view(batch, tokens, 3, self.heads, width // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # each (batch, heads, tokens, width of a head)
        attention = None
        # A CPU is faster in float32 with all weights at once than with PyTorch's kernel, which never has them together.
        if with_attention or (x.device.type == "cpu" and x.dtype == torch.float32):
            # The softmax of rounded scores would be far off, so that these are computed in float32.
            q, k, v = (heads.contiguous().flatten(0, 1) for heads in (q.float(), k.float(), v))
            scores = torch.baddbmm(q.new_empty(()), q, k.transpose(1, 2), beta=0, alpha=(width // self.heads) ** -0.5)
            scores = scores.view(batch, self.heads, tokens, tokens)
            if masked is not None:
                scores.masked_fill_(masked, -torch.inf)
            weights = torch.softmax(scores, dim=-1)  # (batch, heads, tokens, keys)
            if with_attention:
                attention = weights.mean(dim=1).amax(dim=-1)  # (batch, tokens): mean over heads, max over keys
            mixed = (weights.to(v.dtype).flatten(0, 1) @ v).view(batch, self.heads, tokens, -1)
        else:
            mixed = F.scaled_dot_product_attention(q, k, v, None if masked is None else ~masked)
        return self.out(mixed.transpose(1, 2).reshape(batch, tokens, width)), attention


class Network(nn.Module):
    """The whole network, from standardised segments to logits, embedding and attention."""

    def __init__(self, arch: Architecture) -> None:
        super().__init__()
        self.arch = arch
        channels = arch.conv_layers[-1][0]
        self.convolutions = Convolutions(arch)
        self.feature_norm = nn.LayerNorm(channels)
        self.project = Linear(channels, arch.width) if channels != arch.width else nn.Identity()
        self.position = Position(arch)
        self.norm = nn.LayerNorm(arch.width)
        self.layers = nn.ModuleList(Layer(arch) for _ in range(arch.layers))
        self.head = nn.Linear(arch.width, arch.labels) if arch.labels else None

    def forward(self, signal: Tensor, samples: Tensor | None = None, with_attention: bool = True) -> Output:
        """Run a batch of segments.

        Args:
            signal: (batch, leads, samples), 500 Hz, each lead standardised over its recording.
            samples: (batch,) integers, how many samples of each segment from its beginning are signal; the rest is
                padding with zeros. It is read by Python, so best on the CPU. None where all are signal.
            with_attention: Whether to return the last layer's attention, mean over heads, max over keys.

        Returns:
            Logits, embedding (the mean over the tokens that are not padding) and attention (0 for those that are: a
            share of 0 is none that softmax gives, while upstream gives what a token of padding attends to).

        Raises:
            ValueError: A segment has too little signal for one token.
        """
        x = self.convolutions(signal).to(self.feature_norm.weight.dtype)  # (batch, tokens, channels)
        x = self.position(self.project(self.feature_norm(x)))  # (batch, tokens, width)
        # Upstream sets the tokens of padding to zero here; masked in every layer, they are seen by none that counts.
        padding = given = None if samples is None else self._padding(samples, x)
        if not self.arch.layer_norm_first:
            x = self.norm(x)
        tokens, attention = x.shape[1], None
        if x.device.type == "cpu" and x.dtype != torch.float32 and tokens % EVEN_TOKENS:
            x, padding = self._even(x, padding)
        for i, layer in enumerate(self.layers):
            x, attention = layer(x, with_attention and i == len(self.layers) - 1, padding)
        if x.shape[1] > tokens:
            x, padding = x[:, :tokens], given
            attention = None if attention is None else attention[:, :tokens]
        if self.arch.layer_norm_first:
            x = self.norm(x)
        embedding = self._mean(x.float(), padding)
        logits = self.head(embedding) if self.head is not None else None
        if padding is not None and attention is not None:
            attention = attention.masked_fill(padding, 0)
        return Output(logits, embedding, attention)

    def _padding(self, samples: Tensor, x: Tensor) -> Tensor | None:
        """Which tokens of x are padding, (batch, tokens) bool; None where none is."""
        fewest = self.arch.tokens(int(samples.min()))
        if fewest == 0:
            raise ValueError(f"a segment needs {self.arch.token_samples[1]} samples of signal for one token")
        if fewest >= x.shape[1]:
            return None  # so that nothing is masked in vain: no kernel of flash attention takes such a mask
        counts = torch.tensor([self.arch.tokens(count) for count in samples.tolist()])
        padding = torch.arange(x.shape[1]) >= counts[:, None]
        if x.device.type == "cuda":  # from pinned memory, or Python waited here for all that the GPU has to do
            return padding.pin_memory().to(x.device, non_blocking=True)
        return padding.to(x.device)

    @staticmethod
    def _even(x: Tensor, padding: Tensor | None) -> tuple[Tensor, Tensor]:
        """Append tokens of padding up to a multiple of EVEN_TOKENS."""
        more = -x.shape[1] % EVEN_TOKENS
        if padding is None:
            padding = torch.zeros(1, x.shape[1], dtype=torch.bool, device=x.device)
        return F.pad(x, (0, 0, 0, more)), F.pad(padding, (0, more), value=True)

    @staticmethod
    def _mean(x: Tensor, padding: Tensor | None) -> Tensor:
        """The mean over the tokens that are not padding, (batch, tokens, width) to (batch, width)."""
        if padding is None:
            return x.mean(dim=1)
        return x.masked_fill(padding[..., None], 0).sum(dim=1) / (~padding).sum(dim=1, keepdim=True)


def load(
    arch: Architecture,
    weights: Path,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    packed: bool = True,
    tuning: Tuning | None = None,
) -> Network:
    """The network with the weights of a `model.safetensors`, ready for inference.

    Args:
        arch: What `model.json` says of it.
        weights: The safetensors file that the checkpoint stage wrote; it is mapped, not read as a whole.
        device: Where the weights go.
        dtype: Of the layers' arithmetic. The first convolution with its norm, the positions by spectra, the softmax
            with its scores where the attention is kept, the mean over the tokens and the head are float32 in any case.
        packed: Whether a CPU's linear layers are laid out for speed; they give no gradients of their inputs then.
        tuning: Which says how the positions are computed. None: as is best on the device.

    Returns:
        The network in evaluation mode, its weights without gradients.
    """
    return from_tensors(arch, safetensors.torch.load_file(weights, device=str(device)), device, dtype, packed, tuning)


def from_tensors(
    arch: Architecture,
    tensors: Mapping[str, Tensor],
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    packed: bool = True,
    tuning: Tuning | None = None,
) -> Network:
    """The same with weights in memory, by the names of `Network`."""
    with torch.device("meta"):
        network = Network(arch)  # no memory is filled with numbers that the weights replace
    fill_network(network, tensors, device, dtype, packed, tuning)
    return network


def fill_network(
    network: Network,
    tensors: Mapping[str, Tensor],
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    packed: bool = True,
    tuning: Tuning | None = None,
) -> None:
    """Give a network that is on the device "meta" its weights, and make it ready for inference; see `load`."""
    place_weights(network, tensors, device)
    network.position.way = (tuning or for_device(device)).position
    rounded = [network.convolutions.layers[1:], network.feature_norm, network.project, network.norm, network.layers]
    for part in [*rounded, *([network.position] if network.position.way == "direct" else [])]:
        part.to(dtype)
    for module in network.modules():
        if packed and isinstance(module, Linear):
            module.pack()
    release_file(network, device)


def read_checkpoint(path: Path) -> tuple[Architecture, dict[str, Tensor]]:
    """Read a checkpoint of fairseq-signals, without executing anything of it.

    Args:
        path: The .pt file.

    Returns:
        The sizes and the tensors of its network.

    Raises:
        EcgpipeError: The file is missing, damaged, names code, or is not of such a network.
    """
    from ecgpipe.models import fairseq_checkpoint  # which builds on this file

    content = fairseq_checkpoint.read_checkpoint(path)
    arch = fairseq_checkpoint.read_architecture(content["cfg"]["model"])
    return arch, fairseq_checkpoint.convert_tensors(content["model"], arch, str(path))
