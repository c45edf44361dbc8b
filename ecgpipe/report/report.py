"""Write report.html: one page about a run that opens anywhere, without a network and without the run's files."""

import argparse
import gzip
import json
import logging
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import jinja2
import pyarrow as pa
import pyarrow.parquet as pq
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from ecgpipe.analysis import examples
from ecgpipe.core import parquet, provenance, settings
from ecgpipe.core.atomic import whole
from ecgpipe.evaluation import notes
from ecgpipe.models import calibration, labels
from ecgpipe.models.description import describe
from ecgpipe.report import deidentify, evaluation_section, label_statistics, map_data, recording_view, rule_times
from ecgpipe.report.payload import pack

logger = logging.getLogger(__name__)

MOST_SCANS = 10  # scans of the inputs that are listed, the last ones

# Of the leads in the page, gzipped: with all else below 25 MB as base64.
MOST_LEADS_BYTES = 10_000_000

# The results that the page has a link to. A run may go without the last ones.
FILES = (
    *("records", "predictions", "logits", "embeddings", "umap/umap.parquet", "examples.parquet"),
    *("duplicates.parquet", "manifest/files.parquet", "figures", "run.json"),
)
OPTIONAL = ("attention", "attribution", "evaluation")

# How the results are read elsewhere. A test runs each in a folder of results.
SNIPPETS = {
    "pandas": """import pandas as pd

records = pd.read_parquet("records")
predictions = pd.read_parquet("predictions")
table = records.merge(
    predictions.drop(columns="n_segments"),
    on="record_id",
)
""",
    "Polars": """import polars as pl

records = pl.read_parquet("records/*.parquet")
predictions = pl.read_parquet(
    "predictions/*.parquet"
)
table = records.join(
    predictions.drop("n_segments"),
    on="record_id",
)
""",
    "DuckDB": """import duckdb

table = duckdb.sql(\"\"\"
    SELECT * FROM 'records/*.parquet'
    JOIN (SELECT * EXCLUDE n_segments
          FROM 'predictions/*.parquet')
    USING (record_id)
\"\"\")
""",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `python -m ecgpipe report`."""
    settings.add_arguments(parser, settings.Report)
    recording_view.add_results_arguments(parser)
    parser.add_argument("--evaluation", type=Path, help="the folder evaluation/, where there are true labels")
    parser.add_argument("--benchmarks", type=Path, help="the folder benchmarks/, for the times of the rules")
    parser.add_argument("--output", type=Path, required=True, help="HTML file to write")


def run(args: argparse.Namespace) -> None:
    """Write the report."""
    asked = settings.of_arguments("report", settings.Report, args)
    content = json.loads(args.run.read_text(encoding="utf-8"))
    content = content if asked.paths else deidentify.without_paths(content)
    description = describe(args.description)
    sources = recording_view.sources(args, asked, description.architecture.token_samples)
    predictions = parquet.numbered(args.predictions, "part", args.parts)
    given = labels.read_for(
        args.labels or settings.path("labels", asked.labels), pq.read_schema(predictions[0]).names, predictions[0]
    )
    thresholds = labels.thresholds_by_name(given)
    summaries = label_statistics.summarise(predictions, thresholds)
    names = [summary.name for summary in summaries]
    chosen = pq.read_table(args.examples).to_pylist()
    ids = [row["record_id"] for row in chosen]
    columns = asked.columns if asked.columns is not None or asked.paths else []
    found = map_data.collect(
        args.umap, predictions, sources.records, names, ids, asked.map_points, asked.paths, columns
    )
    shown = recordings(
        chosen, bounded(recording_view.read(ids, sources, asked.paths)), found, sources.records, asked.paths
    )
    n_views = sum(one["view"] is not None for one in shown)
    logger.info("%d recordings with their leads, %d points", n_views, len(found.points["row"]))
    times = rule_times.of_rules(args.benchmarks) if args.benchmarks else []
    widest = max(summaries, key=lambda summary: summary.spread).name if summaries else None
    facts = {"thresholds": list(thresholds.values()), "colour": widest, "paths": asked.paths}
    evaluation = (
        evaluation_section.read(args.evaluation, None if asked.paths else columns or []) if args.evaluation else None
    )
    made = settings.marked("report", asked, provenance.inherited([pq.read_schema(args.umap)]))[settings.KEY]
    if args.evaluation:
        made = {**made, **provenance.origin(pq.read_schema(args.evaluation / "metrics.parquet")).get(settings.KEY, {})}
    page = (
        environment()
        .get_template("report.html.j2")
        .render(
            title=asked.title,
            run=content,
            made=settings.mark(made),
            paths=asked.paths,
            scans=changes(content),
            made_by=list(dict.fromkeys(version for by in content.get("made_by", {}).values() for version in by)),
            finished=f"{datetime.fromisoformat(content['finished']):%d %B %Y, %H:%M %Z}".lstrip("0"),
            segment_s=sources.windows.segment_s,
            total=sum(pq.read_metadata(path).num_rows for path in predictions),
            summaries=summaries,
            references={label.name: label.reference_share for label in given if label.reference_share is not None},
            calibration=calibration.describe_facts(content["calibration"]) if content.get("calibration") else None,
            choices=labels.describe_choices(given if asked.paths else [deidentify.label(label) for label in given]),
            with_threshold=[label.name for label in given if label.threshold is not None],
            n_points=found.n_points,
            map_points=len(found.points["row"]),
            n_rows=len(found.rows["names"]),
            n_views=n_views,
            n_chosen=len(shown),
            groups=recording_view.groups([(one["row"], one["name"], one["reasons"]) for one in shown]),
            borderline=examples.BORDERLINE,
            attention=bool(sources.attention),
            attributed=args.attribution is not None,
            evaluation=evaluation,
            # Not what is there yet: `figures` may be written after this page.
            folders=[*FILES, *(name for name in OPTIONAL if getattr(args, name))],
            snippets=SNIPPETS,
            times=times,
            graph=rule_times.graph(times, {time.rule: counted(time) for time in times}),
            data={
                "facts": pack(facts),
                "rows": pack(found.rows),
                "points": pack(found.points),
                "plotly": pack(get_plotlyjs()),
                **({"evaluation": pack(evaluation_section.curves(args.evaluation))} if args.evaluation else {}),
                "views": pack([{key: value for key, value in one.items() if key != "reasons"} for one in shown]),
            },
        )
    )
    with whole(args.output) as temporary:
        temporary.write_text(page, encoding="utf-8")
    logger.info("%s: %.1f MB", args.output, len(page) / 1e6)


def recordings(
    chosen: Sequence[Mapping[str, Any]],
    read: Mapping[str, Mapping[str, Any]],
    found: map_data.Atlas,
    records: Sequence[Path],
    paths: bool,
) -> list[dict[str, Any]]:
    """The recordings that the page holds with their leads, for its viewer.

    Args:
        chosen: Rows of examples.parquet.
        read: By record id, what `recording_view.read` gives.
        found: The rows of the page.
        records: All `records/shard-*.parquet`.
        paths: Whether recordings are called by their ids.

    Returns:
        For each `row` and `name`, `why` it was chosen, in words, with `reasons`, its `neighbors`, `view` and `note`.
    """
    alike = [neighbor["record_id"] for row in chosen for neighbor in row["neighbors"]]
    known = list(dict.fromkeys([*read, *alike]))
    called = known if paths else deidentify.names(records, pa.array(known, pa.string()))
    names = dict(zip(known, called, strict=True))
    return [
        {
            "row": found.row_of[row["record_id"]],
            "name": names[row["record_id"]],
            "why": list(map(recording_view.reason, row["why"])),
            "reasons": row["why"],
            "neighbors": [
                {
                    "name": names[neighbor["record_id"]],
                    "row": found.row_of.get(neighbor["record_id"]),
                    "similarity": neighbor["similarity"],
                }
                for neighbor in row["neighbors"]
            ],
            **read[row["record_id"]],
        }
        for row in chosen
        if row["record_id"] in read
    ]


def bounded(read: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """The recordings as far as their leads fit into the page, those after that without: long and noisy ones are large.

    Args:
        read: By record id, in the order of choice, what `recording_view.read` gives.

    Returns:
        The same, with None in place of a view that would make the page too large.
    """
    taken, size = {}, 0
    for record_id, shown in read.items():
        if shown["view"] is not None:
            size += len(gzip.compress(shown["view"]["leads"].tobytes(), 1))
        taken[record_id] = {**shown, "view": shown["view"] if size <= MOST_LEADS_BYTES else None}
    return taken


def changes(run: Mapping[str, Any]) -> list[tuple[int, dict[str, int]]]:
    """The last scans of the inputs that found something new, changed or gone, each with its number among all."""
    scans = enumerate(run.get("inputs", {}).get("scans", []), start=1)
    changed = [(number, scan) for number, scan in scans if scan["added"] or scan["changed"] or scan["removed"]]
    return changed[-MOST_SCANS:]


def counted(time: rule_times.RuleTime) -> str:
    """What the figure of the workflow says of a rule."""
    return f"{time.jobs:,} job{'' if time.jobs == 1 else 's'}, {duration(time.total_s)}"


def duration(seconds: float) -> str:
    """A time as people read it."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 3600 else f"{seconds / 3600:,.1f} h"


def environment() -> jinja2.Environment:
    """The templates: what is put into them is escaped, unless it is marked as safe."""
    made = jinja2.Environment(
        loader=jinja2.PackageLoader("ecgpipe.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.globals["asset"] = asset
    made.filters["grouped"] = "{:,}".format
    made.filters["two"] = "{:.2f}".format
    made.filters["three"] = lambda number: "\N{EN DASH}" if number is None else notes.format_number(number)
    made.filters["percent"] = percent
    made.filters["duration"] = duration
    made.filters["digits"] = lambda number: "not finite" if number is None else f"{number:g}"
    made.filters["hours"] = lambda hours: f"{hours:,.1f} h" if hours >= 1 else f"{hours * 60:.1f} min"
    made.filters["pretty"] = lambda value: json.dumps(value, indent=2, ensure_ascii=False)
    return made


def asset(name: str) -> Markup:
    """A style sheet or script of ours, as it stands in the page."""
    return Markup((Path(__file__).parent / "templates" / name).read_text(encoding="utf-8"))  # noqa: S704, our own


def percent(share: float) -> str:
    """A share, with a digit more where it is small."""
    return f"{share:.1%}" if share < 0.1 else f"{share:.0%}"
