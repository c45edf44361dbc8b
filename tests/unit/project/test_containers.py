"""The container recipes, as far as they can be checked without building; docs/containers.md says what was built."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.specifiers import SpecifierSet
from run_workflow import ROOT

DOCKERFILE = (ROOT / "containers" / "Dockerfile").read_text()
APPTAINER = (ROOT / "containers" / "ecgpipe.def").read_text()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

# Instructions, each on one line.
STEPS = [line for line in DOCKERFILE.replace("\\\n", "").splitlines() if re.match(r"[A-Z]+ ", line)]
SECTIONS = dict(re.findall(r"^%(\w+)\n(.*?)(?=^%|\Z)", APPTAINER, re.MULTILINE | re.DOTALL))


def stages() -> dict[str, list[str]]:
    """By name, the steps of each stage; its first one says what it starts from."""
    found: dict[str, list[str]] = {}
    for step in STEPS:
        if step.startswith("FROM "):
            found[step.split()[-1]] = []
        if found:
            found[next(reversed(found))].append(step)
    return found


STAGES = stages()


def copied() -> set[str]:
    """What is copied from the clone, not from another stage."""
    copies = [step.split()[1:-1] for step in STEPS if step.startswith("COPY ") and "--from" not in step]
    return {name for names in copies for name in names}


def files_of_apptainer() -> dict[str, str]:
    return dict(line.split() for line in SECTIONS["files"].splitlines() if line.strip())


def tool(name: str) -> str:
    found = shutil.which(name, path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


def test_everything_that_is_copied_is_there() -> None:
    assert copied()
    missing = {name for name in copied() | files_of_apptainer().keys() if not (ROOT / name).exists()}
    assert not missing


def test_docker_is_given_what_is_copied_and_nothing_else() -> None:
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    assert "*" in lines
    assert {line.removeprefix("!") for line in lines if line.startswith("!")} == copied()


def test_both_images_have_the_same_files() -> None:
    assert files_of_apptainer().keys() == copied()
    assert set(files_of_apptainer().values()) == {"/opt/ecgpipe/"}


def test_the_copied_files_build_the_wheel_of_the_clone(tmp_path: Path) -> None:
    (tmp_path / "image").mkdir()
    for name in copied():
        take = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        take(ROOT / name, tmp_path / "image" / name)
    names = []
    for folder in (ROOT, tmp_path / "image"):
        command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", f"--outdir={tmp_path}", str(folder)]
        subprocess.run(command, check=True, capture_output=True)
        names.append(zipfile.ZipFile(next(tmp_path.glob("*.whl"))).namelist())
    assert names[0] == names[1]


def test_both_start_from_one_image_that_is_pinned_by_digest() -> None:
    first, *others = (steps[0].split()[1] for steps in STAGES.values())
    assert set(others) <= set(STAGES)  # all stages are made from the first
    assert re.fullmatch(r"python:\d+\.\d+\.\d+-slim-\w+@sha256:[0-9a-f]{64}", first)
    assert re.search(r"^From: (.+)$", APPTAINER, re.MULTILINE)[1] == first  # type: ignore[index]


def test_there_is_a_target_for_cpus_and_one_for_gpus_and_the_builds_of_pytorch_alone_differ() -> None:
    assert list(STAGES)[-2:] == ["cpu", "cuda"]  # the last one is the default
    for name in ("cpu", "cuda"):
        assert STAGES[name] == [f"FROM runtime AS {name}", f"COPY --from=build-{name} /opt/venv /opt/venv"]
    cpu, cuda = STAGES["build-cpu"], STAGES["build-cuda"]
    assert [step for step, other in zip(cpu, cuda, strict=True) if step != other] == [
        "FROM base AS build-cpu",
        "ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu",
    ]


def test_both_images_run_the_command() -> None:
    assert 'ENTRYPOINT ["ecgpipe"]' in STAGES["runtime"]
    assert SECTIONS["runscript"].strip() == 'exec ecgpipe "$@"'


def test_its_python_is_one_that_ecgpipe_supports() -> None:
    version = re.search(r"python:([\d.]+)", DOCKERFILE)
    assert version
    assert version[1] in SpecifierSet(PROJECT["requires-python"])


@pytest.mark.parametrize(
    "recipe",
    ["\n".join(STAGES["build-cpu"]), "\n".join(STAGES["build-cuda"]), SECTIONS["post"]],
    ids=["docker-cpu", "docker-cuda", "apptainer"],
)
def test_every_package_is_of_the_version_that_constraints_pins(recipe: str) -> None:
    commands = [line for line in recipe.splitlines() if "pip install" in line]
    assert len(commands) == 2
    assert all("--constraint constraints.txt" in command for command in commands)
    assert "==" not in "".join(commands)  # no second opinion


def test_the_user_is_not_root_and_has_a_home_and_a_name_whatever_its_number() -> None:
    users = [step.split()[1] for step in STAGES["runtime"] if step.startswith("USER ")]
    assert users
    assert not users[-1].startswith(("0", "root"))
    environment = " ".join(step for step in STAGES["runtime"] if step.startswith("ENV "))
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
