"""Results belong to their settings, whatever folder they are used from, and wherever they are moved."""

import json
import os
import shutil
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import checkpoints
import every_setting
import pyarrow.parquet as pq
import pytest
import torch
from run_workflow import Ran, snakemake, table, write_recordings

from ecgpipe.core import results, settings
from ecgpipe.workflow import reuse, run_lock

pytestmark = pytest.mark.slow  # three minutes in all

# What a run does when there is nothing to do: it looks at the inputs. The verdict is planned before that.
SCAN = {"manifest", "verdict", "all"}

# The rules that run when the settings of a stage have changed.
SHOWN = {"figures", "report", "verdict"}
PREDICTED = {"aggregate", "examples", "attribute", "evaluate", "summary", *SHOWN}
INFERRED = {"preprocess", "infer", "umap", *PREDICTED}  # segments are not kept
FOLLOWS = {
    "checkpoint": {"checkpoint", *INFERRED},
    "preprocess": INFERRED,
    "infer": INFERRED,
    "aggregate": PREDICTED,
    "umap": {"umap", "examples", "summary", *SHOWN},
    "examples": {"examples", *SHOWN},
    "attribute": {"attribute", *SHOWN},
    "evaluate": {"evaluate", "examples", *SHOWN},  # among the examples are wrong predictions
    "summary": {"summary", *SHOWN},
    "figures": {"figures"},
    "report": {"report", "verdict"},
    "verdict": {"verdict"},
}


def write_inputs(folder: Path) -> None:
    """What `every_setting.base` names, all of it real."""
    every_setting.write_files(folder)
    for name, count in {"input": 6, "other": 2}.items():
        write_recordings(folder / name, count)
    content = checkpoints.classifier(stride=4)
    (folder / "x.pt").write_bytes(checkpoints.saved(content))
    content["model"]["proj.bias"] = content["model"]["proj.bias"] + torch.ones(3)
    (folder / "y.pt").write_bytes(checkpoints.saved(content))
    os.utime(folder / "y.pt", (1_000_000_000, 1_000_000_000))  # older than any result
    for name, third in {"truth.csv": "0,1,0", "other.csv": "1,1,0"}.items():
        labels = ["1,0,1", "0,1,0", third, "1,0,0", "0,0,1", "1,1,0"]
        rows = [f"recording{i:03d},p{i},{8 + i % 2},{'FM'[i % 2]},{one}" for i, one in enumerate(labels)]
        (folder / name).write_text("\n".join(["record_id,patient,fold,sex,First,Second,first", *rows]) + "\n")


class Data:
    """Inputs, and settings that name them by whole paths."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        write_inputs(folder)

    def settings(self, out: Path, *keys: str) -> dict[str, str]:
        """Those of `every_setting.base`, with another value for some keys, as `--config` takes them."""
        given = every_setting.base()
        for key in keys:
            one = every_setting.base(key, every_setting.CHANGES[key][0])
            given |= {name: merged(given.get(name), value) for name, value in one.items()}
        given["outdir"] = str(out)
        given["labels"] = str(self.folder / given["labels"])
        given["input"] = str(self.folder / given["input"])
        given["checkpoint"] = str(self.folder / given["checkpoint"])
        given.pop("sha256", None)  # of a checkpoint that is another one here
        for name in {"calibration"} & given.keys():
            given[name] = str(self.folder / given[name])
        if "heads" in given:
            given["heads"] = [str(self.folder / name) for name in given["heads"]]
        if given["evaluation"].get("truth"):
            given["evaluation"]["truth"] = str(self.folder / given["evaluation"]["truth"])
        return {key: value if isinstance(value, str) else json.dumps(value) for key, value in given.items()}


def merged(before: object, value: object) -> Any:  # noqa: ANN401, as in a settings file
    """Another value for a setting; a section keeps what the other one does not have."""
    return {**before, **value} if isinstance(before, dict) and isinstance(value, dict) else value


def run(where: Path, given: dict[str, str], *options: str, **more: str) -> Ran:
    """Run in a working folder."""
    where.mkdir(exist_ok=True)
    return snakemake(where, *options, **(given | more))


def done(where: Path, given: dict[str, str], *options: str, **more: str) -> Counter[str]:
    """The jobs of a run, or of a dry run, that ends well."""
    ran = run(where, given, *options, **more)
    assert ran.status == 0, ran.output
    return ran.jobs


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Data:
    return Data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def finished(data: Data, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run, `out`, and of the working folder that it ran from, `a`. Tests leave it finished."""
    folder = tmp_path_factory.mktemp("run")
    done(folder / "a", data.settings(folder / "out"))
    return folder


def hashes(out: Path) -> dict[str, bytes]:
    """What is there, by name, and when it was written."""
    return {str(path): bytes(str(path.stat().st_mtime_ns), "ascii") for path in out.rglob("*.*") if path.is_file()}


def test_every_result_names_the_settings_that_made_it(finished: Path) -> None:
    from ecgpipe.workflow import reuse

    out = finished / "out"
    expected = {path.stem for path in (out / "settings").glob("*.json")} - {"performance", "written", "checkpoint-file"}
    assert expected == set(settings.STAGES)
    for stage in settings.STAGES:
        found = [path for pattern in results.patterns_of(stage) for path in out.glob(pattern)]
        assert found
        written = json.loads((out / "settings" / f"{stage}.json").read_text())
        for path in found:
            assert (reuse.read_made_by(path) or {})[stage] == settings.hash_json(written), path


def test_from_another_folder_nothing_is_computed_again(finished: Path, data: Data) -> None:
    assert done(finished / "b", data.settings(finished / "out")).keys() == SCAN
    assert "Nothing to be done" in run(finished / "c", data.settings(finished / "out"), "--dry-run").output


def groups() -> Iterator[tuple[frozenset[str], list[str]]]:
    """Settings that change the same stages; test_settings.py of the unit tests sees to it that each does."""
    found: dict[frozenset[str], list[str]] = {}
    for key, (_, stages) in every_setting.CHANGES.items():
        if key not in ("outdir", "models"):  # with models it is not this run any more
            found.setdefault(frozenset(stages), []).append(key)
    yield from found.items()


def test_every_setting_makes_again_what_depends_on_it_from_the_same_folder_another_one_and_after_a_move(
    finished: Path, data: Data
) -> None:
    before = hashes(finished / "out")

    def jobs(place: tuple[Path, Path, frozenset[str], list[str]]) -> Ran:
        where, out, stages, keys = place
        given = data.settings(out, *(keys if not stages else keys[:1]))
        return run(where, given, "--dry-run")

    def check(where: Path, out: Path) -> None:
        cases = [(where, out, stages, keys) for stages, keys in groups()]
        with ThreadPoolExecutor(2) as threads:
            for (_, _, stages, keys), ran in zip(cases, threads.map(jobs, cases), strict=True):
                assert ran.status == 0, ran.output
                if "manifest" in stages or "precision" in stages:  # what follows is not known before they have run
                    assert ran.jobs.keys() & {"manifest", "precision"} == stages & {"manifest", "precision"}, keys
                else:
                    expected = set().union(*(FOLLOWS[stage] for stage in stages), {"all"} if stages else set())
                    if keys[0] == "inference.backend":
                        expected -= {"attribute"}  # it is switched off
                    assert ran.jobs.keys() == expected, (keys, ran.output)

    check(finished / "a", finished / "out")
    (finished / "new").mkdir(exist_ok=True)
    check(finished / "new", finished / "out")
    moved = (finished / "out").rename(finished / "moved")
    try:
        check(finished / "new", moved)
    finally:
        moved.rename(finished / "out")
    assert hashes(finished / "out") == before  # dry runs change nothing
    assert "Nothing to be done" in run(finished / "new", data.settings(finished / "out"), "--dry-run").output


def test_what_only_looks_at_the_workflow_leaves_the_settings_alone(finished: Path, data: Data) -> None:
    before = hashes(finished / "out" / "settings")
    given = data.settings(finished / "out", "umap.neighbors")
    for option in ("--rulegraph", "--summary"):
        done(finished / "a", given, option)
    done(finished / "a", data.settings(finished / "out"), "--touch")
    assert hashes(finished / "out" / "settings") == before
    assert "umap" in done(finished / "a", given, "--dry-run")
    assert "Nothing to be done" in run(finished / "a", data.settings(finished / "out"), "--dry-run").output


def test_while_another_run_has_the_folder_nothing_of_its_settings_is_written(
    finished: Path, data: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = hashes(finished / "out" / "settings")
    monkeypatch.setenv("ECGPIPE_RUN", "")
    lock = run_lock.take(finished / "out")
    assert lock is not None
    ran = run(finished / "b", data.settings(finished / "out", "umap.neighbors"))
    lock.release()
    assert ran.status != 0
    assert f"outdir: another run is at work in {finished / 'out'}" in ran.output
    assert hashes(finished / "out" / "settings") == before


def test_a_truth_that_cannot_be_evaluated_leaves_report_evaluation_and_run_of_one_another(
    finished: Path, data: Data
) -> None:
    given, page = data.settings(finished / "out"), finished / "out" / "report.html"
    assert "True labels" in page.read_text() or "evaluation" in page.read_text()
    wrong = data.folder / "wrong.csv"
    wrong.write_text("record_id,First\nnobody,1\n")
    ran = run(finished / "b", given, evaluation=json.dumps({"truth": str(wrong)}))
    assert ran.status != 0
    assert "evaluation.truth: no recording has both a prediction and a true label" in ran.output
    account = json.loads((finished / "out/evaluation/account.json").read_text())
    assert (reuse.read_made_by(page) or {})["evaluate"] == account["settings"]["evaluate"]
    assert str(wrong) not in (finished / "out/run.json").read_text()
    assert done(finished / "a", given).keys() == {*SCAN, "evaluate", "examples", "summary", "figures", "report"}
    assert page.exists()


def test_what_is_switched_off_is_not_shown(finished: Path, data: Data) -> None:
    given = data.settings(finished / "out")
    off = {"inference": json.dumps({"shards_per_part": 2, "device": "cpu", "attention": False})}
    off |= {"attribution": "{recordings: 0}"}
    jobs = done(finished / "b", {name: value for name, value in given.items() if name != "evaluation"}, **off)
    # Among the examples were wrong predictions, which nobody knows without true labels.
    assert jobs.keys() == {*SCAN, "examples", "summary", "figures", "report"}
    chosen = pq.read_table(finished / "out" / "examples.parquet")["why"].to_pylist()
    kinds = [why["kind"] for reasons in chosen for why in reasons]
    assert kinds
    assert not {"false_positive", "false_negative"} & set(kinds)
    page = (finished / "out" / "report.html").read_text()
    assert not [name for name in ("attention", "attribution", "evaluation") if f'href="{name}"' in page]
    content = json.loads((finished / "out" / "run.json").read_text())
    assert not content["config"]["inference"]["attention"]
    assert not {"attribute", "evaluate"} & content["settings"].keys()
    assert done(finished / "a", given).keys() == {*SCAN, "examples", "summary", "figures", "report"}


# The settings change for real, over a run that goes as far as logits. (Of what follows from them Snakemake plans the
# next job before it knows that there is nothing to do.)


@pytest.fixture
def inferred(data: Data, tmp_path: Path) -> tuple[Path, dict[str, str], str]:
    """Of a run from folder `a`: the folder, its settings and its target."""
    target = f"{tmp_path}/out/logits/part-00000.parquet"
    given = data.settings(tmp_path / "out") | {"input": str(data.folder / "other")}
    done(tmp_path / "a", given, target)
    return tmp_path, given, target


def test_one_folder_after_the_other_gets_what_its_own_settings_say(
    inferred: tuple[Path, dict[str, str], str],
) -> None:
    folder, given, target = inferred
    first = Path(target).read_bytes()
    assert len(table(folder / "out" / "logits")) == 4
    made = {"manifest", "preprocess", "infer"}
    assert done(folder / "b", given, target, preprocess="{segment_s: 2.5}").keys() == made
    assert len(table(folder / "out" / "logits")) == 8
    # This folder's .snakemake knows everything as it is to be again.
    assert done(folder / "a", given, target).keys() == made
    assert Path(target).read_bytes() == first
    assert done(folder / "c", given, target).keys() == {"manifest"}


def test_another_checkpoint_of_an_older_time_is_used_and_a_touched_one_is_not(
    inferred: tuple[Path, dict[str, str], str], data: Data
) -> None:
    folder, given, target = inferred
    first = pq.read_table(target)
    os.utime(data.folder / "x.pt")
    assert done(folder / "b", given, target).keys() == {"manifest"}
    jobs = done(folder / "b", given, target, checkpoint=str(data.folder / "y.pt"))
    assert jobs.keys() == {"manifest", "checkpoint", "preprocess", "infer"}
    second = pq.read_table(target)
    assert second["Second"].to_pylist() != first["Second"].to_pylist()


def test_a_copy_that_has_lost_the_times_costs_nothing_and_changed_settings_are_seen_in_it(
    inferred: tuple[Path, dict[str, str], str],
) -> None:
    folder, given, target = inferred
    for name in sorted(path for path in (folder / "out").rglob("*") if path.is_file()):
        copy = folder / "copy" / name.relative_to(folder / "out")
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(name, copy)
    shards = sorted((folder / "copy").rglob("shard-*.parquet"))
    for shard in shards:
        os.utime(shard)  # copied last
    out = str(folder / "copy")
    target = target.replace(f"{folder}/out", out)
    dry = run(folder / "b", given, target, "--dry-run", outdir=out)
    assert "is a copy that lost the times of its files" in dry.output
    assert done(folder / "b", given, target, outdir=out).keys() == {"manifest"}
    assert done(folder / "b", given, target, outdir=out, preprocess="{tail: overlap}")["preprocess"] == 1


def test_results_that_do_not_name_their_settings_are_refused_with_the_way_out(
    inferred: tuple[Path, dict[str, str], str],
) -> None:
    folder, given, target = inferred
    path = folder / "out" / "checkpoint" / "model.json"
    content = json.loads(path.read_text())
    del content["settings"]
    path.write_text(json.dumps(content))
    for options in ([target], [target, "--dry-run"]):
        ran = run(folder / "b", given, *options)
        assert ran.status != 0
        assert "does not say which settings made it, as with ecgpipe 0.1" in ran.output
        assert "Give another outdir" in ran.output
        assert not ran.jobs


def test_three_thousand_inputs_are_no_line_of_the_shell(data: Data, tmp_path: Path) -> None:
    folder = tmp_path / ("long" * 20)
    source = data.folder / "input" / "recording000.mat"
    folder.mkdir()
    for number in range(3000):
        (folder / f"recording{number:04d}.mat").symlink_to(source)
    inputs = sorted(str(path) for path in folder.iterdir())
    assert sum(map(len, inputs)) > 128 * 1024
    given = data.settings(tmp_path / "out")
    del given["input"], given["evaluation"]
    (tmp_path / "mine.yaml").write_text(json.dumps({"input": inputs}))
    target = f"{tmp_path}/out/manifest/manifest.json"
    ran = run(tmp_path, given, target, "--configfile", str(tmp_path / "mine.yaml"))
    assert ran.status == 0, ran.output[-2000:]
    assert json.loads(Path(target).read_text())["n_recordings"] == 3000
