"""A run that was made by itself and then moved into a study's folder: its scan becomes the study's.

Otherwise the study would scan the inputs anew, and all that the run has would be older than the shards of that scan.
"""

import os
from collections.abc import Iterator, Sequence
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


def refuse_other_recordings(shared: Path, outdirs: Sequence[Path]) -> None:
    """Refuse moved runs over other recordings than the study's: to compute one again would destroy what it is.

    A study that has no scan yet gets that of its first moved run, so that this one's recordings are the study's.

    Args:
        shared: The folder of the study.
        outdirs: The folders of the models' runs, in the study's order.

    Raises:
        EcgpipeError: There is one.
    """
    moved = [outdir for outdir in outdirs if has_own_scan(outdir)]
    if not moved:
        return
    expected = _hash_shards(shared)
    if not (shared / path_of("manifest")).is_file():
        # A study that was killed while it took the first one's shards has some of them.
        expected = {**_hash_shards(moved.pop(0)), **expected}
    for outdir in moved:
        if _hash_shards(outdir) != expected:
            raise EcgpipeError(
                f"outdir: {outdir} holds a run by itself, over other recordings than the study's or in other shards; "
                f"move it away, or delete {outdir / path_of('manifest')} to have it computed again"
            )


def foresee_scan(outdirs: Sequence[Path]) -> Path | None:
    """Which moved run's scan a dry run plans with: that with the oldest shards.

    All of them are the same, and the study's scan gets the oldest times (`take_scan`).

    Args:
        outdirs: The folders of the models' runs.

    Returns:
        The run's folder; None if none was moved.
    """
    moved = [outdir for outdir in outdirs if has_own_scan(outdir)]
    return min(moved, key=lambda outdir: (outdir / path_of("shard", 0)).stat().st_mtime_ns, default=None)


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


def _hash_shards(folder: Path) -> dict[str, str]:
    """The SHA-256 of each shard of a scan, by its name."""
    return {path.name: hash_file(path) for path in folder.glob(FILES["shard"].path.replace("{shard}", "*"))}


def _make_older(path: Path, other: Path) -> None:
    """Give a file the time of another one that has the same content, if that is older."""
    time = other.stat().st_mtime_ns
    if time < path.stat().st_mtime_ns:
        os.utime(path, ns=(time, time))
