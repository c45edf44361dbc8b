"""Vendors' files, decoded by the ecgdatakit package.

GE MUSE XML, Philips Sierra XML, HL7 aECG, SCP-ECG, MFER, Mortara ELI XML and AliveCor's Kardia JSON.

What ecgdatakit reads past with a warning, or without one, is judged here: a recording is whole, in its true rate and on
one time axis, or it is refused with the reason.
"""

import base64
import codecs
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
from ecgdatakit.parsing.helpers.xml import parse_xml_root
from ecgdatakit.parsing.parser import Parser
from ecgdatakit.parsing.parsers.alivecor_kardia import AliveCorKardiaParser
from ecgdatakit.parsing.parsers.ge_muse_xml import GEMuseXMLParser
from ecgdatakit.parsing.parsers.hl7_aecg import HL7aECGParser
from ecgdatakit.parsing.parsers.mfer import MFERParser
from ecgdatakit.parsing.parsers.mortara_el250 import MortaraEL250Parser
from ecgdatakit.parsing.parsers.scp_ecg import SCPECGParser
from ecgdatakit.parsing.parsers.sierra_xml import SierraXMLParser

from ecgpipe.core.leads import LEADS, spelled
from ecgpipe.readers.detect import HEAD_BYTES, format_of
from ecgpipe.readers.files import size_of
from ecgpipe.readers.recording import Assumed, Recording, UnreadableError, check_size, in_mv

# Elements and attributes of an XML file; real ones have some thousands.
_MOST_MARKS = 200_000
# Of one byte each, and ASCII below 128: what a declaration may be believed of bytes that are no UTF-8.
_ENCODINGS = re.compile(r"ascii|iso8859-\d+|cp125\d")
# As ecgdatakit finds a declaration, so that it never gets to see another encoding than the one that is meant here.
_DECLARATION = re.compile(r"\s*<\?xml[^>]*\?>")
_DECLARED = re.compile(r"encoding\s*=\s*[\"']([^\"']*)")

# Nobody's ECG has more; each of them is looked at before its samples are.
_MOST_CHANNELS = 1_000

# The leads that XLI stores as residuals of the first two; sierra-ecg-tools, DecodedLead.cs.
_XLI_RESIDUALS = {"III", "aVR", "aVL", "aVF"}

# What all leads have in common after the ECG, for at least this long and up to this far, is a calibration mark.
_MARK_SECONDS = 0.2
_MARK_SPREAD_MV = 0.02

# Warnings after which part of the signal would be missing or changed. The others are of what is not read here.
_REFUSED = {
    "rhythm waveform ignored": "the file holds several rhythm waveforms",
    "rhythm series found": "the file holds several rhythm series",
    "sequence sets in the rhythm series": "the rhythm series is in several pieces",
    "is non-zero for": "the file states an offset of its samples whose meaning is not documented",
    "leads are stored": "the file does not have as many leads as it states",
}


class _Sierra(SierraXMLParser):
    """Without the search of the physician's signature, which takes quadratic time on a long run of spaces."""

    @staticmethod
    def _parse_signature(signature: str) -> tuple[str, None]:
        return "", None


class _Mfer(MFERParser):
    """With a look at whether each frame takes up its data, neither more nor less."""

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
    # What is read within some seconds and a gigabyte, whatever is in it. Ten seconds of ECG take 0.03 MB to 0.5 MB.
    most_bytes: int
    exact_rate: Callable[[Element], float | None] | None  # of XML: what ecgdatakit rounds to a whole number


def read(path: Path, assumed: Assumed, row: int | None = None) -> Recording:
    """Read the rhythm leads of a vendor's file; see `readers.read`. Median beats are left out."""
    size_of(path)  # a pipe would be waited for
    with path.open("rb") as file:
        head = file.read(HEAD_BYTES)
        found = _FORMATS.get(format_of(path, head) or "")
        if found is None:
            raise UnreadableError("no vendor's file of a known format")
        name, parser, most_bytes, exact_rate = found
        data = head + file.read(most_bytes)
    if len(data) > most_bytes:
        raise UnreadableError(f"too large for its format (over {most_bytes} bytes of {name})")
    rate = None
    with contextlib.ExitStack() as stack:
        source = path
        if exact_rate:
            content, is_as_declared = _in_utf_8(data, name)
            rate = exact_rate(_root(content, name))
            if not is_as_declared:
                source = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ecgpipe-xml-")), path.name)
                source.write_bytes(content)
        record = _record(source, name, parser())
    keys = [
        (lead.sampling_rate, len(lead.samples), int(lead.annotations.get("start_sample", 1))) for lead in record.leads
    ]
    labels = _labels(record.leads)
    kept = _together(labels, keys)
    leads = [record.leads[index] for index in kept]
    labels = [labels[index] for index in kept]
    check_size(len(leads), len(leads[0].samples))
    signal = np.stack([_physical(lead) for lead in leads])  # (leads, samples)
    # A unit that the file states and nobody knows is not for the settings to replace.
    units = [lead.resolution_unit or lead.adc_resolution_unit or assumed.unit for lead in leads]
    signal, unit = in_mv(signal, units)
    rate = rate or _scp_rate(record) or _kardia_rate(record) or _mfer_rate(record) or float(leads[0].sampling_rate)
    samples = signal.shape[1]
    if unit == "mV":
        signal = _without_mark(signal, labels, rate)
    return Recording(signal, rate, tuple(labels), unit, (samples - signal.shape[1]) / rate)


def _in_utf_8(data: bytes, name: str) -> tuple[bytes, bool]:
    """XML in UTF-8, in whatever encoding it declares itself to be.

    Its numbers and names of leads are ASCII, so that no letter beyond it matters. Programs that remove patients' names
    often leave UTF-8 that still declares itself to be UTF-16.

    Args:
        data: The file.
        name: Of its format.

    Returns:
        The XML, which says nothing else than UTF-8 or an encoding of one byte that has ASCII in it; and whether the
        file declares the encoding that it has, which ecgdatakit takes it to be in.

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
            raise _unreadable(name, error) from error
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


def xml_root(data: bytes, name: str) -> Element:
    """The root of XML in any encoding, after a look at what would take the parsers' time or memory."""
    return _root(_in_utf_8(data, name)[0], name)


def _root(data: bytes, name: str) -> Element:
    """The root of XML in UTF-8, after a look at what would take the parsers' time or memory."""
    if re.search(rb"<!(?:ENTITY|ATTLIST)", data):
        raise UnreadableError("the XML declares entities or attributes of its own, which none of these formats has")
    if data.count(b"<") + data.count(b"=") > _MOST_MARKS:
        raise UnreadableError(f"more elements than an ECG has (over {_MOST_MARKS})")
    try:
        return parse_xml_root(data)
    except Exception as error:  # expat's, defusedxml's and ecgdatakit's own
        raise _unreadable(name, error) from error


def _record(path: Path, name: str, parser: Parser) -> ECGRecord:
    """What ecgdatakit makes of the file, its warnings turned into refusals where they matter."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            record = parser.parse(path)
        except (FileNotFoundError, PermissionError, UnreadableError):
            raise
        except Exception as error:  # on broken files, of many kinds
            raise _unreadable(name, error, path) from error
    for message in (str(warning.message) for warning in caught):
        for part, reason in _REFUSED.items():
            if part in message:
                raise UnreadableError(f"{reason} ({_short(message, path)})")
        # All but those of the patient and the time tell of samples that are not where or when they should be.
        if message.startswith("MFER:") and not message.startswith("MFER: invalid "):
            raise UnreadableError(f"the MFER file does not say enough, or contradicts itself ({_short(message, path)})")
        # Sections 2 to 6 are what the signal is made of, by the pointers in section 0. Others are texts and
        # measurements; changing those is what programs do that remove names.
        if "CRC mismatch in:" in message and not re.search(r"Section [02-6]\b", message):
            continue
        if "CRC" in message:
            raise UnreadableError(f"a checksum does not fit: the file is damaged ({_short(message, path)})")
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
    return record


def _labels(leads: list[Lead]) -> list[str]:
    """The leads' names, without the numbers that ecgdatakit gives to those that occur twice."""
    labels = [lead.label for lead in leads]
    stems = [re.sub(r"_\d+$", "", label) for label in labels]
    return [stem if stem in labels else label for label, stem in zip(labels, stems, strict=True)]


def _together(labels: list[str], keys: list[tuple[int, int, int]]) -> list[int]:
    """Which leads share their rate, length and begin with those of the twelve that there are."""
    wanted = {key for name, key in zip(spelled(labels), keys, strict=True) if name in LEADS}
    if len(wanted) > 1:
        found = ", ".join(f"{rate} Hz x {samples} from {start}" for rate, samples, start in sorted(wanted))
        raise UnreadableError(f"the leads differ in sample rate, length or begin ({found})")
    chosen = wanted.pop() if wanted else Counter(keys).most_common(1)[0][0]
    if chosen[0] <= 0:
        raise UnreadableError(f"the file's sample rate is no positive number ({chosen[0]})")
    return [index for index, key in enumerate(keys) if key == chosen]


def _physical(lead: Lead) -> np.ndarray:
    """(samples,) in the lead's unit; ecgdatakit hands out what the file stores."""
    samples: np.ndarray = np.asarray(lead.samples, dtype=np.float64) * lead.resolution
    return samples + lead.offset if lead.offset else samples


def _without_mark(signal: np.ndarray, labels: list[str], rate: float) -> np.ndarray:
    """The signal without the calibration mark that Philips' machines append: 0 mV, 1 mV, 0 mV, the same in all leads.

    Seen in every file of sierra-ecg-tools' examples: 11 s, of which the last 0.4 s are the mark. BRAVEHEART's
    load_philipsxml.m cuts these files at 10 s. It is no ECG: where I and aVR are alike, Goldberger's -(I + II) / 2
    makes all limb leads zero.
    """
    if not {"I", "II", "aVR"} <= set(spelled(labels)):
        return signal
    differ = np.flatnonzero(np.ptp(signal, axis=0) > _MARK_SPREAD_MV)
    end = int(differ[-1]) + 1 if differ.size else 0
    tail = signal[0, end:]  # (samples,)
    if end == 0 or len(tail) < _MARK_SECONDS * rate or not 0.9 < tail.max() < 1.1:
        return signal
    return np.ascontiguousarray(signal[:, :end])


def _muse_rate(root: Element) -> float | None:
    """SampleBase * 10 ** SampleExponent of the rhythm waveform, restecg.dtd."""
    for waveform in root.findall("Waveform"):
        if (waveform.findtext("WaveformType") or "rhythm").strip().lower() == "rhythm":
            base, exponent = _number(waveform.findtext("SampleBase")), _number(waveform.findtext("SampleExponent"))
            if base is not None and abs(exponent or 0) < 20:
                return _rate(base * 10 ** (exponent or 0))
    return None


def _aecg_rate(root: Element) -> float | None:
    """One over the increment of the rhythm series' time sequence, a GLIST of PORT_MT020001."""
    for series in root.findall("component/series"):
        code = series.find("code")
        if code is not None and code.get("code", "").upper() == "REPRESENTATIVE_BEAT":
            continue
        for sequence in series.findall("component/sequenceSet/component/sequence"):
            code, increment = sequence.find("code"), sequence.find("value/increment")
            if code is None or increment is None or not code.get("code", "").upper().startswith("TIME_"):
                continue
            per_second = {"s": 1.0, "ms": 1e3, "us": 1e6, "\u00b5s": 1e6}.get(increment.get("unit", ""))
            step = _number(increment.get("value"))
            return _rate(per_second / step) if per_second and step else None
    return None


def _sierra_rate(root: Element) -> float | None:
    """Of <parsedwaveforms>, else of <signalcharacteristics>, with a look at whether its data has the stated length."""
    waveforms = root.find(".//parsedwaveforms")
    signal = root.find(".//signalcharacteristics")
    if waveforms is None:
        return None
    offset = waveforms.get("signaloffset") or (signal.findtext("signaloffset") if signal is not None else None)
    if _number(offset):
        raise UnreadableError(f"the file states an offset of its samples whose meaning is not documented ({offset})")
    rate = _number(waveforms.get("samplespersecond")) or _number(
        signal.findtext("samplingrate") if signal is not None else None
    )
    rate = rate or 0
    if rate != int(rate):
        # ecgdatakit would round it, and then cut the leads apart in the wrong places.
        raise UnreadableError(f"a Sierra XML file's sample rate has to be a whole number ({rate})")
    exact = (_number(waveforms.get("durationperchannel")) or 0) * rate / 1000
    names = waveforms.get("leadlabels", "").split()
    check_size(max(len(names), 12), int(min(exact, 1e18)))
    samples = round(exact)
    method = waveforms.get("compression") or waveforms.get("compressmethod") or ""
    packed = method.upper() == "XLI" and waveforms.get("compressflag", "").lower() != "false"
    stored = spelled(names)
    if packed and names and stored[:6] != list(LEADS[:6]) and _XLI_RESIDUALS & set(stored):
        raise UnreadableError(f"leads in an order for which XLI is not documented ({' '.join(names)[:80]})")
    words = (waveforms.text or "").split()
    if waveforms.get("dataencoding") != "Base64":
        fits = samples > 0 and len(words) % samples == 0
    else:
        try:
            data = base64.b64decode("".join(words))
        except ValueError as error:
            raise _unreadable("Philips Sierra XML", error) from error
        fits = samples > 0 and (_xli_fits(data, samples) if packed else len(data) % (2 * samples) == 0)
    if not fits:
        raise UnreadableError(f"the leads do not have the duration that the file states ({samples} samples)")
    return rate


def _eli_rate(root: Element) -> float | None:
    """SAMPLE_FREQ of the <CHANNEL>s of a Mortara file, with a look at their scales.

    ecgdatakit takes a scale that is no positive number for none at all, which the settings could then replace.
    """
    channels = root.findall("CHANNEL")
    for channel in channels:
        scale = channel.get("UNITS_PER_MV", "").strip()
        if scale and (_number(scale) or 0) <= 0:
            raise UnreadableError(
                f"a lead's scale is no positive number ({channel.get('NAME', '')[:20]}: {scale[:20]})"
            )
    rates = {_number(channel.get("SAMPLE_FREQ")) for channel in channels}
    if len(rates) > 1:
        raise UnreadableError(f"the leads differ in sampling rate ({', '.join(map(str, rates))})")
    return next(iter(rates), None)


def _xli_fits(data: bytes, samples: int) -> bool:
    """Whether each lead's chunk unpacks to two bytes a sample; 10 bits can stand for 768 bytes."""
    at = 0
    while at + 8 <= len(data):
        size = int.from_bytes(data[at : at + 4], "little")
        chunk = data[at + 8 : at + 8 + size]
        at += 8 + size
        # Without any compression 10 bits stand for one byte.
        if not 0 < len(chunk) <= 3 * samples + 1000 or abs(_lzw_length(chunk, 3 * samples) - 2 * samples) > 1:
            return False
    return True


def _lzw_length(packed: bytes, most: int) -> int:
    """How many bytes ecgdatakit's LzwDecoder makes of 10-bit codes; not counted on after `most`."""
    bits = np.unpackbits(np.frombuffer(packed, dtype=np.uint8))
    codes = bits[: len(bits) // 10 * 10].reshape(-1, 10) @ (1 << np.arange(9, -1, -1))
    lengths = dict.fromkeys(range(256), 1)
    previous, upcoming, total = 0, 256, 0
    for code in codes.tolist():
        if code > 1022:
            break
        length = lengths.setdefault(code, previous + 1)
        if previous and upcoming <= 1022:
            lengths[upcoming] = previous + 1
            upcoming += 1
        previous = length
        total += length
        if total > most:
            break
    return total


def _scp_rate(record: ECGRecord) -> float | None:
    """Of an SCP-ECG file, whose interval is in whole microseconds: 1667 of them stand for 600 Hz, not for 599.88."""
    interval = record.raw_metadata.get("rhythm_sample_interval_us")
    if not interval:
        return None
    nearest = round(1e6 / interval)
    return float(nearest) if nearest and abs(1e6 / nearest - interval) <= 0.5 else 1e6 / interval


def _kardia_rate(record: ECGRecord) -> float | None:
    """`frequency` of a Kardia recording, with a look at its scale, of which the same holds as of Mortara's."""
    stated = record.raw_metadata.get("raw")
    if record.source_format != "alivecor_kardia" or not isinstance(stated, dict):
        return None
    scale = stated.get("amplitudeResolution")
    if scale is not None and (_number(str(scale)) or 0) <= 0:
        raise UnreadableError(f"a lead's scale is no positive number (amplitudeResolution {str(scale)[:20]})")
    return _number(str(stated["frequency"]))


def _mfer_rate(record: ECGRecord) -> float | None:
    """MWF_IVL of the channels of an MFER file, which have to share it, with a look at their offsets.

    The sign of MWF_OFF could be checked with no file of a device.
    """
    if record.source_format != "mfer":
        return None
    for lead in record.leads:
        if lead.offset or "offset_counts" in lead.annotations:
            raise UnreadableError(f"the file states an offset of its samples ({lead.label}), which is not read")
    rates = set(record.raw_metadata.get("sampling_rates", []))
    if len(rates) != 1:
        raise UnreadableError(f"the leads differ in sampling rate ({', '.join(f'{rate:g}' for rate in sorted(rates))})")
    return _rate(rates.pop())


def _rate(rate: float) -> float:
    """A rate that decimal fractions have moved off a whole number by less than one in a hundred thousand, put back."""
    return float(round(rate)) if abs(rate - round(rate)) < 1e-5 * abs(rate) else rate


def _number(text: str | None) -> float | None:
    try:
        number = float((text or "").replace(",", "."))
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _unreadable(name: str, error: Exception, path: Path | None = None) -> UnreadableError:
    return UnreadableError(f"not a readable {name} file ({_short(str(error) or type(error).__name__, path)})")


def _short(message: str, path: Path | None) -> str:
    """A message of a library, in one line, without the folder that it may name."""
    if path is not None:
        message = message.replace(str(path), path.name)
    return " ".join(message.split())[:200]


_FORMATS: dict[str, _Format] = {
    "muse-xml": _Format("GE MUSE XML", GEMuseXMLParser, 24_000_000, _muse_rate),
    "sierra-xml": _Format("Philips Sierra XML", _Sierra, 6_000_000, _sierra_rate),
    "hl7-aecg": _Format("HL7 aECG", HL7aECGParser, 24_000_000, _aecg_rate),
    # A lead's bytes are counted in 16 bits, so that twelve never take more than 0.8 MB; it is decoded bit by bit.
    "scp-ecg": _Format("SCP-ECG", SCPECGParser, 1_000_000, None),
    "mortara-xml": _Format("Mortara ELI XML", MortaraEL250Parser, 24_000_000, _eli_rate),
    # Ten seconds of twelve leads take 0.12 MB.
    "mfer": _Format("MFER", _Mfer, 24_000_000, None),
    # Thirty seconds of six leads, twice (raw and filtered), take 0.6 MB.
    "kardia-json": _Format("Kardia JSON", AliveCorKardiaParser, 24_000_000, None),
}
