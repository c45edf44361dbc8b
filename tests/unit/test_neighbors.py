"""Neighbours by embedding: those of a search through all pairs, wherever files and batches are cut."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from ecgpipe import neighbors, tables


def write(folder: Path, segments: dict[str, np.ndarray], parts: int = 1) -> list[Path]:
    """Embeddings files with the segments of each recording."""
    paths = []
    ids = list(segments)
    for part, some in enumerate(np.array_split(np.arange(len(ids)), parts)):
        rows = [(ids[i], number, vector) for i in some for number, vector in enumerate(segments[ids[i]])]
        names, numbers, vectors = zip(*rows, strict=True)
        width = len(vectors[0])
        flat = pa.FixedSizeListArray.from_arrays(pa.array(np.concatenate(vectors), pa.float32()), width)
        columns = [pa.array(names), pa.array(numbers, pa.int32()), flat]
        paths.append(folder / f"part-{part:05d}.parquet")
        tables.write(paths[-1], pa.table(columns, schema=tables.embeddings_schema(width)))
    return paths


@pytest.fixture
def segments() -> dict[str, np.ndarray]:
    random = np.random.default_rng(5)
    return {f"r{i}": random.standard_normal((1 + i % 4, 6)).astype(np.float32) for i in range(40)}


@pytest.mark.parametrize("rows", [3, 7, 10_000])
def test_the_embedding_of_a_recording_is_the_mean_of_its_segments_wherever_a_batch_ends(
    segments: dict[str, np.ndarray], rows: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "BATCH_ROWS", rows)
    found = [
        (record_id, vector)
        for ids, vectors in neighbors.of_recordings(write(tmp_path, segments, parts=3))
        for record_id, vector in zip(ids.to_pylist(), vectors, strict=True)
    ]
    assert [record_id for record_id, _ in found] == list(segments)
    for record_id, vector in found:
        np.testing.assert_allclose(vector, segments[record_id].mean(axis=0), rtol=1e-5)


@pytest.mark.parametrize("rows", [3, 10_000])
def test_the_nearest_are_those_of_all_pairs_and_never_the_recording_itself(
    segments: dict[str, np.ndarray], rows: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "BATCH_ROWS", rows)
    vectors = np.stack([rows.mean(axis=0) for rows in segments.values()])
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    cosines = vectors @ vectors.T
    np.fill_diagonal(cosines, -np.inf)
    wanted = ["r7", "r0", "r39"]
    ids = list(segments)
    for record_id, found in zip(wanted, neighbors.nearest(write(tmp_path, segments, 2), wanted, 5), strict=True):
        row = cosines[ids.index(record_id)]
        best = np.argsort(-row)[:5]
        assert [neighbor.record_id for neighbor in found] == [ids[i] for i in best]
        np.testing.assert_allclose([neighbor.similarity for neighbor in found], row[best], rtol=1e-5)


def test_a_small_run_has_fewer_and_an_unknown_recording_none(tmp_path: Path) -> None:
    paths = write(tmp_path, {"a": np.eye(3)[:1], "b": np.eye(3)[1:2], "c": np.eye(3)[:2]})
    first, nobody = neighbors.nearest(paths, ["a", "nobody"], 5)
    assert [neighbor.record_id for neighbor in first] == ["c", "b"]
    assert first[0].similarity == pytest.approx(np.sqrt(0.5))
    assert nobody == []
    assert neighbors.nearest(paths, ["nobody"], 5) == [[]]


def test_embeddings_of_zeros_have_no_direction_and_are_like_nothing(tmp_path: Path) -> None:
    paths = write(tmp_path, {"a": np.zeros((1, 3)), "b": np.ones((1, 3))})
    [[found]] = neighbors.nearest(paths, ["a"], 5)
    assert found == ("b", 0.0)
