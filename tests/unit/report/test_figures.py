"""The figures for papers: they are there as PNG and SVG, the same each time, and texts of the data stay texts."""

import json
import re
from functools import partial
from html import unescape
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pyarrow as pa
import pytest
import small_run
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.patches import Rectangle
from small_run import LABELS

from ecgpipe.core import parquet, schemas
from ecgpipe.core.run import RunInfo
from ecgpipe.models.description import DEMO_MODEL
from ecgpipe.readers import LEADS
from ecgpipe.report import ecg_paper, figures
from ecgpipe.report.label_statistics import Summary, summarise

NAMES = ("account", "labels", "probabilities", "together", "map", "recording")
IDS = ("$x_1$ & <b>", *(f"a/{i}" for i in range(7)))
FILES = {f"{name}.{suffix}" for name in NAMES for suffix in ("png", "svg")}


def words(path: Path) -> str:
    """The texts of an SVG, which Matplotlib writes as comments beside their outlines."""
    return " | ".join(unescape(text.strip()) for text in re.findall(r"<!--(.*?)-->", path.read_text(), re.DOTALL))


def test_every_figure_is_there_in_both_formats_and_the_same_each_time(tmp_path: Path) -> None:
    small_run.write(tmp_path, IDS, unusable=3, attributed=[("a/0", LABELS[0])])
    folder = small_run.report(tmp_path, stage="figures")
    first = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert first.keys() == FILES
    assert all(first[name].startswith(b"\x89PNG" if name.endswith("png") else b"<?xml") for name in first)
    small_run.report(tmp_path, stage="figures")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == first
    assert "skipped: too short" in words(folder / "account.svg")
    assert "reference of the label file" in words(folder / "labels.svg")
    assert "16 segments" in words(folder / "map.svg")


def test_texts_of_the_data_are_no_formulas(tmp_path: Path) -> None:
    name = "Block $2^{nd}$ & <i>odd</i>"
    small_run.write(tmp_path, IDS[:1], labels=[name], thresholds=["0.3"], references=["0.1"])
    folder = small_run.report(tmp_path, stage="figures")
    for figure in ("labels", "probabilities", "together"):
        assert name in words(folder / f"{figure}.svg")
    assert IDS[0] in words(folder / "recording.svg")


def test_without_paths_no_recording_is_named(tmp_path: Path) -> None:
    small_run.write(tmp_path, IDS)
    folder = small_run.report(tmp_path, "--no-paths", stage="figures")
    assert "recording " in words(folder / "recording.svg")
    for path in folder.glob("*.svg"):
        assert not [name for name in IDS if name in words(path)]


def test_random_weights_are_said_where_the_model_has_a_say(tmp_path: Path) -> None:
    small_run.write(tmp_path, IDS, random_weights=True)
    folder = small_run.report(tmp_path, stage="figures")
    said = {name for name in NAMES if "RANDOM WEIGHTS" in words(folder / f"{name}.svg")}
    assert said == set(NAMES) - {"account"}


def test_a_model_without_a_head_and_recordings_that_are_gone_leave_figures_that_say_so(tmp_path: Path) -> None:
    small_run.write(tmp_path, IDS, labels=[])
    for path in (tmp_path / "recordings").iterdir():
        path.unlink()
    folder = small_run.report(tmp_path, stage="figures", attention=False)
    assert {path.name for path in folder.iterdir()} == FILES
    assert "a model without a head: no labels" in words(folder / "labels.svg")
    assert "no recording can be drawn" in words(folder / "recording.svg")


def widths(axes: Axes) -> list[float]:
    """Of the bars."""
    return [patch.get_width() for patch in axes.patches if isinstance(patch, Rectangle)]


def test_many_reasons_are_summed_up() -> None:
    reasons = [{"status": "failed", "reason": f"reason {i}", "count": 100 - i} for i in range(20)]
    info = RunInfo.model_validate(small_run.run_json() | {"reasons": reasons})
    [axes] = figures.draw_counts(info).axes
    assert len(axes.patches) == 1 + figures.MOST_REASONS + 1
    assert widths(axes)[-1] == sum(100 - i for i in range(figures.MOST_REASONS, 20))


@pytest.mark.parametrize(("ok", "ticks"), [(3, {"0", "1", "2", "3"}), (999_000, {"0", "150,000"})])
def test_recordings_are_counted_in_whole_numbers_that_can_be_read(ok: int, ticks: set[str]) -> None:
    counts = {**small_run.run_json()["counts"], "ok": ok}
    figure = figures.draw_counts(RunInfo.model_validate(small_run.run_json() | {"counts": counts}))
    figure.draw_without_rendering()
    [axes] = figure.axes
    found = {label.get_text() for label in axes.get_xticklabels()}
    assert ticks <= found
    assert all(text.replace(",", "").isdigit() for text in found)


@pytest.fixture
def summaries(tmp_path: Path) -> list[Summary]:
    values = np.array([[0.9, 0.8, 0.1, 0.6], [0.9, 0.2, 0.1, 0.1]])
    columns = [list("abcd"), [1] * 4, *values]
    parquet.write(tmp_path / "part.parquet", pa.table(columns, schema=schemas.predictions_schema(["B", "A"])))
    return summarise([tmp_path / "part.parquet"], {"A": 0.5, "B": 0.5})


def test_bars_and_marks_stand_at_their_labels(summaries: list[Summary]) -> None:
    [axes] = figures.draw_positives(summaries, {"A": 0.4}, 4).axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["B", "A"]
    assert widths(axes) == [75, 25]
    [marks] = axes.collections
    assert marks.get_offsets().tolist() == [[40, 1]]  # type: ignore[union-attr]


def test_each_histogram_is_as_high_as_its_row_and_has_its_threshold(summaries: list[Summary]) -> None:
    [axes] = figures.draw_probabilities(
        [summary._replace(threshold=0.2 + i) for i, summary in enumerate(summaries)]
    ).axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["B", "A"]
    for row, (patch, summary) in enumerate(zip(axes.patches, summaries, strict=True)):
        values, edges, baseline = patch.get_data()  # type: ignore[attr-defined]
        assert (baseline, len(edges)) == (row + 1, len(summary.histogram) + 1)
        np.testing.assert_allclose(baseline - values, 0.9 * np.array(summary.histogram) / max(summary.histogram))
    assert [line[0, 0] for line in axes.collections[1].get_segments()] == pytest.approx([0.2, 1.2])  # type: ignore[attr-defined]


def test_of_many_labels_the_most_frequent_are_shown_and_the_figures_say_so(summaries: list[Summary]) -> None:
    n = figures.MOST_LABELS + 3
    many = [summaries[0]._replace(name=f"L{i}", positive=i, together=list(range(n))) for i in range(n)]
    shown, note = figures.select_labels(many)
    assert [summary.name for summary in shown] == [f"L{i}" for i in range(3, n)]
    assert shown[0].together == list(range(3, n))
    for draw in (
        figures.draw_probabilities,
        figures.draw_together,
        partial(figures.draw_positives, references={}, total=9),
    ):
        assert draw(shown, note=note).axes[0].get_title(loc="left") == note
    assert note == "the 40 most frequent of 43 labels; the report has all"
    assert figures.select_labels(summaries) == (summaries, "")


def test_shares_of_what_occurs_together_are_of_the_rows_positives(summaries: list[Summary]) -> None:
    axes = figures.draw_together(summaries).axes[0]
    shares = np.asarray(axes.images[0].get_array())
    np.testing.assert_allclose(shares.astype(float), [[100.0, 100 / 3], [100.0, 100.0]])
    assert [label.get_text() for label in axes.get_yticklabels()] == ["B", "A"]


def test_a_figure_is_laid_out_once_for_both_formats_as_it_would_be_for_the_png(
    summaries: list[Summary], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with mpl.rc_context(ecg_paper.STYLE):
        ecg_paper.save(figures.draw_together(summaries), tmp_path / "alone.png")
        laid_out: list[Figure] = []
        execute = ConstrainedLayoutEngine.execute

        def note(engine: ConstrainedLayoutEngine, figure: Figure) -> object:
            laid_out.append(figure)
            return execute(engine, figure)

        monkeypatch.setattr(ConstrainedLayoutEngine, "execute", note)
        figures.save_in_all_formats(figures.draw_together(summaries), tmp_path / "both")
    assert len(laid_out) == 1
    assert (tmp_path / "both.png").read_bytes() == (tmp_path / "alone.png").read_bytes()
    assert (tmp_path / "both.svg").is_file()


# A recording on paper


def view(seconds: float = 10.0, **given: object) -> dict[str, object]:
    """A recording whose lead number n rises by n tenths of a millivolt in each second."""
    n = int(500 * seconds)
    signal = np.arange(n)[None] / 500 * np.arange(12)[:, None] / 10
    steps = np.round(signal / 0.005).astype(np.int16)
    told = {
        "step": 0.005,
        "rate": 500.0,
        "seconds": seconds,
        "of_seconds": seconds,
        "millivolts": True,
        "made": ["aVF"],
        "heart_rate": 72,
    }
    told |= {"borders": [5.0], "end": seconds, "stride_s": 0.008, "attention": None, "attributions": []}
    return told | {"leads": np.diff(steps, axis=1, prepend=np.int16(0)).ravel()} | given


def lines(figure: Figure) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """The traces by lead: those of many points, in the order in which the strips are drawn."""
    drawn = [(np.asarray(line.get_xdata()), np.asarray(line.get_ydata())) for line in figure.axes[0].lines]
    names = [strip.lead for strip in ecg_paper.lay_out_strips("standard", 10.0)]
    return dict(zip(names, (pair for pair in drawn if len(pair[0]) > 100), strict=True))


def test_a_second_is_25_mm_and_a_millivolt_10_mm() -> None:
    figure = ecg_paper.draw(view(), "x")
    assert figure.get_size_inches() * 25.4 == pytest.approx([12 + 250 + 3, 9 + 4 * 26 + 11])
    x, y = lines(figure)["V6"]  # drawn from 7.5 to 10 s in the third row; it rises by 1.1 mV per second
    assert x[0] == pytest.approx(12 + 7.5 * 25)
    np.testing.assert_allclose(np.diff(x), 25 / 500)
    assert y[0] == pytest.approx(9 + 2.5 * 26 - 10 * 7.5 * 1.1, abs=0.05)
    assert y[0] - y[-1] == pytest.approx(10 * 1.1 * (x[-1] - x[0]) / 25, abs=0.1)


def test_the_layout_is_that_of_the_page() -> None:
    """`paper.js` draws the same: its layouts are read from its source."""
    source = (Path(ecg_paper.__file__).parent / "templates/paper.js").read_text()
    standard = json.loads(re.findall(r"standard: .*?rows: (\[\[.*?\]\])", source, re.DOTALL)[0])
    assert [list(row) for row in ecg_paper.LAYOUTS["standard"][0]] == standard
    assert [row[0] for row in ecg_paper.LAYOUTS["long"][0]] == list(LEADS)
    heights = dict(re.findall(r"(standard|long): .*?row_mm: (\d+)", source, re.DOTALL))
    assert {name: f"{height:g}" for name, (_, height) in ecg_paper.LAYOUTS.items()} == heights
    for name in ("MM_PER_S", "MM_PER_MV", "PAGE_S"):
        assert f"{name} = {getattr(ecg_paper, name):g}" in source


def test_colour_stands_in_its_lead_at_its_time() -> None:
    values = np.zeros((12, 1250), np.int8)
    values[LEADS.index("V1"), 700:710] = 127  # 5.6 to 5.68 s, in the third column
    given = [{"label": "A", "values": values.ravel(), "judged": ""}]
    with mpl.rc_context(ecg_paper.STYLE):
        figure = ecg_paper.draw(view(attributions=given), "x", colour="A")
    lit = [image for image in figure.axes[0].images if np.asarray(image.get_array()).any()]
    [image] = lit
    left, right, bottom, top = image.get_extent()
    array = np.asarray(image.get_array())[0]
    places = left + (np.flatnonzero(array) + 0.5) * (right - left) / len(array)
    np.testing.assert_allclose(places[[0, -1]], 12 + 25 * np.array([5.604, 5.676]), atol=0.01)
    assert (top, bottom) == (9, 9 + 26)  # the first row


def test_a_short_recording_makes_a_narrow_paper_and_a_long_one_goes_on() -> None:
    assert ecg_paper.draw(view(seconds=4), "x").get_size_inches()[0] * 25.4 == pytest.approx(12 + 100 + 3)
    later = ecg_paper.lay_out_strips("standard", 24.0, 20.0)
    assert (later[0].start_s, later[3].end_s, later[-1].end_s) == (20, 24, 24)


def test_the_line_that_names_the_demos_model_covers_no_other() -> None:
    figure = Figure(figsize=(7, 3), layout="constrained")
    axes = figure.subplots()
    axes.set_xlabel("probability")
    ecg_paper.name_demo_model(figure)
    ecg_paper.lay_out(figure)
    line = next(text for text in figure.texts if text.get_text() == DEMO_MODEL)
    assert axes.xaxis.label.get_window_extent().y0 > line.get_window_extent().y1
