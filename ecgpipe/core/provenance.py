"""Which code, machine and inputs made a result: written beside the numbers, and what has them computed again."""

import hashlib
import json
import os
import platform
import re
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from functools import cache
from importlib.metadata import version
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from ecgpipe import __version__
from ecgpipe.core import results

if TYPE_CHECKING:
    import pyarrow as pa

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

# What makes two runs' predictions comparable, by the keys of `provenance.scores`, in words.
_SCORES = {
    "checkpoint_sha256": "checkpoint",
    "preprocess": "preprocessing",
    "meaning": "version of the computation",
    "aggregation": "aggregation",
    "calibration": "calibration",
}

# The packages whose version can change a number.
PACKAGES = ("torch", "numpy", "scipy", "pyarrow", "wfdb", "umap-learn", "safetensors", "snakemake")

_PACKAGE = Path(__file__).parents[1]


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
        made: What `provenance.scores` says of the first, or more.
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


# Of a file's metadata, what holds for all that is made of it.
_INHERITED = (
    *("meaning", "checkpoint", "checkpoint_sha256", "preprocess", "precision", "deterministic"),
    "calibration",  # of predictions
    "settings",  # by stage the SHA-256 of what made it, see ecgpipe/core/settings.py
)


def with_origin(
    schema: "pa.Schema", stage: str, meaning: Mapping[str, int] = MappingProxyType({}), **facts: object
) -> "pa.Schema":
    """The schema with metadata under the key `ecgpipe`: a JSON object of the code, the stage and `facts`.

    Args:
        schema: The columns.
        stage: Which writes the file.
        meaning: Of the stages before it, see `provenance.MEANING`.
        facts: What else there is to say.

    Returns:
        The same columns.
    """
    told: dict[str, object] = {"version": __version__, "source_sha256": source_sha256(), "stage": stage}
    told |= {"meaning": {**meaning, stage: MEANING[stage]}, **facts}
    return schema.with_metadata({"ecgpipe": json.dumps(told, sort_keys=True)})


def with_name(schema: "pa.Schema", path: Path) -> "pa.Schema":
    """The schema of a shard or part, with its file's name in the metadata: a copy under another name is no result."""
    told = origin(schema)
    if not told or not results.is_shard_or_part(path.name):
        return schema
    named = json.dumps({**told, "file": path.name}, sort_keys=True)
    return schema.with_metadata({**schema.metadata, b"ecgpipe": named})


def origin(schema: "pa.Schema") -> dict[str, Any]:
    """What `with_origin` wrote; an empty dict where nothing did."""
    content: dict[str, Any] = json.loads((schema.metadata or {}).get(b"ecgpipe", b"{}"))
    return content


def inherited(schemas: "Sequence[pa.Schema]") -> dict[str, Any]:
    """What files say of the model, the preprocessing and the inputs behind them, for what is made of all of them."""
    origins = [origin(schema) for schema in schemas]
    facts = {key: origins[0][key] for key in _INHERITED if key in origins[0]}
    made_of = [each["inputs_sha256"] for each in origins if "inputs_sha256" in each]
    if made_of:
        facts["inputs_sha256"] = made_of[0] if len(origins) == 1 else digest(made_of)
    return facts


def scores(origin: Mapping[str, Any]) -> dict[str, Any]:
    """How the probabilities of a predictions file came about: a threshold means the same where this is the same.

    Args:
        origin: Of the file.

    Returns:
        `checkpoint_sha256`, `preprocess`, `meaning` of the stages that compute, `calibration` (its SHA-256 or None).
    """
    return {
        "checkpoint_sha256": origin.get("checkpoint_sha256"),
        "preprocess": origin.get("preprocess"),
        "meaning": {
            stage: number
            for stage, number in origin.get("meaning", {}).items()
            if stage in ("preprocess", "infer", "aggregate")
        },
        "calibration": (origin.get("calibration") or {}).get("sha256"),
    }
