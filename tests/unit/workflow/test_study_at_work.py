"""A study at work: its folders and settings, which models are read for together, and that jobs know it."""

import json
import os
from pathlib import Path
from typing import Any

import checkpoints
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from planner import Planner, of_no_run  # noqa: F401, a fixture
from run_workflow import write_recordings

from ecgpipe.core import parquet, provenance, results, schemas, settings, study_inputs
from ecgpipe.core.errors import EcgpipeError
from ecgpipe.workflow import reuse, stage_settings
from ecgpipe.workflow.run_at_work import RunAtWork
from ecgpipe.workflow.study_at_work import StudyAtWork, begin

ROOT = Path(__file__).parents[3]

pytestmark = pytest.mark.usefixtures("of_no_run")


@pytest.fixture
def given(tmp_path: Path) -> dict[str, Any]:
    """The settings of a study of two models of one family, one of which has other weights."""
    write_recordings(tmp_path / "input", 1)
    (tmp_path / "labels.csv").write_text("name,aggregation,threshold\nFirst,max,0.5\nSecond,mean,\nThird,mean,\n")
    (tmp_path / "x.pt").write_bytes(checkpoints.saved(checkpoints.classifier()))
    model = {"model": "ecg-fm", "checkpoint": str(tmp_path / "x.pt"), "labels": str(tmp_path / "labels.csv")}
    paths = {key: str(tmp_path / name) for key, name in {"input": "input", "outdir": "out"}.items()}
    return {**paths, "models": {"a": model, "b": model}, "inference": {"device": "cpu"}}


def study(given: dict[str, Any], **planner: bool) -> StudyAtWork:
    begun = begin(given, ROOT, Planner(**planner))
    assert isinstance(begun, StudyAtWork)
    return begun


def write_results(run: RunAtWork, shards: int = 1) -> None:
    """Write the results of a run that stand for preprocessing and inference, without rows."""
    out = Path(run.paths.outdir)
    made = {name: settings.hash_section(name, run.stages[name]) for name in ("preprocess", "infer")}
    for number in range(shards):
        tables = {"preprocess": ("records", "shard"), "infer": ("logits", "part")}
        for stage, (folder, kind) in tables.items():
            path = out / folder / f"{kind}-{number:05d}.parquet"
            schema = provenance.add_origin(schemas.RECORDS, stage, settings={stage: made[stage]}, precision="float32")
            parquet.write(path, pa.table([[]] * len(schema), schema=provenance.add_file_name(schema, path)))
    for folder in ("embeddings", "attention"):
        (out / folder).mkdir()
        os.link(out / "logits" / "part-00000.parquet", out / folder / "part-00000.parquet")
    (out / "timing").mkdir()
    timing = {"stage": "infer", "file": "part-00000.json", settings.KEY: {"infer": made["infer"]}}
    (out / "timing" / "part-00000.json").write_text(json.dumps(timing))


def write_manifest(out: Path) -> None:
    (out / "manifest").mkdir(parents=True, exist_ok=True)
    (out / "manifest" / "manifest.json").write_text(
        json.dumps({"n_recordings": 1, "n_shards": 1, "sha256": "", settings.KEY: {}})
    )


def test_one_model_or_several(given: dict[str, Any]) -> None:
    alone = {"input": given["input"], "outdir": given["outdir"], **given["models"]["a"]}
    run = begin(alone, ROOT, Planner())
    assert isinstance(run, RunAtWork)
    assert run.models == ()
    assert [(one.rule, one.runs) for one in run.reading] == [("preprocess", [run])]
    assert study(given).models == ("a", "b")


def test_each_model_has_its_folder_and_all_share_the_scan(given: dict[str, Any]) -> None:
    out = given["outdir"]
    begun = study(given)
    assert not Path(out).exists()
    assert begun.of({"model": "b", "part": "00000"}).settings_file("infer", {"model": "b", "part": "00000"}) == (
        f"{out}/b/settings/infer.json"
    )
    assert begun.settings_file("manifest", {}) == f"{out}/settings/manifest.json"
    assert begun.settings_file("study", {}) == f"{out}/settings/study.json"
    for path in ("a/settings/infer.json", "b/settings/infer.json", "settings/manifest.json", "settings/study.json"):
        assert Path(out, path).is_file()
    assert begun.asked() == [f"{out}/manifest/.asked"]
    runs = [Path(out, folder, ".ecgpipe-runs").read_text() for folder in (".", "a", "b")]
    assert runs[0] == runs[1] == runs[2]  # one name, by which unfinished files are known
    for folder in (out, f"{out}/a"):
        with pytest.raises(EcgpipeError, match="another run is at work"):
            begin({**given["models"]["a"], "input": given["input"], "outdir": folder}, ROOT, Planner()).plan()


def test_a_dry_run_writes_nothing(given: dict[str, Any]) -> None:
    begun = study(given, runs_jobs=False)
    for stage in ("manifest", "study"):
        assert Path(begun.settings_file(stage, {})).is_file()
    assert not Path(given["outdir"]).exists()


def test_the_models_of_a_new_study_are_read_for_together(given: dict[str, Any]) -> None:
    assert [(one.rule, [run.paths.model for run in one.runs]) for one in study(given).reading] == [
        ("preprocess", ["a", "b"])
    ]


def test_a_model_that_is_added_is_read_for_by_itself_and_jobs_know_it(given: dict[str, Any]) -> None:
    out = Path(given["outdir"])
    write_manifest(out)
    write_results(study(given).runs[0])
    begun = study(given)
    assert [[run.paths.model for run in one.runs] for one in begun.reading] == [["a"], ["b"]]
    assert [one.rule for one in begun.reading] == ["preprocess", "preprocess_2"]
    (out / "manifest" / "found.txt").touch()
    begun.plan()
    # A job on a cluster parses the rules when b has results too.
    write_results(begun.runs[1])
    job = study(given, is_main_process=False)
    assert [[run.paths.model for run in one.runs] for one in job.reading] == [["a"], ["b"]]


def test_models_that_have_everything_are_read_for_together_again(given: dict[str, Any]) -> None:
    out = Path(given["outdir"])
    write_manifest(out)
    for run in study(given).runs:
        write_results(run)
    begun = study(given)
    assert [len(one.runs) for one in begun.reading] == [2]


def test_a_lost_file_of_attention_has_its_part_inferred_again(given: dict[str, Any]) -> None:
    out = Path(given["outdir"])
    write_manifest(out)
    for run in study(given).runs:
        write_results(run)
    (out / "a" / "attention" / "part-00000.parquet").unlink()
    begun = study(given)
    assert [len(one.runs) for one in begun.reading] == [1, 1]
    begun.plan()
    times = [(out / model / "logits" / "part-00000.parquet").stat().st_mtime_ns for model in "ab"]
    assert times[0] == reuse.STALE_NS < times[1]


def test_a_run_that_was_moved_here_is_apart_from_a_new_model_and_taken_over(given: dict[str, Any]) -> None:
    out = Path(given["outdir"])
    write_manifest(out / "a")
    (out / "a" / "manifest" / "found.txt").touch()
    run = study(given).runs[0]
    write_results(run)
    begun = study(given)
    assert [[one.paths.model for one in group.runs] for group in begun.reading] == [["a"], ["b"]]
    begun.plan()
    assert (out / "manifest" / "manifest.json").is_file()
    assert not (out / "a" / "manifest").exists()
    planner = begun._planner
    assert isinstance(planner, Planner)
    assert out / "a" / "records" / "shard-00000.parquet" in planner.forgotten
    assert planner.says == ["a: a run by itself was here; what it has of these settings is kept"]


@pytest.mark.parametrize("moved", ["a", "b"])
def test_a_dry_run_says_which_run_would_be_taken_over_and_plans_with_its_scan(
    given: dict[str, Any], moved: str
) -> None:
    out = Path(given["outdir"])
    write_manifest(out / moved)
    (out / moved / "manifest" / "shard-00000.parquet").touch()
    times = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    begun = study(given, runs_jobs=False)
    begun.plan()
    planner = begun._planner
    assert isinstance(planner, Planner)
    (said,) = planner.says
    assert said.startswith(f"{moved}: a run by itself is here, which a run takes over")
    assert begun.foreseen is not None
    assert begun.foreseen.file("shard") == f"{out}/{moved}/manifest/shard-{{shard}}.parquet"
    assert (begun.n_shards(), begun.n_recordings()) == (1, 1)
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == times


def write_page(begun: StudyAtWork) -> list[Path]:
    """Write a study's files, which name what they were made from."""
    out = Path(begun.settings.outdir)
    section = stage_settings.derive_study(begun.settings, begun.models)
    makers = study_inputs.name_makers(section, {name: out / name for name in begun.models})
    (out / "study.html").write_text(f"<!DOCTYPE html>\n<!-- {settings.format_mark(makers)} -->")
    (out / "study.json").write_text(json.dumps({settings.KEY: makers}))
    schema = provenance.add_origin(schemas.study_schema([]), "study", settings=makers)
    parquet.write(out / "study.parquet", pa.table([[]] * len(schema), schema=schema))
    return [out / name for name in results.STUDY_FILES.values()]


def write_finished(given: dict[str, Any]) -> list[Path]:
    """Write a finished study: its scan, the results of its models, and its own files, which are returned."""
    out = Path(given["outdir"])
    write_manifest(out)
    (out / "manifest" / "found.txt").touch()
    finished = study(given)
    for run in finished.runs:
        write_results(run)
    return write_page(finished)


def test_the_page_is_dated_by_what_it_was_made_from_and_not_by_the_times_of_files(given: dict[str, Any]) -> None:
    out = Path(given["outdir"])
    pages = write_finished(given)
    read = [out / "a" / "records" / "shard-00000.parquet", out / "b" / "embeddings" / "part-00000.parquet"]
    for path in read:  # as where a folder is copied file by file
        os.utime(path, (later := path.stat().st_mtime + 100, later))
    begun = study(given)
    begun.plan()
    newest = max(path.stat().st_mtime_ns for path in read)
    assert all(page.stat().st_mtime_ns >= newest for page in pages)
    assert (out / "settings" / "study.json").stat().st_mtime_ns <= newest


@pytest.mark.parametrize("changed", ["recordings", "settings"])
def test_a_page_of_other_recordings_or_settings_is_made_again(given: dict[str, Any], changed: str) -> None:
    out = Path(given["outdir"])
    pages = write_finished(given)
    if changed == "settings":
        given["study"] = {"resamples": 7}
    else:  # another content, with the time that it had
        path = out / "a" / "records" / "shard-00000.parquet"
        before, table = path.stat().st_mtime_ns, pq.read_table(path)
        origin = json.loads(table.schema.metadata[b"ecgpipe"]) | {"inputs_sha256": "of others"}
        parquet.write(path, table.replace_schema_metadata({"ecgpipe": json.dumps(origin)}))
        os.utime(path, ns=(before, before))
    study(given).plan()
    assert {page.stat().st_mtime_ns for page in pages} == {reuse.STALE_NS}


def test_a_page_of_an_earlier_ecgpipe_keeps_its_time(given: dict[str, Any]) -> None:
    out = Path(given["outdir"])
    out.mkdir()
    (out / results.RUNS).write_text("0123456789abcdef\n")
    (out / "study.html").write_text("<!DOCTYPE html>")
    (out / "study.json").write_text("{}")
    pages = [out / "study.html", out / "study.json"]
    times = [page.stat().st_mtime_ns for page in pages]
    study(given).plan()
    assert [page.stat().st_mtime_ns for page in pages] == times
