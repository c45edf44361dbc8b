"""Read `model.json`, the description of a converted checkpoint: sizes, outputs and source. It needs no PyTorch."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from ecgpipe import __version__
from ecgpipe.core.errors import EcgpipeError
from ecgpipe.core.model_input import DEFAULT_INPUT, ModelInput, load_input

# The family of a description that names none, as those of ecgpipe 0.1.
ECG_FM = "ecg-fm"


class Sizes(Protocol):
    """What other stages need to know of a network, whatever its family."""

    @property
    def in_leads(self) -> int:
        """Rows of a window as the network takes it: leads, or 1 where they lie end to end."""

    @property
    def width(self) -> int:
        """Of the embedding."""

    @property
    def labels(self) -> int:
        """Outputs; 0 without a head."""

    @property
    def token_samples(self) -> tuple[int, int]:
        """(step, span): token t sees the samples from step * t up to, not including, step * t + span."""

    def tokens(self, samples: int) -> int:
        """How many tokens a window of so many samples gives; 0 where it is too short, or there is no attention."""


@dataclass(frozen=True)
class Architecture:
    """The sizes that make one network; `fairseq_checkpoint.read_architecture` knows upstream's names for them."""

    in_leads: int
    conv_layers: tuple[tuple[int, int, int], ...]  # (channels, kernel, stride) of each
    conv_bias: bool
    width: int
    layers: int
    heads: int
    hidden: int
    layer_norm_first: bool
    position_kernel: int
    position_groups: int
    labels: int  # 0 for a pretrained network, which has no head

    @property
    def token_samples(self) -> tuple[int, int]:
        """(step, span): token t sees the samples from step * t up to, not including, step * t + span."""
        step, span = 1, 1
        for _, kernel, stride in self.conv_layers:
            span += (kernel - 1) * step
            step *= stride
        return step, span

    def tokens(self, samples: int) -> int:
        """How many tokens a segment of `samples` samples gives; 0 where it is too short for one."""
        for _, kernel, stride in self.conv_layers:
            samples = max(0, (samples - kernel) // stride + 1)
        return samples


# What pages and messages say of the demo's model.
DEMO_MODEL = "Demo model, trained on simulated hearts. Not ECG-FM."


@dataclass(frozen=True)
class OwnArchitecture:
    """What a user's own network turned out to give for one window."""

    in_leads: int
    width: int
    labels: int
    attention_tokens: int = 0  # of a window; 0: no attention
    token_step: int = 1  # samples from one token to the next

    @property
    def token_samples(self) -> tuple[int, int]:
        """(step, span) of the tokens, or of the pieces by which attributions are judged."""
        return self.token_step, self.token_step

    def tokens(self, samples: int) -> int:
        """How many tokens a window has, whatever part of it is signal."""
        return self.attention_tokens


@dataclass(frozen=True)
class Description:
    """The content of `model.json`."""

    architecture: Any  # the family's own sizes, which have what `Sizes` says
    labels: tuple[str, ...]  # in the order of the outputs; empty without a head
    uri: str  # on the hub; of a local file its name, with backend fairseq its path
    revision: str | None
    sha256: str  # of the original file
    random_weights: bool  # the outputs are numbers to look at, not diagnoses
    ecgpipe: str  # the version that wrote it
    meaning: int  # of this stage then, see provenance.MEANING
    backend: str = "native"  # or fairseq, and then no weights were converted
    settings: Mapping[str, str] = field(default_factory=dict)  # that made it, see ecgpipe/core/settings.py
    family: str = ECG_FM  # as the setting `model` has it; of a user's own file `own:` and its name
    options: Mapping[str, str] = field(default_factory=dict)  # of the family, all of them
    model_input: ModelInput = DEFAULT_INPUT
    has_tokens_by_lead: bool = False  # whether the attention's tokens run along the leads laid end to end
    model_sha256: str | None = None  # of a user's own file
    demo_model: bool = False  # trained on simulated hearts: its outputs say nothing about real ones

    @property
    def leads(self) -> tuple[str, ...]:
        """The leads that the network takes, in its order."""
        return self.model_input.leads

    def tokens(self, samples: int) -> int:
        """How many tokens of attention a segment has, of so many samples of each lead."""
        if getattr(self.architecture, "layers", 1) == 0:  # fairseq-signals' networks of convolutions alone
            return 0
        is_joined = self.model_input.is_joined
        count: int = self.architecture.tokens(samples * len(self.leads) if is_joined else samples)
        return count


def describe(path: Path) -> Description:
    """Read a `model.json`.

    Args:
        path: The file that the checkpoint stage wrote.

    Returns:
        Its content.

    Raises:
        EcgpipeError: It is missing, or is not a file of the checkpoint stage.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        sizes, source = content["architecture"], content["source"]
        family = content.get("family", ECG_FM)
        declared = content.get("input")
        return Description(
            _read_architecture(family, sizes),
            tuple(content["labels"]),
            source["uri"],
            source["revision"],
            source["sha256"],
            content["random_weights"],
            content["ecgpipe"],
            content["meaning"],
            content.get("backend", "native"),
            content.get("settings", {}),
            family,
            content.get("options", {}),
            DEFAULT_INPUT if declared is None else load_input(declared),
            content.get("has_tokens_by_lead", False),
            content.get("model_sha256"),
            content.get("demo_model") is True,
        )
    except OSError as error:
        raise EcgpipeError(
            f"checkpoint: cannot read {path}: {error.strerror}; run the checkpoint stage first"
        ) from error
    except (KeyError, TypeError, ValueError) as error:
        raise EcgpipeError(
            f"checkpoint: {path} is not a description that ecgpipe {__version__} wrote; run the checkpoint stage again"
        ) from error


def _read_architecture(family: str, sizes: Mapping[str, Any]) -> Any:  # noqa: ANN401, each family has its own
    from ecgpipe.models import registry  # which imports families, which import this file

    if family.startswith(registry.OWN):
        return OwnArchitecture(**sizes)
    return registry.find_family(family).read_architecture(sizes)


def refuse_foreign(description: Description) -> None:
    """Raise an error where ecgpipe's own network, which gives gradients, has no weights."""
    if description.backend != "native":
        raise EcgpipeError(
            f"inference.backend: {description.backend} computed this run, which gives no gradients; nothing can be "
            "attributed to a label"
        )
