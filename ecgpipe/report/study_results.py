"""Put the predictions of several models side by side: agreement, disagreement, study.parquet, and their maps."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ecgpipe.analysis import agreement
from ecgpipe.analysis.agreement import Disagreement
from ecgpipe.core import parquet, provenance, schemas, settings
from ecgpipe.core.aligned_recordings import Aligned
from ecgpipe.core.user_settings import StudySettings
from ecgpipe.report.study_runs import StudyRun

logger = logging.getLogger(__name__)

# Rows that are written at a time.
ROWS = 20_000

# Of each statement, the recordings with the largest disagreement that the page lists beside those of all statements.
FEW = 3


class Side(NamedTuple):
    """The models' probabilities of the shared statements."""

    statements: tuple[str, ...]
    models: tuple[str, ...]
    probability: np.ndarray  # (models, statements, recordings) float64 in a file, NaN where a model has none
    thresholds: np.ndarray  # (models, statements), NaN where a model does not have the statement

    @property
    def has(self) -> np.ndarray:
        """(models, statements) bool: whether the model has a label that means the statement."""
        has: np.ndarray = ~np.isnan(self.thresholds)
        return has


def collect_probabilities(
    runs: Sequence[StudyRun],
    aligned: Aligned,
    shared: Mapping[str, Mapping[str, str]],
    file: Any,  # noqa: ANN401, as np.memmap takes it
) -> Side:
    """Put the models' probabilities into one order, a column at a time.

    Args:
        runs: The runs.
        aligned: Their recordings.
        shared: By statement, by model its label.
        file: An empty, open file for them; the system decides what of it is in memory.

    Returns:
        The probabilities.
    """
    shape = (len(runs), len(shared), len(aligned.ids))
    # A file of no length cannot be mapped.
    probability: np.ndarray = np.memmap(file, np.float64, "w+", shape=shape) if all(shape) else np.empty(shape)
    thresholds = np.full(shape[:2], np.nan)
    for number, run in enumerate(runs):
        for place, labels_of in enumerate(shared.values()):
            label = labels_of.get(run.name)
            if label is None:
                probability[number, place] = np.nan
                continue
            thresholds[number, place] = run.thresholds[label]
            values = parquet.column(run.predictions, label).to_numpy(zero_copy_only=False)
            aligned.place(number, values, probability[number, place])
    return Side(tuple(shared), tuple(run.name for run in runs), probability, thresholds)


def tabulate_agreement(side: Side) -> list[dict[str, Any]]:
    """How each pair of models agrees on each statement: rows with the numbers of `agreement.Agreement`."""
    rows = []
    for place, statement in enumerate(side.statements):
        for one in range(len(side.models)):
            for other in range(one + 1, len(side.models)):
                if not (side.has[one, place] and side.has[other, place]):
                    continue
                limits = float(side.thresholds[one, place]), float(side.thresholds[other, place])
                found = agreement.compare_probabilities(
                    side.probability[one, place], side.probability[other, place], limits
                )
                if found:
                    names = {"statement": statement, "first": side.models[one], "second": side.models[other]}
                    rows.append({**names, **found._asdict(), "agreeing": found.agreeing})
    return rows


class Chosen(NamedTuple):
    """The recordings on which the models disagree most."""

    rows: np.ndarray  # (chosen,) the one with the largest disagreement first
    why: list[list[str]]  # of each, the statements for which it is listed


def find_disagreement(side: Side, count: int) -> tuple[Disagreement, Chosen]:
    """Find how far the models are apart on each recording, and the recordings where it is most.

    Args:
        side: The probabilities.
        count: Recordings to choose at most: of those with the largest disagreement, and of each statement's `FEW`.

    Returns:
        Both.
    """
    recordings = side.probability.shape[2]
    tops: dict[int, list[str]] = {}

    def iterate() -> Iterator[np.ndarray]:
        for place, statement in enumerate(side.statements):
            probability = np.asarray(side.probability[:, place])
            for row in agreement.rank_largest(agreement.find_spread(probability)[0], FEW).tolist():
                tops.setdefault(row, []).append(statement)
            yield probability

    found = agreement.find_disagreement(iterate(), recordings)
    of_statements = sorted(tops, key=lambda row: -found.spread[row])
    largest = agreement.rank_largest(found.spread, count).tolist()
    chosen = list(dict.fromkeys([*of_statements[: count // 2], *largest]))[:count]
    rows = np.array(sorted(chosen, key=lambda row: -found.spread[row]), np.int64)
    return found, Chosen(rows, [tops.get(row, []) for row in rows.tolist()])


def write_table(
    path: Path,
    runs: Sequence[StudyRun],
    aligned: Aligned,
    side: Side,
    found: Disagreement,
    made_by: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """Write study.parquet, block by block.

    Args:
        path: The file.
        runs: The runs.
        aligned: Their recordings.
        side: Their probabilities.
        found: How far they are apart.
        made_by: As of `study.write_study`.
    """
    places = [
        (model, place)
        for model in range(len(side.models))
        for place in range(len(side.statements))
        if side.has[model, place]
    ]
    columns = [(side.models[model], side.statements[place]) for model, place in places]
    made_of = {run.name: run.info.checkpoint.sha256 for run in runs}
    named: dict[str, Any] = {settings.KEY: dict(made_by)} if made_by else {}
    schema = provenance.add_origin(schemas.study_schema(columns), "study", models=made_of, **named)
    names = [pa.array(values or [""], pa.string()) for values in (side.statements, side.models)]
    with parquet.parquet_writer(path, schema) as writer:
        for start in range(0, max(len(aligned.ids), 1), ROWS):
            block = slice(start, start + ROWS)
            no_one = np.isnan(found.spread[block])
            texts = [
                source.take(pa.array(numbers[block], mask=no_one))
                for source, numbers in (
                    (names[0], found.statement),
                    (names[1], found.highest),
                    (names[1], found.lowest),
                )
            ]
            arrays = [
                aligned.ids[block],
                pa.array((aligned.rows[:, block] >= 0).sum(axis=0), pa.int32()),
                pa.array(found.spread[block], from_pandas=True),
                *texts,
                *(pa.array(side.probability[model, place, block], from_pandas=True) for model, place in places),
            ]
            writer.write_table(pa.table(arrays, schema=schema))


class Places(NamedTuple):
    """The points of one model's map."""

    row: np.ndarray  # (points,) uint32, among the page's recordings
    segment: np.ndarray  # (points,) uint16
    x: np.ndarray  # (points,) float32
    y: np.ndarray


def read_places(run: StudyRun, ids: pa.Array) -> Places | None:
    """The segments of some recordings on a run's map; None where the run made none."""
    if not run.run.umap_parquet.is_file():
        return None
    pieces: list[list[np.ndarray]] = []
    for batch in parquet.batches([run.run.umap_parquet]):
        place = pc.index_in(batch["record_id"], ids)
        chosen = batch.filter(place.is_valid())
        columns = [chosen[name].to_numpy() for name in ("segment", "x", "y")]
        pieces.append([place.drop_null().to_numpy(), *columns])
    if not pieces:
        return None
    row, segment, x, y = (np.concatenate(columns) for columns in zip(*pieces, strict=True))
    return Places(row.astype(np.uint32), segment.astype(np.uint16), x.astype(np.float32), y.astype(np.float32))


def choose_settings(asked: StudySettings, runs: Sequence[StudyRun]) -> StudySettings:
    """The settings, with the patient and the split of the runs' own evaluation where none are given."""
    evaluations = [run.run.config.evaluation for run in runs]
    patient = asked.patient or next((one.patient for one in evaluations if one.patient), None)
    split, value = asked.split, asked.split_value
    if split is None and value is None:
        split, value = next(((one.split, one.split_value) for one in evaluations if one.split), (None, None))
    return asked.model_copy(update={"patient": patient, "split": split, "split_value": value})
