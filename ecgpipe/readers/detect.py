"""Which format a file has, by its first bytes."""

import csv
import re
from collections.abc import Sequence
from itertools import pairwise
from pathlib import PurePath

from ecgpipe.core.leads import LEADS, spell_leads
from ecgpipe.core.separators import separator_of

# The bytes at the beginning of a file that are examined.
HEAD_BYTES = 4096

_LONGEST_SUFFIX = 12

# The format of files with these extensions, whatever they hold: reading them shows what is wrong with them. The
# extensions of the other formats (.xml, .csv, .parquet) have many other uses.
SUFFIXES = {
    ".hea": "wfdb",
    ".mat": "mat",
    ".npy": "numpy",
    ".npz": "numpy",
    ".h5": "hdf5",
    ".hdf5": "hdf5",
    ".edf": "edf",
    ".bdf": "edf",
    ".dcm": "dicom",
    ".scp": "scp-ecg",
}

# The line ends of CSV files that pyarrow recognises.
LINE_END = re.compile(r"\r\n|\n|\r")
_COMMENTS = ("#", "%", "//")
_PREAMBLE_LINES = 200
_PLAIN_NUMBER = re.compile(r"[-+]?[\d.,]+(?:[eE][-+]?\d+)?")
# A cell below a name: a number, empty, or a time.
_VALUE = re.compile(r"[-+]?[\d.,]+(?:e[-+]?\d+)?|nan||\[?[\d:.,/ TZ+-]+\]?", re.IGNORECASE)

_XML_ROOTS = {"restingecg": "muse-xml", "restingecgdata": "sierra-xml", "annotatedecg": "hl7-aecg"}
_XML_ROOTS |= {"cardiologyxml": "cardiosoft-xml"}
# Many programs call their root ECG: Mortara's has its times as attributes, its leads as <CHANNEL>.
_ELI = re.compile(r"<ECG\s[^>]*\bACQUISITION_TIME|<CHANNEL\s[^>]*\bUNITS_PER_MV")
# Keys that AliveCor's recordings have before their samples, and hardly any other JSON has.
_KARDIA = re.compile(r'"recordedAt"\s*:.*"(?:algorithmDetermination|amplitudeResolution)"\s*:', re.DOTALL)
_ROOT = re.compile(r"<(?:[\w.-]+:)?([A-Za-z_][\w.-]*)")
# What may precede a root, also if the head ends within it.
_NO_ROOT = re.compile(r"<\?.*?(?:\?>|$)|<!--.*?(?:-->|$)|<!DOCTYPE[^\[>]*(?:\[.*?(?:\]|$))?\s*(?:>|$)", re.DOTALL)


def format_of(name: PurePath, head: bytes) -> str | None:
    """The format of a file.

    Args:
        name: Of the file; its extension is used only if the content is not recognised.
        head: Its first `HEAD_BYTES` bytes, or all of them.

    Returns:
        A key of `readers.FORMATS`; None for a file that is not recognised as a recording.
    """
    return _by_content(head) or SUFFIXES.get(name.suffix.lower())


def what_else(name: PurePath, head: bytes) -> str:
    """Describe a file that `format_of` does not recognise, for the file list."""
    if not head:
        return "empty file"
    text = text_of(head)
    if text is not None and text.lstrip().startswith("<"):
        root = _xml_root(text)
        return f"XML of another kind ({root})" if root else "XML of another kind"
    if name.suffix.lower() in (".csv", ".tsv"):
        return "table without a column for each lead"
    if head.startswith(b"PAR1"):
        return "table without a column for each lead"
    # Not in brackets: files are counted by it. A longer extension is part of a name with a dot in it.
    # Bytes that are not UTF-8 are shown as \xfc later.
    is_printable = all(letter.isprintable() or "\udc80" <= letter <= "\udcff" for letter in name.suffix)
    is_extension = len(name.suffix) <= _LONGEST_SUFFIX and is_printable
    suffix = name.suffix.lower() if is_extension else ""
    return f"no known format, {suffix or 'without file extension'}"


def csv_columns(head: bytes) -> list[str]:
    """The column names of a CSV file; numbers, as text, if it has no names."""
    return csv_names(text_of(head) or "")[1]


def csv_names(text: str) -> tuple[int, list[str]]:
    """Find the line of a CSV file that names its columns.

    It is the first line that is neither empty nor a comment, unless a later line names several leads and is followed by
    a line of as many numbers: recorders put a preamble before it. The last comment may be the line of names, as NumPy
    writes it.

    Args:
        text: The file, or its beginning.

    Returns:
        The line's number, from 0, and its cells; of a file without names the cells of its first numbers.
    """
    lines = LINE_END.split(text)
    filled = [number for number, line in enumerate(lines) if line.strip()]
    plain = [number for number in filled if not lines[number].lstrip().startswith(_COMMENTS)] or filled
    if not plain:
        return 0, [""]
    first, cells = plain[0], csv_cells(lines[plain[0]], lines[plain[1]] if len(plain) > 1 else "")
    if _names_lead(cells):
        return first, cells
    if are_values(cells):
        before = filled.index(first) - 1
        names = csv_cells(lines[filled[before]].lstrip("#%/ ")) if before >= 0 else []
        return (filled[before], names) if _names_lead(names) and len(names) == len(cells) else (first, cells)
    for number, following in pairwise(plain[:_PREAMBLE_LINES]):
        names = csv_cells(lines[number], lines[following])
        if _names_lead(names, 2):
            values = csv_cells(lines[following])
            if len(values) == len(names) and are_values(values):
                return number, names
    return first, cells


def csv_cells(line: str, following: str = "") -> list[str]:
    """The cells of a line, without quotes. The separator may be found only with the line that follows."""
    separator = separator_of(f"{line}\n{following}\n")
    if '"' in line:
        line = next(csv.reader([line], delimiter=separator), [""])  # type: ignore[assignment]
    return [cell.strip().strip("\"'") for cell in (line.split(separator) if isinstance(line, str) else line)]


def are_values(cells: Sequence[str]) -> bool:
    """Whether these are numbers and times, some of which may be missing."""
    return any(map(str.strip, cells)) and all(map(_VALUE.fullmatch, cells))


def _names_lead(cells: Sequence[str], least: int = 1) -> bool:
    """Whether a limb lead is among several names; R names columns without a name like chest leads."""
    if len(cells) < 2:
        return False
    leads = set(spell_leads(cells)) & set(LEADS)
    return len(leads) >= least and bool(leads & set(LEADS[:6]))


def _by_content(head: bytes) -> str | None:
    if head.startswith(b"MATLAB 5.0 MAT-file") or head.startswith(b"MATLAB 7.3 MAT-file"):
        return "mat"
    if head.startswith(b"\x93NUMPY"):
        return "numpy"
    if head.startswith(b"PK\x03\x04") and head[30 : 30 + int.from_bytes(head[26:28], "little")].endswith(b".npy"):
        return "numpy"
    if any(head[at : at + 8] == b"\x89HDF\r\n\x1a\n" for at in (0, 512, 1024, 2048)):
        return "hdf5"
    if head[:1] == b"\x40" and head[2:6] == b"MFR ":  # the preamble; MFER without it cannot be recognised
        return "mfer"
    if head.startswith(b"ISHNE1.0"):
        return "ishne"
    if head.startswith((b"0       ", b"\xffBIOSEMI")) and len(head) >= 256:
        return "edf"
    if head[128:132] == b"DICM":
        return "dicom"
    if head[16:22] == b"SCPECG" or (head[8:10] == head[22:24] == b"\0\0" and head[28:32] == b"\7\0\0\0"):
        return "scp-ecg"  # without the mark: section 0, whose first pointer is to itself at byte 7
    text = text_of(head)
    if text is None:
        return None
    if text.lstrip().startswith("<"):
        root = _xml_root(text)
        if root == "ECG" and _ELI.search(text):
            return "mortara-xml"
        return _XML_ROOTS.get((root or "").lower())
    if text.lstrip().startswith("{"):
        return "kardia-json" if _KARDIA.search(text) else None
    return "csv" if _is_signal_csv(head) else None


def _is_signal_csv(head: bytes) -> bool:
    """Whether the first line names a limb lead, or holds as many numbers as there are leads; and no column is `path`.

    Half of the numbers may be missing, as without chest electrodes.
    """
    names = csv_columns(head)
    if "path" in names:
        return False
    if _names_lead(names):
        return True
    filled = [name for name in names if name]
    return len(names) in (8, 12, 13) and 2 * len(filled) >= len(names) and all(map(_PLAIN_NUMBER.fullmatch, filled))


def _xml_root(text: str) -> str | None:
    match = _ROOT.search(_NO_ROOT.sub("", text))
    return match[1] if match else None


def text_of(head: bytes) -> str | None:
    """The bytes as text; None if they are not text."""
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        return head[: len(head) // 2 * 2].decode("utf-16", errors="ignore")
    for mark, encoding in ((b"<\0", "utf-16-le"), (b"\0<", "utf-16-be")):
        if head.startswith(mark):
            return head[: len(head) // 2 * 2].decode(encoding, errors="ignore")
    if b"\0" in head:
        return None
    return head.removeprefix(b"\xef\xbb\xbf").decode("utf-8", errors="ignore")
