"""What was fitted on is known again: by id, signal or patient; a leak is refused before a number comes of it."""

from pathlib import Path
from typing import Any

import labelled
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ecgpipe.cli import main
from ecgpipe.core.errors import EcgpipeError
from ecgpipe.core.provenance import hash_file
from ecgpipe.evaluation import leakage
from ecgpipe.evaluation.leakage import Fit, Recordings
from ecgpipe.models import calibration, labels


@pytest.fixture
def made(tmp_path: Path) -> dict[str, Any]:
    """A run, thresholds chosen on its fold 8 and a calibration fitted on its fold 7."""
    made = labelled.write(tmp_path)
    on = [str(tmp_path), "--patient", "patient", "--split", "fold"]
    csv, json = tmp_path / "chosen.csv", tmp_path / "calibration.json"
    assert main(["thresholds", *on, "--on", "8", "--method", "youden", "--output", str(csv)]) == 0
    assert main(["calibrate", *on, "--on", "7", "--method", "platt", "--output", str(json)]) == 0
    return made


def fits(folder: Path) -> list[Fit]:
    path = folder / "calibration.json"
    return leakage.read_fits(folder / "chosen.csv", path, {"sha256": hash_file(path)})


def columns(made: dict[str, Any], folds: list[int]) -> Recordings:
    """Ids, signals and patients of the recordings in some folds."""
    rows = np.isin(made["fold"], folds)
    ids = pa.array(made["ids"]).filter(pa.array(rows))
    signals = pa.array([f"signal of {record_id}" for record_id in ids.to_pylist()])
    return Recordings(ids, signals, pa.array(made["patient"]).filter(pa.array(rows)))


def test_other_folds_may_be_scored(tmp_path: Path, made: dict[str, Any]) -> None:
    leakage.refuse_overlap(fits(tmp_path), columns(made, [0, 1, 2, 3, 4, 5, 6, 9]))


def test_the_fold_of_the_thresholds_may_not(tmp_path: Path, made: dict[str, Any]) -> None:
    with pytest.raises(EcgpipeError) as caught:
        leakage.refuse_overlap(fits(tmp_path), columns(made, [8, 9]))
    assert str(caught.value) == (
        "evaluation: the thresholds of chosen.csv were fitted on fold = 8, and 40 of the 80 recordings to score are "
        "among those or of their patients (40 by id, 40 by signal, 40 by patient), such as 'r/16', 'r/17', 'r/36'; "
        "score another split (evaluation.split_value), or fit on another one"
    )


def test_nor_may_that_of_the_calibration(tmp_path: Path, made: dict[str, Any]) -> None:
    with pytest.raises(
        EcgpipeError, match=r"the parameters of calibration\.json were fitted on fold = 7, and 40 of the 80"
    ):
        leakage.refuse_overlap(fits(tmp_path), columns(made, [7, 9]))


@pytest.mark.parametrize(
    ("leaked", "counts"),
    [
        (("r/16", "another", "another"), "1 by id, 0 by signal, 0 by patient"),
        (("copy", "signal of r/16", "another"), "0 by id, 1 by signal, 0 by patient"),
        (("new", "another", "r8"), "0 by id, 0 by signal, 1 by patient"),
    ],
)
def test_one_planted_recording_is_caught(
    tmp_path: Path, made: dict[str, Any], leaked: tuple[str, str, str], counts: str
) -> None:
    clean = columns(made, [9])
    planted = [pa.concat_arrays([column, pa.array([value])]) for column, value in zip(clean, leaked, strict=True)]
    with pytest.raises(EcgpipeError, match=f"1 of the 41 .* \\({counts}\\), such as '{leaked[0]}'"):
        leakage.refuse_overlap(fits(tmp_path), Recordings(*planted))


def test_what_nobody_knows_is_no_overlap(tmp_path: Path, made: dict[str, Any]) -> None:
    nothing = pa.nulls(3, pa.string())
    leakage.refuse_overlap(fits(tmp_path), Recordings(pa.array(["x", "y", "z"]), nothing, nothing))


def chosen_without_patients(folder: Path) -> list[Fit]:
    """Thresholds chosen on the first recording of each patient of fold 8, without saying who the patients are."""
    options = ["--split", "first", "--on", "8", "--method", "youden", "--output", str(folder / "chosen.csv")]
    assert main(["thresholds", str(folder), *options]) == 0
    return leakage.read_fits(folder / "chosen.csv", None, None)


def test_patients_that_the_fit_does_not_know_are_found_in_the_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = labelled.write(tmp_path)
    first = [fold if i % 2 == 0 else -1 for i, fold in enumerate(made["fold"])]
    add_column(tmp_path, "first", dict(zip(made["ids"], first, strict=True)))
    (fit,) = chosen_without_patients(tmp_path)
    assert fit.patient is None
    rows = np.array([fold == 8 and i % 2 == 1 for i, fold in enumerate(made["fold"])])
    every = columns(made, list(range(10)))
    second = Recordings(*(None if values is None else values.filter(pa.array(rows)) for values in every))
    with pytest.raises(EcgpipeError, match=r"20 of the 20 .* \(0 by id, 0 by signal, 20 by patient\), such as 'r/17'"):
        leakage.refuse_overlap([fit], second, columns(made, list(range(10))))
    leakage.refuse_overlap([fit], columns(made, [9]), columns(made, list(range(10))))
    assert "without a column of the patient" not in capsys.readouterr().err


def test_or_else_are_a_warning(tmp_path: Path, made: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--split", "fold", "--on", "8", "--method", "youden", "--output", str(tmp_path / "chosen.csv")]
    assert main(["thresholds", str(tmp_path), *options]) == 0
    leakage.refuse_overlap(
        leakage.read_fits(tmp_path / "chosen.csv", None, None), columns(made, [9]), columns(made, [9])
    )
    said = capsys.readouterr().err
    assert "the thresholds of chosen.csv were fitted without a column of the patient, and only 0 of 40 of these" in said
    assert "fit again with --patient COLUMN" in said


def add_column(folder: Path, name: str, values: dict[str, Any]) -> None:
    """Add a column to a run's records."""
    path = folder / "records/shard-00000.parquet"
    table = pq.read_table(path)
    pq.write_table(table.append_column(name, pa.array([values[i] for i in table["record_id"].to_pylist()])), path)


def evaluated(folder: Path, *options: str) -> int:
    given = ["--predictions", "predictions", "--records", "records", "--labels", "chosen.csv"]
    given += ["--metrics", "m.parquet", "--curves", "c.parquet", "--account", "a.json"]
    paths = [text if text.startswith("--") else str(folder / text) for text in given]
    return main(["evaluate", *paths, "--resamples", "0", *options])


@pytest.fixture
def halved(tmp_path: Path) -> Path:
    """A run with one recording of each patient of fold 8 in `half` a, on which thresholds were chosen, and one in b."""
    made = labelled.write(tmp_path)
    half = {
        name: "ab"[i % 2] if fold == 8 else "c"
        for i, (name, fold) in enumerate(zip(made["ids"], made["fold"], strict=True))
    }
    add_column(tmp_path, "half", half)
    options = ["--patient", "patient", "--split", "half", "--on", "a", "--method", "youden"]
    assert main(["thresholds", str(tmp_path), *options, "--output", str(tmp_path / "chosen.csv")]) == 0
    return tmp_path


@pytest.mark.parametrize("patient", [[], ["--patient", "record_id"], ["--patient", "patient"]])
def test_the_column_of_the_fit_tells_the_patients_whatever_the_evaluation_names(
    halved: Path, patient: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluated(halved, "--split", "half", "--on", "b", *patient) == 2
    assert "20 of the 20 recordings to score are among those or of their patients (0 by id, 0 by signal, 20 by" in (
        capsys.readouterr().err
    )
    assert evaluated(halved, "--split", "half", "--on", "c", *patient) == 0


def test_without_the_column_of_the_fit_an_evaluation_asks_for_one(
    halved: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = halved / "records/shard-00000.parquet"
    table = pq.read_table(path)
    pq.write_table(
        table.rename_columns(["subject" if name == "patient" else name for name in table.column_names]), path
    )
    assert evaluated(halved, "--split", "half", "--on", "c") == 2
    said = capsys.readouterr().err
    assert (
        "evaluation.patient: not given, and the thresholds of chosen.csv were fitted with the patients of the" in said
    )
    assert "column 'patient', which is not here" in said
    assert "evaluation: {patient: COLUMN}" in said
    assert evaluated(halved, "--split", "half", "--on", "c", "--patient", "subject") == 0
    assert evaluated(halved, "--split", "half", "--on", "b", "--patient", "subject") == 2


def test_a_head_states_which_column_its_patients_were_of(tmp_path: Path, made: dict[str, Any]) -> None:
    ids = pa.array(made["ids"])
    recordings = Recordings(ids, ids, pa.array(made["patient"]))
    sha256 = leakage.write_hashes(tmp_path / "x", "probe", recordings, {"patient": "patient"})
    assert leakage.read_fit(tmp_path / "x", "x", None, sha256).patient == "patient"
    sha256 = leakage.write_hashes(tmp_path / "x", "probe", Recordings(ids, ids, ids), {"patient": "record_id"})
    each = leakage.read_fit(tmp_path / "x", "x", None, sha256)
    assert each.patient is None  # each recording a patient: the patients are unknown
    assert len(each.hashes["patient"]) == 0


def test_a_patient_is_the_same_whether_written_with_a_point_or_without() -> None:
    texts = [
        leakage._hash_values("patient", values) for values in (pa.array([17.0, None]), pa.array([17]), pa.array(["17"]))
    ]
    assert len({tuple(one.tolist()) for one in texts}) == 1
    assert leakage._hash_values("signal", pa.array(["17"])).tolist() != texts[0].tolist()


def test_scoring_is_refused_when_the_list_is_missing_or_another_one(tmp_path: Path, made: dict[str, Any]) -> None:
    beside = tmp_path / "chosen.csv.fitted.parquet"
    table = pq.read_table(beside)
    pq.write_table(table[:1], beside)
    with pytest.raises(EcgpipeError, match=r"chosen\.csv\.fitted\.parquet belongs to another fit than chosen\.csv"):
        fits(tmp_path)
    beside.unlink()
    with pytest.raises(EcgpipeError, match="is missing, so it is unknown which recordings the thresholds of"):
        fits(tmp_path)


def test_a_label_file_of_a_person_and_no_calibration_were_fitted_on_nothing(
    tmp_path: Path, made: dict[str, Any]
) -> None:
    assert leakage.read_fits(tmp_path / "labels.csv", None, None) == []


def test_the_list_names_no_recording_and_has_each_once(tmp_path: Path, made: dict[str, Any]) -> None:
    table = pq.read_table(tmp_path / "chosen.csv.fitted.parquet").to_pandas()
    assert table.groupby("what")["hash"].nunique().to_dict() == {"record_id": 40, "signal": 40, "patient": 20}
    assert len(table) == 100


def test_a_run_does_not_need_the_lists(tmp_path: Path, made: dict[str, Any]) -> None:
    for path in tmp_path.glob("*.fitted.parquet"):
        path.unlink()
    assert labels.read(tmp_path / "chosen.csv")
    assert calibration.read_calibration(tmp_path / "calibration.json").labels


# Through the command that scores


def evaluate(folder: Path, fold: int, *options: str, labels: str = "chosen.csv") -> int:
    paths = {"predictions": "predictions", "records": "records", "labels": labels}
    paths |= {name: f"evaluation/{name}" for name in ("metrics", "curves", "account")}
    given = [text for option, path in paths.items() for text in (f"--{option}", str(folder / path))]
    split = ["--split", "fold", "--on", str(fold), "--patient", "patient"]
    return main(["evaluate", *given, *split, "--resamples", "10", *options])


def test_evaluate_refuses_the_fold_of_the_thresholds_and_takes_another(
    tmp_path: Path, made: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluate(tmp_path, 8) == 2
    said = capsys.readouterr().err
    assert "the thresholds of chosen.csv were fitted on fold = 8, and 40 of the 40 recordings to score" in said
    assert not (tmp_path / "evaluation").exists()
    assert evaluate(tmp_path, 5) == 0
    said = capsys.readouterr().err
    assert "3 thresholds chosen by youden on 40 recordings (fold = 8)." in said
    assert "None of the recordings evaluated here was among those." in said
    assert evaluate(tmp_path, 8, labels="labels.csv") == 0  # what a person wrote was fitted on nothing


def test_evaluate_finds_one_planted_recording(
    tmp_path: Path, made: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    """Of another fold in the table that the scoring gets, as where somebody drew a split anew."""
    path = tmp_path / "records/shard-00000.parquet"
    records = pq.read_table(path).to_pandas()
    records.loc[records["record_id"] == "r/16", "fold"] = 5
    records.to_parquet(path)
    assert evaluate(tmp_path, 5) == 2
    assert "1 of the 41 recordings to score are among those or of their patients (1 by id" in capsys.readouterr().err


def test_evaluate_refuses_the_fold_of_the_calibration(
    tmp_path: Path, made: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    """Thresholds on fold 8, after a calibration on fold 7: neither is scored, and fold 5 is."""
    path = tmp_path / "calibration.json"
    labelled.write(tmp_path, calibration=calibration.read_calibration(path).facts)
    on = [str(tmp_path), "--split", "fold", "--on", "8", "--output", str(tmp_path / "chosen.csv")]
    assert main(["thresholds", *on, "--method", "youden"]) == 0
    assert evaluate(tmp_path, 5) == 2
    assert "--calibration: no file was given, but the predictions were calibrated by" in capsys.readouterr().err
    given = ["--calibration", str(path)]
    assert evaluate(tmp_path, 7, *given) == 2
    said = capsys.readouterr().err
    assert "the parameters of calibration.json were fitted on fold = 7, and 40 of the 40 recordings" in said
    assert evaluate(tmp_path, 8, *given) == 2
    assert "the thresholds of chosen.csv were fitted on fold = 8" in capsys.readouterr().err
    assert evaluate(tmp_path, 5, *given) == 0
    assert "calibrated by Platt scaling, fitted on 40 recordings (fold = 7)." in capsys.readouterr().err
