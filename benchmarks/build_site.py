"""Build the website of docs/: pages that load nothing from the network.

    python -m benchmarks.build_site [--output site]

`make site` does it. Zensical builds the pages as mkdocs.yml says, and ends at a link to a page or heading that does not
exist. Files of the project outside docs/ that pages link to are copied to the same place beside the pages.
"""

import argparse
import importlib.util
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from benchmarks.flowchart import draw_flowchart
from ecgpipe.core.errors import EcgpipeError

ROOT = Path(__file__).parents[1]
OWNER = ".ecgpipe-site"  # marks a folder as written here, so that it may be replaced
INSTALL = "pip install --constraint constraints.txt '.[dev]'"


def build_site(output: Path) -> Path:
    """Build the website into a folder; return its first page.

    Raises:
        EcgpipeError: Zensical is missing, the folder is somebody else's, or the pages have a mistake.
    """
    if importlib.util.find_spec("zensical") is None:
        raise EcgpipeError(f"zensical is not installed; install it with: {INSTALL}")
    if output.exists() and not (output / OWNER).is_file():
        raise EcgpipeError(f"--output: {output} exists and was not written by this command; give another folder")
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        shutil.copy(ROOT / "mkdocs.yml", copy)
        shutil.copytree(ROOT / "docs", copy / "docs")
        draw_flowcharts(copy / "docs")
        command = [sys.executable, "-m", "zensical", "build", "--strict"]
        done = subprocess.run(command, cwd=copy, capture_output=True, text=True, check=False)
        if done.returncode:
            raise EcgpipeError("the pages have a mistake:\n" + re.sub(r"\x1b\[[0-9;]*m", "", done.stdout))
        for file in list_linked_files():
            target = copy / "site" / file
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / file, target)
        (copy / "site" / OWNER).touch()
        if output.exists():
            shutil.rmtree(output)
        shutil.copytree(copy / "site", output)
    return output / "docs" / "index.html"


def draw_flowcharts(docs: Path) -> None:
    """Put a picture in the place of each flowchart, whose text only a script from the network would draw."""
    for page in docs.rglob("*.md"):
        text = page.read_text(encoding="utf-8")
        for number, block in enumerate(re.findall(r"```mermaid\n.*?```\n", text, re.DOTALL)):
            picture = page.with_name(f"{page.stem}-{number}.svg")
            picture.write_text(draw_flowchart(block.split("\n", 1)[1].removesuffix("```\n")), encoding="utf-8")
            text = text.replace(block, f"![Flowchart: what stands on what, as the text says]({picture.name})\n")
        page.write_text(text, encoding="utf-8")


def list_linked_files() -> Iterator[Path]:
    """The project's files outside docs/ that pages link to, relative to the project."""
    for page in (ROOT / "docs").rglob("*.md"):
        for link in re.findall(r"\]\((\.\./[^)#\s]+)\)", page.read_text(encoding="utf-8")):
            file = (page.parent / link).resolve().relative_to(ROOT)
            if file.parts[0] != "docs":
                yield file


def main() -> int:
    """Read the options, build the website, and say where it is."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.build_site", description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("site"), help="a folder [%(default)s]")
    try:
        page = build_site(parser.parse_args().output)
        print(f"Open {page}, or with search: python3 -m http.server --directory {page.parents[1]}")
    except EcgpipeError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
