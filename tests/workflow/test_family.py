"""Checkpoints besides ECG-FM's own, and windows besides five seconds.

A pretrained one is in test_mistakes.py, layer norms before each half in test_reference.py.
"""

import json
from collections.abc import Sequence
from pathlib import Path

import checkpoints
import numpy as np
import pandas as pd
import pytest
import torch
from report_page import Page
from run_workflow import ROOT, Ran, snakemake, table, write_recordings

from ecgpipe.cli import main
from ecgpipe.models import labels
from ecgpipe.models.description import describe
from ecgpipe.models.ecg_fm import network as ecg_fm_network

ATTRIBUTION = "{recordings: 1, steps: 4}"


def folder_of(folder: Path, content: object, seconds: float = 10) -> Path:
    write_recordings(folder / "input", 6, seconds)
    (folder / "x.pt").write_bytes(checkpoints.saved(content))
    return folder


def run(folder: Path, **settings: object) -> Ran:
    given = {"input": "input", "checkpoint": "x.pt", "outdir": "out", "attribution": ATTRIBUTION}
    return snakemake(folder, **(given | settings))


def names_of(folder: Path, kind: str) -> list[str]:
    return labels.label_columns(list(table(folder / "out" / kind).columns))


@pytest.mark.slow
def test_outputs_without_names_are_run_by_number_and_later_under_their_names(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, checkpoints.classifier(outputs=26, stride=4), seconds=22)
    windows = {"preprocess": "{segment_s: 10}"}
    ran = run(folder, labels="index", **windows)
    assert ran.status == 0, ran.output
    numbers = [f"output_{number:02d}" for number in range(26)]
    assert names_of(folder, "logits") == names_of(folder, "predictions") == numbers
    says = labels.explain_numbers(26)
    assert f"[checkpoint] {says}" in (folder / "out/logs/checkpoint.log").read_text()
    assert says in ran.output
    content = json.loads((folder / "out/run.json").read_text())
    assert says in content["warnings"]
    assert content["checkpoint"]["labels"] == numbers
    page = Page(folder / "out/report.html")
    assert page.get("rows")["labels"] == numbers
    assert len(page.get("views")) == 6
    assert says.replace("'", "&#39;") in page.source
    by_number = table(folder / "out/logits")

    # Any one recording of it opens too, and the same command does nothing more.
    assert main(["show", str(folder / "out"), "--output", str(folder / "one.html"), "recording003"]) == 0
    again = run(folder, labels="index", **windows)
    assert again.status == 0, again.output
    assert again.jobs.keys() <= {"manifest", "verdict", "all"}

    csv = ROOT / "config/labels/physionet_2021.csv"
    ran = run(folder, labels="config/labels/physionet_2021.csv", **windows)  # is found beside the Snakefile
    assert ran.status == 0, ran.output
    given = labels.read(csv)
    logits, predictions = table(folder / "out/logits"), table(folder / "out/predictions").set_index("record_id")
    assert names_of(folder, "predictions") == [label.name for label in given]
    probabilities = logits.assign(**{each.name: 1 / (1 + np.exp(-logits[each.name].astype(float))) for each in given})
    for number, label in enumerate(given):
        np.testing.assert_array_equal(logits[label.name], by_number[f"output_{number:02d}"])
        expected = probabilities.groupby("record_id")[label.name].agg(label.aggregation)
        np.testing.assert_allclose(predictions[label.name], expected.loc[predictions.index], rtol=0, atol=1e-9)
    assert says not in (folder / "out/report.html").read_text(encoding="utf-8")


@pytest.mark.slow
def test_a_label_file_that_does_not_fit_ends_the_run(tmp_path: Path) -> None:
    ran = run(folder_of(tmp_path, checkpoints.classifier(outputs=26, stride=4)))  # the default, the 17 of MIMIC-IV-ECG
    assert ran.status != 0
    assert "mimic_iv_ecg.csv names 17 labels but the checkpoint has 26 outputs; give a file with one row" in ran.output
    assert not (tmp_path / "out/logits").exists()


def by_hand(folder: Path, seconds: float, starts: Sequence[float]) -> pd.DataFrame:
    """The logits of each recording's segments, one at a time through the network, cut and standardised here."""
    out = folder / "out/checkpoint"
    description = describe(out / "model.json")
    network = ecg_fm_network.load(description.architecture, out / "model.safetensors")
    rows = []
    for number in range(6):
        signal = np.random.default_rng(number).standard_normal((12, 12 * 500)).astype(np.float32).astype(np.float64)
        standard = (signal - signal.mean(axis=1, keepdims=True)) / (signal.std(axis=1, keepdims=True) + 1e-8)
        for start in starts:
            first = round(500 * start)
            piece = torch.from_numpy(standard[None, :, first : first + round(500 * seconds)].astype(np.float32))
            logits = network(piece).logits
            assert logits is not None
            rows.append([f"recording{number:03d}", start, *logits[0].tolist()])
    return pd.DataFrame(rows, columns=["record_id", "start_s", *description.labels])


@pytest.mark.parametrize(
    ("seconds", "tail", "starts"),
    [(10, "drop", [0]), (2.5, "overlap", [0, 2.5, 5, 7.5, 9.5])],
)
def test_windows_of_another_length_are_cut_and_run_as_by_hand(
    seconds: float, tail: str, starts: list[float], tmp_path: Path
) -> None:
    folder = folder_of(tmp_path, checkpoints.classifier(stride=4), seconds=12)
    out = folder / "out"
    model_files = [f"--weights={out}/checkpoint/model.safetensors", f"--description={out}/checkpoint/model.json"]
    files = {kind: out / f"{kind}.parquet" for kind in ("logits", "embeddings", "attention")}
    segments = f"--segments={out}/segments.arrow"
    for command in [
        ["checkpoint", "--source", str(folder / "x.pt"), "--labels", "index", *model_files],
        ["manifest", "--input", str(folder / "input"), "--outdir", str(out)],
        [
            *("preprocess", "--shard", str(out / "shard-00000.parquet"), segments, f"--records={out}/records.parquet"),
            *("--segment-s", str(seconds), "--tail", tail),
        ],
        ["infer", *model_files, segments, f"--timing={out}/t.json", *(f"--{kind}={files[kind]}" for kind in files)],
    ]:
        assert main(command) == 0
    made, expected = pd.read_parquet(files["logits"]), by_hand(folder, seconds, starts)
    assert list(made["record_id"]) == list(expected["record_id"])
    np.testing.assert_array_equal(made["start_s"], expected["start_s"])
    for name in ("output_00", "output_01", "output_02"):
        np.testing.assert_allclose(made[name], expected[name], rtol=0, atol=1e-5)
    tokens = np.stack(list(pd.read_parquet(files["attention"])["attention"])).shape[1]
    assert tokens == 500 * seconds // 16  # two convolutions of stride 4
