"""A folder with all that people, devices and broken disks leave behind: every file is accounted for, and told of."""

import json
import os
from pathlib import Path

import checkpoints
import formats
import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.io
from report_page import Page
from run_workflow import Ran, snakemake, table

from ecgpipe.readers import LEADS

pytestmark = pytest.mark.slow

USED = len(formats.WRITERS) + 7  # of those in which something is odd, seven can be used all the same
RECORDINGS = USED + 5 + 10  # skipped, failed

LABELS = "name,aggregation\nFirst,max\nSecond,mean\nThird,mean\n"
XML_BOMB = (
    '<?xml version="1.0"?><!DOCTYPE RestingECG [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;&a;&a;">]>'
    "<RestingECG>&b;</RestingECG>"
)


def write_formats(folder: Path, real: list[np.ndarray]) -> None:
    """A real recording in each format, over three folders with blanks in their names."""
    for number, (name, write) in enumerate(formats.WRITERS.items()):
        ward = folder / f"ward {number % 3}"
        ward.mkdir(exist_ok=True)
        write(ward / name.replace(" ", "-"), real[number % len(real)], 400)


def write_odd(folder: Path, signal: np.ndarray) -> None:
    """Recordings that can be read, but in which something is odd."""

    def npz(name: str, rows: np.ndarray, leads: tuple[str, ...] = LEADS, rate: int = 400) -> None:
        np.savez(folder / f"{name}.npz", signal=rows, sample_rate=rate, leads=leads)

    changed = {name: signal.copy() for name in ("swapped", "inverted", "nan", "flat", "clipped")}
    changed["swapped"][[4, 5]] = signal[[5, 4]]
    changed["inverted"][2] *= -1
    changed["nan"][3, 5] = np.nan
    changed["flat"][8, 500:1500] = signal[8, 500]
    changed["clipped"][1] = np.minimum(signal[1], np.quantile(signal[1], 0.95))
    for name, rows in changed.items():
        npz(name, rows)
    npz("eight", signal[[LEADS.index(lead) for lead in formats.EIGHT]], formats.EIGHT)
    npz("single", signal[:1], ("I",))
    npz("short", signal[:, :800])
    npz("negative", signal, rate=-500)
    npz("many", np.ones((300, 5000)), tuple(f"ch{number}" for number in range(300)))
    npz('Ünïcode 心电图 "quoted" \'', signal)
    npz("new\nline", signal)


def write_broken(folder: Path) -> None:
    """What no reader can read, and what is meant to do harm."""
    (folder / "empty.mat").touch()
    (folder / "garbage.edf").write_bytes(bytes(range(256)) * 4)
    (folder / "cut.npz").write_bytes((folder / "flat.npz").read_bytes()[:5000])
    (folder / "bomb.xml").write_text(XML_BOMB)
    lines = [f"tera.dat 16 200/mV 16 0 0 0 0 {lead}" for lead in LEADS]
    (folder / "tera.hea").write_text("\n".join(["tera 12 500 1000000000000", *lines]))
    (folder / "tera.dat").write_bytes(bytes(1000))
    (folder / "evil.hea").write_text("evil 1 500 100\n../../../etc/passwd 16 200/mV 16 0 0 0 0 I\n")
    (folder / "alone.hea").write_text("alone 1 500 100\nalone.dat 16 200/mV 16 0 0 0 0 I\n")
    np.save(folder / "pickle.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with h5py.File(folder / "elsewhere.h5", "w") as file:
        file["signals"] = h5py.ExternalLink("other.h5", "/x")
    Path(os.fsdecode(os.fsencode(folder) + b"/latin\xff.npz")).write_bytes(b"x")


def write_others(folder: Path) -> None:
    """What is no recording."""
    (folder / "notes.txt").write_text("hi")
    (folder / "page.xml").write_text("<html></html>")
    (folder / "results.csv").write_text("id,age\n1,2\n")
    (folder / ".hidden").write_text("x")
    (folder / "gone.dat").symlink_to("/nowhere")
    (folder / "loop").symlink_to(folder)
    os.mkfifo(folder / "pipe.mat")


@pytest.fixture(scope="module")
def ran(reference: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Ran]:
    """The folder of a run over all of it, and what it said."""
    folder = tmp_path_factory.mktemp("messy")
    (folder / "in").mkdir()
    paths = sorted((reference / "code15").glob("*.mat"))
    real = [scipy.io.loadmat(path)["feats"].astype(np.float64) for path in paths]
    write_formats(folder / "in", real)
    write_odd(folder / "in", real[1])
    write_broken(folder / "in")
    write_others(folder / "in")
    (folder / "labels.csv").write_text(LABELS)
    (folder / "x.pt").write_bytes(checkpoints.saved(checkpoints.classifier(stride=4)))
    settings = {"input": "in", "outdir": "out", "checkpoint": "x.pt", "labels": "labels.csv"}
    settings |= {"attribution": "{recordings: 1, steps: 4}"}
    return folder, snakemake(folder, **settings, max_failed_fraction=0.5)


@pytest.fixture
def records(ran: tuple[Path, Ran]) -> pd.DataFrame:
    return table(ran[0] / "out" / "records").set_index("record_id")


def test_the_run_ends_well_and_its_last_lines_say_what_became_of_everything(ran: tuple[Path, Ran]) -> None:
    folder, said = ran
    assert said.status == 0, said.output
    closing = said.output[said.output.rindex(f"{RECORDINGS} recordings: ") :]
    assert closing.startswith(f"{RECORDINGS} recordings: {USED} used (48 segments), 5 skipped, 10 failed\n")
    for line in (
        "2 failed: not a readable NumPy file",
        "1 failed: the name is not UTF-8; rename it",
        "1 failed: the WFDB header names a file outside its folder",
        "1 skipped: NaN or infinite samples",
        "2 recordings with leads that are probably swapped or inverted",
        "1 recording with a clipped lead",
        "1 recording with a flat stretch in a lead",
        "1 recording with the same signal as another one",
        "7 other files, not recordings: ",
    ):
        assert line in closing, closing
    assert f"Report: {folder}/out/report.html" in closing


def test_every_file_is_there_exactly_once(ran: tuple[Path, Ran]) -> None:
    folder, _ = ran
    files = pd.read_parquet(folder / "out" / "manifest" / "files.parquet")
    found = [os.path.join(where, name) for where, _, names in os.walk(folder / "in") for name in names]  # noqa: PTH118
    found.append(f"{folder}/in/loop/")  # a link that is not followed
    shown = [os.fsencode(path).decode(errors="backslashreplace") for path in found]
    assert sorted(files["path"]) == sorted(shown)
    assert files["role"].value_counts().to_dict() == {"recording": RECORDINGS, "part": 14, "ignored": 7}
    reasons = files[files["role"] == "ignored"].set_index("path")["reason"]
    assert {str(path).removeprefix(f"{folder}/in/"): reason for path, reason in reasons.items()} == {
        "notes.txt": "no known format, .txt",
        "page.xml": "XML of another kind (html)",
        "results.csv": "table without a column for each lead",
        ".hidden": "hidden",
        "gone.dat": "a link to nothing",
        "loop/": "a link back to a folder above it",
        "pipe.mat": "not a regular file (a pipe)",
    }


def test_every_recording_of_the_manifest_has_its_row_and_the_counts_add_up(
    ran: tuple[Path, Ran], records: pd.DataFrame
) -> None:
    folder, _ = ran
    manifest = pd.concat(map(pd.read_parquet, sorted((folder / "out" / "manifest").glob("shard-*.parquet"))))
    assert list(manifest["record_id"]) == list(records.index)
    counts = json.loads((folder / "out" / "run.json").read_text())["counts"]
    assert counts["recordings"] == counts["ok"] + counts["skipped"] + counts["failed"] == len(records)
    logits = table(folder / "out" / "logits")
    used = records[records["status"] == "ok"]
    assert logits.groupby("record_id").size().to_dict() == used["n_segments"].to_dict()
    assert set(table(folder / "out" / "predictions")["record_id"]) == set(used.index)


def test_what_is_odd_is_named(records: pd.DataFrame) -> None:
    assert records["lead_suspicion"].dropna().to_dict() == {
        "swapped": "aVL and aVF swapped", "inverted": "III inverted",
    }  # fmt: skip
    assert list(records["flat_leads"]["flat"]) == ["V3"]
    assert list(records["clipped_leads"]["clipped"]) == ["II"]
    assert list(records["derived_leads"]["eight"]) == ["III", "aVR", "aVL", "aVF"]
    skipped = records[records["status"] == "skipped"]["reason"]
    assert skipped["nan"] == "NaN or infinite samples (aVR)"
    assert skipped["short"] == "shorter than one segment of 5 s (2.000 s)"
    assert skipped["negative"] == "the sampling rate is out of range (-500 Hz)"
    assert skipped["single"].startswith("a single lead, preprocess.min_leads asks for more")
    assert skipped["many"].startswith("none of its leads is known by name (ch0 ch1")
    failed = records[records["status"] == "failed"]["reason"]
    assert sorted(failed.index) == [
        "alone", "bomb", "cut", "elsewhere", "empty", "evil", "garbage", "latin\\xff", "pickle", "tera",
    ]  # fmt: skip
    assert "ecgpipe's own" not in " ".join(failed)


def test_the_report_says_it_too(ran: tuple[Path, Ran]) -> None:
    page = Page(ran[0] / "out" / "report.html")
    for text in (
        "2 recordings with leads that are probably swapped or inverted",
        "the name is not UTF-8; rename it",
        "1 not a regular file",
    ):
        assert text in page.source, text
    assert "latin\\xff" in page.get("rows")["names"]
