"""HuBERT-ECG's input: five seconds at 100 Hz of twelve leads laid end to end.

Source: https://github.com/Edoar-do/HuBERT-ECG at affe1f9, `utils.py` and `dataset.py`. Until 26 December 2025 that code
resampled before it filtered ("2024"); the released models were trained so, and the authors advise the present order
("head"). At 500 Hz both are equal. The filter of the decimation runs across the joins between leads, as the authors'
does. There is no padding: the authors' mask for it does not work.
"""

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

from ecgpipe.core.leads import LEADS
from ecgpipe.core.model_input import Cut, Decimate, Fir, Fourier, JoinLeads, MinMax, ModelInput, ReplaceNan

_FILTER = Fir(0.3, (0.05, 47))
_SCALE_AND_CUT = (
    MinMax(over="lead", low=-1, high=1, epsilon=1e-8),
    Cut(),
    ReplaceNan("mean"),
    JoinLeads(),
    Decimate(5),
)

INPUT = ModelInput(
    leads=LEADS,
    rate=100,
    window_s=5,
    steps=(_FILTER, Fourier(500), *_SCALE_AND_CUT),
)

VARIANTS: Mapping[str, ModelInput] = MappingProxyType(
    {"head": INPUT, "2024": replace(INPUT, steps=(Fourier(500), _FILTER, *_SCALE_AND_CUT))}
)
