"""Run the model over a few files, for a quick look: one line per recording, with its most probable labels.

It takes any format and folder that a run takes and uses the workflow's own stages, so that the numbers are the same;
nothing is kept. Recordings that cannot be used are listed with the reason. For a whole dataset, run the workflow.
"""

import argparse
import json
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from ecgpipe.api.ecgfm import ECGFM
from ecgpipe.api.files import find_recordings, preprocess_rows
from ecgpipe.api.inspect import printable
from ecgpipe.api.model_settings import for_model
from ecgpipe.api.tables import build_logits_table
from ecgpipe.core import options, provenance, schemas, settings
from ecgpipe.core.atomic import whole
from ecgpipe.core.errors import EcgpipeError
from ecgpipe.inference import aggregate, engine, non_finite_outputs, segment_files
from ecgpipe.models import registry

logger = logging.getLogger(__name__)

# Recordings that are preprocessed at a time; their segments take some 0.25 GB in a temporary folder.
AT_A_TIME = 1000

# The columns of every recording, before those of the labels.
STATUS_COLUMNS = ["record_id", "path", "status", "reason", "n_segments"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `ecgpipe predict`."""
    parser.add_argument(
        "path", nargs="+", type=os.path.expanduser, help="a file, folder, glob or table, as for the setting `input`"
    )
    options.add(
        parser,
        "checkpoint",
        type=os.path.expanduser,
        default=None,
        help="hf://OWNER/REPO@REVISION/FILE, a file or folder, or the folder checkpoint/ of a run (default: the "
        "model's own)",
    )
    options.add(
        parser,
        "labels",
        type=os.path.expanduser,
        help="label CSV, or index (default: the model's own)",
    )
    options.add(parser, "model", "model-options")
    parser.add_argument("--top", type=int, default=3, help="labels in a line of the table (default %(default)s)")
    parser.add_argument(
        "--format",
        choices=["table", "csv", "json"],
        default="table",
        help="csv and json have every label (default table)",
    )
    options.add(parser, "output", help="file to write (default: print it)")
    options.add(parser, "device")
    options.add(parser, "threads", default=provenance.count_cpus())
    settings.add_arguments(parser, settings.Preprocess)


def run(args: argparse.Namespace) -> None:
    """Predict, and print or write it."""
    preprocess_settings = settings.parse_arguments("preprocess", settings.Preprocess, args)
    recordings, unusable = find_recordings(args.path)
    for reason in unusable.values():
        logger.warning("%s", reason)
    if not len(recordings):
        raise EcgpipeError(f"input: there is no recording in {', '.join(map(repr, args.path))}; give others")
    chosen = options.read_pairs(args.model_options, "model-options")
    family = registry.find_family(args.model or registry.DEFAULT)
    ecgfm = ECGFM.from_checkpoint(
        args.checkpoint or family.require_checkpoint("--checkpoint"),
        args.labels,
        args.device,
        threads=args.threads,
        model=args.model,
        model_options=chosen,
    )
    ecgfm.need_labels()
    preprocess_settings = for_model(preprocess_settings, ecgfm.description.model_input, ecgfm.family)
    parts = []
    with TemporaryDirectory(prefix="ecgpipe-predict-") as folder:
        for first in range(0, len(recordings), AT_A_TIME):
            rows = recordings.slice(first, AT_A_TIME)
            parts.append(predict_recordings(ecgfm, rows, Path(folder), preprocess_settings))
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
    """Print, also into a pipe that is closed early, as by `head`."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # where Python writes the rest


def predict_recordings(
    ecgfm: ECGFM, rows: pa.Table, folder: Path, preprocess_settings: settings.Preprocess
) -> pd.DataFrame:
    """Preprocess some recordings and predict their labels.

    Args:
        ecgfm: With labels.
        rows: Of the manifest.
        folder: For files in between.
        preprocess_settings: How recordings are read and cut.

    Returns:
        A row for each, in order: `STATUS_COLUMNS`, then a probability per label, NaN for recordings that were not used.
    """
    own_ids = rows["record_id"]
    segments, records = preprocess_rows(rows, folder, preprocess_settings)
    status: pd.DataFrame = pq.read_table(records, columns=STATUS_COLUMNS).to_pandas()
    probabilities = _infer(ecgfm, segments, own_ids.to_pylist()).set_index("record_id").drop(columns="n_segments")
    frame: pd.DataFrame = status.join(probabilities, on="record_id")
    frame["record_id"] = own_ids.to_pandas()
    return frame


def _infer(ecgfm: ECGFM, segments: Path, own_ids: Sequence[str]) -> pd.DataFrame:
    """Predict the recordings of a shard, whose ids there are their numbers; an error names their own ids."""
    contents = segment_files.inspect_shards([segments])
    engine.check(ecgfm.description, contents)
    size = ecgfm.batch_size or engine.default_batch_size(ecgfm.device, contents.samples)
    batches = []
    for keys, results in engine.run(ecgfm.network, [segments], contents, ecgfm.device, size, with_attention=False):
        names = [f"segment {n} of {own_ids[int(i)]!r}" for i, n in zip(keys.record_ids, keys.numbers, strict=True)]
        non_finite_outputs.ensure_finite(results, None, names.__getitem__, ecgfm.description.uri)
        batches.append((keys, results))
    names = [label.name for label in ecgfm.labels]
    table = schemas.logits_schema(names).empty_table()
    if batches:
        keys = segment_files.Keys.joined([keys for keys, _ in batches])
        logits = np.concatenate([results.logits for _, results in batches])  # (segments, labels)
        table = build_logits_table(keys.record_ids, keys.numbers, keys.starts_s, logits, ecgfm.labels)
    frame: pd.DataFrame = aggregate.predict(table, ecgfm.labels).to_pandas()
    return frame


def as_table(frame: pd.DataFrame, top: int) -> str:
    """Lines to read: each recording with its most probable labels, or the reason why it has none."""
    names = frame.columns[len(STATUS_COLUMNS) :]
    values = frame[names].to_numpy()  # (recordings, labels)
    order = np.argsort(-values, axis=1, kind="stable")[:, : max(top, 1)]
    # Files of several folders may have one name.
    shown = frame["path"].where(frame["record_id"].duplicated(keep=False), frame["record_id"]).map(printable)
    width = max(shown.str.len())
    lines = []
    for name, status, reason, row, best in zip(shown, frame["status"], frame["reason"], values, order, strict=True):
        result = (
            ", ".join(f"{names[i]} {row[i]:.2f}" for i in best) if status == "ok" else printable(f"{status}: {reason}")
        )
        lines.append(f"{name:<{width}}  {result}")
    return "\n".join(lines)


def as_csv(frame: pd.DataFrame, top: int) -> str:
    """Every label, a row per recording; numbers as they are, and nothing where there are none."""
    return frame.to_csv(index=False).rstrip("\n")


def as_json(frame: pd.DataFrame, top: int) -> str:
    """A list of objects with `STATUS_COLUMNS` and `probabilities`, which is null where there are none."""
    names = list(frame.columns[len(STATUS_COLUMNS) :])
    objects: list[dict[str, Any]] = []
    for status, row in zip(frame[STATUS_COLUMNS].to_dict("records"), frame[names].to_numpy(), strict=True):
        used = status["status"] == "ok"
        probabilities = dict(zip(names, row.tolist(), strict=True)) if used else None
        reason = None if used else status["reason"]
        objects.append(
            {**{str(key): value for key, value in status.items()}, "reason": reason, "probabilities": probabilities}
        )
    return json.dumps(objects, indent=2, ensure_ascii=False)


FORMATS = {"table": as_table, "csv": as_csv, "json": as_json}
