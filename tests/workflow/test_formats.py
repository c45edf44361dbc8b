"""Real recordings in every format give the golden segments, and a messy folder of all of it is accounted for."""

from pathlib import Path

import formats
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import scipy.io

from ecgpipe.cli import main
from ecgpipe.core.stored_segments import read_segments
from ecgpipe.readers import LEADS


@pytest.fixture(scope="module")
def real(reference: Path) -> dict[str, np.ndarray]:
    """The ten recordings, (12, samples) at 400 Hz, by name."""
    paths = sorted((reference / "code15").glob("*.mat"))
    return {path.stem: scipy.io.loadmat(path)["feats"].astype(np.float64) for path in paths}


def preprocessed(folder: Path, out: Path) -> tuple[tuple[pa.Table, np.ndarray], pa.Table]:
    """The segments, with their values, and the records of a folder, through the manifest and preprocess commands."""
    assert main(["manifest", "--input", str(folder), "--outdir", str(out)]) == 0
    written = ["--segments", str(out / "x.arrow"), "--records", str(out / "x.parquet")]
    assert main(["preprocess", "--shard", str(out / "shard-00000.parquet"), *written]) == 0
    return read_segments(out / "x.arrow"), pq.read_table(out / "x.parquet")


def assert_golden(
    made: tuple[pa.Table, np.ndarray], reference: Path, real: dict[str, np.ndarray], steps: dict[str, formats.Step]
) -> None:
    """Each segment is the golden one within twice the step of its format, which the division by the spread enlarges."""
    golden = np.load(reference / "golden" / "segments.npz")
    segments, signals = made
    assert segments["record_id"].to_pylist() == list(golden["record"])
    for name, signal, expected in zip(golden["record"], signals, golden["signal"], strict=True):
        spread = real[name].std(axis=1, keepdims=True)  # (12, 1)
        tolerance = np.broadcast_to(2 * np.asarray(steps[name]) / spread + 2e-6, (12, 1))
        for lead, row, other, most in zip(LEADS, signal, expected, tolerance[:, 0], strict=True):
            assert abs(row - other).max() <= most, (name, lead)


@pytest.mark.parametrize("name", formats.WRITERS)
def test_real_recordings_in_each_format_give_the_golden_segments(
    name: str, reference: Path, real: dict[str, np.ndarray], tmp_path: Path
) -> None:
    (tmp_path / "in").mkdir()
    steps = {stem: formats.WRITERS[name](tmp_path / "in" / stem, signal, 400) for stem, signal in real.items()}
    segments, records = preprocessed(tmp_path / "in", tmp_path / "out")
    assert records["status"].to_pylist() == ["ok"] * 10
    assert_golden(segments, reference, real, steps)
    files = pq.read_table(tmp_path / "out" / "files.parquet")
    assert sorted(files["path"].to_pylist()) == sorted(str(path) for path in (tmp_path / "in").iterdir())
    assert set(files["role"].to_pylist()) <= {"recording", "part"}
    assert files["role"].to_pylist().count("recording") == 10


def test_code_15s_own_files_give_the_golden_segments(
    reference: Path, real: dict[str, np.ndarray], tmp_path: Path
) -> None:
    import h5py

    (tmp_path / "in").mkdir()
    padded = np.zeros((11, 4096, 12), np.float32)  # the last row is a dummy
    for row, signal in zip(padded, real.values(), strict=False):
        before = (4096 - signal.shape[1]) // 2
        row[before : before + signal.shape[1]] = signal.T
    with h5py.File(tmp_path / "in" / "exams_part0.hdf5", "w") as file:
        file["tracings"] = padded
        file["exam_id"] = [*(int(stem.rpartition("_")[2]) for stem in real), 0]
    segments, records = preprocessed(tmp_path / "in", tmp_path / "out")
    ids = [f"exams_part0/{stem.rpartition('_')[2]}" for stem in real]
    assert records["record_id"].to_pylist() == ids
    assert records["stripped_s"].to_pylist() == [(4096 - signal.shape[1]) / 400 for signal in real.values()]
    names = [next(stem for stem in real if record_id.endswith(f"/{stem.rpartition('_')[2]}"))
             for record_id in segments[0]["record_id"].to_pylist()]  # fmt: skip
    segments = segments[0].set_column(0, "record_id", pa.array(names)), segments[1]
    assert_golden(segments, reference, real, dict.fromkeys(real, 1e-6))
