"""Compare a finished run's numbers with those that the real fairseq-signals computes from the same segments.

The segments are a sample of the run's own, read again from their recordings, since a run keeps none. fairseq-signals
gets the .pt file that the run's checkpoint was converted from. Both the network's outputs on this machine, in float32,
and the numbers that the run wrote, in its precision, are compared.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import torch

from ecgpipe.core import parquet
from ecgpipe.core.errors import EcgpipeError
from ecgpipe.core.run import Folder, Run
from ecgpipe.inference import devices, engine, fairseq_backend, fairseq_forward
from ecgpipe.inference.batch import BatchRunner
from ecgpipe.models import networks
from ecgpipe.models.description import Architecture, describe
from ecgpipe.models.ecg_fm.tuning import for_device
from ecgpipe.preprocessing import reread
from ecgpipe.preprocessing.reread import find_sources
from ecgpipe.preprocessing.segments import UnusableError
from ecgpipe.readers import UnreadableError

BATCH = 8  # segments that fairseq-signals gets at a time

# The result files: folder, and the kind of numbers there.
FOLDERS: Mapping[str, Folder] = {"logits": "logits", "embedding": "embeddings", "attention": "attention"}


class Sample(NamedTuple):
    """Some segments of a run."""

    record_ids: list[str]
    numbers: np.ndarray  # (n,) int32, which segment of its recording each is
    signal: np.ndarray  # (n, leads, samples) float32, as the model takes them
    samples: np.ndarray  # (n,) int32, how many from the beginning are signal and not padding


def draw_sample(finished: Run, most: int, seed: int) -> Sample:
    """Draw segments of a run at random, each with the same chance, and read them from their recordings.

    Args:
        finished: The run.
        most: How many; all where the run has fewer.
        seed: Of the choice.

    Returns:
        The segments, in the run's order.

    Raises:
        EcgpipeError: The run has none, or a recording is not what it was.
    """
    description = describe(finished.model_json)
    sources = find_sources(
        finished, description.architecture.token_samples, description.model_input, description.has_tokens_by_lead
    )
    chosen = _choose(sources.records, most, seed)
    if not chosen:
        raise EcgpipeError(f"RUN: {finished.outdir} has no segments; none of its recordings could be used")
    rows, records = reread.read_rows(sources.manifest, list(chosen)), reread.read_rows(sources.records, list(chosen))
    ids, numbers, signals, samples = [], [], [], []
    for record_id, chosen_numbers in chosen.items():
        try:
            prepared = reread.read_segments(rows[record_id], records[record_id], sources.windows, sources.assumed)
        except (UnreadableError, UnusableError) as error:
            raise EcgpipeError(
                f"verify: {rows[record_id]['path']} is not the recording that the run read: {error}; run again first"
            ) from error
        ids += [record_id] * len(chosen_numbers)
        numbers += chosen_numbers
        signals += [prepared.segments[number] for number in chosen_numbers]
        samples += [prepared.samples] * len(chosen_numbers)
    return Sample(ids, np.array(numbers, np.int32), np.stack(signals), np.array(samples, np.int32))


def _choose(records: Sequence[Path], most: int, seed: int) -> dict[str, list[int]]:
    """By record id the numbers of the segments that were drawn, in the run's order."""
    counted = [
        (batch["record_id"], batch["n_segments"].to_numpy(zero_copy_only=False))
        for batch in parquet.batches(records, ["record_id", "n_segments"])
    ]
    total = int(sum(counts.sum() for _, counts in counted))
    drawn = np.sort(np.random.default_rng(seed).choice(total, min(most, total), replace=False))  # of all segments
    chosen: dict[str, list[int]] = {}
    before = 0
    for ids, counts in counted:
        ends = before + np.cumsum(counts)  # (recordings,) where each one's segments end
        of_these = drawn[(drawn >= before) & (drawn < (ends[-1] if len(ends) else before))]
        places = np.searchsorted(ends, of_these, side="right")
        for place, segment in zip(places.tolist(), of_these.tolist(), strict=True):
            first = int(ends[place] - counts[place])
            chosen.setdefault(ids[place].as_py(), []).append(segment - first)
        before = int(ends[-1]) if len(ends) else before
    return chosen


def write_sample(path: Path, sample: Sample, source: Path) -> None:
    """Write a sample as fairseq_forward.py reads it.

    Args:
        path: The file.
        sample: The segments.
        source: The .pt file.
    """
    with path.open("wb") as file:
        fairseq_forward.write(file, checkpoint=np.array(str(source.resolve())))
        for first in range(0, len(sample.numbers), BATCH):
            rows = slice(first, first + BATCH)
            fairseq_forward.write(
                file,
                signal=sample.signal[rows],
                samples=sample.samples[rows],
                record_id=np.array(sample.record_ids[rows]),
                segment=sample.numbers[rows],
            )


def read_sample(path: Path) -> Sample:
    """Read the file that `write_sample` wrote."""
    frames = _frames(path)[1:]
    ids = [str(record_id) for frame in frames for record_id in frame["record_id"]]
    numbers, signal, samples = (
        np.concatenate([frame[name] for frame in frames]) for name in ("segment", "signal", "samples")
    )
    return Sample(ids, numbers, signal, samples)


def read_answers(path: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Read the file of fairseq_forward.py: its versions, and `logits`, `embedding` and `attention` of the sample."""
    first, *frames = _frames(path)
    return json.loads(str(first["about"])), _joined(frames)


def ask(python: Path, sample: Sample, source: Path, threads: int) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Ask fairseq-signals directly for the same.

    Args:
        python: The interpreter of an environment that has it.
        sample: The segments.
        source: The .pt file.
        threads: CPU threads.

    Returns:
        As of `read_answers`.

    Raises:
        EcgpipeError: As of `fairseq_backend.open_fairseq`.
    """
    frames = []
    with fairseq_backend.open_fairseq(python, source, threads=threads) as (about, answer):
        for first in range(0, len(sample.numbers), BATCH):
            rows = slice(first, first + BATCH)
            frames.append(answer(sample.signal[rows], sample.samples[rows]))
    return about, _joined(frames)


def _frames(path: Path) -> list[dict[str, np.ndarray]]:
    try:
        with path.open("rb") as file:
            frames = list(fairseq_forward.read(file))
    except (OSError, EOFError) as error:
        raise EcgpipeError(f"verify: {path} is not a whole file of frames ({error}); make it again") from error
    if len(frames) < 2:
        raise EcgpipeError(f"verify: {path} holds no segments; make it again")
    return frames


def _joined(frames: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    return {name: np.concatenate([frame[name] for frame in frames]) for name in FOLDERS}


def compute(finished: Run, sample: Sample, device_name: str, threads: int) -> dict[str, np.ndarray]:
    """Compute the outputs of the run's converted checkpoint for the sample, on this machine in float32.

    Args:
        finished: The run.
        sample: The segments.
        device_name: As of `devices.claim`.
        threads: CPU threads.

    Returns:
        `logits` (n, labels), `embedding` (n, width) and `attention` (n, tokens).
    """
    description, weights = describe(finished.model_json), finished.weights
    engine.configure(threads, deterministic=False)
    frames = []
    with devices.claim(device_name, engine.least_bytes(weights)) as device:
        network = networks.load_network(description, weights, device)
        runner = BatchRunner(network, BATCH, True, False, for_device(device))
        for first in range(0, len(sample.numbers), BATCH):
            rows = slice(first, first + BATCH)
            tensors = runner(torch.from_numpy(sample.signal[rows]).to(device), sample.samples[rows])
            frames.append(dict(zip(FOLDERS, (tensor.cpu().numpy() for tensor in tensors), strict=True)))
        del network, runner
    return _joined(frames)


def read_results(finished: Run, sample: Sample) -> dict[str, np.ndarray]:
    """Read the run's results for the sample, by record id and segment.

    Args:
        finished: The run.
        sample: The segments.

    Returns:
        As of `compute`; without `attention` where the run wrote none.

    Raises:
        EcgpipeError: A segment is in no file.
    """
    description = describe(finished.model_json)
    results = {}
    for kind, folder in FOLDERS.items():
        if not (finished.outdir / folder).is_dir():
            continue
        rows: dict[tuple[str, int], Any] = {}
        for table in parquet.rows_of(finished.files(folder), sample.record_ids):
            values = _vectors(table, kind, description.labels)  # (rows, numbers of each)
            table_keys = zip(table["record_id"].to_pylist(), table["segment"].to_pylist(), strict=True)
            rows |= dict(zip(table_keys, values, strict=True))
        keys = list(zip(sample.record_ids, sample.numbers.tolist(), strict=True))
        missing = [f"{record_id}, segment {number}" for record_id, number in keys if (record_id, number) not in rows]
        if missing:
            raise EcgpipeError(
                f"verify: {finished.outdir / folder} has no row for {missing[0]}; run the workflow to its end"
            )
        results[kind] = np.stack([rows[key] for key in keys])
    return results


def _vectors(table: pa.Table, kind: str, labels: tuple[str, ...]) -> np.ndarray:
    if kind == "logits":
        columns = [table[label].to_numpy() for label in labels]
        return np.column_stack(columns) if columns else np.empty((len(table), 0), np.float32)
    return np.stack(table[kind].to_numpy())


def without_padding(
    sample: Sample, numbers: Mapping[str, np.ndarray], architecture: Architecture
) -> dict[str, np.ndarray]:
    """Leave out the attention of the tokens of padding: ecgpipe has 0 there, fairseq-signals does not.

    Args:
        sample: The segments.
        numbers: As of `compute`.
        architecture: The network, which gives the number of tokens of a segment.

    Returns:
        The same, the attention flattened to (tokens that are signal,).
    """
    if "attention" not in numbers:
        return dict(numbers)
    counts = np.array([architecture.tokens(int(count)) for count in sample.samples])  # (n,)
    attention = numbers["attention"]
    return {**numbers, "attention": attention[np.arange(attention.shape[1]) < counts[:, None]]}
