"""The exact sampling rate of a vendor's file, of which ecgdatakit keeps a whole number, by format.

Where a format allows more than its rate says, that is checked here too: the stated duration, scales and offsets.
"""

import base64
from xml.etree.ElementTree import Element

import numpy as np
from ecgdatakit.models import ECGRecord

from ecgpipe.core.leads import LEADS, spell_leads
from ecgpipe.readers.files import unreadable
from ecgpipe.readers.recording import UnreadableError, check_size
from ecgpipe.readers.vendor_xml import number_of

# The leads that XLI stores as residuals of the first two; sierra-ecg-tools, DecodedLead.cs.
_XLI_RESIDUALS = {"III", "aVR", "aVL", "aVF"}


def muse_rate(root: Element) -> float | None:
    """SampleBase * 10 ** SampleExponent of the rhythm waveform, restecg.dtd."""
    for waveform in root.findall("Waveform"):
        if (waveform.findtext("WaveformType") or "rhythm").strip().lower() == "rhythm":
            base, exponent = number_of(waveform.findtext("SampleBase")), number_of(waveform.findtext("SampleExponent"))
            if base is not None and abs(exponent or 0) < 20:
                return _rounded(base * 10 ** (exponent or 0))
    return None


def aecg_rate(root: Element) -> float | None:
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
            step = number_of(increment.get("value"))
            return _rounded(per_second / step) if per_second and step else None
    return None


def sierra_rate(root: Element) -> float | None:
    """Of <parsedwaveforms>, else of <signalcharacteristics>, if its data has the stated length."""
    waveforms = root.find(".//parsedwaveforms")
    signal = root.find(".//signalcharacteristics")
    if waveforms is None:
        return None
    offset = waveforms.get("signaloffset") or (signal.findtext("signaloffset") if signal is not None else None)
    if number_of(offset):
        raise UnreadableError(f"the file states an offset of its samples whose meaning is not documented ({offset})")
    rate = number_of(waveforms.get("samplespersecond")) or number_of(
        signal.findtext("samplingrate") if signal is not None else None
    )
    rate = rate or 0
    if rate != int(rate):
        # ecgdatakit would round it, and then separate the leads in the wrong places.
        raise UnreadableError(f"a Sierra XML file's sampling rate has to be a whole number ({rate})")
    exact = (number_of(waveforms.get("durationperchannel")) or 0) * rate / 1000
    names = waveforms.get("leadlabels", "").split()
    check_size(max(len(names), 12), int(min(exact, 1e18)))
    samples = round(exact)
    method = waveforms.get("compression") or waveforms.get("compressmethod") or ""
    packed = method.upper() == "XLI" and waveforms.get("compressflag", "").lower() != "false"
    stored = spell_leads(names)
    if packed and names and stored[:6] != list(LEADS[:6]) and _XLI_RESIDUALS & set(stored):
        raise UnreadableError(f"leads in an order for which XLI is not documented ({' '.join(names)[:80]})")
    words = (waveforms.text or "").split()
    if waveforms.get("dataencoding") != "Base64":
        fits = samples > 0 and len(words) % samples == 0
    else:
        try:
            data = base64.b64decode("".join(words))
        except ValueError as error:
            raise unreadable("Philips Sierra XML", error) from error
        fits = samples > 0 and (_xli_fits(data, samples) if packed else len(data) % (2 * samples) == 0)
    if not fits:
        raise UnreadableError(f"the leads do not have the duration that the file states ({samples} samples)")
    return rate


def eli_rate(root: Element) -> float | None:
    """SAMPLE_FREQ of the <CHANNEL>s of a Mortara file, if their scales are positive numbers.

    ecgdatakit ignores other scales, and the settings could then replace them.
    """
    channels = root.findall("CHANNEL")
    for channel in channels:
        scale = channel.get("UNITS_PER_MV", "").strip()
        if scale and (number_of(scale) or 0) <= 0:
            raise UnreadableError(
                f"a lead's scale is no positive number ({channel.get('NAME', '')[:20]}: {scale[:20]})"
            )
    rates = {number_of(channel.get("SAMPLE_FREQ")) for channel in channels}
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
    """Count the bytes that ecgdatakit's LzwDecoder makes of 10-bit codes, up to `most`."""
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
    """Of an SCP-ECG file, whose interval is in whole microseconds: 1667 stands for 600 Hz, not for 599.88 Hz."""
    interval = record.raw_metadata.get("rhythm_sample_interval_us")
    if not interval:
        return None
    nearest = round(1e6 / interval)
    return float(nearest) if nearest and abs(1e6 / nearest - interval) <= 0.5 else 1e6 / interval


def _kardia_rate(record: ECGRecord) -> float | None:
    """`frequency` of a Kardia recording, if its scale is a positive number, as in `eli_rate`."""
    stated = record.raw_metadata.get("raw")
    if record.source_format != "alivecor_kardia" or not isinstance(stated, dict):
        return None
    scale = stated.get("amplitudeResolution")
    if scale is not None and (number_of(str(scale)) or 0) <= 0:
        raise UnreadableError(f"a lead's scale is no positive number (amplitudeResolution {str(scale)[:20]})")
    return number_of(str(stated["frequency"]))


def _mfer_rate(record: ECGRecord) -> float | None:
    """MWF_IVL of the channels of an MFER file, if they share it and state no offset.

    No file of a device was available to check the sign of an offset (MWF_OFF).
    """
    if record.source_format != "mfer":
        return None
    for lead in record.leads:
        if lead.offset or "offset_counts" in lead.annotations:
            raise UnreadableError(f"the file states an offset of its samples ({lead.label}), which is not read")
    rates = set(record.raw_metadata.get("sampling_rates", []))
    if len(rates) != 1:
        raise UnreadableError(f"the leads differ in sampling rate ({', '.join(f'{rate:g}' for rate in sorted(rates))})")
    return _rounded(rates.pop())


def _rounded(rate: float) -> float:
    """Round a rate that differs from a whole number by less than one in a hundred thousand, as decimal fractions do."""
    return float(round(rate)) if abs(rate - round(rate)) < 1e-5 * abs(rate) else rate


def rate_of_record(record: ECGRecord) -> float | None:
    """The rate of a file that is not XML, as ecgdatakit has read it; None if its format keeps it in whole numbers."""
    return _scp_rate(record) or _kardia_rate(record) or _mfer_rate(record)
