"""Vendors' files, decoded by the ecgdatakit package.

GE MUSE XML, Philips Sierra XML, HL7 aECG, SCP-ECG, MFER, Mortara ELI XML and AliveCor's Kardia JSON.

ecgdatakit passes over many faults, with a warning or without. They are judged here: a recording is whole, at its true
sampling rate and on one time axis, or it is refused with the reason.
"""

import contextlib
import math
import re
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple
from xml.etree.ElementTree import Element

import numpy as np
from ecgdatakit.models import ECGRecord, Lead
from ecgdatakit.parsing.parser import Parser
from ecgdatakit.parsing.parsers.alivecor_kardia import AliveCorKardiaParser
from ecgdatakit.parsing.parsers.ge_muse_xml import GEMuseXMLParser
from ecgdatakit.parsing.parsers.hl7_aecg import HL7aECGParser
from ecgdatakit.parsing.parsers.mfer import MFERParser
from ecgdatakit.parsing.parsers.mortara_el250 import MortaraEL250Parser
from ecgdatakit.parsing.parsers.scp_ecg import SCPECGParser
from ecgdatakit.parsing.parsers.sierra_xml import SierraXMLParser

from ecgpipe.core.digital import MULTIPLY, SUBTRACT, find_digital
from ecgpipe.core.leads import LEADS, spell_leads
from ecgpipe.readers.detect import HEAD_BYTES, format_of
from ecgpipe.readers.files import brief, size_of, unreadable
from ecgpipe.readers.recording import Assumed, Recording, UnreadableError, check_size, in_mv, steps_to_mv
from ecgpipe.readers.vendor_rates import aecg_rate, eli_rate, muse_rate, rate_of_record, sierra_rate
from ecgpipe.readers.vendor_reports import (
    aecg_values,
    kardia_values,
    mortara_values,
    muse_values,
    read_report,
    scp_values,
    sierra_values,
)
from ecgpipe.readers.vendor_xml import in_utf_8, parse_root

# No real ECG has more; each of them is checked before its samples.
_MOST_CHANNELS = 1_000

# A calibration mark is the same in all leads after the ECG: for at least this long, up to this difference.
_MARK_SECONDS = 0.2
_MARK_SPREAD_MV = 0.02

# Warnings of ecgdatakit that tell of a missing or changed part of the signal. Others concern parts that are not read.
_REFUSED = {
    "rhythm waveform ignored": "the file holds several rhythm waveforms",
    "rhythm series found": "the file holds several rhythm series",
    "sequence sets in the rhythm series": "the rhythm series is in several pieces",
    "is non-zero for": "the file states an offset of its samples whose meaning is not documented",
    "leads are stored": "the file does not have as many leads as it states",
}


class _Sierra(SierraXMLParser):
    """Does not search for the physician's signature, which takes quadratic time on a long run of spaces."""

    @staticmethod
    def _parse_signature(signature: str) -> tuple[str, None]:
        return "", None


class _Mfer(MFERParser):
    """Checks that each frame takes up exactly its data."""

    def _add_frame(self, wav: bytes) -> None:
        if self._state.channels > _MOST_CHANNELS:
            raise UnreadableError(f"the MFER file has too many channels ({self._state.channels})")
        super()._add_frame(wav)
        frame = self._frames[-1]
        declared = sum(
            len(samples) * dtype.itemsize for samples, dtype in zip(frame["channels"], frame["dtypes"], strict=True)
        )
        if declared != len(wav):
            raise UnreadableError(f"an MFER frame does not hold what it declares ({declared} of {len(wav)} bytes)")


class _Format(NamedTuple):
    """How a format is read."""

    name: str  # as people know it
    parser: Callable[[], Parser]
    # A file of this size is read within some seconds and a gigabyte, whatever it holds. 10 s take 0.03 MB to 0.5 MB.
    most_bytes: int
    exact_rate: Callable[[Element], float | None] | None  # of XML, of which ecgdatakit keeps whole numbers
    # What its device measured, of the root of XML, else of what ecgdatakit has read.
    measured: Callable[..., dict[str, float | None]] | None = None


def read(path: Path, assumed: Assumed, row: int | None = None) -> Recording:
    """Read the rhythm leads of a vendor's file; see `readers.read`. Median beats are left out."""
    size_of(path)  # a pipe would be waited for
    with path.open("rb") as file:
        head = file.read(HEAD_BYTES)
        vendor_format = _FORMATS.get(format_of(path, head) or "")
        if vendor_format is None:
            raise UnreadableError("no vendor's file of a known format")
        name, parser, most_bytes, exact_rate, measured = vendor_format
        data = head + file.read(most_bytes)
    if len(data) > most_bytes:
        raise UnreadableError(f"too large for its format (over {most_bytes} bytes of {name})")
    rate, root = None, None
    with contextlib.ExitStack() as stack:
        source = path
        if exact_rate:
            content, is_as_declared = in_utf_8(data, name)
            root = parse_root(content, name)
            rate = exact_rate(root)
            if not is_as_declared:
                source = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ecgpipe-xml-")), path.name)
                source.write_bytes(content)
        record, damaged = _record(source, name, parser())
    keys = [
        (lead.sampling_rate, len(lead.samples), int(lead.annotations.get("start_sample", 1))) for lead in record.leads
    ]
    labels = _labels(record.leads)
    kept = _matching_leads(labels, keys)
    leads = [record.leads[index] for index in kept]
    labels = [labels[index] for index in kept]
    check_size(len(leads), len(leads[0].samples))
    signal = np.stack([_physical(lead) for lead in leads])  # (leads, samples)
    # The settings do not replace a unit that the file states, even if it is unknown.
    units = [lead.resolution_unit or lead.adc_resolution_unit or assumed.unit for lead in leads]
    signal, unit = in_mv(signal, units)
    scales = (MULTIPLY, np.array([float(lead.resolution) for lead in leads]))
    offsets = (SUBTRACT, np.array([-float(lead.offset) for lead in leads]))
    steps = (scales, *((offsets,) if offsets[1].any() else ()), *steps_to_mv(units))
    digital = find_digital(np.stack([np.asarray(lead.samples) for lead in leads]), steps, signal)
    rate = rate or rate_of_record(record) or float(leads[0].sampling_rate)
    samples = signal.shape[1]
    if unit == "mV":
        signal = _remove_mark(signal, labels, rate)
    values = measured(record if root is None else root) if measured else {}
    device = read_report(record, values, damaged)
    stripped_s = (samples - signal.shape[1]) / rate
    digital = digital and digital.between(0, signal.shape[1])
    return Recording(signal, rate, tuple(labels), unit, stripped_s, device=device, digital=digital)


def _record(path: Path, name: str, parser: Parser) -> tuple[ECGRecord, str]:
    """Read the file by ecgdatakit, and refuse it if a warning or a value tells that the signal is not whole.

    Returns:
        What it has read, and which parts besides the signal have checksums that do not fit.
    """
    damaged = ""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            record = parser.parse(path)
        except (FileNotFoundError, PermissionError, UnreadableError):
            raise
        except Exception as error:  # on broken files, of many kinds
            raise unreadable(name, error, path) from error
    for message in (str(warning.message) for warning in caught):
        for part, reason in _REFUSED.items():
            if part in message:
                raise UnreadableError(f"{reason} ({brief(message, path)})")
        # All warnings except those of the patient and the time tell of misplaced samples.
        if message.startswith("MFER:") and not message.startswith("MFER: invalid "):
            raise UnreadableError(f"the MFER file does not say enough, or contradicts itself ({brief(message, path)})")
        # The signal is in sections 2 to 6, by the pointers in section 0. Others hold texts and measurements, which
        # de-identification programs change.
        if "CRC mismatch in:" in message and not re.search(r"Section [02-6]\b", message):
            damaged += message
            continue
        if "CRC" in message:
            raise UnreadableError(f"a checksum does not fit: the file is damaged ({brief(message, path)})")
    if not record.leads or not any(len(lead.samples) for lead in record.leads):
        raise UnreadableError(f"the {name} file has no rhythm leads")
    if record.raw_metadata.get("rhythm_avm_nv") == 0:
        raise UnreadableError("a lead's scale is no positive number (an amplitude multiplier of 0)")
    if "bimodal" in record.recording.acquisition.signal.compression:
        raise UnreadableError("bimodal compression is not read")
    for lead in record.leads:
        if late := lead.annotations.get("LeadTimeOffset"):
            raise UnreadableError(f"the leads do not begin at the same time ({lead.label}: {late})")
        if not (lead.resolution > 0 and math.isfinite(lead.resolution) and math.isfinite(lead.offset)):
            raise UnreadableError(f"a lead's scale is no positive number ({lead.label}: {lead.resolution})")
    return record, damaged


def _labels(leads: list[Lead]) -> list[str]:
    """The leads' names, without the numbers that ecgdatakit adds to names that occur twice."""
    labels = [lead.label for lead in leads]
    stems = [re.sub(r"_\d+$", "", label) for label in labels]
    return [stem if stem in labels else label for label, stem in zip(labels, stems, strict=True)]


def _matching_leads(labels: list[str], keys: list[tuple[int, int, int]]) -> list[int]:
    """The numbers of the leads that have the rate, length and beginning of those of the twelve."""
    wanted = {key for name, key in zip(spell_leads(labels), keys, strict=True) if name in LEADS}
    if len(wanted) > 1:
        differences = ", ".join(f"{rate} Hz x {samples} from {start}" for rate, samples, start in sorted(wanted))
        raise UnreadableError(f"the leads differ in sampling rate, length or begin ({differences})")
    chosen = wanted.pop() if wanted else Counter(keys).most_common(1)[0][0]
    if chosen[0] <= 0:
        raise UnreadableError(f"the file's sampling rate is not a positive number ({chosen[0]})")
    return [index for index, key in enumerate(keys) if key == chosen]


def _physical(lead: Lead) -> np.ndarray:
    """(samples,) in the lead's unit; ecgdatakit returns the counts that the file stores."""
    samples: np.ndarray = np.asarray(lead.samples, dtype=np.float64) * lead.resolution
    return samples + lead.offset if lead.offset else samples


def _remove_mark(signal: np.ndarray, labels: list[str], rate: float) -> np.ndarray:
    """Remove the calibration mark that Philips' devices append: 0 mV, 1 mV, 0 mV, the same in all leads.

    Every example of sierra-ecg-tools has it: 11 s, of which the last 0.4 s are the mark. BRAVEHEART's
    load_philipsxml.m cuts these files at 10 s. It cannot be an ECG: if I equals aVR, Goldberger's -(I + II) / 2 makes
    all limb leads zero.
    """
    if not {"I", "II", "aVR"} <= set(spell_leads(labels)):
        return signal
    differing = np.flatnonzero(np.ptp(signal, axis=0) > _MARK_SPREAD_MV)
    end = int(differing[-1]) + 1 if differing.size else 0
    tail = signal[0, end:]  # (samples,)
    if end == 0 or len(tail) < _MARK_SECONDS * rate or not 0.9 < tail.max() < 1.1:
        return signal
    return np.ascontiguousarray(signal[:, :end])


_FORMATS: dict[str, _Format] = {
    "muse-xml": _Format("GE MUSE XML", GEMuseXMLParser, 24_000_000, muse_rate, muse_values),
    "sierra-xml": _Format("Philips Sierra XML", _Sierra, 6_000_000, sierra_rate, sierra_values),
    "hl7-aecg": _Format("HL7 aECG", HL7aECGParser, 24_000_000, aecg_rate, aecg_values),
    # A lead's bytes are counted in 16 bits, so that twelve never take more than 0.8 MB; it is decoded bit by bit.
    "scp-ecg": _Format("SCP-ECG", SCPECGParser, 1_000_000, None, scp_values),
    "mortara-xml": _Format("Mortara ELI XML", MortaraEL250Parser, 24_000_000, eli_rate, mortara_values),
    # Ten seconds of twelve leads take 0.12 MB.
    "mfer": _Format("MFER", _Mfer, 24_000_000, None),
    # Thirty seconds of six leads, twice (raw and filtered), take 0.6 MB.
    "kardia-json": _Format("Kardia JSON", AliveCorKardiaParser, 24_000_000, None, kardia_values),
}
