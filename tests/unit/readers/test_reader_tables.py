"""CSV and Parquet files of one recording: leads by their columns' names, the rate by the times, and nothing guessed."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import scipy.io
from hypothesis import given, settings
from hypothesis import strategies as st

from ecgpipe import readers
from ecgpipe.readers import LEADS, MIXED, Assumed, Recording, UnreadableError, recording
from ecgpipe.readers.detect import format_of

NOTHING = Assumed()
ASSUMED = Assumed(500.0, LEADS)
SIGNAL = np.random.default_rng(0).integers(-2000, 2000, (12, 300)) / 1000  # mV, in the order of LEADS


def read(path: Path, assumed: Assumed = NOTHING) -> Recording:
    return readers.read(path, path.suffix[1:], assumed)


def says(path: Path, assumed: Assumed = NOTHING) -> str:
    with pytest.raises(UnreadableError) as caught:
        read(path, assumed)
    return str(caught.value)


def frame(rate: float = 500, time: str | None = "time", leads: tuple[str, ...] = LEADS) -> pd.DataFrame:
    times = {} if time is None else {time: np.arange(300) / rate}
    return pd.DataFrame(times | dict(zip(leads, SIGNAL, strict=True)))


def csv(folder: Path, content: pd.DataFrame | str | bytes, **options: object) -> Path:
    if isinstance(content, pd.DataFrame):
        content = str(content.to_csv(index=False, **options))  # type: ignore[call-overload]
    (folder / "x.csv").write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder / "x.csv"


def parquet(folder: Path, table: pa.Table | pd.DataFrame, metadata: dict[str, str] | None = None) -> Path:
    if isinstance(table, pd.DataFrame):
        table = pa.Table.from_pandas(table, preserve_index=False)
    table = table.replace_schema_metadata({**(table.schema.metadata or {}), **(metadata or {})})
    pq.write_table(table, folder / "x.parquet")
    return folder / "x.parquet"


# Both


def test_leads_are_columns_by_name_and_the_times_give_the_rate(tmp_path: Path) -> None:
    content = frame().assign(note="text", hr=70.5)[["V6", "note", "time", "hr", *LEADS[:11][::-1]]]
    for path in (csv(tmp_path, content), parquet(tmp_path, content)):
        found = read(path, Assumed(250.0, LEADS))
        assert found[1:5] == (500, ("V6", *LEADS[:11][::-1]), None, 0.0)
        assert found.signal.dtype == np.float64
        np.testing.assert_array_equal(found.signal, SIGNAL[::-1])


def test_real_recordings_come_back(reference: Path, tmp_path: Path) -> None:
    for path in sorted((reference / "code15").glob("*.mat"))[:3]:
        signal = scipy.io.loadmat(path)["feats"]  # float32
        content = pd.DataFrame(dict(zip(LEADS, signal, strict=True))).assign(time_ms=np.arange(signal.shape[1]) * 2.5)
        for file in (csv(tmp_path, content), parquet(tmp_path, content)):
            found = read(file)
            assert found[1:3] == (400, LEADS)
            np.testing.assert_array_equal(found.signal.astype(np.float32), signal)


@pytest.mark.parametrize(
    ("names", "factors", "unit"),
    [
        ([f"{lead} (mV)" for lead in LEADS], [1.0] * 12, "mV"),
        ([f"{lead} [uV]" for lead in LEADS], [1e-3] * 12, "mV"),
        ([f"{lead}_\u00b5V" for lead in LEADS], [1e-3] * 12, "mV"),
        ([f"{lead} (mV)" for lead in LEADS[:6]] + [f"{lead} (uV)" for lead in LEADS[6:]], [1.0] * 6 + [1e-3] * 6, "mV"),
        ([*(f"{lead} (mV)" for lead in LEADS[:6]), *LEADS[6:]], [1.0] * 12, MIXED),
        ([f"Lead {lead} (Einthoven)" for lead in LEADS], [1.0] * 12, None),
    ],
)
def test_units_stand_in_the_names_of_columns(names: list[str], factors: list[float], unit: str, tmp_path: Path) -> None:
    content = frame(leads=tuple(names))
    for path in (csv(tmp_path, content), parquet(tmp_path, content)):
        found = read(path)
        assert found.unit == unit
        np.testing.assert_array_equal(found.signal, SIGNAL * np.array(factors)[:, None])
    assert read(csv(tmp_path, frame()), Assumed(unit="uV")).unit == "mV"


def test_empty_cells_are_nan_and_an_empty_column_is_no_lead(tmp_path: Path) -> None:
    content = frame()
    content.loc[3, "I"] = np.nan
    content["V6"] = np.nan
    for path in (csv(tmp_path, content), csv(tmp_path, content, na_rep="NaN"), parquet(tmp_path, content)):
        found = read(path)
        assert found.leads == LEADS[:11]
        assert np.isnan(found.signal[0]).nonzero()[0].tolist() == [3]
    content[list(LEADS)] = np.nan
    assert np.isnan(read(parquet(tmp_path, content)).signal).all()


# The times


@pytest.mark.parametrize("rate", [500, 400, 360, 257, 1000, 512, 250.5])
@pytest.mark.parametrize("name", ["time", "Time", "t", "time_s", "seconds", "Time (s)", "timestamp", "time [ms]", "ms"])
def test_times_are_in_what_their_column_is_called(rate: float, name: str, tmp_path: Path) -> None:
    content, factor = frame(time=None), 1000 if "ms" in name else 1
    content[name] = np.arange(300) / rate * factor
    assert read(csv(tmp_path, content)).sample_rate == pytest.approx(rate, rel=1e-6)
    content[name] = 1_700_000_000 * factor + np.arange(300) / rate * factor  # a clock's, of which floats keep 0.2 us
    assert read(parquet(tmp_path, content)).sample_rate == pytest.approx(rate, rel=1e-4)


@pytest.mark.parametrize("rate", [500, 400, 360, 257, 1000, 512, 128])
def test_times_may_be_rounded_to_milliseconds(rate: int, tmp_path: Path) -> None:
    content = frame(time=None)
    content["time"] = np.round(np.arange(300) / rate, 3)
    assert read(csv(tmp_path, content)).sample_rate == rate


def test_times_may_be_a_clocks(tmp_path: Path) -> None:
    content = frame(time=None)
    content["timestamp"] = pd.date_range("2024-01-01 12:00", periods=300, freq="2ms")
    assert read(parquet(tmp_path, content)).sample_rate == 500
    assert read(csv(tmp_path, content)).sample_rate == 500


def broken(change: str) -> pd.DataFrame:
    content = frame()
    times = content["time"].to_numpy(copy=True)
    if change in ("gap", "one"):
        return content.drop(index=100) if change == "gap" else content[:1]
    if change in ("back", "nan", "inf"):
        times[100] = {"back": 0, "nan": np.nan, "inf": np.inf}[change]
    if change == "twice":
        times[100] = times[99]
    if change == "slower":
        times = np.cumsum(np.linspace(0.002, 0.0023, 300))
    if change == "milliseconds":
        times *= 1000
    return content.assign(time=times)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("gap", "the times have gaps (of up to 0.004 s"),
        ("back", "the times do not rise from row to row (time)"),
        ("twice", "the times do not rise from row to row (time)"),
        ("nan", "the times do not rise from row to row (time)"),
        ("inf", "the times do not rise from row to row (time)"),
        ("slower", "the times have gaps ("),
        ("milliseconds", "the times seem to be no seconds; is their column meant to be time_ms? (time)"),
        ("one", "the table has too few rows for a recording (1)"),
    ],
)
def test_times_that_are_no_samples_times_are_told(change: str, reason: str, tmp_path: Path) -> None:
    content = broken(change)
    assert says(csv(tmp_path, content), ASSUMED).startswith(reason)
    assert says(parquet(tmp_path, content), ASSUMED).startswith(reason)


CLOCKS = {
    "hours": lambda at: f"10:00:{at:06.3f}",
    "with a decimal comma": lambda at: f"10:00:{at:06.3f}".replace(".", ","),
    "elapsed": lambda at: f"'0:{at:06.3f}'",
    "of WFDB": lambda at: f"[10:00:{at:06.3f} 01/01/2024]",
    "with a date": lambda at: f"01.02.2024 10:00:{at:06.3f}",
    "over midnight": lambda at: f"23:59:{at + 59.8:06.3f}" if at < 0.1999 else f"0:00:{at - 0.2:06.3f}",
}


@pytest.mark.parametrize("kind", CLOCKS)
@pytest.mark.parametrize("name", ["Time", "Elapsed time", "timestamp"])
def test_times_may_be_those_of_a_clock(kind: str, name: str, tmp_path: Path) -> None:
    content = frame(time=None)
    content.insert(0, name, [CLOCKS[kind](number / 500) for number in range(300)])
    for path in (csv(tmp_path, content, sep=";"), csv(tmp_path, content), parquet(tmp_path, content)):
        found = read(path)
        assert found.sample_rate == 500
        np.testing.assert_array_equal(found.signal, SIGNAL)
    lost = content.drop(index=100)
    assert says(csv(tmp_path, lost), ASSUMED).startswith("the times have gaps (")


def test_times_that_tell_no_rate_are_not_needed_where_it_is_assumed(tmp_path: Path) -> None:
    for text in ("noon", "", "12", True):
        content = frame().assign(time=text)
        assert says(parquet(tmp_path, content)).startswith("the time column holds something else than times (time: ")
        assert read(parquet(tmp_path, content), ASSUMED).sample_rate == 500
    content = frame().assign(time=[f"10:00:{number // 100:02d}" for number in range(300)])
    for path in (csv(tmp_path, content), parquet(tmp_path, content)):
        assert says(path) == "the times are too coarse for a sampling rate (time); set preprocess.assume_sample_rate"
        assert read(path, Assumed(100.0)).sample_rate == 100
        assert says(path, ASSUMED).startswith(
            "the times are of another length than the samples at 500 Hz (2 s and 0.598"
        )


# CSV


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "latin-1"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize(
    "preamble",
    [
        "# recorder: none\n# rate: 500 Hz\n\n",
        "% M\u00fcller, I, II\n",
        "Name,M\u00fcller\nRate,500\n\nLead,Lead I\n",
        "Sample values\n\n\n",
    ],
)
def test_what_stands_before_the_names_is_not_needed(preamble: str, end: str, encoding: str, tmp_path: Path) -> None:
    text = f"{preamble}{frame(leads=tuple(f'{lead} (mV)' for lead in LEADS)).to_csv(index=False)}"
    path = csv(tmp_path, text.replace("\n", end).encode(encoding))
    assert format_of(path, path.read_bytes()[:4096]) == "csv"
    found = read(path)
    assert found[1:3] == (500, tuple(f"{lead} (mV)" for lead in LEADS))
    assert found.unit == "mV"
    np.testing.assert_array_equal(found.signal, SIGNAL)


def test_names_may_stand_in_a_comment_as_numpy_writes_them(tmp_path: Path) -> None:
    np.savetxt(tmp_path / "x.csv", SIGNAL.T, delimiter=",", header="a recording\n" + ",".join(LEADS))
    found = read(tmp_path / "x.csv", Assumed(500.0))
    assert found.leads == LEADS
    np.testing.assert_array_equal(found.signal, SIGNAL)


def test_units_may_stand_in_a_line_below_the_names(tmp_path: Path) -> None:
    names, *lines = frame().to_csv(index=False).splitlines()
    path = csv(tmp_path, "\n".join([names, ",".join(["s", *["uV"] * 12]), *lines]))
    found = read(path)
    assert (found.sample_rate, found.unit) == (500, "mV")
    np.testing.assert_array_equal(found.signal, SIGNAL * 1e-3)
    # As PhysioNet's tools write it.
    rows = [f"'0:{number / 500:06.3f}',{line.partition(',')[2]}" for number, line in enumerate(lines)]
    quoted = [f"'{name}'" for name in ("Elapsed time", *LEADS)], ["'hh:mm:ss.mmm'", *["'mV'"] * 12]
    path = csv(tmp_path, "\n".join([*map(",".join, quoted), *rows]))
    found = read(path)
    assert (found.sample_rate, found.unit) == (500, "mV")
    np.testing.assert_array_equal(found.signal, SIGNAL)


def test_a_file_without_names_may_lack_leads(tmp_path: Path) -> None:
    text = "".join(f"{','.join(map(str, row[:6]))},,,,,,\n" for row in SIGNAL.T)
    path = csv(tmp_path, text)
    assert format_of(path, path.read_bytes()[:4096]) == "csv"
    found = read(path, ASSUMED)
    assert found.leads == LEADS[:6]
    np.testing.assert_array_equal(found.signal, SIGNAL[:6])


LINES = st.lists(
    st.sampled_from(["# a", "I,II,V1", "Lead,Lead I", "1,2,3", "1,,", "mV,mV,mV", "", "10:00:00.1,2,3", '"I', "x"])
)


@given(lines=LINES, end=st.sampled_from(["\n", "\r", "\r\n"]))
@settings(deadline=None, max_examples=150)
def test_any_lines_are_read_or_unreadable(lines: list[str], end: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = csv(tmp_path_factory.getbasetemp(), end.join(lines))
    format_of(path, path.read_bytes())
    try:
        found = read(path, Assumed(500.0, LEADS[:3]))
    except UnreadableError:
        return
    assert found.signal.shape[0] == len(found.leads)


@pytest.mark.parametrize("options", [{}, {"sep": ";"}, {"sep": "\t"}, {"sep": ";", "decimal": ","}, {"quoting": 1}])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "latin-1"])
def test_separators_quotes_and_encodings(options: dict[str, object], encoding: str, tmp_path: Path) -> None:
    content = frame(leads=tuple(f"{lead} (\u00b5V)" for lead in LEADS))
    found = read(csv(tmp_path, str(content.to_csv(index=False, **options)).encode(encoding)))  # type: ignore[call-overload]
    assert found[1:5] == (500, tuple(f"{lead} (\u00b5V)" for lead in LEADS), "mV", 0.0)
    np.testing.assert_array_equal(found.signal, SIGNAL * 1e-3)


def test_windows_line_ends_blank_lines_and_blanks_around_names(tmp_path: Path) -> None:
    text = "\r\n\r\n" + str(frame().to_csv(index=False)).replace("I,II", "I, II ").replace("\n", "\r\n") + "\r\n"
    np.testing.assert_array_equal(read(csv(tmp_path, text)).signal, SIGNAL)


@pytest.mark.parametrize("options", [{}, {"sep": ";", "decimal": ","}])
def test_numbers_without_names_take_them_from_the_settings(options: dict[str, object], tmp_path: Path) -> None:
    path = csv(tmp_path, frame(time=None), header=False, **options)
    assert says(path).startswith("the file names no leads; set preprocess.assume_leads")
    assert says(path, Assumed(500.0, LEADS[:8])).startswith("the table's columns do not fit the number of leads (12")
    found = read(path, Assumed(500.0, LEADS[::-1]))
    assert found[1:5] == (500, LEADS[::-1], None, 0.0)
    np.testing.assert_array_equal(found.signal, SIGNAL)
    timed = read(csv(tmp_path, frame(), header=False, **options), Assumed(leads=("time", *LEADS)))
    assert (timed.sample_rate, timed.leads) == (500, LEADS)


def test_whole_numbers_before_others_are_read(tmp_path: Path) -> None:
    rows = ["I,II"] + ["1,2"] * 300_000 + ["0.5,2.5"]
    assert read(csv(tmp_path, "\n".join(rows)), ASSUMED).signal[:, -1].tolist() == [0.5, 2.5]


def test_300_columns_are_leads_and_others(tmp_path: Path) -> None:
    content = pd.concat([pd.DataFrame({f"extra column {n}": ["x"] * 300 for n in range(290)}), frame()], axis=1)
    np.testing.assert_array_equal(read(csv(tmp_path, content)).signal, SIGNAL)
    np.testing.assert_array_equal(read(parquet(tmp_path, content)).signal, SIGNAL)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "the file names no leads"),
        ("I,II\n1,2\n1\n", "not a readable CSV file (CSV parse error: Row #3: Expected 2 columns, got 1"),
        ("I,II\n1,2,3\n", "not a readable CSV file (CSV parse error: Row #2: Expected 2 columns, got 3"),
        ("I,II\n1,abc\n", "not a readable CSV file (In CSV column #1"),
        ('I,II\n1,"2\n', "not a readable CSV file ("),
        ("I,I,II\n1,2,3\n", "the table has several columns of one name (I, I, II)"),
        ("a,b\n1,2\n", "the table has no column for a lead (a, b)"),
        ("time,ch1\n1,2\n", "the table has no column for a lead (time, ch1)"),
        ("I,II\n1,2\n", "the file states no sampling rate; set preprocess.assume_sample_rate if you know it"),
        ("I,II\n\0\1\2,\xff\n", "not a readable CSV file ("),
        (bytes(range(128, 256)), "the table has no column for a lead ("),
        ("I," * 60_000 + "II", "the table has "),
    ],
)
def test_a_csv_file_that_is_no_recording(text: str | bytes, reason: str, tmp_path: Path) -> None:
    assert says(csv(tmp_path, text)).startswith(reason)


def test_a_csv_file_of_any_size_is_refused_unread(tmp_path: Path) -> None:
    with csv(tmp_path, frame()).open("ab") as file:
        file.truncate(10**12)
    assert says(tmp_path / "x.csv") == "too long to read at once (1000000000000 bytes of CSV)"


# Parquet


def test_metadata_state_rate_and_unit(tmp_path: Path) -> None:
    path = parquet(tmp_path, frame(time=None), {"sample_rate": "257", "unit": "uV"})
    assert read(path, Assumed(500.0, unit="mV"))[1:5] == (257, LEADS, "mV", 0.0)
    np.testing.assert_array_equal(read(path).signal, SIGNAL * 1e-3)
    content = frame(time=None)
    content.attrs = {"sample_rate": 360, "unit": "mV"}
    content.to_parquet(tmp_path / "x.parquet")
    assert read(tmp_path / "x.parquet")[1:5] == (360, LEADS, "mV", 0.0)
    path = parquet(tmp_path, frame(), {"sample_rate": "257"})
    assert says(path) == "the file states another sampling rate than its times have (257, 500 Hz)"
    path = parquet(tmp_path, frame(time=None), {"sample_rate": "fast", "PANDAS_ATTRS": json.dumps([1])})
    assert says(path).startswith("the file states no sampling rate")


@pytest.mark.parametrize("dtype", ["int16", "float32", "float64", "uint8", "float16"])
def test_any_type_of_numbers_is_read(dtype: str, tmp_path: Path) -> None:
    signal = (SIGNAL * 10).clip(0).astype(dtype)
    path = parquet(tmp_path, pa.table(dict(zip(LEADS, signal, strict=True))))
    np.testing.assert_array_equal(read(path, ASSUMED).signal, signal)


def test_columns_of_something_else_are_told(tmp_path: Path) -> None:
    for values, kind in [(["a", "b"], "string"), ([True, False], "bool"), ([[1.0], [2.0]], "list")]:
        path = parquet(tmp_path, pa.table({"I": values, "II": [1.0, 2.0]}))
        assert says(path, ASSUMED).startswith(f"a lead's column holds something else than numbers (I: {kind}")
    twice = pa.Table.from_arrays([pa.array([1.0]), pa.array([2.0])], names=["I", "I"])
    assert says(parquet(tmp_path, twice), ASSUMED) == "the table has several columns of one name (I, I)"
    assert says(parquet(tmp_path, pa.table({"x": [1.0]})), ASSUMED) == "the table has no column for a lead (x)"


def test_a_parquet_file_of_too_many_rows_is_refused_unread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recording, "MOST_VALUES", 1000)
    path = parquet(tmp_path, frame(time=None))
    assert says(path, ASSUMED) == "too long to read at once (12 leads x 300 samples)"


# Whatever is in it


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("any")


def assert_read_or_unreadable(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    try:
        found = read(path, ASSUMED)
    except UnreadableError:
        pass
    else:
        assert found.signal.dtype == np.float64
        assert found.signal.shape[0] == len(found.leads)


CELLS = st.one_of(
    st.sampled_from(["I", "II", "V1", "time", "1", "0.5", "-2", "", "nan", "inf", '"', "1e999", "\u00b5", "I (mV)"]),
    st.text(st.characters(codec="utf-8"), max_size=4),
)


@given(
    rows=st.lists(st.lists(CELLS, max_size=5), max_size=6),
    separator=st.sampled_from([",", ";", "\t"]),
    encoding=st.sampled_from(["utf-8", "utf-16"]),
)
@settings(deadline=None, max_examples=200)
def test_any_csv_is_read_or_unreadable(rows: list[list[str]], separator: str, encoding: str, folder: Path) -> None:
    assert_read_or_unreadable(folder / "x.csv", "\n".join(map(separator.join, rows)).encode(encoding))


@given(content=st.binary(max_size=200))
@settings(deadline=None, max_examples=100)
def test_any_bytes_are_read_or_unreadable(content: bytes, folder: Path) -> None:
    assert_read_or_unreadable(folder / "x.csv", content)
    assert_read_or_unreadable(folder / "x.parquet", b"PAR1" + content + b"PAR1")


@given(data=st.data())
@settings(deadline=None, max_examples=150)
def test_any_damaged_csv_is_read_or_unreadable(data: st.DataObject, folder: Path) -> None:
    content = bytearray(str(frame()[:5].to_csv(index=False)).encode())
    damage = st.tuples(st.integers(0, len(content) - 1), st.integers(0, 255))
    for position, byte in data.draw(st.lists(damage, max_size=5)):
        content[position] = byte
    assert_read_or_unreadable(folder / "x.csv", bytes(content[: data.draw(st.integers(0, len(content)))]))


@given(cut=st.floats(0, 1, exclude_max=True))
@settings(deadline=None, max_examples=50)
def test_any_cut_off_parquet_is_unreadable(cut: float, folder: Path) -> None:
    content = parquet(folder, frame()[:5]).read_bytes()
    (folder / "x.parquet").write_bytes(content[: int(cut * len(content))])
    assert says(folder / "x.parquet").startswith("not a readable Parquet file (")
