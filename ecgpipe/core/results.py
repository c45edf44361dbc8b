"""What ecgpipe writes into a folder of results, by name, and how a file shows that ecgpipe wrote it.

A folder of results may also hold a user's own files. Only files that this module recognises as ecgpipe's are removed
from it, or left out of a scan of the inputs.
"""

import json
import os
import re
from collections.abc import Collection
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from ecgpipe.core.atomic import read_json

FIGURES = ("account", "labels", "probabilities", "together", "map", "recording")

# The names of the runs that have begun here, one a line: unfinished files carry them.
RUNS = ".ecgpipe-runs"


class File(NamedTuple):
    """A file of a folder of results, or one for each shard or part."""

    path: str  # below the folder of results; {shard} or {part} stands for the number, five digits at least
    stage: str  # that writes it
    is_result: bool = True  # names the settings that made it; False: a file that its stage keeps beside its results


# Every file that ecgpipe writes under a name of its own. The rules, `Run`, the comparison of results with settings
# (`workflow.reuse`), the run lock and the scan, which leaves results out, take the paths from here.
FILES = {
    "weights": File("checkpoint/model.safetensors", "checkpoint"),
    "description": File("checkpoint/model.json", "checkpoint"),
    "index_labels": File("checkpoint/labels.csv", "checkpoint", is_result=False),
    "manifest": File("manifest/manifest.json", "manifest"),
    "shard": File("manifest/shard-{shard}.parquet", "manifest", is_result=False),
    "files": File("manifest/files.parquet", "manifest", is_result=False),
    "changes": File("manifest/changes.parquet", "manifest", is_result=False),
    "scans": File("manifest/scans.json", "manifest", is_result=False),
    "scan_digest": File("manifest/found.txt", "manifest", is_result=False),
    "segments": File("segments/shard-{shard}.arrow", "preprocess"),
    "records": File("records/shard-{shard}.parquet", "preprocess"),
    "chosen": File("precision/chosen.json", "precision"),
    "drift": File("precision/drift.json", "precision"),
    "choice": File("precision/choice.txt", "precision", is_result=False),
    "sample_segments": File("precision/sample.arrow", "precision", is_result=False),
    "sample_records": File("precision/sample.parquet", "precision", is_result=False),
    "logits": File("logits/part-{part}.parquet", "infer"),
    "embeddings": File("embeddings/part-{part}.parquet", "infer"),
    "attention": File("attention/part-{part}.parquet", "infer"),
    "timing": File("timing/part-{part}.json", "infer"),
    "predictions": File("predictions/part-{part}.parquet", "aggregate"),
    "fit": File("places/fit.safetensors", "umap"),  # until all parts are placed
    "places": File("places/part-{part}.parquet", "umap"),  # until they are joined
    "umap": File("umap/umap.parquet", "umap"),
    "examples": File("examples.parquet", "examples"),
    "attribution": File("attribution/attribution.parquet", "attribute"),
    "attribution_leads": File("attribution/leads.parquet", "attribute"),
    "metrics": File("evaluation/metrics.parquet", "evaluate"),
    "curves": File("evaluation/curves.parquet", "evaluate"),
    "account": File("evaluation/account.json", "evaluate"),
    "true_labels": File("evaluation/true_labels.parquet", "evaluate"),
    "run": File("run.json", "summary"),
    "duplicates": File("duplicates.parquet", "summary"),
    **{
        f"figure_{name}_{suffix}": File(f"figures/{name}.{suffix}", "figures")
        for name in FIGURES
        for suffix in ("png", "svg")
    },
    "report": File("report.html", "report"),
    "verdict": File("verdict.txt", "verdict"),
    "verify_segments": File("verify/segments.frames", "verify", is_result=False),
    "verify_answers": File("verify/answers.frames", "verify", is_result=False),
    "verify": File("verify/fairseq_signals.json", "verify", is_result=False),
}

# What a study writes besides, into its own folder; that of each model has the files above.
STUDY_FILES = {"study_page": "study.html", "study_table": "study.parquet", "study_numbers": "study.json"}

_PLACE = re.compile(r"\{(shard|part)\}")


class Numbered(NamedTuple):
    """A folder of numbered files."""

    kind: str  # what they are called: "shard" or "part"
    stage: str  # that writes them
    suffix: str


# The folders of numbered files, by name.
NUMBERED = {
    PurePosixPath(file.path).parts[0]: Numbered(place[1], file.stage, file.path.rpartition(".")[2])
    for file in FILES.values()
    if (place := _PLACE.search(file.path))
}


def _collect_fixed_names() -> dict[str, tuple[str, ...]]:
    """By folder ("" is the folder of results itself), the files of a fixed name."""
    names: dict[str, tuple[str, ...]] = {"": ()}
    for file in FILES.values():
        if not _PLACE.search(file.path):
            folder, _, name = file.path.rpartition("/")
            names[folder] = (*names.get(folder, ()), name)
    return names


FIXED = _collect_fixed_names()


def path_of(name: str, number: int | None = None) -> str:
    """The path of a file below the folder of results.

    Args:
        name: A key of `FILES`.
        number: Of the shard or part; None for a file of a fixed name.
    """
    path = FILES[name].path
    return path if number is None else _PLACE.sub(f"{number:05d}", path)


def patterns_of(stage: str) -> list[str]:
    """Glob patterns of the results of a stage, which name the settings that made them."""
    return [_PLACE.sub("*", file.path) for file in FILES.values() if file.stage == stage and file.is_result]


def kind_of(stage: str) -> str | None:
    """The unit of a stage's jobs: "shard", "part", or None for a stage with a single job, or one that ends with one."""
    places = [_PLACE.search(file.path) for file in FILES.values() if file.stage == stage and file.is_result]
    kinds = {place[1] if place else None for place in places}
    return kinds.pop() if len(kinds) == 1 else None


# Every run rewrites this file, so that Snakemake scans the inputs again.
ASKED = "manifest/.asked"

# Hidden files of a run in progress, by folder.
_HIDDEN = {"": (".lock", ".owner", ".slurm-run", RUNS), "manifest": (ASKED.rpartition("/")[2],)}

# Folders of which every file with this suffix is ecgpipe's, also in folders within.
_BY_SUFFIX = {"settings": ".json", "logs": ".log", "benchmarks": ".tsv"}

FOLDERS = tuple(dict.fromkeys([*NUMBERED, *filter(None, FIXED), *_BY_SUFFIX]))

# A file that is being written, or that a killed process left: .NAME.RUN.PID.tmp
_UNFINISHED = re.compile(r"\..+\.(?P<run>[0-9a-f]{16})\.[0-9]+\.tmp", re.DOTALL)
_SHARD_OR_PART = re.compile(r"(?P<kind>shard|part)-(?P<number>[0-9]{5}|[1-9][0-9]{5,})\.(?P<suffix>parquet|arrow|json)")
_NAME_OF_RUN = re.compile(r"[0-9a-f]{16}")


def parse_number(folder: str, name: str) -> int | None:
    """The number of a shard or part from its file name; None if this folder has no shards or parts of that name."""
    if folder not in NUMBERED:
        return None
    expected = NUMBERED[folder]
    parts = _SHARD_OR_PART.fullmatch(name)
    if parts is None or (parts["kind"], parts["suffix"]) != (expected.kind, expected.suffix):
        return None
    return int(parts["number"])


def parse_run(name: str) -> str | None:
    """The run that was writing an unfinished file, from the file name; None for any other file name."""
    match = _UNFINISHED.fullmatch(name)
    return match["run"] if match else None


def read_runs(outdir: Path) -> set[str]:
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
    """Whether a file has the name of a shard or part, in any folder."""
    return _SHARD_OR_PART.fullmatch(name) is not None


def is_written_here(path: Path, folder: str | None = None) -> bool:
    """Whether ecgpipe wrote a file as a shard or part of this name, which the file's metadata state.

    The answer is no for a copy under another name, a table that a user derived from it, a link and a damaged file.

    Args:
        path: The file.
        folder: The folder of `NUMBERED` that it belongs to; None: the folder that it lies in.

    Returns:
        True if it is certain.
    """
    folder = path.parent.name if folder is None else folder
    if parse_number(folder, path.name) is None or path.is_symlink() or not path.is_file():
        return False
    metadata = _read_metadata(path)
    by_first_version = path.suffix == ".json" and {"ecgpipe", "segments", "seconds"} <= metadata.keys()
    if metadata.get("stage") != NUMBERED[folder].stage and not ("stage" not in metadata and by_first_version):
        return False
    return bool(metadata.get("file", path.name) == path.name)  # the first version wrote no names


def _read_metadata(path: Path) -> dict[str, Any]:
    """The metadata of a result file; an empty dict if the file cannot be read or is not ecgpipe's."""
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
    """Whether ecgpipe has written results into a folder, also if it was copied without its hidden files.

    Args:
        folder: Its path.
        names: Names of the files and folders in it; None: look.

    Returns:
        True if a file in it shows so.
    """
    if names is None:
        try:
            names = os.listdir(folder)  # noqa: PTH208, paths of a scan are texts
        except OSError:
            return False
    if RUNS in names and read_runs(Path(folder)):
        return True
    signs = [
        (path_of("run"), {"ecgpipe", "counts"}),
        (path_of("manifest"), {"n_recordings", "n_shards", "sha256"}),
    ]
    for file, keys in signs:
        content = read_json(Path(folder, file)) if file.partition("/")[0] in names else None
        if isinstance(content, dict) and keys <= content.keys():
            return True
    return False


def is_name_of_ours(folder: str, name: str) -> bool:
    """Whether a file has a name that ecgpipe uses in a folder of results.

    Args:
        folder: "" for the folder of results itself, or one of `FOLDERS`, also for folders within that.
        name: Name of the file.

    Returns:
        True if ecgpipe uses this name.
    """
    return (
        name in FIXED.get(folder, ())
        or (not folder and name in STUDY_FILES.values())
        or name in _HIDDEN.get(folder, ())
        or parse_number(folder, name) is not None
        or parse_run(name) is not None
        or (folder in _BY_SUFFIX and name.endswith(_BY_SUFFIX[folder]))
    )
