"""Which results of a folder belong to a run's settings, whatever folder, machine or mount they are used from.

Each result names the settings of its stage and of the stages before it (`settings.KEY`). Before a run is planned these
are compared with the run's own. Snakemake, which plans by the times of files, is then told by times: a result of other
settings becomes older than anything, and a settings file is never newer than the results that belong to it.
"""

import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from ecgpipe.core import provenance, settings
from ecgpipe.core.atomic import whole, write_json
from ecgpipe.core.config import Section
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

# The time of a result that is to be made again, 1970 and a second: Snakemake takes 0 for no time.
STALE_NS = 1_000_000_000

# Says its own time, to tell a copy that has lost the times from the original.
WRITTEN = "written.json"

# Beyond what the coarsest file systems make of a time.
_COARSE_NS = 2_000_000_000

# What pages, figures and texts say of their settings, within their first bytes.
_MARK = re.compile(r"ecgpipe-settings:((?: [a-z]+=[0-9a-f]{64})+)")
_HEAD_BYTES = 65_536

# Waiting for a file server, for the most part.
_THREADS = 8


class Result(NamedTuple):
    """A result file that is there."""

    stage: str
    path: Path
    made_by: dict[str, str] | None  # by stage the SHA-256 of its settings; None where the file does not say

    def is_of(self, hashes: Mapping[str, str]) -> bool:
        """Whether it was made by these settings."""
        return (
            self.made_by is not None
            and self.stage in self.made_by
            and all(hashes.get(stage) == sha256 for stage, sha256 in self.made_by.items())
        )


def results(outdir: Path, stages: Mapping[str, Section], attention: bool) -> list[Result]:
    """The results that are there of the stages that a run has.

    Args:
        outdir: The folder of the results.
        stages: As of `settings.of_run`.
        attention: Whether the run has some; what an earlier run left is not looked at otherwise.

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
        makers = threads.map(made_by, [path for _, path in ours])
        return [Result(stage, path, maker) for (stage, path), maker in zip(ours, makers, strict=True)]


def _is_ours(path: Path) -> bool:
    """Whether a file is a result, and no user's: the time of a user's file is never changed, nor is a link followed."""
    if path.is_symlink() or not path.is_file():
        return False
    if is_shard_or_part(path.name):
        return is_written_here(path)
    return path.parent.name != "figures" or is_name_of_ours("figures", path.name)


def made_by(path: Path) -> dict[str, str] | None:
    """What a result says of its settings, by stage; None where it says nothing, or cannot be read."""
    try:
        hashes = _settings_sha256s(path)
    except Exception:
        return None
    return hashes if isinstance(hashes, dict) else None


def refuse_unmarked(outdir: Path) -> None:
    """Refuse results of a version that did not note the settings with them.

    Raises:
        EcgpipeError: There are some.
    """
    for name in (path_of("description"), path_of("manifest")):
        path = outdir / name
        if path.is_file() and made_by(path) is None:
            try:
                version = json.loads(path.read_text(encoding="utf-8")).get("ecgpipe", "0.1.0")
            except (OSError, ValueError, AttributeError):
                continue  # torn or foreign: its rule makes it again
            raise EcgpipeError(
                f"outdir: {name} in {outdir} does not say which settings made it, as with ecgpipe 0.1 (this one is of "
                f"{version}), so that it is unknown whether the results there belong to yours. Give another outdir; or "
                "go on with the version that made them; or, to have all of them made again here, delete that folder"
            )


def stale(present: Sequence[Result], stages: Mapping[str, Section]) -> list[Result]:
    """Those of the results that other settings made than a run has."""
    hashes = {stage: settings.sha256(stage, section) for stage, section in stages.items()}
    return [result for result in present if not result.is_of(hashes)]


def prepare(outdir: Path, stages: Mapping[str, Section], attention: bool) -> list[str]:
    """Write the settings of a run that has a folder alone, and have the files' times say which results belong to them.

    Args:
        outdir: The folder of the results.
        stages: As of `settings.of_run`.
        attention: Whether the run has some.

    Returns:
        The stages of which results are made again.
    """
    folder = outdir / settings.FOLDER
    copied = is_copy(outdir)
    settings.write(folder, stages)
    present = results(outdir, stages, attention)
    again = stale(present, stages)
    again += [result for result in present if result not in again and _is_alone(result.path)]
    if copied:
        infer = stages["infer"]
        assert isinstance(infer, settings.Infer)  # noqa: S101
        unchanged = [result for result in present if result not in again]
        again += _of_other_inputs(outdir, unchanged, infer.shards_per_part)
    kept = [result for result in present if result not in again]
    for result in again:
        os.utime(result.path, ns=(STALE_NS, STALE_NS))
    if copied:
        # Nothing is newer than what was made of it, if all are of one time.
        latest = max((path.stat().st_mtime_ns for path in _all_files(outdir)), default=0)
        for path in [*(result.path for result in kept), *_benchmarks(outdir, stages)]:
            os.utime(path, ns=(latest, latest))
    _put_settings_before(folder, kept)
    _restore_choice(outdir, kept)
    if copied or not (folder / WRITTEN).exists():
        _note_time(folder / WRITTEN)
    return list(dict.fromkeys(result.stage for result in again))


def is_copy(outdir: Path) -> bool:
    """Whether the folder is a copy in which files have the times of the copying."""
    path = outdir / settings.FOLDER / WRITTEN
    try:
        written_ns = json.loads(path.read_text(encoding="utf-8"))["written_ns"]
        return bool(abs(path.stat().st_mtime_ns - written_ns) > _COARSE_NS)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def remove_outdated_report(outdir: Path) -> bool:
    """Remove a report that shows an evaluation which is not there any more, or was made anew by other settings.

    Returns:
        Whether there was one.
    """
    page = outdir / path_of("report")
    shown = (made_by(page) or {}).get("evaluate") if page.is_file() and not page.is_symlink() else None
    if shown is None:
        return False
    account = outdir / path_of("account")
    if account.is_file() and (made_by(account) or {}).get("evaluate") == shown:
        return False
    page.unlink(missing_ok=True)
    return True


def _is_alone(path: Path) -> bool:
    """Whether a result lacks the file that its rule writes beside it, and that Snakemake does not know of."""
    beside = {"manifest.json": "found.txt", "chosen.json": "choice.txt"}
    return path.name in beside and not path.with_name(beside[path.name]).is_file()


def _of_other_inputs(outdir: Path, kept: Sequence[Result], shards_per_part: int) -> list[Result]:
    """Results of other recordings than those of the manifest beside them, which only the times had told before."""
    paths = [path for path in sorted(outdir.glob("manifest/shard-*.parquet")) if is_written_here(path)]
    shards = [provenance.file_sha256(path) for path in paths]
    starts = range(0, len(shards), shards_per_part)
    parts = [_together(shards[start : start + shards_per_part]) for start in starts]
    expected = {f"shard-{number:05d}": sha256 for number, sha256 in enumerate(shards)}
    expected |= {f"part-{number:05d}": sha256 for number, sha256 in enumerate(parts)}
    expected |= dict.fromkeys(("umap", "examples"), _together(parts))
    expected |= dict.fromkeys(("duplicates", "attribution", "leads"), _together(shards))
    tables = [result for result in kept if result.path.suffix in (".parquet", ".arrow") and result.stage != "evaluate"]
    return [table for table in tables if _origin(table.path).get("inputs_sha256") != expected.get(table.path.stem)]


def _together(sha256s: Sequence[str]) -> str:
    """As `provenance.inherited` puts them together."""
    return sha256s[0] if len(sha256s) == 1 else provenance.digest(sha256s)


def _all_files(outdir: Path) -> Iterator[Path]:
    """What rules write and read, and what lies beside it."""
    folders = {Path(file.path).parent.as_posix() for file in FILES.values() if file.is_result}
    return (path for folder in sorted(folders) for path in (outdir / folder).glob("*") if path.is_file())


def _benchmarks(outdir: Path, stages: Mapping[str, Section]) -> Iterator[Path]:
    """What Snakemake writes of the jobs' times: the oldest of a job's results and of this is when it was done."""
    for stage in stages:
        kind = kind_of(stage)
        pattern = f"benchmarks/{stage}/{kind}-*.tsv" if kind else f"benchmarks/{stage}.tsv"
        yield from (path for path in outdir.glob(pattern) if path.is_file() and not path.is_symlink())


def _put_settings_before(folder: Path, kept: Sequence[Result]) -> None:
    """Have no settings file be newer than a result that was made by it, also where it was written anew since."""
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
    """Write the precision again that results say they were inferred in, where the file that names it was lost."""
    choice = outdir / path_of("choice")
    logits = [result.path for result in kept if result.path.parent.name == "logits"]
    if logits and not choice.exists():
        with whole(choice) as temporary:
            temporary.write_text(f"{_origin(logits[0])['precision']}\n", encoding="utf-8")
        oldest = min(path.stat().st_mtime_ns for path in logits)
        os.utime(choice, ns=(oldest, oldest))


def _note_time(path: Path) -> None:
    """Write a file that says its own time."""
    write_json(path, {"written_ns": 0})
    now = path.stat().st_mtime_ns  # as the file system, which may be another machine's, has it
    write_json(path, {"written_ns": now})
    os.utime(path, ns=(now, now))


def _settings_sha256s(path: Path) -> object:
    """What a file names as its settings, as it stands there; None where its first bytes have no mark."""
    if path.suffix in (".parquet", ".arrow"):
        return _origin(path).get(settings.KEY)
    if path.suffix == ".json":
        return json.loads(path.read_text(encoding="utf-8")).get(settings.KEY)
    if path.suffix == ".safetensors":
        with path.open("rb") as file:
            header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        return json.loads(header["__metadata__"]["ecgpipe"])[settings.KEY]
    with path.open("rb") as file:
        mark = _MARK.search(file.read(_HEAD_BYTES).decode("utf-8", errors="replace"))
    return dict(pair.split("=") for pair in mark[1].split()) if mark else None


def _origin(path: Path) -> dict[str, Any]:
    """What the metadata of a Parquet or Arrow file says."""
    import pyarrow as pa  # here, because it takes half a second, of every job that reads the Snakefile
    import pyarrow.parquet as pq

    if path.suffix == ".parquet":
        schema = pq.read_schema(path)
    else:
        with pa.memory_map(str(path)) as mapped, pa.ipc.open_file(mapped) as reader:
            schema = reader.schema
    content: dict[str, Any] = json.loads((schema.metadata or {}).get(b"ecgpipe", b"{}"))
    return content
