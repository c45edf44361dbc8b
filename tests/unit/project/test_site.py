"""The website of docs/: every page is listed, every link leads somewhere, and nothing is loaded from the network."""

import re
from collections import defaultdict
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit
from xml.etree import ElementTree

import pytest
import yaml
from run_workflow import ROOT

from benchmarks import flowchart
from benchmarks.build_site import INSTALL, OWNER, build_site
from ecgpipe.core.errors import EcgpipeError

PAGES = sorted(path.relative_to(ROOT / "docs") for path in (ROOT / "docs").rglob("*.md"))
LOADED = {"img": "src", "script": "src", "link": "href", "iframe": "src", "source": "src", "video": "src"}


class Built(HTMLParser):
    """The addresses of a page: those that a click opens, those that the browser loads, and the places in it."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.places: set[str] = set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        known = {name: value for name, value in attributes if value is not None}
        self.places |= {known[name] for name in ("id", "name") if name in known}
        if tag == "a" and "href" in known:
            self.links.append(known["href"])
        if tag in LOADED and LOADED[tag] in known and known.get("rel") != "canonical":
            self.loaded.append(known[LOADED[tag]])


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built pages. A build ends at a link to a page or a heading that does not exist."""
    pytest.importorskip("zensical", reason=f"zensical is not installed; install it with: {INSTALL}")
    return build_site(tmp_path_factory.mktemp("site") / "site").parent


@pytest.fixture(scope="module")
def built(site: Path) -> dict[Path, Built]:
    """The addresses of each page, but of the one for addresses that do not exist, which has no place of its own."""
    return {path: Built(path) for path in sorted(site.rglob("*.html")) if path.name != "404.html"}


def test_every_page_is_in_the_navigation_and_in_the_index() -> None:
    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").partition("\nnav:\n")[2]
    entries = [entry for section in yaml.safe_load(text) for entry in section.values()]
    navigation = [page for entry in entries for page in ([entry] if isinstance(entry, str) else map(only_value, entry))]
    assert sorted(map(Path, navigation)) == PAGES
    index = (ROOT / "docs/index.md").read_text(encoding="utf-8")
    assert sorted([*map(Path, re.findall(r"\]\(([^)#]+\.md)\)", index)), Path("index.md")]) == PAGES


def only_value(entry: dict[str, str]) -> str:
    """The page of an entry of the navigation, which is called by its title."""
    [page] = entry.values()
    return page


def test_every_link_leads_to_a_file_and_a_place_that_are_there(built: dict[Path, Built]) -> None:
    assert {path.with_suffix(".md").name for path in built} >= {page.name for page in PAGES}
    broken = defaultdict(list)
    for path, page in built.items():
        for link in [*page.links, *page.loaded]:
            address = urlsplit(link)
            if not address.scheme:
                target = (path.parent / unquote(address.path)).resolve() if address.path else path
                place = unquote(address.fragment)
                if not target.is_file() or (place and target in built and place not in built[target].places):
                    broken[path.name].append(link)
    assert not broken


def test_nothing_is_loaded_from_the_network(site: Path, built: dict[Path, Built]) -> None:
    assert {
        link for page in built.values() for link in page.loaded if urlsplit(link).scheme or link[:2] == "//"
    } == set()
    styles = "".join(path.read_text(encoding="utf-8") for path in site.rglob("*.css"))
    assert re.findall(r"(?:url\(|@import\s*)['\"]?(?:https?:)?//[^)]*", styles) == []


def test_a_folder_of_somebody_else_is_left_alone(site: Path, tmp_path: Path) -> None:
    assert (site.parent / OWNER).is_file()
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(EcgpipeError, match="was not written by this command; give another folder"):
        build_site(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "ecgpipe/selftest/demo_weights/README.md"])
def test_links_of_pages_outside_the_website_lead_somewhere(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        address = urlsplit(link)
        if not address.scheme:
            target = (ROOT / name).parent / address.path
            assert target.exists(), link
            assert not address.fragment or address.fragment in anchors(target), link


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


def test_a_flowchart_is_a_picture(site: Path) -> None:
    page = (
        (site / "architecture/index.html")
        if (site / "architecture/index.html").is_file()
        else site / "architecture.html"
    )
    source = page.read_text(encoding="utf-8")
    assert "flowchart TD" not in source
    assert 'architecture-0.svg"' in source
    [picture] = site.rglob("architecture-0.svg")
    texts = "".join(ElementTree.parse(picture).getroot().itertext())  # noqa: S314, written by the build
    assert "workflow: what the" in texts
    assert "core: settings, schemas," in texts


def test_an_edge_that_passes_a_row_goes_beside_its_boxes() -> None:
    nodes, edges = flowchart.read_flowchart(
        'flowchart TD\n  a["one"] --> b & c\n  b --> d["two"]\n  c --> e\n  e --> d\n'
    )
    assert nodes == {"a": "one", "b": "b", "c": "c", "d": "two", "e": "e"}
    rows, steps = flowchart.arrange(nodes, edges)
    assert rows == [["a"], ["b", "c"], ["e", "edge 2 2"], ["d"]]
    assert steps == [("a", "b"), ("a", "c"), ("b", "edge 2 2"), ("edge 2 2", "d"), ("c", "e"), ("e", "d")]
