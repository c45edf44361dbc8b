"""Where the workflow's files lie: Snakefile, config/, profiles/ and workflow/."""

from functools import cache
from pathlib import Path

_PACKAGE = Path(__file__).parents[1]


@cache
def root() -> Path:
    """The folder that holds the Snakefile: the clone, or `ecgpipe/share` of an installed wheel."""
    clone = _PACKAGE.parent
    return clone if (clone / "Snakefile").is_file() else _PACKAGE / "share"
