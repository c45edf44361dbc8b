"""What a run prints on a terminal or into a file: few lines of its own, with everything else in log files."""

import re
from pathlib import Path

import checkpoints
import forked_python
import pytest
from run_workflow import ROOT, Ran, write_recordings

pytestmark = pytest.mark.slow  # half a minute

LABELS = "name,aggregation\nFirst,max\nSecond,mean\nThird,mean\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two recordings, a checkpoint with three outputs, and its labels."""
    write_recordings(tmp_path / "input", 2)
    (tmp_path / "labels.csv").write_text(LABELS)
    (tmp_path / "x.pt").write_bytes(checkpoints.saved(checkpoints.classifier()))
    return tmp_path


def run(folder: Path, *options: str) -> Ran:
    """As a user types it, with the default profile."""
    command = ["-m", "snakemake", "--snakefile", str(ROOT / "Snakefile"), "--cores", "2", *options]
    command += ["--config", "input=input", "checkpoint=x.pt", "labels=labels.csv", "outdir=out"]
    return Ran(*forked_python.run(command, folder, timeout_s=600))


def test_a_run_says_what_it_found_its_plan_and_how_far_it_is(folder: Path) -> None:
    ran = run(folder, "out/predictions/part-00000.parquet")
    assert ran.status == 0, ran.output
    lines = ran.output.splitlines()
    assert len(lines) <= 20
    said = [line for line in lines if not re.match(r" *\d+%", line)]
    assert len(said) < len(lines)  # how far it is
    assert re.match(r"ecgpipe [\d.]+: input -> out$", said[1])
    assert said[2] == "model: ECG-FM, as its checkpoint tells; setting `model` names another"
    assert said[3] == "2 recordings found"
    assert re.match(r"Plan: about .* on 2 CPU cores, up to .* of results on the disk", said[4])
    assert not ran.jobs  # none of Snakemake's own words for a job
    assert "[infer]" in (folder / "out" / "logs" / "infer" / "part-00000.log").read_text()
    assert run(folder, "--dry-run").output.count("Missing output files: out/report.html") == 1


def test_of_a_failed_job_the_error_its_log_and_snakemakes_log_are_named(folder: Path) -> None:
    (folder / "labels.csv").write_text(LABELS.replace("Third,mean\n", ""))
    ran = run(folder)
    assert ran.status != 0
    assert len(ran.output.splitlines()) <= 20
    assert ran.output.count("labels: labels.csv names 2 labels but the checkpoint has 3 outputs") == 1
    assert "checkpoint failed:\n" in ran.output
    assert "    log: out/logs/checkpoint.log\n" in ran.output
    named = re.search(
        r"^all that Snakemake said: (.*\.log); the same command resumes the run$", ran.output, re.MULTILINE
    )
    assert named
    assert "checkpoint manifest:" in Path(named[1]).read_text()
    assert "Traceback" not in ran.output


def test_all_that_snakemake_says_is_shown_where_it_is_asked_for(folder: Path) -> None:
    ran = run(folder, "--logger-ecgpipe-all", "out/manifest/manifest.json")
    assert ran.jobs == {"manifest": 1}
    assert "[manifest] 2 recordings" in ran.output


def test_what_is_no_run_says_in_snakemakes_words_what_came_of_it(folder: Path) -> None:
    assert "Unlocked working directory." in run(folder, "--unlock").output
