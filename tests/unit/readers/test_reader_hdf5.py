"""HDF5: CODE-15%'s parts, the common arrays, and what a file must not get away with."""

import zlib
from pathlib import Path

import h5py
import numpy as np
import pytest
import scipy.io
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ecgpipe import readers
from ecgpipe.readers import LEADS, Assumed, Content, Recording, UnreadableError, hdf5, reading_process, spell_leads

NOTHING = Assumed()
ASSUMED = Assumed(500.0, LEADS)
RNG = np.random.default_rng(0)
SIGNALS = RNG.standard_normal((4, 300, 12))  # (recordings, samples, leads)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "x.h5"


def read(path: Path, assumed: Assumed = NOTHING, row: int | None = None) -> Recording:
    return readers.read(path, "hdf5", assumed, row)


def says(path: Path, assumed: Assumed = ASSUMED, row: int | None = 0) -> str:
    """Why the file cannot be read."""
    with pytest.raises(UnreadableError) as caught:
        read(path, assumed, row)
    return str(caught.value)


def names(path: Path) -> list[str]:
    return [content.name for content in readers.contents(path, "hdf5") or []]


def write_code15(path: Path, exams: list[np.ndarray], ids: list[int], samples: int = 4096) -> None:
    """A part as https://doi.org/10.5281/zenodo.4916206 describes it: centred between zeros, the last row none."""
    tracings = np.zeros((len(exams) + 1, samples, 12), np.float32)
    for row, exam in zip(tracings, exams, strict=False):
        before = (samples - exam.shape[1]) // 2
        row[before : before + exam.shape[1]] = exam.T
    with h5py.File(path, "w") as file:
        file["tracings"] = tracings
        file["exam_id"] = np.array([*ids, 0])


# CODE-15%


def test_code15_gives_the_exams_that_fairseq_signals_takes_from_it(reference: Path, path: Path) -> None:
    files = sorted((reference / "code15").glob("*.mat"))[:4]
    exams = [scipy.io.loadmat(file)["feats"] for file in files]
    ids = [int(file.stem.rpartition("_")[2]) for file in files]
    write_code15(path, exams, ids)
    assert readers.contents(path, "hdf5") == [Content(row, str(name)) for row, name in enumerate(ids)]
    for row, exam in enumerate(exams):
        recording = read(path, NOTHING, row)
        assert tuple(spell_leads(recording.leads)) == LEADS
        assert (recording.sample_rate, recording.unit) == (400, None)
        assert recording.stripped_s == (4096 - exam.shape[1]) / 400
        np.testing.assert_array_equal(recording.signal, exam)


def test_the_last_row_of_a_part_is_no_exam_only_where_it_is_empty(path: Path) -> None:
    write_code15(path, [SIGNALS[0].T, SIGNALS[1].T, SIGNALS[2].T], [7, 0, 7], 400)
    assert names(path) == ["7", "0", "7"]
    with h5py.File(path, "r+") as file:
        file["tracings"][3, 5, 5] = 1
    assert names(path) == ["7", "0", "7", "0"]


def test_zeros_within_a_signal_and_a_signal_of_zeros_stay(path: Path) -> None:
    exam = SIGNALS[0].T.copy()
    exam[:, 100:200] = 0
    exam[:6, 0] = 0
    write_code15(path, [exam, np.zeros((12, 300))], [1, 2], 400)
    np.testing.assert_array_equal(read(path, row=0).signal, exam.astype(np.float32))
    assert read(path, row=1).signal.shape == (12, 400)


def test_what_is_not_quite_code15_says_its_rate_itself(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file["tracings"] = SIGNALS
    assert "states no sampling rate" in says(path, NOTHING)
    with h5py.File(path, "r+") as file:
        file["exam_id"] = np.arange(3)
    assert "states no sampling rate" in says(path, NOTHING)


def test_a_unit_of_code15_may_be_assumed(path: Path) -> None:
    write_code15(path, [SIGNALS[0].T], [1], 300)
    recording = read(path, Assumed(100.0, LEADS[::-1], "uV"), 0)
    assert (recording.sample_rate, recording.leads[0], recording.unit) == (400, "DI", "mV")
    np.testing.assert_allclose(recording.signal, SIGNALS[0].T / 1e3, rtol=1e-6)


# Other arrays of many recordings


@pytest.mark.parametrize("name", ["tracings", "signals", "ecg", "X", "data", "a/b/c"])
@pytest.mark.parametrize("leads_last", [True, False])
def test_an_array_of_recordings_has_its_leads_on_either_axis(name: str, leads_last: bool, path: Path) -> None:
    with h5py.File(path, "w") as file:
        file[name] = SIGNALS if leads_last else SIGNALS.transpose(0, 2, 1)
        file["labels"] = np.zeros((4, 71))
    assert names(path) == ["0", "1", "2", "3"]
    for row in range(4):
        recording = read(path, ASSUMED, row)
        assert recording[1:5] == (500, LEADS, None, 0)
        np.testing.assert_array_equal(recording.signal, SIGNALS[row].T)


def test_eight_leads_are_told_by_their_number(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file["ecg"] = SIGNALS[..., :8]
        file["ecg"].attrs["leads"] = "I, II, V1, V2, V3, V4, V5, V6"
    assert read(path, ASSUMED, 1).leads == ("I", "II", "V1", "V2", "V3", "V4", "V5", "V6")


@pytest.mark.parametrize("where", ["array", "file", "dataset"])
def test_rate_leads_and_unit_stand_in_attributes_or_datasets(where: str, path: Path) -> None:
    facts = {"Sampling_Rate": 250, "lead_names": list(LEADS[::-1]), "units": "uV"}
    with h5py.File(path, "w") as file:
        file["g/ecg"] = SIGNALS
        for name, value in facts.items():
            if where == "dataset":
                file[f"g/{name}"] = value
            else:
                (file["g/ecg"] if where == "array" else file).attrs[name] = value
    recording = read(path, Assumed(100.0, LEADS, "V"), 2)
    assert recording[1:5] == (250, LEADS[::-1], "mV", 0)
    np.testing.assert_allclose(recording.signal, SIGNALS[2].T / 1e3)


def test_each_row_may_have_its_own_rate(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file["ecg"], file["fs"] = SIGNALS, [100, 250, 500, 1000]
    assert [read(path, ASSUMED, row).sample_rate for row in range(4)] == [100, 250, 500, 1000]
    with h5py.File(path, "r+") as file:
        del file["fs"]
        file["fs"] = [100, 250]
    assert says(path) == "the HDF5 file does not state one sampling rate"


@pytest.mark.parametrize("name", ["exam_id", "id", "ids", "record_id", "ecg_id"])
def test_ids_are_text_whatever_they_are(name: str, path: Path) -> None:
    odd = ["a/b", "x y\n", "Ägypten ☃", ""]
    kinds = {"S": np.array([text.encode() for text in odd]), "O": np.array(odd, h5py.string_dtype())}
    for ids, expected in (
        (kinds["S"], odd),
        (kinds["O"], odd),
        (np.array([1, 1, -3, 4]), ["1", "1", "-3", "4"]),
        (np.array([1.0, 2.5, 3, 4]), ["1", "2.5", "3", "4"]),
    ):
        with h5py.File(path, "w") as file:
            file["x"], file[name] = SIGNALS, ids
        assert names(path) == expected


def test_ids_of_another_number_than_the_rows_are_none(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file["x"], file["id"] = SIGNALS, [1, 2, 3]
    assert names(path) == ["0", "1", "2", "3"]


@pytest.mark.parametrize("options", [{"compression": "gzip"}, {"compression": "lzf", "shuffle": True}])
def test_compressed_arrays_are_read(options: dict[str, object], path: Path) -> None:
    with h5py.File(path, "w") as file:
        file.create_dataset("x", data=SIGNALS, chunks=(3, 100, 5), fletcher32=True, **options)
    np.testing.assert_array_equal(read(path, ASSUMED, 3).signal, SIGNALS[3].T)


def test_a_file_that_changed_is_opened_again(path: Path) -> None:
    for value in (1.0, 2.0):
        path.unlink(missing_ok=True)
        with h5py.File(path, "w") as file:
            file["x"] = SIGNALS * value
        np.testing.assert_array_equal(read(path, ASSUMED, 0).signal, SIGNALS[0].T * value)
    path.write_bytes(path.read_bytes()[:9_000])
    assert says(path).startswith("not a readable HDF5 file")
    path.unlink()
    assert says(path) == "a file is not there (x.h5)"


# Single recordings


def test_a_matrix_is_a_single_recording(path: Path) -> None:
    for matrix in (SIGNALS[0], SIGNALS[0].T):
        with h5py.File(path, "w") as file:
            file["ecg"], file["fs"] = matrix, 500
        assert readers.contents(path, "hdf5") is None
        np.testing.assert_array_equal(read(path, Assumed(leads=LEADS)).signal, SIGNALS[0].T)


def test_matlab_files_are_transposed(path: Path) -> None:
    with h5py.File(path, "w", userblock_size=512) as file:  # as MATLAB writes it, scalars too
        file["feats"], file["org_sample_rate"] = SIGNALS[0], [[400.0]]
        file["curr_sample_rate"] = np.zeros(2, np.uint64)  # []
        file["#refs#/a"], file["other"] = SIGNALS[1], SIGNALS[1]
    recording = hdf5.read_matlab(path, NOTHING)
    assert recording[1:5] == (400, LEADS, None, 0)
    np.testing.assert_array_equal(recording.signal, SIGNALS[0].T)
    with h5py.File(path, "r+") as file:
        file["curr_sample_rate"][...] = 500
        file.move("feats", "val")
        del file["other"]
    recording = hdf5.read_matlab(path, Assumed(1.0, LEADS[::-1]))
    assert recording[1:5] == (500, LEADS[::-1], None, 0)


# What does not tell enough


def test_rows_that_are_not_there_or_not_named_are_refused(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file["x"] = SIGNALS
    assert says(path, row=4) == "the HDF5 file has no such row (4 of 4)"
    assert says(path, row=-1) == "the HDF5 file has no such row (-1 of 4)"
    assert says(path, row=None) == "the HDF5 file holds many recordings and none was asked for (4)"


def test_several_arrays_are_refused_by_name(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file["x_train"], file["x_test"] = SIGNALS, SIGNALS[:2]
    reason = "the HDF5 file has several arrays that can be the signal (x_test (2, 300, 12), x_train (4, 300, 12))"
    assert says(path) == reason
    with pytest.raises(UnreadableError, match="several arrays"):
        readers.contents(path, "hdf5")


def test_axes_that_do_not_tell_are_refused(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file["x"] = SIGNALS[:, :12]
    assert "does not tell which axis" in says(path)
    with h5py.File(path, "w") as file:
        file["x"] = SIGNALS[..., :3]
    assert "does not fit the number of leads" in says(path, Assumed(500.0))


def test_a_file_without_an_array_of_numbers_is_refused(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file["notes"] = "none"
        file["empty"] = np.zeros((0, 5, 12))
        file["nothing"] = h5py.Empty("f8")
        file["when"] = np.zeros((2, 2), "S3")
    assert says(path) == "the HDF5 file has no array of recordings (only empty, notes, when)"


# What it must not get away with


def test_data_in_other_files_are_not_followed(path: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret.h5"
    with h5py.File(secret, "w") as file:
        file["x"] = SIGNALS
    (tmp_path / "secret.bin").write_bytes(SIGNALS.tobytes())
    layout = h5py.VirtualLayout(SIGNALS.shape, "f8")
    layout[...] = h5py.VirtualSource(secret, "x", SIGNALS.shape)
    external = [(str(tmp_path / "secret.bin"), 0, SIGNALS.nbytes)]
    for kind in ("link", "virtual", "external"):
        with h5py.File(path, "w") as file:
            if kind == "link":
                file["x"] = h5py.ExternalLink(str(secret), "/x")
            elif kind == "virtual":
                file.create_virtual_dataset("x", layout)
            else:
                file.create_dataset("x", SIGNALS.shape, "f8", external=external)
        assert says(path) == "the HDF5 file's data lie in other files, which are not followed (x)"


def test_links_within_the_file_even_in_a_loop_change_nothing(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file["g/x"] = SIGNALS
        file["g/g"], file["soft"], file["lost"] = file["g"], h5py.SoftLink("/g/x"), h5py.SoftLink("/nowhere")
    assert len(names(path)) == 4


@pytest.mark.parametrize("n", [10**12, 1_000_000])
def test_recordings_that_are_only_declared_are_not_counted(n: int, path: Path) -> None:
    with h5py.File(path, "w") as file:
        array = file.create_dataset("x", (n, 4096, 12), "f4", chunks=(1, 4096, 12), compression="gzip")
        array[0] = 1
    with pytest.raises(UnreadableError, match=r"more recordings than are read|empty or almost"):
        readers.contents(path, "hdf5")


def test_an_endless_recording_is_refused(path: Path) -> None:
    with h5py.File(path, "w") as file:
        array = file.create_dataset("x", (12, 200_000_000), "i1", chunks=(12, 1_000_000), compression="gzip")
        for n in range(3):
            array[:, n * 10**6 : (n + 1) * 10**6] = RNG.integers(0, 99, (12, 10**6))
    assert says(path).startswith("too long to read at once")


def test_a_chunk_that_inflates_beyond_memory_is_a_reason(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deflate = zlib.compressobj(1)
    megabyte = bytes(2**20)
    bomb = b"".join(deflate.compress(megabyte) for _ in range(300)) + deflate.flush()
    for _ in range(2):  # once more around it: 300 MB in a few kilobytes, of which HDF5 declares nothing
        bomb = zlib.compress(bomb)
    with h5py.File(path, "w") as file:
        properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        properties.set_chunk((1, 300, 12))
        for _ in range(3):
            properties.set_filter(h5py.h5z.FILTER_DEFLATE, 0, (9,))
        space = h5py.h5s.create_simple((1, 300, 12))
        array = h5py.h5d.create(file.id, b"x", h5py.h5t.NATIVE_FLOAT, space, properties)
        array.write_direct_chunk((0, 0, 0), bomb)
    reading_process.stop()
    monkeypatch.setattr(reading_process, "MOST_BYTES", 2**28)
    assert "Can't" in says(path) or "memory" in says(path)
    reading_process.stop()


def test_too_many_objects_are_refused(path: Path) -> None:
    with h5py.File(path, "w") as file:
        for n in range(1_100):
            file.create_group(str(n))
    assert "too many objects" in says(path)


@pytest.mark.parametrize("data", [b"", b"\x89HDF\r\n\x1a\n", b"\x89HDF\r\n\x1a\n" + bytes(5000), b"Dear all," * 99])
def test_what_is_no_hdf5_is_refused(data: bytes, path: Path) -> None:
    path.write_bytes(data)
    assert says(path).startswith("not a readable HDF5 file")


# The library does crash on some of these files, and hangs on others.
@settings(deadline=None, derandomize=True, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    cut=st.integers(0, 6_000),
    flips=st.lists(st.tuples(st.integers(0, 5_000), st.integers(0, 255)), max_size=3),
    whole=st.booleans(),
)
def test_a_damaged_file_is_a_recording_or_a_reason(
    cut: int, flips: list[tuple[int, int]], whole: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("damaged") / "x.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("tracings", data=SIGNALS[:, :20].astype("f4"), chunks=(1, 20, 12), compression="gzip")
        file["exam_id"] = np.arange(4)
        file.attrs["unit"], file["tracings"].attrs["leads"] = "mV", list(LEADS)
    damaged = bytearray(path.read_bytes())
    for at, value in flips:
        damaged[at % len(damaged)] = value
    path.write_bytes(damaged if whole else damaged[:cut])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reading_process, "MOST_CPU_S", 0.5)
        try:
            contents = readers.contents(path, "hdf5")
            recording = read(path, ASSUMED, contents[-1].row if contents else None)
        except UnreadableError:
            return
    assert recording.signal.shape[0] == len(recording.leads)
