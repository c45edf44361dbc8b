"""A recording's numbers do not depend on its neighbours or its place: real recordings, run through in many ways."""

import json
import runpy
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import scipy.io
import torch
from processor import needs_bfloat16
from run_workflow import ROOT, snakemake, table

from ecgpipe.cli import main

LABELS_CSV = ROOT / "config" / "labels" / "mimic_iv_ecg.csv"
LABELS = list(pd.read_csv(LABELS_CSV)["name"])
KINDS = {"logits": LABELS, "embeddings": ["embedding"], "attention": ["attention"], "predictions": LABELS}
FLOAT32 = 1e-5  # beyond this it is no rounding

pytestmark = pytest.mark.slow


class Way(NamedTuple):
    """How a run is cut up."""

    batch_size: int = 8
    shard_size: int = 1000
    shards_per_part: int = 20
    shuffle: int | None = None  # seed
    threads: int = 1


WAYS = {
    "one segment at a time": Way(batch_size=1),
    "batches that end within recordings": Way(batch_size=3),
    "all segments at once": Way(batch_size=64),
    "a recording in each shard": Way(shard_size=1),
    "a recording in each part": Way(shard_size=1, shards_per_part=1, batch_size=2),
    "some in each shard and part": Way(shard_size=3, shards_per_part=2, batch_size=5),
    "another order": Way(shuffle=1),
    "all of it otherwise": Way(5, 2, 3, shuffle=2, threads=2),
}

Results = dict[str, pd.DataFrame]


@pytest.fixture(scope="module")
def folder(reference: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint, and eleven recordings: the ten of the reference, and a short one that is padded."""
    folder = tmp_path_factory.mktemp("invariance")
    torch.save(runpy.run_path(str(reference / "make_checkpoint.py"))["state"]("tiny"), folder / "x.pt")
    given = ("--source", str(folder / "x.pt"), "--labels", str(LABELS_CSV))
    written = ("--weights", str(folder / "model.safetensors"), "--description", str(folder / "model.json"))
    assert main(["checkpoint", *given, *written]) == 0
    recordings = sorted((reference / "code15").glob("*.mat"))
    feats = scipy.io.loadmat(recordings[0])["feats"]
    scipy.io.savemat(folder / "short.mat", {"feats": feats[:, :1200], "curr_sample_rate": np.array([[400]])})
    rows = [{"record_id": path.stem, "path": str(path)} for path in [*recordings, folder / "short.mat"]]
    pd.DataFrame(rows).to_csv(folder / "recordings.csv", index=False)
    return folder


def shuffled(folder: Path, seed: int | None) -> Path:
    """The table of the inputs, its rows in another order."""
    path = folder / "recordings.csv"
    if seed is None:
        return path
    other = folder / f"shuffled-{seed}.csv"
    pd.read_csv(path).sample(frac=1, random_state=seed).to_csv(other, index=False)
    return other


def prepared(folder: Path, way: Way) -> list[Path]:
    """Run manifest and preprocess; the shards of segments. What is there already is not made again."""
    out = folder / f"prepared-{way.shard_size}-{way.shuffle}"
    if not out.exists():
        given = ("--input", str(shuffled(folder, way.shuffle)), "--shard-size", str(way.shard_size))
        assert main(["manifest", *given, "--outdir", str(out / "manifest")]) == 0
        for shard in sorted((out / "manifest").glob("shard-*.parquet")):
            written = ("--segments", str(out / f"{shard.stem}.arrow"), "--records", str(out / "records" / shard.name))
            assert main(["preprocess", "--shard", str(shard), *written, "--tail", "overlap", "--short", "pad"]) == 0
    return sorted(out.glob("*.arrow"))


def infer_options(folder: Path, segments: Sequence[Path], out: Path, part: int, way: Way) -> list[str]:
    """The options of infer for one part."""
    results = [(f"--{kind}", str(out / kind / f"part-{part:05d}.parquet")) for kind in KINDS if kind != "predictions"]
    return [
        *("--weights", str(folder / "model.safetensors"), "--description", str(folder / "model.json")),
        *("--segments", *map(str, segments), "--timing", str(out / "timing.json"), "--device", "cpu"),
        *(option for pair in results for option in pair),
        *("--batch-size", str(way.batch_size), "--threads", str(way.threads)),
    ]


def through(folder: Path, way: Way, out: Path, precision: str = "float32") -> Results:
    """Run all stages but the checkpoint's that way, and read the results."""
    shards = prepared(folder, way)
    for part, first in enumerate(range(0, len(shards), way.shards_per_part)):
        segments = shards[first : first + way.shards_per_part]
        assert main(["infer", *infer_options(folder, segments, out, part, way), "--precision", precision]) == 0
        name = f"part-{part:05d}.parquet"
        given = ("--logits", str(out / "logits" / name), "--labels", str(LABELS_CSV))
        assert main(["aggregate", *given, "--predictions", str(out / "predictions" / name)]) == 0
    return read(out)


def read(out: Path) -> Results:
    """The results of all parts, by name of recording and number of segment."""
    frames = {kind: table(out / kind) for kind in KINDS}
    return {
        kind: frame.set_index(["record_id", *(["segment"] if "segment" in frame else [])])
        for kind, frame in frames.items()
    }


def numbers(results: Results, kind: str, like: Results) -> np.ndarray:
    """The results of a kind, a row for each of the other results' rows."""
    frame = results[kind]
    assert frame.index.is_unique
    assert set(frame.index) == set(like[kind].index)
    frame = frame.loc[like[kind].index, KINDS[kind]]
    values = frame.to_numpy() if len(KINDS[kind]) > 1 else np.stack(list(frame.iloc[:, 0]))
    return values.astype(np.float64)


@pytest.fixture(scope="module")
def plain(folder: Path) -> Results:
    """What comes out in float32, one part, one shard, in order."""
    return through(folder, Way(), folder / "plain")


def assert_same(results: Results, expected: Results) -> None:
    for kind in KINDS:
        one, other = numbers(expected, kind, expected), numbers(results, kind, expected)
        np.testing.assert_allclose(other, one, rtol=0, atol=FLOAT32, err_msg=kind)


@pytest.mark.parametrize("name", WAYS)
def test_however_a_run_is_cut_up_each_segment_gets_the_same_numbers(
    name: str, folder: Path, plain: Results, tmp_path: Path
) -> None:
    way = WAYS[name]
    results = through(folder, way, tmp_path)
    order = list(results["predictions"].index)
    assert (order == list(plain["predictions"].index)) == (way.shuffle is None)
    parts = -(-11 // way.shard_size // way.shards_per_part)  # rounded up
    assert len(list((tmp_path / "logits").iterdir())) == parts
    assert_same(results, plain)


def test_through_snakemake_too(folder: Path, plain: Results, tmp_path: Path) -> None:
    ran = snakemake(
        tmp_path, *(f"out/predictions/part-0000{part}.parquet" for part in range(2)),
        input=shuffled(folder, 3), checkpoint=folder / "x.pt", labels=LABELS_CSV, outdir="out",
        manifest="{shard_size: 3}", preprocess="{tail: overlap, short: pad}",
        inference="{shards_per_part: 2, batch_size: 5, device: cpu}",
    )  # fmt: skip
    assert ran.status == 0, ran.output
    results = read(tmp_path / "out")
    assert len(list((tmp_path / "out" / "logits").glob("part-*.parquet"))) == 2
    assert list(results["predictions"].index) != list(plain["predictions"].index)
    assert_same(results, plain)


# In half precision


class Bounds(NamedTuple):
    """What the precision stage found on these recordings."""

    probability: float
    embedding: float  # 1 - cosine


@pytest.fixture(scope="module")
def drift(folder: Path) -> Bounds:
    """The largest differences between bfloat16 and float32."""
    given = ("--weights", str(folder / "model.safetensors"), "--description", str(folder / "model.json"))
    written = ("--chosen", str(folder / "chosen.json"), "--drift", str(folder / "drift.json"))
    segments = map(str, prepared(folder, Way()))
    asked = ("--precision", "bfloat16", "--device", "cpu")
    assert main(["precision", *given, "--segments", *segments, *asked, *written]) == 0
    found: dict[str, Any] = json.loads((folder / "drift.json").read_text())
    assert list(found["probability"]) == LABELS
    return Bounds(max(of["largest"] for of in found["probability"].values()), found["embedding"]["largest"])


@pytest.fixture(scope="module")
def rounded(folder: Path) -> Results:
    """What comes out in bfloat16, one part, one shard, in order."""
    return through(folder, Way(), folder / "rounded", "bfloat16")


def away(results: Results, expected: Results) -> Bounds:
    """The largest differences between two runs: of probabilities, and of 1 - cosine of embeddings."""
    pairs = [(numbers(expected, kind, expected), numbers(results, kind, expected)) for kind in KINDS]
    (a, b), (u, v), _, (p, q) = pairs
    probabilities = [np.abs(1 / (1 + np.exp(-a)) - 1 / (1 + np.exp(-b))).max(), np.abs(p - q).max()]
    cosines = (u * v).sum(axis=1) / np.linalg.norm(u, axis=1) / np.linalg.norm(v, axis=1)
    return Bounds(max(probabilities), float((1 - cosines).max()))


@needs_bfloat16
@pytest.mark.parametrize("name", WAYS)
def test_in_bfloat16_it_differs_by_no_more_than_the_drift_that_was_measured(
    name: str, folder: Path, rounded: Results, drift: Bounds, tmp_path: Path
) -> None:
    found = away(through(folder, WAYS[name], tmp_path, "bfloat16"), rounded)
    assert found.probability <= drift.probability
    assert found.embedding <= drift.embedding


@needs_bfloat16
def test_bfloat16_is_as_far_from_float32_as_the_precision_stage_says(
    plain: Results, rounded: Results, drift: Bounds
) -> None:
    found = away(rounded, plain)
    # Not to the digit: here the last layer gives its attention too, which is another way to the same result.
    assert 0.5 * drift.probability < found.probability < 2 * drift.probability
    assert 0.5 * drift.embedding < found.embedding < 2 * drift.embedding


# The same bits


@pytest.mark.parametrize("precision", ["float32", pytest.param("bfloat16", marks=needs_bfloat16)])
def test_deterministic_runs_write_the_same_bytes(precision: str, folder: Path, tmp_path: Path) -> None:
    segments = prepared(folder, Way())
    for run in ("one", "other"):
        options = infer_options(folder, segments, tmp_path / run, 0, Way(batch_size=5, threads=2))
        command = [sys.executable, "-m", "ecgpipe", "infer", *options, "--precision", precision, "--deterministic"]
        subprocess.run(command, check=True, timeout=300, cwd=ROOT)
    for kind in ("logits", "embeddings", "attention"):
        one, other = (tmp_path / run / kind / "part-00000.parquet" for run in ("one", "other"))
        assert pq.read_table(one).num_rows > 14
        assert one.read_bytes() == other.read_bytes(), kind
