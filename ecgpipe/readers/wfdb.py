"""WFDB records, PhysioNet's format: a header (.hea) that names the signal files beside it.

The most common kind, 16-bit samples in one file, is read here, some ten times faster than by the wfdb package, which
reads all other kinds. Headers are always parsed here: names that lead out of the folder or to the network are refused,
as are ambiguous numbers and signal files that are too short.

The format: https://www.physionet.org/physiotools/wag/header-5.htm and signal-5.htm.
"""

import math
import re
import tempfile
from collections import Counter
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ecgpipe.core.digital import DIVIDE, SUBTRACT, Digital, Step, find_digital
from ecgpipe.core.leads import LEADS, spell_leads
from ecgpipe.readers.device_report import DeviceReport, agree, convert, make_report
from ecgpipe.readers.files import brief, read_bytes, size_of
from ecgpipe.readers.recording import (
    MOST_VALUES,
    Assumed,
    Recording,
    UnreadableError,
    assumed_leads,
    check_size,
    in_mv,
    steps_to_mv,
)
from ecgpipe.readers.temporary_errors import UnavailableError, patiently

# A master header has one line per segment: this is room for 40,000 of them.
_MOST_HEADER_BYTES = 1_000_000

# ADC units per physical unit if a header states none or 0, which means that it is uncalibrated. header(5), DEFGAIN.
_DEFAULT_GAIN = 200.0
_DEFAULT_RATE = 250.0  # header(5), DEFFREQ

# Bytes per sample. signal(5). The formats 508, 516 and 524 are FLAC.
_BYTES = {"8": 1.0, "16": 2.0, "24": 3.0, "32": 4.0, "61": 2.0, "80": 1.0, "160": 2.0, "212": 1.5}
_BYTES |= {"310": 4 / 3, "311": 4 / 3, "508": 0.0, "516": 0.0, "524": 0.0}
_NOT_A_SAMPLE = -32768  # of format 16

_RECORD = "record"  # the record's name in the header that wfdb reads

_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
_RECORD_LINE = re.compile(
    rf"\S+?(?:/(?P<segments>\d{{1,9}}))? +(?P<signals>\d{{1,9}})"
    rf"(?: +(?P<rate>{_NUMBER})(?:/\S*)?(?: +(?P<samples>-?\d{{1,18}})(?: .*)?)?)?",
    re.ASCII,
)
_SIGNAL_LINE = re.compile(
    r"(?P<file>\S+) +(?P<format>\d{1,4})(?:x(?P<frame>\d{1,9}))?(?::(?P<skew>\d{1,9}))?(?:\+(?P<offset>\d{1,18}))?"
    rf"(?: +(?P<gain>{_NUMBER})(?:\((?P<baseline>[-+]?\d{{1,18}})\))?(?:/(?P<unit>\S*))?"
    r"(?: +\d{1,9}(?: +(?P<zero>[-+]?\d{1,18})(?: +[-+]?\d{1,18}(?: +[-+]?\d{1,18}(?P<last> +[-+]?\d{1,18})?)?)?)?)?)?"
    r"(?: +(?P<name>.*))?",
    re.ASCII,
)
_CHANGING = re.compile(r"[-+]?\d{1,18} [-+]?\d{1,18}", re.ASCII)
_SEGMENT_LINE = re.compile(r"(\S+) +(\d{1,15})", re.ASCII)
_COMMENT = re.compile(r"#\s*([^:]{1,80}?)\s*:\s*(.*)")

# Comments that state what a device measured: the quantity, and the unit if it stands there.
_MEASURED = {
    **dict.fromkeys(("heart rate", "ventricular rate", "vent rate"), "heart_rate"),
    **dict.fromkeys(("pr", "pr interval"), "pr_ms"),
    **dict.fromkeys(("qrs", "qrs duration"), "qrs_ms"),
    **dict.fromkeys(("qt", "qt interval"), "qt_ms"),
    **dict.fromkeys(("qtc", "qtc interval"), "qtc_ms"),
    **{f"{wave} axis": f"{wave}_axis" for wave in ("p", "qrs", "t")},
}
_MEASURED_KEY = re.compile(r"([a-z ]+?)(?: *[( ](ms|msec|bpm|/min|deg|degrees)\)?)?", re.IGNORECASE)
_STATEMENTS = re.compile(r"(?:machine|device|automatic|computer)[ _](?:statements?|interpretation)", re.IGNORECASE)


class _Signal(NamedTuple):
    file: str
    format: str
    frame: int  # samples per frame
    skew: int
    offset: int  # bytes before the first sample
    gain: float
    baseline: int
    unit: str | None  # None if it is uncalibrated
    name: str | None


class _Header(NamedTuple):
    rate: float  # frames per second
    frames: int | None
    signals: list[_Signal]
    segments: list[tuple[str, int]]  # name and frames of each, if the record consists of other records
    lines: list[str]  # of the signals or segments, unparsed


def read(path: Path, assumed: Assumed, row: int | None = None) -> Recording:
    """Read a WFDB record by its header; see `readers.read`.

    A lead whose gain is missing or 0 is uncalibrated: its values are those that wfdb computes, its unit is unknown.
    Checksums are ignored: PhysioNet has files whose headers state 0.
    """
    lines = _lines(path)
    header = _parse_header(lines)
    digital = None
    if header.segments:
        signals, values = _joined(path.parent, header)
    else:
        chosen = _of_one_rate(header.signals)
        signals = [header.signals[number] for number in chosen]
        values, digital = _values(path, header, chosen)
    units = [signal.unit for signal in signals]
    values, unit = in_mv(values, units)
    return Recording(
        values,
        header.rate * signals[0].frame,
        _names(signals, assumed),
        unit,
        device=_report(lines),
        digital=digital and digital.then(*steps_to_mv(units)),
    )


def parts(header: Path) -> list[str]:
    """Name the files that a record consists of besides its header, whether it can be read or not.

    Args:
        header: Of the record.

    Returns:
        Names of signal files and, for a record of segments, of the segments' headers and signal files, each once. They
        belong into the header's folder, but may be missing. Empty for a file that is not a header.
    """
    names: dict[str, None] = {}
    segments, files = _named(header)
    for name in segments:
        names[f"{name}.hea"] = None
        files += _named(header.with_name(f"{name}.hea"))[1]
    return list(names | dict.fromkeys(files))


def comments(header: Path) -> dict[str, str]:
    """The comments of a header like `#Age: 74`, as in PhysioNet 2021, by key; of equal keys the first counts."""
    try:
        lines = patiently(lambda: _lines(header), header)
    except UnavailableError:
        raise
    except (OSError, UnreadableError):
        return {}
    values: dict[str, str] = {}
    for match in filter(None, map(_COMMENT.fullmatch, lines)):
        values.setdefault(match[1], match[2])
    return values


def _report(lines: list[str]) -> DeviceReport:
    """What comments such as `# PR interval: 162 ms` or `# QRS_ms: 98` state, each with its unit."""
    values: dict[str, list[float | None]] = {}
    statements: list[str] = []
    for match in filter(None, map(_COMMENT.fullmatch, lines)):
        if _STATEMENTS.fullmatch(match[1]):
            statements += match[2].split(";")
        key = _MEASURED_KEY.fullmatch(match[1].replace("_", " "))
        name = _MEASURED.get(key[1].lower()) if key else None
        if key is None or name is None:
            continue
        number, _, unit = match[2].strip().partition(" ")
        if not key[2]:
            values.setdefault(name, []).append(convert(name, number, unit))
        elif not unit or unit.lower() == key[2].lower():
            values.setdefault(name, []).append(convert(name, number, key[2]))
    return make_report({name: agree(stated) for name, stated in values.items()}, statements)


def _header(path: Path) -> _Header:
    return _parse_header(_lines(path))


def _parse_header(lines: list[str]) -> _Header:
    lines = [line.replace("\t", " ") for line in lines if not line.startswith("#")]
    if not lines:
        raise UnreadableError("the WFDB header is empty")
    match = _RECORD_LINE.fullmatch(lines[0])
    if match is None:
        raise UnreadableError(f"not a WFDB header (its first line is {lines[0][:60]!r})")
    rate = float(match["rate"] or _DEFAULT_RATE)
    frames = int(match["samples"] or 0)
    if not (rate > 0 and math.isfinite(rate)):
        raise UnreadableError(f"the WFDB header states an impossible sampling rate ({match['rate']} Hz)")
    if frames < 0:
        raise UnreadableError(f"the WFDB header states a negative number of samples ({frames})")
    what = "segments" if match["segments"] else "signals"
    promised, listed = int(match[what]), len(lines) - 1
    if promised == 0:
        raise UnreadableError(f"the WFDB header lists no {what}")
    if promised != listed:
        raise UnreadableError(f"the WFDB header does not list as many {what} as it states ({promised}, {listed})")
    segments = [_segment(line) for line in lines[1:]] if match["segments"] else []
    signals = [] if match["segments"] else [_signal(line) for line in lines[1:]]
    return _Header(rate, frames or None, signals, segments, lines[1:])


def _signal(line: str) -> _Signal:
    # In the headers of a dataset only the file, the first value and the checksum differ, so the rest is cached.
    tokens = line.split(" ", 8)
    if len(tokens) == 9 and _CHANGING.fullmatch(f"{tokens[5]} {tokens[6]}") and _is_name(tokens[0]):
        file, *same = tokens
        same[4] = same[5] = "0"
        return _Signal(file, *_parsed(" ".join(("x", *same)))[1:])
    return _parsed(line)


@lru_cache(maxsize=4096)
def _parsed(line: str) -> _Signal:
    match = _SIGNAL_LINE.fullmatch(line)
    name = match["name"] if match else ""
    # A malformed number is not a name: wfdb would take "1,000/mV 16 0 0 0 0 I" for a gain of 1.
    if match is None or (name and not match["last"] and name[0] in "0123456789+-.,(/"):
        raise UnreadableError(f"not a WFDB header (a signal's line is {line[:60]!r})")
    _, kind, frame, skew, offset, gain, baseline, unit, zero, _, _ = match.groups()
    if not _is_name(match["file"]):
        raise UnreadableError(f"the WFDB header names a file outside its folder ({match['file'][:100]!r})")
    if frame is not None and int(frame) == 0:
        raise UnreadableError(f"not a WFDB header (a signal's line is {line[:60]!r})")
    factor = float(gain or 0)
    if not math.isfinite(factor):
        raise UnreadableError(f"the WFDB header states an impossible gain ({gain[:30]})")
    return _Signal(
        match["file"],
        kind,
        int(frame or 1),
        int(skew or 0),
        int(offset or 0),
        factor or _DEFAULT_GAIN,
        int(baseline or zero or 0),
        (unit or "mV") if factor else None,
        name or None,
    )


def _segment(line: str) -> tuple[str, int]:
    match = _SEGMENT_LINE.fullmatch(line)
    if match is None:
        raise UnreadableError(f"not a WFDB header (a segment's line is {line[:60]!r})")
    if not _is_name(match[1]):
        raise UnreadableError(f"the WFDB header names a file outside its folder ({match[1][:100]!r})")
    return match[1], int(match[2])


def _of_one_rate(signals: list[_Signal]) -> list[int]:
    """The numbers of the signals at the rate of the twelve leads, or at the most common rate if there are none."""
    counts = Counter(signal.frame for signal in signals)
    frames = set(counts)
    if len(frames) > 1:
        names = spell_leads([signal.name or "" for signal in signals])
        frames = {signal.frame for name, signal in zip(names, signals, strict=True) if name in LEADS}
        frames = frames or {counts.most_common(1)[0][0]}  # none of the twelve, which is refused later
        if len(frames) > 1:
            raise UnreadableError(f"the leads differ in their sampling rates ({sorted(frames)} samples per frame)")
    return [number for number, signal in enumerate(signals) if signal.frame in frames]


def _names(signals: list[_Signal], assumed: Assumed) -> tuple[str, ...]:
    if any(signal.name for signal in signals):
        return tuple(signal.name or f"signal {number}" for number, signal in enumerate(signals))
    leads = assumed_leads(assumed)
    if len(leads) != len(signals):
        raise UnreadableError(
            f"the number of signals does not fit the number of leads ({len(signals)}, {len(leads)} leads)"
        )
    return leads


def _values(path: Path, header: _Header, chosen: list[int]) -> tuple[np.ndarray, Digital | None]:
    """The chosen signals of a record of one segment, (signals, samples) in their physical units, and their numbers."""
    signals, frames = header.signals, header.frames
    files = list(dict.fromkeys(signal.file for signal in signals))
    plain = len(files) == 1 and all((s.format, s.frame, s.skew) == ("16", 1, 0) for s in signals)
    if plain and frames and len(signals) * frames <= MOST_VALUES and len({signal.offset for signal in signals}) == 1:
        return _plain(path.with_name(files[0]), signals, frames)  # without a call for the file's size
    for file in files:
        kinds = {(signal.format, signal.offset) for signal in signals if signal.file == file}
        if len(kinds) > 1:
            raise UnreadableError(f"the WFDB header states several formats for one signal file ({file})")
        [(kind, offset)] = kinds
        if kind not in _BYTES:
            raise UnreadableError(f"the signals are in no format that WFDB has ({kind})")
        frame_bytes = _BYTES[kind] * sum(signal.frame for signal in signals if signal.file == file)
        size = size_of(path.with_name(file))
        if frames is None:
            if not frame_bytes:
                raise UnreadableError("the WFDB header states no number of samples")
            frames = max(0, int((size - offset) / frame_bytes))
        if size < offset + math.ceil(frames * frame_bytes):
            raise UnreadableError(f"a signal file is shorter than the header says ({file}, {size} bytes)")
    if not frames:
        raise UnreadableError("the record has no samples")
    check_size(sum(signal.frame for signal in signals), frames)
    return _plain(path.with_name(files[0]), signals, frames) if plain else _by_wfdb(path, header, chosen)


def _plain(path: Path, signals: list[_Signal], frames: int) -> tuple[np.ndarray, Digital | None]:
    data = read_bytes(path, signals[0].offset, 2 * len(signals) * frames)
    if len(data) < 2 * len(signals) * frames:
        raise UnreadableError(f"a signal file is shorter than the header says ({path.name}, {size_of(path)} bytes)")
    samples = np.frombuffer(data, "<i2").reshape(frames, len(signals))
    numbers = samples.T.astype(np.int16, order="C")  # (signals, samples)
    values = numbers.astype(np.float64)
    (_, baselines), (_, gains) = steps = _steps(signals)
    if baselines.any():
        values -= baselines[:, None]
    # Not times the reciprocal, which rounds differently from wfdb's division.
    values /= gains[:, None]
    if numbers.min() == _NOT_A_SAMPLE:
        values[numbers == _NOT_A_SAMPLE] = np.nan
        return values, None
    return values, Digital(numbers, steps if baselines.any() else steps[1:])


def _steps(signals: list[_Signal]) -> tuple[Step, Step]:
    """What makes physical values of the numbers that are stored."""
    baselines = np.array([signal.baseline for signal in signals], np.float64)
    return (SUBTRACT, baselines), (DIVIDE, np.array([signal.gain for signal in signals]))


def _by_wfdb(path: Path, header: _Header, chosen: list[int]) -> tuple[np.ndarray, Digital | None]:
    """The chosen signals as wfdb reads them, and their numbers.

    It reads a header that is written for it, beside links to the signal files, without parts that do not concern the
    signal: it refuses dates in some forms, and names of records with some letters.
    """
    import wfdb  # takes a second, which a run over plain records saves

    with tempfile.TemporaryDirectory(prefix="ecgpipe-wfdb-") as folder:
        first = f"{_RECORD} {len(header.signals)} {header.rate!r}" + (f" {header.frames}" if header.frames else "")
        Path(folder, f"{_RECORD}.hea").write_text("\n".join([first, *header.lines]) + "\n", encoding="utf-8")
        try:
            for file in {signal.file for signal in header.signals}:  # an existing file is not replaced
                Path(folder, file).symlink_to(path.with_name(file).absolute())
            record = wfdb.rdrecord(f"{folder}/{_RECORD}", channels=list(chosen), smooth_frames=False)
            values = np.stack(record.e_p_signal).astype(np.float64, copy=False)  # (signals, samples)
            read = list(zip(record.fmt, record.samps_per_frame, record.adc_gain, record.baseline, strict=True))
        except (FileNotFoundError, PermissionError):
            raise
        except Exception as error:  # wfdb raises many kinds on a broken record
            raise UnreadableError(f"not a readable WFDB record ({brief(error)})") from error
    signals = [header.signals[number] for number in chosen]
    if read != [(signal.format, signal.frame, signal.gain, signal.baseline) for signal in signals]:
        raise UnreadableError("the wfdb package understands a signal's line of the header in another way")
    for signal, row in zip(signals, values, strict=True):
        if signal.skew and signal.frame > 1:  # wfdb forgets that a frame has several samples
            row[-signal.skew * signal.frame :] = np.nan
    (_, baselines), (_, gains) = steps = _steps(signals)
    with np.errstate(over="ignore", invalid="ignore"):
        numbers = np.rint(values * gains[:, None] + baselines[:, None])
    return values, find_digital(numbers, steps, values)


def _joined(folder: Path, header: _Header) -> tuple[list[_Signal], np.ndarray]:
    """The signals of a record that consists of others, and their values; NaN if a segment lacks a signal."""
    segments = header.segments
    if header.frames is not None and header.frames != sum(length for _, length in segments):
        raise UnreadableError(f"the segments' lengths do not add up to the record's ({header.frames} samples)")
    # By the format's rules a first segment of no length is the layout of a record whose segments differ in signals.
    variable = segments[0][1] == 0
    first = next((name for name, _ in segments if name != "~"), None)
    if first is None:
        raise UnreadableError("the record has no segment with signals")
    listed = _segment_header(folder, first, header).signals
    names = [signal.name for signal in listed]
    if variable and len({(name or "").encode("ascii", "ignore") for name in names}) < len(names):
        raise UnreadableError("the record's layout names several signals alike")
    chosen = _of_one_rate(listed)
    signals = [listed[number] for number in chosen]
    place = {(names[number] if variable else number): at for at, number in enumerate(chosen)}
    units: dict[int, str | None] = {}
    frame = signals[0].frame
    check_size(len(signals), frame * sum(length for _, length in segments))
    values = np.full((len(signals), frame * sum(length for _, length in segments)), np.nan)
    read: dict[str, tuple[list[int], np.ndarray]] = {}
    start = 0
    for name, length in segments[1:] if variable else segments:
        if name != "~" and length > 0:
            if name not in read:
                segment = _segment_header(folder, name, header)
                inner = [signal.name for signal in segment.signals]
                if (set(inner) - set(names)) if variable else inner != names:
                    raise UnreadableError(f"a segment has other signals than the record ({name})")
                keys = inner if variable else range(len(inner))
                numbers = [number for number, key in enumerate(keys) if key in place]
                at = [place[keys[number]] for number in numbers]
                if len(set(at)) < len(at) or any(segment.signals[number].frame != frame for number in numbers):
                    raise UnreadableError(f"a segment has a signal twice or at another sampling rate ({name})")
                for number, target in zip(numbers, at, strict=True):
                    if units.setdefault(target, segment.signals[number].unit) != segment.signals[number].unit:
                        raise UnreadableError(f"the segments have a lead in different units ({name})")
                path = folder / f"{name}.hea"
                read[name] = at, _values(path, segment, numbers)[0] if numbers else np.empty((0, frame * length))
            at, part = read[name]
            if part.shape[1] != frame * length:
                raise UnreadableError(f"a segment is not as long as the record says ({name})")
            values[at, start : start + frame * length] = part
        start += frame * length
    return [signal._replace(unit=units.get(at, signal.unit)) for at, signal in enumerate(signals)], values


def _segment_header(folder: Path, name: str, master: _Header) -> _Header:
    header = _header(folder / f"{name}.hea")
    if header.segments:
        raise UnreadableError(f"a segment of the record consists of segments itself ({name})")
    if header.rate != master.rate:
        raise UnreadableError(f"a segment has another sampling rate than the record ({name})")
    return header


def _named(path: Path) -> tuple[list[str], list[str]]:
    """The segments and the signal files that a header names, also if it cannot be read otherwise."""
    try:
        lines = [line for line in patiently(lambda: _lines(path), path) if not line.startswith("#")]
    except UnavailableError:  # it is unknown which files it names
        raise
    except (OSError, UnreadableError):
        return [], []
    match = re.match(r"\S+?(/\d+)?\s+\d+(?:\s|$)", lines[0], re.ASCII) if lines else None
    if match is None:
        return [], []
    names = [name for line in lines[1:] if _is_name(name := line.split(maxsplit=1)[0]) and name != "~"]
    return (names, []) if match[1] else ([], names)


@lru_cache(maxsize=16)
def _is_name(name: str) -> bool:
    """Whether this is the name of a file in the same folder: not a path, nor an address that wfdb would fetch."""
    return name not in (".", "..") and re.search(r"[/\\:\0]", name) is None


def _lines(path: Path) -> list[str]:
    """A header's lines, stripped, without empty ones."""
    data = read_bytes(path, 0, _MOST_HEADER_BYTES + 1)
    if len(data) > _MOST_HEADER_BYTES:
        raise UnreadableError(f"the WFDB header is too long (more than {_MOST_HEADER_BYTES} bytes)")
    data = data.removeprefix(b"\xef\xbb\xbf")
    try:
        text = data.decode()
    except UnicodeDecodeError:
        text = data.decode("latin-1")  # where a micro sign is one byte
    return [stripped for line in text.splitlines() if (stripped := line.strip())]
