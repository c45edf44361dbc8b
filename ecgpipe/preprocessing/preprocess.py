"""Stage `preprocess`: cut one shard of recordings into the model's segments, and write the status of each recording."""

import argparse
import logging
import math
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ecgpipe import readers
from ecgpipe.core import config, options, parquet, provenance, schemas, settings
from ecgpipe.core.atomic import whole
from ecgpipe.core.errors import EcgpipeError
from ecgpipe.core.logs import Progress
from ecgpipe.core.model_input import DEFAULT_INPUT, ModelInput, dump_input
from ecgpipe.core.provenance import hash_file
from ecgpipe.preprocessing.segments import UnusableError, Windows, prepare
from ecgpipe.readers import LEADS, Assumed, Recording, UnavailableError, UnreadableError, isolation, spell_leads
from ecgpipe.readers.moment import momentary

logger = logging.getLogger(__name__)

# Segments per record batch of a shard file: 15 MB, which preprocess and infer hold in memory at a time.
BATCH_SEGMENTS = 128

# A shard ends after so many recordings that cannot be read at the moment: each of them was waited for.
MOST_UNAVAILABLE = 5

# The columns of the manifest that records/ repeats.
REPEATED_COLUMNS = ("record_id", "path", "row", "bytes", "modified", "format")

# A segment and what is known of it: record id, number, start in s, samples that are signal, (leads, segment samples).
Segment = tuple[str, int, float, int, np.ndarray]


class Files(NamedTuple):
    """The files of one shard."""

    shard: Path  # manifest/shard-*.parquet
    segments: Path  # the Arrow IPC file to write
    records: Path  # the Parquet file to write


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `ecgpipe preprocess`."""
    settings.add_arguments(parser, settings.Preprocess)
    parser.add_argument("--shard", type=Path, required=True, help="a manifest/shard-*.parquet")
    options.add(parser, "segments", required=True, help="the Arrow IPC file to write the segments to")
    options.add(parser, "records", required=True, help="the Parquet file to write each recording's status to")


def run(args: argparse.Namespace) -> None:
    """Preprocess one shard."""
    preprocess_settings = settings.parse_arguments("preprocess", settings.Preprocess, args)
    preprocess_shard(args.shard, args.segments, args.records, preprocess_settings)


def reading_from_settings(
    preprocess_settings: config.Preprocess, model_input: ModelInput | None = None
) -> tuple[Windows, Assumed]:
    """How recordings are cut into segments, and what is assumed of files that do not state it.

    Args:
        preprocess_settings: The settings, of a run or of the stage.
        model_input: The model's input; None: that of the stage's settings, or else the default.

    Returns:
        The segments, and what is assumed.
    """
    if model_input is None and isinstance(preprocess_settings, settings.Preprocess):
        model_input = preprocess_settings.declared_input
    values = {name: getattr(preprocess_settings, name) for name in Windows._fields if name != "model_input"}
    windows = Windows(**values, model_input=model_input or DEFAULT_INPUT)
    leads = preprocess_settings.assume_leads
    return windows, Assumed(
        preprocess_settings.assume_sample_rate, tuple(leads) if leads else None, preprocess_settings.assume_unit
    )


def preprocess_shard(shard: Path, segments: Path, records: Path, preprocess_settings: settings.Preprocess) -> None:
    """Preprocess one shard, in a process of its own that may crash.

    Args:
        shard: A shard of the manifest.
        segments: The Arrow IPC file to write.
        records: The Parquet file to write.
        preprocess_settings: How recordings are read and cut.

    Raises:
        EcgpipeError: Recordings cannot be read at the moment, the process was killed, or memory runs out.
    """
    files = Files(shard, segments, records)
    with whole(segments) as temporary:  # here, because a process that crashes leaves behind what it began to write

        def work(crashed: dict[int, str], begin: Callable[[int], None]) -> None:
            _preprocess(files, temporary, preprocess_settings, crashed, begin)

        isolation.crashes(work, called=lambda row: pq.read_table(shard, columns=["path"])["path"][row].as_py())


def _preprocess(
    files: Files,
    temporary: Path,
    preprocess_settings: settings.Preprocess,
    crashed: dict[int, str],
    begin: Callable[[int], None],
) -> None:
    """Preprocess one shard without the rows that crashed; `begin` is called with the number of the row that is next.

    The segments are written to `temporary`, which will be renamed to `files.segments`.
    """
    windows, assumed = reading_from_settings(preprocess_settings)
    facts = settings.add_sha256("preprocess", preprocess_settings, {})
    facts |= {"preprocess": _facts(windows, assumed), "inputs_sha256": hash_file(files.shard)}
    shard = pq.read_table(files.shard)
    schema = schemas.segments_schema(len(windows.model_input.leads), windows.segment_samples)
    schema = provenance.add_file_name(provenance.add_origin(schema, "preprocess", **facts), files.segments)
    records: list[dict[str, Any]] = []
    gone: list[str] = []
    unavailable: list[str] = []
    progress = Progress(files.shard.stem, len(shard), "recordings")

    def prepared() -> Iterator[Segment]:
        for number, row in enumerate(shard.to_pylist()):
            begin(number)
            try:
                record, segments = process_recording(row, windows, assumed, crashed.get(number))
            except UnavailableError as error:
                logger.warning("%s", error)
                unavailable.append(str(error))
                if len(unavailable) >= MOST_UNAVAILABLE:
                    break
                continue
            yield from segments
            records.append(record)
            # A recording that the scan did not find either may fail: a table can list files that do not exist.
            if record["status"] == "failed" and row["bytes"] is not None and has_gone(row["path"]):
                gone.append(row["path"])
            progress.add(1)
        begin(-1)

    with pa.ipc.new_file(temporary, schema) as writer:
        for batch in _batches(prepared(), schema):
            writer.write_batch(batch)
    progress.say()
    if unavailable:
        others = f", and {len(unavailable) - 1} more of {files.shard.stem}" if len(unavailable) > 1 else ""
        raise EcgpipeError(
            f"input: {unavailable[0]}{others}; nothing is recorded of this shard. Give the same command again when the "
            "disk or file server answers, or leave out of `input` what it has lost"
        )
    back = [path for path in gone if not has_gone(path)]
    if back:
        raise EcgpipeError(f"input: {back[0]} was not there for a while ({len(back)} files in all); run again")
    parquet.write(files.records, _with_inputs_columns(records, shard, facts))
    for status in ("skipped", "failed"):
        count = sum(record["status"] == status for record in records)
        if count:
            logger.warning("%s: %d of %d recordings %s", files.shard.stem, count, len(records), status)


def _facts(windows: Windows, assumed: Assumed) -> dict[str, Any]:
    """What the files' metadata says of how recordings were read and cut."""
    model_input = windows.model_input
    rate = model_input.rate
    declared = {} if windows.declared == _default_of(windows) else {"model_input": dump_input(windows.declared)}
    return {
        "leads": list(model_input.leads),
        "sample_rate": int(rate) if rate == int(rate) else rate,
        "segment_samples": windows.segment_samples,
        **{name: value for name, value in windows._asdict().items() if name != "model_input"},
        **declared,
        **{f"assume_{name}": value for name, value in assumed._asdict().items()},
    }


def _default_of(windows: Windows) -> ModelInput:
    """The default model's input with a run's segments; results of it say no more than they always did."""
    return windows._replace(model_input=DEFAULT_INPUT).declared


def has_gone(path: str) -> bool:
    """Whether a file that the scan of the inputs found is missing now.

    Args:
        path: The file.

    Returns:
        Whether this file alone is missing, so that its recording failed.

    Raises:
        EcgpipeError: Its whole folder is missing. That says nothing about the recording, so nothing is recorded.
    """
    try:
        os.stat(path)  # noqa: PTH116, Path.exists hides the reason
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
        what = "is empty now"  # as is a mount point without its disk or share
    except OSError as error:
        what = f"cannot be looked into now ({error.strerror})"
    raise EcgpipeError(
        f"input: {path} was there when the inputs were scanned, and the folder {folder} {what}; bring it back, or take "
        "it out of `input`, and run again"
    )


def process_recording(
    row: dict[str, Any], windows: Windows, assumed: Assumed, problem: str | None = None
) -> tuple[dict[str, Any], list[Segment]]:
    """Read one recording and prepare its segments; a recording that cannot be used gets the reason.

    Args:
        row: Its row of the manifest.
        windows: How it is cut into segments, and what happens to missing leads.
        assumed: What is assumed of files that do not state it.
        problem: Why it is not read at all.

    Returns:
        Its row of records/, and its segments.

    Raises:
        EcgpipeError: There is less memory than a recording may take.
        UnavailableError: It cannot be read at the moment, which says nothing about the recording.
    """
    record: dict[str, Any] = {name: row[name] for name in REPEATED_COLUMNS}
    record |= {"status": "ok", "n_segments": 0}
    try:
        if problem:
            raise UnreadableError(problem)
        recording = read_recording(row, assumed)
        record |= {"leads": recording.leads, "unit": recording.unit, "stripped_s": recording.stripped_s}
        record |= {
            f"device_{name}": None if value == () else value for name, value in recording.device._asdict().items()
        }
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
    except Exception as error:  # one file must not stop the run
        logger.exception("%s could not be read", row["path"])
        record |= {"status": "failed", "reason": f"an error of ecgpipe's own ({type(error).__name__}: {error})"}
    else:
        record |= changes
        record_id = row["record_id"]
        return record, [(record_id, i, starts_s[i], samples, segment) for i, segment in enumerate(segments)]
    return record, []


def read_recording(row: dict[str, Any], assumed: Assumed) -> Recording:
    """Read the recording of a row of the manifest.

    Args:
        row: The row. What the inputs' table states takes precedence over what the settings assume.
        assumed: What the settings assume of files that do not state it.

    Returns:
        The recording. The table's lead names replace the file's if none of the file's names is a known lead.

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
            f"the table's sampling rate is not the file's own ({rate:g} Hz and {recording.sample_rate:g} Hz)"
        )
    if leads and spell_leads(recording.leads) != spell_leads(leads):
        if len(leads) != len(recording.leads) or set(spell_leads(recording.leads)) & set(LEADS):
            raise UnreadableError(
                f"the table's leads are not the file's own ({' '.join(leads)} and {' '.join(recording.leads)})"
            )
        recording = recording._replace(leads=tuple(leads))
    return recording


def _with_inputs_columns(records: list[dict[str, Any]], shard: pa.Table, facts: Mapping[str, Any]) -> pa.Table:
    """The rows of records/, followed by the further columns of the inputs' tables."""
    table = pa.Table.from_pylist(records, schema=schemas.RECORDS)
    for name in shard.column_names:
        if name not in schemas.MANIFEST.names:
            table = table.append_column(shard.field(name), shard[name])
    return table.cast(provenance.add_origin(table.schema, "preprocess", **facts))


def _batches(segments: Iterator[Segment], schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    """Gather segments into record batches of bounded size."""
    keys: list[tuple[str, int, float, int]] = []
    signals = np.empty((BATCH_SEGMENTS, schema.field("signal").type.list_size), np.float32)

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
