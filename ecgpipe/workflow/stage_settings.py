"""Derive the settings of each stage from the user's settings and the files that these name."""

import atexit
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ecgpipe.core import provenance, results, settings
from ecgpipe.core.atomic import read_json, write_json
from ecgpipe.core.errors import EcgpipeError
from ecgpipe.core.model_input import dump_if_other
from ecgpipe.core.provenance import hash_file
from ecgpipe.core.study_settings import Study
from ecgpipe.core.user_settings import Config, Section
from ecgpipe.models import labels, registry
from ecgpipe.models.labels import Label
from ecgpipe.models.registry import Family
from ecgpipe.workflow import model_choice, shard_sizes

SEEN = "checkpoint-file.json"  # the SHA-256 of a local checkpoint, with the path, size and time of the file then


def is_precision_certain(user_settings: Config) -> bool:
    """Whether inference computes in float32 without a comparison: by request, on a CPU, or by fairseq-signals."""
    inference = user_settings.inference
    return (
        inference.backend != "native"
        or inference.precision == "float32"
        or (inference.precision == "auto" and inference.device == "cpu")
    )


def derive_stages(
    user_settings: Config, checkpoint_content: str, certain: bool, family: Family | None = None
) -> dict[str, Section]:
    """Derive the settings of each stage of a run.

    Args:
        user_settings: The validated settings; the files that they name are read.
        checkpoint_content: Identity of the checkpoint, by `identify_checkpoint`.
        certain: Whether the precision is float32 without a comparison.
        family: The model; None: as `model_choice.find_family_of` has it.

    Returns:
        By stage, in the order of the flow; without `attribute` and `evaluate` where those are switched off.

    Raises:
        EcgpipeError: A file cannot be read.
    """
    rows = None if user_settings.labels_by_index else labels.read(Path(user_settings.labels))
    files = _hash_files(user_settings)
    family = family or model_choice.find_family_of(user_settings)
    declared = family.choose_input(user_settings.model_options)
    reading = settings.Preprocess(**user_settings.preprocess.model_dump(), model_input=dump_if_other(declared))
    own = str(family.path) if family.path else None
    stages = {
        **_derive_input_stages(user_settings, rows, checkpoint_content, reading, family),
        **_derive_inference_stages(user_settings, rows, files, certain, own),
        **_derive_analysis_stages(user_settings, rows, files, reading, own),
        **_derive_page_stages(user_settings, files, reading, certain),
    }
    switched_off = {"attribute"} if not user_settings.attribution.recordings else set()
    switched_off |= {"evaluate"} if not user_settings.evaluation.asked else set()
    return {name: stage for name, stage in stages.items() if name not in switched_off}


def derive_study(user_settings: Config, models: Sequence[str]) -> Study:
    """Derive the settings of a study's page.

    Args:
        user_settings: Those that all models share; the files that they name are read.
        models: Their names.

    Raises:
        EcgpipeError: A file cannot be read.
    """
    evaluation, given = user_settings.evaluation, user_settings.study.model_dump()
    # What is not given for the study is as for the evaluation of each run.
    given["patient"] = given["patient"] or evaluation.patient
    if given["split"] is None and given["split_value"] is None:
        given |= {"split": evaluation.split, "split_value": evaluation.split_value}
    return Study(
        **given,
        models=list(models),
        truth=evaluation.truth,
        mapping=evaluation.mapping,
        truth_sha256=hash_file(Path(evaluation.truth)) if evaluation.truth else None,
        crosswalk_sha256=hash_file(labels.locate(given["crosswalk"])),
    )


def _hash_files(user_settings: Config) -> dict[str, Any]:
    """Hash the files that are settings: `labels`, `calibration`, `heads` and `truth`."""
    evaluation = user_settings.evaluation
    return {
        "labels": "index" if user_settings.labels_by_index else hash_file(Path(user_settings.labels)),
        "calibration": hash_file(Path(user_settings.calibration)) if user_settings.calibration else None,
        "heads": [hash_file(Path(path)) for path in user_settings.heads],
        "truth": hash_file(Path(evaluation.truth)) if evaluation.truth else None,
    }


def _derive_input_stages(
    user_settings: Config,
    rows: Sequence[Label] | None,
    checkpoint_content: str,
    reading: settings.Preprocess,
    family: Family,
) -> dict[str, Section]:
    """Derive the settings of the stages before inference; `rows` is None if outputs are named by number."""
    return {
        "checkpoint": settings.Checkpoint(
            source=user_settings.checkpoint,
            sha256=user_settings.sha256,
            labels="index" if rows is None else user_settings.labels,
            content=checkpoint_content,
            label_names="index" if rows is None else [label.name for label in rows],
            backend=user_settings.inference.backend,
            model=str(family.path) if family.path else family.name,
            family=None if family.name == registry.DEFAULT else f"{family.name}{family.sha256 or ''}",
            model_options=family.full_options(user_settings.model_options),
        ),
        "manifest": settings.Manifest(
            **user_settings.manifest.model_dump(),
            inputs=user_settings.inputs,
            evaluation=user_settings.evaluation,
            labels=None if rows is None else user_settings.labels,
            places=provenance.combine_sha256s(os.path.abspath(path) for path in user_settings.inputs),  # noqa: PTH100, keeps links
        ),
        "preprocess": reading,
    }


def _derive_inference_stages(
    user_settings: Config, rows: Sequence[Label] | None, files: Mapping[str, Any], certain: bool, own: str | None
) -> dict[str, Section]:
    """Derive the settings of inference, the choice of its precision, and the predictions."""
    inference = user_settings.inference
    chosen = [label.threshold_from["scores"] for label in rows or () if label.threshold_from]
    return {
        "precision": settings.Precision(certain=True, device=inference.device)
        if certain
        else settings.Precision(
            precision=inference.precision, max_drift=inference.max_drift, device=inference.device, model=own
        ),
        "infer": settings.Infer(
            deterministic=inference.deterministic,
            backend=inference.backend,
            shards_per_part=inference.shards_per_part or shard_sizes.SHARDS_PER_PART,
            device=inference.device,
            batch_size=inference.batch_size,
            fairseq_python=inference.fairseq_python if inference.backend == "fairseq" else None,
            model=own,
        ),
        "aggregate": settings.Aggregate(
            labels=user_settings.labels,
            calibration=user_settings.calibration,
            heads=user_settings.heads,
            aggregation="index" if rows is None else {label.name: label.aggregation for label in rows},
            chosen_on=sorted({settings.hash_json(scores) for scores in chosen}),
            calibration_sha256=files["calibration"],
            heads_sha256=files["heads"],
        ),
    }


def _derive_analysis_stages(
    user_settings: Config,
    rows: Sequence[Label] | None,
    files: Mapping[str, Any],
    reading: settings.Preprocess,
    own: str | None,
) -> dict[str, Section]:
    """Derive the settings of the map, the recordings to show, attribution and evaluation."""
    thresholds: Any = "index" if rows is None else labels.thresholds_by_name(rows)
    return {
        "umap": settings.Umap(**user_settings.umap.model_dump()),
        "examples": settings.Examples(
            labels=user_settings.labels, thresholds=thresholds, recordings=user_settings.report.recordings
        ),
        "attribute": settings.Attribute(
            **user_settings.attribution.model_dump(), device=user_settings.inference.device, reading=reading, model=own
        ),
        "evaluate": settings.Evaluate(
            **user_settings.evaluation.model_dump(),
            labels=user_settings.labels,
            calibration=user_settings.calibration,
            heads=user_settings.heads,
            heads_sha256=files["heads"],
            truth_sha256=files["truth"],
            labels_sha256=files["labels"],
            calibration_sha256=files["calibration"],
        ),
    }


def _derive_page_stages(
    user_settings: Config, files: Mapping[str, Any], reading: settings.Preprocess, certain: bool
) -> dict[str, Section]:
    """Derive the settings of summary, figures, report and verdict."""
    shown = {
        "labels": user_settings.labels,
        "labels_sha256": files["labels"],
        "attention": user_settings.inference.attention,
        "attribution": user_settings.attribution.recordings > 0,
        "paths": user_settings.report.paths,
        "reading": reading,
    }
    return {
        "summary": settings.Summary(
            config=settings.dump_identity(user_settings),
            resolved=user_settings.model_dump(
                mode="json", exclude={"inference": {"fairseq_python"}, "models": True, "study": True}
            ),
            files=dict(files),
            attention=user_settings.inference.attention,
            compared=not certain,
        ),
        "figures": settings.Figures(**shown),
        "report": settings.Report(
            **shown,
            evaluation=user_settings.evaluation.asked,
            **user_settings.report.model_dump(exclude={"recordings", "paths"}),
        ),
        "verdict": settings.Verdict(max_failed_fraction=user_settings.max_failed_fraction),
    }


def identify_checkpoint(user_settings: Config, outdir: Path) -> str:
    """Identify a checkpoint by the SHA-256 of a local file, or by the address on the hub.

    A local file is hashed only if its path, size or time differs from that of the last run, which `outdir` stores.

    Args:
        user_settings: The settings.
        outdir: The folder of the results.

    Returns:
        For a file on the hub the address, followed by the expected SHA-256 unless the last run verified it.

    Raises:
        EcgpipeError: A local file has another SHA-256 than the setting `sha256`.
    """
    expected = user_settings.sha256.lower() if user_settings.sha256 else None
    if user_settings.checkpoint.startswith("hf://"):
        before = (read_json(outdir / settings.FOLDER / "checkpoint.json") or {}).get("content")
        source = (read_json(outdir / results.path_of("description")) or {}).get("source", {})
        plain = user_settings.checkpoint
        is_same = isinstance(before, str) and before.split(" ")[0] == plain == source.get("uri")
        if is_same and expected in (None, source.get("sha256")):
            return str(before)
        return f"{plain} {expected}" if expected else plain
    file_facts = _describe_checkpoint(user_settings)
    remembered = read_json(outdir / settings.FOLDER / SEEN) or {}
    sha256 = remembered.get("sha256") if {**remembered, "sha256": None} == {**file_facts, "sha256": None} else None
    paths = model_choice.list_files(user_settings)
    sha256 = sha256 or (hash_file(paths[0]) if len(paths) == 1 else provenance.combine_sha256s(map(hash_file, paths)))
    weights = sha256 if len(paths) == 1 or expected is None else hash_file(paths[0])
    if expected not in (None, weights):
        raise EcgpipeError(
            f"checkpoint: {user_settings.checkpoint} has the sha256 {weights}, not {expected} as the setting `sha256` "
            "says; give the right file, or correct sha256"
        )
    return str(sha256)


def remember_checkpoint(user_settings: Config, outdir: Path, sha256: str) -> None:
    """Store the size, time and SHA-256 of a local checkpoint, for `identify_checkpoint` of the next run."""
    if user_settings.checkpoint.startswith("hf://"):
        return
    file_facts = {**_describe_checkpoint(user_settings), "sha256": sha256}
    if read_json(outdir / settings.FOLDER / SEEN) != file_facts:
        write_json(outdir / settings.FOLDER / SEEN, file_facts)


def _describe_checkpoint(user_settings: Config) -> dict[str, Any]:
    """Describe a local checkpoint so that a change shows without reading the file, or the files of a folder."""
    first, *beside = map(_describe_file, model_choice.list_files(user_settings))
    return {**first, "beside": beside} if beside else first


def _describe_file(path: Path) -> dict[str, Any]:
    """Describe a file so that a change shows without reading the file."""
    status = path.stat()
    return {"path": str(path.resolve()), "bytes": status.st_size, "modified_ns": status.st_mtime_ns}


def write_preview(stages: Mapping[str, Section]) -> Path:
    """Write the settings of stages for a dry run, into a folder that is removed when this process ends.

    Args:
        stages: By name, their settings.

    Returns:
        The folder.
    """
    folder = Path(tempfile.mkdtemp(prefix="ecgpipe-settings-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    settings.write_sections(folder, stages)
    return folder
