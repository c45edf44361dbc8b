"""Write the report's main figures for papers and slides: figures/*.png and figures/*.svg."""

import argparse
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from matplotlib.figure import Figure

from ecgpipe.core import parquet, provenance, settings
from ecgpipe.models import labels
from ecgpipe.models.description import describe
from ecgpipe.preprocessing import reread
from ecgpipe.report import deidentify, ecg_paper, label_statistics, map_data, recording_view
from ecgpipe.report.label_statistics import Summary

logger = logging.getLogger(__name__)

FORMATS = ("png", "svg")

# Reasons for which recordings were not used, the most frequent; the others are summed up.
MOST_REASONS = 12

MAP_POINTS = 100_000

USED, SKIPPED, FAILED, REFERENCE = "#0b6b77", "#9a5b00", "#b3361e", "#c07a00"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `python -m ecgpipe figures`."""
    settings.add_arguments(parser, settings.Figures)
    recording_view.add_results_arguments(parser)
    parser.add_argument("--outdir", type=Path, required=True, help="the folder to write to")


def run(args: argparse.Namespace) -> None:
    """Write the figures."""
    asked = settings.of_arguments("figures", settings.Figures, args)
    content = json.loads(args.run.read_text(encoding="utf-8"))
    content = content if asked.paths else deidentify.without_paths(content)
    description = describe(args.description)
    predictions = parquet.numbered(args.predictions, "part", args.parts)
    given = labels.read_for(
        args.labels or settings.path("labels", asked.labels), pq.read_schema(predictions[0]).names, predictions[0]
    )
    summaries = label_statistics.summarise(predictions, labels.thresholds_by_name(given))
    references = {label.name: label.reference_share for label in given if label.reference_share is not None}
    total = sum(pq.read_metadata(path).num_rows for path in predictions)
    sources = recording_view.sources(args, asked, description.architecture.token_samples)
    figures: dict[str, Callable[[], Figure]] = {
        "account": lambda: account(content),
        "labels": lambda: positives(summaries, references, total),
        "probabilities": lambda: probabilities(summaries),
        "together": lambda: together(summaries),
        "map": lambda: umap(args.umap, predictions, summaries),
        "recording": lambda: recording(args.examples, sources, asked.paths),
    }
    facts = settings.marked("figures", asked, provenance.inherited([pq.read_schema(args.umap)]))
    made_by = settings.mark(facts[settings.KEY])
    with mpl.rc_context(ecg_paper.STYLE):
        for name, make in figures.items():
            figure = make()
            if content["checkpoint"]["random_weights"] and name != "account":
                ecg_paper.warn_of_random_weights(figure)
            for suffix in FORMATS:
                ecg_paper.save(figure, args.outdir / f"{name}.{suffix}", made_by)
    logger.info("%d figures in %s", len(figures), args.outdir)


def account(content: Mapping[str, Any]) -> Figure:
    """What became of the recordings, and why some were not used.

    Args:
        content: Of run.json.

    Returns:
        A figure of bars.
    """
    counts, reasons = content["counts"], content["reasons"][:MOST_REASONS]
    rest = sum(reason["count"] for reason in content["reasons"][MOST_REASONS:])
    bars = [("used", counts["ok"], USED)]
    colours = {"skipped": SKIPPED, "failed": FAILED}
    bars += [(f"{r['status']}: {r['reason']}", r["count"], colours.get(r["status"], SKIPPED)) for r in reasons]
    bars += [("other reasons", rest, SKIPPED)] if rest else []
    figure = Figure(figsize=(7, 0.8 + 0.3 * len(bars)), layout="constrained")
    axes = figure.subplots()
    names, values, shades = zip(*bars, strict=True)
    drawn = axes.barh(list(names), values, color=shades)
    axes.bar_label(drawn, [f"{value:,}" for value in values], padding=3)
    axes.invert_yaxis()
    axes.margins(x=0.12)
    axes.set_xlabel(f"recordings, of {counts['recordings']:,}")
    return figure


def positives(summaries: Sequence[Summary], references: Mapping[str, float], total: int) -> Figure:
    """The share of recordings that are positive for each label, beside the reference.

    Args:
        summaries: Of the labels.
        references: Shares by label, where the label CSV has one.
        total: How many recordings there are.

    Returns:
        A figure of bars, with a mark for each reference.
    """
    if not summaries:
        return _nothing("a model without a head: no labels")
    figure = Figure(figsize=(7, 0.9 + 0.27 * len(summaries)), layout="constrained")
    axes = figure.subplots()
    shares = [100 * summary.positive / max(total, 1) for summary in summaries]
    drawn = axes.barh([summary.name for summary in summaries], shares, color=USED, label="this dataset")
    axes.bar_label(drawn, [f"{summary.positive:,}" for summary in summaries], padding=3, color="#596673", fontsize=7)
    marks = [(i, 100 * references[s.name]) for i, s in enumerate(summaries) if s.name in references]
    if marks:
        rows, values = zip(*marks, strict=True)
        axes.scatter(
            values,
            rows,
            marker="|",
            s=90,
            linewidths=2.5,
            color=REFERENCE,
            zorder=3,
            label="reference of the label file",
        )
        axes.legend(frameon=False, loc="lower right")
    axes.invert_yaxis()
    axes.set_xlim(0, 108)
    axes.set_xlabel("positive at the threshold, % of recordings")
    return figure


def probabilities(summaries: Sequence[Summary]) -> Figure:
    """How the probabilities of each label spread, with its threshold: a histogram each."""
    if not summaries:
        return _nothing("a model without a head: no labels")
    figure = Figure(figsize=(7, 0.8 + 0.38 * len(summaries)), layout="constrained")
    axes = figure.subplots(len(summaries), 1, sharex=True, squeeze=False)[:, 0]
    edges = np.linspace(0, 1, label_statistics.BARS + 1)
    for one, summary in zip(axes, summaries, strict=True):
        one.stairs(summary.histogram, edges, fill=True, color=USED)
        one.axvline(summary.threshold, color="#1a2530", linewidth=0.8, linestyle="--")
        one.set(yticks=[], xlim=(0, 1))
        one.spines["left"].set_visible(False)
        one.set_ylabel(summary.name, rotation=0, ha="right", va="center")
    axes[-1].set_xlabel("probability; dashed: threshold")
    return figure


def together(summaries: Sequence[Summary]) -> Figure:
    """How often labels occur together: of the row's positives, the share that is positive for the column too."""
    if not summaries:
        return _nothing("a model without a head: no labels")
    counts = np.array([summary.together for summary in summaries], float)
    own = counts.diagonal()[:, None]
    shares = np.divide(100 * counts, own, out=np.full_like(counts, np.nan), where=own > 0)
    side = 2.4 + 0.32 * len(summaries)
    figure = Figure(figsize=(side + 0.6, side), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(shares, cmap="GnBu", vmin=0, vmax=100)
    names = [summary.name for summary in summaries]
    axes.set_xticks(range(len(names)), names, rotation=90)
    axes.set_yticks(range(len(names)), names)
    axes.spines[:].set_visible(False)
    figure.colorbar(image, ax=axes, label="positive for the column too, % of the row's", shrink=0.7)
    return figure


def umap(path: Path, predictions: Sequence[Path], summaries: Sequence[Summary]) -> Figure:
    """The map of the segments, coloured by the label whose probability varies most.

    Args:
        path: `umap/umap.parquet`.
        predictions: All `predictions/part-*.parquet`, in order.
        summaries: Of the labels.

    Returns:
        A figure; of a large map it shows a random sample.
    """
    points, total = parquet.sample(path, MAP_POINTS)
    figure = Figure(figsize=(7, 6), layout="constrained")
    axes = figure.subplots()
    size = 14 if len(points) < 500 else 5 if len(points) < 5000 else 1
    shown: dict[str, Any] = {"s": size, "linewidths": 0, "rasterized": len(points) > 2000}
    x, y = points["x"].to_numpy(), points["y"].to_numpy()
    if summaries:
        widest = max(summaries, key=lambda summary: summary.spread).name
        ids = points["record_id"].unique()
        [steps] = map_data.probabilities(predictions, ids, [widest])
        row = pc.index_in(points["record_id"], ids).to_numpy()
        drawn = axes.scatter(x, y, c=steps[row] * map_data.PROBABILITY_STEP, cmap="viridis", **shown)
        figure.colorbar(drawn, ax=axes, label=f"probability of {widest}", shrink=0.8)
    else:
        axes.scatter(x, y, color=USED, **shown)
    axes.set(xticks=[], yticks=[], xlabel="UMAP 1", ylabel="UMAP 2")
    sampled = f"{len(points):,} of {total:,} segments" if len(points) < total else f"{total:,} segments"
    axes.set_title(sampled, loc="left", fontsize=9)
    return figure


def recording(examples: Path, sources: reread.Sources, paths: bool) -> Figure:
    """The first of the chosen recordings that can be drawn, with attribution where there is one, else attention."""
    for row in pq.read_table(examples).to_pylist():
        record_id = row["record_id"]
        view = recording_view.read([record_id], sources).get(record_id, {}).get("view")
        if view is not None:
            name = record_id if paths else deidentify.names(sources.records, pa.array([record_id]))[0]
            why = "; ".join(recording_view.reason(why) for why in row["why"][:1])
            attributed = [given["label"] for given in view["attributions"]]
            return ecg_paper.draw(view, f"{name}  ({why})", colour=(attributed or ["attention"])[0])
    return _nothing("no recording can be drawn")


def _nothing(why: str) -> Figure:
    figure = Figure(figsize=(5, 1.5))
    figure.text(0.5, 0.5, why, ha="center", va="center", color="#596673")
    return figure
