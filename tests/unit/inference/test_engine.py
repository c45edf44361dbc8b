"""The engine: fewer segments at a time where memory runs out, and clean after any error."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import checkpoints
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from segment_files import infer_options, signals, write_shard
from worker_threads import threads_left

from ecgpipe.cli import main
from ecgpipe.core.errors import EcgpipeError
from ecgpipe.core.logs import Progress
from ecgpipe.inference import engine, infer, segment_files
from ecgpipe.models.description import describe
from ecgpipe.models.ecg_fm import network as ecg_fm_network

SOON = 60.0  # seconds, for what is awaited and does come
ROWS = [("a", number) for number in range(12)]


@pytest.fixture
def paths(tmp_path: Path) -> list[Path]:
    """Three shards of four segments each."""
    values = signals(len(ROWS))
    return [
        write_shard(tmp_path / f"shard-{i}.arrow", ROWS[4 * i : 4 * i + 4], values[4 * i : 4 * i + 4]) for i in range(3)
    ]


def vectors(out: Path) -> list[np.ndarray]:
    """Logits, embeddings and attention of a run, a row per segment."""
    logits = pq.read_table(out / "logits.parquet").to_pandas().iloc[:, 3:].to_numpy()
    columns = [pq.read_table(out / f"{name}.parquet").column(2).to_pylist() for name in ("embeddings", "attention")]
    return [logits, *map(np.array, columns)]


def names(folder: Path) -> list[str]:
    """What lies in a folder, hidden files too."""
    return sorted(path.name for path in folder.iterdir())


# How many at a time


def test_fewer_segments_at_a_time_where_they_are_long() -> None:
    for name in ("cpu", "cuda"):
        shorter, five_seconds, twice, six_times, endless = (
            engine.default_batch_size(torch.device(name), samples) for samples in (500, 2500, 5000, 15000, 10**7)
        )
        assert shorter == five_seconds
        assert (twice, six_times, endless) == (five_seconds // 2, five_seconds // 6, 1)


# Out of memory


class Died(NamedTuple):
    """A run of infer with little memory."""

    status: int
    said: str  # its log
    out: Path


SEGMENTS = 8
LONG = 5000  # samples, 1,250 tokens
SCORES = 4 * 1250 * 1250 * 4  # bytes that one segment's attention scores take, by far the largest array

# Twice the scores of a segment are there at a time. Room for those of two and for 40 MB beside: buffers, the stacks of
# two threads. Not for once the scores of eight, nor for twice those of four.
ROOM = 6 * SCORES + 16_000_000


@pytest.fixture(scope="module")
def with_little_memory(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Died]:
    """Runs of eight segments, and one, `expected`, with all the memory that it wants."""
    if not sys.platform.startswith("linux"):
        pytest.skip("only Linux limits a process's memory")
    folder = tmp_path_factory.mktemp("little")
    content = checkpoints.classifier()
    content["cfg"]["model"]["encoder_attention_heads"] = 4
    (folder / "x.pt").write_bytes(checkpoints.saved(content))
    (folder / "labels.csv").write_text("name,aggregation\na,max\nb,mean\nc,mean\n")
    given = ("--source", str(folder / "x.pt"), "--labels", str(folder / "labels.csv"))
    written = ("--weights", str(folder / "model.safetensors"), "--description", str(folder / "model.json"))
    assert main(["checkpoint", *given, *written]) == 0
    shard = write_shard(folder / "shard.arrow", ROWS[:SEGMENTS], signals(SEGMENTS, samples=LONG))

    def wanted(name: str, room: int, first: Sequence[int], *more: str) -> dict[str, object]:
        log = ("--log", str(folder / name / "log"))
        return {
            "options": infer_options(folder, [shard], folder / name, *log, *more),
            "first": first, "bytes": room, "samples": LONG,
        }  # fmt: skip

    runs = {
        "halved": wanted("halved", ROOM, [1, 2], "--batch-size", "8"),
        "deterministic": wanted("deterministic", ROOM, [1, 2], "--batch-size", "8", "--deterministic"),
        "none": wanted("none", SCORES * 4 // 5, [1], "--batch-size", "1"),
        "expected": wanted("expected", 10 * SEGMENTS * SCORES, [], "--batch-size", "1"),
    }
    script = Path(__file__).parents[2] / "helpers" / "little_memory.py"
    done = subprocess.run(
        [sys.executable, script, json.dumps(list(runs.values()))],
        capture_output=True, text=True, check=True, timeout=300,
        env=os.environ | {"ARROW_DEFAULT_MEMORY_POOL": "system"},  # Arrow's own takes a gigabyte in advance
    )  # fmt: skip
    statuses = json.loads(done.stdout)
    print(done.stderr)
    return {
        name: Died(status, (folder / name / "log").read_text(), folder / name)
        for name, status in zip(runs, statuses, strict=True)
    }


@pytest.mark.slow
def test_where_memory_runs_out_fewer_segments_run_at_a_time(with_little_memory: dict[str, Died]) -> None:
    ran, expected = with_little_memory["halved"], with_little_memory["expected"]
    assert (ran.status, expected.status) == (0, 0)
    assert "out of memory" not in expected.said
    assert "out of memory with 8 segments at a time; going on with 4" in ran.said
    assert pq.read_table(ran.out / "logits.parquet")["segment"].to_pylist() == list(range(SEGMENTS))
    for one, other in zip(vectors(expected.out), vectors(ran.out), strict=True):
        np.testing.assert_allclose(other, one, rtol=0, atol=1e-5)


@pytest.mark.slow
def test_a_deterministic_run_that_is_out_of_memory_states_what_batch_size_to_give(
    with_little_memory: dict[str, Died],
) -> None:
    ran = with_little_memory["deterministic"]
    assert ran.status == 2
    assert "error: inference.batch_size: cpu has too little memory for 8 segments at a time" in ran.said
    assert "give 4 or fewer" in ran.said
    assert names(ran.out) == ["log"]


@pytest.mark.slow
def test_a_segment_that_does_not_fit_by_itself_is_an_error(with_little_memory: dict[str, Died]) -> None:
    ran = with_little_memory["none"]
    assert ran.status == 2
    assert "error: inference.device: cpu has too little memory for one segment of 5000 samples" in ran.said
    assert names(ran.out) == ["log"]


def test_after_memory_ran_out_the_batches_that_follow_are_small_from_the_start(
    converted: Path, paths: list[Path]
) -> None:
    network = ecg_fm_network.load(describe(converted / "model.json").architecture, converted / "model.safetensors")
    tried = []

    def limited(signals: torch.Tensor, samples: torch.Tensor, with_attention: bool) -> ecg_fm_network.Output:
        tried.append(len(signals))
        if len(signals) > 2:
            raise torch.OutOfMemoryError
        return run_network(signals, samples, with_attention)

    run_network, network.forward = network.forward, limited  # type: ignore[assignment]
    stream = list(engine.run(network, paths, segment_files.inspect_shards(paths), torch.device("cpu"), 6, True))
    assert tried == [6, 3, 1, *[1] * 11]
    assert [len(results.logits) for _, results in stream] == [6, 6]
    assert [row for keys, _ in stream for row in zip(keys.record_ids, keys.numbers.tolist(), strict=True)] == ROWS


# Errors while reading and writing


def test_a_segment_too_short_for_a_token_ends_the_stream(converted: Path, paths: list[Path]) -> None:
    write_shard(paths[2], ROWS[:2], signals(2), counts=[400, 3])
    network = ecg_fm_network.load(describe(converted / "model.json").architecture, converted / "model.safetensors")
    with pytest.raises(EcgpipeError, match="segment 1 of a has 3 samples of signal, but the network needs 4"):
        list(engine.run(network, paths, segment_files.inspect_shards(paths), torch.device("cpu"), 2, False))


@pytest.mark.parametrize("what", ["gone", "cut short"])
def test_a_shard_that_breaks_midway_ends_the_command_and_leaves_nothing(
    what: str, converted: Path, paths: list[Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Breaking(Progress):
        """Breaks the last shard as soon as the first segment is computed."""

        def add(self, n: int) -> None:
            if not self.done:
                paths[2].unlink() if what == "gone" else os.truncate(paths[2], 1000)
            super().add(n)

    monkeypatch.setattr(infer, "Progress", Breaking)
    monkeypatch.setattr(infer, "ROW_GROUP", 1)  # so that something is written before
    out = converted.parent / "results"
    assert main(["infer", *infer_options(converted, paths, out, "--batch-size", "1")]) == 2
    problem = "is missing; run again" if what == "gone" else "is not a whole file of segments"
    assert f"error: {paths[2]} {problem}" in capsys.readouterr().err
    assert not names(out)
    assert not threads_left()


def test_a_full_disk_ends_the_command_and_leaves_nothing(
    converted: Path,
    paths: list[Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    out = converted.parent / "results"
    out.mkdir()
    mount, umount = shutil.which("mount"), shutil.which("umount")
    if os.geteuid() or not mount or not umount:
        pytest.skip("only root can mount a small disk")
    mounted = subprocess.run(
        [mount, "-t", "tmpfs", "-o", "size=16k", "tmpfs", str(out)], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"a small disk cannot be mounted: {mounted.stderr.strip()}")
    try:
        monkeypatch.setattr(infer, "ROW_GROUP", 1)  # full long before the end
        assert main(["infer", *infer_options(converted, paths, out, "--batch-size", "1")]) == 2
        said = capsys.readouterr().err
        caplog.clear()  # it holds the error, and that all that ran
        left, threads = names(out), threads_left()
    finally:
        subprocess.run([umount, "--lazy", str(out)], check=True)
    assert "No space left on device" in said
    assert "free disk space, or give another outdir" in said
    assert not left
    assert not threads


def test_an_error_of_writing_ends_the_command_and_leaves_nothing(
    converted: Path, paths: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[pa.RecordBatch] = []

    class Broken(pq.ParquetWriter):  # type: ignore[misc]
        """Fails after the first row group of each file."""

        def write_batch(self, batch: pa.RecordBatch) -> None:
            if len(written) == 4:
                raise ValueError("a bug")
            written.append(batch)
            super().write_batch(batch)

    monkeypatch.setattr(pq, "ParquetWriter", Broken)
    monkeypatch.setattr(infer, "ROW_GROUP", 1)
    out = converted.parent / "results"

    def command() -> str:
        try:
            main(["infer", *infer_options(converted, paths, out, "--batch-size", "1")])
        except ValueError as error:
            return str(error)  # the exception itself would hold on to all that ran
        return ""

    assert command() == "a bug"
    assert not names(out)
    assert not threads_left()


def test_a_stream_that_is_left_early_leaves_no_thread(converted: Path, paths: list[Path]) -> None:
    network = ecg_fm_network.load(describe(converted / "model.json").architecture, converted / "model.safetensors")
    stream = engine.run(network, paths, segment_files.inspect_shards(paths), torch.device("cpu"), 1, False)
    next(stream)
    assert threads_left()
    del stream
    assert not threads_left()


# Settings of the process


@pytest.mark.parametrize(
    ("precision", "device", "used"),
    [
        ("float32", "cpu", "float32"),
        ("float16", "cpu", "float32"),
        ("float16", "cuda", "float16"),
        ("float32", "cuda", "float32"),
    ],
)
def test_a_device_computes_in_what_it_can(precision: str, device: str, used: str) -> None:
    assert engine.usable(precision, torch.device(device)) == used


def test_a_cpu_without_bfloat16_computes_in_float32_and_the_log_reports_it(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for able, used in ((True, "bfloat16"), (False, "float32")):
        monkeypatch.setattr(engine, "has_bfloat16", lambda able=able: able)
        assert engine.usable("bfloat16", torch.device("cpu")) == used
        assert ("inference.precision: bfloat16 becomes float32: this CPU has no" in caplog.text) == (not able)


def test_a_gpu_older_than_bfloat16_computes_in_float32_and_the_log_reports_it(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for able, used in ((True, "bfloat16"), (False, "float32")):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation, able=able: able)
        assert engine.usable("bfloat16", torch.device("cuda")) == used
        assert ("inference.precision: bfloat16 becomes float32: the GPU is older" in caplog.text) == (not able)


def test_a_batch_too_large_to_be_read_is_refused(converted: Path, paths: list[Path]) -> None:
    network = ecg_fm_network.load(describe(converted / "model.json").architecture, converted / "model.safetensors")
    contents = segment_files.inspect_shards(paths)._replace(segments=10**12)
    stream = engine.run(network, paths, contents, torch.device("cpu"), 10**11, False)
    with pytest.raises(EcgpipeError, match="no memory to read 100000000000 segments at a time; give fewer"):
        next(stream)


def test_determinism_is_asked_for_without_loading_the_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch._inductor.config", None)  # to import it is an error
    for name in ("CUBLAS_WORKSPACE_CONFIG", "TORCHINDUCTOR_DETERMINISTIC"):
        monkeypatch.setenv(name, "")
    try:
        engine.configure(torch.get_num_threads(), deterministic=True)
        assert os.environ["TORCHINDUCTOR_DETERMINISTIC"] == "1"  # which it reads when it is loaded
        assert torch.get_deterministic_debug_mode() == 2  # an operation that is not deterministic is an error
    finally:
        torch.set_deterministic_debug_mode("default")
