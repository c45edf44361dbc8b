"""Check the numbers of this installation, on this machine, against those of fairseq-signals and ecg-transform.

Without options, recordings and a checkpoint that ecgpipe makes itself run through its stages, and what comes out is
compared with what fairseq-signals and ecg-transform computed from the same, which ecgpipe ships. With
--against fairseq-signals it is a finished run's own checkpoint, on a sample of its own segments, and the real
fairseq-signals computes on this machine. Exit 0: the numbers are the same. Exit 2: they are not, and it says which.
"""

import argparse
import json
import logging
import math
import platform
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import pyarrow.parquet as pq
import torch
from scipy.special import expit

from ecgpipe import __version__
from ecgpipe.core import atomic, settings
from ecgpipe.core.atomic import whole
from ecgpipe.core.errors import EcgpipeError
from ecgpipe.core.provenance import source_sha256
from ecgpipe.inference import aggregate, engine, fairseq_backend, fairseq_forward, infer, segment_files
from ecgpipe.inputs import manifest
from ecgpipe.models import checkpoint
from ecgpipe.models.description import Description, describe
from ecgpipe.preprocessing import preprocess
from ecgpipe.selftest import fairseq_run, fixtures, synthetic_checkpoint
from ecgpipe.selftest.reference import OUTPUTS

logger = logging.getLogger(__name__)

# The largest difference that is rounding. In half precision logits and embeddings are those of numbers of 8 (bfloat16)
# or 11 bits: what was measured is in docs/verify.md.
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
    def told(self) -> float | None:
        """The largest difference to three digits; None where it is no number."""
        return float(f"{self.largest:.3g}") if math.isfinite(self.largest) else None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `python -m ecgpipe verify`."""
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (default %(default)s)")
    parser.add_argument(
        "--precision", choices=engine.DTYPES, default="float32", help="of the arithmetic (default %(default)s)"
    )
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default %(default)s)")
    parser.add_argument("--against", choices=["fairseq-signals"], help="hold a finished run against the real one")
    parser.add_argument("--outdir", type=Path, default=Path("results"), help="of the run (default %(default)s)")
    parser.add_argument("--segments", type=int, default=32, help="of the run to compare (default %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="of the choice of segments (default %(default)s)")
    parser.add_argument("--python", type=Path, help="of an environment that has fairseq-signals")
    parser.add_argument("--output", type=Path, help="JSON (default: OUTDIR/verify/fairseq_signals.json)")
    # The workflow's rules do it in three steps, the second of them in the environment of fairseq-signals.
    parser.add_argument(
        "--sample", type=Path, help="file of segments: to write, and nothing else; with --answers, to read"
    )
    parser.add_argument("--answers", type=Path, help="what reference/forward.py said of --sample")


def run(args: argparse.Namespace) -> None:
    """Verify, print what was compared, and fail where it differs."""
    if args.against:
        _run_against(args)
        return
    began = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="ecgpipe-verify-") as folder:
        made, timing = compute(Path(folder), args.device, args.precision, args.threads)
    with np.load(OUTPUTS) as known:
        checks = compare(made, dict(known), ALLOWED[timing["precision"]])
        about = json.loads(str(known["about"]))
    _tell(checks, f"{timing['device']}, {timing['precision']}, {time.perf_counter() - began:.1f} s", about)
    refuse(checks, "reinstall ecgpipe and PyTorch; where code was changed, that is what changed the numbers")


def _run_against(args: argparse.Namespace) -> None:
    """Sample a run's segments, ask fairseq-signals, compare; or one of these steps."""
    outdir: Path = args.outdir
    if args.segments < 1:
        raise EcgpipeError(f"--segments: {args.segments} are none; give 1 or more")
    began = time.perf_counter()
    summary = fairseq_run.settings_of(outdir)
    description = describe(outdir / "checkpoint/model.json")
    if description.backend != "native":
        raise EcgpipeError(
            f"--outdir: the numbers of {outdir} are fairseq-signals' own (inference.backend): nothing to do"
        )
    source = fairseq_backend.original(description, summary["config"].get("checkpoint"))
    if args.answers:
        drawn = fairseq_run.read(args.sample)
        about, theirs = fairseq_run.answers(args.answers)
    else:
        drawn = fairseq_run.sample(outdir, args.segments, args.seed)
        if args.sample:
            with whole(args.sample) as temporary:
                fairseq_run.write(temporary, drawn, source)
            logger.info("%s: %d segments of %s", args.sample, len(drawn.numbers), outdir)
            return
        if not args.python:
            raise EcgpipeError(
                f"--python: not given, so that there is no fairseq-signals to ask; {fairseq_forward.INSTALL}"
            )
        about, theirs = fairseq_run.ask(args.python, drawn, source, args.threads)
    here = fairseq_run.computed(outdir, drawn, args.device, args.threads)
    checks = _against(drawn, here, theirs, description, "computed here", ALLOWED["float32"])
    parts = summary["precision"]["used"]  # of the parts; a list if they differ
    used = max([parts] if isinstance(parts, str) else parts, key=lambda name: ALLOWED[name]["logits"])
    checks += _against(
        drawn, fairseq_run.written(outdir, drawn), theirs, description, f"written, {used}", ALLOWED[used]
    )
    how = (
        f"{len(drawn.numbers)} segments of {len(set(drawn.record_ids))} recordings, {time.perf_counter() - began:.1f} s"
    )
    _tell(checks, how, about)
    found = {
        "ok": all(each.ok for each in checks),
        "checks": [{**each._asdict(), "largest": each.told, "ok": each.ok} for each in checks],
        "segments": [
            {"record_id": i, "segment": n} for i, n in zip(drawn.record_ids, drawn.numbers.tolist(), strict=True)
        ],
        "checkpoint": {"uri": description.uri, "revision": description.revision, "sha256": description.sha256},
        "fairseq_signals": about,
        "ecgpipe": {"version": __version__, "source_sha256": source_sha256(), "torch": torch.__version__},
    }
    atomic.write_json(args.output or outdir / "verify/fairseq_signals.json", found)
    refuse(
        checks, "do not use the run's numbers before it is known why; the checkpoint may be of a kind ecgpipe misreads"
    )


def _against(
    drawn: fairseq_run.Sample,
    ours: Mapping[str, np.ndarray],
    theirs: Mapping[str, np.ndarray],
    description: Description,
    whose: str,
    allowed: Mapping[str, float],
) -> list[Check]:
    """Compare what there is of logits, probabilities, embedding and attention."""
    for kind in ours:
        if ours[kind].shape != theirs[kind].shape:
            raise EcgpipeError(
                f"verify: {kind}, {whose}, has the shape {ours[kind].shape}, fairseq-signals' {theirs[kind].shape}; "
                "the answers are not of this run's checkpoint and segments"
            )
    ours, theirs = (fairseq_run.own_tokens(drawn, each, description.architecture) for each in (ours, theirs))
    ours, theirs = ({**each, "probabilities": expit(each["logits"].astype(np.float64))} for each in (ours, theirs))
    kinds = [kind for kind in ("logits", "probabilities", "embedding", "attention") if kind in ours and ours[kind].size]
    return [check(f"{kind}, {whose}", ours[kind], theirs[kind], allowed[kind]) for kind in kinds]


def _tell(checks: Sequence[Check], how: str, about: Mapping[str, Any]) -> None:
    """Print the table, and by what it was made."""
    print("\n".join(table(checks)))
    print(
        f"ecgpipe {__version__} (source {source_sha256()[:12]}), PyTorch {torch.__version__}, NumPy {np.__version__}, "
        f"Python {platform.python_version()}"
    )
    print(how)
    preprocessed = f" and ecg-transform {about['ecg_transform']}" if "ecg_transform" in about else ""
    print(
        f"against fairseq-signals {about['fairseq_signals']} (PyTorch {about['torch']}, Python {about['python']})"
        f"{preprocessed}"
    )


def compute(folder: Path, device: str, precision: str, threads: int) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Run the stages over the recordings and the checkpoint of `recipe`.

    Args:
        folder: For their files.
        device: As of `infer`.
        precision: As of `infer`.
        threads: As of `infer`.

    Returns:
        `record_id` and `segment` (segments,), `segments` (segments, 12, 2500), `logits` (segments, labels), `embedding`
        (segments, width), `attention` (segments, tokens), `recordings` (recordings,), `labels` (labels,) and
        `probabilities` (recordings, labels); and what `infer` says of its device, precision and time.
    """
    recordings, labels, at = folder / "recordings", folder / "labels.csv", {}
    recordings.mkdir()
    fixtures.write_recordings(recordings)
    torch.save(synthetic_checkpoint.reference(), folder / "recipe.pt")
    labels.write_text(
        "name,aggregation\n" + "".join(f"{name},{how}\n" for name, how in synthetic_checkpoint.LABELS.items())
    )
    names = {"weights": "model.safetensors", "description": "model.json", "segments": "segments.arrow"}
    names |= {name: f"{name}.parquet" for name in ("records", "logits", "embeddings", "attention", "predictions")}
    at = {name: folder / file for name, file in names.items()} | {"labels": labels, "timing": folder / "timing.json"}
    with _quiet():
        manifest.write([str(recordings)], settings.Manifest(), folder / "manifest")
        _stage(preprocess, at, "--shard", str(folder / "manifest/shard-00000.parquet"), named=("segments", "records"))
        source = ("--source", str(folder / "recipe.pt"))
        _stage(checkpoint, at, *source, named=("labels", "weights", "description"))
        how = ("--device", device, "--precision", precision, "--threads", str(threads))
        files = ("weights", "description", "segments", "logits", "embeddings", "attention", "timing")
        _stage(infer, at, *how, named=files)
        _stage(aggregate, at, named=("logits", "labels", "predictions"))
    contents = segment_files.look_at([at["segments"]])
    buffer = torch.empty(contents.segments, contents.leads, contents.samples)
    keys, signals = next(segment_files.read([at["segments"]], [buffer]))
    logits, predictions = (pq.read_table(at[name]) for name in ("logits", "predictions"))
    columns = [name for name in logits.column_names if name not in ("record_id", "segment", "start_s")]
    made = {
        "record_id": np.array(keys.record_ids),
        "segment": keys.numbers,
        "segments": signals.numpy(),
        "logits": np.column_stack([logits[name].to_numpy() for name in columns]),
        "recordings": np.array(predictions["record_id"].to_pylist()),
        "labels": np.array(columns),
        "probabilities": np.column_stack([predictions[name].to_numpy() for name in columns]),
    }
    for name, file in {"embedding": "embeddings", "attention": "attention"}.items():
        made[name] = np.stack(pq.read_table(at[file])[name].to_numpy())
    return made, json.loads(at["timing"].read_text())


def compare(
    made: Mapping[str, np.ndarray], known: Mapping[str, np.ndarray], allowed: Mapping[str, float]
) -> list[Check]:
    """Hold what the stages made against what is known.

    Args:
        made: As of `compute`.
        known: The content of reference/outputs.npz; of the segments it has the samples named by `sample`.
        allowed: The largest difference of each kind of numbers.

    Returns:
        One for each kind.

    Raises:
        EcgpipeError: Recordings, segments or labels are others, or stand in another order.
    """
    for name in ("record_id", "segment", "recordings", "labels"):
        if list(made[name]) != list(known[name]):
            raise EcgpipeError(
                f"verify: {name} is {', '.join(map(str, made[name]))} instead of {', '.join(map(str, known[name]))}; "
                "reinstall ecgpipe"
            )
    ours = {**made, "segments": made["segments"][:, :, known["sample"]]}
    return [check(name, ours[name], known[name], bound) for name, bound in allowed.items()]


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
        said = "ok" if each.ok else "DIFFERS"
        lines.append(f"{each.what:<{width}}  {each.numbers:>9,}  {each.largest:>18.1e}  {each.allowed:>7.0e}  {said}")
    return lines


def refuse(checks: Sequence[Check], mend: str) -> None:
    """Raise an error that names what differs, where something does."""
    differing = [f"{c.what} by {c.largest:.2g} (allowed: {c.allowed:g})" for c in checks if not c.ok]
    if differing:
        raise EcgpipeError(f"verify: the numbers are not fairseq-signals': {', '.join(differing)}; {mend}")


def _stage(module: ModuleType, at: Mapping[str, Path], *options: str, named: Sequence[str] = ()) -> None:
    """Run a stage as its command does, with the files of these names as its options of the same names."""
    parser = argparse.ArgumentParser()
    module.add_arguments(parser)
    files = [text for file in named for text in (f"--{file}", str(at[file]))]
    module.run(parser.parse_args([*options, *files]))


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the stages from telling what they do; warnings are told."""
    said = logging.getLogger("ecgpipe")
    before = said.level
    said.setLevel(logging.WARNING)
    try:
        yield
    finally:
        said.setLevel(before)
