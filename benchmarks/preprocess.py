"""How much faster recordings are read and prepared than in ECG-FM's tutorial, and whether two cores do twice as much.

    python -m benchmarks.preprocess [--recordings N] [--files N] [--repeats N] [--json FILE]

Simulated recordings of ten seconds: WFDB, 12 x 5,000 samples of 16 bits at 500 Hz, and MAT in fairseq-signals' layout,
12 x 4,096 at 400 Hz. The tutorial's way is wfdb.rdsamp or scipy.io.loadmat, then five transforms of ecg-transform, one
recording at a time; ours tells the signal's quality besides. All of it runs on one core, with one thread. Both sides
are measured in turn, and a ratio is the median of the pairs, because the speed of a shared machine drifts.

The command's shard names the same files again and again until it has as many rows as asked for, so both sides read
from memory rather than from a disk. The tutorial's program starts, reads and transforms; it writes nothing.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from benchmarks.sides import Row, Work, call, seconds, side

# Whatever is large is imported where it is needed: the process that compares stays small, and the tutorial's program
# imports nothing of ours.
if TYPE_CHECKING:
    import numpy as np

ONE_THREAD = {f"{library}_NUM_THREADS": "1" for library in ("OMP", "OPENBLAS", "MKL")}  # read when numpy is imported
LEADS = ("I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6")
RATES = {"wfdb": 500, "mat": 400}
SAMPLES = {"wfdb": 5000, "mat": 4096}
TARGETS = {"wfdb": 5.0, "mat": 2.0}
SCALING_TARGET = 1.8


def write_recordings(folder: Path, kind: str, count: int) -> list[Path]:
    """Write some simulated recordings; each file stands for one."""
    import numpy as np
    import scipy.io
    import wfdb

    from ecgpipe.selftest.simulator import RHYTHMS, simulate

    folder.mkdir()
    paths = []
    rhythms = list(RHYTHMS.values())
    for number in range(count):
        rng = np.random.default_rng(number)
        simulated = simulate(rhythms[number % len(rhythms)], RATES[kind], rng)  # (12, samples) in mV
        signal = np.resize(simulated.T, (SAMPLES[kind], len(LEADS))).T
        name = f"{number:05d}"
        if kind == "wfdb":
            wfdb.wrsamp(
                name, fs=RATES[kind], units=["mV"] * 12, sig_name=list(LEADS), fmt=["16"] * 12, adc_gain=[1000.0] * 12,
                baseline=[0] * 12, p_signal=signal.T, write_dir=str(folder),
            )  # fmt: skip
            paths.append(folder / f"{name}.hea")
        else:
            paths.append(folder / f"{name}.mat")
            rate = float(RATES[kind])
            content = {"feats": signal.astype(np.float32), "org_sample_rate": rate, "curr_sample_rate": rate}
            scipy.io.savemat(paths[-1], content)
    return paths


def tutorial(path: Path) -> "np.ndarray":
    """What ECG-FM's notebook (infer_quickstart.ipynb) does with a recording: (segments, 12, 2500)."""
    from ecg_transform.inp import ECGInput, ECGInputSchema, ECGMetadata
    from ecg_transform.sample import ECGSample
    from ecg_transform.t.common import HandleConstantLeads, LinearResample, ReorderLeads
    from ecg_transform.t.cut import SegmentNonoverlapping
    from ecg_transform.t.scale import Standardize

    if path.suffix == ".hea":
        import wfdb

        values, fields = wfdb.rdsamp(str(path.with_suffix("")))
        signal, rate, leads = values.T, fields["fs"], fields["sig_name"]
    else:
        import scipy.io

        content = scipy.io.loadmat(path)
        signal, rate, leads = content["feats"], content["curr_sample_rate"].item(), list(LEADS)
    sample = ECGSample(
        ECGInput(signal, ECGMetadata(rate, signal.shape[1], leads, "mV", 0, signal.shape[1])),
        ECGInputSchema(sample_rate=500, expected_lead_order=list(LEADS), required_num_samples=2500),
        [
            ReorderLeads(list(LEADS), missing_lead_strategy="raise"),
            LinearResample(500),
            HandleConstantLeads(strategy="zero"),
            Standardize(),
            SegmentNonoverlapping(2500),
        ],
    )
    segments: np.ndarray = sample.out
    return segments


def rows_of(paths: Sequence[Path], kind: str) -> list[dict[str, Any]]:
    """The files as rows of a manifest."""
    import pyarrow as pa

    from ecgpipe.core import schemas

    rows = [{"record_id": f"{i:06d}", "path": str(path), "format": kind} for i, path in enumerate(paths)]
    table: list[dict[str, Any]] = pa.Table.from_pylist(rows, schema=schemas.MANIFEST).to_pylist()
    return table


def ours(row: dict[str, Any]) -> "list[np.ndarray]":
    """What the stage does with a recording, without writing it: segments of (12, 2500)."""
    from ecgpipe.preprocessing import preprocess
    from ecgpipe.preprocessing.segments import Windows
    from ecgpipe.readers import Assumed

    record, segments = preprocess.process_recording(row, Windows(), Assumed())
    if record["status"] != "ok":
        raise RuntimeError(f"{row['path']}: {record['reason']}")
    return [signal for *_, signal in segments]


def in_process(paths: Sequence[Path], kind: str, repeats: int) -> dict[str, Any]:
    """Both ways over the files in this process: seconds per recording, their ratio, and how far apart results are."""
    import numpy as np

    rows = rows_of(paths, kind)
    apart = max(float(np.abs(tutorial(p) - ours(row)).max()) for p, row in zip(paths, rows, strict=True))
    times = [
        (seconds(lambda: deque(map(tutorial, paths), 0)), seconds(lambda: deque(map(ours, rows), 0)))
        for _ in range(repeats)
    ]
    return {**ratio_of(times, len(paths)), "largest_difference": apart}


def works(kind: str, way: str, paths: Sequence[Path]) -> dict[str, Work]:
    """One way over the files, in recordings."""
    given: Sequence[Any] = paths if way == "tutorial" else rows_of(paths, kind)
    step: Callable[[Any], object] = tutorial if way == "tutorial" else ours
    return {"": Work(lambda: deque(map(step, given), 0), len(paths))}


def measure(folder: Path, files: int, repeats: int, round_s: float) -> list[Row]:
    """Both ways on one core, each in a process of its own: recordings per second, and their ratio."""
    found = []
    for kind in RATES:
        paths = call("benchmarks.preprocess", "write_recordings", folder=folder / f"in-{kind}", kind=kind, count=files)
        given = {"environment": ONE_THREAD, "kind": kind, "paths": paths}
        with (
            side("benchmarks.preprocess", "works", round_s, way="tutorial", **given) as before,
            side("benchmarks.preprocess", "works", round_s, way="ours", **given) as after,
        ):
            pairs = [(before(""), after("")) for _ in range(repeats)]
        rounds = [(a, b) for a, b in pairs if a and b]
        left, right = (median(one.rate for one in column) for column in zip(*rounds, strict=True))
        peaks = (rounds[-1][0].peak_mb, rounds[-1][1].peak_mb)
        size = ("cpu", "", files, "recordings")
        of = f"the tutorial's, {kind}"
        found.append(Row(of, *size, left, "recordings/s", None, "", peaks[0], None, repeats))
        ratio = median(b.rate / a.rate for a, b in rounds)
        found.append(Row(f"preparing, {kind}", *size, right, "recordings/s", ratio, of, peaks[1], None, repeats))
    return found


class Stage:
    """The stage's command over a shard."""

    def __init__(self, folder: Path, paths: Sequence[Path], kind: str, recordings: int) -> None:
        import pyarrow as pa

        from ecgpipe.core import parquet, schemas

        self.folder, self.recordings = folder, recordings
        rows = rows_of([paths[i % len(paths)] for i in range(recordings)], kind)
        parquet.write(folder / "shard-00000.parquet", pa.Table.from_pylist(rows, schema=schemas.MANIFEST))

    def start(self, name: str, core: int) -> subprocess.Popen[bytes]:
        """Start it on a core; `name` is that of the files it writes."""
        arguments = ["--shard", self.folder / "shard-00000.parquet"]
        arguments += ["--segments", self.folder / f"{name}.arrow", "--records", self.folder / f"{name}.parquet"]
        return on_core(core, ["-m", "ecgpipe", "preprocess", *map(str, arguments)])

    def run(self, name: str = "alone", core: int = 0) -> None:
        """Run it to its end."""
        finish(self.start(name, core))


def on_core(number: int, arguments: Sequence[str]) -> subprocess.Popen[bytes]:
    """Start Python on one of the cores that this process may use, where the system lets us choose."""
    pin: Callable[[], None] | None = None
    if hasattr(os, "sched_setaffinity"):
        core = sorted(CORES)[number % len(CORES)]
        pin = lambda: os.sched_setaffinity(0, {core})  # noqa: E731
    return subprocess.Popen([sys.executable, *arguments], stderr=subprocess.DEVNULL, preexec_fn=pin)


def finish(*processes: subprocess.Popen[bytes]) -> None:
    """Wait for processes, and fail if one does."""
    for process in processes:
        if process.wait() != 0:
            raise RuntimeError(f"{process.args!r} ended with {process.returncode}")


def as_command(paths: Sequence[Path], kind: str, recordings: int, repeats: int, folder: Path) -> dict[str, Any]:
    """Both ways as a program, from its start to its end."""
    stage = Stage(folder, paths, kind, recordings)
    program = ["-m", "benchmarks.preprocess", "--tutorial", str(recordings), *map(str, paths)]
    times = [(seconds(lambda: finish(on_core(0, program))), seconds(stage.run)) for _ in range(repeats)]
    return ratio_of(times, recordings)


def scaling(paths: Sequence[Path], kind: str, recordings: int, repeats: int, folder: Path) -> dict[str, Any]:
    """Two shards one after the other on one core, and both at once on two."""
    stage = Stage(folder, paths, kind, recordings)

    def one_by_one() -> None:
        stage.run("first")
        stage.run("second")

    def together() -> None:
        finish(stage.start("first", 0), stage.start("second", 1))

    times = [(seconds(one_by_one), seconds(together)) for _ in range(repeats)]
    return ratio_of(times, 2 * recordings)


def preparing_alone(paths: Sequence[Path], recordings: int, repeats: int) -> dict[str, Any]:
    """Two programs that read and prepare without writing, one after the other on one core, and at once on two."""
    program = ["-m", "benchmarks.preprocess", "--prepare", str(recordings), *map(str, paths)]

    def one_by_one() -> None:
        finish(on_core(0, program))
        finish(on_core(0, program))

    def together() -> None:
        finish(on_core(0, program), on_core(1, program))

    times = [(seconds(one_by_one), seconds(together)) for _ in range(repeats)]
    return ratio_of(times, 2 * recordings)


def ratio_of(times: Sequence[tuple[float, float]], recordings: int) -> dict[str, Any]:
    """Milliseconds per recording of either side, and the ratio of both."""
    before, after = (median(column) * 1000 / recordings for column in zip(*times, strict=True))
    return {"before_ms": before, "after_ms": after, "ratio": median(a / b for a, b in times)}


CORES = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recordings", type=int, default=2000, help="of a command (default %(default)s)")
    parser.add_argument("--files", type=int, default=100, help="different ones (default %(default)s)")
    parser.add_argument("--repeats", type=int, default=5, help="(default %(default)s)")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    parser.add_argument("--tutorial", nargs="+", metavar=("N", "PATH"), help=argparse.SUPPRESS)
    parser.add_argument("--prepare", nargs="+", metavar=("N", "PATH"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    os.environ.update(ONE_THREAD)
    if args.tutorial:
        count, paths = int(args.tutorial[0]), args.tutorial[1:]
        for number in range(count):
            tutorial(Path(paths[number % len(paths)]))
        return
    if args.prepare:
        count, paths = int(args.prepare[0]), [Path(path) for path in args.prepare[1:]]
        rows = rows_of(paths, "mat" if paths[0].suffix == ".mat" else "wfdb")
        for number in range(count):
            ours(rows[number % len(rows)])
        return

    import numpy as np

    print(f"{platform.machine()}, {len(CORES)} cores, numpy {np.__version__}, medians of {args.repeats} pairs")
    print(f"{'milliseconds per recording':<44} {'tutorial':>9} {'ecgpipe':>9} {'ratio':>6} {'target':>6}")
    rows = []

    def tell(what: str, kind: str, found: dict[str, Any], target: float | None) -> None:
        rows.append({"what": what, "format": kind, "target": target, **found})
        print(
            f"{kind + ', ' + what:<44} {found['before_ms']:>9.2f} {found['after_ms']:>9.2f} {found['ratio']:>6.2f} "
            f"{target or '':>6}",
            flush=True,
        )

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        written = {kind: write_recordings(folder / kind, kind, args.files) for kind in RATES}
        if hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(0, {min(CORES)})
        for kind, paths in written.items():
            tell("in one process", kind, in_process(paths, kind, args.repeats), TARGETS[kind])
        for kind, paths in written.items():
            found = as_command(paths, kind, args.recordings, args.repeats, folder)
            tell(f"as a command, {args.recordings} recordings", kind, found, None)
        largest = max(row.get("largest_difference", 0) for row in rows)
        if len(CORES) > 1:
            print(f"\n{'':<44} {'one core':>9} {'two cores':>9}")
            for kind, paths in written.items():
                found = scaling(paths, kind, args.recordings, args.repeats, folder)
                tell("two shards, segments written", kind, found, SCALING_TARGET)
                found = preparing_alone(paths, 2 * args.recordings, args.repeats)
                tell("the same without writing", kind, found, SCALING_TARGET)
    print(f"\nlargest difference between the two ways' segments: {largest:.1e} (1e-6 allowed)")
    if args.json:
        args.json.write_text(json.dumps({"cores": len(CORES), "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
