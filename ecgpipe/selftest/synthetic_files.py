"""Write a signal in the file formats of the demo and of `verify`."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import scipy.io
import wfdb

from ecgpipe.readers import LEADS
from ecgpipe.selftest.dipole import Array

MIMIC_LEADS = ("I", "II", "III", "aVR", "aVF", "aVL", "V1", "V2", "V3", "V4", "V5", "V6")  # MIMIC-IV-ECG's own order


def write_wfdb(path: Path, signal: Array, rate: int, names: tuple[str, ...] = LEADS, comment: str = "") -> None:
    """Write PATH.hea and PATH.dat, format 16, in whole microvolts.

    Args:
        path: Where, without the extension.
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
    """Write PATH.npz with sampling rate, leads and unit."""
    np.savez(path.with_suffix(".npz"), signal=signal.astype(np.float32), sample_rate=rate, leads=LEADS, unit="mV")


def write_npy(path: Path, signal: Array, rate: int) -> None:
    """Write PATH.npy, a bare array: sampling rate, leads and unit come from the settings."""
    np.save(path.with_suffix(".npy"), signal.astype(np.float32))


def write_wfdb_as_mimic(path: Path, signal: Array, rate: int) -> None:
    """Write PATH.hea and PATH.dat with the leads in MIMIC-IV-ECG's order."""
    order = [LEADS.index(name) for name in MIMIC_LEADS]
    write_wfdb(path, signal[order], rate, MIMIC_LEADS, comment="simulated by ecgpipe demo, leads as in MIMIC-IV-ECG")


def write_csv(path: Path, signal: Array, rate: int) -> None:
    """Write PATH.csv with a column of times and one for each lead, in mV."""
    times = np.arange(signal.shape[1]) / rate
    names = ",".join(["time (s)", *(f"{lead} (mV)" for lead in LEADS)])
    form = ["%.3f"] * (1 + len(LEADS))
    np.savetxt(path.with_suffix(".csv"), np.vstack([times, signal]).T, form, ",", header=names, comments="")


def write_parquet(path: Path, signal: Array, rate: int) -> None:
    """Write PATH.parquet with a column for each lead; sampling rate and unit are in the metadata."""
    table = pa.table({lead: row.astype(np.float32) for lead, row in zip(LEADS, signal, strict=True)})
    pq.write_table(
        table.replace_schema_metadata({"sample_rate": str(rate), "unit": "mV"}), path.with_suffix(".parquet")
    )
