"""A two-dimensional map of the embeddings: fitted on a bounded sample, applied to the rest."""

import argparse
import contextlib
import logging
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ecgpipe.core import parquet, provenance, schemas, settings
from ecgpipe.core.logs import Progress

logger = logging.getLogger(__name__)

# Where "few segments" ends: below it 3 neighbours, as ECG-FM's tutorial takes for 14 segments; from it on 15.
FEW_SEGMENTS = 100

# With fewer there is nothing for UMAP to map.
LEAST_SEGMENTS = 5


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `python -m ecgpipe umap`."""
    parser.add_argument("--embeddings", type=Path, required=True, help="the folder embeddings/")
    parser.add_argument("--parts", type=int, help="how many parts the run has (default: all in the folder)")
    parser.add_argument("--output", type=Path, required=True, help="Parquet file to write")
    settings.add_arguments(parser, settings.Umap)


def run(args: argparse.Namespace) -> None:
    """Map all embeddings."""
    paths = parquet.numbered(args.embeddings, "part", args.parts)
    total = sum(pq.read_metadata(path).num_rows for path in paths)
    given = settings.of_arguments("umap", settings.Umap, args)
    facts = settings.marked("umap", given, provenance.inherited([pq.read_schema(path) for path in paths]))
    mapping = {
        "neighbors": given.neighbors or (15 if total >= FEW_SEGMENTS else 3),
        "min_dist": given.min_dist,
        "random_state": given.random_state,
        "fit_segments": given.fit_segments,
    }
    schema = provenance.with_origin(schemas.UMAP, "umap", umap=mapping, **facts)
    progress = Progress("umap", total, "segments")

    if total <= given.fit_segments:
        fitted = np.arange(total)
    else:
        # Sorted, so that the sample is taken in one pass over the files.
        fitted = np.sort(np.random.default_rng(given.random_state).choice(total, given.fit_segments, replace=False))
    logger.info("fitting %d of %d segments", len(fitted), total)
    sample = _rows(paths, fitted)
    if total < LEAST_SEGMENTS:
        coordinates, reducer = principal_components(sample), None
    else:
        coordinates, reducer = fit(sample, mapping, transforms=total > len(fitted))
    del sample
    progress.add(len(fitted))

    done = 0
    with parquet.parquet_writer(args.output, schema) as writer:
        for batch in parquet.batches(paths):
            rows = np.arange(done, done + len(batch))
            done += len(batch)
            positions = np.searchsorted(fitted, rows)
            known = np.isin(rows, fitted)
            places = np.empty((len(batch), 2), np.float32)
            places[known] = coordinates[positions[known]]
            if reducer is not None and not known.all():
                places[~known] = reducer.transform(_vectors(batch)[~known])
                progress.add(int((~known).sum()))
            columns = [batch["record_id"], batch["segment"], pa.array(places[:, 0]), pa.array(places[:, 1])]
            writer.write_batch(pa.record_batch(columns, schema=schema))
    progress.say()


def fit(sample: np.ndarray, mapping: Mapping[str, Any], transforms: bool) -> tuple[np.ndarray, Any]:
    """Fit UMAP, with the settings of ECG-FM's tutorial as defaults.

    Args:
        sample: (n, width) float32.
        mapping: `neighbors`, `min_dist`, `random_state`.
        transforms: Whether others are to be placed by what was fitted.

    Returns:
        (n, 2) float32, and the fitted UMAP.
    """
    import umap  # here, because it takes seconds
    from sklearn.neighbors import NearestNeighbors

    _keep_compiled()

    neighbors = min(mapping["neighbors"], len(sample) - 1)
    given: dict[str, Any] = {}
    if not transforms and len(sample) >= FEW_SEGMENTS:
        # Exact neighbours, found piece by piece. UMAP itself takes all distances at once below 4,096 points, and an
        # index from there on that it compiles for half a minute, and that only placing others needs.
        distances, indices = NearestNeighbors(n_neighbors=neighbors, algorithm="brute").fit(sample).kneighbors(sample)
        given["precomputed_knn"] = indices.astype(np.int32), distances.astype(np.float32)
        given["force_approximation_algorithm"] = True  # which here means: do not take all distances
    reducer = umap.UMAP(
        n_neighbors=neighbors,
        min_dist=mapping["min_dist"],
        random_state=mapping["random_state"],
        n_jobs=1,  # what a fixed random state needs; said here, umap does not warn of it
        **given,
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*transforming new data")
        coordinates: np.ndarray = reducer.fit_transform(sample)
    return coordinates, reducer


def _keep_compiled() -> None:
    """Have Numba keep what it compiles of UMAP, which takes 17 s, for later processes, as it keeps PyNNDescent's."""
    from umap.umap_ import compute_membership_strengths, smooth_knn_dist
    from umap.utils import fast_knn_indices

    for function in (fast_knn_indices, smooth_knn_dist, compute_membership_strengths):
        # No folder that can be written to, neither beside the package nor of the user: it is compiled each time.
        with contextlib.suppress(RuntimeError):
            function.enable_caching()


def principal_components(vectors: np.ndarray) -> np.ndarray:
    """Place a handful of points, too few for UMAP, by their first two principal components.

    Args:
        vectors: (n, width) float32.

    Returns:
        (n, 2) float32.
    """
    centred = vectors - vectors.mean(axis=0) if len(vectors) else vectors
    left, scale, _ = np.linalg.svd(centred, full_matrices=False)
    places = np.zeros((len(vectors), 2), np.float32)
    found = (left * scale)[:, :2]  # (n, 2), or fewer columns than 2 for a single point
    places[:, : found.shape[1]] = found
    return places


def _vectors(batch: pa.RecordBatch) -> np.ndarray:
    values: np.ndarray = batch["embedding"].flatten().to_numpy().reshape(batch.num_rows, -1)  # (n, width)
    return values


def _rows(paths: Sequence[Path], wanted: np.ndarray) -> np.ndarray:
    """The embeddings at the row numbers `wanted`, which are sorted, counted over all files: (wanted, width)."""
    width = pq.read_schema(paths[0]).field("embedding").type.list_size
    rows, done = np.empty((len(wanted), width), np.float32), 0
    for batch in parquet.batches(paths):
        first, last = np.searchsorted(wanted, [done, done + len(batch)])
        rows[first:last] = _vectors(batch)[wanted[first:last] - done]
        done += len(batch)
    return rows
