"""Put the declaration of a model's input into words, for the docs and for `ecgpipe models NAME`."""

from ecgpipe.core.leads import LEADS
from ecgpipe.core.model_input import (
    Band,
    Butterworth,
    Center,
    Cut,
    Decimate,
    Fir,
    Fourier,
    JoinLeads,
    Linear,
    MedianBaseline,
    MinMax,
    ModelInput,
    Notch,
    Over,
    Pad,
    ReplaceNan,
    Scale,
    Standardize,
    Step,
    TakeEvery,
)


def describe_input(model_input: ModelInput) -> list[str]:
    """Describe a declaration: what goes into the network, each step, and what happens to unusual recordings.

    Args:
        model_input: The declaration.

    Returns:
        Sentences, in the order of the steps.
    """
    leads = "the twelve leads" if model_input.leads == LEADS else f"lead{'s' * (len(model_input.leads) > 1)}"
    sentences = [
        f"The network takes {leads} {' '.join(model_input.leads)} at {model_input.rate:g} Hz, in windows of "
        f"{model_input.window_s:g} s ({model_input.shape[0]} x {model_input.shape[1]} values).",
        "The signal must be in mV; a recording of unknown unit is skipped, unless preprocess.assume_unit states it."
        if model_input.unit
        else "The unit of the signal does not matter.",
    ]
    of = "the recording"
    for step in model_input.steps:
        sentences.append(_describe_step(step, of, model_input))
        if isinstance(step, Cut):
            of = "each window"
    if not model_input.accepts_nan:
        sentences.append("A recording with NaN or infinite samples is skipped.")
    if model_input.short == "skip":
        can = "; it can be padded (preprocess.short: pad)" if model_input.padding else ", and cannot be padded"
        sentences.append(f"A recording shorter than {model_input.window_s:g} s is skipped{can}.")
    return sentences


def _describe_step(step: Step, of: str, model_input: ModelInput) -> str:
    """One step in a sentence; `of` is what it works on: the recording, or each window."""
    match step:
        case ReplaceNan():
            value = "0" if step.by == "zero" else f"the mean of the other values of {of}, over all leads"
            return f"NaN becomes {value}; a recording with infinite samples is skipped."
        case Linear() | Fourier() | TakeEvery() | Decimate():
            return _describe_resampling(step, of)
        case Butterworth() | Notch() | Fir():
            return _describe_filter(step, of)
        case MedianBaseline():
            return f"The running median over {step.seconds:g} s is subtracted from {of}, with zeros beyond its ends."
        case Center():
            return f"The mean of each lead of {of} is subtracted."
        case Standardize():
            kind = "population" if step.ddof == 0 else "sample"
            return (
                f"{_over(step.over, of)} the mean is subtracted, and the result is divided by the {kind} standard "
                f"deviation + {step.epsilon:g}."
            )
        case MinMax():
            values = f"from minimum ... maximum to {step.low:g} ... {step.high:g}"
            return f"{_over(step.over, of)} the values are mapped {values}."
        case Scale():
            return f"The values are multiplied by {step.factor:g}."
        case Cut():
            rest = (
                "left out" if model_input.tail == "drop" else "covered by one more window that ends with the recording"
            )
            return (
                f"The recording is cut into consecutive windows of {model_input.window_s:g} s from its start; the rest "
                f"after the last whole window is {rest}."
            )
        case Pad():
            mask = (
                "The network is told which samples are signal" if step.masked else "The network takes them for signal"
            )
            return f"If short recordings are padded, zeros are added here, up to {model_input.window_s:g} s. {mask}."
        case JoinLeads():
            return f"The leads of {of} are laid end to end in one row."


def _describe_resampling(step: Linear | Fourier | TakeEvery | Decimate, of: str) -> str:
    subject = of[0].upper() + of[1:]
    match step:
        case Linear():
            where = (
                "from its first to its last sample" if step.ends == "aligned" else f"at the times k / {step.rate:g} s"
            )
            return f"{subject} is interpolated linearly to {step.rate:g} Hz, {where}."
        case Fourier():
            return f"{subject} is resampled to {step.rate:g} Hz by the Fourier transform."
        case TakeEvery():
            return (
                f"Of {of}, every k-th sample is taken to reach {step.rate:g} Hz, without a filter; a recording whose "
                f"sampling rate is not a multiple of {step.rate:g} Hz is skipped."
            )
        case Decimate():
            return (
                f"{subject} is low-pass filtered (Chebyshev I, zero phase), and one of {step.factor} samples is taken."
            )


def _describe_filter(step: Butterworth | Notch | Fir, of: str) -> str:
    match step:
        case Butterworth():
            what = f"{_band(step.band)} (Butterworth of order {step.order})"
        case Notch():
            what = f"notch at {step.frequency:g} Hz (quality {step.q:g})"
        case Fir():
            what = f"{_band(step.band)} (FIR of {step.seconds:g} s, Hamming window)"
    how = "forward and backward, with odd extension of the ends" if step.zero_phase else "forward only"
    return f"Filter of {of}: {what}, {how}."


def _band(band: Band) -> str:
    low, high = band
    if low is None:
        return f"low-pass {high:g} Hz"
    return f"high-pass {low:g} Hz" if high is None else f"band-pass {low:g} to {high:g} Hz"


def _over(over: Over, of: str) -> str:
    return f"For each lead of {of}," if over == "lead" else f"For all leads of {of} together,"
