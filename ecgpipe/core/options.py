"""Options that more than one command has: each is declared once, here.

A command's settings are options too; `settings.add_arguments` creates them from the model of the settings.
"""

import argparse
import logging
import os
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ecgpipe.core.errors import EcgpipeError
from ecgpipe.core.user_settings import Config

logger = logging.getLogger(__name__)

# The run that a command reads where the user names none.
DEFAULT_RUN = Path("results")

# Arguments of `add_argument`, by option name without dashes.
SHARED: Mapping[str, Mapping[str, Any]] = {
    # Of a finished run.
    "outdir": {"type": Path, "default": DEFAULT_RUN, "help": "the folder of a run's results (default %(default)s)"},
    # Of a run in progress: files that its rules name.
    "run": {"type": Path, "help": "run.json"},
    "weights": {"type": Path, "help": "checkpoint/model.safetensors"},
    "description": {"type": Path, "help": "checkpoint/model.json"},
    "manifest": {"type": Path, "help": "the folder manifest/"},
    "records": {"type": Path, "help": "the folder records/"},
    "segments": {"type": Path, "help": "segments/shard-*.arrow"},
    "shards": {"type": int, "help": "number of shards of the run (default: all in the folder)"},
    "embeddings": {"type": Path, "help": "the folder embeddings/"},
    "attention": {"type": Path, "help": "the folder attention/"},
    "predictions": {"type": Path, "help": "the folder predictions/"},
    "parts": {"type": int, "help": "number of parts of the run (default: all in the folder)"},
    "umap": {"type": Path, "help": "umap/umap.parquet"},
    "labels": {"type": Path, "help": "the label CSV"},
    "checkpoint": {
        "default": Config.model_fields["checkpoint"].default,
        "help": "a local .pt file, or hf://OWNER/REPO/FILE (default %(default)s)",
    },
    "model": {
        "type": os.path.expanduser,
        "help": "the model family, or the path of your own .py file (default: what the checkpoint tells)",
    },
    "model-options": {
        "nargs": "+",
        "default": [],
        "metavar": "KEY=VALUE",
        "help": "the model's variant, as `ecgpipe models NAME` lists them",
    },
    "set": {"nargs": "+", "action": "extend", "default": [], "metavar": "KEY=VALUE", "help": "settings"},
    "logits": {"type": Path, "help": "a logits/part-*.parquet"},
    "drift": {"type": Path, "help": "precision/drift.json"},
    "calibration": {"type": Path, "help": "the JSON file that `calibrate` wrote (default: none)"},
    "heads": {"type": Path, "nargs": "*", "default": [], "help": "head.safetensors files of `probe` (default: none)"},
    # Of the recordings that a command shows or compares.
    "against": {"type": Path, "metavar": "OUTDIR", "help": "results of another run"},
    "baseline": {"type": Path, "help": "the folder of a run of `untrained` over the same recordings"},
    "recordings": {"type": int, "default": 20, "help": "how many recordings (default %(default)s)"},
    # Of true labels, and of columns of the inputs' tables.
    "truth": {"type": Path, "help": "CSV or Parquet table with a record_id and a column of 0 and 1 per label"},
    "true-labels": {"type": Path, "help": "evaluation/true_labels.parquet"},
    "map": {
        "nargs": "+",
        "default": [],
        "metavar": "COLUMN=LABEL",
        "help": "the label that a column stands for; COLUMN:CODE=LABEL if the column lists codes. Columns with the "
        "name of a label need no mapping",
    },
    "split": {"metavar": "COLUMN", "help": "the column that names the split of a recording"},
    "on": {"metavar": "VALUE", "help": "the value of the column of --split"},
    "patient": {"metavar": "COLUMN", "help": "the column of the patient id"},
    "label": {"nargs": "+", "metavar": "NAME", "help": "labels"},
    # Of the computation.
    "method": {"help": "how it is computed"},
    "device": {"default": "auto", "help": "auto, cpu, cuda or cuda:N (default %(default)s)"},
    "threads": {"type": int, "default": 1, "help": "CPU threads (default %(default)s)"},
    "seed": {"type": int, "default": 42, "help": "seed of the random draws (default %(default)s)"},
    # Of the command's result.
    "output": {"type": Path, "help": "file to write"},
}


def add(parser: argparse._ActionsContainer, *names: str, required: bool = False, **different: object) -> None:
    """Add shared options to a command.

    Args:
        parser: The command's parser, or a group of its options.
        names: Names of the options, keys of `SHARED`.
        required: Whether the user must give them.
        different: Arguments that differ from `SHARED` for this command, e.g. `help` or `default`.
    """
    for name in names:
        declared = {**SHARED[name], **different}
        if required:
            declared = {**declared, "required": True}
        parser.add_argument(f"--{name}", **declared)


def read_pairs(pairs: Sequence[str], option: str) -> dict[str, str]:
    """The KEY=VALUE of an option.

    Raises:
        EcgpipeError: One has no equals sign.
    """
    for pair in pairs:
        if "=" not in pair:
            raise EcgpipeError(f"--{option}: {pair!r} has no value; give KEY=VALUE")
    return {key: value for key, _, value in (pair.partition("=") for pair in pairs)}


def add_run(parser: argparse.ArgumentParser) -> None:
    """Add the finished run that a command reads: RUN, its first argument, or --outdir as it was given before.

    Args:
        parser: The command's parser. Arguments that name recordings are added after this.
    """
    parser.add_argument("run", nargs="?", metavar="RUN", help=f"the folder of a finished run (default: {DEFAULT_RUN})")
    add(parser, "outdir", default=None, help=argparse.SUPPRESS)


def choose_run(
    command: str, run: str | None, outdir: Path | None, records: Sequence[str] = (), *, counted: bool = True
) -> tuple[Path, list[str]]:
    """Tell the run from the recordings, in the arguments of a command that has `add_run`.

    A command line of the old form is understood, and one message says how to write it now.

    Args:
        command: The command's name.
        run: The argument RUN, if there is one.
        outdir: The option --outdir, if there is one.
        records: The arguments after RUN, which are ids of recordings.
        counted: Whether the command takes a certain number of recordings, so that RUN is never the first of them.

    Returns:
        The run, and the ids.

    Raises:
        EcgpipeError: There are two runs, or a run where the recording should be.
    """
    old_run = outdir
    if run is not None and not counted and outdir is None and not Path(run).exists() and DEFAULT_RUN.is_dir():
        old_run = DEFAULT_RUN
    if old_run is not None:
        if run is not None and counted:
            raise EcgpipeError(f"RUN: both {run!r} and --outdir {outdir} are given; leave out --outdir")
        ids = [*([run] if run is not None else []), *records]
        dashes = ["--"] if any(word.startswith("-") for word in ids) else []
        now = shlex.join(["ecgpipe", command, str(old_run), *dashes, *ids])
        logger.warning("note: the run is the first argument now: %s", now)
        return old_run, ids
    if run is None and records and Path(records[0], "run.json").is_file():
        raise EcgpipeError(f"RECORD_ID: missing; give one of the ids in {Path(records[0], 'records')}, after the run")
    # As a shell does, which leaves what stands in quotes as it is.
    chosen = DEFAULT_RUN if run is None else Path(os.path.expanduser(run))  # noqa: PTH111, takes ~nobody as it is
    return chosen, list(records)
