"""The families are found by their folders, told apart by their tensors, and described by facts with sources."""

import runpy
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from ecgpipe import models
from ecgpipe.core.errors import EcgpipeError
from ecgpipe.models import registry
from ecgpipe.models.tensors import find_tensors

FAMILIES = ("deepecg-ssl", "ecg-fm", "ecg-jepa", "ecgfounder", "ecgfounder-lead1", "hubert-ecg")

# What make_checkpoint.py of each family writes, and the family that its tensors tell.
FILES = [
    ("ecg_jepa", "tiny", "ecg-jepa"),
    ("ecgfounder", "tiny", "ecgfounder"),
    ("deepecg_ssl", "tiny77", "deepecg-ssl"),
    ("hubert_ecg", "tiny_sft", "hubert-ecg"),
    ("deepecg_ssl", "tiny1", "ecg-fm"),  # nothing in its tensors says otherwise
    ("deepecg_ssl", "tiny_ssl", "ecg-fm"),
]


def saved(reference: Path, family: str, variant: str) -> dict[str, Tensor]:
    script = runpy.run_path(str(reference / "models" / family / "make_checkpoint.py"))
    content = script["state"](variant)
    if family == "hubert_ecg":  # config.json and the arrays of model.safetensors
        return {name: torch.from_numpy(np.array(array)) for name, array in content[1].items()}
    return find_tensors(content)


def test_every_folder_with_a_family_is_one() -> None:
    assert registry.list_families() == FAMILIES


@pytest.mark.parametrize(("family", "variant", "name"), FILES)
def test_the_tensors_tell_the_family(family: str, variant: str, name: str, reference: Path) -> None:
    assert registry.recognise_file(saved(reference, family, variant)) == name


def test_ecg_fms_own_files_are_recognised(reference: Path) -> None:
    script = runpy.run_path(str(reference / "make_checkpoint.py"))
    assert registry.recognise_file(find_tensors(script["state"]("tiny"))) == "ecg-fm"


@pytest.mark.parametrize("tensors", [{}, {"weight": torch.zeros(2)}, {"norm.weight": torch.zeros(2)}])
def test_an_unknown_file_is_refused_with_the_families_that_are_known(tensors: dict[str, Tensor]) -> None:
    with pytest.raises(EcgpipeError, match=r"x\.pt is not .* that ecgpipe knows \(deepecg-ssl, ecg-fm, "):
        registry.recognise_file(tensors, "x.pt")


@pytest.mark.parametrize("wanted", FAMILIES)
@pytest.mark.parametrize(("family", "variant", "name"), FILES[:4])
def test_another_familys_file_is_refused_by_its_name(
    family: str, variant: str, name: str, wanted: str, reference: Path
) -> None:
    tensors = saved(reference, family, variant)
    alike = {("ecg-fm", "deepecg-ssl"), ("ecgfounder-lead1", "ecgfounder")}  # the checkpoint stage counts the leads
    if wanted == name or (wanted, name) in alike:  # anyone can fine-tune ECG-FM to 77 outputs
        registry.refuse_other_family(tensors, wanted)
        return
    with pytest.raises(EcgpipeError, match=rf"x\.pt is a checkpoint of .*, not of {wanted}; use model={name}"):
        registry.refuse_other_family(tensors, wanted, "x.pt")


@pytest.mark.parametrize("variant", ["tiny1", "tiny_ssl"])
def test_what_the_tensors_do_not_tell_is_the_users_to_say(variant: str, reference: Path) -> None:
    for name in ("deepecg-ssl", "ecg-fm"):
        registry.refuse_other_family(saved(reference, "deepecg_ssl", variant), name)


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(EcgpipeError, match="model: 'ecg-gpt' is unknown; give one of deepecg-ssl, ecg-fm, ecg-jepa"):
        registry.read_facts("ecg-gpt")


@pytest.mark.parametrize("name", FAMILIES)
def test_every_fact_has_a_source_and_weights_an_address(name: str) -> None:
    facts = registry.read_facts(name)
    assert all(source for source in facts.sources.values())
    assert all(weights.address.startswith(("hf://", "https://")) for weights in facts.weights)
    assert facts.parameters > 1e7
    with pytest.raises(ValueError, match="sources of citation"):
        replace(facts, sources={key: source for key, source in facts.sources.items() if key != "citation"})


def test_the_registry_and_the_facts_need_no_pytorch() -> None:
    code = (
        "import sys; from ecgpipe.models import registry\n"
        "[registry.read_facts(name) for name in registry.list_families()]\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# Adding a sixth family touches its own folder alone.


@pytest.fixture
def sixth(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "st_mem"
    folder.mkdir()
    (folder / "__init__.py").touch()
    (folder / "family.py").write_text("def recognise(tensors, content):\n    return 'mask_embedding' in tensors\n")
    (folder / "facts.py").write_text(
        "from dataclasses import replace\nfrom ecgpipe.models.ecg_jepa.facts import FACTS as OTHER\n"
        "FACTS = replace(OTHER, title='ST-MEM')\n"
    )
    monkeypatch.setattr(models, "__path__", [*models.__path__, str(tmp_path)])
    for part in ("", ".family", ".facts"):  # of a test before this one
        monkeypatch.delitem(sys.modules, f"ecgpipe.models.st_mem{part}", raising=False)
    return folder


def test_a_sixth_family_is_found_by_its_folder(sixth: Path, reference: Path) -> None:
    assert registry.list_families() == (*FAMILIES, "st-mem")
    assert registry.read_facts("st-mem").title == "ST-MEM"
    assert registry.recognise_file({"mask_embedding": torch.zeros(2)}) == "st-mem"
    with pytest.raises(EcgpipeError, match="is a checkpoint of ST-MEM, not of ecg-fm; use model=st-mem"):
        registry.refuse_other_family({"mask_embedding": torch.zeros(2)}, "ecg-fm")
    assert registry.recognise_file(saved(reference, "ecg_jepa", "tiny")) == "ecg-jepa"


def test_two_families_that_both_recognise_a_file_leave_it_to_the_user(sixth: Path, reference: Path) -> None:
    (sixth / "family.py").write_text("def recognise(tensors, content):\n    return True\n")
    with pytest.raises(EcgpipeError, match="may be of ecg-jepa or st-mem; say which one it is by `model`"):
        registry.recognise_file(saved(reference, "ecg_jepa", "tiny"))


def test_a_folder_without_a_family_is_none(sixth: Path) -> None:
    (sixth / "family.py").unlink()
    assert registry.list_families() == FAMILIES
