"""What a made-up run says of itself, for benchmarks of commands that read a finished run."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

SOURCE: dict[str, Any] = {"uri": "made up", "revision": None, "sha256": "0" * 64}


def describe_run(folder: Path, recordings: int, labels: Sequence[str]) -> None:
    """Write `run.json` and `labels.csv`.

    Args:
        folder: The run's.
        recordings: All of them used, with two segments each.
        labels: The model's.
    """
    from ecgpipe import __version__  # here: the process that measures commands stays small

    counts = {"recordings": recordings, "ok": recordings, "skipped": 0, "failed": 0, "segments": 2 * recordings}
    machine = {"device": "CPU", "system": "Linux", "cpu": "made up", "cpus": 2, "memory_gb": 24, "parts": 1}
    run = {
        "ecgpipe": __version__,
        "finished": "2026-11-22T12:38:13+00:00",
        "counts": {**counts, "hours": 1.0},
        "checkpoint": {**SOURCE, "random_weights": False, "labels": labels},
        "throughput": {"segments": 2, "seconds": 1.0, "segments_per_s": 2.0},
        "precision": {"used": "float32"},
        "hardware": {"inference": ["CPU"], "machines": [machine]},
        "config": {"input": "recordings"},
    }
    (folder / "run.json").write_text(json.dumps(run))
    (folder / "labels.csv").write_text("name,aggregation\n" + "".join(f"{name},mean\n" for name in labels))
