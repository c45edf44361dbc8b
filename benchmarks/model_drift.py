"""How far half precision moves the outputs of each model family's network, on real recordings.

    python -m benchmarks.model_drift [--small] [--recordings N] [--models NAME ...] [--reference FOLDER] [--output FILE]

Weights are those of the reference's scripts: drawn at random, in the layout and size of the released files. Both sides
are the network as the infer stage builds it, some of whose layers are float32 in any precision. It runs on a CPU, also
where `precision` becomes float32 because the CPU is slow in it. A GPU rounds to the same precision and sums in another
order: the figures say how large a drift is, not its last digit.
"""

import argparse
import json
import runpy
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
import torch

from ecgpipe.core.model_input import ModelInput
from ecgpipe.core.provenance import find_cpu_name
from ecgpipe.inference import engine, precision
from ecgpipe.models import checkpoint, networks
from ecgpipe.preprocessing import segments
from ecgpipe.preprocessing.segments import Windows
from ecgpipe.readers import Assumed, read

OUTPUT = Path(__file__).parent / "results" / "model-drift.json"
REFERENCE = Path(__file__).parents[2] / "shared" / "reference"
HALVES = ("float16", "bfloat16")


class Case(NamedTuple):
    """A family's checkpoint, by the folder of its script in the reference."""

    folder: str  # "": ECG-FM's
    full: str  # variant of the script, of the released size
    small: str
    suffix: str = ".pt"


CASES = {
    "ecg-fm": Case("", "base", "tiny"),
    "ecgfounder": Case("ecgfounder", "full", "tiny", ".pth"),
    "ecgfounder-lead1": Case("ecgfounder", "lead1", "lead1", ".pth"),
    "deepecg-ssl": Case("deepecg_ssl", "base77", "tiny77"),
    "hubert-ecg": Case("hubert_ecg", "small_sft", "tiny_sft", ""),
    "ecg-jepa": Case("ecg_jepa", "full", "tiny", ".pth"),
}


def make_checkpoint(reference: Path, case: Case, variant: str, folder: Path) -> Path:
    """Run the reference's script; the checkpoint that it wrote."""
    script = (reference / "models" / case.folder if case.folder else reference) / "make_checkpoint.py"
    path = folder / f"{case.folder or 'ecg_fm'}_{variant}{case.suffix}"
    with mock.patch.object(sys, "argv", [str(script), variant, str(path)]):
        runpy.run_path(str(script), run_name="__main__")
    return path


def read_windows(reference: Path, model_input: ModelInput, most: int) -> tuple[np.ndarray, np.ndarray]:
    """The windows of `most` real recordings at most, as the model takes them.

    Returns:
        (windows, leads, samples) float32, and (windows,) the samples of each that are signal.
    """
    short = "pad" if model_input.padding else "skip"
    windows = Windows(segment_s=model_input.window_s, short=short, model_input=model_input)  # type: ignore[arg-type]
    found, samples = [], []
    for path in sorted((reference / "code15").glob("*.mat"))[:most]:
        recording = read(path, "mat", Assumed(unit="mV"), None)
        try:
            prepared = segments.prepare(recording, windows, {})
        except segments.UnusableError as error:
            print(f"{path.name}: {error}")
            continue
        found.append(prepared.segments)
        samples += [prepared.samples] * len(prepared.segments)
    return np.concatenate(found), np.array(samples, np.int32)


def measure(reference: Path, name: str, small: bool, most: int, folder: Path) -> dict[str, Any]:
    """Of a family, by precision: the largest drift of a probability and of an embedding's direction."""
    case = CASES[name]
    source = make_checkpoint(reference, case, case.small if small else case.full, folder)
    opened = checkpoint.open_source(str(source), model=name)
    labels = [f"output {number}" for number in range(opened.architecture.labels)]
    description = checkpoint.describe_opened(opened, labels, {})
    signal, samples = read_windows(reference, description.model_input, most)

    def run(dtype: str) -> tuple[np.ndarray, np.ndarray]:
        network = networks.make_network(description, dict(opened.tensors), "cpu", engine.DTYPES[dtype], packed=False)
        results = engine.forward(network, signal, samples, torch.device("cpu"), 1, with_attention=False)
        return results.logits, results.embedding

    exact = run("float32")
    found: dict[str, Any] = {"windows": len(signal), "labels": len(labels)}
    for dtype in HALVES:
        drift = precision.measure_drift(exact, run(dtype), labels)
        probabilities = [summary["largest"] for summary in drift["probability"].values()]
        finite = None not in probabilities and drift["embedding"]["largest"] is not None
        found[dtype] = {
            "probability": _digits(max(probabilities)) if probabilities and finite else None,
            "embedding": _digits(drift["embedding"]["largest"]) if finite else None,
            "all_finite": finite,
        }
    return found


def _digits(value: float) -> float:
    return float(f"{value:.2g}")


def tabulate(families: Mapping[str, Mapping[str, Any]]) -> str:
    """The table of docs/performance.md."""
    lines = ["| | windows | " + " | ".join(f"{half}: probability | 1 - cosine" for half in HALVES) + " |"]
    lines.append("| --- |" + " --- |" * (1 + 2 * len(HALVES)))
    for name, found in families.items():
        cells = [found[half][key] for half in HALVES for key in ("probability", "embedding")]
        lines.append(
            f"| {name} | {found['windows']} | " + " | ".join("-" if x is None else f"{x:g}" for x in cells) + " |"
        )
    return "\n".join(lines)


def main() -> None:
    """Measure, write the JSON and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="tiny networks, to try it")
    parser.add_argument("--recordings", type=int, default=10, help="of the ten, at most (default %(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="(default %(default)s)")
    parser.add_argument("--models", nargs="+", choices=CASES, default=list(CASES), help="(default: all)")
    parser.add_argument("--reference", type=Path, default=REFERENCE, help="(default %(default)s)")
    parser.add_argument("--output", type=Path, default=OUTPUT, help="(default %(default)s)")
    args = parser.parse_args()
    engine.configure(args.threads, deterministic=False)
    families = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in args.models:
            families[name] = measure(args.reference, name, args.small, args.recordings, Path(folder))
            print(name, json.dumps(families[name]), flush=True)
    machine = {
        "cpu": find_cpu_name(),
        "torch": str(torch.__version__),
        "small": args.small,
        "recordings": args.recordings,
    }
    args.output.write_text(json.dumps({**machine, "families": families}, indent=2) + "\n", encoding="utf-8")
    print(tabulate(families))


if __name__ == "__main__":
    main()
