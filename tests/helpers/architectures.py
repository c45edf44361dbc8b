"""A small network of ECG-FM's kind for tests; `dataclasses.replace` gives others of its kind."""

from ecgpipe.models.description import Architecture

SMALL = Architecture(
    in_leads=12,
    conv_layers=((16, 2, 2),) * 4,
    conv_bias=False,
    width=24,
    layers=3,
    heads=3,
    hidden=48,
    layer_norm_first=False,
    position_kernel=128,
    position_groups=4,
    labels=5,
)
