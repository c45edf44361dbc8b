"""Choose the precision of a run's inference, and measure what it changes before it is used.

Half precision rounds to 11 bits (float16) or 8 (bfloat16) where float32 has 24. What that does to a network's answers
depends on its weights and on the recordings, so that the first segments of each run are computed both ways.
"""

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from scipy.special import expit

from ecgpipe.core import options, settings
from ecgpipe.core.atomic import whole, write_json
from ecgpipe.core.errors import EcgpipeError
from ecgpipe.models.description import describe

if TYPE_CHECKING:
    from ecgpipe.inference import engine

logger = logging.getLogger(__name__)

# What auto takes on a GPU. As fast as bfloat16 and eight times as fine; the comparison shows whether its range of
# 65,504 suffices.
HALF = "float16"

SEGMENTS = 256  # to compare

# The file that inference reads. It keeps its time when the same precision is chosen again: nothing is inferred anew.
CHOICE = "choice.txt"


class Compared(NamedTuple):
    """What a comparison reads, and the file that it writes."""

    weights: Path
    description: Path
    segments: Sequence[Path]  # shards to take segments from
    drift: Path  # JSON to write


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `ecgpipe precision`."""
    settings.add_arguments(parser, settings.Precision)
    options.add(parser, "weights", "description")
    options.add(parser, "segments", nargs="+", help="shards to take segments from")
    options.add(parser, "threads")
    parser.add_argument(
        "--chosen",
        type=Path,
        required=True,
        help=f"JSON file to write: the name of the precision; beside it {CHOICE}, unless that names the same already",
    )
    options.add(parser, "drift", help="JSON file to write: the comparison with float32")


def run(args: argparse.Namespace) -> None:
    """Choose for one run."""
    precision_settings = settings.parse_arguments("precision", settings.Precision, args)
    compared = None
    if not precision_settings.certain:
        if not (args.weights and args.description and args.segments and args.drift):
            raise EcgpipeError("--weights, --description, --segments, --drift: give all four to compare precisions")
        compared = Compared(args.weights, args.description, args.segments, args.drift)
    choose_precision(args.chosen, compared, precision_settings, args.threads)


def choose_precision(
    chosen: Path, files: Compared | None, precision_settings: settings.Precision, threads: int = 1
) -> str:
    """Choose the precision of a run and write it down.

    Args:
        chosen: The JSON file to write; beside it `CHOICE`, unless that names the same precision already.
        files: What to compare; None where the settings leave no choice but float32.
        precision_settings: The settings.
        threads: CPU threads.

    Returns:
        The name of the precision.
    """
    used, made_by = "float32", settings.add_sha256("precision", precision_settings, {})
    if files:
        used, made_by = _compare(files, precision_settings, threads)
    choice = chosen.with_name(CHOICE)
    if not choice.exists() or choice.read_text(encoding="utf-8") != f"{used}\n":
        with whole(choice) as temporary:
            temporary.write_text(f"{used}\n", encoding="utf-8")
    write_json(chosen, {"used": used, **made_by})
    return used


def _compare(files: Compared, precision_settings: settings.Precision, threads: int) -> tuple[str, dict[str, Any]]:
    """Compute the first segments in two precisions; the one to use, and which settings that depends on."""
    from ecgpipe.inference import devices, engine, segment_files
    from ecgpipe.models import networks  # here, because PyTorch takes seconds

    description = describe(files.description)
    contents = segment_files.inspect_shards(files.segments)
    made_by = settings.add_sha256("precision", precision_settings, segment_files.collect_facts(description, contents))
    engine.check(description, contents)
    engine.configure(threads, deterministic=False)
    requested = precision_settings.precision
    with devices.claim(precision_settings.device, engine.least_bytes(files.weights)) as device:
        wanted = requested if requested != "auto" else HALF if device.type == "cuda" else "float32"
        wanted = engine.usable(wanted, device)
        comparison: dict[str, Any] = {"asked": requested, "used": wanted, "device": devices.describe(device)}
        if wanted != "float32":
            outputs = []
            for name in ("float32", wanted):
                dtype = engine.DTYPES[name]
                network = networks.load_network(
                    description, files.weights, device, dtype, model=precision_settings.model
                )
                size = engine.default_batch_size(device, contents.samples)
                batches = engine.run(network, files.segments, contents, device, size, with_attention=False)
                outputs.append(take_first(batches, SEGMENTS))
                del network, batches
            comparison |= {"compared": wanted, "bound": precision_settings.max_drift}
            comparison |= measure_drift(outputs[0], outputs[1], description.labels)
    comparison["used"] = decide_precision(comparison, requested)
    facts = {settings.KEY: made_by[settings.KEY]}
    write_json(files.drift, {**comparison, **facts})
    return comparison["used"], facts


def take_first(batches: "engine.Stream", limit: int) -> tuple[np.ndarray, np.ndarray]:
    """The logits (n, labels) and embeddings (n, width) of the first segments, at most `limit`."""
    logits, embeddings, rows = [], [], 0
    for _, results in batches:
        logits.append(results.logits)
        embeddings.append(results.embedding)
        rows += len(results.logits)
        if rows >= limit:
            break
    if not rows:
        return np.empty((0, 0), np.float32), np.empty((0, 0), np.float32)
    return np.concatenate(logits)[:limit], np.concatenate(embeddings)[:limit]


def measure_drift(
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
    with np.errstate(invalid="ignore"):  # an overflow gives NaN, which is reported as None
        angle = 1 - (a * b).sum(axis=1) / np.where(lengths > 0, lengths, 1)  # (n,)
    columns = [*difference.T, angle]
    summaries = [_summarise(column) for column in columns]
    largest = [summary["largest"] for summary in summaries if summary["largest"] is not None]
    return {
        "segments": len(embeddings),
        "probability": dict(zip(labels, summaries[:-1], strict=True)) if len(embeddings) else {},
        "embedding": summaries[-1],
        "largest": max(largest) if len(largest) == len(summaries) else None,
    }


def decide_precision(comparison: dict[str, Any], requested: str) -> str:
    """Decide which precision to use; a line in the log says where a difference is beyond its bound.

    Args:
        comparison: The precision that is wanted, with the result of `measure_drift` if it was compared.
        requested: The setting; a named precision is kept whatever the difference, `auto` is not.

    Returns:
        The name of a precision.
    """
    wanted: str = comparison["used"]
    if wanted == "float32":
        return wanted
    if comparison["segments"] and comparison["largest"] is not None and comparison["largest"] <= comparison["bound"]:
        most, segments = comparison["largest"], comparison["segments"]
        logger.info("%s differs from float32 by at most %g over %d segments", wanted, most, segments)
        return wanted
    by = "a number that is not finite" if comparison["largest"] is None else f"{comparison['largest']:g}"
    why = f"by {by} over {comparison['segments']} segments, and inference.max_drift is {comparison['bound']:g}"
    if not comparison["segments"]:
        why = "unknown, as there are no segments to compare"
    if requested == "auto":
        logger.warning("float32 instead of %s, whose difference from it is %s", wanted, why)
        return "float32"
    logger.warning("%s, as the settings say, though its difference from float32 is %s", wanted, why)
    return wanted


def _summarise(values: np.ndarray) -> dict[str, float | None]:
    """The largest and the mean, to three digits."""
    if not len(values):
        return {"largest": 0.0, "mean": 0.0}
    return {
        name: float(f"{value:.3g}") if np.isfinite(value) else None
        for name, value in (("largest", values.max()), ("mean", values.mean()))
    }
