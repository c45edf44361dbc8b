"""Memory and disks that run out: the run says so, and the same command goes on when there is more."""

import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import psutil  # type: ignore[import-untyped]
import pytest
from crashing import REST, RESULTS, Start, advance, again, assert_equal, assert_no_file_is_torn, resume, until
from run_workflow import write_recordings

pytestmark = pytest.mark.slow  # minutes in all

CGROUPS = Path("/sys/fs/cgroup")


class Memory:
    """A control group of the kernel, version 1 or 2, with little memory."""

    def __init__(self, size: int) -> None:
        legacy = (CGROUPS / "memory" / "memory.limit_in_bytes").exists()
        if not legacy and "memory" not in _text(CGROUPS / "cgroup.subtree_control"):
            pytest.skip("there is no control group with a memory controller here")
        self.folder = (CGROUPS / "memory" if legacy else CGROUPS) / f"ecgpipe-test-{os.getpid()}"
        limits = ["memory.limit_in_bytes", "memory.memsw.limit_in_bytes"] if legacy else ["memory.max"]
        self._counts = self.folder / ("memory.oom_control" if legacy else "memory.events")
        try:
            self.folder.mkdir()
            for name in limits:
                if (self.folder / name).exists():
                    (self.folder / name).write_text(str(size))
            if (self.folder / "memory.swap.max").exists():
                (self.folder / "memory.swap.max").write_text("0")
        except OSError as error:
            with suppress(OSError):
                self.folder.rmdir()
            pytest.skip(f"no control group can be made here ({error})")

    def take(self, process: psutil.Process) -> None:
        """Have a process in it from now on: what it has taken before does not count."""
        (self.folder / "cgroup.procs").write_text(str(process.pid))

    @property
    def killed(self) -> int:
        """How many of its processes the kernel has killed for want of memory."""
        counts = dict(line.split() for line in self._counts.read_text().splitlines())
        return int(counts["oom_kill"])

    def end(self) -> None:
        """Remove it, when the last of its processes is gone."""

        def removed() -> bool:
            with suppress(OSError):
                self.folder.rmdir()
            return not self.folder.exists()

        until(removed, 0.1)


def _text(path: Path) -> str:
    return path.read_text() if path.exists() else ""


@pytest.fixture
def little_memory(start: Start) -> Iterator[Memory]:
    """A control group with 4 MiB; it is ended before the runs whose jobs are in it."""
    memory = Memory(4 * 2**20)
    yield memory
    for pid in (memory.folder / "cgroup.procs").read_text().split():
        psutil.Process(int(pid)).kill()
    memory.end()


def test_the_kernel_kills_what_reads_recordings(
    folder: Path, given: dict[str, str], start: Start, undisturbed: Path, little_memory: Memory
) -> None:
    run = start(*RESULTS)
    job = run.job("preprocess")
    advance(job, folder / "out", "segments/shard-*.arrow")
    [reads] = job.children()
    little_memory.take(reads)
    resume(job)
    assert run.ends() != 0
    assert little_memory.killed == 1
    assert "Error in rule preprocess:" in run.output
    says = "error: the process that reads the recordings was killed (SIGKILL), as the system does when memory runs out"
    assert says in run.output
    assert "Traceback" not in run.output
    assert_no_file_is_torn(folder / "out")
    again(folder, given, *RESULTS)
    assert_equal(folder / "out", undisturbed, *REST)


def test_the_kernel_kills_inference(
    folder: Path,
    given: dict[str, str],
    start: Start,
    undisturbed: Path,
    little_memory: Memory,
    preprocess: Callable[..., None],
) -> None:
    preprocess(folder)
    run = start(*RESULTS)
    job = run.job("infer")
    little_memory.take(job)
    resume(job)
    assert run.ends() != 0
    assert little_memory.killed == 1
    assert "Error in rule infer:" in run.output
    assert_no_file_is_torn(folder / "out")
    again(folder, given, *RESULTS)
    assert_equal(folder / "out", undisturbed, *REST)


def test_a_limit_of_the_users_own_is_not_taken_for_a_recording_that_is_too_large(
    folder: Path, given: dict[str, str], start: Start, tmp_path: Path
) -> None:
    write_recordings(tmp_path / "large", 1, seconds=4000)  # 192 MB while it is prepared
    given = given | {"input": str(tmp_path / "large"), "preprocess": "{segment_s: 5}"}
    undisturbed = tmp_path / "undisturbed"
    undisturbed.mkdir()
    accounts = ("out/records/shard-00000.parquet",)
    again(undisturbed, given, *accounts)
    says = "from ecgpipe.preprocessing import preprocess; print(open('/proc/self/statm').read().split()[5])"
    begins_with = int(subprocess.run([sys.executable, "-c", says], capture_output=True, check=True).stdout)
    limit = begins_with * resource.getpagesize() + 100 * 2**20
    run = start(*accounts, **given)
    job = run.job("preprocess")  # before it has begun to read, or the process that does
    job.rlimit(psutil.RLIMIT_DATA, (limit, limit))
    resume(job)
    assert run.ends() != 0
    assert "does not fit into what a process may have here (ulimit -v, -d); allow more" in run.output
    assert "Traceback" not in run.output
    assert_no_file_is_torn(folder / "out")
    again(folder, given, *accounts)
    assert (folder / accounts[0]).read_bytes() == (undisturbed / accounts[0]).read_bytes()


@pytest.fixture
def small_disk(folder: Path) -> Iterator[Callable[[str], None]]:
    """Have the results on a disk of their own of 64 MiB; a function that gives it another size."""
    if os.geteuid() or not shutil.which("mount"):
        pytest.skip("only root can mount a disk")
    outdir = folder / "out"
    begun = outdir.rename(folder / "begun")
    outdir.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64m", "ecgpipe-test", str(outdir)],  # noqa: S607
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if mounted.returncode:
        pytest.skip(f"no disk can be mounted here ({mounted.stderr.strip()})")
    try:
        shutil.copytree(begun, outdir, dirs_exist_ok=True)
        yield lambda size: _remount(outdir, size)
    finally:
        subprocess.run(["umount", "--lazy", str(outdir)], check=True)  # noqa: S607


def _remount(disk: Path, size: str) -> None:
    subprocess.run(["mount", "-o", f"remount,size={size}", str(disk)], check=True)  # noqa: S607


def fill(folder: Path) -> None:
    """Leave no room on a disk."""
    with (folder / ".ballast").open("wb", buffering=0) as ballast, suppress(OSError):
        while True:
            ballast.write(bytes(2**12))


@pytest.mark.parametrize(
    ("stage", "writing"), [("preprocess", "segments/shard-*.arrow"), ("infer", "embeddings/part-*.parquet")]
)
def test_the_disk_is_full(
    stage: str,
    writing: str,
    folder: Path,
    given: dict[str, str],
    start: Start,
    undisturbed: Path,
    small_disk: Callable[[str], None],
    preprocess: Callable[..., None],
) -> None:
    if stage == "infer":
        preprocess(folder)
    run = start(*RESULTS)
    job = run.job(stage)
    advance(job, folder / "out", writing)
    fill(folder / "out")
    resume(job)
    assert run.ends() != 0
    assert f"Error in rule {stage}:" in run.output
    [*_, said] = [line for line in run.output.splitlines() if line.startswith(f"[{stage}] error: ")]
    assert "No space left on device" in said
    assert said.endswith("; free disk space, or give another outdir")
    assert_no_file_is_torn(folder / "out")

    full = start(*RESULTS)  # as somebody does who has not read that
    assert full.ends() != 0
    assert "No space left on device" in full.output
    assert_no_file_is_torn(folder / "out")

    small_disk("256m")
    again(folder, given, *RESULTS)
    assert_equal(folder / "out", undisturbed, *REST)
