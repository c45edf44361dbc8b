"""Choose the model family of a run, by the user's settings or by the checkpoint, and what follows from it.

The Snakefile needs to know it before any job: the family's input, labels and attention decide what the jobs do. So a
local checkpoint is looked into without PyTorch, and of an address on the hub its owner and name are compared.
"""

import os
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from ecgpipe.core.errors import EcgpipeError
from ecgpipe.core.user_settings import Config
from ecgpipe.models import labels, peek, registry
from ecgpipe.models.registry import Family

_DEFAULTS = Config(input="")


def apply_model(settings: Config, is_one_of_several: bool = False) -> Config:
    """Fill in what the model decides: its name, checkpoint, length of windows, attention and the report's title.

    Args:
        settings: The user's settings, with ~ expanded.
        is_one_of_several: Whether `preprocess` is that of a study: a model that cannot pad skips what the others pad.

    Returns:
        The settings with `model` set. Values that the user gave stay.

    Raises:
        EcgpipeError: The model or its options are unknown, the checkpoint is another family's, or a setting does not
            go with the family.
    """
    if settings.checkpoint == _DEFAULTS.checkpoint and settings.model is not None:
        checkpoint = registry.find_family(settings.model).require_checkpoint("checkpoint")
        settings = settings.model_copy(update={"checkpoint": checkpoint})
    _refuse_missing(settings.checkpoint)
    family = _choose_family(settings)
    if Path(settings.checkpoint).is_dir() and not family.has_weights(Path(settings.checkpoint)):
        raise EcgpipeError(
            f"checkpoint: {settings.checkpoint!r} is not a file, and as a folder it has no {family.files[0]} of "
            f"{family.name}; give the file of the weights"
        )
    declared = family.choose_input(settings.model_options)
    changed: dict[str, object] = {"model": str(family.path) if family.path else family.name}
    reading = settings.preprocess
    if is_one_of_several and declared.padding is None:
        reading = reading.model_copy(update={"short": "skip"})
    window_s = family.choose_window_s(declared, reading.segment_s, reading.short, "preprocess.{}".format)
    changed["preprocess"] = reading.model_copy(update={"segment_s": window_s})
    if not family.has_attention:
        changed["inference"] = settings.inference.model_copy(update={"attention": False})
    if family.name != registry.DEFAULT:
        if settings.inference.backend != "native":
            raise EcgpipeError(
                f"inference.backend: {settings.inference.backend} computes networks of fairseq-signals, and not "
                f"{family.name}; leave it out"
            )
        if settings.report.title == _DEFAULTS.report.title:
            changed["report"] = settings.report.model_copy(update={"title": f"{family.title} results"})
    return settings.model_copy(update=changed)


def _refuse_missing(checkpoint: str) -> None:
    # os.path, not pathlib, which raises an error for a text that is not a valid path, e.g. one that is too long.
    if checkpoint.startswith("hf://") or os.path.isfile(checkpoint):  # noqa: PTH113
        return
    if not os.path.isdir(checkpoint):  # noqa: PTH112
        raise EcgpipeError(f"checkpoint: {checkpoint!r} is not a file; give a local .pt file or hf://OWNER/REPO/FILE")


def _choose_family(settings: Config) -> Family:
    """The model that the user named, unless the checkpoint is another one's; or the one that the checkpoint tells."""
    name = settings.model or tell_family(settings.checkpoint)
    family = registry.find_family(name)
    if family.path is None and settings.model is not None:
        content, where = _peek(settings.checkpoint)
        if content is not None:
            registry.refuse_other_family(peek.find_tensors(content), name, where, content)
        by_address = registry.find_by_address(settings.checkpoint) if settings.checkpoint.startswith("hf://") else None
        if by_address not in (None, name):
            title = registry.read_facts(by_address).title
            raise EcgpipeError(
                f"checkpoint: {settings.checkpoint} is a checkpoint of {title}, not of {name}; use model={by_address}"
            )
    return family


def tell_family(checkpoint: str) -> str:
    """The family of a checkpoint, as far as it can be told without fetching or loading it.

    Args:
        checkpoint: A local file or folder, or an address on the hub.

    Returns:
        Its name. ECG-FM, the default, where nothing tells it: the checkpoint stage refuses what is another one's.

    Raises:
        EcgpipeError: More than one family recognises it.
    """
    if checkpoint.startswith("hf://"):
        return registry.find_by_address(checkpoint) or registry.DEFAULT
    content, where = _peek(checkpoint)
    tensors = peek.find_tensors(content)
    if not tensors:
        return registry.DEFAULT
    return registry.tell_family(tensors, where, content) or registry.DEFAULT


def _peek(checkpoint: str) -> tuple[Mapping[str, Any] | None, str]:
    """The content of a local checkpoint without its numbers, and the path of its file."""
    if checkpoint.startswith("hf://"):
        return None, checkpoint
    path = Path(checkpoint)
    if path.is_dir():
        path = path / "model.safetensors"
    if not path.is_file():
        return None, str(path)
    return _peek_once(path, path.stat().st_mtime_ns), str(path)


@lru_cache(maxsize=4)
def _peek_once(path: Path, modified_ns: int) -> Mapping[str, Any] | None:
    return peek.peek(path)


def find_family_of(settings: Config) -> Family:
    """The family of settings that `apply_model` returned; of others, what their checkpoint tells."""
    return registry.find_family(settings.model or tell_family(settings.checkpoint))


def list_files(settings: Config) -> list[Path]:
    """The files of a local checkpoint: that of the weights, and those beside it that its family needs.

    Args:
        settings: As `apply_model` returned them.

    Returns:
        Existing files, the weights first.

    Raises:
        EcgpipeError: The checkpoint is a folder without weights.
    """
    path, family = Path(settings.checkpoint), find_family_of(settings)
    weights = family.find_weights(path) if path.is_dir() else path
    beside = [weights.with_name(name) for name in family.files[1:]]
    return [weights, *(other for other in beside if other.is_file())]


def choose_labels(settings: Config) -> str:
    """The label CSV of a run: the user's, or the model's own, or `labels.BY_INDEX` where it has none.

    Args:
        settings: As `apply_model` returned them.
    """
    if settings.labels != _DEFAULTS.labels:
        return settings.labels
    family = find_family_of(settings)
    if family.name == registry.DEFAULT:
        return settings.labels
    csv = family.find_labels(_count_outputs(settings, family), settings.checkpoint)
    return str(csv) if csv else labels.BY_INDEX


def refuse_labels_of_other_number(settings: Config) -> None:
    """Refuse labels of another number than the checkpoint's outputs, as far as that can be told before any job.

    Args:
        settings: As `validate.load` returned them.

    Raises:
        EcgpipeError: The label CSV has more or fewer rows than the checkpoint has outputs.
    """
    family = find_family_of(settings)
    outputs = _count_outputs(settings, family)
    rows = None if settings.labels_by_index else len(labels.read(Path(settings.labels)))
    if None not in (outputs, rows) and outputs != rows:
        raise EcgpipeError(
            f"labels: {settings.labels} names {rows} labels, and the checkpoint of {family.title} has {outputs} "
            "outputs; leave it out for the model's own labels, or give a file with one row for each output"
        )


def _count_outputs(settings: Config, family: Family) -> int | None:
    """How many outputs the checkpoint has, as far as it can be told; None where it cannot."""
    count = getattr(family.declaration, "count_outputs", None)
    content, _ = _peek(settings.checkpoint)
    tensors = peek.find_tensors(content)
    if tensors and count:
        outputs: int = count(tensors)
        return outputs
    for weights in family.facts.weights if family.facts else ():
        if weights.address.lower() == settings.checkpoint.lower():
            return weights.labels
    return None


def describe_model(settings: Config, is_named: bool) -> list[str]:
    """What a run says of its model before it begins.

    Args:
        settings: As `apply_model` returned them.
        is_named: Whether the user named the model.

    Returns:
        Lines; none for ECG-FM from its own address, as ever.
    """
    family = find_family_of(settings)
    if family.name == registry.DEFAULT and (is_named or settings.checkpoint.startswith("hf://")):
        return []
    options = ", ".join(f"{key}: {value}" for key, value in family.full_options(settings.model_options).items())
    origin = "" if is_named else ", as its checkpoint tells; setting `model` names another"
    lines = [f"model: {family.title}{f' ({options})' if options else ''}{origin}"]
    if family.facts and "BY-NC" in family.facts.weights_licence:
        lines.append(f"licence of these weights: {family.facts.weights_licence}")
    return lines
