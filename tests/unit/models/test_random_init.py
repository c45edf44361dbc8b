"""A checkpoint of random weights like another one: its architecture, and how fairseq-signals draws weights."""

from pathlib import Path

import checkpoints
import pytest
import torch

from ecgpipe.cli import main
from ecgpipe.models import fairseq_checkpoint, random_init
from ecgpipe.models.description import Description, describe

LABELS = "name,aggregation\nA,mean\nB,mean\nC,mean\n"


def converted(folder: Path, source: Path) -> Description:
    (folder / "labels.csv").write_text(LABELS)
    made = {"--labels": "labels.csv", "--weights": "model.safetensors", "--description": "model.json"}
    options = [text for option, name in made.items() for text in (option, str(folder / name))]
    assert main(["checkpoint", "--source", str(source), *options]) == 0
    return describe(folder / "model.json")


@pytest.mark.parametrize("content", [checkpoints.classifier, checkpoints.pretrained])
def test_it_has_the_architecture_of_the_other_and_states_that_it_is_random(tmp_path: Path, content: object) -> None:
    like, made = tmp_path / "like.pt", tmp_path / "random.pt"
    like.write_bytes(checkpoints.saved(content()))  # type: ignore[operator]
    assert main(["untrained", "--like", str(like), "--output", str(made)]) == 0
    theirs, ours = converted(tmp_path, like), converted(tmp_path, made)
    assert ours.architecture == theirs.architecture
    assert (ours.random_weights, theirs.random_weights) == (True, False)
    assert ours.sha256 != theirs.sha256


def test_the_seed_alone_decides_on_the_weights(tmp_path: Path) -> None:
    like = tmp_path / "like.pt"
    like.write_bytes(checkpoints.saved(checkpoints.classifier()))
    written = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        path = tmp_path / f"{name}.pt"
        assert main(["untrained", "--like", str(like), "--seed", str(seed), "--output", str(path)]) == 0
        written.append(path.read_bytes())
    assert written[0] == written[1] != written[2]


def test_an_invalid_seed_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--like", str(tmp_path), "--seed", "-1", "--output", str(tmp_path / "x.pt")]
    assert main(["untrained", *options]) == 2
    assert "--seed is -1" in capsys.readouterr().err


def test_weights_are_drawn_as_fairseq_signals_draws_them() -> None:
    """What its modules say: see `random_init.weights`. A sample's standard deviation is off by 1 / sqrt(2 n)."""
    cfg = {**checkpoints.CFG, "encoder_embed_dim": 96, "encoder_ffn_embed_dim": 128, "num_labels": 40}
    cfg |= {"conv_feature_layers": "[(64, 2, 2)] * 2", "conv_bias": True, "encoder_layers": 1}
    arch = fairseq_checkpoint.read_architecture(cfg)
    tensors = random_init.draw_weights(arch, 0)
    fairseq_checkpoint.convert_tensors(tensors, arch, "here")  # every tensor is there, and no other
    layer = "encoder.encoder.layers.0"
    expected = {
        **{f"{layer}.self_attn.{name}_proj.weight": 0.02 for name in ("q", "k", "v", "out")},
        **{f"{layer}.{name}.weight": 0.02 for name in ("fc1", "fc2")},
        "encoder.feature_extractor.conv_layers.0.0.weight": (2 / (12 * 2)) ** 0.5,
        "encoder.feature_extractor.conv_layers.1.0.weight": (2 / (64 * 2)) ** 0.5,
        "encoder.feature_extractor.conv_layers.0.0.bias": (12 * 2) ** -0.5 / 3**0.5,
        "encoder.feature_extractor.conv_layers.1.0.bias": (64 * 2) ** -0.5 / 3**0.5,
        "encoder.post_extract_proj.weight": 64**-0.5 / 3**0.5,
        "encoder.post_extract_proj.bias": 64**-0.5 / 3**0.5,
        f"{checkpoints.POSITION}.parametrizations.weight.original1": (4 / (4 * 96)) ** 0.5,
        "proj.weight": (6 / (96 + 40)) ** 0.5 / 3**0.5,
    }
    for name, std in expected.items():
        count = tensors[name].numel()
        assert float(tensors[name].std()) == pytest.approx(std, rel=5 / (2 * count) ** 0.5), name
        assert abs(float(tensors[name].mean())) < 5 * std / count**0.5, name
    for name, tensor in tensors.items():
        if "norm" in name or ".0.2." in name:
            assert torch.equal(tensor, torch.full_like(tensor, float(name.endswith("weight")))), name
        elif name.endswith("bias") and name not in expected:
            assert not tensor.any(), name
    direction = tensors[f"{checkpoints.POSITION}.parametrizations.weight.original1"]
    length = tensors[f"{checkpoints.POSITION}.parametrizations.weight.original0"]
    torch.testing.assert_close(torch._weight_norm(direction, length, 2), direction)
