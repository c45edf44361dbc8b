"""The run at work: what is compared and locked before jobs are planned, and put in order when the run starts and ends.

Snakemake parses the Snakefile in the process that plans the run, and again in each job on a cluster. Only the former
locks the folder of results and writes to it; in a job this says what the settings are and where files lie.
"""

import atexit
import json
import shutil
import tempfile
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

from filelock import FileLock

from ecgpipe.core import atomic
from ecgpipe.core import settings as settings_files
from ecgpipe.core.config import Config, Section
from ecgpipe.core.errors import EcgpipeError
from ecgpipe.workflow import last_words, reuse, run_lock, shards, slurm, stage_settings, validate
from ecgpipe.workflow.paths import Paths


class Planner(Protocol):
    """What is asked of Snakemake; `snakemake_compat.Engine` answers."""

    @property
    def is_main_process(self) -> bool:
        """Whether this process plans the run."""

    @property
    def runs_jobs(self) -> bool:
        """Whether jobs will be run."""

    def ignore_checksums(self) -> None:
        """Have only times count."""


class RunAtWork:
    """One run, from the parsing of the Snakefile on.

    Attributes:
        settings: What the user gave, validated.
        paths: Where the run's files lie.
    """

    settings: Config
    paths: Paths

    def __init__(self, given: Mapping[str, Any], root: Path, planner: Planner) -> None:
        """Check what the user gave, and read the files that are settings. Nothing is written yet.

        Args:
            given: Snakemake's config: config.yaml, further config files and --config merged.
            root: The folder of the Snakefile.
            planner: What is asked of Snakemake.

        Raises:
            EcgpipeError: A setting is not valid; or this is a job of a run that was killed.
        """
        self.settings = validate.load(given, root)
        self.paths = Paths(self.settings.outdir)
        self._outdir = Path(self.paths.outdir)
        self._planner = planner
        self._started = time.time()
        self._is_planned = False
        self._is_checked_for_foreign = False
        self._lock: FileLock | None = None
        # Of a dry run, and of options that only look: where the settings lie that a run would write, and what it would
        # make again, as stages and as (stage, name of the file).
        self._preview: Path | None = None
        self._stale: set[str | tuple[str, str]] = set()
        self._stages: dict[str, Section] = {}
        if not planner.is_main_process:
            # A job that waited in a cluster's queue while its run was killed must not delete what the next run made.
            atomic.refuse_if_orphaned()
            return
        if self.settings.evaluation.truth:
            from ecgpipe.evaluation import ground_truth_checks  # here, because it takes a second, which no job needs

            ground_truth_checks.check_before_run(self.settings)
        reuse.refuse_unmarked(self._outdir)
        self._checkpoint = stage_settings.checkpoint_identity(self.settings, self._outdir)
        certain = stage_settings.is_precision_certain(self.settings)
        self._stages = stage_settings.of_run(self.settings, self._checkpoint, certain)

    @property
    def shards_per_part(self) -> int:
        """How many shards a part has; the last one may have fewer."""
        return self.settings.inference.shards_per_part

    def plan(self) -> None:
        """Compare the results with the settings. A run that will run jobs locks the folder, and writes its settings.

        Called by the first of the rules' functions, before jobs are planned: not until then does Snakemake say whether
        jobs will be run. Further calls do nothing.

        Raises:
            EcgpipeError: Another run has the folder, or it cannot be written to.
        """
        if self._is_planned or not self._planner.is_main_process:
            return
        self._planner.ignore_checksums()
        if self._planner.runs_jobs:
            try:
                self._take_folder()
            except OSError as error:
                raise EcgpipeError(
                    f"outdir: cannot write to {self.paths.outdir}: {error.strerror}; make room, or give another one"
                ) from error
        else:
            self._look()
        self._is_planned = True

    def _take_folder(self) -> None:
        self._lock = run_lock.take(self._outdir)
        reuse.prepare(self._outdir, self._stages, self.settings.inference.attention)
        self._remove_outdated_report()
        stage_settings.remember_checkpoint(self.settings, self._outdir, self._checkpoint)
        atomic.write_json(Path(self.paths.asked()), self._started)

    def _look(self) -> None:
        """For a dry run: find what a run would make again, and write to the folder of results nothing."""
        self._preview = Path(tempfile.mkdtemp(prefix="ecgpipe-settings-"))
        atexit.register(shutil.rmtree, self._preview, ignore_errors=True)
        settings_files.write(self._preview, self._stages)
        present = reuse.results(self._outdir, self._stages, self.settings.inference.attention)
        for result in reuse.stale(present, self._stages):
            self._stale |= {result.stage, (result.stage, result.path.stem)}
        if reuse.is_copy(self._outdir):
            print(
                f"{self.paths.outdir} is a copy without its files' times. A run corrects them first; it may do less "
                "than is shown."
            )

    def settings_file(self, stage: str, wildcards: Mapping[str, str]) -> str:
        """The settings file of a stage's job; in a dry run a new one where a run would make the result again.

        Args:
            stage: Its name.
            wildcards: Of the job: `shard`, `part`, or none.
        """
        self.plan()
        own = self.paths.settings(stage)
        if self._preview is None:
            return own
        names = [f"{kind}-{wildcards.get(kind)}" for kind in ("shard", "part") if wildcards.get(kind)]
        is_stale = (stage, names[0]) in self._stale if names else stage in self._stale
        return f"{self._preview}/{stage}.json" if is_stale or not Path(own).exists() else own

    def asked(self) -> list[str]:
        """The file that each run writes anew, so that it scans the inputs again; none in a first dry run."""
        self.plan()
        path = self.paths.asked()
        return [path] if Path(path).exists() else []

    def n_shards(self) -> int:
        """How many shards the manifest has, which has to be there."""
        count: int = self._manifest()["n_shards"]
        return count

    def refuse_foreign(self) -> None:
        """Stop, once the manifest says which files the run will write, if a user's file would be overwritten.

        Raises:
            EcgpipeError: There is such a file.
        """
        if self._planner.is_main_process and not self._is_checked_for_foreign:
            count = self.n_shards()
            run_lock.refuse_foreign(self._outdir, count, shards.parts_of(count, self.shards_per_part))
            self._is_checked_for_foreign = True

    def n_recordings(self) -> int:
        """How many recordings the last scan of the inputs found, of this run or an earlier one; 0 before the first."""
        count: int = self._manifest().get("n_recordings", 0)
        return count

    def _manifest(self) -> dict[str, Any]:
        path = Path(self.paths.file("manifest"))
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        return content

    def start(self, logs: Iterable[str]) -> None:
        """Cancel what a killed run left in a cluster's queue, and remove what it left unfinished.

        Args:
            logs: Snakemake's logs of this run.

        Raises:
            EcgpipeError: Those jobs cannot be cancelled.
        """
        if not self._lock:
            return
        cancelled = slurm.cancel_left(self._outdir, [Path(log) for log in logs])
        left = run_lock.clear_up(self._outdir)
        if cancelled:
            print(f"cancelled {cancelled} jobs of a run that was killed")
        if left:
            print(f"removed {left} unfinished files of a run that was killed")

    def succeed(self) -> None:
        """Remove results that this run has no shards or parts for, and print what became of the recordings."""
        slurm.forget(self._outdir)
        count = self._manifest().get("n_shards")
        if self._lock and count:
            surplus = run_lock.remove_surplus(self._outdir, count, shards.parts_of(count, self.shards_per_part))
            if surplus:
                print(f"removed {surplus} results of an earlier run that this one has no shards or parts for")
        print(last_words.closing_words(self._outdir))

    def fail(self) -> None:
        """Remove a report that is outdated now, and print again what the jobs that failed said."""
        slurm.forget(self._outdir)
        self._remove_outdated_report()
        print(last_words.mistakes(self._outdir, self._started))

    def _remove_outdated_report(self) -> None:
        """After an evaluation that failed: a report that still showed the one before would be taken for today's."""
        if self._lock and reuse.remove_outdated_report(self._outdir):
            page = self.paths.file("report")
            print(f"removed {page}: it showed an evaluation that is no more; the next run makes it again")
