"""Run a user's own network: a file with a class `Network`, whose tensors have the names of its checkpoint.

The file may also have `read_checkpoint(path)`, which returns a state dict of `Network` from a file of another layout.
`Network()` takes no arguments; its `forward(signal)` takes (batch, leads, samples) and returns an `Output`, a tensor of
logits, or a pair of logits and embedding.
"""

import inspect
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from ecgpipe.core.errors import EcgpipeError
from ecgpipe.core.model_input import ModelInput
from ecgpipe.models.description import OwnArchitecture
from ecgpipe.models.output import Output
from ecgpipe.models.peek import find_prefix, find_tensors
from ecgpipe.models.tensors import check_tensors, load_pickled, load_safetensors

# Pieces by which attributions are judged and smoothed where the network has no tokens, in s.
PIECE_S = 0.032


class Wrapped(nn.Module):
    """The user's network behind the interface of all others."""

    def __init__(self, network: nn.Module, arch: OwnArchitecture) -> None:
        super().__init__()
        self.network, self.arch = network, arch
        taken = inspect.signature(network.forward).parameters
        self.passes = [name for name in ("samples", "with_attention") if name in taken]

    def forward(self, signal: Tensor, samples: Tensor | None = None, with_attention: bool = True) -> Output:
        """Run a batch of windows; see `Network.forward` of the families.

        `samples` and `with_attention` reach the user's network if its `forward` has parameters of these names.
        """
        arguments = {"samples": samples, "with_attention": with_attention}
        dtype = next((parameter.dtype for parameter in self.network.parameters()), signal.dtype)
        output = as_output(self.network(signal.to(dtype), **{name: arguments[name] for name in self.passes}))
        attention = output.attention if with_attention else None
        logits = None if output.logits is None else output.logits.float()
        return Output(logits, output.embedding.float(), None if attention is None else attention.float())


def as_output(returned: Any) -> Output:  # noqa: ANN401, what a user's code returns
    """An `Output` of what a user's `forward` returned: one already, logits, or logits and embedding."""
    if isinstance(returned, Output):
        return returned
    if isinstance(returned, Tensor):
        return Output(returned, returned, None)
    if isinstance(returned, tuple) and 2 <= len(returned) <= 3:
        return Output(*returned, *([None] * (3 - len(returned))))
    raise EcgpipeError(
        f"model: forward returns {type(returned).__name__}; return logits, or (logits, embedding), or an Output of "
        "ecgpipe.models.output"
    )


class OwnNetwork:
    """The interface of a family's `network.py` for a user's file."""

    def __init__(self, module: ModuleType, path: Path) -> None:
        self.module, self.path = module, path

    def read_checkpoint(self, path: Path) -> tuple[OwnArchitecture, dict[str, Tensor]]:
        """Read a checkpoint without executing anything of it, and find out what the network gives.

        Raises:
            EcgpipeError: The file is damaged or names code, its tensors are not those of `Network`, or `Network` does
                not take the windows of `INPUT`.
        """
        network = self._make()
        tensors = self._read(path, network)
        network.load_state_dict(tensors, strict=True, assign=True)
        return self._measure(network.eval()), tensors

    def _read(self, path: Path, network: nn.Module) -> dict[str, Tensor]:
        read = getattr(self.module, "read_checkpoint", None)
        if read is not None:
            found: Mapping[str, Any] = read(path)
        else:
            found = load_safetensors(path) if path.suffix == ".safetensors" else find_tensors(load_pickled(path))
        expected = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
        prefix = find_prefix(found, list(expected)) or ""
        found = {name.removeprefix(prefix): tensor for name, tensor in found.items()}
        check_tensors(
            {name: tensor for name, tensor in found.items() if is_float(tensor) or name not in expected},
            {name: shape for name, shape in expected.items() if is_float(network.state_dict()[name])},
            (),
            f"checkpoint: the tensors of {path} are not those of Network in {self.path.name}",
            "give the checkpoint of that network, or read_checkpoint in its file",
        )
        drawn = network.state_dict()  # which has the counters that a file may lack
        return {name: found.get(name, drawn[name]).to(drawn[name].dtype).clone().contiguous() for name in expected}

    def draw(self) -> Wrapped:
        """The network with the weights that `Network()` draws, which must take the windows of `INPUT`.

        Raises:
            EcgpipeError: It does not.
        """
        torch.manual_seed(0)
        network = self._make().eval()
        return Wrapped(network, self._measure(network))

    def _make(self) -> nn.Module:
        try:
            network: nn.Module = self.module.Network()
        except Exception as error:  # a user's code can raise any exception
            raise EcgpipeError(f"model: Network() of {self.path} fails with {type(error).__name__}: {error}") from error
        return network

    def _measure(self, network: nn.Module) -> OwnArchitecture:
        declared: ModelInput = self.module.INPUT
        leads, samples = declared.shape if not declared.is_joined else (len(declared.leads), declared.window_samples)
        arch = OwnArchitecture(declared.shape[0], 0, 0, token_step=max(1, round(PIECE_S * declared.rate)))
        window = torch.randn(2, leads, samples, generator=torch.Generator().manual_seed(0))
        try:
            with torch.inference_mode():
                output = Wrapped(network, arch)(window, torch.tensor([samples, samples]))
        except EcgpipeError:
            raise
        except Exception as error:  # a user's code can raise any exception
            raise EcgpipeError(
                f"model: Network of {self.path} does not take a batch of {tuple(window.shape)}, as INPUT declares: "
                f"{type(error).__name__}: {error}"
            ) from error
        for name, tensor in zip(output._fields, output, strict=True):
            if tensor is not None and (tensor.ndim != 2 or len(tensor) != len(window)):
                raise EcgpipeError(
                    f"model: {name} of {self.path} is {tuple(tensor.shape)} for {len(window)} windows; it must be "
                    f"({len(window)}, n)"
                )
        tokens = 0 if output.attention is None else output.attention.shape[1]
        step = declared.window_samples // tokens if tokens else arch.token_step
        outputs = 0 if output.logits is None else output.logits.shape[1]
        return OwnArchitecture(declared.shape[0], output.embedding.shape[1], outputs, tokens, max(1, step))

    def from_tensors(
        self,
        arch: OwnArchitecture,
        tensors: Mapping[str, Tensor],
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        packed: bool = True,
    ) -> Wrapped:
        """The network with weights, ready for inference; with `dtype` all its parameters are rounded."""
        network = self._make()
        network.load_state_dict({name: tensor.clone() for name, tensor in tensors.items()}, strict=True, assign=True)
        network.eval().requires_grad_(False)
        return Wrapped(network.to(device=device, dtype=dtype), arch)


def is_float(tensor: object) -> bool:
    """Whether a tensor holds real numbers; a counter of batches does not."""
    return not isinstance(tensor, Tensor) or tensor.is_floating_point()
