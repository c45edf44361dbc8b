"""What a command that takes `--model` does as a run with this model would. Nothing here loads PyTorch."""

from ecgpipe.core import settings
from ecgpipe.core.errors import EcgpipeError
from ecgpipe.core.model_input import ModelInput, dump_if_other
from ecgpipe.core.user_settings import Config
from ecgpipe.models import registry
from ecgpipe.models.registry import Family


def default_checkpoint(model: str | None) -> str:
    """The weights of a model that the user gave none for.

    Args:
        model: As the option `--model`; None: ECG-FM.

    Returns:
        Their address on the hub.

    Raises:
        EcgpipeError: They are not on the hub.
    """
    family = registry.find_family(model or registry.DEFAULT)
    if family.name == registry.DEFAULT:
        return str(Config.model_fields["checkpoint"].default)
    if family.default_checkpoint is None:
        raise EcgpipeError(f"--checkpoint: missing; download the weights of {family.title} and give their path")
    return family.default_checkpoint


def for_model(given: settings.Preprocess, model_input: ModelInput, family: Family) -> settings.Preprocess:
    """The settings of the preprocessing with a model's input.

    Args:
        given: By the user.
        model_input: The model's.
        family: The model's.

    Returns:
        The settings.

    Raises:
        EcgpipeError: The model has no segments of the length given, or no padding.
    """
    window_s = family.choose_window_s(
        model_input, given.segment_s, given.short, lambda name: f"--{name.replace('_', '-')}"
    )
    return given.model_copy(update={"segment_s": window_s, "model_input": dump_if_other(model_input)})
