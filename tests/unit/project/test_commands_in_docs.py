"""Every `ecgpipe` command that README.md and docs/ print has a name and options that there are."""

import argparse
import importlib
import re
import shlex
from pathlib import Path

import pytest
from run_workflow import ROOT

from ecgpipe.cli import COMMANDS

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def list_commands(page: Path) -> list[str]:
    """The lines of a page that call ecgpipe, as a shell reads them: joined at a backslash, with its variables."""
    text = re.sub(r"\\\n\s+", " ", page.read_text(encoding="utf-8"))
    for name, value in re.findall(r'^ {4}(\w+)="([^"]+)"$', text, re.MULTILINE):
        text = text.replace(f"${name}", " ".join(value.split()))
    return re.findall(r"^ {4}(ecgpipe [a-z].+)$", text, re.MULTILINE)


def parse(command: str) -> None:
    """Read a command's options as ecgpipe does; what it would refuse ends the program."""
    _, name, *words = shlex.split(command, comments=True)
    parser = argparse.ArgumentParser(prog=name)
    importlib.import_module(f"ecgpipe.{COMMANDS[name][0]}").add_arguments(parser)
    parser.add_argument("--log")
    parser.parse_args(words[: words.index("--")] if "--" in words else words)


@pytest.mark.parametrize("page", [page for page in PAGES if list_commands(page)], ids=lambda page: page.stem)
def test_the_commands_of_a_page_are_understood(page: Path) -> None:
    for command in list_commands(page):
        parse(command.replace(" ...", ""))  # stands for the options of the command before


def test_a_command_that_has_gone_is_noticed() -> None:
    with pytest.raises(SystemExit):
        parse("ecgpipe thresholds RUN --methods youden --output chosen.csv")
    with pytest.raises(KeyError):
        parse("ecgpipe threshold RUN")
