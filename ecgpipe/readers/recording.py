"""What every reader returns, and how it says that it can't."""

from typing import NamedTuple

import numpy as np

# More values than this are not read: 200 MB as float64, over an hour of twelve leads at 500 Hz. A header can
# promise any amount.
MOST_VALUES = 25_000_000

# In millivolts, by the unit's name in lower case. Both letters that look like a micro sign occur.
TO_MV = {"v": 1e3, "mv": 1.0, "uv": 1e-3, "\u00b5v": 1e-3, "\u03bcv": 1e-3, "nv": 1e-6}
TO_MV |= {"volt": 1e3, "millivolt": 1.0, "microvolt": 1e-3, "nanovolt": 1e-6}
TO_MV |= {f"{name}s": factor for name, factor in TO_MV.items() if name.endswith("volt")}

# The unit of a recording whose leads do not share one: they can be standardised, but not combined.
MIXED = "mixed"


class UnreadableError(Exception):
    """A file that cannot be read as a recording; the message tells a person why, the file's particulars in brackets."""


class Recording(NamedTuple):
    """One ECG as its file has it."""

    signal: np.ndarray  # (leads, samples) float64, in mV where the unit is known
    sample_rate: float  # Hz
    leads: tuple[str, ...]  # as the file names them
    unit: str | None  # "mV" where the file states what can be turned into it, MIXED, or None where it states nothing
    stripped_s: float = 0.0  # what stood at its ends, was no signal and was left out
    # (leads, 2) the lowest and highest value that the file's numbers can stand for, in the signal's unit; None where
    # the format has no such limits. What stands at them in all leads is no signal: see `readers.filling`.
    limits: np.ndarray | None = None


class Content(NamedTuple):
    """One recording of a file that holds many."""

    row: int  # where it lies in the file
    name: str  # what the file calls it, else its row


class Assumed(NamedTuple):
    """What the settings or a table state of files that do not say it themselves, such as a bare array."""

    sample_rate: float | None = None  # Hz
    leads: tuple[str, ...] | None = None
    unit: str | None = None  # a key of TO_MV, whatever its capitals


def check_size(leads: int, samples: int) -> None:
    """Refuse what would not fit into memory, before anything is read of it.

    Raises:
        UnreadableError: It has more than `MOST_VALUES` values.
    """
    if leads * samples > MOST_VALUES:
        raise UnreadableError(f"too long to read at once ({leads} leads x {samples} samples)")


def in_mv(signal: np.ndarray, units: list[str | None]) -> tuple[np.ndarray, str | None]:
    """Turn each lead into millivolts where all units are known.

    Args:
        signal: (leads, samples).
        units: Of each lead, as the file has it; None where it has none.

    Returns:
        The signal and its unit: in "mV"; as it was and None where no unit is known and all are alike; as it was and
        `MIXED` where the leads differ in units of which some are unknown.
    """
    factors = [TO_MV.get((unit or "").strip().lower()) for unit in units]
    known = [factor for factor in factors if factor is not None]
    if known and len(known) == len(factors):
        if any(factor != 1.0 for factor in known):
            signal = signal * np.array(known)[:, None]
        return signal, "mV"
    return signal, None if len(set(units)) <= 1 else MIXED


def assumed_rate(assumed: Assumed) -> float:
    """The sample rate of a file that states none; an UnreadableError where the settings know none either."""
    if not assumed.sample_rate:
        raise UnreadableError("the file states no sample rate; set preprocess.assume_sample_rate if you know it")
    return assumed.sample_rate


def assumed_leads(assumed: Assumed) -> tuple[str, ...]:
    """The leads of a file that names none; an UnreadableError where the settings know none either."""
    if assumed.leads is None:
        raise UnreadableError("the file names no leads; set preprocess.assume_leads to their names in order")
    return assumed.leads
