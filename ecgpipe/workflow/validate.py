"""Validate the user's settings before any job starts."""

import difflib
import os
import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import ValidationError

from ecgpipe.core import typed
from ecgpipe.core.errors import EcgpipeError
from ecgpipe.core.user_settings import Config, Evaluation, OfModel, describe_mistake, index_csv
from ecgpipe.models import calibration, labels
from ecgpipe.workflow import model_choice, study_evaluation

# The settings that are paths, besides two in sections: see `_expand_home`.
_PATHS = ("input", "outdir", "checkpoint", "labels", "calibration", "heads")

_DEFAULTS = Config(input="").model_dump()


def load(user_config: Mapping[str, Any], root: Path, is_one_of_several: bool = False) -> Config:
    """Validate the user's settings.

    Args:
        user_config: Snakemake's config, that is config.yaml, further config files and --config merged.
        root: The folder of the Snakefile, where a relative `labels` path is looked for after the current folder.
        is_one_of_several: Whether these are the settings of a study's model.

    Returns:
        The settings; `labels` is a path that exists, or will exist when the checkpoint stage has run.

    Raises:
        EcgpipeError: A key is unknown, a value is of the wrong type or out of range, or a path does not exist.
    """
    settings = _expand_home(_validate(typed.expand_dots(user_config, _DEFAULTS)))
    # os.path, not pathlib, which raises an error for a text that is not a valid path, e.g. one that is too long.
    for path in settings.inputs:
        if not any(character in path for character in "*?[") and not os.path.exists(path):  # noqa: PTH110
            if "://" in path:  # ecgpipe reads files: docs/storage.md says why
                raise EcgpipeError(f"input: {path!r} is an address; copy or mount it, and give the folder")
            raise EcgpipeError(f"input: {path!r} does not exist; {_suggest_path(settings.inputs)}")
    _refuse_unreadable("checkpoint", settings.checkpoint)
    settings = model_choice.apply_model(settings, is_one_of_several)
    settings = settings.model_copy(update={"labels": model_choice.choose_labels(settings)})
    _check_backend(settings)
    for path in settings.heads:
        if not os.path.isfile(path):  # noqa: PTH113
            raise EcgpipeError(f"heads: {path!r} is not a file; give the head.safetensors that probe wrote")
        _refuse_unreadable("heads", path)
    fit = calibration.read_calibration(Path(settings.calibration)) if settings.calibration else None
    names = None
    if settings.labels == labels.BY_INDEX:
        label_csv = index_csv(settings.outdir)
    else:
        label_csv = str(labels.locate(settings.labels, root))
        model_labels = labels.read(Path(label_csv))
        names = [label.name for label in model_labels]
        if fit:
            calibration.refuse_foreign(fit, model_labels)
        labels.refuse_foreign(Path(label_csv), model_labels, {"calibration": fit.sha256 if fit else None})
    if settings.heads and names is not None:
        from ecgpipe.models import (
            heads,  # here, because pyarrow takes half a second, of every job that reads the Snakefile
        )

        files = [Path(path) for path in settings.heads]
        names += [
            name
            for head_names in heads.name_labels(files, list(map(heads.load_head, files)), names)
            for name in head_names
        ]
    _check_evaluation(settings.evaluation, names)
    paths = {"outdir": settings.outdir, "checkpoint": settings.checkpoint, "labels": settings.labels}
    if settings.calibration is not None:
        paths["calibration"] = settings.calibration
    if settings.evaluation.truth is not None:
        paths["evaluation.truth"] = settings.evaluation.truth
    path_lists = {"input": settings.inputs, "heads": settings.heads}
    for key, path in [*((key, path) for key, paths in path_lists.items() for path in paths), *paths.items()]:
        _check_path(key, path)
    return settings.model_copy(update={"labels": label_csv})


def _validate(user_config: Mapping[str, Any]) -> Config:
    """Validate names, types and ranges of settings, those with dots in their sections."""
    if user_config.get("input") in (None, "", []):
        raise EcgpipeError("input: missing; name the recordings, e.g. snakemake --cores 8 --config input=/data/ecgs")
    try:
        return Config.model_validate(user_config)
    except ValidationError as error:
        raise EcgpipeError("\n".join(describe_mistake(dict(item)) for item in error.errors())) from error


class ModelsConfig(NamedTuple):
    """The settings of a study."""

    shared: Config  # as the user gave them; `models` names each model
    by_model: dict[str, Config]  # those of each model's run, by its name


def is_study(user_config: Mapping[str, Any]) -> bool:
    """Whether the user's settings name several models (`models`)."""
    return any(value and str(key).partition(".")[0] == "models" for key, value in user_config.items())


def load_models(user_config: Mapping[str, Any], root: Path) -> ModelsConfig:
    """Validate the user's settings of a study: as `load` with those of each model.

    Args:
        user_config: As of `load`.
        root: As of `load`.

    Returns:
        The settings, where each model's `outdir` is a folder of its name.

    Raises:
        EcgpipeError: As of `load`, or a setting that each model has of its own is given for all.
    """
    expanded = typed.expand_dots(user_config, _DEFAULTS)
    shared = _validate(expanded)
    first = next(iter(shared.models))
    for key in OfModel.model_fields:
        if getattr(shared, key) != _DEFAULTS[key]:
            raise EcgpipeError(
                f"{key}: given for all models, and each has its own; give models: {{{first}: {{{key}: ...}}}}"
            )
    outdir = os.path.expanduser(shared.outdir).rstrip("/")  # noqa: PTH111
    shared = shared.model_copy(update={"outdir": outdir, "evaluation": _expand_home(shared).evaluation})
    common = {key: value for key, value in expanded.items() if key not in ("models", "study", "evaluation")}

    def load_each(evaluations: Mapping[str, Evaluation]) -> dict[str, Config]:
        by_model = {}
        for name, own in shared.models.items():
            given = {**own.model_dump(exclude_none=True), "outdir": f"{outdir}/{name}"}
            given["evaluation"] = evaluations[name].model_dump() if name in evaluations else {}
            if own.labels and own.labels == _DEFAULTS["labels"]:
                # The default stands for the model's own labels, and here ECG-FM's are named.
                given["labels"] = os.path.abspath(labels.locate(own.labels, root))  # noqa: PTH100, keeps links
            try:
                by_model[name] = load({**common, **given}, root, is_one_of_several=True)
                if own.labels:
                    model_choice.refuse_labels_of_other_number(by_model[name])
            except EcgpipeError as error:
                raise EcgpipeError(_name_model(str(error), name)) from error
        return by_model

    # The labels of all models decide which true labels each is evaluated on.
    by_model = load_each({})
    if shared.preprocess.short == "pad" and all(own.preprocess.short == "skip" for own in by_model.values()):
        raise EcgpipeError("preprocess.short: pad is not possible with any of these models; give skip")
    if not shared.evaluation.asked:
        _check_evaluation(shared.evaluation, None)
        return ModelsConfig(shared, by_model)
    return ModelsConfig(shared, load_each(study_evaluation.choose_evaluations(shared, by_model)))


def _name_model(message: str, name: str) -> str:
    """Name the model in errors about the settings that each has of its own."""
    lines = message.splitlines()
    is_own = [line.partition(": ")[0].partition(".")[0] in OfModel.model_fields for line in lines]
    return "\n".join(f"models.{name}.{line}" if own else line for line, own in zip(lines, is_own, strict=True))


def _suggest_path(paths: list[str]) -> str:
    """What to do about an input that does not exist."""
    whole = " ".join(paths)
    if len(paths) > 1 and os.path.exists(whole):  # noqa: PTH110, a shell splits a path at its spaces
        return f"put the path in quotes if you mean {shlex.quote(whole)}"
    return "check the path"


def _expand_home(settings: Config) -> Config:
    """Expand ~ in the paths of the settings: a shell does not in `--config outdir=~/x`, nor does YAML."""

    def at_home(value: str | list[str] | None) -> str | list[str] | None:
        if isinstance(value, list):
            return [os.path.expanduser(path) for path in value]  # noqa: PTH111, a Path has one slash for the two in hf://
        return value and os.path.expanduser(value)  # noqa: PTH111

    changed: dict[str, object] = {key: at_home(getattr(settings, key)) for key in _PATHS}
    changed["model"] = at_home(settings.model)
    evaluation, inference = settings.evaluation, settings.inference
    changed["evaluation"] = evaluation.model_copy(update={"truth": at_home(evaluation.truth)})
    changed["inference"] = inference.model_copy(update={"fairseq_python": at_home(inference.fairseq_python)})
    return settings.model_copy(update=changed)


def _refuse_unreadable(key: str, path: str | None) -> None:
    """Refuse a file that this user may not read, before a job needs it hours later."""
    if path is not None and os.path.isfile(path) and not os.access(path, os.R_OK):  # noqa: PTH113
        raise EcgpipeError(
            f"{key}: no permission to read {path!r}; see its permissions (`ls -l`), or give another file"
        )


def _check_evaluation(evaluation: Evaluation, names: list[str] | None) -> None:
    """Refuse settings of the evaluation that are not valid. `names` of labels may not be known yet (None)."""
    if evaluation.truth is not None and not os.path.isfile(evaluation.truth):  # noqa: PTH113
        raise EcgpipeError(f"evaluation.truth: {evaluation.truth!r} is not a file; check the path")
    _refuse_unreadable("evaluation.truth", evaluation.truth)
    if not evaluation.asked and (evaluation.patient or evaluation.split or evaluation.subgroups):
        raise EcgpipeError(
            "evaluation: neither truth nor mapping is given, so there is nothing to evaluate; give one of them, which "
            "names the true labels"
        )
    if (evaluation.split is None) != (evaluation.split_value is None):
        raise EcgpipeError(
            "evaluation: split names a column, split_value its value for the recordings to evaluate; give both or "
            "neither"
        )
    for label in evaluation.mapping.values():
        if names is not None and label not in names:
            close = difflib.get_close_matches(label, names, n=1)
            fix = f"did you mean {close[0]!r}?" if close else f"the labels are {', '.join(names)}"
            raise EcgpipeError(f"evaluation.mapping: {label!r} is not a label of the label file; {fix}")


def _check_backend(settings: Config) -> None:
    """Refuse settings that fairseq-signals does not support."""
    inference = settings.inference
    if inference.backend == "native":
        return
    if not inference.fairseq_python:
        raise EcgpipeError(
            "inference.fairseq_python: missing, and inference.backend is fairseq; give the python of an environment "
            "made from workflow/envs/fairseq-signals.yaml, see docs/verify.md"
        )
    if inference.precision not in ("auto", "float32") or inference.deterministic:
        raise EcgpipeError(
            "inference.backend: fairseq computes in float32 and has no deterministic mode; leave "
            "inference.precision and inference.deterministic at their defaults"
        )
    if settings.attribution.recordings:
        raise EcgpipeError(
            f"attribution.recordings: {settings.attribution.recordings} is not possible with inference.backend "
            "fairseq, which gives no gradients; give 0"
        )


def _check_path(key: str, path: str) -> None:
    """Refuse a path that Snakemake or the commands would misread."""
    if "{" in path or "}" in path or any(character < " " for character in path):
        raise EcgpipeError(
            f"{key}: {path!r} has a brace or a control character, which Snakemake misreads; rename it, or give a link "
            "to it"
        )
    if path.startswith("-"):
        raise EcgpipeError(f"{key}: {path!r} begins with a dash, as options do; give the absolute path")
    if key == "outdir" and re.match(r"[A-Za-z][A-Za-z0-9+.-]*:", path):
        raise EcgpipeError(f"outdir: {path!r} is an address; give the absolute path of a folder on this machine")
