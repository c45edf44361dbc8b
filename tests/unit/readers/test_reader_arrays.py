"""MATLAB and NumPy files: arrays that may say what they are, and are never run nor inflated without bounds."""

import importlib
import io
import os
import pickle
import struct
import subprocess
import sys
import tracemalloc
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt
import pytest
import scipy.io
import scipy.sparse
from hypothesis import given, settings
from hypothesis import strategies as st

from ecgpipe import readers
from ecgpipe.readers import LEADS, Assumed, Content, Recording, UnreadableError, mat

MIMIC_LEADS = ("I", "II", "III", "aVR", "aVF", "aVL", "V1", "V2", "V3", "V4", "V5", "V6")
NOTHING = Assumed()
ASSUMED = Assumed(500.0, LEADS)
SIGNAL = np.random.default_rng(0).standard_normal((12, 300))  # mV, in the order of LEADS
FORMATS = {".mat": "mat", ".npy": "numpy", ".npz": "numpy", ".h5": "hdf5"}


def read(path: Path, assumed: Assumed = NOTHING, row: int | None = None) -> Recording:
    return readers.read(path, FORMATS[path.suffix], assumed, row)


def says(path: Path, assumed: Assumed = NOTHING, row: int | None = None) -> str:
    with pytest.raises(UnreadableError) as caught:
        read(path, assumed, row)
    return str(caught.value)


def write_mat(folder: Path, **content: object) -> Path:
    scipy.io.savemat(folder / "x.mat", content)
    return folder / "x.mat"


def write_npz(folder: Path, **arrays: npt.ArrayLike) -> Path:
    save: Callable[..., None] = np.savez
    save(folder / "x.npz", **arrays)
    return folder / "x.npz"


def write_npy(folder: Path, array: np.ndarray) -> Path:
    np.save(folder / "x.npy", array)
    return folder / "x.npy"


# MATLAB files


@pytest.mark.parametrize("options", [{"do_compression": True}, {"do_compression": False}, {"format": "4"}])
def test_mat_in_fairseq_signals_layout_has_its_order_of_leads(options: dict[str, Any], tmp_path: Path) -> None:
    scipy.io.savemat(tmp_path / "x.mat", {"feats": SIGNAL, "org_sample_rate": 400}, **options)
    recording = read(tmp_path / "x.mat", Assumed(500.0, LEADS[::-1]))
    assert recording[1:5] == (400, LEADS, None, 0.0)
    assert recording.signal.dtype == np.float64
    np.testing.assert_array_equal(recording.signal, SIGNAL)


def test_real_recordings_are_read_as_scipy_reads_them(reference: Path) -> None:
    for path in sorted((reference / "code15").glob("*.mat")):
        recording = read(path)
        assert recording[1:5] == (400, LEADS, None, 0.0)
        np.testing.assert_array_equal(recording.signal, scipy.io.loadmat(path)["feats"])


KINDS = ("f4", "f8", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8")


@given(
    kinds=st.lists(st.sampled_from(KINDS), min_size=1, max_size=4),
    shapes=st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=4, max_size=4),
    length=st.integers(1, 20),
)
@settings(deadline=None, max_examples=100)
def test_plain_matrices_are_read_as_scipy_reads_them(
    kinds: list[str], shapes: list[tuple[int, int]], length: int
) -> None:
    random = np.random.default_rng(0)
    arrays = {
        f"{'n' * length}{i}": (100 * random.random(shape)).astype(kind)
        for i, (kind, shape) in enumerate(zip(kinds, shapes, strict=False))
    }
    file = io.BytesIO()
    scipy.io.savemat(file, arrays)
    read_here, content = mat._plain(file.getvalue()), scipy.io.loadmat(file)
    assert read_here is not None
    assert list(read_here) == list(arrays)
    for name, array in read_here.items():
        np.testing.assert_array_equal(array, content[name])


@pytest.mark.parametrize("content", [1 + 2j, "text", {"a": 1.0}, [[True]], scipy.sparse.eye(3), np.zeros((2, 2, 2))])
def test_other_matrices_are_left_to_scipy(content: object) -> None:
    file = io.BytesIO()
    scipy.io.savemat(file, {"feats": SIGNAL, "x": content})
    assert mat._plain(file.getvalue()) is None
    scipy.io.savemat(compressed := io.BytesIO(), {"feats": SIGNAL}, do_compression=True)
    assert mat._plain(compressed.getvalue()) is None


@given(
    damage=st.lists(st.tuples(st.integers(0, 700), st.integers(0, 255)), min_size=1, max_size=6),
    cut=st.integers(0, 700),
)
@settings(deadline=None, max_examples=300)
def test_damaged_matrices_are_read_or_left_to_scipy(damage: list[tuple[int, int]], cut: int) -> None:
    file = io.BytesIO()
    scipy.io.savemat(file, {"feats": np.zeros((12, 4)), "fs": 500.0})
    data = bytearray(file.getvalue())
    for position, byte in damage:
        data[position % len(data)] = byte
    for some in (bytes(data), bytes(data[:cut])):
        for array in (mat._plain(some) or {}).values():
            assert array.nbytes <= len(some)


def test_a_job_over_plain_matrices_does_not_load_scipy(tmp_path: Path) -> None:
    """It takes a third of a second, of each shard."""
    scipy.io.savemat(tmp_path / "x.mat", {"feats": SIGNAL, "org_sample_rate": 400})
    code = "import sys; from pathlib import Path; from ecgpipe.preprocessing import preprocess; "
    code += "from ecgpipe import readers; readers.read(Path(sys.argv[1]), 'mat', readers.Assumed()); "
    code += "print('scipy' in sys.modules)"
    command = [sys.executable, "-c", code, str(tmp_path / "x.mat")]
    assert subprocess.run(command, capture_output=True, check=True, text=True).stdout == "False\n"


def test_the_current_rate_of_a_mat_file_counts_and_the_original_one_where_there_is_none(tmp_path: Path) -> None:
    assert read(write_mat(tmp_path, feats=SIGNAL, org_sample_rate=400, curr_sample_rate=500)).sample_rate == 500
    assert read(write_mat(tmp_path, feats=SIGNAL, org_sample_rate=400)).sample_rate == 400
    for empty in (np.zeros((0, 0)), 0):
        path = write_mat(tmp_path, feats=SIGNAL, org_sample_rate=400, curr_sample_rate=empty)
        assert read(path).sample_rate == 400


@pytest.mark.parametrize("rate", ["fs", "Fs", "FS", "sample_rate", "sampling_rate", "curr_sample_rate"])
@pytest.mark.parametrize("name", ["val", "ECG", "anything"])
def test_the_one_array_with_a_row_for_each_lead_is_the_ecg(name: str, rate: str, tmp_path: Path) -> None:
    content = {name: SIGNAL.T.astype(np.int16), rate: 250, "other": np.zeros((3, 5)), "text": "x", "flag": True}
    recording = read(write_mat(tmp_path, **content), Assumed(500.0, MIMIC_LEADS, "uV"))
    assert recording[1:5] == (250, MIMIC_LEADS, "mV", 0.0)
    np.testing.assert_array_equal(recording.signal, SIGNAL.astype(np.int16) * 1e-3)


def test_eight_rows_are_an_ecg_and_so_are_as_many_as_are_assumed(tmp_path: Path) -> None:
    eight = (*LEADS[:2], *LEADS[6:])
    assert read(write_mat(tmp_path, val=SIGNAL[:8], fs=500), Assumed(leads=eight)).leads == eight
    assert read(write_mat(tmp_path, val=SIGNAL[:2], fs=500), Assumed(leads=("I", "II"))).leads == ("I", "II")


def test_of_several_arrays_the_one_that_is_called_so_is_the_ecg(tmp_path: Path) -> None:
    path = write_mat(tmp_path, ecg=SIGNAL, filtered=SIGNAL * 2, fs=500)
    np.testing.assert_array_equal(read(path, ASSUMED).signal, SIGNAL)
    path = write_mat(tmp_path, raw=SIGNAL, filtered=SIGNAL * 2, fs=500)
    assert says(path, ASSUMED) == "the MATLAB file has several arrays that could be the ECG (raw, filtered)"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ({"val": SIGNAL}, "the file states no sampling rate; set preprocess.assume_sample_rate if you know it"),
        ({"val": SIGNAL, "fs": 500}, "the file names no leads; set preprocess.assume_leads to their names in order"),
        (
            {"x": 1, "val": SIGNAL[:5]},
            "the MATLAB file has no array `feats`, nor one with a row for each lead (only x, v",
        ),
        ({"val": SIGNAL, "fs": 500, "sample_rate": 250}, "the file states several sampling rates (500, 250)"),
        ({"feats": SIGNAL}, "the file states no sampling rate; set preprocess.assume_sample_rate if you know it"),
        ({"feats": SIGNAL, "curr_sample_rate": "fast"}, "the file states no sampling rate"),
        ({"feats": SIGNAL, "curr_sample_rate": {"hz": 500}}, "the file states no sampling rate"),
        ({"feats": SIGNAL[0], "fs": 500}, "the array's shape does not fit the number of leads ((1, 300),"),
        ({"feats": SIGNAL[:8], "fs": 500}, "the array's shape does not fit the number of leads ((8, 300),"),
        ({"feats": np.stack([SIGNAL, SIGNAL]), "fs": 500}, "the array is not (leads, samples) of numbers"),
        ({"feats": SIGNAL + 1j, "fs": 500}, "the array is not (leads, samples) of numbers"),
        ({"feats": "text", "fs": 500}, "the array is not (leads, samples) of numbers"),
        ({"feats": {"a": 1}, "fs": 500}, "the array is not (leads, samples) of numbers"),
        ({"feats": scipy.sparse.csc_array(SIGNAL), "fs": 500}, "the array is not (leads, samples) of numbers"),
    ],
)
def test_a_mat_file_that_does_not_say_enough(content: dict[str, object], reason: str, tmp_path: Path) -> None:
    assert says(write_mat(tmp_path, **content)).startswith(reason)


def test_a_small_mat_file_that_inflates_to_any_size_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mat, "MOST_BYTES", 5_000_000)  # for real it is 800 MB, which takes a test seconds
    scipy.io.savemat(tmp_path / "x.mat", {"feats": SIGNAL, "fs": 500}, do_compression=True)
    head = (tmp_path / "x.mat").read_bytes()[:128]
    assert read(tmp_path / "x.mat").leads == LEADS
    packed = zlib.compress(bytes(50_000_000))
    (tmp_path / "x.mat").write_bytes(head + struct.pack("<2I", 15, len(packed)) + packed)
    assert (tmp_path / "x.mat").stat().st_size < 100_000
    tracemalloc.start()
    assert says(tmp_path / "x.mat").startswith("too long to read at once (")
    assert tracemalloc.get_traced_memory()[1] < 20_000_000
    tracemalloc.stop()


def test_a_mat_file_that_promises_a_terabyte_takes_no_memory(tmp_path: Path) -> None:
    file = io.BytesIO()
    scipy.io.savemat(file, {"feats": SIGNAL, "fs": 500})
    promise = file.getvalue().replace(struct.pack("<2i", 12, 300), struct.pack("<2i", 12, 2**31 - 1), 1)
    (tmp_path / "x.mat").write_bytes(promise)
    (tmp_path / "four.mat").write_bytes(struct.pack("<5i", 0, 12, 2**31 - 1, 0, 6) + b"feats\0")
    tracemalloc.start()
    assert says(tmp_path / "x.mat").startswith("too long to read at once (12 leads x 2147483647 samples)")
    assert says(tmp_path / "four.mat").startswith(("too long to read at once (", "not a readable MATLAB file ("))
    assert tracemalloc.get_traced_memory()[1] < 10_000_000
    tracemalloc.stop()


def test_a_matlab_7_3_file_is_read_as_hdf5(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    path = tmp_path / "x.mat"
    with h5py.File(path, "w", userblock_size=512) as file:
        file["feats"] = SIGNAL.T
        file["curr_sample_rate"] = np.array([[500.0]])
    content = path.read_bytes()
    path.write_bytes(b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(124) + b"\x00\x02IM" + content[128:])
    recording = read(path, Assumed(500.0, LEADS))
    assert (recording.sample_rate, recording.leads) == (500, LEADS)
    np.testing.assert_array_equal(recording.signal, SIGNAL)


def test_a_matlab_7_3_file_names_the_extra_where_h5py_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "x.mat").write_bytes(b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(512))
    monkeypatch.setitem(sys.modules, "h5py", None)  # what an import then does is what it does without the package
    monkeypatch.delitem(sys.modules, "ecgpipe.readers.hdf5", raising=False)
    monkeypatch.delattr(importlib.import_module("ecgpipe.readers"), "hdf5", raising=False)
    assert "pip install 'ecgpipe[hdf5]'" in says(tmp_path / "x.mat")


# NumPy files


def test_npz_names_everything(tmp_path: Path) -> None:
    order = [LEADS.index(lead) for lead in MIMIC_LEADS]
    path = write_npz(tmp_path, signal=SIGNAL[order] * 1000, sample_rate=257.0, leads=MIMIC_LEADS, unit="uV")
    recording = read(path, Assumed(500.0, LEADS[::-1], "V"))
    assert recording[1:5] == (257.0, MIMIC_LEADS, "mV", 0.0)
    np.testing.assert_allclose(recording.signal, SIGNAL[order], rtol=1e-15)


def test_npz_with_bytes_for_names_and_one_lead(tmp_path: Path) -> None:
    path = write_npz(tmp_path, signal=SIGNAL[:1], sample_rate=[500], leads=np.bytes_(b"II"), unit=np.bytes_(b"mV"))
    assert read(path)[1:5] == (500, ("II",), "mV", 0.0)


def test_a_bare_array_takes_rate_leads_and_unit_from_the_settings(tmp_path: Path) -> None:
    recording = read(write_npy(tmp_path, SIGNAL.astype(np.int16)), Assumed(250.0, MIMIC_LEADS))
    assert recording[1:5] == (250.0, MIMIC_LEADS, None, 0.0)
    np.testing.assert_array_equal(recording.signal, SIGNAL.astype(np.int16))
    assert read(tmp_path / "x.npy", Assumed(250.0, MIMIC_LEADS, "mV")).unit == "mV"


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".mat"])
def test_samples_by_leads_is_turned_round(suffix: str, tmp_path: Path) -> None:
    if suffix == ".npy":
        write_npy(tmp_path, SIGNAL.T)
    elif suffix == ".npz":
        write_npz(tmp_path, signal=SIGNAL.T)
    else:
        write_mat(tmp_path, feats=SIGNAL.T)
    np.testing.assert_array_equal(read(tmp_path / f"x{suffix}", ASSUMED).signal, SIGNAL)


@pytest.mark.parametrize("turned", [True, False])
@pytest.mark.parametrize("order", ["C", "F"])
def test_an_array_of_three_axes_holds_many_recordings(turned: bool, order: str, tmp_path: Path) -> None:
    many = np.stack([SIGNAL, SIGNAL * 2, SIGNAL * 3])
    path = write_npy(
        tmp_path, np.asarray(many.transpose(0, 2, 1) if turned else many, order="F" if order == "F" else "C")
    )
    assert readers.contents(path, "numpy") == [Content(0, "0"), Content(1, "1"), Content(2, "2")]
    for row in range(3):
        recording = read(path, ASSUMED, row)
        assert not isinstance(recording.signal, np.memmap)
        np.testing.assert_array_equal(recording.signal, many[row])
    assert says(path, ASSUMED, 3).startswith("the file has no such recording (3,")
    assert says(path, ASSUMED, -1).startswith("the file has no such recording (-1,")
    assert says(path, ASSUMED) == "the file holds many recordings and none was asked for (3)"


@pytest.mark.parametrize(
    "shape", [(1, 12, 300), (12, 300, 1), (12, 1, 300), (1, 1, 12, 300), (12, 300, 1, 1), (1, 300, 12), (300, 12, 1, 1)]
)
@pytest.mark.parametrize("suffix", [".npy", ".npz", ".mat", ".h5"])
def test_an_axis_of_length_one_says_nothing(shape: tuple[int, ...], suffix: str, tmp_path: Path) -> None:
    turned = shape.index(300) < shape.index(12)
    array = (SIGNAL.T if turned else SIGNAL).reshape(shape)
    path = tmp_path / f"x{suffix}"
    if suffix == ".h5":
        with h5py.File(path, "w") as file:
            file["ecg"] = array
    elif suffix == ".npy":
        write_npy(tmp_path, array)
    elif suffix == ".npz":
        write_npz(tmp_path, signal=array)
    else:
        write_mat(tmp_path, signal=array)
    rows = [content.row for content in readers.contents(path, FORMATS[suffix]) or []]
    assert len(rows) <= 1
    np.testing.assert_array_equal(read(path, ASSUMED, rows[0] if rows else None).signal, SIGNAL)


@pytest.mark.parametrize("shape", [(3, 1, 12, 300), (3, 12, 300, 1), (3, 12, 1, 300), (3, 1, 300, 12, 1)])
@pytest.mark.parametrize("suffix", [".npy", ".h5"])
def test_an_axis_of_length_one_beside_many_recordings_says_nothing(
    shape: tuple[int, ...], suffix: str, tmp_path: Path
) -> None:
    many = np.stack([SIGNAL, SIGNAL * 2, SIGNAL * 3])
    array = (many.transpose(0, 2, 1) if shape.index(300) < shape.index(12) else many).reshape(shape)
    path = tmp_path / f"x{suffix}"
    if suffix == ".npy":
        np.save(path, array)
    else:
        with h5py.File(path, "w") as file:
            file["ecg"] = array
    assert readers.contents(path, FORMATS[suffix]) == [Content(row, str(row)) for row in range(3)]
    for row in range(3):
        np.testing.assert_array_equal(read(path, ASSUMED, row).signal, many[row])


def test_recordings_of_a_single_lead_stay_many(tmp_path: Path) -> None:
    path = write_npy(tmp_path, SIGNAL[:5].reshape(5, 1, 1, 300))
    assert len(readers.contents(path, "numpy") or []) == 5
    np.testing.assert_array_equal(read(path, Assumed(500.0, ("II",)), 2).signal, SIGNAL[2:3])


@pytest.mark.parametrize("content", ["plain", "packed", "nested", "7.3"])
def test_the_ecg_may_be_the_field_of_a_struct(content: str, tmp_path: Path) -> None:
    fields: dict[str, Any] = {"sex": "Male", "age": [[60.0]], "data": SIGNAL, "fs": 400}
    if content == "nested":
        fields = {"patient": {"sex": "Male"}, "recording": fields}
    path = tmp_path / "x.mat"
    if content == "7.3":
        with h5py.File(path, "w", userblock_size=512) as file:
            file["ECG/data"], file["ECG/fs"] = SIGNAL.T, [[400.0]]
        with path.open("r+b") as raw:
            raw.write(b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(124) + b"\x00\x02IM")
    else:
        scipy.io.savemat(path, {"ECG": fields, "version": "2"}, do_compression=content == "packed")
    recording = read(path, Assumed(None, LEADS))
    assert (recording.sample_rate, recording.leads) == (400, LEADS)
    np.testing.assert_array_equal(recording.signal, SIGNAL)


def test_a_struct_that_does_not_tell_its_ecg(tmp_path: Path) -> None:
    assert says(write_mat(tmp_path, ECG={"raw": SIGNAL, "filtered": SIGNAL}), ASSUMED) == (
        "the MATLAB file has several arrays that could be the ECG (ECG.raw, ECG.filtered)"
    )
    deep: dict[str, Any] = {"data": SIGNAL}
    for _ in range(5):
        deep = {"a": deep}
    for fields in ({"age": 60.0, "name": "x"}, deep, {"data": [SIGNAL, "x"]}, {"data": SIGNAL + 1j}):
        assert says(write_mat(tmp_path, ECG=fields), ASSUMED).startswith(
            "the MATLAB file has no array `feats`, nor one"
        )


def test_an_array_of_two_axes_is_one_recording(tmp_path: Path) -> None:
    assert readers.contents(write_npy(tmp_path, SIGNAL), "numpy") is None
    assert readers.contents(write_npz(tmp_path, signal=SIGNAL), "numpy") is None
    assert readers.contents(write_npy(tmp_path, np.zeros((10**15, 12, 0))), "numpy") is None
    assert says(write_npy(tmp_path, SIGNAL), ASSUMED, 0).startswith("the file has no such recording (0,")


@pytest.mark.parametrize(
    ("arrays", "reason"),
    [
        ({"ecg": SIGNAL, "fs": 500}, "the NPZ file has no array `signal` (only ecg, fs)"),
        ({"signal": SIGNAL, "leads": LEADS}, "the file states no sampling rate; set preprocess.assume_sample_rate"),
        ({"signal": SIGNAL, "leads": LEADS, "sample_rate": "fast"}, "the file states no sampling rate"),
        ({"signal": SIGNAL, "leads": LEADS, "sample_rate": np.zeros(0)}, "the file states no sampling rate"),
        ({"signal": SIGNAL, "leads": LEADS, "sample_rate": 0}, "the file states no sampling rate"),
        ({"signal": SIGNAL, "sample_rate": 500}, "the file names no leads; set preprocess.assume_leads to their names"),
        ({"signal": SIGNAL, "sample_rate": 500, "leads": LEADS[:8]}, "the array's shape does not fit the number of l"),
        ({"signal": np.stack([SIGNAL, SIGNAL]), "sample_rate": 500}, "the array is not (leads, samples) of numbers"),
        ({"signal": SIGNAL[0, 0], "sample_rate": 500}, "the array is not (leads, samples) of numbers"),
        ({"signal": SIGNAL > 0, "sample_rate": 500}, "the array is not (leads, samples) of numbers"),
        ({"signal": SIGNAL.astype(str), "sample_rate": 500}, "the array is not (leads, samples) of numbers"),
        ({"signal": SIGNAL, "leads": ["x" * 40000]}, "the NPZ file's `leads` is too long"),
    ],
)
def test_an_npz_file_that_does_not_say_enough(arrays: dict[str, Any], reason: str, tmp_path: Path) -> None:
    assert says(write_npz(tmp_path, **arrays)).startswith(reason)


def test_npz_members_that_are_no_arrays_are_not_looked_at(tmp_path: Path) -> None:
    path = write_npz(tmp_path, signal=SIGNAL, sample_rate=500, leads=LEADS)
    with zipfile.ZipFile(path, "a") as archive:
        for name in ("../evil.npy", "/etc/x.npy", "notes.txt", "signal", "\u00e9\n.npy"):
            archive.writestr(name, "not an array")
    assert read(path).leads == LEADS
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("signal.npy", "not an array")
    assert says(path, ASSUMED).startswith("not a readable NumPy file (")


class Malicious:
    """Pickles to a call that leaves a file behind."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Path]]:
        return Path.touch, (self.trace,)


@pytest.mark.parametrize("kind", ["pickle", "npy", "npz", "leads"])
def test_nothing_in_a_numpy_file_is_executed(kind: str, tmp_path: Path) -> None:
    path, thing = tmp_path / f"x.{'npy' if kind in ('npy', 'pickle') else 'npz'}", Malicious(tmp_path / "executed")
    objects = np.array([thing], object)
    if kind == "pickle":
        path.write_bytes(pickle.dumps(thing))
    elif kind == "npy":
        np.save(path, objects, allow_pickle=True)
    elif kind == "npz":
        write_npz(tmp_path, signal=objects, sample_rate=500, leads=LEADS)
    else:
        write_npz(tmp_path, signal=SIGNAL, sample_rate=500, leads=objects)
    assert says(path, ASSUMED).startswith("not a readable NumPy file")
    assert not (tmp_path / "executed").exists()


def npy_header(shape: tuple[int, ...], dtype: str = "<f8") -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": dtype, "fortran_order": False, "shape": shape})
    return file.getvalue()


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_numpy_files_that_promise_or_inflate_to_any_size_take_no_memory(method: int, tmp_path: Path) -> None:
    (tmp_path / "x.npy").write_bytes(npy_header((12, 10**10)))
    (tmp_path / "y.npy").write_bytes(npy_header((10**12, 10**12, 10**12)))
    os.truncate(tmp_path / "x.npy", 10**12)
    names = []
    for number, (shape, dtype) in enumerate([((12, 10**11), "<f8"), ((12, 300), "<U100000000"), ((12, 300), "<f8")]):
        path = tmp_path / f"{number}.npz"
        with zipfile.ZipFile(path, "w", method) as archive, archive.open("signal.npy", "w") as member:
            member.write(npy_header(shape, dtype))
            for _ in range(20):
                member.write(bytes(1_000_000))
        names.append(path)
    tracemalloc.start()
    assert says(tmp_path / "x.npy", ASSUMED).startswith("too long to read at once (12 leads x 10000000000 samples)")
    assert says(tmp_path / "y.npy", ASSUMED).startswith("not a readable NumPy file (")
    if method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        assert says(names[0], ASSUMED).startswith("too long to read at once (12 leads x 100000000000 samples)")
        assert says(names[1], ASSUMED).startswith("the array is not (leads, samples) of numbers")
        np.testing.assert_array_equal(read(names[2], ASSUMED).signal, np.zeros((12, 300)))  # no more than it says
    else:
        assert says(names[2], ASSUMED).startswith("the NPZ file is compressed in a way that NumPy does not write")
    assert tracemalloc.get_traced_memory()[1] < 5_000_000
    tracemalloc.stop()
