"""Which code, machine and inputs made a result: written beside the numbers, and what has them computed again."""

import hashlib
import os
import platform
import re
import subprocess
from collections.abc import Iterable, Mapping
from contextlib import suppress
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

# Raise a stage's number when it computes something else than before from the same inputs and settings. It is a
# parameter of the stage's rule: a run with a newer ecgpipe then computes from that stage on again, and keeps the rest.
MEANING = {
    "checkpoint": 1,
    "manifest": 2,  # 2: .npy and HDF5 files of more axes, CSV files with a preamble
    # 2: filling at a recording's ends is left out; samples at 500 Hz are counted to the nearest whole number
    "preprocess": 2,
    "precision": 1,
    "infer": 1,
    "aggregate": 1,
    "umap": 1,
    "examples": 1,
    "attribute": 1,
    "evaluate": 1,
    "summary": 1,
    "figures": 1,
    "report": 1,
    "neighbors": 1,
    "compare": 1,
    "probe": 1,
    "thresholds": 1,
    "calibrate": 1,
    "verify": 1,
}

# What makes two runs' predictions comparable, by the keys of `tables.scores`, in words.
_SCORES = {
    "checkpoint_sha256": "checkpoint",
    "preprocess": "preprocessing",
    "meaning": "version of the computation",
    "aggregation": "aggregation",
    "calibration": "calibration",
}

# The packages whose version can change a number.
PACKAGES = ("torch", "numpy", "scipy", "pyarrow", "wfdb", "umap-learn", "safetensors", "snakemake")

_PACKAGE = Path(__file__).parent


@cache
def source_sha256() -> str:
    """The SHA-256 of the package's files, which tells code apart that calls itself by one version."""
    files = sorted(path for path in _PACKAGE.rglob("*") if path.suffix in (".py", ".j2", ".js", ".css"))
    lines = (f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.relative_to(_PACKAGE)}\n" for path in files)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def commit() -> str | None:
    """The commit that the package's clone is at; None where it is in no clone."""
    command = ["git", "-C", str(_PACKAGE), "log", "-1", "--format=%H", "--", "."]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None  # a folder that some other repository happens to lie around


def cpus() -> int:
    """How many CPUs this process may use: on a cluster, or within `taskset`, fewer than the machine has."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def cpu_name() -> str:
    """The CPU's model, which Linux on x86 has in /proc/cpuinfo; elsewhere what Python knows, e.g. "aarch64"."""
    with suppress(OSError):
        if model := re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE):
            return " ".join(model[1].split())
    return platform.processor() or platform.machine()


def machine() -> dict[str, Any]:
    """This machine: `system`, `cpu`, `cpus` that this process may use, `memory_gb` in whole GB."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {"system": platform.platform(), "cpu": cpu_name(), "cpus": cpus(), "memory_gb": round(memory / 1e9)}


def versions() -> dict[str, str]:
    """The versions of Python and of `PACKAGES`."""
    return {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}}


def digest(sha256s: Iterable[str]) -> str:
    """One SHA-256 for several: that of their hexadecimal digits, a line each."""
    return hashlib.sha256("".join(f"{one}\n" for one in sha256s).encode()).hexdigest()


def file_sha256(path: Path) -> str:
    """The SHA-256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def difference(made: Mapping[str, Any], here: Mapping[str, Any]) -> str:
    """How predictions that something was fitted to differ from those that it is to be used on.

    Args:
        made: What `tables.scores` says of the first, or more.
        here: The same of the second, as far as it is known.

    Returns:
        Words, e.g. "another checkpoint (0123456789ab, here 456789abcdef)"; an empty text where they are alike.
    """
    return ", ".join(
        f"another {word} ({_short(made.get(key), here[key])}, here {_short(here[key], made.get(key))})"
        for key, word in _SCORES.items()
        if key in here and made.get(key) != here[key]
    )


def _short(value: object, other: object) -> str:
    """As much of a value as tells it from the other."""
    if isinstance(value, Mapping) and isinstance(other, Mapping):
        return " ".join(f"{key} {one}" for key, one in value.items() if other.get(key) != one) or "less"
    return value[:12] if isinstance(value, str) else "none" if value is None else str(value)
