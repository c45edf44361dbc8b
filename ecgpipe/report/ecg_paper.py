"""A recording on paper, as a figure for print: 25 mm/s, at most 10 mm/mV, a pink grid; twin of templates/paper.js."""

from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from ecgpipe.core.atomic import whole
from ecgpipe.models.description import DEMO_MODEL
from ecgpipe.readers import LEADS

MM_PER_S, MM_PER_MV, MM_PER_INCH = 25.0, 10.0, 25.4
# Millimetres to the millivolt, as a printout has it: half or a quarter where complexes would run into the next row.
GAINS = (MM_PER_MV, MM_PER_MV / 2, MM_PER_MV / 4)
PAGE_S = 10.0  # of a strip across the paper
LEFT, RIGHT, TOP, BOTTOM = 12.0, 3.0, 9.0, 11.0  # margins in mm

# The four columns follow one another in time, as on paper; the rhythm strip runs through.
LAYOUTS = {
    "standard": ((("I", "aVR", "V1", "V4"), ("II", "aVL", "V2", "V5"), ("III", "aVF", "V3", "V6"), ("II",)), 26.0),
    "long": (tuple((lead,) for lead in LEADS), 17.0),
}

FINE, BOLD, TRACE, INK = "#f8dede", "#eeb2b2", "#16202a", "#1a2530"
ATTENTION = LinearSegmentedColormap.from_list("attention", [(0, 0.48, 0.58, 0), (0, 0.48, 0.58, 0.6)])
ATTRIBUTION = LinearSegmentedColormap.from_list(
    "attribution", [(0.84, 0.43, 0, 0.7), (1, 1, 1, 0), (0.08, 0.35, 0.78, 0.7)]
)


# For `matplotlib.rc_context`, around whatever is drawn and saved.
STYLE: dict[Any, Any] = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "savefig.facecolor": "white",
    "figure.autolayout": False,
    "figure.constrained_layout.use": False,
    "svg.hashsalt": "ecgpipe",  # the same figure gives the same file
    "text.parse_math": False,  # a record id with dollar signs is a text too
}

DPI = 200


class Strip(NamedTuple):
    """Where a lead stands on the paper, and from when to when it is drawn."""

    lead: str
    start_s: float
    end_s: float
    x: float  # mm from the left
    y: float  # mm from the top, of the line that the trace lies on


def lay_out_strips(layout: str, seconds: float, from_s: float = 0.0) -> list[Strip]:
    """Lay out the strips of a page.

    Args:
        layout: Of LAYOUTS.
        seconds: Of the recording, as far as it is drawn.
        from_s: Where the page begins.

    Returns:
        Row by row; the columns of a row share its time evenly.
    """
    rows, height = LAYOUTS[layout]
    span = min(PAGE_S, seconds - from_s)
    return [
        Strip(
            lead,
            from_s + column * span / len(leads),
            from_s + (column + 1) * span / len(leads),
            LEFT + column * span / len(leads) * MM_PER_S,
            TOP + (row + 0.5) * height,
        )
        for row, leads in enumerate(rows)
        for column, lead in enumerate(leads)
    ]


def draw(
    view: Mapping[str, Any], title: str, layout: str = "standard", colour: str = "attention", from_s: float = 0.0
) -> Figure:
    """Draw ten seconds of a recording.

    Args:
        view: As `recording_view.view_recording` gives it.
        title: Over it.
        layout: Of LAYOUTS.
        colour: What lies behind the traces: "attention", a label that is attributed, or "none".
        from_s: Where it begins.

    Returns:
        A figure of the paper's true size.
    """
    rows, height_mm = LAYOUTS[layout]
    span = min(PAGE_S, view["seconds"] - from_s)
    width = LEFT + max(span, 2.5) * MM_PER_S + RIGHT
    height = TOP + len(rows) * height_mm + BOTTOM
    figure = Figure(figsize=(width / MM_PER_INCH, height / MM_PER_INCH))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, width), ylim=(height, 0))  # mm, downwards
    axes.axis("off")
    _draw_grid(axes, width, height)
    signals = np.cumsum(view["leads"].reshape(len(LEADS), -1), axis=1, dtype=np.int16)  # wraps as it was wrapped
    gain = choose_gain(signals * view["step"], view["rate"], layout)
    largest = max(1, np.abs(signals.astype(int)).max())
    scale = gain * view["step"] if view["millivolts"] else 0.5 * height_mm / largest
    for strip in lay_out_strips(layout, view["seconds"], from_s):
        right = strip.x + (strip.end_s - strip.start_s) * MM_PER_S
        top, bottom = strip.y - height_mm / 2, strip.y + height_mm / 2
        _draw_wash(axes, view, colour, strip, (strip.x, right, bottom, top))
        for border in view["borders"]:
            if strip.start_s < border < strip.end_s:
                at = strip.x + (border - strip.start_s) * MM_PER_S
                axes.plot([at, at], [top, bottom], color="#596673", linewidth=0.6, linestyle=":")
        if view["end"] < strip.end_s:
            at = strip.x + max(0.0, view["end"] - strip.start_s) * MM_PER_S
            axes.fill_betweenx([top, bottom], at, right, color="#5a646e", alpha=0.2, linewidth=0)
        values = signals[LEADS.index(strip.lead)]
        first = int(np.ceil(strip.start_s * view["rate"] - 1e-6))
        last = min(len(values) - 1, int(np.floor(strip.end_s * view["rate"] + 1e-6)))
        times = np.arange(first, last + 1) / view["rate"]
        axes.plot(
            strip.x + (times - strip.start_s) * MM_PER_S,
            strip.y - values[first : last + 1] * scale,
            color=TRACE,
            linewidth=0.9,
        )
        if strip.x > LEFT:
            axes.plot([strip.x, strip.x], [strip.y - 4, strip.y + 4], color=TRACE, linewidth=0.9)
        elif view["millivolts"]:
            axes.plot([3, 4, 4, 9, 9, 10], strip.y - gain * np.array([0, 0, 1, 1, 0, 0]), color=TRACE, linewidth=0.9)
        axes.text(
            strip.x + 1, top + 4.5, strip.lead + (" *" if strip.lead in view["made"] else ""), fontsize=10, color=INK
        )
    for second in range(int(np.ceil(from_s)), int(from_s + span + 1e-6) + 1):
        axes.text(LEFT + (second - from_s) * MM_PER_S, height - 7, f"{second} s", fontsize=8, ha="center", color=INK)
    axes.text(LEFT, 5.5, title, fontsize=10, weight="bold", color=INK)
    if view["heart_rate"] is not None:
        axes.text(width - 3, 5.5, f"heart rate {view['heart_rate']}/min", fontsize=10, ha="right", color=INK)
    amplitude = f"{gain:g} mm/mV" if view["millivolts"] else "arbitrary amplitude, no unit in the file"
    behind = {"none": "", "attention": "colour: attention; "}.get(
        colour, f"attribution to {colour}: blue positive, orange negative; "
    )
    axes.text(width - 3, height - 2, f"{behind}25 mm/s, {amplitude}", fontsize=8, ha="right", color=INK)
    return figure


def choose_gain(millivolts: np.ndarray, rate: float, layout: str) -> float:
    """Choose the millimetres to the millivolt at which no trace runs into the row below, for all of a recording.

    Args:
        millivolts: (12, samples), each lead around its median.
        rate: Samples per second.
        layout: Of LAYOUTS.

    Returns:
        The largest of GAINS at which nowhere a trace comes down to where the one below it goes up, at the same time
        within a millimetre; the smallest if there is none.
    """
    rows, height_mm = LAYOUTS[layout]
    width = max(1, round(rate / MM_PER_S))
    padded = np.pad(millivolts, ((0, 0), (0, -millivolts.shape[1] % width)), mode="edge")
    bins = padded.reshape(len(padded), -1, width)  # (12, bins, samples of each)
    least, most = bins.min(axis=2), bins.max(axis=2)
    # Each with the next, as a peak may lie on the border.
    least[:, :-1], most[:, :-1] = np.minimum(least[:, :-1], least[:, 1:]), np.maximum(most[:, :-1], most[:, 1:])
    needed = 0.0
    for above, below in pairwise(rows):
        for column, lead in enumerate(below):
            over = [above[column]] if len(above) == len(below) else above  # a rhythm strip lies below several leads
            for name in over:
                needed = max(needed, float((most[LEADS.index(lead)] - least[LEADS.index(name)]).max()))
    return next((gain for gain in GAINS if needed * gain <= height_mm), GAINS[-1])


def _draw_grid(axes: Axes, width: float, height: float) -> None:
    """Draw a line each millimetre, a bolder one every five."""
    for size, colour, line in ((1, FINE, 0.3), (5, BOLD, 0.6)):
        xs, ys = np.arange(LEFT % size, width, size), np.arange(TOP % size, height, size)
        lines = [[(x, 0), (x, height)] for x in xs] + [[(0, y), (width, y)] for y in ys]
        axes.add_collection(LineCollection(lines, colors=colour, linewidths=line))


def _draw_wash(
    axes: Axes, view: Mapping[str, Any], colour: str, strip: Strip, extent: tuple[float, float, float, float]
) -> None:
    """Draw the colour behind a strip, of which `extent` has left, right, bottom and top."""
    attributions = {
        attribution["label"]: attribution["values"].reshape(len(LEADS), -1) for attribution in view["attributions"]
    }
    if colour == "attention" and view["attention"] is not None:
        values, colours, least = view["attention"] / 255, ATTENTION, 0
    elif colour in attributions:
        values, colours, least = attributions[colour][LEADS.index(strip.lead)] / 127, ATTRIBUTION, -1
    else:
        return
    stride = view["stride_s"]
    first, last = int(strip.start_s / stride + 1e-6), int(np.ceil(strip.end_s / stride - 1e-6))
    stretch = values[first:last]
    if len(stretch):
        left = extent[0] + (first * stride - strip.start_s) * MM_PER_S
        image = axes.imshow(
            stretch[None],
            cmap=colours,
            vmin=least,
            vmax=1,
            aspect="auto",
            interpolation="nearest",
            extent=(left, left + len(stretch) * stride * MM_PER_S, *extent[2:]),
        )
        image.set_clip_path(axes.fill_betweenx(extent[2:], *extent[:2], visible=False).get_paths()[0], axes.transData)


def warn_of_random_weights(figure: Figure) -> None:
    """Write across a figure that what the model says in it means nothing."""
    place: dict[str, Any] = {"ha": "center", "va": "center", "rotation": 15}
    figure.text(0.5, 0.5, "RANDOM WEIGHTS: means nothing", color="#b3361e", alpha=0.35, fontsize=24, **place)


def name_demo_model(figure: Figure) -> None:
    """Write below a figure that its model is the demo's; where the figure has a layout, it leaves room for the line."""
    engine = figure.get_layout_engine()
    if isinstance(engine, ConstrainedLayoutEngine):
        room = 0.15 / figure.get_figheight()  # inches: of the line and what is below it
        engine.set(rect=(0, room, 1, 1 - room))
    figure.text(0.5, 0.004, DEMO_MODEL, color=INK, fontsize=7, ha="center", va="bottom")


def lay_out(figure: Figure) -> None:
    """Lay out a figure once for all formats: otherwise each lays it out anew, and draws it once more to do so."""
    engine = figure.get_layout_engine()
    if engine is not None:
        figure.set_dpi(DPI)
        engine.execute(figure)
        figure.set_layout_engine(None)  # with "none" each format would draw all of it once more for its layout


def save(figure: Figure, path: Path, description: str | None = None) -> None:
    """Write a figure in the format of its ending, with a description in its metadata; the same gives the same bytes."""
    suffix = path.suffix[1:]
    dates: dict[str, dict[str, Any]] = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}
    metadata = {"Description": description} if description and suffix in ("png", "svg") else {}
    with whole(path) as temporary:
        figure.savefig(temporary, format=suffix, dpi=DPI, metadata={**dates.get(suffix, {}), **metadata})
