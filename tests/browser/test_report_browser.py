"""The report in a real browser: it draws, asks the network for nothing, and runs nothing that the data brought."""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import small_run
from playwright.sync_api import Browser, Dialog, Page, sync_playwright
from small_run import HOSTILE, LABELS

from ecgpipe.readers import LEADS

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed (apt-get install chromium)")

BOLD = "b/<b>bold</b> & more"
IDS = (HOSTILE, BOLD, *(f"a/{i}" for i in range(6)))


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        # The sandbox needs rights that a container's root does not have.
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    small_run.write(folder, IDS, random_weights=True, unusable=2)
    difference = {"largest": 0.00234, "mean": 1.23e-05}
    drift = {
        "asked": "auto",
        "used": "float16",
        "device": "NVIDIA H100 80GB HBM3",
        "compared": "float16",
        "bound": 0.01,
    }
    drift |= {"segments": 16, "probability": dict.fromkeys(LABELS, difference), "embedding": difference}
    precision = {"used": "float16", "drift": drift | {"largest": 0.00234}}
    run = json.loads((folder / "run.json").read_text())
    made_by = {"preprocess": {"0.1.0": 1}, "infer": {"0.1.0": 1, "0.2.0": 1}, "umap": {"0.2.0": 1}}
    scan = {"recordings": 10, "added": 2, "changed": 1, "removed": 0}
    inputs = {**run["inputs"], "scans": [*run["inputs"]["scans"], scan]}
    facts = {"precision": precision, "made_by": made_by, "inputs": inputs}
    (folder / "run.json").write_text(json.dumps(run | facts))
    return small_run.report(folder)


@pytest.fixture(scope="module")
def page(browser: Browser, report: Path) -> Iterator[Page]:
    """The report on a large screen, opened once: loading Plotly takes seconds."""
    with opened(browser, report, {"viewport": {"width": 1440, "height": 900}}) as page:
        yield page


@contextmanager
def opened(browser: Browser, report: Path, screen: dict[str, Any]) -> Iterator[Page]:
    """Open the report. Whatever is done with it, the page must say no error and ask for no other address."""
    errors: list[str] = []
    asked: list[str] = []

    def refuse(dialog: Dialog) -> None:
        errors.append(f"dialog: {dialog.message}")
        dialog.dismiss()

    with browser.new_context(**screen) as context:
        page = context.new_page()
        page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("dialog", refuse)
        page.on("request", lambda request: asked.append(request.url))
        page.goto(report.as_uri())
        page.locator("#map .main-svg").first.wait_for()
        yield page
    assert errors == []
    assert [url for url in asked if not url.startswith(("data:", "blob:"))] == [report.as_uri()]


def test_the_map_has_every_segment_and_recolours(page: Page) -> None:
    assert page.evaluate("document.querySelector('#map .plot')._fullData[0]._length") == 2 * len(IDS)
    name = "document.querySelector('#map .plot').data[0].meta"
    values = "Array.from(document.querySelector('#map .plot').calcdata[0][0].trace.marker.color).join()"
    seen = set()
    for label in LABELS:
        page.select_option("#colour", label=label)
        assert page.evaluate(name) == label
        seen.add(page.evaluate(values))
    assert len(seen) == len(LABELS)


def point_at(page: Page, point: int) -> float:
    """Move the mouse to a point of the map, and return what it is coloured by."""
    page.locator("#map .plot").scroll_into_view_if_needed()
    x, y, value = page.evaluate(
        """(point) => {
            const plot = document.querySelector("#map .plot"), { x, y, marker } = plot._fullData[0];
            const { xaxis, yaxis } = plot._fullLayout, box = plot.getBoundingClientRect();
            return [
                box.left + xaxis._offset + xaxis.l2p(x[point]),
                box.top + yaxis._offset + yaxis.l2p(y[point]),
                marker.color[point],
            ];
        }""",
        point,
    )
    page.mouse.move(x, y)
    return float(value)


def test_pointing_at_a_segment_names_it_as_text(page: Page) -> None:
    for number, record_id in enumerate([HOSTILE, BOLD]):
        probability = point_at(page, 2 * number + 1)
        hover = page.locator("#map .hovertext", has_text=record_id)
        hover.wait_for()
        head, _, shown = (hover.text_content() or "").rpartition(": ")
        assert "segment 1 (5 to 10 s)" in head
        assert head.endswith(page.locator("#colour option:checked").inner_text())
        assert float(shown) == pytest.approx(probability, abs=0.0005)


def test_opening_a_recording_draws_twelve_named_leads(page: Page) -> None:
    recordings = page.locator(".recording")
    assert recordings.count() == len(IDS)
    second = recordings.nth(1)
    assert second.locator(".main-svg").count() == 0  # nothing is drawn before it is asked for
    second.locator("summary").click()
    second.locator(".main-svg").first.wait_for()
    assert second.locator(".ytick text").all_text_contents() == list(LEADS)
    assert second.locator(".scatterlayer .trace").count() == 12
    assert second.locator(".heatmaplayer image").count() == 1
    # The page adds to each lead where its row is, and keeps what was read to show.
    values = "(lead) => { const t = document.querySelectorAll('.recording .plot')[1].data[lead]; "
    name, read, drawn, shift = page.evaluate(values + "return [t.name, t.customdata[7], t.y[7], t.meta.shift] }", 7)
    assert name == "V1"  # the heatmap is the first trace
    assert drawn == pytest.approx(read + shift, abs=1e-5)


def test_pointing_at_a_lead_shows_its_value(page: Page) -> None:
    plot = "document.querySelector('.recording .plot')"
    page.evaluate(f"Plotly.Fx.hover({plot}, [{{curveNumber: 2, pointNumber: 500}}])")
    shown = page.locator(".recording .hovertext").first.text_content() or ""
    value = page.evaluate(f"{plot}.data[2].customdata[500]")
    assert shown.startswith("II 1.000 s")
    assert shown.endswith(" mV")
    assert float(shown.removeprefix("II 1.000 s").removesuffix(" mV").replace("\N{MINUS SIGN}", "-")) == pytest.approx(
        value, rel=1e-3
    )


def test_a_hostile_record_id_is_text(page: Page) -> None:
    names = page.locator(".recording summary strong").all_inner_texts()
    assert set(names) == set(IDS)
    assert page.locator("summary b, summary script").count() == 0


def test_random_weights_are_said_large_at_the_top(page: Page) -> None:
    banner = page.locator(".banner")
    assert banner.is_visible()
    assert "RANDOM WEIGHTS" in banner.inner_text()
    assert page.evaluate("document.querySelector('.banner').getBoundingClientRect().top + scrollY") == 0
    assert page.evaluate("parseFloat(getComputedStyle(document.querySelector('.banner')).fontSize)") > 40


def test_the_precision_has_a_row_for_each_label_and_the_embedding(page: Page) -> None:
    table = page.locator("#making .drift")
    assert table.locator("tbody th").all_inner_texts() == [*LABELS, "Embedding, 1 \N{MINUS SIGN} cosine"]
    assert table.is_visible()


def test_the_page_says_which_code_and_inputs_made_the_numbers(page: Page) -> None:
    code = page.locator("#code")
    assert code.locator("dd").all_inner_texts() == ["0.1.0", "c0ffee" + "0" * 34, "fedcba9876543210" * 4]
    versions = page.locator("#made-by")
    assert versions.is_visible()
    assert versions.locator("thead th").all_inner_texts() == ["Stage", "0.1.0", "0.2.0"]
    assert versions.locator("tr", has_text="infer").locator("td").all_inner_texts() == ["1", "1"]
    assert page.locator("#scans").locator("tbody tr").count() == 2


def test_without_paths_the_page_works_and_pointing_at_a_segment_gives_a_number(
    browser: Browser, tmp_path: Path
) -> None:
    small_run.write(tmp_path / "secret-folder", ["Jane-Doe/1", "Jane-Doe/2", "Jane-Doe/3"])
    report = small_run.report(tmp_path / "secret-folder", "--no-paths")
    report = report.rename(tmp_path / "report.html")
    with opened(browser, report, {"viewport": {"width": 1440, "height": 900}}) as page:
        point_at(page, 4)
        page.locator("#map .hovertext", has_text="recording 3").wait_for()
        names = page.locator(".recording summary strong").all_inner_texts()
        assert sorted(names) == ["recording 1", "recording 2", "recording 3"]
        page.locator(".recording summary").nth(1).click()
        page.locator(".recording .main-svg").nth(3).wait_for()
        shown = page.content()  # with all that the scripts have drawn
    for name in ("Jane-Doe", "secret-folder"):
        assert name not in shown


def test_no_button_uploads_a_chart(page: Page) -> None:
    buttons = page.locator(".modebar-btn").evaluate_all("all => all.map((b) => b.dataset.title + b.dataset.attr)")
    assert buttons
    assert not [button for button in buttons if "hare" in button or "loud" in button]
    assert page.locator(".modebar a[href]").count() == 0


def test_on_a_dark_phone_nothing_is_wider_than_the_screen(browser: Browser, report: Path) -> None:
    phone = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}
    with opened(browser, report, {**phone, "color_scheme": "dark"}) as page:
        assert page.evaluate("document.documentElement.scrollWidth") == 390
        colour = "document.querySelector('.recording .plot')._fullData[1].line.color"
        dark = page.evaluate(colour)
        assert dark == page.evaluate("css('--trace')")
        page.emulate_media(color_scheme="light")
        page.wait_for_function(f"{colour} !== '{dark}'")
        assert page.evaluate(colour) == page.evaluate("css('--trace')")
