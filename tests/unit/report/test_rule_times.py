"""The times of the rules, and the figure of how they hang together."""

from pathlib import Path

import pytest

from ecgpipe.report import rule_times

HEAD = "s\th:m:s\tmax_rss\tmean_load\n"


def write(folder: Path, **files: str) -> None:
    for name, text in files.items():
        path = folder / f"{name.replace('__', '/')}.tsv"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def test_the_jobs_of_a_rule_are_put_together_in_the_order_of_the_workflow(tmp_path: Path) -> None:
    write(tmp_path, umap=f"{HEAD}60.5\t0:01:00\t512.5\t99.0\n")
    for number, seconds in enumerate([1.0, 4.0, 2.0]):
        write(tmp_path, **{f"preprocess__shard-0000{number}": f"{HEAD}{seconds}\t0:00:01\t{100 + number}\t50.0\n"})
    first, second = rule_times.read_rule_times(tmp_path)
    assert first == ("preprocess", 3, 7.0, 2.0, 4.0, 102.0)
    assert second == ("umap", 1, 60.5, 60.5, 60.5, 512.5)


@pytest.mark.parametrize(("memory", "expected"), [("NA", None), ("-", None), ("", None)])
def test_what_was_not_measured_is_left_out(memory: str, expected: float | None, tmp_path: Path) -> None:
    write(tmp_path, umap=f"{HEAD}0.1\t0:00:00\t{memory}\tNA\n", infer="", aggregate="not a benchmark")
    [only] = rule_times.read_rule_times(tmp_path)
    assert (only.rule, only.most_mb) == ("umap", expected)


def test_no_times_at_all(tmp_path: Path) -> None:
    assert rule_times.read_rule_times(tmp_path) == []
    assert rule_times.lay_out_graph([], {})["nodes"][0]["name"] == "report"


def test_the_figure_has_a_line_for_each_step_and_none_that_another_implies() -> None:
    times = [rule_times.RuleTime(rule, 1, 1.0, 1.0, 1.0, None) for rule in rule_times.SOURCES]
    drawn = rule_times.lay_out_graph(times, {"infer": "2 jobs, 3 s"})
    assert {node["name"] for node in drawn["nodes"]} == set(rule_times.SOURCES)
    [infer] = [node for node in drawn["nodes"] if node["name"] == "infer"]
    assert infer["said"] == "2 jobs, 3 s"
    assert drawn["sources"] == {rule: list(sources) for rule, sources in rule_times.SOURCES.items()}
    assert len(drawn["lines"]) < sum(map(len, rule_times.SOURCES.values()))
    assert len({(node["x"], node["y"]) for node in drawn["nodes"]}) == len(rule_times.SOURCES)
