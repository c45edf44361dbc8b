"""Evaluate several models on the same recordings, and their differences with paired intervals by patient."""

from collections.abc import Iterator, Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np

from ecgpipe.evaluation import metrics
from ecgpipe.evaluation.metrics import METRICS

# The metrics of a comparison; the prevalence does not depend on the model.
COMPARED = tuple(metric for metric in METRICS if metric != "prevalence")

# Statements that are drawn for at a time: their sorted scores are in memory together.
STATEMENTS = 8

# Recordings x columns x resamples at most: so many take half a minute or so. More recordings get fewer
# resamples, but never fewer than FEWEST.
MOST_DRAWN = 2_500_000_000
FEWEST = 200


class Scores(NamedTuple):
    """True statements, and what models say."""

    statements: Sequence[str]
    models: Sequence[str]
    true: np.ndarray  # (recordings, statements) 1, 0, or NaN where unknown
    score: np.ndarray  # (models, statements, recordings) probabilities, NaN where a model has none
    thresholds: np.ndarray  # (models, statements) a recording is called positive from here on


class Row(NamedTuple):
    """One number: of a model, or how much larger it is than another model's."""

    statement: str | None  # None: the mean over the statements that every model has, with both classes
    model: str
    against: str | None  # the other model, whose number is subtracted; None: the model's own number
    metric: str
    value: float  # NaN where not defined
    low: float  # of the 95 % interval, NaN where there is none
    high: float
    resamples: int  # that define it
    n: int  # recordings with a known truth and a probability of every model that has the statement
    n_positive: int


class _Measured(NamedTuple):
    """The numbers of the models for one statement, or of all together."""

    statement: str | None
    models: np.ndarray  # (some,) their numbers
    values: np.ndarray  # (some, METRICS)
    drawn: np.ndarray  # (some, METRICS, resamples)
    n: int
    n_positive: int


def mask_unscored(scores: Scores) -> np.ndarray:
    """The true statements where every model that has the statement gives a probability, elsewhere NaN.

    A model that has no probability at all for a statement does not have it.
    """
    true = np.array(scores.true, np.float64)  # (recordings, statements)
    for number in range(len(scores.statements)):
        finite = np.isfinite(scores.score[:, number])  # (models, recordings)
        true[~finite[finite.any(axis=1)].all(axis=0), number] = np.nan
    return true


def choose_resamples(recordings: int, columns: int, asked: int) -> int:
    """How many resamples are drawn: as many as asked for, or fewer where there are very many recordings."""
    return min(asked, max(FEWEST, MOST_DRAWN // max(recordings * columns, 1)))


def compare_scores(scores: Scores, groups: np.ndarray | None, resamples: int, seed: int) -> list[Row]:
    """Measure each model for each statement, and each pair of models.

    All models that have a statement are measured on the same recordings, and in the same resamples of the patients. The
    interval of a difference is that of the differences in each resample (paired percentile bootstrap).

    Args:
        scores: The models' probabilities.
        groups: (recordings,) integers, the patient of each: what is resampled. None: each recording by itself.
        resamples: Of the bootstrap; 0 for no intervals.
        seed: Of the resamples.

    Returns:
        For each statement with both classes, and then for the mean over those that every model has: the models'
        numbers, then the first model minus the second for each pair of models.
    """
    rows: list[Row] = []
    measured: list[_Measured] = []
    true = mask_unscored(scores)
    for first in range(0, len(scores.statements), STATEMENTS):
        numbers = range(first, min(first + STATEMENTS, len(scores.statements)))
        measured += _measure(scores, true, numbers, groups, resamples, seed)
    in_all = [one for one in measured if len(one.models) == len(scores.models)]
    if len(in_all) > 1:
        measured.append(
            _Measured(
                None,
                in_all[0].models,
                np.mean([one.values for one in in_all], axis=0),
                np.mean([one.drawn for one in in_all], axis=0),
                sum(one.n for one in in_all),
                sum(one.n_positive for one in in_all),
            )
        )
    for one in measured:
        rows += _rows(one, scores.models)
    return rows


def _measure(
    scores: Scores, true: np.ndarray, numbers: Sequence[int], groups: np.ndarray | None, resamples: int, seed: int
) -> Iterator[_Measured]:
    """Measure the models for some statements, together, so that the patients are drawn once for all."""
    columns = [
        (number, model)
        for number in numbers
        for model in range(len(scores.models))
        if (true[:, number] == 1).any() and (true[:, number] == 0).any()
        if np.isfinite(scores.score[model, number]).any()
    ]
    if not columns:
        return
    values, drawn = metrics.draw_columns(
        np.stack([true[:, number] for number, _ in columns], axis=1),
        np.stack([scores.score[model, number] for number, model in columns], axis=1),
        [scores.thresholds[model, number] for number, model in columns],
        groups,
        resamples,
        seed,
    )
    for number in numbers:
        here = [place for place, column in enumerate(columns) if column[0] == number]
        if here:
            models = np.array([columns[place][1] for place in here])
            n, positive = int((~np.isnan(true[:, number])).sum()), int((true[:, number] == 1).sum())
            yield _Measured(scores.statements[number], models, values[here], drawn[here], n, positive)


def _rows(measured: _Measured, names: Sequence[str]) -> Iterator[Row]:
    """The models' own numbers, and their differences."""
    pairs = combinations(range(len(measured.models)), 2)
    places: list[tuple[int, int | None]] = [(place, None) for place in range(len(measured.models))]
    for place, other in [*places, *pairs]:
        values, drawn = measured.values[place], measured.drawn[place]  # (METRICS,), (METRICS, resamples)
        if other is not None:
            values, drawn = values - measured.values[other], drawn - measured.drawn[other]
        low, high, defined = metrics.intervals(drawn)
        for metric in COMPARED:
            column = METRICS.index(metric)
            yield Row(
                measured.statement,
                names[measured.models[place]],
                None if other is None else names[measured.models[other]],
                metric,
                float(values[column]),
                float(low[column]),
                float(high[column]),
                int(defined[column]),
                measured.n,
                measured.n_positive,
            )
