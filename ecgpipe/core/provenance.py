"""Which code, machine and inputs made a result. Results name them, and are computed again if they change."""

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
    "attribute": 2,  # 2: steps by the completeness error, four random deletions; their number is a column
    "evaluate": 1,
    "summary": 1,
    "figures": 1,
    "report": 1,
    "neighbors": 1,
    "compare": 1,
    "study": 1,
    "probe": 1,
    "thresholds": 1,
    "calibrate": 1,
    "verify": 1,
}

# The facts in which the predictions of two runs must agree to be comparable: keys of `select_scores`, and their names.
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
def hash_source() -> str:
    """The SHA-256 of the package's files, which distinguishes a changed copy from the version that it names."""
    files = sorted(path for path in _PACKAGE.rglob("*") if path.suffix in (".py", ".j2", ".js", ".css"))
    lines = (f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.relative_to(_PACKAGE)}\n" for path in files)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def find_commit() -> str | None:
    """The commit of the package's git clone; None outside of a clone."""
    command = ["git", "-C", str(_PACKAGE), "log", "-1", "--format=%H", "--", "."]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None  # empty in a folder within another repository


def count_cpus() -> int:
    """How many CPUs this process may use; on a cluster or under `taskset`, fewer than the machine has."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def find_cpu_name() -> str:
    """The CPU's model from /proc/cpuinfo (Linux on x86); elsewhere the architecture, e.g. "aarch64"."""
    with suppress(OSError):
        if model := re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE):
            return " ".join(model[1].split())
    return platform.processor() or platform.machine()


def describe_machine() -> dict[str, Any]:
    """Describe this machine: `system`, `cpu`, `cpus` that this process may use, `memory_gb` in whole GB."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "system": platform.platform(),
        "cpu": find_cpu_name(),
        "cpus": count_cpus(),
        "memory_gb": round(memory / 1e9),
    }


def list_versions() -> dict[str, str]:
    """The versions of Python and of `PACKAGES`."""
    return {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}}


def combine_sha256s(sha256s: Iterable[str]) -> str:
    """Combine several SHA-256 into one: the hash of their hexadecimal digits, one per line."""
    return hashlib.sha256("".join(f"{sha256}\n" for sha256 in sha256s).encode()).hexdigest()


def hash_file(path: Path) -> str:
    """The SHA-256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def describe_difference(fitted: Mapping[str, Any], here: Mapping[str, Any]) -> str:
    """Describe how the predictions that a threshold or calibration was fitted to differ from those at hand.

    Args:
        fitted: `select_scores` of the predictions of the fit; further keys are ignored.
        here: `select_scores` of the predictions at hand, as far as it is known.

    Returns:
        A phrase, e.g. "another checkpoint (0123456789ab, here 456789abcdef)"; an empty text if they do not differ.
    """
    return ", ".join(
        f"another {word} ({_short(fitted.get(key), here[key])}, here {_short(here[key], fitted.get(key))})"
        for key, word in _SCORES.items()
        if key in here and fitted.get(key) != here[key]
    )


def _short(value: object, other: object) -> str:
    """The part of a value that distinguishes it from the other value."""
    if isinstance(value, Mapping) and isinstance(other, Mapping):
        return " ".join(f"{key} {item}" for key, item in value.items() if other.get(key) != item) or "less"
    return value[:12] if isinstance(value, str) else "none" if value is None else str(value)


# Keys of a file's metadata that results derived from it repeat.
_INHERITED = (
    *("meaning", "checkpoint", "checkpoint_sha256", "preprocess", "precision", "deterministic"),
    "calibration",  # of predictions
    "settings",  # by stage the SHA-256 of its settings, see ecgpipe/core/settings.py
)


def add_origin(
    schema: "pa.Schema", stage: str, meaning: Mapping[str, int] = MappingProxyType({}), **facts: object
) -> "pa.Schema":
    """The schema with metadata under the key `ecgpipe`: a JSON object of the code, the stage and `facts`.

    Args:
        schema: The columns.
        stage: The stage that writes the file.
        meaning: Numbers of the stages before it, see `provenance.MEANING`.
        facts: Further facts to store.

    Returns:
        The same columns.
    """
    origin: dict[str, object] = {"version": __version__, "source_sha256": hash_source(), "stage": stage}
    origin |= {"meaning": {**meaning, stage: MEANING[stage]}, **facts}
    return schema.with_metadata({"ecgpipe": json.dumps(origin, sort_keys=True)})


def add_file_name(schema: "pa.Schema", path: Path) -> "pa.Schema":
    """Add the file name to the metadata of a shard or part: a copy under another name does not count as a result."""
    origin = read_origin(schema)
    if not origin or not results.is_shard_or_part(path.name):
        return schema
    named = json.dumps({**origin, "file": path.name}, sort_keys=True)
    return schema.with_metadata({**schema.metadata, b"ecgpipe": named})


def read_origin(schema: "pa.Schema") -> dict[str, Any]:
    """The metadata that `add_origin` wrote; an empty dict if there are none."""
    content: dict[str, Any] = json.loads((schema.metadata or {}).get(b"ecgpipe", b"{}"))
    return content


def inherit_facts(schemas: "Sequence[pa.Schema]") -> dict[str, Any]:
    """Collect the facts about model, preprocessing and inputs of several files, for a result derived from all."""
    origins = [read_origin(schema) for schema in schemas]
    facts = {key: origins[0][key] for key in _INHERITED if key in origins[0]}
    made_of = [each["inputs_sha256"] for each in origins if "inputs_sha256" in each]
    if made_of:
        facts["inputs_sha256"] = made_of[0] if len(origins) == 1 else combine_sha256s(made_of)
    return facts


def select_scores(origin: Mapping[str, Any]) -> dict[str, Any]:
    """Select the facts that the probabilities in a predictions file depend on.

    A threshold or calibration is valid for other predictions only if these facts agree.

    Args:
        origin: Metadata of the file, by `read_origin`.

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
