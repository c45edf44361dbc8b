"""How good a recording's signal is, and whether its limb leads agree with one another."""

from collections.abc import Collection
from itertools import combinations
from typing import Any

import numpy as np
import xxhash

from ecgpipe.readers import LEADS, MIXED

# A stretch of equal samples that is so long, or an extreme that is held for so long, is no heartbeat.
FLAT_S = 0.5
HELD_S = 0.1

# A converter at its limit gives its extreme several samples in a row, beat after beat.
HELD_SAMPLES, HELD_TIMES = 3, 3
HELD_LEAST = HELD_SAMPLES * HELD_TIMES

# Of a small lead in coarse steps the rounded peaks are held too, but then the next two values occur about as often as
# the extreme. Tried on shared/reference's recordings at 250 to 1,000 Hz in steps of 1 to 10 microvolts: no false alarm
# in 1,920 leads, of which 171 hold their extreme.
CROWDED = 2.0

AMPLITUDES = [f"amplitude_mv_{lead}" for lead in LEADS]

# The limb leads in order, and what is zero of them: Einthoven's law and Goldberger's leads, as in `segments.DERIVED`.
LIMBS = LEADS[:6]
EQUATIONS = np.array(
    [
        # I    II   III  aVR aVL aVF
        [1.0, -1.0, 1.0, 0.0, 0.0, 0.0],
        [0.5, 0.5, 0.0, 1.0, 0.0, 0.0],
        [-0.5, 0.0, 0.5, 0.0, 1.0, 0.0],
        [0.0, -0.5, -0.5, 0.0, 0.0, 1.0],
    ]
)

# A residual beyond this share of the limb leads' own size is no matter of rounding or filters. A swap or an inversion
# is named when it explains all but a third of it, and twice as much as any other.
CONTRADICTION = 0.25
EXPLAINED = 1 / 3


def look(
    centred: np.ndarray, single: np.ndarray, rate: float, unit: str | None, made: Collection[str]
) -> dict[str, Any]:
    """Measure a recording.

    Args:
        centred: (12, samples) in the order of `LEADS`, as read but for the mean taken off each lead; finite.
        single: The same as read, in single precision. It takes half the time, and says where to look closer.
        rate: In Hz.
        unit: "mV", `MIXED` or None.
        made: Leads that were not recorded but derived, or zeros.

    Returns:
        Values by column of the records.
    """
    recorded = _recorded(made)
    names = [LEADS[i] for i in recorded]
    own, rough = (a if len(recorded) == len(LEADS) else a[recorded] for a in (centred, single))  # (leads, samples)
    least, most = rough.min(axis=1), rough.max(axis=1)  # (leads,)
    if not (np.isfinite(least) & np.isfinite(most)).all():  # beyond single precision, and so no signal of a heart
        return {"nan_share": 0.0, "constant_leads": []}
    constant = [i for i in np.flatnonzero(least == most) if own[i].min() == own[i].max()]
    clipped = [
        names[i]
        for i in np.flatnonzero(_at_extremes(rough, least, most) >= HELD_LEAST)
        if i not in constant and (_held(own[i], own[i].min(), rate) or _held(own[i], own[i].max(), rate))
    ]
    flat = longest_flat(own, max(int(FLAT_S * rate), 4)) / rate  # (leads,)
    flat[constant] = 0
    facts: dict[str, Any] = {
        "nan_share": 0.0,
        "constant_leads": [names[i] for i in constant],
        "clipped_leads": clipped,
        "flat_leads": [names[i] for i in np.flatnonzero(flat)],
        "flat_s": float(flat.max()),
    }
    if unit == "mV":
        sizes = most.astype(np.float64) - least
        facts |= zip((AMPLITUDES[i] for i in recorded), sizes.tolist(), strict=True)
    if unit != MIXED and not {*LIMBS} & {*made}:
        facts |= agreement(centred[: len(LIMBS)])
    return facts


def nan_share(signal: np.ndarray, made: Collection[str]) -> float:
    """The share of the samples of (12, samples) that are NaN or infinite, those of `made` leads left out."""
    return float(1 - np.isfinite(signal[_recorded(made)]).mean())


def in_single_precision(signal: np.ndarray) -> np.ndarray:
    """A float32 copy, row by row in memory, in which -0 is 0; infinite where a value is too large."""
    with np.errstate(over="ignore", invalid="ignore"):
        single: np.ndarray = signal.astype(np.float32, order="C")
        single += np.float32(0)
    return single


def fingerprint(single: np.ndarray, made: Collection[str]) -> str:
    """The same text for the same samples of the same leads, whatever the file they lie in: 32 hexadecimal digits.

    Args:
        single: (12, samples) by `in_single_precision`, which is what many files hold of others.
        made: Leads that were not recorded but derived, or zeros.
    """
    recorded = _recorded(made)
    digest = xxhash.xxh3_128(bytes(recorded))
    digest.update((single if len(recorded) == len(LEADS) else single[recorded]).data)
    return digest.hexdigest()


def _recorded(made: Collection[str]) -> list[int]:
    """The rows of the leads that were not made."""
    return [i for i, lead in enumerate(LEADS) if lead not in made]


def longest_flat(signal: np.ndarray, least: int) -> np.ndarray:
    """Samples of each lead's longest stretch of equal values that has at least `least` of them, else 0.

    Args:
        signal: (leads, samples).
        least: Of a stretch that counts, 4 or more.

    Returns:
        (leads,) int.
    """
    grid = signal[:, :: least // 4]
    same = grid[:, 1:] == grid[:, :-1]
    longest = np.zeros(len(signal), int)
    # What counts covers four neighbours of the grid.
    for i in np.flatnonzero((same[:, 2:] & same[:, 1:-1] & same[:, :-2]).any(axis=1)):
        edges = np.flatnonzero(np.concatenate([[True], signal[i, 1:] != signal[i, :-1], [True]]))
        longest[i] = np.diff(edges).max()
    return np.where(longest >= least, longest, 0)


def _at_extremes(signal: np.ndarray, least: np.ndarray, most: np.ndarray) -> np.ndarray:
    """(leads,) how many samples of each lead have its lowest or its highest value."""
    there = signal == least[:, None]
    there |= signal == most[:, None]
    return np.bincount(np.flatnonzero(there) // signal.shape[1], minlength=len(signal))


def _held(lead: np.ndarray, extreme: float, rate: float) -> bool:
    """Whether a lead, which is not constant, stays at its highest or lowest value again and again, or for long."""
    at = np.flatnonzero(lead == extreme)
    runs = np.diff(np.flatnonzero(np.concatenate([[True], np.diff(at) != 1, [True]])))  # samples of each run
    long = max(HELD_S * rate, HELD_LEAST)
    if (runs >= HELD_SAMPLES).sum() < HELD_TIMES and runs.max() < long:
        return False
    with np.errstate(over="ignore"):
        distance = np.abs(lead - extreme)
    next_one = distance[distance > 0].min()
    next_two = distance[distance > next_one].min(initial=next_one)
    return bool(len(at) > CROWDED * ((distance > 0) & (distance <= next_two)).sum())


def agreement(limbs: np.ndarray) -> dict[str, Any]:
    """How far the six limb leads are from Einthoven's and Goldberger's equations, and what may explain it.

    Args:
        limbs: (6, samples) I II III aVR aVL aVF in one unit, finite, its mean taken off each.

    Returns:
        `einthoven_residual` and `goldberger_residual` (the largest of three): the equation's root mean square over that
        of the six leads; and `lead_suspicion`, what is wrong in words, None where nothing is.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        left = EQUATIONS @ limbs  # (4, samples)
        size = float(np.vecdot(limbs, limbs).mean())
        squares = np.vecdot(left, left)  # (4,)
    if not (np.isfinite(squares).all() and 0 < size < np.inf):
        return {}
    residuals = np.sqrt(squares / size)
    suspicion = None
    if residuals.max() >= CONTRADICTION:
        suspicion = _suspicion(limbs @ limbs.T / size, float(residuals.max()))
    return {
        "einthoven_residual": float(residuals[0]),
        "goldberger_residual": float(residuals[1:].max()),
        "lead_suspicion": suspicion,
    }


def _explanations() -> tuple[list[str], np.ndarray]:
    """Each single swap and inversion in words, and the equations as they are for leads that were so mistaken."""
    words, changed = [], []
    for i, j in combinations(range(len(LIMBS)), 2):
        order = list(range(len(LIMBS)))
        order[i], order[j] = j, i
        words.append(f"{LIMBS[i]} and {LIMBS[j]} swapped")
        changed.append(EQUATIONS[:, order])
    for i, lead in enumerate(LIMBS):
        signs = np.ones(len(LIMBS))
        signs[i] = -1
        words.append(f"{lead} inverted")
        changed.append(EQUATIONS * signs)
    return words, np.stack(changed)


_WORDS, _CHANGED = _explanations()  # (21,) and (21, 4, 6)


def _suspicion(products: np.ndarray, residual: float) -> str:
    """What explains the residual, by the (6, 6) products of the limb leads, of which the mean square is 1."""
    squares = np.einsum("xei,ij,xej->xe", _CHANGED, products, _CHANGED)  # (21, 4)
    worst = np.sqrt(np.maximum(squares, 0).max(axis=1))  # (21,)
    best, second = np.argsort(worst)[:2]
    if worst[best] <= EXPLAINED * residual and worst[best] <= worst[second] / 2:
        return _WORDS[int(best)]
    return "limb leads contradict one another"
