"""From a run to thresholds and a calibration, and to a run that uses both, as docs/calibration.md has it."""

import json
import re
from pathlib import Path

import checkpoints
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from report_page import Page
from run_workflow import Ran, snakemake, table, write_recordings

from ecgpipe.cli import main
from ecgpipe.core import provenance

pytestmark = pytest.mark.slow  # two minutes

NAMES = ["First", "Second", "Third"]
LABELS = "name,aggregation,pos_weight\nFirst,max,4\nSecond,mean,\nThird,mean,0.5\n"


def run(folder: Path, outdir: str, *targets: str, **settings: object) -> Ran:
    """Sixteen recordings in four shards and two parts; as far as `targets` below `outdir`, which never need figures."""
    given = {"input": "input", "checkpoint": "x.pt", "labels": "labels.csv", "outdir": outdir, "umap": "{neighbors: 3}"}
    given |= {"manifest": "{shard_size: 4}", "inference": "{shards_per_part: 2, device: cpu}"}
    given |= {"attribution": "{recordings: 0}"}
    return snakemake(folder, *(f"{outdir}/{target}" for target in targets), **(given | settings))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run, with a table of true labels. A fold has four recordings, two of a label."""
    folder = tmp_path_factory.mktemp("run")
    write_recordings(folder / "input", 16)
    (folder / "labels.csv").write_text(LABELS)
    (folder / "x.pt").write_bytes(checkpoints.saved(checkpoints.classifier(stride=4)))
    ran = run(folder, "plain", "run.json")
    assert ran.status == 0, ran.output
    ids = [f"recording{i:03d}" for i in range(16)]
    truth = pd.DataFrame({"record_id": ids, "fold": np.arange(16) % 4, "second": [0, 0, 1, 1] * 4})
    truth["second"] = truth["second"].to_numpy()[np.argsort(truth["fold"].to_numpy(), kind="stable").argsort()]
    truth["First"] = 1 - truth["second"]
    truth[::-1].to_csv(folder / "truth.csv", index=False)
    return folder


def fit(folder: Path, stage: str, outdir: str, fold: int, *options: str) -> None:
    truth = ["--truth", str(folder / "truth.csv"), "--map", "second=Second", "--split", "fold", "--on", str(fold)]
    assert main([stage, str(folder / outdir), *truth, *options]) == 0


def test_a_run_with_a_calibration_and_thresholds(finished: Path) -> None:
    plain = table(finished / "plain/predictions").set_index("record_id")
    content = json.loads((finished / "plain/run.json").read_text())
    content["config"]["labels"] = str(finished / "labels.csv")  # by its whole path: the tests run elsewhere
    (finished / "plain/run.json").write_text(json.dumps(content))
    fit(finished, "calibrate", "plain", 0, "--method", "platt", "--output", str(finished / "calibration.json"))
    fit(finished, "thresholds", "plain", 1, "--method", "youden", "--output", str(finished / "plain.csv"))

    # Thresholds of other predictions end it before any job.
    ran = run(finished, "calibrated", calibration="calibration.json", labels="plain.csv")
    assert ran.status != 0
    assert "was chosen on predictions with another calibration (none, here " in ran.output
    assert not ran.jobs

    ran = run(finished, "calibrated", "run.json", calibration="calibration.json")
    assert ran.status == 0, ran.output
    assert "calibrated by Platt scaling, fitted on 4 recordings (fold = 0). Left as they were: Third." in ran.output
    calibrated = table(finished / "calibrated/predictions").set_index("record_id")
    assert list(calibrated.index) == list(plain.index)
    parameters = json.loads((finished / "calibration.json").read_text())["labels"]
    assert parameters.keys() == {"First", "Second"}
    for name in NAMES:
        expected = plain[name].to_numpy()
        if name in parameters:
            odds = (expected / (1 - expected)) ** parameters[name]["slope"] * np.exp(parameters[name]["intercept"])
            expected = odds / (1 + odds)
        np.testing.assert_allclose(calibrated.loc[plain.index, name].to_numpy(), expected, rtol=1e-9)
    facts = json.loads((finished / "calibrated/run.json").read_text())["calibration"]
    for path in finished.glob("calibrated/predictions/*.parquet"):
        assert provenance.read_origin(pq.read_schema(path))["calibration"] == facts

    # The next run infers nothing, and counts by the thresholds that were chosen.
    fit(
        finished, "thresholds", "calibrated", 1, "--labels", str(finished / "labels.csv"), "--method", "sensitivity=1",
        "--output", str(finished / "chosen.csv"),
    )  # fmt: skip
    given = {"calibration": "calibration.json", "labels": "chosen.csv"}
    scored = "{truth: truth.csv, mapping: {second: Second}, split: fold, split_value: %d, resamples: 10}"
    ran = run(finished, "calibrated", **given, evaluation=scored % 1)
    assert ran.status != 0  # nor does it score the recordings that the thresholds were chosen on
    assert "the thresholds of chosen.csv were fitted on fold = 1, and 4 of the 4 recordings to score" in ran.output
    ran = run(finished, "calibrated", "report.html", **given, evaluation=scored % 2)
    assert ran.status == 0, ran.output
    measured = pd.read_parquet(finished / "calibrated/evaluation/metrics.parquet")
    brier = measured[measured["metric"] == "brier"].set_index("label")["value"]
    assert not ran.jobs.keys() & {"checkpoint", "preprocess", "infer"}
    page = Page(finished / "calibrated/report.html")
    assert "2 thresholds chosen by sensitivity=1 on 4 recordings (fold = 1)." in page.words
    assert "calibrated by Platt scaling, fitted on 4 recordings (fold = 0)." in page.words
    thresholds = pd.read_csv(finished / "chosen.csv").set_index("name")["threshold"]
    truth = pd.read_csv(finished / "truth.csv").set_index("record_id")
    for name, column in (("First", "First"), ("Second", "second")):
        positive = calibrated[name] >= thresholds[name]
        second = truth[truth["fold"] == 2]
        assert brier[name] == pytest.approx(((calibrated.loc[second.index, name] - second[column]) ** 2).mean())
        assert positive[truth.index[(truth["fold"] == 1) & (truth[column] == 1)]].all()
        row = re.search(rf'<tr data-label="{name}".*?</tr>', page.source, re.DOTALL)
        assert row
        assert f'<strong class="positive">{positive.sum()}</strong>' in row[0]

    # Without the calibration these thresholds are none.
    ran = run(finished, "calibrated", labels="chosen.csv")
    assert ran.status != 0
    assert "here none); choose thresholds for these predictions" in ran.output


def test_the_weight_of_positives_is_taken_off_without_any_label(finished: Path) -> None:
    settings = ["--labels", str(finished / "labels.csv"), "--output", str(finished / "weight.json")]
    assert main(["calibrate", str(finished / "plain"), "--method", "pos-weight", *settings]) == 0
    ran = run(finished, "corrected", "report.html", calibration="weight.json")
    assert ran.status == 0, ran.output
    logits = table(finished / "plain/logits").set_index("record_id")[NAMES].astype(float)
    corrected = logits - np.log(pd.Series({"First": 4.0, "Second": 1.0, "Third": 0.5}))
    probability = pd.DataFrame(1 / (1 + np.exp(-corrected)))
    expected = probability.groupby(level=0).agg({"First": "max", "Second": "mean", "Third": "mean"})
    made = table(finished / "corrected/predictions").set_index("record_id")[NAMES]
    pd.testing.assert_frame_equal(made, expected.loc[made.index], rtol=1e-9)
    assert "an assumption" in Page(finished / "corrected/report.html").words
