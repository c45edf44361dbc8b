"""Run the whole workflow over recordings: preprocessing, inference, aggregation, map, report.

This starts Snakemake with the workflow that ecgpipe brings; `snakemake --cores 8` in the clone does the same. Results
go to --outdir. The same command again continues where a run stopped, and does nothing where all is done.
"""

import argparse
import json
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from ecgpipe.core import installation, options, provenance
from ecgpipe.core.errors import EcgpipeError

# Words after -- are for Snakemake.
PASSES_ON = True

# What a shell says of a command that an interrupt ended.
INTERRUPTED = 130


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `ecgpipe run`."""
    parser.add_argument(
        "input", nargs="*", metavar="INPUT", help="a folder, file, glob or table of recordings; or input: in --config"
    )
    options.add(parser, "outdir", type=str, default=None, help="where results go (default: results)")
    options.add(parser, "checkpoint", default=None, help="a local .pt file, or hf://OWNER/REPO/FILE")
    parser.add_argument("--cores", type=int, default=None, help="CPU cores to use (default: all)")
    options.add(parser, "set", help="settings as in docs/config.md, e.g. --set umap.neighbors=30")
    parser.add_argument(
        "--config", nargs="+", action="extend", default=[], type=Path, metavar="FILE", help="YAML files of settings"
    )
    parser.add_argument("--profile", help="slurm, or the folder of a Snakemake profile of your own")
    parser.add_argument("--dry-run", action="store_true", help="only say what would be done")
    parser.add_argument("--verbose", action="store_true", help="show everything that Snakemake says")
    parser.epilog = "Options for Snakemake itself stand after --, e.g. ecgpipe run INPUT -- --keep-going"


def run(args: argparse.Namespace) -> int:
    """Run Snakemake, and return its exit status."""
    settings = collect_settings(args.input, {"outdir": args.outdir, "checkpoint": args.checkpoint}, args.set)
    command = [
        *build_command(settings, args.config, args.profile, args.cores),
        *(["--dry-run"] if args.dry_run else []),
        *(["--verbose"] if args.verbose else []),
        *args.passed_on,
    ]
    return execute(command)


def collect_settings(inputs: Sequence[str], options: Mapping[str, str | None], pairs: Sequence[str]) -> dict[str, Any]:
    """The settings that a command line gives, as nested sections.

    Args:
        inputs: Paths of recordings.
        options: Settings that have an option of their own; None for those that were not given.
        pairs: Texts KEY=VALUE, with dots between section and key, and VALUE in YAML.

    Returns:
        Values by key; a section is a dict.

    Raises:
        EcgpipeError: A pair is not KEY=VALUE, or its value is no YAML.
    """
    settings: dict[str, Any] = {key: value for key, value in options.items() if value is not None}
    if inputs:
        settings["input"] = list(inputs) if len(inputs) > 1 else inputs[0]
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals or not key:
            raise EcgpipeError(f"--set: {pair!r} is not KEY=VALUE; give e.g. --set umap.neighbors=30")
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise EcgpipeError(
                f"--set {key}: {text!r} is not a valid value; put it in quotes, e.g. --set '{key}={text}'"
            ) from error
        *sections, last = key.split(".")
        place = settings
        for section in sections:
            place = place.setdefault(section, {})
            if not isinstance(place, dict):
                raise EcgpipeError(f"--set {key}: {section} is also given a value; give one of them")
        place[last] = value
    return settings


def build_command(
    settings: Mapping[str, Any], files: Sequence[Path], profile: str | None, cores: int | None
) -> list[str]:
    """The command line that runs Snakemake.

    Args:
        settings: What is given besides `files`.
        files: YAML files of settings.
        profile: The name of a profile of ecgpipe's, or the folder of another one; None for the default one.
        cores: CPU cores; None for all of this machine, or what the profile says.

    Returns:
        Its words.

    Raises:
        EcgpipeError: A file or profile is not there.
    """
    root = installation.root()
    for file in files:
        if not file.is_file():
            raise EcgpipeError(
                f"--config: there is no file {file}; check the path, or give settings by --set KEY=VALUE"
            )
    own = root / "profiles" / (profile or "default")
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(root / "Snakefile")]
    if (own / "config.yaml").is_file():
        command += ["--workflow-profile", str(own)]
    elif profile and Path(profile).is_dir():
        command += ["--workflow-profile", profile]
    else:
        known = sorted(path.parent.name for path in root.glob("profiles/*/config.yaml"))
        raise EcgpipeError(f"--profile: {profile!r} is neither a folder nor one of {', '.join(known)}")
    if cores is not None and cores < 1:
        raise EcgpipeError(f"--cores: {cores} is out of range; give at least 1")
    if cores is not None or profile is None:
        command += ["--cores", str(cores or provenance.count_cpus())]
    if files:
        command += ["--configfile", *map(str, files)]
    if settings:
        command += ["--config", *(f"{key}={as_text(value)}" for key, value in settings.items())]
    return command


def as_text(value: object) -> str:
    """A value for Snakemake's --config, which reads numbers, yes and no, and YAML."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def execute(command: Sequence[str]) -> int:
    """Run a command that stops by itself when it is interrupted, and return its exit status: 130 if it was.

    Args:
        command: Its words.
    """
    interrupted = False

    def note(number: int, frame: object) -> None:
        nonlocal interrupted
        interrupted = True
        if number == signal.SIGTERM:  # an interrupt reaches the whole group of a terminal by itself
            process.send_signal(number)

    process = subprocess.Popen(command)
    usual = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        status = process.wait()
    finally:
        for number, handler in usual.items():
            signal.signal(number, handler)
    return INTERRUPTED if interrupted else status
