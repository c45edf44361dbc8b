"""What every reader returns, and how it says that it can't."""

from typing import NamedTuple

import numpy as np

from ecgpipe.core.leads import LEADS

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


def rate_of(value: object) -> float | None:
    """The sample rate that a file's array holds; None where it holds no number, or where there is no array."""
    try:
        return float(np.ravel(np.asarray(value))[0])
    except (IndexError, TypeError, ValueError):
        return None


def recording_axes(shape: tuple[int, ...], many: bool = True) -> tuple[int, ...]:
    """Which axes of an array say something; one of length 1 beside leads and samples does not.

    Args:
        shape: Of the array.
        many: Whether it may hold several recordings, on its first axis.

    Returns:
        Two axes of one recording, or three of many; more where the array has more that are longer than 1.
    """
    kept = list(range(len(shape)))
    ones = sorted((axis for axis in kept if shape[axis] == 1), key=lambda axis: many and axis == 0)
    for axis in ones[: max(0, len(shape) - (3 if many else 2))]:
        kept.remove(axis)
    # (12, 5000, 1) is rather one recording of twelve leads than twelve of one lead.
    inner = [axis for axis in kept[1:] if shape[axis] == 1]
    if many and len(kept) == 3 and inner and {shape[axis] for axis in kept} & {8, len(LEADS)}:
        kept.remove(inner[0])
    return tuple(kept)


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


def from_array(
    array: object, sample_rate: float | None, leads: tuple[str, ...] | None, unit: str | None, assumed: Assumed
) -> Recording:
    """Make a recording of an array whose file may leave out what its rows are.

    Args:
        array: (leads, samples) or (samples, leads), any real dtype; further axes of length 1 are taken off.
        sample_rate: In Hz, or None where the file does not state it.
        leads: Names of the leads, or None where the file does not state them.
        unit: Of all leads as the file has it, or None.
        assumed: Taken for what is None.

    Returns:
        The recording, its signal turned to (leads, samples), in mV where the unit is known.

    Raises:
        UnreadableError: Neither the file nor the settings say enough, or the array does not fit what they say.
    """
    sample_rate = sample_rate or assumed_rate(assumed)
    leads = leads or assumed_leads(assumed)
    unit = unit or assumed.unit
    if not isinstance(array, np.ndarray):
        raise UnreadableError(f"the array is not (leads, samples) of numbers ({type(array).__name__})")
    axes = recording_axes(array.shape, many=False)
    array = array.reshape([array.shape[axis] for axis in axes])
    if array.ndim != 2 or not np.issubdtype(array.dtype, np.number) or np.iscomplexobj(array):
        raise UnreadableError(f"the array is not (leads, samples) of numbers ({array.dtype} of shape {array.shape})")
    check_size(*array.shape)
    if array.shape[0] != len(leads):
        if array.shape[1] != len(leads):
            raise UnreadableError(
                f"the array's shape does not fit the number of leads ({array.shape}, {len(leads)} leads)"
            )
        array = array.T  # (leads, samples)
    signal, unit = in_mv(array.astype(np.float64, order="C"), [unit] * len(leads))
    return Recording(signal, float(sample_rate), leads, unit)
