"""The page of one recording in a real browser: it draws, asks the network for nothing, and is accessible."""

from pathlib import Path

import numpy as np
import pytest
import small_run
from browsing import Open, violations
from printed import assert_true, printed
from small_run import HOSTILE, LABELS

from ecgpipe.cli import main
from ecgpipe.report import show


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    small_run.write(folder, [HOSTILE, "a", "b"], attributed=[(HOSTILE, LABELS[0])])
    page = folder / "page.html"
    assert main(["show", str(folder), "--output", str(page), "--", HOSTILE]) == 0
    return page


def test_it_shows_the_recording_and_its_neighbours_as_text(opened: Open, shown: Path) -> None:
    assert shown.stat().st_size < 300_000
    with opened(shown) as page:
        assert page.locator("h1").inner_text() == HOSTILE
        assert page.locator("#viewer svg.paper .trace[data-lead]").count() == 13
        assert page.locator("#viewer .probability").count() == len(LABELS)
        assert sorted(page.locator("#viewer .neighbors li span:first-child").all_inner_texts()) == ["a", "b"]
        options = page.locator('#viewer [data-part="wash"] > option').all_inner_texts()
        assert options == ["nothing", "attention", f"attribution to {LABELS[0]}"]
        others = page.locator('#viewer [data-part="wash"] > optgroup > option').all_inner_texts()
        assert others == [label for label in LABELS if label != LABELS[0]]


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_stands_in_the_way_of_a_screen_reader_the_keyboard_or_weak_eyes(
    scheme: str, opened: Open, shown: Path
) -> None:
    with opened(shown, color_scheme=scheme) as page:
        assert violations(page) == []


@pytest.mark.slow
@pytest.mark.parametrize("paper", ["A4", "Letter"])
@pytest.mark.parametrize("layout", ["standard", "long"])
def test_it_prints_on_one_page_at_the_scale_that_it_says(paper: str, layout: str, opened: Open, tmp_path: Path) -> None:
    names = [f"Label {i}, of two or three words" for i in range(17)]
    small_run.write(tmp_path, ["p1000/p10001725/s41420867/41420867", *"abcdefg"], labels=names, thresholds=[""] * 17)
    page = tmp_path / "page.html"
    given = [str(tmp_path), "--output", str(page), "p1000/p10001725/s41420867/41420867"]
    assert main(["show", *given]) == 0
    with opened(page) as shown:
        shown.select_option('#viewer [data-part="layout"]', layout)
        shown.select_option('#viewer [data-part="wash"]', "none")
        found = printed(shown.pdf(format=paper, print_background=True))
    assert_true(found)
    if layout == "standard":
        assert (found.pages, found.said) == (1, "25 mm/s, 10 mm/mV")


def test_complexes_that_would_run_into_the_next_row_are_drawn_smaller_and_it_says_so(
    opened: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    time = np.arange(5000) / 500
    signs = np.array([1, -1] * 6)[:, None]  # each lead down where the one below it goes up
    monkeypatch.setattr(small_run, "signal", lambda _: 2.4 * signs * (np.sin(2 * np.pi * time) > 0.99))
    names = [f"Label {i}" for i in range(40)]
    small_run.write(tmp_path, "abcdefgh", labels=names, thresholds=[""] * 40)
    page_path = tmp_path / "page.html"
    assert main(["show", str(tmp_path), "--output", str(page_path), "a"]) == 0
    with opened(page_path) as page:
        for layout, gain in (("standard", "5"), ("long", "2.5")):
            page.select_option('#viewer [data-part="layout"]', layout)
            said = page.evaluate("getComputedStyle(document.querySelector('#viewer .scale'), '::after').content")
            assert said == f'"25 mm/s, {gain} mm/mV"'
            assert f"v-{gain}h5v{gain}" in (page.locator("#viewer .pulse").first.get_attribute("d") or "")
            caption = page.locator('#viewer [data-part="caption"]').inner_text()
            assert f"Drawn at {gain} mm/mV: at 10 its complexes would run into the next row." in caption
        page.select_option('#viewer [data-part="layout"]', "standard")
        found = printed(page.pdf(format="A4", print_background=True))
        assert found.said == "25 mm/s, 5 mm/mV"
        assert found.mm_per_s == pytest.approx(25, abs=0.1)
        # A long list ends with a button that shows the rest.
        assert page.locator("#viewer .probability").count() == 24
        page.locator("#viewer .more", has_text="Show all 40 labels").click()
        assert page.locator("#viewer .probability").count() == 40
        assert page.locator("#viewer .more").count() == 0


def test_it_opens_on_the_label_that_was_asked_for(
    opened: Open, shown: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with opened(shown) as page:
        assert page.locator('#viewer [data-part="wash"] option:checked').inner_text() == "nothing"
    asked = [{"label": label, "attribution": np.ones((2, 12, 2500)), "judged": ""} for label in LABELS[:2]]
    monkeypatch.setattr(show, "attribute_labels", lambda *_: asked)  # which takes a network
    given = [str(shown.parent), "--output", str(tmp_path / "x.html"), "--label", *LABELS[:2]]
    assert main(["show", *given, "--", "a"]) == 0
    with opened(tmp_path / "x.html") as page:
        assert page.locator('#viewer [data-part="wash"] option:checked').inner_text() == f"attribution to {LABELS[0]}"
