"""Optional packages that some formats need, and the messages if a package is missing."""

import functools
import importlib.util
import re
from collections import Counter
from collections.abc import Mapping

# Matches the message of `missing`.
_MISSING = re.compile(r"reading .+ takes the package (\S+), which is not installed; .*'ecgpipe\[(\S+)\]'")


def missing(what: str, package: str, extra: str) -> str:
    """Why a file of a format cannot be read without its package.

    Args:
        what: The format.
        package: What reads it.
        extra: ecgpipe's extra that installs it.
    """
    return (
        f"reading {what} takes the package {package}, which is not installed; "
        f"install it with: pip install 'ecgpipe[{extra}]'"
    )


@functools.cache
def is_installed(package: str) -> bool:
    """Whether a package can be found, without importing it."""
    try:
        return importlib.util.find_spec(package) is not None
    except ModuleNotFoundError:
        return False


def counted(reasons: Mapping[str, int]) -> list[str]:
    """Summarise missing packages for the end of a run.

    Args:
        reasons: How many recordings were not used, by reason.

    Returns:
        One sentence; no sentence if no reason is a missing package.
    """
    packages: Counter[str] = Counter()
    extras = set()
    for reason, count in reasons.items():
        if match := _MISSING.fullmatch(reason):
            packages[match[1]] += count
            extras.add(match[2])
    if not packages:
        return []
    total = packages.total()
    names = ", ".join(f"{name} ({count:,})" for name, count in packages.most_common())
    return [
        f"{total:,} {'recording' if total == 1 else 'recordings'} could not be read for want of a package: {names}; "
        f"install it with: pip install 'ecgpipe[{','.join(sorted(extras))}]', and give the same command again"
    ]
