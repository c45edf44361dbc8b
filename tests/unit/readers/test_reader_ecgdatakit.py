"""Vendors' files: every rhythm lead as the file has it, at its rate and scale, or a reason why not."""

import base64
import binascii
import contextlib
import re
import struct
import warnings
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from vendor_files import (
    EIGHT,
    FORMATS,
    kardia_json,
    random_recording,
)

from ecgpipe.readers import LEADS, Assumed, Recording, UnreadableError, ecgdatakit

NOTHING = Assumed()
# The formats that ecgdatakit reads.
KINDS = [kind for kind in FORMATS if kind not in ("CardioSoft", "ISHNE")]
XML = ("MUSE", "Sierra, XLI", "aECG", "Mortara")
FUZZ = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def write(folder: Path, kind: str, signal: np.ndarray | None = None, rate: float = 400, **options: object) -> Path:
    path = folder / f"x{FORMATS[kind].suffix}"
    signal = random_recording() if signal is None else signal
    FORMATS[kind].write(path, signal, rate, LEADS if len(signal) == 12 else EIGHT, **options)
    return path


def read(path: Path, assumed: Assumed = NOTHING) -> Recording:
    """Read it; a warning that gets out fails the test."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return ecgdatakit.read(path, assumed)


def says(path: Path) -> str:
    """Why the file cannot be read."""
    with pytest.raises(UnreadableError) as caught:
        read(path)
    return str(caught.value)


def edited(path: Path, old: str, new: str, count: int = -1) -> Path:
    """The file with a part of its text put otherwise."""
    encoding = "utf-16" if path.read_bytes().startswith(b"\xff\xfe") else "iso8859-1"
    text = path.read_bytes().decode(encoding)
    assert old in text
    path.write_bytes(text.replace(old, new, count).encode(encoding))
    return path


def section(path: Path, number: int) -> int:
    """Where an SCP-ECG file's section begins."""
    _, _, index = struct.unpack_from("<HII", path.read_bytes(), 22 + 10 * number)
    return int(index) - 1


def patched(path: Path, number: int, at: int, content: bytes) -> Path:
    """An SCP-ECG file with some bytes of a section's body put otherwise, and its checksums right."""
    data, start = bytearray(path.read_bytes()), section(path, number)
    data[start + 16 + at : start + 16 + at + len(content)] = content
    length = struct.unpack_from("<I", data, start + 4)[0]
    for first, last in ((start, start + length), (0, len(data))):
        data[first : first + 2] = struct.pack("<H", binascii.crc_hqx(bytes(data[first + 2 : last]), 0xFFFF))
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("kind", ["MUSE", "Sierra, XLI", "aECG", "SCP-ECG, Huffman", "Mortara", "MFER"])
def test_a_file_of_eight_leads_stays_at_eight(kind: str, tmp_path: Path) -> None:
    recording = read(write(tmp_path, kind, random_recording(8)))
    assert recording.leads == EIGHT
    np.testing.assert_allclose(recording.signal, random_recording(8), rtol=0, atol=FORMATS[kind].step / 2 * 1.001)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if "XLI" not in kind])
def test_leads_in_another_order_keep_their_names(kind: str, tmp_path: Path) -> None:
    path = tmp_path / f"x{FORMATS[kind].suffix}"
    FORMATS[kind].write(path, random_recording()[::-1], 500, LEADS[::-1])
    recording = read(path)
    assert recording.leads == LEADS[::-1]
    np.testing.assert_allclose(recording.signal[::-1], random_recording(), rtol=0, atol=FORMATS[kind].step / 2 * 1.001)


@pytest.mark.parametrize(("kind", "rate"), [("MUSE", 257.125), ("aECG", 360.5), ("Mortara", 488.28), ("MFER", 360.5)])
def test_a_rate_that_is_no_whole_number_is_kept(kind: str, rate: float, tmp_path: Path) -> None:
    assert read(write(tmp_path, kind, rate=rate)).sample_rate == pytest.approx(rate, rel=1e-9)


def test_a_sierra_file_whose_rate_or_duration_would_cut_its_leads_apart_elsewhere_is_refused(tmp_path: Path) -> None:
    assert says(write(tmp_path, "Sierra, plain", rate=437.5)).startswith(
        "a Sierra XML file's sampling rate has to be a"
    )
    for kind in ("Sierra, plain", "Sierra, XLI"):
        shorter = edited(write(tmp_path, kind), 'durationperchannel="2000"', 'durationperchannel="1900"')
        assert says(shorter) == "the leads do not have the duration that the file states (760 samples)"


@pytest.mark.parametrize(("rate", "found"), [(500, 500), (600, 600), (256, 256), (333.3, 1e6 / 3000)])
def test_scp_ecg_states_an_interval_in_microseconds(rate: float, found: float, tmp_path: Path) -> None:
    assert read(write(tmp_path, "SCP-ECG, plain", rate=rate)).sample_rate == pytest.approx(found, rel=1e-9)


def test_decimals_of_an_increment_do_not_move_a_rate(tmp_path: Path) -> None:
    path = edited(write(tmp_path, "aECG"), 'value="0.0025" unit="s"', 'value="2500.00" unit="us"')
    assert read(path).sample_rate == 400


def test_a_damaged_signal_is_told_by_its_checksum(tmp_path: Path) -> None:
    muse = write(tmp_path, "MUSE")
    text = muse.read_text("iso8859-1")
    at = text.rindex("<WaveFormData>") + 100
    muse.write_text(text[:at] + ("A" if text[at] != "A" else "B") + text[at + 1 :], encoding="iso8859-1")
    assert says(muse).startswith("a checksum does not fit: the file is damaged (CRC32 mismatch in lead V6 (rhythm)")

    scp = write(tmp_path, "SCP-ECG, plain")
    data = bytearray(scp.read_bytes())
    data[-1000] ^= 1
    scp.write_bytes(data)
    assert says(scp) == ("a checksum does not fit: the file is damaged (SCP-ECG CRC mismatch in: record, Section 6)")


def test_a_program_that_removed_names_may_leave_their_checksums(tmp_path: Path) -> None:
    path = write(tmp_path, "SCP-ECG, plain")
    data = bytearray(path.read_bytes())
    data[section(path, 1)] ^= 1
    path.write_bytes(data)
    assert read(path).leads == LEADS


def test_leads_that_are_not_of_one_time_axis_are_refused(tmp_path: Path) -> None:
    late = edited(write(tmp_path, "MUSE"), "<LeadTimeOffset>0", "<LeadTimeOffset>2500")
    assert "leads do not begin at the same time" in says(late)
    later = patched(write(tmp_path, "SCP-ECG, plain"), 3, 2 + 9, struct.pack("<II", 11, 810))
    assert says(later) == (
        "the leads differ in sampling rate, length or begin (400 Hz x 800 from 1, 400 Hz x 800 from 11)"
    )
    shorter = write(tmp_path, "aECG")
    text = shorter.read_text()
    shorter.write_text(re.sub(r"<digits>\S+ ", "<digits>", text, count=1))
    assert says(shorter).startswith("the leads differ in sampling rate, length or begin (400 Hz x 799")


def test_a_lead_of_another_kind_may_differ(tmp_path: Path) -> None:
    path = write(tmp_path, "aECG")
    digits = "<value><scale value='2.5' unit='uV'/><digits>1 2 3</digits></value>"
    extra = f'<component><sequence><code code="MDC_ECG_LEAD_X"/>{digits}</sequence></component></sequenceSet>'
    assert read(edited(path, "</sequenceSet>", extra, 1)).leads == LEADS


def test_several_rhythms_in_a_file_are_refused_rather_than_one_of_them_taken(tmp_path: Path) -> None:
    muse = edited(write(tmp_path, "MUSE"), "Median", "Rhythm")
    assert says(muse).startswith("the file holds several rhythm waveforms (")
    aecg = write(tmp_path, "aECG")
    series = '<component><series><code code="RHYTHM"/></series></component></AnnotatedECG>'
    assert says(edited(aecg, "</AnnotatedECG>", series)).startswith("the file holds several rhythm series (")
    pieces = write(tmp_path, "aECG")
    piece = "<derivation>"
    assert says(edited(pieces, piece, f"<component><sequenceSet/></component>{piece}")).startswith(
        "the rhythm series is in several pieces ("
    )


def test_offsets_that_no_document_explains_are_refused(tmp_path: Path) -> None:
    reason = "the file states an offset of its samples whose meaning is not documented ("
    for tag in ("FirstSampleBaseline", "LeadOffsetFirstSample"):
        assert says(edited(write(tmp_path, "MUSE"), f"<{tag}>0", f"<{tag}>12")).startswith(reason)
    sierra = edited(write(tmp_path, "Sierra, XLI"), 'signaloffset="0"', 'signaloffset="2048"')
    assert says(sierra) == reason + "2048)"


@pytest.mark.parametrize("scale", ["0", "-4.88", "inf", "nan"])
def test_a_scale_that_is_no_positive_number_is_refused(scale: str, tmp_path: Path) -> None:
    path = edited(write(tmp_path, "MUSE"), "UnitsPerBit>4.88", f"UnitsPerBit>{scale}")
    assert says(path).startswith("a lead's scale is no positive number (I: ")


def test_an_scp_ecg_file_without_a_scale_or_in_bimodal_compression_is_refused(tmp_path: Path) -> None:
    assert says(patched(write(tmp_path, "SCP-ECG, plain"), 6, 0, b"\0\0")).startswith("a lead's scale is no positive")
    assert says(patched(write(tmp_path, "SCP-ECG, plain"), 6, 5, b"\1")) == "bimodal compression is not read"


def test_a_unit_that_the_file_leaves_out_may_be_assumed_and_one_that_it_states_not(tmp_path: Path) -> None:
    def aecg(unit: str) -> Path:
        return edited(write(tmp_path, "aECG"), 'scale value="2.5" unit="uV"', f'scale value="2.5"{unit}')

    nameless = read(aecg(""))
    assert nameless.unit is None
    np.testing.assert_allclose(nameless.signal / 1000, random_recording(), rtol=0, atol=2.5e-3)
    assert read(aecg(""), Assumed(unit="uV")).unit == "mV"
    assert read(aecg(' unit="mmHg"'), Assumed(unit="uV")).unit is None
    one = edited(write(tmp_path, "aECG"), 'scale value="2.5" unit="uV"', 'scale value="2.5"', 1)
    assert read(one).unit == "mixed"


def test_a_lead_that_is_there_twice_is_returned_twice_under_its_name(tmp_path: Path) -> None:
    path = edited(write(tmp_path, "MUSE"), "<LeadID>V1", "<LeadID>II")
    assert read(path).leads == ("I", "II", "III", "aVR", "aVL", "aVF", "II", "V2", "V3", "V4", "V5", "V6")


def test_xli_in_an_order_of_leads_that_nobody_has_described_is_refused(tmp_path: Path) -> None:
    path = edited(write(tmp_path, "Sierra, XLI"), "I II III aVR aVL aVF", "I II III aVL aVR aVF")
    assert says(path).startswith("leads in an order for which XLI is not documented (")


def test_the_calibration_mark_of_philips_machines_is_no_ecg(tmp_path: Path) -> None:
    mark = np.concatenate([np.zeros(25), np.ones(100), np.zeros(25)])
    marked = np.hstack([random_recording(), np.tile(mark, (12, 1))])
    recording = read(write(tmp_path, "Sierra, XLI", marked, 500))
    assert recording.signal.shape == (12, 800)
    assert recording.stripped_s == pytest.approx(150 / 500)


def test_other_ends_of_a_signal_stay(tmp_path: Path) -> None:
    for tail in (np.zeros((12, 150)), np.vstack([np.ones((11, 150)), np.zeros((1, 150))]), np.full((12, 30), 1.0)):
        assert read(write(tmp_path, "Sierra, XLI", np.hstack([random_recording(), tail]), 500)).signal.shape[1] > 800
    eight = np.hstack([random_recording(8), np.tile(np.repeat([0.0, 1.0, 0.0], 50), (8, 1))])
    assert read(write(tmp_path, "Sierra, XLI", eight, 500)).signal.shape == (8, 950)


def test_xml_is_read_in_the_encodings_that_occur(tmp_path: Path) -> None:
    path = write(tmp_path, "aECG")
    text = path.read_text(encoding="utf-8")
    for encoding, declared in (("utf-8-sig", "utf-8"), ("utf-16", "utf-16"), ("cp1252", "windows-1252")):
        path.write_bytes(text.replace('encoding="utf-8"', f'encoding="{declared}"').encode(encoding))
        assert read(path).leads == LEADS
    prefixed = re.sub(r"<(/?)(?=[a-zA-Z])", r"<\1h:", text).replace("xmlns=", "xmlns:h=")
    path.write_text(prefixed, encoding="utf-8")
    assert read(path).leads == LEADS


ACTUAL = ("utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "latin-1", "shift_jis")
DECLARED = ("utf-8", "utf-16", "UTF-16LE", "ascii", "unicode", "Shift_JIS", "punycode", "?")


@pytest.mark.parametrize("kind", XML)
def test_no_declared_encoding_is_trusted(kind: str, tmp_path: Path) -> None:
    path = write(tmp_path, kind)
    true = read(path)
    data = path.read_bytes()
    text = data.decode("utf-16" if data.startswith(b"\xff\xfe") else "latin-1").replace("\xfc", "u")
    for number, (actual, declared) in enumerate(product(ACTUAL, DECLARED)):
        foreign = "\u8868" if actual == "shift_jis" else "\xfc"
        changed = re.sub('encoding="[^"]*"', f'encoding="{declared}"', text, count=1)
        changed = changed.replace("?>", f"?><!--{foreign}-->", 1) + "\n" * (number % 2)  # an odd and an even length
        path.write_bytes(changed.encode(actual))
        recording = read(path)
        np.testing.assert_array_equal(recording.signal, true.signal, f"{actual} that says {declared}")
        assert (recording.leads, recording.sample_rate) == (true.leads, true.sample_rate)


@pytest.mark.parametrize("date", ["2006", "2014-05-08", "31/02/2020", "00-00-0000", "99999999", "yesterday", ""])
def test_no_date_in_xml_decides(date: str, tmp_path: Path) -> None:
    old, times = "<RestingECG>", f"<AcquisitionDate>{date}</AcquisitionDate><AcquisitionTime>{date}</AcquisitionTime>"
    test = f"<TestDemographics>{times}<EditDate>{date}</EditDate><EditTime>{date}</EditTime></TestDemographics>"
    assert read(edited(write(tmp_path, "MUSE"), old, f"{old}{test}", 1)).leads == LEADS
    old = "<dataacquisition>"
    patient = (
        f"<patient><generalpatientdata><age><dateofbirth>{date}</dateofbirth></age></generalpatientdata></patient>"
    )
    new = f"<reportinfo date='{date}' time='{date}'/>{patient}<dataacquisition date='{date}' time='{date}'>"
    assert read(edited(write(tmp_path, "Sierra, plain"), old, new)).leads == LEADS
    path = edited(write(tmp_path, "aECG"), 'value="20021122091000"', f'value="{date}"')
    old = '<code code="93000"/>'
    new = f"{old}<effectiveTime><low value='{date}'/><high value='{date}'/></effectiveTime>"
    assert read(edited(path, old, new)).leads == LEADS


def test_an_scp_ecg_file_without_its_mark_is_told_by_its_ending(tmp_path: Path) -> None:
    path = write(tmp_path, "SCP-ECG, plain")
    data = bytearray(path.read_bytes())
    data[16:22] = bytes(6)
    data[6:8] = struct.pack("<H", binascii.crc_hqx(bytes(data[8 : 6 + 16 + 120]), 0xFFFF))
    path.write_bytes(data)
    assert read(path).leads == LEADS


def test_files_of_other_formats_are_refused(tmp_path: Path) -> None:
    for name, content in (("x.xml", b"<svg/>"), ("x.dat", bytes(100)), ("x.xml", b"")):
        (tmp_path / name).write_bytes(content)
        assert says(tmp_path / name) == "no vendor's file of a known format"
    (tmp_path / "x.scp").write_bytes(b"")
    assert says(tmp_path / "x.scp") == "not a readable SCP-ECG file (File too small for SCP-ECG: 0 bytes)"
    with pytest.raises(FileNotFoundError):
        read(tmp_path / "y.xml")


# Mortara


def test_a_mortara_channel_of_another_kind_than_is_known_is_refused(tmp_path: Path) -> None:
    for old, new, reason in (
        ('OFFSET="0" BITS', 'OFFSET="12" BITS', "the file states an offset of its samples whose meaning is not"),
        ('UNITS_PER_MV="400" DURATION', 'UNITS_PER_MV="-400" DURATION', "a lead's scale is no positive number (I: "),
        ('DURATION="800"', 'DURATION="700"', "not a readable Mortara ELI XML file (CHANNEL I in x.xml: DURATION=700"),
        ('SAMPLE_FREQ="400" NAME="II"', 'SAMPLE_FREQ="400.4" NAME="II"', "the leads differ in sampling rate (4"),
        ('BITS="16" FORMAT="SIGNED" UNITS', 'BITS="8" FORMAT="SIGNED" UNITS', "not a readable Mortara ELI XML file ("),
        ('SAMPLE_FREQ="400" NAME', 'SAMPLE_FREQ="0" NAME', "not a readable Mortara ELI XML file ("),
    ):
        assert says(edited(write(tmp_path, "Mortara"), old, new)).startswith(reason)


def test_a_mortara_channel_without_a_scale_has_no_unit(tmp_path: Path) -> None:
    path = edited(write(tmp_path, "Mortara"), 'UNITS_PER_MV="400" DURATION', "DURATION")
    assert read(path).unit is None


# MFER


def replaced(path: Path, old: bytes, new: bytes) -> Path:
    """The file with some of its bytes put otherwise, where they are last."""
    before, found, after = path.read_bytes().rpartition(old)
    assert found
    path.write_bytes(before + new + after)
    return path


def test_an_mfer_file_that_does_not_say_enough_or_contradicts_itself_is_refused(tmp_path: Path) -> None:
    samples, rate = struct.pack("<I", 800), struct.pack("<Bbi", 0, 0, 400)
    contradicts = "the MFER file does not say enough, or contradicts itself (MFER: "
    for old, new, reason in (
        (
            b"\x04\4" + samples,
            b"\x04\4" + struct.pack("<I", 700),
            "an MFER frame does not hold what it declares (1",
        ),
        (b"\x04\4" + samples, b"\x04\4" + struct.pack("<I", 900), "an MFER frame does not hold what it declares (2"),
        (b"\x04\4" + samples, b"\x04\4" + bytes(4), "not a readable MFER file ("),
        (b"\x06\2\1\0", b"\x06\2\2\0", contradicts + "frame declares 1 sequence(s)"),
        (b"\x05\1\x0c", b"\x05\1\x0b", "an MFER frame does not hold what it declares (1"),
        (b"\x3f\x0b\3", b"\x3f\x0c\3", contradicts + "attributes for channel 13 ignored"),
        (b"\x05\1\x0c", b"\x05\2\0\4", "the MFER file has too many channels (1024)"),
        (b"\x0b\6" + rate, b"", contradicts + "no sampling interval (MWF_IVL)"),
        (b"\x0b\6" + rate, b"\x0b\6" + struct.pack("<Bbi", 0, 0, 0), "not a readable MFER file ("),
        (b"\x0b\6" + rate, b"\x0b\6" + rate + b"\x0d\2\7\0", "the file states an offset of its samples (I), which"),
        (b"\x0b\6" + rate, b"\x0b\6" + rate + b"\x0e\2\1\0", "not a readable MFER file ("),
        (b"\x0c\4\0", b"\x0c\4\1", ""),
    ):
        path = replaced(write(tmp_path, "MFER"), old, new)
        if reason:
            assert says(path).startswith(reason)
        else:  # mmHg
            assert read(path).unit is None


def test_an_mfer_file_of_two_rhythms_that_do_not_fit_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, "MFER")
    data = path.read_bytes()
    rhythm = data[data.rindex(b"\x08\2\1\0") :]
    path.write_bytes(data + rhythm)  # goes on
    assert read(path).signal.shape == (12, 1600)
    path.write_bytes(data + b"\x0c\4" + struct.pack("<Bbh", 0, -7, 50) + rhythm)
    assert says(path).startswith("the MFER file does not say enough, or contradicts itself (MFER: 1 frame(s) after")


def test_an_interval_in_seconds_is_a_rate_too(tmp_path: Path) -> None:
    interval = struct.pack("<Bbi", 1, -6, 2500)
    assert read(replaced(write(tmp_path, "MFER"), struct.pack("<Bbi", 0, 0, 400), interval)).sample_rate == 400


@FUZZ
@given(where=st.floats(0, 1, exclude_max=True), junk=st.binary(min_size=1, max_size=4))
def test_a_damaged_mfer_file_is_a_recording_or_a_reason(where: float, junk: bytes, tmp_path: Path) -> None:
    path = write(tmp_path, "MFER", random_recording(8, 60))
    data = bytearray(path.read_bytes())
    at = int(where * len(data))
    data[at : at + len(junk)] = junk
    path.write_bytes(data)
    with contextlib.suppress(UnreadableError):
        recording = read(path)
        assert recording.signal.shape[0] == len(recording.leads)
        assert recording.sample_rate > 0


# Kardia, whose devices have one lead or six


def kardia(folder: Path, leads: tuple[str, ...] = LEADS[:6], rate: float = 300) -> Path:
    kardia_json(folder / "x.json", random_recording()[: len(leads)], rate, leads)
    return folder / "x.json"


@pytest.mark.parametrize("leads", [("I",), LEADS[:6]])
def test_a_kardia_recording_is_what_was_recorded_and_not_its_filtered_copy(
    leads: tuple[str, ...], tmp_path: Path
) -> None:
    recording = read(kardia(tmp_path, leads, 300.5))
    assert recording.leads == leads
    assert recording.sample_rate == 300.5
    assert recording.unit == "mV"
    np.testing.assert_allclose(recording.signal, random_recording()[: len(leads)], rtol=0, atol=0.5e-3 / 2 * 1.001)


def test_a_kardia_recording_that_contradicts_itself_is_refused(tmp_path: Path) -> None:
    for old, new, reason in (
        ('"numLeads": 6', '"numLeads": 5', "the file does not have as many leads as it states ("),
        ('"amplitudeResolution": 500', '"amplitudeResolution": -500', "a lead's scale is no positive number (a"),
        ('"frequency": 300', '"frequency": 0', "not a readable Kardia JSON file ("),
        ('"raw"', '"cooked"', "not a readable Kardia JSON file ("),
        ('"leadII": [', '"leadII": [1, ', "the leads differ in sampling rate, length or begin ("),
        ('"data":', '"data12L": [], "data":', "not a readable Kardia JSON file ("),
    ):
        assert says(edited(kardia(tmp_path), old, new)).startswith(reason)


def test_a_kardia_recording_without_a_scale_has_no_unit(tmp_path: Path) -> None:
    assert read(edited(kardia(tmp_path), '"amplitudeResolution": 500', '"note": ""')).unit is None


@FUZZ
@given(where=st.floats(0, 1, exclude_max=True), junk=st.binary(min_size=1, max_size=4))
def test_a_damaged_kardia_recording_is_a_recording_or_a_reason(where: float, junk: bytes, tmp_path: Path) -> None:
    path = kardia(tmp_path)
    data = bytearray(path.read_bytes())
    at = int(where * len(data))
    data[at : at + len(junk)] = junk
    path.write_bytes(data)
    with contextlib.suppress(UnreadableError):
        recording = read(path)
        assert recording.signal.shape[0] == len(recording.leads)
        assert recording.sample_rate > 0


def test_a_kardia_recording_that_is_made_to_blow_up_is_refused(tmp_path: Path) -> None:
    head = '{"recordedAt": "", "algorithmDetermination": "", "data": '
    for content in ("[" * 100_000, "1" * 5_000, '{"raw": {"frequency": 1e999, "samples": {"leadI": [1]}}}'):
        (tmp_path / "x.json").write_text(head + content + "}")
        assert says(tmp_path / "x.json").startswith("not a readable Kardia JSON file (")
    (tmp_path / "x.json").write_text(head + " " * 24_000_000)
    assert says(tmp_path / "x.json") == "too large for its format (over 24000000 bytes of Kardia JSON)"


@pytest.mark.parametrize("root", ["RestingECG", "restingecgdata", "AnnotatedECG", 'ECG ACQUISITION_TIME="1"'])
def test_xml_that_is_made_to_blow_up_is_refused(root: str, tmp_path: Path) -> None:
    path, tag = tmp_path / "x.xml", root.partition(" ")[0]
    subset = (
        "<!ENTITY a 'x'><!ENTITY b '&a;&a;&a;&a;'>",
        "<!ENTITY a SYSTEM 'file:///etc/hostname'>",
        "<!ATTLIST a b CDATA 'x'>",
    )
    for encoding in ("utf-8", "utf-16"):
        for declarations in subset:
            path.write_bytes(f"<!DOCTYPE {tag} [{declarations}]><{root}>&a;</{tag}>".encode(encoding))
            assert says(path).startswith("the XML declares entities or attributes of its own")
    path.write_text(f"<{root}>" + "<a/>" * 200_000 + f"</{tag}>")
    assert says(path) == "more elements than an ECG has (over 200000)"
    path.write_text(f"<{root}>" + "<a>" * 20_000 + "</a>" * 20_000 + f"</{tag}>")
    assert says(path).startswith("not a readable ")
    # Python's codec of this name takes quadratic time.
    path.write_bytes(
        f"<?xml version='1.0' encoding  =\n'punycode'?><{root}>a{'-b' * 200_000}\xff</{tag}>".encode("latin-1")
    )
    assert says(path).startswith("not a readable ")


def test_a_file_larger_than_any_resting_ecg_is_refused_unread(tmp_path: Path) -> None:
    (tmp_path / "x.xml").write_bytes(b"<RestingECG>" + b" " * 24_000_000)
    assert says(tmp_path / "x.xml") == "too large for its format (over 24000000 bytes of GE MUSE XML)"
    (tmp_path / "x.scp").write_bytes(bytes(1_000_001))
    assert says(tmp_path / "x.scp") == "too large for its format (over 1000000 bytes of SCP-ECG)"


def test_declared_sizes_are_not_believed(tmp_path: Path) -> None:
    sierra = edited(write(tmp_path, "Sierra, XLI"), 'durationperchannel="2000"', 'durationperchannel="1e300"')
    assert says(sierra).startswith("too long to read at once (")
    scp = patched(write(tmp_path, "SCP-ECG, Huffman"), 3, 2 + 4, struct.pack("<I", 0xFFFFFFF0))
    assert says(scp).startswith("not a readable SCP-ECG file (")


def test_xli_data_that_unpacks_to_more_than_is_declared_is_refused(tmp_path: Path) -> None:
    codes = [0, *range(256, 1023), *[1022] * 700]  # each a byte longer than the one before, then 768 bytes each
    bits = "".join(format(code, "010b") for code in codes)
    packed = int(bits + "1" * (-len(bits) % 8), 2).to_bytes((len(bits) + 7) // 8, "big")
    bomb = base64.b64encode((struct.pack("<iHh", len(packed), 0, 0) + packed) * 12).decode()
    path = write(tmp_path, "Sierra, XLI")
    text = path.read_bytes().decode("utf-16")
    path.write_bytes(re.sub(r"(<parsedwaveforms[^>]*>)[^<]*", rf"\g<1>{bomb}", text).encode("utf-16"))
    assert says(path) == "the leads do not have the duration that the file states (800 samples)"


@FUZZ
@given(where=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
@pytest.mark.parametrize("kind", ["SCP-ECG, Huffman", "SCP-ECG, reference beat"])
def test_a_flipped_bit_of_an_scp_ecg_file_never_changes_the_signal(
    kind: str, where: float, bit: int, tmp_path: Path
) -> None:
    path = write(tmp_path, kind, random_recording(8, 700), beats=(150, 400) if "beat" in kind else ())
    data = bytearray(path.read_bytes())
    whole = read(path).signal
    data[int(where * len(data))] ^= 1 << bit
    path.write_bytes(data)
    with contextlib.suppress(UnreadableError):
        np.testing.assert_array_equal(read(path).signal, whole)


@FUZZ
@given(where=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_a_flipped_bit_of_muse_samples_never_changes_the_signal(where: float, bit: int, tmp_path: Path) -> None:
    path = write(tmp_path, "MUSE", random_recording(8, 200))
    whole = read(path).signal
    data = bytearray(path.read_bytes())
    start, end = data.rindex(b"<WaveFormData>") + 14, data.rindex(b"</WaveFormData>")
    data[start + int(where * (end - start))] ^= 1 << bit
    path.write_bytes(data)
    with contextlib.suppress(UnreadableError):
        np.testing.assert_array_equal(read(path).signal, whole)
