"""Choose the recordings that the report shows with their leads, and find what each of them is like.

A page cannot hold every trace of a dataset. What it holds is chosen by rules that it states: where the model is most
certain of a label, where it is in doubt, what lies apart on the map, what has a doubtful signal, and some at random.
"""

import argparse
import logging
from collections.abc import Mapping, Sequence
from itertools import chain, zip_longest
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import xxhash
from scipy.spatial import KDTree

from ecgpipe.analysis import neighbors
from ecgpipe.core import parquet, provenance, schemas, settings
from ecgpipe.core.schemas import FLAGS
from ecgpipe.models import labels

logger = logging.getLogger(__name__)

# Of each label, so many of the highest and of the most doubtful probabilities are candidates.
RANKS = 3

# A probability further from the threshold than this is not in doubt.
BORDERLINE = 0.1

# Of the recordings to choose, the share that each of `random`, `quality` and `outlier` has for certain.
RESERVED = 0.1

# How far apart a point of the map lies: the mean distance to so many others.
OUTLIER_NEIGHBORS = 5

# A larger map is looked at through a sample, to bound the memory.
MOST_MAP_POINTS = 1_000_000

# Neighbours of each recording in the space of the embeddings.
NEIGHBORS = 6


class Why(NamedTuple):
    """Why a recording was chosen."""

    kind: str  # strongest, borderline, outlier, quality or random
    what: str | None  # the label, or the column of the records
    rank: int  # among those of this kind, from 1


Candidate = tuple[str, Why]  # a record id, and what speaks for it


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `python -m ecgpipe examples`."""
    settings.add_arguments(parser, settings.Examples)
    parser.add_argument("--labels", type=Path, help="the label CSV, which may give thresholds")
    parser.add_argument("--records", type=Path, required=True, help="the folder records/")
    parser.add_argument("--shards", type=int, help="how many shards the run has (default: all in the folder)")
    parser.add_argument("--predictions", type=Path, required=True, help="the folder predictions/")
    parser.add_argument("--embeddings", type=Path, required=True, help="the folder embeddings/")
    parser.add_argument("--parts", type=int, help="how many parts the run has (default: all in the folder)")
    parser.add_argument("--umap", type=Path, required=True, help="umap/umap.parquet")
    parser.add_argument("--output", type=Path, required=True, help="Parquet file to write")


def run(args: argparse.Namespace) -> None:
    """Choose the recordings."""
    predictions = parquet.numbered(args.predictions, "part", args.parts)
    embeddings = parquet.numbered(args.embeddings, "part", args.parts)
    records = parquet.numbered(args.records, "shard", args.shards)
    asked = settings.of_arguments("examples", settings.Examples, args)
    label_csv = args.labels or settings.path("labels", asked.labels)
    given = labels.read_for(label_csv, pq.read_schema(predictions[0]).names, predictions[0])
    strongest, borderline = of_labels(predictions, labels.thresholds_by_name(given))
    candidates = {
        "strongest": strongest,
        "borderline": borderline,
        **of_records(records, asked.recordings),
        "outlier": outliers(args.umap, asked.recordings),
    }
    chosen = choose(candidates, asked.recordings)
    alike = neighbors.nearest(embeddings, list(chosen), NEIGHBORS)
    columns = [
        list(chosen),
        [[why._asdict() for why in reasons] for reasons in chosen.values()],
        [[neighbor._asdict() for neighbor in some] for some in alike],
    ]
    facts = settings.marked("examples", asked, provenance.inherited([pq.read_schema(path) for path in predictions]))
    parquet.write(args.output, pa.table(columns, schema=provenance.with_origin(schemas.EXAMPLES, "examples", **facts)))
    logger.info("%d recordings chosen", len(chosen))


def of_labels(predictions: Sequence[Path], thresholds: Mapping[str, float]) -> tuple[list[Candidate], list[Candidate]]:
    """For each label the recordings with the highest probability, and those nearest to the threshold.

    Args:
        predictions: All `predictions/part-*.parquet`, in order.
        thresholds: By label, in the model's order.

    Returns:
        Two lists, `strongest` and `borderline`: a record id and why. The first of each label come before the second,
        and among them the label whose probability varies most before the others.
    """
    highest, nearest = dict.fromkeys(thresholds, _NONE), dict.fromkeys(thresholds, _NONE)
    moments = {name: np.zeros(3) for name in thresholds}  # count, sum, sum of squares
    for batch in parquet.batches(predictions, ["record_id", *thresholds]):
        ids = batch["record_id"]
        for name, threshold in thresholds.items():
            values = batch[name].to_numpy()
            moments[name] += len(values), values.sum(), (values**2).sum()
            highest[name] = _least(highest[name], ids, -values, RANKS)
            nearest[name] = _least(nearest[name], ids, np.abs(values - threshold), RANKS)
    variance = {name: squares / n - (total / n) ** 2 for name, (n, total, squares) in moments.items() if n}
    names = sorted(variance, key=lambda name: -variance[name])
    near = {name: nearest[name].values <= BORDERLINE for name in names}
    doubtful = {name: _Least(*(column[near[name]] for column in nearest[name])) for name in names}
    return _in_turn("strongest", {name: highest[name] for name in names}), _in_turn("borderline", doubtful)


def of_records(records: Sequence[Path], wanted: int) -> dict[str, list[Candidate]]:
    """Recordings with a doubtful signal, and others at random.

    What is random is a checksum of the ids, so that the choice stays when recordings are added.

    Args:
        records: All `records/shard-*.parquet`, in order.
        wanted: How many of each at most.

    Returns:
        `quality` and `random`: lists of record ids and why. One of each kind of doubt comes before the second.
    """
    flagged = {name: _NONE for name in FLAGS if name != "derived_leads"}
    others = _NONE
    for batch in parquet.batches(records, ["record_id", "status", *flagged]):
        used = batch.filter(pc.equal(batch["status"], "ok"))
        ids = used["record_id"]
        order = np.array([xxhash.xxh64_intdigest(text.encode()) / 2**64 for text in ids.to_pylist()])
        others = _least(others, ids, order, wanted)
        for name, held in flagged.items():
            has = pc.fill_null(is_flagged(used[name]), fill_value=False)
            flagged[name] = _least(held, ids.filter(has), order[has.to_numpy(zero_copy_only=False)], wanted)
    return {"quality": _in_turn("quality", flagged), "random": _in_turn("random", {"": others})}


def is_flagged(column: pa.Array) -> pa.Array:
    """Where a column of `summary.FLAGS` says something: a list that is not empty, or a text."""
    return pc.greater(pc.list_value_length(column), 0) if pa.types.is_list(column.type) else column.is_valid()


def outliers(umap: Path, wanted: int) -> list[Candidate]:
    """The recordings with a segment that lies apart on the map.

    Args:
        umap: `umap/umap.parquet`.
        wanted: How many at most.

    Returns:
        Record ids and why, the remotest first.
    """
    table, _ = parquet.sample(umap, MOST_MAP_POINTS)
    places = np.stack([table["x"].to_numpy(), table["y"].to_numpy()], axis=1)  # (points, 2)
    if len(places) <= OUTLIER_NEIGHBORS + 1:
        return []
    distances, _ = KDTree(places).query(places, OUTLIER_NEIGHBORS + 1)  # (points, itself and others)
    apart = np.argsort(-distances.mean(axis=1), kind="stable")
    ids = dict.fromkeys(table["record_id"].take(apart[: 10 * wanted]).to_pylist())  # of some, several segments
    return [(record_id, Why("outlier", None, rank)) for rank, record_id in enumerate(list(ids)[:wanted], start=1)]


def choose(candidates: Mapping[str, Sequence[Candidate]], wanted: int) -> dict[str, list[Why]]:
    """Choose some of the candidates, each recording once.

    Args:
        candidates: By kind, best first: record ids and why.
        wanted: How many recordings.

    Returns:
        By record id, in the order of choice, everything that speaks for it. Each kind but the labels' has its share
        for certain; the rest goes to the labels, then to whatever there is.
    """
    share = int(RESERVED * wanted)
    others = {kind: candidates[kind] for kind in ("random", "quality", "outlier")}
    of_others = dict.fromkeys(record_id for some in others.values() for record_id, _ in some[:share])
    of_labels = sorted([*candidates["strongest"], *candidates["borderline"]], key=lambda pair: pair[1].rank)
    rest = chain(of_labels, *others.values())
    chosen = dict.fromkeys([*dict.fromkeys(record_id for record_id, _ in of_labels)][: wanted - len(of_others)])
    for record_id in chain(of_others, (record_id for record_id, _ in rest)):
        if len(chosen) < wanted:
            chosen.setdefault(record_id)
    reasons: dict[str, list[Why]] = {record_id: [] for record_id in chosen}
    for record_id, why in chain(*candidates.values()):
        if record_id in reasons:
            reasons[record_id].append(why)
    return reasons


class _Least(NamedTuple):
    """The recordings with the least values so far, the least first; of equal ones, those that came first."""

    ids: np.ndarray
    values: np.ndarray

    @property
    def ranked(self) -> list[tuple[int, str]]:
        """Rank, from 1, and id of each."""
        return list(enumerate(self.ids.tolist(), start=1))


_NONE = _Least(np.empty(0, object), np.empty(0))


def _least(held: _Least, ids: pa.Array, values: np.ndarray, count: int) -> _Least:
    """The least `count` of those held and of some more."""
    if len(values) > count:
        first = np.sort(np.argpartition(values, count)[:count])
        ids, values = ids.take(pa.array(first)), values[first]
    values = np.concatenate([held.values, values])
    order = np.argsort(values, kind="stable")[:count]
    return _Least(np.concatenate([held.ids, np.array(ids.to_pylist(), object)])[order], values[order])


def _in_turn(kind: str, by: Mapping[str, _Least]) -> list[Candidate]:
    """The first of each, then the second of each, and so on."""
    ranked = (
        [(record_id, Why(kind, what or None, rank)) for rank, record_id in least.ranked] for what, least in by.items()
    )
    return [pair for pairs in zip_longest(*ranked) for pair in pairs if pair]
