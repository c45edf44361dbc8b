"""A user's own model: one file with its input and its network, run only where it is named."""

from pathlib import Path

import numpy as np
import own_resnet
import pytest
import torch

from ecgpipe import ECGFM
from ecgpipe.core import settings
from ecgpipe.core.errors import EcgpipeError
from ecgpipe.core.leads import LEADS
from ecgpipe.models import checkpoint, networks, registry
from ecgpipe.models.description import describe
from ecgpipe.preprocessing.transform import transform

MODEL = Path(own_resnet.__file__)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(1)
    network = own_resnet.Network()
    network(torch.randn(4, 12, 1000))  # so that BatchNorm has statistics of its own
    path = tmp_path_factory.mktemp("own") / "resnet.pt"
    torch.save({"epoch": 3, "state_dict": {f"module.{k}": v for k, v in network.state_dict().items()}}, path)
    return path


def signal(samples: int = 5300) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((12, samples))


def expected(weights: Path, recording: np.ndarray) -> torch.Tensor:
    """What the network itself gives for the windows of a recording at 500 Hz."""
    network = own_resnet.Network().eval()
    state = torch.load(weights, weights_only=True)["state_dict"]
    network.load_state_dict({name.removeprefix("module."): tensor for name, tensor in state.items()})
    windows = transform(recording, 500, own_resnet.INPUT).windows
    with torch.no_grad():
        logits: torch.Tensor = network(torch.from_numpy(windows))[0]
    return logits


def test_python_gives_what_the_network_gives(weights: Path) -> None:
    model = ECGFM.from_checkpoint(weights, model=MODEL)
    assert [label.name for label in model.labels] == list(own_resnet.LABELS)
    logits = model.logits(signal(), 500, LEADS)
    np.testing.assert_allclose(logits.to_numpy(), expected(weights, signal()), atol=1e-5)
    assert model.embed(signal(), 500, LEADS).shape == (1, 16)
    assert model.predict(signal(), 500, LEADS).shape == (1, 3)
    with pytest.raises(EcgpipeError, match="no attention"):
        model.attention(signal(), 500, LEADS)


def test_the_checkpoint_stage_writes_what_other_stages_need_without_the_code(weights: Path, tmp_path: Path) -> None:
    given = settings.Checkpoint(source=str(weights), labels="index", model=str(MODEL))
    checkpoint.convert_checkpoint(tmp_path / "model.safetensors", tmp_path / "model.json", given)
    description = describe(tmp_path / "model.json")
    assert (description.family, description.labels) == ("own:own_resnet.py", own_resnet.LABELS)
    assert (description.architecture.width, description.tokens(1000)) == (16, 0)
    assert description.model_input == own_resnet.INPUT
    assert (tmp_path / "labels.csv").read_text().splitlines()[1] == "Normal,mean"
    network = networks.load_network(description, tmp_path / "model.safetensors", model=str(MODEL))
    windows = torch.from_numpy(transform(signal(), 500, own_resnet.INPUT).windows)
    torch.testing.assert_close(network(windows).logits, expected(weights, signal()), atol=1e-5, rtol=0)
    with pytest.raises(
        EcgpipeError, match=r"a user's own model, own_resnet\.py, whose code is run only where you name"
    ):
        networks.load_network(description, tmp_path / "model.safetensors")
    changed = tmp_path / "own_resnet.py"
    changed.write_text(MODEL.read_text() + "\n")
    with pytest.raises(EcgpipeError, match="is not the file of this run"):
        networks.load_network(description, tmp_path / "model.safetensors", model=str(changed))


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("1 / 0", "fails with ZeroDivisionError: division by zero"),
        ("x = 1", "needs INPUT, a ModelInput, and the class Network"),
    ],
)
def test_a_file_that_is_no_model_is_refused(code: str, says: str, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(code)
    with pytest.raises(EcgpipeError, match=f"model: .*mine.py {says}"):
        registry.find_family(str(tmp_path / "mine.py"))
    with pytest.raises(EcgpipeError, match="model: there is no file"):
        registry.find_family(str(tmp_path / "nowhere.py"))


def test_tensors_are_matched_strictly(weights: Path, tmp_path: Path) -> None:
    content = torch.load(weights, weights_only=True)
    del content["state_dict"]["module.head.bias"]
    content["state_dict"]["module.more"] = torch.zeros(1)
    torch.save(content, tmp_path / "x.pt")
    with pytest.raises(EcgpipeError, match=r"missing: head.bias; left over: more; give the checkpoint of that network"):
        ECGFM.from_checkpoint(tmp_path / "x.pt", model=MODEL)
