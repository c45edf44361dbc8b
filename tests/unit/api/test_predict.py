"""ecgpipe predict: one line per recording, whatever the files, with the numbers of ECGFM."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import checkpoints
import numpy as np
import pandas as pd
import pytest
import scipy.io
import torch
import wfdb

from ecgpipe import ECGFM
from ecgpipe.api import predict
from ecgpipe.cli import main
from ecgpipe.readers import LEADS
from ecgpipe.selftest import synthetic_checkpoint


def noise(seconds: float, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((12, int(500 * seconds)))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint and files of several formats, two of them with one name."""
    folder = tmp_path_factory.mktemp("predict")
    torch.save(synthetic_checkpoint.demo(1), folder / "checkpoint.pt")
    for name in ("a", "b"):
        (folder / name).mkdir()
    np.savez(folder / "a/x.npz", signal=noise(10, 1), sample_rate=500, leads=LEADS)
    np.savez(folder / "b/x.npz", signal=noise(15, 2), sample_rate=500, leads=LEADS)
    scipy.io.savemat(folder / "y.mat", {"feats": noise(5, 3), "curr_sample_rate": np.array([[500]])})
    wfdb.wrsamp(
        "z", fs=500, units=["mV"] * 12, sig_name=list(LEADS), fmt=["16"] * 12, p_signal=noise(10, 4).T,
        write_dir=str(folder),
    )  # fmt: skip
    np.savez(folder / "short.npz", signal=noise(2, 5), sample_rate=500, leads=LEADS)
    (folder / "damaged.mat").write_bytes(b"MATLAB 5.0 MAT-file" + bytes(500))
    (folder / "notes.txt").write_text("nothing")
    return folder


@pytest.fixture
def folder(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, which is the current folder."""
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def command(*options: str) -> int:
    return main(["predict", "--checkpoint", "checkpoint.pt", "--threads", "1", "--device", "cpu", *options])


def expected(signal: np.ndarray) -> pd.Series:
    ecgfm = ECGFM.from_checkpoint("checkpoint.pt", device="cpu", threads=1)
    return ecgfm.predict(signal, 500, LEADS).iloc[0]


@pytest.mark.usefixtures("folder")
def test_each_recording_is_a_line_with_its_most_probable_labels(capfd: pytest.CaptureFixture[str]) -> None:
    assert command("a/x.npz", "--top", "2") == 0
    best = expected(noise(10, 1)).nlargest(2)
    (first, one), (second, two) = best.items()
    assert capfd.readouterr().out == f"x  {first} {one:.2f}, {second} {two:.2f}\n"


@pytest.mark.usefixtures("folder")
def test_every_number_is_that_of_the_recording_in_its_row(capfd: pytest.CaptureFixture[str]) -> None:
    given = ["b/x.npz", "a/x.npz", "y.mat", "short.npz"]
    assert command(*given, "--format", "csv", "--output", "out.csv") == 0
    assert capfd.readouterr().out == ""
    frame = pd.read_csv("out.csv").set_index("path")
    assert [str(Path(path).relative_to(Path.cwd())) for path in frame.index] == given
    frame.index = pd.Index(given)
    assert list(frame["record_id"]) == ["x", "x", "y", "short"]
    assert list(frame["n_segments"]) == [3, 2, 1, 0]
    for path, signal in {"b/x.npz": noise(15, 2), "a/x.npz": noise(10, 1), "y.mat": noise(5, 3)}.items():
        for label, value in expected(signal).items():
            assert frame.loc[path, str(label)] == pytest.approx(value, rel=1e-14)
    assert frame.loc["short.npz", "reason"] == "shorter than one segment of 5 s (2.000 s)"
    assert frame.loc["short.npz"].isna().sum() == 17


@pytest.mark.usefixtures("folder")
def test_what_cannot_be_used_is_said_with_its_reason_and_the_rest_goes_on(capfd: pytest.CaptureFixture[str]) -> None:
    given = ["nowhere.xml", "notes.txt", "short.npz", "damaged.mat", "z.hea"]
    assert command(*given) == 0
    said = capfd.readouterr()
    short, damaged, good = said.out.splitlines()
    assert short == "short    skipped: shorter than one segment of 5 s (2.000 s)"
    assert damaged.startswith("damaged  failed: ")
    assert good.startswith("z        ")
    assert "[predict] input: 'nowhere.xml' is not a file or folder, and no pattern that matches any" in said.err
    assert "[predict] notes.txt: no known format, .txt" in said.err


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("given", [["nowhere.xml"], ["notes.txt"], ["short.npz"], ["damaged.mat", "short.npz"]])
def test_if_nothing_can_be_used_the_status_is_2(given: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    assert command(*given) == 2
    error = capfd.readouterr().err.splitlines()[-1]
    assert error.startswith("[predict] error: input: ")
    assert "give others" in error


@pytest.mark.usefixtures("folder")
def test_folders_and_globs_are_taken_and_files_of_one_name_distinguished(capfd: pytest.CaptureFixture[str]) -> None:
    assert command("a", "b", "*.mat") == 0
    said = capfd.readouterr()
    names = [line.split("  ")[0].strip() for line in said.out.splitlines()]
    assert names == [str(Path("a/x.npz").absolute()), str(Path("b/x.npz").absolute()), "damaged", "y"]


@pytest.mark.usefixtures("folder")
def test_a_wfdb_record_is_one_recording_though_the_shell_gives_all_its_files(capfd: pytest.CaptureFixture[str]) -> None:
    assert command("z.dat", "z.hea", "z.hea") == 0
    said = capfd.readouterr()
    assert len(said.out.splitlines()) == 1
    assert "z.dat" not in said.err


@pytest.mark.usefixtures("folder")
def test_json_has_every_label_and_null_where_there_is_none(capfd: pytest.CaptureFixture[str]) -> None:
    assert command("short.npz", "a/x.npz", "--format", "json") == 0
    short, good = json.loads(capfd.readouterr().out)
    assert (short["status"], short["probabilities"], short["n_segments"]) == ("skipped", None, 0)
    assert (good["record_id"], good["status"], good["reason"], good["n_segments"]) == ("x", "ok", None, 2)
    assert good["probabilities"] == pytest.approx(expected(noise(10, 1)).to_dict(), rel=1e-14)


def test_a_tilde_is_the_home_folder_in_every_option(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HOME", str(folder))
    options = ["--checkpoint=~/checkpoint.pt", "--labels=index", "--device=cpu", "--threads=1"]
    assert main(["predict", *options, "--output=~/out.csv", "--log=~/log.txt", "~/y.mat"]) == 0
    assert {"out.csv", "log.txt"} <= {path.name for path in folder.iterdir()}
    assert not (folder / "~").exists()
    assert main(["inspect", "~/y.mat"]) == 0
    assert "1 recording\n" in capfd.readouterr().out


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system ties no process to CPUs")
def test_it_computes_with_the_cpus_that_it_may_use() -> None:
    code = "import argparse, os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}); "
    code += "from ecgpipe.api import predict; "
    code += "parser = argparse.ArgumentParser(); predict.add_arguments(parser); print(parser.parse_args(['x']).threads)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "1\n"


@pytest.mark.usefixtures("folder")
def test_it_takes_the_options_of_preprocessing(capfd: pytest.CaptureFixture[str]) -> None:
    assert command("short.npz", "--short", "pad", "--format", "json") == 0
    assert json.loads(capfd.readouterr().out)[0]["n_segments"] == 1
    np.save("bare.npy", noise(10))
    assert command("bare.npy", "--assume-sample-rate", "500", "--assume-leads", *LEADS, "--format", "json") == 0
    assert json.loads(capfd.readouterr().out)[0]["n_segments"] == 2


@pytest.mark.usefixtures("folder")
def test_more_recordings_than_are_prepared_at_a_time_keep_their_rows(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    given = ["short.npz", "a/x.npz", "y.mat", "z.hea", "b/x.npz"]
    assert command(*given, "--format", "csv") == 0
    at_once = capfd.readouterr().out
    monkeypatch.setattr(predict, "AT_A_TIME", 2)
    assert command(*given, "--format", "csv") == 0
    assert capfd.readouterr().out == at_once


def test_a_checkpoint_that_gives_no_labels_is_refused(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (folder / "pretrained.pt").write_bytes(checkpoints.saved(checkpoints.pretrained()))
    assert main(["predict", "a/x.npz", "--checkpoint", "pretrained.pt"]) == 2
    assert (
        "pretrained.pt has no head and so no labels, as pretrained models have none; give a" in capfd.readouterr().err
    )
    assert main(["predict", "a/x.npz", "--checkpoint", "none.pt"]) == 2
    assert "there is no file none.pt" in capfd.readouterr().err


def test_names_do_not_steer_the_terminal(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    shutil.copy(folder / "a/x.npz", folder / "\x1b[2Jx.npz")
    assert command("\x1b[2Jx.npz") == 0
    said = capfd.readouterr()
    assert "\x1b" not in said.out + said.err
