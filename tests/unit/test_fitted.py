"""What was fitted on is known again: by id, signal or patient; a leak is refused before a number comes of it."""

from pathlib import Path
from typing import Any

import labelled
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ecgpipe import calibration, fitted, labels
from ecgpipe.__main__ import main
from ecgpipe.errors import EcgpipeError
from ecgpipe.fitted import Fit


@pytest.fixture
def made(tmp_path: Path) -> dict[str, Any]:
    """A run, thresholds chosen on its fold 8 and a calibration fitted on its fold 7."""
    made = labelled.write(tmp_path)
    on = ["--outdir", str(tmp_path), "--patient", "patient", "--split", "fold"]
    csv, json = tmp_path / "chosen.csv", tmp_path / "calibration.json"
    assert main(["thresholds", *on, "--on", "8", "--method", "youden", "--output", str(csv)]) == 0
    assert main(["calibrate", *on, "--on", "7", "--method", "platt", "--output", str(json)]) == 0
    return made


def fits(folder: Path) -> list[Fit]:
    return fitted.behind(folder / "chosen.csv", folder / "calibration.json")


def columns(made: dict[str, Any], folds: list[int]) -> tuple[pa.Array, pa.Array, pa.Array]:
    """Ids, signals and patients of the recordings in some folds."""
    rows = np.isin(made["fold"], folds)
    ids = pa.array(made["ids"]).filter(pa.array(rows))
    signals = pa.array([f"signal of {record_id}" for record_id in ids.to_pylist()])
    return ids, signals, pa.array(made["patient"]).filter(pa.array(rows))


def test_other_folds_may_be_scored(tmp_path: Path, made: dict[str, Any]) -> None:
    fitted.refuse_overlap(fits(tmp_path), *columns(made, [0, 1, 2, 3, 4, 5, 6, 9]))


def test_the_fold_of_the_thresholds_may_not(tmp_path: Path, made: dict[str, Any]) -> None:
    with pytest.raises(EcgpipeError) as caught:
        fitted.refuse_overlap(fits(tmp_path), *columns(made, [8, 9]))
    assert str(caught.value) == (
        "evaluation: the thresholds of chosen.csv were fitted on fold = 8, and 40 of the 80 recordings to score are "
        "among those or of their patients (40 by id, 40 by signal, 40 by patient), such as 'r/16', 'r/17', 'r/36'; score "
        "another split (evaluation.split, evaluation.on), or fit on another one"
    )


def test_nor_may_that_of_the_calibration(tmp_path: Path, made: dict[str, Any]) -> None:
    with pytest.raises(
        EcgpipeError, match=r"the parameters of calibration\.json were fitted on fold = 7, and 40 of the 80"
    ):
        fitted.refuse_overlap(fits(tmp_path), *columns(made, [7, 9]))


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
        fitted.refuse_overlap(fits(tmp_path), *planted)


def test_what_nobody_knows_is_no_overlap(tmp_path: Path, made: dict[str, Any]) -> None:
    nothing = pa.nulls(3, pa.string())
    fitted.refuse_overlap(fits(tmp_path), pa.array(["x", "y", "z"]), nothing, nothing)


def test_patients_that_the_fit_does_not_know_are_a_warning(
    tmp_path: Path, made: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--split", "fold", "--on", "8", "--method", "youden", "--output", str(tmp_path / "chosen.csv")]
    assert main(["thresholds", "--outdir", str(tmp_path), *options]) == 0
    fitted.refuse_overlap(fitted.behind(tmp_path / "chosen.csv", None), *columns(made, [9]))
    assert "nobody knows of which patients the thresholds of chosen.csv were fitted" in capsys.readouterr().err


def test_a_patient_is_the_same_whether_written_with_a_point_or_without() -> None:
    texts = [fitted._hashes("patient", values) for values in (pa.array([17.0, None]), pa.array([17]), pa.array(["17"]))]
    assert len({tuple(one.tolist()) for one in texts}) == 1
    assert fitted._hashes("signal", pa.array(["17"])).tolist() != texts[0].tolist()


def test_nobody_may_score_when_the_list_is_gone_or_another_one(tmp_path: Path, made: dict[str, Any]) -> None:
    beside = tmp_path / "chosen.csv.fitted.parquet"
    table = pq.read_table(beside)
    pq.write_table(table[:1], beside)
    with pytest.raises(EcgpipeError, match=r"chosen\.csv\.fitted\.parquet belongs to another fit than chosen\.csv"):
        fits(tmp_path)
    beside.unlink()
    with pytest.raises(EcgpipeError, match="is not there, so that nobody can tell which recordings the thresholds of"):
        fits(tmp_path)


def test_a_label_file_of_a_person_and_no_calibration_were_fitted_on_nothing(
    tmp_path: Path, made: dict[str, Any]
) -> None:
    assert fitted.behind(tmp_path / "labels.csv", None) == []


def test_the_list_names_no_recording_and_has_each_once(tmp_path: Path, made: dict[str, Any]) -> None:
    table = pq.read_table(tmp_path / "chosen.csv.fitted.parquet").to_pandas()
    assert table.groupby("what")["hash"].nunique().to_dict() == {"record_id": 40, "signal": 40, "patient": 20}
    assert len(table) == 100


def test_a_run_does_not_need_the_lists(tmp_path: Path, made: dict[str, Any]) -> None:
    for path in tmp_path.glob("*.fitted.parquet"):
        path.unlink()
    assert labels.read(tmp_path / "chosen.csv")
    assert calibration.read(tmp_path / "calibration.json").labels
