"""How the browser tests open a page."""

from collections.abc import Callable
from contextlib import AbstractContextManager

from playwright.sync_api import Page

Open = Callable[..., AbstractContextManager[Page]]  # as the fixture `opened`
