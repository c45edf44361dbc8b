"""A study: several models over the same recordings in one workflow, each of which is the run that it is by itself."""

import json
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import golden_models
import pyarrow.parquet as pq
import pytest
from run_workflow import Ran, snakemake, write_recordings

from ecgpipe import Run
from ecgpipe.cli import main

pytestmark = pytest.mark.slow

SHARED: dict[str, Any] = {
    "input": "in",
    "outdir": "out",
    "manifest": "{shard_size: 3}",
    "inference": "{shards_per_part: 1, device: cpu}",
    "preprocess": "{assume_unit: mV}",
    "attribution": "{recordings: 0}",
    "report": "{recordings: 2}",
    "study": "{recordings: 2, resamples: 0}",
}
SHORT = "short.mat"


class Study(NamedTuple):
    """A finished study."""

    folder: Path
    models: dict[str, dict[str, Any]]
    ran: Ran

    @property
    def out(self) -> Path:
        return self.folder / "out"

    def again(self, *options: str, **settings: object) -> Ran:
        """The same command, with other settings."""
        return snakemake(self.folder, *options, **{**SHARED, "models": json.dumps(self.models), **settings})


@pytest.fixture(scope="module")
def study(reference: Path, tmp_path_factory: pytest.TempPathFactory) -> Study:
    folder = tmp_path_factory.mktemp("study")
    write_recordings(folder / "in", 4, 10)
    write_recordings(folder / "short", 1, 7)
    shutil.move(folder / "short" / "recording000.mat", folder / "in" / SHORT)
    founder = golden_models.make_checkpoint(reference, "ecgfounder", "tiny", folder)
    hubert = golden_models.make_checkpoint(reference, "hubert_ecg", "tiny_sft", folder)
    models: dict[str, dict[str, Any]] = {
        "plain": {
            "model": "ecgfounder",
            "checkpoint": str(founder),
            "model_options": {"preprocessing": "plain"},
            "labels": "index",
        },
        "hubert-ecg": {"checkpoint": str(hubert)},
    }
    ran = snakemake(folder, **SHARED, models=json.dumps(models))
    assert ran.status == 0, ran.output
    return Study(folder, models, ran)


def test_one_scan_and_one_job_for_each_shard(study: Study) -> None:
    jobs = study.ran.jobs
    assert (jobs["manifest"], jobs["preprocess"], jobs["study"]) == (1, 2, 1)
    assert (jobs["infer"], jobs["report"], jobs["checkpoint"]) == (4, 2, 2)


def test_each_model_is_a_run_in_its_folder_and_the_page_has_both(study: Study) -> None:
    for model in study.models:
        run = Run(study.out / model)
        assert run.info.counts.recordings == 5
        assert run.files("manifest") == sorted((study.out / "manifest").glob("shard-*.parquet"))
        assert run.report_html.is_file()
    assert json.loads((study.out / "study.json").read_text())["recordings"]["in_all_models"] == 4
    assert main(["show", str(study.out / "plain"), "recording000", "--output", str(study.folder / "x.html")]) == 0


def test_a_recording_too_short_for_one_model_is_skipped_for_that_alone(study: Study) -> None:
    statuses = {model: Run(study.out / model).records.to_table(["record_id", "status"]) for model in study.models}
    skipped = {
        model: [row["record_id"] for row in table.to_pylist() if row["status"] == "skipped"]
        for model, table in statuses.items()
    }
    assert skipped == {"plain": ["short"], "hubert-ecg": []}  # windows of ten seconds, and of five


WANTED = ("records/shard-00000.parquet", "embeddings/part-00000.parquet", "predictions/part-00000.parquet")


@pytest.fixture(scope="module")
def alone(study: Study) -> Path:
    """The folder of the first part of one of the models, run by itself."""
    (own,) = ({**each} for name, each in study.models.items() if name == "hubert-ecg")
    given = {**SHARED, "outdir": "alone", "model": "hubert-ecg", **own}
    ran = snakemake(study.folder, *(f"alone/{name}" for name in WANTED), **given)
    assert ran.status == 0, ran.output
    return study.folder / "alone"


def test_a_model_has_the_results_that_it_has_by_itself(study: Study, alone: Path) -> None:
    for name in WANTED:
        assert pq.read_table(alone / name).equals(pq.read_table(study.out / "hubert-ecg" / name))
    for name in ("checkpoint", "preprocess", "infer", "umap"):
        paths = [alone / "settings" / f"{name}.json", study.out / "hubert-ecg" / "settings" / f"{name}.json"]
        assert paths[0].read_bytes() == paths[1].read_bytes()


def test_a_run_that_was_moved_into_a_study_is_taken_over_and_nothing_is_computed_again(
    study: Study, alone: Path
) -> None:
    moved = study.folder / "moved" / "hubert-ecg"
    shutil.copytree(alone, moved)  # which keeps the times, as moving does
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in moved.rglob("*") if path.is_file()}
    target = "moved/hubert-ecg/predictions/part-00000.parquet"
    dry = study.again(target, "--dry-run", outdir="moved")
    assert dry.status == 0, dry.output
    assert dry.output.count("hubert-ecg: a run by itself is here, which a run takes over") == 1
    assert not dry.jobs
    whole = study.again("--dry-run", outdir="moved")  # the second of two shards, and all of the other model
    assert (whole.jobs["preprocess"], whole.jobs["preprocess_2"], whole.jobs["manifest"]) == (2, 1, 0), whole.output
    assert (whole.jobs["checkpoint"], whole.jobs["infer"]) == (1, 1)
    assert before == {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in before}
    assert {path.name for path in moved.parent.iterdir()} == {"hubert-ecg"}

    taken = study.again(target, outdir="moved")
    assert taken.status == 0, taken.output
    assert "hubert-ecg: a run by itself was here; what it has of these settings is kept" in taken.output
    assert taken.jobs.keys() <= {"manifest", "aggregate"}, taken.output
    assert (moved.parent / "manifest" / "manifest.json").is_file()
    assert not (moved / "manifest").exists()
    for name in WANTED[:2]:
        assert (moved / name).read_bytes() == (alone / name).read_bytes()
    assert pq.read_table(moved / WANTED[2]).equals(pq.read_table(alone / WANTED[2]))


def test_nothing_is_left_to_do_and_a_model_that_is_added_is_the_only_one_computed(study: Study) -> None:
    again = study.again()
    assert again.status == 0, again.output
    # The verdicts are planned before it is known that there is nothing to do, as in a run by itself.
    assert again.jobs == {"manifest": 1, "verdict": 2, "all": 1}
    times = {path: path.stat().st_mtime_ns for path in study.out.glob("*/[rlep]*/*.parquet")}
    filtered = {**study.models["plain"], "model_options": {"preprocessing": "filtered"}}
    added = study.again(models=json.dumps({**study.models, "filtered": filtered}))
    assert added.status == 0, added.output
    assert (added.jobs["preprocess_3"] + added.jobs["preprocess_2"], added.jobs["infer"]) == (2, 2)
    assert (added.jobs["checkpoint"], added.jobs["report"], added.jobs["study"]) == (1, 1, 1)
    assert {path: path.stat().st_mtime_ns for path in times} == times
    assert set(pq.read_table(study.out / "filtered" / "records").column("status").to_pylist()) == {"ok", "skipped"}
    # From now on all are read for together.
    write_recordings(study.folder / "in", 5, 10)
    models = {**study.models, "filtered": filtered}
    grown = study.again(
        *(f"out/{model}/predictions/part-{part:05d}.parquet" for model in models for part in range(3)),
        models=json.dumps(models),
    )
    assert grown.status == 0, grown.output
    assert (grown.jobs["preprocess"], grown.jobs["preprocess_2"], grown.jobs["infer"]) == (1, 0, 3)
    ids = {model: pq.read_table(study.out / model / "predictions").column("record_id").to_pylist() for model in models}
    five = [f"recording{number:03d}" for number in range(5)]
    assert {model: sorted(each) for model, each in ids.items()} == {
        "plain": five,
        "filtered": five,
        "hubert-ecg": [*five, "short"],
    }
