"""Count what became of the inputs, and write run.json: versions, settings, checkpoint, hardware, counts, throughput."""

import argparse
import json
import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ecgpipe import __version__
from ecgpipe.core import parquet, provenance, schemas, settings
from ecgpipe.core.atomic import write_json
from ecgpipe.core.errors import EcgpipeError
from ecgpipe.core.schemas import FLAGS
from ecgpipe.models import calibration, labels
from ecgpipe.models.description import describe
from ecgpipe.readers import packages

logger = logging.getLogger(__name__)


# What is worth a look, by its name among the counts.
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

# Kinds of other files in the closing lines.
MOST_KINDS = 8


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `python -m ecgpipe summary`."""
    settings.add_arguments(parser, settings.Summary)
    parser.add_argument("--manifest", type=Path, required=True, help="manifest/manifest.json")
    parser.add_argument("--description", type=Path, required=True, help="checkpoint/model.json")
    parser.add_argument("--records", type=Path, required=True, help="the folder records/")
    parser.add_argument("--shards", type=int, help="how many shards the run has (default: all in the folder)")
    parser.add_argument("--timings", type=Path, required=True, help="the folder timing/")
    parser.add_argument("--parts", type=int, help="how many parts the run has (default: all in the folder)")
    parser.add_argument("--predictions", type=Path, required=True, help="the folder predictions/")
    parser.add_argument("--umap", type=Path, required=True, help="umap/umap.parquet")
    parser.add_argument("--drift", type=Path, help="precision/drift.json, where precisions were compared")
    parser.add_argument("--duplicates", type=Path, required=True, help="Parquet file to write: the same signal twice")
    parser.add_argument("--output", type=Path, required=True, help="run.json to write")


def run(args: argparse.Namespace) -> None:
    """Write run.json."""
    given = settings.of_arguments("summary", settings.Summary, args)
    manifest = json.loads(args.manifest.read_text())
    description = describe(args.description)
    records = parquet.numbered(args.records, "shard", args.shards)
    counts, reasons = account(records)
    of_shards = [pq.read_schema(path) for path in records]
    facts = settings.marked("summary", given, provenance.inherited(of_shards))
    counts["duplicates"] = write_duplicates(records, args.duplicates, facts)
    if not counts["ok"]:
        raise EcgpipeError(
            f"input: not one of {counts['recordings']} recordings could be used: "
            + "; ".join(f"{reason['count']} {reason['status']}: {reason['reason']}" for reason in reasons[:5])
            + f". {args.records} says why for each"
        )
    timings = [json.loads(path.read_text()) for path in parquet.numbered(args.timings, "part", args.parts, "json")]
    drift = json.loads(args.drift.read_text()) if args.drift else None
    used = Counter(t["precision"] for t in timings)
    recomputed = sum(t.get("recomputed_segments", 0) for t in timings)  # older ones do not say
    seconds, segments = sum(t["seconds"] for t in timings), sum(t["segments"] for t in timings)
    predictions = parquet.numbered(args.predictions, "part", args.parts)
    made_by = {
        "checkpoint": Counter([description.ecgpipe]),
        "preprocess": _versions(of_shards),
        "infer": Counter(t["ecgpipe"] for t in timings),
        "aggregate": _versions(map(pq.read_schema, predictions)),
        "umap": _versions([pq.read_schema(args.umap)]),
    }
    content = {
        "ecgpipe": __version__,
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "code": {
            "version": __version__,
            "source_sha256": provenance.source_sha256(),
            "commit": provenance.commit(),
        },
        "made_by": made_by,
        "inputs": {
            "sha256": facts["inputs_sha256"],
            "scans": manifest["scans"],
        },
        "shards": len(records),
        "parts": len(predictions),
        "counts": {**counts, "files": manifest["files"], "other_files": manifest["files"]["ignored"]},
        "reasons": reasons,
        "other_files": manifest["ignored"],
        "layouts": manifest["layouts"],
        "checkpoint": {
            "uri": description.uri,
            "revision": description.revision,
            "sha256": description.sha256,
            "random_weights": description.random_weights,
            "labels": list(description.labels),
        },
        "throughput": {
            "segments": segments,
            "seconds": round(seconds, 3),
            "segments_per_s": round(segments / seconds, 3) if seconds else None,
        },
        "calibration": provenance.origin(pq.read_schema(predictions[0])).get("calibration"),
        "precision": {
            "used": next(iter(used)) if len(used) == 1 else sorted(used),
            "parts": used,
            "recomputed_segments": recomputed,
            "drift": drift,
        },
        "hardware": {"inference": sorted({t["device"] for t in timings}), "machines": machines(timings)},
        "versions": versions(timings),
        "config": given.resolved,
        settings.KEY: {**provenance.origin(pq.read_schema(args.umap)).get(settings.KEY, {}), **facts[settings.KEY]},
    }
    content["warnings"] = warnings_of(content)
    write_json(args.output, content)
    for line in closing_lines(content):
        logger.info("%s", line)


def account(records: Sequence[Path]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Count the recordings by what became of them.

    Args:
        records: The `records/shard-*.parquet` files.

    Returns:
        Counts (recordings, ok, skipped, failed, segments, hours of used signal; of those used: with derived, missing,
        clipped or flat leads, and with limb leads that contradict one another), and the reasons with their counts,
        most frequent first, without what a reason has in brackets at its end: the particulars of one file.
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
        reasons.update((s, schemas.kind(r)) for s, r in zip(status, reason, strict=True) if r)
        used = table.filter(pc.field("status") == "ok")
        hours += (pc.sum(used["duration_s"]).as_py() or 0.0) / 3600
        for name in FLAGS:
            column = used[name]
            is_list = pa.types.is_list(column.type)
            flagged = pc.greater(pc.list_value_length(column), 0) if is_list else column.is_valid()
            counts[name] += pc.sum(flagged).as_py() or 0
    most = [{"status": s, "reason": r, "count": n} for (s, r), n in reasons.most_common(MOST_REASONS)]
    rest = sum(n for _, n in reasons.most_common()[MOST_REASONS:])
    if rest:
        most.append({"status": "skipped or failed", "reason": "other reasons", "count": rest})
    return {**counts, "hours": round(hours, 3)}, most


def write_duplicates(records: Sequence[Path], output: Path, facts: Mapping[str, Any]) -> int:
    """Find the recordings whose signal another one before has too, and write them with that one's id.

    Args:
        records: The `records/shard-*.parquet` files.
        output: The Parquet file to write.
        facts: What its metadata says of what the records are made of.

    Returns:
        How many there are.
    """
    seen = pa.concat_tables(
        pq.read_table(path, columns=["record_id", "signal_hash"], filters=pc.field("signal_hash").is_valid())
        for path in records
    )
    rows = pa.array(np.arange(len(seen)))
    first = seen.append_column("row", rows).group_by("signal_hash", use_threads=False).aggregate([("row", "min")])
    places = pc.index_in(seen["signal_hash"], first["signal_hash"])
    originals = first["row_min"].take(places)  # of each recording, the first with its signal
    again = pc.not_equal(originals, rows)
    columns = [seen["record_id"].filter(again), seen["record_id"].take(originals.filter(again))]
    table = pa.table(columns, schema=provenance.with_origin(schemas.DUPLICATES, "summary", **facts))
    parquet.write(output, table)
    return len(table)


def machines(timings: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The kinds of machine that inference ran on, the one with the most parts first.

    Args:
        timings: Of the parts, as `infer` writes them. Those of an older ecgpipe say nothing of their machine.

    Returns:
        For each what `provenance.machine` says, its `device`, and how many `parts` it inferred.
    """
    kinds = Counter(
        json.dumps({"device": t["device"], **t["machine"]}, sort_keys=True) for t in timings if "machine" in t
    )
    return [{**json.loads(kind), "parts": n} for kind, n in kinds.most_common()]


def versions(timings: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """By package the version that inference had; all of them where parts had several."""
    said: dict[str, list[str]] = {}
    for timing in timings:
        for name, number in timing.get("versions", {}).items():
            said.setdefault(name, []).append(number)
    return {name: ", ".join(dict.fromkeys(numbers)) for name, numbers in said.items()}


def warnings_of(content: Mapping[str, Any]) -> list[str]:
    """What a person should look at, in words, all made from what else run.json says: pages without names do the same.

    Args:
        content: Of run.json. One that an older version wrote does not say how many parts were inferred in which
            precision.

    Returns:
        Sentences; none where there is nothing.
    """
    precision = content["precision"]
    return (
        packages.counted({reason["reason"]: reason["count"] for reason in content.get("reasons") or []})
        + warnings(content.get("counts") or {})
        + label_warnings(content["checkpoint"].get("labels") or [])
        + precision_warnings(
            precision.get("parts") or {}, precision.get("drift"), precision.get("recomputed_segments", 0)
        )
        + older_versions(content.get("made_by") or {})
    )


def warnings(counts: Mapping[str, Any]) -> list[str]:
    """What a person should look at, in words.

    Args:
        counts: As `account` gives them, with `duplicates`.

    Returns:
        Sentences; none where there is nothing.
    """
    said = {name: f"{n:,} recording{'' if n == 1 else 's'}" for name in WORDS if (n := counts.get(name))}
    return [f"{said[name]} {words}" for name, words in WORDS.items() if name in said]


def label_warnings(names: Sequence[str]) -> list[str]:
    """What a person should know of the labels' names, in words: a sentence where they are numbers, else none."""
    return [labels.explain_numbers(len(names))] if labels.are_numbered(names) else []


def older_versions(made_by: Mapping[str, Mapping[str, int]]) -> list[str]:
    """Which results were made by another version of ecgpipe than this one, in words.

    Args:
        made_by: For each stage how many files each version wrote.

    Returns:
        Sentences; none where all are of this version.
    """
    said = []
    for stage, versions in made_by.items():
        others = {version: n for version, n in versions.items() if version != __version__}
        if others:
            counted = ", ".join(f"{n:,} by {version}" for version, n in others.items())
            some = f"{sum(others.values()):,} of {sum(versions.values()):,} results of {stage}"
            same = f"{stage} computes the same in {__version__}"
            said.append(f"{some} were made by another version of ecgpipe ({counted}) and kept: {same}")
    return said


def _versions(of_shards: Iterable[pa.Schema]) -> Counter[str]:
    """How many files each version of ecgpipe wrote."""
    return Counter(provenance.origin(schema)["version"] for schema in of_shards)


def precision_warnings(used: Mapping[str, int], drift: dict[str, Any] | None, recomputed: int = 0) -> list[str]:
    """What a person should know of the precision, in words.

    Args:
        used: How many parts were inferred in each.
        drift: What the precision stage found; None where float32 was certain.
        recomputed: Segments that were computed in float32 because half precision gave numbers that are not finite.

    Returns:
        Sentences; none where the precision is the chosen one and within its bound.
    """
    said = []
    if drift and "compared" in drift:
        compared, bound, segments = drift["compared"], drift["bound"], drift["segments"]
        kept = "but was asked for" if drift["used"] == compared else f"so that {drift['used']} was chosen"
        if not segments:
            said.append(f"{compared} could not be compared with float32 for want of segments, {kept}")
        elif drift["largest"] is None:
            said.append(f"{compared} gives numbers that are not finite, {kept}")
        elif drift["largest"] > bound:
            said.append(
                f"{compared} differs from float32 by up to {drift['largest']:g}, more than inference.max_drift = "
                f"{bound:g}, {kept}"
            )
    elif drift and drift["asked"] not in ("auto", drift["used"]):
        said.append(f"{drift['asked']} was asked for, but {drift['device']} cannot, so that {drift['used']} was chosen")
    chosen = drift["used"] if drift else "float32"
    total = sum(used.values())
    said += [
        f"{n:,} of {total:,} parts {'was' if n == 1 else 'were'} inferred in {name} instead of {chosen} (timing/)"
        for name, n in sorted(used.items())
        if name != chosen
    ]
    if recomputed:
        are = "segment was" if recomputed == 1 else "segments were"
        said.append(
            f"{recomputed:,} {are} computed in float32, because half precision gave numbers that are not finite "
            "(timing/)"
        )
    return said


def closing_lines(content: dict[str, Any]) -> list[str]:
    """What a run says at its end: how many recordings were used, and why the others were not.

    Args:
        content: What run.json holds.

    Returns:
        Lines of text.
    """
    counts = content["counts"]
    lines = [
        f"{counts['recordings']:,} recordings: {counts['ok']:,} used ({counts['segments']:,} segments), "
        f"{counts['skipped']:,} skipped, {counts['failed']:,} failed"
    ]
    lines += [f"    {reason['count']:,} {reason['status']}: {reason['reason']}" for reason in content["reasons"]]
    lines += content["warnings"]
    if counts["other_files"]:
        kinds = [f"{n:,} {reason}" for reason, n in list(content["other_files"].items())[:MOST_KINDS]]
        kinds += ["..."] if len(content["other_files"]) > MOST_KINDS else []
        what = "other file, not a recording" if counts["other_files"] == 1 else "other files, not recordings"
        lines.append(f"{counts['other_files']:,} {what}: {', '.join(kinds)}")
    if content.get("calibration"):
        lines.append(calibration.describe_facts(content["calibration"]))
    if content["checkpoint"]["random_weights"]:
        lines.append("The checkpoint's weights are RANDOM: the predictions mean nothing.")
    return lines
