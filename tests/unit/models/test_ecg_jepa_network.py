"""ECG-JEPA's network and the mapping of its checkpoints, against what the authors' own encoder computed."""

import re
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import cast

import numpy as np
import pytest
import scipy.io
import scipy.signal
import torch
from torch import Tensor

from ecgpipe.core.errors import EcgpipeError
from ecgpipe.models.ecg_jepa import network as ecg_jepa
from ecgpipe.models.ecg_jepa.network import LEADS, Block, Network
from ecgpipe.models.output import Output
from ecgpipe.models.tensors import find_tensors, load_pickled

SUBSETS = {"": LEADS, "_lead_ii": ("II",), "_i_v1_v5": ("I", "V1", "V5")}


@pytest.fixture(scope="session")
def folder(reference: Path) -> Path:
    return reference / "models" / "ecg_jepa"


@pytest.fixture(scope="session")
def checkpoint(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Write a checkpoint in the layout of the released files."""
    made, script = tmp_path_factory.mktemp("ecg_jepa"), runpy.run_path(str(folder / "make_checkpoint.py"))

    def write(variant: str) -> Path:
        path = made / f"{variant}.pth"
        if not path.exists():
            torch.save(script["state"](variant), path)
        return path

    return write


@pytest.fixture(scope="session")
def windows(reference: Path) -> Tensor:
    """The ten recordings as the README of the golden outputs prepares them, (10, 8, 2500)."""
    prepared = []
    for path in sorted((reference / "code15").glob("*.mat")):
        content = scipy.io.loadmat(path)
        signal, rate = content["feats"].astype(float), int(np.squeeze(content["org_sample_rate"]))
        signal = np.pad(signal, ((0, 0), (0, max(0, 10 * rate - signal.shape[1]))))
        signal = scipy.signal.resample(signal, int(500 / rate * signal.shape[1]), axis=1)[:, :5000]
        prepared.append(scipy.signal.resample(signal[[0, 1, *range(6, 12)]], 2500, axis=1))
    return torch.from_numpy(np.stack(prepared).astype(np.float32))


@pytest.fixture
def tiny(checkpoint: Callable[[str], Path]) -> dict[str, Tensor]:
    return saved_tensors(checkpoint("tiny"))


def saved_tensors(path: Path) -> dict[str, Tensor]:
    return find_tensors(load_pickled(path))


def network(tensors: dict[str, Tensor], leads: tuple[str, ...] = LEADS, packed: bool = True) -> Network:
    arch = ecg_jepa.read_architecture(tensors)
    return ecg_jepa.from_tensors(arch, ecg_jepa.map_tensors(tensors, arch), leads=leads, packed=packed)


def run(made: Network, signal: Tensor, *, with_attention: bool = True) -> Output:
    with torch.inference_mode():
        output: Output = made(signal, None, with_attention)
    return output


def faults(tensors: dict[str, Tensor]) -> str:
    """What is wrong with a checkpoint."""
    with pytest.raises(EcgpipeError) as caught:
        ecg_jepa.map_tensors(tensors, ecg_jepa.read_architecture(tensors, "x.pth"), "x.pth")
    return str(caught.value)


# Numbers


def test_the_windows_are_those_of_the_golden_outputs(windows: Tensor, folder: Path) -> None:
    golden = np.load(folder / "golden.npz")
    np.testing.assert_allclose(windows[:2], golden["first2"], rtol=0, atol=1e-5)
    np.testing.assert_allclose(windows[:, :, ::10], golden["every10"], rtol=0, atol=1e-5)


@pytest.mark.parametrize("variant", ["tiny", pytest.param("full", marks=pytest.mark.slow)])
@pytest.mark.parametrize("subset", SUBSETS)
def test_embeddings_are_those_of_the_authors_encoder(
    variant: str, subset: str, windows: Tensor, folder: Path, checkpoint: Callable[[str], Path]
) -> None:
    golden, leads = np.load(folder / "golden.npz"), SUBSETS[subset]
    if f"{variant}{subset}_embedding" not in golden:
        pytest.skip("has no golden output")
    made = network(saved_tensors(checkpoint(variant)), leads)
    output = run(made, windows[:, [LEADS.index(lead) for lead in leads]], with_attention=False)
    assert output.logits is None
    assert output.attention is None
    np.testing.assert_allclose(output.embedding, golden[f"{variant}{subset}_embedding"], rtol=0, atol=1e-4)


def test_an_embedding_that_is_no_sine_is_taken_from_the_file(
    checkpoint: Callable[[str], Path], windows: Tensor
) -> None:
    odd = saved_tensors(checkpoint("odd"))
    arch = ecg_jepa.read_architecture(odd)
    assert (arch.width, arch.layers, arch.heads, arch.hidden) == (144, 3, 3, 576)
    mapped = ecg_jepa.map_tensors(odd, arch)
    torch.testing.assert_close(mapped["positions"], odd["pos_embed"], rtol=0, atol=0)
    without = ecg_jepa.from_tensors(arch, {**mapped, "positions": torch.zeros(400, 144)})
    assert not torch.allclose(run(without, windows).embedding, run(network(odd), windows).embedding, atol=1e-2)


# Traps: each moves the embeddings far more than the tolerance.


def test_the_positional_embedding_is_added_before_every_block(tiny: dict[str, Tensor], windows: Tensor) -> None:
    made = network(tiny, packed=False)
    patches = windows[:1].reshape(1, 400, 50)
    with torch.inference_mode():
        x, seen = made.embed(patches), ecg_jepa.find_seen(8)
        for block in made.blocks:
            x, _ = block(x + made.positions, seen, False)
        every = made.norm(x).mean(dim=1)
        x = made.embed(patches) + made.positions
        for block in made.blocks:
            x, _ = block(x, seen, False)
        once = made.norm(x).mean(dim=1)
    torch.testing.assert_close(run(made, windows[:1]).embedding, every, rtol=0, atol=1e-5)
    assert (every - once).abs().max() > 0.1


def test_a_token_sees_its_lead_and_its_time() -> None:
    seen = ecg_jepa.find_seen(8)
    assert (seen.sum(dim=1) == 57).all()
    assert torch.equal(seen, seen.T)
    assert seen[0, :50].all()  # all of lead I
    assert seen[0, ::50].all()  # the first 0.2 s of each lead
    assert not seen[0, 51]
    # Fewer leads: the rows and columns of theirs.
    kept = torch.cat([torch.arange(50) + 50 * LEADS.index(lead) for lead in ("I", "V1", "V5")])
    assert torch.equal(ecg_jepa.find_seen(3), seen[kept][:, kept])
    assert ecg_jepa.find_seen(1).all()


def test_attention_is_that_of_pytorchs_own_layer(tiny: dict[str, Tensor], windows: Tensor) -> None:
    arch = ecg_jepa.read_architecture(tiny)
    made = network(tiny, packed=False)
    layer = torch.nn.MultiheadAttention(arch.width, arch.heads, batch_first=True)
    block, before = cast(Block, made.blocks[-1]), []
    block.attention_norm.register_forward_hook(lambda _module, _inputs, output: before.append(output))
    attention = run(made, windows[:2]).attention
    with torch.no_grad():
        layer.in_proj_weight.copy_(block.qkv.weight)
        layer.in_proj_bias.zero_()
        _, weights = layer(*[before[0]] * 3, attn_mask=~ecg_jepa.find_seen(8))
    assert attention is not None
    torch.testing.assert_close(attention, weights.amax(dim=-1), rtol=0, atol=1e-6)
    assert (attention >= 1 / 57).all()


def test_the_scale_of_the_input_matters(tiny: dict[str, Tensor], windows: Tensor) -> None:
    made = network(tiny)
    mv, uv = run(made, windows[:1]).embedding, run(made, 1000 * windows[:1]).embedding
    assert (mv - uv).abs().max() > 0.5


def test_zeros_at_the_end_are_signal(tiny: dict[str, Tensor], windows: Tensor) -> None:
    made = network(tiny)
    with torch.inference_mode():
        said, unsaid = made(windows[:2], torch.tensor([1834, 2500])), made(windows[:2])
    assert torch.equal(said.embedding, unsaid.embedding)
    assert torch.equal(said.attention, unsaid.attention)


def test_heads_are_48_wide(tiny: dict[str, Tensor]) -> None:
    assert ecg_jepa.read_architecture(tiny).heads == 2


# Batches, leads, gradients


@pytest.mark.parametrize("batch", [1, 3, 7])
def test_a_window_gets_the_same_in_any_batch(batch: int, tiny: dict[str, Tensor], windows: Tensor) -> None:
    made = network(tiny)
    whole = run(made, windows)
    parts = [run(made, windows[start : start + batch]) for start in range(0, 10, batch)]
    torch.testing.assert_close(torch.cat([part.embedding for part in parts]), whole.embedding, rtol=0, atol=1e-5)
    attention = torch.cat([part.attention for part in parts if part.attention is not None])
    torch.testing.assert_close(attention, whole.attention, rtol=0, atol=1e-5)


def test_neighbours_do_not_matter(tiny: dict[str, Tensor], windows: Tensor) -> None:
    made, other = network(tiny), windows[:3].clone()
    other[1:] *= 100
    expected = run(made, windows[:3]).embedding[0]
    torch.testing.assert_close(run(made, other).embedding[0], expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("leads", [(), ("II", "I"), ("I", "I"), ("I", "aVR"), ("V7",)])
def test_other_leads_are_refused(leads: tuple[str, ...], tiny: dict[str, Tensor]) -> None:
    with pytest.raises(EcgpipeError, match=r"leads: ECG-JEPA was given .*I II V1 V2 V3 V4 V5 V6"):
        network(tiny, leads)


@pytest.mark.parametrize("shape", [(1, 12, 2500), (1, 8, 2499), (1, 8, 5000)])
def test_another_window_is_refused(shape: tuple[int, ...], tiny: dict[str, Tensor]) -> None:
    with pytest.raises(ValueError, match="not \\(batch, 8, 2500\\)"):
        run(network(tiny), torch.zeros(shape))


def test_gradients_reach_the_input(tiny: dict[str, Tensor], windows: Tensor) -> None:
    signal = windows[:1].clone().requires_grad_()
    network(tiny, packed=False)(signal, None, False).embedding.sum().backward()
    assert signal.grad is not None
    assert (signal.grad.abs().amax(dim=(0, 2)) > 0).all()


def test_tokens_are_counted_lead_by_lead(tiny: dict[str, Tensor], windows: Tensor) -> None:
    arch = ecg_jepa.read_architecture(tiny)
    attention = run(network(tiny), windows[:1]).attention
    assert attention is not None
    assert attention.shape == (1, arch.tokens(2500)) == (1, 400)
    assert arch.token_samples == (50, 50)


# Files


@pytest.mark.parametrize("prefix", ["", "module.", "encoder."])
@pytest.mark.parametrize("nesting", [(), ("encoder",), ("checkpoint", "model")])
def test_tensors_are_found_wherever_they_are(
    prefix: str, nesting: tuple[str, ...], tiny: dict[str, Tensor], tmp_path: Path
) -> None:
    content: dict[str, object] = {f"{prefix}{name}": tensor for name, tensor in tiny.items()}
    for name in nesting:
        content = {name: content, "epoch": 99, "optimizer": {"state": {0: {"exp_avg": torch.zeros(3)}}}}
    torch.save(content, tmp_path / "x.pth")
    assert ecg_jepa.recognise(saved_tensors(tmp_path / "x.pth"))
    arch, mapped = ecg_jepa.read_checkpoint(tmp_path / "x.pth")
    expected = ecg_jepa.map_tensors(tiny, arch)
    assert mapped.keys() == expected.keys() == Network(arch).state_dict().keys()
    assert all(torch.equal(mapped[name], expected[name]) for name in expected)


def test_half_precision_becomes_float32(tiny: dict[str, Tensor]) -> None:
    mapped = ecg_jepa.map_tensors(
        {name: tensor.half() for name, tensor in tiny.items()}, ecg_jepa.read_architecture(tiny)
    )
    assert {tensor.dtype for tensor in mapped.values()} == {torch.float32}


def test_each_tensor_that_is_missing_is_named(tiny: dict[str, Tensor]) -> None:
    for name in tiny:
        message = faults({key: tensor for key, tensor in tiny.items() if key != name})
        assert f"missing: {name};" in message
        assert "left over" not in message
        assert "shape" not in message


def test_each_tensor_of_another_shape_is_named(tiny: dict[str, Tensor]) -> None:
    for name, tensor in tiny.items():
        message = faults(tiny | {name: torch.zeros(tensor.shape[0] + 1, *tensor.shape[1:])})
        assert re.search(rf"of another shape: {re.escape(name)} \([^;]*\);", message), message
        assert "missing" not in message
    assert "norm.bias (torch.int64 instead of (96,))" in faults(tiny | {"norm.bias": torch.zeros(96).long()})


def test_all_faults_are_in_one_message_sorted(tiny: dict[str, Tensor]) -> None:
    damaged = {
        name: tensor for name, tensor in tiny.items() if not name.endswith("1.norm1.bias") and name != "W_P.bias"
    }
    damaged |= {"pos_embed": torch.zeros(401, 96), "head.weight": torch.zeros(5, 96), "cls_token": torch.zeros(96)}
    assert faults(damaged) == (
        "checkpoint: the tensors of x.pth are not those of an ECG-JEPA encoder: missing: W_P.bias, "
        "encoder_blocks.blocks.1.norm1.bias; left over: cls_token, head.weight; of another shape: pos_embed "
        "((401, 96) instead of (400, 96)); give a checkpoint as the authors of ECG-JEPA saved it"
    )


def test_a_bias_of_qkv_is_left_over(tiny: dict[str, Tensor]) -> None:
    name = "encoder_blocks.blocks.0.attn.qkv.bias"
    assert f"left over: {name};" in faults(tiny | {name: torch.zeros(288)})


def test_a_width_that_no_heads_divide_is_refused(tiny: dict[str, Tensor]) -> None:
    narrow = {name: tensor[..., :40] if tensor.ndim == 2 else tensor[:40] for name, tensor in tiny.items()}
    assert "multiple of 48" in faults(narrow)


def test_a_number_in_a_name_does_no_harm(tiny: dict[str, Tensor]) -> None:
    for number in (10**5, 10**30):
        name = f"encoder_blocks.blocks.{number}.norm1.bias"
        assert "x.pth" in faults(tiny | {name: torch.zeros(96)})


def test_a_block_that_is_missing_in_between_is_named(tiny: dict[str, Tensor]) -> None:
    gap = {name.replace("blocks.1.", "blocks.2."): tensor for name, tensor in tiny.items()}
    assert faults(gap).count("blocks.1.") == 11


@pytest.mark.parametrize("family", ["deepecg_ssl", "ecgfounder"])
def test_another_familys_file_is_not_recognised(family: str, reference: Path, tmp_path: Path) -> None:
    variant = {"deepecg_ssl": "tiny77", "ecgfounder": "tiny"}[family]
    script = runpy.run_path(str(reference / "models" / family / "make_checkpoint.py"))
    torch.save(script["state"](variant), tmp_path / "x.pth")
    tensors = saved_tensors(tmp_path / "x.pth")
    assert tensors
    assert not ecg_jepa.recognise(tensors)
    assert faults(tensors).startswith("checkpoint: x.pth is not an ECG-JEPA checkpoint")
    with pytest.raises(EcgpipeError, match=r"x\.pth is not an ECG-JEPA checkpoint: it has no pos_embed"):
        ecg_jepa.read_checkpoint(tmp_path / "x.pth")


def test_the_context_encoder_is_taken_not_the_target_encoder(tiny: dict[str, Tensor], tmp_path: Path) -> None:
    target = {name: tensor + 1 for name, tensor in tiny.items()}
    torch.save({"target_encoder": target, "encoder": tiny}, tmp_path / "x.pth")
    _, mapped = ecg_jepa.read_checkpoint(tmp_path / "x.pth")
    assert torch.equal(mapped["norm.weight"], tiny["norm.weight"])
    both = (("encoder", tiny), ("target_encoder", target))
    flat = {f"{part}.{name}": tensor for part, tensors in both for name, tensor in tensors.items()}
    assert faults(flat).count("target_encoder.") == len(tiny)


def test_code_in_a_file_is_refused(tmp_path: Path) -> None:
    torch.save({"encoder": {}, "config": Path("x")}, tmp_path / "x.pth")
    with pytest.raises(EcgpipeError, match=r"asks for pathlib\.\w+, which is code and not data"):
        ecg_jepa.read_checkpoint(tmp_path / "x.pth")
