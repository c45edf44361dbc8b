"""Find the recordings under the inputs and cut them into shards: one row per recording, none of them opened."""

import argparse
import glob
import json
import logging
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from ecgpipe import readers, tables
from ecgpipe.atomic import whole
from ecgpipe.errors import EcgpipeError

logger = logging.getLogger(__name__)

TABLE_SUFFIXES = (".csv", ".parquet")


class Found(NamedTuple):
    """A recording that the scan found."""

    record_id: str
    path: str  # absolute
    format: str  # a key of readers.FORMATS


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `python -m ecgpipe manifest`."""
    parser.add_argument(
        "--input", nargs="+", required=True, help="folders, files, globs, or CSV/Parquet tables with a `path` column"
    )
    parser.add_argument(
        "--outdir", type=Path, required=True, help="the folder to write manifest.json and the shards to"
    )
    parser.add_argument("--shard-size", type=int, default=1000, help="recordings per shard (default %(default)s)")


def run(args: argparse.Namespace) -> None:
    """Scan the inputs and write `manifest.json` and one `shard-*.parquet` per shard."""
    ignored: Counter[str] = Counter()
    recordings = _unique(scan(args.input, ignored))
    args.outdir.mkdir(parents=True, exist_ok=True)
    n_shards = n_recordings = 0
    while shard := list(islice(recordings, args.shard_size)):
        table = pa.Table.from_pylist([found._asdict() for found in shard], schema=tables.MANIFEST)
        tables.write(args.outdir / f"shard-{n_shards:05d}.parquet", table)
        n_shards += 1
        n_recordings += len(shard)
    if not n_recordings:
        raise EcgpipeError(_nothing_found(args.input, ignored))
    logger.info("%d recordings in %d shards", n_recordings, n_shards)
    if ignored:
        logger.info("%d other files ignored: %s", ignored.total(), _endings(ignored))
    content = {"n_recordings": n_recordings, "n_shards": n_shards, "ignored": dict(sorted(ignored.items()))}
    with whole(args.outdir / "manifest.json") as temporary:
        temporary.write_text(json.dumps(content, indent=2) + "\n")


def scan(inputs: Sequence[str], ignored: Counter[str]) -> Iterator[Found]:
    """Yield the recordings under the inputs, in the inputs' order and by name within each.

    Args:
        inputs: Folders, files, globs, or tables with a `path` column.
        ignored: Counts, by ending, the files that are no recording nor part of one.

    Yields:
        Each recording, with an id below its input folder.

    Raises:
        EcgpipeError: An input is not there.
    """
    for text in inputs:
        path = Path(text)
        if path.is_dir():
            yield from _scan_folder(path, PurePosixPath(), ignored, frozenset())
        elif path.is_file() and path.suffix.lower() in TABLE_SUFFIXES:
            yield from _scan_table(path)
        elif path.is_file():
            yield from _scan_file(path, PurePosixPath(path.name), ignored)
        else:
            matches = sorted(glob.glob(text, recursive=True))  # noqa: PTH207, Path.glob takes no absolute pattern
            if not matches:
                raise EcgpipeError(
                    f"input: {text!r} is not a file or folder, and no pattern that matches any; check the path"
                )
            root = _fixed_part(text)
            headers = {Path(match).with_suffix("") for match in matches if match.endswith(".hea")}
            for match in map(Path, matches):
                if match.is_dir() and "**" not in text:  # with ** its content matches too
                    below = PurePosixPath(match.relative_to(root).as_posix())
                    yield from _scan_folder(match, below, ignored, frozenset())
                elif match.is_file() and (match.suffix == ".hea" or match.with_suffix("") not in headers):
                    yield from _scan_file(match, PurePosixPath(match.relative_to(root).as_posix()), ignored)


def _scan_folder(
    folder: Path, below: PurePosixPath, ignored: Counter[str], ancestors: frozenset[tuple[int, int]]
) -> Iterator[Found]:
    """Depth first, by name. Links to folders are followed, but not back into a folder that we come from."""
    try:
        status = folder.stat()
        identity = (status.st_dev, status.st_ino)
        if identity in ancestors:
            logger.warning("%s leads back to a folder above it: not followed", folder)
            return
        with os.scandir(folder) as entries:
            visible = sorted((e for e in entries if not e.name.startswith(".")), key=lambda entry: entry.name)
    except OSError as error:
        raise EcgpipeError(
            f"input: cannot look into the folder {str(folder)!r}: {error.strerror}; see to it, or give others"
        ) from error
    headers = {entry.name[:-4] for entry in visible if entry.name.endswith(".hea")}
    for entry in visible:
        relative = below / entry.name
        # DirEntry.is_dir follows a link too, but fails on one that leads to itself.
        if entry.is_dir(follow_symlinks=False) or (entry.is_symlink() and Path(entry.path).is_dir()):
            yield from _scan_folder(Path(entry.path), relative, ignored, ancestors | {identity})
        elif not entry.name.endswith(".hea") and relative.stem in headers:
            continue  # a signal or annotation file of a WFDB record, which its header stands for
        else:
            yield from _scan_file(Path(entry.path), relative, ignored)


def _scan_file(path: Path, relative: PurePosixPath, ignored: Counter[str]) -> Iterator[Found]:
    format_name = readers.SUFFIXES.get(path.suffix.lower())
    if format_name is None:
        ignored[path.suffix.lower().encode(errors="replace").decode()] += 1
        return
    absolute = os.path.abspath(path)  # noqa: PTH100, keeps links
    try:
        absolute.encode()
    except UnicodeEncodeError as error:
        raise EcgpipeError(f"input: the name of {os.fsencode(absolute)!r} is not UTF-8; rename it") from error
    yield Found(str(relative.with_suffix("")), absolute, format_name)


def _scan_table(table_path: Path) -> Iterator[Found]:
    """The rows of a table: `path`, relative to the table's folder or absolute, and `record_id` if there is one."""
    try:
        table = pq.read_table(table_path) if table_path.suffix.lower() == ".parquet" else _read_csv(table_path)
        names = table.column_names
        columns = {name: table[name].cast(pa.string()).to_pylist() for name in ("path", "record_id") if name in names}
    except (OSError, KeyError, ValueError, pa.ArrowException) as error:
        raise EcgpipeError(f"input: {table_path} cannot be read as a table: {error}") from error
    if "path" not in columns:
        raise EcgpipeError(
            f"input: {table_path} has no column `path`, only {', '.join(names)}; rename the one with the files"
        )
    paths = columns["path"]
    ids = columns.get("record_id", [None] * len(paths))
    for row, (path, record_id) in enumerate(zip(paths, ids, strict=True), start=1):
        if not path:
            raise EcgpipeError(f"input: {table_path}, row {row}: `path` is empty")
        suffix = PurePosixPath(path).suffix.lower()
        if suffix not in readers.SUFFIXES:
            raise EcgpipeError(
                f"input: {table_path}, row {row}: {path!r} is in no known format; known are {_known_formats()}"
            )
        default_id = PurePosixPath(path).with_suffix("").as_posix().lstrip("/")
        absolute = os.path.abspath(table_path.parent / path)  # noqa: PTH100, keeps links
        yield Found(record_id or default_id, absolute, readers.SUFFIXES[suffix])


def _read_csv(path: Path) -> pa.Table:
    """A CSV whose ids stay as they are written: 007 is not 7."""
    return pa.csv.read_csv(
        path,
        parse_options=pa.csv.ParseOptions(newlines_in_values=True),
        convert_options=pa.csv.ConvertOptions(column_types={"path": pa.string(), "record_id": pa.string()}),
    )


def _unique(recordings: Iterator[Found]) -> Iterator[Found]:
    paths: dict[str, str] = {}
    for found in recordings:
        if found.record_id in paths:
            raise EcgpipeError(
                f"input: two recordings have the id {found.record_id!r}: {paths[found.record_id]} and {found.path}; "
                "rename one, leave one out, or give a table with a `record_id` column"
            )
        paths[found.record_id] = found.path
        yield found


def _fixed_part(pattern: str) -> Path:
    """The folder of a glob above its first wildcard, which record ids are relative to."""
    parts = Path(pattern).parts
    fixed = next((i for i, part in enumerate(parts) if glob.has_magic(part)), len(parts) - 1)
    return Path(*parts[:fixed])


def _known_formats() -> str:
    return ", ".join(sorted(readers.SUFFIXES))


def _endings(ignored: Counter[str]) -> str:
    return ", ".join(f"{count} {ending or 'without ending'}" for ending, count in ignored.most_common(8))


def _nothing_found(inputs: Sequence[str], ignored: Counter[str]) -> str:
    what = f"{ignored.total()} files of other kinds ({_endings(ignored)})" if ignored else "no files at all"
    return f"input: no recordings in {', '.join(map(repr, inputs))}, {what}; ecgpipe reads {_known_formats()}"
