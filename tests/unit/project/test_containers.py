"""The container recipes, as far as they can be checked without building; docs/containers.md says what was built."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from run_workflow import ROOT, snakemake, write_recordings

DOCKERFILE = (ROOT / "containers" / "Dockerfile").read_text()
APPTAINER = (ROOT / "containers" / "ecgpipe.def").read_text()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

# Instructions, each on one line.
STEPS = [line for line in DOCKERFILE.replace("\\\n", "").splitlines() if re.match(r"[A-Z]+ ", line)]
FINAL = STEPS[max(i for i, step in enumerate(STEPS) if step.startswith("FROM ")) :]
SECTIONS = dict(re.findall(r"^%(\w+)\n(.*?)(?=^%|\Z)", APPTAINER, re.MULTILINE | re.DOTALL))


def copied(steps: list[str]) -> set[str]:
    """What is copied from the clone, not from another stage."""
    copies = [step.split()[1:-1] for step in steps if step.startswith("COPY ") and "--from" not in step]
    return {name for names in copies for name in names}


def files_of_apptainer() -> dict[str, str]:
    return dict(line.split() for line in SECTIONS["files"].splitlines() if line.strip())


def tool(name: str) -> str:
    found = shutil.which(name, path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


def test_everything_that_is_copied_is_there() -> None:
    assert copied(STEPS)
    missing = {name for name in copied(STEPS) | files_of_apptainer().keys() if not (ROOT / name).exists()}
    assert not missing


def test_docker_is_given_what_is_copied_and_nothing_else() -> None:
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    assert "*" in lines
    assert {line.removeprefix("!") for line in lines if line.startswith("!")} == copied(STEPS)


def test_both_images_have_the_same_files() -> None:
    assert files_of_apptainer().keys() == copied(STEPS)
    assert set(files_of_apptainer().values()) == {"/opt/ecgpipe/"}


@pytest.mark.slow
def test_the_files_of_the_final_image_are_enough_to_start_the_workflow_from_another_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clone, work = tmp_path / "opt" / "ecgpipe", tmp_path / "work"
    for name in copied(FINAL):
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, clone / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            clone.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, clone)
    write_recordings(work / "input", 1)
    monkeypatch.setenv("PYTHONPATH", str(clone))
    ran = snakemake(work, "--snakefile", str(clone / "Snakefile"), "--dry-run", input="input")
    assert ran.status == 0, ran.output
    assert f"{clone}/profiles/default" in ran.output
    assert ran.jobs["manifest"] == 1


def test_both_start_from_one_image_that_is_pinned_by_digest() -> None:
    images = [step.split()[1] for step in STEPS if step.startswith("FROM ")]
    assert set(images[1:]) == {"base"}  # all stages are made from the first
    assert re.fullmatch(r"python:\d+\.\d+\.\d+-slim-\w+@sha256:[0-9a-f]{64}", images[0])
    assert re.search(r"^From: (.+)$", APPTAINER, re.MULTILINE)[1] == images[0]  # type: ignore[index]


def test_its_python_is_one_that_ecgpipe_supports() -> None:
    version = re.search(r"python:([\d.]+)", DOCKERFILE)
    assert version
    assert version[1] in SpecifierSet(PROJECT["requires-python"])


@pytest.mark.parametrize("recipe", [DOCKERFILE, SECTIONS["post"]], ids=["docker", "apptainer"])
def test_every_package_is_of_the_version_that_constraints_pins(recipe: str) -> None:
    commands = [line for line in recipe.replace("\\\n", "").splitlines() if "pip install" in line]
    assert len(commands) == 2
    assert all("--constraint constraints.txt" in command for command in commands)
    assert "==" not in "".join(commands)  # no second opinion
    pinned = {Requirement(line).name for line in (ROOT / "constraints.txt").read_text().splitlines() if line[0] != "#"}
    wanted = {
        Requirement(line).name for line in [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["workflow"]]
    }
    assert {name.lower().replace("_", "-") for name in wanted} <= {name.lower().replace("_", "-") for name in pinned}


def test_the_user_is_not_root_and_has_a_home_and_a_name_whatever_its_number() -> None:
    users = [step.split()[1] for step in FINAL if step.startswith("USER ")]
    assert users
    assert not users[-1].startswith(("0", "root"))
    environment = " ".join(step for step in FINAL if step.startswith("ENV "))
    assert re.search(r"\bHOME=/work\b", environment)
    assert re.search(r"\bUSER=\w+", environment)  # Snakemake ends with a KeyError for a number without a name


def test_hadolint_finds_nothing_in_the_dockerfile() -> None:
    ran = subprocess.run([tool("hadolint"), ROOT / "containers" / "Dockerfile"], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout


@pytest.mark.parametrize("section", ["post", "environment", "runscript", "test"])
def test_shellcheck_finds_nothing_in_the_apptainer_recipe(section: str) -> None:
    script = re.sub(r"\{\{ (\w+) \}\}", r"\1", SECTIONS[section])
    command = [tool("shellcheck"), "--shell=sh", "-"]
    ran = subprocess.run(command, input=script, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout


def test_what_the_apptainer_recipe_fills_in_is_an_argument_with_a_default() -> None:
    filled = set(re.findall(r"\{\{ (\w+) \}\}", APPTAINER))
    assert filled == set(re.findall(r"^ +(\w+)=", SECTIONS["arguments"], re.MULTILINE))
