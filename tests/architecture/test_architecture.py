"""What docs/architecture.md promises of the code: the layers, where things are, and that nothing lies about unused."""

import ast
import re
import tomllib
from itertools import chain
from pathlib import Path

import pytest

from ecgpipe import ECGFM, Recording, Run
from ecgpipe.core.options import SHARED

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "ecgpipe"
PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
SOURCES = {path.relative_to(PACKAGE).as_posix(): path.read_text(encoding="utf-8") for path in PACKAGE.rglob("*.py")}

# Lines that a module may have; a longer one says at its top why it is one.
MOST_LINES = 450


def layers() -> list[list[str]]:
    """import-linter's, from top to bottom."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]
    [contract] = [one for one in settings["contracts"] if one["type"] == "layers"]
    return [row.split(" | ") for row in contract["layers"]]


def imported(source: str) -> set[str]:
    """The dotted names that a module imports of the package, below it."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.partition(".")[0] == "ecgpipe":
            base = node.module.removeprefix("ecgpipe").removeprefix(".")
            found |= {base} | {f"{base}.{alias.name}".removeprefix(".") for alias in node.names}
    return found


def test_every_package_has_its_layer_and_stands_in_the_picture() -> None:
    packages = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert packages | {"cli", "__main__"} == set(chain(*layers()))
    assert packages | {"cli"} == set(re.findall(r'^  (\w+)\["', PAGE, re.MULTILINE))


def test_the_arrows_of_the_picture_lead_from_each_layer_to_the_next_that_it_stands_on() -> None:
    level = {package: number for number, row in enumerate(layers()) for package in row}
    drawn = re.findall(r"^  (\w+)(?:\[[^\]]*\])? --> (.+)$", PAGE, re.MULTILINE)
    assert {source for source, _ in drawn} == level.keys() - {"__main__", "core"}
    for source, targets in drawn:
        assert all(level[target] > level[source] for target in targets.split(" & ")), (source, targets)


def test_the_root_has_five_modules_at_most() -> None:
    assert len([name for name in SOURCES if "/" not in name]) <= 5


NAMED = re.findall(r"`([\w/.]+\.(?:py|js|css|j2|smk|yaml|toml))`", PAGE)


@pytest.mark.parametrize("name", sorted({name for name in NAMED if not re.search(r"FORMAT|STAGE", name)}))
def test_a_file_that_the_page_names_is_there(name: str) -> None:
    assert (PACKAGE / name).is_file() or (ROOT / name).is_file()


def test_every_module_is_imported_or_is_a_command() -> None:
    used = set(chain.from_iterable(imported(source) for source in SOURCES.values()))
    used |= set(re.findall(r'^        "\w+": \(\s*"([\w.]+)"', SOURCES["cli.py"], re.MULTILINE))
    used |= {f"readers.{name}" for name in re.findall(r'Format\("(\w+)"', SOURCES["readers/__init__.py"])}
    rules = [ROOT / "Snakefile", *(ROOT / "workflow" / "rules").glob("*.smk")]
    rules.append(ROOT / "snakemake_logger_plugin_ecgpipe" / "__init__.py")
    for line in "".join(path.read_text(encoding="utf-8") for path in rules).splitlines():
        if line.strip().startswith("from ecgpipe."):
            used |= imported(line.strip())
    families = {name.removesuffix("/family.py").replace("/", ".") for name in SOURCES if name.endswith("/family.py")}
    used |= {f"{family}.{part}" for family in families for part in ("family", "facts", "network")}  # by registry.py
    modules = {name.removesuffix(".py").replace("/", ".") for name in SOURCES if not name.endswith("__init__.py")}
    assert modules - used == {"__main__"}


def test_no_module_is_longer_than_450_lines() -> None:
    assert [name for name, source in SOURCES.items() if source.count("\n") > MOST_LINES] == []


def test_no_function_is_longer_than_80_lines() -> None:
    functions = [
        (name, node.name, (node.end_lineno or 0) - node.lineno + 1)
        for name, source in SOURCES.items()
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.FunctionDef)
    ]
    assert [function for function in functions if function[2] > 80] == []


@pytest.mark.parametrize("name", [name for name in sorted(SOURCES) if name.endswith("__init__.py")])
def test_the_file_of_a_package_is_empty_but_for_those_that_are_an_interface(name: str) -> None:
    assert not SOURCES[name] or name in ("__init__.py", "readers/__init__.py", "selftest/reference/__init__.py")


def test_unit_tests_lie_in_the_folder_of_their_package() -> None:
    packages = set(chain(*layers())) | {"measuring", "project"}
    assert {path.parent.name for path in (ROOT / "tests" / "unit").glob("*/test_*.py")} <= packages


def test_arguments_as_they_were_parsed_are_seen_by_the_functions_of_a_command_alone() -> None:
    allowed = {"add_arguments", "add_options", "run", "parse_arguments", "parse_options", "main"}
    users = [
        (name, node.name)
        for name, source in SOURCES.items()
        if name != "inference/fairseq_forward.py"  # runs without ecgpipe
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.FunctionDef) and node.name not in allowed
        for argument in node.args.args
        if argument.annotation is not None and "Namespace" in ast.unparse(argument.annotation)
    ]
    assert users == []


def test_no_option_is_declared_twice() -> None:
    declared: dict[str, list[str]] = {}
    for name, source in SOURCES.items():
        for node in ast.walk(ast.parse(source)):
            if name == "inference/fairseq_forward.py" or not isinstance(node, ast.Call):
                continue
            if isinstance(node.func, ast.Attribute) and node.func.attr == "add_argument":
                options = [word.value for word in node.args if isinstance(word, ast.Constant)]
                for option in options:
                    if str(option).startswith("--"):
                        declared.setdefault(str(option), []).append(name)
    assert {option: names for option, names in declared.items() if len(names) > 1} == {}
    shared = {f"--{name}" for name in SHARED}
    assert {option: names for option, names in declared.items() if option in shared} == {}


def test_every_public_name_is_documented() -> None:
    page = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")
    public = set(re.findall(r"import (\w+) as \1$", SOURCES["__init__.py"], re.MULTILINE))
    assert public == {"ECGFM", "EcgpipeError", "Recording", "Run", "read", "read_segments"}
    of_classes = {name for kind in (Run, ECGFM, Recording) for name in vars(kind) if not name.startswith("_")}
    assert {name for name in public | of_classes if not re.search(rf"\b{name}\b", page)} == set()
