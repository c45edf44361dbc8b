"""Files of ECG vendors' formats as their published schemas have them, which no library writes.

Each function takes a signal of (leads, samples) in millivolts and returns what the file holds of it after quantisation,
in millivolts too. Layouts: MUSE's restecg.dtd; Philips' SierraECGSchema_1_04_01.xsd and, for XLI, sierra-ecg-tools;
HL7's PORT_MT020001 of 2003-12; EN 1064:2005 for SCP-ECG; MFER part 1 and 3-1; Badilini 1998 for ISHNE;
developers.kardia.com for Kardia. CardioSoft's and Mortara's are not published: theirs are as other readers have them,
ml4h's tensorize, BRAVEHEART's load_cardiosoftxml.m and load_elixml.m, and EDFbrowser's mortara2edf.cpp.
"""

import base64
import binascii
import json
import struct
import zlib
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

from ecgpipe.readers import LEADS

# The leads that the limb leads follow from, and the chest leads.
EIGHT = ("I", "II", "V1", "V2", "V3", "V4", "V5", "V6")

# EN 1064, table of section 3.
SCP_LEADS = {name: code for code, name in enumerate(EIGHT, start=1)}
SCP_LEADS |= {name: code for code, name in enumerate(("III", "aVR", "aVL", "aVF"), start=61)}


# Badilini 1998, table 1.
ISHNE_LEADS = {"I": 5, "II": 6, "III": 7, "aVR": 8, "aVL": 9, "aVF": 10} | {f"V{n}": 10 + n for n in range(1, 7)}
ISHNE_LEADS |= {"X": 2, "Y": 3, "Z": 4}


def quantised(signal_mv: np.ndarray, lsb_uv: float) -> np.ndarray:
    """Counts, int64."""
    return np.rint(np.asarray(signal_mv, np.float64) * 1000 / lsb_uv).astype(np.int64)


def muse_xml(path: Path, signal_mv: np.ndarray, sample_rate: float, leads: Sequence[str]) -> np.ndarray:
    """GE MUSE XML at 4.88 uV a count, with a median beat before the rhythm, as MUSE 9 writes it."""
    counts = quantised(signal_mv, 4.88)
    exponent = 0 if sample_rate == int(sample_rate) else -3

    def waveform(kind: str, rows: np.ndarray) -> str:
        parts = [
            f"<Waveform><WaveformType>{kind}</WaveformType><WaveformStartTime>0</WaveformStartTime>",
            f"<NumberofLeads>{len(leads)}</NumberofLeads><SampleType>CONTINUOUS_SAMPLES</SampleType>",
            f"<SampleBase>{round(sample_rate * 10**-exponent)}</SampleBase><SampleExponent>{exponent}</SampleExponent>",
        ]
        for name, row in zip(leads, rows, strict=True):
            payload = row.astype("<i2").tobytes()
            parts.append(
                f"<LeadData><LeadByteCountTotal>{len(payload)}</LeadByteCountTotal><LeadTimeOffset>0</LeadTimeOffset>"
                f"<LeadSampleCountTotal>{len(row)}</LeadSampleCountTotal>"
                "<LeadAmplitudeUnitsPerBit>4.88</LeadAmplitudeUnitsPerBit>"
                f"<LeadAmplitudeUnits>MICROVOLTS</LeadAmplitudeUnits><LeadID>{name}</LeadID>"
                "<LeadOffsetFirstSample>0</LeadOffsetFirstSample><FirstSampleBaseline>0</FirstSampleBaseline>"
                f"<LeadSampleSize>2</LeadSampleSize><LeadDataCRC32>{zlib.crc32(payload)}</LeadDataCRC32>"
                f"<WaveFormData>{base64.encodebytes(payload).decode()}</WaveFormData></LeadData>"
            )
        return "\n".join([*parts, "</Waveform>"])

    text = (
        '<?xml version="1.0" encoding="ISO-8859-1"?>\n<!DOCTYPE RestingECG SYSTEM "restecg.dtd">\n<RestingECG>\n'
        "<MuseInfo><MuseVersion>9.0.7.17363</MuseVersion></MuseInfo>\n"
        "<PatientDemographics><PatientLastName>Müller</PatientLastName></PatientDemographics>\n"
        f"{waveform('Median', -counts[:, :600])}\n{waveform('Rhythm', counts)}\n</RestingECG>\n"
    )
    path.write_bytes(text.encode("iso8859-1"))
    return counts * 4.88e-3


def sierra_xml(
    path: Path, signal_mv: np.ndarray, sample_rate: int, leads: Sequence[str], *, compressed: bool = True
) -> np.ndarray:
    """Philips Sierra XML 1.04.01 at 5 uV a count, in UTF-16 as PageWriter writes it, XLI-compressed or plain."""
    counts = quantised(signal_mv, 5.0)
    stored = _xli(counts, leads) if compressed else counts.astype("<i2").tobytes()
    compression = 'compression="XLI"' if compressed else ""
    text = (
        '<?xml version="1.0" encoding="utf-16"?>\n<restingecgdata xmlns="http://www3.medical.philips.com">\n'
        "<documentinfo><documenttype>PhilipsECG</documenttype><documentversion>1.04.01</documentversion></documentinfo>"
        "<dataacquisition><signalcharacteristics>"
        f"<samplingrate>{sample_rate}</samplingrate><resolution>5</resolution><signaloffset>0</signaloffset>"
        "<signalsigned>True</signalsigned><acquisitiontype>10-WIRE</acquisitiontype><bitspersample>16</bitspersample>"
        f"<numberchannelsallocated>{len(leads)}</numberchannelsallocated></signalcharacteristics></dataacquisition>\n"
        f'<waveforms><parsedwaveforms dataencoding="Base64" {compression}'
        f' numberofleads="{len(leads)}" leadlabels="{" ".join(leads)}" samplespersecond="{sample_rate}" resolution="5"'
        f' durationperchannel="{counts.shape[1] * 1000 / sample_rate:g}" signaloffset="0" signalsigned="True">\n'
        f"{base64.encodebytes(stored).decode()}</parsedwaveforms>\n"
        '<repbeats dataencoding="Base64" samplespersec="1000" resolution="1.0">'
        f'<repbeat leadname="I"><waveform duration="2">{base64.b64encode(bytes(4)).decode()}</waveform></repbeat>'
        "</repbeats></waveforms></restingecgdata>\n"
    )
    path.write_bytes(text.encode("utf-16"))
    return counts * 5e-3


def hl7_aecg(path: Path, signal_mv: np.ndarray, sample_rate: float, leads: Sequence[str]) -> np.ndarray:
    """HL7 aECG at 2.5 uV a count, with a representative beat derived from the rhythm."""
    counts = quantised(signal_mv, 2.5)

    def component(code: str, value: str) -> str:
        return f'<component><sequence><code code="{code}"/>{value}</sequence></component>'

    def sequences(rows: np.ndarray, time: str, head: str) -> str:
        increment = f'<head {head}/><increment value="{1 / sample_rate:.12g}" unit="s"/>'
        parts = [component(time, f'<value xsi:type="GLIST_TS">{increment}</value>')]
        for name, row in zip(leads, rows, strict=True):
            digits = " ".join(map(str, row.tolist()))
            parts.append(
                component(
                    f"MDC_ECG_LEAD_{name.upper()}",
                    '<value xsi:type="SLIST_PQ"><origin value="0" unit="uV"/><scale value="2.5" unit="uV"/>'
                    f"<digits>{digits}</digits></value>",
                )
            )
        return f"<component><sequenceSet>{''.join(parts)}</sequenceSet></component>"

    rhythm = sequences(counts, "TIME_ABSOLUTE", 'value="20021122091000"')
    beat = sequences(-counts[:, :300], "TIME_RELATIVE", 'value="0" unit="s"')
    path.write_text(
        '<?xml version="1.0" encoding="utf-8"?>\n<!-- <AnnotatedECG> follows -->\n'
        '<AnnotatedECG xmlns="urn:hl7-org:v3" xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance">\n'
        '<id root="61d1a24f-b47e-41aa-ae95-f8ac302f4eeb"/><code code="93000"/>\n'
        '<component><series><code code="RHYTHM"/>'
        f"{rhythm}\n"
        f'<derivation><derivedSeries><code code="REPRESENTATIVE_BEAT"/>{beat}</derivedSeries></derivation>'
        "</series></component></AnnotatedECG>\n",
        encoding="utf-8",
    )
    return counts * 2.5e-3


def cardiosoft_xml(path: Path, signal_mv: np.ndarray, sample_rate: float, leads: Sequence[str]) -> np.ndarray:
    """GE CardioSoft XML at 5 uV a count, with median beats before the strip, as UK Biobank has it."""
    counts = quantised(signal_mv, 5.0)

    def waveforms(rows: np.ndarray) -> str:
        # Lines of samples, indented by tabs.
        texts = [",".join(map(str, row.tolist())).replace(",", ",\n\t\t", 3) for row in rows]
        return "\n".join(
            f'<WaveformData lead="{name}">\n\t\t{text}</WaveformData>' for name, text in zip(leads, texts, strict=True)
        )

    def strip(rows: np.ndarray) -> str:
        return (
            f'<NumberOfLeads>{len(rows)}</NumberOfLeads><SampleRate units="Hz">{sample_rate:g}</SampleRate>'
            f"<ChannelSampleCountTotal>{rows.shape[1]}</ChannelSampleCountTotal>"
            f'<Resolution units="uVperLsb">5</Resolution>\n{waveforms(rows)}'
        )

    path.write_bytes(
        (
            '<?xml version="1.0" encoding="ISO8859-1" ?>\n<CardiologyXML>\n'
            "<ObservationType>RestECG</ObservationType><PatientInfo><Name><FamilyName>Müller</FamilyName></Name>"
            "</PatientInfo>\n<RestingECGMeasurements><VentricularRate units='BPM'>60</VentricularRate>"
            f"<MedianSamples>{strip(-counts[:, :600])}</MedianSamples></RestingECGMeasurements>\n"
            f"<StripData>{strip(counts)}<ArrhythmiaResults><Time>0</Time></ArrhythmiaResults></StripData>\n"
            "</CardiologyXML>\n"
        ).encode("iso8859-1")
    )
    return counts * 5e-3


def mortara_xml(path: Path, signal_mv: np.ndarray, sample_rate: float, leads: Sequence[str]) -> np.ndarray:
    """Mortara ELI XML at 400 counts a millivolt, with a typical cycle before the channels."""
    counts = quantised(signal_mv, 2.5)

    def data(row: np.ndarray) -> str:
        return base64.b64encode(row.astype("<i2").tobytes()).decode()

    kind = 'BITS="16" FORMAT="SIGNED" UNITS_PER_MV="400"'
    rate = f'SAMPLE_FREQ="{sample_rate:g}"'
    cycles = "".join(
        f'<TYPICAL_CYCLE_CHANNEL NAME="{name}" DATA="{data(row)}"/>'
        for name, row in zip(leads, -counts[:, :300], strict=True)
    )
    channels = "\n".join(
        f'<CHANNEL OFFSET="0" {kind} DURATION="{len(row)}" {rate} NAME="{name}" ENCODING="BASE64" DATA="{data(row)}"/>'
        for name, row in zip(leads, counts, strict=True)
    )
    path.write_text(
        '<?xml version="1.0" encoding="UTF-8"?>\n<!-- Generated by ELI Link V4.3.1.0 -->\n'
        '<ECG ACQUISITION_TIME="20150610101010" ACQUISITION_TIME_XML="2015-06-10T10:10:10" NUM_QRS="12" '
        'VENT_RATE="70" AVERAGE_RR="857">\n<SUBJECT LAST_NAME="Doe" GENDER="Female" DOB="19500101"/>'
        '<SOURCE TYPE="STD-12" MANUFACTURER="Mortara Instrument, Inc." LOW_PASS_FILTER="40"/>\n'
        f'<TYPICAL_CYCLE {kind} {rate} ENCODING="BASE64" R_PEAK="400">{cycles}</TYPICAL_CYCLE>\n{channels}\n</ECG>\n',
        encoding="utf-8",
    )
    return counts * 2.5e-3


def kardia_json(path: Path, signal_mv: np.ndarray, sample_rate: float, leads: Sequence[str]) -> np.ndarray:
    """AliveCor's recording of its API at 500 nV a count, with a filtered copy beside what was recorded."""
    counts = quantised(signal_mv, 0.5)
    names = [{"I": "leadI", "II": "leadII", "III": "leadIII"}.get(lead, lead.upper()) for lead in leads]

    def block(rows: np.ndarray) -> dict[str, object]:
        return {
            "frequency": sample_rate, "mainsFrequency": 50, "numLeads": len(rows),
            "samples": {name: row.tolist() for name, row in zip(names, rows, strict=True)},
            "amplitudeResolution": 500,
        }  # fmt: skip

    content = {
        "id": "epgs", "patientID": "DwftkmZIYHm", "heartRate": 70,
        "duration": round(1000 * counts.shape[1] / sample_rate),
        "recordedAt": "2021-04-16T15:19:09+05:30", "algorithmDetermination": "normal",
        "data": {"enhanced": block(-counts), "raw": block(counts)}, "deviceInfo": {"hardwareType": "kardia_6l"},
    }  # fmt: skip
    path.write_text(json.dumps(content))
    return counts * 5e-4


def ishne(
    path: Path, signal_mv: np.ndarray, sample_rate: int, leads: Sequence[str], *, comments: bytes = b"a comment\0"
) -> np.ndarray:
    """ISHNE Holter 1.0 at 1,000 nV a count."""
    counts = quantised(signal_mv, 1.0)
    samples = counts.shape[1]

    def twelve(values: Sequence[int]) -> bytes:
        return struct.pack("<12h", *values, *[-9] * (12 - len(values)))

    fixed = b"".join([
        struct.pack("<4i", len(comments), samples, 522, 522 + len(comments)),
        struct.pack("<h40s40s20s2h", 1, b"Jane", b"Doe", b"17", 2, 1),
        struct.pack("<12h", 1, 1, 1950, 10, 6, 2015, 11, 6, 2015, 10, 10, 10),
        struct.pack("<h", len(leads)),
        twelve([ISHNE_LEADS[lead] for lead in leads]), twelve([1] * len(leads)), twelve([1000] * len(leads)),
        struct.pack("<h40sh80s80s88s", 0, b"digital", sample_rate, b"", b"", b""),
    ])  # fmt: skip
    checked = fixed + comments
    head = b"ISHNE1.0" + struct.pack("<H", binascii.crc_hqx(checked, 0xFFFF)) + checked
    path.write_bytes(head + counts.T.astype("<i2").tobytes())
    return counts * 1e-3


# MFER part 3-1: the standard 12 leads.
MFER_LEADS = {"I": 1, "II": 2, "III": 61, "aVR": 62, "aVL": 63, "aVF": 64} | {f"V{n}": n + 2 for n in range(1, 7)}


def mfer(
    path: Path, signal_mv: np.ndarray, sample_rate: float, leads: Sequence[str], *, big_endian: bool = False
) -> np.ndarray:
    """MFER (ISO 22077-1) at 2.5 uV a count, a dominant beat before the rhythm, the channels one after another."""
    counts = quantised(signal_mv, 2.5)
    order = ">" if big_endian else "<"
    exponent = 0 if sample_rate == int(sample_rate) else -1

    def tag(number: int, value: bytes) -> bytes:
        size = len(value)
        return bytes([number]) + (bytes([size]) if size < 128 else b"\x84" + struct.pack(">I", size)) + value

    def frame(kind: int, rows: np.ndarray) -> bytes:
        channels = b"".join(
            b"\x3f" + bytes([n]) + bytes([3]) + tag(0x09, bytes([MFER_LEADS[name]])) for n, name in enumerate(leads)
        )
        return b"".join([
            tag(0x08, struct.pack(f"{order}H", kind)), tag(0x04, struct.pack(f"{order}I", rows.shape[1])),
            tag(0x05, bytes([len(rows)])), tag(0x06, struct.pack(f"{order}H", 1)), channels,
            tag(0x1E, rows.astype(f"{order}i2").tobytes()),
        ])  # fmt: skip

    rate = struct.pack(f"{order}Bbi", 0, exponent, round(sample_rate * 10**-exponent))  # 0: in Hz
    head = [
        tag(0x40, b"MFR Standard 12 leads ECG".ljust(32)), tag(0x01, bytes([not big_endian])),
        tag(0x17, b"Maker^Model"), tag(0x83, bytes(7)), tag(0x0B, rate),
        tag(0x0C, struct.pack(f"{order}Bbh", 0, -7, 25)), tag(0x0A, b"\0"),  # 25e-7 V, 16-bit integers
    ]  # fmt: skip
    path.write_bytes(b"".join([*head, frame(9, -counts[:, :50]), frame(1, counts)]))
    return counts * 2.5e-3


def scp_ecg(
    path: Path,
    signal_mv: np.ndarray,
    sample_rate: float,
    leads: Sequence[str],
    *,
    compressed: bool = True,
    beats: Sequence[int] = (),
    sections: Mapping[int, bytes] = MappingProxyType({}),
) -> np.ndarray:
    """SCP-ECG 2.0 at 1 uV a count.

    Args:
        path: Where to write it.
        signal_mv: (leads, samples).
        sample_rate: In Hz.
        leads: Their names, keys of `SCP_LEADS`.
        compressed: As second differences in the default Huffman code; otherwise plain 16-bit numbers.
        beats: Samples of R peaks, around which the first beat is subtracted as the reference beat.
        sections: Further ones, such as 7 with measurements, by their numbers.
    """
    counts = quantised(signal_mv, 1.0)
    interval = round(1e6 / sample_rate)
    samples = counts.shape[1]
    before, after = 40, 80  # samples of the reference beat around its fiducial point
    beat = -counts[:, : before + after]  # not of this signal: nobody should return it
    residual = counts.copy()
    zones = [(peak - before, peak, peak + after) for peak in beats]
    if zones:
        beat = counts[:, zones[0][0] : zones[0][2]]
        for start, _, end in zones:
            residual[:, start:end] -= beat

    def data(rows: np.ndarray) -> bytes:
        coded = [_huffman(row) if compressed else row.astype("<i2").tobytes() for row in rows]
        sizes = struct.pack(f"<{len(coded)}H", *map(len, coded))
        return struct.pack("<HHBB", 1000, interval, 2 if compressed else 0, 0) + sizes + b"".join(coded)

    span = [struct.pack("<IIB", 1, samples, SCP_LEADS[name]) for name in leads]
    quality = 0x04 | (len(leads) << 3 & 0xF8) | bool(zones)
    location = [struct.pack("<HIII", 0, start + 1, peak + 1, end) for start, peak, end in zones]
    length_ms = (before + after) * interval // 1000
    bodies = {
        1: b"\xff\0\0",
        2: struct.pack("<H", 19999) if compressed else b"",
        3: bytes([len(leads), quality]) + b"".join(span),
        4: struct.pack("<HHH", length_ms, before + 1, len(zones)) + b"".join(location) + bytes(8 * len(zones)),
        5: data(beat),
        6: data(residual),
        **sections,
    }
    pointers, pieces, at = [], [], 7 + 16 + 10 * 12
    pointers.append(struct.pack("<HII", 0, 16 + 10 * 12, 7))
    for number in range(1, 12):
        section = _scp_section(number, bodies[number]) if bodies.get(number) else b""
        pointers.append(struct.pack("<HII", number, len(section), at if section else 0))
        pieces.append(section)
        at += len(section)
    rest = _scp_section(0, b"".join(pointers)) + b"".join(pieces)
    rest = struct.pack("<I", 6 + len(rest)) + rest
    path.write_bytes(struct.pack("<H", binascii.crc_hqx(rest, 0xFFFF)) + rest)
    return counts * 1e-3


def _scp_section(number: int, body: bytes) -> bytes:
    body += bytes(len(body) % 2)
    rest = struct.pack("<HIBB6s", number, 16 + len(body), 20, 20, b"SCPECG" if number == 0 else b"") + body
    return struct.pack("<H", binascii.crc_hqx(rest, 0xFFFF)) + rest


def _huffman(row: np.ndarray) -> bytes:
    """Second differences in the default code of EN 1064."""
    values = [*row[:2].tolist(), *np.diff(row, 2).tolist()]
    words = []
    for value in values:
        size = abs(value)
        if size <= 8:
            words.append("0" if value == 0 else "1" * size + "0" + ("1" if value < 0 else "0"))
        elif size < 128:
            words.append("1" * 9 + "0" + format(value & 0xFF, "08b"))
        else:
            words.append("1" * 10 + format(value & 0xFFFF, "016b"))
    bits = "".join(words)
    bits += "0" * (-len(bits) % 16)
    return int(bits, 2).to_bytes(len(bits) // 8, "big")


def _xli(counts: np.ndarray, leads: Sequence[str]) -> bytes:
    """Each lead's second differences, high bytes before low ones, in LZW; the limb leads as residuals of I and II."""
    rows = counts.copy()
    if list(leads[:6]) == ["I", "II", "III", "aVR", "aVL", "aVF"]:
        one, two, three, avr, avl, avf = counts[:6]
        rows[2:6] = two - one - three, -avr - (one + two) // 2, (one - three) // 2 - avl, (two + three) // 2 - avf
    return b"".join(map(_xli_chunk, rows))


def _xli_chunk(row: np.ndarray) -> bytes:
    bends = 2 * row[1:-1] - row[:-2] - row[2:]
    words = np.concatenate([row[:2], bends[1:] + 64, [64]]).astype(">i2").view(np.uint8).reshape(-1, 2)
    packed = _lzw(words.T.tobytes())
    return struct.pack("<iHh", len(packed), 0, int(bends[0])) + packed


def _lzw(data: bytes) -> bytes:
    """10-bit codes; the table stays as it is when 1022 is reached."""
    table = {bytes([value]): value for value in range(256)}
    codes, known = [], b""
    for value in data:
        longer = known + bytes([value])
        if longer not in table:
            codes.append(table[known])
            if len(table) <= 1022:
                table[longer] = len(table)
            longer = bytes([value])
        known = longer
    bits = "".join(format(code, "010b") for code in [*codes, table[known]])
    bits += "1" * (-len(bits) % 8)
    return int(bits, 2).to_bytes(len(bits) // 8, "big")


class Vendor(NamedTuple):
    """How a vendor's format is written and read."""

    write: Callable[..., np.ndarray]
    format_name: str  # a key of `readers.FORMATS`
    suffix: str
    step: float  # of its counts, in mV


FORMATS = {
    "MUSE": Vendor(muse_xml, "muse-xml", ".xml", 4.88e-3),
    "Sierra, XLI": Vendor(sierra_xml, "sierra-xml", ".xml", 5e-3),
    "Sierra, plain": Vendor(partial(sierra_xml, compressed=False), "sierra-xml", ".xml", 5e-3),
    "aECG": Vendor(hl7_aecg, "hl7-aecg", ".xml", 2.5e-3),
    "CardioSoft": Vendor(cardiosoft_xml, "cardiosoft-xml", ".xml", 5e-3),
    "Mortara": Vendor(mortara_xml, "mortara-xml", ".xml", 2.5e-3),
    "MFER": Vendor(mfer, "mfer", ".mwf", 2.5e-3),
    "MFER, big-endian": Vendor(partial(mfer, big_endian=True), "mfer", ".mwf", 2.5e-3),
    "SCP-ECG, Huffman": Vendor(scp_ecg, "scp-ecg", ".scp", 1e-3),
    "SCP-ECG, plain": Vendor(partial(scp_ecg, compressed=False), "scp-ecg", ".scp", 1e-3),
    "SCP-ECG, reference beat": Vendor(partial(scp_ecg, beats=(150, 400, 600)), "scp-ecg", ".scp", 1e-3),
    "ISHNE": Vendor(ishne, "ishne", ".ecg", 1e-3),
}


def random_recording(leads: int = 12, samples: int = 800) -> np.ndarray:
    """(leads, samples) in mV, whose limb leads follow from the first two: all leads, `EIGHT`, or the first ones."""
    signal = np.cumsum(np.random.default_rng(0).normal(0, 0.02, (12, samples)), axis=1)
    first, second = signal[:2]
    signal[2:6] = second - first, -(first + second) / 2, first - second / 2, second - first / 2
    return signal[[LEADS.index(lead) for lead in EIGHT]] if leads == len(EIGHT) else signal[:leads]
