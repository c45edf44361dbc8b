"""Places on a fitted map: of a segment's neighbours alone, whatever part or batch it is in."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ecgpipe.analysis import umap_fit, umap_place
from ecgpipe.cli import main
from ecgpipe.core import parquet, provenance, schemas, settings

FACTS: dict[str, Any] = {"checkpoint": "x.pt", "checkpoint_sha256": "0" * 64, "preprocess": {"sample_rate": 500}}
CURVE = np.array([1.577, 0.895])  # UMAP's a and b for min_dist = 0.1


def bent(count: int, width: int, seed: int = 0) -> np.ndarray:
    """(count, width) float32 that vary in eight directions, bent, with a little noise around."""
    turned = np.random.default_rng(5)
    bend, spread = turned.standard_normal((8, 64)) / 3, turned.standard_normal((64, width)) / 8
    random = np.random.default_rng(seed)
    values = np.tanh(random.standard_normal((count, 8)) @ bend) @ spread + 0.02 * random.standard_normal((count, width))
    made: np.ndarray = values.astype(np.float32)
    return made


def fitted(vectors: np.ndarray, places: np.ndarray, neighbors: int = 15, total: int = 0) -> umap_fit.Fit:
    """A map of which each vector of the sample is the first segment of a recording of its own, all in part 0."""
    rows = np.arange(len(vectors))
    mean, directions = umap_fit.find_directions(vectors)
    return umap_fit.Fit(
        vectors=vectors,
        places=places.astype(np.float32),
        part=np.zeros(len(vectors), np.int64),
        row=rows,
        segment=np.zeros(len(vectors), np.int32),
        record_ids=[f"r{row}" for row in rows],
        mean=mean,
        directions=directions,
        curve=CURVE,
        total=total or len(vectors),
        mapping={"neighbors": neighbors, "min_dist": 0.1, "random_state": 42, "fit_segments": len(vectors)},
    )


@pytest.fixture(scope="module")
def placer() -> umap_place.Placer:
    """A map of a thousand segments, as wide as ECG-FM's; where it puts them is random."""
    return umap_place.prepare(fitted(bent(1000, 768), np.random.default_rng(1).uniform(-9, 9, (1000, 2))))


def nearest(vectors: np.ndarray, sample: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """By all distances, in double precision."""
    distances = np.array([np.linalg.norm(sample.astype(np.float64) - vector, axis=1) for vector in vectors])
    order = np.argsort(distances, axis=1, kind="stable")[:, :count]
    return order, np.take_along_axis(distances, order, axis=1)


# Neighbours


@pytest.mark.parametrize(
    ("sample", "width", "neighbors"),
    [(1000, 768, 15), (500, 768, 60), (777, 30, 15), (40, 100, 15), (20, 3, 30), (5, 8, 3)],
)
def test_neighbours_are_those_of_a_search_through_all_of_the_sample(sample: int, width: int, neighbors: int) -> None:
    vectors, others = bent(sample, width), bent(200, width, seed=1)
    placer = umap_place.prepare(fitted(vectors, np.zeros((sample, 2)), neighbors))
    found, distances = umap_place.find_neighbors(placer, others)
    expected, exact = nearest(others, vectors, min(neighbors, sample - 1))
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_allclose(distances, exact, rtol=1e-5)


def test_of_what_varies_in_all_directions_nearly_all_neighbours_are_found() -> None:
    random = np.random.default_rng(0)
    scale = 1 / np.sqrt(1 + np.arange(768))
    vectors, others = ((random.standard_normal((count, 768)) * scale).astype(np.float32) for count in (1000, 200))
    found, _ = umap_place.find_neighbors(umap_place.prepare(fitted(vectors, np.zeros((1000, 2)))), others)
    expected, _ = nearest(others, vectors, 15)
    recall = np.mean([len(set(a) & set(b)) / 15 for a, b in zip(found, expected, strict=True)])
    assert recall > 0.9


# Places


@pytest.mark.slow  # compiles
@pytest.mark.parametrize("neighbors", [2, 3, 15])
def test_before_any_step_a_place_is_the_one_that_umaps_transform_begins_with(
    neighbors: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    import scipy.sparse
    from umap import umap_

    vectors, others = bent(300, 24), bent(50, 24, seed=1)
    others[0] = vectors[7]
    places = np.random.default_rng(1).uniform(-9, 9, (300, 2)).astype(np.float32)
    indices, distances = nearest(others, vectors, neighbors)
    distances = distances.astype(np.float32)
    scales, nearest_distances = umap_.smooth_knn_dist(distances, float(neighbors), local_connectivity=0.0)
    rows, columns, values, _ = umap_.compute_membership_strengths(
        indices.astype(np.int32), distances, scales, nearest_distances, bipartite=True
    )
    np.testing.assert_allclose(umap_place.weigh(distances.astype(np.float64)).ravel(), values, rtol=1e-3)
    graph = scipy.sparse.coo_matrix((values, (rows, columns)), shape=(50, 300)).tocsr()
    expected = umap_.init_graph_transform(graph, places)
    monkeypatch.setattr(umap_place, "STEPS", 0)
    found = umap_place.place(umap_place.prepare(fitted(vectors, places, neighbors)), others)
    np.testing.assert_allclose(found, expected, atol=2e-3)
    np.testing.assert_array_equal(found[0], places[7])


def test_a_place_does_not_depend_on_the_segments_beside_it(placer: umap_place.Placer) -> None:
    vectors = bent(1100, 768, seed=1)
    whole = umap_place.place(placer, vectors)
    assert len(np.unique(whole, axis=0)) == 1100
    for size in (300, 1023):
        pieces = [umap_place.place(placer, vectors[start : start + size]) for start in range(0, 1100, size)]
        np.testing.assert_array_equal(np.concatenate(pieces), whole)
    for number in (130, 1099):
        np.testing.assert_array_equal(umap_place.place(placer, vectors[[number]]), whole[[number]])
    order = np.random.default_rng(2).permutation(1100)
    np.testing.assert_array_equal(umap_place.place(placer, vectors[order]), whole[order])


def test_what_the_sample_has_lies_where_the_sample_has_it(placer: umap_place.Placer) -> None:
    np.testing.assert_array_equal(
        umap_place.place(placer, placer.fitted.vectors[300:700]), placer.fitted.places[300:700]
    )


def test_a_segment_between_two_clusters_goes_to_the_one_with_more_of_its_neighbours() -> None:
    around = np.zeros((1, 15, 2))
    around[0, 9:] = [8.0, 0.0]  # 6 of 15
    [place] = umap_place.place_between(around, np.ones((1, 15)), CURVE)
    assert 0 <= place[0] < 1  # their mean is 3.2
    assert place[1] == 0
    # UMAP's forces, by the formula of its paper, are nearly in balance there: those of the nine and of the six.
    a, b = CURVE
    apart = np.abs(around[0, :, 0] - place[0])
    forces = 2 * a * b * apart ** (2 * b - 1) / (1 + a * apart ** (2 * b))
    assert forces[:9].sum() == pytest.approx(forces[9:].sum(), rel=0.05)


def test_places_are_finite_where_all_are_the_same_or_far_away() -> None:
    same = umap_place.prepare(fitted(np.ones((20, 8), np.float32), np.zeros((20, 2))))
    for vectors in (np.ones((3, 8), np.float32), np.full((3, 8), 1e6, np.float32), np.full((3, 8), 1.001, np.float32)):
        assert np.isfinite(umap_place.place(same, vectors)).all()


# Files and commands


def write(folder: Path, values: np.ndarray, *cuts: int) -> list[Path]:
    """Write embeddings, cut into parts before the rows `cuts`."""
    paths = []
    for part, rows in enumerate(np.split(np.arange(len(values)), list(cuts))):
        schema = provenance.add_origin(
            schemas.embeddings_schema(values.shape[1]), "infer", **FACTS, inputs_sha256=f"{part}" * 64
        )
        columns = [
            pa.array([f"r{row // 2}" for row in rows], pa.string()),
            pa.array([row % 2 for row in rows], pa.int32()),
            pa.FixedSizeListArray.from_arrays(pa.array(values[rows].ravel(), pa.float32()), values.shape[1]),
        ]
        paths.append(folder / "embeddings" / f"part-{part:05d}.parquet")
        parquet.write(paths[-1], pa.table(columns, schema=schema))
    return paths


def place_by_part(folder: Path, paths: list[Path], *options: str) -> Path:
    """Fit, place each part and join, as the workflow does; the map."""
    fit, output = folder / "places" / "fit.safetensors", folder / "umap.parquet"
    embeddings = str(paths[0].parent)
    assert main(["umap_fit", "--embeddings", embeddings, "--output", str(fit), *options]) == 0
    for path in paths:
        given = ["--fit", str(fit), "--embeddings", str(path), "--output", str(folder / "places" / path.name)]
        assert main(["umap_place", *given, *options]) == 0
    given = ["--embeddings", embeddings, "--places", str(folder / "places"), "--output", str(output)]
    assert main(["umap", *given, *options]) == 0
    return output


@pytest.mark.slow  # fits
@pytest.mark.parametrize("sample", ["40", "1000"])  # of 150 segments, and all of them
def test_one_job_and_a_job_for_each_part_write_the_same_map(sample: str, tmp_path: Path) -> None:
    values, maps = bent(150, 16), []
    for name, cuts in (("one", []), ("some", [20, 20, 141])):
        paths = write(tmp_path / name, values, *cuts)
        written = place_by_part(tmp_path / name, paths, "--fit-segments", sample)
        together = tmp_path / name / "together.parquet"
        given = ["--embeddings", str(paths[0].parent), "--output", str(together), "--fit-segments", sample]
        assert main(["umap", *given]) == 0
        assert written.read_bytes() == together.read_bytes()
        maps.append(pq.read_table(written))
    assert maps[0].equals(maps[1])
    placed = provenance.read_origin(maps[0].schema)["umap"].get("placed")
    assert placed == (110 if sample == "40" else None)


@pytest.fixture
def fit(tmp_path: Path) -> Path:
    """A fit on the first segments of the four recordings of part 0."""
    path, values = tmp_path / "fit.safetensors", bent(8, 16)
    made = fitted(values[::2], np.zeros((4, 2)), 3, total=8)._replace(row=np.arange(0, 8, 2))
    umap_fit.write_fit(path, made, settings.add_sha256("umap", settings.Umap(), FACTS))
    return path


def test_a_fit_is_read_as_it_was_written(fit: Path) -> None:
    found = umap_fit.read_fit(fit)
    assert (found.record_ids, found.total, found.mapping["neighbors"]) == (["r0", "r1", "r2", "r3"], 8, 3)
    np.testing.assert_array_equal(found.vectors, bent(8, 16)[::2])
    np.testing.assert_array_equal(found.row, [0, 2, 4, 6])
    np.testing.assert_array_equal(found.curve, CURVE)


def refused(fit: Path, embeddings: Path, capsys: pytest.CaptureFixture[str]) -> str:
    given = ["--fit", str(fit), "--embeddings", str(embeddings), "--output", str(embeddings.with_name("x.parquet"))]
    assert main(["umap_place", *given]) == 2
    assert not embeddings.with_name("x.parquet").exists()
    return capsys.readouterr().err


def test_other_segments_than_those_of_the_fit_are_refused(
    fit: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    values = bent(8, 16)
    [fine] = write(tmp_path / "fine", values)
    given = ["--fit", str(fit), "--embeddings", str(fine), "--output", str(tmp_path / "part-00000.parquet")]
    assert main(["umap_place", *given]) == 0
    [fewer] = write(tmp_path / "fewer", values[:5])
    assert "fewer segments than the map was fitted on" in refused(fit, fewer, capsys)
    [narrow] = write(tmp_path / "narrow", values[:, :8])
    assert "embeddings of width 8, the map was fitted on 16" in refused(fit, narrow, capsys)
    table = pq.read_table(fine)
    ids = pa.array(["r0", "r0", "other", "other", "r2", "r2", "r3", "r3"])
    pq.write_table(table.set_column(0, "record_id", ids), fine)
    assert "segment 0 of other where the map was fitted on segment 0 of r1" in refused(fit, fine, capsys)


def test_files_that_are_none_of_these_are_refused(
    fit: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    [part] = write(tmp_path, bent(8, 16))
    assert "as a fitted map" in refused(part, part, capsys)
    assert "has no number" in refused(fit, part.rename(part.with_name("mine.parquet")), capsys)


def test_places_on_two_maps_are_not_joined(fit: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    [part] = write(tmp_path, bent(8, 16))
    places = tmp_path / "places"
    given = ["--fit", str(fit), "--embeddings", str(part), "--output", str(places / "part-00000.parquet")]
    assert main(["umap_place", *given]) == 0
    other = pq.read_schema(places / "part-00000.parquet")
    origin = provenance.read_origin(other)
    schema = provenance.add_origin(other, "umap", umap={**origin["umap"], "placed": 5})
    parquet.write(places / "part-00001.parquet", schema.empty_table())
    given = ["--embeddings", str(part.parent), "--places", str(places), "--output", str(tmp_path / "umap.parquet")]
    assert main(["umap", *given]) == 2
    assert "places on another map" in capsys.readouterr().err
