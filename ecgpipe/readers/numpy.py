"""NumPy files: a bare array in .npy, or `signal`, `sample_rate`, `leads` and `unit` in .npz. Never with pickles."""

from pathlib import Path

import numpy as np

from ecgpipe.readers.recording import Assumed, Recording, UnreadableError, from_array

SUFFIXES = (".npy", ".npz")


def read(path: Path, assumed: Assumed) -> Recording:
    """Read an NPY or NPZ file; see `readers.read`."""
    try:
        content = np.load(path, allow_pickle=False)
        if isinstance(content, np.ndarray):
            return from_array(content, None, None, None, assumed)
        with content as archive:
            arrays = {name: archive[name] for name in ("signal", "sample_rate", "leads", "unit") if name in archive}
            names = ", ".join(archive.files) or "nothing"
    except (FileNotFoundError, PermissionError):
        raise
    except Exception as error:  # numpy, zipfile and zlib raise many kinds on a broken file
        raise UnreadableError(f"not a readable NumPy file ({error})") from error
    if "signal" not in arrays:
        raise UnreadableError(f"the NPZ file has no array `signal` (only {names})")
    return from_array(
        arrays["signal"],
        float(np.ravel(arrays["sample_rate"])[0]) if "sample_rate" in arrays else None,
        tuple(str(lead) for lead in np.ravel(arrays["leads"])) if "leads" in arrays else None,
        "mV" if "unit" in arrays and str(arrays["unit"]) == "mV" else None,
        assumed,
    )
