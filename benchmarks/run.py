"""Everything that docs/performance.md has figures of, on whatever the machine has: one table, and the same as JSON.

    make bench
    python -m benchmarks.run [--devices cpu cuda] [--precisions float32 bfloat16 float16] [--threads N] [--json FILE]

    limit.py       torch.matmul, the limit                        tutorial.py    the tutorial's loop
    forward.py     the model alone, by batch size                 stage.py       the infer stage end to end
    preprocess.py  reading and preparing                          startup.py     an infer job until its first segment
    families.py    each model family's network, and its authors' forward pass

Each runs by itself too (python -m benchmarks.NAME), and so do shortcuts.py, memory.py and scan.py, which are not part
of this. Both sides of a ratio run in turn, each in a process of its own, and the ratio is the median of the pairs,
because the speed of a shared machine drifts. MB is the largest resident memory of the process, GPU MB what its tensors
took at most.
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from benchmarks import families, forward, preprocess, stage, startup, tutorial
from benchmarks.sides import CORES, Row, Setup, call, loaded_once, one_process_for_calls, save, show

RESULTS = Path(__file__).parent / "results"


def against_the_tutorial(rows: Sequence[Row]) -> list[Row]:
    """The stage over most segments as a multiple of the tutorial's loop, by way of the model alone.

    The product of two medians of pairs: stage to model, and model to loop.
    """
    found = []
    models = {(row.device, row.precision): row for row in rows if row.of == tutorial.LOOP}
    stages = {(row.device, row.precision): row for row in rows if row.what == "infer, first to last"}
    for key in models.keys() & stages.keys():
        ratios = models[key].ratio, stages[key].ratio
        if ratios[0] and ratios[1]:
            found.append(replace(stages[key], ratio=ratios[0] * ratios[1], of=tutorial.LOOP, pairs=0))
    return sorted(found, key=lambda row: (row.device, row.precision))


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--devices", nargs="+", choices=["cpu", "cuda"], help="(default: those that are there)")
    parser.add_argument("--precisions", nargs="+", help="(default: those that the device computes in hardware)")
    parser.add_argument("--threads", type=int, default=CORES, help="of a CPU (default %(default)s)")
    parser.add_argument("--batch-sizes", type=int, nargs="+", help=f"of the model (default: {forward.BATCH_SIZES})")
    parser.add_argument("--segments", type=int, nargs="+", help=f"of the stage (default: {stage.SEGMENTS})")
    parser.add_argument("--recordings", type=int, help=f"of the tutorial's loop (default: {tutorial.RECORDINGS})")
    parser.add_argument("--files", type=int, default=50, help="to read and prepare (default %(default)s)")
    parser.add_argument("--repeats", type=int, default=3, help="pairs (default %(default)s)")
    parser.add_argument("--round-s", type=float, default=1.0, help="seconds of a measurement (default %(default)s)")
    parser.add_argument("--tiny", action="store_true", help="a tiny network, to try the benchmarks themselves")
    parser.add_argument("--json", type=Path, help="(default: benchmarks/results/MACHINE.json)")
    args = parser.parse_args()

    with loaded_once(args.tiny):
        measure(args)


def measure(args: argparse.Namespace) -> None:
    """Measure everything, print and write."""
    started = time.monotonic()
    with one_process_for_calls():  # another one than below: it takes some of a GPU
        machine = call("benchmarks.machine", "facts")
        there = call("benchmarks.machine", "devices")
    devices = args.devices or list(there)
    rows: list[Row] = []
    missing = []

    def add(what: str, measure: Callable[[], list[Row]]) -> None:
        """Measure one thing. Where it fails, go on with the others, and say so below the table."""
        print(f"{time.monotonic() - started:5.0f} s  {what}", flush=True)
        try:
            rows.extend(measure())
        except Exception as error:
            missing.append(f"{what} is missing: {type(error).__name__}: {error}")

    with tempfile.TemporaryDirectory() as name, one_process_for_calls():
        folder = Path(name)
        call("benchmarks.ecg_fm", "write", folder=folder, tiny=args.tiny)
        for device in devices:
            batches = {
                precision: batch
                for precision, batch in there.get(device, {}).items()
                if not args.precisions or precision in args.precisions
            }
            sizes = sorted(args.batch_sizes or forward.BATCH_SIZES[device])
            segments = sorted(args.segments or stage.SEGMENTS[device])
            recordings = args.recordings or tutorial.RECORDINGS[device]
            setup = Setup(folder, device, args.threads, args.repeats, args.round_s, args.tiny)
            for precision in batches:
                add(f"{device}, {precision}: the model alone", partial(forward.measure, setup, precision, sizes))
                add(f"{device}, {precision}: each family", partial(families.measure, setup, precision, args.tiny))
            add(f"{device}: the tutorial's loop", partial(tutorial.measure, setup, batches, recordings))
            for precision, batch in batches.items():
                add(
                    f"{device}, {precision}: the infer stage", partial(stage.measure, setup, precision, batch, segments)
                )
                add(f"{device}, {precision}: startup", partial(startup.measure, setup, precision))
        add("cpu: reading and preparing", partial(preprocess.measure, folder, args.files, args.repeats, args.round_s))
    if "cuda" not in devices:
        missing.append(f"cuda is missing: PyTorch {machine['torch']} sees no GPU that it can use, or it was left out")

    rows += against_the_tutorial(rows)
    machine_name = machine["cpu"] + "".join(f", {gpu['name']}" for gpu in machine["gpus"])
    print(
        f"\n{machine_name}, {args.threads} threads ({', '.join(machine['instructions'])}), PyTorch {machine['torch']}\n"
    )
    show(rows)
    print("", *missing, sep="\n")
    path = args.json or RESULTS / f"{call('benchmarks.machine', 'name', known=machine)}.json"
    settings = {key: value for key, value in vars(args).items() if key != "json"}
    when = datetime.now(UTC).isoformat(timespec="seconds")
    took = round(time.monotonic() - started)
    save(path, rows, made=when, seconds=took, machine=machine, settings=settings, missing=missing)
    print(f"written to {path}")


if __name__ == "__main__":
    main()
