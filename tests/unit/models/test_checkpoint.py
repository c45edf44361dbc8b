"""The checkpoint stage: fetching, opening, converting, and what it says when it cannot."""

import argparse
import hashlib
import json
import os
import re
import runpy
import zipfile
from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any, ClassVar

import checkpoints
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ecgpipe import __version__
from ecgpipe.core.errors import EcgpipeError
from ecgpipe.core.provenance import MEANING
from ecgpipe.models import fairseq_checkpoint, labels
from ecgpipe.models.description import Architecture, Description, describe
from ecgpipe.models.ecg_fm import network as ecg_fm_network
from ecgpipe.models.ecg_fm.network import Output
from ecgpipe.selftest import synthetic_checkpoint


def outputs(folder: Path, segments: torch.Tensor | None = None) -> Output:
    network = ecg_fm_network.load(describe(folder / "model.json").architecture, folder / "model.safetensors")
    if segments is None:
        segments = torch.randn(3, 12, 200, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        output: Output = network(segments)
    return output


# What comes out


def test_the_weights_are_the_same_bits_with_any_number_of_threads() -> None:
    content = synthetic_checkpoint.demo(1)
    arch = fairseq_checkpoint.read_architecture(content["cfg"]["model"])
    before = torch.get_num_threads()
    try:
        converted = []
        for threads in (1, 2, 4):
            torch.set_num_threads(threads)
            converted.append(fairseq_checkpoint.convert_tensors(content["model"], arch, "x.pt"))
    finally:
        torch.set_num_threads(before)
    for other in converted[1:]:
        assert all(torch.equal(tensor, other[name]) for name, tensor in converted[0].items())


@pytest.mark.parametrize("name", ["tiny", "prenorm", pytest.param("base", marks=pytest.mark.slow)])
def test_outputs_are_those_of_fairseq_signals(
    name: str, reference: Path, tmp_path: Path, run: Callable[..., Description]
) -> None:
    generator = runpy.run_path(str(reference / "make_checkpoint.py"))
    torch.save(generator["state"](name), tmp_path / "x.pt")
    golden = np.load(reference / "golden" / f"{name}.npz")
    labels = tmp_path / "labels.csv"
    labels.write_text("name,aggregation\n" + "".join(f"L{i},mean\n" for i in range(golden["logits"].shape[1])))
    run(tmp_path / "x.pt")
    output = outputs(tmp_path / "out", torch.from_numpy(np.load(reference / "golden" / "segments.npz")["signal"]))
    for key, tolerance in (("logits", 1e-4), ("embedding", 1e-4), ("attention", 1e-5)):
        np.testing.assert_allclose(getattr(output, key), golden[key], rtol=0, atol=tolerance)


def test_the_description_states_what_the_weights_are_and_where_they_came_from(
    tmp_path: Path, save: Callable[..., Path], run: Callable[..., Description]
) -> None:
    path = save(checkpoints.classifier())
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    made = run(path, sha256=sha256.upper())
    assert made.settings.keys() == {"checkpoint"}
    assert replace(made, settings={}) == Description(
        architecture=Architecture(
            in_leads=12,
            conv_layers=((6, 2, 2), (6, 2, 2)),
            conv_bias=False,
            width=8,
            layers=2,
            heads=2,
            hidden=16,
            layer_norm_first=False,
            position_kernel=4,
            position_groups=2,
            labels=3,
        ),
        labels=("Poor data quality", "Sinus rhythm", "Électrode"),
        uri=path.name,  # the path may say whose it is, and is that of one machine
        revision=None,
        sha256=sha256,
        random_weights=False,
        ecgpipe=__version__,
        meaning=MEANING["checkpoint"],
    )
    content = json.loads((tmp_path / "out" / "model.json").read_text(encoding="utf-8"))
    parts = ["architecture", "backend", "ecgpipe", "family", "has_tokens_by_lead", "input", "labels", "meaning"]
    assert sorted(content) == [*parts, "model_sha256", "options", "random_weights", "settings", "source"]
    assert (content["family"], content["options"], content["input"]["rate"]) == ("ecg-fm", {}, 500)
    assert content["source"]["bytes"] == path.stat().st_size


def test_a_second_run_writes_the_same_bytes(
    tmp_path: Path, save: Callable[..., Path], run: Callable[..., Description]
) -> None:
    path = save(checkpoints.classifier())
    results = []
    for _ in range(2):
        run(path)
        results.append([file.read_bytes() for file in sorted((tmp_path / "out").iterdir())])
    assert len(results[0]) == 2
    assert results[0] == results[1]


def test_random_weights_are_marked(save: Callable[..., Path], run: Callable[..., Description]) -> None:
    assert run(save({**checkpoints.classifier(), "ecgpipe": {"random_weights": True}})).random_weights


def test_a_pretrained_checkpoint_gives_the_same_without_logits(
    tmp_path: Path, save: Callable[..., Path], run: Callable[..., Description]
) -> None:
    run(save(checkpoints.classifier()))
    classified = outputs(tmp_path / "out")
    description = run(save(checkpoints.pretrained()), labels=tmp_path / "no-such-labels.csv")
    assert description.labels == ()
    assert description.architecture.labels == 0
    pretrained = outputs(tmp_path / "out")
    assert classified.logits is not None
    assert pretrained.logits is None
    torch.testing.assert_close(pretrained.embedding, classified.embedding, rtol=0, atol=0)
    torch.testing.assert_close(pretrained.attention, classified.attention, rtol=0, atol=0)


def test_the_weight_norm_of_older_pytorch_is_the_same(
    tmp_path: Path, save: Callable[..., Path], run: Callable[..., Description]
) -> None:
    content = checkpoints.classifier()
    run(save(content))
    weights = (tmp_path / "out" / "model.safetensors").read_bytes()
    content["model"][f"{checkpoints.POSITION}.weight_g"] = content["model"].pop(checkpoints.POSITION_LENGTH)
    content["model"][f"{checkpoints.POSITION}.weight_v"] = content["model"].pop(checkpoints.POSITION_DIRECTION)
    run(save(content))
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == weights


def test_half_precision_becomes_float32(
    tmp_path: Path, save: Callable[..., Path], run: Callable[..., Description]
) -> None:
    content = checkpoints.classifier()
    content["model"] = {name: tensor.half() for name, tensor in content["model"].items()}
    run(save(content))
    halved = outputs(tmp_path / "out")
    content["model"] = {name: tensor.float() for name, tensor in content["model"].items()}
    run(save(content))
    torch.testing.assert_close(outputs(tmp_path / "out"), halved, rtol=0, atol=0)


def test_weights_that_share_memory_are_written(save: Callable[..., Path], run: Callable[..., Description]) -> None:
    content = checkpoints.classifier()
    flat = torch.randn(200)
    for layer in (0, 1):
        content["model"][f"encoder.encoder.layers.{layer}.fc1.weight"] = flat[64:192].view(8, 16).T
    run(save(content))


def test_the_format_of_older_pytorch_is_read(save: Callable[..., Path], run: Callable[..., Description]) -> None:
    assert run(save(checkpoints.classifier(), _use_new_zipfile_serialization=False)).architecture.labels == 3


# What is not a checkpoint


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "not a checkpoint of PyTorch"),
        (b"PK\x03\x04 and then something else", "not a checkpoint of PyTorch"),
        (b"<html>Sign in to your network</html>", "not a checkpoint of PyTorch"),
        (checkpoints.saved(checkpoints.classifier())[:-1000], "not a checkpoint of PyTorch"),
        (checkpoints.saved([1, 2, 3]), "not a checkpoint of fairseq-signals"),
        (checkpoints.saved({"state_dict": {}}), "not a checkpoint of fairseq-signals"),
        (checkpoints.saved({"cfg": None, "model": {}}), "not a checkpoint of fairseq-signals"),
    ],
)
def test_another_file_is_refused(content: bytes, says: str, tmp_path: Path, run: Callable[..., Description]) -> None:
    (tmp_path / "x.pt").write_bytes(content)
    with pytest.raises(EcgpipeError, match=rf"x\.pt is {says}"):
        run(tmp_path / "x.pt")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("source", ["nowhere.pt", ".", "https://huggingface.co/wanglab/ecg-fm"])
def test_a_path_that_is_no_file_is_refused(source: str, run: Callable[..., Description]) -> None:
    with pytest.raises(EcgpipeError, match=re.escape(f"there is no file {source}; give the path of a .pt file, or hf")):
        run(source)


class Malicious:
    """Pickles to a call that leaves a file behind."""

    trace: ClassVar[str]

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return os.mkdir, (self.trace,)


@pytest.mark.parametrize("zipped", [True, False])
def test_nothing_in_a_checkpoint_is_executed(
    zipped: bool, tmp_path: Path, save: Callable[..., Path], run: Callable[..., Description]
) -> None:
    Malicious.trace = str(tmp_path / "executed")
    path = save({**checkpoints.classifier(), "extra_state": Malicious()}, _use_new_zipfile_serialization=zipped)
    with pytest.raises(EcgpipeError, match=r"x\.pt asks for \w+\.mkdir, which is code and not data: refused"):
        run(path)
    assert not (tmp_path / "executed").exists()
    torch.load(path, weights_only=False)
    assert (tmp_path / "executed").exists()  # it would have worked


def test_everything_refused_is_named(save: Callable[..., Path], run: Callable[..., Description]) -> None:
    state = {"one": Fraction(1, 2), "another": Decimal(1)}
    with pytest.raises(EcgpipeError, match=r"asks for decimal\.Decimal, fractions\.Fraction, which is code"):
        run(save({**checkpoints.classifier(), "extra_state": state}))


def test_numbers_of_numpy_and_options_of_argparse_are_harmless(
    tmp_path: Path, save: Callable[..., Path], run: Callable[..., Description]
) -> None:
    state = {
        "args": argparse.Namespace(lr=1e-4),
        "loss": np.float64(0.5),
        "step": np.int64(3),
        "best": np.bool_(True),
        "dtype": np.dtype("float32"),
    }
    path = save({**checkpoints.classifier(), "extra_state": state})
    read = fairseq_checkpoint.read_checkpoint(path)["extra_state"]
    assert read == state
    assert read["args"].lr == 1e-4
    # numpy 1 calls the same things by another module's name.
    older = tmp_path / "older.pt"
    with zipfile.ZipFile(path) as archive, zipfile.ZipFile(older, "w") as copy:
        for name in archive.namelist():
            copy.writestr(name, archive.read(name).replace(b"numpy._core.multiarray", b"numpy.core.multiarray"))
    assert b"numpy.core.multiarray" in older.read_bytes()
    assert fairseq_checkpoint.read_checkpoint(older)["extra_state"] == state


def test_every_fault_of_the_tensors_is_reported_at_once(
    tmp_path: Path, save: Callable[..., Path], run: Callable[..., Description]
) -> None:
    content = checkpoints.classifier()
    tensors = content["model"]
    del tensors["proj.bias"], tensors["encoder.encoder.layers.1.self_attn.v_proj.weight"]
    tensors["encoder.layer_norm.weight"] = torch.zeros(7)
    tensors["encoder.encoder.layers.0.fc1.bias"] = torch.zeros(16, dtype=torch.int64)
    tensors |= {"encoder.encoder.layers.2.fc1.bias": torch.zeros(16), "encoder.decoder": torch.zeros(1)}
    tensors |= {"encoder.mask_emb": torch.zeros(8)}  # known not to matter
    with pytest.raises(EcgpipeError) as raised:
        run(save(content))
    assert str(raised.value) == (
        f"checkpoint: the tensors of {tmp_path / 'x.pt'} are not those of the network in its cfg.model: "
        "missing: encoder.encoder.layers.1.self_attn.v_proj.weight, proj.bias; "
        "left over: encoder.decoder, encoder.encoder.layers.2.fc1.bias; "
        "of another shape: encoder.encoder.layers.0.fc1.bias (torch.int64 instead of (16,)), "
        "encoder.layer_norm.weight ((7,) instead of (6,)); "
        "give a checkpoint as fairseq-signals saved it"
    )
    assert not (tmp_path / "out").exists()


def test_labels_must_be_as_many_as_outputs(
    labels_csv: Path, save: Callable[..., Path], run: Callable[..., Description]
) -> None:
    labels_csv.write_text("name,aggregation\nOnly one,mean\n")
    with pytest.raises(
        EcgpipeError, match=r"labels\.csv names 1 labels but the checkpoint has 3 outputs; give.* or index"
    ):
        run(save(checkpoints.classifier()))


@pytest.mark.parametrize("outputs", [1, 3, 26, 117])
def test_outputs_that_nobody_has_named_are_called_by_number_and_a_label_file_is_written(
    outputs: int,
    tmp_path: Path,
    save: Callable[..., Path],
    run: Callable[..., Description],
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level("WARNING"):
        description = run(save(checkpoints.classifier(outputs)), labels="index")
    expected = labels.number_outputs(outputs)
    assert description.labels == tuple(label.name for label in expected)
    assert labels.read(tmp_path / "out/labels.csv") == expected
    assert labels.explain_numbers(outputs) in caplog.text


def test_a_label_file_is_written_only_with_labels_index(
    tmp_path: Path, save: Callable[..., Path], run: Callable[..., Description]
) -> None:
    run(save(checkpoints.classifier()))
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"model.json", "model.safetensors"}
    run(save(checkpoints.pretrained()), labels="index")  # no outputs, and so no names
    assert (tmp_path / "out/labels.csv").read_text() == "name,aggregation\n"


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"architecture": {"in_leads": 12}}'])
def test_another_json_is_not_a_description(content: str, tmp_path: Path) -> None:
    (tmp_path / "model.json").write_text(content)
    with pytest.raises(EcgpipeError, match="is not a description that ecgpipe"):
        describe(tmp_path / "model.json")


def test_a_missing_description_advises_to_run_the_stage(tmp_path: Path) -> None:
    with pytest.raises(EcgpipeError, match="run the checkpoint stage first"):
        describe(tmp_path / "model.json")


# The configuration


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("_name", "resnet"),
        ("_name", None),
        ("extractor_mode", "layer_norm"),
        ("quantize_input", True),
        ("encoder_layers", 0),
        ("encoder_layers", 10**9),
        ("encoder_layers", "2"),
        ("conv_pos", None),
        ("conv_bias", 1),
        ("num_labels", None),
        ("encoder_attention_heads", 3),
        ("conv_pos_groups", 5),
    ],
)
def test_a_network_that_is_not_ours_is_refused(key: str, value: object) -> None:
    with pytest.raises(EcgpipeError, match=rf"cfg\.model\.{key} is {value!r}"):
        fairseq_checkpoint.read_architecture({**checkpoints.CFG, key: value})


sizes = st.integers(1, fairseq_checkpoint.MAX_SIZE)
runs = st.tuples(st.lists(st.tuples(sizes, sizes, sizes), min_size=1, max_size=3), st.integers(1, 3))


@given(st.lists(runs, min_size=1, max_size=4))
def test_convolutions_are_read_as_python_would(layers: list[tuple[list[tuple[int, int, int]], int]]) -> None:
    expression = " + ".join(f"{run!r} * {times}" for run, times in layers)
    expected = tuple(layer for run, times in layers for layer in run * times)
    assert (
        fairseq_checkpoint.read_architecture({**checkpoints.CFG, "conv_feature_layers": expression}).conv_layers
        == expected
    )


@pytest.mark.parametrize(
    "expression",
    [
        "__import__('os').mkdir('executed')",
        "[(1, 1, __import__('os').mkdir('executed'))]",
        "[(1, 1, 1)] * 10**9",
        "[(1, 1, 1)] * 1000000000",
        "[(1, 1, 1)] * 64 * 64 * 64",
        "[(1, 1, 1)] * -1",
        "[(1, 1, 1)] * True",
        "[(1, 1)]",
        "[(1, 1, 1, 1)]",
        "[(1, 1, 1.5)]",
        "[(1, 0, 1)]",
        "[(1, 1, 99999999999)]",
        "[layer for layer in ()]",
        "[]",
        "",
        "(" * 9000,
        "[(1, 1, 1)]" + " + [(1, 1, 1)]" * 700,
        "+".join(["[]"] * 3000),
        "[(1, 1, 1)] * 2\x00",
        None,
        [(1, 1, 1)],
    ],
)
def test_hostile_convolutions_are_not_evaluated(
    expression: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(EcgpipeError, match=r"conv_feature_layers is .* it must list 1 to 64 layers"):
        fairseq_checkpoint.read_architecture({**checkpoints.CFG, "conv_feature_layers": expression})
    assert not (tmp_path / "executed").exists()


@given(st.text(alphabet="[](),*+ 0123456789a.-'\"") | st.text())
def test_any_other_text_is_refused_in_words(expression: str) -> None:
    try:
        layers = fairseq_checkpoint.read_architecture(
            {**checkpoints.CFG, "conv_feature_layers": expression}
        ).conv_layers
    except EcgpipeError:
        return
    assert 1 <= len(layers) <= fairseq_checkpoint.MAX_CONVOLUTIONS
