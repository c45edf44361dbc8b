"""What the model gains where it leaves PyTorch's beaten track on a CPU: that track against the model's way.

    python -m benchmarks.shortcuts [--threads N] [--repeats N]

8 segments, in one process, measured in turn; the ratio is the median of the pairs.
"""

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import cast

import torch
from torch.nn import functional as F  # noqa: N812, the name that PyTorch code uses

from benchmarks.ecg_fm import SAMPLES, network, write
from benchmarks.machine import devices
from benchmarks.sides import CORES, seconds
from ecgpipe.inference.engine import DTYPES
from ecgpipe.models.ecg_fm.network import Layer


def show(precision: str, what: str, usual: Callable[[], object], ours: Callable[[], object], repeats: int) -> None:
    """Measure both ways in turn and print a line."""
    with torch.inference_mode():
        usual(), ours()  # once beforehand, to warm up
        times = [(seconds(usual), seconds(ours)) for _ in range(repeats)]
    left, right = (median(column) * 1000 for column in zip(*times, strict=True))
    ratio = median(a / b for a, b in times)
    print(f"{f'{precision}, {what}':<45} {left:>7.1f} {right:>7.1f} {ratio:>6.2f}")


def compare(precision: str, threads: int, repeats: int) -> None:
    """Both short cuts in one precision."""
    with tempfile.TemporaryDirectory() as name:
        write(Path(name))
        model = network(Path(name), "cpu", precision, threads)
    arch, of_type = model.arch, DTYPES[precision]
    x = torch.randn(8, arch.tokens(SAMPLES), arch.width, dtype=of_type)
    linear, ours = torch.nn.Linear(arch.width, arch.hidden, dtype=of_type), cast(Layer, model.layers[0]).fc1
    show(precision, "linear, 768 to 3072, and GELU", lambda: F.gelu(linear(x)), lambda: ours(x, gelu=True), repeats)
    kernel, groups = arch.position_kernel, arch.position_groups
    conv = torch.nn.Conv1d(arch.width, arch.width, kernel, padding=kernel // 2, groups=groups, dtype=of_type)

    def direct() -> object:
        return x + F.gelu(conv(x.transpose(1, 2))[..., : x.shape[1]]).transpose(1, 2)

    show(precision, "positional convolution", direct, lambda: model.position(x), repeats)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=CORES)
    parser.add_argument("--repeats", type=int, default=35)
    args = parser.parse_args()
    print(f"{'8 segments, milliseconds':<45} {'usual':>7} {'ours':>7} {'ratio':>6}   medians of {args.repeats} pairs")
    for precision in devices()["cpu"]:
        compare(precision, args.threads, args.repeats)


if __name__ == "__main__":
    main()
