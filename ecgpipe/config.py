"""Write the files generated from the settings' definition: config/config.yaml, its JSON schema, docs/config.md.

`Config` is the only source of the settings' keys, types, defaults and help. The Snakefile validates what the user gave
with `load` before any job starts.
"""

import argparse
import difflib
import json
import logging
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.fields import FieldInfo

from ecgpipe import calibration, labels
from ecgpipe.atomic import whole
from ecgpipe.errors import EcgpipeError

logger = logging.getLogger(__name__)


# The settings that are paths, besides two in sections: see `_with_home`.
_PATHS = ("input", "outdir", "checkpoint", "labels", "calibration", "heads")


class Section(BaseModel):
    """A group of settings: unknown keys and wrong types are refused, nothing is changed after validation."""

    # Not strict: Snakemake passes the values within `--config umap='{neighbors: 30}'` as text.
    model_config = ConfigDict(extra="forbid", frozen=True, coerce_numbers_to_str=True)


# Marks a setting that no result's numbers depend on: how fast, how much is kept, or the path of a file, whose content
# counts instead. Such settings stand in settings/performance.json and make nothing again.
APART = "apart"


class Manifest(Section):
    """How the inputs are cut."""

    shard_size: int = Field(1000, gt=0, description="recordings that one CPU job preprocesses")
    ptbxl: Literal["records500", "records100"] = Field(
        "records500", description="which recordings of PTB-XL, at 500 or 100 Hz, where both are there"
    )


class Preprocess(Section):
    """Recordings to segments."""

    assume_sample_rate: float | None = Field(None, gt=0, description="Hz, for files that state no sample rate (.npy)")
    assume_leads: list[str] | None = Field(None, description="lead names in order, for files that name none (.npy)")
    assume_unit: Literal["mV", "uV", "V", "nV"] | None = Field(None, description="for files that state no unit")
    segment_s: float = Field(5.0, ge=0.1, le=60, description="length of a segment in seconds; ECG-FM was trained on 5")
    tail: Literal["drop", "overlap"] = Field(
        "drop",
        description="the end that fills no segment: drop it, or add a segment that ends where the recording ends",
    )
    short: Literal["skip", "pad"] = Field(
        "skip", description="recordings shorter than a segment: skip, or pad with a mask (from 1 s on)"
    )
    missing_leads: Literal["error", "zero"] = Field(
        "error",
        description="leads that are neither there nor derivable: error skips the recording, zero fills in zeros",
    )
    min_leads: int = Field(
        2, ge=1, le=12, description="leads of the twelve that a recording must have; 1 takes wearables, with zero above"
    )
    keep_segments: Annotated[bool, APART] = Field(
        False, description="keep segments/ after inference, 0.12 MB per segment"
    )


class Inference(Section):
    """Segments to logits, embeddings and attention."""

    shards_per_part: int = Field(20, gt=0, description="shards that one GPU job infers")
    attention: Annotated[bool, APART] = Field(
        True, description="write the last layer's attention, which the report's traces show"
    )
    device: Annotated[str, APART] = Field(
        "auto",
        pattern=r"^(auto|cpu|cuda(:[0-9]+)?)$",
        description="auto (a GPU where there is one), cpu, cuda or cuda:N",
    )
    batch_size: Annotated[int | None, APART] = Field(
        None,
        gt=0,
        description="segments at a time; null: 16 on a CPU, 256 on a GPU, fewer if segments are longer; "
        "halved where memory runs out",
    )
    precision: Literal["auto", "float32", "float16", "bfloat16"] = Field(
        "auto",
        description="auto: float32 on a CPU; on a GPU float16, if the run's first segments come out within max_drift "
        "of float32",
    )
    max_drift: float = Field(
        0.01,
        gt=0,
        description="largest difference of a probability, or of 1 - cosine of an embedding, that auto accepts",
    )
    deterministic: bool = Field(
        False,
        description="the same bits from run to run on one kind of machine with as many threads",
    )
    backend: Literal["native", "fairseq"] = Field(
        "native",
        description="what computes: ecgpipe's own network, or fairseq-signals in its environment, which has others too",
    )
    fairseq_python: Annotated[str | None, APART] = Field(
        None,
        min_length=1,
        description="the python of an environment that has fairseq-signals, for backend fairseq and for verify; null: "
        "the one that conda makes, for verify alone",
    )


class Umap(Section):
    """The map of the embeddings."""

    neighbors: int | None = Field(None, gt=1, description="null: 15, or 3 below 100 segments")
    min_dist: float = Field(0.1, ge=0, lt=1, description="how tightly the map packs its points")
    random_state: int = Field(42, ge=0, lt=2**32, description="seed of the map")
    fit_segments: int = Field(
        20_000, ge=5, description="fit at most so many segments, place the rest by what was fitted"
    )


class Attribution(Section):
    """Which leads and times speak for a label."""

    recordings: int = Field(
        4, ge=0, description="attribute so many of the highest probabilities, each to its label; 0: none"
    )
    steps: int = Field(48, gt=0, description="of the integral; more are more exact, and take longer")


class Evaluation(Section):
    """Predictions against true labels."""

    truth: Annotated[str | None, APART] = Field(
        None,
        description="CSV or Parquet table with a record_id and a column of 0 and 1 per label; null: the inputs' tables",
    )
    mapping: dict[str, str] = Field(
        {},
        description="what a column is called as a label, e.g. {1dAVb: 1st degree atrioventricular block}; COLUMN:CODE "
        "where a column lists codes",
    )
    patient: str | None = Field(
        None, description="column of the patient, the unit of the intervals; null: the recording"
    )
    split: str | None = Field(None, description="column that says which recordings to take; null: all")
    # Not `on`, which YAML takes for true.
    split_value: str | None = Field(None, description="what it says of those, e.g. test")
    subgroups: list[str] = Field(
        [], description="columns to measure each value of; COLUMN:EDGES for bands of a number, e.g. age:18,40,65,80"
    )
    resamples: int = Field(1000, ge=0, description="of the bootstrap that the intervals come from; 0: none")
    seed: int = Field(42, ge=0, description="of the resamples")

    @property
    def asked(self) -> bool:
        """Whether there is anything to evaluate."""
        return self.truth is not None or bool(self.mapping)


class Report(Section):
    """The page to open."""

    title: str = Field("ECG-FM results", description="headline of the report")
    recordings: int = Field(80, ge=0, description="recordings that the page holds with their leads, chosen by rule")
    map_points: int = Field(100_000, gt=0, description="points of the map at most; more are drawn as a sample")
    columns: list[str] | None = Field(
        None,
        description="of the inputs' tables, to colour and filter by; null: all that are numbers or categories, none if "
        "paths is false",
    )
    paths: bool = Field(
        True,
        description="false: report.html, figures/, and pages of show and compare name no record ids, files, folders "
        "and columns, which may identify patients; `snakemake --report` names paths in any case",
    )


class Config(Section):
    """Every setting of a run."""

    input: Annotated[str | list[str], APART] = Field(
        description="a folder, a file, a glob, a CSV or Parquet table with a `path` column, or a list of these"
    )
    outdir: Annotated[str, APART] = Field("results", min_length=1, description="where results go")
    checkpoint: Annotated[str, APART] = Field(
        "hf://wanglab/ecg-fm/mimic_iv_ecg_finetuned.pt",
        min_length=1,
        description="a local path, or hf://OWNER/REPO@REVISION/FILE on the Hugging Face hub",
    )
    sha256: Annotated[str | None, APART] = Field(
        None,
        pattern="^[0-9a-fA-F]{64}$",
        description="what the checkpoint file's SHA-256 must be; null: as the hub states",
    )
    labels: Annotated[str, APART] = Field(
        labels.MIMIC_IV_ECG,
        min_length=1,
        description="a label CSV: names and aggregation of the model's outputs, in order; or index, which calls them "
        "output_00, output_01, ...",
    )
    calibration: Annotated[str | None, APART] = Field(
        None,
        min_length=1,
        description="the JSON file that `python -m ecgpipe calibrate` wrote, to apply to the probabilities; null: none",
    )
    max_failed_fraction: float = Field(
        0.05, ge=0, le=1, description="the run ends with an error, after all else, if more recordings could not be read"
    )
    heads: Annotated[list[str], APART] = Field(
        [], description="head.safetensors files that `probe` trained on this checkpoint's embeddings: labels besides"
    )
    manifest: Manifest = Field(default_factory=Manifest, description="how the inputs are cut")
    preprocess: Preprocess = Field(default_factory=Preprocess, description="recordings to segments")
    inference: Inference = Field(default_factory=Inference, description="segments to logits, embeddings and attention")
    umap: Umap = Field(default_factory=Umap, description="the map of the embeddings")
    attribution: Attribution = Field(
        default_factory=Attribution, description="which leads and times speak for a label, by integrated gradients"
    )
    evaluation: Evaluation = Field(
        default_factory=Evaluation, description="predictions against true labels, where truth or mapping is given"
    )
    report: Report = Field(default_factory=Report, description="the page to open")

    @property
    def inputs(self) -> list[str]:
        """The inputs as a list, also where one was given."""
        return [self.input] if isinstance(self.input, str) else self.input

    @property
    def labels_by_index(self) -> bool:
        """Whether the outputs are called by their number; the checkpoint stage then writes the file `labels`."""
        return self.labels == _index_csv(self.outdir)


def load(given: Mapping[str, Any], root: Path) -> Config:
    """Validate what the user gave.

    Args:
        given: Snakemake's config, that is config.yaml, further config files and --config merged.
        root: The folder of the Snakefile, where a relative `labels` path is looked for after the current folder.

    Returns:
        The settings, with `labels` made a path that exists, or will when the checkpoint stage has run.

    Raises:
        EcgpipeError: A key is unknown, a value is of the wrong type or out of range, or a path is not there.
    """
    if given.get("input") in (None, "", []):
        raise EcgpipeError("input: not given; say which recordings, e.g. snakemake --cores 8 --config input=/data/ecgs")
    try:
        settings = Config.model_validate(dict(given))
    except ValidationError as error:
        raise EcgpipeError("\n".join(mistake(dict(item)) for item in error.errors())) from error
    settings = _with_home(settings)
    # os.path, not pathlib: a text that the system takes for no path at all, e.g. one too long, is not there either.
    for path in settings.inputs:
        if not any(character in path for character in "*?[") and not os.path.exists(path):  # noqa: PTH110
            raise EcgpipeError(f"input: {path!r} does not exist; check the path")
    if not settings.checkpoint.startswith("hf://") and not os.path.isfile(settings.checkpoint):  # noqa: PTH113
        raise EcgpipeError(
            f"checkpoint: {settings.checkpoint!r} is not a file; give a local .pt file or hf://OWNER/REPO/FILE"
        )
    _refuse_unreadable("checkpoint", settings.checkpoint)
    _check_backend(settings)
    for path in settings.heads:
        if not os.path.isfile(path):  # noqa: PTH113
            raise EcgpipeError(f"heads: {path!r} is not a file; give the head.safetensors that probe wrote")
        _refuse_unreadable("heads", path)
    made = calibration.read(Path(settings.calibration)) if settings.calibration else None
    names = None
    if settings.labels == labels.BY_INDEX:
        found = _index_csv(settings.outdir)
    else:
        found = str(labels.located(settings.labels, root))
        given_labels = labels.read(Path(found))
        names = [label.name for label in given_labels]
        if made:
            calibration.refuse_foreign(made, given_labels)
        labels.refuse_foreign(Path(found), given_labels, {"calibration": made.sha256 if made else None})
    if settings.heads and names is not None:
        from ecgpipe import heads  # here, because pyarrow takes half a second, of every job that reads the Snakefile

        files = [Path(path) for path in settings.heads]
        names += [name for some in heads.called(files, list(map(heads.load, files)), names) for name in some]
    _check_evaluation(settings.evaluation, names)
    paths = {"outdir": settings.outdir, "checkpoint": settings.checkpoint, "labels": settings.labels}
    if settings.calibration is not None:
        paths["calibration"] = settings.calibration
    if settings.evaluation.truth is not None:
        paths["evaluation.truth"] = settings.evaluation.truth
    many = {"input": settings.inputs, "heads": settings.heads}
    for key, path in [*((key, path) for key, some in many.items() for path in some), *paths.items()]:
        _check_path(key, path)
    return settings.model_copy(update={"labels": found})


def _with_home(settings: Config) -> Config:
    """The settings with the home folder for ~ in paths, which a shell leaves in `--config outdir=~/x`, and YAML too."""

    def at_home(value: str | list[str] | None) -> str | list[str] | None:
        if isinstance(value, list):
            return [os.path.expanduser(path) for path in value]  # noqa: PTH111, a Path has one slash for the two in hf://
        return value and os.path.expanduser(value)  # noqa: PTH111

    changed: dict[str, object] = {key: at_home(getattr(settings, key)) for key in _PATHS}
    evaluation, inference = settings.evaluation, settings.inference
    changed["evaluation"] = evaluation.model_copy(update={"truth": at_home(evaluation.truth)})
    changed["inference"] = inference.model_copy(update={"fairseq_python": at_home(inference.fairseq_python)})
    return settings.model_copy(update=changed)


def _index_csv(outdir: str) -> str:
    """Where the checkpoint stage writes the labels that are the outputs' numbers."""
    return f"{outdir.rstrip('/')}/checkpoint/labels.csv"


def _refuse_unreadable(key: str, path: str | None) -> None:
    """Refuse a file that this user may not read, hours before a job would find out."""
    if path is not None and os.path.isfile(path) and not os.access(path, os.R_OK):  # noqa: PTH113
        raise EcgpipeError(
            f"{key}: no permission to read {path!r}; see its permissions (`ls -l`), or give another file"
        )


def _check_evaluation(given: Evaluation, names: list[str] | None) -> None:
    """Refuse what `evaluate` could not make sense of, hours later. Labels may not be known yet (None)."""
    if given.truth is not None and not os.path.isfile(given.truth):  # noqa: PTH113
        raise EcgpipeError(f"evaluation.truth: {given.truth!r} is not a file; check the path")
    _refuse_unreadable("evaluation.truth", given.truth)
    if not given.asked and (given.patient or given.split or given.subgroups):
        raise EcgpipeError(
            "evaluation: neither truth nor mapping is given, so there is nothing to evaluate; say by one of them where "
            "the true labels are"
        )
    if (given.split is None) != (given.split_value is None):
        raise EcgpipeError(
            "evaluation: split says which column, split_value what it says of the recordings to take; give both or "
            "neither"
        )
    for label in given.mapping.values():
        if names is not None and label not in names:
            close = difflib.get_close_matches(label, names, n=1)
            mend = f"did you mean {close[0]!r}?" if close else f"there are {', '.join(names)}"
            raise EcgpipeError(f"evaluation.mapping: {label!r} is no label of the label file; {mend}")


def _check_backend(settings: Config) -> None:
    """Refuse what fairseq-signals cannot do."""
    inference = settings.inference
    if inference.backend == "native":
        return
    if not inference.fairseq_python:
        raise EcgpipeError(
            "inference.fairseq_python: not given, and inference.backend is fairseq; give the python of an environment "
            "made from workflow/envs/fairseq-signals.yaml, as docs/verify.md says"
        )
    if inference.precision not in ("auto", "float32") or inference.deterministic:
        raise EcgpipeError(
            "inference.backend: fairseq computes in float32 and is not told to be deterministic; leave "
            "inference.precision and inference.deterministic as they are by default"
        )
    if settings.attribution.recordings:
        raise EcgpipeError(
            f"attribution.recordings: {settings.attribution.recordings} cannot be attributed with inference.backend "
            "fairseq, which gives no gradients; give 0"
        )


def _check_path(key: str, path: str) -> None:
    """Refuse what would be taken for something else on its way through Snakemake and the commands."""
    if "{" in path or "}" in path or any(character < " " for character in path):
        raise EcgpipeError(
            f"{key}: {path!r} has a brace or a control character, which Snakemake takes for something else; rename it, "
            "or give a link to it"
        )
    if path.startswith("-"):
        raise EcgpipeError(f"{key}: {path!r} begins with a dash, as options do; give its whole path, from / on")
    if key == "outdir" and re.match(r"[A-Za-z][A-Za-z0-9+.-]*:", path):
        raise EcgpipeError(f"outdir: {path!r} is an address; give the path of a folder on this machine, from / on")


def mistake(item: dict[str, Any], model: type[BaseModel] | None = None, prefix: str = "") -> str:
    """One line for one thing that pydantic found: the key, the value, and how to fix it.

    Args:
        item: One of a ValidationError's `errors()`.
        model: Of the settings; None for `Config`.
        prefix: What stands before the key where the user gave it.

    Returns:
        A sentence.
    """
    *sections, key = (str(part) for part in item["loc"] if part not in ("str", "list[str]"))
    where = prefix + ".".join([*sections, key])
    if item["type"] == "extra_forbidden":
        known = _fields(sections, model or Config)
        close = difflib.get_close_matches(key, known, n=1)
        mend = f"did you mean {close[0]!r}?" if close else f"known keys are {', '.join(known)}"
        return f"{where}: no such setting; {mend}"
    return f"{where}: {item['input']!r} won't do: {item['msg'][0].lower()}{item['msg'][1:]}"


def _fields(sections: list[str], model: type[BaseModel]) -> list[str]:
    for section in sections:
        annotation = model.model_fields[section].annotation
        if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
            return []
        model = annotation
    return list(model.model_fields)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `python -m ecgpipe config`."""
    parser.add_argument("--root", type=Path, default=Path(), help="the project's folder (default: this one)")


def run(args: argparse.Namespace) -> None:
    """Write the generated files."""
    for name, content in generated().items():
        with whole(args.root / name) as temporary:
            temporary.write_text(content, encoding="utf-8")
        logger.info("wrote %s", args.root / name)


def generated() -> dict[str, str]:
    """The content of each generated file, by its path below the project's folder."""
    schema = json.dumps(Config.model_json_schema(), indent=2, ensure_ascii=False) + "\n"
    return {"config/config.yaml": _yaml(), "config/config.schema.json": schema, "docs/config.md": _markdown()}


def _keys(model: type[BaseModel] = Config, prefix: str = "") -> Iterator[tuple[str, FieldInfo, type[BaseModel] | None]]:
    """Every key with its field, and for a section the section's model, in the order of definition."""
    for name, field in model.model_fields.items():
        section = field.annotation if isinstance(field.annotation, type) else None
        section = section if section is not None and issubclass(section, BaseModel) else None
        yield prefix + name, field, section
        if section is not None:
            yield from _keys(section, f"{prefix}{name}.")


def _default(field: FieldInfo) -> str:
    """A field's default as YAML."""
    value = None if field.is_required() else field.default
    return yaml.safe_dump(value, default_flow_style=True).splitlines()[0]


def _yaml() -> str:
    lines = [
        "# Every setting with its default. Override on the command line, e.g.",
        "#     snakemake --cores 8 --config input=/data/ptbxl outdir=/scratch/out umap='{neighbors: 30}'",
        "# or copy what you change to a file of your own and add --configfile mine.yaml.",
        "# Written by `make docs` from ecgpipe/config.py, where the settings are defined.",
    ]
    for key, field, section in _keys():
        indent, name = "  " * key.count("."), key.rpartition(".")[2]
        if section is not None:
            lines += ["", f"# {field.description}", f"{indent}{name}:"]
        else:
            lines.append(f"{indent}{name}: {_default(field)}  # {field.description}")
    return "\n".join(lines) + "\n"


def _markdown() -> str:
    lines = [
        "# Settings",
        "",
        "Give them on the command line (`--config input=/data/ecgs umap='{neighbors: 30}'`) or in a YAML file of",
        "your own (`--configfile mine.yaml`). Anything else than these keys is refused.",
        "",
        "Written by `make docs` from `ecgpipe/config.py`.",
        "",
        "| key | default | meaning |",
        "| --- | --- | --- |",
    ]
    for key, field, section in _keys():
        if section is None:
            default = "(required)" if field.is_required() else f"`{_default(field)}`"
            lines.append(f"| `{key}` | {default} | {field.description} |")
    return "\n".join(lines) + "\n"
