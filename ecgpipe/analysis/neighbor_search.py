"""Search the nearest recordings by the cosine of their embeddings, exactly or approximately, in a run's files."""

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ecgpipe.analysis import cosine_similarity
from ecgpipe.analysis.numba_cache import keep_compiled
from ecgpipe.core import provenance, recording_embeddings
from ecgpipe.core.errors import EcgpipeError
from ecgpipe.core.logs import Progress
from ecgpipe.core.run import Run

logger = logging.getLogger(__name__)

# Up to this number of pairs of recordings `auto` is exact: all pairs of 100,000 (measured in docs/compare.md).
MOST_PAIRS = 10_000_000_000

# Among fewer recordings there is no graph to build: even `approximate` is exact.
LEAST = 100

# Recordings whose neighbours are searched together: the other recordings are read once for each such block.
QUERIES = 4096

# Neighbours in the graph of an approximate search, at least: PyNNDescent's default.
GRAPH = 30

# How much further than the nearest so far PyNNDescent looks in another run; its default of 0.1 finds less.
EPSILON = 0.2

# What PyNNDescent compiles anew in each process although it can be kept. What takes the distance as a function cannot
# be: Numba takes it for another function in each process, and would add files to its cache for ever.
KEPT = (
    "generate_graph_update_array_batched",
    "build_candidates_owner",
    "apply_sorted_graph_update_array",
    "sort_updates_by_block",
    "deheap_sort",
)

# Recordings for which the approximate search is compared with the exact one, and the recall below which it warns.
SAMPLE = 1000

LOW_RECALL = 0.9


class Neighbor(NamedTuple):
    """A recording that is similar to another one."""

    record_id: str
    similarity: float  # cosine of the two embeddings, -1 to 1


class Side(NamedTuple):
    """The recordings of a run that have an embedding."""

    run: Run
    embeddings: list[Path]
    ids: pa.Array  # (recordings,)
    width: int


class Search(NamedTuple):
    """For which recordings neighbours are searched, and where."""

    mine: Side
    theirs: Side  # where they are searched; the same object within a run
    queries: np.ndarray  # (queries,) rows of `mine`
    wanted: int  # neighbours of each
    own: np.ndarray | None  # (queries,) the row of `theirs` that is no neighbour of each; None in another run
    groups: tuple[np.ndarray, np.ndarray] | None  # of `number_patients`

    @property
    def is_small(self) -> bool:
        """Whether the exact search is fast enough for `auto`."""
        return len(self.queries) * len(self.theirs.ids) <= MOST_PAIRS


Block = tuple[np.ndarray, cosine_similarity.Nearest]  # (queries,) rows of some recordings, and their neighbours


def read_side(run: Run) -> Side:
    """Read which recordings of a run have an embedding.

    Args:
        run: The run.

    Returns:
        Their ids, and where the embeddings are.

    Raises:
        EcgpipeError: There are none, or they are of several checkpoints.
    """
    outdir = run.outdir
    if not (outdir / "embeddings").is_dir():
        raise EcgpipeError(f"outdir: {outdir} has no embeddings/; give the folder of a finished run's results")
    embeddings = run.files("embeddings")
    of_parts = [pq.read_schema(path) for path in embeddings]
    checkpoints = {provenance.read_origin(schema).get("checkpoint_sha256") for schema in of_parts}
    if len(checkpoints) > 1:
        raise EcgpipeError(f"outdir: {outdir / 'embeddings'} is of several checkpoints; run the workflow to its end")
    ids = recording_embeddings.read_ids(embeddings)
    if not len(ids):
        raise EcgpipeError(f"outdir: {outdir / 'embeddings'} has no recordings; {outdir / 'records'} says why")
    return Side(run, embeddings, ids, of_parts[0].field("embedding").type.list_size)


def search_exactly(search: Search) -> Iterator[Block]:
    """Find neighbours by looking at all pairs; the embeddings are read once for every `QUERIES` of the recordings.

    Args:
        search: For which recordings, and where.

    Yields:
        Blocks of the queries.
    """
    for start in range(0, len(search.queries), QUERIES):
        block = slice(start, start + QUERIES)
        targets = cosine_similarity.normalise(
            recording_embeddings.read_rows(search.mine.embeddings, search.queries[block])
        )
        others = (
            cosine_similarity.normalise(vectors)
            for _, vectors in recording_embeddings.read_means(search.theirs.embeddings)
        )
        yield search.queries[block], cosine_similarity.search(targets, others, search.wanted, *_exclude(search, block))


def search_approximately(search: Search, random_state: int) -> tuple[Iterator[Block], dict[str, Any]]:
    """Find neighbours by nearest-neighbour descent (Dong et al., WWW 2011), and measure what that misses.

    Args:
        search: For which recordings, and where.
        random_state: Seed of the search, and of the sample that its recall is measured on.

    Returns:
        What `search_exactly` yields; and `recall`, as `cosine_similarity.measure_recall` has it, with `recall_queries`,
        the number of recordings that it was measured on, drawn at random.
    """
    import pynndescent  # here, because it takes seconds

    _keep_compiled()
    queries, count = search.queries, search.wanted
    base = _read_directions(search.theirs)  # (recordings, width) float32
    within = search.theirs is search.mine
    targets = base if within else _read_directions(search.mine)
    # Recordings that are left out take places in the graph: the recording itself, and other recordings of its patient.
    spare = 1
    if search.groups is not None:
        sizes = np.bincount(search.groups[1][search.groups[1] >= 0], minlength=1)
        spare += int(np.quantile(sizes[sizes > 0], 0.99)) if sizes.any() else 0
    wanted = min(max(GRAPH, 2 * (count + spare)), len(base) - 1)
    index = pynndescent.NNDescent(base, metric="cosine", n_neighbors=wanted, random_state=random_state)
    graph = index.neighbor_graph[0] if within else None  # (recordings, wanted)
    if graph is None:
        index.prepare()

    def find(places: np.ndarray) -> cosine_similarity.Nearest:
        rows = queries[places]
        candidates = index.query(targets[rows], k=wanted, epsilon=EPSILON)[0] if graph is None else graph[rows]
        own, groups = _exclude(search, places)
        mask = candidates < 0  # (places, wanted)
        if own is not None:
            mask |= candidates == own[:, None]
        if groups is not None:
            mask |= groups[0][:, None] == groups[1][candidates]
        return cosine_similarity.rank_candidates(targets[rows], base, candidates, mask, count)

    sample = np.sort(np.random.default_rng(random_state).choice(len(queries), min(SAMPLE, len(queries)), replace=False))
    exact = cosine_similarity.search(
        targets[queries[sample]].astype(np.float64), [base], count, *_exclude(search, sample)
    )
    recall = cosine_similarity.measure_recall(find(sample), exact)
    logger.info("recall@%d is %.4f, against exact search for %d random recordings", count, recall, len(sample))
    if recall < LOW_RECALL:
        logger.warning("%.0f %% of the nearest are missing; --method exact finds all", 100 * (1 - recall))
    blocks = (np.arange(start, min(start + QUERIES, len(queries))) for start in range(0, len(queries), QUERIES))
    search_facts = {"recall": recall, "recall_queries": len(sample), "random_state": random_state, "graph": wanted}
    return ((queries[places], find(places)) for places in blocks), search_facts


def _keep_compiled() -> None:
    """Have Numba keep what it compiles of PyNNDescent for later processes, half of what they would compile."""
    from pynndescent import pynndescent_

    # Another version of PyNNDescent may lack some.
    keep_compiled(getattr(pynndescent_, name) for name in KEPT if hasattr(pynndescent_, name))


def find_nearest(embeddings: Sequence[Path], record_ids: Sequence[str], count: int) -> list[list[Neighbor]]:
    """Find the most similar recordings, exactly, in one pass over the embeddings and two over their ids.

    Args:
        embeddings: All `embeddings/part-*.parquet`, in order.
        record_ids: The recordings whose neighbours are wanted.
        count: Number of neighbours of each.

    Returns:
        For each of `record_ids` its neighbours, the nearest first, without itself; none for an unknown id.
    """
    wanted = pa.array(record_ids, pa.string())
    rows = np.full(len(wanted), -1, np.int64)
    seen = 0
    for ids in recording_embeddings.iterate_ids(embeddings):
        places = pc.index_in(wanted, ids)
        here = places.is_valid().to_numpy(zero_copy_only=False)
        rows[here] = seen + places.drop_null().to_numpy()
        seen += len(ids)
    neighbors: list[list[Neighbor]] = [[] for _ in record_ids]
    known_ids = np.flatnonzero(rows >= 0)
    if not len(known_ids):
        return neighbors
    own = rows[known_ids]
    targets = cosine_similarity.normalise(recording_embeddings.read_rows(embeddings, own))
    nearest = cosine_similarity.search(targets, _read_with_progress(embeddings, seen), count, own)
    names = recording_embeddings.read_ids_by_row(embeddings, nearest.rows[nearest.rows >= 0])
    for place, neighbor_rows, values in zip(known_ids, nearest.rows, nearest.similarity, strict=True):
        neighbors[place] = [
            Neighbor(names[row], float(v)) for row, v in zip(neighbor_rows, values, strict=True) if row >= 0
        ]
    return neighbors


def _read_with_progress(embeddings: Sequence[Path], recordings: int) -> Iterator[np.ndarray]:
    """Yield the embeddings of all recordings, of length 1, and say now and then how many have been read."""
    progress = Progress("most similar", recordings, "recordings")
    for _, vectors in recording_embeddings.read_means(embeddings):
        yield cosine_similarity.normalise(vectors)
        progress.add(len(vectors))


def _exclude(
    search: Search, chosen: slice | np.ndarray
) -> tuple[np.ndarray | None, tuple[np.ndarray, np.ndarray] | None]:
    """What `cosine_similarity.search` leaves out for the chosen queries."""
    own = None if search.own is None else search.own[chosen]
    return own, None if search.groups is None else (search.groups[0][chosen], search.groups[1])


def _read_directions(side: Side) -> np.ndarray:
    """The embeddings of all recordings, of length 1, (recordings, width) float32."""
    directions = np.empty((len(side.ids), side.width), np.float32)
    done = 0
    for _, vectors in recording_embeddings.read_means(side.embeddings):
        directions[done : done + len(vectors)] = cosine_similarity.normalise(vectors)
        done += len(vectors)
    return directions
