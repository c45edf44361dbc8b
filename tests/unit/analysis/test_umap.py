"""The map: a place for every segment, however many there are, in their order and the same for the same seed."""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ecgpipe.analysis import umap_fit
from ecgpipe.cli import main
from ecgpipe.core import parquet, provenance, schemas

WIDTH = 8
FACTS: dict[str, Any] = {"checkpoint": "x.pt", "checkpoint_sha256": "0" * 64, "preprocess": {"sample_rate": 500}}


def vectors(count: int, clusters: int = 3) -> np.ndarray:
    """(count, width) float32, around a few centres far from one another."""
    random = np.random.default_rng(0)
    centres = 20 * random.standard_normal((clusters, WIDTH))
    made: np.ndarray = (centres[np.arange(count) % clusters] + random.standard_normal((count, WIDTH))).astype(
        np.float32
    )
    return made


def write(folder: Path, values: np.ndarray, cuts: Sequence[int] = ()) -> Path:
    """Write embeddings, cut into parts before the rows `cuts`, and return their folder."""
    schema = provenance.add_origin(schemas.embeddings_schema(values.shape[1]), "infer", **FACTS)
    for part, rows in enumerate(np.split(np.arange(len(values)), list(cuts))):
        flat = pa.array(values[rows].ravel(), pa.float32())
        columns = [
            pa.array([f"r{row // 2}" for row in rows], pa.string()),
            pa.array([row % 2 for row in rows], pa.int32()),
            pa.FixedSizeListArray.from_arrays(flat, values.shape[1]),
        ]
        parquet.write(folder / "embeddings" / f"part-{part:05d}.parquet", pa.table(columns, schema=schema))
    return folder / "embeddings"


def mapped(folder: Path, embeddings: Path, *options: str) -> np.ndarray:
    """Run the stage, and return the places: (segments, 2)."""
    output = folder / "umap.parquet"
    assert main(["umap", "--embeddings", str(embeddings), "--output", str(output), *options]) == 0
    table = pq.read_table(output)
    assert table.schema.remove_metadata() == schemas.UMAP
    rows = range(len(table))
    assert table["record_id"].to_pylist() == [f"r{row // 2}" for row in rows]
    assert table["segment"].to_pylist() == [row % 2 for row in rows]
    return np.stack([table["x"].to_numpy(), table["y"].to_numpy()], axis=1)


# Too few for UMAP


@pytest.mark.parametrize("count", [0, 1, 2, 3, 4])
@pytest.mark.parametrize("cuts", [[], [0], [1, 1]])
def test_a_handful_of_segments_has_places_too(count: int, cuts: list[int], tmp_path: Path) -> None:
    places = mapped(tmp_path, write(tmp_path, vectors(count), cuts))
    assert places.shape == (count, 2)
    assert np.isfinite(places).all()


def test_three_segments_are_as_far_from_one_another_as_their_embeddings(tmp_path: Path) -> None:
    values = vectors(3)
    places = mapped(tmp_path, write(tmp_path, values))
    for one, other in ((0, 1), (0, 2), (1, 2)):
        distance = np.linalg.norm(values[one] - values[other])
        assert np.linalg.norm(places[one] - places[other]) == pytest.approx(distance, rel=1e-5)


@pytest.mark.parametrize("count", [0, 1, 2, 4, 20])
@pytest.mark.parametrize("width", [1, 2, 8])
def test_principal_components_of_any_shape_are_finite(count: int, width: int) -> None:
    for values in (np.zeros((count, width), np.float32), np.random.default_rng(0).random((count, width), np.float32)):
        places = umap_fit.project(values)
        assert places.shape == (count, 2)
        assert np.isfinite(places).all()


def test_umap_is_not_loaded_where_it_is_not_needed(tmp_path: Path) -> None:
    embeddings = str(write(tmp_path, vectors(4)))
    code = (
        "import sys; from ecgpipe.cli import main; "
        f"main(['umap', '--embeddings', {embeddings!r}, '--output', {str(tmp_path / 'u.parquet')!r}]); "
        "sys.exit('numba' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# UMAP, which compiles for ten seconds and more


@pytest.mark.slow
@pytest.mark.parametrize("count", [5, 6, 7, 99, 100, 150])
def test_every_segment_has_a_finite_place(count: int, tmp_path: Path) -> None:
    places = mapped(tmp_path, write(tmp_path, vectors(count), [count // 3]))
    assert places.shape == (count, 2)
    assert np.isfinite(places).all()
    assert len(np.unique(places, axis=0)) == count


@pytest.mark.slow
def test_what_is_compiled_is_kept_for_the_next_process_and_gives_the_same_map(tmp_path: Path) -> None:
    embeddings = str(write(tmp_path, vectors(20)))
    code = (
        "import sys; from ecgpipe.cli import main; status = main(sys.argv[1:]); import umap.umap_ as umap; "
        "print(sum(umap.smooth_knn_dist.stats.cache_hits.values())); sys.exit(status)"
    )
    hits, maps = [], []
    for name in ("first.parquet", "second.parquet"):
        command = [sys.executable, "-c", code, "umap", "--embeddings", embeddings, "--output", str(tmp_path / name)]
        hits.append(int(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
        maps.append((tmp_path / name).read_bytes())
    assert hits[1] == 1  # the first may find what an earlier process left
    assert maps[0] == maps[1]


@pytest.mark.slow
def test_where_nothing_can_be_kept_there_is_a_map_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from umap.umap_ import smooth_knn_dist

    def refuse(_: object) -> None:
        raise RuntimeError("cannot cache function 'smooth_knn_dist': no locator available")

    monkeypatch.setattr(type(smooth_knn_dist), "enable_caching", refuse)
    assert np.isfinite(mapped(tmp_path, write(tmp_path, vectors(20)))).all()


@pytest.mark.slow
def test_the_seed_decides_and_the_cut_into_parts_does_not(tmp_path: Path) -> None:
    values = vectors(150)
    first = mapped(tmp_path, write(tmp_path, values))
    cut = write(tmp_path / "cut", values, [0, 20, 140, 150])
    np.testing.assert_array_equal(mapped(tmp_path, cut), first)
    other = mapped(tmp_path, write(tmp_path, values), "--random-state", "7")
    assert np.abs(other - first).max() > 0.1


@pytest.mark.slow
def test_clusters_of_embeddings_are_clusters_on_the_map(tmp_path: Path) -> None:
    places = mapped(tmp_path, write(tmp_path, vectors(150)), "--fit-segments", "90")
    clusters = np.arange(150) % 3
    centres = np.stack([places[clusters == cluster].mean(axis=0) for cluster in range(3)])
    nearest = np.linalg.norm(places[:, None] - centres, axis=2).argmin(axis=1)
    np.testing.assert_array_equal(nearest, clusters)


@pytest.mark.slow
@pytest.mark.parametrize(("count", "fit"), [(60, 5), (60, 59), (150, 100)])
def test_more_segments_than_are_fitted_have_places_too(count: int, fit: int, tmp_path: Path) -> None:
    values = vectors(count)
    options = ["--fit-segments", str(fit)]
    places = mapped(tmp_path, write(tmp_path, values, [7, 7, 40]), *options)
    assert places.shape == (count, 2)
    assert np.isfinite(places).all()
    np.testing.assert_array_equal(mapped(tmp_path, write(tmp_path, values, [7, 7, 40]), *options), places)


@pytest.mark.slow
def test_the_batches_in_which_files_are_read_do_not_mix_up_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = vectors(150)
    whole = mapped(tmp_path, write(tmp_path, values))
    monkeypatch.setattr(parquet, "BATCH_ROWS", 7)
    np.testing.assert_array_equal(mapped(tmp_path, write(tmp_path, values, [50])), whole)
    some = mapped(tmp_path, write(tmp_path, values, [50]), "--fit-segments", "120")
    assert np.isfinite(some).all()


@pytest.mark.slow
def test_segments_that_are_all_the_same_have_finite_places(tmp_path: Path) -> None:
    assert np.isfinite(mapped(tmp_path, write(tmp_path, np.ones((20, WIDTH), np.float32)))).all()


@pytest.mark.slow
def test_more_neighbours_than_segments_are_as_many_as_there_are(tmp_path: Path) -> None:
    assert np.isfinite(mapped(tmp_path, write(tmp_path, vectors(20)), "--neighbors", "50")).all()


# What the file says


@pytest.mark.parametrize(
    ("count", "options", "neighbors"),
    [
        (4, [], 3),
        (4, ["--neighbors", "8"], 8),
        pytest.param(99, [], 3, marks=pytest.mark.slow),
        pytest.param(100, [], 15, marks=pytest.mark.slow),
    ],
)
def test_the_file_states_what_it_was_made_of_and_how(
    count: int, options: list[str], neighbors: int, tmp_path: Path
) -> None:
    mapped(tmp_path, write(tmp_path, vectors(count)), *options)
    origin = provenance.read_origin(pq.read_schema(tmp_path / "umap.parquet"))
    assert {key: origin[key] for key in FACTS} == FACTS
    settings = {"neighbors": neighbors, "min_dist": 0.1, "random_state": 42, "fit_segments": 20_000}
    assert origin["umap"] == settings
