"""Which model a run is of, and which of its settings that decides, before any job."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import own_resnet
import pytest
import torch
from golden_models import make_checkpoint

from ecgpipe.core.errors import EcgpipeError
from ecgpipe.core.user_settings import Config
from ecgpipe.models import labels, registry
from ecgpipe.workflow import model_choice

OWN = Path(own_resnet.__file__)


@pytest.fixture(scope="module")
def made(reference: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], str]:
    folder = tmp_path_factory.mktemp("checkpoints")
    return lambda family, variant: str(make_checkpoint(reference, family, variant, folder))


def choose(**given: Any) -> Config:  # noqa: ANN401, settings of a run
    return model_choice.apply_model(Config.model_validate({"input": "", **given}))


def test_without_settings_it_is_ecg_fm_as_ever() -> None:
    settings = choose()
    default = Config(input="")
    assert settings == default.model_copy(update={"model": "ecg-fm"})
    assert model_choice.describe_model(settings, is_named=False) == []
    assert model_choice.choose_labels(settings) == default.labels


@pytest.mark.parametrize(
    ("family", "variant", "name", "segment_s", "attention", "csv"),
    [
        ("ecgfounder", "tiny", "ecgfounder", 10, False, labels.BY_INDEX),
        ("deepecg_ssl", "tiny77", "deepecg-ssl", 10, True, "deepecg_ssl/labels.csv"),
        ("hubert_ecg", "tiny_sft", "hubert-ecg", 5, True, "hubert_ecg/labels.csv"),
        ("hubert_ecg", "tiny", "hubert-ecg", 5, True, labels.BY_INDEX),
        ("ecg_jepa", "tiny", "ecg-jepa", 10, True, labels.BY_INDEX),
    ],
)
def test_a_checkpoint_tells_its_family_and_that_the_rest(
    family: str,
    variant: str,
    name: str,
    segment_s: float,
    attention: bool,
    csv: str,
    made: Callable[[str, str], str],
) -> None:
    settings = choose(checkpoint=made(family, variant))
    assert settings.model == name
    assert settings.preprocess.segment_s == segment_s
    assert settings.inference.attention == attention
    assert settings.report.title == f"{registry.read_facts(name).title} results"
    assert model_choice.choose_labels(settings).endswith(csv)
    files = [path.name for path in model_choice.list_files(settings)]
    expected = ["model.safetensors", "config.json"] if family == "hubert_ecg" else [Path(settings.checkpoint).name]
    assert files == expected
    told = model_choice.describe_model(settings, is_named=False)
    assert told[0].startswith(f"model: {registry.read_facts(name).title}")
    assert told[0].endswith(", as its checkpoint tells; setting `model` names another")
    assert ("licence of these weights: CC BY-NC 4.0 (no commercial use)" in told) == (name == "hubert-ecg")
    again = model_choice.apply_model(settings)
    assert again == settings


@pytest.mark.parametrize("model", [name for name in registry.list_families() if name != "ecg-fm"])
def test_a_model_without_a_checkpoint_takes_its_default_weights_or_states_where_they_are(model: str) -> None:
    family = registry.find_family(model)
    if family.default_checkpoint is None:
        with pytest.raises(EcgpipeError, match=f"checkpoint: missing; download the weights of {model} and give their"):
            choose(model=model)
        with pytest.raises(EcgpipeError, match="--checkpoint: missing"):
            family.require_checkpoint("--checkpoint")
        return
    settings = choose(model=model)
    assert settings.checkpoint == family.default_checkpoint
    assert registry.find_by_address(settings.checkpoint) == model
    assert family.facts is not None
    has_labels = family.facts.weights[0].labels > 0
    assert (model_choice.choose_labels(settings) != labels.BY_INDEX) == has_labels
    assert choose(checkpoint=settings.checkpoint).model == model


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"model": "ecg-gpt"}, "model: 'ecg-gpt' is unknown; give one of deepecg-ssl, "),
        ({"model": "/nowhere/mine.py"}, "model: there is no file /nowhere/mine.py"),
        ({"checkpoint": "/nowhere/x.pt"}, "checkpoint: '/nowhere/x.pt' is not a file"),
        ({"preprocess": {"segment_s": 7}}, "preprocess.segment_s: 7 is not possible with ecgfounder, whose windows"),
        ({"inference": {"backend": "fairseq"}}, "inference.backend: fairseq computes networks of fairseq-signals"),
        ({"model_options": {"order": "2024"}}, "model_options: 'order' is not an option of ecgfounder; its option is"),
        ({"model_options": {"preprocessing": "x"}}, "model_options.preprocessing: 'x' is unknown to ecgfounder; give"),
        ({"model": "hubert-ecg"}, "is a checkpoint of ECGFounder, not of hubert-ecg; use model=ecgfounder"),
        (
            {"model": "ecg-jepa", "checkpoint": "hf://wanglab/ecg-fm/mimic_iv_ecg_pretrained.pt"},
            "is a checkpoint of ECG-FM, not of ecg-jepa; use model=ecg-fm",
        ),
    ],
)
def test_what_does_not_go_together_is_refused(
    given: dict[str, Any], says: str, made: Callable[[str, str], str]
) -> None:
    with pytest.raises(EcgpipeError) as refused:
        choose(**{"checkpoint": made("ecgfounder", "tiny"), **given})
    assert says in str(refused.value)


def test_no_padding_for_a_family_that_has_none(made: Callable[[str, str], str]) -> None:
    with pytest.raises(
        EcgpipeError, match=r"preprocess\.short: pad is not possible with hubert-ecg, whose authors have"
    ):
        choose(checkpoint=made("hubert_ecg", "tiny"), preprocess={"short": "pad"})


def test_a_folder_without_weights_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EcgpipeError, match=r"is not a file, and as a folder it has no mimic_iv_ecg_finetuned\.pt of"):
        choose(checkpoint=str(tmp_path))


def test_the_users_values_stay(made: Callable[[str, str], str], tmp_path: Path) -> None:
    (tmp_path / "mine.csv").write_text("name,aggregation\na,mean\n")
    given = {"report": {"title": "Mine"}, "labels": str(tmp_path / "mine.csv"), "preprocess": {"segment_s": 10}}
    settings = choose(checkpoint=made("deepecg_ssl", "tiny77"), model_options={"padding": "unmasked"}, **given)
    assert settings.report.title == "Mine"
    assert model_choice.choose_labels(settings) == str(tmp_path / "mine.csv")
    assert "(padding: unmasked)" in model_choice.describe_model(settings, is_named=True)[0]


def test_an_own_model_is_its_path(tmp_path: Path) -> None:
    torch.save(own_resnet.Network().state_dict(), tmp_path / "x.pt")
    settings = choose(checkpoint=str(tmp_path / "x.pt"), model=str(OWN))
    assert (settings.model, settings.preprocess.segment_s, settings.inference.attention) == (str(OWN), 10, False)
    assert settings.report.title == "own_resnet.py results"
    assert model_choice.choose_labels(settings) == labels.BY_INDEX
    with pytest.raises(EcgpipeError, match="checkpoint: missing"):
        choose(model=str(OWN))


@pytest.mark.parametrize(
    ("address", "outputs", "csv"),
    [
        ("hf://heartwise/WCR_LVEF_under_50", 1, "lvef_under_50.csv"),
        ("hf://heartwise/WCR_AFIB_5Y/x.pt", None, "afib_5y.csv"),
        ("hf://heartwise/WCR_other", 1, None),
        ("hf://heartwise/WCR_77_classes", 77, "labels.csv"),
    ],
)
def test_a_single_output_is_named_by_the_address(address: str, outputs: int | None, csv: str | None) -> None:
    found = registry.find_family("deepecg-ssl").find_labels(outputs, address)
    assert (found.name if found else None) == csv
