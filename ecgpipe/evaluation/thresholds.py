"""Choose a decision threshold for each label on the recordings of one split, and write them as a label file.

The metrics printed are of the recordings that the thresholds were chosen on, and therefore optimistic.
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
from ecgpipe.core import options
from ecgpipe.core.atomic import whole
from ecgpipe.core.errors import EcgpipeError
from ecgpipe.core.run import Run
from ecgpipe.evaluation import leakage, operating_points, truth_tables
from ecgpipe.evaluation.leakage import Sample, Selection
from ecgpipe.evaluation.operating_points import Points
from ecgpipe.models import labels
from ecgpipe.models.labels import Label

logger = logging.getLogger(__name__)

NO_NUMBER = "-"

METHODS = ("youden", "f1", "sensitivity", "specificity")


class Method(NamedTuple):
    """How a threshold is chosen."""

    name: str  # one of METHODS
    least: float  # the least sensitivity or specificity; 0 for the others

    @classmethod
    def parse(cls, text: str) -> "Method":
        """Read `--method`.

        Raises:
            EcgpipeError: It is not valid.
        """
        name, _, value = text.partition("=")
        try:
            least = float(value) if value else 0.0
        except ValueError:
            least = -1.0
        takes_value = name in ("sensitivity", "specificity")
        if name not in METHODS or not (0 < least <= 1 if takes_value else not value):
            raise EcgpipeError(
                f"--method: {text!r} is not valid; give youden, f1, sensitivity=0.9 or specificity=0.95 (above 0, at "
                "most 1)"
            )
        return cls(name, least)


class Choice(NamedTuple):
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
    """The options of `ecgpipe thresholds`."""
    leakage.add_arguments(parser)
    options.add(
        parser,
        "method",
        required=True,
        metavar="METHOD",
        help="youden (the largest sensitivity + specificity), f1 (the largest F1), sensitivity=0.9 (at least, with the "
        "highest specificity) or specificity=0.95 (at least, with the highest sensitivity)",
    )
    options.add(parser, "labels", help="label CSV to fill in (default: the run's)")
    options.add(parser, "output", required=True, help="label CSV to write")


def run(args: argparse.Namespace) -> None:
    """Choose thresholds."""
    method = Method.parse(args.method)
    finished = Run(options.choose_run("thresholds", args.run, args.outdir)[0])
    source = truth_tables.choose_source(args.truth, args.map, finished.config.evaluation)
    sample = leakage.read_sample(finished, source, Selection(args.split, args.on, args.patient))
    label_csv = args.labels or labels.locate_of_run(finished)
    by_name = read_labels(label_csv, sample)
    choices = choose_all(sample, method)
    write(args.output, label_csv, sample, by_name, choices, args.method)
    heading = f"On the recordings that they were chosen on ({sample.split}), so optimistic:"
    print("\n".join(format_table(choices, heading)))
    for name in sample.heads:
        logger.warning("%s: no threshold: a head's label, which is in no label file and is positive from 0.5 on", name)
    for name in by_name:
        why = choices[name].why if name in choices else "the true labels have no column of this name"
        if name not in choices or choices[name].threshold is None:
            logger.warning("%s: no threshold: %s", name, why)
    count = sum(choice.threshold is not None for choice in choices.values())
    logger.info("%s: %d thresholds by %s on %s", args.output, count, args.method, sample.split)


def read_labels(label_csv: Path, sample: Sample) -> dict[str, Label]:
    """Read the label file to fill in.

    Args:
        label_csv: The file.
        sample: The recordings to choose thresholds on.

    Returns:
        The labels by name.

    Raises:
        EcgpipeError: A label is missing, or is aggregated in another way than in the run.
    """
    by_name = {label.name: label for label in labels.read(label_csv)}
    aggregation = sample.scores["aggregation"]
    for name in sample.truth.names:
        if name not in by_name:
            raise EcgpipeError(
                f"labels: {label_csv} has no row for {name!r}, which the run predicted; give the run's label file as "
                "--labels"
            )
        if by_name[name].aggregation != aggregation.get(name, by_name[name].aggregation):
            raise EcgpipeError(
                f"labels: {label_csv}: {name!r} is aggregated by {by_name[name].aggregation}, but by "
                f"{aggregation[name]} in the run; give the run's label file as --labels, or run again with this one"
            )
    return by_name


def choose_all(sample: Sample, method: Method) -> dict[str, Choice]:
    """Choose a threshold for each label that has true labels.

    Raises:
        EcgpipeError: No label has a threshold.
    """
    truth = sample.truth
    choices = {
        name: choose(count_points(truth.true[:, number], truth.probability[:, number]), method)
        for number, name in enumerate(truth.names)
    }
    if all(choice.threshold is None for choice in choices.values()):
        raise EcgpipeError(
            "--on: no label has a threshold: "
            + "; ".join(f"{name}: {choice.why}" for name, choice in choices.items())
            + ". Choose a larger split"
        )
    return choices


def count_points(true: np.ndarray, score: np.ndarray) -> Points:
    """Count what each decision threshold does to recordings.

    A threshold is halfway between two neighbouring scores (or between the last one and 0 or 1), so that a score which
    another machine computes a little differently stays on its side.

    Args:
        true: (recordings,) 1, 0 or NaN for unknown, which are left out.
        score: (recordings,) probabilities.

    Returns:
        One point per distinct score, after the one at which no recording is positive; without the latter if a score is
        1.
    """
    points = operating_points.count(true, score)
    distinct = points.threshold[1:]
    upper, lower = np.append(1.0, distinct), np.append(distinct, 0.0)
    threshold = lower + (upper - lower) / 2
    threshold = np.where((threshold > lower) | (upper == 0), threshold, upper)  # neighbours in float64
    points = points._replace(threshold=threshold)
    if len(distinct) and distinct[0] == 1:  # no threshold up to 1 leaves all recordings negative
        points = points._replace(threshold=points.threshold[1:], tp=points.tp[1:], fp=points.fp[1:])
    return points


def choose(points: Points, method: Method) -> Choice:
    """Choose a threshold.

    Args:
        points: What each threshold does.
        method: `youden`: the largest sensitivity + specificity (Youden, Cancer 3, 1950). `f1`: the largest F1.
            `sensitivity`: the highest threshold with at least this sensitivity. `specificity`: the lowest with at least
            this specificity.

    Returns:
        The choice; of several that are equally good, the one with the highest threshold.
    """
    positives, negatives = points.positives, points.negatives
    none = Choice(None, np.nan, np.nan, np.nan, np.nan, positives, positives + negatives)
    if not positives or not negatives:
        missing = "positive" if not positives else "negative"
        return none._replace(why=f"no recording of the split is {missing}")
    if method.name == "youden":  # in whole numbers, so that equals are equal
        place = int(np.argmax(points.tp * negatives - points.fp * positives))
    elif method.name == "f1":
        place = int(np.argmax(2 * points.tp / (points.tp + points.fp + positives)))
    elif method.name == "sensitivity":
        place = int(np.argmax(points.tp / positives >= method.least))
    else:
        enough = np.flatnonzero((negatives - points.fp) / negatives >= method.least)
        if not len(enough):
            why = f"no threshold up to 1 gives the specificity {method.least}: too many negatives have a 1"
            return none._replace(why=why)
        place = int(enough[-1])
    tp, fp = int(points.tp[place]), int(points.fp[place])
    return none._replace(
        threshold=float(points.threshold[place]),
        sensitivity=tp / positives,
        specificity=(negatives - fp) / negatives,
        ppv=tp / (tp + fp) if tp + fp else np.nan,
        f1=2 * tp / (tp + fp + positives),
    )


def write(
    output: Path,
    label_csv: Path,
    sample: Sample,
    by_name: Mapping[str, Label],
    choices: Mapping[str, Choice],
    method: str,
) -> None:
    """Write the label file with its thresholds, and beside it which recordings they were chosen on.

    Args:
        output: The CSV to write.
        label_csv: The CSV to take everything else from.
        sample: The recordings.
        by_name: The labels of `label_csv`.
        choices: By label. Labels without a choice get no threshold.
        method: `--method`.
    """
    sha256 = leakage.write_sample(output, "thresholds", sample, method)
    scores = {key: value for key, value in sample.scores.items() if key != "aggregation"}
    facts = {"method": method, "recordings": sample.facts["recordings"], "on": sample.facts["on"]}
    facts |= {"truth_sha256": sample.facts["truth_sha256"], "fitted": sha256, "ecgpipe": __version__}
    origins = {
        name: {
            "threshold": choice.threshold,
            **facts,
            "scores": {**scores, "aggregation": by_name[name].aggregation},
        }
        for name, choice in choices.items()
        if choice.threshold is not None
    }
    write_label_csv(output, label_csv, origins)


def write_label_csv(output: Path, label_csv: Path, origins: Mapping[str, Mapping[str, Any]]) -> None:
    """Write a label CSV with other thresholds.

    Args:
        output: The CSV to write.
        label_csv: The CSV to take everything else from.
        origins: By label what `labels.THRESHOLD_FROM` lists. Other labels get no threshold.
    """
    columns, rows = labels.read_rows(label_csv)
    columns += [name for name in ("threshold", "threshold_from") if name not in columns]
    with whole(output) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        for row in rows:
            origin = origins.get((row["name"] or "").strip())
            threshold = "" if origin is None else repr(origin["threshold"])
            threshold_from = "" if origin is None else json.dumps(origin, ensure_ascii=False)
            writer.writerow({**row, "threshold": threshold, "threshold_from": threshold_from})


def format_table(choices: Mapping[str, Choice], heading: str) -> Sequence[str]:
    """Format the choices as lines of text."""
    width = max(map(len, choices))
    columns = "threshold  sensitivity  specificity    PPV     F1  positive  recordings"
    lines = [heading, "", f"{'label':<{width}}  {columns}"]
    for name, choice in choices.items():
        metrics = (choice.sensitivity, choice.specificity, choice.ppv, choice.f1)
        sensitivity, specificity, ppv, f1 = map(_format_number, metrics)
        numbers = f"{sensitivity:>11}  {specificity:>11}  {ppv:>5}  {f1:>5}"
        threshold = NO_NUMBER if choice.threshold is None else f"{choice.threshold:.4g}"
        lines.append(f"{name:<{width}}  {threshold:>9}  {numbers}  {choice.positives:>8,}  {choice.recordings:>10,}")
    return lines


def _format_number(value: float) -> str:
    return NO_NUMBER if np.isnan(value) else f"{value:.3f}"
