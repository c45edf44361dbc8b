"""Two finished runs: what each says of its making, and which recordings both have."""

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ecgpipe import labels, nameless, neighbors, tables
from ecgpipe.errors import EcgpipeError

logger = logging.getLogger(__name__)


class Run(NamedTuple):
    """A finished run."""

    outdir: Path
    content: dict[str, Any]  # run.json
    predictions: list[Path]
    records: list[Path]
    side: neighbors.Side
    origin: dict[str, Any]  # what the metadata of its embeddings says
    labels: list[str]
    thresholds: dict[str, float]


class Joined(NamedTuple):
    """The recordings that two runs have, in the order of the first."""

    ids: pa.Array  # (recordings,)
    rows: tuple[np.ndarray, np.ndarray]  # of each run, (recordings,) int64


def read(outdir: Path, label_csv: Path | None) -> Run:
    """What a finished run is.

    Args:
        outdir: Its results.
        label_csv: Thresholds for it; None for those that it was run with.

    Returns:
        The run.

    Raises:
        EcgpipeError: Files are missing, or do not belong together.
    """
    if not (outdir / "run.json").is_file():
        raise EcgpipeError(f"RUN: there is no {outdir / 'run.json'}; give the folder of a finished run's results")
    content = json.loads((outdir / "run.json").read_text(encoding="utf-8"))
    predictions = tables.of_run(outdir, "predictions")
    side = neighbors.side(outdir)
    ids = tables.column(predictions, "record_id")
    if not ids.equals(side.ids):
        raise EcgpipeError(
            f"RUN: {outdir / 'predictions'} and {outdir / 'embeddings'} are not of the same recordings; run the "
            "workflow to its end"
        )
    names = pq.read_schema(predictions[0]).names
    path = label_csv or Path(content["config"]["labels"])
    if label_csv or path.exists():
        thresholds = labels.thresholds(labels.read_for(path, names, predictions[0]))
    else:
        logger.warning("%s is not there any more: thresholds of %s are 0.5; or give --labels", path, outdir)
        thresholds = dict.fromkeys(labels.columns(names), labels.DEFAULT_THRESHOLD)
    return Run(
        outdir=outdir,
        content=content,
        predictions=predictions,
        records=tables.of_run(outdir, "records"),
        side=side,
        origin=tables.origin(pq.read_schema(side.embeddings[0])),
        labels=labels.columns(names),
        thresholds=thresholds,
    )


def join(first: Run, second: Run) -> Joined:
    """Find the recordings that two runs have, by record id.

    Args:
        first: A run.
        second: Another one.

    Returns:
        Those, in the order of the first; none for two datasets.
    """
    places = pc.index_in(first.side.ids, second.side.ids)
    rows = np.flatnonzero(places.is_valid())
    return Joined(first.side.ids.take(pa.array(rows)), (rows, places.drop_null().to_numpy().astype(np.int64)))


def differences(first: Run, second: Run, paths: bool = True) -> list[dict[str, Any]]:
    """What the two runs say differently of their making.

    Args:
        first: A run.
        second: Another one.
        paths: Whether what could name a patient may be said.

    Returns:
        `what`, `a` and `b` of each, as texts, None where one says nothing.
    """
    said = [_facts(one, paths) for one in (first, second)]
    names = dict.fromkeys(key for facts in said for key in facts)
    return [
        {"what": name, "a": said[0].get(name), "b": said[1].get(name)}
        for name in names
        if said[0].get(name) != said[1].get(name)
    ]


def _facts(one: Run, paths: bool) -> dict[str, str]:
    """What a run says of its making, flat, as texts."""
    content = one.content if paths else nameless.without_paths(one.content)
    origin = one.origin if paths else nameless.only(one.origin, nameless.ORIGIN)
    kept = {key: content.get(key) for key in ("ecgpipe", "code", "checkpoint", "versions", "config")}
    kept["hardware"] = content.get("hardware", {}).get("inference")
    kept["inputs"] = {"sha256": content.get("inputs", {}).get("sha256")}
    kept["precision"] = content.get("precision", {}).get("used")
    kept["meaning"] = origin.get("meaning")
    kept["preprocess"] = origin.get("preprocess")  # of the file that was read, whatever run.json says now
    flat: dict[str, str] = {}

    def put(name: str, value: object) -> None:
        if isinstance(value, Mapping):
            for key, some in value.items():
                put(f"{name}.{key}", some)
        elif value is not None:
            flat[name] = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)

    for key, value in kept.items():
        put(key, value)
    return flat
