"""The report without names: record ids and paths may tell who a patient is, so recordings get numbers instead."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ecgpipe import tables


def without_paths(run: dict[str, Any]) -> dict[str, Any]:
    """What run.json says, less what could name a patient: paths, and all that is made from them.

    Args:
        run: The content of run.json.

    Returns:
        The same keys. A checkpoint of the hub keeps its address.
    """
    others: Counter[str] = Counter()
    for reason, count in run["other_files"].items():
        others[general(reason).partition(", ")[0]] += count  # after the comma stands the ending of a file's name
    checkpoint = dict(run["checkpoint"])
    paths = ("input", "outdir", "labels", "calibration")
    config = {key: value for key, value in run["config"].items() if key not in paths}
    if not checkpoint["uri"].startswith("hf://"):
        checkpoint["uri"] = "a local file"
        config.pop("checkpoint", None)
    return {
        **run,
        "reasons": [{**reason, "reason": general(reason["reason"])} for reason in run["reasons"]],
        "warnings": [general(warning) for warning in run["warnings"]],
        "other_files": dict(others),
        "checkpoint": checkpoint,
        "config": config,
        # A hash of the paths: who guesses them could see that the guess is right.
        "inputs": {**run.get("inputs", {}), "sha256": None},
    }


def general(reason: str) -> str:
    """A reason without anything in brackets, nor what follows: more than `tables.kind` leaves out of a foreign text."""
    return reason.partition(" (")[0]


def called(number: int) -> str:
    """What a recording is called where ids are left out: by its row in `records/`, from 1, over all shards."""
    return f"recording {number}"


def names(records: Sequence[Path], ids: pa.Array) -> list[str]:
    """What recordings are called.

    Args:
        records: All `records/shard-*.parquet`, in order.
        ids: Record ids, each once.

    Returns:
        A name for each of `ids`.
    """
    found = np.zeros(len(ids), int)
    done = 0
    for batch in tables.batches(records, ["record_id"]):
        places = pc.index_in(batch["record_id"], ids)
        here = np.flatnonzero(places.is_valid())
        found[places.drop_null().to_numpy()] = done + here + 1
        done += batch.num_rows
    return [called(number) for number in found]
