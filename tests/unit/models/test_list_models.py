"""`ecgpipe models`: the table of the models, and what is known of each."""

from pathlib import Path

import own_resnet
import pytest

from ecgpipe.cli import main
from ecgpipe.models import registry


def test_the_table_has_every_family(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models"]) == 0
    head, *rows = capsys.readouterr().out.splitlines()
    assert head.split()[:2] == ["model", "input"]
    names = registry.list_families()
    assert [row.split()[0] for row in rows[: len(names)]] == list(names)
    starts = {row.index(" lead") // 100 for row in rows[: len(names)]}
    assert starts == {0}
    assert "CC BY-NC 4.0 (no commercial use)" in "\n".join(rows)


@pytest.mark.parametrize("name", registry.list_families())
def test_a_model_is_described_with_input_weights_licences_and_command(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["models", name]) == 0
    said = capsys.readouterr().out
    facts = registry.read_facts(name)
    for what in ("Input", "Weights", "Licences", "Cite", facts.weights[0].address, f"model={name}"):
        assert what in said
    assert all(len(line) <= 112 or "://" in line for line in said.splitlines())
    family = registry.find_family(name)
    assert ("Options" in said) == bool(family.option)
    assert ("checkpoint=PATH" in said) == (family.default_checkpoint is None)


def test_an_own_model_is_described_by_its_input(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", str(Path(own_resnet.__file__))]) == 0
    assert "at 100 Hz, in windows of 10 s" in capsys.readouterr().out


def test_an_unknown_model_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "ecg-gpt"]) == 2
    assert "model: 'ecg-gpt' is unknown; give one of" in capsys.readouterr().err
