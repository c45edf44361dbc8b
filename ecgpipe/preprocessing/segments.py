"""Turn one recording into the model's segments: leads by name, quality, and what the model's input declares.

The steps from leads to segments are data, `ModelInput`; `transform.py` carries them out. No model is named here.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any, Literal, NamedTuple

import numpy as np

from ecgpipe.core.digital import SUBTRACT, Digital
from ecgpipe.core.model_input import DEFAULT_INPUT, Center, ModelInput
from ecgpipe.preprocessing import quality
from ecgpipe.preprocessing.resampling import count_samples
from ecgpipe.preprocessing.resampling import resample_linearly as resample_linearly
from ecgpipe.preprocessing.transform import SHORTEST_PADDED_S as SHORTEST_PADDED_S
from ecgpipe.preprocessing.transform import find_windows, refuse_unit, transform
from ecgpipe.preprocessing.unusable import UnusableError as UnusableError
from ecgpipe.readers import LEADS, MIXED, MOST_VALUES, Recording, spell_leads

# In Hz. A sampling rate out of this range is an error in the file; resampling from it could take any amount of memory.
PLAUSIBLE_RATES = (20.0, 50_000.0)

# III, aVR, aVL and aVF of I and II, by Einthoven's law (III = II - I) and Goldberger's leads (aVR = R - (L + F) / 2 and
# so on): Malmivuo and Plonsey, Bioelectromagnetism, 1995, sections 15.2 and 15.3.
DERIVED = {"III": (-1.0, 1.0), "aVR": (-0.5, -0.5), "aVL": (1.0, -0.5), "aVF": (-0.5, 1.0)}


class Windows(NamedTuple):
    """How recordings are cut into segments, by the settings of preprocess and the model's input."""

    segment_s: float = 5.0
    tail: Literal["drop", "overlap"] = "drop"
    short: Literal["skip", "pad"] = "skip"
    missing_leads: Literal["error", "zero"] = "error"
    min_leads: int = 2
    model_input: ModelInput = DEFAULT_INPUT

    @property
    def declared(self) -> ModelInput:
        """The model's input with these segments, tails and short recordings."""
        return _declare(self.model_input, self.segment_s, self.tail, self.short)

    @property
    def segment_samples(self) -> int:
        """Samples of a segment, of each lead, at the model's sampling rate."""
        return round(self.segment_s * self.model_input.rate)


@lru_cache(maxsize=32)
def _declare(
    model_input: ModelInput, segment_s: float, tail: Literal["drop", "overlap"], short: Literal["skip", "pad"]
) -> ModelInput:
    """A model's input with other segments: the nearest whole number of samples."""
    samples = round(segment_s * model_input.rate)
    window_s = segment_s if samples == segment_s * model_input.rate else samples / model_input.rate
    return replace(model_input, window_s=window_s, tail=tail, short=short)


def windows_of(model_input: ModelInput) -> Windows:
    """The segments that a model takes, with the defaults of the settings."""
    return Windows(segment_s=model_input.window_s, model_input=model_input)


class Twelve(NamedTuple):
    """A recording's twelve leads in the model's order."""

    signal: np.ndarray  # (12, samples) float64
    reordered: bool  # the file had them in another order, or had further leads among them
    derived: list[str]  # computed from leads I, II and III
    missing: list[str]  # not in the file: zeros
    digital: Digital | None = None  # the numbers that the signal is made of, if the file has all twelve so

    @property
    def unrecorded(self) -> list[str]:
        """The leads that the file does not have: derived, or zeros."""
        return [*self.derived, *self.missing]


class Cut(NamedTuple):
    """Where a recording's segments lie."""

    starts: np.ndarray  # (segments,) the first sample of each, at the model's sampling rate
    padded: int  # samples that the only segment lacks
    overlap: int  # samples that the last segment shares with the one before
    discarded: int  # samples at the end that are in no segment


class Prepared(NamedTuple):
    """A recording, ready for the model."""

    segments: np.ndarray  # (segments, leads, segment samples) float32; leads laid end to end are apart again
    starts_s: np.ndarray  # (segments,) float32
    samples: int  # of each segment that are signal to the network, from its beginning; the others are masked zeros
    changes: dict[str, Any]  # how the recording was changed, by column of records/
    # Of each segment the whole numbers and steps that give the same bits; None if there are none.
    digital: tuple[Digital, ...] | None = None


def prepare(recording: Recording, windows: Windows, facts: dict[str, Any], overwrite: bool = False) -> Prepared:
    """Turn a recording into segments.

    Args:
        recording: Its leads in any order, at any sampling rate.
        windows: The model's input, how it is cut, and what happens to missing leads.
        facts: Receives what is measured of the signal, by column of records/, also if the recording cannot be used.
        overwrite: Whether the recording's signal may be overwritten, which takes less time.

    Returns:
        The segments, as the model's input declares them.

    Raises:
        UnusableError: Leads are missing, there are samples that the model cannot take, its unit is not known to a model
            that needs it, or it is too short.
    """
    rate, declared = recording.sample_rate, windows.declared
    if not PLAUSIBLE_RATES[0] <= rate <= PLAUSIBLE_RATES[1]:
        raise UnusableError(f"the sampling rate is out of range ({rate:g} Hz)")
    if recording.signal.shape[1] == 0:
        raise UnusableError("the recording has no samples")
    if len(declared.leads) * count_resampled(recording, windows) > MOST_VALUES:
        raise UnusableError(f"too long to be prepared at once ({recording.signal.shape[1] / rate:.0f} s)")
    twelve = choose_leads(recording, windows)
    refuse_unit(recording.unit, declared)
    single = quality.in_single_precision(twelve.signal)
    facts["signal_hash"] = quality.fingerprint(single, twelve.unrecorded)
    means = _means(twelve.signal)  # (12, 1)
    is_finite = bool(np.isfinite(means).all()) or bool(np.isfinite(twelve.signal).all())
    if not is_finite:
        facts["nan_share"] = quality.nan_share(twelve.signal, twelve.unrecorded)
        _refuse_not_finite(twelve.signal, declared)
    # Some files' arrays are stored column by column; everything below would take twice as long on them.
    is_own = overwrite and twelve.signal.flags.writeable and twelve.signal.flags.c_contiguous
    begins_centred = is_finite and declared.steps[0] == Center()
    signal = twelve.signal if is_own else np.array(twelve.signal, order="C")  # (12, samples)
    if begins_centred:
        signal -= means
    _measure(signal, single, means, recording, twelve, facts, begins_centred)
    constant = {*facts["constant_leads"], *twelve.unrecorded}
    if constant.issuperset(declared.leads):
        raise UnusableError("no signal, every lead is constant")
    rows = declared.lead_rows
    is_all = rows == tuple(range(len(LEADS)))
    chosen = signal if is_all else signal[list(rows)]  # (leads, samples)
    digital = twelve.digital
    if digital is not None:
        digital = digital.then((SUBTRACT, means[:, 0])) if begins_centred else digital
        digital = digital if is_all else digital.of_leads(rows)
    transformed = transform(chosen, rate, declared, is_centred=begins_centred, overwrite=True, digital=digital)
    segments = transformed.windows.reshape(len(transformed.windows), len(declared.leads), -1)
    changes = {
        "resampled_from": rate if rate != declared.rate else None,
        "leads_reordered": twelve.reordered,
        "derived_leads": [lead for lead in twelve.derived if lead in declared.leads],
        "missing_leads": [lead for lead in twelve.missing if lead in declared.leads],
        "padded_s": transformed.padded_s,
        "overlap_s": transformed.overlap_s,
        "discarded_s": transformed.discarded_s,
        "n_segments": len(segments),
    }
    is_masked = declared.padding is not None and declared.padding.masked
    samples = transformed.samples if is_masked else segments.shape[2]
    return Prepared(segments, transformed.starts_s, samples, changes, transformed.digital)


def _refuse_not_finite(signal: np.ndarray, declared: ModelInput) -> None:
    """Raise an `UnusableError` where the model's leads have samples that it cannot take."""
    bad = np.isinf(signal) if declared.accepts_nan else ~np.isfinite(signal)  # (12, samples)
    affected = [LEADS[row] for row in sorted(declared.lead_rows) if bad[row].any()]
    if affected:
        what = "infinite samples" if declared.accepts_nan else "NaN or infinite samples"
        raise UnusableError(f"{what} ({' '.join(affected)})")


def _measure(
    signal: np.ndarray,
    single: np.ndarray,
    means: np.ndarray,
    recording: Recording,
    twelve: Twelve,
    facts: dict[str, Any],
    is_centred: bool,
) -> None:
    """Put the quality of a recording into `facts`, as if samples that are not finite were zero."""
    share = facts.get("nan_share")
    if share is not None:
        signal, single = np.nan_to_num(signal, posinf=0, neginf=0), np.nan_to_num(single, posinf=0, neginf=0)
        means = _means(signal)
    centred = signal if is_centred else signal - means
    facts.update(quality.measure(centred, single, recording.sample_rate, recording.unit, twelve.unrecorded))
    if share is not None:
        facts["nan_share"] = share


def count_resampled(recording: Recording, windows: Windows) -> int:
    """Count the samples of each lead that a recording has at the highest sampling rate of the model's steps."""
    return count_samples(recording.signal.shape[1], recording.sample_rate, windows.model_input.highest_rate)


def locate_segments(recording: Recording, windows: Windows) -> Cut:
    """Find where the segments of a recording lie, without preparing them.

    Args:
        recording: As it was read.
        windows: What happens to the tail and to short recordings.

    Returns:
        The segments' places, at the model's sampling rate.

    Raises:
        UnusableError: It is too short.
    """
    declared = windows.declared
    places, rate, lacking_s = find_windows(recording.signal.shape[1], recording.sample_rate, declared)
    starts = np.rint(places.starts / rate * declared.rate).astype(int)
    seconds = (lacking_s, places.overlap / rate, places.discarded / rate)
    return Cut(starts, *(round(each * declared.rate) for each in seconds))


def choose_leads(recording: Recording, windows: Windows) -> Twelve:
    """Find the twelve leads by name, and derive limb leads that are missing.

    Args:
        recording: As it was read.
        windows: What happens to missing leads.

    Returns:
        The twelve leads.

    Raises:
        UnusableError: A lead occurs twice, or a lead that the model takes is missing and the settings do not fill in
            zeros.
    """
    place, twice = _places_of(recording.leads)
    if twice:
        raise UnusableError(f"a lead is there twice ({' '.join(twice)})")
    if len(place) == len(LEADS):
        order = [place[lead] for lead in LEADS]
        in_order = order == list(range(len(recording.leads)))
        if in_order:
            return Twelve(recording.signal, False, [], [], recording.digital)
        digital = recording.digital and recording.digital.of_leads(order)
        return Twelve(recording.signal[order], True, [], [], digital)
    limbs = _limbs(recording, place)
    derived = [lead for lead in LEADS if lead not in place and lead in limbs]
    missing = [lead for lead in LEADS if lead not in place and lead not in limbs]
    needed = [lead for lead in missing if lead in windows.model_input.leads]
    if needed:
        _refuse(recording.leads, len(place), needed, windows)
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


def _means(signal: np.ndarray) -> np.ndarray:
    """(leads, 1) the mean of each lead."""
    with np.errstate(over="ignore", invalid="ignore"):  # values that are too large are reported later
        means: np.ndarray = np.add.reduce(signal, axis=1, keepdims=True) / signal.shape[1]
    return means
