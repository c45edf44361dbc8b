"""A run with `report.paths: false` whose every name is a planted word, and what its pages show of them."""

import contextlib
import csv
import json
from pathlib import Path

import checkpoints
import pytest
from planted import leaked
from run_workflow import Ran, snakemake, write_recordings

from ecgpipe.cli import main

pytestmark = pytest.mark.slow  # two minutes

N = 30
IDS = [f"PLANTEDperson{i}/PLANTEDrecord{i}" for i in range(N)]
TRAIN, VALID, TEST = "PLANTEDtrain", "PLANTEDvalid", "PLANTEDtest"

# Of the inputs, by what it is; the settings' paths come with the run.
OF_INPUTS = {
    *("PLANTEDfolder", "PLANTEDfile", "PLANTEDbroken", "PLANTEDsuffix", "PLANTEDother", "PLANTEDcolumn"),
    *(
        "PLANTEDvalue",
        "PLANTEDsplit",
        "PLANTEDgroup",
        "PLANTEDpatient",
        "PLANTEDheader",
        "PLANTEDtable",
        "PLANTEDtruecolumn",
    ),
    *(part for name in IDS for part in name.split("/")),
    *(TRAIN, VALID, TEST),
}
OF_SETTINGS = {"PLANTEDout", "PLANTEDweights", "PLANTEDlabels", "PLANTEDtruth", "PLANTEDprobe", "PLANTEDcalibration"}


def run(folder: Path, *options: str, label: str, **settings: object) -> Ran:
    evaluation = f"{{truth: PLANTEDtruth.csv, mapping: {{PLANTEDtruecolumn: {label}}}, patient: PLANTEDpatient"
    evaluation += f", resamples: 5, split: PLANTEDsplit, split_value: {TEST}, subgroups: [PLANTEDgroup]}}"
    given: dict[str, object] = {
        "input": "[PLANTEDtable.csv,PLANTEDfolder]",
        "outdir": "PLANTEDout",
        "checkpoint": "PLANTEDweights.pt",
        "labels": "PLANTEDlabels.csv",
        "report": "{paths: false, title: PLANTEDtitle}",
        "evaluation": evaluation,
        "inference": "{device: cpu}",
        "attribution": "{recordings: 1, steps: 4}",
        "max_failed_fraction": 1,
    }
    ran = snakemake(folder, *options, **(given | settings))
    assert ran.status == 0, ran.output
    return ran


def run_with_head(folder: Path, *options: str) -> Ran:
    return run(
        folder, *options, label="Of a head",
        input="[PLANTEDtable.csv,PLANTEDfolder/PLANTEDbroken.hea]",
        heads="[PLANTEDprobe/head.safetensors]", calibration="PLANTEDcalibration.json",
    )  # fmt: skip


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run, and again with a head that was trained on it and a calibration."""
    folder = tmp_path_factory.mktemp("PLANTEDhome")
    inputs = folder / "PLANTEDfolder"
    write_recordings(inputs, N)
    for i in range(N):
        (inputs / f"recording{i:03d}.mat").rename(inputs / f"PLANTEDfile{i}.mat")
    (inputs / "PLANTEDbroken.hea").write_text("PLANTEDheader is no header\n")
    (inputs / "PLANTEDother.PLANTEDsuffix").write_bytes(b"\0\1")
    with (folder / "PLANTEDtable.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "record_id", "PLANTEDcolumn"])
        writer.writerows([f"PLANTEDfolder/PLANTEDfile{i}.mat", name, "PLANTEDvalue"] for i, name in enumerate(IDS))
        writer.writerow(["PLANTEDfolder/PLANTEDother.PLANTEDsuffix", "PLANTEDperson0/PLANTEDrecord", "PLANTEDvalue"])
    with (folder / "PLANTEDtruth.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        columns = ["PLANTEDtruecolumn", "PLANTEDsplit", "PLANTEDgroup", "PLANTEDpatient"]
        writer.writerow(["record_id", *columns])
        splits = [TRAIN, TRAIN, VALID, VALID, TEST, TEST]
        for i, name in enumerate(IDS):
            writer.writerow([name, i % 2, splits[i % 6], f"PLANTEDgroup{i % 3}", f"PLANTEDpatient{i}"])
    (folder / "PLANTEDlabels.csv").write_text(
        "name,aggregation,threshold,pos_weight\nFirst,max,0.5,2\nSecond,mean,,3\nThird,mean,,\n"
    )
    (folder / "PLANTEDweights.pt").write_bytes(checkpoints.saved(checkpoints.classifier(stride=4)))
    run(folder, label="Second", input="PLANTEDtable.csv")
    out = str(folder / "PLANTEDout")
    given = [out, "--truth", str(folder / "PLANTEDtruth.csv"), "--split", "PLANTEDsplit"]
    given += ["--train", TRAIN, "--valid", VALID, "--test", TEST, "--map", "PLANTEDtruecolumn=Of a head"]
    given += ["--patient", "PLANTEDpatient"]
    assert main(["probe", *given, "--resamples", "5", "--output", str(folder / "PLANTEDprobe")]) == 0
    calibration = str(folder / "PLANTEDcalibration.json")
    with contextlib.chdir(folder):  # the settings name files as seen from here
        assert main(["calibrate", out, "--method", "pos-weight", "--output", calibration]) == 0
    run_with_head(folder)
    return folder


def test_the_run_has_the_names_that_are_looked_for(finished: Path) -> None:
    said = (finished / "PLANTEDout/run.json").read_bytes()
    assert leaked(said, OF_SETTINGS) == OF_SETTINGS
    reasons = {(reason["status"], reason["reason"]) for reason in json.loads(said)["reasons"]}
    assert ("failed", "not a WFDB header") in reasons


def test_pages_and_figures_show_none_of_them(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(finished)
    out, words = finished / "PLANTEDout", OF_INPUTS | OF_SETTINGS | {"PLANTEDhome"}
    assert leaked((out / "report.html").read_bytes(), words) == set()
    assert leaked((out / "report.html").read_bytes(), {"PLANTEDtitle"})
    assert {path.name for path in (out / "figures").iterdir() if leaked(path.read_bytes(), words)} == set()
    for suffix in ("html", "png", "pdf", "svg"):
        page = tmp_path / f"x.{suffix}"
        assert main(["show", str(out), "--output", str(page), IDS[3]]) == 0
        assert leaked(page.read_bytes(), words) == set()
    assert main(["compare", str(out), str(out), "--output", str(tmp_path / "compared")]) == 0
    assert leaked((tmp_path / "compared/compare.html").read_bytes(), words) == set()


def test_the_report_says_that_heads_and_calibration_were_fitted_elsewhere(finished: Path) -> None:
    text = (finished / "PLANTEDout/report.html").read_text(encoding="utf-8")
    assert "Thresholds, calibration or heads were fitted, on none of the recordings evaluated here." in text
    assert "Probabilities are corrected for the weight of positives in the training" in text


def test_what_is_carried_elsewhere_names_no_local_path(finished: Path) -> None:
    files = [*(finished / "PLANTEDprobe").iterdir(), finished / "PLANTEDcalibration.json"]
    files += [finished / "PLANTEDout/checkpoint/model.json", finished / "PLANTEDout/checkpoint/model.safetensors"]
    for path in files:
        assert leaked(path.read_bytes(), {"PLANTEDhome", "PLANTEDout", "PLANTEDprobe", "PLANTEDtruth"}) == set()


def test_snakemakes_own_report_names_paths_and_says_so_but_no_recordings(finished: Path) -> None:
    run_with_head(finished, "--report", "snakemake.html")
    content = (finished / "snakemake.html").read_bytes()
    assert leaked(content, {"PLANTEDout"}) == {"PLANTEDout"}
    of_settings = {"PLANTEDfolder", "PLANTEDbroken", "PLANTEDtable", "PLANTEDtruth"}  # paths in the settings
    assert leaked(content, OF_INPUTS - of_settings) == set()
    assert b"names the paths of the settings" in content
