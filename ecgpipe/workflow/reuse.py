"""Find the results in a folder that belong to a run's settings, independent of folder, machine and mount.

Each result names the settings of its stage and of the stages before it (`settings.KEY`). Before a run is planned these
are compared with the run's settings. Snakemake plans by the times of files, so times are set accordingly: a result of
other settings becomes older than everything, and a settings file is never newer than the results that belong to it.
"""

import json
import os
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from ecgpipe.core import provenance, settings
from ecgpipe.core.atomic import whole, write_json
from ecgpipe.core.errors import EcgpipeError
from ecgpipe.core.results import (
    FILES,
    is_name_of_ours,
    is_shard_or_part,
    is_written_here,
    kind_of,
    path_of,
    patterns_of,
)
from ecgpipe.core.user_settings import Section

# The time of a result that has to be computed again, one second into 1970: Snakemake reads 0 as no time.
STALE_NS = 1_000_000_000

# Stores its own time, which shows whether a copy of the folder has lost the times.
WRITTEN = "written.json"

# The stages that use the true labels where a run has some, and then name the settings of the evaluation.
_WITH_TRUTH = {"examples"}

# Larger than the rounding of times by the coarsest file systems.
_COARSE_NS = 2_000_000_000

# The mark by which pages, figures and texts name their settings, within their first bytes.
_MARK = re.compile(r"ecgpipe-settings:((?: [a-z]+=[0-9a-f]{64})+)")
_HEAD_BYTES = 65_536

# They mostly wait for a file server.
_THREADS = 8


class Result(NamedTuple):
    """A result file that exists."""

    stage: str
    path: Path
    made_by: dict[str, str] | None  # SHA-256 of the settings by stage; None if the file does not state them

    def is_of(self, hashes: Mapping[str, str]) -> bool:
        """Whether it was made by these settings."""
        lacks_truth = self.stage in _WITH_TRUTH and "evaluate" in hashes and "evaluate" not in (self.made_by or {})
        return (
            self.made_by is not None
            and self.stage in self.made_by
            and not lacks_truth
            and all(hashes.get(stage) == sha256 for stage, sha256 in self.made_by.items())
        )


def find_results(outdir: Path, stages: Mapping[str, Section], attention: bool) -> list[Result]:
    """Find the existing results of the stages of a run.

    Args:
        outdir: The folder of the results.
        stages: By stage, as `stage_settings.derive_stages` returns them.
        attention: Whether the run writes attention; if not, attention files of an earlier run are ignored.

    Returns:
        In the order of the flow.
    """
    candidates = [
        (stage, path)
        for stage in stages
        for pattern in patterns_of(stage)
        if attention or not pattern.startswith("attention/")
        for path in sorted(outdir.glob(pattern))
    ]
    with ThreadPoolExecutor(_THREADS) as threads:
        are_ours = list(threads.map(_is_ours, [path for _, path in candidates]))
        ours = [candidate for candidate, is_ours in zip(candidates, are_ours, strict=True) if is_ours]
        makers = threads.map(read_made_by, [path for _, path in ours])
        return [Result(stage, path, maker) for (stage, path), maker in zip(ours, makers, strict=True)]


def _is_ours(path: Path) -> bool:
    """Whether a file is a result. The time of a user's file is never changed, and no link is followed."""
    if path.is_symlink() or not path.is_file():
        return False
    if is_shard_or_part(path.name):
        return is_written_here(path)
    return path.parent.name != "figures" or is_name_of_ours("figures", path.name)


def read_made_by(path: Path) -> dict[str, str] | None:
    """Read the SHA-256 of the settings that a result names, by stage; None if there are none or it is unreadable."""
    try:
        hashes = _read_settings_sha256s(path)
    except Exception:
        return None
    return hashes if isinstance(hashes, dict) else None


def refuse_unmarked(outdir: Path) -> None:
    """Refuse results of an ecgpipe version that did not store settings with the results.

    Raises:
        EcgpipeError: There are such results.
    """
    for name in (path_of("description"), path_of("manifest")):
        path = outdir / name
        if path.is_file() and read_made_by(path) is None:
            try:
                version = json.loads(path.read_text(encoding="utf-8")).get("ecgpipe", "0.1.0")
            except (OSError, ValueError, AttributeError):
                continue  # damaged or not ecgpipe's: its rule writes it again
            raise EcgpipeError(
                f"outdir: {name} in {outdir} does not say which settings made it, as with ecgpipe 0.1 (this file is of "
                f"{version}), so it is unknown whether the results there belong to your settings. Give another outdir; "
                "or continue with the version that wrote them; or delete that folder to compute all of them again"
            )


def select_stale(present: Sequence[Result], stages: Mapping[str, Section]) -> list[Result]:
    """Select the results of other settings than those of a run."""
    hashes = {stage: settings.hash_section(stage, section) for stage, section in stages.items()}
    return [result for result in present if not result.is_of(hashes)]


def prepare(outdir: Path, stages: Mapping[str, Section], attention: bool, scanned: Path | None = None) -> list[str]:
    """Write the settings of a run that has locked the folder, and set the times of results that do not belong to them.

    Args:
        outdir: The folder of the results.
        stages: By stage, as `stage_settings.derive_stages` returns them.
        attention: Whether the run writes attention.
        scanned: The folder that has manifest/, if it is another one: that of the study.

    Returns:
        The stages whose results will be computed again.
    """
    folder = outdir / settings.FOLDER
    copied = is_copy(outdir)
    settings.write_sections(folder, stages)
    present = find_results(outdir, stages, attention)
    outdated = select_stale(present, stages)
    outdated += select_incomplete(present, outdated, list_unnamed(stages, attention) if scanned else ())
    infer = stages.get("infer")
    if copied and isinstance(infer, settings.Infer):
        unchanged = [result for result in present if result not in outdated]
        outdated += _select_of_other_inputs(scanned or outdir, unchanged, infer.shards_per_part)
        # Only a killed run leaves these, and the fit does not say of which recordings it is.
        outdated += [result for result in unchanged if result.path.parent.name == "places" and result not in outdated]
    kept = [result for result in present if result not in outdated]
    for result in outdated:
        os.utime(result.path, ns=(STALE_NS, STALE_NS))
    if copied:
        # With a single time for all, no file is newer than the results computed from it.
        files = [*_list_files(outdir), *(_list_files(scanned) if scanned else ())]
        latest = max((path.stat().st_mtime_ns for path in files), default=0)
        for path in [*(result.path for result in kept), *_list_benchmarks(outdir, stages)]:
            os.utime(path, ns=(latest, latest))
    for result in kept:
        if result.path.match("records/*.parquet"):
            add_new_columns(result.path)
    _put_settings_before(folder, kept)
    _restore_choice(outdir, kept)
    if copied or not (folder / WRITTEN).exists():
        _write_time(folder / WRITTEN)
    return list(dict.fromkeys(result.stage for result in outdated))


def add_new_columns(path: Path) -> None:
    """Give a shard of the records that an older version wrote the columns that it lacks, without values.

    A run that grows keeps it, and its new shards have them: Polars and DuckDB read no files of different columns as one
    table. The file keeps its time and all else, so that nothing counts as made again.

    Args:
        path: A file of records/.
    """
    import pyarrow as pa  # here, as a command that plans nothing needs none of it
    import pyarrow.parquet as pq

    from ecgpipe.core import parquet, schemas

    schema = pq.read_schema(path)
    missing = [field for field in schemas.RECORDS if field.name not in schema.names]
    if not missing or "record_id" not in schema.names:
        return
    status, table = path.stat(), pq.read_table(path)
    for field in missing:
        table = table.append_column(field, pa.nulls(len(table), field.type))
    others = [name for name in schema.names if name not in schemas.RECORDS.names]
    table = table.select([*schemas.RECORDS.names, *others]).replace_schema_metadata(schema.metadata)
    parquet.write(path, table)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def is_copy(outdir: Path) -> bool:
    """Whether the folder is a copy whose files have the time of copying."""
    path = outdir / settings.FOLDER / WRITTEN
    try:
        written_ns = json.loads(path.read_text(encoding="utf-8"))["written_ns"]
        return bool(abs(path.stat().st_mtime_ns - written_ns) > _COARSE_NS)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def remove_outdated_report(outdir: Path) -> bool:
    """Remove a report whose evaluation no longer exists, or was computed again with other settings.

    Returns:
        Whether a report was removed.
    """
    page = outdir / path_of("report")
    shown = (read_made_by(page) or {}).get("evaluate") if page.is_file() and not page.is_symlink() else None
    if shown is None:
        return False
    evaluation = outdir / path_of("account")
    if evaluation.is_file() and (read_made_by(evaluation) or {}).get("evaluate") == shown:
        return False
    page.unlink(missing_ok=True)
    return True


def list_unnamed(stages: Mapping[str, Section], attention: bool) -> list[str]:
    """List the files that a study's rules do not name, as some of its models have none; keys of `FILES`.

    Args:
        stages: Of a model, as `stage_settings.derive_stages` returns them.
        attention: Whether the model's run writes attention.
    """
    checkpoint = stages["checkpoint"]
    by_index = isinstance(checkpoint, settings.Checkpoint) and checkpoint.label_names == "index"
    return ["attention"] * attention + ["index_labels"] * by_index


def select_incomplete(
    present: Sequence[Result], outdated: Sequence[Result], unnamed: Collection[str] = ()
) -> list[Result]:
    """Select the results without a second file that their rule also writes and that Snakemake does not know.

    Args:
        present: The results.
        outdated: Those that are made again anyway.
        unnamed: Such files of a study, by `list_unnamed`.
    """
    return [result for result in present if result not in outdated and _is_incomplete(result.path, unnamed)]


def _is_incomplete(path: Path, unnamed: Collection[str]) -> bool:
    if path.parent.name == "logits":
        return "attention" in unnamed and not (path.parents[1] / "attention" / path.name).is_file()
    beside = {"manifest.json": "found.txt", "chosen.json": "choice.txt"}
    if "index_labels" in unnamed:
        beside |= {"model.json": "labels.csv"}
    return path.name in beside and not path.with_name(beside[path.name]).is_file()


def _select_of_other_inputs(outdir: Path, kept: Sequence[Result], shards_per_part: int) -> list[Result]:
    """Select the results of other recordings than those in outdir/manifest. In a copy, times do not show this."""
    paths = [path for path in sorted(outdir.glob("manifest/shard-*.parquet")) if is_written_here(path)]
    shards = [provenance.hash_file(path) for path in paths]
    starts = range(0, len(shards), shards_per_part)
    parts = [_combine_sha256s(shards[start : start + shards_per_part]) for start in starts]
    expected = {f"shard-{number:05d}": sha256 for number, sha256 in enumerate(shards)}
    expected |= {f"part-{number:05d}": sha256 for number, sha256 in enumerate(parts)}
    expected |= dict.fromkeys(("umap", "examples"), _combine_sha256s(parts))
    expected |= dict.fromkeys(("duplicates", "attribution", "leads"), _combine_sha256s(shards))
    tables = [result for result in kept if result.path.suffix in (".parquet", ".arrow") and result.stage != "evaluate"]
    return [table for table in tables if _read_origin(table.path).get("inputs_sha256") != expected.get(table.path.stem)]


def _combine_sha256s(sha256s: Sequence[str]) -> str:
    """Combine SHA-256 as `provenance.inherit_facts` does."""
    return sha256s[0] if len(sha256s) == 1 else provenance.combine_sha256s(sha256s)


def _list_files(outdir: Path) -> Iterator[Path]:
    """Yield all files in the folders that rules read and write."""
    folders = {Path(file.path).parent.as_posix() for file in FILES.values() if file.is_result}
    return (path for folder in sorted(folders) for path in (outdir / folder).glob("*") if path.is_file())


def _list_benchmarks(outdir: Path, stages: Mapping[str, Section]) -> Iterator[Path]:
    """Yield Snakemake's benchmark files: it dates a job by the oldest of its results and its benchmark."""
    for stage in stages:
        kind = kind_of(stage)
        pattern = f"benchmarks/{stage}/{kind}-*.tsv" if kind else f"benchmarks/{stage}.tsv"
        yield from (path for path in outdir.glob(pattern) if path.is_file() and not path.is_symlink())


def _put_settings_before(folder: Path, kept: Sequence[Result]) -> None:
    """Make each settings file at most as new as the results that belong to it, even if it was rewritten since."""
    oldest: dict[str, int] = {}
    for result in kept:
        time = result.path.stat().st_mtime_ns
        for stage in result.made_by or {}:
            oldest[stage] = min(time, oldest.get(stage, time))
    for stage, time in oldest.items():
        path = folder / f"{stage}.json"
        if path.stat().st_mtime_ns > time:
            os.utime(path, ns=(time, time))


def _restore_choice(outdir: Path, kept: Sequence[Result]) -> None:
    """Restore a lost file of the chosen precision from the precision that existing results state."""
    choice = outdir / path_of("choice")
    logits = [result.path for result in kept if result.path.parent.name == "logits"]
    if logits and not choice.exists():
        with whole(choice) as temporary:
            temporary.write_text(f"{_read_origin(logits[0])['precision']}\n", encoding="utf-8")
        oldest = min(path.stat().st_mtime_ns for path in logits)
        os.utime(choice, ns=(oldest, oldest))


def _write_time(path: Path) -> None:
    """Write a file that states its own time."""
    write_json(path, {"written_ns": 0})
    now = path.stat().st_mtime_ns  # the file system's clock, which may be another machine's
    write_json(path, {"written_ns": now})
    os.utime(path, ns=(now, now))


def _read_settings_sha256s(path: Path) -> object:
    """Read the settings that a file names, without validation; None if its first bytes have no mark."""
    if path.suffix in (".parquet", ".arrow"):
        origin = _read_origin(path)
        return None if _is_placed_in_batches(path, origin) else origin.get(settings.KEY)
    if path.suffix == ".json":
        return json.loads(path.read_text(encoding="utf-8")).get(settings.KEY)
    if path.suffix == ".safetensors":
        with path.open("rb") as file:
            header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        return json.loads(header["__metadata__"]["ecgpipe"])[settings.KEY]
    with path.open("rb") as file:
        mark = _MARK.search(file.read(_HEAD_BYTES).decode("utf-8", errors="replace"))
    return dict(pair.split("=") for pair in mark[1].split()) if mark else None


def _is_placed_in_batches(path: Path, origin: Mapping[str, Any]) -> bool:
    """Whether a file is a map on which an older ecgpipe placed segments batch by batch, other than `umap_place` does.

    Maps of which everything was fitted are the same as before, which a higher number in `MEANING` could not tell.
    """
    mapping = origin.get("umap", {})
    if path.name != path_of("umap").rpartition("/")[2] or "fit_segments" not in mapping or "placed" in mapping:
        return False
    import pyarrow.parquet as pq  # here, as in `_read_origin`

    return bool(pq.read_metadata(path).num_rows > mapping["fit_segments"])


def _read_origin(path: Path) -> dict[str, Any]:
    """Read ecgpipe's metadata of a Parquet or Arrow file."""
    import pyarrow as pa  # here, because it takes half a second, of every job that reads the Snakefile
    import pyarrow.parquet as pq

    if path.suffix == ".parquet":
        schema = pq.read_schema(path)
    else:
        with pa.memory_map(str(path)) as mapped, pa.ipc.open_file(mapped) as reader:
            schema = reader.schema
    content: dict[str, Any] = json.loads((schema.metadata or {}).get(b"ecgpipe", b"{}"))
    return content
