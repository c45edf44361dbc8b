"""Measure the signal quality of a recording, and whether its limb leads agree with one another."""

from collections.abc import Collection
from itertools import combinations
from typing import Any

import numpy as np
import xxhash

from ecgpipe.readers import LEADS, MIXED

# In s. Equal samples for FLAT_S, or an extreme that is held for HELD_S, are not part of a heartbeat.
FLAT_S = 0.5
HELD_S = 0.1

# A converter at its limit repeats its extreme for several samples, beat after beat.
HELD_SAMPLES, HELD_TIMES = 3, 3
HELD_LEAST = HELD_SAMPLES * HELD_TIMES

# A small lead in coarse steps holds its rounded peaks too, but then the next two values occur about as often as the
# extreme. Tested on real recordings at 250 to 1,000 Hz in steps of 1 to 10 microvolts: no false alarm in 1,920 leads,
# of which 171 hold their extreme.
CROWDED = 2.0

AMPLITUDES = [f"amplitude_mv_{lead}" for lead in LEADS]

# The limb leads in order, and which of their sums are zero: Einthoven's law and Goldberger's leads, as in
# `segments.DERIVED`.
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

# A residual above this share of the limb leads' own size is not due to rounding or filters. A swap or an inversion is
# named if it explains two thirds of the residual or more, and twice as much as any other.
CONTRADICTION = 0.25
EXPLAINED = 1 / 3


def measure(
    centred: np.ndarray, single: np.ndarray, rate: float, unit: str | None, unrecorded: Collection[str]
) -> dict[str, Any]:
    """Measure the quality of a recording.

    Args:
        centred: (12, samples) in the order of `LEADS`, as read, each lead less its mean; finite.
        single: The signal as read, in single precision. It takes half the time, and shows where to look closer.
        rate: Sampling rate in Hz.
        unit: "mV", `MIXED` or None.
        unrecorded: Leads that are derived, or zeros.

    Returns:
        Values by column of records/.
    """
    recorded = _recorded(unrecorded)
    names = [LEADS[i] for i in recorded]
    exact, rough = (a if len(recorded) == len(LEADS) else a[recorded] for a in (centred, single))  # (leads, samples)
    least, most = rough.min(axis=1), rough.max(axis=1)  # (leads,)
    if not (np.isfinite(least) & np.isfinite(most)).all():  # beyond single precision, so not an ECG
        return {"nan_share": 0.0, "constant_leads": []}
    constant = [i for i in np.flatnonzero(least == most) if exact[i].min() == exact[i].max()]
    clipped = [
        names[i]
        for i in np.flatnonzero(_at_extremes(rough, least, most) >= HELD_LEAST)
        if i not in constant and (_is_held(exact[i], exact[i].min(), rate) or _is_held(exact[i], exact[i].max(), rate))
    ]
    flat = longest_flat(exact, max(int(FLAT_S * rate), 4)) / rate  # (leads,)
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
    if unit != MIXED and not {*LIMBS} & {*unrecorded}:
        facts |= measure_agreement(centred[: len(LIMBS)])
    return facts


def nan_share(signal: np.ndarray, unrecorded: Collection[str]) -> float:
    """The share of samples in (12, samples) that are NaN or infinite, without the `unrecorded` leads."""
    return float(1 - np.isfinite(signal[_recorded(unrecorded)]).mean())


def in_single_precision(signal: np.ndarray) -> np.ndarray:
    """A float32 copy, stored row by row, in which -0 is 0; values that are too large are infinite."""
    with np.errstate(over="ignore", invalid="ignore"):
        single: np.ndarray = signal.astype(np.float32, order="C")
        single += np.float32(0)
    return single


def fingerprint(single: np.ndarray, unrecorded: Collection[str]) -> str:
    """Hash the signal: 32 hexadecimal digits, the same for the same samples of the same leads in any format.

    Args:
        single: (12, samples) by `in_single_precision`: copies of a recording often keep no more than that.
        unrecorded: Leads that are derived, or zeros.
    """
    recorded = _recorded(unrecorded)
    digest = xxhash.xxh3_128(bytes(recorded))
    digest.update((single if len(recorded) == len(LEADS) else single[recorded]).data)
    return digest.hexdigest()


def _recorded(unrecorded: Collection[str]) -> list[int]:
    """The rows of the leads that were recorded."""
    return [i for i, lead in enumerate(LEADS) if lead not in unrecorded]


def longest_flat(signal: np.ndarray, least: int) -> np.ndarray:
    """Count the samples of each lead's longest stretch of equal values; 0 if it has fewer than `least`.

    Args:
        signal: (leads, samples).
        least: The fewest samples of a stretch that counts, 4 or more.

    Returns:
        (leads,) int.
    """
    grid = signal[:, :: least // 4]
    same = grid[:, 1:] == grid[:, :-1]
    longest = np.zeros(len(signal), int)
    # A stretch that counts covers four neighbours of the grid.
    for i in np.flatnonzero((same[:, 2:] & same[:, 1:-1] & same[:, :-2]).any(axis=1)):
        edges = np.flatnonzero(np.concatenate([[True], signal[i, 1:] != signal[i, :-1], [True]]))
        longest[i] = np.diff(edges).max()
    return np.where(longest >= least, longest, 0)


def _at_extremes(signal: np.ndarray, least: np.ndarray, most: np.ndarray) -> np.ndarray:
    """(leads,) how many samples of each lead have its lowest or its highest value."""
    is_extreme = signal == least[:, None]
    is_extreme |= signal == most[:, None]
    return np.array([np.count_nonzero(row) for row in is_extreme])  # faster than along an axis


def _is_held(lead: np.ndarray, extreme: float, rate: float) -> bool:
    """Whether a lead that is not constant stays at its highest or lowest value repeatedly, or for long."""
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


def measure_agreement(limbs: np.ndarray) -> dict[str, Any]:
    """Measure how far the six limb leads are from Einthoven's and Goldberger's equations, and what may explain it.

    Args:
        limbs: (6, samples) I II III aVR aVL aVF in one unit, finite, each lead less its mean.

    Returns:
        `einthoven_residual` and `goldberger_residual` (the largest of three): the equation's root mean square divided
        by that of the six leads; and `lead_suspicion`, the fault in words, None if there is no fault.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        residual = EQUATIONS @ limbs  # (4, samples)
        size = float(np.vecdot(limbs, limbs).mean())
        squares = np.vecdot(residual, residual)  # (4,)
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
    """Each single swap and inversion in words, and the equations that the leads then obey."""
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
    """The fault that explains the residual, by the (6, 6) products of the limb leads, whose mean square is 1."""
    squares = np.einsum("xei,ij,xej->xe", _CHANGED, products, _CHANGED)  # (21, 4)
    worst = np.sqrt(np.maximum(squares, 0).max(axis=1))  # (21,)
    best, second = np.argsort(worst)[:2]
    if worst[best] <= EXPLAINED * residual and worst[best] <= worst[second] / 2:
        return _WORDS[int(best)]
    return "limb leads contradict one another"
