"""How close the model's forward pass comes to what torch.matmul reaches on the same machine, in the same run.

    python benchmarks/forward.py [--threads N] [--batch-sizes 1 8 32] [--repeats N] [--json FILE]

ECG-FM's architecture with random weights, float32. A second table compares the two ways in which the model leaves
PyTorch's beaten track on a CPU with that track. Both sides are measured in turn, and the ratio is the median of the
pairs, because the speed of a shared machine drifts. The arithmetic of a segment is counted as the direct way needs it
(29.2 GFLOP), also where the model takes a shorter one.
"""

import argparse
import json
import platform
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import cast

import torch

from ecgpipe.model import Architecture, Layer, Network

ECG_FM = Architecture(
    in_leads=12,
    conv_layers=((256, 2, 2),) * 4,
    conv_bias=False,
    width=768,
    layers=12,
    heads=12,
    hidden=3072,
    layer_norm_first=False,
    position_kernel=128,
    position_groups=16,
    labels=17,
)
SAMPLES = 2500

# The model's two largest products at 8 segments, and a large square; the fastest of the three is the limit.
PRODUCTS = ((1248, 768, 3072), (1248, 3072, 768), (3072, 3072, 3072))


def flops(arch: Architecture, samples: int) -> int:
    """Floating-point operations of one segment, a multiplication and an addition each counted."""
    total, channels = 0, arch.in_leads
    for out, kernel, stride in arch.conv_layers:
        samples = (samples - kernel) // stride + 1
        total += 2 * samples * out * channels * kernel
        channels = out
    tokens, width = samples, arch.width
    total += 2 * tokens * channels * width
    total += 2 * (tokens + 1) * width * (width // arch.position_groups) * arch.position_kernel
    layer = 2 * tokens * width * 4 * width + 4 * tokens * tokens * width + 4 * tokens * width * arch.hidden
    return total + arch.layers * layer + 2 * width * arch.labels


def seconds(work: Callable[[], object]) -> float:
    """How long the work takes, once."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def matmul_rate(rows: int, inner: int, columns: int) -> float:
    """GFLOP/s of a float32 torch.matmul, over about as long as a forward pass takes."""
    a, b = torch.randn(rows, inner), torch.randn(inner, columns)
    operations = 2 * rows * inner * columns
    times = max(1, int(60e9 / operations))
    return times * operations / seconds(lambda: [torch.matmul(a, b) for _ in range(times)]) / 1e9


def ways(network: Network, repeats: int) -> None:
    """Print how long a linear layer and the positional convolution take, PyTorch's usual way and the model's."""
    linear, position = cast(Layer, network.layers[0]).fc1, network.position
    x = torch.randn(8, 156, ECG_FM.width)
    pairs: dict[str, tuple[Callable[[], object], Callable[[], object]]] = {
        "linear layer, 768 to 3072": (
            lambda: torch.nn.functional.linear(x, linear.weight, linear.bias),
            lambda: linear(x),
        ),
        "positional convolution": (
            lambda: x + torch.nn.functional.gelu(position.conv(x.transpose(1, 2))[..., :156]).transpose(1, 2),
            lambda: position(x),
        ),
    }
    print(f"\n{'8 segments, milliseconds':<28} {'usual':>7} {'ours':>7} {'ratio':>6}   medians of {repeats} pairs")
    for name, (usual, ours) in pairs.items():
        usual(), ours()  # once beforehand, to warm up
        times = [(seconds(usual), seconds(ours)) for _ in range(repeats)]
        left, right = (median(column) * 1000 for column in zip(*times, strict=True))
        print(f"{name:<28} {left:>7.1f} {right:>7.1f} {median(a / b for a, b in times):>6.2f}")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[1, 4, 8, 16, 32])
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    args = parser.parse_args()

    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    network = Network(ECG_FM).eval().requires_grad_(False)
    per_segment = flops(ECG_FM, SAMPLES) / 1e9
    print(f"{platform.machine()}, {args.threads} threads, torch {torch.__version__}, {per_segment:.1f} GFLOP a segment")
    print(
        f"{'batch':>5} {'segments/s':>11} {'GFLOP/s':>8} {'matmul':>8} {'ratio':>6}   (medians of {args.repeats} pairs)"
    )
    rows = []
    with torch.inference_mode():
        for size in args.batch_sizes:
            signal = torch.randn(size, ECG_FM.in_leads, SAMPLES)
            times = max(1, 8 // size)
            network(signal)
            pairs = []
            for _ in range(args.repeats):
                limit = max(matmul_rate(*product) for product in PRODUCTS)
                took = seconds(lambda signal=signal, times=times: [network(signal) for _ in range(times)])  # type: ignore[misc]
                pairs.append((times * size / took, limit))
            rate, limit = median(rate for rate, _ in pairs), median(limit for _, limit in pairs)
            ratio = median(rate * per_segment / limit for rate, limit in pairs)
            print(f"{size:>5} {rate:>11.2f} {rate * per_segment:>8.1f} {limit:>8.1f} {ratio:>6.2f}")
            rows.append({"batch": size, "segments_per_s": rate, "matmul_gflops": limit, "ratio": ratio})
        ways(network, 5 * args.repeats)
    if args.json:
        args.json.write_text(json.dumps({"threads": args.threads, "gflop": per_segment, "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
