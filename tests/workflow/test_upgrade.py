"""A newer ecgpipe over the results of an older one: what computes something else is computed again, and all is said."""

import json
import shutil
from pathlib import Path

import checkpoints
import pytest
from run_workflow import ROOT, Ran, sha256s, snakemake_of, write_recordings

from ecgpipe import __version__
from ecgpipe.core.provenance import MEANING

pytestmark = pytest.mark.slow  # a minute and a half

CHEAP = dict.fromkeys(("manifest", "summary", "figures", "report", "verdict", "all"), 1)


def run(folder: Path, root: Path) -> Ran:
    """Run the workflow that lies in `root`: four recordings in two shards and one part."""
    settings = {"input": "input", "checkpoint": "x.pt", "labels": "labels.csv", "outdir": "out"}
    settings |= {
        "manifest": "{shard_size: 2}",
        "inference": "{device: cpu}",
        "attribution": "{recordings: 1, steps: 4}",
    }
    ran = snakemake_of(root, folder, **settings)
    assert ran.status == 0, ran.output
    return ran


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that this version has finished. The tests go on from one another."""
    folder = tmp_path_factory.mktemp("run")
    write_recordings(folder / "input", 4)
    (folder / "labels.csv").write_text("name,aggregation,threshold\nFirst,max,0.5\nSecond,mean,\nThird,mean,\n")
    (folder / "x.pt").write_bytes(checkpoints.saved(checkpoints.classifier(stride=4)))
    run(folder, ROOT)
    return folder


def newer(folder: Path, version: str, **meaning: int) -> Path:
    """A copy of the project as another version, in which some stages compute something else."""
    root = folder / version
    for name in ("ecgpipe", "workflow", "config", "profiles"):
        shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "Snakefile", root)
    changes = {"__init__.py": {f'__version__ = "{__version__}"': f'__version__ = "{version}"'}}
    changes["core/provenance.py"] = {
        f'"{stage}": {MEANING[stage]},': f'"{stage}": {number},' for stage, number in meaning.items()
    }
    for name, texts in changes.items():
        path = root / "ecgpipe" / name
        content = path.read_text()
        for old, new in texts.items():
            assert content.count(old) == 1
            content = content.replace(old, new)
        path.write_text(content)
    return root


def test_a_version_that_computes_the_same_keeps_everything_and_says_whose_it_is(folder: Path) -> None:
    before = sha256s(folder / "out")
    ran = run(folder, newer(folder, "7.0.0"))
    assert ran.jobs == CHEAP
    says = f"2 of 2 results of preprocess were made by another version of ecgpipe (2 by {__version__}) and kept"
    assert says in ran.output
    after = sha256s(folder / "out")
    # Those that look at everything are written anew, with the new version's name; so is the list of files.
    anew = {"duplicates.parquet", "manifest/files.parquet"}
    assert {name for name in before if before[name] != after[name]} <= anew
    content = json.loads((folder / "out" / "run.json").read_text())
    assert content["code"]["version"] == "7.0.0"
    assert content["made_by"] == {
        stage: {__version__: n}
        for stage, n in {"checkpoint": 1, "preprocess": 2, "infer": 1, "aggregate": 1, "umap": 1}.items()
    }
    assert says in (folder / "out" / "report.html").read_text()


def test_a_stage_that_computes_something_else_is_computed_again_with_what_follows(folder: Path) -> None:
    ran = run(folder, newer(folder, "8.0.0", aggregate=MEANING["aggregate"] + 1))
    assert ran.jobs == {**CHEAP, "aggregate": 1, "examples": 1, "attribute": 1}
    made_by = json.loads((folder / "out" / "run.json").read_text())["made_by"]
    assert made_by["aggregate"] == {"8.0.0": 1}
    assert made_by["infer"] == {__version__: 1}
    assert "results of aggregate were made by another" not in ran.output
    assert "1 of 1 results of infer were made by another" in ran.output


def test_another_meaning_of_the_preprocessing_computes_everything_after_it(folder: Path) -> None:
    ran = run(folder, newer(folder, "9.0.0", preprocess=MEANING["preprocess"] + 1))
    assert ran.jobs == {
        **CHEAP,
        "preprocess": 2,
        **dict.fromkeys(("infer", "aggregate", "umap", "examples", "attribute"), 1),
    }
    made_by = json.loads((folder / "out" / "run.json").read_text())["made_by"]
    assert made_by == {
        "checkpoint": {__version__: 1},
        **{stage: {"9.0.0": n} for stage, n in {"preprocess": 2, "infer": 1, "aggregate": 1, "umap": 1}.items()},
    }
