"""ECG-FM's architecture with random weights, as the checkpoint stage would write it, and how it is loaded."""

import json
from dataclasses import asdict
from pathlib import Path

import safetensors.torch
import torch

from ecgpipe import __version__
from ecgpipe.core.provenance import MEANING
from ecgpipe.inference import engine
from ecgpipe.models.description import Architecture, describe
from ecgpipe.models.ecg_fm import network as ecg_fm_network
from ecgpipe.models.ecg_fm.network import Network

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
# Of the same kind but tiny, to try the benchmarks themselves.
TINY = Architecture(12, ((16, 2, 2),) * 4, False, 32, 2, 4, 64, False, 16, 4, 17)
SAMPLES = 2500
LABELS = Path(__file__).parents[1] / "config" / "labels" / "mimic_iv_ecg.csv"


def write(folder: Path, tiny: bool = False) -> None:
    """Write model.safetensors and model.json into a folder."""
    from ecgpipe.models import labels

    arch = TINY if tiny else ECG_FM
    torch.manual_seed(0)
    folder.mkdir(parents=True, exist_ok=True)
    safetensors.torch.save_file(Network(arch).state_dict(), folder / "model.safetensors")
    description = {
        "architecture": asdict(arch),
        "labels": [label.name for label in labels.read(LABELS)],
        "source": {"uri": "benchmarks/ecg_fm.py", "revision": None, "sha256": "0" * 64, "bytes": 0},
        "random_weights": True,
        "ecgpipe": __version__,
        "meaning": MEANING["checkpoint"],
    }
    (folder / "model.json").write_text(json.dumps(description) + "\n", encoding="utf-8")


def network(folder: Path, device: str, precision: str, threads: int) -> Network:
    """The network of a folder, as the infer stage sets it up."""
    engine.configure(threads, deterministic=False)
    arch = describe(folder / "model.json").architecture
    return ecg_fm_network.load(arch, folder / "model.safetensors", device, engine.DTYPES[precision])


def gflop(folder: Path) -> float:
    """What one segment takes: GFLOP."""
    return flops(describe(folder / "model.json").architecture, SAMPLES) / 1e9


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
