"""What a page of the documentation tells to type, and typing it."""

import os
import re
import subprocess
import sys
from pathlib import Path
from textwrap import dedent

import forked_python


def indented_blocks(text: str) -> list[str]:
    """The indented blocks of a page, in order: commands, and files to write."""
    found = re.findall(r"(?:^    .*\n|^\n(?=    ))+", text, re.MULTILINE)
    return ["\n".join(line[4:] for line in block.strip("\n").splitlines()) for block in found]


def commands(text: str) -> str:
    """All lines of the indented blocks that call ecgpipe, as a script that ends at the first error."""
    lines = [line for block in indented_blocks(text) for line in block.splitlines() if line.startswith("ecgpipe ")]
    return "\n".join(["set -e", *lines])


def python(text: str) -> str:
    """The blocks of Python, as one program."""
    return "\n".join(map(dedent, re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)))


def run_script(script: str, folder: Path) -> str:
    """Run lines of bash in a folder, with the commands of this environment; return what they print."""
    folders = [forked_python.program().parent, Path(sys.executable).parent]
    path = os.pathsep.join([*map(str, folders), os.environ["PATH"]])
    done = subprocess.run(
        ["bash", "-c", script],  # noqa: S607
        cwd=folder, env=os.environ | {"PATH": path}, text=True, check=False,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-5000:]
    return done.stdout
