"""ECG-JEPA's input (Kim): eight leads, ten seconds at 250 Hz, in millivolts as stored.

Source: https://github.com/sehunfromdaegu/ECG_JEPA at d937ad2, `ecg_data.py`. The authors leave out recordings under ten
seconds; if they are padded, zeros are added before the first resampling. They also leave out recordings whose first 15
samples are zero in all leads, which is not done here: readers strip such filling.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from ecgpipe.core.model_input import Cut, Fourier, ModelInput, Pad
from ecgpipe.models.peek import find_prefix

LEADS = ("I", "II", "V1", "V2", "V3", "V4", "V5", "V6")
PATCHES = 50  # of a lead
PATCH_SAMPLES = 50  # 0.2 s at 250 Hz
HEAD_WIDTH = 48  # 16 heads at a width of 768; no shape tells it

INPUT = ModelInput(
    leads=LEADS,
    rate=250,
    window_s=10,
    steps=(Pad(masked=False), Fourier(500), Cut(), Fourier(250)),
    unit="mV",
)

VARIANTS: Mapping[str, ModelInput] = MappingProxyType({"default": INPUT})

HAS_ATTENTION = True
HAS_TOKENS_BY_LEAD = True  # the attention lists the tokens lead by lead
FILES = ("multiblock_epoch100.pth",)

POSITIONS = "pos_embed"  # upstream's only tensor outside a module

# By these an ECG-JEPA checkpoint is recognised. Names of blocks alone would not do: vision transformers share them.
MARKERS = (POSITIONS, "W_P.weight", "W_P.bias", "encoder_blocks.blocks.0.attn.qkv.weight", "norm.weight")


@dataclass(frozen=True)
class Architecture:
    """The sizes that make one network."""

    width: int
    layers: int
    heads: int
    hidden: int  # of a block's two linear layers
    in_leads: int = len(LEADS)
    labels: int = 0  # the released network has no head

    @property
    def token_samples(self) -> tuple[int, int]:
        """(step, span): token t of a lead sees its samples from step * t up to, not including, step * t + span."""
        return PATCH_SAMPLES, PATCH_SAMPLES

    def tokens(self, samples: int) -> int:
        """How many tokens a window of `samples` samples of all leads gives: lead by lead, in the order of time."""
        return self.in_leads * (samples // PATCH_SAMPLES)


def recognise(tensors: Mapping[str, Any], content: Mapping[str, Any] | None = None) -> bool:
    """Whether these tensors are an ECG-JEPA checkpoint's, by their names."""
    return find_prefix(tensors, MARKERS) is not None


def count_outputs(tensors: Mapping[str, Any]) -> int:
    """0: no head is released."""
    return 0
