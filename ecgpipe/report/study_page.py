"""The page of a study: models side by side, with the recordings on which they disagree."""

import gzip
import logging
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from plotly.offline import get_plotlyjs

from ecgpipe.analysis.agreement import Disagreement
from ecgpipe.core.aligned_recordings import Aligned
from ecgpipe.core.errors import EcgpipeError
from ecgpipe.evaluation.model_scores import Row
from ecgpipe.models.description import describe
from ecgpipe.preprocessing.reread import Sources, find_sources
from ecgpipe.report import recording_view, study_results, study_runs
from ecgpipe.report.map_data import NO_PROBABILITY, PROBABILITY_STEP
from ecgpipe.report.page_data import pack
from ecgpipe.report.report import MOST_LEADS_BYTES, make_environment
from ecgpipe.report.study_attribution import Attributions
from ecgpipe.report.study_results import Chosen, Places, Side
from ecgpipe.report.study_runs import Labels, StudyRun
from ecgpipe.report.study_spaces import RANDOM, Spaces
from ecgpipe.report.study_truth import Evaluated

logger = logging.getLogger(__name__)

# Of a model's view of a recording, what is the model's own; the leads are the recording's.
OVERLAY = ("attention", "attributions", "borders", "end", "stride_s")

METRIC_NAMES = {
    "auroc": "AUROC",
    "auprc": "AUPRC",
    "brier": "Brier score",
    "ece": "Expected calibration error",
    "sensitivity": "Sensitivity",
    "specificity": "Specificity",
    "ppv": "PPV",
    "f1": "F1",
}

AGREEMENT_NAMES = {
    "spearman": "Spearman's correlation",
    "pearson": "Pearson's correlation",
    "kappa": "Cohen's kappa at the thresholds",
    "agreeing": "Share that both call the same at the thresholds",
    "mean_difference": "Mean difference of the probabilities",
}

MINUS, DASH = "\N{MINUS SIGN}", "\N{EN DASH}"


class Cell(NamedTuple):
    """A number in a table."""

    text: str
    interval: str = ""
    strong: bool = False


class TableRow(NamedTuple):
    """A row of a table."""

    name: str
    n: int | None  # recordings; None of the mean over statements
    n_positive: int | None
    cells: list[Cell]  # one for each column
    is_mean: bool = False  # over the statements that every model has


class Measured(NamedTuple):
    """One of several tables of which the page shows the chosen one."""

    title: str
    columns: list[str]
    rows: list[TableRow]
    has_positive: bool = True  # whether true labels are known


def tabulate_scores(rows: Sequence[Row], names: Mapping[str, str], models: Sequence[str]) -> list[Measured]:
    """The models' own numbers: a table for each metric, a row for each statement."""
    by_key = {(row.metric, row.statement, row.model): row for row in rows if row.against is None}
    statements = list(dict.fromkeys(row.statement for row in rows))
    return [
        Measured(
            title,
            [names[model] for model in models],
            [
                _score_row(statement, [by_key.get((metric, statement, model)) for model in models])
                for statement in statements
            ],
        )
        for metric, title in METRIC_NAMES.items()
    ]


def tabulate_differences(
    rows: Sequence[Row], names: Mapping[str, str], pairs: Sequence[tuple[str, str]]
) -> list[Measured]:
    """The differences of the models: a table for each metric, a column for each pair (first minus second)."""
    by_key = {(row.metric, row.statement, row.model, row.against): row for row in rows if row.against is not None}
    statements = list(dict.fromkeys(row.statement for row in rows))
    tables = []
    for metric, title in METRIC_NAMES.items():
        lines = []
        for statement in statements:
            found = [by_key.get((metric, statement, *pair)) for pair in pairs]
            if any(found):
                lines.append(_score_row(statement, found, is_difference=True))
        tables.append(Measured(title, [f"{names[one]} {MINUS} {names[other]}" for one, other in pairs], lines))
    return tables


def _score_row(statement: str | None, found: Sequence[Row | None], is_difference: bool = False) -> TableRow:
    cells = [_score_cell(row, is_difference) for row in found]
    first = next(filter(None, found), None)
    if statement is None or first is None:
        return TableRow("mean of those that all models have", None, None, cells, is_mean=True)
    return TableRow(statement, first.n, first.n_positive, cells)


def _score_cell(row: Row | None, is_difference: bool) -> Cell:
    if row is None or np.isnan(row.value):
        return Cell(DASH)
    number = format_signed if is_difference else format_three
    if np.isnan(row.low):
        return Cell(number(row.value))
    excludes_zero = round(row.low, 3) > 0 or round(row.high, 3) < 0  # as they are read
    return Cell(number(row.value), f"{number(row.low)} to {number(row.high)}", is_difference and excludes_zero)


def format_three(value: float) -> str:
    """A number with three digits."""
    return f"{value:.3f}".replace("-", MINUS)


def format_signed(value: float) -> str:
    """A difference with its sign and three digits."""
    text = f"{value:+.3f}"
    return "0.000" if text in ("+0.000", "-0.000") else text.replace("-", MINUS)


def tabulate_agreement(
    rows: Sequence[Mapping[str, Any]], names: Mapping[str, str], pairs: Sequence[tuple[str, str]]
) -> list[Measured]:
    """How the models agree: a table for each measure, a column for each pair."""
    by_key = {(row["statement"], row["first"], row["second"]): row for row in rows}
    statements = list(dict.fromkeys(row["statement"] for row in rows))
    tables = []
    for key, title in AGREEMENT_NAMES.items():
        number = format_signed if key == "mean_difference" else format_three
        lines = []
        for statement in statements:
            found = [by_key.get((statement, *pair)) for pair in pairs]
            cells = [Cell(DASH) if row is None or row[key] is None else Cell(number(row[key])) for row in found]
            lines.append(TableRow(statement, max(row["n"] for row in found if row), None, cells))
        tables.append(Measured(title, [f"{names[one]}, {names[other]}" for one, other in pairs], lines, False))
    return tables


def pair_models(models: Sequence[str]) -> list[tuple[str, str]]:
    """Each pair of models once."""
    return list(combinations(models, 2))


class PageRows(NamedTuple):
    """The recordings that have a row in the page: those on the maps, and those with leads."""

    places: np.ndarray  # (rows,) among the study's recordings, rising
    ids: pa.Array  # (rows,)
    names: list[str]  # (rows,) as the page calls them


def choose_rows(
    runs: Sequence[StudyRun], aligned: Aligned, chosen: Chosen, most: int, seed: int, paths: bool
) -> PageRows:
    """Choose the recordings of the page: a random sample for the maps, and those on which the models disagree most."""
    total = len(aligned.ids)
    sample = np.arange(total)
    if total > most:
        sample = np.random.default_rng(seed).choice(total, most, replace=False)
    places = np.unique(np.concatenate([sample, chosen.rows]).astype(np.int64))
    ids = aligned.ids.take(pa.array(places))
    return PageRows(places, ids, study_runs.name_recordings(runs, ids, paths))


def encode_rows(rows: PageRows, side: Side, spread: np.ndarray, names: Mapping[str, str]) -> dict[str, Any]:
    """Encode the rows for the page: probabilities in steps of `map_data.PROBABILITY_STEP`, and the disagreement."""
    probabilities = []
    for model in range(len(side.models)):
        columns: list[np.ndarray | None] = []
        for place in range(len(side.statements)):
            values = np.asarray(side.probability[model, place])[rows.places]
            steps = np.round(np.nan_to_num(values, nan=NO_PROBABILITY * PROBABILITY_STEP) / PROBABILITY_STEP)
            columns.append(steps.astype(np.uint16) if side.has[model, place] else None)
        probabilities.append(columns)
    return {
        "names": rows.names,
        "models": [names[model] for model in side.models],
        "statements": list(side.statements),
        "thresholds": [[None if np.isnan(limit) else limit for limit in limits] for limits in side.thresholds.tolist()],
        "probabilities": probabilities,
        "disagreement": spread[rows.places].astype(np.float32),
    }


def find_run_sources(run: StudyRun) -> Sources | None:
    """Where a run's recordings come from, with its attention and attributions; None where the run does not say it."""
    try:
        description = describe(run.run.model_json)
        tokens = description.architecture.token_samples
        return find_sources(run.run, tokens, description.model_input, description.has_tokens_by_lead)
    except EcgpipeError as error:
        logger.warning("%s: its recordings cannot be drawn: %s", run.name, error)
        return None


def read_views(
    runs: Sequence[StudyRun],
    rows: PageRows,
    ids: Sequence[str],
    paths: bool,
    added: Sequence[Attributions],
) -> Iterator[dict[str, Any]]:
    """Read the recordings on which the models disagree most, with what each model attended to and attributed.

    Args:
        runs: The runs.
        rows: Of the page.
        ids: The recordings.
        paths: Whether notes may have particulars.
        added: Of each run, attributions that are in none of its files.

    Yields:
        Of each recording its `row`, `note`, `view` without a model's own, None where it cannot be read or the page
        would become too large, and `overlays`, of each model what is its own.
    """
    row_of = {record_id: number for number, record_id in enumerate(rows.ids.to_pylist())}
    stored = []
    for run, of_run in zip(runs, added, strict=True):
        sources = find_run_sources(run) if ids else None
        stored.append(recording_view.read_stored(ids, sources, of_run) if sources else None)
    size = 0
    for record_id in ids:
        by_model, drawn = [], None
        for of_model in stored:
            found: dict[str, Any] = {"view": None, "note": None}
            if of_model is not None and record_id in of_model.records:
                found, drawn = recording_view.view_recording(record_id, of_model, paths, drawn)
            by_model.append(found)
        shown = [found["view"] for found in by_model]
        view = next((one for one in shown if one is not None), None)
        note = None if view else next((one["note"] for one in by_model if one["note"]), "No run has it any more.")
        overlays = [one and {key: one[key] for key in OVERLAY} for one in shown]
        if view is not None:
            base = {key: value for key, value in view.items() if key not in OVERLAY}
            size += sum(len(gzip.compress(array.tobytes(), 1)) for array in _arrays_of([base, overlays]))
            if size > MOST_LEADS_BYTES:
                view, note, overlays = None, "This page would become too large with its leads.", [None] * len(runs)
            else:
                view = {
                    **base,
                    "attention": None,
                    "attributions": [],
                    "borders": [],
                    "end": base["seconds"],
                    "stride_s": 1,
                }
        yield {"row": row_of[record_id], "note": note, "view": view, "overlays": overlays}


def _arrays_of(value: object) -> Iterator[np.ndarray]:
    """The arrays in some JSON."""
    if isinstance(value, np.ndarray):
        yield value
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from _arrays_of(inner)
    elif isinstance(value, Sequence) and not isinstance(value, str):
        for inner in value:
            yield from _arrays_of(inner)


def encode_maps(runs: Sequence[StudyRun], names: Mapping[str, str], rows: PageRows) -> list[dict[str, Any]]:
    """The maps of the models, each with its `model`, number and points; models without a map are left out."""
    maps = []
    for number, run in enumerate(runs):
        places: Places | None = study_results.read_places(run, rows.ids)
        if places is not None:
            points = {**places._asdict(), "density": None}
            maps.append({"model": names[run.name], "number": number, "points": points})
    return maps


def list_disagreements(
    chosen: Chosen, rows: PageRows, found: Disagreement, side: Side, names: Mapping[str, str]
) -> list[dict[str, Any]]:
    """The page's list of recordings on which the models disagree most."""
    listed = []
    for place, why in zip(chosen.rows.tolist(), chosen.why, strict=True):
        statement, highest, lowest = (int(values[place]) for values in (found.statement, found.highest, found.lowest))
        row = int(np.searchsorted(rows.places, place))
        listed.append(
            {
                "row": row,
                "name": rows.names[row],
                "statement": side.statements[statement],
                "difference": float(found.spread[place]),
                "highest": names[side.models[highest]],
                "high": float(side.probability[highest, statement, place]),
                "lowest": names[side.models[lowest]],
                "low": float(side.probability[lowest, statement, place]),
                "statements": list(dict.fromkeys([side.statements[statement], *why])),
            }
        )
    return listed


def render(context: Mapping[str, Any], data: Mapping[str, Any]) -> str:
    """Make the page.

    Args:
        context: What the template says.
        data: What the scripts take, by the id of its element; Plotly is added where there are maps.

    Returns:
        HTML.
    """
    blocks = dict(data) | ({"plotly": get_plotlyjs()} if data["maps"] else {})
    packed = {name: pack(value) for name, value in blocks.items()}
    return make_environment().get_template("study.html.j2").render(**context, data=packed)


def tabulate_labels(mapped: Labels, models: Sequence[str]) -> list[dict[str, Any]]:
    """Which label of each model means which statement: the shared statements, then those with related labels.

    Args:
        mapped: How the labels correspond.
        models: Their names.

    Returns:
        Of each statement that concerns two models or more its `name`, whether it is `shared`, and of each model `same`,
        a label or None, and `related`, labels with their relation and the note of the crosswalk.
    """
    every = [*mapped.shared, *(name for name in mapped.related if name not in mapped.shared)]
    rows = []
    for statement in every:
        same, related = mapped.every.get(statement, {}), mapped.related.get(statement, {})
        cells = [{"same": same.get(model), "related": related.get(model, [])} for model in models]
        if sum(bool(cell["same"] or cell["related"]) for cell in cells) > 1:
            rows.append({"name": statement, "shared": statement in mapped.shared, "cells": cells})
    return rows


def show_evaluation(
    evaluated: Evaluated, names: Mapping[str, str], models: Sequence[str], pairs: Sequence[tuple[str, str]]
) -> dict[str, Any]:
    """What the page says of the evaluation: its tables, and how it was made."""
    return {
        **evaluated._asdict(),
        "one_class": [name for name in evaluated.statements if name not in {row.statement for row in evaluated.rows}],
        "scores": tabulate_scores(evaluated.rows, names, models),
        "differences": tabulate_differences(evaluated.rows, names, pairs),
    }


def show_spaces(spaces: Spaces, names: Mapping[str, str]) -> dict[str, Any]:
    """What the page says of the embeddings: matrices of the models, and the tables of the probes."""
    shown: dict[str, Any] = {
        "matrices": [],
        "probe": None,
        "not_probed": spaces.not_probed,
        "embedded": spaces.embedded,
    }
    if spaces.embedded:
        cka, overlap = spaces.embedded.cka, spaces.embedded.overlap
        shown["models"] = [names[model] for model in spaces.embedded.models]
        shown["matrices"] = [
            {"title": title, "rows": values.tolist()}
            for title, values in (
                ("Linear CKA, unbiased", cka.unbiased),
                ("Linear CKA", cka.plain),
                (f"Nearest {overlap.nearest} in common", overlap.share),
            )
        ]
    if spaces.probed:
        models = list(dict.fromkeys(row.model for row in spaces.probed.rows if row.against is None))
        trained = [model for model in models if not model.endswith(RANDOM)]
        gains = [(model, model + RANDOM) for model in trained if model + RANDOM in models]
        shown["probe"] = {
            **spaces.probed._asdict(),
            "baselines": len(gains),
            "scores": tabulate_scores(spaces.probed.rows, names, models),
            "differences": tabulate_differences(spaces.probed.rows, names, [*gains, *pair_models(trained)]),
        }
    return shown
