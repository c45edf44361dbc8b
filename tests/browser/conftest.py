"""A real browser for the tests of the pages, and what every page must hold to whatever is done with it."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import pytest
import small_run
from browsing import Open
from playwright.sync_api import Browser, BrowserContext, Dialog, Page, ViewportSize, sync_playwright

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
LARGE: ViewportSize = {"width": 1440, "height": 900}


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("chromium is not installed (apt-get install chromium)")
    with sync_playwright() as playwright:
        # The sandbox needs rights that a container's root does not have. Tabs share a process, so that Plotly is
        # compiled once.
        options = ["--no-sandbox", "--disable-gpu", "--process-per-site"]
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=options)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def opened(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Open:
    """Open a page. Whatever is done with it, it must say no error and ask for no other address.

    The browser's tabs are kept for other pages: a new one takes Chromium five seconds of processor time for a report,
    one whose process has seen Plotly before 1.5.
    """
    blank = tmp_path_factory.mktemp("blank") / "blank.html"
    blank.write_text("<!doctype html>")
    contexts: dict[tuple[bool, bool], BrowserContext] = {}
    idle: dict[tuple[bool, bool], list[Page]] = {}

    @contextmanager
    def open_page(
        path: Path,
        viewport: ViewportSize = LARGE,
        color_scheme: Literal["light", "dark"] = "light",
        has_touch: bool = False,
        is_mobile: bool = False,
    ) -> Iterator[Page]:
        errors: list[str] = []
        asked: list[str] = []

        def refuse(dialog: Dialog) -> None:
            errors.append(f"dialog: {dialog.message}")
            dialog.dismiss()

        listeners = {
            "console": lambda message: errors.append(message.text) if message.type == "error" else None,
            "pageerror": lambda error: errors.append(str(error)),
            "dialog": refuse,
            "request": lambda request: asked.append(request.url),
        }
        kind = (has_touch, is_mobile)
        if kind not in contexts:
            contexts[kind] = browser.new_context(has_touch=has_touch, is_mobile=is_mobile)
        kept = idle.setdefault(kind, [])
        page = kept.pop() if kept else contexts[kind].new_page()
        page.set_viewport_size(viewport)
        # What scrolls smoothly is not where it was looked for.
        page.emulate_media(media="null", color_scheme=color_scheme, reduced_motion="reduce")
        for event, listener in listeners.items():
            page.on(event, listener)  # type: ignore[call-overload]
        page.goto(path.as_uri())
        page.locator("html[data-ready]").wait_for(state="attached", timeout=60_000)
        yield page
        page.evaluate("null")  # what it has said before is heard now
        for event, listener in listeners.items():
            page.remove_listener(event, listener)
        page.goto(blank.as_uri())  # nothing of this page goes on beside another test
        page.mouse.move(0, 0)
        kept.append(page)
        assert errors == []
        assert [url for url in asked if not url.startswith(("data:", "blob:"))] == [path.as_uri()]

    return open_page


@pytest.fixture(scope="module")
def report(folder: Path) -> Path:
    """The report of the run in `folder`, which each module has of its own."""
    return small_run.report(folder)


@pytest.fixture(scope="module")
def page(opened: Open, report: Path) -> Iterator[Page]:
    """The report on a large screen, opened once: drawing it takes seconds."""
    with opened(report) as page:
        yield page
