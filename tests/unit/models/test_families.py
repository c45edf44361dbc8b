"""Every family from Python and stage by stage: its authors' numbers, whatever the batch, shards and neighbours."""

import logging
import shutil
from collections.abc import Callable, Mapping
from io import StringIO
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pytest
import safetensors.torch
import scipy.io
import stages
import torch
from golden_models import ecgfounder_inputs, make_checkpoint
from scipy.special import expit

from ecgpipe import ECGFM
from ecgpipe.cli import main
from ecgpipe.core.errors import EcgpipeError
from ecgpipe.core.leads import LEADS
from ecgpipe.models import checkpoint, hub, registry
from ecgpipe.models.description import describe
from ecgpipe.models.ecgfounder import network as ecgfounder_network
from ecgpipe.models.tensors import find_tensors
from ecgpipe.preprocessing.segments import Windows

RATE = 400


class Case(NamedTuple):
    """A small checkpoint, how it is run, and the names of its golden numbers."""

    folder: str  # of shared/reference/models
    variant: str
    name: str  # of the family
    golden: str
    options: Mapping[str, str] = MappingProxyType({})
    pads: bool = True


CASES = (
    Case("ecgfounder", "tiny", "ecgfounder", "tiny_filtered"),
    Case("ecgfounder", "tiny", "ecgfounder", "tiny_plain", {"preprocessing": "plain"}),
    Case("deepecg_ssl", "tiny77", "deepecg-ssl", "tiny77_mv"),
    Case("deepecg_ssl", "tiny77", "deepecg-ssl", "tiny77_mv_nomask", {"padding": "unmasked"}),
    Case("hubert_ecg", "tiny_sft", "hubert-ecg", "tiny_sft", pads=False),
    Case("hubert_ecg", "tiny", "hubert-ecg", "tiny", pads=False),
    Case("hubert_ecg", "tiny", "hubert-ecg", "tiny_2024", {"order": "2024"}, pads=False),
    Case("ecg_jepa", "tiny", "ecg-jepa", "tiny"),
)
# One of each family.
FAMILIES = (CASES[0], CASES[2], CASES[4], CASES[7])


def name_of(case: Case) -> str:
    return case.golden


@pytest.fixture(scope="module")
def made(reference: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[Case], Path]:
    """The file or folder of a case's checkpoint, as the family's authors release it."""
    folder = tmp_path_factory.mktemp("checkpoints")
    return lambda case: make_checkpoint(reference, case.folder, case.variant, folder)


@pytest.fixture(scope="module")
def files(reference: Path) -> list[Path]:
    return sorted((reference / "code15").glob("*.mat"))


@pytest.fixture(scope="module")
def signals(files: list[Path]) -> list[np.ndarray]:
    return [scipy.io.loadmat(file)["feats"].astype(float) for file in files]


def load(source: Path, case: Case) -> ECGFM:
    """The model; where the case has no options, its tensors tell the family."""
    model = ECGFM.from_checkpoint(
        source, model=case.name if case.options else None, model_options=case.options, batch_size=4
    )
    assert model.description.family == case.name
    return model


def windows(case: Case) -> Windows | None:
    return Windows(short="pad") if case.pads else None


@pytest.mark.parametrize("case", CASES, ids=name_of)
def test_python_gives_the_authors_own_numbers(
    case: Case, made: Callable[[Case], Path], signals: list[np.ndarray], reference: Path
) -> None:
    golden = np.load(reference / "models" / case.folder / "golden.npz")
    model = load(made(case), case)
    embeddings = model.embed(signals, RATE, LEADS, windows(case), unit="mV")
    assert len(embeddings) == len(golden["record"])
    if f"{case.golden}_embedding" in golden:
        np.testing.assert_allclose(embeddings, golden[f"{case.golden}_embedding"], rtol=0, atol=1e-5)
    if f"{case.golden}_logits" in golden:
        logits = model.logits(signals, RATE, LEADS, windows(case), unit="mV")
        np.testing.assert_allclose(logits, golden[f"{case.golden}_logits"], rtol=0, atol=1e-5)
    else:
        with pytest.raises(EcgpipeError, match="has no head"):
            model.predict(signals, RATE, LEADS, windows(case), unit="mV")


def test_the_network_of_lead_i_takes_lead_i_alone(
    reference: Path, signals: list[np.ndarray], made: Callable[[Case], Path], tmp_path: Path
) -> None:
    """Its golden numbers are those of lead I of twelve, and hold its network; its input is scaled over lead I."""
    content = torch.load(made(CASES[0]), weights_only=True)
    first = content["state_dict"]["first_conv.conv.weight"]
    content["state_dict"]["first_conv.conv.weight"] = first[:, :1].contiguous()
    torch.save(content, tmp_path / "lead1.pth")
    model = ECGFM.from_checkpoint(tmp_path / "lead1.pth", batch_size=4)
    assert model.description.family == "ecgfounder-lead1"
    only_i = [signal[:1] for signal in signals]
    logits = model.logits(only_i, RATE, ["I"], Windows(short="pad"))
    x = ecgfounder_inputs(reference, "filtered")[:, :1].astype(float)  # (10, 1, 5000)
    x = (x - x.mean(axis=2, keepdims=True)) / x.std(axis=2, keepdims=True)
    arch, tensors = ecgfounder_network.read_checkpoint(tmp_path / "lead1.pth")
    with torch.inference_mode():
        expected = ecgfounder_network.from_tensors(arch, tensors)(torch.from_numpy(x.astype(np.float32))).logits
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-4)
    # Twelve leads or one: the model sees lead I alone.
    twelve = model.logits(signals[:1], RATE, LEADS, Windows(short="pad"))
    pd.testing.assert_frame_equal(twelve, logits.iloc[:1])
    with pytest.raises(EcgpipeError, match=r"missing.* I|I .*missing|leads"):
        model.logits(only_i[:1], RATE, ["V1"], Windows(short="pad"))
    with pytest.raises(EcgpipeError, match=r"takes 1 leads, and ecgfounder has 12; use model=ecgfounder-lead1, or"):
        stages.convert(tmp_path / "out", tmp_path / "lead1.pth", "ecgfounder")


@pytest.mark.parametrize("case", FAMILIES, ids=name_of)
def test_a_result_depends_neither_on_shards_nor_on_neighbours(
    case: Case, made: Callable[[Case], Path], files: list[Path], tmp_path: Path, reference: Path
) -> None:
    description = stages.convert(tmp_path / "model", made(case), case.name)
    short = {"short": "pad"} if case.pads else {}
    one = stages.preprocess_shards(tmp_path / "one", description, [files], **short)
    three = stages.preprocess_shards(tmp_path / "three", description, [files[4:], files[:1], files[1:4]], **short)
    whole = stages.infer_segments(tmp_path / "model", one, tmp_path / "a")
    split = stages.infer_segments(tmp_path / "model", three, tmp_path / "b")
    alone = stages.infer_segments(tmp_path / "model", three[1:2], tmp_path / "c")
    larger = stages.infer_segments(tmp_path / "model", one, tmp_path / "d", batch_size=16)
    places = {key: row for row, key in enumerate(map(tuple, whole.embeddings[["record_id", "segment"]].to_numpy()))}
    golden = np.load(reference / "models" / case.folder / "golden.npz")
    if f"{case.golden}_embedding" in golden:
        np.testing.assert_allclose(whole.numbers()[1], golden[f"{case.golden}_embedding"], rtol=0, atol=1e-5)
    for other in (split, alone):
        rows = [places[key] for key in map(tuple, other.embeddings[["record_id", "segment"]].to_numpy())]
        assert other is alone or sorted(rows) == list(range(len(places)))
        for ours, theirs in zip(whole.numbers(), other.numbers(), strict=True):
            np.testing.assert_array_equal(ours[rows], theirs)
    for ours, theirs in zip(whole.numbers(), larger.numbers(), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5)


def rewrite(source: Path, target: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> Path:
    """Copy a checkpoint with other tensors; `change` changes the state dict."""
    if source.is_dir():
        shutil.copytree(source, target)
        tensors = safetensors.torch.load_file(source / "model.safetensors")
        change(tensors)
        safetensors.torch.save_file(tensors, target / "model.safetensors")
        return target
    content = torch.load(source, weights_only=True)
    found = find_tensors(content)
    holder: Any = content
    while not any(isinstance(value, torch.Tensor) for value in holder.values()):
        holder = next(v for v in holder.values() if isinstance(v, dict) and len(find_tensors(v)) == len(found))
    change(holder)
    torch.save(content, target)
    return target


def last_matrix(tensors: dict[str, torch.Tensor]) -> str:
    """A weight in the middle of the network."""
    matrices = [name for name, tensor in tensors.items() if tensor.ndim >= 2 and name.endswith("weight")]
    return sorted(matrices)[len(matrices) // 2]


def drop(tensors: dict[str, torch.Tensor]) -> None:
    del tensors[last_matrix(tensors)]


def add(tensors: dict[str, torch.Tensor]) -> None:
    tensors["encoder.surprise.weight"] = torch.zeros(2, 2)


def stretch(tensors: dict[str, torch.Tensor]) -> None:
    name = last_matrix(tensors)
    tensors[name] = torch.cat([tensors[name], tensors[name][:1]]).contiguous()


@pytest.mark.parametrize(
    ("change", "says"), [(drop, "missing: "), (add, r"left over: \S*surprise"), (stretch, "of another shape: ")]
)
@pytest.mark.parametrize("case", FAMILIES, ids=name_of)
def test_a_tensor_missing_left_over_or_of_another_shape_is_named_by_the_stage(
    case: Case,
    change: Callable[[dict[str, torch.Tensor]], None],
    says: str,
    made: Callable[[Case], Path],
    tmp_path: Path,
) -> None:
    source = rewrite(made(case), tmp_path / made(case).name, change)
    with pytest.raises(EcgpipeError, match=says):
        stages.convert(tmp_path / "out", source)
    assert not (tmp_path / "out" / "model.safetensors").exists()


@pytest.mark.parametrize("case", FAMILIES, ids=name_of)
def test_another_familys_file_is_named_with_the_setting_that_runs_it(
    case: Case, made: Callable[[Case], Path], tmp_path: Path
) -> None:
    named = "hubert-ecg" if case.name != "hubert-ecg" else "ecgfounder"
    source = made(case) / "model.safetensors" if made(case).is_dir() else made(case)
    title = registry.read_facts(case.name).title
    with pytest.raises(EcgpipeError) as refused:
        stages.convert(tmp_path, source, named)
    assert f"is a checkpoint of {title}, not of {named}; use model={case.name}" in str(refused.value)


class Runs:
    """Unpickled, it would create a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Path]]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("model", [None, "ecgfounder", "deepecg-ssl", "ecg-jepa", "ecg-fm"])
def test_no_familys_file_can_run_code(model: str | None, made: Callable[[Case], Path], tmp_path: Path) -> None:
    content = torch.load(made(CASES[0]), weights_only=True)
    torch.save({**content, "extra": Runs(tmp_path / "it ran")}, tmp_path / "x.pt")
    with pytest.raises(EcgpipeError, match=r"which is code and not data|is a checkpoint of ECGFounder"):
        stages.convert(tmp_path / "out", tmp_path / "x.pt", model)
    assert not (tmp_path / "it ran").exists()


def test_a_folder_takes_its_familys_file_and_refuses_two(made: Callable[[Case], Path], tmp_path: Path) -> None:
    source = tmp_path / "release"
    source.mkdir()
    shutil.copy(made(CASES[2]), source / "wcr.pt")
    (source / "base_ssl.pt").touch()
    assert stages.convert(tmp_path / "out", source, "deepecg-ssl").family == "deepecg-ssl"
    shutil.copy(made(CASES[2]), source / "wcr2.pt")
    with pytest.raises(EcgpipeError, match=r"2 files \*\.pt in .*release; give the path of the one meant"):
        stages.convert(tmp_path / "out", source, "deepecg-ssl")


def test_the_licence_is_said_before_anything_is_fetched(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    said: list[list[str]] = []

    def fetch(*args: object) -> None:
        said.append([record.getMessage() for record in caplog.records])
        raise EcgpipeError("checkpoint: no network in this test")

    monkeypatch.setattr(hub, "fetch", fetch)
    with caplog.at_level(logging.WARNING), pytest.raises(EcgpipeError, match="no network"):
        checkpoint.open_source("hf://Edoardo-BS/hubert-ecg-base")
    assert said == [["licence of these weights: CC BY-NC 4.0 (no commercial use)"]]


def test_model_json_has_what_was_chosen(made: Callable[[Case], Path], tmp_path: Path) -> None:
    stages.convert(tmp_path, made(CASES[1]), "ecgfounder", {"preprocessing": "plain"})
    description = describe(tmp_path / "model.json")
    assert description.options == {"preprocessing": "plain"}
    assert description.model_input == registry.find_family("ecgfounder").variants["plain"]
    with pytest.raises(EcgpipeError, match=r"model_options.preprocessing: 'odd' is unknown to ecgfounder; give one of"):
        stages.convert(tmp_path, made(CASES[1]), "ecgfounder", {"preprocessing": "odd"})


@pytest.mark.parametrize("case", [*FAMILIES, CASES[5]], ids=name_of)
def test_untrained_weights_have_the_familys_layout_and_say_that_they_are_random(
    case: Case, made: Callable[[Case], Path], signals: list[np.ndarray], tmp_path: Path
) -> None:
    like, output = made(case), tmp_path / "random"
    assert main(["untrained", "--like", str(like), "--output", str(output), "--seed", "3"]) == 0
    theirs, ours = ECGFM.from_checkpoint(like, batch_size=2), ECGFM.from_checkpoint(output, batch_size=2)
    assert ours.description.architecture == theirs.description.architecture
    assert (ours.description.family, ours.description.random_weights) == (case.name, True)
    assert not theirs.description.random_weights
    trained, drawn = (model.embed(signals[1:2], RATE, LEADS, unit="mV").to_numpy() for model in (theirs, ours))
    assert np.isfinite(drawn).all()
    assert drawn.std() > 1e-3  # the signal goes through
    assert not np.allclose(trained, drawn)


@pytest.mark.parametrize("case", FAMILIES, ids=name_of)
def test_predict_and_inspect_do_what_a_run_would(
    case: Case, made: Callable[[Case], Path], files: list[Path], reference: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    short = ["--short", "pad"] if case.pads else []
    given = [str(file) for file in files[:3]]
    assert main(["inspect", *given, "--model", case.name, "--assume-unit", "mV", *short]) == 0
    assert capfd.readouterr().out.count(": ok, ") == 3
    command = ["predict", *given, "--checkpoint", str(made(case)), "--assume-unit", "mV", *short, "--format", "csv"]
    golden = np.load(reference / "models" / case.folder / "golden.npz")
    if f"{case.golden}_logits" not in golden:
        assert main(command) == 2
        assert "has no head" in capfd.readouterr().err
        return
    capfd.readouterr()
    assert main([*command, "--labels", "index"]) == 0
    table = pd.read_csv(StringIO(capfd.readouterr().out))
    names = list(golden["record"])
    assert [names.count(file.stem) for file in files[:3]] == table["n_segments"].tolist()
    probabilities = expit(golden[f"{case.golden}_logits"])
    expected = [probabilities[golden["record"] == file.stem].mean(axis=0) for file in files[:3]]
    np.testing.assert_allclose(table.iloc[:, 5:], expected, rtol=0, atol=1e-5)


def test_another_length_of_segments_is_refused_by_predict(made: Callable[[Case], Path], files: list[Path]) -> None:
    given = ["predict", str(files[0]), "--checkpoint", str(made(CASES[0])), "--segment-s", "7"]
    assert main(given) == 2
