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
from typing import TYPE_CHECKING, Any, NamedTuple

import safetensors.torch

from ecgpipe import __version__
from ecgpipe.core import atomic, options, settings
from ecgpipe.core.errors import EcgpipeError
from ecgpipe.core.logs import logger
from ecgpipe.core.provenance import MEANING
from ecgpipe.models import labels
from ecgpipe.models.description import Architecture, Description
from ecgpipe.models.fairseq_checkpoint import convert_tensors, describe_for_fairseq, read_architecture, read_checkpoint
from ecgpipe.models.labels import Label

if TYPE_CHECKING:
    from ecgpipe.models.hub import Source

# The label CSV of later stages if outputs are named by their number.
LABEL_CSV = "labels.csv"


class Opened(NamedTuple):
    """A checkpoint as fairseq-signals saved it, fetched and verified."""

    source: "Source"
    architecture: Architecture
    state: Mapping[str, Any]  # upstream's tensors
    random_weights: bool
    demo_model: bool = False  # as the demo's checkpoint says of itself


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of this stage."""
    settings.add_arguments(parser, settings.Checkpoint)
    parser.add_argument(
        "--source",
        type=os.path.expanduser,
        help="hf://OWNER/REPO@REVISION/FILE (without @REVISION: main), or the path of a .pt file",
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
    opened = open_source(uri, checkpoint_settings.sha256, native)
    source, arch = opened.source, opened.architecture
    names = [label.name for label in name_outputs(label_csv, arch)]
    made_by = settings.add_sha256("checkpoint", checkpoint_settings, {})
    # fairseq-signals reads the file itself.
    tensors = convert_tensors(opened.state, arch, str(source.path)) if native else {}
    description = {
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
        safetensors.torch.save_file(tensors, path, {"ecgpipe": json.dumps(made_by, sort_keys=True)})
    atomic.write_json(description_json, description)  # last: where it is, the weights are too
    parameters = sum(tensor.numel() for tensor in tensors.values())
    logger.info("wrote %s, %s parameters, %d outputs", weights, f"{parameters:,}", arch.labels)


def open_source(uri: str, sha256: str | None = None, native: bool = True) -> Opened:
    """Fetch a checkpoint and verify it.

    Args:
        uri: hf://OWNER/REPO@REVISION/FILE, or the path of a .pt file.
        sha256: The expected SHA-256 of the file; None if the user stated none.
        native: Whether ecgpipe's own network will run it; fairseq-signals runs other networks too.

    Returns:
        Its content. The tensors still have upstream's names; `fairseq_checkpoint.convert_tensors` converts them.

    Raises:
        EcgpipeError: The file is not available, has another SHA-256, or is not a checkpoint that ecgpipe runs.
    """
    from ecgpipe.models.hub import fetch  # here, because the hub's client takes a third of a second

    source = fetch(uri, sha256)
    logger.info("opening %s, %s bytes, sha256 %s", source.path, f"{source.path.stat().st_size:,}", source.sha256)
    content = read_checkpoint(source.path)
    marks = content.get("ecgpipe")
    random_weights, demo_model = (
        isinstance(marks, dict) and marks.get(mark) is True for mark in ("random_weights", "demo_model")
    )
    cfg, state = content["cfg"]["model"], content["model"]
    arch = read_architecture(cfg) if native else describe_for_fairseq(cfg, state)
    return Opened(source, arch, state, random_weights, demo_model)


def describe_opened(opened: Opened, names: Sequence[str]) -> Description:
    """The description of an opened checkpoint whose outputs have these names, as `model.json` would have it."""
    source = opened.source
    return Description(
        opened.architecture,
        tuple(names),
        source.uri,
        source.revision,
        source.sha256,
        opened.random_weights,
        __version__,
        MEANING["checkpoint"],
        demo_model=opened.demo_model,
    )


def name_outputs(label_csv: str, arch: Architecture) -> tuple[Label, ...]:
    """The labels of a model's outputs.

    Args:
        label_csv: A label CSV, or `labels.BY_INDEX`.
        arch: The model.

    Returns:
        One for each output, in the model's order; none for a model without a head.

    Raises:
        EcgpipeError: The file cannot be used, or names more or fewer labels than the model has outputs.
    """
    if not arch.labels:
        logger.info("the checkpoint has no head, so there will be no logits; %s is not used", label_csv)
        return ()
    if label_csv == labels.BY_INDEX:
        logger.warning("%s", labels.explain_numbers(arch.labels))
        return labels.number_outputs(arch.labels)
    read_labels = labels.read(Path(label_csv))
    if len(read_labels) != arch.labels:
        raise EcgpipeError(
            f"labels: {label_csv} names {len(read_labels)} labels but the checkpoint has {arch.labels} outputs; give a "
            f"file with one row for each output, in the model's order, or {labels.BY_INDEX} to number them"
        )
    return read_labels


def _write_labels(path: Path, names: Sequence[str]) -> None:
    """Write a label CSV of names, with the mean as aggregation."""
    lines = ["name,aggregation", *(f"{name},mean" for name in names)]
    with atomic.whole(path) as temporary:
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")
