"""Where the files of a run lie, as the rules name them: paths with the wildcards `{model}`, `{shard}` and `{part}`.

In a study the files of each model lie in a folder of its name, and what all models share lies beside those folders.
"""

from collections.abc import Iterable

from ecgpipe.core import results, settings

# The wildcard for a model's name.
MODEL = "{model}"

# The rules of a study whose jobs are of all models, or of several.
SHARED = ("manifest", "preprocess", "study")

# Rules that have a job for each part of a stage which ends with a single job.
BY_PART = ("umap_place",)


class Paths:
    """The files below one folder of results. What they are called is said by `core.results.FILES` alone."""

    def __init__(self, outdir: str, model: str | None = None) -> None:
        """Take the folder of results, as the user wrote it: Snakemake compares paths as texts.

        Args:
            outdir: The folder.
            model: In a study, the name of a model, or `MODEL`; None for a run by itself.
        """
        self.shared = outdir.rstrip("/")
        self.model = model
        self.outdir = f"{self.shared}/{model}" if model else self.shared

    def file(self, name: str) -> str:
        """The path of a file, or with a wildcard the path of each shard's or part's.

        Args:
            name: A key of `results.FILES`.
        """
        return f"{self._folder_of(results.FILES[name].stage)}/{results.path_of(name)}"

    def study(self, name: str) -> str:
        """The path of a file of a study.

        Args:
            name: A key of `results.STUDY_FILES`.
        """
        return f"{self.shared}/{results.STUDY_FILES[name]}"

    def files(self, name: str, numbers: Iterable[int]) -> list[str]:
        """The paths of some shards' or parts' files.

        Args:
            name: A key of `results.FILES`.
            numbers: Of the shards or parts.
        """
        folder = self._folder_of(results.FILES[name].stage)
        return [f"{folder}/{results.path_of(name, number)}" for number in numbers]

    def folder(self, name: str) -> str:
        """The folder that a file lies in, for commands that take a range of numbered files."""
        return self.file(name).rpartition("/")[0]

    def log(self, rule: str) -> str:
        """The log of a rule, with the wildcard of its output."""
        return f"{self._folder_of_rule(rule)}/logs/{_per_job(rule)}.log"

    def benchmark(self, rule: str) -> str:
        """What Snakemake measures of a rule's jobs, with the wildcard of its output."""
        return f"{self._folder_of_rule(rule)}/benchmarks/{_per_job(rule)}.tsv"

    def folder_of_benchmarks(self) -> str:
        """The folder of all that Snakemake measures."""
        return f"{self.outdir}/benchmarks"

    def settings(self, stage: str) -> str:
        """The file of what a stage's results depend on."""
        return f"{self.outdir}/{settings.FOLDER}/{stage}.json"

    def asked(self) -> str:
        """The file that each run writes anew, so that it scans the inputs again."""
        return f"{self.shared}/{results.ASKED}"

    def _folder_of(self, stage: str) -> str:
        return self.shared if stage == "manifest" else self.outdir

    def _folder_of_rule(self, rule: str) -> str:
        return self.shared if _stage_of(rule) in SHARED else self.outdir


def _stage_of(rule: str) -> str:
    return rule.partition("_")[0]  # preprocess_2 reads recordings for other models than preprocess


def _per_job(rule: str) -> str:
    kind = "part" if rule in BY_PART else results.kind_of(_stage_of(rule))
    return f"{rule}/{kind}-{{{kind}}}" if kind else rule
