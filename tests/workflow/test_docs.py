"""The commands of the documentation, as a person would type them."""

import re
from pathlib import Path

import checkpoints
import docs_page
import pytest
from run_workflow import ROOT, write_recordings


@pytest.mark.slow
def test_the_stages_can_be_run_by_hand_as_docs_usage_says(tmp_path: Path) -> None:
    section = (ROOT / "docs/usage.md").read_text().partition("## Stages by hand")[2]
    lines = [line.removeprefix("    ") for line in section.splitlines() if line.startswith("    ")]
    commands = "\n".join(lines).replace("cd /tmp/hand", "set -e").replace("/data/ecgs", "ecgs")
    used = re.findall(r"^ecgpipe (\w+)", commands, re.MULTILINE)
    assert used == [
        *("checkpoint", "manifest", "preprocess", "infer", "aggregate", "umap", "summary", "examples", "attribute"),
        *("figures", "report"),
    ]
    write_recordings(tmp_path / "ecgs", 6)
    (tmp_path / "labels.csv").write_text("name,aggregation\nFirst,max\nSecond,mean\nThird,mean\n")
    (tmp_path / "model.pt").write_bytes(checkpoints.saved(checkpoints.classifier(stride=4)))
    docs_page.run_script(commands, tmp_path)
    assert (tmp_path / "report.html").stat().st_size > 1e6
    assert len(list((tmp_path / "figures").iterdir())) == 12
