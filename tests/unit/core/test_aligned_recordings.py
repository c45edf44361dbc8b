"""Recordings of several runs are matched by their ids, in whatever order each run has them."""

import numpy as np
import pyarrow as pa
import pytest

from ecgpipe.core import aligned_recordings
from ecgpipe.core.errors import EcgpipeError


def test_recordings_are_matched_by_id_and_not_by_place() -> None:
    found = aligned_recordings.align([pa.array(["b", "a", "c"]), pa.array(["c", "d", "b"])])
    assert found.ids.to_pylist() == ["b", "a", "c", "d"]
    assert found.rows.tolist() == [[0, 1, 2, -1], [2, -1, 0, 1]]
    assert found.is_in_all.tolist() == [True, False, True, False]
    assert found.missing == [1, 1]
    placed = found.place(1, np.array([0.3, 0.4, 0.2]))
    np.testing.assert_array_equal(placed, [0.2, np.nan, 0.3, 0.4])
    out = np.empty(4)
    assert found.place(1, np.array([0.3, 0.4, 0.2]), out) is out
    np.testing.assert_array_equal(out, placed)


def test_a_run_without_recordings_lacks_all() -> None:
    found = aligned_recordings.align([pa.array(["a"]), pa.array([], pa.string())])
    assert found.missing == [0, 1]
    assert np.isnan(found.place(1, np.array([]))).all()


def test_a_recording_that_is_twice_in_a_run_is_refused() -> None:
    with pytest.raises(EcgpipeError, match="'b' is there twice"):
        aligned_recordings.align([pa.array(["a"]), pa.array(["b", "a", "b"])])
