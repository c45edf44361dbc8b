"""Place segments on a fitted map, each by itself: the same to the bit however they are cut into parts and batches."""

import argparse
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ecgpipe.analysis.umap_fit import Fit, collect_facts, read_fit, stack_vectors
from ecgpipe.core import options, parquet, provenance, results, schemas, settings
from ecgpipe.core.errors import EcgpipeError
from ecgpipe.core.logs import Progress

logger = logging.getLogger(__name__)

# Segments that are placed together, the last of them filled up: BLAS may round otherwise for another number of rows.
# 82 MB of distances to 20,000 segments; fewer take longer, as BLAS brings the sample into its own order for each block.
BLOCK = 1024

# Of the sample, those nearest in its main directions whose distance is computed, at least, and for each neighbour.
CANDIDATES, CANDIDATES_PER_NEIGHBOR = 32, 2

# The sample is looked through in groups of this many: of most of them only the nearest one is looked at.
GROUP = 16

# Candidates of this many segments are compared at a time, so that they stay in the processor's cache: 0.8 MB.
COMPARED = 8

# Steps towards the neighbours.
STEPS = 10

# UMAP's bounds of the search for a segment's scale, and of that scale in mean distances.
_TOLERANCE, _ROUNDS, _LEAST_SCALE = 1e-5, 64, 1e-3

# Squared distance on the map below which a neighbour attracts no more.
_NEAREST = 1e-6


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `ecgpipe umap_place`."""
    parser.add_argument("--fit", type=Path, required=True, help="places/fit.safetensors")
    options.add(parser, "embeddings", required=True, help="an embeddings/part-*.parquet")
    options.add(parser, "output", required=True, help="places/part-*.parquet to write")
    settings.add_arguments(parser, settings.Umap)


def run(args: argparse.Namespace) -> None:
    """Place the segments of one part."""
    umap_settings = settings.parse_arguments("umap", settings.Umap, args)
    part = results.parse_number("embeddings", args.embeddings.name)
    if part is None:
        raise EcgpipeError(
            f"--embeddings: {args.embeddings} has no number; give a part by its name, such as part-00000.parquet"
        )
    write_part(read_fit(args.fit), args.embeddings, part, umap_settings, args.output)


def write_part(fitted: Fit, path: Path, part: int, umap_settings: settings.Umap, output: Path) -> None:
    """Write the places of a part's segments.

    Args:
        fitted: The fitted map.
        path: The part's `embeddings/part-*.parquet`.
        part: Its number.
        umap_settings: How the map was fitted.
        output: The Parquet file, with the columns of the map.
    """
    facts = collect_facts([path], umap_settings)
    schema = provenance.add_origin(schemas.UMAP, "umap", umap=describe_mapping(fitted), **facts)
    progress = Progress("umap_place", pq.read_metadata(path).num_rows, "segments")
    placer = prepare(fitted)
    with parquet.parquet_writer(output, schema) as writer:
        for batch in place_part(placer, path, part):
            writer.write_batch(batch)
            progress.add(len(batch))
    progress.say()


def describe_mapping(fitted: Fit) -> dict[str, object]:
    """Describe how a map was made, for its metadata: `placed` is the number of segments outside of the sample."""
    placed = fitted.total - len(fitted.vectors)
    return {**fitted.mapping, "placed": placed} if placed else fitted.mapping


class Placer(NamedTuple):
    """A fitted map, made ready for the search of neighbours."""

    fitted: Fit
    neighbors: int  # of each segment
    candidates: int  # of which they are taken
    # (directions + 1, groups x GROUP) float32: the sample in its main directions, and the squared length; filled up
    # with what is infinitely far. Number i is member i // groups of the group i % groups.
    reduced: np.ndarray


def prepare(fitted: Fit) -> Placer:
    """Make a fitted map ready for the search of neighbours."""
    count, directions = len(fitted.vectors), fitted.directions.shape[1]
    neighbors = min(int(fitted.mapping["neighbors"]), max(count - 1, 1))
    reduced = np.zeros((-(-count // GROUP) * GROUP, directions + 1), np.float32)
    reduced[:count, :-1] = (fitted.vectors - fitted.mean) @ fitted.directions
    reduced[:count, -1] = np.einsum("ij,ij->i", reduced[:count, :-1], reduced[:count, :-1])
    reduced[count:, -1] = np.finfo(np.float32).max
    candidates = min(max(CANDIDATES, CANDIDATES_PER_NEIGHBOR * neighbors), count)
    return Placer(fitted, neighbors, candidates, np.ascontiguousarray(reduced.T))


def place_part(placer: Placer, path: Path, part: int) -> Iterator[pa.RecordBatch]:
    """Place the segments of a part: those of the sample where the fit has them, the others by their neighbours.

    Args:
        placer: The fitted map.
        path: The part's `embeddings/part-*.parquet`.
        part: Its number.

    Yields:
        Rows of the map, in order.

    Raises:
        EcgpipeError: The map was fitted on other segments.
    """
    fitted = placer.fitted
    of_part = np.flatnonzero(fitted.part == part)  # sorted by row
    width = pq.read_schema(path).field("embedding").type.list_size
    if width != fitted.vectors.shape[1]:
        raise EcgpipeError(f"{path} has embeddings of width {width}, the map was fitted on {fitted.vectors.shape[1]}")
    done = seen = 0
    for batch in parquet.batches([path]):
        first, last = np.searchsorted(fitted.row[of_part], [done, done + len(batch)])
        own = of_part[first:last]  # of the sample, those in this batch
        rows = fitted.row[own] - done
        _refuse_other_segments(fitted, own, batch.take(pa.array(rows)), path)
        others = np.ones(len(batch), bool)
        others[rows] = False
        places = np.empty((len(batch), 2), np.float32)
        places[rows] = fitted.places[own]
        if others.any():
            places[others] = place(placer, stack_vectors(batch)[others])
        columns = [batch["record_id"], batch["segment"], pa.array(places[:, 0]), pa.array(places[:, 1])]
        yield pa.record_batch(columns, schema=schemas.UMAP)
        done += len(batch)
        seen += len(own)
    if seen != len(of_part):
        raise EcgpipeError(f"{path} has fewer segments than the map was fitted on; fit it again")


def _refuse_other_segments(fitted: Fit, own: np.ndarray, rows: pa.RecordBatch, path: Path) -> None:
    """Refuse a part whose segments are not those of the sample where the sample has them."""
    expected = [(fitted.record_ids[number], int(fitted.segment[number])) for number in own]
    found = list(zip(rows["record_id"].to_pylist(), rows["segment"].to_pylist(), strict=True))
    for theirs, ours in zip(expected, found, strict=True):
        if theirs != ours:
            raise EcgpipeError(
                f"{path} has segment {ours[1]} of {ours[0]} where the map was fitted on segment {theirs[1]} of "
                f"{theirs[0]}; fit it again on these embeddings"
            )


def place(placer: Placer, vectors: np.ndarray) -> np.ndarray:
    """Place segments by their neighbours in the sample: as UMAP's transform begins, and then a few steps.

    Args:
        placer: The fitted map.
        vectors: (n, width) float32, the embeddings.

    Returns:
        (n, 2) float32.
    """
    places = np.empty((len(vectors), 2), np.float32)
    block = np.zeros((BLOCK, vectors.shape[1]), np.float32)
    for start in range(0, len(vectors), BLOCK):
        count = min(BLOCK, len(vectors) - start)
        block[:count] = vectors[start : start + count]
        neighbors, distances = find_neighbors(placer, block)
        around = placer.fitted.places[neighbors].astype(np.float64)  # (BLOCK, neighbors, 2)
        places[start : start + count] = place_between(around, distances, placer.fitted.curve)[:count]
    return places


def find_neighbors(placer: Placer, block: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Find the nearest of the sample: by their distances among those that are nearest in its main directions.

    Args:
        placer: The fitted map.
        block: (BLOCK, width) float32.

    Returns:
        Their numbers in the sample, the nearest first, and their distances: (BLOCK, neighbors) int64 and float64.
    """
    fitted = placer.fitted
    reduced = np.ones((len(block), len(placer.reduced)), np.float32)
    reduced[:, :-1] = -2 * ((block - fitted.mean) @ fitted.directions)
    apart = reduced @ placer.reduced  # (BLOCK, groups x GROUP), squared distances but for a constant of each row
    # The nearest ones are in as many groups at most, and those are the groups with the nearest nearest member.
    by_group = apart.reshape(len(block), GROUP, -1)
    groups = by_group.shape[2]
    chosen = _choose_smallest(by_group.min(axis=1), min(placer.candidates, groups))
    members = (chosen[:, None] + groups * np.arange(GROUP)[:, None]).reshape(len(block), -1)
    nearest = _choose_smallest(np.take_along_axis(apart, members, axis=1), placer.candidates)
    candidates = np.sort(np.take_along_axis(members, nearest, axis=1), axis=1)
    squared = np.empty(candidates.shape, np.float32)
    for start in range(0, len(block), COMPARED):
        rows = slice(start, start + COMPARED)
        differences = fitted.vectors[candidates[rows]]  # (COMPARED, candidates, width)
        differences -= block[rows, None]
        squared[rows] = np.einsum("ijk,ijk->ij", differences, differences)
    order = np.argsort(squared, axis=1, kind="stable")[:, : placer.neighbors]
    distances = np.sqrt(np.take_along_axis(squared, order, axis=1).astype(np.float64))
    return np.take_along_axis(candidates, order, axis=1), distances


def _choose_smallest(values: np.ndarray, count: int) -> np.ndarray:
    """The columns of the `count` smallest values of each row, in no order."""
    columns: np.ndarray = np.argpartition(values, count - 1, axis=1)[:, :count]
    return columns


def weigh(distances: np.ndarray) -> np.ndarray:
    """Weigh neighbours by their distance, as UMAP's transform does: by a scale at which they count as log2(neighbors).

    Args:
        distances: (n, neighbors) float64, the nearest first.

    Returns:
        (n, neighbors), 0 to 1.
    """
    count, neighbors = distances.shape
    target = np.log2(neighbors)
    low, high, scale = np.zeros(count), np.full(count, np.inf), np.ones(count)
    is_open = np.ones(count, bool)  # a row that is done stays as it is: other rows do not matter to it
    for _ in range(_ROUNDS):
        counted = np.exp(-distances[:, 1:] / scale[:, None]).sum(axis=1)
        is_open &= np.abs(counted - target) >= _TOLERANCE
        if not is_open.any():
            break
        high = np.where(is_open & (counted > target), scale, high)
        low = np.where(is_open & (counted <= target), scale, low)
        scale = np.where(is_open, np.where(np.isinf(high), scale * 2, (low + high) / 2), scale)
    scale = np.maximum(scale, _LEAST_SCALE * distances.mean(axis=1))
    weights: np.ndarray = np.exp(-distances / scale[:, None])
    return weights


def place_between(around: np.ndarray, distances: np.ndarray, curve: np.ndarray) -> np.ndarray:
    """Place segments between their neighbours: at the weighted mean, then towards where most of the weight lies.

    Each step goes to where the neighbours' attraction in UMAP's optimisation would be in balance, were it as strong as
    here. Without the steps a segment whose neighbours lie in two clusters would lie in between.

    Args:
        around: (n, neighbors, 2) float64, where the neighbours lie on the map.
        distances: (n, neighbors) float64, of their embeddings, the nearest first.
        curve: UMAP's a and b.

    Returns:
        (n, 2) float64; of a segment that equals its nearest neighbour, where that lies.
    """
    a, b = curve
    weights = weigh(distances)[..., None]
    pull = weights
    for step in range(STEPS + 1):
        places = (pull * around).sum(axis=1) / pull.sum(axis=1)
        if step < STEPS:
            squared = np.maximum(((places[:, None] - around) ** 2).sum(axis=2, keepdims=True), _NEAREST)
            power = squared ** (b - 1)
            pull = weights * power / (1 + a * power * squared)
    return np.where(distances[:, :1] == 0, around[:, 0], places)
