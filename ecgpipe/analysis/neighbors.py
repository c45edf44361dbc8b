"""Find the most similar recordings, by the cosine of their embeddings, in the same run or in another one."""

import argparse
import difflib
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ecgpipe.analysis import cosine_similarity
from ecgpipe.analysis.neighbor_search import LEAST, Block, Search, Side, read_side, search_approximately, search_exactly
from ecgpipe.core import normalized_text, options, parquet, provenance, schemas
from ecgpipe.core.errors import EcgpipeError
from ecgpipe.core.logs import Progress, visible
from ecgpipe.core.run import Run

logger = logging.getLogger(__name__)

METHODS = ("auto", "exact", "approximate")


# Ids among which a message looks for one that is written alike.
LOOKED_THROUGH = 50_000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `ecgpipe neighbors`."""
    options.add_run(parser)
    parser.add_argument("record_id", nargs="*", metavar="RECORD_ID", help="as in records/ (default: all)")
    options.add(parser, "against", help="results of the run to search (default: the same)")
    parser.add_argument("--count", type=int, default=10, help="neighbours of each recording (default %(default)s)")
    options.add(parser, "patient", help="leave out recordings that agree in this column of records/")
    options.add(parser, "method", choices=METHODS, default="auto", help="auto: by the size (default %(default)s)")
    parser.add_argument("--random-state", type=int, default=42, help="of approximate search (default %(default)s)")
    options.add(parser, "output", help="Parquet file (default: RUN/neighbors.parquet, none for RECORD_IDs)")


def run(args: argparse.Namespace) -> None:
    """Find the neighbours of some recordings, or of all."""
    if args.count < 1:
        raise EcgpipeError(f"--count: {args.count} is not possible; give at least 1")
    outdir, record_ids = options.choose_run("neighbors", args.run, args.outdir, args.record_id, counted=False)
    mine = read_side(Run(outdir))
    theirs = read_side(Run(args.against)) if args.against else mine
    search = prepare_search(mine, theirs, record_ids, args.count, args.patient)
    blocks, search_facts = find_neighbors(search, args.method, args.random_state)
    search_facts |= {"patient": args.patient, "against": args.against and str(args.against)}
    facts = provenance.inherit_facts([pq.read_schema(path) for path in mine.embeddings])
    schema = provenance.add_origin(schemas.NEIGHBORS, "neighbors", neighbors=search_facts, **facts)
    if record_ids:
        table = pa.concat_tables([make_table(mine, theirs, *block).cast(schema) for block in blocks])
        print("\n".join(format_lines(table, mine.ids.take(pa.array(search.queries)).to_pylist())))
        if args.output:
            parquet.write(args.output, table)
    else:
        write_neighbors(search, blocks, schema, args.output or outdir / "neighbors.parquet")


def prepare_search(mine: Side, theirs: Side, record_ids: Sequence[str], count: int, patient: str | None) -> Search:
    """Say for which recordings neighbours are searched.

    Args:
        mine: The run of the recordings.
        theirs: The run that is searched; the same object to search within one run.
        record_ids: The recordings; none for all.
        count: Neighbours of each.
        patient: The column of records/ in which neighbours must differ; None for no such condition.

    Returns:
        The search.

    Raises:
        EcgpipeError: The runs cannot be compared, or a recording or the column is unknown.
    """
    check_comparable(mine, theirs)
    queries = find_rows(mine, record_ids) if record_ids else np.arange(len(mine.ids))
    # In another run the recording with the same record_id is a neighbour like any other.
    own = queries if theirs is mine else None
    return Search(
        mine, theirs, queries, count, own, number_patients(mine, theirs, patient, queries) if patient else None
    )


def find_neighbors(search: Search, method: str, random_state: int) -> tuple[Iterator[Block], dict[str, Any]]:
    """Find neighbours, exactly or approximately.

    Args:
        search: For which recordings, and where.
        method: Of METHODS.
        random_state: Seed of an approximate search.

    Returns:
        The neighbours, block by block; and how they were found.
    """
    is_exact = method == "exact" or len(search.theirs.ids) < LEAST or (method == "auto" and search.is_small)
    search_facts: dict[str, Any] = {"method": "exact" if is_exact else "approximate", "count": search.wanted}
    logger.info(
        "%s search for %d recordings among %d", search_facts["method"], len(search.queries), len(search.theirs.ids)
    )
    if is_exact:
        return search_exactly(search), search_facts
    blocks, measured = search_approximately(search, random_state)
    return blocks, search_facts | measured


def write_neighbors(search: Search, blocks: Iterator[Block], schema: pa.Schema, output: Path) -> None:
    """Write neighbours as they are found.

    Args:
        search: For which recordings.
        blocks: Of `find_neighbors`.
        schema: Of the file.
        output: The Parquet file.
    """
    progress = Progress("neighbors", len(search.queries), "recordings")
    with parquet.parquet_writer(output, schema) as writer:
        for rows, nearest in blocks:
            writer.write_table(make_table(search.mine, search.theirs, rows, nearest).cast(schema))
            progress.add(len(rows))
    logger.info("%s", output)


def check_comparable(mine: Side, theirs: Side) -> None:
    """Check that the embeddings of two runs can be compared.

    Args:
        mine: A run.
        theirs: Another one, or the same.

    Raises:
        EcgpipeError: They are of different checkpoints or widths.
    """
    first, second = (provenance.read_origin(pq.read_schema(side.embeddings[0])) for side in (mine, theirs))
    shas = first.get("checkpoint_sha256"), second.get("checkpoint_sha256")
    if None in shas:
        logger.warning(
            "%s does not say which checkpoint made it", mine.run.outdir if shas[0] is None else theirs.run.outdir
        )
    if shas[0] != shas[1] and None not in shas:
        checkpoints = [
            f"{side.get('checkpoint')} (sha256 {side['checkpoint_sha256'][:12]})" for side in (first, second)
        ]
        raise EcgpipeError(
            f"--against: {theirs.run.outdir} is of another checkpoint than {mine.run.outdir}: "
            f"{' and '.join(checkpoints)}. Their embeddings have no axes in common, a similarity would mean nothing; "
            "run both with one checkpoint, or see `compare`"
        )
    if mine.width != theirs.width:
        raise EcgpipeError(
            f"--against: embeddings of {theirs.run.outdir} have {theirs.width} numbers, those of {mine.run.outdir} "
            f"{mine.width}; run both with one checkpoint"
        )
    ours, others = first.get("preprocess", {}), second.get("preprocess", {})
    differ = [name for name in {**ours, **others} if ours.get(name) != others.get(name)]
    if differ:
        settings = (f"{name} {ours.get(name)} and {others.get(name)}" for name in differ)
        logger.warning(
            "the two runs were preprocessed differently, which moves embeddings too: %s", "; ".join(settings)
        )


def find_rows(side: Side, record_ids: Sequence[str]) -> np.ndarray:
    """Find the rows of some recordings.

    Args:
        side: Of the run.
        record_ids: The recordings; one that is given twice counts once.

    Returns:
        (recordings,) int64.

    Raises:
        EcgpipeError: One has no embedding.
    """
    wanted = pa.array(dict.fromkeys(record_ids), pa.string())
    rows = pc.index_in(wanted, side.ids)
    for record_id in wanted.filter(rows.is_null()).to_pylist():
        records = side.run.files("records")
        for row in (row for table in parquet.rows_of(records, [record_id]) for row in table.to_pylist()):
            raise EcgpipeError(
                f"RECORD_ID: {record_id!r} has no embedding, it was {row['status']}: {row['reason']}; give another one"
            )
        close = _find_close(record_id, side.ids)
        raise EcgpipeError(
            f"RECORD_ID: {record_id!r} is no recording of {side.run.outdir}; "
            + (f"there is {', '.join(map(repr, close))}" if close else f"{side.run.outdir / 'records'} has their ids")
        )
    return np.asarray(rows.to_numpy(), np.int64)


def number_patients(mine: Side, theirs: Side, column: str, queries: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Number the patients of two runs.

    Args:
        mine: The run whose recordings have neighbours.
        theirs: The run that is searched, or the same.
        column: Of `records/`, which tells patients apart.
        queries: The rows of `mine` that matter.

    Returns:
        A number of each patient, for `queries` and for the recordings of `theirs`, (recordings,) each. An unknown
        patient has -1 in the first and -2 in the second, so that two unknown patients are never the same.

    Raises:
        EcgpipeError: There is no such column.
    """
    texts = [_read_column(mine, column).take(pa.array(queries)), _read_column(theirs, column)]
    codes = pa.concat_arrays(texts).dictionary_encode().indices
    numbers = pc.fill_null(codes, -1).to_numpy()
    first, second = numbers[: len(queries)], numbers[len(queries) :]
    return first, np.where(second == -1, -2, second)


def make_table(mine: Side, theirs: Side, rows: np.ndarray, nearest: cosine_similarity.Nearest) -> pa.Table:
    """Make a table of neighbours.

    Args:
        mine: The run whose recordings have neighbours.
        theirs: The run that was searched.
        rows: (recordings,) of `mine`.
        nearest: Their neighbours.

    Returns:
        The columns of `schemas.NEIGHBORS`. A recording with fewer neighbours than wanted has fewer rows.
    """
    queries, rank = np.nonzero(nearest.rows >= 0)
    columns = [
        mine.ids.take(pa.array(rows[queries])),
        pa.array(rank + 1, pa.int32()),
        theirs.ids.take(pa.array(nearest.rows[queries, rank])),
        pa.array(nearest.similarity[queries, rank]),
    ]
    return pa.table(columns, schema=schemas.NEIGHBORS)


def format_lines(table: pa.Table, record_ids: Sequence[str]) -> list[str]:
    """Write neighbours for people to read: a recording, and below it rank, similarity and id of each."""
    by_id: dict[str, list[str]] = {record_id: [] for record_id in record_ids}
    for row in table.to_pylist():
        name = visible(row["neighbor_id"]) + "  (the same record_id)" * (row["neighbor_id"] == row["record_id"])
        by_id[row["record_id"]].append(f"{row['rank']:>4}  {row['similarity']:.4f}  {name}")
    return [
        line for record_id, neighbors in by_id.items() for line in (visible(record_id), *(neighbors or ["   none"]))
    ]


def _read_column(side: Side, name: str) -> pa.Array:
    """A column of the records as text, for the recordings that have an embedding."""
    paths = side.run.files("records")
    columns = dict.fromkeys(column for path in paths for column in pq.read_schema(path).names)
    if name not in columns:
        table_columns = [column for column in columns if column not in schemas.RECORDS.names]
        raise EcgpipeError(
            f"--patient: {name!r} is no column of {side.run.outdir / 'records'}; the inputs' tables gave "
            + (", ".join(table_columns) or "none")
        )
    pieces = [pq.read_table(path, columns=["record_id", name]) for path in paths if name in pq.read_schema(path).names]
    table = pa.concat_tables([piece.replace_schema_metadata(None) for piece in pieces], promote_options="permissive")
    places = pc.index_in(side.ids, table["record_id"].combine_chunks())
    return normalized_text.as_ids(table[name], name).take(places)


def _find_close(record_id: str, ids: pa.Array) -> list[str]:
    """Up to three ids that could be meant: they contain the text, or are written like it."""
    containing = ids.filter(pc.match_substring(ids, record_id))[:3].to_pylist()
    return containing or difflib.get_close_matches(record_id, ids[:LOOKED_THROUGH].to_pylist())
