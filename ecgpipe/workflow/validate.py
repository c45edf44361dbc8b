"""Check what the user gave, before any job starts."""

import difflib
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from ecgpipe.core.config import Config, Evaluation, index_csv, mistake
from ecgpipe.core.errors import EcgpipeError
from ecgpipe.models import calibration, labels

# The settings that are paths, besides two in sections: see `_with_home`.
_PATHS = ("input", "outdir", "checkpoint", "labels", "calibration", "heads")


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
        found = index_csv(settings.outdir)
    else:
        found = str(labels.locate(settings.labels, root))
        given_labels = labels.read(Path(found))
        names = [label.name for label in given_labels]
        if made:
            calibration.refuse_foreign(made, given_labels)
        labels.refuse_foreign(Path(found), given_labels, {"calibration": made.sha256 if made else None})
    if settings.heads and names is not None:
        from ecgpipe.models import (
            heads,  # here, because pyarrow takes half a second, of every job that reads the Snakefile
        )

        files = [Path(path) for path in settings.heads]
        names += [name for some in heads.name_labels(files, list(map(heads.load, files)), names) for name in some]
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
