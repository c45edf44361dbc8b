"""How long `import ecgpipe`, `ECGFM` and an infer job take until they work.

    python -m benchmarks.startup [--threads N] [--repeats N]

An upper bound: the whole command over a single segment, from the start of Python to its end, against `import torch` in
a process of its own, measured in turn. What is told beyond the import contains the model's loading, one segment, and
the writing of the files. `import ecgpipe` is told beyond an empty Python, and `from ecgpipe import ECGFM` beyond
`import torch`: they should stay below 0.1 s and 0.3 s.
"""

import argparse
import sys
from statistics import median

from benchmarks.sides import CORES, Row, Setup, call, run, setups, show
from benchmarks.stage import arguments


def measure(setup: Setup, precision: str) -> list[Row]:
    """The import, the job, and the job beyond the import."""
    shards = call("benchmarks.stage", "write_shards", folder=setup.folder / "one-segment", segments=1)
    job = [sys.executable, "-m", "ecgpipe", *arguments(setup, precision, shards)]
    load = [sys.executable, "-c", "import torch"]
    run(job)  # so that every file is in memory, on both sides
    pairs = [(run(load), run(job)) for _ in range(setup.repeats)]
    loaded, whole, rest = (
        median(values)
        for values in zip(*((a.seconds, b.seconds, b.seconds - a.seconds) for a, b in pairs), strict=True)
    )
    size = (setup.device, precision, 1, "segment")
    peaks = [max(pair[i].peak_mb for pair in pairs) for i in range(2)]
    return [
        Row("import torch", "cpu", "", None, "", loaded, "s", None, "", peaks[0], None, setup.repeats),
        Row("infer, one segment", *size, whole, "s", None, "", peaks[1], None, setup.repeats),
        Row("the same beyond import torch", *size, rest, "s", None, "", None, None, setup.repeats),
    ]


def measure_imports(setup: Setup) -> list[Row]:
    """What an import takes beyond a process that does without it, each pair measured in turn."""
    rows: list[Row] = []
    pairs = (("import ecgpipe", "pass"), ("from ecgpipe import ECGFM", "import torch"))
    for code, without in pairs:
        commands = [[sys.executable, "-c", each] for each in (without, code)]
        for command in commands:
            run(command)  # so that every file is in memory, on both sides
        measured = [tuple(run(command) for command in commands) for _ in range(setup.repeats)]
        seconds = median(whole.seconds - part.seconds for part, whole in measured)
        peak = max(whole.peak_mb for _, whole in measured)
        what = f"{code}, beyond {without}"
        rows.append(Row(what, "cpu", "", None, "", seconds, "s", None, "", peak, None, setup.repeats))
    return rows


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=CORES)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    rows: list[Row] = []
    for setup, precisions in setups(args.threads, args.repeats, 0.0):
        if not rows:
            rows += measure_imports(setup)
        for precision in precisions:
            rows += measure(setup, precision)
    show(rows)


if __name__ == "__main__":
    main()
