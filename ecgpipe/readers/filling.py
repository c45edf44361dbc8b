"""Filling: samples that software appends so that a recording fills an array or a file's last record.

If kept, it would count as ECG: zeros change each lead's mean and standard deviation, and 0.6 s at a converter's lowest
value make the ECG seventy times smaller. It is found here, for all formats, after a recording was read.
"""

from functools import lru_cache

import numpy as np

from ecgpipe.core.leads import LEADS, spell_leads
from ecgpipe.readers.recording import Recording

# Electrodes and amplifiers have noise, so that no recorded signal, not even in asystole, repeats the same numbers
# in all leads at once. The shortest stretch that counts as filling: of one value common to all leads, which Einthoven's
# law allows only at zero, and of a different value in each lead.
COMMON_S, OWN_S = 0.5, 1.0

# The shortest stretch at a limit of its numbers for a single lead, which may be clipped.
LIMIT_S = 0.1

# Fewer leads may have one common value by chance.
_SEVERAL = 3

# Filling may be around other filling: zeros around a last record of lowest values.
_ROUNDS = 3

# Samples that are searched first for the end of a stretch.
_FIRST_LOOK = 64

# The first and second sample, the last and the last but one.
_ENDS = np.array([0, 1, -1, -2])


def without_filling(recording: Recording) -> Recording:
    """Leave out filling at either end of a recording.

    A stretch at an end is filling if all leads of the twelve that vary at all, or all rows if none has such a name, are

    - NaN, or at a limit of what the file's numbers can be, or at one common value beyond all others of the recording,
      however short it is;
    - zero, as many samples at either end to within one, with at most two such stretches between: the recording was
      centred in an array;
    - constant for `COMMON_S` at one common value or for `OWN_S` at values of their own, and for longer than anywhere
      else in the recording.

    The rest of the recording is compared because computed signals are flat between all their beats.

    Args:
        recording: As read.

    Returns:
        The same recording if it has no filling; else a view of it, `stripped_s` longer by what was left out.
    """
    signal, rows = recording.signal, _rows(recording.leads)
    if signal.shape[1] < len(_ENDS) or not _may_be_filled(recording, rows):
        return recording
    limits = recording.limits
    if rows is not None:
        signal, limits = signal[rows], limits if limits is None else limits[rows]
    start, stop = _extent(signal, limits, recording.sample_rate)
    left_out = recording.signal.shape[1] - (stop - start)
    if not left_out:
        return recording
    return recording._replace(
        signal=recording.signal[:, start:stop],
        stripped_s=recording.stripped_s + left_out / recording.sample_rate,
        digital=recording.digital and recording.digital.between(start, stop),
    )


@lru_cache(maxsize=64)  # most files of a dataset have the same names
def _rows(leads: tuple[str, ...]) -> np.ndarray | None:
    """The rows that are leads of the twelve; None if all rows are or none is."""
    rows = [row for row, name in enumerate(spell_leads(leads)) if name in LEADS]
    return np.array(rows) if 0 < len(rows) < len(leads) else None


def _may_be_filled(recording: Recording, rows: np.ndarray | None) -> bool:
    """Whether there may be filling, by the two samples at either end; takes some microseconds."""
    ends = recording.signal[:, _ENDS]
    if rows is not None:
        ends = ends[rows]
    outer = ends[:, ::2]  # (leads, 2)
    stands = outer == ends[:, 1::2]
    stands |= outer != outer  # NaN
    is_possible = stands.all(axis=0)  # (2,)
    if len(ends) >= _SEVERAL:
        is_possible |= (outer == outer[0]).all(axis=0)
    if recording.limits is not None:
        limits = recording.limits if rows is None else recording.limits[rows]
        is_possible |= ((outer <= limits[:, :1]) | (outer >= limits[:, 1:])).all(axis=0)
    return bool(is_possible.any()) and recording.sample_rate > 0


def _extent(signal: np.ndarray, limits: np.ndarray | None, rate: float) -> tuple[int, int]:
    """The start and stop of the signal in (leads, samples), by the rules of `without_filling`."""
    # A constant lead, whose electrode was off, does not count.
    varies = ~((signal == signal[:, :1]).all(axis=1) | np.isnan(signal).all(axis=1))
    if not varies.any():
        return 0, signal.shape[1]
    if not varies.all():
        signal, limits = signal[varies], limits if limits is None else limits[varies]
    start, stop = 0, signal.shape[1]
    for _ in range(_ROUNDS):
        rest = signal[:, start:stop]
        before, after = _stands(rest), _stands(rest[:, ::-1])
        inner = rest[:, before : rest.shape[1] - after]
        if inner.shape[1] == 0:
            break
        zeros = abs(before - after) <= 1 < min(before, after) and not rest[:, 0].any() and not rest[:, -1].any()
        centred = zeros and (_stretches(inner) >= min(before, after)).sum() < _SEVERAL
        filled = [
            centred or _is_filling(values, length, inner, limits, rate)
            for values, length in ((rest[:, 0], before), (rest[:, -1], after))
        ]
        if not any(filled):
            break
        start += before * filled[0]
        stop -= after * filled[1]
    return start, stop


def _is_filling(values: np.ndarray, length: int, inner: np.ndarray, limits: np.ndarray | None, rate: float) -> bool:
    """Whether a stretch at an end is filling.

    Args:
        values: (leads,) the leads' values in the stretch.
        length: Of the stretch, in samples.
        inner: (leads, samples) the recording without such a stretch at either end.
        limits: As of `Recording`.
        rate: In Hz.
    """
    if np.isnan(values).all():
        return True
    common = bool((values == values[0]).all())
    limited = limits is not None and bool(((values <= limits[:, 0]) | (values >= limits[:, 1])).all())
    if limited or (common and len(values) >= _SEVERAL):
        lowest, highest = np.fmin.reduce(inner, axis=1), np.fmax.reduce(inner, axis=1)  # (leads,)
        if limited:  # some files state limits that their own signal exceeds
            extreme = ((values <= lowest) | (values >= highest)).all()
            return bool(extreme) and (len(values) > 1 or length >= LIMIT_S * rate)
        if (values < lowest).all() or (values > highest).all():
            return True
    return length >= (COMMON_S if common else OWN_S) * rate and length > _stretches(inner).max()


def _stands(signal: np.ndarray) -> int:
    """Count the samples from the first on in which all leads keep their first value, or are NaN like it."""
    first, samples = signal[:, :1], int(signal.shape[1])
    missing = np.isnan(first)
    at, step = 1, _FIRST_LOOK
    while at < samples:  # most stretches are short
        piece = signal[:, at : at + step]
        moving = ((piece != first) & ~(missing & np.isnan(piece))).any(axis=0)
        if moving.any():
            return at + int(moving.argmax())
        at, step = at + step, 2 * step
    return samples


def _stretches(signal: np.ndarray) -> np.ndarray:
    """The lengths of the stretches in which all leads are constant, in order."""
    moving = (signal[:, 1:] != signal[:, :-1]).any(axis=0)
    return np.diff(np.flatnonzero(np.concatenate([[True], moving, [True]])))
