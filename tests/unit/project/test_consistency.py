"""What stands in several files of the project says the same: versions, packages, the tools of `make check`."""

import re
import tomllib
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from run_workflow import ROOT

import ecgpipe
from ecgpipe.core.user_settings import Config

PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT = PYPROJECT["project"]
EXTRAS: dict[str, list[str]] = PROJECT["optional-dependencies"]


def pins() -> dict[str, str]:
    """The version of each package in constraints.txt."""
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    return {canonicalize_name(name): version for name, version in (line.split("==") for line in lines)}


def requirements(*extras: str) -> Iterator[Requirement]:
    """What extras install besides the dependencies, and the extras that they stand for."""
    for extra in extras:
        for text in EXTRAS[extra]:
            requirement = Requirement(text)
            if requirement.name == "ecgpipe":
                yield from requirements(*requirement.extras)
            else:
                yield requirement


def commands_of_make(target: str) -> list[str]:
    """The commands of a target of the Makefile, as they are typed where .venv is active."""
    recipe = re.search(rf"^{target}:.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert recipe
    return [line.strip().replace("$(BIN)/", "") for line in recipe[1].splitlines()]


# The version


def test_the_version_stands_in_the_package_alone() -> None:
    assert "version" not in PROJECT
    assert PROJECT["dynamic"] == ["version"]
    assert PYPROJECT["tool"]["hatch"]["version"]["path"] == "ecgpipe/__init__.py"
    assert re.fullmatch(r"\d+\.\d+\.\d+", ecgpipe.__version__)


def test_the_citation_is_of_this_version() -> None:
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == ecgpipe.__version__


def test_the_changelog_begins_with_what_is_unreleased_and_then_has_this_version() -> None:
    headings = re.findall(r"^## \[(.+?)\](.*)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert headings[0] == ("Unreleased", "")
    assert headings[1][0] == ecgpipe.__version__
    assert all(re.fullmatch(r" - (\d{4}-\d\d-\d\d|Unreleased)", rest) for _, rest in headings[1:])


# Python and packages


def test_every_place_names_the_oldest_python_that_works() -> None:
    (oldest,) = re.findall(r">=(3\.\d+)$", PROJECT["requires-python"])
    assert PYPROJECT["tool"]["ruff"]["target-version"] == f"py{oldest.replace('.', '')}"
    assert f"sys.version_info < ({oldest.replace('.', ', ')})" in (ROOT / "Makefile").read_text()
    for page in ("README.md", "CONTRIBUTING.md", "docs/usage.md"):
        assert set(re.findall(r"Python (3\.\d+) or newer", (ROOT / page).read_text())) == {oldest}, page


def test_every_package_that_an_extra_names_is_pinned_to_a_version_in_its_range() -> None:
    pinned = pins()
    wanted = [Requirement(text) for text in PROJECT["dependencies"]]
    wanted += [*requirements(*EXTRAS), *map(Requirement, PYPROJECT["build-system"]["requires"])]
    assert not [str(one) for one in wanted if pinned.get(canonicalize_name(one.name), "0") not in one.specifier]


def test_the_conda_environment_has_a_python_that_works_and_what_workflow_and_formats_install() -> None:
    environment = yaml.safe_load((ROOT / "workflow" / "envs" / "ecgpipe.yaml").read_text())
    python, _, pip = environment["dependencies"]
    assert python.replace("python =", "") + ".0" in SpecifierSet(PROJECT["requires-python"])
    wanted = [*PROJECT["dependencies"], *map(str, requirements("workflow", "formats"))]
    assert {str(Requirement(text)) for text in pip["pip"]} == {str(Requirement(text)) for text in wanted}


def test_every_package_that_make_installs_is_pinned_also_those_that_another_one_needs() -> None:
    # What a virtual environment has from the start, and what differs between the builds of PyTorch for GPUs.
    unpinned = ("setuptools", "cuda-", "nvidia-", "triton")
    new = [*map(Requirement, PROJECT["dependencies"]), *requirements("demo", "dev", "formats", "slurm")]
    found: set[str] = set()
    while new:
        one = new.pop()
        name = canonicalize_name(one.name)
        if name not in found and not name.startswith(unpinned):
            found.add(name)
            needs = map(Requirement, metadata.requires(name) or [])
            new += [need for need in needs if is_wanted(need, one.extras)]
    assert found - set(pins()) == set()


def is_wanted(need: Requirement, extras: set[str]) -> bool:
    """Whether a package that is asked for with extras needs another one here."""
    marker = need.marker
    return marker is None or any(marker.evaluate({"extra": extra}) for extra in ["", *extras])


@pytest.mark.parametrize("stamp", ["demo", "dev"])
def test_what_make_installs_has_the_workflow_and_all_formats(stamp: str) -> None:
    (install, *_) = commands_of_make(rf"\.venv/{stamp}")
    (extras,) = re.findall(r"'\.\[(.+)\]'", install)
    names = {one.name for one in requirements(*extras.split(","))}
    assert {one.name for one in requirements("workflow", "formats")} <= names


# Tools


def test_pre_commit_runs_the_commands_of_make_check_from_the_same_environment() -> None:
    configuration = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
    assert [source["repo"] for source in configuration["repos"]] == ["local"]  # with no versions of its own
    hooks = configuration["repos"][0]["hooks"]
    assert {hook["language"] for hook in hooks} == {"system"}
    entries = {hook["entry"].removeprefix(".venv/bin/").replace(" --force-exclude", "") for hook in hooks}
    assert entries == {command.removesuffix(" .") for command in commands_of_make("check")}
    assert all(hook["entry"].startswith(".venv/bin/") for hook in hooks)


def test_the_workflow_catalog_names_a_setting_that_exists() -> None:
    usage = yaml.safe_load((ROOT / ".snakemake-workflow-catalog.yml").read_text())["usage"]
    assert usage.keys() == {"mandatory-flags", "software-stack-deployment", "report"}
    assert usage["mandatory-flags"].keys() == {"desc", "flags"}
    assert set(re.findall(r"(\w+)=", usage["mandatory-flags"]["flags"])) <= set(Config.model_fields)
    assert usage["software-stack-deployment"].keys() == {"conda", "apptainer", "apptainer+conda"}


TEMPLATES = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"))


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.stem)
def test_issue_templates_are_what_github_reads(path: Path) -> None:
    template = yaml.safe_load(path.read_text())
    if "blank_issues_enabled" in template:
        return
    assert {"name", "description", "body"} <= template.keys()
    kinds = {"checkboxes", "dropdown", "input", "markdown", "textarea"}
    assert {field["type"] for field in template["body"]} <= kinds
    ids = [field["id"] for field in template["body"] if field["type"] != "markdown"]
    assert len(set(ids)) == len(ids)


def test_the_source_distribution_names_folders_that_are_there() -> None:
    include = PYPROJECT["tool"]["hatch"]["build"]["targets"]["sdist"]["include"]
    assert not [name for name in include if not (ROOT / name.lstrip("/")).exists()]
