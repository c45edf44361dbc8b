"""Ids as texts: however CSV, Parquet, pandas, Polars and NumPy write one, it is the same one, and nobody is nobody."""

from decimal import Decimal
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ecgpipe.core import normalized_text
from ecgpipe.core.errors import EcgpipeError
from ecgpipe.evaluation import ground_truth, leakage, splits
from ecgpipe.inputs import input_tables

BIG = 2**53 + 1


@pytest.mark.parametrize(
    ("values", "texts"),
    [
        (pa.array([12, None], pa.int32()), ["12", None]),
        (pa.array([12, 2**64 - 1], pa.uint64()), ["12", str(2**64 - 1)]),
        (pa.array([BIG, -BIG]), [str(BIG), str(-BIG)]),
        (pa.array([12.0, 12.5, -0.0, np.nan, None]), ["12", "12.5", "0", None, None]),
        (pa.array([12.0, np.nan], pa.float32()), ["12", None]),
        (pa.array(np.array([12, np.nan], np.float16)), ["12", None]),
        (pa.array([123456789012345.0, 1e15]), ["123456789012345", "1000000000000000"]),
        (pa.array(["12", "12.0", "012", "0", "0.0", "-3.00"]), ["12", "12", "012", "0", "0", "-3"]),
        (pa.array(["1.2.0", "v1.0", "12.50", "012.0"]), ["1.2.0", "v1.0", "12.50", "012.0"]),
        (pa.array(["", "  ", "nan", "NaN", "<NA>", None]), [None] * 6),
        (pa.array(["a "], pa.large_string()), ["a "]),
        (pa.array([b"a", b"12.0"]), ["a", "12"]),
        (pa.array(["a", "b", None, "a"]).dictionary_encode(), ["a", "b", None, "a"]),
        (pa.array([12.0, np.nan]).dictionary_encode(), ["12", None]),
        (pa.array(pd.Categorical([12, 7, None])), ["12", "7", None]),
        (pa.chunked_array([pa.array([1]), pa.array([2])]), ["1", "2"]),
        (pa.chunked_array([], pa.int64()), []),
        (pa.nulls(2), [None, None]),
        (pa.array([True, False, None]), ["true", "false", None]),
        (pa.array(["True", "False"]), ["true", "false"]),
        (pa.array([Decimal("12.00"), Decimal("12.50")]), ["12", "12.50"]),
        (pa.array(pd.to_datetime(pd.Series(["2020-01-01", None]))), ["2020-01-01", None]),
        (pa.array([pd.Timestamp("2020-01-01").date()]), ["2020-01-01"]),
        (pa.array(["2020-01-01 00:00:00", "2020-01-01T00:00:00Z"]), ["2020-01-01", "2020-01-01"]),
        (pl.Series(["a", "b"], dtype=pl.Categorical).to_arrow(), ["a", "b"]),
        (pl.Series([12.0, float("nan"), None]).to_arrow(), ["12", None, None]),
    ],
)
def test_a_value_is_the_same_text_whatever_its_type(values: pa.Array, texts: list[str | None]) -> None:
    found = normalized_text.as_text(values)
    assert found.to_pylist() == texts
    assert found.type == pa.string()
    assert normalized_text.as_text(found).to_pylist() == texts  # once is enough, twice does no harm


@pytest.mark.parametrize(
    ("values", "number"),
    [
        (pa.array([1.0, 2.0**53]), "9007199254740992"),
        (pa.array([2.0**24], pa.float32()), "16777216"),
        (pa.array([1e300]), r"1.0000000000000001e\+300"),
    ],
)
def test_numbers_whose_last_digits_are_lost_are_refused(values: pa.Array, number: str) -> None:
    with pytest.raises(EcgpipeError, match=f"the column 'mrn' has numbers as large as {number} with a floating point"):
        normalized_text.as_text(values, "mrn")


@pytest.mark.parametrize("values", [pa.array([[1]]), pa.array([{"a": 1}])])
def test_what_is_no_single_value_is_refused(values: pa.Array) -> None:
    with pytest.raises(EcgpipeError, match=r"the column 'mrn' holds .* write one value in each row"):
        normalized_text.as_text(values, "mrn")


def test_none_may_be_a_category_but_is_no_patient() -> None:
    texts = pa.array(["None", "null", "Nobody", "12"])
    assert normalized_text.as_text(texts).to_pylist() == ["None", "null", "Nobody", "12"]
    assert normalized_text.as_ids(texts).to_pylist() == [None, None, "Nobody", "12"]


PATIENTS = [12, 7, None, 12, None, BIG - 2]


def written(folder: Path) -> dict[str, pa.Array]:
    """The same patients as several programs write them, read as ecgpipe reads a table."""
    frame = pd.DataFrame({"record_id": list("abcdef"), "p": pd.array(PATIENTS, "Int64")})
    frame.to_csv(folder / "integers.csv", index=False)
    frame.to_parquet(folder / "pandas.parquet")
    frame.astype({"p": float}).to_parquet(folder / "floats.parquet")
    frame.astype({"p": float}).to_csv(folder / "floats.csv", index=False)
    frame.astype({"p": str}).to_parquet(folder / "texts.parquet")
    frame.astype({"p": "category"}).to_parquet(folder / "categories.parquet")
    pq.write_table(
        pa.table({"p": pa.array([np.nan if p is None else float(p) for p in PATIENTS])}), folder / "n.parquet"
    )
    polars = pl.DataFrame({"p": [None if p is None else float(p) for p in PATIENTS]})
    polars.with_columns(pl.col("p").fill_null(float("nan"))).write_parquet(folder / "polars.parquet")
    polars.with_columns(pl.col("p").fill_null(float("nan"))).write_csv(folder / "polars.csv")
    paths = sorted([*folder.glob("*.csv"), *folder.glob("*.parquet")])
    assert len(paths) == 9
    return {path.name: input_tables.read_table(path)["p"].combine_chunks() for path in paths}


def test_all_that_asks_who_a_patient_is_gets_one_answer_for_every_kind_of_file(tmp_path: Path) -> None:
    for name, values in written(tmp_path).items():
        assert normalized_text.as_ids(values).to_pylist() == [None if p is None else str(p) for p in PATIENTS], name
        units = ground_truth.number_patients(values)
        assert units[0] == units[3], name
        assert len(set(units)) == 5, name  # two of nobody are two
        split = splits.by_patient(values, 0)
        assert (split[[2, 4]] == splits.NONE).all(), name
        assert (split[[0, 1, 3, 5]] != splits.NONE).all(), name
        np.testing.assert_array_equal(split, splits.by_patient(normalized_text.as_ids(values), 0))
        splits.refuse_shared(np.array([0, 1, 0, 0, 1, 2]), values)  # nobody is in two splits
        with pytest.raises(EcgpipeError, match="'12'"):
            splits.refuse_shared(np.array([0, 1, 0, 1, 1, 2]), values)
        some = np.unique(leakage._hash_values("patient", pa.array(["12", "7", str(BIG - 2)])))
        np.testing.assert_array_equal(np.unique(leakage._hash_values("patient", values)), some)


@given(st.lists(st.integers(-(2**53) + 1, 2**53 - 1), max_size=20))
def test_a_number_is_one_text_as_integer_as_float_and_as_text(numbers: list[int]) -> None:
    texts = [str(number) for number in numbers]
    for values in (
        pa.array(numbers, pa.int64()),
        pa.array(map(float, numbers), pa.float64()),
        pa.array(texts, pa.string()),
    ):
        assert normalized_text.as_text(values).to_pylist() == texts
