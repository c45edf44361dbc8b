"""One SLURM for all tests here, and the machine as it was after them."""

import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from cluster import slurm


@pytest.fixture(scope="session")
def machine() -> Iterator[slurm.Slurm]:
    """A SLURM with the partitions cpu, gpu and urgent. Where CI is set, one that does not start is an error."""
    with ExitStack() as stack:
        scratch = stack.enter_context(tempfile.TemporaryDirectory(prefix="ecgpipe-slurm-"))
        try:
            started = stack.enter_context(slurm.running(Path(scratch)))
        except slurm.NotPossibleError as reason:
            pytest.skip(f"no SLURM here: {reason}")
        except (RuntimeError, OSError, subprocess.SubprocessError) as error:
            if os.environ.get("CI"):
                raise
            pytest.skip(f"SLURM does not start: {error}")
        yield started
