"""The report of a whole run, and Snakemake's own, which carries the figures with their captions."""

import json
import re
import shutil
from collections.abc import Iterable
from pathlib import Path

import checkpoints
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from report_page import Page
from run_workflow import Ran, snakemake, table, write_recordings

from ecgpipe.cli import main
from ecgpipe.core import parquet, provenance
from ecgpipe.report import rule_times

pytestmark = pytest.mark.slow  # a minute

FIGURES = ("account", "labels", "probabilities", "together", "map", "recording")


def run(folder: Path, *options: str, **settings: object) -> Ran:
    given = {"input": "input", "checkpoint": "x.pt", "labels": "labels.csv", "outdir": "out"}
    given |= {
        "manifest": "{shard_size: 3}",
        "inference": "{shards_per_part: 1}",
        "attribution": "{recordings: 2, steps: 4}",
        "evaluation": "{truth: truth.csv, resamples: 10}",
        "umap": "{fit_segments: 5}",  # of 12, so that each part is placed by a job of its own
    }
    ran = snakemake(folder, *options, **(given | settings))
    assert ran.status == 0, ran.output
    return ran


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    write_recordings(folder / "input", 6)
    (folder / "labels.csv").write_text("name,aggregation,threshold\nFirst,max,0.5\nSecond,mean,\nThird,mean,\n")
    (folder / "truth.csv").write_text("record_id,Second\n" + "".join(f"recording{i:03d},{i % 2}\n" for i in range(6)))
    (folder / "x.pt").write_bytes(checkpoints.saved(checkpoints.classifier(stride=4)))
    run(folder)
    return folder


def test_the_page_holds_the_runs_own_recordings_and_numbers(finished: Path) -> None:
    page = Page(finished / "out/report.html")
    rows, views = page.get("rows"), page.get("views")
    predictions = table(finished / "out/predictions").set_index("record_id")
    assert rows["names"] == list(predictions.index)
    for label, steps in zip(rows["labels"], rows["probabilities"], strict=True):
        np.testing.assert_allclose(steps / 10_000, predictions[label], atol=0.51e-4)
    assert {view["name"] for view in views} == set(predictions.index)
    attributed = {(view["name"], given["label"]) for view in views for given in view["view"]["attributions"]}
    strongest = {(predictions[label].idxmax(), label) for label in rows["labels"]}
    assert len(attributed) == 2
    assert attributed < strongest
    links = set(re.findall(r'<a href="([^#"]+)">', page.source))
    assert {"records", "attribution", "evaluation", "figures", "examples.parquet", "run.json"} <= links


def test_attribution_and_neighbours_are_those_of_the_runs_files(finished: Path) -> None:
    attribution = pq.read_table(finished / "out/attribution/attribution.parquet")
    logits = table(finished / "out/logits").set_index(["record_id", "segment"])
    for row in attribution.to_pylist():
        assert row["logit"] == pytest.approx(logits.loc[(row["record_id"], row["segment"]), row["label"]], abs=1e-4)
    examples = pq.read_table(finished / "out/examples.parquet").to_pylist()
    embeddings = (
        table(finished / "out/embeddings").groupby("record_id")["embedding"].apply(lambda e: np.mean(list(e), axis=0))
    )
    unit = {name: vector / np.linalg.norm(vector) for name, vector in embeddings.items()}
    for row in examples:
        own = row["record_id"]
        cosines = [unit[own] @ unit[neighbor["record_id"]] for neighbor in row["neighbors"]]
        assert {neighbor["record_id"] for neighbor in row["neighbors"]} == unit.keys() - {own}
        np.testing.assert_allclose([neighbor["similarity"] for neighbor in row["neighbors"]], cosines, atol=1e-6)
        assert (np.diff(cosines) < 1e-6).all()  # the nearest first


def test_the_times_of_all_rules_before_it_are_in_the_page(finished: Path) -> None:
    rules = re.findall(
        r'<tr><th scope="row">(\w+)</th><td class="number">(\d+)</td>', (finished / "out/report.html").read_text()
    )
    counted = dict(rules)
    assert counted.keys() >= set(rule_times.SOURCES) - {"report", "figures"}
    assert (counted["preprocess"], counted["infer"], counted["umap"]) == ("2", "2", "1")


def test_the_map_that_was_placed_part_by_part_is_that_of_one_job_over_any_parts(finished: Path, tmp_path: Path) -> None:
    rows = pq.read_table(finished / "out/embeddings/part-00000.parquet").schema
    together = pa.concat_tables(pq.read_table(path) for path in sorted((finished / "out/embeddings").iterdir()))
    placed = pq.read_table(finished / "out/umap/umap.parquet")
    assert (len(placed), provenance.read_origin(placed.schema)["umap"]["placed"]) == (12, 7)
    for cuts in ([12], [1, 4, 7]):
        embeddings = tmp_path / str(len(cuts))
        for part, (start, count) in enumerate(zip(np.cumsum([0, *cuts]), cuts, strict=False)):
            piece = together.slice(start, count).cast(rows)
            parquet.write(embeddings / f"part-{part:05d}.parquet", piece)
        output = tmp_path / f"{len(cuts)}.parquet"
        given = ["--embeddings", str(embeddings), "--output", str(output), "--fit-segments", "5"]
        assert main(["umap", *given]) == 0
        assert pq.read_table(output).equals(placed)
    one_job = tmp_path / "one-job.parquet"
    settings = ["--settings", str(finished / "out/settings/umap.json")]
    assert main(["umap", *settings, "--embeddings", str(finished / "out/embeddings"), "--output", str(one_job)]) == 0
    assert one_job.read_bytes() == (finished / "out/umap/umap.parquet").read_bytes()
    assert not list(finished.glob("out/places/*"))
    assert not run(finished, "--dry-run").jobs.keys() & {"umap_fit", "umap_place", "umap"}


def ancestors(edges: Iterable[tuple[str, str]]) -> dict[str, set[str]]:
    """For each rule all that it depends on."""
    sources: dict[str, set[str]] = {}
    for source, rule in edges:
        sources.setdefault(rule, set()).add(source)

    def of(rule: str) -> set[str]:
        return set().union(*({source} | of(source) for source in sources.get(rule, set())))

    return {rule: of(rule) for rule in rule_times.SOURCES}


def test_the_figure_of_the_workflow_is_snakemakes_own_graph(finished: Path) -> None:
    graph = run(finished, "--rulegraph").output
    names = dict(re.findall(r'(\d+)\[label = "(\w+)"', graph))
    found = {(names[a], names[b]) for a, b in re.findall(r"(\d+) -> (\d+)", graph)}
    assert set(names.values()) - {"all", "verdict"} == set(rule_times.SOURCES)
    # The shards, and the name of the precision, lie beside the outputs that Snakemake knows.
    found |= {("manifest", "preprocess"), ("manifest", "sample"), ("precision", "infer")}
    drawn = {(source, rule) for rule, sources in rule_times.SOURCES.items() for source in sources}
    assert ancestors(found) == ancestors(drawn)


def test_snakemakes_report_carries_the_figures_with_their_captions(finished: Path) -> None:
    run(finished, "--report", "snakemake.html")
    page = (finished / "snakemake.html").read_text(encoding="utf-8")
    for name in FIGURES:
        assert f"{name}.png" in page
    assert "Of the recordings that are positive for the label of the row" in page


def test_any_recording_can_be_shown_from_the_results_alone(finished: Path, tmp_path: Path) -> None:
    given = [
        "--outdir",
        str(finished / "out"),
        "--output",
        str(tmp_path / "x.html"),
        "--label",
        "Second",
        "--device",
        "cpu",
    ]
    assert main(["show", *given, "recording004"]) == 0
    shown = Page(tmp_path / "x.html").get("shown")
    predictions = table(finished / "out/predictions").set_index("record_id").loc["recording004"]
    assert {one["name"]: one["probability"] for one in shown["probabilities"]} == pytest.approx(
        {name: predictions[name] for name in ("First", "Second", "Third")}
    )
    assert [given["label"] for given in shown["view"]["attributions"]] == ["Second"]


def test_attribution_can_be_switched_off(finished: Path) -> None:
    jobs = run(finished, "--dry-run", attribution="{recordings: 0}").jobs
    assert not jobs.keys() & {"attribute", "infer", "examples"}
    assert {"figures", "report"} <= jobs.keys()


def test_run_json_and_files_say_how_the_attribution_was_made(finished: Path) -> None:
    for name in ("attribution", "leads"):
        origin = provenance.read_origin(pq.read_schema(finished / f"out/attribution/{name}.parquet"))
        assert origin["method"]["steps"] == 4
        assert origin["checkpoint_sha256"]
    settings = json.loads((finished / "out/run.json").read_text())["config"]["attribution"]
    assert settings == {"recordings": 2, "steps": 4, "tolerance": 0.05}


# Beside fairseq-signals, which is not part of a run


def verified(folder: Path, *options: str, **inference: str) -> Ran:
    """Hold the run against fairseq-signals, by its rule."""
    given = {"shards_per_part": "1", **inference}
    return snakemake(
        folder, "verify_against_fairseq_signals", *options,
        input="input", checkpoint="x.pt", labels="labels.csv", outdir="out", manifest="{shard_size: 3}",
        attribution="{recordings: 2, steps: 4}",
        inference="{" + ", ".join(f"{key}: {value}" for key, value in given.items()) + "}",
    )  # fmt: skip


def test_without_an_environment_the_rule_says_how_to_make_one(finished: Path) -> None:
    ran = verified(finished)
    assert ran.status == 1
    assert {"verify_sample", "verify_forward"} <= ran.jobs.keys()
    assert "infer" not in ran.jobs
    line = next(line for line in reversed(ran.output.splitlines()) if line.startswith("[fairseq-signals] error: "))
    assert "fairseq_signals cannot be imported by" in line
    assert "make the environment of workflow/envs/fairseq-signals.yaml: snakemake --software-deployment-me" in line
    assert not (finished / "out/verify/fairseq_signals.json").exists()


def test_where_conda_is_to_make_the_environment_and_is_not_there_the_run_ends_at_once(finished: Path) -> None:
    if shutil.which("conda"):
        pytest.skip("conda is there, and would make the environment")
    ran = verified(finished, "--software-deployment-method", "conda")
    assert ran.status == 1
    assert "Is conda installed and accessible?" in ran.output
    assert not ran.jobs


def test_the_rule_holds_the_run_against_the_real_fairseq_signals(finished: Path, fairseq_python: Path) -> None:
    ran = verified(finished, fairseq_python=str(fairseq_python))
    assert ran.status == 0, ran.output
    assert ran.output.count(" ok\n") == 8
    found = json.loads((finished / "out/verify/fairseq_signals.json").read_text())
    assert found["ok"] is True
    assert len(found["segments"]) == len(table(finished / "out/logits"))
    assert {path.name for path in (finished / "out/verify").iterdir()} == {"fairseq_signals.json"}
    assert not snakemake(
        finished, "--dry-run", input="input", checkpoint="x.pt", labels="labels.csv", outdir="out",
        manifest="{shard_size: 3}", inference="{shards_per_part: 1}", attribution="{recordings: 2, steps: 4}",
    ).jobs.keys() & {"summary", "infer", "checkpoint"}  # fmt: skip
