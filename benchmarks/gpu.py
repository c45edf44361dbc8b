"""All that a few minutes on a machine with a GPU can tell of ecgpipe, in one command.

    python -m benchmarks.gpu [--budget-s 480] [--json FILE] [--reference FOLDER] [--steps NAME ...]
    python -m benchmarks.gpu --tiny --device cpu      the same steps at a tiny size on a CPU, to try them

Offline, on Python 3.11 to 3.13 and PyTorch 2.6 or newer as the machine has it. The steps run in the order of their
value (`STEPS`), in a process of their own that is replaced where a step breaks it or takes too long: a step that fails
leaves its traceback and the others' results. The JSON file is written again after each measurement, so that whatever
ends the command leaves what was done. What the steps print goes to a file beside the JSON.

`python -m benchmarks.plots` makes the GPU part of docs/performance.md from the JSON.
"""

import argparse
import json
import re
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.gpu_worker import Setup, Worker, run_step
from benchmarks.sides import CORES

RESULTS = Path(__file__).parent / "results"
REFERENCE = Path(__file__).parents[2] / "shared" / "reference"

# In the order of their value; each may take so many seconds of the usual budget at most, so that none takes all of it.
STEPS = {
    "facts": 30,  # the first: loading PyTorch and starting the GPU
    "matmul": 30,
    "parity": 90,
    "drift": 30,
    "model": 90,
    "variants": 60,
    "compile": 90,
    "profile": 30,
    "stage": 90,
    "startup": 40,
    "host": 40,
    "loop": 60,
    "tests": 90,
    "two_jobs": 60,
    "memory": 30,
    "deterministic": 120,
    "attribution": 40,
    "verify": 60,
    "workflow": 180,
}

BUDGET_S = 480.0
LEAST_S = 5.0  # with less of the budget left no step is begun


def run(setup: Setup, path: Path, names: Sequence[str], tell: Callable[[str], None] = print) -> dict[str, Any]:
    """Run the steps one after the other and write what they find.

    Args:
        setup: What every step knows.
        path: The JSON file, written after each measurement.
        names: Of the steps, in order.
        tell: Takes a line for each step.

    Returns:
        The content of the JSON file: `steps` has for each its `status`, `seconds`, `result` and, where it was not
        done, `why`.
    """
    began = time.time()
    scale = max(1.0, (setup.ends_at - began) / BUDGET_S)
    content: dict[str, Any] = {
        "command": " ".join(sys.argv[1:]),
        "began": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(began)),
        "device": setup.device,
        "tiny": setup.tiny,
        "budget_s": round(setup.ends_at - began),
        "steps": {},
    }
    said = path.with_suffix(".log")
    said.parent.mkdir(parents=True, exist_ok=True)
    said.unlink(missing_ok=True)
    worker = Worker(said)
    try:
        for name in names:
            step: dict[str, Any] = {"status": "running", "seconds": 0.0, "result": {}}
            content["steps"][name] = step
            left = setup.ends_at - time.time()
            if left < LEAST_S:
                step["status"], step["why"] = "skipped", f"{max(0, left):.0f} s of the budget were left"
            else:
                started = time.monotonic()

                def report(key: str, value: object, step: dict[str, Any] = step) -> None:
                    step["result"][key] = value
                    save(path, content)

                step["status"], why = run_step(worker, name, setup, min(left, STEPS[name] * scale), report)
                step["seconds"] = round(time.monotonic() - started, 2)
                if why:
                    step["why"] = why
                # A GPU's errors outlive the step that made them, and memory that it held may be held still.
                if step["status"] in ("failed", "cut"):
                    worker.end()
                    worker = Worker(said)
            content["seconds"] = round(time.time() - began, 1)
            save(path, content)
            tell(line(name, step))
    finally:
        worker.end()
    return content


def line(name: str, step: dict[str, Any]) -> str:
    """What is said of a step."""
    from benchmarks.gpu_page import headline  # light: the page's own words

    what = headline(name, step["result"]) if step["status"] == "done" else step.get("why", "").strip().splitlines()[-1]
    return f"{step['seconds']:7.1f} s  {name:<14}{step['status']:<9}{what}"


def save(path: Path, content: dict[str, Any]) -> None:
    """Write the JSON file whole or not at all."""
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    temporary.replace(path)


def default_json(device: str) -> Path:
    """Where the results of this machine go: a name that tells the card."""
    name = device
    if device == "cuda":
        from benchmarks.sides import call

        name = call("benchmarks.gpu_measure", "card")
    return RESULTS / f"gpu-{re.sub('[^a-z0-9]+', '-', name.lower()).strip('-')}.json"


def main() -> int:
    """Run the steps; 0 where none failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--budget-s", type=float, default=BUDGET_S, help="for everything (default %(default)s)")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda", help="(default %(default)s)")
    parser.add_argument("--tiny", action="store_true", help="a tiny network and few segments, to try the steps")
    parser.add_argument("--json", type=Path, help="(default: benchmarks/results/gpu-CARD.json)")
    parser.add_argument("--reference", type=Path, default=REFERENCE, help="(default %(default)s)")
    parser.add_argument("--steps", nargs="+", choices=STEPS, default=list(STEPS), metavar="NAME", help="(default: all)")
    args = parser.parse_args()
    ends_at = time.time() + args.budget_s  # the start counts, and the clean-up does not take long
    path = args.json or default_json(args.device)
    reference = args.reference.resolve() if (args.reference / "golden").is_dir() else None
    with tempfile.TemporaryDirectory(prefix="ecgpipe-gpu-") as folder:
        setup = Setup(Path(folder), args.device, args.tiny, reference, 1 if args.tiny else CORES, ends_at)
        content = run(setup, path, args.steps, lambda said: print(said, flush=True))
    counts = [step["status"] for step in content["steps"].values()]
    counted = ", ".join(f"{counts.count(status)} {status}" for status in dict.fromkeys(counts))
    print(f"{content['seconds']:7.1f} s  {counted}; written to {path}")
    return 1 if {"failed", "cut"} & set(counts) else 0


if __name__ == "__main__":
    sys.exit(main())
