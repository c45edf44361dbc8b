"""What the steps of `benchmarks.gpu` have in common: the model, the shards, commands, and how a rate is measured."""

import filecmp
import importlib.util
import json
import logging
import os
import runpy
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from benchmarks import ecg_fm, limit, machine, stage
from benchmarks.ecg_fm import SAMPLES
from benchmarks.gpu_worker import Report, Setup, SkippedError
from benchmarks.sides import Setup as StageSetup
from ecgpipe import cli
from ecgpipe.inference import engine
from ecgpipe.inference.batch import BEFORE_GRAPH, BatchRunner
from ecgpipe.models.description import describe
from ecgpipe.models.ecg_fm import network as ecg_fm_network
from ecgpipe.models.ecg_fm.network import Network
from ecgpipe.models.ecg_fm.tuning import Tuning

ROOT = Path(__file__).parents[1]
BATCH_SIZES = (1, 8, 32, 64, 128, 256, 512, 1024)
PRECISIONS = ("float16", "bfloat16", "float32")
VARIANT = "float16"  # the precision that the variants are compared in: what auto takes on a GPU


def card() -> str:
    """The name of the card."""
    return torch.cuda.get_device_name(0) if torch.cuda.is_available() else "no GPU"


def need(*modules: str) -> None:
    """Skip the step where a package is missing."""
    missing = [name for name in modules if importlib.util.find_spec(name) is None]
    if missing:
        raise SkippedError(f"not installed: {', '.join(missing)}")


def reference(setup: Setup) -> Path:
    """The folder of the real recordings and the reference numbers."""
    if setup.reference is None:
        raise SkippedError("the folder of reference numbers is not there (--reference)")
    return setup.reference


def golden(setup: Setup, name: str) -> dict[str, np.ndarray]:
    """One of the reference's files of numbers."""
    with np.load(reference(setup) / "golden" / name) as known:
        return dict(known)


def precisions(setup: Setup) -> list[str]:
    """The precisions that the device computes in hardware, the fastest first."""
    there = machine.devices()[setup.device]
    return [name for name in PRECISIONS if name in there]


def variant_precision(setup: Setup) -> str:
    """The precision of the stage's and the variants' measurements."""
    return VARIANT if VARIANT in precisions(setup) else "float32"


def batch_sizes(setup: Setup) -> tuple[int, ...]:
    """The batch sizes to measure."""
    return (1, 4) if setup.tiny else BATCH_SIZES


def default_batch(setup: Setup) -> int:
    """The stage's own batch size."""
    return engine.default_batch_size(torch.device(setup.device), SAMPLES)


def fresh(setup: Setup, name: str) -> Path:
    """A path in the setup's folder with nothing at it."""
    path = setup.folder / name
    shutil.rmtree(path, ignore_errors=True)
    return path


def model_folder(setup: Setup) -> Path:
    """ECG-FM's architecture with random weights, written once."""
    folder = setup.folder / "model"
    if not (folder / "model.json").exists():
        ecg_fm.write(folder, setup.tiny)
    return folder


def loaded(setup: Setup, name: str) -> Network:
    """The network of `model_folder` as the infer stage sets it up."""
    return ecg_fm.network(model_folder(setup), setup.device, name, setup.cores)


def made(setup: Setup, variant: str) -> Path:
    """A reference checkpoint, made by the reference's own recipe, here: another process would load PyTorch first."""
    path, recipe = setup.folder / f"{variant}.pt", reference(setup) / "make_checkpoint.py"
    if not path.exists():
        usual, sys.argv = sys.argv, [str(recipe), variant, str(path)]
        try:
            runpy.run_path(str(recipe), run_name="__main__")
        except SystemExit as ended:
            raise RuntimeError(f"{recipe}: {ended}") from ended
        finally:
            sys.argv = usual
    return path


def converted(setup: Setup, variant: str) -> Path:
    """The folder of a reference checkpoint as the checkpoint stage writes it."""
    folder = setup.folder / f"converted-{variant}"
    if not (folder / "model.json").exists():
        labels = folder / "labels.csv" if variant == "prenorm" else ecg_fm.LABELS
        folder.mkdir(exist_ok=True)
        if variant == "prenorm":
            labels.write_text("name,aggregation\n" + "".join(f"output_{number},mean\n" for number in range(5)))
        argv = ["checkpoint", "--source", made(setup, variant), "--labels", labels]
        argv += ["--weights", folder / "model.safetensors", "--description", folder / "model.json"]
        if status := cli.main([str(word) for word in argv]):
            raise RuntimeError(f"ecgpipe checkpoint ended with {status}: the log says why")
    return folder


def outputs(setup: Setup, folder: Path, name: str) -> dict[str, np.ndarray]:
    """What the engine computes from the reference's segments."""
    segments = golden(setup, "segments.npz")["signal"]  # (14, 12, 2500)
    network = ecg_fm.network(folder, setup.device, name, setup.cores)
    counts = np.full(len(segments), segments.shape[2], np.int32)
    found = engine.forward(network, segments, counts, torch.device(setup.device), 16, with_attention=True)
    assert found.attention is not None  # noqa: S101, it was asked for
    return {"logits": found.logits, "embedding": found.embedding, "attention": found.attention}


def finish(setup: Setup) -> None:
    """Wait for what has only begun."""
    if setup.device == "cuda":
        torch.cuda.synchronize()


def release(setup: Setup) -> None:
    """Give memory that tensors no longer take back to the device, for other processes."""
    if setup.device == "cuda":
        torch.cuda.empty_cache()


def rate(setup: Setup, call: Callable[[], object], units: float, round_s: float) -> float:
    """Units per second: the median of five rounds that take `round_s` together, after a warm-up."""
    call()
    finish(setup)
    began = time.perf_counter()
    call()
    finish(setup)
    times = max(1, round(round_s / 5 / max(1e-9, time.perf_counter() - began)))
    rates = []
    for _ in range(5):
        began = time.perf_counter()
        for _ in range(times):
            call()
        finish(setup)
        rates.append(times * units / (time.perf_counter() - began))
    return median(rates)


def products(setup: Setup, name: str, round_s: float) -> dict[str, float]:
    """GFLOP/s of each product of benchmarks/limit.py."""
    if setup.tiny:
        shapes: Sequence[tuple[int, int, int]] = ((64, 32, 64), (128, 128, 128))
    else:
        shapes = limit.PRODUCTS[setup.device]
    engine.configure(setup.cores, deterministic=False)
    found = {}
    for rows, inner, columns in shapes:
        a, b, out = (
            torch.randn(shape, device=setup.device).to(engine.DTYPES[name])
            for shape in ((rows, inner), (inner, columns), (rows, columns))
        )
        with torch.no_grad():
            gflop = 2 * rows * inner * columns / 1e9
            found[f"{rows} x {inner} x {columns}"] = rate(setup, partial(torch.matmul, a, b, out=out), gflop, round_s)
    return found


def noise(setup: Setup, network: Network, size: int) -> torch.Tensor:
    """A batch of segments on the device."""
    return torch.randn(size, network.arch.in_leads, SAMPLES, device=setup.device)


def forward_rate(setup: Setup, network: Network, size: int, with_attention: bool) -> tuple[float, float | None] | None:
    """Segments per second of the model alone and its peak of memory in MB; None where there is too little."""
    on_gpu = setup.device == "cuda"
    try:
        signal = noise(setup, network, size)
        if on_gpu:
            torch.cuda.reset_peak_memory_stats()
        with torch.inference_mode():
            found = rate(setup, lambda: network(signal, None, with_attention), size, 0.05 if setup.tiny else 0.5)
    except torch.OutOfMemoryError:
        release(setup)
        return None
    return found, round(torch.cuda.max_memory_allocated() / 2**20) if on_gpu else None


def best_batch(setup: Setup) -> int:
    """The batch size with the highest rate, of few."""
    network = loaded(setup, variant_precision(setup))
    sizes = batch_sizes(setup)[-4:]
    rates = {size: found[0] for size in sizes if (found := forward_rate(setup, network, size, with_attention=True))}
    return max(rates, key=lambda size: rates[size])


def stage_shards(setup: Setup, segments: int) -> list[Path]:
    """Shards of noise, written once for each number of segments."""
    folder = setup.folder / f"segments-{segments}"
    if folder.exists():
        return sorted(folder.glob("*.arrow"))
    return stage.write_shards(folder, segments)


def repeat_shards(setup: Setup, shards: Sequence[Path], times: int) -> list[Path]:
    """The same shards several times under other names: more for a job to read, and nothing more in memory."""
    folder = fresh(setup, "segments-repeated")
    folder.mkdir()
    paths = [folder / f"{turn}-{path.name}" for turn in range(times) for path in shards]
    for path, source in zip(paths, list(shards) * times, strict=True):
        path.hardlink_to(source)
    return paths


def start_infer(
    setup: Setup, name: str, shards: Sequence[Path], precision_name: str, *options: str
) -> "subprocess.Popen[str]":
    """Start the infer stage's command; its results go to a folder of that name."""
    folder = fresh(setup, name)
    for source in ("model.safetensors", "model.json"):
        folder.mkdir(exist_ok=True)
        (folder / source).symlink_to(model_folder(setup) / source)
    stage_setup = StageSetup(folder, setup.device, setup.cores, 1, 1.0)
    command = [
        sys.executable,
        "-m",
        "ecgpipe",
        *map(str, stage.arguments(stage_setup, precision_name, shards)),
        *options,
    ]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=ROOT)


def infer(
    setup: Setup, name: str, shards: Sequence[Path], precision_name: str, *options: str
) -> tuple[float, dict[str, Any]]:
    """Run the infer stage; the seconds of the whole command, and what its timing file says."""
    began = time.perf_counter()
    process = start_infer(setup, name, shards, precision_name, *options)
    said, _ = process.communicate()
    took = time.perf_counter() - began
    print(said)
    if process.returncode:
        raise RuntimeError(said[-4000:])
    timing: dict[str, Any] = json.loads((setup.folder / name / "out" / "timing.json").read_text())
    return took, timing


def run_own(script: str, *arguments: str) -> str:
    """Run a script in a Python of its own; the last line that it prints."""
    status, said = run_command([sys.executable, "-c", script, *arguments])
    if status:
        raise RuntimeError(said[-4000:])
    return said.strip().splitlines()[-1]


def run_command(command: Sequence[str], **environment: str) -> tuple[int, str]:
    """Run a command in the project's folder; its exit status and what it says, which goes to the log meanwhile."""
    said = []
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=ROOT,
        env={**os.environ, **environment},
    ) as process:
        assert process.stdout is not None  # noqa: S101, it is a pipe
        for line in process.stdout:
            print(line, end="", flush=True)
            said.append(line)
    return process.returncode, "".join(said)


def same_results(setup: Setup, one: str, other: str) -> bool:
    """Whether two runs of the stage wrote the same bytes."""
    names = [f"{kind}.parquet" for kind in ("logits", "embeddings", "attention")]
    folders = (setup.folder / one / "out", setup.folder / other / "out")
    same, _, _ = filecmp.cmpfiles(*folders, names, shallow=False)
    return same == names


@contextmanager
def host_seconds() -> Iterator[list[float]]:
    """How long the host is busy with each batch: what starts the kernels, not what waits for them."""
    spent: list[float] = []
    call = BatchRunner.__call__

    def timed(self: BatchRunner, signals: torch.Tensor, samples: np.ndarray) -> list[torch.Tensor]:
        began = time.perf_counter()
        tensors = call(self, signals, samples)
        spent.append(time.perf_counter() - began)
        return tensors

    BatchRunner.__call__ = timed  # type: ignore[method-assign]
    try:
        yield spent
    finally:
        BatchRunner.__call__ = call  # type: ignore[method-assign]


@contextmanager
def messages(name: str) -> Iterator[list[str]]:
    """What a logger says meanwhile."""
    said: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger(name)
    logger.addHandler(handler)
    try:
        yield said
    finally:
        logger.removeHandler(handler)


def union_s(spans: Sequence[tuple[float, float]]) -> float:
    """How long at least one of some spans of microseconds lasts, in seconds."""
    total, last = 0.0, float("-inf")
    for start, end in sorted(spans):
        total += max(0.0, end - max(start, last))
        last = max(last, end)
    return total / 1e6


def smi() -> dict[str, str]:
    """What nvidia-smi says of the card now."""
    keys = [
        "driver_version", "clocks.sm", "clocks.mem", "clocks.max.sm", "power.draw", "power.limit", "temperature.gpu",
        "memory.used", "memory.total", "ecc.mode.current",
    ]  # fmt: skip
    command = ["nvidia-smi", "-i", "0", f"--query-gpu={','.join(keys)}", "--format=csv,noheader"]
    try:
        said = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout
    except (OSError, subprocess.SubprocessError) as error:
        return {"error": str(error)}
    return dict(zip(keys, (value.strip() for value in said.splitlines()[0].split(",")), strict=False))


def measure_variant(setup: Setup, report: Report, name: str, size: int, tuning: Tuning, padded: bool = False) -> None:
    """Run the engine in one way on a batch that is on the device, and compare it with the usual way.

    Reports segments per second, the share of torch.matmul, the largest difference of a probability or embedding, the
    seconds until the first results, and what was not available.
    """
    key = f"{name} {size} {tuning.position}" + " graphs" * tuning.graphs + " compiled" * tuning.compiled
    folder, device = model_folder(setup), torch.device(setup.device)
    engine.configure(setup.cores, deterministic=False)
    arch = describe(folder / "model.json").architecture
    counts = np.full(size, SAMPLES, np.int32)
    counts[0] -= 500 * padded
    usual = replace(tuning, position="fourier", graphs=False, compiled=False)
    found: list[list[np.ndarray]] = []
    began = time.perf_counter()
    try:
        for one in (usual, tuning):
            torch.manual_seed(0)
            network = ecg_fm_network.load(arch, folder / "model.safetensors", device, engine.DTYPES[name], tuning=one)
            signal = noise(setup, network, size)
            compute = BatchRunner(network, size, True, False, one)
            began = time.perf_counter()
            for _ in range(BEFORE_GRAPH + 2):
                tensors = compute(signal, counts)
                finish(setup)
            first_s = time.perf_counter() - began
            found.append([tensor.float().cpu().numpy() for tensor in tensors])
        found_rate = rate(setup, lambda: compute(signal, counts), size, 0.05 if setup.tiny else 0.5)
    except RuntimeError as error:
        report(key + " padded" * padded, {"error": str(error)})
        return
    row: dict[str, object] = {"segments_per_s": round(found_rate, 1), "first_s": round(first_s, 2)}
    row["share_of_matmul"] = round(found_rate * ecg_fm.gflop(folder) / fastest_product(setup, name), 3)
    row["largest_difference"] = float(f"{max(float(np.abs(a - b).max()) for a, b in zip(*found, strict=True)):.2g}")
    if compute.tuning != tuning or compute.limit != size:
        row["became"] = f"{compute.tuning}, {compute.limit} at a time"
    report(key + " padded" * padded, row)


@cache
def fastest_product(setup: Setup, name: str) -> float:
    """GFLOP/s of the fastest product, measured once."""
    return max(products(setup, name, 0.2).values())
