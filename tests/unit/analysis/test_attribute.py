"""Attribution: it adds up, it lies where the label comes from, and what it points at matters more than the rest."""

import runpy
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from architectures import SMALL
from run_workflow import write_recordings
from torch import Tensor
from torch.nn import functional as F  # noqa: N812, the name that PyTorch code uses

from ecgpipe.analysis import attribute
from ecgpipe.analysis.attribute import explain, make_deletion_masks
from ecgpipe.analysis.integrated_gradients import Integral
from ecgpipe.cli import main
from ecgpipe.core import parquet, provenance, schemas
from ecgpipe.models.description import Architecture, describe
from ecgpipe.models.ecg_fm import network as ecg_fm_network
from ecgpipe.models.ecg_fm.network import Network
from ecgpipe.preprocessing.segments import Prepared
from ecgpipe.readers import LEADS

SAMPLES = 1600
STEP = 16
ARCH = replace(SMALL, layers=1, heads=2, position_kernel=16, labels=1)


class Beats(NamedTuple):
    """Twelve leads of a heart at rest, and where one beat of it is odd."""

    signal: np.ndarray  # (12, SAMPLES)
    odd: int | None


def beats(odd: bool, seed: int) -> Beats:
    """Narrow beats; an odd one is wide and the other way round."""
    random = np.random.default_rng(seed)
    times, gain = np.arange(SAMPLES), random.normal(1, 0.3, (12, 1))
    places = np.arange(200, SAMPLES - 100, 350) + random.integers(-20, 20)
    which = random.integers(len(places)) if odd else None
    signal = random.normal(0, 0.03, (12, SAMPLES))
    for number, place in enumerate(places):
        width, height = (22, -1.2) if number == which else (6, 1.0)
        signal += height * gain * np.exp(-0.5 * ((times - place) / width) ** 2)
    signal = (signal - signal.mean(axis=1, keepdims=True)) / signal.std(axis=1, keepdims=True)
    return Beats(signal.astype(np.float32), None if which is None else int(places[which]))


def batch(first: int, count: int = 24) -> tuple[Tensor, Tensor, list[int | None]]:
    made = [beats(bool(i % 2), first + i) for i in range(count)]
    odd = [one.odd for one in made]
    return torch.from_numpy(np.stack([one.signal for one in made])), torch.tensor([i % 2 for i in range(count)]), odd


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    """Products as small as these take longer where threads wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def detector() -> Network:
    """A network that was trained to tell whether there is an odd beat."""
    torch.manual_seed(0)
    network = Network(ARCH)
    optimizer = torch.optim.AdamW(network.parameters(), 3e-3)
    for step in range(40):
        signal, is_odd, _ = batch(100 * step)
        logits = network(signal, with_attention=False).logits[:, 0]
        loss = F.binary_cross_entropy_with_logits(logits, is_odd.float())
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return network.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def odd_ones() -> tuple[Prepared, list[int]]:
    signal, _, odd = batch(10**6, 24)
    places = [place for place in odd if place is not None]
    segments = signal[[place is not None for place in odd]].numpy()
    return Prepared(segments, np.zeros(len(segments), np.float32), SAMPLES, {}), places


def scaled(network: Network, prepared: Prepared, scale: float) -> np.ndarray:
    with torch.inference_mode():
        logits = network(torch.from_numpy(scale * prepared.segments), with_attention=False).logits
    values: np.ndarray = logits[:, 0].numpy()
    return values


def test_the_detector_detects(detector: Network) -> None:
    signal, is_odd, _ = batch(10**7)
    with torch.inference_mode():
        logits = detector(signal, with_attention=False).logits[:, 0]
    assert ((logits > 0) == is_odd.bool()).float().mean() >= 0.95


def test_one_odd_beat_lights_up_and_nothing_else(detector: Network, odd_ones: tuple[Prepared, list[int]]) -> None:
    prepared, places = odd_ones
    attribution = explain(detector, prepared, 0, steps=32, batch_size=16).attribution
    for values, place in zip(attribution, places, strict=True):
        favour = np.maximum(values, 0)
        beat = slice(place - 60, place + 61)  # 7.5 % of the time
        assert favour[:, beat].sum() > 0.6 * favour.sum()
        # Over a tenth of a second, its middle is where the most speaks for the label: to a token.
        sums = np.convolve(values.sum(axis=0), np.ones(50), "same")
        assert abs(sums.argmax() - place) <= 2 * STEP


def test_what_speaks_most_for_the_label_matters_more_than_anything_at_random(
    detector: Network, odd_ones: tuple[Prepared, list[int]]
) -> None:
    explained = explain(detector, odd_ones[0], 0, steps=32, batch_size=16)
    assert explained.drop.mean() > 5 * np.abs(explained.random_drop).mean()


def integral(network: Network, signal: Tensor, label: int) -> Tensor:
    """Integrated gradients by many steps of plain PyTorch, equal ones on a logarithmic scale: no Captum, no power."""
    scales = np.concatenate([[0.0], np.geomspace(1e-9, 1, 1500)])
    total = torch.zeros_like(signal)
    for low, high in pairwise(scales):
        x = (signal * ((low + high) / 2)).requires_grad_()
        [gradient] = torch.autograd.grad(network(x, with_attention=False).logits[:, label].sum(), x)
        total += gradient * signal * (high - low)
    return total


def random_network(arch: Architecture) -> Network:
    network = Network(arch).eval().requires_grad_(False)
    generator = torch.Generator().manual_seed(0)
    for tensor in network.parameters():
        tensor.copy_(torch.randn(tensor.shape, generator=generator) / max(1, tensor[0].numel()) ** 0.5)
    return network


def test_attributions_are_the_integral_of_the_gradients(odd_ones: tuple[Prepared, list[int]]) -> None:
    network = random_network(ARCH)
    prepared = odd_ones[0]._replace(segments=odd_ones[0].segments[:2])
    expected = integral(network, torch.from_numpy(prepared.segments), 0).numpy()
    found = explain(network, prepared, 0, steps=128, batch_size=64).attribution
    assert np.abs(found - expected).max() < 0.02 * np.abs(expected).max()
    assert np.corrcoef(found.ravel(), expected.ravel())[0, 1] > 0.999


def test_they_add_up_and_the_error_is_what_is_missing(odd_ones: tuple[Prepared, list[int]]) -> None:
    network, prepared = random_network(ARCH), odd_ones[0]
    explained = explain(network, prepared, 0, steps=64, batch_size=64)
    np.testing.assert_allclose(explained.logit, scaled(network, prepared, 1), atol=1e-5)
    np.testing.assert_allclose(explained.baseline_logit, scaled(network, prepared, 0), atol=1e-5)
    sums = explained.attribution.sum(axis=(1, 2), dtype=float)
    np.testing.assert_allclose(explained.error, sums - (explained.logit - explained.baseline_logit))
    assert np.abs(explained.error).mean() < 0.03 * np.abs(explained.logit - explained.baseline_logit).mean()


def test_neither_the_batch_nor_the_other_segments_change_what_a_segment_gets(
    detector: Network, odd_ones: tuple[Prepared, list[int]]
) -> None:
    prepared = odd_ones[0]._replace(segments=odd_ones[0].segments[:3])
    whole = explain(detector, prepared, 0, steps=8, batch_size=64)
    for size in (1, 5):
        counted: list[int] = []
        again = explain(detector, prepared, 0, steps=8, batch_size=size, count=counted.append)
        assert (sum(counted), len(counted)) == (3 * 8, 8)  # fewer than two steps of three segments fit into a batch
        scale = np.abs(whole.attribution).max()
        np.testing.assert_allclose(again.attribution, whole.attribution, atol=1e-4 * scale)
        np.testing.assert_allclose(again.random_drop, whole.random_drop, atol=1e-4)


def test_where_memory_runs_out_fewer_steps_are_taken_at_a_time(
    detector: Network, odd_ones: tuple[Prepared, list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    whole = attribute._integrate

    def little(*args: object) -> Integral:
        sizes.append(args[5])  # type: ignore[arg-type]
        if sizes[-1] > 5:
            raise torch.OutOfMemoryError
        return whole(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(attribute, "_integrate", little)
    prepared = odd_ones[0]._replace(segments=odd_ones[0].segments[:1])
    explain(detector, prepared, 0, steps=4, batch_size=16)
    assert sizes == [16, 8, 4]


def test_padding_and_missing_leads_get_nothing(detector: Network, odd_ones: tuple[Prepared, list[int]]) -> None:
    segments = odd_ones[0].segments[:2].copy()
    segments[:, :, 1000:] = 0
    segments[:, 4] = 0
    explained = explain(detector, Prepared(segments, np.zeros(2, np.float32), 1000, {}), 0, steps=8, batch_size=16)
    assert not explained.attribution[:, :, 1000:].any()
    assert not explained.attribution[:, 4].any()
    assert explained.attribution.any()


def test_a_tenth_is_deleted_in_whole_pieces_of_one_lead_and_token() -> None:
    attribution = np.random.default_rng(0).standard_normal((3, 12, 2500)).astype(np.float32)
    first, *random = make_deletion_masks(attribution, 2500, STEP, seed=1)
    assert len(random) == attribute.RANDOM_DELETIONS
    pieces = 12 * (2500 // STEP)
    for kept in (first, *random):
        assert kept.shape == attribution.shape
        whole = kept[..., : 2500 // STEP * STEP].reshape(3, 12, -1, STEP)
        assert (whole == whole[..., :1]).all()
        assert (whole[..., 0] == 0).sum(axis=(1, 2)).tolist() == [round(0.1 * pieces)] * 3
        assert kept[..., 2500 // STEP * STEP :].all()
    sums = attribution[..., : 2500 // STEP * STEP].reshape(3, 12, -1, STEP).sum(axis=3)
    deleted = first[..., : 2500 // STEP * STEP : STEP] == 0
    for values, gone in zip(sums, deleted, strict=True):
        assert values[gone].min() >= values[~gone].max()
    for one, again in zip(make_deletion_masks(attribution, 2500, STEP, seed=1), (first, *random), strict=True):
        np.testing.assert_array_equal(one, again)


def test_nothing_of_the_padding_is_deleted() -> None:
    attribution = np.zeros((1, 12, 2500), np.float32)
    for kept in make_deletion_masks(attribution, 1500, STEP, seed=1):
        assert kept[..., 1500 // STEP * STEP :].all()
        assert not kept.all()


# On the real network's architecture and real recordings


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tiny", "prenorm"])
def test_on_real_recordings_it_adds_up_and_its_tenth_matters_more_than_random_ones(
    name: str, reference: Path, tmp_path: Path, load_reference: Callable[[str], Network]
) -> None:
    network = load_reference(name)
    segments = np.load(reference / "golden" / "segments.npz")["signal"]  # (14, 12, 2500)
    prepared = Prepared(segments, np.zeros(len(segments), np.float32), 2500, {})
    golden = np.load(reference / "golden" / f"{name}.npz")["logits"]
    for label in (0, 3):
        explained = explain(network, prepared, label, steps=64, batch_size=32)
        np.testing.assert_allclose(explained.logit, golden[:, label], atol=1e-4)
        assert np.abs(explained.error).mean() < 0.05 * np.abs(explained.logit - explained.baseline_logit).mean()
        assert explained.drop.mean() > 2 * np.abs(explained.random_drop).mean()


@pytest.fixture
def load_reference(reference: Path, tmp_path: Path) -> Callable[[str], Network]:
    generator = runpy.run_path(str(reference / "make_checkpoint.py"))

    def load(name: str) -> Network:
        torch.save(generator["state"](name), tmp_path / "x.pt")
        labels = len(np.load(reference / "golden" / f"{name}.npz")["logits"][0])
        (tmp_path / "labels.csv").write_text("name,aggregation\n" + "".join(f"L{i},mean\n" for i in range(labels)))
        paths = tmp_path / "model.safetensors", tmp_path / "model.json"
        given = ["--source", tmp_path / "x.pt", "--labels", tmp_path / "labels.csv"]
        given += ["--weights", paths[0], "--description", paths[1]]
        assert main(["checkpoint", *map(str, given)]) == 0
        return ecg_fm_network.load(describe(paths[1]).architecture, paths[0], packed=False)

    return load


# The stage


@pytest.fixture
def finished(converted: Path, tmp_path: Path) -> Path:
    """A folder with what the stage reads: four recordings of 10 s, and a model of three labels."""
    write_recordings(tmp_path / "input", 4)
    assert main(["manifest", "--input", str(tmp_path / "input"), "--outdir", str(tmp_path / "manifest")]) == 0
    options = ["--segments", tmp_path / "segments.arrow", "--records", tmp_path / "records/shard-00000.parquet"]
    assert main(["preprocess", "--shard", str(tmp_path / "manifest/shard-00000.parquet"), *map(str, options)]) == 0
    return tmp_path


def attributed(folder: Path, *options: str, status: int = 0) -> tuple[pa.Table, pa.Table]:
    output, leads = folder / "attribution.parquet", folder / "leads.parquet"
    given = ["--weights", folder / "out/model.safetensors", "--description", folder / "out/model.json"]
    given += ["--manifest", folder / "manifest", "--records", folder / "records", "--output", output, "--leads", leads]
    assert main(["attribute", *map(str, given), "--steps", "4", "--device", "cpu", *options]) == status
    return (pq.read_table(output), pq.read_table(leads)) if status == 0 else (pa.table({}), pa.table({}))


def test_the_files_have_a_row_for_each_segment_and_label_and_for_each_lead(finished: Path) -> None:
    table, leads = attributed(
        finished, "--record-ids", "recording002", "recording000", "--label", "Sinus rhythm", "Électrode"
    )
    assert table.schema.equals(schemas.attribution_schema(12, 2500))
    keys = [(row["record_id"], row["label"], row["segment"], row["start_s"]) for row in table.to_pylist()]
    pairs = [(name, label) for name in ("recording002", "recording000") for label in ("Sinus rhythm", "Électrode")]
    assert keys == [(*pair, segment, 5.0 * segment) for pair in pairs for segment in (0, 1)]
    assert [(row["record_id"], row["label"], row["lead"]) for row in leads.to_pylist()] == [
        (*pair, lead) for pair in pairs for lead in LEADS
    ]
    values = np.array(table["attribution"].to_pylist()).reshape(-1, 12, 2500)
    for number in range(len(pairs)):
        some = values[2 * number : 2 * number + 2]
        rows = leads.slice(12 * number, 12).to_pydict()
        np.testing.assert_allclose(rows["favour"], np.maximum(some, 0).sum(axis=(0, 2)), rtol=1e-4, atol=1e-9)
        np.testing.assert_allclose(rows["against"], np.minimum(some, 0).sum(axis=(0, 2)), rtol=1e-4, atol=1e-9)
        assert sum(rows["share"]) == pytest.approx(1)
    origin = provenance.read_origin(pq.read_schema(finished / "attribution.parquet"))
    assert origin["method"] == {"name": "integrated gradients", "baseline": "flat line", "steps": 4, "power": 8}


def test_the_logits_are_those_of_the_inference(finished: Path) -> None:
    given = ["--weights", "out/model.safetensors", "--description", "out/model.json", "--segments", "segments.arrow"]
    given += ["--logits", "logits.parquet", "--embeddings", "embeddings.parquet", "--timing", "timing.json"]
    options = [text if text.startswith("--") else str(finished / text) for text in given]
    assert main(["infer", *options, "--device", "cpu"]) == 0
    logits = {(r["record_id"], r["segment"]): r for r in pq.read_table(finished / "logits.parquet").to_pylist()}
    table, _ = attributed(finished, "--record-ids", "recording003")
    assert set(table["label"].to_pylist()) == {"Poor data quality", "Sinus rhythm", "Électrode"}
    for row in table.to_pylist():
        assert row["logit"] == pytest.approx(logits[row["record_id"], row["segment"]][row["label"]], abs=1e-5)


def test_the_highest_probability_of_each_label_is_attributed_to_it_the_most_varied_label_first(finished: Path) -> None:
    names = ["Poor data quality", "Sinus rhythm", "Électrode"]
    values = [[0.1, 0.2, 0.15, 0.1], [0.0, 0.9, 0.3, 1.0], [0.4, 0.1, 0.5, 0.2]]
    columns = [[f"recording00{i}" for i in range(4)], [2] * 4, *values]
    schema = schemas.predictions_schema(names)
    parquet.write(finished / "predictions/part-00000.parquet", pa.table(columns, schema=schema))
    expected = [("recording003", "Sinus rhythm"), ("recording002", "Électrode"), ("recording001", "Poor data quality")]
    for most in (3, 2):
        table, _ = attributed(finished, "--predictions", str(finished / "predictions"), "--recordings", str(most))
        assert [(row["record_id"], row["label"]) for row in table.to_pylist()[::2]] == expected[:most]


def test_a_model_without_a_head_gives_files_without_rows(finished: Path) -> None:
    columns = [[f"recording00{i}" for i in range(4)], [2] * 4]
    parquet.write(finished / "predictions/part-00000.parquet", pa.table(columns, schema=schemas.predictions_schema([])))
    table, leads = attributed(finished, "--predictions", str(finished / "predictions"))
    assert len(table) == len(leads) == 0
    assert table.schema.equals(schemas.attribution_schema(12, 2500))


def test_an_attribution_that_is_not_finite_is_left_out_and_reported(
    finished: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    integrated = attribute._integrate

    def with_nan(*given: Any) -> Integral:  # noqa: ANN401, what it is given, it passes on
        integral = integrated(*given)
        if given[3] == 1:  # the target: the second label
            integral.attribution[1, 2, 3] = np.nan
        return integral

    monkeypatch.setattr(attribute, "_integrate", with_nan)
    table, leads = attributed(finished, "--record-ids", "recording001")
    assert set(table["label"].to_pylist()) == set(leads["label"].to_pylist()) == {"Poor data quality", "Électrode"}
    said = capsys.readouterr().err
    assert "recording001 is left out: its attribution to 'Sinus rhythm' has numbers that are not finite" in said


def test_a_recording_that_is_missing_is_left_out_and_reported(
    finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (finished / "input/recording001.mat").unlink()
    table, leads = attributed(finished, "--record-ids", "recording001", "recording002", "--label", "Sinus rhythm")
    assert set(table["record_id"].to_pylist()) == set(leads["record_id"].to_pylist()) == {"recording002"}
    assert "recording001 is left out: a file is not there" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--record-ids", "nobody"], "--record-ids: 'nobody' is no recording of"),
        (["--record-ids", "recording000", "--label", "Flutter"], "--label: 'Flutter' is no label of"),
    ],
)
def test_what_is_not_there_is_said(
    options: list[str], says: str, finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    attributed(finished, *options, status=2)
    assert says in capsys.readouterr().err
