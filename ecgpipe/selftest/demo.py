"""Write the demo: simulated 12-lead ECGs in several formats, tables of the patients and true labels, and a small model.

The model is `demo_model`, which was trained on other simulated hearts. One more recording is real, the one that pydicom
carries as test data. A few cannot be used, each for its own reason.
"""

import argparse
import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch

from ecgpipe import __version__
from ecgpipe.core import options
from ecgpipe.core.atomic import whole
from ecgpipe.core.errors import EcgpipeError
from ecgpipe.core.logs import logger
from ecgpipe.selftest import demo_model, demo_recordings


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `ecgpipe demo`."""
    outdir_help = "the folder to write recordings, tables and checkpoint.pt to (default %(default)s)"
    options.add(parser, "outdir", default=Path("demo"), help=outdir_help)
    recordings_help = "how many to simulate; one real and five unusable are added (default %(default)s)"
    options.add(parser, "recordings", default=180, help=recordings_help)
    options.add(parser, "seed", default=1, help="seed of everything that is drawn at random (default %(default)s)")


def run(args: argparse.Namespace) -> None:
    """Write the demo, unless it is there already."""
    if args.recordings < 1:
        raise EcgpipeError(f"demo: --recordings is {args.recordings}; give 1 or more")
    if args.seed < 0:
        raise EcgpipeError(f"demo: --seed is {args.seed}; give 0 or more")
    write_demo(args.outdir, args.recordings, args.seed)


def write_demo(outdir: Path, recordings: int, seed: int) -> None:
    """Write the demo, unless it is there already.

    Args:
        outdir: The folder to write to.
        recordings: How many to simulate.
        seed: Of everything that is drawn at random.

    Raises:
        EcgpipeError: The folder holds other files, or a package of the demo is not installed.
    """
    files = [*demo_recordings.list_files(recordings, seed), "checkpoint.pt", demo_model.LABELS]
    marker = {"version": __version__, "recordings": recordings, "seed": seed, "files": files}
    finished, started = outdir / "demo.json", outdir / ".demo"
    if _read_marker(finished) == marker and all((outdir / name).is_file() for name in files):
        logger.info("%s holds this demo already: nothing to do", outdir)
        return
    try:
        import pydicom  # noqa: F401  # refused before anything is written or removed
    except ImportError as error:
        raise EcgpipeError("the demo needs pydicom: pip install 'ecgpipe[demo]'") from error

    _clear(outdir, finished, started)
    taken = [name for name in files if os.path.lexists(outdir / name)]
    if taken:
        raise EcgpipeError(
            f"demo: {outdir / taken[0]} exists and is not part of the demo; move it, or give another --outdir"
        )
    with whole(started) as path:
        path.write_text(json.dumps(marker, indent=1), encoding="utf-8")
    finished.unlink(missing_ok=True)
    demo_recordings.write_recordings(outdir, recordings, seed)
    shutil.copyfile(demo_model.FOLDER / demo_model.LABELS, outdir / demo_model.LABELS)
    # To an open file: given a path, torch.save writes the name of the temporary file into the archive.
    with whole(outdir / "checkpoint.pt") as path, path.open("wb") as file:
        torch.save(demo_model.read_content(), file)
    started.replace(finished)
    logger.info("%s: %d simulated recordings, 1 real, %d unusable", outdir, recordings, len(demo_recordings.UNUSABLE))


# What is on disk already


def _read_marker(path: Path) -> dict[str, Any]:
    """The content of a marker file; an empty one where it is missing or not ours."""
    try:
        marker = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    ours = isinstance(marker, dict) and isinstance(marker.get("files"), list) and "version" in marker
    return marker if ours else {}


def _clear(outdir: Path, *markers: Path) -> None:
    """Remove the files of an earlier demo, by its own list, so that no file of the user's is removed."""
    if not outdir.exists():
        return
    if not outdir.is_dir():
        raise EcgpipeError(f"demo: {outdir} is a file; give a folder as --outdir")
    contents = [marker for path in markers if (marker := _read_marker(path))]
    if not contents and any(outdir.iterdir()):
        raise EcgpipeError(
            f"demo: {outdir} is not empty and was not made by this command (no demo.json); give another --outdir"
        )
    root = outdir.resolve()
    for name in sorted({str(name) for marker in contents for name in marker["files"]}):
        path = root / name
        if not path.resolve().is_relative_to(root):
            raise EcgpipeError(
                f"demo: the list of files in {outdir} names {name!r}, outside of it; give another --outdir"
            )
        if path.is_file() and not path.is_symlink():
            path.unlink()
        folder = path.parent
        while folder != root and folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()
            folder = folder.parent
