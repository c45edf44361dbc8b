"""The tutorial's loop, by a stand-in, and how many times as fast ecgpipe's model alone is.

    python -m benchmarks.tutorial [--threads N] [--recordings 16] [--repeats N]

The loop is that of ECG-FM's notebook: one process reads a file at a time with scipy.io.loadmat, applies the five
transforms of ecg-transform, takes 16 recordings to a batch (32 segments, of ten seconds each), runs the model in
float32 with the attention of every layer, and keeps everything in lists until its end. stand_in.py has it.

One thing is better here than there: the notebook does not switch gradients off. The stand-in does, which spares it the
keeping of activations.
"""

import argparse
from collections.abc import Mapping
from contextlib import ExitStack
from statistics import median

from benchmarks.forward import alone
from benchmarks.sides import CORES, Round, Row, Setup, call, setups, show, side

LOOP = "the tutorial's loop"
RECORDINGS = {"cpu": 16, "cuda": 256}


def measure(setup: Setup, batches: Mapping[str, int], recordings: int) -> list[Row]:
    """The loop, and against it the model alone in each precision, with that precision's batch size."""
    device, inputs = setup.device, setup.folder / f"tutorial-{setup.device}"
    files = call("benchmarks.preprocess", "write_recordings", folder=inputs, kind="mat", count=recordings)
    call("benchmarks.stand_in", "check", folder=setup.folder)
    loops: list[Round] = []
    pairs: dict[str, list[tuple[Round, Round]]] = {precision: [] for precision in batches}
    with ExitStack() as sides:
        loop = sides.enter_context(side("benchmarks.stand_in", "works", setup.round_s, setup=setup, recordings=files))
        models = {one: sides.enter_context(alone(setup, one, [batch])) for one, batch in batches.items()}
        for _ in range(setup.repeats):
            slow = loop("")
            if slow is None:
                raise RuntimeError(f"{device} has too little memory for the loop over {recordings} recordings")
            loops.append(slow)
            for precision, model in models.items():
                if found := model(str(batches[precision])):
                    pairs[precision].append((found, slow))
    what = (LOOP, device, "float32", recordings, "recordings", median(found.rate for found in loops))
    rows = [Row(*what, "segments/s", None, "", loops[-1].peak_mb, loops[-1].device_peak_mb, len(loops))]
    for precision, rounds in pairs.items():
        if rounds:
            rate = median(found.rate for found, _ in rounds)
            ratio = median(found.rate / slow.rate for found, slow in rounds)
            peaks = rounds[-1][0].peak_mb, rounds[-1][0].device_peak_mb
            name = ("model alone", device, precision, batches[precision], "a batch", rate, "segments/s")
            rows.append(Row(*name, ratio, LOOP, *peaks, len(rounds)))
    return rows


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=CORES)
    parser.add_argument("--recordings", type=int, help=f"(default: {RECORDINGS})")
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    rows = []
    for setup, batches in setups(args.threads, args.repeats, 1.0):
        rows += measure(setup, batches, args.recordings or RECORDINGS[setup.device])
    show(rows)


if __name__ == "__main__":
    main()
