"""A study that is killed with all its jobs: the same command goes on, and ends with what it would have had anyway."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import checkpoints
import pyarrow.parquet as pq
import pytest
from crashing import Run, advance, again, assert_no_file_is_torn, final, resume, settings
from run_workflow import snakemake

pytestmark = pytest.mark.slow

MODELS = ("a", "b")
RESULTS = [f"out/{model}/predictions/part-00000.parquet" for model in MODELS]
BEGINNING = [f"out/{model}/{path}" for model in MODELS for path in ("checkpoint/model.json", "precision/chosen.json")]
# What depends on the day and not on the recordings.
VARYING = ("logs/", "benchmarks/", "settings/", "timing/")


@pytest.fixture(scope="module")
def given(dataset: Path) -> dict[str, str]:
    """The settings of a study of two models, which have other weights."""
    (dataset / "y.pt").write_bytes(checkpoints.saved(checkpoints.classifier(stride=2)))
    models = {
        name: {"model": "ecg-fm", "checkpoint": str(dataset / file), "labels": str(dataset / "labels.csv")}
        for name, file in zip(MODELS, ("x.pt", "y.pt"), strict=True)
    }
    shared = {key: value for key, value in settings(dataset).items() if key not in ("checkpoint", "labels")}
    return {**shared, "models": json.dumps(models)}


@pytest.fixture(scope="module")
def begun(given: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a study that has come to the first jobs of preprocessing."""
    folder = tmp_path_factory.mktemp("begun-study")
    ran = snakemake(folder, *BEGINNING, **given)
    assert ran.status == 0, ran.output
    return folder


@pytest.fixture(scope="module")
def expected(begun: Path, given: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The results of a study that nothing happened to."""
    folder = shutil.copytree(begun, tmp_path_factory.mktemp("undisturbed-study") / "run")
    again(folder, given, *RESULTS)
    return tables(folder / "out")


@pytest.fixture
def study(begun: Path, given: dict[str, str], tmp_path: Path) -> Iterator[tuple[Run, Path]]:
    """A study under way, and the folder of its results. All its processes are ended when the test is over."""
    folder = shutil.copytree(begun, tmp_path / "run")
    run = Run(folder, given, *RESULTS)
    yield run, folder
    run.end()


def tables(out: Path) -> dict[str, Any]:
    """The content of each table by recording, with what it says of itself, and the names of all other results."""
    found: dict[str, Any] = {}
    for path in final(out):
        name = path.relative_to(out).as_posix()
        if path.suffix == ".parquet":
            table = pq.read_table(path)
            keys = [(key, "ascending") for key in ("record_id", "segment", "layer") if key in table.column_names]
            found[name] = (table.sort_by(keys) if keys else table).replace_schema_metadata(table.schema.metadata)
        elif not any(f"{folder}" in name for folder in VARYING):
            found[name] = None
    return found


def assert_as_undisturbed(out: Path, expected: dict[str, Any]) -> None:
    made = tables(out)
    assert made.keys() == expected.keys()
    assert not [
        name
        for name, table in made.items()
        if table is not None and not table.equals(expected[name], check_metadata=True)
    ]
    for model in MODELS:
        sources = json.loads((out / model / "checkpoint" / "model.json").read_text())["source"]
        for path in (out / model).glob("[le][om]*/part-*.parquet"):
            said = json.loads(pq.read_schema(path).metadata[b"ecgpipe"])
            assert sources["sha256"] in json.dumps(said), path


def test_everything_is_killed_while_a_shard_is_read_for_both_models(
    study: tuple[Run, Path], given: dict[str, str], expected: dict[str, Any]
) -> None:
    run, folder = study
    job = run.job("preprocess")
    advance(job, folder / "out", "b/segments/shard-*.arrow")
    run.says("(Rule: preprocess)")  # the other shard's job has ended, and Snakemake has noted it
    run.end()
    assert_no_file_is_torn(folder / "out")
    ran = again(folder, given, *RESULTS)
    assert (ran.jobs["preprocess"], ran.jobs["checkpoint"], ran.jobs["infer"]) == (1, 0, 2)
    assert_as_undisturbed(folder / "out", expected)


def test_everything_is_killed_while_the_second_model_infers(
    study: tuple[Run, Path], given: dict[str, str], expected: dict[str, Any]
) -> None:
    run, folder = study
    resume(run.job("infer"))
    run.says("(Rule: infer)")
    job = run.job("infer")
    model = next(name for name in MODELS if f"out/{name}/logits" in " ".join(job.cmdline()))
    advance(job, folder / "out", f"{model}/embeddings/part-*.parquet")
    run.end()
    ran = again(folder, given, *RESULTS)
    read = sum(count for rule, count in ran.jobs.items() if rule.startswith("preprocess"))
    assert (read, ran.jobs["infer"]) == (0, 1), ran.output
    assert_as_undisturbed(folder / "out", expected)


def test_everything_is_killed_while_the_first_model_infers(
    study: tuple[Run, Path], given: dict[str, str], expected: dict[str, Any]
) -> None:
    run, folder = study
    job = run.job("infer")
    model = next(name for name in MODELS if f"out/{name}/logits" in " ".join(job.cmdline()))
    advance(job, folder / "out", f"{model}/embeddings/part-*.parquet")
    run.end()
    assert_no_file_is_torn(folder / "out")
    ran = again(folder, given, *RESULTS)
    assert (ran.jobs["preprocess"], ran.jobs["checkpoint"], ran.jobs["infer"]) == (0, 0, 2)
    assert_as_undisturbed(folder / "out", expected)
