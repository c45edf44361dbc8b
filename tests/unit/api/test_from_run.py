"""ECGFM.from_run: what a finished run did with its recordings, and no other checkpoint than its own."""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import scipy.io
import small_run
import stages
import torch

from ecgpipe import ECGFM, EcgpipeError
from ecgpipe.core import provenance, settings
from ecgpipe.inference import aggregate
from ecgpipe.models import checkpoint
from ecgpipe.readers import LEADS
from ecgpipe.selftest import demo_model, simulator, synthetic_checkpoint

# Of the run, none of them the default.
READING = {"segment_s": 2.5, "tail": "overlap", "missing_leads": "zero", "assume_sample_rate": 400.0}
THRESHOLDS = {"Sinus rhythm": 0.31, "Atrial flutter": 0.62}
SHIFT = {"Sinus rhythm": {"shift": 0.7}}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the demo's model over five bare arrays of 11 leads, stage by stage, with calibrated predictions."""
    folder = tmp_path_factory.mktemp("finished")
    out = folder / "out"
    torch.save(demo_model.read_content(), folder / "demo.pt")
    csv = demo_model.FOLDER / "labels.csv"
    description = stages.convert(out / "checkpoint", folder / "demo.pt", labels=str(csv))
    paths = []
    for number, name in enumerate(["sinus", "flutter", "premature", "paced", "noise"]):
        signal = simulator.simulate(simulator.RHYTHMS[name], 400, np.random.default_rng(number))
        paths.append(folder / f"{name}.mat")
        scipy.io.savemat(paths[-1], {"signal": signal[:11]})
    leads = list(LEADS[:11])
    segments = stages.preprocess_shards(folder / "work", description, [paths], assume_leads=leads, **READING)
    infer_out = folder / "inferred"
    shutil.copy(out / "checkpoint/model.safetensors", folder)
    shutil.copy(out / "checkpoint/model.json", folder)
    stages.infer_segments(folder, segments, infer_out, batch_size=16)
    calibration = folder / "calibration.json"
    predictions, given = out / "predictions/part-00000.parquet", settings.Aggregate(labels=str(csv))
    aggregate.aggregate_part(infer_out / "logits.parquet", None, predictions, given)
    scores = provenance.select_scores(provenance.read_origin(pq.read_schema(predictions)))
    content = {"method": "pos-weight", "labels": SHIFT, "left": {}, "scores": {**scores, "aggregation": {}}}
    calibration.write_text(json.dumps({**content, "fitted": None}))
    calibrated = given.model_copy(update={"calibration": str(calibration)})
    aggregate.aggregate_part(infer_out / "logits.parquet", None, predictions, calibrated)
    (out / "settings").mkdir()
    (out / "settings/examples.json").write_text(json.dumps({"stage": "examples", "thresholds": THRESHOLDS}))
    run = small_run.run_json()
    run["checkpoint"] |= {"sha256": description.sha256, "labels": list(description.labels)}
    run["config"] |= {"preprocess": {**READING, "assume_leads": leads}, "calibration": str(calibration)}
    run["parts"] = 1
    (out / "run.json").write_text(json.dumps(run))
    return out


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    """A copy, to spoil."""
    return Path(shutil.copytree(finished, tmp_path / "run"))


def test_recordings_get_the_runs_own_numbers_without_saying_anything_again(finished: Path) -> None:
    ecgfm = ECGFM.from_run(finished, device="cpu", threads=1)
    predictions = pq.read_table(finished / "predictions/part-00000.parquet").to_pandas().set_index("record_id")
    predicted = ecgfm.predict([finished.parent / f"{name}.mat" for name in predictions.index])
    assert predicted.index.tolist() == list(predictions.index)
    pd.testing.assert_frame_equal(predicted, predictions[list(predicted.columns)], check_exact=True, check_names=False)
    assert (predictions["n_segments"] == 4).all()
    raw = ECGFM.from_checkpoint(finished / "checkpoint", demo_model.FOLDER / "labels.csv", device="cpu")
    assert ecgfm.thresholds == raw.thresholds | {label.name: 0.5 for label in raw.labels} | THRESHOLDS
    assert [label.aggregation for label in ecgfm.labels] == [label.aggregation for label in raw.labels]


def test_a_checkpoint_that_is_gone_or_another_is_refused(run: Path, tmp_path: Path) -> None:
    weights, described = run / "checkpoint/model.safetensors", run / "checkpoint/model.json"
    kept = weights.read_bytes()
    weights.write_bytes(kept[:1000])
    with pytest.raises(EcgpipeError, match=r"model\.safetensors is damaged: .*; give the checkpoint to ECGFM"):
        ECGFM.from_run(run)
    weights.unlink()
    with pytest.raises(EcgpipeError, match=r"model\.safetensors is gone, the checkpoint of this run; give the"):
        ECGFM.from_run(run)
    torch.save(synthetic_checkpoint.demo(1), tmp_path / "other.pt")
    (tmp_path / "other").mkdir()
    given = settings.Checkpoint(source=str(tmp_path / "other.pt"), labels="index", content="0" * 64)
    checkpoint.convert_checkpoint(tmp_path / "other/model.safetensors", tmp_path / "other/model.json", given)
    shutil.copy(tmp_path / "other/model.safetensors", weights)
    with pytest.raises(EcgpipeError, match=r"model\.safetensors is of another checkpoint than the results"):
        ECGFM.from_run(run)
    shutil.copy(tmp_path / "other/model.json", described)
    with pytest.raises(EcgpipeError, match=r"model\.json is of another checkpoint \(sha256 .{12}\) than the results"):
        ECGFM.from_run(run)


def test_a_calibration_that_has_changed_is_refused(run: Path) -> None:
    content = json.loads((run / "run.json").read_text())
    changed = run / "calibration.json"
    changed.write_text(Path(content["config"]["calibration"]).read_text().replace("0.7", "0.9"))
    content["config"]["calibration"] = str(changed)
    (run / "run.json").write_text(json.dumps(content))
    with pytest.raises(EcgpipeError, match=r"the calibration of this run \(.*calibration\.json\) has changed since"):
        ECGFM.from_run(run)


def test_a_folder_that_is_no_finished_run_is_refused(run: Path) -> None:
    (run / "run.json").unlink()
    with pytest.raises(EcgpipeError, match=r"there is no .*run\.json; give the folder of a finished run's results"):
        ECGFM.from_run(run)
    with pytest.raises(EcgpipeError, match="there is no folder"):
        ECGFM.from_run(run / "nowhere")
