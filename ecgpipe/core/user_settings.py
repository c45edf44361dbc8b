"""The settings that a user gives: the only source of their names, types, defaults and help."""

import difflib
import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from ecgpipe.core.results import FOLDERS, path_of

MIMIC_IV_ECG = "config/labels/mimic_iv_ecg.csv"  # what ECG-FM's released classifier was trained on


class Section(BaseModel):
    """A group of settings: unknown keys and wrong types are refused, nothing is changed after validation."""

    # Not strict: Snakemake passes the values within `--config umap='{neighbors: 30}'` as text.
    model_config = ConfigDict(extra="forbid", frozen=True, coerce_numbers_to_str=True, protected_namespaces=())


# Marks a setting that no result's numbers depend on: speed, what is kept, or the path of a file (its content counts
# instead). Such settings are stored in settings/performance.json, and a change of them recomputes nothing.
APART = "apart"

# Marks a setting that a stage has gained since: where it has its default it is not part of what results depend on, so
# that the results of a run before it stay.
LATER = "later"


class Manifest(Section):
    """How the inputs are cut."""

    shard_size: int | None = Field(
        None,
        gt=0,
        description="recordings that one CPU job preprocesses; null: as outdir has it, at first 1000, and on a cluster "
        "as many as take five minutes",
    )
    ptbxl: Literal["records500", "records100"] = Field(
        "records500", description="which recordings of PTB-XL to use, at 500 or 100 Hz, if both are present"
    )


class Preprocess(Section):
    """Recordings to segments."""

    assume_sample_rate: float | None = Field(
        None, gt=0, description="sampling rate in Hz, for files that do not state it (.npy)"
    )
    assume_leads: list[str] | None = Field(
        None, description="lead names in order, for files that do not name their leads (.npy)"
    )
    assume_unit: Literal["mV", "uV", "V", "nV"] | None = Field(None, description="unit, for files that do not state it")
    segment_s: float = Field(
        5.0,
        ge=0.1,
        le=60,
        description="length of a segment in seconds, which ECG-FM alone lets you choose (it was trained on 5)",
    )
    tail: Literal["drop", "overlap"] = Field(
        "drop",
        description="rest after the last whole segment: drop it, or add a segment that ends with the recording",
    )
    short: Literal["skip", "pad"] = Field(
        "skip",
        description="recordings shorter than a segment: skip, or pad with zeros (from 1 s on), masked if the model can",
    )
    missing_leads: Literal["error", "zero"] = Field(
        "error",
        description="leads neither present nor derivable: error skips the recording, zero fills in zeros",
    )
    min_leads: int = Field(
        2,
        ge=1,
        le=12,
        description="number of leads that a recording must have at least; 1 for wearables, with zero above",
    )
    keep_segments: Annotated[bool, APART] = Field(
        False, description="keep segments/ after inference, 0.12 MB per segment, or 0.06 MB from files of 16 bits"
    )
    parts_ahead: Annotated[int | None, APART] = Field(
        None,
        ge=1,
        description="how many parts' segments may wait for inference on the disk, unless they are kept; null: two more "
        "than GPUs on one machine, 20 on a cluster",
    )


class Inference(Section):
    """Segments to logits, embeddings and attention."""

    shards_per_part: int | None = Field(
        None,
        gt=0,
        description="shards that one GPU job infers; null: as outdir has it, at first 20, and on a cluster 5",
    )
    attention: Annotated[bool, APART] = Field(
        True, description="write the attention of the last layer, which the report shows over the signals"
    )
    device: Annotated[str, APART] = Field(
        "auto",
        pattern=r"^(auto|cpu|cuda(:[0-9]+)?)$",
        description="auto (a GPU if PyTorch finds one), cpu, cuda or cuda:N",
    )
    batch_size: Annotated[int | None, APART] = Field(
        None,
        gt=0,
        description="segments per batch; null: 16 on a CPU, 256 on a GPU, fewer if segments are longer than 5 s; "
        "halved when memory runs out",
    )
    precision: Literal["auto", "float32", "float16", "bfloat16"] = Field(
        "auto",
        description="auto: float32 on a CPU; on a GPU float16, if the results of the run's first segments differ by at "
        "most max_drift from those in float32",
    )
    max_drift: float = Field(
        0.01,
        gt=0,
        description="largest difference that auto accepts, of a probability, or 1 - cosine similarity of an embedding",
    )
    deterministic: bool = Field(
        False,
        description="identical results in every run on one kind of machine with one number of threads",
    )
    backend: Literal["native", "fairseq"] = Field(
        "native",
        description="what runs the network: ecgpipe, or fairseq-signals in its environment, which has more models",
    )
    fairseq_python: Annotated[str | None, APART] = Field(
        None,
        min_length=1,
        description="python of an environment that has fairseq-signals, for backend fairseq and for verify; null: "
        "for verify, that of the environment that conda creates",
    )


class Umap(Section):
    """The map of the embeddings."""

    neighbors: int | None = Field(None, gt=1, description="neighbours of each point; null: 15, or 3 below 100 segments")
    min_dist: float = Field(0.1, ge=0, lt=1, description="how tightly the map packs its points")
    random_state: int = Field(42, ge=0, lt=2**32, description="seed of the map")
    fit_segments: int = Field(
        20_000, ge=5, description="fit the map on at most this many segments, and place the others on the fitted map"
    )


class Attribution(Section):
    """Attribution of labels to leads and times."""

    recordings: int = Field(
        2,
        ge=0,
        description="number of recordings to attribute, those with the highest probabilities; 0: none",
    )
    steps: int | None = Field(
        None, gt=0, description="steps of the integral, a fixed number; null: as many as `tolerance` takes"
    )
    tolerance: float = Field(
        0.05,
        gt=0,
        lt=1,
        description="completeness error up to which steps are added: by what share of the logit's difference from a "
        "flat line the attributions' sum may miss it",
    )


class Evaluation(Section):
    """Predictions against true labels."""

    truth: Annotated[str | None, APART] = Field(
        None,
        description="CSV or Parquet table with record_id and a column of 0 and 1 per label; null: the input tables",
    )
    mapping: dict[str, str] = Field(
        {},
        description="label of each column, e.g. {1dAVb: 1st degree atrioventricular block}; COLUMN:CODE if a column "
        "lists codes",
    )
    patient: str | None = Field(
        None,
        description="column of the patient id, the bootstrap unit of the intervals; null: the recording is the unit",
    )
    split: str | None = Field(
        None, description="column that names the split of a recording; null: evaluate all recordings"
    )
    # Not `on`, which YAML takes for true.
    split_value: str | None = Field(None, description="split to evaluate, e.g. test")
    subgroups: list[str] = Field(
        [],
        description="columns to evaluate each value of; COLUMN:EDGES for ranges of a number, e.g. age:18,40,65,80",
    )
    resamples: int = Field(1000, ge=0, description="bootstrap resamples for the intervals; 0: no intervals")
    seed: int = Field(42, ge=0, description="seed of the resamples")

    @property
    def asked(self) -> bool:
        """Whether there is anything to evaluate."""
        return self.truth is not None or bool(self.mapping)


class Report(Section):
    """The page to open."""

    title: str = Field("ECG-FM results", description="headline of the report")
    recordings: int = Field(80, ge=0, description="recordings that the page shows with their signals, chosen by rule")
    map_points: int = Field(
        100_000, gt=0, description="largest number of points on the map; of more, a random sample is drawn"
    )
    columns: list[str] | None = Field(
        None,
        description="columns of the input tables to colour and filter by; null: all numbers and categories, or none "
        "if paths is false",
    )
    paths: bool = Field(
        True,
        description="false: report.html, figures/, and the pages of show and compare do not name record ids, files, "
        "folders and columns, which may identify patients; `snakemake --report` always names paths",
    )


class StudySettings(Section):
    """How the runs of several models are put side by side; also the options of `ecgpipe study`."""

    title: str = Field("Models side by side", description="title of the page")
    crosswalk: Annotated[str, APART] = Field(
        "config/labels/crosswalk.csv", description="CSV that says which labels mean the same statement"
    )
    patient: str | None = Field(
        None,
        description="column of the patient id: intervals resample patients, and the probe splits them (as the runs' "
        "settings, without)",
    )
    split: str | None = Field(None, description="column that names the split of a recording, to evaluate one of them")
    split_value: str | None = Field(None, description="the split to evaluate, e.g. test")
    resamples: int = Field(1000, ge=0, description="of the bootstrap, for intervals; 0: none")
    seed: int = Field(42, ge=0, description="of the intervals, the probe's split and all samples")
    recordings: int = Field(40, ge=0, description="recordings that the page shows with their leads, at most")
    attributions: int = Field(
        0,
        ge=0,
        description="of these, in how many each model attributes the statement on which they disagree: needs "
        "the runs' weights, and minutes without a GPU",
    )
    map_recordings: int = Field(3000, ge=0, description="recordings on each map, at most")


class OfModel(Section):
    """What each model of a study has of its own: settings of `Config` by the same names. All others are shared."""

    model: str | None = Field(None, min_length=1, description="model family, or the path of your own .py file")
    checkpoint: str | None = Field(None, min_length=1, description="null: the default weights of the model")
    model_options: dict[str, str] | None = Field(None, description="variants of the model")
    sha256: str | None = Field(None, description="expected SHA-256 of the checkpoint file")
    labels: str | None = Field(None, min_length=1, description="a label CSV; null: the labels of the model")
    calibration: str | None = Field(None, min_length=1, description="JSON file of `ecgpipe calibrate`")
    heads: list[str] | None = Field(None, description="head.safetensors files that `probe` trained")


# A model's name is that of its folder, and stands in keys with dots.
_NAME_OF_MODEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")


def _name_models(value: object) -> object:
    """Name each model of a study, of a list or of a mapping by name; what is neither is left for pydantic to refuse."""
    if value is None:
        return {}
    if isinstance(value, list):
        names = [Path(one).stem if str(one).endswith(".py") else str(one) for one in value]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"{twice[0]} is there twice; name each, e.g. {{a: {{model: {twice[0]}}}, b: ...}}")
        value = {name: {"model": str(one)} for name, one in zip(names, value, strict=True)}
    if not isinstance(value, dict):
        return value
    for name in map(str, value):
        if not _NAME_OF_MODEL.fullmatch(name) or name in FOLDERS or name == "study":
            raise ValueError(
                f"{name!r} cannot be a model's name, as its folder lies beside manifest/ and settings/; give one of "
                "letters, digits, - and _, e.g. {my-model: {model: /path/my_family.py}}"
            )
    return {
        str(name): {"model": str(name), **(own or {})} if isinstance(own, dict | None) else own
        for name, own in value.items()
    }


class Config(Section):
    """Every setting of a run."""

    input: Annotated[str | list[str], APART] = Field(
        description="a folder, a file, a glob, a CSV or Parquet table with a `path` column, or a list of these"
    )
    outdir: Annotated[str, APART] = Field("results", min_length=1, description="folder of the results")
    checkpoint: Annotated[str, APART] = Field(
        "hf://wanglab/ecg-fm/mimic_iv_ecg_finetuned.pt",
        min_length=1,
        description="a local file or folder, or hf://OWNER/REPO@REVISION/FILE on the Hugging Face hub; as it is here: "
        "the default weights of the model",
    )
    model: Annotated[str | None, APART] = Field(
        None,
        min_length=1,
        description="model family, such as ecgfounder (`ecgpipe models` lists them), or the path of your own .py file; "
        "null: what the checkpoint tells",
    )
    model_options: Annotated[dict[str, str], APART] = Field(
        {},
        description="variants of the model, e.g. {preprocessing: plain} of ecgfounder: see `ecgpipe models NAME`",
    )
    models: Annotated[
        dict[str, OfModel],
        APART,
        BeforeValidator(_name_models, json_schema_input_type=list[str] | dict[str, OfModel | None] | None),
    ] = Field(
        {},
        description="several models, each in its folder below outdir, and study.html: [ecg-fm, ecgfounder], or with "
        "settings of their own {ecgfounder: {checkpoint: PATH}}: model, checkpoint, model_options, sha256, labels, "
        "calibration, heads",
    )
    sha256: Annotated[str | None, APART] = Field(
        None,
        pattern="^[0-9a-fA-F]{64}$",
        description="expected SHA-256 of the checkpoint file; null: as the hub states",
    )
    labels: Annotated[str, APART] = Field(
        MIMIC_IV_ECG,
        min_length=1,
        description="a label CSV: name and aggregation of the model's outputs, in order; or index, which names them "
        "output_00, output_01, ...; as it is here: the labels of the model",
    )
    calibration: Annotated[str | None, APART] = Field(
        None,
        min_length=1,
        description="JSON file of `ecgpipe calibrate`, applied to the probabilities; null: no calibration",
    )
    max_failed_fraction: float = Field(
        0.05,
        ge=0,
        le=1,
        description="fraction of recordings that may fail; above it the run ends with an error, at its end",
    )
    heads: Annotated[list[str], APART] = Field(
        [], description="head.safetensors files that `probe` trained on this checkpoint's embeddings: additional labels"
    )
    manifest: Manifest = Field(default_factory=Manifest, description="how the inputs are cut")
    preprocess: Preprocess = Field(default_factory=Preprocess, description="recordings to segments")
    inference: Inference = Field(default_factory=Inference, description="segments to logits, embeddings and attention")
    umap: Umap = Field(default_factory=Umap, description="the map of the embeddings")
    attribution: Attribution = Field(
        default_factory=Attribution, description="attribution of labels to leads and times, by integrated gradients"
    )
    evaluation: Evaluation = Field(
        default_factory=Evaluation,
        description="evaluation of predictions against true labels, if truth or mapping is given",
    )
    report: Report = Field(default_factory=Report, description="the page to open")
    study: Annotated[StudySettings, APART] = Field(
        default_factory=StudySettings, description="with `models`, the page that puts them side by side"
    )

    @property
    def inputs(self) -> list[str]:
        """The inputs as a list, also if the user gave a single one."""
        return [self.input] if isinstance(self.input, str) else self.input

    @property
    def labels_by_index(self) -> bool:
        """Whether outputs are named by their number; the checkpoint stage then writes the file `labels`."""
        return self.labels == index_csv(self.outdir)


def index_csv(outdir: str) -> str:
    """The path of the label CSV that the checkpoint stage writes if outputs are named by their number."""
    return f"{outdir.rstrip('/')}/{path_of('index_labels')}"


def describe_mistake(item: dict[str, Any], model: type[BaseModel] | None = None, prefix: str = "") -> str:
    """Describe an error of pydantic in one line: the key, the value, and how to fix it.

    Args:
        item: An item of a ValidationError's `errors()`.
        model: The model of the settings; None for `Config`.
        prefix: Text before the key in the user's syntax, e.g. "--".

    Returns:
        A sentence.
    """
    *sections, key = (str(part) for part in item["loc"] if part not in ("str", "list[str]"))
    where = prefix + ".".join([*sections, key])
    if item["type"] == "extra_forbidden":
        if len(sections) == 2 and sections[0] == "models" and key in Config.model_fields:
            return (
                f"{where}: not of one model, as all models of a study share it; give {prefix}{key} once beside models"
            )
        known = _fields(sections, model or Config)
        close = difflib.get_close_matches(key, known, n=1)
        fix = f"did you mean {close[0]!r}?" if close else f"known keys are {', '.join(known)}"
        return f"{where}: no such setting; {fix}"
    said = item["msg"].removeprefix("Value error, ")
    return f"{where}: {item['input']!r} is not valid: {said[0].lower()}{said[1:]}"


def _fields(sections: list[str], model: type[BaseModel]) -> list[str]:
    if model is Config and sections[:1] == ["models"]:
        return list(OfModel.model_fields)
    for section in sections:
        annotation = model.model_fields[section].annotation
        if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
            return []
        model = annotation
    return list(model.model_fields)
