"""What a browser makes of a report's source: its text, and the data that is packed into it."""

import base64
import gzip
import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np


def unpacked(text: str) -> Any:  # noqa: ANN401, JSON
    """What `page_data.pack` packed: `templates/unpack.js` once more, in Python."""
    block = gzip.decompress(base64.b64decode(text))
    length = int.from_bytes(block[:8], "little")
    start = 8 + length + -length % 8

    def revived(found: dict[str, Any]) -> object:
        if set(found) != {"$array"}:
            return found
        dtype, place, size = found["$array"]
        return np.frombuffer(block, np.dtype(dtype).newbyteorder("<"), size, start + place)

    return json.loads(block[8 : 8 + length], object_hook=revived)


class Page(HTMLParser):
    """A report's page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.source = path.read_text(encoding="utf-8")
        self.text, self.scripts = "", 0
        self.data: dict[str, str] = {}
        self._within: list[str] = []
        self.feed(self.source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.text += " "
        if tag in ("script", "style"):
            given = dict(attrs)
            self.scripts += tag == "script"
            self._within.append(given.get("id") or tag)

    def handle_endtag(self, tag: str) -> None:
        if tag in ("script", "style"):
            self._within.pop()

    def handle_data(self, data: str) -> None:
        if not self._within:
            self.text += data
        elif self._within[-1] not in ("script", "style"):
            self.data[self._within[-1]] = data

    def get(self, name: str) -> Any:  # noqa: ANN401, JSON
        """A block of data: facts, rows, points or views."""
        return unpacked(self.data[name])

    @property
    def words(self) -> str:
        """The text with single blanks."""
        return " ".join(self.text.split())
