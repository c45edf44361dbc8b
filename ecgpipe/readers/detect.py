"""Which format a file has, by its first bytes."""

import re
from pathlib import PurePath

from ecgpipe.readers.leads import spelled
from ecgpipe.readers.recording import LEADS
from ecgpipe.separated import separator_of

# So many bytes of a file are looked at.
HEAD_BYTES = 4096

_LONGEST_SUFFIX = 12

# The format of files with these endings, whatever they hold: reading one tells what is wrong with it. The endings of
# the other formats (.xml, .csv, .parquet) are those of much else.
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

_XML_ROOTS = {"restingecg": "muse-xml", "restingecgdata": "sierra-xml", "annotatedecg": "hl7-aecg"}
_ROOT = re.compile(r"<(?:[\w.-]+:)?([A-Za-z_][\w.-]*)")
# What stands before a root, also where the head ends within it.
_NO_ROOT = re.compile(r"<\?.*?(?:\?>|$)|<!--.*?(?:-->|$)|<!DOCTYPE[^\[>]*(?:\[.*?(?:\]|$))?\s*(?:>|$)", re.DOTALL)


def format_of(name: PurePath, head: bytes) -> str | None:
    """The format of a file.

    Args:
        name: Of the file; only its ending counts, and only where the content does not tell.
        head: Its first `HEAD_BYTES` bytes, or all of them.

    Returns:
        A key of `readers.FORMATS`; None for a file that is no recording as far as one can see.
    """
    return _by_content(head) or SUFFIXES.get(name.suffix.lower())


def what_else(name: PurePath, head: bytes) -> str:
    """What a file is that `format_of` does not know, in words, for the account of the files."""
    if not head:
        return "empty file"
    text = _text(head)
    if text is not None and text.lstrip().startswith("<"):
        root = _xml_root(text)
        return f"XML of another kind ({root})" if root else "XML of another kind"
    if name.suffix.lower() in (".csv", ".tsv"):
        return "table without a column for each lead"
    if head.startswith(b"PAR1"):
        return "table without a column for each lead"
    # Not in brackets: files are counted by it. An ending that is longer is a name with a dot in it.
    # Bytes that are no UTF-8 are shown as \xfc later.
    shown = all(letter.isprintable() or "\udc80" <= letter <= "\udcff" for letter in name.suffix)
    plain = len(name.suffix) <= _LONGEST_SUFFIX and shown
    suffix = name.suffix.lower() if plain else ""
    return f"no known format, {suffix or 'without ending'}"


def csv_columns(head: bytes) -> list[str]:
    """The names in the first line of a CSV file; numbers, as text, where it has no names."""
    text = _text(head) or ""
    line = next((line for line in text.splitlines() if line.strip()), "")
    return [name.strip().strip('"') for name in line.split(separator_of(text))]


def _by_content(head: bytes) -> str | None:
    if head.startswith(b"MATLAB 5.0 MAT-file") or head.startswith(b"MATLAB 7.3 MAT-file"):
        return "mat"
    if head.startswith(b"\x93NUMPY"):
        return "numpy"
    if head.startswith(b"PK\x03\x04") and head[30 : 30 + int.from_bytes(head[26:28], "little")].endswith(b".npy"):
        return "numpy"
    if any(head[at : at + 8] == b"\x89HDF\r\n\x1a\n" for at in (0, 512, 1024, 2048)):
        return "hdf5"
    if head.startswith((b"0       ", b"\xffBIOSEMI")) and len(head) >= 256:
        return "edf"
    if head[128:132] == b"DICM":
        return "dicom"
    if head[16:22] == b"SCPECG" or (head[8:10] == head[22:24] == b"\0\0" and head[28:32] == b"\7\0\0\0"):
        return "scp-ecg"  # without the mark: section 0, whose first pointer is to itself at byte 7
    text = _text(head)
    if text is None:
        return None
    if text.lstrip().startswith("<"):
        return _XML_ROOTS.get((_xml_root(text) or "").lower())
    return "csv" if _is_signal_csv(head) else None


def _is_signal_csv(head: bytes) -> bool:
    """A line of names among which a limb lead is, or of numbers alone, as many as leads are recorded, and no `path`.

    A chest lead alone is not enough: V1, V2 and so on is what R calls nameless columns.
    """
    names = csv_columns(head)
    if "path" in names:
        return False
    if set(spelled(names)) & set(LEADS[:6]) and len(names) > 1:
        return True
    return len(names) in (8, 12, 13) and all(re.fullmatch(r"[-+]?[\d.,]+(?:[eE][-+]?\d+)?", name) for name in names)


def _xml_root(text: str) -> str | None:
    match = _ROOT.search(_NO_ROOT.sub("", text))
    return match[1] if match else None


def _text(head: bytes) -> str | None:
    """The bytes as text; None for what is none."""
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        return head[: len(head) // 2 * 2].decode("utf-16", errors="ignore")
    for mark, encoding in ((b"<\0", "utf-16-le"), (b"\0<", "utf-16-be")):
        if head.startswith(mark):
            return head[: len(head) // 2 * 2].decode(encoding, errors="ignore")
    if b"\0" in head:
        return None
    return head.removeprefix(b"\xef\xbb\xbf").decode("utf-8", errors="ignore")
