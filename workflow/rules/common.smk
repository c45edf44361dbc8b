# What all rules share: the validated settings, where things are, and how many shards and parts there are.
import atexit
import functools
import json
import os
import shutil
import signal
import sys
import tempfile
import threading
import time

from ecgpipe.core import atomic, provenance
from ecgpipe.core import settings as settings_files
from ecgpipe.core.errors import EcgpipeError
from ecgpipe.core.results import FIGURES
from ecgpipe.workflow import run_lock, slurm, stage_settings, validate

try:
    SETTINGS = validate.load(config, Path(workflow.basedir))
    # A job that waited in a cluster's queue while its run was killed must not delete what the next run has made.
    if not workflow.is_main_process:
        atomic.refuse_if_orphaned()
    elif SETTINGS.evaluation.truth:
        from ecgpipe.evaluation import ground_truth_checks  # here, because it takes a second, which no job needs

        ground_truth_checks.before_a_run(SETTINGS)
except EcgpipeError as error:
    raise WorkflowError(str(error))

OUT = SETTINGS.outdir.rstrip("/")


wildcard_constraints:
    shard=r"\d+",
    part=r"\d+",


REFUSED = False  # whether `refuse_foreign` has looked
SIGNALS = []  # that told this run to stop
STARTED = time.time()

# Where nobody knows what the outputs are, the checkpoint's job writes the label CSV: it alone knows how many there are.
INDEX_LABELS = {"labels": SETTINGS.labels} if SETTINGS.labels_by_index else {}

# `python3` in a shell line is whatever PATH says first. That is to be the interpreter that runs Snakemake, which has
# ecgpipe, or that of a software environment, whose activation comes later and which finds ecgpipe here.
for variable, folder in {"PATH": Path(sys.executable).parent, "PYTHONPATH": workflow.basedir}.items():
    os.environ[variable] = os.pathsep.join(filter(None, [str(folder), os.environ.get(variable)]))

# What computes: the network of ecgpipe, or fairseq-signals, which reads the checkpoint as it is.
NATIVE = SETTINGS.inference.backend == "native"

# Attention may be switched off: the rules then do without the file.
ATTENTION = {}
if SETTINGS.inference.attention:
    ATTENTION["attention"] = f"{OUT}/attention/part-{{part}}.parquet"

# So may be what speaks for labels.
ATTRIBUTION = [f"{OUT}/attribution/attribution.parquet"] if SETTINGS.attribution.recordings else []

# And what holds predictions against true labels, where there are any.
EVALUATION = {}
if SETTINGS.evaluation.asked:
    EVALUATION["metrics"] = f"{OUT}/evaluation/metrics.parquet"
    EVALUATION["curves"] = f"{OUT}/evaluation/curves.parquet"
    EVALUATION["account"] = f"{OUT}/evaluation/account.json"

# Runs in the environment of fairseq-signals, which has no ecgpipe.
FORWARD = str(Path(workflow.basedir) / "ecgpipe" / "inference" / "fairseq_forward.py")

# The run's cores, shared between as many jobs as it has GPUs (`--resources gpu=4`). On a cluster nobody gives the cores,
# nor a total of GPUs: eight, as in profiles/slurm.
CORES_PER_GPU = max(1, (workflow.resource_settings.cores or 8) // (workflow.global_resources.get("gpu").value or 1))

# Snakemake holds no core free for a job that needs several: all preprocessing that is ready would go before one that takes
# the whole machine, and a GPU would wait for the last of it. So inference counts as one core there, and a job computes
# with its share of them all the same. On a cluster a job has its cores for itself.
COUNTED_CORES = 1 if workflow.resource_settings.cores else CORES_PER_GPU

# Which of the jobs that are ready goes first, the highest: what segments and GPUs wait for, then what takes segments
# away again, then shards in the order of their parts (`part_by_part`), so that one part after the other can be inferred.
URGENT, DOWNSTREAM = 2, 1

# Of the last part there may be fewer.
RECORDINGS_PER_PART = SETTINGS.manifest.shard_size * SETTINGS.inference.shards_per_part

# What comparing precisions finds. There is nothing to compare where float32 is certain.
CERTAIN = SETTINGS.inference.precision == "float32" or not NATIVE
CERTAIN |= SETTINGS.inference.precision == "auto" and SETTINGS.inference.device == "cpu"
DRIFT = [] if CERTAIN else [f"{OUT}/precision/drift.json"]

# What the results are to be of, known to the main process alone: the jobs read settings/.
if workflow.is_main_process:
    from ecgpipe.workflow import reuse

    try:
        reuse.refuse_unmarked(Path(OUT))
        CHECKPOINT = stage_settings.checkpoint_identity(SETTINGS, Path(OUT))
        STAGES = stage_settings.of_run(SETTINGS, CHECKPOINT, CERTAIN)
    except EcgpipeError as error:
        raise WorkflowError(str(error))

LOCK = None

# Of a dry run, and of options that only look: where the settings lie that a run would write, and what it would make again.
PLANNED = ""
STALE = set()


@functools.cache
def plan():
    """Compare the results with the settings. A run takes the folder for itself, and writes its settings there.

    Called by the first of the rules' functions, before anything is planned: not until then is it known what is asked for.
    """
    global LOCK, PLANNED
    executor = workflow.executor_plugin
    if not workflow.is_main_process:
        return
    # Snakemake takes an input that is newer than a result for unchanged if this working folder has seen its content before,
    # although a run from another folder may have used another content in between. Here times count.
    workflow.dag.max_checksum_file_size = 0
    if executor and not (executor.common_settings.dryrun_exec or executor.common_settings.touch_exec):
        try:
            LOCK = run_lock.take(Path(OUT))
            reuse.prepare(Path(OUT), STAGES, SETTINGS.inference.attention)
            remove_outdated_report()
            stage_settings.remember_checkpoint(SETTINGS, Path(OUT), CHECKPOINT)
            atomic.write_json(Path(OUT, "manifest", ".asked"), STARTED)
        except EcgpipeError as error:
            raise WorkflowError(str(error))
        except OSError as error:
            raise WorkflowError(f"outdir: cannot write to {OUT}: {error.strerror}; make room, or give another one")
    else:
        PLANNED = tempfile.mkdtemp(prefix="ecgpipe-settings-")
        atexit.register(shutil.rmtree, PLANNED, ignore_errors=True)
        settings_files.write(Path(PLANNED), STAGES)
        for result in reuse.stale(reuse.results(Path(OUT), STAGES, SETTINGS.inference.attention), STAGES):
            STALE.update({(result.stage, result.path.stem), result.stage})
        if reuse.is_copy(Path(OUT)):
            print(f"{OUT} is a copy without its files' times. A run corrects them first; it may do less than is shown.")


def settings_of(stage):
    """The settings file of a rule, by its wildcards: in a dry run a new one where the result would be made again."""

    def path(wildcards):
        plan()
        own = f"{OUT}/{settings_files.FOLDER}/{stage}.json"
        if not PLANNED:
            return own
        names = [f"{kind}-{wildcards.get(kind)}" for kind in ("shard", "part") if wildcards.get(kind)]
        changes = (stage, names[0]) in STALE if names else stage in STALE
        return f"{PLANNED}/{stage}.json" if changes or not Path(own).exists() else own

    return path


def growing(amount, per_million=0):
    """Megabytes or minutes of a job on a cluster: twice as many each time that it is tried again.

    Some jobs need so many more for each million of recordings, as far as a scan of the inputs has counted them.
    """

    def needed(wildcards, attempt):
        more = per_million * last_scan().get("n_recordings", 0) // 1_000_000 if per_million else 0
        return (amount + more) * 2 ** (attempt - 1)

    return needed


def last_scan():
    """What the last scan of the inputs found, of this run or the one before; nothing before the first."""
    found = Path(OUT, "manifest", "manifest.json")
    return json.loads(found.read_text()) if found.exists() else {}


def computing_threads(rule):
    """How many threads a job that computes on a GPU, or instead of one, has: those of --set-threads, or its share."""
    given = rule in workflow.resource_settings.overwrite_threads
    return lambda wildcards, threads: threads if given else CORES_PER_GPU


def part_by_part(wildcards):
    """The priority of a shard: the earlier its part, the higher, and below everything else."""
    return -(int(wildcards.shard) // SETTINGS.inference.shards_per_part)


def asked(wildcards):
    """A file that each real run writes anew, so that it looks for what is new in the inputs. A dry run does not look."""
    plan()
    path = f"{OUT}/manifest/.asked"
    return path if Path(path).exists() else []


def manifest(wildcards=None):
    """What the scan of the inputs found, once it has."""
    plan()
    path = checkpoints.manifest.get().output[0]
    refuse_foreign(json.loads(Path(path).read_text())["n_shards"])
    return path


def found(wildcards):
    """A file that changes only when the scan of the inputs finds something else."""
    return str(Path(manifest()).with_name("found.txt"))


def n_shards():
    """How many shards the manifest has."""
    return json.loads(Path(manifest()).read_text())["n_shards"]


def n_parts():
    """How many parts these make."""
    return parts_of(n_shards())


def parts_of(shards):
    """How many parts so many shards make."""
    return -(-shards // SETTINGS.inference.shards_per_part)


def shards_of(part):
    """The names of a part's shards: a fixed range, so that new recordings leave the parts before theirs alone."""
    per_part = SETTINGS.inference.shards_per_part
    first = int(part) * per_part
    return [f"{shard:05d}" for shard in range(first, min(first + per_part, n_shards()))]


def all_records(wildcards):
    return [f"{OUT}/records/shard-{shard:05d}.parquet" for shard in range(n_shards())]


def all_parts(kind, suffix="parquet"):
    def paths(wildcards):
        choice(wildcards)
        return [f"{OUT}/{kind}/part-{part:05d}.{suffix}" for part in range(n_parts())]

    return paths


def shard_of_manifest(shard):
    return str(Path(manifest()).with_name(f"shard-{shard}.parquet"))


def segments_to_compare(wildcards):
    """After the manifest, so that nothing is chosen anew for a new one in which the first shard is the same."""
    manifest()
    return f"{OUT}/precision/sample.arrow"


def choice(wildcards):
    """The file that says in which precision to infer, and changes only when another one is chosen.

    After the manifest, as Snakemake resolves one checkpoint by one.
    """
    manifest()
    return str(Path(checkpoints.precision.get().output.chosen).with_name("choice.txt"))


def segments_of_part(wildcards):
    return [f"{OUT}/segments/shard-{shard}.arrow" for shard in shards_of(wildcards.part)]


def clear_up(logs):
    """Cancel what a killed run left in a cluster's queue, and remove what it left unfinished."""
    if not LOCK:
        return
    try:
        cancelled = slurm.cancel_left(Path(OUT), [Path(log) for log in logs])
        left = run_lock.clear_up(Path(OUT))
    except EcgpipeError as error:
        raise WorkflowError(str(error))
    if cancelled:
        print(f"cancelled {cancelled} jobs of a run that was killed")
    if left:
        print(f"removed {left} unfinished files of a run that was killed")


def remove_outdated_report():
    """After an evaluation that failed: a report that goes on showing the one before would pass for today's."""
    if LOCK and reuse.remove_outdated_report(Path(OUT)):
        print(f"removed {OUT}/report.html: it showed an evaluation that is no more; the next run makes it again")


def end_well_when_stopped():
    """Say last of all, after Snakemake's own lines, that a run which was told to stop goes on when it is started again.

    The first Ctrl-C or SIGTERM ends the run as Snakemake does. Others only say that it waits for its jobs: in its midst
    they would leave a traceback, and jobs at work.
    """
    if threading.current_thread() is not threading.main_thread():
        return
    usual = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def stop(number, frame):
        if SIGNALS:
            os.write(2, b"still stopping: the jobs at work have to end first\n")
            return
        SIGNALS.append(number)
        atexit.register(print, "stopped; the same command resumes", file=sys.stderr, flush=True)
        usual[number](number, frame)

    for number, handler in usual.items():
        if callable(handler):  # not ignored, as in the background
            signal.signal(number, stop)


def refuse_foreign(shards):
    """Stop, once it is known which files the run will write, if a user's file would be overwritten."""
    global REFUSED
    if workflow.is_main_process and not REFUSED:
        try:
            run_lock.refuse_foreign(Path(OUT), shards, parts_of(shards))
        except EcgpipeError as error:
            raise WorkflowError(str(error))
        REFUSED = True


def remove_surplus():
    """After another shard_size or shards_per_part, what an earlier run left beyond the last shard and part of this one."""
    shards = last_scan().get("n_shards")
    if LOCK and shards:
        surplus = run_lock.remove_surplus(Path(OUT), shards, parts_of(shards))
        if surplus:
            print(f"removed {surplus} results of an earlier run that this one has no shards or parts for")


def closing_words():
    """The run's last lines: what became of the recordings, and where the report is. Nothing after a part of the run."""
    page, summary = Path(OUT, "report.html"), Path(OUT, "run.json")
    if not (page.exists() and summary.exists()):
        return ""
    from ecgpipe.core.run import read_info
    from ecgpipe.report.summary import closing_lines

    return "\n".join([*closing_lines(read_info(summary)), f"Report: {page.resolve()}"])


def mistakes():
    """What the jobs that failed said, again at the end, where a person looks."""
    logs = (path for path in Path(OUT, "logs").rglob("*.log") if path.stat().st_mtime >= STARTED)
    return "\n".join(line for path in sorted(logs) for line in path.read_text().splitlines() if "] error: " in line)
