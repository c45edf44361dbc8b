"""Stage `preprocess`: cut one shard of recordings into the model's segments, and write the status of each recording.

In a study each recording is read once, and prepared for several models.
"""

import argparse
import gc
import logging
import math
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from ecgpipe import readers
from ecgpipe.core import options, parquet, provenance, schemas, settings, user_settings
from ecgpipe.core.atomic import whole
from ecgpipe.core.errors import EcgpipeError
from ecgpipe.core.logs import Progress
from ecgpipe.core.model_input import DEFAULT_INPUT, ModelInput, dump_input
from ecgpipe.core.provenance import hash_file
from ecgpipe.preprocessing.segment_writer import Segment, SegmentWriter
from ecgpipe.preprocessing.segments import UnusableError, Windows, prepare
from ecgpipe.readers import LEADS, Assumed, Recording, UnavailableError, UnreadableError, isolation, spell_leads
from ecgpipe.readers.temporary_errors import momentary

logger = logging.getLogger(__name__)

# A shard ends after so many recordings that cannot be read at the moment: each of them was waited for.
MOST_UNAVAILABLE = 5

# The columns of the manifest that records/ repeats.
REPEATED_COLUMNS = ("record_id", "path", "row", "bytes", "modified", "format")

Result = TypeVar("Result")


class Task(NamedTuple):
    """What a model takes of a shard."""

    settings: settings.Preprocess  # how recordings are read and cut
    segments: Path  # the Arrow IPC file to write
    records: Path  # the Parquet file to write


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `ecgpipe preprocess`."""
    settings.add_arguments(parser, settings.Preprocess, several=True)
    parser.add_argument("--shard", type=Path, required=True, help="a manifest/shard-*.parquet")
    several = "; of several models, one for each of --settings"
    options.add(
        parser, "segments", nargs="+", required=True, help=f"the Arrow IPC file to write the segments to{several}"
    )
    options.add(
        parser,
        "records",
        nargs="+",
        required=True,
        help=f"the Parquet file to write each recording's status to{several}",
    )


def run(args: argparse.Namespace) -> None:
    """Preprocess one shard, for one model or several."""
    several = [
        settings.parse_arguments("preprocess", settings.Preprocess, args, path) for path in args.settings or [None]
    ]
    if not len(several) == len(args.segments) == len(args.records):
        raise EcgpipeError(
            f"--settings: {len(several)}, --segments: {len(args.segments)}, --records: {len(args.records)}; give one "
            "of each for each model"
        )
    preprocess_for_models(args.shard, [Task(*task) for task in zip(several, args.segments, args.records, strict=True)])


def reading_from_settings(
    preprocess_settings: user_settings.Preprocess, model_input: ModelInput | None = None
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
    """Preprocess one shard for one model; arguments and errors as of `Task` and `preprocess_for_models`."""
    preprocess_for_models(shard, [Task(preprocess_settings, segments, records)])


def preprocess_for_models(shard: Path, tasks: Sequence[Task]) -> None:
    """Preprocess one shard, in a process of its own that may crash. Each recording is read once.

    Args:
        shard: A shard of the manifest.
        tasks: What each model takes of it. What is assumed of files that do not state it is the same for all.

    Raises:
        EcgpipeError: Recordings cannot be read at the moment, the process was killed, memory runs out, or models differ
            in what is assumed.
    """
    if len({reading_from_settings(task.settings)[1] for task in tasks}) > 1:
        raise EcgpipeError("--settings: assume_sample_rate, assume_leads and assume_unit differ; read each by itself")
    with ExitStack() as stack:  # here, because a process that crashes leaves behind what it began to write
        temporary = [stack.enter_context(whole(task.segments)) for task in tasks]

        def work(crashed: dict[int, str], begin: Callable[[int], None]) -> None:
            _preprocess(shard, tasks, temporary, crashed, begin)

        isolation.crashes(work, called=lambda row: pq.read_table(shard, columns=["path"])["path"][row].as_py())


def _preprocess(
    shard_file: Path,
    tasks: Sequence[Task],
    temporary: Sequence[Path],
    crashed: dict[int, str],
    begin: Callable[[int], None],
) -> None:
    """Preprocess one shard without the rows that crashed; `begin` is called with the number of the row that is next.

    The segments are written to `temporary`, files which will be renamed to the tasks' `segments`.
    """
    gc.freeze()  # what was loaded stays, and need not be searched for garbage again and again
    readings = [reading_from_settings(task.settings) for task in tasks]
    windows, assumed = [each for each, _ in readings], readings[0][1]
    facts = [settings.add_sha256("preprocess", task.settings, {}) for task in tasks]
    origin = hash_file(shard_file)
    facts = [
        {**own, "preprocess": _facts(*reading), "inputs_sha256": origin}
        for own, reading in zip(facts, readings, strict=True)
    ]
    with pq.ParquetFile(shard_file) as file:
        # In this thread: where none may be started, as with a limit of the user's own, Arrow waits for one for ever.
        shard = file.read(use_threads=False)
    records: list[list[dict[str, Any]]] = [[] for _ in tasks]
    gone: list[str] = []
    unavailable: list[str] = []
    progress = Progress(shard_file.stem, len(shard), "recordings")
    with ExitStack() as stack:
        writers = [
            stack.enter_context(
                SegmentWriter(
                    path,
                    _segments_schema(own, task.segments),
                    len(each.model_input.leads),
                    each.segment_samples,
                )
            )
            for path, each, own, task in zip(temporary, windows, facts, tasks, strict=True)
        ]
        for number, row in enumerate(shard.to_pylist()):
            begin(number)
            try:
                prepared = process_for_models(row, windows, assumed, crashed.get(number))
            except UnavailableError as error:
                logger.warning("%s", error)
                unavailable.append(str(error))
                if len(unavailable) >= MOST_UNAVAILABLE:
                    break
                continue
            for writer, of_model, (record, segments) in zip(writers, records, prepared, strict=True):
                writer.add(segments)
                of_model.append(record)
            # A recording that the scan did not find either may fail: a table can list files that do not exist.
            has_failed = any(record["status"] == "failed" for record, _ in prepared)
            if has_failed and row["bytes"] is not None and has_gone(row["path"]):
                gone.append(row["path"])
            progress.add(1)
        begin(-1)
    progress.say()
    _refuse_lost(shard_file, unavailable, gone)
    for task, of_model, own in zip(tasks, records, facts, strict=True):
        parquet.write(task.records, _with_inputs_columns(of_model, shard, own))
    _warn_of_unused(shard_file, tasks, records)


def _segments_schema(facts: Mapping[str, Any], path: Path) -> pa.Schema:
    """The schema of a file of segments, with what it says of itself."""
    return provenance.add_file_name(provenance.add_origin(schemas.SEGMENTS, "preprocess", **facts), path)


def _refuse_lost(shard_file: Path, unavailable: Sequence[str], gone: Sequence[str]) -> None:
    """Refuse to record anything of a shard with recordings that cannot be read at the moment.

    Args:
        shard_file: The shard of the manifest.
        unavailable: Why some could not be read.
        gone: The files that were not there.

    Raises:
        EcgpipeError: There are such recordings.
    """
    if unavailable:
        others = f", and {len(unavailable) - 1} more of {shard_file.stem}" if len(unavailable) > 1 else ""
        raise EcgpipeError(
            f"input: {unavailable[0]}{others}; nothing is recorded of this shard. Give the same command again when the "
            "disk or file server answers, or leave out of `input` what it has lost"
        )
    back = [path for path in gone if not has_gone(path)]
    if back:
        raise EcgpipeError(f"input: {back[0]} was not there for a while ({len(back)} files in all); run again")


def _warn_of_unused(shard_file: Path, tasks: Sequence[Task], records: Sequence[Sequence[Mapping[str, Any]]]) -> None:
    """Say how many recordings each model skipped, and how many failed. A study's folders are called as its models."""
    for task, of_model in zip(tasks, records, strict=True):
        model = f"{task.records.absolute().parents[1].name}: " if len(tasks) > 1 else ""
        for status in ("skipped", "failed"):
            count = sum(record["status"] == status for record in of_model)
            if count:
                logger.warning("%s%s: %d of %d recordings %s", model, shard_file.stem, count, len(of_model), status)


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
    """Read one recording and prepare its segments for one model; as `process_for_models`."""
    return process_for_models(row, [windows], assumed, problem)[0]


def process_for_models(
    row: dict[str, Any], windows: Sequence[Windows], assumed: Assumed, problem: str | None = None
) -> list[tuple[dict[str, Any], list[Segment]]]:
    """Read one recording and prepare its segments for models; a recording that cannot be used gets the reason.

    Args:
        row: Its row of the manifest.
        windows: How it is cut into each model's segments, and what happens to missing leads.
        assumed: What is assumed of files that do not state it.
        problem: Why it is not read at all.

    Returns:
        For each model its row of records/, and its segments.

    Raises:
        EcgpipeError: There is less memory than a recording may take.
        UnavailableError: It cannot be read at the moment, which says nothing about the recording.
    """
    record: dict[str, Any] = {name: row[name] for name in REPEATED_COLUMNS}
    record |= {"status": "ok", "n_segments": 0}

    def read() -> Recording:
        if problem:
            raise UnreadableError(problem)
        recording = read_recording(row, assumed)
        record.update(leads=recording.leads, unit=recording.unit, stripped_s=recording.stripped_s)
        device = recording.device._asdict()
        record.update({f"device_{name}": None if value == () else value for name, value in device.items()})
        record["sample_rate"] = recording.sample_rate
        if recording.sample_rate > 0 and math.isfinite(recording.sample_rate):
            record["duration_s"] = recording.signal.shape[1] / recording.sample_rate
        return recording

    recording = _try(read, record)
    if recording is None:
        return [(dict(record), []) for _ in windows]
    processed = []
    for number, each in enumerate(windows):
        own = dict(record)
        is_last = number == len(windows) - 1  # no model after it needs the signal
        prepared = _try(partial(prepare, recording, each, own, overwrite=is_last), own)
        segments: list[Segment] = []
        if prepared is not None:
            own |= prepared.changes
            starts_s, samples = prepared.starts_s, prepared.samples
            digital = prepared.digital or [None] * len(prepared.segments)
            segments = [
                Segment(row["record_id"], i, starts_s[i], samples, digital[i], segment)
                for i, segment in enumerate(prepared.segments)
            ]
        processed.append((own, segments))
    return processed


def _try(step: Callable[[], Result], record: dict[str, Any]) -> Result | None:
    """Do a step with a recording; where it cannot be used, put the reason into `record` and return None."""
    try:
        return step()
    except UnavailableError:
        raise
    except UnreadableError as error:
        record |= {"status": "failed", "reason": str(error)}
    except UnusableError as error:
        record |= {"status": "skipped", "reason": str(error)}
    except MemoryError as error:
        if isolation.is_confined():
            raise EcgpipeError(f"memory: {record['path']} {isolation.TOO_LITTLE}") from error
        record |= {"status": "failed", "reason": "takes more memory than one recording may"}
    except Exception as error:  # one file must not stop the run
        logger.exception("%s could not be read", record["path"])
        record |= {"status": "failed", "reason": f"an error of ecgpipe's own ({type(error).__name__}: {error})"}
    return None


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
    # Not by `cast`, which loads pyarrow.compute.
    return pa.table(table.columns, schema=provenance.add_origin(table.schema, "preprocess", **facts))
