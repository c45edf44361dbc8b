"""The report: attention where it belongs, numbers that are those of the tables, and no text that becomes markup."""

import base64
import html
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import small_run
from markupsafe import escape
from small_run import HOSTILE, LABELS, TOKENS

from ecgpipe import figures, tables
from ecgpipe.prepare import Windows, choose_leads, cut_up
from ecgpipe.readers import LEADS, Recording
from ecgpipe.report import Summary, choose, script_json, summarise

STEP, SPAN = 16, 16  # of ECG-FM
IDS = tuple(f"a/{i}" for i in range(10))


class Page(HTMLParser):
    """What a browser makes of the page: its text, the JSON of its figures, and its rows of tables."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.source = path.read_text(encoding="utf-8")
        self.text, self.scripts = "", 0
        self.figures: list[dict[str, Any]] = []
        self.within: list[str] = []
        self.feed(self.source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.text += " "
        if tag == "script":
            self.scripts += 1
            self.within.append("figure" if ("type", "application/json") in attrs else "script")
        elif tag == "style":
            self.within.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag in ("script", "style"):
            self.within.pop()

    def handle_data(self, data: str) -> None:
        if not self.within:
            self.text += data
        elif self.within[-1] == "figure":
            self.figures.append(json.loads(data))


def decoded(content: dict[str, str]) -> np.ndarray:
    values = np.frombuffer(base64.b64decode(content["bdata"]), "<f4")
    return values.reshape([int(n) for n in content["shape"].split(",")]) if "shape" in content else values


def words(text: str) -> str:
    return " ".join(text.split())


def predictions(folder: Path) -> pa.Table:
    return pa.concat_tables([pq.read_table(path) for path in sorted((folder / "predictions").glob("*.parquet"))])


def recording(samples: int = 5000, rate: float = 500.0) -> Recording:
    signal = np.sin(np.arange(12)[:, None] + np.arange(samples) / rate * 7)
    return Recording(signal, rate, LEADS, "mV")


WINDOWS = Windows()


def spread(attention: np.ndarray, most: int) -> np.ndarray:
    """The attention over the samples of segments of 2,500 samples that follow one another."""
    starts = 2500 * np.arange(len(attention))
    return figures.attention_per_sample(attention, starts, 2500, STEP, SPAN, most)


def draw(shown: Recording, attention: np.ndarray | None = None, windows: Windows = WINDOWS) -> figures.Traces:
    """The figure of a recording that was cut as the settings say."""
    cut = cut_up(int(shown.signal.shape[1] * 500 / shown.sample_rate), windows)
    twelve = choose_leads(shown, windows)
    samples = windows.segment_samples
    return figures.traces(twelve, shown.sample_rate, shown.unit, cut, samples, attention, (STEP, SPAN))


def test_token_t_lies_at_sample_16t_plus_7_5() -> None:
    ramp = np.arange(float(TOKENS))[None]  # token t has the value t
    values = spread(ramp, 2500)
    samples = np.arange(8, 2488)  # from the first token's middle, 7.5, to the last one's, 2487.5
    np.testing.assert_allclose(values[samples], (samples - 7.5) / 16 / (TOKENS - 1), rtol=1e-12)
    assert (values[:8] == 0).all()
    assert (values[2488:] == 1).all()


def test_a_segment_starts_anew_at_2500() -> None:
    spikes = np.zeros((3, TOKENS))
    spikes[1, 10] = 1
    values = spread(spikes, 10_000)
    assert values.shape == (7500,)
    peak = 2500 + 16 * 10 + 7.5
    np.testing.assert_allclose(values[[int(peak - 0.5), int(peak + 0.5)]], 1 - 0.5 / 16)
    assert set(np.flatnonzero(values)) == set(range(int(peak) - 15, int(peak) + 17))


def test_attention_is_scaled_over_the_recording() -> None:
    attention = np.stack([np.linspace(2, 3, TOKENS), np.linspace(3, 6, TOKENS)])
    values = spread(attention, 5000)
    assert values[:2500].min() == 0
    assert values[:2500].max() == pytest.approx(0.25)
    assert values[2500:].min() == pytest.approx(0.25)
    assert values[2500:].max() == 1
    # What lies beyond the drawn part counts too.
    np.testing.assert_array_equal(spread(attention, 100), values[:100])
    assert (spread(np.full((1, TOKENS), 0.3), 2500) == 0).all()


def test_heatmap_lies_on_the_time_axis_and_ends_with_the_last_segment() -> None:
    attention = np.random.default_rng(1).random((1, TOKENS))
    drawn = draw(recording(3500), attention)
    heatmap, *leads = drawn.figure["data"]
    assert [trace["name"] for trace in leads] == list(LEADS)
    assert drawn.drawn_s == 7
    z = decoded(heatmap["z"])[0]
    times = heatmap["x0"] + heatmap["dx"] * np.arange(len(z))
    assert 5 - heatmap["dx"] <= times[-1] < 5
    expected = spread(attention, 2500)
    np.testing.assert_allclose(z, expected[np.round(times * 500).astype(int)], rtol=1e-6)
    rect = drawn.figure["layout"]["shapes"][-1]
    assert (rect["type"], rect["x0"], rect["x1"]) == ("rect", 5, 7)


def test_an_overlapping_last_segment_goes_over_the_one_before() -> None:
    attention = np.stack([np.full(TOKENS, 0.0), np.full(TOKENS, 1.0), np.full(TOKENS, 0.5)])
    drawn = draw(recording(6000), attention, Windows(tail="overlap"))
    z = decoded(drawn.figure["data"][0]["z"])[0]
    times = np.arange(len(z)) * figures.ATTENTION_STRIDE
    np.testing.assert_array_equal(z, np.select([times < 2500, times < 3500], [0.0, 1.0], 0.5))
    assert [shape["x0"] for shape in drawn.figure["layout"]["shapes"]] == [5, 7]
    assert times[-1] == 5996


def test_padding_is_neither_drawn_nor_part_of_the_scale() -> None:
    attention = np.concatenate([np.linspace(0.2, 0.4, 93), np.zeros(TOKENS - 93)])[None]
    drawn = draw(recording(1500), attention, Windows(short="pad"))
    z = decoded(drawn.figure["data"][0]["z"])[0]
    assert len(z) * figures.ATTENTION_STRIDE == 1500
    assert (z.min(), z.max()) == (0, 1)
    assert not drawn.figure["layout"]["shapes"]


def test_leads_are_found_by_name() -> None:
    plain = recording()
    order = np.random.default_rng(2).permutation(12)
    mixed = Recording(plain.signal[order], 500.0, tuple(f" {LEADS[i].upper()}" for i in order), "mV")
    traces = draw(mixed).figure["data"]
    assert [trace["name"] for trace in traces] == list(LEADS)
    for trace, row in zip(traces, plain.signal, strict=True):
        np.testing.assert_allclose(decoded(trace["y"]), row, rtol=1e-6)
        assert trace["dx"] == 1 / 500


def test_rows_do_not_overlap_and_lie_on_the_grid() -> None:
    drawn = draw(recording())
    assert drawn.box_mv == 0.5
    low = np.inf
    for trace in drawn.figure["data"]:
        values = decoded(trace["y"]) + trace["meta"]["shift"]
        assert values.max() < low
        low = values.min()
    lines = drawn.figure["layout"]["yaxis"]["tickvals"]
    np.testing.assert_allclose(np.array(lines) / 0.5 % 1, 0)
    assert draw(recording()._replace(unit=None)).box_mv is None


@pytest.mark.parametrize("value", [0.0, 5.0])
def test_a_recording_of_constant_leads_is_drawn(value: float) -> None:
    flat = Recording(np.full((12, 5000), value), 500.0, LEADS, "mV")
    figure = draw(flat).figure
    assert len(set(figure["layout"]["yaxis"]["tickvals"])) == 12


def test_one_lead_among_missing_ones_has_room_for_its_peaks() -> None:
    single = Recording(10 * np.sin(np.arange(5000) / 50)[None], 500.0, ("I",), "mV")
    drawn = draw(single, windows=Windows(missing_leads="zero", min_leads=1))
    lead = decoded(drawn.figure["data"][0]["y"]) + drawn.figure["data"][0]["meta"]["shift"]
    bottom, top = drawn.figure["layout"]["yaxis"]["range"]
    assert bottom < lead.min() < lead.max() < top


def test_a_long_recording_is_drawn_in_part_and_thinned_without_losing_peaks() -> None:
    long = recording(1000 * 60, 1000.0)
    long.signal[3, 12_345] = 40.0
    drawn = draw(long)
    assert drawn.drawn_s == figures.DRAWN_S
    for trace in drawn.figure["data"]:
        times = decoded(trace["x"])
        assert len(times) <= figures.MOST_POINTS
        assert (np.diff(times) > 0).all()
        assert times[-1] < figures.DRAWN_S
    spiked = drawn.figure["data"][3]
    assert decoded(spiked["x"])[decoded(spiked["y"]).argmax()] == pytest.approx(12.345)


@pytest.mark.parametrize("n", [1, 4999, 5000, 5001, 15_000, 15_007])
def test_thinning_keeps_the_extremes(n: int) -> None:
    values = np.random.default_rng(n).standard_normal(n)
    positions = figures.thinned(values, 5000)
    assert len(positions) <= 5000
    assert (np.diff(positions) > 0).all()
    assert positions[0] >= 0
    assert positions[-1] < n
    assert {values.argmin(), values.argmax()} <= set(positions)


def test_numbers_are_those_of_the_tables(tmp_path: Path) -> None:
    small_run.write(tmp_path, IDS, unusable=3)
    page = Page(small_run.report(tmp_path))
    table = predictions(tmp_path)
    for label, threshold in zip(LABELS, (0.5, 0.7, 0.5), strict=True):
        row = re.search(rf'<tr data-label="{label}">.*?</tr>', page.source, re.DOTALL)
        assert row
        values = table[label].to_numpy()
        assert f'<strong class="positive">{(values >= threshold).sum()}</strong>' in row[0]
        assert f"{values.mean():.2f}</td>" in row[0]
        assert f"threshold {threshold}" in row[0]
    text = words(page.text)
    assert "recordings in 13 used 10 skipped 3 failed 0 segments 20" in text
    assert "not calibrated" in text
    assert "skipped too short 3" in text
    assert text.count("short/") == 3
    assert "22 November 2026, 12:38 UTC" in text
    assert "0123456789ab " in text
    assert "RANDOM WEIGHTS" not in text
    the_map = page.figures[0]
    # The map's default is the label that varies most, and each point has its recording's probability.
    spreads = [table[label].to_numpy().std() for label in LABELS]
    assert the_map["shown"] == int(np.argmax(spreads))
    for label, colour in zip(LABELS, the_map["colours"], strict=True):
        assert colour["name"] == label
        np.testing.assert_allclose(decoded(colour["values"]), np.repeat(table[label].to_numpy(), 2), rtol=1e-6)
    umap = pq.read_table(tmp_path / "umap/umap.parquet")
    np.testing.assert_array_equal(decoded(the_map["data"][0]["x"]), umap["x"].to_numpy())
    assert [row[:2] for row in the_map["data"][0]["customdata"][:3]] == [
        ["a/0", "0 (0 to 5 s)"],
        ["a/0", "1 (5 to 10 s)"],
        ["a/1", "0 (0 to 5 s)"],
    ]


def test_drawn_recordings_have_their_own_signal_attention_and_probabilities(tmp_path: Path) -> None:
    small_run.write(tmp_path, IDS)
    page = Page(small_run.report(tmp_path, "--recordings", "10"))
    table = predictions(tmp_path)
    attention = pa.concat_tables([pq.read_table(p) for p in sorted((tmp_path / "attention").glob("*.parquet"))])
    blocks = re.findall(r'<details class="recording".*?</details>', page.source, re.DOTALL)
    assert len(blocks) == len(page.figures) - 1 == 10
    for block, figure in zip(blocks, page.figures[1:], strict=True):
        number = int(re.findall(r"<strong>a/(\d+)</strong>", block)[0])
        heatmap, *leads = figure["data"]
        np.testing.assert_allclose(decoded(leads[5]["y"]), small_run.signal(number)[5], rtol=1e-6)
        rows = attention.filter(pa.compute.equal(attention["record_id"], f"a/{number}"))["attention"].to_pylist()
        expected = spread(np.array(rows), 5000)[:: figures.ATTENTION_STRIDE]
        np.testing.assert_allclose(decoded(heatmap["z"])[0], expected, atol=1e-6)
        row = table.slice(number, 1).to_pylist()[0]
        for label in LABELS:
            assert re.search(rf"<span>{label}</span><span>{row[label]:.2f}</span>", block)


def test_quartiles_and_positives_by_threshold(tmp_path: Path) -> None:
    values = np.concatenate([np.random.default_rng(3).beta(0.5, 2, 997), [0.0, 0.5, 1.0]])
    for part, some in enumerate(np.split(values, 2)):
        columns = [[f"{part}/{i}" for i in range(500)], [1] * 500, some]
        tables.write(tmp_path / f"part-{part}.parquet", pa.table(columns, schema=tables.predictions_schema(["A"])))
    files = [tmp_path / "part-0.parquet", tmp_path / "part-1.parquet"]
    (summary,) = summarise(files, {"A": None})
    assert summary.name == "A"
    assert summary.threshold == 0.5
    assert summary.positive == (values >= 0.5).sum()
    assert summary.mean == pytest.approx(values.mean())
    assert summary.spread == pytest.approx(values.std())
    exact = np.quantile(values, [0.25, 0.5, 0.75], method="inverted_cdf")
    np.testing.assert_allclose(summary.quartiles, exact, atol=0.0005 + 1e-9)
    assert sum(summary.histogram) == 1000
    assert summary.highest == 999
    for threshold, positive in ((0.0, 1000), (1.0, 1)):
        assert summarise(files, {"A": threshold})[0].positive == positive


def summary(name: str, spread: float, highest: int) -> Summary:
    return Summary(name, 0.5, 0, 0.5, spread, (0.4, 0.5, 0.6), [1], highest)


def test_choice_of_recordings() -> None:
    summaries = [summary("A", 0.1, 7), summary("B", 0.3, 50), summary("C", 0.2, 50), summary("D", 0.05, 99)]
    chosen = choose(100, summaries, 6)
    reasons = {50: "highest probability of B", 7: "highest probability of A", 99: "highest probability of D"}
    assert chosen == {**reasons, 16: "evenly spaced", 51: "evenly spaced", 83: "evenly spaced"}
    assert list(chosen)[:3] == [50, 7, 99]
    assert choose(100, [], 4) == dict.fromkeys([12, 37, 62, 87], "evenly spaced")
    assert sorted(choose(5, [summary("A", 0.1, 4)], 8)) == [0, 1, 2, 3, 4]
    assert choose(5, summaries, 0) == {}


def test_text_from_the_data_stays_text(tmp_path: Path) -> None:
    name = "A'><img src=x onerror=alert(1)> %{x}</script><!--"
    ids = [HOSTILE, "</script><!-- & <b>bold</b>", "plain", "one\"more'"]
    small_run.write(tmp_path, ids, labels=[name], thresholds=["0.3"])
    page = Page(small_run.report(tmp_path, "--title", f"<i>{HOSTILE}</i>"))
    assert HOSTILE not in page.source
    assert "<img src=x" not in page.source
    assert page.scripts == 2 + 1 + len(ids)  # Plotly, ours, the map's and the recordings' figures
    assert f"<i>{HOSTILE}</i>" in page.text
    assert name in page.text
    for record_id in ids:
        assert record_id in page.text
    # Plotly reads tags in what it shows, so there the text is escaped once more.
    the_map = page.figures[0]
    shown = [row[0] for row in the_map["data"][0]["customdata"]]
    assert not any("<" in text for text in shown)
    assert [html.unescape(text) for text in shown[::2]] == ids
    assert html.unescape(the_map["colours"][0]["name"]) == name
    assert "<" not in the_map["colours"][0]["name"]


def test_json_in_a_script_cannot_end_it() -> None:
    hostile = {"a": "</script><!--<script>&amp;\u2028"}
    assert not set("<>&\u2028") & set(script_json(hostile))
    assert json.loads(script_json(hostile)) == hostile


def test_a_model_without_a_head(tmp_path: Path) -> None:
    small_run.write(tmp_path, IDS, labels=[])
    page = Page(small_run.report(tmp_path, "--recordings", "2"))
    text = words(page.text)
    assert "a pretrained model without a head" in text
    assert "Highest probabilities" not in text
    assert "not calibrated" not in text
    assert "evenly" in text
    (colour,) = page.figures[0]["colours"]
    assert colour["name"] == "recording"
    np.testing.assert_array_equal(decoded(colour["values"]), np.repeat(np.arange(1, 11), 2))
    assert len(page.figures) == 3


def test_attention_switched_off(tmp_path: Path) -> None:
    small_run.write(tmp_path, IDS)
    page = Page(small_run.report(tmp_path, attention=False))
    assert "This run kept no attention" in page.text
    assert "attribution" not in page.text
    for figure in page.figures[1:]:
        assert [trace["name"] for trace in figure["data"]] == list(LEADS)
        assert [shape["x0"] for shape in figure["layout"]["shapes"]] == [5]  # the segments are marked all the same


DRIFT: dict[str, Any] = {
    "asked": "auto",
    "used": "float16",
    "device": "NVIDIA H100 80GB HBM3",
    "compared": "float16",
    "bound": 0.01,
    "segments": 1256,
    "probability": {name: {"largest": 0.0025, "mean": 3e-05} for name in LABELS},
    "embedding": {"largest": 2.5e-06, "mean": 1e-07},
    "largest": 0.0025,
}


def with_precision(folder: Path, used: object, drift: dict[str, Any] | None) -> str:
    """The source of the page where the run says so of its precision."""
    small_run.write(folder, IDS)
    path = folder / "run.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"precision": {"used": used, "drift": drift}}))
    return Page(small_run.report(folder, "--recordings", "0")).source.partition('id="making"')[2]


def test_what_a_precision_changed_is_shown_for_each_label(tmp_path: Path) -> None:
    source = with_precision(tmp_path, "float16", DRIFT)
    text = words(re.sub("<[^>]*>", " ", source))
    assert "precision float16 throughput" in text
    assert (
        "Inferred in float16. On NVIDIA H100 80GB HBM3, the first 1,256 segments were computed in float32 and in "
        "float16: the largest difference is 0.0025, within the bound of 0.01 ( inference.max_drift )."
    ) in text
    assert "Sinus rhythm 0.0025 3e-05 Tachycardia 0.0025 3e-05 Infarction 0.0025 3e-05" in text
    assert "Embedding, 1 \N{MINUS SIGN} cosine 2.5e-06 1e-07" in text
    assert 'class="number warn"' not in source


def test_what_is_beyond_the_bound_is_marked(tmp_path: Path) -> None:
    probability = DRIFT["probability"] | {LABELS[1]: {"largest": None, "mean": None}}
    drift = DRIFT | {"used": "float32", "probability": probability, "largest": None}
    source = with_precision(tmp_path, "float32", drift)
    assert '<strong class="warn">the largest difference is not finite</strong>, beyond the bound of 0.01' in source
    assert source.count('<td class="number warn">not finite</td>') == 2


def test_where_nothing_was_compared_it_says_so(tmp_path: Path) -> None:
    asked = {"asked": "auto", "used": "float32", "device": "CPU"}
    for number, drift in enumerate([None, asked, DRIFT | {"used": "float32", "segments": 0, "probability": {}}]):
        source = with_precision(tmp_path / str(number), "float32", drift)
        assert "<dd>float32, nothing to compare</dd>" in source
        assert "max_drift" not in source


def test_parts_of_different_precision_name_both(tmp_path: Path) -> None:
    assert "<dd>float16 and float32</dd>" in with_precision(tmp_path, ["float16", "float32"], DRIFT)


def test_a_file_that_is_gone_or_changed_gives_a_note(tmp_path: Path) -> None:
    small_run.write(tmp_path, IDS)
    (tmp_path / "recordings/3.npz").unlink()
    np.savez(tmp_path / "recordings/4.npz", signal=small_run.signal(9), sample_rate=500, leads=LEADS)
    (tmp_path / "recordings/5.npz").write_bytes(b"not an archive")
    page = Page(small_run.report(tmp_path, "--recordings", "10"))
    text = words(page.text)
    assert "could not be read again: a file is not there (3.npz)" in text
    assert "could not be read again: the file has changed since the run" in text
    assert "could not be read again: not a readable NumPy file" in text
    assert text.count("No traces.") == 3
    assert len(page.figures) == 1 + 7
    assert text.count("Highest probabilities") == 10


# Without paths: what may name a patient is nowhere in the page.

PATIENTS = ("Müller-Anna/b19610517", "o'neil <b>/mrn0017", "zz")


def with_patients(folder: Path) -> tuple[Path, list[str]]:
    """A run in a folder, with ids, file names and messages that name patients, and all the names to look for."""
    folder = folder / "clinic-of-dr-who"
    small_run.write(folder, PATIENTS, unusable=1)
    records = pq.read_table(folder / "records/shard-00000.parquet").to_pylist()
    # Between the used ones lies one that failed, so that numbers are those of all recordings.
    failed = {"status": "failed", "reason": "not a WFDB record (Kowalski.hea: bad line) at line 7 of Kowalski.hea"}
    failed |= {"record_id": "Kowalski/3", "path": f"{folder}/recordings/Kowalski.hea"}
    records.insert(1, dict.fromkeys(tables.RECORDS.names) | failed)
    half = pa.Table.from_pylist(records[:2], schema=tables.RECORDS)
    tables.write(folder / "records/shard-00000.parquet", half)
    rest = pa.Table.from_pylist(records[2:], schema=tables.RECORDS)
    tables.write(folder / "records/shard-00001.parquet", rest)
    manifest = pq.read_table(folder / "manifest/shard-00000.parquet")
    tables.write(folder / "manifest/shard-00000.parquet", manifest.slice(0, 1))
    tables.write(folder / "manifest/shard-00001.parquet", manifest.slice(1))
    (folder / "recordings/2.npz").rename(folder / "recordings/2.npz.gone")  # so that there is a note
    run = json.loads((folder / "run.json").read_text())
    run["reasons"] += [{"status": "failed", "reason": "not a WFDB record (Kowalski.hea) at line 7", "count": 1}]
    run["other_files"] = {"no known format, .nowak": 2, "no known format, .jpg": 1, "a link to nothing": 1}
    run["warnings"] = ["1 recording is gone (Nowak/9.hea)"]
    run["checkpoint"]["uri"] = f"{folder}/secret-weights.pt"
    run["config"] = {"input": [f"{folder}/recordings"], "outdir": f"{folder}/out", "labels": f"{folder}/mine.csv"} | {
        "checkpoint": f"{folder}/secret-weights.pt",
        "umap": {"min_dist": 0.125},
        "report": {"paths": False},
    }
    (folder / "run.json").write_text(json.dumps(run))
    names = [part for record_id in PATIENTS[:2] for part in (record_id, *record_id.split("/"))]
    names += [str(folder), "clinic", "Kowalski", "Nowak", "nowak", "secret-weights", "mine.csv", "short/", ".npz"]
    return folder, [*names, run["inputs"]["sha256"]]


def spellings(name: str) -> set[str]:
    """How a name can stand in a page: as text, as HTML, in JSON, and in JSON as Plotly reads it."""
    return {name, str(escape(name)), *(str(script_json(text))[1:-1] for text in (name, figures.plain(name)))}


def test_without_paths_no_name_of_a_recording_file_or_folder_is_in_the_page(tmp_path: Path) -> None:
    folder, names = with_patients(tmp_path)
    plain = small_run.report(folder, "--recordings", "3").read_text(encoding="utf-8")
    page = Page(small_run.report(folder, "--recordings", "3", "--no-paths"))
    for name in names:
        assert any(spelling in plain for spelling in spellings(name)), name  # it is looked for in the right way
        assert not [spelling for spelling in spellings(name) if spelling in page.source], name
    assert [row[0] for row in page.figures[0]["data"][0]["customdata"][::2]] == [
        "recording 1",
        "recording 3",
        "recording 4",
    ]
    text = words(page.text)
    assert "recording 2 failed not a WFDB record " in text
    assert "recording 5 skipped too short " in text
    assert "A recording is called by its row in records/, from 1" in text
    assert "The file could not be read again: a file is not there." in text
    assert "3 no known format, 1 a link to nothing" in text
    assert "1 recording is gone " in text
    assert "a local file" in text
    assert '"min_dist": 0.125' in text  # the other settings stay
    assert len(page.figures) == 1 + 2


def test_without_paths_each_recording_has_the_number_of_its_row(tmp_path: Path) -> None:
    folder, _ = with_patients(tmp_path)
    page = Page(small_run.report(folder, "--recordings", "3", "--no-paths"))
    table = predictions(folder)
    records = [row for path in sorted(folder.glob("records/*")) for row in pq.read_table(path)["record_id"].to_pylist()]
    blocks = re.findall(r'<details class="recording".*?</details>', page.source, re.DOTALL)
    assert len(blocks) == 3
    for block in blocks:
        number = int(re.findall(r"<strong>recording (\d+)</strong>", block)[0])
        row = table.filter(pa.compute.equal(table["record_id"], records[number - 1])).to_pylist()[0]
        for label in LABELS:
            assert re.search(rf"<span>{label}</span><span>{row[label]:.2f}</span>", block)


def test_without_paths_an_address_on_the_hub_stays(tmp_path: Path) -> None:
    small_run.write(tmp_path, IDS)
    text = Page(small_run.report(tmp_path, "--no-paths")).text
    assert text.count("hf://wanglab/ecg-fm/tiny.pt") == 2
    assert "a local file" not in text


# Where the numbers came from


def provenance(folder: Path, **facts: object) -> str:
    """The words of the page's last section where run.json says so."""
    small_run.write(folder, IDS)
    path = folder / "run.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | facts))
    return words(Page(small_run.report(folder, "--recordings", "0")).text.rpartition("How it was made")[2])


def test_the_code_and_the_inputs_that_made_the_numbers_are_named(tmp_path: Path) -> None:
    text = provenance(tmp_path)
    assert f"Code ecgpipe 0.1.0 commit c0ffee{'0' * 34} source sha256 {'fedcba9876543210' * 4}" in text
    assert f"10 recordings in 1 scan of the inputs. The list of them has the sha256 {'89abcdef01234567' * 4}." in text
    assert "All results were written by ecgpipe 0.1.0." in text
    assert "Added" not in text


def test_results_of_several_versions_are_told_apart_by_stage(tmp_path: Path) -> None:
    made_by = {"preprocess": {"0.1.0": 3}, "infer": {"0.1.0": 1, "0.2.0": 1200}}
    code = {"version": "0.2.0", "source_sha256": "ab" * 32, "commit": None}
    text = provenance(tmp_path, made_by=made_by, code=code)
    assert "commit none, not run from a repository" in text
    assert "2 versions of ecgpipe wrote these results." in text
    assert "Stage 0.1.0 0.2.0 preprocess 3 \N{EN DASH} infer 1 1,200" in text


def test_scans_that_found_something_new_are_listed_with_their_numbers(tmp_path: Path) -> None:
    scans = [{"recordings": 6, "added": 6, "changed": 0, "removed": 0}]
    scans += [{"recordings": 6, "added": 0, "changed": 0, "removed": 0}] * 30
    scans += [{"recordings": 7, "added": 3, "changed": 1, "removed": 2}]
    text = provenance(tmp_path / "some", inputs={"sha256": "ab" * 32, "scans": scans})
    assert "7 recordings in 32 scans of the inputs." in text
    assert "Scan Recordings Added Changed Removed 1 6 6 0 0 32 7 3 1 2" in text
    text = provenance(tmp_path / "many", inputs={"sha256": "ab" * 32, "scans": scans[-1:] * 50})
    assert "Removed 41 7 3 1 2 42 7" in text


def test_many_unusable_recordings_are_counted(tmp_path: Path) -> None:
    small_run.write(tmp_path, IDS, unusable=250)
    text = words(Page(small_run.report(tmp_path)).text)
    assert text.count("short/") == 200
    assert "And 50 more" in text
    assert "skipped too short 250" in text


def test_a_large_map_is_sampled_and_says_so(tmp_path: Path) -> None:
    small_run.write(tmp_path, IDS)
    first = Page(small_run.report(tmp_path, "--map-points", "7"))
    assert "A random sample of 7 of the 20 segments is drawn." in words(first.text)
    points = first.figures[0]["data"][0]["customdata"]
    assert len(points) == 7
    by_id = {row["record_id"]: row for row in predictions(tmp_path).to_pylist()}
    for colour in first.figures[0]["colours"]:
        expected = [by_id[record_id][colour["name"]] for record_id, *_ in points]
        np.testing.assert_allclose(decoded(colour["values"]), expected, rtol=1e-6)
    assert Page(small_run.report(tmp_path, "--map-points", "7")).figures == first.figures
    assert "random sample" not in Page(small_run.report(tmp_path)).text


def test_random_weights_are_said_first_and_beside_the_predictions(tmp_path: Path) -> None:
    small_run.write(tmp_path, IDS, random_weights=True)
    page = Page(small_run.report(tmp_path, "--recordings", "3"))
    body = re.sub(r"\s*<[^>]*>\s*", "", page.source.partition("<body>")[2])
    assert body.startswith("RANDOM WEIGHTS — the predictions in this report mean nothing")
    assert page.text.count("these predictions mean nothing") == 2 + 3  # labels, map, and each recording


def test_no_recordings_asked_for(tmp_path: Path) -> None:
    small_run.write(tmp_path, IDS)
    page = Page(small_run.report(tmp_path, "--recordings", "0"))
    assert "None were asked for" in page.text
    assert len(page.figures) == 1
