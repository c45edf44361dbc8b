"""Settings as a user types them: KEY=VALUE, with dots between section and key, and VALUE in YAML.

The only parser of such texts, and what puts the syntax that the user used into messages about settings.
"""

import json
import os
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from ecgpipe.core.errors import EcgpipeError

EXAMPLE = "umap.neighbors=30"

# Stands for the key in a place, see `name_places`.
KEY = "{key}"

# Environment variable of a run that `ecgpipe run` has started, and of its jobs: how each setting was given, in JSON.
PLACES = "ECGPIPE_SETTINGS_GIVEN_BY"

_IS_KEY = re.compile(r"[A-Za-z_][\w-]*(\.[\w-]+)*")


def write_setting(key: str, value: str) -> str:
    """Write a setting as the user of this run types it: for `ecgpipe run`, or for Snakemake.

    Args:
        key: E.g. umap.neighbors.
        value: In YAML.
    """
    section, dot, last = key.rpartition(".")
    if os.environ.get(PLACES):
        return f"--set {shlex.quote(f'{key}={value}')}"
    return f"--config {section}='{{{last}: {value}}}'" if dot else f"--config {shlex.quote(f'{key}={value}')}"


@dataclass(frozen=True)
class Given:
    """A setting, and how the user typed it."""

    key: str  # e.g. umap.neighbors
    value: Any
    typed: str  # e.g. --set umap.neighbors=30
    place: str  # the same without the value, e.g. --set {key}


def parse_pairs(words: Sequence[str], option: str, example: str = EXAMPLE) -> list[Given]:
    """Parse the words of an option that takes KEY=VALUE.

    Args:
        words: KEY=VALUE each, or what a shell has made of KEY = VALUE and KEY={KEY: VALUE} without quotes.
        option: The option, e.g. "--set".
        example: A setting that a message gives as an example.

    Returns:
        The settings, in order.

    Raises:
        EcgpipeError: A word is not KEY=VALUE, or a value is not valid YAML.
    """
    given = []
    pairs = join_words(words)
    for number, pair in enumerate(pairs):
        key, equals, text = pair.partition("=")
        if not equals or not key:
            following = pairs[number + 1 : number + 2]
            if _IS_KEY.fullmatch(pair) and following and "=" not in following[0]:
                fix = f"give {option} {shlex.quote(f'{pair}={following[0]}')}"
            else:
                fix = f"give e.g. {option} {example}"
                fix += f", and paths before {option}" if "/" in pair else ""
            raise EcgpipeError(f"{option}: {pair!r} is not KEY=VALUE; {fix}")
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError as error:
            quoted = shlex.quote(f"{key}={json.dumps(text, ensure_ascii=False)}")
            raise EcgpipeError(
                f"{option} {key}: {text!r} is not a valid value; close its brackets and quotes, or give it as text: "
                f"{option} {quoted}"
            ) from error
        given.append(Given(key, value, f"{option} {pair}", f"{option} {KEY}"))
    return given


def join_words(words: Iterable[str]) -> list[str]:
    """Join what a shell has split: KEY = VALUE, KEY= VALUE, KEY =VALUE, and a value in brackets without quotes.

    Only words that would not be KEY=VALUE otherwise are joined.
    """
    pairs: list[str] = []
    for word in words:
        last = pairs[-1] if pairs else ""
        key, equals, value = last.partition("=")
        if value.startswith(("{", "[")) and _count_open(value) > 0:
            pairs[-1] += f" {word}"
        elif (last and not equals and word.startswith("=")) or (key and equals and not value and "=" not in word):
            pairs[-1] += word
        else:
            pairs.append(word)
    return pairs


def _count_open(text: str) -> int:
    return sum((character in "{[") - (character in "}]") for character in text)


def merge(given: Iterable[Given]) -> dict[str, Any]:
    """Make nested sections of settings; a section given both by dots and as a mapping is merged.

    Raises:
        EcgpipeError: Two of them contradict each other.
    """
    merged: dict[str, Any] = {}
    seen: dict[tuple[str, ...], tuple[Any, Given]] = {}
    for one in given:
        for path, value in _list_leaves(tuple(one.key.split(".")), one.value):
            for other, (other_value, other_one) in seen.items():
                shorter = min(len(path), len(other))
                if path[:shorter] == other[:shorter] and (path != other or value != other_value):
                    raise EcgpipeError(f"{other_one.typed} and {one.typed} contradict each other; give one of them")
            seen[path] = value, one
            place = merged
            for section in path[:-1]:
                place = place.setdefault(section, {})
            place[path[-1]] = value
    return merged


def _list_leaves(path: tuple[str, ...], value: object) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Each value within a mapping, by its path; keys within a mapping, e.g. names of columns, may have dots."""
    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            yield from _list_leaves((*path, str(key)), inner)
    else:
        yield path, value


def expand_dots(config: Mapping[Any, Any], defaults: Mapping[str, Any]) -> dict[Any, Any]:
    """Put keys with dots into their sections, as Snakemake gives them from a file or a module's `config:`.

    Args:
        config: Settings merged of several places; the defaults may be among them.
        defaults: Nested, by which a default is told from a value that a user gave.

    Raises:
        EcgpipeError: A section has another value for the same key.
    """
    expanded = {key: value for key, value in config.items() if not _has_dots(key)}
    for dotted in filter(_has_dots, config):
        *sections, last = dotted.split(".")
        place, default = expanded, defaults
        for section in sections:
            inside = place.get(section)
            if inside is not None and not isinstance(inside, Mapping):
                raise EcgpipeError(f"{dotted}: {section} is also given, as {inside!r}; give one of them")
            place[section] = dict(inside or {})
            place, default = place[section], (default.get(section) if isinstance(default, Mapping) else None) or {}
        # As text, because Snakemake gives some values of the command line as text.
        usual = default.get(last) if isinstance(default, Mapping) else None
        if last in place and str(place[last]) not in (str(usual), str(config[dotted])):
            raise EcgpipeError(
                f"{dotted}: given as {dotted}: {config[dotted]} and as {'.'.join(sections)}: "
                f"{{{last}: {place[last]}}}, which contradict each other; give one of them"
            )
        place[last] = config[dotted]
    return expanded


def _has_dots(key: object) -> bool:
    return isinstance(key, str) and "." in key


def list_keys(config: Mapping[Any, Any]) -> list[str]:
    """The keys of settings, with dots between section and key."""
    return [
        ".".join(path) for key, value in config.items() for path, _ in _list_leaves(tuple(str(key).split(".")), value)
    ]


def name_places(message: str, places: Mapping[str, str]) -> str:
    """Put the syntax that the user used in place of the keys of settings at the beginnings of a message's lines.

    Args:
        message: Lines such as "umap.neighbours: no such setting".
        places: By the key of each setting that the user gave, how it was given: "--set {key}", "mine.yaml: {key}".
    """

    def name(line: str) -> str:
        key, colon, rest = line.partition(": ")
        place = find_place(key, places)
        return line if not colon or place is None else f"{place.replace(KEY, key)}: {rest}"

    return "\n".join(map(name, message.splitlines()))


def find_place(key: str, places: Mapping[str, str]) -> str | None:
    """How a setting was given, or the section that it is in, or something in it; None if it was not given."""
    path = key.split(".")
    for length in range(len(path), 0, -1):
        outer = ".".join(path[:length])
        if outer in places:
            return places[outer]
    return next((place for given, place in places.items() if given.startswith(f"{key}.")), None)
