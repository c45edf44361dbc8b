"""A signal as whole numbers of 16 bits and the arithmetic that makes float64 values of them.

A converter's numbers take a quarter of the bytes of the float64 values that follow from them, and half of a segment's
float32 values. What makes values of numbers is kept as single steps, each of which rounds by itself: the same steps in
the same order give the same bits, in NumPy and on a GPU.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np

# What a step does with each sample of a lead and the lead's own number. There is no addition: to subtract the negative
# number gives the same bits.
SUBTRACT, DIVIDE, MULTIPLY = "-", "/", "*"

# A signal with more steps is not kept as whole numbers.
MOST_STEPS = 8

# A step, and its number for each lead, (leads,) float64, or (1,) for all leads.
Step = tuple[str, np.ndarray]

# Of NumPy or PyTorch: what is computed in place reads the same in both.
Values = TypeVar("Values", bound=Any)


class Digital(NamedTuple):
    """Leads as whole numbers."""

    numbers: np.ndarray  # (leads, samples) int16
    steps: tuple[Step, ...]  # in order; each with (leads,) or (1,) float64

    def then(self, *steps: Step) -> "Digital":
        """The same numbers with further steps at the end."""
        return Digital(self.numbers, self.steps + steps)

    def of_leads(self, rows: Sequence[int]) -> "Digital":
        """Some of the leads, in another order."""
        chosen = list(rows)
        steps = tuple((kind, values if len(values) == 1 else values[chosen]) for kind, values in self.steps)
        return Digital(self.numbers[chosen], steps)

    def between(self, start: int, stop: int) -> "Digital":
        """The samples from `start` to before `stop`; a view."""
        return Digital(self.numbers[:, start:stop], self.steps)

    @property
    def kinds(self) -> str:
        """What its steps do, a letter each."""
        return "".join(kind for kind, _ in self.steps)

    @property
    def constants(self) -> np.ndarray:
        """The steps' numbers, (steps, leads) float64."""
        constants = np.empty((len(self.steps), len(self.numbers)))
        for row, (_, values) in zip(constants, self.steps, strict=True):
            row[:] = values
        return constants


def decode(numbers: np.ndarray, kinds: str, constants: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
    """Carry out the steps on the numbers, each in float64.

    Args:
        numbers: (..., leads, samples) int16.
        kinds: What each step does.
        constants: (..., steps, leads) float64, the steps' numbers.
        out: (..., leads, samples) float64, is overwritten with the values. None: a new array.

    Returns:
        (..., leads, samples) float64, `out` if it is given.
    """
    values = np.empty(numbers.shape) if out is None else out
    values[...] = numbers
    with np.errstate(all="ignore"):  # as where the signal was computed: what is not finite was refused there
        carry_out(values, kinds, constants)
    return values


def carry_out(values: Values, kinds: str, constants: Values) -> None:
    """Carry out steps on values, each in their own precision.

    Args:
        values: (..., leads, samples) float64, overwritten; a NumPy array, or a tensor of PyTorch on any device.
        kinds: What each step does.
        constants: (..., steps or more, leads) float64 of the same type, the steps' numbers.
    """
    for at, kind in enumerate(kinds):
        # A number for each lead, never a single one: a GPU would multiply by the reciprocal of that.
        number = constants[..., at, :, None]  # (..., leads, 1)
        if kind == SUBTRACT:
            values -= number
        elif kind == DIVIDE:
            values /= number
        elif kind == MULTIPLY:
            values *= number
        else:
            raise ValueError(f"{kind!r} is no step of whole numbers")


def find_digital(numbers: np.ndarray, steps: tuple[Step, ...], signal: np.ndarray) -> Digital | None:
    """Take whole numbers for a signal, if the steps make exactly this signal of them.

    Args:
        numbers: (leads, samples) of any type, as a file has them.
        steps: What is thought to make the signal of them.
        signal: (leads, samples) float64.

    Returns:
        The numbers; None where they are no whole numbers of 16 bits, or a bit of the signal differs, as in NaN.
    """
    if numbers.shape != signal.shape or not signal.size:
        return None
    if not float(numbers[0, 0]).is_integer():  # as of most signals that are no whole numbers
        return None
    with np.errstate(invalid="ignore"):
        if not (numbers[:, 0] == numbers[:, 0].astype(np.int16)).all():
            return None
        whole = numbers.astype(np.int16, order="C")
    if not np.array_equal(whole, numbers):
        return None
    found = Digital(whole, steps)
    values = decode(whole, found.kinds, found.constants)
    return found if np.array_equal(values.view(np.int64), np.ascontiguousarray(signal).view(np.int64)) else None
