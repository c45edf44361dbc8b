"""Train a linear probe on a run's embeddings: logistic regression for your own labels, measured on other recordings.

A recording's embedding is the mean over its segments. Features are standardised by the training recordings, the
strength of the penalty is chosen for each label by the log loss on the validation recordings, and the test recordings
are used once, to measure. The head is saved; with `heads` in the settings, later runs apply it.

--baseline gives another run over the same recordings, with random weights (`untrained`). It is probed in the same way,
and the relevant result is the gain over it: random networks of this kind carry much of what a linear probe finds
(arXiv:2602.17531).
"""

import argparse
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ecgpipe import __version__
from ecgpipe.core import options, parquet, provenance, recording_embeddings, schemas, settings
from ecgpipe.core.errors import EcgpipeError
from ecgpipe.core.run import Run
from ecgpipe.core.user_settings import Evaluation
from ecgpipe.evaluation import ground_truth, head_training, leakage, metrics, splits, truth_tables
from ecgpipe.evaluation.ground_truth import Truth
from ecgpipe.evaluation.head_training import Examples, Trained
from ecgpipe.evaluation.metrics import Measure
from ecgpipe.evaluation.splits import NONE, SPLITS, TEST, TRAIN, VALID
from ecgpipe.evaluation.truth_tables import Source
from ecgpipe.inputs import input_tables
from ecgpipe.models import heads, labels
from ecgpipe.models.description import describe

logger = logging.getLogger(__name__)

HEAD = "head.safetensors"


class Selected(NamedTuple):
    """The recordings of the three splits."""

    examples: Examples
    patients: pa.Array | None  # (recordings,) null where unknown; None where no column was named
    groups: np.ndarray  # (recordings,) integers, the patient of each, or the recording

    @property
    def is_test(self) -> np.ndarray:
        """(recordings,) bool."""
        return np.asarray(self.examples.split == TEST)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `ecgpipe probe`."""
    options.add_run(parser)
    truth_tables.add_arguments(parser, "the run's settings evaluation.truth and mapping, or the columns of records/")
    settings.add_options(parser, settings.Probe)
    options.add(parser, "baseline")
    options.add(parser, "output", required=True, help="folder for head, metrics and predictions")


def run(args: argparse.Namespace) -> None:
    """Train a probe."""
    asked = settings.parse_options(settings.Probe, args)
    finished = Run(options.choose_run("probe", args.run, args.outdir)[0])
    evaluation = Evaluation() if args.truth or args.map else finished.config.evaluation
    source = truth_tables.choose_source(args.truth, args.map, evaluation)
    probe(finished, source, asked, args.output, Run(args.baseline) if args.baseline else None)


def probe(finished: Run, source: Source, asked: settings.Probe, output: Path, baseline: Run | None = None) -> None:
    """Train a head, measure it, and write it.

    Args:
        finished: The run with the embeddings.
        source: Of the true labels. Without a mapping, the columns of 0 and 1 of its table are the labels.
        asked: The settings.
        output: Folder for head, metrics and predictions.
        baseline: A run of random weights over the same recordings, to compare with.

    Raises:
        EcgpipeError: As of `ground_truth.read_truth`, or a split has no recordings or shares patients with another.
    """
    if not (asked.split or asked.patient):
        raise EcgpipeError("probe: give --split COLUMN, or --patient COLUMN to split patients at random")
    columns = [name for name in (asked.split, asked.patient) if name]
    source = source if source.mapping else Source(source.table, find_label_columns(source.table, columns))
    reserved = sorted({*labels.RESERVED, "split"}.intersection(source.mapping.values()))
    if reserved:
        raise EcgpipeError(f"mapping: {reserved[0]!r} cannot be a label's name; give another")
    selected = select(finished, source, asked)
    facts = write_fitted(output / HEAD, finished, selected, source, asked)

    embeddings = finished.files("embeddings")
    trained = head_training.train(embeddings, selected.examples, facts)
    rows = measure("probe", selected, trained.probability, asked)
    if baseline:
        warn_if_not_random(baseline)
        random = head_training.train(baseline.files("embeddings"), selected.examples, facts)
        rows += measure("baseline", selected, random.probability, asked)
        rows += measure_gain(selected, trained.probability, random.probability, asked)
    write(output, trained, rows, selected.examples, embeddings)
    print("\n".join(format_table(rows, trained)))
    logger.info("wrote %s", output)


def find_label_columns(table: Path | None, others: Sequence[str]) -> dict[str, str]:
    """Without a mapping, take the columns of a table that have only 0 and 1 as labels of that name.

    Args:
        table: The file of --truth.
        others: Columns that are not labels.

    Returns:
        Label by column, the same.

    Raises:
        EcgpipeError: There is no table, or no such column.
    """
    if table is None:
        raise EcgpipeError(
            "probe: it is unknown which columns of the inputs' tables are labels; give --map COLUMN=LABEL, or --truth"
        )
    try:
        content = input_tables.read_table(table, texts=("record_id",))
    except ValueError as error:
        raise EcgpipeError(f"truth: {table}: {error}") from error
    excluded = {"split", *others, *labels.RESERVED}
    names = [name for name in content.column_names if name not in excluded and _is_binary(content[name])]
    if not names:
        raise EcgpipeError(f"probe: no column of {table} has only 0 and 1; say which are labels by --map")
    logger.info("labels: %s (columns of 0 and 1; --map chooses)", ", ".join(names))
    return dict(zip(names, names, strict=True))


def select(finished: Run, source: Source, asked: settings.Probe) -> Selected:
    """Read the true labels, and select the recordings of the three splits.

    Args:
        finished: The run with the embeddings.
        source: Of the true labels, with a mapping.
        asked: The settings.

    Returns:
        The recordings.

    Raises:
        EcgpipeError: As of `probe`.
    """
    columns = [name for name in (asked.split, asked.patient) if name]
    ids = recording_embeddings.read_ids(finished.files("embeddings"))
    truth = ground_truth.read_truth_of(ids, None, finished.files("records"), source, columns)
    split = split_recordings(truth, asked)
    is_used = split != NONE
    truth, split = ground_truth.select_rows(truth, is_used), split[is_used]
    usable = find_usable(truth.names, truth.true, split)
    names = [truth.names[column] for column in usable]
    counts = ", ".join(f"{count} {name}" for name, count in _count_splits(split).items())
    logger.info("%s; %d recordings in none", counts, int((~is_used).sum()))
    patients = truth.columns[asked.patient] if asked.patient else None
    groups = np.arange(len(split)) if patients is None else ground_truth.number_patients(patients)
    return Selected(Examples(truth.record_ids, names, truth.true[:, usable], split), patients, groups)


def split_recordings(truth: Truth, asked: settings.Probe) -> np.ndarray:
    """Split the recordings by the column of the settings, or by patient.

    Args:
        truth: The recordings, with these columns.
        asked: The settings.

    Returns:
        (recordings,) index in `SPLITS`, or `NONE`, also for recordings without any true label.

    Raises:
        EcgpipeError: A split has no recordings or shares patients with another.
    """
    if asked.split:
        split = splits.by_column(truth.columns[asked.split], [asked.train, asked.valid, asked.test])
        splits.refuse_shared(split, truth.columns.get(asked.patient or ""))
    else:
        split = splits.by_patient(truth.columns[str(asked.patient)], asked.seed)
    split[np.isnan(truth.true).all(axis=1)] = NONE
    for name, count in _count_splits(split).items():
        if not count:
            raise EcgpipeError(f"probe: no recording with a true label is in {name}; see --split, --patient and --seed")
    return split


def find_usable(names: Sequence[str], true: np.ndarray, split: np.ndarray) -> list[int]:
    """Find the labels with positive and negative recordings both to train with and to choose the penalty with.

    Args:
        names: The labels.
        true: (recordings, labels) 1, 0 or NaN.
        split: (recordings,) index in `SPLITS`.

    Returns:
        Their columns; a warning names the others.

    Raises:
        EcgpipeError: There is none.
    """
    usable = []
    for column, name in enumerate(names):
        missing = [
            f"{SPLITS[number]} has no recording {which} it"
            for number in (TRAIN, VALID)
            for which, value in (("with", 1), ("without", 0))
            if not (true[split == number, column] == value).any()
        ]
        if missing:
            logger.warning("%s is left out: %s", name, "; ".join(missing))
        else:
            usable.append(column)
    if not usable:
        raise EcgpipeError(
            "probe: no label has recordings with and without it in both train and valid; give more recordings, or "
            "another split"
        )
    return usable


def write_fitted(
    path: Path, finished: Run, selected: Selected, source: Source, asked: settings.Probe
) -> dict[str, object]:
    """Write beside the head which recordings it is trained on.

    Args:
        path: The head.
        finished: The run.
        selected: The recordings.
        source: Of the true labels.
        asked: The settings.

    Returns:
        The metadata of the head.
    """
    examples = selected.examples
    is_learned = pa.array(np.isin(examples.split, (TRAIN, VALID)))
    ids = examples.record_ids.filter(is_learned)
    signals = parquet.column_of(finished.files("records"), "signal_hash", ids)
    patients = None if selected.patients is None else selected.patients.filter(is_learned)
    on = f"the recordings of {SPLITS[TRAIN]} and {SPLITS[VALID]}"
    recordings = leakage.Recordings(ids, signals, patients)
    sha256 = leakage.write_hashes(path, "probe", recordings, {"on": on, "patient": asked.patient})
    counts = _count_splits(examples.split)
    return {
        "ecgpipe": __version__,
        "aggregation": "mean",
        "split": {"column": asked.split, "patient": asked.patient, "seed": asked.seed, "recordings": counts},
        "truth_sha256": provenance.hash_file(source.table) if source.table else None,
        "mapping": dict(source.mapping),
        "fitted": {"on": on, "sha256": sha256},
    }


def measure(model: str, selected: Selected, probability: np.ndarray, asked: settings.Probe) -> list[dict[str, object]]:
    """Measure a head on the test recordings.

    Args:
        model: `probe` or `baseline`.
        selected: The recordings.
        probability: (recordings, labels) of all of them.
        asked: The settings.

    Returns:
        Rows of `schemas.PROBE`.
    """
    examples, test = selected.examples, selected.is_test
    thresholds = np.full(len(examples.names), labels.DEFAULT_THRESHOLD)
    measures = metrics.measure(
        examples.true[test], probability[test], thresholds, selected.groups[test], asked.resamples, asked.seed
    )
    return _as_rows(model, examples.names, measures)


def measure_gain(
    selected: Selected, ours: np.ndarray, theirs: np.ndarray, asked: settings.Probe
) -> list[dict[str, object]]:
    """Measure the gain over the baseline on the test recordings: as of `measure`, for the difference of the two."""
    examples, test = selected.examples, selected.is_test
    thresholds = np.full(len(examples.names), labels.DEFAULT_THRESHOLD)
    scores = ours[test], theirs[test]
    measures = metrics.measure_gain(
        examples.true[test], scores, thresholds, selected.groups[test], asked.resamples, asked.seed
    )
    return _as_rows("gain", examples.names, measures)


def warn_if_not_random(baseline: Run) -> None:
    """Warn if the weights of the baseline are not random."""
    description = describe(baseline.model_json)
    if not description.random_weights:
        logger.warning("--baseline: the weights of %s are not random: the gain is over that model", description.uri)


def write(
    folder: Path,
    trained: Trained,
    rows: Sequence[dict[str, object]],
    examples: Examples,
    embeddings: Sequence[Path],
) -> None:
    """Write metrics, predictions for the recordings that were not trained with, and the head.

    Args:
        folder: To write to.
        trained: The head.
        rows: Of `schemas.PROBE`.
        examples: The recordings.
        embeddings: Of the run.
    """
    inherited = provenance.inherit_facts([pq.read_schema(path) for path in embeddings])
    schema = provenance.add_origin(schemas.PROBE, "probe", **inherited)
    parquet.write(folder / "metrics.parquet", pa.Table.from_pylist(list(rows), schema=schema))
    is_new = examples.split != TRAIN
    columns = [examples.record_ids.filter(pa.array(is_new)), pa.array(np.array(SPLITS)[examples.split[is_new]])]
    columns += [pa.array(values) for values in trained.probability[is_new].T]
    schema = provenance.add_origin(schemas.probed_schema(trained.head.labels), "probe", **inherited)
    parquet.write(folder / "predictions.parquet", pa.table(columns, schema=schema))
    heads.save_head(folder / HEAD, trained.head)  # last: if it exists, the others do too


def format_table(rows: Sequence[dict[str, object]], trained: Trained) -> list[str]:
    """Format the area under the ROC curve of each label as a table."""
    by = {(row["model"], row["label"]): row for row in rows if row["metric"] == "auroc" and row["average"] != "micro"}
    models = list(dict.fromkeys(row["model"] for row in rows))
    names = [*trained.head.labels, None]
    width = max(len(str(name)) for name in names)
    heading = {"probe": "AUROC", "baseline": "baseline", "gain": "gain"}
    lines = [f"{'label':<{width}}  {'C':>7}" + "".join(f"  {heading[str(model)]:<22}" for model in models)]
    for number, name in enumerate(names):
        strength = f"{trained.strength[number]:g}" if name is not None else ""
        columns = (f"  {_format_with_interval(by[model, name])}".ljust(24) for model in models)
        lines.append((f"{name or 'macro':<{width}}  {strength:>7}" + "".join(columns)).rstrip())
    return lines


def _count_splits(split: np.ndarray) -> dict[str, int]:
    return {name: int((split == number).sum()) for number, name in enumerate(SPLITS)}


def _as_rows(model: str, names: Sequence[str], measures: Sequence[Measure]) -> list[dict[str, object]]:
    """Rows of `schemas.PROBE`."""
    return [
        {**result._asdict(), "model": model, "label": None if result.label is None else names[result.label]}
        for result in measures
    ]


def _format_with_interval(row: Mapping[str, Any]) -> str:
    """A value, and its interval if it has one: there is none without resamples, or where most do not define it."""
    if np.isnan(row["value"]):
        return f"{'-':>6}"
    text = f"{row['value']:>6.3f}"
    return text if np.isnan(row["low"]) else f"{text} [{row['low']:.3f}, {row['high']:.3f}]"


def _is_binary(column: pa.ChunkedArray) -> bool:
    kind = column.type
    if not (pa.types.is_boolean(kind) or pa.types.is_integer(kind) or pa.types.is_floating(kind)):
        return False
    values = set(pc.unique(column).drop_null().to_pylist())
    return bool(values) and values <= {0, 1}
