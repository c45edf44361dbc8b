"""Attribute labels to leads and times of a recording, by integrated gradients.

Attention shows where the model looks, for no label in particular and for all leads at once. Integrated gradients
(Sundararajan et al., "Axiomatic attribution for deep networks", arXiv:1703.01365) share out the difference between a
label's logit for the segment and for a flat line among all samples of all leads, so that the shares add up to it.

They are an integral along the way from the flat line to the segment, which a sum approximates. In equal steps that
sum is wrong here, by more than the whole difference: ECG-FM normalises its first layer's outputs over time, so that a
segment of a hundredth of its height gives the same logit as the segment itself, and everything changes in the first
thousandth of the way. So the steps are made small there: at u, from 0 to 1, the signal is u^8 of itself. How many steps
there are follows from the completeness error, by which the sum misses that difference
(`ecgpipe.analysis.integrated_gradients`).
"""

import argparse
import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import xxhash
from torch import Tensor

from ecgpipe.analysis import examples
from ecgpipe.analysis.attribution_pace import Pace
from ecgpipe.analysis.integrated_gradients import POWER, Integral, compute_logit, integrate, integrate_equally
from ecgpipe.core import options, parquet, provenance, schemas, settings
from ecgpipe.core.errors import EcgpipeError
from ecgpipe.core.settings import DRAWN_S
from ecgpipe.inference import devices, engine
from ecgpipe.inference.memory import is_out_of_memory
from ecgpipe.models import labels, networks
from ecgpipe.models.description import Description, describe, refuse_foreign
from ecgpipe.models.output import AnyNetwork
from ecgpipe.preprocessing import preprocess, reread
from ecgpipe.preprocessing.segments import Prepared, UnusableError
from ecgpipe.readers import UnreadableError

logger = logging.getLogger(__name__)

# The share of a segment that the check by deletion makes flat, and how many random shares it compares that with.
DELETED = 0.1
RANDOM_DELETIONS = 4

# The tolerance where no setting has another, as the setting's default.
TOLERANCE = float(settings.Attribute.model_fields["tolerance"].default)

# Steps of segments at a time. Gradients need about three times the memory of inference alone.
BATCH_SIZES = {"cpu": 16, "cuda": 64}


Pair = tuple[str, str]  # a record id and a label


class Explained(NamedTuple):
    """The logits of one label for the segments of a recording, and their attribution."""

    attribution: np.ndarray  # (segments, 12, samples) float32; what each sample of each lead adds to the logit
    logit: np.ndarray  # (segments,) float64
    baseline_logit: np.ndarray  # (segments,) of a flat line
    drop: np.ndarray  # (segments,) by how much the logit falls without the tenth of largest attribution
    random_drop: np.ndarray  # (segments, RANDOM_DELETIONS) without a random tenth each
    steps: np.ndarray  # (segments,) int32, of the integral

    @property
    def numbers(self) -> dict[str, np.ndarray]:
        """What `schemas.JUDGED` names, (segments,) each."""
        return {
            "logit": self.logit,
            "baseline_logit": self.baseline_logit,
            "error": self.error,
            "drop": self.drop,
            "random_change": np.abs(self.random_drop).mean(axis=1),
            "steps": self.steps,
        }

    @property
    def error(self) -> np.ndarray:
        """(segments,) by how much the attributions' sum misses the difference of the logits, signed."""
        missed: np.ndarray = self.attribution.sum(axis=(1, 2), dtype=np.float64) - (self.logit - self.baseline_logit)
        return missed


class Files(NamedTuple):
    """The results of a run that attributions are made from. The fields are the options of the command."""

    weights: Path  # checkpoint/model.safetensors
    description: Path  # checkpoint/model.json
    manifest: Path  # the folder
    records: Path  # the folder
    shards: int | None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `ecgpipe attribute`."""
    settings.add_arguments(parser, settings.Attribute)
    options.add(parser, "weights", "description", "manifest", "records", required=True)
    options.add(parser, "shards")
    chosen = parser.add_mutually_exclusive_group(required=True)
    options.add(chosen, "predictions", help="the folder predictions/: of each label the highest probability")
    chosen.add_argument("--record-ids", nargs="+", metavar="ID", help="recordings to attribute")
    options.add(parser, "parts")
    options.add(parser, "label", help="with --record-ids: to which labels (default: all)")
    options.add(parser, "threads")
    options.add(parser, "output", required=True, help="Parquet file to write, by segment and label")
    parser.add_argument("--leads", type=Path, required=True, help="Parquet file to write, by recording, label, lead")


def run(args: argparse.Namespace) -> None:
    """Attribute some labels of some recordings."""
    files = Files(*(getattr(args, name) for name in Files._fields))
    description = describe(files.description)
    refuse_foreign(description)
    attribute_settings = settings.parse_arguments("attribute", settings.Attribute, args)
    if args.predictions:
        predictions = parquet.numbered(args.predictions, "part", args.parts)
        pairs = choose_strongest(predictions, description.labels)[: attribute_settings.recordings]
    else:
        pairs = [(record_id, label) for record_id in args.record_ids for label in args.label or description.labels]
    engine.configure(args.threads, deterministic=False)
    write_attributions(files, description, attribute_settings, pairs, args.output, args.leads)


def write_attributions(
    files: Files,
    description: Description,
    attribute_settings: settings.Attribute,
    pairs: Sequence[Pair],
    output: Path,
    leads_output: Path,
) -> None:
    """Attribute labels of recordings, and write the attributions.

    Args:
        files: The results of the run.
        description: Of its checkpoint, with ecgpipe's own network.
        attribute_settings: How labels are attributed.
        pairs: Which recordings to which labels.
        output: The Parquet file to write, by segment and label.
        leads_output: The Parquet file to write, by recording, label and lead.

    Raises:
        EcgpipeError: A label or a recording is unknown.
    """
    unknown = sorted({label for _, label in pairs} - set(description.labels))
    if unknown:
        raise EcgpipeError(
            f"--label: {', '.join(map(repr, unknown))} is no label of {description.uri}; it has "
            + (", ".join(description.labels) or "none")
        )
    records = parquet.numbered(files.records, "shard", files.shards)
    ids = list(dict.fromkeys(record_id for record_id, _ in pairs))
    manifest_rows = reread.read_rows(parquet.numbered(files.manifest, "shard", files.shards), ids)
    record_rows = reread.read_rows(records, ids)
    for record_id in ids:
        if record_id not in record_rows:
            raise EcgpipeError(f"--record-ids: {record_id!r} is no recording of {files.records}; look into its files")

    windows, assumed = preprocess.reading_from_settings(attribute_settings.reading)
    facts = _describe_making(records, description, attribute_settings)
    schema = schemas.attribution_schema(len(description.leads), windows.segment_samples)
    schema = provenance.add_origin(schema, "attribute", **facts)
    segments = _count_segments(pairs, record_rows, windows.segment_s)
    pace = Pace(len(pairs), segments, attribute_settings.steps)
    leads: list[pa.Table] = []
    with (
        parquet.parquet_writer(output, schema) as writer,
        devices.claim(attribute_settings.device, engine.least_bytes(files.weights)) as device,
    ):
        network = networks.load_network(
            description, files.weights, device, packed=False, model=attribute_settings.model
        )
        size = attribute_settings.batch_size or BATCH_SIZES[device.type]
        pace.begin()
        for record_id, label in pairs:
            try:
                prepared = keep_drawn(
                    reread.read_segments(manifest_rows[record_id], record_rows[record_id], windows, assumed)
                )
            except (UnreadableError, UnusableError) as error:
                logger.warning("%s is left out: %s", record_id, error)
                continue
            target = description.labels.index(label)
            seed, tolerance = choose_seed(record_id), attribute_settings.tolerance
            explained = explain(network, prepared, target, attribute_settings.steps, size, seed, pace.add, tolerance)
            pace.finish(len(prepared.segments), int(explained.steps.sum()))
            if not all(np.isfinite(values).all() for values in explained):
                logger.warning(
                    "%s is left out: its attribution to %r has numbers that are not finite", record_id, label
                )
                continue
            writer.write_table(_make_rows(record_id, label, prepared, explained).cast(schema))
            leads.append(sum_by_lead(record_id, label, explained.attribution, description.leads))
    pace.say()
    schema = provenance.add_origin(schemas.ATTRIBUTION_LEADS, "attribute", **facts)
    parquet.write(leads_output, pa.concat_tables([schema.empty_table(), *(table.cast(schema) for table in leads)]))


def _count_segments(pairs: Sequence[Pair], record_rows: Mapping[str, Mapping[str, Any]], segment_s: float) -> int:
    """How many segments are attributed, about: those of the first DRAWN_S seconds, once for each label."""
    most = math.ceil(DRAWN_S / segment_s)
    return sum(min(record_rows[record_id]["n_segments"] or 0, most) for record_id, _ in pairs)


def _describe_making(
    records: Sequence[Path], description: Description, attribute_settings: settings.Attribute
) -> dict[str, Any]:
    """What the metadata of the results says of how they were made."""
    facts = provenance.inherit_facts([pq.read_schema(path) for path in records])
    facts["settings"] = {**description.settings, **facts.get("settings", {})}
    facts = settings.add_sha256("attribute", attribute_settings, facts)
    by = "steps" if attribute_settings.steps else "tolerance"
    return {
        **facts,
        "checkpoint_sha256": description.sha256,
        "checkpoint": description.uri,
        "method": {
            "name": "integrated gradients",
            "baseline": "flat line",
            by: getattr(attribute_settings, by),
            "power": POWER,
        },
        "meaning": {"checkpoint": description.meaning, **facts["meaning"]},
    }


def choose_strongest(predictions: Sequence[Path], names: Sequence[str]) -> list[Pair]:
    """Choose the recording with the highest probability of each label.

    Args:
        predictions: All `predictions/part-*.parquet`, in order.
        names: The labels of the model. Labels of heads on its embedding are not its outputs, and are not attributed.

    Returns:
        Each label with its recording, the label whose probability varies most first. The report shows these recordings
        in any case.
    """
    label_columns = [name for name in pq.read_schema(predictions[0]).names if name in names]
    highest, _ = examples.rank_by_probability(predictions, dict.fromkeys(label_columns, labels.DEFAULT_THRESHOLD))
    return [(record_id, str(why.what)) for record_id, why in highest if why.rank == 1]


def choose_seed(record_id: str) -> int:
    """The seed of a recording's random deletions."""
    return xxhash.xxh32_intdigest(record_id.encode())


def keep_drawn(prepared: Prepared) -> Prepared:
    """Keep the segments that begin in the part of a recording that is drawn."""
    is_drawn = prepared.starts_s < DRAWN_S
    return prepared._replace(segments=prepared.segments[is_drawn], starts_s=prepared.starts_s[is_drawn])


def explain(
    network: AnyNetwork,
    prepared: Prepared,
    target: int,
    steps: int | None,
    batch_size: int,
    seed: int = 0,
    count: Callable[[int], None] | None = None,
    tolerance: float = TOLERANCE,
) -> Explained:
    """Attribute one label of some segments by integrated gradients, and check that by deletion.

    Args:
        network: Loaded with `packed=False`, on any device.
        prepared: The segments, of one recording.
        target: The label's number among the outputs.
        steps: Of the integral, a fixed number; None: as many as the tolerance takes.
        batch_size: Steps of segments at a time; halved where memory runs out.
        seed: Of the random deletions.
        count: Called with a number of steps of single segments when they are done, and with a negative one if they
            begin again.
        tolerance: By what share of the logit's difference from the flat line the attributions' sum may miss it.

    Returns:
        The attributions, from a flat line, with the numbers to judge them by.

    Raises:
        EcgpipeError: A single step needs more memory than there is.
    """
    device = next(network.parameters()).device
    signal = torch.from_numpy(prepared.segments).to(device)  # (segments, 12, samples)
    samples = torch.full((len(signal),), prepared.samples)
    done = 0

    def add(more: int) -> None:
        nonlocal done
        done += more
        if count is not None:
            count(more)

    while True:
        try:
            integral = _integrate(network, signal, samples, target, (steps, tolerance), batch_size, add)
            break
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error) or batch_size == 1:
                raise
        batch_size //= 2
        add(-done)
        logger.warning("out of memory; going on with %d steps at a time", batch_size)
    masks = make_deletion_masks(integral.attribution, prepared.samples, network.arch.token_samples[0], seed)
    without, *without_random = (
        compute_logit(network, signal * torch.from_numpy(mask).to(device), samples, target) for mask in masks
    )
    logit = integral.logit
    random_drop = logit[:, None] - np.stack(without_random, axis=1)
    return Explained(integral.attribution, logit, integral.baseline_logit, logit - without, random_drop, integral.steps)


def _integrate(
    network: AnyNetwork,
    signal: Tensor,
    samples: Tensor,
    target: int,
    accuracy: tuple[int | None, float],
    batch_size: int,
    count: Callable[[int], None],
) -> Integral:
    """Integrate in a fixed number of steps, or in as many as a tolerance takes: `accuracy` is steps and tolerance."""
    steps, tolerance = accuracy
    if steps is None:
        return integrate(network, signal, samples, target, tolerance, batch_size, count)
    return integrate_equally(network, signal, samples, target, steps, batch_size, count)


def make_deletion_masks(attribution: np.ndarray, samples: int, step: int, seed: int) -> Iterator[np.ndarray]:
    """Make the masks of a check by deletion: 1 where the signal stays, 0 where it becomes a flat line.

    A tenth of the pieces is deleted, each of one lead and one token's length, rather than single samples: between
    single samples that stay, a signal would jump, which is a change of another kind.

    Args:
        attribution: (segments, 12, samples).
        samples: Samples of each segment that are signal.
        step: Samples from one token to the next.
        seed: Of the random ones.

    Yields:
        (segments, 12, samples) float32: first without the pieces of the largest positive attribution,
        then RANDOM_DELETIONS times without random pieces.
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


def sum_by_lead(record_id: str, label: str, attribution: np.ndarray, lead_names: Sequence[str]) -> pa.Table:
    """Sum up the attributions of a recording and a label lead by lead.

    Args:
        record_id: The recording.
        label: The label.
        attribution: (segments, leads, samples).
        lead_names: Of its leads.

    Returns:
        The columns of `schemas.ATTRIBUTION_LEADS`: the lead's share of all attribution, and the sums of its positive
        and of its negative attribution.
    """
    positive = np.maximum(attribution, 0).sum(axis=(0, 2), dtype=np.float64)  # (12,)
    negative = np.minimum(attribution, 0).sum(axis=(0, 2), dtype=np.float64)
    absolute = positive - negative
    columns = [
        [record_id] * len(lead_names),
        [label] * len(lead_names),
        list(lead_names),
        absolute / (absolute.sum() or 1),
        positive,
        negative,
    ]
    return pa.table(columns, schema=schemas.ATTRIBUTION_LEADS)


def _make_rows(record_id: str, label: str, prepared: Prepared, explained: Explained) -> pa.Table:
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
