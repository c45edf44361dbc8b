"""Count what became of the inputs, and write run.json: versions, settings, checkpoint, hardware, counts, throughput."""

import argparse
import json
import logging
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ecgpipe import __version__
from ecgpipe.core import options, parquet, provenance, schemas, settings
from ecgpipe.core.atomic import write_json
from ecgpipe.core.errors import EcgpipeError
from ecgpipe.core.run import Checkpoint, Code, Counts, Hardware, Inputs, Precision, Reason, RunInfo, Throughput
from ecgpipe.core.schemas import FLAGS
from ecgpipe.models import calibration, labels
from ecgpipe.models.description import DEMO_MODEL, describe
from ecgpipe.readers import packages

logger = logging.getLogger(__name__)


# What a person should look at, by its name among the counts.
WORDS = {
    "lead_suspicion": "with leads that are probably swapped or inverted (column lead_suspicion of records/)",
    "missing_leads": "with zeros for missing leads (missing_leads)",
    "constant_leads": "with a lead that is constant (constant_leads)",
    "clipped_leads": "with a clipped lead (clipped_leads)",
    "flat_leads": "with a flat stretch in a lead (flat_leads)",
    "duplicates": "with the same signal as another one (duplicates.parquet)",
}

# Reasons listed in run.json; the others are summed up.
MOST_REASONS = 50

# Hashes of signals that are in memory at a time: 4 MB; and files that these are put into, at most.
HASHES_PER_FILE, MOST_FILES = 500_000, 256

# Kinds of other files in the closing lines.
MOST_KINDS = 8


class Files(NamedTuple):
    """What run.json is made of. The fields are the options of the command."""

    manifest: Path  # manifest/manifest.json
    description: Path  # checkpoint/model.json
    records: Path  # the folder
    shards: int | None
    timings: Path  # the folder
    parts: int | None
    predictions: Path  # the folder
    umap: Path
    drift: Path | None  # precision/drift.json, if precisions were compared


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `ecgpipe summary`."""
    settings.add_arguments(parser, settings.Summary)
    options.add(parser, "manifest", required=True, help="manifest/manifest.json")
    options.add(parser, "description", "records", required=True)
    options.add(parser, "shards")
    parser.add_argument("--timings", type=Path, required=True, help="the folder timing/")
    options.add(parser, "parts")
    options.add(parser, "predictions", "umap", required=True)
    options.add(parser, "drift", help="precision/drift.json, if precisions were compared")
    parser.add_argument("--duplicates", type=Path, required=True, help="Parquet file to write: the same signal twice")
    options.add(parser, "output", required=True, help="run.json to write")


def run(args: argparse.Namespace) -> None:
    """Write run.json."""
    files = Files(*(getattr(args, name) for name in Files._fields))
    info = summarise(files, settings.parse_arguments("summary", settings.Summary, args), args.duplicates)
    write_json(args.output, info.model_dump(mode="json"))
    for line in closing_lines(info):
        logger.info("%s", line)


def summarise(files: Files, summary_settings: settings.Summary, duplicates: Path) -> RunInfo:
    """Say what a run was.

    Args:
        files: What says it.
        summary_settings: What is to be said of the settings.
        duplicates: The Parquet file to write, of the same signal twice.

    Returns:
        What run.json is to hold.

    Raises:
        EcgpipeError: Not a single recording could be used.
    """
    manifest = json.loads(files.manifest.read_text())
    description = describe(files.description)
    records = parquet.numbered(files.records, "shard", files.shards)
    predictions = parquet.numbered(files.predictions, "part", files.parts)
    timings = [json.loads(path.read_text()) for path in parquet.numbered(files.timings, "part", files.parts, "json")]
    record_schemas = [pq.read_schema(path) for path in records]
    prediction_schemas = [pq.read_schema(path) for path in predictions]
    umap_schema = pq.read_schema(files.umap)
    facts = settings.add_sha256("summary", summary_settings, provenance.inherit_facts(record_schemas))

    counts, reasons = count_recordings(records)
    n_duplicates = write_duplicates(records, duplicates, facts)
    if not counts["ok"]:
        raise EcgpipeError(
            f"input: not one of {counts['recordings']} recordings could be used: "
            + "; ".join(f"{reason.count} {reason.status}: {reason.reason}" for reason in reasons[:5])
            + f". {files.records} says why for each"
        )
    roles = manifest["files"]
    info = RunInfo(
        ecgpipe=__version__,
        finished=datetime.now(UTC).isoformat(timespec="seconds"),
        code=Code(version=__version__, source_sha256=provenance.hash_source(), commit=provenance.find_commit()),
        made_by={
            "checkpoint": {description.ecgpipe: 1},
            "preprocess": _count_versions(record_schemas),
            "infer": dict(Counter(timing["ecgpipe"] for timing in timings)),
            "aggregate": _count_versions(prediction_schemas),
            "umap": _count_versions([umap_schema]),
        },
        inputs=Inputs(sha256=facts["inputs_sha256"], scans=manifest["scans"]),
        shards=len(records),
        parts=len(predictions),
        counts=Counts(**counts, duplicates=n_duplicates, files=roles, other_files=roles["ignored"]),
        reasons=reasons,
        other_files=manifest["ignored"],
        layouts=manifest["layouts"],
        checkpoint=Checkpoint(
            uri=description.uri,
            revision=description.revision,
            sha256=description.sha256,
            random_weights=description.random_weights,
            labels=description.labels,
            demo_model=description.demo_model,
        ),
        throughput=_sum_throughput(timings),
        calibration=provenance.read_origin(prediction_schemas[0]).get("calibration"),
        precision=_sum_precision(timings, json.loads(files.drift.read_text()) if files.drift else None),
        hardware=Hardware(
            inference=tuple(sorted({timing["device"] for timing in timings})),
            machines=tuple(list_machines(timings)),
        ),
        versions=collect_versions(timings),
        config=summary_settings.resolved,
        settings={**provenance.read_origin(umap_schema).get(settings.KEY, {}), **facts[settings.KEY]},
    )
    return info.model_copy(update={"warnings": tuple(list_warnings(info))})


def _sum_throughput(timings: Sequence[Mapping[str, Any]]) -> Throughput:
    """How fast inference was, over all parts."""
    seconds, segments = (sum(timing[name] for timing in timings) for name in ("seconds", "segments"))
    speed = round(segments / seconds, 3) if seconds else None
    return Throughput(segments=segments, seconds=round(seconds, 3), segments_per_s=speed)


def _sum_precision(timings: Sequence[Mapping[str, Any]], drift: dict[str, Any] | None) -> Precision:
    """The precision of the inference, over all parts."""
    parts = Counter(timing["precision"] for timing in timings)
    return Precision(
        used=next(iter(parts)) if len(parts) == 1 else tuple(sorted(parts)),
        parts=dict(parts),
        recomputed_segments=sum(timing.get("recomputed_segments", 0) for timing in timings),  # older ones do not say
        drift=drift,
    )


def count_recordings(records: Sequence[Path]) -> tuple[dict[str, Any], tuple[Reason, ...]]:
    """Count the recordings by what became of them.

    Args:
        records: The `records/shard-*.parquet` files.

    Returns:
        Of `Counts` what the records say; and the reasons, the most frequent first, without the particulars of one file
        that a reason has in brackets at its end.
    """
    counts: Counter[str] = Counter({"recordings": 0, "ok": 0, "skipped": 0, "failed": 0, "segments": 0})
    reasons: Counter[tuple[str, str]] = Counter()
    hours = 0.0
    for path in records:
        table = pq.read_table(path, columns=["status", "reason", "duration_s", "n_segments", *FLAGS])
        status, reason = table["status"].to_pylist(), table["reason"].to_pylist()
        counts["recordings"] += len(table)
        counts["segments"] += pc.sum(table["n_segments"]).as_py() or 0
        counts.update(status)
        reasons.update((s, schemas.strip_particulars(r)) for s, r in zip(status, reason, strict=True) if r)
        used = table.filter(pc.field("status") == "ok")
        hours += (pc.sum(used["duration_s"]).as_py() or 0.0) / 3600
        for name in FLAGS:
            column = used[name]
            is_list = pa.types.is_list(column.type)
            flagged = pc.greater(pc.list_value_length(column), 0) if is_list else column.is_valid()
            counts[name] += pc.sum(flagged).as_py() or 0
    most = [Reason(status=s, reason=r, count=n) for (s, r), n in reasons.most_common(MOST_REASONS)]
    rest = sum(n for _, n in reasons.most_common()[MOST_REASONS:])
    if rest:
        most.append(Reason(status="skipped or failed", reason="other reasons", count=rest))
    return {**counts, "hours": round(hours, 3)}, tuple(most)


def write_duplicates(records: Sequence[Path], output: Path, facts: Mapping[str, Any]) -> int:
    """Find the recordings whose signal an earlier recording has too, and write them with the id of that one.

    Args:
        records: The `records/shard-*.parquet` files.
        output: The Parquet file to write.
        facts: What its metadata says of what the records are made of.

    Returns:
        Their number.
    """
    repeated = _find_repeated(records, output.parent)
    first: dict[str, str] = {}  # by signal, of those that several recordings have
    schema = provenance.add_origin(schemas.DUPLICATES, "summary", **facts)
    written = 0
    with parquet.parquet_writer(output, schema) as writer:
        for table in _read_signals(records):
            seen = table.filter(pa.array(np.isin(_shorten(table["signal_hash"]), repeated)))
            again = []
            for record_id, signal in zip(seen["record_id"].to_pylist(), seen["signal_hash"].to_pylist(), strict=True):
                if signal in first:
                    again.append({"record_id": record_id, "duplicate_of": first[signal]})
                else:
                    first[signal] = record_id
            if again:
                writer.write_table(pa.Table.from_pylist(again, schema))
                written += len(again)
    return written


def _read_signals(records: Sequence[Path]) -> Iterator[pa.Table]:
    """The recordings that have a signal, shard by shard."""
    for path in records:
        yield pq.read_table(path, columns=["record_id", "signal_hash"], filters=pc.field("signal_hash").is_valid())


def _find_repeated(records: Sequence[Path], folder: Path) -> np.ndarray:
    """The shortened hashes that several recordings have, (n,) uint64: of all signals that occur twice, and few others.

    In memory that does not grow with the recordings: hashes are put into files, equal ones into the same.

    Args:
        records: The `records/shard-*.parquet` files.
        folder: Where these files lie, without a name, so that a process that is killed leaves none.
    """
    total = sum(pq.read_metadata(path).num_rows for path in records)
    repeated = []
    with ExitStack() as opened:
        count = min(1 + total // HASHES_PER_FILE, MOST_FILES)
        folder.mkdir(parents=True, exist_ok=True)
        files = [opened.enter_context(tempfile.TemporaryFile(dir=folder)) for _ in range(count)]
        for table in _read_signals(records):
            hashes = _shorten(table["signal_hash"])
            numbers = (hashes >> np.uint64(32)) % np.uint64(count)
            for number in np.unique(numbers):
                files[number].write(hashes[numbers == number].tobytes())
        for file in files:
            file.seek(0)
            hashes, times = np.unique(np.frombuffer(file.read(), np.uint64), return_counts=True)
            repeated.append(hashes[times > 1])
    return np.concatenate(repeated)


def _shorten(signals: pa.ChunkedArray) -> np.ndarray:
    """Shorten hashes to 64 bits, (n,) uint64, by their first 16 characters."""
    halves = np.array(signals.to_pylist(), "S16").view(np.uint64).reshape(-1, 2)
    # Two odd numbers with bits all over: those of letters lie in few places.
    shortened: np.ndarray = halves[:, 0] * np.uint64(0x9E3779B97F4A7C15) ^ halves[:, 1] * np.uint64(0xC2B2AE3D27D4EB4F)
    return shortened


def list_machines(timings: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """List the kinds of machine that inference ran on, the one with the most parts first.

    Args:
        timings: Of the parts, as `infer` writes them. An older ecgpipe did not write the machine.

    Returns:
        For each what `provenance.describe_machine` says, its `device`, and how many `parts` it inferred.
    """
    kinds = Counter(
        json.dumps({"device": t["device"], **t["machine"]}, sort_keys=True) for t in timings if "machine" in t
    )
    return [{**json.loads(kind), "parts": n} for kind, n in kinds.most_common()]


def collect_versions(timings: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Collect the version of each package that inference used; all of them if parts had several."""
    by_package: dict[str, list[str]] = {}
    for timing in timings:
        for name, version in timing.get("versions", {}).items():
            by_package.setdefault(name, []).append(version)
    return {name: ", ".join(dict.fromkeys(versions)) for name, versions in by_package.items()}


def list_warnings(info: RunInfo) -> list[str]:
    """List what a person should look at, in words.

    All of it is made from other parts of run.json, so that de-identified pages can make it anew.

    Args:
        info: What run.json says.

    Returns:
        Sentences; none if there is nothing.
    """
    return (
        packages.counted({reason.reason: reason.count for reason in info.reasons})
        + warn_of_counts(info.counts)
        + warn_of_labels(info.checkpoint.labels)
        + warn_of_precision(info.precision)
        + warn_of_older_versions(info.made_by)
    )


def warn_of_counts(counts: Counts) -> list[str]:
    """Say how many recordings have something that a person should look at: a sentence for each kind."""
    numbers = {name: getattr(counts, name) for name in WORDS}
    return [
        f"{number:,} recording{'' if number == 1 else 's'} {WORDS[name]}" for name, number in numbers.items() if number
    ]


def warn_of_labels(names: Sequence[str]) -> list[str]:
    """Say that the labels' names are numbers, if they are."""
    return [labels.explain_numbers(len(names))] if labels.are_numbered(names) else []


def warn_of_older_versions(made_by: Mapping[str, Mapping[str, int]]) -> list[str]:
    """Say which results were made by another version of ecgpipe than this one.

    Args:
        made_by: By stage, how many files each version wrote.

    Returns:
        Sentences; none if all results are of this version.
    """
    messages = []
    for stage, versions in made_by.items():
        other_versions = {version: n for version, n in versions.items() if version != __version__}
        if other_versions:
            by_version = ", ".join(f"{n:,} by {version}" for version, n in other_versions.items())
            amount = f"{sum(other_versions.values()):,} of {sum(versions.values()):,} results of {stage}"
            note = f"{stage} computes the same in {__version__}"
            messages.append(f"{amount} were made by another version of ecgpipe ({by_version}) and kept: {note}")
    return messages


def _count_versions(of_files: Iterable[pa.Schema]) -> dict[str, int]:
    """How many files each version of ecgpipe wrote."""
    return dict(Counter(provenance.read_origin(schema)["version"] for schema in of_files))


def warn_of_precision(precision: Precision) -> list[str]:
    """Say where the precision of the inference is not as it was chosen, or not within its bound.

    Args:
        precision: Of the inference. Without `drift` float32 was certain; an older run.json has no `parts`.

    Returns:
        Sentences; none if all is well.
    """
    drift, recomputed = precision.drift, precision.recomputed_segments
    messages = []
    if drift and "compared" in drift:
        compared, bound, segments = drift["compared"], drift["bound"], drift["segments"]
        consequence = "but was asked for" if drift["used"] == compared else f"so that {drift['used']} was chosen"
        if not segments:
            messages.append(f"{compared} could not be compared with float32 for want of segments, {consequence}")
        elif drift["largest"] is None:
            messages.append(f"{compared} gives numbers that are not finite, {consequence}")
        elif drift["largest"] > bound:
            messages.append(
                f"{compared} differs from float32 by up to {drift['largest']:g}, more than inference.max_drift = "
                f"{bound:g}, {consequence}"
            )
    elif drift and drift["asked"] not in ("auto", drift["used"]):
        messages.append(
            f"{drift['asked']} was asked for, but {drift['device']} cannot, so that {drift['used']} was chosen"
        )
    chosen = drift["used"] if drift else "float32"
    total = sum(precision.parts.values())
    messages += [
        f"{n:,} of {total:,} parts {'was' if n == 1 else 'were'} inferred in {name} instead of {chosen} (timing/)"
        for name, n in sorted(precision.parts.items())
        if name != chosen
    ]
    if recomputed:
        are = "segment was" if recomputed == 1 else "segments were"
        messages.append(
            f"{recomputed:,} {are} computed in float32, because half precision gave numbers that are not finite "
            "(timing/)"
        )
    return messages


def closing_lines(info: RunInfo) -> list[str]:
    """Say at the end of a run how many recordings were used, and why the others were not.

    Args:
        info: What run.json says.

    Returns:
        Lines of text.
    """
    counts = info.counts
    lines = [
        f"{counts.recordings:,} recordings: {counts.ok:,} used ({counts.segments:,} segments), "
        f"{counts.skipped:,} skipped, {counts.failed:,} failed"
    ]
    lines += [f"    {reason.count:,} {reason.status}: {reason.reason}" for reason in info.reasons]
    lines += info.warnings
    if counts.other_files:
        kinds = [f"{n:,} {reason}" for reason, n in list(info.other_files.items())[:MOST_KINDS]]
        kinds += ["..."] if len(info.other_files) > MOST_KINDS else []
        description = "other file, not a recording" if counts.other_files == 1 else "other files, not recordings"
        lines.append(f"{counts.other_files:,} {description}: {', '.join(kinds)}")
    if info.calibration:
        lines.append(calibration.describe_facts(info.calibration))
    if info.checkpoint.random_weights:
        lines.append("The checkpoint's weights are RANDOM: the predictions mean nothing.")
    if info.checkpoint.demo_model:
        lines.append(DEMO_MODEL)
    return lines
