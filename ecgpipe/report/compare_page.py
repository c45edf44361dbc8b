"""Compare two runs: two checkpoints or two settings over the same recordings, or one checkpoint over two datasets."""

import argparse
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ecgpipe.analysis import compare, distribution_shift
from ecgpipe.analysis.compare import UNCHANGED, Run, changes, of_embeddings, of_labels, only_in, same_signals, warnings
from ecgpipe.core import parquet, provenance, schemas
from ecgpipe.core.atomic import whole, write_json
from ecgpipe.report import deidentify
from ecgpipe.report.report import environment

logger = logging.getLogger(__name__)

# Recordings of the page's table: those that changed most.
MOST_SHOWN = 50


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `python -m ecgpipe compare`."""
    parser.add_argument("run_a", type=Path, metavar="RUN_A", help="the outdir of a finished run")
    parser.add_argument("run_b", type=Path, metavar="RUN_B", help="of another one; differences are B less A")
    parser.add_argument("--labels", type=Path, help="a label CSV with thresholds (default: that of each run)")
    parser.add_argument("--output", type=Path, default=Path("compared"), help="folder (default %(default)s)")


def run(args: argparse.Namespace) -> None:
    """Write the tables and the page."""
    both = compare.read(args.run_a, args.labels), compare.read(args.run_b, args.labels)
    joined = compare.join(*both)
    common = [name for name in both[0].labels if name in both[1].labels]
    logger.info("%d recordings in both, %d labels in both", len(joined.ids), len(common))
    rows, histograms, recordings = of_labels(both, joined, common)
    args.output.mkdir(parents=True, exist_ok=True)
    spaces, distances = of_embeddings(both, joined, args.output)
    signals = same_signals(both, joined)
    only = pa.concat_tables(
        [only_in(both[0], both[1], "a", joined.rows[0]), only_in(both[1], both[0], "b", joined.rows[1])]
    )
    table = changes(both, joined, recordings, distances, signals)
    account = {
        "runs": {name: str(one.outdir) for name, one in zip("ab", both, strict=True)},
        "differences": compare.differences(*both),
        "recordings": {
            **{name: len(one.side.ids) for name, one in zip("ab", both, strict=True)},
            "both": len(joined.ids),
            "unchanged": int((np.abs(recordings["change"]) <= UNCHANGED).sum()) if common else None,
            "other_segments": pc.sum(pc.not_equal(table["n_segments_a"], table["n_segments_b"])).as_py() or 0,
            "other_signal": pc.sum(pc.invert(table["same_signal"])).as_py() or 0,
        },
        "labels": {
            "both": common,
            "only_a": [name for name in both[0].labels if name not in common],
            "only_b": [name for name in both[1].labels if name not in common],
        },
        "embeddings": spaces,
    }
    account["warnings"] = warnings(both, account)
    written = {
        "labels": pa.Table.from_pylist(rows, schema=schemas.COMPARED_LABELS),
        "recordings": table,
        "only": only,
    }
    for name, content in written.items():
        schema = provenance.with_origin(content.schema, "compare", compared=account["runs"])
        parquet.write(args.output / f"{name}.parquet", content.replace_schema_metadata(schema.metadata))
    write_json(args.output / "compare.json", account)
    page = render(both, account, rows, histograms, table, only)
    with whole(args.output / "compare.html") as temporary:
        temporary.write_text(page, encoding="utf-8")
    for warning in account["warnings"]:
        logger.warning("%s", warning)
    logger.info("%s", args.output / "compare.html")


def render(
    both: tuple[Run, Run],
    account: Mapping[str, Any],
    rows: Sequence[Mapping[str, Any]],
    histograms: Mapping[str, Sequence[np.ndarray]],
    table: pa.Table,
    only: pa.Table,
) -> str:
    """The page. It names no recordings if one of the runs was to have a report without (`report.paths`).

    Args:
        both: Two runs.
        account: What was found.
        rows: What `of_labels` gives.
        histograms: The same.
        table: What `changes` gives.
        only: What `only_in` gives of both.

    Returns:
        HTML.
    """
    paths = all(deidentify.shows_names(one.content) for one in both)
    by_distance = not account["labels"]["both"]
    amounts = pc.fill_null(table["embedding_distance"] if by_distance else pc.abs(table["change"]), -1).to_numpy()
    shown = table.take(np.argsort(-amounts, kind="stable")[:MOST_SHOWN]).to_pylist()
    if not paths:
        names = deidentify.names(both[0].records, pa.array([row["record_id"] for row in shown], pa.string()))
        shown = [{**row, "record_id": name} for row, name in zip(shown, names, strict=True)]
    gone = only.group_by(["run", "other_status"]).aggregate([("record_id", "count")]).to_pylist()
    return (
        environment()
        .get_template("compare.html.j2")
        .render(
            both=[
                {
                    "letter": letter,
                    "name": str(one.outdir) if paths else letter,
                    "run": one.content if paths else deidentify.without_paths(one.content),
                }
                for letter, one in zip("AB", both, strict=True)
            ],
            paths=paths,
            account=account,
            differences=account["differences"] if paths else compare.differences(*map(_without_paths, both)),
            rows=rows,
            histograms={name: [some.tolist() for some in pair] for name, pair in histograms.items()},
            shown=shown,
            distances={
                f"{round(100 * share)} %": value
                for share, value in zip(
                    distribution_shift.QUANTILES, _quantiles(table["embedding_distance"]), strict=False
                )
            },
            gone=sorted(gone, key=lambda row: (row["run"], row["other_status"] or "")),
        )
    )


def _without_paths(one: Run) -> Run:
    """A run of which nothing is known that could name a patient."""
    origin = deidentify.only(one.origin, deidentify.ORIGIN)
    return one._replace(content=deidentify.without_paths(one.content), origin=origin)


def _quantiles(values: pa.ChunkedArray) -> list[float]:
    numbers = values.drop_null().to_numpy()
    return np.quantile(numbers, distribution_shift.QUANTILES).tolist() if len(numbers) else []
