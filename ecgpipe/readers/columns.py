"""What tables with a column for each lead have in common, whichever file they come from."""

import re
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ecgpipe.core.leads import LEADS, spelled
from ecgpipe.readers.recording import TO_MV, Assumed, Recording, UnreadableError, assumed_rate, in_mv

_TIME = re.compile(
    r"(?:(?:elapsed[ _]|relative[ _])?time|timestamp|t|(?P<name>s|sec|seconds|ms|milliseconds))"
    r"(?:[ _]*[(\[]?(?P<unit>s|sec|seconds|ms|milliseconds)[)\]]?)?"
)
_UNIT = re.compile(r"[ _]*[(\[]([^)\]]+)[)\]]$|[ _]([mu\u00b5\u03bcn]?v)$", re.IGNORECASE)

# Of RE2. Without hours it is the elapsed time, as PhysioNet's tools write it: '0:00.002'.
_CLOCK = r"(?:^|[^\d:])(?:(?P<hours>\d{1,4}):)?(?P<minutes>\d{1,2}):(?P<seconds>\d{1,2}(?:[.,]\d{1,9})?)(?:$|[^\d:])"

# A step this long in a column of which nobody says whether it is in seconds or milliseconds.
_LONG_STEP = 0.1


def wanted(names: Sequence[str]) -> list[str]:
    """The names of the columns that are read: the leads, and the times if there are some.

    Raises:
        UnreadableError: No column is a lead, or two have the same name.
    """
    time = time_column(names)
    chosen = [names[number] for number in lead_columns(names)] + ([names[time]] if time is not None else [])
    if any(names.count(name) > 1 for name in chosen):
        raise UnreadableError(f"the table has several columns of one name ({', '.join(chosen)[:200]})")
    return chosen


def lead_columns(names: Sequence[str]) -> list[int]:
    """The numbers of the columns that are leads of the twelve by their names.

    Raises:
        UnreadableError: None is.
    """
    numbers = [number for number, lead in enumerate(spelled(names)) if lead in LEADS]
    if not numbers:
        raise UnreadableError(f"the table has no column for a lead ({', '.join(names)[:200]})")
    return numbers


def time_column(names: Sequence[str]) -> int | None:
    """The number of the column that has the times of the samples, by its name."""
    return next((number for number, name in enumerate(names) if _TIME.fullmatch(name.strip().lower())), None)


def with_unit(name: str, unit: str) -> str:
    """A column's name with its unit, which stands elsewhere, unless it names one itself."""
    known = unit.lower() in TO_MV or unit.lower() in ("s", "sec", "seconds", "ms", "milliseconds")
    return f"{name} ({unit})" if known and not re.search(r"[)\]]$", name) and _unit(name) is None else name


def recording(table: pa.Table, rate: float | None, unit: str | None, assumed: Assumed) -> Recording:
    """Make a recording of a table's columns.

    Args:
        table: A row per sample.
        rate: What the file states besides its columns, in Hz.
        unit: The same of all leads whose columns name none.
        assumed: For what the file does not say.

    Returns:
        The recording, with the columns that are leads and not empty; an empty cell is NaN.

    Raises:
        UnreadableError: The file does not say enough, or its times or cells are none.
    """
    names, column = table.column_names, table.column
    leads, time = lead_columns(names), time_column(names)
    if time is not None:
        with np.errstate(all="ignore"):  # of infinite times nothing comes but the refusal
            timed = _rate(names[time], column(time), rate or assumed.sample_rate)
        if rate and abs(timed - rate) > 0.01 * rate:
            raise UnreadableError(f"the file states another sample rate than its times have ({rate:g}, {timed:g} Hz)")
        rate = rate or timed
    rate = rate or assumed_rate(assumed)
    signal = np.stack([_numbers(names[number], column(number)) for number in leads])  # (leads, samples)
    filled = ~np.isnan(signal).all(axis=1)  # an electrode that was not attached leaves its column empty
    if filled.any() and not filled.all():
        signal, leads = signal[filled], [number for number, wanted in zip(leads, filled, strict=True) if wanted]
    units = [_unit(names[number]) or unit or assumed.unit for number in leads]
    signal, known = in_mv(signal, units)
    return Recording(signal, float(rate), tuple(names[number] for number in leads), known)


def _unit(name: str) -> str | None:
    match = _UNIT.search(name.strip())
    inner = (match[1] or match[2]).strip() if match else ""
    return inner if inner.lower() in TO_MV else None  # else it is whose lead it is: "I (Einthoven)"


def _numbers(name: str, column: pa.ChunkedArray) -> np.ndarray:
    kind = column.type
    if pa.types.is_null(kind):
        return np.full(len(column), np.nan)
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)):
        raise UnreadableError(f"a lead's column holds something else than numbers ({name[:80]}: {kind})")
    values: np.ndarray = column.cast(pa.float64(), safe=False).to_numpy()
    return values


def _rate(name: str, column: pa.ChunkedArray, known: float | None) -> float:
    """The sample rate by the times of the samples.

    Args:
        name: Of the column of times.
        column: The times.
        known: The rate by what is said elsewhere, in Hz; it counts where the times are none that can be understood.
    """
    match = _TIME.fullmatch(name.strip().lower())
    unit = (match["unit"] or match["name"]) if match else None
    kind = column.type
    if pa.types.is_timestamp(kind):
        column, per_second, unit = column.cast(pa.timestamp("ns")).cast(pa.int64()), 1e9, "ns"
    elif pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_time(kind):
        clock = _clock(column.cast(pa.string()))
        if clock is None and known:
            return known
        if clock is None:
            raise UnreadableError(f"the time column holds something else than times ({name[:80]}: {kind})")
        column, per_second, unit = pa.chunked_array([clock]), 1.0, "s"
        steps = np.diff(clock)
        if 2 * (steps == 0).sum() > len(steps) and steps.min() == 0:  # whole seconds, or minutes
            if not known:
                raise UnreadableError(
                    f"the times are too coarse for a sample rate ({name[:80]}); set preprocess.assume_sample_rate"
                )
            if abs(len(steps) / known - clock[-1] + clock[0]) > steps.max() + 1 / known:
                raise UnreadableError(
                    f"the times are of another length than the samples at {known:g} Hz ({clock[-1] - clock[0]:g} s and "
                    f"{len(steps) / known:g} s)"
                )
            return known
    else:
        per_second = 1e3 if unit and unit.startswith("m") else 1.0
    if not (pa.types.is_integer(column.type) or pa.types.is_floating(column.type)):
        if known:
            return known
        raise UnreadableError(f"the time column holds something else than times ({name[:80]}: {kind})")
    if len(column) < 2:
        raise UnreadableError(f"the table has too few rows for a recording ({len(column)})")
    # Counted from the first before they become floats: a clock's nanoseconds need 61 bits.
    integers = pa.types.is_integer(column.type) and not column.null_count
    times = column.to_numpy()
    times = (times - times[0] if integers else times.astype(np.float64) - float(times[0])) / per_second
    steps = np.diff(times)
    step = times[-1] / (len(times) - 1)
    if not (np.isfinite(times).all() and step > 0 and steps.min() > 0):
        raise UnreadableError(f"the times do not rise from row to row ({name[:80]})")
    # Times rounded to milliseconds do not rise evenly, but never are half a sample off; a lost sample is a double step.
    off = np.abs(times - step * np.arange(len(times))).max()
    if off > 0.5 * step or steps.max() > 1.6 * step:
        raise UnreadableError(f"the times have gaps (of up to {steps.max():g} s where {step:g} s is usual)")
    if unit is None and step >= _LONG_STEP:
        raise UnreadableError(f"the times seem to be no seconds; is their column meant to be time_ms? ({name[:80]})")
    rate = 1 / step
    whole = round(rate)
    # The whole number, where the times do not speak against it.
    return float(whole) if abs(rate - whole) <= rate * (2 * off / times[-1] + 1e-6) else float(rate)


def _clock(column: pa.ChunkedArray) -> np.ndarray | None:
    """(samples,) seconds of texts such as 10:00:00.002, with a date before it or none; None where one has no such time.

    A clock that passes midnight goes on.
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
