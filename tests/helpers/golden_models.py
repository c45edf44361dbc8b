"""Checkpoints and inputs of the model families in shared/reference/models, for tests."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import scipy.io
import scipy.signal


def make_checkpoint(reference: Path, family: str, variant: str, folder: Path) -> Path:
    """Run a family's make_checkpoint.py; the path of the file or folder that it wrote."""
    path = folder / f"{family}_{variant}{'.pth' if family == 'ecgfounder' else ''}"
    if not path.exists():
        script = reference / "models" / family / "make_checkpoint.py"
        subprocess.run([sys.executable, str(script), variant, str(path)], check=True)
    return path


def ecgfounder_inputs(reference: Path, variant: str) -> np.ndarray:
    """ECGFounder's input of the ten real recordings, (10, 12, 5000) float32, as its README describes it, by scipy."""
    return np.stack([_prepare(path, variant) for path in sorted((reference / "code15").glob("*.mat"))])


def _prepare(path: Path, variant: str) -> np.ndarray:
    recording = scipy.io.loadmat(path)
    rate = int(recording["curr_sample_rate"][0, 0])
    x = np.nan_to_num(recording["feats"].astype(np.float64))[:, : 10 * rate]  # (12, n)
    if variant == "plain":
        x = (x - x.mean()) / (x.std() + 1e-8)
    places = np.linspace(0, x.shape[1] - 1, int(x.shape[1] * 500 / rate))
    x = np.stack([np.interp(places, np.arange(x.shape[1]), lead) for lead in x])
    if variant == "filtered":
        x = scipy.signal.filtfilt(*scipy.signal.iirnotch(50, 30, 500), x)
        x = scipy.signal.filtfilt(*scipy.signal.butter(4, [0.67, 40], "bandpass", fs=500), x)
        x = x - np.stack([scipy.signal.medfilt(lead, 201) for lead in x])
    x = np.pad(x, ((0, 0), (0, 5000 - x.shape[1])))
    if variant == "filtered":
        x = (x - x.mean()) / (x.std() + 1e-8)
    return np.asarray(x, np.float32)
