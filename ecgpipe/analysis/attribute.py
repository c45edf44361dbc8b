"""Attribute labels to leads and times: which parts of a recording speak for a label, by integrated gradients.

Attention says where the model looks, for no label in particular and for all leads at once. Integrated gradients
(Sundararajan et al., "Axiomatic attribution for deep networks", arXiv:1703.01365) share out the difference between a
label's logit for the segment and for a flat line among all samples of all leads, so that the shares add up to it.

They are an integral along the way from the flat line to the segment, which a sum approximates. In equal steps that
sum is wrong here, by more than the whole difference: ECG-FM normalises its first layer's outputs over time, so that a
segment of a hundredth of its height gives the same logit as the segment itself, and everything changes in the first
thousandth of the way. So the steps are made small there. A variable z with x = sign(z) |z|^8 goes the same straight way
from 0 to x with step k of n at (k/n)^8 of it, and the integrated gradients of z are those of x.
"""

import argparse
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import xxhash
from captum.attr import IntegratedGradients
from torch import Tensor

from ecgpipe.analysis import examples
from ecgpipe.core import parquet, provenance, schemas, settings
from ecgpipe.core.errors import EcgpipeError
from ecgpipe.core.logs import Progress
from ecgpipe.core.settings import DRAWN_S
from ecgpipe.inference import devices, engine
from ecgpipe.models import labels
from ecgpipe.models.description import describe, refuse_foreign
from ecgpipe.models.ecg_fm import network as ecg_fm_network
from ecgpipe.models.ecg_fm.network import Network
from ecgpipe.preprocessing import preprocess, reread
from ecgpipe.preprocessing.segments import Prepared, UnusableError
from ecgpipe.readers import LEADS, UnreadableError

logger = logging.getLogger(__name__)

# The power of z above, and Captum's name of the rule by which the steps are summed up: the most exact of those that
# benchmarks/attribution.py compares.
POWER = 8
RULE = "riemann_middle"

# The share of a segment that the check by deletion makes flat, and how many random shares it compares that with.
DELETED = 0.1
RANDOM_DELETIONS = 8

# Steps of segments at a time. Gradients need about three times the memory of inference alone.
BATCH_SIZES = {"cpu": 16, "cuda": 64}


class Explained(NamedTuple):
    """What a network says of the segments of a recording and one label, and where that comes from."""

    attribution: np.ndarray  # (segments, 12, samples) float32; what each sample of each lead adds to the logit
    logit: np.ndarray  # (segments,) float64
    baseline_logit: np.ndarray  # (segments,) of a flat line
    drop: np.ndarray  # (segments,) by how much the logit falls without the tenth that speaks most for the label
    random_drop: np.ndarray  # (segments, RANDOM_DELETIONS) without a random tenth each

    @property
    def numbers(self) -> dict[str, np.ndarray]:
        """What `schemas.JUDGED` names, (segments,) each."""
        return {
            "logit": self.logit,
            "baseline_logit": self.baseline_logit,
            "error": self.error,
            "drop": self.drop,
            "random_change": np.abs(self.random_drop).mean(axis=1),
        }

    @property
    def error(self) -> np.ndarray:
        """(segments,) by how much the attributions' sum misses the difference of the logits, signed."""
        missed: np.ndarray = self.attribution.sum(axis=(1, 2), dtype=np.float64) - (self.logit - self.baseline_logit)
        return missed


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `python -m ecgpipe attribute`."""
    settings.add_arguments(parser, settings.Attribute)
    parser.add_argument("--weights", type=Path, required=True, help="checkpoint/model.safetensors")
    parser.add_argument("--description", type=Path, required=True, help="checkpoint/model.json")
    parser.add_argument("--manifest", type=Path, required=True, help="the folder manifest/")
    parser.add_argument("--records", type=Path, required=True, help="the folder records/")
    parser.add_argument("--shards", type=int, help="how many shards the run has (default: all in the folder)")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--predictions", type=Path, help="the folder predictions/: of each label the highest probability")
    what.add_argument("--record-ids", nargs="+", metavar="ID", help="recordings to attribute")
    parser.add_argument("--parts", type=int, help="how many parts the run has (default: all in the folder)")
    parser.add_argument("--label", nargs="+", metavar="NAME", help="with --record-ids: to which labels (default: all)")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default %(default)s)")
    parser.add_argument("--output", type=Path, required=True, help="Parquet file to write, by segment and label")
    parser.add_argument("--leads", type=Path, required=True, help="Parquet file to write, by recording, label, lead")


def run(args: argparse.Namespace) -> None:
    """Attribute some labels of some recordings."""
    description = describe(args.description)
    refuse_foreign(description)
    given = settings.of_arguments("attribute", settings.Attribute, args)
    windows, assumed = preprocess.reading_from_settings(given.reading)
    records = parquet.numbered(args.records, "shard", args.shards)
    if args.predictions:
        pairs = strongest(parquet.numbered(args.predictions, "part", args.parts), description.labels)[
            : given.recordings
        ]
    else:
        pairs = [(record_id, label) for record_id in args.record_ids for label in args.label or description.labels]
    unknown = sorted({label for _, label in pairs} - set(description.labels))
    if unknown:
        raise EcgpipeError(
            f"--label: {', '.join(map(repr, unknown))} is no label of {description.uri}; it has "
            + (", ".join(description.labels) or "none")
        )
    ids = list(dict.fromkeys(record_id for record_id, _ in pairs))
    found = reread.rows(parquet.numbered(args.manifest, "shard", args.shards), ids)
    accounts = reread.rows(records, ids)
    for record_id in ids:
        if record_id not in accounts:
            raise EcgpipeError(f"--record-ids: {record_id!r} is no recording of {args.records}; look into its files")

    facts = provenance.inherited([pq.read_schema(path) for path in records])
    facts["settings"] = {**description.settings, **facts.get("settings", {})}
    facts = settings.marked("attribute", given, facts)
    facts |= {"checkpoint_sha256": description.sha256, "checkpoint": description.uri}
    facts["method"] = {"name": "integrated gradients", "baseline": "flat line", "steps": given.steps, "power": POWER}
    facts["meaning"] = {"checkpoint": description.meaning, **facts["meaning"]}
    schema = provenance.with_origin(
        schemas.attribution_schema(len(LEADS), windows.segment_samples), "attribute", **facts
    )
    progress = Progress("attribute", len(pairs), "recordings and labels")
    leads: list[pa.Table] = []
    engine.configure(args.threads, deterministic=False)
    with (
        parquet.parquet_writer(args.output, schema) as writer,
        devices.claim(given.device, engine.least_bytes(args.weights)) as device,
    ):
        network = ecg_fm_network.load(description.architecture, args.weights, device, packed=False)
        size = given.batch_size or BATCH_SIZES[device.type]
        for record_id, label in pairs:
            try:
                prepared = drawn(reread.segments(found[record_id], accounts[record_id], windows, assumed))
            except (UnreadableError, UnusableError) as error:
                logger.warning("%s is left out: %s", record_id, error)
                continue
            target = description.labels.index(label)
            seed = xxhash.xxh32_intdigest(record_id.encode())
            explained = explain(network, prepared, target, given.steps, size, seed)
            if not all(np.isfinite(values).all() for values in explained):
                logger.warning(
                    "%s is left out: its attribution to %r has numbers that are not finite", record_id, label
                )
                continue
            writer.write_table(_rows(record_id, label, prepared, explained).cast(schema))
            leads.append(per_lead(record_id, label, explained.attribution))
            progress.add(1)
    progress.say()
    schema = provenance.with_origin(schemas.ATTRIBUTION_LEADS, "attribute", **facts)
    parquet.write(args.leads, pa.concat_tables([schema.empty_table(), *(table.cast(schema) for table in leads)]))


def strongest(predictions: Sequence[Path], names: Sequence[str]) -> list[tuple[str, str]]:
    """The recordings with the highest probability of each label, and the label.

    Args:
        predictions: All `predictions/part-*.parquet`, in order.
        names: The labels of the model. Those of heads on its embedding are no outputs of it, and are not attributed.

    Returns:
        The label whose probability varies most first. The report shows these recordings in any case.
    """
    there = [name for name in pq.read_schema(predictions[0]).names if name in names]
    highest, _ = examples.of_labels(predictions, dict.fromkeys(there, labels.DEFAULT_THRESHOLD))
    return [(record_id, str(why.what)) for record_id, why in highest if why.rank == 1]


def drawn(prepared: Prepared) -> Prepared:
    """The segments that begin in the part of a recording that is drawn."""
    some = prepared.starts_s < DRAWN_S
    return prepared._replace(segments=prepared.segments[some], starts_s=prepared.starts_s[some])


def explain(network: Network, prepared: Prepared, target: int, steps: int, batch_size: int, seed: int = 0) -> Explained:
    """Attribute one label of some segments by integrated gradients, and check that by deletion.

    Args:
        network: Loaded with `packed=False`, on any device.
        prepared: The segments, of one recording.
        target: The label's number among the outputs.
        steps: Of the integral.
        batch_size: Steps of segments at a time; halved where memory runs out.
        seed: Of the random deletions.

    Returns:
        The attributions, from a flat line, with what they are to be judged by.

    Raises:
        EcgpipeError: A single step needs more memory than there is.
    """
    device = next(network.parameters()).device
    signal = torch.from_numpy(prepared.segments).to(device)  # (segments, 12, samples)
    samples = torch.full((len(signal),), prepared.samples)
    while True:
        try:
            attribution = _integrated(network, signal, samples, target, steps, batch_size)
            break
        except (RuntimeError, MemoryError) as error:
            if not engine.out_of_memory(error) or batch_size == 1:
                raise
        batch_size //= 2
        logger.warning("out of memory; going on with %d steps at a time", batch_size)
    kept = kept_parts(attribution, prepared.samples, network.arch.token_samples[0], seed)
    logit, baseline, without, *without_random = (
        _logits(network, given, samples, target)
        for given in (signal, torch.zeros_like(signal), *(signal * torch.from_numpy(part).to(device) for part in kept))
    )
    return Explained(attribution, logit, baseline, logit - without, logit[:, None] - np.stack(without_random, axis=1))


def _logits(network: Network, signal: Tensor, samples: Tensor, target: int) -> np.ndarray:
    with torch.inference_mode():
        logits = network(signal, samples, with_attention=False).logits
    values: np.ndarray = logits[:, target].double().cpu().numpy()  # (segments,)
    return values


def _integrated(
    network: Network, signal: Tensor, samples: Tensor, target: int, steps: int, batch_size: int
) -> np.ndarray:
    """(segments, 12, samples) float32, as `explain` explains it."""

    def logits(z: Tensor, samples: Tensor) -> Tensor:
        x = z.sign() * z.abs().pow(POWER)
        output: Tensor = network(x, samples, with_attention=False).logits
        return output

    z = signal.sign() * signal.abs().pow(1 / POWER)
    attribution = IntegratedGradients(logits).attribute(
        z,
        target=target,
        additional_forward_args=(samples,),
        n_steps=steps,
        method=RULE,
        internal_batch_size=max(batch_size, len(signal)),
    )
    values: np.ndarray = attribution.detach().float().cpu().numpy()
    return values


def kept_parts(attribution: np.ndarray, samples: int, step: int, seed: int) -> Iterator[np.ndarray]:
    """What a check by deletion leaves of some segments: 1 where the signal stays, 0 where it becomes a flat line.

    What is deleted is a tenth of the pieces of one lead and one token's length, rather than single samples: between
    single samples that stay, a signal would jump, which is a change of its own kind.

    Args:
        attribution: (segments, 12, samples).
        samples: Of each segment that are signal.
        step: Samples from one token to the next.
        seed: Of the random ones.

    Yields:
        (segments, 12, samples) float32: first without the pieces that speak most for the label, then
        RANDOM_DELETIONS times without random ones.
    """
    segments, leads, length = attribution.shape
    pieces = samples // step
    sums = attribution[..., : pieces * step].reshape(segments, leads, pieces, -1).sum(axis=-1, dtype=np.float64)
    random = np.random.default_rng(seed)
    for scores in (sums, *(random.random(sums.shape) for _ in range(RANDOM_DELETIONS))):
        order = np.argsort(-scores.reshape(segments, -1), axis=1)  # (segments, leads * pieces)
        kept = np.ones((segments, leads * pieces), np.float32)
        np.put_along_axis(kept, order[:, : round(DELETED * leads * pieces)], 0, axis=1)
        kept = kept.reshape(segments, leads, pieces).repeat(step, axis=2)
        yield np.pad(kept, ((0, 0), (0, 0), (0, length - kept.shape[2])), constant_values=1)


def per_lead(record_id: str, label: str, attribution: np.ndarray) -> pa.Table:
    """Sum up the attributions of a recording and a label lead by lead.

    Args:
        record_id: The recording.
        label: The label.
        attribution: (segments, 12, samples).

    Returns:
        The columns of `schemas.ATTRIBUTION_LEADS`: what speaks for the label and what against it, and the lead's share
        in both together.
    """
    favour = np.maximum(attribution, 0).sum(axis=(0, 2), dtype=np.float64)  # (12,)
    against = np.minimum(attribution, 0).sum(axis=(0, 2), dtype=np.float64)
    both = favour - against
    columns = [[record_id] * len(LEADS), [label] * len(LEADS), list(LEADS), both / (both.sum() or 1), favour, against]
    return pa.table(columns, schema=schemas.ATTRIBUTION_LEADS)


def _rows(record_id: str, label: str, prepared: Prepared, explained: Explained) -> pa.Table:
    n = len(explained.logit)
    flat = pa.array(explained.attribution.ravel())
    columns = [
        pa.array([record_id] * n),
        pa.array(np.arange(n, dtype=np.int32)),
        pa.array(prepared.starts_s),
        pa.array([label] * n),
        *(pa.array(explained.numbers[name]) for name in schemas.JUDGED),
        pa.FixedSizeListArray.from_arrays(flat, explained.attribution[0].size),
    ]
    return pa.table(columns, schema=schemas.attribution_schema(*explained.attribution.shape[1:]))
