"""Read `model.json`, the description of a converted checkpoint: sizes, outputs and source. It needs no PyTorch."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ecgpipe import __version__
from ecgpipe.core.errors import EcgpipeError


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
class Description:
    """The content of `model.json`."""

    architecture: Architecture
    labels: tuple[str, ...]  # in the order of the outputs; empty without a head
    uri: str  # on the hub; of a local file its name, with backend fairseq its path
    revision: str | None
    sha256: str  # of the original file
    random_weights: bool  # the outputs are numbers to look at, not diagnoses
    ecgpipe: str  # the version that wrote it
    meaning: int  # of this stage then, see provenance.MEANING
    backend: str = "native"  # or fairseq, and then no weights were converted
    settings: Mapping[str, str] = field(default_factory=dict)  # that made it, see ecgpipe/core/settings.py
    demo_model: bool = False  # trained on simulated hearts: its outputs say nothing about real ones


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
        layers = tuple((channels, kernel, stride) for channels, kernel, stride in sizes["conv_layers"])
        return Description(
            Architecture(**{**sizes, "conv_layers": layers}),
            tuple(content["labels"]),
            source["uri"],
            source["revision"],
            source["sha256"],
            content["random_weights"],
            content["ecgpipe"],
            content["meaning"],
            content.get("backend", "native"),
            content.get("settings", {}),
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


def refuse_foreign(description: Description) -> None:
    """Raise an error where ecgpipe's own network, which gives gradients, has no weights."""
    if description.backend != "native":
        raise EcgpipeError(
            f"inference.backend: {description.backend} computed this run, which gives no gradients; nothing can be "
            "attributed to a label"
        )
