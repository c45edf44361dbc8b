"""The whole workflow on a SLURM with the project's own profile: what it asks for, computes and survives."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple, Self

import checkpoints
import pytest
from cluster.slurm import Slurm, processes_of
from run_workflow import ROOT, Ran, sha256s, snakemake, write_recordings

pytestmark = pytest.mark.slow  # seven minutes in all on two cores, most of them of waiting

# Another number of threads could change the last bits of what is computed. On a GPU's partition a job has eight, or as
# many as its node really has.
N = min(8, len(os.sched_getaffinity(0)))
THREADS = ["--cores", "8", "--set-threads", f"infer={N}", f"precision={N}", f"attribute={N}"]
# The profile waits a minute, which is right for jobs of half an hour.
POLLING = ["--slurm-init-seconds-before-status-checks", "3", "--max-status-checks-per-second", "1"]
# What a run with faults has to make: no map and no report, which nothing happens to.
PREDICTIONS = [f"predictions/part-0000{part}.parquet" for part in range(2)]


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Those of all runs: six recordings in three shards and two parts, and a small model."""
    folder = tmp_path_factory.mktemp("given")
    write_recordings(folder / "input", 6)
    (folder / "labels.csv").write_text("name,aggregation,threshold\nFirst,max,0.5\nSecond,mean,\nThird,mean,\n")
    (folder / "x.pt").write_bytes(checkpoints.saved(checkpoints.classifier(stride=4)))
    names = {"input": "input", "checkpoint": "x.pt", "labels": "labels.csv"}
    return {key: str(folder / name) for key, name in names.items()} | {
        "outdir": "out",
        "manifest": "{shard_size: 2}",
        "inference": "{shards_per_part: 2}",
        "attribution": "{recordings: 1, steps: 4}",
    }


@pytest.fixture(scope="module")
def undisturbed(settings: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What a local run makes: a hash of each result that is promised to be the same."""
    folder = tmp_path_factory.mktemp("local")
    ran = snakemake(folder, *THREADS, **settings)
    assert ran.status == 0, ran.output
    return sha256s(folder / "out")


class Run:
    """A run on the SLURM that is under way; leaving the context kills what is left of it."""

    def __init__(self, folder: Path, settings: dict[str, Any], *targets: str) -> None:
        self.log = folder / f"run-{time.monotonic_ns()}.log"
        command = [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile")]
        command += ["--workflow-profile", str(ROOT / "profiles" / "slurm"), *POLLING]
        command += ["--logger-ecgpipe-all", *targets]
        command += ["--config", *(f"{key}={value}" for key, value in settings.items())]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                command, cwd=folder, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def until(self, condition: Callable[[], bool]) -> None:
        """Wait until something is so, as long as the run goes on."""
        while not condition():
            assert self.process.poll() is None, f"the run ended too early\n{self.log.read_text()}"
            time.sleep(0.1)

    def end(self) -> Ran:
        """Wait for its end."""
        return Ran(self.process.wait(600), self.log.read_text())

    def kill(self) -> None:
        """Kill Snakemake and what it started on this machine; what is in SLURM's queue stays there."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


# A run that nothing happens to.


class Finished(NamedTuple):
    """What it left: in its folder, in Snakemake's words, and in SLURM's, by rule and wildcards."""

    folder: Path
    ran: Ran
    jobs: dict[str, dict[str, str]]


@pytest.fixture(scope="module")
def finished(machine: Slurm, settings: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Finished:
    folder = tmp_path_factory.mktemp("finished")
    with Run(folder, settings) as run:
        ran = run.end()
    assert ran.status == 0, ran.output
    return Finished(folder, ran, {what: machine.job(job) for job, what in machine.rules("--states=all").items()})


def test_the_results_are_those_of_a_local_run(finished: Finished, undisturbed: dict[str, str]) -> None:
    assert sha256s(finished.folder / "out") == undisturbed


def test_parts_go_to_the_gpu_partition_and_all_else_to_the_cpu_partition(finished: Finished) -> None:
    partitions = {what: job["Partition"] for what, job in finished.jobs.items()}
    on_gpu = {"precision", "infer 00000", "infer 00001", "attribute"}
    assert partitions == {what: "gpu" if what in on_gpu else "cpu" for what in partitions}
    assert {what: job["TresPerJob"] for what, job in finished.jobs.items() if "TresPerJob" in job} == dict.fromkeys(
        on_gpu, "gres:gpu:1"
    )
    assert {what: job["NumCPUs"] for what, job in finished.jobs.items()} == {
        what: "8" if what in on_gpu else "1" for what in partitions
    }


def test_each_job_has_the_memory_and_the_time_that_its_rule_asks_for(finished: Finished) -> None:
    asked = {}
    for rule, block in re.findall(r"^(?:rule|checkpoint) (\w+):\n((?:    .*\n)+)", finished.ran.output, re.MULTILINE):
        number = re.search(r"wildcards: \w+=(\d+)", block)
        memory, minutes = (re.search(rf" {name}=(\d+)", block) for name in ("mem_mb", "runtime"))
        assert memory is not None
        assert minutes is not None
        asked[f"{rule} {number[1]}" if number else rule] = (int(memory[1]), int(minutes[1]))
    assert {what: (megabytes_of(job), minutes_of(job)) for what, job in finished.jobs.items()} == asked


def test_the_login_node_does_nothing_but_look_at_the_end(finished: Finished) -> None:
    assert set(re.findall(r"^local(?:rule|checkpoint) (\w+):$", finished.ran.output, re.MULTILINE)) == {
        "verdict",
        "all",
    }


def test_a_second_run_looks_for_new_recordings_and_does_nothing_else(
    finished: Finished, settings: dict[str, Any]
) -> None:
    before = sha256s(finished.folder / "out")
    with Run(finished.folder, settings) as run:
        ran = run.end()
    assert ran.status == 0, ran.output
    # The verdict reads one file; it is planned before it is known that there is nothing new.
    assert ran.jobs == {"manifest": 1, "verdict": 1, "all": 1}
    assert sha256s(finished.folder / "out") == before


def test_a_study_of_two_models_has_the_results_of_a_local_one(
    machine: Slurm, settings: dict[str, Any], tmp_path: Path
) -> None:
    """Each job on a cluster parses the rules again, and has to find the same models in the same job."""
    own = {key: settings[key] for key in ("checkpoint", "labels")}
    given = {key: value for key, value in settings.items() if key not in own} | {
        "manifest": "{shard_size: 3}",
        "inference": "{shards_per_part: 1, device: cpu}",
        "models": json.dumps({name: {"model": "ecg-fm", **own} for name in "ab"}),
    }
    targets = [f"out/{model}/predictions/part-0000{part}.parquet" for model in "ab" for part in range(2)]
    (tmp_path / "local").mkdir()
    local = snakemake(tmp_path / "local", *targets, *THREADS, **given)
    assert local.status == 0, local.output
    (tmp_path / "cluster").mkdir()
    before = machine.rules("--states=all").keys()
    with Run(tmp_path / "cluster", given, *targets) as run:
        ran = run.end()
    assert ran.status == 0, ran.output
    assert sha256s(tmp_path / "cluster" / "out") == sha256s(tmp_path / "local" / "out")
    submitted = [what for job, what in machine.rules("--states=all").items() if job not in before]
    assert sum(what.startswith("preprocess") for what in submitted) == 2  # a shard is read once for both
    assert (ran.jobs["manifest"], ran.jobs["preprocess"], ran.jobs["infer"]) == (1, 2, 4)


# A run that everything happens to: Snakemake is killed, and the same command given again has to mend that and the rest.


class Disturbed(NamedTuple):
    """What came of it: jobs as SLURM knows them, the ids of those that it happened to."""

    folder: Path
    ran: Ran
    left: list[str]  # in the queue when Snakemake was killed: the first waits, the others run
    happened: dict[str, str]  # cancelled, timed out, killed, lost with the node: to which job
    again: dict[str, str]  # the next job for the same
    jobs: dict[str, dict[str, str]]  # by id


@pytest.fixture(scope="module")
def disturbed(machine: Slurm, settings: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Disturbed:
    folder = tmp_path_factory.mktemp("disturbed")
    before = machine.rules("--states=all").keys()

    def jobs(*options: str) -> dict[str, str]:
        """From what they do to the id of the last job that does it, without those of runs before."""
        return {what: job for job, what in machine.rules(*options).items() if job not in before}

    shards = [f"preprocess 0000{number}" for number in range(3)]

    # One job waits for ever, so that some wait and some run when Snakemake is killed, by leaving the context.
    try:
        with Run(folder, settings, *(f"out/{path}" for path in PREDICTIONS)) as run:
            run.until(lambda: jobs("--states=running,completed").keys() >= {"manifest", "checkpoint"})
            machine.control("scontrol", "update", "PartitionName=cpu", "State=DOWN")
            run.until(lambda: jobs("--states=pending").keys() >= set(shards))
            held = jobs()[shards[0]]
            machine.control("scontrol", "hold", held)
            machine.control("scontrol", "update", "PartitionName=cpu", "State=UP")
            run.until(lambda: jobs("--states=running").keys() >= set(shards[1:]))
    finally:
        machine.control("scontrol", "update", "PartitionName=cpu", "State=UP")
    left = [held, *jobs("--states=running").values()]

    before = machine.rules("--states=all").keys()
    with Run(folder, settings, *(f"out/{path}" for path in PREDICTIONS)) as run:
        run.until(lambda: jobs("--states=running").keys() >= set(shards))
        cancelled, late, killed = (jobs()[shard] for shard in shards)
        machine.control("scancel", cancelled)
        run.until(lambda: len(processes_of(late)) > 3)
        for pid in processes_of(late):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSTOP)
        machine.control("scontrol", "update", f"JobId={late}", "EndTime=now+1")
        run.until(lambda: kill_stage(killed, "preprocess"))

        run.until(lambda: any("infer" in what for what in jobs("--states=running")))
        lost = next(job for what, job in jobs("--states=running").items() if "infer" in what)
        run.until(lambda: len(processes_of(lost)) > 3)
        assert lost in machine.kill_node()
        run.until(lambda: lost not in machine.jobs("--states=running"))  # SLURM has noticed
        machine.start_node()

        ran = run.end()
    assert ran.status == 0, ran.output
    happened = {"cancelled": cancelled, "late": late, "killed": killed, "lost": lost}
    again = dict(zip(happened, (jobs("--states=all")[shard] for shard in shards), strict=False))
    numbers = [*left, *happened.values(), *again.values()]
    return Disturbed(folder, ran, left, happened, again, {number: machine.job(number) for number in numbers})


def kill_stage(job: str, stage: str) -> bool:
    """Kill the command of a job that computes, as the kernel does when memory runs out, if it is there yet."""
    for pid in processes_of(job):
        with suppress(OSError):
            if Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[1:4] == [b"-m", b"ecgpipe", stage.encode()]:
                os.kill(pid, signal.SIGKILL)
                return True
    return False


def megabytes_of(job: dict[str, str]) -> int:
    """The memory that a job asked for; SLURM says 2000M or 8G."""
    amount = job["MinMemoryNode"]
    return int(amount[:-1]) * {"M": 1, "G": 1024}[amount[-1]]


def minutes_of(job: dict[str, str]) -> int:
    """The time that a job asked for; SLURM says 1-04:10:00, or 00:10:00 below a day."""
    days, _, clock = job["TimeLimit"].rpartition("-")
    hours, minutes, _ = map(int, clock.split(":"))
    return (int(days or 0) * 24 + hours) * 60 + minutes


def test_whatever_happened_the_results_are_those_of_an_undisturbed_run(
    disturbed: Disturbed, undisturbed: dict[str, str]
) -> None:
    made = sha256s(disturbed.folder / "out")
    assert made.keys() >= {*PREDICTIONS, *(f"records/shard-0000{shard}.parquet" for shard in range(3))}
    assert made == {path: undisturbed[path] for path in made}
    assert not list((disturbed.folder / "out").rglob(".*.tmp"))


def test_jobs_that_a_killed_run_left_in_the_queue_are_cancelled_by_the_next(disturbed: Disturbed) -> None:
    assert len(disturbed.left) >= 3
    assert disturbed.jobs[disturbed.left[0]]["JobState"] == "CANCELLED"
    began = min(disturbed.jobs[job]["SubmitTime"] for job in disturbed.happened.values())
    assert all(disturbed.jobs[job]["EndTime"] <= began for job in disturbed.left)  # none beside the next run's


def test_a_cancelled_job_is_tried_again(disturbed: Disturbed) -> None:
    first, second = (disturbed.jobs[jobs["cancelled"]] for jobs in (disturbed.happened, disturbed.again))
    assert (first["JobState"], second["JobState"]) == ("CANCELLED", "COMPLETED")


def test_a_job_past_its_time_is_tried_again_with_twice_the_time(disturbed: Disturbed) -> None:
    first, second = (disturbed.jobs[jobs["late"]] for jobs in (disturbed.happened, disturbed.again))
    assert (first["JobState"], second["JobState"]) == ("TIMEOUT", "COMPLETED")
    unchanged = disturbed.jobs[disturbed.happened["killed"]]  # the first's own was cut, so that it is over soon
    assert minutes_of(second) == 2 * minutes_of(unchanged)


def test_a_job_that_the_kernel_killed_is_tried_again_with_twice_the_memory(disturbed: Disturbed) -> None:
    first, second = (disturbed.jobs[jobs["killed"]] for jobs in (disturbed.happened, disturbed.again))
    assert (first["JobState"], second["JobState"]) == ("FAILED", "COMPLETED")
    assert megabytes_of(second) == 2 * megabytes_of(first)


def test_a_job_whose_node_died_is_started_again_by_slurm(disturbed: Disturbed) -> None:
    job = disturbed.jobs[disturbed.happened["lost"]]
    assert (job["JobState"], job["Restarts"]) == ("COMPLETED", "1")
