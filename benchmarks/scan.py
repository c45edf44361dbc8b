"""Measure the manifest stage: seconds and memory for 200,000 tiny files, against a bare os.walk of the same folder.

And for a table of a million rows, against Arrow's own reading of it.

Usage:
    python -m benchmarks.scan [--files 200000] [--folder /tmp]
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.csv

HEADER = "{0} 12 500 5000\n" + "{0}.dat 16 200/mV 16 0 0 0 0 I\n" * 12

# Runs the stage in a process of its own, whose peak memory is then this stage's alone.
CHILD = """
import json, resource, sys
from ecgpipe.cli import main
status = main(sys.argv[1:])
print(json.dumps([status, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss]))
"""


def wfdb(folder: Path, files: int) -> None:
    """Pairs of header and signals, two to a patient, each in a folder of its own as in MIMIC-IV-ECG."""
    for n in range(files // 2):
        study = folder / f"p{1000 + n // 2000}" / f"p{10_000_000 + n // 2}" / f"s{40_000_000 + n}"
        study.mkdir(parents=True)
        (study / f"{40_000_000 + n}.hea").write_text(HEADER.format(40_000_000 + n))
        (study / f"{40_000_000 + n}.dat").write_bytes(b"\0" * 24)


def npy(folder: Path, files: int) -> None:
    """Bare arrays, a thousand to a folder."""
    np.save(folder / "first.npy", np.zeros((12, 2), np.int16))
    content = (folder / "first.npy").read_bytes()
    (folder / "first.npy").unlink()
    for n in range(files):
        part = folder / f"{n // 1000:04d}"
        part.mkdir(exist_ok=True)
        (part / f"{n:06d}.npy").write_bytes(content)


def table(folder: Path, files: int) -> None:
    """A table of a million rows whose files are not there, since none of them is opened."""
    rows = (f"p{n // 1000}/{n}.hea,{n:07d},{n % 90},text {n}\n" for n in range(5 * files))
    with (folder / "table.csv").open("w") as file:
        file.write("path,record_id,age,report\n")
        file.writelines(rows)


def measure(name: str, make: Callable[[Path, int], None], files: int, scratch: Path | None) -> None:
    """Make the files, walk them, scan them; print one line."""
    with tempfile.TemporaryDirectory(dir=scratch) as made:
        inputs, out = Path(made, "in"), Path(made, "out")
        inputs.mkdir()
        make(inputs, files)
        source = inputs / "table.csv" if make is table else inputs
        started = time.monotonic()
        if make is table:
            pyarrow.csv.read_csv(source)
        else:
            sum(len(names) for _, _, names in os.walk(inputs))
        bare_s = time.monotonic() - started
        started = time.monotonic()
        command = [sys.executable, "-c", CHILD, "manifest", "--input", str(source), "--outdir", str(out)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        scan_s = time.monotonic() - started
        status, peak_kb = json.loads(done.stdout)
        if status:
            raise SystemExit(done.stderr)
        content = json.loads((out / "manifest.json").read_text())
    print(
        f"{name}: {sum(content['files'].values())} files, {content['n_recordings']} recordings, {scan_s:.1f} s, "
        f"{peak_kb / 1024:.0f} MB, {scan_s / bare_s:.0f} times the {bare_s:.2f} s that it takes at least",
        flush=True,
    )


def main() -> None:
    """Measure each kind of input."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=200_000)
    parser.add_argument("--folder", type=Path, help="where to make the files (default: the system's temporary folder)")
    args = parser.parse_args()
    for name, make in [("WFDB, a folder each", wfdb), ("NPY", npy), ("a table", table)]:
        measure(name, make, args.files, args.folder)


if __name__ == "__main__":
    main()
