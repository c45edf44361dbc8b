"""Files that appear under their final name only when they are whole."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ecgpipe.errors import EcgpipeError

# The environment variable that tells the jobs of a run which one it is: its name, and the file that has the name of the
# last run to begin. outdir.take sets both.
RUN = "ECGPIPE_RUN"

# The names of files that are being written, and of those that a process left behind which was killed.
UNFINISHED = ".*.tmp"


@contextmanager
def whole(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it replaces `path` in one step, on failure it goes away.

    Args:
        path: The final name. Its folder is made where it is missing.

    Yields:
        The path to write to. It lies in the same folder, because a rename is atomic only within a file system.

    Raises:
        EcgpipeError: This is a job of a run that was killed, and another run has begun since.
    """
    final = Path(path)
    final.parent.mkdir(parents=True, exist_ok=True)
    temporary = final.with_name(f".{final.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        refuse_if_superseded()
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


def refuse_if_superseded() -> None:
    """Keep what a killed run left behind at work, or waiting in a cluster's queue, from the results of the next run.

    Raises:
        EcgpipeError: This is a job of such a run.
    """
    name, _, path = os.environ.get(RUN, "").partition(" ")
    try:
        last = Path(path).read_text()
    except OSError:  # no run, or one whose jobs do not share its disk
        return
    if last != name:
        raise EcgpipeError(
            f"outdir: this job belongs to a run that was killed, and another has begun since in {Path(path).parent}; "
            "there is nothing to do, that one does this job's work"
        )
