"""docs/tutorial.md from its first line to its last: the demo and its report, then a folder of one's own, evaluated."""

import json
import shutil
from pathlib import Path

import docs_page
import numpy as np
import pandas as pd
import pytest
import yaml
from report_page import Page
from run_workflow import ROOT, table

from ecgpipe.selftest.simulator import LABELS

pytest.importorskip("pydicom", reason="the demo's extra is not installed")
pytestmark = pytest.mark.slow  # a minute

RECORDINGS = 110


DEMO, OWN = (ROOT / "docs/tutorial.md").read_text(encoding="utf-8").split("## 3. Your own recordings\n")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the demo lies and ran, smaller than that of the tutorial and of `make demo`."""
    folder = tmp_path_factory.mktemp("demo")
    (folder / "config").symlink_to(ROOT / "config")  # the tutorial runs in the clone
    script = docs_page.commands(DEMO)
    assert "\necgpipe demo --outdir demo\n" in script
    written = f"ecgpipe demo --outdir demo --recordings {RECORDINGS}\n"
    printed = docs_page.run_script(script.replace("ecgpipe demo --outdir demo\n", written), folder)
    assert "Demo model, trained on simulated hearts. Not ECG-FM." in printed
    return folder / "demo"


@pytest.fixture
def in_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder of the tutorial, as the current one."""
    monkeypatch.chdir(folder.parent)
    return folder.parent


def test_every_recording_has_its_status(folder: Path) -> None:
    run = json.loads((folder / "results" / "run.json").read_text())
    assert run["counts"]["recordings"] == RECORDINGS + 6
    assert (run["counts"]["ok"], run["counts"]["skipped"], run["counts"]["failed"]) == (RECORDINGS + 1, 3, 2)
    assert run["checkpoint"]["demo_model"]
    assert run["counts"]["duplicates"] >= 2


def test_flaws_are_found(folder: Path) -> None:
    records = table(folder / "results" / "records").set_index("record_id")
    asked = yaml.safe_load((ROOT / "config" / "demo.yaml").read_text())
    assert asked["evaluation"]["patient"] in records.columns
    assert records["lead_suspicion"].notna().sum() >= 2
    assert records["clipped_leads"].map(lambda leads: leads is not None and len(leads) > 0).sum() >= 2


def test_the_model_is_right_on_the_test_patients(folder: Path) -> None:
    metrics = pd.read_parquet(folder / "results" / "evaluation" / "metrics.parquet")
    whole = metrics[(metrics["subgroup"].fillna("") == "") & (metrics["metric"] == "auroc")]
    macro = whole[whole["average"] == "macro"].iloc[0]
    assert macro["value"] > 0.9
    assert macro["low"] < macro["value"] < macro["high"]


def test_segments_of_one_rhythm_lie_together_on_the_map(folder: Path) -> None:
    places = pd.read_parquet(folder / "results" / "umap" / "umap.parquet")
    truth = pd.read_csv(folder / "recordings.csv").set_index("record_id")["finding"]
    places["finding"] = truth.reindex(places["record_id"]).to_numpy()
    places = places[places["finding"].notna()].reset_index(drop=True)
    xy, owner = places[["x", "y"]].to_numpy(), places["record_id"].to_numpy()
    distance = np.linalg.norm(xy[:, None] - xy[None], axis=2)
    distance[owner[:, None] == owner[None]] = np.inf  # another recording's
    nearest = places["finding"].to_numpy()[distance.argmin(axis=1)]
    assert (nearest == places["finding"]).mean() > 0.45


def test_the_report_shows_it(folder: Path) -> None:
    page = Page(folder / "results" / "report.html")
    assert "Demo model, trained on simulated hearts. Not ECG-FM." in page.text
    assert "RANDOM WEIGHTS" not in page.text
    assert all(label in page.text for label in LABELS)
    attributed = pd.read_parquet(folder / "results" / "attribution" / "attribution.parquet")
    assert set(attributed["label"]) == set(LABELS)


# What the tutorial does besides


def test_the_tutorial_reads_the_demos_results(in_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert (in_folder / "p001_001.png").stat().st_size > 10_000
    exec(compile(docs_page.python(DEMO), "docs/tutorial.md", "exec"), {})  # noqa: S102, our own page
    printed = capsys.readouterr().out
    assert "Atrial fibrillation" in printed
    assert "leads missing" in printed


def test_the_tutorial_runs_and_evaluates_a_folder_of_ones_own(
    in_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The folder has the demo's WFDB files; its model is also the checkpoint, where a user's is ECG-FM."""
    shutil.copytree("demo/recordings/northgate", "my_ecgs/northgate")
    owners = pd.read_csv("demo/recordings.csv").set_index("record_id")["patient_id"]
    truth = pd.read_csv("demo/truth.csv").query("record_id.str.startswith('northgate/')")
    truth.assign(patient_id=truth["record_id"].map(owners)).to_csv("truth.csv", index=False)
    [settings] = [block for block in docs_page.indented_blocks(OWN) if block.startswith("# my.yaml")]
    # Attribution has nothing to do with the page, and takes a while.
    given = "checkpoint: demo/checkpoint.pt\nlabels: demo/labels.csv\nattribution: {recordings: 0}\n"
    Path("my.yaml").write_text(f"{settings}\n{given}", encoding="utf-8")
    script = docs_page.commands(OWN)
    assert "\necgpipe predict my_ecgs" in script
    model = "ecgpipe predict --checkpoint demo/checkpoint.pt --labels demo/labels.csv my_ecgs"
    printed = docs_page.run_script(script.replace("ecgpipe predict my_ecgs", model), in_folder)
    assert f"{len(truth)} recordings: {len(truth)} used" in printed

    exec(compile(docs_page.python(OWN), "docs/tutorial.md", "exec"), {})  # noqa: S102, our own page
    printed = capsys.readouterr().out
    [row] = [line.split() for line in printed.splitlines() if "Right bundle branch block" in line]
    assert row[-2:] == [str(truth["Right bundle branch block"].sum()), str(len(truth))]
    assert float(row[-4]) <= float(row[-5]) <= float(row[-3])
    assert "Against true labels" in Page(in_folder / "my_results" / "report.html").text
