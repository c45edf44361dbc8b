"""How often labels are positive, alone and together: the counts of the whole table, part by part."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from ecgpipe.core import parquet, schemas
from ecgpipe.report.label_statistics import summarise


def test_quartiles_and_positives_by_threshold(tmp_path: Path) -> None:
    values = np.concatenate([np.random.default_rng(3).beta(0.5, 2, 997), [0.0, 0.5, 1.0]])
    for part, some in enumerate(np.split(values, 2)):
        columns = [[f"{part}/{i}" for i in range(500)], [1] * 500, some]
        parquet.write(tmp_path / f"part-{part}.parquet", pa.table(columns, schema=schemas.predictions_schema(["A"])))
    files = [tmp_path / "part-0.parquet", tmp_path / "part-1.parquet"]
    (summary,) = summarise(files, {"A": 0.5})
    assert summary.name == "A"
    assert summary.threshold == 0.5
    assert summary.positive == (values >= 0.5).sum()
    assert summary.mean == pytest.approx(values.mean())
    assert summary.spread == pytest.approx(values.std())
    exact = np.quantile(values, [0.25, 0.5, 0.75], method="inverted_cdf")
    np.testing.assert_allclose(summary.quartiles, exact, atol=0.0005 + 1e-9)
    assert sum(summary.histogram) == 1000
    for threshold, positive in ((0.0, 1000), (1.0, 1)):
        assert summarise(files, {"A": threshold})[0].positive == positive


def test_how_often_labels_occur_together_is_counted_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet, "BATCH_ROWS", 7)
    values = np.random.default_rng(4).random((3, 100))
    columns = [[str(i) for i in range(100)], [1] * 100, *values]
    names = ["C", "A", "B"]
    parquet.write(tmp_path / "part.parquet", pa.table(columns, schema=schemas.predictions_schema(names)))
    thresholds = {"A": 0.2, "B": 0.5, "C": 0.9}
    found = summarise([tmp_path / "part.parquet"], thresholds)
    assert [summary.name for summary in found] == names
    positive = {name: values[i] >= thresholds[name] for i, name in enumerate(names)}
    for summary in found:
        assert summary.together == [(positive[summary.name] & positive[other]).sum() for other in names]
        assert summary.positive == positive[summary.name].sum()


def test_a_model_without_a_head_has_no_labels(tmp_path: Path) -> None:
    parquet.write(tmp_path / "part.parquet", pa.table([["a"], [1]], schema=schemas.predictions_schema([])))
    assert summarise([tmp_path / "part.parquet"], {}) == []
