"""What the formats of plain arrays have in common: NumPy, MATLAB and HDF5."""

from collections.abc import Sequence

import numpy as np

from ecgpipe.core.digital import find_digital
from ecgpipe.core.leads import LEADS
from ecgpipe.readers.recording import (
    MOST_VALUES,
    Assumed,
    Recording,
    UnreadableError,
    assumed_leads,
    assumed_rate,
    check_size,
    in_mv,
    steps_to_mv,
)

# What files call the sampling rate of an array, whatever the capitals. A current rate takes precedence over an original
# one, which differs from it in fairseq-signals' `preprocessed` folder.
RATE_NAMES = (
    "sample_rate", "sampling_rate", "sampling_frequency", "curr_sample_rate", "org_sample_rate", "fs", "frequency",
)  # fmt: skip

# How many leads an array without lead names may have: the twelve, or those that the others can be derived from.
LEAD_COUNTS = frozenset({8, len(LEADS)})

# The values of the longest recording that is read, as float64.
MOST_BYTES = 8 * MOST_VALUES


def rate_of(value: object) -> float | None:
    """The sampling rate that a file's array holds; None if it holds no number, or if there is no array."""
    try:
        return float(np.ravel(np.asarray(value))[0])
    except (IndexError, TypeError, ValueError):
        return None


def recording_axes(shape: tuple[int, ...], many: bool = True) -> tuple[int, ...]:
    """Find the axes of an array that matter: all but those of length 1 beside leads and samples.

    Args:
        shape: Of the array.
        many: Whether it may hold several recordings, on its first axis.

    Returns:
        Two axes of one recording, or three of many; more if the array has more that are longer than 1.
    """
    kept = list(range(len(shape)))
    ones = sorted((axis for axis in kept if shape[axis] == 1), key=lambda axis: many and axis == 0)
    for axis in ones[: max(0, len(shape) - (3 if many else 2))]:
        kept.remove(axis)
    # (12, 5000, 1) is taken for one recording of twelve leads rather than twelve recordings of one lead.
    inner = [axis for axis in kept[1:] if shape[axis] == 1]
    if many and len(kept) == 3 and inner and {shape[axis] for axis in kept} & LEAD_COUNTS:
        kept.remove(inner[0])
    return tuple(kept)


def check_matrix(shape: Sequence[int], is_numeric: bool, kind: object) -> tuple[int, int]:
    """Refuse an array that cannot be one recording, or is too long, before its values are read.

    Args:
        shape: Of the array.
        is_numeric: Whether its values are real numbers.
        kind: What its values are, for the message.

    Returns:
        Its shape without further axes of length 1.

    Raises:
        UnreadableError: It is not (leads, samples) of numbers, or has too many values.
    """
    axes = recording_axes(tuple(shape), many=False)
    if not is_numeric or len(axes) != 2:
        raise UnreadableError(f"the array is not (leads, samples) of numbers ({kind} of shape {tuple(shape)})")
    rows, columns = (shape[axis] for axis in axes)
    check_size(rows, columns)
    return rows, columns


def from_array(
    array: object, sample_rate: float | None, leads: tuple[str, ...] | None, unit: str | None, assumed: Assumed
) -> Recording:
    """Make a recording of an array whose file may not state its sampling rate, leads or unit.

    Args:
        array: (leads, samples) or (samples, leads), any real dtype; further axes of length 1 are dropped.
        sample_rate: In Hz, or None if the file does not state it.
        leads: Names of the leads, or None if the file does not state them.
        unit: Of all leads, as in the file, or None.
        assumed: Replaces what is None.

    Returns:
        The recording, its signal as (leads, samples), in mV if the unit is known.

    Raises:
        UnreadableError: Neither the file nor the settings state enough, or the array does not fit what they state.
    """
    sample_rate = sample_rate or assumed_rate(assumed)
    leads = leads or assumed_leads(assumed)
    unit = unit or assumed.unit
    if not isinstance(array, np.ndarray):
        raise UnreadableError(f"the array is not (leads, samples) of numbers ({type(array).__name__})")
    is_numeric = np.issubdtype(array.dtype, np.number) and not np.iscomplexobj(array)
    array = array.reshape(check_matrix(array.shape, is_numeric, array.dtype))
    if array.shape[0] != len(leads):
        if array.shape[1] != len(leads):
            raise UnreadableError(
                f"the array's shape does not fit the number of leads ({array.shape}, {len(leads)} leads)"
            )
        array = array.T  # (leads, samples)
    units = [unit] * len(leads)
    signal, unit = in_mv(array.astype(np.float64, order="C"), units)
    digital = find_digital(array, steps_to_mv(units), signal)
    return Recording(signal, float(sample_rate), leads, unit, digital=digital)
