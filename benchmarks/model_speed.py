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
from typing import Any, NamedTuple

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

# Of these the authors' forward pass gives the attention too: fairseq-signals always computes it.
GIVE_ATTENTION = ("ecg-fm", "deepecg-ssl")


class Family(NamedTuple):
    """A family's network as it is measured."""

    arch: Any  # the family's own Architecture
    network: Callable[..., nn.Module]
    from_tensors: Callable[..., nn.Module]
    window: tuple[int, int]  # leads, samples
    window_s: float

    def build(self, device: str = "cpu", **how: object) -> nn.Module:
        """The network with its random weights, laid out as the infer stage has them.

        Args:
            device: Where the weights go.
            how: Other arguments of the family's `from_tensors`: dtype, packed.
        """
        weights = {name: tensor.to(device) for name, tensor in draw_weights(self).items()}
        return self.from_tensors(self.arch, weights, device, **how)


def list_families(tiny: bool = False) -> dict[str, Family]:
    """The families by name, of released sizes or tiny. DeepECG-SSL's network is ECG-FM's."""
    fm, founder, hubert, jepa = (
        (TINY, TINY_FOUNDER, TINY_HUBERT, TINY_JEPA) if tiny else (ECG_FM, ECGFOUNDER, HUBERT_ECG, ECG_JEPA)
    )
    return {
        "ecg-fm": Family(fm, ecg_fm.Network, ecg_fm.from_tensors, (12, 2500), 5),
        "deepecg-ssl": Family(replace(fm, labels=77), ecg_fm.Network, ecg_fm.from_tensors, (12, 2500), 10),
        "ecg-jepa": Family(jepa, ecg_jepa.Network, ecg_jepa.from_tensors, (8, 2500), 10),
        "ecgfounder": Family(founder, ecgfounder.Network, ecgfounder.from_tensors, (12, 5000), 10),
        "hubert-ecg": Family(hubert, hubert_ecg.Network, hubert_ecg.from_tensors, (1, 6000), 5),
    }


def draw_weights(family: Family) -> dict[str, Tensor]:
    """The random weights of a family by the names of its network, the same in each process."""
    torch.manual_seed(0)
    weights: dict[str, Tensor] = family.network(family.arch).state_dict()
    if "positions" in weights:  # ECG-JEPA's, which its network takes from a file and does not initialise
        weights["positions"].normal_()
    return weights


def count_gflop(tiny: bool = False) -> dict[str, float]:
    """By family: GFLOP of a window, counted on the layers as PyTorch has them."""
    counted = {}
    for name, family in list_families(tiny).items():
        network, counter = family.build(packed=False), FlopCounterMode(display=False)
        with torch.inference_mode(), counter:
            network(torch.randn(1, *family.window))
        counted[name] = counter.get_total_flops() / 1e9
    return counted


def works(setup: Setup, precision: str, tiny: bool = False) -> dict[str, Work]:
    """The networks, each on a batch of `BATCH` windows.

    By its name each as the infer stage asks for it, with its attention where it has any, and by "NAME alike" with no
    more than its authors' forward pass gives.
    """
    engine.configure(setup.threads, deterministic=False)
    finish = torch.cuda.synchronize if setup.device == "cuda" else lambda: None

    def work(network: nn.Module, window: tuple[int, int], with_attention: bool) -> Work:
        signal = torch.randn(BATCH, *window, device=setup.device)

        def forward() -> None:
            with torch.inference_mode():
                network(signal, None, with_attention)

        return Work(forward, BATCH, finish)

    found = {}
    for name, family in list_families(tiny).items():
        network = family.build(device=setup.device, dtype=engine.DTYPES[precision])
        found[name] = work(network, family.window, True)
        found[f"{name} alike"] = work(network, family.window, name in GIVE_ATTENTION)
    return found


def compare_with_ecg_fm(repeats: int) -> dict[str, dict[str, float]]:
    """By family: windows a second, and seconds of ECG a second, each of ECG-FM's rate."""
    torch.set_num_threads(1)
    families = list_families()
    networks = {name: family.build() for name, family in families.items()}
    signals = {name: torch.randn(BATCH, *family.window) for name, family in families.items()}

    def seconds(name: str) -> float:
        start = time.perf_counter()
        with torch.inference_mode():
            networks[name](signals[name])
        return time.perf_counter() - start

    rates = {"ecg-fm": {"windows": 1.0, "seconds_of_ecg": 1.0}}
    for name, family in list(families.items())[1:]:
        seconds(name), seconds("ecg-fm")  # the first calls allocate
        ratio = median(seconds("ecg-fm") / seconds(name) for _ in range(repeats))
        rates[name] = {"windows": round(ratio, 3), "seconds_of_ecg": round(ratio * family.window_s / 5, 3)}
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
