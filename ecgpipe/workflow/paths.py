"""Where the files of a run lie, as the rules name them: paths with Snakemake's wildcards `{shard}` and `{part}`."""

from collections.abc import Iterable

from ecgpipe.core import results, settings


class Paths:
    """The files below one folder of results. What they are called is said by `core.results.FILES` alone."""

    def __init__(self, outdir: str) -> None:
        """Take the folder of results, as the user wrote it: Snakemake compares paths as texts."""
        self.outdir = outdir.rstrip("/")

    def file(self, name: str) -> str:
        """The path of a file, or with a wildcard the path of each shard's or part's.

        Args:
            name: A key of `results.FILES`.
        """
        return f"{self.outdir}/{results.path_of(name)}"

    def files(self, name: str, numbers: Iterable[int]) -> list[str]:
        """The paths of some shards' or parts' files.

        Args:
            name: A key of `results.FILES`.
            numbers: Of the shards or parts.
        """
        return [f"{self.outdir}/{results.path_of(name, number)}" for number in numbers]

    def folder(self, name: str) -> str:
        """The folder that a file lies in, for commands that take a range of numbered files."""
        return self.file(name).rpartition("/")[0]

    def log(self, rule: str) -> str:
        """The log of a rule, with the wildcard of its output."""
        return f"{self.outdir}/logs/{_per_job(rule)}.log"

    def benchmark(self, rule: str) -> str:
        """What Snakemake measures of a rule's jobs, with the wildcard of its output."""
        return f"{self.outdir}/benchmarks/{_per_job(rule)}.tsv"

    def folder_of_benchmarks(self) -> str:
        """The folder of all that Snakemake measures."""
        return f"{self.outdir}/benchmarks"

    def settings(self, stage: str) -> str:
        """The file of what a stage's results depend on."""
        return f"{self.outdir}/{settings.FOLDER}/{stage}.json"

    def asked(self) -> str:
        """The file that each run writes anew, so that it scans the inputs again."""
        return f"{self.outdir}/{results.ASKED}"


def _per_job(rule: str) -> str:
    kind = results.kind_of(rule)
    return f"{rule}/{kind}-{{{kind}}}" if kind else rule
