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

Which of the two families a file belongs to cannot be read off its tensors. `family.tell_from_ecg_fm` says what its
configuration tells, and how certain that is. None of this was tried on the released files, which are gated.

Upstream: https://github.com/HeartWise-AI/fairseq-signals at commit c02a9f6 (MIT), and
https://github.com/HeartWise-AI/DeepECG_Docker at commit 2a9680e. Paper: Nolin-Lapalme et al., European Heart Journal
2026, ehaf1119.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from ecgpipe.core.errors import EcgpipeError
from ecgpipe.models import fairseq_checkpoint
from ecgpipe.models.deepecg_ssl.family import DIAGNOSES as DIAGNOSES
from ecgpipe.models.deepecg_ssl.family import Evidence as Evidence
from ecgpipe.models.deepecg_ssl.family import count_outputs as count_outputs
from ecgpipe.models.deepecg_ssl.family import name_single_output as name_single_output
from ecgpipe.models.deepecg_ssl.family import recognise as recognise
from ecgpipe.models.deepecg_ssl.family import tell_from_ecg_fm as tell_from_ecg_fm
from ecgpipe.models.description import Architecture
from ecgpipe.models.ecg_fm import network as ecg_fm
from ecgpipe.models.ecg_fm.network import Network as Network
from ecgpipe.models.ecg_fm.network import from_tensors as from_tensors
from ecgpipe.models.tensors import find_prefix


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
