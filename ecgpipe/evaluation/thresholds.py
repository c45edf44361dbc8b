"""Choose from where on a recording counts as positive, on the recordings of one split, and write them as a label file.

The numbers printed are those of the recordings that the thresholds were chosen on, and so better than those of others.
"""

import argparse
import csv
import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ecgpipe import __version__
from ecgpipe.core.atomic import whole
from ecgpipe.core.errors import EcgpipeError
from ecgpipe.evaluation import leakage
from ecgpipe.models import labels

logger = logging.getLogger(__name__)

NO_NUMBER = "-"

METHODS = ("youden", "f1", "sensitivity", "specificity")


class Points(NamedTuple):
    """All ways in which a threshold can divide some recordings, from none positive to all."""

    threshold: np.ndarray  # (points,) float64, falling; a recording is positive from it on
    tp: np.ndarray  # (points,) int64, positive and truly so
    fp: np.ndarray  # (points,) int64, positive though it is not
    positives: int  # recordings that are truly positive
    negatives: int  # and those that are not


class Chosen(NamedTuple):
    """A label's threshold, and what it does to the recordings that it was chosen on."""

    threshold: float | None  # None: there is none, see `why`
    sensitivity: float
    specificity: float
    ppv: float  # NaN where no recording is positive
    f1: float
    positives: int
    recordings: int
    why: str = ""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `python -m ecgpipe thresholds`."""
    leakage.add_arguments(parser)
    parser.add_argument(
        "--method",
        required=True,
        metavar="METHOD",
        help="youden (the largest sensitivity + specificity), f1 (the largest F1), sensitivity=0.9 (at least, with the "
        "highest specificity) or specificity=0.95 (at least, with the highest sensitivity)",
    )
    parser.add_argument("--labels", type=Path, help="label CSV to fill in (default: the run's)")
    parser.add_argument("--output", type=Path, required=True, help="label CSV to write")


def run(args: argparse.Namespace) -> None:
    """Choose thresholds."""
    method, least = method_of(args.method)
    given = leakage.sample(args)
    path = args.labels or Path(given.settings["labels"])
    wanted = {label.name: label for label in labels.read(path)}
    aggregation = given.scores["aggregation"]
    for name in given.truth.names:
        if name not in wanted:
            raise EcgpipeError(f"labels: {path} has no row for {name!r}, which the run predicted")
        if wanted[name].aggregation != aggregation.get(name, wanted[name].aggregation):
            raise EcgpipeError(
                f"labels: {path}: {name!r} is aggregated by {wanted[name].aggregation}, but by {aggregation[name]} in "
                "the run; give the run's label file as --labels, or run again with this one"
            )
    chosen = {
        name: choose(operating_points(given.truth.true[:, number], given.truth.probability[:, number]), method, least)
        for number, name in enumerate(given.truth.names)
    }
    if all(one.threshold is None for one in chosen.values()):
        raise EcgpipeError(
            "--on: for no label is there a threshold: "
            + "; ".join(f"{name}: {one.why}" for name, one in chosen.items())
            + ". Choose a larger split"
        )
    sha256 = leakage.write(args.output, "thresholds", given, method=args.method)
    scores = {key: value for key, value in given.scores.items() if key != "aggregation"}
    facts = {"method": args.method, "recordings": given.facts["recordings"], "on": given.facts["on"]}
    facts |= {"truth_sha256": given.facts["truth_sha256"], "fitted": sha256, "ecgpipe": __version__}
    told = {
        name: {"threshold": one.threshold, **facts, "scores": {**scores, "aggregation": wanted[name].aggregation}}
        for name, one in chosen.items()
        if one.threshold is not None
    }
    write(path, args.output, told)
    split = given.facts["on"] or "all recordings"
    print("\n".join(told_as_table(chosen, f"On the recordings that they were chosen on ({split}), so optimistic:")))
    for name in given.heads:
        logger.warning("%s: no threshold: a head's label, which is in no label file and is positive from 0.5 on", name)
    for name in wanted:
        if name not in told:
            why = chosen[name].why if name in chosen else "no column of the truth is called so"
            logger.warning("%s: no threshold: %s", name, why)
    logger.info("%s: %d thresholds by %s on %s", args.output, len(told), args.method, split)


def method_of(text: str) -> tuple[str, float]:
    """Read `--method`: its name, and the least sensitivity or specificity, 0 for the others."""
    name, _, value = text.partition("=")
    try:
        least = float(value) if value else 0.0
    except ValueError:
        least = -1.0
    takes = name in ("sensitivity", "specificity")
    if name not in METHODS or not (0 < least <= 1 if takes else not value):
        raise EcgpipeError(
            f"--method: {text!r} is none; give youden, f1, sensitivity=0.9 or specificity=0.95, above 0 to 1"
        )
    return name, least


def operating_points(true: np.ndarray, score: np.ndarray) -> Points:
    """All ways in which a threshold can divide recordings.

    A threshold stands halfway between two neighbouring scores (or between the last one and 0 or 1), so that a score
    which another machine computes a little differently stays on its side.

    Args:
        true: (recordings,) 1, 0 or NaN for unknown, which are left out.
        score: (recordings,) probabilities.

    Returns:
        One point per distinct score, and before them that at which none is positive; not where a score is 1.
    """
    known = ~(np.isnan(true) | np.isnan(score))
    true, score = true[known] == 1, np.asarray(score[known], np.float64)
    order = np.argsort(-score, kind="stable")
    true, score = true[order], score[order]
    last = np.flatnonzero(np.append(score[1:] != score[:-1], True)) if len(score) else np.empty(0, int)
    tp = np.append(0, np.cumsum(true)[last])  # (1 + distinct,)
    distinct = score[last]
    upper = np.append(1.0, distinct)
    lower = np.append(distinct, 0.0)
    threshold = lower + (upper - lower) / 2
    threshold = np.where((threshold > lower) | (upper == 0), threshold, upper)  # neighbours in float64
    points = Points(threshold, tp, np.append(0, last + 1) - tp, int(true.sum()), int((~true).sum()))
    if len(distinct) and distinct[0] == 1:  # from no threshold up to 1 on is none positive
        points = points._replace(threshold=points.threshold[1:], tp=points.tp[1:], fp=points.fp[1:])
    return points


def choose(points: Points, method: str, least: float = 0) -> Chosen:
    """Choose one of the ways to divide the recordings.

    Args:
        points: All of them.
        method: `youden`: the largest sensitivity + specificity (Youden, Cancer 3, 1950). `f1`: the largest F1.
            `sensitivity`: the highest threshold with at least so much. `specificity`: the lowest.
        least: The least sensitivity or specificity.

    Returns:
        The choice; of several that are as good, the one with the highest threshold.
    """
    positives, negatives = points.positives, points.negatives
    none = Chosen(None, np.nan, np.nan, np.nan, np.nan, positives, positives + negatives)
    if not positives or not negatives:
        missing = "positive" if not positives else "negative"
        return none._replace(why=f"no recording of the split is {missing}")
    if method == "youden":  # in whole numbers, so that equals are equal
        place = int(np.argmax(points.tp * negatives - points.fp * positives))
    elif method == "f1":
        place = int(np.argmax(2 * points.tp / (points.tp + points.fp + positives)))
    elif method == "sensitivity":
        place = int(np.argmax(points.tp / positives >= least))
    else:
        enough = np.flatnonzero((negatives - points.fp) / negatives >= least)
        if not len(enough):
            return none._replace(why=f"no threshold up to 1 gives the specificity {least}: too many negatives have a 1")
        place = int(enough[-1])
    tp, fp = int(points.tp[place]), int(points.fp[place])
    return none._replace(
        threshold=float(points.threshold[place]),
        sensitivity=tp / positives,
        specificity=(negatives - fp) / negatives,
        ppv=tp / (tp + fp) if tp + fp else np.nan,
        f1=2 * tp / (tp + fp + positives),
    )


def write(path: Path, output: Path, told: Mapping[str, Mapping[str, Any]]) -> None:
    """Write a label CSV with other thresholds.

    Args:
        path: The CSV to take everything else from.
        output: The CSV to write.
        told: By label what `labels.THRESHOLD_FROM` lists. Labels that are not there have no threshold then.
    """
    columns, rows = labels.read_rows(path)
    columns += [name for name in ("threshold", "threshold_from") if name not in columns]
    with whole(output) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        for row in rows:
            one = told.get((row["name"] or "").strip())
            threshold = {"threshold": "" if one is None else repr(one["threshold"])}
            origin = {"threshold_from": "" if one is None else json.dumps(one, ensure_ascii=False)}
            writer.writerow({**row, **threshold, **origin})


def told_as_table(chosen: Mapping[str, Chosen], head: str) -> Sequence[str]:
    """The choices as lines of text."""
    width = max(map(len, chosen))
    lines = [head, "", f"{'label':<{width}}  threshold  sensitivity  specificity    PPV     F1  positive  recordings"]
    for name, one in chosen.items():
        sensitivity, specificity, ppv, f1 = map(_figure, (one.sensitivity, one.specificity, one.ppv, one.f1))
        numbers = f"{sensitivity:>11}  {specificity:>11}  {ppv:>5}  {f1:>5}"
        threshold = NO_NUMBER if one.threshold is None else f"{one.threshold:.4g}"
        lines.append(f"{name:<{width}}  {threshold:>9}  {numbers}  {one.positives:>8,}  {one.recordings:>10,}")
    return lines


def _figure(value: float) -> str:
    return NO_NUMBER if np.isnan(value) else f"{value:.3f}"
