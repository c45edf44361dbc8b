"""Vendors' formats: real recordings come back as they were written, damaged and cut files are refused or read."""

import contextlib
import warnings
from pathlib import Path

import numpy as np
import pytest
import scipy.io
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from vendor_files import EIGHT, FORMATS, random_recording

from ecgpipe import readers
from ecgpipe.readers import LEADS, Assumed, Recording, UnreadableError

XML = [kind for kind, vendor in FORMATS.items() if vendor.suffix == ".xml" and kind != "Sierra, plain"]
FUZZ = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def path_of(folder: Path, kind: str) -> Path:
    return folder / f"x{FORMATS[kind].suffix}"


def read(folder: Path, kind: str) -> Recording:
    """Read it; a warning that gets out fails the test."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return readers.read(path_of(folder, kind), FORMATS[kind].format_name, Assumed())


@pytest.mark.parametrize("kind", FORMATS)
def test_a_real_recording_comes_back_as_it_was_written(kind: str, tmp_path: Path, reference: Path) -> None:
    signal = scipy.io.loadmat(sorted((reference / "code15").glob("*.mat"))[0])["feats"]
    written = FORMATS[kind].write(path_of(tmp_path, kind), signal, 400, LEADS)
    recording = read(tmp_path, kind)
    assert (recording.leads, recording.sample_rate, recording.unit, recording.stripped_s) == (LEADS, 400, "mV", 0)
    np.testing.assert_allclose(recording.signal, written, rtol=0, atol=1e-12)
    np.testing.assert_allclose(recording.signal, signal, rtol=0, atol=FORMATS[kind].step / 2 * 1.001)


@FUZZ
@given(where=st.floats(0, 1, exclude_max=True), junk=st.binary(min_size=1, max_size=4))
@pytest.mark.parametrize("kind", XML)
def test_a_damaged_xml_file_is_a_recording_or_a_reason(kind: str, where: float, junk: bytes, tmp_path: Path) -> None:
    path = path_of(tmp_path, kind)
    FORMATS[kind].write(path, random_recording(8, 60), 400, EIGHT)
    data = bytearray(path.read_bytes())
    at = int(where * len(data))
    data[at : at + len(junk)] = junk
    path.write_bytes(data)
    with contextlib.suppress(UnreadableError):
        recording = read(tmp_path, kind)
        assert recording.signal.shape[0] == len(recording.leads)
        assert recording.sample_rate > 0


@FUZZ
@given(share=st.floats(0, 0.999))
@pytest.mark.parametrize("kind", FORMATS)
def test_a_file_that_was_cut_off_is_refused(kind: str, share: float, tmp_path: Path) -> None:
    path = path_of(tmp_path, kind)
    FORMATS[kind].write(path, random_recording(8, 700 if "beat" in kind else 60), 400, EIGHT)
    data = path.read_bytes().rstrip()
    path.write_bytes(data[: int(share * len(data))])
    with pytest.raises(UnreadableError):
        read(tmp_path, kind)
