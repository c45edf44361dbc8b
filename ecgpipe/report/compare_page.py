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
from ecgpipe.analysis.compare import (
    UNCHANGED,
    ComparedRun,
    compare_embeddings,
    compare_labels,
    compare_signals,
    find_only_in,
    list_warnings,
    make_changes_table,
)
from ecgpipe.core import options, parquet, provenance, schemas
from ecgpipe.core.atomic import whole, write_json
from ecgpipe.core.run import Run
from ecgpipe.report import deidentify
from ecgpipe.report.report import make_environment

logger = logging.getLogger(__name__)

Pair = tuple[ComparedRun, ComparedRun]

# Recordings of the page's table: the ones that changed most.
MOST_SHOWN = 50


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `ecgpipe compare`."""
    parser.add_argument("run_a", type=Path, metavar="RUN_A", help="the outdir of a finished run")
    parser.add_argument("run_b", type=Path, metavar="RUN_B", help="of another one; differences are B \N{MINUS SIGN} A")
    options.add(parser, "labels", help="a label CSV with decision thresholds (default: that of each run)")
    options.add(parser, "output", default=Path("compared"), help="folder (default %(default)s)")


def run(args: argparse.Namespace) -> None:
    """Compare two runs."""
    both = compare.read_run(Run(args.run_a), args.labels), compare.read_run(Run(args.run_b), args.labels)
    write_comparison(both, args.output)


def write_comparison(both: Pair, folder: Path) -> None:
    """Write the tables and the page of a comparison.

    Args:
        both: Two runs.
        folder: Where to write to.
    """
    joined = compare.join(*both)
    common = [name for name in both[0].labels if name in both[1].labels]
    logger.info("%d recordings in both, %d labels in both", len(joined.ids), len(common))
    rows, histograms, largest = compare_labels(both, joined, common)
    folder.mkdir(parents=True, exist_ok=True)
    spaces, distances = compare_embeddings(both, joined, folder)
    table = make_changes_table(both, joined, largest, distances, compare_signals(both, joined))
    only = pa.concat_tables(
        [find_only_in(both[0], both[1], "a", joined.rows[0]), find_only_in(both[1], both[0], "b", joined.rows[1])]
    )
    account = {
        "runs": {letter: str(compared.outdir) for letter, compared in zip("ab", both, strict=True)},
        "differences": compare.list_differences(*both),
        "recordings": {
            **{letter: len(compared.side.ids) for letter, compared in zip("ab", both, strict=True)},
            "both": len(joined.ids),
            "unchanged": int((np.abs(largest["change"]) <= UNCHANGED).sum()) if common else None,
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
    account["warnings"] = list_warnings(both, account)
    tables = {
        "labels": pa.Table.from_pylist(rows, schema=schemas.COMPARED_LABELS),
        "recordings": table,
        "only": only,
    }
    for name, content in tables.items():
        schema = provenance.add_origin(content.schema, "compare", compared=account["runs"])
        parquet.write(folder / f"{name}.parquet", content.replace_schema_metadata(schema.metadata))
    write_json(folder / "compare.json", account)
    page = render(both, account, rows, histograms, table, only)
    with whole(folder / "compare.html") as temporary:
        temporary.write_text(page, encoding="utf-8")
    for warning in account["warnings"]:
        logger.warning("%s", warning)
    logger.info("%s", folder / "compare.html")


def render(
    both: Pair,
    account: Mapping[str, Any],
    rows: Sequence[Mapping[str, Any]],
    histograms: Mapping[str, Sequence[np.ndarray]],
    table: pa.Table,
    only: pa.Table,
) -> str:
    """Make the page. It names no recordings if one of the runs has `report.paths: false`.

    Args:
        both: Two runs.
        account: What was found.
        rows: Of `compare_labels`.
        histograms: Of `compare_labels`.
        table: Of `make_changes_table`.
        only: Of `find_only_in`, both runs.

    Returns:
        HTML.
    """
    paths = all(compared.paths for compared in both)
    shown_runs = both if paths else (_deidentify(both[0]), _deidentify(both[1]))
    by_distance = not account["labels"]["both"]
    amounts = pc.fill_null(table["embedding_distance"] if by_distance else pc.abs(table["change"]), -1).to_numpy()
    shown = table.take(np.argsort(-amounts, kind="stable")[:MOST_SHOWN]).to_pylist()
    if not paths:
        names = deidentify.number_recordings(
            both[0].records, pa.array([row["record_id"] for row in shown], pa.string())
        )
        shown = [{**row, "record_id": name} for row, name in zip(shown, names, strict=True)]
    missing = only.group_by(["run", "other_status"]).aggregate([("record_id", "count")]).to_pylist()
    shares = [f"{round(100 * share)} %" for share in distribution_shift.QUANTILES]
    return (
        make_environment()
        .get_template("compare.html.j2")
        .render(
            both=[
                {"letter": letter, "name": str(compared.outdir) if paths else letter, "run": compared.info}
                for letter, compared in zip("AB", shown_runs, strict=True)
            ],
            paths=paths,
            account=account,
            differences=compare.list_differences(*shown_runs),
            rows=rows,
            histograms={name: [bars.tolist() for bars in pair] for name, pair in histograms.items()},
            shown=shown,
            distances=dict(zip(shares, _compute_quantiles(table["embedding_distance"]), strict=False)),
            gone=sorted(missing, key=lambda row: (row["run"], row["other_status"] or "")),
        )
    )


def _deidentify(compared: ComparedRun) -> ComparedRun:
    """A run of which nothing is known that could name a patient."""
    origin = deidentify.keep_only(compared.origin, deidentify.ORIGIN)
    return compared._replace(info=deidentify.deidentify_run(compared.info), origin=origin)


def _compute_quantiles(values: pa.ChunkedArray) -> list[float]:
    numbers = values.drop_null().to_numpy()
    return np.quantile(numbers, distribution_shift.QUANTILES).tolist() if len(numbers) else []
