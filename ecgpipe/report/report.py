"""Write report.html: one page about a run that opens anywhere, without a network and without the run's files."""

import argparse
import functools
import gzip
import json
import logging
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
import pyarrow as pa
import pyarrow.parquet as pq
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from ecgpipe.analysis import examples
from ecgpipe.core import options, provenance, settings
from ecgpipe.core.atomic import whole
from ecgpipe.core.run import RunInfo, Scan
from ecgpipe.evaluation import notes
from ecgpipe.models import calibration, labels
from ecgpipe.models.description import DEMO_MODEL
from ecgpipe.report import deidentify, evaluation_section, map_data, recording_view, rule_times, run_results
from ecgpipe.report.label_statistics import Summary
from ecgpipe.report.page_data import pack
from ecgpipe.report.run_results import ResultFiles, Results

logger = logging.getLogger(__name__)

MOST_SCANS = 10  # scans of the inputs that are listed, the last ones

# Labels that are named as occurring with a label, on a narrow screen.
MOST_TOGETHER = 3

# Of the leads in the page, gzipped: with all else below 25 MB as base64.
MOST_LEADS_BYTES = 10_000_000

# The results that the page links to, and `attention`, `attribution` and `evaluation` if the run has them.
FILES = (
    *("records", "predictions", "logits", "embeddings", "umap/umap.parquet", "examples.parquet"),
    *("duplicates.parquet", "manifest/files.parquet", "figures", "run.json"),
)

# How the results are read elsewhere. A test runs each in a folder of results.
SNIPPETS = {
    "pandas": """import pandas as pd

records = pd.read_parquet("records")
predictions = pd.read_parquet(
    "predictions"
).drop(columns="n_segments")
table = records.merge(
    predictions, on="record_id"
)
""",
    "Polars": """import polars as pl

records = pl.read_parquet(
    "records/*.parquet"
)
predictions = pl.read_parquet(
    "predictions/*.parquet"
).drop("n_segments")
table = records.join(
    predictions, on="record_id"
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


class Sections(NamedTuple):
    """The folders from which the page has further sections, if they are there."""

    evaluation: Path | None  # evaluation/
    benchmarks: Path | None  # benchmarks/, for the times of the rules


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `ecgpipe report`."""
    settings.add_arguments(parser, settings.Report)
    run_results.add_arguments(parser)
    parser.add_argument("--evaluation", type=Path, help="the folder evaluation/, if there are true labels")
    parser.add_argument("--benchmarks", type=Path, help="the folder benchmarks/, for the times of the rules")
    options.add(parser, "output", required=True, help="HTML file to write")


def run(args: argparse.Namespace) -> None:
    """Write the report."""
    files = ResultFiles(*(getattr(args, name) for name in ResultFiles._fields))
    report_settings = settings.parse_arguments("report", settings.Report, args)
    page = make_page(files, Sections(args.evaluation, args.benchmarks), report_settings)
    with whole(args.output) as temporary:
        temporary.write_text(page, encoding="utf-8")
    logger.info("%s: %.1f MB", args.output, len(page) / 1e6)


def make_page(files: ResultFiles, sections: Sections, report_settings: settings.Report) -> str:
    """Make the report of a run.

    Args:
        files: Where its results lie.
        sections: Where the results of optional stages lie.
        report_settings: What the report shows.

    Returns:
        HTML.

    Raises:
        EcgpipeError: A file is missing, or not valid.
    """
    # What is read.
    paths = report_settings.paths
    results = run_results.read_results(files, report_settings)
    records, names = results.sources.records, [summary.name for summary in results.summaries]
    chosen = pq.read_table(files.examples).to_pylist()
    if not sections.evaluation:
        chosen = leave_out_wrong(chosen)
    ids = [row["record_id"] for row in chosen]
    views = recording_view.read_views(ids, results.sources, paths)
    columns = report_settings.columns if report_settings.columns is not None or paths else []
    rows = map_data.collect(
        *(files.umap, results.predictions, records, names, ids, report_settings.map_points, paths, columns),
        true_labels=find_true_labels(sections.evaluation),
    )

    # What is computed.
    shown = list_recordings(chosen, limit_leads(views), rows, records, paths)
    logger.info(
        "%d recordings with their leads, %d points",
        sum(recording["view"] is not None for recording in shown),
        len(rows.points["row"]),
    )

    context = {
        "title": report_settings.title,
        "paths": paths,
        "made": _mark_settings(files, sections, report_settings),
        "segment_s": results.sources.windows.segment_s,
        "attention": bool(results.sources.attention),
        "attributed": files.attribution is not None,
        "snippets": SNIPPETS,
        "folders": _list_folders(files, sections),
        **_describe_run(results.info),
        **_describe_labels(results, paths),
        **_describe_map(rows),
        **_describe_recordings(shown),
        **_describe_workflow(sections.benchmarks),
        "evaluation": None,
    }
    thresholds = labels.thresholds_by_name(results.labels)
    data = {
        "facts": {
            "thresholds": list(thresholds.values()),
            "colour": results.widest,
            "paths": paths,
            "first": choose_first(shown),
            "attributable": recording_view.name_attributable(results.info, paths),
        },
        "rows": rows.rows,
        "points": rows.points,
        "plotly": get_plotlyjs(),
        "views": [{key: value for key, value in recording.items() if key != "reasons"} for recording in shown],
    }
    if sections.evaluation:
        context["evaluation"] = evaluation_section.read_evaluation(
            sections.evaluation, None if paths else columns or []
        )
        data["evaluation"] = evaluation_section.read_curves(sections.evaluation)
    context["data"] = {name: pack(value) for name, value in data.items()}
    return make_environment().get_template("report.html.j2").render(context)


def leave_out_wrong(chosen: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Leave out that recordings were chosen as wrong: the evaluation that said so was switched off since.

    Args:
        chosen: Rows of `schemas.EXAMPLES`.

    Returns:
        Those that have another reason, with their other reasons.
    """
    wrong = ("false_positive", "false_negative")
    rows = [{**row, "why": [why for why in row["why"] if why["kind"] not in wrong]} for row in chosen]
    return [row for row in rows if row["why"]]


def find_true_labels(evaluation: Path | None) -> Path | None:
    """Find the true labels of each recording; an evaluation of an older version has none."""
    path = evaluation / "true_labels.parquet" if evaluation else None
    return path if path and path.is_file() else None


def _mark_settings(files: ResultFiles, sections: Sections, report_settings: settings.Report) -> str:
    """What the page says of the settings that made it and its results."""
    facts = provenance.inherit_facts([pq.read_schema(files.umap)])
    made_by = settings.add_sha256("report", report_settings, facts)[settings.KEY]
    if sections.evaluation:
        metrics = pq.read_schema(sections.evaluation / "metrics.parquet")
        made_by = {**made_by, **provenance.read_origin(metrics).get(settings.KEY, {})}
    return settings.format_mark(made_by)


def _list_folders(files: ResultFiles, sections: Sections) -> list[str]:
    """The results that the page links to. Not those on disk: `figures` may be written after this page."""
    optional = {"attention": files.attention, "attribution": files.attribution, "evaluation": sections.evaluation}
    return [*FILES, *(name for name, path in optional.items() if path)]


def _describe_run(info: RunInfo) -> dict[str, Any]:
    """What the page's context says of the run as a whole."""
    return {
        "run": info,
        "scans": list_changed_scans(info),
        "made_by": list(dict.fromkeys(version for versions in info.made_by.values() for version in versions)),
        "finished": f"{datetime.fromisoformat(info.finished):%d %B %Y, %H:%M %Z}".lstrip("0"),
        "calibration": calibration.describe_facts(info.calibration) if info.calibration else None,
    }


def _describe_labels(results: Results, paths: bool) -> dict[str, Any]:
    """What the page's context says of the labels."""
    return {
        "total": results.n_predictions,
        "together": list_together(results.summaries),
        "summaries": results.summaries,
        "references": results.references,
        "choices": labels.describe_choices(
            results.labels if paths else list(map(deidentify.deidentify_label, results.labels))
        ),
        "with_threshold": [label.name for label in results.labels if label.threshold is not None],
        "weighted": any(label.pos_weight is not None for label in results.labels),
    }


def list_together(summaries: Sequence[Summary]) -> list[dict[str, Any]]:
    """List for each label the others that most often occur with it, for screens that are too narrow for a matrix.

    Args:
        summaries: Of the labels.

    Returns:
        For each `name`, `positive` and `others`: `name` and `share` in per cent, at most MOST_TOGETHER.
    """
    listed = []
    for summary in summaries:
        shares: list[dict[str, Any]] = [
            {"name": other.name, "share": 100 * n / summary.positive}
            for other, n in zip(summaries, summary.together, strict=True)
            if n and other is not summary
        ]
        others = sorted(shares, key=lambda other: -other["share"])[:MOST_TOGETHER]
        listed.append({"name": summary.name, "positive": summary.positive, "others": others})
    return listed


def _describe_map(rows: map_data.Atlas) -> dict[str, Any]:
    """What the page's context says of the map and the tables."""
    return {"n_points": rows.n_points, "map_points": len(rows.points["row"]), "n_rows": len(rows.rows["names"])}


def _describe_recordings(shown: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What the page's context says of the recordings that are shown with their leads."""
    return {
        "n_views": sum(recording["view"] is not None for recording in shown),
        "n_chosen": len(shown),
        "groups": recording_view.group_by_reason(
            [(recording["row"], recording["name"], recording["reasons"]) for recording in shown]
        ),
        "borderline": examples.BORDERLINE,
    }


def _describe_workflow(benchmarks: Path | None) -> dict[str, Any]:
    """What the page's context says of the times of the rules."""
    times = rule_times.read_rule_times(benchmarks) if benchmarks else []
    return {
        "times": times,
        "graph": rule_times.lay_out_graph(times, {time.rule: describe_time(time) for time in times}),
    }


def list_recordings(
    chosen: Sequence[Mapping[str, Any]],
    views: Mapping[str, Mapping[str, Any]],
    map_rows: map_data.Atlas,
    records: Sequence[Path],
    paths: bool,
) -> list[dict[str, Any]]:
    """List the recordings that the page holds with their leads, for its viewer.

    Args:
        chosen: Rows of examples.parquet.
        views: By record id, what `recording_view.read_views` gives.
        map_rows: The rows of the page.
        records: All `records/shard-*.parquet`.
        paths: Whether recordings are called by their ids.

    Returns:
        For each `row` and `name`, `why` it was chosen, in words, with `reasons`, its `neighbors`, `view` and `note`.
    """
    neighbor_ids = [neighbor["record_id"] for row in chosen for neighbor in row["neighbors"]]
    ids = list(dict.fromkeys([*views, *neighbor_ids]))
    names_of_ids = ids if paths else deidentify.number_recordings(records, pa.array(ids, pa.string()))
    names = dict(zip(ids, names_of_ids, strict=True))
    return [
        {
            "row": map_rows.row_of[row["record_id"]],
            "name": names[row["record_id"]],
            "why": list(map(recording_view.describe_reason, row["why"])),
            "reasons": row["why"],
            "neighbors": [
                {
                    "name": names[neighbor["record_id"]],
                    "row": map_rows.row_of.get(neighbor["record_id"]),
                    "similarity": neighbor["similarity"],
                }
                for neighbor in row["neighbors"]
            ],
            **views[row["record_id"]],
        }
        for row in chosen
        if row["record_id"] in views
    ]


def choose_first(shown: Sequence[Mapping[str, Any]]) -> int | None:
    """Choose the recording that the page opens with: one that a reader of ECGs can read.

    Args:
        shown: Of `list_recordings`.

    Returns:
        The row of the first whose leads are in mV, whose heart rate can be told, and which was not chosen for a low
        quality; else of the first that has leads; None if none has.
    """
    drawn = [recording for recording in shown if recording["view"]]
    clean = [
        recording
        for recording in drawn
        if recording["view"]["millivolts"]
        and recording["view"]["heart_rate"] is not None
        and all(why["kind"] != "quality" for why in recording["reasons"])
    ]
    return next((recording["row"] for recording in [*clean, *drawn]), None)


def limit_leads(views: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Leave out the leads of the last recordings if the page would become too large: long and noisy ones are large.

    Args:
        views: By record id, in the order of choice, what `recording_view.read_views` gives.

    Returns:
        The same, with None in place of a view that would make the page too large.
    """
    limited, size = {}, 0
    for record_id, shown in views.items():
        if shown["view"] is not None:
            size += len(gzip.compress(shown["view"]["leads"].tobytes(), 1))
        limited[record_id] = {**shown, "view": shown["view"] if size <= MOST_LEADS_BYTES else None}
    return limited


def list_changed_scans(info: RunInfo) -> list[tuple[int, Scan]]:
    """List the last scans that found recordings added, changed or removed, each with its number among all scans."""
    scans = enumerate(info.inputs.scans, start=1)
    changed = [(number, scan) for number, scan in scans if scan.added or scan.changed or scan.removed]
    return changed[-MOST_SCANS:]


def describe_time(time: rule_times.RuleTime) -> str:
    """Say for the figure of the workflow how many jobs a rule had, and how long they took."""
    return f"{time.jobs:,} job{'' if time.jobs == 1 else 's'}, {format_duration(time.total_s)}"


def format_duration(seconds: float) -> str:
    """Write a duration as people read it."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 3600 else f"{seconds / 3600:,.1f} h"


@functools.cache
def make_environment() -> jinja2.Environment:
    """Load the templates. What is put into them is escaped, unless it is marked as safe."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("ecgpipe.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals["asset"] = read_asset
    environment.globals["DEMO_MODEL"] = DEMO_MODEL
    environment.filters["grouped"] = "{:,}".format
    environment.filters["two"] = "{:.2f}".format
    environment.filters["three"] = lambda number: "\N{EN DASH}" if number is None else notes.format_number(number)
    environment.filters["percent"] = format_percent
    environment.filters["duration"] = format_duration
    environment.filters["digits"] = lambda number: "not finite" if number is None else f"{number:g}"
    environment.filters["hours"] = lambda hours: f"{hours:,.1f} h" if hours >= 1 else f"{hours * 60:.1f} min"
    environment.filters["pretty"] = lambda value: json.dumps(value, indent=2, ensure_ascii=False)
    return environment


def read_asset(name: str) -> Markup:
    """Read a style sheet or script of ours for the page."""
    return Markup((Path(__file__).parent / "templates" / name).read_text(encoding="utf-8"))  # noqa: S704, our own


def format_percent(share: float) -> str:
    """Write a share in percent, with one more digit if it is small."""
    return f"{share:.1%}" if share < 0.1 else f"{share:.0%}"
