"""ECG-FM's input.

Source: notebooks/infer_quickstart.ipynb of https://github.com/bowang-lab/ECG-FM, which calls ecg-transform's
ReorderLeads, LinearResample, HandleConstantLeads, Standardize and SegmentNonoverlapping.
"""

from collections.abc import Mapping
from types import MappingProxyType

from ecgpipe.core.leads import LEADS
from ecgpipe.core.model_input import Center, Cut, Linear, ModelInput, Pad, Standardize

INPUT = ModelInput(
    leads=LEADS,
    rate=500,
    window_s=5,
    steps=(
        Center(),  # which changes nothing but the rounding of what follows, and costs nothing: quality needs it too
        Linear(500),
        Standardize(over="lead", epsilon=1e-8),
        Cut(),
        Pad(masked=True),
    ),
)

VARIANTS: Mapping[str, ModelInput] = MappingProxyType({"default": INPUT})
