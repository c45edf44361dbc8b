"""Processes that are killed at their work: the same command goes on, and ends with what it would have had anyway."""

import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import psutil  # type: ignore[import-untyped]
import pytest
from crashing import (
    REST,
    RESULTS,
    Start,
    advance,
    again,
    assert_equal,
    assert_no_file_is_torn,
    contents,
    resume,
    unfinished,
    until,
)

pytestmark = pytest.mark.slow  # minutes in all

# What another run than the one that is compared preprocesses in another way.
OTHERWISE = "{segment_s: 0.4}"

# Where Snakemake notes the files that jobs are making.
NOTES = ".snakemake/incomplete"


def kill(process: psutil.Process) -> None:
    process.kill()
    gone, _ = psutil.wait_procs([process], timeout=60)
    assert gone


@pytest.mark.parametrize(
    ("stage", "writing", "orphan"),
    [
        ("preprocess", "segments/shard-*.arrow", "dies too"),
        ("preprocess", "segments/shard-*.arrow", "works on"),
        ("infer", "embeddings/part-*.parquet", "works on"),
    ],
)
def test_snakemake_is_killed_while_a_job_writes(
    stage: str,
    writing: str,
    orphan: str,
    folder: Path,
    given: dict[str, str],
    start: Start,
    undisturbed: Path,
    preprocess: Callable[..., None],
) -> None:
    if stage == "infer":
        preprocess(folder)
    first = start(*RESULTS)
    job = first.job(stage)
    left = advance(job, folder / "out", writing)
    first.kill()
    assert_no_file_is_torn(folder / "out")
    assert left.exists()
    if orphan == "dies too":
        kill(job)
    else:
        resume(job)
    again(folder, given, *RESULTS)
    if orphan == "works on":
        psutil.wait_procs([job], timeout=60)
    assert not job.is_running()
    assert_equal(folder / "out", undisturbed, *REST)


@pytest.mark.parametrize(
    ("stage", "writing", "ends"),
    [
        ("preprocess", None, "after it"),  # has not begun to write when the second run removes what is unfinished
        ("preprocess", None, "before it"),
        ("infer", "embeddings/part-*.parquet", "after it"),
        ("infer", "embeddings/part-*.parquet", "before it"),
    ],
)
def test_what_a_killed_run_left_behind_at_work_does_not_touch_the_results_of_the_next(
    stage: str,
    writing: str | None,
    ends: str,
    folder: Path,
    given: dict[str, str],
    start: Start,
    undisturbed: Path,
    preprocess: Callable[..., None],
) -> None:
    if stage == "infer":
        preprocess(folder, preprocess=OTHERWISE)
    other = start(*RESULTS, preprocess=OTHERWISE)
    job = other.job(stage)
    if writing:
        advance(job, folder / "out", writing)
    other.kill()
    if ends == "after it":
        again(folder, given, *RESULTS)
    resume(job)
    psutil.wait_procs([job], timeout=60)
    assert not job.is_running()
    if ends == "before it":
        again(folder, given, *RESULTS)
    assert_equal(folder / "out", undisturbed, *REST)
    assert not unfinished(folder / "out")
    again(folder, given, *RESULTS)
    assert_equal(folder / "out", undisturbed, *REST)


def test_snakemake_is_killed_before_it_has_noted_what_the_jobs_make_that_it_has_started(
    folder: Path, given: dict[str, str], start: Start, undisturbed: Path
) -> None:
    other = start(*RESULTS, preprocess=OTHERWISE)
    job = other.job("preprocess")
    other.kill()
    shutil.rmtree(folder / NOTES)  # it is killed a few milliseconds earlier
    resume(job)
    psutil.wait_procs([job], timeout=60)
    assert not job.is_running()
    again(folder, given, *RESULTS)
    assert_equal(folder / "out", undisturbed, *REST)


@pytest.mark.parametrize(
    ("stage", "n_files", "made"), [("preprocess", 4, "segments/*.arrow"), ("infer", 4, "logits/*.parquet")]
)
def test_snakemake_is_killed_before_it_has_noted_that_a_job_has_ended(
    stage: str,
    n_files: int,
    made: str,
    folder: Path,
    given: dict[str, str],
    start: Start,
    undisturbed: Path,
    preprocess: Callable[..., None],
) -> None:
    if stage == "infer":
        preprocess(folder, preprocess=OTHERWISE)
    other = start(*RESULTS, preprocess=OTHERWISE)
    job = other.job(stage)
    until(lambda: sum(path.is_file() for path in (folder / NOTES).rglob("*")) == n_files)
    other.send(signal.SIGSTOP)
    resume(job)
    until(lambda: job.status() == psutil.STATUS_ZOMBIE)  # it has ended, and waits for Snakemake to look
    other.kill()
    assert list((folder / "out").glob(made))  # whole files, of which nobody knows with which settings
    again(folder, given, *RESULTS)
    assert_equal(folder / "out", undisturbed, *REST)


def test_a_whole_run_after_snakemake_was_killed(
    folder: Path, given: dict[str, str], start: Start, undisturbed: Path
) -> None:
    first = start()
    first.job("report")
    first.kill()
    assert_no_file_is_torn(folder / "out")
    ran = again(folder, given)
    assert not ran.jobs.keys() & {"checkpoint", "preprocess", "infer", "aggregate", "umap"}
    assert_equal(folder / "out", undisturbed)
    assert_no_file_is_torn(folder / "out")


def test_a_second_run_beside_a_living_one_is_refused_and_does_no_harm(
    folder: Path, start: Start, undisturbed: Path
) -> None:
    first = start(*RESULTS)
    job = first.job("preprocess")
    writes = advance(job, folder / "out", "segments/shard-*.arrow")
    before = contents(folder / "out")
    second = start(*RESULTS)
    assert second.ends() != 0
    assert "outdir: another run is at work in out; wait for it, or give another outdir" in second.output
    assert writes.exists()
    now = contents(folder / "out")  # the first run's other jobs go on, and may have ended since
    assert {name: now.get(name) for name in before} == before
    resume(job)
    assert first.ends() == 0, first.output
    assert not unfinished(folder / "out")
    assert_equal(folder / "out", undisturbed, *REST)


def test_preprocess_is_killed(folder: Path, given: dict[str, str], start: Start, undisturbed: Path) -> None:
    writing = "segments/shard-*.arrow"

    first = start(*RESULTS)
    job = first.job("preprocess")
    advance(job, folder / "out", writing)
    children = job.children()
    kill(job)  # the one that waits; the other one sees it at the next recording
    for child in children:
        child.resume()
    assert first.ends() != 0
    psutil.wait_procs(children, timeout=60)
    assert "Error in rule preprocess:" in first.output
    assert_no_file_is_torn(folder / "out")

    second = start(*RESULTS)
    job = second.job("preprocess")
    advance(job, folder / "out", writing, 1_000_000)
    [works] = job.children()
    works.kill()
    resume(job)
    assert second.ends() != 0
    assert "error: the process that reads the recordings was killed (SIGKILL)" in second.output
    assert "Error in rule preprocess:" in second.output
    assert "Traceback" not in second.output
    assert_no_file_is_torn(folder / "out")

    again(folder, given, *RESULTS)
    assert_equal(folder / "out", undisturbed, *REST)


def test_infer_is_killed_while_it_writes(
    folder: Path, given: dict[str, str], start: Start, undisturbed: Path, preprocess: Callable[..., None]
) -> None:
    preprocess(folder)
    for size in (1, 10_000):  # nothing but the file's beginning, and a row group
        run = start(*RESULTS)
        job = run.job("infer")
        left = advance(job, folder / "out", "embeddings/part-*.parquet", size)
        kill(job)
        assert run.ends() != 0
        assert "Error in rule infer:" in run.output
        assert left.exists()
        assert_no_file_is_torn(folder / "out")
    again(folder, given, *RESULTS)
    assert_equal(folder / "out", undisturbed, *REST)


@pytest.mark.parametrize("how", ["SIGINT", "SIGINT twice", "SIGTERM"])
def test_a_run_that_is_asked_to_stop_ends_its_jobs_and_the_next_goes_on(
    how: str, folder: Path, given: dict[str, str], start: Start, undisturbed: Path
) -> None:
    run = start(*RESULTS)
    job = run.job("preprocess")
    advance(job, folder / "out", "segments/shard-*.arrow")
    if how == "SIGTERM":
        run.send(signal.SIGTERM)
    else:
        run.interrupt()
    if how == "SIGINT twice":
        run.says("Terminating processes on user request")
        run.interrupt()
        run.says("still stopping")
    resume(job)
    assert run.ends() != 0
    assert not job.is_running()
    assert "Traceback" not in run.output
    assert run.output.splitlines()[-1] == "stopped; the same command resumes"
    assert_no_file_is_torn(folder / "out")
    assert not unfinished(folder / "out")
    again(folder, given, *RESULTS)
    assert_equal(folder / "out", undisturbed, *REST)
