"""Find the recordings under the inputs: folders, files, globs and tables, each file there accounted for once.

No signal is read. Files that hold many recordings are opened for their list, others at most for their first bytes.
"""

import glob
import logging
import os
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ecgpipe.core import schemas
from ecgpipe.core.errors import EcgpipeError
from ecgpipe.inputs import folders, input_tables
from ecgpipe.readers import UnavailableError, detect

logger = logging.getLogger(__name__)

# Folders of ecgpipe's own results that a message names.
_FOLDERS_NAMED = 5

# Why a file that lists recordings is itself ignored.
TABLE = "the table of the recordings"


class Scanned(NamedTuple):
    """What the inputs hold."""

    recordings: pa.Table  # schemas.MANIFEST, then the metadata's columns
    files: pa.Table  # schemas.FILES
    layouts: list[str]  # the datasets that folders were recognised as
    not_on_disk: int  # recordings that those datasets' tables list, and that are not there


def scan_inputs(inputs: Sequence[str], ptbxl: str = "records500") -> Scanned:
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
        raise unavailable(error) from error


def unavailable(error: UnavailableError) -> EcgpipeError:
    """The error for a file or folder that cannot be read now, e.g. because its server does not answer."""
    return EcgpipeError(
        f"input: {error}; nothing is recorded of it. Give the same command again when its disk or file server answers, "
        "or leave it out of `input`"
    )


def _scan(inputs: Sequence[str], ptbxl: str) -> Scanned:
    file_list = folders.FileList(ptbxl)
    for text in inputs:
        # os.path, not pathlib: a text that the system takes for no path at all is not there either.
        absolute = os.path.abspath(text)  # noqa: PTH100, keeps links
        if os.path.isdir(text):  # noqa: PTH112
            folders.scan_folder(file_list, absolute)
        elif os.path.isfile(text):  # noqa: PTH113
            _scan_file(file_list, Path(absolute))
        elif "**" in Path(text).parts:
            _scan_tree(file_list, text)
        else:
            _scan_matches(file_list, text)
    file_list.flush()
    if file_list.results:
        names = ", ".join(input_tables.escape_name(folder) for folder in file_list.results[:_FOLDERS_NAMED])
        more = (
            f" and {len(file_list.results) - _FOLDERS_NAMED:,} more" if len(file_list.results) > _FOLDERS_NAMED else ""
        )
        logger.info("left out ecgpipe's own results in %s%s", names, more)
    recordings = _merge([schemas.MANIFEST.empty_table(), *file_list.recordings])
    files = pa.concat_tables([schemas.FILES.empty_table(), *file_list.files])
    return Scanned(recordings, _once(files), file_list.layouts, file_list.not_on_disk)


def _scan_file(file_list: folders.FileList, path: Path) -> None:
    """A file given as an input: a table of recordings, or perhaps one itself."""
    if path.suffix.lower() not in input_tables.SUFFIXES:
        folders.add_file(file_list, str(path), path.name)
        return
    try:
        head = input_tables.read_head(str(path))
        if "path" not in columns_of_table(str(path), head):
            folders.add_file(file_list, str(path), path.name)
            return
        listed = input_tables.list_recordings(path, input_tables.read_table(path, texts=input_tables.CONSUMED))
    except (OSError, ValueError, pa.ArrowException) as error:
        says = str(error) if type(error) is ValueError else f"cannot be read as a table: {error}"
        raise EcgpipeError(f"input: {input_tables.escape_name(str(path))} {says}") from error
    file_list.flush()
    file_list.recordings.append(listed)
    n = len(listed)
    columns = [listed["path"], pa.array(["recording"] * n, pa.string()), listed["record_id"], pa.nulls(n, pa.string())]
    files = pa.table(columns, schema=schemas.FILES)
    file_list.files.append(files.filter(pc.is_valid(files["path"])))
    file_list.ignore(str(path), TABLE)
    file_list.progress.add(n)


def columns_of_table(path: str, head: bytes) -> list[str]:
    """The names of a table's columns; none where it cannot be read."""
    if not head.startswith(b"PAR1"):
        # A path with a NUL in it makes a row with a problem, not a table that is none.
        return detect.csv_columns(head if detect.text_of(head) is not None else head.replace(b"\0", b"?"))
    try:
        return list(pq.read_schema(path).names)
    except (OSError, ValueError, pa.ArrowException):
        return []


def _scan_matches(file_list: folders.FileList, pattern: str) -> None:
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
            folders.scan_folder(file_list, absolute, below)
        elif match.parent in beside:
            # All of a folder at once: whose parts its files are shows only together.
            folders.scan_folder(file_list, absolute, below, beside.pop(match.parent).__contains__, deep=False)


def _scan_tree(file_list: folders.FileList, pattern: str) -> None:
    """The files that a glob with ** matches, by going through the folder: Python's own goes round with its links."""
    root = _fixed_part(pattern)
    parts = Path(pattern).parts[len(root.parts) :]
    before = file_list.progress.done
    if os.path.isdir(root):  # noqa: PTH112
        absolute = os.path.abspath(root)  # noqa: PTH100, keeps links
        folders.scan_folder(file_list, absolute, "", lambda relative: _matches(parts, relative.split("/")))
    if file_list.progress.done == before:
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


def _merge(tables: list[pa.Table]) -> pa.Table:
    """All rows, with the columns of all; a column whose types do not go together becomes text."""
    fields: dict[str, list[pa.DataType]] = {}
    for table in tables:
        for field in table.schema:
            plain = field.type.value_type if pa.types.is_dictionary(field.type) else field.type
            fields.setdefault(field.name, []).append(plain)
    types = {name: _common_type(types) for name, types in fields.items()}
    try:
        parts = [_cast(table, types) for table in tables]
    except pa.ArrowException:  # e.g. an integer that no float is exactly
        types |= {
            name: pa.string() for name in types.keys() - set(schemas.MANIFEST.names) if len(set(fields[name])) > 1
        }
        parts = [_cast(table, types) for table in tables]
    return pa.concat_tables(parts, promote_options="default").select(list(types))


def _common_type(types: list[pa.DataType]) -> pa.DataType:
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
