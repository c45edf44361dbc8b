"""Three recordings of whole numbers, the same on every machine: `verify` runs them through the stages.

They follow from `synthetic_checkpoint.scattered`, integer arithmetic that no library, processor or random generator can
round otherwise. They are not real ECGs: the outputs are numbers to compare, not diagnoses. What fairseq-signals and
ecg-transform compute from them is in reference/outputs.npz, written by tests/helpers/reference_numbers.py.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import scipy.io

from ecgpipe.readers import LEADS
from ecgpipe.selftest.synthetic_checkpoint import scattered
from ecgpipe.selftest.synthetic_files import MIMIC_LEADS, write_wfdb


class Signal(NamedTuple):
    """A recording as its file states it."""

    microvolts: np.ndarray  # (12, samples) int64, in the order of `leads`
    leads: tuple[str, ...]
    rate: int  # Hz


def make_signals() -> dict[str, Signal]:
    """By record id: leads in another order, and two other rates, one of them with a lead that is constant."""
    constant = _make_microvolts("constant lead", 1_400, 250)
    constant[LEADS.index("V3")] = 123
    return {
        "constant_lead": Signal(constant, LEADS, 250),
        "other_order": Signal(_make_microvolts("other order", 5_300, 500), MIMIC_LEADS, 500),
        "other_rate": Signal(_make_microvolts("other rate", 2_934, 400), LEADS, 400),
    }


def write_recordings(folder: Path) -> None:
    """Write the recordings, each in a format and a unit of its own."""
    recordings = make_signals()
    named, mat, npz = recordings["other_order"], recordings["other_rate"], recordings["constant_lead"]
    write_wfdb(folder / "other_order", named.microvolts / 1000, named.rate, named.leads)
    content = {"feats": mat.microvolts / 1000, "org_sample_rate": [[mat.rate]], "curr_sample_rate": [[mat.rate]]}
    scipy.io.savemat(folder / "other_rate.mat", content)
    np.savez(folder / "constant_lead.npz", signal=npz.microvolts, sample_rate=npz.rate, leads=npz.leads, unit="uV")


def _make_microvolts(name: str, samples: int, rate: int) -> np.ndarray:
    """(12, samples) int64: in each lead a beat of its own height every 0.8 s, on a wander, with noise."""
    times = np.arange(samples)
    heights = 300 + scattered(f"{name}, heights", 12).astype(np.int64) % 1_200  # (12,)
    signs = 1 - 2 * (scattered(f"{name}, signs", 12).astype(np.int64) % 2)
    away = np.abs(times % (rate * 4 // 5) - rate // 3)  # samples from the middle of the beat
    width = rate // 20
    beats = (signs * heights)[:, None] * np.maximum(width - away, 0) // width  # (12, samples)
    knot, within = np.divmod(times, rate // 5)
    knots = scattered(f"{name}, wander", 12 * (int(knot[-1]) + 2)).astype(np.int64).reshape(12, -1) % 400
    wander = (knots[:, knot] * (rate // 5 - within) + knots[:, knot + 1] * within) // (rate // 5)
    noise = scattered(f"{name}, noise", 12 * samples).astype(np.int64).reshape(12, samples) % 41 - 20
    microvolts: np.ndarray = beats + wander + noise
    return microvolts
