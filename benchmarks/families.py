"""Each model family's network beside torch.matmul and beside its authors' forward pass, with random weights.

python -m benchmarks.families [--threads N] [--repeats N]

The networks have released sizes; a batch has `BATCH` windows. Of torch.matmul: arithmetic is counted on the layers as
PyTorch has them, so that a way that needs less of it can exceed 1. The authors' forward pass is a stand-in
(authors_forward.py), in float32 whatever ecgpipe's precision, and ecgpipe gives no more than it does there: only ECG-FM
and DeepECG-SSL give their attention.
"""

import argparse
from statistics import median

from benchmarks.limit import fastest, limit
from benchmarks.sides import CORES, Round, Row, Setup, call, setups, show, side

BATCH = 4
AUTHORS = "the authors' forward pass"


def measure(setup: Setup, precision: str, tiny: bool = False) -> list[Row]:
    """The families' networks against the limit and against their authors' forward pass, in turn.

    Raises:
        RuntimeError: A stand-in does not compute what the network does.
    """
    gflop: dict[str, float] = call("benchmarks.model_speed", "count_gflop", tiny=tiny)
    call("benchmarks.authors_forward", "check", tiny=tiny)
    of_limit: dict[str, list[tuple[Round, Round]]] = {name: [] for name in gflop}
    of_authors: dict[str, list[tuple[Round, Round]]] = {name: [] for name in gflop}
    with (
        limit(setup, precision) as products,
        side("benchmarks.model_speed", "works", setup.round_s, setup=setup, precision=precision, tiny=tiny) as networks,
        side("benchmarks.authors_forward", "works", setup.round_s, setup=setup, tiny=tiny) as authors,
    ):
        for _ in range(setup.repeats):
            for name in gflop:
                most, found = fastest(products, setup), networks(name)
                if found:  # else the GPU has too little memory
                    of_limit[name].append((found, most))
                theirs, alike = authors(name), networks(f"{name} alike")
                if theirs and alike:
                    of_authors[name].append((alike, theirs))
    rows = []
    for name, rounds in of_limit.items():
        if rounds:
            ratio = median(found.rate * gflop[name] / most.rate for found, most in rounds)
            ours = [found for found, _ in rounds]
            rows.append(describe(f"network of {name}", setup, precision, ours, ratio, "torch.matmul"))
    for name, rounds in of_authors.items():
        if rounds:
            ratio = median(found.rate / theirs.rate for found, theirs in rounds)
            rows += [
                describe(f"{AUTHORS} of {name}", setup, "float32", [theirs for _, theirs in rounds]),
                describe(f"network of {name}", setup, precision, [found for found, _ in rounds], ratio, AUTHORS),
            ]
    return rows


def describe(
    what: str, setup: Setup, precision: str, rounds: list[Round], ratio: float | None = None, of: str = ""
) -> Row:
    """The row of one side's rounds; a process has the networks of all families, and its peak is that of all."""
    rate, last = median(found.rate for found in rounds), rounds[-1]
    peaks = last.peak_mb, last.device_peak_mb
    return Row(what, setup.device, precision, BATCH, "a batch", rate, "windows/s", ratio, of, *peaks, len(rounds))


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
