"""WFDB records, PhysioNet's format: a header (.hea) that names the signal files beside it. Read by the wfdb package."""

from pathlib import Path

import numpy as np
import wfdb

from ecgpipe.readers.recording import Assumed, Recording, UnreadableError

SUFFIXES = (".hea",)

_TO_MV = {"mv": 1.0, "uv": 1e-3, "µv": 1e-3, "v": 1e3}


def read(path: Path, assumed: Assumed) -> Recording:
    """Read a WFDB record by its header; see `readers.read`."""
    try:
        record = wfdb.rdrecord(str(path.with_suffix("")))
    except (FileNotFoundError, PermissionError):
        raise
    except Exception as error:  # wfdb raises many kinds on a broken record
        raise UnreadableError(f"not a readable WFDB record ({error})") from error
    if record.p_signal is None or not record.sig_name:
        raise UnreadableError("the WFDB header lists no signals")
    signal = np.ascontiguousarray(record.p_signal.T, dtype=np.float64)  # (leads, samples)
    factors = [_TO_MV.get(unit.lower()) for unit in record.units]
    known = [factor for factor in factors if factor is not None]
    if len(known) == len(factors):
        signal *= np.array(known)[:, None]
    return Recording(signal, float(record.fs), tuple(record.sig_name), "mV" if len(known) == len(factors) else None)
