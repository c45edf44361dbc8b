"""The settings of each stage, made of those that the user gave and of the files that they name."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ecgpipe.core import provenance, settings
from ecgpipe.core.atomic import write_json
from ecgpipe.core.config import Config, Section
from ecgpipe.core.errors import EcgpipeError
from ecgpipe.core.provenance import file_sha256
from ecgpipe.models import labels
from ecgpipe.models.labels import Label

SEEN = "checkpoint-file.json"  # the SHA-256 of a local checkpoint, and of what path, size and time it was then


def is_precision_certain(given: Config) -> bool:
    """Whether inference computes in float32 without a comparison: asked for, on a CPU, or by fairseq-signals."""
    inference = given.inference
    return (
        inference.backend != "native"
        or inference.precision == "float32"
        or (inference.precision == "auto" and inference.device == "cpu")
    )


def of_run(given: Config, checkpoint_content: str, certain: bool) -> dict[str, Section]:
    """The settings of each stage of a run.

    Args:
        given: The validated settings; the files that they name are read.
        checkpoint_content: What `checkpoint_identity` says.
        certain: Whether the precision is float32 without a comparison.

    Returns:
        By stage, in the order of the flow; without `attribute` and `evaluate` where those are switched off.

    Raises:
        EcgpipeError: A file cannot be read.
    """
    rows = None if given.labels_by_index else labels.read(Path(given.labels))
    files = _file_sha256s(given)
    reading = settings.Preprocess(**given.preprocess.model_dump())
    stages = {
        **_of_inputs(given, rows, checkpoint_content, reading),
        **_of_inference(given, rows, files, certain),
        **_of_analysis(given, rows, files, reading),
        **_of_pages(given, files, reading, certain),
    }
    switched_off = {"attribute"} if not given.attribution.recordings else set()
    switched_off |= {"evaluate"} if not given.evaluation.asked else set()
    return {name: stage for name, stage in stages.items() if name not in switched_off}


def _file_sha256s(given: Config) -> dict[str, Any]:
    """The content of the files that are settings: `labels`, `calibration`, `heads` and `truth`."""
    evaluation = given.evaluation
    return {
        "labels": "index" if given.labels_by_index else file_sha256(Path(given.labels)),
        "calibration": file_sha256(Path(given.calibration)) if given.calibration else None,
        "heads": [file_sha256(Path(path)) for path in given.heads],
        "truth": file_sha256(Path(evaluation.truth)) if evaluation.truth else None,
    }


def _of_inputs(
    given: Config, rows: Sequence[Label] | None, checkpoint_content: str, reading: settings.Preprocess
) -> dict[str, Section]:
    """The stages before inference; `rows` is None where outputs are called by their number."""
    return {
        "checkpoint": settings.Checkpoint(
            source=given.checkpoint,
            sha256=given.sha256,
            labels="index" if rows is None else given.labels,
            content=checkpoint_content,
            label_names="index" if rows is None else [label.name for label in rows],
            backend=given.inference.backend,
        ),
        "manifest": settings.Manifest(
            **given.manifest.model_dump(),
            inputs=given.inputs,
            evaluation=given.evaluation,
            labels=None if rows is None else given.labels,
            places=provenance.digest(os.path.abspath(path) for path in given.inputs),  # noqa: PTH100, keeps links
        ),
        "preprocess": reading,
    }


def _of_inference(
    given: Config, rows: Sequence[Label] | None, files: Mapping[str, Any], certain: bool
) -> dict[str, Section]:
    """Inference, the choice of its precision, and the predictions."""
    inference = given.inference
    chosen = [label.threshold_from["scores"] for label in rows or () if label.threshold_from]
    return {
        "precision": settings.Precision(certain=True, device=inference.device)
        if certain
        else settings.Precision(precision=inference.precision, max_drift=inference.max_drift, device=inference.device),
        "infer": settings.Infer(
            deterministic=inference.deterministic,
            backend=inference.backend,
            shards_per_part=inference.shards_per_part,
            device=inference.device,
            batch_size=inference.batch_size,
            fairseq_python=inference.fairseq_python if inference.backend == "fairseq" else None,
        ),
        "aggregate": settings.Aggregate(
            labels=given.labels,
            calibration=given.calibration,
            heads=given.heads,
            aggregation="index" if rows is None else {label.name: label.aggregation for label in rows},
            chosen_on=sorted({settings.digest(scores) for scores in chosen}),
            calibration_sha256=files["calibration"],
            heads_sha256=files["heads"],
        ),
    }


def _of_analysis(
    given: Config, rows: Sequence[Label] | None, files: Mapping[str, Any], reading: settings.Preprocess
) -> dict[str, Section]:
    """The map, the recordings to show, attribution and evaluation."""
    thresholds: Any = "index" if rows is None else labels.thresholds_by_name(rows)
    return {
        "umap": settings.Umap(**given.umap.model_dump()),
        "examples": settings.Examples(labels=given.labels, thresholds=thresholds, recordings=given.report.recordings),
        "attribute": settings.Attribute(
            **given.attribution.model_dump(), device=given.inference.device, reading=reading
        ),
        "evaluate": settings.Evaluate(
            **given.evaluation.model_dump(),
            labels=given.labels,
            calibration=given.calibration,
            heads=given.heads,
            heads_sha256=files["heads"],
            truth_sha256=files["truth"],
            labels_sha256=files["labels"],
            calibration_sha256=files["calibration"],
        ),
    }


def _of_pages(
    given: Config, files: Mapping[str, Any], reading: settings.Preprocess, certain: bool
) -> dict[str, Section]:
    """What counts and shows all that."""
    shown = {
        "labels": given.labels,
        "labels_sha256": files["labels"],
        "attention": given.inference.attention,
        "attribution": given.attribution.recordings > 0,
        "paths": given.report.paths,
        "reading": reading,
    }
    return {
        "summary": settings.Summary(
            config=settings.identity(given),
            resolved=given.model_dump(mode="json", exclude={"inference": {"fairseq_python"}}),
            files=dict(files),
            attention=given.inference.attention,
            compared=not certain,
        ),
        "figures": settings.Figures(**shown),
        "report": settings.Report(
            **shown, evaluation=given.evaluation.asked, **given.report.model_dump(exclude={"recordings", "paths"})
        ),
        "verdict": settings.Verdict(max_failed_fraction=given.max_failed_fraction),
    }


def checkpoint_identity(given: Config, outdir: Path) -> str:
    """What tells a checkpoint from another one: the SHA-256 of a local file, the address of one on the hub.

    A local file is read only where its path, size or time is not that of the last run, which `outdir` remembers.

    Args:
        given: The settings.
        outdir: The folder of the results.

    Returns:
        For a file on the hub the address, and the SHA-256 that it must have unless the last run found just that.

    Raises:
        EcgpipeError: A local file is not what the setting `sha256` says.
    """
    expected = given.sha256.lower() if given.sha256 else None
    if given.checkpoint.startswith("hf://"):
        before = (settings.read_json(outdir / settings.FOLDER / "checkpoint.json") or {}).get("content")
        source = (settings.read_json(outdir / "checkpoint" / "model.json") or {}).get("source", {})
        plain = given.checkpoint
        is_same = isinstance(before, str) and before.split(" ")[0] == plain == source.get("uri")
        if is_same and expected in (None, source.get("sha256")):
            return str(before)
        return f"{plain} {expected}" if expected else plain
    seen = _seen(given.checkpoint)
    known = settings.read_json(outdir / settings.FOLDER / SEEN) or {}
    found = known.get("sha256") if {**known, "sha256": None} == {**seen, "sha256": None} else None
    found = found or file_sha256(Path(given.checkpoint))
    if expected not in (None, found):
        raise EcgpipeError(
            f"checkpoint: {given.checkpoint} has the sha256 {found}, not {expected} as the setting `sha256` says; name "
            "the file that is meant, or correct the sha256"
        )
    return str(found)


def remember_checkpoint(given: Config, outdir: Path, found: str) -> None:
    """Note the size and time of a local checkpoint with its SHA-256, for `checkpoint_identity` of the next run."""
    if given.checkpoint.startswith("hf://"):
        return
    noted = {**_seen(given.checkpoint), "sha256": found}
    if settings.read_json(outdir / settings.FOLDER / SEEN) != noted:
        write_json(outdir / settings.FOLDER / SEEN, noted)


def _seen(path: str) -> dict[str, Any]:
    """What tells without reading it that a file is as it was."""
    status = Path(path).stat()
    return {"path": str(Path(path).resolve()), "bytes": status.st_size, "modified_ns": status.st_mtime_ns}
