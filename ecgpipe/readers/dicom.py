"""DICOM ECG waveforms, read by pydicom.

The format: https://dicom.nema.org/medical/dicom/current/output/chtml/part03/sect_C.10.9.html (the waveform module) and
sect_A.34.3.html (the 12-lead ECG).
"""

import math
import os
import warnings
import zlib
from io import BytesIO
from pathlib import Path

import numpy as np
import pydicom
from pydicom import uid
from pydicom.dataset import Dataset
from pydicom.filereader import read_partial
from pydicom.waveforms.numpy_handler import WAVEFORM_DTYPES, multiplex_array

from ecgpipe.core.digital import MULTIPLY, SUBTRACT, find_digital
from ecgpipe.core.leads import LEADS, spell_leads
from ecgpipe.readers.device_report import DeviceReport
from ecgpipe.readers.dicom_report import read_annotations
from ecgpipe.readers.files import brief, size_of
from ecgpipe.readers.recording import MOST_VALUES, Assumed, Recording, UnreadableError, check_size, in_mv, steps_to_mv

_OTHER_KIND = "a DICOM file of another kind than ECG"

# The bytes of a file that are examined to find its kind. The meta information takes a few hundred bytes.
_HEAD_BYTES = 65_536

# The leads' codes end alike in both schemes in use: "2:1" (MDC) and "5.6.3-9-1" (SCPECG). CID 3001,
# https://dicom.nema.org/medical/dicom/current/output/chtml/part16/sect_CID_3001.html. 65 is -aVR, 31 to 38 are derived.
_CODES = {"1": "I", "2": "II", "61": "III", "62": "aVR", "63": "aVL", "64": "aVF"}
_CODES |= {str(n + 2): f"V{n}" for n in range(1, 7)}
_SCHEMES = {"MDC": "2:", "SCPECG": "5.6.3-9-"}

# Words in the labels of groups that hold one averaged beat rather than the recording.
_BEATS = ("median", "beat", "average", "representative", "template")


def read(path: Path, assumed: Assumed, row: int | None = None) -> Recording:
    """Read a DICOM ECG's rhythm; see `readers.read`.

    Args:
        path: The file.
        assumed: For the unit where the file states none.
        row: None, since a file is one recording.

    Raises:
        UnreadableError: It is another kind of DICOM file, it holds median beats alone, or its parts do not fit.
    """
    try:
        with warnings.catch_warnings(action="ignore"):
            return _recording(_dataset(path), assumed)
    except (UnreadableError, FileNotFoundError, PermissionError):
        raise
    except Exception as error:  # pydicom raises many kinds on a broken file
        raise UnreadableError(f"not a readable DICOM file ({brief(error)})") from error


def _dataset(path: Path) -> Dataset:
    """The waveforms of a file, if it has some and fits into memory."""
    size_of(path)
    with path.open("rb") as file:
        meta = _meta(file.read(_HEAD_BYTES))
        _refuse_class(meta.get("MediaStorageSOPClassUID"))
        # 16 bits a sample, and room for other elements. An image without a class is too large to be read.
        most = 2 * MOST_VALUES + 10_000_000
        size = os.fstat(file.fileno()).st_size
        if size > most:
            raise UnreadableError(f"too long to read at once ({size} bytes)")
        file.seek(0)
        content = file.read(size)
    tags = ["SOPClassUID", "WaveformSequence", "WaveformAnnotationSequence", "SpecificCharacterSet"]
    dataset = pydicom.dcmread(BytesIO(content), stop_before_pixels=True, specific_tags=tags)
    kind = dataset.get("SOPClassUID")
    _refuse_class(kind)
    groups = dataset.get("WaveformSequence")
    if not groups:
        raise UnreadableError("the DICOM file has no waveforms")
    # Catheter laboratories store twelve leads as a hemodynamic or an electrophysiological waveform. A file of another
    # class than ECG without any lead holds pressure, respiration or sound.
    if kind and "ECG" not in uid.UID(kind).name and not any(map(_leads, groups)):
        raise UnreadableError(f"{_OTHER_KIND} ({uid.UID(kind).name})")
    return dataset


def _refuse_class(kind: str | None) -> None:
    """Refuse a file whose class is one of the standard's, but not of waveforms."""
    if not kind:
        return
    what = uid.UID(kind)
    if what.name != what and "Waveform" not in what.name:  # of an unknown class the name is its number
        raise UnreadableError(f"{_OTHER_KIND} ({what.name})")


def _meta(head: bytes) -> Dataset:
    """A file's meta information, which states its kind."""
    deflated = "a deflated DICOM file, which is not read"  # pydicom would decompress it to any size
    try:
        meta = read_partial(BytesIO(head), stop_when=lambda tag, vr, length: tag.group > 2).file_meta
    except zlib.error as error:
        raise UnreadableError(deflated) from error
    if meta.get("TransferSyntaxUID") == uid.DeflatedExplicitVRLittleEndian:
        raise UnreadableError(deflated)
    return meta


def _recording(dataset: Dataset, assumed: Assumed) -> Recording:
    groups = list(dataset.WaveformSequence)
    index = _rhythm(groups)
    group = groups[index]
    rate = float(group.SamplingFrequency)
    raw = _raw(dataset, index)  # (channels, samples)
    channels = list(group.ChannelDefinitionSequence)
    if len(channels) != len(raw):
        raise UnreadableError(f"the DICOM file does not describe each channel ({len(channels)} of {len(raw)})")
    names = [_name(channel, n) for n, channel in enumerate(channels)]
    signal, limits = np.empty(raw.shape), np.empty((len(raw), 2))
    extremes = np.array([np.iinfo(raw.dtype).min, np.iinfo(raw.dtype).max], np.float64)
    scales = [_scale(channel, name) for channel, name in zip(channels, names, strict=True)]
    for n, (gain, baseline) in enumerate(scales):
        signal[n] = raw[n] * gain + baseline
        limits[n] = np.sort(extremes * gain + baseline)  # a sensitivity may be negative
    padding = _padding(group, raw)
    if padding is not None:
        signal[raw == padding] = np.nan
    units = [_unit(channel) or assumed.unit for channel in channels]
    kept = _leads_alone(names, units)
    names, units = [names[n] for n in kept], [units[n] for n in kept]
    factors, baselines = np.array([scales[n] for n in kept]).T  # (leads,)
    digital = find_digital(raw[kept], ((MULTIPLY, factors), (SUBTRACT, -baselines)), signal[kept])
    signal, unit = in_mv(signal[kept], units)
    limits = in_mv(limits[kept], units)[0]
    return Recording(
        signal,
        rate,
        tuple(names),
        unit,
        limits=limits,
        device=_report(dataset),
        digital=digital and digital.then(*steps_to_mv(units)),
    )


def _report(dataset: Dataset) -> DeviceReport:
    """What the device reports; nothing where it is broken, since the signal is read all the same."""
    try:
        return read_annotations(dataset)
    except Exception:  # pydicom raises many kinds
        return DeviceReport()


def _leads_alone(names: list[str], units: list[str | None]) -> list[int]:
    """The leads of the twelve, and channels that share a unit with them: pressure would leave no common unit."""
    is_lead = [name in LEADS for name in spell_leads(names)]
    lead_units = {unit for unit, is_wanted in zip(units, is_lead, strict=True) if is_wanted}
    return [n for n, unit in enumerate(units) if is_lead[n] or not lead_units or unit in lead_units]


def _rhythm(groups: list[Dataset]) -> int:
    """Which of the multiplex groups is the recording.

    A resting ECG often comes with a second group: one median beat of each lead. Labels are free text that not every
    device writes, and WaveformOriginality calls a rhythm DERIVED where a device computes the limb leads; so a label
    decides if it is clear, then the originality, then how many of the twelve leads there are, then the duration.
    """

    def rank(index: int) -> tuple[bool, bool, int, float]:
        group = groups[index]
        rate = float(group.get("SamplingFrequency") or 0)
        return (
            "rhythm" in _label(group),
            group.get("WaveformOriginality") == "ORIGINAL",
            len(_leads(group)),
            int(group.get("NumberOfWaveformSamples") or 0) / rate if rate > 0 else 0.0,
        )

    candidates = [index for index, group in enumerate(groups) if not any(word in _label(group) for word in _BEATS)]
    if not candidates:
        raise UnreadableError("the DICOM file holds median beats alone, no rhythm")
    best = max(candidates, key=rank)
    originals = [groups[index] for index in candidates if rank(index)[:2] == rank(best)[:2]]
    elsewhere = set().union(*map(_leads, originals)) - _leads(groups[best])
    if elsewhere:
        # As on paper: 2.5 seconds of three leads, then of the next three.
        raise UnreadableError(
            f"the DICOM file's leads were not recorded together ({len(originals)} groups of channels)"
        )
    return best


def _label(group: Dataset) -> str:
    return str(group.get("MultiplexGroupLabel") or "").lower()


def _leads(group: Dataset) -> set[str]:
    """The leads of the twelve that a group has."""
    names = [_name(channel, n) for n, channel in enumerate(group.get("ChannelDefinitionSequence") or [])]
    return set(spell_leads(names)) & set(LEADS)


def _raw(dataset: Dataset, index: int) -> np.ndarray:
    """The samples as they are stored, (channels, samples)."""
    group = dataset.WaveformSequence[index]
    channels, samples = int(group.NumberOfWaveformChannels), int(group.NumberOfWaveformSamples)
    bits, kind = int(group.WaveformBitsAllocated), str(group.WaveformSampleInterpretation)
    if channels < 1 or samples < 1:
        raise UnreadableError(f"the DICOM file's waveform is empty ({channels} channels x {samples} samples)")
    check_size(channels, samples)
    if (bits, kind) not in WAVEFORM_DTYPES or kind in ("MB", "AB"):  # these two are audio's logarithmic scales
        raise UnreadableError(f"the DICOM file's samples are of a kind that is not read ({bits} bits, {kind})")
    if len(group.WaveformData or b"") < channels * samples * bits // 8:
        raise UnreadableError("the DICOM file has fewer samples than it states")
    raw: np.ndarray = multiplex_array(dataset, index, as_raw=True).T
    if dataset.original_encoding[1] is False:  # pydicom takes the bytes for little-endian
        raw = raw.byteswap()
    return raw


def _scale(channel: Dataset, name: str) -> tuple[float, float]:
    """What a channel's stored samples are multiplied by, and what is added then: PS3.3 C.10.9.1.4."""
    sensitivity, correction, baseline = (
        float(default if channel.get(key) is None else channel.get(key))
        for key, default in (
            ("ChannelSensitivity", 1.0),
            ("ChannelSensitivityCorrectionFactor", 1.0),
            ("ChannelBaseline", 0.0),
        )
    )
    gain = sensitivity * correction
    if gain == 0 or not math.isfinite(gain) or not math.isfinite(baseline):
        raise UnreadableError(f"a channel's sensitivity in the DICOM file is not valid ({name}: {gain:g})")
    return gain, baseline


def _unit(channel: Dataset) -> str | None:
    """The samples' unit, a UCUM code; None without a sensitivity."""
    units = channel.get("ChannelSensitivityUnitsSequence")
    if channel.get("ChannelSensitivity") is None or not units:
        return None
    return str(units[0].get("CodeValue") or units[0].get("CodeMeaning") or "") or None


def _name(channel: Dataset, number: int) -> str:
    """A channel's name: its source in words, or else by its code, or else its label.

    Raises:
        UnreadableError: Code and words are different leads of the twelve.
    """
    sources = channel.get("ChannelSourceSequence")
    source = sources[0] if sources else Dataset()
    value, meaning = str(source.get("CodeValue") or ""), str(source.get("CodeMeaning") or "").strip()
    prefix = _SCHEMES.get(str(source.get("CodingSchemeDesignator") or "").upper())
    coded = _CODES.get(value.removeprefix(prefix)) if prefix and value.startswith(prefix) else None
    label = str(channel.get("ChannelLabel") or "").strip()
    lead = spell_leads([meaning])[0]
    if coded and lead in LEADS and lead != coded:
        raise UnreadableError(f"a channel of the DICOM file is two leads at once ({meaning}, code {value})")
    # "aVR, augmented voltage, right" is the standard's own name, and no other file's.
    if coded and lead not in LEADS:
        return coded
    return meaning or value or label or f"channel {number + 1}"


def _padding(group: Dataset, raw: np.ndarray) -> np.generic | None:
    """The stored value that means "no sample": the file states it, and it is beyond all other values.

    C# ECG Toolkit states 0 in every file, but a lead is 0 as well when the ECG crosses the baseline. Of such a value
    only a stretch at an end is padding, which `readers.filling` finds.
    """
    value = group.get("WaveformPaddingValue")
    if not isinstance(value, bytes) or len(value) < raw.dtype.itemsize:
        return None
    padding: np.generic = np.frombuffer(value, raw.dtype, 1)[0]
    others = raw[raw != padding]
    return padding if others.size == 0 or padding < others.min() or padding > others.max() else None
