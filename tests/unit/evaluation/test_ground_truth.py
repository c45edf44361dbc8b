"""True labels, matched to predictions by record id."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ecgpipe.core import parquet, schemas
from ecgpipe.core.errors import EcgpipeError
from ecgpipe.evaluation import ground_truth
from ecgpipe.evaluation.truth_tables import Source

AF, LBBB = "Atrial fibrillation", "Left bundle branch block"


@pytest.fixture
def run(tmp_path: Path) -> tuple[list[Path], list[Path]]:
    """The predictions and records of four recordings, the last of which was skipped."""
    predictions = pa.table(
        {
            "record_id": ["a", "b", "c"],
            "n_segments": pa.array([2, 2, 2], pa.int32()),
            LBBB: [0.1, 0.2, 0.3],
            AF: [0.7, 0.8, 0.9],
        }
    )
    records = pa.table(
        {
            "record_id": ["d", "c", "b", "a"],
            "status": ["skipped", "ok", "ok", "ok"],
            "AF": [True, None, True, False],
            "fold": [9.0, 9.0, 10.0, None],
            "codes": ["{'LBBB': 100.0}", "{'LBBBX': 100.0, 'SR': 0.0}", "{'LBBB': 0.0}", None],
        }
    )
    parquet.write(tmp_path / "part-00000.parquet", predictions)
    parquet.write(tmp_path / "shard-00000.parquet", records)
    return [tmp_path / "part-00000.parquet"], [tmp_path / "shard-00000.parquet"]


def values(found: ground_truth.Truth, label: str) -> dict[str, float | None]:
    column = found.true[:, found.names.index(label)].tolist()
    return {k: None if np.isnan(v) else v for k, v in zip(found.record_ids.to_pylist(), column, strict=True)}


def test_a_column_of_the_inputs_is_a_label_by_its_mapping(run: tuple[list[Path], list[Path]]) -> None:
    found = ground_truth.read_truth(*run, Source(None, {"AF": AF}), ["fold"])
    assert values(found, AF) == {"a": 0, "b": 1, "c": None}
    predicted = dict(zip(found.record_ids.to_pylist(), found.probability[:, 0].tolist(), strict=True))
    assert predicted == {"a": 0.7, "b": 0.8, "c": 0.9}
    assert found.columns["fold"].to_pylist() == [None, "10", "9"]
    assert found.counts == {"predicted": 3, "with_truth": 2, "without_truth": 1, "without_prediction": 1}
    assert found.left_out == (LBBB,)


@pytest.mark.parametrize(
    "theirs",
    [pa.array([2.0, 1.0, np.nan]), pa.array([2, 1, None]), pa.array(["2", "1", ""]), pa.array(["2.0", "1.0", None])],
)
def test_numbers_as_record_ids_are_found_whatever_type_the_table_gives_them(tmp_path: Path, theirs: pa.Array) -> None:
    ids = ["1", "2", "01"]
    columns = [ids, pa.array([1] * 3, pa.int32()), [0.1, 0.2, 0.3]]
    parquet.write(tmp_path / "part-00000.parquet", pa.table(columns, schema=schemas.predictions_schema([AF])))
    parquet.write(tmp_path / "shard-00000.parquet", pa.table({"record_id": ids, "status": ["ok"] * 3}))
    for suffix in ("parquet", "csv"):
        table = tmp_path / f"truth.{suffix}"
        content = pa.table({"record_id": theirs, AF: [1, 0, 1]})
        parquet.write(table, content) if suffix == "parquet" else content.to_pandas().to_csv(table, index=False)
        found = ground_truth.read_truth(
            [tmp_path / "part-00000.parquet"], [tmp_path / "shard-00000.parquet"], Source(table, {})
        )
        assert values(found, AF) == {"1": 0, "2": 1, "01": None}
        assert found.counts["without_prediction"] == 0  # a row of nobody is none


def test_an_id_that_a_table_writes_in_two_ways_is_there_twice(
    run: tuple[list[Path], list[Path]], tmp_path: Path
) -> None:
    (tmp_path / "truth.csv").write_text(f"record_id,{AF}\n12,1\n12.0,0\n")
    with pytest.raises(EcgpipeError, match="'12' occurs twice"):
        ground_truth.read_truth(*run, Source(tmp_path / "truth.csv", {}))


def test_a_table_is_joined_by_record_id_whatever_its_order(run: tuple[list[Path], list[Path]], tmp_path: Path) -> None:
    table = tmp_path / "truth.csv"
    table.write_text(f"{AF},record_id,{LBBB},sex\nyes,c,0,F\n,a,1,M\n0,elsewhere,0,M\n")
    found = ground_truth.read_truth(*run, Source(table, {}), ["sex", "fold"])
    assert found.names == (LBBB, AF)  # the model's order
    assert values(found, AF) == {"a": None, "b": None, "c": 1}
    assert values(found, LBBB) == {"a": 1, "b": None, "c": 0}
    assert found.columns["sex"].to_pylist() == ["M", None, "F"]
    assert found.counts["without_prediction"] == 1
    assert found.unpredicted.to_pylist() == ["elsewhere"]


def test_a_code_among_others_is_a_label(run: tuple[list[Path], list[Path]]) -> None:
    found = ground_truth.read_truth(*run, Source(None, {"codes:LBBB": LBBB}))
    assert values(found, LBBB) == {"a": None, "b": 1, "c": 0}  # LBBBX is another code


def test_several_columns_of_one_label(run: tuple[list[Path], list[Path]]) -> None:
    found = ground_truth.read_truth(*run, Source(None, {"codes:LBBB": AF, "codes:LBBBX": AF}))
    assert values(found, AF) == {"a": None, "b": 1, "c": 1}


def test_some_recordings_are_chosen_by_a_value(run: tuple[list[Path], list[Path]]) -> None:
    found = ground_truth.read_truth(*run, Source(None, {"AF": AF}), ["fold"])
    some = ground_truth.select_rows(found, ground_truth.find_value(found.columns["fold"], "10"))
    assert some.record_ids.to_pylist() == ["b"]
    assert some.probability.tolist() == [[0.8]]
    with pytest.raises(EcgpipeError, match="no recording has '8'; there are 10, 9"):
        ground_truth.find_value(found.columns["fold"], "8")


@pytest.mark.parametrize(
    ("content", "mapped", "message"),
    [
        (f"record_id,{AF}\na,2\n", {}, "'a' has 2 in the column"),
        (f"record_id,{AF}\na,1\na,0\n", {}, "'a' occurs twice"),
        (f"id,{AF}\na,1\n", {}, "no column record_id"),
        ("record_id,AF\na,1\n", {}, "no column of .* has the name of a label"),
        ("record_id,AF\na,1\n", {"AF": "Atrial fibrilation"}, "did you mean 'Atrial fibrillation'"),
        ("record_id,AF\na,1\n", {"AFF": AF}, "did you mean 'AF'"),
        (f"record_id,{AF}\na.mat,1\n", {}, "the run's are called 'a', 'b', 'c', those of .* 'a.mat'"),
    ],
)
def test_mistakes(
    run: tuple[list[Path], list[Path]], tmp_path: Path, content: str, mapped: dict[str, str], message: str
) -> None:
    table = tmp_path / "truth.csv"
    table.write_text(content)
    with pytest.raises(EcgpipeError, match=message):
        ground_truth.read_truth(*run, Source(table, mapped))


def test_labels_that_the_model_does_not_know(run: tuple[list[Path], list[Path]]) -> None:
    found = ground_truth.read_truth_of(
        pa.array(["b", "a"]), None, run[1], Source(None, {"codes:SR": "SR", "AF": "my AF"})
    )
    assert found.names == ("SR", "my AF")
    assert values(found, "my AF") == {"b": 1, "a": 0}


def test_of_the_records_only_the_columns_of_labels_and_those_asked_for_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shards = [
        {"record_id": ["a", "b"], "status": ["ok"] * 2, "AF": [1, 0], "patient": ["p", "q"], "notes": ["x", "y"]},
        {"record_id": ["c"], "status": ["ok"], "AF": [1]},  # of an input without the other columns
    ]
    for number, columns in enumerate(shards):
        parquet.write(tmp_path / f"shard-{number:05d}.parquet", pa.table(columns))
    read: list[str] = []
    read_table = pq.read_table

    def note(path: Path, columns: list[str]) -> pa.Table:
        read.extend(columns)
        return read_table(path, columns=columns)

    monkeypatch.setattr(pq, "read_table", note)
    paths = sorted(tmp_path.iterdir())
    truth = ground_truth.read_truth_of(pa.array(["c", "a"]), ["AF"], paths, Source(None, {}), ["patient"])
    assert set(read) == {"record_id", "AF", "patient"}
    assert truth.true.tolist() == [[1], [1]]
    assert truth.columns["patient"].to_pylist() == [None, "p"]
