"""Lock a folder of results for one run at a time, and remove what a killed run left unfinished.

The folder may also hold a user's files, under any name. No run removes or overwrites them: see `results`.
"""

import logging
import os
import secrets
import socket
from collections.abc import Iterable, Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from ecgpipe.core import atomic, results
from ecgpipe.core.errors import EcgpipeError

logger = logging.getLogger(__name__)

LOCK = ".lock"

# Holds the name of the run that began last.
OWNER = ".owner"

# Number of files that a message names.
_NAMED = 5


def name_run() -> str:
    """A name for a run, which no other has."""
    return secrets.token_hex(8)


def take(outdir: Path, run: str | None = None, also: Iterable[str] = ()) -> FileLock | None:
    """Lock a folder for this process until it ends: Snakemake's own locks outlive a run that is killed.

    Jobs of a killed run may live on, but they finish no file any more (`atomic.refuse_if_orphaned`).

    Args:
        outdir: The folder; it is created if missing.
        run: The name of the run; None for a new one. A run that has several folders takes each by the same name, and
            last of all the one by which its jobs tell whether it lives.
        also: Files that will be written besides those of a run.

    Returns:
        The lock, which is held as long as the object exists; None if the file system has no locks.

    Raises:
        EcgpipeError: Another run holds the lock, the folder is not writable, or a user's files would be overwritten.
    """
    outdir.mkdir(parents=True, exist_ok=True)
    _refuse_users_files(outdir, also)
    lock = FileLock(outdir / LOCK, mode=0o664)
    locked = True
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise EcgpipeError(
            f"outdir: another run is at work in {outdir}; wait for it, or give another outdir. If no run is at work on "
            f"any machine, the file server has not noticed yet that the last one ended: delete {outdir / LOCK}"
        ) from error
    except OSError as error:
        if not outdir.is_dir() or not os.access(outdir, os.W_OK):
            raise EcgpipeError(f"outdir: cannot write to {outdir}: {error.strerror}; give another outdir") from error
        logger.warning(
            "%s on %s cannot be locked (%s): make sure that no two runs use it", outdir, socket.gethostname(), error
        )
        locked = False
    try:
        run = run or name_run()
        with (outdir / results.RUNS).open("a", encoding="utf-8") as file:
            file.write(f"{run}\n")
        atomic.begin_run(run, outdir.resolve() / OWNER)
    except OSError as error:
        raise EcgpipeError(
            f"outdir: cannot write to {outdir}: {error.strerror}; free disk space, or give another outdir"
        ) from error
    return lock if locked else None


def _refuse_users_files(outdir: Path, also: Iterable[str]) -> None:
    """Refuse a folder in which the first run would overwrite a user's files; see also `refuse_foreign`.

    Raises:
        EcgpipeError: A file has the name of a result, and ecgpipe has never written to the folder.
    """
    owner, lock = outdir / OWNER, outdir / LOCK
    if results.is_folder_of_results(str(outdir)) or (owner.is_file() and results.is_name_of_run(owner.read_text())):
        return
    taken = [owner] if os.path.lexists(owner) else []
    taken += [lock] if os.path.lexists(lock) and (not lock.is_file() or lock.stat().st_size) else []
    fixed = [outdir / folder / name for folder, names in results.FIXED.items() for name in names]
    taken += [path for path in [*fixed, *(outdir / name for name in also)] if os.path.lexists(path)]
    if taken:
        raise EcgpipeError(
            f"outdir: {outdir} has {_list_names(outdir, taken)}, which ecgpipe did not write and a run would "
            "overwrite; move what you want to keep, or give another outdir"
        )


def clear_up(outdir: Path) -> int:
    """Remove the unfinished files of killed jobs. Only for a run that holds the lock.

    Args:
        outdir: The folder of the results.

    Returns:
        Number of files removed.
    """
    runs = results.read_runs(outdir)
    left = [
        path
        for folder in ("", *results.FOLDERS)
        for path in _list_folder(outdir / folder)
        if results.parse_run(path.name) in runs and not path.is_symlink() and path.is_file()
    ]
    for path in left:
        path.unlink(missing_ok=True)
    return len(left)


def remove_surplus(outdir: Path, shards: int, parts: int) -> int:
    """Remove shards and parts beyond those of the run, which an earlier run with more of them left.

    Users read a folder as a whole, so these would be read too. Files that ecgpipe did not write stay, and a warning
    names them.

    Args:
        outdir: The folder of the results.
        shards: Number of shards of the run.
        parts: Number of parts of the run.

    Returns:
        Number of files removed.
    """
    counts = {"shard": shards, "part": parts}
    beyond = [path for path, number in _list_numbered(outdir) if number >= counts[_find_kind(path)]]
    surplus = [path for path in beyond if results.is_written_here(path)]
    for path in surplus:
        path.unlink(missing_ok=True)
    others = [
        path
        for folder in results.NUMBERED
        for path in _list_folder(outdir / folder)
        if path.name[0] != "." and not results.is_name_of_ours(folder, path.name)
    ]
    others = sorted({*others, *beyond} - {*surplus})
    if others:
        logger.warning(
            "outdir: %s has %s beside results, which ecgpipe did not write: kept, but they are read too when the "
            "folder is read as a whole; move them to another folder",
            *(outdir, _list_names(outdir, others)),
        )
    return len(surplus)


def refuse_foreign(outdir: Path, shards: int, parts: int) -> None:
    """Refuse to overwrite a user's file that has the name of a shard or part of the run.

    Args:
        outdir: The folder of the results.
        shards: Number of shards of the run.
        parts: Number of parts of the run.

    Raises:
        EcgpipeError: There is such a file, or a damaged result.
    """
    counts = {"shard": shards, "part": parts}
    within = [path for path, number in _list_numbered(outdir) if number < counts[_find_kind(path)]]
    foreign = sorted(path for path in within if not results.is_written_here(path))
    if foreign:
        raise EcgpipeError(
            f"outdir: {outdir} has {_list_names(outdir, foreign)}, which this run would overwrite and ecgpipe did not "
            "write, or which is damaged; move what you want to keep, delete the rest, and run again"
        )


def _list_numbered(outdir: Path) -> Iterator[tuple[Path, int]]:
    """Yield the files with the name of a shard or part, each with its number."""
    for folder in results.NUMBERED:
        for path in _list_folder(outdir / folder):
            number = results.parse_number(folder, path.name)
            if number is not None:
                yield path, number


def _find_kind(path: Path) -> str:
    return results.NUMBERED[path.parent.name][0]


def _list_folder(folder: Path) -> list[Path]:
    """The paths in a folder; none if there is no such folder."""
    try:
        return sorted(folder.iterdir())
    except OSError:
        return []


def _list_names(outdir: Path, paths: list[Path]) -> str:
    """The first `_NAMED` names of files, and how many more there are."""
    names = ", ".join(path.relative_to(outdir).as_posix() for path in paths[:_NAMED])
    return names + (f" and {len(paths) - _NAMED:,} more" if len(paths) > _NAMED else "")
