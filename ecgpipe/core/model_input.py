"""What a model takes as its input, as data: leads, sampling rate, windows, and the steps from a recording to them.

A family of models declares its input once, as a `ModelInput` in `ecgpipe/models/NAME/family.py`:

    ModelInput(
        leads=LEADS, rate=500, window_s=10,
        steps=(Linear(500), Cut(), Butterworth(4, (0.67, 40)), Pad(), Standardize(over="all")),
    )

`ecgpipe/preprocessing/transform.py` executes it, `ecgpipe/core/describe_input.py` puts it into words. The steps are
executed in order. What stands before `Cut` works on the whole recording, at its own sampling rate until a step changes
that; what stands after it works on each window by itself. All of it is computed in float64; the last result becomes
float32.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from typing import Any, Literal, TypeAlias, get_args, get_origin, get_type_hints

from ecgpipe.core.errors import EcgpipeError
from ecgpipe.core.leads import LEADS

# A number of samples that is this close to a whole number is that number.
ROUNDING = 1e-6

Over: TypeAlias = Literal["lead", "all"]
Band: TypeAlias = tuple[float | None, float | None]  # Hz; None: no limit on that side


@dataclass(frozen=True)
class ReplaceNan:
    """Replace NaN by zero, or by the mean of the other values of all leads. Without this step NaN is refused."""

    by: Literal["zero", "mean"] = "zero"


@dataclass(frozen=True)
class Linear:
    """Resample by linear interpolation.

    `aligned`: the first new sample lies on the first old one and the last on the last, n * rate / old rate of them.
    `grid`: new sample k lies at k / rate seconds.
    """

    rate: float  # Hz
    ends: Literal["aligned", "grid"] = "aligned"


@dataclass(frozen=True)
class Fourier:
    """Resample by the Fourier transform, without a window, as scipy.signal.resample."""

    rate: float  # Hz


@dataclass(frozen=True)
class TakeEvery:
    """Take every k-th sample, without a filter; sampling rates that are no multiple of `rate` are refused."""

    rate: float  # Hz


@dataclass(frozen=True)
class Decimate:
    """Filter (Chebyshev I of order 8, zero phase), then take every `factor`-th sample, as scipy.signal.decimate."""

    factor: int


@dataclass(frozen=True)
class Butterworth:
    """Butterworth filter, as scipy.signal.butter with filtfilt and its odd extension of the ends.

    With `zero_phase=False` it runs forward only, from rest, as lfilter. `sections` computes it in second-order sections
    (sosfiltfilt and sosfilt), which extend the ends by another number of samples.
    """

    order: int
    band: Band  # (None, high): low-pass; (low, None): high-pass
    zero_phase: bool = True
    sections: bool = False


@dataclass(frozen=True)
class Notch:
    """Second-order notch filter of quality `q`, as scipy.signal.iirnotch with filtfilt (or lfilter)."""

    frequency: float  # Hz
    q: float
    zero_phase: bool = True


@dataclass(frozen=True)
class Fir:
    """FIR filter with a Hamming window, as scipy.signal.firwin with filtfilt (or lfilter).

    It has int(seconds * sampling rate) coefficients, one more if that is even.
    """

    seconds: float
    band: Band
    zero_phase: bool = True


@dataclass(frozen=True)
class MedianBaseline:
    """Subtract the running median, as scipy.signal.medfilt with zeros beyond the ends.

    It is taken over int(seconds * sampling rate) + 1 samples, one more if that is even.
    """

    seconds: float


@dataclass(frozen=True)
class Center:
    """Subtract the mean of each lead."""


@dataclass(frozen=True)
class Standardize:
    """Subtract the mean and divide by (standard deviation + epsilon), of each lead or of all leads together."""

    over: Over = "lead"
    epsilon: float = 1e-8
    ddof: int = 0  # 0: population, 1: sample standard deviation


@dataclass(frozen=True)
class MinMax:
    """Map minimum to `low` and maximum to `high`: (x - min) / (max - min + epsilon) * (high - low) + low."""

    over: Over = "lead"
    low: float = -1.0
    high: float = 1.0
    epsilon: float = 1e-8


@dataclass(frozen=True)
class Scale:
    """Multiply by a factor, e.g. 1000 for a model that takes microvolts."""

    factor: float


@dataclass(frozen=True)
class Cut:
    """Cut the recording into consecutive windows of `window_s`, from its start."""


@dataclass(frozen=True)
class Pad:
    """Where a recording shorter than one window gets zeros at its end, if `short` is `pad`.

    `masked`: the network is told which samples are signal.
    """

    masked: bool = False


@dataclass(frozen=True)
class JoinLeads:
    """Lay the leads of a window end to end: (leads, samples) becomes (1, leads * samples)."""


Resampling: TypeAlias = Linear | Fourier | TakeEvery | Decimate
Filtering: TypeAlias = Butterworth | Notch | Fir
Scaling: TypeAlias = Center | Standardize | MinMax | Scale
Step: TypeAlias = ReplaceNan | Resampling | Filtering | MedianBaseline | Scaling | Cut | Pad | JoinLeads

STEPS: dict[str, type[Step]] = {kind.__name__: kind for kind in get_args(Step)}

# Numbers that may be zero or negative; all others must be positive.
_ANY_SIGN = {"low", "high", "epsilon", "ddof", "band"}


@dataclass(frozen=True)
class ModelInput:
    """A model's input. A declaration that contradicts itself raises an `EcgpipeError`."""

    leads: tuple[str, ...]  # in the model's order, of the twelve
    rate: float  # sampling rate of the windows, Hz
    window_s: float  # what one window lasts
    steps: tuple[Step, ...]  # in order; `Cut` is one of them
    unit: Literal["mV"] | None = None  # None: the unit drops out
    short: Literal["skip", "pad"] = "skip"  # recordings shorter than one window
    tail: Literal["drop", "overlap"] = (
        "drop"  # the rest after the last whole window; overlap: one more window, at the end
    )

    def __post_init__(self) -> None:
        """Refuse a declaration that cannot be executed."""
        _check(self)

    def __hash__(self) -> int:
        """Computed once: a declaration is looked up for every recording."""
        return self._hash

    @cached_property
    def _hash(self) -> int:
        return hash(tuple(getattr(self, field.name) for field in fields(self)))

    def __getstate__(self) -> dict[str, Any]:
        """Without what was computed: in another process, text has another hash."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @property
    def window_samples(self) -> int:
        """Samples of a window, of each lead."""
        return round(self.window_s * self.rate)

    @cached_property
    def is_joined(self) -> bool:
        """Whether the leads lie end to end in one row."""
        return any(isinstance(step, JoinLeads) for step in self.steps)

    @cached_property
    def shape(self) -> tuple[int, int]:
        """(rows, samples) of a window as the network gets it: (leads, samples), or (1, leads * samples) if joined."""
        leads, samples = len(self.leads), self.window_samples
        return (1, leads * samples) if self.is_joined else (leads, samples)

    @cached_property
    def lead_rows(self) -> tuple[int, ...]:
        """The row of each lead among the twelve of `LEADS`."""
        return tuple(LEADS.index(lead) for lead in self.leads)

    @cached_property
    def padding(self) -> Pad | None:
        """Where short recordings can be padded; None if they cannot."""
        return next((step for step in self.steps if isinstance(step, Pad)), None)

    @cached_property
    def accepts_nan(self) -> bool:
        """Whether a step replaces NaN."""
        return any(isinstance(step, ReplaceNan) for step in self.steps)

    @cached_property
    def highest_rate(self) -> float:
        """The highest sampling rate to which a step resamples, Hz."""
        return max(
            [self.rate, *(float(step.rate) for step in self.steps if isinstance(step, Linear | Fourier | TakeEvery))]
        )

    @cached_property
    def ends_standardized(self) -> bool:
        """Whether the last step that computes is `Standardize`, which gives finite values or refuses."""
        last = next((step for step in reversed(self.steps) if not isinstance(step, Cut | Pad | JoinLeads)), None)
        return isinstance(last, Standardize) and last.epsilon > 0

    @cached_property
    def split_steps(self) -> tuple[tuple[Step, ...], tuple[Step, ...]]:
        """The steps before `Cut`, on the whole recording, and those after it, on each window."""
        place = self.steps.index(Cut())
        return self.steps[:place], self.steps[place + 1 :]


def dump_input(model_input: ModelInput) -> dict[str, Any]:
    """Return a declaration as JSON values, each step an object with its name under `step`."""
    values = {field.name: getattr(model_input, field.name) for field in fields(model_input)}
    steps = [{"step": type(step).__name__, **_as_lists(asdict(step))} for step in model_input.steps]
    return values | {"leads": list(model_input.leads), "steps": steps}


def dump_if_other(declared: ModelInput) -> dict[str, Any] | None:
    """As `dump_input`; None where it is the default, as the settings of the preprocessing have it."""
    return None if declared == DEFAULT_INPUT else dump_input(declared)


def load_input(values: Mapping[str, Any]) -> ModelInput:
    """Return the declaration that `dump_input` wrote.

    Args:
        values: JSON values.

    Returns:
        The declaration.

    Raises:
        EcgpipeError: A name is unknown or missing, or the declaration contradicts itself.
    """
    try:
        steps = []
        for entry in values["steps"]:
            name = entry["step"]
            if name not in STEPS:
                raise EcgpipeError(f"model input: the step {name!r} is unknown; give one of {', '.join(STEPS)}")
            parameters: dict[str, Any] = {key: _as_tuple(value) for key, value in entry.items() if key != "step"}
            steps.append(STEPS[name](**parameters))
        return ModelInput(**{**values, "leads": tuple(values["leads"]), "steps": tuple(steps)})
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise EcgpipeError(f"model input: not a declaration of a model's input: {error}") from error


def _as_lists(values: dict[str, Any]) -> dict[str, Any]:
    return {key: list(value) if isinstance(value, tuple) else value for key, value in values.items()}


def _as_tuple(value: object) -> object:
    return tuple(value) if isinstance(value, list) else value


def _check(model_input: ModelInput) -> None:
    """Raise an `EcgpipeError` if a declaration cannot be executed."""
    if not model_input.leads:
        _refuse("leads is empty", "name the leads in the model's order")
    unknown = [lead for lead in model_input.leads if lead not in LEADS]
    if unknown or len(set(model_input.leads)) < len(model_input.leads):
        what = f"unknown leads ({' '.join(unknown)})" if unknown else "a lead occurs twice"
        _refuse(what, f"name each lead once, of {' '.join(LEADS)}")
    _check_values(model_input)
    samples = model_input.window_s * model_input.rate
    if abs(samples - round(samples)) > ROUNDING * samples:
        _refuse(f"window_s * rate is not a whole number of samples ({samples:g})", "change window_s")
    for step in model_input.steps:
        if not isinstance(step, get_args(Step)):
            _refuse(f"{step!r} is not a step", f"give one of {', '.join(STEPS)}")
        _check_values(step)
    _check_order(model_input)
    _check_rate(model_input)


def _check_values(values: ModelInput | Step) -> None:
    """Refuse a word that a field does not know, and a number that is not positive where it has to be."""
    for name, annotation in get_type_hints(type(values)).items():
        value = getattr(values, name)
        where = f"{type(values).__name__}.{name}"
        if name == "band":
            _check_band(where, value)
            continue
        words = [word for part in (annotation, *get_args(annotation)) for word in _literals(part)]
        if words and value is not None and value not in words:
            _refuse(f"{where} is {value!r}", f"give one of {', '.join(words)}")
        if annotation in (int, float):
            if not isinstance(value, (int, float)) or (annotation is int and value != int(value)):
                _refuse(f"{where} is {value!r}", "give a number" if annotation is float else "give a whole number")
            if value < 0 if name in ("epsilon", "ddof") else value <= 0 and name not in _ANY_SIGN:
                _refuse(f"{where} is {value!r}", "give a positive number")


def _literals(annotation: object) -> tuple[Any, ...]:
    return get_args(annotation) if get_origin(annotation) is Literal else ()


def _check_band(where: str, band: Band) -> None:
    """Refuse a band without limits, with a limit that is not positive, or with limits in the wrong order."""
    low, high = band
    limits = [limit for limit in band if limit is not None]
    if not limits or min(limits) <= 0 or (low is not None and high is not None and low >= high):
        _refuse(f"{where} is {band!r}", "give (low, high) in Hz, None for no limit on one side")


def _check_order(model_input: ModelInput) -> None:
    """Refuse steps that are missing, occur twice or stand in an order that has no meaning."""
    names = [type(step).__name__ for step in model_input.steps]
    if names.count("Cut") != 1:
        _refuse(f"Cut occurs {names.count('Cut')} times in steps", "cut once")
    for name in ("Pad", "JoinLeads"):
        if names.count(name) > 1:
            _refuse(f"{name} occurs {names.count(name)} times in steps", "give it once")
    if "JoinLeads" in names:
        after = names[names.index("JoinLeads") + 1 :]
        early = [name for name in ("Cut", "Pad", "Linear", "Fourier") if name in after]
        if early:
            _refuse(f"{early[0]} stands after JoinLeads", f"put {early[0]} before it")
    if model_input.short == "pad" and "Pad" not in names:
        _refuse(
            "short is 'pad', and no step says where zeros are added", "add Pad() to steps, or skip short recordings"
        )


def _check_rate(model_input: ModelInput) -> None:
    """Refuse steps that do not lead to the model's sampling rate."""
    rate: float | None = None  # of the file, which can be any
    for step in model_input.steps:
        if isinstance(step, Decimate):
            if rate is None:
                _refuse("Decimate stands before a step that states a sampling rate", "resample first")
            else:
                rate /= step.factor
        elif isinstance(step, Linear | Fourier | TakeEvery):
            rate = step.rate
    if rate is None:
        _refuse("no step resamples", f"add e.g. Linear({model_input.rate:g})")
    elif rate != model_input.rate:
        _refuse(f"the steps lead to {rate:g} Hz, and rate is {model_input.rate:g} Hz", "change one of them")


def _refuse(what: str, fix: str) -> None:
    raise EcgpipeError(f"model input: {what}; {fix}")


# ECG-FM's input, that of the settings' default checkpoint: `ecgpipe/models/ecg_fm/family.py` says where it is from.
DEFAULT_INPUT = ModelInput(
    leads=LEADS,
    rate=500,
    window_s=5,
    steps=(
        Center(),  # which changes nothing but the rounding of what follows, and costs nothing: quality needs it too
        Linear(500),
        Standardize(over="lead", epsilon=1e-8),
        Cut(),
        Pad(masked=True),
    ),
)
