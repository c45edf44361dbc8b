"""Results are finite: what half precision cannot compute is computed in float32, and broken weights end inference."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import checkpoints
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from segment_files import infer_options, signals, write_shard

from ecgpipe import ECGFM
from ecgpipe.cli import main
from ecgpipe.core import schemas
from ecgpipe.core.errors import EcgpipeError
from ecgpipe.inference import aggregate, engine, non_finite_outputs, segment_files
from ecgpipe.inference.engine import Results
from ecgpipe.models import labels
from ecgpipe.models.description import Description, describe
from ecgpipe.models.ecg_fm import network as ecg_fm_network
from ecgpipe.preprocessing.segments import Windows
from ecgpipe.readers import LEADS

ROWS = [(f"r{row // 3}", row % 3) for row in range(40)]
NAMES = ["Poor data quality", "Sinus rhythm", "Électrode"]
# Every fourth segment is nearly flat but for one spike, of which the first layers make larger numbers than of noise.
SIGNALS = signals(len(ROWS))
SIGNALS[::4] *= 0.01
SIGNALS[::4, :, 200] = np.arange(1, 13)
HALF = torch.float16


def overflowing() -> dict[str, Any]:
    """A classifier whose second convolution goes beyond what float16 holds for the segments with a spike."""
    content = checkpoints.classifier()
    content["model"]["encoder.feature_extractor.conv_layers.1.0.weight"] *= 6000
    return content


@pytest.fixture
def converted(tmp_path: Path, run: Callable[..., Description], save: Callable[..., Path]) -> Path:
    run(save(overflowing()))
    return tmp_path / "out"


@pytest.fixture
def in_half(monkeypatch: pytest.MonkeyPatch) -> None:
    """A CPU computes in float16 too, slowly and without oneDNN, so that what a GPU does can be seen on one."""
    monkeypatch.setattr(engine, "usable", lambda precision, device: precision)
    monkeypatch.setattr(ecg_fm_network, "ONEDNN", False)


def outputs(folder: Path) -> list[np.ndarray]:
    """Logits, embeddings and attention, a row per segment."""
    frames = {
        kind: pq.read_table(folder / f"{kind}.parquet").to_pandas() for kind in ("logits", "embeddings", "attention")
    }
    for frame in frames.values():
        assert list(zip(frame["record_id"], frame["segment"], strict=True)) == ROWS
    vectors = [frames["embeddings"]["embedding"], frames["attention"]["attention"]]
    return [frames["logits"][NAMES].to_numpy(), *(np.stack(list(column)) for column in vectors)]


def expected(converted: Path, dtype: torch.dtype) -> list[np.ndarray]:
    network = ecg_fm_network.load(
        describe(converted / "model.json").architecture, converted / "model.safetensors", dtype=dtype
    )
    samples = np.full(len(ROWS), SIGNALS.shape[2], np.int32)
    results = engine.forward(network, SIGNALS, samples, torch.device("cpu"), 4, True)
    return [output for output in results if output is not None]


@pytest.mark.usefixtures("in_half")
@pytest.mark.parametrize("batch", [1, 3, 64])
def test_segments_that_half_precision_cannot_compute_get_the_numbers_of_float32(converted: Path, batch: int) -> None:
    cuts = [slice(0, 17), slice(17, 17), slice(17, 40)]
    paths = [
        write_shard(converted / f"{number}.arrow", ROWS[cut], SIGNALS[cut], batch=5) for number, cut in enumerate(cuts)
    ]
    half, exact = expected(converted, HALF), expected(converted, torch.float32)
    bad = ~np.logical_and.reduce([np.isfinite(output).all(axis=1) for output in half])
    assert 0 < bad.sum() < len(ROWS)
    options = ["--precision", "float16", "--batch-size", str(batch)]
    assert main(["infer", *infer_options(converted, paths, converted, *options)]) == 0
    for made, halved, precise in zip(outputs(converted), half, exact, strict=True):
        np.testing.assert_allclose(made[bad], precise[bad], rtol=0, atol=1e-5)
        np.testing.assert_allclose(made[~bad], halved[~bad], rtol=0, atol=1e-2)
    timing = json.loads((converted / "timing.json").read_text())
    assert (timing["precision"], timing["recomputed_segments"]) == ("float16", bad.sum())


@pytest.mark.usefixtures("in_half")
def test_what_is_finite_is_not_computed_again(
    tmp_path: Path, run: Callable[..., Description], save: Callable[..., Path]
) -> None:
    run(save(checkpoints.classifier()))
    out = tmp_path / "out"
    path = write_shard(out / "0.arrow", ROWS, SIGNALS)
    assert main(["infer", *infer_options(out, [path], out, "--precision", "float16")]) == 0
    assert json.loads((out / "timing.json").read_text())["recomputed_segments"] == 0


def broken() -> dict[str, Any]:
    """A classifier with one weight that is not a number."""
    content = checkpoints.classifier()
    content["model"]["proj.bias"][1] = torch.nan
    return content


def test_a_network_with_broken_weights_ends_inference_and_leaves_no_file(
    tmp_path: Path,
    run: Callable[..., Description],
    save: Callable[..., Path],
    capsys: pytest.CaptureFixture[str],
) -> None:
    run(save(broken()))
    out = tmp_path / "out"
    path = write_shard(out / "0.arrow", ROWS, SIGNALS)
    assert main(["infer", *infer_options(out, [path], out)]) == 2
    said = capsys.readouterr().err
    assert "gives numbers that are not finite for segment 0 of 'r0', in float32 too: its weights are damaged" in said
    assert not list(out.glob("*.parquet"))


def test_the_segment_that_the_message_names_is_the_one(tmp_path: Path) -> None:
    def stream() -> engine.Stream:
        for first in (0, 2):
            logits = np.zeros((2, 3), np.float32)
            logits[1, 2] = np.inf if first else 0
            keys = segment_files.Keys([f"r{first}", f"r{first + 1}"], np.array([4, 5]), np.zeros(2), np.zeros(2))
            yield keys, Results(logits, np.zeros((2, 8), np.float32), None)

    with pytest.raises(EcgpipeError, match=r"x\.pt gives numbers that are not finite for segment 5 of 'r3'"):
        list(non_finite_outputs.check_stream(stream(), "x.pt", lambda rows: SIGNALS[rows], None, 2))


@pytest.mark.parametrize("kind", [0, 1, 2])
def test_each_output_is_looked_at(kind: int) -> None:
    arrays = [np.zeros((3, width), np.float32) for width in (3, 8, 5)]
    arrays[kind][2, 1] = np.nan
    with pytest.raises(EcgpipeError, match="finite for row 2"):
        non_finite_outputs.ensure_finite(Results(*arrays), None, "row {}".format, "x.pt")


@pytest.mark.usefixtures("in_half")
def test_in_a_notebook_too_half_precision_gives_finite_numbers(tmp_path: Path) -> None:
    (tmp_path / "x.pt").write_bytes(checkpoints.saved(overflowing()))
    given: dict[str, Any] = {"labels": "index", "device": "cpu", "batch_size": 4}
    exact = ECGFM.from_checkpoint(tmp_path / "x.pt", **given)
    half = ECGFM.from_checkpoint(tmp_path / "x.pt", precision="float16", **given)
    windows = Windows(segment_s=SIGNALS.shape[2] / 500)
    recordings = list(SIGNALS)
    alone = expected_in_half(half, recordings, windows)
    assert 0 < alone.sum() < len(ROWS)
    for method in ("predict", "logits", "embed", "attention"):
        made, precise = (getattr(one, method)(recordings, 500, LEADS, windows=windows) for one in (half, exact))
        assert np.isfinite(made.to_numpy()).all()
        np.testing.assert_allclose(made.to_numpy()[alone], precise.to_numpy()[alone], rtol=0, atol=1e-5)


def expected_in_half(half: ECGFM, recordings: list[np.ndarray], windows: Windows) -> np.ndarray:
    """Which recordings half precision alone gives no finite numbers for."""
    without = ECGFM(half.network, half.description, half.labels, half.device, half.batch_size)
    bad = []
    for recording in recordings:
        try:
            without.embed(recording, 500, LEADS, windows=windows)
            bad.append(False)
        except EcgpipeError:
            bad.append(True)
    return np.array(bad)


def test_from_python_broken_weights_are_an_error(tmp_path: Path) -> None:
    (tmp_path / "x.pt").write_bytes(checkpoints.saved(broken()))
    ecgfm = ECGFM.from_checkpoint(tmp_path / "x.pt", labels="index", device="cpu")
    with pytest.raises(EcgpipeError, match="not finite for segment 0 of recording 0"):
        ecgfm.predict(np.random.default_rng(0).standard_normal((12, 2500)), 500, LEADS)


def test_predict_states_which_file_broken_weights_failed_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "x.pt").write_bytes(checkpoints.saved(broken()))
    np.savez(
        tmp_path / "ecg.npz", signal=np.random.default_rng(0).standard_normal((12, 2500)), sample_rate=500, leads=LEADS
    )
    given = ["--checkpoint", str(tmp_path / "x.pt"), "--labels", "index", "--device", "cpu"]
    assert main(["predict", str(tmp_path / "ecg.npz"), *given]) == 2
    assert "not finite for segment 0 of 'ecg', in float32 too" in capsys.readouterr().err


def test_logits_that_an_older_version_wrote_are_not_aggregated(tmp_path: Path) -> None:
    columns = [pa.array(["a", "b"]), pa.array([0, 1], pa.int32()), pa.array([0, 5], pa.float32())]
    columns.append(pa.array([0.5, np.nan], pa.float32()))
    table = pa.table(columns, schema=schemas.logits_schema(["AF"]))
    with pytest.raises(
        EcgpipeError, match="1 of 2 logits of 'AF' are not finite numbers, the first that of segment 1 of 'b'"
    ):
        aggregate.predict(table, [labels.Label("AF", "mean", None)])
