"""The columns of every result file, in one place."""

import re
from collections.abc import Sequence

import pyarrow as pa

from ecgpipe.core.leads import LEADS

_time = pa.timestamp("us", "UTC")

# Further columns of the inputs' tables follow these.
MANIFEST = pa.schema(
    [
        ("record_id", pa.string()),
        ("path", pa.string()),  # absolute
        ("format", pa.string()),  # a key of readers.FORMATS; null where there is a problem
        ("row", pa.int64()),  # in a file of many recordings, else null
        ("problem", pa.string()),  # a problem that the scan found
        # What a table states of its recordings.
        ("stated_sample_rate", pa.float64()),
        ("stated_leads", pa.list_(pa.string())),
        ("stated_unit", pa.string()),
        # Of its files together.
        ("bytes", pa.int64()),
        ("modified", _time),
        ("stamp", pa.int64()),  # differs from that of the last scan if the recording was changed
    ]
)

# How the recordings of a scan differ from those of the scan before.
CHANGES = pa.schema([("change", pa.string()), ("record_id", pa.string()), ("path", pa.string())])  # changed or removed

# The inputs' files, each once. A recording whose file is missing has no row.
FILES = pa.schema(
    [
        ("path", pa.string()),  # absolute
        ("role", pa.string()),  # recording, part (of a recording) or ignored
        ("record_id", pa.string()),  # of the recording; of a file with many recordings, the beginning of their ids
        ("reason", pa.string()),  # why it is ignored
    ]
)

_names = pa.list_(pa.string())

# What a recording's device measured: rate per minute, intervals in ms, axes of the frontal plane in degrees.
DEVICE = (
    *("device_heart_rate", "device_pr_ms", "device_qrs_ms", "device_qt_ms", "device_qtc_ms"),
    *("device_p_axis", "device_qrs_axis", "device_t_axis"),
)

# The inputs' own columns follow these. docs/outputs.md explains each.
RECORDS = pa.schema(
    [
        ("record_id", pa.string()),
        ("path", pa.string()),
        ("row", pa.int64()),
        ("bytes", pa.int64()),
        ("modified", _time),
        ("status", pa.string()),  # ok, skipped (the settings exclude it) or failed (it could not be read)
        ("reason", pa.string()),
        # What was read.
        ("format", pa.string()),
        ("sample_rate", pa.float64()),
        ("duration_s", pa.float64()),
        ("leads", _names),
        ("unit", pa.string()),
        # What was done to it.
        ("n_segments", pa.int32()),
        ("discarded_s", pa.float64()),
        ("overlap_s", pa.float64()),
        ("padded_s", pa.float64()),
        ("stripped_s", pa.float64()),
        ("resampled_from", pa.float64()),
        ("leads_reordered", pa.bool_()),
        ("derived_leads", _names),
        ("missing_leads", _names),
        # How good the signal is.
        ("nan_share", pa.float64()),
        ("constant_leads", _names),
        ("clipped_leads", _names),
        ("flat_leads", _names),
        ("flat_s", pa.float64()),
        ("einthoven_residual", pa.float64()),
        ("goldberger_residual", pa.float64()),
        ("lead_suspicion", pa.string()),
        ("signal_hash", pa.string()),
        *((f"amplitude_mv_{lead}", pa.float64()) for lead in LEADS),
        # What the device measured and said: null where the file does not say it.
        *((name, pa.float64()) for name in DEVICE),
        ("device_statements", _names),
    ]
)

DUPLICATES = pa.schema([("record_id", pa.string()), ("duplicate_of", pa.string())])

# The recordings that the report shows with their leads.
_why = pa.struct([("kind", pa.string()), ("what", pa.string()), ("rank", pa.int32())])
_neighbor = pa.struct([("record_id", pa.string()), ("similarity", pa.float64())])
EXAMPLES = pa.schema([("record_id", pa.string()), ("why", pa.list_(_why)), ("neighbors", pa.list_(_neighbor))])

# The recordings most similar to each, by embedding.
NEIGHBORS = pa.schema(
    [
        ("record_id", pa.string()),
        ("rank", pa.int32()),  # from 1, the nearest
        ("neighbor_id", pa.string()),
        ("similarity", pa.float64()),  # cosine of the two embeddings
    ]
)

# Two runs, a and b: recordings of both runs; recordings of one run only; labels of both runs.
COMPARED_RECORDINGS = pa.schema(
    [
        ("record_id", pa.string()),
        ("change", pa.float64()),  # of the label that changed most, b - a; null without common labels
        ("label", pa.string()),
        ("probability_a", pa.float64()),
        ("probability_b", pa.float64()),
        ("embedding_distance", pa.float64()),  # 1 - cosine; null if the runs are of different checkpoints
        ("n_segments_a", pa.int32()),
        ("n_segments_b", pa.int32()),
        ("same_signal", pa.bool_()),
    ]
)
COMPARED_ONLY = pa.schema(
    [
        ("record_id", pa.string()),
        ("run", pa.string()),  # a or b, the run that has it
        ("other_status", pa.string()),  # in the other run; null if that run has no such recording
        ("other_reason", pa.string()),
    ]
)
_each = ("mean", "positive", "q05", "q25", "q50", "q75", "q95")
COMPARED_LABELS = pa.schema(
    [
        ("label", pa.string()),
        *((f"{name}_{run}", pa.float64()) for name in ("threshold", *_each) for run in "ab"),
        ("ks", pa.float64()),
        ("wasserstein", pa.float64()),
        # Of the recordings that both have.
        *((name, pa.float64()) for name in ("mean_difference", "sd_difference", "pearson", "spearman")),
        *((name, pa.int64()) for name in ("crossed_up", "crossed_down")),
    ]
)

# What several models say of the recordings of one dataset; a column for each probability follows, see `study_schema`.
STUDY = pa.schema(
    [
        ("record_id", pa.string()),
        ("n_models", pa.int32()),  # that have a prediction for it
        (
            "disagreement",
            pa.float64(),
        ),  # the highest minus the lowest probability, of the statement where it is largest
        ("statement", pa.string()),  # that one; null without a statement of which two models have a probability
        ("highest", pa.string()),  # the model with the highest probability of it
        ("lowest", pa.string()),
    ]
)

# The recordings of a fit of thresholds or a calibration: hashes of record ids, signals and patients, each once.
FITTED = pa.schema([("what", pa.string()), ("hash", pa.uint64())])

UMAP = pa.schema([("record_id", pa.string()), ("segment", pa.int32()), ("x", pa.float32()), ("y", pa.float32())])

# Columns that show how reliable an attribution is.
JUDGED = ("logit", "baseline_logit", "error", "drop", "random_change", "steps")

ATTRIBUTION_LEADS = pa.schema(
    [
        *((name, pa.string()) for name in ("record_id", "label", "lead")),
        *((name, pa.float64()) for name in ("share", "favour", "against")),
    ]
)

# Performance of a probe on its test recordings.
PROBE = pa.schema(
    [
        ("model", pa.string()),  # probe, baseline (the same on a random network's embeddings), gain (their difference)
        ("label", pa.string()),  # null: all labels together
        ("average", pa.string()),  # label, macro or micro
        ("metric", pa.string()),  # one of metrics.METRICS
        *((name, pa.float64()) for name in ("value", "low", "high")),  # of the 95 % interval
        ("resamples", pa.int64()),  # those in which it was defined
    ]
)

# How well probabilities agree with true labels, see docs/evaluation.md.
METRICS = pa.schema(
    [
        ("subgroup", pa.string()),  # a column; empty: all recordings
        ("subgroup_value", pa.string()),  # the value of that column, or the range that the value lies in
        ("label", pa.string()),  # empty: all labels together
        ("average", pa.string()),  # label, macro or micro
        ("metric", pa.string()),  # one of metrics.METRICS
        *((name, pa.float64()) for name in ("value", "low", "high")),  # null where not defined
        *((name, pa.int64()) for name in ("n", "n_positive", "n_patients", "resamples_used")),
    ]
)

# The true labels of the recordings that have a prediction; a column of each label follows, see `true_labels_schema`.
TRUE_LABELS = pa.schema([("record_id", pa.string()), ("is_evaluated", pa.bool_())])

CURVES = pa.schema(
    [
        ("label", pa.string()),
        ("curve", pa.string()),  # roc, pr or calibration
        *((name, pa.float64()) for name in ("x", "y", "threshold")),
        ("n", pa.int64()),  # of calibration: the recordings of the bin
        *((name, pa.float64()) for name in ("low", "high")),  # the same: the 95 % interval of y
    ]
)

_SEGMENT_KEY = [("record_id", pa.string()), ("segment", pa.int32())]


# A preprocessed shard: (leads, samples) of each segment, flattened lead by lead, as float32 values or as whole numbers.
# `digital.decode` makes the values of the latter. Lists of any length, because a null among fixed ones takes its bytes.
SEGMENTS = pa.schema(
    [
        *_SEGMENT_KEY,
        ("start_s", pa.float32()),
        ("samples", pa.int32()),  # so many from the beginning are signal, the rest is padding with zeros
        ("signal", pa.large_list(pa.float32())),  # null where `numbers` are there
        ("numbers", pa.large_list(pa.int16())),  # null where `signal` is there
        ("steps", pa.string()),  # what is done to the numbers, a letter each: see `core.digital`
        ("constants", pa.large_list(pa.float64())),  # with what: (steps, leads), flattened step by step
    ]
)


def logits_schema(labels: Sequence[str]) -> pa.Schema:
    """One float32 column per label, in the model's order; none for a model without a head."""
    return pa.schema([*_SEGMENT_KEY, ("start_s", pa.float32()), *((label, pa.float32()) for label in labels)])


def embeddings_schema(width: int) -> pa.Schema:
    """The mean over a segment's tokens."""
    return pa.schema([*_SEGMENT_KEY, ("embedding", pa.list_(pa.float32(), width))])


def attention_schema(tokens: int) -> pa.Schema:
    """The last layer's attention: mean over heads, max over keys."""
    return pa.schema([*_SEGMENT_KEY, ("attention", pa.list_(pa.float32(), tokens))])


def attribution_schema(leads: int, samples: int) -> pa.Schema:
    """The contribution of each sample to a label's logit, (leads, samples) float32, flattened lead by lead."""
    return pa.schema(
        [
            *_SEGMENT_KEY,
            ("start_s", pa.float32()),
            ("label", pa.string()),
            *((name, pa.int32() if name == "steps" else pa.float64()) for name in JUDGED),
            ("attribution", pa.list_(pa.float32(), leads * samples)),
        ]
    )


def predictions_schema(labels: Sequence[str]) -> pa.Schema:
    """One float64 probability per label and recording."""
    return pa.schema(
        [("record_id", pa.string()), ("n_segments", pa.int32()), *((label, pa.float64()) for label in labels)]
    )


def true_labels_schema(labels: Sequence[str]) -> pa.Schema:
    """`TRUE_LABELS` and for each label whether the recording has it; null where that is unknown."""
    return pa.schema([*TRUE_LABELS, *((label, pa.bool_()) for label in labels)])


def study_schema(columns: Sequence[tuple[str, str]]) -> pa.Schema:
    """`STUDY` and one float64 probability for each model and statement; null where the model has none.

    Args:
        columns: Model and statement of each.
    """
    return pa.schema([*STUDY, *((study_column(*column), pa.float64()) for column in columns)])


def study_column(model: str, statement: str) -> str:
    """The name of the column of a model's probability of a statement: `ecg-fm: Atrial fibrillation`."""
    return f"{model}: {statement}"


def probed_schema(labels: Sequence[str]) -> pa.Schema:
    """A probe's predictions for recordings that it was not trained on: one float64 probability per label."""
    return pa.schema([("record_id", pa.string()), ("split", pa.string()), *((label, pa.float64()) for label in labels)])


def strip_particulars(reason: str) -> str:
    """Remove from a reason the particulars of the file, which stand in brackets at the end."""
    return re.sub(r"(?s) \(.*\)$", "", reason)


# Columns of the records that warn about a recording that was used.
FLAGS = ("derived_leads", "missing_leads", "constant_leads", "clipped_leads", "flat_leads", "lead_suspicion")
