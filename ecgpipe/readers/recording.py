"""What every reader returns, and the error that it raises for a file that it cannot read."""

from functools import lru_cache
from typing import NamedTuple

import numpy as np

from ecgpipe.core.digital import MULTIPLY, Digital, Step
from ecgpipe.readers.device_report import DeviceReport

# Recordings with more values are not read: 200 MB as float64, over an hour of twelve leads at 500 Hz. A header can
# declare any number.
MOST_VALUES = 25_000_000

# Millivolts per unit, by the unit's name in lower case. Both letters that look like a micro sign occur.
TO_MV = {"v": 1e3, "mv": 1.0, "uv": 1e-3, "\u00b5v": 1e-3, "\u03bcv": 1e-3, "nv": 1e-6}
TO_MV |= {"volt": 1e3, "millivolt": 1.0, "microvolt": 1e-3, "nanovolt": 1e-6}
TO_MV |= {f"{name}s": factor for name, factor in TO_MV.items() if name.endswith("volt")}

# The unit of a recording whose leads do not share one: they can be standardised, but not combined.
MIXED = "mixed"


class UnreadableError(Exception):
    """A file that cannot be read as a recording; the message says why, with the file's own values in brackets."""


class Recording(NamedTuple):
    """One ECG as its file has it."""

    signal: np.ndarray  # (leads, samples) float64, in mV where the unit is known
    sample_rate: float  # Hz
    leads: tuple[str, ...]  # as the file names them
    unit: str | None  # "mV" if the file states a unit that can be converted, MIXED, or None if it states no unit
    stripped_s: float = 0.0  # filling at its ends, which was left out
    # (leads, 2) the lowest and highest value that the file's numbers can represent, in the signal's unit; None if the
    # format has no such limits. Samples at these limits in all leads are not signal: see `readers.filling`.
    limits: np.ndarray | None = None
    device: DeviceReport = DeviceReport()  # what the device measured and said, as far as the file has it
    # The file's own numbers and the steps that make exactly `signal` of them; None if they have more than 16 bits, some
    # are missing, or the reader does not know them.
    digital: Digital | None = None


class Content(NamedTuple):
    """One recording of a file that holds many."""

    row: int  # where it lies in the file
    name: str  # its id in the file, or else its row


class Assumed(NamedTuple):
    """What the settings or a table state about files that do not state it themselves, such as a bare array."""

    sample_rate: float | None = None  # Hz
    leads: tuple[str, ...] | None = None
    unit: str | None = None  # a key of TO_MV, whatever its capitals


def check_size(leads: int, samples: int) -> None:
    """Refuse a recording that is too long to be read at once, before its values are read.

    Raises:
        UnreadableError: It has more than `MOST_VALUES` values.
    """
    if leads * samples > MOST_VALUES:
        raise UnreadableError(f"too long to read at once ({leads} leads x {samples} samples)")


def in_mv(signal: np.ndarray, units: list[str | None]) -> tuple[np.ndarray, str | None]:
    """Convert the leads to millivolts if all their units are known.

    Args:
        signal: (leads, samples).
        units: Of each lead, as in the file; None for a lead without one.

    Returns:
        The signal and its unit: converted, and "mV"; unchanged, and None if all units are the same and unknown;
        unchanged, and `MIXED` if the units differ and some are unknown.
    """
    factors, is_changed = _factors(tuple(units))
    if factors is not None:
        return signal * factors[:, None] if is_changed else signal, "mV"
    return signal, None if len(set(units)) <= 1 else MIXED


def steps_to_mv(units: list[str | None]) -> tuple[Step, ...]:
    """What `in_mv` does with each sample, as steps of whole numbers; none where it changes nothing."""
    factors, is_changed = _factors(tuple(units))
    return ((MULTIPLY, factors),) if factors is not None and is_changed else ()


@lru_cache(maxsize=64)  # most files of a dataset have the same units
def _factors(units: tuple[str | None, ...]) -> tuple[np.ndarray | None, bool]:
    """(leads,) millivolts per unit of each lead, None if a unit is not known; and whether one is not 1."""
    factors = [TO_MV.get((unit or "").strip().lower()) for unit in units]
    known = [factor for factor in factors if factor is not None]
    if not known or len(known) < len(factors):
        return None, False
    found = np.array(known)
    found.flags.writeable = False  # the next recording gets the same array
    return found, bool((found != 1.0).any())


def assumed_rate(assumed: Assumed) -> float:
    """The sampling rate for a file that states none; an UnreadableError if the settings state none either."""
    if not assumed.sample_rate:
        raise UnreadableError("the file states no sampling rate; set preprocess.assume_sample_rate if you know it")
    return assumed.sample_rate


def assumed_leads(assumed: Assumed) -> tuple[str, ...]:
    """The leads for a file that names none; an UnreadableError if the settings name none either."""
    if assumed.leads is None:
        raise UnreadableError("the file names no leads; set preprocess.assume_leads to their names in order")
    return assumed.leads
