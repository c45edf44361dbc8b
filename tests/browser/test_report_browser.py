"""The report in a real browser: it draws, asks the network for nothing, and shows each recording's own numbers."""

import base64
import io
import json
import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import small_run
from browsing import Open, violations
from PIL import Image
from playwright.sync_api import Page
from printed import assert_true, printed
from small_run import HOSTILE, LABELS

from ecgpipe.core import parquet, schemas
from ecgpipe.readers import LEADS

BOLD = "b/<b>bold</b> & more"
IDS = (HOSTILE, BOLD, *(f"a/{i}" for i in range(6)))
TOKEN = 100  # of segment 1 of a/0, which alone the model attends to
MAP = "document.querySelector('#plot')"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of eight recordings with hostile names, an attribution, one spike of attention, and all else to show."""
    folder = tmp_path_factory.mktemp("run")
    small_run.write(folder, IDS, random_weights=True, unusable=2, attributed=[("a/0", LABELS[1])])
    attention = folder / "attention/part-00000.parquet"
    rows = pq.read_table(attention).to_pylist()
    for row in rows:
        if row["record_id"] == "a/0":
            row["attention"] = [float(row["segment"] == 1 and token == TOKEN) for token in range(small_run.TOKENS)]
    schema = schemas.attention_schema(small_run.TOKENS)
    parquet.write(attention, pa.Table.from_pylist(rows, schema=schema))
    difference = {"largest": 0.00234, "mean": 1.23e-05}
    drift: dict[str, Any] = {
        "asked": "auto",
        "used": "float16",
        "device": "NVIDIA H100 80GB HBM3",
        "compared": "float16",
    }
    drift |= {"bound": 0.01, "segments": 16, "probability": dict.fromkeys(LABELS, difference), "embedding": difference}
    run = json.loads((folder / "run.json").read_text())
    made_by = {"preprocess": {"0.1.0": 1}, "infer": {"0.1.0": 1, "0.2.0": 1}, "umap": {"0.2.0": 1}}
    scan = {"recordings": 10, "added": 2, "changed": 1, "removed": 0}
    facts = {
        "precision": {"used": "float16", "drift": drift | {"largest": 0.00234}},
        "made_by": made_by,
        "inputs": {**run["inputs"], "scans": [*run["inputs"]["scans"], scan]},
        "warnings": ["1 recording with a clipped lead (clipped_leads)"],
    }
    (folder / "run.json").write_text(json.dumps(run | facts))
    records = folder / "records/shard-00000.parquet"
    table = pq.read_table(records)
    device = {
        "device_heart_rate": 54.0,
        "device_qt_ms": 432.0,
        "device_qrs_axis": 0.0,
        "device_statements": [HOSTILE, "b"],
    }
    rows = [row | device if row["record_id"] == "a/0" else row for row in table.to_pylist()]
    parquet.write(records, pa.Table.from_pylist(rows, schema=table.schema))
    return folder


@pytest.fixture(scope="module")
def truth(folder: Path) -> dict[str, dict[str, Any]]:
    rows = [row for path in sorted(folder.glob("predictions/*")) for row in pq.read_table(path).to_pylist()]
    return {row["record_id"]: row for row in rows}


def shown(page: Page) -> tuple[str, dict[str, str]]:
    """Which recording the viewer shows, and its probabilities."""
    name = page.locator('#viewer [data-part="name"]').inner_text()
    bars = page.locator("#viewer .probability div:first-child").all()
    return name, dict(tuple(span.inner_text() for span in bar.locator("span").all()) for bar in bars)  # type: ignore[misc]


def assert_shown(page: Page, record_id: str, truth: dict[str, dict[str, Any]]) -> None:
    """See that the viewer shows this recording and its own probabilities, the highest first."""
    name, probabilities = shown(page)
    assert name == record_id
    assert probabilities == {label: f"{truth[record_id][label]:.4f}" for label in LABELS}
    assert list(probabilities) == sorted(LABELS, key=lambda label: -truth[record_id][label])


def places(page: Page) -> list[list[float]]:
    """Where on the screen each point of the map lies, in the map's order; there are two of each recording."""
    page.locator("#plot").scroll_into_view_if_needed()
    found: list[list[float]] = page.evaluate(
        """() => {
            const plot = document.querySelector("#plot"), { xaxis, yaxis } = plot._fullLayout;
            const box = plot.getBoundingClientRect(), { x, y } = plot.data[0];
            const left = box.left + xaxis._offset, top = box.top + yaxis._offset;
            return [...x].map((_, i) => [left + xaxis.l2p(x[i]), top + yaxis.l2p(y[i])]);
        }"""
    )
    return found


# The map


def test_the_map_has_every_segment_and_takes_the_colour_of_any_column(page: Page) -> None:
    colours = page.locator("#colour option").all_inner_texts()
    assert {*LABELS, "age", "sex", "status", "duration (s)"} <= set(colours)
    seen = set()
    for name in (*LABELS, "age"):
        page.select_option("#colour", label=name)
        count, values = page.evaluate(f"[{MAP}._fullData[0]._length, Array.from({MAP}.data[0].marker.color)]")
        assert count == 2 * len(IDS)
        seen.add(tuple(values))
    assert len(seen) == len(LABELS) + 1
    page.select_option("#colour", label="sex")
    traces = page.evaluate(f"{MAP}.data.slice(0, -1).map((t) => [t.name, t.x.length])")
    assert traces == [["F", 10], ["M", 6]]  # the most frequent first, and a legend
    assert page.locator("#plot .legendtext").all_text_contents() == ["F", "M"]
    page.select_option("#colour", label=LABELS[0])


def test_a_points_colour_is_the_probability_of_its_recording(page: Page, truth: dict[str, dict[str, Any]]) -> None:
    for label in LABELS:
        page.select_option("#colour", label=label)
        values = page.evaluate(f"Array.from({MAP}.data[0].marker.color)")
        np.testing.assert_allclose(values, [truth[name][label] for name in IDS for _ in range(2)], atol=0.51e-4)


def test_pointing_at_a_segment_names_it_as_text(page: Page, truth: dict[str, dict[str, Any]]) -> None:
    page.select_option("#colour", label=LABELS[2])
    for number, record_id in enumerate([HOSTILE, BOLD]):
        page.mouse.move(*places(page)[2 * number + 1])
        tip = page.locator(".tip", has_text=record_id)
        tip.wait_for()
        assert "segment 1" in tip.inner_text()
        assert f"{LABELS[2]}: {truth[record_id][LABELS[2]]:.4f}" in tip.inner_text()


def test_a_click_on_a_point_opens_its_recording(page: Page, truth: dict[str, dict[str, Any]]) -> None:
    for number in (3, 0, 6):
        place = places(page)[2 * number]
        page.mouse.move(*place)
        page.locator(".tip", has_text=IDS[number]).wait_for()  # no hand is as quick as a script
        page.mouse.click(*place)
        page.wait_for_function(f"document.querySelector('#viewer .title').textContent === {json.dumps(IDS[number])}")
        assert_shown(page, IDS[number], truth)
        assert page.evaluate(f"{MAP}.data.at(-1).x.length") == 2  # rings around its two segments


def test_a_part_of_a_name_finds_recordings_and_enter_opens_the_first(
    page: Page, truth: dict[str, dict[str, Any]]
) -> None:
    page.fill("#search", "A/")
    assert page.locator("#found").inner_text() == "6 found"
    assert page.evaluate(f"{MAP}.data.at(-1).x.length") == 12
    page.fill("#search", "<b>")
    assert page.locator("#found").inner_text() == "1 found"
    page.press("#search", "Enter")
    assert_shown(page, BOLD, truth)
    page.fill("#search", "")


def test_the_lasso_selects_for_the_table(page: Page) -> None:
    page.locator("#plot").scroll_into_view_if_needed()
    page.locator('#plot .modebar-btn[data-val="lasso"]').click()
    x, y = places(page)[4]  # of a/0
    others = [place for i, place in enumerate(places(page)) if i != 4]
    reach = 0.7 * min(max(abs(x - a), abs(y - b)) for a, b in others)
    corners = [(-reach, -reach), (reach, -reach), (reach, reach), (-reach, reach), (-reach, -reach)]
    page.mouse.move(x + corners[0][0], y + corners[0][1])
    page.mouse.down()
    for right, down in corners[1:]:
        page.mouse.move(x + right, y + down, steps=8)
    page.mouse.up()
    page.locator("#selected", has_text="1 segment of 1 recording selected").wait_for()
    assert page.locator("#table tbody th").all_inner_texts() == ["a/0"]
    page.locator('#table [data-part="clear"]').click()
    assert page.locator("#table tbody tr").count() == len(IDS) + 2
    page.locator('#plot .modebar-btn[data-val="zoom"]').click()


def test_no_button_uploads_a_chart(page: Page) -> None:
    buttons = page.locator(".modebar-btn").evaluate_all("all => all.map((b) => b.dataset.title + b.dataset.attr)")
    assert buttons
    assert not [button for button in buttons if "hare" in button or "loud" in button]
    assert page.locator(".modebar a[href]").count() == 0


# The recordings


def pick(page: Page, record_id: str) -> None:
    row = page.evaluate(
        "(name) => [...document.querySelectorAll('#recording option')].find((o) => o.textContent.endsWith(name)).value",
        record_id,
    )
    page.select_option("#recording", row)


def test_every_recording_that_the_page_holds_can_be_picked_and_is_its_own(
    page: Page, truth: dict[str, dict[str, Any]]
) -> None:
    for record_id in IDS:
        pick(page, record_id)
        assert_shown(page, record_id, truth)
    page.click("#next-recording")
    assert shown(page)[0] != IDS[-1]
    page.click("#previous-recording")
    assert shown(page)[0] == IDS[-1]


def millimetres(page: Page) -> dict[str, list[tuple[float, float]]]:
    """The points of each lead on the paper, in mm, strip by strip."""
    paths = page.locator("#viewer .trace[data-lead]").evaluate_all(
        "all => all.map((p) => [p.dataset.lead, p.getAttribute('d')])"
    )
    found: dict[str, list[tuple[float, float]]] = {}
    for lead, path in paths:
        points = [(float(x), float(y)) for x, y in re.findall(r"(-?[\d.]+) (-?[\d.]+)", path)]
        found.setdefault(lead, []).extend(points)
    return found


def said_scale(page: Page) -> str:
    said: str = page.evaluate("getComputedStyle(document.querySelector('#viewer .scale'), '::after').content")
    return said.strip('"')


def test_the_leads_stand_as_cardiologists_read_them_at_25_mm_per_s_and_10_mm_per_mv(page: Page) -> None:
    pick(page, "a/1")
    page.select_option('#viewer [data-part="layout"]', "standard")
    texts = page.locator("#viewer .words text").all_text_contents()
    order = ["I", "aVR", "V1", "V4", "II", "aVL", "V2", "V5", "III", "aVF", "V3", "V6", "II"]
    assert texts[:13] == order
    assert texts[13:] == [f"{second} s" for second in range(11)]
    assert said_scale(page) == "25 mm/s, 10 mm/mV"
    drawn = millimetres(page)
    assert drawn.keys() == set(LEADS)
    signal = small_run.signal(IDS.index("a/1"))
    # Column by column 2.5 s, one after the other; lead V4 is drawn from 7.5 s on.
    for lead, column in (("I", 0), ("aVL", 1), ("V3", 2), ("V4", 3)):
        x, y = np.array(drawn[lead]).T
        np.testing.assert_allclose(x[[0, -1]], [12 + 62.5 * column, 12 + 62.5 * (column + 1)], atol=0.06)
        index = np.round(500 * (2.5 * column + (x - x[0]) / 25)).astype(int)
        values = signal[LEADS.index(lead)][np.minimum(index, 4999)]
        np.testing.assert_allclose(y - y.mean(), -10 * (values - values.mean()), atol=0.06)
    pulse = page.locator("#viewer .pulse").first.get_attribute("d") or ""
    assert "v-10h5v10" in pulse  # 1 mV for 0.2 s


def test_all_leads_can_be_seen_in_full_length(page: Page) -> None:
    pick(page, "a/1")
    page.select_option('#viewer [data-part="layout"]', "long")
    drawn = millimetres(page)
    assert list(drawn) == list(LEADS)
    assert all(len(points) == 5000 for points in drawn.values())
    page.select_option('#viewer [data-part="layout"]', "standard")


def wash(page: Page, lead: str, strip: int) -> tuple[float, float, np.ndarray]:
    """Of a strip's colour: where it begins and how wide it is, in mm, and the picture's opacity, (stretches,)."""
    image = page.locator(f'#viewer .wash image[data-lead="{lead}"]').nth(strip)
    left, width, source = image.evaluate(
        "(i) => [i.x.baseVal.value + i.parentNode.x.baseVal.value, i.width.baseVal.value, i.href.baseVal]"
    )
    content = base64.b64decode(source.partition(",")[2])
    return left, width, np.array(Image.open(io.BytesIO(content)).convert("RGBA"))[0].astype(int)


def test_attention_stands_at_the_time_of_its_token(page: Page) -> None:
    pick(page, "a/0")
    page.select_option('#viewer [data-part="wash"]', "attention")
    left, width, pixels = wash(page, "II", strip=1)  # the rhythm strip
    assert (left, width) == (12, 250)
    times = (np.arange(len(pixels)) + 0.5) * width / len(pixels) / 25  # of the middle of each pixel
    weights = pixels[:, 3]
    middle = (times * weights).sum() / weights.sum()
    assert middle == pytest.approx(5 + (16 * TOKEN + 7.5) / 500, abs=0.001)
    assert set(np.flatnonzero(weights)) <= set(range(1250 // 2 + 4 * TOKEN - 4, 1250 // 2 + 4 * TOKEN + 8))
    assert "it is the same for all labels and all leads" in page.locator('#viewer [data-part="caption"]').inner_text()


def test_attribution_stands_in_its_lead_at_its_time_and_says_how_far_it_can_be_trusted(page: Page) -> None:
    pick(page, "a/0")
    page.select_option('#viewer [data-part="wash"]', label=f"attribution to {LABELS[1]}")
    page.select_option('#viewer [data-part="layout"]', "long")
    _, width, pixels = wash(page, "V2", strip=0)
    lit = np.flatnonzero(pixels[:, 3]) * width / len(pixels) / 25
    assert {round(time, 1) for time in lit.tolist()} <= {2.0, 2.1, 7.0, 7.1}
    assert 1.98 <= lit.min() <= 2.0
    assert tuple(pixels[pixels[:, 3].argmax(), :3]) == (20, 90, 200)  # positive attribution
    for lead in set(LEADS) - {"V2"}:
        assert not wash(page, lead, 0)[2][:, 3].any()
    caption = page.locator('#viewer [data-part="caption"]').inner_text()
    assert "Completeness error 0.010 (logit \N{MINUS SIGN} baseline = 1.00) in 11 to 14 steps" in caption
    assert "Deleting the top 10 % lowers the logit by 0.60; deleting a random 10 % changes it by 0.10" in caption
    page.select_option('#viewer [data-part="wash"]', "none")
    assert page.locator("#viewer .wash image").count() == 0
    page.select_option('#viewer [data-part="layout"]', "standard")


def test_another_label_of_an_attributed_recording_says_what_to_run(page: Page) -> None:
    pick(page, "a/0")
    group = page.locator('#viewer [data-part="wash"] optgroup')
    assert group.locator("option").all_text_contents() == [label for label in LABELS if label != LABELS[1]]
    page.select_option('#viewer [data-part="wash"]', f"other:{LABELS[2]}")
    assert page.locator("#viewer .wash image").count() == 0
    caption = page.locator('#viewer [data-part="caption"]')
    assert f"This page has no attribution to {LABELS[2]}." in caption.inner_text()
    words = shlex.split(caption.locator("code").inner_text())
    assert words == ["ecgpipe", "show", ".", "a/0", "--label", LABELS[2]]
    assert violations(page) == []
    pick(page, "a/1")  # which is not attributed at all
    assert group.count() == 0
    assert page.locator('#viewer [data-part="wash"]').input_value() == "none"


def test_what_the_device_measured_stands_over_the_recording_apart_from_what_was_measured_here(page: Page) -> None:
    pick(page, "a/0")
    device = page.locator('#viewer [data-part="device"]')
    assert device.locator("span").all_inner_texts() == [
        "From the device:", "rate 54/min", "QT 432 ms", "QRS axis 0°", f"statements {HOSTILE}; b"
    ]  # fmt: skip
    assert "heart rate, measured here" in page.locator('#viewer [data-part="header"]').inner_text()
    facts = page.locator('#viewer [data-part="facts"]').inner_text()
    assert "device" not in facts
    assert "Einthoven residual" in facts
    pick(page, "a/1")
    assert not device.is_visible()


def test_labels_are_sorted_by_what_is_chosen(page: Page, truth: dict[str, dict[str, Any]]) -> None:
    def names() -> list[str]:
        rows = page.locator("table.labels tbody tr").all()
        return [row.get_attribute("data-label") or "" for row in rows]

    medians = {label: sorted(row[label] for row in truth.values())[len(truth) // 2 - 1] for label in LABELS}
    page.select_option("#label-order", "name")
    assert names() == sorted(LABELS)
    page.select_option("#label-order", "median")
    assert names() == sorted(LABELS, key=lambda label: -medians[label])
    page.select_option("#label-order", "order")
    assert names() == list(LABELS)


def test_neighbours_are_those_of_the_run_and_a_click_shows_one(
    page: Page, folder: Path, truth: dict[str, dict[str, Any]]
) -> None:
    chosen = {row["record_id"]: row for row in pq.read_table(folder / "examples.parquet").to_pylist()}
    pick(page, "a/2")
    found = page.locator("#viewer .neighbors button").all_inner_texts()
    assert found == [neighbor["record_id"] for neighbor in chosen["a/2"]["neighbors"]]
    page.locator("#viewer .neighbors button").nth(1).click()
    assert_shown(page, found[1], truth)


def test_dragging_measures_time_rate_and_amplitude(page: Page) -> None:
    pick(page, "a/3")
    paper = page.locator("#viewer svg.paper")
    paper.scroll_into_view_if_needed()
    box = paper.bounding_box()
    assert box
    scale = box["width"] / float((paper.get_attribute("viewBox") or "").split()[2])  # pixels per mm
    page.mouse.move(box["x"] + 50 * scale, box["y"] + 20 * scale)
    page.mouse.down()
    page.mouse.move(box["x"] + 75 * scale, box["y"] + 35 * scale, steps=4)
    page.mouse.up()
    assert page.locator("#viewer .caliper text").text_content() == "1000 ms, 60/min, 1.50 mV"


@pytest.mark.slow
def test_a_recording_without_leads_in_the_page_says_how_to_see_them(
    opened: Open, folder: Path, tmp_path: Path, truth: dict[str, dict[str, Any]]
) -> None:
    small_run.report(folder, recordings=0)
    few = (folder / "report.html").rename(tmp_path / "few.html")
    small_run.report(folder)
    with opened(few) as page:
        for name, command in (("a/4", "RUN a/4"), (HOSTILE, f"RUN -- '{HOSTILE}'")):
            page.locator("#table tbody button", has_text=name).click()
            assert_shown(page, name, truth)
            note = page.locator('#viewer [data-part="note"]').inner_text()
            assert note == f"This page does not hold its leads. To see them: ecgpipe show {command}"
            assert page.locator("#viewer svg").count() == 0


# The table


def table(page: Page) -> list[str]:
    return page.locator("#table tbody th").all_inner_texts()


def columns(page: Page, group: str) -> None:
    page.locator('#table [data-part="clear"]').evaluate("(button) => button.click()")
    page.select_option('#table [data-part="group"]', group)


def test_a_row_opens_its_recording(page: Page, truth: dict[str, dict[str, Any]]) -> None:
    columns(page, "account")
    page.locator("#table tbody button", has_text="a/5").click()
    assert_shown(page, "a/5", truth)
    assert page.locator("#table tr.open th").inner_text() == "a/5"


def test_cells_are_those_of_the_tables(page: Page, truth: dict[str, dict[str, Any]]) -> None:
    columns(page, "predictions")
    heads = page.locator("#table thead tr").first.locator("th").all_inner_texts()
    assert heads == ["recording", *LABELS]
    for line in page.locator("#table tbody tr").all():
        name, *cells = line.locator("th, td").all_inner_texts()
        assert cells == ([f"{truth[name][label]:.4f}" for label in LABELS] if name in truth else ["", "", ""])


def test_columns_sort_both_ways_and_what_has_no_value_comes_last(page: Page, truth: dict[str, dict[str, Any]]) -> None:
    columns(page, "predictions")
    order = sorted(truth, key=lambda name: truth[name][LABELS[1]])
    head = page.locator("#table thead button", has_text=LABELS[1])
    head.click()
    assert table(page)[: len(IDS)] == order[::-1]
    assert page.locator("#table th[aria-sort]").get_attribute("aria-sort") == "descending"
    head.click()
    assert table(page) == [*order, "short/0", "short/1"]
    head.press("Enter")  # the keyboard is as good
    assert table(page)[: len(IDS)] == order[::-1]


def test_filters_filter(page: Page, truth: dict[str, dict[str, Any]]) -> None:
    columns(page, "predictions")
    field = page.get_by_label(f"Filter {LABELS[0]}")
    values = {name: round(row[LABELS[0]], 4) for name, row in truth.items()}
    for asked, expected in {
        ">= 0.5": {name for name, value in values.items() if value >= 0.5},
        "<0.5": {name for name, value in values.items() if value < 0.5},
        "0.2..0.6": {name for name, value in values.items() if 0.2 <= value <= 0.6},
    }.items():
        field.fill(asked)
        assert set(table(page)) == expected
    page.get_by_label("Filter recording").fill("a/")
    field.fill("> 0")
    assert set(table(page)) == {name for name in IDS if name.startswith("a/")}
    assert page.locator('#table [data-part="count"]').inner_text() == "6 of 10 recordings"
    columns(page, "account")
    page.get_by_label("Filter reason").fill("(none)")
    assert set(table(page)) == set(IDS)
    columns(page, "metadata")
    page.get_by_label("Filter sex").fill("m")
    assert table(page) == [HOSTILE, "a/1", "a/4", "short/1"]


def test_the_bar_of_what_was_not_used_leads_to_its_rows(page: Page) -> None:
    page.locator("#reasons a").click()
    assert table(page) == ["short/0", "short/1"]
    page.locator(".stack .used").click()
    assert set(table(page)) == set(IDS)


def test_the_bar_of_a_label_leads_to_its_positives_and_the_strongest(
    page: Page, truth: dict[str, dict[str, Any]]
) -> None:
    label = LABELS[1]
    page.locator(f'tr[data-label="{label}"] .share button').click()
    positive = [name for name, row in truth.items() if row[label] >= 0.7]
    assert table(page) == sorted(positive, key=lambda name: -truth[name][label])
    assert_shown(page, table(page)[0], truth)


def test_a_label_colours_the_map(page: Page) -> None:
    page.locator(f'tr[data-label="{LABELS[2]}"] .name button').click()
    assert page.locator("#colour option:checked").inner_text() == LABELS[2]


@pytest.mark.slow
def test_a_label_is_not_taken_for_a_column_of_the_inputs_of_its_name(opened: Open, tmp_path: Path) -> None:
    """Who gives true labels as columns names them like the model's."""
    small_run.write(tmp_path, IDS, labels=["age", "sex"], thresholds=["0.4", ""])
    report = small_run.report(tmp_path)
    rows = [row for path in sorted(tmp_path.glob("predictions/*")) for row in pq.read_table(path).to_pylist()]
    with opened(report) as page:
        page.locator('tr[data-label="age"] .share button').click()
        positive = [row for row in rows if row["age"] >= 0.4]
        assert table(page) == [row["record_id"] for row in sorted(positive, key=lambda row: -row["age"])]
        page.locator('tr[data-label="sex"] .name button').click()
        values = page.evaluate(f"Array.from({MAP}.data[0].marker.color)")
        np.testing.assert_allclose(values[::2], [row["sex"] for row in rows], atol=0.51e-4)


# The rest


def test_hostile_texts_stay_texts(page: Page) -> None:
    columns(page, "account")
    assert {HOSTILE, BOLD} < set(table(page))
    assert page.locator("#table b, #table script, #viewer b, #recording b").count() == 0


def test_random_weights_are_said_large_at_the_top(page: Page) -> None:
    banner = page.locator(".banner")
    assert banner.is_visible()
    assert "RANDOM WEIGHTS" in banner.inner_text()
    assert page.evaluate("document.querySelector('.banner').getBoundingClientRect().top + scrollY") == 0
    assert page.evaluate("parseFloat(getComputedStyle(document.querySelector('.banner')).fontSize)") > 40


def test_the_precision_has_a_row_for_each_label_and_the_embedding(page: Page) -> None:
    drift = page.locator("#making .drift")
    assert drift.locator("tbody th").all_inner_texts() == [*LABELS, "Embedding, 1 \N{MINUS SIGN} cosine"]
    assert drift.is_visible()


def test_the_page_says_which_code_and_inputs_made_the_numbers(page: Page) -> None:
    code = page.locator("#code")
    assert code.locator("dd").all_inner_texts() == ["0.1.0", "c0ffee" + "0" * 34, "fedcba9876543210" * 4]
    versions = page.locator("#made-by")
    assert versions.is_visible()
    assert versions.locator("thead th").all_inner_texts() == ["Stage", "0.1.0", "0.2.0"]
    assert versions.locator("tr", has_text="infer").locator("td").all_inner_texts() == ["1", "1"]
    assert page.locator("#scans").locator("tbody tr").count() == 2
    assert page.locator("#times tbody th").all_inner_texts() == ["preprocess", "infer"]
    assert page.locator(".graph text:not(.small)").all_text_contents() == ["preprocess", "infer", "report"]


@pytest.mark.slow
def test_without_paths_the_page_works_and_names_nobody(opened: Open, tmp_path: Path) -> None:
    small_run.write(tmp_path / "secret-folder", ["Jane-Doe/1", "Jane-Doe/2", "Jane-Doe/3"])
    report = small_run.report(tmp_path / "secret-folder", "--no-paths")
    report = report.rename(tmp_path / "report.html")
    with opened(report) as page:
        page.mouse.move(*places(page)[4])
        page.locator(".tip", has_text="recording 3").wait_for()
        assert table(page) == ["recording 1", "recording 2", "recording 3"]
        page.locator("#table tbody button").nth(1).click()
        assert shown(page)[0] == "recording 2"
        assert page.locator("#viewer svg.paper").count() == 1
        content = page.content()  # with all that the scripts have drawn
    for name in ("Jane-Doe", "secret-folder"):
        assert name not in content


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_stands_in_the_way_of_a_screen_reader_the_keyboard_or_weak_eyes(
    scheme: str, opened: Open, report: Path
) -> None:
    with opened(report, color_scheme=scheme) as page:
        assert violations(page) == []


@pytest.mark.slow
def test_dark_and_light_change_while_the_page_is_open(opened: Open, report: Path) -> None:
    trace = "getComputedStyle(document.querySelector('#viewer .trace')).stroke"
    background = f"{MAP}._fullLayout.paper_bgcolor"
    with opened(report, color_scheme="dark") as page:
        dark = page.evaluate(f"[{trace}, {background}]")
        page.emulate_media(color_scheme="light")
        page.wait_for_function(f"{background} !== '{dark[1]}'")
        light = page.evaluate(f"[{trace}, {background}]")
    assert dark == ["rgb(232, 238, 243)", "#171e25"]
    assert light == ["rgb(22, 32, 42)", "#ffffff"]


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_on_a_phone_nothing_is_wider_than_the_screen(scheme: str, opened: Open, report: Path) -> None:
    phone = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}
    with opened(report, **phone, color_scheme=scheme) as page:
        assert page.evaluate("document.documentElement.scrollWidth") == 390
        page.select_option("#recording", index=2)
        page.select_option('#table [data-part="group"]', "predictions")
        assert page.evaluate("document.documentElement.scrollWidth") == 390


@pytest.mark.slow
def test_it_prints_on_paper_in_light_colours_without_what_only_a_screen_has(opened: Open, report: Path) -> None:
    with opened(report, color_scheme="dark") as page:
        page.emulate_media(media="print")
        assert not page.locator("nav").is_visible()
        assert not page.locator("#search").is_visible()
        assert page.evaluate("getComputedStyle(document.querySelector('#viewer .trace')).stroke") == "rgb(0, 0, 0)"
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
        pdf = page.pdf(format="A4")
    assert pdf.startswith(b"%PDF")
    boxes = {tuple(map(float, box.split())) for box in re.findall(rb"/MediaBox \[([\d. ]+)\]", pdf)}
    for _, _, width, height in boxes:  # A4 landscape, in points, of which Chromium rounds up
        assert width == pytest.approx(842, abs=1.5)
        assert height == pytest.approx(595, abs=1.5)


PORTRAIT = "@page { size: portrait; }"  # as browsers print that do not know which way round a page wants to be


@pytest.mark.slow
@pytest.mark.parametrize(
    ("paper", "style", "says"),
    [
        ("A4", "", "25 mm/s, 10 mm/mV"),
        ("Letter", "", "25 mm/s, 10 mm/mV"),
        ("A4", PORTRAIT, "18.5 mm/s, 7.4 mm/mV"),
        ("Letter", PORTRAIT, "19.1 mm/s, 7.6 mm/mV"),
    ],
)
def test_the_printed_scale_is_what_it_says(paper: str, style: str, says: str, opened: Open, report: Path) -> None:
    with opened(report) as page:
        pick(page, "a/1")
        page.select_option('#viewer [data-part="wash"]', "none")
        page.select_option('#table [data-part="group"]', "quality")  # a table wider than any paper
        if style:
            page.add_style_tag(content=style)
        found = printed(page.pdf(format=paper, print_background=True))
    assert found.said == says
    assert_true(found)


@pytest.mark.slow
def test_a_phone_says_what_a_square_is_and_what_occurs_together_as_a_list(opened: Open, report: Path) -> None:
    phone = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}
    with opened(report, **phone) as page:
        pick(page, "a/1")
        assert said_scale(page) == "a large square: 0.2 s, 0.5 mV"  # its millimetres are none
        bold = page.evaluate("document.querySelector('#paper-bold').width.baseVal.value")
        assert bold == 5  # at 25 mm/s and 10 mm/mV
        assert not page.locator("table.together").is_visible()
        assert page.locator("#together-most li").count() == len(LABELS)
        matrix = page.locator("table.together tbody tr").first.locator("td").all_text_contents()
        others = page.locator("#together-most li").first.inner_text().partition(": ")[2]
        assert {text.split()[-2] for text in others.split(", ")} <= set(matrix)


# Large runs


@pytest.mark.slow
@pytest.mark.parametrize("segments", [14, 2_000, 100_000])
def test_a_run_of_any_size_opens_whole(segments: int, opened: Open, tmp_path: Path) -> None:
    ids = [f"p{i // 1000:04d}/p{i:07d}/s{40_000_000 + 7919 * i % 9_999_999}" for i in range(segments // 2)]
    names = [f"Label {i}" for i in range(17)]
    small_run.write(tmp_path, ids, labels=names, thresholds=[""] * 17, references=["0.1"] * 17, n_signals=20)
    report = small_run.report(tmp_path)
    assert report.stat().st_size < 25e6
    rows = [row for path in sorted(tmp_path.glob("predictions/*")) for row in pq.read_table(path).to_pylist()]
    truth = {row["record_id"]: row for row in rows}
    with opened(report) as page:
        assert page.evaluate(f"{MAP}._fullData[0]._length") == segments
        found = page.locator('#table [data-part="count"]').inner_text()
        assert found == f"{len(ids):,} of {len(ids):,} recordings"
        page.fill("#search", ids[len(ids) // 3])
        page.press("#search", "Enter")
        name, probabilities = shown(page)
        assert name == ids[len(ids) // 3]
        assert probabilities == {label: f"{truth[name][label]:.4f}" for label in names}


@pytest.mark.slow
def test_of_a_million_segments_a_sample_is_drawn_over_the_density_of_all(opened: Open, tmp_path: Path) -> None:
    ids = [f"r{i}" for i in range(3000)]
    small_run.write(tmp_path, ids, n_signals=5)
    umap = tmp_path / "umap/umap.parquet"
    few = pq.read_table(umap)
    random = np.random.default_rng(0)
    with parquet.parquet_writer(umap, schemas.UMAP) as writer:
        for _ in range(170):  # 1,020,000 rows
            places = {name: pa.array(random.random(len(few)), pa.float32()) for name in "xy"}
            writer.write_table(
                pa.table([few["record_id"], few["segment"], places["x"], places["y"]], schema=schemas.UMAP)
            )
    report = small_run.report(tmp_path, recordings=20)
    assert report.stat().st_size < 25e6
    with opened(report) as page:
        assert "A random sample of 100,000 of the 1,020,000 segments" in page.locator("#sampled").inner_text()
        density, points = page.evaluate(f"[{MAP}._fullData[0].type, {MAP}._fullData[1]._length]")
        assert (density, points) == ("heatmap", 100_000)
