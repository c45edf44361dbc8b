"""Fetch a checkpoint, verify it, and convert it once to safetensors and JSON.

From the Hugging Face hub, with the hub's own settings (HF_TOKEN, HF_HOME, HF_ENDPOINT, HF_HUB_OFFLINE), or from a local
path. It is checked against the sha256 that the hub states, and against --sha256, and opened without executing anything.
"""

import argparse
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

import safetensors.torch
from torch import Tensor

from ecgpipe import __version__
from ecgpipe.core import atomic, options, settings
from ecgpipe.core.errors import EcgpipeError
from ecgpipe.core.logs import logger
from ecgpipe.core.model_input import dump_input
from ecgpipe.core.provenance import MEANING
from ecgpipe.models import labels, networks, peek, registry
from ecgpipe.models.description import Description, Sizes
from ecgpipe.models.fairseq_checkpoint import describe_for_fairseq, read_checkpoint
from ecgpipe.models.labels import Label
from ecgpipe.models.registry import Family

if TYPE_CHECKING:
    from ecgpipe.models.hub import Source

# The label CSV of later stages if outputs are named by their number.
LABEL_CSV = "labels.csv"


class Opened(NamedTuple):
    """A checkpoint as its authors saved it, fetched and verified."""

    source: "Source"
    family: Family
    architecture: Any  # the family's own sizes, which have what `Sizes` says
    tensors: Mapping[str, Tensor]  # of the family's network; none for fairseq-signals, which reads the file itself
    random_weights: bool
    demo_model: bool = False  # as the demo's checkpoint says of itself


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of this stage."""
    settings.add_arguments(parser, settings.Checkpoint)
    parser.add_argument(
        "--source",
        type=os.path.expanduser,
        help="hf://OWNER/REPO@REVISION/FILE (without @REVISION: main; without /FILE: the family's), or a path",
    )
    options.add(
        parser,
        "labels",
        type=os.path.expanduser,
        help="label CSV, one row for each output of the model; or index, which calls them output_00, output_01, ... "
        "and writes such a CSV, labels.csv, beside the description",
    )
    options.add(parser, "weights", required=True, help="model.safetensors to write")
    options.add(parser, "description", required=True, help="model.json to write")


def run(args: argparse.Namespace) -> None:
    """Fetch, verify, convert, write."""
    checkpoint_settings = settings.parse_arguments("checkpoint", settings.Checkpoint, args)
    options_given = {"source": args.source, "labels": args.labels}
    checkpoint_settings = checkpoint_settings.model_copy(
        update={name: value for name, value in options_given.items() if value}
    )
    convert_checkpoint(args.weights, args.description, checkpoint_settings)


def convert_checkpoint(weights: Path, description_json: Path, checkpoint_settings: settings.Checkpoint) -> None:
    """Fetch a checkpoint, verify it, and write it as safetensors and JSON.

    Args:
        weights: The `model.safetensors` to write.
        description_json: The `model.json` to write; beside it goes `LABEL_CSV` if the outputs are named by number.
        checkpoint_settings: The settings; `source` and `labels` must be set.

    Raises:
        EcgpipeError: The file is not available, is not a checkpoint that ecgpipe runs, or the labels do not fit it.
    """
    uri, label_csv = checkpoint_settings.source, checkpoint_settings.labels
    if not uri or not label_csv:
        raise EcgpipeError("checkpoint: give --source and --labels, or --settings")
    native = checkpoint_settings.backend == "native"
    options = checkpoint_settings.model_options
    opened = open_source(uri, checkpoint_settings.sha256, native, checkpoint_settings.model, options)
    source, family, arch, tensors = opened.source, opened.family, opened.architecture, opened.tensors
    names = [label.name for label in name_outputs(label_csv, arch, family)]
    made_by = settings.add_sha256("checkpoint", checkpoint_settings, {})
    description = {
        "family": family.name,
        "model_sha256": family.sha256,
        "options": family.full_options(options),
        "input": dump_input(family.choose_input(options)),
        "has_tokens_by_lead": family.has_tokens_by_lead,
        "architecture": asdict(arch),
        "labels": names,
        "source": {
            # For a local file the name alone: the description is copied along with the weights, and the SHA-256
            # identifies the file. fairseq-signals reads the file itself and needs its path.
            "uri": source.uri if source.revision or not native else source.path.name,
            "revision": source.revision,
            "sha256": source.sha256,
            "bytes": source.path.stat().st_size,
        },
        "random_weights": opened.random_weights,
        "ecgpipe": __version__,
        "meaning": MEANING["checkpoint"],
        "backend": checkpoint_settings.backend,
        **({"demo_model": True} if opened.demo_model else {}),
        **made_by,
    }
    if label_csv == labels.BY_INDEX:
        _write_labels(description_json.with_name(LABEL_CSV), names)
    with atomic.whole(weights) as path:
        safetensors.torch.save_file(dict(tensors), path, {"ecgpipe": json.dumps(made_by, sort_keys=True)})
    atomic.write_json(description_json, description)  # last: where it is, the weights are too
    parameters = sum(tensor.numel() for tensor in tensors.values())
    logger.info("wrote %s, %s parameters, %d outputs", weights, f"{parameters:,}", arch.labels)


def open_source(
    uri: str,
    sha256: str | None = None,
    native: bool = True,
    model: str | None = None,
    options: Mapping[str, str] = MappingProxyType({}),
) -> Opened:
    """Fetch a checkpoint, verify it, tell its family and map its tensors, strictly.

    Args:
        uri: hf://OWNER/REPO[@REVISION][/FILE], or the path of a file or folder.
        sha256: The expected SHA-256 of the file; None if the user stated none.
        native: Whether ecgpipe's own network will run it; fairseq-signals runs other networks too.
        model: The family, or the path of the user's own model; None: what the tensors tell.
        options: The family's variants, as the setting `model_options`.

    Returns:
        Its sizes and tensors.

    Raises:
        EcgpipeError: The file is not available, has another SHA-256, is another family's, or its tensors are not those
            of the family's network.
    """
    from ecgpipe.models.hub import fetch  # here, because the hub's client takes a third of a second

    family = registry.find_family(model or registry.find_by_address(uri) or registry.DEFAULT)
    if model:
        family.choose_input(options)  # refuses options before anything is fetched
    if family.facts and "BY-NC" in family.facts.weights_licence:
        logger.warning("licence of these weights: %s", family.facts.weights_licence)
    source = fetch(uri, sha256, family if model or uri.startswith("hf://") else _guess_family(uri))
    logger.info("opening %s, %s bytes, sha256 %s", source.path, f"{source.path.stat().st_size:,}", source.sha256)
    content = peek.peek(source.path) or {}
    marks = content.get("ecgpipe")
    random_weights, demo_model = (
        isinstance(marks, Mapping) and marks.get(mark) is True for mark in ("random_weights", "demo_model")
    )
    if not native:
        opened = read_checkpoint(source.path)
        arch = describe_for_fairseq(opened["cfg"]["model"], opened["model"])
        return Opened(source, family, arch, {}, random_weights, demo_model)
    family = _check_family(family, model, content, source.path)
    arch, tensors = networks.find_network(family).read_checkpoint(source.path)
    _check_leads(arch, family, source.path)
    return Opened(source, family, arch, tensors, random_weights, demo_model)


def _guess_family(folder: str) -> Family | None:
    """The family that a folder's files are of; None for a file."""
    if not os.path.isdir(folder):  # noqa: PTH112
        return None
    content = peek.peek(Path(folder) / "model.safetensors")
    name = registry.recognise_file(peek.find_tensors(content), folder, content) if content else registry.DEFAULT
    return registry.find_family(name)


def _check_family(family: Family, model: str | None, content: Mapping[str, Any], path: Path) -> Family:
    """The family of a checkpoint: the one that the user named, if the file is not another's; else what it tells."""
    if family.path:
        return family
    tensors = peek.find_tensors(content)
    if not tensors:
        return family  # whose code says what is wrong with the file
    if model is not None:
        registry.refuse_other_family(tensors, family.name, str(path), content)
        return family
    name = registry.tell_family(tensors, str(path), content) or family.name
    if name != family.name:
        family = registry.find_family(name)
        logger.info("%s is a checkpoint of %s, as its tensors tell", path, family.title)
    return family


def _check_leads(arch: Sizes, family: Family, path: Path) -> None:
    """Refuse a network that takes other leads than its family declares."""
    rows = family.declaration.INPUT.shape[0]
    if arch.in_leads != rows:
        families = map(registry.find_family, registry.list_families())
        other = next((one.name for one in families if family.name == one.refines or one.name == family.refines), None)
        fix = f"use model={other}, or give" if other else "give"
        raise EcgpipeError(
            f"checkpoint: {path} takes {arch.in_leads} leads, and {family.name} has {rows}; {fix} another checkpoint"
        )


def describe_opened(
    opened: Opened, names: Sequence[str], options: Mapping[str, str] = MappingProxyType({})
) -> Description:
    """The description of an opened checkpoint whose outputs have these names, as `model.json` would have it."""
    source, family = opened.source, opened.family
    return Description(
        opened.architecture,
        tuple(names),
        source.uri,
        source.revision,
        source.sha256,
        opened.random_weights,
        __version__,
        MEANING["checkpoint"],
        family=family.name,
        options=family.full_options(options),
        model_input=family.choose_input(options),
        has_tokens_by_lead=family.has_tokens_by_lead,
        model_sha256=family.sha256,
        demo_model=opened.demo_model,
    )


def name_outputs(label_csv: str, arch: Sizes, family: Family | None = None) -> tuple[Label, ...]:
    """The labels of a model's outputs.

    Args:
        label_csv: A label CSV, or `labels.BY_INDEX`.
        arch: The model.
        family: Of the model; a user's own file may name its outputs in `LABELS`, if `label_csv` is `labels.BY_INDEX`.

    Returns:
        One for each output, in the model's order; none for a model without a head.

    Raises:
        EcgpipeError: The file cannot be used, or names more or fewer labels than the model has outputs.
    """
    if not arch.labels:
        logger.info("the checkpoint has no head, so there will be no logits; %s is not used", label_csv)
        return ()
    if label_csv == labels.BY_INDEX:
        own = getattr(family.declaration, "LABELS", ()) if family and family.path else ()
        if own:
            return _name_own(own, arch, str(family.path if family else ""))
        logger.warning("%s", labels.explain_numbers(arch.labels))
        return labels.number_outputs(arch.labels)
    read_labels = labels.read(Path(label_csv))
    if len(read_labels) != arch.labels:
        raise EcgpipeError(
            f"labels: {label_csv} names {len(read_labels)} labels but the checkpoint has {arch.labels} outputs; give a "
            f"file with one row for each output, in the model's order, or {labels.BY_INDEX} to number them"
        )
    return read_labels


def _name_own(names: Sequence[str], arch: Sizes, where: str) -> tuple[Label, ...]:
    if len(names) != arch.labels:
        raise EcgpipeError(f"model: LABELS of {where} has {len(names)} names, and Network gives {arch.labels} logits")
    return tuple(Label(name, "mean", None) for name in names)


def _write_labels(path: Path, names: Sequence[str]) -> None:
    """Write a label CSV of names, with the mean as aggregation."""
    lines = ["name,aggregation", *(f"{name},mean" for name in names)]
    with atomic.whole(path) as temporary:
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")
