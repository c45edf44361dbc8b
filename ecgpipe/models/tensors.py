"""Open a model's files without executing anything, and match their tensors strictly. For every model family.

A family's `network.py` says which tensors it expects; the functions here open the file, find the tensors and the prefix
of their names, and raise one error that lists every tensor that does not fit.
"""

import argparse
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor, nn

from ecgpipe.core.errors import EcgpipeError
from ecgpipe.core.logs import logger
from ecgpipe.models.peek import find_prefix as find_prefix
from ecgpipe.models.peek import find_tensors as find_tensors

# Classes and functions that a checkpoint may name besides tensors and plain values. None of them executes code. Arrays
# and the dtypes of objects, records and text are excluded: numpy trusts the memory layout in their pickled state.
SAFE_GLOBALS: list[Any] = [
    argparse.Namespace,
    np.dtype,
    *sorted({type(np.dtype(code)) for code in np.typecodes["AllInteger"] + np.typecodes["AllFloat"] + "?"}, key=str),
    (np._core.multiarray.scalar, "numpy._core.multiarray.scalar"),  # type: ignore[attr-defined]
    (np._core.multiarray.scalar, "numpy.core.multiarray.scalar"),  # type: ignore[attr-defined]  # as numpy 1 says it
]


def load_pickled(path: Path, fix: str = "ask its author for a file that has only tensors and plain values") -> Any:  # noqa: ANN401, as torch.load
    """Open a file of torch.save without executing anything of it.

    Its tensors stay in the file until they are used, so that an optimizer's state costs no memory. Only PyTorch's
    format from before 1.6 has to be read whole.

    Args:
        path: The .pt or .pth file.
        fix: What the user can do if the file asks for code.

    Returns:
        Its content.

    Raises:
        EcgpipeError: The file is missing, is not of PyTorch, is incomplete, or names code outside `SAFE_GLOBALS`.
    """
    try:
        with path.open("rb") as file:
            zipped = file.read(4) == b"PK\x03\x04"
    except OSError as error:
        raise EcgpipeError(f"checkpoint: cannot read {path}: {error.strerror}; check the path") from error
    try:
        with torch.serialization.safe_globals(SAFE_GLOBALS):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except Exception as error:  # a maliciously damaged file can raise any exception
        refused_names = _list_refused(path, error)
        if refused_names:
            raise EcgpipeError(
                f"checkpoint: {path} asks for {', '.join(refused_names)}, which is code and not data: refused; {fix}"
            ) from error
        raise EcgpipeError(
            f"checkpoint: {path} is not a checkpoint of PyTorch, or is incomplete ({type(error).__name__}); "
            "download it again"
        ) from error


def _list_refused(path: Path, error: Exception) -> list[str]:
    """The functions and classes that a checkpoint names and ecgpipe refuses to load."""
    names = set(re.findall(r"GLOBAL (\S+)", str(error)))  # only the first one if the file is of PyTorch below 1.6
    try:
        with torch.serialization.safe_globals(SAFE_GLOBALS):
            names |= set(torch.serialization.get_unsafe_globals_in_checkpoint(path))
    except Exception:  # damaged in another way: the caller has a message for it
        logger.debug("cannot list what %s asks for", path, exc_info=True)
    return sorted(names)


def load_safetensors(path: Path) -> dict[str, Tensor]:
    """Open a .safetensors file; its tensors stay in the file until they are used.

    Args:
        path: The file.

    Returns:
        Its tensors by name.

    Raises:
        EcgpipeError: The file is missing, is not of safetensors, or is incomplete.
    """
    try:
        return safetensors.torch.load_file(path)
    except OSError as error:
        raise EcgpipeError(f"checkpoint: cannot read {path}: {error.strerror or error}; check the path") from error
    except Exception as error:  # safetensors' own, and whatever a damaged header leads to
        raise EcgpipeError(
            f"checkpoint: {path} is not a safetensors file, or is incomplete ({error}); download it again"
        ) from error


def most_common_size(tensors: Mapping[str, Any], places: Iterable[tuple[str, int]]) -> int | None:
    """A size on which several tensors agree; one of another shape is then the one that does not fit, not all others.

    Args:
        tensors: A checkpoint's tensors by name.
        places: (name, dimension) of tensors that have this size.

    Returns:
        The size that most of them have, of equally many the first; None if there are none.
    """
    sizes = Counter(
        tensors[name].shape[dim]
        for name, dim in places
        if isinstance(tensors.get(name), Tensor) and tensors[name].ndim > dim
    )
    return sizes.most_common(1)[0][0] if sizes else None


def check_tensors(
    tensors: Mapping[str, Any], expected: Mapping[str, tuple[int, ...]], unused: Collection[str], problem: str, fix: str
) -> None:
    """Raise one error that names every tensor that is missing, left over, or not of the expected shape, sorted.

    Args:
        tensors: A checkpoint's tensors by name.
        expected: The shape of every tensor that the network needs.
        unused: Names of tensors that may be there and that the network does not use.
        problem: The beginning of the message: which file, and what it should be.
        fix: The end of the message: what the user can do.

    Raises:
        EcgpipeError: The tensors are not those expected.
    """
    missing = [name for name in expected if name not in tensors]
    left_over = [str(name) for name in tensors if name not in expected and name not in unused]
    misshapen = []
    for name, shape in expected.items():
        tensor = tensors.get(name)
        if isinstance(tensor, Tensor) and tensor.is_floating_point() and tensor.layout == torch.strided:
            actual = str(tuple(tensor.shape))
        else:
            actual = str(getattr(tensor, "dtype", type(tensor).__name__))
        if name in tensors and actual != str(shape):
            misshapen.append(f"{name} ({actual} instead of {shape})")
    faults = [("missing", missing), ("left over", left_over), ("of another shape", misshapen)]
    problems = "; ".join(f"{fault}: {', '.join(sorted(names))}" for fault, names in faults if names)
    if problems:
        raise EcgpipeError(f"{problem}: {problems}; {fix}")


def place_weights(network: nn.Module, tensors: Mapping[str, Tensor], device: torch.device | str) -> None:
    """Give a network that is on the device "meta" its weights, for inference: evaluation mode, without gradients."""
    network.load_state_dict({name: tensor.to(device) for name, tensor in tensors.items()}, strict=True, assign=True)
    network.eval().requires_grad_(False)


def release_file(network: nn.Module, device: torch.device | str) -> None:
    """Copy a CPU's parameters that were not laid out anew, so that nothing keeps the file of the weights mapped."""
    if torch.device(device).type == "cpu":
        for parameter in network.parameters():
            parameter.data = parameter.data.clone()
