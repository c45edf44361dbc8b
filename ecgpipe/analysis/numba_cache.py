"""Keep what Numba compiles of other packages, whose functions it would compile anew in each process."""

import contextlib
from collections.abc import Iterable
from typing import Any


def keep_compiled(functions: Iterable[Any]) -> None:
    """Have Numba keep what it compiles of some functions, for later processes.

    Args:
        functions: Compiled by Numba's `jit`, and not yet used in this process.
    """
    for function in functions:
        # No folder that can be written to, neither beside the package nor of the user: it is compiled each time.
        with contextlib.suppress(RuntimeError):
            function.enable_caching()
