"""Write report.html: one page about a run that opens anywhere, without a network and without the run's files."""

import argparse
import json
import logging
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from ecgpipe import checkpoint, figures, labels, nameless, preprocess, quality, tables
from ecgpipe.aggregate import label_columns
from ecgpipe.atomic import whole
from ecgpipe.prepare import UnusableError, Windows, choose_leads, cut_up, resampled_samples
from ecgpipe.readers import Assumed, UnreadableError

logger = logging.getLogger(__name__)

# What counts as positive where the label CSV gives no threshold.
DEFAULT_THRESHOLD = 0.5

# The probabilities of all recordings are counted in so many bins rather than kept: quartiles are right to one of them.
BINS = 1000
BARS = 40  # of a label's histogram, each of BINS / BARS bins

MOST_PROBLEMS = 200  # recordings skipped or failed that are listed one by one
MOST_PROBABILITIES = 5  # listed beside a recording's traces
MOST_SCANS = 10  # scans of the inputs that are listed, the last ones
MAP_SEED = 42


class Summary(NamedTuple):
    """One label over all recordings."""

    name: str
    threshold: float
    positive: int  # recordings at or above the threshold
    mean: float
    spread: float  # standard deviation
    quartiles: tuple[float, float, float]
    histogram: list[int]  # BARS counts, from probability 0 to 1
    highest: int  # the row, over all predictions, with the highest probability


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `python -m ecgpipe report`."""
    parser.add_argument("--run", type=Path, required=True, help="run.json")
    parser.add_argument("--description", type=Path, required=True, help="checkpoint/model.json")
    parser.add_argument("--labels", type=Path, required=True, help="the label CSV, which may give thresholds")
    parser.add_argument("--manifest", type=Path, required=True, help="the folder manifest/")
    parser.add_argument("--records", type=Path, required=True, help="the folder records/")
    parser.add_argument("--shards", type=int, help="how many shards the run has (default: all in the folder)")
    parser.add_argument("--predictions", type=Path, required=True, help="the folder predictions/")
    parser.add_argument("--attention", type=Path, help="the folder attention/, unless it was switched off")
    parser.add_argument("--parts", type=int, help="how many parts the run has (default: all in the folder)")
    parser.add_argument("--umap", type=Path, required=True, help="umap/umap.parquet")
    preprocess.add_reading_arguments(parser)
    parser.add_argument("--title", default="ECG-FM results", help="headline (default %(default)s)")
    parser.add_argument("--recordings", type=int, default=8, help="recordings to draw (default %(default)s)")
    parser.add_argument("--map-points", type=int, default=20_000, help="of the map at most (default %(default)s)")
    parser.add_argument(
        "--no-paths", dest="paths", action="store_false", help="number the recordings, and name no id, file or folder"
    )
    parser.add_argument("--output", type=Path, required=True, help="HTML file to write")


def run(args: argparse.Namespace) -> None:
    """Write the report."""
    content = json.loads(args.run.read_text(encoding="utf-8"))
    content = content if args.paths else nameless.without_paths(content)
    description = checkpoint.describe(args.description)
    windows, assumed = preprocess.reading(args)
    given = {label.name: label.threshold for label in labels.read(args.labels)} if description.labels else {}
    record_files = tables.numbered(args.records, "shard", args.shards)
    prediction_files = tables.numbered(args.predictions, "part", args.parts)
    attention_files = tables.numbered(args.attention, "part", args.parts) if args.attention else []
    total = sum(pq.ParquetFile(path).metadata.num_rows for path in prediction_files)
    summaries = summarise(prediction_files, given)
    chosen = choose(total, summaries, args.recordings)
    predictions = rows_at(prediction_files, list(chosen))
    problems, n_problems = unused(record_files, args.paths)
    segment_s = windows.segment_s if windows.tail == "drop" else None
    numbered = None if args.paths else record_files
    the_map, n_points = draw_map(args.umap, prediction_files, summaries, args.map_points, segment_s, numbered)
    logger.info("drawing %d recordings and %d points of the map", len(chosen), len(the_map["data"][0]["customdata"]))
    page = (
        _environment()
        .get_template("report.html.j2")
        .render(
            title=args.title,
            run=content,
            paths=args.paths,
            scans=changes(content),
            made_by=list(dict.fromkeys(version for by in content.get("made_by", {}).values() for version in by)),
            finished=f"{datetime.fromisoformat(content['finished']):%d %B %Y, %H:%M %Z}".lstrip("0"),
            reasons=content["reasons"],
            segment_s=windows.segment_s,
            problems=problems,
            n_problems=n_problems,
            total=total,
            summaries=summaries,
            calibrated=[summary.name for summary in summaries if given.get(summary.name) is not None],
            the_map=the_map,
            n_points=n_points,
            map_points=len(the_map["data"][0]["customdata"]),
            recordings=draw_recordings(
                [(predictions[row], why) for row, why in chosen.items()],
                tables.numbered(args.manifest, "shard", args.shards),
                record_files,
                attention_files,
                summaries,
                description.architecture.token_samples,
                windows,
                assumed,
                args.paths,
            ),
            plotly_js=Markup(get_plotlyjs()),  # noqa: S704, Plotly's own
        )
    )
    with whole(args.output) as temporary:
        temporary.write_text(page, encoding="utf-8")
    logger.info("%s: %.1f MB", args.output, len(page) / 1e6)


def summarise(predictions: Sequence[Path], thresholds: Mapping[str, float | None]) -> list[Summary]:
    """Count each label's probabilities over all recordings, part by part.

    Args:
        predictions: All `predictions/part-*.parquet`, in order.
        thresholds: By label; `DEFAULT_THRESHOLD` holds where there is none.

    Returns:
        One summary per label in the model's order; none for a model without a head.
    """
    names = label_columns(pq.read_schema(predictions[0]))
    if not names:
        return []
    limits = np.array([_threshold(thresholds.get(name)) for name in names])
    positive, highest = np.zeros(len(names), int), np.zeros(len(names), int)
    sums, squares, most = np.zeros(len(names)), np.zeros(len(names)), np.full(len(names), -1.0)
    bins = np.zeros((len(names), BINS), int)
    done = 0
    for batch in tables.batches(predictions, names):
        values = np.stack([batch[name].to_numpy() for name in names])  # (labels, rows)
        positive += (values >= limits[:, None]).sum(axis=1)
        sums += values.sum(axis=1)
        squares += (values**2).sum(axis=1)
        numbers = np.minimum((np.nan_to_num(values) * BINS).astype(int), BINS - 1)
        for counts, row in zip(bins, numbers, strict=True):
            counts += np.bincount(row, minlength=BINS)
        best = values.argmax(axis=1)
        higher = values.max(axis=1) > most
        highest[higher], most[higher] = done + best[higher], values.max(axis=1)[higher]
        done += batch.num_rows
    total = max(done, 1)
    means = sums / total
    spreads = np.sqrt(np.maximum(squares / total - means**2, 0))
    return [
        Summary(
            name=name,
            threshold=float(limits[i]),
            positive=int(positive[i]),
            mean=float(means[i]),
            spread=float(spreads[i]),
            quartiles=_quartiles(bins[i]),
            histogram=bins[i].reshape(BARS, -1).sum(axis=1).tolist(),
            highest=int(highest[i]),
        )
        for i, name in enumerate(names)
    ]


def choose(total: int, summaries: Sequence[Summary], wanted: int) -> dict[int, str]:
    """Choose recordings to draw: half for what the model says of them, half evenly spread over the dataset.

    Args:
        total: How many recordings there are.
        summaries: Of the labels.
        wanted: How many to choose.

    Returns:
        Rows of the predictions in the order of choice, each with why it was chosen. First, for the labels whose
        probability varies most, the recording where it is highest.
    """
    wanted = min(wanted, total)
    chosen: dict[int, str] = {}
    for summary in sorted(summaries, key=lambda summary: -summary.spread):
        if len(chosen) < math.ceil(wanted / 2):
            chosen.setdefault(summary.highest, f"highest probability of {summary.name}")
    rest = wanted - len(chosen)
    for i in range(rest):
        row = int((i + 0.5) * total / rest)
        while row in chosen:
            row = (row + 1) % total
        chosen[row] = "evenly spaced"
    return chosen


def rows_at(predictions: Sequence[Path], rows: Collection[int]) -> dict[int, dict[str, Any]]:
    """Read single rows of the predictions, by their number over all parts."""
    found: dict[int, dict[str, Any]] = {}
    done = 0
    for batch in tables.batches(predictions):
        here = [row for row in rows if done <= row < done + batch.num_rows]
        found |= {row: batch.slice(row - done, 1).to_pylist()[0] for row in here}
        done += batch.num_rows
    return found


def changes(run: Mapping[str, Any]) -> list[tuple[int, dict[str, int]]]:
    """The last scans of the inputs that found something new, changed or gone, each with its number among all."""
    scans = enumerate(run.get("inputs", {}).get("scans", []), start=1)
    changed = [(number, scan) for number, scan in scans if scan["added"] or scan["changed"] or scan["removed"]]
    return changed[-MOST_SCANS:]


def unused(records: Sequence[Path], paths: bool = True) -> tuple[list[dict[str, str]], int]:
    """The first recordings that were skipped or failed, and how many there are altogether.

    Args:
        records: All `records/shard-*.parquet`, in order.
        paths: Whether they are called by their ids, and their reasons have particulars.

    Returns:
        `name`, `status` and `reason` of each of the first, and the count.
    """
    first: list[dict[str, str]] = []
    count = done = 0
    for batch in tables.batches(records, ["record_id", "status", "reason"]):
        places = np.flatnonzero(pc.not_equal(batch["status"], "ok"))
        count += len(places)
        for place in places[: MOST_PROBLEMS - len(first)].tolist():
            row = batch.slice(place, 1).to_pylist()[0]
            name, reason = row["record_id"], row["reason"]
            if not paths:
                name, reason = nameless.called(done + place + 1), nameless.general(reason)
            first.append({"name": name, "status": row["status"], "reason": reason})
        done += batch.num_rows
    return first, count


def draw_map(
    path: Path,
    predictions: Sequence[Path],
    summaries: Sequence[Summary],
    most: int,
    segment_s: float | None,
    numbered: Sequence[Path] | None = None,
) -> tuple[dict[str, Any], int]:
    """Draw the map, or a random sample of it.

    Args:
        path: `umap/umap.parquet`.
        predictions: All `predictions/part-*.parquet`, in order.
        summaries: Of the labels, which the map can be coloured by; by recording where there are none.
        most: Points to draw at most.
        segment_s: How long a segment is; None where they overlap.
        numbered: All `records/shard-*.parquet`, in order, where recordings are called by their row there, not their id.

    Returns:
        The figure, and how many segments there are.
    """
    total = pq.ParquetFile(path).metadata.num_rows
    drawn = np.arange(total)
    if total > most:
        drawn = np.sort(np.random.default_rng(MAP_SEED).choice(total, most, replace=False))
    pieces, done = [], 0
    for batch in tables.batches([path]):
        first, last = np.searchsorted(drawn, [done, done + batch.num_rows])
        pieces.append(batch.take(pa.array(drawn[first:last] - done)))
        done += batch.num_rows
    points = pa.Table.from_batches(pieces, pq.read_schema(path))
    places = np.stack([points["x"].to_numpy(), points["y"].to_numpy()], axis=1)
    known = points["record_id"].unique()
    recording = pc.index_in(points["record_id"], known).to_numpy()  # (points,) row of `known`
    if summaries:
        probabilities = np.full((len(summaries), len(known)), np.nan)
        for batch in tables.batches(predictions):
            rows = pc.index_in(batch["record_id"], known)
            wanted = rows.is_valid()
            for i, summary in enumerate(summaries):
                probabilities[i, rows.drop_null().to_numpy()] = batch[summary.name].filter(wanted).to_numpy()
        colours = [(summary.name, row[recording]) for summary, row in zip(summaries, probabilities, strict=True)]
        shown = max(range(len(summaries)), key=lambda i: summaries[i].spread)
    else:
        colours, shown = [("recording", recording + 1)], 0
    names = known.to_pylist() if numbered is None else nameless.names(numbered, known)
    segments = points["segment"].to_pylist()
    return figures.umap([names[row] for row in recording], segments, places, colours, shown, segment_s), total


def draw_recordings(
    chosen: Sequence[tuple[dict[str, Any], str]],
    manifest: Sequence[Path],
    records: Sequence[Path],
    attention: Sequence[Path],
    summaries: Sequence[Summary],
    token_samples: tuple[int, int],
    windows: Windows,
    assumed: Assumed,
    paths: bool,
) -> list[dict[str, Any]]:
    """Read the chosen recordings again and draw them.

    Args:
        chosen: Rows of the predictions, each with why it was chosen.
        manifest: All `manifest/shard-*.parquet`.
        records: All `records/shard-*.parquet`.
        attention: All `attention/part-*.parquet`; empty where it is switched off.
        summaries: Of the labels.
        token_samples: (step, span) of the model's tokens.
        windows: How the recordings were cut.
        assumed: What holds for files that do not say it themselves.
        paths: Whether they are called by their ids, and their notes have particulars.

    Returns:
        For each what the template shows: `name`, `why`, `account` (its row of the records), `probabilities` (the
        highest, each with whether it is positive), and either `traces` or a `note` that says why there are none.
    """
    ids = [row["record_id"] for row, _ in chosen]
    names = ids if paths else nameless.names(records, pa.array(ids, pa.string()))
    accounts = {row["record_id"]: row for table in _rows_of(records, ids) for row in table.to_pylist()}
    found = {row["record_id"]: row for table in _rows_of(manifest, ids) for row in table.to_pylist()}
    rows: dict[str, list[np.ndarray]] = {}
    for table in _rows_of(attention, ids):
        vectors = table["attention"].combine_chunks().flatten().to_numpy().reshape(len(table), -1)  # (rows, tokens)
        for record_id, vector in zip(table["record_id"].to_pylist(), vectors, strict=True):
            rows.setdefault(record_id, []).append(vector)
    drawn = []
    for name, (row, why) in zip(names, chosen, strict=True):
        record_id = row["record_id"]
        account = accounts[record_id]
        view: dict[str, Any] = {"name": name, "why": why, "account": account, "traces": None, "note": None}
        highest = sorted(summaries, key=lambda summary: -row[summary.name])[:MOST_PROBABILITIES]
        view["probabilities"] = [(s.name, row[s.name], row[s.name] >= s.threshold) for s in highest]
        segments = np.stack(rows[record_id]) if record_id in rows else None  # (segments, tokens)
        view["attention"] = segments is not None
        try:
            recording = preprocess.read(found[record_id], assumed)
            twelve = choose_leads(recording, windows)
            single = quality.in_single_precision(twelve.signal)
            if quality.fingerprint(single, twelve.made) != account["signal_hash"]:
                raise UnreadableError("the file has changed since the run")
            cut = cut_up(resampled_samples(recording), windows)
            view["traces"] = figures.traces(
                twelve, recording.sample_rate, recording.unit, cut, windows.segment_samples, segments, token_samples
            )
        except (UnreadableError, UnusableError) as error:
            view["note"] = str(error)
        except Exception as error:  # one odd file must not stop the report
            logger.exception("%s could not be drawn", account["path"])
            view["note"] = f"an error of ecgpipe's own ({type(error).__name__}: {error})"
        if view["note"] and not paths:
            view["note"] = nameless.general(view["note"])
        drawn.append(view)
    return drawn


def script_json(value: object) -> Markup:
    """JSON that can stand in a <script> element: no text in it ends the element or begins a comment."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    return Markup(text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e"))  # noqa: S704


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("ecgpipe"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["script_json"] = script_json
    environment.filters["grouped"] = "{:,}".format
    environment.filters["two"] = "{:.2f}".format
    environment.filters["digits"] = lambda number: "not finite" if number is None else f"{number:g}"
    environment.filters["hours"] = lambda hours: f"{hours:,.1f} h" if hours >= 1 else f"{hours * 60:.1f} min"
    environment.filters["pretty"] = lambda value: json.dumps(value, indent=2, ensure_ascii=False)
    return environment


def _threshold(given: float | None) -> float:
    return DEFAULT_THRESHOLD if given is None else given


def _quartiles(counts: np.ndarray) -> tuple[float, float, float]:
    """The middles of the bins that a quarter, a half and three quarters of the values reach."""
    reached = np.cumsum(counts)
    first, second, third = (np.searchsorted(reached, share * reached[-1]) for share in (0.25, 0.5, 0.75))
    return (first + 0.5) / BINS, (second + 0.5) / BINS, (third + 0.5) / BINS


def _rows_of(paths: Sequence[Path], record_ids: Sequence[str]) -> Iterator[pa.Table]:
    """The rows of some recordings. Only row groups that hold one are read beyond the ids."""
    wanted = pa.array(record_ids, pa.string())
    for path in paths:
        with pq.ParquetFile(path) as file:
            for group in range(file.num_row_groups):
                known = pc.is_in(file.read_row_group(group, columns=["record_id"])["record_id"], wanted)
                if pc.any(known).as_py():
                    yield file.read_row_group(group).filter(known)
