"""Preprocessing: the segments are those of ECG-FM's tutorial, by name, and every recording is accounted for."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import scipy.io
import wfdb
from ecg_transform.inp import ECGInput, ECGInputSchema, ECGMetadata
from ecg_transform.sample import ECGSample
from ecg_transform.t.common import HandleConstantLeads, LinearResample, ReorderLeads
from ecg_transform.t.cut import SegmentNonoverlapping
from ecg_transform.t.scale import Standardize
from hypothesis import given, settings
from hypothesis import strategies as st

from ecgpipe import preprocess, tables
from ecgpipe.__main__ import main
from ecgpipe.preprocess import UnusableError, prepare
from ecgpipe.readers import LEADS, SUFFIXES, Recording

RATES = (100, 250, 257, 360, 400, 500, 1000)
MIMIC_LEADS = ("I", "II", "III", "aVR", "aVF", "aVL", "V1", "V2", "V3", "V4", "V5", "V6")


def noise(samples: int, seed: int = 0) -> np.ndarray:
    """(12, samples), each lead with a mean and a spread of its own."""
    random = np.random.default_rng(seed)
    signal: np.ndarray = random.standard_normal((12, samples)) * random.uniform(0.1, 3, (12, 1)) + random.normal(
        0, 1, (12, 1)
    )
    return signal


def tutorial(signal: np.ndarray, rate: float, leads: Sequence[str] = LEADS) -> np.ndarray:
    """What ECG-FM's notebook (infer_quickstart.ipynb) makes of a recording: (segments, 12, 2500)."""
    sample = ECGSample(
        ECGInput(signal, ECGMetadata(rate, signal.shape[1], list(leads), "mV", 0, signal.shape[1])),
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


def write(path: Path, signal: np.ndarray, rate: float = 500, leads: Sequence[str] = LEADS) -> Path:
    np.savez(path, signal=signal, sample_rate=rate, leads=leads)
    return path


class Preprocessed:
    """A shard that went through the stage's command."""

    def __init__(self, folder: Path, paths: Sequence[Path], *options: str) -> None:
        rows = [{"record_id": p.stem, "path": str(p), "format": SUFFIXES.get(p.suffix, "mat")} for p in paths]
        tables.write(folder / "shard-00000.parquet", pa.Table.from_pylist(rows, schema=tables.MANIFEST))
        written = ["--segments", str(folder / "out.arrow"), "--records", str(folder / "out.parquet")]
        assert main(["preprocess", "--shard", str(folder / "shard-00000.parquet"), *written, *options]) == 0
        with pa.memory_map(str(folder / "out.arrow")) as file, pa.ipc.open_file(file) as reader:
            self.batches = [reader.get_batch(i).num_rows for i in range(reader.num_record_batches)]
            self.segments: pa.Table = reader.read_all()
        self.records: pa.Table = pq.read_table(folder / "out.parquet")

    @property
    def signals(self) -> np.ndarray:
        """(segments, 12, 2500)."""
        flat: np.ndarray = self.segments["signal"].combine_chunks().flatten().to_numpy()
        return flat.reshape(-1, 12, 2500)

    @property
    def ids(self) -> list[str]:
        return list(self.segments["record_id"].to_pylist())

    def record(self, record_id: str) -> dict[str, Any]:
        rows: dict[str, dict[str, Any]] = {row["record_id"]: row for row in self.records.to_pylist()}
        return rows[record_id]


# The numbers


@pytest.mark.parametrize("rate", RATES)
def test_segments_are_those_of_the_tutorial(rate: int, tmp_path: Path) -> None:
    signal = noise(int(10.7 * rate), seed=rate)
    order = np.random.default_rng(rate).permutation(12)
    shuffled = tuple(LEADS[i] for i in order)
    path = write(tmp_path / "x.npz", signal[order], rate, shuffled)
    made = Preprocessed(tmp_path, [path])
    expected = tutorial(signal[order], rate, shuffled)
    assert expected.shape == (2, 12, 2500)
    np.testing.assert_allclose(made.signals, expected, rtol=0, atol=1e-6)
    np.testing.assert_allclose(made.signals, tutorial(signal, rate), rtol=0, atol=1e-6)


@pytest.mark.parametrize("shuffle", [False, True])
def test_real_recordings_give_the_golden_segments(shuffle: bool, reference: Path, tmp_path: Path) -> None:
    golden = np.load(reference / "golden" / "segments.npz")
    paths = sorted((reference / "code15").glob("*.mat"))
    if shuffle:
        order = np.random.default_rng(0).permutation(12)
        leads = [LEADS[i] for i in order]
        feats = {path.stem: scipy.io.loadmat(path)["feats"][order] for path in paths}
        paths = [write(tmp_path / f"{name}.npz", signal, 400, leads) for name, signal in feats.items()]
    made = Preprocessed(tmp_path, paths)
    assert made.ids == list(golden["record"])
    np.testing.assert_allclose(made.signals, golden["signal"], rtol=0, atol=1e-6)


@pytest.mark.parametrize("leads", [MIMIC_LEADS, LEADS[::-1]])
def test_leads_in_another_order_in_the_file_give_identical_segments(leads: tuple[str, ...], tmp_path: Path) -> None:
    signal = noise(5000)
    order = [LEADS.index(lead) for lead in leads]
    for folder, rows, names in (("straight", signal, LEADS), ("permuted", signal[order], leads)):
        (tmp_path / folder).mkdir()
        write(tmp_path / folder / "x.npz", rows, 500, names)
        wfdb.wrsamp(
            "y", fs=500, units=["mV"] * 12, sig_name=list(names), fmt=["16"] * 12, p_signal=rows.T,
            write_dir=str(tmp_path / folder),
        )  # fmt: skip
    straight, permuted = (
        Preprocessed(tmp_path / folder, [tmp_path / folder / "x.npz", tmp_path / folder / "y.hea"])
        for folder in ("straight", "permuted")
    )
    assert len(straight.signals) == 4
    np.testing.assert_array_equal(permuted.signals, straight.signals)


def test_a_marked_lead_ends_where_its_name_belongs(tmp_path: Path) -> None:
    for position, name in enumerate(MIMIC_LEADS):
        signal = np.zeros((12, 2500))
        signal[position, 1250:] = 1
        made = prepare(Recording(signal, 500, MIMIC_LEADS, "mV"))
        assert [lead for lead, row in zip(LEADS, made.segments[0], strict=True) if row.any()] == [name]
        assert made.constant_leads == [lead for lead in LEADS if lead != name]


def test_leads_are_known_whatever_their_capitals_and_others_are_left_out() -> None:
    signal = noise(2500)
    names = ("i", " II ", "Iii", "AVR", "avl", "aVf", "v1", "V2", "v3", "V4", "v5", "v6")
    extra = np.full((1, 2500), np.nan)
    made = prepare(Recording(np.concatenate([extra, signal, extra]), 500, ("Pleth", *names, "X"), None))
    np.testing.assert_array_equal(made.segments, prepare(Recording(signal, 500, LEADS, None)).segments)


def test_the_scale_of_a_recording_does_not_matter() -> None:
    signal = noise(2500)
    made = prepare(Recording(signal, 500, LEADS, None)).segments
    np.testing.assert_allclose(prepare(Recording(signal * 1000 + 5, 500, LEADS, None)).segments, made, atol=1e-5)
    np.testing.assert_allclose(made.mean(axis=2), 0, atol=1e-6)
    np.testing.assert_allclose(made.std(axis=2), 1, atol=1e-6)


@pytest.mark.parametrize("value", [0.0, 0.1, -32768.0, 1e9])
def test_a_constant_lead_becomes_zero_and_is_named(value: float) -> None:
    signal = noise(2500)
    signal[6] = value
    made = prepare(Recording(signal, 500, LEADS, None))
    assert made.constant_leads == ["V1"]
    np.testing.assert_allclose(made.segments[:, LEADS.index("V1")], 0, atol=1e-6)


def test_a_recording_gets_the_same_whatever_its_neighbours(tmp_path: Path) -> None:
    paths = [write(tmp_path / f"{i}.npz", noise(6000, i)) for i in range(4)]
    together = Preprocessed(tmp_path, paths)
    for i, path in enumerate(paths):
        alone = Preprocessed(tmp_path, [path])
        rows = [row for row, record_id in enumerate(together.ids) if record_id == str(i)]
        np.testing.assert_array_equal(alone.signals, together.signals[rows])


# The account


def test_the_account_says_what_became_of_each_recording(tmp_path: Path) -> None:
    signal = noise(5600)
    flat, holes = signal.copy(), signal.copy()
    flat[[0, 7]] = 3
    holes[1, 100], holes[2, 5], holes[3] = np.nan, np.inf, np.nan
    paths = [
        write(tmp_path / "good.npz", signal),
        write(tmp_path / "flat.npz", flat),
        write(tmp_path / "holes.npz", holes),
        write(tmp_path / "short.npz", signal[:, :2400]),
        write(tmp_path / "eight.npz", signal[:8], leads=LEADS[:8]),
        write(tmp_path / "twice.npz", signal, leads=(*LEADS[:11], "v1")),
        write(tmp_path / "slow.npz", signal, rate=3),
        write(tmp_path / "norate.npz", signal, rate=float("nan")),
        write(tmp_path / "endless.npz", signal * 1e200),
        tmp_path / "gone.mat",
        tmp_path / "garbage.mat",
        write(tmp_path / "last.npz", signal),
    ]
    (tmp_path / "garbage.mat").write_bytes(b"garbage" * 1000)
    made = Preprocessed(tmp_path, paths)
    assert made.records["record_id"].to_pylist() == [path.stem for path in paths]
    assert made.records["path"].to_pylist() == [str(path) for path in paths]
    assert made.ids == ["good"] * 2 + ["flat"] * 2 + ["last"] * 2
    assert made.segments["segment"].to_pylist() == [0, 1] * 3
    assert made.segments["start_s"].to_pylist() == [0.0, 5.0] * 3
    good = made.record("good")
    assert (good["status"], good["reason"], good["n_segments"], good["format"]) == ("ok", None, 2, "numpy")
    assert (good["sample_rate"], good["duration_s"], good["constant_leads"]) == (500, 11.2, [])
    assert good["discarded_s"] == pytest.approx(1.2)
    assert made.record("flat")["constant_leads"] == ["I", "V2"]
    unused = {
        name: (made.record(name)["status"], made.record(name)["reason"])
        for name in made.records["record_id"].to_pylist()
    }
    assert unused.pop("garbage")[1].startswith("not a readable MATLAB file")
    assert {name: why for name, why in unused.items() if why[0] != "ok"} == {
        "holes": ("skipped", "NaN or infinite samples (II III aVR)"),
        "short": ("skipped", "shorter than one segment of 5 s (4.800 s)"),
        "eight": ("skipped", "leads missing (V3 V4 V5 V6)"),
        "twice": ("skipped", "a lead is there twice (V1)"),
        "slow": ("skipped", "the sample rate cannot be meant (3 Hz)"),
        "norate": ("skipped", "the sample rate cannot be meant (nan Hz)"),
        "endless": ("skipped", "samples too large to be meant (I II III aVR aVL aVF V1 V2 V3 V4 V5 V6)"),
        "gone": ("failed", "a file is not there (gone.mat)"),
    }
    assert all(row["n_segments"] == 0 for row in made.records.to_pylist() if row["status"] != "ok")


def test_a_file_that_states_nothing_is_read_as_the_settings_say(tmp_path: Path) -> None:
    order = [LEADS.index(lead) for lead in MIMIC_LEADS]
    np.save(tmp_path / "x.npy", noise(2500)[order])
    options = ["--assume-sample-rate", "250", "--assume-leads", *MIMIC_LEADS]
    made = Preprocessed(tmp_path, [tmp_path / "x.npy"], *options)
    np.testing.assert_allclose(made.signals, tutorial(noise(2500), 250), rtol=0, atol=1e-6)
    settings_written = tables.origin(made.segments.schema)["preprocess"]
    assert (settings_written["assume_sample_rate"], settings_written["assume_leads"]) == (250, list(MIMIC_LEADS))
    assert "set preprocess.assume_sample_rate" in Preprocessed(tmp_path, [tmp_path / "x.npy"]).record("x")["reason"]


def test_a_shard_of_which_nothing_can_be_used_is_an_empty_file(tmp_path: Path) -> None:
    made = Preprocessed(tmp_path, [write(tmp_path / "short.npz", noise(100))])
    assert len(made.segments) == 0
    assert made.segments.schema.field("signal").type.list_size == 12 * 2500
    assert len(made.records) == 1


def test_segments_come_in_batches_of_bounded_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preprocess, "BATCH_SEGMENTS", 4)
    paths = [write(tmp_path / f"{i}.npz", noise(7500, i)) for i in range(3)]
    made = Preprocessed(tmp_path, paths)
    assert made.batches == [4, 4, 1]
    assert made.ids == [str(i) for i in range(3) for _ in range(3)]
    np.testing.assert_allclose(
        made.signals, np.concatenate([tutorial(noise(7500, i), 500) for i in range(3)]), atol=1e-6
    )


def test_both_files_say_how_they_were_made(tmp_path: Path) -> None:
    made = Preprocessed(tmp_path, [write(tmp_path / "x.npz", noise(2500))])
    assert made.records.schema.remove_metadata() == tables.RECORDS
    for schema in (made.segments.schema, made.records.schema):
        origin = tables.origin(schema)
        assert origin["stage"] == "preprocess"
        assert origin["preprocess"]["leads"] == list(LEADS)
        assert (origin["preprocess"]["sample_rate"], origin["preprocess"]["segment_samples"]) == (500, 2500)


# Whatever a recording is


@given(
    rate=st.one_of(st.sampled_from(RATES), st.floats(20, 2000)),
    seconds=st.floats(0.1, 16),
    magnitude=st.sampled_from([0, 1e-300, 1e-12, 1.0, 1e6, 1e150, 1e200, 1e308]),
)
@settings(deadline=None, max_examples=60)
def test_segments_are_finite_and_account_for_the_whole_duration(rate: float, seconds: float, magnitude: float) -> None:
    signal = np.random.default_rng(0).uniform(-1, 1, (12, max(1, int(seconds * rate)))) * magnitude
    try:
        made = prepare(Recording(signal, rate, LEADS, None))
    except UnusableError:
        assert signal.shape[1] / rate < 5.06 or magnitude > 1e150
        return
    assert np.isfinite(made.segments).all()
    assert made.segments.shape == (len(made.segments), 12, 2500)
    assert 0 <= made.discarded_s < 5
    assert len(made.segments) * 5 + made.discarded_s == pytest.approx(signal.shape[1] / rate, abs=1 / 500)
