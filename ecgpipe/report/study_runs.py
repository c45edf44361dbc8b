"""The runs of a study: what each is, and how their labels and recordings correspond."""

import json
import logging
import math
import re
import struct
from collections import Counter
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ecgpipe.core import installation, parquet, schemas
from ecgpipe.core.aligned_recordings import Aligned
from ecgpipe.core.describe_input import describe_input
from ecgpipe.core.errors import EcgpipeError
from ecgpipe.core.model_facts import Facts
from ecgpipe.core.model_input import ModelInput, load_input
from ecgpipe.core.run import Run, RunInfo
from ecgpipe.evaluation import crosswalk
from ecgpipe.evaluation.crosswalk import Mapped
from ecgpipe.models import labels, registry
from ecgpipe.report import deidentify

logger = logging.getLogger(__name__)

# The family of a model.json that names none.
ECG_FM = "ecg-fm"

# Values in a file of weights that are not parameters: what batch normalisation has counted.
_COUNTED = re.compile(r"(running_mean|running_var|num_batches_tracked)$")


class StudyRun(NamedTuple):
    """A finished run of one model, as far as a study shows it."""

    name: str  # of the model in the study, unique
    run: Run
    info: RunInfo
    paths: bool  # whether recordings and files may be named in a page: its setting `report.paths`
    predictions: list[Path]
    records: list[Path]
    ids: pa.Array  # (recordings,) that have a prediction, in the run's order
    labels: list[str]
    thresholds: dict[str, float]  # by label
    description: Mapping[str, Any]  # the content of model.json

    @property
    def family(self) -> str:
        """As the setting `model` has it."""
        return str(self.description.get("family", ECG_FM))

    @property
    def facts(self) -> Facts | None:
        """What is known of its family; None of a user's own model."""
        return registry.read_facts(self.family) if self.family in registry.list_families() else None

    @property
    def random_weights(self) -> bool:
        """Whether its predictions mean nothing."""
        return self.info.checkpoint.random_weights


def parse_run(text: str) -> tuple[str, Path]:
    """Tell name and folder of a run from an argument: NAME=FOLDER, or FOLDER, whose last part is the name.

    A folder whose path has an equals sign is taken for what it is.
    """
    name, sign, folder = text.partition("=")
    if sign and name and "/" not in name and not Path(text).is_dir():
        return name, Path(folder).expanduser()
    path = Path(text).expanduser()
    return path.resolve().name, path


def read_runs(folders: Sequence[tuple[str, Path]]) -> list[StudyRun]:
    """Read the runs of a study.

    Args:
        folders: Name and folder of each.

    Returns:
        The runs, in this order.

    Raises:
        EcgpipeError: There are fewer than two, two have one name, or a run lacks files.
    """
    if len(folders) < 2:
        raise EcgpipeError("RUN: a study needs at least two runs; give the folder of each, see ecgpipe study --help")
    names = [name for name, _ in folders]
    twice = next((name for name, count in Counter(names).items() if count > 1), None)
    if twice is not None:
        raise EcgpipeError(f"RUN: two runs are called {twice!r}; give each a name of its own: NAME=FOLDER")
    return [read_run(name, Run(folder)) for name, folder in folders]


def read_run(name: str, run: Run) -> StudyRun:
    """Read one run; errors as of `read_runs`."""
    predictions = run.files("predictions")
    columns = pq.read_schema(predictions[0]).names
    try:
        description = json.loads(run.model_json.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise EcgpipeError(f"RUN: cannot read {run.model_json}: {error}; run the workflow again") from error
    return StudyRun(
        name=name,
        run=run,
        info=run.info,
        paths=run.config.report.paths,
        predictions=predictions,
        records=run.files("records"),
        ids=parquet.column(predictions, "record_id"),
        labels=labels.label_columns(columns),
        thresholds=_read_thresholds(run, columns, predictions[0]),
        description=description,
    )


def _read_thresholds(run: Run, columns: Sequence[str], predictions: Path) -> dict[str, float]:
    """The decision threshold of each label; 0.5 where the run's label CSV is not there any more."""
    try:
        return labels.thresholds_by_name(labels.read_for(labels.locate_of_run(run), columns, predictions))
    except EcgpipeError as error:
        logger.warning("%s: thresholds are 0.5, because its label CSV cannot be read: %s", run.outdir, error)
        return dict.fromkeys(labels.label_columns(columns), labels.DEFAULT_THRESHOLD)


def name_in_page(run: StudyRun, number: int, paths: bool) -> str:
    """What a page calls a model: its name, but a number where folders may not be named and it is not a family's."""
    return run.name if paths or run.name in registry.list_families() else f"model {number + 1}"


def describe_model(run: StudyRun, paths: bool) -> dict[str, Any]:
    """What the table of models says of one.

    Args:
        run: The run.
        paths: Whether files may be named.

    Returns:
        Texts and numbers, by name; None where unknown.
    """
    info, facts = run.info if paths else deidentify.deidentify_run(run.info), run.facts
    declared = find_input(run)
    drift = info.precision.drift or {}
    return {
        "family": run.family,
        "title": facts.title if facts else run.family.removeprefix("own:"),
        "options": dict(run.description.get("options", {})),
        "input": describe_window(declared) if declared else None,
        "steps": describe_input(declared) if declared else [],
        "labels": len(run.labels),
        "width": read_width(run.run),
        "parameters": count_parameters(run.run.weights),
        "code_licence": facts.code_licence if facts else None,
        "weights_licence": facts.weights_licence if facts else None,
        "citation": facts.citation if facts else None,
        "trained_on": facts.trained_on if facts else None,
        "segments": info.counts.segments,
        "segments_per_s": info.throughput.segments_per_s,
        "device": ", ".join(info.hardware.inference),
        "precision": info.precision.used if isinstance(info.precision.used, str) else " and ".join(info.precision.used),
        "drift": drift.get("largest"),
        "drift_bound": drift.get("bound"),
        "compared": drift.get("compared"),
        "random_weights": info.checkpoint.random_weights,
        "uri": info.checkpoint.uri,
        "revision": info.checkpoint.revision,
        "sha256": info.checkpoint.sha256,
        "ecgpipe": info.ecgpipe,
        "finished": info.finished,
        "calibrated": info.calibration is not None,
    }


def read_width(run: Run) -> int | None:
    """How many numbers an embedding has; None for a run without embeddings."""
    if not (run.outdir / "embeddings").is_dir():
        return None
    width: int = pq.read_schema(run.files("embeddings")[0]).field("embedding").type.list_size
    return width


def find_input(run: StudyRun) -> ModelInput | None:
    """What the model takes: as model.json declares it, or as its family does; None of an unknown one."""
    declared = run.description.get("input")
    if declared is not None:
        return load_input(declared)
    if run.facts is None:
        return None
    variants = import_module(f"ecgpipe.models.{run.family.replace('-', '_')}.family").VARIANTS
    chosen = [value for value in run.description.get("options", {}).values() if value in variants]
    declared_input: ModelInput = variants[chosen[0]] if chosen else next(iter(variants.values()))
    return declared_input


def describe_window(declared: ModelInput) -> str:
    """What goes into a network, in a few words."""
    leads = f"{len(declared.leads)} leads" if len(declared.leads) > 1 else f"lead {declared.leads[0]}"
    return f"{leads}, {declared.rate:g} Hz, {declared.window_s:g} s{', mV' if declared.unit else ''}"


def count_parameters(weights: Path) -> int | None:
    """Count the parameters in a .safetensors file by its header; None where the file is not there or not readable.

    The header is JSON after its length, 8 bytes (https://github.com/huggingface/safetensors, "Format").
    """
    try:
        with weights.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            header = json.loads(file.read(length))
        shapes = [
            tensor["shape"] for name, tensor in header.items() if name != "__metadata__" and not _COUNTED.search(name)
        ]
        return sum(int(math.prod(shape)) for shape in shapes)
    except (OSError, ValueError, KeyError, struct.error):
        return None


def read_crosswalk(path: str, runs: Sequence[StudyRun]) -> tuple[Mapped, ...]:
    """Read the crosswalk of a study. A user's own must fit the labels of the runs; ecgpipe's is for all classifiers.

    Args:
        path: The setting `crosswalk`.
        runs: The runs.

    Returns:
        Its rows.

    Raises:
        EcgpipeError: As of `crosswalk.read_crosswalk` and `crosswalk.refuse_unknown_labels`.
    """
    file = labels.locate(path)
    mapped = crosswalk.read_crosswalk(file)
    if file.resolve() == (installation.root() / crosswalk.SHIPPED).resolve():
        return mapped
    known: dict[tuple[str, int], set[str]] = {}
    for run in runs:
        heads = labels.read_head_labels(run.predictions[0])
        own = [label for label in run.labels if label not in heads]
        for family, outputs in {row.classifier for row in mapped}:
            if run.family in family.split() and outputs == len(own):
                known.setdefault((family, outputs), set()).update(own)
    crosswalk.refuse_unknown_labels(mapped, known, file)
    families = {*registry.list_families(), *(run.family for run in runs)}
    for name in dict.fromkeys(name for row in mapped for name in row.family.split()):
        if name not in families:
            logger.warning("crosswalk: %s: %r is no model family and no model here: its rows map nothing", file, name)
    return mapped


class Labels(NamedTuple):
    """How the labels of the models correspond."""

    shared: dict[str, dict[str, str]]  # by statement, by model its label of the same meaning; of two models at least
    every: Mapping[str, Mapping[str, str]]  # the same, also of one model
    related: dict[str, dict[str, list[Mapped]]]  # by statement, by model its narrower and broader labels
    by_label: dict[str, str]  # the statement that a label of some model means, by the label
    statements: tuple[str, ...]  # all of the crosswalk

    def find_statement(self, name: str) -> str:
        """The statement that a name stands for: itself, or what it means as a label of some model."""
        return name if name in self.shared else self.by_label.get(name, name)


def map_labels(runs: Sequence[StudyRun], mapped: Sequence[Mapped]) -> Labels:
    """Find the statements that several models have.

    Labels of the same name that the crosswalk does not map are taken for the same where two runs are of one family, and
    where both are of heads that `ecgpipe probe` trained.

    Args:
        runs: The runs.
        mapped: Rows of a crosswalk.

    Raises:
        EcgpipeError: As of `crosswalk.find_shared`.
    """
    by_run = {run.name: (run.family, run.labels) for run in runs}
    every = crosswalk.find_shared(mapped, by_run, least=1)
    shared = {statement: labels_of for statement, labels_of in every.items() if len(labels_of) > 1}
    statements = tuple(dict.fromkeys(row.statement for row in mapped))
    shared |= _match_by_name(runs, every, statements)
    related: dict[str, dict[str, list[Mapped]]] = {}
    for run in runs:
        for row in crosswalk.select_rows(mapped, run.family, run.labels):
            if row.relation != "same":
                related.setdefault(row.statement, {}).setdefault(run.name, []).append(row)
    every = {**shared, **every}
    by_label = {label: statement for statement, labels_of in every.items() for label in labels_of.values()}
    return Labels(shared, every, related, by_label, statements)


def _match_by_name(
    runs: Sequence[StudyRun], every: Mapping[str, Mapping[str, str]], statements: Sequence[str]
) -> dict[str, dict[str, str]]:
    """The labels that the crosswalk does not map, and that have the same name and origin in several runs."""
    matched: dict[tuple[str, str], dict[str, str]] = {}
    for run in runs:
        mapped = {labels_of[run.name] for labels_of in every.values() if run.name in labels_of}
        heads = set(labels.read_head_labels(run.predictions[0]))
        for label in run.labels:
            if label not in mapped:
                origin = "a head of probe" if label in heads else run.family
                matched.setdefault((label, origin), {})[run.name] = label
    several = {key: labels_of for key, labels_of in matched.items() if len(labels_of) > 1}
    names = Counter(label for label, _ in several)
    return {
        f"{label} ({origin})" if label in statements or names[label] > 1 else label: labels_of
        for (label, origin), labels_of in several.items()
    }


def count_missing(runs: Sequence[StudyRun], aligned: Aligned, paths: bool) -> list[dict[str, Any]]:
    """Count the recordings that a run has no prediction for, by what its records say of them.

    Args:
        runs: The runs.
        aligned: Their recordings.
        paths: Whether reasons may have the inputs' own texts.

    Returns:
        Of each run its counts: `used`, `missing`, and `reasons` (`status`, `reason`, `count`), the most frequent first.
    """
    counts = []
    for number, run in enumerate(runs):
        ids = aligned.ids.filter(pa.array(aligned.rows[number] < 0))
        statuses, reasons = (
            parquet.column_of(run.records, column, ids).to_pylist() if len(ids) else []
            for column in ("status", "reason")
        )
        shorten = schemas.strip_particulars if paths else deidentify.generalise
        kinds = Counter(
            (status or "not in the run", shorten(reason) if reason else "")
            for status, reason in zip(statuses, reasons, strict=True)
        )
        counts.append(
            {
                "used": len(run.ids),
                "missing": len(ids),
                "reasons": [{"status": key[0], "reason": key[1], "count": n} for key, n in kinds.most_common()],
            }
        )
    return counts


def name_recordings(runs: Sequence[StudyRun], ids: pa.Array, paths: bool) -> list[str]:
    """What a page calls recordings: their ids, or their rows in the records of the first run that has them."""
    if paths:
        return list(ids.to_pylist())
    names: dict[str, str] = {}
    for number, run in enumerate(runs):
        unnamed = pa.array([record_id for record_id in ids.to_pylist() if record_id not in names], pa.string())
        known = unnamed.filter(pc.is_in(unnamed, parquet.column(run.records, "record_id")))
        suffix = f" of {name_in_page(run, number, paths)}" if number else ""
        for record_id, name in zip(known.to_pylist(), deidentify.number_recordings(run.records, known), strict=True):
            names[record_id] = f"{name}{suffix}"
    return [names.get(record_id, "recording") for record_id in ids.to_pylist()]
