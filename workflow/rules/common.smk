# What all rules share: the validated settings, where things are, and how many shards and parts there are.
import json
import os
import sys

from ecgpipe import config as ecgpipe_config
from ecgpipe.errors import EcgpipeError
from ecgpipe.labels import read as read_labels

try:
    SETTINGS = ecgpipe_config.load(config, Path(workflow.basedir))
except EcgpipeError as error:
    raise WorkflowError(str(error))

OUT = SETTINGS.outdir.rstrip("/")
LABELS = read_labels(Path(SETTINGS.labels))

# `python3` in a rule is whatever PATH says first: the interpreter that runs Snakemake, which has ecgpipe, or that of the
# rule's own software environment, whose activation comes later and which finds ecgpipe here.
os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
os.environ["PYTHONPATH"] = os.pathsep.join([str(workflow.basedir), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)


def n_shards():
    """How many shards the manifest has, once it is there."""
    manifest = Path(checkpoints.manifest.get().output[0]) / "manifest.json"
    return json.loads(manifest.read_text())["n_shards"]


def shards_of(part):
    """The names of a part's shards: a fixed range, so that new recordings leave the parts before theirs alone."""
    per_part = SETTINGS.inference.shards_per_part
    first = int(part) * per_part
    return [f"{shard:05d}" for shard in range(first, min(first + per_part, n_shards()))]


def all_shards(pattern):
    return lambda wildcards: [f"{OUT}/{pattern}".format(shard=f"{shard:05d}") for shard in range(n_shards())]


def all_parts(kind, suffix="parquet"):
    def paths(wildcards):
        n_parts = -(-n_shards() // SETTINGS.inference.shards_per_part)
        return [f"{OUT}/{kind}/part-{part:05d}.{suffix}" for part in range(n_parts)]

    return paths


def closing_words():
    """The run's last lines: what became of the recordings, and where the report is. Nothing after a part of the run."""
    page, summary = Path(OUT, "report.html"), Path(OUT, "run.json")
    if not (page.exists() and summary.exists()):
        return ""
    from ecgpipe.summary import closing_lines

    return "\n".join([*closing_lines(json.loads(summary.read_text())), f"Report: {page.resolve()}"])
