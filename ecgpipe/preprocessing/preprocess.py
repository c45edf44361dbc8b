"""Turn one shard of recordings into segments ready for the model, and tell what became of each recording."""

import argparse
import logging
import math
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ecgpipe import readers
from ecgpipe.core import parquet, provenance, schemas, settings
from ecgpipe.core.atomic import whole
from ecgpipe.core.config import Preprocess
from ecgpipe.core.errors import EcgpipeError
from ecgpipe.core.logs import Progress
from ecgpipe.core.provenance import file_sha256
from ecgpipe.preprocessing.segments import SAMPLE_RATE, UnusableError, Windows, prepare
from ecgpipe.readers import LEADS, Assumed, Recording, UnavailableError, UnreadableError, isolation, spelled
from ecgpipe.readers.moment import momentary

logger = logging.getLogger(__name__)

# Segments per record batch of a shard file: 15 MB, what preprocess and infer hold at a time.
BATCH_SEGMENTS = 128


# After so many recordings that cannot be read at the moment no more are asked for: each was waited for.
MOST_UNAVAILABLE = 5

# What the manifest's row says that the account says again.
KEPT = ("record_id", "path", "row", "bytes", "modified", "format")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `python -m ecgpipe preprocess`."""
    settings.add_arguments(parser, settings.Preprocess)
    parser.add_argument("--shard", type=Path, required=True, help="a manifest/shard-*.parquet")
    parser.add_argument("--segments", type=Path, required=True, help="the Arrow IPC file to write the segments to")
    parser.add_argument("--records", type=Path, required=True, help="the Parquet file to write the account to")


def add_reading_arguments(parser: argparse.ArgumentParser) -> None:
    """The options that say how recordings are read and cut, of every command that does so."""
    default = Windows()
    parser.add_argument("--segment-s", type=float, default=default.segment_s, help="seconds (default %(default)s)")
    parser.add_argument(
        "--tail", choices=["drop", "overlap"], default=default.tail, help="what fills no segment (default %(default)s)"
    )
    parser.add_argument(
        "--short", choices=["skip", "pad"], default=default.short, help="less than a segment (default %(default)s)"
    )
    parser.add_argument(
        "--missing-leads", choices=["error", "zero"], default=default.missing_leads, help="(default %(default)s)"
    )
    parser.add_argument(
        "--min-leads", type=int, default=default.min_leads, help="that a recording must have (default %(default)s)"
    )
    parser.add_argument("--assume-sample-rate", type=float, help="in Hz, for files that state none")
    parser.add_argument("--assume-leads", nargs="+", help="in order, for files that name none")
    parser.add_argument("--assume-unit", help="mV, uV, V or nV, for files that state none")


def reading(args: argparse.Namespace) -> tuple[Windows, Assumed]:
    """What `add_reading_arguments` was given."""
    windows = Windows(args.segment_s, args.tail, args.short, args.missing_leads, args.min_leads)
    leads = tuple(args.assume_leads) if args.assume_leads else None
    return windows, Assumed(args.assume_sample_rate, leads, args.assume_unit)


def as_read(given: Preprocess) -> tuple[Windows, Assumed]:
    """What the settings say of how recordings are read and cut."""
    windows = Windows(given.segment_s, given.tail, given.short, given.missing_leads, given.min_leads)
    leads = tuple(given.assume_leads) if given.assume_leads else None
    return windows, Assumed(given.assume_sample_rate, leads, given.assume_unit)


def run(args: argparse.Namespace) -> None:
    """Preprocess one shard, in a process of its own that may crash."""
    given = settings.of_arguments("preprocess", settings.Preprocess, args)
    preprocess_shard(args.shard, args.segments, args.records, given)


def preprocess_shard(shard_path: Path, segments: Path, records: Path, preprocess_settings: settings.Preprocess) -> None:
    """Preprocess one shard, in a process of its own that may crash.

    Args:
        shard_path: Of the manifest.
        segments: The Arrow IPC file to write.
        records: The Parquet file to write.
        preprocess_settings: The settings.
    """
    facts = settings.marked("preprocess", preprocess_settings, {})
    shard(shard_path, segments, records, *as_read(preprocess_settings), facts)


def shard(
    shard_path: Path,
    segments_path: Path,
    records_path: Path,
    windows: Windows,
    assumed: Assumed,
    facts: Mapping[str, Any] = MappingProxyType({}),
) -> None:
    """Preprocess one shard, in a process of its own that may crash.

    Args:
        shard_path: Of the manifest.
        segments_path: The Arrow IPC file to write.
        records_path: The Parquet file to write.
        windows: What the settings say of segments and leads.
        assumed: What they say of files that state nothing.
        facts: What the files' metadata says besides.
    """
    with whole(segments_path) as segments:  # here, because a process that crashed leaves behind what it began to write

        def work(crashed: dict[int, str], begin: Callable[[int], None]) -> None:
            _preprocess(shard_path, segments, segments_path, records_path, windows, assumed, facts, crashed, begin)

        isolation.crashes(work, called=lambda row: pq.read_table(shard_path, columns=["path"])["path"][row].as_py())


def _preprocess(
    shard_path: Path,
    segments_path: Path,
    segments_name: Path,
    records_path: Path,
    windows: Windows,
    assumed: Assumed,
    told: Mapping[str, Any],
    crashed: dict[int, str],
    begin: Callable[[int], None],
) -> None:
    """Preprocess one shard but for the rows that crashed, telling with `begin` which row comes next.

    The segments are written to `segments_path`, which will be renamed to `segments_name`.
    """
    cutting = {
        "leads": list(LEADS),
        "sample_rate": SAMPLE_RATE,
        "segment_samples": windows.segment_samples,
        **windows._asdict(),
        **{f"assume_{name}": value for name, value in assumed._asdict().items()},
    }
    facts: dict[str, Any] = {**told, "preprocess": cutting, "inputs_sha256": file_sha256(shard_path)}
    shard = pq.read_table(shard_path)
    schema = schemas.segments_schema(len(LEADS), windows.segment_samples)
    schema = provenance.with_name(provenance.with_origin(schema, "preprocess", **facts), segments_name)
    records: list[dict[str, Any]] = []
    gone: list[str] = []
    unavailable: list[str] = []
    progress = Progress(shard_path.stem, len(shard), "recordings")

    def prepared() -> Iterator[tuple[str, int, float, int, np.ndarray]]:
        for number, row in enumerate(shard.to_pylist()):
            begin(number)
            try:
                record, segments = account(row, windows, assumed, crashed.get(number))
            except UnavailableError as error:
                logger.warning("%s", error)
                unavailable.append(str(error))
                if len(unavailable) >= MOST_UNAVAILABLE:
                    break
                continue
            yield from segments
            records.append(record)
            # What the scan did not find either may fail: a table can list what is nowhere.
            if record["status"] == "failed" and row["bytes"] is not None and has_gone(row["path"]):
                gone.append(row["path"])
            progress.add(1)
        begin(-1)

    with pa.ipc.new_file(segments_path, schema) as writer:
        for batch in _batches(prepared(), schema, windows.segment_samples):
            writer.write_batch(batch)
    progress.say()
    if unavailable:
        others = f", and {len(unavailable) - 1} more of {shard_path.stem}" if len(unavailable) > 1 else ""
        raise EcgpipeError(
            f"input: {unavailable[0]}{others}; nothing is recorded of this shard. Give the same command again when the "
            "disk or file server answers, or leave out of `input` what it has lost"
        )
    back = [path for path in gone if not has_gone(path)]
    if back:
        raise EcgpipeError(f"input: {back[0]} was not there for a while ({len(back)} files in all); run again")
    parquet.write(records_path, _with_inputs_columns(records, shard, facts))
    for status in ("skipped", "failed"):
        count = sum(record["status"] == status for record in records)
        if count:
            logger.warning("%s: %d of %d recordings %s", shard_path.stem, count, len(records), status)


def has_gone(path: str) -> bool:
    """Whether a file that the scan of the inputs found is not there now.

    Args:
        path: The file.

    Returns:
        Whether it alone has gone, so that the recording is one that could not be read.

    Raises:
        EcgpipeError: All of its folder has. That says nothing of the recording, and is not to be recorded of it.
    """
    try:
        os.stat(path)  # noqa: PTH116, which says why it cannot
    except PermissionError:
        return False
    except OSError as error:
        if momentary(error):
            raise EcgpipeError(f"input: {path} cannot be looked at now ({error.strerror}); run again") from error
        folder = os.path.dirname(path)  # noqa: PTH120
    else:
        return False
    try:
        with os.scandir(folder) as left:
            if next(left, None) is not None:
                return True
        what = "is empty now"  # as the place is where a disk or a share was
    except OSError as error:
        what = f"cannot be looked into now ({error.strerror})"
    raise EcgpipeError(
        f"input: {path} was there when the inputs were scanned, and the folder {folder} {what}; bring it back, or take "
        "it out of `input`, and run again"
    )


def account(
    row: dict[str, Any], windows: Windows, assumed: Assumed, problem: str | None = None
) -> tuple[dict[str, Any], list[tuple[str, int, float, int, np.ndarray]]]:
    """Read and prepare one recording, whatever it is.

    Args:
        row: Of the manifest.
        windows: What the settings say of segments and leads.
        assumed: What they say of files that state nothing.
        problem: Why it is not to be read at all.

    Returns:
        Its row of the records, and its segments: record id, number, start in seconds, samples that are signal,
        (12, segment samples) float32.

    Raises:
        EcgpipeError: There is less memory than a recording may take.
        UnavailableError: It cannot be read at the moment, of which there is nothing to record.
    """
    record: dict[str, Any] = {name: row[name] for name in KEPT}
    record |= {"status": "ok", "n_segments": 0}
    try:
        if problem:
            raise UnreadableError(problem)
        recording = read(row, assumed)
        record |= {"leads": recording.leads, "unit": recording.unit, "stripped_s": recording.stripped_s}
        record["sample_rate"] = recording.sample_rate
        if recording.sample_rate > 0 and math.isfinite(recording.sample_rate):
            record["duration_s"] = recording.signal.shape[1] / recording.sample_rate
        segments, starts_s, samples, changes = prepare(recording, windows, record, overwrite=True)
    except UnavailableError:
        raise
    except UnreadableError as error:
        record |= {"status": "failed", "reason": str(error)}
    except UnusableError as error:
        record |= {"status": "skipped", "reason": str(error)}
    except MemoryError as error:
        if isolation.is_confined():
            raise EcgpipeError(f"memory: {row['path']} {isolation.TOO_LITTLE}") from error
        record |= {"status": "failed", "reason": "takes more memory than one recording may"}
    except Exception as error:  # one odd file must not stop the run
        logger.exception("%s could not be read", row["path"])
        record |= {"status": "failed", "reason": f"an error of ecgpipe's own ({type(error).__name__}: {error})"}
    else:
        record |= changes
        ids = row["record_id"]
        return record, [(ids, i, starts_s[i], samples, segment) for i, segment in enumerate(segments)]
    return record, []


def read(row: dict[str, Any], assumed: Assumed) -> Recording:
    """Read the recording of a manifest's row.

    Args:
        row: Of the manifest. What its table states goes before what the settings assume.
        assumed: What the settings say of files that state nothing.

    Returns:
        The recording. Lead names of the table take the place of the file's where the file has none that is known.

    Raises:
        UnreadableError: It cannot be read, or the file contradicts the table.
    """
    if row["problem"]:
        raise UnreadableError(row["problem"])
    rate, leads, unit = row["stated_sample_rate"], row["stated_leads"], row["stated_unit"]
    stated = Assumed(
        rate or assumed.sample_rate, tuple(leads) if leads else assumed.leads, unit if unit else assumed.unit
    )
    recording = readers.read(Path(row["path"]), row["format"], stated, row["row"])
    if rate and not math.isclose(rate, recording.sample_rate, rel_tol=1e-6):
        raise UnreadableError(
            f"the table's sample rate is not the file's own ({rate:g} Hz and {recording.sample_rate:g} Hz)"
        )
    if leads and spelled(recording.leads) != spelled(leads):
        if len(leads) != len(recording.leads) or set(spelled(recording.leads)) & set(LEADS):
            raise UnreadableError(
                f"the table's leads are not the file's own ({' '.join(leads)} and {' '.join(recording.leads)})"
            )
        recording = recording._replace(leads=tuple(leads))
    return recording


def _with_inputs_columns(records: list[dict[str, Any]], shard: pa.Table, facts: dict[str, Any]) -> pa.Table:
    """The account, followed by what the inputs' tables say besides."""
    table = pa.Table.from_pylist(records, schema=schemas.RECORDS)
    for name in shard.column_names:
        if name not in schemas.MANIFEST.names:
            table = table.append_column(shard.field(name), shard[name])
    return table.cast(provenance.with_origin(table.schema, "preprocess", **facts))


def _batches(
    segments: Iterator[tuple[str, int, float, int, np.ndarray]], schema: pa.Schema, length: int
) -> Iterator[pa.RecordBatch]:
    """Gather segments into record batches of bounded size."""
    keys: list[tuple[str, int, float, int]] = []
    signals = np.empty((BATCH_SEGMENTS, len(LEADS) * length), np.float32)

    def batch() -> pa.RecordBatch:
        columns = [pa.array(values, field.type) for values, field in zip(zip(*keys, strict=True), schema, strict=False)]
        signal = pa.FixedSizeListArray.from_arrays(pa.array(signals[: len(keys)].ravel()), signals.shape[1])
        return pa.record_batch([*columns, signal], schema=schema)

    for record_id, number, start_s, samples, segment in segments:
        signals[len(keys)] = segment.ravel()
        keys.append((record_id, number, start_s, samples))
        if len(keys) == BATCH_SEGMENTS:
            yield batch()
            keys = []
    if keys:
        yield batch()
