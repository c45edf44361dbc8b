"""What every network is and returns, whatever its family."""

from collections.abc import Iterator
from typing import NamedTuple, Protocol

from torch import Tensor
from torch.nn import Parameter

from ecgpipe.models.description import Sizes


class Output(NamedTuple):
    """A network's outputs for one batch, float32."""

    logits: Tensor | None  # (batch, labels); None where the network has no head
    embedding: Tensor  # (batch, width)
    attention: Tensor | None  # (batch, tokens), 0 for tokens of padding; None where not asked for or not defined


class AnyNetwork(Protocol):
    """What every family's network is, as `networks.load_network` returns it."""

    @property
    def arch(self) -> Sizes:
        """Its sizes."""

    def __call__(self, signal: Tensor, samples: Tensor | None = None, with_attention: bool = True) -> Output:
        """Run a batch of windows, (batch, leads, samples), of which `samples` (batch,) are signal; None: all."""

    def parameters(self) -> Iterator[Parameter]:
        """Its weights."""
