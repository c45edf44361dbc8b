"""Snakemake's option --config as people type it."""

import json

import pytest

from ecgpipe.core import typed
from ecgpipe.workflow import config_option


@pytest.mark.parametrize(
    ("words", "groups"),
    [
        ([], []),
        (["--cores", "2", "--config", "a=1", "b=2", "--dry-run", "all"], [["a=1", "b=2"]]),
        (["--config", "a=1", "-C", "b=2"], [["a=1"], ["b=2"]]),
        (["--config=a=1", "all"], [["a=1"]]),
        (["--configfile", "x.yaml", "--config", "a=1", "--", "b=2"], [["a=1"]]),
    ],
)
def test_the_groups_of_a_command_line(words: list[str], groups: list[list[str]]) -> None:
    assert config_option.split_groups(words) == groups


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (
            ["input=e", "umap.neighbors=4", "umap={min_dist: 0.2}"],
            "--config: Snakemake does not take 'umap.neighbors=4'; give --config input=e "
            "'umap={neighbors: 4, min_dist: 0.2}'",
        ),
        (
            ["preprocess={keep_segments:", "true}"],
            "--config: 'true}' is not KEY=VALUE; give --config 'preprocess={keep_segments: true}'",
        ),
        (["input", "/my ecgs"], "--config: 'input' is not KEY=VALUE; give --config 'input=/my ecgs'"),
        (["input", "=", "/ecgs"], "--config: 'input' is not KEY=VALUE; give --config input=/ecgs"),
        (
            ["input=e", "all"],
            "--config: 'all' is not KEY=VALUE; give e.g. --config input=/data/ecgs umap='{neighbors: 30}'",
        ),
    ],
)
def test_what_snakemake_refuses_is_said_with_the_words_that_it_takes(words: list[str], says: str) -> None:
    assert config_option.explain(["--config", *words, "--cores", "2"]) == says


def test_a_second_config_is_said_to_lose_the_first() -> None:
    assert config_option.describe_lost([["input=e"]]) is None
    assert config_option.describe_lost([["input=e"], ["outdir=o"]]) == (
        "--config: given 2 times, of which Snakemake takes the last alone and ignores input=e; give --config input=e "
        "outdir=o"
    )


@pytest.mark.parametrize(
    ("message", "said"),
    [
        (
            "umap.neighbours: no such setting; did you mean 'neighbors'?",
            "umap.neighbours: no such setting; did you mean 'neighbors'? (e.g. --config umap='{neighbors: VALUE}')",
        ),
        (
            "umap.min_dist: 'x' is not valid: a reason",
            "umap.min_dist: 'x' is not valid: a reason (e.g. --config umap='{min_dist: 0.1}')",
        ),
        ("report.title: 3 is not valid", "mine.yaml: report.title: 3 is not valid"),
        ("labels: cannot read x", "labels: cannot read x"),
    ],
)
def test_a_message_has_an_example_of_config_or_the_name_of_the_file(message: str, said: str) -> None:
    places = config_option.places_of_run(
        [("mine.yaml", {"report": {"title": 3}, "umap": {"neighbours": 3}})], {"umap": {"neighbours": 3, "min_dist": 2}}
    )
    assert config_option.name_places(message, places) == said


def test_what_ecgpipe_run_hands_on_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(typed.PLACES, json.dumps({"outdir": "--outdir"}))
    assert config_option.places_of_run([], {"outdir": "o"}) == {"outdir": "--outdir"}
