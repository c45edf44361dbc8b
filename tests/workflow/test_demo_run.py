"""The demo, as docs/tutorial.md has it, and a report that shows what ecgpipe can do.

The other half of that page is run by test_worked_example.py.
"""

import json
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


PAGE = (ROOT / "docs/tutorial.md").read_text(encoding="utf-8").partition("## 3. Your own recordings\n")[0]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the demo lies and ran, smaller than that of the tutorial and of `make demo`."""
    folder = tmp_path_factory.mktemp("demo")
    (folder / "config").symlink_to(ROOT / "config")  # the tutorial runs in the clone
    script = docs_page.commands(PAGE)
    assert "\necgpipe demo --outdir demo\n" in script
    written = f"ecgpipe demo --outdir demo --recordings {RECORDINGS}\n"
    printed = docs_page.run_script(script.replace("ecgpipe demo --outdir demo\n", written), folder)
    assert "Demo model, trained on simulated hearts. Not ECG-FM." in printed
    return folder / "demo"


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


def test_the_tutorial_reads_the_results(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder.parent)
    assert Path("p001_001.png").stat().st_size > 10_000
    exec(compile(docs_page.python(PAGE), "docs/tutorial.md", "exec"), {})  # noqa: S102, our own page
    printed = capsys.readouterr().out
    assert "Atrial fibrillation" in printed
    assert "leads missing" in printed
