"""Fit the map on a bounded sample of the segments, and write what placing the others on it takes."""

import argparse
import json
import logging
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import safetensors.numpy
from safetensors import SafetensorError, safe_open

from ecgpipe.analysis.numba_cache import keep_compiled
from ecgpipe.core import options, parquet, provenance, settings
from ecgpipe.core.atomic import whole
from ecgpipe.core.errors import EcgpipeError

logger = logging.getLogger(__name__)

# Where "few segments" ends: below it 3 neighbours, as ECG-FM's tutorial takes for 14 segments; from it on 15.
FEW_SEGMENTS = 100

# UMAP cannot map fewer.
LEAST_SEGMENTS = 5

# Directions of the sample in which the nearest are looked for before their distances are computed: see docs/scale.md.
DIRECTIONS = 64


class Fit(NamedTuple):
    """A fitted map: its sample, and where it lies."""

    vectors: np.ndarray  # (sample, width) float32, the embeddings
    places: np.ndarray  # (sample, 2) float32
    part: np.ndarray  # (sample,) int64, the number of its part
    row: np.ndarray  # (sample,) int64, its row in that part
    segment: np.ndarray  # (sample,) int32
    record_ids: list[str]  # (sample,)
    mean: np.ndarray  # (width,) float32, of the sample
    directions: np.ndarray  # (width, directions) float32, those in which the sample varies most
    curve: np.ndarray  # (2,) float64, UMAP's a and b, of its curve of similarity over distance
    total: int  # segments of all parts
    mapping: dict[str, Any]  # how it was fitted, which the map's metadata states


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `ecgpipe umap_fit`."""
    options.add(parser, "embeddings", required=True)
    options.add(parser, "parts")
    options.add(parser, "output", required=True, help="places/fit.safetensors to write")
    settings.add_arguments(parser, settings.Umap)


def run(args: argparse.Namespace) -> None:
    """Fit the map and write the fit."""
    umap_settings = settings.parse_arguments("umap", settings.Umap, args)
    paths = parquet.numbered(args.embeddings, "part", args.parts)
    write_fit(args.output, fit_map(paths, umap_settings), collect_facts(paths, umap_settings))


def collect_facts(paths: Sequence[Path], umap_settings: settings.Umap) -> dict[str, Any]:
    """Collect what the metadata of the map say of what it is made of.

    Args:
        paths: `embeddings/part-*.parquet`.
        umap_settings: How they are mapped.
    """
    facts = provenance.inherit_facts([pq.read_schema(path) for path in paths])
    return settings.add_sha256("umap", umap_settings, facts)


def fit_map(paths: Sequence[Path], umap_settings: settings.Umap) -> Fit:
    """Fit the map on a sample of the segments of all parts, or on all where they are few.

    Args:
        paths: All `embeddings/part-*.parquet`, in order.
        umap_settings: How they are mapped.

    Returns:
        The fit.
    """
    rows_of_part = [pq.read_metadata(path).num_rows for path in paths]
    total = sum(rows_of_part)
    mapping = {
        "neighbors": umap_settings.neighbors or (15 if total >= FEW_SEGMENTS else 3),
        "min_dist": umap_settings.min_dist,
        "random_state": umap_settings.random_state,
        "fit_segments": umap_settings.fit_segments,
    }
    fitted = _choose_rows(total, umap_settings)
    logger.info("fitting %d of %d segments", len(fitted), total)
    table = _read_rows(paths, fitted)
    vectors = stack_vectors(table)
    if total < LEAST_SEGMENTS:
        places, curve = project(vectors), np.zeros(2)
    else:
        places, curve = fit(vectors, mapping)
    starts = np.cumsum([0, *rows_of_part])
    part = np.searchsorted(starts, fitted, side="right") - 1
    mean, directions = find_directions(vectors if total > len(fitted) else vectors[:0])  # else none is placed by them
    return Fit(
        vectors=vectors,
        places=places,
        part=part,
        row=fitted - starts[part],
        segment=table["segment"].to_numpy(),
        record_ids=table["record_id"].to_pylist(),
        mean=mean,
        directions=directions,
        curve=curve,
        total=total,
        mapping=mapping,
    )


def _choose_rows(total: int, umap_settings: settings.Umap) -> np.ndarray:
    """The rows that UMAP is fitted on, sorted, so that they are read in one pass over the files."""
    wanted = umap_settings.fit_segments
    if total <= wanted:
        return np.arange(total)
    return np.sort(np.random.default_rng(umap_settings.random_state).choice(total, wanted, replace=False))


def fit(sample: np.ndarray, mapping: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """Fit UMAP, with the settings of ECG-FM's tutorial as defaults.

    Args:
        sample: (n, width) float32.
        mapping: `neighbors`, `min_dist`, `random_state`.

    Returns:
        (n, 2) float32, and UMAP's a and b as (2,).
    """
    import umap  # here, because it takes seconds
    from sklearn.neighbors import NearestNeighbors

    _keep_compiled()

    neighbors = min(mapping["neighbors"], len(sample) - 1)
    knn_options: dict[str, Any] = {}
    if len(sample) >= FEW_SEGMENTS:
        # Exact neighbours, found piece by piece. UMAP itself takes all distances at once below 4,096 points, and an
        # index from there on that it compiles for half a minute, and that only its own placing of others needs.
        distances, indices = NearestNeighbors(n_neighbors=neighbors, algorithm="brute").fit(sample).kneighbors(sample)
        knn_options["precomputed_knn"] = indices.astype(np.int32), distances.astype(np.float32)
        knn_options["force_approximation_algorithm"] = True  # which here means: do not take all distances
    reducer = umap.UMAP(
        n_neighbors=neighbors,
        min_dist=mapping["min_dist"],
        random_state=mapping["random_state"],
        n_jobs=1,  # a fixed random state needs it; given here, umap does not warn of it
        **knn_options,
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*transforming new data")
        coordinates: np.ndarray = reducer.fit_transform(sample)
    return coordinates, np.array([reducer._a, reducer._b], np.float64)


def _keep_compiled() -> None:
    """Have Numba keep what it compiles of UMAP, which takes 17 s, for later processes."""
    from umap import layouts
    from umap.umap_ import compute_membership_strengths, smooth_knn_dist
    from umap.utils import fast_knn_indices

    of_layout = layouts._get_optimize_layout_euclidean_single_epoch_fn(parallel=False)
    keep_compiled([fast_knn_indices, smooth_knn_dist, compute_membership_strengths, of_layout])


def project(vectors: np.ndarray) -> np.ndarray:
    """Place a handful of points, too few for UMAP, by their first two principal components.

    Args:
        vectors: (n, width) float32.

    Returns:
        (n, 2) float32.
    """
    centred = vectors - vectors.mean(axis=0) if len(vectors) else vectors
    left, scale, _ = np.linalg.svd(centred, full_matrices=False)
    places = np.zeros((len(vectors), 2), np.float32)
    components = (left * scale)[:, :2]  # (n, 2), or fewer columns than 2 for a single point
    places[:, : components.shape[1]] = components
    return places


def write_fit(path: Path, fitted: Fit, facts: Mapping[str, Any]) -> None:
    """Write a fit as one safetensors file, which holds no code.

    Args:
        path: The file.
        fitted: The fit.
        facts: By `collect_facts`.
    """
    tensors = {
        name: np.ascontiguousarray(value) for name, value in fitted._asdict().items() if isinstance(value, np.ndarray)
    }
    tensors["record_ids"] = np.frombuffer(json.dumps(fitted.record_ids).encode(), np.uint8)
    schema = provenance.add_origin(pa.schema([]), "umap", umap=fitted.mapping, total=fitted.total, **facts)
    with whole(path) as temporary:
        safetensors.numpy.save_file(tensors, temporary, {"ecgpipe": schema.metadata[b"ecgpipe"].decode()})


def read_fit(path: Path) -> Fit:
    """Read a fit.

    Args:
        path: The file that `write_fit` wrote.

    Raises:
        EcgpipeError: It is not there, or no fit.
    """
    try:
        with safe_open(path, "numpy") as file:
            origin = json.loads(file.metadata()["ecgpipe"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, no dict
        ids = json.loads(tensors.pop("record_ids").tobytes())
        return Fit(**tensors, record_ids=ids, total=origin["total"], mapping=origin["umap"])
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise EcgpipeError(f"--fit: cannot read {path} as a fitted map: {error}; give what umap_fit wrote") from error


def find_directions(vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Find the directions in which vectors vary most: their principal components.

    Args:
        vectors: (n, width) float32.

    Returns:
        Their mean, (width,) float32, and the directions as columns, (width, up to `DIRECTIONS`) float32.
    """
    if not len(vectors):
        return np.zeros(vectors.shape[1], np.float32), np.zeros((vectors.shape[1], 0), np.float32)
    mean = vectors.mean(axis=0, dtype=np.float64).astype(np.float32)
    centred = vectors - mean
    _, axes = np.linalg.eigh((centred.T @ centred).astype(np.float64))  # the largest last
    return mean, np.ascontiguousarray(axes[:, ::-1][:, :DIRECTIONS], np.float32)


def stack_vectors(rows: pa.Table | pa.RecordBatch) -> np.ndarray:
    """The embeddings of some rows of `embeddings/`: (rows, width) float32."""
    column = rows["embedding"]
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
    values: np.ndarray = column.flatten().to_numpy().reshape(len(rows), column.type.list_size)
    return values


def _read_rows(paths: Sequence[Path], wanted: np.ndarray) -> pa.Table:
    """The segments at the row numbers `wanted`, which are sorted, counted over all files."""
    pieces, done = [], 0
    for batch in parquet.batches(paths):
        first, last = np.searchsorted(wanted, [done, done + len(batch)])
        if first < last:
            pieces.append(batch.take(pa.array(wanted[first:last] - done)))
        done += len(batch)
    return pa.Table.from_batches(pieces, pq.read_schema(paths[0]).remove_metadata())
