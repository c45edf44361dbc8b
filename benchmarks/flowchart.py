"""Draw the flowcharts of docs/, which are Mermaid's text for GitHub, as SVG: the website loads no script for them."""

import re
import textwrap
from html import escape
from itertools import pairwise

BOX = 210  # px, the width of a box
LINE = 17  # px, the height of a line of text
GAP_X, GAP_Y, MARGIN = 26, 36, 8
CHARACTERS = 29  # of a line of text

Rows = list[list[str]]


def read_flowchart(text: str) -> tuple[dict[str, str], list[tuple[str, str]]]:
    """Read a flowchart of Mermaid, as far as docs/ use its language: `a["text"] --> b & c`.

    Returns:
        The text of each node in the order in which they appear, and the edges.
    """
    nodes: dict[str, str] = {}
    edges: list[tuple[str, str]] = []
    for line in text.strip().splitlines()[1:]:
        sides = []
        for side in line.split("-->"):
            names = []
            for part in side.split("&"):
                name, label = re.fullmatch(r'\s*(\w+)(?:\["([^"]*)"\])?\s*', part).groups()  # type: ignore[union-attr]
                nodes[name] = label or nodes.get(name, name)
                names.append(name)
            sides.append(names)
        edges += [(above, below) for left, right in pairwise(sides) for above in left for below in right]
    return nodes, edges


def arrange(nodes: dict[str, str], edges: list[tuple[str, str]]) -> tuple[Rows, list[tuple[str, str]]]:
    """Arrange nodes in rows, each below all that lead to it.

    Returns:
        The rows, with a place ("edge N row") wherever an edge passes a row, and the edges from row to row.
    """
    depth = dict.fromkeys(nodes, 0)
    for _ in nodes:
        for above, below in edges:
            depth[below] = max(depth[below], depth[above] + 1)
    rows: Rows = [[name for name in nodes if depth[name] == row] for row in range(max(depth.values()) + 1)]
    steps: list[tuple[str, str]] = []
    for number, (above, below) in enumerate(edges):
        way = [above, *(f"edge {number} {row}" for row in range(depth[above] + 1, depth[below])), below]
        for row, place in enumerate(way[1:-1], depth[above] + 1):
            rows[row].append(place)
        steps += pairwise(way)
    return rows, steps


def draw_flowchart(text: str) -> str:
    """Draw a flowchart of Mermaid as SVG, dark on white whatever the page's colours."""
    nodes, edges = read_flowchart(text)
    rows, steps = arrange(nodes, edges)
    wide = {name: BOX if name in nodes else 10 for row in rows for name in row}
    lines = {name: textwrap.wrap(label, CHARACTERS) for name, label in nodes.items()}
    width = max(sum(wide[name] for name in row) + GAP_X * (len(row) - 1) for row in rows) + 2 * MARGIN
    place: dict[str, tuple[float, float, float]] = {}  # the middle, the top and the bottom
    y = float(MARGIN)
    for row in rows:
        tall = LINE * max(len(lines.get(name, [])) for name in row) + 14
        x = (width - sum(wide[name] for name in row) - GAP_X * (len(row) - 1)) / 2
        for name in row:
            place[name] = (x + wide[name] / 2, y, y + tall)
            x += wide[name] + GAP_X
        y += tall + GAP_Y
    height = y - GAP_Y + MARGIN
    drawn = [f'<rect width="{width:g}" height="{height:g}" fill="white"/>']
    for above, below in steps:
        (x1, top, bottom), (x2, end, _) = place[above], place[below]
        start = bottom if above in nodes else top
        if above not in nodes:  # straight through the row that it passes
            drawn.append(f'<path d="M{x1:g} {top:g}V{bottom:g}" stroke="#596673"/>')
            start = bottom
        arrow = ' marker-end="url(#arrow)"' if below in nodes else ""
        drawn.append(f'<path d="M{x1:g} {start:g}L{x2:g} {end:g}" stroke="#596673"{arrow}/>')
    for name in nodes:
        x, top, bottom = place[name]
        drawn.append(
            f'<rect x="{x - BOX / 2:g}" y="{top:g}" width="{BOX}" height="{bottom - top:g}" rx="5" fill="#eef3f7" '
            'stroke="#596673"/>'
        )
        first = (top + bottom - LINE * len(lines[name])) / 2 + 13
        drawn += [
            f'<text x="{x:g}" y="{first + LINE * number:g}">{escape(line)}</text>'
            for number, line in enumerate(lines[name])
        ]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:g}" height="{height:g}" '
        f'viewBox="0 0 {width:g} {height:g}" font-family="sans-serif" font-size="13" '
        'text-anchor="middle" fill="#16202a"><defs><marker id="arrow" '
        'markerWidth="8" markerHeight="8" refX="7" refY="4" orient="auto"><path d="M0 0L8 4L0 8z" fill="#596673"/>'
        f"</marker></defs>{''.join(drawn)}</svg>\n"
    )
