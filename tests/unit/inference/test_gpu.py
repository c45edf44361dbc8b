"""Inference on a GPU: the numbers of the CPU, in any precision, and what happens when its memory is full."""

import json
from collections.abc import Callable
from pathlib import Path

import checkpoints
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from scipy.special import expit
from segment_files import infer_options, signals, write_shard

from ecgpipe import ECGFM
from ecgpipe.cli import main
from ecgpipe.core import provenance
from ecgpipe.models.description import Description
from ecgpipe.readers import LEADS

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="PyTorch sees no GPU here"),
]

DEVICE, HALF = "cuda", "float16"
LABELS = ["Poor data quality", "Sinus rhythm", "Électrode"]
ROWS = [(f"r{row // 3}", row % 3) for row in range(100)]
COUNTS = [400 if row % 4 else 100 + row for row in range(len(ROWS))]


@pytest.fixture
def converted(tmp_path: Path, run: Callable[..., Description], save: Callable[..., Path]) -> Path:
    """The folder of a small converted checkpoint with four heads."""
    content = checkpoints.classifier()
    content["cfg"]["model"]["encoder_attention_heads"] = 4
    run(save(content))
    return tmp_path / "out"


@pytest.fixture
def shards(tmp_path: Path) -> list[Path]:
    """Two shards of sixty and forty segments, every fourth padded."""
    values = signals(len(ROWS))
    for row, count in enumerate(COUNTS):
        values[row, :, count:] = 0
    parts = (slice(0, 60), slice(60, 100))
    return [
        write_shard(tmp_path / f"{number}.arrow", ROWS[part], values[part], batch=16, counts=COUNTS[part])
        for number, part in enumerate(parts)
    ]


def infer(converted: Path, shards: list[Path], name: str, *options: str) -> list[np.ndarray]:
    """Run the stage; probabilities, embeddings and attention, a row per segment."""
    out = converted.parent / name
    assert main(["infer", *infer_options(converted, shards, out, *options)]) == 0
    kinds = ("logits", "embeddings", "attention")
    frames = [pq.read_table(out / f"{kind}.parquet").to_pandas() for kind in kinds]
    for frame in frames:
        assert list(zip(frame["record_id"], frame["segment"], strict=True)) == ROWS[: len(frame)]
    logits, embeddings, attention = frames
    return [expit(logits[LABELS].to_numpy()), np.stack(embeddings["embedding"]), np.stack(attention["attention"])]


@pytest.mark.parametrize("batch_size", ["1", "7", "256"])
def test_in_float32_a_gpu_gives_the_numbers_of_the_cpu(batch_size: str, converted: Path, shards: list[Path]) -> None:
    expected = infer(converted, shards, "cpu", "--device", "cpu")
    made = infer(converted, shards, "gpu", "--device", DEVICE, "--batch-size", batch_size)
    for one, other in zip(expected, made, strict=True):
        np.testing.assert_allclose(other, one, rtol=0, atol=1e-5)


def test_in_half_precision_a_gpu_gives_nearly_the_numbers_of_the_cpu(converted: Path, shards: list[Path]) -> None:
    expected = infer(converted, shards, "cpu", "--device", "cpu")
    made = infer(converted, shards, "gpu", "--device", DEVICE, "--precision", HALF)
    assert json.loads((converted.parent / "gpu" / "timing.json").read_text())["precision"] == HALF
    assert provenance.read_origin(pq.read_schema(converted.parent / "gpu" / "logits.parquet"))["precision"] == HALF
    np.testing.assert_allclose(made[0], expected[0], rtol=0, atol=0.01)
    cosine = torch.cosine_similarity(torch.from_numpy(expected[1]), torch.from_numpy(made[1]))
    assert cosine.min() > 0.999
    np.testing.assert_allclose(made[2], expected[2], rtol=0, atol=0.05 * expected[2].max())


def test_auto_takes_half_precision_on_a_gpu_where_it_is_near_enough(converted: Path, shards: list[Path]) -> None:
    choice, drift = converted.parent / "choice.txt", converted.parent / "drift.json"
    command = ["precision", "--weights", converted / "model.safetensors", "--description", converted / "model.json"]
    command += [
        "--segments",
        *shards,
        "--device",
        DEVICE,
        "--chosen",
        choice.with_name("chosen.json"),
        "--drift",
        drift,
    ]
    assert main([*map(str, command), "--max-drift", "0.01"]) == 0
    found = json.loads(drift.read_text())
    assert (choice.read_text(), found["compared"], found["segments"]) == (f"{HALF}\n", HALF, len(ROWS))
    assert 0 < found["largest"] <= 0.01
    assert main([*map(str, command), "--max-drift", "1e-9"]) == 0
    assert choice.read_text() == "float32\n"


@pytest.mark.parametrize("precision", ["float32", HALF])
def test_a_deterministic_run_gives_the_same_bytes_again(precision: str, converted: Path, shards: list[Path]) -> None:
    try:
        for name in ("one", "other"):
            infer(converted, shards, name, "--device", DEVICE, "--precision", precision, "--deterministic")
    finally:
        torch.use_deterministic_algorithms(False)
    for kind in ("logits", "embeddings", "attention"):
        one, other = ((converted.parent / name / f"{kind}.parquet").read_bytes() for name in ("one", "other"))
        assert one == other


def test_where_a_gpus_memory_runs_out_fewer_segments_run_at_a_time(
    converted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    long = [write_shard(tmp_path / "long.arrow", ROWS[:20], signals(20, samples=5000))]  # 25 MB of scores a segment
    expected = infer(converted, long, "cpu", "--device", "cpu")
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + 300_000_000) / total)
    try:
        made = infer(converted, long, "gpu", "--device", DEVICE, "--batch-size", "20")
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert "out of memory with 20 segments at a time; going on with 10" in capsys.readouterr().err
    for one, other in zip(expected, made, strict=True):
        np.testing.assert_allclose(other, one, rtol=0, atol=1e-5)


def test_from_python_a_gpu_gives_what_the_cpu_gives(save: Callable[..., Path]) -> None:
    content = checkpoints.classifier()
    content["cfg"]["model"]["encoder_attention_heads"] = 4
    source = save(content)
    recordings = [
        np.random.default_rng(i).standard_normal((12, 500 * seconds)) for i, seconds in enumerate([10, 17, 5])
    ]
    cpu, gpu = (ECGFM.from_checkpoint(source, device=device) for device in ("cpu", DEVICE))
    assert gpu.device.type == "cuda"
    for method, tolerance in {"predict": 1e-5, "embed": 1e-4, "attention": 1e-5}.items():
        one, other = (getattr(model, method)(recordings, 500, LEADS) for model in (cpu, gpu))
        assert one.index.equals(other.index)
        np.testing.assert_allclose(other, one, rtol=0, atol=tolerance)


def test_what_half_precision_cannot_compute_on_a_gpu_gets_the_numbers_of_float32(
    tmp_path: Path, run: Callable[..., Description], save: Callable[..., Path]
) -> None:
    content = checkpoints.classifier()
    content["cfg"]["model"]["encoder_attention_heads"] = 4
    content["model"]["encoder.feature_extractor.conv_layers.1.0.weight"] *= (
        6000  # beyond float16, where there is a spike
    )
    run(save(content))
    values = signals(len(ROWS))
    values[::4] *= 0.01
    values[::4, :, 200] = np.arange(1, 13)
    paths = [write_shard(tmp_path / "spikes.arrow", ROWS, values)]
    expected = infer(tmp_path / "out", paths, "exact", "--device", DEVICE)
    made = infer(tmp_path / "out", paths, "half", "--device", DEVICE, "--precision", HALF)
    recomputed = json.loads((tmp_path / "half" / "timing.json").read_text())["recomputed_segments"]
    assert len(ROWS) / 4 <= recomputed < len(ROWS)
    for one, other in zip(expected, made, strict=True):
        assert np.isfinite(other).all()
        np.testing.assert_allclose(other[::4], one[::4], rtol=0, atol=1e-5)
