"""A run that was made by itself and then moved into a study's folder: its scan becomes the study's.

Otherwise the study would scan the inputs anew, and all that the run has would be older than the shards of that scan.
"""

import os
from collections.abc import Iterator
from pathlib import Path

from ecgpipe.core.errors import EcgpipeError
from ecgpipe.core.provenance import hash_file
from ecgpipe.core.results import ASKED, FILES, path_of

# The files of a scan; that which says that the scan is complete is moved last.
_KEPT = ("shard", "files", "changes", "scans", "scan_digest", "manifest")


def has_own_scan(outdir: Path) -> bool:
    """Whether a model's folder has a scan of its own, as that of a run by itself.

    Args:
        outdir: The folder of the model's run.
    """
    manifest = outdir / path_of("manifest")
    return manifest.is_file() and not manifest.parent.is_symlink()


def refuse_other_recordings(shared: Path, outdir: Path) -> None:
    """Refuse a moved run over other recordings than the study's: to compute it again would destroy what it is.

    Args:
        shared: The folder of the study.
        outdir: The folder of the model's run.

    Raises:
        EcgpipeError: It is one.
    """
    is_own = has_own_scan(outdir) and (shared / path_of("manifest")).is_file()
    if is_own and not _has_same_shards(shared, outdir):
        raise EcgpipeError(
            f"outdir: {outdir} holds a run by itself, over other recordings than the study's or in other shards; move "
            f"it away, or delete {outdir / path_of('manifest')} to have it computed again"
        )


def take_scan(shared: Path, outdir: Path) -> None:
    """Make the scan of a moved run that of the study, or remove it if the study has one, which is the same.

    Args:
        shared: The folder of the study, which is locked.
        outdir: The folder of the model's run, which is locked.
    """
    names = [path.relative_to(outdir) for path in _find_files(outdir)]
    if not (shared / path_of("manifest")).is_file():
        (shared / path_of("manifest")).parent.mkdir(exist_ok=True)
        for name in names:
            (outdir / name).replace(shared / name)
    else:
        for name in names:
            if (shared / name).is_file():
                _make_older(shared / name, outdir / name)
            (outdir / name).unlink()
    (outdir / ASKED).unlink(missing_ok=True)
    folder = (outdir / ASKED).parent
    if not any(folder.iterdir()):
        folder.rmdir()


def _find_files(outdir: Path) -> Iterator[Path]:
    for name in _KEPT:
        yield from (path for path in sorted(outdir.glob(FILES[name].path.replace("{shard}", "*"))) if path.is_file())


def _has_same_shards(shared: Path, outdir: Path) -> bool:
    """Whether two scans found the same: their shards have the same bytes."""
    hashes = [
        {path.name: hash_file(path) for path in folder.glob(FILES["shard"].path.replace("{shard}", "*"))}
        for folder in (shared, outdir)
    ]
    return hashes[0] == hashes[1]


def _make_older(path: Path, other: Path) -> None:
    """Give a file the time of another one that has the same content, if that is older."""
    time = other.stat().st_mtime_ns
    if time < path.stat().st_mtime_ns:
        os.utime(path, ns=(time, time))
