"""Jobs and GPUs: real lock files and real processes, on GPUs that are only said to be there."""

import logging
import multiprocessing
import os
import re
import signal
import stat
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
import torch

from ecgpipe.core.errors import EcgpipeError
from ecgpipe.inference import devices
from ecgpipe.inference.devices import Gpu, claim, has_kernels

GB = 10**9
CPU = torch.device("cpu")
FIRST = Gpu(0, "11111111-aaaa", "Fast GPU", (9, 0), 80 * GB, 80 * GB)
SECOND = Gpu(1, "22222222-bbbb", "Fast GPU", (9, 0), 80 * GB, 80 * GB)

# Each process starts as a copy of one that has imported PyTorch already, but has no threads.
processes = multiprocessing.get_context("forkserver")
processes.set_forkserver_preload(["ecgpipe.inference.devices"])

Pretend = Callable[..., None]
Job = tuple[multiprocessing.process.BaseProcess, Connection]
StartJob = Callable[..., AbstractContextManager[Job]]


@pytest.fixture
def pretend(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Pretend:
    """Make this process see these GPUs, which have the free memory that they say, and lock in a folder of the test."""

    def see(*gpus: Gpu, archs: tuple[str, ...] = ("sm_80", "sm_90")) -> None:
        monkeypatch.setattr(devices, "list_gpus", lambda: list(gpus))
        monkeypatch.setattr(devices, "start_gpu", lambda gpu: gpu.free_bytes)
        monkeypatch.setattr(devices, "query_free_memory", dict)
        monkeypatch.setattr(devices, "LOCKS", tmp_path)
        monkeypatch.setattr(devices, "POLL_S", 0.01)
        monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: list(archs))

    return see


def hold(name: str, gpus: list[Gpu], locks: Path, say: Connection) -> None:
    """Another ecgpipe job: say that it waits, then which device it has, and keep that until it is told to end."""
    devices.list_gpus = lambda: gpus
    devices.start_gpu = lambda gpu: gpu.free_bytes or 0
    devices.query_free_memory = dict
    devices.LOCKS, devices.POLL_S = locks, 0.01
    handler = logging.Handler()
    handler.emit = lambda record: say.send(record.getMessage())  # type: ignore[method-assign]
    devices.logger.addHandler(handler)
    devices.logger.setLevel(logging.INFO)
    with claim(name, GB) as device:
        say.send(str(device))
        say.recv()
    say.send("released")
    say.recv()


@pytest.fixture
def job(tmp_path: Path) -> StartJob:
    """Start another process that claims a device."""

    @contextmanager
    def start(*gpus: Gpu, name: str = "auto") -> Iterator[Job]:
        here, there = processes.Pipe()
        process = processes.Process(target=hold, args=(name, list(gpus), tmp_path, there), daemon=True)
        process.start()
        there.close()  # so that its end is heard
        try:
            yield process, here
        finally:
            process.kill()
            process.join()

    return start


def heard(job: Connection) -> str:
    """What a job says next."""
    assert job.poll(60), "the job says nothing"
    return str(job.recv())


def test_two_jobs_over_two_gpus_get_different_ones_and_a_third_waits(job: StartJob) -> None:
    with job(FIRST, SECOND) as (_, one), job(FIRST, SECOND) as (_, two), job(FIRST, SECOND) as (_, three):
        got = [heard(one), heard(two), heard(three)]  # any of them may be the first
        waiting = [said for said in got if said.startswith("waiting")]
        assert len(waiting) == 1
        assert "cuda:0 (Fast GPU) and cuda:1 (Fast GPU)" in waiting[0]
        assert sorted(set(got) - set(waiting)) == ["cuda:0", "cuda:1"]

        first, last = (one, two, three)[got.index("cuda:0")], (one, two, three)[got.index(waiting[0])]
        first.send("end")
        assert heard(first) == "released"
        assert heard(last) == "cuda:0"


def test_a_killed_job_gives_its_gpu_back(job: StartJob) -> None:
    with job(FIRST) as (holder, held):
        assert heard(held) == "cuda:0"
        with job(FIRST) as (_, waits):
            assert heard(waits).startswith("waiting")
            os.kill(holder.pid or 0, signal.SIGKILL)
            assert heard(waits) == "cuda:0"


def test_a_card_is_one_card_whatever_its_number(job: StartJob, pretend: Pretend) -> None:
    with job(SECOND._replace(number=0)) as (_, other):  # CUDA_VISIBLE_DEVICES=1
        assert heard(other) == "cuda:0"
        pretend(FIRST, SECOND._replace(free_bytes=81 * GB))
        with claim("auto", GB) as device:
            assert device == torch.device("cuda:0")
        pretend(FIRST)  # CUDA_VISIBLE_DEVICES=0: another cuda:0 than that job's
        with claim("cuda:0", GB) as device:
            assert device == torch.device("cuda:0")


def test_a_taken_gpu_is_waited_for_even_if_another_is_too_full(job: StartJob, pretend: Pretend) -> None:
    full = SECOND._replace(free_bytes=1)
    with job(FIRST) as (_, other):
        assert heard(other) == "cuda:0"
        with job(FIRST, full) as (_, waits):
            assert heard(waits) == "waiting: another ecgpipe job has cuda:0 (Fast GPU)"
            assert not waits.poll(0.2)
            other.send("end")
            assert heard(waits) == "cuda:0"


def test_the_gpu_with_the_most_free_memory_comes_first(pretend: Pretend) -> None:
    pretend(FIRST, SECOND._replace(free_bytes=81 * GB))
    with claim("auto", GB) as one, claim("auto", GB) as two:
        assert (one, two) == (torch.device("cuda:1"), torch.device("cuda:0"))
    pretend(FIRST, SECOND)
    with claim("cuda", GB) as one, claim("cuda", GB) as two:
        assert (one, two) == (torch.device("cuda:0"), torch.device("cuda:1"))


def test_a_number_asks_for_that_gpu_alone(job: StartJob, pretend: Pretend) -> None:
    pretend(FIRST, SECOND)
    with claim("cuda:1", GB) as device:
        assert device == torch.device("cuda:1")
        with job(FIRST, SECOND, name="cuda:1") as (_, other):
            assert heard(other) == "waiting: another ecgpipe job has cuda:1 (Fast GPU)"


def test_a_gpu_is_free_again_after_a_job_that_failed(pretend: Pretend) -> None:
    pretend(FIRST)
    for _ in range(2):
        with pytest.raises(ZeroDivisionError), claim("cuda", GB):
            _ = 1 / 0


def test_a_job_that_just_ended_may_keep_its_memory_for_a_moment(
    pretend: Pretend, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend(FIRST)
    free = iter([1, 1, 80 * GB])
    monkeypatch.setattr(devices, "start_gpu", lambda _: next(free))
    with claim("auto", GB) as device:
        assert device == torch.device("cuda:0")


def test_the_cpu_is_everyones() -> None:
    with claim("cpu", GB) as one, claim("cpu", GB) as two:
        assert one == two == CPU


OLD = FIRST._replace(name="Old GPU", capability=(3, 7))
FULL = FIRST._replace(free_bytes=1_500_000_000)
WHY_NOT = {
    "old": (
        OLD,
        r"cuda:0 \(Old GPU\) has compute capability 3.7, and PyTorch .* is built for sm_80 sm_90 alone: install",
    ),
    "full": (FULL, r"cuda:0 \(Fast GPU\) has 1.5 of 80.0 GB free, and 3.0 GB are needed: end what else runs on it"),
}


@pytest.mark.parametrize(("gpu", "reason"), WHY_NOT.values(), ids=WHY_NOT)
def test_a_gpu_that_is_too_old_or_too_full_leaves_the_cpu_or_is_an_error(
    gpu: Gpu, reason: str, pretend: Pretend, caplog: pytest.LogCaptureFixture
) -> None:
    pretend(gpu)
    with claim("auto", 3 * GB) as device:
        assert device == CPU
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert re.fullmatch(f"running on the CPU: {reason}.*", caplog.messages[0])
    for name in ("cuda", "cuda:0"):
        with pytest.raises(
            EcgpipeError, match=f"inference.device: '{name}' is not available: {reason}.*; or give auto or"
        ):
            claim(name, 3 * GB).__enter__()


def test_one_gpu_that_cannot_be_used_does_not_keep_from_another(pretend: Pretend) -> None:
    pretend(
        OLD._replace(free_bytes=90 * GB), SECOND._replace(free_bytes=1), Gpu(2, "33", "Small", (8, 6), 4 * GB, 8 * GB)
    )
    with claim("auto", 3 * GB) as device:
        assert device == torch.device("cuda:2")


def test_a_gpu_that_cannot_be_started_is_not_used(
    pretend: Pretend, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def busy(_: Gpu) -> int:
        raise RuntimeError("CUDA error: all CUDA-capable devices are busy or unavailable\nmore")

    pretend(FIRST)
    monkeypatch.setattr(devices, "start_gpu", busy)
    with claim("auto", GB) as device:
        assert device == CPU
    assert "cannot be started (CUDA error: all CUDA-capable devices are busy or unavailable): see" in caplog.text


def test_a_gpu_that_is_known_to_be_full_is_not_started(pretend: Pretend, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(FIRST)
    monkeypatch.setattr(devices, "query_free_memory", lambda: {FIRST.uuid: 5})
    monkeypatch.setattr(devices, "start_gpu", lambda _: pytest.fail("a context was made on it"))
    with claim("auto", GB) as device:
        assert device == CPU


def test_without_a_gpu_auto_gives_the_reason_and_cuda_is_refused(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(devices, "list_gpus", list)
    monkeypatch.setattr(torch.version, "cuda", None)
    monkeypatch.setattr(torch.version, "hip", None)
    caplog.set_level(logging.INFO)
    with claim("auto", GB) as device:
        assert device == CPU
    built = f"PyTorch {torch.__version__} is built without CUDA: for an NVIDIA GPU, install a build with it"
    assert caplog.messages == [f"running on the CPU: {built}"]
    monkeypatch.setattr(torch.version, "cuda", "12.9")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(EcgpipeError) as caught:
        claim("cuda", GB).__enter__()
    assert str(caught.value) == (
        f"inference.device: 'cuda' is not available: PyTorch {torch.__version__} sees no GPU - "
        "CUDA_VISIBLE_DEVICES is ''; or give auto or cpu"
    )


def test_a_gpu_that_is_not_there_is_refused(pretend: Pretend) -> None:
    pretend(FIRST, SECOND)
    with pytest.raises(EcgpipeError) as caught:
        claim("cuda:2", GB).__enter__()
    assert "PyTorch sees only cuda:0 (Fast GPU), cuda:1 (Fast GPU); or give auto or cpu" in str(caught.value)


@pytest.mark.parametrize("name", ["gpu", "cuda:x", "cuda:-1", "mps", "CPU", ""])
def test_an_invalid_device_is_refused(name: str) -> None:
    with pytest.raises(EcgpipeError) as caught:
        claim(name, GB).__enter__()
    assert str(caught.value) == f"inference.device: {name!r} is not valid; give auto, cpu, cuda or cuda:N"


def test_every_user_can_lock_the_same_file(tmp_path: Path, pretend: Pretend) -> None:
    pretend(FIRST)
    mask = os.umask(0o077)
    try:
        with claim("cuda", GB):
            pass
    finally:
        os.umask(mask)
    assert [path.name for path in tmp_path.iterdir()] == ["ecgpipe-gpu-11111111-aaaa.lock"]
    assert stat.S_IMODE(next(tmp_path.iterdir()).stat().st_mode) == 0o666


def test_a_lock_that_is_used_is_not_old(tmp_path: Path, pretend: Pretend) -> None:
    pretend(FIRST)
    path = tmp_path / "ecgpipe-gpu-11111111-aaaa.lock"
    path.touch()
    os.utime(path, (0, 0))
    with claim("cuda", GB):
        assert path.stat().st_mtime > 0


def test_a_link_in_the_place_of_a_lock_is_not_followed(tmp_path: Path, pretend: Pretend) -> None:
    pretend(FIRST)
    (tmp_path / "precious").write_text("mine")
    (tmp_path / "ecgpipe-gpu-11111111-aaaa.lock").symlink_to(tmp_path / "precious")
    with pytest.raises(EcgpipeError, match=r"11111111-aaaa.lock, which keeps .* cannot be locked .* remove it"):
        claim("cuda", GB).__enter__()
    assert (tmp_path / "precious").read_text() == "mine"


@pytest.mark.parametrize(
    ("capability", "archs", "runs"),
    [
        ((8, 6), "sm_80 sm_90", True),  # same major, higher minor
        ((8, 0), "sm_86", False),
        ((3, 7), "sm_50 sm_80", False),
        ((12, 0), "sm_80 sm_90", False),
        ((12, 0), "sm_80 compute_90", True),  # PTX
        ((7, 5), "compute_80", False),
        ((9, 0), "sm_90a", True),
        ((10, 3), "sm_100a compute_100a", False),
        ((10, 3), "sm_100f", True),
        ((11, 0), "sm_100f compute_100f", False),
        ((9, 0), "gfx90a gfx942", True),  # ROCm: not for us to say
        ((9, 0), "", True),
    ],
)
def test_which_builds_of_pytorch_run_on_a_gpu(capability: tuple[int, int], archs: str, runs: bool) -> None:
    assert has_kernels(capability, archs.split()) is runs


def test_free_memory_is_what_nvidia_smi_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert devices.query_free_memory() == {}
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho 'GPU-1111-aa, 80994'\necho 'GPU-2222-bb, [N/A]'\necho 'GPU-3333-cc, 0'\n")
    program.chmod(0o755)
    assert devices.query_free_memory() == {"1111-aa": 80994 * 2**20, "3333-cc": 0}
    program.write_text("#!/bin/sh\necho 'NVIDIA-SMI has failed'\nexit 9\n")
    assert devices.query_free_memory() == {}


def test_the_cpu_is_described_by_its_model() -> None:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    models = {" ".join(line.partition(":")[2].split()) for line in lines if line.startswith("model name")}
    described = re.fullmatch(r"CPU \((.+)\)", devices.describe(CPU))
    assert described
    assert not models or described[1] in models


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="PyTorch sees no GPU here")
def test_a_real_gpu_is_claimed_and_described() -> None:
    with claim("cuda", GB) as device:
        assert torch.ones(1, device=device).item() == 1
        assert devices.describe(device) == torch.cuda.get_device_name(device)
