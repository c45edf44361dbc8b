"""What `pip install` of the wheel gives: the command, the workflow, the API, outside of any clone."""

import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import checkpoints
import pandas as pd
import pytest
from run_workflow import ROOT, write_recordings

pytestmark = pytest.mark.slow

LABELS = "name,aggregation\nFirst,max\nSecond,mean\nThird,mean\n"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from the source distribution as PyPI's users get it."""
    folder = tmp_path_factory.mktemp("dist")
    built = subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(ROOT)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert built.returncode == 0, built.stdout + built.stderr
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bin folder of an environment with the wheel.

    Its other packages are those of the environment of the tests, by their path alone: what that has installed as
    editable, ecgpipe among it, is not seen.
    """
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    own = subprocess.run(
        [str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
        capture_output=True, text=True, check=True,
    ).stdout.strip()  # fmt: skip
    subprocess.run([str(python), "-m", "pip", "install", "--quiet", "--no-deps", str(wheel)], check=True)
    Path(own, "others.pth").write_text(f"{sysconfig.get_path('purelib')}\n")
    return folder / "bin"


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """A folder with recordings, a checkpoint and labels, that is nowhere near the clone."""
    write_recordings(tmp_path / "ecgs", 3)
    (tmp_path / "labels.csv").write_text(LABELS)
    (tmp_path / "x.pt").write_bytes(checkpoints.saved(checkpoints.classifier(stride=4)))
    return tmp_path


def call(installed: Path, folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """A command of the environment, in `folder`, with a home folder of its own."""
    (folder / "home").mkdir(exist_ok=True)
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}
    environment |= {"PATH": f"{installed}{os.pathsep}/usr/bin:/bin", "HOME": str(folder / "home")}
    return subprocess.run(
        [str(installed / words[0]), *words[1:]], cwd=folder, env=environment, text=True, check=False,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=1800,
    )  # fmt: skip


def test_the_wheel_has_the_workflow_and_no_test(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    for name in ("Snakefile", "config/config.yaml", "profiles/slurm/config.yaml", "workflow/rules/infer.smk"):
        assert f"ecgpipe/share/{name}" in names
    assert {name.partition("/")[0].partition("-")[0] for name in names} == {
        "ecgpipe",
        "snakemake_logger_plugin_ecgpipe",
    }


def test_run_ends_with_the_report_in_forty_lines_and_again_does_nothing(installed: Path, work: Path) -> None:
    command = [
        "run",
        "ecgs",
        "--outdir",
        "out",
        "--checkpoint",
        "x.pt",
        "--set",
        "labels=labels.csv",
        "inference.device=cpu",
    ]
    ran = call(installed, work, "ecgpipe", *command)
    assert ran.returncode == 0, ran.stdout
    assert len(ran.stdout.splitlines()) <= 40
    assert ran.stdout.splitlines()[-1].endswith("out/report.html")
    again = call(installed, work, "ecgpipe", *command)
    assert (again.returncode, "Nothing to be done" in again.stdout) == (0, True), again.stdout

    assert call(installed, work, "ecgpipe", "show", "recording000", "--outdir", "out").returncode == 0
    code = "from ecgpipe import Run; print(Run('out').predictions.count_rows())"
    assert call(installed, work, "python", "-c", code).stdout == "3\n"


def test_predict_and_the_api_find_the_labels_that_ecgpipe_brings(installed: Path, work: Path) -> None:
    ran = call(
        installed, work, "ecgpipe", "predict", "ecgs", "--checkpoint", "x.pt", "--labels", "labels.csv",
        "--output", "p.csv",
    )  # fmt: skip
    assert ran.returncode == 0, ran.stdout
    assert list(pd.read_csv(work / "p.csv").columns[-3:]) == ["First", "Second", "Third"]
    code = "import ecgpipe.models.labels as labels; print(labels.located('config/labels/mimic_iv_ecg.csv').is_file())"
    assert call(installed, work, "python", "-c", code).stdout == "True\n"


def test_the_workflow_is_a_module_of_another_workflow(installed: Path, work: Path) -> None:
    (work / "Snakefile").write_text(
        """
from ecgpipe.core import installation

module ecgpipe:
    snakefile: str(installation.root() / "Snakefile")
    config: {"input": "ecgs", "checkpoint": "x.pt", "labels": "labels.csv", "inference": {"device": "cpu"}}

use rule * from ecgpipe as ecgpipe_*

rule mine:
    input: "results/predictions/part-00000.parquet"
    output: "mine.txt"
    shell: "echo done > {output}"
    default_target: True
"""
    )
    ran = call(installed, work, "snakemake", "--cores", "2", "mine.txt")
    assert ran.returncode == 0, ran.stdout
    assert (work / "mine.txt").read_text() == "done\n"
