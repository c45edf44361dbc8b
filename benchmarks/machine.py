"""What the machine is, and what can be measured on it."""

import os
import platform
import re
import sys
from pathlib import Path
from typing import Any

import torch

from benchmarks.ecg_fm import SAMPLES
from benchmarks.sides import CORES
from ecgpipe import __version__
from ecgpipe.core.provenance import find_cpu_name
from ecgpipe.inference import engine

# What decides how fast a processor multiplies matrices, as Linux names it.
INSTRUCTIONS = (
    "avx2", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_tile", "amx_bf16", "amx_int8",
    "asimd", "sve", "bf16", "i8mm",
)  # fmt: skip
BFLOAT16 = {"avx512_bf16", "amx_bf16", "bf16"}  # without one of these PyTorch only imitates it, slowly


def facts() -> dict[str, Any]:
    """The machine and the software, for the JSON."""
    gpus = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return {
        "cpu": find_cpu_name(),
        "family_model_stepping": [_cpuinfo(key) for key in ("cpu family", "model", "stepping")],
        "cores": CORES,
        "instructions": instructions(),
        "memory_gib": round(pages / 2**30, 1),
        "gpus": [{"name": gpu.name, "memory_gib": round(gpu.total_memory / 2**30, 1)} for gpu in gpus],
        "system": platform.platform(),
        "python": sys.version.split()[0],
        "torch": str(torch.__version__),  # a class of its own, which whoever receives it would need PyTorch for
        "cuda": torch.version.cuda,
        "torch_uses": torch.backends.cpu.get_cpu_capability(),
        "ecgpipe": __version__,
    }


def instructions() -> list[str]:
    """Which of `INSTRUCTIONS` the processor has."""
    flags = set((_cpuinfo("flags") or _cpuinfo("Features")).split())
    return [name for name in INSTRUCTIONS if name in flags]


def devices() -> dict[str, dict[str, int]]:
    """The devices that are there; for each the precisions that it computes in hardware, with the stage's batch size."""
    found = {"cpu": ["float32"] + (["bfloat16"] if BFLOAT16 & set(instructions()) else [])}
    if torch.cuda.is_available():
        found["cuda"] = ["float32", "float16"] + (["bfloat16"] if torch.cuda.is_bf16_supported(False) else [])
    return {
        device: dict.fromkeys(precisions, engine.default_batch_size(torch.device(device), SAMPLES))
        for device, precisions in found.items()
    }


def name(known: dict[str, Any]) -> str:
    """A short name of a machine for a file, of its first GPU where it has one, e.g. "nvidia-h200"."""
    told = known["gpus"][0]["name"] if known["gpus"] else f"{known['cpu']} {known['cores']} cores"
    return re.sub(r"[^a-z0-9]+", "-", re.sub(r"\((r|tm)\)", "", told.lower())).strip("-")


def _cpuinfo(key: str) -> str:
    path = Path("/proc/cpuinfo")
    found = re.search(rf"^{key}\s*: (.*)$", path.read_text() if path.exists() else "", re.MULTILINE)
    return found[1].strip() if found else ""
