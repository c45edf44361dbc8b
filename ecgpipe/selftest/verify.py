"""Check the numbers of this installation, on this machine, against those of fairseq-signals and ecg-transform.

Without a run, synthetic recordings and a synthetic checkpoint run through the stages, and the results are compared
with the numbers that fairseq-signals and ecg-transform computed from them, which ecgpipe ships. With --model, a model's
input is shown step by step, and what its network gives: see verify_model.py. With a run, the real
fairseq-signals computes on this machine from the run's own checkpoint and a sample of its own segments. Exit 0: the
numbers are the same. Exit 2: they differ, and the message says which.
"""

import argparse
import json
import logging
import math
import os
import platform
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow.parquet as pq
import torch
from scipy.special import expit

from ecgpipe import __version__
from ecgpipe.core import atomic, logs, options, settings
from ecgpipe.core.atomic import whole
from ecgpipe.core.errors import EcgpipeError
from ecgpipe.core.provenance import hash_source
from ecgpipe.core.run import Run
from ecgpipe.inference import aggregate, engine, fairseq_backend, fairseq_forward, infer, segment_files
from ecgpipe.inputs import manifest
from ecgpipe.models import checkpoint
from ecgpipe.models.description import Description, describe
from ecgpipe.preprocessing import preprocess
from ecgpipe.selftest import fairseq_run, fixtures, synthetic_checkpoint, verify_model
from ecgpipe.selftest.reference import OUTPUTS

logger = logging.getLogger(__name__)

# The largest difference that is rounding. Numbers in half precision have 8 (bfloat16) or 11 bits: docs/verify.md has
# the measurements.
ALLOWED = {
    "float32": {"segments": 1e-6, "logits": 1e-4, "embedding": 1e-4, "attention": 1e-5, "probabilities": 1e-5},
    "float16": {"segments": 1e-6, "logits": 2e-2, "embedding": 2e-2, "attention": 5e-3, "probabilities": 5e-3},
    "bfloat16": {"segments": 1e-6, "logits": 1e-1, "embedding": 1e-1, "attention": 2e-2, "probabilities": 2e-2},
}


class Check(NamedTuple):
    """One kind of numbers, compared."""

    what: str
    numbers: int
    largest: float  # difference; NaN where one of the numbers is
    allowed: float

    @property
    def ok(self) -> bool:
        """Whether all the numbers are the same, but for rounding."""
        return self.largest <= self.allowed

    @property
    def rounded(self) -> float | None:
        """The largest difference to three digits; None where it is no number."""
        return float(f"{self.largest:.3g}") if math.isfinite(self.largest) else None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `ecgpipe verify`."""
    options.add_run(parser)
    options.add(parser, "device")
    parser.add_argument(
        "--precision", choices=engine.DTYPES, default="float32", help="of the arithmetic (default %(default)s)"
    )
    options.add(parser, "threads")
    options.add(
        parser,
        "against",
        type=str,
        metavar=None,
        choices=["fairseq-signals"],
        help="what to compare the run with (default: fairseq-signals, if RUN is given)",
    )
    options.add(parser, "segments", type=int, default=32, help="segments of the run to compare (default %(default)s)")
    options.add(parser, "seed", default=1, help="seed of the choice of segments (default %(default)s)")
    parser.add_argument("--python", type=Path, help="the python of an environment that has fairseq-signals")
    options.add(parser, "output", help="JSON file to write (default: RUN/verify/fairseq_signals.json)")
    options.add(parser, "model", help="a model family, or your own .py file: show what goes into it and what comes out")
    options.add(parser, "checkpoint", type=os.path.expanduser, default=None, help="with --model: its weights")
    options.add(parser, "model-options")
    # The workflow's rules do it in three steps, the second of them in the environment of fairseq-signals.
    parser.add_argument(
        "--sample", type=Path, help="file of segments: written, and nothing is compared; with --answers, read"
    )
    parser.add_argument("--answers", type=Path, help="the answers of fairseq_forward.py to --sample")


def run(args: argparse.Namespace) -> None:
    """Verify this installation, or a finished run."""
    if args.model:
        options_given = options.read_pairs(args.model_options, "model-options")
        torch.set_num_threads(args.threads)
        print("\n".join(verify_model.verify_model(args.model, args.checkpoint, options_given)))
        return
    if not args.against and args.run is None:
        verify_installation(args.device, args.precision, args.threads)
        return
    if args.segments < 1:
        raise EcgpipeError(f"--segments: {args.segments} is out of range; give 1 or more")
    finished = Run(options.choose_run("verify", args.run, args.outdir)[0])
    source = fairseq_backend.find_original(_native_checkpoint(finished), finished.config.checkpoint)
    if args.sample and not args.answers:
        sample = fairseq_run.draw_sample(finished, args.segments, args.seed)
        with whole(args.sample) as temporary:
            fairseq_run.write_sample(temporary, sample, source)
        logger.info("%s: %d segments of %s", args.sample, len(sample.numbers), finished.outdir)
        return
    began = time.perf_counter()
    if args.answers:
        sample = fairseq_run.read_sample(args.sample)
        about, theirs = fairseq_run.read_answers(args.answers)
    else:
        sample = fairseq_run.draw_sample(finished, args.segments, args.seed)
        if not args.python:
            raise EcgpipeError(
                f"--python: not given, so that there is no fairseq-signals to ask; {fairseq_forward.INSTALL}"
            )
        about, theirs = fairseq_run.ask(args.python, sample, source, args.threads)
    verify_run(finished, sample, about, theirs, args.device, args.threads, args.output, began)


def verify_installation(device: str, precision: str, threads: int) -> None:
    """Compare the numbers of this installation with those that ecgpipe ships, and print the comparison.

    Args:
        device: As of `devices.claim`.
        precision: One of `engine.DTYPES`.
        threads: CPU threads.

    Raises:
        EcgpipeError: The numbers differ.
    """
    began = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="ecgpipe-verify-") as folder:
        computed, timing = compute(Path(folder), device, precision, threads)
    with np.load(OUTPUTS) as shipped:
        checks = compare(computed, dict(shipped), ALLOWED[timing["precision"]])
        about = json.loads(str(shipped["about"]))
    _print_checks(checks, f"{timing['device']}, {timing['precision']}, {time.perf_counter() - began:.1f} s", about)
    refuse(checks, "reinstall ecgpipe and PyTorch; where code was changed, that is what changed the numbers")


def verify_run(
    finished: Run,
    sample: fairseq_run.Sample,
    about: Mapping[str, Any],
    theirs: Mapping[str, np.ndarray],
    device: str,
    threads: int,
    output: Path | None,
    began: float,
) -> None:
    """Compare a finished run's numbers with those of fairseq-signals, print the comparison and write it as JSON.

    Args:
        finished: The run.
        sample: Segments of it.
        about: The versions of fairseq-signals.
        theirs: Its numbers for the sample: `logits`, `embedding`, `attention`.
        device: Where the run's checkpoint computes once more, as of `devices.claim`.
        threads: CPU threads.
        output: The JSON file to write; None: below the run's results.
        began: When the comparison began, by `time.perf_counter`.

    Raises:
        EcgpipeError: The numbers differ.
    """
    description = describe(finished.model_json)
    here = fairseq_run.compute(finished, sample, device, threads)
    checks = _check_kinds(sample, here, theirs, description, "computed here", ALLOWED["float32"])
    parts = finished.info.precision.used  # of the parts; several if they differ
    used = max([parts] if isinstance(parts, str) else parts, key=lambda name: ALLOWED[name]["logits"])
    written = fairseq_run.read_results(finished, sample)
    checks += _check_kinds(sample, written, theirs, description, f"written, {used}", ALLOWED[used])
    seconds = time.perf_counter() - began
    recordings = len(set(sample.record_ids))
    _print_checks(checks, f"{len(sample.numbers)} segments of {recordings} recordings, {seconds:.1f} s", about)
    content = {
        "ok": all(each.ok for each in checks),
        "checks": [{**each._asdict(), "largest": each.rounded, "ok": each.ok} for each in checks],
        "segments": [
            {"record_id": i, "segment": n} for i, n in zip(sample.record_ids, sample.numbers.tolist(), strict=True)
        ],
        "checkpoint": {"uri": description.uri, "revision": description.revision, "sha256": description.sha256},
        "fairseq_signals": about,
        "ecgpipe": {"version": __version__, "source_sha256": hash_source(), "torch": torch.__version__},
    }
    atomic.write_json(output or finished.outdir / "verify/fairseq_signals.json", content)
    refuse(
        checks, "do not use the run's numbers before it is known why; the checkpoint may be of a kind ecgpipe misreads"
    )


def _native_checkpoint(finished: Run) -> Description:
    """The description of the run's checkpoint, which ecgpipe's own network must have computed."""
    _ = finished.info  # a folder without run.json is not a finished run, whatever else is there
    description = describe(finished.model_json)
    if description.backend != "native":
        raise EcgpipeError(
            f"RUN: the numbers of {finished.outdir} are fairseq-signals' own (inference.backend): nothing to do"
        )
    return description


def _check_kinds(
    sample: fairseq_run.Sample,
    ours: Mapping[str, np.ndarray],
    theirs: Mapping[str, np.ndarray],
    description: Description,
    whose: str,
    allowed: Mapping[str, float],
) -> list[Check]:
    """Compare those of logits, probabilities, embedding and attention that the run has."""
    for kind in ours:
        if ours[kind].shape != theirs[kind].shape:
            raise EcgpipeError(
                f"verify: {kind}, {whose}, has the shape {ours[kind].shape}, fairseq-signals' {theirs[kind].shape}; "
                "the answers are not of this run's checkpoint and segments"
            )
    ours, theirs = (fairseq_run.without_padding(sample, each, description.architecture) for each in (ours, theirs))
    ours, theirs = ({**each, "probabilities": expit(each["logits"].astype(np.float64))} for each in (ours, theirs))
    kinds = [kind for kind in ("logits", "probabilities", "embedding", "attention") if kind in ours and ours[kind].size]
    return [check(f"{kind}, {whose}", ours[kind], theirs[kind], allowed[kind]) for kind in kinds]


def _print_checks(checks: Sequence[Check], how: str, about: Mapping[str, Any]) -> None:
    """Print the table and the versions behind it."""
    print("\n".join(table(checks)))
    print(
        f"ecgpipe {__version__} (source {hash_source()[:12]}), PyTorch {torch.__version__}, NumPy {np.__version__}, "
        f"Python {platform.python_version()}"
    )
    print(how)
    preprocessed = f" and ecg-transform {about['ecg_transform']}" if "ecg_transform" in about else ""
    print(
        f"against fairseq-signals {about['fairseq_signals']} (PyTorch {about['torch']}, Python {about['python']})"
        f"{preprocessed}"
    )


def compute(folder: Path, device: str, precision: str, threads: int) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Run the stages over the synthetic recordings and the synthetic checkpoint.

    Args:
        folder: For their files.
        device: As of `devices.claim`.
        precision: As of `infer.infer_part`.
        threads: CPU threads.

    Returns:
        `record_id` and `segment` (segments,), `segments` (segments, 12, 2500), `logits` (segments, labels), `embedding`
        (segments, width), `attention` (segments, tokens), `recordings` (recordings,), `labels` (labels,) and
        `probabilities` (recordings, labels); and the timing of `infer.infer_part`, with its device and precision.
    """
    recordings, labels = folder / "recordings", folder / "labels.csv"
    recordings.mkdir()
    fixtures.write_recordings(recordings)
    torch.save(synthetic_checkpoint.reference(), folder / "reference.pt")
    rows = "".join(f"{name},{aggregation}\n" for name, aggregation in synthetic_checkpoint.LABELS.items())
    labels.write_text(f"name,aggregation\n{rows}")
    predictions = folder / "predictions.parquet"
    files = infer.Files(
        weights=folder / "model.safetensors",
        description=folder / "model.json",
        segments=[folder / "segments.arrow"],
        logits=folder / "logits.parquet",
        embeddings=folder / "embeddings.parquet",
        attention=folder / "attention.parquet",
        timing=folder / "timing.json",
    )
    checkpoint_settings = settings.Checkpoint(source=str(folder / "reference.pt"), labels=str(labels))
    with logs.limit(logging.getLogger("ecgpipe"), logging.WARNING):
        manifest.write([str(recordings)], settings.Manifest(), folder / "manifest")
        shard, records = folder / "manifest/shard-00000.parquet", folder / "records.parquet"
        preprocess.preprocess_shard(shard, files.segments[0], records, settings.Preprocess())
        checkpoint.convert_checkpoint(files.weights, files.description, checkpoint_settings)
        timing = infer.infer_part(files, settings.Infer(device=device), precision, threads)
        aggregate.aggregate_part(files.logits, files.embeddings, predictions, settings.Aggregate(labels=str(labels)))
    return _read_results(files, predictions), timing


def _read_results(files: infer.Files, predictions_path: Path) -> dict[str, np.ndarray]:
    """The arrays that `compute` returns, from the stages' files."""
    contents = segment_files.inspect_shards(files.segments)
    buffer = torch.empty(contents.segments, contents.leads, contents.samples)
    keys, signals = next(segment_files.read_batches(files.segments, [buffer]))
    logits, predictions = pq.read_table(files.logits), pq.read_table(predictions_path)
    columns = [name for name in logits.column_names if name not in ("record_id", "segment", "start_s")]
    return {
        "record_id": np.array(keys.record_ids),
        "segment": keys.numbers,
        "segments": signals.numpy(),
        "logits": np.column_stack([logits[name].to_numpy() for name in columns]),
        "recordings": np.array(predictions["record_id"].to_pylist()),
        "labels": np.array(columns),
        "probabilities": np.column_stack([predictions[name].to_numpy() for name in columns]),
        "embedding": np.stack(pq.read_table(files.embeddings)["embedding"].to_numpy()),
        "attention": np.stack(pq.read_table(files.attention)["attention"].to_numpy()),
    }


def compare(
    computed: Mapping[str, np.ndarray], shipped: Mapping[str, np.ndarray], allowed: Mapping[str, float]
) -> list[Check]:
    """Compare the numbers of the stages with those that ecgpipe ships.

    Args:
        computed: As of `compute`.
        shipped: The content of reference/outputs.npz; of the segments it has the samples named by `sample`.
        allowed: The largest difference of each kind of numbers.

    Returns:
        One for each kind.

    Raises:
        EcgpipeError: Recordings, segments or labels differ, or their order does.
    """
    for name in ("record_id", "segment", "recordings", "labels"):
        here, expected = (", ".join(map(str, numbers[name])) for numbers in (computed, shipped))
        if here != expected:
            raise EcgpipeError(f"verify: {name} is {here} instead of {expected}; reinstall ecgpipe")
    ours = {**computed, "segments": computed["segments"][:, :, shipped["sample"]]}
    return [check(name, ours[name], shipped[name], bound) for name, bound in allowed.items()]


def check(what: str, ours: np.ndarray, theirs: np.ndarray, allowed: float) -> Check:
    """Compare two arrays.

    Raises:
        EcgpipeError: They are of different shapes.
    """
    if ours.shape != theirs.shape:
        raise EcgpipeError(
            f"verify: {what} has the shape {ours.shape} and should have {theirs.shape}; it is another network's"
        )
    difference = np.abs(ours.astype(np.float64) - theirs.astype(np.float64))
    return Check(what, difference.size, float(difference.max()) if difference.size else 0.0, allowed)


def table(checks: Sequence[Check]) -> list[str]:
    """The checks as lines to print."""
    width = max(len("what"), *(len(check.what) for check in checks))
    lines = [f"{'what':<{width}}  {'numbers':>9}  {'largest difference':>18}  {'allowed':>7}"]
    for each in checks:
        verdict = "ok" if each.ok else "DIFFERS"
        lines.append(
            f"{each.what:<{width}}  {each.numbers:>9,}  {each.largest:>18.1e}  {each.allowed:>7.0e}  {verdict}"
        )
    return lines


def refuse(checks: Sequence[Check], fix: str) -> None:
    """Raise an error that names what differs, where something does."""
    differing = [f"{c.what} by {c.largest:.2g} (allowed: {c.allowed:g})" for c in checks if not c.ok]
    if differing:
        raise EcgpipeError(f"verify: the numbers are not fairseq-signals': {', '.join(differing)}; {fix}")
