"""DeepECG-SSL's input, and how its files are told from ECG-FM's.

Source: https://github.com/HeartWise-AI/fairseq-signals at c02a9f6 (training: mV, 250 Hz, no filter, no
standardisation, padding masked). The preprocessing of https://github.com/HeartWise-AI/DeepECG_Docker at 2a9680e scales
a whole batch of recordings by one factor and flattens bands of its common spectrum, so that a result depends on the
other recordings of the run; it is not followed. At 500 and 1000 Hz the interpolation takes every second or fourth
sample, as that container does.
"""

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

from ecgpipe.core.leads import LEADS
from ecgpipe.core.model_input import Cut, Linear, ModelInput, Pad
from ecgpipe.models.description import Architecture as Architecture
from ecgpipe.models.ecg_fm.family import MARKERS
from ecgpipe.models.peek import find_prefix

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
OPTION = "padding"

HAS_ATTENTION = True
FILES = ("*.pt",)  # names are free
OTHER_FILES = ("base_ssl.pt",)  # which the authors' loader needs beside a classifier's
LABELS: Mapping[int, str] = MappingProxyType({77: "labels.csv"})

# The family whose files have the same layout: where both recognise a file, this one knows it better.
REFINES = "ecg_fm"

DIAGNOSES = 77  # outputs of WCR_77_classes

# What a classifier of one output predicts, by a part of its repository's name on the hub. The file does not say it.
SINGLE_OUTPUTS = {
    "lvef_equal_under_40": "LVEF <= 40 %",
    "lvef_under_50": "LVEF < 50 %",
    "afib_5y": "Atrial fibrillation within 5 years",
}

# Outputs of the classifiers that ECG-FM's authors released: MIMIC-IV-ECG and PhysioNet 2021.
ECG_FM_OUTPUTS = (17, 26)

# Settings of a task that HeartWise's fork added (tasks/ecg_classification.py) and fairseq-signals does not have.
FORK_SETTINGS = ("npy_dataset", "df_dataset")

# A setting of a model that fairseq-signals has had since 6 January 2025 (5a8b5ea) and the fork does not.
UPSTREAM_SETTING = "saliency"


class Evidence(NamedTuple):
    """What a checkpoint tells about its family."""

    family: Literal["deepecg-ssl", "ecg-fm"] | None  # None: it tells nothing
    certain: bool  # by the code that wrote the file; otherwise by the number of outputs alone
    reason: str


def tell_from_ecg_fm(content: Mapping[str, Any]) -> Evidence:
    """Tell DeepECG-SSL's checkpoints from ECG-FM's, which have the same tensors, by what else is in the file.

    A setting that only one of the two code bases has is certain evidence of which of them wrote the file. The number of
    outputs is weak evidence, because anyone can fine-tune either network to any number. A pretrained network and a
    classifier of one output without such a setting tell nothing. The absence of `saliency` tells nothing either:
    fairseq-signals of 2024 did not have it.

    Args:
        content: What `fairseq_checkpoint.read_checkpoint` returned.

    Returns:
        The family, if there is evidence, and why.
    """
    task = content["cfg"].get("task")
    found = [name for name in FORK_SETTINGS if isinstance(task, Mapping) and name in task]
    if found:
        return Evidence("deepecg-ssl", True, f"cfg.task has {' and '.join(found)}, which only HeartWise's fork writes")
    if UPSTREAM_SETTING in content["cfg"]["model"]:
        reason = f"cfg.model has {UPSTREAM_SETTING}, which fairseq-signals writes and HeartWise's fork does not"
        return Evidence("ecg-fm", True, reason)
    outputs = count_outputs(content["model"])
    if outputs == DIAGNOSES:
        return Evidence("deepecg-ssl", False, f"it has {outputs} outputs, as DeepECG-SSL's released classifier")
    if outputs in ECG_FM_OUTPUTS:
        return Evidence("ecg-fm", False, f"it has {outputs} outputs, as one of ECG-FM's released classifiers")
    return Evidence(None, False, f"its configuration does not say, and neither do {outputs} outputs")


def count_outputs(tensors: Mapping[str, Any]) -> int:
    """How many outputs the head has; 0 where there is none, or it is not a matrix."""
    prefix = find_prefix(tensors, MARKERS)
    head = None if prefix is None else tensors.get(f"{prefix.removesuffix('encoder.')}proj.weight")
    return head.shape[0] if head is not None and len(head.shape) == 2 else 0


def recognise(tensors: Mapping[str, Any], content: Mapping[str, Any] | None = None) -> bool:
    """Whether these are likely to be DeepECG-SSL's tensors: by the configuration beside them, or by 77 outputs.

    Its pretrained network and its classifiers of one output are not recognised: nothing in their tensors tells them
    from ECG-FM's. The user must name the family.
    """
    if content is not None and find_prefix(tensors, MARKERS) is not None and "cfg" in content:
        return tell_from_ecg_fm(content).family == "deepecg-ssl"
    return count_outputs(tensors) == DIAGNOSES


def name_single_output(address: str) -> str | None:
    """What a classifier of one output predicts, by its address on the hub or its path; None if neither says it.

    Args:
        address: Such as hf://heartwise/WCR_LVEF_under_50; upper and lower case do not matter.
    """
    names = [name for part, name in SINGLE_OUTPUTS.items() if part in address.lower()]
    return names[0] if len(names) == 1 else None


def name_labels(outputs: int | None, address: str) -> str | None:
    """The label CSV of a classifier of one output, if its address says what it predicts."""
    names = [part for part in SINGLE_OUTPUTS if part in address.lower()]
    return f"{names[0]}.csv" if outputs in (1, None) and len(names) == 1 else None
