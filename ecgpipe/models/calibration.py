"""The file of a calibration, which `calibrate` writes, and its application to probabilities in `aggregate`."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ecgpipe.core import provenance
from ecgpipe.core.errors import EcgpipeError
from ecgpipe.models.labels import Label

# By method, the parameters of each label in the file.
PARAMETERS = {
    "platt": {"slope", "intercept"},
    "temperature": {"temperature"},
    "isotonic": {"probability", "calibrated"},
    "pos-weight": {"shift"},
}

# The name of a method in a sentence.
WORDS = {"platt": "Platt scaling", "temperature": "a temperature", "isotonic": "isotonic regression"}

# A probability of 0 or 1 has no logit: it is taken to be so far from it.
EPSILON = float(np.finfo(float).eps)


class Calibration(NamedTuple):
    """A calibration of probabilities."""

    path: Path
    sha256: str
    method: str
    labels: dict[str, dict[str, Any]]  # by name, the method's parameters; labels that are not there stay as they are
    left: dict[str, str]  # by name, why a label stays as it is
    scores: dict[str, Any]  # what it is for: `provenance.scores`, and `aggregation` by label
    fitted: dict[str, Any] | None  # `on`, `recordings`, `sha256` of the list of them, ...; None: it is an assumption

    @property
    def facts(self) -> dict[str, Any]:
        """What the metadata of calibrated predictions says of their calibration."""
        fitted = {key: self.fitted[key] for key in ("on", "recordings")} if self.fitted else None
        return {"method": self.method, "sha256": self.sha256, "fitted": fitted, "left": sorted(self.left)}


def read(path: Path) -> Calibration:
    """Read the file of a calibration.

    Args:
        path: The JSON file.

    Returns:
        The calibration.

    Raises:
        EcgpipeError: It is missing, or no such file.
    """
    if not os.path.isfile(path):  # noqa: PTH113, a text that the system takes for no path is not there either
        raise EcgpipeError(
            f"calibration: {str(path)!r} is not a file; give the JSON file that `python -m ecgpipe calibrate` wrote"
        )
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        fit = Calibration(
            path=path,
            sha256=provenance.file_sha256(path),
            **{key: content[key] for key in ("method", "labels", "left", "scores", "fitted")},
        )
        for name, parameters in fit.labels.items():
            if parameters.keys() != PARAMETERS[fit.method]:
                raise ValueError(f"it has not the parameters of {fit.method} for {name!r}")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise EcgpipeError(
            f"calibration: cannot read {path}: {error}; write it anew by `python -m ecgpipe calibrate`"
        ) from error
    return fit


def refuse_foreign(fit: Calibration, model_labels: Sequence[Label], scores: Mapping[str, Any] | None = None) -> None:
    """Refuse a calibration that was fitted to other predictions.

    Args:
        fit: The calibration.
        model_labels: The labels to predict, with their aggregation.
        scores: What `provenance.scores` says of the predictions at hand; None where it is not known yet.

    Raises:
        EcgpipeError: It was, or it has a label that is not there.
    """
    aggregation = {label.name: label.aggregation for label in model_labels}
    unknown = [name for name in fit.labels if name not in aggregation]
    if unknown:
        raise EcgpipeError(
            f"calibration: {fit.path} is for {', '.join(unknown)}, which is no label here; there are "
            f"{', '.join(aggregation) or 'none'}"
        )
    here = {key: value for key, value in (scores or {}).items() if key != "calibration"}
    for name in fit.labels:
        if fit.fitted:  # what is done to logits holds for any aggregation
            here["aggregation"] = aggregation[name]
        different = provenance.difference({**fit.scores, "aggregation": fit.scores["aggregation"].get(name)}, here)
        if different:
            raise EcgpipeError(
                f"calibration: {fit.path} was made for predictions of {name!r} with {different}; make one for "
                "these by `python -m ecgpipe calibrate`"
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
        The same less log w for `pos-weight`; as they are for a method that acts on probabilities.
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
        The calibrated ones: expit(slope logit(p) + intercept) for `platt`, expit(logit(p) / temperature) for
        `temperature`, between the knots for `isotonic` and as at the outer ones beyond; as they are for `pos-weight`.
    """
    from scipy.special import expit  # here, because the Snakefile reads this module for each job

    parameters = fit.labels.get(name)
    if parameters is None or fit.method == "pos-weight":
        return probability
    if fit.method == "isotonic":
        return np.asarray(np.interp(probability, parameters["probability"], parameters["calibrated"]))
    if fit.method == "temperature":
        return np.asarray(expit(logit(probability) / parameters["temperature"]))
    return np.asarray(expit(parameters["slope"] * logit(probability) + parameters["intercept"]))


def logit(probability: np.ndarray) -> np.ndarray:
    """The logits of probabilities, float64; those of 0 and 1 as `EPSILON` from there."""
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
            "Probabilities are corrected for the weight of positives in the training, log(pos_weight): an assumption "
            "about the training and that prevalences are as in its data, not fitted to any label."
        )
    return text + (f" Left as they were: {', '.join(facts['left'])}." if facts["left"] else "")
