"""A sixth family, a plain ResNet, is a folder of its own: the stages run it, and nothing else names it."""

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scipy.io
import stages
import torch

from ecgpipe import ECGFM, models
from ecgpipe.core.errors import EcgpipeError
from ecgpipe.core.user_settings import Config
from ecgpipe.models import list_models, networks, registry
from ecgpipe.preprocessing.transform import transform
from ecgpipe.selftest.verify_model import verify_model
from ecgpipe.workflow import model_choice

FAMILY = '''
"""A plain ResNet over eight leads at 100 Hz."""

from dataclasses import dataclass

from ecgpipe.core.model_input import Butterworth, Cut, Linear, ModelInput, Pad, Standardize
from ecgpipe.models.peek import find_prefix

INPUT = ModelInput(
    leads=("I", "II", "V1", "V2", "V3", "V4", "V5", "V6"),
    rate=100,
    window_s=4,
    steps=(Linear(100), Butterworth(2, (0.5, 40)), Cut(), Standardize("lead"), Pad()),
)
FILES = ("resnet.pt",)
LABELS = {3: "labels.csv"}
MARKERS = ("stem.weight", "block.conv1.weight", "block.conv2.weight")


@dataclass(frozen=True)
class Architecture:
    in_leads: int
    width: int
    labels: int

    @property
    def token_samples(self):
        return 3, 3

    def tokens(self, samples):
        return 0


def recognise(tensors, content=None):
    return find_prefix(tensors, MARKERS) is not None


def count_outputs(tensors):
    return tensors["head.weight"].shape[0]
'''

FACTS = """
from dataclasses import replace

from ecgpipe.models.ecg_jepa.facts import FACTS as OTHER

FACTS = replace(OTHER, title="Plain ResNet")
"""

NETWORK = """
import torch
from torch import nn

from ecgpipe.models.output import Output
from ecgpipe.models.plain_resnet.family import Architecture
from ecgpipe.models.tensors import check_tensors, find_tensors, load_pickled


class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv1d(width, width, 5, padding=2), nn.Conv1d(width, width, 5, padding=2)

    def forward(self, x):
        return torch.relu(x + self.conv2(torch.relu(self.conv1(x))))


class Network(nn.Module):
    def __init__(self, arch):
        super().__init__()
        self.arch = arch
        self.stem, self.block = nn.Conv1d(arch.in_leads, arch.width, 7, stride=2), Block(arch.width)
        self.head = nn.Linear(arch.width, arch.labels)

    def forward(self, signal, samples=None, with_attention=True):
        embedding = self.block(self.stem(signal)).mean(dim=2)
        return Output(self.head(embedding).float(), embedding.float(), None)


def read_checkpoint(path):
    tensors = find_tensors(load_pickled(path))
    arch = Architecture(tensors["stem.weight"].shape[1], *tensors["head.weight"].shape[::-1])
    expected = {name: tuple(tensor.shape) for name, tensor in Network(arch).state_dict().items()}
    check_tensors(tensors, expected, (), f"checkpoint: {path} is not a plain ResNet", "give another file")
    return arch, dict(tensors)


def from_tensors(arch, tensors, device="cpu", dtype=torch.float32, packed=True):
    network = Network(arch)
    network.load_state_dict(dict(tensors))
    return network.to(device, dtype).eval().requires_grad_(False)
"""


@pytest.fixture
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A checkpoint of the sixth family, whose folder is there as long as the test runs."""
    folder = tmp_path / "families" / "plain_resnet"
    folder.mkdir(parents=True)
    (folder / "__init__.py").touch()
    for name, code in {"family": FAMILY, "facts": FACTS, "network": NETWORK}.items():
        (folder / f"{name}.py").write_text(code)
    (folder / "labels.csv").write_text("name,aggregation\nNormal,mean\nInfarction,max\nHypertrophy,mean\n")
    monkeypatch.setattr(models, "__path__", [*models.__path__, str(folder.parent)])
    family, network = (registry.import_part("plain-resnet", part) for part in ("family", "network"))
    torch.manual_seed(2)
    path = tmp_path / "resnet.pt"
    torch.save({"model": network.Network(family.Architecture(8, 12, 3)).state_dict()}, path)
    yield path
    for part in ("", ".family", ".facts", ".network"):
        sys.modules.pop(f"ecgpipe.models.plain_resnet{part}", None)


def test_the_stages_run_it_by_its_folder_alone(weights: Path, reference: Path, tmp_path: Path) -> None:
    files = sorted((reference / "code15").glob("*.mat"))[:4]
    settings = model_choice.apply_model(Config(input="", checkpoint=str(weights)))
    assert (settings.model, settings.preprocess.segment_s) == ("plain-resnet", 4)
    assert settings.report.title == "Plain ResNet results"
    labels = model_choice.choose_labels(settings)
    description = stages.convert(tmp_path / "model", weights, labels=labels)
    assert (description.family, description.labels) == ("plain-resnet", ("Normal", "Infarction", "Hypertrophy"))
    segments = stages.preprocess_shards(tmp_path / "segments", description, [files[:1], files[1:]])
    records = pd.concat(pd.read_parquet(path) for path in sorted((tmp_path / "segments").glob("records-*")))
    assert records["status"].tolist() == ["ok"] * 4
    assert records["n_segments"].tolist() == [int(seconds / 4) for seconds in records["duration_s"]]
    outputs = stages.infer_segments(tmp_path / "model", segments, tmp_path / "out")
    assert outputs.attention is None
    assert list(outputs.logits.columns[3:]) == list(description.labels)

    model = ECGFM.from_checkpoint(weights)
    signal = scipy.io.loadmat(files[2])["feats"].astype(float)
    rows = outputs.logits["record_id"] == files[2].stem
    leads = registry.find_family("ecg-fm").declaration.INPUT.leads
    np.testing.assert_allclose(model.logits(signal, 400, leads), outputs.logits[rows].iloc[:, 3:], rtol=0, atol=1e-5)
    windows = transform(signal[list(description.model_input.lead_rows)], 400, description.model_input).windows
    network = networks.load_network(description, tmp_path / "model" / "model.safetensors")
    np.testing.assert_allclose(
        network(torch.from_numpy(windows)).embedding,
        np.stack(list(outputs.embeddings["embedding"][rows])),
        rtol=0,
        atol=1e-5,
    )


def test_commands_know_it_too(weights: Path, tmp_path: Path) -> None:
    assert any(
        line.split()[:6] == ["plain-resnet", *["8", "leads,", "100", "Hz,", "4"]] for line in list_models.list_models()
    )
    assert list_models.describe_family(registry.find_family("plain-resnet"))[0] == "plain-resnet: Plain ResNet"
    assert "highest logits: " in verify_model("plain-resnet", str(weights), {})[-1]
    with pytest.raises(EcgpipeError, match="is a checkpoint of Plain ResNet, not of ecg-jepa; use model=plain-resnet"):
        stages.convert(tmp_path / "other", weights, "ecg-jepa")


def test_it_is_gone_with_its_folder() -> None:
    assert "plain-resnet" not in registry.list_families()
