"""ECG-JEPA's input (Kim): eight leads, ten seconds at 250 Hz, in millivolts as stored.

Source: https://github.com/sehunfromdaegu/ECG_JEPA at d937ad2, `ecg_data.py`. The authors leave out recordings under ten
seconds; if they are padded, zeros are added before the first resampling. They also leave out recordings whose first 15
samples are zero in all leads, which is not done here: readers strip such filling.
"""

from collections.abc import Mapping
from types import MappingProxyType

from ecgpipe.core.model_input import Cut, Fourier, ModelInput, Pad

INPUT = ModelInput(
    leads=("I", "II", "V1", "V2", "V3", "V4", "V5", "V6"),
    rate=250,
    window_s=10,
    steps=(Pad(masked=False), Fourier(500), Cut(), Fourier(250)),
    unit="mV",
)

VARIANTS: Mapping[str, ModelInput] = MappingProxyType({"default": INPUT})
