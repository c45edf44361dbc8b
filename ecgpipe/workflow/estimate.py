"""Estimate the time, disk and memory of a run before it has begun, from the number of recordings and measured rates.

The rates are those of docs/performance.md and docs/scale.md. Once parts of the run have been inferred on this machine,
their own rate replaces that of the table.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import NamedTuple

from ecgpipe.core.logs import describe_duration
from ecgpipe.core.model_input import DEFAULT_INPUT, ModelInput
from ecgpipe.core.results import path_of
from ecgpipe.core.user_settings import Config
from ecgpipe.models import registry
from ecgpipe.workflow import shard_sizes

# A scan does not open recordings; this is what it assumes of each.
RECORDING_S = 10.0

# Bytes of a value of a segment on the disk until it is inferred: float32. Whole numbers take half of that, but before a
# recording is read nobody knows whether it has them.
VALUE_BYTES = 4

# Bytes of the results of one recording of two segments, without attention and with it.
RESULT_BYTES = {False: 5_500, True: 7_200}

# Seconds of one core: to read and prepare a recording, and to start a job.
PREPROCESS_S, JOB_S = 0.0015, 1.4

# ECG-FM's segments of five seconds per second: on one core of a CPU in float32 and bfloat16, and on the GPU measured.
CPU_RATE = {"float32": 5.1, "bfloat16": 21.0}
GPU_RATE, GPU_NAME = 9_580.0, "an NVIDIA H200"

# Windows per second of the other families' networks, each of its own length, relative to ECG-FM's segments of five
# seconds: benchmarks/results/model-speed.json. One that is not here counts as ECG-FM's.
RELATIVE_RATE = {"deepecg-ssl": 1.0, "ecg-jepa": 0.4, "ecgfounder": 7.8, "hubert-ecg": 1.5}

# Seconds of what comes after inference, for a run of few segments: map, figures, report.
REST_S = 45.0
UMAP_S = 0.0002  # of a core, for each segment: to place it on the map
STEPS = 22  # of attribution, where the completeness error decides, with what the check by deletion takes
STEP = 3  # what a step of attribution, forward and backward, takes, in forward passes

PARTS_AHEAD = 3  # on one machine with one GPU or none, see `job_resources.parts_ahead`

# Memory of the largest job of one kind, in GB; several jobs run at once.
INFER_GB, PREPROCESS_GB = 1.0, 0.3


class Estimate(NamedTuple):
    """What a run takes."""

    segments: int
    seconds: float
    device: str  # that the seconds are for, e.g. "2 CPU cores"
    scratch_bytes: int  # of the segments that wait to be inferred, at most
    result_bytes: int
    memory_gb: float
    untimed_segments: int = 0  # that a user's own network will take, whose time is not in the seconds


def estimate_run(
    settings: Config,
    recordings: int,
    cores: int | None,
    has_gpu: bool,
    declared: ModelInput = DEFAULT_INPUT,
    parts_ahead: int = PARTS_AHEAD,
) -> Estimate:
    """Estimate what a run over so many recordings of ten seconds takes.

    Args:
        settings: The settings of the run.
        recordings: Number of recordings.
        cores: Cores of the run; None on a cluster, where one node with 8 cores is assumed.
        has_gpu: Whether there is a GPU to infer on.
        declared: The input of the run's model.
        parts_ahead: How many parts' segments wait for inference at most.
    """
    cores = cores or 8
    inference, segment_s = settings.inference, settings.preprocess.segment_s
    segments = recordings * max(1, int(RECORDING_S // segment_s))
    on_gpu = has_gpu and inference.device != "cpu"
    measured = _measure_rate(settings.outdir)
    # ECG-FM takes segments of any length; the windows of the others have one.
    relative = RELATIVE_RATE.get(settings.model or "", 5 / segment_s)
    if measured:
        rate, device = measured
    elif on_gpu:
        rate, device = GPU_RATE * relative, GPU_NAME
    else:
        rate = CPU_RATE.get(inference.precision, CPU_RATE["float32"]) * cores * relative
        device = f"{cores} CPU core{'s' * (cores > 1)}"
    shard_size = settings.manifest.shard_size or shard_sizes.SHARD_SIZE
    jobs = -(-recordings // shard_size)
    preprocess_s = (recordings * PREPROCESS_S + jobs * JOB_S) / cores
    # On a CPU inference takes the cores that preprocessing would have.
    untimed = segments if registry.is_own(settings.model or "") and not measured else 0
    infer_s = 0.0 if untimed else segments / rate
    work_s = max(infer_s, preprocess_s) if on_gpu else infer_s + preprocess_s
    attributed = min(settings.attribution.recordings, recordings) * segments / max(recordings, 1)
    placing_s = segments * UMAP_S / cores
    attribution_s = 0.0 if untimed else attributed * (settings.attribution.steps or STEPS) * STEP / rate
    rest_s = REST_S + placing_s + attribution_s
    waiting = min(recordings, parts_ahead * shard_size * (inference.shards_per_part or shard_sizes.SHARDS_PER_PART))
    if settings.preprocess.keep_segments:
        waiting = recordings
    values = max(1, RECORDING_S // segment_s) * segment_s * len(declared.leads) * declared.rate
    recording_bytes = values * VALUE_BYTES
    stored = _measure_segments(settings.outdir) / shard_size
    # A shard of another version, or one of recordings that failed, says nothing.
    if recording_bytes / 2 <= stored <= recording_bytes:
        recording_bytes = stored
    return Estimate(
        segments,
        work_s + rest_s,
        device,
        int(waiting * recording_bytes),
        recordings * RESULT_BYTES[inference.attention],
        INFER_GB + PREPROCESS_GB * cores,
        untimed,
    )


def add_estimates(estimates: Sequence[Estimate]) -> Estimate:
    """Estimate a study from what each of its models takes: one after the other, with the memory of the largest.

    Args:
        estimates: Of each model's run, at least one.
    """
    return Estimate(
        sum(one.segments for one in estimates),
        sum(one.seconds for one in estimates),
        estimates[0].device,
        sum(one.scratch_bytes for one in estimates),
        sum(one.result_bytes for one in estimates),
        max(one.memory_gb for one in estimates),
        sum(one.untimed_segments for one in estimates),
    )


def has_gpu() -> bool:
    """Whether this machine has an NVIDIA GPU, told without PyTorch."""
    return Path("/proc/driver/nvidia/version").exists()


def _measure_rate(outdir: Path | str) -> tuple[float, str] | None:
    """The median rate of the parts that this folder has, in segments per second, and the device of the last one."""
    rates, device = [], ""
    for path in sorted(Path(outdir, path_of("timing")).parent.glob("part-*.json"))[:20]:
        try:
            timing = json.loads(path.read_text(encoding="utf-8"))
            rates.append(timing["segments"] / timing["seconds"])
            device = timing["device"]
        except (OSError, ValueError, KeyError, ZeroDivisionError):
            continue
    return (median(rates), device) if rates else None


def _measure_segments(outdir: Path | str) -> int:
    """The bytes of the largest shard of segments that lies in this folder; 0 if there is none."""
    paths = Path(outdir, path_of("segments")).parent.glob("shard-*.arrow")
    return max((path.stat().st_size for path in paths), default=0)


def describe(estimate: Estimate) -> str:
    """Say an estimate in one line."""
    disk = f"up to {_describe_bytes(estimate.scratch_bytes)} of segments and {_describe_bytes(estimate.result_bytes)}"
    time = f"{describe_duration(estimate.seconds)} on {estimate.device}"
    if estimate.untimed_segments:
        time += f" and what your own model takes for {estimate.untimed_segments:,} segments, known after its first part"
    return (
        f"Plan: about {time}, {disk} of results on the disk, "
        f"{estimate.memory_gb:.0f} GB of memory, if a recording has {RECORDING_S:.0f} s"
    )


def _describe_bytes(n: float) -> str:
    if n < 1e9:
        return f"{max(1, round(n / 1e6))} MB"
    return f"{n / 1e9:.1f} GB" if n < 1e11 else f"{n / 1e9:,.0f} GB"
