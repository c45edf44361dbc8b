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

from ecgpipe.core.errors import EcgpipeError
from ecgpipe.inference import segment_files
from ecgpipe.inference.segment_files import Keys


def write(folder: Path, counts: Sequence[int], batch: int = 4, samples: int = 3) -> list[Path]:
    """Shards of so many segments of noise each, no two alike."""
    paths, done = [], 0
    for number, count in enumerate(counts):
        rows = [(f"ü/{number}", row) for row in range(count)]
        values, lengths = signals(count, seed=number, samples=samples), list(range(done, done + count))
        paths.append(write_shard(folder / f"shard-{number}.arrow", rows, values, batch, lengths))
        done += count
    return paths


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
