"""A real browser for the tests of the pages, and what every page must hold to whatever is done with it."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import small_run
from browsing import Open
from playwright.sync_api import Browser, Dialog, Page, sync_playwright

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("chromium is not installed (apt-get install chromium)")
    with sync_playwright() as playwright:
        # The sandbox needs rights that a container's root does not have.
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def opened(browser: Browser) -> Open:
    """Open a page. Whatever is done with it, it must say no error and ask for no other address."""

    @contextmanager
    def open_page(path: Path, **screen: Any) -> Iterator[Page]:  # noqa: ANN401, what Playwright takes
        errors: list[str] = []
        asked: list[str] = []

        def refuse(dialog: Dialog) -> None:
            errors.append(f"dialog: {dialog.message}")
            dialog.dismiss()

        # What scrolls smoothly is not where it was looked for.
        usual = {"viewport": {"width": 1440, "height": 900}, "reduced_motion": "reduce"}
        with browser.new_context(**(usual | screen)) as context:
            page = context.new_page()
            page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
            page.on("pageerror", lambda error: errors.append(str(error)))
            page.on("dialog", refuse)
            page.on("request", lambda request: asked.append(request.url))
            page.goto(path.as_uri())
            page.locator("html[data-ready]").wait_for(state="attached", timeout=60_000)
            yield page
        assert errors == []
        assert [url for url in asked if not url.startswith(("data:", "blob:"))] == [path.as_uri()]

    return open_page


@pytest.fixture(scope="module")
def report(folder: Path) -> Path:
    """The report of the run in `folder`, which each module has of its own."""
    return small_run.report(folder)


@pytest.fixture(scope="module")
def page(opened: Open, report: Path) -> Iterator[Page]:
    """The report on a large screen, opened once: loading Plotly takes seconds."""
    with opened(report) as page:
        yield page
