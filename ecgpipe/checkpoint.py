"""Fetch a checkpoint, verify it, and convert it once to safetensors and JSON.

From the Hugging Face hub, with the hub's own settings (HF_TOKEN, HF_HOME, HF_ENDPOINT, HF_HUB_OFFLINE), or from a local
path. It is checked against the sha256 that the hub states, and against --sha256, and opened without executing anything.
"""

import argparse
import json
from dataclasses import asdict, dataclass
from pathlib import Path

import safetensors.torch

from ecgpipe import __version__, atomic, labels
from ecgpipe.errors import EcgpipeError
from ecgpipe.fairseq_signals import architecture, convert, described, read
from ecgpipe.hub import fetch
from ecgpipe.log import logger
from ecgpipe.model import Architecture
from ecgpipe.provenance import MEANING


@dataclass(frozen=True)
class Description:
    """What `model.json` says of the converted checkpoint."""

    architecture: Architecture
    labels: tuple[str, ...]  # in the order of the outputs; empty without a head
    uri: str
    revision: str | None
    sha256: str  # of the original file
    random_weights: bool  # the outputs are numbers to look at, not diagnoses
    ecgpipe: str  # the version that wrote it
    meaning: int  # of this stage then, see provenance.MEANING
    backend: str = "native"  # or fairseq, and then no weights were converted


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of this stage."""
    parser.add_argument(
        "--source",
        required=True,
        help="hf://OWNER/REPO@REVISION/FILE (without @REVISION: main), or the path of a .pt file",
    )
    parser.add_argument("--sha256", help="refuse the checkpoint unless its sha256 is this one")
    parser.add_argument("--labels", type=Path, required=True, help="label CSV, one row for each output of the model")
    parser.add_argument("--weights", type=Path, required=True, help="model.safetensors to write")
    parser.add_argument("--description", type=Path, required=True, help="model.json to write")
    parser.add_argument(
        "--backend", choices=["native", "fairseq"], default="native", help="what is to compute (default %(default)s)"
    )


def run(args: argparse.Namespace) -> None:
    """Fetch, verify, convert, write."""
    native = args.backend == "native"
    source = fetch(args.source, args.sha256)
    logger.info("opening %s, %s bytes, sha256 %s", source.path, f"{source.path.stat().st_size:,}", source.sha256)
    content = read(source.path)
    cfg, state = content["cfg"]["model"], content["model"]
    arch = architecture(cfg) if native else described(cfg, state)
    names = _label_names(args.labels, arch)
    tensors = convert(state, arch, str(source.path)) if native else {}  # fairseq-signals reads the file itself
    marks = content.get("ecgpipe")
    description = {
        "architecture": asdict(arch),
        "labels": names,
        "source": {
            "uri": source.uri,
            "revision": source.revision,
            "sha256": source.sha256,
            "bytes": source.path.stat().st_size,
        },
        "random_weights": isinstance(marks, dict) and marks.get("random_weights") is True,
        "ecgpipe": __version__,
        "meaning": MEANING["checkpoint"],
        "backend": args.backend,
    }
    with atomic.whole(args.weights) as path:
        safetensors.torch.save_file(tensors, path)
    atomic.write_json(args.description, description)  # last: where it is, the weights are too
    parameters = sum(tensor.numel() for tensor in tensors.values())
    logger.info("wrote %s, %s parameters, %d outputs", args.weights, f"{parameters:,}", arch.labels)


def describe(path: Path) -> Description:
    """Read a `model.json`.

    Args:
        path: The file that this stage wrote.

    Returns:
        What it says.

    Raises:
        EcgpipeError: It is missing, or not such a file.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        sizes, source = content["architecture"], content["source"]
        layers = tuple((channels, kernel, stride) for channels, kernel, stride in sizes["conv_layers"])
        return Description(
            Architecture(**{**sizes, "conv_layers": layers}),
            tuple(content["labels"]),
            source["uri"],
            source["revision"],
            source["sha256"],
            content["random_weights"],
            content["ecgpipe"],
            content["meaning"],
            content.get("backend", "native"),
        )
    except OSError as error:
        raise EcgpipeError(
            f"checkpoint: cannot read {path}: {error.strerror}; run the checkpoint stage first"
        ) from error
    except (KeyError, TypeError, ValueError) as error:
        raise EcgpipeError(
            f"checkpoint: {path} is not a description that ecgpipe {__version__} wrote; run the checkpoint stage again"
        ) from error


def refuse_foreign(description: Description) -> None:
    """Raise an error where ecgpipe's own network, which gives gradients, has no weights."""
    if description.backend != "native":
        raise EcgpipeError(
            f"inference.backend: {description.backend} computed this run, which gives no gradients; nothing can be "
            "attributed to a label"
        )


def _label_names(path: Path, arch: Architecture) -> list[str]:
    if not arch.labels:
        logger.info("the checkpoint has no head, so there will be no logits; %s is not used", path)
        return []
    names = [label.name for label in labels.read(path)]
    if len(names) != arch.labels:
        raise EcgpipeError(
            f"labels: {path} names {len(names)} labels but the checkpoint has {arch.labels} outputs; "
            "give a file with one row for each output, in the model's order"
        )
    return names
