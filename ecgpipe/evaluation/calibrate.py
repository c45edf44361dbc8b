"""Fit a probability calibration on one split of a finished run, and write it for later runs to apply.

`--method pos-weight` needs no true labels: it takes off the logits what the weight of positives added in training.
"""

import argparse
import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ecgpipe import __version__
from ecgpipe.core import options
from ecgpipe.core.atomic import write_json
from ecgpipe.core.errors import EcgpipeError
from ecgpipe.core.run import Run
from ecgpipe.evaluation import leakage, losses, truth_tables
from ecgpipe.evaluation.leakage import Sample, Selection
from ecgpipe.models import calibration, labels
from ecgpipe.models.calibration import Calibration, compute_logit

logger = logging.getLogger(__name__)

# Newton's method on two parameters takes some ten steps.
MOST_STEPS = 100

# A temperature out of this range is not used: the label has none.
COLDEST, HOTTEST = 1e-3, 1e3


class Parameters(NamedTuple):
    """The result of a fit."""

    by_label: dict[str, dict[str, Any]]  # see `calibration.PARAMETERS`
    left: dict[str, str]  # by label, why it is left as it is


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `ecgpipe calibrate`."""
    leakage.add_arguments(parser)
    options.add(
        parser,
        "method",
        required=True,
        choices=calibration.PARAMETERS,
        help="platt, isotonic or temperature, which are fitted; pos-weight, which is not, and is an assumption",
    )
    options.add(parser, "labels", help="label CSV with the pos_weight (default: the run's)")
    options.add(parser, "output", required=True, help="JSON file to write")


def run(args: argparse.Namespace) -> None:
    """Calibrate."""
    finished = Run(options.choose_run("calibrate", args.run, args.outdir)[0])
    if args.method == "pos-weight":
        correct_pos_weight(finished, args.labels or labels.locate_of_run(finished), args.output)
    else:
        source = truth_tables.choose_source(args.truth, args.map, finished.config.evaluation)
        sample = leakage.read_sample(finished, source, Selection(args.split, args.on, args.patient))
        fit_sample(sample, args.method, args.output)


def correct_pos_weight(finished: Run, label_csv: Path, output: Path) -> None:
    """Write the correction for the weight of positives in training.

    Args:
        finished: The run.
        label_csv: Label CSV with the column `pos_weight`.
        output: JSON file to write.

    Raises:
        EcgpipeError: No label has a weight, or the predictions are calibrated already.
    """
    scores = _refuse_calibrated(leakage.read_scores(finished.files("predictions")))
    predicted = [label for label in labels.read(label_csv) if label.name in scores["aggregation"]]
    shifts = {label.name: {"shift": math.log(label.pos_weight)} for label in predicted if label.pos_weight is not None}
    left = {label.name: "no pos_weight" for label in predicted if label.pos_weight is None}
    if not shifts:
        raise EcgpipeError(
            f"labels: {label_csv} gives no pos_weight for any label of the run; add the column, as the training had it"
        )
    _write(output, "pos-weight", scores, Parameters(shifts, left), None)
    for name, parameters in shifts.items():
        logger.info("%s: %+.3f to the logit", name, -parameters["shift"])


def fit_sample(sample: Sample, method: str, output: Path) -> None:
    """Fit a calibration, write it, and print how much better it is.

    Args:
        sample: The recordings.
        method: `platt`, `isotonic` or `temperature`.
        output: JSON file to write.

    Raises:
        EcgpipeError: No label can be calibrated, or the predictions are calibrated already.
    """
    scores = _refuse_calibrated(sample.scores)
    for name in sample.heads:
        logger.warning("%s: left as it is: a head's label, whose probability is that of a logistic regression", name)
    pairs = _select_known(sample)
    by_label: dict[str, dict[str, Any]] = {}
    left = dict.fromkeys(sample.truth.left_out, "the true labels have no column of this name")
    for name, (true, probability) in pairs.items():
        parameters = fit(method, true, probability)
        if isinstance(parameters, str):
            left[name] = parameters
        else:
            by_label[name] = parameters
    if not by_label:
        raise EcgpipeError(
            "--on: no label can be calibrated: "
            + "; ".join(f"{name}: {why}" for name, why in left.items())
            + ". Choose a larger split, or map columns to labels by --map"
        )
    sha256 = leakage.write_sample(output, "calibrate", sample, method)
    fitted = _write(output, method, scores, Parameters(by_label, left), {**sample.facts, "sha256": sha256})
    print(f"On the recordings that it was fitted on ({sample.split}), so optimistic:\n")
    print("\n".join(format_table(fitted, pairs)))
    for name in by_label:
        if by_label[name].get("slope", 1) <= 0:
            logger.warning(
                "%s: the label is rarer where its probability is higher: calibration reverses the order of recordings",
                name,
            )


def format_table(fitted: Calibration, pairs: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> list[str]:
    """Format Brier score and log loss of each calibrated label, before and after.

    Args:
        fitted: The calibration.
        pairs: By label, true labels and probabilities, (recordings,) each.

    Returns:
        Lines of text.
    """
    width = max(map(len, fitted.labels))
    lines = [
        f"{'':<{width}}                        Brier score        log loss",
        f"{'label':<{width}}  positive  recordings  before   after  before   after",
    ]
    for name in fitted.labels:
        true, before = pairs[name]
        after = calibration.calibrate_probability(fitted, name, before)
        numbers = [losses.brier(true, probability) for probability in (before, after)]
        numbers += [float(losses.log_loss(true[:, None], probability[:, None])[0]) for probability in (before, after)]
        columns = "  ".join(f"{number:>6.4f}" for number in numbers)
        lines.append(f"{name:<{width}}  {true.sum():>8,.0f}  {len(true):>10,}  {columns}")
    return lines


def _select_known(sample: Sample) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Select by label the true labels and probabilities where both are known, (recordings,) float64 each."""
    pairs = {}
    for number, name in enumerate(sample.truth.names):
        true, probability = sample.truth.true[:, number], sample.truth.probability[:, number]
        rows = ~(np.isnan(true) | np.isnan(probability))
        pairs[name] = true[rows].astype(float), probability[rows]
    return pairs


def fit(method: str, true: np.ndarray, probability: np.ndarray) -> dict[str, Any] | str:
    """Fit the calibration of one label.

    Args:
        method: `platt`, `isotonic` or `temperature`.
        true: (recordings,) 0 or 1.
        probability: (recordings,) float64.

    Returns:
        Its parameters, see `calibration.PARAMETERS`; or the reason why there are none.
    """
    if not 0 < true.sum() < len(true):
        return f"no recording of the split is {'negative' if true.any() else 'positive'}"
    if method == "platt":
        slope, intercept = platt(true, compute_logit(probability))
        return {"slope": slope, "intercept": intercept}
    if method == "temperature":
        value = temperature(true, compute_logit(probability))
        return {"temperature": value} if isinstance(value, float) else value
    return isotonic(true, probability)


def platt(true: np.ndarray, score: np.ndarray) -> tuple[float, float]:
    """Fit a logistic function to scores, by Newton's method.

    Platt, Probabilistic outputs for support vector machines, 1999, with his targets for n1 positives and n0 negatives,
    (n1 + 1) / (n1 + 2) and 1 / (n0 + 2), which keep the slope finite; the steps as in Lin, Lin and Weng, A note on
    Platt's probabilistic outputs for support vector machines, Machine Learning 68, 2007. The slope has the opposite
    sign of theirs.

    Args:
        true: (recordings,) 0 or 1, both there.
        score: (recordings,) logits.

    Returns:
        Slope and intercept: expit(slope score + intercept) is the probability.
    """
    from scipy.special import expit

    positives = true.sum()
    negatives = len(true) - positives
    target = np.where(true == 1, (positives + 1) / (positives + 2), 1 / (negatives + 2))

    def loss(at: np.ndarray) -> float:
        z = at[0] * score + at[1]
        return float((np.logaddexp(0, z) - target * z).sum())

    at = np.array([0.0, math.log((positives + 1) / (negatives + 1))])
    least = loss(at)
    for _ in range(MOST_STEPS):
        p = expit(at[0] * score + at[1])
        gradient = np.array([((p - target) * score).sum(), (p - target).sum()])
        if np.abs(gradient).max() < 1e-9 * len(true):
            break
        weight = p * (1 - p)
        mixed = (weight * score).sum()
        hessian = np.array([[(weight * score**2).sum(), mixed], [mixed, weight.sum()]]) + 1e-12 * np.eye(2)
        step = np.linalg.solve(hessian, gradient)
        size = 1.0
        while size > 1e-10 and loss(at - size * step) > least - 1e-4 * size * (gradient @ step):
            size /= 2
        at, before = at - size * step, least
        least = loss(at)
        if before - least <= 1e-15 * abs(before):
            break
    return float(at[0]), float(at[1])


def temperature(true: np.ndarray, score: np.ndarray) -> float | str:
    """Find the temperature at which a label's log loss is least (Guo et al., ICML 2017, have one for all classes).

    Args:
        true: (recordings,) 0 or 1, both there.
        score: (recordings,) logits.

    Returns:
        The temperature: expit(score / temperature) is the probability; or why there is none.
    """
    from scipy.optimize import brentq
    from scipy.special import expit

    def slope(log_inverse: float) -> float:
        """The derivative of the loss by 1 / temperature, which rises: the loss is convex."""
        return float(((expit(math.exp(log_inverse) * score) - true) * score).sum())

    low, high = -math.log(HOTTEST), -math.log(COLDEST)
    if slope(low) >= 0:
        return "the label is not more frequent where its probability is higher"
    if slope(high) <= 0:
        return "the probability separates the recordings without an error, so no temperature is the best"
    return math.exp(-float(brentq(slope, low, high, xtol=1e-12)))


def isotonic(true: np.ndarray, probability: np.ndarray) -> dict[str, list[float]]:
    """Fit a rising step function with the least square error (Zadrozny and Elkan, KDD 2002), by scikit-learn.

    Args:
        true: (recordings,) 0 or 1.
        probability: (recordings,) float64.

    Returns:
        The knots: `probability`, rising, and what it is `calibrated` to.
    """
    from sklearn.isotonic import IsotonicRegression

    regression = IsotonicRegression(y_min=0, y_max=1, out_of_bounds="clip").fit(probability, true)
    return {"probability": regression.X_thresholds_.tolist(), "calibrated": regression.y_thresholds_.tolist()}


def _refuse_calibrated(scores: Mapping[str, Any]) -> dict[str, Any]:
    """Refuse predictions that are calibrated, and return how they came about."""
    if scores["calibration"]:
        raise EcgpipeError(
            "RUN: these predictions are calibrated already; calibrate those of a run without the setting"
        )
    return dict(scores)


def _write(
    output: Path, method: str, scores: Mapping[str, Any], parameters: Parameters, fitted: Mapping[str, Any] | None
) -> Calibration:
    """Write the file, log which labels it leaves as they are, and read it again.

    Args:
        output: The file.
        method: One of `calibration.PARAMETERS`.
        scores: How the predictions came about.
        parameters: By label.
        fitted: On which recordings; None for an assumption.
    """
    content = {
        "ecgpipe": __version__,
        "method": method,
        "fitted": fitted,
        "scores": scores,
        "left": parameters.left,
        "labels": parameters.by_label,
    }
    write_json(output, content)
    written = calibration.read_calibration(output)
    for name, why in parameters.left.items():
        logger.warning("%s: left as it is: %s", name, why)
    logger.info("%s: %s", output, calibration.describe_facts(written.facts))
    return written
