"""Snakemake's option --config as users type it: what Snakemake does not take or loses, and the words that it takes."""

import difflib
import json
import os
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import yaml
from pydantic import BaseModel

from ecgpipe.core import typed
from ecgpipe.core.errors import EcgpipeError
from ecgpipe.core.user_settings import Config

EXAMPLE = "--config input=/data/ecgs umap='{neighbors: 30}'"


def split_groups(words: Sequence[str]) -> list[list[str]]:
    """The words of each `--config` of a command line."""
    groups: list[list[str]] = []
    is_inside = False
    for word in words:
        if word == "--":
            break
        if word in ("--config", "-C"):
            groups.append([])
            is_inside = True
        elif word.startswith(("--config=", "-C=")):
            groups.append([word.partition("=")[2]])
            is_inside = False
        elif word.startswith("-"):
            is_inside = False
        elif is_inside:
            groups[-1].append(word)
    return groups


def describe_lost(groups: Sequence[Sequence[str]]) -> str | None:
    """What to say where `--config` stands more than once, of which Snakemake takes the last; None where it does not."""
    if len(groups) < 2:
        return None
    lost = " ".join(word for group in groups[:-1] for word in group)
    whole = _write_words([word for group in groups for word in group])
    return (
        f"--config: given {len(groups)} times, of which Snakemake takes the last alone and ignores {lost}; give "
        f"{whole or 'all settings by one --config'}"
    )


def explain(words: Sequence[str]) -> str:
    """What is wrong with a `--config` that Snakemake refuses, and the words that it takes.

    Args:
        words: The command line without the program's name.
    """
    pieces = [word for group in split_groups(words) for word in group]
    wrong = next((word for word in pieces if not re.match(r"[A-Za-z_][\w-]*\w=", word)), " ".join(pieces))
    whole = _write_words(pieces)
    fix = f"give {whole}" if whole else f"give e.g. {EXAMPLE}"
    if "=" not in wrong:
        return f"--config: {wrong!r} is not KEY=VALUE; {fix}"
    return f"--config: Snakemake does not take {wrong!r}; {fix}"


def _write_words(words: Sequence[str]) -> str | None:
    """Settings in the syntax that Snakemake takes, for a shell; None where it is not clear what is meant."""
    pairs: list[str] = []
    for word in typed.join_words(words):
        if pairs and "=" not in pairs[-1] and "=" not in word:  # input /path
            pairs[-1] += f"={word}"
        else:
            pairs.append(word)
    try:
        pieces = typed.parse_pairs(pairs, "--config")
        nested = typed.merge(pieces)
    except EcgpipeError:
        return None
    # What is in no section stays as it was typed.
    text = {one.key: one.typed.partition("=")[2] for one in pieces}
    shown = [
        shlex.quote(f"{key}={_write_mapping(value) if isinstance(value, Mapping) else text[key]}")
        for key, value in nested.items()
    ]
    return f"--config {' '.join(shown)}"


def _write_mapping(value: object) -> str:
    return yaml.safe_dump(value, default_flow_style=True, sort_keys=False, allow_unicode=True, width=10**6).strip()


def places_of_run(files: Iterable[tuple[str, Mapping[str, Any]]], config: Mapping[str, Any]) -> dict[str, str]:
    """How each setting was given, by its key.

    Args:
        files: Names and contents of the files of settings.
        config: What was given by --config.
    """
    handed_on = os.environ.get(typed.PLACES)
    if handed_on:
        places: dict[str, str] = json.loads(handed_on)
        return places
    return places_of_files(files) | dict.fromkeys(typed.list_keys(config), typed.KEY)


def places_of_files(files: Iterable[tuple[str, Mapping[str, Any]]]) -> dict[str, str]:
    """How each setting was given, by its key, of settings in files."""
    return {key: f"{name}: {typed.KEY}" for name, content in files for key in typed.list_keys(content)}


def name_places(message: str, places: Mapping[str, str]) -> str:
    """Put the syntax that the user used into a message about settings; for `--config`, add an example.

    Args:
        message: Lines such as "umap.neighbours: no such setting".
        places: By the key of each setting, how it was given.
    """
    return typed.name_places("\n".join(_add_example(line, places) for line in message.splitlines()), places)


def _add_example(line: str, places: Mapping[str, str]) -> str:
    key, _, rest = line.partition(": ")
    section, dot, last = key.partition(".")
    field = Config.model_fields.get(section)
    model = field.annotation if field else None
    if not dot or typed.find_place(key, places) != typed.KEY or "contradict" in rest:
        return line
    if not (isinstance(model, type) and issubclass(model, BaseModel)):
        return line
    close = difflib.get_close_matches(last, model.model_fields, n=1)
    if not close:
        return line
    default = model.model_fields[close[0]].get_default(call_default_factory=True)
    value = _write_mapping({close[0]: default or "VALUE"})
    return f"{line} (e.g. --config {section}={shlex.quote(value)})"
