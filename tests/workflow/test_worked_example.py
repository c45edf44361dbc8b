"""docs/ptbxl.md from its first line to its last, on a small folder of PTB-XL's layout."""

from pathlib import Path

import pandas as pd
import ptbxl
import pytest
import torch
from docs_page import indented_blocks, run_script
from run_workflow import ROOT

from ecgpipe.selftest import synthetic_checkpoint


@pytest.mark.slow
def test_each_line_of_the_worked_example_runs(tmp_path: Path) -> None:
    settings, *commands = indented_blocks((ROOT / "docs/ptbxl.md").read_text(encoding="utf-8"))
    assert settings.startswith("# ptbxl.yaml")
    ptbxl.write(tmp_path / "ptb-xl", 80)
    torch.save(synthetic_checkpoint.demo(3), tmp_path / "model.pt")
    # Where the page has the real ones: the folder, and the checkpoint, which is the default there.
    settings = settings.replace("/data/ptb-xl", "ptb-xl") + "\ncheckpoint: model.pt\n"
    settings += "attribution: {recordings: 0}\n"  # has nothing to do with the page, and takes a minute
    (tmp_path / "ptbxl.yaml").write_text(settings, encoding="utf-8")
    script = "set -e\n" + "\n".join(commands).replace("hf://wanglab/ecg-fm/mimic_iv_ecg_finetuned.pt", "model.pt")
    script = script.replace("snakemake --cores 8", f"snakemake --snakefile {ROOT / 'Snakefile'} --cores 2")
    run_script(script, tmp_path)

    table = pd.read_csv(tmp_path / "auroc.csv").set_index("label")
    database = pd.read_csv(tmp_path / "ptb-xl" / "ptbxl_database.csv").query("strat_fold == 10")
    fibrillating = sum("'AFIB'" in codes for codes in database["scp_codes"])
    assert 0 < fibrillating < len(database)
    row = table.loc["Atrial fibrillation"]
    assert [row["n_positive"], row["n"]] == [fibrillating, len(database)]
    defined = table.dropna(subset=["value", "low", "high"])
    assert {"Atrial fibrillation", "Sinus rhythm"} <= set(defined.index)
    assert (defined.low <= defined.value).all()
    assert (defined.value <= defined.high).all()
    probed = pd.read_parquet(tmp_path / "probe/metrics.parquet")
    fibrillation = probed[(probed.metric == "auroc") & (probed.label == "Atrial fibrillation")]
    auroc = dict(zip(fibrillation.model, fibrillation.value, strict=True))
    assert auroc["gain"] == pytest.approx(auroc["probe"] - auroc["baseline"])
    assert "report.html" in {path.name for path in (tmp_path / "results").iterdir()}
