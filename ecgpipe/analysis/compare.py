"""Two finished runs, compared: what each says of its making, their labels, embeddings and recordings."""

import json
import logging
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ecgpipe.analysis import cosine_similarity, distribution_shift, neighbors
from ecgpipe.core import parquet, provenance, recording_embeddings, schemas
from ecgpipe.core.errors import EcgpipeError
from ecgpipe.models import labels

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
    predictions = parquet.of_run(outdir, "predictions")
    side = neighbors.side(outdir)
    ids = parquet.column(predictions, "record_id")
    if not ids.equals(side.ids):
        raise EcgpipeError(
            f"RUN: {outdir / 'predictions'} and {outdir / 'embeddings'} are not of the same recordings; run the "
            "workflow to its end"
        )
    names = pq.read_schema(predictions[0]).names
    path = label_csv or Path(content["config"]["labels"])
    if label_csv or path.exists():
        thresholds = labels.thresholds_by_name(labels.read_for(path, names, predictions[0]))
    else:
        logger.warning("%s is not there any more: thresholds of %s are 0.5; or give --labels", path, outdir)
        thresholds = dict.fromkeys(labels.label_columns(names), labels.DEFAULT_THRESHOLD)
    return Run(
        outdir=outdir,
        content=content,
        predictions=predictions,
        records=parquet.of_run(outdir, "records"),
        side=side,
        origin=provenance.origin(pq.read_schema(side.embeddings[0])),
        labels=labels.label_columns(names),
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


def differences(first: Run, second: Run) -> list[dict[str, Any]]:
    """What the two runs say differently of their making.

    Args:
        first: A run.
        second: Another one.

    Returns:
        `what`, `a` and `b` of each, as texts, None where one says nothing.
    """
    said = [_facts(one) for one in (first, second)]
    names = dict.fromkeys(key for facts in said for key in facts)
    return [
        {"what": name, "a": said[0].get(name), "b": said[1].get(name)}
        for name in names
        if said[0].get(name) != said[1].get(name)
    ]


def _facts(one: Run) -> dict[str, str]:
    """What a run says of its making, flat, as texts."""
    content, origin = one.content, one.origin
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


# Recordings that the alignment of two representations is computed on, drawn at random: 60 MB of ECG-FM's embeddings.
MOST_ALIGNED = 5_000

# A change of a probability that is no more than rounding.
UNCHANGED = 1e-6

# Bars of a label's histogram.
BARS = 40

SEED = 42


def of_labels(
    both: tuple[Run, Run], joined: Joined, names: Sequence[str]
) -> tuple[list[dict[str, Any]], dict[str, list[np.ndarray]], dict[str, np.ndarray]]:
    """Compare the probabilities, label after label, so that only those of one are in memory.

    Args:
        both: Two runs.
        joined: The recordings that both have.
        names: The labels that both have.

    Returns:
        Rows of `schemas.COMPARED_LABELS`; by label, the histogram of each run as shares of its recordings; and of each
        recording that both have the largest `change`, the number of its `label`, and its value in `a` and `b`, NaN
        without one.
    """
    rows, histograms = [], {}
    most = {name: np.full(len(joined.ids), np.nan) for name in ("change", "a", "b")}
    most["label"] = np.zeros(len(joined.ids), np.int32)
    for number, name in enumerate(names):
        values = [parquet.column(one.predictions, name).to_numpy() for one in both]
        finite = [some[np.isfinite(some)] for some in values]
        if not all(map(len, finite)):
            raise EcgpipeError(f"RUN: no probability of {name!r} is a number; see {both[not len(finite[1])].outdir}")
        limits = both[0].thresholds[name], both[1].thresholds[name]
        row: dict[str, Any] = dict.fromkeys(schemas.COMPARED_LABELS.names) | {"label": name}
        for letter, some, limit in zip("ab", finite, limits, strict=True):
            row |= {
                f"threshold_{letter}": limit,
                f"mean_{letter}": some.mean(),
                f"positive_{letter}": (some >= limit).mean(),
            }
            for share, value in zip(
                distribution_shift.QUANTILES, np.quantile(some, distribution_shift.QUANTILES), strict=True
            ):
                row[f"q{round(100 * share):02d}_{letter}"] = value
        row["ks"], row["wasserstein"] = distribution_shift.apart(*finite)
        histograms[name] = [np.histogram(some, BARS, (0, 1))[0] / len(some) for some in finite]
        first, second = (some[place] for some, place in zip(values, joined.rows, strict=True))  # (recordings,)
        usable = np.isfinite(first) & np.isfinite(second)
        if usable.any():
            found = distribution_shift.paired(first[usable], second[usable], limits)
            row |= {"mean_difference": found.mean, "sd_difference": found.sd, "pearson": found.pearson}
            row |= {"spearman": found.spearman, "crossed_up": found.up, "crossed_down": found.down}
        larger = usable & ~(np.abs(second - first) <= np.abs(most["change"]))  # than none, too
        for key, column in (("change", second - first), ("a", first), ("b", second)):
            most[key][larger] = column[larger]
        most["label"][larger] = number
        rows.append(row)
    return rows, histograms, most


def of_embeddings(both: tuple[Run, Run], joined: Joined, folder: Path) -> tuple[dict[str, Any], np.ndarray | None]:
    """Compare the embeddings.

    Args:
        both: Two runs.
        joined: The recordings that both have.
        folder: Where the embeddings of the second run may lie for a while: they are not held in memory.

    Returns:
        `same_space`, whether the two are of one checkpoint; `frechet` between all recordings, and `frechet_halves`
        between two halves of the first run, where they are; `cka` and `cka_unbiased` on `cka_recordings`. And of each
        recording that both have 1 - cosine of the two embeddings, or None where they are of different checkpoints.
    """
    sides = both[0].side, both[1].side
    shas = [one.origin.get("checkpoint_sha256") for one in both]
    same = shas[0] is not None and shas[0] == shas[1] and sides[0].width == sides[1].width
    found: dict[str, Any] = {"same_space": same, "widths": [side.width for side in sides]}
    found |= dict.fromkeys(("frechet", "frechet_halves", "cka", "cka_unbiased", "cka_recordings"))
    halves = [distribution_shift.moments(np.empty((0, sides[0].width))) for _ in range(2)]
    other = distribution_shift.moments(np.empty((0, sides[1].width)))
    distances = np.full(len(joined.ids), np.nan) if same else None
    size = min(MOST_ALIGNED, len(joined.ids))
    sample = np.sort(np.random.default_rng(SEED).choice(len(joined.ids), size, replace=False))
    with tempfile.TemporaryFile(dir=folder) as file:
        held = np.memmap(file, np.float32, "w+", shape=(len(joined.ids) + 1, sides[1].width))  # none cannot be mapped
        of_row = np.full(len(sides[1].ids), len(joined.ids))  # who is in one run only shares the last place
        of_row[joined.rows[1]] = np.arange(len(joined.ids))
        done = 0
        for _, vectors in recording_embeddings.of_recordings(sides[1].embeddings):
            held[of_row[done : done + len(vectors)]] = vectors
            other = distribution_shift.merged(other, distribution_shift.moments(vectors)) if same else other
            done += len(vectors)
        aligned = [np.empty((0, sides[0].width)), held[sample].astype(np.float64)]
        picked = []
        done = 0
        for _, vectors in recording_embeddings.of_recordings(sides[0].embeddings):
            here = slice(*np.searchsorted(joined.rows[0], [done, done + len(vectors)]))
            mine = vectors[joined.rows[0][here] - done]  # of the recordings that both have
            some = slice(*np.searchsorted(sample, [here.start, here.stop]))
            picked.append(mine[sample[some] - here.start])
            if distances is not None:
                theirs = held[here].astype(np.float64)
                distances[here] = 1 - (cosine_similarity.directions(mine) * cosine_similarity.directions(theirs)).sum(
                    axis=1
                )
                for half in range(2):
                    halves[half] = distribution_shift.merged(
                        halves[half], distribution_shift.moments(vectors[(done + half) % 2 :: 2])
                    )
            done += len(vectors)
        aligned[0] = np.concatenate(picked)
        del held
    if same and min(other.n, halves[1].n) > 1:
        found["frechet"] = distribution_shift.frechet(distribution_shift.merged(*halves), other)
        found["frechet_halves"] = distribution_shift.frechet(*halves)
    if size > 1:
        found["cka"], found["cka_unbiased"] = distribution_shift.linear_cka(*aligned)
        found["cka_recordings"] = size
    return found, None if distances is None else np.clip(distances, 0, 2)


def same_signals(both: tuple[Run, Run], joined: Joined) -> pa.Array:
    """Whether recordings that both runs have are the same signal, (recordings,) bool; null where a run does not say."""
    first, second = (parquet.column_of(one.records, "signal_hash", joined.ids) for one in both)
    return pc.equal(first, second)


def changes(
    both: tuple[Run, Run],
    joined: Joined,
    most: Mapping[str, np.ndarray],
    distances: np.ndarray | None,
    signals: pa.Array,
) -> pa.Table:
    """The recordings that both runs have, as `schemas.COMPARED_RECORDINGS` has them.

    Args:
        both: Two runs.
        joined: The recordings that both have.
        most: What `of_labels` found of each.
        distances: What `of_embeddings` found.
        signals: What `same_signals` found.

    Returns:
        One row each, in the order of the first run.
    """
    common = [name for name in both[0].labels if name in both[1].labels]
    nothing = np.isnan(most["change"])
    segments = [
        parquet.column(one.predictions, "n_segments").take(pa.array(rows))
        for one, rows in zip(both, joined.rows, strict=True)
    ]
    columns = [
        joined.ids,
        pa.array(most["change"], mask=nothing),
        pa.array(common or [""], pa.string()).take(pa.array(most["label"], mask=nothing)),
        *(pa.array(most[name], mask=nothing) for name in "ab"),
        pa.nulls(len(joined.ids), pa.float64()) if distances is None else pa.array(distances),
        *segments,
        signals,
    ]
    return pa.table(columns, schema=schemas.COMPARED_RECORDINGS)


def only_in(here: Run, there: Run, name: str, rows: np.ndarray) -> pa.Table:
    """The recordings that one run has a prediction for and the other has not, as `schemas.COMPARED_ONLY` has them.

    Args:
        here: The one.
        there: The other.
        name: What the first is called.
        rows: Of the first, those that both have.

    Returns:
        One row each, in the order of the run.
    """
    mask = np.ones(len(here.side.ids), bool)
    mask[rows] = False
    ids = here.side.ids.filter(pa.array(mask))
    columns = [ids, pa.array([name] * len(ids), pa.string())]
    columns += [parquet.column_of(there.records, column, ids) for column in ("status", "reason")]
    return pa.table(columns, schema=schemas.COMPARED_ONLY)


def warnings(both: tuple[Run, Run], account: Mapping[str, Any]) -> list[str]:
    """What a reader of the comparison must know.

    Args:
        both: Two runs.
        account: What was found.

    Returns:
        A sentence each.
    """
    found = []
    counts = account["recordings"]
    for letter, one in zip("AB", both, strict=True):
        if one.content["checkpoint"]["random_weights"]:
            found.append(f"{letter} has random weights: its predictions mean nothing")
    if not account["embeddings"]["same_space"]:
        known = None not in [one.origin.get("checkpoint_sha256") for one in both]
        found.append(
            ("the checkpoints differ" if known else "a run does not say which checkpoint made it")
            + ": embeddings of two checkpoints have no axes in common, and distances between them would mean nothing; "
            "linear CKA does not depend on axes"
        )
    if counts["other_signal"]:
        found.append(
            f"{counts['other_signal']:,} of {counts['both']:,} recordings with the same id have another signal "
            "(same_signal of recordings.parquet): other files, or read otherwise"
        )
    if not counts["both"]:
        found.append("no recording is in both runs: only distributions are compared")
    if not account["labels"]["both"]:
        found.append("no label is in both runs: only embeddings are compared")
    other = [name for name in account["labels"]["both"] if both[0].thresholds[name] != both[1].thresholds[name]]
    if other:
        found.append(f"thresholds differ for {', '.join(other)}: each run is counted by its own; --labels sets both")
    return found
