"""The half of docs/tutorial.md on recordings of one's own, then docs/ptbxl.md from its first line to its last.

Both over one small folder of PTB-XL's layout and into one folder of results, where the second page finds what the first
one has computed.
"""

from pathlib import Path

import docs_page
import pandas as pd
import ptbxl
import pytest
import torch
from run_workflow import ROOT

from ecgpipe.selftest import synthetic_checkpoint

pytestmark = pytest.mark.slow

# Where the pages have the checkpoint that is the default. Attribution has nothing to do with them, and takes a minute.
GIVEN = "checkpoint: model.pt\nattribution: {recordings: 0}\n"
TUTORIAL = (ROOT / "docs/tutorial.md").read_text(encoding="utf-8").partition("## 3. Your own recordings\n")[2]
TUTORIAL = TUTORIAL.replace("my_ecgs", "ptb-xl").replace("my_results", "results")
RHYTHMS = {"Atrial fibrillation": "AFIB", "Left bundle branch block": "CLBBB"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Recordings, a model, the table of true labels that the tutorial shows, and what its commands make of them."""
    folder = tmp_path_factory.mktemp("own")
    ptbxl.write(folder / "ptb-xl", 80)
    torch.save(synthetic_checkpoint.demo(3), folder / "model.pt")
    database = pd.read_csv(folder / "ptb-xl" / "ptbxl_database.csv")
    truth = pd.DataFrame({"record_id": database["filename_hr"], "patient_id": database["patient_id"]})
    for label, code in RHYTHMS.items():
        truth[label] = [int(f"'{code}'" in codes) for codes in database["scp_codes"]]
    truth.to_csv(folder / "truth.csv", index=False)
    [settings] = [block for block in docs_page.indented_blocks(TUTORIAL) if block.startswith("# my.yaml")]
    (folder / "my.yaml").write_text(f"{settings}\n{GIVEN}", encoding="utf-8")
    script = docs_page.commands(TUTORIAL)
    assert "\necgpipe predict ptb-xl" in script
    script = script.replace("ecgpipe predict ptb-xl", "ecgpipe predict --checkpoint model.pt ptb-xl")
    assert "80 recordings: 80 used (160 segments)" in docs_page.run_script(script, folder)
    return folder


def test_the_tutorial_evaluates_recordings_of_ones_own(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    exec(compile(docs_page.python(TUTORIAL), "docs/tutorial.md", "exec"), {})  # noqa: S102, our own page
    printed = capsys.readouterr().out.splitlines()
    truth = pd.read_csv("truth.csv")
    for label in RHYTHMS:
        [row] = [line.split() for line in printed if label in line]
        assert row[-2:] == [str(truth[label].sum()), "80"]
        value, low, high = map(float, row[-5:-2])
        assert low <= value <= high


def test_each_line_of_the_worked_example_runs(folder: Path) -> None:
    settings, *commands = docs_page.indented_blocks((ROOT / "docs/ptbxl.md").read_text(encoding="utf-8"))
    assert settings.startswith("# ptbxl.yaml")
    settings = settings.replace("/data/ptb-xl", "ptb-xl")
    (folder / "ptbxl.yaml").write_text(f"{settings}\n{GIVEN}", encoding="utf-8")
    script = "set -e\n" + "\n".join(commands).replace("hf://wanglab/ecg-fm/mimic_iv_ecg_finetuned.pt", "model.pt")
    script = script.replace("snakemake --cores 8", f"snakemake --snakefile {ROOT / 'Snakefile'} --cores 2")
    docs_page.run_script(script, folder)

    table = pd.read_csv(folder / "auroc.csv").set_index("label")
    database = pd.read_csv(folder / "ptb-xl" / "ptbxl_database.csv").query("strat_fold == 10")
    fibrillating = sum("'AFIB'" in codes for codes in database["scp_codes"])
    assert 0 < fibrillating < len(database)
    row = table.loc["Atrial fibrillation"]
    assert [row["n_positive"], row["n"]] == [fibrillating, len(database)]
    defined = table.dropna(subset=["value", "low", "high"])
    assert {"Atrial fibrillation", "Sinus rhythm"} <= set(defined.index)
    assert (defined.low <= defined.value).all()
    assert (defined.value <= defined.high).all()
    probed = pd.read_parquet(folder / "probe/metrics.parquet")
    fibrillation = probed[(probed.metric == "auroc") & (probed.label == "Atrial fibrillation")]
    auroc = dict(zip(fibrillation.model, fibrillation.value, strict=True))
    assert auroc["gain"] == pytest.approx(auroc["probe"] - auroc["baseline"])
    assert "report.html" in {path.name for path in (folder / "results").iterdir()}
