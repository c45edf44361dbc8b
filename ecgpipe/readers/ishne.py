"""ISHNE Holter files: a header of 522 bytes, comments, then 16-bit counts, interleaved by lead.

The format: F. Badilini, The ISHNE Holter Standard Output File Format, Ann Noninvasive Electrocardiol 3 (1998) 263-266.
The checksum covers the header; the counts have none.
"""

import binascii
import struct
from pathlib import Path

import numpy as np

from ecgpipe.core.digital import MULTIPLY, find_digital
from ecgpipe.readers.files import read_bytes, size_of
from ecgpipe.readers.recording import Assumed, Recording, UnreadableError, check_size, in_mv, steps_to_mv

_MAGIC = b"ISHNE1.0"
_HEADER_BYTES = 522
_CHECKED_FROM = 10  # the checksum is of what comes after it

# Table 1 of the paper. 0 is unknown, 1 generic bipolar, 17 to 19 are EASI's.
_LEADS = {2: "X", 3: "Y", 4: "Z", 5: "I", 6: "II", 7: "III", 8: "aVR", 9: "aVL", 10: "aVF"}
_LEADS |= {10 + n: f"V{n}" for n in range(1, 7)} | {17: "ES", 18: "AS", 19: "AI"}

# What a recorder writes where a lead was off.
_FAULT = -32768
_LIMITS = np.array([_FAULT, 32767])


def read(path: Path, assumed: Assumed, row: int | None = None) -> Recording:
    """Read an ISHNE file; see `readers.read`. Where a lead was off it is NaN.

    Raises:
        UnreadableError: The header contradicts itself, its checksum or the file's size, or the file is longer than is
            read at once, as that of a whole day is.
    """
    size = size_of(path)
    header = read_bytes(path, 0, _HEADER_BYTES)
    if not header.startswith(_MAGIC):
        raise UnreadableError("no ISHNE file")
    if len(header) < _HEADER_BYTES:
        raise UnreadableError(f"the ISHNE file is shorter than its header ({size} bytes)")
    stored, comment_bytes, stated, _, data_at = struct.unpack_from("<H4i", header, 8)
    (leads,) = struct.unpack_from("<h", header, 156)
    codes = struct.unpack_from("<12h", header, 158)
    resolutions = struct.unpack_from("<12h", header, 206)  # nV per count
    (rate,) = struct.unpack_from("<h", header, 272)
    if not 1 <= leads <= 12:
        raise UnreadableError(f"the ISHNE header's number of leads is not 1 to 12 ({leads})")
    if rate <= 0:
        raise UnreadableError(f"the file's sampling rate is not a positive number ({rate})")
    begin = _HEADER_BYTES + comment_bytes
    if comment_bytes < 0 or data_at != begin:
        raise UnreadableError(f"the ISHNE header contradicts itself on where the ECG begins ({data_at}, {begin})")
    samples, rest = divmod(size - begin, 2 * leads)
    # "Size (in number of samples) of ECG" is taken for one lead's by some recorders, for all leads' by others.
    if rest or samples < 1 or stated not in (samples, samples * leads):
        raise UnreadableError(
            f"the ISHNE file is not as long as its header says ({stated} samples, found {samples} of {leads} leads)"
        )
    check_size(leads, samples)
    _check(header[_CHECKED_FROM:] + read_bytes(path, _HEADER_BYTES, comment_bytes), stored)
    data = read_bytes(path, begin, 2 * leads * samples)
    if len(data) < 2 * leads * samples:
        raise UnreadableError("the ISHNE file became shorter while it was read")
    counts = np.frombuffer(data, "<i2").reshape(samples, leads).T  # (leads, samples)
    # A lead without a resolution stays in counts, whose unit the settings may state.
    scales = np.array([[resolution if resolution > 0 else 1.0] for resolution in resolutions[:leads]])  # (leads, 1)
    signal = np.where(counts == _FAULT, np.nan, counts * scales)
    digital = find_digital(counts, ((MULTIPLY, scales[:, 0]),), signal)
    units = ["nV" if resolution > 0 else assumed.unit for resolution in resolutions[:leads]]
    signal, unit = in_mv(signal, units)
    limits, _ = in_mv(scales * _LIMITS, units)
    names = tuple(_LEADS.get(code, f"lead {n}") for n, code in enumerate(codes[:leads], start=1))
    digital = digital and digital.then(*steps_to_mv(units))
    return Recording(signal, float(rate), names, unit, limits=limits, digital=digital)


def _check(content: bytes, stored: int) -> None:
    """Compare the header and the comments with their checksum; 0 means that there is no checksum.

    Raises:
        UnreadableError: It differs; the paper leaves the order of its two bytes open.
    """
    actual = binascii.crc_hqx(content, 0xFFFF)
    if stored and stored not in (actual, actual >> 8 | (actual & 0xFF) << 8):
        raise UnreadableError(
            f"a checksum does not fit: the file is damaged (stored {stored:#06x}, found {actual:#06x})"
        )
