"""DeepECG-SSL's input.

Source: https://github.com/HeartWise-AI/fairseq-signals at c02a9f6 (training: mV, 250 Hz, no filter, no
standardisation, padding masked). The preprocessing of https://github.com/HeartWise-AI/DeepECG_Docker at 2a9680e scales
a whole batch of recordings by one factor and flattens bands of its common spectrum, so that a result depends on the
other recordings of the run; it is not followed. At 500 and 1000 Hz the interpolation takes every second or fourth
sample, as that container does.
"""

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

from ecgpipe.core.leads import LEADS
from ecgpipe.core.model_input import Cut, Linear, ModelInput, Pad

INPUT = ModelInput(
    leads=LEADS,
    rate=250,
    window_s=10,
    steps=(Cut(), Linear(250, ends="grid"), Pad(masked=True)),
    unit="mV",
)

# "unmasked": zeros count as signal, as in the container.
VARIANTS: Mapping[str, ModelInput] = MappingProxyType(
    {"masked": INPUT, "unmasked": replace(INPUT, steps=(Cut(), Linear(250, ends="grid"), Pad(masked=False)))}
)
