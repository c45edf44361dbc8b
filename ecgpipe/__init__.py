"""ECG-FM over whole datasets: Snakemake for a dataset, `ecgpipe COMMAND` by hand, ECGFM, read and Run in Python.

docs/architecture.md says what is where.
"""

from typing import TYPE_CHECKING, Any

from ecgpipe.core.errors import EcgpipeError as EcgpipeError

if TYPE_CHECKING:
    from ecgpipe.api.ecgfm import ECGFM as ECGFM
    from ecgpipe.api.recording import Recording as Recording
    from ecgpipe.api.recording import read as read
    from ecgpipe.core.run import Run as Run
    from ecgpipe.core.stored_segments import read_segments as read_segments

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:  # noqa: ANN401, what a module's __getattr__ gives is of any type
    """ECGFM brings PyTorch, which takes a second: imported when asked for, not by the Snakefile's `import ecgpipe`."""
    if name == "ECGFM":
        from ecgpipe.api.ecgfm import ECGFM

        return ECGFM
    if name == "Run":  # brings PyArrow
        from ecgpipe.core.run import Run

        return Run
    if name == "read_segments":
        from ecgpipe.core.stored_segments import read_segments

        return read_segments
    if name in ("Recording", "read"):  # bring NumPy
        from ecgpipe.api import recording

        return getattr(recording, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
