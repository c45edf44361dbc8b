"""python -m ecgpipe."""

import sys

if __name__ == "__main__":
    try:
        from ecgpipe.cli import main  # here, so that an interrupt during it leaves no traceback

        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)  # what a shell says of a command that an interrupt ended
