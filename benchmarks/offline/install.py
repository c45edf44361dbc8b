"""Install beside this file, from the wheels here and without a network, what this machine's Python lacks.

    python3 install.py

Called by run.sh. A package that this Python has already, in a version that fits, stays as it is: its PyTorch and NumPy
are never replaced. The rest goes into the folder `site`, which is made anew only where it differs from what is needed.
The file runs by itself, in any Python from 3.8 on, so that an older one is told what it is instead of a syntax error.
"""

from __future__ import annotations

import importlib.util
import json
import platform
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
SITE = HERE / "site"


def canonical(name: str) -> str:
    """The name of a package as packages are compared: PEP 503's, e.g. `typing-extensions`."""
    return name.lower().replace("_", "-").replace(".", "-")


def refuse_python(wanted: str) -> None:
    """Exit where this machine cannot use the wheels at all, or has no PyTorch.

    Args:
        wanted: The version of Python that the wheels are for, e.g. "3.12".
    """
    running = f"{sys.version_info.major}.{sys.version_info.minor}"
    if running != wanted:
        sys.exit(
            f"The wheels here are for Python {wanted}, and {sys.executable} is Python {running}. Name another with\n"
            f"  PYTHON=/path/to/python{wanted} ./run.sh\n"
            f"or make the folder anew for this one, where there is a network:\n"
            f"  make gpu-bundle GPU_PYTHON={running}"
        )
    if (sys.platform, platform.machine()) != ("linux", "x86_64"):
        sys.exit(f"The wheels here are for Linux on x86_64, and this is {sys.platform} on {platform.machine()}.")
    if importlib.util.find_spec("torch") is None:
        sys.exit(
            f"{sys.executable} has no PyTorch, which is too large to carry. Name a Python {wanted} that has it:\n"
            f"  PYTHON=/path/to/python{wanted} ./run.sh"
        )


def find_wheels(folder: Path) -> dict[str, Path]:
    """The wheels in a folder by the name of their package."""
    return {canonical(path.name.split("-")[0]): path for path in sorted(folder.glob("*.whl"))}


def choose(
    requirements: list[str], wheels: dict[str, Path], there: dict[str, metadata.Distribution]
) -> tuple[list[Path], list[str]]:
    """Which wheels this machine lacks, and what neither it nor the folder has.

    What a package of the machine's own requires is left to the machine: only what is installed from here has its
    requirements looked at.

    Args:
        requirements: What must be there in the end, as in pyproject.toml, e.g. "pydantic>=2.10".
        wheels: Those at hand, by name.
        there: What this machine's Python has, by name.

    Returns:
        The wheels to install, by name, and a line for each package that is missing or of another version.
    """
    from packaging.requirements import Requirement

    chosen: dict[str, Path] = {}
    lacking: dict[str, str] = {}
    asked: set[tuple[str, frozenset[str]]] = set()
    queue = [(Requirement(line), "ecgpipe") for line in requirements]
    while queue:
        requirement, whose = queue.pop(0)
        name, extras = canonical(requirement.name), frozenset(requirement.extras)
        own = there.get(name)
        if name not in chosen and own and requirement.specifier.contains(own.version, prereleases=True):
            continue
        if name not in wheels:
            found = own.version if own else "missing"
            lacking[name] = f"{name}: {found}; {whose} asks for {requirement.specifier or 'any version'}"
            continue
        chosen[name] = wheels[name]
        if (name, extras) in asked:
            continue
        asked.add((name, extras))
        (wheel,) = metadata.distributions(path=[str(wheels[name])])
        for line in wheel.requires or []:
            one = Requirement(line)
            if one.marker is None or any(one.marker.evaluate({"extra": extra}) for extra in ("", *extras)):
                queue.append((one, name))
    return [chosen[name] for name in sorted(chosen)], [lacking[name] for name in sorted(lacking)]


def install(wheels: list[Path], site: Path) -> bool:
    """Install wheels into a folder of their own, unless they are what it has.

    It is filled under another name first, so that one which was interrupted is not taken for whole.

    Returns:
        Whether anything had to be installed.
    """
    note = site / "installed.json"
    names = [path.name for path in wheels]
    if note.exists() and json.loads(note.read_text()) == names:
        return False
    partial = site.with_name(f"{site.name}.partial")
    for folder in (partial, site):
        shutil.rmtree(folder, ignore_errors=True)
    partial.mkdir()
    if wheels:
        pip = [sys.executable, "-m", "pip", "--isolated", "--disable-pip-version-check", "--quiet"]
        options = ["--no-index", "--no-deps", "--no-compile", "--no-cache-dir", "--no-warn-conflicts"]
        done = subprocess.run([*pip, "install", *options, "--target", str(partial), *map(str, wheels)], check=False)
        if done.returncode:
            sys.exit(f"pip could not install the wheels of {HERE / 'wheels'}; what it said is above.")
    (partial / note.name).write_text(json.dumps(names))
    partial.rename(site)
    return True


def main() -> None:
    """Install what is missing and say so."""
    bundle: dict[str, Any] = json.loads((HERE / "bundle.json").read_text())
    refuse_python(bundle["python"])
    path = [folder for folder in sys.path if Path(folder or ".").resolve() not in (HERE, SITE)]
    there: dict[str, metadata.Distribution] = {}
    for distribution in metadata.distributions(path=path):
        there.setdefault(canonical(distribution.metadata["Name"] or ""), distribution)
    wheels = find_wheels(HERE / "wheels")
    sys.path.append(str(wheels["packaging"]))  # a wheel is a zip file that Python imports from
    chosen, lacking = choose(bundle["requirements"], wheels, there)
    for line in lacking:
        if line.partition(":")[0] not in bundle["left_out"]:
            print(f"not here as it should be, and not in this folder: {line}")
    fresh = install(chosen, SITE)
    verb = "installed" if fresh else "already installed"
    print(f"{len(chosen)} of {len(wheels)} packages {verb} in {SITE}; this Python has the others", flush=True)


if __name__ == "__main__":
    main()
