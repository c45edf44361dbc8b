"""The page of one recording in a real browser: it draws, asks the network for nothing, and is accessible."""

from pathlib import Path

import pytest
import small_run
from browsing import Open, violations
from small_run import HOSTILE, LABELS

from ecgpipe.__main__ import main


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    small_run.write(folder, [HOSTILE, "a", "b"], attributed=[(HOSTILE, LABELS[0])])
    page = folder / "page.html"
    assert main(["show", "--outdir", str(folder), "--output", str(page), "--", HOSTILE]) == 0
    return page


def test_it_shows_the_recording_and_its_neighbours_as_text(opened: Open, shown: Path) -> None:
    assert shown.stat().st_size < 300_000
    with opened(shown) as page:
        assert page.locator("h1").inner_text() == HOSTILE
        assert page.locator("#viewer svg.paper .trace[data-lead]").count() == 13
        assert page.locator("#viewer .probability").count() == len(LABELS)
        assert sorted(page.locator("#viewer .neighbors li span:first-child").all_inner_texts()) == ["a", "b"]
        options = page.locator('#viewer [data-part="wash"] option').all_inner_texts()
        assert options == ["nothing", "attention", f"attribution to {LABELS[0]}"]


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_stands_in_the_way_of_a_screen_reader_the_keyboard_or_weak_eyes(
    scheme: str, opened: Open, shown: Path
) -> None:
    with opened(shown, color_scheme=scheme) as page:
        assert violations(page) == []
