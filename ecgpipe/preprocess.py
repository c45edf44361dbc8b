"""Turn one shard of recordings into segments ready for the model, and tell what became of each recording."""

import argparse
import logging
import math
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from ecg_transform.inp import ECGInput, ECGMetadata
from ecg_transform.t.common import HandleConstantLeads, LinearResample, ReorderLeads
from ecg_transform.t.cut import SegmentNonoverlapping
from ecg_transform.t.scale import Standardize

from ecgpipe import readers, tables
from ecgpipe.atomic import whole
from ecgpipe.log import Progress
from ecgpipe.readers import LEADS, Assumed, Recording, UnreadableError, spelled

logger = logging.getLogger(__name__)

SAMPLE_RATE = 500  # Hz
SEGMENT_SAMPLES = 2500
SEGMENT_S = SEGMENT_SAMPLES / SAMPLE_RATE

# ECG-FM's own preprocessing, in its order: notebooks/infer_quickstart.ipynb of https://github.com/bowang-lab/ECG-FM.
TRANSFORMS = (
    ReorderLeads(list(LEADS), missing_lead_strategy="raise"),
    LinearResample(SAMPLE_RATE),
    HandleConstantLeads("zero"),
    Standardize(),
    SegmentNonoverlapping(SEGMENT_SAMPLES),
)

# Segments per record batch of a shard file: 15 MB, what preprocess and infer hold at a time.
BATCH_SEGMENTS = 128

# A rate outside of this is a slip in the file, and resampling from it could ask for any amount of memory.
PLAUSIBLE_RATES = (20.0, 50_000.0)


class UnusableError(Exception):
    """A recording that can be read but not used; the message tells a person why, the file's particulars in brackets."""


class Prepared(NamedTuple):
    """A recording as the model takes it."""

    segments: np.ndarray  # (segments, 12, 2500) float32
    constant_leads: list[str]  # the leads that carry no signal and were set to zero
    discarded_s: float  # the end of the recording that fills no segment


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `python -m ecgpipe preprocess`."""
    parser.add_argument("--shard", type=Path, required=True, help="a manifest/shard-*.parquet")
    parser.add_argument("--segments", type=Path, required=True, help="the Arrow IPC file to write the segments to")
    parser.add_argument("--records", type=Path, required=True, help="the Parquet file to write the account to")
    parser.add_argument("--assume-sample-rate", type=float, help="in Hz, for files that state none")
    parser.add_argument("--assume-leads", nargs="+", help="in order, for files that name none")


def run(args: argparse.Namespace) -> None:
    """Preprocess one shard."""
    assumed = Assumed(args.assume_sample_rate, tuple(args.assume_leads) if args.assume_leads else None)
    settings = {
        "ecg_transform": version("ecg-transform"),
        "leads": list(LEADS),
        "sample_rate": SAMPLE_RATE,
        "segment_samples": SEGMENT_SAMPLES,
        "assume_sample_rate": assumed.sample_rate,
        "assume_leads": list(assumed.leads) if assumed.leads else None,
    }
    shard = pq.read_table(args.shard).to_pylist()
    schema = tables.with_origin(tables.segments_schema(len(LEADS), SEGMENT_SAMPLES), "preprocess", preprocess=settings)
    records: list[dict[str, Any]] = []
    progress = Progress(args.shard.stem, len(shard), "recordings")
    with whole(args.segments) as temporary, pa.ipc.new_file(temporary, schema) as writer:
        for batch in _batches(_segments_of(shard, assumed, records, progress), schema):
            writer.write_batch(batch)
    progress.say()
    table = pa.Table.from_pylist(records, schema=tables.with_origin(tables.RECORDS, "preprocess", preprocess=settings))
    tables.write(args.records, table)
    for status in ("skipped", "failed"):
        count = sum(record["status"] == status for record in records)
        if count:
            logger.warning("%s: %d of %d recordings %s", args.shard.stem, count, len(records), status)


def prepare(recording: Recording) -> Prepared:
    """Apply ECG-FM's preprocessing to one recording.

    Args:
        recording: Its leads in any order, at any sample rate.

    Returns:
        The segments: leads I II III aVR aVL aVF V1-V6, 500 Hz, each lead standardised over the whole recording.

    Raises:
        UnusableError: Leads are missing, there are NaN or infinite samples, or it is shorter than a segment.
    """
    names, rate = _lead_names(recording.leads), recording.sample_rate
    if not PLAUSIBLE_RATES[0] <= rate <= PLAUSIBLE_RATES[1]:
        raise UnusableError(f"the sample rate cannot be meant ({rate:g} Hz)")
    missing = [lead for lead in LEADS if lead not in names]
    if missing:
        raise UnusableError(f"leads missing ({' '.join(missing)})")
    resampled = int(recording.signal.shape[1] * (SAMPLE_RATE / rate))  # samples that LinearResample will give
    if resampled < SEGMENT_SAMPLES:
        raise UnusableError(f"shorter than one segment of {SEGMENT_S:g} s ({recording.signal.shape[1] / rate:.3f} s)")
    signal = recording.signal[[names.index(lead) for lead in LEADS]]  # (12, samples)
    unfinished = [lead for lead, finite in zip(LEADS, np.isfinite(signal).all(axis=1), strict=True) if not finite]
    if unfinished:
        raise UnusableError(f"NaN or infinite samples ({' '.join(unfinished)})")
    with np.errstate(over="ignore", invalid="ignore"):
        endless = [lead for lead, spread in zip(LEADS, signal.std(axis=1), strict=True) if not math.isfinite(spread)]
    if endless:
        raise UnusableError(f"samples too large to be meant ({' '.join(endless)})")

    metadata = ECGMetadata(rate, signal.shape[1], list(LEADS), recording.unit, 0, signal.shape[1])
    pieces = [ECGInput(signal, metadata)]
    for transform in TRANSFORMS:
        pieces = transform(pieces)
    segments = np.stack([piece.signal for piece in pieces]).astype(np.float32)  # (segments, 12, 2500)
    constant = [lead for lead, row in zip(LEADS, signal, strict=True) if row.min() == row.max()]
    return Prepared(segments, constant, (resampled - segments.shape[0] * SEGMENT_SAMPLES) / SAMPLE_RATE)


def _lead_names(leads: tuple[str, ...]) -> list[str]:
    """The file's names of leads in the model's spelling, each of the twelve at most once."""
    names = spelled(leads)
    twice = sorted({name for name in names if name in LEADS and names.count(name) > 1})
    if twice:
        raise UnusableError(f"a lead is there twice ({' '.join(twice)})")
    return names


def _segments_of(
    shard: list[dict[str, str]], assumed: Assumed, records: list[dict[str, Any]], progress: Progress
) -> Iterator[tuple[str, int, np.ndarray]]:
    """Yield (record id, number, (12, 2500)) of every segment, and add to `records` what became of each recording."""
    for row in shard:
        record: dict[str, Any] = {**row, "status": "ok", "n_segments": 0}
        try:
            recording = readers.read(Path(row["path"]), row["format"], assumed)
            record["sample_rate"] = recording.sample_rate
            if recording.sample_rate > 0 and math.isfinite(recording.sample_rate):
                record["duration_s"] = recording.signal.shape[1] / recording.sample_rate
            prepared = prepare(recording)
        except UnreadableError as error:
            record.update(status="failed", reason=str(error))
        except UnusableError as error:
            record.update(status="skipped", reason=str(error))
        except Exception as error:  # one odd file must not stop the run
            logger.exception("%s could not be read", row["path"])
            record.update(status="failed", reason=f"an error of ecgpipe's own ({type(error).__name__}: {error})")
        else:
            record.update(
                n_segments=len(prepared.segments),
                discarded_s=prepared.discarded_s,
                constant_leads=prepared.constant_leads,
            )
            yield from ((row["record_id"], i, segment) for i, segment in enumerate(prepared.segments))
        records.append(record)
        progress.add(1)


def _batches(segments: Iterator[tuple[str, int, np.ndarray]], schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    """Gather segments into record batches of bounded size."""
    ids: list[str] = []
    numbers: list[int] = []
    signals = np.empty((BATCH_SEGMENTS, len(LEADS) * SEGMENT_SAMPLES), np.float32)

    def batch() -> pa.RecordBatch:
        starts = pa.array(np.array(numbers, np.float32) * np.float32(SEGMENT_S), pa.float32())
        values = pa.array(signals[: len(ids)].ravel())
        signal = pa.FixedSizeListArray.from_arrays(values, signals.shape[1])
        return pa.record_batch([pa.array(ids), pa.array(numbers, pa.int32()), starts, signal], schema=schema)

    for record_id, number, segment in segments:
        signals[len(ids)] = segment.ravel()
        ids.append(record_id)
        numbers.append(number)
        if len(ids) == BATCH_SEGMENTS:
            yield batch()
            ids, numbers = [], []
    if ids:
        yield batch()
