"""`ecgpipe verify --model`: what goes into a model and what comes out, step by step."""

from pathlib import Path

import own_resnet
import pytest
from golden_models import make_checkpoint

from ecgpipe.cli import main
from ecgpipe.core.errors import EcgpipeError
from ecgpipe.models import registry
from ecgpipe.selftest.verify_model import verify_model

OWN = Path(own_resnet.__file__)


@pytest.mark.parametrize("name", registry.list_families())
def test_every_family_is_shown_step_by_step(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", "--model", name]) == 0
    lines = capsys.readouterr().out.splitlines()
    declared = registry.find_family(name).declaration.INPUT
    table = lines[lines.index("") + 2 :][: len(declared.steps) + 1]
    assert table[0].startswith("the recording, in mV")
    assert [row.split("(")[0] for row in table[1:]] == [type(step).__name__ for step in declared.steps]
    rows, samples = declared.shape
    assert f" {rows} x {samples} " in table[-1]
    assert f" {declared.rate:g} " in table[-1]
    assert any(line.startswith("in microvolts: the same") for line in lines) == (declared.unit is None)
    assert lines[-1].startswith("what comes out: give --checkpoint")


def test_with_a_checkpoint_the_network_runs(
    reference: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = make_checkpoint(reference, "deepecg_ssl", "tiny77", tmp_path)
    given = ["--model", "deepecg-ssl", "--checkpoint", str(source), "--model-options", "padding=unmasked"]
    assert main(["verify", *given]) == 0
    said = capsys.readouterr().out
    assert "the same for a window alone and beside another one" in said
    assert "The network takes them for signal." in said
    assert [line.split()[1] for line in said.splitlines() if line.startswith(("logits", "embedding"))] == ["77", "48"]


def test_an_own_model_runs_without_a_checkpoint() -> None:
    lines = verify_model(str(OWN), None, {})
    assert "what comes out, weights as Network() draws them" in lines
    assert any(line.split()[:2] == ["logits", "3"] for line in lines)


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("torch.relu(self.norm1", "torch.relu(nn.BatchNorm1d(16)", "depends on the other windows of the batch"),
        ("nn.Conv1d(12, 16", "nn.Conv1d(8, 16", r"does not take a batch of \(2, 12, 1000\), as INPUT declares"),
        (".mean(dim=2)", ".mean(dim=2) / 0", "is not finite; its network does not suit its input"),
        ("return self.head(embedding), embedding", "return 3", "forward returns int; return logits"),
    ],
)
def test_a_network_that_does_not_work_is_refused_with_the_reason(old: str, new: str, says: str, tmp_path: Path) -> None:
    assert old in OWN.read_text()
    path = tmp_path / "mine.py"
    path.write_text(OWN.read_text().replace(old, new))
    with pytest.raises(EcgpipeError, match=says):
        verify_model(str(path), None, {})


def test_a_unit_that_decides_and_is_not_declared_is_reported(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(OWN.read_text().replace('Standardize("lead"), ', ""))
    assert any('give unit="mV" if that is wrong' in line for line in verify_model(str(path), None, {}))
