"""Write the report's main figures for papers and slides: figures/*.png and figures/*.svg."""

import argparse
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
from matplotlib.ticker import MaxNLocator, StrMethodFormatter

from ecgpipe.core import options, parquet, provenance, settings
from ecgpipe.core.run import RunInfo
from ecgpipe.preprocessing import reread
from ecgpipe.report import deidentify, ecg_paper, label_statistics, map_data, recording_view, run_results
from ecgpipe.report.label_statistics import Summary
from ecgpipe.report.run_results import ResultFiles

logger = logging.getLogger(__name__)

FORMATS = ("png", "svg")

# The most frequent reasons why recordings were not used; the others are summed up.
MOST_REASONS = 12

MAP_POINTS = 100_000
MOST_LABELS = 40  # of a figure

USED, SKIPPED, FAILED, REFERENCE = "#0b6b77", "#9a5b00", "#b3361e", "#c07a00"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `ecgpipe figures`."""
    settings.add_arguments(parser, settings.Figures)
    run_results.add_arguments(parser)
    options.add(parser, "outdir", required=True, help="folder to write to")


def run(args: argparse.Namespace) -> None:
    """Write the figures."""
    files = ResultFiles(*(getattr(args, name) for name in ResultFiles._fields))
    write_figures(files, settings.parse_arguments("figures", settings.Figures, args), args.outdir)


def write_figures(files: ResultFiles, figures_settings: settings.Figures, folder: Path) -> None:
    """Write the figures of a run.

    Args:
        files: Where its results lie.
        figures_settings: What the figures show.
        folder: Where to write to.

    Raises:
        EcgpipeError: A file is missing, or not valid.
    """
    results = run_results.read_results(files, figures_settings)
    summaries, note = select_labels(results.summaries)
    figures: dict[str, Callable[[], Figure]] = {
        "account": lambda: draw_counts(results.info),
        "labels": lambda: draw_positives(summaries, results.references, results.n_predictions, note),
        "probabilities": lambda: draw_probabilities(summaries, note),
        "together": lambda: draw_together(summaries, note),
        "map": lambda: draw_map(files.umap, results.predictions, results.widest),
        "recording": lambda: draw_recording(files.examples, results.sources, figures_settings.paths),
    }
    facts = settings.add_sha256("figures", figures_settings, provenance.inherit_facts([pq.read_schema(files.umap)]))
    made_by = settings.format_mark(facts[settings.KEY])
    with mpl.rc_context(ecg_paper.STYLE):
        for name, draw in figures.items():
            figure = draw()
            if results.info.checkpoint.random_weights and name != "account":
                ecg_paper.warn_of_random_weights(figure)
            if results.info.checkpoint.demo_model and name != "account":
                ecg_paper.name_demo_model(figure)
            save_in_all_formats(figure, folder / name, made_by)
    logger.info("%d figures in %s", len(figures), folder)


def save_in_all_formats(figure: Figure, path: Path, description: str | None = None) -> None:
    """Write a figure in each of FORMATS, laid out once.

    Args:
        figure: The figure.
        path: Without an ending.
        description: For its metadata.
    """
    ecg_paper.lay_out(figure)
    for suffix in FORMATS:
        ecg_paper.save(figure, path.with_name(f"{path.name}.{suffix}"), description)


def select_labels(summaries: Sequence[Summary]) -> tuple[Sequence[Summary], str]:
    """Select the labels that figures show: all, or of more than MOST_LABELS the most frequent ones.

    The figures are for papers and slides: with 164 labels they would be 1.1 to 1.6 m high. The report has all.

    Args:
        summaries: Of all labels.

    Returns:
        Those shown, in the model's order, and a note for the figures that says which they are; "" for all.
    """
    if len(summaries) <= MOST_LABELS:
        return summaries, ""
    order = sorted(range(len(summaries)), key=lambda i: (-summaries[i].positive, -summaries[i].mean, i))
    places = sorted(order[:MOST_LABELS])
    note = f"the {MOST_LABELS} most frequent of {len(summaries)} labels; the report has all"
    return [summaries[i]._replace(together=[summaries[i].together[j] for j in places]) for i in places], note


def draw_counts(info: RunInfo) -> Figure:
    """Draw what became of the recordings, and why some were not used.

    Args:
        info: What run.json says.

    Returns:
        A figure of bars.
    """
    rest = sum(reason.count for reason in info.reasons[MOST_REASONS:])
    bars = [("used", info.counts.ok, USED)]
    colours = {"skipped": SKIPPED, "failed": FAILED}
    bars += [
        (f"{reason.status}: {reason.reason}", reason.count, colours.get(reason.status, SKIPPED))
        for reason in info.reasons[:MOST_REASONS]
    ]
    bars += [("other reasons", rest, SKIPPED)] if rest else []
    figure = Figure(figsize=(7, 0.8 + 0.3 * len(bars)), layout="constrained")
    axes = figure.subplots()
    names, values, shades = zip(*bars, strict=True)
    patches = axes.barh(list(names), values, color=shades)
    axes.bar_label(patches, [f"{value:,}" for value in values], padding=3)
    axes.invert_yaxis()
    axes.margins(x=0.12)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axes.set_xlabel(f"recordings, of {info.counts.recordings:,}")
    return figure


def draw_positives(summaries: Sequence[Summary], references: Mapping[str, float], total: int, note: str = "") -> Figure:
    """Draw the share of recordings that are positive for each label, beside the reference.

    Args:
        summaries: Of the labels.
        references: Shares by label, if the label CSV has one.
        total: Number of recordings.
        note: Which labels they are, if not all.

    Returns:
        A figure of bars, with a mark for each reference.
    """
    if not summaries:
        return _draw_nothing("a model without a head: no labels")
    figure = Figure(figsize=(7, 0.9 + 0.27 * len(summaries)), layout="constrained")
    axes = figure.subplots()
    shares = [100 * summary.positive / max(total, 1) for summary in summaries]
    patches = axes.barh([summary.name for summary in summaries], shares, color=USED, label="this dataset")
    axes.bar_label(patches, [f"{summary.positive:,}" for summary in summaries], padding=3, color="#596673", fontsize=7)
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
    axes.set_title(note, loc="left", fontsize=9)
    axes.set_xlabel("positive at the threshold, % of recordings")
    return figure


def draw_probabilities(summaries: Sequence[Summary], note: str = "") -> Figure:
    """Draw a histogram of the probabilities of each label, with its decision threshold.

    All are in one coordinate system, a row for each: the time that matplotlib takes to lay out several grows with the
    cube of their number.
    """
    if not summaries:
        return _draw_nothing("a model without a head: no labels")
    rows = len(summaries)
    figure = Figure(figsize=(7, 0.8 + 0.38 * rows), layout="constrained")
    axes = figure.subplots()
    edges = np.linspace(0, 1, label_statistics.BARS + 1)
    for row, summary in enumerate(summaries):
        counts = np.array(summary.histogram, float)
        axes.stairs(row + 1 - 0.9 * counts / (counts.max() or 1), edges, baseline=row + 1, fill=True, color=USED)
    axes.hlines(np.arange(1, rows + 1), 0, 1, color="#1a2530", linewidth=0.8)
    places = np.arange(rows)
    limits = [summary.threshold for summary in summaries]
    axes.vlines(limits, places + 0.05, places + 1, color="#1a2530", linewidth=0.8, linestyle="--")
    axes.set_yticks(places + 0.5, [summary.name for summary in summaries])
    axes.tick_params(axis="y", length=0)
    axes.spines[["left", "bottom"]].set_visible(False)
    axes.set(xlim=(0, 1), ylim=(rows, 0), xlabel="probability; dashed: threshold")
    axes.set_title(note, loc="left", fontsize=9)
    return figure


def draw_together(summaries: Sequence[Summary], note: str = "") -> Figure:
    """Draw how often labels occur together: the share of the row's positives that is positive for the column too."""
    if not summaries:
        return _draw_nothing("a model without a head: no labels")
    counts = np.array([summary.together for summary in summaries], float)
    own = counts.diagonal()[:, None]
    shares = np.divide(100 * counts, own, out=np.full_like(counts, np.nan), where=own > 0)
    side = 2.4 + 0.32 * len(summaries)
    figure = Figure(figsize=(side + 0.6, side), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(shares, cmap="GnBu", vmin=0, vmax=100)
    names = [summary.name for summary in summaries]
    axes.set_title(note, loc="left", fontsize=9)
    axes.set_xticks(range(len(names)), names, rotation=90)
    axes.set_yticks(range(len(names)), names)
    axes.spines[:].set_visible(False)
    figure.colorbar(image, ax=axes, label="positive for the column too, % of the row's", shrink=0.7)
    return figure


def draw_map(path: Path, predictions: Sequence[Path], label: str | None) -> Figure:
    """Draw the map of the segments, coloured by the probability of a label.

    Args:
        path: `umap/umap.parquet`.
        predictions: All `predictions/part-*.parquet`, in order.
        label: The label; None for a model without a head.

    Returns:
        A figure; of a large map it shows a random sample.
    """
    points, total = parquet.sample(path, MAP_POINTS)
    figure = Figure(figsize=(7, 6), layout="constrained")
    axes = figure.subplots()
    size = 14 if len(points) < 500 else 5 if len(points) < 5000 else 1
    style: dict[str, Any] = {"s": size, "linewidths": 0, "rasterized": len(points) > 2000}
    x, y = points["x"].to_numpy(), points["y"].to_numpy()
    if label:
        ids = points["record_id"].unique()
        [steps] = map_data.read_probabilities(predictions, ids, [label])
        row = pc.index_in(points["record_id"], ids).to_numpy()
        scatter = axes.scatter(x, y, c=steps[row] * map_data.PROBABILITY_STEP, cmap="viridis", **style)
        figure.colorbar(scatter, ax=axes, label=f"probability of {label}", shrink=0.8)
    else:
        axes.scatter(x, y, color=USED, **style)
    axes.set(xticks=[], yticks=[], xlabel="UMAP 1", ylabel="UMAP 2")
    sampled = f"{len(points):,} of {total:,} segments" if len(points) < total else f"{total:,} segments"
    axes.set_title(sampled, loc="left", fontsize=9)
    return figure


def draw_recording(examples: Path, sources: reread.Sources, paths: bool) -> Figure:
    """Draw the first of the chosen recordings that can be drawn, with an attribution, or else with attention."""
    for row in pq.read_table(examples).to_pylist():
        record_id = row["record_id"]
        view = recording_view.read_views([record_id], sources).get(record_id, {}).get("view")
        if view is not None:
            name = record_id if paths else deidentify.number_recordings(sources.records, pa.array([record_id]))[0]
            why = "; ".join(recording_view.describe_reason(why) for why in row["why"][:1])
            attributed = [attribution["label"] for attribution in view["attributions"]]
            return ecg_paper.draw(view, f"{name}  ({why})", colour=(attributed or ["attention"])[0])
    return _draw_nothing("no recording can be drawn")


def _draw_nothing(why: str) -> Figure:
    figure = Figure(figsize=(5, 1.5))
    figure.text(0.5, 0.5, why, ha="center", va="center", color="#596673")
    return figure
