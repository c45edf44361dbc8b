"""The website of docs/ in a real browser, opened as files: its search finds, and it asks the network for nothing."""

import re
from pathlib import Path

import pytest
from playwright.sync_api import Browser

from benchmarks.build_site import INSTALL, build_site


def test_the_search_works_without_a_server(browser: Browser, tmp_path: Path) -> None:
    pytest.importorskip("zensical", reason=f"zensical is not installed; install it with: {INSTALL}")
    index = build_site(tmp_path / "site")
    with browser.new_context(viewport={"width": 1200, "height": 800}) as context:
        page = context.new_page()
        asked: list[str] = []
        errors: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(index.as_uri())
        page.get_by_role("button", name="Search").first.click()
        page.keyboard.type("youden")
        page.get_by_text(re.compile(r"^\d+ results?$")).wait_for()
        page.keyboard.press("Enter")  # opens the first one
        page.wait_for_url("**/calibration.html**")
    assert errors == []
    assert [url for url in asked if not url.startswith(("file:", "data:", "blob:"))] == []
