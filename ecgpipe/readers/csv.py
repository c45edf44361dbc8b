"""CSV files of one recording: a row per sample, a column per lead, and perhaps one of times."""

import csv
import re
from pathlib import Path

import pyarrow as pa
import pyarrow.csv

from ecgpipe.readers import columns
from ecgpipe.readers.files import brief, read_bytes, size_of
from ecgpipe.readers.recording import Assumed, Recording, UnreadableError, assumed_leads
from ecgpipe.separated import separator_of

# An hour and a half of twelve leads at 500 Hz.
_MOST_BYTES = 256_000_000

# The names of some thousand columns find room.
_HEAD_BYTES = 100_000

_CELL = re.compile(r"[-+]?(?:\d+[.,]?\d*|[.,]\d+)(?:[eE][-+]?\d+)?|nan|", re.IGNORECASE)
_MISSING = ["", "nan", "NaN", "NAN", "NA", "N/A", "null", "NULL", "-"]


def read(path: Path, assumed: Assumed, row: int | None = None) -> Recording:
    """Read a CSV file; see `readers.read`.

    Separated by commas, semicolons (then a decimal comma is understood) or tabs. A file without a line of names takes
    them from `assumed`, which may name a column of times among the leads.
    """
    size = size_of(path)
    if size > _MOST_BYTES:
        raise UnreadableError(f"too long to read at once ({size} bytes of CSV)")
    head = read_bytes(path, 0, _HEAD_BYTES)
    encoding, text = _text(head)
    first = next((line for line in text.splitlines() if line.strip()), "")
    separator = separator_of(text)
    cells = next(csv.reader([first], delimiter=separator), [])
    named = not all(_CELL.fullmatch(cell.strip()) for cell in cells)
    names = cells if named else _assumed(len(cells), assumed)
    chosen = columns.wanted(names)
    comma = separator != "," and re.search(r"\d,\d", text) is not None
    try:
        table = pyarrow.csv.read_csv(
            path,
            pyarrow.csv.ReadOptions(use_threads=False, encoding=encoding, column_names=None if named else names),
            pyarrow.csv.ParseOptions(delimiter=separator),
            pyarrow.csv.ConvertOptions(
                include_columns=chosen,
                # Guessed by the first rows, a column that begins with whole numbers could hold no others.
                column_types={names[number]: pa.float64() for number in columns.lead_columns(names)},
                null_values=_MISSING,
                decimal_point="," if comma else ".",
            ),
        )
    except (FileNotFoundError, PermissionError):
        raise
    except (pa.ArrowException, OSError, UnicodeError) as error:
        raise UnreadableError(f"not a readable CSV file ({brief(error)})") from error
    return columns.recording(table, None, None, assumed)


def _assumed(count: int, assumed: Assumed) -> list[str]:
    leads = assumed_leads(assumed)
    if len(leads) != count:
        raise UnreadableError(
            f"the table's columns do not fit the number of leads ({count} columns, {len(leads)} leads)"
        )
    return list(leads)


def _text(head: bytes) -> tuple[str, str]:
    """The encoding, and the beginning of the file as text."""
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "utf-16", head[: len(head) // 2 * 2].decode("utf-16", errors="ignore")
    try:
        # Up to the last line that is whole: elsewhere a letter may be cut in two.
        whole = head[: head.rfind(b"\n") + 1] or head
        return "utf8", whole.removeprefix(b"\xef\xbb\xbf").decode()
    except UnicodeDecodeError:
        return "latin-1", head.decode("latin-1")  # where a micro sign is one byte
