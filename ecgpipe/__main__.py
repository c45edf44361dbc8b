"""python -m ecgpipe."""

import sys

if sys.version_info < (3, 11):  # noqa: UP036, this runs before pip has had a say
    sys.exit(
        f"error: ecgpipe needs Python 3.11 or newer, and this is {sys.version.split()[0]} ({sys.executable}); "
        "make an environment of a newer one: python3.11 -m venv .venv"
    )

from ecgpipe.cli import main

if __name__ == "__main__":
    sys.exit(main())
