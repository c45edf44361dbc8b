"""One prediction per recording of a part: from the logits of its segments, and from heads on its mean embedding."""

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from scipy.special import expit

from ecgpipe.core import parquet, provenance, schemas, settings
from ecgpipe.core.errors import EcgpipeError
from ecgpipe.models import calibration, heads, labels
from ecgpipe.models.calibration import Calibration
from ecgpipe.models.labels import Label

logger = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `python -m ecgpipe aggregate`."""
    settings.add_arguments(parser, settings.Aggregate)
    parser.add_argument("--logits", type=Path, required=True, help="a logits/part-*.parquet")
    parser.add_argument("--labels", type=Path, help="the label CSV, which says how each is aggregated")
    parser.add_argument("--calibration", type=Path, help="what `calibrate` wrote, to apply (default: none)")
    parser.add_argument("--heads", type=Path, nargs="*", default=[], help="head.safetensors of probe: labels besides")
    parser.add_argument("--embeddings", type=Path, help="the embeddings/part-*.parquet that the heads are applied to")
    parser.add_argument("--predictions", type=Path, required=True, help="Parquet file to write")


def run(args: argparse.Namespace) -> None:
    """Aggregate one part."""
    given = settings.of_arguments("aggregate", settings.Aggregate, args)
    label_csv = args.labels or settings.path("labels", given.labels)
    calibrated = args.calibration or (Path(given.calibration) if given.calibration else None)
    head_files = args.heads or [Path(path) for path in given.heads]
    logits = pq.read_table(args.logits)
    wanted = labels.read_for(label_csv, logits.column_names, args.logits)
    facts = settings.marked("aggregate", given, provenance.inherited([logits.schema]))
    facts["aggregation"] = {label.name: label.aggregation for label in wanted}
    made = calibration.read(calibrated) if calibrated else None
    if made:
        facts["calibration"] = made.facts
    scores = provenance.scores(provenance.origin(provenance.with_origin(pa.schema([]), "aggregate", **facts)))
    if made:
        calibration.refuse_foreign(made, wanted, scores)
    labels.refuse_foreign(label_csv, wanted, scores)
    table = predict(logits, wanted, made)
    if head_files:
        table, facts["heads"] = with_heads(table, head_files, args.embeddings)
    parquet.write(args.predictions, table.cast(provenance.with_origin(table.schema, "aggregate", **facts)))
    logger.info("%s: %d recordings from %d segments", args.logits.stem, len(table), len(logits))


def predict(logits: pa.Table, wanted: Sequence[Label], calibrated: Calibration | None = None) -> pa.Table:
    """Aggregate the probabilities of each recording's segments, label by label.

    Args:
        logits: A table of `schemas.logits_schema`; the rows of a recording follow one another.
        wanted: Labels that `logits` has columns of; `mean` or `max` is taken of sigmoid(logit), as ECG-FM's tutorial
            does (notebooks/infer_quickstart.ipynb of https://github.com/bowang-lab/ECG-FM).
        calibrated: What to make of them then; None to leave them as they are.

    Returns:
        A table of `schemas.predictions_schema`, one row per recording in the same order, probabilities in float64.

    Raises:
        EcgpipeError: A logit is NaN or infinite, as an older ecgpipe or another program may have written it.
    """
    _refuse_not_finite(logits, wanted)
    ids = logits["record_id"].to_numpy()
    changes = np.flatnonzero(ids[1:] != ids[:-1]) + 1
    firsts = np.concatenate([[0], changes]) if len(ids) else changes  # (recordings,) first row of each
    counts = np.diff(np.append(firsts, len(ids)))
    columns = [pa.array(ids[firsts], pa.string()), pa.array(counts, pa.int32())]
    for label in wanted:
        score = logits[label.name].to_numpy().astype(np.float64)  # (segments,)
        probability = expit(calibration.of_logits(calibrated, label.name, score) if calibrated else score)
        if label.aggregation == "max":
            value = np.maximum.reduceat(probability, firsts) if len(firsts) else probability
        else:
            value = np.add.reduceat(probability, firsts) / counts if len(firsts) else probability
        if calibrated:
            value = calibration.of_probability(calibrated, label.name, value)
        columns.append(pa.array(value, pa.float64()))  # (recordings,)
    return pa.table(columns, schema=schemas.predictions_schema([label.name for label in wanted]))


def _refuse_not_finite(logits: pa.Table, wanted: Sequence[Label]) -> None:
    for label in wanted:
        rows = np.flatnonzero(~np.isfinite(logits[label.name].to_numpy()))
        if len(rows):
            record_id, segment = (logits[name][int(rows[0])].as_py() for name in ("record_id", "segment"))
            raise EcgpipeError(
                f"logits: {len(rows):,} of {len(logits):,} logits of {label.name!r} are not finite numbers, the first "
                f"that of segment {segment} of {record_id!r}; delete this part's file in logits/ and run again"
            )


def with_heads(
    predictions: pa.Table, paths: Sequence[Path], embeddings: Path | None
) -> tuple[pa.Table, dict[str, dict[str, str]]]:
    """Append what heads say of the recordings.

    Args:
        predictions: A table of `schemas.predictions_schema`.
        paths: Of the heads.
        embeddings: The same part's `embeddings/part-*.parquet`.

    Returns:
        The same table, with a column of probabilities in float64 for each label of each head after those of the model;
        and what its metadata says of them, `heads.told`.

    Raises:
        EcgpipeError: A head belongs to other embeddings, or has a label of a name that is taken.
    """
    if embeddings is None:
        raise EcgpipeError("--heads: nothing to apply them to; give the same part's --embeddings")
    given = [heads.load(path) for path in paths]
    heads.check(paths, given, pq.read_schema(embeddings))
    called = heads.called(paths, given, labels.columns(predictions.column_names))
    for name, values in heads.apply(given, called, [embeddings], predictions["record_id"].combine_chunks()).items():
        predictions = predictions.append_column(name, pa.array(values, pa.float64()))
    return predictions, heads.told(paths, given, called)
