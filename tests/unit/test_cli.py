"""The command line, what it says where, and files that appear whole or not at all."""

import logging
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ecgpipe import __version__
from ecgpipe.__main__ import WITHOUT_PANDAS
from ecgpipe.cli import COMMANDS, GROUPS, main
from ecgpipe.core import logs
from ecgpipe.core.atomic import whole

ROOT = Path(__file__).parents[2]


def python(*arguments: str, timeout: float = 60) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False, timeout=timeout)


# Options


@pytest.mark.parametrize("stage", COMMANDS)
def test_every_stage_tells_its_options(stage: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main([stage, "--help"])
    assert left.value.code == 0
    said = capsys.readouterr().out
    assert said.startswith(f"usage: python -m ecgpipe {stage}")
    assert "--log LOG" in said


def test_the_list_of_stages_comes_at_once_and_loads_none() -> None:
    began = time.monotonic()
    done = python("-X", "importtime", "-m", "ecgpipe", "--help")
    assert time.monotonic() - began < 5
    assert all(f"\n  {stage} " in done.stdout for stage in COMMANDS)
    assert not re.search(r"\| +(torch|numpy|pyarrow|umap|pandas)$", done.stderr, re.MULTILINE)


@pytest.mark.parametrize("stage", ["manifest", "preprocess", "aggregate", "umap", "neighbors", "config"])
def test_help_of_what_needs_no_network_does_not_load_torch_or_umap(stage: str) -> None:
    done = python("-X", "importtime", "-m", "ecgpipe", stage, "--help")
    assert done.returncode == 0
    assert not re.search(r"\| +(torch|umap|numba)$", done.stderr, re.MULTILINE)


@pytest.mark.parametrize(
    "argv", [[], ["frobnicate"], ["manifest"], ["manifest", "--inptu", "x"], ["--verbose", "manifest"]]
)
def test_a_command_that_is_not_valid_states_how_it_is_used(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(argv)
    assert left.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith("usage: python -m ecgpipe")
    if argv == ["frobnicate"]:
        assert "there is no command 'frobnicate'; python -m ecgpipe --help lists them" in said


def test_a_misspelt_command_gets_a_suggestion(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(["inspekt"])
    assert left.value.code == 2
    assert "there is no command 'inspekt'; did you mean 'inspect'?" in capsys.readouterr().err


def test_the_version_is_reported(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(["--version"])
    assert left.value.code == 0
    assert capsys.readouterr().out == f"ecgpipe {__version__}\n"


# Mistakes and messages


def test_a_mistake_is_one_line_and_status_2(tmp_path: Path) -> None:
    done = python("-m", "ecgpipe", "manifest", "--input", "nowhere", "--outdir", str(tmp_path / "out"))
    assert (done.returncode, done.stdout) == (2, "")
    says = "'nowhere' is not a file or folder, and no pattern that matches any; check the path"
    assert done.stderr == f"[manifest] error: input: {says}\n"


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that any user may look into: pytest's own are root's alone."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


def as_another_user(folder: Path, imports: str, code: str) -> str:
    """Run Python code as a user who is not root, and return what it says. Imports go first: Python may lie in /root."""
    drop = "import os; os.geteuid() or os.setuid(65534)"
    command = [sys.executable, "-c", f"{imports}\n{drop}\n{code}"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False).stderr


READ = "pyarrow.parquet.read_schema({path!r})"
OPEN = "open({path!r}, 'rb')"
IMPORTS = "import sys, pyarrow.parquet; from pathlib import Path; from ecgpipe import cli; "
IMPORTS += "from ecgpipe.report import verdict; from ecgpipe.workflow import validate"
MAIN = """
def run(args):
    {what}
verdict.run = run
sys.exit(cli.main(["verdict", "--run", "r", "--max-failed-fraction", "0", "--output", "o"]))
"""


@pytest.mark.parametrize("what", [READ, OPEN])
def test_an_input_that_this_user_may_not_read_is_no_reason_to_make_room(what: str, open_folder: Path) -> None:
    path = open_folder / "mine.parquet"
    path.touch(mode=0o000)
    said = as_another_user(open_folder, IMPORTS, MAIN.format(what=what.format(path=str(path))))
    assert "Permission denied" in said
    assert said.rstrip().endswith(
        "it is there, but this user may not read it: see its permissions (`ls -l`), or leave it out"
    )
    assert "outdir" not in said


def test_a_folder_that_this_user_may_not_write_to_asks_for_another_one(open_folder: Path) -> None:
    said = as_another_user(open_folder, IMPORTS, MAIN.format(what=f"open({str(open_folder / 'new')!r}, 'wb')"))
    assert said.rstrip().endswith("free disk space, or give another outdir")


def test_a_checkpoint_that_this_user_may_not_read_is_refused_before_any_job(open_folder: Path) -> None:
    (open_folder / "x.pt").touch(mode=0o000)
    code = f"validate.load({{'input': '.', 'checkpoint': 'x.pt'}}, Path({str(ROOT)!r}))"
    said = as_another_user(open_folder, IMPORTS, code)
    assert "checkpoint: no permission to read 'x.pt'; see its permissions (`ls -l`), or give another file" in said


def test_a_bug_of_ours_keeps_its_traceback(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    done = python("-m", "ecgpipe", "aggregate", "--logits", str(tmp_path / "x"), "--labels", "x", "--predictions", "y")
    assert done.returncode == 1
    assert "Traceback" in done.stderr


def test_the_log_file_holds_what_is_said_and_is_made_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "logs" / "manifest" / "x.log"
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "心电图.npz").touch()
    arguments = ["manifest", "--outdir", str(tmp_path / "out"), "--log", str(file)]
    assert main([*arguments, "--input", str(tmp_path / "心")]) == 2
    assert file.read_text(encoding="utf-8") == capsys.readouterr().err
    assert "心" in file.read_text(encoding="utf-8")
    assert main([*arguments, "--input", str(tmp_path / "in")]) == 0
    assert file.read_text(encoding="utf-8").startswith("[manifest] 1 recordings in 1 shards\n")


def test_progress_states_done_total_rate_and_time_left(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "ecgpipe"):
        progress = logs.Progress("part-00003", 200, "segments", every_s=0)
        progress.add(20)
        progress = logs.Progress("part-00003", 200, "segments", every_s=60)
        progress.add(20)
        progress.say()
        logs.Progress("part-00004", 0, "segments").say()
        logs.Progress("part-00005", None, "segments").say()
    first, second, *_ = (record.getMessage() for record in caplog.records)
    assert len(caplog.records) == 4
    for said in (first, second):
        assert re.match(r"part-00003: +10%.* 20/200 \[00:00<.* segments/s\]", said)


# Whole files


def test_a_file_appears_when_it_is_whole(tmp_path: Path) -> None:
    final = tmp_path / "new" / "folder" / "x.txt"
    with whole(final) as temporary:
        temporary.write_text("half")
        assert temporary.parent == final.parent
        assert not final.exists()
        temporary.write_text("all of it")
    assert final.read_text() == "all of it"
    assert list(final.parent.iterdir()) == [final]


def test_a_file_is_replaced_in_one_step(tmp_path: Path) -> None:
    final = tmp_path / "x.txt"
    final.write_text("old")
    with final.open() as reader, whole(str(final)) as temporary:
        temporary.write_text("new")
        assert final.read_text() == "old"
        assert reader.read() == "old"
    assert final.read_text() == "new"


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("existed", [True, False])
def test_on_failure_nothing_changes_and_nothing_is_left(
    error: type[BaseException], existed: bool, tmp_path: Path
) -> None:
    final = tmp_path / "x.txt"
    if existed:
        final.write_text("old")

    def fail() -> None:
        with whole(final) as temporary:
            temporary.write_text("half")
            raise error

    with pytest.raises(error):
        fail()
    assert [path.read_text() for path in tmp_path.iterdir()] == ["old"] * existed


def test_a_block_that_writes_nothing_fails_and_leaves_the_old_file(tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_text("old")
    with pytest.raises(FileNotFoundError), whole(tmp_path / "x.txt"):
        pass
    assert [path.read_text() for path in tmp_path.iterdir()] == ["old"]


def test_the_half_file_is_hidden_from_a_scan_of_its_folder(tmp_path: Path) -> None:
    with whole(tmp_path / "part-00000.parquet") as temporary:
        temporary.touch()
        assert not list(tmp_path.glob("*.parquet"))
        assert temporary.name.startswith(".")


def test_stages_that_need_no_pandas_do_not_import_it_and_their_readers_still_can() -> None:
    assert set(WITHOUT_PANDAS) <= COMMANDS.keys()
    code = (
        "import sys; from ecgpipe.__main__ import leave_pandas_out; leave_pandas_out(); "
        "import pyarrow as pa, pyarrow.dataset; pa.array([1.0, float('nan')], from_pandas=True).to_numpy(False); "
        "print('pandas' in sys.modules); import pandas; print(pandas.Series([1]).sum())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout == "False\n1\n"


def test_no_stage_loads_the_hubs_client_before_it_fetches_something() -> None:
    modules = [path for path, _ in GROUPS["stages, which `run` calls"].values()]
    code = f"import importlib, sys; [importlib.import_module(f'ecgpipe.{{m}}') for m in {modules}]; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert "torch" in done.stdout.split()
    assert "huggingface_hub" not in done.stdout.split()
