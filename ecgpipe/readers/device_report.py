"""What a recording's device measured and said: intervals, axes, rate and statements.

A number is kept only where the file states it once, in a unit that is known, and where a heart can have it: what was
read wrongly is missing, not wrong.
"""

import re
from collections.abc import Iterable, Mapping
from itertools import islice
from typing import NamedTuple

# Statements of a recording, and letters of each: the rest is left out. Devices print some ten of them.
MOST_STATEMENTS = 40
MOST_LETTERS = 200

# The lowest and the highest value that is kept. Devices write 0, 999, 29999 or 65535 for what they did not measure.
_LIMITS = {
    "heart_rate": (10.0, 400.0),  # of the ventricles, per minute
    "pr_ms": (30.0, 1000.0),
    "qrs_ms": (20.0, 500.0),
    "qt_ms": (100.0, 1000.0),
    "qtc_ms": (100.0, 1000.0),
    "p_axis": (-180.0, 360.0),  # of the frontal plane, in degrees
    "qrs_axis": (-180.0, 360.0),
    "t_axis": (-180.0, 360.0),
}

PER_MINUTE = dict.fromkeys(("bpm", "/min", "1/min", "{h.b.}/min", "{beats}/min", "{beat}/min", "beats/min"), 1.0)
MILLISECONDS = {"ms": 1.0, "msec": 1.0, "milliseconds": 1.0, "s": 1000.0, "us": 1e-3, "\u00b5s": 1e-3, "\u03bcs": 1e-3}
DEGREES = dict.fromkeys(("deg", "degree", "degrees", "\u00b0"), 1.0)

# Whoever signed a statement is no device.
_SIGNED = re.compile(r"(?<!not )\b(?:confirmed|reviewed|edited|overread|signed) (?:by|on)\b", re.IGNORECASE)
_PERSON = re.compile(r"\b(?:referred|ordered|requested) by\b", re.IGNORECASE)
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_NUMBER = re.compile(r"[+-]?[0-9]{1,6}(?:\.[0-9]{1,6})?")


class DeviceReport(NamedTuple):
    """What a device reports of its recording; None for what its file does not say."""

    heart_rate: float | None = None  # of the ventricles, per minute
    pr_ms: float | None = None
    qrs_ms: float | None = None
    qt_ms: float | None = None
    qtc_ms: float | None = None  # by whatever formula the device uses
    p_axis: float | None = None  # of the frontal plane, in degrees
    qrs_axis: float | None = None
    t_axis: float | None = None
    statements: tuple[str, ...] = ()


def make_report(values: Mapping[str, float | None], statements: Iterable[str] = ()) -> DeviceReport:
    """Make a report of what a file states.

    Args:
        values: By field of `DeviceReport`, in its unit.
        statements: Its lines, as the device wrote them.

    Returns:
        The values that a heart can have. Statements without control characters, at most `MOST_STATEMENTS` of them;
        none if a person signed them.
    """
    kept = {
        name: float(value)
        for name, value in values.items()
        if value is not None and _LIMITS[name][0] <= value <= _LIMITS[name][1]
    }
    if kept.get("qrs_ms", 0) >= kept.get("qt_ms", 1e9):  # QT contains QRS: one of them is something else
        kept = {name: value for name, value in kept.items() if name not in ("qrs_ms", "qt_ms")}
    lines = [" ".join(_CONTROL.sub(" ", line).split()) for line in statements]
    if any(map(_SIGNED.search, lines)):
        lines = []
    told = dict.fromkeys(line[:MOST_LETTERS] for line in lines if re.search(r"\w", line) and not _PERSON.search(line))
    return DeviceReport(**kept, statements=tuple(islice(told, MOST_STATEMENTS)))


def units_of(name: str) -> Mapping[str, float]:
    """The units in which a field of `DeviceReport` may be stated, each with its factor, in lower case."""
    if name == "heart_rate":
        return PER_MINUTE
    return MILLISECONDS if name.endswith("_ms") else DEGREES


def convert(name: str, text: str | None, unit: str | None) -> float | None:
    """Convert what a file states of a field.

    Args:
        name: The field of `DeviceReport`.
        text: The number.
        unit: Its unit; None where the format has no other than the field's own.

    Returns:
        The number in the field's unit; None where the text is no plain number, or the unit is unknown.
    """
    if _NUMBER.fullmatch((text or "").strip()) is None:
        return None
    factor = 1.0 if unit is None else units_of(name).get(unit.strip().lower())
    return None if factor is None else round(float((text or "").strip()) * factor, 6)


def agree(values: Iterable[float | None]) -> float | None:
    """The value that all state, of those that state one; None where they differ or none does."""
    stated = {value for value in values if value is not None}
    return stated.pop() if len(stated) == 1 else None
