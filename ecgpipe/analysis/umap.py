"""Map the embeddings to two dimensions: fitted on a bounded sample, applied to the rest."""

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

from ecgpipe.core import options, parquet, provenance, schemas, settings
from ecgpipe.core.logs import Progress

logger = logging.getLogger(__name__)

# Where "few segments" ends: below it 3 neighbours, as ECG-FM's tutorial takes for 14 segments; from it on 15.
FEW_SEGMENTS = 100

# UMAP cannot map fewer.
LEAST_SEGMENTS = 5


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `ecgpipe umap`."""
    options.add(parser, "embeddings", required=True)
    options.add(parser, "parts")
    options.add(parser, "output", required=True, help="Parquet file to write")
    settings.add_arguments(parser, settings.Umap)


def run(args: argparse.Namespace) -> None:
    """Map all embeddings."""
    umap_settings = settings.parse_arguments("umap", settings.Umap, args)
    write_map(parquet.numbered(args.embeddings, "part", args.parts), umap_settings, args.output)


def write_map(paths: Sequence[Path], umap_settings: settings.Umap, output: Path) -> None:
    """Map all embeddings, and write their places.

    Args:
        paths: All `embeddings/part-*.parquet`, in order.
        umap_settings: How they are mapped.
        output: The Parquet file.
    """
    total = sum(pq.read_metadata(path).num_rows for path in paths)
    facts = settings.add_sha256(
        "umap", umap_settings, provenance.inherit_facts([pq.read_schema(path) for path in paths])
    )
    mapping = {
        "neighbors": umap_settings.neighbors or (15 if total >= FEW_SEGMENTS else 3),
        "min_dist": umap_settings.min_dist,
        "random_state": umap_settings.random_state,
        "fit_segments": umap_settings.fit_segments,
    }
    schema = provenance.add_origin(schemas.UMAP, "umap", umap=mapping, **facts)
    progress = Progress("umap", total, "segments")

    fitted = _choose_rows(total, umap_settings)
    logger.info("fitting %d of %d segments", len(fitted), total)
    sample = _read_rows(paths, fitted)
    if total < LEAST_SEGMENTS:
        coordinates, reducer = project(sample), None
    else:
        coordinates, reducer = fit(sample, mapping, transforms=total > len(fitted))
    del sample
    progress.add(len(fitted))

    done = 0
    with parquet.parquet_writer(output, schema) as writer:
        for batch in parquet.batches(paths):
            rows = np.arange(done, done + len(batch))
            done += len(batch)
            positions = np.searchsorted(fitted, rows)
            is_fitted = np.isin(rows, fitted)
            places = np.empty((len(batch), 2), np.float32)
            places[is_fitted] = coordinates[positions[is_fitted]]
            if reducer is not None and not is_fitted.all():
                places[~is_fitted] = reducer.transform(_read_vectors(batch)[~is_fitted])
                progress.add(int((~is_fitted).sum()))
            columns = [batch["record_id"], batch["segment"], pa.array(places[:, 0]), pa.array(places[:, 1])]
            writer.write_batch(pa.record_batch(columns, schema=schema))
    progress.say()


def _choose_rows(total: int, umap_settings: settings.Umap) -> np.ndarray:
    """The rows that UMAP is fitted on, sorted, so that they are read in one pass over the files."""
    wanted = umap_settings.fit_segments
    if total <= wanted:
        return np.arange(total)
    return np.sort(np.random.default_rng(umap_settings.random_state).choice(total, wanted, replace=False))


def fit(sample: np.ndarray, mapping: Mapping[str, Any], transforms: bool) -> tuple[np.ndarray, Any]:
    """Fit UMAP, with the settings of ECG-FM's tutorial as defaults.

    Args:
        sample: (n, width) float32.
        mapping: `neighbors`, `min_dist`, `random_state`.
        transforms: Whether further segments are to be placed by the fit.

    Returns:
        (n, 2) float32, and the fitted UMAP.
    """
    import umap  # here, because it takes seconds
    from sklearn.neighbors import NearestNeighbors

    _keep_compiled()

    neighbors = min(mapping["neighbors"], len(sample) - 1)
    knn_options: dict[str, Any] = {}
    if not transforms and len(sample) >= FEW_SEGMENTS:
        # Exact neighbours, found piece by piece. UMAP itself takes all distances at once below 4,096 points, and an
        # index from there on that it compiles for half a minute, and that only placing others needs.
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
    return coordinates, reducer


def _keep_compiled() -> None:
    """Have Numba keep what it compiles of UMAP, which takes 17 s, for later processes."""
    from umap import layouts
    from umap.umap_ import compute_membership_strengths, smooth_knn_dist
    from umap.utils import fast_knn_indices

    of_layout = layouts._get_optimize_layout_euclidean_single_epoch_fn(parallel=False)
    for function in (fast_knn_indices, smooth_knn_dist, compute_membership_strengths, of_layout):
        # No folder that can be written to, neither beside the package nor of the user: it is compiled each time.
        with contextlib.suppress(RuntimeError):
            function.enable_caching()


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


def _read_vectors(batch: pa.RecordBatch) -> np.ndarray:
    values: np.ndarray = batch["embedding"].flatten().to_numpy().reshape(batch.num_rows, -1)  # (n, width)
    return values


def _read_rows(paths: Sequence[Path], wanted: np.ndarray) -> np.ndarray:
    """The embeddings at the row numbers `wanted`, which are sorted, counted over all files: (wanted, width)."""
    width = pq.read_schema(paths[0]).field("embedding").type.list_size
    rows, done = np.empty((len(wanted), width), np.float32), 0
    for batch in parquet.batches(paths):
        first, last = np.searchsorted(wanted, [done, done + len(batch)])
        rows[first:last] = _read_vectors(batch)[wanted[first:last] - done]
        done += len(batch)
    return rows
