"""What jobs ask for."""

import pytest

from ecgpipe.workflow import job_resources


def test_a_job_asks_for_twice_as_much_each_time_and_more_for_more_recordings() -> None:
    amount = job_resources.growing(1000, 400, lambda: 2_500_000)
    assert [amount(None, attempt=attempt) for attempt in (1, 2, 3)] == [2000, 4000, 8000]


def test_without_a_rate_recordings_are_not_counted() -> None:
    def count() -> int:
        raise AssertionError

    assert job_resources.growing(10, 0, count)(None, attempt=1) == 10


def test_a_job_gets_no_more_time_than_its_partition_allows_and_that_is_said_once() -> None:
    said: list[str] = []
    limits = {"umap": 300, "infer": None}
    minutes = job_resources.within_limit(job_resources.growing(240, 0, lambda: 0), limits.get, said.append)
    assert [minutes(None, attempt=attempt, rulename="umap") for attempt in (1, 2, 3)] == [240, 300, 300]
    assert [minutes(None, attempt=attempt, rulename="infer") for attempt in (1, 2, 3)] == [240, 480, 960]
    assert len(said) == 1
    assert said[0].startswith("umap: asks for 480 minutes, and gets the 300 that its SLURM partition allows; ")


@pytest.mark.parametrize(
    ("cores", "gpus", "share", "counted"),
    [(8, 1, 8, 1), (8, 3, 2, 1), (2, 4, 1, 1), (8, None, 8, 1), (None, None, 8, 8), (None, 4, 2, 2)],
)
def test_jobs_on_gpus_share_the_cores(cores: int | None, gpus: int | None, share: int, counted: int) -> None:
    assert job_resources.cores_per_gpu(cores, gpus) == share
    assert job_resources.counted_cores(cores, gpus) == counted


def test_set_threads_comes_before_the_share() -> None:
    assert job_resources.computing_threads(False, 4)(None, threads=1) == 4
    assert job_resources.computing_threads(True, 4)(None, threads=3) == 3


@pytest.mark.parametrize(
    ("setting", "cores", "gpus", "parts"),
    [(None, 8, 1, 3), (None, 8, 4, 6), (None, 8, None, 3), (None, None, None, 20), (1, 8, 4, 1), (50, None, None, 50)],
)
def test_so_many_parts_wait_that_each_gpu_has_one_and_two_are_ready(
    setting: int | None, cores: int | None, gpus: int | None, parts: int
) -> None:
    assert job_resources.parts_ahead(setting, cores, gpus) == parts
