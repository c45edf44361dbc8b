"""`inspect` tells what a file or folder is and what a run would do with it, and writes nothing."""

import os
from pathlib import Path

import formats
import numpy as np
import pytest

from ecgpipe.api import inspect
from ecgpipe.cli import main
from ecgpipe.readers import LEADS


def signal() -> np.ndarray:
    """(12, 4480) at 400 Hz in mV, whose limb leads obey Einthoven and Goldberger."""
    random = np.random.default_rng(0)
    rows = {name: random.standard_normal(4480).cumsum() / 50 for name in formats.EIGHT}
    one, two = rows["I"], rows["II"]
    rows |= {"III": two - one, "aVR": -(one + two) / 2, "aVL": one - two / 2, "aVF": two - one / 2}
    return np.stack([rows[lead] for lead in LEADS])


def said(capfd: pytest.CaptureFixture[str], *options: object) -> str:
    assert main(["inspect", *map(str, options)]) == 0
    return capfd.readouterr().out


def test_one_file_is_described_and_drawn(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    formats.WRITERS["wfdb 16"](tmp_path / "x", signal(), 400)
    text = said(capfd, tmp_path / "x.hea", "--width", 60)
    assert "x: ok, 2 segments of 5 s" in text
    assert f"path      {tmp_path}/x.hea" in text
    assert "leads     I II III aVR aVF aVL V1" in text
    assert "signal    11.2 s at 400 Hz, unit mV" in text
    assert "resampled from 400 Hz to 500 Hz" in text
    assert "leads put in the model's order" in text
    assert "1.2 s at the end discarded" in text
    assert "residuals of the limb leads: 0.000 (III = II - I), 0.000 (aVR aVL aVF)" in text
    drawn = [line for line in text.splitlines() if line[:5].strip() in LEADS and "\u2800" <= line[-1] <= "\u28ff"]
    assert [line[:5].strip() for line in drawn] == list(LEADS)
    assert {len(line) for line in drawn} == {60}


def test_what_the_settings_change_shows(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    eight = [LEADS.index(lead) for lead in formats.EIGHT]
    np.savez(tmp_path / "x.npz", signal=signal()[eight], sample_rate=400, leads=formats.EIGHT, unit="mV")
    text = said(capfd, tmp_path / "x.npz", "--tail", "overlap", "--segment-s", 10)
    assert "x: ok, 2 segments of 10 s" in text
    assert "derived: III aVR aVL aVF" in text
    assert "8.8 s of overlap between the last two segments" in text


def test_a_folder_is_counted_and_some_of_it_tried(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for number in range(30):
        np.savez(tmp_path / f"{number:02d}.npz", signal=signal()[:, :2200], sample_rate=400, leads=LEADS)
    formats.WRITERS["wfdb 16"](tmp_path / "wave", signal(), 400)
    (tmp_path / "notes.txt").write_text("hello")
    text = said(capfd, tmp_path, "--recordings", 5)
    assert "31 recordings\n    30 numpy\n    1 wfdb\n" in text
    assert "33 files: 31 with recordings, 1 belonging to these, 1 ignored\n    1 no known format, .txt" in text
    assert "5 of them, evenly spread:" in text
    assert text.count(": ok, ") == 5
    assert sorted(os.listdir(tmp_path))[-3:] == ["notes.txt", "wave.dat", "wave.hea"]  # noqa: PTH208


def test_a_file_that_cannot_be_used_gives_the_reason(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "x.npy").write_bytes(b"garbage")
    assert "x: failed, not a readable NumPy file" in said(capfd, tmp_path / "x.npy")
    np.savez(tmp_path / "one.npz", signal=signal()[:1], sample_rate=400, leads=["I"])
    text = said(capfd, tmp_path / "one.npz")
    assert "one: skipped, a single lead, preprocess.min_leads asks for more" in text
    assert "\nI     " in text  # drawn all the same


def test_names_cannot_command_the_terminal(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    np.savez(tmp_path / "a\x1b[31m\nb.npz", signal=signal(), sample_rate=400, leads=LEADS)
    text = said(capfd, tmp_path)
    assert "\x1b" not in text
    assert "a\ufffd[31m\ufffdb: ok" in text


def test_a_drawing_has_its_size_and_keeps_peaks() -> None:
    values = np.zeros(1000)
    values[500] = 1
    lines = inspect.drawing(values, 20, 2)
    assert [len(line) for line in lines] == [20, 20]
    assert [i for i, character in enumerate(lines[0]) if character != "\u2800"] == [10]
    assert "\u2800" not in lines[1]
    assert [len(line) for line in inspect.drawing(np.arange(3.0), 20, 2)] == [20, 20]
