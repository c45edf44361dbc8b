"""EDF and BDF: what the header says of each channel, and what a header must not get away with."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import edfio
import numpy as np
import pytest
import scipy.io
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ecgpipe import readers
from ecgpipe.readers import LEADS, Assumed, Recording, UnreadableError, spell_leads

RNG = np.random.default_rng(0)
SIGNAL = np.cumsum(RNG.standard_normal((12, 1000)), axis=1) / 20  # mV, in the order of LEADS

# Where the fields of the header are: https://www.edfplus.info/specs/edf.html.
HEADER_BYTES, RESERVED, RECORDS, DURATION, CHANNELS = 184, 192, 236, 244, 252
LABEL, DIMENSION, PHYSICAL_MIN, PHYSICAL_MAX, DIGITAL_MIN, DIGITAL_MAX, SAMPLES = 0, 96, 104, 112, 120, 128, 216


def channels(
    signal: np.ndarray = SIGNAL, names: tuple[str, ...] = LEADS, rate: float = 500, unit: str = "mV", **options: object
) -> list[edfio.EdfSignal]:
    make: Callable[..., edfio.EdfSignal] = edfio.EdfSignal
    return [
        make(row, rate, label=name, physical_dimension=unit, **options) for row, name in zip(signal, names, strict=True)
    ]


def content(*signals: edfio.EdfSignal, **options: object) -> bytes:
    make: Callable[..., edfio.Edf] = edfio.Edf
    return make(signals or channels(), **options).to_bytes()


def changed(data: bytes, at: int, value: str | bytes, width: int = 8) -> bytes:
    """The file with another value in a field of its header."""
    field = (value.encode() if isinstance(value, str) else value).ljust(width)
    return data[:at] + field + data[at + width :]


def channel(field: int, number: int, width: int = 8, count: int = 12) -> int:
    """Where a channel's field is in the header."""
    return 256 + field * count + width * number


def read(folder: Path, data: bytes, assumed: Assumed = Assumed()) -> Recording:  # noqa: B008
    path = folder / "x.edf"
    path.write_bytes(data)
    return readers.read(path, "edf", assumed)


def says(folder: Path, data: bytes) -> str:
    """Why the file cannot be read."""
    with pytest.raises(UnreadableError) as caught:
        read(folder, data)
    return str(caught.value)


# What a file says


@pytest.mark.parametrize("kind", ["edf", "bdf"])
@pytest.mark.parametrize("name", ["code_15_1238362", "code_15_270272"])
def test_a_real_recording_comes_back_by_name_within_the_formats_own_steps(
    name: str, kind: str, reference: Path, tmp_path: Path
) -> None:
    feats = scipy.io.loadmat(reference / "code15" / f"{name}.mat")["feats"].astype(float)
    order = RNG.permutation(12)
    make: Callable[..., Any] = edfio.EdfSignal if kind == "edf" else edfio.BdfSignal
    of: Callable[..., Any] = edfio.Edf if kind == "edf" else edfio.Bdf
    signals = [make(feats[n], 400, label=f"ECG {LEADS[n]}", physical_dimension="mV") for n in order]
    of(signals, data_record_duration=feats.shape[1] / 400).write(tmp_path / "x.edf")
    recording = readers.read(tmp_path / "x.edf", "edf", Assumed())
    assert recording.leads == tuple(f"ECG {LEADS[n]}" for n in order)
    assert (recording.sample_rate, recording.unit) == (400, "mV")
    steps = np.ptp(feats, axis=1, keepdims=True)[order] / (2**16 if kind == "edf" else 2**24)
    # The header has eight characters for either end of the range.
    assert (abs(recording.signal - feats[order]) <= 0.51 * steps + 1e-5 * np.ptp(feats)).all()


@pytest.mark.parametrize(("unit", "factor"), [("uV", 1e3), ("mV", 1), ("V", 1e-3), ("nV", 1e6), ("MV", 1)])
def test_units_become_millivolts(unit: str, factor: float, tmp_path: Path) -> None:
    recording = read(tmp_path, content(*channels(SIGNAL * factor, unit=unit)))
    assert recording.unit == "mV"
    np.testing.assert_allclose(recording.signal, SIGNAL, rtol=0, atol=1e-3)


@pytest.mark.parametrize("micro", ["µ".encode("latin-1"), "µ".encode(), "μ".encode()])
def test_a_micro_sign_is_read_in_the_encodings_that_devices_write(micro: bytes, tmp_path: Path) -> None:
    data = content(*channels(SIGNAL * 1e3, unit="uV"))
    for n in range(12):
        data = changed(data, channel(DIMENSION, n), micro + b"V")
    assert read(tmp_path, data).unit == "mV"


def test_without_a_unit_the_assumed_one_holds(tmp_path: Path) -> None:
    data = content(*channels(SIGNAL * 1e3, unit=""))
    assert read(tmp_path, data).unit is None
    np.testing.assert_allclose(read(tmp_path, data, Assumed(unit="uV")).signal, SIGNAL, rtol=0, atol=1e-3)
    assert read(tmp_path, content(), Assumed(sample_rate=100, unit="uV")).signal.std() == pytest.approx(SIGNAL.std())


def test_rates_need_not_be_whole_nor_records_a_second(tmp_path: Path) -> None:
    data = content(*channels(rate=250), data_record_duration=0.04)
    assert read(tmp_path, data).sample_rate == 250
    assert read(tmp_path, changed(data, DURATION, "0.039")).sample_rate == pytest.approx(256.41, abs=0.01)


def test_annotations_and_triggers_are_no_leads(tmp_path: Path) -> None:
    edf = content(annotations=[edfio.EdfAnnotation(0.5, None, "Rhythm")])
    assert edf[RESERVED : RESERVED + 5] == b"EDF+C"
    assert read(tmp_path, edf).leads == LEADS
    names = (*LEADS, "Status")
    signals = [
        edfio.BdfSignal(row, 500, label=name, physical_dimension="mV")
        for row, name in zip([*SIGNAL, SIGNAL[0]], names, strict=True)
    ]
    bdf = edfio.Bdf(signals, annotations=[edfio.EdfAnnotation(0, None, "x")]).to_bytes()
    assert read(tmp_path, bdf).leads == LEADS


def test_other_channels_do_not_spoil_the_leads(tmp_path: Path) -> None:
    others = [
        edfio.EdfSignal(SIGNAL[0], 500, label="V3R", physical_dimension="mV"),
        edfio.EdfSignal(SIGNAL[0], 500, label="Resp", physical_dimension="Ohm"),
        edfio.EdfSignal(SIGNAL[0, :200], 100, label="ECG X", physical_dimension="mV"),
    ]
    recording = read(tmp_path, content(*others, *channels()))
    assert recording.leads == ("V3R", *LEADS)
    assert (recording.unit, recording.sample_rate) == ("mV", 500)


def test_a_flat_range_matters_only_in_what_is_used(tmp_path: Path) -> None:
    other = edfio.EdfSignal(SIGNAL[0], 500, label="Temp", physical_dimension="degC")
    data = content(*channels(), other)
    assert read(tmp_path, changed(data, channel(PHYSICAL_MAX, 12, count=13), "0")).leads == LEADS


def test_leads_of_differing_rates_are_refused(tmp_path: Path) -> None:
    data = content(*channels()[:6], *channels(SIGNAL[6:, ::2], LEADS[6:], 250))
    assert says(tmp_path, data) == "the EDF file's leads differ in their sampling rates (6 x 500 Hz, 6 x 250 Hz)"


def test_without_a_lead_of_the_twelve_the_commonest_rate_counts(tmp_path: Path) -> None:
    data = content(*channels(SIGNAL[:2, ::2], ("a", "b"), 250), *channels(SIGNAL[:3], ("MLII", "ECG", "c")))
    recording = read(tmp_path, data)
    assert recording.leads == ("MLII", "ECG", "c")
    assert set(spell_leads(recording.leads)).isdisjoint(LEADS)


def test_headers_that_devices_write_are_read(tmp_path: Path) -> None:
    data = changed(content(), 8, "Müller, Jürgen".encode("latin-1"), 80)
    data = changed(data, 168, b"0.0.0\0\0\0xx:yy:zz", 16)  # no date, no time
    data = changed(data, channel(SAMPLES, 0), b"500\0\0\0\0\0")
    assert read(tmp_path, data).leads == LEADS


def test_a_number_of_records_that_was_never_written_is_counted(tmp_path: Path) -> None:
    data = content()
    recording = read(tmp_path, changed(data, RECORDS, "-1") + b"half a record")
    np.testing.assert_array_equal(recording.signal, read(tmp_path, data).signal)


# What it must not get away with


def discontinuous(first: float = 0.0, gap: float = 0.0, record: int = 1) -> bytes:
    """An EDF+D file of two records of 1 s, of which the first begins at `first` and one later by `gap`."""
    data = content(annotations=[edfio.EdfAnnotation(0.5, None, "x" * 40)])
    data = changed(data, RESERVED, "EDF+D", 44)
    size = (len(data) - 256 * 14 - 2 * 12000) // 2  # of a record's annotations; its signals take 12,000 bytes
    for number in range(2):
        onset = first + number + (gap if number == record else 0)
        at = 256 * 14 + (number + 1) * 12000 + number * size
        data = data[:at] + f"{onset:+g}\x14\x14".encode().ljust(size, b"\0") + data[at + size :]
    return data


@pytest.mark.parametrize("first", [0.0, 0.25, 3600.0, -1.5])
def test_records_that_follow_one_another_are_a_recording_whatever_the_file_calls_itself(
    first: float, tmp_path: Path
) -> None:
    whole = read(tmp_path, content())
    found = read(tmp_path, discontinuous(first))
    np.testing.assert_array_equal(found.signal, whole.signal)


@pytest.mark.parametrize("gap", [1.0, 0.5, 0.002, -0.5, -1.0])
def test_gaps_are_refused(gap: float, tmp_path: Path) -> None:
    assert "gaps (EDF+D)" in says(tmp_path, discontinuous(gap=gap))


def test_a_file_that_may_have_gaps_says_when_its_records_begin(tmp_path: Path) -> None:
    assert says(tmp_path, changed(content(), RESERVED, "EDF+D", 44)).startswith("the EDF+D file does not say when its")
    data = discontinuous()
    assert says(tmp_path, data.replace(b"+1\x14\x14", b"?1\x14\x14")) == (
        "the EDF+D file does not say when its records begin (record 2)"
    )


@pytest.mark.parametrize("date", ["00.00.00", "99.99.99", "2014-05-", "        ", "31.02.20"])
@pytest.mark.parametrize("recording", ["Startdate 2014 X X X", "Startdate 31-FEB-2020 X X X", "Startdate ? X X X"])
def test_no_date_decides(date: str, recording: str, tmp_path: Path) -> None:
    data = content(annotations=[edfio.EdfAnnotation(0.5, None, "x")])
    found = read(tmp_path, changed(changed(changed(data, 88, recording, 80), 168, date), 176, "xx.yy.zz"))
    np.testing.assert_array_equal(found.signal, read(tmp_path, data).signal)


@pytest.mark.parametrize("unit", ["mV", "uV"])
def test_a_last_record_at_the_digital_minimum_is_no_signal(unit: str, tmp_path: Path) -> None:
    data = content(*channels(unit=unit))
    whole = read(tmp_path, data)
    lowest = np.array([-32768] * 200, "<i2").tobytes()
    for number in range(12):  # the last 200 of each channel's 500 samples in the second record
        end = len(data) - 2 * 500 * (11 - number)
        data = data[: end - len(lowest)] + lowest + data[end:]
    found = read(tmp_path, data)
    assert found.stripped_s == 200 / 500
    np.testing.assert_array_equal(found.signal, whole.signal[:, :800])


@pytest.mark.parametrize(
    ("at", "value", "reason"),
    [
        (HEADER_BYTES, "999", "the EDF header's size does not fit its number of channels"),
        (RECORDS, "99999999", "the EDF file is shorter than its header says"),
        (RECORDS, "3", "the EDF file is shorter than its header says"),
        (RECORDS, "1", "the EDF file is longer than its header says"),
        (RECORDS, "0", "the EDF header's durations or numbers of samples are not positive"),
        (RECORDS, "-2", "the EDF header's durations or numbers of samples are not positive"),
        (DURATION, "0", "the EDF header's durations or numbers of samples are not positive"),
        (DURATION, "-1", "the EDF header's durations or numbers of samples are not positive"),
        (DURATION, "nan", "the EDF header's record duration is no number"),
        (CHANNELS, "-1  ", "the EDF header has no possible number of channels"),
        (CHANNELS, "0   ", "the EDF header has no possible number of channels"),
        (CHANNELS, "9999", "the EDF header's size does not fit its number of channels"),
        (CHANNELS, "1e3 ", "the EDF header's number of channels is no number"),
        (channel(SAMPLES, 0), "99999999", "the EDF file is shorter than its header says"),
        (channel(SAMPLES, 0), "-500", "the EDF header's durations or numbers of samples are not positive"),
        (channel(SAMPLES, 0), "many", "the EDF header's number of samples is no number"),
        (channel(DIGITAL_MAX, 3), "-32768", "a channel's range in the EDF header is empty"),
        (channel(DIGITAL_MIN, 3), "32767.5", "a channel's range in the EDF header is no number"),
        (channel(PHYSICAL_MIN, 3), "inf", "a channel's range in the EDF header is no number"),
        (channel(PHYSICAL_MAX, 3), "nan", "a channel's range in the EDF header is empty"),
        (channel(PHYSICAL_MAX, 3), "1,5", "a channel's range in the EDF header is no number"),
    ],
)
def test_a_header_that_makes_no_sense_is_refused(at: int, value: str, reason: str, tmp_path: Path) -> None:
    data = changed(content(), at, value, 4 if at == CHANNELS else 8)
    assert says(tmp_path, data).split(" (")[0] == reason


def test_a_lead_without_a_physical_range_is_refused(tmp_path: Path) -> None:
    data = changed(content(), channel(PHYSICAL_MIN, 3), "1")
    assert says(tmp_path, changed(data, channel(PHYSICAL_MAX, 3), "1")).endswith("is empty (aVR)")


def test_a_terabyte_that_a_sparse_file_really_has_is_not_read(tmp_path: Path) -> None:
    data = changed(content(), RECORDS, "99999999")
    path = tmp_path / "x.edf"
    path.write_bytes(data)
    record = (len(data) - 256 * 13) // 2
    with path.open("r+b") as file:
        file.truncate(256 * 13 + record * 99_999_999)
    with pytest.raises(UnreadableError, match="too long to read at once"):
        readers.read(path, "edf", Assumed())


@pytest.mark.parametrize("data", [b"", b"0       ", b"0       " * 100, b"\xffBIOSEMI" + bytes(5000), b"Dear all," * 99])
def test_what_is_no_edf_is_refused(data: bytes, tmp_path: Path) -> None:
    assert "EDF" in says(tmp_path, data)


SMALL = content(*channels(SIGNAL[:, :50]), data_record_duration=0.05)


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    cut=st.integers(0, len(SMALL)),
    flips=st.lists(st.tuples(st.integers(0, 256 * 13 + 8), st.integers(0, 255)), max_size=3),
    whole=st.booleans(),
)
def test_a_damaged_file_is_a_recording_or_a_reason(
    cut: int, flips: list[tuple[int, int]], whole: bool, tmp_path: Path
) -> None:
    damaged = bytearray(SMALL)
    for at, value in flips:
        damaged[at] = value
    try:
        recording = read(tmp_path, bytes(damaged if whole else damaged[:cut]))
    except UnreadableError:
        return
    assert recording.signal.shape[0] == len(recording.leads)
    assert recording.sample_rate > 0
    assert np.isfinite(recording.signal).all()
