"""Train a linear probe on a run's embeddings: logistic regression for labels of one's own, measured apart.

A recording's embedding is the mean over its segments. Features are standardised by the training recordings, the
strength of the penalty is chosen for each label by the log loss on the validation recordings, and the test recordings
are looked at once, to measure. The head is saved; with `heads` in the settings, later runs apply it.

--baseline gives another run over the same recordings, with random weights (`untrained`). It is probed in the same way,
and what counts is the gain over it: random networks of this kind carry much of what a linear probe finds
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
from ecgpipe.core import parquet, provenance, recording_embeddings, schemas
from ecgpipe.core.errors import EcgpipeError
from ecgpipe.core.provenance import file_sha256
from ecgpipe.evaluation import ground_truth, leakage, logistic_regression, metrics, splits
from ecgpipe.evaluation.splits import NONE, SPLITS, TEST, TRAIN, VALID
from ecgpipe.inputs import input_tables
from ecgpipe.models import heads, labels
from ecgpipe.models.description import describe
from ecgpipe.models.heads import Head

logger = logging.getLogger(__name__)

HEAD = "head.safetensors"

# What scikit-learn calls C: the larger, the weaker the penalty.
STRENGTHS = tuple(10.0**power for power in range(-5, 2))

# Resamples of the gain at a time: each recording has a weight in each.
BLOCK = 100


class Probed(NamedTuple):
    """A head, and what it says of the recordings that it was not trained on."""

    head: Head
    strength: np.ndarray  # (labels,) that was chosen
    probability: np.ndarray  # (recordings, labels) float64, of all of them


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `python -m ecgpipe probe`."""
    parser.add_argument("--outdir", type=Path, required=True, help="the folder of a run's results")
    ground_truth.add_arguments(parser, ground_truth.OF_RUN)
    parser.add_argument("--split", metavar="COLUMN", help="the column that says which split a recording is in")
    for split in SPLITS:
        parser.add_argument(f"--{split}", nargs="+", default=[split], metavar="VALUE", help=f"of --split: {split}")
    parser.add_argument(
        "--patient",
        metavar="COLUMN",
        help="the column that says whose a recording is: without --split, patients are split at random, 70, 10, 20 %%; "
        "intervals resample patients. record_id: each recording is a patient",
    )
    parser.add_argument("--seed", type=int, default=42, help="of the random split and the intervals (default 42)")
    parser.add_argument("--resamples", type=int, default=1000, help="of the bootstrap, for intervals (default 1000)")
    parser.add_argument("--baseline", type=Path, help="the folder of a run of `untrained` over the same recordings")
    parser.add_argument("--output", type=Path, required=True, help="folder for head, metrics and predictions")


def run(args: argparse.Namespace) -> None:
    """Train, measure, write."""
    paths = parquet.of_run(args.outdir, "embeddings")
    records = parquet.of_run(args.outdir, "records")
    beside = [name for name in (args.split, args.patient) if name]
    if not beside:
        raise EcgpipeError("probe: give --split COLUMN, or --patient COLUMN to split patients at random")
    table, mapped = ground_truth.of_run(args, {} if args.truth or args.map else leakage.settings(args.outdir))
    mapped = mapped or label_columns(table, beside)
    reserved = sorted({*labels.RESERVED, "split"}.intersection(mapped.values()))
    if reserved:
        raise EcgpipeError(f"mapping: {reserved[0]!r} cannot be a label's name; give another")
    found = ground_truth.of_recordings(recording_embeddings.ids(paths), None, records, table, mapped, beside)
    patients = found.columns.get(args.patient)
    if args.split:
        split = splits.by_column(found.columns[args.split], [args.train, args.valid, args.test])
        splits.refuse_shared(split, patients)
    else:
        split = splits.by_patient(found.columns[args.patient], args.seed)
    split[np.isnan(found.true).all(axis=1)] = NONE
    for number, name in enumerate(SPLITS):
        if not (split == number).any():
            raise EcgpipeError(f"probe: no recording with a true label is in {name}; see --split, --patient and --seed")
    keep = split != NONE
    columns = usable(found.names, found.true[keep], split[keep])
    names = [found.names[column] for column in columns]
    found, split = ground_truth.chosen(found, keep), split[keep]
    true = found.true[:, columns]  # (recordings, labels)
    groups = ground_truth.units(found.columns[args.patient]) if args.patient else np.arange(len(split))
    account = {name: int((split == number).sum()) for number, name in enumerate(SPLITS)}
    logger.info("%s; %d recordings in none", ", ".join(f"{n} {s}" for s, n in account.items()), int((~keep).sum()))

    facts = {
        "ecgpipe": __version__,
        "aggregation": "mean",
        "split": {"column": args.split, "patient": args.patient, "seed": args.seed, "recordings": account},
        "truth_sha256": file_sha256(table) if table else None,
        "mapping": mapped,
    }
    learned = pa.array(np.isin(split, (TRAIN, VALID)))
    ids = found.record_ids.filter(learned)
    on = f"the recordings of {SPLITS[TRAIN]} and {SPLITS[VALID]}"
    facts["fitted"] = {
        "on": on,
        "sha256": leakage.write_hashes(
            args.output / HEAD,
            "probe",
            ids,
            parquet.column_of(records, "signal_hash", ids),
            found.columns[args.patient].filter(learned) if args.patient else None,
            on=on,
            patient=args.patient,
        ),
    }
    probed = train(paths, found.record_ids, true, split, names, facts)
    test = split == TEST
    rows = _measured("probe", names, true[test], probed.probability[test], groups[test], args)
    if args.baseline:
        their_paths = parquet.of_run(args.baseline, "embeddings")
        _say_baseline(args.baseline)
        baseline = train(their_paths, found.record_ids, true, split, names, facts)
        rows += _measured("baseline", names, true[test], baseline.probability[test], groups[test], args)
        rows += _gain(names, true[test], probed.probability[test], baseline.probability[test], groups[test], args)
    _write(args.output, probed, rows, found.record_ids, split, paths)
    print("\n".join(told(rows, probed)))
    logger.info("wrote %s", args.output)


def label_columns(table: Path | None, beside: Sequence[str]) -> dict[str, str]:
    """Without a mapping: the columns of a table that say nothing but 0 and 1, as labels of that name.

    Args:
        table: The file of --truth.
        beside: Columns that are something else.

    Returns:
        Label by column, the same.

    Raises:
        EcgpipeError: There is no table, or no such column.
    """
    if table is None:
        raise EcgpipeError(
            "probe: say which columns of the inputs' tables are labels, by --map COLUMN=LABEL, or --truth"
        )
    try:
        content = input_tables.read(table, texts=("record_id",))
    except ValueError as error:
        raise EcgpipeError(f"truth: {table}: {error}") from error
    others = {"split", *beside, *labels.RESERVED}
    names = [name for name in content.column_names if name not in others and _is_binary(content[name])]
    if not names:
        raise EcgpipeError(f"probe: no column of {table} holds nothing but 0 and 1; say which are labels by --map")
    logger.info("labels: %s (columns of 0 and 1; --map chooses)", ", ".join(names))
    return dict(zip(names, names, strict=True))


def usable(names: Sequence[str], true: np.ndarray, split: np.ndarray) -> list[int]:
    """The labels that can be learned: recordings with and without it to train with, and to choose the penalty by.

    Args:
        names: The labels.
        true: (recordings, labels) 1, 0 or NaN.
        split: (recordings,) index in `SPLITS`.

    Returns:
        Their columns; which are left out is said.

    Raises:
        EcgpipeError: There is none.
    """
    kept = []
    for column, name in enumerate(names):
        lacking = [
            f"{SPLITS[number]} has no recording {which} it"
            for number in (TRAIN, VALID)
            for which, value in (("with", 1), ("without", 0))
            if not (true[split == number, column] == value).any()
        ]
        if lacking:
            logger.warning("%s is left out: %s", name, "; ".join(lacking))
        else:
            kept.append(column)
    if not kept:
        raise EcgpipeError(
            "probe: no label has recordings with and without it in both train and valid; give more recordings, or "
            "another split"
        )
    return kept


def train(
    embeddings: Sequence[Path],
    ids: pa.Array,
    true: np.ndarray,
    split: np.ndarray,
    names: Sequence[str],
    facts: Mapping[str, object],
) -> Probed:
    """Train a head. Of the test recordings only the embedding is read, to tell their probabilities.

    Args:
        embeddings: All `embeddings/part-*.parquet` of a run.
        ids: (recordings,) those to use.
        true: (recordings, labels) float32: 1, 0 or NaN.
        split: (recordings,) index in `SPLITS`.
        names: The labels.
        facts: What else the head's file says.

    Returns:
        The head, with the strength of each label's penalty that has the least log loss on the validation recordings.

    Raises:
        EcgpipeError: A recording has no embedding.
    """
    features = read(embeddings, ids)  # (recordings, width) float32
    mean, scale = moments(features[split == TRAIN])
    features -= mean
    features /= scale
    trained, validated = (features[split == number] for number in (TRAIN, VALID))
    shape = logistic_regression.curvature(trained)
    best = np.full(len(names), np.inf)
    strength = np.zeros(len(names))
    weight, bias = np.zeros((len(mean), len(names))), np.zeros(len(names))
    found = None
    for each in STRENGTHS:
        found = logistic_regression.fit(trained, true[split == TRAIN], np.full(len(names), each), shape, found)
        losses = logistic_regression.log_loss(logistic_regression.probability(validated, found), true[split == VALID])
        better = losses < best
        best[better], strength[better] = losses[better], each
        weight[:, better], bias[better] = found.weight[:, better], found.bias[better]
    told = {**facts, "space": heads.space(pq.read_schema(embeddings[0])), "strength": strength.tolist()}
    head = Head(tuple(names), mean, scale, weight.T.astype(np.float32), bias.astype(np.float32), told)
    # As the head that is saved says it.
    probability = logistic_regression.probability(features, logistic_regression.Linear(head.weight.T, head.bias))
    return Probed(head, strength, probability)


def read(embeddings: Sequence[Path], ids: pa.Array) -> np.ndarray:
    """The embeddings of some recordings, each the mean over its segments.

    Args:
        embeddings: All `embeddings/part-*.parquet`, in order.
        ids: (recordings,) each once.

    Returns:
        (recordings, width) float32.

    Raises:
        EcgpipeError: A recording is not among them.
    """
    width = pq.read_schema(embeddings[0]).field("embedding").type.list_size
    features = np.empty((len(ids), width), np.float32)
    there = np.zeros(len(ids), bool)
    for some, vectors in recording_embeddings.of_recordings(embeddings):
        place = pc.index_in(some, ids)
        rows = place.drop_null().to_numpy()
        features[rows] = vectors[place.is_valid().to_numpy(zero_copy_only=False)]
        there[rows] = True
    if not there.all():
        first = ids[int(np.argmin(there))].as_py()
        raise EcgpipeError(
            f"probe: {int((~there).sum())} recordings are not in {embeddings[0].parent}, such as {first!r}; run "
            "it over the same recordings"
        )
    return features


def moments(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and population standard deviation of each feature, (width,) float32; 1 for one that does not vary."""
    mean = features.mean(axis=0, dtype=np.float64)
    scale = features.std(axis=0, dtype=np.float64)
    constant = scale <= 1e-6 * np.abs(mean)
    return mean.astype(np.float32), np.where(constant | (scale == 0), 1, scale).astype(np.float32)


def told(rows: Sequence[dict[str, object]], probed: Probed) -> list[str]:
    """The area under the ROC curve of each label as a table for people."""
    by = {(row["model"], row["label"]): row for row in rows if row["metric"] == "auroc" and row["average"] != "micro"}
    kinds = list(dict.fromkeys(row["model"] for row in rows))
    names = [*probed.head.labels, None]
    width = max(len(str(name)) for name in names)
    heading = {"probe": "AUROC", "baseline": "baseline", "gain": "gain"}
    lines = [f"{'label':<{width}}  {'C':>7}" + "".join(f"  {heading[str(kind)]:<22}" for kind in kinds)]
    for number, name in enumerate(names):
        strength = f"{probed.strength[number]:g}" if name is not None else ""
        shown = (f"  {_with_interval(by[kind, name])}".ljust(24) for kind in kinds)
        lines.append((f"{name or 'macro':<{width}}  {strength:>7}" + "".join(shown)).rstrip())
    return lines


def _with_interval(row: Mapping[str, Any]) -> str:
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


def _say_baseline(outdir: Path) -> None:
    description = describe(outdir / "checkpoint/model.json")
    if not description.random_weights:
        logger.warning("--baseline: the weights of %s are not random: the gain is over that model", description.uri)


def _measured(
    model: str,
    names: Sequence[str],
    true: np.ndarray,
    probability: np.ndarray,
    groups: np.ndarray,
    args: argparse.Namespace,
) -> list[dict[str, object]]:
    """Rows of `schemas.PROBE`."""
    thresholds = np.full(len(names), labels.DEFAULT_THRESHOLD)
    found = metrics.measure(true, probability, thresholds, groups, args.resamples, args.seed)
    return [
        {**one._asdict(), "model": model, "label": None if one.label is None else names[one.label]} for one in found
    ]


def _gain(
    names: Sequence[str],
    true: np.ndarray,
    probability: np.ndarray,
    baseline: np.ndarray,
    groups: np.ndarray,
    args: argparse.Namespace,
) -> list[dict[str, object]]:
    """The differences between the two, with intervals by resamples of patients that both are measured in."""
    thresholds = np.full(len(names), labels.DEFAULT_THRESHOLD)
    units = np.unique(groups, return_inverse=True)[1]
    people = int(units.max()) + 1
    draw = np.random.default_rng(args.seed)

    def difference(weights: np.ndarray) -> np.ndarray:
        ours, theirs = (metrics.weighted(true, one, thresholds, weights) for one in (probability, baseline))
        less: np.ndarray = ours - theirs
        return less  # (labels + 2, METRICS, times)

    value = difference(np.ones((len(true), 1)))[..., 0]
    drawn = np.full((*value.shape, args.resamples), np.nan)
    for first in range(0, args.resamples, BLOCK):
        counts = [
            np.bincount(draw.integers(0, people, people), minlength=people)[units]
            for _ in range(min(BLOCK, args.resamples - first))
        ]
        drawn[..., first : first + BLOCK] = difference(np.stack(counts, axis=1).astype(np.float64))
    defined = (~np.isnan(drawn)).sum(axis=-1)
    low, high = np.full_like(value, np.nan), np.full_like(value, np.nan)
    enough = (defined > 0) & (2 * defined >= args.resamples)
    tails = [(1 - metrics.LEVEL) / 2, (1 + metrics.LEVEL) / 2]
    if enough.any():
        low[enough], high[enough] = np.nanquantile(drawn[enough], tails, axis=-1)
    averages = [*((name, "label") for name in names), (None, "macro"), (None, "micro")]
    return [
        {
            "model": "gain",
            "label": label,
            "average": average,
            "metric": metric,
            "value": float(value[row, column]),
            "low": float(low[row, column]),
            "high": float(high[row, column]),
            "resamples": int(defined[row, column]),
        }
        for row, (label, average) in enumerate(averages)
        for column, metric in enumerate(metrics.METRICS)
    ]


def _write(
    folder: Path,
    probed: Probed,
    rows: Sequence[dict[str, object]],
    ids: pa.Array,
    split: np.ndarray,
    embeddings: Sequence[Path],
) -> None:
    inherited = provenance.inherited([pq.read_schema(path) for path in embeddings])
    schema = provenance.with_origin(schemas.PROBE, "probe", **inherited)
    parquet.write(folder / "metrics.parquet", pa.Table.from_pylist(list(rows), schema=schema))
    apart = split != TRAIN
    columns = [ids.filter(pa.array(apart)), pa.array(np.array(SPLITS)[split[apart]])]
    columns += [pa.array(values) for values in probed.probability[apart].T]
    schema = provenance.with_origin(schemas.probed_schema(probed.head.labels), "probe", **inherited)
    parquet.write(folder / "predictions.parquet", pa.table(columns, schema=schema))
    heads.save(folder / HEAD, probed.head)  # last: where it is, the others are too
