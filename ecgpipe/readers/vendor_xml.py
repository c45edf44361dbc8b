"""Vendors' XML: in whatever encoding it declares, and without what would take a parser's time or memory."""

import codecs
import math
import re
from xml.etree.ElementTree import Element

from ecgdatakit.parsing.helpers.xml import parse_xml_root

from ecgpipe.readers.files import unreadable
from ecgpipe.readers.recording import UnreadableError

# Elements and attributes of an XML file; real ones have some thousands.
_MOST_MARKS = 200_000
# Encodings of one byte that have ASCII below 128: which a declaration is believed to name if the bytes are not UTF-8.
_ENCODINGS = re.compile(r"ascii|iso8859-\d+|cp125\d")
# As ecgdatakit finds a declaration, so that it always takes the same encoding as this module.
_DECLARATION = re.compile(r"\s*<\?xml[^>]*\?>")
_DECLARED = re.compile(r"encoding\s*=\s*[\"']([^\"']*)")


def parse_xml(data: bytes, name: str) -> Element:
    """Parse XML in any encoding, unless it would take the parser's time or memory.

    Args:
        data: The file.
        name: Of its format.

    Returns:
        The root element.

    Raises:
        UnreadableError: It is broken, or declares entities, or has more elements than an ECG has.
    """
    return parse_root(in_utf_8(data, name)[0], name)


def parse_root(data: bytes, name: str) -> Element:
    """`parse_xml` for XML in UTF-8."""
    if re.search(rb"<!(?:ENTITY|ATTLIST)", data):
        raise UnreadableError("the XML declares entities or attributes of its own, which none of these formats has")
    if data.count(b"<") + data.count(b"=") > _MOST_MARKS:
        raise UnreadableError(f"more elements than an ECG has (over {_MOST_MARKS})")
    try:
        return parse_xml_root(data)
    except Exception as error:  # expat's, defusedxml's and ecgdatakit's own
        raise unreadable(name, error) from error


def in_utf_8(data: bytes, name: str) -> tuple[bytes, bool]:
    """Convert XML to UTF-8, whatever encoding it declares.

    Numbers and lead names are ASCII, so that other letters do not matter. De-identification programs often leave UTF-8
    that still declares UTF-16.

    Args:
        data: The file.
        name: Of its format.

    Returns:
        The XML in UTF-8 or in an encoding of one byte that contains ASCII; and whether the file declares the encoding
        that it has, so that ecgdatakit can read it as it is.

    Raises:
        UnreadableError: It is broken UTF-16.
    """
    marks = {b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16", b"<\0": "utf-16-le", b"\0<": "utf-16-be"}
    wide = marks.get(data[:2])
    try:
        text = data.decode(wide or "utf-8").removeprefix("\ufeff")
        is_text = True
    except UnicodeDecodeError as error:
        if wide:
            raise unreadable(name, error) from error
        text, is_text = data.decode("latin-1"), False
    declaration = _DECLARATION.match(text)
    declared = _DECLARED.search(declaration[0]) if declaration else None
    try:
        stated = codecs.lookup(declared[1][:40]).name if declared else wide or "utf-8"
    except (LookupError, ValueError):
        stated = ""
    if not wide and (_ENCODINGS.fullmatch(stated) or (is_text and stated == "utf-8")):
        return data, True
    content = text[declaration.end() if declaration else 0 :].encode("utf-8", errors="replace")
    return content, stated in (wide, "utf-16") if wide else False


def number_of(text: str | None) -> float | None:
    """The finite number in a text, with a decimal point or comma; None if there is no such number."""
    try:
        number = float((text or "").replace(",", "."))
    except ValueError:
        return None
    return number if math.isfinite(number) else None
