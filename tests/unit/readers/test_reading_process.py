"""The process that reads HDF5 files: it is replaced when it breaks down, and waiting is not the file's fault."""

import os
import signal as signals
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
from never_ending import compute, wait

from ecgpipe import readers
from ecgpipe.readers import LEADS, Assumed, Recording, UnavailableError, UnreadableError, reading_process
from ecgpipe.readers.temporary_errors import patiently

ASSUMED = Assumed(500.0, LEADS)
SIGNALS = np.random.default_rng(0).standard_normal((4, 300, 12))  # (recordings, samples, leads)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file of four recordings."""
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["x"] = SIGNALS
    return tmp_path / "x.h5"


def read(path: Path, row: int) -> Recording:
    return readers.read(path, "hdf5", ASSUMED, row)


def test_a_reading_process_that_died_is_replaced(path: Path) -> None:
    read(path, 0)
    os.kill(reading_process._helpers[os.getpid()].process.pid, signals.SIGKILL)
    np.testing.assert_array_equal(read(path, 1).signal, SIGNALS[1].T)


def test_a_reading_process_that_does_not_answer_is_replaced(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read(path, 0)
    monkeypatch.setattr(reading_process, "MOST_S", 0.1)
    stopped = reading_process._helpers[os.getpid()].process
    os.kill(stopped.pid, signals.SIGSTOP)
    monkeypatch.setattr(time, "sleep", lambda _: monkeypatch.undo())  # before the second try
    np.testing.assert_array_equal(read(path, 0).signal, SIGNALS[0].T)
    assert reading_process._helpers[os.getpid()].process is not stopped


def test_an_hdf5_file_that_is_waited_for_is_not_one_that_is_computed_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading_process, "MOST_S", 0.3)
    with pytest.raises(UnavailableError, match=r"\(a.h5: no answer within 0.3 s\)"):
        patiently(lambda: reading_process.ask(wait), "a.h5")
    monkeypatch.setattr(reading_process, "MOST_S", 60)
    monkeypatch.setattr(reading_process, "MOST_CPU_S", 0.3)
    with pytest.raises(UnreadableError, match=r"as damaged ones do \(over 0.3 s of computing\)"):
        patiently(lambda: reading_process.ask(compute), "a.h5")


def test_an_hdf5_process_that_does_not_start_is_no_fault_of_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reading_process.stop()
    monkeypatch.setattr(reading_process, "START_S", 0.0)
    (tmp_path / "x.h5").touch()
    with pytest.raises(UnavailableError, match="the process that reads HDF5 files does not start"):
        readers.read(tmp_path / "x.h5", "hdf5", Assumed())
