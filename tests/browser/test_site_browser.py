"""The website of docs/ in a real browser: its search finds, and it asks no other server for anything."""

import re
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from playwright.sync_api import Browser

from benchmarks.build_site import INSTALL, build_site


def test_the_search_finds_a_page_and_nothing_is_loaded_from_elsewhere(browser: Browser, tmp_path: Path) -> None:
    pytest.importorskip("zensical", reason=f"zensical is not installed; install it with: {INSTALL}")
    index = build_site(tmp_path / "site")
    handler = partial(SimpleHTTPRequestHandler, directory=str(index.parents[1]))
    with (
        ThreadingHTTPServer(("127.0.0.1", 0), handler) as server,
        browser.new_context(viewport={"width": 1200, "height": 800}) as context,
    ):
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}/"
        page = context.new_page()
        asked: list[str] = []
        errors: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(f"{address}docs/{index.name}")
        page.get_by_role("button", name="Search").first.click()
        page.keyboard.type("youden")
        page.get_by_text(re.compile(r"^\d+ results?$")).wait_for()
        page.keyboard.press("Enter")  # opens the first one
        page.wait_for_url("**/calibration.html**")
        server.shutdown()
    assert errors == []
    assert [url for url in asked if not url.startswith((address, "data:", f"blob:{address}"))] == []
