"""Running again: nothing is done twice, and what is missing or changed is made with all that follows from it."""

import hashlib
import json
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import checkpoints
import pandas as pd
import pyarrow.parquet as pq
import pytest
from run_workflow import Ran, sha256s, snakemake, table, write_recordings

from ecgpipe.core import provenance

pytestmark = pytest.mark.slow  # three minutes in all

# What comes after the numbers.
SHOWN = {"examples", "summary", "figures", "report", "verdict"}

LABELS = "name,aggregation,threshold\nFirst,max,0.5\nSecond,mean,\nThird,mean,\n"


def write_inputs(folder: Path) -> Path:
    write_recordings(folder / "input", 6)
    (folder / "labels.csv").write_text(LABELS)
    (folder / "x.pt").write_bytes(checkpoints.saved(checkpoints.classifier(stride=4)))
    return folder


def inference(**settings: object) -> str:
    """The section, on a CPU unless it says otherwise: then float32 is certain, and nothing is compared."""
    given = {"shards_per_part": 2, "device": "cpu"} | settings
    return "{" + ", ".join(f"{key}: {value}" for key, value in given.items()) + "}"


def run(folder: Path, *options: str, **settings: object) -> Ran:
    """Run in `folder`: six recordings in three shards and two parts."""
    given = {"input": "input", "checkpoint": "x.pt", "labels": "labels.csv", "outdir": "out"}
    given |= {"manifest": "{shard_size: 2}", "inference": inference(), "attribution": "{recordings: 1, steps: 4}"}
    return snakemake(folder, *options, **(given | settings))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run. A test that changes something leaves a finished run behind again."""
    folder = write_inputs(tmp_path_factory.mktemp("run"))
    ran = run(folder)
    assert ran.status == 0, ran.output
    return folder


def test_every_rule_leaves_a_log_and_a_benchmark(finished: Path) -> None:
    rules = {"checkpoint", "manifest", "preprocess", "precision", "infer", "aggregate", "umap", "summary"}
    rules |= {"examples", "attribute", "figures", "report", "verdict"}
    for kind in ("logs", "benchmarks"):
        assert {path.name.partition(".")[0] for path in (finished / "out" / kind).iterdir()} == rules


def test_the_segments_are_gone_and_the_counts_add_up(finished: Path) -> None:
    assert not list((finished / "out").glob("segments/*"))
    records, logits = table(finished / "out" / "records"), table(finished / "out" / "logits")
    assert list(records["status"]) == ["ok"] * 6
    assert records.set_index("record_id")["n_segments"].to_dict() == logits.groupby("record_id").size().to_dict()
    counts = json.loads((finished / "out" / "run.json").read_text())["counts"]
    assert (counts["recordings"], counts["ok"], counts["segments"]) == (6, 6, 12)


def test_every_result_names_the_checkpoint_and_the_preprocessing(finished: Path) -> None:
    sha256 = json.loads((finished / "out" / "checkpoint" / "model.json").read_text())["source"]["sha256"]
    for kind in ("logits", "embeddings", "attention", "predictions", "umap"):
        for path in (finished / "out" / kind).glob("*.parquet"):
            origin = json.loads(pq.read_schema(path).metadata[b"ecgpipe"])
            assert origin["checkpoint_sha256"] == sha256
            assert origin["preprocess"]["segment_samples"] == 2500


def test_every_parquet_file_says_which_code_and_which_inputs_made_it(finished: Path) -> None:
    out = finished / "out"
    shards = [hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(out.glob("manifest/shard-*.parquet"))]
    run = json.loads((out / "run.json").read_text())
    # Part 0 has two shards, part 1 the third; the map and the list of duplicates are of all.
    expected = {f"shard-{i:05d}": shard for i, shard in enumerate(shards)}
    expected |= {"part-00000": provenance.combine_sha256s(shards[:2]), "part-00001": shards[2]}
    expected["umap"] = provenance.combine_sha256s([expected["part-00000"], expected["part-00001"]])
    expected |= dict.fromkeys(("duplicates", "attribution", "leads"), run["inputs"]["sha256"])
    expected["examples"] = expected["umap"]
    assert run["inputs"]["sha256"] == provenance.combine_sha256s(shards)
    for path in out.rglob("*.parquet"):
        origin = json.loads(pq.read_schema(path).metadata[b"ecgpipe"])
        assert origin["version"] == run["code"]["version"]
        assert origin["source_sha256"] == run["code"]["source_sha256"] == provenance.hash_source()
        assert origin["meaning"][origin["stage"]] == provenance.MEANING[origin["stage"]]
        if path.parent.name != "manifest":
            assert origin["inputs_sha256"] == expected[path.stem]


def test_running_again_looks_at_the_inputs_and_does_nothing(finished: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in finished.glob("out/*/*-0*.*")}
    ran = run(finished)
    assert ran.status == 0
    # The verdict is planned before it is known that there is nothing to do; it reads one file.
    assert ran.jobs == {"manifest": 1, "verdict": 1, "all": 1}
    assert {path: path.stat().st_mtime_ns for path in finished.glob("out/*/*-0*.*")} == before
    assert "Nothing to be done" in run(finished, "--dry-run").output


def test_two_runs_give_the_same_bytes(finished: Path) -> None:
    assert run(finished, outdir="again").status == 0
    ours, again = (sha256s(finished / outdir) for outdir in ("out", "again"))
    assert ours == again
    shutil.rmtree(finished / "again")


def test_deleting_one_part_recomputes_that_part_and_what_follows(finished: Path) -> None:
    before = table(finished / "out" / "predictions")
    untouched = finished / "out" / "logits" / "part-00000.parquet"
    changed_at = untouched.stat().st_mtime_ns
    (finished / "out" / "logits" / "part-00001.parquet").unlink()
    ran = run(finished)
    assert ran.status == 0, ran.output
    # Part 1 holds the third shard alone; its segments were removed after inference.
    assert ran.jobs == {
        "manifest": 1,
        "preprocess": 1,
        "infer": 1,
        "aggregate": 1,
        "umap": 1,
        **dict.fromkeys(("examples", "attribute", "summary", "figures", "report", "verdict", "all"), 1),
    }
    assert untouched.stat().st_mtime_ns == changed_at
    pd.testing.assert_frame_equal(table(finished / "out" / "predictions"), before)


def test_a_changed_threshold_infers_nothing_again(finished: Path) -> None:
    (finished / "labels.csv").write_text(LABELS.replace("0.5", "0.7"))
    jobs = run(finished, "--dry-run").jobs
    (finished / "labels.csv").write_text(LABELS)
    assert jobs["report"] == 1
    assert not jobs.keys() & {"checkpoint", "preprocess", "infer"}
    assert "Nothing to be done" in run(finished, "--dry-run").output  # though the file's time is new


def test_the_same_labels_in_another_file_make_nothing_again_and_other_thresholds_infer_nothing(finished: Path) -> None:
    (finished / "mine.csv").write_text(LABELS.replace("0.5", "0.7"))
    jobs = run(finished, "--dry-run", labels="mine.csv").jobs
    assert jobs.keys() == {*SHOWN, "all"}
    (finished / "mine.csv").write_text(LABELS)
    assert "Nothing to be done" in run(finished, "--dry-run", labels="mine.csv").output


def test_a_changed_name_of_a_label_infers_again(finished: Path) -> None:
    (finished / "labels.csv").write_text(LABELS.replace("First", "Foremost"))
    jobs = run(finished, "--dry-run").jobs
    (finished / "labels.csv").write_text(LABELS)
    assert jobs["checkpoint"] == 1
    assert jobs["infer"] == 2


@pytest.mark.parametrize(
    ("settings", "rules"),
    [
        ({"umap": "{min_dist: 0.2}"}, {"umap", *SHOWN}),
        (
            {"preprocess": "{assume_sample_rate: 250}"},
            {"preprocess", "infer", "aggregate", "umap", "attribute", *SHOWN},
        ),
        ({"inference": inference(attention="false")}, SHOWN - {"examples"}),
        (
            {"inference": inference(deterministic="true")},
            {"preprocess", "infer", "aggregate", "umap", "attribute", *SHOWN},
        ),
        ({"report": "{title: Other}"}, SHOWN - {"examples"}),
        ({"report": "{recordings: 3}"}, SHOWN),
        ({"attribution": "{steps: 5}"}, {"attribute", *SHOWN} - {"examples"}),
    ],
)
def test_a_changed_setting_recomputes_from_its_stage_on(
    finished: Path, settings: dict[str, str], rules: set[str]
) -> None:
    assert run(finished, "--dry-run", **settings).jobs.keys() == rules | {"all"}


def test_settings_that_change_no_number_infer_nothing_again(finished: Path) -> None:
    jobs = run(finished, "--dry-run", inference=inference(batch_size=3, max_drift=0.5)).jobs
    assert not jobs.keys() & {"checkpoint", "manifest", "preprocess", "infer", "aggregate", "umap"}


# The precision: a rule chooses it where there is a choice, and what it chose decides what is inferred.


ALWAYS = {"manifest": 1}


def infer(folder: Path, *targets: str, **settings: object) -> Counter[str]:
    """Run as far as run.json, and say which jobs it took."""
    given = inference(**({"device": "auto"} | settings))
    ran = run(folder, "out/run.json", "out/precision/chosen.json", *targets, inference=given)
    assert ran.status == 0, ran.output
    return ran.jobs


def precision(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "out" / "run.json").read_text())["precision"]
    return content


@pytest.fixture(scope="module")
def chosen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run in which the precision was chosen."""
    folder = write_inputs(tmp_path_factory.mktemp("chosen"))
    expected = {"checkpoint": 1, "preprocess": 3, "sample": 1, "precision": 1, "infer": 2, "aggregate": 2, "umap": 1}
    assert infer(folder) == {**ALWAYS, **expected, "summary": 1}
    assert not [*folder.glob("out/segments/*"), *folder.glob("out/precision/sample.*")]
    assert infer(folder) == ALWAYS
    return folder


@pytest.fixture
def restored(chosen: Path, tmp_path: Path) -> Iterator[Path]:
    """That run, which is put back afterwards as it was. A copy's recordings would be elsewhere, and so be others."""
    before = shutil.copytree(chosen, tmp_path / "before")
    yield chosen
    shutil.rmtree(chosen)
    before.rename(chosen)


def test_the_same_precision_chosen_anew_infers_nothing_again(restored: Path) -> None:
    anew = {**ALWAYS, "sample": 1, "precision": 1, "summary": 1}
    assert infer(restored, max_drift=0.5) == anew
    assert infer(restored, precision="float16", device="cpu") == anew  # float32 all the same: a CPU has no float16
    assert precision(restored)["used"] == "float32"
    assert precision(restored)["drift"]["asked"] == "float16"


def test_where_float32_is_certain_nothing_is_compared_nor_inferred_again(restored: Path) -> None:
    assert infer(restored, device="cpu") == {**ALWAYS, "precision": 1, "summary": 1}
    told = precision(restored)
    assert (told["used"], told["drift"]) == ("float32", None)
    assert infer(restored, precision="float32") == {**ALWAYS, "summary": 1}


def test_another_precision_infers_everything_again(restored: Path) -> None:
    jobs = infer(restored, precision="bfloat16", device="cpu")
    if precision(restored)["drift"]["used"] == "float32":
        pytest.skip("this CPU has no bfloat16")
    after = {"infer": 2, "aggregate": 2, "umap": 1, "summary": 1}
    assert jobs == {**ALWAYS, "sample": 1, "precision": 1, "preprocess": 3, **after}
    assert precision(restored)["used"] == "bfloat16"
    assert precision(restored)["drift"]["segments"] == 4  # of the first shard
    assert not [*restored.glob("out/segments/*"), *restored.glob("out/precision/sample.*")]


def test_deleting_the_first_part_infers_it_alone_in_the_precision_chosen_before(restored: Path) -> None:
    part = "out/logits/part-00000.parquet"
    (restored / part).unlink()
    after = {"infer": 1, "aggregate": 1, "umap": 1, "summary": 1}
    assert infer(restored, part) == {**ALWAYS, "preprocess": 2, **after}


def test_a_choice_that_was_lost_is_made_again_and_infers_nothing(restored: Path) -> None:
    shutil.rmtree(restored / "out" / "precision")
    assert infer(restored).keys() - {"summary"} == {"manifest", "sample", "precision"}


def test_other_recordings_have_it_chosen_anew_only_if_they_are_in_the_first_shard(tmp_path: Path) -> None:
    folder = write_inputs(tmp_path)
    infer(folder)
    write_recordings(folder / "input", 8)  # two more in a fourth shard, of the same part as the third
    after = {"infer": 1, "aggregate": 1, "umap": 1, "summary": 1}
    assert infer(folder) == {**ALWAYS, "preprocess": 2, **after}
    (folder / "input" / "recording000.mat").unlink()  # of the first shard, in the first part
    assert infer(folder) == {**ALWAYS, "preprocess": 2, "sample": 1, "precision": 1, **after}
