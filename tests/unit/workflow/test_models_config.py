"""The settings of a study: which models, what each has of its own, and what is refused."""

from pathlib import Path
from typing import Any

import golden_models
import pytest
import yaml

from ecgpipe.core import settings
from ecgpipe.core.errors import EcgpipeError
from ecgpipe.core.user_settings import Config
from ecgpipe.models import labels
from ecgpipe.workflow import stage_settings, validate
from ecgpipe.workflow.study_at_work import describe_padding

ROOT = Path(__file__).parents[3]


def load(tmp_path: Path, **given: object) -> validate.ModelsConfig:
    defaults: dict[str, Any] = yaml.safe_load((ROOT / "config" / "config.yaml").read_text())
    return validate.load_models({**defaults, "input": str(tmp_path), "outdir": str(tmp_path / "out"), **given}, ROOT)


def test_each_model_has_the_settings_of_its_run_by_itself(tmp_path: Path) -> None:
    found = load(tmp_path, models=["ecg-fm", "ecgfounder"], umap={"neighbors": 5})
    assert list(found.by_model) == ["ecg-fm", "ecgfounder"]
    for name, own in found.by_model.items():
        alone = {"input": str(tmp_path), "model": name, "outdir": str(tmp_path / "out" / name), "umap.neighbors": 5}
        assert own == validate.load(alone, ROOT)
    assert [own.preprocess.segment_s for own in found.by_model.values()] == [5, 10]
    assert found.shared.outdir == str(tmp_path / "out")


def test_a_model_has_the_same_settings_hashes_as_by_itself(tmp_path: Path) -> None:
    """So a finished run can be one of a study, and a study's folder is a run in every respect."""
    (tmp_path / "x.pt").write_bytes(b"a checkpoint")
    checkpoint = str(tmp_path / "x.pt")
    (study,) = load(tmp_path, models={"ecg-fm": {"checkpoint": checkpoint}}).by_model.values()
    alone = validate.load({"input": str(tmp_path), "outdir": str(tmp_path / "x"), "checkpoint": checkpoint}, ROOT)
    hashes = [
        {name: settings.hash_section(name, each) for name, each in stage_settings.derive_stages(one, "x", True).items()}
        for one in (study, alone)
    ]
    assert hashes[0] == hashes[1]


def test_a_model_is_named_freely_and_has_settings_of_its_own(tmp_path: Path) -> None:
    plain = {"model": "ecgfounder", "model_options": {"preprocessing": "plain"}}
    found = load(tmp_path, models={"plain": plain, "ecgfounder": None}).by_model
    assert [own.model for own in found.values()] == ["ecgfounder", "ecgfounder"]
    assert [own.model_options for own in found.values()] == [{"preprocessing": "plain"}, {}]
    assert found["plain"].outdir == str(tmp_path / "out" / "plain")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"models": ["ecg-fm", "ecg-fm"]}, "ecg-fm is there twice"),
        ({"models": {"manifest": None}}, "cannot be a model's name"),
        ({"models": {"a/b": None}}, "cannot be a model's name"),
        ({"models": 3}, "models: 3 is not valid"),
        ({"models": ["ecg-fn"]}, "models.ecg-fn.model: "),
        ({"models": {"ecg-fm": {"chekpoint": "x"}}}, "models.ecg-fm.chekpoint: no such setting; did you mean"),
        (
            {"models": {"ecg-fm": {"preprocess": {"short": "pad"}}}},
            "models.ecg-fm.preprocess: not of one model, as all",
        ),
        ({"models": {"ecg-fm": {"sample": 3}}}, "models.ecg-fm.sample: no such setting"),
        ({"models": ["ecg-fm"], "sample": 3}, "sample: no such setting"),
        ({"models.ecg-fm.checkpoint": "/nowhere.pt"}, "models.ecg-fm.checkpoint: '/nowhere.pt' is not a file"),
        ({"models": ["ecg-fm"], "checkpoint": "/x.pt"}, "checkpoint: given for all models"),
        ({"models": ["ecg-fm", "ecgfounder"], "preprocess": {"segment_s": 3}}, "preprocess.segment_s: 3 is not"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, given: dict[str, Any], said: str) -> None:
    with pytest.raises(EcgpipeError, match=f"^{said}|{said}"):
        load(tmp_path, **given)


def test_a_model_that_cannot_pad_skips_what_the_others_pad(tmp_path: Path, reference: Path) -> None:
    hubert = {"checkpoint": str(golden_models.make_checkpoint(reference, "hubert_ecg", "tiny_sft", tmp_path))}
    found = load(tmp_path, models={"ecg-fm": {}, "hubert-ecg": hubert}, preprocess={"short": "pad"}).by_model
    assert {name: own.preprocess.short for name, own in found.items()} == {"ecg-fm": "pad", "hubert-ecg": "skip"}
    assert describe_padding(found) == [
        "preprocess.short: pad is not possible with hubert-ecg (shorter than 5 s): skipped for it alone"
    ]
    assert describe_padding({"ecg-fm": found["ecg-fm"]}) == []
    alone = {"input": str(tmp_path), **hubert, "outdir": str(tmp_path / "out" / "hubert-ecg")}
    assert found["hubert-ecg"] == validate.load({**alone, "model": "hubert-ecg"}, ROOT)
    with pytest.raises(EcgpipeError, match=r"preprocess\.short: pad is not possible with any of these models"):
        load(tmp_path, models={"hubert-ecg": hubert}, preprocess={"short": "pad"})


def test_the_default_labels_stand_for_each_model_s_own_and_named_for_one_they_are_ecg_fms(
    tmp_path: Path, reference: Path
) -> None:
    hubert = {"checkpoint": str(golden_models.make_checkpoint(reference, "hubert_ecg", "tiny_sft", tmp_path))}
    default = Config(input="").labels
    models: dict[str, Any] = {"ecg-fm": {}, "hubert-ecg": hubert}
    expected = [ROOT / default, ROOT / "ecgpipe/models/hubert_ecg/labels.csv"]
    found = load(tmp_path, models=models, labels=default).by_model
    assert [
        labels.locate(own.labels, ROOT).samefile(path) for own, path in zip(found.values(), expected, strict=True)
    ] == [True, True]
    models["hubert-ecg"] = {**hubert, "labels": default}
    with pytest.raises(
        EcgpipeError, match=r"^models\.hubert-ecg\.labels: .*mimic_iv_ecg\.csv names 17 labels, and the"
    ):
        load(tmp_path, models=models)
    assert load(tmp_path, models={"ecg-fm": {"labels": default}}).by_model["ecg-fm"].labels == str(ROOT / default)


def test_a_study_is_told_from_a_run() -> None:
    assert validate.is_study({"models": ["ecg-fm"]})
    assert validate.is_study({"models.ecg-fm.checkpoint": "x.pt"})
    assert not validate.is_study({"models": {}, "model": "ecg-fm"})
