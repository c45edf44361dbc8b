"""The recordings of the demo: which patients there are, what their hearts do, and the files and tables that say so."""

import csv
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ecgpipe.core.atomic import whole
from ecgpipe.core.errors import EcgpipeError
from ecgpipe.core.logs import Progress
from ecgpipe.readers import LEADS
from ecgpipe.selftest import dipole, simulator
from ecgpipe.selftest.dipole import Array
from ecgpipe.selftest.simulator import LABELS, RHYTHMS, Rhythm
from ecgpipe.selftest.synthetic_files import (
    write_csv,
    write_mat,
    write_npy,
    write_npz,
    write_parquet,
    write_wfdb,
    write_wfdb_as_mimic,
)

# Each site delivers formats and sampling rates of its own, and has patients of every kind: a report must not mistake a
# site for a rhythm. NPY stands at the settings' one rate.
Format = tuple[Callable[[Path, Array, int], None], int, tuple[str, ...]]
SITES: dict[str, tuple[Format, ...]] = {
    "Northgate": ((write_wfdb_as_mimic, 500, (".hea", ".dat")), (write_wfdb, 250, (".hea", ".dat"))),
    "Harbour": ((write_mat, 400, (".mat",)), (write_csv, 500, (".csv",))),
    "Hillside": ((write_npz, 500, (".npz",)), (write_npy, 500, (".npy",)), (write_parquet, 500, (".parquet",))),
}
REAL = "real/pydicom_waveform_ecg"
UNUSABLE = {
    "unusable/too_short": (".mat",),
    "unusable/missing_leads": (".hea", ".dat"),
    "unusable/nan": (".npz",),
    "unusable/truncated": (".hea", ".dat"),
    "unusable/garbage": (".mat",),
}
NOTES, TABLE, TRUTH = "notes.txt", "recordings.csv", "truth.csv"

# Of every so many recordings one is flawed in this way, from the number on: the rarer of what real collections have.
EVERY, FLAWS = 50, {8: "swapped", 21: "clipped", 34: "copied"}

# Of the patients, those whose hearts do this are older than the others.
OLDER = {
    "fibrillation",
    "flutter",
    "paced",
    "left_bundle_branch_block",
    "right_bundle_branch_block",
    "first_degree_block",
}

# A recording's main finding is the first of these labels that is true.
FINDINGS = (
    *("Electronic pacemaker", "Atrial fibrillation", "Atrial flutter", "Left bundle branch block"),
    *("Right bundle branch block", "Premature ventricular contraction", "1st degree atrioventricular block"),
    *("Tachycardia", "Bradycardia", "Sinus rhythm"),
)
SHARE_OF_DEVELOPMENT = (
    3  # every third patient is there to develop with: thresholds, calibration; the others are the test
)


@dataclass(frozen=True)
class Planned:
    """A recording before it is simulated."""

    number: int  # from 0
    patient: int
    site: str
    age: int
    sex: str
    rhythm: Rhythm
    form: int  # index into the site's formats
    flaw: str | None = None

    @property
    def record_id(self) -> str:
        """The path below recordings/, without extension."""
        copy = "_copy" if self.flaw == "copied" else ""
        return f"{self.site.lower()}/p{self.patient:03d}_{self.number:03d}{copy}"

    @property
    def split(self) -> str:
        """All recordings of a patient are in one split."""
        return "test" if self.patient % SHARE_OF_DEVELOPMENT else "development"


def plan_recordings(recordings: int, seed: int) -> list[Planned]:
    """Plan the demo's recordings: one to three of each patient, whose rhythm mostly stays.

    Args:
        recordings: How many to simulate.
        seed: Of what is drawn at random.
    """
    planned: list[Planned] = []
    patient = 0
    while len(planned) < recordings:
        rng = np.random.default_rng([seed, 1, patient])
        name = list(RHYTHMS)[patient % len(RHYTHMS)]
        site = list(SITES)[int(rng.integers(len(SITES)))]
        age = int(np.clip(rng.normal(74, 9) if name in OLDER else rng.normal(54, 17), 18, 96))
        sex = "F" if rng.random() < 0.5 else "M"
        usual = simulator.vary(RHYTHMS[name], rng)
        for visit in range(min(int(rng.choice([1, 2, 3], p=[0.55, 0.3, 0.15])), recordings - len(planned))):
            rhythm = usual if not visit or rng.random() < 0.6 else _change(usual, rng)
            form, flaw = int(rng.integers(len(SITES[site]))), FLAWS.get(len(planned) % EVERY)
            one = Planned(len(planned), patient, site, min(age + visit, 96), sex, rhythm, form, flaw)
            if flaw == "copied":  # of the recording before, whoever's it is
                one = replace(planned[-1], number=one.number, flaw=flaw)
            planned.append(one)
        patient += 1
    return planned


def _change(rhythm: Rhythm, rng: np.random.Generator) -> Rhythm:
    """What a heart does at another visit: faster, slower, with premature beats, or badly recorded."""
    which = rng.integers(4)
    if rhythm.atria == "sinus" and rhythm.conduction != "paced" and which < 2:
        other = RHYTHMS["bradycardia" if which or rhythm.pr_s[0] > 0.2 else "tachycardia"]
        return replace(rhythm, rates=other.rates)
    return replace(rhythm, noisy=True) if which == 2 else replace(rhythm, ectopics=RHYTHMS["premature"].ectopics)


def list_files(recordings: int, seed: int) -> list[str]:
    """Every file of the demo's recordings and tables, below the demo's folder."""
    named = [(one.record_id, SITES[one.site][one.form][2]) for one in plan_recordings(recordings, seed)]
    named += [(REAL, (".dcm",)), *UNUSABLE.items()]
    below = [NOTES, *(name + extension for name, extensions in named for extension in extensions)]
    return sorted([*(f"recordings/{name}" for name in below), TABLE, TRUTH])


def write_recordings(folder: Path, recordings: int, seed: int) -> None:
    """Write the recordings, the table of the recordings, and that of the true labels.

    Args:
        folder: Of the demo; the recordings go to recordings/.
        recordings: How many to simulate.
        seed: Of what is drawn at random.
    """
    for name in list_files(recordings, seed):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
    planned = plan_recordings(recordings, seed)
    progress = Progress("demo", recordings, "recordings")
    truth: list[dict[str, bool]] = []
    for one in planned:
        write, rate, _ = SITES[one.site][one.form]
        simulated = simulate(one, seed)
        signal = spoil(simulated.signal, one.flaw)
        write(folder / "recordings" / one.record_id, signal, rate)
        truth.append(simulated.labels())
        progress.add(1)
    _write_real(folder / "recordings" / REAL)
    _write_unusable(folder / "recordings" / "unusable", np.random.default_rng([seed, 2]))
    notes = "A folder of recordings often holds other files too. This is one.\n"
    (folder / "recordings" / NOTES).write_text(notes, encoding="utf-8")
    _write_table(folder / TABLE, _rows(planned, truth))
    rows = zip(planned, truth, strict=True)
    _write_table(
        folder / TRUTH,
        ({"record_id": one.record_id, **{name: int(labels[name]) for name in LABELS}} for one, labels in rows),
    )


def simulate(one: Planned, seed: int) -> simulator.Simulated:
    """Simulate a planned recording, as its heart is, before anything goes wrong with its leads."""
    source = one.number - (one.flaw == "copied")
    body = dipole.draw_body(np.random.default_rng([seed, 3, one.patient]))
    rate = SITES[one.site][one.form][1]
    return simulator.record(one.rhythm, body, rate, np.random.default_rng([seed, 4, source]))


def spoil(signal: Array, flaw: str | None) -> Array:
    """(12, samples): the leads as somebody exchanged two of them, or as an amplifier reached its end."""
    spoiled = signal.copy()
    if flaw == "swapped":
        second, third = LEADS.index("II"), LEADS.index("III")
        spoiled[[second, third]] = signal[[third, second]]
    elif flaw == "clipped":
        for lead in (LEADS.index("V2"), LEADS.index("V3"), LEADS.index("V4")):
            most = np.round(0.55 * np.abs(signal[lead]).max(), 3)
            spoiled[lead] = np.clip(signal[lead], -most, most)
    return spoiled


def _rows(planned: Sequence[Planned], truth: Sequence[dict[str, bool]]) -> Iterator[dict[str, Any]]:
    """The rows of the table of the recordings."""
    for one, labels in zip(planned, truth, strict=True):
        yield {
            "record_id": one.record_id,
            "path": f"recordings/{one.record_id}{SITES[one.site][one.form][2][0]}",
            "patient_id": f"p{one.patient:03d}",
            "age": one.age,
            "sex": one.sex,
            "site": one.site,
            "finding": next(name for name in FINDINGS if labels[name] or name == FINDINGS[-1]),
            "split": one.split,
        }
    for name, extensions in {REAL: (".dcm",), **UNUSABLE}.items():
        yield {"record_id": name, "path": f"recordings/{name}{extensions[0]}"}


def _write_table(path: Path, rows: Iterator[dict[str, Any]]) -> None:
    first = next(rows)
    with whole(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(first), lineterminator="\n")
        writer.writeheader()
        writer.writerow(first)
        writer.writerows(rows)


def _write_real(path: Path) -> None:
    """The ten seconds of a real heart that pydicom carries as test data, with a median beat besides."""
    import pydicom
    import pydicom.data

    source = pydicom.data.get_testdata_file("waveform_ecg.dcm", download=False)
    if source is None:
        raise EcgpipeError(
            f"demo: pydicom {pydicom.__version__} at {Path(pydicom.__file__).parent} lacks its test file "
            "waveform_ecg.dcm; install pydicom from PyPI"
        )
    path.with_suffix(".dcm").write_bytes(Path(source).read_bytes())


def _write_unusable(folder: Path, rng: np.random.Generator) -> None:
    """One recording for each of the ways in which a recording cannot be used."""
    rate = 500
    signal = simulator.simulate(RHYTHMS["sinus"], rate, rng)
    write_mat(folder / "too_short", signal[:, : 4 * rate], rate)
    write_wfdb(folder / "missing_leads", signal[:8], rate, LEADS[:8])
    gap = signal.copy()
    gap[3, 1000:1200] = np.nan
    write_npz(folder / "nan", gap, rate)
    write_wfdb(folder / "truncated", signal, rate)
    samples = folder / "truncated.dat"
    samples.write_bytes(samples.read_bytes()[: samples.stat().st_size // 2])
    (folder / "garbage.mat").write_bytes(rng.bytes(10_000))
