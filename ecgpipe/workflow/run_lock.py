"""A folder of results and the runs that write to it: one at a time, and each clears up after one that was killed.

A user's files may lie in the folder too, under any name. No run removes or overwrites one: see `results`.
"""

import logging
import os
import secrets
import socket
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from ecgpipe.core import atomic, results
from ecgpipe.core.errors import EcgpipeError

logger = logging.getLogger(__name__)

LOCK = ".lock"

# Which run was the last to begin.
OWNER = ".owner"

# Files that a message names.
_NAMED = 5


def take(outdir: Path) -> FileLock | None:
    """Have a folder for this process alone, as long as it lives: Snakemake's own locks outlive a run that is killed.

    Jobs outlive it too. They finish no file any more (`atomic.refuse_if_orphaned`).

    Args:
        outdir: The folder; it is made where it is missing.

    Returns:
        The lock, which holds while it is kept; None where the file system has no locks.

    Raises:
        EcgpipeError: Another run has it, it cannot be written to, or a run would overwrite a user's files.
    """
    outdir.mkdir(parents=True, exist_ok=True)
    _refuse_taken(outdir)
    lock = FileLock(outdir / LOCK, mode=0o664)
    locked = True
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise EcgpipeError(
            f"outdir: another run is at work in {outdir}; wait for it, or give another outdir. If there is none on any "
            f"machine, its file server has not noticed yet that it ended: delete {outdir / LOCK}"
        ) from error
    except OSError as error:
        if not outdir.is_dir() or not os.access(outdir, os.W_OK):
            raise EcgpipeError(f"outdir: cannot write to {outdir}: {error.strerror}; give another one") from error
        logger.warning(
            "%s on %s cannot be locked (%s): see to it that no two runs share it", outdir, socket.gethostname(), error
        )
        locked = False
    try:
        run = secrets.token_hex(8)
        with (outdir / results.RUNS).open("a", encoding="utf-8") as file:
            file.write(f"{run}\n")
        atomic.begin_run(run, outdir.resolve() / OWNER)
    except OSError as error:
        raise EcgpipeError(
            f"outdir: cannot write to {outdir}: {error.strerror}; make room, or give another one"
        ) from error
    return lock if locked else None


def _refuse_taken(outdir: Path) -> None:
    """Keep a folder's first run from overwriting what is called as its results will be; see `refuse_foreign` too.

    Raises:
        EcgpipeError: There is such a file, and ecgpipe has never written to the folder.
    """
    owner, lock = outdir / OWNER, outdir / LOCK
    if results.is_folder_of_results(str(outdir)) or (owner.is_file() and results.is_name_of_run(owner.read_text())):
        return
    taken = [owner] if os.path.lexists(owner) else []
    taken += [lock] if os.path.lexists(lock) and (not lock.is_file() or lock.stat().st_size) else []
    fixed = [outdir / folder / name for folder, names in results.FIXED.items() for name in names]
    taken += [path for path in fixed if os.path.lexists(path)]
    if taken:
        raise EcgpipeError(
            f"outdir: {outdir} has {_some(outdir, taken)}, which ecgpipe did not write and a run would overwrite; move "
            "what you want to keep, or give another outdir"
        )


def clear_up(outdir: Path) -> int:
    """Remove the unfinished files that jobs left behind which were killed. Only for a run that has the folder alone.

    Args:
        outdir: The folder of the results.

    Returns:
        How many there were.
    """
    runs = results.runs(outdir)
    left = [
        path
        for folder in ("", *results.FOLDERS)
        for path in _files(outdir / folder)
        if results.run_of(path.name) in runs and not path.is_symlink() and path.is_file()
    ]
    for path in left:
        path.unlink(missing_ok=True)
    return len(left)


def remove_surplus(outdir: Path, shards: int, parts: int) -> int:
    """Remove shards and parts beyond those of the run, left by one that was cut otherwise: a folder is read as a whole.

    What has such a name but is not ecgpipe's stays, as does all else in the folders of results. A warning names it.

    Args:
        outdir: The folder of the results.
        shards: How many the run has.
        parts: The same.

    Returns:
        How many files there were.
    """
    counts = {"shard": shards, "part": parts}
    beyond = [path for path, number in _numbered(outdir) if number >= counts[_kind(path)]]
    surplus = [path for path in beyond if results.is_written_here(path)]
    for path in surplus:
        path.unlink(missing_ok=True)
    others = [
        path
        for folder in results.NUMBERED
        for path in _files(outdir / folder)
        if path.name[0] != "." and not results.is_name_of_ours(folder, path.name)
    ]
    others = sorted({*others, *beyond} - {*surplus})
    if others:
        logger.warning(
            "outdir: %s has %s beside results, which ecgpipe did not write: kept, but whoever reads such a folder as a "
            "whole reads them too; move them to another folder",
            *(outdir, _some(outdir, others)),
        )
    return len(surplus)


def refuse_foreign(outdir: Path, shards: int, parts: int) -> None:
    """Keep a run from overwriting a user's file that has the name of one of its shards or parts.

    Args:
        outdir: The folder of the results.
        shards: How many the run has.
        parts: The same.

    Raises:
        EcgpipeError: There is one, or a result that is damaged.
    """
    counts = {"shard": shards, "part": parts}
    within = [path for path, number in _numbered(outdir) if number < counts[_kind(path)]]
    foreign = sorted(path for path in within if not results.is_written_here(path))
    if foreign:
        raise EcgpipeError(
            f"outdir: {outdir} has {_some(outdir, foreign)}, which this run would overwrite and ecgpipe did not write, "
            "or which is damaged; move what you want to keep, delete the rest, and run again"
        )


def _numbered(outdir: Path) -> Iterator[tuple[Path, int]]:
    """What is called as a shard or part, in the folders of such, with its number."""
    for folder in results.NUMBERED:
        for path in _files(outdir / folder):
            number = results.number(folder, path.name)
            if number is not None:
                yield path, number


def _kind(path: Path) -> str:
    return results.NUMBERED[path.parent.name][0]


def _files(folder: Path) -> list[Path]:
    """What lies in a folder; nothing where there is none."""
    try:
        return sorted(folder.iterdir())
    except OSError:
        return []


def _some(outdir: Path, paths: list[Path]) -> str:
    """The first names of some files, and how many more there are."""
    names = ", ".join(path.relative_to(outdir).as_posix() for path in paths[:_NAMED])
    return names + (f" and {len(paths) - _NAMED:,} more" if len(paths) > _NAMED else "")
