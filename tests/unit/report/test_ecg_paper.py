"""The paper of pictures: complexes that would run into the next row are drawn smaller, and it says so."""

import matplotlib.text
import numpy as np
import pytest

from ecgpipe.readers import LEADS
from ecgpipe.report import ecg_paper

RATE = 500.0


def beats(lead: str, millivolts: float, other: str | None = None, other_millivolts: float = 0.0) -> np.ndarray:
    """(12, 5000) flat leads, one with a spike at 3 s, another with one 0.02 s later."""
    signal = np.zeros((12, 5000))
    signal[LEADS.index(lead), 1500] = millivolts
    if other:
        signal[LEADS.index(other), 1510] = other_millivolts
    return signal


@pytest.mark.parametrize(
    ("signal", "layout", "gain"),
    [
        (beats("V1", 2.5), "standard", 10),  # the first row has nothing above it
        (beats("V1", -2.5), "standard", 10),  # 25 mm down to the row below, of 26
        (beats("V1", -2.7), "standard", 5),
        (beats("V1", -2.0, "V2", 1.0), "standard", 5),  # V2 lies below V1: together 30 mm
        (beats("V1", -2.0, "V3", 1.0), "standard", 10),  # V3 lies two rows below
        (beats("V3", -2.0, "II", 1.0), "standard", 5),  # the rhythm strip lies below all of the third row
        (beats("V1", -9.0), "standard", 2.5),
        (beats("V1", -90.0), "standard", 2.5),  # there is no smaller one
        (beats("V1", -2.0), "long", 5),
        (beats("V1", -1.6), "long", 10),
    ],
)
def test_the_scale_is_the_largest_at_which_no_trace_runs_into_the_row_below(
    signal: np.ndarray, layout: str, gain: float
) -> None:
    assert ecg_paper.choose_gain(signal, RATE, layout) == gain


def test_peaks_at_different_times_do_not_collide() -> None:
    signal = beats("V1", -2.0)
    signal[LEADS.index("V2"), 2500] = 1.0
    assert ecg_paper.choose_gain(signal, RATE, "standard") == 10


@pytest.mark.parametrize(("millivolts", "says", "height"), [(-2.0, "10 mm/mV", 20.0), (-4.0, "5 mm/mV", 20.0)])
def test_the_picture_is_drawn_at_the_scale_that_it_states(millivolts: float, says: str, height: float) -> None:
    steps = np.roll(np.round(beats("V1", millivolts) / 0.005).astype(np.int16), 1500, axis=1)  # to where V1 is drawn
    view = {
        **{"leads": np.diff(steps, axis=1, prepend=np.int16(0)).ravel(), "step": 0.005, "rate": RATE, "seconds": 10.0},
        **{"millivolts": True, "heart_rate": None, "made": [], "borders": [], "end": 10.0},
        **{"attention": None, "attributions": [], "stride_s": 0.008},
    }
    figure = ecg_paper.draw(view, "one", "standard", "none")
    texts = [text.get_text() for text in figure.findobj(matplotlib.text.Text)]
    assert f"25 mm/s, {says}" in texts
    lines = [np.asarray(line.get_ydata(), float) for line in figure.axes[0].lines]
    assert max(np.ptp(line) for line in lines if len(line) > 100) == pytest.approx(height)
    pulses = [np.ptp(line) for line in lines if len(line) == 6]
    assert pulses == pytest.approx([float(says.split()[0])] * 4)
