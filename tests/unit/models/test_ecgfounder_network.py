"""ECGFounder's network against what the authors' Net1D computes, its traps, and how strictly files are matched."""

import io
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from golden_models import ecgfounder_inputs, make_checkpoint
from torch import Tensor
from torch.nn import functional as F  # noqa: N812, the name that PyTorch code uses

from ecgpipe.core.errors import EcgpipeError
from ecgpipe.models.ecg_fm.network import ONEDNN
from ecgpipe.models.ecgfounder import network as ecgfounder
from ecgpipe.models.ecgfounder.network import Architecture, Network, pad_same
from ecgpipe.models.hubert_ecg import network as hubert_ecg
from ecgpipe.models.output import Output
from ecgpipe.models.tensors import find_tensors, load_pickled, load_safetensors

TOLERANCE = 1e-4  # of the golden README
SMALL = Architecture(in_leads=12, first_width=8, kernel=16, group_width=4, stages=((8, 2), (12, 1)), labels=3)


@pytest.fixture(scope="module")
def checkpoint(reference: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    folder = tmp_path_factory.mktemp("ecgfounder")
    return cache(lambda variant: make_checkpoint(reference, "ecgfounder", variant, folder))


@pytest.fixture(scope="module")
def golden(reference: Path) -> dict[str, np.ndarray]:
    with np.load(reference / "models" / "ecgfounder" / "golden.npz") as file:
        return dict(file)


@pytest.fixture
def tensors(checkpoint: Callable[[str], Path]) -> dict[str, Tensor]:
    """Those of the tiny checkpoint, for a test to damage."""
    return find_tensors(load_pickled(checkpoint("tiny")))


def run(made: Network, signal: Tensor | np.ndarray) -> Output:
    with torch.inference_mode():
        output: Output = made(torch.as_tensor(signal))
    return output


def network(arch: Architecture = SMALL) -> Network:
    made = Network(arch).eval().requires_grad_(False)
    generator = torch.Generator().manual_seed(0)
    for tensor in made.parameters():
        tensor.copy_(torch.randn(tensor.shape, generator=generator) / max(1, tensor[0].numel()) ** 0.5)
    return made


def noise(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def largest(actual: Tensor | None, expected: np.ndarray | Tensor) -> float:
    assert actual is not None
    return float((actual - torch.as_tensor(expected)).abs().max())


# The golden numbers


@pytest.mark.parametrize("variant", ["filtered", "plain"])
@pytest.mark.parametrize("size", ["tiny", pytest.param("full", marks=pytest.mark.slow)])
def test_all_ten_recordings_get_the_logits_and_embeddings_of_the_authors_code(
    size: str, variant: str, golden: dict[str, np.ndarray], checkpoint: Callable[[str], Path], reference: Path
) -> None:
    signal = ecgfounder_inputs(reference, variant)
    assert np.abs(signal[:2] - golden[f"{variant}_first2"]).max() < 2e-5
    output = run(ecgfounder.from_tensors(*ecgfounder.read_checkpoint(checkpoint(size))), signal)
    assert largest(output.logits, golden[f"{size}_{variant}_logits"]) < TOLERANCE
    assert largest(output.embedding, golden[f"{size}_{variant}_embedding"]) < TOLERANCE
    assert output.attention is None


@pytest.mark.slow
def test_the_one_lead_network_gets_them_too(
    golden: dict[str, np.ndarray], checkpoint: Callable[[str], Path], reference: Path
) -> None:
    arch, tensors = ecgfounder.read_checkpoint(checkpoint("lead1"))
    assert arch.in_leads == 1
    output = run(ecgfounder.from_tensors(arch, tensors), ecgfounder_inputs(reference, "filtered")[:, :1])
    assert largest(output.logits, golden["lead1_filtered_logits"]) < TOLERANCE
    assert largest(output.embedding, golden["lead1_filtered_embedding"]) < TOLERANCE


def test_a_recording_alone_and_in_a_batch_is_the_same(
    golden: dict[str, np.ndarray], checkpoint: Callable[[str], Path]
) -> None:
    made = ecgfounder.from_tensors(*ecgfounder.read_checkpoint(checkpoint("tiny")))
    signal = torch.from_numpy(golden["filtered_first2"])
    both, alone = run(made, signal), run(made, signal[1:])
    assert largest(alone.embedding[0], both.embedding[1]) < 1e-5
    loud = run(made, torch.stack([1e3 * signal[0], signal[1]]))
    assert largest(loud.embedding[1], both.embedding[1]) < 1e-5


def test_in_half_precision_the_convolutions_of_the_blocks_are_rounded_and_nothing_else(
    golden: dict[str, np.ndarray], checkpoint: Callable[[str], Path]
) -> None:
    half = ecgfounder.from_tensors(*ecgfounder.read_checkpoint(checkpoint("tiny")), dtype=torch.bfloat16)
    rounded = {name.split(".")[3] for name, tensor in half.named_parameters() if tensor.dtype == torch.bfloat16}
    assert rounded == {"conv1", "conv2", "conv3"}
    output = run(half, golden["filtered_first2"])
    assert output.logits is not None
    assert output.logits.dtype == output.embedding.dtype == torch.float32
    assert 1e-5 < largest(output.logits, golden["tiny_filtered_logits"][:2]) < 0.05


# Traps


def test_batch_norm_is_in_the_file_and_is_not_applied(tensors: dict[str, Tensor]) -> None:
    norms = [name for name in tensors if "bn" in name]
    assert norms
    arch = ecgfounder.read_architecture(tensors)
    expected = ecgfounder.map_tensors(tensors)
    for name in norms:
        del tensors[name]  # as in a file that was saved without them
    assert ecgfounder.read_architecture(tensors) == arch
    assert all(torch.equal(tensor, expected[name]) for name, tensor in ecgfounder.map_tensors(tensors).items())
    assert not any(isinstance(module, torch.nn.modules.batchnorm._BatchNorm) for module in Network(arch).modules())


def test_batch_norm_of_a_block_that_is_not_there_is_left_over(tensors: dict[str, Tensor]) -> None:
    tensors["stage_list.9.block_list.0.bn1.weight"] = torch.ones(3)
    with pytest.raises(EcgpipeError, match=r"left over: stage_list\.9\.block_list\.0\.bn1\.weight;"):
        ecgfounder.map_tensors(tensors)


@pytest.mark.parametrize(
    ("length", "kernel", "stride", "left", "right"),
    [
        (100, 16, 1, 7, 8),
        (100, 16, 2, 7, 7),
        (101, 16, 2, 7, 8),
        (100, 9, 1, 4, 4),
        (100, 9, 2, 3, 4),
        (3, 1, 2, 0, 0),
    ],
)
def test_same_padding_has_its_smaller_half_on_the_left(
    length: int, kernel: int, stride: int, left: int, right: int
) -> None:
    x = noise(1, 1, length)
    padded = pad_same(x, kernel, stride)
    assert torch.equal(padded, F.pad(x, (left, right)))
    assert (padded.shape[-1] - kernel) // stride + 1 == -(-length // stride)


def test_the_last_value_of_an_odd_length_is_pooled_with_a_zero() -> None:
    block = network().stages[0][0]  # type: ignore[index]
    for convolution in (block.conv1, block.conv2, block.conv3):
        convolution.weight.zero_()
        convolution.bias.zero_()
    x = -1 - noise(1, 8, 7).abs()
    x[..., 6] = -2.0
    pooled = block(x)  # the shortcut alone
    assert pooled.shape[2] == 4
    assert torch.equal(pooled[..., :3], torch.maximum(x[..., 0:6:2], x[..., 1:6:2]))
    assert torch.equal(pooled[..., 3], torch.zeros(1, 8))  # max(-2, 0), not -2
    x[..., 6] = 2.0
    assert torch.equal(block(x)[..., 3], torch.full((1, 8), 2.0))


def test_where_the_width_grows_the_shortcut_has_zero_channels_on_both_sides() -> None:
    made = network()
    block = made.stages[1][0]  # type: ignore[index]
    for convolution in (block.conv1, block.conv2, block.conv3):
        convolution.weight.zero_()
        convolution.bias.zero_()
    x = noise(1, 8, 6).abs()
    grown = block(x)  # (1, 12, 3)
    assert torch.equal(grown[:, 2:10], F.max_pool1d(x, 2))
    assert not grown[:, :2].any()
    assert not grown[:, 10:].any()


@pytest.mark.parametrize("kernel", [16, 9])
@pytest.mark.parametrize("length", [5000, 4999, 333, 17, 1])
def test_weights_laid_out_for_speed_give_the_same(length: int, kernel: int) -> None:
    arch = replace(SMALL, kernel=kernel)
    made = network(arch)
    packed = ecgfounder.from_tensors(arch, made.state_dict())
    assert (packed.first.weight.numel() == 0) == ONEDNN
    signal = noise(3, 12, length)
    expected, actual = run(made, signal), run(packed, signal)
    assert largest(actual.embedding, expected.embedding) < 1e-5
    assert largest(actual.logits, expected.logits if expected.logits is not None else torch.empty(0)) < 1e-5


def test_without_that_layout_there_are_gradients_of_the_signal() -> None:
    made = ecgfounder.from_tensors(SMALL, network().state_dict(), packed=False)
    signal = noise(1, 12, 333).requires_grad_()
    logits = made(signal).logits
    logits.sum().backward()
    assert signal.grad is not None
    assert bool((signal.grad != 0).any())


@pytest.mark.parametrize("length", [5000, 4999, 333, 17])
def test_any_length_goes_through(length: int) -> None:
    output = run(network(), noise(2, 12, length))
    assert output.logits is not None
    assert (output.logits.shape, output.embedding.shape) == ((2, 3), (2, 12))


# Files


def test_the_released_network_has_its_sizes(checkpoint: Callable[[str], Path]) -> None:
    arch, tensors = ecgfounder.read_checkpoint(checkpoint("odd"))
    assert arch == Architecture(12, 24, 9, 8, ((32, 1), (48, 3), (80, 2)), 150)
    assert arch.width == 80
    assert tensors.keys() == Network(arch).state_dict().keys()


@pytest.mark.parametrize("prefix", ["", "module.", "model.encoder."])
def test_a_prefix_is_found(tensors: dict[str, Tensor], prefix: str) -> None:
    expected = ecgfounder.map_tensors(tensors)
    renamed = {prefix + name: tensor for name, tensor in tensors.items()}
    assert ecgfounder.recognise(renamed)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in ecgfounder.map_tensors(renamed).items())


def test_every_tensor_that_does_not_fit_is_named_once_and_sorted(tensors: dict[str, Tensor]) -> None:
    del tensors["dense.weight"], tensors["stage_list.1.block_list.0.conv2.conv.weight"]
    tensors["first_conv.conv.weight"] = tensors["first_conv.conv.weight"][:, :, :5]
    tensors["first_conv.conv.bias"] = tensors["first_conv.conv.bias"].to(torch.int32)
    tensors["z"], tensors["a"] = torch.ones(1), torch.ones(1)
    with pytest.raises(EcgpipeError) as error:
        ecgfounder.map_tensors(tensors, "x.pth")
    assert str(error.value) == (
        "checkpoint: the tensors of x.pth are not those of an ECGFounder network: "
        "missing: dense.weight, stage_list.1.block_list.0.conv2.conv.weight; left over: a, z; of another shape: "
        "first_conv.conv.bias (torch.int32 instead of (16,)), first_conv.conv.weight ((16, 12, 5) instead of "
        "(16, 12, 16)); give a file as ECGFounder's authors released it, such as 12_lead_ECGFounder.pth"
    )


def test_each_tensor_that_is_missing_or_of_another_shape_is_the_only_one_named(tensors: dict[str, Tensor]) -> None:
    needed = [name for name in tensors if "bn" not in name]
    for name in needed:
        without = {other: tensor for other, tensor in tensors.items() if other != name}
        with pytest.raises(EcgpipeError) as error:
            ecgfounder.map_tensors(without)
        assert f": missing: {name}; give" in str(error.value)
        with pytest.raises(EcgpipeError) as error:
            ecgfounder.map_tensors({**tensors, name: tensors[name][..., None]})
        assert f": of another shape: {name} (" in str(error.value)
        assert str(error.value).count("instead of") == 1


def test_another_familys_file_is_refused(reference: Path, tmp_path: Path, tensors: dict[str, Tensor]) -> None:
    assert ecgfounder.recognise(tensors)
    assert not hubert_ecg.recognise(tensors)
    path = make_checkpoint(reference, "hubert_ecg", "tiny", tmp_path)
    other = load_safetensors(path / "model.safetensors")
    assert not ecgfounder.recognise(other)
    assert not ecgfounder.recognise({})
    with pytest.raises(EcgpipeError, match="are not those of ECGFounder"):
        ecgfounder.map_tensors(other)


def test_a_damaged_file_is_refused(checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    path = tmp_path / "x.pth"
    path.write_bytes(checkpoint("tiny").read_bytes()[:100_000])
    with pytest.raises(EcgpipeError, match="is incomplete"):
        ecgfounder.read_checkpoint(path)
    path.write_bytes(b"")
    with pytest.raises(EcgpipeError, match="is not a checkpoint of PyTorch"):
        ecgfounder.read_checkpoint(path)
    with pytest.raises(EcgpipeError, match="No such file"):
        ecgfounder.read_checkpoint(tmp_path / "none.pth")


def test_a_file_that_asks_for_code_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.pth"
    torch.save({"state_dict": {}, "hook": io.StringIO}, path)
    with pytest.raises(EcgpipeError, match=r"asks for _?io\.StringIO, which is code"):
        ecgfounder.read_checkpoint(path)


def test_a_state_dict_without_its_wrapping_is_found(checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    content = load_pickled(checkpoint("tiny"))
    moments = {index: {"exp_avg": torch.ones(2), "step": torch.ones(1)} for index in range(300)}
    for nested in (content["state_dict"], {"net": content}, {**content, "optimizer": {"state": moments}}):
        torch.save(nested, tmp_path / "x.pth")
        arch, tensors = ecgfounder.read_checkpoint(tmp_path / "x.pth")
        assert arch.labels == 7
        assert tensors["head.bias"].shape == (7,)
