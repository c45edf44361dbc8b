"""GE CardioSoft XML, as CardioSoft and CASE export it and UK Biobank has it (data-field 20205).

The manufacturer publishes no schema. The layout is that of UK Biobank's files, as other readers describe them
(tensorize.py of https://github.com/broadinstitute/ml4h): <StripData> holds the recording, one <WaveformData> per lead
with its counts as text, <RestingECGMeasurements> the median beats, <FullDisclosure> the whole of an exercise test.
"""

import re
from pathlib import Path
from xml.etree.ElementTree import Element

import numpy as np

from ecgpipe.core.digital import MULTIPLY, find_digital
from ecgpipe.readers.files import size_of
from ecgpipe.readers.recording import Assumed, Recording, UnreadableError, check_size, in_mv, steps_to_mv
from ecgpipe.readers.vendor_reports import cardiosoft_report
from ecgpipe.readers.vendor_xml import parse_xml

_NAME = "CardioSoft XML"

# Ten seconds of twelve leads take 0.3 MB.
_MOST_BYTES = 24_000_000

# The units of <Resolution> that are known.
_UNITS = {"uvperlsb": "uV", "mvperlsb": "mV", "nvperlsb": "nV"}

_COUNT = re.compile(r"[+-]?[0-9]{1,9}(?:\.[0-9]{1,9})?")


def read(path: Path, assumed: Assumed, row: int | None = None) -> Recording:
    """Read the strip of a CardioSoft file; see `readers.read`. Median beats are left out.

    Raises:
        UnreadableError: It has no strip of a resting ECG, or the strip is not as long as it says.
    """
    size_of(path)  # refuses a pipe, which would block
    with path.open("rb") as file:
        data = file.read(_MOST_BYTES + 1)
    if len(data) > _MOST_BYTES:
        raise UnreadableError(f"too large for its format (over {_MOST_BYTES} bytes of {_NAME})")
    root = parse_xml(data, _NAME)
    strip = _strip(root)
    waveforms = strip.findall("WaveformData")
    names = [(waveform.get("lead") or "").strip() for waveform in waveforms]
    if not all(names):
        raise UnreadableError(f"the {_NAME} file does not name each lead ({' '.join(names)})")
    rows = [_counts(waveform, name) for waveform, name in zip(waveforms, names, strict=True)]
    if len(set(map(len, rows))) > 1:
        lengths = ", ".join(f"{name} {len(counts)}" for name, counts in zip(names, rows, strict=True))
        raise UnreadableError(f"the leads differ in length ({lengths})")
    _check_number(strip, "NumberOfLeads", len(rows))
    _check_number(strip, "ChannelSampleCountTotal", len(rows[0]))
    check_size(len(rows), len(rows[0]))
    rate, unit = _stated(strip, "SampleRate")
    if unit not in ("", "hz"):
        raise UnreadableError(f"the sampling rate is in a unit that is not read ({unit})")
    resolution, per_count = _stated(strip, "Resolution")
    if per_count and per_count not in _UNITS:
        raise UnreadableError(f"the resolution is in a unit that is not read ({per_count})")
    units = [_UNITS.get(per_count) or assumed.unit] * len(rows)
    numbers = np.array(rows, np.float64)  # (leads, samples)
    signal, signal_unit = in_mv(numbers * resolution, units)
    digital = find_digital(numbers, ((MULTIPLY, np.array([resolution])), *steps_to_mv(units)), signal)
    return Recording(signal, rate, tuple(names), signal_unit, device=cardiosoft_report(root), digital=digital)


def _strip(root: Element) -> Element:
    """The one <StripData> that holds waveforms."""
    if root.tag != "CardiologyXML":
        raise UnreadableError(f"no {_NAME} file (its root is {root.tag[:40]})")
    strips = [strip for strip in root.findall("StripData") if strip.find("WaveformData") is not None]
    if len(strips) > 1:
        raise UnreadableError(f"the file holds several strips ({len(strips)})")
    if not strips:
        kind = (root.findtext("ObservationType") or "").strip()[:40] or "no ObservationType"
        raise UnreadableError(f"the {_NAME} file has no strip of a resting ECG ({kind})")
    return strips[0]


def _counts(waveform: Element, name: str) -> np.ndarray:
    """What the file stores of a lead, (samples,) float64."""
    words = (waveform.text or "").replace(",", " ").split()
    if not words or len(waveform):
        raise UnreadableError(f"a lead has no samples ({name})")
    wrong = next((word for word in words if _COUNT.fullmatch(word) is None), None)
    if wrong is not None:
        raise UnreadableError(f"a lead's sample is no number ({name}: {wrong[:20]!r})")
    return np.array(words, np.float64)


def _check_number(strip: Element, tag: str, actual: int) -> None:
    """Refuse a file that states another number than it has; a file may state no number."""
    text = (strip.findtext(tag) or "").strip()
    if text and text != str(actual):
        raise UnreadableError(f"the file does not hold what it states ({tag} {text[:20]}, found {actual})")


def _stated(strip: Element, tag: str) -> tuple[float, str]:
    """A positive number of the strip, and its unit in lower case."""
    element = strip.find(tag)
    text = (element.text or "").strip() if element is not None else ""
    number = float(text) if re.fullmatch(r"[0-9]{1,6}(?:\.[0-9]{1,9})?", text) else 0.0
    if element is None or number <= 0:
        raise UnreadableError(f"the {_NAME} file's {tag} is no positive number ({text[:20]!r})")
    return number, (element.get("units") or "").strip().lower()
