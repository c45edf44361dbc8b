"""Which recordings are most alike to the model: by the cosine of their embeddings, in one run or in another one."""

import argparse
import difflib
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ecgpipe.analysis import cosine_similarity
from ecgpipe.core import identity, parquet, provenance, recording_embeddings, schemas
from ecgpipe.core.errors import EcgpipeError
from ecgpipe.core.logs import Progress, visible

logger = logging.getLogger(__name__)

METHODS = ("auto", "exact", "approximate")

# Up to so many pairs of recordings `auto` is exact: all pairs of 100,000 (docs/compare.md has the measurements).
MOST_PAIRS = 10_000_000_000

# Recordings whose neighbours are looked for together: the other ones are read once for each so many.
QUERIES = 4096

# Among fewer recordings there is no graph to build: even `approximate` is exact.
LEAST = 100

# The graph of an approximate search has so many neighbours at least, which is PyNNDescent's default.
GRAPH = 30

# How much further than the nearest so far PyNNDescent looks in another run; its default of 0.1 finds less.
EPSILON = 0.2

# How many recordings the approximate search is held against the exact one for, and from where on that is too little.
SAMPLE = 1000
LOW_RECALL = 0.9

# Ids that a message looks through for one that is close.
LOOKED_THROUGH = 50_000


class Neighbor(NamedTuple):
    """A recording that is like another one."""

    record_id: str
    similarity: float  # cosine of the two embeddings, -1 to 1


class Side(NamedTuple):
    """The recordings of a run that have an embedding."""

    outdir: Path
    embeddings: list[Path]
    ids: pa.Array  # (recordings,)
    width: int


class Asked(NamedTuple):
    """Whose neighbours are wanted."""

    mine: Side
    theirs: Side  # where they are looked for; the same object within a run
    queries: np.ndarray  # (queries,) rows of `mine`
    wanted: int  # neighbours of each
    own: np.ndarray | None  # (queries,) the row of `theirs` that is no neighbour of each; None in another run
    groups: tuple[np.ndarray, np.ndarray] | None  # what `patients` gives


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `python -m ecgpipe neighbors`."""
    parser.add_argument("record_id", nargs="*", metavar="RECORD_ID", help="as in records/ (default: all)")
    parser.add_argument("--outdir", type=Path, default=Path("results"), help="of the run (default %(default)s)")
    parser.add_argument("--against", type=Path, metavar="OUTDIR", help="the run to search (default: the same)")
    parser.add_argument("--count", type=int, default=10, help="neighbours of each recording (default %(default)s)")
    parser.add_argument(
        "--patient", metavar="COLUMN", help="leave out recordings that agree in this column of records/"
    )
    parser.add_argument("--method", choices=METHODS, default="auto", help="auto: by the size (default %(default)s)")
    parser.add_argument("--random-state", type=int, default=42, help="of approximate search (default %(default)s)")
    parser.add_argument(
        "--output", type=Path, help="Parquet file to write (default: OUTDIR/neighbors.parquet, none for RECORD_IDs)"
    )


def run(args: argparse.Namespace) -> None:
    """Find the neighbours of some recordings, or of all."""
    if args.count < 1:
        raise EcgpipeError(f"--count: {args.count} is not possible; give at least 1")
    mine = side(args.outdir)
    theirs = side(args.against) if args.against else mine
    check_alike(mine, theirs)
    queries = known(mine, args.record_id) if args.record_id else np.arange(len(mine.ids))
    own = None if args.against else queries  # in another run the same record_id is a neighbour like any other
    groups = patients(mine, theirs, args.patient, queries) if args.patient else None
    asked = Asked(mine, theirs, queries, args.count, own, groups)
    small = len(theirs.ids) < LEAST or (args.method == "auto" and len(queries) * len(theirs.ids) <= MOST_PAIRS)
    exact = args.method == "exact" or small
    account: dict[str, Any] = {"method": "exact" if exact else "approximate", "count": args.count}
    account |= {"patient": args.patient, "against": args.against and str(args.against)}
    logger.info("%s search for %d recordings among %d", account["method"], len(queries), len(theirs.ids))
    if exact:
        blocks = exactly(asked)
    else:
        blocks, measured = approximately(asked, args.random_state)
        account |= measured
    facts = provenance.inherited([pq.read_schema(path) for path in mine.embeddings])
    schema = provenance.with_origin(schemas.NEIGHBORS, "neighbors", neighbors=account, **facts)
    if args.record_id:
        table = pa.concat_tables([listed(mine, theirs, *block).cast(schema) for block in blocks])
        print("\n".join(lines(table, mine.ids.take(pa.array(queries)).to_pylist())))
        if args.output:
            parquet.write(args.output, table)
        return
    output = args.output or args.outdir / "neighbors.parquet"
    progress = Progress("neighbors", len(queries), "recordings")
    with parquet.parquet_writer(output, schema) as writer:
        for rows, found in blocks:
            writer.write_table(listed(mine, theirs, rows, found).cast(schema))
            progress.add(len(rows))
    logger.info("%s", output)


def side(outdir: Path) -> Side:
    """The recordings of a run that have an embedding.

    Args:
        outdir: Of the run.

    Returns:
        Their ids, and where the embeddings are.

    Raises:
        EcgpipeError: There are none, or they are of several checkpoints.
    """
    if not (outdir / "embeddings").is_dir():
        raise EcgpipeError(f"outdir: {outdir} has no embeddings/; give the folder of a finished run's results")
    embeddings = parquet.of_run(outdir, "embeddings")
    of_parts = [pq.read_schema(path) for path in embeddings]
    made_by = {provenance.origin(schema).get("checkpoint_sha256") for schema in of_parts}
    if len(made_by) > 1:
        raise EcgpipeError(f"outdir: {outdir / 'embeddings'} is of several checkpoints; run the workflow to its end")
    ids = recording_embeddings.ids(embeddings)
    if not len(ids):
        raise EcgpipeError(f"outdir: {outdir / 'embeddings'} has no recordings; {outdir / 'records'} says why")
    return Side(outdir, embeddings, ids, of_parts[0].field("embedding").type.list_size)


def check_alike(mine: Side, theirs: Side) -> None:
    """See to it that the embeddings of two runs can be compared.

    Args:
        mine: A run.
        theirs: Another one, or the same.

    Raises:
        EcgpipeError: They are of different checkpoints or widths.
    """
    first, second = (provenance.origin(pq.read_schema(one.embeddings[0])) for one in (mine, theirs))
    shas = first.get("checkpoint_sha256"), second.get("checkpoint_sha256")
    if None in shas:
        logger.warning("%s does not say which checkpoint made it", mine.outdir if shas[0] is None else theirs.outdir)
    if shas[0] != shas[1] and None not in shas:
        made_by = [f"{one.get('checkpoint')} (sha256 {one['checkpoint_sha256'][:12]})" for one in (first, second)]
        raise EcgpipeError(
            f"--against: {theirs.outdir} is of another checkpoint than {mine.outdir}: {' and '.join(made_by)}. Their "
            "embeddings have no axes in common, a similarity would mean nothing; run both with one checkpoint, or see "
            "`compare`"
        )
    if mine.width != theirs.width:
        raise EcgpipeError(
            f"--against: embeddings of {theirs.outdir} have {theirs.width} numbers, those of {mine.outdir} "
            f"{mine.width}; run both with one checkpoint"
        )
    ours, others = first.get("preprocess", {}), second.get("preprocess", {})
    differ = [name for name in {**ours, **others} if ours.get(name) != others.get(name)]
    if differ:
        told = (f"{name} {ours.get(name)} and {others.get(name)}" for name in differ)
        logger.warning("the two runs were preprocessed differently, which moves embeddings too: %s", "; ".join(told))


def known(run: Side, record_ids: Sequence[str]) -> np.ndarray:
    """The rows of some recordings.

    Args:
        run: Whose.
        record_ids: Of which; one that is given twice counts once.

    Returns:
        (recordings,) int64.

    Raises:
        EcgpipeError: One has no embedding.
    """
    wanted = pa.array(dict.fromkeys(record_ids), pa.string())
    rows = pc.index_in(wanted, run.ids)
    for record_id in wanted.filter(rows.is_null()).to_pylist():
        records = parquet.of_run(run.outdir, "records")
        for row in (row for table in parquet.rows_of(records, [record_id]) for row in table.to_pylist()):
            raise EcgpipeError(
                f"RECORD_ID: {record_id!r} has no embedding, it was {row['status']}: {row['reason']}; give another one"
            )
        close = _close(record_id, run.ids)
        raise EcgpipeError(
            f"RECORD_ID: {record_id!r} is no recording of {run.outdir}; "
            + (f"there is {', '.join(map(repr, close))}" if close else f"{run.outdir / 'records'} has their ids")
        )
    return np.asarray(rows.to_numpy(), np.int64)


def patients(mine: Side, theirs: Side, column: str, queries: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Number the patients of two runs.

    Args:
        mine: The run whose recordings have neighbours.
        theirs: The run that is searched, or the same.
        column: Of `records/`, which tells patients apart.
        queries: The rows of `mine` that matter.

    Returns:
        Of `queries` and of the recordings of `theirs`, (recordings,) each: the same number for the same patient, and
        for unknown ones -1 in the first, -2 in the second, so that these are nobody's.

    Raises:
        EcgpipeError: There is no such column.
    """
    texts = [_column(mine, column).take(pa.array(queries)), _column(theirs, column)]
    codes = pa.concat_arrays(texts).dictionary_encode().indices
    numbers = pc.fill_null(codes, -1).to_numpy()
    first, second = numbers[: len(queries)], numbers[len(queries) :]
    return first, np.where(second == -1, -2, second)


def exactly(asked: Asked) -> Iterator[tuple[np.ndarray, cosine_similarity.Found]]:
    """Find neighbours by looking at all pairs; the embeddings are read once for every `QUERIES` of the recordings.

    Args:
        asked: Whose neighbours.

    Yields:
        Some of the queries, and their neighbours.
    """
    for start in range(0, len(asked.queries), QUERIES):
        some = slice(start, start + QUERIES)
        targets = cosine_similarity.directions(recording_embeddings.picked(asked.mine.embeddings, asked.queries[some]))
        others = (
            cosine_similarity.directions(vectors)
            for _, vectors in recording_embeddings.of_recordings(asked.theirs.embeddings)
        )
        yield asked.queries[some], cosine_similarity.search(targets, others, asked.wanted, *_left_out(asked, some))


def approximately(
    asked: Asked, random_state: int
) -> tuple[Iterator[tuple[np.ndarray, cosine_similarity.Found]], dict[str, Any]]:
    """Find neighbours by nearest-neighbour descent (Dong et al., WWW 2011), and measure what that misses.

    Args:
        asked: Whose neighbours.
        random_state: Seed of the search, and of the sample that its recall is measured on.

    Returns:
        What `exactly` yields; and `recall`, as `cosine_similarity.recall` has it, with `recall_queries`, the number of
        recordings that it was measured on, drawn at random.
    """
    import pynndescent  # here, because it takes seconds

    queries, count = asked.queries, asked.wanted
    base = _all_directions(asked.theirs)  # (recordings, width) float32
    within = asked.theirs is asked.mine
    targets = base if within else _all_directions(asked.mine)
    # Who is left out takes places in the graph: the recording itself, and for nearly all patients their other ones.
    spare = 1
    if asked.groups is not None:
        sizes = np.bincount(asked.groups[1][asked.groups[1] >= 0], minlength=1)
        spare += int(np.quantile(sizes[sizes > 0], 0.99)) if sizes.any() else 0
    wanted = min(max(GRAPH, 2 * (count + spare)), len(base) - 1)
    index = pynndescent.NNDescent(base, metric="cosine", n_neighbors=wanted, random_state=random_state)
    graph = index.neighbor_graph[0] if within else None  # (recordings, wanted)
    if graph is None:
        index.prepare()

    def found(places: np.ndarray) -> cosine_similarity.Found:
        rows = queries[places]
        candidates = index.query(targets[rows], k=wanted, epsilon=EPSILON)[0] if graph is None else graph[rows]
        own, groups = _left_out(asked, places)
        mask = candidates < 0  # (places, wanted)
        if own is not None:
            mask |= candidates == own[:, None]
        if groups is not None:
            mask |= groups[0][:, None] == groups[1][candidates]
        return cosine_similarity.ranked(targets[rows], base, candidates, mask, count)

    sample = np.sort(np.random.default_rng(random_state).choice(len(queries), min(SAMPLE, len(queries)), replace=False))
    truly = cosine_similarity.search(
        targets[queries[sample]].astype(np.float64), [base], count, *_left_out(asked, sample)
    )
    measured = cosine_similarity.recall(found(sample), truly)
    logger.info("recall@%d is %.4f, against exact search for %d random recordings", count, measured, len(sample))
    if measured < LOW_RECALL:
        logger.warning("%.0f %% of the nearest are missing; --method exact finds all", 100 * (1 - measured))
    blocks = (np.arange(start, min(start + QUERIES, len(queries))) for start in range(0, len(queries), QUERIES))
    account = {"recall": measured, "recall_queries": len(sample), "random_state": random_state, "graph": wanted}
    return ((queries[places], found(places)) for places in blocks), account


def listed(mine: Side, theirs: Side, rows: np.ndarray, found: cosine_similarity.Found) -> pa.Table:
    """Neighbours as rows of a table.

    Args:
        mine: The run whose recordings have neighbours.
        theirs: The run that was searched.
        rows: (recordings,) of `mine`.
        found: Their neighbours.

    Returns:
        The columns of `schemas.NEIGHBORS`; none where there are fewer neighbours than wanted.
    """
    of, rank = np.nonzero(found.rows >= 0)
    columns = [
        mine.ids.take(pa.array(rows[of])),
        pa.array(rank + 1, pa.int32()),
        theirs.ids.take(pa.array(found.rows[of, rank])),
        pa.array(found.similarity[of, rank]),
    ]
    return pa.table(columns, schema=schemas.NEIGHBORS)


def lines(table: pa.Table, record_ids: Sequence[str]) -> list[str]:
    """Neighbours for people to read: a recording, and below it rank, similarity and id of each."""
    by_id: dict[str, list[str]] = {record_id: [] for record_id in record_ids}
    for row in table.to_pylist():
        name = visible(row["neighbor_id"]) + "  (the same record_id)" * (row["neighbor_id"] == row["record_id"])
        by_id[row["record_id"]].append(f"{row['rank']:>4}  {row['similarity']:.4f}  {name}")
    return [line for record_id, some in by_id.items() for line in (visible(record_id), *(some or ["   none"]))]


def nearest(embeddings: Sequence[Path], record_ids: Sequence[str], count: int) -> list[list[Neighbor]]:
    """Find the recordings most alike, exactly, in two passes over the embeddings and two over their ids.

    Args:
        embeddings: All `embeddings/part-*.parquet`, in order.
        record_ids: Whose neighbours are wanted.
        count: How many of each.

    Returns:
        For each of `record_ids` its neighbours, the nearest first, without itself; none for an unknown id.
    """
    wanted = pa.array(record_ids, pa.string())
    rows = np.full(len(wanted), -1, np.int64)
    seen = 0
    for ids in recording_embeddings.ids_of(embeddings):
        places = pc.index_in(wanted, ids)
        here = places.is_valid().to_numpy(zero_copy_only=False)
        rows[here] = seen + places.drop_null().to_numpy()
        seen += len(ids)
    neighbors: list[list[Neighbor]] = [[] for _ in record_ids]
    asked = np.flatnonzero(rows >= 0)
    if not len(asked):
        return neighbors
    own = rows[asked]
    targets = cosine_similarity.directions(recording_embeddings.picked(embeddings, own))
    others = (cosine_similarity.directions(vectors) for _, vectors in recording_embeddings.of_recordings(embeddings))
    found = cosine_similarity.search(targets, others, count, own)
    names = recording_embeddings.names_of(embeddings, found.rows[found.rows >= 0])
    for place, some, values in zip(asked, found.rows, found.similarity, strict=True):
        neighbors[place] = [Neighbor(names[row], float(v)) for row, v in zip(some, values, strict=True) if row >= 0]
    return neighbors


def _left_out(asked: Asked, some: slice | np.ndarray) -> tuple[np.ndarray | None, tuple[np.ndarray, np.ndarray] | None]:
    """What `cosine_similarity.search` leaves out for some of the queries."""
    own = None if asked.own is None else asked.own[some]
    return own, None if asked.groups is None else (asked.groups[0][some], asked.groups[1])


def _all_directions(run: Side) -> np.ndarray:
    """The embeddings of all recordings, of length 1, (recordings, width) float32."""
    directions = np.empty((len(run.ids), run.width), np.float32)
    done = 0
    for _, vectors in recording_embeddings.of_recordings(run.embeddings):
        directions[done : done + len(vectors)] = cosine_similarity.directions(vectors)
        done += len(vectors)
    return directions


def _column(run: Side, name: str) -> pa.Array:
    """A column of the records as text, for the recordings that have an embedding."""
    paths = parquet.of_run(run.outdir, "records")
    there = dict.fromkeys(column for path in paths for column in pq.read_schema(path).names)
    if name not in there:
        own = [column for column in there if column not in schemas.RECORDS.names]
        raise EcgpipeError(
            f"--patient: {name!r} is no column of {run.outdir / 'records'}; the inputs' tables gave "
            + (", ".join(own) or "none")
        )
    pieces = [pq.read_table(path, columns=["record_id", name]) for path in paths if name in pq.read_schema(path).names]
    table = pa.concat_tables([piece.replace_schema_metadata(None) for piece in pieces], promote_options="permissive")
    places = pc.index_in(run.ids, table["record_id"].combine_chunks())
    return identity.as_ids(table[name], name).take(places)


def _close(record_id: str, ids: pa.Array) -> list[str]:
    """Up to three ids that could be meant: those that have the text in them, or are written much like it."""
    holding = ids.filter(pc.match_substring(ids, record_id))[:3].to_pylist()
    return holding or difflib.get_close_matches(record_id, ids[:LOOKED_THROUGH].to_pylist())
