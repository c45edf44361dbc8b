"""Files as people have them: each script of ../shared/cases writes some, and what is right of them is asserted here.

A script begins with what it makes, what happened once, and what is right.
"""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ecgpipe.inputs.scan import scan_inputs
from ecgpipe.preprocessing import preprocess
from ecgpipe.preprocessing.segments import Windows, prepare
from ecgpipe.readers import LEADS, Assumed, Recording, spell_leads

CASES = Path(__file__).parents[4] / "shared" / "cases"
NUMBERS = ("01", "02", "03", "04", "05", "06", "07", "08", "09", "10", "11", "12")
NOTHING = Assumed()

Made = dict[str, tuple[dict[str, Any], np.ndarray]]  # by record id: its row of the records, and (segments, 12, samples)


@pytest.fixture
def case(tmp_path: Path) -> Callable[[str], Path]:
    """Runs the script with a number and gives the folder that it filled."""

    def run(number: str) -> Path:
        if not CASES.is_dir():
            pytest.skip(f"needs the scripts in {CASES}")
        [script] = CASES.glob(f"{number}-*.py")
        subprocess.run([sys.executable, str(script), str(tmp_path)], check=True)
        return tmp_path

    return run


def made_of(path: Path, assumed: Assumed = NOTHING) -> Made:
    """What the scan and the preprocessing make of a file or folder."""
    result: Made = {}
    for row in scan_inputs([str(path)]).recordings.to_pylist():
        record, segments = preprocess.process_recording(row, Windows(), assumed)
        result[row["record_id"]] = record, np.array([segment for *_, segment in segments])
    return result


def records_of(path: Path, assumed: Assumed = NOTHING) -> dict[str, dict[str, Any]]:
    return {name: record for name, (record, _) in made_of(path, assumed).items()}


def ignored(path: Path) -> dict[str, str]:
    files = scan_inputs([str(path)]).files.to_pylist()
    return {Path(file["path"]).name: file["reason"] for file in files if file["role"] == "ignored"}


def heart(seconds: float = 10, rate: int = 500, seed: int = 0) -> np.ndarray:
    """(12, samples) in mV: the scripts' own signal."""
    [script] = CASES.glob("08-*.py")
    source = script.read_text(encoding="utf-8")
    space: dict[str, Any] = {"np": np}
    exec(source[source.index("def heart") : source.index("folder = ")], space)  # noqa: S102, it is ours
    signal: np.ndarray = space["heart"](rate, seconds, seed)
    return signal


def segments_of(signal: np.ndarray, rate: float) -> np.ndarray:
    """What the preprocessing makes of a signal in memory."""
    recording = Recording(signal, rate, LEADS, "mV")
    segments: np.ndarray = prepare(recording, Windows(), {}).segments
    return segments


def assert_ok(record: dict[str, Any], seconds: float = 10, rate: float = 500, segments: int = 2) -> None:
    assert (record["status"], record.get("reason")) == ("ok", None)
    assert record["duration_s"] == pytest.approx(seconds)
    assert (record["sample_rate"], record["n_segments"]) == (rate, segments)


def test_every_script_has_a_test_here() -> None:
    if not CASES.is_dir():
        pytest.skip(f"needs the scripts in {CASES}")
    tested = {name[len("test_") :][:2] for name in globals() if name.startswith("test_")}
    assert {path.name[:2] for path in CASES.glob("*.py")} & set(NUMBERS) == set(NUMBERS)
    assert set(NUMBERS) <= tested


def test_01_zeros_around_exams_are_no_ecg(case: Callable[[str], Path]) -> None:
    folder = case("01")
    found = made_of(folder / "samitrop", Assumed(400.0, LEADS))
    stripped = made_of(folder / "stripped")
    assert list(found) == [f"exams/{number}" for number in range(4)]
    for number in range(4):
        record, segments = found[f"exams/{number}"]
        assert_ok(record, 7 if number < 3 else 10.24, 400, 1 if number < 3 else 2)
        assert record["stripped_s"] == pytest.approx(3.24 if number < 3 else 0)
        np.testing.assert_array_equal(segments, stripped[str(number)][1])
        assert record["signal_hash"] == stripped[str(number)][0]["signal_hash"]


def test_02_the_rest_of_a_last_record_is_no_ecg(case: Callable[[str], Path]) -> None:
    folder = case("02")
    found = made_of(folder)
    record, segments = found["padded"]
    assert_ok(record, 12.4)
    assert record["stripped_s"] == pytest.approx(0.6)
    assert (record["clipped_leads"], record["flat_leads"], record["lead_suspicion"]) == ([], [], None)
    amplitudes = [record[f"amplitude_mv_{lead}"] for lead in LEADS]
    assert max(amplitudes) < 3
    true = np.rint(heart(12.4) * 1000) / 1000
    np.testing.assert_allclose(segments, segments_of(true, 500), atol=1e-6)
    assert_ok(found["whole"][0], 12)
    assert found["whole"][0]["stripped_s"] == 0


def test_03_records_of_edf_plus_d_that_follow_one_another_are_a_recording(case: Callable[[str], Path]) -> None:
    found = made_of(case("03"))
    for name in ("contiguous", "later"):
        assert_ok(found[name][0])
        np.testing.assert_allclose(found[name][1], segments_of(np.rint(heart() * 1000) / 1000, 500), atol=1e-6)
    gap, _ = found["gap"]
    assert gap["status"] == "failed"
    assert "gaps (EDF+D)" in gap["reason"]


def test_04_a_padding_value_of_zero_is_also_a_sample(case: Callable[[str], Path]) -> None:
    found = made_of(case("04"))
    assert_ok(found["zero"][0])
    assert found["zero"][0]["stripped_s"] == 0
    np.testing.assert_allclose(found["zero"][1], segments_of(np.rint(heart() * 400) / 400, 500), atol=1e-6)
    assert_ok(found["ended"][0], 9, segments=1)
    assert found["ended"][0]["stripped_s"] == pytest.approx(1)


def test_05_a_dicom_file_is_an_ecg_by_its_channels(case: Callable[[str], Path]) -> None:
    found = made_of(case("05"))
    record, segments = found["cathlab"]
    assert_ok(record, 10, 240)
    assert (tuple(spell_leads(record["leads"])), record["unit"]) == (LEADS, "mV")
    np.testing.assert_allclose(segments, segments_of(np.rint(heart(10, 240) * 400) / 400, 240), atol=1e-6)
    assert found["pressure"][0]["status"] == "failed"
    assert "of another kind than ECG (Hemodynamic Waveform Storage)" in found["pressure"][0]["reason"]


def test_06_xml_is_read_in_the_encoding_that_it_has(case: Callable[[str], Path]) -> None:
    found = made_of(case("06"))
    for name in ("odd", "even", "muse-even"):
        assert_ok(found[name][0])
        np.testing.assert_allclose(found[name][1], segments_of(np.rint(heart() * 200) / 200, 500), atol=1e-6)


def test_07_an_axis_of_length_one_says_nothing(case: Callable[[str], Path]) -> None:
    found = made_of(case("07"), Assumed(250.0, LEADS))
    assert list(found) == [f"{name}/{row}" for name in ("echonext", "turned") for row in range(3)]
    for name in ("echonext", "turned"):
        for row in range(3):
            record, segments = found[f"{name}/{row}"]
            assert_ok(record, 10, 250)
            signal = heart(10, 250, row).astype(np.float32).astype(np.float64)
            np.testing.assert_array_equal(segments, segments_of(signal, 250))


def test_08_the_ecg_may_be_the_field_of_a_struct(case: Callable[[str], Path]) -> None:
    found = made_of(case("08"), Assumed(500.0, LEADS))
    for name in ("A0001", "compressed"):
        assert_ok(found[name][0])
        np.testing.assert_array_equal(found[name][1], segments_of(heart(), 500))


def test_09_cardiosoft_xml_as_uk_biobank_has_it_is_read(case: Callable[[str], Path]) -> None:
    record, segments = made_of(case("09"))["rest"]
    assert_ok(record)
    assert (record["format"], tuple(record["leads"]), record["unit"]) == ("cardiosoft-xml", LEADS, "mV")
    np.testing.assert_allclose(segments, segments_of(np.rint(heart() * 200) / 200, 500), atol=1e-6)


def test_09_cardiosoft_xml_is_a_recording(case: Callable[[str], Path]) -> None:
    record, segments = made_of(case("09"))["rest"]
    assert_ok(record)
    assert (tuple(spell_leads(record["leads"])), record["unit"]) == (LEADS, "mV")
    np.testing.assert_allclose(segments, segments_of(np.rint(heart() * 200) / 200, 500), atol=1e-6)


def test_10_a_record_without_leads_is_skipped_whatever_its_rates(case: Callable[[str], Path]) -> None:
    found = records_of(case("10"))
    assert {record["status"] for record in found.values()} == {"skipped"}
    assert {record["reason"].partition(" (")[0] for record in found.values()} == {"none of its leads is known by name"}


def test_11_csv_files_of_clocks_preambles_watches_and_limbs(case: Callable[[str], Path]) -> None:
    folder = case("11")
    assumed = Assumed(500.0, LEADS)
    found = made_of(folder)
    rounded = np.round(heart(), 4)
    for name in ("clock", "preamble"):
        for made in (found, made_of(folder / f"{name}.csv"), made_of(folder, assumed)):
            record, segments = made[name]
            assert_ok(record)
            assert record["unit"] == "mV"
            np.testing.assert_allclose(segments, segments_of(rounded, 500), atol=1e-6)
    assert "watch.csv" in ignored(folder)
    limbs = records_of(folder, assumed)["limbs"]
    assert limbs["status"] == "skipped"
    assert limbs["reason"] == "leads missing (V1 V2 V3 V4 V5 V6)"
    assert records_of(folder / "limbs.csv", assumed)["limbs"]["reason"] == limbs["reason"]


def test_12_no_date_decides_whether_a_record_is_read(case: Callable[[str], Path]) -> None:
    found = made_of(case("12"))
    assert len(found) == 9
    for record, segments in found.values():
        assert_ok(record)
        np.testing.assert_allclose(segments, segments_of(np.rint(heart() * 1000) / 1000, 500), atol=1e-6)
