"""What a device reports of its recording: each format's own numbers in their units, and nothing that was misread."""

import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from vendor_files import EIGHT, FORMATS, random_recording, scp_ecg

from ecgpipe import readers
from ecgpipe.preprocessing.preprocess import process_recording
from ecgpipe.preprocessing.segments import Windows
from ecgpipe.readers import Assumed
from ecgpipe.readers.device_report import MOST_LETTERS, MOST_STATEMENTS, DeviceReport, convert, make_report

LINES = ("Sinus bradycardia", "Left axis deviation")
FULL = DeviceReport(54, 162, 98, 432, 409, 45, -38, 61, LINES)
ABSENT = DeviceReport()
FUZZ = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
ENCODINGS = {"MUSE": "iso8859-1", "CardioSoft": "iso8859-1", "Sierra, plain": "utf-16"}


def tags(**values: object) -> str:
    return "".join(f"<{name}>{value}</{name}>" for name, value in values.items())


def muse(lines: tuple[str, ...] = LINES, place: str = "Diagnosis", **changed: object) -> str:
    values = {"VentricularRate": 54, "PRInterval": 162, "QRSDuration": 98, "QTInterval": 432, "QTCorrected": 409}
    values |= {"PAxis": 45, "RAxis": -38, "TAxis": 61}
    said = "".join(f"<DiagnosisStatement>{tags(StmtText=line)}</DiagnosisStatement>" for line in lines)
    block = "RestingECGMeasurements" if place == "Diagnosis" else "OriginalRestingECGMeasurements"
    return f"<{block}>{tags(**(values | changed))}</{block}><{place}>{said}</{place}>"


def sierra(**changed: object) -> str:
    values = {"heartrate": 54, "print": 162, "qrsdur": 98, "qtint": 432, "qtcb": 409}
    values |= {"pfrontaxis": 45, "qrsfrontaxis": -38, "tfrontaxis": 61}
    said = "".join(f"<statement>{tags(leftstatement=line)}</statement>" for line in LINES)
    measured = f"<globalmeasurements>{tags(**(values | changed))}</globalmeasurements>"
    return f"<interpretations><interpretation>{measured}{said}</interpretation></interpretations>"


def annotation(code: str, value: str) -> str:
    return f'<component><annotation><code code="{code}"/><value {value}/></annotation></component>'


def aecg(author: str = "", **changed: str) -> str:
    values = {"MDC_ECG_HEART_RATE": 'value="54" unit="bpm"', "MDC_ECG_TIME_PD_PR": 'value="0.162" unit="s"'}
    values |= {"MDC_ECG_TIME_PD_QRS": 'value="98" unit="ms"', "MDC_ECG_TIME_PD_QT": 'value="432000" unit="us"'}
    values |= {"MDC_ECG_TIME_PD_QTcB": 'value="409" unit="ms"', "MDC_ECG_ANGLE_P_FRONT": 'value="45" unit="deg"'}
    values |= {"MDC_ECG_ANGLE_QRS_FRONT": 'value="-38" unit="deg"', "MDC_ECG_ANGLE_T_FRONT": 'value="61" unit="deg"'}
    stated = "".join(annotation(code, value) for code, value in (values | changed).items())
    stated += "".join(
        f'<component><annotation><code code="MDC_ECG_INTERPRETATION_STATEMENT"/><value>{line}</value></annotation>'
        "</component>"
        for line in LINES
    )
    return f"<subjectOf><annotationSet>{author}{stated}</annotationSet></subjectOf>"


def cardiosoft(**changed: tuple[str, object]) -> str:
    values: dict[str, tuple[str, object]] = {"PQInterval": ("ms", 162), "QRSDuration": ("ms", 98)}
    values |= {"QTInterval": ("ms", 432), "QTCInterval": ("ms", 409)}
    values |= {"PAxis": ("deg", 45), "RAxis": ("deg", -38), "TAxis": ("deg", 61)} | changed
    return "".join(f"<{name} units='{unit}'>{value}</{name}>" for name, (unit, value) in values.items())


MORTARA = 'PR_DURATION="162" QRS_DURATION="98" QT="432" QTC="409" P_AXIS="45" QRS_AXIS="-38" T_AXIS="61" R_PEAK='


def reported(folder: Path, kind: str, mark: str, text: str) -> DeviceReport:
    """What a file of a format reports whose writer's text has `text` before `mark`."""
    vendor = FORMATS[kind]
    path = folder / f"x{vendor.suffix}"
    vendor.write(path, random_recording(8, 400), 500, EIGHT)
    encoding = ENCODINGS.get(kind, "utf-8")
    content = path.read_bytes().decode(encoding)
    assert mark in content
    path.write_bytes(content.replace(mark, text + mark, 1).encode(encoding))
    return readers.read(path, vendor.format_name, Assumed()).device


def of_muse(folder: Path, text: str) -> DeviceReport:
    return reported(folder, "MUSE", "</RestingECG>", text)


def of_sierra(folder: Path, text: str) -> DeviceReport:
    return reported(folder, "Sierra, plain", "</restingecgdata>", text)


def of_aecg(folder: Path, text: str) -> DeviceReport:
    return reported(folder, "aECG", "<derivation>", text)


@pytest.mark.parametrize(("of", "text"), [(of_muse, muse()), (of_sierra, sierra()), (of_aecg, aecg())])
def test_xml_gives_its_devices_numbers_and_statements(
    of: Callable[[Path, str], DeviceReport], text: str, tmp_path: Path
) -> None:
    assert of(tmp_path, text) == FULL
    assert of(tmp_path, "") == ABSENT


def test_cardiosoft_and_mortara_give_theirs(tmp_path: Path) -> None:
    said = "<Interpretation><Diagnosis>" + "".join(f"<DiagnosisText>{line}</DiagnosisText>" for line in LINES)
    said += "<DiagnosisText>---</DiagnosisText></Diagnosis></Interpretation>"
    full = FULL._replace(heart_rate=60)  # the writer's own
    assert reported(tmp_path, "CardioSoft", "<MedianSamples>", cardiosoft()) == full._replace(statements=())
    assert reported(tmp_path, "CardioSoft", "<StripData>", said) == DeviceReport(heart_rate=60, statements=LINES)
    wrong = cardiosoft(PQInterval=("ticks", 162), QRSDuration=("s", 0.098))
    assert reported(tmp_path, "CardioSoft", "<MedianSamples>", wrong)[1:3] == (None, 98)
    assert reported(tmp_path, "Mortara", "R_PEAK=", MORTARA.removesuffix("R_PEAK=")) == FULL._replace(
        heart_rate=70, statements=()
    )


def scp_7(*boundaries: int, axes: tuple[int, ...] = (45, -38, 61), rate: int = 54, qtc: int = 409) -> bytes:
    """Section 7: one reference beat, its boundaries in ms and axes in degrees; rate and QTc after no QRS types."""
    beat = struct.pack("<5H3h", *boundaries, *axes)
    return struct.pack("<BBHH", 1, 0, 1111, 29999) + beat + struct.pack("<HHHHB", 0, rate, 29999, qtc, 1)


def scp_8(*lines: str, kind: int = 0) -> bytes:
    texts = [line.encode() + b"\0" for line in lines]
    said = b"".join(struct.pack("<BH", n, len(text)) + text for n, text in enumerate(texts, start=1))
    return bytes([kind]) + struct.pack("<HBB3B", 2020, 1, 2, 3, 4, 5) + bytes([len(lines)]) + said


def of_scp(folder: Path, sections: dict[int, bytes], damage: bytes = b"") -> DeviceReport:
    path = folder / "x.scp"
    scp_ecg(path, random_recording(8, 400), 500, EIGHT, sections=sections)
    if damage:
        data = path.read_bytes()
        path.write_bytes(data.replace(damage, bytes(byte ^ 1 for byte in damage)))
    return readers.read(path, "scp-ecg", Assumed()).device


def test_scp_gives_the_intervals_between_its_boundaries(tmp_path: Path) -> None:
    boundaries = (100, 200, 262, 360, 694)
    assert of_scp(tmp_path, {7: scp_7(*boundaries), 8: scp_8(*LINES)}) == FULL
    no_p = of_scp(tmp_path, {7: scp_7(29999, 29999, *boundaries[2:], axes=(999, -38, 61), rate=29999)})
    assert no_p == FULL._replace(heart_rate=None, pr_ms=None, p_axis=None, statements=())
    assert of_scp(tmp_path, {8: scp_8(*LINES, kind=1)}) == ABSENT  # confirmed by a physician
    damaged = of_scp(tmp_path, {7: scp_7(*boundaries), 8: scp_8(*LINES)}, damage=struct.pack("<2H", 262, 360))
    assert damaged == DeviceReport(statements=LINES)  # a checksum says that section 7 was changed


def test_wfdb_gives_comments_that_state_their_unit(tmp_path: Path) -> None:
    header = "x 1 500 4\nx.dat 16 200(0)/mV 16 0 0 0 0 I\n"
    comments = (
        "#Age: 60\n# Heart rate: 54 bpm\n# PR interval (ms): 162\n#QRS_duration_ms: 98\n# QT: 432 ms\n#QTc: 409\n"
    )
    comments += "# P axis: 45 deg\n# QRS axis (degrees): -38\n# T axis: about 61 deg\n#Machine statements: a; b\n"
    (tmp_path / "x.dat").write_bytes(bytes(8))
    (tmp_path / "x.hea").write_text(header + comments)
    expected = FULL._replace(qtc_ms=None, t_axis=None, statements=("a", "b"))
    assert readers.read(tmp_path / "x.hea", "wfdb", Assumed()).device == expected
    (tmp_path / "x.hea").write_text(header + comments + "# PR: 170 ms\n")
    assert readers.read(tmp_path / "x.hea", "wfdb", Assumed()).device == expected._replace(pr_ms=None)


def test_numbers_that_no_heart_has_and_other_units_are_absent(tmp_path: Path) -> None:
    changed = muse(PRInterval=0, QRSDuration=65535, QTInterval="0.43", QTCorrected="n/a", PAxis=999, RAxis="1_0")
    assert of_muse(tmp_path, changed) == DeviceReport(heart_rate=54, t_axis=61, statements=LINES)
    assert of_muse(tmp_path, muse(QRSDuration=450))[2:4] == (None, None)  # longer than QT, which contains it
    twice = muse().replace("<PAxis>45</PAxis>", "<PAxis>45</PAxis><PAxis>46</PAxis>")
    assert of_muse(tmp_path, twice) == FULL._replace(p_axis=None)
    assert of_aecg(tmp_path, aecg(MDC_ECG_TIME_PD_PR='value="162"')).pr_ms is None
    assert of_aecg(tmp_path, aecg(MDC_ECG_TIME_PD_PR='value="162" unit="mm"')).pr_ms is None


def test_a_persons_changes_are_not_the_devices(tmp_path: Path) -> None:
    edited = muse(("Normal",), PRInterval=200)
    original = muse(place="OriginalDiagnosis")
    confirmed = "<TestDemographics><Status>CONFIRMED</Status></TestDemographics>"
    assert of_muse(tmp_path, edited + original + confirmed) == FULL
    assert of_muse(tmp_path, edited + confirmed).statements == ()
    person = (
        "<author><assignedEntity><assignedAuthorType><assignedPerson/></assignedAuthorType></assignedEntity></author>"
    )
    assert of_aecg(tmp_path, aecg(person)) == ABSENT
    two = sierra() + sierra(heartrate=60).replace("<interpretations>", "").replace("</interpretations>", "")
    both = two.replace("</interpretations><interpretation>", "<interpretation>") + "</interpretations>"
    found = of_sierra(tmp_path, both)
    assert (found.heart_rate, found.pr_ms) == (None, 162)


def test_measurements_of_one_beat_or_one_lead_are_not_the_recordings(tmp_path: Path) -> None:
    lead = "<support><supportingROI><component>"
    lead += '<boundary><code code="MDC_ECG_LEAD_II"/></boundary></component></supportingROI></support>'
    pr = '<annotation><code code="MDC_ECG_TIME_PD_PR"/><value value="162" unit="ms"/>'
    for inside in (
        f"{pr}{lead}</annotation>",
        f'<annotation><code code="MDC_ECG_BEAT"/><component>{pr}</annotation></component></annotation>',
    ):
        text = f"<subjectOf><annotationSet><component>{inside}</component></annotationSet></subjectOf>"
        assert of_aecg(tmp_path, text) == ABSENT


def test_many_statements_and_long_ones_are_cut() -> None:
    lines = [f"{n} \x00{'x' * 1000}" for n in range(100_000)]
    statements = make_report({}, lines).statements
    assert len(statements) == MOST_STATEMENTS
    assert all(len(line) == MOST_LETTERS and "\x00" not in line for line in statements)


@FUZZ
@given(
    text=st.text(st.characters(codec="utf-8", exclude_characters="<>&"), max_size=12)
    | st.from_regex(r"-?\d{1,5}(\.\d)?", fullmatch=True)
)
def test_whatever_stands_for_a_number_is_that_number_or_absent(text: str, tmp_path: Path) -> None:
    try:
        found = of_sierra(tmp_path, sierra(qrsfrontaxis=text))
    except readers.UnreadableError:  # no XML any more
        return
    assert found.qrs_axis is None or found.qrs_axis == float(text.strip())
    assert found._replace(qrs_axis=None) == FULL._replace(qrs_axis=None)


@given(st.text(), st.none() | st.text())
def test_a_converted_number_was_a_plain_one(text: str, unit: str | None) -> None:
    for name in ("heart_rate", "qt_ms", "t_axis"):
        value = convert(name, text, unit)
        assert value is None or np.isfinite(value)


@given(st.dictionaries(st.sampled_from(DeviceReport._fields[:-1]), st.none() | st.floats() | st.integers()))
def test_a_report_holds_what_a_heart_can_have(values: dict[str, float | None]) -> None:
    report = make_report(values)
    for name, value in report._asdict().items():
        assert name == "statements" or value is None or (-180 <= value <= 1000 and value == values[name])


@FUZZ
@given(body=st.binary(max_size=80))
def test_any_section_7_of_scp_is_read_or_a_reason(body: bytes, tmp_path: Path) -> None:
    try:
        found = of_scp(tmp_path, {7: body or b"\0"})
    except readers.UnreadableError:
        return
    assert make_report(found._asdict() | {"statements": None}) == found._replace(statements=())


def test_it_stands_in_the_records(tmp_path: Path) -> None:
    path = tmp_path / "x.xml"
    FORMATS["MUSE"].write(path, random_recording(8, 2500), 500, EIGHT)
    path.write_bytes(path.read_bytes().replace(b"</RestingECG>", muse().encode() + b"</RestingECG>"))
    row = {"record_id": "x", "path": str(path), "format": "muse-xml", "row": None, "bytes": 1, "modified": None}
    row |= dict.fromkeys(("problem", "stated_sample_rate", "stated_leads", "stated_unit"))
    record, _ = process_recording(row, Windows(), Assumed())
    told = {name: record[name] for name in record if name.startswith("device_")}
    assert told == {f"device_{name}": value for name, value in FULL._asdict().items()}
    assert record["device_statements"] == LINES
