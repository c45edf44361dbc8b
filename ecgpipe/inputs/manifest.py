"""Find the recordings under the inputs and cut them into shards; account for every file there.

No signal is read. Files that hold many recordings are opened for their list, others at most for their first bytes.
"""

import glob
import hashlib
import json
import logging
import os
from collections import Counter
from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ecgpipe.core import parquet, provenance, results, schemas, settings
from ecgpipe.core.atomic import whole, write_json
from ecgpipe.core.errors import EcgpipeError
from ecgpipe.inputs import folders, incremental, input_tables
from ecgpipe.readers import FORMATS, UnavailableError, detect

logger = logging.getLogger(__name__)

# Pairs of recordings with one id that an error names, and recordings that a warning does.
_PAIRS = 5

# Columns of a table that a message names.
_NAMES = 10

# What a recording that was known can be now, and where that is kept.
_CHANGES = ("changed", "removed")
CHANGES = "changes.parquet"
SCANS = "scans.json"

# Why the file itself is ignored that lists recordings.
TABLE = "the table of the recordings"

# Beside manifest.json, which each scan writes: a file that is written only when a scan finds something else.
FOUND = "found.txt"


class Scanned(NamedTuple):
    """What the inputs hold."""

    recordings: pa.Table  # schemas.MANIFEST, then the metadata's columns
    files: pa.Table  # schemas.FILES
    layouts: list[str]  # the datasets that folders were recognised as
    not_on_disk: int  # recordings that those datasets' tables list, and that are not there


def write(
    inputs: Sequence[str],
    given: settings.Manifest,
    outdir: Path,
    check: Callable[[pa.Table, pa.Table], None] | None = None,
) -> None:
    """Scan the inputs and write `manifest.json`, `files.parquet`, and each `shard-*.parquet` that is new or changed.

    Args:
        inputs: Folders, files, globs, or tables with a column `path`.
        given: How they are cut.
        outdir: The folder `manifest/`.
        check: Called with `Scanned.recordings` and `Scanned.files` before anything is written; raises what stops the
            run. None: nothing is checked.

    Raises:
        EcgpipeError: There are no recordings, two of one name, or `check` refuses them.
    """
    found = scan(inputs, given.ptbxl)
    recordings, files = found.recordings, found.files
    _warn_of_ignored(inputs, files)
    reasons = Counter(files.filter(pc.equal(files["role"], "ignored"))["reason"].to_pylist())
    if not len(recordings):
        raise EcgpipeError(_nothing_found(inputs, reasons))
    _check_ids(recordings)
    if check:
        check(recordings, files)

    try:
        recordings = incremental.stamped(recordings, files)
    except UnavailableError as error:
        raise _unavailable(error) from error
    before = incremental.earlier(outdir, given.shard_size)
    _check_inputs(inputs, before, recordings)
    scans = _scans(outdir) if before else []
    cut = incremental.cut(recordings, before, given.shard_size)
    changes = Counter(cut.changes["change"].to_pylist())
    known = scans[-1]["recordings"] if scans else 0
    added = len(recordings) - known + changes["removed"]
    _say(changes, added if scans else 0, cut.changes)
    if added or changes:
        scans.append({"recordings": len(recordings), "added": added, **{what: changes[what] for what in _CHANGES}})

    _refuse_foreign(outdir, cut.shards)
    _remove_surplus(outdir, len(cut.shards))
    for number, shard in enumerate(cut.shards):
        if shard is not None:  # one that is as it was keeps its time too, so that nothing is computed again
            schema = provenance.with_origin(shard.schema, "manifest", shard_size=given.shard_size)
            parquet.write(outdir / f"shard-{number:05d}.parquet", shard.cast(schema))
    parquet.write(outdir / "files.parquet", files.cast(provenance.with_origin(files.schema, "manifest")))
    if changes or not (outdir / CHANGES).exists():
        parquet.write(outdir / CHANGES, cut.changes.cast(provenance.with_origin(schemas.CHANGES, "manifest")))
    write_json(outdir / SCANS, scans)
    roles = Counter(files["role"].to_pylist())
    shards = [outdir / f"shard-{number:05d}.parquet" for number in range(len(cut.shards))]
    content = {
        "n_recordings": len(recordings),
        "n_shards": len(shards),
        "files": {role: roles[role] for role in ("recording", "part", "ignored")},
        "ignored": _by_kind(reasons),
        "layouts": found.layouts,
        "metadata": recordings.column_names[len(schemas.MANIFEST) :],
        "not_on_disk": found.not_on_disk,
        "scans": scans,
        "sha256": provenance.digest(map(provenance.file_sha256, shards)),
    }
    _note_if_other(outdir / FOUND, json.dumps(content, sort_keys=True))
    write_json(outdir / "manifest.json", {**content, **settings.marked("manifest", given, {})})

    logger.info("%d recordings in %d shards", len(recordings), len(shards))
    logger.info("%d files: %s", len(files), ", ".join(f"{roles[role]} {role}" for role in content["files"]))
    if reasons:
        logger.info("ignored: %s", _counts(_by_kind(reasons)))
    problems = _by_kind(Counter(recordings["problem"].drop_null().to_pylist()))
    if problems:
        logger.warning("%d of the recordings cannot be read: %s", sum(problems.values()), _counts(problems))


def _warn_of_ignored(inputs: Sequence[str], files: pa.Table) -> None:
    """Tell of files that were given themselves and are no recordings: somebody took them for some."""
    given = {input_tables.printable(os.path.abspath(text)) for text in inputs if os.path.isfile(text)}  # noqa: PTH100, PTH113
    if not given:
        return
    ignored = files.filter(pc.and_(pc.equal(files["role"], "ignored"), pc.is_in(files["path"], pa.array(list(given)))))
    for path, reason in zip(ignored["path"].to_pylist(), ignored["reason"].to_pylist(), strict=True):
        if reason != TABLE:
            logger.warning("input: %s is ignored: %s", path, reason)


def _note_if_other(path: Path, found: str) -> None:
    """Keep the SHA-256 of what was found in a file whose time says since when it has been so."""
    line = f"{hashlib.sha256(found.encode()).hexdigest()}\n"
    if not path.exists() or path.read_text(encoding="utf-8") != line:
        with whole(path) as temporary:
            temporary.write_text(line, encoding="utf-8")


def _check_inputs(inputs: Sequence[str], before: Sequence[pa.Table], recordings: pa.Table) -> None:
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

    A scan that is killed meanwhile leaves shards without a gap, which `incremental.earlier` reads.
    """
    by_number = {results.number("manifest", path.name): path for path in folder.glob("shard-*")}
    surplus = {number: path for number, path in by_number.items() if number is not None and number >= count}
    for number in sorted(surplus, reverse=True):
        if results.is_written_here(surplus[number], "manifest"):
            surplus[number].unlink()


def _scans(folder: Path) -> list[dict[str, int]]:
    """What each scan so far found; none where that is not known."""
    try:
        content: list[dict[str, int]] = json.loads((folder / SCANS).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return []
    return content


def _say(changes: Counter[str], added: int, which: pa.Table) -> None:
    """Tell what is not as it was at the scan before."""
    if added:
        logger.info("new since the last run: %d", added)
    for what in _CHANGES:
        if changes[what]:
            ids = which.filter(pc.equal(which["change"], what))["record_id"]
            some = ", ".join(ids[:_PAIRS].to_pylist()) + (", ..." if len(ids) > _PAIRS else "")
            logger.warning("%s since the last run: %d (%s)", what, changes[what], some)


def scan(inputs: Sequence[str], ptbxl: str = "records500") -> Scanned:
    """Find the recordings under the inputs, in the inputs' order and by name within each.

    Args:
        inputs: Folders, files, globs, or CSV/Parquet tables with a `path` column.
        ptbxl: Which recordings of PTB-XL are wanted where both are there: "records500" or "records100".

    Returns:
        The recordings, under ids that may still be there twice, and every file, each once.

    Raises:
        EcgpipeError: An input is not there, or is a table that cannot be used; or a file or folder cannot be read now.
    """
    try:
        return _scan(inputs, ptbxl)
    except UnavailableError as error:
        raise _unavailable(error) from error


def _unavailable(error: UnavailableError) -> EcgpipeError:
    return EcgpipeError(
        f"input: {error}; nothing is recorded of it. Give the same command again when its disk or file server answers, "
        "or leave it out of `input`"
    )


def _scan(inputs: Sequence[str], ptbxl: str) -> Scanned:
    account = folders.Account(ptbxl)
    for text in inputs:
        # os.path, not pathlib: a text that the system takes for no path at all is not there either.
        absolute = os.path.abspath(text)  # noqa: PTH100, keeps links
        if os.path.isdir(text):  # noqa: PTH112
            folders.scan(account, absolute)
        elif os.path.isfile(text):  # noqa: PTH113
            _scan_file(account, Path(absolute))
        elif "**" in Path(text).parts:
            _scan_tree(account, text)
        else:
            _scan_matches(account, text)
    account.flush()
    if account.results:
        names = ", ".join(input_tables.printable(folder) for folder in account.results[:_PAIRS])
        more = f" and {len(account.results) - _PAIRS:,} more" if len(account.results) > _PAIRS else ""
        logger.info("left out ecgpipe's own results in %s%s", names, more)
    recordings = _merged([schemas.MANIFEST.empty_table(), *account.recordings])
    files = pa.concat_tables([schemas.FILES.empty_table(), *account.files])
    return Scanned(recordings, _once(files), account.layouts, account.not_on_disk)


def _scan_file(account: folders.Account, path: Path) -> None:
    """A file given as an input: a table of recordings, or perhaps one itself."""
    if path.suffix.lower() not in input_tables.SUFFIXES:
        folders.file(account, str(path), path.name)
        return
    try:
        head = input_tables.head_of(str(path))
        if "path" not in _columns(str(path), head):
            folders.file(account, str(path), path.name)
            return
        found = input_tables.recordings(path, input_tables.read(path, texts=input_tables.CONSUMED))
    except (OSError, ValueError, pa.ArrowException) as error:
        says = str(error) if type(error) is ValueError else f"cannot be read as a table: {error}"
        raise EcgpipeError(f"input: {input_tables.printable(str(path))} {says}") from error
    account.flush()
    account.recordings.append(found)
    n = len(found)
    columns = [found["path"], pa.array(["recording"] * n, pa.string()), found["record_id"], pa.nulls(n, pa.string())]
    files = pa.table(columns, schema=schemas.FILES)
    account.files.append(files.filter(pc.is_valid(files["path"])))
    account.ignore(str(path), TABLE)
    account.progress.add(n)


def _columns(path: str, head: bytes) -> list[str]:
    """The names of a table's columns; none where it cannot be read."""
    if not head.startswith(b"PAR1"):
        # A path with a NUL in it makes a row with a problem, not a table that is none.
        return detect.csv_columns(head if detect.text_of(head) is not None else head.replace(b"\0", b"?"))
    try:
        return list(pq.read_schema(path).names)
    except (OSError, ValueError, pa.ArrowException):
        return []


def _scan_matches(account: folders.Account, pattern: str) -> None:
    """The folders that a glob matches, and the files."""
    matches = [Path(match) for match in sorted(glob.glob(pattern))]  # noqa: PTH207, Path.glob takes no absolute pattern
    if not matches:
        raise _not_there(pattern)
    root = _fixed_part(pattern)
    beside: dict[Path, set[str]] = {}
    for match in matches:
        if not os.path.isdir(match):  # noqa: PTH112, False also where one may not look
            beside.setdefault(match.parent, set()).add(match.relative_to(root).as_posix())
    for match in matches:
        folder = match if os.path.isdir(match) else match.parent  # noqa: PTH112
        below = folder.relative_to(root).as_posix()
        below = "" if below == "." else f"{below}/"
        absolute = os.path.abspath(folder)  # noqa: PTH100, keeps links
        if folder is match:
            folders.scan(account, absolute, below)
        elif match.parent in beside:
            # All of a folder at once: whose parts its files are shows only together.
            folders.scan(account, absolute, below, beside.pop(match.parent).__contains__, deep=False)


def _scan_tree(account: folders.Account, pattern: str) -> None:
    """The files that a glob with ** matches, by going through the folder: Python's own goes round with its links."""
    root = _fixed_part(pattern)
    parts = Path(pattern).parts[len(root.parts) :]
    before = account.progress.done
    if os.path.isdir(root):  # noqa: PTH112
        absolute = os.path.abspath(root)  # noqa: PTH100, keeps links
        folders.scan(account, absolute, "", lambda relative: _matches(parts, relative.split("/")))
    if account.progress.done == before:
        raise _not_there(pattern)


def _matches(pattern: Sequence[str], names: Sequence[str]) -> bool:
    """Whether a path's names match a glob's, or those of a folder that it lies in do."""
    if not pattern:
        return True
    if pattern[0] == "**":
        return any(_matches(pattern[1:], names[skipped:]) for skipped in range(len(names)))
    return bool(names) and fnmatchcase(names[0], pattern[0]) and _matches(pattern[1:], names[1:])


def _fixed_part(pattern: str) -> Path:
    """The folder of a glob above its first wildcard, which record ids are relative to."""
    parts = Path(pattern).parts
    fixed = next((i for i, part in enumerate(parts) if glob.has_magic(part)), len(parts) - 1)
    return Path(*parts[:fixed])


def _not_there(text: str) -> EcgpipeError:
    return EcgpipeError(f"input: {text!r} is not a file or folder, and no pattern that matches any; check the path")


def _merged(found: list[pa.Table]) -> pa.Table:
    """All rows, with the columns of all; a column whose types do not go together becomes text."""
    fields: dict[str, list[pa.DataType]] = {}
    for table in found:
        for field in table.schema:
            plain = field.type.value_type if pa.types.is_dictionary(field.type) else field.type
            fields.setdefault(field.name, []).append(plain)
    types = {name: _common(types) for name, types in fields.items()}
    try:
        parts = [_cast(table, types) for table in found]
    except pa.ArrowException:  # e.g. an integer that no float is exactly
        types |= {
            name: pa.string() for name in types.keys() - set(schemas.MANIFEST.names) if len(set(fields[name])) > 1
        }
        parts = [_cast(table, types) for table in found]
    return pa.concat_tables(parts, promote_options="default").select(list(types))


def _common(types: list[pa.DataType]) -> pa.DataType:
    single = [pa.schema([("", each)]) for each in dict.fromkeys(types)]
    try:
        common = pa.unify_schemas(single, promote_options="permissive").field(0).type
    except pa.ArrowException:
        return pa.string()
    return pa.string() if pa.types.is_null(common) else common


def _cast(table: pa.Table, types: dict[str, pa.DataType]) -> pa.Table:
    columns = {}
    for name, column in zip(table.column_names, table.columns, strict=True):
        if pa.types.is_string(types[name]) and pa.types.is_nested(column.type):
            texts = [None if value is None else str(value) for value in column.to_pylist()]
            columns[name] = pa.array(texts, pa.string())
        else:
            columns[name] = column.cast(types[name])
    return pa.table(columns)


def _once(files: pa.Table) -> pa.Table:
    """Each file once, also where several inputs have it: as a recording before as a part, as that before ignored."""
    if pc.count_distinct(files["path"]).as_py() == len(files):
        return files
    frame = files.to_pandas()
    order = frame["role"].map({"recording": 0, "part": 1, "ignored": 2}).sort_values(kind="stable").index
    kept = frame.loc[order].drop_duplicates("path").index.sort_values()
    return files.take(pa.array(kept))


def _check_ids(recordings: pa.Table) -> None:
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


def _by_kind(reasons: Counter[str]) -> dict[str, int]:
    """How often each reason was given, without the particulars of the files, the most frequent first."""
    kinds: Counter[str] = Counter()
    for reason, count in sorted(reasons.items()):
        kinds[schemas.kind(reason)] += count
    return dict(kinds.most_common())


def _counts(kinds: dict[str, int]) -> str:
    return ", ".join(f"{count} {kind}" for kind, count in kinds.items())


def _nothing_found(inputs: Sequence[str], reasons: Counter[str]) -> str:
    endings, formats = ", ".join(sorted(detect.SUFFIXES)), ", ".join(FORMATS)
    reads = f"ecgpipe reads {endings}, and by content {formats}"
    if len(inputs) == 1 and os.path.isfile(inputs[0]):  # noqa: PTH113
        return (
            f"input: {inputs[0]!r} holds no recordings: {_looks_like(inputs[0])}; {reads}, and takes a CSV or Parquet "
            "table of recordings by its column `path`"
        )
    seen = _counts(dict(Counter(dict(sorted(reasons.items()))).most_common(8)))
    what = f"{reasons.total()} other files ({seen})" if reasons else "no files at all"
    return f"input: no recordings in {', '.join(map(repr, inputs))}, {what}; {reads}"


def _looks_like(path: str) -> str:
    """What a file given as the only input is, in words."""
    head = input_tables.head_of(path)
    names = _columns(path, head)
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
