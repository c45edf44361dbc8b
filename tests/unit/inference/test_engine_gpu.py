"""The engine's way over a GPU, on a stand-in for one that is as late as a real one may be."""

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from architectures import SMALL
from cuda_stand_in import CUDA, Early, Event, Gpu, Stream, stand_in
from segment_files import SAMPLES, signals, write_shard
from torch import Tensor

from ecgpipe.core.digital import DIVIDE, SUBTRACT, Digital
from ecgpipe.core.errors import EcgpipeError
from ecgpipe.inference import background, engine, segment_files
from ecgpipe.inference.segment_files import Keys
from ecgpipe.models.ecg_fm import network as ecg_fm_network
from ecgpipe.models.ecg_fm.network import Network
from ecgpipe.models.ecg_fm.tuning import Tuning, for_device

ARCH = replace(SMALL, width=32, layers=2, heads=4, hidden=64, position_kernel=16, labels=3)
ROWS = [("a", number) for number in range(46)]
SIZE = 4  # eleven batches and two segments of another
FULL, PADDED = [SAMPLES] * len(ROWS), [SAMPLES if row % 5 else 100 + row for row in range(len(ROWS))]
EARLY = pytest.mark.parametrize("early", ["nothing", "copies", "all"])
USUAL = for_device("cuda")


@pytest.fixture
def network(tmp_path: Path) -> Network:
    """A small one, whose weights are not laid out for a CPU."""
    torch.manual_seed(0)
    safetensors.torch.save_file(Network(ARCH).state_dict(), tmp_path / "model.safetensors")
    return ecg_fm_network.load(ARCH, tmp_path / "model.safetensors", packed=False)


def in_shards(folder: Path, values: np.ndarray, **of_rows: Sequence[Any]) -> list[Path]:
    """Shards of twenty segments, with what else is given of each row."""
    found = []
    for first in range(0, len(ROWS), 20):
        rows = slice(first, first + 20)
        given = {name: each[rows] for name, each in of_rows.items()}
        found.append(write_shard(folder / f"shard-{first}.arrow", ROWS[rows], values[rows], batch=7, **given))
    return found


def written(folder: Path, counts: Sequence[int]) -> list[Path]:
    """Shards of twenty segments."""
    values = signals(len(ROWS))
    for row, count in enumerate(counts):
        values[row, :, count:] = 0
    return in_shards(folder, values, counts=counts)


def written_as_numbers(folder: Path) -> list[Path]:
    """Shards of which every other segment is whole numbers."""
    values, rng = signals(len(ROWS)), np.random.default_rng(0)
    digital: list[Digital | None] = []
    for number in range(len(ROWS)):
        numbers = rng.integers(-3000, 3000, (12, SAMPLES)).astype(np.int16)
        steps = ((DIVIDE, rng.uniform(900, 1100, 12)), (SUBTRACT, rng.normal(size=12)))
        digital.append(None if number % 3 == 0 else Digital(numbers, steps))
    return in_shards(folder, values, digital=digital)


def at_once(items: Iterator[tuple[Keys, Tensor]]) -> Iterator[tuple[Keys, Tensor]]:
    """`background.read_ahead` with a disk that takes no time: all that it may read ahead is read at once."""
    coming = deque(next(items, None) for _ in range(background.AHEAD))
    while (item := coming.popleft()) is not None:
        coming.append(next(items, None))
        yield item


def streamed(network: Network, paths: Sequence[Path], device: torch.device, tuning: Tuning) -> engine.Stream:
    return engine.run(network, paths, segment_files.inspect_shards(paths), device, SIZE, True, tuning=tuning)


def joined(stream: engine.Stream) -> list[np.ndarray]:
    """Logits, embeddings and attention of all segments, which must be those that were asked for."""
    batches = list(stream)
    assert [
        (name, number) for keys, _ in batches for name, number in zip(keys.record_ids, keys.numbers, strict=True)
    ] == (ROWS)
    return [np.concatenate(arrays) for arrays in zip(*(results for _, results in batches), strict=True)]


def threads_left() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith(("read", "write"))]


def wrong(
    network: Network,
    paths: Sequence[Path],
    early: Early,
    tuning: Tuning,
    monkeypatch: pytest.MonkeyPatch,
    expected: list[np.ndarray] | None = None,
) -> tuple[set[str], Gpu]:
    """What the stand-in has to say of a run, and whether the numbers are others than expected: by default the CPU's."""
    if expected is None:
        expected = joined(streamed(network, paths, torch.device("cpu"), for_device("cpu")))
    monkeypatch.setattr(engine, "read_ahead", at_once)
    with stand_in(monkeypatch, early) as gpu:
        made = joined(streamed(network, paths, CUDA, tuning))
    found = set(gpu.faults)
    for one, other in zip(expected, made, strict=True):
        if one.shape != other.shape or not np.allclose(one, other, rtol=0, atol=1e-5):
            found.add("other numbers")
    return found, gpu


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Threads are in one another's way in products this small."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@EARLY
@pytest.mark.parametrize("counts", [FULL, PADDED], ids=["full", "padded"])
@pytest.mark.parametrize("graphs", [False, True], ids=["eager", "graphs"])
def test_the_numbers_are_the_cpus_and_nothing_is_read_or_refilled_before_its_copy_is_done(
    graphs: bool, counts: list[int], early: Early, network: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found, gpu = wrong(network, written(tmp_path, counts), early, replace(USUAL, graphs=graphs), monkeypatch)
    assert found == set()
    # Of twelve batches the first two are not recorded, and none that has padding.
    assert gpu.replays == (10 if graphs and counts == FULL else 0)


@EARLY
def test_whole_numbers_are_decoded_on_the_gpu_after_their_copy_and_before_the_network(
    early: Early, network: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found, _ = wrong(network, written_as_numbers(tmp_path), early, USUAL, monkeypatch)
    assert found == set()


# What must be noticed, or else the test above would say nothing.


def no_wait(patch: pytest.MonkeyPatch) -> None:
    """The computation doesn't wait for the copy of its signals."""
    patch.setattr(Stream, "wait_stream", lambda *_: None)


def a_buffer_less(patch: pytest.MonkeyPatch) -> None:
    """The next batch is read into the buffer that may still be copied from."""
    read = segment_files.read_batches
    patch.setattr(segment_files, "read_batches", lambda paths, buffers: read(paths, buffers[:-1]))


def no_event(patch: pytest.MonkeyPatch) -> None:
    """Results are read whether they are there or not."""
    patch.setattr(Event, "synchronize", lambda _: None)


def an_event_before_the_copies(patch: pytest.MonkeyPatch) -> None:
    """The event is recorded when the network is done, while its results are on their way."""
    patch.setattr(Stream, "record_event", lambda stream: Event(stream, len(stream.queue) - 3))


def pageable_results(patch: pytest.MonkeyPatch) -> None:
    """Python waits for each batch's results before it queues the next one."""
    patch.setattr(engine, "_to_host", lambda tensor: tensor.cpu())


def pageable_buffers(patch: pytest.MonkeyPatch) -> None:
    """Python waits for the copy of each batch's signals."""
    read = segment_files.read_batches
    patch.setattr(
        segment_files,
        "read_batches",
        lambda paths, buffers: read(paths, [torch.empty(4, 12, SAMPLES) for _ in buffers]),
    )


def a_pageable_mask(patch: pytest.MonkeyPatch) -> None:
    """Python waits, within the network, until all is done that was queued before the mask."""

    def padding(network: Network, samples: Tensor, x: Tensor) -> Tensor:
        counts = torch.tensor([network.arch.tokens(count) for count in samples.tolist()], device=x.device)
        return torch.arange(x.shape[1]) >= counts[:, None]

    patch.setattr(Network, "_padding", padding)


NOT_READ, REFILLED = (
    "a result was read before the copy into it had run",
    "memory was refilled before the copy out of it",
)
BREAKAGES: dict[Callable[[pytest.MonkeyPatch], None], str] = {
    no_wait: "other numbers",
    a_buffer_less: REFILLED,
    no_event: NOT_READ,
    an_event_before_the_copies: NOT_READ,
    pageable_results: "Python waits: for a copy to the host",
    pageable_buffers: "Python waits: for a copy to the device",
    a_pageable_mask: "Python waits: for a copy to the device",
}


@pytest.mark.parametrize("graphs", [False, True], ids=["eager", "graphs"])
@pytest.mark.parametrize("breakage", BREAKAGES, ids=lambda breakage: breakage.__name__)
def test_an_engine_that_is_broken_on_purpose_is_noticed(
    breakage: Callable[[pytest.MonkeyPatch], None],
    graphs: bool,
    network: Network,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    paths = written(tmp_path, PADDED if breakage is a_pageable_mask else FULL)
    expected = joined(streamed(network, paths, torch.device("cpu"), for_device("cpu")))
    breakage(monkeypatch)
    found, _ = wrong(network, paths, "nothing", replace(USUAL, graphs=graphs), monkeypatch, expected)
    assert [fault for fault in found if fault.startswith(BREAKAGES[breakage])]


# Where memory runs out, and after errors


@pytest.mark.parametrize("graphs", [False, True], ids=["eager", "graphs"])
def test_a_batch_that_is_halved_is_put_together_again(
    graphs: bool, network: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = written(tmp_path, FULL)
    expected = joined(streamed(network, paths, torch.device("cpu"), for_device("cpu")))
    forward = Network.forward

    def limited(network: Network, signal: Tensor, *more: object) -> ecg_fm_network.Output:
        if len(signal) > SIZE // 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(network, signal, *more)  # type: ignore[arg-type]

    monkeypatch.setattr(Network, "forward", limited)
    found, gpu = wrong(network, paths, "nothing", replace(USUAL, graphs=graphs), monkeypatch, expected)
    assert found == set()
    assert gpu.replays == (22 if graphs else 0)  # halves, without the two that were run before


def test_a_network_that_cannot_be_recorded_runs_without(
    network: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    paths = written(tmp_path, FULL)
    expected = joined(streamed(network, paths, torch.device("cpu"), for_device("cpu")))
    forward = Network.forward

    def waiting(network: Network, *given: object) -> ecg_fm_network.Output:
        output = forward(network, *given)  # type: ignore[arg-type]
        assert output.embedding.sum().item() != 0
        return output

    monkeypatch.setattr(Network, "forward", waiting)
    found, gpu = wrong(network, paths, "nothing", replace(USUAL, graphs=True), monkeypatch, expected)
    assert {fault.split(" for ")[0] for fault in found} == {"Python waits:"}
    assert gpu.replays == 0
    assert caplog.text.count("going on without CUDA graphs: operation not permitted when stream is capturing") == 1


@EARLY
@pytest.mark.parametrize("fails", ["reading", "network", "consumer"])
def test_after_an_error_nothing_runs_on_even_while_the_error_is_kept(
    fails: str, early: Early, network: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = written(tmp_path, FULL)
    forward, seen = Network.forward, list[int]()

    def broken(network: Network, *given: object) -> ecg_fm_network.Output:
        seen.append(1)
        if len(seen) == 5:
            raise ValueError("broken")
        return forward(network, *given)  # type: ignore[arg-type]

    def consumed(stream: engine.Stream) -> int:
        batches = 0
        for _ in stream:
            batches += 1
            if fails == "consumer" and batches == 3:
                stream.close()  # type: ignore[attr-defined]
                raise ValueError("broken")
        return batches

    with stand_in(monkeypatch, early) as gpu:
        stream = streamed(network, paths, CUDA, USUAL)
        if fails == "reading":
            paths[2].unlink()
        if fails == "network":
            monkeypatch.setattr(Network, "forward", broken)
        with pytest.raises(EcgpipeError if fails == "reading" else ValueError, match=r"is missing|broken") as caught:
            consumed(stream)
        assert not threads_left()
        gpu.usual.synchronize()  # what was queued is done in the end, and hurts nobody
    assert gpu.faults == []
    assert caught.value is not None


def test_segments_in_memory_get_what_the_stream_gives(
    network: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = joined(streamed(network, written(tmp_path, FULL), torch.device("cpu"), for_device("cpu")))
    with stand_in(monkeypatch) as gpu:
        counts = np.array(FULL, np.int32)
        made = engine.forward(network, signals(len(ROWS)), counts, CUDA, SIZE, True, replace(USUAL, graphs=True))
    assert gpu.replays == 10
    for one, other in zip(expected, made, strict=True):
        assert other is not None
        np.testing.assert_allclose(other, one, rtol=0, atol=1e-5)
