"""EDF, EDF+, BDF and BDF+ files, read by edfio.

The format: https://www.edfplus.info/specs/edf.html, https://www.edfplus.info/specs/edfplus.html and
https://www.biosemi.com/faq/file_format.htm. edfio takes a header as it comes, with dates that are none and letters
beyond ASCII, as real devices write them. It also reads a truncated file and one whose range is not valid, by
dropping samples and by leaving them unscaled: so the header is checked here first.
"""

import math
import os
import re
import warnings
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import edfio
import numpy as np

from ecgpipe.core.digital import MULTIPLY, SUBTRACT, Digital, find_digital
from ecgpipe.core.leads import LEADS, spell_leads
from ecgpipe.readers.files import brief, size_of
from ecgpipe.readers.recording import Assumed, Recording, UnreadableError, check_size, in_mv, steps_to_mv

_HEADER_BYTES = 256  # and as many for each channel
_BDF = b"\xffBIOSEMI"
_SAMPLE_BYTES = {"EDF": 2, "BDF": 3}

# Annotations and BioSemi's triggers are not signals.
_ANNOTATIONS = ("edf annotations", "bdf annotations")
_NO_SIGNALS = (*_ANNOTATIONS, "status")
# A record's annotations begin with its start in seconds: EDF+ 2.2.2 and 2.2.4.
_ONSET = re.compile(rb"([+-]\d{1,15}(?:\.\d{0,15})?)\x14\x14")

# At which byte of a channel's header, times the number of channels, the samples in a record begin.
_SAMPLES_AT = 16 + 80 + 8 + 8 + 8 + 8 + 8 + 80


class _Layout(NamedTuple):
    """Where the samples are, by the header."""

    kind: str  # "EDF" or "BDF"
    channels: int
    records: int
    record_s: float
    samples: list[int]  # of each channel in a record
    size: int  # of header and records, in bytes


def read(path: Path, assumed: Assumed, row: int | None = None) -> Recording:
    """Read an EDF or BDF file; see `readers.read`.

    Where some channels are leads of the twelve, their sampling rate and unit decide which others belong to them.

    Args:
        path: The file.
        assumed: For the unit of channels that state none.
        row: None, since a file is one recording.

    Raises:
        UnreadableError: It is cut or its header makes no sense, there are gaps in it, or its leads differ in rate.
    """
    try:
        size_of(path)
        with path.open("rb") as file:
            header = file.read(_HEADER_BYTES)
            if len(header) < _HEADER_BYTES:
                raise UnreadableError("the EDF file is shorter than its header")
            count = _number(header[252:256].strip(b" \0"), "number of channels", whole=True)
            if not 1 <= count <= 9_999:
                raise UnreadableError(f"the EDF header has no possible number of channels ({count:g})")
            header += file.read(_HEADER_BYTES * int(count))
            header = header.replace(b"\0", b" ")  # some devices fill with these
            layout = _layout(header, os.fstat(file.fileno()).st_size)
            # Not mapped into memory, as edfio would: if the file became shorter meanwhile, the process would end.
            content = header + file.read(layout.size - len(header))
        if len(content) < layout.size:
            raise UnreadableError("the EDF file is shorter than its header says")
        return _recording(content, layout, assumed)
    except (UnreadableError, FileNotFoundError, PermissionError):
        raise
    except Exception as error:  # edfio raises many kinds on a broken file
        raise UnreadableError(f"not a readable EDF file ({brief(error)})") from error


def _layout(header: bytes, file_bytes: int) -> _Layout:
    """Find where the samples are, if the header agrees with the file's size."""
    kind = "BDF" if header.startswith(_BDF) else "EDF"
    channels = len(header) // _HEADER_BYTES - 1
    if _number(header[184:192], "header size", whole=True) != _HEADER_BYTES * (channels + 1) or len(header) % 256:
        raise UnreadableError("the EDF header's size does not fit its number of channels")
    records = _number(header[236:244], "number of records", whole=True)
    record_s = _number(header[244:252], "record duration")
    at = _HEADER_BYTES + _SAMPLES_AT * channels
    samples = [_number(header[at + 8 * n : at + 8 * (n + 1)], "number of samples", whole=True) for n in range(channels)]
    if record_s <= 0 or min(samples) < 0 or not any(samples) or (records < 1 and records != -1):
        raise UnreadableError("the EDF header's durations or numbers of samples are not positive")
    record_bytes = int(sum(samples)) * _SAMPLE_BYTES[kind]
    if records == -1:  # unknown when the recording began, and never updated
        records = (file_bytes - len(header)) // record_bytes
    size = len(header) + int(records) * record_bytes
    if size > file_bytes or records < 1:
        raise UnreadableError(f"the EDF file is shorter than its header says ({file_bytes} of {size} bytes)")
    if file_bytes - size >= record_bytes:
        raise UnreadableError(f"the EDF file is longer than its header says ({file_bytes}, not {size} bytes)")
    check_size(channels, int(records) * math.ceil(sum(samples) / channels))
    return _Layout(kind, channels, int(records), record_s, [int(number) for number in samples], size)


def _refuse_gaps(content: bytes, layout: _Layout) -> None:
    """Refuse a file with gaps between its records; many recorders write EDF+D also without gaps.

    Raises:
        UnreadableError: There is a gap of half a sample or more, or the file does not say when each record begins.
    """
    if content[192:197] not in (b"EDF+D", b"BDF+D"):
        return
    labels = [
        content[start : start + 16].strip().lower().decode("latin-1")
        for start in range(_HEADER_BYTES, _HEADER_BYTES + 16 * layout.channels, 16)
    ]
    first = next((n for n, label in enumerate(labels) if label in _ANNOTATIONS), None)
    if first is None:
        raise UnreadableError("the EDF+D file does not say when its records begin (it has no annotations)")
    each = _SAMPLE_BYTES[layout.kind]
    before, size = each * sum(layout.samples[:first]), each * layout.samples[first]
    start, record_bytes = _HEADER_BYTES * (layout.channels + 1) + before, each * sum(layout.samples)
    onsets = np.empty(layout.records)
    for record in range(layout.records):
        at = start + record * record_bytes
        match = _ONSET.match(content[at : at + size])
        if match is None:
            raise UnreadableError(f"the EDF+D file does not say when its records begin (record {record + 1})")
        onsets[record] = float(match[1])
    expected = onsets[0] + layout.record_s * np.arange(layout.records)
    gaps = np.flatnonzero(np.abs(onsets - expected) >= 0.5 * layout.record_s / max(layout.samples))
    if len(gaps):
        raise UnreadableError(
            "the EDF+ file has gaps (EDF+D), so what is on both sides of one is not one recording "
            f"(record {gaps[0] + 1} begins at {onsets[gaps[0]]:g} s, not {expected[gaps[0]]:g} s)"
        )


def _recording(content: bytes, layout: _Layout, assumed: Assumed) -> Recording:
    _refuse_gaps(content, layout)
    header = content[: _HEADER_BYTES * (layout.channels + 1)]
    read_content = edfio.read_bdf if layout.kind == "BDF" else edfio.read_edf
    with warnings.catch_warnings(action="ignore"):
        file = read_content(_buffer(content, layout), header_encoding=_encoding(header))
    signals: list[edfio.EdfSignal | edfio.BdfSignal] = [
        signal for signal in file.signals if signal.label.strip().lower() not in _NO_SIGNALS
    ]
    if not signals:
        raise UnreadableError("the EDF file has no signals")
    names = [signal.label.strip() for signal in signals]
    is_lead = [name in LEADS for name in spell_leads(names)]
    leads = [signal for signal, is_wanted in zip(signals, is_lead, strict=True) if is_wanted]
    rates = Counter(signal.samples_per_data_record for signal in leads or signals)
    samples, _ = rates.most_common(1)[0]
    if leads and len(rates) > 1:
        listed = ", ".join(f"{count} x {per_record / layout.record_s:g} Hz" for per_record, count in rates.items())
        raise UnreadableError(f"the EDF file's leads differ in their sampling rates ({listed})")
    units = [_unit(signal.physical_dimension) or assumed.unit for signal in signals]
    lead_units = {unit for unit, is_wanted in zip(units, is_lead, strict=True) if is_wanted}
    chosen = [
        n
        for n, signal in enumerate(signals)
        # Respiration or pressure is not a lead, and would leave the recording without a common unit.
        if signal.samples_per_data_record == samples and (not leads or is_lead[n] or units[n] in lead_units)
    ]
    values = np.empty((len(chosen), samples * layout.records))  # (leads, samples)
    limits = np.empty((len(chosen), 2))
    for at, n in enumerate(chosen):
        values[at], limits[at] = _scaled(signals[n], names[n])
    chosen_units = [units[n] for n in chosen]
    digital = _digital([signals[n] for n in chosen], values)
    values, unit = in_mv(values, chosen_units)
    limits, _ = in_mv(limits, chosen_units)
    return Recording(
        values,
        samples / layout.record_s,
        tuple(names[n] for n in chosen),
        unit,
        limits=limits,
        digital=digital and digital.then(*steps_to_mv(chosen_units)),
    )


def _digital(signals: list[edfio.EdfSignal | edfio.BdfSignal], values: np.ndarray) -> Digital | None:
    """The channels' numbers, if they make exactly the (leads, samples) values that edfio gives."""
    low, high = np.array([signal.digital_range for signal in signals], np.float64).T  # (leads,)
    least, most = np.array([signal.physical_range for signal in signals], np.float64).T
    gains = (most - least) / (high - low)
    steps = ((SUBTRACT, -(most / gains - high)), (MULTIPLY, gains))
    return find_digital(np.stack([signal.digital for signal in signals]), steps, values)


def _buffer(content: bytes, layout: _Layout) -> bytes:
    """The file for edfio, with the actual number of records in its header."""
    return content[:236] + f"{layout.records:<8}".encode() + content[244:]


def _scaled(signal: edfio.EdfSignal | edfio.BdfSignal, name: str) -> tuple[np.ndarray, tuple[float, float]]:
    """The samples of a channel in its unit, (samples,), by its digital and physical range; and the latter in order."""
    try:
        physical, digital = signal.physical_range, signal.digital_range
    except ValueError as error:
        raise UnreadableError(f"a channel's range in the EDF header is no number ({name})") from error
    if not digital.min < digital.max or physical.min == physical.max or not all(map(math.isfinite, physical)):
        raise UnreadableError(f"a channel's range in the EDF header is empty ({name})")
    scaled: np.ndarray = signal.data
    rounding = 1e-9 * abs(physical.max - physical.min)  # a step of 24 bits is 60 times as large
    return scaled, (min(physical) + rounding, max(physical) - rounding)


def _number(field: bytes, what: str, whole: bool = False) -> float:
    try:
        number = float(int(field) if whole else float(field))
    except ValueError as error:
        raise UnreadableError(f"the EDF header's {what} is no number ({field!r})") from error
    if not math.isfinite(number):
        raise UnreadableError(f"the EDF header's {what} is no number ({field!r})")
    return number


def _unit(dimension: str) -> str | None:
    return dimension.strip() or None


def _encoding(header: bytes) -> str:
    """The header's encoding: the format allows only ASCII, but a micro sign is in UTF-8 or, mostly, in Latin-1."""
    try:
        header[8:].decode("utf-8")
    except UnicodeDecodeError:
        return "latin-1"
    return "utf-8"
