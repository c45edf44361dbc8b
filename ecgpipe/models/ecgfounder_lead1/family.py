"""ECGFounder's network of one lead: its input is lead I, prepared as the twelve leads of `models/ecgfounder` are."""

from collections.abc import Mapping
from typing import Any

from ecgpipe.core.model_input import ModelInput
from ecgpipe.models.ecgfounder import family as twelve_leads
from ecgpipe.models.ecgfounder.family import LABELS as LABELS
from ecgpipe.models.ecgfounder.family import OPTION as OPTION
from ecgpipe.models.ecgfounder.family import Architecture as Architecture
from ecgpipe.models.ecgfounder.family import count_outputs as count_outputs

INPUT = twelve_leads.LEAD1_INPUT
VARIANTS: Mapping[str, ModelInput] = twelve_leads.LEAD1_VARIANTS
HAS_ATTENTION = False
FILES = ("1_lead_ECGFounder.pth",)
FOLDER = "ecgfounder"  # of its labels

# The family whose files have the same layout: where both recognise a file, this one knows it better.
REFINES = "ecgfounder"


def recognise(tensors: Mapping[str, Any], content: Mapping[str, Any] | None = None) -> bool:
    """Whether these are ECGFounder's tensors for one lead."""
    return twelve_leads.recognise(tensors) and twelve_leads.count_leads(tensors) == 1
