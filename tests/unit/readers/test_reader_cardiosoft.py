"""CardioSoft XML: the strip as the file has it, at its rate and scale, or a reason why not."""

from pathlib import Path

import numpy as np
import pytest
from vendor_files import EIGHT, cardiosoft_xml, random_recording

from ecgpipe.readers import LEADS, Assumed, Recording, UnreadableError, cardiosoft


def made(leads: int = 12, samples: int = 400) -> np.ndarray:
    return random_recording(leads, samples)


def read(path: Path, assumed: Assumed | None = None) -> Recording:
    return cardiosoft.read(path, assumed or Assumed())


def says(path: Path) -> str:
    with pytest.raises(UnreadableError) as caught:
        read(path)
    return str(caught.value)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    cardiosoft_xml(tmp_path / "x.xml", made(), 500, LEADS)
    return tmp_path / "x.xml"


def edited(path: Path, old: str, new: str, count: int = -1) -> Path:
    """The file with a part of its text put otherwise; of the strip, which stands last, where `count` is 0."""
    text = path.read_text("iso8859-1")
    assert old in text
    before, _, after = text.rpartition(old)
    path.write_text(f"{before}{new}{after}" if count == 0 else text.replace(old, new, count), "iso8859-1")
    return path


@pytest.mark.parametrize("leads", [LEADS[::-1], EIGHT])
def test_leads_are_called_as_the_file_calls_them(leads: tuple[str, ...], tmp_path: Path) -> None:
    written = cardiosoft_xml(tmp_path / "x.xml", made(len(leads)), 500, leads)
    recording = read(tmp_path / "x.xml")
    assert recording.leads == leads
    np.testing.assert_allclose(recording.signal, written, rtol=0, atol=1e-12)


def test_what_the_file_states_it_must_hold(path: Path) -> None:
    text = path.read_bytes()
    for old, new, reason in (
        ("<ChannelSampleCountTotal>400", "<ChannelSampleCountTotal>500",
         "the file does not hold what it states (ChannelSampleCountTotal 500, found 400)"),
        ("<NumberOfLeads>12", "<NumberOfLeads>15", "the file does not hold what it states (NumberOfLeads 15, f"),
        ('<WaveformData lead="V6">', '<WaveformData lead="V6">1,', "the leads differ in length (I 400, "),
        ('<WaveformData lead="V6">', '<WaveformData lead="">', "the CardioSoft XML file does not name each lead ("),
        ('<WaveformData lead="V6">', '<WaveformData lead="V6">x,', "a lead's sample is no number (V6: 'x')"),
        ('<SampleRate units="Hz">500', '<SampleRate units="Hz">', "the CardioSoft XML file's SampleRate is no"),
        ('<SampleRate units="Hz">', '<SampleRate units="kHz">', "the sampling rate is in a unit that is not read (k"),
        ('units="uVperLsb">5<', 'units="uVperLsb">-5<', "the CardioSoft XML file's Resolution is no positive number"),
        ('units="uVperLsb"', 'units="perLsb"', "the resolution is in a unit that is not read (perlsb)"),
        ("</StripData>", "</StripData><StripData><WaveformData/></StripData>", "the file holds several strips (2)"),
    ):  # fmt: skip
        path.write_bytes(text)
        assert says(edited(path, old, new, 0)).startswith(reason)


def test_an_exercise_test_without_a_strip_is_refused_with_what_it_is(path: Path) -> None:
    edited(edited(path, "StripData", "FullDisclosure"), "RestECG", "StressECG")
    assert says(path) == "the CardioSoft XML file has no strip of a resting ECG (StressECG)"


def test_a_resolution_without_a_unit_leaves_it_to_the_settings(path: Path) -> None:
    edited(path, '<Resolution units="uVperLsb">', "<Resolution>")
    assert read(path).unit is None
    in_mv = read(path, Assumed(unit="uV"))
    assert in_mv.unit == "mV"
    np.testing.assert_allclose(in_mv.signal, made(), rtol=0, atol=5e-3 / 2 * 1.001)


def test_files_of_other_formats_are_refused(tmp_path: Path) -> None:
    for content in (b"<svg/>", b"", bytes(100)):
        (tmp_path / "x.xml").write_bytes(content)
        assert says(tmp_path / "x.xml")


def test_xml_that_is_made_to_blow_up_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.xml"
    for declarations in ("<!ENTITY a 'x'><!ENTITY b '&a;&a;&a;'>", "<!ENTITY a SYSTEM 'file:///etc/hostname'>"):
        path.write_text(f"<!DOCTYPE CardiologyXML [{declarations}]><CardiologyXML>&a;</CardiologyXML>")
        assert says(path).startswith("the XML declares entities or attributes of its own")
    path.write_bytes(b"<CardiologyXML>" + b" " * 24_000_000)
    assert says(path) == "too large for its format (over 24000000 bytes of CardioSoft XML)"
