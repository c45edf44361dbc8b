"""How the engine runs the network on each kind of device: what depends on it is speed, and how numbers round.

Each setting is there because it may be the faster one on some device. Which is, a measurement tells, and the table
says where that was taken; `python -m benchmarks.gpu` takes it for a GPU.
"""

from dataclasses import dataclass
from typing import Literal

import torch


@dataclass(frozen=True)
class Tuning:
    """One way to run the network."""

    batch_size: int  # segments of five seconds at a time
    position: Literal["fourier", "direct"]  # the positional convolution: by spectra in float32, or as it is written
    graphs: bool  # whether a GPU records what a full batch launches, and launches it as one from then on
    compiled: bool  # whether full batches go through torch.compile


BY_DEVICE = {
    # Measured with benchmarks/forward.py (batch size: more leave a CPU's caches) and benchmarks/shortcuts.py (position)
    # on an AMD EPYC and an Intel Xeon; torch.compile, which gains 1 to 6 % there, takes half a minute in every job.
    "cpu": Tuning(batch_size=16, position="fourier", graphs=False, compiled=False),
    # Measured on an H200 (docs/performance.md): 64 at a time reach 0.95 of the rate of 256, twice as many no more; the
    # direct convolution takes twice the time; graphs gain 1 %, torch.compile 13 % and takes 21 s in every job.
    "cuda": Tuning(batch_size=256, position="fourier", graphs=False, compiled=False),
    # Apple's GPUs, which ECGFM alone runs on: not measured, and so what needs the fewest kinds of operations.
    "mps": Tuning(batch_size=16, position="direct", graphs=False, compiled=False),
}


def for_device(device: torch.device | str) -> Tuning:
    """What is known to be the fastest way on a device of that kind."""
    return BY_DEVICE[torch.device(device).type]
