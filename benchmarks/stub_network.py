"""A network that costs next to nothing, with ECG-FM's input and outputs of the same widths: everything around it shows.

A user's own model, as `docs/models.md` describes it: `snakemake --config model=benchmarks/stub_network.py ...`.
"""

import torch
from torch import Tensor, nn

from ecgpipe.core.model_input import DEFAULT_INPUT
from ecgpipe.models.output import Output

INPUT = DEFAULT_INPUT
HAS_ATTENTION = True
LABELS = (
    *("Poor data quality", "Sinus rhythm", "Premature ventricular contraction", "Tachycardia"),
    *("Ventricular tachycardia", "Supraventricular tachycardia with aberrancy", "Atrial fibrillation"),
    *("Atrial flutter", "Bradycardia", "Accessory pathway conduction", "Atrioventricular block"),
    *("1st degree atrioventricular block", "Bifascicular block", "Right bundle branch block"),
    *("Left bundle branch block", "Infarction", "Electronic pacemaker"),
)
SAMPLES = 64  # of each lead; with 12 leads 768 numbers, ECG-FM's width
TOKENS = 156  # of ECG-FM's attention over a window


class Network(nn.Module):
    """Samples at equal distances, and a linear head."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(12 * SAMPLES, len(LABELS))

    def forward(self, signal: Tensor) -> Output:
        """(batch, 12, 2500) to logits (batch, 17), embedding (batch, 768), attention (batch, 156)."""
        step = signal.shape[-1] // SAMPLES
        embedding = signal[..., : step * SAMPLES : step].flatten(1)  # (batch, 768)
        step = signal.shape[-1] // TOKENS
        lead = signal[:, 1, : step * TOKENS : step]  # lead II: (batch, 156)
        return Output(self.head(embedding), embedding, torch.softmax(lead, dim=-1))
