"""The workflow as the report shows it: how long the jobs of each rule took, and which rule reads which."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

# What each rule reads, as in `snakemake --rulegraph`, with which a test compares it. Not in a run's figure: `all`, and
# if they are switched off, `sample` with the comparison of precisions, `attribute` and `evaluate`; and, of a small run,
# `umap_fit` and `umap_place`.
SOURCES = {
    "checkpoint": (),
    "manifest": (),
    "preprocess": ("manifest",),
    "sample": ("manifest",),
    "precision": ("checkpoint", "sample"),
    "infer": ("checkpoint", "preprocess", "precision"),
    "aggregate": ("infer",),
    "umap_fit": ("infer",),
    "umap_place": ("infer", "umap_fit"),
    "umap": ("infer", "umap_place"),
    "attribute": ("checkpoint", "preprocess", "aggregate"),
    "evaluate": ("preprocess", "aggregate"),
    "examples": ("preprocess", "infer", "aggregate", "umap", "evaluate"),
    "summary": ("manifest", "checkpoint", "preprocess", "infer", "aggregate", "umap", "precision"),
    "figures": ("summary", "examples", "attribute"),
    "report": ("summary", "examples", "attribute", "evaluate"),
}

# Where each stands in the figure: column and row. Columns of rules that have not run are left out.
PLACES = {
    "checkpoint": (0, 0),
    "manifest": (0, 2),
    "sample": (1, 1),
    "preprocess": (1, 2),
    "precision": (2, 0.5),
    "infer": (3, 1.5),
    "umap_fit": (4, 0.5),
    "umap_place": (5, 1),
    "umap": (6, 1),
    "aggregate": (6, 2),
    "summary": (7, 0.4),
    "attribute": (7, 1.3),
    "evaluate": (7, 3),
    "examples": (8, 2.4),
    "figures": (9, 0.8),
    "report": (9, 1.8),
}

_COLUMN, _ROW, _HALF = 140, 62, 52  # pixels


class RuleTime(NamedTuple):
    """What Snakemake measured of the jobs of a rule."""

    rule: str
    jobs: int
    total_s: float
    median_s: float
    longest_s: float
    most_mb: float | None  # of memory; None if nothing was measured


def read_rule_times(folder: Path) -> list[RuleTime]:
    """Read the times of each rule, in the order of the workflow.

    Args:
        folder: `benchmarks/`, with `RULE.tsv` or `RULE/JOB.tsv` for each job.

    Returns:
        The rules that have run; a file that cannot be read is left out.
    """
    times = []
    for rule in SOURCES:
        rows = [
            row
            for path in sorted(folder.glob(f"{rule}.tsv")) + sorted(folder.glob(f"{rule}/*.tsv"))
            for row in _read_rows(path)
        ]
        seconds = [value for row in rows if (value := _parse_number(row.get("s"))) is not None]
        if seconds:
            memory = [value for row in rows if (value := _parse_number(row.get("max_rss"))) is not None]
            times.append(
                RuleTime(rule, len(seconds), sum(seconds), median(seconds), max(seconds), max(memory, default=None))
            )
    return times


def lay_out_graph(times: Sequence[RuleTime], captions: Mapping[str, str]) -> dict[str, Any]:
    """Lay out the workflow as a figure.

    Args:
        times: Of the rules that have run.
        captions: By rule, the text below its name.

    Returns:
        `nodes` with name, place and caption, `lines` as paths of SVG, `sources` by rule, `width` and `height`. Rules
        that have not run are left out, except the report itself, which is running.
    """
    rules = [rule for rule in SOURCES if rule == "report" or rule in {time.rule for time in times}]
    columns = sorted({PLACES[rule][0] for rule in rules})
    centre = {
        rule: (_HALF + 4 + columns.index(PLACES[rule][0]) * _COLUMN, 24 + PLACES[rule][1] * _ROW) for rule in rules
    }
    sources = {rule: [source for source in SOURCES[rule] if source in rules] for rule in rules}
    before: dict[str, set[str]] = {}
    for rule in rules:
        before[rule] = set(sources[rule]).union(*(before[source] for source in sources[rule]))
    lines = []
    for rule in rules:
        x, y = centre[rule]
        for source in sources[rule]:
            if any(source in before[other] for other in sources[rule]):
                continue  # another rule that it reads has read it: one line fewer
            start, level = centre[source]
            across, down = x - start - 2 * _HALF, y - level
            lines.append(f"M{start + _HALF} {level}c{across / 2:g} 0 {across / 2:g} {down:g} {across:g} {down:g}")
    nodes = [{"name": rule, "x": x, "y": y, "said": captions.get(rule, "")} for rule, (x, y) in centre.items()]
    width = max(x for x, _ in centre.values()) + _HALF + 4
    return {
        "nodes": nodes,
        "lines": lines,
        "sources": sources,
        "width": width,
        "height": max(y for _, y in centre.values()) + 24,
    }


def _read_rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8", errors="replace") as file:
        return list(csv.DictReader(file, delimiter="\t"))


def _parse_number(text: str | None) -> float | None:
    """Read a number of a benchmark file; Snakemake writes NA or - if it has measured none."""
    try:
        return float(text or "")
    except ValueError:
        return None
