"""Encode a recording for the page: its leads, attention and attributions, over time."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy.ndimage import uniform_filter1d

from ecgpipe.analysis.heart_rate import measure_heart_rate
from ecgpipe.core.settings import DRAWN_S
from ecgpipe.preprocessing.segments import Cut, Twelve
from ecgpipe.readers import LEADS

# Samples per second that are drawn. A faster recording is thinned to the extremes of each stretch.
MOST_RATE = 500.0

# A trace is rounded to this: at 10 mm/mV a twentieth of a millimetre; without a unit, to STEPS steps of its range.
STEP_MV = 0.005
STEPS = 4000

# Seconds for one value of attention or attribution, but for rounding to samples: a fifth of a millimetre at 25 mm/s.
STRIDE_S = 0.008

# Of an attribution's values, the share that is drawn as less than the strongest colour. The few largest are far above
# all others, which would be invisible beside them.
UNSATURATED = 0.995


class Layout(NamedTuple):
    """What the samples of attention and attribution are."""

    rate: float = 500  # of the model, Hz
    leads: tuple[str, ...] = LEADS  # that the model takes
    has_tokens_by_lead: bool = False  # whether the tokens run along the leads laid end to end

    @property
    def stride(self) -> int:
        """Samples for one value that is drawn."""
        return max(1, round(STRIDE_S * self.rate))


class Trace(NamedTuple):
    """The leads of a recording as far as they are drawn, each around its median."""

    steps: np.ndarray  # (12, samples) int16
    step: float  # of the unit, or of whatever the file has
    rate: float  # samples per second
    seconds: float


def interpolate_attention(
    attention: np.ndarray, starts: np.ndarray, samples: int, step: int, span: int, most: int
) -> np.ndarray:
    """Interpolate the attention at a recording's first samples, scaled to 0 to 1 over the recording.

    Args:
        attention: (segments, tokens).
        starts: (segments,) the first sample of each; where the last overlaps the one before, the last counts.
        samples: Samples of each segment that are signal.
        step: Samples from one token to the next.
        span: Samples that a token sees; its value stands at their middle.
        most: Number of samples at most.

    Returns:
        (samples,) interpolated within each segment, up to the end of the last one. Before a segment's first and after
        its last token it stays as there: the neighbouring segment was a computation of its own.
    """
    seen = attention[:, : max((samples - span) // step + 1, 1)]  # (segments, tokens) without those of padding
    least, extent = seen.min(), np.ptp(seen) or 1.0
    centres = step * np.arange(seen.shape[1]) + (span - 1) / 2
    inside = np.arange(samples)
    values = np.zeros(min(most, int(starts[-1]) + samples))
    for start, row in zip(starts[starts < most], seen, strict=False):
        piece = np.interp(inside, centres, (row - least) / extent)
        values[start : start + samples] = piece[: len(values) - start]
    return values


def average_over_leads(attention: np.ndarray, leads: int, samples: int, step: int, span: int) -> np.ndarray:
    """The attention over time where its tokens run along the leads laid end to end: the mean over the leads.

    Args:
        attention: (segments, tokens).
        leads: That lie end to end.
        samples: Of a segment, of each lead.
        step: Samples from one token to the next.
        span: Samples that a token sees.

    Returns:
        (segments, samples).
    """
    centres = step * np.arange(attention.shape[1]) + (span - 1) / 2
    places = np.arange(leads * samples)
    rows = np.stack([np.interp(places, centres, row) for row in attention])  # (segments, leads * samples)
    means: np.ndarray = rows.reshape(len(rows), leads, samples).mean(axis=1)
    return means


def sum_attribution(
    attribution: np.ndarray, starts: np.ndarray, samples: int, most: int, stride: int = Layout().stride
) -> np.ndarray:
    """Sum the attribution of each lead over stretches of `stride` samples, from the recording's beginning.

    Args:
        attribution: (segments, leads, segment samples), of as many segments as are drawn.
        starts: (segments or more,) the first sample of each; where two overlap, the later one's counts.
        samples: Samples of each segment that are signal.
        most: Number of samples at most.
        stride: Samples of a stretch.

    Returns:
        (leads, stretches), sums over the samples of each.
    """
    starts = starts[: len(attribution)]
    values = np.zeros((attribution.shape[1], min(most, int(starts[-1]) + samples)))  # (leads, samples)
    for start, piece in zip(starts, attribution, strict=True):
        values[:, start : start + samples] = piece[:, : min(samples, values.shape[1] - start)]
    values = np.pad(values, ((0, 0), (0, -values.shape[1] % stride)))
    sums: np.ndarray = values.reshape(len(values), -1, stride).sum(axis=2)
    return sums


def make_trace(twelve: Twelve, sample_rate: float, unit: str | None) -> Trace:
    """Make the leads as they are drawn.

    Args:
        twelve: As the recording was read.
        sample_rate: Of it, in Hz.
        unit: "mV", or anything else if the size of a millivolt is unknown.

    Returns:
        At most DRAWN_S seconds and MOST_RATE samples per second. What is not finite is drawn as 0.
    """
    signal = twelve.signal[:, : math.ceil(DRAWN_S * sample_rate)]  # (12, samples)
    signal = np.nan_to_num(signal, posinf=0.0, neginf=0.0)
    centred = signal - np.median(signal, axis=1, keepdims=True)
    seconds = signal.shape[1] / sample_rate
    if sample_rate > MOST_RATE:
        centred, sample_rate = thin(centred, sample_rate)
    largest = float(np.abs(centred).max(initial=0.0))
    step = STEP_MV if unit == "mV" else 2 * largest / STEPS or 1.0
    step = max(step, largest / np.iinfo(np.int16).max)
    return Trace(np.round(centred / step).astype(np.int16), step, sample_rate, seconds)


def measure_rate(twelve: Twelve, sample_rate: float) -> int | None:
    """The heart rate of a recording as far as it is drawn, per minute; None where its leads do not tell it."""
    recorded = [i for i, lead in enumerate(LEADS) if lead not in twelve.unrecorded]
    signal = twelve.signal[recorded, : math.ceil(DRAWN_S * sample_rate)]  # (leads, samples)
    measured = measure_heart_rate(np.nan_to_num(signal, posinf=0.0, neginf=0.0), sample_rate)
    return round(measured.per_minute) if measured else None


def thin(signal: np.ndarray, rate: float) -> tuple[np.ndarray, float]:
    """Keep the least and the most of each stretch of each lead, in their order: no peak is lost.

    Args:
        signal: (leads, samples).
        rate: The sampling rate in Hz.

    Returns:
        (leads, 2 * stretches), and its samples per second: about MOST_RATE.
    """
    width = math.ceil(2 * rate / MOST_RATE)
    padded = np.pad(signal, ((0, 0), (0, -signal.shape[1] % width)), mode="edge")
    stretches = padded.reshape(len(signal), -1, width)  # (leads, stretches, width)
    places = np.stack([stretches.argmin(axis=2), stretches.argmax(axis=2)], axis=2)
    places.sort(axis=2)
    return np.take_along_axis(stretches, places, axis=2).reshape(len(signal), -1), 2 * rate / width


def encode_leads(twelve: Twelve, sample_rate: float, unit: str | None) -> dict[str, Any]:
    """Encode what the page draws of a recording, whatever the model.

    Args:
        twelve: As it was read, the leads by name.
        sample_rate: Of it, in Hz.
        unit: "mV", `MIXED` or None.

    Returns:
        For `page_data.pack`. `leads` is (12, samples) of differences from sample to sample, which gzip packs better.
    """
    shown = make_trace(twelve, sample_rate, unit)
    return {
        "lead_names": list(LEADS),
        "leads": np.diff(shown.steps, axis=1, prepend=np.int16(0)).ravel(),
        "step": shown.step,
        "rate": shown.rate,
        "seconds": shown.seconds,
        "of_seconds": twelve.signal.shape[1] / sample_rate,
        "millivolts": unit == "mV",
        "heart_rate": measure_rate(twelve, sample_rate),
        "made": twelve.unrecorded,
    }


def encode_model(
    seconds: float,
    cut: Cut,
    segment_samples: int,
    attention: np.ndarray | None,
    attributions: Sequence[Mapping[str, Any]],
    token_samples: tuple[int, int],
    layout: Layout = Layout(),  # noqa: B008, nothing can change it
) -> dict[str, Any]:
    """Encode what the page draws of a model over a recording, for `page_data.pack`.

    Args:
        seconds: Of the recording that are drawn.
        cut: Where its segments lie, at the model's sampling rate.
        segment_samples: Of each of them.
        attention: (segments, tokens), or None.
        attributions: One for each label: `label`, `attribution` as of `sum_attribution`, and its
            description, which is passed on.
        token_samples: (step, span) of the tokens.
        layout: What the samples of attention and attributions are.

    Returns:
        Times in seconds.
    """
    rate, stride = layout.rate, layout.stride
    most = math.ceil(seconds * rate)
    seen = segment_samples - cut.padded
    shown: dict[str, Any] = {
        "borders": (cut.starts[1:] / rate).tolist(),
        "end": (int(cut.starts[-1]) + seen) / rate,
        "stride_s": stride / rate,
        "attention": None,
        "attributions": [],
    }
    if attention is not None:
        tokens = token_samples
        if layout.has_tokens_by_lead:
            attention, tokens = average_over_leads(attention, len(layout.leads), segment_samples, *tokens), (1, 1)
        values = interpolate_attention(attention, cut.starts, seen, *tokens, most)
        # A value stands for the stretch that begins with its sample: the mean of that.
        values = np.pad(values, (0, -len(values) % stride), mode="edge").reshape(-1, stride).mean(axis=1)
        shown["attention"] = np.round(255 * values).astype(np.uint8)
    for attribution in attributions:
        sums = sum_attribution(attribution["attribution"], cut.starts, seen, most, stride)  # (leads, stretches)
        # The network sees a token at a time: nothing finer than that means anything.
        smooth = uniform_filter1d(sums, max(1, token_samples[0] // stride), axis=1, mode="constant")
        largest = float(np.quantile(np.abs(smooth), UNSATURATED)) or float(np.abs(smooth).max()) or 1.0
        values = np.round(127 * np.clip(smooth / largest, -1, 1)).astype(np.int8)
        if layout.leads != LEADS:  # those that the model does not take have none
            values, chosen = np.zeros((len(LEADS), values.shape[1]), np.int8), values
            values[[LEADS.index(lead) for lead in layout.leads]] = chosen
        description = {key: value for key, value in attribution.items() if key != "attribution"}
        shown["attributions"].append({**description, "values": values.ravel()})
    return shown
