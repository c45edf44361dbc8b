"""DeepECG-SSL's checkpoints, against what HeartWise's own loader and network computed."""

import csv
import runpy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io
import torch
from torch import Tensor

from ecgpipe.core.errors import EcgpipeError
from ecgpipe.models import fairseq_checkpoint, labels
from ecgpipe.models.deepecg_ssl import family
from ecgpipe.models.deepecg_ssl import network as deepecg_ssl
from ecgpipe.models.deepecg_ssl.network import Evidence, Network
from ecgpipe.models.ecg_fm import network as ecg_fm
from ecgpipe.models.output import Output

LABELS = Path(family.__file__).with_name("labels.csv")
VARIANTS = ["tiny77", "tiny1", pytest.param("base77", marks=pytest.mark.slow)]
OLD, NEW = ("weight_g", "weight_v"), ("parametrizations.weight.original0", "parametrizations.weight.original1")


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    """Products as small as these take longer where threads wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def folder(reference: Path) -> Path:
    return reference / "models" / "deepecg_ssl"


@pytest.fixture(scope="module")
def golden(folder: Path) -> Any:  # noqa: ANN401, numpy's NpzFile
    return np.load(folder / "golden.npz")


@pytest.fixture(scope="module")
def state(folder: Path) -> Callable[[str], dict[str, Any]]:
    """The content of a checkpoint in the layout of the released files."""
    made: Callable[[str], dict[str, Any]] = runpy.run_path(str(folder / "make_checkpoint.py"))["state"]
    return made


@pytest.fixture(scope="module")
def windows(reference: Path) -> tuple[Tensor, Tensor]:
    """The ten recordings as the README of the golden outputs prepares them, (10, 12, 2500), and their valid samples."""
    prepared, valid = [], []
    for path in sorted((reference / "code15").glob("*.mat")):
        content = scipy.io.loadmat(path)
        rate = int(np.squeeze(content["org_sample_rate"]))
        signal = content["feats"].astype(float)[:, : 10 * rate]
        last = signal.shape[1] - 1
        place = np.arange(min(2500, last * 250 // rate + 1)) * rate / 250  # in samples of the file
        rows = [np.interp(place, np.arange(last + 1), row) for row in signal]
        prepared.append(np.pad(np.array(rows, np.float32), ((0, 0), (0, 2500 - len(place)))))
        valid.append(len(place))
    return torch.from_numpy(np.stack(prepared)), torch.tensor(valid)


def network(content: dict[str, Any]) -> Network:
    arch = deepecg_ssl.read_architecture(content)
    return deepecg_ssl.from_tensors(arch, deepecg_ssl.map_tensors(content["model"], arch))


def run(made: Network, signal: Tensor, samples: Tensor | None = None) -> Output:
    with torch.inference_mode():
        output: Output = made(signal, samples, False)
    return output


def faults(content: dict[str, Any], tensors: dict[str, Tensor]) -> str:
    """What is wrong with a checkpoint that has these tensors."""
    with pytest.raises(EcgpipeError) as caught:
        deepecg_ssl.map_tensors(tensors, deepecg_ssl.read_architecture(content), "x.pt")
    return str(caught.value)


# Numbers


def test_the_windows_are_those_of_the_golden_outputs(windows: tuple[Tensor, Tensor], golden: Any) -> None:  # noqa: ANN401
    np.testing.assert_array_equal(windows[1], golden["valid"])
    np.testing.assert_allclose(windows[0][:2], golden["mv_first2"], rtol=0, atol=1e-6)
    np.testing.assert_allclose(windows[0][:, :, ::20], golden["mv_every20"], rtol=0, atol=1e-6)


@pytest.mark.parametrize("variant", VARIANTS)
def test_outputs_are_those_of_the_authors_network(
    variant: str,
    windows: tuple[Tensor, Tensor],
    golden: Any,  # noqa: ANN401
    state: Callable[[str], dict[str, Any]],
) -> None:
    made, (signal, valid) = network(state(variant)), windows
    # The container scales: the whole batch by one factor, or one recording by its own.
    scaled = signal * torch.from_numpy(golden["docker_factor"]).float()[:, None, None]
    alone = signal * torch.from_numpy(golden["docker_alone_factor"]).float()[:, None, None]
    inputs = {
        "mv": (signal, valid),
        "mv_nomask": (signal, None),
        "docker": (scaled, None),
        "docker_alone": (alone, None),
    }
    for way, (batch, samples) in inputs.items():
        output = run(made, batch, samples)
        for key in ("logits", "embedding"):
            expected = golden[f"{variant}_{way}_{key}"]
            np.testing.assert_allclose(getattr(output, key), expected, rtol=0, atol=1e-4, err_msg=f"{way} {key}")


def test_the_pretrained_network_has_an_embedding_alone(
    windows: tuple[Tensor, Tensor],
    golden: Any,  # noqa: ANN401
    state: Callable[[str], dict[str, Any]],
) -> None:
    output = run(network(state("tiny_ssl")), windows[0])
    assert output.logits is None
    np.testing.assert_allclose(output.embedding, golden["tiny_ssl_mv_nomask_embedding"], rtol=0, atol=1e-4)


def test_the_files_order_is_not_the_containers(
    folder: Path,
    golden: Any,  # noqa: ANN401
    windows: tuple[Tensor, Tensor],
    state: Callable[[str], dict[str, Any]],
) -> None:
    with (folder / "labels77.csv").open(newline="") as file:
        column = [int(row["docker_column"]) for row in csv.DictReader(file)]
    logits = run(network(state("tiny77")), *windows).logits
    assert logits is not None
    in_container = golden["tiny77_mv_probability_patterns"]
    np.testing.assert_allclose(torch.sigmoid(logits), in_container[:, column], rtol=0, atol=1e-5)
    assert np.abs(torch.sigmoid(logits).numpy() - in_container).max() > 0.1


# Traps


def test_mask_and_no_mask_differ_on_short_recordings_alone(
    windows: tuple[Tensor, Tensor], state: Callable[[str], dict[str, Any]]
) -> None:
    signal, valid = windows
    made = network(state("tiny77"))
    difference = (run(made, signal, valid).embedding - run(made, signal).embedding).abs().amax(dim=1)
    assert torch.equal(difference > 1e-2, valid < 2500)
    assert (difference[valid == 2500] < 1e-5).all()


def test_volts_matter_and_microvolts_do_not(
    windows: tuple[Tensor, Tensor], state: Callable[[str], dict[str, Any]]
) -> None:
    made, signal = network(state("tiny77")), windows[0][:2]
    mv, uv, volts = (run(made, scale * signal).embedding for scale in (1, 1e3, 1e-3))
    assert (mv - uv).abs().max() < 1e-2
    assert (mv - volts).abs().max() > 0.1


def test_dropout_is_off(windows: tuple[Tensor, Tensor], state: Callable[[str], dict[str, Any]]) -> None:
    made = network(state("tiny77"))
    assert not made.training
    assert torch.equal(run(made, windows[0]).embedding, run(made, windows[0]).embedding)


def test_sizes_are_those_of_fine_tuning_not_of_pretraining(state: Callable[[str], dict[str, Any]]) -> None:
    content = state("tiny77")
    expected = deepecg_ssl.read_architecture(content)
    content["cfg"]["model"]["args"]["model"] |= {"encoder_layers": 7, "encoder_embed_dim": 96, "in_d": 1}
    assert deepecg_ssl.read_architecture(content) == expected
    assert expected.labels == 77
    assert expected.tokens(2500) == 156


@pytest.mark.parametrize("batch", [1, 3, 7])
def test_a_window_gets_the_same_in_any_batch(
    batch: int, windows: tuple[Tensor, Tensor], state: Callable[[str], dict[str, Any]]
) -> None:
    made, (signal, valid) = network(state("tiny77")), windows
    parts = [run(made, signal[i : i + batch], valid[i : i + batch]) for i in range(0, 10, batch)]
    whole = run(made, signal, valid)
    for key in ("logits", "embedding"):
        joined = torch.cat([getattr(part, key) for part in parts])
        torch.testing.assert_close(joined, getattr(whole, key), rtol=0, atol=1e-5)


# Files


def renamed(tensors: dict[str, Tensor], names: dict[str, str]) -> dict[str, Tensor]:
    """The tensors with the ends of some of their names changed."""
    ends = {name: next((old for old in names if name.endswith(old)), "") for name in tensors}
    return {name.removesuffix(end) + names.get(end, ""): tensors[name] for name, end in ends.items()}


@pytest.mark.parametrize("variant", ["tiny77", "tiny1", "tiny_ssl"])
def test_both_spellings_and_a_prefix_give_the_same(variant: str, state: Callable[[str], dict[str, Any]]) -> None:
    content = state(variant)
    arch = deepecg_ssl.read_architecture(content)
    expected = deepecg_ssl.map_tensors(content["model"], arch)
    assert expected.keys() == Network(arch).state_dict().keys()
    newer = renamed(content["model"], dict(zip(OLD, NEW, strict=True)))
    assert newer.keys() != content["model"].keys()
    for tensors in (newer, {f"module.{name}": tensor for name, tensor in content["model"].items()}):
        mapped = deepecg_ssl.map_tensors(tensors, arch)
        assert all(torch.equal(mapped[name], tensor) for name, tensor in expected.items())


def test_a_mixture_of_both_spellings_is_refused(state: Callable[[str], dict[str, Any]]) -> None:
    content = state("tiny77")
    name = "encoder.conv_pos.pos_conv.0"
    message = faults(content, renamed(content["model"], {OLD[0]: NEW[0]}))
    assert f"missing: {name}.{OLD[0]}; left over: {name}.{NEW[0]};" in message


def test_what_only_pretraining_uses_may_be_there_and_nothing_else(state: Callable[[str], dict[str, Any]]) -> None:
    content = state("tiny_ssl")
    assert {"mask_emb", "quantizer.vars", "project_q.weight", "final_proj.bias"} <= content["model"].keys()
    network(content)
    message = faults(content, content["model"] | {"quantiser.vars": torch.zeros(1), "mask": torch.zeros(1)})
    assert "left over: mask, quantiser.vars;" in message


def test_each_tensor_that_is_missing_or_misshapen_is_named(state: Callable[[str], dict[str, Any]]) -> None:
    content = state("tiny77")
    for name, tensor in content["model"].items():
        others = {key: value for key, value in content["model"].items() if key != name}
        assert f"missing: {name};" in faults(content, others)
        longer = torch.zeros(tensor.shape[0] + 1, *tensor.shape[1:])
        assert f"of another shape: {name} ({tuple(longer.shape)} instead of" in faults(content, others | {name: longer})


def test_all_faults_are_in_one_message_sorted(state: Callable[[str], dict[str, Any]]) -> None:
    content = state("tiny77")
    tensors = {name: tensor for name, tensor in content["model"].items() if not name.endswith(".0.fc1.bias")}
    del tensors["encoder.layer_norm.bias"]
    message = faults(content, tensors | {"z": torch.zeros(1), "a": torch.zeros(1), "proj.bias": torch.zeros(3)})
    assert message == (
        "checkpoint: the tensors of x.pt are not those of the network in its cfg.model: missing: "
        "encoder.encoder.layers.0.fc1.bias, encoder.layer_norm.bias; left over: a, z; of another shape: proj.bias "
        "((3,) instead of (77,)); give a checkpoint as fairseq-signals saved it"
    )


def test_a_file_is_read_and_its_optimizer_is_not_needed(tmp_path: Path, state: Callable[[str], dict[str, Any]]) -> None:
    content = state("tiny1")
    torch.save(content, tmp_path / "x.pt")
    arch, tensors = deepecg_ssl.read_checkpoint(tmp_path / "x.pt")
    assert arch.labels == 1
    assert torch.equal(tensors["head.weight"], content["model"]["proj.weight"])


@pytest.mark.parametrize("family", ["ecg_jepa", "ecgfounder"])
def test_another_familys_file_is_refused(
    family: str, reference: Path, tmp_path: Path, state: Callable[[str], dict[str, Any]]
) -> None:
    other = runpy.run_path(str(reference / "models" / family / "make_checkpoint.py"))["state"]("tiny")
    tensors = other.get("encoder") or other["state_dict"]
    assert not deepecg_ssl.recognise(tensors)
    assert faults(state("tiny77"), tensors).startswith("checkpoint: x.pt is not a DeepECG-SSL checkpoint")
    torch.save(other, tmp_path / "x.pt")
    with pytest.raises(EcgpipeError, match=r"x\.pt is not a checkpoint of fairseq-signals"):
        deepecg_ssl.read_checkpoint(tmp_path / "x.pt")


# Which family


def test_what_a_file_tells_about_its_family(reference: Path, state: Callable[[str], dict[str, Any]]) -> None:
    tell = deepecg_ssl.tell_from_ecg_fm
    written = state("tiny77")
    assert tell(written)[:2] == ("deepecg-ssl", True)
    assert tell(state("tiny1"))[:2] == ("deepecg-ssl", True)
    del written["cfg"]["task"]
    assert tell(written) == Evidence("deepecg-ssl", False, "it has 77 outputs, as DeepECG-SSL's released classifier")
    written["cfg"]["model"]["saliency"] = False
    assert tell(written)[:2] == ("ecg-fm", True)
    assert tell(state("tiny_ssl")) == Evidence(None, False, "its configuration does not say, and neither do 0 outputs")
    ecg_fm_state = runpy.run_path(str(reference / "make_checkpoint.py"))["state"]("tiny")
    assert tell(ecg_fm_state)[:2] == ("ecg-fm", True)
    del ecg_fm_state["cfg"]["model"]["saliency"]  # as fairseq-signals wrote it in 2024
    assert tell(ecg_fm_state).family != "deepecg-ssl"
    ecg_fm_state["model"]["proj.weight"] = torch.zeros(26, 48)
    assert tell(ecg_fm_state)[:2] == ("ecg-fm", False)


def test_only_77_outputs_are_recognised_by_the_tensors_alone(state: Callable[[str], dict[str, Any]]) -> None:
    assert deepecg_ssl.recognise(state("tiny77")["model"])
    for variant in ("tiny77", "tiny1", "tiny_ssl"):
        tensors = state(variant)["model"]
        assert ecg_fm.recognise(tensors)
        assert deepecg_ssl.recognise(tensors) == (variant == "tiny77")


@pytest.mark.parametrize(
    ("address", "name"),
    [
        ("hf://heartwise/WCR_LVEF_equal_under_40", "LVEF <= 40 %"),
        ("hf://heartwise/wcr_lvef_under_50/model.pt", "LVEF < 50 %"),
        ("/weights/WCR_AFIB_5Y/x.pt", "Atrial fibrillation within 5 years"),
        ("hf://heartwise/WCR_77_Classes", None),
        ("/weights/lvef_under_50/afib_5y.pt", None),
        ("/weights/model.pt", None),
    ],
)
def test_a_single_output_is_named_by_the_address(address: str, name: str | None) -> None:
    assert deepecg_ssl.name_single_output(address) == name


# Labels


def test_the_77_stand_in_the_networks_order_with_the_containers_thresholds(folder: Path) -> None:
    with (folder / "labels77.csv").open(newline="") as file:
        expected = list(csv.DictReader(file))
    read = labels.read(LABELS)
    assert [label.name for label in read] == [row["name"] for row in expected]
    thresholds = {row["name"]: float(row["docker_threshold"]) for row in expected if row["docker_threshold"]}
    assert {label.name for label in read if label.threshold is None} == {"Brugada"}
    ours = {label.name: label.threshold for label in read if label.threshold is not None}
    assert ours == pytest.approx(thresholds, rel=1e-6)
    assert sum(label.reference_share or 0 for label in read) > 1


def test_every_threshold_states_where_it_is_from() -> None:
    with LABELS.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert {(bool(row["threshold"]), bool(row["threshold_source"])) for row in rows} == {(True, True), (False, False)}


def test_events_that_a_segment_may_miss_are_aggregated_by_the_maximum() -> None:
    assert {label.name for label in labels.read(LABELS) if label.aggregation == "max"} == {
        "Premature ventricular complex",
        "Premature atrial complex",
        "Ventricular tachycardia",
        "Atrial paced",
        "Ventricular paced",
        "LV pacing",
    }


def test_the_files_of_ecg_fm_are_read_as_before(reference: Path) -> None:
    content = runpy.run_path(str(reference / "make_checkpoint.py"))["state"]("tiny")
    arch = fairseq_checkpoint.read_architecture(content["cfg"]["model"])
    expected = fairseq_checkpoint.convert_tensors(content["model"], arch, "x.pt")
    mapped = deepecg_ssl.map_tensors(content["model"], arch)
    assert all(torch.equal(mapped[name], tensor) for name, tensor in expected.items())
