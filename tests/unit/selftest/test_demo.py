"""The demo: its recordings are hearts that obey Einthoven, its tables say what is true, its checkpoint loads."""

import hashlib
import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scipy.io
import torch
import wfdb

from ecgpipe import readers
from ecgpipe.cli import main
from ecgpipe.models import labels
from ecgpipe.readers import LEADS, Assumed, Recording, spell_leads
from ecgpipe.selftest import demo_recordings, simulator
from ecgpipe.selftest.synthetic_files import MIMIC_LEADS

pytest.importorskip("pydicom", reason="the demo's extra is not installed")

RECORDINGS = 100
FORMATS = {".hea": "wfdb", ".mat": "mat", ".csv": "csv", ".npz": "numpy", ".npy": "numpy", ".parquet": "parquet"}


def make(outdir: Path, recordings: int = 2, seed: int = 1) -> int:
    return main(["demo", "--outdir", str(outdir), "--recordings", str(recordings), "--seed", str(seed)])


def digests(folder: Path) -> dict[str, str]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    outdir = tmp_path_factory.mktemp("made") / "demo"
    assert make(outdir, recordings=RECORDINGS) == 0
    return outdir


@pytest.fixture(scope="module")
def table(demo: Path) -> pd.DataFrame:
    return pd.read_csv(demo / "recordings.csv")


@pytest.fixture(scope="module")
def hearts(demo: Path, table: pd.DataFrame) -> dict[str, Recording]:
    """By record id, as the project's readers read the simulated recordings."""
    assumed = Assumed(500.0, LEADS)
    rows = table[table["site"].notna()]
    return {
        record_id: readers.read(demo / path, FORMATS[Path(path).suffix], assumed)
        for record_id, path in zip(rows["record_id"], rows["path"], strict=True)
    }


def test_every_site_has_its_own_formats(demo: Path, table: pd.DataFrame) -> None:
    simulated = table[table["site"].notna()]
    assert len(simulated) == RECORDINGS
    found: dict[str, set[str]] = {}
    for site, path in zip(simulated["site"], simulated["path"], strict=True):
        found.setdefault(site, set()).add(Path(path).suffix)
    assert found == {"Northgate": {".hea"}, "Harbour": {".mat", ".csv"}, "Hillside": {".npz", ".npy", ".parquet"}}
    assert set.union(*found.values()) == set(FORMATS)
    assert all((demo / path).is_file() for path in table["path"])


def test_recordings_are_ten_seconds_of_hearts_that_obey_einthoven(
    hearts: dict[str, Recording], table: pd.DataFrame
) -> None:
    swapped = 0
    for record_id, heart in hearts.items():
        assert heart.signal.shape == (12, 10 * heart.sample_rate)
        assert heart.unit in ("mV", None)
        assert np.abs(heart.signal).max() < 9, record_id
        lead = dict(zip(spell_leads(heart.leads), heart.signal, strict=True))
        one, two, three = lead["I"], lead["II"], lead["III"]
        augmented = (lead["aVR"] + (one + two) / 2, lead["aVL"] - one + two / 2, lead["aVF"] - two + one / 2)
        off = max(float(np.abs(law).max()) for law in (one + three - two, *augmented))
        swapped += off > 1e-6
        assert off < 1e-6 or np.allclose(one + two, three, atol=1e-6), record_id
    assert swapped == RECORDINGS // 50
    assert {heart.sample_rate for heart in hearts.values()} == {250, 400, 500}


def test_each_copy_is_of_a_recording_and_the_others_differ(hearts: dict[str, Recording]) -> None:
    seen = {record_id: heart.signal.tobytes() for record_id, heart in hearts.items()}
    copies = [record_id for record_id in seen if record_id.endswith("_copy")]
    assert len(copies) == RECORDINGS // 50
    assert len(set(seen.values())) == RECORDINGS - len(copies)


def test_some_are_clipped(hearts: dict[str, Recording]) -> None:
    def held(heart: Recording) -> int:
        lead = heart.signal[spell_leads(heart.leads).index("V3")]
        return int((lead == lead.max()).sum() + (lead == lead.min()).sum())

    planned = demo_recordings.plan_recordings(RECORDINGS, 1)
    clipped = [one.record_id for one in planned if one.flaw == "clipped"]
    assert len(clipped) == RECORDINGS // 50
    assert all(held(hearts[record_id]) > 10 for record_id in clipped)


def test_patients_have_several_recordings_and_one_split(table: pd.DataFrame) -> None:
    patients = table[table["site"].notna()].groupby("patient_id")
    assert patients.size().max() > 1
    for column in ("site", "sex", "split"):
        assert (patients[column].nunique() == 1).all()
    assert table["age"].dropna().between(18, 98).all()
    assert set(table["sex"].dropna()) == {"F", "M"}
    share = (table["split"] == "test").sum() / RECORDINGS
    assert 0.55 < share < 0.8


def test_the_truth_has_each_label_and_each_recording(demo: Path, table: pd.DataFrame) -> None:
    truth = pd.read_csv(demo / "truth.csv").set_index("record_id")
    assert list(truth.columns) == list(simulator.LABELS)
    assert list(truth.index) == list(table["record_id"][table["site"].notna()])
    assert (truth.sum() >= 3).all()
    for record_id, finding in zip(table["record_id"], table["finding"], strict=True):
        assert pd.isna(finding) or truth.loc[record_id, finding] == 1


def test_truth_is_what_the_signals_show(hearts: dict[str, Recording], demo: Path) -> None:
    truth = pd.read_csv(demo / "truth.csv").set_index("record_id")
    rates = {}
    for one in demo_recordings.plan_recordings(RECORDINGS, 1):
        simulated = demo_recordings.simulate(one, 1)
        assert {name: bool(value) for name, value in truth.loc[one.record_id].items()} == simulated.labels()
        rates[one.record_id] = 60 / np.diff(simulated.beats.times_s).mean()
        if one.flaw is None:
            lead = spell_leads(hearts[one.record_id].leads).index("V5")
            assert np.abs(hearts[one.record_id].signal[lead] - simulated.signal[10]).max() < 1e-6
    assert all((rate < 60) == truth.loc[record_id, "Bradycardia"] for record_id, rate in rates.items())


def test_wfdb_comes_in_mimics_order_too(demo: Path) -> None:
    headers = demo.glob("recordings/northgate/*.hea")
    assert {tuple(wfdb.rdheader(str(path.with_suffix(""))).sig_name) for path in headers} == {LEADS, MIMIC_LEADS}


def test_the_real_recording_is_pydicoms(demo: Path) -> None:
    import pydicom.data

    source = pydicom.data.get_testdata_file("waveform_ecg.dcm", download=False)
    copy = demo / "recordings" / "real" / "pydicom_waveform_ecg.dcm"
    assert copy.read_bytes() == Path(str(source)).read_bytes()


def test_the_unusable_are_so_for_the_reason_in_their_name(demo: Path) -> None:
    folder = demo / "recordings" / "unusable"
    short = readers.read(folder / "too_short.mat", "mat", Assumed())
    assert short.signal.shape[1] == 4 * short.sample_rate
    names = wfdb.rdheader(str(folder / "missing_leads")).sig_name
    assert len(names) == 8
    assert not {"V5", "V6"} & set(names)
    assert np.isnan(readers.read(folder / "nan.npz", "numpy", Assumed()).signal).any()
    # By its size: what wfdb says of it depends on whether a debugger or a measurement of coverage looks on.
    header = wfdb.rdheader(str(folder / "truncated"))
    assert set(header.fmt) == {"16"}
    assert (folder / header.file_name[0]).stat().st_size < 2 * header.n_sig * header.sig_len
    with pytest.raises(ValueError):  # noqa: PT011
        wfdb.rdrecord(str(folder / "truncated"))
    with pytest.raises(ValueError, match="Unknown mat file"):
        scipy.io.loadmat(folder / "garbage.mat")
    assert (demo / "recordings" / "notes.txt").is_file()


def test_the_marker_lists_exactly_what_is_there(demo: Path) -> None:
    listed = json.loads((demo / "demo.json").read_text())["files"]
    assert sorted([*listed, "demo.json"]) == sorted(digests(demo))


def test_checkpoint_loads_as_plain_data_and_states_what_it_is(demo: Path) -> None:
    content = torch.load(demo / "checkpoint.pt", weights_only=True)
    assert content["ecgpipe"] == {"demo_model": True}
    assert content["args"] is None
    assert content["cfg"]["model"]["num_labels"] == len(simulator.LABELS)
    assert all(tensor.isfinite().all() for tensor in content["model"].values())
    assert [label.name for label in labels.read(demo / "labels.csv")] == list(simulator.LABELS)


def test_the_same_seed_gives_the_same_bytes(tmp_path: Path) -> None:
    assert [make(tmp_path / name, 6, seed) for name, seed in (("a", 1), ("b", 1), ("c", 2))] == [0, 0, 0]
    a, b, c = (digests(tmp_path / name) for name in "abc")
    assert a == b
    real = "recordings/real/pydicom_waveform_ecg"
    same = {f"{real}.dcm", "recordings/notes.txt", "checkpoint.pt", "labels.csv"}  # the model has no seed
    assert {name for name in a if a[name] == c.get(name)} == same


def test_a_complete_demo_is_left_alone(tmp_path: Path) -> None:
    assert make(tmp_path / "demo") == 0
    written = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    assert make(tmp_path / "demo") == 0
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == written


def test_other_settings_or_a_missing_file_make_it_anew_and_spare_what_is_the_users(tmp_path: Path) -> None:
    outdir = tmp_path / "demo"
    assert make(outdir) == 0
    mine = outdir / "recordings" / "real" / "mine.txt"
    mine.write_text("mine")
    before = digests(outdir)
    (outdir / "checkpoint.pt").unlink()
    assert make(outdir) == 0
    assert digests(outdir) == before
    assert make(outdir, recordings=1) == 0
    assert mine.read_text() == "mine"
    left = {path.relative_to(outdir).as_posix() for path in outdir.rglob("*") if path.is_file()}
    assert left == {*json.loads((outdir / "demo.json").read_text())["files"], "demo.json", "recordings/real/mine.txt"}


def test_a_run_that_was_cut_off_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    outdir = tmp_path / "demo"

    def cut_off() -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("ecgpipe.selftest.demo_model.read_content", cut_off)
        assert make(outdir) == 130
    assert (outdir / ".demo").is_file()
    assert not (outdir / "demo.json").exists()
    assert make(outdir) == 0
    assert (outdir / "demo.json").is_file()
    assert not (outdir / ".demo").exists()


def test_a_users_file_that_is_called_as_a_recording_of_a_larger_demo_is_not_replaced(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert make(tmp_path) == 0
    listed = json.loads((tmp_path / "demo.json").read_text())["files"]
    assert make(tmp_path / "larger", recordings=12) == 0
    new = sorted(set(json.loads((tmp_path / "larger" / "demo.json").read_text())["files"]) - set(listed))[0]
    (tmp_path / new).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / new).write_text("mine")
    link = tmp_path / listed[0]
    link.rename(tmp_path / "kept")
    link.symlink_to(tmp_path / "kept")
    assert make(tmp_path, recordings=12) == 2
    assert (tmp_path / new).read_text() == "mine"
    assert link.is_symlink()
    assert "exists and is not part of the demo; move it, or give another --outdir" in capsys.readouterr().err


def test_a_folder_of_the_users_is_refused(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    assert make(tmp_path) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize(
    "marker", ["{}", "[]", "not json", '{"version": "1", "files": ["../outside.txt"]}', '{"files": "thesis.tex"}']
)
def test_a_marker_that_is_not_ours_removes_nothing(tmp_path: Path, marker: str) -> None:
    outdir = tmp_path / "demo"
    outdir.mkdir()
    (tmp_path / "outside.txt").write_text("mine")
    (outdir / "demo.json").write_text(marker)
    assert make(outdir) == 2
    assert (tmp_path / "outside.txt").exists()
    assert (outdir / "demo.json").read_text() == marker


def test_an_empty_folder_will_do_and_a_file_will_not(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    assert make(tmp_path / "empty", recordings=1) == 0
    assert make(tmp_path / "file") == 2
    assert make(tmp_path / "none", recordings=0) == 2


def test_missing_extra_is_said_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "pydicom", None)
    assert make(tmp_path / "demo") == 2
    assert "pip install 'ecgpipe[demo]'" in capsys.readouterr().err
    assert not (tmp_path / "demo").exists()
