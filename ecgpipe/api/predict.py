"""Run the model over a few files, for a quick look: one line per recording, with its most probable labels.

Any format and folder that a run takes, with the workflow's own stages and so its numbers; nothing is kept. What cannot
be used is said, with the reason, and the rest goes on. For a whole dataset run the workflow.
"""

import argparse
import json
import logging
import os
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ecgpipe.api.ecgfm import ECGFM, logits_table
from ecgpipe.api.inspect import printable
from ecgpipe.core import parquet, provenance, schemas, settings
from ecgpipe.core.atomic import whole
from ecgpipe.core.config import Config
from ecgpipe.core.errors import EcgpipeError
from ecgpipe.inference import aggregate, engine, finite, segment_files
from ecgpipe.inputs import manifest
from ecgpipe.preprocessing import preprocess

logger = logging.getLogger(__name__)

# Recordings that are prepared at a time; their segments lie in a temporary folder, some 0.25 GB.
AT_A_TIME = 1000

# What is known of every recording, before the columns of the labels.
ACCOUNT = ["record_id", "path", "status", "reason", "n_segments"]

# Parts of a WFDB record, which a shell's * gives beside its header.
WFDB_SIGNALS = (".dat", ".mat")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `python -m ecgpipe predict`."""
    parser.add_argument(
        "path", nargs="+", type=os.path.expanduser, help="a file, folder, glob or table, as for the setting `input`"
    )
    parser.add_argument(
        "--checkpoint",
        type=os.path.expanduser,
        default=Config.model_fields["checkpoint"].default,
        help="hf://OWNER/REPO@REVISION/FILE, a .pt file, or the folder checkpoint/ of a run (default %(default)s)",
    )
    parser.add_argument(
        "--labels",
        type=os.path.expanduser,
        help="label CSV, or index (default: the 17 of MIMIC-IV-ECG where there are as many)",
    )
    parser.add_argument("--top", type=int, default=3, help="labels in a line of the table (default %(default)s)")
    parser.add_argument(
        "--format",
        choices=["table", "csv", "json"],
        default="table",
        help="csv and json have every label (default table)",
    )
    parser.add_argument("--output", type=Path, help="file to write (default: print it)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (default %(default)s)")
    parser.add_argument("--threads", type=int, default=provenance.cpus(), help="CPU threads (default %(default)s)")
    settings.add_arguments(parser, settings.Preprocess)


def run(args: argparse.Namespace) -> None:
    """Predict, and print or write it."""
    preprocess_settings = settings.of_arguments("preprocess", settings.Preprocess, args)
    found = find(args.path)
    if not len(found):
        raise EcgpipeError(f"input: there is no recording in {', '.join(map(repr, args.path))}; give others")
    ecgfm = ECGFM.from_checkpoint(args.checkpoint, args.labels, args.device, threads=args.threads)
    ecgfm.need_labels()
    parts = []
    with TemporaryDirectory(prefix="ecgpipe-predict-") as folder:
        for first in range(0, len(found), AT_A_TIME):
            parts.append(predicted(ecgfm, found.slice(first, AT_A_TIME), Path(folder), preprocess_settings))
    frame = pd.concat(parts, ignore_index=True)
    text = FORMATS[args.format](frame, args.top)
    if args.output:
        with whole(args.output) as temporary:
            temporary.write_text(text + "\n", encoding="utf-8")
    else:
        _print(text)
    if not (frame["status"] == "ok").any():
        raise EcgpipeError(f"input: not one of {len(frame):,} recordings could be used, as said above; give others")


def _print(text: str) -> None:
    """Print, also into a pipe whose other end has seen enough, as `head` has."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what Python still has


def find(given: Sequence[str]) -> pa.Table:
    """The recordings under what was given, each once, with a line in the log for what is none.

    Args:
        given: Files, folders, globs and tables.

    Returns:
        Rows of `schemas.MANIFEST`, in the order of what was given.
    """
    parts = [schemas.MANIFEST.empty_table()]
    headers = {path.removesuffix(".hea") for path in given if path.endswith(".hea")}
    for text in given:
        stem, ending = os.path.splitext(text)  # noqa: PTH122, of a text that may be no path
        if ending in WFDB_SIGNALS and stem in headers:
            continue
        try:
            scanned = manifest.scan([text])
        except EcgpipeError as error:
            logger.warning("%s", error)
            continue
        parts.append(scanned.recordings.select(schemas.MANIFEST.names))
        ignored = scanned.files.filter(pc.equal(scanned.files["role"], "ignored"))["reason"].to_pylist()
        if ignored and not len(scanned.recordings):
            logger.warning("%s: %s", text, "; ".join(dict.fromkeys(ignored[:5])))
        elif ignored:
            kinds = Counter(map(schemas.kind, ignored)).most_common()
            logger.info("%s: ignored %s", text, ", ".join(f"{count} {kind}" for kind, count in kinds))
    found = pa.concat_tables(parts)
    keys = pd.DataFrame({name: found[name].to_pandas() for name in ("path", "row")})
    return found.filter(pa.array(~keys.duplicated().to_numpy()))


def predicted(ecgfm: ECGFM, rows: pa.Table, folder: Path, preprocess_settings: settings.Preprocess) -> pd.DataFrame:
    """What became of some recordings, and their labels.

    Args:
        ecgfm: With labels.
        rows: Of the manifest.
        folder: For files in between.
        preprocess_settings: How recordings are read and cut.

    Returns:
        A row for each, in order: `ACCOUNT`, then a probability per label, NaN where the recording could not be used.
    """
    shard, segments, records = (folder / name for name in ("shard.parquet", "segments.arrow", "records.parquet"))
    # Files of several folders may have one name, and a recording is told from the next by its id.
    own_ids = rows["record_id"]
    numbers = pa.array([str(number) for number in range(len(rows))], pa.string())
    parquet.write(shard, rows.set_column(0, "record_id", numbers))
    preprocess.preprocess_shard(shard, segments, records, preprocess_settings)
    account: pd.DataFrame = pq.read_table(records, columns=ACCOUNT).to_pandas()
    probabilities = _infer(ecgfm, segments, own_ids.to_pylist()).set_index("record_id").drop(columns="n_segments")
    frame: pd.DataFrame = account.join(probabilities, on="record_id")
    frame["record_id"] = own_ids.to_pandas()
    return frame


def _infer(ecgfm: ECGFM, segments: Path, own_ids: Sequence[str]) -> pd.DataFrame:
    """The predictions of the recordings in a shard, whose ids there are their numbers; an error says their own."""
    contents = segment_files.look_at([segments])
    engine.check(ecgfm.description, contents)
    size = ecgfm.batch_size or engine.default_batch_size(ecgfm.device, contents.samples)
    batches = []
    for keys, results in engine.run(ecgfm.network, [segments], contents, ecgfm.device, size, with_attention=False):
        names = [f"segment {n} of {own_ids[int(i)]!r}" for i, n in zip(keys.record_ids, keys.numbers, strict=True)]
        finite.settled(results, None, names.__getitem__, ecgfm.description.uri)
        batches.append((keys, results))
    names = [label.name for label in ecgfm.labels]
    table = schemas.logits_schema(names).empty_table()
    if batches:
        keys = segment_files.Keys.joined([keys for keys, _ in batches])
        logits = np.concatenate([results.logits for _, results in batches])  # (segments, labels)
        table = logits_table(keys.record_ids, keys.numbers, keys.starts_s, logits, ecgfm.labels)
    frame: pd.DataFrame = aggregate.predict(table, ecgfm.labels).to_pandas()
    return frame


def as_table(frame: pd.DataFrame, top: int) -> str:
    """Lines for people: each recording with its most probable labels, or why it has none."""
    names = frame.columns[len(ACCOUNT) :]
    values = frame[names].to_numpy()  # (recordings, labels)
    order = np.argsort(-values, axis=1, kind="stable")[:, : max(top, 1)]
    # Files of several folders may have one name.
    shown = frame["path"].where(frame["record_id"].duplicated(keep=False), frame["record_id"]).map(printable)
    width = max(shown.str.len())
    lines = []
    for name, status, reason, row, best in zip(shown, frame["status"], frame["reason"], values, order, strict=True):
        said = (
            ", ".join(f"{names[i]} {row[i]:.2f}" for i in best) if status == "ok" else printable(f"{status}: {reason}")
        )
        lines.append(f"{name:<{width}}  {said}")
    return "\n".join(lines)


def as_csv(frame: pd.DataFrame, top: int) -> str:
    """Every label, a row per recording; numbers as they are, and nothing where there are none."""
    return frame.to_csv(index=False).rstrip("\n")


def as_json(frame: pd.DataFrame, top: int) -> str:
    """A list of objects with `ACCOUNT` and `probabilities`, which is null where there are none."""
    names = list(frame.columns[len(ACCOUNT) :])
    found: list[dict[str, Any]] = []
    for account, row in zip(frame[ACCOUNT].to_dict("records"), frame[names].to_numpy(), strict=True):
        used = account["status"] == "ok"
        probabilities = dict(zip(names, row.tolist(), strict=True)) if used else None
        reason = None if used else account["reason"]
        found.append(
            {**{str(key): value for key, value in account.items()}, "reason": reason, "probabilities": probabilities}
        )
    return json.dumps(found, indent=2, ensure_ascii=False)


FORMATS = {"table": as_table, "csv": as_csv, "json": as_json}
