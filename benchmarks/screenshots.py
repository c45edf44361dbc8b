"""Take the pictures of README.md and docs/ from the report of the demo.

    python -m benchmarks.screenshots [--run demo/results] [--output docs/images]

`make screenshots` runs the demo first. Each picture is one part of the report, in a window of a fixed size, with at
most 256 colours, so that all of them together stay below a megabyte. Needs the package playwright and Chromium.
"""

import argparse
import io
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image
from playwright.sync_api import Browser, FloatRect, Page, sync_playwright

from ecgpipe.core.atomic import whole
from ecgpipe.core.errors import EcgpipeError
from ecgpipe.core.run import Run

ODD_BEAT = "Premature ventricular contraction"  # of what its attribution shows, a reader sees at once that it is right
TRUTH = "finding"  # the demo's column of what was simulated
LIMIT = 300_000  # bytes of a picture
MARGIN = 8  # pixels around what a picture shows

LAPTOP = {"viewport": {"width": 1200, "height": 800}, "color_scheme": "light"}
PHONE = {
    "viewport": {"width": 390, "height": 844},
    "color_scheme": "dark",
    "device_scale_factor": 1.5,
    "is_mobile": True,
}


class Area(NamedTuple):
    """What a picture shows: from the top of one element to the bottom of another, at most `height` pixels."""

    first: str
    last: str
    height: float


def take_screenshots(run: Run, output: Path) -> list[Path]:
    """Write the pictures of a run's report into a folder, which must be there; return their paths."""
    recording = find_recording(run, ODD_BEAT)
    with sync_playwright() as playwright:
        # The sandbox needs rights that a container's root does not have.
        browser = playwright.chromium.launch(executable_path=find_chromium(), args=["--no-sandbox", "--disable-gpu"])
        with open_report(browser, run, LAPTOP) as page:
            pictures = {"glance": picture(page, Area("body", "#glance", 800))}
            pictures["evaluation"] = picture(page, Area("#measured", "#measured", 800))
            page.select_option("#colour", label=TRUTH)
            page.locator("#plot .legendtext").first.wait_for()
            pictures["map"] = picture(page, Area("#map", "#map", 800))
            show_attribution(page, recording, ODD_BEAT)
            pictures["recording"] = picture(page, Area("#viewer [data-part=name]", "#viewer [data-part=figure]", 760))
        with open_report(browser, run, PHONE) as page:
            show_attribution(page, recording, ODD_BEAT)
            pictures["phone"] = picture(page, Area("#viewer [data-part=name]", "#viewer", 760))
        browser.close()
    return [write_picture(output / f"{name}.png", content) for name, content in pictures.items()]


def find_recording(run: Run, label: str) -> str:
    """The recording whose attribution to a label is in the run: the first one, in the order of ids."""
    rows = run.attribution.to_table(columns=["record_id", "label"]).to_pylist()
    found = sorted({row["record_id"] for row in rows if row["label"] == label})
    if not found:
        raise EcgpipeError(f"--run: {run.outdir} has no attribution to {label!r}; give a run of the demo (make demo)")
    return str(found[0])


def find_chromium() -> str:
    """The path of the browser."""
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if path is None:
        raise EcgpipeError("chromium is not installed; install it with: apt-get install chromium")
    return path


@contextmanager
def open_report(browser: Browser, run: Run, screen: dict[str, Any]) -> Iterator[Page]:
    """A run's report in a window, when it has drawn itself."""
    with browser.new_context(reduced_motion="reduce", **screen) as context:
        page = context.new_page()
        page.goto(run.report_html.resolve().as_uri())
        page.locator("html[data-ready]").wait_for(state="attached", timeout=120_000)
        yield page


def show_attribution(page: Page, recording: str, label: str) -> None:
    """Choose a recording, and colour it by the attribution to a label."""
    choose(page, "#recording", recording)
    choose(page, "#viewer [data-part=wash]", label)


def choose(page: Page, selector: str, text: str) -> None:
    """Choose the first option of a list whose text contains another text."""
    option = page.locator(f"{selector} option", has_text=text).first
    page.select_option(selector, value=option.get_attribute("value"))


def picture(page: Page, area: Area) -> bytes:
    """A PNG of a part of the page, as wide as the wider one of the two elements."""
    window = page.viewport_size
    first, last = (page.locator(selector).first.bounding_box() for selector in (area.first, area.last))
    if window is None or first is None or last is None:
        raise EcgpipeError(f"the report shows no {area.first} or no {area.last}; adapt benchmarks/screenshots.py")
    left = max(0.0, min(first["x"], last["x"]) - MARGIN)
    right = min(window["width"], max(first["x"] + first["width"], last["x"] + last["width"]) + MARGIN)
    scrolled = page.evaluate("window.scrollY")
    top = max(0.0, first["y"] + scrolled - MARGIN)
    bottom = min(last["y"] + scrolled + last["height"] + MARGIN, top + area.height)
    clip: FloatRect = {"x": left, "y": top, "width": right - left, "height": bottom - top}
    return page.screenshot(clip=clip, full_page=True, animations="disabled")


def write_picture(path: Path, content: bytes) -> Path:
    """Write a PNG with at most 256 colours."""
    with whole(path) as partial, Image.open(io.BytesIO(content)) as image:
        image.convert("RGB").quantize(256, dither=Image.Dither.NONE).save(partial, format="PNG", optimize=True)
    size = path.stat().st_size
    if size > LIMIT:
        raise EcgpipeError(f"{path}: {size:,} bytes, more than {LIMIT:,}; show a smaller part")
    return path


def main() -> None:
    """Read the options, take the pictures, and say how large they are."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.screenshots", description=__doc__.splitlines()[0])
    parser.add_argument("--run", type=Path, default=Path("demo/results"), help="the demo's results [%(default)s]")
    parser.add_argument("--output", type=Path, default=Path("docs/images"), help="a folder [%(default)s]")
    options = parser.parse_args()
    for path in take_screenshots(Run(options.run), options.output):
        print(f"{path}: {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
