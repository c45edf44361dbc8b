"""Whether the memory of each stage depends on the number of recordings: its peak over few and over many.

    python -m benchmarks.memory [--recordings 200 2000] [--shard-size N]

Recordings of noise, ten seconds at 500 Hz, and the demo's small checkpoint: with ECG-FM itself, the model adds the same
to both sides. The peak is what the operating system counted for the stage's process, the largest where several ran.
"""

import argparse
import multiprocessing
import os
import sys
import tempfile
from pathlib import Path

from ecgpipe.core.provenance import count_cpus

LABELS = Path(__file__).parents[1] / "config" / "labels" / "mimic_iv_ecg.csv"


def peak_mb(*command: str | Path) -> float:
    """Run a stage and return the peak of its resident memory in MB."""
    argv = [sys.executable, "-m", "ecgpipe", *map(str, command)]
    _, status, usage = os.wait4(os.posix_spawn(sys.executable, argv, os.environ), 0)
    if status:
        sys.exit(f"failed: {' '.join(argv)}")
    return usage.ru_maxrss / 1024


def write_inputs(folder: Path, recordings: int) -> None:
    """Write the recordings and the checkpoint."""
    import numpy as np
    import scipy.io
    import torch

    from ecgpipe.selftest import synthetic_checkpoint

    (folder / "input").mkdir(parents=True)
    for i in range(recordings):
        signal = np.random.default_rng(i).standard_normal((12, 5000)).astype(np.float32)
        scipy.io.savemat(folder / "input" / f"r{i:05d}.mat", {"feats": signal, "curr_sample_rate": np.array([[500]])})
    torch.save(synthetic_checkpoint.demo(seed=1), folder / "x.pt")


def peaks(folder: Path, recordings: int, shard_size: int) -> dict[str, float]:
    """The peak of each stage, run by hand over `recordings` recordings."""
    # In a process of its own: Linux counts what the parent held when it started a child as the child's.
    writing = multiprocessing.get_context("spawn").Process(target=write_inputs, args=(folder, recordings))
    writing.start()
    writing.join()
    weights, description = folder / "model.safetensors", folder / "model.json"
    found: dict[str, float] = {}
    model = ("--weights", weights, "--description", description)
    found["checkpoint"] = peak_mb("checkpoint", "--source", folder / "x.pt", "--labels", LABELS, *model)
    manifest = folder / "manifest"
    found["manifest"] = peak_mb(
        "manifest", "--input", folder / "input", "--outdir", manifest, "--shard-size", str(shard_size)
    )
    segments, records = [], folder / "records"
    for shard in sorted(manifest.glob("shard-*.parquet")):
        segments.append(folder / "segments" / f"{shard.stem}.arrow")
        peak = peak_mb("preprocess", "--shard", shard, "--segments", segments[-1], "--records", records / shard.name)
        found["preprocess"] = max(peak, found.get("preprocess", 0.0))
    part = "part-00000.parquet"
    logits, embeddings, attention = folder / "logits", folder / "embeddings", folder / "attention"
    predictions, places, timing = folder / "predictions", folder / "umap.parquet", folder / "timing"
    found["infer"] = peak_mb(
        "infer", *model, "--segments", *segments, "--logits", logits / part,
        "--embeddings", embeddings / part, "--attention", attention / part,
        "--timing", timing / "part-00000.json", "--threads", str(count_cpus()),
    )  # fmt: skip
    found["aggregate"] = peak_mb(
        "aggregate", "--logits", logits / part, "--labels", LABELS, "--predictions", predictions / part
    )
    found["umap"] = peak_mb("umap", "--embeddings", embeddings, "--output", places)
    run = folder / "run.json"
    found["summary"] = peak_mb(
        "summary", "--manifest", manifest / "manifest.json", "--description", description, "--records", records,
        "--timings", timing, "--predictions", predictions, "--umap", places,
        "--duplicates", folder / "duplicates.parquet", "--output", run,
    )  # fmt: skip
    results = ("--records", records, "--predictions", predictions)
    examples, attribution = folder / "examples.parquet", folder / "attribution.parquet"
    found["examples"] = peak_mb(
        "examples", "--labels", LABELS, *results, "--embeddings", embeddings, "--umap", places, "--output", examples
    )
    found["attribute"] = peak_mb(
        "attribute", *model, "--manifest", manifest, *results, "--recordings", "1", "--steps", "4", "--device", "cpu",
        "--output", attribution, "--leads", folder / "leads.parquet",
    )  # fmt: skip
    shown: tuple[str | Path, ...] = (
        "--run",
        run,
        "--description",
        description,
        "--labels",
        LABELS,
        "--manifest",
        manifest,
        *results,
    )
    shown = (*shown, "--attention", attention, "--umap", places, "--examples", examples, "--attribution", attribution)
    found["figures"] = peak_mb("figures", *shown, "--outdir", folder / "figures")
    found["report"] = peak_mb("report", *shown, "--output", folder / "report.html")
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recordings", type=int, nargs=2, default=[200, 2000], metavar=("FEW", "MANY"))
    parser.add_argument("--shard-size", type=int, default=1000)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        few, many = (peaks(Path(folder, str(count)), count, args.shard_size) for count in args.recordings)
    print(f"{'stage':<12} {args.recordings[0]:>6} {args.recordings[1]:>6}  ratio   (peak resident memory, MB)")
    for stage in few:
        print(f"{stage:<12} {few[stage]:>6.0f} {many[stage]:>6.0f} {many[stage] / few[stage]:>6.2f}")


if __name__ == "__main__":
    main()
