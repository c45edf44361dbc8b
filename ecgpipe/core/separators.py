"""Which character separates the cells of a CSV file."""

import csv
import re
from itertools import islice

SEPARATORS = ",;\t"


def separator_of(text: str) -> str:
    """What stands between the cells: comma, semicolon or tab.

    The one that cuts the first two lines into equally many cells, at least two; of several such, the one that gives the
    most cells. A comma is a decimal one where the first line has numbers alone and another separator, and it belongs to
    names where a space follows each and another separator fits too.

    Args:
        text: The beginning of the file, its last line whole or not.

    Returns:
        One of `SEPARATORS`; a comma where there is none of them.
    """
    lines = [line for line in text.splitlines(keepends=True) if line.strip()]
    if len(lines) == 2 and not lines[1].endswith(("\n", "\r")):
        lines = lines[:1]  # the second may be cut
    first = lines[0] if lines else ""
    if not re.search(r"(?i)[^\W\d_](?<!e)", first.replace("nan", "")):
        return next((separator for separator in ";\t" if separator in first), ",")
    cells = {separator: _cells(lines, separator) for separator in SEPARATORS}
    even = [separator for separator in SEPARATORS if len(set(cells[separator])) == 1 and cells[separator][0] > 1]
    possible = even or [separator for separator in SEPARATORS if cells[separator][0] > 1]
    if len(possible) > 1 and possible[0] == "," and not re.search(r",(?! )", first):
        possible = possible[1:]
    return max(possible or SEPARATORS, key=lambda separator: cells[separator][0])


def _cells(lines: list[str], separator: str) -> list[int]:
    """How many cells the first two rows have."""
    try:
        return [len(row) for row in islice(csv.reader(lines, delimiter=separator), 2)] or [0]
    except csv.Error:  # a cell that is too large
        return [0]
