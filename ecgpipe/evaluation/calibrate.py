"""Fit on the recordings of one split what makes probabilities of a run's, and write it for the next run to use.

`--method pos-weight` needs no true labels: it takes off what the weight of positives in the training added.
"""

import argparse
import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ecgpipe import __version__
from ecgpipe.core import parquet
from ecgpipe.core.atomic import write_json
from ecgpipe.core.errors import EcgpipeError
from ecgpipe.evaluation import leakage
from ecgpipe.models import calibration, labels
from ecgpipe.models.calibration import Calibration, logit

logger = logging.getLogger(__name__)

# Newton's method on two parameters takes some ten steps.
MOST_STEPS = 100

# A temperature beyond these says that there is none.
COLDEST, HOTTEST = 1e-3, 1e3


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `python -m ecgpipe calibrate`."""
    leakage.add_arguments(parser)
    parser.add_argument(
        "--method",
        required=True,
        choices=calibration.PARAMETERS,
        help="platt, isotonic or temperature, which are fitted; pos-weight, which is not, and is an assumption",
    )
    parser.add_argument("--labels", type=Path, help="label CSV with the pos_weight (default: the run's)")
    parser.add_argument("--output", type=Path, required=True, help="JSON file to write")


def run(args: argparse.Namespace) -> None:
    """Calibrate."""
    if args.method == "pos-weight":
        by_assumption(args)
    else:
        by_fit(args)


def by_assumption(args: argparse.Namespace) -> None:
    """Write the correction by the training's weight of positives."""
    path = args.labels or Path(leakage.settings(args.outdir)["labels"])
    scores = _uncalibrated(leakage.scores(parquet.of_run(args.outdir, "predictions")))
    given = [label for label in labels.read(path) if label.name in scores["aggregation"]]
    shifts = {label.name: {"shift": math.log(label.pos_weight)} for label in given if label.pos_weight is not None}
    left = {label.name: "no pos_weight" for label in given if label.pos_weight is None}
    if not shifts:
        raise EcgpipeError(
            f"labels: {path} gives no pos_weight for any label of the run; add the column, as the training had it"
        )
    _write(args, scores, shifts, left, None)
    for name, parameters in shifts.items():
        logger.info("%s: %+.3f to the logit", name, -parameters["shift"])


def by_fit(args: argparse.Namespace) -> None:
    """Fit a calibration."""
    given = leakage.sample(args)
    scores = _uncalibrated(given.scores)
    found: dict[str, dict[str, Any]] = {}
    left = dict.fromkeys(given.truth.left_out, "no column of the truth is called so")
    for name in given.heads:
        logger.warning("%s: left as it is: a head's label, whose probability is that of a logistic regression", name)
    known = {}
    for number, name in enumerate(given.truth.names):
        true, probability = given.truth.true[:, number], given.truth.probability[:, number]
        rows = ~(np.isnan(true) | np.isnan(probability))
        known[name] = true[rows].astype(float), probability[rows]
        parameters = fit(args.method, *known[name])
        if isinstance(parameters, str):
            left[name] = parameters
        else:
            found[name] = parameters
    if not found:
        raise EcgpipeError(
            "--on: no label can be calibrated: " + "; ".join(f"{name}: {why}" for name, why in left.items())
        )
    sha256 = leakage.write(args.output, "calibrate", given, method=args.method)
    made = _write(args, scores, found, left, {**given.facts, "sha256": sha256})
    print(f"On the recordings that it was fitted on ({given.facts['on'] or 'all recordings'}), so optimistic:\n")
    width = max(map(len, found))
    print(f"{'':<{width}}                        Brier score        log loss")
    print(f"{'label':<{width}}  positive  recordings  before   after  before   after")
    for name in found:
        true, probability = known[name]
        after = calibration.calibrate_probability(made, name, probability)
        losses = (f"{of(true, values):>6.4f}" for of in (brier, log_loss) for values in (probability, after))
        print(f"{name:<{width}}  {true.sum():>8,.0f}  {len(true):>10,}  {'  '.join(losses)}")
        if found[name].get("slope", 1) <= 0:
            logger.warning(
                "%s: the label is rarer where its probability is higher: the order of recordings turns over", name
            )


def fit(method: str, true: np.ndarray, probability: np.ndarray) -> dict[str, Any] | str:
    """Fit the calibration of one label.

    Args:
        method: `platt`, `isotonic` or `temperature`.
        true: (recordings,) 0 or 1.
        probability: (recordings,) float64.

    Returns:
        Its parameters, see `calibration.PARAMETERS`; or why there are none.
    """
    if not 0 < true.sum() < len(true):
        return f"no recording of the split is {'negative' if true.any() else 'positive'}"
    if method == "platt":
        slope, intercept = platt(true, logit(probability))
        return {"slope": slope, "intercept": intercept}
    if method == "temperature":
        value = temperature(true, logit(probability))
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
    """Find the temperature of a label, at which its log loss is least (as Guo et al., ICML 2017, of all classes).

    Args:
        true: (recordings,) 0 or 1, both there.
        score: (recordings,) logits.

    Returns:
        It: expit(score / temperature) is the probability; or why there is none.
    """
    from scipy.optimize import brentq
    from scipy.special import expit

    def slope(log_inverse: float) -> float:
        """Of the loss by 1 / temperature, which rises with it: the loss is convex."""
        return float(((expit(math.exp(log_inverse) * score) - true) * score).sum())

    low, high = -math.log(HOTTEST), -math.log(COLDEST)
    if slope(low) >= 0:
        return "the label is no more frequent where its probability is higher"
    if slope(high) <= 0:
        return "the probability divides the recordings without an error, so that no temperature is the best"
    return math.exp(-float(brentq(slope, low, high, xtol=1e-12)))


def isotonic(true: np.ndarray, probability: np.ndarray) -> dict[str, list[float]]:
    """Fit the rising steps with the least square error (Zadrozny and Elkan, KDD 2002), by scikit-learn.

    Args:
        true: (recordings,) 0 or 1.
        probability: (recordings,) float64.

    Returns:
        The knots: `probability`, rising, and what it is `calibrated` to.
    """
    from sklearn.isotonic import IsotonicRegression

    made = IsotonicRegression(y_min=0, y_max=1, out_of_bounds="clip").fit(probability, true)
    return {"probability": made.X_thresholds_.tolist(), "calibrated": made.y_thresholds_.tolist()}


def brier(true: np.ndarray, probability: np.ndarray) -> float:
    """The mean square error (Brier, Monthly Weather Review 78, 1950)."""
    return float(((probability - true) ** 2).mean())


def log_loss(true: np.ndarray, probability: np.ndarray) -> float:
    """The mean of -log of the probability of what is true; 0 and 1 are taken to be `calibration.EPSILON` from there."""
    score = logit(probability)
    return float((np.logaddexp(0, score) - true * score).mean())


def _uncalibrated(scores: Mapping[str, Any]) -> dict[str, Any]:
    """How the predictions came about, if nothing was calibrated in them."""
    if scores["calibration"]:
        raise EcgpipeError(
            "--outdir: these predictions are calibrated already; calibrate those of a run without the setting"
        )
    return dict(scores)


def _write(
    args: argparse.Namespace,
    scores: Mapping[str, Any],
    found: Mapping[str, Mapping[str, Any]],
    left: Mapping[str, str],
    fit_of: Mapping[str, Any] | None,
) -> Calibration:
    """Write the file, and say which labels it leaves as they are."""
    content = {
        "ecgpipe": __version__,
        "method": args.method,
        "fitted": fit_of,
        "scores": scores,
        "left": left,
        "labels": found,
    }
    write_json(args.output, content)
    made = calibration.read(args.output)
    for name, why in left.items():
        logger.warning("%s: left as it is: %s", name, why)
    logger.info("%s: %s", args.output, calibration.describe_facts(made.facts))
    return made
