"""NumPy files: a bare array in .npy, or `signal`, `sample_rate`, `leads` and `unit` in .npz. Never with pickles."""

from pathlib import Path

import numpy as np

from ecgpipe.readers.recording import Assumed, Recording, UnreadableError, from_array, rate_of

SUFFIXES = (".npy", ".npz")

_NAMES = ("signal", "sample_rate", "leads", "unit")


def read(path: Path, assumed: Assumed) -> Recording:
    """Read an NPY or NPZ file; see `readers.read`."""
    try:
        content = np.load(path, allow_pickle=False)
        if isinstance(content, np.ndarray):
            arrays = None
        else:
            with content as archive:
                arrays = {name: archive[name] for name in _NAMES if name in archive}
    except (FileNotFoundError, PermissionError):
        raise
    except Exception as error:  # numpy, zipfile and zlib raise many kinds on a broken file
        raise UnreadableError(f"not a readable NumPy file ({error})") from error
    if arrays is None:
        return from_array(content, None, None, None, assumed)
    if "signal" not in arrays:
        raise UnreadableError(f"the NPZ file has no array `signal` (only {', '.join(content.files) or 'nothing'})")
    return from_array(
        arrays["signal"],
        rate_of(arrays.get("sample_rate")),
        tuple(str(lead) for lead in np.ravel(arrays["leads"])) if "leads" in arrays else None,
        "mV" if "unit" in arrays and str(arrays["unit"]) == "mV" else None,
        assumed,
    )
