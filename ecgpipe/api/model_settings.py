"""What a command that takes `--model` does as a run with this model would. Nothing here loads PyTorch."""

from ecgpipe.core import settings
from ecgpipe.core.config import Config
from ecgpipe.core.errors import EcgpipeError
from ecgpipe.core.model_input import ModelInput, dump_input
from ecgpipe.models import registry


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


def for_model(given: settings.Preprocess, model_input: ModelInput, name: str) -> settings.Preprocess:
    """The settings of the preprocessing with a model's input.

    Args:
        given: By the user.
        model_input: The model's.
        name: The model's.

    Returns:
        The settings; for ECG-FM those given.

    Raises:
        EcgpipeError: The model has no segments of the length given, or no padding.
    """
    if name == registry.DEFAULT:
        return given
    if given.segment_s not in (settings.Preprocess().segment_s, model_input.window_s):
        raise EcgpipeError(f"--segment-s: {name} has segments of {model_input.window_s:g} s; leave it out")
    if given.short == "pad" and model_input.padding is None:
        raise EcgpipeError(f"--short: {name} has no padding; give skip")
    return given.model_copy(update={"segment_s": model_input.window_s, "model_input": dump_input(model_input)})
