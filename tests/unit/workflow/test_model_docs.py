"""The pages on models say what the facts and the declarations of inputs say, and name every variant and label file."""

import json
import re
from importlib import import_module
from pathlib import Path

import pytest
from run_workflow import ROOT

from ecgpipe.core.describe_input import describe_input
from ecgpipe.evaluation import crosswalk
from ecgpipe.models import registry
from ecgpipe.workflow import model_docs

TABLES = (ROOT / "docs" / "models.md").read_text(encoding="utf-8")
PAGES = {path.stem: path.read_text(encoding="utf-8") for path in sorted((ROOT / "docs" / "models").glob("*.md"))}


def family(name: str) -> object:
    return import_module(f"ecgpipe.models.{name.replace('-', '_')}.family")


def test_every_family_has_a_page_or_that_of_another() -> None:
    assert {model_docs._page_of(name) for name in registry.list_families()} == PAGES.keys()
    assert set(model_docs.generated_pages()) == {"docs/models.md", *(f"docs/models/{name}.md" for name in PAGES)}


def test_the_tables_have_every_released_file_and_every_licence() -> None:
    for name in registry.list_families():
        facts = registry.read_facts(name)
        for weights in facts.weights:
            assert f"`{weights.address}`" in TABLES
        assert facts.code_licence in TABLES
        assert f"--model {name} --checkpoint " in TABLES


@pytest.mark.parametrize("name", PAGES)
def test_a_page_has_the_declared_input_in_words_and_the_source_of_each_fact(name: str) -> None:
    for variant, declared in family(name).VARIANTS.items():  # type: ignore[attr-defined]
        assert "\n".join(f"- {sentence}" for sentence in describe_input(declared)) in PAGES[name]
        assert variant == "default" or f"`{variant}`" in PAGES[name]
    facts = registry.read_facts(name)
    assert facts.citation in PAGES[name]
    assert facts.unverified in PAGES[name]
    for source in facts.sources.values():
        assert source == "none" or source in PAGES[name].replace("<https", "https").replace(">", "")
    for heading in ("## Outputs", "## Traps", "## What was verified"):
        assert f"\n{heading}\n" in PAGES[name]


def test_the_table_of_variants_has_them_all_in_order() -> None:
    rows = dict(re.findall(r"^\| `([\w-]+)`(?:, `[\w-]+`)? \| `(?:\w+)` \| (.+) \|$", TABLES, re.MULTILINE))
    for name in PAGES:
        variants = list(family(name).VARIANTS)  # type: ignore[attr-defined]
        if len(variants) > 1:
            assert rows[name] == ", ".join(f"`{variant}`" for variant in variants)
            option = getattr(family(name), "OPTION", None)
            assert option is None or f"| `{option}` |" in TABLES
            assert f"model_options={{{option or ''}" in PAGES[name]


def test_the_speed_is_what_was_measured() -> None:
    measured = json.loads((ROOT / model_docs.SPEED).read_text(encoding="utf-8"))["relative_to_ecg_fm"]
    assert measured["ecg-fm"] == {"windows": 1, "seconds_of_ecg": 1}
    assert f"| {measured['ecgfounder']['windows']:.1f} ({measured['ecgfounder']['seconds_of_ecg']:.1f}) |" in TABLES


def test_the_page_explains_every_column_and_relation_of_the_crosswalk() -> None:
    section = TABLES.partition("## The crosswalk")[2]
    for word in (*crosswalk.NEEDED, *crosswalk.NOTES, "same", "narrower", "broader"):
        assert f"`{word}`" in section


def test_links_lead_somewhere() -> None:
    pages = {ROOT / "docs" / "models.md": TABLES}
    pages |= {ROOT / "docs" / "models" / f"{name}.md": page for name, page in PAGES.items()}
    for path, page in pages.items():
        for target in re.findall(r"\]\(([^)#]+)", page):
            assert target.startswith("https://") or (path.parent / target).exists(), (path.name, target)


def test_a_page_without_the_marks_is_refused(tmp_path: Path) -> None:
    (tmp_path / "docs" / "models").mkdir(parents=True)
    (tmp_path / "docs" / "models" / "ecg-fm.md").write_text("# ECG-FM\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"ecg-fm\.md needs a line <!-- Written by"):
        model_docs.generated_pages(tmp_path)


def test_where_there_are_no_pages_nothing_is_written(tmp_path: Path) -> None:
    assert model_docs.generated_pages(tmp_path) == {}
