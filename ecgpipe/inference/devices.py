"""Choose the device of a job: a GPU that no other job of this machine uses, or the CPU."""

import logging
import os
import re
import subprocess
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import torch
from filelock import BaseFileLock, FileLock, Timeout

from ecgpipe.core.errors import EcgpipeError
from ecgpipe.core.provenance import find_cpu_name

logger = logging.getLogger(__name__)

# Where the lock files are, for all users of the machine. Not TMPDIR, which Snakemake and SLURM set for each job. And no
# folder of our own in there: whoever made it first could put a link in its place, while /tmp is root's and sticky.
LOCKS = Path("/tmp")  # noqa: S108, fixed names are what a lock needs; filelock opens no link and writes nothing

POLL_S = 1.0  # between two looks whether a GPU has become free
PATIENCE = 5  # looks until a GPU counts as too full: a job that just ended keeps memory until its process is gone


class Gpu(NamedTuple):
    """A GPU as PyTorch numbers it in this process."""

    number: int
    uuid: str  # of the card, whatever its index here
    name: str
    capability: tuple[int, int]  # major, minor
    free_bytes: int | None  # None where only starting the GPU would tell
    total_bytes: int

    def __str__(self) -> str:
        return f"cuda:{self.number} ({self.name})"


@contextmanager
def claim(name: str, least_bytes: int) -> Iterator[torch.device]:
    """Yield a device that no other ecgpipe job of this machine uses meanwhile; the CPU is for all.

    Only GPUs that PyTorch sees are looked at, so CUDA_VISIBLE_DEVICES holds. Of several free ones the one with the most
    free memory is taken, then the lowest index. If all are taken, it waits for the first that becomes free. The GPU is
    made the current one of the calling thread; another thread has to call `torch.cuda.set_device` itself.

    The lock is flock(2) on a file in the node's /tmp that is named by the card's UUID, so it holds between users, and
    between containers and SLURM jobs as far as they share /tmp, and dies with the process however that ends. MIG slices
    are told apart if the driver gives each its own UUID, as it documents for cuDeviceGetUuid_v2. If it gave the card's,
    the jobs on one card's slices would wait for one another. What other programs do on a GPU is not known.

    Args:
        name: `cpu`, `cuda:N`, `cuda` for any GPU, or `auto` for any GPU or else the CPU, and then it logs why.
        least_bytes: Free memory that a GPU has to have.

    Yields:
        `cpu`, or `cuda` with its index.

    Raises:
        EcgpipeError: There is no such device or it cannot be used (never for `auto` and `cpu`), or its lock file
            cannot be opened.
    """
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", name):
        raise EcgpipeError(f"inference.device: {name!r} is not valid; give auto, cpu, cuda or cuda:N")
    if name == "cpu":
        yield torch.device("cpu")
        return
    gpus, reasons = _find_gpus()
    requested = [gpu for gpu in gpus if ":" not in name or gpu.number == int(name.partition(":")[2])]
    if gpus and not requested:
        reasons = [f"PyTorch sees only {', '.join(map(str, gpus))}"]
    archs = torch.cuda.get_arch_list()
    usable = [gpu for gpu in requested if has_kernels(gpu.capability, archs)]
    reasons += [
        f"{gpu} has compute capability {'.'.join(map(str, gpu.capability))}, and PyTorch {torch.__version__} is built "
        f"for {' '.join(archs)} alone: install a build that has it"
        for gpu in requested
        if gpu not in usable
    ]
    locked = _lock_best(usable, least_bytes)
    if isinstance(locked, list):
        reasons += locked
        if name != "auto":
            raise EcgpipeError(
                f"inference.device: {name!r} is not available: {'; '.join(reasons)}; or give auto or cpu"
            )
        logger.log(logging.WARNING if gpus else logging.INFO, "running on the CPU: %s", "; ".join(reasons))
        yield torch.device("cpu")
        return
    gpu, lock = locked
    try:
        yield torch.device("cuda", gpu.number)
    finally:
        with suppress(RuntimeError):  # after an error of CUDA's every call fails
            torch.cuda.empty_cache()  # the next job may look at the memory before this process is gone
        lock.release()


def describe(device: torch.device) -> str:
    """The name of a device for readers, e.g. "NVIDIA H100 80GB HBM3" or "CPU (Intel(R) Xeon(R) Processor)"."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU ({find_cpu_name()})"


def list_gpus() -> list[Gpu]:
    """List the GPUs that PyTorch sees, without a CUDA context, which would take some hundred MB of memory on each."""
    if not torch.cuda.is_available():
        return []
    free = query_free_memory()
    gpus = []
    for index in range(torch.cuda.device_count()):
        card = torch.cuda.get_device_properties(index)
        uuid = str(card.uuid)
        gpus.append(Gpu(index, uuid, card.name, (card.major, card.minor), free.get(uuid), card.total_memory))
    return gpus


def query_free_memory() -> dict[str, int]:
    """Query the GPUs' free memory in bytes by nvidia-smi, without a CUDA context; empty if it is not available."""
    command = ["nvidia-smi", "--query-gpu=uuid,memory.free", "--format=csv,noheader,nounits"]
    try:
        output = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return {}
    rows = (line.partition(",") for line in output.splitlines())
    return {uuid.strip().removeprefix("GPU-"): int(mib) * 2**20 for uuid, _, mib in rows if mib.strip().isdecimal()}


def start_gpu(gpu: Gpu) -> int:
    """Make the GPU the current one and return its free memory in bytes; a CUDA context is made, so hold its lock."""
    torch.cuda.set_device(gpu.number)
    return int(torch.cuda.mem_get_info(gpu.number)[0])


def has_kernels(capability: tuple[int, int], archs: Sequence[str]) -> bool:
    """Whether a PyTorch built for `archs` (`torch.cuda.get_arch_list()`) runs on a GPU of that compute capability.

    Machine code (sm_80) runs on the same major and any higher minor, with the suffix `a` on that capability alone;
    PTX (compute_80) also on all later ones. Source: the CUDA C++ Programming Guide, sections on binary and PTX
    compatibility and on architecture-specific features. Without a list (ROCm has others) there is nothing to check.
    """
    built = [match for arch in archs if (match := re.fullmatch(r"(sm|compute)_(\d+)(\d)([af]?)", arch))]
    for kind, major, minor, suffix in (match.groups() for match in built):
        have = (int(major), int(minor))
        if suffix == "a":
            fits = capability == have
        elif kind == "compute" and not suffix:
            fits = capability >= have
        else:
            fits = capability[0] == have[0] and capability[1] >= have[1]
        if fits:
            return True
    return not built


def _find_gpus() -> tuple[list[Gpu], list[str]]:
    """List the GPUs that PyTorch sees, or the reasons why it sees none."""
    # PyTorch tells the reason in a warning. Of GPUs that are too old it warns too, at length: `claim` says it shorter.
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            gpus = list_gpus()
            reasons = [str(warning.message) for warning in caught]
        except RuntimeError as error:
            gpus, reasons = [], [str(error)]
    if gpus:
        return gpus, []
    if torch.version.cuda is None and torch.version.hip is None:
        return [], [f"PyTorch {torch.__version__} is built without CUDA: for an NVIDIA GPU, install a build with it"]
    reasons = [reason.partition(" (Triggered")[0].splitlines()[0] for reason in reasons]
    if "CUDA_VISIBLE_DEVICES" in os.environ:
        reasons.append(f"CUDA_VISIBLE_DEVICES is {os.environ['CUDA_VISIBLE_DEVICES']!r}")
    return [], [" - ".join([f"PyTorch {torch.__version__} sees no GPU", *reasons])]


def _lock_best(gpus: Sequence[Gpu], least_bytes: int) -> tuple[Gpu, BaseFileLock] | list[str]:
    """Lock the best free GPU, or return why none can be used. Waits while other jobs use all of them."""
    order = sorted(gpus, key=lambda gpu: (-(gpu.free_bytes or 0), gpu.number))
    looks, is_logged = 0, False
    while True:
        in_use, problems = [], []
        for gpu in order:
            lock = _lock(gpu)
            if lock is None:
                in_use.append(gpu)
                continue
            problem = _find_problem(gpu, least_bytes)
            if problem is None:
                return gpu, lock
            lock.release()
            problems.append(problem)
        looks = 0 if in_use else looks + 1
        if looks >= PATIENCE or not order:
            return problems
        if in_use and not is_logged:
            logger.info("waiting: another ecgpipe job has %s", " and ".join(map(str, in_use)))
            is_logged = True
        time.sleep(POLL_S)


def _lock(gpu: Gpu) -> BaseFileLock | None:
    """Lock a GPU; None if another job has it."""
    path = LOCKS / f"ecgpipe-gpu-{gpu.uuid}.lock"
    lock = FileLock(path, mode=0o666, fallback_to_soft=False)  # a soft lock would outlive a killed process
    try:
        lock.acquire(blocking=False)
    except Timeout:
        return None
    except OSError as error:
        raise EcgpipeError(
            f"inference.device: {path}, which keeps two jobs from sharing {gpu}, cannot be locked ({error.strerror}); "
            "remove it or let everyone read and write it, or give cpu"
        ) from error
    with suppress(OSError):
        os.utime(path, follow_symlinks=False)  # old files in /tmp get deleted, and a lock is useless without its file
    return lock


def _find_problem(gpu: Gpu, least_bytes: int) -> str | None:
    """Find the reason why a GPU, whose lock is held, cannot be used now; None if it can."""
    free = query_free_memory().get(gpu.uuid)
    if free is None or free >= least_bytes:  # a full GPU is not filled further by a context
        try:
            free = start_gpu(gpu)
        except RuntimeError as error:
            return f"{gpu} cannot be started ({str(error).splitlines()[0]}): see what nvidia-smi says of it"
    if free < least_bytes:
        numbers = f"{free / 1e9:.1f} of {gpu.total_bytes / 1e9:.1f} GB free, and {least_bytes / 1e9:.1f} GB are needed"
        return f"{gpu} has {numbers}: end what else runs on it"
    return None
