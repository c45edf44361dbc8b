"""Load a checkpoint for `ECGFM`: its description, labels and tensors, and those of a finished run."""

import json
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pyarrow.parquet as pq
import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ecgpipe.core import provenance
from ecgpipe.core.atomic import read_json
from ecgpipe.core.errors import EcgpipeError
from ecgpipe.inference import devices
from ecgpipe.models import calibration, labels, registry
from ecgpipe.models.calibration import Calibration
from ecgpipe.models.description import Description, describe
from ecgpipe.models.labels import Label
from ecgpipe.preprocessing.segments import Windows
from ecgpipe.readers import Assumed

if TYPE_CHECKING:
    from ecgpipe.core.run import Run

logger = logging.getLogger(__name__)

Opened = tuple[Description, tuple[Label, ...], dict[str, Tensor]]


class OfRun(NamedTuple):
    """What a finished run did besides running its checkpoint; without a run, nothing."""

    labels: tuple[Label, ...] = ()
    windows: Windows | None = None  # how recordings are cut
    assumed: Assumed = Assumed()  # what is assumed of files that do not state it
    fit: Calibration | None = None  # of the probabilities


@contextmanager
def claim_device(name: str, least_bytes: int) -> Iterator[torch.device]:
    """Yield a device as `devices.claim`, or Apple's GPU for "mps", which only `ECGFM` runs on."""
    if name != "mps":
        with devices.claim(name, least_bytes) as device:
            yield device
        return
    if not torch.backends.mps.is_available():
        built = "sees no GPU of Apple's" if torch.backends.mps.is_built() else "is built without MPS"
        raise EcgpipeError(f"device: 'mps' is not available: PyTorch {torch.__version__} {built}; give auto or cpu")
    yield torch.device("mps")


def open_checkpoint(source: str, label_csv: str | None, model: str | None, options: Mapping[str, str]) -> Opened:
    """Open a checkpoint: the folder of a run's, or as its authors released it.

    Args:
        source: As of `ECGFM.from_checkpoint`, as the other arguments.
        label_csv: The label CSV.
        model: The model family.
        options: Of the family.

    Returns:
        Its description, its labels, and its tensors by name.

    Raises:
        EcgpipeError: It is not available or not valid, or the labels do not fit it.
    """
    is_release = model is not None or Path(source, "config.json").is_file()
    if os.path.isdir(source) and (Path(source, "model.json").is_file() or not is_release):  # noqa: PTH112, maybe hf://
        return load_folder(source, label_csv)
    return load_file(source, label_csv, model, options)


def read_run(finished: "Run") -> OfRun:
    """Read how a finished run made its predictions, and check that its checkpoint is still there.

    Args:
        finished: The run.

    Returns:
        The labels with aggregation and threshold, and how recordings were read and cut.

    Raises:
        EcgpipeError: The checkpoint is gone or another one, or the calibration is gone or has changed.
    """
    from ecgpipe.preprocessing import preprocess  # here, because its settings bring pydantic

    description = describe_of_run(finished)
    predictions = finished.files("predictions")
    origin = provenance.read_origin(pq.read_schema(predictions[0])) if predictions else {}
    thresholds = (read_json(finished.outdir / "settings" / "examples.json") or {}).get("thresholds", {})
    by_name = thresholds if isinstance(thresholds, dict) else {}
    aggregation = origin.get("aggregation", {})
    named = tuple(Label(name, aggregation.get(name, "mean"), by_name.get(name)) for name in description.labels)
    if origin.get("heads"):
        logger.warning("the heads of this run (%s) are not applied: their labels are left out", finished.outdir)
    windows, assumed = preprocess.reading_from_settings(finished.config.preprocess, description.model_input)
    return OfRun(named, windows, assumed, _read_fit(finished, origin.get("calibration")))


def describe_of_run(finished: "Run") -> Description:
    """Read the description of a run's checkpoint, if it and the weights beside it are those of its results.

    Raises:
        EcgpipeError: They are gone, or of another checkpoint.
    """
    again = f"give the checkpoint to ECGFM.from_checkpoint, or run the workflow again with outdir={finished.outdir}"
    for path in (finished.model_json, finished.weights):
        if not path.is_file():
            raise EcgpipeError(f"outdir: {path} is gone, the checkpoint of this run; {again}")
    description = describe(finished.model_json)
    refuse_foreign_run(description)
    expected = finished.info.checkpoint.sha256
    if description.sha256 != expected:
        raise EcgpipeError(
            f"outdir: {finished.model_json} is of another checkpoint (sha256 {description.sha256[:12]}) than the "
            f"results (sha256 {expected[:12]}); {again}"
        )
    try:
        with safe_open(finished.weights, "pt") as file:
            made_by = json.loads((file.metadata() or {}).get("ecgpipe", "{}")).get("settings", {})
    except (OSError, SafetensorError, ValueError) as error:
        raise EcgpipeError(f"outdir: {finished.weights} is damaged: {error}; {again}") from error
    of_results = finished.info.settings.get("checkpoint", description.settings.get("checkpoint"))
    if made_by.get("checkpoint") != of_results:
        raise EcgpipeError(f"outdir: {finished.weights} is of another checkpoint than the results; {again}")
    return description


def refuse_foreign_run(description: Description) -> None:
    """Refuse a run whose checkpoint only fairseq-signals runs."""
    if description.backend != "native":
        raise EcgpipeError(
            f"outdir: {description.backend} computed this run, whose network ecgpipe does not have; run it by the "
            "workflow"
        )


def _read_fit(finished: "Run", facts: Mapping[str, object] | None) -> Calibration | None:
    """The calibration of a run's predictions, unchanged."""
    if not facts:
        return None
    path = finished.config.calibration
    fit = calibration.read_calibration(Path(path)) if path else None
    if fit is None or fit.sha256 != facts["sha256"]:
        raise EcgpipeError(
            f"outdir: the calibration of this run ({path}) has changed since; bring that file back, or run again"
        )
    return fit


def load_file(source: str, label_csv: str | None, model: str | None, options: Mapping[str, str]) -> Opened:
    """Load a checkpoint as its authors released it, and convert it in memory."""
    from ecgpipe.core import user_settings
    from ecgpipe.models import checkpoint

    opened = checkpoint.open_source(source, model=model, options=options)
    family, outputs = opened.family, opened.architecture.labels
    if label_csv is None and family.name == registry.DEFAULT:
        default = labels.locate(user_settings.MIMIC_IV_ECG)
        fits = default.is_file() and len(labels.read(default)) == outputs
        label_csv = user_settings.MIMIC_IV_ECG if fits else labels.BY_INDEX
    elif label_csv is None:
        label_csv = str(family.find_labels(outputs, source) or labels.BY_INDEX)
    named = checkpoint.name_outputs(_locate(label_csv), opened.architecture, family)
    description = checkpoint.describe_opened(opened, [label.name for label in named], options)
    return description, named, dict(opened.tensors)


def load_folder(folder: str, label_csv: str | None) -> Opened:
    """Load the files of the checkpoint stage. They name the labels; a label CSV, joined by name, has the rest."""
    from ecgpipe.models import checkpoint

    description = describe(Path(folder, "model.json"))
    weights = Path(folder, "model.safetensors")
    if not weights.is_file():
        raise EcgpipeError(f"checkpoint: {weights} is missing; give the folder checkpoint/ of a finished run")
    if label_csv is None:
        named = _find_labels(description.labels)
    elif label_csv == labels.BY_INDEX or labels.are_numbered(description.labels):  # no names to join by
        named = checkpoint.name_outputs(_locate(label_csv), description.architecture)
    else:
        named = tuple(labels.read_named(labels.locate(label_csv), description.labels, weights.with_name("model.json")))
    return description, named, load_weights(weights)


def load_weights(weights: Path) -> dict[str, Tensor]:
    """Load the tensors of a `model.safetensors`."""
    return safetensors.torch.load_file(weights)


def _locate(label_csv: str) -> str:
    """Locate a label CSV in this folder or ecgpipe's clone; "index" is returned unchanged."""
    return label_csv if label_csv == labels.BY_INDEX else str(labels.locate(label_csv))


def _find_labels(names: Sequence[str]) -> tuple[Label, ...]:
    """Find labels by their names: from ecgpipe's label CSV with exactly these names, else with the mean for each."""
    for path in labels.list_shipped():
        brought = labels.read(path)
        if [label.name for label in brought] == list(names):
            return brought
    if labels.are_numbered(names):
        logger.warning("%s", labels.explain_numbers(len(names)))
    elif names:
        logger.warning(
            "labels: none of ecgpipe's label CSVs has the names of this run, so the mean over the segments is used "
            "for each label; give the run's own label CSV as labels="
        )
    return tuple(Label(name, "mean", None) for name in names)
