"""The steps of `benchmarks.gpu`: each measures, and reports each figure as soon as it has it.

They run in a process that is kept from step to step, so that PyTorch is loaded and the GPU started once. What a step
writes goes to the setup's folder, and what another has written there is used again.
"""

import filecmp
import json
import logging
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from benchmarks import ecg_fm, limit, machine, stage
from benchmarks.ecg_fm import SAMPLES
from benchmarks.gpu_worker import Report, Setup, SkippedError
from benchmarks.sides import Setup as StageSetup
from ecgpipe import checkpoint, engine, model, precision
from ecgpipe.model import Network
from ecgpipe.shards import look_at

ROOT = Path(__file__).parents[1]
BATCH_SIZES = (1, 8, 32, 64, 128, 256, 512, 1024)
PRECISIONS = ("float16", "bfloat16", "float32")
VARIANT = "float16"  # the precision that the variants are compared in: what auto takes on a GPU

# The largest differences from fairseq-signals' numbers that are rounding, float32; shared/reference/README.md.
ALLOWED = {"logits": 1e-4, "embedding": 1e-4, "attention": 1e-5}


# What is measured.


def facts(setup: Setup, report: Report) -> None:
    """The machine, the card, PyTorch."""
    report("machine", machine.facts())
    if setup.device != "cuda":
        return
    card = torch.cuda.get_device_properties(0)
    free, total = torch.cuda.mem_get_info(0)
    report("card", card.name)
    report("capability", f"{card.major}.{card.minor}")
    report("multiprocessors", card.multi_processor_count)
    report("memory_gb", {"free": round(free / 1e9, 1), "total": round(total / 1e9, 1)})
    report("cudnn", torch.backends.cudnn.version())  # type: ignore[no-untyped-call]
    report("architectures", torch.cuda.get_arch_list())
    report("nvidia_smi", smi())


def matmul(setup: Setup, report: Report) -> None:
    """The rate of torch.matmul at the model's own sizes and at a large square."""
    for name in precisions(setup):
        report(name, {shape: round(rate) for shape, rate in products(setup, name, 0.3).items()})
    if setup.device == "cuda":
        report("nvidia_smi", smi())  # the clocks under load


def parity(setup: Setup, report: Report) -> None:
    """The reference checkpoints in float32 against what fairseq-signals computes from them on a CPU."""
    for variant in ("tiny", "prenorm") if setup.tiny else ("base", "tiny", "prenorm"):
        folder, expected = converted(setup, variant), golden(setup, f"{variant}.npz")
        found = outputs(setup, folder, "float32")
        apart = {name: float(np.abs(found[name] - expected[name]).max()) for name in ALLOWED}
        report(variant, {**apart, "ok": all(apart[name] <= most for name, most in ALLOWED.items())})


def drift(setup: Setup, report: Report) -> None:
    """What half precision changes on the real recordings, as the precision stage tells it."""
    folder = converted(setup, "tiny" if setup.tiny else "base")
    labels = checkpoint.describe(folder / "model.json").labels
    exact = outputs(setup, folder, "float32")
    for name in precisions(setup):
        if name != "float32":
            rounded = outputs(setup, folder, name)
            pair = [(one["logits"], one["embedding"]) for one in (exact, rounded)]
            found = precision.drift(pair[0], pair[1], labels)
            report(name, {key: found[key] for key in ("segments", "largest", "embedding")})


def alone(setup: Setup, report: Report) -> None:
    """The model alone by batch size and precision, beside torch.matmul, with and without attention maps."""
    gflop = ecg_fm.gflop(model_folder(setup))
    for name in precisions(setup):
        network = loaded(setup, name)
        most = max(products(setup, name, 0.2).values())
        for size in batch_sizes(setup):
            for with_attention in (True, False):
                found = forward_rate(setup, network, size, with_attention)
                if found is not None:
                    rate, peak_mb = found
                    share = round(rate * gflop / most, 3)
                    row = {"segments_per_s": round(rate, 1), "share_of_matmul": share, "peak_mb": peak_mb}
                    report(f"{name} {size} {'with' if with_attention else 'without'} attention", row)
                else:
                    report(f"{name} {size}", {"out_of_memory": True})
        after = max(products(setup, name, 0.2).values())
        report(f"{name} matmul", {"gflop_per_s": round(most), "afterwards": round(after)})


def profile(setup: Setup, report: Report) -> None:
    """Which kernels the time goes to, twenty of them, for the best batch."""
    size = best_batch(setup)
    network = loaded(setup, variant_precision(setup))
    signal = noise(setup, network, size)
    on_gpu = setup.device == "cuda"
    kinds = [torch.profiler.ProfilerActivity.CUDA if on_gpu else torch.profiler.ProfilerActivity.CPU]
    with torch.inference_mode():
        network(signal)
        finish(setup)
        with torch.profiler.profile(activities=kinds) as profiler:
            for _ in range(3):
                network(signal)
            finish(setup)
    spent = [
        (event.key, event.self_device_time_total if on_gpu else event.self_cpu_time_total, event.count)
        for event in profiler.key_averages()
    ]
    total = sum(us for _, us, _ in spent) or 1
    report("batch_size", size)
    report("precision", variant_precision(setup))
    report("ms_per_batch", round(total / 3000, 3))
    kernels = sorted(spent, key=lambda row: -row[1])[:20]
    report("kernels", [{"name": key, "share": round(us / total, 4), "calls": count // 3} for key, us, count in kernels])


def end_to_end(setup: Setup, report: Report) -> None:
    """The infer stage over shards in the page cache, first segment to last, against the model alone."""
    segments = 64 if setup.tiny else 32_768
    shards = stage_shards(setup, segments)
    name, size = variant_precision(setup), default_batch(setup)
    network = loaded(setup, name)
    before = forward_rate(setup, network, size, with_attention=True)
    del network
    release(setup)
    seconds, timing = infer(setup, "stage", shards, name)
    report("first_to_last", {"segments": segments, "segments_per_s": round(segments / timing["seconds"], 1), **timing})
    report("whole_command", {"seconds": round(seconds, 2), "segments_per_s": round(segments / seconds, 1)})
    after = forward_rate(setup, loaded(setup, name), size, with_attention=True)
    if before is not None and after is not None:
        rate = (before[0] + after[0]) / 2
        report("model_alone", {"segments_per_s": round(rate, 1), "batch_size": size})
        report("share_of_model", round(segments / timing["seconds"] / rate, 3))


def host(setup: Setup, report: Report) -> None:
    """What the host does for a batch, and how long the GPU has nothing to do, in this process."""
    segments = 64 if setup.tiny else 8192
    shards = stage_shards(setup, segments)
    contents = look_at(shards)
    device, size = torch.device(setup.device), default_batch(setup)
    network = loaded(setup, variant_precision(setup))

    def rows() -> int:
        return sum(len(results.embedding) for _, results in engine.run(network, shards, contents, device, size, True))

    rows()  # warms up
    with host_seconds() as spent:
        began = time.perf_counter()
        count = rows()
        took = time.perf_counter() - began
    report("segments_per_s", round(count / took, 1))
    report("batch_size", size)
    report("ms_per_batch", round(1000 * took / len(spent), 3))
    report("host_ms_per_batch", round(1000 * median(spent), 3))
    if setup.device == "cuda":
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profiler:
            began = time.perf_counter()
            rows()
            took = time.perf_counter() - began
        spans = [
            (event.time_range.start, event.time_range.end)
            for event in profiler.events()
            if str(event.device_type).endswith("CUDA") and not event.name.startswith(("Memcpy", "Memset"))
        ]
        report("idle_share", round(1 - union_s(spans) / took, 3))


def loop(setup: Setup, report: Report) -> None:
    """The loop of ECG-FM's notebook on the same card, as benchmarks/stand_in.py has it."""
    need("ecg_transform")
    from benchmarks import preprocess, stand_in

    count = 2 if setup.tiny else 128
    recordings = preprocess.write_recordings(fresh(setup, "loop"), "mat", count)
    network = stand_in.load(model_folder(setup)).to(setup.device)
    segments = sum(len(preprocess.tutorial(path)) for path in recordings)
    report("differs_by", stand_in.check(model_folder(setup)))
    stand_in.infer(network, recordings[:1], setup.device)
    rates = []
    for _ in range(2):
        began = time.perf_counter()
        stand_in.infer(network, recordings, setup.device)
        rates.append(segments / (time.perf_counter() - began))
    report("segments_per_s", round(median(rates), 1))
    report("recordings", count)


def tests(setup: Setup, report: Report) -> None:
    """The tests that are marked for a GPU."""
    need("pytest")
    release(setup)
    command = [sys.executable, "-m", "pytest", "-q", "-rs", "-p", "no:cacheprovider", "tests/unit/test_gpu.py"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    print(done.stdout, done.stderr)
    lines = done.stdout.strip().splitlines() or done.stderr.strip().splitlines()
    report("pytest", lines[-1] if lines else "")
    report("failed", re.findall(r"^(?:FAILED|ERROR) (.*)$", done.stdout, re.MULTILINE))
    report("status", done.returncode)
    if done.returncode not in (0, 5):
        raise RuntimeError("\n".join(lines[-60:]))


def two_jobs(setup: Setup, report: Report) -> None:
    """Two infer jobs at once: on one GPU the second waits for the first, and both give the same."""
    shards = stage_shards(setup, 64 if setup.tiny else 2048)
    release(setup)
    began = time.perf_counter()
    jobs = {name: start_infer(setup, name, shards, variant_precision(setup)) for name in ("job-1", "job-2")}
    said = {name: process.communicate(timeout=300)[0] for name, process in jobs.items()}
    report("seconds", round(time.perf_counter() - began, 2))
    report("status", [process.returncode for process in jobs.values()])
    report("waited", sum("waiting: another ecgpipe job" in text for text in said.values()))
    for text in said.values():
        print(text)
    report("same_bytes", same_results(setup, "job-1", "job-2"))
    if any(process.returncode for process in jobs.values()):
        raise RuntimeError("\n".join(text[-2000:] for text in said.values()))


def memory(setup: Setup, report: Report) -> None:
    """Out of memory: the batch is halved until it fits, and the numbers stay."""
    if setup.device != "cuda":
        raise SkippedError("a CPU has no memory of its own to limit")
    network, size = loaded(setup, "float32"), 8 if setup.tiny else 256
    generator = np.random.default_rng(1)
    segments = generator.standard_normal((size, network.arch.in_leads, SAMPLES), dtype=np.float32)
    counts = np.full(size, SAMPLES, np.int32)
    device = torch.device("cuda")

    def run() -> engine.Results:
        return engine.forward(network, segments, counts, device, size, with_attention=True)

    torch.cuda.reset_peak_memory_stats()
    expected = run()
    peak, total = torch.cuda.max_memory_allocated(), torch.cuda.get_device_properties(0).total_memory
    held = torch.cuda.memory_allocated()
    release(setup)
    torch.cuda.set_per_process_memory_fraction((held + 0.4 * (peak - held)) / total)
    with messages("ecgpipe.engine") as said:
        try:
            found = run()
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0)
    report("said", said)
    report("peak_mb", round(peak / 2**20))
    report("largest_difference", float(np.abs(found.embedding - expected.embedding).max()))
    if not said:
        raise RuntimeError("memory was limited to 40 % of what the batch needs, and no batch was halved")


def deterministic(setup: Setup, report: Report) -> None:
    """Twice the same, to the last byte of the files."""
    shards = stage_shards(setup, 64 if setup.tiny else 2048)
    release(setup)
    for name in precisions(setup):
        for run in ("once", "twice"):
            infer(setup, run, shards, name, "--deterministic")
        report(name, same_results(setup, "once", "twice"))


def attribution(setup: Setup, report: Report) -> None:
    """How long integrated gradients of one label and one recording of ten seconds take."""
    need("captum")
    from benchmarks.attribution import segments
    from ecgpipe import attribute

    folder = model_folder(setup)
    arch = checkpoint.describe(folder / "model.json").architecture
    network = model.load(arch, folder / "model.safetensors", setup.device, packed=False)
    steps, size = (4, 4) if setup.tiny else (48, attribute.BATCH_SIZES[setup.device])
    prepared = segments(2)
    attribute.explain(network, prepared, 0, 2, size)
    began = time.perf_counter()
    explained = attribute.explain(network, prepared, 0, steps, size)
    report("seconds", round(time.perf_counter() - began, 2))
    report("steps", steps)
    report("segments", len(prepared.segments))
    missed = np.abs(explained.error).mean() / np.abs(explained.logit - explained.baseline_logit).mean()
    report("error_share", float(missed))


def verify(setup: Setup, report: Report) -> None:
    """`ecgpipe verify` on the device."""
    release(setup)
    command = [sys.executable, "-m", "ecgpipe", "verify", "--device", setup.device]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    report("said", [*done.stdout.splitlines(), *done.stderr.splitlines()][-12:])
    report("status", done.returncode)
    if done.returncode:
        raise RuntimeError(done.stdout + done.stderr)


def workflow(setup: Setup, report: Report) -> None:
    """The whole workflow over the ten real recordings, against the reference predictions."""
    need("snakemake", "umap", "captum", "plotly", "wfdb")
    import pandas as pd

    variant = "tiny" if setup.tiny else "base"
    source, out = made(setup, variant), setup.folder / "workflow"
    release(setup)
    command = [
        sys.executable, "-m", "snakemake", "--cores", str(setup.cores), "--snakefile", str(ROOT / "Snakefile"),
        "--directory", str(fresh(setup, "snakemake")), "--config", f"input={reference(setup) / 'code15'}",
        f"outdir={out}", f"checkpoint={source}", f"inference={{device: {setup.device}}}",
    ]  # fmt: skip
    paths = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    began = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": paths})
    report("seconds", round(time.perf_counter() - began, 1))
    report("status", done.returncode)
    print(done.stdout, done.stderr)
    if done.returncode:
        raise RuntimeError((done.stdout + done.stderr)[-6000:])
    found = pd.concat([pd.read_parquet(path) for path in sorted(out.glob("predictions/part-*.parquet"))])
    expected = pd.read_csv(reference(setup) / "golden" / f"predictions_{variant}.csv")
    found = found.set_index("record_id")
    expected = expected.set_index(expected.columns[0])
    expected.index = [str(name).removesuffix(".mat") for name in expected.index]
    labels = [name for name in expected.columns if name in found.columns]
    apart = np.abs(found.loc[expected.index, labels].to_numpy() - expected[labels].to_numpy())
    report("recordings", len(found))
    report("labels", len(labels))
    report("largest_difference", float(apart.max()))
    run = json.loads((out / "run.json").read_text())
    report("precision", run.get("precision"))


# What several steps need.


def card() -> str:
    """The name of the card."""
    return torch.cuda.get_device_name(0) if torch.cuda.is_available() else "no GPU"


def need(*modules: str) -> None:
    """Skip the step where a package is missing."""
    import importlib.util

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
    """A reference checkpoint, made by the reference's own recipe."""
    path = setup.folder / f"{variant}.pt"
    if not path.exists():
        command = [sys.executable, str(reference(setup) / "make_checkpoint.py"), variant, str(path)]
        subprocess.run(command, check=True)
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
        subprocess.run([sys.executable, "-m", "ecgpipe", *map(str, argv)], check=True, cwd=ROOT)
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


def start_infer(
    setup: Setup, name: str, shards: Sequence[Path], precision_name: str, *options: str
) -> "subprocess.Popen[str]":
    """Start the infer stage's command; its results go to a folder of that name."""
    folder = fresh(setup, name)
    for source in ("model.safetensors", "model.json"):
        folder.mkdir(exist_ok=True)
        (folder / source).symlink_to(model_folder(setup) / source)
    given = StageSetup(folder, setup.device, setup.cores, 1, 1.0)
    command = [sys.executable, "-m", "ecgpipe", *map(str, stage.arguments(given, precision_name, shards)), *options]
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
    call = engine.Halving.__call__

    def timed(self: engine.Halving, signals: torch.Tensor, samples: np.ndarray) -> list[torch.Tensor]:
        began = time.perf_counter()
        tensors = call(self, signals, samples)
        spent.append(time.perf_counter() - began)
        return tensors

    engine.Halving.__call__ = timed  # type: ignore[method-assign]
    try:
        yield spent
    finally:
        engine.Halving.__call__ = call  # type: ignore[method-assign]


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


STEPS: Mapping[str, Callable[[Setup, Report], None]] = {
    "facts": facts,
    "matmul": matmul,
    "parity": parity,
    "drift": drift,
    "model": alone,
    "profile": profile,
    "stage": end_to_end,
    "host": host,
    "loop": loop,
    "tests": tests,
    "two_jobs": two_jobs,
    "memory": memory,
    "deterministic": deterministic,
    "attribution": attribution,
    "verify": verify,
    "workflow": workflow,
}
