"""HuBERT-ECG's network against what the authors' classes compute, its traps, and how strictly files are matched."""

import json
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from golden_models import make_checkpoint
from torch import Tensor
from torch.nn import functional as F  # noqa: N812, the name that PyTorch code uses

from ecgpipe.core.errors import EcgpipeError
from ecgpipe.models.ecgfounder import network as ecgfounder
from ecgpipe.models.hubert_ecg import network as hubert_ecg
from ecgpipe.models.hubert_ecg.network import Network
from ecgpipe.models.output import Output
from ecgpipe.models.tensors import find_tensors, load_pickled

TOLERANCE = 1e-4  # of the golden README


@pytest.fixture(scope="module")
def checkpoint(reference: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    folder = tmp_path_factory.mktemp("hubert_ecg")
    return cache(lambda variant: make_checkpoint(reference, "hubert_ecg", variant, folder))


@pytest.fixture(scope="module")
def golden(reference: Path) -> dict[str, np.ndarray]:
    with np.load(reference / "models" / "hubert_ecg" / "golden.npz") as file:
        return dict(file)


@pytest.fixture
def config(checkpoint: Callable[[str], Path]) -> dict[str, Any]:
    """That of the tiny checkpoint with a head, for a test to damage."""
    content: dict[str, Any] = json.loads((checkpoint("tiny_sft") / "config.json").read_text(encoding="utf-8"))
    return content


@pytest.fixture
def tensors(checkpoint: Callable[[str], Path]) -> dict[str, Tensor]:
    """Those of the tiny checkpoint with a head, for a test to damage."""
    return safetensors.torch.load_file(checkpoint("tiny_sft") / "model.safetensors")


def read_network(path: Path, dtype: torch.dtype = torch.float32) -> Network:
    return hubert_ecg.from_tensors(*hubert_ecg.read_checkpoint(path), dtype=dtype, packed=dtype == torch.float32)


def map_tensors(config: dict[str, Any], tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return hubert_ecg.map_tensors(tensors, hubert_ecg.read_architecture(config, tensors), "x")


def save(folder: Path, config: dict[str, Any], tensors: dict[str, Tensor]) -> Path:
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    safetensors.torch.save_file(tensors, folder / "model.safetensors")
    return folder


def run(made: Network, signal: Tensor | np.ndarray, samples: Tensor | None = None) -> Output:
    with torch.inference_mode():
        output: Output = made(torch.as_tensor(signal), samples)
    return output


def largest(actual: Tensor | None, expected: np.ndarray | Tensor) -> float:
    assert actual is not None
    return float((actual - torch.as_tensor(expected)).abs().max())


# The golden numbers


@pytest.mark.parametrize(
    "size", ["tiny", pytest.param("small", marks=pytest.mark.slow), pytest.param("base", marks=pytest.mark.slow)]
)
def test_embeddings_are_those_of_the_authors_code(
    size: str, golden: dict[str, np.ndarray], checkpoint: Callable[[str], Path]
) -> None:
    made = read_network(checkpoint(size))
    output = run(made, golden["input"])
    assert output.logits is None
    assert largest(output.embedding, golden[f"{size}_embedding"]) < TOLERANCE
    # Of the older order of steps the golden file has the inputs of the first two windows.
    older = run(made, golden["input_2024_first2"])
    assert largest(older.embedding, golden[f"{size}_2024_embedding"][:2]) < TOLERANCE
    assert largest(older.embedding, golden[f"{size}_embedding"][:2]) > TOLERANCE


@pytest.mark.parametrize("size", ["tiny_sft", pytest.param("small_sft", marks=pytest.mark.slow)])
def test_logits_are_those_of_the_authors_code(
    size: str, golden: dict[str, np.ndarray], checkpoint: Callable[[str], Path]
) -> None:
    output = run(read_network(checkpoint(size)), golden["input"])
    assert largest(output.logits, golden[f"{size}_logits"]) < TOLERANCE
    assert output.logits is not None
    assert largest(torch.sigmoid(output.logits), golden[f"{size}_probability"]) < TOLERANCE


def test_a_window_alone_and_in_a_batch_is_the_same(
    golden: dict[str, np.ndarray], checkpoint: Callable[[str], Path]
) -> None:
    made, signal = read_network(checkpoint("tiny_sft")), torch.from_numpy(golden["input"])
    every = run(made, signal)
    for at in (0, 5, 13):
        for key, tensor in run(made, signal[at : at + 1])._asdict().items():
            assert largest(tensor[0], getattr(every, key)[at]) < 2e-6, key


def test_leads_end_to_end_may_come_as_a_row_one_channel_or_twelve(
    golden: dict[str, np.ndarray], checkpoint: Callable[[str], Path]
) -> None:
    made, signal = read_network(checkpoint("tiny")), torch.from_numpy(golden["input"][:2])
    expected = run(made, signal)
    for shape in ((2, 1, 6000), (2, 12, 500)):
        assert torch.equal(run(made, signal.view(shape)).embedding, expected.embedding)


def test_half_precision_keeps_the_outputs_float32_and_near(
    golden: dict[str, np.ndarray], checkpoint: Callable[[str], Path]
) -> None:
    half = read_network(checkpoint("tiny_sft"), torch.bfloat16)
    kept = {name.rpartition(".")[0] for name, tensor in half.named_parameters() if tensor.dtype == torch.float32}
    assert kept == {"convolutions.layers.0", "convolutions.norm", "position.conv", "head"}
    output = run(half, golden["input"])
    assert output.logits is not None
    assert output.logits.dtype == output.embedding.dtype == torch.float32
    assert largest(torch.sigmoid(output.logits), golden["tiny_sft_probability"]) < 0.02


# Traps


def test_nothing_is_masked_whatever_is_said_of_padding(
    golden: dict[str, np.ndarray], checkpoint: Callable[[str], Path]
) -> None:
    made = read_network(checkpoint("tiny_sft"))
    output = run(made, golden["short"], torch.tensor([3840]))
    assert largest(output.logits, golden["short_nomask_logits"]) < TOLERANCE
    assert output.attention is not None
    assert bool((output.attention > 0).all())


def test_attention_is_the_last_layers_mean_over_heads_and_maximum_over_keys(
    golden: dict[str, np.ndarray], checkpoint: Callable[[str], Path]
) -> None:
    """Computed once more with nothing but PyTorch's functions and the file's own tensors."""
    path = checkpoint("tiny")
    arch, _ = hubert_ecg.read_checkpoint(path)
    file = safetensors.torch.load_file(path / "model.safetensors")
    signal = torch.from_numpy(golden["input"][:3])
    expected_embedding, expected = forward_plainly(file, signal, arch.heads, arch.layers, arch.position_groups)
    output = run(read_network(path), signal)
    assert largest(output.embedding, expected_embedding) < 1e-5
    assert largest(output.attention, expected) < 1e-5
    assert expected.shape == (3, 93)


def forward_plainly(
    file: dict[str, Tensor], signal: Tensor, heads: int, layers: int, groups: int
) -> tuple[Tensor, Tensor]:
    """HubertModel by PyTorch's functions: (batch, 6000) to the embedding and the attention."""

    def linear(x: Tensor, name: str) -> Tensor:
        return F.linear(x, file[f"{name}.weight"], file[f"{name}.bias"])

    def norm(x: Tensor, name: str) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], file[f"{name}.weight"], file[f"{name}.bias"])

    x = signal[:, None]
    for i, stride in enumerate((4, 2, 2, 2, 2)):
        at = f"feature_extractor.conv_layers.{i}"
        x = F.conv1d(x, file[f"{at}.conv.weight"], stride=stride)
        if i == 0:
            x = F.group_norm(x, x.shape[1], file[f"{at}.layer_norm.weight"], file[f"{at}.layer_norm.bias"])
        x = F.gelu(x)
    x = linear(norm(x.transpose(1, 2), "feature_projection.layer_norm"), "feature_projection.projection")
    conv = "encoder.pos_conv_embed.conv"
    length, direction = (file[f"{conv}.parametrizations.weight.original{i}"] for i in (0, 1))
    weight = length * direction / direction.square().sum((0, 1), keepdim=True).sqrt()
    position = F.conv1d(x.transpose(1, 2), weight, file[f"{conv}.bias"], padding=weight.shape[2] // 2, groups=groups)
    x = norm(x + F.gelu(position[..., : x.shape[1]]).transpose(1, 2), "encoder.layer_norm")
    shares = torch.empty(0)
    for i in range(layers):
        at = f"encoder.layers.{i}"
        q, k, v = (linear(x, f"{at}.attention.{n}_proj").view(*x.shape[:2], heads, -1).transpose(1, 2) for n in "qkv")
        shares = torch.softmax(q @ k.transpose(2, 3) * q.shape[3] ** -0.5, dim=-1)  # (batch, heads, tokens, keys)
        mixed = (shares @ v).transpose(1, 2).flatten(2)
        x = norm(x + linear(mixed, f"{at}.attention.out_proj"), f"{at}.layer_norm")
        hidden = F.gelu(linear(x, f"{at}.feed_forward.intermediate_dense"))
        x = norm(x + linear(hidden, f"{at}.feed_forward.output_dense"), f"{at}.final_layer_norm")
    return x.mean(dim=1), shares.mean(dim=1).amax(dim=-1)


def test_the_projection_is_there_where_the_widths_are_equal(checkpoint: Callable[[str], Path]) -> None:
    arch, _ = hubert_ecg.read_checkpoint(checkpoint("tiny"))
    equal = hubert_ecg.Architecture(**{**vars(arch), "conv_layers": tuple((48, k, s) for _, k, s in arch.conv_layers)})
    assert Network(equal).state_dict()["project.weight"].shape == (48, 48)


def test_dropout_and_masks_of_training_are_not_there(config: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    assert config["mask_time_prob"] == 0.0
    arch = hubert_ecg.read_architecture({**config, "mask_time_prob": 0.33, "hidden_dropout": 0.5}, tensors)
    made = hubert_ecg.from_tensors(arch, hubert_ecg.map_tensors(tensors, arch))
    assert not made.training
    assert not any(isinstance(module, torch.nn.Dropout) for module in made.modules())


# Files


def test_both_spellings_of_the_weight_norm_give_the_same(config: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    expected = map_tensors(config, tensors)
    older = {
        name.replace("parametrizations.weight.original0", "weight_g").replace(
            "parametrizations.weight.original1", "weight_v"
        ): tensor
        for name, tensor in tensors.items()
    }
    assert older.keys() != tensors.keys()
    actual = map_tensors(config, older)
    assert all(torch.equal(actual[name], tensor) for name, tensor in expected.items())
    with pytest.raises(EcgpipeError, match=r"left over: [^,]*weight_g, [^,]*weight_v;"):
        map_tensors(config, {**tensors, **older})


def test_an_odd_kernel_and_older_names_are_read(checkpoint: Callable[[str], Path]) -> None:
    arch, tensors = hubert_ecg.read_checkpoint(checkpoint("odd_sft"))
    assert (arch.position_kernel, arch.position_groups, arch.labels, arch.heads) == (31, 8, 164, 8)
    assert tensors.keys() == Network(arch).state_dict().keys()


@pytest.mark.parametrize("sizes", [20, [20], [30, 50], None])
def test_the_number_of_clusters_may_be_written_in_any_way(
    sizes: object, checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    path = checkpoint("tiny")
    config = json.loads((path / "config.json").read_text(encoding="utf-8"))
    save(tmp_path, {**config, "vocab_sizes": sizes}, safetensors.torch.load_file(path / "model.safetensors"))
    assert hubert_ecg.read_checkpoint(tmp_path)[0] == hubert_ecg.read_checkpoint(path)[0]


@pytest.mark.parametrize("prefix", ["", "hubert_ecg.", "module.hubert_ecg.", "hubert."])
@pytest.mark.parametrize("head", ["outside", "inside"])
def test_the_prefix_of_network_and_head_is_found(
    prefix: str, head: str, config: dict[str, Any], tensors: dict[str, Tensor]
) -> None:
    expected = map_tensors(config, tensors)
    outside = prefix if head == "inside" else prefix.removesuffix("hubert_ecg.").removesuffix("hubert.")
    renamed = {
        outside + name if name.startswith("classifier") else prefix + name.removeprefix("hubert_ecg."): tensor
        for name, tensor in tensors.items()
    }
    assert hubert_ecg.recognise(renamed)
    actual = map_tensors(config, renamed)
    assert all(torch.equal(actual[name], tensor) for name, tensor in expected.items())


def test_every_tensor_that_does_not_fit_is_named_once_and_sorted(
    config: dict[str, Any], tensors: dict[str, Tensor]
) -> None:
    del tensors["hubert_ecg.encoder.layers.1.attention.q_proj.bias"], tensors["hubert_ecg.encoder.layer_norm.weight"]
    tensors["classifier.weight"] = torch.ones(163, 48)
    tensors["z"], tensors["classifier.2.weight"] = torch.ones(1), torch.ones(1)
    with pytest.raises(EcgpipeError) as error:
        map_tensors(config, tensors)
    assert str(error.value).startswith(
        "checkpoint: the tensors of x are not those of the HuBERT-ECG network in its config.json: missing: "
        "hubert_ecg.encoder.layer_norm.weight, hubert_ecg.encoder.layers.1.attention.q_proj.bias; left over: "
        "classifier.2.weight, z; of another shape: classifier.weight ((163, 48) instead of (164, 48)); give the folder"
    )


def test_each_tensor_that_is_missing_or_of_another_shape_is_the_only_one_named(
    config: dict[str, Any], tensors: dict[str, Tensor]
) -> None:
    for name in (name for name in tensors if name != "hubert_ecg.masked_spec_embed"):
        without = {other: tensor for other, tensor in tensors.items() if other != name}
        with pytest.raises(EcgpipeError, match=rf": missing: {name.replace('.', '[.]')}; give"):
            map_tensors(config, without)
        with pytest.raises(EcgpipeError) as error:
            map_tensors(config, {**tensors, name: tensors[name][..., None]})
        assert f": of another shape: {name} (" in str(error.value)
        assert str(error.value).count("instead of") == 1


def test_another_familys_file_is_refused(
    reference: Path, tmp_path: Path, config: dict[str, Any], tensors: dict[str, Tensor]
) -> None:
    other = find_tensors(load_pickled(make_checkpoint(reference, "ecgfounder", "tiny", tmp_path)))
    assert hubert_ecg.recognise(tensors)
    assert not hubert_ecg.recognise(other)
    assert not ecgfounder.recognise(tensors)
    speech = {**tensors, "hubert_ecg.feature_extractor.conv_layers.5.conv.weight": torch.ones(1)}
    assert not hubert_ecg.recognise(speech)
    with pytest.raises(EcgpipeError, match="are not those of HuBERT-ECG"):
        map_tensors(config, other)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("do_stable_layer_norm", True, "do_stable_layer_norm in .* is True"),
        ("hidden_act", "relu", "hidden_act in .* is 'relu'"),
        ("hidden_size", "48", "hidden_size in .* is \\['48'\\]"),
        ("num_hidden_layers", 10**9, "num_hidden_layers in .* is"),
        ("num_attention_heads", 5, "not a multiple of num_attention_heads"),
        ("conv_stride", [4, 2, 2, 2], "have 5, 5 and 4 entries"),
        ("conv_kernel", None, "conv_kernel in .* is None"),
        ("conv_bias", 3, "conv_bias in .* is 3"),
    ],
)
def test_a_configuration_that_is_not_valid_is_refused_with_its_value(
    key: str, value: object, message: str, config: dict[str, Any], tensors: dict[str, Tensor], tmp_path: Path
) -> None:
    with pytest.raises(EcgpipeError, match=message):
        hubert_ecg.read_checkpoint(save(tmp_path, {**config, key: value}, tensors))


def test_a_damaged_folder_is_refused(config: dict[str, Any], tensors: dict[str, Tensor], tmp_path: Path) -> None:
    weights = save(tmp_path, config, tensors) / "model.safetensors"
    assert hubert_ecg.read_checkpoint(weights)[0] == hubert_ecg.read_checkpoint(tmp_path)[0]
    weights.write_bytes(weights.read_bytes()[:50_000])
    with pytest.raises(EcgpipeError, match="is incomplete"):
        hubert_ecg.read_checkpoint(tmp_path)
    weights.unlink()
    with pytest.raises(EcgpipeError, match=r"cannot read .*model\.safetensors"):
        hubert_ecg.read_checkpoint(tmp_path)
    save(tmp_path, config, tensors)
    for content, message in (("{", "is not valid JSON"), ("[]", "is not a configuration")):
        (tmp_path / "config.json").write_text(content, encoding="utf-8")
        with pytest.raises(EcgpipeError, match=message):
            hubert_ecg.read_checkpoint(tmp_path)
    (tmp_path / "config.json").unlink()
    with pytest.raises(EcgpipeError, match=r"cannot read .*config\.json"):
        hubert_ecg.read_checkpoint(tmp_path)


def test_an_older_file_that_holds_a_configuration_object_is_refused_with_the_safe_way_out(
    tensors: dict[str, Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = ModuleType("hubert_ecg_stand_in")
    module.HuBERTECGConfig = type("HuBERTECGConfig", (), {"__module__": module.__name__})  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    path = tmp_path / "hubert_ecg_small.pt"
    torch.save({"model_config": module.HuBERTECGConfig(), "model_state_dict": tensors}, path)
    with pytest.raises(EcgpipeError) as error:
        hubert_ecg.read_checkpoint(path)
    assert "asks for hubert_ecg_stand_in.HuBERTECGConfig, which is code and not data: refused" in str(error.value)
    assert "model.safetensors of hf://Edoardo-BS/hubert-ecg-" in str(error.value)
