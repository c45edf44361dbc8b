"""Options that more than one command has: each is declared once, here.

A command's settings are options too; `settings.add_arguments` creates them from the model of the settings.
"""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ecgpipe.core.config import Config

# Arguments of `add_argument`, by option name without dashes.
SHARED: Mapping[str, Mapping[str, Any]] = {
    # Of a finished run.
    "outdir": {"type": Path, "default": Path("results"), "help": "the folder of a run's results (default %(default)s)"},
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
    "set": {"nargs": "+", "action": "extend", "default": [], "metavar": "KEY=VALUE", "help": "settings"},
    "logits": {"type": Path, "help": "a logits/part-*.parquet"},
    "drift": {"type": Path, "help": "precision/drift.json"},
    "calibration": {"type": Path, "help": "the JSON file that `calibrate` wrote (default: none)"},
    "heads": {"type": Path, "nargs": "*", "default": [], "help": "head.safetensors files of `probe` (default: none)"},
    # Of the recordings that a command shows or compares.
    "against": {"type": Path, "metavar": "OUTDIR", "help": "results of another run"},
    "recordings": {"type": int, "default": 20, "help": "how many recordings (default %(default)s)"},
    # Of true labels, and of columns of the inputs' tables.
    "truth": {"type": Path, "help": "CSV or Parquet table with a record_id and a column of 0 and 1 per label"},
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
