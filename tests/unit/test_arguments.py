"""How commands are typed: the run comes first, a misspelt option gets a suggestion, and the shell completes."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import small_run

from ecgpipe.cli import COMMANDS, main
from ecgpipe.core import options
from ecgpipe.core.errors import EcgpipeError

READING_A_RUN = ["show", "thresholds", "calibrate", "probe", "neighbors", "verify"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished") / "out"
    small_run.write(folder, ["r0", "r1", "-r2"])
    return folder


# The run


@pytest.mark.parametrize("command", READING_A_RUN)
def test_a_command_that_reads_a_run_takes_it_first_and_does_not_show_the_old_option(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main([command, "--help"])
    said = capsys.readouterr().out
    assert "[RUN]" in said.partition("\n\n")[0]
    assert "--outdir" not in said


@pytest.mark.parametrize(
    ("words", "now"),
    [
        (["show", "--outdir", "gone", "r0"], "ecgpipe show gone r0"),
        (["show", "r0", "--outdir", "a folder"], "ecgpipe show 'a folder' r0"),
        (["show", "--outdir", "gone", "--", "-r2"], "ecgpipe show gone -- -r2"),
        (["neighbors", "r0", "r1", "--outdir", "gone"], "ecgpipe neighbors gone r0 r1"),
        (["neighbors", "--outdir", "gone"], "ecgpipe neighbors gone"),
        (["thresholds", "--outdir", "gone", "--method", "f1", "--output", "x.csv"], "ecgpipe thresholds gone"),
        (["calibrate", "--outdir", "gone", "--method", "platt", "--output", "x.json"], "ecgpipe calibrate gone"),
        (["probe", "--outdir", "gone", "--output", "x"], "ecgpipe probe gone"),
        (["verify", "--outdir", "gone", "--against", "fairseq-signals"], "ecgpipe verify gone"),
    ],
)
@pytest.mark.usefixtures("in_empty_folder")
def test_the_old_option_works_and_one_line_says_what_to_write(
    words: list[str], now: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 2
    said = capsys.readouterr().err.splitlines()
    assert said[0] == f"[{words[0]}] note: the run is the first argument now: {now}"
    assert "error: outdir: there is no folder" in said[1]
    assert len(said) == 2


@pytest.fixture
def in_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("command", READING_A_RUN)
@pytest.mark.usefixtures("in_empty_folder")
def test_a_run_that_is_not_there_is_said_so_and_nothing_else_is(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    rest = {
        "show": ["r0"],
        "thresholds": ["--method", "f1", "--output", "x"],
        "calibrate": ["--method", "platt", "--output", "x"],
        "probe": ["--output", "x"],
    }.get(command, [])
    assert main([command, "gone", *rest]) == 2
    expected = "outdir: there is no folder gone; give the folder of a finished run's results"
    assert capsys.readouterr().err == f"[{command}] error: {expected}\n"


@pytest.mark.parametrize(
    "words", [["{run}", "r1", "--count", "1"], ["{run}", "--count", "1", "r1"], ["--count", "1", "--", "{run}", "r1"]]
)
def test_options_stand_before_between_and_after_the_run_and_its_recordings(
    words: list[str], finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["neighbors", *(word.format(run=finished) for word in words)]) == 0
    said = capsys.readouterr()
    assert "r1" in said.out
    assert "note" not in said.err


def test_a_recording_that_looks_like_an_option_stands_after_two_dashes(
    finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["neighbors", str(finished), "--count", "1", "--", "-r2"]) == 0
    assert "-r2" in capsys.readouterr().out


def test_without_a_run_it_is_the_folder_results(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(finished, tmp_path / "results")
    monkeypatch.chdir(tmp_path)
    assert options.choose_run("show", None, None, ["r0"]) == (Path("results"), ["r0"])
    assert main(["neighbors", "r1", "--count", "1"]) == 0
    said = capsys.readouterr()
    assert "r1" in said.out
    assert "[neighbors] note: the run is the first argument now: ecgpipe neighbors results r1\n" in said.err


def test_a_home_folder_is_the_users(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert options.choose_run("show", "~/out", None, ["~r"]) == (tmp_path / "out", ["~r"])


def test_a_run_without_a_recording_asks_for_one(finished: Path) -> None:
    with pytest.raises(EcgpipeError, match=rf"^RECORD_ID: missing; give one of the ids in {finished}/records, after"):
        options.choose_run("show", None, None, [str(finished)])


def test_two_runs_are_refused() -> None:
    with pytest.raises(EcgpipeError, match=r"^RUN: both 'a' and --outdir b are given; leave out --outdir$"):
        options.choose_run("thresholds", "a", Path("b"))


# Misspelt options


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["run", "x", "--otdir", "y"], "unrecognized arguments: --otdir; did you mean --outdir?"),
        (["run", "x", "--otdir=y"], "unrecognized arguments: --otdir; did you mean --outdir?"),
        (["manifest", "--inptu", "x"], "unrecognized arguments: --inptu; did you mean --input?"),
        (["show", "x", "y", "--layuot", "long"], "unrecognized arguments: --layuot; did you mean --layout?"),
        (["show", "x", "y", "--qqq"], "unrecognized arguments: --qqq; python -m ecgpipe show --help lists the options"),
    ],
)
def test_a_misspelt_option_gets_a_suggestion(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(words)
    assert left.value.code == 2
    assert capsys.readouterr().err.splitlines()[-1] == f"python -m ecgpipe {words[0]}: error: {said}"


# Completion


def complete(line: str, answer: Path, *python: str) -> tuple[list[str], str]:
    """Ask as the shell does, and return the words, and what Python says on stderr."""
    asked = {"_ARGCOMPLETE": "1", "COMP_LINE": line, "COMP_POINT": str(len(line.encode())), "_ARGCOMPLETE_IFS": "\n"}
    script = 'exec 8>"$1"; shift; exec "$@"'
    command = ["bash", "-c", script, "bash", str(answer), sys.executable, *python, "-m", "ecgpipe"]
    done = subprocess.run(command, env=os.environ | asked, capture_output=True, text=True, check=True)
    return [word.rstrip() for word in answer.read_text().split("\n") if word], done.stderr


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("ecgpipe sh", {"show"}),
        ("ecgpipe neig", {"neighbors"}),
        ("ecgpipe run --pro", {"--profile"}),
        ("ecgpipe show out r0 --layout ", {"standard", "long"}),
        ("ecgpipe neighbors --outd", set()),  # is understood, and not what one should write
    ],
)
def test_the_shell_completes_commands_options_and_choices(line: str, words: set[str], tmp_path: Path) -> None:
    assert set(complete(line, tmp_path / "answer")[0]) == words


def test_the_shell_lists_all_commands_and_none_is_imported_for_it(tmp_path: Path) -> None:
    words, imported = complete("ecgpipe ", tmp_path / "answer", "-X", "importtime")
    assert set(COMMANDS) <= set(words)
    assert not re.search(r"\| +(torch|numpy|pyarrow|pandas|ecgpipe\.(?!core|cli)\w+)$", imported, re.MULTILINE)


def test_bash_completes_after_the_line_of_docs_usage(tmp_path: Path) -> None:
    usage = (Path(__file__).parents[2] / "docs/usage.md").read_text(encoding="utf-8")
    [line] = re.findall(r'^ +(eval "\$\(register-python-argcomplete ecgpipe\)")', usage, re.MULTILINE)
    asked = "COMP_LINE='ecgpipe doc' COMP_POINT=11 COMP_TYPE=9 COMP_WORDBREAKS=' '"
    script = f'{line}\n{asked}; _python_argcomplete ecgpipe; echo "${{COMPREPLY[@]}}"'
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    done = subprocess.run(
        ["bash", "-c", script],  # noqa: S607
        cwd=tmp_path, env=os.environ | {"PATH": path}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.split() == ["doctor"]


def test_nothing_of_completion_is_imported_when_the_shell_does_not_ask() -> None:
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "ecgpipe", "--help"], capture_output=True, text=True, check=True
    )
    assert "argcomplete" not in done.stderr
