"""CSV files of one recording: a row per sample, a column per lead, and perhaps a column of times."""

import re
from pathlib import Path

import pyarrow as pa
import pyarrow.csv

from ecgpipe.core.separators import separator_of
from ecgpipe.readers import columns, detect
from ecgpipe.readers.files import brief, read_bytes, size_of
from ecgpipe.readers.recording import Assumed, Recording, UnreadableError, assumed_leads

# An hour and a half of twelve leads at 500 Hz.
_MOST_BYTES = 256_000_000

# Room for the names of some thousand columns.
_HEAD_BYTES = 100_000

# Empty lines that may stand below the names.
_MOST_EMPTY = 10

_CELL = re.compile(r"[-+]?(?:\d+[.,]?\d*|[.,]\d+)(?:[eE][-+]?\d+)?|nan|", re.IGNORECASE)
_MISSING = ["", "nan", "NaN", "NAN", "NA", "N/A", "null", "NULL", "-"]


def read(path: Path, assumed: Assumed, row: int | None = None) -> Recording:
    """Read a CSV file; see `readers.read`.

    Separated by commas, semicolons (then a decimal comma is understood) or tabs. A file without a line of names takes
    them from `assumed`, which may name a column of times among the leads. Before the names there may be a preamble, and
    below them a line of units.
    """
    size = size_of(path)
    if size > _MOST_BYTES:
        raise UnreadableError(f"too long to read at once ({size} bytes of CSV)")
    head = read_bytes(path, 0, _HEAD_BYTES)
    encoding, text = _text(head)
    line, cells = detect.csv_names(text)
    named = not all(_CELL.fullmatch(cell) for cell in cells)
    names = cells if named else _assumed(len(cells), assumed)
    lines = detect.LINE_END.split(text)
    values = line
    if named:
        names, values = _with_units(names, lines, line + 1)
    chosen = columns.columns_to_read(names)
    separator = separator_of("\n".join(lines[line:]))
    comma = separator != "," and re.search(r"\d,\d", "\n".join(lines[values:])) is not None
    try:
        table = pyarrow.csv.read_csv(
            path,
            pyarrow.csv.ReadOptions(
                use_threads=False,
                encoding=encoding,
                column_names=names,
                skip_rows=values,
            ),
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
    return columns.make_recording(table, None, None, assumed)


def _with_units(names: list[str], lines: list[str], start: int) -> tuple[list[str], int]:
    """The column names with the units of a line below them, and the line at which the values begin.

    Args:
        names: Of the columns.
        lines: Of the file.
        start: The line after the one of names.
    """
    filled = [number for number in range(start, min(start + _MOST_EMPTY, len(lines))) if lines[number].strip()]
    if len(filled) < 2:
        return names, start
    units, values = (detect.csv_cells(lines[number]) for number in filled[:2])
    is_units = len(units) == len(values) == len(names) and detect.are_values(values)
    if not is_units or any(unit and detect.are_values([unit]) for unit in units):
        return names, start
    return [columns.with_unit(name, unit) for name, unit in zip(names, units, strict=True)], filled[0] + 1


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
