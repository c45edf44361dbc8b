"""Inference: every segment's outputs stand in its row, whatever the batches, and shards that do not fit are refused."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import checkpoints
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from processor import needs_bfloat16
from segment_files import SAMPLES, SETTINGS, infer_options, signals, write_shard

from ecgpipe.cli import main
from ecgpipe.core import provenance
from ecgpipe.inference import infer
from ecgpipe.models.description import Description, describe
from ecgpipe.models.ecg_fm import network as ecg_fm_network

TOKENS = 100  # of the small checkpoint
LABELS = ["Poor data quality", "Sinus rhythm", "Électrode"]

# Three shards of a part; of the second no recording could be used.
SHARDS: tuple[dict[str, int], ...] = ({"z": 3, "a": 1, "m/x": 2}, {}, {"b": 1, "ü": 4})
ROWS = [(name, number) for shard in SHARDS for name, count in shard.items() for number in range(count)]


SIGNALS = signals(len(ROWS))


@pytest.fixture
def shards(tmp_path: Path) -> list[Path]:
    """The three shards that `ROWS` and `SIGNALS` make up."""
    paths, done = [], 0
    for number, shard in enumerate(SHARDS):
        count = sum(shard.values())
        path = tmp_path / f"shard-{number:05d}.arrow"
        paths.append(write_shard(path, ROWS[done : done + count], SIGNALS[done : done + count]))
        done += count
    return paths


def command(converted: Path, shards: Sequence[Path], *options: str, attention: bool = True) -> int:
    given = infer_options(converted, shards, converted.parent, *options, attention=attention)
    return main(["infer", *given])


def results(converted: Path) -> dict[str, pd.DataFrame]:
    names = ("logits", "embeddings", "attention")
    paths = [converted.parent / f"{name}.parquet" for name in names]
    return {path.stem: pq.read_table(path).to_pandas() for path in paths if path.exists()}


def numbers(frames: dict[str, pd.DataFrame]) -> list[np.ndarray]:
    """Logits, embeddings and attention, a row per segment."""
    vectors = [
        np.stack(list(frames[name][column]))
        for name, column in (("embeddings", "embedding"), ("attention", "attention"))
    ]
    return [frames["logits"][LABELS].to_numpy(), *vectors]


def test_every_segments_outputs_stand_in_its_row(converted: Path, shards: list[Path]) -> None:
    assert command(converted, shards) == 0
    frames = results(converted)
    for frame in frames.values():
        assert list(zip(frame["record_id"], frame["segment"], strict=True)) == ROWS
    assert list(frames["logits"].columns) == ["record_id", "segment", "start_s", *LABELS]
    assert list(frames["logits"]["start_s"]) == [5.0 * number for _, number in ROWS]
    description = describe(converted / "model.json")
    network = ecg_fm_network.load(description.architecture, converted / "model.safetensors")
    for row, signal in enumerate(SIGNALS):
        with torch.inference_mode():
            expected = network(torch.from_numpy(signal[None]))
        for actual, tensor in zip(numbers(frames), expected, strict=True):
            np.testing.assert_allclose(actual[row], tensor[0], rtol=0, atol=1e-5)


def test_the_columns_have_the_types_that_the_contract_says(converted: Path, shards: list[Path]) -> None:
    assert command(converted, shards) == 0
    written = {
        name: pq.read_schema(converted.parent / f"{name}.parquet").remove_metadata() for name in results(converted)
    }
    assert written["logits"].types == [pa.string(), pa.int32(), *[pa.float32()] * 4]
    assert written["embeddings"].field("embedding").type.list_size == 8
    assert written["attention"].field("attention").type.list_size == TOKENS
    assert all(written[name].field(2).type.value_type == pa.float32() for name in ("embeddings", "attention"))


def padded() -> tuple[np.ndarray, list[int]]:
    """The signals with zeros at the end of every second one, and how many samples of each are signal."""
    counts = [SAMPLES if row % 2 else 60 + 20 * row for row in range(len(ROWS))]
    values = SIGNALS.copy()
    for row, count in enumerate(counts):
        values[row, :, count:] = 0
    return values, counts


@pytest.mark.parametrize("batch_size", [1, 3, 256])
def test_padded_segments_stand_in_their_rows_beside_others(
    batch_size: int, converted: Path, shards: list[Path]
) -> None:
    assert command(converted, shards) == 0
    without = numbers(results(converted))
    values, counts = padded()
    shard = write_shard(converted.parent / "padded.arrow", ROWS, values, counts=counts)
    assert command(converted, [shard], "--batch-size", str(batch_size)) == 0
    made = numbers(results(converted))
    network = ecg_fm_network.load(describe(converted / "model.json").architecture, converted / "model.safetensors")
    for row, count in enumerate(counts):
        with torch.inference_mode():
            expected = network(torch.from_numpy(values[row][None]), torch.tensor([count]))
        for actual, plain, tensor in zip(made, without, expected, strict=True):
            np.testing.assert_allclose(actual[row], tensor[0], rtol=0, atol=1e-5)
            if count == SAMPLES:
                np.testing.assert_allclose(actual[row], plain[row], rtol=0, atol=1e-5)
    assert np.count_nonzero(made[2], axis=1).tolist() == [count // 4 for count in counts]


@pytest.mark.parametrize("samples", [4, 500, 1250, 5000, 15000])
def test_segments_of_any_length_that_gives_a_token_can_be_run(samples: int, converted: Path) -> None:
    values = np.random.default_rng(0).standard_normal((3, 12, samples), dtype=np.float32)
    shard = write_shard(converted.parent / "odd.arrow", ROWS[:3], values, counts=[samples, samples, 4])
    assert command(converted, [shard]) == 0
    frames = results(converted)
    assert pq.read_schema(converted.parent / "attention.parquet").field("attention").type.list_size == samples // 4
    assert np.isfinite(np.concatenate(numbers(frames), axis=1)).all()


@pytest.mark.parametrize("batch_size", [1, 3, 256])
@pytest.mark.parametrize("row_group", [1, 4, 4096])
def test_batches_and_row_groups_do_not_matter(
    batch_size: int, row_group: int, converted: Path, shards: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert command(converted, shards) == 0
    expected = results(converted)
    monkeypatch.setattr(infer, "ROW_GROUP", row_group)
    assert command(converted, shards, "--batch-size", str(batch_size)) == 0
    made = results(converted)
    for one, other in zip(numbers(expected), numbers(made), strict=True):
        np.testing.assert_allclose(other, one, rtol=0, atol=1e-5)
    for name, frame in made.items():
        pd.testing.assert_frame_equal(frame[["record_id", "segment"]], expected[name][["record_id", "segment"]])


def test_how_recordings_are_cut_into_shards_does_not_matter(converted: Path, shards: list[Path]) -> None:
    assert command(converted, shards, "--batch-size", "2") == 0
    expected = numbers(results(converted))
    whole = write_shard(converted.parent / "whole.arrow", ROWS, SIGNALS, batch=5)
    assert command(converted, [whole], "--batch-size", "2") == 0
    for one, other in zip(expected, numbers(results(converted)), strict=True):
        np.testing.assert_allclose(other, one, rtol=0, atol=1e-5)


@pytest.mark.parametrize("first", [0, 2])
def test_an_empty_shard_may_stand_first_or_last(first: int, converted: Path, shards: list[Path]) -> None:
    order = [shards[1], shards[first]] if first == 2 else [shards[0], shards[1]]
    assert command(converted, order) == 0
    assert len(results(converted)["logits"]) == sum(SHARDS[first].values())


def test_a_part_without_any_segment_has_files_with_columns_and_no_rows(converted: Path, shards: list[Path]) -> None:
    assert command(converted, [shards[1], shards[1]]) == 0
    frames = results(converted)
    assert {name: len(frame) for name, frame in frames.items()} == {"logits": 0, "embeddings": 0, "attention": 0}
    assert list(frames["logits"].columns) == ["record_id", "segment", "start_s", *LABELS]
    assert json.loads((converted.parent / "timing.json").read_text())["segments"] == 0


def test_without_attention_there_is_no_such_file_and_the_rest_is_the_same(converted: Path, shards: list[Path]) -> None:
    assert command(converted, shards) == 0
    asked = results(converted)
    (converted.parent / "attention.parquet").unlink()
    assert command(converted, shards, attention=False) == 0
    made = results(converted)
    assert sorted(made) == ["embeddings", "logits"]
    for one, other in zip(numbers(asked)[:2], numbers(made | {"attention": asked["attention"]})[:2], strict=True):
        np.testing.assert_allclose(other, one, rtol=0, atol=1e-5)


def test_a_network_without_a_head_gives_embeddings_and_logits_without_labels(
    tmp_path: Path, run: Callable[..., Description], save: Callable[..., Path], shards: list[Path]
) -> None:
    run(save(checkpoints.pretrained()))
    assert command(tmp_path / "out", shards) == 0
    frames = results(tmp_path / "out")
    assert list(frames["logits"].columns) == ["record_id", "segment", "start_s"]
    assert [len(frame) for frame in frames.values()] == [len(ROWS)] * 3


def test_every_file_names_its_checkpoint_and_preprocessing_and_the_time_it_took(
    converted: Path, shards: list[Path]
) -> None:
    assert command(converted, shards, "--batch-size", "3", "--threads", "2") == 0
    description = describe(converted / "model.json")
    for name in results(converted):
        origin = provenance.read_origin(pq.read_schema(converted.parent / f"{name}.parquet"))
        assert origin["checkpoint_sha256"] == description.sha256
        assert origin["checkpoint"] == description.uri
        assert origin["preprocess"] == SETTINGS
        assert (origin["stage"], origin["precision"]) == ("infer", "float32")
    timing = json.loads((converted.parent / "timing.json").read_text())
    assert (timing["segments"], timing["batch_size"], timing["threads"]) == (len(ROWS), 3, 2)
    assert timing["seconds"] > 0
    assert timing["device"].startswith("CPU")
    assert timing["machine"] == provenance.describe_machine()
    assert timing["versions"] == provenance.list_versions()


def test_float16_on_a_cpu_becomes_float32_and_everything_reports_it(
    converted: Path, shards: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(converted, shards) == 0
    expected = numbers(results(converted))
    assert "inference.precision" not in capsys.readouterr().err
    assert command(converted, shards, "--precision", "float16") == 0
    said = capsys.readouterr().err
    assert "inference.precision: float16 becomes float32: a CPU computes in float32 or bfloat16" in said
    for one, other in zip(expected, numbers(results(converted)), strict=True):
        np.testing.assert_array_equal(other, one)
    assert precisions(converted) == {"float32"}


@needs_bfloat16
def test_in_bfloat16_too_every_segments_outputs_stand_in_its_row(converted: Path, shards: list[Path]) -> None:
    assert command(converted, shards, "--precision", "bfloat16", "--batch-size", "1") == 0
    frames = results(converted)
    assert all(list(zip(frame["record_id"], frame["segment"], strict=True)) == ROWS for frame in frames.values())
    architecture = describe(converted / "model.json").architecture
    network = ecg_fm_network.load(architecture, converted / "model.safetensors", dtype=torch.bfloat16)
    for row, signal in enumerate(SIGNALS):
        with torch.inference_mode():
            expected = network(torch.from_numpy(signal[None]))
        for actual, tensor in zip(numbers(frames), expected, strict=True):
            np.testing.assert_allclose(actual[row], tensor[0], rtol=0, atol=1e-5)
    assert precisions(converted) == {"bfloat16"}


def precisions(converted: Path) -> set[str]:
    """What the files of a part say that they were computed in."""
    schemas = [pq.read_schema(converted.parent / f"{name}.parquet") for name in results(converted)]
    timing = json.loads((converted.parent / "timing.json").read_text())
    return {timing["precision"], *(provenance.read_origin(schema)["precision"] for schema in schemas)}


def test_shards_that_were_preprocessed_differently_are_refused(
    converted: Path, shards: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    other = write_shard(converted.parent / "other.arrow", ROWS[:2], SIGNALS[:2], sample_rate=250)
    assert command(converted, [*shards, other]) == 2
    said = capsys.readouterr().err
    assert f"error: {other} and {shards[0]} were preprocessed differently; delete one and run again" in said
    assert not results(converted)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"leads": ["I"]}, "takes 12 leads, but a segment has 1; only checkpoints of ECG-FM's kind can be run"),
        ({"segment_samples": 3}, "needs 4 samples for one token, but a segment has 3; make the segments longer"),
    ],
)
def test_segments_that_the_network_cannot_take_are_refused(
    settings: dict[str, Any], message: str, converted: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shard = write_shard(converted.parent / "odd.arrow", [], SIGNALS[:0], **settings)
    assert command(converted, [shard]) == 2
    assert message in capsys.readouterr().err
    assert not results(converted)


@pytest.mark.parametrize("count", [3, 0, -1])
def test_a_segment_with_too_little_signal_for_a_token_is_named(
    count: int, converted: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shard = write_shard(converted.parent / "short.arrow", ROWS[:3], SIGNALS[:3], counts=[SAMPLES, count, 4])
    assert command(converted, [shard]) == 2
    name, number = ROWS[1]
    assert f"segment {number} of {name} has {count} samples of signal, but the network needs 4" in (
        capsys.readouterr().err
    )
    assert not results(converted)


def test_a_shard_of_an_older_ecgpipe_is_refused(
    converted: Path, shards: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    with pa.ipc.open_file(pa.OSFile(str(shards[0]), "rb")) as reader:
        table = reader.read_all().drop_columns("samples")
    with pa.ipc.new_file(str(shards[0]), table.schema) as writer:
        writer.write_table(table)
    assert command(converted, shards) == 2
    assert f"{shards[0]} is of an older ecgpipe, without the column samples; delete it" in capsys.readouterr().err


def test_an_invalid_device_is_refused(converted: Path, shards: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert command(converted, shards, "--device", "mps") == 2
    assert "inference.device: 'mps' is not valid; give auto, cpu, cuda or cuda:N" in capsys.readouterr().err
    assert not results(converted)


def test_nothing_appears_when_the_weights_do_not_fit(converted: Path, shards: list[Path]) -> None:
    content = json.loads((converted / "model.json").read_text())
    content["architecture"]["width"] = 16
    (converted / "model.json").write_text(json.dumps(content))
    with pytest.raises(RuntimeError):
        command(converted, shards)
    assert not results(converted)
