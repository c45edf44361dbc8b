"""What a device reports in a DICOM ECG: its waveform annotations, PS3.3 C.10.10."""

from itertools import islice

from pydicom.dataset import Dataset

from ecgpipe.readers.device_report import DeviceReport, agree, convert, make_report

# Annotations that are looked at. Real files have some hundred: the boundaries of each beat.
_MOST_ANNOTATIONS = 10_000

# Measurements of all leads by their codes, in both schemes in use: CID 3227 to 3229 of PS3.16, and SCP-ECG's.
_CODES = {
    ("MDC", "2:15872"): "pr_ms", ("MDC", "2:16156"): "qrs_ms", ("MDC", "2:16160"): "qt_ms",
    ("MDC", "2:15876"): "qtc_ms", ("MDC", "2:16128"): "p_axis", ("MDC", "2:16132"): "qrs_axis",
    ("MDC", "2:16136"): "t_axis",
    ("SCPECG", "5.10.2.5-1"): "heart_rate", ("SCPECG", "5.13.5-7"): "pr_ms", ("SCPECG", "5.13.5-9"): "qrs_ms",
    ("SCPECG", "5.13.5-11"): "qt_ms", ("SCPECG", "5.10.2.5-5"): "qtc_ms", ("SCPECG", "5.10.3-11"): "p_axis",
    ("SCPECG", "5.10.3-13"): "qrs_axis", ("SCPECG", "5.10.3-15"): "t_axis",
}  # fmt: skip

# What the codes are called, without "global": a code and a name that contradict one another are neither.
_NAMES = {
    "ventricular heart rate": "heart_rate", "ventricular rate": "heart_rate", "heart rate": "heart_rate",
    "pr interval": "pr_ms", "qrs duration": "qrs_ms", "qt interval": "qt_ms", "qtc interval": "qtc_ms",
    "p axis": "p_axis", "qrs axis": "qrs_axis", "t axis": "t_axis",
}  # fmt: skip


def read_annotations(dataset: Dataset) -> DeviceReport:
    """Read what the device measured in all leads together, and its statements: texts without a concept."""
    values: dict[str, list[float | None]] = {}
    statements: list[str] = []
    for annotation in islice(dataset.get("WaveformAnnotationSequence") or [], _MOST_ANNOTATIONS):
        concepts = annotation.get("ConceptNameCodeSequence")
        if not concepts:
            statements.append(str(annotation.get("UnformattedTextValue") or ""))
            continue
        name = _name(concepts[0])
        units = annotation.get("MeasurementUnitsCodeSequence")
        if name is None or not units or not _is_of_all_leads(annotation):
            continue
        number = annotation.get("NumericValue")
        values.setdefault(name, []).append(convert(name, str(number), str(units[0].get("CodeValue") or "")))
    return make_report({name: agree(stated) for name, stated in values.items()}, statements)


def _name(concept: Dataset) -> str | None:
    """The field that a concept stands for, by its code and its name, as far as it has them."""
    code = (str(concept.get("CodingSchemeDesignator") or "").upper(), str(concept.get("CodeValue") or ""))
    words = str(concept.get("CodeMeaning") or "").lower().replace("global", "").split()
    named, coded = _NAMES.get(" ".join(words)), _CODES.get(code)
    return named if coded in (None, named) else None if named else coded


def _is_of_all_leads(annotation: Dataset) -> bool:
    """Whether it refers to all channels of its group: channel 0, PS3.3 C.10.10.1.1."""
    channels = annotation.get("ReferencedWaveformChannels")
    return channels is None or list(channels)[1::2] == [0]
