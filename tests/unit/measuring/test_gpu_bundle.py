"""The folder for a machine with a GPU and without a network: what goes into it, and that all of it runs there."""

import json
import os
import subprocess
import sys
import time
import zipfile
from importlib import metadata
from pathlib import Path

import compiled
import matplotlib
import pytest
from packaging.requirements import Requirement

from benchmarks import gpu, gpu_bundle
from benchmarks.offline import install
from ecgpipe.core.errors import EcgpipeError

ROOT = gpu_bundle.ROOT
HERE = f"{sys.version_info.major}.{sys.version_info.minor}"
LEAVE = (*gpu_bundle.ASSUMED, *gpu_bundle.LEFT_OUT)


# What goes into the folder.


@pytest.mark.parametrize("python", gpu_bundle.PYTHONS)
def test_each_package_that_is_carried_has_an_exact_version(python: str) -> None:
    names = gpu_bundle.tree(gpu_bundle.requirements(), python, LEAVE)
    assert names >= {"pydantic", "pydantic-core", "snakemake", "umap-learn", "ecg-transform", "pytest", "wfdb"}
    assert names <= gpu_bundle.pinned().keys()


def test_what_the_machine_has_is_not_carried_nor_what_only_that_requires() -> None:
    names = gpu_bundle.tree(gpu_bundle.requirements(), "3.12", LEAVE)
    assert not names & {"torch", "numpy", "numba", "llvmlite", "sympy", "contourpy", "pulp"}


def test_of_the_requirements_some_optional_ones_come_along_in_the_versions_of_pyproject() -> None:
    lines = {Requirement(line).name: line for line in gpu_bundle.requirements()}
    assert lines["pydantic"] == "pydantic>=2.10"
    assert lines["ecg-transform"] == "ecg-transform>=0.2.1,<0.3"
    assert not lines.keys() & {"playwright", "mypy", "atheris"}


def test_the_tests_marked_gpu_come_with_what_they_import_and_without_others() -> None:
    marked = gpu_bundle.gpu_tests()
    assert ROOT / "tests" / "unit" / "inference" / "test_gpu.py" in marked
    assert ROOT / "tests" / "unit" / "inference" / "test_engine.py" not in marked
    files = {str(path.relative_to(ROOT / "tests")) for path in gpu_bundle.with_helpers(marked)}
    assert files >= {
        "conftest.py",
        "unit/conftest.py",
        "unit/inference/test_gpu.py",
        "helpers/checkpoints.py",
        "helpers/segment_files.py",
    }
    assert "unit/inference/test_engine.py" not in files
    assert "browser/conftest.py" not in files


def test_a_folder_that_is_too_large_is_refused_with_its_largest_files(tmp_path: Path) -> None:
    (tmp_path / "wheels").mkdir()
    for name, size in {"small.whl": 10, "large.whl": 2_000_000}.items():
        (tmp_path / "wheels" / name).write_bytes(bytes(size))
    assert gpu_bundle.check_size(tmp_path, 3_000_000) == 2_000_010
    with pytest.raises(EcgpipeError, match=r"2\.0 MB, of 1 MB at most.*\n +2\.0 MB  wheels/large\.whl\n"):
        gpu_bundle.check_size(tmp_path, 1_000_000)


def test_a_folder_of_somebody_elses_is_left_alone(tmp_path: Path) -> None:
    for name in ("wheels", "code"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "precious").touch()
    with pytest.raises(EcgpipeError, match="was not made by this command"):
        gpu_bundle.make(tmp_path, HERE, tmp_path)
    assert [path.name for path in tmp_path.rglob("precious")] == ["precious", "precious"]


# What is installed from it.


def wheel(folder: Path, name: str, version: str, *requires: str) -> Path:
    """Write the wheel of a package with one module of its name."""
    folder.mkdir(exist_ok=True)
    path = folder / f"{name}-{version}-py3-none-any.whl"
    about = [f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}", *(f"Requires-Dist: {one}" for one in requires)]
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{name}.py", f"version = {version!r}\n")
        archive.writestr(f"{name}-{version}.dist-info/METADATA", "\n".join(about) + "\n")
        archive.writestr(
            f"{name}-{version}.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{name}-{version}.dist-info/RECORD", "")
    return path


def there(*wheels: Path) -> dict[str, metadata.Distribution]:
    """A machine that has these packages."""
    found = metadata.distributions(path=[str(path) for path in wheels])
    return {install.canonical(distribution.metadata["Name"]): distribution for distribution in found}


def test_a_package_of_the_machines_own_that_fits_stays_with_all_that_it_requires(tmp_path: Path) -> None:
    wheel(tmp_path / "wheels", "model", "2.14", "model_core==2.50")
    wheel(tmp_path / "wheels", "model_core", "2.50")
    own = there(
        wheel(tmp_path / "own", "model", "2.11", "model_core==2.33"), wheel(tmp_path / "own", "model_core", "2.33")
    )
    assert install.choose(["model>=2.10"], install.find_wheels(tmp_path / "wheels"), own) == ([], [])


def test_a_package_that_is_missing_or_too_old_comes_with_what_it_requires(tmp_path: Path) -> None:
    model = wheel(tmp_path / "wheels", "model", "2.14", "model_core==2.50", "other; extra == 'more'", "lines>=1")
    core = wheel(tmp_path / "wheels", "model_core", "2.50")
    hub = wheel(tmp_path / "wheels", "hub", "2.4")
    wheel(tmp_path / "wheels", "lines", "3")
    own = there(
        wheel(tmp_path / "own", "model_core", "2.33"),
        wheel(tmp_path / "own", "hub", "1.33"),
        wheel(tmp_path / "own", "lines", "1"),
    )
    chosen, lacking = install.choose(["model>=2.10", "hub>=2"], install.find_wheels(tmp_path / "wheels"), own)
    assert chosen == [hub, model, core]
    assert lacking == []


def test_what_neither_the_machine_nor_the_folder_has_is_named(tmp_path: Path) -> None:
    wheel(tmp_path / "wheels", "maps", "1", "compiler>=1")
    own = there(wheel(tmp_path / "own", "numbers", "1.9"))
    _, lacking = install.choose(["maps", "numbers>=2"], install.find_wheels(tmp_path / "wheels"), own)
    assert lacking == ["compiler: missing; maps asks for >=1", "numbers: 1.9; ecgpipe asks for >=2"]


def test_wheels_are_installed_once_and_again_where_that_was_interrupted_or_others_are_needed(tmp_path: Path) -> None:
    one, other = wheel(tmp_path / "wheels", "one", "1"), wheel(tmp_path / "wheels", "other", "1")
    site = tmp_path / "site"
    (tmp_path / "site.partial").mkdir()
    (tmp_path / "site.partial" / "half.py").touch()
    assert install.install([one], site)
    assert not install.install([one], site)
    assert {path.name for path in site.glob("*.py")} == {"one.py"}
    assert install.install([one, other], site)
    assert {path.name for path in site.glob("*.py")} == {"one.py", "other.py"}


@pytest.mark.parametrize(
    ("python", "says"),
    [("3.99", f"for Python 3.99, and {sys.executable} is Python {HERE}"), (HERE, "has no PyTorch")],
)
def test_on_a_machine_that_cannot_run_it_the_script_gives_the_reason(python: str, says: str, tmp_path: Path) -> None:
    (tmp_path / "install.py").write_text(Path(install.__file__).read_text())
    (tmp_path / "bundle.json").write_text(json.dumps({"python": python}))
    command = [sys.executable, "-I", "-S", str(tmp_path / "install.py")]  # without any installed package
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    assert says in done.stderr
    assert "Traceback" not in done.stderr


# All of it.


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder for this Python, made as `make gpu-bundle` makes it."""
    folder = tmp_path_factory.mktemp("carried") / "gpu-bundle"
    command = [sys.executable, "-m", "benchmarks.gpu_bundle", "--python", HERE, "--folder", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    if "pip download failed" in done.stderr and not reaches_registry(folder.parent):
        pytest.skip(f"pip reaches no package registry: {done.stderr.strip().splitlines()[-1]}")
    assert done.returncode == 0, done.stderr
    return folder


def reaches_registry(folder: Path) -> bool:
    """Whether pip can download a small package."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder), "iniconfig"]
    return subprocess.run(command, stderr=subprocess.DEVNULL).returncode == 0


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of a new environment that has what the folder takes for granted, and nothing else."""
    folder = tmp_path_factory.mktemp("machine")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder / "venv")], check=True)
    (site,) = (folder / "venv" / "lib").glob("python3*/site-packages")
    for name in {"pip", *gpu_bundle.tree(gpu_bundle.ASSUMED, HERE, ())}:
        distribution = metadata.distribution(name)
        tops = {path.parts[0] for path in distribution.files or [] if path.parts[0] not in ("..", "__pycache__")}
        for top in tops - {link.name for link in site.iterdir()}:
            (site / top).symlink_to(str(distribution.locate_file(top)))
    return folder / "venv" / "bin" / "python"


@pytest.fixture(scope="module")
def without_network() -> list[str]:
    """What comes before a command to run it where no address can be reached, if this user may do that."""
    command = ["unshare", "--net"]
    try:
        return command if subprocess.run([*command, "true"], capture_output=True).returncode == 0 else []
    except OSError:
        return []


@pytest.mark.slow
def test_without_a_network_and_a_gpu_every_step_runs_in_an_environment_that_lacks_what_the_folder_has(
    bundle: Path, machine: Path, without_network: list[str], tmp_path: Path
) -> None:
    listed = subprocess.run([machine, "-m", "pip", "list"], check=True, capture_output=True, text=True).stdout
    names = {install.canonical(line.split()[0]) for line in listed.splitlines() if line}
    assert names >= {"torch", "numpy"}
    assert not names & {
        "ecgpipe",
        "pydantic",
        "snakemake",
        "captum",
        "plotly",
        "wfdb",
        "umap-learn",
        "ecg-transform",
        "pytest",
    }

    nowhere = dict.fromkeys(("http_proxy", "https_proxy", "all_proxy"), "http://127.0.0.1:9")
    env = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "CUDA_VISIBLE_DEVICES": "", **nowhere}
    env |= {"PYTHON": str(machine), "OUT": str(tmp_path / "out")}
    env["MPLCONFIGDIR"] = matplotlib.get_cachedir()  # has a list of this system's fonts, which takes seconds to make
    # Time enough on a machine that is busy with other tests.
    command = [*without_network, str(bundle / "run.sh"), "--tiny", "--device", "cpu", "--budget-s", "4800"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=env, cwd=tmp_path
    ) as runs:
        while not (bundle / "site").exists() and runs.poll() is None:
            time.sleep(0.05)
        compiled.take_to_packages(bundle / "site")  # long before a step needs it
        said, _ = runs.communicate()
    assert runs.returncode == 0, said + (tmp_path / "out" / "gpu.log").read_text()[-5000:]

    steps = json.loads((tmp_path / "out" / "gpu.json").read_text())["steps"]
    for_a_gpu = {"compile", "memory"}
    on_real_recordings = {"parity", "drift", "workflow"} if not (bundle / "shared").exists() else set()
    expected = {name: "skipped" if name in for_a_gpu | on_real_recordings else "done" for name in gpu.STEPS}
    assert {name: step["status"] for name, step in steps.items()} == expected
    if not on_real_recordings:
        assert steps["parity"]["result"]["tiny"]["ok"]
        assert steps["workflow"]["result"]["largest_difference"] < 1e-5
    assert "not here as it should be" not in said

    site = {path.name for path in (bundle / "site").iterdir()}
    assert site >= {"pydantic", "snakemake", "wfdb"}
    assert not site & {"torch", "numpy", "scipy", "pandas", "pyarrow", "sklearn", "matplotlib", "numba"}
    again = subprocess.run([machine, str(bundle / "install.py")], capture_output=True, text=True, env=env, check=True)
    assert "packages already installed in" in again.stdout
