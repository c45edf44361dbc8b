"""The settings of each stage, made of those that the user gave and of the files that they name."""

import os
from pathlib import Path
from typing import Any

from ecgpipe.core import provenance, settings
from ecgpipe.core.atomic import write_json
from ecgpipe.core.config import Config, Section
from ecgpipe.core.errors import EcgpipeError
from ecgpipe.core.provenance import file_sha256
from ecgpipe.models import labels

SEEN = "checkpoint-file.json"  # the SHA-256 of a local checkpoint, and of what path, size and time it was then


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
    by_index = given.labels_by_index
    rows = [] if by_index else labels.read(Path(given.labels))
    labels_sha256 = "index" if by_index else file_sha256(Path(given.labels))
    calibration_sha256 = file_sha256(Path(given.calibration)) if given.calibration else None
    heads_sha256 = [file_sha256(Path(path)) for path in given.heads]
    truth_sha256 = file_sha256(Path(given.evaluation.truth)) if given.evaluation.truth else None
    aggregation: Any = "index" if by_index else {label.name: label.aggregation for label in rows}
    thresholds: Any = "index" if by_index else labels.thresholds(rows)
    chosen = [label.threshold_from["scores"] for label in rows if label.threshold_from]
    reading = settings.Preprocess(**given.preprocess.model_dump())
    shown = {
        "labels": given.labels,
        "labels_sha256": labels_sha256,
        "attention": given.inference.attention,
        "attribution": given.attribution.recordings > 0,
        "paths": given.report.paths,
        "reading": reading,
    }
    files = {"labels": labels_sha256, "calibration": calibration_sha256, "heads": heads_sha256, "truth": truth_sha256}
    inference = given.inference
    stages: dict[str, Section] = {
        "checkpoint": settings.Checkpoint(
            source=given.checkpoint,
            sha256=given.sha256,
            labels="index" if by_index else given.labels,
            content=checkpoint_content,
            label_names="index" if by_index else [label.name for label in rows],
            backend=inference.backend,
        ),
        "manifest": settings.Manifest(
            **given.manifest.model_dump(),
            inputs=given.inputs,
            evaluation=given.evaluation,
            labels=None if by_index else given.labels,
            places=provenance.digest(os.path.abspath(path) for path in given.inputs),  # noqa: PTH100, keeps links
        ),
        "preprocess": reading,
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
            aggregation=aggregation,
            chosen_on=sorted({settings.digest(scores) for scores in chosen}),
            calibration_sha256=calibration_sha256,
            heads_sha256=heads_sha256,
        ),
        "umap": settings.Umap(**given.umap.model_dump()),
        "examples": settings.Examples(labels=given.labels, thresholds=thresholds, recordings=given.report.recordings),
        "attribute": settings.Attribute(**given.attribution.model_dump(), device=inference.device, reading=reading),
        "evaluate": settings.Evaluate(
            **given.evaluation.model_dump(),
            labels=given.labels,
            calibration=given.calibration,
            heads=given.heads,
            heads_sha256=heads_sha256,
            truth_sha256=truth_sha256,
            labels_sha256=labels_sha256,
            calibration_sha256=calibration_sha256,
        ),
        "summary": settings.Summary(
            config=settings.identity(given),
            resolved=given.model_dump(mode="json", exclude={"inference": {"fairseq_python"}}),
            files=files,
            attention=inference.attention,
            compared=not certain,
        ),
        "figures": settings.Figures(**shown),
        "report": settings.Report(
            **shown, evaluation=given.evaluation.asked, **given.report.model_dump(exclude={"recordings", "paths"})
        ),
        "verdict": settings.Verdict(max_failed_fraction=given.max_failed_fraction),
    }
    switched_off = {"attribute"} if not given.attribution.recordings else set()
    switched_off |= {"evaluate"} if not given.evaluation.asked else set()
    return {name: stage for name, stage in stages.items() if name not in switched_off}


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
