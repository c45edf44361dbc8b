"""Run the whole workflow over recordings: preprocessing, inference, aggregation, map, report.

This starts Snakemake with the workflow that ecgpipe brings; `snakemake --cores 8` in the clone does the same. Results
go to --outdir. The same command again continues where a run stopped, and does nothing where all is done.
"""

import argparse
import importlib.util
import json
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from ecgpipe.core import installation, options, provenance, typed
from ecgpipe.core.errors import EcgpipeError
from ecgpipe.workflow import config_option, validate

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
    options.add(parser, "checkpoint", default=None, help="a local file or folder, or hf://OWNER/REPO/FILE")
    options.add(
        parser, "model", help="model family, or the path of your own .py file (default: what the checkpoint tells)"
    )
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
    if importlib.util.find_spec("snakemake") is None:
        raise ModuleNotFoundError("No module named 'snakemake'", name="snakemake")
    refuse_config(args.passed_on)
    entries = collect_settings(
        args.input, {"outdir": args.outdir, "checkpoint": args.checkpoint, "model": args.model}, args.set
    )
    settings = typed.merge(entries)
    command = [
        *build_command(settings, args.config, args.profile, args.cores),
        *(["--dry-run"] if args.dry_run else []),
        *(["--verbose"] if args.verbose else []),
        *args.passed_on,
    ]
    files = [(str(path), read_settings(path)) for path in args.config]
    places = config_option.places_of_files(files) | {one.key: one.place for one in entries}
    check(settings, files, places)
    return execute(command, {typed.PLACES: json.dumps(places)})


def refuse_config(passed_on: Sequence[str]) -> None:
    """Refuse settings among the words for Snakemake, which would take them in place of all others."""
    groups = config_option.split_groups(passed_on)
    if groups:
        raise EcgpipeError(
            f"--config after --: Snakemake would ignore all other settings; give --set {' '.join(groups[0])} before --"
        )
    if any(word.partition("=")[0] in ("--configfile", "--configfiles") for word in passed_on):
        raise EcgpipeError("--configfile after --: give --config FILE before --")


def collect_settings(
    inputs: Sequence[str], options: Mapping[str, str | None], words: Sequence[str]
) -> list[typed.Given]:
    """The settings that a command line gives.

    Args:
        inputs: Paths of recordings.
        options: Settings that have an option of their own; None for those that were not given.
        words: KEY=VALUE, with dots between section and key, and VALUE in YAML.

    Raises:
        EcgpipeError: A word is not KEY=VALUE, or its value is not valid YAML.
    """
    entries = [
        typed.Given(key, value, f"--{key} {value}", f"--{key}") for key, value in options.items() if value is not None
    ]
    if inputs:
        value = list(inputs) if len(inputs) > 1 else inputs[0]
        entries.append(typed.Given("input", value, f"INPUT {' '.join(inputs)}", "INPUT"))
    return entries + typed.parse_pairs(words, "--set")


def read_settings(path: Path) -> dict[str, Any]:
    """Read a YAML file of settings.

    Raises:
        EcgpipeError: It is missing, or is not YAML with keys.
    """
    if not path.is_file():
        if "=" in str(path):
            raise EcgpipeError(
                f"--config: {str(path)!r} is not a file of settings; give --set {shlex.quote(str(path))}"
            )
        raise EcgpipeError(f"--config: there is no file {path}; check the path, or give settings by --set KEY=VALUE")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise EcgpipeError(f"--config: cannot read {path}: {reason}; correct the file") from error
    if not isinstance(content, dict):
        raise EcgpipeError(f"--config: {path} has no settings; write KEY: VALUE on each line, as config/config.yaml")
    return content


def check(
    settings: Mapping[str, Any], files: Sequence[tuple[str, Mapping[str, Any]]], places: Mapping[str, str]
) -> None:
    """Validate settings as the workflow will, before Snakemake starts, which takes seconds.

    Args:
        settings: What was given by options.
        files: Names and contents of files of settings.
        places: By the key of each setting, how it was given.

    Raises:
        EcgpipeError: A setting is not valid; the message has the syntax that the user used.
    """
    root = installation.root()
    merged = yaml.safe_load((root / "config" / "config.yaml").read_text(encoding="utf-8"))
    for content in [*(content for _, content in files), settings]:
        update(merged, content)
    if merged.get("input") in (None, "", []):
        raise EcgpipeError("INPUT: missing; name the recordings, e.g. ecgpipe run /data/ecgs")
    try:
        load = validate.load_models if validate.is_study(merged) else validate.load
        load(merged, root)
    except EcgpipeError as error:
        raise EcgpipeError(config_option.name_places(str(error), places)) from error


def update(settings: dict[Any, Any], more: Mapping[Any, Any]) -> None:
    """Add settings to others in place, section by section, as Snakemake does."""
    for key, value in more.items():
        if isinstance(value, Mapping) and isinstance(settings.get(key), dict):
            update(settings[key], value)
        else:
            settings[key] = value


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
        EcgpipeError: The profile is not there.
    """
    root = installation.root()
    own = root / "profiles" / (profile or "default")
    command = [sys.executable, "-m", "ecgpipe.workflow.snakemake_compat", "--snakefile", str(root / "Snakefile")]
    if (own / "config.yaml").is_file():
        command += ["--workflow-profile", str(own)]
    elif profile and Path(profile).expanduser().is_dir():
        command += ["--workflow-profile", str(Path(profile).expanduser())]
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


def execute(command: Sequence[str], environment: Mapping[str, str] | None = None) -> int:
    """Run a command that stops by itself when it is interrupted, and return its exit status: 130 if it was.

    Args:
        command: Its words.
        environment: Variables that it has besides those of this process.
    """
    interrupted = False

    def note(number: int, frame: object) -> None:
        nonlocal interrupted
        interrupted = True
        if number == signal.SIGTERM:  # an interrupt reaches the whole group of a terminal by itself
            process.send_signal(number)

    process = subprocess.Popen(command, env={**os.environ, **(environment or {})})
    usual = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        status = process.wait()
    finally:
        for number, handler in usual.items():
            signal.signal(number, handler)
    return INTERRUPTED if interrupted and status else status  # a run that was at its end anyway has ended well
