"""Find the recordings under the inputs and cut them into shards. True labels are checked against them first."""

import argparse
import os

import pyarrow as pa

from ecgpipe.core import options, settings
from ecgpipe.core.errors import EcgpipeError
from ecgpipe.evaluation import ground_truth_checks
from ecgpipe.inputs import manifest
from ecgpipe.workflow import shard_sizes


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `ecgpipe manifest`."""
    settings.add_arguments(parser, settings.Manifest)
    parser.add_argument(
        "--input",
        nargs="+",
        type=os.path.expanduser,
        help="folders, files, globs, or CSV/Parquet tables with a `path` column",
    )
    options.add(parser, "outdir", required=True, help="folder to write manifest.json, files.parquet and the shards to")


def run(args: argparse.Namespace) -> None:
    """Scan the inputs, check the true labels against the recordings, and write `manifest/`."""
    section = settings.parse_arguments("manifest", settings.Manifest, args)
    inputs = args.input or section.inputs
    if not inputs:
        raise EcgpipeError("input: missing; give --input, or --settings")

    def check(recordings: pa.Table, files: pa.Table) -> None:
        ground_truth_checks.check_after_scan(section.evaluation, section.labels, recordings, files)

    manifest.write(inputs, section, args.outdir, check, shard_sizes.measure)
