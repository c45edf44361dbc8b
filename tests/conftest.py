"""What tests of several folders share. Because this file is here, they can import the modules beside it."""

import os
from pathlib import Path

import pytest
from hypothesis import settings

# A machine that has much else to do is no fault: no test asserts how long it takes.
settings.register_profile("unhurried", deadline=None)
settings.load_profile("unhurried")


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
