"""The file of a calibration, which `calibrate` writes, and its application to probabilities in `aggregate`."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ecgpipe.core import provenance
from ecgpipe.core.errors import EcgpipeError
from ecgpipe.models.labels import Label, name_some

# By method, the parameters of each label in the file.
PARAMETERS = {
    "platt": {"slope", "intercept"},
    "temperature": {"temperature"},
    "isotonic": {"probability", "calibrated"},
    "pos-weight": {"shift"},
}

# The name of a method in a sentence.
WORDS = {"platt": "Platt scaling", "temperature": "a temperature", "isotonic": "isotonic regression"}

# A probability of 0 or 1 has no finite logit: it is clipped to this distance from 0 or 1.
EPSILON = float(np.finfo(float).eps)


class Calibration(NamedTuple):
    """A calibration of probabilities."""

    path: Path
    sha256: str
    method: str
    labels: dict[str, dict[str, Any]]  # the method's parameters by label; other labels are not calibrated
    left: dict[str, str]  # labels that are not calibrated, and why
    scores: dict[str, Any]  # the predictions it is for: `provenance.select_scores`, and `aggregation` by label
    fitted: dict[str, Any] | None  # `on`, `recordings`, `sha256` of their list, ...; None: assumed, not fitted

    @property
    def facts(self) -> dict[str, Any]:
        """The facts about the calibration for the metadata of calibrated predictions."""
        fitted = {key: self.fitted[key] for key in ("on", "recordings")} if self.fitted else None
        return {"method": self.method, "sha256": self.sha256, "fitted": fitted, "left": sorted(self.left)}


def read_calibration(path: Path) -> Calibration:
    """Read the file of a calibration.

    Args:
        path: The JSON file.

    Returns:
        The calibration.

    Raises:
        EcgpipeError: The file is missing or not a calibration.
    """
    if not os.path.isfile(path):  # noqa: PTH113, Path raises an error for a text that is not a valid path
        raise EcgpipeError(
            f"calibration: {str(path)!r} is not a file; give the JSON file that `ecgpipe calibrate` wrote"
        )
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        fit = Calibration(
            path=path,
            sha256=provenance.hash_file(path),
            **{key: content[key] for key in ("method", "labels", "left", "scores", "fitted")},
        )
        for name, parameters in fit.labels.items():
            if parameters.keys() != PARAMETERS[fit.method]:
                raise ValueError(f"the parameters of {fit.method} are missing for {name!r}")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise EcgpipeError(
            f"calibration: cannot read {path}: {error}; write it again with `ecgpipe calibrate`"
        ) from error
    return fit


def refuse_foreign(fit: Calibration, model_labels: Sequence[Label], scores: Mapping[str, Any] | None = None) -> None:
    """Refuse a calibration that was fitted to other predictions.

    Args:
        fit: The calibration.
        model_labels: The labels to predict, with their aggregation.
        scores: `provenance.select_scores` of the predictions to calibrate; None if they do not exist yet.

    Raises:
        EcgpipeError: It was fitted to other predictions, or has a label that the model does not have.
    """
    aggregation = {label.name: label.aggregation for label in model_labels}
    unknown = [name for name in fit.labels if name not in aggregation]
    if unknown:
        raise EcgpipeError(
            f"calibration: {fit.path} has parameters for unknown labels ({', '.join(unknown)}); the labels are "
            f"{', '.join(aggregation) or 'none'}. Fit it again with `ecgpipe calibrate`"
        )
    here = {key: value for key, value in (scores or {}).items() if key != "calibration"}
    for name in fit.labels:
        if fit.fitted:  # a shift of logits is valid for any aggregation
            here["aggregation"] = aggregation[name]
        different = provenance.describe_difference(
            {**fit.scores, "aggregation": fit.scores["aggregation"].get(name)}, here
        )
        if different:
            raise EcgpipeError(
                f"calibration: {fit.path} was made for predictions of {name!r} with {different}; make one for "
                "these with `ecgpipe calibrate`"
            )


def shift_logits(fit: Calibration, name: str, logits: np.ndarray) -> np.ndarray:
    """Shift a label's logits, of segments, before they are aggregated.

    Trained with binary cross-entropy in which positives count w times, a model that fits its data well gives
    w q / (w q + 1 - q) where a share q is positive: the minimum of -w q log p - (1 - q) log(1 - p). Its logit is that
    of q plus log w, which the correction takes off, as the prior correction of King and Zeng does (Logistic regression
    in rare events data, Political Analysis 9, 2001).

    Args:
        fit: The calibration.
        name: Of the label.
        logits: (segments,) float64.

    Returns:
        The logits minus log w for `pos-weight`; unchanged for a method that acts on probabilities.
    """
    shift = fit.labels.get(name, {}).get("shift", 0.0)
    return np.asarray(logits - shift)


def calibrate_probability(fit: Calibration, name: str, probability: np.ndarray) -> np.ndarray:
    """Calibrate a label's probabilities, of recordings.

    Args:
        fit: The calibration.
        name: Of the label.
        probability: (recordings,) float64.

    Returns:
        The calibrated probabilities: expit(slope logit(p) + intercept) for `platt`, expit(logit(p) / temperature) for
        `temperature`, linear interpolation between the knots for `isotonic`; unchanged for `pos-weight`.
    """
    from scipy.special import expit  # here, because the Snakefile reads this module for each job

    parameters = fit.labels.get(name)
    if parameters is None or fit.method == "pos-weight":
        return probability
    if fit.method == "isotonic":
        return np.asarray(np.interp(probability, parameters["probability"], parameters["calibrated"]))
    if fit.method == "temperature":
        return np.asarray(expit(compute_logit(probability) / parameters["temperature"]))
    return np.asarray(expit(parameters["slope"] * compute_logit(probability) + parameters["intercept"]))


def compute_logit(probability: np.ndarray) -> np.ndarray:
    """The logits of probabilities, float64; probabilities are clipped to `EPSILON` from 0 and 1."""
    clipped = np.clip(probability, EPSILON, 1 - EPSILON)
    return np.asarray(np.log(clipped) - np.log1p(-clipped))


def describe_facts(facts: Mapping[str, Any]) -> str:
    """Describe calibrated probabilities for a reader.

    Args:
        facts: `Calibration.facts`.

    Returns:
        Sentences.
    """
    fitted = facts["fitted"]
    if fitted:
        where = f" ({fitted['on']})" if fitted["on"] else ""
        on = f"{fitted['recordings']:,} recordings{where}"
        text = f"Probabilities are calibrated by {WORDS[facts['method']]}, fitted on {on}."
    else:
        text = (
            "Probabilities are corrected for the weight of positives in the training, log(pos_weight). This is an "
            "assumption about the training and the prevalences in its data, not fitted to any label."
        )
    return text + (f" Left as they were: {name_some(facts['left'])}." if facts["left"] else "")
