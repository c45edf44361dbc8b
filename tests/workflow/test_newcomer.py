"""A newcomer's typical mistakes: each ends in one clear line, never in a traceback, most before any job."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import checkpoints
import forked_python
import formats
import numpy as np
import pytest
from filelock import FileLock
from run_workflow import ROOT, snakemake, write_recordings

LABELS = "name,aggregation\nFirst,max\nSecond,mean\nThird,mean\n"

# Hides packages that are installed: Python loads it by its name.
HIDE = """
import os, sys

class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in os.environ["HIDDEN"].split():
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Hidden())
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A recording, a checkpoint with three outputs, and its labels."""
    write_recordings(tmp_path / "ecgs", 1)
    (tmp_path / "labels.csv").write_text(LABELS)
    (tmp_path / "x.pt").write_bytes(checkpoints.saved(checkpoints.classifier()))
    return tmp_path


GIVEN = ("--checkpoint", "x.pt", "--outdir", "out", "--set", "labels=labels.csv", "inference.device=cpu")


def ecgpipe(folder: Path, *words: str, **environment: str) -> tuple[int, list[str]]:
    """The exit status of a command, and the lines that it prints; `HIDE` has its effect where Python itself starts."""
    done = subprocess.run(
        [sys.executable if environment else forked_python.program(), "-m", "ecgpipe", *words],
        cwd=folder, env={**os.environ, **environment}, text=True, check=False,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    assert "Traceback" not in done.stdout
    return done.returncode, done.stdout.splitlines()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["nowhere"], "INPUT: 'nowhere' does not exist; check the path"),
        (["~/nowhere"], "INPUT: '{home}/nowhere' does not exist; check the path"),
        ([], "INPUT: missing; name the recordings, e.g. ecgpipe run /data/ecgs"),
        (["ecgs", *GIVEN, "umap.neighbours=3"], "--set umap.neighbours: no such setting; did you mean 'neighbors'?"),
        (["ecgs", *GIVEN, "umap.neighbors", "3"], "--set: 'umap.neighbors' is not KEY=VALUE; give --set umap.neighb"),
        (["ecgs", *GIVEN, "umap.neighbors=", "1"], "--set umap.neighbors: 1 is not valid: input should be greater"),
        (["ecgs", *GIVEN, "report.title='x"], '--set report.title: "\'x" is not a valid value; close its brackets'),
        (["my", "ecgs"], "INPUT: 'my' does not exist; put the path in quotes if you mean 'my ecgs'"),
        (["ecgs", "--config", "umap.neighbors=3"], "--config: 'umap.neighbors=3' is not a file of settings; give --s"),
    ],
    ids=["folder", "home", "nothing", "key", "no equals sign", "space", "quote", "space in a path", "wrong option"],
)
def test_a_wrong_setting_is_one_line_and_nothing_is_written(folder: Path, words: list[str], says: str) -> None:
    (folder / "my ecgs").mkdir()
    before = set(folder.rglob("*"))
    status, lines = ecgpipe(folder, "run", *words, HOME=str(folder))
    assert (status, len(lines)) == (2, 1), lines
    assert lines[0].startswith(f"[run] error: {says.format(home=folder)}")
    assert set(folder.rglob("*")) == before


def test_settings_in_any_syntax_are_taken(folder: Path) -> None:
    """Snakemake itself gets them: with --dry-run it plans, which takes no job."""
    write_recordings(folder / "home" / "ecgs", 1)
    (folder / "mine.yaml").write_text("umap.min_dist: 0.2\nattribution: {recordings: 0}\n")
    status, lines = ecgpipe(
        folder, "run", "~/ecgs", "--config", "mine.yaml", "--dry-run", *GIVEN, "umap.neighbors", "=", "30",
        "preprocess={keep_segments:", "true}", HOME=str(folder / "home"),
    )  # fmt: skip
    assert status == 0, lines
    assert any("manifest" in line for line in lines)
    assert not any("attribute" in line for line in lines)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (
            ["--config", "input=ecgs", "inference.batch_size=4"],
            "error: --config: Snakemake does not take 'inference.batch_size=4'; give --config input=ecgs "
            "'inference={batch_size: 4}'",
        ),
        (
            ["--config", "input=ecgs", "preprocess={keep_segments:", "true}"],
            "error: --config: 'true}' is not KEY=VALUE; give --config input=ecgs 'preprocess={keep_segments: true}'",
        ),
        (["--config", "input", "ecgs"], "error: --config: 'input' is not KEY=VALUE; give --config input=ecgs"),
        (
            ["--config", "input=ecgs", "--config", "checkpoint=x.pt"],
            "error: --config: given 2 times, of which Snakemake takes the last alone and ignores input=ecgs; give "
            "--config input=ecgs checkpoint=x.pt",
        ),
        (
            ["--config", "input=ecgs", "umap={neighbours: 3}"],
            "error: umap.neighbours: no such setting; did you mean 'neighbors'? "
            "(e.g. --config umap='{neighbors: VALUE}')",
        ),
    ],
    ids=["dots", "no quotes", "no equals sign", "twice", "key"],
)
def test_a_wrong_setting_of_snakemake_is_one_line_with_the_right_syntax(
    folder: Path, options: list[str], says: str
) -> None:
    command = ["-m", "snakemake", "--snakefile", str(ROOT / "Snakefile"), "--logger", "ecgpipe", "--cores", "1"]
    status, printed = forked_python.run([*command, *options], folder, timeout_s=600)
    assert status == 1
    profile, *lines = printed.splitlines()  # Snakemake names the profile before its output is ecgpipe's
    assert profile.startswith("Using workflow specific profile")
    assert lines == [says]


def test_dots_in_a_file_of_settings_are_taken_and_a_contradiction_is_not(folder: Path) -> None:
    given = {"input": "ecgs", "checkpoint": "x.pt", "labels": "labels.csv"}
    (folder / "mine.yaml").write_text("attribution.recordings: 0\n")
    ran = snakemake(folder, "--configfile", "mine.yaml", "--dry-run", **given)
    assert (ran.status, ran.jobs["umap"], ran.jobs["attribute"]) == (0, 1, 0), ran.output
    ran = snakemake(folder, "--configfile", "mine.yaml", "--dry-run", **given, attribution="{recordings: 3}")
    assert ran.status == 1
    assert (
        "attribution.recordings: given as attribution.recordings: 0 and as attribution: {recordings: 3}, which "
        "contradict each other; give one of them" in ran.output
    )


def test_a_second_run_into_the_same_folder_says_so(folder: Path) -> None:
    (folder / "out").mkdir()
    with FileLock(folder / "out" / ".lock"):
        status, lines = ecgpipe(folder, "run", "ecgs", *GIVEN, "--", "--logger", "ecgpipe")
    errors = [line for line in lines if "error" in line]
    assert status == 1
    assert len(errors) == 1
    assert errors[0].startswith("error: --outdir: another run is at work in out; wait for it, or give another outdir")


def test_an_interrupt_is_one_line_and_exit_status_130(folder: Path) -> None:
    """As soon as the run has taken its folder, whatever it does then."""
    process = subprocess.Popen(
        [sys.executable, "-m", "ecgpipe", "run", "ecgs", *GIVEN, "--", "--logger", "ecgpipe"],
        cwd=folder, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
        # As in a terminal: where the tests run in the background of a script, an interrupt is ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    while not (folder / "out" / ".lock").exists():
        assert process.poll() is None
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    output = process.communicate(timeout=300)[0]
    assert process.returncode == 130, output
    assert "Traceback" not in output
    assert output.splitlines().count("stopped; the same command resumes") == 1, output


def hide(folder: Path, package: str) -> dict[str, str]:
    """The environment of a command that does not find a package."""
    (folder / "hidden").mkdir()
    (folder / "hidden" / "sitecustomize.py").write_text(HIDE)
    return {"PYTHONPATH": os.pathsep.join([str(folder / "hidden"), str(ROOT)]), "HIDDEN": package}


def test_without_snakemake_the_line_that_installs_it_is_there(folder: Path) -> None:
    status, lines = ecgpipe(folder, "run", "ecgs", *GIVEN, **hide(folder, "snakemake"))
    assert (status, len(lines)) == (2, 1), lines
    assert lines[0].endswith(
        "needs the package snakemake, which is not installed; install it with: pip install 'ecgpipe[workflow]'"
    )


def test_without_pydicom_the_line_that_installs_it_is_there(folder: Path) -> None:
    (folder / "dicom").mkdir()
    formats.dicom(folder / "dicom" / "a.dcm", np.random.default_rng(0).normal(size=(12, 5000)), 500)
    needs = "pydicom, which is not installed; install it with: pip install 'ecgpipe[dicom]'"
    hidden = hide(folder, "pydicom")
    lines = ecgpipe(folder, "inspect", "dicom", **hidden)[1]
    assert [line for line in lines if needs in line] == [f"a: failed, reading dicom takes the package {needs}"], lines
    predict = ("predict", "dicom", "--checkpoint", "x.pt", "--labels", "labels.csv")
    status, lines = ecgpipe(folder, *predict, **hidden)
    assert (status, len([line for line in lines if needs in line])) == (2, 1), lines


# Python and pip


def test_an_older_python_says_which_is_needed(folder: Path) -> None:
    code = (
        "import runpy, sys; sys.version_info = (3, 9, 18, 'final', 0); sys.version = '3.9.18 (main)'; "
        "runpy.run_module('ecgpipe', run_name='__main__')"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    [line] = done.stderr.splitlines()
    assert line.startswith("error: ecgpipe needs Python 3.11 or newer, and this is 3.9.18 (")


def find_older_python() -> str | None:
    """A Python that is too old for ecgpipe, if this machine has one."""
    found = [shutil.which(f"python3.{minor}") for minor in (10, 9, 8)]
    found += [str(path) for path in sorted(Path.home().glob(".pyenv/versions/3.[89].*/bin/python"))]
    found += [str(path) for path in sorted(Path.home().glob(".pyenv/versions/3.10.*/bin/python"))]
    for path in filter(None, found):
        done = subprocess.run(
            [path, "-c", "import sys; print(*sys.version_info[:2])"], capture_output=True, check=False
        )
        if done.returncode == 0 and done.stdout.split() in ([b"3", b"8"], [b"3", b"9"], [b"3", b"10"]):
            return path
    return None


def test_a_real_older_python_says_which_is_needed() -> None:
    older = find_older_python()
    if older is None:
        pytest.skip("no Python 3.8 to 3.10 here; install one: apt-get install python3.9, or pyenv install 3.9")
    environment = {"PATH": "/usr/bin:/bin", "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [older, "-m", "ecgpipe", "run", "ecgs"], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    [line] = done.stderr.splitlines()
    assert line.startswith("error: ecgpipe needs Python 3.11 or newer, and this is 3.")


def test_pip_refuses_an_older_python(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True)
    [wheel] = tmp_path.glob("*.whl")
    pip = [sys.executable, "-m", "pip", "download", "--no-index", "--no-deps", "--dest", str(tmp_path / "got")]
    done = subprocess.run(
        [*pip, "--python-version", "3.9", "--only-binary", ":all:", str(wheel)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "Package 'ecgpipe' requires a different Python: 3.9.0 not in '>=3.11'" in done.stderr
