"""The page of a study in a real browser: tables, the list of disagreements, the viewer and the linked maps."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import small_study
from browsing import Open, violations
from playwright.sync_api import Page
from small_run import HOSTILE
from small_study import LABELS, MISSING, SHARED

N = 40


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The study of three runs with true labels."""
    folder = tmp_path_factory.mktemp("study")
    runs = small_study.write(folder, N)
    options = ["--truth", str(folder / "truth.csv"), "--patient", "patient"]
    assert small_study.run(folder / "out", *map(str, runs), *options) == 0
    return folder / "out"


@pytest.fixture(scope="module")
def page(opened: Open, folder: Path) -> Iterator[Page]:
    """The page on a large screen, opened once."""
    with opened(folder / "study.html") as page:
        yield page


@pytest.fixture(scope="module")
def table(folder: Path) -> pd.DataFrame:
    return pd.read_parquet(folder / "study.parquet").set_index("record_id")


@pytest.fixture(scope="module")
def account(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "study.json").read_text())
    return content


def shown_name(page: Page) -> str:
    return page.locator('#viewer [data-part="name"]').inner_text()


def ringed(page: Page, place: int) -> list[list[float]]:
    """The points that a map rings."""
    points: list[list[float]] = page.evaluate(
        """(place) => {
          const { x, y } = document.querySelector(`#plot-${place}`).data.at(-1);
          return [[...x], [...y]];
        }""",
        place,
    )
    return points


def places(folder: Path, model: str, names: list[str]) -> list[list[float]]:
    rows = pd.read_parquet(folder.parent / model / "umap/umap.parquet")
    rows = rows[rows.record_id.isin(names)]
    return [rows.x.tolist(), rows.y.tolist()]


def test_metrics_are_those_of_the_account_for_the_chosen_metric(page: Page, account: dict[str, Any]) -> None:
    for metric, title in (("auroc", "AUROC"), ("brier", "Brier score")):
        page.select_option("[data-tables=scores]", label=title)
        visible = page.locator("#scores table:visible")
        assert visible.count() == 1
        assert visible.locator("caption").inner_text() == title
        for number, statement in enumerate(SHARED):
            for column, model in enumerate(("ecg-fm", "ecgfounder")):
                [row] = [
                    row
                    for row in account["evaluation"]["rows"]
                    if [row[key] for key in ("statement", "model", "against", "metric")]
                    == [statement, model, None, metric]
                ]
                text = visible.locator("tbody tr").nth(number).locator("td").nth(column).inner_text()
                assert text.split() == [f"{row['value']:.3f}", f"{row['low']:.3f}", "to", f"{row['high']:.3f}"]


def test_the_recordings_on_which_models_disagree_most_are_listed(page: Page, table: pd.DataFrame) -> None:
    listed = page.locator("#disagreements tbody tr")
    assert listed.count() == N - len(MISSING)
    largest = table.disagreement.sort_values(ascending=False)
    assert listed.first.locator("th").inner_text() == largest.index[0]
    assert [float(cell) for cell in listed.locator("td.number").all_inner_texts()] == sorted(
        (float(cell) for cell in listed.locator("td.number").all_inner_texts()), reverse=True
    )
    page.select_option("#only", label=SHARED[1])
    spread = (table[f"ecg-fm: {SHARED[1]}"] - table[f"ecgfounder: {SHARED[1]}"]).abs()
    names = page.locator("#disagreements tbody tr:visible th").all_inner_texts()
    assert set(spread.sort_values(ascending=False).index[:3]) <= set(names)
    page.select_option("#only", label="all")


def test_a_click_shows_the_recording_with_each_models_probabilities(page: Page, table: pd.DataFrame) -> None:
    line = page.locator("#disagreements tbody tr").nth(2)
    name = line.locator("th").inner_text()
    line.locator("button").click()
    assert shown_name(page) == name
    assert page.locator("#viewer svg.paper .trace").count() > 12
    assert page.locator("#by-model thead th").all_inner_texts() == ["Statement", "ecg-fm", "ecgfounder"]
    for row in page.locator("#by-model tbody tr").all():
        statement = row.locator("th").inner_text()
        for cell, model in zip(row.locator("td").all(), ("ecg-fm", "ecgfounder"), strict=True):
            limit = 0.6 if (model, statement) == ("ecg-fm", SHARED[1]) else 0.5
            value = float(table[f"{model}: {statement}"].loc[name])
            assert float(cell.inner_text()) == pytest.approx(value, abs=6e-4)
            assert (cell.locator("strong").count() == 1) == (value >= limit)


def test_each_models_own_attribution_can_be_chosen(page: Page) -> None:
    """Of r/000 ECG-FM alone has an attribution; models have their own attention."""
    page.locator("#disagreements button", has_text="r/000").click()
    assert {"ecg-fm", "pretrained"} <= set(page.locator("#overlay option").all_inner_texts())
    page.select_option("#overlay", label="ecg-fm")
    colours = '#viewer [data-part="wash"] option'
    assert page.locator("#viewer img, #viewer image[data-lead]").count() > 0
    assert page.locator('#viewer [data-part="wash"]').input_value() == "0"  # it opens with the attribution
    assert f"attribution to {LABELS['ecg-fm'][0]}" in page.locator(colours).all_inner_texts()
    page.select_option("#overlay", label="pretrained")
    assert page.locator(colours).all_inner_texts() == ["nothing", "attention"]
    page.locator("#disagreements button", has_text="r/001").click()
    assert page.locator("#overlay option:checked").inner_text() == "pretrained"  # what the reader picked stays
    page.locator("#disagreements button", has_text="r/000").click()
    page.select_option("#overlay", label="ecg-fm")


def test_a_recording_is_ringed_on_every_map_that_has_it(page: Page, folder: Path) -> None:
    line = page.locator("#disagreements tbody tr").nth(1)
    name = line.locator("th").inner_text()
    line.locator("button").click()
    for place, model in enumerate(LABELS):
        np.testing.assert_allclose(ringed(page, place), places(folder, model, [name]), atol=1e-6)


def test_a_selection_on_one_map_is_ringed_on_the_others(page: Page, folder: Path) -> None:
    chosen = page.evaluate(
        """() => {
          const map = document.querySelector("#plot-0"), sizes = map.data.slice(0, -1).map((trace) => trace.x.length);
          const curveNumber = sizes.indexOf(Math.max(...sizes)), trace = map.data[curveNumber];
          map.emit("plotly_selected", { points: [0, 1, 5].map((pointNumber) => ({ curveNumber, pointNumber })) });
          return [0, 1, 5].map((point) => trace.x[point]);
        }"""
    )
    rows = pd.read_parquet(folder.parent / "ecg-fm/umap/umap.parquet").set_index("x")
    names = sorted({rows.record_id.iloc[np.abs(rows.index - x).argmin()] for x in chosen})
    assert f"{len(names)} recordings selected on the map of ecg-fm" in page.locator("#selected").inner_text()
    for place, model in list(enumerate(LABELS))[1:]:
        np.testing.assert_allclose(ringed(page, place), places(folder, model, names), atol=1e-6)
    page.evaluate("document.querySelector('#plot-0').emit('plotly_deselect')")
    assert ringed(page, 1) == [[], []]


def test_a_point_on_a_map_opens_its_recording(page: Page) -> None:
    page.evaluate(
        "document.querySelector('#plot-1').emit('plotly_click', { points: [{ curveNumber: "
        "document.querySelector('#plot-1').data.findIndex((trace) => trace.x.length), pointNumber: 0 }] })"
    )
    assert shown_name(page) == small_study.ids(N)[-1]  # the first of a run in reverse order


def test_the_maps_are_coloured_by_each_models_own_probability(page: Page, table: pd.DataFrame, folder: Path) -> None:
    page.select_option("#colour", label=SHARED[0])
    rows = pd.read_parquet(folder.parent / "ecgfounder/umap/umap.parquet")
    colours = page.evaluate("[...document.querySelector('#plot-1').data[0].marker.color]")
    np.testing.assert_allclose(colours, table.loc[rows.record_id, f"ecgfounder: {SHARED[0]}"], atol=6e-5)
    assert page.evaluate("document.querySelector('#plot-2').data[0].marker.color") == "#999"
    scales = [
        page.evaluate(f"(({{cmin, cmax}}) => [cmin, cmax])(document.querySelector('#plot-{n}').data[0].marker)")
        for n in (0, 1)
    ]
    assert scales[0] == scales[1]  # one colour is one value on all maps
    assert scales[0] == pytest.approx(_extent(table, SHARED[0]), abs=6e-5)
    page.select_option("#colour", label="disagreement")


def _extent(table: pd.DataFrame, statement: str) -> list[float]:
    values = table[[f"ecg-fm: {statement}", f"ecgfounder: {statement}"]].to_numpy()
    return [float(np.nanmin(values)), float(np.nanmax(values))]


def test_matrices_have_the_numbers_of_the_account(page: Page, account: dict[str, Any]) -> None:
    assert f"The nearest {account['embeddings']['neighbors']} are by cosine" in page.locator("#compared").inner_text()
    for place, key in enumerate(("cka_unbiased", "cka", "overlap")):
        cells = page.locator(f"[data-matrix='{place}'] tbody td").all_inner_texts()
        assert [cell.replace("\N{MINUS SIGN}", "-") for cell in cells] == [
            f"{value:.2f}" for row in account["embeddings"][key] for value in row
        ]


@pytest.mark.slow
@pytest.mark.parametrize(("scheme", "width"), [("light", 1440), ("dark", 390)])
def test_nothing_stands_in_the_way_of_a_reader(scheme: str, width: int, opened: Open, folder: Path) -> None:
    with opened(folder / "study.html", color_scheme=scheme, viewport={"width": width, "height": 850}) as page:
        assert violations(page) == []
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        # What a row is of stays in sight of a table that is moved sideways, and is as wide as a word.
        page.evaluate("document.querySelector('#differences').scrollLeft = 1000")
        place, name = (
            page.locator(where).bounding_box() for where in ("#differences", "#differences tbody th >> nth=0")
        )
        assert place is not None
        assert name is not None
        assert name["x"] == pytest.approx(place["x"], abs=1)
        assert name["width"] >= 100


def test_hostile_names_of_recordings_labels_statements_and_models_stay_texts(
    opened: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    label, statement = (f"{HOSTILE}<img src=x onerror=alert(1)> {what}" for what in ("label", "statement"))
    monkeypatch.setitem(LABELS, "ecg-fm", (label, SHARED[1]))
    monkeypatch.setitem(LABELS, "ecgfounder", (SHARED[1].upper(), label))
    monkeypatch.setattr(small_study, "SHARED", (label, SHARED[1]))
    monkeypatch.setattr(small_study, "ids", lambda n: [f"{HOSTILE}{number:03}" for number in range(n)])
    first, second = small_study.write(tmp_path, 12, ("ecg-fm", "ecgfounder"))
    crosswalk = pd.DataFrame(
        {"statement": statement, "family": ["ecg-fm", "ecgfounder"], "outputs": 2, "label": label, "relation": "same"}
    )
    crosswalk.assign(note=HOSTILE).to_csv(tmp_path / "crosswalk.csv", index=False)
    model = "<b>mine"
    options = ["--crosswalk", str(tmp_path / "crosswalk.csv"), "--truth", str(tmp_path / "truth.csv")]
    options += ["--patient", "patient", "--title", HOSTILE]
    assert small_study.run(tmp_path / "out", f"{model}={first}", str(second), *options) == 0
    source = (tmp_path / "out/study.html").read_text(encoding="utf-8")
    assert not [text for text in (HOSTILE, "<img src=x", model) if text in source]
    with opened(tmp_path / "out/study.html") as page:
        assert page.locator("h1").inner_text() == HOSTILE
        assert page.locator("#crosswalk tbody th").all_inner_texts() == [statement]
        page.locator("#disagreements button").first.click()
        assert shown_name(page).startswith(HOSTILE)
        assert page.locator("#by-model thead th").all_inner_texts() == ["Statement", model, "ecgfounder"]
        assert page.locator("#by-model tbody th").all_inner_texts() == [statement]
        assert page.locator(".map h3").all_inner_texts() == [model, "ecgfounder"]
        for select in ("#only", "#colour"):
            page.select_option(select, label=statement)
        page.select_option("#overlay", index=0)
        page.evaluate("""document.querySelector("#plot-0").emit("plotly_selected", { points: [{ curveNumber:
          document.querySelector("#plot-0").data.findIndex((trace) => trace.x.length), pointNumber: 0 }] })""")
        assert model in page.locator("#selected").inner_text()


def test_two_models_without_statements_and_maps_have_a_page(opened: Open, tmp_path: Path) -> None:
    runs = small_study.write(tmp_path, 6, ("ecg-fm", "pretrained"))
    for run in runs:
        (run / "umap/umap.parquet").unlink()
    assert small_study.run(tmp_path / "out", *map(str, runs)) == 0
    with opened(tmp_path / "out/study.html") as page:
        assert page.locator("#maps, #truth, #agreement").count() == 0
        assert page.locator("#opened").is_hidden()
