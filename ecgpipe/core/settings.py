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

from pydantic import BaseModel, Field, ValidationError
from pydantic.fields import FieldInfo

from ecgpipe import __version__
from ecgpipe.core import options, typed, user_settings
from ecgpipe.core.atomic import read_json, write_json
from ecgpipe.core.errors import EcgpipeError
from ecgpipe.core.model_input import DEFAULT_INPUT, ModelInput, load_input
from ecgpipe.core.provenance import MEANING
from ecgpipe.core.user_settings import APART, LATER, Evaluation, Section, describe_mistake

# Below the folder of the results.
FOLDER = "settings"
PERFORMANCE = "performance.json"

# The key of results' metadata under which the SHA-256 of each stage's settings stands.
KEY = "settings"


class Checkpoint(Section):
    """Which checkpoint is converted, and what its outputs are called."""

    source: Annotated[str | None, APART] = Field(None, description="a local path, or hf://OWNER/REPO@REVISION/FILE")
    sha256: Annotated[str | None, APART] = Field(None, description="the expected SHA-256 of the file")
    labels: Annotated[str | None, APART] = Field(None, description="the label CSV, or index")
    content: str | None = Field(None, description="SHA-256 of a local file, or the address on the hub")
    label_names: list[str] | Literal["index"] = Field([], description="of the outputs, in order")
    backend: Literal["native", "fairseq"] = Field("native", description="what runs the network")
    model: Annotated[str | None, APART] = Field(None, description="model family, or the path of your own .py file")
    family: Annotated[str | None, LATER] = Field(None, description="the model family; null: ECG-FM")
    model_options: Annotated[dict[str, str], LATER] = Field({}, description="variants of the model")


class Manifest(user_settings.Manifest):
    """Which recordings there are, and how they are cut into shards."""

    shard_size: int | None = Field(
        1000, gt=0, description="recordings of a shard; null: as many as take five minutes to preprocess"
    )
    inputs: Annotated[list[str], APART] = Field([], description="folders, files, globs or tables of recordings")
    places: str | None = Field(None, description="SHA-256 of the inputs' absolute paths")
    # Checked against the recordings right after the scan; the manifest does not depend on it.
    evaluation: Annotated[Evaluation, APART] = Field(Evaluation(), description="what will be evaluated")
    labels: Annotated[str | None, APART] = Field(None, description="the label CSV of the evaluation")


class Preprocess(user_settings.Preprocess):
    """How recordings are read and cut."""

    model_input: Annotated[dict[str, Any] | None, LATER] = Field(
        None, description="as `model_input.dump_input` writes it; null: ECG-FM's, as always before there were others"
    )

    @property
    def declared_input(self) -> ModelInput:
        """The model's input."""
        return DEFAULT_INPUT if self.model_input is None else load_input(self.model_input)


class Precision(Section):
    """How the precision of the inference is chosen."""

    certain: bool = Field(False, description="whether it is float32 without a comparison")
    precision: Literal["auto", "float32", "float16", "bfloat16"] = Field(
        "auto", description="auto, float32, float16 or bfloat16"
    )
    max_drift: float = Field(0.01, gt=0, description="largest difference from float32 that auto accepts")
    device: Annotated[str, APART] = Field("auto", description="auto, cpu, cuda or cuda:N")
    model: Annotated[str | None, APART] = Field(None, description="the path of the user's own model, if it is one")


class Infer(Section):
    """How segments are inferred."""

    precision: Literal["float32", "float16", "bfloat16"] | None = Field(
        None, description="null: what the precision stage chose, or float32"
    )
    deterministic: bool = Field(False, description="identical results in every run")
    backend: Literal["native", "fairseq"] = Field("native", description="what runs the network")
    shards_per_part: int = Field(20, gt=0, description="shards in a part")
    device: Annotated[str, APART] = Field("auto", description="auto, cpu, cuda or cuda:N")
    batch_size: Annotated[int | None, APART] = Field(
        None, gt=0, description="segments at a time; null: 16 on a CPU, 256 on a GPU, fewer if longer than 5 s"
    )
    fairseq_python: Annotated[str | None, APART] = Field(None, description="the python of fairseq-signals' environment")
    model: Annotated[str | None, APART] = Field(None, description="the path of the user's own model, if it is one")


class Aggregate(Section):
    """How segments' outputs become one prediction per recording."""

    labels: Annotated[str | None, APART] = Field(None, description="the label CSV")
    calibration: Annotated[str | None, APART] = Field(None, description="JSON file of `calibrate`; null: none")
    heads: Annotated[list[str], APART] = Field([], description="head.safetensors of probe")
    aggregation: dict[str, str] | Literal["index"] = Field({}, description="by label")
    chosen_on: list[str] = Field(
        [], description="SHA-256 of the provenance of the predictions that thresholds were chosen on"
    )
    calibration_sha256: str | None = None
    heads_sha256: list[str] = Field([])


class Umap(user_settings.Umap):
    """The map of the embeddings."""


class Labelled(Section):
    """What a stage takes from the label CSV besides its columns `name` and `aggregation`."""

    labels: Annotated[str | None, APART] = Field(None, description="the label CSV")
    thresholds: dict[str, float] | Literal["index"] = Field({}, description="by label")


class Examples(Labelled):
    """Which recordings the report shows with their leads."""

    recordings: int = Field(80, ge=0, description="to choose")


class Attribute(user_settings.Attribution):
    """Which recordings and labels are attributed, and how."""

    device: Annotated[str, APART] = Field("auto", description="auto, cpu, cuda or cuda:N")
    batch_size: Annotated[int | None, APART] = Field(
        None, gt=0, description="steps of segments at a time; null: 16, on a GPU 64"
    )
    model: Annotated[str | None, APART] = Field(None, description="the path of the user's own model, if it is one")
    reading: Preprocess = Field(Preprocess(), description="how recordings are read again")


class Evaluate(Evaluation):
    """How predictions are evaluated against true labels."""

    labels: Annotated[str | None, APART] = Field(None, description="the label CSV")
    calibration: Annotated[str | None, APART] = Field(None, description="JSON file that calibrated the predictions")
    heads: Annotated[list[str], APART] = Field([], description="the heads whose labels are predicted")
    heads_sha256: list[str] = Field([])
    truth_sha256: str | None = None
    labels_sha256: str | None = None
    calibration_sha256: str | None = None


class Probe(Section):
    """How a probe is trained and measured. No run keeps these settings: the command takes them as options."""

    split: str | None = Field(None, description="the column that names the split of a recording")
    train: list[str] = Field(["train"], description="values of --split to train with")
    valid: list[str] = Field(["valid"], description="values of --split to choose the penalty with")
    test: list[str] = Field(["test"], description="values of --split to measure with")
    patient: str | None = Field(
        None,
        description="the column of the patient id: without --split, patients are split at random, 70, 10, 20 %; "
        "intervals resample patients. record_id: each recording is a patient",
    )
    seed: int = Field(42, ge=0, description="of the random split and the intervals")
    resamples: int = Field(1000, ge=0, description="of the bootstrap, for intervals; 0: none")


class Summary(Section):
    """What run.json states about the settings."""

    config: dict[str, Any] = Field({}, description="the user's settings that results depend on")
    resolved: Annotated[dict[str, Any], APART] = Field({}, description="all settings, as run.json lists them")
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
    paths: bool = Field(True, description="false: number the recordings instead of naming ids, files and folders")
    reading: Preprocess = Field(Preprocess(), description="how recordings are read again")


class Figures(Shown):
    """What the figures show."""


class Report(Shown):
    """What the report shows."""

    evaluation: bool = Field(True, description="whether the evaluation is shown")
    title: str = Field("ECG-FM results", description="headline")
    map_points: int = Field(100_000, gt=0, description="largest number of points on the map")
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

# Settings without an option of their own: files, the content of files, or facts of a run.
_NO_OPTION = frozenset(
    {
        *("source", "labels", "calibration", "heads", "truth", "mapping", "inputs", "keep_segments", "shards_per_part"),
        *("content", "label_names", "places", "aggregation", "chosen_on", "thresholds", "files", "config", "resolved"),
        *("labels_sha256", "calibration_sha256", "heads_sha256", "truth_sha256", "version", "compared", "certain"),
        *("attention", "attribution", "evaluation", "family", "model_options", "model_input", "crosswalk_sha256"),
        "models",
    }
)
PREFIX = "settings."  # of these options' names among the parsed ones

Model = TypeVar("Model", bound=Section)


def dump_identity(model: BaseModel) -> dict[str, Any]:
    """Return the settings of a model that results depend on, as JSON values."""
    values = model.model_dump(mode="json")
    identity: dict[str, Any] = {}
    for name, field in type(model).model_fields.items():
        value = getattr(model, name)
        is_as_before = LATER in field.metadata and value == field.get_default()
        if not _is_apart(field) and not is_as_before:
            identity[name] = dump_identity(value) if isinstance(value, BaseModel) else values[name]
    return identity


def build_content(stage: str, section: Section) -> dict[str, Any]:
    """Build the content of STAGE.json."""
    return {"stage": stage, "meaning": MEANING.get(stage, 1), **dump_identity(section)}


def hash_section(stage: str, section: Section) -> str:
    """The SHA-256 of a stage's settings, which its results name."""
    return hash_json(build_content(stage, section))


def add_sha256(stage: str, section: Section, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Add the SHA-256 of a stage's settings to the facts of its result, as `provenance.inherit_facts` returns them."""
    return {**facts, KEY: {**facts.get(KEY, {}), stage: hash_section(stage, section)}}


def write_sections(folder: Path, stages: Mapping[str, Section]) -> list[str]:
    """Write the settings of a run, those that differ from what is there.

    Args:
        folder: `settings/`, which no other run writes to meanwhile.
        stages: By stage, as `stage_settings.derive_stages` returns them.

    Returns:
        The stages whose settings differ from before.
    """
    changed = []
    for name, section in stages.items():
        path = folder / f"{name}.json"
        if read_json(path) != build_content(name, section):
            write_json(path, build_content(name, section))
            changed.append(name)
    performance = {name: _performance_values(section) for name, section in stages.items()}
    if read_json(folder / PERFORMANCE) != performance:
        write_json(folder / PERFORMANCE, performance)
    return changed


def read_section(stage: str, model: type[Model], path: Path) -> Model:
    """Read a stage's settings.

    Args:
        stage: Its name.
        model: Of its settings.
        path: STAGE.json; the values in `performance.json` beside it are added.

    Returns:
        The settings.

    Raises:
        EcgpipeError: The file is missing, or does not hold the settings of this stage.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content.get("stage") != stage:
            raise ValueError(f"it is for the stage {content.get('stage')}")
        own_values = {key: value for key, value in content.items() if key not in ("stage", "meaning")}
        performance = read_json(path.with_name(PERFORMANCE)) or {}
        return model.model_validate({**own_values, **performance.get(stage, {})})
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise EcgpipeError(f"--settings: cannot read {path} as the settings of {stage}: {error}") from error


def add_arguments(parser: argparse.ArgumentParser, model: type[Section], several: bool = False) -> None:
    """Add the options for a stage's settings: a settings file, or several, and one option per setting."""
    nargs = "+" if several else None
    parser.add_argument("--settings", type=Path, nargs=nargs, metavar="FILE", help="settings/STAGE.json of a run")
    options.add(parser, "set", help="single settings, which take precedence over --settings and the defaults")
    add_options(parser, model)


def add_options(parser: argparse.ArgumentParser, model: type[Section]) -> None:
    """Add an option for each setting, for a command whose settings are in no file."""
    for key, field in _select_optional(model):
        default = field.get_default(call_default_factory=True)
        name = key.rpartition(".")[2].replace("_", "-")
        keywords: dict[str, Any] = {"dest": PREFIX + key, "help": (field.description or "").replace("%", "%%")}
        if isinstance(default, bool):
            parser.add_argument(
                f"--no-{name}" if default else f"--{name}", action="store_const", const=not default, **keywords
            )
            continue
        keywords["metavar"] = name.upper().replace("-", "_")
        shown = " ".join(default) if isinstance(default, list) else default
        keywords["help"] += "" if default is None or default == [] else f" (default {shown})"
        if isinstance(default, list) or "list" in str(field.annotation):
            keywords["nargs"] = "*"
        if name == "fairseq-python":  # the only setting that is a path
            keywords["type"] = os.path.expanduser
        parser.add_argument(f"--{name}", **keywords)


def _select_optional(model: type[Section]) -> Iterator[tuple[str, FieldInfo]]:
    """Yield the key and field of each setting that has an option of its own."""
    for name, field in model.model_fields.items():
        if name == "reading":
            yield from ((f"{name}.{key}", inner) for key, inner in _select_optional(Preprocess))
        elif name not in _NO_OPTION:
            yield name, field


def parse_arguments(stage: str, model: type[Model], args: argparse.Namespace, path: Path | None = None) -> Model:
    """Return the settings of a stage's command from its parsed options.

    Args:
        stage: Name of the stage.
        model: Model of its settings.
        args: Parsed options, those of `add_arguments` among them.
        path: One of several files of --settings; None for the only one.

    Returns:
        The settings.

    Raises:
        EcgpipeError: A key is unknown, a value is out of range, or the file cannot be read.
    """
    path = path or args.settings
    values: dict[str, Any] = read_section(stage, model, path).model_dump() if path else {}
    pairs = list(_select_given(vars(args)).items())
    overrides = typed.parse_pairs(args.set, "--set", example=f"{next(iter(model.model_fields))}=3")
    pairs += [(one.key, one.value) for one in overrides]
    for key, value in pairs:
        *sections, last = key.split(".")
        inside = values
        for section in sections:
            inside[section] = dict(inside.get(section) or {})
            inside = inside[section]
        inside[last] = value
    return _validate(model, values, "--set ")


def parse_options(model: type[Model], args: argparse.Namespace) -> Model:
    """Return the settings of a command from the parsed options of `add_options`; mistakes are an `EcgpipeError`."""
    return _validate(model, _select_given(vars(args)), "--")


def _select_given(options: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that were given by an option of their own, by their keys."""
    return {
        key.removeprefix(PREFIX): value
        for key, value in options.items()
        if key.startswith(PREFIX) and value is not None
    }


def _validate(model: type[Model], values: Mapping[str, Any], prefix: str) -> Model:
    """Make a model of settings, or name each mistake; `prefix` stands before a key as the user typed it."""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        mistakes = (describe_mistake(dict(item), model, prefix) for item in error.errors())
        raise EcgpipeError("\n".join(mistakes)) from error


def require_path(key: str, value: str | None) -> Path:
    """Return a required path, and refuse a missing one."""
    if not value:
        raise EcgpipeError(f"--{key}: missing; give it, or --settings")
    return Path(value)


def _performance_values(section: Section) -> dict[str, Any]:
    """The settings that no result depends on."""
    values = section.model_dump(mode="json")
    return {name: values[name] for name, field in type(section).model_fields.items() if _is_apart(field)}


def _is_apart(field: FieldInfo) -> bool:
    return APART in field.metadata


def hash_json(value: object) -> str:
    """The SHA-256 of a JSON value, independent of the order of its keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def format_mark(made_by: Mapping[str, str]) -> str:
    """The text by which a page, a figure or a text file names its settings."""
    return "ecgpipe-settings:" + "".join(f" {stage}={sha256}" for stage, sha256 in made_by.items())


# Seconds of a recording that are drawn and attributed at most, so that the page's size is bounded.
DRAWN_S = 30.0
