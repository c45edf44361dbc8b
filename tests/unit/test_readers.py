"""The readers: a recording is what its file says by name, and a bad file is an UnreadableError, whatever is in it."""

import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import scipy.io
import scipy.sparse
import wfdb
from hypothesis import given, settings
from hypothesis import strategies as st

from ecgpipe import readers
from ecgpipe.readers import FORMATS, LEADS, SUFFIXES, Assumed, Recording, UnreadableError

MIMIC_LEADS = ("I", "II", "III", "aVR", "aVF", "aVL", "V1", "V2", "V3", "V4", "V5", "V6")
NOTHING = Assumed()
ASSUMED = Assumed(500.0, LEADS)
SIGNAL = np.random.default_rng(0).standard_normal((12, 300))  # mV, in the order of LEADS


def read(path: Path, assumed: Assumed = NOTHING) -> Recording:
    return readers.read(path, SUFFIXES[path.suffix], assumed)


def by_lead(recording: Recording) -> np.ndarray:
    """The signal in the order of LEADS."""
    return recording.signal[[recording.leads.index(lead) for lead in LEADS]]


def write_wfdb(
    folder: Path, leads: tuple[str, ...] = LEADS, unit: str = "mV", factor: float = 1, **options: object
) -> Path:
    order = [LEADS.index(lead) for lead in leads]
    options = {"fmt": ["16"] * 12, "fs": 500, "units": [unit] * 12} | options
    wfdb.wrsamp("x", sig_name=list(leads), p_signal=SIGNAL[order].T * factor, write_dir=str(folder), **options)
    return folder / "x.hea"


def write_mat(folder: Path, **content: object) -> Path:
    scipy.io.savemat(folder / "x.mat", content)
    return folder / "x.mat"


def write_npz(folder: Path, **arrays: npt.ArrayLike) -> Path:
    save: Callable[..., None] = np.savez
    save(folder / "x.npz", **arrays)
    return folder / "x.npz"


def says(path: Path, assumed: Assumed = NOTHING) -> str:
    """Why the file cannot be read."""
    with pytest.raises(UnreadableError) as caught:
        read(path, assumed)
    return str(caught.value)


# What a file says


@pytest.mark.parametrize("leads", [LEADS, MIMIC_LEADS, LEADS[::-1]])
def test_wfdb_leads_are_known_by_name(leads: tuple[str, ...], tmp_path: Path) -> None:
    recording = read(write_wfdb(tmp_path, leads))
    assert recording.leads == leads
    assert (recording.sample_rate, recording.unit) == (500, "mV")
    np.testing.assert_allclose(by_lead(recording), SIGNAL, rtol=0, atol=2e-4)


@pytest.mark.parametrize(("unit", "factor"), [("mV", 1), ("uV", 1e3), ("V", 1e-3), ("MV", 1)])
def test_wfdb_units_become_millivolts(unit: str, factor: float, tmp_path: Path) -> None:
    recording = read(write_wfdb(tmp_path, unit=unit, factor=factor))
    assert recording.unit == "mV"
    np.testing.assert_allclose(by_lead(recording), SIGNAL, rtol=0, atol=2e-4)


def test_wfdb_in_a_unit_that_is_none_of_voltage_stays_as_it_is(tmp_path: Path) -> None:
    recording = read(write_wfdb(tmp_path, units=["mV"] * 11 + ["mmHg"]))
    assert recording.unit is None
    np.testing.assert_allclose(by_lead(recording), SIGNAL, rtol=0, atol=2e-4)


def test_a_wfdb_header_whose_name_has_dots_and_whose_rate_is_a_fraction(tmp_path: Path) -> None:
    path = write_wfdb(tmp_path, fs=360.5)
    header = path.read_text()
    (tmp_path / "x.1.2.hea").write_text(header)
    assert read(tmp_path / "x.1.2.hea").sample_rate == 360.5


@pytest.mark.parametrize("compressed", [True, False])
def test_mat_is_in_fairseq_signals_layout(compressed: bool, tmp_path: Path) -> None:
    scipy.io.savemat(tmp_path / "x.mat", {"feats": SIGNAL, "org_sample_rate": 400}, do_compression=compressed)
    recording = read(tmp_path / "x.mat")
    assert (recording.leads, recording.sample_rate, recording.unit) == (LEADS, 400, None)
    assert recording.signal.dtype == np.float64
    np.testing.assert_array_equal(recording.signal, SIGNAL)


def test_the_current_rate_of_a_mat_file_counts_and_the_original_one_where_there_is_none(tmp_path: Path) -> None:
    assert read(write_mat(tmp_path, feats=SIGNAL, org_sample_rate=400, curr_sample_rate=500)).sample_rate == 500
    assert read(write_mat(tmp_path, feats=SIGNAL, org_sample_rate=400)).sample_rate == 400
    for empty in (np.zeros((0, 0)), 0):
        path = write_mat(tmp_path, feats=SIGNAL, org_sample_rate=400, curr_sample_rate=empty)
        assert read(path).sample_rate == 400


def test_npz_names_everything(tmp_path: Path) -> None:
    order = [LEADS.index(lead) for lead in MIMIC_LEADS]
    recording = read(write_npz(tmp_path, signal=SIGNAL[order], sample_rate=257.0, leads=MIMIC_LEADS, unit="mV"))
    assert recording[1:] == (257.0, MIMIC_LEADS, "mV")
    np.testing.assert_array_equal(by_lead(recording), SIGNAL)


def test_what_the_file_says_outweighs_what_is_assumed(tmp_path: Path) -> None:
    path = write_npz(tmp_path, signal=SIGNAL, sample_rate=250, leads=LEADS)
    assert read(path, Assumed(500.0, LEADS[::-1]))[1:] == (250, LEADS, None)


def test_a_bare_array_takes_rate_and_leads_from_the_settings(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", SIGNAL.astype(np.int16))
    recording = read(tmp_path / "x.npy", Assumed(250.0, MIMIC_LEADS))
    assert recording[1:] == (250.0, MIMIC_LEADS, None)
    np.testing.assert_array_equal(recording.signal, SIGNAL.astype(np.int16))


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".mat"])
def test_samples_by_leads_is_turned_round(suffix: str, tmp_path: Path) -> None:
    if suffix == ".npy":
        np.save(tmp_path / "x.npy", SIGNAL.T)
    elif suffix == ".npz":
        write_npz(tmp_path, signal=SIGNAL.T)
    else:
        write_mat(tmp_path, feats=SIGNAL.T)
    np.testing.assert_array_equal(read(tmp_path / f"x{suffix}", ASSUMED).signal, SIGNAL)


# What is no recording


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ({"val": SIGNAL}, r"the MATLAB file has no array `feats` (only val)"),
        ({"feats": SIGNAL}, "the file states no sample rate; set preprocess.assume_sample_rate if you know it"),
        ({"feats": SIGNAL, "curr_sample_rate": "fast"}, "the file states no sample rate"),
        ({"feats": SIGNAL, "curr_sample_rate": {"hz": 500}}, "the file states no sample rate"),
        (
            {"feats": SIGNAL[0], "curr_sample_rate": 500},
            "the array's shape does not fit the number of leads ((1, 300),",
        ),
        (
            {"feats": SIGNAL[:8], "curr_sample_rate": 500},
            "the array's shape does not fit the number of leads ((8, 300),",
        ),
        ({"feats": SIGNAL[None], "curr_sample_rate": 500}, "the array is not (leads, samples) of numbers"),
        ({"feats": SIGNAL + 1j, "curr_sample_rate": 500}, "the array is not (leads, samples) of numbers"),
        ({"feats": "text", "curr_sample_rate": 500}, "the array is not (leads, samples) of numbers"),
        ({"feats": {"a": 1}, "curr_sample_rate": 500}, "the array is not (leads, samples) of numbers"),
        (
            {"feats": scipy.sparse.csc_array(SIGNAL), "curr_sample_rate": 500},
            "the array is not (leads, samples) of num",
        ),
    ],
)
def test_a_mat_file_that_is_none_of_ours(content: dict[str, object], reason: str, tmp_path: Path) -> None:
    assert says(write_mat(tmp_path, **content)).startswith(reason)


@pytest.mark.parametrize(
    ("arrays", "reason"),
    [
        ({"ecg": SIGNAL, "fs": 500}, "the NPZ file has no array `signal` (only ecg, fs)"),
        ({"signal": SIGNAL, "leads": LEADS}, "the file states no sample rate; set preprocess.assume_sample_rate"),
        ({"signal": SIGNAL, "leads": LEADS, "sample_rate": "fast"}, "the file states no sample rate"),
        ({"signal": SIGNAL, "leads": LEADS, "sample_rate": np.zeros(0)}, "the file states no sample rate"),
        ({"signal": SIGNAL, "sample_rate": 500}, "the file names no leads; set preprocess.assume_leads to their names"),
        ({"signal": SIGNAL, "sample_rate": 500, "leads": LEADS[:8]}, "the array's shape does not fit the number of l"),
        ({"signal": SIGNAL[0, 0], "sample_rate": 500, "leads": LEADS}, "the array is not (leads, samples) of numbers"),
        ({"signal": SIGNAL > 0, "sample_rate": 500, "leads": LEADS}, "the array is not (leads, samples) of numbers"),
        (
            {"signal": SIGNAL.astype(str), "sample_rate": 500, "leads": LEADS},
            "the array is not (leads, samples) of num",
        ),
    ],
)
def test_an_npz_file_that_does_not_say_enough(arrays: dict[str, Any], reason: str, tmp_path: Path) -> None:
    assert says(write_npz(tmp_path, **arrays)).startswith(reason)


def test_an_npz_member_that_is_no_array(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        archive.writestr("signal", "not an array")
    assert says(tmp_path / "x.npz", ASSUMED) == "the array is not (leads, samples) of numbers (bytes)"


class Malicious:
    """Pickles to a call that leaves a file behind."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Path]]:
        return Path.touch, (self.trace,)


@pytest.mark.parametrize("kind", ["pickle", "npy", "npz"])
def test_nothing_in_a_numpy_file_is_executed(kind: str, tmp_path: Path) -> None:
    path, thing = tmp_path / f"x.{'npz' if kind == 'npz' else 'npy'}", Malicious(tmp_path / "executed")
    if kind == "pickle":
        path.write_bytes(pickle.dumps(thing))
    elif kind == "npy":
        np.save(path, np.array([thing], object), allow_pickle=True)
    else:
        write_npz(tmp_path, signal=np.array([thing], object), sample_rate=500, leads=LEADS)
    assert says(path, ASSUMED).startswith("not a readable NumPy file")
    assert not (tmp_path / "executed").exists()


def test_a_matlab_7_3_file_is_told_how_to_mend(tmp_path: Path) -> None:
    header = b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(124) + b"\x00\x02IM"
    (tmp_path / "x.mat").write_bytes(header.ljust(512, b"\0") + b"\x89HDF\r\n\x1a\n")
    assert says(tmp_path / "x.mat") == "a MATLAB 7.3 file; save it with -v7"


def test_a_wfdb_header_whose_signal_file_is_not_there_names_it(tmp_path: Path) -> None:
    path = write_wfdb(tmp_path)
    (tmp_path / "x.dat").unlink()
    assert says(path) == "a file is not there (x.dat)"


def test_a_wfdb_signal_file_that_is_cut_off(tmp_path: Path) -> None:
    path = write_wfdb(tmp_path)
    (tmp_path / "x.dat").write_bytes((tmp_path / "x.dat").read_bytes()[:-100])
    assert says(path).startswith("not a readable WFDB record")


def test_a_wfdb_header_without_signals(tmp_path: Path) -> None:
    (tmp_path / "x.hea").write_text("x 0 500 300\n")
    assert "WFDB" in says(tmp_path / "x.hea")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_file_that_has_gone_is_told_by_name(suffix: str, tmp_path: Path) -> None:
    assert says(tmp_path / f"x{suffix}") == f"a file is not there (x{suffix})"


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_folder_with_a_files_ending_is_unreadable(suffix: str, tmp_path: Path) -> None:
    (tmp_path / f"x{suffix}").mkdir()
    assert says(tmp_path / f"x{suffix}")


def test_every_ending_has_one_format() -> None:
    assert sorted(SUFFIXES) == sorted(suffix for module in FORMATS.values() for suffix in module.SUFFIXES)
    assert all(suffix == suffix.lower() and suffix.startswith(".") for suffix in SUFFIXES)


# Whatever is in it


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("any")


@pytest.fixture(scope="module")
def valid(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Valid files by name; small.hea belongs to small.dat, which stands beside it."""
    made = tmp_path_factory.mktemp("valid")
    signal = SIGNAL[:, :50]
    np.save(made / "bare.npy", signal)
    np.savez(made / "plain.npz", signal=signal, sample_rate=500, leads=LEADS)
    np.savez_compressed(made / "packed.npz", signal=signal, sample_rate=500, leads=LEADS, unit="mV")
    content = {"feats": signal, "curr_sample_rate": 500}
    scipy.io.savemat(made / "plain.mat", content)
    scipy.io.savemat(made / "packed.mat", content, do_compression=True)
    scipy.io.savemat(made / "four.mat", content, format="4")
    names = {"sig_name": list(LEADS), "units": ["mV"] * 12, "fmt": ["16"] * 12}
    wfdb.wrsamp("small", fs=500, p_signal=signal.T, write_dir=str(made), **names)
    return {path.name: path.read_bytes() for path in made.iterdir()}


def assert_read_or_unreadable(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    try:
        recording = readers.read(path, SUFFIXES[path.suffix], ASSUMED)
    except UnreadableError:
        pass
    else:
        assert recording.signal.dtype == np.float64
        assert recording.signal.shape[0] == len(recording.leads)


MAGIC = [b"", b"\x93NUMPY\x01\x00", b"PK\x03\x04", b"MATLAB 5.0 MAT-file".ljust(124) + b"\x00\x01IM", b"x 12 500 300\n"]


@given(magic=st.sampled_from(MAGIC), content=st.binary(max_size=300), suffix=st.sampled_from(sorted(SUFFIXES)))
@settings(deadline=None, max_examples=200)
def test_any_bytes_are_read_or_unreadable(magic: bytes, content: bytes, suffix: str, folder: Path) -> None:
    assert_read_or_unreadable(folder / f"x{suffix}", magic + content)


@given(data=st.data())
@settings(deadline=None, max_examples=200)
def test_any_cut_off_file_is_read_or_unreadable(data: st.DataObject, valid: dict[str, bytes], folder: Path) -> None:
    name = data.draw(st.sampled_from(sorted(valid)))
    content = valid[name][: data.draw(st.integers(0, len(valid[name]) - 1))]
    for other in ("small.hea", "small.dat"):
        (folder / other).write_bytes(valid[other])
    if name == "small.dat":
        (folder / name).write_bytes(content)
        name, content = "small.hea", valid["small.hea"]
    assert_read_or_unreadable(folder / name, content)


# scipy's MAT reader is left out: a damaged type number in a file of version 5 ends the whole process.
@given(data=st.data())
@settings(deadline=None, max_examples=200)
def test_any_damaged_file_is_read_or_unreadable(data: st.DataObject, valid: dict[str, bytes], folder: Path) -> None:
    name = data.draw(st.sampled_from(["bare.npy", "plain.npz", "packed.npz", "small.hea"]))
    content = bytearray(valid[name])
    damage = st.tuples(st.integers(0, len(content) - 1), st.integers(0, 255))
    for position, byte in data.draw(st.lists(damage, min_size=1, max_size=5)):
        content[position] = byte
    (folder / "small.dat").write_bytes(valid["small.dat"])
    assert_read_or_unreadable(folder / name, bytes(content))


TOKENS = st.one_of(
    st.sampled_from(["x", "12", "0", "500", "x.dat", "16", "212", "200/mV", "200(0)/mV", "I", "V1", "~", "#", "-1"]),
    st.text(st.characters(codec="utf-8", exclude_characters="\n"), max_size=4),
)


@given(lines=st.lists(st.lists(TOKENS, max_size=9).map(" ".join), max_size=4))
@settings(deadline=None, max_examples=150)
def test_any_wfdb_header_is_read_or_unreadable(lines: list[str], folder: Path) -> None:
    (folder / "x.dat").write_bytes(bytes(range(256)))
    assert_read_or_unreadable(folder / "x.hea", "\n".join(lines).encode())
