"""Steps by the completeness error: as exact as many equal ones, with fewer of them, for each family of models."""

import runpy
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import golden_models
import numpy as np
import pytest
import torch
from torch import Tensor

from ecgpipe.analysis import integrated_gradients
from ecgpipe.analysis.attribute import explain
from ecgpipe.analysis.integrated_gradients import MOST_STEPS, choose_places, integrate
from ecgpipe.cli import main
from ecgpipe.models import networks
from ecgpipe.models.description import describe
from ecgpipe.models.output import AnyNetwork
from ecgpipe.preprocessing.segments import Prepared
from ecgpipe.preprocessing.transform import transform

LABEL = 1


class Curve(torch.nn.Module):
    """A network whose logit is a function of the mean of the signal, and which counts what it is asked."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function, self.asked = function, 0

    def forward(self, x: Tensor, samples: Tensor, with_attention: bool) -> "Curve":
        assert not with_attention
        self.asked += len(x)
        self.logits = self.function(x.mean(dim=(1, 2)))[:, None]
        return self


def integrated(
    function: Callable[[Tensor], Tensor], tolerance: float = 0.05, batch_size: int = 16
) -> tuple[Curve, integrated_gradients.Integral]:
    network: Any = Curve(function)
    counted: list[int] = []
    signal = torch.ones(1, 2, 8)
    found = integrate(network, signal, torch.tensor([8]), 0, tolerance, batch_size, counted.append)
    assert sum(counted) == found.steps.sum() == network.asked - 1  # each point once, and the flat line
    return network, found


def test_more_steps_are_taken_where_the_logit_changes_and_until_it_adds_up() -> None:
    def bend(sharpness: float) -> Callable[[Tensor], Tensor]:
        return lambda mean: torch.tanh(sharpness * (mean - 0.3))

    steps = []
    for sharpness in (1.0, 30.0, 3000.0):
        _, found = integrated(bend(sharpness))
        difference = found.logit - found.baseline_logit
        missed = found.attribution.sum(axis=(1, 2)) - difference
        assert abs(missed) <= 0.05 * abs(difference)
        steps.append(int(found.steps[0]))
    assert steps[0] < steps[1] < steps[2] < MOST_STEPS


def test_a_smaller_tolerance_takes_more_steps_and_misses_less() -> None:
    missed, steps = [], []
    for tolerance in (0.2, 0.01, 0.001):
        _, found = integrated(lambda mean: torch.sin(9 * mean), tolerance)
        missed.append(abs(float(found.attribution.sum() - (found.logit - found.baseline_logit)[0])))
        steps.append(int(found.steps[0]))
    assert steps[0] < steps[1] < steps[2]
    assert missed[2] < 0.001


def test_what_never_adds_up_ends_with_its_error() -> None:
    def jump(mean: Tensor) -> Tensor:
        return (mean > 0.5).float() + 0 * mean

    _, found = integrated(jump)
    assert found.steps[0] <= MOST_STEPS
    assert abs(found.attribution.sum() - 1) > 0.5


def test_errors_that_cancel_do_not_pass_for_none() -> None:
    logits, slopes = {0.0: 0.0, 0.5: 5.0, 1.0: 1.0}, {0.0: 0.0, 0.5: 4.0, 1.0: -4.0}
    # Steps of 1 and 0 for differences of 5 and -4: together exact, each far away.
    assert choose_places(logits, slopes, 0.05) == [0.25, 0.75]
    # Steps of 0.5 and 0.5 for differences of 0.5 and 0.5.
    assert choose_places({0.0: 0.0, 0.5: 0.5, 1.0: 1.0}, dict.fromkeys((0.0, 0.5, 1.0), 1.0), 0.05) == []


def test_numbers_that_are_not_finite_end_it() -> None:
    assert choose_places({0.0: 0.0, 1.0: 1.0}, {0.0: 0.0, 1.0: float("nan")}, 0.05) == []


def test_the_batch_and_the_other_segments_change_nothing() -> None:
    signal = torch.tensor([0.1, 1.0, 3.0])[:, None, None].expand(3, 2, 8)
    network: Any = Curve(lambda mean: torch.sin(9 * mean))
    given = (torch.full((3,), 8), 0, 0.05)
    whole = integrate(network, signal, *given, 64, lambda _: None)
    assert len(set(whole.steps.tolist())) > 1
    for size in (1, 5):
        again = integrate(network, signal, *given, size, lambda _: None)
        np.testing.assert_array_equal(again.steps, whole.steps)
        np.testing.assert_allclose(again.attribution, whole.attribution, rtol=1e-5, atol=1e-7)
    alone = integrate(network, signal[1:2], torch.tensor([8]), 0, 0.05, 64, lambda _: None)
    np.testing.assert_allclose(alone.attribution[0], whole.attribution[1], rtol=1e-5, atol=1e-7)


# The families' networks on real recordings, against many steps of plain PyTorch


def expected(network: AnyNetwork, signal: Tensor, samples: Tensor) -> np.ndarray:
    """1,500 steps, equal ones on a logarithmic scale: no Captum, no power, no trapezoids."""
    scales = np.concatenate([[0.0], np.geomspace(1e-9, 1, 1500)])
    middles = torch.tensor([(low + high) / 2 for low, high in pairwise(scales)], dtype=torch.float32)
    widths = torch.tensor(np.diff(scales), dtype=torch.float32)
    total = torch.zeros_like(signal)
    for number, (one, n) in enumerate(zip(signal, samples, strict=True)):
        for some in torch.split(torch.arange(len(middles)), 30):
            x = (middles[some, None, None] * one).requires_grad_()
            logits = network(x, n.expand(len(some)), with_attention=False).logits
            assert logits is not None
            [gradient] = torch.autograd.grad(logits[:, LABEL].sum(), x)
            total[number] += (gradient * widths[some, None, None]).sum(dim=0) * one
    return total.numpy()


def load(folder: Path, checkpoint: Path, *options: str) -> AnyNetwork:
    weights, description = folder / "model.safetensors", folder / "model.json"
    given = ["--source", checkpoint, "--weights", weights, "--description", description, *options]
    assert main(["checkpoint", *map(str, given)]) == 0
    return networks.load_network(describe(description), weights, packed=False)


def ecg_fm(reference: Path, folder: Path, name: str = "tiny") -> tuple[AnyNetwork, np.ndarray]:
    generator = runpy.run_path(str(reference / "make_checkpoint.py"))
    torch.save(generator["state"](name), folder / "x.pt")
    labels = len(np.load(reference / "golden" / f"{name}.npz")["logits"][0])
    (folder / "labels.csv").write_text("name,aggregation\n" + "".join(f"L{i},mean\n" for i in range(labels)))
    network = load(folder, folder / "x.pt", "--labels", str(folder / "labels.csv"))
    return network, np.load(reference / "golden" / "segments.npz")["signal"][:2]


def other(reference: Path, folder: Path, family: str, variant: str, *options: str) -> tuple[AnyNetwork, np.ndarray]:
    checkpoint = golden_models.make_checkpoint(reference, family, variant, folder)
    network = load(folder, checkpoint, *options)
    declared = describe(folder / "model.json").model_input
    random = np.random.default_rng(0)
    signal = np.cumsum(random.normal(0, 0.02, (12, 10 * 400)), axis=1)
    signal -= np.linspace(0, 1, signal.shape[1]) * signal[:, -1:]
    return network, transform(signal, 400, declared).windows[:1]


FAMILIES = {
    "ecg-fm": ecg_fm,
    "ecgfounder": lambda *given: other(*given, "ecgfounder", "tiny", "--labels", "index", "--model", "ecgfounder"),
    "deepecg-ssl": lambda *given: other(*given, "deepecg_ssl", "tiny77", "--labels", "index", "--model", "deepecg-ssl"),
    "hubert-ecg": lambda *given: other(*given, "hubert_ecg", "tiny_sft", "--labels", "index", "--model", "hubert-ecg"),
}


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_every_familys_attributions_are_the_integral_of_the_gradients(
    family: str, reference: Path, tmp_path: Path
) -> None:
    network, segments = FAMILIES[family](reference, tmp_path)
    signal, samples = torch.from_numpy(segments), torch.full((len(segments),), segments.shape[2])
    exact = expected(network, signal, samples)
    prepared = Prepared(segments, np.zeros(len(segments), np.float32), segments.shape[2], {})
    found = explain(network, prepared, LABEL, None, 16)
    difference = np.abs(found.logit - found.baseline_logit)
    allowed = 0.05 * np.maximum(difference, integrated_gradients.LEAST_DIFFERENCE)
    assert (np.abs(found.error) <= allowed)[found.steps < MOST_STEPS].all()
    assert (found.steps < MOST_STEPS).all()
    alike = np.corrcoef(found.attribution.ravel(), exact.ravel())[0, 1]
    apart = np.linalg.norm(found.attribution - exact) / np.linalg.norm(exact)
    print(f"{family}: steps {found.steps}, error {found.error / difference}, {alike:.4f}, {apart:.3f}, {difference}")
    assert alike > 0.98
    assert apart < 0.2
