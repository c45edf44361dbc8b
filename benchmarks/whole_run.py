"""A run over as many recordings as one asks for, from the files to the report, with everything real but the network.

    python -m benchmarks.whole_run --recordings 1000000 --folder /scratch/whole

The recordings are 10 s of 12 leads at 500 Hz, 16 bits, as WFDB files in folders like MIMIC-IV-ECG's, one folder per
recording. Each has a header of its own; the signal files are hard links to those of few simulated recordings, as a
million of them would take 120 GB, and each header states another gain, so that no two signals are the same. Of 1,000
recordings one lacks its signal file and one is a copy of the one before. All are evaluated against the simulated
rhythms, with a patient to five recordings.

In place of the network there is `stub_network.py`. What is told: seconds, processor time and memory of each rule, by
Snakemake's own benchmark files, Snakemake's own costs, what is on the disk at most, how many files there are, how
large the report is and how soon it is there in Chromium, and the time of a second run, which finds nothing new.
"""

import argparse
import csv
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]

from benchmarks.sides import call

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "results"

SIMULATED = 200
RECORDINGS_OF_A_PATIENT = 5
# One in so many recordings lacks its signal file, and one is a copy.
RARE = 1000
TRUE_LABELS = ("Atrial fibrillation", "Bradycardia", "Left bundle branch block", "Right bundle branch block")


def write_simulated(folder: Path) -> None:
    """Write the signal files that the recordings share, 0.dat, 1.dat, ..., and what they show as truth.json."""
    import scipy.signal

    from ecgpipe.selftest import demo_recordings
    from ecgpipe.selftest.synthetic_files import write_wfdb_as_mimic

    folder.mkdir()
    truth = []
    for number, one in enumerate(demo_recordings.plan_recordings(SIMULATED, seed=1)):
        simulated = demo_recordings.simulate(one, seed=1)
        signal = scipy.signal.resample(simulated.signal, 5000, axis=1)  # (12, 5000)
        write_wfdb_as_mimic(folder / str(number), signal, 500)
        labels = simulated.labels()
        truth.append([int(labels[name]) for name in TRUE_LABELS])
    (folder / "truth.json").write_text(json.dumps(truth), encoding="utf-8")


def write_checkpoint(path: Path) -> None:
    """Write random weights of the stub."""
    import torch

    from benchmarks.stub_network import Network

    torch.manual_seed(0)
    torch.save(Network().state_dict(), path)


def list_recordings(count: int) -> Iterator[tuple[str, int, float]]:
    """Each recording's path below the input folder without extension, its simulated recording, and its gain."""
    for i in range(count):
        source = i - 1 if i % RARE == 1 else i
        patient = 10_000_000 + i // RECORDINGS_OF_A_PATIENT
        name = f"{40_000_000 + i}"
        yield f"p{patient // 1000}/p{patient}/s{name}/{name}", source % SIMULATED, 900 + source * 1e-4


def write_input(folder: Path, simulated: Path, count: int) -> None:
    """Write the recordings and truth.csv, with the patient of each."""
    truth = json.loads((simulated / "truth.json").read_text(encoding="utf-8"))
    # Of each lead what a header tells besides the gain: first value, checksum, and the lead's name at the end.
    leads = [[line.split()[5:] for line in read_leads(simulated / f"{i}.hea")] for i in range(SIMULATED)]
    with (folder / "truth.csv").open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        table.writerow(["record_id", "patient_id", *TRUE_LABELS])
        for i, (record_id, source, gain) in enumerate(list_recordings(count)):
            path = folder / "recordings" / record_id
            os.makedirs(path.parent)  # noqa: PTH103, a million times
            lines = [f"{path.name} 12 500 5000"]
            lines += [f"{path.name}.dat 16 {gain:.4f}(0)/mV 16 0 {' '.join(lead)}" for lead in leads[source]]
            Path(f"{path}.hea").write_text("\n".join([*lines, ""]), encoding="utf-8")
            if i % RARE != RARE - 1:
                os.link(simulated / f"{source}.dat", f"{path}.dat")
            table.writerow([record_id, record_id.split("/")[1], *truth[source]])


def read_leads(header: Path) -> list[str]:
    """The lines of the leads."""
    return [line for line in header.read_text(encoding="utf-8").splitlines()[1:] if not line.startswith("#")]


class Watch(threading.Thread):
    """Looks at the disk and at Snakemake's main process while a run lasts."""

    def __init__(self, process: subprocess.Popen[bytes], outdir: Path) -> None:
        super().__init__(daemon=True)
        self.process, self.outdir = psutil.Process(process.pid), outdir
        self.ended = threading.Event()
        self.peak_mb = self.cpu_s = 0.0
        self.most_bytes = self.most_segment_bytes = self.most_segment_files = 0
        self.most_memory_mb = 0.0  # of all processes together; pages that several share count once
        self.free = shutil.disk_usage(outdir.parent).free

    def run(self) -> None:
        """Until `ended` is set."""
        while not self.ended.wait(1):
            try:
                self.peak_mb = max(self.peak_mb, self.process.memory_info().rss / 2**20)
                times = self.process.cpu_times()
                self.cpu_s = times.user + times.system
            except psutil.Error:
                pass
            self.most_memory_mb = max(self.most_memory_mb, psutil.virtual_memory().used / 2**20)
            self.most_bytes = max(self.most_bytes, self.free - shutil.disk_usage(self.outdir.parent).free)
            try:
                found = [entry.stat().st_blocks * 512 for entry in os.scandir(self.outdir / "segments")]
            except OSError:  # the folder is not there yet, or a file no more
                continue
            self.most_segment_bytes = max(self.most_segment_bytes, sum(found))
            self.most_segment_files = max(self.most_segment_files, len(found))


def run(folder: Path, options: list[str]) -> dict[str, Any]:
    """Run the workflow once; its seconds, processor time, memory and disk.

    Raises:
        RuntimeError: It failed; with what it said last.
    """
    outdir = folder / "out"
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile")]
    command += ["--workflow-profile", str(ROOT / "profiles" / "default"), *options]
    before = os.times()
    began = time.monotonic()
    with (folder / "said.txt").open("ab") as said:
        process = subprocess.Popen(command, cwd=folder, stdout=said, stderr=said)
        watch = Watch(process, outdir)
        watch.start()
        status = process.wait()
    seconds = time.monotonic() - began
    watch.ended.set()
    watch.join()
    if status:
        raise RuntimeError(f"{' '.join(command)} ended with {status}: {(folder / 'said.txt').read_text()[-3000:]}")
    after = os.times()
    return {
        "seconds": seconds,
        "cpu_s": after.children_user + after.children_system - before.children_user - before.children_system,
        "snakemake_cpu_s": watch.cpu_s,
        "snakemake_peak_mb": watch.peak_mb,
        "machine_peak_mb": watch.most_memory_mb,
        "disk_peak_gb": watch.most_bytes / 1e9,
        "segments_peak_gb": watch.most_segment_bytes / 1e9,
        "segment_files_peak": watch.most_segment_files,
    }


def read_rules(outdir: Path) -> dict[str, dict[str, float]]:
    """What Snakemake's benchmark files say of each rule: jobs, seconds in all and of the longest job, CPU s, memory."""
    rules: dict[str, dict[str, float]] = {}
    for path in sorted((outdir / "benchmarks").rglob("*.tsv")):
        rule = path.parent.name if path.parent.name != "benchmarks" else path.stem
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file, delimiter="\t"))
        found = rules.setdefault(rule, {"jobs": 0, "seconds": 0, "longest_s": 0, "cpu_s": 0, "peak_mb": 0})
        for row in rows:
            seconds, cpu, memory = (read_number(row.get(key)) for key in ("s", "cpu_time", "max_rss"))
            found["jobs"] += 1
            found["seconds"] += seconds
            found["longest_s"] = max(found["longest_s"], seconds)
            found["cpu_s"] += cpu
            found["peak_mb"] = max(found["peak_mb"], memory)
    return rules


def read_number(text: str | None) -> float:
    """A number of a benchmark file, 0 for none: of a job of less than a second nothing is measured."""
    try:
        return float(text or "")
    except ValueError:
        return 0.0


def read_folders(outdir: Path) -> dict[str, dict[str, float]]:
    """By folder of the results, how many files there are and how large: GB."""
    found: dict[str, dict[str, float]] = {}
    for path in outdir.rglob("*"):
        if path.is_file():
            below = path.relative_to(outdir).parts
            one = found.setdefault(below[0] if len(below) > 1 else "files beside them", {"files": 0, "gb": 0})
            one["files"] += 1
            one["gb"] += path.stat().st_size / 1e9
    return found


def open_report(path: Path) -> dict[str, float] | None:
    """Seconds until a report's text is there, and until all of it is; None without Chromium."""
    if shutil.which("chromium") is None:
        return None
    from benchmarks import report

    with report.chromium() as browser:
        text, _, whole = report.time_opening(browser, path)
    return {"text_s": text, "whole_s": whole}


def main() -> None:
    """Write the input, run, look, and write what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recordings", type=int, default=1_000_000, help="(default %(default)s)")
    parser.add_argument(
        "--folder", type=Path, required=True, help="where input and results go; must not exist, or have the input"
    )
    parser.add_argument("--only-input", action="store_true", help="write the input and end")
    parser.add_argument("--cores", type=int, default=os.cpu_count(), help="(default %(default)s)")
    parser.add_argument("--config", nargs="*", default=[], metavar="KEY=VALUE", help="settings")
    parser.add_argument("--keep", action="store_true", help="keep the folder")
    parser.add_argument("--json", type=Path, help="(default: benchmarks/results/whole-run-RECORDINGS-MACHINE.json)")
    args = parser.parse_args()
    folder = args.folder.absolute()
    began = time.monotonic()

    def say(text: str) -> None:
        print(f"{time.monotonic() - began:6.0f} s  {text}", flush=True)

    if not (folder / "stub.pt").exists():
        folder.mkdir(parents=True)
        call("benchmarks.whole_run", "write_simulated", folder=folder / "simulated")
        write_input(folder, folder / "simulated", args.recordings)
        call("benchmarks.whole_run", "write_checkpoint", path=folder / "stub.pt")
        say(f"{args.recordings:,} recordings are written")
    if args.only_input:
        return
    evaluation = "{truth: truth.csv, patient: patient_id}"
    config = [
        "input=recordings",
        "outdir=out",
        f"model={ROOT / 'benchmarks' / 'stub_network.py'}",
        "checkpoint=stub.pt",
    ]
    options = ["--cores", str(args.cores), "--config", *config, f"evaluation={evaluation}", *args.config]
    first = run(folder, options)
    say(f"the run: {first['seconds']:.0f} s")
    rules, folders = read_rules(folder / "out"), read_folders(folder / "out")
    again = run(folder, options)
    say(f"once more: {again['seconds']:.0f} s")
    report = folder / "out" / "report.html"
    counts = json.loads((folder / "out" / "run.json").read_text(encoding="utf-8"))["counts"]
    machine = call("benchmarks.machine", "facts")
    content = {
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine,
        "recordings": args.recordings,
        "options": options,
        "counts": counts,
        "run": first,
        "again": again,
        "rules": rules,
        "folders": folders,
        "report": {"mb": report.stat().st_size / 1e6, "opening": open_report(report)},
    }
    name = call("benchmarks.machine", "name", known=machine)
    path = args.json or RESULTS / f"whole-run-{args.recordings}-{name}.json"
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(content, indent=1))
    say(f"written to {path}")
    if not args.keep:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
