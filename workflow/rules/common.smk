# What all rules share: the settings, where files are, how many shards and parts there are, and what jobs ask for.
# What is computed here is computed in ecgpipe/workflow/.
from pathlib import Path

from ecgpipe.core import provenance
from ecgpipe.core.results import FIGURES, STUDY_FILES
from ecgpipe.workflow import job_resources, last_words, slurm
from ecgpipe.workflow import shards as cut
from ecgpipe.workflow.snakemake_compat import errors_of_workflow
from ecgpipe.workflow.stage_settings import is_precision_certain
from ecgpipe.workflow.study_at_work import begin

# One model's run, or a study: then paths of a model have the wildcard {model}, and settings are those that all share.
with errors_of_workflow():
    RUN = begin(config, ROOT, ENGINE)

SETTINGS, OUT = RUN.settings, RUN.paths

# `python3` in a shell line is to be the Python that runs Snakemake, or that of a rule's conda environment.
ENGINE.prepare_shell(ROOT)


wildcard_constraints:
    shard=r"\d+",
    part=r"\d+",
    model="|".join(RUN.models) or "-",


# Results that a setting switches on or off, by their names in rules. Some models of a study have no attention: there no
# rule names it, and inference writes it beside the logits (`reuse.list_unnamed`).
ATTENTION = {"attention": OUT.file("attention")} if SETTINGS.inference.attention and not RUN.models else {}
ATTRIBUTION = [OUT.file("attribution")] if SETTINGS.attribution.recordings else []
EVALUATION = ["metrics", "curves", "account", "true_labels"]
CERTAIN = is_precision_certain(SETTINGS)
DRIFT = [] if CERTAIN else [OUT.file("drift")]

# With `labels: index` the checkpoint's job writes the label CSV: it alone knows how many outputs there are. In a study,
# as with attention.
INDEX_LABELS = {"labels": SETTINGS.labels} if SETTINGS.labels_by_index and not RUN.models else {}

# The cores of a job on a GPU: what it computes with, and what Snakemake counts.
CORES_PER_GPU = job_resources.cores_per_gpu(ENGINE.cores, ENGINE.limit("gpu"))
COUNTED_CORES = job_resources.counted_cores(ENGINE.cores, ENGINE.limit("gpu"))

# Parts whose segments wait for inference at most.
PARTS_AHEAD = job_resources.parts_ahead(SETTINGS.preprocess.parts_ahead, ENGINE.cores, ENGINE.limit("gpu"))

# Which of the jobs that are ready goes first, the highest: what segments and GPUs wait for, then what takes segments
# away again, then shards in the order of their parts (`part_by_part`).
URGENT, DOWNSTREAM = 2, 1


def recordings_per_part():
    """How many recordings a part has; the last one may have fewer."""
    return RUN.shard_size() * RUN.shards_per_part


def growing(amount, per_million=0, recordings=RUN.n_recordings):
    """Megabytes or minutes of a job: more with the recordings, and twice as much for each further attempt."""
    return job_resources.growing(amount, per_million, recordings)


def lasting(minutes, per_million=0, recordings=RUN.n_recordings):
    """The same of minutes, but no more than its SLURM partition allows, where SLURM would let it wait for ever."""
    asked = growing(minutes, per_million, recordings)
    return job_resources.within_limit(asked, lambda rule: slurm.time_limit(ENGINE.partition_of(rule)), ENGINE.say)


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
            return RUN.of(wildcards).settings_file(stage, wildcards)

    return path


def settings_of_study(wildcards):
    with errors_of_workflow():
        return RUN.settings_file("study", wildcards)


def settings_to_read(reading):
    """The settings files that jobs which read recordings have as inputs: that of a single run.

    Which models are read for together changes, and Snakemake would make everything again where inputs are others than
    the last time. So a study's jobs have none: before they are planned, results of other settings are marked as older
    than everything (`reuse.prepare`). Only a dry run, which marks nothing, names those that are new.
    """

    def paths(wildcards):
        with errors_of_workflow():
            RUN.plan()
            settings = [run.settings_file("preprocess", wildcards) for run in reading.runs]
            own = [run.paths.settings("preprocess") for run in reading.runs]
        return [path for path in settings if not RUN.models or path not in own]

    return paths


def inferred_before(reading):
    """What is inferred before a shard is prepared, so that the segments of few parts wait on the disk at a time."""

    def paths(wildcards):
        shard = int(wildcards.shard)
        part = cut.part_before(shard, RUN.shards_per_part, PARTS_AHEAD)
        if part is None or SETTINGS.preprocess.keep_segments or not ENGINE.is_main_process:
            return []
        return ENGINE.only_before(cut.inferred_before([run.paths for run in reading.runs], shard, part))

    return paths


def segments_of(reading):
    """The segments that a job writes, of one model or several."""
    paths = [run.paths.file("segments") for run in reading.runs]
    return paths if SETTINGS.preprocess.keep_segments else temp(paths)


def settings_of_reading(reading):
    """The settings files of jobs that read recordings, as an option of a command."""

    def paths(wildcards, output):  # with `output`, Snakemake remembers no value
        return [run.paths.settings("preprocess") for run in reading.runs]

    return paths


def asked(wildcards):
    """A file that each real run writes anew, so that it looks for what is new in the inputs. A dry run does not look."""
    with errors_of_workflow():
        return RUN.asked()


def manifest(wildcards=None):
    """What the scan of the inputs found, once the scan has been done."""
    with errors_of_workflow():
        RUN.plan()
        path = RUN.foreseen.file("manifest") if RUN.foreseen else checkpoints.manifest.get().output[0]
        RUN.refuse_foreign()
    return path


def scan():
    """Where the files of the scan are: in a dry run perhaps where a run that was moved into a study has its own."""
    return RUN.foreseen or OUT


def scan_digest(wildcards):
    """A file that changes only when the scan of the inputs finds something else."""
    manifest()
    return scan().file("scan_digest")


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


def is_placed_by_part(wildcards):
    """Whether the map is fitted by one job, and the segments of each part are placed on it by a job of their own.

    Not where one job does both sooner: with no more recordings than the sample has segments, or in a single part. The
    map is the same either way, so it does not matter that the number of segments is not known here.
    """
    manifest()
    return n_parts() > 1 and RUN.n_recordings() > RUN.of(wildcards).settings.umap.fit_segments


def parts_to_map(wildcards):
    """What the map is made of: the embeddings of all parts, or the places of all parts."""
    return all_parts("places" if is_placed_by_part(wildcards) else "embeddings")(wildcards)


def folder_to_map(wildcards):
    """The folder of the embeddings, as an option of a command, with that of the places where there are any.

    Beside the name of the first option, since another shell line would compute the map of every finished run again.
    """
    paths = RUN.of(wildcards).paths
    embeddings = paths.folder("embeddings")
    return [embeddings, "--places", paths.folder("places")] if is_placed_by_part(wildcards) else embeddings


def single_results(run):
    """The results of a run that are no shard's or part's."""
    names = [
        *(["drift"] if DRIFT else []),
        *["umap", "run", "duplicates", "examples"],
        *(["attribution"] if ATTRIBUTION else []),
        *(EVALUATION if run.settings.evaluation.asked else []),
        *(f"figure_{name}_{suffix}" for name in FIGURES for suffix in ["png", "svg"]),
        *["report", "verdict"],
    ]
    return [run.paths.file(name) for name in names]


def evaluation(wildcards):
    """The evaluation of a run, if it is evaluated: in a study, a model with none of the true labels is not."""
    run = RUN.of(wildcards)
    return [run.paths.file(name) for name in EVALUATION] if run.settings.evaluation.asked else []


def evaluation_option(wildcards):
    """The folder of the evaluation, as an option of a command."""
    run = RUN.of(wildcards)
    return ["--evaluation", run.paths.folder("metrics")] if run.settings.evaluation.asked else []


def true_labels(wildcards):
    """The true labels of a run that is evaluated, by recording."""
    run = RUN.of(wildcards)
    return [run.paths.file("true_labels")] if run.settings.evaluation.asked else []


def true_labels_option(wildcards):
    """The file of the true labels, as an option of a command."""
    paths = true_labels(wildcards)
    return ["--true-labels", *paths] if paths else []


def all_of(run, name):
    """All shards' or parts' files of one run, for a rule without wildcards."""

    def paths(wildcards):
        numbers = range(n_shards())
        if name != "records":
            choice_of(run)
            numbers = range(n_parts())
        return run.paths.files(name, numbers)

    return paths


def shard_of_manifest(wildcards):
    manifest()
    return scan().file("shard")


def first_shard(wildcards):
    manifest()
    return scan().files("shard", [0])


def segments_of_part(wildcards):
    return OUT.files("segments", shards_of_part(wildcards))


def segments_to_compare(wildcards):
    """After the manifest, so that nothing is chosen anew for a new one in which the first shard is the same."""
    manifest()
    return OUT.file("sample_segments")


def choice_of(run):
    """The file that says in which precision to infer, and changes only when another one is chosen.

    After the manifest, as Snakemake resolves one checkpoint by one.
    """
    manifest()
    checkpoints.precision.get(**({"model": run.paths.model} if run.paths.model else {}))
    return run.paths.file("choice")


def choice(wildcards):
    """The same of the run that a job belongs to."""
    return choice_of(RUN.of(wildcards))


def embeddings_of_part(wildcards):
    """The embeddings of a part, which heads take."""
    return OUT.file("embeddings") if RUN.of(wildcards).settings.heads else []


def attention_of_part(wildcards, output):
    """The attention of a part as an option of a command; none where the run has no attention.

    It takes `output`, of which Snakemake remembers no value: without attention nothing is inferred again.
    """
    run = RUN.of(wildcards)
    path = run.paths.file("attention").replace("{part}", wildcards.part)
    return ["--attention", path] if run.settings.inference.attention else []


def attention_option(wildcards):
    """The folder of the attention, as an option of a command."""
    run = RUN.of(wildcards)
    return ["--attention", run.paths.folder("attention")] if run.settings.inference.attention else []


def results_to_compare(wildcards):
    """What a study reads of all runs, besides their run.json."""
    kinds = ["records", "predictions", "embeddings"]
    return [path for run in RUN.runs for name in kinds for path in all_of(run, name)(wildcards)]
