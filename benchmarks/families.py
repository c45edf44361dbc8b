"""How close each model family's network comes to torch.matmul: a row per family, with random weights of released sizes.

python -m benchmarks.families [--threads N] [--repeats N]

A batch has `model_speed.BATCH` windows. Arithmetic is counted on the layers as PyTorch has them, so that a way that
needs less of it can exceed 1.
"""

import argparse
from statistics import median

from benchmarks.limit import fastest, limit
from benchmarks.sides import CORES, Round, Row, Setup, call, setups, show, side

BATCH = 4


def measure(setup: Setup, precision: str, tiny: bool = False) -> list[Row]:
    """The families' networks against the limit, in turn."""
    gflop: dict[str, float] = call("benchmarks.model_speed", "count_gflop", tiny=tiny)
    pairs: dict[str, list[tuple[Round, Round]]] = {name: [] for name in gflop}
    with (
        limit(setup, precision) as products,
        side("benchmarks.model_speed", "works", setup.round_s, setup=setup, precision=precision, tiny=tiny) as networks,
    ):
        for _ in range(setup.repeats):
            for name in gflop:
                most, found = fastest(products, setup.device), networks(name)
                if found:  # else the GPU has too little memory
                    pairs[name].append((found, most))
    rows = []
    for name, rounds in pairs.items():
        if rounds:
            rate = median(found.rate for found, _ in rounds)
            ratio = median(found.rate * gflop[name] / most.rate for found, most in rounds)
            peaks = rounds[-1][0].peak_mb, rounds[-1][0].device_peak_mb
            what = (f"network of {name}", setup.device, precision, BATCH, "a batch", rate, "windows/s")
            rows.append(Row(*what, ratio, "torch.matmul", *peaks, len(rounds)))
    return rows


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=CORES)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    rows = []
    for setup, precisions in setups(args.threads, args.repeats, 1.0):
        for precision in precisions:
            rows += measure(setup, precision)
    show(rows)


if __name__ == "__main__":
    main()
