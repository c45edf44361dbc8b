"""Scan folders: every file is a recording, a part of one, or ignored for a stated reason."""

import errno
import logging
import os
import stat
from collections.abc import Callable, Iterator
from operator import attrgetter
from pathlib import Path

import pyarrow as pa

from ecgpipe import readers
from ecgpipe.core import logs, results, schemas
from ecgpipe.core.errors import EcgpipeError
from ecgpipe.inputs import datasets, input_tables
from ecgpipe.readers import detect, wfdb
from ecgpipe.readers.temporary_errors import MOMENTARY, UnavailableError, patiently

logger = logging.getLogger(__name__)

# Rows that are held as Python objects before they become an Arrow table.
_ROWS = 10_000

_SIGNALS = ("dat", "mat")
# Beside a header of the same name these may be recordings of their own, which then have the same id.
_OWN = {*(suffix[1:] for suffix in detect.SUFFIXES), "xml", "csv", "tsv", "parquet"} - {"mat"}

# What is said of a folder that was there a moment ago, when its disk or share is not any more. Other such errors are
# those of the moment, after which the scan ends too.
_GONE = {errno.ENOENT}

_FOLDER, _FILE = stat.S_IFDIR, stat.S_IFREG
_KINDS = {stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket", stat.S_IFBLK: "a device", stat.S_IFCHR: "a device"}


class FileList:
    """The recordings and files that a scan has found so far, kept as columns.

    Args:
        ptbxl: As of `datasets.recognise`.
    """

    def __init__(self, ptbxl: str) -> None:
        self.ptbxl = ptbxl
        self.recordings: list[pa.Table] = []  # the columns of schemas.MANIFEST, and metadata
        self.files: list[pa.Table] = []
        self.layouts: list[str] = []
        self.not_on_disk = 0
        self.progress = logs.Progress("scan", None, "files")
        self.in_layout = False
        self.results: list[str] = []  # folders in which ecgpipe's own results were left out
        self.roots: dict[tuple[int, int], str] = {}  # by device and inode: the input, and where its links led to
        self._rows: dict[str, list[object]] = {name: [] for name in schemas.MANIFEST.names[:5]}
        self._facts: list[datasets.Facts | None] = []
        self._files: dict[str, list[str | None]] = {name: [] for name in schemas.FILES.names}

    def recording(
        self,
        record_id: str,
        path: str,
        format_name: str | None,
        row: int | None = None,
        problem: str | None = None,
        facts: datasets.Facts | None = None,
    ) -> None:
        """Add a recording, or a file with a problem; `facts` are what its header states about the patient."""
        shown, record_id = input_tables.escape_name(path), input_tables.escape_name(record_id)
        if shown != path:
            problem = f"the name is not UTF-8; rename it ({record_id})"
        values = (
            record_id,
            shown,
            None if problem else format_name,
            row,
            problem and input_tables.escape_name(problem),
        )
        for column, value in zip(self._rows.values(), values, strict=True):
            column.append(value)
        self._facts.append(facts)
        if len(self._facts) >= _ROWS:
            self.flush()

    def file(self, path: str, role: str, record_id: str | None = None, reason: str | None = None) -> None:
        """Add a file, or a folder that is not scanned, whose path ends in a slash."""
        values = (path, role, record_id, reason)
        for column, value in zip(self._files.values(), values, strict=True):
            column.append(value and input_tables.escape_name(value))
        self.progress.add(1)
        if len(self._files["path"]) >= _ROWS:
            self.flush()

    def ignore(self, path: str, reason: str) -> None:
        """Add a file that is neither a recording nor a part of one."""
        self.file(path, "ignored", reason=reason)

    def unreadable(self, record_id: str, path: str, problem: str) -> None:
        """Add an unreadable file or folder as a recording with a problem."""
        self.recording(record_id, path, None, problem=problem)
        self.file(path, "recording", record_id)

    def flush(self) -> None:
        """Convert the rows added since the last call to Arrow tables."""
        if self._facts:
            n = len(self._facts)
            nulls = {field.name: pa.nulls(n, field.type) for field in list(schemas.MANIFEST)[5:]}
            table = pa.table(self._rows | nulls, schema=schemas.MANIFEST)
            if any(self._facts):
                for name, column in datasets.build_challenge_columns(self._facts).items():
                    table = table.append_column(name, column)
            self.recordings.append(table)
        if self._files["path"]:
            self.files.append(pa.table(self._files, schema=schemas.FILES))
        for column in (*self._rows.values(), self._facts, *self._files.values()):
            column.clear()  # type: ignore[attr-defined]


def scan_folder(
    file_list: FileList, root: str, below: str = "", wanted: Callable[[str], bool] | None = None, deep: bool = True
) -> None:
    """Add all files in a folder, depth first and by name.

    Links to folders are followed, also out of the folder. No folder is scanned twice: neither one above the link, nor
    one within the input, nor one that another link has led to. ecgpipe's own files are left out: outdir and results of
    earlier runs may lie in the input.

    Args:
        file_list: What is added to.
        root: The folder's absolute path.
        below: Prefix of the paths that name recordings: "" or a path that ends in a slash.
        wanted: Tests a file's path, `below` included, for being an input; None: every file is.
        deep: Whether to scan subfolders.

    Raises:
        EcgpipeError: The folder itself cannot be read.
    """
    try:
        status = os.stat(root)  # noqa: PTH116
        os.scandir(root).close()
    except OSError as error:
        raise EcgpipeError(
            f"input: cannot read the folder {root!r}: {error.strerror}; check its permissions, or give another input"
        ) from error
    file_list.roots = {(status.st_dev, status.st_ino): os.path.realpath(root)}
    # A generator per folder yields its subfolders. Recursion would exceed Python's stack on deep folder trees.
    parent, name = os.path.split(root)
    ours = name if name in results.FOLDERS and results.is_folder_of_results(parent) else None
    frames = [_add_folder(file_list, root, below, None, ours, wanted, deep)]
    while frames:
        inner = next(frames[-1], None)
        if inner is None:
            frames.pop()
        else:
            frames.append(_add_folder(file_list, *inner, wanted, deep))


def add_file(file_list: FileList, path: str, relative: str, facts: datasets.Facts | None = None) -> None:
    """Add one file, by its content.

    Args:
        file_list: What is added to.
        path: The file's absolute path.
        relative: The path that names its recording, with the file extension.
        facts: As `Account.recording`.
    """
    folder, slash, name = relative.rpartition("/")
    stem, dot, suffix = name.rpartition(".")
    record_id = f"{folder}{slash}{stem}" if stem and suffix else relative
    known = detect.SUFFIXES.get(f"{dot}{suffix}".lower())
    if known == "wfdb":
        file_list.recording(record_id, path, known, facts=facts)
        file_list.file(path, "recording", record_id)
        return
    try:
        head = input_tables.read_head(path)
    except OSError as error:
        file_list.unreadable(record_id if known else relative, path, input_tables.describe_open_error(path, error))
        return
    format_name, problem = input_tables.detect_format(path, head)
    if format_name is not None:
        _add_content(file_list, path, record_id, format_name)
    elif problem is not None:
        file_list.unreadable(record_id, path, problem)
    else:
        file_list.ignore(path, detect.what_else(Path(name), head))


def _add_content(file_list: FileList, path: str, record_id: str, format_name: str) -> None:
    """Add a file of a known format, which may hold many recordings."""
    # Checked here, so that the next scan marks the file as changed once the package is installed.
    if missing := readers.missing_package(format_name):
        file_list.unreadable(record_id, path, missing)
        return
    try:
        # A name that is not UTF-8 is a problem in any case.
        contents = readers.contents(Path(path), format_name) if input_tables.escape_name(path) == path else None
    except UnavailableError:  # the scan ends, as `scan.scan_inputs` says
        raise
    except readers.UnreadableError as error:
        file_list.unreadable(record_id, path, str(error))
        return
    if contents is None:
        file_list.recording(record_id, path, format_name)
        file_list.file(path, "recording", record_id)
        return
    if not contents:
        file_list.unreadable(record_id, path, "the file holds no recordings")
        return
    names = [input_tables.escape_name(content.name) for content in contents]
    if len(set(names)) < len(names):
        logger.warning("%s calls several recordings alike; they are named by their rows", path)
        names = [str(content.row) for content in contents]
    for content, name in zip(contents, names, strict=True):
        file_list.recording(f"{record_id}/{name}", path, format_name, content.row)
    file_list.file(path, "recording", f"{record_id}/")


def _add_folder(
    file_list: FileList,
    folder: str,
    below: str,
    reason: str | None,
    ours: str | None,
    wanted: Callable[[str], bool] | None,
    deep: bool,
) -> Iterator[tuple[str, str, str | None, str | None]]:
    """Add a folder's files; yield each subfolder, the prefix of its names, why it is ignored (or None), and `ours`.

    `ours` is the name of the folder of results that this is or lies in; None for other folders.
    """
    entries = _list_folder(file_list, folder, below)
    if entries is None:
        return
    if ours is None and results.is_folder_of_results(folder, {entry.name for entry in entries}):
        ours = ""
        file_list.results.append(folder)
        file_list.ignore(f"{folder}/", f"folder of ecgpipe's results ({os.path.basename(folder)})")  # noqa: PTH119
    if ours is not None:
        entries = [entry for entry in entries if not results.is_name_of_ours(ours, entry.name)]
    modes = [_find_kind(entry) for entry in entries]
    if wanted is not None:
        keep = [deep if mode == _FOLDER else wanted(below + e.name) for e, mode in zip(entries, modes, strict=True)]
        entries = [entry for entry, kept in zip(entries, keep, strict=True) if kept]
        modes = [mode for mode, kept in zip(modes, keep, strict=True) if kept]

    names = {e.name for e, mode in zip(entries, modes, strict=True) if mode == _FILE and e.name[0] != "."}
    layout = None
    if not file_list.in_layout and reason is None:
        layout = datasets.recognise(folder, {entry.name for entry in entries}, file_list.ptbxl)
    if layout is not None:
        file_list.flush()
        file_list.in_layout, start = True, len(file_list.recordings)
    parts = _find_parts(folder, sorted(names)) if reason is None else {}
    challenge = not file_list.in_layout and _is_challenge(folder, names)
    about = f"metadata of {layout.name}" if layout else f"metadata of {datasets.CHALLENGE}"
    tables_here = layout.tables if layout else {"RECORDS"} if challenge else ()

    for entry, mode in zip(entries, modes, strict=True):
        name, path = entry.name, entry.path
        if name[0] == ".":
            file_list.ignore(f"{path}/" if mode == _FOLDER else path, "hidden")
        elif mode == _FOLDER:
            exclusion = _why_not_entered(file_list, entry)
            if exclusion is not None:
                file_list.ignore(f"{path}/", exclusion)
            else:
                exclusion = reason or (layout.excluded.get(name) if layout else None)
                yield (
                    path,
                    f"{below}{name}/",
                    exclusion,
                    name if ours == "" and name in results.FOLDERS else ours or None,
                )
        elif mode < 0:
            _add_lost(file_list, path, below + name, -mode)
        elif mode != _FILE:
            file_list.ignore(path, f"not a regular file ({_KINDS.get(mode, 'of an unknown kind')})")
        elif reason is not None:
            file_list.ignore(path, reason)
        elif name in parts:
            file_list.file(path, "part", below + parts[name])
        elif name in tables_here:
            file_list.ignore(path, about)
        else:
            facts = datasets.read_challenge_header(path) if challenge and name.endswith(".hea") else None
            add_file(file_list, path, below + name, facts)

    if challenge and datasets.CHALLENGE not in file_list.layouts:
        file_list.layouts.append(datasets.CHALLENGE)
    if layout is not None:
        _join_metadata(file_list, folder, below, layout, start)


def _list_folder(file_list: FileList, folder: str, below: str) -> list[os.DirEntry[str]] | None:
    """List a folder; if it cannot be read, add it as unreadable and return None."""
    try:
        return patiently(lambda: _sort_entries(folder), folder)
    except OSError as error:
        if error.errno in _GONE:
            raise EcgpipeError(
                f"input: the folder {folder!r} disappeared during the scan ({error.strerror}); restore it and run again"
            ) from error
        name = input_tables.escape_name(folder.rpartition("/")[2])
        what = f"no permission to look into a folder ({name})"
        if not isinstance(error, PermissionError):
            what = f"a folder cannot be looked into ({name}: {error.strerror})"
        file_list.unreadable(below, f"{folder}/", what)
        return None


def _join_metadata(file_list: FileList, folder: str, below: str, layout: datasets.Layout, start: int) -> None:
    """Join a dataset's own tables to the recordings that were found in it, those from `start` on."""
    file_list.flush()
    file_list.in_layout = False
    inside = pa.concat_tables([schemas.MANIFEST.empty_table(), *file_list.recordings[start:]])
    inside, missing = datasets.join_metadata(inside, input_tables.escape_name(below), layout)
    file_list.recordings[start:] = [inside]
    file_list.layouts += [] if layout.name in file_list.layouts else [layout.name]
    file_list.not_on_disk += missing
    logger.info("%s is %s, recordings: %d", input_tables.escape_name(folder), layout.name, len(inside))
    if missing:
        logger.warning("recordings that its table lists and that are not there: %d", missing)


def _sort_entries(folder: str) -> list[os.DirEntry[str]]:
    """List a folder by name."""
    with os.scandir(folder) as entries:
        return sorted(entries, key=attrgetter("name"))


def _find_kind(entry: os.DirEntry[str]) -> int:
    """The kind of a file, links followed; or minus the error's number where a link cannot be followed."""
    try:
        if not entry.is_symlink():
            if entry.is_dir(follow_symlinks=False):
                return _FOLDER
            if entry.is_file(follow_symlinks=False):
                return _FILE
        return stat.S_IFMT(os.stat(entry.path).st_mode)  # noqa: PTH116
    except OSError as error:
        if error.errno in MOMENTARY:
            status = patiently(lambda: os.stat(entry.path), entry.path)  # noqa: PTH116
            return stat.S_IFMT(status.st_mode)
        return -(error.errno or 1)


def _add_lost(file_list: FileList, path: str, relative: str, number: int) -> None:
    """Add a link that cannot be followed, or a file that has gone since its name was read."""
    error = OSError(number, os.strerror(number))  # of the kind that belongs to the number
    if isinstance(error, FileNotFoundError):
        file_list.ignore(path, "a link to nothing")
    elif isinstance(error, PermissionError):
        file_list.unreadable(relative, path, input_tables.describe_open_error(path, error))
    else:
        file_list.ignore(path, f"a link that leads nowhere ({error.strerror})")


def _why_not_entered(file_list: FileList, entry: os.DirEntry[str]) -> str | None:
    """The reason why a folder is not scanned here; None if it is. Remembers the targets of links."""
    if not entry.is_symlink():
        if len(file_list.roots) > 1 and any(entry.inode() == inode for _, inode in file_list.roots):
            status = entry.stat(follow_symlinks=False)
            known = file_list.roots.get((status.st_dev, status.st_ino))
            return known and f"a folder that a link has led to already ({input_tables.escape_name(known)})"
        return None
    real = os.path.realpath(entry.path)
    if _is_within(os.path.realpath(os.path.dirname(entry.path)), real):  # noqa: PTH120
        return "a link back to a folder above it"
    first, *_ = file_list.roots.values()
    if _is_within(first, real):
        return f"a link to a folder that holds the input ({input_tables.escape_name(real)})"
    for root in file_list.roots.values():
        # What is hidden in the input is gone through only where a link leads to it.
        if _is_within(real, root) and "/." not in real[len(root) :]:
            return f"a link to a folder that is gone through anyway ({input_tables.escape_name(real)})"
    status = patiently(lambda: os.stat(real), real)  # noqa: PTH116
    file_list.roots[status.st_dev, status.st_ino] = real
    return None


def _is_within(path: str, folder: str) -> bool:
    return path == folder or path.startswith(f"{folder.rstrip('/')}/")


def _is_challenge(folder: str, names: set[str]) -> bool:
    """Whether a folder has the headers and .mat signals of a PhysioNet Challenge."""
    pairs = (name for name in sorted(names) if name.endswith(".hea") and f"{name[:-4]}.mat" in names)
    return any(datasets.read_challenge_header(f"{folder}/{name}") for name in pairs)


def _find_parts(folder: str, names: list[str]) -> dict[str, str]:
    """Find the files that belong to a WFDB record, each with the name of its header without the file extension.

    Headers are opened only in a folder whose file names do not show to which record each signal file belongs.
    """
    headers = {name[:-4]: name for name in names if name[-4:].lower() == ".hea"}
    if not headers:
        return {}
    beside: dict[str, str] = {}
    signals, orphans = set(), False
    for name in names:
        stem, _, suffix = name.rpartition(".")
        suffix = suffix.lower()
        if stem not in headers:
            orphans |= suffix in _SIGNALS
        elif suffix not in _OWN:
            beside[name] = stem
            if suffix in _SIGNALS:
                signals.add(stem)
    if not orphans and len(signals) == len(headers):
        return beside

    claims = {stem: wfdb.parts(Path(folder, name)) for stem, name in headers.items()}
    claimed = {part for stem, files in claims.items() for part in files if part != headers[stem]}
    parts: dict[str, str] = {}
    records = set()
    # Headers that no other one names go first. What is left then names itself in a circle.
    for stem in sorted(headers, key=lambda stem: headers[stem] in claimed):
        if headers[stem] not in parts:
            records.add(headers[stem])
            for part in claims[stem]:
                if part not in records:
                    parts.setdefault(part, stem)
    for name, stem in beside.items():
        owner = parts.get(headers[stem])
        if owner is None:
            parts[name] = stem
        else:
            parts.setdefault(name, owner)
    return parts
