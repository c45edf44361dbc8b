"""What a machine with a GPU and without a network lacks, in one folder: our code, small inputs, wheels, one script.

    make gpu-bundle [GPU_PYTHON=3.12] [REFERENCE=../shared/reference]
    python -m benchmarks.gpu_bundle [--python 3.12] [--reference FOLDER] [--folder gpu-bundle]

Such machines are lent for minutes and have PyTorch, a scientific Python and nothing to download from. The folder's
run.sh installs what is missing there into a folder of its own and runs benchmarks.gpu; offline/README.md says how.
Checkpoints are made there. Which wheels: what pyproject.toml names and what that requires, as installed here, in the
versions of constraints.txt.

    gpu-bundle/run.sh, install.py, README.md, bundle.json
    gpu-bundle/code/               ecgpipe, benchmarks, the tests marked gpu, the workflow
    gpu-bundle/shared/reference/   real recordings and reference numbers, where benchmarks and tests look for them
    gpu-bundle/wheels/             for Linux on x86_64
"""

import argparse
import importlib.util
import json
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name, parse_wheel_filename

from ecgpipe.core.errors import EcgpipeError

ROOT = Path(__file__).parents[1]
PYTHONS = ("3.11", "3.12", "3.13")
MOST_BYTES = 60_000_000

# Too large to carry, and installed where PyTorch is used for science. What only they require is not carried either.
ASSUMED = ("torch", "numpy", "scipy", "pandas", "pyarrow", "scikit-learn", "matplotlib", "numba", "llvmlite")
# Required by what is carried and not used: PuLP by Snakemake's other scheduler (16 MB), hf-xet for downloads (4 MB),
# setuptools for installing from source.
LEFT_OUT = ("pulp", "hf-xet", "setuptools")
# Of pyproject's optional dependencies: simulated recordings, the loop of the tutorial's notebook, the tests.
OPTIONAL = ("ecg-transform", "hypothesis", "psutil", "pytest")

CODE = (
    "ecgpipe",
    "snakemake_logger_plugin_ecgpipe",
    "benchmarks",
    "config",
    "workflow",
    "profiles",
    "Snakefile",
    "pyproject.toml",
    "LICENSE",
)
REFERENCE = ("code15", "golden", "make_checkpoint.py", "mimic_iv_ecg_label_def.csv")
SCRIPTS = ("README.md", "install.py", "run.sh")  # the last makes the folder usable
# The versions of glibc, up to 2.28, that auditwheel and maturin, which name wheels, tell apart.
MANYLINUX = (28, 27, 26, 24, 17, 12, 5)
GPU_TEST = re.compile(r"\bpytest\.mark\.gpu\b")


def requirements(pyproject: Path = ROOT / "pyproject.toml") -> list[str]:
    """What the code in the folder asks for in pyproject.toml: dependencies, the workflow's and `OPTIONAL`."""
    project = tomllib.loads(pyproject.read_text())["project"]
    optional = [line for extra in project["optional-dependencies"].values() for line in extra]
    by_name = {str(canonicalize_name(Requirement(line).name)): line for line in optional}
    return [
        *project["dependencies"],
        *project["optional-dependencies"]["workflow"],
        *(by_name[name] for name in OPTIONAL),
    ]


def pinned(constraints: Path = ROOT / "constraints.txt") -> dict[str, str]:
    """The version of each package in constraints.txt, by name."""
    lines = (line.partition("#")[0].strip() for line in constraints.read_text().splitlines())
    pairs = (line.split("==") for line in lines if line)
    return {canonicalize_name(name): version for name, version in pairs}


def tree(requirements: Iterable[str], python: str, leave: Collection[str]) -> set[str]:
    """The names of the packages that are required, directly or not, as those that are installed here state it.

    Args:
        requirements: As in pyproject.toml.
        python: The version of Python that markers are decided for, e.g. "3.12"; Linux on x86_64.
        leave: Packages not to name, nor to look into.

    Raises:
        EcgpipeError: A package is not installed here, so that nothing is known of what it requires.
    """
    machine = {"python_version": python, "python_full_version": f"{python}.0", "platform_machine": "x86_64"}
    machine |= {"sys_platform": "linux", "platform_system": "Linux", "os_name": "posix"}
    seen: set[tuple[str, frozenset[str]]] = set()
    queue = [Requirement(line) for line in requirements]
    while queue:
        requirement = queue.pop(0)
        name, extras = canonicalize_name(requirement.name), frozenset(requirement.extras)
        if name in leave or (name, extras) in seen:
            continue
        seen.add((name, extras))
        try:
            further = [Requirement(line) for line in metadata.requires(name) or []]
        except metadata.PackageNotFoundError:
            raise EcgpipeError(f"{name} is not installed here, and Python {python} needs it: make .venv/dev") from None
        for one in further:
            if one.marker is None or any(one.marker.evaluate({**machine, "extra": extra}) for extra in ("", *extras)):
                queue.append(one)
    return {name for name, _ in seen}


def fetch(pins: Mapping[str, str], python: str, folder: Path) -> None:
    """Make a folder hold these packages as wheels and no others; those that lie there already stay.

    Args:
        pins: Versions by name.
        python: Of the machine they are for, e.g. "3.12".
        folder: It is made; if it exists, its wheels are for that Python.

    Raises:
        EcgpipeError: pip could not download or build one.
    """
    folder.mkdir(parents=True, exist_ok=True)
    missing = dict(pins)
    for path in folder.iterdir():
        name, version, *_ = parse_wheel_filename(path.name) if path.suffix == ".whl" else ("", "")
        if missing.get(str(name)) == str(version):
            del missing[str(name)]
        else:
            path.unlink()
    if not missing:
        return
    # pip matches these tags literally, each with each file of a package.
    tags = [f"manylinux_2_{minor}" for minor in MANYLINUX] + ["manylinux2014", "manylinux2010", "manylinux1"]
    target = ["--python-version", python, "--implementation", "cp"]
    target += [option for tag in tags for option in ("--platform", f"{tag}_x86_64")]
    lines = [f"{name}=={version}" for name, version in missing.items()]

    def download(some: Sequence[str]) -> None:
        if some:
            _pip("download", *target, "--dest", str(folder), *some)

    with ThreadPoolExecutor(2) as pool:  # most of it is pip's reading of the registry's pages
        list(pool.map(download, (lines[::2], lines[1::2])))
    for archive in [path for path in folder.iterdir() if path.suffix != ".whl"]:  # no wheel of it is published
        _pip("wheel", "--wheel-dir", str(folder), str(archive))
        archive.unlink()
    for path in folder.iterdir():
        if not path.name.endswith("-any.whl") and "manylinux" not in path.name:
            raise EcgpipeError(f"{path.name} was compiled for this machine: there is no wheel for Python {python}")


def _pip(command: str, *arguments: str) -> None:
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    # What has no wheel is built with this Python's own setuptools, not with one that pip would fetch for each command.
    build = ["--no-build-isolation"] if importlib.util.find_spec("setuptools") else []
    done = subprocess.run([*pip, command, "--no-deps", *build, *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise EcgpipeError(f"pip {command} failed:\n{done.stderr.strip()}")


def copy(source: Path, target: Path) -> None:
    """Copy a file or the files of a folder, without permissions and without what Python caches."""
    files = [source] if source.is_file() else [path for path in source.rglob("*") if path.is_file()]
    for path in files:
        if "__pycache__" in path.parts:
            continue
        to = target / path.relative_to(source)
        to.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, to)


def gpu_tests(tests: Path = ROOT / "tests") -> list[Path]:
    """The test files with tests marked gpu."""
    return sorted(path for path in tests.rglob("test_*.py") if GPU_TEST.search(path.read_text()))


def with_helpers(marked: Iterable[Path], tests: Path = ROOT / "tests") -> list[Path]:
    """Test files, the conftest files that apply to them, and the modules that any test may import."""
    folders = {parent for path in marked for parent in path.parents if parent.is_relative_to(tests)}
    conftests = [path for path in (folder / "conftest.py" for folder in folders) if path.exists()]
    return sorted({*marked, *conftests, *tests.glob("*.py"), *tests.glob("helpers/*.py")})


def check_size(folder: Path, most: int = MOST_BYTES) -> int:
    """The bytes of a folder's files.

    Raises:
        EcgpipeError: They are more than `most`; it names the largest files.
    """
    sizes = {path: path.stat().st_size for path in folder.rglob("*") if path.is_file()}
    total = sum(sizes.values())
    if total > most:
        largest = sorted(sizes, key=lambda path: -sizes[path])[:10]
        lines = "".join(f"\n  {sizes[path] / 1e6:6.1f} MB  {path.relative_to(folder)}" for path in largest)
        raise EcgpipeError(f"{folder}: {total / 1e6:.1f} MB, of {most / 1e6:g} MB at most. Its largest files:{lines}")
    return total


def make(folder: Path, python: str, reference: Path) -> None:
    """Make the folder, or make it anew; what else lies in it, such as results, stays.

    Args:
        folder: Where to.
        python: The version of Python of the machine it is for, one of `PYTHONS`.
        reference: The folder of real recordings and reference numbers; without it the folder has none.

    Raises:
        EcgpipeError: The folder holds something else, or is too large, or a package cannot be had.
    """
    note = folder / "bundle.json"
    if folder.is_dir() and any(folder.iterdir()) and not note.exists():
        raise EcgpipeError(f"{folder} exists and was not made by this command; name another with --folder")
    wheels = folder / "wheels"
    if note.exists() and json.loads(note.read_text())["python"] != python:
        shutil.rmtree(wheels, ignore_errors=True)
    for stale in ("code", "shared", "site", "site.partial"):
        shutil.rmtree(folder / stale, ignore_errors=True)
    for name in SCRIPTS:
        (folder / name).unlink(missing_ok=True)
    required = requirements()
    leave = (*ASSUMED, *LEFT_OUT)
    versions = pinned()
    names = sorted(tree(required, python, leave))
    if unpinned := [name for name in names if name not in versions]:
        raise EcgpipeError(f"constraints.txt has no version of {', '.join(unpinned)}")
    folder.mkdir(parents=True, exist_ok=True)
    content = {"python": python, "commit": _commit(), "requirements": required, "left_out": LEFT_OUT}
    note.write_text(json.dumps(content, indent=2) + "\n")
    fetch({name: versions[name] for name in names}, python, wheels)
    for part in CODE:
        copy(ROOT / part, folder / "code" / part)
    for path in with_helpers(gpu_tests()):
        copy(path, folder / "code" / path.relative_to(ROOT))
    if reference.is_dir():
        for part in REFERENCE:
            copy(reference / part, folder / "shared" / "reference" / part)
    else:
        print(f"No reference data in {reference}: the steps that need it will be skipped. REFERENCE=FOLDER names it.")
    for name in SCRIPTS:
        copy(ROOT / "benchmarks" / "offline" / name, folder / name)
        (folder / name).chmod(0o755 if name.endswith(".sh") else 0o644)


def _commit() -> str | None:
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def main() -> None:
    """Make the folder and say what it has."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", choices=PYTHONS, default="3.12", help="of the machine (default %(default)s)")
    parser.add_argument(
        "--reference", type=Path, default=ROOT.parent / "shared" / "reference", help="(default ../shared/reference)"
    )
    parser.add_argument("--folder", type=Path, default=ROOT / "gpu-bundle", help="(default gpu-bundle)")
    args = parser.parse_args()
    try:
        make(args.folder, args.python, args.reference)
        total = check_size(args.folder)
    except EcgpipeError as error:
        sys.exit(str(error))
    parts = {name: args.folder / name for name in ("wheels", "code", "shared")}
    sizes = ", ".join(f"{name} {check_size(path) / 1e6:.1f}" for name, path in parts.items() if path.is_dir())
    print(f"{args.folder}: {total / 1e6:.1f} MB ({sizes}) for Python {args.python}. On the machine: ./run.sh")


if __name__ == "__main__":
    main()
