# What all rules share: the settings, where files are, how many shards and parts there are, and what jobs ask for.
# What is computed here is computed in ecgpipe/workflow/.
from pathlib import Path

from ecgpipe.core import provenance
from ecgpipe.core.results import FIGURES
from ecgpipe.workflow import job_resources, last_words
from ecgpipe.workflow import shards as cut
from ecgpipe.workflow.run_at_work import RunAtWork
from ecgpipe.workflow.snakemake_compat import errors_of_workflow
from ecgpipe.workflow.stage_settings import is_precision_certain

with errors_of_workflow():
    RUN = RunAtWork(config, ROOT, ENGINE)

SETTINGS, OUT = RUN.settings, RUN.paths

# `python3` in a shell line is to be the Python that runs Snakemake, or that of a rule's conda environment.
ENGINE.prepare_shell(ROOT)


wildcard_constraints:
    shard=r"\d+",
    part=r"\d+",


# Results that a setting switches on or off, by their names in rules.
ATTENTION = {"attention": OUT.file("attention")} if SETTINGS.inference.attention else {}
ATTRIBUTION = [OUT.file("attribution")] if SETTINGS.attribution.recordings else []
EVALUATED = ["metrics", "curves", "account", "true_labels"]
EVALUATION = {name: OUT.file(name) for name in EVALUATED} if SETTINGS.evaluation.asked else {}
CERTAIN = is_precision_certain(SETTINGS)
DRIFT = [] if CERTAIN else [OUT.file("drift")]

# With `labels: index` the checkpoint's job writes the label CSV: it alone knows how many outputs there are.
INDEX_LABELS = {"labels": SETTINGS.labels} if SETTINGS.labels_by_index else {}

# The cores of a job on a GPU: what it computes with, and what Snakemake counts.
CORES_PER_GPU = job_resources.cores_per_gpu(ENGINE.cores, ENGINE.limit("gpu"))
COUNTED_CORES = job_resources.counted_cores(ENGINE.cores, ENGINE.limit("gpu"))

# Which of the jobs that are ready goes first, the highest: what segments and GPUs wait for, then what takes segments
# away again, then shards in the order of their parts (`part_by_part`).
URGENT, DOWNSTREAM = 2, 1

# The last part may have fewer.
RECORDINGS_PER_PART = SETTINGS.manifest.shard_size * SETTINGS.inference.shards_per_part


def growing(amount, per_million=0):
    """Megabytes or minutes of a job: more with the recordings, and twice as much for each further attempt."""
    return job_resources.growing(amount, per_million, RUN.n_recordings)


def computing_threads(rule):
    """How many threads a job that computes on a GPU, or instead of one, has: those of --set-threads, or its share."""
    return job_resources.computing_threads(ENGINE.sets_threads(rule), CORES_PER_GPU)


def part_by_part(wildcards):
    """The priority of a shard: the earlier its part, the higher."""
    return cut.priority_of(int(wildcards.shard), RUN.shards_per_part)


def settings_of(stage):
    """The settings file of a rule, by its wildcards."""

    def path(wildcards):
        with errors_of_workflow():
            return RUN.settings_file(stage, wildcards)

    return path


def asked(wildcards):
    """A file that each real run writes anew, so that it looks for what is new in the inputs. A dry run does not look."""
    with errors_of_workflow():
        return RUN.asked()


def manifest(wildcards=None):
    """What the scan of the inputs found, once the scan has been done."""
    with errors_of_workflow():
        RUN.plan()
        path = checkpoints.manifest.get().output[0]
        RUN.refuse_foreign()
    return path


def scan_digest(wildcards):
    """A file that changes only when the scan of the inputs finds something else."""
    manifest()
    return OUT.file("scan_digest")


def n_shards(wildcards=None):
    """How many shards the manifest has."""
    manifest()
    return RUN.n_shards()


def n_parts(wildcards=None):
    """How many parts these make."""
    return cut.parts_of(n_shards(), RUN.shards_per_part)


def shards_of_part(wildcards):
    """The numbers of a part's shards."""
    return cut.shards_of(int(wildcards.part), RUN.shards_per_part, n_shards())


def first_and_last_shard(wildcards):
    """The shards of a part as a range: their paths would outgrow the command line."""
    numbers = shards_of_part(wildcards)
    return [numbers[0], numbers[-1]]


def all_records(wildcards):
    return OUT.files("records", range(n_shards()))


def all_parts(name):
    def paths(wildcards):
        choice(wildcards)
        return OUT.files(name, range(n_parts()))

    return paths


def shard_of_manifest(wildcards):
    manifest()
    return OUT.file("shard")


def first_shard(wildcards):
    manifest()
    return OUT.files("shard", [0])


def segments_of_part(wildcards):
    return OUT.files("segments", shards_of_part(wildcards))


def segments_to_compare(wildcards):
    """After the manifest, so that nothing is chosen anew for a new one in which the first shard is the same."""
    manifest()
    return OUT.file("sample_segments")


def choice(wildcards):
    """The file that says in which precision to infer, and changes only when another one is chosen.

    After the manifest, as Snakemake resolves one checkpoint by one.
    """
    manifest()
    checkpoints.precision.get()
    return OUT.file("choice")
