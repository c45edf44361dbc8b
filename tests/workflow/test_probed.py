"""From a pretrained network to labels of one's own: run, probe, and run again with the head."""

import csv
from pathlib import Path

import checkpoints
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from run_workflow import snakemake, table, write_recordings
from scipy.special import expit
from sklearn.metrics import roc_auc_score

from ecgpipe.cli import main
from ecgpipe.models import heads


@pytest.mark.slow
def test_a_head_that_was_probed_labels_a_run_of_a_pretrained_network(tmp_path: Path) -> None:
    write_recordings(tmp_path / "recordings", 30)
    (tmp_path / "pretrained.pt").write_bytes(checkpoints.saved(checkpoints.pretrained(stride=4)))
    settings: dict[str, object] = {"input": "recordings", "outdir": "out", "checkpoint": "pretrained.pt"}
    settings |= {
        "manifest": "{shard_size: 8}",
        "inference": "{shards_per_part: 2}",
        "attribution": "{recordings: 1, steps: 4}",
    }
    first = snakemake(tmp_path, "out/run.json", **settings)
    assert first.status == 0, first.output
    out = tmp_path / "out"
    assert table(out / "predictions").columns.tolist() == ["record_id", "n_segments"]

    segments = table(out / "embeddings")
    means: dict[str, np.ndarray] = {
        str(record_id): np.stack(list(group)).astype(np.float64).mean(axis=0)
        for record_id, group in segments.groupby("record_id")["embedding"]
    }
    middle = np.median([mean[0] for mean in means.values()])
    with (tmp_path / "truth.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["record_id", "high", "split"])
        names = ["train", "train", "train", "valid", "test"]
        writer.writerows([name, int(mean[0] > middle), names[i % 5]] for i, (name, mean) in enumerate(means.items()))
    given = [str(out), "--truth", str(tmp_path / "truth.csv"), "--split", "split"]
    status = main(
        ["probe", *given, "--map", "high=Of one's own", "--output", str(tmp_path / "probe"), "--resamples", "20"]
    )
    assert status == 0

    second = snakemake(tmp_path, **settings, heads="[probe/head.safetensors]")
    assert second.status == 0, second.output
    assert second.jobs["aggregate"] == 2
    assert not second.jobs.keys() & {"checkpoint", "preprocess", "infer", "umap"}
    head = heads.load_head(tmp_path / "probe/head.safetensors")
    predictions = table(out / "predictions")
    assert predictions.columns.tolist() == ["record_id", "n_segments", "Of one's own"]
    assert predictions["record_id"].tolist() == list(means)
    for row in predictions.to_dict("records"):
        standard = (means[str(row["record_id"])].astype(np.float32).astype(np.float64) - head.mean) / head.scale
        expected = expit(standard @ head.weight[0].astype(np.float64) + float(head.bias[0]))
        assert row["Of one's own"] == pytest.approx(expected, abs=1e-9)
    said = pq.read_table(tmp_path / "probe/predictions.parquet").to_pandas()
    both = pd.merge(said, predictions, on="record_id", suffixes=("_said", ""), validate="one_to_one")
    assert len(both) == len(said) == 12
    np.testing.assert_allclose(both["Of one's own"], both["Of one's own_said"], atol=1e-5)
    assert "Of one&#39;s own" in (out / "report.html").read_text()
    chosen = pq.read_table(out / "examples.parquet").to_pylist()
    assert any(why["what"] == "Of one's own" for row in chosen for why in row["why"])

    # The same network, random.
    random = ["--like", str(tmp_path / "pretrained.pt"), "--output", str(tmp_path / "random.pt")]
    assert main(["untrained", *random]) == 0
    settings |= {"outdir": "baseline", "checkpoint": "random.pt", "attribution": "{recordings: 0}"}
    baseline = snakemake(tmp_path, "baseline/run.json", **settings)
    assert baseline.status == 0, baseline.output
    assert "RANDOM" in baseline.output
    given += ["--baseline", str(tmp_path / "baseline"), "--resamples", "20"]
    assert main(["probe", *given, "--map", "high=Of one's own", "--output", str(tmp_path / "again")]) == 0
    rows = pq.read_table(tmp_path / "again/metrics.parquet").to_pandas()
    assert set(rows["model"]) == {"probe", "baseline", "gain"}


@pytest.mark.slow
def test_heads_thresholds_calibration_and_evaluation_together(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Run, probe, run with the head, fit thresholds and a calibration to it, run with all of them, and evaluate."""
    write_recordings(tmp_path / "recordings", 40, seconds=5)
    (tmp_path / "x.pt").write_bytes(checkpoints.saved(checkpoints.classifier(stride=4)))
    (tmp_path / "labels.csv").write_text("name,aggregation\nFirst,mean\nSecond,max\nThird,mean\n")
    ids = [f"recording{i:03d}" for i in range(40)]
    first = np.random.default_rng(1).permutation([0, 1] * 20)
    truth = pd.DataFrame({"record_id": ids, "first": first, "fold": np.arange(40) // 2 % 5, "who": np.arange(40) // 2})
    truth["first"] = np.where(truth.index % 10 < 2, truth.index % 2, truth["first"])  # both classes in each fold
    truth["first"] = np.where(truth["record_id"].isin(ids[:10]), truth.index % 2, truth["first"])
    truth.to_csv(tmp_path / "truth.csv", index=False)
    settings: dict[str, object] = {name: tmp_path / path for name, path in (("input", "recordings"), ("outdir", "out"))}
    settings |= {"checkpoint": tmp_path / "x.pt", "labels": tmp_path / "labels.csv", "umap": "{neighbors: 3}"}
    settings |= {"attribution": "{recordings: 0}", "inference": "{device: cpu}"}
    evaluation = f"{{truth: {tmp_path / 'truth.csv'}, mapping: {{first: First}}, resamples: 10"
    settings["evaluation"] = evaluation + "}"
    targets = [
        str(tmp_path / "out" / name) for name in ("run.json", "evaluation/metrics.parquet")
    ]  # no figures, no page
    ran = snakemake(tmp_path, *targets, **settings)
    assert ran.status == 0, ran.output

    out = [str(tmp_path / "out"), "--split", "fold"]
    folds = ["--train", "0", "1", "--valid", "2", "--test", "3", "--patient", "who", "--resamples", "10"]
    assert main(["probe", *out, *folds, "--output", str(tmp_path / "probe")]) == 0  # the truth as in the run's settings
    settings |= {"heads": f"[{tmp_path / 'probe/head.safetensors'}]"}
    settings["evaluation"] = evaluation + ", split: fold, split_value: 4}"
    ran = snakemake(tmp_path, *targets, **settings)
    assert ran.status == 0, ran.output
    assert not ran.jobs.keys() & {"preprocess", "infer"}
    head_of = table(tmp_path / "out/predictions").set_index("record_id")["First (head)"]

    fit = [*out, "--on", "3", "--patient", "who"]
    assert main(["thresholds", *fit, "--method", "youden", "--output", str(tmp_path / "plain.csv")]) == 0
    assert "First (head): no threshold: a head's label" in capsys.readouterr().err
    assert main(["calibrate", *fit, "--method", "platt", "--output", str(tmp_path / "calibration.json")]) == 0
    assert "First (head): left as it is: a head's label" in capsys.readouterr().err
    settings["calibration"] = tmp_path / "calibration.json"
    ran = snakemake(tmp_path, *targets, **settings)
    assert ran.status == 0, ran.output
    assert main(["thresholds", *fit, "--method", "youden", "--output", str(tmp_path / "chosen.csv")]) == 0

    settings["labels"] = tmp_path / "chosen.csv"
    ran = snakemake(tmp_path, *targets, **settings)
    assert ran.status == 0, ran.output
    predictions = table(tmp_path / "out/predictions").set_index("record_id")
    assert predictions.columns.tolist() == ["n_segments", "First", "Second", "Third", "First (head)"]
    pd.testing.assert_series_equal(predictions["First (head)"], head_of)  # no calibration is a head's
    measured = pd.read_parquet(tmp_path / "out/evaluation/metrics.parquet")
    auroc = measured[(measured["metric"] == "auroc") & (measured["average"] == "label")].set_index("label")["value"]
    scored = truth[truth["fold"] == 4].set_index("record_id")["first"]
    assert set(auroc.index) == {"First", "First (head)"}
    for name in auroc.index:
        assert auroc[name] == pytest.approx(roc_auc_score(scored, predictions.loc[scored.index, name])), name
    # Nor may anybody score what one of the three was fitted on.
    settings["evaluation"] = evaluation + ", split: fold, split_value: 1}"
    ran = snakemake(tmp_path, *targets, **settings)
    assert ran.status != 0
    assert "head.safetensors were fitted on the recordings of train and valid" in ran.output


def test_a_head_that_is_not_there_is_told_before_anything_runs(tmp_path: Path) -> None:
    write_recordings(tmp_path / "recordings", 1)
    (tmp_path / "pretrained.pt").write_bytes(checkpoints.saved(checkpoints.pretrained(stride=4)))
    ran = snakemake(tmp_path, input="recordings", checkpoint="pretrained.pt", heads="[nowhere/head.safetensors]")
    assert ran.status != 0
    assert "heads: 'nowhere/head.safetensors' is not a file; give the head.safetensors that probe wrote" in ran.output
    assert not ran.jobs
