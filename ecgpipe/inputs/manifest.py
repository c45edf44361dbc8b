"""Find the recordings under the inputs and cut them into shards; account for every file there.

No signal is read. Files that hold many recordings are opened for their list, others at most for their first bytes.
"""

import hashlib
import json
import logging
import os
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from ecgpipe.core import parquet, provenance, results, schemas, settings
from ecgpipe.core.atomic import whole, write_json
from ecgpipe.core.errors import EcgpipeError
from ecgpipe.core.results import path_of
from ecgpipe.inputs import incremental, input_tables
from ecgpipe.inputs.scan import TABLE, columns_of_table, scan_inputs, unavailable
from ecgpipe.readers import FORMATS, UnavailableError, detect

logger = logging.getLogger(__name__)

# Pairs of recordings with one id that an error names, and recordings that a warning does.
_PAIRS = 5

# Columns of a table that a message names.
_NAMES = 10

# What a recording that was known can be now, and where that is kept.
_CHANGES = ("changed", "removed")
CHANGES = path_of("changes").rpartition("/")[2]
SCANS = path_of("scans").rpartition("/")[2]

# Beside manifest.json, which each scan writes: a file that is written only when a scan finds something else.
DIGEST = path_of("scan_digest").rpartition("/")[2]


def write(
    inputs: Sequence[str],
    section: settings.Manifest,
    outdir: Path,
    check: Callable[[pa.Table, pa.Table], None] | None = None,
    choose_size: Callable[[pa.Table], int] | None = None,
) -> None:
    """Scan the inputs and write `manifest.json`, `files.parquet`, and each `shard-*.parquet` that is new or changed.

    Args:
        inputs: Folders, files, globs, or tables with a column `path`.
        section: How they are cut.
        outdir: The folder `manifest/`.
        check: Called with `Scanned.recordings` and `Scanned.files` before anything is written; raises what stops the
            run. None: nothing is checked.
        choose_size: Called with `Scanned.recordings` for the number of recordings in a shard, where neither the
            section nor an earlier scan tells it.

    Raises:
        EcgpipeError: There are no recordings, two of one name, `check` refuses them, or nothing tells the size of a
            shard.
    """
    scanned = scan_inputs(inputs, section.ptbxl)
    recordings, files = scanned.recordings, scanned.files
    _warn_of_ignored(inputs, files)
    reasons = Counter(files.filter(pc.equal(files["role"], "ignored"))["reason"].to_pylist())
    if not len(recordings):
        raise EcgpipeError(_nothing_found(inputs, reasons))
    _refuse_duplicate_ids(recordings)
    if check:
        check(recordings, files)

    try:
        recordings = incremental.add_stamps(recordings, files)
    except UnavailableError as error:
        raise unavailable(error) from error
    size = section.shard_size or incremental.read_shard_size(outdir) or (choose_size and choose_size(recordings))
    if not size:
        raise EcgpipeError("manifest.shard_size: missing; give a number of recordings")
    before = incremental.read_shards(outdir, size)
    _refuse_empty_inputs(inputs, before, recordings)
    scans = _read_scans(outdir) if before else []
    cut = incremental.cut_into_shards(recordings, before, size)
    changes = Counter(cut.changes["change"].to_pylist())
    known = scans[-1]["recordings"] if scans else 0
    added = len(recordings) - known + changes["removed"]
    _log_changes(changes, added if scans else 0, cut.changes)
    if added or changes:
        scans.append({"recordings": len(recordings), "added": added, **{what: changes[what] for what in _CHANGES}})

    _write_shards(outdir, cut.shards, size)
    parquet.write(outdir / "files.parquet", files.cast(provenance.add_origin(files.schema, "manifest")))
    if changes or not (outdir / CHANGES).exists():
        parquet.write(outdir / CHANGES, cut.changes.cast(provenance.add_origin(schemas.CHANGES, "manifest")))
    write_json(outdir / SCANS, scans)
    roles = Counter(files["role"].to_pylist())
    shards = [outdir / f"shard-{number:05d}.parquet" for number in range(len(cut.shards))]
    content = {
        "n_recordings": len(recordings),
        "n_shards": len(shards),
        "files": {role: roles[role] for role in ("recording", "part", "ignored")},
        "ignored": _count_kinds(reasons),
        "layouts": scanned.layouts,
        "metadata": recordings.column_names[len(schemas.MANIFEST) :],
        "not_on_disk": scanned.not_on_disk,
        "scans": scans,
        "sha256": provenance.combine_sha256s(map(provenance.hash_file, shards)),
    }
    _write_digest(outdir / DIGEST, json.dumps(content, sort_keys=True))
    # Not part of the digest: results do not depend on it but by the shards.
    content["shard_size"] = size
    write_json(outdir / "manifest.json", {**content, **settings.add_sha256("manifest", section, {})})

    logger.info("%d recordings in %d shards", len(recordings), len(shards))
    logger.info("%d files: %s", len(files), ", ".join(f"{roles[role]} {role}" for role in content["files"]))
    if reasons:
        logger.info("ignored: %s", _list_counts(_count_kinds(reasons)))
    problems = _count_kinds(Counter(recordings["problem"].drop_null().to_pylist()))
    if problems:
        logger.warning("%d of the recordings cannot be read: %s", sum(problems.values()), _list_counts(problems))


def _write_shards(outdir: Path, shards: Sequence[pa.Table | None], size: int) -> None:
    """Write the shards that are new or changed, and remove those of an earlier scan that are too many."""
    _refuse_foreign(outdir, shards)
    _remove_surplus(outdir, len(shards))
    for number, shard in enumerate(shards):
        if shard is not None:  # one that is as it was keeps its time too, so that nothing is computed again
            schema = provenance.add_origin(shard.schema, "manifest", shard_size=size)
            parquet.write(outdir / f"shard-{number:05d}.parquet", shard.cast(schema))


def _warn_of_ignored(inputs: Sequence[str], files: pa.Table) -> None:
    """Tell of files that were given themselves and are no recordings: somebody took them for some."""
    named = {input_tables.escape_name(os.path.abspath(text)) for text in inputs if os.path.isfile(text)}  # noqa: PTH100, PTH113
    if not named:
        return
    ignored = files.filter(pc.and_(pc.equal(files["role"], "ignored"), pc.is_in(files["path"], pa.array(list(named)))))
    for path, reason in zip(ignored["path"].to_pylist(), ignored["reason"].to_pylist(), strict=True):
        if reason != TABLE:
            logger.warning("input: %s is ignored: %s", path, reason)


def _write_digest(path: Path, content: str) -> None:
    """Keep the SHA-256 of what was found in a file whose time says since when it has been so."""
    line = f"{hashlib.sha256(content.encode()).hexdigest()}\n"
    if not path.exists() or path.read_text(encoding="utf-8") != line:
        with whole(path) as temporary:
            temporary.write_text(line, encoding="utf-8")


def _refuse_empty_inputs(inputs: Sequence[str], before: Sequence[pa.Table], recordings: pa.Table) -> None:
    """Refuse a folder in which nothing is left, as is where a disk or a share is not mounted.

    Raises:
        EcgpipeError: The scan before found recordings there, and this one none.
    """

    def count(table: pa.Table, folder: str) -> int:
        return pc.sum(pc.starts_with(table["path"], folder)).as_py() or 0

    for text in filter(os.path.isdir, inputs):
        folder = os.path.join(os.path.abspath(text), "")  # noqa: PTH100, PTH118, as the scan makes it
        had = sum(count(table, folder) for table in before)
        if had and not count(recordings, folder):
            raise EcgpipeError(
                f"input: {text!r} has no recordings any more, and the last run found {had:,}; mount it if it is a disk "
                "or a share, or leave it out"
            )


def _refuse_foreign(folder: Path, shards: Sequence[pa.Table | None]) -> None:
    """Keep shards that are to be written from replacing what is not ecgpipe's.

    Raises:
        EcgpipeError: There is such a file, or a shard that is damaged.
    """
    for number, shard in enumerate(shards):
        path = folder / f"shard-{number:05d}.parquet"
        if shard is not None and os.path.lexists(path) and not results.is_written_here(path, "manifest"):
            raise EcgpipeError(
                f"outdir: {path} was not written by ecgpipe, or is damaged, and a shard of that name is to be written; "
                "move it away or delete it, and run again"
            )


def _remove_surplus(folder: Path, count: int) -> None:
    """Remove the shards of an earlier scan that was cut otherwise, before new ones are written, and the last one first.

    A scan that is killed meanwhile leaves shards without a gap, which `incremental.read_shards` reads.
    """
    by_number = {results.parse_number("manifest", path.name): path for path in folder.glob("shard-*")}
    surplus = {number: path for number, path in by_number.items() if number is not None and number >= count}
    for number in sorted(surplus, reverse=True):
        if results.is_written_here(surplus[number], "manifest"):
            surplus[number].unlink()


def _read_scans(folder: Path) -> list[dict[str, int]]:
    """What each scan so far found; none where that is not known."""
    try:
        content: list[dict[str, int]] = json.loads((folder / SCANS).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return []
    return content


def _log_changes(counts: Counter[str], added: int, changes: pa.Table) -> None:
    """Tell what is not as it was at the scan before."""
    if added:
        logger.info("new since the last run: %d", added)
    for what in _CHANGES:
        if counts[what]:
            ids = changes.filter(pc.equal(changes["change"], what))["record_id"]
            names = ", ".join(ids[:_PAIRS].to_pylist()) + (", ..." if len(ids) > _PAIRS else "")
            logger.warning("%s since the last run: %d (%s)", what, counts[what], names)


def _refuse_duplicate_ids(recordings: pa.Table) -> None:
    """Refuse recordings with one id.

    Raises:
        EcgpipeError: There are some; it names the first of them.
    """
    counts = pc.value_counts(recordings["record_id"])
    several = counts.filter(pc.greater(counts.field("counts"), 1)).field("values")
    if not len(several):
        return
    pairs = []
    for record_id in several[:_PAIRS].to_pylist():
        same = recordings.filter(pc.equal(recordings["record_id"], record_id)).slice(0, 2)
        pairs.append(f"two recordings have the id {record_id!r}: {' and '.join(map(_where, same.to_pylist()))}")
    more = f"; {len(several)} ids in all" if len(several) > 1 else ""
    raise EcgpipeError(
        f"input: {'; '.join(pairs)}{more}; rename one, leave one out, or give a table with a `record_id` column"
    )


def _where(recording: dict[str, object]) -> str:
    path, row = recording["path"], recording["row"]
    return f"{path or 'a row without a path'}{'' if row is None else f', row {row}'}"


def _count_kinds(reasons: Counter[str]) -> dict[str, int]:
    """How often each reason was given, without the particulars of the files, the most frequent first."""
    kinds: Counter[str] = Counter()
    for reason, count in sorted(reasons.items()):
        kinds[schemas.strip_particulars(reason)] += count
    return dict(kinds.most_common())


def _list_counts(kinds: dict[str, int]) -> str:
    return ", ".join(f"{count} {kind}" for kind, count in kinds.items())


def _nothing_found(inputs: Sequence[str], reasons: Counter[str]) -> str:
    endings, formats = ", ".join(sorted(detect.SUFFIXES)), ", ".join(FORMATS)
    reads = f"ecgpipe reads {endings}, and by content {formats}"
    if len(inputs) == 1 and os.path.isfile(inputs[0]):  # noqa: PTH113
        return (
            f"input: {inputs[0]!r} holds no recordings: {_looks_like(inputs[0])}; {reads}, and takes a CSV or Parquet "
            "table of recordings by its column `path`"
        )
    seen = _list_counts(dict(Counter(dict(sorted(reasons.items()))).most_common(8)))
    what = f"{reasons.total()} other files ({seen})" if reasons else "no files at all"
    return f"input: no recordings in {', '.join(map(repr, inputs))}, {what}; {reads}"


def _looks_like(path: str) -> str:
    """What a file given as the only input is, in words."""
    head = input_tables.read_head(path)
    names = columns_of_table(path, head)
    if "path" in names:
        return "it is a table of recordings without a row"
    if len(names) > 1 and (head.startswith(b"PAR1") or path.lower().endswith(input_tables.SUFFIXES)):
        shown = ", ".join(names[:_NAMES]) + (", ..." if len(names) > _NAMES else "")
        return f"it looks like a table with the columns {shown}, and no limb lead is among them"
    what = detect.what_else(Path(path), head)
    text = detect.text_of(head)
    if not head or text is None or text.lstrip().startswith("<"):
        return f"it is of another kind ({what})"
    begins = next((line.strip() for line in text.splitlines() if line.strip()), "")
    return f"it looks like a text that begins with {begins[:60]!r}"
