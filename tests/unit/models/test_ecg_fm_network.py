"""The network: each part against PyTorch's own, and the whole the same however segments are batched and padded."""

import runpy
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from architectures import SMALL
from hypothesis import given, settings
from hypothesis import strategies as st
from processor import needs_bfloat16
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812, the name that PyTorch code uses

from ecgpipe.models import fairseq_checkpoint
from ecgpipe.models.description import Architecture
from ecgpipe.models.ecg_fm import network as ecg_fm_network
from ecgpipe.models.ecg_fm.network import Convolutions, Layer, Linear, Network, Output, Position
from ecgpipe.models.ecg_fm.tuning import for_device

POST_NORM = SMALL
PRE_NORM = replace(POST_NORM, layer_norm_first=True, conv_bias=True, conv_layers=((24, 5, 4), (24, 3, 2)), labels=2)
BOTH = pytest.mark.parametrize("arch", [POST_NORM, PRE_NORM], ids=["post-norm", "pre-norm"])


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    """Products as small as these take longer where threads wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def network(arch: Architecture) -> Network:
    """A network with random numbers in every tensor, also where PyTorch would put ones and zeros."""
    made = Network(arch).eval().requires_grad_(False)
    generator = torch.Generator().manual_seed(0)
    for tensor in made.parameters():
        tensor.copy_(torch.randn(tensor.shape, generator=generator) / max(1, tensor[0].numel()) ** 0.5)
    return made


def noise(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def run(made: Network, signal: Tensor, samples: Sequence[int] | None = None, *, with_attention: bool = True) -> Output:
    with torch.inference_mode():
        output: Output = made(signal, None if samples is None else torch.tensor(samples), with_attention)
    return output


def padded(signal: Tensor, samples: Sequence[int]) -> Tensor:
    """The segments with zeros from the sample on that is given for each."""
    return torch.where(torch.arange(signal.shape[2]) < torch.tensor(samples)[:, None, None], signal, 0)


def assert_close(actual: Tensor | None, expected: Tensor | None, tolerance: float = 1e-5) -> None:
    assert actual is not None
    torch.testing.assert_close(actual, expected, rtol=0, atol=tolerance)


# The whole


@BOTH
@pytest.mark.parametrize("batch", [1, 2, 3, 7])
def test_a_segment_gets_the_same_in_any_batch(arch: Architecture, batch: int) -> None:
    made, signal = network(arch), noise(7, 12, 2500)
    alone = [run(made, signal[i : i + 1]) for i in range(7)]
    batched = [run(made, signal[i : i + batch]) for i in range(0, 7, batch)]
    for key in Output._fields:
        one, other = (torch.cat([getattr(output, key) for output in outputs]) for outputs in (alone, batched))
        assert_close(other, one)


@BOTH
def test_neighbours_in_the_batch_do_not_matter(arch: Architecture) -> None:
    made, signal = network(arch), noise(3, 12, 2500)
    other = signal.clone()
    other[1:] = 1e3 * noise(2, 12, 2500, seed=2)
    for key in Output._fields:
        assert_close(getattr(run(made, other), key)[0], getattr(run(made, signal), key)[0])


@BOTH
def test_without_attention_the_rest_is_the_same(arch: Architecture) -> None:
    made, signal = network(arch), noise(2, 12, 2500)
    asked, not_asked = run(made, signal), run(made, signal, with_attention=False)
    assert not_asked.attention is None
    assert_close(not_asked.logits, asked.logits)
    assert_close(not_asked.embedding, asked.embedding)


@BOTH
def test_without_a_head_there_are_no_logits_and_the_rest_is_the_same(arch: Architecture) -> None:
    made, headless, signal = network(arch), Network(replace(arch, labels=0)).eval(), noise(2, 12, 2500)
    headless.load_state_dict({key: tensor for key, tensor in made.state_dict().items() if not key.startswith("head.")})
    expected, output = run(made, signal), run(headless, signal)
    assert output.logits is None
    assert_close(output.embedding, expected.embedding, 0)
    assert_close(output.attention, expected.attention, 0)


@BOTH
def test_outputs_have_the_shapes_that_the_architecture_says(arch: Architecture) -> None:
    for samples in (2500, 1000, 333):
        output = run(network(arch), noise(2, 12, samples))
        assert output.logits is not None
        assert output.attention is not None
        shapes = [tuple(tensor.shape) for tensor in (output.logits, output.embedding, output.attention)]
        assert shapes == [(2, arch.labels), (2, arch.width), (2, arch.tokens(samples))]


@BOTH
def test_the_logits_are_the_head_of_the_embedding_and_attention_is_a_share(arch: Architecture) -> None:
    made = network(arch)
    output = run(made, noise(2, 12, 2500))
    assert made.head is not None
    assert_close(output.logits, made.head(output.embedding))
    assert output.attention is not None
    assert bool(((output.attention > 0) & (output.attention <= 1)).all())


# Padding

# What fairseq-signals' own classes (commit 6b9e1375bbe6bc2e55ff4d9b95eabe8eee3adec7, PyTorch 2.13.0, CPU, float32,
# `saliency` on) give for the first five golden segments in one batch, cut off after so many samples and padded with
# zeros and a padding_mask as RawECGDataset.collator pads: the tokens that are not padding, the first three logits, the
# first three numbers of the embedding, and the last layer's attention (max over keys) of the first and last of these
# tokens. Rows are (samples, tokens, logits, embedding, attention).
UPSTREAM: dict[str, list[tuple[int, int, list[float], list[float], list[float]]]] = {
    "tiny": [
        (1000, 62, [0.8207226, 0.2904688, -0.4751735], [0.1727411, 0.1173684, -1.2085731], [0.1646968, 0.3418055]),
        (1999, 124, [-0.5902378, -0.4557589, 2.2651470], [0.6194274, -0.5277112, -0.2846520], [0.1951414, 0.1394095]),
        (2499, 156, [-0.4348100, -0.0793051, 1.2439142], [0.4101291, -0.3761814, -0.4143504], [0.1221117, 0.0821289]),
        (17, 1, [-0.9544467, -2.2470069, -0.3713949], [2.0180962, -1.4906404, 0.6519883], [1, 1]),
        (2500, 156, [-0.4105880, -0.2612245, 2.0275955], [0.4507575, -0.2176139, 0.0322903], [0.1802415, 0.0839930]),
    ],
    "prenorm": [
        (1000, 62, [-0.6790439, 1.3076496, 1.6866614], [0.2336189, -0.6549464, 0.0821392], [0.2307197, 0.4807403]),
        (1999, 124, [-1.0429956, 0.2437580, 0.4011272], [0.1485932, -0.4704382, -0.1600186], [0.0932649, 0.1377800]),
        (2499, 156, [-1.0565016, 0.8814295, 0.9152058], [0.1751611, -0.5632106, -0.1950306], [0.0955840, 0.3158942]),
        (17, 1, [0.4392355, 4.2758384, 1.3827978], [0.0930912, -1.6611154, -0.0549379], [1, 1]),
        (2500, 156, [-0.6407926, 0.6146119, 1.2089134], [0.3166491, -0.3725694, -0.1835225], [0.3070602, 0.3145416]),
    ],
}  # fmt: skip


@pytest.mark.parametrize("name", list(UPSTREAM))
def test_padded_segments_get_what_fairseq_signals_gives(name: str, reference: Path) -> None:
    state = runpy.run_path(str(reference / "make_checkpoint.py"))["state"](name)
    arch = fairseq_checkpoint.read_architecture(state["cfg"]["model"])
    made = Network(arch).eval()
    made.load_state_dict(fairseq_checkpoint.convert_tensors(state["model"], arch, name))
    samples, tokens, logits, embedding, attention = (list(column) for column in zip(*UPSTREAM[name], strict=True))
    signal = torch.from_numpy(np.load(reference / "golden" / "segments.npz")["signal"][: len(samples)])
    output = run(made, padded(signal, samples), samples)
    assert output.logits is not None
    assert output.attention is not None
    assert_close(output.logits[:, :3], torch.tensor(logits))
    assert_close(output.embedding[:, :3], torch.tensor(embedding))
    rows, ends = torch.arange(len(samples))[:, None], torch.tensor([[0, count - 1] for count in tokens])
    assert_close(output.attention[rows, ends], torch.tensor(attention))
    assert (output.attention != 0).sum(dim=1).tolist() == tokens


@BOTH
def test_a_segment_gets_the_same_beside_padded_ones(arch: Architecture) -> None:
    made, signal = network(arch), noise(4, 12, 2500)
    samples = [2500, 800, 2500, 60]
    alone, beside = run(made, signal), run(made, padded(signal, samples), samples)
    for key in Output._fields:
        assert_close(getattr(beside, key)[::2], getattr(alone, key)[::2], 1e-6)


@BOTH
@pytest.mark.parametrize("batch", [1, 2, 3])
def test_a_padded_segment_gets_the_same_in_any_batch(arch: Architecture, batch: int) -> None:
    samples = [2500, 800, 2500, 60, 2400, 1999, 31]
    made, signal = network(arch), padded(noise(7, 12, 2500), samples)
    together = run(made, signal, samples)
    batched = [run(made, signal[i : i + batch], samples[i : i + batch]) for i in range(0, 7, batch)]
    for key in Output._fields:
        assert_close(torch.cat([getattr(output, key) for output in batched]), getattr(together, key))


@BOTH
def test_where_no_token_is_padding_nothing_changes_not_even_the_rounding(arch: Architecture) -> None:
    made, signal = network(arch), noise(2, 12, 2500)
    last = arch.token_samples[0] * (arch.tokens(2500) - 1) + arch.token_samples[1]  # where the last token's samples end
    for samples in ([2500, 2500], [2500, last]):
        for expected, output in zip(run(made, signal), run(made, signal, samples), strict=True):
            assert_close(output, expected, 0)


@BOTH
def test_the_padding_counts_for_the_group_norm_and_for_nothing_after_the_positions(arch: Architecture) -> None:
    made, samples = network(arch), [1000, 333]
    signal = padded(noise(2, 12, 2500), samples)
    output = run(made, signal, samples)
    for row, count in enumerate(samples):
        tokens = arch.tokens(count)
        x = made.convolutions(signal[row : row + 1])  # (1, tokens, channels)
        x = made.position(made.project(made.feature_norm(x)))[:, :tokens]  # from here on as if there were no padding
        x = x if arch.layer_norm_first else made.norm(x)
        for layer in made.layers:
            x, attention = layer(x, with_attention=True)
        x = made.norm(x) if arch.layer_norm_first else x
        assert_close(output.embedding[row], x[0].mean(dim=0))
        assert output.attention is not None
        assert_close(output.attention[row, :tokens], attention[0])


@BOTH
def test_attention_is_a_share_where_there_is_signal_and_zero_at_padding(arch: Architecture) -> None:
    samples = [2500, 1000, 40]
    attention = run(network(arch), padded(noise(3, 12, 2500), samples), samples).attention
    assert attention is not None
    for row, count in zip(attention, samples, strict=True):
        tokens = arch.tokens(count)
        assert bool(((row[:tokens] > 0) & (row[:tokens] <= 1)).all())
        assert bool((row[tokens:] == 0).all())


@BOTH
def test_without_attention_padded_segments_get_the_same(arch: Architecture) -> None:
    made, samples = network(arch), [2500, 1000, 40]
    signal = padded(noise(3, 12, 2500), samples)
    asked, not_asked = run(made, signal, samples), run(made, signal, samples, with_attention=False)
    assert not_asked.attention is None
    assert_close(not_asked.logits, asked.logits)
    assert_close(not_asked.embedding, asked.embedding)


@BOTH
@pytest.mark.parametrize("seconds", [1, 2.5, 10, 30])
def test_segments_of_other_lengths_with_and_without_padding(arch: Architecture, seconds: float) -> None:
    length = int(500 * seconds)
    made, samples = network(arch), [length, length // 3]
    output = run(made, padded(noise(2, 12, length), samples), samples)
    assert output.attention is not None
    assert (output.attention != 0).sum(dim=1).tolist() == [arch.tokens(count) for count in samples]
    assert bool(output.embedding.isfinite().all())
    assert_close(output.embedding[:1], run(made, noise(2, 12, length)[:1]).embedding)


@BOTH
def test_a_segment_with_too_little_signal_for_a_token_is_refused(arch: Architecture) -> None:
    made, least = network(arch), arch.token_samples[1]
    run(made, noise(2, 12, 100), [100, least])
    with pytest.raises(ValueError, match=f"a segment needs {least} samples of signal for one token"):
        run(made, noise(2, 12, 100), [100, least - 1])


# Its parts


@pytest.mark.parametrize("same", [True, False])
def test_features_are_projected_only_where_their_number_differs_from_the_width(same: bool) -> None:
    arch = replace(POST_NORM, conv_layers=((POST_NORM.width if same else 16, 2, 2),) * 2)
    assert isinstance(Network(arch).project, nn.Identity) == same


@pytest.mark.parametrize("norm_first", [True, False])
def test_a_layer_is_pytorchs_transformer_layer(norm_first: bool) -> None:
    arch = replace(POST_NORM, layer_norm_first=norm_first)
    layer = network(arch).layers[1]
    assert isinstance(layer, Layer)
    theirs = nn.TransformerEncoderLayer(
        arch.width, arch.heads, arch.hidden, dropout=0, activation="gelu", norm_first=norm_first, batch_first=True
    )
    names = {
        "qkv.": "self_attn.in_proj_", "out.": "self_attn.out_proj.", "fc1.": "linear1.", "fc2.": "linear2.",
        "attention_norm.": "norm1.", "final_norm.": "norm2.",
    }  # fmt: skip
    state = layer.state_dict()
    theirs.load_state_dict({new + kind: state[old + kind] for old, new in names.items() for kind in ("weight", "bias")})
    theirs = theirs.eval().requires_grad_(False)
    x = noise(2, 19, arch.width)
    mixed, attention = layer(x, with_attention=True)
    assert_close(mixed, theirs(x))
    assert_close(layer(x)[0], theirs(x))
    asked = theirs.norm1(x) if norm_first else x
    _, weights = theirs.self_attn(asked, asked, asked)  # (batch, tokens, keys), mean over heads
    assert_close(attention, weights.amax(dim=-1))

    padding = torch.arange(19) >= torch.tensor([[19], [7]])  # (batch, tokens)
    expected = theirs(x, src_key_padding_mask=padding)[~padding]
    assert_close(layer(x, with_attention=True, padding=padding)[0][~padding], expected)
    assert_close(layer(x, padding=padding)[0][~padding], expected)


def directly(position: Position, x: Tensor) -> Tensor:
    """What upstream does: an ordinary convolution, whose last token an even kernel has too many."""
    wide = position.conv(x.transpose(1, 2))
    if position.conv.kernel_size[0] % 2 == 0:
        wide = wide[..., :-1]
    return x + F.gelu(wide.transpose(1, 2))


@given(
    kernel=st.integers(1, 140), tokens=st.integers(1, 200), groups=st.sampled_from([1, 2, 4, 8]),
    batch=st.integers(1, 3),
)  # fmt: skip
@settings(deadline=None, max_examples=50)
def test_the_positions_by_fourier_are_those_of_the_convolution(
    kernel: int, tokens: int, groups: int, batch: int
) -> None:
    position = Position(replace(POST_NORM, width=8, position_kernel=kernel, position_groups=groups))
    with torch.inference_mode():
        for length in (tokens, tokens + 40, tokens):  # the kernel's spectrum is kept from one to the next
            x = noise(batch, length, 8)
            assert_close(position(x), directly(position, x))


@pytest.mark.parametrize("kernel", [127, 128])
def test_the_positions_of_ecg_fms_size_are_those_of_the_convolution(kernel: int) -> None:
    position = Position(replace(POST_NORM, width=64, position_kernel=kernel, position_groups=16))
    with torch.inference_mode():
        x = noise(2, 156, 64)
        assert_close(position(x), directly(position, x))


@pytest.mark.parametrize("kernel", [127, 128])
def test_the_positions_by_fourier_are_those_of_the_direct_way(kernel: int) -> None:
    position = Position(replace(POST_NORM, width=64, position_kernel=kernel, position_groups=16))
    with torch.inference_mode():
        x = noise(2, 156, 64)
        by_fourier = position(x)
        position.way = "direct"
        assert_close(position(x), by_fourier)
        assert torch.equal(position(x), directly(position, x))


@pytest.mark.parametrize("shape", [(5,), (1, 5), (7, 5), (2, 3, 5), (2, 3, 4, 5)])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("onednn", [True, False])
def test_linear_is_pytorchs_linear(
    shape: tuple[int, ...], bias: bool, packed: bool, onednn: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ecg_fm_network, "ONEDNN", ecg_fm_network.ONEDNN and onednn)
    linear = Linear(5, 3, bias=bias).requires_grad_(False)
    weight = linear.weight.clone()
    if packed:
        linear.pack()
    for x in (noise(*shape), noise(*shape[::-1]).permute(*range(len(shape))[::-1])):
        expected = F.linear(x, weight, linear.bias)
        assert_close(linear(x), expected)
        assert_close(linear(x, gelu=True), F.gelu(expected))


@needs_bfloat16
@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("onednn", [True, False])
def test_linear_in_bfloat16_rounds_once(packed: bool, onednn: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ecg_fm_network, "ONEDNN", ecg_fm_network.ONEDNN and onednn)
    linear, x = Linear(40, 24).requires_grad_(False).bfloat16(), noise(3, 7, 40).bfloat16()
    expected = F.linear(x.float(), linear.weight.float(), linear.bias.float())
    if packed:
        linear.pack()
    made = linear(x)
    assert made.dtype == torch.bfloat16
    torch.testing.assert_close(made.float(), expected, rtol=2**-8, atol=1e-6)  # 8 bits
    # What oneDNN feeds to the GELU is not rounded yet, what PyTorch's own way does is.
    torch.testing.assert_close(linear(x, gelu=True).float(), F.gelu(expected), rtol=2**-6, atol=2**-8)


def convolved(convolutions: Convolutions, x: Tensor) -> Tensor:
    """What upstream does, (batch, leads, samples) to (batch, tokens, channels)."""
    norm = convolutions.norm
    for i, conv in enumerate(convolutions.layers):
        assert isinstance(conv, nn.Conv1d)
        x = F.conv1d(x, conv.weight, conv.bias, conv.stride)
        if i == 0:
            x = torch.group_norm(x, norm.num_groups, norm.weight, norm.bias, norm.eps)
        x = F.gelu(x)
    return x.transpose(1, 2)


@given(
    layers=st.lists(st.tuples(st.integers(1, 9), st.integers(1, 6), st.integers(1, 6)), min_size=1, max_size=4),
    bias=st.booleans(), leads=st.integers(1, 12), batch=st.integers(1, 3), more=st.integers(0, 40),
)  # fmt: skip
@settings(deadline=None, max_examples=80)
def test_convolutions_are_pytorchs_whatever_their_kernels_and_strides(
    layers: list[tuple[int, int, int]], bias: bool, leads: int, batch: int, more: int
) -> None:
    arch = replace(POST_NORM, in_leads=leads, conv_layers=tuple(layers), conv_bias=bias)
    convolutions = network(arch).convolutions
    x = noise(batch, leads, arch.token_samples[1] + more)
    made = convolutions(x)
    assert made.shape == (batch, arch.tokens(x.shape[2]), layers[-1][0])
    # Where a channel hardly changes, its norm enlarges what the order of the additions rounds.
    assert_close(made, convolved(convolutions, x), 1e-4)


@pytest.mark.parametrize("bias", [True, False])
def test_convolutions_normalise_each_channel_after_the_first_and_only_there(bias: bool) -> None:
    convolutions = Convolutions(replace(PRE_NORM, conv_bias=bias)).requires_grad_(False)
    first, second = convolutions.layers
    x = noise(2, 12, 100)
    wide = first(x)  # (batch, channels, tokens)
    mean, variance = wide.mean(dim=2, keepdim=True), wide.var(dim=2, keepdim=True, unbiased=False)
    expected = F.gelu(second(F.gelu((wide - mean) / (variance + 1e-5).sqrt())))
    assert_close(convolutions(x), expected.transpose(1, 2))
    assert (first.bias is not None) == bias


# Loaded from a file, in float32 and in bfloat16


@pytest.fixture
def weights(arch: Architecture, tmp_path: Path) -> Path:
    """The file of `network(arch)`."""
    safetensors.torch.save_file(network(arch).state_dict(), tmp_path / "model.safetensors")
    return tmp_path / "model.safetensors"


ONE_CONVOLUTION = replace(POST_NORM, conv_layers=((24, 16, 16),))
THREE = pytest.mark.parametrize(
    "arch", [POST_NORM, PRE_NORM, ONE_CONVOLUTION], ids=["post-norm", "pre-norm", "one convolution"]
)


@THREE
@pytest.mark.parametrize("onednn", [True, False])
def test_the_network_from_a_file_gives_the_same_with_and_without_onednn(
    arch: Architecture, onednn: bool, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ecg_fm_network, "ONEDNN", ecg_fm_network.ONEDNN and onednn)
    loaded, samples = ecg_fm_network.load(arch, weights), [2500, 700]
    signal = padded(noise(2, 12, 2500), samples)
    for with_attention in (True, False):
        expected = run(network(arch), signal, samples, with_attention=with_attention)
        for one, other in zip(expected, run(loaded, signal, samples, with_attention=with_attention), strict=True):
            assert (one is None) == (other is None)
            if one is not None:
                assert_close(other, one)


# What bfloat16 changed on an Intel Xeon with AMX: 1 - cosine of the embeddings at most 1.2e-5 for the first two,
# probabilities 2.2e-3, attention 1.6 % of its largest. The bounds leave room for other processors.
@needs_bfloat16
@THREE
@pytest.mark.parametrize("tokens", [32, 64, 156, 1, 33])
@pytest.mark.parametrize("with_padding", [True, False])
@pytest.mark.parametrize("with_attention", [True, False])
def test_bfloat16_is_close_to_float32(
    arch: Architecture, tokens: int, with_padding: bool, with_attention: bool, weights: Path
) -> None:
    step, span = arch.token_samples
    length = span + step * (tokens - 1)
    samples = [length, max(span, length // 2), length, max(span, length // 3)] if with_padding else [length] * 4
    signal = padded(noise(4, 12, length), samples)
    exact = run(ecg_fm_network.load(arch, weights), signal, samples, with_attention=with_attention)
    rounded = run(
        ecg_fm_network.load(arch, weights, dtype=torch.bfloat16), signal, samples, with_attention=with_attention
    )
    assert exact.logits is not None
    assert rounded.logits is not None
    assert float(torch.cosine_similarity(exact.embedding, rounded.embedding).min()) > 1 - 1e-4
    assert_close(rounded.logits.sigmoid(), exact.logits.sigmoid(), 0.01)
    assert (rounded.attention is not None) == with_attention
    if with_attention:
        assert exact.attention is not None
        assert_close(rounded.attention, exact.attention, 0.05 * float(exact.attention.max()))
        assert rounded.attention is not None
        assert torch.equal(rounded.attention == 0, exact.attention == 0)  # at padding, and nowhere else


@needs_bfloat16
@BOTH
def test_in_bfloat16_a_segment_gets_nearly_the_same_in_any_batch(arch: Architecture, weights: Path) -> None:
    made, samples = ecg_fm_network.load(arch, weights, dtype=torch.bfloat16), [2500, 800, 2500, 60, 2400, 1999, 31]
    signal = padded(noise(7, 12, 2500), samples)
    together = run(made, signal, samples)
    for batch in (1, 2, 3):
        some = [run(made, signal[i : i + batch], samples[i : i + batch]) for i in range(0, 7, batch)]
        batched = [torch.cat([getattr(output, key) for output in some]) for key in Output._fields]
        logits, embedding, attention = batched
        assert float(torch.cosine_similarity(embedding, together.embedding).min()) > 1 - 1e-4
        assert together.logits is not None
        assert together.attention is not None
        assert_close(logits.sigmoid(), together.logits.sigmoid(), 0.01)
        for row, expected in zip(attention, together.attention, strict=True):
            assert_close(row, expected, 0.05 * float(expected.max()))


@needs_bfloat16
@THREE
def test_in_bfloat16_what_needs_float32_has_it_and_so_have_the_outputs(arch: Architecture, weights: Path) -> None:
    made = ecg_fm_network.load(arch, weights, dtype=torch.bfloat16)
    assert made.head is not None
    exact = [made.convolutions.layers[0], made.convolutions.norm, made.position, made.head]
    assert {tensor.dtype for part in exact for tensor in part.parameters()} == {torch.float32}
    rounded = [made.feature_norm, made.norm, *made.convolutions.layers[1:], *made.layers]
    assert {tensor.dtype for part in rounded for tensor in part.parameters()} == {torch.bfloat16}
    output = run(made, noise(2, 12, 1000))
    assert [None if tensor is None else tensor.dtype for tensor in output] == [torch.float32] * 3


DIRECT = replace(for_device("cpu"), position="direct")


@THREE
def test_the_network_with_direct_positions_gives_what_it_gives_by_fourier(arch: Architecture, weights: Path) -> None:
    samples = [2500, 700]
    signal = padded(noise(2, 12, 2500), samples)
    expected = run(ecg_fm_network.load(arch, weights), signal, samples)
    for one, other in zip(
        expected, run(ecg_fm_network.load(arch, weights, tuning=DIRECT), signal, samples), strict=True
    ):
        assert one is not None
        assert other is not None
        assert_close(other, one)


@needs_bfloat16
def test_direct_positions_are_computed_in_the_layers_type(tmp_path: Path) -> None:
    safetensors.torch.save_file(network(POST_NORM).state_dict(), tmp_path / "model.safetensors")
    exact = run(ecg_fm_network.load(POST_NORM, tmp_path / "model.safetensors"), noise(2, 12, 1000))
    made = ecg_fm_network.load(POST_NORM, tmp_path / "model.safetensors", dtype=torch.bfloat16, tuning=DIRECT)
    assert made.position.conv.weight.dtype == torch.bfloat16
    rounded = run(made, noise(2, 12, 1000))
    assert float(torch.cosine_similarity(exact.embedding, rounded.embedding).min()) > 1 - 1e-4


# Where a token stands


@given(
    st.lists(st.tuples(st.just(1), st.integers(1, 5), st.integers(1, 4)), min_size=1, max_size=4),
    st.integers(1, 80),
)
@settings(deadline=None, max_examples=60)
def test_tokens_and_the_samples_they_see_are_those_of_the_convolutions(
    layers: list[tuple[int, int, int]], samples: int
) -> None:
    arch = replace(POST_NORM, in_leads=1, conv_layers=tuple(layers))
    seen: Tensor | None = torch.eye(samples)[:, None]  # each sample alone: (sample, 1, samples)
    for _, kernel, stride in layers:
        too_short = seen is None or seen.shape[2] < kernel
        seen = None if seen is None or too_short else F.conv1d(seen, torch.ones(1, 1, kernel), stride=stride)
    assert arch.tokens(samples) == (0 if seen is None else seen.shape[2])
    step, span = arch.token_samples
    for token in range(arch.tokens(samples)):
        assert seen is not None
        hit = torch.nonzero(seen[:, 0, token]).flatten()
        # With a stride wider than the kernel a token skips samples within what it spans.
        assert (int(hit[0]), int(hit[-1]) + 1) == (step * token, step * token + span)


def test_ecg_fms_tokens() -> None:
    arch = replace(POST_NORM, conv_layers=((256, 2, 2),) * 4)
    assert arch.token_samples == (16, 16)
    assert arch.tokens(2500) == 156
    assert [arch.tokens(samples) for samples in (0, 15, 16, 31, 32)] == [0, 0, 1, 1, 2]
