"""ecgpipe.read and the Recording that it gives: what is in it, and how it is drawn."""

import base64
import builtins
import doctest
import importlib
import re
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import wfdb

from ecgpipe import EcgpipeError, Recording, read
from ecgpipe.readers import LEADS
from ecgpipe.selftest import simulator


def heart() -> np.ndarray:
    return simulator.simulate(simulator.RHYTHMS["sinus"], 500, np.random.default_rng(3))


@pytest.fixture(scope="module")
def recording() -> Recording:
    return Recording(heart(), 500.0, LEADS, "mV", name="p1")


def texts(recording: Recording, **options: Any) -> list[str]:  # noqa: ANN401, as of `plot`
    return [text.get_text() for axes in recording.plot(**options).axes for text in axes.texts]


def test_a_file_is_read_with_what_it_states(tmp_path: Path) -> None:
    signal = heart()
    wfdb.wrsamp(
        "p1", fs=500, units=["mV"] * 12, sig_name=list(LEADS), fmt=["16"] * 12, p_signal=signal.T,
        comments=["Age: 61", "Sex: Female"], write_dir=str(tmp_path),
    )  # fmt: skip
    recording = read(tmp_path / "p1.hea")
    np.testing.assert_allclose(recording.signal, signal, atol=1e-3)
    assert (recording.name, recording.sample_rate, recording.leads, recording.unit) == ("p1", 500.0, LEADS, "mV")
    about = {name: recording.metadata[name] for name in ("format", "row", "age", "sex")}
    assert about == {"format": "wfdb", "row": None, "age": "61", "sex": "Female"}
    assert recording.metadata["path"] == str(tmp_path / "p1.hea")
    assert repr(recording) == "Recording p1: 12 leads, 10 s at 500 Hz, mV"


def test_what_a_file_lacks_is_given_or_named(tmp_path: Path) -> None:
    np.save(tmp_path / "bare.npy", np.stack([heart()] * 3))
    path = tmp_path / "bare.npy"
    for options, says in (
        ({}, "bare.npy holds 3 recordings; give row=, from 0"),
        ({"row": 7}, "there is no recording of row 7 in it"),
        ({"row": 1}, "the file states no sampling rate; give sample_rate= if you know it"),
        ({"row": 1, "sample_rate": 500}, "the file names no leads; give leads=, their names in order"),
        ({"row": 1, "sample_rate": 5}, "sample_rate: 5 is out of range"),
    ):
        with pytest.raises(EcgpipeError, match=re.escape(says)):
            read(path, **options)  # type: ignore[arg-type]
    given = read(path, 500, LEADS, "uV", row=1)
    np.testing.assert_allclose(given.signal, heart() / 1000)
    assert (given.unit, given.name, given.metadata["row"]) == ("mV", "bare/1", 1)


def test_what_holds_no_recording_is_refused(tmp_path: Path) -> None:
    (tmp_path / "damaged.mat").write_bytes(b"MATLAB 5.0 MAT-file" + bytes(500))
    (tmp_path / "notes.txt").write_text("nothing")
    for name in ("damaged.mat", "notes.txt", "nowhere.xml"):
        with pytest.raises(EcgpipeError, match=re.escape(name)):
            read(tmp_path / name)


def test_it_is_drawn_on_paper_of_true_size(recording: Recording) -> None:
    figure = recording.plot()
    assert figure.get_figwidth() * 25.4 == pytest.approx(12 + 10 * 25 + 3)  # mm: margins, and 25 mm/s
    said = texts(recording)
    assert {*LEADS, "p1", "10 s", "25 mm/s, 10 mm/mV"} <= set(said)
    [axes] = figure.axes
    line = max(axes.lines, key=lambda line: len(np.asarray(line.get_xdata())))  # the rhythm strip
    drawn = np.asarray(line.get_ydata(), float)
    centred = heart()[1] - np.median(heart()[1])
    np.testing.assert_allclose(drawn - np.median(drawn), -10 * centred, atol=0.06)  # mm, downwards


def test_long_recordings_leads_that_are_missing_and_no_unit_are_told(recording: Recording) -> None:
    long = Recording(np.tile(heart(), 2)[:2], 500.0, ("V1", "aVR"))
    said = texts(long, layout="long", from_s=5)
    assert {"5 s", "15 s", "II *", "V1"} <= set(said)
    assert any("no unit in the file" in text for text in said)
    for options, says in (
        ({"from_s": 10}, "from_s: 10 is not within the 10 s"),
        ({"layout": "3x4"}, "layout: '3x4' is not"),
    ):
        with pytest.raises(EcgpipeError, match=re.escape(says)):
            recording.plot(**options)


def test_a_notebook_shows_the_drawing_and_loads_nothing(recording: Recording) -> None:
    shown = recording._repr_html_()
    match = re.search(r'width="(\d+)".* src="data:image/png;base64,([^"]+)"', shown)
    assert match
    picture = base64.b64decode(match[2])
    assert picture.startswith(b"\x89PNG")
    assert struct.unpack(">I", picture[16:20])[0] > int(match[1]) > 900  # sharper than its 265 mm need
    assert "http" not in shown
    hostile = Recording(heart(), 500.0, LEADS, name='<script>"x"</script>')._repr_html_()
    assert "<script>" not in hostile


def test_what_cannot_be_drawn_is_told_in_the_notebook_too() -> None:
    odd = Recording(heart()[:2], 500.0, ("MLII", "X"))
    with pytest.raises(EcgpipeError, match="cannot be drawn: none of its leads is known by name"):
        odd.plot()
    assert "none of its leads is known by name (MLII X)" in odd._repr_html_()
    with pytest.raises(EcgpipeError, match="it has no samples"):
        Recording(np.empty((12, 0)), 500.0, LEADS).plot()
    with pytest.raises(EcgpipeError, match=re.escape("signal: its shape is (5000, 12), with 12 leads; give (leads,")):
        Recording(heart().T, 500.0, LEADS)
    with pytest.raises(EcgpipeError, match=r"sample_rate: 0\.0 is out of range"):
        Recording(heart(), 0.0, LEADS)


def test_without_matplotlib_the_line_that_installs_it_is_named(
    recording: Recording, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = builtins.__import__

    def missing(
        name: str, globals_: Mapping[str, object] | None = None, locals_: Mapping[str, object] | None = None,
        fromlist: Sequence[str] | None = (), level: int = 0,
    ) -> object:  # fmt: skip
        if name == "matplotlib":
            raise ModuleNotFoundError("No module named 'matplotlib'", name="matplotlib")
        return whole(name, globals_, locals_, fromlist or (), level)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(EcgpipeError, match="which is not installed; install it with: pip install matplotlib"):
        recording.plot()
    assert "pip install matplotlib" in recording._repr_html_()
    assert "Recording p1: 12 leads" in recording._repr_html_()


def test_the_examples_of_its_docstrings_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    np.savez("ecg.npz", signal=heart(), sample_rate=500, leads=LEADS)
    known = {"signal": heart(), "LEADS": LEADS, "Recording": Recording}
    done = doctest.testmod(importlib.import_module("ecgpipe.api.recording"), extraglobs=known)
    assert (done.attempted, done.failed) == (4, 0)
