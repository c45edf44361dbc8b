"""Find the recordings under the inputs and cut them into shards, unless their true labels cannot be."""

import argparse
import os
from pathlib import Path

import pyarrow as pa

from ecgpipe.core import settings
from ecgpipe.core.errors import EcgpipeError
from ecgpipe.evaluation import ground_truth_checks
from ecgpipe.inputs import manifest


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `python -m ecgpipe manifest`."""
    settings.add_arguments(parser, settings.Manifest)
    parser.add_argument(
        "--input",
        nargs="+",
        type=os.path.expanduser,
        help="folders, files, globs, or CSV/Parquet tables with a `path` column",
    )
    parser.add_argument(
        "--outdir", type=Path, required=True, help="the folder to write manifest.json, files.parquet and the shards to"
    )


def run(args: argparse.Namespace) -> None:
    """Scan the inputs, hold the true labels against the recordings, and write `manifest/`."""
    given = settings.of_arguments("manifest", settings.Manifest, args)
    inputs = args.input or given.inputs
    if not inputs:
        raise EcgpipeError("input: not given; give --input, or --settings")

    def check(recordings: pa.Table, files: pa.Table) -> None:
        ground_truth_checks.check_after_scan(given.evaluation, given.labels, recordings, files)

    manifest.write(inputs, given, args.outdir, check)
