"""What tests of several folders share. Because this file is here, they can import the modules beside it."""

import os
from pathlib import Path

import pytest
from hypothesis import settings

# Threads that wait sleep. By default they spin, and where more of them wait than there are cores, as in two processes
# of tests with a workflow each, they take the time of those that work: attribution 44 to 82 s instead of 14 to 17 on
# two cores.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

# The processes that tests start keep what Python compiled, as they do for users: where the variable is set, each of a
# run's jobs compiles ecgpipe again.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

# A machine that has much else to do is no fault: no test asserts how long it takes.
settings.register_profile("unhurried", deadline=None)
settings.load_profile("unhurried")


# The files that take longest, minutes each, the longest first: most of their processes are real ones. The second makes
# a folder of packages while the first compiles what the others wait for.
LONGEST = (
    "test_slurm.py",
    "test_gpu_bundle.py",
    "test_killed.py",
    "test_neighbors.py",
    "test_exhausted.py",
    "test_lost.py",
    "test_installed.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that take long come first: where several processes share the files, none of them then ends long after."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}

    def turn(item: pytest.Item) -> int:
        if item.path.name in LONGEST and item.path in slow:
            return LONGEST.index(item.path.name)
        return len(LONGEST) + (item.path not in slow)

    items.sort(key=turn)


@pytest.fixture(scope="session")
def reference() -> Path:
    """The folder of real recordings and golden outputs; a test that needs it skips where it is absent."""
    folder = Path(__file__).parents[2] / "shared" / "reference"
    if not folder.is_dir():
        pytest.skip(f"needs the reference data in {folder}")
    return folder


@pytest.fixture(scope="session")
def fairseq_python() -> Path:
    """The interpreter of an environment that has the real fairseq-signals."""
    python = os.environ.get("FAIRSEQ_PYTHON")
    if not python:
        pytest.skip("FAIRSEQ_PYTHON names no interpreter that has fairseq-signals, see docs/verify.md")
    return Path(python)
