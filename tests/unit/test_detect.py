"""Which format a file has: by its first bytes, and by its ending only where these don't tell."""

import io
from pathlib import PurePath

import numpy as np
import pytest
import scipy.io
from hypothesis import given, settings
from hypothesis import strategies as st

from ecgpipe.readers import FORMATS, LEADS
from ecgpipe.readers.detect import HEAD_BYTES, SUFFIXES, csv_columns, format_of, what_else

AECG = '<?xml version="1.0"?>\n<!-- a comment -->\n<AnnotatedECG xmlns="urn:hl7-org:v3">'
MUSE = '<?xml version="1.0" encoding="ISO-8859-1"?>\n<!DOCTYPE RestingECG SYSTEM "restecg.dtd">\n<RestingECG>'


def bytes_of(**arrays: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.savez(file, allow_pickle=False, **arrays)
    return file.getvalue()


def mat(**options: bool) -> bytes:
    file = io.BytesIO()
    scipy.io.savemat(file, {"val": np.zeros((12, 9))}, **options)
    return file.getvalue()


def npy() -> bytes:
    file = io.BytesIO()
    np.save(file, np.zeros(3))
    return file.getvalue()


CONTENTS = {
    "mat": [mat(), mat(do_compression=True), b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(128)],
    "numpy": [npy(), bytes_of(signal=np.zeros(3))],
    "hdf5": [b"\x89HDF\r\n\x1a\n" + bytes(99), bytes(512) + b"\x89HDF\r\n\x1a\n"],
    "edf": [b"0       ".ljust(256), b"\xffBIOSEMI".ljust(256)],
    "dicom": [bytes(128) + b"DICM" + bytes(9)],
    "scp-ecg": [bytes(16) + b"SCPECG" + bytes(9)],
    "hl7-aecg": [AECG.encode(), AECG.encode("utf-16"), b"\xef\xbb\xbf" + AECG.encode(), b"<v3:AnnotatedECG>"],
    "muse-xml": [MUSE.encode(), MUSE.replace("?>\n", "?>\r\n").encode()],
    "sierra-xml": [b'<restingecgdata xmlns="http://www3.medical.philips.com">'],
    "csv": [
        ",".join(LEADS).encode(),
        b"time;I (mV);II (mV)\n0;1,5;2,5\n",
        b'"time"\t"lead II"\n',
        "I (\u00b5V),II (\u00b5V)".encode("latin-1"),
        "I,II\n".encode("utf-16"),
        b"\r\n" + b",".join([b"0.5"] * 12) + b"\r\n",
        b";".join([b"-1,5"] * 8),
    ],
}
CASES = [(name, content) for name, contents in CONTENTS.items() for content in contents]


@pytest.mark.parametrize(("name", "content"), CASES)
@pytest.mark.parametrize("file", ["x", "x.dat", "x.hea", "x.mat", "x.XML"])
def test_the_content_tells_whatever_the_ending(name: str, content: bytes, file: str) -> None:
    assert format_of(PurePath(file), content[:HEAD_BYTES]) == name
    assert name in FORMATS


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_the_ending_tells_where_the_content_does_not(suffix: str) -> None:
    for content in (b"", b"\0\1\2\3" * 100, b"some words\n"):
        assert format_of(PurePath(f"x{suffix}"), content) == SUFFIXES[suffix]
        assert format_of(PurePath(f"x{suffix.upper()}"), content) == SUFFIXES[suffix]


def test_endings_are_those_of_formats() -> None:
    assert set(SUFFIXES.values()) <= set(FORMATS)
    assert all(suffix == suffix.lower() and suffix.startswith(".") for suffix in SUFFIXES)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("x.dat", b"", "empty file"),
        ("x.dat", bytes(99), "no known format, .dat"),
        ("README", b"Some words, and more.\n", "no known format, without ending"),
        ("x.xml", b"<?xml version='1.0'?><note>", "XML of another kind (note)"),
        ("x.xml", b"<?xml", "XML of another kind"),
        ("x.csv", b"path,age\na.hea,7\n", "table without a column for each lead"),
        ("x.csv", b"path,I,II\na.hea,7,8\n", "table without a column for each lead"),
        ("x.csv", b"group,V1,V2\na,7,8\n", "table without a column for each lead"),
        ("x.parquet", b"PAR1" + bytes(9), "table without a column for each lead"),
        ("x.zip", b"PK\x03\x04" + bytes(22) + b"\5\0\0\0x.txt", "no known format, .zip"),
    ],
)
def test_what_is_no_recording_is_told_in_words(name: str, content: bytes, words: str) -> None:
    assert format_of(PurePath(name), content) is None
    assert what_else(PurePath(name), content) == words


def test_columns_are_the_cells_of_the_first_line_that_holds_something() -> None:
    assert csv_columns(b'\n"I (mV)", II ,x\n1,2,3') == ["I (mV)", "II", "x"]
    assert csv_columns(b"I;II\n1,2;3") == ["I", "II"]
    assert csv_columns(b"1,5;2,5") == ["1,5", "2,5"]
    assert csv_columns("I\tII\n".encode("utf-16")) == ["I", "II"]
    assert csv_columns(b"") == [""]


@given(
    content=st.binary(max_size=300), start=st.sampled_from([b"", b"<", b"<!DOCTYPE x [", b"\xff\xfe", b"PK\x03\x04"])
)
@settings(deadline=None, max_examples=200)
def test_any_bytes_have_a_format_or_words(content: bytes, start: bytes) -> None:
    name = PurePath("x.dat")
    assert format_of(name, start + content) in {*FORMATS, None}
    assert what_else(name, start + content)
