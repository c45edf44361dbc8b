"""What Numba compiles of UMAP, a minute of a processor: once for all processes of tests, and for what they install."""

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from importlib import metadata
from pathlib import Path

from filelock import FileLock

ROOT = Path(__file__).parents[2]

# By package: what installs it. UMAP's import compiles most of the second.
DISTRIBUTIONS = {"umap": "umap-learn", "pynndescent": "pynndescent"}

# What a fit compiles last, so that where it is everything is.
LAST = "layouts._optimize_layout_euclidean_single_epoch-*.nbi"

FIT = """
import numpy as np
from ecgpipe.analysis import umap_fit
sample = np.random.default_rng(0).random((20, 8), np.float32)
umap_fit.fit(sample, {"neighbors": 3, "min_dist": 0.1, "random_state": 42})
"""


def compile_umap() -> None:
    """Have a process compile what a map needs, for which other processes that call this wait; at once where it has."""
    cache = cache_of("umap")
    if any(cache.glob(LAST)):
        return
    name = hashlib.sha256(f"{cache} {os.getuid()}".encode()).hexdigest()[:16]
    with FileLock(Path(tempfile.gettempdir()) / f"ecgpipe-tests-{name}.lock"):
        if not any(cache.glob(LAST)):
            subprocess.run([sys.executable, "-c", FIT], cwd=ROOT, check=True)


def cache_of(package: str) -> Path:
    """The folder where Numba keeps what it compiles of an installed package."""
    folder = Path(str(metadata.distribution(DISTRIBUTIONS[package]).locate_file(package)))
    given = os.environ.get("NUMBA_CACHE_DIR")
    # Numba's name for what it keeps of a folder's modules elsewhere.
    name = f"{folder.name}_{hashlib.sha1(str(folder).encode(), usedforsecurity=False).hexdigest()}"
    return Path(given) / name if given else folder / "__pycache__"


def take_to_packages(site: Path) -> None:
    """Put what is compiled here beside the same packages in another folder of installed packages.

    Numba itself compares the content of their files, and compiles what differs.

    Args:
        site: That folder.
    """
    compile_umap()
    for package in DISTRIBUTIONS:
        target = site / package / "__pycache__"
        target.mkdir(parents=True, exist_ok=True)
        for compiled in sorted(cache_of(package).glob("*.nb[ci]")):  # what is indexed, then the index
            copied = target / f"{compiled.name}.copied"
            shutil.copyfile(compiled, copied)
            copied.replace(target / compiled.name)  # whole for a process that reads it meanwhile
