"""Work that never ends, for what is to give it up."""

import os


def wait() -> None:
    """Wait for what does not come, without computing."""
    inner, _ = os.pipe()
    os.read(inner, 1)


def compute() -> None:
    """Compute without waiting."""
    while True:
        pass
