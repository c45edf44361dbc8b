"""KEY=VALUE as people type it, and the syntax that a message about a setting uses."""

from typing import Any

import pytest

from ecgpipe.core import typed
from ecgpipe.core.errors import EcgpipeError


def parse(*words: str) -> dict[str, Any]:
    return typed.merge(typed.parse_pairs(words, "--set"))


@pytest.mark.parametrize(
    ("words", "values"),
    [
        (["umap.neighbors=30"], {"umap": {"neighbors": 30}}),
        (["umap={neighbors: 30}", "umap.min_dist=0.2"], {"umap": {"neighbors": 30, "min_dist": 0.2}}),
        (["umap.neighbors", "=", "30", "sha256=abc"], {"umap": {"neighbors": 30}, "sha256": "abc"}),
        (["umap.neighbors=", "30"], {"umap": {"neighbors": 30}}),
        (["umap.neighbors", "=30"], {"umap": {"neighbors": 30}}),
        (["preprocess={keep_segments:", "true}", "outdir=x"], {"preprocess": {"keep_segments": True}, "outdir": "x"}),
        (["heads=[a,", "b]"], {"heads": ["a", "b"]}),
        (["sha256=", "outdir=x"], {"sha256": None, "outdir": "x"}),
        (["report.title=a=b"], {"report": {"title": "a=b"}}),
        (["evaluation.mapping={v.1: AF}"], {"evaluation": {"mapping": {"v.1": "AF"}}}),
        (["outdir=x", "outdir=x"], {"outdir": "x"}),
        ([], {}),
    ],
)
def test_settings_are_taken_as_a_shell_hands_them_over(words: list[str], values: dict[str, Any]) -> None:
    assert parse(*words) == values


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["umap.neighbors"], "--set: 'umap.neighbors' is not KEY=VALUE; give e.g. --set umap.neighbors=30"),
        (["input", "/my ecgs"], "--set: 'input' is not KEY=VALUE; give --set 'input=/my ecgs'"),
        (
            ["a=1", "/ecgs"],
            "--set: '/ecgs' is not KEY=VALUE; give e.g. --set umap.neighbors=30, and paths before --set",
        ),
        (["=3"], "--set: '=3' is not KEY=VALUE; give e.g. --set umap.neighbors=30"),
        (
            ["report.title=[x"],
            "--set report.title: '[x' is not a valid value; close its brackets and quotes, or give it as text: "
            "--set 'report.title=\"[x\"'",
        ),
        (
            ["umap.neighbors=4", "umap={neighbors: 5}"],
            "--set umap.neighbors=4 and --set umap={neighbors: 5} contradict each other; give one of them",
        ),
        (["umap=5", "umap.neighbors=4"], "--set umap=5 and --set umap.neighbors=4 contradict each other; give one of "),
    ],
)
def test_what_is_no_setting_is_named_with_the_line_to_give(words: list[str], says: str) -> None:
    with pytest.raises(EcgpipeError) as raised:
        parse(*words)
    assert str(raised.value).startswith(says)


def test_the_line_that_gives_a_value_as_text_does() -> None:
    assert parse('report.title="[x"') == {"report": {"title": "[x"}}


DEFAULTS = {"umap": {"neighbors": None, "min_dist": 0.1}}


def test_a_key_with_dots_is_put_into_its_section_and_takes_the_place_of_a_default() -> None:
    given = {"umap.neighbors": 30, "umap": {"neighbors": None, "min_dist": 0.2}, "x": 1, 3: 4}
    assert typed.expand_dots(given, DEFAULTS) == {"umap": {"neighbors": 30, "min_dist": 0.2}, "x": 1, 3: 4}
    assert given["umap"] == {"neighbors": None, "min_dist": 0.2}
    assert typed.expand_dots({"a.b.c": 1}, DEFAULTS) == {"a": {"b": {"c": 1}}}
    # Snakemake gives the values within a mapping on the command line as text.
    assert typed.expand_dots({"umap": {"neighbors": "30"}, "umap.neighbors": 30}, DEFAULTS)["umap"]["neighbors"] == 30


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (
            {"umap": {"neighbors": 5}, "umap.neighbors": 30},
            "umap.neighbors: given as umap.neighbors: 30 and as umap: {neighbors: 5}, which contradict each other",
        ),
        ({"umap": 5, "umap.neighbors": 30}, "umap.neighbors: umap is also given, as 5; give one of them"),
    ],
)
def test_a_section_that_states_otherwise_is_named_with_the_key(given: dict[str, Any], says: str) -> None:
    with pytest.raises(EcgpipeError) as raised:
        typed.expand_dots(given, DEFAULTS)
    assert str(raised.value).startswith(says)


def test_a_message_names_each_setting_as_it_was_given() -> None:
    places = {"umap": "--set {key}", "outdir": "--outdir", "evaluation.patient": "mine.yaml: {key}"}
    message = "umap.min_dist: is 3\noutdir: no\nevaluation: neither\nlabels: no: colon\nno key"
    assert typed.name_places(message, places) == (
        "--set umap.min_dist: is 3\n--outdir: no\nmine.yaml: evaluation: neither\nlabels: no: colon\nno key"
    )


def test_the_keys_of_nested_settings_are_listed() -> None:
    assert typed.list_keys({"umap": {"neighbors": 3}, "umap.min_dist": 1, "heads": ["a"]}) == [
        *("umap.neighbors", "umap.min_dist", "heads")
    ]


def test_a_hint_of_a_job_has_the_syntax_of_the_command_that_started_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(typed.PLACES, raising=False)
    assert typed.write_setting("max_failed_fraction", "0.06") == "--config max_failed_fraction=0.06"
    assert typed.write_setting("evaluation.truth", "a.csv") == "--config evaluation='{truth: a.csv}'"
    monkeypatch.setenv(typed.PLACES, "{}")
    assert typed.write_setting("max_failed_fraction", "0.06") == "--set max_failed_fraction=0.06"
    assert typed.write_setting("evaluation.truth", "a b.csv") == "--set 'evaluation.truth=a b.csv'"
