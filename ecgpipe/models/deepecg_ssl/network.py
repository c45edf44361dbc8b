"""DeepECG-SSL: ECG-FM's network, in fairseq-signals' files as HeartWise's fork of it writes them.

The network is that of `models/ecg_fm/network.py` and the tensors' names are those of `models/fairseq_checkpoint.py`,
which reads both spellings of the positional convolution's weight; the fork's is the older one (`weight_g`, `weight_v`).
Three things are DeepECG-SSL's own:

- The input is 10 s at 250 Hz in mV, not standardised, where ECG-FM's is 5 s at 500 Hz, standardised. Both are (batch,
  12, 2500), so that nothing fails if one is given to the other's network; only the outputs are wrong.
- Short recordings end in zeros. With `samples`, no token attends to the zeros, as in training (`enable_padding`);
  without, all do, as in the authors' container.
- One checkpoint is enough. The authors' loader wants the pretrained file beside a classifier's, and then overwrites
  every tensor of it.

Which of the two families a file belongs to cannot be read off its tensors. `tell_from_ecg_fm` says what its
configuration tells, and how certain that is. None of this was tried on the released files, which are gated.

Upstream: https://github.com/HeartWise-AI/fairseq-signals at commit c02a9f6 (MIT), and
https://github.com/HeartWise-AI/DeepECG_Docker at commit 2a9680e. Paper: Nolin-Lapalme et al., European Heart Journal
2026, ehaf1119.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

from torch import Tensor

from ecgpipe.core.errors import EcgpipeError
from ecgpipe.models import fairseq_checkpoint
from ecgpipe.models.description import Architecture
from ecgpipe.models.ecg_fm import network as ecg_fm
from ecgpipe.models.ecg_fm.network import Network as Network
from ecgpipe.models.ecg_fm.network import from_tensors as from_tensors
from ecgpipe.models.ecg_fm.network import load as load
from ecgpipe.models.tensors import find_prefix

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
    prefix = find_prefix(tensors, ecg_fm.MARKERS)
    head = None if prefix is None else tensors.get(f"{prefix.removesuffix('encoder.')}proj.weight")
    return head.shape[0] if isinstance(head, Tensor) and head.ndim == 2 else 0


def recognise(tensors: Mapping[str, Any]) -> bool:
    """Whether these are likely to be DeepECG-SSL's tensors: ECG-FM's network with 77 outputs.

    Its pretrained network and its classifiers of one output are not recognised: nothing in their tensors tells them
    from ECG-FM's. The user must name the family.
    """
    return count_outputs(tensors) == DIAGNOSES


def read_checkpoint(path: Path) -> tuple[Architecture, dict[str, Tensor]]:
    """Read a checkpoint as the fork saved it, without executing anything of it.

    Args:
        path: The .pt file; its optimizer's state is never read.

    Returns:
        The sizes and the tensors of its network.

    Raises:
        EcgpipeError: The file is missing, damaged, names code, or is not of such a network.
    """
    content = fairseq_checkpoint.read_checkpoint(path)
    arch = read_architecture(content)
    return arch, map_tensors(content["model"], arch, str(path))


def read_architecture(content: Mapping[str, Any]) -> Architecture:
    """The sizes of the network, from `cfg.model` alone.

    `cfg.model.args` repeats most settings with the values of pretraining, so that a search through the whole
    configuration would find others.

    Args:
        content: What `fairseq_checkpoint.read_checkpoint` returned.

    Returns:
        The sizes under ecgpipe's names; `labels` is 0 for the pretrained network.

    Raises:
        EcgpipeError: The configuration is not valid, or describes another network.
    """
    return fairseq_checkpoint.read_architecture(content["cfg"]["model"])


def map_tensors(tensors: Mapping[str, Any], arch: Architecture, where: str = "the checkpoint") -> dict[str, Tensor]:
    """Convert a checkpoint's tensors to those of `Network`, strictly.

    Args:
        tensors: By upstream's names, with or without a prefix such as "module.".
        arch: What `read_architecture` says of them.
        where: The file, for the message.

    Returns:
        The network's state dict: float32, contiguous, nothing shared.

    Raises:
        EcgpipeError: Tensors are missing, unknown or of another shape; the message names all of them, sorted.
    """
    prefix = find_prefix(tensors, ecg_fm.MARKERS)
    if prefix is None:
        raise EcgpipeError(
            f"checkpoint: {where} is not a DeepECG-SSL checkpoint: it has no {', '.join(ecg_fm.MARKERS[:3])}; "
            "give a file of hf://heartwise/WCR_77_Classes or of one of its siblings, or name the family that the file "
            "belongs to by `model`"
        )
    outer = prefix.removesuffix("encoder.") if arch.labels else prefix
    return fairseq_checkpoint.convert_tensors(
        {str(name).removeprefix(outer): tensor for name, tensor in tensors.items()}, arch, where
    )


def name_single_output(address: str) -> str | None:
    """What a classifier of one output predicts, by its address on the hub or its path; None if neither says it.

    Args:
        address: Such as hf://heartwise/WCR_LVEF_under_50; upper and lower case do not matter.
    """
    names = [name for part, name in SINGLE_OUTPUTS.items() if part in address.lower()]
    return names[0] if len(names) == 1 else None
