"""Every reader's whole numbers make exactly its signal, lead by lead; where there are none the reader says so."""

from pathlib import Path

import formats
import numpy as np
import pyarrow.parquet as pq
import pytest
import wfdb

from ecgpipe import readers
from ecgpipe.cli import main
from ecgpipe.core.digital import Digital, decode
from ecgpipe.preprocessing import preprocess
from ecgpipe.readers import LEADS, Assumed

# Files of more than 16 bits or of numbers with a fraction, and records of several segments, which may differ in gain.
WITHOUT = {"wfdb 24", "wfdb 32", "wfdb in two segments", "mat", "mat 7.3", "npz", "csv", "parquet", "bdf"}


def signal_of(rate: int = 500) -> np.ndarray:
    """(12, samples) in mV: different in each lead, in steps of 5 uV, Einthoven's law obeyed."""
    rng = np.random.default_rng(0)
    counts = rng.integers(-200, 200, (12, 4 * rate)).cumsum(axis=1) // 8 % 400 - 200
    counts[2] = counts[1] - counts[0]
    return counts * 0.005


def values_of(digital: Digital) -> np.ndarray:
    return decode(digital.numbers, digital.kinds, digital.constants)


def assert_same_bits(one: np.ndarray, other: np.ndarray) -> None:
    np.testing.assert_array_equal(np.ascontiguousarray(one).view(np.int64), np.ascontiguousarray(other).view(np.int64))


@pytest.mark.parametrize("name", list(formats.WRITERS))
def test_the_numbers_of_each_format_make_its_signal(name: str, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    formats.WRITERS[name](tmp_path / "in" / "ecg", signal_of(), 500)
    assert main(["manifest", "--input", str(tmp_path / "in"), "--outdir", str(tmp_path)]) == 0
    (row,) = pq.read_table(tmp_path / "shard-00000.parquet").to_pylist()
    recording = preprocess.read_recording(row, Assumed())
    assert (recording.digital is None) == (name in WITHOUT)
    if recording.digital is not None:
        assert recording.digital.numbers.dtype == np.int16
        assert_same_bits(values_of(recording.digital), recording.signal)


def counts_of(samples: int = 2000) -> np.ndarray:
    return np.random.default_rng(1).integers(-3000, 3000, (12, samples)).astype(np.int16)


def assert_numbers(recording: readers.Recording, counts: np.ndarray) -> None:
    assert recording.digital is not None
    np.testing.assert_array_equal(recording.digital.numbers, counts)
    assert_same_bits(values_of(recording.digital), recording.signal)


@pytest.mark.parametrize("unit", [None, "uV", "mV"])
@pytest.mark.parametrize("dtype", [np.int16, np.int32, np.float32, np.float64, ">i2"])
def test_arrays_of_whole_numbers_are_taken_whatever_their_type(dtype: str, unit: str | None, tmp_path: Path) -> None:
    counts = counts_of()
    np.save(tmp_path / "ecg.npy", counts.T.astype(dtype))
    assert_numbers(readers.read(tmp_path / "ecg.npy", "numpy", Assumed(500.0, LEADS, unit)), counts)


def test_a_table_of_whole_microvolts_is_taken(tmp_path: Path) -> None:
    counts = counts_of(200)
    lines = [",".join(f"{lead} (uV)" for lead in LEADS), *(",".join(map(str, row)) for row in counts.T.tolist())]
    (tmp_path / "ecg.csv").write_text("\n".join(lines) + "\n")
    assert_numbers(readers.read(tmp_path / "ecg.csv", "csv", Assumed(500.0, None, None)), counts)


@pytest.mark.parametrize("kind", ["16", "80", "212"])
@pytest.mark.parametrize("unit", ["mV", "uV", "V"])
def test_each_lead_of_a_wfdb_record_has_its_own_gain_and_baseline(kind: str, unit: str, tmp_path: Path) -> None:
    counts = counts_of() // 100
    wfdb.wrsamp(
        "ecg", fs=500, units=[unit] * 12, sig_name=list(LEADS), fmt=[kind] * 12, d_signal=counts.T.astype(np.int64),
        adc_gain=[100.0 + 7 * n for n in range(12)], baseline=[3 * n - 11 for n in range(12)], write_dir=str(tmp_path),
    )  # fmt: skip
    assert_numbers(readers.read(tmp_path / "ecg.hea", "wfdb", Assumed()), counts)


def test_a_wfdb_record_with_a_missing_sample_has_values_alone(tmp_path: Path) -> None:
    counts = counts_of()
    counts[4, 77] = -32768
    wfdb.wrsamp(
        "ecg", fs=500, units=["mV"] * 12, sig_name=list(LEADS), fmt=["16"] * 12, d_signal=counts.T.astype(np.int64),
        adc_gain=[1000.0] * 12, baseline=[0] * 12, write_dir=str(tmp_path),
    )  # fmt: skip
    recording = readers.read(tmp_path / "ecg.hea", "wfdb", Assumed())
    assert np.isnan(recording.signal[4, 77])
    assert recording.digital is None


def test_numbers_lose_the_filling_that_the_signal_loses(tmp_path: Path) -> None:
    counts = counts_of()
    np.save(tmp_path / "ecg.npy", np.concatenate([np.zeros((12, 600), np.int16), counts], axis=1))
    recording = readers.read(tmp_path / "ecg.npy", "numpy", Assumed(500.0, LEADS, "uV"))
    assert recording.stripped_s == 1.2
    assert_numbers(recording, counts)
