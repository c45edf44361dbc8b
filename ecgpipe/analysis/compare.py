"""Compare two finished runs: how they were made, their labels, embeddings and recordings."""

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

from ecgpipe.analysis import cosine_similarity, distribution_shift, neighbor_search
from ecgpipe.core import parquet, provenance, recording_embeddings, schemas
from ecgpipe.core.errors import EcgpipeError
from ecgpipe.core.run import Run, RunInfo
from ecgpipe.models import labels
from ecgpipe.models.description import DEMO_MODEL

logger = logging.getLogger(__name__)


class ComparedRun(NamedTuple):
    """A finished run, as far as it is compared."""

    outdir: Path
    info: RunInfo
    paths: bool  # whether its recordings and files may be named in a page: its setting `report.paths`
    predictions: list[Path]
    records: list[Path]
    side: neighbor_search.Side
    origin: dict[str, Any]  # what the metadata of its embeddings says
    labels: list[str]
    thresholds: dict[str, float]


class Joined(NamedTuple):
    """The recordings that two runs have, in the order of the first."""

    ids: pa.Array  # (recordings,)
    rows: tuple[np.ndarray, np.ndarray]  # of each run, (recordings,) int64


def read_run(run: Run, label_csv: Path | None) -> ComparedRun:
    """Read what is compared of a finished run.

    Args:
        run: The run.
        label_csv: Decision thresholds for it; None for the thresholds of the run's own label CSV.

    Returns:
        What was read.

    Raises:
        EcgpipeError: Files are missing, or do not belong together.
    """
    info = run.info
    predictions = run.files("predictions")
    side = neighbor_search.read_side(run)
    ids = parquet.column(predictions, "record_id")
    if not ids.equals(side.ids):
        raise EcgpipeError(
            f"RUN: {run.outdir / 'predictions'} and {run.outdir / 'embeddings'} are not of the same recordings; "
            "run the workflow to its end"
        )
    names = pq.read_schema(predictions[0]).names
    path = label_csv or labels.locate_of_run(run)
    if label_csv or path.exists():
        thresholds = labels.thresholds_by_name(labels.read_for(path, names, predictions[0]))
    else:
        logger.warning("%s is not there any more: thresholds of %s are 0.5; or give --labels", path, run.outdir)
        thresholds = dict.fromkeys(labels.label_columns(names), labels.DEFAULT_THRESHOLD)
    return ComparedRun(
        outdir=run.outdir,
        info=info,
        paths=run.config.report.paths,
        predictions=predictions,
        records=run.files("records"),
        side=side,
        origin=provenance.read_origin(pq.read_schema(side.embeddings[0])),
        labels=labels.label_columns(names),
        thresholds=thresholds,
    )


def join(first: ComparedRun, second: ComparedRun) -> Joined:
    """Find the recordings that both runs have, by record id.

    Args:
        first: A run.
        second: Another one.

    Returns:
        The recordings, in the order of the first run; none for two datasets.
    """
    places = pc.index_in(first.side.ids, second.side.ids)
    rows = np.flatnonzero(places.is_valid())
    return Joined(first.side.ids.take(pa.array(rows)), (rows, places.drop_null().to_numpy().astype(np.int64)))


def list_differences(first: ComparedRun, second: ComparedRun) -> list[dict[str, Any]]:
    """List how the making of two runs differs.

    Args:
        first: A run.
        second: Another one.

    Returns:
        `what`, `a` and `b` of each difference, as texts; None if a run does not say it.
    """
    facts = [_flatten_facts(run) for run in (first, second)]
    names = dict.fromkeys(key for run_facts in facts for key in run_facts)
    return [
        {"what": name, "a": facts[0].get(name), "b": facts[1].get(name)}
        for name in names
        if facts[0].get(name) != facts[1].get(name)
    ]


def _flatten_facts(run: ComparedRun) -> dict[str, str]:
    """What a run says of its making, flat, as texts."""
    content = run.info.model_dump(mode="json", exclude_unset=True)
    compared = {key: content.get(key) for key in ("ecgpipe", "code", "checkpoint", "versions", "config")}
    compared["hardware"] = list(run.info.hardware.inference)
    compared["inputs"] = {"sha256": run.info.inputs.sha256}
    compared["precision"] = content["precision"]["used"]
    compared["meaning"] = run.origin.get("meaning")
    compared["preprocess"] = run.origin.get("preprocess")  # of the file that was read, whatever run.json says now
    flat: dict[str, str] = {}

    def put(name: str, value: object) -> None:
        if isinstance(value, Mapping):
            for key, inner in value.items():
                put(f"{name}.{key}", inner)
        elif value is not None:
            flat[name] = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)

    for key, value in compared.items():
        put(key, value)
    return flat


# Recordings that the alignment of two representations is computed on, drawn at random: 60 MB of ECG-FM's embeddings.
MOST_ALIGNED = 5_000

# A change of a probability that is no more than rounding.
UNCHANGED = 1e-6

# Bars of a label's histogram.
BARS = 40

SEED = 42


def compare_labels(
    both: tuple[ComparedRun, ComparedRun], joined: Joined, names: Sequence[str]
) -> tuple[list[dict[str, Any]], dict[str, list[np.ndarray]], dict[str, np.ndarray]]:
    """Compare the probabilities, label after label, so that only those of one label are in memory.

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
        values = [parquet.column(run.predictions, name).to_numpy() for run in both]
        finite = [values_of_run[np.isfinite(values_of_run)] for values_of_run in values]
        if not all(map(len, finite)):
            raise EcgpipeError(f"RUN: no probability of {name!r} is a number; see {both[not len(finite[1])].outdir}")
        limits = both[0].thresholds[name], both[1].thresholds[name]
        row: dict[str, Any] = dict.fromkeys(schemas.COMPARED_LABELS.names) | {"label": name}
        for letter, values_of_run, limit in zip("ab", finite, limits, strict=True):
            row |= {
                f"threshold_{letter}": limit,
                f"mean_{letter}": values_of_run.mean(),
                f"positive_{letter}": (values_of_run >= limit).mean(),
            }
            for share, value in zip(
                distribution_shift.QUANTILES, np.quantile(values_of_run, distribution_shift.QUANTILES), strict=True
            ):
                row[f"q{round(100 * share):02d}_{letter}"] = value
        row["ks"], row["wasserstein"] = distribution_shift.compare_distributions(*finite)
        histograms[name] = [
            np.histogram(values_of_run, BARS, (0, 1))[0] / len(values_of_run) for values_of_run in finite
        ]
        first, second = (
            values_of_run[place] for values_of_run, place in zip(values, joined.rows, strict=True)
        )  # (recordings,)
        usable = np.isfinite(first) & np.isfinite(second)
        if usable.any():
            pairs = distribution_shift.compare_pairs(first[usable], second[usable], limits)
            row |= {"mean_difference": pairs.mean, "sd_difference": pairs.sd, "pearson": pairs.pearson}
            row |= {"spearman": pairs.spearman, "crossed_up": pairs.up, "crossed_down": pairs.down}
        larger = usable & ~(np.abs(second - first) <= np.abs(most["change"]))  # than none, too
        for key, column in (("change", second - first), ("a", first), ("b", second)):
            most[key][larger] = column[larger]
        most["label"][larger] = number
        rows.append(row)
    return rows, histograms, most


def compare_embeddings(
    both: tuple[ComparedRun, ComparedRun], joined: Joined, folder: Path
) -> tuple[dict[str, Any], np.ndarray | None]:
    """Compare the embeddings.

    Args:
        both: Two runs.
        joined: The recordings that both have.
        folder: Where the embeddings of the second run may lie for a while: they are not held in memory.

    Returns:
        `same_space`, whether the two are of one checkpoint; `frechet` between all recordings, and `frechet_halves`
        between two halves of the first run, if they are; `cka` and `cka_unbiased` on `cka_recordings`. And of each
        recording that both have 1 - cosine of the two embeddings, or None if they are of different checkpoints.
    """
    sides = both[0].side, both[1].side
    shas = [run.origin.get("checkpoint_sha256") for run in both]
    is_same_space = shas[0] is not None and shas[0] == shas[1] and sides[0].width == sides[1].width
    spaces: dict[str, Any] = {"same_space": is_same_space, "widths": [side.width for side in sides]}
    spaces |= dict.fromkeys(("frechet", "frechet_halves", "cka", "cka_unbiased", "cka_recordings"))
    halves = [distribution_shift.compute_moments(np.empty((0, sides[0].width))) for _ in range(2)]
    other = distribution_shift.compute_moments(np.empty((0, sides[1].width)))
    distances = np.full(len(joined.ids), np.nan) if is_same_space else None
    size = min(MOST_ALIGNED, len(joined.ids))
    sample = np.sort(np.random.default_rng(SEED).choice(len(joined.ids), size, replace=False))
    with tempfile.TemporaryFile(dir=folder) as file:
        held = np.memmap(file, np.float32, "w+", shape=(len(joined.ids) + 1, sides[1].width))  # none cannot be mapped
        of_row = np.full(len(sides[1].ids), len(joined.ids))  # who is in one run only shares the last place
        of_row[joined.rows[1]] = np.arange(len(joined.ids))
        done = 0
        for _, vectors in recording_embeddings.read_means(sides[1].embeddings):
            held[of_row[done : done + len(vectors)]] = vectors
            other = (
                distribution_shift.merge_moments(other, distribution_shift.compute_moments(vectors))
                if is_same_space
                else other
            )
            done += len(vectors)
        aligned = [np.empty((0, sides[0].width)), held[sample].astype(np.float64)]
        picked = []
        done = 0
        for _, vectors in recording_embeddings.read_means(sides[0].embeddings):
            here = slice(*np.searchsorted(joined.rows[0], [done, done + len(vectors)]))
            mine = vectors[joined.rows[0][here] - done]  # of the recordings that both have
            in_sample = slice(*np.searchsorted(sample, [here.start, here.stop]))
            picked.append(mine[sample[in_sample] - here.start])
            if distances is not None:
                theirs = held[here].astype(np.float64)
                distances[here] = 1 - (cosine_similarity.normalise(mine) * cosine_similarity.normalise(theirs)).sum(
                    axis=1
                )
                for half in range(2):
                    halves[half] = distribution_shift.merge_moments(
                        halves[half], distribution_shift.compute_moments(vectors[(done + half) % 2 :: 2])
                    )
            done += len(vectors)
        aligned[0] = np.concatenate(picked)
        del held
    if is_same_space and min(other.n, halves[1].n) > 1:
        spaces["frechet"] = distribution_shift.compute_frechet(distribution_shift.merge_moments(*halves), other)
        spaces["frechet_halves"] = distribution_shift.compute_frechet(*halves)
    if size > 1:
        spaces["cka"], spaces["cka_unbiased"] = distribution_shift.compute_linear_cka(*aligned)
        spaces["cka_recordings"] = size
    return spaces, None if distances is None else np.clip(distances, 0, 2)


def compare_signals(both: tuple[ComparedRun, ComparedRun], joined: Joined) -> pa.Array:
    """Tell which recordings have the same signal in both runs, (recordings,) bool; null if a run does not say."""
    first, second = (parquet.column_of(run.records, "signal_hash", joined.ids) for run in both)
    return pc.equal(first, second)


def make_changes_table(
    both: tuple[ComparedRun, ComparedRun],
    joined: Joined,
    most: Mapping[str, np.ndarray],
    distances: np.ndarray | None,
    signals: pa.Array,
) -> pa.Table:
    """Make the table of the recordings that both runs have, `schemas.COMPARED_RECORDINGS`.

    Args:
        both: Two runs.
        joined: The recordings that both have.
        most: What `compare_labels` found of each.
        distances: What `compare_embeddings` found.
        signals: What `compare_signals` found.

    Returns:
        One row each, in the order of the first run.
    """
    common = [name for name in both[0].labels if name in both[1].labels]
    undefined = np.isnan(most["change"])
    segments = [
        parquet.column(run.predictions, "n_segments").take(pa.array(rows))
        for run, rows in zip(both, joined.rows, strict=True)
    ]
    columns = [
        joined.ids,
        pa.array(most["change"], mask=undefined),
        pa.array(common or [""], pa.string()).take(pa.array(most["label"], mask=undefined)),
        *(pa.array(most[name], mask=undefined) for name in "ab"),
        pa.nulls(len(joined.ids), pa.float64()) if distances is None else pa.array(distances),
        *segments,
        signals,
    ]
    return pa.table(columns, schema=schemas.COMPARED_RECORDINGS)


def find_only_in(here: ComparedRun, there: ComparedRun, name: str, rows: np.ndarray) -> pa.Table:
    """Find the recordings that only one of two runs has a prediction for, as `schemas.COMPARED_ONLY`.

    Args:
        here: The run with the predictions.
        there: The other run.
        name: Of the first run.
        rows: Of the first run, the recordings that both have.

    Returns:
        One row each, in the order of the run.
    """
    mask = np.ones(len(here.side.ids), bool)
    mask[rows] = False
    ids = here.side.ids.filter(pa.array(mask))
    columns = [ids, pa.array([name] * len(ids), pa.string())]
    columns += [parquet.column_of(there.records, column, ids) for column in ("status", "reason")]
    return pa.table(columns, schema=schemas.COMPARED_ONLY)


def list_warnings(both: tuple[ComparedRun, ComparedRun], comparison: Mapping[str, Any]) -> list[str]:
    """List what a reader of the comparison must know.

    Args:
        both: Two runs.
        comparison: The content of compare.json, so far.

    Returns:
        A sentence each.
    """
    messages = []
    counts = comparison["recordings"]
    for letter, run in zip("AB", both, strict=True):
        if run.info.checkpoint.random_weights:
            messages.append(f"{letter} has random weights: its predictions mean nothing")
        if run.info.checkpoint.demo_model:
            messages.append(f"{letter}: {DEMO_MODEL}")
    if not comparison["embeddings"]["same_space"]:
        has_checkpoints = None not in [run.origin.get("checkpoint_sha256") for run in both]
        messages.append(
            ("the checkpoints differ" if has_checkpoints else "a run does not say which checkpoint made it")
            + ": embeddings of two checkpoints have no axes in common, and distances between them would mean nothing; "
            "linear CKA does not depend on axes"
        )
    if counts["other_signal"]:
        messages.append(
            f"{counts['other_signal']:,} of {counts['both']:,} recordings with the same id have another signal "
            "(same_signal of recordings.parquet): other files, or read otherwise"
        )
    if not counts["both"]:
        messages.append("no recording is in both runs: only distributions are compared")
    if not comparison["labels"]["both"]:
        messages.append("no label is in both runs: only embeddings are compared")
    differing = [name for name in comparison["labels"]["both"] if both[0].thresholds[name] != both[1].thresholds[name]]
    if differing:
        messages.append(
            f"thresholds differ for {', '.join(differing)}: each run is counted by its own; --labels sets both"
        )
    return messages
