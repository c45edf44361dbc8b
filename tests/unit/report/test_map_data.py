"""The page's rows and points: each recording's own values, by its name."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import small_run
from small_run import LABELS

from ecgpipe.core import parquet, schemas
from ecgpipe.report import map_data
from ecgpipe.report.column_titles import TITLES, format_number

IDS = tuple(f"a/{i}" for i in range(30))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    small_run.write(folder, IDS, unusable=4, n_signals=2)
    return folder


def collect(
    folder: Path,
    most: int = 1000,
    shown: tuple[str, ...] = (),
    paths: bool = True,
    columns: list[str] | None = None,
) -> map_data.Atlas:
    files = {name: sorted((folder / name).glob("*.parquet")) for name in ("predictions", "records")}
    umap = folder / "umap/umap.parquet"
    return map_data.collect(umap, files["predictions"], files["records"], LABELS, shown, most, paths, columns)


def test_each_row_has_the_probabilities_of_its_recording(folder: Path) -> None:
    found = collect(folder)
    by_id = {
        r["record_id"]: r for path in sorted(folder.glob("predictions/*")) for r in pq.read_table(path).to_pylist()
    }
    assert found.rows["names"] == [*IDS, *(f"short/{i}" for i in range(4))]
    for label, steps in zip(found.rows["labels"], found.rows["probabilities"], strict=True):
        for name, step in zip(found.rows["names"], steps.tolist(), strict=True):
            if name in by_id:
                assert step * map_data.PROBABILITY_STEP == pytest.approx(by_id[name][label], abs=0.5e-4)
            else:
                assert step == map_data.NO_PROBABILITY
    assert found.row_of == {name: row for row, name in enumerate(found.rows["names"])}


def test_true_labels_are_those_of_their_recordings(folder: Path, tmp_path: Path) -> None:
    has_label = {name: [True, False, None][i % 3] for i, name in enumerate(IDS)}
    rows = [{"record_id": i, "is_evaluated": i != IDS[0], LABELS[1]: has_label[i]} for i in reversed(IDS)]
    schema = schemas.true_labels_schema([LABELS[1]])
    parquet.write(tmp_path / "true.parquet", pa.Table.from_pylist(rows, schema=schema))
    names = collect(folder).rows["names"]
    evaluated, label = map_data.encode_true_labels(tmp_path / "true.parquet", pa.array(names), LABELS)
    words = ("", *label["values"])
    assert label["name"] == f"true: {LABELS[1]}"
    expected = {True: "yes", False: "no", None: ""}
    assert [words[code] for code in label["codes"]] == [expected[has_label.get(name)] for name in names]
    assert [words[code] for code in evaluated["codes"]] == ["no", *["yes"] * 29, *[""] * 4]


def test_columns_are_called_by_words_with_units(folder: Path) -> None:
    titles = {column["name"]: column.get("title") for column in collect(folder).rows["columns"]}
    assert titles["duration_s"] == "duration (s)"
    assert (titles["einthoven_residual"], titles["age"]) == ("Einthoven residual", None)
    assert format_number(1.80471e-16) == "< 0.001"
    assert [format_number(value) for value in (0.0, 0.80249, 2500.0)] == ["0", "0.802", "2500"]
    known = {*schemas.RECORDS.names}
    assert set(TITLES) <= known


def test_each_point_has_its_place_and_the_row_of_its_recording(folder: Path) -> None:
    found = collect(folder)
    umap = pq.read_table(folder / "umap/umap.parquet")
    assert [found.rows["names"][row] for row in found.points["row"]] == umap["record_id"].to_pylist()
    for name in ("segment", "x", "y"):
        np.testing.assert_array_equal(found.points[name], umap[name].to_numpy())
    assert found.points["density"] is None
    assert found.n_points == 60


def test_columns_come_as_numbers_or_as_codes_of_their_values(folder: Path) -> None:
    columns = {column["name"]: column for column in collect(folder).rows["columns"]}
    records = pq.read_table(folder / "records/shard-00000.parquet")
    np.testing.assert_array_equal(columns["age"]["numbers"], records["age"].to_numpy())
    assert columns["age"]["group"] == "metadata"
    for name in ("sex", "status", "reason", "format"):
        codes, values = columns[name]["codes"], [None, *columns[name]["values"]]
        assert [values[code] for code in codes] == records[name].to_pylist()
    assert "clipped_leads" not in columns  # none has any


def test_lists_are_texts_and_empty_ones_none() -> None:
    table = pa.table({"leads": pa.array([["V1", "V2"], [], None, ["V1", "V2"]], pa.list_(pa.string()))})
    column = map_data.encode_column(table, "leads", "quality")
    assert column is not None
    assert column["values"] == ["V1 V2"]
    assert column["codes"].tolist() == [1, 0, 0, 1]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (pa.array([True, None, False]), ["true", None, "false"]),
        (
            pa.array([0, None, 86_400_000_000], pa.timestamp("us")),
            ["1970-01-01 00:00:00.000000", None, "1970-01-02 00:00:00.000000"],
        ),
        (pa.array(["<b>", "", None]), ["<b>", "", None]),
    ],
)
def test_other_types_are_texts(values: pa.Array, expected: list[str | None]) -> None:
    column = map_data.encode_column(pa.table({"a": values}), "a", "metadata")
    assert column is not None
    assert [[None, *column["values"]][code] for code in column["codes"]] == expected


@pytest.mark.parametrize(
    "values",
    [
        pa.nulls(3, pa.string()),
        pa.array([[1], [2]], pa.list_(pa.int64())),
        pa.array([{"a": 1}], pa.struct([("a", pa.int64())])),
        pa.array([b"\xff\xfe"], pa.binary()),
        pa.array([f"a description of its own {i}" for i in range(map_data.MOST_VALUES + 1)]),
    ],
)
def test_what_says_nothing_or_is_no_category_is_left_out(values: pa.Array) -> None:
    assert map_data.encode_column(pa.table({"a": values}), "a", "metadata") is None


def test_columns_can_be_named_and_left_out(folder: Path) -> None:
    def own(columns: list[str] | None = None) -> list[str]:
        found = collect(folder, columns=columns).rows["columns"]
        return [column["name"] for column in found if column["group"] == "metadata"]

    assert own() == ["age", "sex"]
    assert own(columns=["sex"]) == ["sex"]
    assert own(columns=[]) == []


def test_a_large_map_is_a_sample_with_the_recordings_that_are_shown(folder: Path) -> None:
    found = collect(folder, most=7, shown=("a/3", "a/29"))
    assert len(found.points["x"]) == 7
    assert found.n_points == 60
    names = found.rows["names"]
    drawn = {names[row] for row in found.points["row"]}
    assert {name for name in names if not name.startswith("short/")} == drawn | {"a/3", "a/29"}
    umap = pq.read_table(folder / "umap/umap.parquet").to_pylist()
    places = {(row["record_id"], row["segment"]): (row["x"], row["y"]) for row in umap}
    for row, segment, x, y in zip(*(found.points[name].tolist() for name in ("row", "segment", "x", "y")), strict=True):
        assert places[names[row], segment] == (x, y)
    again = collect(folder, most=7, shown=("a/3", "a/29"))
    np.testing.assert_array_equal(again.points["x"], found.points["x"])


def test_the_density_behind_a_sample_counts_all_segments(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    density = collect(folder, most=7).points["density"]
    monkeypatch.setattr(parquet, "BATCH_ROWS", 11)
    pieces = collect(folder, most=7).points["density"]
    np.testing.assert_array_equal(density["counts"], pieces["counts"])
    assert density["counts"].sum() == 60
    umap = pq.read_table(folder / "umap/umap.parquet")
    counts = density["counts"].reshape(len(density["y"]) - 1, len(density["x"]) - 1)
    for x, y in zip(umap["x"].to_pylist(), umap["y"].to_pylist(), strict=True):
        column, row = (
            min(np.searchsorted(density[axis], at, "right") - 1, map_data.SQUARES - 1)
            for axis, at in (("x", x), ("y", y))
        )
        assert counts[row, column] >= 1


def test_of_many_unused_recordings_the_first_have_a_row(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(map_data, "MOST_UNUSED", 2)
    assert collect(folder).rows["names"][-2:] == ["short/0", "short/1"]


def test_without_paths_recordings_have_numbers_and_reasons_no_particulars(folder: Path) -> None:
    found = collect(folder, paths=False)
    assert found.rows["names"] == [f"recording {i + 1}" for i in range(34)]
    reasons = next(column for column in found.rows["columns"] if column["name"] == "reason")
    assert reasons["values"] == ["too short"]
    assert found.row_of["a/3"] == 3


def test_large_integers_are_not_rounded() -> None:
    for values, dtype in (([1, 2**24], "float32"), ([40_689_238, -1, 10_001_725], "float64")):
        column = map_data.encode_column(pa.table({"subject_id": pa.array(values)}), "subject_id", "metadata")
        assert column is not None
        assert column["numbers"].dtype == dtype
        assert column["numbers"].tolist() == values
