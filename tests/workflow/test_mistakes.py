"""What a newcomer gets wrong: one clear message each, before any job where that is possible, and never a traceback."""

import shutil
from pathlib import Path

import checkpoints
import numpy as np
import pytest
from run_workflow import Ran, snakemake, table, write_recordings

LABELS = "name,aggregation\nFirst,max\nSecond,mean\nThird,mean\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two recordings, a checkpoint with three outputs, and its labels."""
    write_recordings(tmp_path / "input", 2)
    (tmp_path / "labels.csv").write_text(LABELS)
    (tmp_path / "x.pt").write_bytes(checkpoints.saved(checkpoints.classifier(stride=4)))
    return tmp_path


def run(folder: Path, *options: str, **settings: object) -> Ran:
    given = {"input": "input", "checkpoint": "x.pt", "labels": "labels.csv", "outdir": "out"}
    given |= {"attribution": "{recordings: 1, steps: 4}"}
    ran = snakemake(folder, *options, **(given | settings))
    assert "Traceback" not in ran.output
    return ran


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"input": "nowhere"}, "input: 'nowhere' does not exist; check the path"),
        ({"inptu": "input"}, "inptu: no such setting; did you mean 'input'?"),
        ({"umap": "{neighbours: 3}"}, "umap.neighbours: no such setting; did you mean 'neighbors'?"),
        ({"umap": "{min_dist: near}"}, "umap.min_dist: 'near' is not valid: input should be a valid number"),
        ({"checkpoint": "y.pt"}, "checkpoint: 'y.pt' is not a file; give a local .pt file or hf://OWNER/REPO/FILE"),
        ({"labels": "none.csv"}, "labels: cannot read none.csv"),
        ({"sha256": "abc"}, "sha256: 'abc' is not valid"),
    ],
)
def test_a_wrong_setting_is_refused_before_any_job(folder: Path, settings: dict[str, str], says: str) -> None:
    ran = run(folder, **settings)
    assert ran.status != 0
    assert ran.output.count(says) == 1, ran.output
    assert not ran.jobs
    assert not (folder / "out").exists()


def test_without_an_input_the_message_shows_how_to_give_one(folder: Path) -> None:
    ran = run(folder, input="")
    assert "input: missing; name the recordings, e.g. snakemake --cores 8 --config input=/data/ecgs" in ran.output
    assert not ran.jobs


@pytest.mark.slow
def test_labels_for_another_number_of_outputs(folder: Path) -> None:
    (folder / "labels.csv").write_text(LABELS.replace("Third,mean\n", ""))
    ran = run(folder)
    assert ran.status != 0
    assert "error: labels: labels.csv names 2 labels but the checkpoint has 3 outputs" in ran.output
    assert not ran.jobs["infer"]


@pytest.mark.slow
def test_a_folder_of_pictures(folder: Path) -> None:
    shutil.rmtree(folder / "input")
    (folder / "input").mkdir()
    for i in range(3):
        (folder / "input" / f"scan{i}.JPG").write_bytes(b"\xff\xd8\xff")
    ran = run(folder)
    assert ran.status != 0
    assert (
        "error: input: no recordings in 'input', 3 other files (3 no known format, .jpg); ecgpipe reads" in ran.output
    )


@pytest.mark.slow
def test_two_recordings_with_one_id_are_both_named(folder: Path) -> None:
    np.save(folder / "input" / "recording000.npy", np.zeros((12, 5000)))
    ran = run(folder)
    assert ran.status != 0
    assert "two recordings have the id 'recording000'" in ran.output
    assert f"{folder}/input/recording000.mat and {folder}/input/recording000.npy" in ran.output


@pytest.mark.slow
def test_nothing_usable_is_an_error_and_the_account_is_there(folder: Path) -> None:
    shutil.rmtree(folder / "input")
    write_recordings(folder / "input", 2, seconds=4)
    ran = run(folder)
    assert ran.status != 0
    assert (
        "error: input: not one of 2 recordings could be used: 2 skipped: shorter than one segment of 5 s" in ran.output
    )
    assert list(table(folder / "out" / "records")["reason"]) == ["shorter than one segment of 5 s (4.000 s)"] * 2


@pytest.mark.slow
def test_unusable_recordings_are_told_and_do_not_stop_the_run(folder: Path) -> None:
    write_recordings(folder / "input" / "short", 3, seconds=4)
    (folder / "input" / "garbage.mat").write_bytes(b"garbage" * 1000)
    np.savez(folder / "input" / "nan.npz", signal=np.full((12, 5000), np.nan), sample_rate=500, leads=LEADS)
    np.savez(folder / "input" / "eight.npz", signal=np.zeros((8, 5000)), sample_rate=500, leads=LEADS[:8])
    np.save(folder / "input" / "bare.npy", np.zeros((12, 5000)))
    (folder / "input" / "notes.txt").write_text("not a recording")
    ran = run(folder, max_failed_fraction=0.3)
    assert ran.status == 0, ran.output
    closing = ran.output[ran.output.rindex("9 recordings: 2 used (4 segments), 5 skipped, 2 failed") :]
    assert "3 skipped: shorter than one segment of 5 s" in closing
    assert "1 failed: not a readable MATLAB file" in closing
    assert "1 other file, not a recording: 1 no known format, .txt" in closing
    reasons = table(folder / "out" / "records").set_index("record_id")["reason"]
    assert reasons["eight"] == "leads missing (V3 V4 V5 V6)"
    assert reasons["nan"] == "NaN or infinite samples (I II III aVR aVL aVF V1 V2 V3 V4 V5 V6)"
    assert reasons["bare"].startswith("the file states no sampling rate; set preprocess.assume_sample_rate")
    assert reasons["recording000"] is None


@pytest.mark.slow
def test_too_many_failures_end_the_run_with_an_error_after_everything_is_there(folder: Path) -> None:
    (folder / "input" / "garbage.mat").write_bytes(b"garbage" * 1000)
    ran = run(folder)
    assert ran.status != 0
    says = "error: max_failed_fraction: 1 of 3 recordings could not be read (33.3%), more than 5.0%"
    assert f"{says}: 1 not a readable MATLAB file" in ran.output
    assert "3 recordings: 2 used (4 segments), 0 skipped, 1 failed" in ran.output
    assert "not a readable MATLAB file" in (folder / "out" / "report.html").read_text()
    assert len(table(folder / "out" / "predictions")) == 2
    ran = run(folder, max_failed_fraction=0.5)
    assert ran.status == 0, ran.output
    assert ran.jobs.keys() == {"manifest", "summary", "figures", "report", "verdict", "all"}


@pytest.mark.slow
def test_a_pretrained_checkpoint_gives_embeddings_and_no_logits(folder: Path) -> None:
    (folder / "x.pt").write_bytes(checkpoints.saved(checkpoints.pretrained(stride=4)))
    ran = run(folder)
    assert ran.status == 0, ran.output
    assert list(table(folder / "out" / "logits").columns) == ["record_id", "segment", "start_s"]
    assert list(table(folder / "out" / "predictions").columns) == ["record_id", "n_segments"]
    assert len(table(folder / "out" / "embeddings")) == len(table(folder / "out" / "umap")) == 4
    assert (folder / "out" / "report.html").stat().st_size > 0


LEADS = ["I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6"]
