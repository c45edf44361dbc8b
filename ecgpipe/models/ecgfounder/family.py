"""ECGFounder's input, for twelve leads and for lead I alone.

Source: https://github.com/PKUDigitalHealth/ECGFounder at 04edac7, `dataset.py` ("filtered", which its README and its
author say is to be followed) and `ptbxl_eval.py` ("plain"). The authors' functions know ten seconds at 500 Hz; other
sampling rates are resampled linearly, as the paper says. A window is cut before it is filtered, because the filter's
edges are part of what the network saw in training.
"""

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

from ecgpipe.core.leads import LEADS
from ecgpipe.core.model_input import (
    Butterworth,
    Cut,
    Linear,
    MedianBaseline,
    ModelInput,
    Notch,
    Pad,
    ReplaceNan,
    Standardize,
)

_NORMALIZE = Standardize(over="all", epsilon=1e-8)  # one mean and one standard deviation for all leads

INPUT = ModelInput(
    leads=LEADS,
    rate=500,
    window_s=10,
    steps=(
        ReplaceNan("zero"),
        Cut(),
        Linear(500),
        Notch(50, q=30),
        Butterworth(4, (0.67, 40)),
        MedianBaseline(0.4),
        Pad(),  # before the z-score, so that zeros count
        _NORMALIZE,
    ),
)
_PLAIN = replace(INPUT, steps=(ReplaceNan("zero"), Cut(), _NORMALIZE, Linear(500), Pad()))

VARIANTS: Mapping[str, ModelInput] = MappingProxyType({"filtered": INPUT, "plain": _PLAIN})

# The one-lead network takes lead I.
LEAD1_INPUT = replace(INPUT, leads=("I",))
LEAD1_VARIANTS: Mapping[str, ModelInput] = MappingProxyType(
    {name: replace(variant, leads=("I",)) for name, variant in VARIANTS.items()}
)
