"""A progress bar for whoever watches: in a terminal or a notebook."""

import sys
import warnings
from contextlib import AbstractContextManager
from typing import Any

# Seconds until the bar appears by itself: one recording is done before.
DELAY_S = 1.0


def show_progress(count: int, is_wanted: bool | None) -> AbstractContextManager[Any]:
    """Begin a bar.

    Args:
        count: Of recordings.
        is_wanted: Whether it is shown; None: if stderr is a terminal or this is a notebook, and the work takes longer
            than `DELAY_S`.

    Returns:
        A tqdm bar, whose `update(1)` counts a recording.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that ipywidgets is missing; the bar is a text then
        from tqdm.auto import tqdm

    is_shown = is_watched() if is_wanted is None else is_wanted
    bar: AbstractContextManager[Any] = tqdm(
        total=count, unit=" recordings", disable=not is_shown, delay=DELAY_S if is_wanted is None else 0
    )
    return bar


def is_watched() -> bool:
    """Whether stderr is a terminal, or this process is a notebook's."""
    return "ipykernel" in sys.modules or (sys.stderr is not None and sys.stderr.isatty())
