"""The demo: its recordings are hearts that obey Einthoven, its folders differ as named, its checkpoint loads."""

import hashlib
import json
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import scipy.io
import scipy.signal
import torch
import wfdb

from ecgpipe.cli import main
from ecgpipe.readers import LEADS
from ecgpipe.selftest.simulator import RHYTHMS
from ecgpipe.selftest.synthetic_files import MIMIC_LEADS

pytest.importorskip("neurokit2", reason="the demo's extra is not installed")
pytest.importorskip("pydicom", reason="the demo's extra is not installed")

Signal = npt.NDArray[np.float64]


def make(outdir: Path, recordings: int = 2, seed: int = 1) -> int:
    return main(["demo", "--outdir", str(outdir), "--recordings", str(recordings), "--seed", str(seed)])


def read(path: Path) -> tuple[Signal, int]:
    """The leads in the order of LEADS, mV, and the sampling rate."""
    match path.suffix:
        case ".hea":
            record = wfdb.rdrecord(str(path.with_suffix("")))
            assert set(record.units) == {"mV"}
            return record.p_signal.T[[record.sig_name.index(name) for name in LEADS]], record.fs
        case ".mat":
            mat = scipy.io.loadmat(path)
            assert mat["org_sample_size"].item() == mat["curr_sample_size"].item() == mat["feats"].shape[1]
            assert mat["org_sample_rate"].item() == mat["curr_sample_rate"].item()
            return mat["feats"].astype(np.float64), mat["org_sample_rate"].item()
        case ".npz":
            npz = np.load(path)
            assert npz["leads"].tolist() == list(LEADS)
            assert npz["unit"].item() == "mV"
            return npz["signal"].astype(np.float64), npz["sample_rate"].item()
        case _:
            return np.load(path).astype(np.float64), 500


def intervals(signal: Signal, rate: int) -> Signal:
    """Seconds from one QRS to the next, counted in lead II without what is slower than a QRS."""
    high = scipy.signal.sosfiltfilt(scipy.signal.butter(2, 2, "highpass", fs=rate, output="sos"), signal[1])
    peaks, _ = scipy.signal.find_peaks(high, height=0.5 * high.max(), distance=int(0.3 * rate))
    return np.asarray(np.diff(peaks) / rate)


def digests(folder: Path) -> dict[str, str]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    outdir = tmp_path_factory.mktemp("made") / "demo"
    assert make(outdir, recordings=36) == 0
    return outdir


@pytest.fixture(scope="module")
def hearts(demo: Path) -> dict[Path, tuple[Signal, int]]:
    folders = (demo / "recordings" / name for name in RHYTHMS)
    return {path: read(path) for folder in folders for path in sorted(folder.iterdir()) if path.suffix != ".dat"}


def test_every_folder_holds_every_format(hearts: dict[Path, tuple[Signal, int]]) -> None:
    assert len(hearts) == 36
    for rhythm in RHYTHMS:
        found = sorted((path.suffix, rate) for path, (_, rate) in hearts.items() if path.parent.name == rhythm)
        assert found == [(".hea", 250), (".hea", 500), (".mat", 400), (".mat", 500), (".npy", 500), (".npz", 500)]


def test_recordings_last_ten_seconds_and_differ(hearts: dict[Path, tuple[Signal, int]]) -> None:
    for signal, rate in hearts.values():
        assert signal.shape == (12, 10 * rate)
    assert len({signal[1, :100].tobytes() for signal, _ in hearts.values()}) == 36


def test_einthoven_and_goldberger_hold_in_every_format(hearts: dict[Path, tuple[Signal, int]]) -> None:
    for path, (signal, _) in hearts.items():
        one, two, three, avr, avl, avf = signal[:6]
        # WFDB holds whole microvolts, and all twelve leads are; the others hold float32.
        rounding = 1e-12 if path.suffix == ".hea" else 1e-6
        for law in (one + three - two, avr + (one + two) / 2, avl - (one - two / 2), avf - (two - one / 2)):
            assert np.abs(law).max() < rounding, path


def test_qrs_has_a_plausible_height(hearts: dict[Path, tuple[Signal, int]]) -> None:
    for path, (signal, _) in hearts.items():
        assert 0.5 < np.ptp(signal[1]) < 2.5, path
        assert np.abs(signal).max() < 4, path


def test_wfdb_comes_in_mimics_order_too(demo: Path) -> None:
    orders = [tuple(wfdb.rdheader(str(path.with_suffix(""))).sig_name) for path in demo.glob("recordings/*/*_00?.hea")]
    assert set(orders) == {LEADS, MIMIC_LEADS}


def test_rhythms_differ_as_named(hearts: dict[Path, tuple[Signal, int]]) -> None:
    rates: dict[str, list[float]] = {name: [] for name in RHYTHMS}
    spreads: dict[str, list[float]] = {name: [] for name in RHYTHMS}
    for path, (signal, rate) in hearts.items():
        seconds = intervals(signal, rate)
        rates[path.parent.name].append(60 / seconds.mean())
        spreads[path.parent.name].append(float(seconds.std() / seconds.mean()))
    assert max(rates["bradycardia"]) < 55 < min(rates["sinus"])
    assert max(rates["sinus"]) < 100 < min(rates["tachycardia"])
    assert min(spreads["irregular"]) > 0.1 > max(spreads["sinus"] + spreads["bradycardia"] + spreads["tachycardia"])


def test_wide_qrs_is_wider(hearts: dict[Path, tuple[Signal, int]]) -> None:
    widths: dict[str, list[float]] = {name: [] for name in RHYTHMS}
    for path, (signal, rate) in hearts.items():
        peaks, _ = scipy.signal.find_peaks(signal[1], height=0.6 * signal[1].max(), distance=int(0.3 * rate))
        widths[path.parent.name].append(float(np.median(scipy.signal.peak_widths(signal[1], peaks)[0]) / rate))
    assert min(widths["wide_qrs"]) > 2 * max(widths["sinus"])


def test_one_lead_of_each_noisy_recording_is_flat(hearts: dict[Path, tuple[Signal, int]]) -> None:
    for path, (signal, _) in hearts.items():
        assert int((np.ptp(signal, axis=1) == 0).sum()) == (path.parent.name == "noisy"), path


def test_the_real_recording_is_pydicoms(demo: Path) -> None:
    import pydicom.data

    source = pydicom.data.get_testdata_file("waveform_ecg.dcm", download=False)
    copy = demo / "recordings" / "real" / "pydicom_waveform_ecg.dcm"
    assert copy.read_bytes() == Path(str(source)).read_bytes()


def test_the_unusable_are_so_for_the_reason_in_their_name(demo: Path) -> None:
    folder = demo / "recordings" / "unusable"
    signal, rate = read(folder / "too_short.mat")
    assert signal.shape[1] == 4 * rate
    names = wfdb.rdheader(str(folder / "missing_leads")).sig_name
    assert len(names) == 8
    assert not {"V5", "V6"} & set(names)
    assert np.isnan(read(folder / "nan.npz")[0]).any()
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


def test_checkpoint_loads_as_plain_data_and_says_that_it_is_random(demo: Path) -> None:
    content = torch.load(demo / "checkpoint.pt", weights_only=True)
    assert content["ecgpipe"] == {"random_weights": True}
    assert content["args"] is None
    assert content["cfg"]["model"]["num_labels"] == 17
    assert content["model"]["proj.weight"].shape == (17, content["cfg"]["model"]["encoder_embed_dim"])
    assert all(tensor.isfinite().all() for tensor in content["model"].values())


def test_the_same_seed_gives_the_same_bytes(tmp_path: Path) -> None:
    assert [make(tmp_path / name, 6, seed) for name, seed in (("a", 1), ("b", 1), ("c", 2))] == [0, 0, 0]
    a, b, c = (digests(tmp_path / name) for name in "abc")
    assert a == b
    real = "recordings/real/pydicom_waveform_ecg"
    assert {name for name in a if a[name] == c[name]} == {f"{real}.dcm", "recordings/notes.txt"}


def test_a_complete_demo_is_left_alone(tmp_path: Path) -> None:
    assert make(tmp_path / "demo") == 0
    written = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    assert make(tmp_path / "demo") == 0
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == written


def test_other_settings_or_a_missing_file_make_it_anew_and_spare_what_is_the_users(tmp_path: Path) -> None:
    outdir = tmp_path / "demo"
    assert make(outdir) == 0
    mine = outdir / "recordings" / "sinus" / "mine.txt"
    mine.write_text("mine")
    before = digests(outdir)
    (outdir / "checkpoint.pt").unlink()
    assert make(outdir) == 0
    assert digests(outdir) == before
    assert make(outdir, recordings=1) == 0
    assert mine.read_text() == "mine"
    assert sorted(path.name for path in (outdir / "recordings").iterdir()) == ["notes.txt", "real", "sinus", "unusable"]


def test_a_run_that_was_cut_off_is_made_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    outdir = tmp_path / "demo"

    def cut_off(seed: int) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("ecgpipe.selftest.synthetic_checkpoint.demo", cut_off)
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
    (tmp_path / new).parent.mkdir(exist_ok=True)
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
    monkeypatch.setitem(sys.modules, "neurokit2", None)
    assert make(tmp_path / "demo") == 2
    assert "pip install 'ecgpipe[demo]'" in capsys.readouterr().err
    assert not (tmp_path / "demo").exists()
