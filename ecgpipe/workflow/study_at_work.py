"""A study in progress: the runs of several models over the same recordings, which are scanned once and read once.

Each model's run lies in a folder of its name and is one in every respect (`run_at_work`). What they share lies beside:
the manifest, and the jobs that read recordings and prepare them for several models.
"""

import os
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock

from ecgpipe import __version__
from ecgpipe.core import atomic, results, study_inputs
from ecgpipe.core import settings as settings_files
from ecgpipe.core.atomic import read_json, write_json
from ecgpipe.core.study_settings import Study
from ecgpipe.core.user_settings import Config, Section
from ecgpipe.workflow import (
    estimate,
    last_words,
    moved_run,
    reuse,
    run_lock,
    shard_sizes,
    shards,
    slurm,
    stage_settings,
    validate,
)
from ecgpipe.workflow.paths import MODEL, Paths
from ecgpipe.workflow.run_at_work import (
    Planner,
    Reading,
    RunAtWork,
    cancel_left_jobs,
    clear_up,
    describe_inputs,
    in_users_syntax,
    load_run,
    refuse_lost_settings,
    say_where_logs_are,
    taking_folder,
)

# Which models the same jobs prepare recordings for, as the process that plans the study has it: jobs on a cluster parse
# the Snakefile again, when results have changed.
READING = "reading.json"


def begin(user_config: Mapping[str, Any], root: Path, planner: Planner) -> "RunAtWork | StudyAtWork":
    """Begin a run, or a study if the settings name several models (`models`). Nothing is written yet.

    Args:
        user_config: Snakemake's config: config.yaml, further config files and --config merged.
        root: The folder of the Snakefile.
        planner: Snakemake.

    Raises:
        EcgpipeError: A setting is not valid, or this is a job of a killed run.
    """
    if validate.is_study(user_config):
        return StudyAtWork(user_config, root, planner)
    return load_run(user_config, root, planner)


class StudyAtWork:
    """A study, from the parsing of the Snakefile on. It has what the rules ask of a `RunAtWork`.

    Attributes:
        settings: The settings that all models share.
        paths: The paths of the files, those of a model with the wildcard `{model}`.
        runs: The run of each model.
        reading: The rules that read recordings.
        foreseen: In a dry run, where the scan is that this study would take over; None: where the study's own is.
    """

    settings: Config
    paths: Paths
    runs: list[RunAtWork]
    reading: list[Reading]
    foreseen: Paths | None

    def __init__(self, user_config: Mapping[str, Any], root: Path, planner: Planner) -> None:
        """Validate the user's settings, and read the files that they name. Nothing is written yet."""
        refuse_lost_settings(planner)
        self._planner, self._started, self._name = planner, time.time(), run_lock.name_run()
        with in_users_syntax(planner):
            loaded = validate.load_models(user_config, root)
        outdir = loaded.shared.outdir
        folders = [Path(outdir, name) for name in loaded.by_model]
        by_model = {
            name: shard_sizes.fill_in(settings, Path(outdir), folders, planner.cores is None)
            for name, settings in loaded.by_model.items()
        }
        first = next(iter(by_model.values()))
        shared = {name: getattr(loaded.shared, name) for name in ("outdir", "study", "evaluation")}
        self.settings = first.model_copy(update=shared)
        self.paths = Paths(outdir, MODEL)
        self._own = Paths(outdir)  # of what all models share
        self._outdir = Path(self._own.outdir)
        self._by_model = {
            name: RunAtWork(settings, Paths(outdir, name), planner, True, self._name)
            for name, settings in by_model.items()
        }
        self.runs = list(self._by_model.values())
        self._lock: FileLock | None = None
        self.foreseen = None
        self._preview: Path | None = None  # for dry runs: the folder of the settings that a study would write
        self._is_planned = False
        self._is_checked_for_foreign = False
        self._stages: dict[str, Section] = {}
        if planner.is_main_process:
            with in_users_syntax(planner):
                page = stage_settings.derive_study(self.settings, self.models)
            self._stages = {"manifest": self.runs[0].stages["manifest"], "study": page}
            groups = self._group_by_need()
        else:
            groups = self._read_groups()
        self.reading = [
            Reading(f"preprocess_{number}" if number > 1 else "preprocess", [self._by_model[name] for name in group])
            for number, group in enumerate(groups, 1)
        ]

    @property
    def models(self) -> tuple[str, ...]:
        """The names of the models."""
        return tuple(self._by_model)

    @property
    def shards_per_part(self) -> int:
        """Number of shards in a part; the last part may have fewer."""
        return self.runs[0].shards_per_part

    def shard_size(self) -> int:
        """Number of recordings in a shard; before the scan of a new study on a cluster it is not known yet."""
        return self._find_scanned().shard_size()

    def of(self, wildcards: Mapping[str, str]) -> "RunAtWork | StudyAtWork":
        """The model's run that a job belongs to; the study for jobs of all models."""
        name = wildcards.get("model")
        return self._by_model[name] if name else self

    def _group_by_need(self) -> list[list[str]]:
        """Put models together that need the same shards, so that no job makes what one of its models has.

        A job that makes more would infer again for that model. Models of a new study are all together.
        """
        groups: dict[frozenset[int] | None, list[str]] = {}
        for name, run in self._by_model.items():
            groups.setdefault(find_needed_shards(run), []).append(name)
        return list(groups.values())

    def _read_groups(self) -> list[list[str]]:
        """As the process that planned the study grouped the models."""
        groups: list[list[str]] = read_json(self._outdir / settings_files.FOLDER / READING) or []
        named = [name for group in groups for name in group]
        return groups if sorted(named) == sorted(self._by_model) else [list(self._by_model)]

    def plan(self) -> None:
        """Compare the results with the settings. A study that will run jobs locks its folders, and writes settings.

        Raises:
            EcgpipeError: Another run has locked a folder, it is not writable, or a run that was moved here is over
                other recordings.
        """
        if self._is_planned or not self._planner.is_main_process:
            return
        folders = [Path(run.paths.outdir) for run in self.runs]
        moved_run.refuse_other_recordings(self._outdir, folders)  # before any of them is touched
        for run in self.runs:
            run.plan()
        self._planner.ignore_checksums()
        if self._planner.runs_jobs:
            with taking_folder(self._planner, self._own.outdir):
                self._take_folder()
        else:
            self._preview = stage_settings.write_preview(self._stages)
            self._foresee_scan(folders)
        self._is_planned = True

    def _take_folder(self) -> None:
        # Last of all: by this folder jobs tell whether the study lives.
        self._lock = run_lock.take(self._outdir, self._name, results.STUDY_FILES.values())
        self._take_scans()
        reuse.prepare(self._outdir, self._stages, attention=False)
        self._date_page()
        folder = self._outdir / settings_files.FOLDER
        groups = [[str(run.paths.model) for run in one.runs] for one in self.reading]
        if read_json(folder / READING) != groups:
            write_json(folder / READING, groups)
        atomic.write_json(Path(self._own.asked()), self._started)

    def _foresee_scan(self, folders: Sequence[Path]) -> None:
        """For a dry run: plan with the scan of a run that was moved here, which a study would take over."""
        foreseen = moved_run.foresee_scan(folders)
        self.foreseen = None if foreseen is None else Paths(str(foreseen))
        for name, run in self._by_model.items():
            if moved_run.has_own_scan(Path(run.paths.outdir)):
                self._planner.say(
                    f"{name}: a run by itself is here, which a run takes over; what it has of these settings is kept, "
                    "and the plan below may show more than is done"
                )

    def _take_scans(self) -> None:
        """Take over the scans of runs that were made by themselves, and then moved here."""
        for name, run in self._by_model.items():
            outdir = Path(run.paths.outdir)
            if not moved_run.has_own_scan(outdir):
                continue
            # Before the scan is taken, so that what is killed in between is done again.
            present = reuse.find_results(outdir, run.stages, run.settings.inference.attention)
            self._planner.forget(result.path for result in present)
            moved_run.take_scan(self._outdir, outdir)
            self._planner.say(f"{name}: a run by itself was here; what it has of these settings is kept")

    def _date_page(self) -> None:
        """Date the study's files by what they were made from, as `reuse.prepare` does with a run's results.

        They are newer than all that they read if they were made from just that, and older than everything otherwise.
        Those of an earlier ecgpipe do not say what they were made from, and keep their times.
        """
        study = self._stages["study"]
        folders = {name: Path(run.paths.outdir) for name, run in self._by_model.items()}
        paths = [Path(self._own.study(name)) for name in results.STUDY_FILES]
        present = [path for path in paths if path.is_file() and not path.is_symlink()]
        named = {path: reuse.read_made_by(path) or {} for path in present}
        if not all("inputs" in made_by for made_by in named.values()) or not isinstance(study, Study):
            return
        makers = study_inputs.name_makers(study, folders)
        read = [path for folder in folders.values() for path in study_inputs.find_inputs(folder)]
        latest = max((path.stat().st_mtime_ns for path in [*read, *present]), default=0)
        benchmark = Path(self._own.benchmark("study"))  # Snakemake dates a job by the oldest of its results and this
        for path in [*present, *([benchmark] if benchmark.is_file() else [])]:
            time = latest if named.get(path, makers) == makers else reuse.STALE_NS
            os.utime(path, ns=(time, time))
        settings = Path(self._own.settings("study"))
        if present and settings.stat().st_mtime_ns > latest:
            os.utime(settings, ns=(latest, latest))  # it may have been rewritten with other paths of the same files

    def settings_file(self, stage: str, wildcards: Mapping[str, str]) -> str:
        """The settings file of a job of all models; in a dry run a new file if a study would write another one."""
        self.plan()
        own = self._own.settings(stage)
        if self._preview is None:
            return own
        new = self._preview / f"{stage}.json"
        return own if read_json(Path(own)) == read_json(new) else str(new)

    def asked(self) -> list[str]:
        """The file that every study rewrites, so that Snakemake scans the inputs again; none in a first dry run."""
        self.plan()
        return self.runs[0].asked()

    def n_shards(self) -> int:
        """Number of shards in the manifest, which must exist."""
        return self._find_scanned().n_shards()

    def n_recordings(self) -> int:
        """Number of recordings in the last scan of the inputs; 0 before the first."""
        return self._find_scanned().n_recordings()

    def _find_scanned(self) -> RunAtWork:
        """A run that knows the scan: any, but in a dry run that whose scan the study would take over."""
        foreseen = self.foreseen
        return next((run for run in self.runs if foreseen and run.paths.outdir == foreseen.outdir), self.runs[0])

    def refuse_foreign(self) -> None:
        """Refuse to overwrite a user's file; as `RunAtWork.refuse_foreign`."""
        if self._planner.is_main_process and not self._is_checked_for_foreign:
            count = self.n_shards()
            for folder in (self._outdir, *(Path(run.paths.outdir) for run in self.runs)):
                run_lock.refuse_foreign(folder, count, shards.parts_of(count, self.shards_per_part))
            self._is_checked_for_foreign = True

    def start(self, logs: Iterable[str]) -> None:
        """Cancel the jobs that a killed study left in a cluster's queue, and remove unfinished files.

        Args:
            logs: Snakemake's logs of this study.

        Raises:
            EcgpipeError: The jobs cannot be cancelled.
        """
        if not self._lock:
            return
        cancel_left_jobs(self._planner, self._outdir, logs)
        for folder in (self._outdir, *(Path(run.paths.outdir) for run in self.runs)):
            clear_up(self._planner, folder)
        if self._planner.shows_progress:
            self._planner.say(
                f"ecgpipe {__version__}: {describe_inputs(self.settings)} -> {self._own.outdir}",
                outdir=self._outdir,
                count_jobs=self._planner.count_jobs,
                plan=self._describe_plan,
            )
            self._planner.say(f"models: {', '.join(self.models)}")
        for line in describe_padding({name: run.settings for name, run in self._by_model.items()}):
            self._planner.say(line)
        for name, run in self._by_model.items():
            for line in run.describe_model():
                self._planner.say(f"{name}: {line}")

    def _describe_plan(self) -> str:
        return estimate.describe(estimate.add_estimates([run.estimate() for run in self.runs]))

    def succeed(self) -> None:
        """Remove results beyond the last shard and part, and say what became of the recordings of each model."""
        slurm.forget(self._outdir)
        if self._lock and self.n_recordings():
            run_lock.remove_surplus(
                self._outdir, self.n_shards(), shards.parts_of(self.n_shards(), self.shards_per_part)
            )
        for run in self.runs:
            run.remove_surplus()
        said = [last_words.closing_words(Path(run.paths.outdir)) for run in self.runs]
        told = zip(self._by_model, said, strict=True)
        named = [f"{name}: {line}" for name, words in told for line in words.splitlines()]
        page = Path(self.paths.study("study_page"))
        self._planner.say("\n".join([*named, *([f"Study: {page.resolve()}"] if page.exists() else [])]), ended=True)

    def fail(self, logs: Iterable[str]) -> None:
        """Say again what went wrong in jobs that failed.

        Args:
            logs: Snakemake's logs of this study.
        """
        slurm.forget(self._outdir)
        for run in self.runs:
            run.remove_outdated_report()
        if self._planner.shows_progress:  # it has shown the errors of jobs
            say_where_logs_are(self._planner, logs)
        else:
            folders = [self._outdir, *(Path(run.paths.outdir) for run in self.runs)]
            said = [last_words.mistakes(folder, self._started) for folder in folders]
            self._planner.say("\n".join(filter(None, said)))


def describe_padding(by_model: Mapping[str, Config]) -> list[str]:
    """Say which models skip short recordings, where others pad them (`preprocess.short`).

    Args:
        by_model: The settings of each model's run.

    Returns:
        A line, or none.
    """
    skip = [name for name, own in by_model.items() if own.preprocess.short == "skip"]
    if len(skip) in (0, len(by_model)):
        return []
    lengths = ", ".join(f"{name} (shorter than {by_model[name].preprocess.segment_s:g} s)" for name in skip)
    return [
        f"preprocess.short: pad is not possible with {lengths}: skipped for {'it' if len(skip) == 1 else 'these'} alone"
    ]


def find_needed_shards(run: RunAtWork) -> frozenset[int] | None:
    """Find the shards whose segments a model's run has to make: those without records, and of parts not inferred.

    Args:
        run: In the process that plans it.

    Returns:
        Their numbers; None for all, where there is no manifest yet.
    """
    if not run.n_recordings():
        return None
    attention, n_shards = run.settings.inference.attention, run.n_shards()
    stages = {name: run.stages[name] for name in ("preprocess", "infer")}
    present = reuse.find_results(Path(run.paths.outdir), stages, attention)
    hashes = {name: settings_files.hash_section(name, section) for name, section in run.stages.items()}
    fresh = {result.path.relative_to(run.paths.outdir).as_posix() for result in present if result.is_of(hashes)}
    inferred = ["logits", "embeddings", "timing", *(["attention"] if attention else [])]
    needed = {number for number in range(n_shards) if results.path_of("records", number) not in fresh}
    for part in range(shards.parts_of(n_shards, run.shards_per_part)):
        if not all(results.path_of(name, part) in fresh for name in inferred):
            needed.update(shards.shards_of(part, run.shards_per_part, n_shards))
    return frozenset(needed)
