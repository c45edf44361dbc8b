"""A folder of results and the runs that write to it: one at a time, and each clears up after one that was killed."""

import logging
import os
import secrets
import socket
from pathlib import Path

from filelock import FileLock, Timeout

from ecgpipe import atomic
from ecgpipe.errors import EcgpipeError

logger = logging.getLogger(__name__)

LOCK = ".lock"

# Which run was the last to begin.
OWNER = ".owner"


def take(outdir: Path) -> FileLock | None:
    """Have a folder for this process alone, as long as it lives: Snakemake's own locks outlive a run that is killed.

    Jobs outlive it too. They finish no file any more (`atomic.refuse_if_orphaned`).

    Args:
        outdir: The folder; it is made where it is missing.

    Returns:
        The lock, which holds while it is kept; None where the file system has no locks.

    Raises:
        EcgpipeError: Another run has it, or it cannot be written to.
    """
    outdir.mkdir(parents=True, exist_ok=True)
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
        atomic.begin_run(secrets.token_hex(8), outdir.resolve() / OWNER)
    except OSError as error:
        raise EcgpipeError(
            f"outdir: cannot write to {outdir}: {error.strerror}; make room, or give another one"
        ) from error
    return lock if locked else None


def clear_up(outdir: Path) -> int:
    """Remove the unfinished files that jobs left behind which were killed. Only for a run that has the folder alone.

    Args:
        outdir: The folder of the results.

    Returns:
        How many there were.
    """
    left = [path for folder in (".", "*") for path in outdir.glob(f"{folder}/{atomic.UNFINISHED}")]
    for path in left:
        path.unlink(missing_ok=True)
    return len(left)


def remove_surplus(outdir: Path, shards: int, parts: int) -> int:
    """Remove shards and parts beyond those of the run, left by one that was cut otherwise: a folder is read as a whole.

    Args:
        outdir: The folder of the results.
        shards: How many the run has.
        parts: The same.

    Returns:
        How many files there were.
    """
    surplus = []
    for path in outdir.glob("*/*-[0-9]*.*"):
        kind, _, number = path.stem.rpartition("-")
        counts = {"shard": shards, "part": parts}
        if kind in counts and number.isdecimal() and int(number) >= counts[kind]:
            surplus.append(path)
    for path in surplus:
        path.unlink(missing_ok=True)
    return len(surplus)
