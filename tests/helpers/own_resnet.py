"""A user's own model for tests: a plain residual network, with its own input and labels."""

import torch
from torch import Tensor, nn

from ecgpipe.core.leads import LEADS
from ecgpipe.core.model_input import Cut, Linear, ModelInput, Pad, Standardize

INPUT = ModelInput(leads=LEADS, rate=100, window_s=10, steps=(Linear(100), Cut(), Standardize("lead"), Pad()))
LABELS = ("Normal", "Myocardial infarction", "Hypertrophy")


class Block(nn.Module):
    """Two convolutions and the way around them."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv1d(width, width, 5, padding=2), nn.BatchNorm1d(width)
        self.conv2, self.norm2 = nn.Conv1d(width, width, 5, padding=2), nn.BatchNorm1d(width)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, width, n) to the same."""
        return torch.relu(x + self.norm2(self.conv2(torch.relu(self.norm1(self.conv1(x))))))


class Network(nn.Module):
    """A convolution, two blocks, the mean over time, a linear head."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv1d(12, 16, 7, stride=2, padding=3)
        self.blocks = nn.Sequential(Block(16), Block(16))
        self.head = nn.Linear(16, len(LABELS))

    def forward(self, signal: Tensor) -> tuple[Tensor, Tensor]:
        """(batch, 12, 1000) to logits (batch, 3) and embedding (batch, 16)."""
        embedding = self.blocks(self.first(signal)).mean(dim=2)
        return self.head(embedding), embedding
