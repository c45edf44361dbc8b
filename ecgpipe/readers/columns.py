"""Tables with a column for each lead, whichever format they come from."""

import re
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ecgpipe.core.digital import find_digital
from ecgpipe.core.leads import LEADS, spell_leads
from ecgpipe.readers.recording import TO_MV, Assumed, Recording, UnreadableError, assumed_rate, in_mv, steps_to_mv

_TIME = re.compile(
    r"(?:(?:elapsed[ _]|relative[ _])?time|timestamp|t|(?P<name>s|sec|seconds|ms|milliseconds))"
    r"(?:[ _]*[(\[]?(?P<unit>s|sec|seconds|ms|milliseconds)[)\]]?)?"
)
_UNIT = re.compile(r"[ _]*[(\[]([^)\]]+)[)\]]$|[ _]([mu\u00b5\u03bcn]?v)$", re.IGNORECASE)

# In RE2's syntax. Without hours it is the elapsed time, as PhysioNet's tools write it: '0:00.002'.
_CLOCK = r"(?:^|[^\d:])(?:(?P<hours>\d{1,4}):)?(?P<minutes>\d{1,2}):(?P<seconds>\d{1,2}(?:[.,]\d{1,9})?)(?:$|[^\d:])"

# A step this long suggests milliseconds in a column of times without a unit.
_LONG_STEP = 0.1


def columns_to_read(names: Sequence[str]) -> list[str]:
    """The names of the columns that are read: the leads, and the times if there is such a column.

    Raises:
        UnreadableError: No column is a lead, or two have the same name.
    """
    time = time_column(names)
    chosen = [names[number] for number in lead_columns(names)] + ([names[time]] if time is not None else [])
    if any(names.count(name) > 1 for name in chosen):
        raise UnreadableError(f"the table has several columns of one name ({', '.join(chosen)[:200]})")
    return chosen


def lead_columns(names: Sequence[str]) -> list[int]:
    """The numbers of the columns whose names are leads of the twelve.

    Raises:
        UnreadableError: There is no such column.
    """
    numbers = [number for number, lead in enumerate(spell_leads(names)) if lead in LEADS]
    if not numbers:
        raise UnreadableError(f"the table has no column for a lead ({', '.join(names)[:200]})")
    return numbers


def time_column(names: Sequence[str]) -> int | None:
    """The number of the column of times, by its name; None if there is none."""
    return next((number for number, name in enumerate(names) if _TIME.fullmatch(name.strip().lower())), None)


def with_unit(name: str, unit: str) -> str:
    """A column's name with a unit that stands elsewhere, unless the name has a unit itself."""
    is_unit = unit.lower() in TO_MV or unit.lower() in ("s", "sec", "seconds", "ms", "milliseconds")
    return f"{name} ({unit})" if is_unit and not re.search(r"[)\]]$", name) and _unit(name) is None else name


def make_recording(table: pa.Table, rate: float | None, unit: str | None, assumed: Assumed) -> Recording:
    """Make a recording of a table's columns.

    Args:
        table: A row per sample.
        rate: The sampling rate that the file states beside its columns, in Hz.
        unit: The unit that it states there for leads whose columns name no unit.
        assumed: What is assumed if the file does not state it.

    Returns:
        The recording, with the columns that are leads and not empty; an empty cell is NaN.

    Raises:
        UnreadableError: The file does not state enough, or its times or cells are not valid.
    """
    names, column = table.column_names, table.column
    leads, time = lead_columns(names), time_column(names)
    if time is not None:
        with np.errstate(all="ignore"):  # infinite times are refused below
            timed = _rate(names[time], column(time), rate or assumed.sample_rate)
        if rate and abs(timed - rate) > 0.01 * rate:
            raise UnreadableError(f"the file states another sampling rate than its times have ({rate:g}, {timed:g} Hz)")
        rate = rate or timed
    rate = rate or assumed_rate(assumed)
    signal = np.stack([_numbers(names[number], column(number)) for number in leads])  # (leads, samples)
    filled = ~np.isnan(signal).all(axis=1)  # an electrode that was not attached leaves its column empty
    if filled.any() and not filled.all():
        signal, leads = signal[filled], [number for number, is_filled in zip(leads, filled, strict=True) if is_filled]
    units = [_unit(names[number]) or unit or assumed.unit for number in leads]
    numbers = signal
    signal, signal_unit = in_mv(numbers, units)
    digital = find_digital(numbers, steps_to_mv(units), signal)
    return Recording(signal, float(rate), tuple(names[number] for number in leads), signal_unit, digital=digital)


def _unit(name: str) -> str | None:
    match = _UNIT.search(name.strip())
    inner = (match[1] or match[2]).strip() if match else ""
    return inner if inner.lower() in TO_MV else None  # else the brackets hold something else: "I (Einthoven)"


def _numbers(name: str, column: pa.ChunkedArray) -> np.ndarray:
    kind = column.type
    if pa.types.is_null(kind):
        return np.full(len(column), np.nan)
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)):
        raise UnreadableError(f"a lead's column holds something else than numbers ({name[:80]}: {kind})")
    values: np.ndarray = column.cast(pa.float64(), safe=False).to_numpy()
    return values


def _rate(name: str, column: pa.ChunkedArray, stated: float | None) -> float:
    """The sampling rate by the times of the samples.

    Args:
        name: Of the column of times.
        column: The times.
        stated: The rate that is stated elsewhere, in Hz; it is used if the times cannot be understood.
    """
    match = _TIME.fullmatch(name.strip().lower())
    unit = (match["unit"] or match["name"]) if match else None
    kind = column.type
    if pa.types.is_timestamp(kind):
        column, per_second, unit = column.cast(pa.timestamp("ns")).cast(pa.int64()), 1e9, "ns"
    elif pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_time(kind):
        clock = _clock(column.cast(pa.string()))
        if clock is None and stated:
            return stated
        if clock is None:
            raise UnreadableError(f"the time column holds something else than times ({name[:80]}: {kind})")
        column, per_second, unit = pa.chunked_array([clock]), 1.0, "s"
        steps = np.diff(clock)
        if 2 * (steps == 0).sum() > len(steps) and steps.min() == 0:  # whole seconds, or minutes
            if not stated:
                raise UnreadableError(
                    f"the times are too coarse for a sampling rate ({name[:80]}); set preprocess.assume_sample_rate"
                )
            if abs(len(steps) / stated - clock[-1] + clock[0]) > steps.max() + 1 / stated:
                raise UnreadableError(
                    f"the times are of another length than the samples at {stated:g} Hz "
                    f"({clock[-1] - clock[0]:g} s and {len(steps) / stated:g} s)"
                )
            return stated
    else:
        per_second = 1e3 if unit and unit.startswith("m") else 1.0
    if not (pa.types.is_integer(column.type) or pa.types.is_floating(column.type)):
        if stated:
            return stated
        raise UnreadableError(f"the time column holds something else than times ({name[:80]}: {kind})")
    if len(column) < 2:
        raise UnreadableError(f"the table has too few rows for a recording ({len(column)})")
    # The first is subtracted before they become floats: a clock's nanoseconds need 61 bits.
    integers = pa.types.is_integer(column.type) and not column.null_count
    times = column.to_numpy()
    times = (times - times[0] if integers else times.astype(np.float64) - float(times[0])) / per_second
    steps = np.diff(times)
    step = times[-1] / (len(times) - 1)
    if not (np.isfinite(times).all() and step > 0 and steps.min() > 0):
        raise UnreadableError(f"the times do not rise from row to row ({name[:80]})")
    # Times rounded to milliseconds do not rise evenly, but are never half a sample off; a lost sample doubles a step.
    off = np.abs(times - step * np.arange(len(times))).max()
    if off > 0.5 * step or steps.max() > 1.6 * step:
        raise UnreadableError(f"the times have gaps (of up to {steps.max():g} s where {step:g} s is usual)")
    if unit is None and step >= _LONG_STEP:
        raise UnreadableError(f"the times seem to be no seconds; is their column meant to be time_ms? ({name[:80]})")
    rate = 1 / step
    whole = round(rate)
    # Round to a whole number if the times allow it.
    return float(whole) if abs(rate - whole) <= rate * (2 * off / times[-1] + 1e-6) else float(rate)


def _clock(column: pa.ChunkedArray) -> np.ndarray | None:
    """(samples,) seconds of texts such as 10:00:00.002, with or without a date; None if a text has no such time.

    Times after midnight go on beyond 24 hours.
    """
    parts = pc.extract_regex(column, _CLOCK)
    if not len(column) or parts.null_count:
        return None
    numbers = []
    for name in ("hours", "minutes", "seconds"):
        texts = pc.replace_substring(pc.struct_field(parts, name), ",", ".")
        numbers.append(pc.cast(pc.if_else(pc.equal(texts, ""), "0", texts), pa.float64()).to_numpy())
    hours, minutes, seconds = numbers
    times: np.ndarray = hours * 3600 + minutes * 60 + seconds
    times += 86_400 * np.cumsum(np.diff(times, prepend=times[0]) < -43_200)
    return times
