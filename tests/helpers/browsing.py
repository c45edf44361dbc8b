"""How the browser tests open a page."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import axe_playwright_python
from playwright.sync_api import Page

Open = Callable[..., AbstractContextManager[Page]]  # as the fixture `opened`


def violations(page: Page) -> list[tuple[str, str]]:
    """What stands in the way of a screen reader, the keyboard or weak eyes, by axe: a rule and the first place of each.

    Among its rules are names of fields and pictures, the order of headings, and contrast.
    """
    page.evaluate(Path(axe_playwright_python.__file__).with_name("axe.min.js").read_text(encoding="utf-8"))
    # Without the other kinds of results, of which axe would describe each element of the page.
    found = page.evaluate("""axe.run({ resultTypes: ["violations"], selectors: false })
      .then(({ violations }) => violations.map((rule) => [rule.id, rule.nodes[0].html]))""")
    return [(rule, html) for rule, html in found]
