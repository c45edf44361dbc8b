"""WFDB records: read directly or by wfdb, bit for bit the same, and nothing that a header says leads astray."""

import os
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import scipy.io
import wfdb
from hypothesis import given, settings
from hypothesis import strategies as st

from ecgpipe import readers
from ecgpipe.readers import LEADS, MIXED, Assumed, Recording, UnreadableError
from ecgpipe.readers import wfdb as reader

MIMIC_LEADS = ("I", "II", "III", "aVR", "aVF", "aVL", "V1", "V2", "V3", "V4", "V5", "V6")
NOTHING = Assumed()
SAMPLES = np.random.default_rng(0).integers(-2000, 2000, (12, 300)).astype(np.int16)
PLAIN = "x 2 500 4\nx.dat 16 200(0)/mV 16 0 0 0 0 I\nx.dat 16 200(0)/mV 16 0 0 0 0 II\n"


def read(path: Path, assumed: Assumed = NOTHING) -> Recording:
    return readers.read(path, "wfdb", assumed)


def says(path: Path, assumed: Assumed = NOTHING) -> str:
    with pytest.raises(UnreadableError) as caught:
        read(path, assumed)
    return str(caught.value)


def written(folder: Path, header: str | bytes, data: bytes = bytes(range(16)), name: str = "x") -> Path:
    (folder / f"{name}.hea").write_bytes(header if isinstance(header, bytes) else header.encode())
    (folder / f"{name}.dat").write_bytes(data)
    return folder / f"{name}.hea"


def write(folder: Path, leads: tuple[str, ...] = LEADS, name: str = "x", **options: object) -> Path:
    """A record of `SAMPLES` in microvolts, made by wfdb."""
    order = [LEADS.index(lead) for lead in leads]
    options = {"fmt": ["16"] * 12, "fs": 500, "units": ["mV"] * 12} | options
    options = {"d_signal": SAMPLES[order].T.astype(np.int64), "adc_gain": [1000.0] * 12, "baseline": [0] * 12} | options
    wfdb.wrsamp(name, sig_name=list(leads), write_dir=str(folder), **options)
    return folder / f"{name}.hea"


def by_lead(recording: Recording) -> np.ndarray:
    return recording.signal[[recording.leads.index(lead) for lead in LEADS]]


def assert_as_wfdb_reads_it(path: Path) -> None:
    """Both in this order, which in_mv would hide for other units: bit for bit."""
    record = wfdb.rdrecord(str(path.with_suffix("")))
    header = reader._header(path)
    values, _ = reader._values(path, header, list(range(len(header.signals))))
    np.testing.assert_array_equal(values.view(np.int64), np.ascontiguousarray(record.p_signal.T).view(np.int64))
    assert header.rate == record.fs
    assert [signal.name for signal in header.signals] == record.sig_name
    assert all(s.unit == unit for s, unit in zip(header.signals, record.units, strict=True) if s.unit is not None)


# What a header says


@pytest.mark.parametrize("kind", ["16", "24", "212", "80"])
@pytest.mark.parametrize("date", ["0:00:00 2006", "2014-05-08 05:05:15", "05-May-2020 09:49:17", "noon", "31/02/2020"])
def test_no_date_decides(kind: str, date: str, tmp_path: Path) -> None:
    path = write(tmp_path, fmt=[kind] * 12, d_signal=(SAMPLES // 100).T.astype(np.int64))
    whole = read(path).signal
    first, *lines = path.read_text().splitlines()
    path.write_text("\n".join([f"{first} {date}", *lines]))
    np.testing.assert_array_equal(read(path).signal, whole)


def test_names_of_folders_and_records_that_wfdb_does_not_take(tmp_path: Path) -> None:
    whole = by_lead(read(write(tmp_path, fmt=["24"] * 12)))
    odd = tmp_path / "s3::a b"
    odd.mkdir()
    first, *lines = (tmp_path / "x.hea").read_text().splitlines()
    (odd / "M\u00fcller (1).hea").write_text("\n".join([first, *lines]))
    (odd / "x.dat").write_bytes((tmp_path / "x.dat").read_bytes())
    np.testing.assert_array_equal(by_lead(read(odd / "M\u00fcller (1).hea")), whole)


def test_no_signal_file_is_overwritten(tmp_path: Path) -> None:
    line = "record.hea 24 200/mV 24 0 0 0 0 I\n"
    (tmp_path / "record.hea").write_text(f"record 1 500 4\n{line}")
    before = (tmp_path / "record.hea").read_bytes()
    assert says(tmp_path / "record.hea").startswith("not a readable WFDB record (")
    assert (tmp_path / "record.hea").read_bytes() == before


def test_a_record_without_a_lead_of_the_twelve_is_read_at_the_rate_of_most(tmp_path: Path) -> None:
    lines = ["x 3 125 2", *(f"x.dat {kind} 200/mV 16 0 0 0 0 {name}" for kind, name in
             (("16x2", "MCL1"), ("16", "ABP"), ("16", "RESP")))]  # fmt: skip
    found = read(written(tmp_path, "\n".join(lines)))
    assert (found.leads, found.sample_rate) == (("ABP", "RESP"), 125)


@pytest.mark.parametrize("leads", [LEADS, MIMIC_LEADS, LEADS[::-1]])
def test_leads_are_known_by_name(leads: tuple[str, ...], tmp_path: Path) -> None:
    recording = read(write(tmp_path, leads))
    assert recording[1:5] == (500, leads, "mV", 0.0)
    assert recording.signal.flags.c_contiguous
    assert recording.signal.dtype == np.float64
    np.testing.assert_array_equal(by_lead(recording), SAMPLES / 1000)


@pytest.mark.parametrize(("unit", "factor"), [("mV", 1.0), ("uV", 1e-3), ("V", 1e3), ("MV", 1.0), ("\u00b5V", 1e-3)])
@pytest.mark.parametrize("kind", ["16", "24"])
@pytest.mark.parametrize("encoding", ["utf-8", "latin-1"])
def test_units_become_millivolts(unit: str, factor: float, kind: str, encoding: str, tmp_path: Path) -> None:
    path = write(tmp_path, fmt=[kind] * 12)
    path.write_bytes(path.read_text().replace("/mV", f"/{unit}").encode(encoding))
    recording = read(path)
    assert recording.unit == "mV"
    np.testing.assert_array_equal(by_lead(recording), SAMPLES / 1000 * factor)


def test_units_that_differ_become_millivolts_lead_by_lead(tmp_path: Path) -> None:
    recording = read(write(tmp_path, units=["mV"] * 6 + ["uV"] * 6))
    assert recording.unit == "mV"
    np.testing.assert_array_equal(recording.signal[6:], SAMPLES[6:] / 1000 * 1e-3)


def test_a_unit_that_is_none_of_voltage_stays_as_it_is(tmp_path: Path) -> None:
    recording = read(write(tmp_path, units=["mV"] * 11 + ["mmHg"]))
    assert recording.unit == MIXED
    np.testing.assert_array_equal(by_lead(recording), SAMPLES / 1000)


@pytest.mark.parametrize("gain", ["", " 0", " 0/mV", " 0.0(0)/mV 16 0 0 0 0 I"])
def test_a_gain_that_is_missing_or_zero_says_that_nobody_calibrated_the_lead(gain: str, tmp_path: Path) -> None:
    path = written(tmp_path, f"x 1 500 8\nx.dat 16{gain}\n")
    recording = read(path, Assumed(leads=("I",), unit="mV"))
    assert recording.unit is None
    np.testing.assert_array_equal(recording.signal, wfdb.rdsamp(str(path.with_suffix("")))[0].T)


def test_a_header_whose_name_has_dots_and_whose_rate_is_a_fraction(tmp_path: Path) -> None:
    header = write(tmp_path, fs=360.5).read_text()
    (tmp_path / "x.1.2.hea").write_text(header)
    assert read(tmp_path / "x.1.2.hea").sample_rate == 360.5


def test_a_header_without_a_rate_says_250_as_the_format_has_it(tmp_path: Path) -> None:
    assert read(written(tmp_path, "x 1\nx.dat 16 200 16 0 0 0 0 I\n"), Assumed(500.0)).sample_rate == 250


def test_leads_without_names_take_them_from_the_settings(tmp_path: Path) -> None:
    path = written(tmp_path, "x 2 500 4\nx.dat 16 200\nx.dat 16 200\n")
    assert says(path).startswith("the file names no leads; set preprocess.assume_leads")
    assert says(path, Assumed(leads=LEADS)).startswith("the number of signals does not fit the number of leads (2, 12")
    assert read(path, Assumed(leads=("V1", "V2"))).leads == ("V1", "V2")


def test_dates_that_nobody_writes_like_this_do_no_harm(tmp_path: Path) -> None:
    path = written(tmp_path, PLAIN.replace("500 4", "500 4 12:33:59 12-May-2020 and more"))
    assert read(path).signal.shape == (2, 4)


# Both ways of reading


NUMBERS = st.sampled_from(["200", "1000.0", "4.88", "1e3", "-200", "0", "0.5", "1e-3"])
INTEGERS = st.integers(-40000, 40000)
FIELDS = st.tuples(INTEGERS, INTEGERS, INTEGERS, st.just(0))  # wfdb takes a negative block size for a name


@st.composite
def plain_records(draw: st.DrawFn) -> tuple[str, bytes]:
    """A header with its optional fields left out from some point on, and samples."""
    count, frames = draw(st.integers(1, 14)), draw(st.integers(1, 20))
    offset = draw(st.sampled_from(["", "+0", "+24", "x1+24", "x1", ":0", "x1:0+2"]))
    line = draw(st.sampled_from([f"r {count} 500 {frames}", f"r {count} 360.5/500(7) {frames} 10:11:12 1/2/2020"]))
    lines = [draw(st.sampled_from([line, line, f"r {count} 100", f"r {count}"]))]
    for number in range(count):
        text = f"r.dat 16{offset}"
        depth = draw(st.integers(0, 7))
        if depth:
            baseline = draw(st.one_of(st.just(""), INTEGERS.map(lambda value: f"({value})")))
            text += f" {draw(NUMBERS)}{baseline}{draw(st.sampled_from(['', '/mV', '/uV']))}"
        fields = ["16", *map(str, draw(FIELDS))]
        text += "".join(f" {field}" for field in fields[: max(0, depth - 1)])
        text += draw(st.sampled_from(["", f" L{number}", f" lead {number}, once"])) if depth > 5 else ""
        lines.append(text)
    samples = st.lists(st.one_of(st.integers(-32768, 32767), st.just(-32768)), min_size=1, max_size=40)
    values = np.resize(np.array(draw(samples), "<i2"), (frames, count))
    start = int(offset.partition("+")[2] or 0)
    return "\r\n".join([*lines, "# Age: 7"]), b"\1" * start + values.tobytes() + draw(st.sampled_from([b"", b"\0"]))


@given(record=plain_records())
@settings(deadline=None, max_examples=150)
def test_both_ways_of_reading_agree_bit_for_bit(
    record: tuple[str, bytes], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.getbasetemp()
    (folder / "r.hea").write_text(record[0], newline="")
    (folder / "r.dat").write_bytes(record[1])
    assert_as_wfdb_reads_it(folder / "r.hea")


def real(reference: Path) -> list[tuple[str, np.ndarray]]:
    files = sorted((reference / "code15").glob("*.mat"))
    return [(path.stem, scipy.io.loadmat(path)["feats"].astype(np.float64)) for path in files]


@pytest.mark.parametrize("kind", ["16", "212", "24", "32", "80"])
def test_real_recordings_come_back_within_a_step_of_each_format(kind: str, reference: Path, tmp_path: Path) -> None:
    for name, signal in real(reference):
        wfdb.wrsamp(
            name, fs=400, units=["mV"] * 12, sig_name=list(MIMIC_LEADS), fmt=[kind] * 12, write_dir=str(tmp_path),
            p_signal=signal[[LEADS.index(lead) for lead in MIMIC_LEADS]].T,
        )  # fmt: skip
        path = tmp_path / f"{name}.hea"
        assert_as_wfdb_reads_it(path)
        step = 1 / np.array([s.gain for s in reader._header(path).signals]).min()
        assert np.abs(by_lead(read(path)) - signal).max() <= step


@pytest.mark.parametrize("kind", ["8", "16", "61", "80", "160", "212", "310", "311"])
def test_old_formats_are_read_as_wfdb_reads_them(kind: str, tmp_path: Path) -> None:
    data = np.random.default_rng(1).integers(0, 256, 4 * 3 * 40, dtype=np.uint8)
    data[3::4] &= 0x3F  # of formats 310 and 311, two bits are none
    lines = [f"x.dat {kind} 100({n})/mV 12 0 5 0 0 {lead}" for n, lead in enumerate(["I", "II", "III"])]
    path = written(tmp_path, "\n".join(["x 3 500 40", *lines]), data.tobytes())
    assert_as_wfdb_reads_it(path)
    assert read(path).leads == ("I", "II", "III")


@pytest.mark.parametrize("kind", ["508", "516", "524"])
def test_flac_is_read(kind: str, tmp_path: Path) -> None:
    values = SAMPLES // 32
    path = write(tmp_path, fmt=[kind] * 12, d_signal=values.T.astype(np.int64))
    assert_as_wfdb_reads_it(path)
    np.testing.assert_array_equal(read(path).signal, values / 1000)
    path.write_text(path.read_text().replace("12 500 300", "12 500"))
    assert says(path) == "the WFDB header states no number of samples"


def test_signals_in_several_files_are_read(tmp_path: Path) -> None:
    path = write(tmp_path)
    header = path.read_text().splitlines()
    (tmp_path / "y.dat").write_bytes(SAMPLES[8:].T.astype("<i2").tobytes())
    (tmp_path / "x.dat").write_bytes(SAMPLES[:8].T.astype("<i2").tobytes())
    path.write_text("\n".join(header[:9] + [line.replace("x.dat", "y.dat") for line in header[9:]]))
    np.testing.assert_array_equal(read(path).signal, SAMPLES / 1000)
    assert_as_wfdb_reads_it(path)


def test_a_mat_signal_file_as_physionet_2021_has_it(reference: Path, tmp_path: Path) -> None:
    [(_, signal), *_] = real(reference)
    values = np.round(signal * 1000).astype(np.int16)
    scipy.io.savemat(tmp_path / "A0001.mat", {"val": values}, format="4")
    lines = [
        f"A0001.mat 16x1+24 1000.0(0)/mV 16 0 {row[0]} 0 0 {lead}" for row, lead in zip(values, LEADS, strict=True)
    ]
    header = [f"A0001 12 400 {values.shape[1]}", *lines, "#Age: 74", "#Sex: Male", "#Dx: 426783006,59118001"]
    path = tmp_path / "A0001.hea"
    path.write_text("\n".join(header))
    assert (tmp_path / "A0001.mat").stat().st_size == 24 + values.nbytes
    assert_as_wfdb_reads_it(path)
    assert np.abs(read(path).signal - signal).max() <= 0.0005 + 1e-12
    assert reader.parts(path) == ["A0001.mat"]
    assert reader.comments(path) == {"Age": "74", "Sex": "Male", "Dx": "426783006,59118001"}


# Frames


def test_leads_with_several_samples_per_frame_have_as_many_times_the_rate(tmp_path: Path) -> None:
    lines = [f"x.dat 16x4 1000/mV 16 0 0 0 0 {lead}" for lead in ("I", "II")]
    data = np.arange(2 * 4 * 10, dtype="<i2")
    recording = read(written(tmp_path, "\n".join(["x 2 125 10", *lines]), data.tobytes()))
    assert recording.sample_rate == 500
    np.testing.assert_array_equal(recording.signal, data.reshape(10, 2, 4).transpose(1, 0, 2).reshape(2, -1) / 1000)


def test_leads_of_different_rates_are_refused_and_other_signals_left_out(tmp_path: Path) -> None:
    lines = [
        "x 3 125 10",
        *(f"x.dat 16x{n} 1000/mV 16 0 0 0 0 {lead}" for n, lead in [(4, "I"), (4, "II"), (1, "RESP")]),
    ]
    path = written(tmp_path, "\n".join(lines), bytes(9 * 2 * 10))
    assert read(path).leads == ("I", "II")
    path.write_text("\n".join(lines).replace("RESP", "III"))
    assert says(path).startswith("the leads differ in their sampling rates (")


def test_a_skewed_signal_ends_in_nan_whatever_its_frames(tmp_path: Path) -> None:
    for frame in (1, 2):
        lines = [f"x.dat 16x{frame}:{skew} 1000/mV 16 0 0 0 0 {lead}" for skew, lead in [(0, "I"), (3, "II")]]
        data = np.arange(2 * frame * 10, dtype="<i2").reshape(10, 2, frame)
        signal = read(written(tmp_path, "\n".join(["x 2 125 10", *lines]), data.tobytes())).signal
        np.testing.assert_array_equal(signal[0], data[:, 0].ravel() / 1000)
        np.testing.assert_array_equal(signal[1][: 7 * frame], data[3:, 1].ravel() / 1000)
        assert np.isnan(signal[1][7 * frame :]).all()


# Records of segments


def segment(
    folder: Path, name: str, leads: tuple[str, ...], samples: np.ndarray, unit: str = "mV", rate: int = 500
) -> str:
    lines = [f"{name}.dat 16 1000(0)/{unit} 16 0 0 0 0 {lead}" for lead in leads]
    (folder / f"{name}.dat").write_bytes(samples.T.astype("<i2").tobytes())
    (folder / f"{name}.hea").write_text("\n".join([f"{name} {len(leads)} {rate} {samples.shape[1]}", *lines]))
    return f"{name} {samples.shape[1]}"


def test_segments_that_all_have_the_same_signals_are_joined(tmp_path: Path) -> None:
    lines = [segment(tmp_path, "a", LEADS, SAMPLES[:, :100]), segment(tmp_path, "b", LEADS, SAMPLES[:, 100:])]
    path = tmp_path / "x.hea"
    path.write_text("\n".join(["x/2 12 500 300", *lines]))
    recording = read(path)
    assert recording[1:5] == (500, LEADS, "mV", 0.0)
    np.testing.assert_array_equal(recording.signal, SAMPLES / 1000)
    np.testing.assert_array_equal(recording.signal, wfdb.rdsamp(str(tmp_path / "x"))[0].T)
    assert reader.parts(path) == ["a.hea", "b.hea", "a.dat", "b.dat"]


def test_segments_that_differ_in_signals_are_nan_where_they_have_none(tmp_path: Path) -> None:
    (tmp_path / "l.hea").write_text("\n".join(["l 3 500 0", *(f"~ 0 1000/mV 16 0 0 0 0 {lead}" for lead in LEADS[:3])]))
    first, second = (
        segment(tmp_path, "a", ("II", "I"), SAMPLES[:2, :100]),
        segment(tmp_path, "b", ("III",), SAMPLES[:1, :50]),
    )
    path = tmp_path / "x.hea"
    path.write_text("\n".join(["x/5 3 500 260", "l 0", first, "~ 10", second, first]))
    recording = read(path)
    expected = np.full((3, 260), np.nan)
    expected[:2, :100] = expected[:2, 160:] = SAMPLES[1::-1, :100] / 1000
    expected[2, 110:160] = SAMPLES[0, :50] / 1000
    assert recording[1:5] == (500, LEADS[:3], "mV", 0.0)
    np.testing.assert_array_equal(recording.signal, expected)
    np.testing.assert_array_equal(recording.signal, wfdb.rdsamp(str(tmp_path / "x"))[0].T)
    assert reader.parts(path) == ["l.hea", "a.hea", "b.hea", "a.dat", "b.dat"]


def test_a_segment_that_does_not_fit_the_record_is_told(tmp_path: Path) -> None:
    path = tmp_path / "x.hea"
    good = segment(tmp_path, "a", ("I", "II"), SAMPLES[:2, :100])
    two = SAMPLES[:2, :50]
    bad = {
        "a segment has other signals than the record (b)": segment(tmp_path, "b", ("II", "I"), two),
        "a segment has another sampling rate than the record (c)": segment(tmp_path, "c", ("I", "II"), two, rate=250),
        "the segments have a lead in different units (d)": segment(tmp_path, "d", ("I", "II"), two, "uV"),
        "a segment is not as long as the record says (e)": segment(tmp_path, "e", ("I", "II"), two[:, 1:])[:1] + " 50",
        "a segment of the record consists of segments itself (x)": "x 50",
        "a file is not there (gone.hea)": "gone 50",
    }
    for reason, line in bad.items():
        path.write_text(f"x/2 2 500 150\n{good}\n{line}\n")
        assert says(path) == reason
    path.write_text(f"x/1 2 500 150\n{good}\n")
    assert says(path).startswith("the segments' lengths do not add up to the record's")
    path.write_text("x/2 2 500 2000000000\na 1000000000\na 1000000000\n")
    assert says(path).startswith("too long to read at once")
    path.write_text("x/2 2 500 20\n~ 10\n~ 10\n")
    assert says(path) == "the record has no segment with signals"


# Headers that say what cannot be


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        (PLAIN, "", "the WFDB header is empty"),
        (PLAIN, "<html>", "not a WFDB header (its first line"),
        ("x 2 500 4", "x 3 500 4", "the WFDB header does not list as many signals as it states (3, 2)"),
        ("x 2 500 4", "x -2 500 4", "not a WFDB header (its first line"),
        ("x 2 500 4", "x 999999999 500 4", "the WFDB header does not list as many signals as it states"),
        (PLAIN, "x 0 500 4", "the WFDB header lists no signals"),
        (PLAIN, "x/0 2 500 4", "the WFDB header lists no segments"),
        (" 500 ", " 0 ", "the WFDB header states an impossible sampling rate (0 Hz)"),
        (" 500 ", " -500 ", "the WFDB header states an impossible sampling rate (-500 Hz)"),
        (" 500 ", " 1e999 ", "the WFDB header states an impossible sampling rate (1e999 Hz)"),
        (" 500 ", " nan ", "not a WFDB header (its first line"),
        ("500 4", "500 -4", "the WFDB header states a negative number of samples (-4)"),
        ("500 4", "500 5", "a signal file is shorter than the header says (x.dat, 16 bytes)"),
        ("500 4", "500 999999999999999", "a signal file is shorter than the header says (x.dat, 16 bytes)"),
        ("x.dat 16 ", "x.dat 16+2 ", "a signal file is shorter than the header says (x.dat, 16 bytes)"),
        ("x.dat 16 ", "x.dat 32 ", "a signal file is shorter than the header says (x.dat, 16 bytes)"),
        ("x.dat 16 ", "x.dat 212 ", ""),
        ("500 4", "500 5", "a signal file is shorter"),
        ("x.dat 16 ", "x.dat 17 ", "the signals are in no format that WFDB has (17)"),
        ("x.dat 16 ", "x.dat 16x0 ", "not a WFDB header (a signal's line"),
        ("x.dat 16 ", "x.dat 16x999999999 ", "a signal file is shorter than the header says"),
        ("x.dat 16 ", "x.dat sixteen ", "not a WFDB header (a signal's line"),
        (" 200(0)/mV", " 1e999(0)/mV", "the WFDB header states an impossible gain (1e999)"),
        (" 200(0)/mV", " 1,000(0)/mV", "not a WFDB header (a signal's line"),
        (" 200(0)/mV", " 200(0.5)/mV", "not a WFDB header (a signal's line"),
        (" 200(0)/mV 16 0 0", " 200(0)/mV 16 0 0.5", "not a WFDB header (a signal's line"),
        ("x.dat 16 200(0)/mV 16 0 0 0 0 II", "x.dat 212 200", "the WFDB header states several formats for one"),
        ("x.dat 16 200(0)/mV 16 0 0 0 0 II", "gone.dat 16 200", "a file is not there (gone.dat)"),
        ("x.dat 16 200(0)/mV 16 0 0 0 0 II", "~ 0 200", "the signals are in no format that WFDB has (0)"),
        ("x.dat", "../x.dat", "the WFDB header names a file outside its folder ('../x.dat')"),
        ("x.dat", "/etc/passwd", "the WFDB header names a file outside its folder ('/etc/passwd')"),
        ("x.dat", "http://localhost/x.dat", "the WFDB header names a file outside its folder ('http://"),
        ("x.dat", "simplecache::s3://b/x.dat", "the WFDB header names a file outside its folder ('simplecache"),
        ("x.dat", "C:x.dat", "the WFDB header names a file outside its folder ('C:x.dat')"),
        ("x.dat", "..", "the WFDB header names a file outside its folder ('..')"),
        (PLAIN, "x/2 2 500 4\n../x 2\nx 2\n", "the WFDB header names a file outside its folder ('../x')"),
        (PLAIN, "x/2 2 500 4\nx 2 2 2\nx 2\n", "not a WFDB header (a segment's line"),
        (PLAIN, "x/1 2 500 4\nx 4\n", "a segment of the record consists of segments itself (x)"),
    ],
)  # fmt: skip
def test_a_header_that_says_what_cannot_be(old: str, new: str, reason: str, tmp_path: Path) -> None:
    path = written(tmp_path, PLAIN.replace(old, new))
    if reason:
        assert says(path).startswith(reason)
    else:
        assert read(path).signal.shape == (2, 4)


def test_a_name_that_leads_out_of_the_folder_is_refused_in_a_segments_header_too(tmp_path: Path) -> None:
    (tmp_path / "a.hea").write_text("a 1 500 4\nftp://localhost/a.dat 212 200\n")
    path = written(tmp_path, "x/1 1 500 4\na 4\n")
    assert says(path).startswith("the WFDB header names a file outside its folder ('ftp://")
    assert reader.parts(path) == ["a.hea"]


def test_a_signal_file_that_is_no_file_is_not_opened(tmp_path: Path) -> None:
    for kind in ("16", "212"):
        path = written(tmp_path, PLAIN.replace("x.dat 16", f"x.dat {kind}"))
        (tmp_path / "x.dat").unlink()
        os.mkfifo(tmp_path / "x.dat")
        assert says(path) == "not a file that holds anything (x.dat)"
        (tmp_path / "x.dat").unlink()
        (tmp_path / "x.dat").symlink_to("/dev/zero")
        assert says(path) == "not a file that holds anything (x.dat)"
        (tmp_path / "x.dat").unlink()
        (tmp_path / "x.dat").symlink_to("x.dat")
        assert says(path).startswith("not a file that can be opened (")
        (tmp_path / "x.dat").unlink()
        (tmp_path / "x.dat").mkdir()
        assert says(path) == "not a file that holds anything (x.dat)"
        (tmp_path / "x.dat").rmdir()


def test_a_header_that_is_no_file_is_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x.hea")
    assert says(tmp_path / "x.hea") == "not a file that holds anything (x.hea)"
    assert reader.parts(tmp_path / "x.hea") == []
    assert reader.comments(tmp_path / "x.hea") == {}


def test_promises_and_long_headers_take_no_memory(tmp_path: Path) -> None:
    path = written(tmp_path, PLAIN.replace("500 4", "500 100000000000"))
    (tmp_path / "long.hea").write_bytes(b"")
    os.truncate(tmp_path / "long.hea", 100_000_000)
    os.truncate(tmp_path / "x.dat", 400_000_000_000)  # on disk, it takes nothing either
    tracemalloc.start()
    assert says(path).startswith("too long to read at once (2 leads x 100000000000 samples)")
    assert says(tmp_path / "long.hea").startswith("the WFDB header is too long")
    assert reader.parts(tmp_path / "long.hea") == []
    assert tracemalloc.get_traced_memory()[1] < 5_000_000
    tracemalloc.stop()


def test_300_signals_are_a_recording(tmp_path: Path) -> None:
    lines = [f"x.dat 16 200/mV 16 0 0 0 0 lead {number}" for number in range(300)]
    assert read(written(tmp_path, "\n".join(["x 300 500 3", *lines]), bytes(1800))).signal.shape == (300, 3)


def test_parts_are_named_of_records_that_cannot_be_read(tmp_path: Path) -> None:
    assert reader.parts(written(tmp_path, PLAIN.replace(" 500 ", " -500 "))) == ["x.dat"]
    assert reader.parts(written(tmp_path, "not a header")) == []
    assert reader.parts(written(tmp_path, bytes(range(256)))) == []
    assert reader.parts(written(tmp_path, "x/3 1 500 9\nx 3\ny 3\n../z 3\n")) == ["x.hea", "y.hea"]
    assert reader.parts(tmp_path / "gone.hea") == []


def test_comments_are_kept_as_they_are_written(tmp_path: Path) -> None:
    path = written(tmp_path, PLAIN + "#Age: 74\n# Sex: F\n#Age: 3\n# a remark\n#Rx: Unknown: x\n# Diagn\u00f4se:\n")
    assert reader.comments(path) == {"Age": "74", "Sex": "F", "Rx": "Unknown: x", "Diagn\u00f4se": ""}


# Whatever is in it

TOKENS = st.one_of(
    st.sampled_from(["x", "12", "0", "500", "x.dat", "16", "212", "200/mV", "200(0)/mV", "I", "V1", "~", "#", "-1"]),
    st.sampled_from(["x/2", "16x2:1+3", "8", "516", "../x", "1e999", "y"]),
    st.text(st.characters(codec="utf-8", exclude_characters="\n"), max_size=4),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("any")
    (made / "x.dat").write_bytes(bytes(range(256)))
    segment(made, "y", ("I",), SAMPLES[:1, :12])
    return made


def assert_read_or_unreadable(path: Path) -> None:
    try:
        recording = read(path, Assumed(500.0, LEADS))
    except UnreadableError:
        pass
    else:
        assert recording.signal.dtype == np.float64
        assert recording.signal.shape[0] == len(recording.leads)
        assert 0 < recording.signal.shape[1] < 1000
    assert isinstance(reader.parts(path), list)
    assert isinstance(reader.comments(path), dict)


@given(lines=st.lists(st.lists(TOKENS, max_size=9).map(" ".join), max_size=4))
@settings(deadline=None, max_examples=200)
def test_any_header_is_read_or_unreadable(lines: list[str], folder: Path) -> None:
    (folder / "x.hea").write_bytes("\n".join(lines).encode())
    assert_read_or_unreadable(folder / "x.hea")


@given(start=st.integers(0, 90), content=st.binary(max_size=12), kind=st.sampled_from([b"16", b"212", b"24", b"8"]))
@settings(deadline=None, max_examples=200)
def test_any_damaged_header_is_read_or_unreadable(start: int, content: bytes, kind: bytes, folder: Path) -> None:
    header = PLAIN.encode().replace(b" 16 200", b" " + kind + b" 200")
    (folder / "x.hea").write_bytes(header[:start] + content + header[start + len(content) :])
    assert_read_or_unreadable(folder / "x.hea")
