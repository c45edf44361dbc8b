"""A run in progress: compare and lock the folder of results before jobs are planned, and clean up at start and end.

It is one model's: by itself, or one of those of a study (`study_at_work`).

Snakemake parses the Snakefile in the process that plans the run, and again in each job on a cluster. Only the planning
process locks the folder of results and writes to it; in a job this module only gives the settings and paths.
"""

import json
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from filelock import FileLock

from ecgpipe import __version__
from ecgpipe.core import atomic, results
from ecgpipe.core.errors import EcgpipeError
from ecgpipe.core.user_settings import Config, Section
from ecgpipe.workflow import (
    config_option,
    estimate,
    job_resources,
    last_words,
    model_choice,
    moved_run,
    reuse,
    run_lock,
    shard_sizes,
    shards,
    slurm,
    stage_settings,
    validate,
)
from ecgpipe.workflow.paths import Paths


class Planner(Protocol):
    """The part of Snakemake that a run needs; `snakemake_compat.Engine` implements it."""

    @property
    def is_main_process(self) -> bool:
        """Whether this process plans the run."""

    @property
    def runs_jobs(self) -> bool:
        """Whether jobs will be run."""

    @property
    def shows_progress(self) -> bool:
        """Whether the run is shown in ecgpipe's own way."""

    @property
    def cores(self) -> int | None:
        """Number of cores of the run; None on a cluster."""

    def limit(self, resource: str) -> int | None:
        """How much of a resource all jobs together may use; None where there is no limit."""

    def places(self) -> dict[str, str]:
        """How each setting was given, by its key."""

    def lost_settings(self) -> str | None:
        """What to say of settings that Snakemake has ignored."""

    def ignore_checksums(self) -> None:
        """Make Snakemake compare times only."""

    def forget(self, paths: Iterable[Path]) -> None:
        """Have Snakemake forget how results were made."""

    def say(self, text: str, **facts: object) -> None:
        """Say something in the run's output."""

    def count_jobs(self) -> Counter[str]:
        """Count by rule the jobs that are still to be done."""


class Reading(NamedTuple):
    """A rule of jobs that read the recordings of a shard, each once, for one model or several."""

    rule: str
    runs: Sequence["RunAtWork"]


@contextmanager
def in_users_syntax(planner: Planner) -> Iterator[None]:
    """Have errors about a setting name it in the syntax by which the user gave it."""
    try:
        yield
    except EcgpipeError as error:
        raise EcgpipeError(config_option.name_places(str(error), planner.places())) from error


@contextmanager
def taking_folder(planner: Planner, outdir: str) -> Iterator[None]:
    """Have errors while a folder of results is locked and settings are written say what to do.

    Raises:
        EcgpipeError: The folder is not writable.
    """
    try:
        with in_users_syntax(planner):
            yield
    except OSError as error:
        raise EcgpipeError(
            f"outdir: cannot write to {outdir}: {error.strerror}; free disk space, or give another outdir"
        ) from error


def cancel_left_jobs(planner: Planner, outdir: Path, logs: Iterable[str]) -> None:
    """Cancel the jobs that a killed run left in a cluster's queue.

    Args:
        planner: Snakemake.
        outdir: The folder that the run has locked.
        logs: Snakemake's logs of this run.

    Raises:
        EcgpipeError: The jobs cannot be cancelled.
    """
    cancelled = slurm.cancel_left_jobs(outdir, [Path(log) for log in logs])
    if cancelled:
        planner.say(f"cancelled {cancelled} jobs of a killed run")


def clear_up(planner: Planner, outdir: Path) -> None:
    """Remove the unfinished files of a killed run from its folder."""
    left = run_lock.clear_up(outdir)
    if left:
        planner.say(f"removed {left} unfinished files of a killed run")


def describe_inputs(settings: Config) -> str:
    """Name the inputs in a few words."""
    inputs = settings.inputs
    return inputs[0] if len(inputs) == 1 else f"{inputs[0]} and {len(inputs) - 1} more"


def say_where_logs_are(planner: Planner, logs: Iterable[str]) -> None:
    """Say where Snakemake's words about a failed run are, and how it goes on."""
    paths = ", ".join(str(Path(log).resolve()) for log in logs)
    planner.say(f"all that Snakemake said: {paths}; the same command resumes the run", ended=True)


def refuse_lost_settings(planner: Planner) -> None:
    """Refuse settings that Snakemake has ignored.

    Raises:
        EcgpipeError: There are such settings.
    """
    lost = planner.lost_settings() if planner.is_main_process else None
    if lost:
        raise EcgpipeError(lost)


def load_run(user_config: Mapping[str, Any], root: Path, planner: Planner) -> "RunAtWork":
    """A run by itself: validate the user's settings, and read the files that they name. Nothing is written yet.

    Args:
        user_config: Snakemake's config: config.yaml, further config files and --config merged.
        root: The folder of the Snakefile.
        planner: Snakemake.

    Raises:
        EcgpipeError: A setting is not valid, or this is a job of a killed run.
    """
    refuse_lost_settings(planner)
    with in_users_syntax(planner):
        settings = validate.load(user_config, root)
    outdir = Path(settings.outdir)
    settings = shard_sizes.fill_in(settings, outdir, [outdir], planner.cores is None)
    return RunAtWork(settings, Paths(settings.outdir), planner, bool(user_config.get("model")))


class RunAtWork:
    """One model's run, from the parsing of the Snakefile on.

    Attributes:
        settings: The validated settings.
        paths: The paths of the run's files.
        stages: By stage, the settings that its results depend on; none in a job.
        foreseen: As of a study; none.
    """

    settings: Config
    paths: Paths
    stages: dict[str, Section]
    foreseen = None

    def __init__(
        self, settings: Config, paths: Paths, planner: Planner, is_model_named: bool, name: str | None = None
    ) -> None:
        """Read the files that the settings name. Nothing is written yet.

        Args:
            settings: The validated settings.
            paths: Where the run's files lie.
            planner: Snakemake.
            is_model_named: Whether the user named the model.
            name: Of a study's run, which its other models have too; None: by itself.

        Raises:
            EcgpipeError: A file cannot be read, or this is a job of a killed run.
        """
        self.settings, self.paths = settings, paths
        self._planner, self._is_model_named, self._name = planner, is_model_named, name
        self._outdir = Path(self.paths.outdir)
        self._scanned = Path(self.paths.shared) if self.paths.model else None
        self._started = time.time()
        self._is_planned = False
        self._is_checked_for_foreign = False
        self._lock: FileLock | None = None
        # For dry runs and other options that write nothing: the folder of the settings that a run would write, and the
        # results that it would compute again, as stages and as (stage, file name without extension).
        self._preview: Path | None = None
        self._stale: set[str | tuple[str, str]] = set()
        self.stages = {}
        if not planner.is_main_process:
            # A job that waited in a cluster's queue while its run was killed must not delete results of the next run.
            atomic.refuse_if_orphaned()
            return
        if self.settings.evaluation.truth:
            from ecgpipe.evaluation import ground_truth_checks  # here, because it takes a second, which no job needs

            with in_users_syntax(planner):
                ground_truth_checks.check_before_run(self.settings)
        with in_users_syntax(planner):
            reuse.refuse_unmarked(self._outdir)
        self._checkpoint = stage_settings.identify_checkpoint(self.settings, self._outdir)
        certain = stage_settings.is_precision_certain(self.settings)
        self.stages = stage_settings.derive_stages(self.settings, self._checkpoint, certain)

    @property
    def models(self) -> tuple[str, ...]:
        """The names of a study's models; none, as this is a single run."""
        return ()

    @property
    def runs(self) -> list["RunAtWork"]:
        """The runs of all models: this one."""
        return [self]

    @property
    def reading(self) -> list[Reading]:
        """The rules that read recordings: one."""
        return [Reading("preprocess", [self])]

    def of(self, wildcards: Mapping[str, str]) -> "RunAtWork":
        """The run that a job belongs to: this one."""
        return self

    @property
    def shards_per_part(self) -> int:
        """Number of shards in a part; the last part may have fewer."""
        return self.settings.inference.shards_per_part or shard_sizes.SHARDS_PER_PART

    def shard_size(self) -> int:
        """Number of recordings in a shard; before the scan of a new run on a cluster it is not known yet."""
        size: int = self._manifest().get("shard_size") or self.settings.manifest.shard_size or shard_sizes.SHARD_SIZE
        return size

    def plan(self) -> None:
        """Compare the results with the settings. A run that will run jobs locks the folder, and writes its settings.

        The first of the rules' functions calls it, before jobs are planned: Snakemake does not know earlier whether
        jobs will be run. Further calls do nothing.

        Raises:
            EcgpipeError: Another run has locked the folder, or it is not writable.
        """
        if self._is_planned or not self._planner.is_main_process:
            return
        self._planner.ignore_checksums()
        if self._planner.runs_jobs:
            with taking_folder(self._planner, self.paths.outdir):
                self._take_folder()
        else:
            self._look()
        self._is_planned = True

    def _take_folder(self) -> None:
        self._lock = run_lock.take(self._outdir, self._name)
        # A run that was moved into a study has its own scan, until that is the study's.
        scanned = self._outdir if self._scanned and moved_run.has_own_scan(self._outdir) else self._scanned
        reuse.prepare(self._outdir, self.stages, self.settings.inference.attention, scanned)
        self.remove_outdated_report()
        stage_settings.remember_checkpoint(self.settings, self._outdir, self._checkpoint)
        if self._scanned is None:  # in a study, it scans
            atomic.write_json(Path(self.paths.asked()), self._started)

    def _look(self) -> None:
        """For a dry run: find the results that a run would compute again. Nothing is written to outdir."""
        self._preview = stage_settings.write_preview(self.stages)
        present = reuse.find_results(self._outdir, self.stages, self.settings.inference.attention)
        outdated = reuse.select_stale(present, self.stages)
        if self._scanned:
            unnamed = reuse.list_unnamed(self.stages, self.settings.inference.attention)
            outdated += reuse.select_incomplete(present, outdated, unnamed)
        for result in outdated:
            self._stale |= {result.stage, (result.stage, result.path.stem)}
        if reuse.is_copy(self._outdir):
            self._planner.say(
                f"{self.paths.outdir} is a copy that lost the times of its files. A run corrects them first; it may do "
                "less than is shown."
            )

    def settings_file(self, stage: str, wildcards: Mapping[str, str]) -> str:
        """The settings file of a stage's job; in a dry run a new file if a run would compute the result again.

        Args:
            stage: Name of the stage.
            wildcards: Wildcards of the job: `shard`, `part`, or none.
        """
        self.plan()
        own = self.paths.settings(stage)
        if self._preview is None:
            return own
        names = [f"{kind}-{wildcards.get(kind)}" for kind in ("shard", "part") if wildcards.get(kind)]
        is_stale = (stage, names[0]) in self._stale if names else stage in self._stale
        return f"{self._preview}/{stage}.json" if is_stale or not Path(own).exists() else own

    def asked(self) -> list[str]:
        """The file that every run rewrites, so that Snakemake scans the inputs again; none in a first dry run."""
        self.plan()
        path = self.paths.asked()
        return [path] if Path(path).exists() else []

    def n_shards(self) -> int:
        """Number of shards in the manifest, which must exist."""
        count: int = self._manifest()["n_shards"]
        return count

    def refuse_foreign(self) -> None:
        """Refuse to overwrite a user's file, as soon as the manifest determines which files the run will write.

        Raises:
            EcgpipeError: A file has the name of a result and was not written by ecgpipe.
        """
        if self._planner.is_main_process and not self._is_checked_for_foreign:
            count = self.n_shards()
            run_lock.refuse_foreign(self._outdir, count, shards.parts_of(count, self.shards_per_part))
            self._is_checked_for_foreign = True

    def n_recordings(self) -> int:
        """Number of recordings in the last scan of the inputs, of this run or an earlier one; 0 before the first."""
        count: int = self._manifest().get("n_recordings", 0)
        return count

    def _manifest(self) -> dict[str, Any]:
        path = Path(self.paths.file("manifest"))
        if not path.exists():
            path = self._outdir / results.path_of("manifest")  # of a run that was moved into a study
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        return content

    def start(self, logs: Iterable[str]) -> None:
        """Cancel the jobs that a killed run left in a cluster's queue, and remove its unfinished files.

        Args:
            logs: Snakemake's logs of this run.

        Raises:
            EcgpipeError: The jobs cannot be cancelled.
        """
        if not self._lock:
            return
        cancel_left_jobs(self._planner, self._outdir, logs)
        clear_up(self._planner, self._outdir)
        if self._planner.shows_progress:
            self._planner.say(
                f"ecgpipe {__version__}: {describe_inputs(self.settings)} -> {self.paths.outdir}",
                outdir=self._outdir,
                count_jobs=self._planner.count_jobs,
                plan=self._describe_plan,
            )
        for line in self.describe_model():
            self._planner.say(line)

    def describe_model(self) -> list[str]:
        """What the run says of its model."""
        return model_choice.describe_model(self.settings, self._is_model_named)

    def estimate(self) -> estimate.Estimate:
        """What the run takes, once the scan has told how many recordings there are."""
        family = model_choice.find_family_of(self.settings)
        planner, ahead = self._planner, self.settings.preprocess.parts_ahead
        manifest = self.settings.manifest.model_copy(update={"shard_size": self.shard_size()})
        return estimate.estimate_run(
            self.settings.model_copy(update={"manifest": manifest}),
            self.n_recordings(),
            planner.cores,
            estimate.has_gpu(),
            family.choose_input(self.settings.model_options),
            job_resources.parts_ahead(ahead, planner.cores, planner.limit("gpu")),
        )

    def _describe_plan(self) -> str:
        return estimate.describe(self.estimate())

    def succeed(self) -> None:
        """Remove results beyond the last shard and part, and print the number of recordings by status."""
        slurm.forget(self._outdir)
        self.remove_surplus()
        self._planner.say(last_words.closing_words(self._outdir), ended=True)

    def remove_surplus(self) -> None:
        """Remove results beyond the last shard and part."""
        count = self._manifest().get("n_shards")
        if self._lock and count:
            surplus = run_lock.remove_surplus(self._outdir, count, shards.parts_of(count, self.shards_per_part))
            if surplus:
                self._planner.say(
                    f"removed {surplus} results of an earlier run beyond the last shard or part of this one"
                )

    def fail(self, logs: Iterable[str]) -> None:
        """Remove a report that is outdated now, and say again what went wrong in jobs that failed.

        Args:
            logs: Snakemake's logs of this run.
        """
        slurm.forget(self._outdir)
        self.remove_outdated_report()
        if self._planner.shows_progress:  # it has shown the errors of jobs
            say_where_logs_are(self._planner, logs)
        else:
            self._planner.say(last_words.mistakes(self._outdir, self._started))

    def remove_outdated_report(self) -> None:
        """Remove a report that shows an earlier evaluation, which could be mistaken for the failed one."""
        if self._lock and reuse.remove_outdated_report(self._outdir):
            page = self.paths.file("report")
            self._planner.say(f"removed {page}: it showed an outdated evaluation; the next run writes it again")
