"""Files that appear under their final name only when they are whole."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# The names of files that are being written, and of those that a process left behind which was killed.
UNFINISHED = ".*.tmp"


@contextmanager
def whole(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it replaces `path` in one step, on failure it goes away.

    Args:
        path: The final name. Its folder is made where it is missing.

    Yields:
        The path to write to. It lies in the same folder, because a rename is atomic only within a file system.
    """
    final = Path(path)
    final.parent.mkdir(parents=True, exist_ok=True)
    temporary = final.with_name(f".{final.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        mask = os.umask(0)  # there is no way to ask for it alone
        os.umask(mask)
        temporary.chmod(0o666 & ~mask)  # some libraries write files for their owner only
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        temporary.replace(final)
    finally:
        temporary.unlink(missing_ok=True)
