"""Choose the recordings that the report shows with their leads, and find the most similar recordings of each.

A page cannot hold every trace of a dataset. It states the rules by which it chooses: the highest probabilities of each
label, those nearest to the decision threshold, the most wrong ones where true labels are known, UMAP outliers,
recordings of low signal quality, and some at random.
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

from ecgpipe.analysis import neighbor_search
from ecgpipe.core import options, parquet, provenance, schemas, settings
from ecgpipe.core.schemas import FLAGS
from ecgpipe.models import labels

logger = logging.getLogger(__name__)

# Candidates of each label: the highest probabilities, and the nearest to the threshold.
RANKS = 3

# A probability further from the threshold than this is not borderline.
BORDERLINE = 0.1

# Of the recordings to choose, the share reserved for each of `random`, `quality` and `outlier`.
RESERVED = 0.1

# A UMAP outlier has a large mean distance to its nearest neighbours on the map, of this number.
OUTLIER_NEIGHBORS = 5

# Of a larger map a sample is used, to bound the memory.
MOST_MAP_POINTS = 1_000_000

# Neighbours of each recording in the space of the embeddings.
NEIGHBORS = 6


class Why(NamedTuple):
    """Why a recording was chosen."""

    kind: str  # strongest, borderline, false_positive, false_negative, outlier, quality or random
    what: str | None  # the label, or the column of the records
    rank: int  # among those of this kind, from 1


Candidate = tuple[str, Why]  # a record id, and why it could be chosen


class Files(NamedTuple):
    """What recordings are chosen from. The fields are the options of the command."""

    labels: Path | None  # the label CSV; None for that of the settings
    records: Path  # the folder
    shards: int | None
    predictions: Path  # the folder
    embeddings: Path  # the folder
    parts: int | None
    umap: Path  # umap/umap.parquet
    true_labels: Path | None = None  # evaluation/true_labels.parquet, if the run was evaluated


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `ecgpipe examples`."""
    settings.add_arguments(parser, settings.Examples)
    options.add(parser, "labels", help="the label CSV, which may give decision thresholds")
    options.add(parser, "records", required=True)
    options.add(parser, "shards")
    options.add(parser, "predictions", "embeddings", required=True)
    options.add(parser, "parts")
    options.add(parser, "umap", required=True)
    options.add(parser, "true-labels", help="evaluation/true_labels.parquet, if the run was evaluated")
    options.add(parser, "output", required=True, help="Parquet file to write")


def run(args: argparse.Namespace) -> None:
    """Choose the recordings."""
    files = Files(*(getattr(args, name) for name in Files._fields))
    write_examples(files, settings.parse_arguments("examples", settings.Examples, args), args.output)


def write_examples(files: Files, examples_settings: settings.Examples, output: Path) -> None:
    """Choose the recordings that the report shows, and write them.

    Args:
        files: What they are chosen from.
        examples_settings: How many are chosen, and by which thresholds.
        output: The Parquet file.

    Raises:
        EcgpipeError: A file is missing, or not valid.
    """
    predictions = parquet.numbered(files.predictions, "part", files.parts)
    embeddings = parquet.numbered(files.embeddings, "part", files.parts)
    records = parquet.numbered(files.records, "shard", files.shards)
    label_csv = files.labels or settings.require_path("labels", examples_settings.labels)
    run_labels = labels.read_for(label_csv, pq.read_schema(predictions[0]).names, predictions[0])
    wanted = examples_settings.recordings
    thresholds = labels.thresholds_by_name(run_labels)
    strongest, borderline = rank_by_probability(predictions, thresholds)
    candidates = {
        "strongest": strongest,
        "borderline": borderline,
        **(rank_wrong(predictions, files.true_labels, thresholds) if files.true_labels else {}),
        **rank_records(records, wanted),
        "outlier": find_outliers(files.umap, wanted),
    }
    chosen = choose(candidates, wanted)
    nearest = neighbor_search.find_nearest(embeddings, list(chosen), NEIGHBORS)
    columns = [
        list(chosen),
        [[why._asdict() for why in reasons] for reasons in chosen.values()],
        [[neighbor._asdict() for neighbor in of_recording] for of_recording in nearest],
    ]
    inherited = provenance.inherit_facts([pq.read_schema(path) for path in predictions])
    facts = settings.add_sha256("examples", examples_settings, inherited)
    if files.true_labels:
        # With another evaluation or none, other recordings are wrong predictions.
        evaluated = provenance.read_origin(pq.read_schema(files.true_labels))
        facts[settings.KEY] = {**evaluated.get(settings.KEY, {}), **facts[settings.KEY]}
    parquet.write(output, pa.table(columns, schema=provenance.add_origin(schemas.EXAMPLES, "examples", **facts)))
    logger.info("%d recordings chosen", len(chosen))


def rank_by_probability(
    predictions: Sequence[Path], thresholds: Mapping[str, float]
) -> tuple[list[Candidate], list[Candidate]]:
    """Rank for each label the recordings with the highest probability, and those nearest to the threshold.

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
            highest[name] = _keep_least(highest[name], ids, -values, RANKS)
            nearest[name] = _keep_least(nearest[name], ids, np.abs(values - threshold), RANKS)
    variance = {name: squares / n - (total / n) ** 2 for name, (n, total, squares) in moments.items() if n}
    names = sorted(variance, key=lambda name: -variance[name])
    is_near = {name: nearest[name].values <= BORDERLINE for name in names}
    doubtful = {name: _Least(*(column[is_near[name]] for column in nearest[name])) for name in names}
    return _interleave("strongest", {name: highest[name] for name in names}), _interleave("borderline", doubtful)


def rank_wrong(
    predictions: Sequence[Path], true_labels: Path, thresholds: Mapping[str, float]
) -> dict[str, list[Candidate]]:
    """Rank for each label the evaluated recordings whose prediction is most wrong.

    Args:
        predictions: All `predictions/part-*.parquet`, in order.
        true_labels: `evaluation/true_labels.parquet`.
        thresholds: By label, in the model's order.

    Returns:
        `false_positive`, the highest probabilities without the label, and `false_negative`, the lowest with it: lists
        of record ids and why, of the first rank of all labels first.
    """
    truth = pq.read_table(true_labels)
    truth = truth.filter(truth["is_evaluated"]).combine_chunks()
    names = [name for name in thresholds if name in truth.column_names]
    wrong = {kind: dict.fromkeys(names, _NONE) for kind in ("false_positive", "false_negative")}
    for batch in parquet.batches(predictions, ["record_id", *names]):
        place = pc.index_in(batch["record_id"], truth["record_id"].combine_chunks())
        for name in names:
            has_label = truth[name].combine_chunks().take(place).to_numpy(zero_copy_only=False)  # None: unknown
            values = batch[name].to_numpy()
            is_positive = values >= thresholds[name]
            for kind, rows, order in (
                ("false_positive", (has_label == False) & is_positive, -values),  # noqa: E712, of objects
                ("false_negative", (has_label == True) & ~is_positive, values),  # noqa: E712
            ):
                ids = batch["record_id"].filter(pa.array(rows.astype(bool)))
                wrong[kind][name] = _keep_least(wrong[kind][name], ids, order[rows.astype(bool)], RANKS)
    return {kind: _interleave(kind, of_labels) for kind, of_labels in wrong.items()}


def rank_records(records: Sequence[Path], wanted: int) -> dict[str, list[Candidate]]:
    """Rank recordings of low signal quality, and others at random.

    The random order is a checksum of the ids, so that the choice stays when recordings are added.

    Args:
        records: All `records/shard-*.parquet`, in order.
        wanted: Number of recordings of each at most.

    Returns:
        `quality` and `random`: lists of record ids and why. The first recording with each flag comes before the second
        with any.
    """
    flagged = {name: _NONE for name in FLAGS if name != "derived_leads"}
    others = _NONE
    for batch in parquet.batches(records, ["record_id", "status", *flagged]):
        used = batch.filter(pc.equal(batch["status"], "ok"))
        ids = used["record_id"]
        order = np.array([xxhash.xxh64_intdigest(text.encode()) / 2**64 for text in ids.to_pylist()])
        others = _keep_least(others, ids, order, wanted)
        for name, held in flagged.items():
            has = pc.fill_null(is_flagged(used[name]), fill_value=False)
            flagged[name] = _keep_least(held, ids.filter(has), order[has.to_numpy(zero_copy_only=False)], wanted)
    return {"quality": _interleave("quality", flagged), "random": _interleave("random", {"": others})}


def is_flagged(column: pa.Array) -> pa.Array:
    """Tell where a column of `schemas.FLAGS` says something: a list that is not empty, or a text."""
    return pc.greater(pc.list_value_length(column), 0) if pa.types.is_list(column.type) else column.is_valid()


def find_outliers(umap: Path, wanted: int) -> list[Candidate]:
    """Find the recordings with a segment that is a UMAP outlier.

    Args:
        umap: `umap/umap.parquet`.
        wanted: Number of recordings at most.

    Returns:
        Record ids and why, the remotest first.
    """
    from scipy.spatial import KDTree  # here, as the report, which needs other names of this module, would wait for it

    table, _ = parquet.sample(umap, MOST_MAP_POINTS)
    places = np.stack([table["x"].to_numpy(), table["y"].to_numpy()], axis=1)  # (points, 2)
    if len(places) <= OUTLIER_NEIGHBORS + 1:
        return []
    distances, _ = KDTree(places).query(places, OUTLIER_NEIGHBORS + 1)  # (points, itself and others)
    order = np.argsort(-distances.mean(axis=1), kind="stable")
    ids = dict.fromkeys(table["record_id"].take(order[: 10 * wanted]).to_pylist())  # of some, several segments
    return [(record_id, Why("outlier", None, rank)) for rank, record_id in enumerate(list(ids)[:wanted], start=1)]


def choose(candidates: Mapping[str, Sequence[Candidate]], wanted: int) -> dict[str, list[Why]]:
    """Choose some of the candidates, each recording once.

    Args:
        candidates: By kind, best first: record ids and why.
        wanted: Number of recordings.

    Returns:
        By record id, in the order of choice, all reasons for it. `random`, `quality` and `outlier` each have their
        reserved share; the rest goes to the labels, then to any candidates that are left.
    """
    share = int(RESERVED * wanted)
    reserved = {kind: candidates[kind] for kind in ("random", "quality", "outlier")}
    reserved_ids = dict.fromkeys(
        record_id for kind_candidates in reserved.values() for record_id, _ in kind_candidates[:share]
    )
    kinds = ("strongest", "borderline", "false_positive", "false_negative")
    of_labels = chain(*(candidates.get(kind, ()) for kind in kinds))
    label_candidates = sorted(of_labels, key=lambda pair: pair[1].rank)
    rest = chain(label_candidates, *reserved.values())
    chosen = dict.fromkeys(
        [*dict.fromkeys(record_id for record_id, _ in label_candidates)][: wanted - len(reserved_ids)]
    )
    for record_id in chain(reserved_ids, (record_id for record_id, _ in rest)):
        if len(chosen) < wanted:
            chosen.setdefault(record_id)
    reasons: dict[str, list[Why]] = {record_id: [] for record_id in chosen}
    for record_id, why in chain(*candidates.values()):
        if record_id in reasons:
            reasons[record_id].append(why)
    return reasons


class _Least(NamedTuple):
    """The recordings with the least values so far, the least first; of equal values, the first."""

    ids: np.ndarray
    values: np.ndarray

    @property
    def ranked(self) -> list[tuple[int, str]]:
        """Rank, from 1, and id of each."""
        return list(enumerate(self.ids.tolist(), start=1))


_NONE = _Least(np.empty(0, object), np.empty(0))


def _keep_least(held: _Least, ids: pa.Array, values: np.ndarray, count: int) -> _Least:
    """Keep the least `count` of those held and of further ones."""
    if len(values) > count:
        first = np.sort(np.argpartition(values, count)[:count])
        ids, values = ids.take(pa.array(first)), values[first]
    values = np.concatenate([held.values, values])
    order = np.argsort(values, kind="stable")[:count]
    return _Least(np.concatenate([held.ids, np.array(ids.to_pylist(), object)])[order], values[order])


def _interleave(kind: str, by: Mapping[str, _Least]) -> list[Candidate]:
    """Put the first of each, then the second of each, and so on."""
    ranked = (
        [(record_id, Why(kind, what or None, rank)) for rank, record_id in least.ranked] for what, least in by.items()
    )
    return [pair for pairs in zip_longest(*ranked) for pair in pairs if pair]
