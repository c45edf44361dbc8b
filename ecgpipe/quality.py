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

# Of a small lead in coarse steps the rounded peaks are held too, but then the next two values occur about as often as
# the extreme. Tried on shared/reference's recordings at 250 to 1,000 Hz in steps of 1 to 10 microvolts: no false alarm
# in 1,920 leads, of which 171 hold their extreme.
CROWDED = 2.0

# The limb leads in order, and what is zero of them: Einthoven's law and Goldberger's leads, as in `prepare.DERIVED`.
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


def look(signal: np.ndarray, rate: float, unit: str | None, made: Collection[str]) -> dict[str, Any]:
    """Measure a recording.

    Args:
        signal: (12, samples) in the order of `LEADS`, as read, before any change.
        rate: In Hz.
        unit: "mV", `MIXED` or None.
        made: Leads that were not recorded but derived, or zeros.

    Returns:
        Values by column of the records; what needs finite samples is left out where some are not.
    """
    recorded = [i for i, lead in enumerate(LEADS) if lead not in made]
    names = [LEADS[i] for i in recorded]
    own = signal if len(recorded) == len(LEADS) else signal[recorded]  # (leads, samples)
    # Single precision takes half the time. Where rounding could make a difference, what it finds is looked at again.
    single = _single(own)
    facts: dict[str, Any] = {"signal_hash": _hash(single, names), "nan_share": 0.0, "constant_leads": []}
    least, most = single.min(axis=1), single.max(axis=1)  # (leads,) NaN where one is among them
    if not (np.isfinite(least) & np.isfinite(most)).all():
        facts["nan_share"] = float(1 - np.isfinite(own).mean())
        return facts
    constant = [i for i in np.flatnonzero(least == most) if own[i].min() == own[i].max()]
    facts["constant_leads"] = [names[i] for i in constant]
    facts["clipped_leads"] = [
        names[i]
        for i in np.flatnonzero(_may_be_held(single, least, most))
        if i not in constant and (_held(own[i], own[i].min(), rate) or _held(own[i], own[i].max(), rate))
    ]
    flat = longest_flat(own, max(int(FLAT_S * rate), 4)) / rate  # (leads,)
    flat[constant] = 0
    facts["flat_leads"] = [names[i] for i in np.flatnonzero(flat)]
    facts["flat_s"] = float(flat.max())
    if unit == "mV":
        size = (most.astype(np.float64) - least).tolist()  # (leads,)
        facts |= {f"amplitude_mv_{name}": value for name, value in zip(names, size, strict=True)}
    if unit != MIXED and not {*LIMBS} & {*made}:
        facts |= agreement(single[: len(LIMBS)])
    return facts


def fingerprint(signal: np.ndarray, names: Collection[str]) -> str:
    """The same text for the same samples of the same leads, whatever the file they lie in: 32 hexadecimal digits."""
    return _hash(_single(signal), names)


def _single(signal: np.ndarray) -> np.ndarray:
    """A copy in single precision, row by row in memory, in which -0 is 0."""
    with np.errstate(over="ignore", invalid="ignore"):
        single: np.ndarray = signal.astype(np.float32, order="C")
        single += np.float32(0)
    return single


def _hash(single: np.ndarray, names: Collection[str]) -> str:
    digest = xxhash.xxh3_128(" ".join(names).encode())
    digest.update(single.data)
    return digest.hexdigest()


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


def _may_be_held(signal: np.ndarray, least: np.ndarray, most: np.ndarray) -> list[bool]:
    """(leads,) False where `_held` cannot be True: whatever is held meets every third sample."""
    every_third = np.ascontiguousarray(signal[:, ::HELD_SAMPLES])
    low, high = every_third == least[:, None], every_third == most[:, None]
    counts = [max(np.count_nonzero(a), np.count_nonzero(b)) for a, b in zip(low, high, strict=True)]
    return [bool(count >= HELD_TIMES) for count in counts]


def _held(lead: np.ndarray, extreme: float, rate: float) -> bool:
    """Whether a lead, which is not constant, stays at its highest or lowest value again and again, or for long."""
    at = np.flatnonzero(lead == extreme)
    runs = np.diff(np.flatnonzero(np.concatenate([[True], np.diff(at) != 1, [True]])))  # samples of each run
    long = max(HELD_S * rate, HELD_SAMPLES * HELD_TIMES)
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
        limbs: (6, samples) I II III aVR aVL aVF in one unit, finite.

    Returns:
        `einthoven_residual` and `goldberger_residual` (the largest of three): the equation's root mean square over that
        of the six leads, their means taken off; and `lead_suspicion`, what is wrong in words, None where nothing is.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        centred = limbs - limbs.mean(axis=1, keepdims=True)
        left = EQUATIONS.astype(limbs.dtype) @ centred  # (4, samples)
        size = float(np.vecdot(centred, centred).mean())
        squares = np.vecdot(left, left)  # (4,)
    if not (np.isfinite(squares).all() and 0 < size < np.inf):
        return {}
    residuals = np.sqrt(squares / size)
    suspicion = None
    if residuals.max() >= CONTRADICTION:
        suspicion = _suspicion((centred @ centred.T).astype(np.float64) / size, float(residuals.max()))
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
