"""Aggregation: one row per recording, each label's mean or max over the probabilities of its segments."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit

from ecgpipe.cli import main
from ecgpipe.core import parquet, provenance, schemas
from ecgpipe.inference.aggregate import predict
from ecgpipe.models import labels
from ecgpipe.models.labels import Label

NAMES = ["Worst", "Usual, mostly", "Électrode"]
WANTED = [Label("Worst", "max", None), Label("Usual, mostly", "mean", 0.3), Label("Électrode", "max", None)]
CSV = 'name,aggregation\nWorst,max\n"Usual, mostly",mean\nÉlectrode,max\nNot in the model,mean\n'
FACTS: dict[str, Any] = {"checkpoint": "x.pt", "checkpoint_sha256": "0" * 64, "preprocess": {"sample_rate": 500}}


def logits(counts: Sequence[int], names: Sequence[str] = NAMES, scale: float = 3, seed: int = 0) -> pa.Table:
    """A part of as many recordings, with so many segments each; r10 stands before r9, as in a manifest."""
    rows = sorted((f"r{i}", number) for i, count in enumerate(counts) for number in range(count))
    random = np.random.default_rng(seed)
    columns = [
        pa.array([record_id for record_id, _ in rows], pa.string()),
        pa.array([number for _, number in rows], pa.int32()),
        pa.array([5.0 * number for _, number in rows], pa.float32()),
        *(pa.array((random.standard_normal(len(rows)) * scale).astype(np.float32)) for _ in names),
    ]
    return pa.table(columns, schema=provenance.add_origin(schemas.logits_schema(names), "infer", **FACTS))


def expected(table: pa.Table, wanted: Sequence[Label] = WANTED) -> pd.DataFrame:
    """The same by pandas."""
    frame = table.to_pandas()
    groups = frame.assign(**{label.name: expit(frame[label.name].astype(np.float64)) for label in wanted}).groupby(
        "record_id", sort=False
    )
    how = {label.name: groups[label.name].agg(label.aggregation) for label in wanted}
    return pd.DataFrame({"n_segments": groups.size().astype(np.int32), **how}).reset_index()


def command(folder: Path, table: pa.Table, csv: str = CSV) -> int:
    parquet.write(folder / "logits.parquet", table)
    (folder / "labels.csv").write_text(csv, encoding="utf-8")
    files = ["--labels", str(folder / "labels.csv"), "--predictions", str(folder / "predictions.parquet")]
    return main(["aggregate", "--logits", str(folder / "logits.parquet"), *files])


def test_each_label_is_aggregated_as_its_row_states_by_name(tmp_path: Path) -> None:
    table = logits([1, 2, 5, 3, 1, 1, 7, 2, 2, 1, 4])
    assert command(tmp_path, table) == 0
    made = pq.read_table(tmp_path / "predictions.parquet")
    assert made.column_names == ["record_id", "n_segments", *NAMES]
    assert made.schema.types == [pa.string(), pa.int32(), *[pa.float64()] * 3]
    pd.testing.assert_frame_equal(made.to_pandas(), expected(table), rtol=0, atol=1e-12)


def test_the_order_of_the_csv_does_not_matter(tmp_path: Path) -> None:
    table = logits([2, 3])
    head, *rows = CSV.splitlines()
    for folder, csv in (("one", CSV), ("other", "\n".join([head, *rows[::-1]]))):
        (tmp_path / folder).mkdir()
        assert command(tmp_path / folder, table, csv) == 0
    one, other = (pq.read_table(tmp_path / folder / "predictions.parquet") for folder in ("one", "other"))
    assert one.equals(other)


def test_the_golden_predictions(reference: Path, tmp_path: Path) -> None:
    golden = np.load(reference / "golden" / "base.npz")
    wanted = pd.read_csv(reference / "golden" / "predictions_base.csv", index_col="record")
    records = np.load(reference / "golden" / "segments.npz")["record"]
    columns = [
        pa.array(records),
        pa.array([0] * len(records), pa.int32()),
        pa.array([0.0] * len(records), pa.float32()),
    ]
    columns += [pa.array(column) for column in golden["logits"].T]
    shipped = Path(__file__).parents[3] / "config" / "labels" / "mimic_iv_ecg.csv"
    table = pa.table(columns, schema=schemas.logits_schema(list(wanted.columns)))
    assert command(tmp_path, table, shipped.read_text(encoding="utf-8")) == 0
    made = pq.read_table(tmp_path / "predictions.parquet").to_pandas().set_index("record_id")
    np.testing.assert_allclose(made.loc[wanted.index, wanted.columns], wanted, rtol=0, atol=1e-5)


@given(st.lists(st.integers(1, 6), max_size=30), st.sampled_from([0.1, 3, 100, 1e4]))
@settings(deadline=None, max_examples=40)
def test_any_part_is_aggregated_as_pandas_does(counts: list[int], scale: float) -> None:
    table = logits(counts, scale=scale)
    made = predict(table, WANTED).to_pandas()
    if counts:
        pd.testing.assert_frame_equal(made, expected(table), rtol=0, atol=1e-12)
        assert made[NAMES].to_numpy().min() >= 0
        assert made[NAMES].to_numpy().max() <= 1
    else:
        assert list(made.columns) == ["record_id", "n_segments", *NAMES]
        assert made.empty


def test_what_a_recording_gets_does_not_depend_on_its_neighbours() -> None:
    table = logits([2, 5, 1, 3])
    together = predict(table, WANTED).to_pylist()
    alone = [predict(table.filter(pa.compute.field("record_id") == f"r{i}"), WANTED).to_pylist()[0] for i in range(4)]
    assert alone == together


def test_a_part_without_any_segment_has_columns_and_no_rows(tmp_path: Path) -> None:
    assert command(tmp_path, logits([])) == 0
    made = pq.read_table(tmp_path / "predictions.parquet")
    assert made.column_names == ["record_id", "n_segments", *NAMES]
    assert len(made) == 0


def test_a_model_without_a_head_gives_the_recordings_and_needs_no_labels(tmp_path: Path) -> None:
    assert command(tmp_path, logits([2, 1], names=[]), csv="not a label set") == 0
    made = pq.read_table(tmp_path / "predictions.parquet")
    assert made.to_pydict() == {"record_id": ["r0", "r1"], "n_segments": [2, 1]}


def test_a_label_that_the_csv_lacks_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(tmp_path, logits([1]), csv="name,aggregation\nWorst,max\n") == 2
    said = capsys.readouterr().err
    assert f"error: labels: {tmp_path}/labels.csv has no row for Usual, mostly, Électrode, which" in said
    assert not (tmp_path / "predictions.parquet").exists()


def test_the_file_states_what_it_was_made_of_and_how(tmp_path: Path) -> None:
    assert command(tmp_path, logits([1])) == 0
    origin = provenance.read_origin(pq.read_schema(tmp_path / "predictions.parquet"))
    assert {key: origin[key] for key in FACTS} == FACTS
    assert origin["stage"] == "aggregate"
    assert origin["aggregation"] == {"Worst": "max", "Usual, mostly": "mean", "Électrode": "max"}


def test_the_labels_are_the_columns_that_are_no_keys() -> None:
    assert labels.label_columns(schemas.logits_schema(NAMES).names) == NAMES
    assert labels.label_columns(schemas.predictions_schema(NAMES).names) == NAMES
