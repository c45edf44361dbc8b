"""What every network returns, whatever its family."""

from typing import NamedTuple

from torch import Tensor


class Output(NamedTuple):
    """A network's outputs for one batch, float32."""

    logits: Tensor | None  # (batch, labels); None where the network has no head
    embedding: Tensor  # (batch, width)
    attention: Tensor | None  # (batch, tokens), 0 for tokens of padding; None where not asked for or not defined
