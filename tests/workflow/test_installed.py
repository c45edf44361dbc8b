"""What `pip install` of the wheel gives: the command, the workflow, the API, outside of any clone, as another user."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import venv
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import checkpoints
import pandas as pd
import pytest
from run_workflow import ROOT, snakemake_of, write_recordings

import ecgpipe

pytestmark = pytest.mark.slow

LABELS = "name,aggregation\nFirst,max\nSecond,mean\nThird,mean\n"

# The user `nobody`, who may read everything (the Python that runs the tests may lie in root's home) and write to
# nothing but what is theirs.
NOBODY = 65534
AS_NOBODY = (
    *("setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"),
    *("--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"),
)


class Distributions(NamedTuple):
    """What is uploaded for a release."""

    sdist: Path
    wheel: Path


class Installation(NamedTuple):
    """An environment with the wheel."""

    folder: Path
    user: tuple[str, ...]  # the words before a command that make another user run it; none where that cannot be
    files: dict[str, tuple[int, int]]  # when each was changed, and its bytes

    def call(self, work: Path, *words: str) -> subprocess.CompletedProcess[str]:
        """Run a command of the environment in a folder, with nothing of this process's environment."""
        variables = {"PATH": f"{self.folder / 'bin'}:/usr/bin:/bin", "HOME": str(work / "home"), "LANG": "C.UTF-8"}
        command = [*self.user, str(self.folder / "bin" / words[0]), *words[1:]]
        return subprocess.run(
            command, cwd=work, env=variables, text=True, check=False,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=1800,
        )  # fmt: skip

    def python(self, work: Path, code: str) -> str:
        """What a line of Python prints there."""
        ran = self.call(work, "python", "-c", code)
        assert ran.returncode == 0, ran.stdout
        return ran.stdout.strip()


class Finished(NamedTuple):
    """A run that has ended."""

    work: Path  # the folder that it was started in; its results are in `out`
    command: tuple[str, ...]
    output: str


@pytest.fixture(scope="module")
def distributions(tmp_path_factory: pytest.TempPathFactory) -> Distributions:
    """The source distribution, and the wheel that is built from it, as PyPI's users get them."""
    folder = tmp_path_factory.mktemp("dist")
    build(ROOT, folder)
    return Distributions(next(folder.glob("*.tar.gz")), next(folder.glob("*.whl")))


def build(source: Path, folder: Path, *options: str) -> None:
    """Run `python -m build` without a network."""
    command = [sys.executable, "-m", "build", "--no-isolation", *options, "--outdir", str(folder), str(source)]
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stdout + built.stderr


@pytest.fixture(scope="module")
def outside() -> Iterator[Path]:
    """A folder that every user may enter; those of pytest are their owner's alone."""
    with tempfile.TemporaryDirectory(prefix="ecgpipe-installed-", ignore_cleanup_errors=True) as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


@pytest.fixture(scope="module")
def installed(distributions: Distributions, outside: Path) -> Installation:
    """An environment with the wheel, that the user who runs it cannot write to.

    Its other packages are those of the environment of the tests, by their path alone: what that has installed as
    editable, ecgpipe among it, is not seen.
    """
    folder = outside / "environment"
    venv.create(folder)  # with a copy of Python: a shell passes over a link into a folder that it may not enter
    own = next(folder.glob("lib/python*/site-packages"))
    pip = [sys.executable, "-m", "pip", "--python", str(folder / "bin" / "python")]
    options = ["--quiet", "--disable-pip-version-check", "--no-deps", "--no-index"]
    subprocess.run([*pip, "install", *options, str(distributions.wheel)], check=True)
    (own / "others.pth").write_text(f"{sysconfig.get_path('purelib')}\n")
    for path in folder.rglob("*"):
        if not path.is_symlink():
            path.chmod(path.stat().st_mode & ~0o222)
    trial = shutil.which("setpriv") and os.geteuid() == 0
    can_change = trial and subprocess.run([*AS_NOBODY, sys.executable, "-c", ""], check=False).returncode == 0
    return Installation(folder, AS_NOBODY if can_change else (), files_of(folder))


def files_of(folder: Path) -> dict[str, tuple[int, int]]:
    """When each file was changed, and its bytes."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): (path.stat().st_mtime_ns, path.stat().st_size) for path in files}


@pytest.fixture(scope="module")
def finished(installed: Installation, outside: Path) -> Finished:
    """The one run of this file, over two recordings with a small checkpoint, nowhere near the clone."""
    work = outside / "work"
    write_recordings(work / "home" / "ecgs", 2)
    (work / "labels.csv").write_text(LABELS)
    (work / "x.pt").write_bytes(checkpoints.saved(checkpoints.classifier(stride=4)))
    if installed.user:
        for path in [work, *work.rglob("*")]:
            os.chown(path, NOBODY, NOBODY)
    settings = ["labels=labels.csv", "inference.device=cpu", "attribution={recordings: 1, steps: 4}"]
    command = ["ecgpipe", "run", "~/ecgs", "--outdir", "out", "--checkpoint", "x.pt", "--set", *settings]
    ran = installed.call(work, *command)
    assert ran.returncode == 0, ran.stdout
    return Finished(work, tuple(command), ran.stdout)


def results_of(run: Finished) -> dict[str, tuple[int, int]]:
    """The files of a run that show, by when they were changed, that something was computed.

    Every run scans its inputs anew, and writes what it found to `manifest/`.
    """
    kinds = (".html", ".arrow", ".parquet", ".png", ".safetensors", ".svg")
    files = files_of(run.work / "out").items()
    return {name: facts for name, facts in files if name.endswith(kinds) and not name.startswith("manifest/")}


# The distributions


def test_the_wheel_has_the_packages_and_the_workflow_and_nothing_else(distributions: Distributions) -> None:
    names = zipfile.ZipFile(distributions.wheel).namelist()
    tops = {name.partition("/")[0] for name in names}
    metadata = f"ecgpipe-{ecgpipe.__version__}.dist-info"
    assert tops == {"ecgpipe", "snakemake_logger_plugin_ecgpipe", metadata}
    folders = [ROOT / name for name in ("config", "profiles", "workflow")]
    files = [ROOT / "Snakefile", *(path for folder in folders for path in folder.rglob("*") if path.is_file())]
    workflow = {path.relative_to(ROOT).as_posix() for path in files if "__pycache__" not in path.parts}
    share = "ecgpipe/share/"
    assert {name.removeprefix(share) for name in names if name.startswith(share)} == workflow


def test_the_source_distribution_builds_the_same_wheel_as_the_clone(
    distributions: Distributions, tmp_path: Path
) -> None:
    build(ROOT, tmp_path, "--wheel")  # the other one was built from the source distribution
    assert (tmp_path / distributions.wheel.name).read_bytes() == distributions.wheel.read_bytes()
    with tarfile.open(distributions.sdist) as archive:
        assert not [name for name in archive.getnames() if "/tests/" in name]


def test_an_editable_installation_has_no_copy_of_the_workflow(tmp_path: Path) -> None:
    code = f"from hatchling.build import build_editable; build_editable({str(tmp_path)!r})"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True)
    names = zipfile.ZipFile(next(tmp_path.glob("*.whl"))).namelist()
    assert [name for name in names if ".dist-info/" not in name] == ["_ecgpipe.pth"]


# The installation


def test_the_clone_is_out_of_reach(installed: Installation, finished: Finished) -> None:
    code = """
import json, sys
import ecgpipe, snakemake_logger_plugin_ecgpipe
from ecgpipe.core import installation
print(json.dumps([ecgpipe.__file__, snakemake_logger_plugin_ecgpipe.__file__, str(installation.root()), sys.path]))
"""
    *places, path = json.loads(installed.python(finished.work, code))
    assert all(Path(place).is_relative_to(installed.folder) for place in places)
    assert str(ROOT) not in path
    assert not finished.work.is_relative_to(ROOT)


def test_a_run_ends_with_the_report_which_belongs_to_the_user(installed: Installation, finished: Finished) -> None:
    if not installed.user:
        pytest.skip("runs as the same user: another one takes root and setpriv")
    report = finished.work / "out" / "report.html"
    assert report.stat().st_uid == NOBODY
    assert str(ROOT) not in report.read_text()
    assert not finished.work.joinpath("home", ".snakemake").exists()


def test_a_run_prints_at_most_forty_lines_and_last_where_the_report_is(finished: Finished) -> None:
    lines = finished.output.splitlines()
    assert len(lines) <= 40, finished.output
    assert lines[-1].endswith("out/report.html")


def test_the_same_command_again_computes_nothing(installed: Installation, finished: Finished) -> None:
    results = results_of(finished)
    again = installed.call(finished.work, *finished.command)
    assert again.returncode == 0, again.stdout
    assert results_of(finished) == results


def test_show_and_the_api_read_the_run(installed: Installation, finished: Finished) -> None:
    shown = installed.call(finished.work, "ecgpipe", "show", "recording000", "--outdir", "out", "--output", "r.html")
    assert shown.returncode == 0, shown.stdout
    assert (finished.work / "r.html").stat().st_size > 10_000
    code = "from ecgpipe import Run; print(Run('out').predictions.count_rows())"
    assert installed.python(finished.work, code) == "2"


def test_predict_and_the_api_give_the_numbers_of_the_run(installed: Installation, finished: Finished) -> None:
    ran = installed.call(
        finished.work, "ecgpipe", "predict", "home/ecgs", "--checkpoint", "x.pt", "--labels", "labels.csv",
        "--format", "csv", "--output", "p.csv",
    )  # fmt: skip
    assert ran.returncode == 0, ran.stdout
    of_run = pd.read_parquet(finished.work / "out" / "predictions")
    assert pd.read_csv(finished.work / "p.csv")[["First", "Third"]].to_numpy() == pytest.approx(
        of_run[["First", "Third"]].to_numpy(), abs=1e-6
    )
    code = (
        "import numpy as np; from ecgpipe import ECGFM; from ecgpipe.readers import LEADS; "
        "model = ECGFM.from_checkpoint('x.pt', labels='labels.csv'); "
        "print(*model.predict(np.random.default_rng(0).standard_normal((12, 5000)), 500, LEADS).columns)"
    )
    assert installed.python(finished.work, code).splitlines()[-1] == "First Second Third"


def test_the_labels_that_ecgpipe_brings_are_found(installed: Installation, finished: Finished) -> None:
    code = "from ecgpipe.models import labels; print(labels.locate('config/labels/mimic_iv_ecg.csv').is_file())"
    assert installed.python(finished.work, code) == "True"


# In somebody's own workflow

OWN = """
SETTINGS = {{
    "input": {ecgs!r},
    "outdir": "out",
    "checkpoint": "x.pt",
    "labels": "labels.csv",
    "inference": {{"device": "cpu"}},
    "attribution": {{"recordings": 1, "steps": 4}},
}}

module ecgpipe:
    snakefile: {snakefile!r}
    config: SETTINGS

use rule * from ecgpipe as ecgpipe_*

rule mine:
    input: "out/predictions/part-00000.parquet"
    output: "{name}.txt"
    default_target: True
    shell: "python3 -c 'import ecgpipe; print(ecgpipe.__file__)' > {{output}}"
"""


def test_the_workflow_is_a_module_of_another_workflow(installed: Installation, finished: Finished) -> None:
    # The line that docs/usage.md gives.
    code = "from ecgpipe.core import installation; print(installation.root() / 'Snakefile')"
    snakefile = installed.python(finished.work, code)
    ecgs = str(finished.work / "home" / "ecgs")
    (finished.work / "Snakefile").write_text(OWN.format(snakefile=snakefile, ecgs=ecgs, name="installed"))
    ran = installed.call(finished.work, "python", "-m", "snakemake", "--cores", "2")
    assert ran.returncode == 0, ran.stdout
    assert Path((finished.work / "installed.txt").read_text()).is_relative_to(installed.folder)
    assert "ecgpipe_infer:" not in ran.stdout  # the finished run is taken up


def test_so_is_that_of_the_clone(finished: Finished) -> None:
    ecgs = str(finished.work / "home" / "ecgs")
    (finished.work / "own").mkdir()
    snakefile = finished.work / "own" / "Snakefile"
    snakefile.write_text(OWN.format(snakefile=str(ROOT / "Snakefile"), ecgs=ecgs, name="clone"))
    ran = snakemake_of(snakefile.parent, finished.work, "--dry-run")
    assert ran.status == 0, ran.output
    assert ran.jobs["mine"] == 1
    assert ran.jobs["ecgpipe_infer"] == 0


def test_nothing_was_written_to_the_installation(installed: Installation, finished: Finished) -> None:
    assert files_of(installed.folder) == installed.files, finished.output
