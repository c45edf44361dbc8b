"""python -m ecgpipe."""

import sys

if sys.version_info < (3, 11):  # noqa: UP036, this runs before pip has had a say
    sys.exit(
        f"error: ecgpipe needs Python 3.11 or newer, and this is {sys.version.split()[0]} ({sys.executable}); "
        "make an environment of a newer one: python3.11 -m venv .venv"
    )

if __name__ == "__main__":
    try:
        from ecgpipe.cli import main  # here, so that an interrupt during it leaves no traceback

        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)  # what a shell says of a command that an interrupt ended
