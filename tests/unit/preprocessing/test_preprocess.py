"""Preprocessing a shard: the segments are those of ECG-FM's tutorial, and every recording is accounted for."""

import faulthandler
import io
import os
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

from ecgpipe import readers
from ecgpipe.cli import main
from ecgpipe.core import model_input, parquet, provenance, schemas, settings
from ecgpipe.core.errors import EcgpipeError
from ecgpipe.core.stored_segments import read_segments
from ecgpipe.models.registry import find_family
from ecgpipe.preprocessing import preprocess, segment_writer
from ecgpipe.readers import LEADS, Recording

RATES = (100, 250, 257, 360, 400, 500, 1000)
MIMIC_LEADS = ("I", "II", "III", "aVR", "aVF", "aVL", "V1", "V2", "V3", "V4", "V5", "V6")
# pytest writes pages about a crash, also about one that a test is meant to see in a process of its own.
os.register_at_fork(after_in_child=faulthandler.disable)

FORMATS = {".hea": "wfdb", ".mat": "mat", ".npz": "numpy", ".npy": "numpy"}


def noise(samples: int, seed: int = 0) -> np.ndarray:
    """(12, samples), each lead with a mean and a spread of its own."""
    random = np.random.default_rng(seed)
    signal: np.ndarray = random.standard_normal((12, samples)) * random.uniform(0.1, 3, (12, 1)) + random.normal(
        0, 1, (12, 1)
    )
    return signal


def tutorial(signal: np.ndarray, rate: float, leads: Sequence[str] = LEADS, length: int = 2500) -> np.ndarray:
    """What ECG-FM's notebook (infer_quickstart.ipynb) makes of a recording: (segments, 12, length)."""
    sample = ECGSample(
        ECGInput(signal, ECGMetadata(rate, signal.shape[1], list(leads), "mV", 0, signal.shape[1])),
        ECGInputSchema(sample_rate=500, expected_lead_order=list(LEADS), required_num_samples=length),
        [
            ReorderLeads(list(LEADS), missing_lead_strategy="raise"),
            LinearResample(500),
            HandleConstantLeads(strategy="zero"),
            Standardize(),
            SegmentNonoverlapping(length),
        ],
    )
    segments: np.ndarray = sample.out
    return segments


def write(path: Path, signal: np.ndarray, rate: float = 500, leads: Sequence[str] = LEADS) -> Path:
    np.savez(path, signal=signal, sample_rate=rate, leads=leads)
    return path


class Preprocessed:
    """A shard that went through the stage's command."""

    def __init__(self, folder: Path, paths: Sequence[Path], *options: str, **stated: object) -> None:
        rows = [{"record_id": p.stem, "path": str(p), "format": FORMATS[p.suffix], **stated} for p in paths]
        shard = pa.Table.from_pylist(rows, schema=schemas.MANIFEST)
        self.run(folder, shard, *options)

    def run(self, folder: Path, shard: pa.Table, *options: str) -> None:
        out = folder / "out"
        parquet.write(folder / "shard-00000.parquet", shard)
        written = ["--segments", str(out / "x.arrow"), "--records", str(out / "x.parquet")]
        assert main(["preprocess", "--shard", str(folder / "shard-00000.parquet"), *written, *options]) == 0
        assert {path.name for path in out.iterdir()} == {"x.arrow", "x.parquet"}
        with pa.memory_map(str(out / "x.arrow")) as file, pa.ipc.open_file(file) as reader:
            self.batches = [reader.get_batch(i).num_rows for i in range(reader.num_record_batches)]
            self.segments: pa.Table = reader.read_all()
        self.signals = read_segments(out / "x.arrow")[1]  # (segments, 12, samples)
        self.records: pa.Table = pq.read_table(out / "x.parquet")

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


@pytest.mark.parametrize("seconds", [1, 2.5, 10])
@pytest.mark.parametrize("rate", [257, 500])
def test_segments_of_another_length_are_those_of_the_tutorial_too(rate: int, seconds: float, tmp_path: Path) -> None:
    path = write(tmp_path / "x.npz", noise(int(10.7 * rate)), rate)
    made = Preprocessed(tmp_path, [path], "--segment-s", str(seconds))
    expected = tutorial(noise(int(10.7 * rate)), rate, length=int(500 * seconds))
    assert expected.shape == (int(10.7 / seconds), 12, int(500 * seconds))
    np.testing.assert_allclose(made.signals, expected, rtol=0, atol=1e-6)
    assert made.segments["start_s"].to_pylist() == [seconds * i for i in range(len(expected))]


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
    paths = []
    for position, name in enumerate(MIMIC_LEADS):
        signal = np.zeros((12, 2500))
        signal[position, 1250:] = 1
        paths.append(write(tmp_path / f"{name}.npz", signal, leads=MIMIC_LEADS))
    made = Preprocessed(tmp_path, paths)
    for name, segment in zip(made.ids, made.signals, strict=True):
        assert [lead for lead, row in zip(LEADS, segment, strict=True) if row.any()] == [name]
        assert made.record(name)["constant_leads"] == [lead for lead in LEADS if lead != name]


def test_a_recording_gets_the_same_whatever_its_neighbours(tmp_path: Path) -> None:
    paths = [write(tmp_path / f"{i}.npz", noise(6000, i)) for i in range(4)]
    together = Preprocessed(tmp_path, paths)
    for i, path in enumerate(paths):
        alone = Preprocessed(tmp_path, [path])
        rows = [row for row, record_id in enumerate(together.ids) if record_id == str(i)]
        np.testing.assert_array_equal(alone.signals, together.signals[rows])


# The account


def test_the_status_list_states_what_became_of_each_recording(tmp_path: Path) -> None:
    signal = noise(5600)
    flat, holes = signal.copy(), signal.copy()
    flat[[0, 7]] = 3
    holes[1, 100], holes[2, 5], holes[3] = np.nan, np.inf, np.nan
    paths = [
        write(tmp_path / "good.npz", signal),
        write(tmp_path / "flat.npz", flat),
        write(tmp_path / "holes.npz", holes),
        write(tmp_path / "short.npz", signal[:, :2400]),
        write(tmp_path / "none.npz", signal[:, :0]),
        write(tmp_path / "seven.npz", signal[:7], leads=LEADS[:7]),
        write(tmp_path / "twice.npz", signal, leads=(*LEADS[:11], "v1")),
        write(tmp_path / "slow.npz", signal, rate=3),
        write(tmp_path / "backwards.npz", signal, rate=-500),
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
    assert made.segments["samples"].to_pylist() == [2500] * 6
    good = made.record("good")
    assert (good["status"], good["reason"], good["n_segments"], good["format"]) == ("ok", None, 2, "numpy")
    assert (good["sample_rate"], good["duration_s"], good["constant_leads"]) == (500, 11.2, [])
    assert (good["leads"], good["unit"], good["stripped_s"]) == (list(LEADS), None, 0)
    assert good["discarded_s"] == pytest.approx(1.2)
    assert made.record("flat")["constant_leads"] == ["I", "V2"]
    assert made.record("holes")["nan_share"] == pytest.approx(5602 / (12 * 5600))
    unused = {
        name: (made.record(name)["status"], made.record(name)["reason"])
        for name in made.records["record_id"].to_pylist()
    }
    assert unused.pop("garbage")[1].startswith("not a readable MATLAB file")
    assert {name: why for name, why in unused.items() if why[0] != "ok"} == {
        "holes": ("skipped", "NaN or infinite samples (II III aVR)"),
        "short": ("skipped", "shorter than one segment of 5 s (4.800 s)"),
        "none": ("skipped", "the recording has no samples"),
        "seven": ("skipped", "leads missing (V2 V3 V4 V5 V6)"),
        "twice": ("skipped", "a lead is there twice (V1)"),
        "slow": ("skipped", "the sampling rate is out of range (3 Hz)"),
        "backwards": ("skipped", "the sampling rate is out of range (-500 Hz)"),
        "norate": ("skipped", "the sampling rate is out of range (nan Hz)"),
        "endless": ("skipped", "samples too large to be meant (I II III aVR aVL aVF V1 V2 V3 V4 V5 V6)"),
        "gone": ("failed", "a file is not there (gone.mat)"),
    }
    assert all(row["n_segments"] == 0 for row in made.records.to_pylist() if row["status"] != "ok")


def test_the_records_state_what_was_changed(tmp_path: Path) -> None:
    order = [LEADS.index(lead) for lead in ("V1", "II", "V2", "I")]
    leads = [LEADS[i] for i in order]
    path = write(tmp_path / "x.npz", noise(1000)[order], 250, leads)
    made = Preprocessed(
        tmp_path, [path], "--segment-s", "3", "--tail", "overlap", "--missing-leads", "zero", stated_unit="uV"
    ).record("x")
    assert (made["status"], made["unit"], made["leads"]) == ("ok", "mV", leads)
    assert (made["sample_rate"], made["resampled_from"], made["duration_s"]) == (250, 250, 4)
    assert made["leads_reordered"]
    assert (made["derived_leads"], made["missing_leads"]) == (["III", "aVR", "aVL", "aVF"], ["V3", "V4", "V5", "V6"])
    assert (made["n_segments"], made["overlap_s"], made["padded_s"], made["discarded_s"]) == (2, 2, 0, 0)
    assert made["amplitude_mv_V1"] == pytest.approx(np.ptp(noise(1000)[6]) / 1000)
    assert made["amplitude_mv_III"] is None


def test_a_padded_segment_states_how_much_of_it_is_signal(tmp_path: Path) -> None:
    made = Preprocessed(tmp_path, [write(tmp_path / "x.npz", noise(1000), 250)], "--short", "pad")
    assert made.segments["samples"].to_pylist() == [2000]
    np.testing.assert_allclose(made.signals[..., :2000], tutorial(noise(1000), 250, length=2000), rtol=0, atol=1e-6)
    assert not made.signals[..., 2000:].any()
    assert made.record("x")["padded_s"] == 1


# What the manifest says


def test_a_row_with_a_problem_is_not_read(tmp_path: Path) -> None:
    made = Preprocessed(tmp_path, [write(tmp_path / "x.npz", noise(2500))], problem="the table has no path")
    assert (made.record("x")["status"], made.record("x")["reason"]) == ("failed", "the table has no path")


def test_what_a_table_states_fills_in_and_goes_before_the_settings(tmp_path: Path) -> None:
    order = [LEADS.index(lead) for lead in MIMIC_LEADS]
    np.save(tmp_path / "x.npy", 1000 * noise(2500)[order])
    settings = ["--assume-sample-rate", "100", "--assume-leads", *LEADS, "--assume-unit", "V"]
    stated = {"stated_sample_rate": 250.0, "stated_leads": list(MIMIC_LEADS), "stated_unit": "uV"}
    made = Preprocessed(tmp_path, [tmp_path / "x.npy"], *settings, **stated)
    np.testing.assert_allclose(made.signals, tutorial(noise(2500), 250), rtol=0, atol=1e-6)
    assert made.record("x")["amplitude_mv_V6"] == pytest.approx(np.ptp(noise(2500)[11]))


def test_a_file_that_contradicts_its_table_is_not_taken(tmp_path: Path) -> None:
    path = write(tmp_path / "x.npz", noise(2500), 250)
    for stated, reason in (
        ({"stated_sample_rate": 500.0}, "the table's sampling rate is not the file's own (500 Hz and 250 Hz)"),
        ({"stated_leads": list(MIMIC_LEADS)}, "the table's leads are not the file's own "),
    ):
        made = Preprocessed(tmp_path, [path], **stated).record("x")
        assert made["status"] == "failed"
        assert made["reason"].startswith(reason)
    same = {"stated_sample_rate": 250.0, "stated_leads": [lead.upper() for lead in LEADS]}
    assert Preprocessed(tmp_path, [path], **same).record("x")["status"] == "ok"


def test_a_tables_leads_take_the_place_of_names_that_are_ignored(tmp_path: Path) -> None:
    order = [LEADS.index(lead) for lead in MIMIC_LEADS]
    path = write(tmp_path / "x.npz", noise(2500)[order], leads=[f"ch{i}" for i in range(12)])
    assert Preprocessed(tmp_path, [path]).record("x")["reason"].startswith("none of its leads is known by name (ch0 ")
    made = Preprocessed(tmp_path, [path], stated_leads=list(MIMIC_LEADS))
    np.testing.assert_allclose(made.signals, tutorial(noise(2500), 500), rtol=0, atol=1e-6)


def test_further_columns_of_the_inputs_follow_the_account(tmp_path: Path) -> None:
    paths = [write(tmp_path / "a.npz", noise(2500)), tmp_path / "gone.npz"]
    made = Preprocessed(tmp_path, paths)
    shard = pq.read_table(tmp_path / "shard-00000.parquet")
    made.run(tmp_path, shard.append_column("age", pa.array([61, None])).append_column("fold", pa.array(["x", "y"])))
    assert made.records.column_names == [*schemas.RECORDS.names, "age", "fold"]
    assert made.records["age"].to_pylist() == [61, None]
    assert made.records["status"].to_pylist() == ["ok", "failed"]


# Files that a library crashes on


def crashing_mat(complex_flag: int) -> bytes:
    """A MATLAB file of 12 x 2500, whose array calls itself complex if the flag is 8, but has no imaginary part."""
    file = io.BytesIO()
    scipy.io.savemat(file, {"feats": noise(2500).astype(np.float32), "curr_sample_rate": 500.0})
    data = bytearray(file.getvalue())
    # After the file's header of 128 bytes: two tags of 8, then the array's class (single, 7) and its flags.
    assert data[144:146] == b"\x07\x00"
    data[145] = complex_flag
    return bytes(data)


def test_a_file_that_crashes_its_library_is_one_failed_row(tmp_path: Path) -> None:
    paths = [tmp_path / f"{name}.mat" for name in ("first", "crash", "between", "again", "last")]
    for path in paths:
        path.write_bytes(crashing_mat(8 if path.stem in ("crash", "again") else 0))
    made = Preprocessed(tmp_path, paths)
    assert made.ids == ["first", "between", "last"]
    assert made.records["record_id"].to_pylist() == [path.stem for path in paths]
    assert made.records["status"].to_pylist() == ["ok", "failed", "ok", "failed", "ok"]
    reason = made.record("crash")["reason"]  # the second where scipy came to notice
    assert reason.startswith(("so damaged that reading it crashed (SIG", "not a readable MATLAB file ("))
    feats = noise(2500).astype(np.float32)
    np.testing.assert_allclose(made.signals, np.stack([tutorial(feats, 500)[0]] * 3), rtol=0, atol=1e-5)


def test_a_file_that_states_nothing_is_read_as_the_settings_say(tmp_path: Path) -> None:
    order = [LEADS.index(lead) for lead in MIMIC_LEADS]
    np.save(tmp_path / "x.npy", noise(2500)[order])
    options = ["--assume-sample-rate", "250", "--assume-leads", *MIMIC_LEADS]
    made = Preprocessed(tmp_path, [tmp_path / "x.npy"], *options)
    np.testing.assert_allclose(made.signals, tutorial(noise(2500), 250), rtol=0, atol=1e-6)
    settings_written = provenance.read_origin(made.segments.schema)["preprocess"]
    assert (settings_written["assume_sample_rate"], settings_written["assume_leads"]) == (250, list(MIMIC_LEADS))
    assert (settings_written["tail"], settings_written["short"], settings_written["segment_s"]) == ("drop", "skip", 5)
    assert "set preprocess.assume_sample_rate" in Preprocessed(tmp_path, [tmp_path / "x.npy"]).record("x")["reason"]


def test_a_shard_of_which_nothing_can_be_used_is_an_empty_file(tmp_path: Path) -> None:
    made = Preprocessed(tmp_path, [write(tmp_path / "short.npz", noise(100))])
    assert len(made.segments) == 0
    assert made.signals.shape == (0, 12, 2500)
    assert len(made.records) == 1


def test_segments_come_in_batches_of_bounded_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segment_writer, "BATCH_SEGMENTS", 4)
    paths = [write(tmp_path / f"{i}.npz", noise(7500, i)) for i in range(3)]
    made = Preprocessed(tmp_path, paths)
    assert made.batches == [4, 4, 1]
    assert made.ids == [str(i) for i in range(3) for _ in range(3)]
    np.testing.assert_allclose(
        made.signals, np.concatenate([tutorial(noise(7500, i), 500) for i in range(3)]), atol=1e-6
    )


def test_both_files_state_how_they_were_made(tmp_path: Path) -> None:
    made = Preprocessed(tmp_path, [write(tmp_path / "x.npz", noise(2500))])
    assert made.records.schema.remove_metadata() == schemas.RECORDS
    for schema in (made.segments.schema, made.records.schema):
        origin = provenance.read_origin(schema)
        assert origin["stage"] == "preprocess"
        assert origin["preprocess"]["leads"] == list(LEADS)
        assert (origin["preprocess"]["sample_rate"], origin["preprocess"]["segment_samples"]) == (500, 2500)


def test_the_stage_function_writes_what_the_command_writes(tmp_path: Path) -> None:
    path = write(tmp_path / "x.npz", noise(2600, seed=1), 250)
    command = Preprocessed(tmp_path, [path], "--segment-s", "2.5", "--tail", "overlap", "--assume-unit", "uV")
    reading = settings.Preprocess(segment_s=2.5, tail="overlap", assume_unit="uV")
    shard, segments, records = (tmp_path / name for name in ("shard-00000.parquet", "x.arrow", "x.parquet"))
    preprocess.preprocess_shard(shard, segments, records, reading)
    assert segments.read_bytes() == (tmp_path / "out" / "x.arrow").read_bytes()
    assert pq.read_table(records).equals(command.records, check_metadata=True)


def test_several_models_get_what_each_gets_by_itself_of_one_reading(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = [write(tmp_path / f"{samples}.npz", noise(samples)) for samples in (6000, 3500)]
    (tmp_path / "damaged.npz").write_bytes(b"PK")
    Preprocessed(tmp_path, [*files, tmp_path / "damaged.npz"])
    shard = tmp_path / "shard-00000.parquet"
    inputs = [
        None,
        *(model_input.dump_input(find_family(name).choose_input({})) for name in ("ecgfounder", "ecg-jepa")),
    ]
    windows_s = (5, 10, 10)
    several = [
        settings.Preprocess(segment_s=window_s, model_input=each, assume_unit="mV")
        for window_s, each in zip(windows_s, inputs, strict=True)
    ]

    def task(folder: str, number: int) -> preprocess.Task:
        return preprocess.Task(
            several[number], *(tmp_path / folder / str(number) / name for name in ("x.arrow", "x.pq"))
        )

    for number in range(3):
        preprocess.preprocess_for_models(shard, [task("alone", number)])
    read = readers.read
    times = tmp_path / "times"

    def counted(path: Path, *more: object) -> Recording:
        with times.open("a") as file:  # the reading goes on in another process
            file.write(f"{path}\n")
        return read(path, *more)  # type: ignore[arg-type]

    monkeypatch.setattr(readers, "read", counted)
    together = [task("together", number) for number in range(3)]
    preprocess.preprocess_for_models(shard, together)
    named = times.read_text().splitlines()
    assert len(named) == len(set(named)) >= len(files)
    for number, (_, segments, records) in enumerate(together):
        alone = task("alone", number)
        assert segments.read_bytes() == alone.segments.read_bytes()
        assert pq.read_table(records).equals(pq.read_table(alone.records), check_metadata=True)
    statuses = [pq.read_table(one.records)["status"].to_pylist() for one in together]
    # Seven seconds are too short for the models with windows of ten, and for those alone.
    assert statuses[0] == ["ok", "ok", "failed"]
    assert statuses[1] == statuses[2] == ["ok", "skipped", "failed"]


def test_models_that_differ_in_what_is_assumed_of_files_are_refused(tmp_path: Path) -> None:
    tasks = [
        preprocess.Task(settings.Preprocess(assume_unit=unit), tmp_path / "x.arrow", tmp_path / "x.parquet")
        for unit in ("mV", "uV")
    ]
    with pytest.raises(EcgpipeError, match="differ"):
        preprocess.preprocess_for_models(tmp_path / "shard-00000.parquet", tasks)
