"""The only module that uses what Snakemake does not document.

Measured with Snakemake 9.27. tests/unit/workflow/test_snakemake_compat.py has a test of each use with the real
Snakemake, so that after an upgrade the test that fails names what has changed.
"""

import logging
import os
import re
import shlex
import signal
import sys
import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from types import TracebackType
from typing import Any

from ecgpipe.core import logs
from ecgpipe.core.errors import EcgpipeError
from ecgpipe.workflow import config_option


def start() -> None:
    """Run Snakemake in this process, as `python -m snakemake` does, so that an interrupt leaves no traceback."""
    end_plainly()
    from snakemake.cli import main  # takes a second, in which an interrupt may come

    main()


def end_plainly() -> None:
    """Have an interrupt say in one line how the run resumes where Snakemake would leave a traceback.

    It does while it plans; while jobs run `last_words.say_how_to_resume` has a handler of its own.
    """
    usual = sys.excepthook

    def say(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if not issubclass(kind, KeyboardInterrupt):
            usual(kind, error, trace)
        elif signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            print("stopped; the same command resumes", file=sys.stderr, flush=True)

    sys.excepthook = say


def see_cancelled_jobs() -> None:
    """Have Snakemake's SLURM plugin (2.8.0) see what `sacct` calls `CANCELLED by 1000` as a cancelled job.

    It compares whole words, takes such a job for one that still runs, and waits for it for ever.
    """
    plugin: Any = sys.modules.get("snakemake_executor_plugin_slurm")
    asked = getattr(plugin, "query_job_status", None)
    if asked is None or hasattr(asked, FACTS):
        return

    async def ask(command: str, logger: Any) -> tuple[dict[str, str] | None, float | None]:  # noqa: ANN401
        states, seconds = await asked(command, logger)
        return states and {job: state.partition(" by ")[0] for job, state in states.items()}, seconds

    setattr(ask, FACTS, True)
    plugin.query_job_status = ask


def look_again_once() -> None:
    """Have Snakemake's scheduler wait for one look at the ready jobs at a time, instead of one for each job so far.

    While jobs are ready it looks again after each timespan of `--max-jobs-per-timespan`, a second by default, and each
    look asks for the next one. So does each job that ends: after a thousand jobs it looks a thousand times a second,
    and each time at all files of all ready jobs. (snakemake/snakemake#3744)
    """
    try:
        from snakemake.scheduling.job_scheduler import JobScheduler
    except ImportError:  # a Snakemake in which it lies elsewhere goes on as it does
        return

    def look_again(scheduler: Any, delay: float) -> None:  # noqa: ANN401, Snakemake declares no type for it
        if getattr(scheduler, _AWAITED, False):
            return
        setattr(scheduler, _AWAITED, True)
        timer = threading.Timer(delay, look, (scheduler,))
        timer.daemon = True  # the run does not wait for it at its end
        timer.start()

    def look(scheduler: Any) -> None:  # noqa: ANN401
        setattr(scheduler, _AWAITED, False)  # before the look, which may ask for the next one
        scheduler._open_jobs.release()

    JobScheduler._schedule_reevalutation = look_again  # the name is Snakemake's


# The attribute of a scheduler that says whether it will look again by itself.
_AWAITED = "ecgpipe_looks_again"

# The attribute of what ecgpipe itself says as a log record of Snakemake; its value is what the run's output needs.
FACTS = "ecgpipe"

# The flag of inputs that count for the order of jobs alone.
ONLY_BEFORE = "ecgpipe_only_before"


@contextmanager
def errors_of_workflow() -> Iterator[None]:
    """Raise an `EcgpipeError` as Snakemake's own error, which is printed without a traceback."""
    from snakemake.exceptions import WorkflowError

    try:
        yield
    except EcgpipeError as error:
        raise WorkflowError(str(error)) from error


class Engine:
    """What Snakemake's object `workflow` says of the command that a user gave."""

    def __init__(self, workflow: Any) -> None:  # noqa: ANN401, Snakemake declares no type for it
        """Take the object that each Snakefile has under the name `workflow`."""
        self._workflow = workflow
        if self.is_main_process:
            end_plainly()
            see_cancelled_jobs()
            look_again_once()

    def folder(self) -> Path:
        """The folder of the Snakefile that is being parsed, also where another workflow uses that as a module.

        `workflow.basedir`, which is documented, is then the folder of the other workflow.
        """
        return Path(self._workflow.current_basedir.get_path_or_uri(secret_free=True))

    @property
    def is_main_process(self) -> bool:
        """Whether this process plans the run. False in a job that parses the Snakefile again, e.g. on a cluster."""
        return bool(self._workflow.is_main_process)

    def places(self) -> dict[str, str]:
        """How each setting was given, by its key: by `ecgpipe run`, in a file of settings, or by `--config`."""
        settings = self._workflow.config_settings
        files = [(os.path.relpath(path), load_settings(path)) for path in settings.configfiles]
        return config_option.places_of_run(files, settings.config)

    def lost_settings(self) -> str | None:
        """What to say where `--config` stands more than once: Snakemake takes the last one alone."""
        groups = config_option.split_groups(sys.argv[1:])
        is_this_command = bool(groups) and groups[-1] == list(self._workflow.config_settings.config_args or [])
        return config_option.describe_lost(groups) if is_this_command else None

    @property
    def runs_jobs(self) -> bool:
        """Whether jobs will be run. False in a dry run, with `--touch`, and for options that only look.

        Known only when jobs are planned, as the Snakefile is parsed before there is an executor.
        """
        executor = self._workflow.executor_plugin
        return bool(executor and not (executor.common_settings.dryrun_exec or executor.common_settings.touch_exec))

    def ignore_checksums(self) -> None:
        """Have an input that is newer than a result count as changed, whatever its content.

        As `--max-checksum-file-size 0` does. Otherwise Snakemake takes the input for unchanged if this working folder
        has seen its content before, although a run from another folder may have used another content in between.
        """
        self._workflow.dag.max_checksum_file_size = 0

    def only_before(self, paths: Sequence[str]) -> list[Any]:
        """Inputs whose jobs have to be done before, but that are no reason to run a job again.

        `ancient` alone is not enough: Snakemake remembers the names of all inputs, and runs a job again where they are
        others than the last time.

        Args:
            paths: The files. The function that returns them to a rule is called when jobs are planned.
        """
        from snakemake.io import ancient, flag, is_flagged

        persistence = self._workflow.persistence
        if not hasattr(persistence, ONLY_BEFORE):
            remembered = persistence._input

            @lru_cache
            def remember(job: Any) -> list[str]:  # noqa: ANN401
                before = {str(path) for path in job.input if is_flagged(path, ONLY_BEFORE)}
                return [path for path in remembered(job) if str(path) not in before]

            persistence._input = remember
            setattr(persistence, ONLY_BEFORE, True)
        return [flag(ancient(path), ONLY_BEFORE) for path in paths]

    def forget(self, paths: Iterable[Path]) -> None:
        """Have Snakemake forget how results were made, by rules that name other inputs than those of this workflow.

        As `--cleanup-metadata` does.

        Args:
            paths: As the rules name them.
        """
        from snakemake.io import IOFile

        for path in paths:
            self._workflow.persistence.cleanup_metadata(IOFile(str(path)))

    @property
    def shows_progress(self) -> bool:
        """Whether ecgpipe's logger plugin shows this run. False in a job on a cluster, which has Snakemake's output."""
        handlers = self._workflow.logger_manager.plugin_handlers
        return self.is_main_process and any(getattr(handler, "shows_run", False) for handler in handlers)

    def say(self, text: str, **facts: object) -> None:
        """Say something in the run's output, after all that was said before.

        Args:
            text: One or more lines.
            facts: What `run_output.RunOutput` needs to know.
        """
        logging.getLogger("snakemake.logging").info(text, extra={FACTS: facts})

    def count_jobs(self) -> Counter[str]:
        """Count by rule the jobs that are still to be done.

        Raises:
            RuntimeError: Snakemake changes the jobs right now; ask again later.
        """
        return Counter(job.rule.name for job in self._workflow.dag.needrun_jobs())

    @property
    def cores(self) -> int | None:
        """The cores of the run (`--cores`); None on a cluster."""
        cores: int | None = self._workflow.resource_settings.cores
        return cores

    def limit(self, resource: str) -> int | None:
        """How much of a resource all jobs together may use (`--resources gpu=4`); None where there is no limit."""
        value: int | None = self._workflow.global_resources.get(resource).value
        return value

    def sets_threads(self, rule: str) -> bool:
        """Whether `--set-threads` names a rule."""
        return rule in self._workflow.resource_settings.overwrite_threads

    def partition_of(self, rule: str) -> str | None:
        """SLURM's partition that the profile names for a rule; None where none is named, or in a job."""
        partition = self._workflow.get_rule(rule).resources.get("slurm_partition")
        written = partition and (partition.raw if partition.is_evaluable() else partition.value)
        return str(written) if written and self.is_main_process else None

    @property
    def uses_conda(self) -> bool:
        """Whether jobs run in the rules' conda environments (`--software-deployment-method conda`)."""
        methods = self._workflow.deployment_settings.deployment_method
        return any(method.name == "CONDA" for method in methods)

    def prepare_shell(self, root: Path) -> None:
        """Have `python3` in the rules' shell lines be the Python that runs Snakemake, and have it find ecgpipe.

        In a conda environment of a rule `python3` stays that of the environment. The prefix is set after the activation
        of the environment, which removes a PYTHONPATH that was set before.

        Args:
            root: The folder in which the package `ecgpipe` lies.
        """
        from snakemake.shell import shell

        before = shell._get_process_prefix()
        prefix = shell_prefix(Path(sys.executable).parent if not self.uses_conda else None, root, self.shows_progress)
        if prefix not in before:  # also where a workflow uses this one twice, as modules
            shell.prefix(f"{before}{prefix}".replace("{", "{{").replace("}", "}}"))


def shell_prefix(programs: Path | None, root: Path, to_log_only: bool = False) -> str:
    """What goes before each shell line.

    Args:
        programs: The folder to look for `python3` in before those of PATH; None: PATH stays as it is.
        root: The folder to look for Python packages in before those of PYTHONPATH.
        to_log_only: Whether what jobs say goes to their log files alone.
    """
    folders = {"PATH": programs, "PYTHONPATH": root}
    return f"export {logs.TO_LOG_ONLY}=1; " * to_log_only + "".join(
        f'export {variable}={shlex.quote(str(folder))}"${{{variable}:+:${variable}}}"; '
        for variable, folder in folders.items()
        if folder is not None
    )


def load_settings(path: Path) -> dict[str, Any]:
    """The settings in a file, read as Snakemake does."""
    from snakemake.common.configfile import load_configfile

    content: dict[str, Any] = load_configfile(path)
    return content


def explain_error(text: str, words: Sequence[str]) -> str:
    """Shorten an error message of Snakemake to one line where its user made the mistake.

    Args:
        text: The message: a traceback of Snakemake's own parser, or where in which rule an `EcgpipeError` was raised.
        words: The command line of Snakemake without the program's name.

    Returns:
        "error: ...", or `text` where this is not such a message.
    """
    if "Invalid config definition" in text:
        return f"error: {config_option.explain(words)}"
    missing = re.search(r"^FileNotFoundError: .*: '(.*)'$", text, re.MULTILINE)
    if missing and "load_configfile" in text:
        return f"error: --configfile: there is no file {missing[1]!r}; check the path"
    if "in errors_of_workflow" in text:
        lines = [line.strip() for line in text.partition("\nWildcards:")[0].splitlines()[1:]]
        said = [line for line in lines if line not in ("", "Error:", "WorkflowError:") and not line.startswith("File ")]
        return "\n".join(f"error: {line}" for line in said)
    return text


if __name__ == "__main__":
    start()
