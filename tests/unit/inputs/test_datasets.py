"""Datasets that people download: recognised by their folders, their metadata joined to the recordings.

The trees are small, and as the datasets' pages on PhysioNet and Zenodo describe them.
"""

import json
from collections import Counter
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import ptbxl as ptbxl_folder
import pytest

from ecgpipe.cli import main
from ecgpipe.core import schemas
from ecgpipe.inputs.scan import Scanned, scan_inputs

MEASUREMENTS = ["rr_interval", "p_onset", "p_end", "qrs_onset", "qrs_end", "t_end", "p_axis", "qrs_axis", "t_axis"]


def scan(*inputs: Path, ptbxl: str = "records500") -> Scanned:
    return scan_inputs([str(given) for given in inputs], ptbxl)


def rows(found: Scanned, *columns: str) -> list[tuple[object, ...]]:
    return [tuple(row[column] for column in columns) for row in found.recordings.to_pylist()]


def metadata(found: Scanned) -> list[str]:
    names: list[str] = found.recordings.column_names
    return names[len(schemas.MANIFEST) :]


def ignored(found: Scanned) -> Counter[str]:
    return Counter(row["reason"] for row in found.files.to_pylist() if row["role"] == "ignored")


def record(folder: Path, name: str, suffix: str = "dat", comments: str = "") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.hea").write_text(f"{name} 1 500 5000\n{name}.{suffix} 16 1000/mV 16 0 0 0 0 I\n{comments}")
    (folder / f"{name}.{suffix}").write_bytes(b"\0\0")


# PTB-XL


@pytest.fixture
def ptbxl(tmp_path: Path) -> Path:
    """PTB-XL 1.0.3 with two recordings on disk and one more in its table, as CSV as pandas wrote it."""
    root = tmp_path / "ptb-xl-1.0.3"
    lines = [ptbxl_folder.COLUMNS]
    for number, report in [
        (1, "sinusrhythmus periphere niederspannung"),
        (2, '"sinusbradykardie, sonst normal"'),
        (3, ""),
    ]:
        for folder, ending in [("records100", "lr"), ("records500", "hr")]:
            if number < 3:
                record(root / folder / "00000", f"{number:05d}_{ending}")
        lines.append(
            f"{number},{15708 + number}.0,{55 + number}.0,{number % 2},,63.0,2.0,0.0,CS-12   E,1984-11-09 09:17:34,"
            f"{report},\"{{'NORM': 100.0, 'LVOLT': 0.0}}\",,,,,False,False,True,,\" , I-V1,  \",,,,,{number},"
            f"records100/00000/{number:05d}_lr,records500/00000/{number:05d}_hr"
        )
    (root / "ptbxl_database.csv").write_text("\n".join(lines) + "\n")
    for name in ("scp_statements.csv", "RECORDS", "LICENSE.txt", "SHA256SUMS.txt", "example_physionet.py"):
        (root / name).write_text("x,y\n")
    return root


def test_ptb_xl_is_taken_at_500_hz_with_its_metadata(ptbxl: Path) -> None:
    found = scan(ptbxl)
    assert found.layouts == ["PTB-XL"]
    assert metadata(found) == ptbxl_folder.COLUMNS.split(",")
    columns = ["record_id", "ecg_id", "patient_id", "age", "sex", "report", "strat_fold"]
    assert rows(found, *columns) == [
        ("records500/00000/00001_hr", 1, 15709.0, 56.0, 1, "sinusrhythmus periphere niederspannung", 1),
        ("records500/00000/00002_hr", 2, 15710.0, 57.0, 0, "sinusbradykardie, sonst normal", 2),
    ]
    assert found.recordings["scp_codes"][0].as_py() == "{'NORM': 100.0, 'LVOLT': 0.0}"
    assert str(found.recordings["recording_date"][0].as_py()) == "1984-11-09 09:17:34"
    assert found.not_on_disk == 1
    reasons = {"the same recordings at 100 Hz": 4, "metadata of PTB-XL": 3}
    assert {reason: count for reason, count in ignored(found).items() if reason in reasons} == reasons
    assert len(found.files) == 4 + 4 + 6


def test_ptb_xl_at_100_hz_when_told_so(ptbxl: Path) -> None:
    found = scan(ptbxl, ptbxl="records100")
    expected = [("records100/00000/00001_lr", 56.0), ("records100/00000/00002_lr", 57.0)]
    assert rows(found, "record_id", "age") == expected
    assert ignored(found)["the same recordings at 500 Hz"] == 4


@pytest.mark.parametrize(("gone", "left"), [("records500", "00001_lr"), ("records100", "00001_hr")])
def test_of_ptb_xl_what_is_there_is_taken(gone: str, left: str, ptbxl: Path) -> None:
    (ptbxl / gone).rename(ptbxl.parent / gone)
    for wanted in ("records500", "records100"):
        found = scan(ptbxl, ptbxl=wanted)
        assert rows(found, "record_id", "age")[0][0].endswith(left)  # type: ignore[attr-defined]
        assert rows(found, "age")[0] == (56.0,)


def test_a_dataset_is_recognised_below_the_input_too(ptbxl: Path) -> None:
    (ptbxl.parent / "a.mat").touch()
    found = scan(ptbxl.parent)
    assert found.layouts == ["PTB-XL"]
    assert rows(found, "record_id", "age") == [
        ("a", None),
        ("ptb-xl-1.0.3/records500/00000/00001_hr", 56.0),
        ("ptb-xl-1.0.3/records500/00000/00002_hr", 57.0),
    ]


def test_recordings_that_the_table_does_not_list_have_no_metadata(ptbxl: Path) -> None:
    record(ptbxl / "records500" / "00000", "00009_hr")
    assert rows(scan(ptbxl), "record_id", "patient_id")[2] == ("records500/00000/00009_hr", None)


def test_the_command_states_what_it_recognised(ptbxl: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    options = ["--outdir", str(out), "--shard-size", "1", "--ptbxl", "records100"]
    assert main(["manifest", "--input", str(ptbxl), *options]) == 0
    content = json.loads((out / "manifest.json").read_text())
    assert content["layouts"] == ["PTB-XL"]
    assert content["metadata"] == ptbxl_folder.COLUMNS.split(",")
    assert content["not_on_disk"] == 1
    assert content["n_shards"] == 2
    assert content["ignored"]["the same recordings at 500 Hz"] == 4
    said = capsys.readouterr().err
    assert f"{ptbxl} is PTB-XL, recordings: 2" in said
    assert "recordings that its table lists and that are not there: 1" in said


# MIMIC-IV-ECG


@pytest.fixture
def mimic(tmp_path: Path) -> Path:
    """MIMIC-IV-ECG 1.0 with two recordings on disk, in another order than in its tables."""
    root = tmp_path / "mimic-iv-ecg-1.0"
    studies = [(10000032, 44458630), (10000032, 40689238), (10000117, 45090959)]
    listed, measured = [], []
    for subject, study in studies:
        path = f"files/p{str(subject)[:4]}/p{subject}/s{study}/{study}"
        time = f"2180-07-23 0{study % 10}:44:00"
        listed.append([subject, study, study, time, path])
        reports = ["Sinus rhythm", "Normal ECG", *[""] * 16]
        measured.append([subject, study, 6848296, time, *reports, "0.005-150 Hz", "60 Hz notch", 659, *[40] * 8])
        if study != 45090959:
            record(root / Path(path).parent, str(study))
    columns = ["subject_id", "study_id", "file_name", "ecg_time", "path"]
    pd.DataFrame(listed, columns=columns).to_csv(root / "record_list.csv", index=False)
    reports = [f"report_{n}" for n in range(18)]
    columns = ["subject_id", "study_id", "cart_id", "ecg_time", *reports, "bandwidth", "filtering", *MEASUREMENTS]
    frame = pd.DataFrame(measured, columns=columns).iloc[::-1]
    frame.to_csv(root / "machine_measurements.csv", index=False)
    for name in ("waveform_note_links.csv", "machine_measurements_data_dictionary.csv", "RECORDS", "LICENSE.txt"):
        (root / name).write_text("x,y\n")
    return root


def test_mimic_iv_ecg_has_its_list_and_the_machine_s_report_and_measurements(mimic: Path) -> None:
    found = scan(mimic)
    assert found.layouts == ["MIMIC-IV-ECG"]
    columns = ["subject_id", "study_id", "file_name", "ecg_time", "report", "cart_id", *MEASUREMENTS]
    assert metadata(found) == columns
    assert rows(found, "record_id", "study_id", "report", "rr_interval") == [
        ("files/p1000/p10000032/s40689238/40689238", 40689238, "Sinus rhythm; Normal ECG", 659),
        ("files/p1000/p10000032/s44458630/44458630", 44458630, "Sinus rhythm; Normal ECG", 659),
    ]
    assert str(found.recordings["ecg_time"][0].as_py()) == "2180-07-23 08:44:00"
    assert found.not_on_disk == 1
    assert ignored(found)["metadata of MIMIC-IV-ECG"] == 5


def test_mimic_iv_ecg_without_its_measurements(mimic: Path) -> None:
    (mimic / "machine_measurements.csv").unlink()
    assert metadata(scan(mimic)) == ["subject_id", "study_id", "file_name", "ecg_time"]


# PhysioNet Challenges


def test_the_headers_of_a_physionet_challenge_say_who_the_patient_is(tmp_path: Path) -> None:
    both = "# Age: 74\n# Sex: Male\n# Dx: 59118001,426783006\n# Rx: Unknown\n# Hx: Unknown\n# Sx: Unknown\n"
    record(tmp_path / "training" / "cpsc_2018" / "g1", "A0001", "mat", both)
    old = "#Age: NaN\n#Sex: Female\n#Dx: 426783006\n#Rx: Unknown\n#Hx: Unknown\n#Sx: Unknown\n"
    record(tmp_path / "training" / "georgia" / "g1", "E00001", "mat", old)
    record(tmp_path / "training" / "georgia" / "g1", "E00002", "mat")
    for folder in ("cpsc_2018", "georgia"):
        (tmp_path / "training" / folder / "g1" / "RECORDS").write_text("A0001\n")
    found = scan(tmp_path)
    assert found.layouts == ["PhysioNet Challenge"]
    assert metadata(found) == ["age", "sex", "dx", "rx", "hx", "sx"]
    assert rows(found, "record_id", "age", "sex", "dx", "hx") == [
        ("training/cpsc_2018/g1/A0001", 74.0, "Male", "59118001,426783006", "Unknown"),
        ("training/georgia/g1/E00001", None, "Female", "426783006", "Unknown"),
        ("training/georgia/g1/E00002", None, None, None, None),
    ]
    assert ignored(found) == {"metadata of PhysioNet Challenge": 2}


def test_headers_with_mat_files_alone_are_no_challenge(tmp_path: Path) -> None:
    record(tmp_path, "a", "mat", "# Age: 74\n")
    found = scan(tmp_path)
    assert (found.layouts, metadata(found)) == ([], [])


# CODE-15%


@pytest.fixture
def code15(tmp_path: Path) -> Path:
    """CODE-15% with one of its parts, which ends in the row that is no exam."""
    root = tmp_path / "code15"
    root.mkdir()
    with h5py.File(root / "exams_part0.hdf5", "w") as file:
        tracings = np.ones((4, 4096, 12), np.float32)
        tracings[3] = 0
        file["tracings"], file["exam_id"] = tracings, np.array([590673, 115, 77, 0])
    (root / "exams.csv").write_text(
        "exam_id,age,is_male,nn_predicted_age,1dAVb,RBBB,LBBB,SB,ST,AF,patient_id,death,timey,normal_ecg,trace_file\n"
        "115,38,True,40.160484,False,False,False,False,False,False,523632,False,2.098628,True,exams_part0.hdf5\n"
        "590673,67,False,67.05993,False,True,False,False,False,False,1724173,,,False,exams_part0.hdf5\n"
        "118,73,True,69.2,False,False,False,False,False,False,1,False,6.6,False,exams_part1.hdf5\n"
    )
    return root


def test_code_15_has_the_exam_s_row_for_each_of_its_recordings(code15: Path) -> None:
    found = scan(code15)
    assert found.layouts == ["CODE-15%"]
    assert rows(found, "record_id", "row", "exam_id", "age", "is_male", "RBBB", "patient_id", "timey") == [
        ("exams_part0/590673", 0, 590673, 67, False, True, 1724173, None),
        ("exams_part0/115", 1, 115, 38, True, False, 523632, 2.098628),
        ("exams_part0/77", 2, None, None, None, None, None, None),
    ]
    assert found.not_on_disk == 1
    assert ignored(found) == {"metadata of CODE-15%": 1}


# What is no dataset


@pytest.mark.parametrize("content", ["student,mark\nAda,1\n", "", "\0\xff\x12", "exam_id;trace_file\n1;2;3\n"])
def test_a_foreign_exams_csv_is_no_dataset(content: str, code15: Path) -> None:
    (code15 / "exams.csv").write_text(content)
    found = scan(code15)
    assert (found.layouts, metadata(found), len(found.recordings)) == ([], [], 3)
    assert len(found.files) == 2


@pytest.mark.parametrize("name", ["ptbxl_database.csv", "record_list.csv", "exams.csv"])
def test_a_table_s_name_alone_makes_no_dataset(name: str, tmp_path: Path) -> None:
    (tmp_path / name).mkdir()
    (tmp_path / "records500").mkdir()
    (tmp_path / "a.mat").touch()
    found = scan(tmp_path)
    assert (found.layouts, len(found.recordings)) == ([], 1)


def test_several_datasets_beside_one_another(ptbxl: Path, mimic: Path, code15: Path, tmp_path: Path) -> None:
    record(tmp_path / "challenge", "A0001", "mat", "#Age: 74\n#Sex: Male\n#Dx: 1\n")
    found = scan(tmp_path)
    assert found.layouts == ["PhysioNet Challenge", "CODE-15%", "MIMIC-IV-ECG", "PTB-XL"]
    assert found.not_on_disk == 3
    assert len(found.recordings) == 1 + 3 + 2 + 2
    assert rows(found, "age", "sex", "patient_id", "report")[0] == (74.0, "Male", None, None)
    assert rows(found, "age", "sex", "report", "rr_interval")[4] == (None, None, "Sinus rhythm; Normal ECG", 659)
    assert rows(found, "age", "sex", "report", "is_male")[6] == (
        56.0,
        "1",
        "sinusrhythmus periphere niederspannung",
        None,
    )


def test_metadata_called_like_a_column_of_ecgpipe_s_is_renamed(mimic: Path) -> None:
    frame = pd.read_csv(mimic / "record_list.csv").assign(status="final", input_status=1)
    frame.to_csv(mimic / "record_list.csv", index=False)
    names = metadata(scan(mimic))
    assert "status" not in names
    assert {"input_status", "input_input_status"} <= set(names)
