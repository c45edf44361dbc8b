"""How close the model alone comes to torch.matmul, by batch size.

    python -m benchmarks.forward [--threads N] [--batch-sizes 1 8 32] [--repeats N]

ECG-FM's architecture with random weights, on every device and in every precision that it computes in hardware. The
signals are on the device already and the results stay there. The arithmetic of a segment is counted as the direct way
needs it (29.2 GFLOP), also where the model takes a shorter one, so that a ratio can exceed 1.
"""

import argparse
from collections.abc import Sequence
from contextlib import AbstractContextManager
from statistics import median

from benchmarks.limit import fastest, limit, row
from benchmarks.sides import CORES, Measure, Round, Row, Setup, Work, call, setups, show, side

BATCH_SIZES = {"cpu": (1, 4, 8, 16, 32), "cuda": (1, 8, 32, 128, 512, 1024)}


def works(setup: Setup, precision: str, batch_sizes: Sequence[int]) -> dict[str, Work]:
    """The model on each batch size, in segments: logits, embedding and attention, as the infer stage asks for them."""
    import torch

    from benchmarks.ecg_fm import SAMPLES, network

    model = network(setup.folder, setup.device, precision, setup.threads)
    finish = torch.cuda.synchronize if setup.device == "cuda" else lambda: None

    def work(size: int) -> Work:
        signal = torch.randn(size, model.arch.in_leads, SAMPLES, device=setup.device)

        def forward() -> None:
            with torch.inference_mode():
                model(signal)

        return Work(forward, size, finish)

    return {str(size): work(size) for size in batch_sizes}


def alone(setup: Setup, precision: str, batch_sizes: Sequence[int]) -> AbstractContextManager[Measure]:
    """A side that runs the model; its works are named after the batch sizes."""
    return side("benchmarks.forward", "works", setup.round_s, setup=setup, precision=precision, batch_sizes=batch_sizes)


def measure(setup: Setup, precision: str, batch_sizes: Sequence[int]) -> list[Row]:
    """The limit, and the model against it at each batch size, which should ascend.

    A process's peak is its largest so far. The first round of a batch size therefore has its own, since the sizes
    before it are smaller.
    """
    gflop = call("benchmarks.ecg_fm", "gflop", folder=setup.folder)
    limits: list[Round] = []
    pairs: dict[int, list[tuple[Round, Round]]] = {size: [] for size in batch_sizes}
    with limit(setup, precision) as products, alone(setup, precision, batch_sizes) as model:
        for _ in range(setup.repeats):
            for size in batch_sizes:
                most, found = fastest(products, setup), model(str(size))
                limits.append(most)
                if found:  # else the GPU has too little memory for this batch
                    pairs[size].append((found, most))
    rows = [row(setup.device, precision, limits)]
    for size, rounds in pairs.items():
        if rounds:
            rate = median(found.rate for found, _ in rounds)
            ratio = median(found.rate * gflop / most.rate for found, most in rounds)
            peaks = rounds[0][0].peak_mb, rounds[0][0].device_peak_mb
            what = ("model alone", setup.device, precision, size, "a batch", rate, "segments/s")
            rows.append(Row(*what, ratio, "torch.matmul", *peaks, len(rounds)))
    return rows


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=CORES)
    parser.add_argument("--batch-sizes", type=int, nargs="+", help=f"(default: {BATCH_SIZES})")
    parser.add_argument("--repeats", type=int, default=7)
    args = parser.parse_args()
    rows = []
    for setup, precisions in setups(args.threads, args.repeats, 1.5):
        for precision in precisions:
            rows += measure(setup, precision, sorted(args.batch_sizes or BATCH_SIZES[setup.device]))
    show(rows)


if __name__ == "__main__":
    main()
