"""What the results of each stage depend on: one frozen model per stage, and the files in which a run keeps them.

`outdir/settings/STAGE.json` holds everything that the stage's results depend on: its settings, the version of its
computation (`provenance.MEANING`), and the content of files that are settings, such as the label CSV. The stage's
command reads it, its rule takes it as an input, and each result names its SHA-256. What no result depends on (the
device, the batch size, the paths of files whose content is in STAGE.json) stands in
`outdir/settings/performance.json`.
"""

import argparse
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, Field, ValidationError
from pydantic.fields import FieldInfo

from ecgpipe import __version__
from ecgpipe.core import config, options
from ecgpipe.core.atomic import write_json
from ecgpipe.core.config import APART, Section, mistake
from ecgpipe.core.errors import EcgpipeError
from ecgpipe.core.provenance import MEANING

# Below the folder of the results.
FOLDER = "settings"
PERFORMANCE = "performance.json"

# The key of results' metadata that says by stage which settings made them.
KEY = "settings"


class Checkpoint(Section):
    """Which checkpoint is converted, and what its outputs are called."""

    source: Annotated[str | None, APART] = Field(None, description="a local path, or hf://OWNER/REPO@REVISION/FILE")
    sha256: Annotated[str | None, APART] = Field(None, description="what the file's SHA-256 must be")
    labels: Annotated[str | None, APART] = Field(None, description="the label CSV, or index")
    content: str | None = Field(None, description="SHA-256 of a local file, or the address on the hub")
    label_names: list[str] | Literal["index"] = Field([], description="of the outputs, in order")
    backend: Literal["native", "fairseq"] = Field("native", description="what is to compute")


class Manifest(config.Manifest):
    """Which recordings there are, and how they are cut into shards."""

    inputs: Annotated[list[str], APART] = Field([], description="folders, files, globs or tables of recordings")
    places: str | None = Field(None, description="SHA-256 of the inputs' absolute paths")
    # Held against the recordings as soon as these are known; the manifest is the same.
    evaluation: Annotated[config.Evaluation, APART] = Field(config.Evaluation(), description="what will be evaluated")
    labels: Annotated[str | None, APART] = Field(None, description="the label CSV of the evaluation")


class Preprocess(config.Preprocess):
    """How recordings are read and cut."""


class Precision(Section):
    """How the precision of the inference is chosen."""

    certain: bool = Field(False, description="whether it is float32 without a comparison")
    precision: Literal["auto", "float32", "float16", "bfloat16"] = Field("auto", description="auto, or which")
    max_drift: float = Field(0.01, gt=0, description="difference from float32 that auto accepts")
    device: Annotated[str, APART] = Field("auto", description="auto, cpu, cuda or cuda:N")


class Infer(Section):
    """How segments are inferred."""

    precision: Literal["float32", "float16", "bfloat16"] | None = Field(
        None, description="null: what the precision stage chose, or float32"
    )
    deterministic: bool = Field(False, description="the same bits from run to run")
    backend: Literal["native", "fairseq"] = Field("native", description="what computes")
    shards_per_part: int = Field(20, gt=0, description="shards in a part")
    device: Annotated[str, APART] = Field("auto", description="auto, cpu, cuda or cuda:N")
    batch_size: Annotated[int | None, APART] = Field(
        None, gt=0, description="segments at a time; null: 16 on a CPU, 256 on a GPU, fewer if longer than 5 s"
    )
    fairseq_python: Annotated[str | None, APART] = Field(None, description="the python of fairseq-signals' environment")


class Aggregate(Section):
    """How segments' outputs become one prediction per recording."""

    labels: Annotated[str | None, APART] = Field(None, description="the label CSV")
    calibration: Annotated[str | None, APART] = Field(None, description="what `calibrate` wrote; null: none")
    heads: Annotated[list[str], APART] = Field([], description="head.safetensors of probe")
    aggregation: dict[str, str] | Literal["index"] = Field({}, description="by label")
    chosen_on: list[str] = Field(
        [], description="SHA-256 of what is known of the predictions thresholds were chosen on"
    )
    calibration_sha256: str | None = None
    heads_sha256: list[str] = Field([])


class Umap(config.Umap):
    """The map of the embeddings."""


class Labelled(Section):
    """What a stage takes from the label CSV besides its columns `name` and `aggregation`."""

    labels: Annotated[str | None, APART] = Field(None, description="the label CSV")
    thresholds: dict[str, float] | Literal["index"] = Field({}, description="by label")


class Examples(Labelled):
    """Which recordings the report shows with their leads."""

    recordings: int = Field(80, ge=0, description="to choose")


class Attribute(config.Attribution):
    """Which recordings and labels are attributed, and how."""

    device: Annotated[str, APART] = Field("auto", description="auto, cpu, cuda or cuda:N")
    batch_size: Annotated[int | None, APART] = Field(
        None, gt=0, description="steps of segments at a time; null: 16, on a GPU 64"
    )
    reading: Preprocess = Field(Preprocess(), description="how recordings are read again")


class Evaluate(config.Evaluation):
    """How predictions are evaluated against true labels."""

    labels: Annotated[str | None, APART] = Field(None, description="the label CSV")
    calibration: Annotated[str | None, APART] = Field(None, description="what the predictions were calibrated by")
    heads: Annotated[list[str], APART] = Field([], description="the heads whose labels are predicted")
    heads_sha256: list[str] = Field([])
    truth_sha256: str | None = None
    labels_sha256: str | None = None
    calibration_sha256: str | None = None


class Probe(Section):
    """How a probe is trained and measured. No run keeps these settings: the command takes them as options."""

    split: str | None = Field(None, description="the column that says which split a recording is in")
    train: list[str] = Field(["train"], description="values of --split to train with")
    valid: list[str] = Field(["valid"], description="values of --split to choose the penalty with")
    test: list[str] = Field(["test"], description="values of --split to measure with")
    patient: str | None = Field(
        None,
        description="the column that says whose a recording is: without --split, patients are split at random, 70, 10, "
        "20 %; intervals resample patients. record_id: each recording is a patient",
    )
    seed: int = Field(42, ge=0, description="of the random split and the intervals")
    resamples: int = Field(1000, ge=0, description="of the bootstrap, for intervals; 0: none")


class Summary(Section):
    """What run.json says of the settings."""

    config: dict[str, Any] = Field({}, description="what results depend on, as the user gave it")
    resolved: Annotated[dict[str, Any], APART] = Field({}, description="all settings, as run.json tells them")
    files: dict[str, Any] = Field({}, description="SHA-256 of the files that are settings")
    attention: bool = Field(True, description="whether attention is written")
    compared: bool = Field(False, description="whether precisions are compared")
    version: str = Field(__version__, description="of ecgpipe")


class Shown(Section):
    """What the pages and figures take from the settings."""

    labels: Annotated[str | None, APART] = Field(None, description="the label CSV")
    labels_sha256: str | None = None
    attention: bool = Field(True, description="whether attention is shown")
    attribution: bool = Field(True, description="whether attributions are shown")
    paths: bool = Field(True, description="false: number the recordings, and name no id, file or folder")
    reading: Preprocess = Field(Preprocess(), description="how recordings are read again")


class Figures(Shown):
    """What the figures show."""


class Report(Shown):
    """What the report shows."""

    evaluation: bool = Field(True, description="whether the evaluation is shown")
    title: str = Field("ECG-FM results", description="headline")
    map_points: int = Field(100_000, gt=0, description="points of the map at most")
    columns: list[str] | None = Field(
        None, description="of the inputs' tables, to colour and filter by; null: all, none if paths is false"
    )


class Verdict(Section):
    """When a run ends with an error."""

    max_failed_fraction: float = Field(0.05, ge=0, le=1, description="of the recordings that may fail")


# In the order of the flow.
STAGES: dict[str, type[Section]] = {
    "checkpoint": Checkpoint,
    "manifest": Manifest,
    "preprocess": Preprocess,
    "precision": Precision,
    "infer": Infer,
    "aggregate": Aggregate,
    "umap": Umap,
    "examples": Examples,
    "attribute": Attribute,
    "evaluate": Evaluate,
    "summary": Summary,
    "figures": Figures,
    "report": Report,
    "verdict": Verdict,
}

# Settings that a command is not given by an option of their own: they are files or what these say, or facts of a run.
_NO_OPTION = frozenset(
    {
        *("source", "labels", "calibration", "heads", "truth", "mapping", "inputs", "keep_segments", "shards_per_part"),
        *("content", "label_names", "places", "aggregation", "chosen_on", "thresholds", "files", "config", "resolved"),
        *("labels_sha256", "calibration_sha256", "heads_sha256", "truth_sha256", "version", "compared", "certain"),
        *("attention", "attribution", "evaluation"),
    }
)
PREFIX = "settings."  # of these options' names among the parsed ones

Model = TypeVar("Model", bound=Section)


def identity(model: BaseModel) -> dict[str, Any]:
    """The settings of a model that results depend on, as JSON has them."""
    told = model.model_dump(mode="json")
    found: dict[str, Any] = {}
    for name, field in type(model).model_fields.items():
        if not _is_apart(field):
            value = getattr(model, name)
            found[name] = identity(value) if isinstance(value, BaseModel) else told[name]
    return found


def content(stage: str, given: Section) -> dict[str, Any]:
    """What STAGE.json holds."""
    return {"stage": stage, "meaning": MEANING.get(stage, 1), **identity(given)}


def sha256(stage: str, given: Section) -> str:
    """What results say of the settings that made them."""
    return digest(content(stage, given))


def marked(stage: str, given: Section, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Facts of a result, as `provenance.inherited` gives them, with the settings of the stage that writes it."""
    return {**facts, KEY: {**facts.get(KEY, {}), stage: sha256(stage, given)}}


def write(folder: Path, stages: Mapping[str, Section]) -> list[str]:
    """Write the settings of a run, those that differ from what is there.

    Args:
        folder: `settings/`, which this run has alone.
        stages: As of `of_run`.

    Returns:
        The stages whose settings differ from before.
    """
    changed = []
    for name, given in stages.items():
        path = folder / f"{name}.json"
        if read_json(path) != content(name, given):
            write_json(path, content(name, given))
            changed.append(name)
    performance = {name: _aside(given) for name, given in stages.items()}
    if read_json(folder / PERFORMANCE) != performance:
        write_json(folder / PERFORMANCE, performance)
    return changed


def read(stage: str, model: type[Model], path: Path) -> Model:
    """Read a stage's settings.

    Args:
        stage: Its name.
        model: Of its settings.
        path: STAGE.json; what is in `performance.json` beside it is added.

    Returns:
        The settings.

    Raises:
        EcgpipeError: The file is missing, or not such a file.
    """
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
        if told.get("stage") != stage:
            raise ValueError(f"it is for the stage {told.get('stage')}")
        own = {key: value for key, value in told.items() if key not in ("stage", "meaning")}
        beside = read_json(path.with_name(PERFORMANCE)) or {}
        return model.model_validate({**own, **beside.get(stage, {})})
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise EcgpipeError(f"--settings: cannot read {path} as the settings of {stage}: {error}") from error


def add_arguments(parser: argparse.ArgumentParser, model: type[Section]) -> None:
    """The options by which a stage's command is given its settings: a file, or by hand one by one."""
    parser.add_argument("--settings", type=Path, metavar="FILE", help="settings/STAGE.json of a run")
    options.add(parser, "set", help="settings by hand, on top of those of --settings or of the defaults")
    add_options(parser, model)


def add_options(parser: argparse.ArgumentParser, model: type[Section]) -> None:
    """Add an option for each setting, for a command whose settings are in no file."""
    for key, field in _by_hand(model):
        default = field.get_default(call_default_factory=True)
        name = key.rpartition(".")[2].replace("_", "-")
        told: dict[str, Any] = {"dest": PREFIX + key, "help": (field.description or "").replace("%", "%%")}
        if isinstance(default, bool):
            parser.add_argument(
                f"--no-{name}" if default else f"--{name}", action="store_const", const=not default, **told
            )
            continue
        told["metavar"] = name.upper().replace("-", "_")
        shown = " ".join(default) if isinstance(default, list) else default
        told["help"] += "" if default is None or default == [] else f" (default {shown})"
        if isinstance(default, list) or "list" in str(field.annotation):
            told["nargs"] = "*"
        if name == "fairseq-python":  # the one that is a path
            told["type"] = os.path.expanduser
        parser.add_argument(f"--{name}", **told)


def _by_hand(model: type[Section]) -> Iterator[tuple[str, FieldInfo]]:
    """The settings that have an option of their own, by their keys."""
    for name, field in model.model_fields.items():
        if name == "reading":
            yield from ((f"{name}.{key}", inner) for key, inner in _by_hand(Preprocess))
        elif name not in _NO_OPTION:
            yield name, field


def of_arguments(stage: str, model: type[Model], args: argparse.Namespace) -> Model:
    """The settings that a stage's command was given.

    Args:
        stage: Its name.
        model: Of its settings.
        args: With the options of `add_arguments`.

    Returns:
        The settings.

    Raises:
        EcgpipeError: A key is unknown, a value is out of range, or the file cannot be read.
    """
    told: dict[str, Any] = read(stage, model, args.settings).model_dump() if args.settings else {}
    options = {key.removeprefix(PREFIX): value for key, value in vars(args).items() if key.startswith(PREFIX)}
    pairs = [(key, value) for key, value in options.items() if value is not None]
    for text in args.set:
        key, equals, value = text.partition("=")
        if not equals:
            raise EcgpipeError(f"--set: {text!r} is not KEY=VALUE; give e.g. --set {next(iter(model.model_fields))}=3")
        try:
            pairs.append((key, yaml.safe_load(value)))
        except yaml.YAMLError as error:
            raise EcgpipeError(f"--set {key}: {value!r} is no value: {error}; quote it") from error
    for key, value in pairs:
        *sections, last = key.split(".")
        inside = told
        for section in sections:
            inside[section] = dict(inside.get(section) or {})
            inside = inside[section]
        inside[last] = value
    try:
        return model.model_validate(told)
    except ValidationError as error:
        raise EcgpipeError("\n".join(mistake(dict(item), model, "--set ") for item in error.errors())) from error


def of_options(model: type[Model], args: argparse.Namespace) -> Model:
    """The settings that a command was given by the options of `add_options`.

    Args:
        model: Of the settings.
        args: With these options.

    Returns:
        The settings.

    Raises:
        EcgpipeError: A value is out of range, or of another type.
    """
    values = {key.removeprefix(PREFIX): value for key, value in vars(args).items() if key.startswith(PREFIX)}
    try:
        return model.model_validate({key: value for key, value in values.items() if value is not None})
    except ValidationError as error:
        raise EcgpipeError("\n".join(mistake(dict(item), model, "--") for item in error.errors())) from error


def path(key: str, given: str | None) -> Path:
    """A path that a command must be given, by an option or by its settings."""
    if not given:
        raise EcgpipeError(f"--{key}: not given; give it, or --settings")
    return Path(given)


def _aside(given: Section) -> dict[str, Any]:
    """The settings that no result depends on."""
    told = given.model_dump(mode="json")
    return {name: told[name] for name, field in type(given).model_fields.items() if _is_apart(field)}


def _is_apart(field: FieldInfo) -> bool:
    return APART in field.metadata


def _plain(value: object) -> object:
    return value.model_dump(mode="json") if isinstance(value, BaseModel) else value


def read_json(path: Path) -> Any:  # noqa: ANN401, as json has it
    """What a JSON file holds; None where there is none, or something else."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def digest(value: object) -> str:
    """The SHA-256 of something that JSON can hold, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def mark(made_by: Mapping[str, str]) -> str:
    """What a page, a figure or a text says of its settings."""
    return "ecgpipe-settings:" + "".join(f" {stage}={one}" for stage, one in made_by.items())


# A longer recording is drawn, and attributed, up to here, so that the page's size is bounded.
DRAWN_S = 30.0
