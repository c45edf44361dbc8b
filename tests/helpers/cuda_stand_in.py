"""A GPU made of the CPU, as late as a real one may be: work on a stream runs when something waits for it, not before.

Tensors on it are ordinary ones whose numbers are NaN until the operation that makes them has run, and whose `device`
says cuda. Whatever the network does with them is queued on the current stream, in order; `Stream.wait_stream`, events
and CUDA graphs mean what CUDA says they mean. What may not happen on a real one is written down in `faults`:

- memory that a queued copy still has to read is changed before that copy has run,
- memory that a queued copy still has to write is read before that,
- Python waits for the GPU other than by an event: for a copy from or to memory that is not pinned, or for a number.

It says nothing of speed, of kernels or of CUDA's errors.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_unflatten

CUDA = torch.device("cuda", 0)
Early = Literal["nothing", "copies", "all"]  # which streams run at once rather than late

# What gives Python a number, or a shape, that only the GPU knows; and whatever gives no tensor.
WAITING = ("nonzero", "masked_select")


class Stream:
    """Work in order, done up to what something waits for."""

    def __init__(self, gpu: "Gpu", early: bool = False) -> None:
        self.gpu, self.early = gpu, early
        self.queue: list[Callable[[], object]] = []
        self.done = 0

    def add(self, work: Callable[[], object]) -> None:
        self.queue.append(work)
        if self.early:
            self.run_to(len(self.queue))

    def run_to(self, position: int) -> None:
        while self.done < position:
            self.done += 1
            self.gpu.execute(self.queue[self.done - 1])

    def wait_stream(self, other: "Stream") -> None:
        position = len(other.queue)
        self.add(lambda: other.run_to(position))

    def record_event(self) -> "Event":
        return Event(self, len(self.queue))

    def synchronize(self) -> None:
        self.run_to(len(self.queue))


class Event:
    """A place in a stream."""

    def __init__(self, stream: Stream, position: int) -> None:
        self.stream, self.position = stream, position

    def synchronize(self) -> None:
        self.stream.run_to(self.position)


class Graph:
    """A CUDA graph: what was queued while it was recorded, to be queued again."""

    def __init__(self, gpu: "Gpu") -> None:
        self.gpu = gpu
        self.works: list[Callable[[], object]] = []

    def replay(self) -> None:
        self.gpu.replays += 1
        for work in self.works:
            self.gpu.current.add(work)


class Gpu:
    """The streams, which memory is whose, and what went wrong."""

    def __init__(self, early: Early) -> None:
        self.early = early
        self.usual = self.current = Stream(self, early == "all")
        self.faults: list[str] = []
        self.replays = 0
        self.recording: list[Callable[[], object]] | None = None
        self.inside = 0  # of the stand-in's own work, which is not queued
        self.device_memory: dict[int, object] = {}  # storages by address, held so that none is had again
        self.pinned: dict[int, object] = {}
        self.unwritten: dict[int, int] = {}  # host memory that so many queued copies still have to write

    # Memory

    @staticmethod
    def address(tensor: Tensor) -> int:
        return tensor.untyped_storage().data_ptr()

    def has(self, value: object) -> bool:
        return isinstance(value, Tensor) and self.address(value) in self.device_memory

    def on_device(self, tensor: Tensor) -> Tensor:
        self.device_memory[self.address(tensor)] = tensor.untyped_storage()
        return tensor

    def in_pinned(self, tensor: Tensor) -> Tensor:
        self.pinned[self.address(tensor)] = tensor.untyped_storage()
        return tensor

    @staticmethod
    def poisoned(tensor: Tensor) -> Tensor:
        return tensor.fill_(torch.nan) if tensor.is_floating_point() or tensor.is_complex() else tensor

    # Work

    @contextmanager
    def own(self) -> Iterator[None]:
        self.inside += 1
        try:
            yield
        finally:
            self.inside -= 1

    def execute(self, work: Callable[[], object]) -> None:
        with self.own(), torch.inference_mode():
            work()

    def add(self, work: Callable[[], object]) -> None:
        if self.recording is not None:
            self.recording.append(work)
        else:
            self.current.add(work)

    def waits(self, why: str) -> None:
        """Python waits for all that is queued, as it should not."""
        self.faults.append(f"Python waits: {why}")
        self.current.synchronize()

    def to_device(self, source: Tensor, non_blocking: bool) -> Tensor:
        """A copy from the host."""
        made = self.on_device(self.poisoned(torch.empty_like(source)))
        seen, into = source.clone(), made.detach()

        def copy() -> None:
            if not torch.equal(seen, source):
                self.faults.append("memory was refilled before the copy out of it had run")
            into.copy_(source)

        self.add(copy)
        if not (non_blocking and self.address(source) in self.pinned):
            self.waits("for a copy to the device")
        return made

    def to_host(self, target: Tensor, source: Tensor, non_blocking: bool) -> Tensor:
        """A copy into memory of the host."""
        address, into, given = self.address(target), target.detach(), source.detach()
        self.unwritten[address] = self.unwritten.get(address, 0) + 1

        def copy() -> None:
            into.copy_(given)
            self.unwritten[address] -= 1

        self.poisoned(target)
        self.add(copy)
        if not (non_blocking and address in self.pinned):
            self.waits("for a copy to the host")
        return target

    def read(self, tensor: Tensor) -> None:
        """The host reads that memory."""
        if self.unwritten.get(self.address(tensor), 0):
            self.faults.append("a result was read before the copy into it had run")


class Functions(TorchFunctionMode):
    """What PyTorch is asked for by name: where memory is, and copies between the two."""

    def __init__(self, gpu: Gpu) -> None:
        super().__init__()
        self.gpu = gpu

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # noqa: ANN401
        gpu, options = self.gpu, dict(kwargs or {})
        if gpu.inside:
            return func(*args, **options)
        first: Any = args[0] if args else None
        if func == torch.Tensor.device.__get__ and gpu.has(first):
            return CUDA
        if func is torch.Tensor.numpy:
            if gpu.has(first):
                raise TypeError("can't convert a cuda tensor to numpy")
            gpu.read(first)
            return func(*args, **options)
        if func is torch.Tensor.to and len(args) > 1 and isinstance(args[1], torch.device):
            here, there = gpu.has(first), args[1].type == "cuda"
            with gpu.own():
                if there and not here:
                    return gpu.to_device(first, options.get("non_blocking", False))
                if here and not there:
                    return gpu.to_host(torch.empty_like(first), first, options.get("non_blocking", False))
            return first
        if func is torch.Tensor.cpu and gpu.has(first):
            with gpu.own():
                return gpu.to_host(torch.empty_like(first), first, False)
        if func is torch.tensor and options.get("device") == CUDA:
            with gpu.own():
                return gpu.to_device(func(*args, **{**options, "device": "cpu"}), False)
        if func is torch.Tensor.copy_ and gpu.has(args[1]) and not gpu.has(first):
            with gpu.own():
                return gpu.to_host(first, args[1], options.get("non_blocking", False))
        if func is torch.Tensor.pin_memory:
            with gpu.own():
                return gpu.in_pinned(first.clone())
        pinned, device = options.pop("pin_memory", False), options.pop("device", None)
        if pinned or (device is not None and func in (torch.empty_like, torch.empty)):
            with gpu.own():
                made = gpu.poisoned(func(*args, **options))
            return gpu.in_pinned(made) if pinned else made if device.type == "cpu" else gpu.on_device(made)
        if device is not None:
            options["device"] = device
        return func(*args, **options)


class Operations(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """What is computed from tensors on the device: queued."""

    def __init__(self, gpu: Gpu) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.gpu = gpu

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # noqa: ANN401
        gpu, options = self.gpu, dict(kwargs or {})
        flat, tree = tree_flatten((args, options))
        if gpu.inside or not any(map(gpu.has, flat)):
            return func(*args, **options)
        with gpu.own():
            if func.overloadpacket.__name__ in WAITING:
                gpu.waits(f"for {func}")
                return func(*args, **options)
            given = [value.detach() if isinstance(value, Tensor) else value for value in flat]
            again_args, again_options = tree_unflatten(given, tree)
            if func._schema.is_mutable:
                gpu.add(lambda: func(*again_args, **again_options))
                return args[0]
            made = func(*args, **options)  # now, for its shape alone
            outputs = [value for value in tree_flatten(made)[0] if isinstance(value, Tensor)]
            if not outputs:
                gpu.waits(f"for {func}")
                return func(*args, **options)
            if all(map(gpu.has, outputs)):  # views
                return made
            into = [gpu.poisoned(gpu.on_device(value)).detach() for value in outputs]

            def compute() -> None:
                again = tree_flatten(func(*again_args, **again_options))[0]
                for target, value in zip(into, [value for value in again if isinstance(value, Tensor)], strict=True):
                    target.copy_(value)

            gpu.add(compute)
            return made


@contextmanager
def stand_in(monkeypatch: pytest.MonkeyPatch, early: Early = "nothing") -> Iterator[Gpu]:
    """A GPU for what this thread does with PyTorch meanwhile."""
    gpu = Gpu(early)

    @contextmanager
    def current(stream: Stream) -> Iterator[None]:
        before, gpu.current = gpu.current, stream
        try:
            yield
        finally:
            gpu.current = before

    @contextmanager
    def record(graph: Graph, stream: Stream, capture_error_mode: str) -> Iterator[None]:
        assert stream is not gpu.usual
        assert capture_error_mode == "thread_local"
        stream.synchronize()
        gpu.usual.synchronize()
        gpu.recording, waits, gpu.waits = graph.works, gpu.waits, refuse  # type: ignore[method-assign]
        try:
            yield
        finally:
            gpu.recording, gpu.waits = None, waits  # type: ignore[method-assign]

    def refuse(why: str) -> None:
        raise RuntimeError(f"operation not permitted when stream is capturing: {why}")

    for name, value in {
        "Stream": lambda device: Stream(gpu, early != "nothing"),
        "current_stream": lambda device: gpu.current,
        "stream": current,
        "Event": Event,
        "CUDAGraph": lambda: Graph(gpu),
        "graph": record,
        "empty_cache": lambda: None,
        "_lazy_init": lambda: None,
    }.items():
        monkeypatch.setattr(torch.cuda, name, value)
    monkeypatch.setattr(torch.Tensor, "record_stream", lambda tensor, stream: None, raising=True)
    with Functions(gpu), Operations(gpu):
        yield gpu
