"""What tests of several folders share. Because this file is here, they can import the modules beside it."""

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def reference() -> Path:
    """The folder of real recordings and golden outputs; a test that needs it skips where it is absent."""
    folder = Path(__file__).parents[2] / "shared" / "reference"
    if not folder.is_dir():
        pytest.skip(f"needs the reference data in {folder}")
    return folder
