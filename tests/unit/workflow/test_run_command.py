"""`ecgpipe run`: the command line of Snakemake that it makes, and how it ends."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from ecgpipe import EcgpipeError
from ecgpipe.core import installation, typed
from ecgpipe.workflow import config_option
from ecgpipe.workflow.run import build_command, check, collect_settings, execute, read_settings, refuse_config


def collect(*words: str, inputs: Sequence[str] = ("a",), **options: str) -> dict[str, Any]:
    return typed.merge(collect_settings(inputs, options, words))


def test_inputs_options_and_settings_are_one_config() -> None:
    words = ["umap.neighbors=30", "umap.min_dist=0.2", "heads=[x]"]
    assert collect(*words, inputs=["a", "b c"], outdir="out") == {
        "input": ["a", "b c"],
        "outdir": "out",
        "umap": {"neighbors": 30, "min_dist": 0.2},
        "heads": ["x"],
    }


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["input.x=1"], "INPUT a and --set input.x=1 contradict each other; give one of them"),
        (["outdir=b"], "--outdir out and --set outdir=b contradict each other; give one of them"),
    ],
)
def test_an_option_and_a_setting_that_contradict_each_other_are_both_named(words: list[str], says: str) -> None:
    with pytest.raises(EcgpipeError) as raised:
        collect(*words, outdir="out")
    assert str(raised.value) == says


def refuse(tmp_path: Path, *words: str, inputs: Sequence[str] = (), file: str = "", **options: str) -> str:
    """What `ecgpipe run` says of a mistake before it starts Snakemake."""
    given = collect_settings(inputs, options, words)
    path = tmp_path / "mine.yaml"
    path.write_text(file or "outdir: out\n")
    files = [("mine.yaml", read_settings(path))]
    places = config_option.places_of_files(files) | {one.key: one.place for one in given}
    with pytest.raises(EcgpipeError) as raised:
        check(typed.merge(given), files, places)
    return str(raised.value)


def test_a_mistake_is_named_in_the_syntax_in_which_it_was_typed(tmp_path: Path) -> None:
    here = [str(tmp_path)]
    neighbours = "umap.neighbours: no such setting; did you mean 'neighbors'?"
    assert refuse(tmp_path, "umap.neighbours=3", inputs=here) == f"--set {neighbours}"
    assert refuse(tmp_path, "umap={neighbours: 3}", inputs=here) == f"--set {neighbours}"
    assert refuse(tmp_path, inputs=here, file="umap: {neighbours: 3}") == f"mine.yaml: {neighbours}"
    assert refuse(tmp_path, inputs=here, file="umap.neighbours: 3") == f"mine.yaml: {neighbours}"
    assert refuse(tmp_path, inputs=["nowhere"]) == "INPUT: 'nowhere' does not exist; check the path"
    assert refuse(tmp_path, file="input: nowhere") == "mine.yaml: input: 'nowhere' does not exist; check the path"
    assert refuse(tmp_path, "input=nowhere") == "--set input: 'nowhere' does not exist; check the path"
    assert refuse(tmp_path, inputs=here, checkpoint="x.pt").startswith("--checkpoint: 'x.pt' is not a file")
    assert refuse(tmp_path) == "INPUT: missing; name the recordings, e.g. ecgpipe run /data/ecgs"


def test_an_invalid_input_is_named_with_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert refuse(tmp_path, inputs=["~/nowhere"]) == f"INPUT: '{tmp_path}/nowhere' does not exist; check the path"


def test_a_path_with_a_space_that_a_shell_has_split_is_recognised(tmp_path: Path) -> None:
    (tmp_path / "my ecgs").mkdir()
    says = refuse(tmp_path, inputs=[f"{tmp_path}/my", "ecgs"])
    assert says == f"INPUT: '{tmp_path}/my' does not exist; put the path in quotes if you mean '{tmp_path}/my ecgs'"


def test_the_command_line_counts_more_than_a_file(tmp_path: Path) -> None:
    file = "umap: {neighbors: 1}\nlabels: no.csv"
    says = refuse(tmp_path, "umap.neighbors=0", inputs=[str(tmp_path)], file=file)
    assert says == "--set umap.neighbors: 0 is not valid: input should be greater than 1"


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("", "has no settings; write KEY: VALUE on each line"),
        ("- a", "has no settings; write KEY: VALUE on each line"),
        ("umap: {", "cannot read .*mine.yaml: .* correct the file"),
    ],
)
def test_a_file_that_has_no_settings_is_named(tmp_path: Path, content: str, says: str) -> None:
    (tmp_path / "mine.yaml").write_text(content)
    with pytest.raises(EcgpipeError, match=f"--config: .*mine.yaml.*{says}|--config: {says}"):
        read_settings(tmp_path / "mine.yaml")


def test_files_of_settings_must_be_there() -> None:
    with pytest.raises(EcgpipeError, match=r"--config: there is no file mine\.yaml; check the path"):
        read_settings(Path("mine.yaml"))
    with pytest.raises(EcgpipeError, match=r"--config: 'umap=3' is not a file of settings; give --set umap=3"):
        read_settings(Path("umap=3"))


def test_settings_after_the_dashes_are_refused_as_snakemake_would_ignore_the_others() -> None:
    refuse_config(["--keep-going"])
    with pytest.raises(EcgpipeError, match=r"give --set umap\.neighbors=3 before --"):
        refuse_config(["--keep-going", "--config", "umap.neighbors=3"])
    with pytest.raises(EcgpipeError, match=r"--configfile after --: give --config FILE before --"):
        refuse_config(["--configfile=mine.yaml"])


def test_snakemake_gets_the_workflow_the_default_profile_and_the_settings() -> None:
    command = build_command({"input": "a b", "umap": {"neighbors": 30}}, [], None, 3)
    root = installation.root()
    assert command == [
        *(sys.executable, "-m", "ecgpipe.workflow.snakemake_compat", "--snakefile", str(root / "Snakefile")),
        *("--workflow-profile", str(root / "profiles" / "default"), "--cores", "3"),
        *("--config", "input=a b", 'umap={"neighbors": 30}'),
    ]


def test_a_profile_is_one_of_ecgpipes_or_a_folder(tmp_path: Path) -> None:
    assert str(installation.root() / "profiles" / "slurm") in build_command({}, [], "slurm", None)
    assert "--cores" not in build_command({}, [], "slurm", None)
    assert str(tmp_path) in build_command({}, [], str(tmp_path), None)
    with pytest.raises(EcgpipeError, match=r"--profile: 'slrum' is neither a folder nor one of .*slurm"):
        build_command({}, [], "slrum", None)


def test_snakemake_gets_the_files_of_settings(tmp_path: Path) -> None:
    command = build_command({}, [tmp_path / "mine.yaml"], None, 1)
    assert command[command.index("--configfile") + 1] == str(tmp_path / "mine.yaml")


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
