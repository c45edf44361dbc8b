"""What the machine's arithmetic allows: the fastest of several products of torch.matmul.

python -m benchmarks.limit [--threads N] [--repeats N]
"""

import argparse
from contextlib import AbstractContextManager
from pathlib import Path
from statistics import median

from benchmarks.sides import CORES, Measure, Round, Row, Setup, Work, call, show, side

# Rows, inner, columns: the model's two largest products, at 8 segments on a CPU and 128 on a GPU, and a large square.
PRODUCTS = {
    "cpu": ((1248, 768, 3072), (1248, 3072, 768), (3072, 3072, 3072)),
    "cuda": ((19968, 768, 3072), (19968, 3072, 768), (8192, 8192, 8192)),
}
TINY = ((64, 32, 64), (128, 128, 128))


def works(setup: Setup, precision: str) -> dict[str, Work]:
    """Each product, in GFLOP; float32 without TF32, whose ten bits are no float32."""
    import torch

    from ecgpipe.inference.engine import DTYPES, configure

    configure(setup.threads, deterministic=False)
    torch.set_grad_enabled(False)
    finish = torch.cuda.synchronize if setup.device == "cuda" else lambda: None

    def work(rows: int, inner: int, columns: int) -> Work:
        a, b, out = (
            torch.randn(shape, device=setup.device).to(DTYPES[precision])
            for shape in ((rows, inner), (inner, columns), (rows, columns))
        )
        # Into memory that is there already: the limit is that of the arithmetic.
        return Work(lambda: torch.matmul(a, b, out=out), 2 * rows * inner * columns / 1e9, finish)

    return {str(product): work(*product) for product in products(setup)}


def products(setup: Setup) -> tuple[tuple[int, int, int], ...]:
    """Rows, inner and columns of the products to measure."""
    return TINY if setup.tiny else PRODUCTS[setup.device]


def limit(setup: Setup, precision: str) -> AbstractContextManager[Measure]:
    """A side that does the products; a round of all of them together takes as long as another side's."""
    round_s = setup.round_s / len(products(setup))
    return side("benchmarks.limit", "works", round_s, setup=setup, precision=precision)


def fastest(measure: Measure, setup: Setup) -> Round:
    """A round of each product: the fastest."""
    rounds = [found for product in products(setup) if (found := measure(str(product)))]
    if not rounds:
        raise RuntimeError(f"{setup.device} has too little memory for torch.matmul of {products(setup)[0]}")
    return max(rounds)


def row(device: str, precision: str, rounds: list[Round]) -> Row:
    """What rounds of `fastest` come to."""
    peak, device_peak = rounds[-1].peak_mb, rounds[-1].device_peak_mb
    rate = median(found.rate for found in rounds)
    return Row("torch.matmul", device, precision, None, "", rate, "GFLOP/s", None, "", peak, device_peak, len(rounds))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=CORES)
    parser.add_argument("--repeats", type=int, default=7)
    args = parser.parse_args()
    rows = []
    for device, precisions in call("benchmarks.machine", "devices").items():
        for precision in precisions:
            setup = Setup(Path(), device, args.threads, args.repeats, 1.0)
            with limit(setup, precision) as measure:
                rows.append(row(device, precision, [fastest(measure, setup) for _ in range(args.repeats)]))
    show(rows)


if __name__ == "__main__":
    main()
