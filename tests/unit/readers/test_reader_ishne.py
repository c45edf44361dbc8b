"""ISHNE Holter files: every lead as the file has it, at its rate and scale, or a reason why not."""

import binascii
import contextlib
import struct
import tracemalloc
import warnings
from pathlib import Path

import numpy as np
import pytest
from ecgdatakit.parsing.parsers.ishne_holter import ISHNEHolterParser
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from vendor_files import ishne as ishne_file
from vendor_files import random_recording

from ecgpipe import readers
from ecgpipe.readers import LEADS, Assumed, Recording, UnreadableError, ishne

FUZZ = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
COMMENTS = b"a comment\0"  # what the writer puts between header and ECG


def made(leads: int = 12, samples: int = 400) -> np.ndarray:
    return random_recording(leads, samples)


def read(path: Path, assumed: Assumed | None = None) -> Recording:
    return ishne.read(path, assumed or Assumed())


def says(path: Path) -> str:
    with pytest.raises(UnreadableError) as caught:
        read(path)
    return str(caught.value)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    ishne_file(tmp_path / "x.ecg", made(), 500, LEADS)
    return tmp_path / "x.ecg"


def patched(path: Path, at: int, content: bytes) -> Path:
    """The file with some bytes of its header put otherwise, and its checksum right."""
    data = bytearray(path.read_bytes())
    data[at : at + len(content)] = content
    data[8:10] = struct.pack("<H", binascii.crc_hqx(bytes(data[10 : 522 + len(COMMENTS)]), 0xFFFF))
    path.write_bytes(data)
    return path


def test_another_reader_reads_the_same(path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        other = ISHNEHolterParser().parse(path)
    recording = read(path)
    assert [lead.label for lead in other.leads] == list(recording.leads)
    for lead, row in zip(other.leads, recording.signal, strict=True):
        np.testing.assert_allclose(np.asarray(lead.samples) * lead.resolution / 1000, row, rtol=0, atol=1e-12)


@pytest.mark.parametrize("leads", [LEADS[::-1], ("V1", "V5"), ("X", "Y", "Z")])
def test_leads_are_told_by_their_codes(leads: tuple[str, ...], tmp_path: Path) -> None:
    ishne_file(tmp_path / "x.ecg", made(len(leads)), 200, leads)
    assert read(tmp_path / "x.ecg").leads == leads


def test_a_lead_whose_code_says_nothing_has_a_number_for_a_name(path: Path) -> None:
    assert read(patched(path, 158, struct.pack("<2h", 0, 1))).leads == ("lead 1", "lead 2", *LEADS[2:])


def test_each_lead_has_a_resolution_of_its_own(path: Path) -> None:
    patched(path, 206, struct.pack("<2h", 2500, 500))
    np.testing.assert_allclose(read(path).signal[0], made()[0] * 2.5, rtol=0, atol=2.5e-3)
    np.testing.assert_allclose(read(path).signal[1], made()[1] / 2, rtol=0, atol=1e-3)


def test_a_resolution_that_is_none_leaves_the_unit_to_the_settings(path: Path) -> None:
    patched(path, 206, struct.pack("<12h", *[-9] * 12))
    assert read(path).unit is None
    np.testing.assert_array_equal(read(path).signal, np.rint(made() * 1000))
    assert read(path, Assumed(unit="uV")).unit == "mV"
    assert read(patched(path, 206, struct.pack("<h", 1000))).unit == "mixed"


def test_where_a_lead_was_off_there_is_no_number(tmp_path: Path) -> None:
    signal = made()
    signal[3, 5:9] = -32.768
    ishne_file(tmp_path / "x.ecg", signal, 500, LEADS)
    off = np.isnan(read(tmp_path / "x.ecg").signal)
    assert off.sum() == 4
    assert off[3, 5:9].all()


def test_an_end_at_which_all_leads_were_off_is_no_signal(tmp_path: Path) -> None:
    signal = made()
    signal[:, 350:] = -32.768
    ishne_file(tmp_path / "x.ecg", signal, 500, LEADS)
    recording = readers.read(tmp_path / "x.ecg", "ishne", Assumed())
    assert recording.signal.shape == (12, 350)
    assert recording.stripped_s == pytest.approx(50 / 500)
    signal[:, 300:] = 32.767
    ishne_file(tmp_path / "x.ecg", signal, 500, LEADS)
    assert readers.read(tmp_path / "x.ecg", "ishne", Assumed()).signal.shape == (12, 300)


@pytest.mark.parametrize("size", [400, 12 * 400])
def test_the_stated_size_is_that_of_a_lead_or_of_all(size: int, path: Path) -> None:
    assert read(patched(path, 14, struct.pack("<i", size))).signal.shape == (12, 400)


def test_a_header_that_contradicts_the_file_is_refused(path: Path) -> None:
    whole = path.read_bytes()
    for at, content, reason in (
        (14, struct.pack("<i", 401), "the ISHNE file is not as long as its header says (401 samples, found 400"),
        (10, struct.pack("<i", -1), "the ISHNE header contradicts itself on where the ECG begins (532, 521)"),
        (10, struct.pack("<i", 2**31 - 1), "the ISHNE header contradicts itself on where the ECG begins ("),
        (22, struct.pack("<i", 522), "the ISHNE header contradicts itself on where the ECG begins (522, 532)"),
        (156, struct.pack("<h", 0), "the ISHNE header's number of leads is not 1 to 12 (0)"),
        (156, struct.pack("<h", 13), "the ISHNE header's number of leads is not 1 to 12 (13)"),
        (272, struct.pack("<h", 0), "the file's sampling rate is not a positive number (0)"),
    ):
        path.write_bytes(whole)
        assert says(patched(path, at, content)).startswith(reason)


def test_a_checksum_may_be_absent_or_in_either_order_and_no_other(path: Path) -> None:
    whole = path.read_bytes()
    for checksum in (bytes(2), whole[8:10][::-1]):
        path.write_bytes(whole[:8] + checksum + whole[10:])
        assert read(path).leads == LEADS
    path.write_bytes(whole[:8] + b"\1\2" + whole[10:])
    assert says(path).startswith("a checksum does not fit: the file is damaged (stored 0x0201, found ")


def test_a_holter_of_a_whole_day_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "x.ecg"
    ishne_file(path, made(3, 100), 200, ("V1", "V3", "V5"))
    samples = 24 * 3600 * 200
    patched(path, 14, struct.pack("<i", samples))
    with path.open("r+b") as file:
        file.truncate(522 + len(COMMENTS) + samples * 3 * 2)  # of zeros that take no room on the disk
    tracemalloc.start()
    try:
        assert says(path) == f"too long to read at once (3 leads x {samples} samples)"
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


@FUZZ
@given(where=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_a_flipped_bit_of_the_header_never_changes_the_signal(where: float, bit: int, tmp_path: Path) -> None:
    ishne_file(tmp_path / "x.ecg", made(), 500, LEADS)
    whole = read(tmp_path / "x.ecg")
    data = bytearray((tmp_path / "x.ecg").read_bytes())
    data[int(where * (522 + len(COMMENTS)))] ^= 1 << bit
    (tmp_path / "x.ecg").write_bytes(data)
    with contextlib.suppress(UnreadableError):
        changed = read(tmp_path / "x.ecg")
        np.testing.assert_array_equal(changed.signal, whole.signal)
        assert (changed.leads, changed.sample_rate, changed.unit) == (whole.leads, whole.sample_rate, whole.unit)


@FUZZ
@given(start=st.sampled_from([b"", b"ISHNE1.0"]), content=st.binary(max_size=700))
def test_any_bytes_are_a_recording_or_a_reason(start: bytes, content: bytes, tmp_path: Path) -> None:
    (tmp_path / "x.ecg").write_bytes(start + content)
    with contextlib.suppress(UnreadableError):
        read(tmp_path / "x.ecg")
