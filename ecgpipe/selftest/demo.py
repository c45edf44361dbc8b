"""Write the demo: a folder of simulated 12-lead ECGs in several formats, and a small checkpoint of random weights.

One more recording is real, the one that pydicom carries as test data. A few cannot be used, each for its own reason.
"""

import argparse
import io
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.io
import torch
import wfdb
from torch import Tensor

from ecgpipe import __version__
from ecgpipe.core.atomic import whole
from ecgpipe.core.errors import EcgpipeError
from ecgpipe.core.logs import Progress, logger
from ecgpipe.readers import LEADS
from ecgpipe.selftest.simulator import RHYTHMS, Array, simulate

MIMIC_LEADS = ("I", "II", "III", "aVR", "aVF", "aVL", "V1", "V2", "V3", "V4", "V5", "V6")  # MIMIC-IV-ECG's own order


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the stage's options."""
    parser.add_argument(
        "--outdir", type=Path, default=Path("demo"), help="gets recordings/ and checkpoint.pt (default: demo)"
    )
    parser.add_argument(
        "--recordings", type=int, default=36, help="how many to simulate; one real and five unusable are added"
    )
    parser.add_argument("--seed", type=int, default=1, help="of everything random here (default: 1)")


def run(args: argparse.Namespace) -> None:
    """Write the demo, unless it is there already."""
    if args.recordings < 1:
        raise EcgpipeError(f"demo: --recordings is {args.recordings}; give 1 or more")
    if args.seed < 0:
        raise EcgpipeError(f"demo: --seed is {args.seed}; give 0 or more")
    outdir: Path = args.outdir
    files = [*(f"recordings/{name}" for name in _recording_files(args.recordings)), "checkpoint.pt"]
    made = {"version": __version__, "recordings": args.recordings, "seed": args.seed, "files": files}
    finished, started = outdir / "demo.json", outdir / ".demo"
    if _read_marker(finished) == made and all((outdir / name).is_file() for name in files):
        logger.info("%s holds this demo already: nothing to do", outdir)
        return
    try:
        import neurokit2  # noqa: F401  # said before anything is written or removed
        import pydicom  # noqa: F401
    except ImportError as error:
        raise EcgpipeError("the demo needs neurokit2 and pydicom: pip install 'ecgpipe[demo]'") from error

    _clear(outdir, finished, started)
    taken = [name for name in files if os.path.lexists(outdir / name)]
    if taken:
        raise EcgpipeError(f"demo: {outdir / taken[0]} is there and not of the demo; move it, or give another --outdir")
    with whole(started) as path:
        path.write_text(json.dumps(made, indent=1), encoding="utf-8")
    finished.unlink(missing_ok=True)
    _write_recordings(outdir / "recordings", args.recordings, args.seed)
    # To an open file: given a path, torch.save writes the name of the temporary file into the archive.
    with whole(outdir / "checkpoint.pt") as path, path.open("wb") as file:
        torch.save(checkpoint(args.seed), file)
    started.replace(finished)
    logger.info("%s: %d simulated recordings, 1 real, %d unusable", outdir, args.recordings, len(UNUSABLE))


# What is on disk already


def _read_marker(path: Path) -> dict[str, Any]:
    """What a marker file says of the demo beside it; nothing where it is missing or not ours."""
    try:
        marker = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    ours = isinstance(marker, dict) and isinstance(marker.get("files"), list) and "version" in marker
    return marker if ours else {}


def _clear(outdir: Path, *markers: Path) -> None:
    """Remove what an earlier run wrote, by its own list, so that nothing of the user's can go with it."""
    if not outdir.exists():
        return
    if not outdir.is_dir():
        raise EcgpipeError(f"demo: {outdir} is a file; give a folder as --outdir")
    found = [marker for path in markers if (marker := _read_marker(path))]
    if not found and any(outdir.iterdir()):
        raise EcgpipeError(
            f"demo: {outdir} is not empty and was not made by this command (no demo.json); give another --outdir"
        )
    root = outdir.resolve()
    for name in sorted({str(name) for marker in found for name in marker["files"]}):
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


# Formats


def write_wfdb(path: Path, signal: Array, rate: int, names: tuple[str, ...] = LEADS, comment: str = "") -> None:
    """Write PATH.hea and PATH.dat, format 16, in whole microvolts.

    Args:
        path: Where, without an ending.
        signal: (leads, samples), mV.
        rate: Samples per second.
        names: The leads, in the order of `signal`.
        comment: Goes into the header.
    """
    wfdb.wrsamp(
        path.name,
        fs=rate,
        units=["mV"] * len(names),
        sig_name=list(names),
        d_signal=np.round(signal.T * 1000).astype(np.int16),
        fmt=["16"] * len(names),
        adc_gain=[1000] * len(names),
        baseline=[0] * len(names),
        comments=[comment] if comment else [],
        write_dir=str(path.parent),
    )


def write_mat(path: Path, signal: Array, rate: int) -> None:
    """Write PATH.mat as fairseq-signals' preprocessing leaves it in `org`."""
    number = {"sample_rate": rate, "sample_size": signal.shape[1]}
    content: dict[str, npt.NDArray[Any]] = {
        f"{when}_{what}": np.array([[value]]) for what, value in number.items() for when in ("org", "curr")
    }
    buffer = io.BytesIO()
    scipy.io.savemat(buffer, {**content, "feats": signal.astype(np.float32)})
    # The first 116 bytes are free text, where scipy writes the time of day: the same demo would differ each time.
    text = b"MATLAB 5.0 MAT-file, written by ecgpipe demo".ljust(116)
    path.with_suffix(".mat").write_bytes(text + buffer.getvalue()[116:])


def write_npz(path: Path, signal: Array, rate: int) -> None:
    """Write PATH.npz, which says all there is to know."""
    np.savez(path.with_suffix(".npz"), signal=signal.astype(np.float32), sample_rate=rate, leads=LEADS, unit="mV")


def write_npy(path: Path, signal: Array, rate: int) -> None:
    """Write PATH.npy, a bare array: rate, leads and unit are for the settings to say."""
    np.save(path.with_suffix(".npy"), signal.astype(np.float32))


def write_wfdb_as_mimic(path: Path, signal: Array, rate: int) -> None:
    """Write PATH.hea and PATH.dat with the leads in MIMIC-IV-ECG's order."""
    order = [LEADS.index(name) for name in MIMIC_LEADS]
    write_wfdb(path, signal[order], rate, MIMIC_LEADS, comment="simulated by ecgpipe demo, leads as in MIMIC-IV-ECG")


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
    """(rhythm, name below recordings/ without ending, index into FORMATS) of each simulated recording."""
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
    return sorted([NOTES, *(name + ending for name, endings in named for ending in endings)])


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


# The checkpoint


def checkpoint(seed: int) -> dict[str, Any]:
    """A checkpoint as fairseq-signals saves it, of ECG-FM's kind but small, its weights random.

    Args:
        seed: Of the weights.

    Returns:
        What goes into the file. `ecgpipe.random_weights` marks it: no prediction of it means anything.
    """
    draw = torch.Generator().manual_seed(seed)
    width, hidden, layers, channels, kernel, groups, labels = 96, 192, 3, 64, 32, 4, 17
    state: dict[str, Tensor] = {}

    def normal(*shape: int, std: float) -> Tensor:
        return torch.randn(shape, generator=draw) * std

    def linear(name: str, outputs: int, inputs: int, gain: float = 1.0) -> None:
        state[f"{name}.weight"] = normal(outputs, inputs, std=gain * inputs**-0.5)
        state[f"{name}.bias"] = normal(outputs, std=0.05)

    def norm(name: str, size: int) -> None:
        state[f"{name}.weight"] = 1 + normal(size, std=0.05)
        state[f"{name}.bias"] = normal(size, std=0.05)

    for i in range(4):
        inputs = channels if i else len(LEADS)
        state[f"encoder.feature_extractor.conv_layers.{i}.0.weight"] = normal(channels, inputs, 2, std=inputs**-0.5)
    norm("encoder.feature_extractor.conv_layers.0.2", channels)
    norm("encoder.layer_norm", channels)
    linear("encoder.post_extract_proj", width, channels)
    position = normal(width, width // groups, kernel, std=(4 / (kernel * width)) ** 0.5)
    state["encoder.conv_pos.pos_conv.0.bias"] = normal(width, std=0.05)
    state["encoder.conv_pos.pos_conv.0.parametrizations.weight.original0"] = position.norm(dim=(0, 1), keepdim=True)
    state["encoder.conv_pos.pos_conv.0.parametrizations.weight.original1"] = position
    norm("encoder.encoder.layer_norm", width)
    for i in range(layers):
        layer = f"encoder.encoder.layers.{i}"
        # Sharper queries and keys than usual, so that the attention has something to show.
        for name, gain in (("k", 2.0), ("v", 1.0), ("q", 2.0), ("out", 0.5)):
            linear(f"{layer}.self_attn.{name}_proj", width, width, gain)
        norm(f"{layer}.self_attn_layer_norm", width)
        linear(f"{layer}.fc1", hidden, width)
        linear(f"{layer}.fc2", width, hidden)
        norm(f"{layer}.final_layer_norm", width)
    linear("proj", labels, width, 2.0)
    model = {
        "_name": "ecg_transformer_classifier",
        "normalize": False,
        "filter": False,
        "apply_mask": False,
        "extractor_mode": "default",
        "in_d": len(LEADS),
        "conv_feature_layers": f"[({channels}, 2, 2)] * 4",
        "conv_bias": False,
        "conv_pos": kernel,
        "conv_pos_groups": groups,
        "encoder_layers": layers,
        "encoder_embed_dim": width,
        "encoder_ffn_embed_dim": hidden,
        "encoder_attention_heads": 4,
        "layer_norm_first": False,
        "no_pretrained_weights": True,
        "num_labels": labels,
    }
    return {
        "args": None,
        "cfg": {"task": {"_name": "ecg_classification", "normalize": False}, "model": model},
        "model": state,
        # fairseq-signals, which `verify --against` asks, wants to find these too.
        "optimizer_history": [{"criterion_name": "", "optimizer_name": "", "lr_scheduler_state": {}, "num_updates": 0}],
        "task_state": {},
        "extra_state": {"metrics": {}, "previous_training_time": 0, "train_iterator": {"epoch": 1}},
        "ecgpipe": {"random_weights": True},
    }
