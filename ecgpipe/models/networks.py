"""Load a run's network, whatever its family. This module loads PyTorch."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from ecgpipe.core.errors import EcgpipeError
from ecgpipe.models.description import Description
from ecgpipe.models.output import AnyNetwork
from ecgpipe.models.own_network import OwnNetwork
from ecgpipe.models.registry import OWN, Family, find_family, import_part


def load_network(
    description: Description,
    weights: Path,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    packed: bool = True,
    model: str | None = None,
) -> AnyNetwork:
    """The network of a run with its weights, ready for inference.

    Args:
        description: Of the checkpoint.
        weights: The `model.safetensors` that the checkpoint stage wrote; it is mapped, not read as a whole.
        device: Where the weights go.
        dtype: Of most of the arithmetic; each family says what stays float32.
        packed: Whether a CPU's layers are laid out for speed; they give no gradients of their inputs then.
        model: The path of the user's own model, if it is one.

    Returns:
        The network in evaluation mode, its weights without gradients: a callable of (batch, leads, samples).

    Raises:
        EcgpipeError: The model is a user's own, and its file is not given or has changed.
    """
    tensors = safetensors.torch.load_file(weights, device=str(device))
    return make_network(description, tensors, device, dtype, packed, model)


def make_network(
    description: Description,
    tensors: Mapping[str, Tensor],
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    packed: bool = True,
    model: str | None = None,
) -> AnyNetwork:
    """The same with weights in memory."""
    family = find_family_of(description, model)
    network: AnyNetwork = find_network(family).from_tensors(description.architecture, tensors, device, dtype, packed)
    return network


def find_network(family: Family) -> Any:  # noqa: ANN401, a module of a family
    """The module or object of a family that has `read_checkpoint` and `from_tensors`."""
    if family.path:
        return OwnNetwork(family.declaration, family.path)
    return import_part(family.name, "network")


def find_family_of(description: Description, model: str | None = None) -> Family:
    """The family of a converted checkpoint.

    Args:
        description: Of the checkpoint.
        model: The path of the user's own model: its code is run only if the user names it.

    Returns:
        The family.

    Raises:
        EcgpipeError: The model is a user's own, and its file is not given or has changed.
    """
    if not description.family.startswith(OWN):
        return find_family(description.family)
    name = description.family.removeprefix(OWN)
    if model is None:
        raise EcgpipeError(
            f"model: this checkpoint is of a user's own model, {name}, whose code is run only where you name it; give "
            f"--model /path/to/{name}, or model= in Python"
        )
    family = find_family(model)
    if family.sha256 != description.model_sha256:
        raise EcgpipeError(
            f"model: {model} is not the file of this run: its sha256 is {family.sha256}, that of the run's {name} "
            f"{description.model_sha256}; give that file, or run again"
        )
    return family
