"""The settings that a user gives: the only source of their names, types, defaults and help."""

import difflib
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from ecgpipe.core.results import path_of

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

    shard_size: int = Field(1000, gt=0, description="recordings that one CPU job preprocesses")
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
        False, description="keep segments/ after inference, 0.12 MB per segment"
    )


class Inference(Section):
    """Segments to logits, embeddings and attention."""

    shards_per_part: int = Field(20, gt=0, description="shards that one GPU job infers")
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
        4,
        ge=0,
        description="number of recordings to attribute, those with the highest probabilities; 0: none",
    )
    steps: int = Field(48, gt=0, description="steps of the integral; more steps are more exact and take longer")


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
        known = _fields(sections, model or Config)
        close = difflib.get_close_matches(key, known, n=1)
        fix = f"did you mean {close[0]!r}?" if close else f"known keys are {', '.join(known)}"
        return f"{where}: no such setting; {fix}"
    return f"{where}: {item['input']!r} is not valid: {item['msg'][0].lower()}{item['msg'][1:]}"


def _fields(sections: list[str], model: type[BaseModel]) -> list[str]:
    for section in sections:
        annotation = model.model_fields[section].annotation
        if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
            return []
        model = annotation
    return list(model.model_fields)
