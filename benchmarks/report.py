"""How large the report is and how soon it is there, by the number of segments.

    python -m benchmarks.report [--segments 14 2000 100000 1000000] [--repeats 5]

A made-up run of two segments to a recording and the 17 labels of MIMIC-IV-ECG, 80 recordings with their leads, as the
browser tests have it. Seconds from the address to: text on the screen, the leads and the table, the map. Medians, in
a headless Chromium, which draws WebGL with the processor.
"""

import argparse
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ecgpipe.core import parquet, schemas
from ecgpipe.models import labels

if TYPE_CHECKING:
    from playwright.sync_api import Browser

ROOT = Path(__file__).parents[1]
LABELS = ROOT / "config" / "labels" / "mimic_iv_ecg.csv"

# Recordings that a table is made for one by one; a larger map has points of the same recordings again.
MOST_RECORDINGS = 50_000


def write(folder: Path, segments: int) -> tuple[Path, float]:
    """A report of so many segments, and how long the stage took, in seconds."""
    sys.path.insert(0, str(ROOT / "tests" / "helpers"))
    import small_run

    names = [label.name for label in labels.read(LABELS)]
    ids = [f"p{i // 1000:04d}/p{i:08d}/s{40_000_000 + 7919 * i % 9_999_999}" for i in range(segments // 2)]
    ids = ids[:MOST_RECORDINGS]
    none, tenth = [""] * len(names), ["0.1"] * len(names)
    small_run.write(folder, ids, labels=names, thresholds=none, references=tenth, n_signals=20)
    umap = folder / "umap/umap.parquet"
    few, random = pq.read_table(umap), np.random.default_rng(0)
    if segments > len(few):
        with parquet.parquet_writer(umap, schemas.UMAP) as writer:
            for _ in range(segments // len(few)):
                x, y = (pa.array(random.random(len(few)), pa.float32()) for _ in "xy")
                writer.write_table(pa.table([few["record_id"], few["segment"], x, y], schema=schemas.UMAP))
    began = time.perf_counter()
    return small_run.report(folder), time.perf_counter() - began


@contextmanager
def chromium() -> "Iterator[Browser]":
    """A headless Chromium."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        yield playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-gpu"]
        )


def time_opening(browser: "Browser", path: Path) -> tuple[float, float, float]:
    """Seconds from the address of a report to: text on the screen, the leads and the table, the map."""
    page = browser.new_context(viewport={"width": 1440, "height": 900}).new_page()
    began = time.perf_counter()
    page.goto(path.as_uri(), wait_until="commit")
    page.wait_for_selector("#viewer svg, #viewer .note", state="attached")
    leads = time.perf_counter() - began
    page.wait_for_selector("html[data-ready]", state="attached", timeout=300_000)
    whole = time.perf_counter() - began
    paint: float = page.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime")
    page.context.close()
    return paint / 1000, leads, whole


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--segments", type=int, nargs="+", default=[14, 2_000, 100_000, 1_000_000])
    parser.add_argument("--repeats", type=int, default=5, help="(default %(default)s)")
    args = parser.parse_args()
    print(f"{'segments':>9} {'MB':>6} {'stage s':>8} {'text':>6} {'leads':>6} {'map':>6}")
    with tempfile.TemporaryDirectory() as name, chromium() as browser:
        for segments in args.segments:
            path, seconds = write(Path(name, str(segments)), segments)
            times = [time_opening(browser, path) for _ in range(args.repeats)]
            text, leads, whole = (median(column) for column in zip(*times, strict=True))
            size = path.stat().st_size / 1e6
            print(f"{segments:>9,} {size:>6.1f} {seconds:>8.1f} {text:>6.2f} {leads:>6.2f} {whole:>6.2f}", flush=True)


if __name__ == "__main__":
    main()
