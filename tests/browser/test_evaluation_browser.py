"""The section on true labels in a real browser: its numbers, its curves, in the light and in the dark."""

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import small_run
from browsing import Open, violations
from playwright.sync_api import Page

AF, ODD, RARE = "Atrial fibrillation", "<b>odd</b> & label", "Rare"
IDS = tuple(f"r/{i}" for i in range(60))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 60 recordings with true labels of three: known of most, known of all, and never there."""
    folder = tmp_path_factory.mktemp("run")
    small_run.write(folder, IDS, (AF, ODD, RARE), n_signals=3)
    random = np.random.default_rng(4)
    scores = pd.read_parquet(folder / "predictions").set_index("record_id").loc[list(IDS)]
    truth = pd.DataFrame(
        {"record_id": IDS, "patient": [i // 2 for i in range(60)], "device": [f"d<{i % 2}>" for i in range(60)]}
    )
    truth[AF] = (random.random(60) < scores[AF].to_numpy()).astype(float)
    truth[ODD] = (random.random(60) < 0.3).astype(int)
    truth[RARE] = 0
    truth.loc[:4, AF] = np.nan
    truth.to_csv(folder / "truth.csv", index=False)
    small_run.evaluate(folder, "--patient", "patient", "--subgroups", "device")
    return folder


@pytest.fixture(scope="module")
def measured(folder: Path) -> pd.DataFrame:
    return pd.read_parquet(folder / "evaluation/metrics.parquet")


def auroc(measured: pd.DataFrame, label: str, device: str = "") -> str:
    """As the page writes it, with its interval on the next line."""
    [row] = measured[
        (measured.label == label) & (measured.metric == "auroc") & (measured.subgroup_value == device)
    ].itertuples()
    return f"{row.value:.3f}\n{row.low:.3f}\N{EN DASH}{row.high:.3f}"


def test_the_table_has_each_labels_own_numbers(page: Page, measured: pd.DataFrame) -> None:
    rows = page.locator("#measured tbody tr")
    assert page.locator("#measured tbody th").all_inner_texts() == [AF, ODD, RARE, "macro", "micro"]
    for place, label in enumerate((AF, ODD)):
        assert rows.nth(place).locator("td").nth(2).inner_text() == auroc(measured, label)
    assert rows.nth(2).locator("td").nth(2).inner_text() == "\N{EN DASH}"
    told = page.locator("#not-counted").inner_text()
    assert f"which do not count for it: {AF} 5." in told
    assert f"not in the macro average: {RARE}." in told
    assert "Intervals by patient (patient): 30." in told


def confusion(folder: Path, label: str) -> dict[str, list[str]]:
    """The evaluated recordings by whether they are right at 0.5 (AF: no threshold in the label file, ODD: 0.7)."""
    scores = pd.read_parquet(folder / "predictions").set_index("record_id").loc[list(IDS), label]
    truth = pd.read_csv(folder / "truth.csv").set_index("record_id").loc[list(IDS), label]
    called = scores.round(4) >= {AF: 0.5, ODD: 0.7, RARE: 0.5}[label]
    order = scores.sort_values(ascending=False).index
    kinds = {"tp": called & (truth == 1), "fp": called & (truth == 0), "fn": ~called & (truth == 1)}
    kinds["tn"] = ~called & (truth == 0)
    return {kind: [name for name in order if rows[name]] for kind, rows in kinds.items()}


def listed(page: Page) -> list[str]:
    return page.locator("#table tbody th").all_inner_texts()


def test_each_count_at_the_threshold_lists_its_recordings_the_most_wrong_first(page: Page, folder: Path) -> None:
    rows = page.locator("#confusion tbody tr")
    for place, label in enumerate((AF, ODD, RARE)):
        expected = confusion(folder, label)
        counts = rows.nth(place).locator("td.number").all_inner_texts()[1:5]
        assert counts == [str(len(expected[kind])) for kind in ("tp", "fp", "fn", "tn")]
    for place, label in enumerate((AF, ODD)):
        expected = confusion(folder, label)
        for number, kind in ((2, "fp"), (3, "fn")):
            rows.nth(place).locator("td").nth(number).locator("button").click()
            most_wrong = expected[kind] if kind == "fp" else expected[kind][::-1]
            assert listed(page) == most_wrong
            assert page.locator('#viewer [data-part="name"]').inner_text() == most_wrong[0]
            [said] = page.locator("#viewer .truth.wrong").filter(has_text="false").all_inner_texts()[:1]
            assert ("false positive" if kind == "fp" else "false negative") in said
    assert page.locator("#confusion tbody tr").nth(2).locator("button").count() == 3  # no recording has it


def test_the_least_certain_are_those_nearest_to_the_threshold(page: Page, folder: Path) -> None:
    page.locator("#confusion tbody tr").first.locator("button", has_text="least certain").click()
    scores = pd.read_parquet(folder / "predictions").set_index("record_id")[AF].round(4)
    known = pd.read_csv(folder / "truth.csv").set_index("record_id")
    distance = (scores - 0.5).abs().loc[list(IDS)]
    near = distance[(distance <= 0.1) & known.loc[list(IDS), [AF, ODD, RARE]].notna().any(axis=1)]
    assert [distance[name] for name in listed(page)] == pytest.approx(sorted(near))


def test_a_column_that_filters_stays_in_view_when_others_are_chosen(page: Page) -> None:
    page.locator("#confusion tbody tr").first.locator("td").nth(2).locator("button").click()
    some = listed(page)
    page.select_option('#table [data-part="group"]', "account")
    heads = page.locator("#table thead th").all_inner_texts()
    assert heads[0] == "recording"
    assert set(heads[1:4]) == {AF, f"true: {AF}", "evaluated"}
    assert heads[4] == "status"
    assert listed(page) == some
    page.get_by_label(f"Filter true: {AF}").fill("")
    assert len(listed(page)) > len(some)
    page.locator('#table [data-part="clear"]').click()
    assert page.locator("#table thead th").all_inner_texts()[:2] == ["recording", "status"]


def test_the_true_label_stands_beside_each_probability(page: Page, folder: Path) -> None:
    truth = pd.read_csv(folder / "truth.csv").set_index("record_id")[[AF, ODD, RARE]].astype(float).T.to_dict()
    clear = page.locator('#table [data-part="clear"]')
    if clear.is_enabled():  # of the tests before
        clear.click()
    for name in ("r/0", "r/7"):
        page.locator("#table tbody th button", has_text=name).first.click()
        for bar in page.locator("#viewer .probability").all():
            known = truth[name][bar.locator(".label").inner_text()]
            said = bar.locator(".truth").all_inner_texts()
            assert [text.partition(",")[0] for text in said] == (
                [] if np.isnan(known) else [f"true: {'yes' if known else 'no'}"]
            )


def test_the_heads_of_the_metrics_sort_them(page: Page) -> None:
    def names() -> list[str]:
        return page.locator("#measured tbody th").all_inner_texts()

    known = page.locator("#measured thead button", has_text="Known")
    known.click()
    assert names() == [ODD, RARE, AF, "macro", "micro"]
    known.click()
    assert names() == [AF, ODD, RARE, "macro", "micro"]
    assert page.locator('#measured th[aria-sort="ascending"]').inner_text() == "Known"
    page.locator("#measured thead button", has_text="AUROC").click()
    assert names()[2] == RARE  # not defined
    page.locator("#measured thead button", has_text="Label").click()
    assert names() == [ODD, AF, RARE, "macro", "micro"]


def test_subgroups_have_a_table(page: Page, measured: pd.DataFrame) -> None:
    table = page.locator('table.subgroups[data-column="device"]')
    assert table.locator("thead th").all_inner_texts() == ["Label", "d<0>\n30 recordings", "d<1>\n30 recordings"]
    assert table.locator("tbody tr").nth(1).locator("td").nth(1).inner_text() == auroc(measured, ODD, "d<1>")


def test_the_curves_are_those_of_the_chosen_label(page: Page, folder: Path) -> None:
    assert page.locator("#curves-of option").all_inner_texts() == [AF, ODD]
    curves = pq.read_table(folder / "evaluation/curves.parquet").to_pandas()
    for label in (ODD, AF):
        page.select_option("#curves-of", label=label)
        own = curves[curves.label == label]
        drawn = page.evaluate(
            "() => { const { x, y } = document.querySelector('[data-curve=roc]').data[1]; return [[...x], [...y]]; }"
        )
        roc = own[own.curve == "roc"]
        np.testing.assert_allclose(drawn, [roc.x, roc.y], atol=1e-6)
        for curve in ("roc", "pr", "calibration"):
            figure = page.locator(f"[data-curve={curve}]")
            assert label in (figure.get_attribute("aria-label") or "")
            assert figure.locator("svg .scatterlayer .trace").count() >= 2
        bins = own[own.curve == "calibration"]
        assert page.locator("[data-curve=calibration] .scatterlayer .trace").last.locator(".point").count() == len(bins)


def test_the_label_is_chosen_by_the_keyboard(page: Page) -> None:
    page.select_option("#curves-of", label=AF)
    page.locator("#curves-of").focus()
    page.keyboard.press("ArrowDown")
    assert f"ROC curve of {ODD}" in (page.locator("[data-curve=roc]").get_attribute("aria-label") or "")


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_stands_in_the_way_of_a_reader(scheme: str, opened: Open, report: Path) -> None:
    with opened(report, color_scheme=scheme) as page:
        assert violations(page) == []
        card = page.evaluate("getComputedStyle(document.querySelector('#truth')).backgroundColor")
        assert page.evaluate("document.querySelector('[data-curve=roc]')._fullLayout.paper_bgcolor") is not None
        ink = page.locator("[data-curve=roc] .xtitle").evaluate("text => getComputedStyle(text).fill")
        assert ink != card


def test_a_narrow_screen_scrolls_the_table_and_not_the_page(opened: Open, report: Path) -> None:
    with opened(report, viewport={"width": 390, "height": 800}) as page:
        assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_without_true_labels_there_is_no_such_section(opened: Open, tmp_path: Path) -> None:
    small_run.write(tmp_path, IDS[:6])
    with opened(small_run.report(tmp_path)) as page:
        assert page.locator("#truth").count() == 0
        assert page.locator('nav a[href="#truth"]').count() == 0
