"""Writing a recording in every format that ecgpipe reads, for the end-to-end tests.

Each writer takes a path without ending, a signal (12, samples) in mV whose leads are `LEADS`, and the sampling rate; it
writes the leads in an order and under names that the format's own users have, and returns the size of the format's
steps in mV, (12, 1) or a number.
"""

from collections.abc import Callable
from pathlib import Path

import edfio
import h5py
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pydicom
import pydicom.uid
import scipy.io
import vendor_files
import wfdb
from pydicom.dataset import Dataset, FileMetaDataset

from ecgpipe.readers import LEADS

Step = float | np.ndarray
Writer = Callable[[Path, np.ndarray, int], Step]

MIMIC = ("I", "II", "III", "aVR", "aVF", "aVL", "V1", "V2", "V3", "V4", "V5", "V6")
CODE = ("DI", "DII", "DIII", "AVR", "AVL", "AVF", "V1", "V2", "V3", "V4", "V5", "V6")
EIGHT = vendor_files.EIGHT


def ordered(signal: np.ndarray, leads: tuple[str, ...]) -> np.ndarray:
    """The rows of a signal in another order of leads."""
    return signal[[LEADS.index(lead) for lead in leads]]


def wfdb_of(kind: str) -> Writer:
    """A writer of WFDB records in one of its formats, in MIMIC-IV-ECG's order of leads."""

    def write(path: Path, signal: np.ndarray, rate: int) -> Step:
        wfdb.wrsamp(
            path.name, fs=rate, units=["mV"] * 12, sig_name=list(MIMIC), fmt=[kind] * 12,
            p_signal=ordered(signal, MIMIC).T, write_dir=str(path.parent),
        )  # fmt: skip
        gains = dict(zip(MIMIC, wfdb.rdheader(str(path)).adc_gain, strict=True))
        return 1 / np.array([gains[lead] for lead in LEADS])[:, None]

    return write


def in_three_files(path: Path, signal: np.ndarray, rate: int) -> Step:
    """A WFDB record whose signals lie in three files."""
    step = wfdb_of("16")(path, signal, rate)
    samples = np.fromfile(path.with_suffix(".dat"), "<i2").reshape(-1, 12)
    path.with_suffix(".dat").unlink()
    first, *lines = path.with_suffix(".hea").read_text().splitlines()
    for number in range(3):
        samples[:, 4 * number : 4 * number + 4].tofile(path.with_name(f"{path.name}_{number}.dat"))
    lines = [line.replace(f"{path.name}.dat", f"{path.name}_{i // 4}.dat") for i, line in enumerate(lines)]
    path.with_suffix(".hea").write_text("\n".join([first, *lines]) + "\n")
    return step


def challenge(path: Path, signal: np.ndarray, rate: int) -> Step:
    """PhysioNet 2021: a MAT file whose 16-bit numbers WFDB reads behind its 24 bytes of header."""
    counts = np.rint(signal * 1000).astype(np.int16)  # (12, samples)
    scipy.io.savemat(path.with_suffix(".mat"), {"val": counts}, format="4")
    lines = [f"{path.name} 12 {rate} {signal.shape[1]} 05-May-2020 14:50:55"]
    lines += [
        f"{path.name}.mat 16+24 1000/mV 16 0 {row[0]} 0 0 {lead}" for lead, row in zip(LEADS, counts, strict=True)
    ]
    lines += ["#Age: 74", "#Sex: Female", "#Dx: 426783006", "#Rx: Unknown", "#Hx: Unknown", "#Sx: Unknown"]
    path.with_suffix(".hea").write_text("\n".join(lines) + "\n")
    return 1e-3


def segmented(path: Path, signal: np.ndarray, rate: int) -> Step:
    """A WFDB record of two segments."""
    half = signal.shape[1] // 2
    steps = [
        wfdb_of("16")(path.with_name(f"{path.name}_{number}"), piece, rate)
        for number, piece in enumerate((signal[:, :half], signal[:, half:]), start=1)
    ]
    lines = [f"{path.name}/2 12 {rate} {signal.shape[1]}", f"{path.name}_1 {half}"]
    path.with_suffix(".hea").write_text("\n".join([*lines, f"{path.name}_2 {signal.shape[1] - half}"]) + "\n")
    step: np.ndarray = np.maximum(np.asarray(steps[0]), np.asarray(steps[1]))
    return step


def mat(path: Path, signal: np.ndarray, rate: int) -> Step:
    """fairseq-signals' layout."""
    content = {"feats": signal.astype(np.float32), "curr_sample_rate": np.array([[rate]])}
    scipy.io.savemat(path.with_suffix(".mat"), content)
    return 1e-6


def mat_73(path: Path, signal: np.ndarray, rate: int) -> Step:
    """The same as MATLAB 7.3 writes it: HDF5, transposed."""
    with h5py.File(path.with_suffix(".mat"), "w", userblock_size=512) as file:
        file["feats"] = signal.T
        file["curr_sample_rate"] = np.array([[float(rate)]])
    with path.with_suffix(".mat").open("r+b") as file:
        file.write(b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(124) + b"\x00\x02IM")
    return 1e-9


def npz(path: Path, signal: np.ndarray, rate: int) -> Step:
    """NumPy's archive."""
    np.savez(path.with_suffix(".npz"), signal=ordered(signal, MIMIC), sample_rate=rate, leads=MIMIC, unit="mV")
    return 1e-9


def csv(path: Path, signal: np.ndarray, rate: int) -> Step:
    """A time column in seconds and the unit in the header."""
    columns = {"time": np.arange(signal.shape[1]) / rate}
    columns |= {f"{lead} (mV)": row for lead, row in zip(MIMIC, ordered(signal, MIMIC), strict=True)}
    pd.DataFrame(columns).to_csv(path.with_suffix(".csv"), index=False, float_format="%.5f")
    return 1e-5


def parquet(path: Path, signal: np.ndarray, rate: int) -> Step:
    """The sampling rate in the file's metadata."""
    table = pa.table({f"ECG {lead}": row for lead, row in zip(MIMIC, ordered(signal, MIMIC), strict=True)})
    pq.write_table(
        table.replace_schema_metadata({"sample_rate": str(rate), "unit": "mV"}), path.with_suffix(".parquet")
    )
    return 1e-9


def edf_of(make: type, of: type, bits: int, suffix: str) -> Writer:
    """A writer of EDF or BDF."""

    def write(path: Path, signal: np.ndarray, rate: int) -> Step:
        signals = [
            make(row, rate, label=f"EKG {lead}", physical_dimension="mV")
            for lead, row in zip(MIMIC, ordered(signal, MIMIC), strict=True)
        ]
        of(signals, data_record_duration=signal.shape[1] / rate).write(path.with_suffix(suffix))
        # The header has eight characters for either end of the range.
        step: np.ndarray = np.ptp(signal, axis=1, keepdims=True) / 2**bits + 2e-5 * np.ptp(signal)
        return step

    return write


def dicom(path: Path, signal: np.ndarray, rate: int) -> Step:
    """A 12-lead waveform with a median beat before it, in microvolts."""

    def group(label: str, rows: np.ndarray) -> Dataset:
        item = Dataset()
        item.MultiplexGroupLabel = label
        item.WaveformOriginality = "ORIGINAL" if label == "RHYTHM" else "DERIVED"
        item.NumberOfWaveformChannels, item.NumberOfWaveformSamples = rows.shape
        item.SamplingFrequency = str(rate)
        item.ChannelDefinitionSequence = []
        for lead in LEADS:
            channel, source, unit = Dataset(), Dataset(), Dataset()
            source.CodeValue, source.CodingSchemeDesignator, source.CodeMeaning = "0", "MDC", f"Lead {lead}"
            channel.ChannelSourceSequence = [source]
            channel.ChannelSensitivity, channel.ChannelSensitivityCorrectionFactor = "2.5", "1"
            channel.ChannelBaseline, channel.WaveformBitsStored = "0", 16
            unit.CodeValue, unit.CodingSchemeDesignator, unit.CodeMeaning = "uV", "UCUM", "microvolt"
            channel.ChannelSensitivityUnitsSequence = [unit]
            item.ChannelDefinitionSequence.append(channel)
        item.WaveformBitsAllocated, item.WaveformSampleInterpretation = 16, "SS"
        item.WaveformData = np.ascontiguousarray(rows.T).astype("<i2").tobytes()
        return item

    counts = np.rint(signal * 1000 / 2.5).astype(int)
    content = Dataset()
    content.SOPClassUID, content.SOPInstanceUID = pydicom.uid.TwelveLeadECGWaveformStorage, pydicom.uid.generate_uid()
    content.Modality = "ECG"
    content.WaveformSequence = [group("MEDIAN BEAT", -counts[:, :400]), group("RHYTHM", counts)]
    content.file_meta = FileMetaDataset()
    content.file_meta.MediaStorageSOPClassUID = content.SOPClassUID
    content.file_meta.MediaStorageSOPInstanceUID = content.SOPInstanceUID
    content.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    content.save_as(path.with_suffix(".dcm"), enforce_file_format=True)
    return 2.5e-3


def vendor_of(name: str, leads: tuple[str, ...] = MIMIC) -> Writer:
    """A writer of a vendor's format."""
    vendor = vendor_files.FORMATS[name]

    def write(path: Path, signal: np.ndarray, rate: int) -> Step:
        vendor.write(path.with_suffix(vendor.suffix), ordered(signal, leads), rate, leads)
        return vendor.step

    return write


WRITERS: dict[str, Writer] = {
    **{f"wfdb {kind}": wfdb_of(kind) for kind in ("16", "24", "32", "80", "212")},
    "wfdb in three files": in_three_files,
    "wfdb in two segments": segmented,
    "wfdb as PhysioNet 2021": challenge,
    "mat": mat,
    "mat 7.3": mat_73,
    "npz": npz,
    "csv": csv,
    "parquet": parquet,
    "edf": edf_of(edfio.EdfSignal, edfio.Edf, 16, ".edf"),
    "bdf": edf_of(edfio.BdfSignal, edfio.Bdf, 24, ".bdf"),
    "dicom": dicom,
    "muse": vendor_of("MUSE", LEADS),
    "sierra": vendor_of("Sierra, XLI", LEADS),
    "aecg": vendor_of("aECG"),
    "scp": vendor_of("SCP-ECG, Huffman", LEADS),
    "cardiosoft": vendor_of("CardioSoft"),
    "mortara": vendor_of("Mortara"),
    "mfer": vendor_of("MFER"),
    "ishne": vendor_of("ISHNE"),
}
