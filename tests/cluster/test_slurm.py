"""The whole workflow on a SLURM with the project's own profile: what it asks for, computes and survives."""

import json
import os
import re
from pathlib import Path
from typing import Any, NamedTuple

import checkpoints
import pytest
from cluster.runs import Run, kill_stage, make_way, megabytes_of, minutes_of, stop
from cluster.slurm import LIMIT_MIN, Slurm, processes_of
from run_workflow import Ran, sha256s, snakemake, write_recordings

pytestmark = pytest.mark.slow  # minutes in all on two cores

# Another number of threads could change the last bits of what is computed. On a GPU's partition a job has eight, or as
# many as its node really has.
N = min(8, len(os.sched_getaffinity(0)))
THREADS = ["--cores", "8", "--set-threads", f"infer={N}", f"precision={N}", f"attribute={N}"]
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


# A run that nothing happens to.


class Finished(NamedTuple):
    """What it left: in its folder, in Snakemake's words, and in SLURM's, by rule and wildcards."""

    folder: Path
    ran: Ran
    jobs: dict[str, dict[str, str]]


class Study(NamedTuple):
    """The same of a study, which is asked about with `sacct`."""

    folder: Path
    ran: Ran
    local: dict[str, str]  # hashes of what a local run makes
    submitted: list[str]  # what its jobs did
    accounts: list[str]  # what SLURM's accounting says of all jobs
    cancelled: str
    moved: str


@pytest.fixture(scope="module")
def at_once(
    machine: Slurm, settings: dict[str, Any], tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> tuple[Finished, Study, Finished]:
    """Three runs at a time on a SLURM that keeps accounts, and local ones beside them: most of the time is of waiting.

    Of the study a job is cancelled, and another makes way for somebody else's. The third run has no sizes of shards and
    parts in its settings, and no more than a shard to make.
    """
    own = {key: settings[key] for key in ("checkpoint", "labels")}
    given = {key: value for key, value in settings.items() if key not in own} | {
        "manifest": "{shard_size: 3}",
        "inference": "{shards_per_part: 1, device: cpu}",
        "models": json.dumps({name: {"model": "ecg-fm", **own} for name in "ab"}),
    }
    targets = [f"out/{model}/predictions/part-0000{part}.parquet" for model in "ab" for part in range(2)]
    folder, many, alone, sized = (tmp_path_factory.mktemp(name) for name in ("finished", "study", "alone", "sized"))
    without_sizes = {key: value for key, value in settings.items() if key not in ("manifest", "inference")}

    def first(start: str) -> str:
        """The first job of the study that runs and does what begins like this; an empty text if there is none yet."""
        running = machine.rules(many, "--states=running").items()
        return next((job for job, what in running if what.startswith(start)), "")

    with (
        machine.accounting(),
        Run(many, given, *targets, "--slurm-status-command", "sacct") as study,
        Run(folder, settings) as run,
        Run(sized, without_sizes, "out/records/shard-00000.parquet") as shard,
    ):
        study.until(lambda: bool(first("checkpoint")))
        cancelled = first("checkpoint")
        machine.control("scancel", cancelled)
        study.until(lambda: bool(first("infer")))
        moved = first("infer")
        make_way(machine, moved)
        local = snakemake(alone, *targets, *THREADS, **given)
        request.getfixturevalue("undisturbed")
        ran = [study.end(), run.end(), shard.end()]
        accounts = machine.accounts("--duplicates").splitlines()
    for one in (local, *ran):
        assert one.status == 0, one.output
    jobs, few = (
        {what: machine.job(job) for job, what in machine.rules(one, "--states=all").items()} for one in (folder, sized)
    )
    submitted = list(machine.rules(many, "--states=all").values())
    return (
        Finished(folder, ran[1], jobs),
        Study(many, ran[0], sha256s(alone / "out"), submitted, accounts, cancelled, moved),
        Finished(sized, ran[2], few),
    )


@pytest.fixture(scope="module")
def finished(at_once: tuple[Finished, Study, Finished]) -> Finished:
    return at_once[0]


@pytest.fixture(scope="module")
def study(at_once: tuple[Finished, Study, Finished]) -> Study:
    return at_once[1]


@pytest.fixture(scope="module")
def without_sizes(at_once: tuple[Finished, Study, Finished]) -> Finished:
    return at_once[2]


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


def test_no_job_asks_for_more_time_than_its_partition_allows(finished: Finished) -> None:
    """SLURM would take the job and let it wait for ever (PartitionTimeLimit)."""
    assert minutes_of(finished.jobs["umap"]) == LIMIT_MIN < 240
    others = {what: job for what, job in finished.jobs.items() if what != "umap"}
    assert max(minutes_of(job) for job in others.values()) < LIMIT_MIN
    assert f"umap: asks for 240 minutes, and gets the {LIMIT_MIN} that its SLURM partition" in finished.ran.output
    assert finished.ran.output.count("that its SLURM partition") == 1


def test_the_login_node_does_nothing_but_look_at_the_end(finished: Finished) -> None:
    assert set(re.findall(r"^local(?:rule|checkpoint) (\w+):$", finished.ran.output, re.MULTILINE)) == {
        "verdict",
        "all",
    }


def test_a_shard_is_measured_to_take_minutes_and_asks_for_time_accordingly(without_sizes: Finished) -> None:
    outdir = without_sizes.folder / "out"
    log = next((outdir / "logs").rglob("manifest*.log")).read_text()
    size = json.loads((outdir / "manifest" / "manifest.json").read_text())["shard_size"]
    assert f"shards of {size} recordings: one takes " in log
    assert "(6 were read)" in log
    assert 1000 < size <= 20_000
    assert minutes_of(without_sizes.jobs["preprocess 00000"]) == 10 + size * 4166 // 1_000_000


def test_a_local_run_goes_on_with_the_sizes_that_a_cluster_chose(
    without_sizes: Finished, settings: dict[str, Any]
) -> None:
    given = {key: value for key, value in settings.items() if key not in ("manifest", "inference")}
    before = (without_sizes.folder / "out" / "records" / "shard-00000.parquet").stat().st_mtime_ns
    ran = snakemake(without_sizes.folder, "out/records/shard-00000.parquet", **given)
    assert ran.status == 0, ran.output
    assert "preprocess" not in ran.jobs
    assert (without_sizes.folder / "out" / "records" / "shard-00000.parquet").stat().st_mtime_ns == before
    stored = {
        name: json.loads((without_sizes.folder / "out" / "settings" / f"{name}.json").read_text())
        for name in ("manifest", "infer")
    }
    assert (stored["manifest"]["shard_size"], stored["infer"]["shards_per_part"]) == (None, 5)


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


def test_a_study_of_two_models_has_the_results_of_a_local_one(study: Study) -> None:
    """Each job on a cluster parses the rules again, and has to find the same models in the same job."""
    assert sha256s(study.folder / "out") == study.local
    assert sum(what.startswith("preprocess") for what in study.submitted) == 2  # a shard is read once for both
    assert (study.ran.jobs["manifest"], study.ran.jobs["preprocess"], study.ran.jobs["infer"]) == (1, 2, 4)


def test_a_job_that_sacct_calls_cancelled_by_somebody_is_tried_again(study: Study) -> None:
    assert f"{study.cancelled}|CANCELLED by {os.getuid()}" in study.accounts
    assert sum(what.startswith("checkpoint") for what in study.submitted) == 3  # one of each model, and one again


def test_a_job_that_sacct_calls_preempted_is_waited_for(study: Study) -> None:
    assert {f"{study.moved}|PREEMPTED", f"{study.moved}|COMPLETED"} <= set(study.accounts)


# A run that everything happens to: Snakemake is killed, and the same command given again has to mend that and the rest.


class Disturbed(NamedTuple):
    """What came of it: jobs as SLURM knows them, the ids of those that it happened to."""

    folder: Path
    ran: Ran
    left: list[str]  # in the queue when Snakemake was killed: the first waits, the others run
    happened: dict[str, str]  # cancelled, timed out, killed, out of memory, lost with the node, ...: to which job
    again: dict[str, str]  # the next job for the same
    died: str  # the node
    sacct: str  # what `sacct` says
    drained: list[str]  # on the first node when it was drained, and then those that were submitted until it was back
    jobs: dict[str, dict[str, str]]  # by id


@pytest.fixture(scope="module")
def disturbed(machine: Slurm, settings: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Disturbed:
    folder = tmp_path_factory.mktemp("disturbed")
    before: set[str] = set()

    def jobs(*options: str) -> dict[str, str]:
        """From what they do to the id of the last job that does it, without those of the run before."""
        return {what: job for job, what in machine.rules(folder, *options).items() if job not in before}

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

    before |= machine.rules(folder, "--states=all").keys()
    try:
        with Run(folder, settings, *(f"out/{path}" for path in PREDICTIONS), real="precision") as run:
            # The first node is drained while a job runs there.
            run.until(lambda: "manifest" in jobs("--states=running"))
            drained = [jobs()["manifest"]]
            machine.control("scontrol", "update", "NodeName=n1", "State=DRAIN", "Reason=test")
            machine.control("scontrol", "update", "PartitionName=gpu", "State=DOWN")
            run.until(lambda: jobs("--states=running").keys() >= set(shards))
            cancelled, killed, late = (jobs()[shard] for shard in shards)
            drained += [cancelled, killed, late]
            machine.control("scontrol", "update", "NodeName=n1", "State=RESUME")

            machine.control("scancel", cancelled)
            run.until(lambda: len(processes_of(late)) > 3)
            stop(late)
            machine.control("scontrol", "update", f"JobId={late}", "EndTime=now+1")
            run.until(lambda: kill_stage(killed, "preprocess"))

            # It asks for less than loading PyTorch takes.
            run.until(lambda: "precision" in jobs("--states=pending"))
            greedy = jobs()["precision"]
            machine.control("scontrol", "update", f"JobId={greedy}", "MinMemoryNode=300")
            machine.control("scontrol", "update", "PartitionName=gpu", "State=UP")

            # Two jobs on GPUs run at once, on two nodes: one node dies, and on the other the job makes way.
            run.until(lambda: jobs("--states=running,completed").get("precision", greedy) != greedy)
            machine.control("scontrol", "update", "PartitionName=gpu", "State=DOWN")  # for those that do not run yet
            parts = [f"infer 0000{number}" for number in range(2)]
            run.until(lambda: jobs("--states=pending").keys() >= set(parts))
            machine.control("scontrol", "update", "PartitionName=gpu", "State=UP")
            run.until(lambda: jobs("--states=running").keys() >= set(parts))
            lost, moved = (jobs()[part] for part in parts)
            make_way(machine, moved)
            run.until(lambda: len(processes_of(lost)) > 3)
            died = machine.job(lost)["NodeList"]
            assert machine.kill_node(died) == [lost]
            run.until(lambda: lost not in machine.jobs("--states=running"))  # SLURM has noticed
            run.until(lambda: lost in machine.jobs("--states=running,completed"))  # on the other node
            machine.start_nodes(died)
            ran = run.end()
    finally:
        machine.control("scontrol", "update", "PartitionName=gpu", "State=UP")
    assert ran.status == 0, ran.output
    happened = {"cancelled": cancelled, "killed": killed, "late": late, "greedy": greedy, "lost": lost, "moved": moved}
    again = dict(zip(happened, (jobs("--states=all")[what] for what in (*shards, "precision")), strict=False))
    numbers = [*left, *drained, *happened.values(), *again.values()]
    return Disturbed(
        folder,
        ran,
        left,
        happened,
        again,
        died,
        machine.accounts(),
        drained,
        {number: machine.job(number) for number in numbers},
    )


def test_whatever_happened_the_results_are_those_of_an_undisturbed_run(
    disturbed: Disturbed, undisturbed: dict[str, str]
) -> None:
    made = sha256s(disturbed.folder / "out")
    assert made.keys() >= {*PREDICTIONS, *(f"records/shard-0000{shard}.parquet" for shard in range(3))}
    assert made == {path: undisturbed[path] for path in made}
    assert not list((disturbed.folder / "out").rglob(".*.tmp"))


def test_it_needs_no_accounting(disturbed: Disturbed) -> None:
    assert disturbed.sacct == "Slurm accounting storage is disabled\n"


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


def test_a_job_with_more_memory_than_it_asked_for_is_killed_by_slurm_and_tried_again(disturbed: Disturbed) -> None:
    """By SLURM's own accounting of its memory. OUT_OF_MEMORY is what SLURM calls it where it has cgroups."""
    first, second = (disturbed.jobs[jobs["greedy"]] for jobs in (disturbed.happened, disturbed.again))
    assert (first["JobState"], second["JobState"]) == ("FAILED", "COMPLETED")
    log = disturbed.folder / ".snakemake" / "slurm_logs" / "rule_precision" / f"{disturbed.happened['greedy']}.log"
    assert "exceeded memory limit" in log.read_text()
    assert (megabytes_of(first), megabytes_of(second)) == (300, 16000)  # twice what the rule asks for


def test_a_drained_node_ends_what_it_runs_and_is_given_nothing_more(disturbed: Disturbed) -> None:
    ran, *later = (disturbed.jobs[job] for job in disturbed.drained)
    assert (ran["JobState"], ran["Restarts"], ran["NodeList"]) == ("COMPLETED", "0", "n1")
    assert [job["NodeList"] for job in later] == ["n2"] * 3


def test_a_job_whose_node_died_is_started_again_by_slurm_on_another(disturbed: Disturbed) -> None:
    job = disturbed.jobs[disturbed.happened["lost"]]
    assert (job["JobState"], job["Restarts"]) == ("COMPLETED", "1")
    assert {job["NodeList"], disturbed.died} == {"n1", "n2"}


def test_a_job_that_makes_way_for_another_is_started_again_by_slurm(disturbed: Disturbed) -> None:
    job = disturbed.jobs[disturbed.happened["moved"]]
    assert (job["JobState"], job["Restarts"]) == ("COMPLETED", "1")
