"""The ways to run the network: the same numbers in each, and the plain way where one is not there."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from architectures import SMALL
from segment_files import SAMPLES, signals

from ecgpipe.inference import engine
from ecgpipe.models.ecg_fm import network as ecg_fm_network
from ecgpipe.models.ecg_fm.network import Network
from ecgpipe.models.ecg_fm.tuning import BY_DEVICE, Tuning, for_device

ARCH = replace(
    SMALL, conv_layers=((16, 2, 2),) * 2, width=32, layers=2, heads=4, hidden=64, position_kernel=16, labels=3
)
CPU = torch.device("cpu")
FULL, PADDED = [SAMPLES] * 10, [SAMPLES, 77, *[SAMPLES] * 8]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a small network."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "model.safetensors"
    safetensors.torch.save_file(Network(ARCH).state_dict(), path)
    return path


def said(weights: Path, counts: list[int], tuning: Tuning | None, packed: bool = True) -> engine.Results:
    """What the network says of ten segments, three at a time."""
    values = signals(10)
    for row, count in enumerate(counts):
        values[row, :, count:] = 0
    network = ecg_fm_network.load(ARCH, weights, packed=packed, tuning=tuning)
    return engine.forward(network, values, np.array(counts, np.int32), CPU, 3, True, tuning)


def assert_same(one: engine.Results, other: engine.Results, atol: float) -> None:
    for expected, made in zip(one, other, strict=True):
        assert expected is not None
        assert made is not None
        np.testing.assert_allclose(made, expected, rtol=0, atol=atol)


def test_each_kind_of_device_has_its_tuning() -> None:
    assert for_device("cuda:3") == for_device(torch.device("cuda")) == BY_DEVICE["cuda"]
    assert for_device("cpu") == Tuning(batch_size=16, position="fourier", graphs=False, compiled=False)


def test_the_batch_size_is_the_tunings() -> None:
    tuning = replace(for_device("cpu"), batch_size=100)
    assert engine.default_batch_size(CPU, 2500, tuning) == 100
    assert engine.default_batch_size(CPU, 5000, tuning) == 50


@pytest.mark.parametrize("counts", [FULL, PADDED], ids=["full", "padded"])
def test_direct_positions_change_no_result_beyond_rounding(counts: list[int], weights: Path) -> None:
    assert_same(said(weights, counts, None), said(weights, counts, replace(for_device("cpu"), position="direct")), 1e-5)


def test_without_a_gpu_there_are_no_graphs_and_the_log_reports_it(
    weights: Path, caplog: pytest.LogCaptureFixture
) -> None:
    made = said(weights, FULL, replace(for_device("cpu"), graphs=True))
    assert_same(said(weights, FULL, None), made, 0)
    assert caplog.text.count("going on without CUDA graphs: a cpu has none") == 1


def test_where_nothing_can_be_compiled_the_network_runs_as_it_is(
    weights: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_compiler(*_: object, **__: object) -> None:
        raise RuntimeError("there is no compiler\nlook here and there")

    monkeypatch.setattr(torch, "compile", no_compiler)
    made = said(weights, FULL, replace(for_device("cpu"), compiled=True, graphs=True))
    assert_same(said(weights, FULL, None), made, 0)
    assert caplog.text.count("going on without torch.compile: there is no compiler") == 1
    assert "look here" not in caplog.text


@pytest.mark.parametrize("error", [RuntimeError("a bug"), ValueError("another")])
def test_an_error_of_the_network_itself_is_raised_whatever_the_way(
    error: Exception, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise error

    monkeypatch.setattr(Network, "forward", broken)
    for compiled in (False, True):
        with pytest.raises(type(error), match=str(error)):
            said(weights, FULL, replace(for_device("cpu"), compiled=compiled, graphs=True))


@pytest.mark.slow
def test_compiled_the_network_gives_the_same(weights: Path, caplog: pytest.LogCaptureFixture) -> None:
    # Unpacked: what torch.compile makes of a network takes no weights that are laid out for oneDNN already.
    made = said(weights, PADDED, replace(for_device("cpu"), compiled=True), packed=False)
    assert_same(said(weights, PADDED, None, packed=False), made, 1e-5)
    assert "going on without" not in caplog.text
