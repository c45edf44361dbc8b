"""The steps of `benchmarks.gpu`: each measures, and reports each figure as soon as it has it.

They run in a process that is kept from step to step, so that PyTorch is loaded and the GPU started once. What a step
writes goes to the setup's folder, and what another has written there is used again.
"""

import json
import os
import re
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from statistics import median
from typing import Literal

import numpy as np
import torch

from benchmarks import ecg_fm, machine
from benchmarks.ecg_fm import SAMPLES
from benchmarks.gpu_measure import (
    ROOT,
    batch_sizes,
    best_batch,
    converted,
    default_batch,
    finish,
    forward_rate,
    fresh,
    golden,
    host_seconds,
    infer,
    loaded,
    made,
    measure_variant,
    messages,
    model_folder,
    need,
    noise,
    outputs,
    precisions,
    products,
    reference,
    release,
    repeat_shards,
    run_command,
    run_own,
    same_results,
    smi,
    stage_shards,
    start_infer,
    union_s,
    variant_precision,
)
from benchmarks.gpu_worker import Report, Setup, SkippedError
from ecgpipe.inference import engine, precision
from ecgpipe.inference.segment_files import inspect_shards
from ecgpipe.models.description import describe
from ecgpipe.models.ecg_fm import network as ecg_fm_network
from ecgpipe.models.ecg_fm.tuning import for_device

# Loads the network as an infer job does and runs two batches; prints the seconds that each part takes.
START = """
import json, sys, time
from pathlib import Path
began, spent = time.perf_counter(), {}
def lap(name):
    global began
    if "torch" in sys.modules and sys.argv[2] == "cuda":
        sys.modules["torch"].cuda.synchronize()
    now = time.perf_counter()
    spent[name], began = now - began, now
import torch
lap("import_torch_and_start_gpu")
from ecgpipe.inference import engine, infer
lap("import_infer")
from benchmarks import ecg_fm
network = ecg_fm.network(Path(sys.argv[1]), sys.argv[2], sys.argv[3], 1)
lap("load_network")
signal = torch.randn(8, network.arch.in_leads, ecg_fm.SAMPLES, device=sys.argv[2])
for name in ("first_batch", "second_batch"):
    with torch.inference_mode():
        network(signal)
    lap(name)
print(json.dumps(spent))
"""

POSITIONS: tuple[Literal["fourier", "direct"], ...] = ("fourier", "direct")

# The largest differences from fairseq-signals' numbers that are rounding, float32; shared/reference/README.md.
ALLOWED = {"logits": 1e-4, "embedding": 1e-4, "attention": 1e-5}


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
    labels = describe(folder / "model.json").labels
    exact = outputs(setup, folder, "float32")
    for name in precisions(setup):
        if name != "float32":
            rounded = outputs(setup, folder, name)
            pair = [(one["logits"], one["embedding"]) for one in (exact, rounded)]
            found = precision.measure_drift(pair[0], pair[1], labels)
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


def variants(setup: Setup, report: Report) -> None:
    """The ways to run the network that `models.ecg_fm.tuning` knows, and segments with padding, which need a mask."""
    usual = replace(for_device(setup.device), graphs=False, compiled=False)
    for size in (4,) if setup.tiny else (32, 256, 512):
        for position in POSITIONS:
            for graphs in (False, True) if setup.device == "cuda" else (False,):
                tuning = replace(usual, position=position, graphs=graphs)
                measure_variant(setup, report, variant_precision(setup), size, tuning)
        measure_variant(setup, report, variant_precision(setup), size, usual, padded=True)
    for position in POSITIONS:
        tuning = replace(usual, position=position)
        measure_variant(setup, report, "float32", 4 if setup.tiny else 256, tuning)


def compiled(setup: Setup, report: Report) -> None:
    """The model after torch.compile, with both ways of the positional convolution; compiling counts in each job."""
    if setup.device != "cuda":
        raise SkippedError("for a GPU alone: docs/performance.md has what torch.compile does on a CPU")
    for position in POSITIONS:
        tuning = replace(for_device(setup.device), compiled=True, position=position)
        measure_variant(setup, report, variant_precision(setup), 8 if setup.tiny else 256, tuning)


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
    distinct, times = (64, 2) if setup.tiny else (32_768, 4)
    shards = repeat_shards(setup, stage_shards(setup, distinct), times)
    segments = times * distinct
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


def startup(setup: Setup, report: Report) -> None:
    """What an infer job does before its first result, in a process of its own, in seconds."""
    release(setup)
    first = json.loads(run_own(START, str(model_folder(setup)), setup.device, variant_precision(setup)))
    second = json.loads(run_own(START, str(model_folder(setup)), setup.device, variant_precision(setup)))
    for key in first:
        report(key, round(min(first[key], second[key]), 3))


def host(setup: Setup, report: Report) -> None:
    """What the host does for a batch, and how long the GPU has nothing to do, in this process."""
    segments = 64 if setup.tiny else 8192
    shards = stage_shards(setup, segments)
    contents = inspect_shards(shards)
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
    from benchmarks.gpu_bundle import gpu_tests

    release(setup)
    # By name: other tests import what such a machine need not have.
    # Hypothesis would read the source of all modules that are not in a folder named site-packages.
    plugins = ["-p", "no:cacheprovider", "-p", "no:hypothesispytest"]
    command = [sys.executable, "-m", "pytest", "-q", "-rs", *plugins, "-m", "gpu"]
    command += map(str, gpu_tests())
    status, said = run_command(command)
    report("pytest", said.strip().rpartition("\n")[2])
    report("failed", re.findall(r"^(?:FAILED|ERROR) (.*)$", said, re.MULTILINE))
    report("status", status)
    if status:
        raise RuntimeError(said[-6000:])


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
    with messages("ecgpipe.inference.batch") as said:
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
    from ecgpipe.analysis import attribute

    folder = model_folder(setup)
    arch = describe(folder / "model.json").architecture
    network = ecg_fm_network.load(arch, folder / "model.safetensors", setup.device, packed=False)
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
    """`ecgpipe verify` on the device, in each precision."""
    release(setup)
    failed = []
    for name in precisions(setup):
        command = [sys.executable, "-m", "ecgpipe", "verify", "--device", setup.device, "--precision", name]
        status, said = run_command(command)
        report(name, said.splitlines()[-12:])
        failed += [said[-6000:]] if status else []
    if failed:
        raise RuntimeError("\n".join(failed))


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
        *(["attribution={recordings: 1, steps: 8}"] if setup.tiny else []),
    ]  # fmt: skip
    paths = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    began = time.perf_counter()
    status, said = run_command(command, PYTHONPATH=paths)
    report("seconds", round(time.perf_counter() - began, 1))
    if status:
        raise RuntimeError(said[-6000:])
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


STEPS: Mapping[str, Callable[[Setup, Report], None]] = {
    "facts": facts,
    "matmul": matmul,
    "parity": parity,
    "drift": drift,
    "model": alone,
    "variants": variants,
    "compile": compiled,
    "profile": profile,
    "stage": end_to_end,
    "startup": startup,
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
