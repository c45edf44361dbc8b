"""`ecgpipe verify`: this installation gives fairseq-signals' numbers, and what would give others is caught."""

import json
import math
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import reference_numbers
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from ecgpipe.cli import main
from ecgpipe.core.digital import MULTIPLY, Step
from ecgpipe.models import fairseq_checkpoint
from ecgpipe.preprocessing import resampling, scaling, segments
from ecgpipe.readers import Recording
from ecgpipe.selftest import fixtures, synthetic_checkpoint, verify
from ecgpipe.selftest.reference import OUTPUTS


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def verified(*options: str) -> int:
    return main(["verify", "--device", "cpu", *options])


# What is right


def test_this_installation_gives_the_numbers_of_fairseq_signals(capsys: pytest.CaptureFixture[str]) -> None:
    assert verified() == 0
    said = capsys.readouterr().out
    lines = {line.split()[0]: line.split() for line in said.splitlines()}
    for what, allowed in {"segments": 1e-6, "logits": 1e-4, "embedding": 1e-4, "attention": 1e-5}.items():
        assert float(lines[what][2]) <= float(lines[what][3]) == allowed
        assert lines[what][4] == "ok"
    assert lines["probabilities"][3:] == ["1e-05", "ok"]
    assert "float32" in said
    assert "against fairseq-signals 1.0.0" in said
    assert "ecg-transform 0.2.1" in said


def test_half_precision_is_held_to_wider_bounds(capsys: pytest.CaptureFixture[str]) -> None:
    assert verified("--precision", "bfloat16") == 0
    said = capsys.readouterr().out
    assert "bfloat16" in said or "becomes float32" in said or ", float32, " in said


def test_what_the_reference_numbers_were_computed_by_is_reported_with_them() -> None:
    with np.load(OUTPUTS) as known:
        assert {"fairseq_signals", "torch", "python", "ecg_transform"} <= set(json.loads(str(known["about"])))
        assert list(known["labels"]) == list(synthetic_checkpoint.LABELS) != sorted(synthetic_checkpoint.LABELS)
        assert list(known["record_id"]) == ["constant_lead", "other_order", "other_order", "other_rate"]


@pytest.mark.slow
def test_the_reference_numbers_are_what_fairseq_signals_computes(tmp_path: Path, fairseq_python: Path) -> None:
    computed = reference_numbers.compute(fairseq_python, tmp_path)
    with np.load(OUTPUTS) as known:
        assert set(computed) == set(known)
        for name in known:
            if known[name].dtype.kind == "f":
                np.testing.assert_allclose(computed[name], known[name], rtol=0, atol=1e-6)
            elif name != "about":
                assert computed[name].tolist() == known[name].tolist()


# The recipe


def by_hand(x: int) -> int:
    """lowbias32 in Python's own whole numbers."""
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):
        x = ((x ^ (x >> shift)) * factor) % 2**32
    return x ^ (x >> 16)


@given(st.text(max_size=20), st.integers(1, 50))
def test_the_numbers_of_the_recipe_are_whole_number_arithmetic(name: str, count: int) -> None:
    start = zlib.crc32(name.encode())
    expected = [by_hand((start + place) % 2**32) for place in range(count)]
    assert synthetic_checkpoint.scattered(name, count).tolist() == expected


def test_the_weights_of_the_recipe_are_spread_as_they_say() -> None:
    spread = synthetic_checkpoint._spread("any", (100, 100), 0.5)
    assert float(spread.std()) == pytest.approx(0.5, rel=0.02)
    assert float(spread.abs().max()) <= math.sqrt(3) * 0.5


def test_the_recordings_differ_in_what_preprocessing_has_to_undo() -> None:
    signals = fixtures.make_signals()
    assert {given.rate for given in signals.values()} == {250, 400, 500}
    assert len({given.leads for given in signals.values()}) == 2
    constant = signals["constant_lead"]
    assert [lead for lead, row in zip(constant.leads, constant.microvolts, strict=True) if np.ptp(row) == 0] == ["V3"]


# What is wrong


def leads_by_place(recording: Recording, windows: segments.Windows) -> segments.Twelve:
    return segments.Twelve(recording.signal, False, [], [])


def sample_deviation(centred: np.ndarray, *_: object) -> tuple[np.ndarray, tuple[Step, ...]]:
    factors = 1 / (centred.std(axis=1, ddof=1) + 1e-8)  # (leads,)
    return centred * factors[:, None], ((MULTIPLY, factors),)


def nearest(signal: np.ndarray, samples: int) -> np.ndarray:
    return signal[:, np.linspace(0, signal.shape[1] - 1, samples).round().astype(int)].copy()


@pytest.mark.parametrize(
    ("module", "function", "wrong"),
    [
        (segments, "choose_leads", leads_by_place),
        (scaling, "standardize", sample_deviation),
        (resampling, "resample_linearly", nearest),
    ],
)
def test_another_preprocessing_is_caught(
    module: ModuleType,
    function: str,
    wrong: Callable[..., object],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(module, function, wrong)
    assert verified() == 2
    assert "the numbers are not fairseq-signals': segments by" in capsys.readouterr().err


def one_weight(tensors: dict[str, Tensor]) -> None:
    tensors["layers.1.fc1.weight"][3, 5] += 0.5


def keys_for_queries(tensors: dict[str, Tensor]) -> None:
    q, k, v = tensors["layers.0.qkv.weight"].chunk(3)
    tensors["layers.0.qkv.weight"] = torch.cat([k, v, q])


def outputs_reversed(tensors: dict[str, Tensor]) -> None:
    tensors["head.weight"], tensors["head.bias"] = tensors["head.weight"].flip(0), tensors["head.bias"].flip(0)


def not_a_number(tensors: dict[str, Tensor]) -> None:
    tensors["head.bias"][2] = torch.nan


def converted_with(change: Callable[[dict[str, Tensor]], None]) -> Callable[..., dict[str, Tensor]]:
    original = fairseq_checkpoint.convert_tensors

    def convert(*given: object) -> dict[str, Tensor]:
        tensors = original(*given)  # type: ignore[arg-type]
        change(tensors)
        return tensors

    return convert


@pytest.mark.parametrize(
    ("change", "differing"),
    [
        (one_weight, ["logits", "embedding"]),
        (keys_for_queries, ["logits", "embedding", "attention"]),
        (outputs_reversed, ["logits", "probabilities"]),
    ],
)
def test_other_weights_are_caught(
    change: Callable[[dict[str, Tensor]], None],
    differing: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(fairseq_checkpoint, "convert_tensors", converted_with(change))
    assert verified() == 2
    said = capsys.readouterr()
    lines = {line.split()[0]: line for line in said.out.splitlines()}
    for what in differing:
        assert what in said.err
        assert "DIFFERS" in lines[what.split()[0]]
    assert lines["segments"].endswith("ok")


def test_weights_that_give_no_numbers_are_caught(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(fairseq_checkpoint, "convert_tensors", converted_with(not_a_number))
    assert verified() == 2
    assert "reference.pt gives numbers that are not finite for segment 0" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["segments", "logits", "embedding", "attention", "probabilities"])
def test_other_reference_numbers_are_caught(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with np.load(OUTPUTS) as known:
        arrays = dict(known)
    arrays[name] = arrays[name].copy()
    arrays[name].flat[7] += 2e-4
    np.savez(tmp_path / "outputs.npz", **arrays)
    monkeypatch.setattr(verify, "OUTPUTS", tmp_path / "outputs.npz")
    assert verified() == 2
    assert f"fairseq-signals': {name} by 0.0002 (allowed: " in capsys.readouterr().err


def test_labels_in_another_order_are_caught(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(synthetic_checkpoint, "LABELS", dict(sorted(synthetic_checkpoint.LABELS.items())))
    assert verified() == 2
    assert "labels is Rhythm A, Rhythm B" in capsys.readouterr().err


def test_a_wrong_aggregation_is_caught(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(synthetic_checkpoint, "LABELS", dict.fromkeys(synthetic_checkpoint.LABELS, "mean"))
    assert verified() == 2
    assert "fairseq-signals': probabilities by" in capsys.readouterr().err
