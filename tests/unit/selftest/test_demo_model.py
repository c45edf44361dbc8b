"""The demo's model does what its page says, on simulated hearts that neither the training nor the demo has."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import demo_weights
from ecgpipe.analysis import attribute
from ecgpipe.core import settings
from ecgpipe.models import checkpoint, fairseq_checkpoint, labels
from ecgpipe.models.description import describe
from ecgpipe.models.ecg_fm import network as ecg_fm_network
from ecgpipe.models.ecg_fm.network import Network
from ecgpipe.preprocessing.segments import Windows, prepare
from ecgpipe.readers import LEADS, Recording
from ecgpipe.selftest import demo_model, dipole, simulator
from ecgpipe.selftest.simulator import LABELS, RHYTHMS

HEARTS = 110  # ten of each rhythm
FOR_TESTS = 7  # the seed of a set of hearts that is nobody else's


@pytest.fixture(scope="module")
def network() -> Network:
    content = demo_model.read_content()
    arch = fairseq_checkpoint.read_architecture(content["cfg"]["model"])
    tensors = fairseq_checkpoint.convert_tensors(content["model"], arch, demo_model.WEIGHTS)
    return ecg_fm_network.from_tensors(arch, tensors, packed=False)


@pytest.fixture(scope="module")
def hearts() -> demo_weights.Hearts:
    return demo_weights.make_hearts(FOR_TESTS, HEARTS, 1)


def test_it_tells_hearts_apart_that_it_never_saw(network: Network, hearts: demo_weights.Hearts) -> None:
    read = labels.read(demo_model.FOLDER / demo_model.LABELS)
    at = [label.threshold or 0.5 for label in read]
    probabilities = demo_weights.aggregate(demo_weights.predict(network, hearts))
    measured = demo_weights.measure(probabilities, hearts.labels.numpy(), at)
    assert measured["macro"]["auroc"] > 0.93
    assert measured["macro"]["sensitivity"] + measured["macro"]["specificity"] > 1.6
    assert min(row["auroc"] for row in measured.values()) > 0.8, measured


def test_the_committed_score_is_of_the_committed_weights() -> None:
    score = json.loads((demo_model.FOLDER / "score.json").read_text())
    weights = (demo_model.FOLDER / demo_model.WEIGHTS).read_bytes()
    assert score["sha256"] == hashlib.sha256(weights).hexdigest()
    assert score["bytes"] == len(weights) < 1_000_000
    assert score["parameters"] < 500_000
    assert score["held_out"]["macro"]["auroc"] > 0.93
    assert set(score["held_out"]) == {*LABELS, "macro"}
    assert (demo_model.FOLDER / "README.md").read_text() == demo_weights.describe(score)


def test_the_checkpoint_stage_accepts_it(tmp_path: Path) -> None:
    torch.save(demo_model.read_content(), tmp_path / "checkpoint.pt")
    asked = settings.Checkpoint(
        source=str(tmp_path / "checkpoint.pt"), labels=str(demo_model.FOLDER / demo_model.LABELS)
    )
    checkpoint.convert_checkpoint(tmp_path / "model.safetensors", tmp_path / "model.json", asked)
    description = describe(tmp_path / "model.json")
    assert description.demo_model
    assert not description.random_weights
    assert description.labels == LABELS


def test_attribution_lights_up_the_odd_beat(network: Network) -> None:
    target = LABELS.index("Premature ventricular contraction")
    shares, stretches = [], []
    for number in range(40):
        rng = np.random.default_rng([FOR_TESTS, 1, number])
        simulated = simulator.record(RHYTHMS["premature"], dipole.draw_body(rng), 500, rng)
        odd = simulated.beats.times_s[simulated.beats.premature]
        odd = odd[(odd > 0.4) & (odd < 4.6)]  # in the first segment, T wave and all
        if len(odd) != 1 or simulated.beats.premature.sum() != 1:
            continue
        prepared = prepare(Recording(simulated.signal, 500.0, LEADS, "mV"), Windows(), {})
        first = prepared._replace(segments=prepared.segments[:1], starts_s=prepared.starts_s[:1])
        attribution = attribute.explain(network, first, target, 24, 24).attribution[0]  # (12, 2500)
        positive = np.maximum(attribution.sum(axis=0), 0)
        near = np.abs(np.arange(2500) / 500 - odd[0]) < 0.35
        shares.append(float(positive[near].sum() / positive.sum()))
        stretches.append(float(near.mean()))
        if len(shares) == 6:
            break
    assert len(shares) >= 4
    assert float(np.median(shares)) > 2.5 * float(np.mean(stretches)), shares


def test_the_nearest_recordings_have_the_same_rhythm(network: Network, hearts: demo_weights.Hearts) -> None:
    with torch.inference_mode():
        vectors = torch.cat(
            [
                network(chunk[:, :, :2500].float(), with_attention=False).embedding
                for chunk in torch.split(hearts.signals, 32)
            ]
        )
    vectors = torch.nn.functional.normalize(vectors, dim=1)
    similar = vectors @ vectors.T
    nearest = similar.fill_diagonal_(-2).argmax(dim=1).numpy()
    rhythms = np.arange(HEARTS) % len(RHYTHMS)
    assert (rhythms[nearest] == rhythms).mean() > 0.4  # by chance 0.09; a tachycardia may be a flutter


def test_training_is_the_same_to_the_last_bit() -> None:
    some = demo_weights.make_hearts(FOR_TESTS, 16, 1)
    torch.use_deterministic_algorithms(True)
    try:
        first, second = demo_weights.start_network(), demo_weights.start_network()
        logs = [demo_weights.train(one, some, epochs=1) for one in (first, second)]
    finally:
        torch.use_deterministic_algorithms(False)
    assert logs[0] == logs[1]
    names = first.state_dict()
    assert all(torch.equal(names[name], tensor) for name, tensor in second.state_dict().items())
    untrained = demo_weights.start_network().state_dict()
    assert not torch.equal(names["head.weight"], untrained["head.weight"])


def test_what_is_written_is_what_was_trained(tmp_path: Path) -> None:
    network = demo_weights.start_network()
    state = demo_weights.name_upstream(network)
    converted = fairseq_checkpoint.convert_tensors(state, network.arch, "here")
    for name, tensor in network.state_dict().items():
        assert torch.allclose(converted[name], tensor, rtol=0, atol=1e-6), name


def test_a_premature_beat_counts_in_its_segment_alone() -> None:
    hearts = demo_weights.Hearts(torch.zeros(1, 12, 5000), torch.ones(1, len(LABELS)), ((3.0,),))
    at = demo_weights.PREMATURE
    for start, label, weight in ((0, 1, 1), (1490, 0, 0), (1600, 0, 1), (2500, 0, 1)):
        _, truth, weights = demo_weights.cut(hearts, torch.tensor([0]), torch.tensor([start]))
        assert [truth[0, at].item(), weights[0, at].item()] == [label, weight], start
