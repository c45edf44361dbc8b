"""One prediction per recording of a part: from the logits of its segments, and from heads on its mean embedding."""

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ecgpipe.core import options, parquet, provenance, schemas, settings
from ecgpipe.core.errors import EcgpipeError
from ecgpipe.models import calibration, heads, labels
from ecgpipe.models.calibration import Calibration
from ecgpipe.models.labels import Label

logger = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `ecgpipe aggregate`."""
    settings.add_arguments(parser, settings.Aggregate)
    options.add(parser, "logits", required=True)
    options.add(parser, "labels", help="the label CSV, which says how the segments of each label are aggregated")
    options.add(parser, "calibration")
    options.add(parser, "heads", help="head.safetensors files of `probe`: their labels are added")
    options.add(parser, "embeddings", help="the embeddings/part-*.parquet that the heads are applied to")
    options.add(parser, "predictions", required=True, help="Parquet file to write")


def run(args: argparse.Namespace) -> None:
    """Aggregate one part."""
    aggregate_settings = settings.parse_arguments("aggregate", settings.Aggregate, args)
    options_given = {
        "labels": args.labels and str(args.labels),
        "calibration": args.calibration and str(args.calibration),
        "heads": [str(path) for path in args.heads],
    }
    aggregate_settings = aggregate_settings.model_copy(
        update={name: value for name, value in options_given.items() if value}
    )
    aggregate_part(args.logits, args.embeddings, args.predictions, aggregate_settings)


def aggregate_part(
    logits_path: Path, embeddings: Path | None, predictions: Path, aggregate_settings: settings.Aggregate
) -> None:
    """Write one prediction per recording of a part.

    Args:
        logits_path: The part's `logits/part-*.parquet`.
        embeddings: The part's `embeddings/part-*.parquet`; only heads need it.
        predictions: The Parquet file to write.
        aggregate_settings: The settings, which name the label CSV, the calibration and the heads.

    Raises:
        EcgpipeError: One of these files cannot be read or does not fit the logits, or a logit is not finite.
    """
    label_csv = settings.require_path("labels", aggregate_settings.labels)
    logits = pq.read_table(logits_path)
    model_labels = labels.read_for(label_csv, logits.column_names, logits_path)
    facts = settings.add_sha256("aggregate", aggregate_settings, provenance.inherit_facts([logits.schema]))
    facts["aggregation"] = {label.name: label.aggregation for label in model_labels}
    fit = calibration.read_calibration(Path(aggregate_settings.calibration)) if aggregate_settings.calibration else None
    if fit:
        facts["calibration"] = fit.facts
    scores = provenance.select_scores(
        provenance.read_origin(provenance.add_origin(pa.schema([]), "aggregate", **facts))
    )
    if fit:
        calibration.refuse_foreign(fit, model_labels, scores)
    labels.refuse_foreign(label_csv, model_labels, scores)
    table = predict(logits, model_labels, fit)
    if aggregate_settings.heads:
        table, facts["heads"] = with_heads(table, [Path(head) for head in aggregate_settings.heads], embeddings)
    parquet.write(predictions, table.cast(provenance.add_origin(table.schema, "aggregate", **facts)))
    logger.info("%s: %d recordings from %d segments", logits_path.stem, len(table), len(logits))


def predict(logits: pa.Table, model_labels: Sequence[Label], fit: Calibration | None = None) -> pa.Table:
    """Aggregate the probabilities of each recording's segments, label by label.

    Args:
        logits: A table of `schemas.logits_schema`; the rows of a recording follow one another.
        model_labels: Labels that `logits` has columns of; `mean` or `max` is taken of sigmoid(logit), as ECG-FM's
            tutorial does (notebooks/infer_quickstart.ipynb of https://github.com/bowang-lab/ECG-FM).
        fit: The calibration to apply; None for none.

    Returns:
        A table of `schemas.predictions_schema`, one row per recording in the same order, probabilities in float64.

    Raises:
        EcgpipeError: A logit is NaN or infinite, as an older ecgpipe or another program may have written it.
    """
    from scipy.special import expit  # here, because SciPy takes half a second of `import ECGFM`

    _refuse_not_finite(logits, model_labels)
    ids = logits["record_id"].to_numpy()
    changes = np.flatnonzero(ids[1:] != ids[:-1]) + 1
    firsts = np.concatenate([[0], changes]) if len(ids) else changes  # (recordings,) first row of each
    counts = np.diff(np.append(firsts, len(ids)))
    columns = [pa.array(ids[firsts], pa.string()), pa.array(counts, pa.int32())]
    for label in model_labels:
        score = logits[label.name].to_numpy().astype(np.float64)  # (segments,)
        probability = expit(calibration.shift_logits(fit, label.name, score) if fit else score)
        if label.aggregation == "max":
            value = np.maximum.reduceat(probability, firsts) if len(firsts) else probability
        else:
            value = np.add.reduceat(probability, firsts) / counts if len(firsts) else probability
        if fit:
            value = calibration.calibrate_probability(fit, label.name, value)
        columns.append(pa.array(value, pa.float64()))  # (recordings,)
    return pa.table(columns, schema=schemas.predictions_schema([label.name for label in model_labels]))


def _refuse_not_finite(logits: pa.Table, model_labels: Sequence[Label]) -> None:
    for label in model_labels:
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
    """Append the probabilities that heads give the recordings.

    Args:
        predictions: A table of `schemas.predictions_schema`.
        paths: Of the heads.
        embeddings: The same part's `embeddings/part-*.parquet`.

    Returns:
        The same table, with a column of probabilities in float64 for each label of each head after those of the model;
        and what its metadata says of them, by `heads.describe_labels`.

    Raises:
        EcgpipeError: A head belongs to other embeddings, or has a label of a name that is taken.
    """
    if embeddings is None:
        raise EcgpipeError("--heads: nothing to apply them to; give the same part's --embeddings")
    loaded = [heads.load_head(path) for path in paths]
    heads.check_heads(paths, loaded, pq.read_schema(embeddings))
    names = heads.name_labels(paths, loaded, labels.label_columns(predictions.column_names))
    for name, values in heads.apply_heads(
        loaded, names, [embeddings], predictions["record_id"].combine_chunks()
    ).items():
        predictions = predictions.append_column(name, pa.array(values, pa.float64()))
    return predictions, heads.describe_labels(paths, loaded, names)
