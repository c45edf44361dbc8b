"""Reading shards: what comes out is what stands in the files, whatever the buffers, and a broken file is named."""

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from segment_files import SAMPLES, SETTINGS, signals, write_shard
from torch import Tensor

from ecgpipe.core import provenance
from ecgpipe.core.digital import Digital, decode
from ecgpipe.core.errors import EcgpipeError
from ecgpipe.core.stored_segments import read_segments
from ecgpipe.inference import segment_files
from ecgpipe.inference.segment_files import Keys, Staging


def write(folder: Path, counts: Sequence[int], batch: int = 4, samples: int = 3) -> list[Path]:
    """Shards of so many segments of noise each, no two alike."""
    paths, done = [], 0
    for number, count in enumerate(counts):
        rows = [(f"ü/{number}", row) for row in range(count)]
        values, lengths = signals(count, seed=number, samples=samples), list(range(done, done + count))
        paths.append(write_shard(folder / f"shard-{number}.arrow", rows, values, batch, lengths))
        done += count
    return paths


def digital_of(count: int, samples: int, seed: int) -> tuple[list[Digital | None], np.ndarray]:
    """Segments of which some are whole numbers, of two kinds, and the values that they stand for."""
    rng = np.random.default_rng(seed)
    values, found = signals(count, seed, samples), list[Digital | None]()
    for value in values:
        kinds = ["", "-/*", "/-*"][rng.integers(3)]
        numbers = rng.integers(-32768, 32768, (12, samples)).astype(np.int16)
        digital = Digital(numbers, tuple((kind, rng.uniform(1, 900, 12)) for kind in kinds))
        found.append(digital if kinds else None)
        if kinds:
            value[:] = decode(numbers, kinds, digital.constants)
    return found, values


def write_mixed(folder: Path, counts: Sequence[int], batch: int = 4, samples: int = 3) -> tuple[list[Path], np.ndarray]:
    """Shards of both forms, and all their values."""
    paths, all_values = [], [np.empty((0, 12, samples), np.float32)]
    for number, count in enumerate(counts):
        digital, values = digital_of(count, samples, number)
        rows = [(f"r/{number}", row) for row in range(count)]
        paths.append(write_shard(folder / f"mixed-{number}.arrow", rows, values, batch, digital=digital))
        all_values.append(values)
    return paths, np.concatenate(all_values)


def write_as_before(path: Path, values: np.ndarray) -> Path:
    """A shard of the version before: lists of one length, values alone."""
    kind = pa.list_(pa.float32(), values[0].size)
    columns = {
        "record_id": pa.array([f"r{n}" for n in range(len(values))], pa.string()),
        "segment": pa.array(range(len(values)), pa.int32()),
        "start_s": pa.array([0.0] * len(values), pa.float32()),
        "samples": pa.array([values.shape[2]] * len(values), pa.int32()),
        "signal": pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), type=kind),
    }
    table = pa.table(columns)
    facts = SETTINGS | {"segment_samples": values.shape[2]}
    schema = provenance.add_origin(table.schema, "preprocess", preprocess=facts)
    with pa.ipc.new_file(str(path), schema) as writer:
        writer.write_table(table.cast(schema), max_chunksize=4)
    return path


def buffers(size: int, count: int = 4, samples: int = 3) -> list[Tensor]:
    return [torch.full((size, 12, samples), torch.nan) for _ in range(count)]


def copied(paths: Sequence[Path], into: Sequence[Tensor]) -> list[tuple[Keys, np.ndarray]]:
    """All that is read, the signals copied before they are overwritten."""
    return [(keys, signal.numpy().copy()) for keys, signal in segment_files.read_batches(paths, into)]


def assert_is_what_the_files_hold(read: list[tuple[Keys, np.ndarray]], paths: Sequence[Path]) -> None:
    """Compare with what Arrow itself reads."""
    table = pa.concat_tables([pa.ipc.open_file(pa.OSFile(str(path), "rb")).read_all() for path in paths])
    keys = Keys.joined([keys for keys, _ in read]) if read else Keys([], *[np.empty(0)] * 3)
    assert keys.record_ids == table["record_id"].to_pylist()
    for column, name in zip(keys[1:], ("segment", "start_s", "samples"), strict=True):
        np.testing.assert_array_equal(column, table[name].to_numpy())
    for keys, signal in read:
        assert len(keys.record_ids) == len(signal)
    flat = np.concatenate([signal.ravel() for _, signal in read]) if read else np.empty(0)
    expected = [np.empty(0), *(chunk.flatten().to_numpy() for chunk in table["signal"].chunks)]
    np.testing.assert_array_equal(flat, np.concatenate(expected))


@given(
    counts=st.lists(st.integers(0, 9), min_size=1, max_size=5),
    size=st.integers(1, 12),
    batch=st.integers(1, 10),
    number=st.integers(2, 5),
)
@settings(deadline=None, max_examples=60)
def test_what_is_read_is_what_the_files_hold_however_it_is_cut(
    counts: list[int], size: int, batch: int, number: int
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        paths = write(Path(folder), counts, batch)
        into = buffers(size, number)
        read = copied(paths, into)
        assert_is_what_the_files_hold(read, paths)
        assert [len(signal) for _, signal in read[:-1]] == [size] * (len(read) - 1)
        assert all(len(signal) <= size for _, signal in read[-1:])
        turns = [signal.data_ptr() for _, signal in segment_files.read_batches(paths, into)]
        assert turns == [into[i % number].data_ptr() for i in range(len(turns))]


def assert_same_bits(one: np.ndarray, other: np.ndarray) -> None:
    np.testing.assert_array_equal(one.view(np.int32), other.view(np.int32))


@given(counts=st.lists(st.integers(0, 9), min_size=1, max_size=4), size=st.integers(1, 12), batch=st.integers(1, 10))
@settings(deadline=None, max_examples=40)
def test_whole_numbers_and_values_in_one_shard_are_read_alike(counts: list[int], size: int, batch: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        paths, expected = write_mixed(Path(folder), counts, batch)
        read = [signal for _, signal in copied(paths, buffers(size))]
        assert_same_bits(np.concatenate([expected[:0], *read]), expected)
        staged = [Staging(size, 12, 3, pinned=False) for _ in range(3)]
        sent = [
            signal.to(torch.device("cpu")).numpy().copy() for _, signal in segment_files.read_batches(paths, staged)
        ]
        assert_same_bits(np.concatenate([expected[:0], *sent]), expected)
        assert [len(signal) for signal in sent] == [len(signal) for signal in read]
        rows = np.arange(0, len(expected), 2)
        if len(rows):
            assert_same_bits(segment_files.read_signals(paths, rows), expected[rows])
        for path, count, last in zip(paths, counts, np.cumsum(counts), strict=True):
            keys, values = read_segments(path)
            assert_same_bits(values, expected[last - count : last])
            assert keys.column_names == ["record_id", "segment", "start_s", "samples"]


def test_many_segments_are_decoded_some_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segment_files, "DECODED_VALUES", 12 * 3 * 2)
    paths, expected = write_mixed(tmp_path, [9, 6])
    staged = [Staging(15, 12, 3, pinned=False)]
    ((_, signal),) = segment_files.read_batches(paths, staged)
    assert_same_bits(signal.to(torch.device("cpu")).numpy(), expected)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="PyTorch sees no GPU here")
def test_a_gpu_makes_the_bits_of_the_cpu(tmp_path: Path) -> None:
    paths, expected = write_mixed(tmp_path, [60, 40], batch=32, samples=SAMPLES)
    staged = [Staging(33, 12, SAMPLES, pinned=True) for _ in range(4)]
    sent = [signal.to(torch.device("cuda")).cpu().numpy() for _, signal in segment_files.read_batches(paths, staged)]
    assert_same_bits(np.concatenate(sent), expected)


def test_a_shard_of_the_version_before_is_read(tmp_path: Path) -> None:
    values = signals(9, samples=SAMPLES)
    path = write_as_before(tmp_path / "old.arrow", values)
    assert segment_files.inspect_shards([path]).segments == 9
    mixed, others = write_mixed(tmp_path, [3], samples=SAMPLES)
    read = [signal for _, signal in copied([path, *mixed], buffers(4, samples=SAMPLES))]
    assert_same_bits(np.concatenate(read), np.concatenate([values, others]))
    assert_same_bits(segment_files.read_signals([path], np.array([1, 8])), values[[1, 8]])
    keys, whole = read_segments(path)
    assert_same_bits(whole, values)
    assert keys["segment"].to_pylist() == list(range(9))


def test_segments_that_are_not_there_or_not_whole_are_named(tmp_path: Path) -> None:
    with pytest.raises(EcgpipeError, match=r"none.arrow is missing; keep segments with preprocess.keep_segments"):
        read_segments(tmp_path / "none.arrow")
    (path,), _ = write_mixed(tmp_path, [3])
    os.truncate(path, path.stat().st_size // 2)
    with pytest.raises(EcgpipeError, match="is not a whole file of segments"):
        read_segments(path)


@pytest.mark.parametrize("counts", [[0], [0, 0], [0, 3], [3, 0], [2, 0, 0, 2]])
def test_empty_shards_may_stand_anywhere(counts: list[int], tmp_path: Path) -> None:
    paths = write(tmp_path, counts)
    assert_is_what_the_files_hold(copied(paths, buffers(2)), paths)
    assert segment_files.inspect_shards(paths).segments == sum(counts)


def test_a_record_batch_may_be_empty(tmp_path: Path) -> None:
    (path,) = write(tmp_path, [3])
    with pa.ipc.open_file(pa.OSFile(str(path), "rb")) as reader:
        schema, whole = reader.schema, reader.read_all().to_batches()
    with pa.ipc.new_file(str(path), schema) as writer:
        for batch in [whole[0].slice(0, 0), *whole, whole[0].slice(0, 0)]:
            writer.write_batch(batch)
    read = copied([path], buffers(2))
    assert_is_what_the_files_hold(read, [path])
    assert [len(signal) for _, signal in read] == [2, 1]


def test_rows_that_were_cut_from_a_longer_batch_are_read_from_their_own_place(tmp_path: Path) -> None:
    (path,) = write(tmp_path, [8], batch=8)
    with pa.ipc.open_file(pa.OSFile(str(path), "rb")) as reader:
        schema, batch = reader.schema, reader.get_batch(0)
    with pa.ipc.new_file(str(path), schema) as writer:
        writer.write_batch(batch.slice(3, 4))
    read = copied([path], buffers(3))
    assert_is_what_the_files_hold(read, [path])
    assert Keys.joined([keys for keys, _ in read]).numbers.tolist() == [3, 4, 5, 6]


def test_the_order_of_the_shards_is_the_order_given(tmp_path: Path) -> None:
    paths = write(tmp_path, [3, 2, 4])[::-1]
    assert_is_what_the_files_hold(copied(paths, buffers(4)), paths)


def test_keys_outlive_the_file_and_the_buffers_turn(tmp_path: Path) -> None:
    paths = write(tmp_path, [6, 1])
    reading = segment_files.read_batches(paths, buffers(2, 2))
    keys, _ = next(reading)
    for _ in reading:
        pass
    for path in paths:
        path.unlink()
    assert keys.record_ids == ["ü/0", "ü/0"]
    assert [keys.numbers.tolist(), keys.starts_s.tolist(), keys.samples.tolist()] == [[0, 1], [0, 5], [0, 1]]


def test_a_look_tells_what_made_the_shards_and_how_large_they_are(tmp_path: Path) -> None:
    paths = write(tmp_path, [3, 0, 5], samples=SAMPLES)
    contents = segment_files.inspect_shards(paths)
    assert (contents.leads, contents.samples, contents.segments) == (12, SAMPLES, 8)
    assert contents.preprocess == SETTINGS


@pytest.mark.parametrize("share", [0, 0.001, 0.3, 0.7, 0.999])
def test_a_shard_that_was_cut_short_is_named(share: float, tmp_path: Path) -> None:
    paths = write(tmp_path, [3, 9])
    os.truncate(paths[1], int(paths[1].stat().st_size * share))
    with pytest.raises(EcgpipeError) as told:
        segment_files.inspect_shards(paths)
    assert f"{paths[1]} is not a whole file of segments (" in str(told.value)
    assert "delete it and run again" in str(told.value)
    with pytest.raises(EcgpipeError, match="is not a whole file of segments"):
        copied(paths, buffers(2))


def test_a_shard_that_is_cut_while_it_is_read_is_named(tmp_path: Path) -> None:
    (path,) = write(tmp_path, [9], batch=9, samples=SAMPLES)
    reading = segment_files.read_batches([path], buffers(2, samples=SAMPLES))
    keys, signal = next(reading)
    # Within the signals of a later buffer. The keys, which stand before them, are still there.
    os.truncate(path, path.stat().st_size - 4 * signal[0].nbytes)
    with pytest.raises(EcgpipeError) as told:
        list(reading)
    assert str(told.value) == f"{path} ends in the middle of its signals; delete it and run again"
    assert keys.numbers.tolist() == [0, 1]


def test_a_shard_that_goes_while_the_one_before_is_read_is_named(tmp_path: Path) -> None:
    paths = write(tmp_path, [3, 3])
    reading = segment_files.read_batches(paths, buffers(2))
    next(reading)
    paths[1].unlink()
    with pytest.raises(EcgpipeError) as told:
        list(reading)
    assert str(told.value) == f"{paths[1]} is missing; run again"


@pytest.mark.parametrize("content", [b"", b"ARROW1\0\0", b"no Arrow at all" * 100])
def test_an_invalid_file_of_segments_is_named(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "shard.arrow"
    path.write_bytes(content)
    with pytest.raises(EcgpipeError, match=f"{path} is not a whole file of segments"):
        segment_files.inspect_shards([path])


def test_a_shard_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(EcgpipeError, match=f"{tmp_path / 'none.arrow'} is missing; run again"):
        segment_files.inspect_shards([tmp_path / "none.arrow"])
