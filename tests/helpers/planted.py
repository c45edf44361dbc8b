"""Looking for planted words in every byte of a file: as they are, and in all that is packed into it."""

import base64
import binascii
import gzip
import re
import zlib
from collections.abc import Collection, Iterator

# Planted words are letters and digits alone: HTML, JSON, addresses and file names write those as they are.
_BASE64 = re.compile(rb"[A-Za-z0-9+/]{24,}={0,2}")
_STREAM = re.compile(rb"stream\r?\n(.*?)\r?\nendstream", re.DOTALL)  # of a PDF
_STRING = re.compile(rb"\(((?:[^()\\]|\\.)*)\)", re.DOTALL)  # a text in such a stream, which kerning cuts up


def leaked(content: bytes, words: Collection[str]) -> set[str]:
    """Which of the words are in a file.

    Args:
        content: Of the file.
        words: Of letters and digits.

    Returns:
        Those that are somewhere in it, in upper or lower case: in its bytes, in base64, gzip, deflated streams, PNG's
        chunks of text, or any of these within another. What is drawn in pixels cannot be found.
    """
    if content.startswith(b"\x89PNG"):
        content = b" ".join(_of_png(content))
    found = {word for piece in _pieces(content) for word in words if word.lower().encode() in piece}
    return found | {word for word in words if any(form in content for form in _in_base64(word.encode()))}


def _pieces(content: bytes, depth: int = 0) -> Iterator[bytes]:
    """The content in lower case, and so all that is packed into it."""
    yield content.lower()
    if depth > 3:
        return
    inside = [_decoded(match[0]) for match in _BASE64.finditer(content)]
    for match in _STREAM.finditer(content):
        inside += _inflated(match[1])
    if content.startswith(b"\x1f\x8b"):
        inside.append(gzip.decompress(content))
    texts = b"".join(_STRING.findall(content)) if depth else b""
    for piece in [*inside, texts]:
        if piece:
            yield from _pieces(piece, depth + 1)


def _decoded(text: bytes) -> bytes:
    try:
        return base64.b64decode(text + b"=" * (-len(text) % 4))
    except binascii.Error:
        return b""


def _inflated(data: bytes) -> list[bytes]:
    try:
        return [zlib.decompress(data)]
    except zlib.error:
        return []


def _of_png(content: bytes) -> Iterator[bytes]:
    """A PNG without its pixels, and what is deflated in its chunks of text, wherever that begins."""
    for kind, data in _chunks(content):
        if kind != b"IDAT":
            yield kind + data
        if kind in (b"zTXt", b"iTXt"):
            yield from (text for at in range(min(len(data), 100)) for text in _inflated(data[at:]))


def _chunks(png: bytes) -> Iterator[tuple[bytes, bytes]]:
    at = 8
    while at + 8 <= len(png):
        length = int.from_bytes(png[at : at + 4], "big")
        yield png[at + 4 : at + 8], png[at + 8 : at + 8 + length]
        at += 12 + length


def _in_base64(word: bytes) -> set[bytes]:
    """What a word becomes in base64, but for the characters that its neighbours share: one form for each beginning."""
    forms = set()
    for before in range(3):
        written = base64.b64encode(b"\0" * before + word)
        first, last = -(-8 * before // 6), 8 * (before + len(word)) // 6  # six bits each
        forms.add(written[first:last])
    return forms
