"""The folder for a machine with a GPU and without a network: what goes into it, and that all of it runs there."""

import json
import os
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
from packaging.utils import canonicalize_name

from benchmarks import gpu, gpu_bundle
from benchmarks.offline import install
from ecgpipe.errors import EcgpipeError

HERE = f"{sys.version_info.major}.{sys.version_info.minor}"
# What this machine can do to be one without a network; root may.
WITHOUT_NETWORK = ["unshare", "--net"]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder for this Python, made as `make gpu-bundle` makes it."""
    folder = tmp_path_factory.mktemp("carried") / "gpu-bundle"
    command = [sys.executable, "-m", "benchmarks.gpu_bundle", "--python", HERE, "--folder", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=gpu_bundle.ROOT)
    if "pip download failed" in done.stderr and not reaches_registry(folder):
        pytest.skip(f"pip reaches no package registry: {done.stderr.splitlines()[-1]}")
    assert done.returncode == 0, done.stderr
    return folder


def reaches_registry(folder: Path) -> bool:
    """Whether pip can download the smallest of the packages."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder / "try"), "iniconfig"]
    return subprocess.run(command, stderr=subprocess.DEVNULL).returncode == 0


@pytest.fixture(scope="module")
def clean_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of a new environment that has what the folder takes for granted, and nothing else."""
    folder = tmp_path_factory.mktemp("machine")
    subprocess.run([sys.executable, "-m", "venv", str(folder / "venv")], check=True)
    (folder / "there").mkdir()
    for name in gpu_bundle.tree(gpu_bundle.ASSUMED, HERE, ()):
        for path in metadata.files(name) or []:
            top = path.parts[0]
            if top != ".." and top != "__pycache__" and not (folder / "there" / top).is_symlink():
                (folder / "there" / top).symlink_to(Path(str(path.locate())).parents[len(path.parts) - 2] if len(path.parts) > 1 else path.locate())
    (site,) = (folder / "venv" / "lib").glob("python3*/site-packages")
    (site / "there.pth").write_text(f"{folder / 'there'}\n")
    return folder / "venv" / "bin" / "python"


@pytest.mark.slow
def test_in_an_environment_without_network_and_gpu_every_step_runs(bundle: Path, clean_python: Path, tmp_path: Path) -> None:
    have = subprocess.run([clean_python, "-m", "pip", "list"], check=True, capture_output=True, text=True).stdout
    assert "torch" in have
    assert "snakemake" not in have
    env = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "PYTHON": str(clean_python), "OUT": str(tmp_path / "out")}
    command = [*WITHOUT_NETWORK, str(bundle / "run.sh"), "--tiny", "--device", "cpu"]
    done = subprocess.run(command, capture_output=True, text=True, env=env, cwd=tmp_path)
    print(done.stdout, done.stderr)
    assert done.returncode == 0
