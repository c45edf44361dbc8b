"""How fast the networks of the model families are, relative to ECG-FM's.

    python -m benchmarks.model_speed [--repeats N] [--output benchmarks/results/model-speed.json]

Sizes are those of the released models, weights are random, arithmetic is float32 on one thread of a CPU, a batch has
four windows. Each network is measured in turn with ECG-FM's, and the ratio is the median of these pairs: the machine's
speed drifts. Reading and preprocessing are not in it.

`make bench` has a row per family, by `benchmarks.families`: windows a second, and the share of torch.matmul's limit.
"""

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import median

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.ecg_fm import ECG_FM, TINY
from benchmarks.families import BATCH
from benchmarks.sides import Setup, Work
from ecgpipe.core.provenance import find_cpu_name
from ecgpipe.inference import engine
from ecgpipe.models.ecg_fm import network as ecg_fm
from ecgpipe.models.ecg_jepa import network as ecg_jepa
from ecgpipe.models.ecgfounder import network as ecgfounder
from ecgpipe.models.hubert_ecg import network as hubert_ecg

OUTPUT = Path(__file__).parent / "results" / "model-speed.json"

# Sizes as the families' files state them.
STAGES = ((64, 2), (160, 2), (160, 2), (400, 3), (400, 3), (1024, 4), (1024, 4))
ECGFOUNDER = ecgfounder.Architecture(12, first_width=64, kernel=16, group_width=16, stages=STAGES, labels=150)
HUBERT_CONVOLUTIONS = ((512, 10, 4), (512, 3, 2), (512, 3, 2), (512, 2, 2), (512, 2, 2))
HUBERT_ECG = replace(ECG_FM, in_leads=1, conv_layers=HUBERT_CONVOLUTIONS, labels=164)
ECG_JEPA = ecg_jepa.Architecture(width=768, layers=12, heads=16, hidden=3072, in_leads=8, labels=0)


# Of the same kind but tiny, to try the benchmarks themselves.
TINY_FOUNDER = ecgfounder.Architecture(
    12, first_width=16, kernel=16, group_width=16, stages=((16, 1), (32, 1)), labels=7
)
TINY_JEPA = ecg_jepa.Architecture(width=96, layers=2, heads=2, hidden=192, in_leads=8, labels=0)
TINY_HUBERT = replace(TINY, in_leads=1, conv_layers=tuple((16, k, s) for _, k, s in HUBERT_CONVOLUTIONS), labels=164)


def build_networks(
    tiny: bool = False, **where: object
) -> dict[str, tuple[Callable[[Tensor], object], tuple[int, int], float]]:
    """The networks with random weights.

    Args:
        tiny: Whether they are tiny.
        where: Arguments of the families' `from_tensors`: device, dtype, packed.

    Returns:
        By family: the network, the shape of a window, and its seconds. DeepECG-SSL's network is ECG-FM's.
    """
    fm, founder, hubert, jepa = (
        (TINY, TINY_FOUNDER, TINY_HUBERT, TINY_JEPA) if tiny else (ECG_FM, ECGFOUNDER, HUBERT_ECG, ECG_JEPA)
    )
    return {
        "ecg-fm": (ready(ecg_fm.Network(fm), ecg_fm.from_tensors, **where), (12, 2500), 5),
        "deepecg-ssl": (ready(ecg_fm.Network(replace(fm, labels=77)), ecg_fm.from_tensors, **where), (12, 2500), 10),
        "ecg-jepa": (ready(ecg_jepa.Network(jepa), ecg_jepa.from_tensors, **where), (8, 2500), 10),
        "ecgfounder": (ready(ecgfounder.Network(founder), ecgfounder.from_tensors, **where), (12, 5000), 10),
        "hubert-ecg": (ready(hubert_ecg.Network(hubert), hubert_ecg.from_tensors, **where), (1, 6000), 5),
    }


def ready(network: nn.Module, from_tensors: Callable[..., nn.Module], **where: object) -> nn.Module:
    """A network with its random weights laid out as the infer stage has them."""
    device = where.get("device", "cpu")
    return from_tensors(
        network.arch, {name: tensor.to(device) for name, tensor in network.state_dict().items()}, **where
    )


def count_gflop(tiny: bool = False) -> dict[str, float]:
    """By family: GFLOP of a window, counted on the layers as PyTorch has them."""
    counted = {}
    for name, (network, shape, _) in build_networks(tiny, packed=False).items():
        counter = FlopCounterMode(display=False)
        with torch.inference_mode(), counter:
            network(torch.randn(1, *shape))
        counted[name] = counter.get_total_flops() / 1e9
    return counted


def works(setup: Setup, precision: str, tiny: bool = False) -> dict[str, Work]:
    """The networks, each on a batch of `BATCH` windows: as the infer stage asks for them."""
    engine.configure(setup.threads, deterministic=False)
    finish = torch.cuda.synchronize if setup.device == "cuda" else lambda: None

    def work(network: Callable[[Tensor], object], shape: tuple[int, int]) -> Work:
        signal = torch.randn(BATCH, *shape, device=setup.device)

        def forward() -> None:
            with torch.inference_mode():
                network(signal)

        return Work(forward, BATCH, finish)

    networks = build_networks(tiny, device=setup.device, dtype=engine.DTYPES[precision])
    return {name: work(network, shape) for name, (network, shape, _) in networks.items()}


def compare_with_ecg_fm(repeats: int) -> dict[str, dict[str, float]]:
    """By family: windows a second, and seconds of ECG a second, each of ECG-FM's rate."""
    torch.set_num_threads(1)
    networks = build_networks()
    signals = {name: torch.randn(BATCH, *shape) for name, (_, shape, _) in networks.items()}

    def seconds(name: str) -> float:
        start = time.perf_counter()
        with torch.inference_mode():
            networks[name][0](signals[name])
        return time.perf_counter() - start

    rates = {"ecg-fm": {"windows": 1.0, "seconds_of_ecg": 1.0}}
    for name, (_, _, window_s) in list(networks.items())[1:]:
        seconds(name), seconds("ecg-fm")  # the first calls allocate
        ratio = median(seconds("ecg-fm") / seconds(name) for _ in range(repeats))
        rates[name] = {"windows": round(ratio, 3), "seconds_of_ecg": round(ratio * window_s / 5, 3)}
        print(name, rates[name], flush=True)
    return rates


def main() -> None:
    """Measure, and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--output", type=Path, default=OUTPUT)
    args = parser.parse_args()
    result = {
        "cpu": find_cpu_name(),
        "torch": str(torch.__version__),
        "threads": 1,
        "batch": BATCH,
        "relative_to_ecg_fm": compare_with_ecg_fm(args.repeats),
    }
    args.output.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
