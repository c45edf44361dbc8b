"""`ecgpipe run`: the command line of Snakemake that it makes, and how it ends."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ecgpipe import EcgpipeError
from ecgpipe.core import installation
from ecgpipe.workflow.run import build_command, collect_settings, execute


def test_inputs_options_and_settings_are_one_config() -> None:
    settings = collect_settings(
        ["a", "b c"], {"outdir": "out", "checkpoint": None}, ["umap.neighbors=30", "umap.min_dist=0.2", "heads=[x]"]
    )
    assert settings == {
        "input": ["a", "b c"],
        "outdir": "out",
        "umap": {"neighbors": 30, "min_dist": 0.2},
        "heads": ["x"],
    }


@pytest.mark.parametrize(
    ("pair", "words"),
    [
        ("umap.neighbors", "--set: 'umap.neighbors' is not KEY=VALUE"),
        ("=3", "is not KEY=VALUE"),
        ("report.title=[x", "--set report.title: '[x' is not a valid value; put it in quotes"),
        ("input.x=1", "--set input.x: input is also given a value"),
    ],
)
def test_a_setting_that_is_none_is_said_in_the_syntax_of_the_command(pair: str, words: str) -> None:
    with pytest.raises(EcgpipeError) as raised:
        collect_settings(["a"], {}, [pair])
    assert words in str(raised.value)


def test_snakemake_gets_the_workflow_the_default_profile_and_the_settings() -> None:
    command = build_command({"input": "a b", "umap": {"neighbors": 30}}, [], None, 3)
    root = installation.root()
    assert command == [
        *(sys.executable, "-m", "snakemake", "--snakefile", str(root / "Snakefile")),
        *("--workflow-profile", str(root / "profiles" / "default"), "--cores", "3"),
        *("--config", "input=a b", 'umap={"neighbors": 30}'),
    ]


def test_a_profile_is_one_of_ecgpipes_or_a_folder(tmp_path: Path) -> None:
    assert str(installation.root() / "profiles" / "slurm") in build_command({}, [], "slurm", None)
    assert "--cores" not in build_command({}, [], "slurm", None)
    assert str(tmp_path) in build_command({}, [], str(tmp_path), None)
    with pytest.raises(EcgpipeError, match=r"--profile: 'slrum' is neither a folder nor one of .*slurm"):
        build_command({}, [], "slrum", None)


def test_files_of_settings_must_be_there(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("{}")
    assert "--configfile" in build_command({}, [tmp_path / "mine.yaml"], None, 1)
    with pytest.raises(EcgpipeError, match="--config: there is no file umap=3"):
        build_command({}, [Path("umap=3")], None, 1)


@pytest.mark.parametrize("status", [0, 1])
def test_the_exit_status_is_snakemakes(status: int) -> None:
    assert execute([sys.executable, "-c", f"raise SystemExit({status})"]) == status


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_run_that_is_stopped_ends_with_130(number: signal.Signals, tmp_path: Path) -> None:
    program = (
        "import pathlib, signal, sys, time\n"
        f"signal.signal({int(number)}, lambda *_: sys.exit(1))\n"
        f"pathlib.Path({str(tmp_path / 'begun')!r}).touch()\n"
        "time.sleep(60)\n"
    )
    outer = (
        f"import sys; from ecgpipe.workflow.run import execute; sys.exit(execute([sys.executable, '-c', {program!r}]))"
    )
    process = subprocess.Popen([sys.executable, "-c", outer], start_new_session=True)
    while not (tmp_path / "begun").exists():
        time.sleep(0.02)
    if number == signal.SIGINT:
        os.killpg(process.pid, number)  # as a terminal does
    else:
        process.send_signal(number)
    assert process.wait(60) == 130
