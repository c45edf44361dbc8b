"""A PDF that Chromium printed, measured: how many millimetres of paper a second and a millivolt are."""

import io
import re
import shutil
import subprocess
from typing import NamedTuple

import numpy as np
import pytest
from PIL import Image

DPI = 200


class Printed(NamedTuple):
    """The page with the ECG."""

    pages: int  # of the PDF
    said: str  # the scale in words
    mm_per_s: float
    mm_per_mv: float


def printed(pdf: bytes) -> Printed:
    """Measure the bold lines of the grid, which on paper are 5 mm apart: 0.2 s and 0.5 mV."""
    if not shutil.which("pdftoppm"):
        pytest.skip("pdftoppm is not installed (apt-get install poppler-utils)")
    texts = subprocess.run(["pdftotext", "-", "-"], input=pdf, capture_output=True, check=True).stdout.decode()  # noqa: S607
    pages = texts.split("\f")[:-1]
    [number] = [number for number, text in enumerate(pages, start=1) if "mm/s" in text]
    [said] = re.findall(r"[\d.]+ mm/s, [\d.]+ mm/mV", pages[number - 1])
    which = ["-f", str(number), "-l", str(number)]
    # As PPM: compressed to PNG it would take eight times as long.
    command = ["pdftoppm", "-r", str(DPI), *which, "-singlefile", "-"]
    ppm = subprocess.run(command, input=pdf, capture_output=True, check=True).stdout
    red, green, blue = np.moveaxis(np.array(Image.open(io.BytesIO(ppm)).convert("RGB")).astype(int), 2, 0)
    pink = (red > 190) & (red - green > 25) & (abs(green - blue) < 12)  # the bold lines
    columns, rows = np.flatnonzero(pink.any(axis=0)), np.flatnonzero(pink.any(axis=1))
    grid = pink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    return Printed(len(pages), said, 5 * period(grid.sum(axis=0)), 2 * period(grid.sum(axis=1)))


def period(profile: np.ndarray) -> float:
    """In mm, between 2 and 7, that of the strongest frequency."""
    n = len(profile)
    strength = np.abs(np.fft.rfft((profile - profile.mean()) * np.hanning(n), 16 * n))
    per_mm = np.fft.rfftfreq(16 * n, 25.4 / DPI)
    among = (per_mm > 1 / 7) & (per_mm < 1 / 2)
    return float(1 / per_mm[among][strength[among].argmax()])


def assert_true(found: Printed) -> None:
    """See that the scale is what its text says, to the tenth that it says."""
    speed, height = map(float, re.findall(r"[\d.]+", found.said))
    assert found.mm_per_s == pytest.approx(speed, abs=0.1)
    assert found.mm_per_mv == pytest.approx(height, abs=0.1)
