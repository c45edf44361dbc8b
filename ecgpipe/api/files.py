"""Find the recordings of paths and prepare them, with the workflow's own stages; nothing here loads PyTorch."""

import logging
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ecgpipe.core import logs, parquet, schemas, settings
from ecgpipe.core.errors import EcgpipeError
from ecgpipe.core.model_input import dump_if_other
from ecgpipe.core.stored_segments import decode_rows
from ecgpipe.inputs.scan import scan_inputs
from ecgpipe.preprocessing import preprocess
from ecgpipe.preprocessing.segments import Prepared, Windows
from ecgpipe.readers import Assumed

logger = logging.getLogger(__name__)

# Signal files of a WFDB record, which a shell's * lists beside its header.
WFDB_SIGNALS = (".dat", ".mat")

# Recordings that are prepared at a time; between two of these the progress bar moves.
AT_A_TIME = 64


class Found(NamedTuple):
    """The recordings of some paths."""

    recordings: pa.Table  # rows of `schemas.MANIFEST`, in the order of the paths
    unusable: dict[str, str]  # by path without a recording: the reason


class Read(NamedTuple):
    """What became of a recording."""

    prepared: Prepared | None  # None: it cannot be used
    status: str  # ok, skipped or failed
    reason: str | None


def find_recordings(inputs: Sequence[str]) -> Found:
    """Find the recordings of files, folders, globs and tables, each once.

    Args:
        inputs: As for the setting `input`.

    Returns:
        The recordings, and the inputs that have none.
    """
    parts = [schemas.MANIFEST.empty_table()]
    unusable: dict[str, str] = {}
    headers = {path.removesuffix(".hea") for path in inputs if path.endswith(".hea")}
    for text in inputs:
        stem, ending = os.path.splitext(text)  # noqa: PTH122, of a text that may be no path
        if ending in WFDB_SIGNALS and stem in headers:
            continue
        try:
            scanned = scan_inputs([text])
        except EcgpipeError as error:
            unusable[text] = str(error)
            continue
        parts.append(scanned.recordings.select(schemas.MANIFEST.names))
        ignored = scanned.files.filter(pc.equal(scanned.files["role"], "ignored"))["reason"].to_pylist()
        if not len(scanned.recordings):
            unusable[text] = f"{text}: {'; '.join(dict.fromkeys(ignored[:5])) or 'there is no recording'}"
        elif ignored:
            kinds = Counter(map(schemas.strip_particulars, ignored)).most_common()
            logger.info("%s: ignored %s", text, ", ".join(f"{count} {kind}" for kind, count in kinds))
    recordings = pa.concat_tables(parts)
    keys = pd.DataFrame({name: recordings[name].to_pandas() for name in ("path", "row")})
    return Found(recordings.filter(pa.array(~keys.duplicated().to_numpy())), unusable)


def name_recordings(rows: pa.Table) -> list[str]:
    """Name recordings by their ids; of several with one id, by path, and row where the file holds many."""
    ids = rows["record_id"].to_pylist()
    counts = Counter(ids)
    rows_of_file = zip(ids, rows["path"].to_pylist(), rows["row"].to_pylist(), strict=True)
    return [i if counts[i] == 1 else path if row is None else f"{path}[{row}]" for i, path, row in rows_of_file]


def preprocess_rows(rows: pa.Table, folder: Path, preprocess_settings: settings.Preprocess) -> tuple[Path, Path]:
    """Preprocess recordings by the workflow's stage.

    Args:
        rows: Of `schemas.MANIFEST`.
        folder: For the files, which replace those of the call before.
        preprocess_settings: How recordings are read and cut.

    Returns:
        The files of the segments and of the records. There a recording's id is its number among the rows: files of
        several folders may have one name, but the stage tells recordings apart by their ids.

    Raises:
        EcgpipeError: Recordings cannot be read at the moment, or memory runs out.
    """
    shard, segments, records = (folder / name for name in ("shard.parquet", "segments.arrow", "records.parquet"))
    numbers = pa.array([str(number) for number in range(len(rows))], pa.string())
    parquet.write(shard, rows.set_column(0, "record_id", numbers))
    preprocess.preprocess_shard(shard, segments, records, preprocess_settings)
    return segments, records


def prepare_files(rows: pa.Table, windows: Windows, assumed: Assumed) -> Iterator[Read]:
    """Read recordings and prepare their segments, in a process of its own that may crash.

    Args:
        rows: Of `schemas.MANIFEST`.
        windows: How they are cut.
        assumed: What is assumed of files that do not state it.

    Yields:
        One for each row, in order.

    Raises:
        EcgpipeError: Recordings cannot be read at the moment, or memory runs out.
    """
    values = {name: value for name, value in windows._asdict().items() if name != "model_input"}
    preprocess_settings = settings.Preprocess(
        **values,
        model_input=dump_if_other(windows.model_input),
        assume_sample_rate=assumed.sample_rate,
        assume_leads=list(assumed.leads) if assumed.leads else None,
        assume_unit=assumed.unit,
    )
    with TemporaryDirectory(prefix="ecgpipe-") as folder:
        for first in range(0, len(rows), AT_A_TIME):
            with logs.limit(preprocess.logger, logging.ERROR):  # whoever asked is told once, of all
                segments, records = preprocess_rows(rows.slice(first, AT_A_TIME), Path(folder), preprocess_settings)
            described = pq.read_table(records, columns=["status", "reason", "n_segments"]).to_pylist()
            each = _iterate_segments(segments, len(windows.model_input.leads), windows.segment_samples)
            for record in described:
                prepared = None
                if record["status"] == "ok":
                    starts_s, samples, signals = zip(*(next(each) for _ in range(record["n_segments"])), strict=True)
                    prepared = Prepared(np.stack(signals), np.array(starts_s, np.float32), samples[0], {})
                yield Read(prepared, record["status"], record["reason"])


def _iterate_segments(path: Path, leads: int, samples: int) -> Iterator[tuple[float, int, np.ndarray]]:
    """The start, the samples of signal, and the signal (leads, samples) of each segment of a shard."""
    with pa.OSFile(str(path)) as file, pa.ipc.open_file(file) as reader:
        for number in range(reader.num_record_batches):
            batch = reader.get_batch(number)
            signals = decode_rows(batch, leads, samples)
            yield from zip(batch["start_s"].to_pylist(), batch["samples"].to_pylist(), signals, strict=True)
