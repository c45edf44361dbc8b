"""What a command that takes `--model` does as a run with this model would. Nothing here loads PyTorch."""

from ecgpipe.core import settings
from ecgpipe.core.model_input import ModelInput, dump_if_other
from ecgpipe.models.registry import Family


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
