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

from ecgpipe import heads
from ecgpipe.__main__ import main


@pytest.mark.slow
def test_a_head_that_was_probed_labels_a_run_of_a_pretrained_network(tmp_path: Path) -> None:
    write_recordings(tmp_path / "recordings", 30)
    (tmp_path / "pretrained.pt").write_bytes(checkpoints.saved(checkpoints.pretrained()))
    settings: dict[str, object] = {"input": "recordings", "outdir": "out", "checkpoint": "pretrained.pt"}
    settings |= {"manifest": "{shard_size: 8}", "inference": "{shards_per_part: 2}"}
    first = snakemake(tmp_path, **settings)
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
    given = ["--outdir", str(out), "--truth", str(tmp_path / "truth.csv"), "--split", "split"]
    status = main(
        ["probe", *given, "--map", "high=Of one's own", "--output", str(tmp_path / "probe"), "--resamples", "20"]
    )
    assert status == 0

    second = snakemake(tmp_path, **settings, heads="[probe/head.safetensors]")
    assert second.status == 0, second.output
    assert second.jobs["aggregate"] == 2
    assert not second.jobs.keys() & {"checkpoint", "preprocess", "infer", "umap"}
    head = heads.load(tmp_path / "probe/head.safetensors")
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
    baseline = snakemake(tmp_path, **settings)
    assert baseline.status == 0, baseline.output
    assert "RANDOM" in baseline.output
    given += ["--baseline", str(tmp_path / "baseline"), "--resamples", "20"]
    assert main(["probe", *given, "--map", "high=Of one's own", "--output", str(tmp_path / "again")]) == 0
    rows = pq.read_table(tmp_path / "again/metrics.parquet").to_pandas()
    assert set(rows["model"]) == {"probe", "baseline", "gain"}


def test_a_head_that_is_not_there_is_told_before_anything_runs(tmp_path: Path) -> None:
    write_recordings(tmp_path / "recordings", 1)
    (tmp_path / "pretrained.pt").write_bytes(checkpoints.saved(checkpoints.pretrained()))
    ran = snakemake(tmp_path, input="recordings", checkpoint="pretrained.pt", heads="[nowhere/head.safetensors]")
    assert ran.status != 0
    assert "heads: 'nowhere/head.safetensors' is not a file; give the head.safetensors that probe wrote" in ran.output
    assert not ran.jobs
