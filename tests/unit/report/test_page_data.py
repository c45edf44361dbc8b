"""Data in a page: what comes out is what went in, and no text of it is markup."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from report_page import unpacked

from ecgpipe.report.page_data import DTYPES, pack

texts = st.text(st.characters(codec="utf-8"))
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner) | st.dictionaries(texts.filter(lambda key: not key.startswith("$")), inner),
)


@given(values)
def test_what_json_can_hold_comes_back(value: object) -> None:
    assert unpacked(pack(value)) == value


@given(st.data(), st.sampled_from(DTYPES))
def test_arrays_come_back_bit_by_bit_whatever_stands_before_them(data: st.DataObject, dtype: str) -> None:
    shapes = arrays.array_shapes(max_dims=1, min_side=0)
    some = data.draw(st.lists(arrays.arrays(np.dtype(dtype), shapes), max_size=3))
    found = unpacked(pack({"texts": data.draw(texts), "arrays": some}))["arrays"]
    assert [array.tobytes() for array in found] == [array.tobytes() for array in some]
    assert all(array.dtype == dtype for array in found)


def test_every_array_begins_where_its_type_may_begin() -> None:
    some = [np.arange(3, dtype=dtype) for dtype in DTYPES]
    block = pack(some)
    assert [array.tolist() for array in unpacked(block)] == [[0, 1, 2]] * len(DTYPES)
    # A typed array in JavaScript must begin at a multiple of its element's size.
    for array in unpacked(block):
        assert array.__array_interface__["data"][0] % array.itemsize == 0


def test_nothing_of_a_text_can_end_the_element_that_it_stands_in() -> None:
    block = pack({"<script>alert(1)</script>": "<!-- ' \" & -->"})
    assert not set("<>&'\"") & set(block)


def test_the_same_value_gives_the_same_block() -> None:
    value = {"a": np.arange(1000.0), "b": ["x"] * 100}
    assert pack(value) == pack(value)


@pytest.mark.parametrize("value", [np.array(["text"]), np.array([1.5], np.float16), {1, 2}, float("nan")])
def test_what_javascript_cannot_hold_is_refused(value: object) -> None:
    with pytest.raises((TypeError, ValueError)):
        pack({"a": value})
