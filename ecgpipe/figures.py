"""The report's Plotly figures as plain data; colours are the page's, which knows whether it is light or dark."""

import base64
import html
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from ecgpipe.prepare import SAMPLE_RATE, Cut, Twelve
from ecgpipe.readers import LEADS

# A longer recording is drawn up to here, so that the page's size is bounded.
DRAWN_S = 30.0

# Points per lead at most: ten seconds at 500 Hz sample by sample. More are thinned to the extremes of each stretch.
MOST_POINTS = 5000

# Every so many samples one value of attention is drawn: four for each token of ECG-FM, finer than a screen shows.
ATTENTION_STRIDE = 4

# One box of the ECG paper, in mV. A trace that would need hundreds of them gets larger ones.
BOXES_MV = (0.5, 1.0, 2.0, 5.0, 10.0, 50.0, 100.0, 500.0)
MOST_BOXES = 100


class Traces(NamedTuple):
    """A recording's figure, and what its caption says of it."""

    figure: dict[str, Any]
    drawn_s: float
    box_s: float
    box_mv: float | None  # None where the unit is not known


def encoded(values: np.ndarray) -> dict[str, str]:
    """An array as Plotly reads it: float32, base64, with its shape where it has two dimensions."""
    content = {"dtype": "f4", "bdata": base64.b64encode(np.ascontiguousarray(values, "<f4").tobytes()).decode()}
    if values.ndim == 2:
        content["shape"] = f"{values.shape[0]}, {values.shape[1]}"
    return content


def plain(text: str) -> str:
    """A text from the data as Plotly shows it unchanged: it reads tags and entities as HTML does, but not &quot;."""
    return html.escape(text, quote=False)


def attention_per_sample(
    attention: np.ndarray, starts: np.ndarray, samples: int, step: int, span: int, most: int
) -> np.ndarray:
    """What the attention is at each of a recording's first samples, 0 to 1 from its least to its most in the recording.

    Args:
        attention: (segments, tokens).
        starts: (segments,) the first sample of each; the last may overlap the one before, over which it then goes.
        samples: Of each segment that are signal.
        step: Samples from one token to the next.
        span: Samples that a token sees; it is put at their middle.
        most: How many samples at most.

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


def thinned(values: np.ndarray, most: int) -> np.ndarray:
    """The positions to draw of a trace: all, or where each stretch has its least and its most, so that no peak is lost.

    Args:
        values: (n,)
        most: How many positions at most.

    Returns:
        Positions in ascending order.
    """
    if len(values) <= most:
        return np.arange(len(values))
    width = math.ceil(len(values) / (most // 2))
    stretches = np.pad(values, (0, -len(values) % width), mode="edge").reshape(-1, width)  # (stretches, width)
    firsts = np.arange(len(stretches)) * width
    extremes = np.concatenate([firsts + stretches.argmin(axis=1), firsts + stretches.argmax(axis=1)])
    return np.unique(np.minimum(extremes, len(values) - 1))


def traces(
    twelve: Twelve,
    sample_rate: float,
    unit: str | None,
    cut: Cut,
    segment_samples: int,
    attention: np.ndarray | None,
    token_samples: tuple[int, int],
) -> Traces:
    """Draw a recording's twelve leads below one another, with the attention as colour behind them.

    All leads share one scale and one axis, each shifted to its own row, so that one heatmap lies behind all of them and
    the grid runs through as on paper. The traces hold the values as they were read; the page adds `meta.shift`.

    Args:
        twelve: As it was read, the leads by name.
        sample_rate: Of it, in Hz.
        unit: "mV", `MIXED` or None.
        cut: Where its segments lie, at 500 Hz.
        segment_samples: Of each of them.
        attention: (segments, tokens), or None.
        token_samples: (step, span) of the tokens.

    Returns:
        A figure of 12 or 13 traces, and what to say beside it.
    """
    drawn = math.ceil(min(twelve.signal.shape[1], DRAWN_S * sample_rate))
    signal = twelve.signal[:, :drawn]  # (12, drawn)
    drawn_s = drawn / sample_rate
    lines, shifts, top, bottom, box = _rows(signal, unit == "mV")
    box_s, tick_s = (0.2, 1.0) if drawn_s <= 12 else (1.0, 5.0)
    shown_unit = "mV" if unit == "mV" else "arbitrary units"

    data: list[dict[str, Any]] = []
    seen_samples = segment_samples - cut.padded
    borders = cut.starts[1:] / SAMPLE_RATE
    shapes = [{"type": "line", "x0": at, "x1": at} for at in borders[borders < drawn_s].tolist()]
    seen_s = (int(cut.starts[-1]) + seen_samples) / SAMPLE_RATE
    if cut.discarded and seen_s < drawn_s:
        shapes.append({"type": "rect", "x0": seen_s, "x1": drawn_s})
    if attention is not None:
        most = math.ceil(drawn_s * SAMPLE_RATE)
        values = attention_per_sample(attention, cut.starts, seen_samples, *token_samples, most)
        data.append(
            {
                "type": "heatmap",
                "name": "attention",
                "z": encoded(values[None, ::ATTENTION_STRIDE]),
                "x0": 0,
                "dx": ATTENTION_STRIDE / SAMPLE_RATE,
                "y0": (top + bottom) / 2,
                "dy": top - bottom,
                "zmin": 0,
                "zmax": 1,
                "showscale": False,
                "hoverinfo": "skip",
            }
        )
    for lead, values, shift in zip(LEADS, signal, shifts, strict=True):
        positions = thinned(values, MOST_POINTS)
        whole = len(positions) == len(values)
        times = {"x0": 0, "dx": 1 / sample_rate} if whole else {"x": encoded(positions / sample_rate)}
        data.append(
            {
                "type": "scatter",
                "mode": "lines",
                "name": lead,
                **times,
                "y": encoded(values[positions]),
                "meta": {"shift": float(shift)},
                "line": {"width": 1.1},
                "hovertemplate": f"<b>{lead}</b> %{{x:.3f}} s<br>%{{customdata:.4~g}} {shown_unit}<extra></extra>",
            }
        )
    layout: dict[str, Any] = {
        "height": 780,
        "margin": {"l": 44, "r": 8, "t": 8, "b": 44},
        "showlegend": False,
        "hovermode": "closest",
        "shapes": [{**shape, "y0": 0, "y1": 1, "yref": "paper"} for shape in shapes],
        "xaxis": {
            "range": [0, drawn_s],
            "title": {"text": "seconds"},
            "dtick": tick_s,
            "minor": {"dtick": box_s, "showgrid": True},
            "zeroline": False,
        },
        "yaxis": {
            "range": [bottom, top],
            "fixedrange": True,
            "tickvals": lines.tolist(),
            "ticktext": list(LEADS),
            "showgrid": False,
            "zeroline": False,
        },
    }
    if box:
        layout["yaxis"]["minor"] = {"tickvals": np.arange(bottom, top, box).tolist(), "showgrid": True}
    return Traces({"data": data, "layout": layout}, drawn_s, box_s, box)


def _rows(signal: np.ndarray, in_mv: bool) -> tuple[np.ndarray, np.ndarray, float, float, float | None]:
    """Where each lead's median lies and how far that shifts the lead, the figure's top and bottom, a box's height."""
    middles = np.nan_to_num(np.median(signal, axis=1))  # (12,) a lead may lie off zero as a whole
    above = np.nan_to_num(signal.max(axis=1) - middles)
    below = np.nan_to_num(middles - signal.min(axis=1))
    spans = above + below
    usual = float(np.median(spans[spans > 0])) if spans.any() else 1.0  # missing leads are zeros and have none
    # A lead with an artefact may run into its neighbours rather than flatten all of them; a flat one gets room too.
    above, below = np.clip(above, 0.3 * usual, 2 * usual), np.clip(below, 0.1 * usual, 2 * usual)
    rooms = np.append(above, 0.0) + np.append(0.0, below) + 0.1 * usual  # (13,) over, between and under the leads
    box = None
    if in_mv:
        box = next((box for box in BOXES_MV if rooms.sum() / box <= MOST_BOXES), BOXES_MV[-1])
        rooms = np.ceil(rooms / box) * box
    lines = -np.cumsum(rooms[:-1])  # (12,) downwards from 0
    return lines, lines - middles, 0.0, float(-rooms.sum()), box


def _span(number: int, segment_s: float | None) -> str:
    return "" if segment_s is None else f" ({number * segment_s:g} to {(number + 1) * segment_s:g} s)"


def umap(
    record_ids: Sequence[str],
    segments: Sequence[int],
    places: np.ndarray,
    colours: Sequence[tuple[str, np.ndarray]],
    shown: int,
    segment_s: float | None,
) -> dict[str, Any]:
    """Draw the map of the segments.

    Args:
        record_ids: Of each point.
        segments: Of each point, its number in the recording.
        places: (points, 2) of each point.
        colours: What the points can be coloured by: a name and (points,) values each.
        shown: Which of `colours` is shown first.
        segment_s: How long a segment is; None where they overlap, so that the number does not tell the time.

    Returns:
        A figure of one trace, with `colours` beside it for the page to choose from.
    """
    size = 10 if len(segments) < 500 else 6 if len(segments) < 5000 else 4
    names = [plain(record_id) for record_id in record_ids]
    trace = {
        "type": "scattergl",
        "mode": "markers",
        "x": encoded(places[:, 0]),
        "y": encoded(places[:, 1]),
        "customdata": [
            [name, f"{number}{_span(number, segment_s)}"] for name, number in zip(names, segments, strict=True)
        ],
        # A label's name comes from the data: as `meta` it is put in last, and nothing in it is taken for a field.
        "hovertemplate": "<b>%{customdata[0]}</b><br>segment %{customdata[1]}"
        "<br>%{meta}: %{marker.color:.3~f}<extra></extra>",
        "marker": {
            "size": size,
            "opacity": 0.85,
            "colorscale": "Viridis",
            "colorbar": {"thickness": 12, "outlinewidth": 0},
        },
    }
    axis = {"showticklabels": False, "zeroline": False, "ticks": ""}
    layout = {
        "height": 560,
        "margin": {"l": 34, "r": 8, "t": 8, "b": 34},
        "hovermode": "closest",
        "xaxis": {**axis, "title": {"text": "UMAP 1"}},
        "yaxis": {**axis, "title": {"text": "UMAP 2"}},
    }
    choices = [{"name": plain(name), "values": encoded(values)} for name, values in colours]
    return {"data": [trace], "layout": layout, "colours": choices, "shown": shown}
