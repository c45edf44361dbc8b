"""python -m ecgpipe."""

import sys

from ecgpipe.cli import main

if __name__ == "__main__":
    sys.exit(main())
