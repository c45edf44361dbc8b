"""Turn one recording into the model's segments: leads by name, 500 Hz, standardised, cut.

ECG-FM's own preprocessing, step by step (notebooks/infer_quickstart.ipynb of https://github.com/bowang-lab/ECG-FM,
which calls ecg-transform's ReorderLeads, LinearResample, HandleConstantLeads, Standardize and SegmentNonoverlapping).
It is written anew because ecg-transform takes several times as long; the tests compare the two.
"""

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Literal, NamedTuple

import numpy as np

from ecgpipe.preprocessing import quality
from ecgpipe.preprocessing.resampling import count_samples
from ecgpipe.preprocessing.resampling import resample_linearly as resample_linearly
from ecgpipe.preprocessing.transform import SHORTEST_PADDED_S as SHORTEST_PADDED_S
from ecgpipe.preprocessing.unusable import UnusableError as UnusableError
from ecgpipe.readers import LEADS, MIXED, MOST_VALUES, Recording, spell_leads

SAMPLE_RATE = 500  # Hz

# In Hz. A sampling rate out of this range is an error in the file; resampling from it could take any amount of memory.
PLAUSIBLE_RATES = (20.0, 50_000.0)

# III, aVR, aVL and aVF of I and II, by Einthoven's law (III = II - I) and Goldberger's leads (aVR = R - (L + F) / 2 and
# so on): Malmivuo and Plonsey, Bioelectromagnetism, 1995, sections 15.2 and 15.3.
DERIVED = {"III": (-1.0, 1.0), "aVR": (-0.5, -0.5), "aVL": (1.0, -0.5), "aVF": (-0.5, 1.0)}


class Windows(NamedTuple):
    """How recordings are cut into segments, by the settings of preprocess."""

    segment_s: float = 5.0
    tail: Literal["drop", "overlap"] = "drop"
    short: Literal["skip", "pad"] = "skip"
    missing_leads: Literal["error", "zero"] = "error"
    min_leads: int = 2

    @property
    def segment_samples(self) -> int:
        """Samples of a segment at 500 Hz."""
        return round(self.segment_s * SAMPLE_RATE)


class Twelve(NamedTuple):
    """A recording's twelve leads in the model's order."""

    signal: np.ndarray  # (12, samples) float64
    reordered: bool  # the file had them in another order, or had further leads among them
    derived: list[str]  # computed from leads I, II and III
    missing: list[str]  # not in the file: zeros

    @property
    def unrecorded(self) -> list[str]:
        """The leads that the file does not have: derived, or zeros."""
        return [*self.derived, *self.missing]


class Cut(NamedTuple):
    """Where a recording's segments lie."""

    starts: np.ndarray  # (segments,) the first sample of each, at 500 Hz
    padded: int  # samples that the only segment lacks
    overlap: int  # samples that the last segment shares with the one before
    discarded: int  # samples at the end that are in no segment


class Prepared(NamedTuple):
    """A recording, ready for the model."""

    segments: np.ndarray  # (segments, 12, segment samples) float32
    starts_s: np.ndarray  # (segments,) float32
    samples: int  # of each segment that are signal, from its beginning; the others are zeros
    changes: dict[str, Any]  # how the recording was changed, by column of records/


def prepare(recording: Recording, windows: Windows, facts: dict[str, Any], overwrite: bool = False) -> Prepared:
    """Turn a recording into segments.

    Args:
        recording: Its leads in any order, at any sampling rate.
        windows: How it is cut, and what happens to missing leads.
        facts: Receives what is measured of the signal, by column of records/, also if the recording cannot be used.
        overwrite: Whether the recording's signal may be overwritten, which takes less time.

    Returns:
        The segments: leads I II III aVR aVL aVF V1-V6, 500 Hz, each lead standardised over the whole recording.

    Raises:
        UnusableError: Leads are missing, there are NaN or infinite samples, or it is too short.
    """
    rate = recording.sample_rate
    if not PLAUSIBLE_RATES[0] <= rate <= PLAUSIBLE_RATES[1]:
        raise UnusableError(f"the sampling rate is out of range ({rate:g} Hz)")
    if recording.signal.shape[1] == 0:
        raise UnusableError("the recording has no samples")
    resampled = count_resampled(recording)
    if len(LEADS) * resampled > MOST_VALUES:
        raise UnusableError(f"too long to be prepared at once ({recording.signal.shape[1] / rate:.0f} s)")
    twelve = choose_leads(recording, windows)
    single = quality.in_single_precision(twelve.signal)
    facts["signal_hash"] = quality.fingerprint(single, twelve.unrecorded)
    means = _means(twelve.signal)  # (12, 1)
    if not np.isfinite(means).all() and not np.isfinite(twelve.signal).all():
        finite = np.isfinite(twelve.signal).all(axis=1)
        facts["nan_share"] = quality.nan_share(twelve.signal, twelve.unrecorded)
        affected = [lead for lead, is_finite in zip(LEADS, finite, strict=True) if not is_finite]
        raise UnusableError(f"NaN or infinite samples ({' '.join(affected)})")
    # Some files' arrays are stored column by column; everything below would take twice as long on them.
    in_place = overwrite and twelve.signal.flags.writeable and twelve.signal.flags.c_contiguous
    centred = twelve.signal if in_place else np.array(twelve.signal, order="C")  # (12, samples)
    centred -= means
    facts.update(quality.measure(centred, single, rate, recording.unit, twelve.unrecorded))
    if len(facts["constant_leads"]) + len(twelve.unrecorded) == len(LEADS):
        raise UnusableError("no signal, every lead is constant")
    cut = place_segments(resampled, windows)
    if rate != SAMPLE_RATE:
        centred = resample_linearly(centred, resampled)
        centred -= _means(centred)
    standard = standardise(centred)
    length = windows.segment_samples
    segments = (np.zeros if cut.padded else np.empty)((len(cut.starts), len(LEADS), length), np.float32)
    for segment, start in zip(segments, cut.starts, strict=True):
        piece = standard[:, start : start + length]
        segment[:, : piece.shape[1]] = piece
    changes = {
        "resampled_from": rate if rate != SAMPLE_RATE else None,
        "leads_reordered": twelve.reordered,
        "derived_leads": twelve.derived,
        "missing_leads": twelve.missing,
        "padded_s": cut.padded / SAMPLE_RATE,
        "overlap_s": cut.overlap / SAMPLE_RATE,
        "discarded_s": cut.discarded / SAMPLE_RATE,
        "n_segments": len(segments),
    }
    starts_s = (cut.starts / SAMPLE_RATE).astype(np.float32)
    return Prepared(segments, starts_s, length - cut.padded, changes)


def count_resampled(recording: Recording) -> int:
    """Count the whole samples that a recording has at 500 Hz."""
    return count_samples(recording.signal.shape[1], recording.sample_rate, SAMPLE_RATE)


def choose_leads(recording: Recording, windows: Windows) -> Twelve:
    """Find the twelve leads by name, and derive limb leads that are missing.

    Args:
        recording: As it was read.
        windows: What happens to missing leads.

    Returns:
        The twelve leads.

    Raises:
        UnusableError: A lead occurs twice, or a lead is missing and the settings do not fill in zeros.
    """
    place, twice = _places_of(recording.leads)
    if twice:
        raise UnusableError(f"a lead is there twice ({' '.join(twice)})")
    if len(place) == len(LEADS):
        order = [place[lead] for lead in LEADS]
        in_order = order == list(range(len(recording.leads)))
        return Twelve(recording.signal if in_order else recording.signal[order], not in_order, [], [])
    limbs = _limbs(recording, place)
    derived = [lead for lead in LEADS if lead not in place and lead in limbs]
    missing = [lead for lead in LEADS if lead not in place and lead not in limbs]
    if missing:
        _refuse(recording.leads, len(place), missing, windows)
    signal = np.zeros((len(LEADS), recording.signal.shape[1]))
    for row, lead in zip(signal, LEADS, strict=True):
        if lead in place:
            row[:] = recording.signal[place[lead]]
        elif lead in limbs:
            row[:] = limbs[lead]
    present = [place[lead] for lead in LEADS if lead in place]
    return Twelve(signal, present != list(range(len(recording.leads))), derived, missing)


@lru_cache(maxsize=64)  # most files of a dataset have the same names
def _places_of(leads: tuple[str, ...]) -> tuple[dict[str, int], list[str]]:
    """The place of each of the twelve leads among a file's leads, and which of them occur twice."""
    names = spell_leads(leads)
    twice = sorted({name for name in names if name in LEADS and names.count(name) > 1})
    return {name: i for i, name in enumerate(names) if name in LEADS}, twice


def _refuse(names: Sequence[str], present: int, missing: list[str], windows: Windows) -> None:
    """Raise an `UnusableError` for a recording with missing leads, unless the settings fill in zeros."""
    if present == 0:
        raise UnusableError(f"none of its leads is known by name ({' '.join(names[:20])})")
    if present < windows.min_leads:
        what = "a single lead" if present == 1 else "too few leads"
        raise UnusableError(f"{what}, preprocess.min_leads asks for more (missing {' '.join(missing)})")
    if windows.missing_leads == "error":
        raise UnusableError(f"leads missing ({' '.join(missing)})")


def _limbs(recording: Recording, place: dict[str, int]) -> dict[str, np.ndarray]:
    """The limb leads that follow from two of I, II and III; none if the leads may differ in unit."""
    recorded = {lead: recording.signal[place[lead]] for lead in ("I", "II", "III") if lead in place}
    if len(recorded) < 2 or recording.unit == MIXED:
        return {}
    with np.errstate(all="ignore"):  # NaN and infinity are reported later
        first = recorded["I"] if "I" in recorded else recorded["II"] - recorded["III"]
        second = recorded["II"] if "II" in recorded else first + recorded["III"]
        return {"I": first, "II": second} | {lead: a * first + b * second for lead, (a, b) in DERIVED.items()}


def place_segments(samples: int, windows: Windows) -> Cut:
    """Find where the segments of a recording lie.

    Args:
        samples: Of the recording, at 500 Hz.
        windows: What happens to the tail and to short recordings.

    Returns:
        The segments' places.

    Raises:
        UnusableError: It is too short.
    """
    length = windows.segment_samples
    if samples < length:
        if windows.short == "skip":
            raise UnusableError(f"shorter than one segment of {windows.segment_s:g} s ({samples / SAMPLE_RATE:.3f} s)")
        if samples < SHORTEST_PADDED_S * SAMPLE_RATE:
            raise UnusableError(f"too short to be padded to a segment ({samples / SAMPLE_RATE:.3f} s)")
        return Cut(np.zeros(1, int), length - samples, 0, 0)
    starts = np.arange(0, samples - length + 1, length)  # (segments,)
    rest = samples - len(starts) * length
    if rest and windows.tail == "overlap":
        return Cut(np.append(starts, samples - length), 0, length - rest, 0)
    return Cut(starts, 0, 0, rest)


def _means(signal: np.ndarray) -> np.ndarray:
    """(leads, 1) the mean of each lead."""
    with np.errstate(over="ignore", invalid="ignore"):  # values that are too large are reported later
        means: np.ndarray = np.add.reduce(signal, axis=1, keepdims=True) / signal.shape[1]
    return means


def standardise(centred: np.ndarray) -> np.ndarray:
    """Divide each lead by its population standard deviation + 1e-8; a constant lead stays zero.

    The constant is ecg-transform's.

    Args:
        centred: (leads, samples), finite, each lead less its mean. It is overwritten by the result.

    Returns:
        (leads, samples).

    Raises:
        UnusableError: A lead's standard deviation overflows.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        spread = np.sqrt(np.vecdot(centred, centred) / centred.shape[1])  # (leads,)
    if not np.isfinite(spread).all():
        overflowing = [lead for lead, value in zip(LEADS, spread, strict=True) if not math.isfinite(value)]
        raise UnusableError(f"samples too large to be meant ({' '.join(overflowing)})")
    centred *= (1 / (spread + 1e-8))[:, None]
    return centred
