"""A SLURM of two nodes on this machine, each with a feigned GPU: real daemons, without cgroups."""

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
PACKAGES |= {"slurmdbd": "slurmdbd", "mariadbd": "mariadb-server-core"}

# Commands find a configuration elsewhere by SLURM_CONF, but the plugin takes that from the `srun` inside of a job.
SYSTEM_CONF = Path("/etc/slurm/slurm.conf")
OUR_NAME = "ecgpipe-tests-slurm.conf"
CLUSTER = "ecgpipe-tests"

NODES = ("n1", "n2")

# MinJobAge: finished jobs are told of for long enough to be asked about. SlurmdTimeout: so long until a node that does
# not answer is down. cred_expire: so long until a job starts again whose node died, or that made way for another.
# KillWait: from SIGTERM to SIGKILL. batch_sched_delay: so long may a job wait that could start; bf_interval: where one
# before it cannot. JobAcctGather: SLURM measures the memory of each step every second, and kills a step that has more
# than its job asked for. The partition cpu allows less time than `umap` asks for.
CONF = """\
ClusterName={cluster}
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={scratch}/munge.socket,cred_expire=5
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=1
JobAcctGatherParams=OverMemoryKill
AccountingStorageType=accounting_storage/{accounting}
AccountingStorageHost=127.0.0.1
AccountingStoragePort={accounting_port}
AccountingStoragePass={scratch}/munge.socket
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SchedulerParameters=batch_sched_delay=0,bf_interval=1
MpiDefault=none
ReturnToService=2
SlurmdTimeout=10
KillWait=2
MinJobAge=3600
StateSaveLocation={scratch}/state
SlurmdSpoolDir={scratch}/spool-%n
SlurmctldPidFile={scratch}/slurmctld.pid
SlurmdPidFile={scratch}/slurmd-%n.pid
SlurmctldLogFile={scratch}/slurmctld.log
SlurmdLogFile={scratch}/slurmd-%n.log
SlurmdParameters=config_overrides
DebugFlags=NO_CONF_HASH
GresTypes=gpu
{nodes}
PartitionName=cpu Nodes=ALL Default=YES MaxTime={limit_min}
PartitionName=gpu Nodes=ALL MaxTime=INFINITE
PartitionName=urgent Nodes=ALL MaxTime=INFINITE PriorityTier=10
"""
NODE = "NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs=16 RealMemory=100000 Gres=gpu:feigned:1"
LIMIT_MIN = 150

# The database of the accounting; MariaDB needs no tables of its own where it asks nobody for a password.
ACCOUNTING = """\
AuthType=auth/munge
AuthInfo=socket={scratch}/munge.socket
DbdHost=localhost
DbdAddr=127.0.0.1
DbdPort={accounting_port}
SlurmUser=root
LogFile={scratch}/slurmdbd.log
PidFile={scratch}/slurmdbd.pid
StorageType=accounting_storage/mysql
StorageHost=localhost
StorageUser=root
StorageLoc=slurm
"""
MARIADB = ["--no-defaults", "--user=root", "--skip-networking", "--skip-grant-tables"]
MARIADB += ["--innodb-flush-log-at-trx-commit=0", "--innodb-buffer-pool-size=32M", "--innodb-log-file-size=8M"]


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
        for name in ("state", "database", *(f"spool-{node}" for node in NODES)):
            (scratch / name).mkdir()
        nodes = [NODE.format(name=name, host=self.host, port=_free_port()) for name in NODES]
        self.given = {"cluster": CLUSTER, "host": self.host, "scratch": scratch, "limit_min": LIMIT_MIN}
        self.given |= {"controller_port": _free_port(), "accounting_port": _free_port(), "nodes": "\n".join(nodes)}
        self.conf.write_text(CONF.format(accounting="none", **self.given))
        (scratch / "gres.conf").write_text("Name=gpu Type=feigned File=/dev/zero\n")
        (scratch / "slurmdbd.conf").write_text(ACCOUNTING.format(**self.given))
        (scratch / "slurmdbd.conf").chmod(0o600)

    def start(self) -> None:
        """Start everything but the accounting, and wait until the nodes are ready for jobs."""
        key = self.scratch / "munge.key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o400)
        files = {name: self.scratch / f"munge.{name}" for name in ("socket", "log", "pid", "seed")}
        options = [f"--{name}{'' if name == 'socket' else '-file'}={path}" for name, path in files.items()]
        self._daemon("munged", "--foreground", "--force", f"--key-file={key}", *options)
        _wait_for(files["socket"].exists, "munged did not start", self)
        self._daemon("slurmctld", "-D", "-f", str(self.conf))
        self.start_nodes(*NODES)

    @contextmanager
    def accounting(self) -> Iterator[None]:
        """Have SLURM keep accounts that `sacct` shows, while the context lasts; no job may run at its ends."""
        socket_path = self.scratch / "database.socket"
        environment = {"SLURM_CONF": str(self.conf), "MYSQL_UNIX_PORT": str(socket_path)}
        self._daemon("mariadbd", *MARIADB, f"--datadir={self.scratch / 'database'}", f"--socket={socket_path}")
        _wait_for(socket_path.exists, "the accounting's database does not start", self)
        self._daemon("slurmdbd", "-D", **environment)
        port = int(str(self.given["accounting_port"]))
        _wait_for(lambda: _listens(port), "slurmdbd does not start", self)
        self._restart_controller("slurmdbd")
        try:
            yield
        finally:
            self._restart_controller("none")
            for name in ("slurmdbd", "mariadbd"):
                _end(self.daemons.pop(name))

    def _restart_controller(self, accounting: str) -> None:
        _end(self.daemons.pop("slurmctld"))
        self.conf.write_text(CONF.format(accounting=accounting, **self.given))
        self._daemon("slurmctld", "-D", "-f", str(self.conf))
        _wait_for(self._are_ready, "the nodes do not become ready again", self)

    def start_nodes(self, *names: str) -> None:
        """Start the daemons of nodes, and wait until all nodes are ready for jobs."""
        for name in names:
            self._daemon(f"slurmd-{name}", "-D", "-N", name, "-f", str(self.conf))
        _wait_for(self._are_ready, "the nodes do not become ready", self)

    def kill_node(self, name: str) -> list[str]:
        """Kill a node's daemon and every process of its jobs at once, and return the jobs that ran there."""
        running = self.jobs("--states=running", f"--nodelist={name}")
        daemon = self.daemons.pop(f"slurmd-{name}")
        _kill([daemon.pid, *(pid for job in running for pid in _steps_of(job) + processes_of(job))])
        daemon.wait()
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
            _end(daemon)
        # A process whose parent was killed is nobody's for SLURM, as there are no cgroups.
        mark = f"SLURM_CLUSTER_NAME={CLUSTER}".encode()
        _kill([pid for pid in _all_processes() if mark in _of_process(pid, "environ").split(b"\0")])

    def jobs(self, *options: str) -> list[str]:
        """The ids of the jobs that the options of `squeue` choose."""
        return _run("squeue", "--noheader", "--format=%i", *options, conf=self.conf).split()

    def rules(self, folder: Path, *options: str) -> dict[str, str]:
        """What the jobs of runs in a folder do, by their ids, in the order of their submission.

        Args:
            folder: Where Snakemake was started.
            options: Of `squeue`, which choose among the jobs.

        Returns:
            From an id to the rule, with the wildcards after it if it has any: `summary`, `preprocess 00001`.
        """
        lines = _run("squeue", "--noheader", "--sort=i", "--format=%i|%Z|%k", *options, conf=self.conf).splitlines()
        said = (line.split("|", 2) for line in lines)
        ours = {number: comment for number, started, comment in said if Path(started) == folder}
        return {number: what.removeprefix("rule_").replace("_wildcards_", " ") for number, what in ours.items()}

    def control(self, *command: str) -> None:
        """Run `scontrol`, `scancel` or `sbatch`."""
        _run(*command, conf=self.conf)

    def job(self, job_id: str) -> dict[str, str]:
        """What `scontrol` says of a job, by name: JobState, Partition, TimeLimit, MinMemoryNode, ..."""
        text = _run("scontrol", "--oneliner", "show", "job", job_id, conf=self.conf)
        return dict(field.split("=", 1) for field in text.split() if "=" in field)

    def accounts(self, *options: str) -> str:
        """What `sacct` says of all jobs: a line `ID|STATE` for each, or that there is no accounting."""
        environment = {**os.environ, "SLURM_CONF": str(self.conf)}
        command = ["sacct", "--allocations", "--noheader", "--parsable2", "--format=JobIdRaw,State", *options]
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, timeout=60)
        return done.stdout + done.stderr

    def logs(self) -> str:
        """The last lines of every daemon's log."""
        tails = []
        for path in sorted(self.scratch.glob("*.log")) + sorted(self.scratch.glob("*.out")):
            tails.append(f"{path.name}:\n" + "\n".join(path.read_text(errors="replace").splitlines()[-15:]))
        return "\n".join(tails)

    def _are_ready(self) -> bool:
        states = _run("sinfo", "--noheader", "--Node", "--format=%T", "--partition=cpu", conf=self.conf, check=False)
        ready = ("idle", "mixed", "allocated", "completing")
        return len(states.split()) == len(NODES) and all(state in ready for state in states.split())

    def _daemon(self, name: str, *options: str, **environment: str) -> None:
        """Start one in the foreground, by its program's name and perhaps a node's. It dies with this process."""
        with (self.scratch / f"{name}.out").open("ab") as out:
            command = ["setpriv", "--pdeathsig", "KILL", name.partition("-")[0], *options]
            self.daemons[name] = subprocess.Popen(
                command, stdout=out, stderr=out, start_new_session=True, env={**os.environ, **environment}
            )


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


def _end(daemon: subprocess.Popen[bytes]) -> None:
    daemon.terminate()
    try:
        daemon.wait(20)
    except subprocess.TimeoutExpired:
        daemon.kill()
        daemon.wait()


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


def _listens(port: int) -> bool:
    with socket.socket() as asking:
        return asking.connect_ex(("127.0.0.1", port)) == 0


def _wait_for(condition: Callable[[], bool], message: str, slurm: Slurm) -> None:
    end = time.monotonic() + 60
    while not condition():
        if time.monotonic() > end or any(daemon.poll() is not None for daemon in slurm.daemons.values()):
            raise RuntimeError(f"SLURM: {message}\n{slurm.logs()}")
        time.sleep(0.2)
