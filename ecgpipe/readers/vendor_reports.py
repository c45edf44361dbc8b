"""What the devices of vendors' formats report, by format: as each file states it, with its units.

ecgdatakit keeps numbers without their units, and prefers those of a physician: here are the device's own.
"""

import re
from collections.abc import Iterator, Mapping
from xml.etree.ElementTree import Element

from ecgdatakit.models import ECGRecord

from ecgpipe.readers.device_report import DeviceReport, agree, convert, make_report

# restecg.dtd: milliseconds, degrees, beats per minute.
_MUSE = {
    "heart_rate": "VentricularRate", "pr_ms": "PRInterval", "qrs_ms": "QRSDuration", "qt_ms": "QTInterval",
    "qtc_ms": "QTCorrected", "p_axis": "PAxis", "qrs_axis": "RAxis", "t_axis": "TAxis",
}  # fmt: skip
_CARDIOSOFT = {**_MUSE, "pr_ms": "PQInterval", "qtc_ms": "QTCInterval"}

# SierraECGSchema 1.03 and 1.04: where measurements of all leads stand, and the names that each version has.
_SIERRA_PLACES = (
    *("interpretations/interpretation/globalmeasurements", "interpretation/globalmeasurements"),
    *("interpretations/interpretation/interpretationmeasurements", "interpretation/interpretationmeasurements"),
    *("internalmeasurements/crossleadmeasurements", "measurements/globalmeasurements"),
)
_SIERRA = {
    "heart_rate": ("heartrate", "meanventrate"), "pr_ms": ("print", "meanprint"), "qrs_ms": ("qrsdur", "meanqrsdur"),
    "qt_ms": ("qtint", "meanqtint"), "qtc_ms": ("qtcb", "meanqtc"), "p_axis": ("pfrontaxis",),
    "qrs_axis": ("qrsfrontaxis",), "t_axis": ("tfrontaxis",),
}  # fmt: skip

# ISO 11073-10102, of the whole recording; of several corrections of QT the first that there is.
_AECG = {
    "heart_rate": ("MDC_ECG_HEART_RATE",), "pr_ms": ("MDC_ECG_TIME_PD_PR",), "qrs_ms": ("MDC_ECG_TIME_PD_QRS",),
    "qt_ms": ("MDC_ECG_TIME_PD_QT",), "p_axis": ("MDC_ECG_ANGLE_P_FRONT", "MINDRAY_ECG_P_AXIS"),
    "qtc_ms": ("MDC_ECG_TIME_PD_QTc", "MDC_ECG_TIME_PD_QTcB", "MDC_ECG_TIME_PD_QTcF"),
    "qrs_axis": ("MDC_ECG_ANGLE_QRS_FRONT", "MINDRAY_ECG_QRS_AXIS"),
    "t_axis": ("MDC_ECG_ANGLE_T_FRONT", "MINDRAY_ECG_T_AXIS"),
}  # fmt: skip

_MORTARA = {
    "pr_ms": "PR_DURATION", "qrs_ms": "QRS_DURATION", "qt_ms": "QT", "qtc_ms": "QTC", "p_axis": "P_AXIS",
    "qrs_axis": "QRS_AXIS", "t_axis": "T_AXIS",
}  # fmt: skip

_UNDEFINED = 29999  # EN 1064, of a measurement that was not taken


def muse_values(root: Element) -> dict[str, float | None]:
    """The first measurements that the device took; the others may have been changed by a person."""
    original = root.find("OriginalRestingECGMeasurements")
    measured = original if original is not None and len(original) else root.find("RestingECGMeasurements")
    return {name: _child(measured, tag, name) for name, tag in _MUSE.items()}


def sierra_values(root: Element) -> dict[str, float | None]:
    """The measurements of all leads. Of several interpretations none is preferred: they have to agree."""
    places = [root.findall(place) for place in _SIERRA_PLACES]

    def measure(name: str) -> float | None:
        for tag in _SIERRA[name]:
            for nodes in places:
                if any(node.find(tag) is not None for node in nodes):
                    return agree(_child(node, tag, name) for node in nodes)
        return None

    return {name: measure(name) for name in _SIERRA}


def aecg_values(root: Element) -> dict[str, float | None]:
    """The annotations of the whole recording by the device: neither of one beat or lead, nor by a person."""
    stated: dict[str, list[tuple[str | None, str]]] = {}
    for code, value in _aecg_annotations(root):
        stated.setdefault(code.removesuffix("_GL"), []).append((value.get("value"), value.get("unit") or "none"))

    def measure(name: str) -> float | None:
        code = next((code for code in _AECG[name] if code in stated), None)
        return agree(convert(name, *pair) for pair in stated[code]) if code else None

    return {name: measure(name) for name in _AECG}


def _aecg_annotations(root: Element) -> Iterator[tuple[str, Element]]:
    series = root.findall("component/series")
    derived = [inner for outer in series for inner in outer.findall("derivation/derivedSeries")]
    sets = [inner for outer in (*series, *derived) for inner in outer.findall("subjectOf/annotationSet")]
    left = [
        annotation
        for annotations in sets
        if annotations.find("author/assignedEntity/assignedAuthorType/assignedPerson") is None
        for annotation in annotations.findall("component/annotation")
    ]
    while left:
        annotation = left.pop()
        head, value = annotation.find("code"), annotation.find("value")
        code = (head.get("code") or "") if head is not None else ""
        regions = annotation.findall("support/supportingROI/component/boundary/code")
        if code.upper() == "MDC_ECG_BEAT" or any(
            "_ECG_LEAD_" in (region.get("code") or "").upper() for region in regions
        ):
            continue
        if value is not None:
            yield code, value
        left += annotation.findall("component/annotation")


def cardiosoft_report(root: Element) -> DeviceReport:
    """Of CardioSoft: units stand beside the numbers, the device's statements in <Diagnosis>."""
    measured = root.find("RestingECGMeasurements")
    lines = [line.text or "" for line in root.findall("Interpretation/Diagnosis/DiagnosisText")]
    return make_report({name: _child(measured, tag, name) for name, tag in _CARDIOSOFT.items()}, lines)


def mortara_values(root: Element) -> dict[str, float | None]:
    """Of the recording and its typical cycle, in milliseconds, degrees and beats per minute."""
    cycle = root.find("TYPICAL_CYCLE")
    values = {name: convert(name, cycle.get(key), None) for name, key in _MORTARA.items()} if cycle is not None else {}
    return {**values, "heart_rate": convert("heart_rate", root.get("VENT_RATE"), None)}


def scp_values(record: ECGRecord) -> dict[str, float | None]:
    """Of section 7, EN 1064: intervals between the boundaries of the first reference beat, in milliseconds."""
    measured = record.measurements
    blocks = record.raw_metadata.get("measurement_blocks") or [{}]

    def between(start: str, end: str) -> float | None:
        first, last = (blocks[0].get(name, _UNDEFINED) for name in (start, end))
        return float(last - first) if max(first, last) < _UNDEFINED else None

    return {
        "heart_rate": measured.heart_rate,
        "pr_ms": between("p_onset", "qrs_onset"),
        "qrs_ms": between("qrs_onset", "qrs_offset"),
        "qt_ms": between("qrs_onset", "t_offset"),
        "qtc_ms": measured.qtc_bazett or record.raw_metadata.get("qtc_ms"),
        "p_axis": measured.p_axis,
        "qrs_axis": measured.qrs_axis,
        "t_axis": measured.t_axis,
    }


def kardia_values(record: ECGRecord) -> dict[str, float | None]:
    """The mean heart rate."""
    return {"heart_rate": record.measurements.heart_rate}


def read_report(record: ECGRecord, measured: Mapping[str, float | None], damaged: str) -> DeviceReport:
    """Put together what a device reports.

    Args:
        record: As ecgdatakit has read it.
        measured: The numbers, by a function of this module.
        damaged: Which sections of SCP-ECG have checksums that do not fit.

    Returns:
        The numbers, and the device's own statements.
    """
    statements = [] if re.search(r"Section (?:8|11)\b", damaged) else _list_statements(record)
    return make_report({} if re.search(r"Section 7\b", damaged) else measured, statements)


def _list_statements(record: ECGRecord) -> list[str]:
    """The device's own statements; none where a person has changed them and the file does not keep the first."""
    if record.interpretation.source == "machine":
        return [" ".join(filter(None, pair)) for pair in record.interpretation.statements]
    return str(record.annotations.get("machine_interpretation", "")).splitlines()


def _child(parent: Element | None, tag: str, name: str) -> float | None:
    """A field of a report in an element's children, in the unit that its attribute states, or else the format's own."""
    if parent is None:
        return None
    return agree(convert(name, node.text, node.get("units", node.get("unit"))) for node in parent.findall(tag))
