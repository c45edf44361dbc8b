"""A SLURM of one node on this machine, with a feigned GPU: real daemons, without cgroups and without accounting."""

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

PACKAGES = {"slurmctld": "slurmctld", "slurmd": "slurmd", "srun": "slurm-client", "munged": "munge"}

# Commands find a configuration elsewhere by SLURM_CONF, but the plugin takes that from the `srun` inside of a job.
SYSTEM_CONF = Path("/etc/slurm/slurm.conf")
OUR_NAME = "ecgpipe-tests-slurm.conf"
CLUSTER = "ecgpipe-tests"

# MinJobAge: finished jobs are told of for long enough to be asked about. SlurmdTimeout: so long until a node that does
# not answer is down. cred_expire: so long until a job of a dead node starts again. KillWait: from SIGTERM to SIGKILL.
CONF = """\
ClusterName={cluster}
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmdPort={node_port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={scratch}/munge.socket,cred_expire=5
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
MpiDefault=none
ReturnToService=2
SlurmdTimeout=10
KillWait=2
MinJobAge=3600
StateSaveLocation={scratch}/state
SlurmdSpoolDir={scratch}/spool
SlurmctldPidFile={scratch}/slurmctld.pid
SlurmdPidFile={scratch}/slurmd.pid
SlurmctldLogFile={scratch}/slurmctld.log
SlurmdLogFile={scratch}/slurmd.log
SlurmdParameters=config_overrides
GresTypes=gpu
NodeName={host} NodeAddr=127.0.0.1 CPUs=16 RealMemory=100000 Gres=gpu:feigned:1
PartitionName=cpu Nodes={host} Default=YES MaxTime=INFINITE
PartitionName=gpu Nodes={host} MaxTime=INFINITE
"""


class NotPossibleError(Exception):
    """This machine may not have a SLURM for tests; the message says why."""


class Slurm:
    """The daemons, and what they know of the jobs."""

    def __init__(self, scratch: Path) -> None:
        """Write the configuration and start the daemons; `stop` ends them."""
        self.scratch = scratch
        self.conf = scratch / OUR_NAME
        self.host = socket.gethostname().partition(".")[0]
        self.daemons: dict[str, subprocess.Popen[bytes]] = {}
        for name in ("state", "spool"):
            (scratch / name).mkdir()
        ports = {"controller_port": _free_port(), "node_port": _free_port()}
        self.conf.write_text(CONF.format(cluster=CLUSTER, host=self.host, scratch=scratch, **ports))
        (scratch / "gres.conf").write_text("Name=gpu Type=feigned File=/dev/zero\n")

    def start(self) -> None:
        """Start everything, and wait until the node is ready for jobs."""
        key = self.scratch / "munge.key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o400)
        files = {name: self.scratch / f"munge.{name}" for name in ("socket", "log", "pid", "seed")}
        options = [f"--{name}{'' if name == 'socket' else '-file'}={path}" for name, path in files.items()]
        self._daemon("munged", "--foreground", "--force", f"--key-file={key}", *options)
        _wait_for(files["socket"].exists, "munged did not start", self)
        self._daemon("slurmctld", "-D", "-f", str(self.conf))
        self.start_node()

    def start_node(self) -> None:
        """Start the node's daemon, and wait until the node is ready for jobs."""
        self._daemon("slurmd", "-D", "-f", str(self.conf))
        ready = ("idle", "mixed", "allocated", "completing")
        _wait_for(lambda: self._node().startswith(ready), "the node does not become ready", self)

    def kill_node(self) -> list[str]:
        """Kill the node's daemon and every process of its jobs at once, and return the jobs that ran."""
        running = self.jobs("--states=running")
        _kill([self.daemons["slurmd"].pid, *(pid for job in running for pid in _steps_of(job) + processes_of(job))])
        self.daemons["slurmd"].wait()
        return running

    def stop(self) -> None:
        """End all jobs and daemons."""
        with suppress(subprocess.SubprocessError):  # the controller may be what failed
            jobs = self.jobs()
            if jobs:
                _run("scancel", "--signal=KILL", "--full", *jobs, conf=self.conf)
                _run("scancel", *jobs, conf=self.conf)
            for job in jobs:
                _kill(_steps_of(job) + processes_of(job))
        for daemon in reversed(self.daemons.values()):
            daemon.terminate()
            try:
                daemon.wait(20)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()
        # A process whose parent was killed is nobody's for SLURM, as there are no cgroups.
        mark = f"SLURM_CLUSTER_NAME={CLUSTER}".encode()
        _kill([pid for pid in _all_processes() if mark in _of_process(pid, "environ").split(b"\0")])

    def jobs(self, *options: str) -> list[str]:
        """The ids of the jobs that the options of `squeue` choose."""
        return _run("squeue", "--noheader", "--format=%i", *options, conf=self.conf).split()

    def rules(self, *options: str) -> dict[str, str]:
        """What the jobs that the options of `squeue` choose do, by their ids, in the order of their submission.

        Returns:
            From an id to the rule, with the wildcards after it if it has any: `summary`, `preprocess 00001`.
        """
        lines = _run("squeue", "--noheader", "--sort=i", "--format=%i|%k", *options, conf=self.conf)
        said = (line.split("|", 1) for line in lines.splitlines())
        return {number: comment.removeprefix("rule_").replace("_wildcards_", " ") for number, comment in said}

    def control(self, *command: str) -> None:
        """Run `scontrol`, or `scancel`."""
        _run(*command, conf=self.conf)

    def job(self, job_id: str) -> dict[str, str]:
        """What `scontrol` says of a job, by name: JobState, Partition, TimeLimit, MinMemoryNode, ..."""
        text = _run("scontrol", "--oneliner", "show", "job", job_id, conf=self.conf)
        return dict(field.split("=", 1) for field in text.split() if "=" in field)

    def logs(self) -> str:
        """The last lines of every daemon's log."""
        tails = []
        for path in sorted(self.scratch.glob("*.log")) + sorted(self.scratch.glob("*.out")):
            tails.append(f"{path.name}:\n" + "\n".join(path.read_text(errors="replace").splitlines()[-15:]))
        return "\n".join(tails)

    def _node(self) -> str:
        return _run("sinfo", "--noheader", "--format=%T", "--partition=cpu", conf=self.conf, check=False)

    def _daemon(self, name: str, *options: str) -> None:
        """Start one in the foreground. It dies with this process, however that ends."""
        with (self.scratch / f"{name}.out").open("ab") as out:
            command = ["setpriv", "--pdeathsig", "KILL", name, *options]
            self.daemons[name] = subprocess.Popen(command, stdout=out, stderr=out, start_new_session=True)


@contextmanager
def running(scratch: Path) -> Iterator[Slurm]:
    """A SLURM while the context lasts.

    Args:
        scratch: An empty folder for its state and logs, with a path without blanks.

    Raises:
        NotPossibleError: This machine may not have one.
        RuntimeError: It may, but a package cannot be installed or a daemon does not start.
    """
    require_programs()
    slurm = Slurm(scratch)
    claim(slurm.conf)
    try:
        slurm.start()
        yield slurm
    finally:
        slurm.stop()
        if SYSTEM_CONF.is_symlink() and SYSTEM_CONF.readlink() == slurm.conf:
            SYSTEM_CONF.unlink()


def require_programs() -> None:
    """See that this user can start a SLURM. Nothing is installed here: `.ci/run` does that.

    Raises:
        NotPossibleError: Not as this user, or the programs are missing.
    """
    if os.geteuid() != 0:
        raise NotPossibleError("only root can start a SLURM here")
    missing = [package for program, package in PACKAGES.items() if not shutil.which(program)]
    if missing:
        raise NotPossibleError(f"install its packages with: apt-get install {' '.join(missing)}")


def claim(conf: Path) -> None:
    """Link the system's configuration to ours, if it has none of its own.

    Raises:
        NotPossibleError: It has one, or another run of these tests is at work.
    """
    SYSTEM_CONF.parent.mkdir(exist_ok=True)
    if SYSTEM_CONF.is_symlink() and SYSTEM_CONF.readlink().name == OUR_NAME:
        if _answers(SYSTEM_CONF):
            raise NotPossibleError(f"another run of these tests has {SYSTEM_CONF}")
        SYSTEM_CONF.unlink()  # of a run that was killed
    try:
        SYSTEM_CONF.symlink_to(conf)
    except FileExistsError as error:
        raise NotPossibleError(f"this machine has a SLURM of its own: {SYSTEM_CONF}") from error


def processes_of(job_id: str) -> list[int]:
    """A job's processes, without SLURM's own: Snakemake, and what that started."""
    mark = f"SLURM_JOB_ID={job_id}".encode()
    return [pid for pid in _all_processes() if mark in _of_process(pid, "environ").split(b"\0")]


def _steps_of(job_id: str) -> list[int]:
    """SLURM's own processes that watch over a job."""
    mark = f"slurmstepd: [{job_id}.".encode()
    return [pid for pid in _all_processes() if _of_process(pid, "cmdline").startswith(mark)]


def _all_processes() -> list[int]:
    return [int(folder.name) for folder in Path("/proc").glob("[0-9]*")]


def _of_process(pid: int, what: str) -> bytes:
    """A file of /proc; empty for a process that has ended."""
    try:
        return Path(f"/proc/{pid}/{what}").read_bytes()
    except OSError:
        return b""


def _kill(processes: list[int]) -> None:
    for pid in processes:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _run(*command: str, conf: Path, check: bool = True) -> str:
    """What a command of SLURM says."""
    environment = {**os.environ, "SLURM_CONF": str(conf)}
    done = subprocess.run(command, capture_output=True, text=True, check=check, env=environment, timeout=60)
    return done.stdout


def _answers(conf: Path) -> bool:
    """Whether a SLURM runs under this configuration."""
    if not conf.exists():
        return False
    environment = {**os.environ, "SLURM_CONF": str(conf)}
    try:
        done = subprocess.run(["scontrol", "ping"], capture_output=True, text=True, env=environment, timeout=60)  # noqa: S607
    except subprocess.TimeoutExpired:
        return False
    return "is UP" in done.stdout


def _free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port: int = listening.getsockname()[1]
        return port


def _wait_for(condition: Callable[[], bool], message: str, slurm: Slurm) -> None:
    end = time.monotonic() + 60
    while not condition():
        if time.monotonic() > end or any(daemon.poll() is not None for daemon in slurm.daemons.values()):
            raise RuntimeError(f"SLURM: {message}\n{slurm.logs()}")
        time.sleep(0.2)
