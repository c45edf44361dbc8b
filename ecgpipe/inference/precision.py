"""Choose the precision of a run's inference, and measure what it changes before it is used.

Half precision rounds to 11 bits (float16) or 8 (bfloat16) where float32 has 24. What that does to a network's answers
depends on its weights and on the recordings, so that the first segments of each run are computed both ways.
"""

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.special import expit

from ecgpipe.core import settings
from ecgpipe.core.atomic import whole, write_json
from ecgpipe.core.errors import EcgpipeError
from ecgpipe.models.description import describe

if TYPE_CHECKING:
    from ecgpipe.inference import engine

logger = logging.getLogger(__name__)

# What auto takes on a GPU. As fast as bfloat16 and eight times as fine; whether its range of 65,504 suffices, the
# comparison tells.
HALF = "float16"

SEGMENTS = 256  # to compare

# What inference reads. It keeps its time when the same is chosen anew, so that nothing is inferred again.
CHOICE = "choice.txt"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `python -m ecgpipe precision`."""
    settings.add_arguments(parser, settings.Precision)
    parser.add_argument("--weights", type=Path, help="checkpoint/model.safetensors")
    parser.add_argument("--description", type=Path, help="checkpoint/model.json")
    parser.add_argument("--segments", type=Path, nargs="+", help="shards to take segments from")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default %(default)s)")
    parser.add_argument(
        "--chosen",
        type=Path,
        required=True,
        help=f"JSON file to write: the name of the precision; beside it {CHOICE}, unless that names the same already",
    )
    parser.add_argument("--drift", type=Path, help="JSON file to write: what was compared and found")


def run(args: argparse.Namespace) -> None:
    """Choose for one run."""
    given = settings.of_arguments("precision", settings.Precision, args)
    used, made_by = "float32", settings.marked("precision", given, {})
    if not given.certain:
        used, made_by = _compare(args, given)
    choice = args.chosen.with_name(CHOICE)
    if not choice.exists() or choice.read_text(encoding="utf-8") != f"{used}\n":
        with whole(choice) as temporary:
            temporary.write_text(f"{used}\n", encoding="utf-8")
    write_json(args.chosen, {"used": used, **made_by})


def _compare(args: argparse.Namespace, given: settings.Precision) -> tuple[str, dict[str, Any]]:
    """Compute the first segments in two precisions; the one to use, and which settings that depends on."""
    from ecgpipe.inference import devices, engine, segment_files
    from ecgpipe.models.ecg_fm import network as ecg_fm_network  # here, because PyTorch takes seconds

    if not (args.weights and args.description and args.segments and args.drift):
        raise EcgpipeError("--weights, --description, --segments, --drift: give all four to compare precisions")
    description = describe(args.description)
    contents = segment_files.look_at(args.segments)
    made_by = settings.marked("precision", given, segment_files.facts(description, contents))
    engine.check(description, contents)
    engine.configure(args.threads, deterministic=False)
    with devices.claim(given.device, engine.least_bytes(args.weights)) as device:
        wanted = given.precision if given.precision != "auto" else HALF if device.type == "cuda" else "float32"
        wanted = engine.usable(wanted, device)
        found: dict[str, Any] = {"asked": given.precision, "used": wanted, "device": devices.describe(device)}
        if wanted != "float32":
            numbers = []
            for name in ("float32", wanted):
                dtype = engine.DTYPES[name]
                network = ecg_fm_network.load(description.architecture, args.weights, device, dtype)
                size = engine.default_batch_size(device, contents.samples)
                batches = engine.run(network, args.segments, contents, device, size, with_attention=False)
                numbers.append(first(batches, SEGMENTS))
                del network, batches
            found |= {"compared": wanted, "bound": given.max_drift} | drift(numbers[0], numbers[1], description.labels)
    found["used"] = decide(found, given.precision)
    noted = {settings.KEY: made_by[settings.KEY]}
    write_json(args.drift, {**found, **noted})
    return found["used"], noted


def first(batches: "engine.Stream", most: int) -> tuple[np.ndarray, np.ndarray]:
    """The logits (n, labels) and embeddings (n, width) of the first segments, at most so many."""
    logits, embeddings, rows = [], [], 0
    for _, results in batches:
        logits.append(results.logits)
        embeddings.append(results.embedding)
        rows += len(results.logits)
        if rows >= most:
            break
    if not rows:
        return np.empty((0, 0), np.float32), np.empty((0, 0), np.float32)
    return np.concatenate(logits)[:most], np.concatenate(embeddings)[:most]


def drift(
    exact: tuple[np.ndarray, np.ndarray], rounded: tuple[np.ndarray, np.ndarray], labels: Sequence[str]
) -> dict[str, Any]:
    """How far rounded outputs are from exact ones.

    Args:
        exact: Logits (n, labels) and embeddings (n, width) in float32.
        rounded: The same in half precision.
        labels: Their names, in the model's order.

    Returns:
        `segments`; `probability`: for each label the largest and the mean difference; `embedding`: the largest and the
        mean of 1 - cosine; `largest`: the largest of all of these. Numbers that are not finite are None.
    """
    (logits, embeddings), (other_logits, other_embeddings) = exact, rounded
    difference = np.abs(expit(logits.astype(np.float64)) - expit(other_logits.astype(np.float64)))  # (n, labels)
    a, b = embeddings.astype(np.float64), other_embeddings.astype(np.float64)
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    with np.errstate(invalid="ignore"):  # what overflowed gives NaN, and that is told
        angle = 1 - (a * b).sum(axis=1) / np.where(lengths > 0, lengths, 1)  # (n,)
    columns = [*difference.T, angle]
    found = [_summary(column) for column in columns]
    largest = [summary["largest"] for summary in found if summary["largest"] is not None]
    return {
        "segments": len(embeddings),
        "probability": dict(zip(labels, found[:-1], strict=True)) if len(embeddings) else {},
        "embedding": found[-1],
        "largest": max(largest) if len(largest) == len(found) else None,
    }


def decide(found: dict[str, Any], asked: str) -> str:
    """The precision to use, and a line in the log where what was compared is beyond its bound.

    Args:
        found: What is known of the one that is wanted, with what `drift` says if it was compared.
        asked: What the settings say; a name is kept whatever it does, `auto` is not.

    Returns:
        The name of a precision.
    """
    wanted: str = found["used"]
    if wanted == "float32":
        return wanted
    if found["segments"] and found["largest"] is not None and found["largest"] <= found["bound"]:
        most, segments = found["largest"], found["segments"]
        logger.info("%s differs from float32 by at most %g over %d segments", wanted, most, segments)
        return wanted
    by = "a number that is not finite" if found["largest"] is None else f"{found['largest']:g}"
    why = f"by {by} over {found['segments']} segments, and inference.max_drift is {found['bound']:g}"
    if not found["segments"]:
        why = "unknown, as there are no segments to compare"
    if asked == "auto":
        logger.warning("float32 instead of %s, whose difference from it is %s", wanted, why)
        return "float32"
    logger.warning("%s, as the settings say, though its difference from float32 is %s", wanted, why)
    return wanted


def _summary(values: np.ndarray) -> dict[str, float | None]:
    """The largest and the mean, to three digits."""
    if not len(values):
        return {"largest": 0.0, "mean": 0.0}
    return {
        name: float(f"{value:.3g}") if np.isfinite(value) else None
        for name, value in (("largest", values.max()), ("mean", values.mean()))
    }
