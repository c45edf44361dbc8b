"""What works with the base dependencies alone, and what the rest says: the line that installs what is missing."""

import ast
import json
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from packaging.requirements import Requirement
from run_workflow import ROOT

from ecgpipe.cli import COMMANDS, EXTRAS
from ecgpipe.readers import LEADS
from ecgpipe.selftest import synthetic_checkpoint

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
MODULE_OF = {"scikit-learn": "sklearn", "umap-learn": "umap", "pyyaml": "yaml", "huggingface-hub": "huggingface_hub"}


def modules_of(requirements: list[str]) -> set[str]:
    names = [Requirement(requirement).name for requirement in requirements]
    return {MODULE_OF.get(name, name) for name in names} - {"ecgpipe"}


BASE = modules_of(PROJECT["dependencies"])
WORKFLOW = modules_of(PROJECT["optional-dependencies"]["workflow"])

# A process in which nothing of the extra `workflow` is installed, as far as `import` and `find_spec` can tell. It runs
# command lines, and prints how each ended as JSON.
PROCESS = """
import contextlib, importlib.abc, io, json, sys

class Refuse(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in HIDDEN:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

HIDDEN, lines = json.load(sys.stdin)
sys.meta_path.insert(0, Refuse())
import importlib.util
find_spec = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name.partition(".")[0] in HIDDEN else find_spec(name, *rest)

from ecgpipe import ECGFM, cli, readers
ended = []
for line in lines:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            status = cli.main(line)
        except SystemExit as left:
            status = left.code
    ended.append((status, out.getvalue(), err.getvalue()))
json.dump([ended, [name for name in HIDDEN if name in sys.modules]], sys.stdout)
"""


def run_without(hidden: set[str], lines: list[list[str]], folder: Path) -> list[tuple[int, str, str]]:
    """Run commands where modules are not installed; status, stdout and stderr of each."""
    given = json.dumps([sorted(hidden), lines])
    done = subprocess.run(
        [sys.executable, "-c", PROCESS], input=given, cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    ended, imported = json.loads(done.stdout)
    assert imported == []
    return [(status, out, err) for status, out, err in ended]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint and a recording."""
    folder = tmp_path_factory.mktemp("small")
    torch.save(synthetic_checkpoint.demo(1), folder / "checkpoint.pt")
    signal = np.random.default_rng(1).standard_normal((12, 5000))
    np.savez(folder / "x.npz", signal=signal, sample_rate=500, leads=LEADS)
    return folder


def test_predict_and_inspect_work_with_the_base_dependencies_alone(folder: Path) -> None:
    predict = ["predict", "x.npz", "--checkpoint", "checkpoint.pt", "--device", "cpu", "--threads", "1", "--top", "1"]
    predicted, inspected = run_without(WORKFLOW, [predict, ["inspect", "x.npz"]], folder)
    assert predicted[0] == 0, predicted
    assert predicted[1].startswith("x  ")
    assert inspected[0] == 0, inspected
    assert "1 numpy" in inspected[1]


def test_every_command_has_help_or_states_in_one_line_what_to_install(folder: Path) -> None:
    for command, (status, out, err) in zip(
        COMMANDS, run_without(WORKFLOW, [[command, "--help"] for command in COMMANDS], folder), strict=True
    ):
        if status == 0:
            assert out.startswith("usage: "), command
        else:
            assert status == 2, (command, err)
            assert_names_the_extra(command, err)


def assert_names_the_extra(command: str, err: str) -> None:
    [line] = err.splitlines()
    assert line.startswith(f"error: {command} needs the package "), err
    assert line.partition(" needs the package ")[2].partition(",")[0].partition(".")[0] in WORKFLOW, err
    assert line.endswith(", which is not installed; install it with: pip install 'ecgpipe[workflow]'"), err


def test_what_is_needed_only_by_the_work_itself_is_said_in_one_line_too(folder: Path) -> None:
    [(status, _, err)] = run_without(WORKFLOW, [["run", "x.npz"]], folder)
    assert status == 2
    assert_names_the_extra("run", err)


def imported_names(path: Path) -> set[str]:
    """The packages that a module imports, anywhere in it, other than for type checking."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.partition(".")[0])
    return found


def test_every_package_that_is_imported_anywhere_is_a_base_dependency_or_has_an_extra_that_installs_it() -> None:
    """So that no command can end with the traceback of an import, whenever it imports."""
    known = BASE | set(EXTRAS) | set(sys.stdlib_module_names) | {"ecgpipe"}
    foreign = {"fairseq_signals"}  # of another environment, see docs/verify.md
    for path in (ROOT / "ecgpipe").rglob("*.py"):
        assert imported_names(path) - known - foreign == set(), path


def test_the_extras_that_messages_name_are_those_that_bring_the_package() -> None:
    extras: dict[str, Any] = PROJECT["optional-dependencies"]
    for module, extra in EXTRAS.items():
        brought = modules_of(extras[extra])
        assert module in brought | {"numba", "markupsafe"}, (
            module,
            extra,
        )  # umap-learn brings the one, jinja2 the other


def test_importing_ecgpipe_loads_nothing_but_itself() -> None:
    code = "import sys; before = set(sys.modules); import ecgpipe; print(*sorted(set(sys.modules) - before))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    packages = {name.partition(".")[0] for name in loaded}
    assert packages <= {"ecgpipe"} | set(sys.stdlib_module_names)


def test_importing_ecgfm_loads_pytorch_numpy_and_arrow_and_what_takes_time_comes_when_it_is_used() -> None:
    code = "import sys; from ecgpipe import ECGFM; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "torch" in loaded
    assert {"pandas", "scipy", "pydantic", "huggingface_hub", "wfdb", *WORKFLOW} & set(loaded) == set()
