"""The columns of every result file, in one place, and what its metadata says of its making."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ecgpipe import __version__, results
from ecgpipe.atomic import whole
from ecgpipe.errors import EcgpipeError
from ecgpipe.provenance import MEANING, digest, source_sha256
from ecgpipe.readers.recording import LEADS

# Of a file's metadata, what holds for all that is made of it.
_INHERITED = (
    *("meaning", "checkpoint", "checkpoint_sha256", "preprocess", "precision", "deterministic"),
    "calibration",  # of predictions
    "settings",  # by stage the SHA-256 of what made it, see ecgpipe/settings.py
)

# Rows that `batches` reads at a time: 31 MB of ECG-FM's embeddings.
BATCH_ROWS = 10_000

_time = pa.timestamp("us", "UTC")

# Further columns of the inputs' tables follow these.
MANIFEST = pa.schema(
    [
        ("record_id", pa.string()),
        ("path", pa.string()),  # absolute
        ("format", pa.string()),  # a key of readers.FORMATS; null where there is a problem
        ("row", pa.int64()),  # in a file of many recordings, else null
        ("problem", pa.string()),  # what the scan knows to be wrong with it
        # What a table states of its recordings.
        ("stated_sample_rate", pa.float64()),
        ("stated_leads", pa.list_(pa.string())),
        ("stated_unit", pa.string()),
        # Of its files together.
        ("bytes", pa.int64()),
        ("modified", _time),
        ("stamp", pa.int64()),  # another one at the next scan: it was changed
    ]
)

# What a scan found of the recordings that the one before had found.
CHANGES = pa.schema([("change", pa.string()), ("record_id", pa.string()), ("path", pa.string())])  # changed or removed

# The inputs' files: each once, except that a recording that is in no file has none.
FILES = pa.schema(
    [
        ("path", pa.string()),  # absolute
        ("role", pa.string()),  # recording, part (of a recording) or ignored
        ("record_id", pa.string()),  # of the recording; of a file that holds many, what their ids begin with
        ("reason", pa.string()),  # why it is ignored
    ]
)

_names = pa.list_(pa.string())

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
    ]
)

DUPLICATES = pa.schema([("record_id", pa.string()), ("duplicate_of", pa.string())])

# The recordings that the report shows with their leads.
_why = pa.struct([("kind", pa.string()), ("what", pa.string()), ("rank", pa.int32())])
_neighbor = pa.struct([("record_id", pa.string()), ("similarity", pa.float64())])
EXAMPLES = pa.schema([("record_id", pa.string()), ("why", pa.list_(_why)), ("neighbors", pa.list_(_neighbor))])

# The recordings most alike to each.
NEIGHBORS = pa.schema(
    [
        ("record_id", pa.string()),
        ("rank", pa.int32()),  # from 1, the nearest
        ("neighbor_id", pa.string()),
        ("similarity", pa.float64()),  # cosine of the two embeddings
    ]
)

# Two runs, a and b: the recordings that both have; those that one has; the labels that both have.
COMPARED_RECORDINGS = pa.schema(
    [
        ("record_id", pa.string()),
        ("change", pa.float64()),  # of the label that changed most, b less a; null without common labels
        ("label", pa.string()),
        ("probability_a", pa.float64()),
        ("probability_b", pa.float64()),
        ("embedding_distance", pa.float64()),  # 1 - cosine; null where the runs are of different checkpoints
        ("n_segments_a", pa.int32()),
        ("n_segments_b", pa.int32()),
        ("same_signal", pa.bool_()),
    ]
)
COMPARED_ONLY = pa.schema(
    [
        ("record_id", pa.string()),
        ("run", pa.string()),  # a or b, which has it
        ("other_status", pa.string()),  # in the other one; null where that knows no such recording
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

# What thresholds or a calibration were fitted on: hashes of record ids, signals and patients, each once.
FITTED = pa.schema([("what", pa.string()), ("hash", pa.uint64())])

UMAP = pa.schema([("record_id", pa.string()), ("segment", pa.int32()), ("x", pa.float32()), ("y", pa.float32())])

# What an attribution is to be judged by.
JUDGED = ("logit", "baseline_logit", "error", "drop", "random_change")

ATTRIBUTION_LEADS = pa.schema(
    [
        *((name, pa.string()) for name in ("record_id", "label", "lead")),
        *((name, pa.float64()) for name in ("share", "favour", "against")),
    ]
)

# How well a probe does on its test recordings.
PROBE = pa.schema(
    [
        ("model", pa.string()),  # probe, baseline (the same on a random network's embeddings), gain (their difference)
        ("label", pa.string()),  # null: all together
        ("average", pa.string()),  # label, macro or micro
        ("metric", pa.string()),  # one of metrics.METRICS
        *((name, pa.float64()) for name in ("value", "low", "high")),  # of the 95 % interval
        ("resamples", pa.int64()),  # that it was defined in
    ]
)

# How well probabilities agree with true labels, see docs/evaluation.md.
METRICS = pa.schema(
    [
        ("subgroup", pa.string()),  # a column; empty: all recordings
        ("subgroup_value", pa.string()),  # what it says of the recordings, or the band that it lies in
        ("label", pa.string()),  # empty: all labels together
        ("average", pa.string()),  # label, macro or micro
        ("metric", pa.string()),  # one of metrics.METRICS
        *((name, pa.float64()) for name in ("value", "low", "high")),  # null where not defined
        *((name, pa.int64()) for name in ("n", "n_positive", "n_patients", "resamples_used")),
    ]
)

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


def segments_schema(leads: int, samples: int) -> pa.Schema:
    """A preprocessed shard: each row's `signal` is (leads, samples) float32, flattened lead by lead.

    Of its samples the first `samples` are signal, the rest is padding with zeros.
    """
    signal = pa.list_(pa.float32(), leads * samples)
    return pa.schema([*_SEGMENT_KEY, ("start_s", pa.float32()), ("samples", pa.int32()), ("signal", signal)])


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
    """What each sample of each lead adds to a label's logit, (leads, samples) float32, flattened lead by lead."""
    return pa.schema(
        [
            *_SEGMENT_KEY,
            ("start_s", pa.float32()),
            ("label", pa.string()),
            *((name, pa.float64()) for name in JUDGED),
            ("attribution", pa.list_(pa.float32(), leads * samples)),
        ]
    )


def predictions_schema(labels: Sequence[str]) -> pa.Schema:
    """One float64 probability per label and recording."""
    return pa.schema(
        [("record_id", pa.string()), ("n_segments", pa.int32()), *((label, pa.float64()) for label in labels)]
    )


def probed_schema(labels: Sequence[str]) -> pa.Schema:
    """What a probe says of the recordings that it was not trained on: one float64 probability per label."""
    return pa.schema([("record_id", pa.string()), ("split", pa.string()), *((label, pa.float64()) for label in labels)])


def kind(reason: str) -> str:
    """A reason without the particulars of the one file, which stand in brackets at its end."""
    return re.sub(r"(?s) \(.*\)$", "", reason)


def with_origin(
    schema: pa.Schema, stage: str, meaning: Mapping[str, int] = MappingProxyType({}), **facts: object
) -> pa.Schema:
    """The schema with metadata under the key `ecgpipe`: a JSON object of the code, the stage and `facts`.

    Args:
        schema: The columns.
        stage: Which writes the file.
        meaning: Of the stages before it, see `provenance.MEANING`.
        facts: What else there is to say.

    Returns:
        The same columns.
    """
    told: dict[str, object] = {"version": __version__, "source_sha256": source_sha256(), "stage": stage}
    told |= {"meaning": {**meaning, stage: MEANING[stage]}, **facts}
    return schema.with_metadata({"ecgpipe": json.dumps(told, sort_keys=True)})


def with_name(schema: pa.Schema, path: Path) -> pa.Schema:
    """The schema of a shard or part, with its file's name in the metadata: a copy under another name is no result."""
    told = origin(schema)
    if not told or not results.is_shard_or_part(path.name):
        return schema
    named = json.dumps({**told, "file": path.name}, sort_keys=True)
    return schema.with_metadata({**schema.metadata, b"ecgpipe": named})


def origin(schema: pa.Schema) -> dict[str, Any]:
    """What `with_origin` wrote; an empty dict where nothing did."""
    content: dict[str, Any] = json.loads((schema.metadata or {}).get(b"ecgpipe", b"{}"))
    return content


def inherited(schemas: Sequence[pa.Schema]) -> dict[str, Any]:
    """What files say of the model, the preprocessing and the inputs behind them, for what is made of all of them."""
    origins = [origin(schema) for schema in schemas]
    facts = {key: origins[0][key] for key in _INHERITED if key in origins[0]}
    made_of = [each["inputs_sha256"] for each in origins if "inputs_sha256" in each]
    if made_of:
        facts["inputs_sha256"] = made_of[0] if len(origins) == 1 else digest(made_of)
    return facts


def scores(origin: Mapping[str, Any]) -> dict[str, Any]:
    """How the probabilities of a predictions file came about: a threshold means the same where this is the same.

    Args:
        origin: Of the file.

    Returns:
        `checkpoint_sha256`, `preprocess`, `meaning` of the stages that compute, `calibration` (its SHA-256 or None).
    """
    return {
        "checkpoint_sha256": origin.get("checkpoint_sha256"),
        "preprocess": origin.get("preprocess"),
        "meaning": {
            stage: number
            for stage, number in origin.get("meaning", {}).items()
            if stage in ("preprocess", "infer", "aggregate")
        },
        "calibration": (origin.get("calibration") or {}).get("sha256"),
    }


def batches(paths: Sequence[Path], columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
    """The rows of some Parquet files in order, so many at a time that memory stays bounded."""
    for path in paths:
        with pq.ParquetFile(path) as file:
            yield from file.iter_batches(batch_size=BATCH_ROWS, columns=columns)


def column(paths: Sequence[Path], name: str) -> pa.Array:
    """A column of all parts or shards.

    Args:
        paths: All `predictions/part-*.parquet`, or another folder's, in order.
        name: Of the column.

    Returns:
        Its rows in order.
    """
    return pa.chunked_array(
        [chunk for path in paths for chunk in pq.read_table(path, columns=[name])[name].chunks],
        type=pq.read_schema(paths[0]).field(name).type,
    ).combine_chunks()


def column_of(paths: Sequence[Path], name: str, ids: pa.Array) -> pa.Array:
    """A column for some recordings.

    Args:
        paths: All `records/shard-*.parquet`, or another folder's, in order.
        name: Of the column.
        ids: Record ids, (recordings,).

    Returns:
        (recordings,); null for those that the files do not know.
    """
    return column(paths, name).take(pc.index_in(ids, column(paths, "record_id")))


def rows_of(paths: Sequence[Path], record_ids: Sequence[str]) -> Iterator[pa.Table]:
    """The rows of some recordings, row group by row group. Only those that hold one are read beyond the ids."""
    wanted = pa.array(record_ids, pa.string())
    for path in paths:
        with pq.ParquetFile(path) as file:
            for group in range(file.num_row_groups):
                known = pc.is_in(file.read_row_group(group, columns=["record_id"])["record_id"], wanted)
                if pc.any(known).as_py():
                    yield file.read_row_group(group).filter(known)


@contextmanager
def parquet_writer(path: Path, schema: pa.Schema) -> Iterator[pq.ParquetWriter]:
    """A Parquet writer whose file appears under `path` only when the block ends well."""
    # A dictionary of measured numbers saves nothing and costs a megabyte per column while the file is open.
    texts = [field.name for field in schema if pa.types.is_string(field.type)]
    with (
        whole(path) as temporary,
        pq.ParquetWriter(temporary, with_name(schema, path), compression="zstd", use_dictionary=texts) as writer,
    ):
        yield writer


def write(path: Path, table: pa.Table) -> None:
    """Write a whole table as Parquet."""
    with parquet_writer(path, table.schema) as writer:
        writer.write_table(table)


def numbered(folder: Path, name: str, count: int | None, suffix: str = "parquet") -> list[Path]:
    """The files of a result folder in order, e.g. part-00000.parquet, part-00001.parquet, ...

    A folder is named on the command line rather than its files, whose names would outgrow the line in a large run.

    Args:
        folder: Where they lie.
        name: "part" or "shard".
        count: How many belong to the run, since an earlier one may have left more; None for all that are there.
        suffix: Their ending, without the dot.

    Returns:
        Their paths.

    Raises:
        EcgpipeError: One is not there.
    """
    if count is None:
        files = [path.name for path in folder.glob(f"{name}-*.{suffix}") if results.is_shard_or_part(path.name)]
        count = 1 + max((int(file[len(name) + 1 :].partition(".")[0]) for file in files), default=0)
    paths = [folder / f"{name}-{number:05d}.{suffix}" for number in range(max(count, 1))]
    missing = [path for path in paths if not path.is_file()]
    if missing:
        raise EcgpipeError(f"{missing[0]} is not there; run the stage that writes it first")
    return paths


def of_run(outdir: Path, folder: str) -> list[Path]:
    """The files of a folder of a finished run, in order: as many as its run.json counts.

    What an earlier run left beyond them, and a user's own files, do not belong to it.

    Args:
        outdir: The run's results.
        folder: One of `results.NUMBERED`.

    Returns:
        Their paths; all that are there for a run that has no run.json, or one of an older ecgpipe.

    Raises:
        EcgpipeError: One is not there.
    """
    kind, _, suffix = results.NUMBERED[folder]
    try:
        count = json.loads((outdir / "run.json").read_text(encoding="utf-8")).get(f"{kind}s")
    except FileNotFoundError:
        count = None
    return numbered(outdir / folder, kind, count, suffix)
