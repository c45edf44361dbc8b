"""What is wrong in the Snakefile and the rules before any of it runs: names, attributes, files, options of commands.

A function in a rule file may run only after hours, or only on a cluster. So each file's Python is compiled as Snakemake
does it, and every name in it is looked up.
"""

import argparse
import ast
import importlib
import re
import string
import subprocess
import sys
from functools import cache
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, get_type_hints

import pytest
from pydantic import BaseModel
from snakemake.parser import parse
from snakemake.sourcecache import LocalSourceFile

from ecgpipe.cli import COMMANDS
from ecgpipe.core import results, settings
from ecgpipe.workflow.run_at_work import RunAtWork
from ecgpipe.workflow.snakemake_compat import Engine

ROOT = Path(__file__).parents[2]
INCLUDE = re.compile(r'^workflow\.include\("([^"]+)"\)$', re.MULTILINE)

# What Snakemake puts into the namespace of a Snakefile, as far as it is used.
GIVEN = ("workflow", "config", "checkpoints", "temp", "ancient", "report", "shell")

# The objects that the rules share, by what they are.
OBJECTS: dict[str, Any] = {"RUN": RunAtWork, "ENGINE": Engine, **get_type_hints(RunAtWork)}
OBJECTS |= {"SETTINGS": OBJECTS["settings"], "OUT": OBJECTS["paths"]}

# Names of inputs and outputs that a rule takes from a dictionary (`**ATTENTION`).
SWITCHED = {"attention", "labels"}


def compiled(path: Path) -> str:
    """The Python that Snakemake makes of a file."""
    workflow: Any = SimpleNamespace(sourcecache=SimpleNamespace(open=lambda _: path.open(encoding="utf-8")))
    code: str = parse(LocalSourceFile(str(path)), workflow, {})[0]
    return re.sub(r"\t", "    ", code)


@cache
def whole() -> str:
    """The Snakefile with what it includes where it includes it, as they share their names."""
    code = re.sub(r'workflow\.include\(\s*"([^"]+)"\s*\)', r'workflow.include("\1")', compiled(ROOT / "Snakefile"))
    return INCLUDE.sub(lambda include: compiled(ROOT / include[1]), code)


@cache
def tree() -> ast.Module:
    return ast.parse(whole())


def undefined(code: str) -> str:
    """What ruff says of names that are nowhere defined."""
    command = [sys.executable, "-m", "ruff", "check", "--isolated", "--select", "F821,F822,F823,F402", "--no-cache"]
    command += ["--config", f"builtins={list(GIVEN)}", "--output-format", "concise", "-"]
    return subprocess.run(command, input=code, capture_output=True, text=True, check=False).stdout


def test_every_file_of_rules_is_included() -> None:
    named = set(re.findall(r'"workflow/rules/(\w+\.smk)"', (ROOT / "Snakefile").read_text()))
    assert named == {path.name for path in (ROOT / "workflow" / "rules").glob("*.smk")}
    assert not INCLUDE.search(whole())


def test_every_name_is_defined() -> None:
    assert "All checks passed" in undefined(whole())
    assert "`cluster`" in undefined(whole() + "\ndef at_the_end():\n    cluster.forget(OUT)\n")


def modules(code: ast.Module) -> dict[str, ModuleType]:
    """The modules of ecgpipe that the rules import, by the names that they have there."""
    imported = {}
    for node in ast.walk(code):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("ecgpipe"):
            for alias in node.names:
                member = getattr(importlib.import_module(node.module or ""), alias.name, None)
                if member is None:
                    member = importlib.import_module(f"{node.module}.{alias.name}")
                if isinstance(member, ModuleType):
                    imported[alias.asname or alias.name] = member
    return imported


def missing(code: ast.Module) -> list[str]:
    """The attributes that modules and shared objects do not have."""
    known: dict[str, Any] = {**OBJECTS, **modules(code)}
    wrong = []

    def kind(node: ast.expr) -> Any:  # noqa: ANN401, a module, a class, or None for what is unknown
        if isinstance(node, ast.Name):
            return known.get(node.id)
        owner = kind(node.value) if isinstance(node, ast.Attribute) else None
        if owner is None or not isinstance(node, ast.Attribute):
            return None
        if isinstance(owner, type):
            if issubclass(owner, BaseModel) and node.attr in owner.model_fields:
                return owner.model_fields[node.attr].annotation
            if node.attr in get_type_hints(owner):
                return get_type_hints(owner)[node.attr]
        if isinstance(owner, type | ModuleType) and not hasattr(owner, node.attr):
            wrong.append(ast.unparse(node))
        return None

    for node in ast.walk(code):
        if isinstance(node, ast.Attribute):
            kind(node)
    return sorted(set(wrong))


def test_every_attribute_is_there() -> None:
    assert missing(tree()) == []
    assert {"job_resources", "last_words", "cut"} <= modules(tree()).keys()
    mistaken = (
        "last_words.mistake\nRUN.forget()\nSETTINGS.inference.batchsize\nOUT.path('x')\nENGINE.core\ncut.parts_of"
    )
    assert missing(ast.parse(whole() + "\n" + mistaken)) == [
        *("ENGINE.core", "OUT.path", "RUN.forget", "SETTINGS.inference.batchsize", "last_words.mistake")
    ]


def test_every_file_and_stage_that_a_rule_names_is_known() -> None:
    calls = [node for node in ast.walk(tree()) if isinstance(node, ast.Call) and node.args]
    named = [(ast.unparse(call.func), call.args[0].value) for call in calls if isinstance(call.args[0], ast.Constant)]
    files = {name for function, name in named if function in ("OUT.file", "OUT.files", "OUT.folder", "all_parts")}
    stages = {name for function, name in named if function == "settings_of"}
    assert len(files) > 20
    assert files <= results.FILES.keys()
    assert stages == settings.STAGES.keys()


def rules() -> list[tuple[str, dict[str, ast.Call], str]]:
    """Of each rule that has a shell line its name, its sections and that line, or each of two."""
    found = []
    for node in ast.walk(tree()):
        if isinstance(node, ast.FunctionDef) and node.name.startswith("__rule_"):
            calls = [call for call in node.decorator_list if isinstance(call, ast.Call)]
            sections = {call.func.attr: call for call in calls if isinstance(call.func, ast.Attribute)}
            if "shellcmd" in sections:
                line = sections["shellcmd"].args[0]
                lines = [line.body, line.orelse] if isinstance(line, ast.IfExp) else [line]
                found += [(node.name.removeprefix("__rule_"), sections, ast.literal_eval(one)) for one in lines]
    return found


@pytest.mark.parametrize(
    ("name", "sections", "line"), rules(), ids=[f"{i}-{rule[0]}" for i, rule in enumerate(rules())]
)
def test_a_shell_line_names_what_its_rule_has(name: str, sections: dict[str, ast.Call], line: str) -> None:
    for _, field, _, _ in string.Formatter().parse(line):
        section, _, member = (field or "").partition(".")
        if member:
            names = {keyword.arg for keyword in sections[section].keywords}
            assert member in (names | SWITCHED if None in names else names), field
        elif section:
            assert section in sections, field


@pytest.mark.parametrize(
    ("name", "sections", "line"), rules(), ids=[f"{i}-{rule[0]}" for i, rule in enumerate(rules())]
)
def test_a_command_has_the_options_that_its_rule_gives(name: str, sections: dict[str, ast.Call], line: str) -> None:
    called = re.match(r"python3 -m ecgpipe (\w+)", line)
    if not called:
        assert name == "verify_forward"  # which runs where there is no ecgpipe
        return
    parser = argparse.ArgumentParser()
    importlib.import_module(f"ecgpipe.{COMMANDS[called[1]][0]}").add_arguments(parser)
    parser.add_argument("--log")  # by the command line itself
    literal = [node.value for call in sections.values() for node in ast.walk(call) if isinstance(node, ast.Constant)]
    given = {text for text in literal if isinstance(text, str) and re.fullmatch(r"--[\w-]+", text)}
    given |= set(re.findall(r"(--[\w-]+)", line))
    assert given <= {option for action in parser._actions for option in action.option_strings}
