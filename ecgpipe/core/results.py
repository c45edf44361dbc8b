"""What ecgpipe writes into a folder of results, by name, and how a file shows that ecgpipe wrote it.

A folder of results may lie beside a user's own files, or hold some. Only what is known here to be ecgpipe's is ever
removed from it, or left out of a scan of the inputs.
"""

import json
import os
import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

# Folders of numbered files: what the files are called, the stage that writes them, and their suffix.
NUMBERED = {
    "manifest": ("shard", "manifest", "parquet"),
    "segments": ("shard", "preprocess", "arrow"),
    "records": ("shard", "preprocess", "parquet"),
    "logits": ("part", "infer", "parquet"),
    "embeddings": ("part", "infer", "parquet"),
    "attention": ("part", "infer", "parquet"),
    "timing": ("part", "infer", "json"),
    "predictions": ("part", "aggregate", "parquet"),
}

FIGURES = ("account", "labels", "probabilities", "together", "map", "recording")

# The names of the runs that have begun here, one a line: unfinished files carry them.
RUNS = ".ecgpipe-runs"

# Files of a fixed name, by folder; "" is the folder of results itself.
FIXED = {
    "": ("run.json", "report.html", "examples.parquet", "duplicates.parquet", "verdict.txt"),
    "manifest": ("manifest.json", "files.parquet", "changes.parquet", "scans.json", "found.txt"),
    "checkpoint": ("model.safetensors", "model.json", "labels.csv"),
    "precision": ("choice.txt", "chosen.json", "drift.json", "sample.arrow", "sample.parquet"),
    "umap": ("umap.parquet",),
    "attribution": ("attribution.parquet", "leads.parquet"),
    "evaluation": ("metrics.parquet", "curves.parquet", "account.json"),
    "figures": tuple(f"{name}.{suffix}" for name in FIGURES for suffix in ("png", "svg")),
    "verify": ("segments.frames", "answers.frames", "fairseq_signals.json"),
}

# Of the run at work, by folder.
_HIDDEN = {"": (".lock", ".owner", ".slurm-run", RUNS), "manifest": (".asked",)}

# Folders of which every file with this suffix is ecgpipe's, also in folders within.
_BY_SUFFIX = {"settings": ".json", "logs": ".log", "benchmarks": ".tsv"}

FOLDERS = tuple(dict.fromkeys([*NUMBERED, *filter(None, FIXED), *_BY_SUFFIX]))

# A file that is being written, or that a killed process left: .NAME.RUN.PID.tmp
_UNFINISHED = re.compile(r"\..+\.(?P<run>[0-9a-f]{16})\.[0-9]+\.tmp", re.DOTALL)
_SHARD_OR_PART = re.compile(r"(?P<kind>shard|part)-(?P<number>[0-9]{5}|[1-9][0-9]{5,})\.(?P<suffix>parquet|arrow|json)")
_NAME_OF_RUN = re.compile(r"[0-9a-f]{16}")


def number(folder: str, name: str) -> int | None:
    """The number of a shard or part by its file's name; None where the name is no such file's in this folder."""
    if folder not in NUMBERED:
        return None
    kind, _, suffix = NUMBERED[folder]
    found = _SHARD_OR_PART.fullmatch(name)
    return int(found["number"]) if found and (found["kind"], found["suffix"]) == (kind, suffix) else None


def run_of(name: str) -> str | None:
    """The run that was writing an unfinished file, by the file's name; None where the name is of another kind."""
    found = _UNFINISHED.fullmatch(name)
    return found["run"] if found else None


def runs(outdir: Path) -> set[str]:
    """The names of the runs that have begun in a folder."""
    try:
        lines = (outdir / RUNS).read_text(encoding="utf-8", errors="replace").split("\n")
    except OSError:
        return set()
    return {line for line in lines if _NAME_OF_RUN.fullmatch(line)}


def is_name_of_run(text: str) -> bool:
    """Whether a text could be the name of a run."""
    return _NAME_OF_RUN.fullmatch(text) is not None


def is_shard_or_part(name: str) -> bool:
    """Whether a file is called as a shard or part, in whatever folder."""
    return _SHARD_OR_PART.fullmatch(name) is not None


def is_written_here(path: Path, folder: str | None = None) -> bool:
    """Whether ecgpipe wrote a shard or part, under this very name: what such a file holds says so.

    A copy under another name, a table that somebody made of it, a link and a damaged file are not.

    Args:
        path: Of the file.
        folder: Of which of the folders `NUMBERED` it is one; None: of the one that it lies in.

    Returns:
        True where it is certain.
    """
    folder = path.parent.name if folder is None else folder
    if number(folder, path.name) is None or path.is_symlink() or not path.is_file():
        return False
    told = _told(path)
    by_first_version = path.suffix == ".json" and {"ecgpipe", "segments", "seconds"} <= told.keys()
    if told.get("stage") != NUMBERED[folder][1] and not ("stage" not in told and by_first_version):
        return False
    return bool(told.get("file", path.name) == path.name)  # the first version wrote no names


def _told(path: Path) -> dict[str, Any]:
    """What a file of results says of itself; nothing where it cannot be read, or is somebody else's."""
    import pyarrow as pa  # here, because pyarrow takes half a second, of every job that reads the Snakefile
    import pyarrow.parquet as pq

    try:
        if path.suffix == ".json":
            content = json.loads(path.read_text(encoding="utf-8"))
        else:
            if path.suffix == ".arrow":
                with pa.memory_map(str(path)) as mapped, pa.ipc.open_file(mapped) as reader:
                    schema = reader.schema
            else:
                schema = pq.read_schema(path)
            content = json.loads((schema.metadata or {}).get(b"ecgpipe", b"{}"))
    except (OSError, ValueError, RecursionError, pa.ArrowException):
        return {}
    return content if isinstance(content, dict) else {}


def is_folder_of_results(folder: str, names: Collection[str] | None = None) -> bool:
    """Whether ecgpipe has written results into a folder, also one that was copied without its hidden files.

    Args:
        folder: Its path.
        names: What lies in it, where that is known.

    Returns:
        True where something in it says so.
    """
    if names is None:
        try:
            names = os.listdir(folder)  # noqa: PTH208, paths of a scan are texts
        except OSError:
            return False
    if RUNS in names and runs(Path(folder)):
        return True
    signs = [("run.json", {"ecgpipe", "counts"}), ("manifest/manifest.json", {"n_recordings", "n_shards", "sha256"})]
    return any(
        file.partition("/")[0] in names and keys <= _read_json(Path(folder, file)).keys() for file, keys in signs
    )


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def is_name_of_ours(folder: str, name: str) -> bool:
    """Whether a file is called as ecgpipe calls files in a folder of results.

    Args:
        folder: "" for the folder of results itself, or one of `FOLDERS`, also for folders within that.
        name: Of the file.

    Returns:
        True where it is.
    """
    return (
        name in FIXED.get(folder, ())
        or name in _HIDDEN.get(folder, ())
        or number(folder, name) is not None
        or run_of(name) is not None
        or (folder in _BY_SUFFIX and name.endswith(_BY_SUFFIX[folder]))
    )
