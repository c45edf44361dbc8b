"""The whole workflow gives fairseq-signals' numbers on real recordings, read back by name from the result files."""

import runpy
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scipy.io
import torch
import wfdb
from run_workflow import ROOT, snakemake, table

from ecgpipe.cli import main
from ecgpipe.core.stored_segments import read_segments

TOLERANCE = {"logits": 1e-4, "embedding": 1e-4, "attention": 1e-5, "probability": 1e-5}
LEADS = ["I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6"]
MIMIC_LEADS = ["I", "II", "III", "aVR", "aVF", "aVL", "V1", "V2", "V3", "V4", "V5", "V6"]


@pytest.fixture
def make_checkpoint(reference: Path, tmp_path: Path) -> Callable[[str], Path]:
    """Write one of the reference checkpoints and return its path."""
    generator = runpy.run_path(str(reference / "make_checkpoint.py"))

    def make(name: str) -> Path:
        path = tmp_path / f"{name}.pt"
        torch.save(generator["state"](name), path)
        return path

    return make


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tiny", "prenorm", "base"])
def test_ten_real_recordings_give_the_golden_numbers(
    name: str, reference: Path, make_checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    golden = np.load(reference / "golden" / f"{name}.npz")
    n_labels = golden["logits"].shape[1]
    labels_csv = ROOT / "config" / "labels" / "mimic_iv_ecg.csv"
    if n_labels != 17:
        labels_csv = tmp_path / "labels.csv"
        labels_csv.write_text("name,aggregation\n" + "".join(f"Label {i},mean\n" for i in range(n_labels)))
    names = list(pd.read_csv(labels_csv)["name"])

    ran = snakemake(
        tmp_path, "out/run.json",
        input=reference / "code15", checkpoint=make_checkpoint(name), labels=labels_csv, outdir="out",
        manifest="{shard_size: 4}", inference="{shards_per_part: 2}",
        # Not held against anything here, and minutes for a network of the full size.
        attribution="{recordings: 0}",
    )  # fmt: skip
    assert ran.status == 0, ran.output
    assert "10 recordings: 10 used (14 segments), 0 skipped, 0 failed" in ran.output

    logits = table(tmp_path / "out" / "logits")
    assert list(logits["record_id"]) == list(golden["record"])
    assert list(logits.columns) == ["record_id", "segment", "start_s", *names]
    assert list(logits["start_s"]) == [5.0 * segment for segment in logits["segment"]]
    np.testing.assert_allclose(logits[names], golden["logits"], rtol=0, atol=TOLERANCE["logits"])
    for column, folder in (("embedding", "embeddings"), ("attention", "attention")):
        vectors = table(tmp_path / "out" / folder)
        assert list(vectors["record_id"]) == list(golden["record"])
        np.testing.assert_allclose(np.stack(list(vectors[column])), golden[column], rtol=0, atol=TOLERANCE[column])

    expected_file = reference / "golden" / f"predictions_{name}.csv"
    if expected_file.exists():
        expected = pd.read_csv(expected_file, index_col="record")
        predictions = table(tmp_path / "out" / "predictions").set_index("record_id")
        assert list(expected.columns) == names
        np.testing.assert_allclose(
            predictions.loc[expected.index, names], expected[names], rtol=0, atol=TOLERANCE["probability"]
        )


def test_segments_made_by_hand_are_those_of_ecg_transform(reference: Path, tmp_path: Path) -> None:
    golden = np.load(reference / "golden" / "segments.npz")
    segments, records = tmp_path / "shard.arrow", tmp_path / "records.parquet"
    assert main(["manifest", "--input", str(reference / "code15"), "--outdir", str(tmp_path)]) == 0
    shard = str(tmp_path / "shard-00000.parquet")
    assert main(["preprocess", "--shard", shard, "--segments", str(segments), "--records", str(records)]) == 0
    rows, signal = read_segments(segments)
    assert rows["record_id"].to_pylist() == list(golden["record"])
    np.testing.assert_allclose(signal, golden["signal"], rtol=0, atol=1e-6)


@pytest.mark.slow
def test_wfdb_in_mimics_lead_order_gives_the_same_predictions(
    reference: Path, make_checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    (tmp_path / "wfdb").mkdir()
    for path in (reference / "code15").glob("*.mat"):
        signal = scipy.io.loadmat(path)["feats"].astype(np.float64)  # (12, samples)
        wfdb.wrsamp(
            path.stem, fs=400, units=["mV"] * 12, sig_name=MIMIC_LEADS, fmt=["16"] * 12,
            p_signal=signal[[LEADS.index(lead) for lead in MIMIC_LEADS]].T, write_dir=str(tmp_path / "wfdb"),
        )  # fmt: skip
    predicted = "out/predictions/part-00000.parquet"
    ran = snakemake(tmp_path, predicted, input="wfdb", checkpoint=make_checkpoint("tiny"), outdir="out")
    assert ran.status == 0, ran.output

    expected = pd.read_csv(reference / "golden" / "predictions_tiny.csv", index_col="record")
    predictions = table(tmp_path / "out" / "predictions").set_index("record_id")[list(expected.columns)]
    assert set(predictions.index) == set(expected.index)
    # wfdb scales each lead to the 16 bits: a step is 2e-5 of a lead's range.
    np.testing.assert_allclose(predictions.loc[expected.index], expected, rtol=0, atol=1e-4)


@pytest.mark.slow
def test_overlapping_and_padded_segments_leave_the_others_alone(
    reference: Path, make_checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    golden = np.load(reference / "golden" / "tiny.npz")
    (tmp_path / "in").mkdir()
    for path in (reference / "code15").glob("*.mat"):
        (tmp_path / "in" / path.name).symlink_to(path)
    feats = scipy.io.loadmat(next(iter((reference / "code15").glob("*.mat"))))["feats"]
    scipy.io.savemat(tmp_path / "in" / "short.mat", {"feats": feats[:, :1200], "curr_sample_rate": np.array([[400]])})
    ran = snakemake(
        tmp_path, "out/logits/part-00000.parquet", input="in", checkpoint=make_checkpoint("tiny"), outdir="out",
        preprocess="{tail: overlap, short: pad, keep_segments: true}",
    )  # fmt: skip
    assert ran.status == 0, ran.output
    names = list(pd.read_csv(ROOT / "config" / "labels" / "mimic_iv_ecg.csv")["name"])
    logits = table(tmp_path / "out" / "logits")
    records = table(tmp_path / "out" / "records").set_index("record_id")
    rows = {
        (record, segment): i
        for i, (record, segment) in enumerate(zip(logits["record_id"], logits["segment"], strict=True))
    }
    numbers = pd.Series(golden["record"]).groupby(golden["record"]).cumcount()
    same = [rows[key] for key in zip(golden["record"], numbers, strict=True)]
    np.testing.assert_allclose(logits[names].to_numpy()[same], golden["logits"], rtol=0, atol=TOLERANCE["logits"])
    last = logits.groupby("record_id").tail(1).set_index("record_id")["start_s"]
    for record in set(golden["record"]):
        assert last[record] == pytest.approx(records["duration_s"][record] - 5, abs=1 / 500)
        assert records["discarded_s"][record] == 0
    assert (records["n_segments"]["short"], records["padded_s"]["short"]) == (1, 2)
    attention = table(tmp_path / "out" / "attention").set_index("record_id")["attention"]["short"]
    assert [token for token, value in enumerate(attention) if value == 0] == list(range(93, 156))  # 1,500 samples
