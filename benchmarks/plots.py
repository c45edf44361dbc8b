"""Draw the plots of docs/performance.md from what `benchmarks.run` wrote.

    python -m benchmarks.plots [benchmarks/results/*.json] [--outdir docs]

performance-batch.svg: the model alone by batch size, as a ratio to torch.matmul and in segments per second.
performance-segments.svg: the infer stage by the number of segments, as a ratio to the model alone and in segments per
second. performance-gpu.svg: the model alone on each GPU that `benchmarks.gpu` has measured, whose part of the page is
written too. White behind, so that they can be read in a dark theme.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from benchmarks import gpu_page

RESULTS = Path(__file__).parent / "results"

# Of Okabe and Ito, told apart by colour-blind eyes and on paper by the markers besides.
COLOURS = {"float32": "#0072B2", "bfloat16": "#D55E00", "float16": "#009E73"}
MARKERS = ("o", "s", "^", "D", "v")
STYLES = {"infer, first to last": "-", "infer, whole command": "--", "model alone": "-"}
LOGARITHMIC = 20  # rates that differ by more

NEEDED = {"what", "of", "device", "precision", "size", "value", "ratio"}  # of a row of `benchmarks.run`

Series = Mapping[str, Sequence[Mapping[str, Any]]]


def read_runs(paths: Sequence[Path]) -> list[Any]:
    """What `benchmarks.run` wrote among the files; the other benchmarks' figures lie beside it."""
    contents = [json.loads(path.read_text(encoding="utf-8")) for path in paths]
    return [content for content in contents if all(row.keys() >= NEEDED for row in content.get("rows", [{}]))]


def series(contents: Sequence[Mapping[str, Any]], prefix: str, of: str) -> dict[tuple[int, str, str, str], list[Any]]:
    """The rows that are drawn as one line each, by machine, its device, precision and what they measure."""
    lines: dict[tuple[int, str, str, str], list[Any]] = {}
    for machine, content in enumerate(contents):
        for row in content["rows"]:
            if row["what"].startswith(prefix) and row["of"] == of:
                lines.setdefault((machine, row["device"], row["precision"], row["what"]), []).append(row)
    return lines


def device_name(machine: Mapping[str, Any], device: str) -> str:
    """The device as a legend names it."""
    if device == "cuda":
        return str(machine["gpus"][0]["name"])
    return f"{machine['cpu'].replace('(R)', '').replace('(TM)', '')}, {machine['cores']} cores"


def draw(contents: Sequence[Mapping[str, Any]], prefix: str, of: str, across: str) -> Figure:
    """Two panels over the same sizes: the ratio, and the rate."""
    figure = Figure(figsize=(10, 5.2), layout="constrained", facecolor="white")
    left, right = figure.subplots(1, 2)
    lines = series(contents, prefix, of)
    devices = sorted({key[:2] for key in lines})
    for (machine, device, precision, what), rows in lines.items():
        marker = MARKERS[devices.index((machine, device)) % len(MARKERS)]
        name = f"{device_name(contents[machine]['machine'], device)}, {precision}"
        label = name if what == "model alone" else f"{name}, {what.removeprefix('infer, ')}"
        look = {"color": COLOURS[precision], "marker": marker, "linestyle": STYLES[what], "label": label}
        sizes = [row["size"] for row in rows]
        left.plot(sizes, [row["ratio"] for row in rows], **look)
        right.plot(sizes, [row["value"] for row in rows], **look)
    ticks = sorted({row["size"] for rows in lines.values() for row in rows})
    _axes(left, ticks, across, f"ratio to {of}")
    left.axhline(1, color="#777777", linewidth=1, linestyle=":")
    left.set_ylim(0, max(1.05, 1.05 * max(row["ratio"] for rows in lines.values() for row in rows)))
    _axes(right, ticks, across, "segments per second")
    rates = [row["value"] for rows in lines.values() for row in rows]
    if max(rates) > LOGARITHMIC * min(rates):
        right.set_yscale("log")
    else:
        right.set_ylim(bottom=0)
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False, fontsize=11)
    return figure


def draw_gpu(contents: Sequence[Mapping[str, Any]]) -> Figure:
    """The model alone by batch size: segments per second, and its share of torch.matmul."""
    figure = Figure(figsize=(10, 5.2), layout="constrained", facecolor="white")
    left, right = figure.subplots(1, 2)
    ticks: set[int] = set()
    for marker, content in zip(MARKERS, contents, strict=False):
        lines: dict[str, list[tuple[int, Mapping[str, Any]]]] = {}
        for key, row in gpu_page.results_of(content, "model").items():
            if key.endswith(" with attention") and "segments_per_s" in row:
                precision, size, *_ = key.split(" ")
                lines.setdefault(precision, []).append((int(size), row))
        for precision, rows in lines.items():
            sizes = [size for size, _ in rows]
            ticks |= set(sizes)
            look = {"color": COLOURS[precision], "marker": marker, "label": f"{gpu_page.card_of(content)}, {precision}"}
            left.plot(sizes, [row["share_of_matmul"] for _, row in rows], **look)
            right.plot(sizes, [row["segments_per_s"] for _, row in rows], **look)
    _axes(left, sorted(ticks), "segments in a batch", "ratio to torch.matmul")
    left.set_ylim(0, 1.05)
    _axes(right, sorted(ticks), "segments in a batch", "segments per second")
    right.set_yscale("log")
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False, fontsize=11)
    return figure


def _axes(axes: Axes, ticks: Sequence[int], across: str, up: str) -> None:
    axes.set_xscale("log", base=2)
    axes.set_xticks(ticks, [f"{tick:,}" for tick in ticks], rotation=45 if len(ticks) > 6 else 0)
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel(across)
    axes.set_ylabel(up)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="#dddddd", linewidth=0.8)


def main() -> None:
    """Draw and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, nargs="*", help="JSON files (default: all in benchmarks/results)")
    parser.add_argument("--gpu", type=Path, default=RESULTS, help="folder of gpu-*.json (default: benchmarks/results)")
    parser.add_argument("--outdir", type=Path, default=Path(__file__).parents[1] / "docs")
    args = parser.parse_args()
    contents = read_runs(args.results or sorted(RESULTS.glob("*.json")))
    if not contents:
        parser.error(f"nothing of benchmarks.run in {RESULTS}; run python -m benchmarks.run first, or name its file")
    gpus = gpu_page.read(args.gpu)
    page = args.outdir / "performance.md"
    if page.exists():
        page.write_text(gpu_page.insert(page.read_text(encoding="utf-8"), gpus), encoding="utf-8")
        print(f"written to {page}")
    # The salt gives fixed names within the file, so that the same figures give the same file; text stays text.
    with mpl.rc_context({"svg.hashsalt": "ecgpipe", "svg.fonttype": "none", "font.size": 12}):
        figures = {
            "performance-batch.svg": draw(contents, "model alone", "torch.matmul", "segments in a batch"),
            "performance-segments.svg": draw(contents, "infer, ", "model alone", "segments in the job"),
        }
        if gpus:
            figures["performance-gpu.svg"] = draw_gpu(gpus)
        for name, figure in figures.items():
            figure.savefig(args.outdir / name, metadata={"Date": None})
            print(f"written to {args.outdir / name}")


if __name__ == "__main__":
    main()
