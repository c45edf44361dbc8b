"""Write the demo: a folder of simulated 12-lead ECGs in several formats, and a small checkpoint of random weights.

One more recording is real, the one that pydicom carries as test data. A few cannot be used, each for its own reason.
"""

import argparse
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ecgpipe import __version__
from ecgpipe.core import options
from ecgpipe.core.atomic import whole
from ecgpipe.core.errors import EcgpipeError
from ecgpipe.core.logs import Progress, logger
from ecgpipe.readers import LEADS
from ecgpipe.selftest import synthetic_checkpoint
from ecgpipe.selftest.simulator import RHYTHMS, Array, simulate
from ecgpipe.selftest.synthetic_files import write_mat, write_npy, write_npz, write_wfdb, write_wfdb_as_mimic


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `ecgpipe demo`."""
    outdir_help = "the folder to write recordings/ and checkpoint.pt to (default %(default)s)"
    options.add(parser, "outdir", default=Path("demo"), help=outdir_help)
    recordings_help = "how many to simulate; one real and five unusable are added (default %(default)s)"
    options.add(parser, "recordings", default=36, help=recordings_help)
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
    files = [*(f"recordings/{name}" for name in _recording_files(recordings)), "checkpoint.pt"]
    marker = {"version": __version__, "recordings": recordings, "seed": seed, "files": files}
    finished, started = outdir / "demo.json", outdir / ".demo"
    if _read_marker(finished) == marker and all((outdir / name).is_file() for name in files):
        logger.info("%s holds this demo already: nothing to do", outdir)
        return
    try:
        import neurokit2  # noqa: F401  # refused before anything is written or removed
        import pydicom  # noqa: F401
    except ImportError as error:
        raise EcgpipeError("the demo needs neurokit2 and pydicom: pip install 'ecgpipe[demo]'") from error

    _clear(outdir, finished, started)
    taken = [name for name in files if os.path.lexists(outdir / name)]
    if taken:
        raise EcgpipeError(
            f"demo: {outdir / taken[0]} exists and is not part of the demo; move it, or give another --outdir"
        )
    with whole(started) as path:
        path.write_text(json.dumps(marker, indent=1), encoding="utf-8")
    finished.unlink(missing_ok=True)
    _write_recordings(outdir / "recordings", recordings, seed)
    # To an open file: given a path, torch.save writes the name of the temporary file into the archive.
    with whole(outdir / "checkpoint.pt") as path, path.open("wb") as file:
        torch.save(synthetic_checkpoint.demo(seed), file)
    started.replace(finished)
    logger.info("%s: %d simulated recordings, 1 real, %d unusable", outdir, recordings, len(UNUSABLE))


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


# The recordings


# Each folder has them all: a report must not mistake a format for a rhythm. NPY stands at the settings' one rate.
FORMATS: tuple[tuple[Callable[[Path, Array, int], None], int, tuple[str, ...]], ...] = (
    (write_wfdb_as_mimic, 500, (".hea", ".dat")),
    (write_mat, 400, (".mat",)),
    (write_npz, 500, (".npz",)),
    (write_npy, 500, (".npy",)),
    (write_wfdb, 250, (".hea", ".dat")),
    (write_mat, 500, (".mat",)),
)
REAL = "real/pydicom_waveform_ecg"
UNUSABLE = {
    "unusable/too_short": (".mat",),
    "unusable/missing_leads": (".hea", ".dat"),
    "unusable/nan": (".npz",),
    "unusable/truncated": (".hea", ".dat"),
    "unusable/garbage": (".mat",),
}
NOTES = "notes.txt"


def _plan(recordings: int) -> list[tuple[str, str, int]]:
    """(rhythm, name below recordings/ without extension, index into FORMATS) of each simulated recording."""
    rhythms = list(RHYTHMS)
    plan = []
    for i in range(recordings):
        number, which = divmod(i, len(rhythms))
        rhythm = rhythms[which]
        plan.append((rhythm, f"{rhythm}/{rhythm}_{number + 1:03d}", (number + which) % len(FORMATS)))
    return plan


def _recording_files(recordings: int) -> list[str]:
    """Every file below recordings/, whatever wrote it."""
    named = [(name, FORMATS[form][2]) for _, name, form in _plan(recordings)]
    named += [(REAL, (".dcm",)), *UNUSABLE.items()]
    return sorted([NOTES, *(name + extension for name, extensions in named for extension in extensions)])


def _write_recordings(folder: Path, recordings: int, seed: int) -> None:
    for name in _recording_files(recordings):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
    progress = Progress("demo", recordings, "recordings")
    for i, (rhythm, name, form) in enumerate(_plan(recordings)):
        write, rate, _ = FORMATS[form]
        write(folder / name, simulate(RHYTHMS[rhythm], rate, np.random.default_rng([seed, i])), rate)
        progress.add(1)
    _write_real(folder / REAL)
    _write_unusable(folder / "unusable", np.random.default_rng([seed, recordings]))
    (folder / NOTES).write_text("A folder of recordings often holds other files too. This is one.\n", encoding="utf-8")


def _write_real(path: Path) -> None:
    """The ten seconds of a real heart that pydicom carries as test data, with a median beat besides."""
    import pydicom
    import pydicom.data

    source = pydicom.data.get_testdata_file("waveform_ecg.dcm", download=False)
    if source is None:
        raise EcgpipeError(
            f"demo: pydicom {pydicom.__version__} at {Path(pydicom.__file__).parent} lacks its test file "
            "waveform_ecg.dcm; install pydicom from PyPI"
        )
    path.with_suffix(".dcm").write_bytes(Path(source).read_bytes())


def _write_unusable(folder: Path, rng: np.random.Generator) -> None:
    """One recording for each of the ways in which a recording cannot be used."""
    rate = 500
    signal = simulate(RHYTHMS["sinus"], rate, rng)
    write_mat(folder / "too_short", signal[:, : 4 * rate], rate)
    write_wfdb(folder / "missing_leads", signal[:8], rate, LEADS[:8])
    gap = signal.copy()
    gap[3, 1000:1200] = np.nan
    write_npz(folder / "nan", gap, rate)
    write_wfdb(folder / "truncated", signal, rate)
    samples = folder / "truncated.dat"
    samples.write_bytes(samples.read_bytes()[: samples.stat().st_size // 2])
    (folder / "garbage.mat").write_bytes(rng.bytes(10_000))
