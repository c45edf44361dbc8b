"""Files that appear under their final name only when they are whole."""

import json
import os
import secrets
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ecgpipe.core.errors import EcgpipeError

# The environment variable that tells the jobs of a run which one it is: its name, its process, the machine of that, and
# the file that has the name of the last run to begin. Set by `begin_run`.
RUN = "ECGPIPE_RUN"

# Stands in the names of files that this process writes if it belongs to no run: no other file is called like that.
_OF_NO_RUN = secrets.token_hex(8)


@contextmanager
def whole(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it replaces `path` in one step, on failure it goes away.

    Args:
        path: The final name. Its folder is made where it is missing.

    Yields:
        The path to write to. It lies in the same folder, because a rename is atomic only within a file system, and is
        called .NAME.RUN.PID.tmp: by RUN it is known, after a run that was killed, to be none of a user's files.

    Raises:
        EcgpipeError: This is a job of a run that was killed.
    """
    final = Path(path)
    final.parent.mkdir(parents=True, exist_ok=True)
    run = os.environ.get(RUN, "").partition(" ")[0] or _OF_NO_RUN
    temporary = final.with_name(f".{final.name}.{run}.{os.getpid()}.tmp")
    try:
        yield temporary
        refuse_if_orphaned()
        mask = os.umask(0)  # there is no way to ask for it alone
        os.umask(mask)
        temporary.chmod(0o666 & ~mask)  # some libraries write files for their owner only
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        temporary.replace(final)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, content: object) -> None:
    """Write a JSON file, for people to read too."""
    with whole(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def read_json(path: Path) -> Any:  # noqa: ANN401, as json has it
    """The content of a JSON file; None if the file is missing or not JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None


def begin_run(name: str, owner: Path) -> None:
    """Tell all jobs that this process starts from now on that they belong to a run, and that the run is this process.

    Args:
        name: Of the run, sixteen hexadecimal digits.
        owner: The file to write it to, absolute.
    """
    owner.write_text(name)
    os.environ[RUN] = f"{name} {os.getpid()} {_machine()} {owner}"


def refuse_if_orphaned() -> None:
    """Keep what a killed run left behind at work, or waiting in a cluster's queue, from the results.

    Snakemake notes which files a job makes only after it has started the job. If it is killed in between, nothing says
    that they are not of the settings that the next run has. So whoever outlives the run finishes none: by the time that
    a file is whole, a living Snakemake has long noted it. On another machine than its own a job sees only that the next
    run has begun.

    Raises:
        EcgpipeError: This is a job of such a run.
    """
    run = os.environ.get(RUN)
    if not run:
        return
    name, process, machine, path = run.split(" ", 3)
    if not _lives(int(process), machine):
        raise EcgpipeError("outdir: this job belongs to a run that was killed; there is nothing to do but to run again")
    try:
        last = Path(path).read_text()
    except OSError:  # one whose jobs do not share its disk
        return
    if last != name:
        raise EcgpipeError(
            f"outdir: this job belongs to a run that was killed, and another has begun since in {Path(path).parent}; "
            "there is nothing to do, that one does this job's work"
        )


def _machine() -> str:
    """Where a process id means something: a kernel since its start, and the namespace of a container."""
    try:
        kernel = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{kernel}/{os.readlink('/proc/self/ns/pid')}"  # noqa: PTH115, which would make a path of it
    except OSError:
        return socket.gethostname()


def _lives(process: int, machine: str) -> bool:
    """Whether a process lives, as far as can be told from here."""
    if machine != _machine():
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
