"""What every reader returns, and how it says that it can't."""

from typing import NamedTuple

import numpy as np

# The twelve leads in the order that ECG-FM was trained on, which is also fairseq-signals' order of rows.
LEADS = ("I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6")


class UnreadableError(Exception):
    """A file that cannot be read as a recording; the message tells a person why, the file's particulars in brackets."""


class Recording(NamedTuple):
    """One ECG as its file has it."""

    signal: np.ndarray  # (leads, samples) float64
    sample_rate: float  # Hz
    leads: tuple[str, ...]  # as the file names them
    unit: str | None  # "mV" where the file states a unit that can be turned into it, else None


class Assumed(NamedTuple):
    """What the settings state of files that do not say it themselves, such as a bare array."""

    sample_rate: float | None = None  # Hz
    leads: tuple[str, ...] | None = None


def spelled(leads: tuple[str, ...]) -> list[str]:
    """A file's names of leads, in the spelling of `LEADS` where they are one of these but for capitals and blanks."""
    spelling = {lead.casefold(): lead for lead in LEADS}
    return [spelling.get(lead.strip().casefold(), lead) for lead in leads]


def rate_of(value: object) -> float | None:
    """The sample rate that a file's array holds; None where it holds no number, or where there is no array."""
    try:
        return float(np.ravel(np.asarray(value))[0])
    except (IndexError, TypeError, ValueError):
        return None


def from_array(
    array: object, sample_rate: float | None, leads: tuple[str, ...] | None, unit: str | None, assumed: Assumed
) -> Recording:
    """Make a recording of an array whose file may leave out what its rows are.

    Args:
        array: (leads, samples) or (samples, leads), any real dtype.
        sample_rate: In Hz, or None where the file does not state it.
        leads: Names of the leads, or None where the file does not state them.
        unit: "mV" or None.
        assumed: Taken for what is None.

    Returns:
        The recording, its signal turned to (leads, samples).

    Raises:
        UnreadableError: Neither the file nor the settings say enough, or the array does not fit what they say.
    """
    sample_rate = sample_rate or assumed.sample_rate
    leads = leads or assumed.leads
    if sample_rate is None:
        raise UnreadableError("the file states no sample rate; set preprocess.assume_sample_rate if you know it")
    if leads is None:
        raise UnreadableError("the file names no leads; set preprocess.assume_leads to their names in order")
    if not isinstance(array, np.ndarray):
        raise UnreadableError(f"the array is not (leads, samples) of numbers ({type(array).__name__})")
    if array.ndim != 2 or not np.issubdtype(array.dtype, np.number) or np.iscomplexobj(array):
        raise UnreadableError(f"the array is not (leads, samples) of numbers ({array.dtype} of shape {array.shape})")
    if array.shape[0] != len(leads):
        if array.shape[1] != len(leads):
            raise UnreadableError(
                f"the array's shape does not fit the number of leads ({array.shape}, {len(leads)} leads)"
            )
        array = array.T  # (leads, samples)
    return Recording(array.astype(np.float64), float(sample_rate), leads, unit)
